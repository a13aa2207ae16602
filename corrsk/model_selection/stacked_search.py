"""Grid search that trains the networks of its candidates together on a GPU.

A network as small as the paper's CNN leaves a GPU idle: launching a training step takes longer
than executing it. :class:`StackedGridSearchCV` trains many networks at a time, as one stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from numbers import Integral
from typing import Any

import joblib
import numpy as np
from sklearn.model_selection import GridSearchCV, check_cv
from sklearn.utils._param_validation import Interval, StrOptions

from corrsk._utils.pickles import EarlierPicklesMixin
from corrsk.model_selection._prefetch import (
    STACKED_CLASSES,
    PrefetchedFits,
    last_step,
    unwatch,
)
from corrsk.neural.training.device import resolve_device


class StackedGridSearchCV(EarlierPicklesMixin, GridSearchCV):
    """GridSearchCV that trains the networks of its candidates together on a GPU.

    Replaces scikit-learn's `GridSearchCV` for a `CorrelationCNNClassifier`, a
    `ResidualMLPClassifier`, or a Pipeline that ends in one of them. Candidates and folds whose
    networks have the same shape are trained as one stack. The members of a stack may differ in
    learning rate and its schedule, momentum, weight decay, dropout, seed, class weights,
    `softmax_before_loss`, and in their signals. Candidates that differ in other parameters of the
    classifier (`batch_size`, `max_epochs`, `width`, ..) form separate stacks; fits that cannot be
    stacked run as in GridSearchCV.

    Parameters
    ----------
    estimator : classifier or Pipeline
        CorrelationCNNClassifier, ResidualMLPClassifier, or a Pipeline that ends in one of them.
        Any other estimator is searched as in GridSearchCV.
    param_grid : dict or list of dict
        Parameter values to try, as in GridSearchCV.
    scoring : str, callable, list, tuple or dict, default=None
        As in GridSearchCV.
    n_jobs : int or None, default=None
        As in GridSearchCV. If stacks are trained, the workers are threads; each of them scores,
        and fits what is not stacked, on one core.
    refit : bool, str or callable, default=True
        As in GridSearchCV.
    cv : int, splitter or iterable, default=None
        As in GridSearchCV.
    verbose : int, default=0
        As in GridSearchCV.
    pre_dispatch : int or str, default="2*n_jobs"
        As in GridSearchCV.
    error_score : "raise" or float, default=nan
        As in GridSearchCV.
    return_train_score : bool, default=False
        As in GridSearchCV.
    stack : "auto" or bool, default="auto"
        Whether to train in stacks; "auto" trains in stacks if the classifier's device is a GPU.
        On the processor a stack is slower than single fits with the compiled kernels.
    max_stack : int, default=128
        Largest number of networks in a stack. The paper's CNN takes about 12 kB for each signal
        of a batch of each network, and the signals of all folds are kept on the device. A stack
        that exceeds the memory of the GPU is trained in halves.

    Notes
    -----
    The attributes are those of GridSearchCV. The scores of a candidate are those of a separate
    fit, except for the order of summation and the random numbers of dropout.
    A candidate that diverges gets `error_score` and does not affect the others.

    Not stacked are: a `ModuleClassifier`; the optimiser "muon"; trainings with a validation
    set, early stopping, a checkpoint, or ``backend="numba"``; subclasses of the classifiers;
    and all fits of a search whose `fit` gets more than X, y and `groups`.

    The steps of a Pipeline before the classifier are fitted once for each fold and combination
    of their parameters, and their output is kept in memory during the search, as with a
    Pipeline's `memory`. The noise of a generator without a seed is therefore the same for all
    candidates, whereas GridSearchCV draws new noise for each candidate.

    The fit times in `cv_results_` are shares: each member of a stack has the time of
    the stack divided by the number of its members.

    Examples
    --------
    >>> from corrsk import CorrelationCNNClassifier, StackedGridSearchCV, make_correlation_signals
    >>> X, y = make_correlation_signals(500, random_state=0)
    >>> search = StackedGridSearchCV(
    ...     CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=2, random_state=0),
    ...     {"learning_rate": [0.001, 0.01], "weight_decay": [0.0, 0.01]},
    ...     cv=3, stack=True,
    ... )
    >>> search.fit(X, y).cv_results_["mean_test_score"].shape
    (4,)
    """

    estimator: Any
    cv: Any
    _parameter_constraints: dict[str, list[Any]] = {
        **GridSearchCV._parameter_constraints,
        "stack": [StrOptions({"auto"}), "boolean"],
        "max_stack": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        estimator: Any,
        param_grid: Any,
        *,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: Any = "2*n_jobs",
        error_score: Any = np.nan,
        return_train_score: bool = False,
        stack: Any = "auto",
        max_stack: int = 128,
    ) -> None:
        super().__init__(
            estimator, param_grid, scoring=scoring, n_jobs=n_jobs, refit=refit, cv=cv,
            verbose=verbose, pre_dispatch=pre_dispatch, error_score=error_score,
            return_train_score=return_train_score,
        )  # fmt: skip
        self.stack = stack
        self.max_stack = max_stack

    def fit(self, X: Any, y: Any = None, **params: Any) -> StackedGridSearchCV:
        """Search for the best candidate, and fit it on all signals.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or DataFrame
            Signals, or the tissue table that the Pipeline simulates signals from.
        y : array of shape (n_samples,)
            Labels.
        **params : dict
            As in GridSearchCV; nothing is stacked with parameters other than `groups`.

        Returns
        -------
        StackedGridSearchCV
            The search itself.

        Raises
        ------
        ValueError
            For the same reasons as in GridSearchCV.
        """
        if y is None or not params.keys() <= {"groups"} or not self._wants_stacks():
            return super().fit(X, y, **params)
        # scikit-learn's search reads its estimator and its splits from attributes: during the
        # search these hold an estimator with prefetched fits, and splits that are repeatable
        given = self.estimator, self.cv
        self._prefetched = PrefetchedFits(self.max_stack, any_device=self.stack != "auto")
        self.estimator = self._prefetched.watched(self.estimator)
        try:
            self.cv = check_cv(self.cv, y, classifier=True)
            # threads share the trained networks, which would have to be sent to processes
            with joblib.parallel_config("threading"):
                return super().fit(X, y, **params)
        finally:
            unwatch(self.estimator)
            self.estimator, self.cv = given
            del self._prefetched

    def _wants_stacks(self) -> bool:
        classifier = last_step(self.estimator)
        if type(classifier) not in STACKED_CLASSES:
            return False
        if self.stack != "auto":
            return bool(self.stack)
        with suppress(ValueError):  # the fits raise the error of an invalid device
            return bool(resolve_device(classifier.device).type == "cuda")
        return False

    def _run_search(self, evaluate_candidates: Any, *, callback_ctx: Any = None) -> None:
        context = {} if callback_ctx is None else {"callback_ctx": callback_ctx}
        prefetched: PrefetchedFits | None = getattr(self, "_prefetched", None)
        if prefetched is None:
            super()._run_search(evaluate_candidates, **context)
            return

        def evaluate(candidates: Iterable[dict[str, Any]], **options: Any) -> Any:
            candidates = list(candidates)
            cv = _Splitter(
                self.cv,
                lambda X, y, splits: prefetched.train(self.estimator, candidates, X, y, splits),
            )
            return evaluate_candidates(candidates, cv=cv, **options)

        super()._run_search(evaluate, **context)
        prefetched.is_over = True

    def _format_results(
        self, candidate_params: Any, n_splits: int, out: Any, more_results: Any = None
    ) -> Any:
        prefetched: PrefetchedFits | None = getattr(self, "_prefetched", None)
        if prefetched is not None:
            out = [
                {**fitted, "fit_time": fitted["fit_time"] + seconds}
                for fitted, seconds in zip(out, prefetched.seconds, strict=True)
            ]
        return super()._format_results(candidate_params, n_splits, out, more_results)


class _Splitter:
    """Splitter that passes the data and the splits to a callback before the search begins.

    Parameters
    ----------
    cv : splitter
        The splitter of the search.
    see : callable
        Called with X, y and the list of splits.
    """

    def __init__(self, cv: Any, see: Callable[[Any, Any, list[Any]], None]) -> None:
        self._cv = cv
        self._see = see

    def split(self, X: Any, y: Any = None, **params: Any) -> list[Any]:
        splits = list(self._cv.split(X, y, **params))
        self._see(X, y, splits)
        return splits
