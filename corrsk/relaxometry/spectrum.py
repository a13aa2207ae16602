"""Regularised spectra of tissue properties, and the number of peaks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from corrsk._utils.memory import check_memory
from corrsk._utils.validation import checked_count
from corrsk.acquisition.bounds import Bounds
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.relaxometry._base import _CompartmentCounter
from corrsk.relaxometry._kernels import Array, KernelModel
from corrsk.relaxometry._misfit import Misfit, NoiseSubspace
from corrsk.relaxometry._nnls import SMALLEST_ALPHA, DualSolver
from corrsk.relaxometry._peaks import count_peaks
from corrsk.relaxometry._voxels import signal_norms
from corrsk.relaxometry._weights import Solver, by_factor

_MOST_CELLS = 2**18  # of a spectrum; the singular vectors of a kernel take 100 MB then


def checked_bins(n_bins: int | Mapping[str, int], model: KernelModel) -> tuple[int, ...]:
    """Number of grid points of each tissue property.

    Parameters
    ----------
    n_bins : int or mapping of str to int
        Number for all properties, or for each.
    model : KernelModel
        Kernels, with the properties.

    Returns
    -------
    tuple of int
        Shape of a spectrum.

    Raises
    ------
    ValueError
        If a property has no number, or one below 2, or the numbers have another property, or the
        spectrum has more than 262,144 cells.
    """
    shape = _shape_of(n_bins, model)
    if math.prod(shape) > _MOST_CELLS:
        raise ValueError(
            f"a spectrum has at most {_MOST_CELLS:,} cells (512 x 512, or 64 x 64 x 64); n_bins "
            f"gives {' x '.join(map(str, shape))}"
        )
    return shape


def _shape_of(n_bins: int | Mapping[str, int], model: KernelModel) -> tuple[int, ...]:
    if not isinstance(n_bins, Mapping):
        return (n_bins,) * len(model.properties)
    if set(n_bins) != set(model.properties):
        raise ValueError(
            f"n_bins must have a number for each of {', '.join(model.properties)}; "
            f"got {dict(n_bins)}"
        )
    for name, number in n_bins.items():
        checked_count(f"n_bins of {name}", number, at_least=2)
    return tuple(n_bins[name] for name in model.properties)


def misfit_of_spectra(
    noise: NoiseSubspace, solver: Solver, unit: Array, total: Array, rss: Array
) -> Misfit:
    """Misfit of spectra, where the regularisation is not its cause.

    Parameters
    ----------
    noise : NoiseSubspace
        Estimate of the noise of a signal.
    solver : DualSolver or PenaltySolver
        Solver.
    unit : ndarray of shape (V, N)
        Signals with norm 1.
    total : ndarray of shape (V,)
        Sums of the spectra.
    rss : ndarray of shape (V,)
        Their residual sums of squares.

    Returns
    -------
    Misfit
        Of one fit to each signal.
    """
    total = total[:, None]
    none_fitted = np.zeros(1, dtype=np.int64)  # regularised spectra have no number of parameters
    misfit = noise.misfit(unit, rss[:, None], none_fitted, total)
    rows = np.flatnonzero(misfit.significant[:, 0] & (total[:, 0] > 0))
    if rows.size:
        least = solver.fixed(unit[rows], SMALLEST_ALPHA)
        smallest = solver.residual(unit[rows], least, np.full(rows.size, SMALLEST_ALPHA))
        again = noise.misfit(unit[rows], smallest[:, None], none_fitted, total[rows])
        misfit.chi2[rows], misfit.significant[rows] = again.chi2, again.significant
    return misfit


def check_spectra(n_voxels: int, shape: Sequence[int]) -> None:
    """Refuse spectra that would not fit into memory.

    Parameters
    ----------
    n_voxels : int
        Number of voxels.
    shape : sequence of int
        Shape of a spectrum.

    Raises
    ------
    MemoryError
        If less memory is free than they need.
    """
    check_memory(
        8 * n_voxels * math.prod(shape),
        f"the spectra of {n_voxels:,} voxels on {' x '.join(map(str, shape))} bins",
        "pass fewer voxels at a time, or use fewer bins",
    )


class NNLSPeakClassifier(_CompartmentCounter):
    """Classifier that counts the peaks of a regularised non-negative spectrum.

    The signal of each voxel is inverted to a spectrum s >= 0 on a log-spaced
    grid of T1 x T2 (x D) by least squares with Tikhonov regularisation; the number of
    peaks is the prediction. The classifier is not trained: `fit` uses y only for the set of
    possible counts, which `counts` replaces.

    Parameters
    ----------
    protocol : AcquisitionProtocol or str, default="auto"
        Protocol of the columns of X, in their order, or the name of a protocol that corrsk
        ships; columns with names (TI50_TE4.5) may have any order. "auto" derives the protocol from
        the names; without such names 64 columns are taken for "ir-se-8x8", with a warning.
    n_bins : int or dict of str to int, default=32
        Number of grid points along each tissue property, for all properties or by property; at
        most 262,144 in all.
    bounds : dict of str to (low, high) or PropertyRange, TissuePrior, str or None, default=None
        Range of each tissue property in ms or um^2/ms, or a prior (or its name), whose ranges
        are used. A :class:`corrsk.PropertyRange` can state another unit, or that shorter times
        than usual are meant. None, and properties that are not in the dictionary, have the range
        that the protocol resolves; see Notes.
    regularization : "chi2" or float, default="chi2"
        Weight of ``||s||^2`` relative to the largest squared singular value of
        the kernel, or "chi2": the weight of each voxel at which the residual
        sum of squares is `chi2_factor` times that of a nearly unregularised spectrum
        (weight 1e-8).
    chi2_factor : float, default=1.02
        Factor for "chi2"; 1.02 as in Whittall and MacKay, J. Magn. Reson. 84, 134 (1989).
    min_fraction : float, default=0.02
        Smallest fraction of the spectrum's mass in a peak that is counted.
    inversion_efficiency : float, default=1.0
        Inversion efficiency eta in (0, 1].
    n_jobs : int or None, default=None
        Number of threads; None uses every core (one within a joblib worker).
    verbose : bool, default=True
        Whether to show progress once the solution takes a few seconds.
    counts : sequence of int, optional
        Possible compartment counts, such as (1, 2, 3). `fit` then needs no y; see
        :meth:`fit` for labels beside `counts`. None (default) takes the counts from y.

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
    axes_ : dict of str to ndarray
        Values of each tissue property along the axes of :meth:`spectra`.
    n_features_in_ : int
        Number of measurements.
    layout_ : tuple of int or None
        Shape of each signal if the signals of `fit` have more than two dimensions or their grid is
        known, else None.
    feature_names_in_ : ndarray of str
        Names of the measurements, if the signals of `fit` have names.

    Notes
    -----
    Butler, Reeds and Dawson, SIAM J. Numer. Anal. 18, 381 (1981), for many
    voxels at once. A peak consists of a local maximum among all neighbours, including diagonal
    ones, and of all cells from which steepest ascent reaches this maximum. The class nearest to
    the number of peaks has probability 1.

    The range that a protocol resolves holds the values of a property at which the kernel k still
    changes: where the largest ``|dk / d log p|`` over the levels is at least a tenth of its
    maximum, or 0.4 where the smallest level has it. For exponentials it is from a third of the
    smallest to 26 times the largest level; T1 ends at 10 s and T2 at 5 s.

    A voxel that no count explains (an F-test of the residual against the noise, which is estimated
    from the part of the signal outside the subspace of all mixtures, at a level of 1e-6) has
    probabilities ``P / chi2 + (1 - 1 / chi2) / n_classes`` with the reduced chi2 of the best
    fit; one ConvergenceWarning has the number of such voxels.

    The probabilities of voxels without signal (all zero) and of voxels that cannot be solved are
    NaN and the predicted label is 0; one warning of each kind has their number. The
    scorers of scikit-learn refuse NaN probabilities; those of `corrsk.evaluation.SCORERS` replace
    NaN by uniform guesses.

    Examples
    --------
    >>> from corrsk import make_correlation_signals
    >>> from corrsk.relaxometry import NNLSPeakClassifier
    >>> X, y = make_correlation_signals(40, noise_level=0.001, random_state=0)
    >>> NNLSPeakClassifier("ir-se-8x8", n_bins=16).fit(X, y).spectra(X).shape
    (40, 16, 16)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **_CompartmentCounter._parameter_constraints,
        "n_bins": [Interval(Integral, 2, None, closed="left"), dict],
        "regularization": [StrOptions({"chi2"}), Interval(Real, 0, None, closed="neither")],
        "chi2_factor": [Interval(Real, 1, None, closed="neither")],
        "min_fraction": [Interval(Real, 0, 1, closed="both")],
    }

    _further_causes = ", more compartments, or a spectrum with too few points (n_bins)"

    def __init__(
        self,
        protocol: AcquisitionProtocol | str = "auto",
        n_bins: int | Mapping[str, int] = 32,
        bounds: Bounds = None,
        regularization: float | str = "chi2",
        chi2_factor: float = 1.02,
        min_fraction: float = 0.02,
        inversion_efficiency: float = 1.0,
        n_jobs: int | None = None,
        verbose: bool = True,
        counts: Sequence[int] | None = None,
    ) -> None:
        self.protocol = protocol
        self.n_bins = n_bins
        self.bounds = bounds
        self.regularization = regularization
        self.chi2_factor = chi2_factor
        self.min_fraction = min_fraction
        self.inversion_efficiency = inversion_efficiency
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.counts = counts

    def spectra(self, X: ArrayLike) -> Array:
        """Spectrum of each voxel.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol, at any scale. Also a volume, an
            array of shape (.., n_measurements).

        Returns
        -------
        ndarray of shape (n_samples, n_T1, n_T2[, n_D])
            Amplitudes on the grid `axes_`, in the units of X; the sum is approximately M0.
            NaN for voxels without signal (all zero), or that could not be solved. Of a volume
            maps of shape (.., n_T1, n_T2[, n_D]).

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
            Once, with the number of voxels that could not be solved.
        """
        signals, shape = self._voxels(X)
        check_spectra(len(signals), self._shape)
        (spectra,) = self._solve_voxels(
            signals, lambda unit: (self._spectra(self._solved(unit)[0]),), [self._shape]
        )
        norm = signal_norms(signals)
        spectra = spectra * norm.reshape(-1, *(1,) * len(self._shape))
        return spectra.reshape(*shape, *self._shape)

    def _prepare(
        self, protocol: AcquisitionProtocol, model: KernelModel, counts: NDArray[np.int64]
    ) -> None:
        self._shape = checked_bins(self.n_bins, model)
        axes, _ = model.grid(self._shape)
        self.axes_ = dict(zip(model.properties, axes, strict=True))
        # all singular values that the smallest weight needs: "chi2" starts there, and spectra of
        # any other weight are compared with it where they do not explain the signal
        smallest = SMALLEST_ALPHA if self._chi2 else 1e-3 * float(self.regularization)
        smallest = min(smallest, SMALLEST_ALPHA)
        # values far below the square root of the weight hardly change the residual or the peaks
        self._solver = DualSolver(model, self._shape, 0.03 * math.sqrt(smallest))

    @property
    def _chi2(self) -> bool:
        return isinstance(self.regularization, str)

    def _solved(self, unit: Array) -> tuple[Array, Array]:
        """Dual solutions (V, r) of signals (V, N) with norm 1, and their weights (V,)."""
        if self._chi2:
            return by_factor(self._solver, unit, self.chi2_factor)
        alpha = float(self.regularization)
        return self._solver.fixed(unit, alpha), np.full(len(unit), alpha)

    def _spectra(self, dual: Array) -> Array:
        """Spectra (V, *bins) of dual solutions."""
        return self._solver.spectrum(dual).reshape(-1, *self._shape)

    def _probabilities(self, unit: Array) -> tuple[Array, Array]:
        dual, alpha = self._solved(unit)
        spectra = self._spectra(dual)
        solved = np.isfinite(spectra).reshape(len(spectra), -1).all(axis=1)
        n_peaks = count_peaks(np.where(solved.reshape(-1, *(1,) * len(self._shape)), spectra, 0.0),
                              self.min_fraction)  # fmt: skip
        # of two equally near classes the smaller one, for any order of the labels
        order = np.argsort(self.counts_)
        nearest = order[np.abs(n_peaks[:, None] - self.counts_[order]).argmin(axis=1)]
        rss = self._solver.residual(unit, dual, alpha)
        total = spectra.reshape(len(spectra), -1).sum(axis=1)
        misfit = misfit_of_spectra(self._noise, self._solver, unit, total, rss)
        probabilities = misfit.spread(
            np.eye(order.size)[nearest], np.full(order.size, 1 / order.size)
        )
        probabilities[~solved] = np.nan
        return probabilities, misfit.significant[:, 0].astype(np.float64)
