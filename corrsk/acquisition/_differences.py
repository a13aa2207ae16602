"""Differences between the predicted signals of two protocols, for the tissue of a prior."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from corrsk import physics
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics.noise_levels import NoiseLevels, SNRRange, checked_noise_levels
from corrsk.tissue.prior import TissuePrior

Array = NDArray[np.float64]
Tissue = dict[str, Array]

_SEED = 2024  # the same voxels in every comparison, so that the verdict is reproducible
_ROUNDING = 1e-6  # of M0: the rounding noise of signals in single precision
_OTHER_READOUT = 0.01  # cost of the pair of an echo train and another readout
_SAME_TIME = 1e-3  # difference of equal scan parameters, in the logarithm
_STEP = 1e-3  # of the finite differences, in the logarithm of a tissue property


def pairing(trained: AcquisitionProtocol, measured: AcquisitionProtocol) -> NDArray[np.intp] | None:
    """Index of the measured column of each trained measurement, in the order of both protocols.

    The pairs minimise the sum of the squared distances in the logarithms of the scan parameters,
    so that nearly equal times are paired even if their order differs. None if the contrasts or
    the numbers of measurements differ.
    """
    # pairs in grid order, for the same result in any order of the columns
    goal = trained.in_grid_order()
    sizes = goal.n_measurements, measured.n_measurements
    if goal.contrasts.keys() != measured.contrasts.keys() or sizes[0] != sizes[1]:
        return None
    by_grid = np.asarray(measured.to_grid(np.arange(sizes[1])[None]))[0]
    cost = np.zeros((sizes[0], sizes[1]))
    axes = [(wanted, measured.contrasts[name]) for name, wanted in goal.contrasts.items()]
    if isinstance(goal.tr, np.ndarray) or isinstance(measured.tr, np.ndarray):
        axes.append((goal._tr_of_each, measured._tr_of_each))
    for wanted, had in axes:
        wanted, had = _comparable(wanted, had[by_grid])
        cost += (wanted[:, None] - had) ** 2
    readouts = goal._readout_of_each, measured._take(by_grid)._readout_of_each
    if readouts[0] != readouts[1]:  # among equal times, equal readouts are paired
        cost += _OTHER_READOUT * np.array([[a != b for b in readouts[1]] for a in readouts[0]])
    if cost.diagonal().any():  # otherwise equal; repeated measurements keep their order
        by_grid = by_grid[linear_sum_assignment(cost)[1]]
    order: NDArray[np.intp] = trained.to_scan_order(by_grid[None])[0]
    return order


def positions_within(
    trained: AcquisitionProtocol, measured: AcquisitionProtocol
) -> NDArray[np.intp] | None:
    """Positions of the trained measurements among more measured ones, ascending.

    None if the contrasts differ, the measured protocol has no more measurements than the trained
    one, or a trained measurement is missing (up to 0.1 % of its scan parameters). Equal
    measurements are taken in the order of the measured protocol.
    """
    fewer = trained.n_measurements < measured.n_measurements
    if trained.contrasts.keys() != measured.contrasts.keys() or not fewer:
        return None
    axes = [(wanted, measured.contrasts[name]) for name, wanted in trained.contrasts.items()]
    if isinstance(trained.tr, np.ndarray) or isinstance(measured.tr, np.ndarray):
        axes.append((trained._tr_of_each, measured._tr_of_each))
    pairs = [_comparable(wanted, had) for wanted, had in axes]
    free = np.ones(measured.n_measurements, dtype=bool)
    found = np.empty(trained.n_measurements, dtype=np.intp)
    for j in range(trained.n_measurements):  # one at a time: long protocols have many pairs
        distance = np.max([np.abs(had - wanted[j]) for wanted, had in pairs], axis=0)
        distance[~free] = np.inf
        found[j] = distance.argmin()
        if distance[found[j]] > _SAME_TIME:
            return None
        free[found[j]] = False
    return np.sort(found)


def _comparable(wanted: Array, had: Array) -> tuple[Array, Array]:
    """Logarithms of the values of two protocols, finite for 0 and infinity too."""
    both = np.concatenate([wanted, had])
    largest = both[np.isfinite(both)].max(initial=1e-300)
    # b may be 0; TI and TR may be infinite
    first, second = (
        np.log(np.clip(values, 1e-4 * largest, 1e4 * largest)) for values in (wanted, had)
    )
    return first, second


@lru_cache(maxsize=8)
def reference_tissue(prior: TissuePrior, n_voxels: int) -> tuple[Tissue, Array, int]:
    """Voxels drawn from the prior, then a single-compartment voxel at each corner of its ranges.

    Returns
    -------
    tissue : dict of str to array of shape (n_samples, n_compartments)
    fractions : array of shape (n_samples, n_compartments)
    n_drawn : int
        Number of voxels drawn from the prior; these come first.
    """
    table, _ = prior.sample(n_voxels, _SEED, n_jobs=1, verbose=False)
    corners = np.array(list(itertools.product(*((r.low, r.high) for r in prior.ranges.values()))))
    names = list(prior.ranges)
    if prior.t2_below_t1:
        corners = corners[corners[:, names.index("T2")] < corners[:, names.index("T1")]]
    pad = prior.max_compartments - 1

    def columns(name: str, extra: Array) -> Array:
        drawn = table[[f"{name}_{i}" for i in range(1, pad + 2)]].to_numpy()
        return np.vstack([np.nan_to_num(drawn, nan=1.0), np.pad(extra, ((0, 0), (0, pad)))])

    fractions = columns("f", np.ones((len(corners), 1)))
    tissue = {name: columns(name, corners[:, [k]]) for k, name in enumerate(names)}
    for values in tissue.values():
        values[fractions == 0] = 1.0
    return tissue, fractions, n_voxels


def noise_deviation(noise_level: NoiseLevels) -> float:
    """Standard deviation of the mixture of noise levels, relative to the noise reference."""
    levels = checked_noise_levels(noise_level)
    if isinstance(levels, SNRRange):
        return float(levels.mean_square**0.5)
    return float(np.sqrt(np.mean(levels**2)))


def differences(
    trained: AcquisitionProtocol,
    measured: AcquisitionProtocol,
    tissue: Tissue,
    fractions: Array,
    *,
    noise_level: NoiseLevels,
    noise_reference: str,
    norm: str | None,
    inversion_efficiency: float,
) -> tuple[Array, Array]:
    """Signal differences between two protocols for each voxel, in units of the trained noise.

    Parameters
    ----------
    trained, measured : AcquisitionProtocol
        Protocols with corresponding measurements in the same order.
    tissue, fractions
        From :func:`reference_tissue`.

    Returns
    -------
    difference : array of shape (n_samples, n_measurements)
        ``(S_measured - S_trained) / sigma``, after division of both signals by their norms.
    unexplained : array of shape (n_samples,)
        2-norm of the part of the difference that no other tissue with the same number of
        compartments explains; see Notes.

    Notes
    -----
    A protocol whose times are all 5 % longer yields the signals of tissue whose
    relaxation is 5 % faster: a model counts the compartments as accurately as
    before. A single wrong time yields signals that no tissue has, for which a model
    predicts additional compartments. To separate the two cases, the difference d is
    fitted by shifts theta of the compartments' log times and fractions, whose prior
    standard deviation is 1: the unexplained part is ``d - J theta`` with
    theta at the minimum of ``|d - J theta|^2 / sigma^2 + |theta|^2``.
    """

    def signals(protocol: AcquisitionProtocol, tissue: Tissue, fractions: Array) -> Array:
        clean: Array = physics.correlation_signals(
            protocol.contrasts, tissue, fractions, tr=protocol.tr,
            inversion_efficiency=inversion_efficiency, readout=protocol.readout,
        )  # fmt: skip
        return clean

    expected, found = signals(trained, tissue, fractions), signals(measured, tissue, fractions)
    sigma = noise_deviation(noise_level) * np.asarray(
        physics.noise_sigma(
            trained.to_grid(expected, copy=False), np.ones(len(expected)), noise_reference
        )
    )
    sigma = np.maximum(sigma, _ROUNDING)
    if norm is not None:
        norms = physics.signal_norm(expected, norm), physics.signal_norm(found, norm)
        found = found * (norms[0] / np.where(norms[1] > 0, norms[1], 1.0))[:, None]
    difference = (found - expected) / sigma[:, None]

    tangents = []
    for i in range(fractions.shape[1]):
        alone = np.where(np.arange(fractions.shape[1]) == i, fractions > 0, 0.0)
        single = signals(trained, tissue, alone)
        # the fractions sum to 1; after normalisation the scale is free
        tangents.append(single if norm is not None else (single - expected) * alone[:, [i]])
        for name in tissue:
            moved = {key: values.copy() for key, values in tissue.items()}
            moved[name][:, i] *= 1 + _STEP
            tangents.append((signals(trained, moved, fractions) - expected) / _STEP)
    basis, size, _ = np.linalg.svd(np.stack(tangents, axis=2), full_matrices=False)
    explained = (basis * (size**2 / (size**2 + sigma[:, None] ** 2))[:, None]) @ (
        basis.transpose(0, 2, 1) @ difference[:, :, None]
    )
    return difference, np.linalg.norm(difference - explained[:, :, 0], axis=1)
