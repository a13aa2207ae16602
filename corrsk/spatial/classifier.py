"""Classifier that adds the neighbourhood of each voxel to a classifier of single voxels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    MetaEstimatorMixin,
    _fit_context,
    clone,
    is_classifier,
)
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score
from sklearn.utils import Tags, get_tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from corrsk import physics
from corrsk._utils.counts import most_probable, multicompartment_probability
from corrsk._utils.pickles import EarlierPicklesMixin
from corrsk._utils.probabilities import log_probabilities
from corrsk._utils.voxels import (
    user_level,
    warn_of_voxels_without_signal,
    without_signal,
)
from corrsk.spatial._coverage import Coverage
from corrsk.spatial._neighbours import checked_voxel_size
from corrsk.spatial.averaging import (
    AveragedSignals,
    Comparison,
    average_compared,
    average_like_neighbours,
    like_neighbours,
)
from corrsk.spatial.field import mean_field

METHODS = ("average", "field", "average+field")


class SpatialContextWarning(UserWarning):
    """Warning that context is missing, or that a model does not cover the remaining noise."""


class _Places(NamedTuple):
    """Volume of signals, its voxels with signal, and the shape of the results."""

    volume: NDArray[Any]
    inside: NDArray[np.bool_]
    rows: NDArray[np.bool_] | None  # voxels that have a row; None for a volume
    voxel_size: Any


def _is_fitted(estimator: Any) -> bool:
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


class SpatialClassifier(EarlierPicklesMixin, ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Classifier of volumes that uses the neighbourhood of each voxel.

    Like neighbours are averaged before a classifier of single voxels sees them, or a Markov random
    field combines its probabilities, or both. Averages have less noise than a voxel, and a gain
    only for a model that was trained with that little noise: pass several models, such as those of
    `midl2024` and `midl2024-low-noise`, and each voxel is classified by the one whose noise covers
    what remains in it.

    Parameters
    ----------
    estimator : classifier or list of classifier
        Classifiers of rows of signals with `predict_proba` and the same classes. They are cloned
        and fitted; wrap a fitted one in :class:`sklearn.frozen.FrozenEstimator` to keep it.
    method : {"average", "field", "average+field"}, default="average"
        Averages of like neighbours (:func:`corrsk.spatial.average_like_neighbours`), a random field
        on the probabilities of single voxels (:func:`corrsk.spatial.mean_field`), or the field on
        those of the averages. The coupling of the field falls with the difference of the signals.
    sigma : float or None, default=None
        Standard deviation of the noise in the unit of the signals. None for an estimate.
    mask : array of bool or nibabel image, or None, default=None
        Places of the rows: voxels of the mask in C order, such as `mask_img_` of a
        :class:`corrsk.SignalMasker`. None for volumes, or if predictions have a mask.
    voxel_size : float, sequence of float or None, default=None
        Edges of a voxel along each axis. None for those of a mask that is an image, otherwise for
        cubes.
    n_neighbors : int, default=1000
        Number of neighbours among which like ones are found.
    coupling : float, default=1.0
        Strength of the field.
    noise_range : tuple of float, list of tuple or None, default=None
        Lowest and highest standard deviation of the noise for which each classifier is trained, in
        the unit of the signals. None for the levels of :class:`corrsk.SimulationTrainedClassifier`;
        of other classifiers they are unknown.
    noise_distribution : {"gaussian", "rician"}, default="gaussian"
        "gaussian" for signed signals, "rician" for magnitudes, which need `sigma` and classifiers
        of magnitudes; see :func:`corrsk.spatial.average_like_neighbours`.

    Attributes
    ----------
    estimators_ : list of classifier
        Fitted classifiers.
    classes_ : ndarray of shape (n_classes,)
        Classes.
    n_features_in_ : int
        Number of measurements.

    See Also
    --------
    corrsk.spatial.make_parcel_phantom : Images with truth.

    Notes
    -----
    The errors of averages in a region are nearly the same, since they share their voxels; a field
    on their probabilities takes these as independent, and is too confident.

    Examples
    --------
    >>> from sklearn.frozen import FrozenEstimator
    >>> from corrsk import load_pretrained
    >>> from corrsk.spatial import SpatialClassifier, make_parcel_phantom
    >>> phantom = make_parcel_phantom((48, 48), n_parcels=6, noise_level=0.03, random_state=1)
    >>> models = [load_pretrained(name) for name in ("midl2024", "midl2024-low-noise")]
    >>> context = SpatialClassifier([FrozenEstimator(model) for model in models]).fit()
    >>> voxelwise = (models[0].predict(phantom.signals) == phantom.counts).mean()
    >>> bool((context.predict(phantom.signals) == phantom.counts).mean() > voxelwise)
    True
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "estimator": [HasMethods(["fit", "predict_proba"]), list, tuple],
        "method": [StrOptions(set(METHODS))],
        "sigma": [Interval(Real, 0, None, closed="neither"), None],
        "mask": ["array-like", HasMethods(["get_fdata"]), None],
        "voxel_size": [Interval(Real, 0, None, closed="neither"), "array-like", None],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "coupling": [Interval(Real, 0, None, closed="left")],
        "noise_range": ["array-like", None],
        "noise_distribution": [StrOptions(set(physics.NOISE_DISTRIBUTIONS))],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        method: str = "average",
        sigma: float | None = None,
        mask: Any = None,
        voxel_size: Any = None,
        n_neighbors: int = 1000,
        coupling: float = 1.0,
        noise_range: Any = None,
        noise_distribution: str = "gaussian",
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.sigma = sigma
        self.mask = mask
        self.voxel_size = voxel_size
        self.n_neighbors = n_neighbors
        self.coupling = coupling
        self.noise_range = noise_range
        self.noise_distribution = noise_distribution

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: ArrayLike | None = None, y: ArrayLike | None = None) -> Self:
        """Fit the classifiers to rows of signals, whose places do not matter.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), optional
            Signals, such as simulated ones. Frozen classifiers and
            :class:`corrsk.SimulationTrainedClassifier` need none.
        y : array of shape (n_samples,), optional
            Labels.

        Returns
        -------
        SpatialClassifier
            The fitted classifier itself.

        Raises
        ------
        ValueError
            If the classifiers have different classes or numbers of measurements, or the noise of
            one of several is unknown.

        Warns
        -----
        SpatialContextWarning
            If a classifier that is not frozen is fitted already, and is fitted again.
        """
        several = self._estimators()
        for each in several:
            if not isinstance(each, FrozenEstimator) and _is_fitted(each):
                warnings.warn(
                    f"the {type(each).__name__} is fitted already, and is cloned and fitted again; "
                    "FrozenEstimator(..) of sklearn.frozen keeps it as it is",
                    SpatialContextWarning,
                    stacklevel=user_level(),
                )
        fitted = [clone(each).fit(X, y) for each in several]
        Coverage.of_all(fitted, self.noise_range)  # its errors
        first = fitted[0]
        for each in fitted[1:]:
            if not np.array_equal(each.classes_, first.classes_):
                raise ValueError(
                    f"the classifiers must have the same classes, got {list(first.classes_)} and "
                    f"{list(each.classes_)}"
                )
            if each.n_features_in_ != first.n_features_in_:
                raise ValueError(
                    "the classifiers must have the same measurements, got "
                    f"{first.n_features_in_} and {each.n_features_in_}"
                )
        self.estimators_ = fitted
        return self

    def _estimators(self) -> list[Any]:
        given = self.estimator
        several = list(given) if isinstance(given, (list, tuple)) else [given]
        if not several:
            raise ValueError("estimator must have at least one classifier, got an empty list")
        for each in several:
            if not is_classifier(each) or not hasattr(each, "predict_proba"):
                raise ValueError(f"{each!r:.80} is no classifier with predict_proba")
        return several

    # -- predictions ----------------------------------------------------------------

    def average(self, X: ArrayLike, mask: Any = None) -> AveragedSignals:
        """Average the like neighbours of each voxel, without a classification.

        Parameters
        ----------
        X : array
            Signals; see :meth:`predict_proba`.
        mask : array of bool or nibabel image, optional
            See :meth:`predict_proba`.

        Returns
        -------
        AveragedSignals
            Volumes of averages and of their remaining noise.

        Raises
        ------
        ValueError
            If the places of the voxels are unknown.
        """
        check_is_fitted(self)
        places = self._places(X, mask)
        if places is None:
            raise ValueError("rows of signals need a mask, the places of their voxels")
        return self._averaged(places)

    def predict_proba(self, X: ArrayLike, mask: Any = None) -> NDArray[np.float64]:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array of shape (n_x, n_y, n_measurements) or (n_x, n_y, n_z, n_measurements)
            Volume of signals. Or rows of the voxels of a mask, in C order, an array or DataFrame of
            shape (n_voxels, n_measurements).
        mask : array of bool or nibabel image, optional
            Voxels to use, or the places of the rows; None (default) for the parameter `mask`.

        Returns
        -------
        ndarray of shape (.., n_classes) or (n_voxels, n_classes)
            Probabilities in the order of `classes_`; NaN for voxels outside the mask or without
            signal.

        Raises
        ------
        ValueError
            If X and the mask do not match, or the noise cannot be estimated.

        Warns
        -----
        SpatialContextWarning
            If rows have no mask, so that each is classified by itself; or if the noise that remains
            is outside the range of the training of all classifiers, or this range is unknown.
        NoSignalWarning
            If voxels have no signal; once, with their number.
        """
        check_is_fitted(self)
        places = self._places(X, mask)
        if places is None:
            warnings.warn(
                "rows of signals have no places: each is classified without its neighbours. Pass "
                "mask=, whose voxels they are, or a volume",
                SpatialContextWarning,
                stacklevel=user_level(),
            )
            found: NDArray[np.float64] = self.estimators_[0].predict_proba(X)
            return found
        return self._predicted(X, places)

    def _predicted(
        self, X: Any, places: _Places, comparison: Comparison | None = None
    ) -> NDArray[np.float64]:
        """Probabilities of places, which are a part of an image if its `comparison` is given."""
        inside = places.inside
        if comparison is not None:
            volume = places.volume.astype(np.float32)
            volume[~inside] = 0
            averaged = average_compared(volume, inside, comparison, self.noise_distribution)
        elif "average" in self.method:
            averaged = self._averaged(places)
        else:
            averaged = average_like_neighbours(
                places.volume, sigma=self.sigma, mask=inside, n_neighbors=0,
                noise_distribution=self.noise_distribution,
            )  # fmt: skip
        maps = np.full((*inside.shape, len(self.classes_)), np.nan)
        maps[inside] = self._classified(averaged, inside, X)
        if "field" in self.method:
            maps = mean_field(
                maps, coupling=self.coupling, mask=inside, voxel_size=places.voxel_size,
                similarity=like_neighbours(averaged, inside),
            )  # fmt: skip
        return maps if places.rows is None else maps[places.rows]

    def predict_log_proba(self, X: ArrayLike, mask: Any = None) -> NDArray[np.float64]:
        """Predict the logarithm of the probability of each class.

        Parameters
        ----------
        X : array
            Signals; see :meth:`predict_proba`.
        mask : array of bool or nibabel image, optional
            See :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (.., n_classes)
            Natural logarithms of the probabilities.
        """
        return log_probabilities(self.predict_proba(X, mask))

    def predict(self, X: ArrayLike, mask: Any = None) -> NDArray[Any]:
        """Predict the most probable class.

        Parameters
        ----------
        X : array
            Signals; see :meth:`predict_proba`, also for errors and warnings.
        mask : array of bool or nibabel image, optional
            See :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (..) or (n_voxels,)
            Classes; 0 for voxels outside the mask or without signal.
        """
        return most_probable(self.predict_proba(X, mask), self.classes_)

    def predict_multicompartment_proba(self, X: ArrayLike, mask: Any = None) -> NDArray[np.float64]:
        """Predict the probability of more than one compartment, P(n_c >= 2).

        Parameters
        ----------
        X : array
            Signals; see :meth:`predict_proba`, also for errors and warnings.
        mask : array of bool or nibabel image, optional
            See :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (..) or (n_voxels,)
            Sum of the probabilities of the counts >= 2; NaN for voxels without signal.
        """
        check_is_fitted(self)
        return multicompartment_probability(self.predict_proba(X, mask), self.classes_)

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy of the predicted classes, where voxels without signal count as errors.

        Parameters
        ----------
        X : array
            Signals; see :meth:`predict_proba`.
        y : array of shape (..) or (n_voxels,)
            Labels.
        sample_weight : array like y, optional
            Weight of each voxel.

        Returns
        -------
        float
            Share of the right classes.
        """
        weight = None if sample_weight is None else np.ravel(sample_weight)
        labels = np.ravel(self.predict(X))
        return float(accuracy_score(np.ravel(y), labels, sample_weight=weight))

    # -- images in parts ----------------------------------------------------------------

    def compare(self, X: ArrayLike, mask: Any = None, *, shape: Any = None) -> Comparison:
        """Find the noise and the neighbours of an image from a part of it.

        Parameters
        ----------
        X : array
            Signals; see :meth:`predict_proba`.
        mask : array of bool or nibabel image, optional
            See :meth:`predict_proba`.
        shape : tuple of int, optional
            Number of voxels of the whole image along each axis; None (default) for that of X.

        Returns
        -------
        Comparison
            Argument of :meth:`predict_proba_of_part`. Its attribute `reach` is the number of voxels
            along each axis on which the result of a voxel depends.

        Raises
        ------
        ValueError
            If the places of the voxels are unknown, the noise cannot be estimated, or `method` has
            a field, which depends on all voxels.
        """
        check_is_fitted(self)
        if self.method != "average":
            raise ValueError(
                f"parts of an image need method='average', got {self.method!r}: a field depends on "
                "all voxels"
            )
        places = self._places(X, mask)
        if places is None:
            raise ValueError("rows of signals need a mask, the places of their voxels")
        volume = places.volume.astype(np.float32)
        volume[~places.inside] = 0
        whole = places.inside.shape if shape is None else shape
        size = checked_voxel_size(places.voxel_size, places.inside.ndim)
        return Comparison.from_image(
            volume, places.inside, size, self.n_neighbors, self.sigma, whole
        )

    def predict_proba_of_part(
        self, X: ArrayLike, mask: Any, comparison: Comparison
    ) -> NDArray[np.float64]:
        """Predict the probability of each class in a part of an image.

        Parameters
        ----------
        X : array
            Signals; see :meth:`predict_proba`.
        mask : array of bool or nibabel image
            See :meth:`predict_proba`.
        comparison : Comparison
            Noise and neighbours of the image, from :meth:`compare`.

        Returns
        -------
        ndarray
            See :meth:`predict_proba`. Equal to those of the whole image in voxels that are at least
            `comparison.reach` away from the cut surfaces of the part.
        """
        check_is_fitted(self)
        places = self._places(X, mask)
        if places is None:
            raise ValueError("rows of signals need a mask, the places of their voxels")
        return self._predicted(X, places, comparison)

    # -- parts ------------------------------------------------------------------------

    def _averaged(self, places: _Places) -> AveragedSignals:
        return average_like_neighbours(
            places.volume, sigma=self.sigma, mask=places.inside, voxel_size=places.voxel_size,
            n_neighbors=self.n_neighbors, noise_distribution=self.noise_distribution,
        )  # fmt: skip

    def _places(self, X: Any, mask: Any) -> _Places | None:
        """Volume of the signals; None for rows without places."""
        mask = self.mask if mask is None else mask
        size = self.voxel_size
        if mask is not None and hasattr(mask, "dataobj"):  # an image of nibabel
            if size is None:
                size = mask.header.get_zooms()[: len(mask.shape)]
            mask = np.asanyarray(mask.dataobj)
        inside = None if mask is None else np.asarray(mask).astype(bool)
        shape = X.shape if hasattr(X, "shape") else np.asarray(X).shape
        if len(shape) <= 2:
            if inside is None or len(shape) < 2:
                return None
            if inside.ndim not in (2, 3) or inside.sum() != shape[0]:
                raise ValueError(
                    "the mask must have two or three axes and one voxel for each of the "
                    f"{shape[0]} rows of X, got {int(inside.sum())} voxels of shape {inside.shape}"
                )
            values = np.asarray(X)
            volume = np.zeros((*inside.shape, shape[1]), dtype=values.dtype)
            volume[inside] = values
        else:
            values = volume = np.asarray(X)
            if volume.ndim not in (3, 4):
                raise ValueError(
                    "X must be rows (n_voxels, n_measurements) or a volume (n_x, n_y, "
                    f"n_measurements) or (n_x, n_y, n_z, n_measurements), got shape {volume.shape}"
                )
            if inside is None:
                inside = np.ones(volume.shape[:-1], dtype=bool)
            elif inside.shape != volume.shape[:-1]:
                raise ValueError(
                    f"the mask must have the shape {volume.shape[:-1]} of the volume, got "
                    f"{inside.shape}"
                )
            values = volume[inside]
        if volume.dtype.kind not in "fiu":
            raise ValueError(f"X must be real, got {volume.dtype}; see SignalPhaser")
        if volume.shape[-1] != self.n_features_in_:
            raise ValueError(
                f"X has {volume.shape[-1]} measurements, but SpatialClassifier is expecting "
                f"{self.n_features_in_} features as input"
            )
        dark = without_signal(values)
        if dark.any():
            warn_of_voxels_without_signal(dark)
        lit = inside.copy()
        lit[inside] = ~dark
        if not lit.any():
            raise ValueError("no voxel has a signal")
        return _Places(volume, lit, inside if len(shape) == 2 else None, size)

    def _classified(
        self, averaged: AveragedSignals, inside: NDArray[np.bool_], X: Any
    ) -> NDArray[np.float64]:
        """Probabilities of the voxels inside, from the classifier that covers their noise."""
        rows = averaged.signals[inside]
        sigma = averaged.sigma[inside].astype(np.float64)
        table: Any = rows
        if hasattr(X, "columns"):
            table = pd.DataFrame(rows, columns=X.columns)
            table.attrs = dict(X.attrs)
        coverages = Coverage.of_all(self.estimators_, self.noise_range)
        excess = np.stack([each.excess(table, sigma) for each in coverages])
        chosen = excess.argmin(axis=0)
        self._warn_of_noise(excess.min(axis=0), sigma)
        found = np.empty((len(rows), len(self.classes_)))
        for k, each in enumerate(self.estimators_):
            own = np.flatnonzero(chosen == k)
            if own.size:
                part = table.iloc[own] if hasattr(table, "iloc") else table[own]
                found[own] = each.predict_proba(part)
        return found

    def _warn_of_noise(self, excess: NDArray[np.float64], sigma: NDArray[np.float64]) -> None:
        left = f"{np.median(sigma):.3g} (median)"
        message = None
        if np.isnan(excess).all():
            message = (
                f"the noise that the classifier was trained for is unknown; that of the signals is "
                f"{left}. Probabilities are wrong for another noise: pass noise_range"
            )
        else:
            outside = float(np.mean(np.abs(excess) > np.log(Coverage.TOLERANCE)))
            if outside > Coverage.SHARE:
                message = (
                    f"the noise that remains, {left} in the unit of the signals, is outside the "
                    f"range of the training of all classifiers in {outside:.0%} of the voxels. "
                    "Their probabilities are not calibrated: add a model for such noise, or change "
                    "n_neighbors"
                )
        if message is not None:
            warnings.warn(message, SpatialContextWarning, stacklevel=user_level())

    # -- scikit-learn -----------------------------------------------------------------

    @property
    def classes_(self) -> NDArray[Any]:
        """Classes of the classifiers."""
        classes: NDArray[Any] = self.estimators_[0].classes_
        return classes

    @property
    def n_features_in_(self) -> int:
        """Number of measurements."""
        return int(self.estimators_[0].n_features_in_)

    @property
    def feature_names_in_(self) -> NDArray[np.object_]:
        """Names of the measurements, if the classifiers were fitted to a DataFrame."""
        names: NDArray[np.object_] = self.estimators_[0].feature_names_in_
        return names

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "estimators_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        given = self.estimator
        first = given[0] if isinstance(given, Sequence) and given else given
        if hasattr(first, "__sklearn_tags__"):
            inner = get_tags(first)
            tags.classifier_tags = inner.classifier_tags
            tags.input_tags.sparse = inner.input_tags.sparse
            tags.input_tags.allow_nan = inner.input_tags.allow_nan
            tags.target_tags = inner.target_tags
        tags.input_tags.three_d_array = True
        return tags
