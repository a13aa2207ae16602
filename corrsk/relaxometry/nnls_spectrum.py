"""Transformer from signals to regularised spectra of tissue properties."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import TransformerMixin, _fit_context, clone
from sklearn.utils import Tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from corrsk._utils.parallel import effective_n_jobs
from corrsk._utils.rng import RandomStateLike, Stream, entropy, keyed_generator
from corrsk._utils.validation import checked_count
from corrsk.acquisition.bounds import Bounds
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.preprocessing.signals import measured_signals
from corrsk.relaxometry._base import _VoxelModel
from corrsk.relaxometry._kernels import Array, KernelModel
from corrsk.relaxometry._nnls import SMALLEST_ALPHA, DualSolver, PriorSolver
from corrsk.relaxometry._penalties import PENALTIES, PenaltySolver
from corrsk.relaxometry._voxels import signal_norms
from corrsk.relaxometry._weights import RULES, Solver, by_criterion, by_factor, by_noise
from corrsk.relaxometry.spectra import Spectra
from corrsk.relaxometry.spectrum import check_spectra, checked_bins, misfit_of_spectra

_N_B1 = 33  # values of the relative refocusing angle
_B1_STEPS = (4, 2, 1)  # of the search along these values
_N_IMAGE = 1000  # voxels that find the angle of an image


class NNLSSpectrum(TransformerMixin, _VoxelModel):
    """Transformer from signals to regularised non-negative spectra.

    The signal of each voxel is inverted to a spectrum s >= 0 on a log-spaced grid of tissue
    properties, such as T2, T1 x T2 or T1 x T2 x D, by least squares with the penalty
    ``alpha ||L s||^2``. `fit` uses only the number and names of the columns.

    Parameters
    ----------
    protocol : AcquisitionProtocol or str, default="auto"
        Protocol of the columns of X; see :class:`corrsk.NNLSPeakClassifier`.
    n_bins : int or dict of str to int, default=32
        Number of grid points along each tissue property, for all properties or by property; at
        most 262,144 in all.
    bounds : dict of str to (low, high) or PropertyRange, TissuePrior, str or None, default=None
        Range of each tissue property in ms or um^2/ms; see :class:`corrsk.NNLSPeakClassifier`.
    penalty : {"identity", "first-difference", "second-difference"}, default="identity"
        Operator L: s itself, or its differences along each axis of the grid, beyond which s is
        zero. Differences couple the cells: a spectrum on 32 x 32 bins takes seconds.
    regularization : {"chi2", "discrepancy", "l-curve", "gcv", "evidence"} or float, default="chi2"
        Weight alpha relative to the largest squared singular value of the kernel, or the rule that
        chooses it for each voxel; see Notes.
    chi2_factor : float, default=1.02
        Factor of "chi2".
    noise_level : float or None, default=None
        Standard deviation of the noise in the unit of the signals, which "discrepancy" needs;
        see :func:`corrsk.estimate_noise`.
    b1 : (float, float) or None, default=None
        Range of the relative refocusing angle of an echo train that is searched: the value, on a
        grid of 33, whose nearly unregularised spectra have the smallest residual. None for
        the angle of the protocol.
    b1_scope : {"voxel", "image"}, default="voxel"
        Whether each voxel has its own relative refocusing angle, or all voxels of a call the same.
    inversion_efficiency : float, default=1.0
        Inversion efficiency eta in (0, 1].
    n_jobs : int or None, default=None
        Number of threads; None uses every core (one within a joblib worker).
    verbose : bool, default=True
        Whether to show progress once the solution takes a few seconds.
    prior : estimator or None, default=None
        Model of compartments with a method ``predict_spectrum(X, grid)``, such as
        :class:`corrsk.MultiExponentialClassifier`. The penalty is then ``alpha ||s - p||^2`` with
        its spectrum p of each voxel. `fit` fits a clone to the signals, without labels; pass a
        fitted model, also one that is calibrated, as ``FrozenEstimator(model)``. None (default)
        for p = 0.

    Attributes
    ----------
    axes_ : dict of str to ndarray
        Values of each tissue property along the axes of the spectra.
    bounds_ : dict of str to (low, high)
        Range of each tissue property.
    prior_ : estimator
        The fitted `prior`, if there is one.
    protocol_ : AcquisitionProtocol
        The protocol, in the order of the columns of `fit`.
    n_features_in_ : int
        Number of measurements.
    layout_ : tuple of int or None
        Shape of each signal if the signals of `fit` have more than two dimensions or their grid is
        known, else None.
    feature_names_in_ : ndarray of str
        Names of the measurements, if the signals of `fit` have names.

    Notes
    -----
    The rules for alpha, which is between 1e-8 and 1:

    - "chi2": the residual sum of squares is `chi2_factor` times that of alpha = 1e-8 (Whittall and
      MacKay, J. Magn. Reson. 84, 134 (1989));
    - "discrepancy": it is that of noise of `noise_level` (Morozov, Dokl. Akad. Nauk 167, 510
      (1966));
    - "l-curve": the corner of the penalty over the residual (Hansen, SIAM Rev. 34, 561 (1992));
    - "gcv": generalised cross-validation (Golub, Heath and Wahba, Technometrics 21, 215 (1979));
    - "evidence": the largest evidence of a Gaussian prior (MacKay, Neural Comput. 4, 415 (1992)).

    A `prior` replaces the choice between the infinitely many spectra that explain a signal: without
    it, the penalty prefers the smallest one. With "chi2" the spectrum is that of the prior unless
    the signal contradicts it, by a residual above `chi2_factor` times the smallest one. Where the
    prior has no solution, p is 0.

    The last three take the cells that are not zero for a linear problem. They follow the spectra
    over 17 weights, and need about five times as long as the first two.

    With numba (extra `fast`) the solver is compiled, and about seven times as fast.

    Examples
    --------
    >>> from corrsk import make_correlation_signals
    >>> from corrsk.relaxometry import NNLSSpectrum
    >>> X, _ = make_correlation_signals(20, noise_level=0.01, random_state=0)
    >>> spectra = NNLSSpectrum("ir-se-8x8", bounds="midl2024").fit(X).invert(X)
    >>> spectra.amplitudes.shape
    (20, 32, 32)
    >>> fractions = spectra.window_fractions({"short T2": {"T2": (0, 40)}})
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **_VoxelModel._parameter_constraints,
        "n_bins": [Interval(Integral, 2, None, closed="left"), dict],
        "penalty": [StrOptions(set(PENALTIES))],
        "regularization": [StrOptions(set(RULES)), Interval(Real, 0, None, closed="neither")],
        "chi2_factor": [Interval(Real, 1, None, closed="neither")],
        "noise_level": [Interval(Real, 0, None, closed="neither"), None],
        "b1": [tuple, list, None],
        "b1_scope": [StrOptions({"voxel", "image"})],
        "prior": [HasMethods(["fit", "predict_spectrum"]), None],
    }

    def __init__(
        self,
        protocol: AcquisitionProtocol | str = "auto",
        n_bins: int | Mapping[str, int] = 32,
        bounds: Bounds = None,
        penalty: str = "identity",
        regularization: float | str = "chi2",
        chi2_factor: float = 1.02,
        noise_level: float | None = None,
        b1: tuple[float, float] | None = None,
        b1_scope: str = "voxel",
        inversion_efficiency: float = 1.0,
        n_jobs: int | None = None,
        verbose: bool = True,
        prior: Any = None,
    ) -> None:
        self.protocol = protocol
        self.n_bins = n_bins
        self.bounds = bounds
        self.penalty = penalty
        self.regularization = regularization
        self.chi2_factor = chi2_factor
        self.noise_level = noise_level
        self.b1 = b1
        self.b1_scope = b1_scope
        self.inversion_efficiency = inversion_efficiency
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.prior = prior

    _model_in_words = "spectra"
    _further_causes = ", or a spectrum with too few points (n_bins)"
    _after_misfit = ""

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Validate the parameters and the protocol, and prepare the kernel.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol.
        y : object, optional
            Ignored.

        Returns
        -------
        self
            The transformer itself.

        Raises
        ------
        ValueError
            If there is a `prior` with another penalty than "identity" or a protocol of several
            series, the signals have NaN or infinite values, the protocol has another number of
            measurements, the names of the columns or the axes of X contradict the protocol, a
            parameter is out of range, "discrepancy" lacks `noise_level`, or `b1` is given for a
            protocol without an echo train.

        Warns
        -----
        ProtocolWarning
            If `protocol` is "auto" and 64 columns without names of measurements are taken for
            "ir-se-8x8".
        """
        effective_n_jobs(self.n_jobs)  # so that `fit` refuses 0, not a later `transform`
        if self.regularization == "discrepancy" and self.noise_level is None:
            raise ValueError(
                "regularization='discrepancy' needs noise_level, the standard deviation of the "
                "noise in the unit of the signals; estimate_noise(X, protocol) estimates it"
            )
        if self.prior is not None and self.penalty != "identity":
            raise ValueError(
                f"a prior needs penalty='identity', the distance from its spectrum; got "
                f"{self.penalty!r}"
            )
        measured_signals(self, X, reset=True)
        self._fit_protocol(self._counts)
        self.__dict__.pop("prior_", None)
        if self.prior is not None:
            if self.protocol_.series is not None:
                raise ValueError(
                    "a prior needs signals of one scale, but the protocol has several series"
                )
            self.prior_ = clone(self.prior).fit(X, None)
        return self

    def invert(self, X: ArrayLike) -> Spectra:
        """Spectra of voxels, with the weight and the residual of each.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol, at any scale. Also a volume, an
            array of shape (.., n_measurements).

        Returns
        -------
        Spectra
            Amplitudes of shape (n_samples, n_T1, n_T2[, n_D]), or (.., n_T1, n_T2[, n_D]) of a
            volume, and how they were found.

        Raises
        ------
        ValueError
            If a signal has NaN or infinite values, or the columns or axes of X contradict the
            protocol.
        MemoryError
            If the spectra would not fit into memory.

        Warns
        -----
        NoSignalWarning
            If signals are all zero; once, with their number.
        ConvergenceWarning
            Once, with the number of voxels that could not be solved, and once with the number of
            voxels that no spectrum explains.
        """
        spectra = self._invert(*self._voxels(X))
        self._warn_of_misfits(spectra.misfit)
        return spectra

    def _invert(self, signals: NDArray[np.floating[Any]], shape: tuple[int, ...]) -> Spectra:
        """Spectra of signals (n_voxels, n_measurements) in grid order, as maps of a shape."""
        check_spectra(len(signals), self._shape)
        norm = signal_norms(signals)
        with np.errstate(divide="ignore"):
            variance = (np.nan if self.noise_level is None else self.noise_level / norm) ** 2
        angles = self._angle_of_image(signals) if self._searches("image") else None
        solve = (
            self._solve
            if angles is None
            else lambda unit, own, prior: self._at(unit, own, prior, angles)
        )
        amplitudes, weight, rss, place, misfit = self._solve_voxels(
            signals, solve, [self._shape, (), (), (), ()],
            given=[np.broadcast_to(variance, norm.shape), self._spectra_of_prior(signals, norm)],
        )  # fmt: skip
        b1 = None
        if self.b1 is not None:
            known = ~np.isnan(place)
            b1 = np.full(place.shape, np.nan)
            b1[known] = self._b1_values[place[known].astype(np.intp)]
            b1 = b1.reshape(shape)
        amplitudes *= norm.reshape(-1, *(1,) * len(self._shape))
        residual = norm * np.sqrt(rss / signals.shape[1])
        return Spectra(
            self.axes_, amplitudes.reshape(*shape, *self._shape), weight.reshape(shape),
            residual.reshape(shape), misfit.reshape(shape) == 1, b1,
        )  # fmt: skip

    def transform(self, X: ArrayLike) -> Array:
        """Spectra of voxels as rows.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals; see :meth:`invert`.

        Returns
        -------
        ndarray of shape (n_samples, n_cells)
            Amplitudes of all cells of the grid `axes_`, in C order; see
            :meth:`get_feature_names_out`. Of a volume maps of shape (.., n_cells).
        """
        amplitudes = self.invert(X).amplitudes
        n_axes = len(self._shape)
        return amplitudes.reshape(*amplitudes.shape[:-n_axes], -1)

    def bootstrap(
        self, X: ArrayLike, n_draws: int = 50, *, random_state: RandomStateLike = None
    ) -> Iterator[Spectra]:
        """Spectra of the same voxels with other noise, for the uncertainty of what they give.

        Parametric bootstrap: each draw inverts the signals of the spectra of X with new Gaussian
        noise, of `noise_level`, or else of the residual of each voxel. The scatter of a fraction or
        a peak over the draws is its standard error from noise; what the penalty hides is not in it.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals; see :meth:`invert`.
        n_draws : int, default=50
            Number of draws.
        random_state : int, RandomState instance or None, default=None
            Determines the noise.

        Yields
        ------
        Spectra
            Spectra of a draw.

        Raises
        ------
        ValueError
            If `n_draws` is not a positive integer, or as :meth:`invert`.

        Notes
        -----
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 6.

        Examples
        --------
        >>> import numpy as np
        >>> from corrsk import make_correlation_signals
        >>> from corrsk.relaxometry import NNLSSpectrum
        >>> X, _ = make_correlation_signals(3, noise_level=0.001, random_state=0)
        >>> model = NNLSSpectrum("ir-se-8x8", n_bins=12).fit(X)
        >>> draws = [each.geometric_mean("T2") for each in model.bootstrap(X, 5, random_state=0)]
        >>> np.std(draws, axis=0).shape
        (3,)
        """
        checked_count("n_draws", n_draws, at_least=1)
        measured, shape = self._voxels(X)
        found = self._invert(measured, shape)
        n_cells = math.prod(self._shape)
        rows = found.amplitudes.reshape(-1, n_cells)
        solved = np.isfinite(rows.sum(axis=1))
        signals = np.zeros((len(rows), self.n_features_in_))
        number = np.zeros(len(rows), dtype=np.intp)
        if found.b1 is not None:
            distance = np.abs(found.b1.reshape(-1, 1) - self._b1_values)
            number[solved] = distance[solved].argmin(axis=1)
        for each in np.unique(number[solved]):
            own = solved & (number == each)
            signals[own] = self._solvers[each].signals(rows[own])
        sigma = found.residual.reshape(-1, 1)
        sigma = np.where(
            solved[:, None], sigma if self.noise_level is None else self.noise_level, 0
        )
        base = entropy(random_state)
        for draw in range(n_draws):
            noise = keyed_generator(base, Stream.DRAW, draw).standard_normal(signals.shape)
            yield self._invert(signals + sigma * noise, shape)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the cells of the spectra.

        Parameters
        ----------
        input_features : object, optional
            Ignored.

        Returns
        -------
        ndarray of str, shape (n_cells,)
            Names such as "T1=520_T2=81.3".
        """
        check_is_fitted(self)
        mesh = np.meshgrid(*self.axes_.values(), indexing="ij")
        cells = zip(*(values.ravel() for values in mesh), strict=True)
        names = [
            "_".join(f"{name}={value:.3g}" for name, value in zip(self.axes_, cell, strict=True))
            for cell in cells
        ]
        return np.asarray(names, dtype=object)

    # -- solution -------------------------------------------------------------------------

    def _prepare(
        self, protocol: AcquisitionProtocol, model: KernelModel, counts: NDArray[np.int64]
    ) -> None:
        self._shape = checked_bins(self.n_bins, model)
        axes, _ = model.grid(self._shape)
        self.axes_ = dict(zip(model.properties, axes, strict=True))
        if self.b1 is None:
            self._solvers = [self._solver(model)]
            return
        self._b1_values = np.linspace(*self._checked_b1(protocol), _N_B1)
        # the table of echo trains grows with the range: both ends first, so that it is made once
        ends = np.log(self._b1_values[[0, -1], None])
        model.factors(np.concatenate([np.stack([model.low, model.high]), ends], axis=1)[None])
        self._solvers = [self._solver(model.at(b1=value)) for value in self._b1_values]

    def _solver(self, model: KernelModel) -> Solver:
        if self.penalty == "identity":
            return DualSolver(model, self._shape)
        return PenaltySolver(model, self._shape, self.penalty)

    def _fitted_nuisances(self, protocol: AcquisitionProtocol) -> dict[str, tuple[float, float]]:
        return {} if self.b1 is None else {"b1": self._checked_b1(protocol)}

    def _checked_b1(self, protocol: AcquisitionProtocol) -> tuple[float, float]:
        if protocol.readout is None:
            raise ValueError(
                "b1 is the relative angle of refocusing pulses, but the protocol has no echo "
                "train; pass AcquisitionProtocol(.., readout=EchoTrain(spacing)) or b1=None"
            )
        assert self.b1 is not None
        limits = tuple(self.b1)
        if len(limits) != 2 or not 0 < limits[0] < limits[1] < 2:
            raise ValueError(f"b1 must have two ascending values between 0 and 2, got {self.b1!r}")
        return float(limits[0]), float(limits[1])

    def _searches(self, scope: str) -> bool:
        return self.b1 is not None and self.b1_scope == scope

    def _spectra_of_prior(self, signals: NDArray[np.floating[Any]], norm: Array) -> Array:
        """Spectra (V, M) of the prior for signals with norm 1, or (V, 0) without one."""
        if self.prior is None:
            return np.empty((len(signals), 0))
        X: Any = self.protocol_.to_scan_order(signals)
        if hasattr(self, "feature_names_in_"):
            X = pd.DataFrame(X, columns=self.feature_names_in_)
        found = np.asarray(self.prior_.predict_spectrum(X, self.axes_), np.float64)
        if found.shape != (len(signals), *self._shape):
            raise ValueError(
                f"predict_spectrum of the prior must return spectra of shape "
                f"{(len(signals), *self._shape)}, got {found.shape}"
            )
        rows = found.reshape(len(found), -1)
        known = np.isfinite(rows).all(axis=1) & (norm > 0)
        if (rows[known] < 0).any():
            raise ValueError("predict_spectrum of the prior has returned negative amplitudes")
        spectra = np.zeros(rows.shape)
        spectra[known] = rows[known] / norm[known, None]
        return spectra

    def _solve(self, unit: Array, variance: Array, prior: Array) -> tuple[Array, ...]:
        if not self._searches("voxel"):
            return self._at(unit, variance, prior, 0)
        place = self._best_angles(unit)
        parts = [np.empty((len(unit), *self._shape)), *(np.empty(len(unit)) for _ in range(4))]
        for number in np.unique(place):
            rows = place == number
            found = self._at(unit[rows], variance[rows], prior[rows], int(number))
            for part, values in zip(parts, found, strict=True):
                part[rows] = values
        return tuple(parts)

    def _at(self, unit: Array, variance: Array, prior: Array, number: int) -> tuple[Array, ...]:
        """Spectra of signals with norm 1, weights, squares of residuals, solver, 1 for a misfit."""
        solver = without_prior = self._solvers[number]
        x = unit
        if isinstance(solver, DualSolver) and prior.shape[1]:
            solver, x = PriorSolver(solver), np.concatenate([unit, prior], axis=1)
        if self.regularization == "chi2":
            dual, alpha = by_factor(solver, x, self.chi2_factor)
        elif self.regularization == "discrepancy":
            dual, alpha = by_noise(solver, x, variance)
        elif isinstance(self.regularization, str):
            dual, alpha = by_criterion(solver, x, self.regularization)
        else:
            alpha = np.full(len(unit), float(self.regularization))
            dual = solver.fixed(x, float(self.regularization))
        rss = solver.residual(x, dual, alpha)
        rows = solver.spectrum(dual)
        misfit = misfit_of_spectra(self._noise, without_prior, unit, rows.sum(axis=1), rss)
        return (
            rows.reshape(-1, *self._shape), alpha, rss, np.full(len(unit), float(number)),
            misfit.significant[:, 0].astype(np.float64),
        )  # fmt: skip

    def _best_angles(self, unit: Array) -> NDArray[np.intp]:
        """Number of the solver with the smallest residual of each signal, by steps of half size."""
        costs = np.full((_N_B1, len(unit)), np.inf)
        rows = np.arange(len(unit))
        wanted = np.zeros(costs.shape, dtype=bool)
        wanted[:: _B1_STEPS[0]] = True
        for step in (*_B1_STEPS[1:], 0):
            for number in np.flatnonzero(wanted.any(axis=1)):
                own = wanted[number]
                costs[number, own] = self._least_residual(unit[own], int(number))
            best = np.where(np.isnan(costs), np.inf, costs).argmin(axis=0)
            wanted[:] = False
            for shift in (-step, step):
                wanted[np.clip(best + shift, 0, _N_B1 - 1), rows] = True
            wanted &= np.isinf(costs)
        return best

    def _least_residual(self, unit: Array, number: int) -> Array:
        solver = self._solvers[number]
        dual = solver.fixed(unit, SMALLEST_ALPHA)
        return solver.residual(unit, dual, np.full(len(unit), SMALLEST_ALPHA))

    def _angle_of_image(self, signals: NDArray[np.floating[Any]]) -> int:
        """Number of the solver with the smallest residual over the voxels of an image."""
        lit = np.flatnonzero(np.any(signals != 0, axis=1))
        some = signals[lit[np.linspace(0, lit.size - 1, min(_N_IMAGE, lit.size)).astype(np.intp)]]
        if not len(some):
            return 0

        def residuals(unit: Array) -> tuple[Array, ...]:
            every = range(len(self._solvers))
            return (np.stack([self._least_residual(unit, number) for number in every], axis=1),)

        (costs,) = self._solve_voxels(some, residuals, [(len(self._solvers),)])
        return int(np.nanmean(costs, axis=0).argmin())

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags
