"""Fits of a search, trained in stacks before the search runs them.

The search itself is scikit-learn's. Its estimator has a classifier that takes a prefetched fit if
there is one, and trains as usual otherwise. A fit is identified by its settings and its data, so
that results do not depend on the order of the fits or on the thread.
"""

from __future__ import annotations

import copy
import math
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Container, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import _safe_split

from corrsk._utils.parallel import PROGRESS_DELAY, in_worker
from corrsk.acquisition.compatibility import ProtocolWarning
from corrsk.neural._base import NetworkClassifier
from corrsk.neural.classifier import NETWORK_CLASSIFIERS
from corrsk.neural.gpu.stack import STACKED_OPTIMIZERS, Outcome, stack_key, train_stack
from corrsk.neural.gpu.stacked_networks import STACKED_NETWORKS
from corrsk.neural.training.device import resolve_device
from corrsk.neural.training.settings import ClassifierSettings
from corrsk.neural.training.sources import ArraySource, Source

Arrays = tuple[NDArray[np.float32], NDArray[np.int64]]  # signals, class indices

# classifiers whose networks are stacked
STACKED_CLASSES: tuple[type[NetworkClassifier], ...] = tuple(
    cls for cls in NETWORK_CLASSIFIERS.values() if cls._architecture_name in STACKED_NETWORKS
)
# parameters in which the members of a stack may differ, as far as a classifier has them
STACKABLE = (
    "learning_rate", "learning_rate_schedule", "momentum", "weight_decay", "dropout",
    "softmax_before_loss", "class_weight", "random_state",
)  # fmt: skip


def last_step(estimator: Any) -> Any:
    """Return the last step of a plain Pipeline, or any other estimator itself."""
    return estimator.steps[-1][1] if type(estimator) is Pipeline and estimator.steps else estimator


def stackable(cls: type[NetworkClassifier]) -> list[str]:
    """Return the parameters of a class in which the members of a stack may differ."""
    return [name for name in STACKABLE if name in cls._get_param_names()]


class _Watched:
    """Mixin of the classifiers of a search that records training data or takes a prefetched fit.

    Clones of a watched classifier are watched, too, until all candidates are scored. A fitted
    classifier is a plain one.
    """

    _prefetched: PrefetchedFits
    _plain: type[NetworkClassifier]

    def __sklearn_clone__(self) -> Any:
        copied = super().__sklearn_clone__()  # type: ignore[misc]
        copied.__class__, prefetched = self._plain, self._prefetched
        return copied if prefetched.is_over else _watch(copied, prefetched)

    def _train(
        self,
        settings: ClassifierSettings,
        source: Source,
        validation: Any,
        device: Any,
        earlier: Any = None,
    ) -> Any:
        prefetched = self._prefetched
        if prefetched.is_recording:
            assert isinstance(source, ArraySource)  # fit has no other source
            self._recorded = (source.X, source.y), device
            return self
        classifier: Any = self
        unwatch(classifier)
        outcome = None
        if validation is None and earlier is None and isinstance(source, ArraySource):
            asked = _Fit.from_classifier(classifier, settings, (source.X, source.y), device)
            outcome = prefetched.pop_outcome(asked)
        if outcome is None:
            return classifier._train(settings, source, validation, device, earlier)
        if isinstance(outcome, Exception):
            raise outcome
        return classifier._set_fitted(*outcome)


_WATCHED: dict[type[NetworkClassifier], type[Any]] = {
    cls: type(f"Watched{cls.__name__}", (_Watched, cls), {"_plain": cls}) for cls in STACKED_CLASSES
}


def _watch(classifier: NetworkClassifier, prefetched: PrefetchedFits) -> Any:
    # not a new instance: metadata requests and callbacks are no parameters and would be lost
    watched: Any = classifier
    watched.__class__ = _WATCHED[type(classifier)]
    watched._prefetched = prefetched
    return watched


def unwatch(estimator: Any) -> None:
    """Turn an estimator with a watched classifier into a plain one."""
    classifier = last_step(estimator)
    if isinstance(classifier, _Watched):
        plain: Any = classifier
        plain.__class__ = classifier._plain
        del plain._prefetched
    if type(estimator) is Pipeline and isinstance(estimator.memory, _StepCache):
        estimator.memory = None


