"""Whether a model that was trained on one protocol may be given signals of another."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk import physics
from corrsk._utils.validation import checked_count
from corrsk.acquisition._differences import differences, pairing, reference_tissue
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.physics.noise_levels import NoiseLevels, SNRRange, checked_noise_levels
from corrsk.tissue.prior import TissuePrior, resolve_prior

# In units of the standard deviation of the trained noise. Chosen by what residual MLPs for the
# three named data sets lost on 35 other protocols each: within these bounds at most 0.2
# percentage points of accuracy (0.6 of the binary one), beyond them up to 42.
NO_DIFFERENCE = 0.01  # of the largest difference: such as times that were rounded in a header
TYPICAL_LIMIT = 1.0
UNEXPLAINED_LIMIT = 0.3

_N_VOXELS = 2000
_MOST_NAMED = 4  # differences that a message lists


class ProtocolWarning(UserWarning):
    """Signals of a protocol near the trained one were accepted."""


class ProtocolMismatchError(ValueError):
    """Signals of another protocol than the trained one were refused."""


@dataclass(frozen=True)
class ProtocolComparison:
    """How the protocol of some signals compares with the one a model was trained on.

    An immutable value, made by :func:`compare_protocols`. Differences are those
    of noise-free signals of the tissue of the prior, after the model's
    normalisation, in units of the standard deviation of the trained noise.

    Attributes
    ----------
    trained, measured : AcquisitionProtocol
    verdict : {"same", "close", "different"}
        "same": they measure the same, in whatever order, to within a hundredth
        of the noise. "close": they differ by less than the noise. "different": a
        model for the one must not be used on the other.
    order : tuple of int or None
        ``X[:, order]`` brings measured columns into the trained grid order; None
        if the contrasts or the numbers of measurements differ.
    largest_difference : float
        The largest one of any voxel, the corners of the prior's ranges among
        them, at any measurement.
    typical_difference : float
        The largest one over the measurements, on average over the prior.
    unexplained_difference : float
        That part which no other tissue of as many compartments could cause (its
        2-norm over the measurements), on average over the prior.
    """

    trained: AcquisitionProtocol
    measured: AcquisitionProtocol
    verdict: str
    order: tuple[int, ...] | None
    largest_difference: float
    typical_difference: float
    unexplained_difference: float

    def describe(self) -> str:
        """What differs and by how much, in a sentence or two."""
        if self.verdict == "same":
            return "the signals are of the trained protocol"
        what = what_differs(self.trained, self.measured, self.order)
        if self.order is None:
            return what
        return (
            f"{what}. In the signals of the trained tissue this makes a largest difference of "
            f"{_amount(self.largest_difference)} standard deviations of the trained noise, "
            f"{_amount(self.typical_difference)} in an average voxel, and "
            f"{_amount(self.unexplained_difference)} that no other tissue explains "
            f"(accepted: {TYPICAL_LIMIT:g} and {UNEXPLAINED_LIMIT:g})"
        )

    def check(self, note: str = "", *, stacklevel: int = 2) -> NDArray[np.intp]:
        """Refuse a different protocol, and warn of a close one.

        Parameters
        ----------
        note : str
            What to add to the warning.
        stacklevel : int, default=2
            As of :func:`warnings.warn`.

        Returns
        -------
        ndarray of int, shape (n_measurements,)
            The `order`.

        Raises
        ------
        ProtocolMismatchError
            If the verdict is "different".

        Warns
        -----
        ProtocolWarning
            If the verdict is "close".
        """
        if self.order is None or self.verdict == "different":
            raise ProtocolMismatchError(
                f"the signals are of another protocol than the model's: {self.describe()}. "
                f"Use signals measured with {_in_full(self.trained)}, or train a model for "
                "your protocol"
            )
        if self.verdict == "close":
            text = f"the signals' protocol is not quite the model's: {self.describe()}. {note}"
            warnings.warn(text.strip(), ProtocolWarning, stacklevel=stacklevel + 1)
        return np.asarray(self.order, dtype=np.intp)


def compare_protocols(
    trained: AcquisitionProtocol | str,
    measured: AcquisitionProtocol | str,
    *,
    prior: TissuePrior | str = "midl2024",
    noise_level: NoiseLevels = (0.01, 0.02, 0.03, 0.04, 0.05),
    noise_reference: str = "m0",
    norm: str | None = "l2",
    inversion_efficiency: float = 1.0,
    n_voxels: int = _N_VOXELS,
) -> ProtocolComparison:
    """Compare the protocol of some signals with the one that a model was trained on.

    Without regard to order, by the differences that they make to predicted
    signals: a repetition time of 20 s, say, matters where the noise is low and
    T1 long, and nowhere else.

    Parameters
    ----------
    trained, measured : AcquisitionProtocol or str
    prior : TissuePrior or str, default="midl2024"
        The tissue that the model was trained on.
    noise_level : float, sequence of float or SNRRange
        The noise that it was trained on; of several levels the root mean square
        counts, which is the standard deviation of their mixture.
    noise_reference : {"m0", "max", "rms"}, default="m0"
    norm : {"l2", "rms", "max"} or None, default="l2"
        What the model divides signals by: it does not see their scale.
    inversion_efficiency : float, default=1.0
    n_voxels : int, default=2000
        How many voxels to draw from the prior, always the same ones.

    Returns
    -------
    ProtocolComparison

    Raises
    ------
    ValueError
        If a name is unknown, or the prior lacks a tissue property that the
        trained protocol probes.

    Notes
    -----
    "close" is up to 1 standard deviation of typical and 0.3 of unexplained
    difference. The latter makes the verdict sharp where a model is: one
    inversion time of 697 ms that is 690 costs more than all of them 1 % longer.

    Examples
    --------
    >>> from corrsk import AcquisitionProtocol, compare_protocols
    >>> trained = AcquisitionProtocol.named("ir-se-8x8")
    >>> with_tr = AcquisitionProtocol(trained.contrasts, tr=20_000)
    >>> compare_protocols(trained, with_tr).verdict
    'close'
    >>> compare_protocols(trained, AcquisitionProtocol(ti=1.1 * trained.ti, te=trained.te)).verdict
    'different'
    """
    checked_count("n_voxels", n_voxels, at_least=1)
    goal, tissue = resolve_protocol(trained).in_grid_order(), resolve_prior(prior)
    lacking = [name for name in goal.tissue_properties if name not in tissue.ranges]
    if lacking:
        raise ValueError(
            f"the protocol probes {', '.join(lacking)}, of which the prior knows nothing"
        )
    levels = checked_noise_levels(noise_level)
    return _compared(
        goal,
        resolve_protocol(measured),
        tissue,
        levels if isinstance(levels, SNRRange) else tuple(levels.tolist()),
        noise_reference,
        norm,
        float(inversion_efficiency),
        int(n_voxels),
        # equal protocols may stand in different orders, which a cache would mix up
        tuple(value for axis in resolve_protocol(measured).contrasts.values() for value in axis),
    )


@lru_cache(maxsize=64)
def _compared(
    trained: AcquisitionProtocol,
    measured: AcquisitionProtocol,
    prior: TissuePrior,
    noise_level: NoiseLevels,
    noise_reference: str,
    norm: str | None,
    inversion_efficiency: float,
    n_voxels: int,
    _scan_order: tuple[Any, ...],
) -> ProtocolComparison:
    order = pairing(trained, measured)
    if order is None:
        return ProtocolComparison(trained, measured, "different", None, *[np.inf] * 3)
    columns = tuple(order.tolist())
    if trained == measured:
        return ProtocolComparison(trained, measured, "same", columns, 0.0, 0.0, 0.0)
    tissue, fractions, n_drawn = reference_tissue(prior, n_voxels)
    difference, unexplained = differences(
        trained, _reordered(measured, order), tissue, fractions,
        noise_level=noise_level, noise_reference=noise_reference, norm=norm,
        inversion_efficiency=inversion_efficiency,
    )  # fmt: skip
    by_voxel = np.abs(difference).max(axis=1)
    largest, typical = float(by_voxel.max()), float(by_voxel[:n_drawn].mean())
    rest = float(unexplained[:n_drawn].mean())
    if largest <= NO_DIFFERENCE:
        verdict = "same"
    else:
        close = typical <= TYPICAL_LIMIT and rest <= UNEXPLAINED_LIMIT
        verdict = "close" if close else "different"
    return ProtocolComparison(trained, measured, verdict, columns, largest, typical, rest)


def _reordered(protocol: AcquisitionProtocol, order: NDArray[np.intp]) -> AcquisitionProtocol:
    return AcquisitionProtocol(
        {name: values[order] for name, values in protocol.contrasts.items()}, tr=protocol.tr
    )


# -- in words ----------------------------------------------------------------


def what_differs(
    trained: AcquisitionProtocol,
    measured: AcquisitionProtocol,
    order: Iterable[int] | None,
) -> str:
    """The differences between two protocols, such as "TI 690 in place of 697 ms"."""
    if trained.contrasts.keys() != measured.contrasts.keys():
        return (
            f"{', '.join(measured.contrasts)} were varied in place of "
            f"{', '.join(trained.contrasts)}"
        )
    if order is None:
        numbers = measured.n_measurements, trained.n_measurements
        more = numbers[0] > numbers[1]
        hint = "; average repeated measurements, or leave out what is too much" if more else ""
        return f"{numbers[0]} measurements in place of {numbers[1]}{hint}"
    found, said = _reordered(measured, np.fromiter(order, dtype=np.intp)), []
    for name, wanted in trained.contrasts.items():
        unit = physics.CONTRASTS[name].unit
        had = found.contrasts[name]
        pairs = dict.fromkeys(
            (f"{b:.6g}", f"{a:.6g}") for a, b in zip(wanted, had, strict=True) if a != b
        )
        named = [f"{b} in place of {a}" for b, a in list(pairs)[:_MOST_NAMED]]
        if named:
            dots = ", .." if len(pairs) > _MOST_NAMED else ""
            said.append(f"{name} {', '.join(named)}{dots} {unit}")
    if trained.tr != measured.tr:
        said.append(f"{_tr(measured)} in place of {_tr(trained)}")
    return "; ".join(said)


def _amount(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _tr(protocol: AcquisitionProtocol) -> str:
    return "no TR (full recovery)" if protocol.tr is None else f"TR {protocol.tr:g} ms"


def _in_full(protocol: AcquisitionProtocol) -> str:
    if protocol.grid_shape is None:
        return repr(protocol)
    axes = [
        f"{name} {', '.join(f'{value:g}' for value in np.unique(values))}"
        f" {physics.CONTRASTS[name].unit}"
        for name, values in protocol.contrasts.items()
    ]
    return f"{' x '.join(axes)}, {_tr(protocol)}"
