"""Transformer from images to rows of signals, and back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils import Tags
from sklearn.utils._param_validation import StrOptions
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from corrsk._utils.pickles import EarlierPicklesMixin
from corrsk.acquisition.compatibility import ProtocolMismatchError
from corrsk.acquisition.labels import attached_protocol, signals_table, with_column_names
from corrsk.acquisition.protocol import AcquisitionProtocol, column_order, protocol_of_columns
from corrsk.imaging._masks import read_map, read_mask
from corrsk.imaging._nifti import (
    header_from_plain,
    header_to_plain,
    import_nibabel,
    is_image,
)
from corrsk.imaging.bids import BidsSet
from corrsk.imaging.grid import Grid
from corrsk.imaging.images import MeasuredImages, fill_mask
from corrsk.imaging.reading import load_images
from corrsk.preprocessing.signals import real_or_complex_signals

_GROUPS = ("image", "slice")


@dataclass(frozen=True, eq=False)
class _Voxels:
    """Voxels that have a row: grid and mask of an image, without its values."""

    grid: Grid
    mask: NDArray[np.bool_]
    name: str

    def to_plain(self) -> dict[str, Any]:
        """Convert to arrays and plain values, for files."""
        header = None if self.grid.header is None else header_to_plain(self.grid.header)
        return {"shape": self.grid.shape, "affine": self.grid.affine, "header": header,
                "mask": self.mask, "name": self.name}  # fmt: skip

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> _Voxels:
        """Restore from the values of :meth:`to_plain`."""
        shape, header = content["shape"], header_from_plain(content["header"])
        return cls(Grid(shape, content["affine"], header), content["mask"], content["name"])

    @property
    def n_voxels(self) -> int:
        return int(self.mask.sum())


class SignalMasker(TransformerMixin, EarlierPicklesMixin, BaseEstimator):
    """Turn measured images into one row of signals for each voxel, and results into images.

    First step of a Pipeline from images to maps: with a :class:`corrsk.ProtocolAligner`, a
    :class:`corrsk.SignalNormalizer` and a classifier, ``pipeline.predict(images)`` has one label
    for each voxel, and :meth:`inverse_transform` makes an image of them. The contract is that of
    the maskers of nilearn.

    Rows of signals that are no images, arrays and DataFrames of shape (n_voxels, n_measurements),
    pass unchanged. So the same Pipeline can be searched: scikit-learn splits samples, which are
    voxels, and :meth:`groups` keeps the voxels of a subject or a slice together.

    Parameters
    ----------
    mask_img : path-like, nibabel image, array or None, default=None
        Voxels to use, in all images; see :meth:`corrsk.imaging.MeasuredImages.with_mask`. None for
        the mask of the images themselves, or, without one, all voxels with a signal.
    protocol : path-like, AcquisitionProtocol, str or None, default=None
        Protocol of images that are passed as paths, images of nibabel or arrays: the argument
        `times` of :func:`corrsk.imaging.load_images`. None for the times of their sidecars.
    dtype : {"float32", "float64"}, default="float32"
        Type of the signals that are read.

    Attributes
    ----------
    mask_img_ : nibabel image or None
        Voxels of the images of `fit` that have a row, of type uint8; None after `fit` with several
        images or with rows.
    n_elements_ : int
        Number of rows of `fit`.
    protocol_ : AcquisitionProtocol or None
        Protocol of the columns; None if they are rows whose columns have no names of measurements.
    n_features_in_ : int
        Number of measurements.
    feature_names_in_ : ndarray of str
        Names of the measurements, unless `fit` had an array of rows.

    Notes
    -----
    Voxels of the mask without signal (all zero) or with NaN have no row, and a warning has their
    number; their results are NaN, or 0 for labels. :meth:`transform` returns a DataFrame: the
    names of its columns and ``attrs["protocol"]`` are the measured protocol, so that the next step
    detects another order or another protocol.

    Examples
    --------
    >>> import numpy as np
    >>> from corrsk import SignalMasker, make_correlation_signals
    >>> from corrsk.imaging import load_images
    >>> X, y = make_correlation_signals(60, random_state=0)
    >>> images = load_images(X.reshape(5, 4, 3, 64), "ir-se-8x8")
    >>> masker = SignalMasker().fit(images)
    >>> masker.transform(images).shape
    (60, 64)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "mask_img": "no_validation",  # type: ignore[dict-item]
        "protocol": [AcquisitionProtocol, str, os.PathLike, None],
        "dtype": [StrOptions({"float32", "float64"})],
    }

    def __init__(
        self,
        mask_img: Any = None,
        protocol: AcquisitionProtocol | str | os.PathLike[str] | None = None,
        dtype: str = "float32",
    ) -> None:
        self.mask_img = mask_img
        self.protocol = protocol
        self.dtype = dtype

    # -- images to rows ------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> SignalMasker:
        """Read the images, and find the voxels that have a row.

        Parameters
        ----------
        X : MeasuredImages, list of MeasuredImages, or array of shape (n_voxels, n_measurements)
            Images, or what :func:`corrsk.imaging.load_images` opens; several of one protocol in a
            list; or rows of signals.
        y : None
            Ignored.

        Returns
        -------
        SignalMasker
            The transformer itself.

        Raises
        ------
        ValueError
            If the images, their mask or the rows are invalid, or several images have different
            protocols.

        Warns
        -----
        NoSignalWarning
            If voxels of the mask have no signal, or NaN; once for each image.
        """
        self._fit(X)
        return self

    def fit_transform(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Fit to images and return their signals, which are read once.

        Parameters
        ----------
        X : MeasuredImages, list of MeasuredImages, or array of shape (n_voxels, n_measurements)
            Images or rows; see :meth:`fit`.
        y : None
            Ignored.
        **params : dict
            None are valid.

        Returns
        -------
        DataFrame or array of shape (n_voxels, n_measurements)
            Signals; see :meth:`transform`.

        Raises
        ------
        ValueError
            See :meth:`fit`.

        Warns
        -----
        NoSignalWarning
            See :meth:`fit`.
        """
        if params:
            raise TypeError(f"fit_transform has no parameters {', '.join(params)}")
        self._validate_params()
        return self._fit(X)

    def _fit(self, X: Any) -> Any:
        for name in ("protocol_", "feature_names_in_"):
            if hasattr(self, name):
                delattr(self, name)
        images = self._images(X)
        if images is None:
            X = with_column_names(X)
            rows = real_or_complex_signals(self, X, reset=True)
            self._voxels: list[_Voxels] = []
            self.protocol_ = attached_protocol(X) or protocol_of_columns(
                getattr(self, "feature_names_in_", None)
            )
            self.n_elements_ = len(rows)
            return X if hasattr(X, "columns") else rows
        table, self._voxels = self._read(images, images[0].protocol)
        self.protocol_ = images[0].protocol
        self.n_features_in_ = self.protocol_.n_measurements
        self.feature_names_in_ = np.asarray(self.protocol_.feature_names, dtype=object)
        self.n_elements_ = len(table)
        return table

    def transform(self, X: Any) -> Any:
        """Read the signals of the voxels.

        Parameters
        ----------
        X : MeasuredImages, list of MeasuredImages, or array of shape (n_voxels, n_measurements)
            Images or rows; see :meth:`fit`. Other images than those of `fit` have their own mask
            unless there is a `mask_img`.

        Returns
        -------
        DataFrame of shape (n_voxels, n_measurements)
            Signals of all images, one after the other, with columns in the order of `fit`, or, for
            another protocol, in their own order. Rows are returned as they are.

        Raises
        ------
        ValueError
            If images, masks or rows are invalid, several images have different protocols, or the
            output is set to DataFrames and the protocol is not that of `fit`.

        Warns
        -----
        NoSignalWarning
            If voxels of the mask have no signal, or NaN; once for each image.
        """
        check_is_fitted(self)
        images = self._images(X)
        if images is None:
            X = with_column_names(X)
            rows = real_or_complex_signals(self, X, reset=False)
            return X if hasattr(X, "columns") else rows
        target = images[0].protocol
        if self.protocol_ is not None and self.protocol_ == target:
            target = self.protocol_  # the order of fit
        elif _get_output_config("transform", self)["dense"] != "default":
            raise ProtocolMismatchError(
                f"{images[0].name} has the protocol {target!r}, but the images of fit had "
                f"{self.protocol_!r}, whose names the output would have; use "
                "set_output(transform='default'), or fit to these images"
            )
        return self._read(images, target)[0]

    # -- results to images -----------------------------------------------------------

    def inverse_transform(self, X: ArrayLike, images: Any = None) -> Any:
        """Arrange results of the voxels as images.

        Parameters
        ----------
        X : array of shape (n_voxels,) or (n_voxels, n_maps)
            Results, such as labels or probabilities, one row for each row of :meth:`transform`.
        images : MeasuredImages or list of MeasuredImages, optional
            The images that were transformed; None (default) for those of `fit`.

        Returns
        -------
        nibabel image or list of nibabel image
            Image of shape (n_x, n_y, n_z), or (n_x, n_y, n_z, n_maps), with the affine of the
            measured images; a list if there are several of these. Labels from 0 to 255 are of type
            uint8, with 0 in other voxels; other integers int32; numbers float32, with NaN in other
            voxels.

        Raises
        ------
        ValueError
            If there is not one row for each voxel, or `fit` had rows and `images` is None.
        """
        check_is_fitted(self)
        values = np.asarray(X)
        voxels = self._voxels_of(images)
        total = sum(one.n_voxels for one in voxels)
        if values.ndim not in (1, 2) or len(values) != total:
            raise ValueError(
                f"X must have shape ({total},) or ({total}, n_maps), one row for each voxel of "
                f"{', '.join(one.name for one in voxels)}; got {values.shape}"
            )
        ends = np.cumsum([one.n_voxels for one in voxels])[:-1]
        found = [
            _image(fill_mask(part, one.mask), one.grid)
            for part, one in zip(np.split(values, ends), voxels, strict=True)
        ]
        return found if self._is_list(images) else found[0]

    def transform_map(self, maps: Any, images: Any = None) -> NDArray[Any]:
        """Read a map, such as labels, in the voxels that have a row.

        Parameters
        ----------
        maps : path-like, nibabel image or array, or list of these
            Map of shape (n_x, n_y, n_z), up to axes of length 1; one for each image.
        images : MeasuredImages or list of MeasuredImages, optional
            The images; None (default) for those of `fit`.

        Returns
        -------
        ndarray of shape (n_voxels,)
            Values, in the order of the rows: labels y of :meth:`transform`.

        Raises
        ------
        ValueError
            If a map has another shape or affine than its image, or the numbers of maps and images
            differ.
        """
        check_is_fitted(self)
        voxels = self._voxels_of(images)
        each = list(maps) if self._is_list(images) else [maps]
        if len(each) != len(voxels):
            raise ValueError(f"there are {len(each)} maps for {len(voxels)} images")
        return np.concatenate(
            [
                read_map(one, place.grid, place.name, "the map")[0][place.mask]
                for one, place in zip(each, voxels, strict=True)
            ]
        )

    def groups(self, images: Any = None, by: str = "image") -> NDArray[np.int64]:
        """Number the image, or the slice, of each row, for splits of scikit-learn.

        Parameters
        ----------
        images : MeasuredImages or list of MeasuredImages, optional
            The images; None (default) for those of `fit`.
        by : {"image", "slice"}, default="image"
            Voxels that belong together: those of one image (a subject), or of one slice along the
            last axis with more than one voxel.

        Returns
        -------
        ndarray of int, shape (n_voxels,)
            Group of each row, from 0; slices of different images have different numbers.

        Raises
        ------
        ValueError
            If `by` is unknown, or `fit` had rows and `images` is None.
        """
        check_is_fitted(self)
        if by not in _GROUPS:
            raise ValueError(f"by must be one of {', '.join(_GROUPS)}, got {by!r}")
        parts, first = [], 0
        for number, one in enumerate(self._voxels_of(images)):
            if by == "image":
                parts.append(np.full(one.n_voxels, number))
                continue
            axis = one.grid.slab_axis
            parts.append(first + np.nonzero(one.mask)[axis])
            first += one.grid.shape[axis]
        return np.concatenate(parts).astype(np.int64)

    @property
    def mask_img_(self) -> Any:
        """Voxels of the image of `fit` that have a row; None after `fit` with rows or several."""
        check_is_fitted(self)
        if len(self._voxels) != 1:
            return None
        one = self._voxels[0]
        return _image(one.mask.astype(np.uint8), one.grid)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the measurements, such as "TI50_TE4.5", in the order of `fit`.

        Parameters
        ----------
        input_features : array of str or None, default=None
            Names of the columns, if `fit` had rows without names.

        Returns
        -------
        ndarray of str, shape (n_measurements,)
            Names of the output columns.
        """
        check_is_fitted(self)
        return cast("NDArray[np.object_]", _check_feature_names_in(self, input_features))

    # -- files ----------------------------------------------------------------------

    def _stored(self) -> dict[str, Any]:
        """Private results of `fit` as arrays and plain values, for :func:`corrsk.save`."""
        return {"voxels": [one.to_plain() for one in self._voxels]}

    def _restore(self, content: dict[str, Any]) -> None:
        """Restore the values of `_stored`."""
        self._voxels = [_Voxels.from_plain(one) for one in content["voxels"]]

    # -- parts ----------------------------------------------------------------------

    def _images(self, X: Any) -> list[MeasuredImages] | None:
        """Images of an input; None if the input is rows of signals."""
        if isinstance(X, (list, tuple)) and X and all(map(_opens, X)):
            return [self._opened(one) for one in X]
        return [self._opened(X)] if _opens(X) else None

    def _opened(self, source: Any) -> MeasuredImages:
        if isinstance(source, MeasuredImages):
            return source
        return load_images(source, self.protocol)

    def _is_list(self, images: Any) -> bool:
        return len(self._voxels) > 1 if images is None else isinstance(images, (list, tuple))

    def _read(
        self, images: Sequence[MeasuredImages], target: AcquisitionProtocol
    ) -> tuple[pd.DataFrame, list[_Voxels]]:
        """Signals of images, with columns in the order of a protocol, and their voxels."""
        orders = [_order(one.protocol, target, one.name, images[0].name) for one in images]
        masks = [self._mask_of(one) for one in images]  # errors come before any signal is read
        tables, voxels = [], []
        for one, order, mask in zip(images, orders, masks, strict=True):
            signals, kept = one.signals(mask, dtype=self.dtype)
            values = signals.to_numpy()
            tables.append(values if order is None else np.take(values, order, axis=1))
            voxels.append(_Voxels(one.grid, kept, one.name))
        values = tables[0] if len(tables) == 1 else np.concatenate(tables)
        return signals_table(values, target), voxels

    def _mask_of(self, images: MeasuredImages) -> NDArray[np.bool_] | None:
        if self.mask_img is None:
            return images.mask
        return read_mask(self.mask_img, images.grid, images.name)

    def _voxels_of(self, images: Any) -> list[_Voxels]:
        if images is not None:
            opened = self._images(images)
            if opened is None:
                raise TypeError(f"images must be measured images, got {images!r:.80}")
            return [
                _Voxels(one.grid, one.voxels_with_signal(self._mask_of(one)), one.name)
                for one in opened
            ]
        if not self._voxels:
            raise ValueError(
                "fit had rows of signals, whose places are unknown: pass `images`, the images that "
                "were transformed"
            )
        return self._voxels

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_elements_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _opens(source: Any) -> bool:
    """Whether an object is opened as images; arrays and tables are rows."""
    return isinstance(source, (MeasuredImages, BidsSet, str, Path)) or is_image(source)


def _order(
    own: AcquisitionProtocol, target: AcquisitionProtocol, name: str, first: str
) -> NDArray[np.intp] | None:
    """Positions of the measurements of a target among those of an image; None if in its order."""
    if own != target:
        raise ProtocolMismatchError(
            f"{name} has another protocol than {first}: {own!r} and {target!r}; several images "
            "need one protocol"
        )
    if own.feature_names == target.feature_names:
        return None
    return column_order(target, own.feature_names)


def _image(values: NDArray[Any], grid: Grid) -> Any:
    nibabel = import_nibabel()
    kind = values.dtype.kind
    if kind in "biu":
        low, high = int(values.min(initial=0)), int(values.max(initial=0))
        values = values.astype(np.uint8 if low >= 0 and high <= 255 else np.int32)
    elif kind == "f":
        values = values.astype(np.float32)
    header = grid.map_header(values.dtype, values.shape[3] if values.ndim > 3 else None)
    wide = isinstance(header, nibabel.Nifti2Header)
    return (nibabel.Nifti2Image if wide else nibabel.Nifti1Image)(values, grid.affine, header)
