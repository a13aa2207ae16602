"""Baselines: classical learners as ready pipelines.

Each pipeline takes signals of any scale, normalises them, and predicts the number of
compartments, with settings that suit tens of measurements and thousands to
hundreds of thousands of signals.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    has_fit_parameter,
    validate_data,
)

from corrsk._utils.extras import install_command
from corrsk._utils.pickles import EarlierPicklesMixin
from corrsk._utils.probabilities import LogProbabilityMixin
from corrsk._utils.validation import lookup, refuse_unusable
from corrsk.preprocessing.normalizer import SignalNormalizer

__all__ = [
    "BASELINES",
    "Baseline",
    "EncodedLabelsClassifier",
    "ScaledBatchClassifier",
    "available_baselines",
    "make_baseline",
]

_Steps = Sequence[Any]


class _FittedInside(
    LogProbabilityMixin,
    ClassifierMixin,
    MetaEstimatorMixin,
    EarlierPicklesMixin,
    BaseEstimator,
):
    """Base class of classifiers that predict with a fitted `estimator_`."""

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict class probabilities.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements)
            Signals.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probability of each class, in the order of `classes_`.
        """
        check_is_fitted(self)
        refuse_unusable(X)
        return np.asarray(self.estimator_.predict_proba(validate_data(self, X, reset=False)))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict the most probable class.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements)
            Signals.

        Returns
        -------
        ndarray of shape (n_samples,)
            Predicted labels.
        """
        probabilities = self.predict_proba(X)  # first: raises NotFittedError
        labels: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return labels

    def _weights(self, sample_weight: ArrayLike | None, X: ArrayLike) -> dict[str, Any]:
        """Arguments of the inner fit: validated sample weights, if given."""
        if sample_weight is None:
            return {}
        if self.estimator is not None and not has_fit_parameter(self.estimator, "sample_weight"):
            raise TypeError(
                f"{type(self.estimator).__name__} has no sample weights; leave sample_weight None"
            )
        return {"sample_weight": _check_sample_weight(sample_weight, X)}


class EncodedLabelsClassifier(_FittedInside):
    """Adapter of a classifier that requires the labels 0, 1, .. to labels of any kind.

    Parameters
    ----------
    estimator : classifier, default=None
        The classifier, fitted to the positions of the labels; None for logistic regression.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    estimator_ : classifier
        The fitted classifier.
    """

    _parameter_constraints: dict[str, Any] = {"estimator": [HasMethods("fit"), None]}

    def __init__(self, estimator: Any = None) -> None:
        self.estimator = estimator

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> EncodedLabelsClassifier:
        """Fit the classifier.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements)
            Signals.
        y : array of shape (n_samples,)
            Labels.
        sample_weight : array of shape (n_samples,), optional
            Weight of each signal, if the classifier has sample weights.

        Returns
        -------
        EncodedLabelsClassifier
            The classifier itself.

        Raises
        ------
        TypeError
            If `sample_weight` is given, and the classifier has no sample weights.
        """
        self._validate_params()
        refuse_unusable(X)
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, positions = np.unique(y, return_inverse=True)
        estimator = LogisticRegression() if self.estimator is None else self.estimator
        self.estimator_ = clone(estimator)
        self.estimator_.fit(X, positions, **self._weights(sample_weight, X))
        return self


class ScaledBatchClassifier(_FittedInside):
    """Classifier whose batch size is proportional to the number of signals.

    Small data need small batches, since an epoch has too few steps otherwise; large
    batches save time on large data.

    Parameters
    ----------
    estimator : classifier, default=None
        Classifier with a parameter `batch_size`; None for scikit-learn's `MLPClassifier`. Its
        warning at `max_iter` is suppressed, because the number of epochs is intended.
    share : float, default=0.02
        Batch size over number of signals; the batch size is clipped to 16..500.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    estimator_ : classifier
        The fitted classifier.
    """

    _parameter_constraints: dict[str, Any] = {
        "estimator": [HasMethods("fit"), None],
        "share": [Interval(Real, 0, 1, closed="right")],
    }

    def __init__(self, estimator: Any = None, share: float = 0.02) -> None:
        self.estimator = estimator
        self.share = share

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> ScaledBatchClassifier:
        """Fit the classifier.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements)
            Signals.
        y : array of shape (n_samples,)
            Labels.
        sample_weight : array of shape (n_samples,), optional
            Weight of each signal, if the classifier has sample weights.

        Returns
        -------
        ScaledBatchClassifier
            The classifier itself.

        Raises
        ------
        TypeError
            If `sample_weight` is given, and the classifier has no sample weights.
        """
        self._validate_params()
        refuse_unusable(X)
        signals, labels = validate_data(self, X, y)
        check_classification_targets(labels)
        estimator = clone(MLPClassifier() if self.estimator is None else self.estimator)
        batch_size = int(np.clip(self.share * len(signals), 16, 500))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.estimator_ = estimator.set_params(batch_size=min(batch_size, len(signals))).fit(
                signals, labels, **self._weights(sample_weight, signals)
            )
        self.classes_ = self.estimator_.classes_
        return self


@dataclass(frozen=True)
class Baseline:
    """Classical learner: name, description and steps of its pipeline.

    Parameters
    ----------
    name : str
        Name of the learner.
    description : str
        Short description, for tables.
    steps : callable
        Function ``steps(random_state, n_jobs)`` that returns the steps after the normalisation.
    max_train : int or None
        Largest training size that takes minutes on two cores; None without a limit.
    package : str or None
        Required package besides scikit-learn.
    """

    name: str
    description: str
    steps: Callable[[int | None, int | None], _Steps]
    max_train: int | None = None
    package: str | None = None

    @property
    def installed(self) -> bool:
        """Whether the required package can be imported."""
        try:
            importlib.import_module(self.package or "sklearn")
        except (ImportError, OSError):  # LightGBM also needs the system's OpenMP library
            return False
        return True


def _logistic(seed: int | None, n_jobs: int | None) -> _Steps:
    return StandardScaler(), LogisticRegression(max_iter=500, random_state=seed)


def _lda(seed: int | None, n_jobs: int | None) -> _Steps:
    return StandardScaler(), LinearDiscriminantAnalysis()


def _qda(seed: int | None, n_jobs: int | None) -> _Steps:
    # the covariances within a class are nearly singular
    return StandardScaler(), QuadraticDiscriminantAnalysis(reg_param=0.5)


def _knn(seed: int | None, n_jobs: int | None) -> _Steps:
    # no scaling, because the noise is the same in every measurement
    return (KNeighborsClassifier(n_neighbors=50, algorithm="brute", n_jobs=n_jobs),)


def _random_forest(seed: int | None, n_jobs: int | None) -> _Steps:
    return (
        RandomForestClassifier(
            n_estimators=100, min_samples_leaf=5, n_jobs=n_jobs, random_state=seed
        ),
    )


def _extra_trees(seed: int | None, n_jobs: int | None) -> _Steps:
    return (
        ExtraTreesClassifier(
            n_estimators=100,
            min_samples_leaf=5,
            max_features=0.5,
            n_jobs=n_jobs,
            random_state=seed,
        ),
    )


def _hist_gradient_boosting(seed: int | None, n_jobs: int | None) -> _Steps:
    return (
        HistGradientBoostingClassifier(
            max_iter=200, learning_rate=0.1, early_stopping=False, random_state=seed
        ),
    )


def _mlp(seed: int | None, n_jobs: int | None) -> _Steps:
    return (
        StandardScaler(),
        ScaledBatchClassifier(
            MLPClassifier(
                (128, 128), learning_rate_init=1e-3, max_iter=40, n_iter_no_change=40,
                random_state=seed,
            )
        ),
    )  # fmt: skip


def _kernel_svm(seed: int | None, n_jobs: int | None) -> _Steps:
    return (
        StandardScaler(),
        Nystroem(gamma=0.015, n_components=500, random_state=seed),
        # a support vector machine has no probabilities without calibration
        CalibratedClassifierCV(
            SGDClassifier(alpha=1e-6, average=True, max_iter=20, tol=None, random_state=seed),
            method="sigmoid",
            cv=3,
            ensemble=False,
            n_jobs=n_jobs,
        ),
    )


def _lightgbm(seed: int | None, n_jobs: int | None) -> _Steps:
    from lightgbm import LGBMClassifier

    return (LGBMClassifier(n_estimators=200, random_state=seed, n_jobs=n_jobs, verbose=-1),)


def _xgboost(seed: int | None, n_jobs: int | None) -> _Steps:
    from xgboost import XGBClassifier

    learner = XGBClassifier(
        n_estimators=200, max_depth=6, learning_rate=0.1, random_state=seed, n_jobs=n_jobs
    )
    return (EncodedLabelsClassifier(learner),)


BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline("logistic", "logistic regression", _logistic),
        Baseline("lda", "linear discriminant analysis", _lda),
        Baseline("qda", "quadratic discriminant analysis", _qda),
        Baseline("knn", "50 nearest neighbours", _knn, max_train=100_000),
        Baseline("random-forest", "random forest, 100 trees", _random_forest, max_train=100_000),
        Baseline("extra-trees", "extra trees, 100 trees", _extra_trees, max_train=100_000),
        Baseline("hist-gradient-boosting", "gradient boosting", _hist_gradient_boosting),
        Baseline("mlp", "scikit-learn's MLP, 2 x 128", _mlp),
        Baseline("kernel-svm", "SVM, Nystroem kernel", _kernel_svm, max_train=100_000),
        Baseline("lightgbm", "LightGBM", _lightgbm, package="lightgbm"),
        Baseline("xgboost", "XGBoost", _xgboost, package="xgboost"),
    )
}


def available_baselines() -> list[str]:
    """List the learners whose packages are installed.

    Returns
    -------
    list of str
        Names for :func:`make_baseline`.
    """
    return [name for name, baseline in BASELINES.items() if baseline.installed]


def make_baseline(
    name: str,
    *,
    random_state: int | None = None,
    n_jobs: int | None = None,
    norm: str | None = "l2",
) -> Pipeline:
    """Create an unfitted pipeline of signal normalisation and a classical learner.

    Parameters
    ----------
    name : str
        One of `BASELINES`: "logistic", "lda", "qda", "knn", "random-forest",
        "extra-trees", "hist-gradient-boosting", "mlp", "kernel-svm", and with
        the packages of the extra `corrsk[boosting]` "lightgbm" and "xgboost".
    random_state : int or None, default=None
        Seed of the learner.
    n_jobs : int or None, default=None
        Number of threads, as in scikit-learn: -1 uses every core.
    norm : {"l2", "rms", "max"} or None, default="l2"
        Norm that signals are divided by; see :class:`corrsk.SignalNormalizer`.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Classifier of signals of shape (n_samples, n_measurements) with `predict_proba`.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the available names.
    ImportError
        If the required package is not installed.

    Examples
    --------
    >>> from corrsk import make_correlation_signals
    >>> from corrsk.baselines import make_baseline
    >>> X, y = make_correlation_signals(1000, random_state=0)
    >>> make_baseline("lda").fit(X, y).predict_proba(X).shape
    (1000, 4)
    """
    baseline = lookup(BASELINES, name, "baseline")
    if not baseline.installed:
        raise ImportError(
            f"{name} needs the package {baseline.package}: {install_command('boosting')}"
        )
    pipeline = make_pipeline(SignalNormalizer(norm), *baseline.steps(random_state, n_jobs))
    # arrays between the steps: with scikit-learn's global transform_output, the steps of a pipeline
    # would warn if the setting differs between `fit` and `predict`
    return pipeline.set_output(transform="default")
