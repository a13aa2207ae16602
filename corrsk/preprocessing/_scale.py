"""Check that signals have M0 = 1, from the estimated M0 of each voxel."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from corrsk import physics
from corrsk._utils.voxels import user_level
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics.noise import draw_other_channels
from corrsk.physics.noise_levels import NoiseLevels, SNRRange, checked_noise_levels
from corrsk.physics.signals import SIGNAL_NUISANCES
from corrsk.tissue.prior import TissuePrior

Array = NDArray[np.float64]

_SEED = 2024  # the same voxels in every check, so that its result is reproducible
_N_VOXELS = 10_000
_N_COORDINATES = 8  # leading principal components of the signals; more are mostly noise
_N_JUDGED = 2000  # voxels of a call, evenly spaced
_RARE = 0.001  # share of voxels of the prior beyond either end of the possible range, and
_MARGIN = 1.5  # the factor that widens it, so that no voxel of the prior lies outside
_USUAL = 0.05  # share of voxels of the prior beyond either end of the usual range
_LEAST_SHARE, _SHARE_WITHOUT_WARNING = 0.05, 0.95  # of the voxels that can have M0 = 1
_LEAST_VOXELS = 20  # for the warning of an unusual median, which single voxels often have


@dataclass(frozen=True)
class M0Estimator:
    """Estimator of the scale M0 of signals from their shape, for the tissue of a prior.

    The signals of a prior determine their M0 nearly: the norm at M0 = 1 is a smooth function of
    the direction of a signal, here a cubic polynomial of its leading coordinates, fitted to
    simulated voxels. The largest value alone is a much weaker bound: between 0.3 and 1 for M0 = 1.

    Parameters
    ----------
    basis : ndarray of shape (n_measurements, n_coordinates)
        Leading principal components of the normalised signals.
    coefficients : ndarray of shape (n_terms,)
        Coefficients of the polynomial, whose value is the logarithm of the norm at M0 = 1.
    possible : tuple of float
        Range of the estimates for signals of the prior.
    usual : tuple of float
        Range of nine tenths of these estimates.
    """

    basis: Array
    coefficients: Array
    possible: tuple[float, float]
    usual: tuple[float, float]

    @classmethod
    def from_signals(cls, signals: Array) -> M0Estimator:
        """Fit the estimator to signals of M0 = 1, shape (n_samples, n_measurements)."""
        half = len(signals) // 2
        shapes = np.asarray(physics.normalize_signals(signals))
        norms = np.log(np.asarray(physics.signal_norm(signals)))
        _, vectors = np.linalg.eigh(shapes[:half].T @ shapes[:half])
        basis = vectors[:, ::-1][:, :_N_COORDINATES]
        coefficients, *_ = np.linalg.lstsq(_terms(shapes[:half] @ basis), norms[:half], rcond=1e-8)
        # the errors on other voxels than those of the fit
        errors = norms[half:] - _terms(shapes[half:] @ basis) @ coefficients
        low, first, last, high = np.quantile(errors, [_RARE, _USUAL, 1 - _USUAL, 1 - _RARE])
        return cls(
            basis, coefficients,
            possible=(float(np.exp(_MARGIN * low)), float(np.exp(_MARGIN * high))),
            usual=(float(np.exp(first)), float(np.exp(last))),
        )  # fmt: skip

    def estimate(self, signals: NDArray[np.floating]) -> Array:
        """Estimate the M0 of signals that are not zero, shape (n_samples,)."""
        signals = signals.astype(np.float64)
        shapes = np.asarray(physics.normalize_signals(signals))
        expected = _terms(shapes @ self.basis) @ self.coefficients
        # clipped: the polynomial of a shape far outside the prior may be anything
        log = np.log(np.asarray(physics.signal_norm(signals))) - expected
        return np.asarray(np.exp(np.clip(log, -600, 600)))


def check_unit_m0(
    signals: NDArray[np.floating],
    *,
    protocol: AcquisitionProtocol,
    prior: TissuePrior,
    noise_level: NoiseLevels,
    noise_reference: str,
    noise_distribution: str,
    inversion_efficiency: float,
    n_coils: int = 1,
) -> None:
    """Refuse signals that cannot have M0 = 1, and warn if some cannot or M0 is probably another.

    Parameters
    ----------
    signals : ndarray of shape (n_samples, n_measurements)
        Finite signals in the order of the protocol. Signals of zeros are ignored.
    protocol, prior, noise_level, noise_reference, noise_distribution, inversion_efficiency, n_coils
        Definition of the signals of M0 = 1; see :class:`corrsk.ProtocolAligner`.

    Raises
    ------
    ValueError
        If nearly no signal can have M0 = 1.

    Warns
    -----
    UserWarning
        If more than a twentieth of the signals cannot have M0 = 1, or the median of the estimates
        is unusual for M0 = 1.
    """
    bright = np.flatnonzero(signals.any(axis=1))
    if not bright.size:
        return
    levels = checked_noise_levels(noise_level)
    estimator = _fitted(
        protocol, prior, levels if isinstance(levels, SNRRange) else tuple(levels.tolist()),
        noise_reference, noise_distribution, inversion_efficiency, n_coils,
    )  # fmt: skip
    judged = bright[:: -(-bright.size // _N_JUDGED)]
    m0 = estimator.estimate(signals[judged])
    low, high = estimator.possible
    share, median = np.mean((m0 >= low) & (m0 <= high)), np.median(m0)
    found = (
        f"the model is for signals with M0 = 1, but their shapes indicate M0 = {median:.3g} "
        f"(median of {m0.size} voxels; {1 - share:.0%} outside of {low:.2f} to {high:.2f}, the "
        "estimates that are possible for M0 = 1)"
    )
    cure = (
        "divide the signals by their M0, or use a model for signals of any scale, with a "
        "SignalNormalizer that divides each signal by its norm, such as "
        "load_pretrained('t1t2-detr')"
    )
    if share < _LEAST_SHARE:
        raise ValueError(f"{found}; {cure}")
    unusual = m0.size >= _LEAST_VOXELS and not estimator.usual[0] <= median <= estimator.usual[1]
    if share < _SHARE_WITHOUT_WARNING or unusual:
        warnings.warn(
            f"{found}; predictions for another M0 than 1 are wrong: {cure}",
            stacklevel=user_level(),
        )


@lru_cache(maxsize=4)
def _fitted(
    protocol: AcquisitionProtocol,
    prior: TissuePrior,
    noise_level: tuple[float, ...] | SNRRange,
    noise_reference: str,
    noise_distribution: str,
    inversion_efficiency: float,
    n_coils: int,
) -> M0Estimator:
    table, _ = prior.sample(_N_VOXELS, _SEED, n_jobs=1, verbose=False)
    compartments = range(1, prior.max_compartments + 1)

    def columns(name: str) -> Array:
        return np.nan_to_num(table[[f"{name}_{i}" for i in compartments]].to_numpy(), nan=1.0)

    fractions = table[[f"f_{i}" for i in compartments]].to_numpy()
    clean = physics.correlation_signals(
        protocol.contrasts, {name: columns(name) for name in protocol.tissue_properties}, fractions,
        tr=protocol.tr, readout=protocol.readout,
        **{"inversion_efficiency": inversion_efficiency} | _of_signal(table),
    )  # fmt: skip
    rng = np.random.default_rng(_SEED)
    if isinstance(noise_level, SNRRange):
        levels = noise_level.sample(rng, len(clean))
    else:
        levels = rng.choice(noise_level, len(clean))
    sigma = physics.noise_sigma(clean, levels, noise_reference)
    real = rng.standard_normal(clean.shape)
    if noise_distribution == "rician":
        others = draw_other_channels(lambda: rng.standard_normal(clean.shape), n_coils)
        signals = physics.add_noncentral_chi_noise(clean, sigma, real, others)
    else:
        signals = physics.add_gaussian_noise(clean, sigma, real)
    return M0Estimator.from_signals(np.asarray(signals))


def _of_signal(table: pd.DataFrame) -> dict[str, Array]:
    """Nuisance parameters of a tissue table that act on noise-free signals."""
    return {name: table[name].to_numpy() for name in SIGNAL_NUISANCES if name in table}


def _terms(coordinates: Array) -> Array:
    """Terms of a cubic polynomial, shape (n_samples, n_terms)."""
    k = coordinates.shape[1]
    columns = [np.ones(len(coordinates))]
    for degree in (1, 2, 3):
        columns += [
            coordinates[:, list(chosen)].prod(axis=1)
            for chosen in itertools.combinations_with_replacement(range(k), degree)
        ]
    return np.stack(columns, axis=1)
