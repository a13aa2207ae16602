"""Shapes that the signals of a protocol can have: simulated signals, and their distribution."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk import physics
from corrsk.acquisition.bounds import checked_bounds
from corrsk.acquisition.nuisances import check_one_scale
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.tissue.prior import TissuePrior, resolve_prior

Array = NDArray[np.float64]
Efficiency = float | tuple[float, float]

_SEED = 2024  # the same tissue in every call, so that results are reproducible
_N_SIGNALS, _FEWEST_SIGNALS = 8000, 500
_MOST_ENTRIES = 2**23  # of the matrix of simulated signals: 64 MB
_N_EXAMPLES = 4000  # signals to compare measured ones with
_N_COUNTS, _SMALLEST_FRACTION = 3, 0.05
# a saturated recovery shows less of a long T1 than the bounds of a fit hold, but its sign still
_LONGEST_T1 = 10_000.0
_LEAST_VARIANCE = 1e-8  # of a component; the noise below is 0.001 of the norm
NOISE_LEVELS = np.geomspace(0.001, 0.3, 10)  # as fractions of the norm of a signal


@dataclass(frozen=True)
class SignalShapes:
    """Distribution of signals of norm 1: examples, and a normal distribution.

    Parameters
    ----------
    examples : ndarray of shape (n_examples, n_measurements)
        Simulated signals without noise, of norm 1.
    mean : ndarray of shape (n_measurements,)
        Mean of the simulated signals.
    basis : ndarray of shape (n_measurements, n_components)
        Principal components about the mean.
    variances : ndarray of shape (n_components,)
        Variances of the components.
    """

    examples: Array
    mean: Array
    basis: Array
    variances: Array

    @classmethod
    def from_signals(cls, signals: Array) -> SignalShapes:
        """Distribution of noise-free signals, shape (n_samples, n_measurements)."""
        shapes = np.asarray(physics.normalize_signals(signals))
        mean = shapes.mean(axis=0)
        _, values, vectors = np.linalg.svd(shapes - mean, full_matrices=False)
        variances = values**2 / len(shapes)
        keep = variances > _LEAST_VARIANCE
        return cls(shapes[:_N_EXAMPLES], mean, vectors[keep].T.copy(), variances[keep])

    def deviance(self, signals: Array) -> tuple[Array, NDArray[np.intp]]:
        """Smallest deviance of signals of norm 1 over the noise levels.

        Parameters
        ----------
        signals : ndarray of shape (n_samples, n_measurements)
            Signals of norm 1.

        Returns
        -------
        deviance : ndarray of shape (n_samples,)
            -2 times the log likelihood, up to a constant.
        level : ndarray of int, shape (n_samples,)
            Index of the noise level that has it.
        """
        centred = signals - self.mean
        along = (centred @ self.basis) ** 2
        beside = np.maximum((centred**2).sum(axis=1) - along.sum(axis=1), 0.0)
        n_beside = signals.shape[1] - self.variances.size
        every = np.empty((len(signals), NOISE_LEVELS.size))
        for column, level in enumerate(NOISE_LEVELS):
            total = self.variances + level**2
            every[:, column] = (
                along @ (1 / total) + beside / level**2
                + np.log(total).sum() + n_beside * np.log(level**2)
            )  # fmt: skip
        best = every.argmin(axis=1)
        return every[np.arange(len(every)), best], best

    def weights(self, level: float) -> Array:
        """Share of each component that is signal, for a noise level; shape (n_components,)."""
        return np.asarray(self.variances / (self.variances + level**2))

    def smoothed(self, signals: Array) -> tuple[Array, Array, Array]:
        """Most probable signals without noise, and the noise of each, for signals of norm 1.

        Returns
        -------
        smooth : ndarray of shape (n_samples, n_measurements)
            The signals.
        sigma : ndarray of shape (n_samples,)
            Standard deviation of the noise, from the residuals.
        freedom : ndarray of shape (n_samples,)
            Degrees of freedom of the residuals, at least 1.
        """
        _, level = self.deviance(signals)
        centred = signals - self.mean
        share = self.variances / (self.variances + NOISE_LEVELS[level, None] ** 2)
        smooth = self.mean + (share * (centred @ self.basis)) @ self.basis.T
        freedom = np.maximum(signals.shape[1] - share.sum(axis=1), 1.0)
        return smooth, np.sqrt(((signals - smooth) ** 2).sum(axis=1) / freedom), freedom


def signal_shapes(
    protocol: AcquisitionProtocol,
    prior: TissuePrior | str | None,
    inversion_efficiency: Efficiency,
) -> SignalShapes:
    """Distribution of the signals of a protocol, for signals in its order.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        Protocol.
    prior : TissuePrior, str or None
        Tissue. None is 1 to 3 compartments of any tissue that the protocol resolves.
    inversion_efficiency : float or (low, high)
        Inversion efficiency, or the range of it.

    Returns
    -------
    SignalShapes
        The distribution.

    Raises
    ------
    ValueError
        If the prior has no range for a property that the protocol measures, the efficiency is
        not in (0, 1], or the protocol has series of unknown relative scale.
    """
    check_one_scale(protocol)
    tissue = None if prior is None else resolve_prior(prior)
    low, high = checked_efficiency(inversion_efficiency)
    # protocols that differ in their order are equal, and share a cached distribution
    order = protocol.in_grid_order()
    shapes = _shapes(order, tissue, low, high)
    if protocol._is_in_grid_order:
        return shapes
    return SignalShapes(
        protocol.to_scan_order(shapes.examples), protocol.to_scan_order(shapes.mean[None])[0],
        protocol.to_scan_order(shapes.basis.T).T, shapes.variances,
    )  # fmt: skip


def checked_efficiency(value: Any) -> tuple[float, float]:
    """Range of the inversion efficiency, from a number or a pair.

    Raises
    ------
    ValueError
        If the value is neither a number in (0, 1] nor a pair (low, high) of them.
    """
    try:
        pair = (value, value) if np.ndim(value) == 0 else tuple(value)
        low, high = (float(one) for one in pair)
    except (TypeError, ValueError):
        low = high = np.nan
    if not 0 < low <= high <= 1:
        raise ValueError(
            "inversion_efficiency must be a number in (0, 1], or a range (low, high) with "
            f"0 < low <= high <= 1; got {value!r}"
        )
    return low, high


@lru_cache(maxsize=8)
def _shapes(
    protocol: AcquisitionProtocol, prior: TissuePrior | None, low: float, high: float
) -> SignalShapes:
    n = int(np.clip(_MOST_ENTRIES // protocol.n_measurements, _FEWEST_SIGNALS, _N_SIGNALS))
    draw = _any_tissue(protocol, n) if prior is None else _tissue_of(prior, protocol, n)
    ends = [
        np.asarray(
            physics.correlation_signals(
                protocol.contrasts,
                *draw,
                tr=protocol.tr,
                inversion_efficiency=efficiency,
                readout=protocol.readout,
            )
        )
        for efficiency in ((low,) if low == high else (low, high))
    ]
    # signals are linear in the efficiency
    share = np.random.default_rng([_SEED, 1]).random((n, 1))
    signals = ends[0] if len(ends) == 1 else (1 - share) * ends[0] + share * ends[1]
    return SignalShapes.from_signals(signals[signals.any(axis=1)])


def _tissue_of(
    prior: TissuePrior, protocol: AcquisitionProtocol, n: int
) -> tuple[dict[str, Array], Array]:
    missing = [name for name in protocol.tissue_properties if name not in prior.ranges]
    if missing:
        raise ValueError(
            f"the protocol measures {', '.join(missing)}, but the prior has ranges for "
            f"{', '.join(prior.ranges)} only"
        )
    table, _ = prior.sample(n, _SEED, n_jobs=1, verbose=False)
    columns = range(1, prior.max_compartments + 1)
    tissue = {
        name: np.nan_to_num(table[[f"{name}_{i}" for i in columns]].to_numpy(), nan=1.0)
        for name in protocol.tissue_properties
    }
    return tissue, table[[f"f_{i}" for i in columns]].to_numpy()


def _any_tissue(protocol: AcquisitionProtocol, n: int) -> tuple[dict[str, Array], Array]:
    """Draw 1 to 3 compartments, log-uniform over what the protocol resolves."""
    rng = np.random.default_rng(_SEED)
    tissue = {}
    for name, (low, high) in checked_bounds(None, protocol).items():
        if name == "T1" and protocol.tr is not None:
            high = max(high, min(3 * high, _LONGEST_T1))
        tissue[name] = np.exp(rng.uniform(np.log(low), np.log(high), (n, _N_COUNTS)))
    if {"T1", "T2"} <= tissue.keys():
        tissue["T2"] = np.minimum(tissue["T2"], tissue["T1"])
    count = 1 + np.arange(n) % _N_COUNTS
    weights = rng.exponential(size=(n, _N_COUNTS)) * (np.arange(_N_COUNTS) < count[:, None])
    weights *= ((1 - _SMALLEST_FRACTION * count) / weights.sum(axis=1))[:, None]
    return tissue, weights + _SMALLEST_FRACTION * (weights > 0)


@dataclass(frozen=True)
class Recoveries:
    """Inversion recoveries of a protocol: measurements that differ in TI alone (and TR).

    Parameters
    ----------
    before, after : ndarray of int, shape (n_measurements,)
        Measurement with the next smaller or larger TI of the same recovery; -1 for none.
    inverted : ndarray of bool, shape (n_measurements,)
        Measurements after an inversion, which may be negative.
    label : ndarray of int, shape (n_measurements,)
        Number of the recovery of each measurement; -1 without inversion.
    groups : tuple of ndarray of int
        Measurements of each recovery, with ascending TI.
    """

    before: NDArray[np.intp]
    after: NDArray[np.intp]
    inverted: NDArray[np.bool_]
    label: NDArray[np.intp]
    groups: tuple[NDArray[np.intp], ...]

    @classmethod
    def from_protocol(cls, protocol: AcquisitionProtocol) -> Recoveries:
        """Find the recoveries of a protocol."""
        n = protocol.n_measurements
        before, after, label = np.full((3, n), -1)
        if protocol.ti is None:
            return cls(before, after, np.zeros(n, dtype=bool), label, ())
        inverted = np.isfinite(protocol.ti)
        others = [values for name, values in protocol.contrasts.items() if name != "TI"]
        keys = np.stack([np.zeros(n), *others])
        _, found = np.unique(keys, axis=1, return_inverse=True)
        found = found.ravel()
        groups = []
        for number, key in enumerate(np.unique(found[inverted])):
            group = np.flatnonzero((found == key) & inverted)
            label[group] = number
            groups.append(group[np.argsort(protocol.ti[group], kind="stable")])
            for first, second in itertools.pairwise(groups[-1]):
                after[first], before[second] = second, first
        return cls(before, after, inverted, label, tuple(groups))

    def may_change(self, negative: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Measurements whose sign can change so that each recovery still has a single null."""
        next_negative = np.where(self.after >= 0, negative[:, self.after], False)
        previous_negative = np.where(self.before >= 0, negative[:, self.before], True)
        return np.where(negative, ~next_negative, previous_negative) & self.inverted


def blocks(n: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` rows."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
