"""The trainings of a search, done in stacks before the search asks for them.

The search itself is scikit-learn's. It gets an estimator whose classifier finds its training
done, if it is among those that could be stacked, and trains by itself if not. A training is
known again by its settings and its data, so that nothing depends on the order in which the
search fits, or on the thread.
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
from corrsk.neural import training
from corrsk.neural.classifier import CorrelationCNNClassifier
from corrsk.neural.gpu.stack import STACKED_OPTIMIZERS, Outcome, stack_key, train_stack
from corrsk.neural.gpu.stacked_networks import STACKED_NETWORKS

Arrays = tuple[NDArray[np.float32], NDArray[np.int64]]  # signals, class indices

# parameters of the classifier in which the members of a stack may differ
STACKABLE = (
    "learning_rate", "learning_rate_schedule", "momentum", "weight_decay", "dropout",
    "softmax_before_loss", "class_weight", "random_state",
)  # fmt: skip


def last_step(estimator: Any) -> Any:
    """The classifier of a plain Pipeline; of another estimator the estimator itself."""
    return estimator.steps[-1][1] if type(estimator) is Pipeline and estimator.steps else estimator


class _WatchedClassifier(CorrelationCNNClassifier):
    """A classifier of a search: tells what it would be trained on, or finds that done.

    Its clones are watched, too, until the search over the candidates is over. Once fitted
    it is a plain classifier.
    """

    _ahead: TrainingsAhead

    def __sklearn_clone__(self) -> CorrelationCNNClassifier:
        twin: CorrelationCNNClassifier = super().__sklearn_clone__()
        twin.__class__, ahead = CorrelationCNNClassifier, self._ahead
        return twin if ahead.is_over else _watch(twin, ahead)

    def _train(
        self, settings: training.TrainingSettings, source: training.Source, validation: Any,
        device: Any,
    ) -> CorrelationCNNClassifier:  # fmt: skip
        ahead = self._ahead
        if ahead.is_noting:
            assert source.arrays is not None  # fit has no other source
            self._asked_for = source.arrays, device
            return self
        unwatch(self)
        outcome = None
        if validation is None and source.arrays is not None:
            outcome = ahead.pop_outcome(_Training.of(self, settings, source.arrays, device))
        if outcome is None:
            return self._train(settings, source, validation, device)
        if isinstance(outcome, Exception):
            raise outcome
        return self._keep(*outcome)


def _watch(classifier: CorrelationCNNClassifier, ahead: TrainingsAhead) -> _WatchedClassifier:
    # not a new instance: this one may have metadata requests or callbacks besides parameters
    classifier.__class__ = _WatchedClassifier
    assert isinstance(classifier, _WatchedClassifier)
    classifier._ahead = ahead
    return classifier


def unwatch(estimator: Any) -> None:
    """Make an estimator with a watched classifier a plain one."""
    classifier = last_step(estimator)
    if isinstance(classifier, _WatchedClassifier):
        classifier.__class__ = CorrelationCNNClassifier
        del classifier._ahead
    if type(estimator) is Pipeline and isinstance(estimator.memory, _StepCache):
        estimator.memory = None


class _StepCache:
    """Keeps what the steps of a Pipeline make, as joblib's Memory does on disk.

    Parameters
    ----------
    ahead : TrainingsAhead
    """

    def __init__(self, ahead: TrainingsAhead) -> None:
        self._ahead = ahead
        self._made: dict[str, Any] = {}
        self._making: dict[str, threading.Lock] = {}

    def __sklearn_clone__(self) -> _StepCache | None:
        return None if self._ahead.is_over else self

    def cache(
        self, function: Callable[..., Any], ignore: Container[str] = ()
    ) -> Callable[..., Any]:
        """The function, which is called once for equal arguments."""

        def cached(*args: Any, **kwargs: Any) -> Any:
            key = _digest((args, _without(kwargs, ignore)))
            if key is None:
                return function(*args, **kwargs)
            with self._making.setdefault(key, threading.Lock()):  # others wait for the first
                if key in self._made:
                    return copy.deepcopy(self._made[key])  # the next step may work in place
                made = function(*args, **kwargs)
                with suppress(Exception):  # what cannot be copied is made each time
                    self._made[key] = copy.deepcopy(made)
                return made

        return cached


@dataclass(frozen=True)
class _Training:
    """A training that a search asks for."""

    settings: training.TrainingSettings
    arrays: Arrays
    device: Any
    seeded: bool
    verbose: bool

    @classmethod
    def of(
        cls,
        classifier: CorrelationCNNClassifier,
        settings: training.TrainingSettings,
        arrays: Arrays,
        device: Any,
    ) -> _Training:
        """That of a classifier, whose parameters have become settings."""
        seeded = classifier.random_state is not None
        return cls(settings, arrays, device, seeded, bool(classifier.verbose))

    @property
    def name(self) -> Hashable:
        """By what it is known again beside its data; without a seed, any other's will do."""
        return (self.settings if self.seeded else replace(self.settings, seed=-1)), self.device

    @property
    def stack(self) -> Hashable:
        """What it has in common with the other members of its stack."""
        return stack_key(self.settings, len(self.arrays[0])), self.device


