"""Transformer from tissue to noisy signals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils import Tags
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from corrsk import physics
from corrsk._utils.parallel import for_each_block
from corrsk._utils.pickles import EarlierPicklesMixin
from corrsk._utils.rng import RandomStateLike, Stream, entropy
from corrsk._utils.validation import (
    EFFICIENCY,
    N_JOBS,
    NOT_NEGATIVE,
    RANDOM_STATE,
    refuse_unusable,
)
from corrsk.acquisition.protocol import (
    AcquisitionProtocol,
    protocol_of_columns,
    resolve_protocol,
)
from corrsk.physics.magnitudes import checked_coils
from corrsk.physics.noise_levels import NoiseLevels, SNRRange, checked_noise_levels
from corrsk.physics.units import Units
from corrsk.simulation._blocks import BlockSimulator
from corrsk.tissue.table import TableLayout


class CorrelationSignalGenerator(TransformerMixin, EarlierPicklesMixin, BaseEstimator):
    """Transformer that simulates the noisy correlation signals of a tissue table.

    Parameters
    ----------
    protocol : AcquisitionProtocol or str, default="ir-se-8x8"
        Acquisition protocol, or the name of a protocol that corrsk ships.
    noise_level : float, sequence of float or SNRRange, default=(0.01, 0.02, 0.03, 0.04, 0.05)
        Noise level as a fraction (0.01 is "1 %"). From several levels or a range every voxel
        draws its own level, all with equal probability. A column `noise_level` in the tissue
        table overrides this parameter.
    noise_reference : {"m0", "max", "rms", "first"}, default="m0"
        Reference of the noise level: M0 = 1 (the literal interpretation of the
        paper), the largest absolute value of the voxel's signal (the usual
        SNR convention), the root mean square of the signal, or the absolute value of its first
        measurement in grid order (the first echo of an echo train).
    noise_distribution : {"gaussian", "rician"}, default="gaussian"
        Gaussian for phased, signed signals; Rician for magnitude images.
    inversion_efficiency : float, default=1.0
        Inversion efficiency eta in (0, 1].
    dtype : {"float32", "float64"}, default="float32"
        Precision of the signals.
    random_state : int, RandomState, Generator or None, default=None
        Seed of the noise. An integer makes the result bit-identical for any `n_jobs`. With None,
        a Pipeline with `memory=` would cache the first noise.
    n_jobs : int or None, default=None
        Number of threads; None uses every core (one within a joblib worker).
    verbose : bool, default=True
        Whether to show progress once a simulation takes a few seconds.
    units : str or mapping of str to str, optional
        Units of the tissue table: "ms", "s" or "us" for all times, or units by property, such as
        ``{"T1": "s", "D": "mm^2/s"}``. A stated unit is believed: pass "ms" for tissue with
        shorter times than usual. By default, times are in ms and diffusivities in um^2/ms, and a
        table whose largest T1, T2 or D is not plausible in these units is refused.
    n_coils : int, default=1
        Number of coils of magnitude images (root of the sum of squares), for Rician noise: with
        more than one the noise is noncentral chi; see
        :func:`corrsk.physics.add_noncentral_chi_noise`.

    Attributes
    ----------
    protocol_ : AcquisitionProtocol
        The protocol, whose order is that of the output columns.
    n_features_in_ : int
        Number of columns of the tissue table.
    feature_names_in_ : ndarray of str
        Names of the columns, if the tissue table of `fit` has names.

    Notes
    -----
    Training and test signals never share noise. With an integer `random_state`,
    `fit_transform` and `transform` draw from different streams, and each block
    of voxels has a separate stream whose key includes the tissue of the block, so
    that two different tables (such as validation and test data) differ in their noise
    too. The key does not include the noise level: tables and parameters that
    differ in the noise level only have the same draws, scaled. Equal protocols in
    different orders have the same signals and noise, with the columns in the order
    of each protocol.

    Signals follow Eq. 1 of Endt, Lachermeier and Menzel, MIDL 2024, or the
    general form with TR if the protocol has a TR.

    Examples
    --------
    >>> from corrsk import CorrelationSignalGenerator, TissuePrior
    >>> tissue, n_c = TissuePrior.named("midl2024").sample(100, random_state=0)
    >>> generator = CorrelationSignalGenerator(noise_level=0.01, random_state=0)
    >>> generator.fit_transform(tissue).shape
    (100, 64)
    """

    _simulates_signals = True  # for corrsk._utils.steps.simulates_signals

    _parameter_constraints: dict[str, list[Any]] = {
        "protocol": [AcquisitionProtocol, str],
        "noise_level": [NOT_NEGATIVE, "array-like", SNRRange],
        "noise_reference": [StrOptions(set(physics.NOISE_REFERENCES))],
        "noise_distribution": [StrOptions(set(physics.NOISE_DISTRIBUTIONS))],
        "inversion_efficiency": EFFICIENCY,
        "dtype": [StrOptions({"float32", "float64"})],
        "random_state": RANDOM_STATE,
        "n_jobs": N_JOBS,
        "verbose": ["verbose"],
        "units": [str, Mapping, None],
        "n_coils": [Integral],
    }

    def __init__(
        self,
        protocol: AcquisitionProtocol | str = "ir-se-8x8",
        noise_level: NoiseLevels = (0.01, 0.02, 0.03, 0.04, 0.05),
        noise_reference: str = "m0",
        noise_distribution: str = "gaussian",
        inversion_efficiency: float = 1.0,
        dtype: str = "float32",
        random_state: RandomStateLike = None,
        n_jobs: int | None = None,
        verbose: bool = True,
        units: Units = None,
        n_coils: int = 1,
    ) -> None:
        self.protocol = protocol
        self.noise_level = noise_level
        self.noise_reference = noise_reference
        self.noise_distribution = noise_distribution
        self.inversion_efficiency = inversion_efficiency
        self.dtype = dtype
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.units = units
        self.n_coils = n_coils

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None) -> CorrelationSignalGenerator:
        """Validate the parameters and the tissue table.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_columns)
            Tissue table: T1_1.., T2_1.., (D_1..,) f_1.. in ms, um^2/ms and
            fractions, optionally noise_level. An absent compartment has f = 0
            and NaN (or 0) elsewhere. Columns without names must have this order.
        y : None
            Ignored.

        Returns
        -------
        CorrelationSignalGenerator
            The transformer itself.

        Raises
        ------
        ValueError
            If the table lacks a column or has NaN where f > 0, relaxation
            times <= 0, fractions that are negative or do not sum to 1, or values that are not
            plausible in its units.
        """
        with self._advice_for_signals(X):
            table = self._fit(X)
            layout = self._layout()
            for_each_block(
                lambda block, rows: layout.check(table[rows], rows.start),
                table.shape[0], n_jobs=self.n_jobs, description="checking tissue",
                verbose=self.verbose,
            )  # fmt: skip
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X: ArrayLike, y: Any = None) -> NDArray[np.floating[Any]]:
        """Fit and simulate, with noise that :meth:`transform` never draws.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_columns)
            Tissue table; see :meth:`fit`.
        y : None
            Ignored.

        Returns
        -------
        ndarray of shape (n_samples, n_measurements)
            Signals, with columns in the order of the protocol.

        Raises
        ------
        ValueError
            If the table is invalid; see :meth:`fit`.
        """
        with self._advice_for_signals(X):
            return self._simulate(self._fit(X), Stream.FIT_TRANSFORM)

    def transform(self, X: ArrayLike) -> NDArray[np.floating[Any]]:
        """Simulate the signals of a tissue table.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_columns)
            Tissue table; see :meth:`fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_measurements)
            Signals, with columns in the order of the protocol.

        Raises
        ------
        ValueError
            If the table is invalid; see :meth:`fit`.
        """
        check_is_fitted(self)
        with self._advice_for_signals(X):
            return self._simulate(self._checked_table(X, reset=False), Stream.TRANSFORM)

    def _fit(self, X: ArrayLike) -> NDArray[np.float64]:
        self._resolve()
        return self._checked_table(X, reset=True)

    def _resolve(self) -> None:
        # here, so that `fit` refuses invalid levels, not a later `transform`
        checked_noise_levels(self.noise_level)
        checked_coils(self.n_coils, self.noise_distribution)
        self.protocol_ = resolve_protocol(self.protocol)

    def _fit_columns(self, columns: Sequence[str]) -> CorrelationSignalGenerator:
        """Validate the parameters, and fit the generator to a table of these columns.

        Parameters
        ----------
        columns : sequence of str
            Names of the columns of the tissue table.

        Returns
        -------
        CorrelationSignalGenerator
            The transformer itself, fitted as by a table with valid rows.

        Raises
        ------
        ValueError
            If a parameter is out of range, or the protocol needs other columns.
        """
        self._validate_params()
        self._resolve()
        self.feature_names_in_ = np.asarray(columns, dtype=object)
        self.n_features_in_ = len(columns)
        self._layout()
        return self

    def _checked_table(self, X: ArrayLike, *, reset: bool) -> NDArray[np.float64]:
        # NaN marks absent compartments; the check of the layout refuses all other NaN.
        # The rows are checked block by block, by `fit` or in the pass that simulates them.
        refuse_unusable(X)
        table = validate_data(self, X, reset=reset, dtype=np.float64, ensure_all_finite=False)
        return self._layout().in_own_units(table, self.units)

    @contextmanager
    def _advice_for_signals(self, X: Any) -> Iterator[None]:
        """Add to the errors of a table what to do if X consists of signals."""
        try:
            yield
        except ValueError as error:
            if not self._resembles_signals(X):
                raise
            raise ValueError(
                f"{error}\nX has the form of signals, but {type(self).__name__} simulates signals "
                "from a tissue table. Pass signals to the steps behind it: pipeline[1:]"
            ) from error

    def _resembles_signals(self, X: Any) -> bool:
        """Return whether X has the names or the shape of signals of the protocol."""
        names = getattr(X, "columns", None)
        if names is not None:
            return protocol_of_columns(map(str, names)) is not None
        shape = np.shape(X) if isinstance(X, (list, tuple)) else getattr(X, "shape", ())
        protocol = getattr(self, "protocol_", None)  # of a fit that has failed there is none
        return len(shape) > 2 or (
            protocol is not None and tuple(shape[-1:]) == (protocol.n_measurements,)
        )

    def _layout(self) -> TableLayout:
        names = getattr(self, "feature_names_in_", None)
        columns = self.n_features_in_ if names is None else list(names)
        return TableLayout.from_columns(columns, self.protocol_.tissue_properties)

    def _block_simulator(self, stream: Stream, norm: str | None = None) -> BlockSimulator:
        # blocks that are simulated separately are bit-identical to those of `fit_transform`
        return BlockSimulator(
            self.protocol_, self.inversion_efficiency,
            self._layout(), checked_noise_levels(self.noise_level),
            self.noise_reference, self.noise_distribution,
            entropy(self.random_state), stream, norm, self.n_coils,
        )  # fmt: skip

    def _simulate(self, table: NDArray[np.float64], stream: Stream) -> NDArray[np.floating[Any]]:
        simulate = self._block_simulator(stream)
        signals = np.empty((table.shape[0], self.protocol_.n_measurements), dtype=self.dtype)

        def check_and_simulate(block: int, rows: slice) -> None:
            simulate.layout.check(table[rows], rows.start)
            simulate(block, table[rows], signals[rows])

        for_each_block(
            check_and_simulate, table.shape[0], n_jobs=self.n_jobs, description="simulating",
            verbose=self.verbose,
        )  # fmt: skip
        return signals

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the measurements, such as "TI50_TE4.5", in the order of the protocol.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        ndarray of str, shape (n_measurements,)
            Names.
        """
        check_is_fitted(self)
        return np.asarray(self.protocol_.feature_names, dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = True  # the noise of a voxel depends on its row
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []  # the parameter `dtype` determines the dtype
        return tags
