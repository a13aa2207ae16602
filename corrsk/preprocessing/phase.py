"""Phase of complex signals: rotation to real ones."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from corrsk._utils.voxels import user_level
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.preprocessing._shapes import Array, Efficiency, SignalShapes, signal_shapes
from corrsk.preprocessing.signals import finite_signals
from corrsk.tissue.prior import TissuePrior

# noise, as a fraction of the norm of a signal, for which the components of signals are weighed
_NOISE = 0.05
_FEWEST = 5  # measurements in a third, whose energies of noise are compared
_LARGE = 0.1  # imaginary part of strong signals, as a share of the real part
_OTHER_PHASES = 2.0  # ratio of the imaginary parts; of 5 by noise, the median of voxels is near 1


@dataclass(frozen=True, eq=False)
class PhasedSignals:
    """Real signals of complex ones.

    Parameters
    ----------
    signals : ndarray of shape (n_samples, n_measurements), or of the shape of the volume
        Signed signals: the real part after the rotation.
    phase : ndarray of shape (n_samples,), or of the shape of the volume
        Phase of each voxel, in (-pi, pi]: ``signals = (Z * exp(-1j * phase)).real``.
    sigma : ndarray of shape (n_samples,), or of the shape of the volume
        Standard deviation of the noise of one channel, estimated from the imaginary part, which
        has no signal after the rotation. It is larger than the noise where the phase differs
        between the measurements.
    """

    signals: NDArray[np.floating]
    phase: NDArray[np.float64]
    sigma: NDArray[np.float64]


def phase_signals(
    Z: ArrayLike,
    protocol: AcquisitionProtocol | str,
    *,
    reference: str | int = "auto",
    prior: TissuePrior | str | None = None,
    inversion_efficiency: Efficiency = (0.8, 1.0),
) -> PhasedSignals:
    """Rotate complex signals to real, signed ones: one phase for each voxel.

    Parameters
    ----------
    Z : complex array of shape (n_samples, n_measurements), or a volume (.., n_measurements)
        Complex signals at any scale, in the order of the protocol.
    protocol : AcquisitionProtocol or str
        The protocol, with its TR.
    reference : "auto" or int, default="auto"
        Measurement whose signal is real and positive. "auto" takes the phase from all
        measurements.
    prior : TissuePrior, str or None, default=None
        Tissue that the signals come from. None is 1 to 3 compartments of any T1, T2 (at most T1)
        and D that the protocol resolves.
    inversion_efficiency : float or (low, high), default=(0.8, 1.0)
        Inversion efficiency, or the range of it.

    Returns
    -------
    PhasedSignals
        Signals, phases and noise. A voxel of zeros stays zero, with phase 0.

    Raises
    ------
    ValueError
        If Z is real, is not finite, has another number of columns than the protocol has
        measurements, `reference` is no measurement, or the prior lacks a property.

    Warns
    -----
    UserWarning
        If the phase differs between the measurements: in most voxels the imaginary part of the
        third with the strongest signals is at least 10 % of the real part, and twice as large as
        that of the weakest third.

    Notes
    -----
    With "auto", the phase maximises the energy of the real part in the leading components of the
    signals of the protocol, B: ``phase = arg(sum((B.T z)**2)) / 2``, the most probable phase of
    a real signal in white noise. The energy does not depend on the sign, which follows from a
    weighted sum of the measurements that is positive for all tissue: late TIs count positive and
    early ones negative.

    The phase must be the same in all measurements of a voxel. Where it is not, as in diffusion
    images of moving tissue, take the magnitude.

    Examples
    --------
    >>> import numpy as np
    >>> from corrsk import make_correlation_signals
    >>> from corrsk.preprocessing import phase_signals
    >>> X, y = make_correlation_signals(5, noise_level=0, random_state=0)
    >>> phased = phase_signals(X * np.exp(2j), "ir-se-8x8")
    >>> bool(np.allclose(phased.signals, X)), phased.phase.round(6).tolist()
    (True, [2.0, 2.0, 2.0, 2.0, 2.0])
    """
    protocol = resolve_protocol(protocol)
    values = finite_signals(Z, protocol, allow_complex=True)
    if not np.iscomplexobj(values):
        raise ValueError(
            "the signals are real and have no phase; restore_polarity finds the signs of magnitudes"
        )
    rows = values.reshape(-1, protocol.n_measurements)
    if isinstance(reference, str) and reference == "auto":
        phase = _common_phase(rows, signal_shapes(protocol, prior, inversion_efficiency))
    else:
        phase = np.angle(rows[:, checked_reference(reference, protocol)]).astype(np.float64)
    rotated = rows * np.exp(-1j * phase)[:, None].astype(rows.dtype)
    imaginary = rotated.imag.astype(np.float64)
    # the phase is fitted, which takes one degree of freedom
    _warn_of_other_phases(rotated.real, imaginary)
    freedom = max(protocol.n_measurements - 1, 1)
    sigma = np.sqrt((imaginary**2).sum(axis=1) / freedom)
    shape = values.shape[:-1]
    return PhasedSignals(
        np.ascontiguousarray(rotated.real).reshape(values.shape),
        phase.reshape(shape), sigma.reshape(shape),
    )  # fmt: skip


def _warn_of_other_phases(real: NDArray[np.floating], imaginary: Array) -> None:
    """Warn if the imaginary part is no noise, which would be the same in all measurements."""
    third = real.shape[1] // 3
    bright = imaginary.any(axis=1)
    if third < _FEWEST or not bright.any():
        return
    order = np.argsort(np.abs(real[bright]), axis=1)
    energy = np.take_along_axis(imaginary[bright] ** 2, order, axis=1)
    weak, strong = energy[:, :third].sum(axis=1), energy[:, -third:].sum(axis=1)
    ratio = float(np.sqrt(np.median(strong / np.maximum(weak, np.finfo(float).tiny))))
    of_signal = np.take_along_axis(real[bright], order, axis=1)[:, -third:].astype(np.float64)
    share = float(np.sqrt(np.median(strong / (of_signal**2).sum(axis=1))))
    if ratio >= _OTHER_PHASES and share >= _LARGE:
        warnings.warn(
            "the phase differs between the measurements of a voxel: after the rotation, the "
            f"imaginary part of the strongest third is {share:.0%} of the real part, and "
            f"{ratio:.2g} times as large as that of the weakest third (medians). Correct the phase "
            "of each measurement first, or take the magnitude",
            UserWarning,
            stacklevel=user_level(),
        )


def checked_reference(reference: str | int, protocol: AcquisitionProtocol) -> int:
    """Position of the reference measurement.

    Raises
    ------
    ValueError
        If it is neither "auto" nor the position of a measurement.
    """
    n = protocol.n_measurements
    is_integer = isinstance(reference, (int, np.integer)) and not isinstance(reference, bool)
    if is_integer and -n <= int(reference) < n:
        return int(reference)
    raise ValueError(
        f"reference must be 'auto' or the position of one of the {n} measurements, got "
        f"{reference!r}"
    )


def _common_phase(signals: NDArray[np.complexfloating], shapes: SignalShapes) -> Array:
    """Most probable phase of each signal."""
    scale = np.abs(signals).max(axis=1, keepdims=True)
    scaled = (signals / np.where(scale > 0, scale, 1)).astype(np.complex128)
    leading = shapes.basis[:, shapes.variances > _NOISE**2 / signals.shape[1]]
    basis, _ = np.linalg.qr(np.column_stack([shapes.mean, leading]))
    along = scaled @ basis
    phase = np.angle((along**2).sum(axis=1)) / 2
    # weights with which the signals of all tissue have a sum near 1
    examples = shapes.examples @ basis
    moments = examples.T @ examples / len(examples) + _NOISE**2 * np.eye(basis.shape[1])
    weights = np.linalg.solve(moments, examples.mean(axis=0))
    negative = ((along * np.exp(-1j * phase)[:, None]).real @ weights) < 0
    phase = np.where(negative, phase + np.pi, phase)
    return np.where(phase > np.pi, phase - 2 * np.pi, phase)
