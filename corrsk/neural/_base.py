"""What stands behind a classifier that trains a network: answers, checks, settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from corrsk._utils.class_prior import ClassPrior, checked_class_prior, reweighted
from corrsk._utils.counts import is_multicompartment, multicompartment_probability
from corrsk._utils.parallel import PROGRESS_DELAY, in_worker
from corrsk._utils.rng import RandomStateLike, entropy
from corrsk._utils.validation import flatten_signals, layout_of
from corrsk.neural import training
from corrsk.neural._grid import resolve_grid


class _NetworkClassifier(ClassifierMixin, BaseEstimator):
    """Base of the classifier: all but its parameters and the ways to fit it."""

    network: Any
    grid_shape: tuple[int, ...] | str
    input_scaling: str | None
    batch_size: int | str
    class_weight: Mapping[Any, float] | str | None
    n_iter_no_change: int | None
    checkpoint: Any
    random_state: RandomStateLike
    verbose: bool

    def predict_proba(
        self, X: ArrayLike, class_prior: ClassPrior | None = None
    ) -> NDArray[np.float64]:
        """Probability of each class.

        Parameters
        ----------
        X : array of shape (n, N) or (n, n_ti, n_te)
            Signals, in any number: they are worked off in chunks.
        class_prior : mapping of label to float, or array of shape (n_classes,), optional
            How frequent each class is where the signals come from, in any unit.
            The probabilities are those of Bayes' rule under it; without it, under
            `class_prior_`, the frequencies in training.

        Returns
        -------
        ndarray of shape (n, n_classes)
            In the order of `classes_`.

        Raises
        ------
        ValueError
            If the signals are not as in training, or the prior does not fit the
            classes.
        """
        check_is_fitted(self)
        if class_prior is not None:
            # what is wrong with it shows before the work
            checked_class_prior(class_prior, self.classes_)
            self._check_kept("class_prior_", "class_prior")
        signals = validate_data(
            self, flatten_signals(X), reset=False, dtype=(np.float32, np.float64), order="C"
        )
        probabilities = training.predict_probabilities(self.net_, signals)
        if class_prior is None:
            return probabilities
        return reweighted(probabilities, self.classes_, class_prior, self.class_prior_)

    def predict(self, X: ArrayLike, class_prior: ClassPrior | None = None) -> NDArray[Any]:
        """The most probable class.

        Parameters
        ----------
        X : array of shape (n, N) or (n, n_ti, n_te)
            Signals.
        class_prior : mapping of label to float, or array of shape (n_classes,), optional
            See :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n,)
            Labels.
        """
        probabilities = self.predict_proba(X, class_prior)
        labels: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return labels

    def predict_multicompartment_proba(
        self, X: ArrayLike, class_prior: ClassPrior | None = None
    ) -> NDArray[np.float64]:
        """Probability that there is more than one compartment, P(n_c >= 2).

        Parameters
        ----------
        X : array of shape (n, N) or (n, n_ti, n_te)
            Signals.
        class_prior : mapping of label to float, or array of shape (n_classes,), optional
            See :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n,)

        Raises
        ------
        ValueError
            If the labels are not counts.
        """
        check_is_fitted(self)
        is_multicompartment(self.classes_)  # labels that are no counts: an error before the work
        return multicompartment_probability(self.predict_proba(X, class_prior), self.classes_)

    def to_onnx(self, path: str | Path) -> None:
        """Write the trained network as an ONNX file, which needs neither torch nor corrsk.

        Parameters
        ----------
        path : path-like
            The file. Its input is "signals", float32 of shape (n, N): in grid order, and
            normalised as those of the training were; its output is "probabilities",
            float32 of shape (n, n_classes). The labels stand in its metadata, "classes",
            as JSON.

        Raises
        ------
        ImportError
            If the libraries of the extra `onnx` are not installed.
        FileNotFoundError
            If there is no such folder.
        """
        check_is_fitted(self)
        training.write_onnx(
            self.net_, path, n_features=self.n_features_in_, classes=self.classes_.tolist()
        )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "net_")

    # -- from data and parameters to those of a training ---------------------

    def _validation_data(
        self, X_val: ArrayLike | None, y_val: ArrayLike | None, classes: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        if X_val is None and y_val is None:
            return None
        if X_val is None or y_val is None:
            raise ValueError("validation data need both X_val and y_val")
        signals = validate_data(
            self, flatten_signals(X_val), reset=False, dtype=np.float32, order="C"
        )
        labels = column_or_1d(y_val)
        if signals.shape[0] != labels.shape[0]:
            raise ValueError(
                f"X_val has {signals.shape[0]} signals but y_val {labels.shape[0]} labels"
            )
        return signals, class_index(labels, classes, "y_val", "y")

    def _check_kept(self, attribute: str, purpose: str) -> None:
        if not hasattr(self, attribute):
            raise ValueError(
                "this classifier comes from a file of an older version, which did not keep "
                f"{attribute}; {purpose} needs it: fit the classifier again"
            )

    def _forget(self) -> None:
        # a fit that fails must not leave the net of an earlier one
        if hasattr(self, "net_"):
            delattr(self, "net_")

    def _checked_seed(self) -> int:
        if self.checkpoint is not None and not isinstance(self.random_state, Integral):
            raise ValueError(
                "a checkpoint needs an integer random_state, by which a later fit can tell that it "
                f"is the same training; got {self.random_state!r}"
            )
        return entropy(self.random_state)

    def _checked_signals(
        self, X: ArrayLike, y: ArrayLike, *, reset: bool
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        signals, labels = validate_data(
            self, flatten_signals(X), y, reset=reset, dtype=np.float32, order="C"
        )
        check_classification_targets(labels)
        return signals, labels

    def _first_signals(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None,
        layout: tuple[int, ...] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Signals and class indices of a new training, of which classes and grid are noted."""
        layout = layout or layout_of(X)
        signals, labels = self._checked_signals(X, y, reset=True)
        known = np.unique(labels if classes is None else np.asarray(classes))
        if known.size < 2:
            raise ValueError(
                f"y must hold at least two classes; got 1 class, {known.tolist()[0]!r}"
            )
        index = class_index(labels, known, "y", "classes")
        names = getattr(self, "feature_names_in_", ())
        self.grid_shape_ = resolve_grid(self.grid_shape, self.n_features_in_, layout, names)
        self.classes_ = known
        return signals, index

    def _settings(
        self, class_count: NDArray[np.floating[Any]], seed: int, n_samples: int
    ) -> training.TrainingSettings:
        """The settings of a training on so many signals of each class, which are noted."""
        if self.network == "cnn" and self.input_scaling == "half-whiten":
            raise ValueError(
                "input_scaling='half-whiten' leaves no grid for the CNN to look at; take "
                "'standardize', or network='residual-mlp'"
            )
        self.class_count_ = class_count
        self.class_prior_ = class_count / class_count.sum()
        weights = None
        if self.class_weight is not None:
            weights = class_weights(self.class_weight, self.classes_, self.class_prior_)
            # a network that is trained with weights answers under the prior that they make
            self.class_prior_ = self.class_prior_ * weights
        return training.TrainingSettings(
            **{name: getattr(self, name) for name in training.TrainingSettings.same_names},
            grid_shape=self.grid_shape_,
            n_features=self.n_features_in_,
            n_classes=len(self.classes_),
            batch_size=training.resolve_batch_size(self.batch_size, n_samples),
            class_weights=None if weights is None else tuple(map(float, weights)),
            patience=self.n_iter_no_change,
            seed=seed,
        )

    def _train(
        self,
        settings: training.TrainingSettings,
        source: training.Source,
        validation: tuple[NDArray[np.float32], NDArray[np.int64]] | None,
        device: Any,
    ) -> Self:
        net, history = training.train_network(
            settings, source, validation, device=device, checkpoint=self.checkpoint,
            progress_delay=PROGRESS_DELAY if self.verbose and not in_worker() else math.inf,
        )  # fmt: skip
        return self._keep(net, history)

    def _keep(self, net: Any, history: list[dict[str, Any]]) -> Self:
        """Become the fitted classifier of a training."""
        self.history_ = history
        self.n_iter_ = len(history)
        losses = [row["valid_loss"] for row in history if "valid_loss" in row]
        self.best_epoch_ = int(np.argmin(losses)) + 1 if losses else None
        self.net_ = net
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def class_index(
    labels: NDArray[Any], classes: NDArray[Any], name: str, known_from: str
) -> NDArray[np.int64]:
    """The position of each label in `classes`, which are sorted.

    Raises
    ------
    ValueError
        If a label is none of them.
    """
    extra = np.setdiff1d(labels, classes).tolist()
    if extra:
        raise ValueError(f"{name} holds labels that {known_from} does not: {extra}")
    return np.searchsorted(classes, labels)


def class_weights(
    class_weight: Mapping[Any, float] | str,
    classes: NDArray[Any],
    frequencies: NDArray[np.floating[Any]],
) -> NDArray[np.float64]:
    """The weight of each class, of mean 1 over signals of these frequencies.

    Raises
    ------
    ValueError
        If a weight is negative, or all are 0.
    """
    if class_weight == "balanced":
        weights = 1 / (len(classes) * frequencies)
    else:
        weights = compute_class_weight(class_weight, classes=classes, y=classes)
    mean = float((weights * frequencies).sum())
    if weights.min() < 0 or mean == 0:
        raise ValueError(f"class_weight must not be negative or all zero, got {class_weight}")
    normalised: NDArray[np.float64] = weights / mean  # the learning rate keeps its meaning
    return normalised
