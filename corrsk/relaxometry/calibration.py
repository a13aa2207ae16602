"""Calibration of pulses: the nuisance parameters that are common to all voxels of an image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline
from scipy.optimize import minimize, nnls
from sklearn.cluster import KMeans

from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics import CONTRASTS, EchoTrain, SliceProfile, echo_train
from corrsk.physics.contrasts import own_units
from corrsk.physics.echo_train_tables import angle_weights
from corrsk.relaxometry._residuals import ResidualVariance

Array = NDArray[np.float64]

_N_GROUPS = 40  # mean signals of similar voxels
_MIN_VOXELS = 6  # per group, so that the mean has less noise than the pulses have effects
_ANGLE_STEP, _LARGEST_ANGLE = 2.0, 240.0
_T1_NODES = np.geomspace(20.0, 5000.0, 9)
_T1_GRID = np.geomspace(15.0, 10_000.0, 500)
_WINDOW = 8  # of the grid of T2, on either side
_N_ROUNDS = 3  # of pulses and T1, in turn
_SCALE = 0.005  # of relative residuals: larger ones count less and less
_LARGEST_OFFSET, _SHARE_OF_TI = 10.0, 0.3  # of TI in ms, and relative to the shortest TI
_LONGEST_SATURATION = 0.5  # relative to TR
_OFFSET_PENALTY = 1e-3  # per signal: decides only where the data do not
_OUTLIER = 3.0  # groups with residuals beyond this multiple of the median are left out
_N_COMPARED = 300  # voxels whose spectra are compared with one compartment
_N_ROUNDS_OF_VOXELS = 4
_BINS = {False: (1, 60), True: (14, 24)}  # of T1 and T2, without and with inversion times
_ABOVE_FLOOR = 5.0  # standard deviations of the noise, above which magnitudes are nearly unbiased
_UNRESOLVED = 1e-3  # of the largest signal: smaller residuals do not matter
_FEWEST_MEASUREMENTS = 12
# parameters of a spectrum that noise alone determines, beyond those of one compartment: measured on
# simulated voxels of one compartment, at SNR 50 to 500, with 32 echoes and with the 8 x 8 protocol
_FREEDOM = {False: 1.0, True: 5.0}
_DOUBTFUL = 1.15


class CalibrationWarning(UserWarning):
    """Warning that a calibration of pulses is not that of the signals.

    Most voxels of the image have more than one compartment, or the signals are those of another
    image.
    """


@dataclass(frozen=True)
class PulseCalibration:
    """Nuisance parameters that are common to the voxels of an image.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        Protocol with the calibrated echo train, and with inversion times that include the offset.
    inversion_efficiency : float
        Inversion efficiency; 1 if the protocol has no inversion.
    magnitude : bool
        Whether the signals are magnitudes.
    gain : float
        Scale of the second of two series, relative to the first; 1 for a single series.
    sigma : float
        Median standard deviation of the noise, relative to the largest signal of a voxel.
    residual, residual_before : float
        Median relative residual (root mean square, relative to the largest signal) of
        one-compartment fits to mean signals, with the calibrated pulses and with those of the
        given protocol.
    n_voxels, n_used : int
        Number of voxels, and of those whose groups one compartment explains.
    ti_offset : float
        Difference in ms of the inversion times to the stated ones: pulses have a duration, and
        scanners differ in the points between which they state TI. 0 if the protocol has no
        inversion.
    saturation_time : float
        Part of TR in ms, after the excitation of the second of two series, over which the
        magnetisation does not recover, such as the duration of an echo train. The TR of the
        protocol is shorter by this time. 0 for a single series.
    voxel_residual : float or None
        Typical standard deviation of the residual of one compartment in a voxel, relative to its
        largest signal: noise and what the signal model lacks. None if there are too few voxels or
        measurements.
    residual_freedom : float or None
        Degrees of freedom of the distribution of that residual variance over the voxels: many if
        all voxels have the same variance, few if it varies.
    variance_ratio : float or None
        Residual variance of one compartment over that of a non-negative spectrum, both with the
        calibrated pulses, median over voxels: near 1 where most voxels have one compartment. None
        if there are too few measurements.
    """

    protocol: AcquisitionProtocol
    inversion_efficiency: float
    magnitude: bool
    gain: float
    sigma: float
    residual: float
    residual_before: float
    n_voxels: int
    n_used: int
    ti_offset: float = 0.0
    saturation_time: float = 0.0
    voxel_residual: float | None = None
    residual_freedom: float | None = None
    variance_ratio: float | None = None

    @property
    def is_doubtful(self) -> bool:
        """Whether several compartments explain most voxels much better than one.

        The limit is that of the ratio of noise alone, of which a spectrum fits the part of some
        more parameters than one compartment.
        """
        if self.variance_ratio is None:
            return False
        free = self.protocol.n_measurements - len(self.protocol.tissue_properties) - 1
        by_noise = free / (free - _FREEDOM["TI" in self.protocol.contrasts])
        return self.variance_ratio > _DOUBTFUL * by_noise

    @property
    def residual_variance(self) -> ResidualVariance | None:
        """Distribution of the residual variance over the voxels, if it was estimated."""
        if self.voxel_residual is None or self.residual_freedom is None:
            return None
        return ResidualVariance(self.voxel_residual, self.residual_freedom)

    def __str__(self) -> str:
        found = []
        if "TI" in self.protocol.contrasts:
            found.append(f"inversion efficiency {self.inversion_efficiency:.3f}")
            found.append(f"TI {self.ti_offset:+.1f} ms")
        for train in dict.fromkeys(self.protocol._readout_of_each):
            if train is not None:
                found.append(f"refocusing angle {train.refocusing_angle:.0f} degrees")
        if self.protocol.series is not None:
            found.append(f"gain of the second series {self.gain:.3f}")
        if self.saturation_time:
            found.append(f"saturation for {self.saturation_time:.0f} ms of its TR")
        pulses = f"{', '.join(found)}; " if found else ""
        of_voxels = ""
        if self.voxel_residual is not None:
            of_voxels = (
                f", residual of a voxel {100 * self.voxel_residual:.2f} % with "
                f"{self.residual_freedom:.2g} degrees of freedom"
            )
        return (
            f"{pulses}residual of one compartment {100 * self.residual:.2f} % (before: "
            f"{100 * self.residual_before:.2f} %) in {self.n_used} of {self.n_voxels} voxels, "
            f"noise {100 * self.sigma:.2f} % of the largest signal{of_voxels}"
        )


class _Echoes:
    """Echo amplitudes of trains for any pulses, on a grid of T1 and T2."""

    def __init__(self, train: EchoTrain, numbers: NDArray[np.int64], t2: Array) -> None:
        n_echoes = int(numbers.max())
        coarse = np.linspace(math.log(t2[0]), math.log(t2[-1]), 48)
        self._angles = np.arange(0.0, _LARGEST_ANGLE + _ANGLE_STEP, _ANGLE_STEP)
        base = np.stack(
            [
                echo_train(
                    n_echoes, train.spacing, _T1_NODES[:, None], np.exp(coarse),
                    refocusing_angle=angle,
                )[..., numbers - 1]
                for angle in self._angles
            ]
        )  # fmt: skip
        self._base = base.reshape(len(self._angles), -1)
        self._shape = base.shape[1:]
        self._finer = make_interp_spline(coarse, np.eye(coarse.size), 5)(np.log(t2))
        self._of_angle = make_interp_spline(self._angles, np.eye(self._angles.size), 3)

    def __call__(self, train: EchoTrain) -> Array:
        """Amplitudes (n_t1, n_t2, n_measurements) of a train."""
        (weights,) = angle_weights(train, self._angles[-1], self._of_angle, np.ones(1))
        return np.einsum("ft,atn->afn", self._finer, (weights @ self._base).reshape(self._shape))


class _Problem:
    """Residuals of one-compartment fits to mean signals, as a function of the pulses."""

    def __init__(self, protocol: AcquisitionProtocol, signals: Array, magnitude: bool) -> None:
        self.protocol, self.signals, self.magnitude = protocol, signals, magnitude
        contrasts = protocol.contrasts
        self.t2 = np.geomspace(2.0, 4000.0, 240)
        self.window: NDArray[np.intp] | None = None  # (n_signals, n_near) of T2 near the best one
        self.stated_ti = contrasts.get("TI")
        self.ti_offset = 0.0
        trains = protocol._readout_of_each
        distinct = {train for train in trains if train is not None}
        if len(distinct) > 1:
            raise ValueError(
                f"the protocol has {len(distinct)} different echo trains; calibrate them one by one"
            )
        self.train = next(iter(distinct)) if distinct else None
        self._of_train = np.array([train is not None for train in trains])
        te = contrasts.get("TE", np.zeros(protocol.n_measurements))
        # (n_t2, n_measurements) of single echoes
        self._single = np.exp(-te[~self._of_train] / self.t2[:, None])
        self._echoes = None
        if self.train is not None:
            numbers = self.train.echo_numbers(te[self._of_train])
            self._echoes = _Echoes(self.train, numbers, self.t2)
        self.series = protocol._series_of_each
        if self.series.max() > 1:
            raise ValueError(
                f"at most two series can be calibrated, got {self.series.max() + 1} series"
            )
        self.t1 = np.full(len(signals), 1000.0 if self.train is None else self.train.t1)

    def echoes(self, train: EchoTrain | None) -> Array:
        """Amplitudes (n_t1, n_t2, n_measurements)."""
        n_t1 = 1 if self._echoes is None else len(_T1_NODES)
        result = np.empty((n_t1, self.t2.size, self._of_train.size))
        result[..., ~self._of_train] = self._single
        if self._echoes is not None:
            assert train is not None
            result[..., self._of_train] = self._echoes(train)
        return result

    def recovery(self, efficiency: float, t1: Array) -> Array:
        """Longitudinal magnetisation (n_t1, n_measurements)."""
        if self.stated_ti is None:
            return np.ones((t1.size, self._of_train.size))
        return CONTRASTS["TI"].kernel(
            self.stated_ti + self.ti_offset, t1[:, None], tr=self.protocol._tr_of_each,
            inversion_efficiency=efficiency,
        )  # fmt: skip

    def residuals(self, atoms: Array) -> Array:
        """Residual sums of squares (n_signals, n_atoms), for atoms (n_signals, n_atoms, N)."""
        if self.magnitude:
            atoms = np.abs(atoms)
        total = np.zeros(atoms.shape[:-1])
        for number in range(self.series.max() + 1):
            own = self.series == number
            x, a = self.signals[:, own], atoms[..., own]
            inner = np.einsum("...an,...n->...a", a, x)
            total += (x * x).sum(axis=-1)[..., None] - np.maximum(inner, 0) ** 2 / np.maximum(
                (a * a).sum(axis=-1), 1e-300
            )
        return np.maximum(total, 0)

    def of_t1(self, echoes: Array, t1: Array, near: NDArray[np.intp]) -> Array:
        """Echoes (n_signals, n_near, N) at the T1 of each signal, and at T2 of these numbers."""
        if len(echoes) == 1:
            return np.asarray(echoes[0][near])
        low, share = _between_nodes(t1)
        share = share[:, None, None]
        below, above = (echoes[nodes[:, None], near] for nodes in (low, low + 1))
        return np.asarray(below * (1 - share) + above * share)

    def fit_t2(
        self, echoes: Array, efficiency: float, *, near_last: bool = False
    ) -> tuple[Array, Array]:
        """Smallest residuals over T2, and that T2, at the present T1 of each signal.

        With `near_last`, only T2 near those that the last search over all T2 has found.
        """
        near = self.window if near_last else None
        if near is None:
            near = np.broadcast_to(np.arange(self.t2.size), (self.t1.size, self.t2.size))
        atoms = self.of_t1(echoes, self.t1, near) * self.recovery(efficiency, self.t1)[:, None]
        rss = self.residuals(atoms)
        best = rss.argmin(axis=1)
        places = near[np.arange(len(near)), best]
        if not near_last:
            first = np.clip(places - _WINDOW, 0, self.t2.size - 2 * _WINDOW - 1)
            self.window = first[:, None] + np.arange(2 * _WINDOW + 1)
        return _parabola(rss, best), self.t2[places]

    def fit_t1(self, echoes: Array, efficiency: float, t2: Array) -> Array:
        """Smallest residuals over T1 at a T2 of each signal; sets T1."""
        own = np.abs(np.log(self.t2[:, None] / t2)).argmin(axis=0)
        nodes = echoes[:, own].swapaxes(0, 1)  # (n_signals, n_t1, N)
        if nodes.shape[1] == 1:
            fine = np.broadcast_to(nodes, (len(own), _T1_GRID.size, nodes.shape[2]))
        else:
            low, share = _between_nodes(_T1_GRID)
            share = share[:, None]
            fine = nodes[:, low] * (1 - share) + nodes[:, low + 1] * share
        rss = self.residuals(fine * self.recovery(efficiency, _T1_GRID))
        best = rss.argmin(axis=1)
        self.t1 = _T1_GRID[best]
        return _parabola(rss, best)


def _between_nodes(t1: Array) -> tuple[NDArray[np.intp], Array]:
    """Number of the T1 node below each T1, and the weight of the node above."""
    place = np.interp(np.log(t1), np.log(_T1_NODES), np.arange(len(_T1_NODES)))
    low = np.minimum(place.astype(np.intp), len(_T1_NODES) - 2)
    return low, place - low


def _parabola(rss: Array, best: NDArray[np.intp]) -> Array:
    """Minimum of the parabola through the smallest value and its neighbours."""
    rows = np.arange(len(best))
    middle = np.clip(best, 1, rss.shape[1] - 2)
    left, centre, right = (rss[rows, middle + step] for step in (-1, 0, 1))
    curvature = left - 2 * centre + right
    lower = centre - (right - left) ** 2 / (8 * np.where(curvature > 0, curvature, np.inf))
    return np.maximum(np.where(middle == best, lower, rss[rows, best]), 0)


def calibrate_pulses(
    signals: Array,
    protocol: AcquisitionProtocol,
    *,
    magnitude: bool = False,
    n_coils: int = 1,
    random_state: int = 0,
) -> PulseCalibration:
    """Estimate the pulses of an image in which most voxels have one compartment.

    Parameters
    ----------
    signals : ndarray of shape (n_voxels, n_measurements)
        Signals, with columns in the order of the protocol, at any scale.
    protocol : AcquisitionProtocol
        Protocol. The inversion efficiency is found if it has inversion times, the angle of the
        refocusing pulses and their profile over the slice if it has an echo train.
    magnitude : bool, default=False
        Whether the signals are magnitudes.
    n_coils : int, default=1
        Number of coils whose magnitudes are combined.
    random_state : int, default=0
        Seed of the grouping of voxels.

    Returns
    -------
    PulseCalibration
        The pulses, and the residuals with and without them.

    Raises
    ------
    ValueError
        If there are fewer than 6 voxels with a signal, several different echo trains, or more than
        two series.

    Notes
    -----
    Voxels with similar signals are averaged. One compartment is fitted to each mean signal with
    common pulses, under a Cauchy loss; then groups with residuals beyond three times the median,
    which hold more than one compartment, are left out, and the pulses are fitted again. The
    inversion times have a common offset, of at most 10 ms and 0.3 of the shortest TI. The gain and
    the saturation of the second series are those with which both series have the same ratio of
    scales at all T1. Refocusing and excitation angles over the slice are super-Gaussians
    (:class:`corrsk.physics.SliceProfile`).
    """
    peaks = np.abs(signals).max(axis=1)
    signals, peaks = signals[peaks > 0], peaks[peaks > 0]
    if len(signals) < _MIN_VOXELS:
        raise ValueError(
            f"a calibration needs at least {_MIN_VOXELS} voxels with a signal, got {len(signals)}"
        )
    unit = signals / peaks[:, None]
    n_groups = max(1, min(_N_GROUPS, len(unit) // _MIN_VOXELS))
    labels = KMeans(n_groups, n_init=1, random_state=random_state).fit_predict(unit)
    sizes = np.bincount(labels, minlength=n_groups)
    kept = np.flatnonzero(sizes >= min(_MIN_VOXELS, sizes.max()))
    sigma = 0.0
    means = np.empty((kept.size, unit.shape[1]))
    for _ in range(2):  # the square of a magnitude is larger by 2 n sigma^2 in the mean
        for row, group in enumerate(kept):
            own = unit[labels == group]
            if magnitude:
                squared = np.maximum((own**2).mean(axis=0) - 2 * n_coils * sigma**2, 0)
                means[row] = np.sqrt(squared)
            else:
                means[row] = own.mean(axis=0)
        sigma = _noise(unit, labels, kept)
    problem = _Problem(protocol, means, magnitude)
    weights = sizes[kept].astype(np.float64)
    _alternate(problem, problem.train, 1.0)  # sets T1
    before = _relative(problem, problem.train, 1.0)
    found = _search(problem, weights)
    relative = _relative(problem, *found)
    fine = relative <= _OUTLIER * np.median(relative)
    if not fine.all():
        t1 = problem.t1
        problem.signals, problem.t1, problem.window = means[fine], t1[fine], None
        found = _search(problem, weights[fine], start=found)
        relative = _relative(problem, *found)
    train, efficiency = found
    gain, saturation = _gain(problem, *found)
    calibration = PulseCalibration(
        _with_pulses(protocol, train, problem.ti_offset, saturation), float(efficiency), magnitude,
        gain, sigma, float(np.median(relative)), float(np.median(before)), len(unit),
        int(weights[fine].sum()), problem.ti_offset, saturation,
    )  # fmt: skip
    some = unit[:: -(-len(unit) // _N_COMPARED)]
    return replace(calibration, variance_ratio=_variance_ratio(some, calibration))


def _variance_ratio(signals: Array, found: PulseCalibration) -> float | None:
    """Median ratio of the residuals of one compartment and of a spectrum in single voxels.

    Means of groups would not do: the relaxation times of their voxels differ, which a spectrum
    describes, too.
    """
    protocol, efficiency = found.protocol, found.inversion_efficiency
    signals = np.where(protocol._series_of_each == 1, signals / found.gain, signals)
    if found.magnitude:  # the floor of the noise would be a compartment
        bright = np.median(signals, axis=0) > _ABOVE_FLOOR * found.sigma
        protocol, signals = protocol._take(np.flatnonzero(bright)), signals[:, bright]
    n = signals.shape[1]
    if n < _FEWEST_MEASUREMENTS:
        return None
    problem = _Problem(protocol, signals, found.magnitude)
    problem.series = np.zeros(n, np.int64)  # of one scale
    echoes = problem.echoes(problem.train)
    single, t2 = problem.fit_t2(echoes, efficiency)
    for _ in range(_N_ROUNDS_OF_VOXELS if problem.stated_ti is not None else 0):
        problem.fit_t1(echoes, efficiency, t2)
        single, t2 = problem.fit_t2(echoes, efficiency)
    if found.magnitude:
        near = np.abs(np.log(problem.t2[:, None] / t2)).argmin(axis=0)[:, None]
        best = problem.of_t1(echoes, problem.t1, near)[:, 0]
        signals = np.copysign(signals, best * problem.recovery(efficiency, problem.t1))
    n_t1, n_t2 = _BINS["TI" in protocol.contrasts]
    t1 = np.geomspace(_T1_NODES[0], _T1_NODES[-1], n_t1) if n_t1 > 1 else problem.t1[:1]
    bins = np.linspace(0, problem.t2.size - 1, n_t2).astype(np.intp)
    atoms = problem.of_t1(echoes, t1, np.broadcast_to(bins, (t1.size, n_t2)))
    atoms = (atoms * problem.recovery(efficiency, t1)[:, None]).reshape(-1, n)
    several = np.array([nnls(atoms.T, one)[1] ** 2 for one in signals])
    small = n * _UNRESOLVED**2
    return float(np.median((single + small) / (np.minimum(several, single) + small)))


def _gain(problem: _Problem, train: EchoTrain | None, efficiency: float) -> tuple[float, float]:
    """Relative scale of the second series, and the time of its TR without recovery.

    The scales of both series are fitted to each mean signal. Their ratio is the same for all T1
    with the right time of recovery, which is found so.
    """
    if problem.series.max() == 0:
        return 1.0, 0.0
    echoes = problem.echoes(train)
    _, t2 = problem.fit_t2(echoes, efficiency)
    near = np.abs(np.log(problem.t2[:, None] / t2)).argmin(axis=0)[:, None]
    atoms = problem.of_t1(echoes, problem.t1, near)[:, 0]
    atoms = atoms * problem.recovery(efficiency, problem.t1)
    if problem.magnitude:
        atoms = np.abs(atoms)
    scales = []
    for number in range(2):
        own = problem.series == number
        x, a = problem.signals[:, own], atoms[:, own]
        scales.append((a * x).sum(axis=1) / (a * a).sum(axis=1))
    ratio = np.log(scales[1] / scales[0])
    second = problem.series == 1
    tr = problem.protocol._tr_of_each[second]
    if problem.stated_ti is None or np.isfinite(problem.stated_ti[second]).any():
        return float(np.exp(np.median(ratio))), 0.0
    if not np.isfinite(tr).all() or np.ptp(tr) > 0:
        return float(np.exp(np.median(ratio))), 0.0
    times = np.linspace(0.0, _LONGEST_SATURATION * tr[0], 101)
    recovered = np.log(-np.expm1(-(tr[0] - times[:, None]) / problem.t1))
    left = ratio + recovered[0] - recovered
    median = np.median(left, axis=1)
    spread = np.abs(left - median[:, None]).mean(axis=1)
    best = int(spread.argmin())
    return float(np.exp(median[best])), float(times[best])


def _noise(unit: Array, labels: NDArray[np.int32], kept: NDArray[np.intp]) -> float:
    """Noise of a voxel: residuals of the principal components of groups of similar voxels."""
    variances, freedom = [], []
    for group in kept:
        own = unit[labels == group]
        n_components = min(3, len(own) - 2)  # scale, T1 and T2 differ within a group
        if n_components < 0:
            continue
        centred = own - own.mean(axis=0)
        size = np.linalg.svd(centred, compute_uv=False)[n_components:]
        degrees = (len(own) - 1 - n_components) * (own.shape[1] - n_components)
        if degrees > 0:
            variances.append((size**2).sum())
            freedom.append(degrees)
    return float(math.sqrt(sum(variances) / sum(freedom))) if freedom else 0.0


def _alternate(problem: _Problem, train: EchoTrain | None, efficiency: float) -> Array:
    """Residuals after two rounds of T2 and T1."""
    echoes = problem.echoes(train)
    rss, t2 = problem.fit_t2(echoes, efficiency)
    if problem.stated_ti is None:
        return rss
    for _ in range(2):
        problem.fit_t1(echoes, efficiency, t2)
        rss, t2 = problem.fit_t2(echoes, efficiency)
    return rss


def _relative(problem: _Problem, train: EchoTrain | None, efficiency: float) -> Array:
    rss = _alternate(problem, train, efficiency)
    return np.asarray(np.sqrt(rss / problem.signals.shape[1]))  # the largest signal is near 1


def _search(
    problem: _Problem,
    weights: Array,
    start: tuple[EchoTrain | None, float] | None = None,
) -> tuple[EchoTrain | None, float]:
    def loss(rss: Array) -> float:
        relative = rss / problem.signals.shape[1]
        return float(weights @ np.log1p(relative / _SCALE**2))

    train, efficiency = (problem.train, 1.0) if start is None else start
    for _ in range(_N_ROUNDS):
        if train is not None:
            _alternate(problem, train, efficiency)
            train = _best_train(problem, loss, train, efficiency)
        if problem.stated_ti is None:
            break
        efficiency = _best_inversion(problem, loss, train, efficiency)
    return train, efficiency


def _best_inversion(
    problem: _Problem, loss: Callable[[Array], float], train: EchoTrain | None, efficiency: float
) -> float:
    """Inversion efficiency; sets the offset of the inversion times, and T1.

    The effect of an offset grows as T1 shortens; that of the efficiency is the same for all T1.
    """
    assert problem.stated_ti is not None
    echoes = problem.echoes(train)
    _, t2 = problem.fit_t2(echoes, efficiency)
    positive = problem.stated_ti[problem.stated_ti > 0]
    largest = min(_LARGEST_OFFSET, _SHARE_OF_TI * float(positive.min()))

    def at(parameters: Array) -> tuple[float, float]:
        return float(np.clip(parameters[0], 0.3, 1.0)), largest * float(
            np.clip(parameters[1], -1, 1)
        )

    def cost(parameters: Array) -> float:
        value, problem.ti_offset = at(parameters)
        outside = np.abs(np.array(at(parameters)) - parameters * [1, largest]).sum()
        # where T1 hardly differs, both have the same effect: the smallest offset then
        prior = _OFFSET_PENALTY * problem.signals.shape[0] * (problem.ti_offset / largest) ** 2
        return loss(problem.fit_t1(echoes, value, t2)) + prior + float(outside)

    start = np.array([efficiency, problem.ti_offset / largest])
    starts = [start, start - [0.1, 0.0], start - [0.3, 0.0]]
    best_start = min(starts, key=cost)
    simplex = best_start + np.array([[0.0, 0.0], [-0.05, 0.0], [0.0, 0.3]])
    options: dict[str, Any] = {
        "xatol": 1e-3, "fatol": 1e-4, "maxfev": 80, "initial_simplex": simplex,
    }  # fmt: skip
    found = minimize(cost, best_start, method="Nelder-Mead", options=options)
    value, problem.ti_offset = at(found.x)
    problem.fit_t1(echoes, value, t2)
    return value


def _best_train(
    problem: _Problem,
    loss: Callable[[Array], float],
    train: EchoTrain,
    efficiency: float,
) -> EchoTrain:
    def of(parameters: Array) -> EchoTrain:
        angle = float(np.clip(parameters[0] * 180, 60, 239))
        width, steepness, excited_width, excited_steepness = (
            math.exp(min(max(value, math.log(0.2)), math.log(60.0))) for value in parameters[1:]
        )
        return replace(
            train, refocusing_angle=angle,
            profile=SliceProfile(width, steepness, excited_width, excited_steepness),
        )  # fmt: skip

    def cost(parameters: Array) -> float:
        try:
            rss, _ = problem.fit_t2(problem.echoes(of(parameters)), efficiency, near_last=True)
        except ValueError:
            return math.inf
        return loss(rss)

    if train.profile is None:
        starts = [
            np.array([angle / 180, math.log(width), math.log(2.0), math.log(1.5), math.log(8.0)])
            for angle, width in ((180.0, 1.0), (150.0, 1.3), (185.0, 0.8))
        ]
    else:
        p = train.profile
        starts = [
            np.array(
                [train.refocusing_angle / 180]
                + [math.log(v) for v in (p.refocusing_width, p.refocusing_steepness,
                                         p.excitation_width, p.excitation_steepness)]
            )
        ]  # fmt: skip
    options: dict[str, Any] = {"xatol": 1e-3, "fatol": 1e-4, "maxfev": 300, "adaptive": True}
    tried = [minimize(cost, start, method="Nelder-Mead", options=options) for start in starts]
    best = min(tried, key=lambda result: float(result.fun))
    return of(best.x)


def _with_pulses(
    protocol: AcquisitionProtocol, train: EchoTrain | None, ti_offset: float, saturation: float
) -> AcquisitionProtocol:
    contrasts = dict(protocol.contrasts)
    if ti_offset:
        contrasts["TI"] = contrasts["TI"] + ti_offset
    readout = protocol.readout
    if train is not None:
        readout = tuple(None if one is None else train for one in protocol._readout_of_each)
    tr = protocol.tr
    if saturation:
        tr = protocol._tr_of_each - np.where(protocol._series_of_each == 1, saturation, 0.0)
    return AcquisitionProtocol(
        contrasts, tr=tr, units=own_units(), readout=readout, series=protocol.series
    )
