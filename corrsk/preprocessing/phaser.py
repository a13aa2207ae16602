"""Transformer of signed, magnitude or complex signals to one kind."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, _fit_context
from sklearn.utils import Tags
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from corrsk._utils.pickles import EarlierPicklesMixin
from corrsk._utils.validation import layout_of, refuse_volume
from corrsk._utils.voxels import user_level
from corrsk.acquisition.labels import in_protocol_order, with_column_names
from corrsk.acquisition.protocol import (
    AcquisitionProtocol,
    protocol_of_columns,
    resolve_protocol,
)
from corrsk.preprocessing._shapes import Efficiency, checked_efficiency
from corrsk.preprocessing.kind import KINDS, UNDECIDED, signal_kind
from corrsk.preprocessing.phase import checked_reference, phase_signals
from corrsk.preprocessing.polarity import restore_polarity
from corrsk.preprocessing.signals import (
    advice_for_volume,
    layout_of_protocol,
    protocol_of_fit,
    real_or_complex_signals,
    volume_as_rows,
)
from corrsk.tissue.prior import TissuePrior

_DEFAULT_PROTOCOL = "ir-se-8x8"


class SignalPhaser(OneToOneFeatureMixin, TransformerMixin, EarlierPicklesMixin, BaseEstimator):
    """Make signed, magnitude or complex signals signed, or take their magnitude.

    First step of a Pipeline for measured signals: before a :class:`corrsk.ProtocolAligner` or a
    :class:`corrsk.SignalNormalizer`. Complex signals are phased
    (:func:`corrsk.preprocessing.phase_signals`), magnitudes of inversion recoveries get their
    signs back (:func:`corrsk.preprocessing.restore_polarity`), and signed signals are unchanged.

    Parameters
    ----------
    kind : {"auto", "signed", "magnitude", "complex"}, default="auto"
        Kind of the signals. "auto" finds the kind
        (:func:`corrsk.preprocessing.signal_kind`), in `fit`, and again in every :meth:`transform`;
        there, undecided signals are of the kind of `fit`.
    output : {"signed", "magnitude"}, default="signed"
        Kind of the output. "magnitude", for a model of Rician data, is the absolute value.
    protocol : AcquisitionProtocol or str, default="auto"
        Protocol of the signals. "auto" reads it from the column names (TI50_TE4.5), and takes 64
        columns without names for the published 8 x 8 protocol.
    prior : TissuePrior, str or None, default=None
        Tissue that the signals come from. None is 1 to 3 compartments of any T1, T2 (at most T1)
        and D that the protocol resolves.
    inversion_efficiency : float or (low, high), default=(0.8, 1.0)
        Inversion efficiency, or the range of it.
    reference : "auto" or int, default="auto"
        Measurement that gives the phase of complex signals; see
        :func:`corrsk.preprocessing.phase_signals`.
    correct_floor : bool, default=True
        Whether to correct restored magnitudes for the Rician floor near the null; see
        :func:`corrsk.preprocessing.restore_polarity`.

    Attributes
    ----------
    kind_ : {"signed", "magnitude", "complex", "undecided"}
        Kind of the signals of `fit`. Undecided signals are not changed: they look the same,
        signed or not.
    protocol_ : AcquisitionProtocol
        Protocol of the columns of `fit`, in their order.
    n_features_in_ : int
        Number of measurements.
    layout_ : tuple of int or None
        Shape of each signal if the signals of `fit` have more than two dimensions or their grid is
        known, else None.
    feature_names_in_ : ndarray of str
        Names of the measurements, if the signals of `fit` have names.

    Notes
    -----
    With "auto", the kind is that of all signals of a call, so that the output of a voxel can depend
    on the other voxels. Pass the kind if it is known, and always for single voxels.

    Examples
    --------
    >>> import numpy as np
    >>> from corrsk import SignalPhaser, make_correlation_signals
    >>> X, y = make_correlation_signals(50, noise_level=0.001, random_state=0)
    >>> phaser = SignalPhaser(kind="magnitude", correct_floor=False).fit(np.abs(X))
    >>> bool(np.mean(phaser.transform(np.abs(X)) == X) > 0.98)
    True
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "kind": [StrOptions({"auto", *KINDS})],
        "output": [StrOptions({"signed", "magnitude"})],
        "protocol": [AcquisitionProtocol, str],
        "prior": [TissuePrior, str, None],
        "inversion_efficiency": ["array-like", float, int],
        "reference": [StrOptions({"auto"}), Integral],
        "correct_floor": ["boolean"],
    }

    def __init__(
        self,
        kind: str = "auto",
        output: str = "signed",
        protocol: AcquisitionProtocol | str = "auto",
        prior: TissuePrior | str | None = None,
        inversion_efficiency: Efficiency = (0.8, 1.0),
        reference: str | int = "auto",
        correct_floor: bool = True,
    ) -> None:
        self.kind = kind
        self.output = output
        self.protocol = protocol
        self.prior = prior
        self.inversion_efficiency = inversion_efficiency
        self.reference = reference
        self.correct_floor = correct_floor

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None) -> SignalPhaser:
        """Validate the parameters and the signals, and find the kind of the signals.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, real or complex.
        y : array of shape (n_samples,), optional
            Ignored, but for its shape: a volume with labels is refused.

        Returns
        -------
        SignalPhaser
            The transformer itself.

        Raises
        ------
        ValueError
            If the signals contain NaN or infinite values, the protocol cannot be determined or
            has another number of measurements, complex signals are passed for a real `kind` or
            real ones for "complex", or X and y are a volume.

        Warns
        -----
        UserWarning
            If `kind` is "auto" and the signals are found to be magnitudes, whose signs
            :meth:`transform` restores.
        """
        checked_efficiency(self.inversion_efficiency)
        refuse_volume(X, y)
        signals = real_or_complex_signals(self, X, reset=True)
        self.protocol_ = self._protocol_of_fit()
        if self.reference != "auto":
            checked_reference(self.reference, self.protocol_)
        self._check_numbers(signals)
        self.kind_ = self._found(signals) if self.kind == "auto" else self.kind
        if self.kind == "auto" and self.kind_ == "magnitude" and self.output == "signed":
            self._warn("the signals", "")
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.floating[Any]]:
        """Convert signals to the kind of the output.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, real or complex. Columns with the names of measurements may have any order.
            Also a volume, an array of shape (.., n_measurements).

        Returns
        -------
        ndarray of shape (n_samples, n_measurements), or of the shape of the volume
            Real signals, with columns in the order of `fit`.

        Raises
        ------
        ValueError
            If the signals are invalid as in :meth:`fit`, their number or layout differs from that
            of `fit`, or X is a volume and the output is set to DataFrames.

        Warns
        -----
        UserWarning
            If `kind` is "auto" and real signals are of another kind than those of `fit`.
        """
        check_is_fitted(self)
        rows, volume = volume_as_rows(self, with_column_names(X))
        ordered = in_protocol_order(rows, self.protocol_)
        if ordered is not rows:  # of measurements by name, now in the order of fit
            rows = np.asarray(ordered)
        layout_of_protocol(layout_of(rows), self.protocol_)
        signals = real_or_complex_signals(self, rows, reset=False)
        self._check_numbers(signals)
        phased = self._converted(signals)
        return phased if volume is None else phased.reshape(*volume, -1)

    def _converted(self, signals: NDArray[Any]) -> NDArray[np.floating[Any]]:
        if self.output == "magnitude":
            return np.asarray(np.abs(signals))
        kind = self._kind_of(signals)
        options: dict[str, Any] = {
            "prior": self.prior,
            "inversion_efficiency": self.inversion_efficiency,
        }
        if kind == "complex":
            phased = phase_signals(signals, self.protocol_, reference=self.reference, **options)
            return phased.signals
        if kind == "magnitude":
            return restore_polarity(
                signals, self.protocol_, correct_floor=self.correct_floor, **options
            ).signals
        return signals.copy()

    def _kind_of(self, signals: NDArray[Any]) -> str:
        if self.kind != "auto":
            return self.kind
        found = self._found(signals)
        if found == UNDECIDED and self.kind_ != "complex":
            return self.kind_
        if {found, self.kind_} == {"signed", "magnitude"}:
            self._warn("these signals", f", unlike those of fit, which are {self.kind_}", found)
        return found

    def _found(self, signals: NDArray[Any]) -> str:
        return signal_kind(
            signals, self.protocol_,
            prior=self.prior, inversion_efficiency=self.inversion_efficiency,
        )  # fmt: skip

    def _warn(self, which: str, difference: str, found: str = "magnitude") -> None:
        done = "their signs are restored" if found == "magnitude" else "they are not changed"
        warnings.warn(
            f"{which} look {found}{difference}: {done}. Pass kind={found!r} if that is right, or "
            f"kind={'signed' if found == 'magnitude' else 'magnitude'!r}",
            UserWarning,
            stacklevel=user_level(),
        )

    def _check_numbers(self, signals: NDArray[Any]) -> None:
        """Refuse complex numbers of a real kind, and real numbers of a complex one."""
        is_complex = np.iscomplexobj(signals)
        if self.kind == "complex" and not is_complex:
            raise ValueError(
                "kind='complex' needs complex signals, got real ones; pass kind='signed', "
                "'magnitude' or 'auto'"
            )
        if self.kind in ("signed", "magnitude") and is_complex:
            raise ValueError(
                f"Complex data not supported by kind={self.kind!r}; pass kind='complex' or 'auto'"
            )

    def _protocol_of_fit(self) -> AcquisitionProtocol:
        given: AcquisitionProtocol | None = None
        if self.protocol != "auto":
            given = resolve_protocol(self.protocol)
        elif protocol_of_columns(getattr(self, "feature_names_in_", None)) is None:
            given = resolve_protocol(_DEFAULT_PROTOCOL)
            if self.n_features_in_ != given.n_measurements:
                raise ValueError(
                    f"protocol='auto' cannot determine the protocol of these {self.n_features_in_} "
                    "columns: they have no names such as TI50_TE4.5, and the default protocol "
                    f"{_DEFAULT_PROTOCOL!r} has {given.n_measurements} measurements; pass protocol="
                    + advice_for_volume(self.layout_, given)
                )
        protocol = protocol_of_fit(self, given)
        assert protocol is not None
        return protocol

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
