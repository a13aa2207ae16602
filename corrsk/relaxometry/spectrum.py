"""Regularised spectra of tissue properties, and the count of their peaks."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from corrsk._utils.validation import checked_count
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.relaxometry._base import _CompartmentCounter
from corrsk.relaxometry._brd import SMALLEST_ALPHA, DualSolver
from corrsk.relaxometry._kernels import Array, KernelModel
from corrsk.relaxometry._peaks import count_peaks
from corrsk.relaxometry._voxels import signal_norms


class NNLSPeakClassifier(_CompartmentCounter):
    """Count compartments as the peaks of a regularised non-negative spectrum.

    The signal of each voxel is inverted to a spectrum s >= 0 on a log-spaced
    grid of T1 x T2 (x D) by least squares with Tikhonov regularisation; its
    peaks are counted. Nothing is learnt: `fit` takes from y only which counts
    are possible.

    Parameters
    ----------
    protocol : AcquisitionProtocol or str, default="auto"
        What the columns of X measure, in grid order; a name stands for a
        protocol that corrsk ships. "auto" reads it from the column names
        (TI50_TE4.5); without such names 64 columns are taken for "ir-se-8x8".
    n_bins : int or dict of str to int, default=32
        Points of the grid along each tissue property, or by property.
    bounds : dict of str to (low, high), optional
        Range of each tissue property in ms or um^2/ms. Those left out have
        T1 50..5000, T2 5..500 (the paper's prior), D 0.05..5.
    regularization : "chi2" or float, default="chi2"
        Weight of ``||s||^2`` relative to the largest squared singular value of
        the kernel, or "chi2": the weight, voxel by voxel, at which the residual
        sum of squares is `chi2_factor` times that of a spectrum that is nearly
        unregularised (weight 1e-8).
    chi2_factor : float, default=1.02
        See above; 1.02 after Whittall and MacKay, J. Magn. Reson. 84, 134 (1989).
    min_fraction : float, default=0.02
        Smallest share of the spectrum's mass that makes a peak count.
    inversion_efficiency : float, default=1.0
        eta in (0, 1].
    n_jobs : int or None, default=None
        Threads; None uses every core (one within a joblib worker).
    verbose : bool, default=True
        Whether to show progress once it takes a few seconds.

    Attributes
    ----------
    classes_ : ndarray
        The labels in y, sorted.
    protocol_ : AcquisitionProtocol
        The protocol in grid order: that of the columns.
    axes_ : dict of str to ndarray
        Values of each tissue property along the axes of :meth:`spectra`.
    n_features_in_ : int
    feature_names_in_ : ndarray of str

    Notes
    -----
    Butler, Reeds and Dawson, SIAM J. Numer. Anal. 18, 381 (1981), for many
    voxels at once. A peak is a local maximum among all neighbours (diagonal
    ones too) with all cells from which steepest ascent leads to it. The count
    is clipped to the nearest of the classes, which has probability 1.

    Voxels that cannot be solved (signals that are all zero) have NaN for
    probabilities, are predicted to have the smallest count, and are counted in
    one ConvergenceWarning. scikit-learn's own scorers of probabilities refuse
    NaN; those of `corrsk.evaluation.SCORERS` count such voxels as guesses.

    Examples
    --------
    >>> from corrsk import make_correlation_signals
    >>> from corrsk.relaxometry import NNLSPeakClassifier
    >>> X, y = make_correlation_signals(40, noise_level=0.001, random_state=0)
    >>> NNLSPeakClassifier(n_bins=16).fit(X, y).spectra(X).shape
    (40, 16, 16)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **_CompartmentCounter._parameter_constraints,
        "n_bins": [Interval(Integral, 2, None, closed="left"), dict],
        "regularization": [StrOptions({"chi2"}), Interval(Real, 0, None, closed="neither")],
        "chi2_factor": [Interval(Real, 1, None, closed="neither")],
        "min_fraction": [Interval(Real, 0, 1, closed="both")],
    }

    def __init__(
        self,
        protocol: AcquisitionProtocol | str = "auto",
        n_bins: int | Mapping[str, int] = 32,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        regularization: float | str = "chi2",
        chi2_factor: float = 1.02,
        min_fraction: float = 0.02,
        inversion_efficiency: float = 1.0,
        n_jobs: int | None = None,
        verbose: bool = True,
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

    def spectra(self, X: ArrayLike) -> Array:
        """The spectrum of each voxel.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals in the grid order of the protocol, at any scale.

        Returns
        -------
        ndarray of shape (n_samples, n_T1, n_T2[, n_D])
            Amplitudes in the units of X, over `axes_`; they sum to about M0.
            NaN for voxels that could not be solved.

        Warns
        -----
        ConvergenceWarning
            Once, with the number of voxels that could not be solved.
        """
        signals = self._checked_signals(X)
        (spectra,) = self._solve_voxels(signals, lambda x: (self._spectra(x),), [self._shape])
        norm = signal_norms(signals)
        return spectra * norm.reshape(-1, *(1,) * len(self._shape))

    def _prepare(self, model: KernelModel, counts: NDArray[np.int64]) -> None:
        bins = self.n_bins
        if isinstance(bins, Mapping):
            if set(bins) != set(model.properties):
                raise ValueError(
                    f"n_bins must have a number for each of {', '.join(model.properties)}; "
                    f"got {dict(bins)}"
                )
            for name, number in bins.items():
                checked_count(f"n_bins of {name}", number, at_least=2)
            self._shape = tuple(bins[name] for name in model.properties)
        else:
            self._shape = (bins,) * len(model.properties)
        axes, theta = model.grid(self._shape)
        self.axes_ = dict(zip(model.properties, axes, strict=True))
        # "chi2" passes the smallest weight on its way to a larger one; a fixed weight is meant
        smallest = SMALLEST_ALPHA if self._chi2 else 1e-3 * float(self.regularization)
        self._solver = DualSolver(model.dictionary(theta).T, smallest)

    @property
    def _chi2(self) -> bool:
        return isinstance(self.regularization, str)

    def _spectra(self, unit: Array) -> Array:
        """Spectra (V, *bins) of signals (V, N) of norm 1."""
        if self._chi2:
            dual, _ = self._solver.discrepancy(unit, self.chi2_factor)
        else:
            dual = self._solver.fixed(unit, float(self.regularization))
        return self._solver.spectrum(dual).reshape(-1, *self._shape)

    def _probabilities(self, unit: Array) -> Array:
        spectra = self._spectra(unit)
        solved = np.isfinite(spectra).reshape(len(spectra), -1).all(axis=1)
        n_peaks = count_peaks(np.where(solved.reshape(-1, *(1,) * len(self._shape)), spectra, 0.0),
                              self.min_fraction)  # fmt: skip
        # of two classes as near the smaller one, whatever the order of the labels
        order = np.argsort(self._counts)
        nearest = order[np.abs(n_peaks[:, None] - self._counts[order]).argmin(axis=1)]
        probabilities = np.eye(len(self._counts))[nearest]
        probabilities[~solved] = np.nan
        return probabilities