class TrainingsAhead:
    """Trains in stacks what a search will ask for, and keeps what comes of it.

    Parameters
    ----------
    max_stack : int
        Largest number of members of a stack.
    any_device : bool
        Whether to stack on other devices than GPUs, too.
    """

    def __init__(self, max_stack: int, any_device: bool) -> None:
        self._max_stack = max_stack
        self._any_device = any_device
        self._data: list[Arrays] = []
        self._outcomes: dict[Hashable, list[Outcome]] = defaultdict(list)
        self._lock = threading.Lock()
        self.is_noting = True  # until all is trained
        self.is_over = False  # once the search has its scores
        self.seconds: list[float] = []  # spent here, for each candidate and fold

    def watched(self, estimator: Any) -> Any:
        """A clone of an estimator, whose classifier is watched."""
        twin = clone(estimator)
        _watch(last_step(twin), self)
        if type(twin) is Pipeline and twin.memory is None:
            twin.memory = _StepCache(self)
        return twin

    def pop_outcome(self, asked: _Training) -> Outcome | None:
        """What came of a training; None if it was not done."""
        outcomes = self._outcomes.get((asked.name, self._data_index(asked.arrays)))
        with self._lock:  # the search asks in several threads
            return outcomes.pop() if outcomes else None

    def _data_index(self, arrays: Arrays) -> int:
        """The position of equal arrays among those that were noted, or their number."""
        for index, known in enumerate(self._data):
            if _equal(known[0], arrays[0]) and _equal(known[1], arrays[1]):
                return index
        return len(self._data)

    def train(
        self, estimator: Any, candidates: list[dict[str, Any]], X: Any, y: Any, splits: list[Any]
    ) -> None:
        """Train in stacks what can be, of all candidates and folds.

        Parameters
        ----------
        estimator : estimator
            The search's, watched.
        candidates : list of dict
        X, y : arrays
            The search's.
        splits : list of (train, test)
        """
        self.seconds = [0.0] * (len(candidates) * len(splits))
        stacks: dict[Hashable, list[tuple[int, _Training]]] = defaultdict(list)
        for pair, noted in self._noted(estimator, candidates, X, y, splits):
            stacks[noted.stack].append((pair, noted))
        for alike in stacks.values():
            n_stacks = math.ceil(len(alike) / self._max_stack)
            for part in np.array_split(np.arange(len(alike)), n_stacks):
                if len(part) > 1:  # a training by itself is best left to the search
                    self._train_stack([alike[i] for i in part])
        self.is_noting = False

    def _train_stack(self, stack: list[tuple[int, _Training]]) -> None:
        start = time.perf_counter()
        shown = any(noted.verbose for _, noted in stack) and not in_worker()
        try:
            outcomes = train_stack(
                [(noted.settings, noted.arrays) for _, noted in stack], device=stack[0][1].device,
                progress_delay=PROGRESS_DELAY if shown else math.inf,
            )  # fmt: skip
        except Exception as error:
            warnings.warn(
                f"a stack of {len(stack)} networks could not be trained together, and each is "
                f"trained by itself instead: {type(error).__name__}: {error}",
                stacklevel=2,
            )
            return
        share = (time.perf_counter() - start) / len(stack)
        for (pair, noted), outcome in zip(stack, outcomes, strict=True):
            self._outcomes[noted.name, self._data_index(noted.arrays)].append(outcome)
            self.seconds[pair] += share

    def _noted(
        self, estimator: Any, candidates: list[dict[str, Any]], X: Any, y: Any, splits: list[Any]
    ) -> Iterator[tuple[int, _Training]]:
        """The trainings that can be stacked, each with its number among all.

        Candidates that differ in stackable parameters alone have their signals in common: one
        fit for each fold, which trains nothing, shows them.
        """
        prefix = f"{estimator.steps[-1][0]}__" if type(estimator) is Pipeline else ""
        plain = CorrelationCNNClassifier()
        harmless = {prefix + name: getattr(plain, name) for name in STACKABLE}
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
                given = {name: getattr(last_step(estimator), name) for name in STACKABLE}
                given |= {name.removeprefix(prefix): value for name, value in own.items()}
                noted = self._training(asking, given)
                if noted is not None:
                    pair = number * len(splits) + fold
                    self.seconds[pair] += share
                    yield pair, noted

    def _asking(
        self, estimator: Any, parameters: dict[str, Any], X: Any, y: Any, rows: Any
    ) -> _WatchedClassifier | None:
        """The classifier of a fit that trains nothing; None if it cannot be stacked."""
        # an error here meets the search again, which knows what to make of it
        with suppress(Exception):
            twin = clone(estimator).set_params(**clone(parameters, safe=False))
            asking = last_step(twin)
            if self._can_be_stacked(asking):
                twin.fit(*_safe_split(twin, X, y, rows))
                arrays, device = asking._asked_for
                index = self._data_index(arrays)
                if index == len(self._data):
                    self._data.append(arrays)
                asking._asked_for = self._data[index], device
                return asking
        return None

    def _can_be_stacked(self, classifier: Any) -> bool:
        return (
            isinstance(classifier, _WatchedClassifier)
            and isinstance(classifier.network, str)
            and classifier.network in STACKED_NETWORKS
            and classifier.optimizer in STACKED_OPTIMIZERS
            and classifier.kernel != "compiled"
            and classifier.validation_fraction is None
            and classifier.n_iter_no_change is None
            and classifier.checkpoint is None
            and (self._any_device or training.resolve_device(classifier.device).type == "cuda")
        )

    def _training(self, asking: _WatchedClassifier, given: dict[str, Any]) -> _Training | None:
        """The training of a classifier with other stackable parameters; None if they are wrong."""
        arrays, device = asking._asked_for
        with suppress(Exception):  # as above
            kin = copy.copy(asking).set_params(**clone(given, safe=False))
            kin._validate_params()
            settings = kin._settings(kin.class_count_, kin._checked_seed(), len(arrays[0]))
            return _Training.of(kin, settings, arrays, device)
        return None


def _without(parameters: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in names}


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    if a is b:
        return True
    step = max(1, len(a) // 64)  # a few rows tell most folds apart
    return a.shape == b.shape and np.array_equal(a[::step], b[::step]) and np.array_equal(a, b)


def _digest(value: Any) -> str | None:
    """The same for equal values; None for one that cannot be pickled."""
    try:
        # half the time of md5, for which processors have no instructions
        return str(joblib.hash(value, hash_name="sha1"))
    except Exception:
        return None
