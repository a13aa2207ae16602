"""Regularised spectra of tissue properties, and the number of peaks."""

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
from corrsk.tissue.ranges import PropertyRange


class NNLSPeakClassifier(_CompartmentCounter):
    """Classifier that counts the peaks of a regularised non-negative spectrum.

    The signal of each voxel is inverted to a spectrum s >= 0 on a log-spaced
    grid of T1 x T2 (x D) by least squares with Tikhonov regularisation; the number of
    peaks is the prediction. The classifier is not trained: `fit` uses y only for the set of
    possible counts.

    Parameters
    ----------
    protocol : AcquisitionProtocol or str, default="auto"
        Protocol of the columns of X, in their order, or the name of a protocol that corrsk
        ships; columns with names (TI50_TE4.5) may have any order. "auto" derives the protocol from
        the names; without such names the protocol of 64 columns is "ir-se-8x8".
    n_bins : int or dict of str to int, default=32
        Number of grid points along each tissue property, for all properties or by property.
    bounds : dict of str to (low, high) or PropertyRange, optional
        Range of each tissue property in ms or um^2/ms; a :class:`corrsk.PropertyRange` can state
        another unit, or that shorter times than usual are meant. The defaults are
        T1 50..5000, T2 5..500 (the paper's prior), D 0.05..5.
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

    Attributes
    ----------
    classes_ : ndarray
        The labels in y, sorted.
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

    The probabilities of voxels that cannot be solved (signals that are all zero) are NaN and the
    prediction is the smallest count; one ConvergenceWarning has the number of such voxels. The
    scorers of scikit-learn refuse NaN probabilities; those of `corrsk.evaluation.SCORERS` replace
    NaN by uniform guesses.

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
        bounds: Mapping[str, tuple[float, float] | PropertyRange] | None = None,
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
        """Spectrum of each voxel.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol, at any scale.

        Returns
        -------
        ndarray of shape (n_samples, n_T1, n_T2[, n_D])
            Amplitudes on the grid `axes_`, in the units of X; the sum is approximately M0.
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
        # "chi2" starts at the smallest weight; a fixed weight requires smaller singular values
        smallest = SMALLEST_ALPHA if self._chi2 else 1e-3 * float(self.regularization)
        self._solver = DualSolver(model.dictionary(theta).T, smallest)

    @property
    def _chi2(self) -> bool:
        return isinstance(self.regularization, str)

    def _spectra(self, unit: Array) -> Array:
        """Spectra (V, *bins) of signals (V, N) with norm 1."""
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
        # of two equally near classes the smaller one, for any order of the labels
        order = np.argsort(self._counts)
        nearest = order[np.abs(n_peaks[:, None] - self._counts[order]).argmin(axis=1)]
        probabilities = np.eye(len(self._counts))[nearest]
        probabilities[~solved] = np.nan
        return probabilities
