"""Transformer that reorders measured columns and refuses signals of other protocols."""

from __future__ import annotations

import copy
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils import Tags
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_array, check_is_fitted

from corrsk import physics
from corrsk._utils.pickles import EarlierPicklesMixin
from corrsk._utils.validation import (
    EFFICIENCY,
    FLOATS,
    NOT_NEGATIVE,
    layout_of,
    refuse_volume,
)
from corrsk.acquisition._differences import pairing
from corrsk.acquisition.column_names import measurements_of_names
from corrsk.acquisition.compatibility import (
    ProtocolComparison,
    ProtocolMismatchError,
    compare_protocols,
)
from corrsk.acquisition.labels import attached_protocol, column_names, with_column_names
from corrsk.acquisition.protocol import (
    AcquisitionProtocol,
    NamesOfOtherProtocolError,
    protocol_of_columns,
    resolve_protocol,
)
from corrsk.physics.contrasts import own_units
from corrsk.physics.magnitudes import checked_coils
from corrsk.physics.noise_levels import NoiseLevels, SNRRange
from corrsk.preprocessing._scale import check_unit_m0
from corrsk.preprocessing.signals import (
    advice_for_volume,
    layout_of_protocol,
    measured_signals,
    volume_as_rows,
)
from corrsk.tissue.prior import TissuePrior, resolve_prior