class _StepCache:
    """Cache of the output of the steps of a Pipeline, like joblib's Memory, but in memory.

    Parameters
    ----------
    prefetched : PrefetchedFits
        The fits of the search; its end ends the caching.
    """

    def __init__(self, prefetched: PrefetchedFits) -> None:
        self._prefetched = prefetched
        self._made: dict[str, Any] = {}
        self._making: dict[str, threading.Lock] = {}

    def __sklearn_clone__(self) -> _StepCache | None:
        return None if self._prefetched.is_over else self

    def cache(
        self, function: Callable[..., Any], ignore: Container[str] = ()
    ) -> Callable[..., Any]:
        """Return the function with a cache: equal arguments are evaluated once."""

        def cached(*args: Any, **kwargs: Any) -> Any:
            key = _digest((args, _without(kwargs, ignore)))
            if key is None:
                return function(*args, **kwargs)
            with self._making.setdefault(key, threading.Lock()):  # other threads wait
                if key in self._made:
                    return copy.deepcopy(self._made[key])  # the next step may work in place
                made = function(*args, **kwargs)
                with suppress(Exception):  # results that cannot be copied are not cached
                    self._made[key] = copy.deepcopy(made)
                return made

        return cached


@dataclass(frozen=True)
class _Fit:
    """Fit that a search will run: settings and training data."""

    settings: ClassifierSettings
    arrays: Arrays
    device: Any
    seeded: bool
    verbose: bool

    @classmethod
    def from_classifier(
        cls,
        classifier: NetworkClassifier,
        settings: ClassifierSettings,
        arrays: Arrays,
        device: Any,
    ) -> _Fit:
        """Create the fit of a classifier from its settings and data."""
        seeded = classifier.random_state is not None
        return cls(settings, arrays, device, seeded, bool(classifier.verbose))

    @property
    def name(self) -> Hashable:
        """Identity of the fit besides its data; fits without a seed are interchangeable."""
        return (self.settings if self.seeded else replace(self.settings, seed=-1)), self.device

    @property
    def stack(self) -> Hashable:
        """Key that the members of a stack share."""
        return stack_key(self.settings, len(self.arrays[0])), self.device


