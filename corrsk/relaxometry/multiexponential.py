"""Multi-exponential fits, and the compartment count that a criterion selects."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from corrsk._utils.deprecation import renamed_method
from corrsk._utils.rng import RandomStateLike, entropy
from corrsk._utils.validation import POSITIVE_INTEGER, RANDOM_STATE, checked_count
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.relaxometry._base import _CompartmentCounter
from corrsk.relaxometry._criteria import (
    CRITERIA,
    criterion_weights,
    f_test_choice,
    information_criterion,
)
from corrsk.relaxometry._kernels import Array, KernelModel
from corrsk.relaxometry._starts import StartDictionary
from corrsk.relaxometry._varpro import MAX_COMPARTMENTS, Fit, levenberg_marquardt
from corrsk.relaxometry._voxels import signal_norms
from corrsk.tissue.ranges import PropertyRange
from corrsk.tissue.table import table_columns

# A step that reduces the residual by less than this fraction changes a criterion by at most N
# times the fraction; without noise the residual falls by orders of magnitude down to rounding.
_TOLERANCE = 1e-5


class MultiExponentialClassifier(_CompartmentCounter):
    """Classifier that fits 1, 2, .. compartments and selects the count by a criterion.

    For each voxel and each K up to the largest count, the amplitudes a_i >= 0
    and the tissue properties (T1_i, T2_i, ..) of K compartments are fitted to
    the signal by least squares; a criterion selects K. The classifier is not trained: `fit`
    uses y only for the set of possible counts.

    Parameters
    ----------
    protocol : AcquisitionProtocol or str, default="auto"
        Protocol of the columns of X, in their order, or the name of a protocol that corrsk
        ships; columns with names (TI50_TE4.5) may have any order. "auto" derives the protocol from
        the names; without such names the protocol of 64 columns is "ir-se-8x8".
    bounds : dict of str to (low, high) or PropertyRange, optional
        Range of each tissue property in ms or um^2/ms; a :class:`corrsk.PropertyRange` can state
        another unit, or that shorter times than usual are meant. The defaults are
        T1 50..5000, T2 5..500 (the paper's prior), D 0.05..5.
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

    Attributes
    ----------
    classes_ : ndarray
        The labels in y, sorted.
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

    The probabilities of voxels that cannot be solved (signals that are all zero) are NaN and the
    prediction is the smallest count; one ConvergenceWarning has the number of such voxels. The
    scorers of scikit-learn refuse NaN probabilities; those of `corrsk.evaluation.SCORERS` replace
    NaN by uniform guesses.

    Examples
    --------
    >>> from corrsk import make_correlation_signals
    >>> from corrsk.relaxometry import MultiExponentialClassifier
    >>> X, y = make_correlation_signals(40, noise_level=0.001, random_state=0)
    >>> model = MultiExponentialClassifier(random_state=0).fit(X, y)
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
    }

    def __init__(
        self,
        protocol: AcquisitionProtocol | str = "auto",
        bounds: Mapping[str, tuple[float, float] | PropertyRange] | None = None,
        criterion: str = "aicc",
        alpha: float = 0.05,
        n_starts: int = 4,
        max_steps: int = 50,
        inversion_efficiency: float = 1.0,
        random_state: RandomStateLike = None,
        n_jobs: int | None = None,
        verbose: bool = True,
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
            Signals, with columns in the order of the protocol, at any scale.
        n_compartments : int, optional
            Number of compartments to fit; None (default) uses the count that
            the criterion selects in each voxel.

        Returns
        -------
        DataFrame of n_samples rows
            Tissue table, T1_1.., T2_1.., f_1.., with the compartments in
            ascending order of T2 (or of the first property without T2).
            Absent compartments have f = 0 and NaN properties. Further columns are n_c (the
            fitted count), scale (the sum of the amplitudes: M0 in the units of
            X) and rss (residual sum of squares, in the squared units of X).
            For voxels that cannot be solved all columns except n_c are NaN.

        Raises
        ------
        ValueError
            If n_compartments is larger than the largest count in `classes_`.
        """
        signals = self._checked_signals(X)
        largest = int(self._counts.max())
        if n_compartments is not None:
            checked_count("n_compartments", n_compartments, at_least=1)
            if n_compartments > largest:
                raise ValueError(
                    f"n_compartments must be at most {largest}, the largest count in "
                    f"the y of fit; got {n_compartments}"
                )
        P = len(self._model.properties)

        def solve(unit: Array) -> tuple[Array, ...]:
            fits = self._fits(unit, n_compartments or largest)
            if n_compartments is None:
                counts = self._counts[self._best(self._weights(fits))]
            else:
                counts = np.full(len(unit), n_compartments)
            theta = np.zeros((len(unit), largest, P))
            amplitudes = np.zeros((len(unit), largest))
            rss = np.empty(len(unit))
            for K in np.unique(counts):
                rows = counts == K
                theta[rows, :K], amplitudes[rows, :K], rss[rows] = fits[K - 1].take(rows)
            return counts.astype(np.float64), theta, amplitudes, rss

        n_c, theta, amplitudes, rss = self._solve_voxels(
            signals, solve, [(), (largest, P), (largest,), ()]
        )
        n_c[np.isnan(n_c)] = self._counts.min() if n_compartments is None else n_compartments
        norm = signal_norms(signals)
        return (
            self._table(theta, amplitudes, norm)
            .assign(
                n_c=n_c.astype(np.int64), scale=norm * amplitudes.sum(axis=1), rss=norm**2 * rss
            )
            .set_axis(X.index if hasattr(X, "index") and hasattr(X, "iloc") else range(len(n_c)))
        )

    def _table(self, theta: Array, amplitudes: Array, norm: Array) -> pd.DataFrame:
        properties = self._model.properties
        by = properties.index("T2") if "T2" in properties else 0
        absent = ~(amplitudes > 0)
        order = np.argsort(np.where(absent, np.inf, theta[..., by]), axis=1, kind="stable")
        total = amplitudes.sum(axis=1, keepdims=True)
        fractions = amplitudes / np.where(total > 0, total, 1.0)
        values = np.where(absent[..., None], np.nan, np.exp(theta))
        groups = [*np.moveaxis(values, -1, 0), fractions]
        ordered = [np.take_along_axis(group, order, axis=1) for group in groups]
        return pd.DataFrame(
            np.concatenate(ordered, axis=1), columns=table_columns(properties, theta.shape[1])
        )

    # -- solving ----------------------------------------------------------------

    def _prepare(self, model: KernelModel, counts: NDArray[np.int64]) -> None:
        if counts.max() > MAX_COMPARTMENTS:
            raise ValueError(
                f"y has the count {counts.max()}; fits are possible for up to {MAX_COMPARTMENTS} "
                "compartments"
            )
        seed = entropy(self.random_state)
        self._starts = StartDictionary(model, range(1, counts.max() + 1), seed)

    def _probabilities(self, unit: Array) -> Array:
        return self._weights(self._fits(unit, int(self._counts.max())))

    def _fits(self, unit: Array, largest: int) -> list[Fit]:
        """Fits of 1, 2, .., `largest` compartments to signals (V, N) with norm 1."""
        fits: list[Fit] = []
        for K in range(1, largest + 1):
            starts = self._starts.starts(unit, K, fits[-1] if fits else None, self.n_starts)
            V, S = starts.shape[:2]
            found = levenberg_marquardt(
                self._model, np.repeat(unit, S, axis=0), starts.reshape(V * S, K, -1),
                max_steps=self.max_steps, tol=_TOLERANCE,
            )  # fmt: skip
            rss = np.where(np.isnan(found.rss), np.inf, found.rss).reshape(V, S)
            best = found.take(np.arange(V) * S + rss.argmin(axis=1))
            fits.append(best if not fits else _nested(best, fits[-1]))
        return fits

    def _weights(self, fits: list[Fit]) -> Array:
        order = np.argsort(self._counts)
        counts = self._counts[order]
        rss = np.stack([fits[K - 1].rss for K in counts], axis=1)
        n_parameters = counts * (len(self._model.properties) + 1)
        N = self.n_features_in_
        if self.criterion == "f-test":
            weights = np.eye(len(counts))[f_test_choice(rss, N, n_parameters, self.alpha)]
            weights[~np.isfinite(rss).all(axis=1)] = np.nan
        else:
            weights = criterion_weights(
                information_criterion(rss, N, n_parameters + 1, self.criterion)
            )
        return weights[:, np.argsort(order)]


def _nested(fit: Fit, smaller: Fit) -> Fit:
    """Replace fits that are not better than the smaller fit by the latter, in place."""
    rows = ~(fit.rss <= smaller.rss)
    if rows.any():
        fit.theta[rows, :-1], fit.theta[rows, -1] = smaller.theta[rows], smaller.theta[rows, 0]
        fit.amplitudes[rows, :-1], fit.amplitudes[rows, -1] = smaller.amplitudes[rows], 0.0
        fit.rss[rows] = smaller.rss[rows]
    return fit
