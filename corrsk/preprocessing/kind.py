"""Kind of measured signals: signed, magnitude or complex."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.preprocessing._shapes import (
    Array,
    Efficiency,
    Recoveries,
    SignalShapes,
    signal_shapes,
)
from corrsk.preprocessing.polarity import find_signs
from corrsk.preprocessing.signals import finite_signals
from corrsk.tissue.prior import TissuePrior

KINDS = ("signed", "magnitude", "complex")
UNDECIDED = "undecided"

_N_JUDGED = 500  # voxels, evenly spaced
_CLEAR = 0.1  # of the largest value: a negative value beyond noise
_FEWEST = 4  # measurements: three determine an amplitude, a time and an efficiency
_RARE = 0.05  # share of voxels with another kind, from artefacts or other tissue
_EVIDENCE = 10.0  # gain of the deviance of a voxel by signs, which noise does not give
_EXPECTED = 5.0  # negative values by noise: with fewer, none has a probability of 1 % or more
_STRAY = 0.05  # negative values, as a share of those expected, in magnitudes: interpolation


def signal_kind(
    X: ArrayLike,
    protocol: AcquisitionProtocol | str,
    *,
    prior: TissuePrior | str | None = None,
    inversion_efficiency: Efficiency = (0.8, 1.0),
) -> str:
    """Find whether measured signals are signed, magnitude or complex.

    Parameters
    ----------
    X : array of shape (n_samples, n_measurements), or a volume (.., n_measurements)
        Signals at any scale, in the order of the protocol. Voxels of zeros are ignored.
    protocol : AcquisitionProtocol or str
        The protocol, with its TR.
    prior : TissuePrior, str or None, default=None
        Tissue that the signals come from. None is 1 to 3 compartments of any T1, T2 (at most T1)
        and D that the protocol resolves.
    inversion_efficiency : float or (low, high), default=(0.8, 1.0)
        Inversion efficiency, or the range of it.

    Returns
    -------
    {"signed", "magnitude", "complex", "undecided"}
        "complex" for every array of complex numbers. "undecided" if signed signals of this
        tissue and magnitudes would look the same: there are no negative values, no signal becomes
        more probable by negative signs, and no measurement is as weak as noise.

    Raises
    ------
    ValueError
        If X is not finite, has another number of columns than the protocol has measurements, or
        the prior lacks a property that the protocol measures.

    Notes
    -----
    After an inversion, magnitudes are signals that become much more probable with
    negative signs at early TIs (see :func:`restore_polarity`), in more than a
    twentieth of the voxels and in more voxels than have clearly negative values. Otherwise, the
    number of negative values is compared with the number that Gaussian noise
    about the smoothed signals would give: magnitudes have none where weak signals stay above a
    Rician floor.

    Examples
    --------
    >>> import numpy as np
    >>> from corrsk import make_correlation_signals
    >>> from corrsk.preprocessing import signal_kind
    >>> X, y = make_correlation_signals(20, random_state=0)
    >>> [signal_kind(signals, "ir-se-8x8") for signals in (X, np.abs(X), X + 0j)]
    ['signed', 'magnitude', 'complex']
    """
    protocol = resolve_protocol(protocol)
    values = finite_signals(X, protocol, allow_complex=True)
    if np.iscomplexobj(values):
        return "complex"
    rows = values.reshape(-1, protocol.n_measurements)
    rows = rows[rows.any(axis=1)]
    if not len(rows):
        return UNDECIDED
    rows = rows[:: -(-len(rows) // _N_JUDGED)].astype(np.float64)
    rows /= np.abs(rows).max(axis=1, keepdims=True)
    if protocol.n_measurements < _FEWEST:
        return "signed" if (rows < 0).any() else UNDECIDED
    shapes = signal_shapes(protocol, prior, inversion_efficiency)
    recoveries = Recoveries.from_protocol(protocol)
    if recoveries.inverted.sum() >= _FEWEST:
        kind = _by_recovery(rows, shapes, recoveries)
        if kind != UNDECIDED:
            return kind
    return _by_floor(rows, shapes)


def _by_recovery(rows: Array, shapes: SignalShapes, recoveries: Recoveries) -> str:
    negative = rows.min(axis=1) < -_CLEAR
    folded = np.zeros(len(rows), dtype=bool)
    if not negative.all():
        gain = find_signs(np.abs(rows[~negative]), shapes, recoveries).gain
        folded[~negative] = gain > _EVIDENCE
    if folded.mean() > max(_RARE, negative.mean()):
        return "magnitude"
    return "signed" if negative.any() else UNDECIDED


def _by_floor(rows: Array, shapes: SignalShapes) -> str:
    smooth, sigma, _ = shapes.smoothed(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    measured = rows != 0  # a value of exactly zero was set by someone
    likely = ndtr(-smooth / np.maximum(sigma, 1e-12)[:, None])
    expected, found = float(likely[measured].sum()), int((rows < 0).sum())
    if found > _STRAY * expected:
        return "signed"
    return "magnitude" if expected >= _EXPECTED else UNDECIDED
