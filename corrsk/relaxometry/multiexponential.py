"""Multi-exponential fits, and the compartment count that a criterion selects."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from corrsk._utils.deprecation import renamed_method
from corrsk._utils.rng import RandomStateLike, entropy
from corrsk._utils.validation import POSITIVE_INTEGER, RANDOM_STATE, checked_count
from corrsk._utils.voxels import user_level
from corrsk._utils.wording import worded
from corrsk.acquisition.bounds import Bounds
from corrsk.acquisition.nuisances import check_nuisances
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics import NOISE_DISTRIBUTIONS
from corrsk.physics.magnitudes import checked_coils
from corrsk.relaxometry._base import _CompartmentCounter
from corrsk.relaxometry._criteria import (
    CRITERIA,
    criterion_weights,
    f_test_choice,
    information_criterion,
    needed_measurements,
)
from corrsk.relaxometry._identifiability import check_number_of_measurements
from corrsk.relaxometry._kernels import Array, KernelModel
from corrsk.relaxometry._lines import checked_grid, spectra_of_lines
from corrsk.relaxometry._magnitudes import fit_magnitudes, without_floor
from corrsk.relaxometry._misfit import Misfit
from corrsk.relaxometry._residuals import ResidualVariance
from corrsk.relaxometry._starts import StartDictionary
from corrsk.relaxometry._varpro import (
    MAX_COMPARTMENTS,
    Fit,
    levenberg_marquardt,
    linearise,
)
from corrsk.relaxometry._voxels import signal_norms
from corrsk.relaxometry.calibration import CalibrationWarning, PulseCalibration
from corrsk.relaxometry.spectrum import check_spectra
from corrsk.tissue.nuisances import Nuisances
from corrsk.tissue.table import table_columns

# A step that reduces the residual by less than this fraction changes a criterion by at most N
# times the fraction; without noise the residual falls by orders of magnitude down to rounding.
_TOLERANCE = 1e-5
_NO_ESTIMATE = -1.0
_FEWEST_COMPARED = 20  # voxels of a batch that is compared with the calibrated image
_FEW_SINGLE = 0.2  # share of the voxels of a batch with one compartment; in an image most are such
_MOST_CALIBRATED = 2000  # voxels for the distribution of the residual variance, evenly spaced
_SUM_TOLERANCE = 1e-3  # of probabilities, which may be rounded
_AT_BOUND = 1e-6  # in the logarithm: steps that are clipped at a bound end there up to rounding


class MultiExponentialClassifier(_CompartmentCounter):
    """Classifier that fits 1, 2, .. compartments and selects the count by a criterion.

    For each voxel and each K up to the largest count, the amplitudes a_i >= 0
    and the tissue properties (T1_i, T2_i, ..) of K compartments are fitted to
    the signal by least squares; a criterion selects K. The classifier is not trained: `fit`
    uses y only for the set of possible counts, which `counts` replaces.

    Parameters
    ----------
    protocol : AcquisitionProtocol or str, default="auto"
        Protocol of the columns of X, in their order, or the name of a protocol that corrsk
        ships; columns with names (TI50_TE4.5) may have any order. "auto" derives the protocol from
        the names; without such names 64 columns are taken for "ir-se-8x8", with a warning.
    bounds : dict of str to (low, high) or PropertyRange, TissuePrior, str or None, default=None
        Range of each tissue property in ms or um^2/ms, or a prior (or its name), whose ranges
        are used. A :class:`corrsk.PropertyRange` can state another unit, or that shorter times
        than usual are meant. None, and properties that are not in the dictionary, have the range
        that the protocol resolves; see Notes.
    criterion : {"aicc", "bic", "f-test"}, default="aicc"
        Corrected Akaike or Bayesian information criterion, or nested F-tests
        from one compartment upwards, all with unknown noise variance. For the 64 measurements of
        the paper BIC selects the fewest compartments.
    alpha : float, default=0.05
        Level of the F-tests.
    n_starts : int, default=4
        Number of initial values per voxel and K from a dictionary: half of them the best
        random tuples of atoms, half the fit of K - 1 compartments with the best
        additional atoms. Further initial values split each compartment of that fit.
    max_steps : int, default=50
        Largest number of Levenberg-Marquardt steps from each initial value.
    inversion_efficiency : float, default=1.0
        Inversion efficiency eta in (0, 1].
    random_state : int, RandomState, Generator or None, default=None
        Seed of the random tuples, which all voxels share.
    n_jobs : int or None, default=None
        Number of threads; None uses every core (one within a joblib worker).
    verbose : bool, default=True
        Whether to show progress once the solution takes a few seconds.
    counts : sequence of int, optional
        Possible compartment counts, such as (1, 2, 3). `fit` then needs no y; see
        :meth:`fit` for labels beside `counts`. None (default) takes the counts from y.
    noise_distribution : {"gaussian", "rician"}, default="gaussian"
        "gaussian" for signed signals, "rician" for magnitudes: signs are unknown, and weak signals
        lie above zero. See Notes.
    nuisances : Nuisances, optional
        Ranges of nuisance parameters that are fitted in each voxel, and shared by its compartments:
        `inversion_efficiency`, `b1` (of echo trains), `offset` (above -1, relative to M0) and
        `gain` (of the second of two series, relative to that which :meth:`calibrate` found). None
        (default) for none.
    min_fraction : float, default=0.0
        Smallest signal fraction of a compartment that counts, in [0, 0.5). In images, signal that
        leaks from neighbouring voxels and ghosts add compartments of a few per cent; 0.05 is the
        smallest fraction in the priors of corrsk. The probability of a fit belongs to the number
        of its compartments with at least this fraction.
    n_coils : int, default=1
        Number of coils whose magnitudes are combined by the root of the sum of squares, with equal
        noise; needs noise_distribution="rician".

    Attributes
    ----------
    classes_ : ndarray
        The labels in y, or `counts`; see :meth:`fit`.
    counts_ : ndarray of int
        The compartment count of each class.
    bounds_ : dict of str to (low, high)
        Range of each tissue property.
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
    Variable projection after Golub and Pereyra, SIAM J. Numer. Anal. 10, 413
    (1973), in Kaufman's variant, over the logarithms of the properties. The
    amplitudes absorb the unknown scale of normalised signals. Fits are nested:
    an additional compartment never increases the residual.

    With P properties a fit has K (P + 1) + 1 parameters, including the noise
    variance. Probabilities are ``exp(-delta / 2)`` of the criterion, normalised
    over the classes (with BIC an approximation of the posterior); with the
    F-test the selected count has probability 1.

    The range that a protocol resolves holds the values of a property at which the kernel k still
    changes: where the largest ``|dk / d log p|`` over the levels is at least a tenth of its
    maximum, or 0.4 where the smallest level has it. For exponentials it is from a third of the
    smallest to 26 times the largest level; T1 ends at 10 s and T2 at 5 s.

    With Rician noise the likelihood is maximised by expectation and maximisation: the expected
    real part of a magnitude m, given the fitted signal S, is ``sign(S) m I1(z) / I0(z)`` with
    ``z = m |S| / sigma^2``, and the fit to these is a fit to signed signals. Signs thus follow
    from the fit, at each echo time, and weak magnitudes count for little. Criteria compare
    residuals from the expected magnitudes. For n coils, ``I_n / I_(n-1)`` is in the place of
    ``I1 / I0``.

    After :meth:`calibrate`, the criteria use the noise of the image: the residual variances of one
    compartment in its voxels, of noise and of what the signal model lacks, have a scale in common
    and an inverse chi-square distribution around it, which is the prior of the variance of a voxel
    (Smyth, Stat. Appl. Genet. Mol. Biol. 3, 3 (2004)). Its degrees of freedom add to those of the
    voxel. Few measurements profit most: the F-test selects two compartments with six measurements
    only with such a prior, and BIC selects too many less often.

    A voxel that no count explains (an F-test of the residual against the noise, which is estimated
    from the part of the signal outside the subspace of all mixtures, at a level of 1e-6) has
    probabilities ``P / chi2 + (1 - 1 / chi2) Q`` with the reduced chi2 of the best fit. P are those
    of the criterion for the residuals inside the subspace, with its dimensions as measurements,
    because what no fit explains is an error of the model; Q are inversely proportional to the root
    of these residuals, and equal for counts that fail alike. After :meth:`calibrate`, whose noise
    has such errors, P are those of the criterion and Q are equal. One ConvergenceWarning has the
    number of such voxels.

    The probabilities of voxels without signal (all zero) and of voxels that cannot be solved are
    NaN and the predicted label is 0; one warning of each kind has their number. The
    scorers of scikit-learn refuse NaN probabilities; those of `corrsk.evaluation.SCORERS` replace
    NaN by uniform guesses.

    Examples
    --------
    >>> from corrsk import make_correlation_signals
    >>> from corrsk.relaxometry import MultiExponentialClassifier
    >>> X, y = make_correlation_signals(40, noise_level=0.001, random_state=0)
    >>> model = MultiExponentialClassifier("ir-se-8x8", random_state=0).fit(X, y)
    >>> model.predict_proba(X).shape
    (40, 4)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **_CompartmentCounter._parameter_constraints,
        "criterion": [StrOptions(set(CRITERIA))],
        "alpha": [Interval(Real, 0, 1, closed="neither")],
        "n_starts": [POSITIVE_INTEGER],
        "max_steps": [POSITIVE_INTEGER],
        "random_state": RANDOM_STATE,
        "noise_distribution": [StrOptions(set(NOISE_DISTRIBUTIONS))],
        "nuisances": [Nuisances, None],
        "min_fraction": [Interval(Real, 0, 0.5, closed="left")],
        "n_coils": [Integral],
    }

    def __init__(
        self,
        protocol: AcquisitionProtocol | str = "auto",
        bounds: Bounds = None,
        criterion: str = "aicc",
        alpha: float = 0.05,
        n_starts: int = 4,
        max_steps: int = 50,
        inversion_efficiency: float = 1.0,
        random_state: RandomStateLike = None,
        n_jobs: int | None = None,
        verbose: bool = True,
        counts: Sequence[int] | None = None,
        noise_distribution: str = "gaussian",
        nuisances: Nuisances | None = None,
        min_fraction: float = 0.0,
        n_coils: int = 1,
    ) -> None:
        self.protocol = protocol
        self.bounds = bounds
        self.criterion = criterion
        self.alpha = alpha
        self.n_starts = n_starts
        self.max_steps = max_steps
        self.inversion_efficiency = inversion_efficiency
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.counts = counts
        self.noise_distribution = noise_distribution
        self.nuisances = nuisances
        self.min_fraction = min_fraction
        self.n_coils = n_coils

    @renamed_method("estimate_compartments")
    def fit_compartments(self, X: ArrayLike, n_compartments: int | None = None) -> Any:
        """Deprecated name of :meth:`estimate_compartments`, for one release.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals; see :meth:`estimate_compartments`.
        n_compartments : int, optional
            Number of compartments; see :meth:`estimate_compartments`.

        Returns
        -------
        DataFrame of n_samples rows
            Tissue table; see :meth:`estimate_compartments`.
        """

    def estimate_compartments(
        self, X: ArrayLike, n_compartments: int | None = None
    ) -> pd.DataFrame:
        """Estimate the compartments of each voxel.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol, at any scale. Also a volume, an
            array of shape (.., n_measurements).
        n_compartments : int, optional
            Number of compartments to fit; None (default) uses the count that
            the criterion selects in each voxel.

        Returns
        -------
        DataFrame of n_samples rows
            One row per voxel, of a volume in the order of ``X.reshape(-1, n_measurements)``.
            Tissue table, T1_1.., T2_1.., f_1.., with the compartments in
            ascending order of T2 (or of the first property without T2).
            Absent compartments have f = 0 and NaN properties. T1_1_se, .. are standard errors of
            the properties, from the curvature of the residual and its size (NaN at a bound, and if
            the measurements are too few). Further columns are n_c (the
            fitted count), scale (the sum of the amplitudes: M0 in the units of
            X), rss (residual sum of squares, in the squared units of X), chi2 (reduced: residual
            variance over that of the noise, NaN if the measurements are too few for an estimate
            of the noise), misfit (whether the fit does not explain the signal) and at_bound
            (whether a property of a compartment is at a bound), and the fitted nuisance parameters.
            For voxels without signal (all
            zero), or that cannot be solved, n_c is 0 if it is selected, misfit and at_bound are
            False, and all other columns are NaN.

        Raises
        ------
        ValueError
            If n_compartments is larger than the largest count of the classifier, a signal has NaN
            or infinite values, or the columns or axes of X contradict the protocol.

        Warns
        -----
        NoSignalWarning
            If signals are all zero; once, with their number.
        ConvergenceWarning
            Once each, with the numbers of voxels that could not be solved, that have a
            compartment at a bound, and that the fit does not explain.
        """
        signals, _ = self._voxels(X)
        largest = int(self.counts_.max())
        if n_compartments is not None:
            checked_count("n_compartments", n_compartments, at_least=1)
            if n_compartments > largest:
                raise ValueError(
                    f"n_compartments must be at most {largest}, the largest count of the "
                    f"classifier; got {n_compartments}"
                )
        P = len(self._model.properties)

        def solve(unit: Array) -> tuple[Array, ...]:
            unit, fits = self._fits(unit, n_compartments or largest)
            if n_compartments is None:
                counts = self.counts_[self._best(self._weights(unit, fits)[0])]
            else:
                counts = np.full(len(unit), n_compartments)
            theta = np.zeros((len(unit), largest, P))
            nuisances = np.zeros((len(unit), len(self._model.nuisances)))
            errors = np.zeros((len(unit), largest, P))
            amplitudes = np.zeros((len(unit), largest))
            rss, quality = np.empty(len(unit)), np.empty((len(unit), 2))
            for K in np.unique(counts):
                rows = counts == K
                fit = fits[K - 1].take(rows)
                theta[rows, :K], nuisances[rows] = fit.theta[..., :P], fit.theta[:, 0, P:]
                amplitudes[rows, :K], rss[rows] = fit.amplitudes, fit.rss
                errors[rows, :K] = self._standard_errors(fit)
                misfit = self._misfit(unit[rows], [fit])
                quality[rows] = np.concatenate([misfit.chi2, misfit.significant], axis=1)
            # NaN would be a voxel without solution
            quality[np.isnan(quality)] = _NO_ESTIMATE
            return counts.astype(np.float64), theta, amplitudes, rss, quality, nuisances, errors

        n_c, theta, amplitudes, rss, quality, nuisances, errors = self._solve_voxels(
            signals, solve,
            [(), (largest, P), (largest,), (), (2,), (len(self._model.nuisances),), (largest, P)],
        )  # fmt: skip
        n_c[np.isnan(n_c)] = n_compartments or 0
        norm = signal_norms(signals)
        at_bound: NDArray[np.bool_] = self._at_bound(theta) & (amplitudes > 0)[..., None]
        chi2, misfit = quality[:, 0], quality[:, 1] == 1
        chi2[chi2 == _NO_ESTIMATE] = np.nan
        self._warn_of_bounds(np.asarray(at_bound.any(axis=1)))
        self._warn_of_misfits(misfit)
        return (
            self._table(theta, amplitudes, np.where(at_bound | (errors == 0), np.nan, errors))
            .assign(
                n_c=n_c.astype(np.int64), scale=norm * amplitudes.sum(axis=1), rss=norm**2 * rss,
                chi2=chi2, misfit=misfit, at_bound=at_bound.any(axis=(1, 2)),
                **self._model.nuisance_values(nuisances),
            )
            .set_axis(X.index if hasattr(X, "index") and hasattr(X, "iloc") else range(len(n_c)))
        )  # fmt: skip

    def reconstruct_signals(self, compartments: pd.DataFrame) -> Array:
        """Signals of estimated compartments, to be compared with the measured ones.

        Parameters
        ----------
        compartments : DataFrame of n_samples rows
            Result of :meth:`estimate_compartments` of this classifier.

        Returns
        -------
        ndarray of shape (n_samples, n_measurements)
            Signals without noise, in the units of the measured ones and in the order of
            `protocol_`; with signs also if those are magnitudes. NaN for voxels without estimate.

        Raises
        ------
        ValueError
            If columns are missing.
        """
        check_is_fitted(self)
        model = self._model
        K = sum(name.startswith("f_") for name in compartments.columns)
        columns = [f"{name}_{k}" for name in (*model.properties, "f") for k in range(1, K + 1)]
        missing = [name for name in (*columns, "scale", *model.nuisances)
                   if name not in compartments]  # fmt: skip
        if missing or not K:
            raise ValueError(
                "compartments must be a table of estimate_compartments of this classifier; it "
                f"lacks {', '.join(missing) or 'f_1'}"
            )
        values = compartments[columns].to_numpy(np.float64).reshape(-1, len(columns) // K, K)
        amplitudes = values[:, -1] * compartments["scale"].to_numpy(np.float64)[:, None]
        present = amplitudes > 0
        properties = np.moveaxis(values[:, :-1], 1, -1)
        theta = np.where(present[..., None], np.log(np.where(present[..., None], properties, 1.0)),
                         model.low)  # fmt: skip
        if model.nuisances:
            shifts = np.array([name == "offset" for name in model.nuisances], np.float64)
            shared = np.log(compartments[list(model.nuisances)].to_numpy(np.float64) + shifts)
            theta = model.with_nuisances(theta, shared[:, None])
        signals = model.signals(model.factors(theta), np.where(present, amplitudes, 0.0))
        signals[~present.any(axis=1)] = np.nan
        series = self.protocol_.series
        signals = self.protocol_.to_scan_order(signals, copy=False)
        if series is not None and hasattr(self, "calibration_"):
            signals = signals * np.where(series > 0, self.calibration_.gain, 1.0)
        return np.asarray(signals)

    def predict_spectrum(
        self,
        X: ArrayLike,
        grid: Mapping[str, ArrayLike],
        *,
        probabilities: ArrayLike | None = None,
        widened: bool = True,
    ) -> Array:
        """Expected spectrum of each voxel, from the fits of all counts.

        The sum of the fitted compartments of each count, weighted by the probability of the count.
        A compartment is a line at the fitted properties, widened by their standard errors.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol, at any scale. Also a volume, an
            array of shape (.., n_measurements).
        grid : mapping of str to array of shape (n_bins,)
            Values of each tissue property along the axes of the spectra, ascending, such as
            `axes_` of :class:`corrsk.NNLSSpectrum`.
        probabilities : array of shape (n_samples, n_classes), optional
            Probabilities of the counts in the order of `classes_`, such as those of a network; None
            (default) for those of :meth:`predict_proba`.
        widened : bool, default=True
            Whether to widen the lines by their standard errors.

        Returns
        -------
        ndarray of shape (n_samples, n_T1, n_T2[, n_D])
            Amplitudes in the units of X; the sum is approximately M0. NaN for voxels without
            signal or solution. Of a volume maps of shape (.., n_T1, n_T2[, n_D]).

        Raises
        ------
        ValueError
            If the grid has other properties or no ascending positive values, probabilities are
            negative, do not sum to 1 or have another shape, a signal has NaN or infinite values,
            or the columns or axes of X contradict the protocol.
        MemoryError
            If the spectra would not fit into memory.

        Warns
        -----
        NoSignalWarning
            If signals are all zero; once, with their number.
        ConvergenceWarning
            Once, with the number of voxels that could not be solved.

        Notes
        -----
        Properties beyond the grid belong to its ends, and between two bins to both, so that the
        mean logarithm of a compartment is kept. Compartments at a bound, and fits to too few
        measurements, have no standard errors; they are lines.

        Examples
        --------
        >>> from corrsk import make_correlation_signals
        >>> from corrsk.relaxometry import MultiExponentialClassifier
        >>> X, y = make_correlation_signals(10, noise_level=0.001, random_state=0)
        >>> model = MultiExponentialClassifier("ir-se-8x8", random_state=0).fit(X, y)
        >>> model.predict_spectrum(X, {"T1": [100, 500, 2500], "T2": [10, 100]}).shape
        (10, 3, 2)
        """
        signals, shape = self._voxels(X)
        axes = checked_grid(grid, self._model.properties)
        bins = tuple(values.size for values in axes.values())
        check_spectra(len(signals), bins)
        logs = [np.log(values) for values in axes.values()]
        P, C = len(logs), len(self.classes_)
        given = np.empty((len(signals), 0))
        if probabilities is not None:
            given = np.asarray(probabilities, np.float64).reshape(-1, C)
            if (
                len(given) != len(signals)
                or not (given >= 0).all()
                or (np.abs(given.sum(axis=1) - 1) > _SUM_TOLERANCE).any()
            ):
                raise ValueError(
                    f"probabilities must have a row for each of {len(signals)} voxels, with "
                    f"{C} numbers of at least 0 that sum to 1"
                )

        def solve(unit: Array, stated: Array) -> tuple[Array, ...]:
            unit, fits = self._fits(unit, int(self.counts_.max()))
            weights = stated if stated.shape[1] else self._weights(unit, fits)[0]
            spectra = np.zeros((len(unit), *bins))
            for K, weight in zip(self.counts_, weights.T, strict=True):
                fit = fits[K - 1]
                theta = fit.theta[..., :P]
                errors = np.zeros(theta.shape)
                if widened:
                    errors = np.where(self._at_bound(theta), 0.0, self._standard_errors(fit))
                spectra += spectra_of_lines(weight[:, None] * fit.amplitudes, theta, errors, logs)
            return (spectra,)

        (spectra,) = self._solve_voxels(signals, solve, [bins], given=[given])
        spectra *= signal_norms(signals).reshape(-1, *(1,) * P)
        return np.asarray(spectra.reshape(*shape, *bins))

    def _at_bound(self, theta: Array) -> NDArray[np.bool_]:
        low, high = self._model.low, self._model.high
        return (theta <= low + _AT_BOUND) | (theta >= high - _AT_BOUND)

    def _warn_of_bounds(self, at_bound: NDArray[np.bool_]) -> None:
        """Warn of properties at a bound, from a mask (V, P)."""
        if not at_bound.any():
            return
        where = [
            f"{name} in {number} (bounds {self.bounds_[name][0]:g}, {self.bounds_[name][1]:g})"
            for name, number in zip(self._model.properties, at_bound.sum(axis=0), strict=True)
            if number
        ]
        warnings.warn(
            f"{at_bound.any(axis=1).sum()} of {len(at_bound)} voxels have a compartment at a "
            f"bound, {', '.join(where)}: the values of these compartments are limits and no "
            "estimates (see the column at_bound)",
            ConvergenceWarning,
            stacklevel=user_level(),
        )

    def _standard_errors(self, fit: Fit) -> Array:
        """Standard errors (V, K, P) of theta; 0 where the measurements are too few."""
        V, K = fit.amplitudes.shape
        P = len(self._model.properties)
        freedom = int(self._freedom(np.array(K)))
        if freedom < 1:
            return np.zeros((V, K, P))
        # the Gauss-Newton matrix, from which the amplitudes are eliminated already, at the fitted
        # signals: those of magnitudes have the signs of this fit, not of a larger one
        fitted = self._model.signals(self._model.factors(fit.theta), fit.amplitudes)
        hessian = linearise(self._model, fit.theta, fitted).hessian
        covariance = np.linalg.pinv(hessian, hermitian=True) * (fit.rss / freedom)[:, None, None]
        variances = np.einsum("vii->vi", covariance)[:, : P * K]
        return np.sqrt(np.maximum(variances, 0)).reshape(V, P, K).transpose(0, 2, 1)

    def _table(self, theta: Array, amplitudes: Array, errors: Array) -> pd.DataFrame:
        properties = self._model.properties
        by = properties.index("T2") if "T2" in properties else 0
        absent = ~(amplitudes > 0)
        order = np.argsort(np.where(absent, np.inf, theta[..., by]), axis=1, kind="stable")
        total = amplitudes.sum(axis=1, keepdims=True)
        fractions = amplitudes / np.where(total > 0, total, 1.0)
        values = np.where(absent[..., None], np.nan, np.exp(theta))
        groups = [*np.moveaxis(values, -1, 0), fractions, *np.moveaxis(values * errors, -1, 0)]
        ordered = [np.take_along_axis(group, order, axis=1) for group in groups]
        columns = table_columns(properties, theta.shape[1])
        columns += [f"{name}_se" for name in columns if not name.startswith("f_")]
        return pd.DataFrame(np.concatenate(ordered, axis=1), columns=columns)

    # -- solving ----------------------------------------------------------------

    def _prepare(
        self, protocol: AcquisitionProtocol, model: KernelModel, counts: NDArray[np.int64]
    ) -> None:
        if counts.max() > MAX_COMPARTMENTS:
            raise ValueError(
                f"fits are possible for up to {MAX_COMPARTMENTS} compartments, got the count "
                f"{counts.max()}"
            )
        checked_coils(self.n_coils, self.noise_distribution)
        self._check_measurements(protocol, counts)
        seed = entropy(self.random_state)
        self._starts = StartDictionary(model, range(1, counts.max() + 1), seed)

    def _check_measurements(self, protocol: AcquisitionProtocol, counts: NDArray[np.int64]) -> None:
        check_number_of_measurements(protocol, counts, self.criterion)

    def _class_probabilities(self, signals: NDArray[np.floating[Any]]) -> Array:
        probabilities, misfit, relative, freedom = self._solve_voxels(
            signals, self._answers, [(len(self.classes_),), (), (), ()]
        )
        self._warn_of_another_image(probabilities, relative, freedom)
        self._warn_of_misfits(misfit == 1)
        return probabilities

    def _answers(self, unit: Array) -> tuple[Array, ...]:
        """Probabilities, misfits, relative residuals of the selected fits, and their freedom."""
        unit, fits = self._fits(unit, int(self.counts_.max()))
        weights, misfit = self._weights(unit, fits)
        selected = self.counts_[self._best(weights)]
        rss = np.stack([fit.rss for fit in fits], axis=1)[np.arange(len(unit)), selected - 1]
        return (
            weights, np.asarray(misfit.significant.all(axis=1), dtype=np.float64),
            rss / np.square(unit).max(axis=1), self._freedom(selected).astype(np.float64),
        )  # fmt: skip

    def _warn_of_another_image(self, probabilities: Array, relative: Array, freedom: Array) -> None:
        """Warn if the voxels can hardly be of the image of the calibration."""
        of_image, usable = self._residual_variance, np.isfinite(freedom)
        n = int(usable.sum())
        if of_image is None or n < _FEWEST_COMPARED:
            return
        ratio = of_image.differs(relative[usable], freedom[usable])
        one = float((self.counts_[self._best(probabilities[usable])] == 1).mean())
        if ratio is not None:
            difference = (
                f"the residuals of these {n} voxels are typically {ratio:.2g} times those of the "
                "calibrated image, relative to the largest signal"
            )
        elif 1 in self.counts_ and len(self.counts_) > 1 and one < _FEW_SINGLE:
            difference = (
                f"one compartment is selected in {one:.0%} of these {n} voxels, but a calibration "
                "is for images most of whose voxels have one: unless these are mixtures by choice, "
                "the pulses differ from those of the calibrated image"
            )
        else:
            return
        warnings.warn(
            f"{difference}. A calibration holds for the pulses and noise of one image: "
            + worded(
                "call calibrate(X) with all voxels of the image of these signals",
                "use --model multi-exponential, which is calibrated to each image",
            ),
            CalibrationWarning,
            stacklevel=user_level(),
        )

    def _fits(self, unit: Array, largest: int) -> tuple[Array, list[Fit]]:
        """Fits of 1, 2, .., `largest` compartments to signals (V, N) with norm 1.

        Returns the signals too, with signs if they are magnitudes.
        """
        if self.noise_distribution != "rician":
            return self._nested_fits(unit, largest)
        magnitudes = without_signs = np.abs(unit)
        variance = None
        if self.n_coils > 1:
            # The noise floor of several coils is no small correction. The residual of fits that
            # take it for a compartment is the noise.
            K = min(2, int(self.counts_.max()))
            _, rough = self._nested_fits(self._starts.with_signs(magnitudes), K)
            freedom = max(int(self._freedom(np.array(K))), 1)
            variance = rough[-1].rss / freedom
            without_signs = without_floor(magnitudes, variance, self.n_coils)
        unit = self._starts.with_signs(without_signs)
        return self._nested_fits(unit, largest, magnitudes, without_signs, variance)

    def _nested_fits(
        self,
        unit: Array,
        largest: int,
        magnitudes: Array | None = None,
        without_signs: Array | None = None,
        variance: Array | None = None,
    ) -> tuple[Array, list[Fit]]:
        """Fits to signals, and then to the magnitudes, if there are any."""
        fits: list[Fit] = []
        for K in range(1, largest + 1):
            starts = self._starts.starts(unit, K, fits[-1] if fits else None, self.n_starts)
            signed = np.broadcast_to(unit[:, None], (*starts.shape[:2], unit.shape[1]))
            if without_signs is not None:
                more = self._starts.of_patterns(without_signs, K)
                if more is not None:
                    signed = np.concatenate([signed, more[0]], axis=1)
                    starts = np.concatenate([starts, more[1]], axis=1)
            V, S = starts.shape[:2]
            found = levenberg_marquardt(
                self._model, signed.reshape(V * S, -1), starts.reshape(V * S, K, -1),
                max_steps=self.max_steps, tol=_TOLERANCE,
            )  # fmt: skip
            rss = np.where(np.isnan(found.rss), np.inf, found.rss).reshape(V, S)
            best = found.take(np.arange(V) * S + rss.argmin(axis=1))
            if magnitudes is not None:
                unit, best = fit_magnitudes(
                    self._model, magnitudes, best, int(self._n_fitted(np.array(K))),
                    variance=variance, n_coils=self.n_coils, max_steps=self.max_steps,
                    tol=_TOLERANCE,
                )  # fmt: skip
            fits.append(best if not fits else _nested(best, fits[-1]))
        return unit, fits

    def _weights(self, unit: Array, fits: list[Fit]) -> tuple[Array, Misfit]:
        """Probabilities (V, n_classes), and the misfits of the counts that can be selected."""
        order = np.argsort(self.counts_)
        counts = self.counts_[order]
        rss: Array = np.stack([fits[K - 1].rss for K in counts], axis=1)
        n_fitted = self._n_fitted(counts)
        N = self.n_features_in_
        possible = needed_measurements(n_fitted, self.criterion) <= N
        possible[0] = True
        kept = [fits[K - 1] for K in counts]
        misfit = self._misfit(unit, [fits[K - 1] for K in counts[possible]])
        prior = self._residual_variance
        of_image = (0.0, 0.0) if prior is None else (prior.squares(unit), prior.freedom)
        weights = self._counted(self._criterion_weights(rss, N, n_fitted, *of_image), kept, counts)
        remainder = np.tile(possible / possible.sum(), (len(rss), 1))
        rows = np.flatnonzero(misfit.unexplained)
        if prior is None and rows.size:
            # what no fit explains is an error of the model in as many dimensions as signals have
            inside = np.ones((rows.size, len(counts)))
            inside[:, possible] = misfit.inside[rows]
            wrong = self._criterion_weights(inside, misfit.rank, n_fitted)
            weights[rows] = self._counted(wrong, [fit.take(rows) for fit in kept], counts)
            remainder[np.ix_(rows, possible)] = misfit.in_proportion()[rows]
        return misfit.spread(weights, remainder)[:, np.argsort(order)], misfit

    def _criterion_weights(
        self,
        rss: Array,
        n_measurements: int,
        n_fitted: NDArray[np.int64],
        squares: Array | float = 0.0,
        freedom: float = 0.0,
    ) -> Array:
        """Weights (V, C) of fits by the criterion."""
        of_image = squares, freedom
        if self.criterion == "f-test":
            chosen = f_test_choice(rss, n_measurements, n_fitted, self.alpha, *of_image)
            weights: Array = np.eye(rss.shape[1])[chosen]
            weights[~np.isfinite(rss).all(axis=1)] = np.nan
            return weights
        values = information_criterion(rss, n_measurements, n_fitted + 1, self.criterion, *of_image)
        return criterion_weights(values)

    @property
    def _residual_variance(self) -> ResidualVariance | None:
        calibration = getattr(self, "calibration_", None)
        return None if calibration is None else calibration.residual_variance

    def _with_residuals(self, signals: NDArray[np.floating[Any]]) -> PulseCalibration:
        """Add the residual variance of one compartment, over the voxels, to the calibration."""
        signals = self._at_one_scale(signals[signals.any(axis=1)])
        signals = signals[:: -(-len(signals) // _MOST_CALIBRATED)]

        def solve(unit: Array) -> tuple[Array, ...]:
            unit, (fit,) = self._fits(unit, 1)
            return (fit.rss / np.abs(unit).max(axis=1) ** 2,)

        (relative,) = self._solve_voxels(signals, solve, [()])
        freedom = int(self._freedom(np.array(1)))
        found = ResidualVariance.from_residuals(relative, freedom)
        if found is None:
            return self.calibration_
        return replace(
            self.calibration_, voxel_residual=found.sigma, residual_freedom=found.freedom
        )

    def _counted(self, weights: Array, fits: Sequence[Fit], counts: NDArray[np.int64]) -> Array:
        """Weights (V, C) of fits as weights of the numbers of compartments that count."""
        if not self.min_fraction:
            return weights
        counted = np.zeros_like(weights)
        for column, fit in enumerate(fits):
            total = fit.amplitudes.sum(axis=1, keepdims=True)
            number = (fit.amplitudes >= self.min_fraction * total).sum(axis=1)
            # the largest of the possible counts that does not exceed the number
            place = np.maximum(np.searchsorted(counts, number, side="right") - 1, 0)
            np.add.at(counted, (np.arange(len(place)), place), weights[:, column])
        return counted

    def _misfit(self, unit: Array, fits: Sequence[Fit]) -> Misfit:
        counts = np.array([fit.amplitudes.shape[1] for fit in fits])
        return self._noise.misfit(
            unit,
            np.stack([fit.rss for fit in fits], axis=1),
            self._n_fitted(counts),
            np.stack([fit.amplitudes.sum(axis=1) for fit in fits], axis=1),
        )

    def _n_fitted(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of parameters of fits, without the noise variance."""
        return counts * (len(self._model.properties) + 1) + len(self._model.nuisances)

    def _freedom(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Degrees of freedom of the residuals of fits."""
        return self.n_features_in_ - self._n_fitted(counts)

    def _fitted_nuisances(self, protocol: AcquisitionProtocol) -> dict[str, tuple[float, float]]:
        given = self.nuisances
        if given is None:
            return {}
        possible = ("inversion_efficiency", "b1", "offset", "gain")
        other = [name for name in given.names if name not in possible]
        if other:
            raise ValueError(
                f"nuisances has {', '.join(other)}, but fits have {', '.join(possible)} only"
            )
        check_nuisances(given, protocol)
        single = [name for name in given.names if not isinstance(getattr(given, name), tuple)]
        if single:
            raise ValueError(
                f"the range of {single[0]} must be a pair (smallest, largest), got "
                f"{getattr(given, single[0])!r}"
            )
        ranges: dict[str, tuple[float, float]] = {n: getattr(given, n) for n in given.names}
        if "offset" in ranges and not ranges["offset"][0] > -1:
            raise ValueError(f"the range of offset must be above -1, got {ranges['offset']!r}")
        return ranges


def _nested(fit: Fit, smaller: Fit) -> Fit:
    """Replace fits that are not better than the smaller fit by the latter, in place."""
    rows = ~(fit.rss <= smaller.rss)
    if rows.any():
        fit.theta[rows, :-1], fit.theta[rows, -1] = smaller.theta[rows], smaller.theta[rows, 0]
        fit.amplitudes[rows, :-1], fit.amplitudes[rows, -1] = smaller.amplitudes[rows], 0.0
        fit.rss[rows] = smaller.rss[rows]
    return fit