class PrefetchedFits:
    """Fits of a search, trained in stacks in advance, and their outcomes.

    Parameters
    ----------
    max_stack : int
        Largest number of networks in a stack.
    any_device : bool
        Whether to stack on devices other than GPUs, too.
    """

    def __init__(self, max_stack: int, any_device: bool) -> None:
        self._max_stack = max_stack
        self._any_device = any_device
        self._data: list[Arrays] = []
        self._outcomes: dict[Hashable, list[Outcome]] = defaultdict(list)
        self._lock = threading.Lock()
        self.is_recording = True  # until all stacks are trained
        self.is_over = False  # once all candidates are scored
        self.seconds: list[float] = []  # time of prefetching, for each candidate and fold

    def watched(self, estimator: Any) -> Any:
        """Return a clone of an estimator whose classifier is watched."""
        copied = clone(estimator)
        _watch(last_step(copied), self)
        if type(copied) is Pipeline and copied.memory is None:
            copied.memory = _StepCache(self)
        return copied

    def pop_outcome(self, asked: _Fit) -> Outcome | None:
        """Return the outcome of a prefetched fit, once; None if there is none."""
        outcomes = self._outcomes.get((asked.name, self._data_index(asked.arrays)))
        with self._lock:  # the search fits in several threads
            return outcomes.pop() if outcomes else None

    def _data_index(self, arrays: Arrays) -> int:
        """Return the index of equal arrays among the recorded ones, or the number of these."""
        for index, known in enumerate(self._data):
            if _equal(known[0], arrays[0]) and _equal(known[1], arrays[1]):
                return index
        return len(self._data)

    def train(
        self, estimator: Any, candidates: list[dict[str, Any]], X: Any, y: Any, splits: list[Any]
    ) -> None:
        """Train the candidates and folds that can be stacked.

        Parameters
        ----------
        estimator : estimator
            The watched estimator of the search.
        candidates : list of dict
            Parameters of each candidate.
        X : array or DataFrame of shape (n_samples, ...)
            Input of the search.
        y : array of shape (n_samples,)
            Labels of the search.
        splits : list of (train, test)
            Row numbers of each fold.
        """
        self.seconds = [0.0] * (len(candidates) * len(splits))
        stacks: dict[Hashable, list[tuple[int, _Fit]]] = defaultdict(list)
        for pair, fit in self._recorded_fits(estimator, candidates, X, y, splits):
            stacks[fit.stack].append((pair, fit))
        for alike in stacks.values():
            n_stacks = math.ceil(len(alike) / self._max_stack)
            for part in np.array_split(np.arange(len(alike)), n_stacks):
                if len(part) > 1:  # a single network is left to the search
                    self._train_stack([alike[i] for i in part])
        self.is_recording = False

    def _train_stack(self, stack: list[tuple[int, _Fit]]) -> None:
        start = time.perf_counter()
        shown = any(fit.verbose for _, fit in stack) and not in_worker()
        try:
            outcomes = train_stack(
                [(fit.settings, fit.arrays) for _, fit in stack], device=stack[0][1].device,
                progress_delay=PROGRESS_DELAY if shown else math.inf,
            )  # fmt: skip
        except Exception as error:
            warnings.warn(
                f"a stack of {len(stack)} networks could not be trained together; each network is "
                f"trained separately instead: {type(error).__name__}: {error}",
                stacklevel=2,
            )
            return
        share = (time.perf_counter() - start) / len(stack)
        for (pair, fit), outcome in zip(stack, outcomes, strict=True):
            self._outcomes[fit.name, self._data_index(fit.arrays)].append(outcome)
            self.seconds[pair] += share

    def _recorded_fits(
        self, estimator: Any, candidates: list[dict[str, Any]], X: Any, y: Any, splits: list[Any]
    ) -> Iterator[tuple[int, _Fit]]:
        """Yield the fits that can be stacked, each with its index among all candidates and folds.

        Candidates that differ only in stackable parameters share their signals: one recorded fit
        per fold, without training, provides the signals.
        """
        prefix = f"{estimator.steps[-1][0]}__" if type(estimator) is Pipeline else ""
        cls = last_step(estimator)._plain
        default, names = cls(), stackable(cls)
        harmless = {prefix + name: getattr(default, name) for name in names}
        alike: dict[Hashable, list[int]] = defaultdict(list)
        for number, candidate in enumerate(candidates):
            alike[_digest(_without(candidate, harmless)) or number].append(number)
        for numbers, (fold, (rows, _)) in product(alike.values(), enumerate(splits)):
            start = time.perf_counter()
            shared = _without(candidates[numbers[0]], harmless)
            asking = self._asking(estimator, shared | harmless, X, y, rows)
            if asking is None:
                continue
            share = (time.perf_counter() - start) / len(numbers)
            for number in numbers:
                own = _without(candidates[number], shared)
                given = {name: getattr(last_step(estimator), name) for name in names}
                given |= {name.removeprefix(prefix): value for name, value in own.items()}
                fit = self._training(asking, given)
                if fit is not None:
                    pair = number * len(splits) + fold
                    self.seconds[pair] += share
                    yield pair, fit

    def _asking(
        self, estimator: Any, parameters: dict[str, Any], X: Any, y: Any, rows: Any
    ) -> Any | None:
        """Return the classifier of a recorded fit; None if the fit cannot be stacked."""
        # an error here occurs again in the search, which handles it
        with suppress(Exception):
            copied = clone(estimator).set_params(**clone(parameters, safe=False))
            asking = last_step(copied)
            if self._can_be_stacked(asking):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ProtocolWarning)  # the search's fits warn
                    copied.fit(*_safe_split(copied, X, y, rows))
                arrays, device = asking._recorded
                index = self._data_index(arrays)
                if index == len(self._data):
                    self._data.append(arrays)
                asking._recorded = self._data[index], device
                return asking
        return None

    def _can_be_stacked(self, classifier: Any) -> bool:
        return (
            isinstance(classifier, _Watched)
            and isinstance(classifier, NetworkClassifier)
            and classifier.optimizer in STACKED_OPTIMIZERS
            and classifier.backend != "numba"
            and classifier.validation_fraction is None
            and classifier.n_iter_no_change is None
            and classifier.checkpoint is None
            and not classifier.callbacks
            and not getattr(classifier, "_skl_callbacks", None)
            and (self._any_device or resolve_device(classifier.device).type == "cuda")
        )

    def _training(self, asking: Any, given: dict[str, Any]) -> _Fit | None:
        """Return the fit of a classifier with other stackable parameters; None if invalid."""
        arrays, device = asking._recorded
        with suppress(Exception):  # as above
            changed = copy.copy(asking).set_params(**clone(given, safe=False))
            changed._validate_params()
            settings = changed._settings(
                changed.class_count_, changed._checked_seed(), len(arrays[0])
            )
            return _Fit.from_classifier(changed, settings, arrays, device)
        return None


def _without(parameters: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in names}


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    if a is b:
        return True
    step = max(1, len(a) // 64)  # a few rows distinguish most folds
    return a.shape == b.shape and np.array_equal(a[::step], b[::step]) and np.array_equal(a, b)


def _digest(value: Any) -> str | None:
    """Hash of a value; None for a value that cannot be pickled."""
    try:
        # half the time of md5, for which processors have no instructions
        return str(joblib.hash(value, hash_name="sha1"))
    except Exception:
        return None
