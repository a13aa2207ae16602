"""Signs of magnitude signals of inversion recoveries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.preprocessing._shapes import (
    NOISE_LEVELS,
    Array,
    Efficiency,
    Recoveries,
    SignalShapes,
    blocks,
    signal_shapes,
)
from corrsk.preprocessing.signals import finite_signals
from corrsk.tissue.prior import TissuePrior

_BLOCK = 1024  # voxels, so that the comparison with all examples stays in the memory of a laptop
_N_STARTS = 2
_N_PAIRED = 8  # the measurements whose signs may change in pairs
_FEWEST_FREE = 8  # degrees of freedom of an estimate of the noise
_NOTICED = 3.0  # standard deviations from 0, beyond which a sign matters
_LEAST_MISFIT = 1e-3  # of the norm: examples are that far from each other


@dataclass(frozen=True, eq=False)
class RestoredPolarity:
    """Signed signals of magnitude signals.

    Parameters
    ----------
    signals : ndarray of shape (n_samples, n_measurements), or of the shape of the volume
        The magnitudes with their most probable signs, with or without the correction of the noise
        floor.
    confidence : ndarray of shape (n_samples,), or of the shape of the volume
        Probability, by the model of the signals, that all signs are right, apart from those of
        values within three standard deviations of the noise of 0. 1 where no sign is
        in question, NaN for voxels without signal.
    """

    signals: NDArray[np.floating]
    confidence: NDArray[np.float64]


def restore_polarity(
    X: ArrayLike,
    protocol: AcquisitionProtocol | str,
    *,
    prior: TissuePrior | str | None = None,
    inversion_efficiency: Efficiency = (0.8, 1.0),
    correct_floor: bool = True,
) -> RestoredPolarity:
    """Restore the signs of magnitude signals of inversion recoveries.

    A recovery (measurements that differ in TI alone) rises with TI, and so is negative up to one
    of its TIs and positive beyond. With several compartments this null differs
    between the echo times. The signs of all recoveries of a voxel are found together: those with
    which the signal is most probable among the signals of tissue.

    Parameters
    ----------
    X : array of shape (n_samples, n_measurements), or a volume (.., n_measurements)
        Magnitude signals at any scale, in the order of the protocol. Signs are ignored.
    protocol : AcquisitionProtocol or str
        The protocol, with its TR.
    prior : TissuePrior, str or None, default=None
        Tissue that the signals come from. None is 1 to 3 compartments of any T1, T2 (at most T1)
        and D that the protocol resolves.
    inversion_efficiency : float or (low, high), default=(0.8, 1.0)
        Inversion efficiency, or the range of it.
    correct_floor : bool, default=True
        Whether to lower magnitudes m to ``sqrt(m**2 - sigma**2)``, at least 0, where sigma is the
        noise of the voxel, estimated from the residuals of smoothed signals. It is not
        corrected where fewer than 8 degrees of freedom are left for the estimate. False keeps
        the magnitudes.

    Returns
    -------
    RestoredPolarity
        The signed signals, and the confidence of each voxel.

    Raises
    ------
    ValueError
        If X is complex, is not finite or has another number of columns than the protocol has
        measurements, or the prior lacks a property that the protocol measures.

    Notes
    -----
    With a single recovery, such as one echo time, each position of the null is compared with
    simulated signals, and the signs with the closest one are taken. With several recoveries,
    signals of norm 1 are taken as normally distributed, with the mean and covariance of simulated
    ones plus white noise. The search starts from the signs of the closest simulated magnitudes,
    and changes one or two signs as long as that raises the likelihood.

    Near the null, magnitudes have Rician noise. The mean of m**2 is s**2 + 2 sigma**2 for a
    signal s (Gudbjartsson and Patz, Magn. Reson. Med. 34, 910 (1995)), that of the squared real
    part s**2 + sigma**2: with the correction the mean square is about that of signed signals.

    Examples
    --------
    >>> import numpy as np
    >>> from corrsk import make_correlation_signals
    >>> from corrsk.preprocessing import restore_polarity
    >>> X, y = make_correlation_signals(5, noise_level=0, norm=None, random_state=0)
    >>> restored = restore_polarity(np.abs(X), "ir-se-8x8", inversion_efficiency=1.0)
    >>> restored.signals.shape, restored.confidence.shape
    ((5, 64), (5,))
    """
    protocol = resolve_protocol(protocol)
    values = finite_signals(X, protocol)
    checked = np.abs(values.reshape(-1, protocol.n_measurements))
    recoveries = Recoveries.from_protocol(protocol)
    bright = checked.any(axis=1)
    confidence = np.where(bright, 1.0, np.nan)
    if not recoveries.groups or not bright.any():
        return RestoredPolarity(
            checked.reshape(values.shape), confidence.reshape(values.shape[:-1])
        )
    shapes = signal_shapes(protocol, prior, inversion_efficiency)
    signs = np.ones(checked.shape, dtype=np.int8)
    rows = np.flatnonzero(bright)
    for part in blocks(rows.size, _BLOCK):
        found = find_signs(checked[rows[part]].astype(np.float64), shapes, recoveries)
        signs[rows[part]] = found.signs
        confidence[rows[part]] = found.confidence
    signed = checked * signs.astype(checked.dtype)
    if correct_floor:
        for part in blocks(rows.size, _BLOCK):
            signed[rows[part]] = _without_floor(signed[rows[part]], shapes)
    return RestoredPolarity(signed.reshape(values.shape), confidence.reshape(values.shape[:-1]))


def _without_floor(signed: NDArray[np.floating], shapes: SignalShapes) -> Array:
    """Lower magnitudes with signs so that their mean square is about that of signed signals."""
    scale = np.abs(signed).max(axis=1, keepdims=True)
    scaled = signed.astype(np.float64) / scale
    norm = np.linalg.norm(scaled, axis=1, keepdims=True)
    _, sigma, freedom = shapes.smoothed(scaled / norm)
    sigma = np.where(freedom >= _FEWEST_FREE, sigma, 0.0)[:, None] * norm
    lowered = np.sqrt(np.maximum(scaled**2 - sigma**2, 0.0))
    return np.asarray(np.where(scaled < 0, -lowered, lowered) * scale + 0.0)  # no -0.0


@dataclass(frozen=True, eq=False)
class FoundSigns:
    """Signs of magnitude signals.

    Parameters
    ----------
    signs : ndarray of shape (n_samples, n_measurements)
        1 or -1.
    confidence : ndarray of shape (n_samples,)
        See :class:`RestoredPolarity`.
    gain : ndarray of shape (n_samples,)
        Deviance of the signals without negative values minus the deviance of the signed ones.
    """

    signs: NDArray[np.int8]
    confidence: Array
    gain: Array


def find_signs(magnitudes: Array, shapes: SignalShapes, recoveries: Recoveries) -> FoundSigns:
    """Find the signs of a block of magnitude signals that are not zero.

    Parameters
    ----------
    magnitudes : ndarray of shape (n_samples, n_measurements)
        Magnitudes.
    shapes : SignalShapes
        Distribution of the signals.
    recoveries : Recoveries
        Recoveries of the protocol, at least one.

    Returns
    -------
    FoundSigns
        The signs.
    """
    # divided by the largest value first: squares of very small values would underflow
    scaled = magnitudes / magnitudes.max(axis=1, keepdims=True)
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    find = _by_examples if len(recoveries.groups) == 1 else _by_search
    return find(scaled, shapes, recoveries)


def _by_examples(magnitudes: Array, shapes: SignalShapes, recoveries: Recoveries) -> FoundSigns:
    """Compare every position of the null of a single recovery with the examples."""
    (group,) = recoveries.groups
    n, n_measurements = magnitudes.shape
    misfit = np.empty((group.size + 1, n))
    signs = np.ones((group.size + 1, n_measurements), dtype=np.int8)
    for k in range(group.size + 1):
        signs[k, group[:k]] = -1
        closest = ((magnitudes * signs[k]) @ shapes.examples.T).max(axis=1)
        misfit[k] = np.maximum(2 - 2 * closest, 0) + _LEAST_MISFIT**2  # both have norm 1
    best = misfit.argmin(axis=0)
    smallest = misfit[best, np.arange(n)]
    deviance = n_measurements * np.log(misfit / smallest)  # for the most probable noise of each
    sigma = np.sqrt(smallest / n_measurements)
    noticed = magnitudes > _NOTICED * sigma[:, None]
    differs = ((signs[:, None] != signs[best]) & noticed).any(axis=2)
    others = (np.exp(-deviance / 2) * differs).sum(axis=0)
    return FoundSigns(signs[best], 1 / (1 + others), deviance[0])


def _by_search(magnitudes: Array, shapes: SignalShapes, recoveries: Recoveries) -> FoundSigns:
    """Search for the most probable signs from those of the closest examples."""
    n = len(magnitudes)
    rows = np.arange(n)
    folded = np.abs(shapes.examples)
    order = np.argpartition(-(magnitudes @ folded.T), _N_STARTS, axis=1)[:, :_N_STARTS]
    ends, deviances = [], []
    for start in order.T:
        negative = (shapes.examples[start] < 0) & recoveries.inverted
        signals = np.where(negative, -magnitudes, magnitudes)
        _, level = shapes.deviance(signals)
        for number in np.unique(level):
            chosen = np.flatnonzero(level == number)
            signals[chosen] = _climb(signals[chosen], shapes, recoveries, NOISE_LEVELS[number])
        ends.append(signals)
        deviances.append(shapes.deviance(signals)[0])
    best = np.argmin(deviances, axis=0)
    signals = np.stack(ends)[best, rows]
    deviance, level = shapes.deviance(signals)
    noticed = magnitudes > _NOTICED * NOISE_LEVELS[level, None]
    others = np.zeros(n)
    for number in np.unique(level):
        chosen = np.flatnonzero(level == number)
        change = _Changes(signals[chosen], shapes, recoveries, NOISE_LEVELS[number])
        others[chosen] = change.weight(noticed[chosen])
    for end, of_end in zip(ends, deviances, strict=True):
        differs = (((end < 0) != (signals < 0)) & noticed).any(axis=1)
        others += np.exp(-np.maximum(of_end - deviance, 0) / 2) * differs
    gain = shapes.deviance(magnitudes)[0] - deviance
    return FoundSigns(np.where(signals < 0, -1, 1).astype(np.int8), 1 / (1 + others), gain)


def _climb(signals: Array, shapes: SignalShapes, recoveries: Recoveries, level: float) -> Array:
    """Change one or two signs at a time, as long as that raises the likelihood."""
    signals = signals.copy()
    active = np.arange(len(signals))
    for _ in range(2 * recoveries.inverted.sum()):  # in practice a few steps
        change = _Changes(signals[active], shapes, recoveries, level)
        gained = change.apply_best(signals, active)
        active = active[gained]
        if not active.size:
            break
    return signals


class _Changes:
    """Changes of the deviance by changes of one sign, and of two.

    The deviance is a quadratic form of the signal: the change by one sign needs its gradient and
    diagonal, that by two also one entry of its matrix.
    """

    def __init__(
        self, signals: Array, shapes: SignalShapes, recoveries: Recoveries, level: float
    ) -> None:
        share = shapes.weights(level)
        centred = signals - shapes.mean
        slope = (centred - (centred @ shapes.basis * share) @ shapes.basis.T) / level**2
        diagonal = (1 - shapes.basis**2 @ share) / level**2
        single = 4 * signals * (signals * diagonal - slope)
        single = np.where(recoveries.may_change(signals < 0), single, np.inf)
        n_paired = min(_N_PAIRED, signals.shape[1])
        self.columns = np.argpartition(single, n_paired - 1, axis=1)[:, :n_paired]
        self.single = np.take_along_axis(single, self.columns, axis=1)
        values = np.take_along_axis(signals, self.columns, axis=1)
        basis = shapes.basis[self.columns]
        matrix = -(basis * share) @ basis.transpose(0, 2, 1) / level**2
        pair = (
            self.single[:, :, None] + self.single[:, None, :]
            + 8 * values[:, :, None] * values[:, None, :] * matrix
        )  # fmt: skip
        label = recoveries.label[self.columns]
        # both ends of a null: one of them alone, or the recovery would have two
        valid = label[:, :, None] < label[:, None, :]
        self.pair = np.where(valid & np.isfinite(pair), pair, np.inf)

    def apply_best(self, signals: Array, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Apply the change with the largest gain to the rows; return which rows have one."""
        n, k = self.single.shape
        index = np.arange(n)
        one, two = self.single.argmin(axis=1), self.pair.reshape(n, -1).argmin(axis=1)
        by_one, by_two = self.single[index, one], self.pair.reshape(n, -1)[index, two]
        first, second = two // k, two % k
        paired = by_two < by_one
        gained = np.asarray(np.minimum(by_one, by_two) < -1e-9)
        change = gained & ~paired
        signals[rows[change], self.columns[index, one][change]] *= -1
        change = gained & paired
        for part in (first, second):
            signals[rows[change], self.columns[index, part][change]] *= -1
        return gained

    def weight(self, noticed: NDArray[np.bool_]) -> Array:
        """Likelihood of the changed signals relative to that of the signals, summed."""
        seen = np.take_along_axis(noticed, self.columns, axis=1)
        either = seen[:, :, None] | seen[:, None, :]
        by_one = np.exp(-np.maximum(self.single, 0) / 2) * seen
        by_two = np.exp(-np.maximum(self.pair, 0) / 2) * either
        return np.asarray(by_one.sum(axis=1) + by_two.sum(axis=(1, 2)))