class ProtocolAligner(TransformerMixin, EarlierPicklesMixin, BaseEstimator):
    """Reorder measured columns into the order of the trained protocol, and refuse other protocols.

    First step of a Pipeline whose model was trained on one protocol. The columns of a DataFrame
    are identified by their names (TI50_TE4.5, ..; see
    :meth:`AcquisitionProtocol.from_feature_names`), in any order; TR, if the names do not
    include it, is taken from `measured_protocol`, or else from the trained protocol; a table whose
    ``attrs["protocol"]`` has the protocol, as measured images have it
    (:class:`corrsk.SignalMasker`), needs neither. The columns of
    an array are those of `measured_protocol`, or else of the trained protocol, in its order. A
    MultiIndex of columns with the levels TI and TE, and a DataArray with such dimensions, are
    read like names.

    Protocols are compared by :func:`corrsk.compare_protocols`: the trained protocol is
    accepted in any order, a close one with a warning, and others are refused.

    Parameters
    ----------
    protocol : AcquisitionProtocol or str, default="ir-se-8x8"
        The trained protocol.
    measured_protocol : AcquisitionProtocol or str, default="auto"
        The protocol of the columns, in their order; "auto" reads the protocol from the column
        names (TI50_TE4.5), and takes columns without such names for the trained protocol. None is
        an older spelling of "auto".
    prior : TissuePrior or str, default="midl2024"
        The tissue that the model was trained on.
    noise_level : float, sequence of float or SNRRange
        The noise level that the model was trained on.
    noise_reference : {"m0", "max", "rms", "first"}, default="m0"
        Reference of the noise level: M0, the largest absolute signal, or the root mean square.
    norm : {"l2", "rms", "max"} or None, default="l2"
        Norm that the model divides signals by. None is for a model of signals with M0 = 1:
        :meth:`transform` refuses signals that cannot have M0 = 1.
    inversion_efficiency : float, default=1.0
        Inversion efficiency that the model was trained on.
    noise_distribution : {"gaussian", "rician"}, default="gaussian"
        Distribution of the noise that the model was trained on. A model with "rician" noise is for
        magnitudes: :meth:`transform` replaces signals by their absolute values.
    n_coils : int, default=1
        Number of coils of Rician noise that the model was trained on; see
        :class:`corrsk.CorrelationSignalGenerator`.

    Attributes
    ----------
    protocol_ : AcquisitionProtocol
        The trained protocol, whose order is that of the output columns.
    measured_protocol_ : AcquisitionProtocol
        The protocol of the columns passed to `fit`.
    order_ : ndarray of int, shape (n_measurements,)
        Column order: ``X[:, order_]`` is in the order of the trained protocol.
    n_features_in_ : int
        Number of measurements.
    layout_ : tuple of int or None
        Shape of each signal if the signals of `fit` have more than two dimensions or their grid is
        known, else None.
    feature_names_in_ : ndarray of str
        Names of the columns, if the signals of `fit` have names.

    Examples
    --------
    >>> from corrsk import AcquisitionProtocol, ProtocolAligner, make_correlation_signals
    >>> X, y = make_correlation_signals(5, random_state=0)
    >>> aligner = ProtocolAligner().fit(X)
    >>> aligner.transform(X).shape
    (5, 64)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "protocol": [AcquisitionProtocol, str],
        "measured_protocol": [AcquisitionProtocol, str, None],
        "prior": [TissuePrior, str],
        "noise_level": [NOT_NEGATIVE, "array-like", SNRRange],
        "noise_reference": [StrOptions(set(physics.NOISE_REFERENCES))],
        "norm": [StrOptions(set(physics.NORMS)), None],
        "inversion_efficiency": EFFICIENCY,
        "noise_distribution": [StrOptions(set(physics.NOISE_DISTRIBUTIONS))],
        "n_coils": [Integral],
    }

    def __init__(
        self,
        protocol: AcquisitionProtocol | str = "ir-se-8x8",
        measured_protocol: AcquisitionProtocol | str | None = "auto",
        prior: TissuePrior | str = "midl2024",
        noise_level: NoiseLevels = (0.01, 0.02, 0.03, 0.04, 0.05),
        noise_reference: str = "m0",
        norm: str | None = "l2",
        inversion_efficiency: float = 1.0,
        noise_distribution: str = "gaussian",
        n_coils: int = 1,
    ) -> None:
        self.protocol = protocol
        self.measured_protocol = measured_protocol
        self.prior = prior
        self.noise_level = noise_level
        self.noise_reference = noise_reference
        self.norm = norm
        self.inversion_efficiency = inversion_efficiency
        self.noise_distribution = noise_distribution
        self.n_coils = n_coils

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None) -> ProtocolAligner:
        """Compare the protocols and check the signals.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals.
        y : array of shape (n_samples,), optional
            Ignored, but for its shape: a volume with labels is refused.

        Returns
        -------
        ProtocolAligner
            The transformer itself.

        Raises
        ------
        ProtocolMismatchError
            If the signals have another protocol; a ValueError.
        ValueError
            If the signals contain NaN or infinite values, the column names contradict
            `measured_protocol`, some of them have scan parameters and another is not understood,
            the axes of X are not those of the protocol, or there are several coils without Rician
            noise.

        Warns
        -----
        ProtocolWarning
            If the protocol of the signals is close to the trained one.
        """
        checked_coils(self.n_coils, self.noise_distribution)
        refuse_volume(X, y)
        X = with_column_names(X)
        named = self._protocol_of_names(X)
        signals = measured_signals(self, X, reset=True)
        trained = self._trained_protocol()
        measured = named or self._given_protocol() or trained
        if named is None:
            self._check_columns(signals, measured)
            self.layout_ = layout_of_protocol(layout_of(X), measured)
        self.protocol_ = trained
        self._match(self.compare(measured).check(stacklevel=4), measured)
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.floating[Any]]:
        """Reorder signals into the order of the trained protocol.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals. Named columns may have any order. Also a volume, an array of shape
            (.., n_measurements).

        Returns
        -------
        ndarray of shape (n_samples, n_measurements), or of the shape of the volume
            Signals in the order of the trained protocol; of a model with "rician" noise their
            absolute values.

        Raises
        ------
        ProtocolMismatchError
            If the column names belong to another protocol; a ValueError.
        ValueError
            If some names of columns have scan parameters and another name is not understood, the
            axes of X are not those of the protocol, a value is NaN or infinite, `norm` is None
            and the signals cannot have M0 = 1, or X is a volume and the output is set to
            DataFrames.

        Warns
        -----
        ProtocolWarning
            If the column names belong to a protocol close to the trained one, and not to that
            of `fit`.
        UserWarning
            If `norm` is None, and M0 = 1 is improbable, or impossible for some of the signals.
        """
        check_is_fitted(self)
        X = with_column_names(X)
        named = self._protocol_of_names(X)
        if named is None:
            rows, volume = volume_as_rows(self, X)
            layout_of_protocol(layout_of(rows), self.measured_protocol_)
            signals = measured_signals(self, rows, reset=False)
            if not np.array_equal(self.order_, np.arange(len(self.order_))):
                # C order in memory, on which the rounding of sums depends
                signals = np.take(signals, self.order_, axis=1)
            signals = self._checked_values(signals)
            return signals if volume is None else signals.reshape(*volume, -1)
        comparison = self.compare(named)
        if named == self.measured_protocol_ and comparison.order is not None:
            order = np.asarray(comparison.order)  # `fit` has warned already
        else:
            order = comparison.check(stacklevel=3)
        return self._checked_values(
            np.take(check_array(X, dtype=FLOATS, estimator=self), order, axis=1)
        )

    def compare(self, measured: AcquisitionProtocol | str) -> ProtocolComparison:
        """Compare a protocol with the trained one, without refusing it.

        Parameters
        ----------
        measured : AcquisitionProtocol or str
            The protocol to compare.

        Returns
        -------
        ProtocolComparison
            The comparison.
        """
        return compare_protocols(
            self._trained_protocol(), measured, prior=self.prior,
            noise_level=self.noise_level, noise_reference=self.noise_reference, norm=self.norm,
            inversion_efficiency=self.inversion_efficiency,
        )  # fmt: skip

    def matched_to(
        self, measured: AcquisitionProtocol | str, *, note: str = "", stacklevel: int = 2
    ) -> ProtocolAligner:
        """Return a fitted copy for signals of a measured protocol, in its order.

        Parameters
        ----------
        measured : AcquisitionProtocol or str
            The protocol of the signals.
        note : str
            Text to append to a warning.
        stacklevel : int, default=2
            As in :func:`warnings.warn`.

        Returns
        -------
        ProtocolAligner
            The fitted copy.

        Raises
        ------
        ProtocolMismatchError
            If the protocol differs from the trained one; a ValueError.

        Warns
        -----
        ProtocolWarning
            If the protocol is close to the trained one.
        """
        check_is_fitted(self)
        order = self.compare(measured).check(note, stacklevel=stacklevel + 1)
        matched = copy.deepcopy(self)
        matched.measured_protocol = measured
        matched._match(order, resolve_protocol(measured))
        # the columns now belong to this protocol; the names of `fit` no longer apply
        if hasattr(matched, "feature_names_in_"):
            del matched.feature_names_in_
        matched.layout_ = matched.measured_protocol_.grid_layout
        return matched

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the trained measurements, such as "TI50_TE4.5", in the order of the protocol.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        ndarray of str, shape (n_measurements,)
            Names of the output columns.
        """
        check_is_fitted(self)
        return np.asarray(self.protocol_.feature_names, dtype=object)

    def _checked_values(self, signals: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Return magnitudes if the model needs them; refuse signals that cannot have M0 = 1."""
        if self.noise_distribution == "rician":
            signals = np.abs(signals)
        if self.norm is None:
            check_unit_m0(
                # in one order, because equal protocols share a cached estimator
                self.protocol_.to_grid(signals, copy=False),
                protocol=self.protocol_.in_grid_order(), prior=resolve_prior(self.prior),
                noise_level=self.noise_level, noise_reference=self.noise_reference,
                noise_distribution=self.noise_distribution,
                inversion_efficiency=self.inversion_efficiency, n_coils=self.n_coils,
            )  # fmt: skip
        return signals

    # -- the protocol of the columns ----------------------------------------

    def _match(self, order: NDArray[np.intp], measured: AcquisitionProtocol) -> None:
        self.order_ = order
        self.measured_protocol_ = measured

    def _trained_protocol(self) -> AcquisitionProtocol:
        return resolve_protocol(self.protocol)

    def _given_protocol(self) -> AcquisitionProtocol | None:
        given = self.measured_protocol
        # None in files of earlier versions
        return None if given is None or given == "auto" else resolve_protocol(given)

    def _protocol_of_names(self, X: Any) -> AcquisitionProtocol | None:
        """Return the protocol of the column names; None if the names are no measurements."""
        names = column_names(X)
        if names is None:
            return None
        given = self._given_protocol()
        attached = attached_protocol(X)
        if attached is not None:
            if given is not None and attached != given:
                raise ValueError(
                    f"the signals have the protocol {attached!r}, which contradicts "
                    f"measured_protocol={given!r}; pass the protocol of the columns, or 'auto'"
                )
            return attached
        expected = self._trained_protocol() if given is None else given
        try:
            return protocol_of_columns(names, expected)
        except NamesOfOtherProtocolError as error:
            if given is not None:
                raise ValueError(
                    f"the column names {', '.join(names[:3])}, .. contradict "
                    f"measured_protocol={given!r}: {error}; pass the protocol of the columns, or "
                    "'auto'"
                ) from error
        # the names of another protocol, which may be close to the trained one
        named, read = protocol_of_columns(names), measurements_of_names(names)
        if named is None or read is None:
            return named
        return with_details_of(named, expected, own_tr=read.tr is not None)

    def _check_columns(self, X: NDArray[Any], measured: AcquisitionProtocol) -> None:
        if X.shape[1] != measured.n_measurements:
            which = "trained" if self._given_protocol() is None else "measured"
            raise ProtocolMismatchError(
                f"X has {X.shape[1]} columns, but the {which} protocol has "
                f"{measured.n_measurements} measurements, {measured!r}"
                + advice_for_volume(self.layout_, measured)
            )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def with_details_of(
    named: AcquisitionProtocol, other: AcquisitionProtocol, *, own_tr: bool
) -> AcquisitionProtocol:
    """Protocol of column names with what these lack: TR, readout and series of another protocol.

    Where TR, readout or series differ between the measurements, each has those of the most similar
    one of the other protocol. With `own_tr`, the names have their TR.

    Raises
    ------
    ProtocolMismatchError
        If an echo time of the names is no echo of the train of the other protocol.
    """
    tr, readout, series = other.tr, other.readout, other.series
    if isinstance(tr, np.ndarray) or isinstance(readout, tuple) or series is not None:
        order = pairing(other, named)
        if order is None:  # other contrasts or another number of measurements: refused anyway
            return named
        place = np.argsort(order)  # of each named measurement in the other protocol
        tr = other._tr_of_each[place]
        readout = tuple(other._readout_of_each[position] for position in place)
        series = other._series_of_each[place]
    if readout is not None and "TE" not in named.contrasts:  # refused anyway
        return named
    try:
        return AcquisitionProtocol(
            named.contrasts, tr=named.tr if own_tr else tr, units=own_units(), readout=readout,
            series=series,
        )  # fmt: skip
    except ValueError as error:
        raise ProtocolMismatchError(
            f"the protocol of the column names differs from that of the model: {error}"
        ) from error
