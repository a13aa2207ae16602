"""Comparison of the protocol of measured signals with the protocol of a trained model."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk import physics
from corrsk._utils.validation import checked_count
from corrsk.acquisition._differences import differences, pairing, reference_tissue
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol, span
from corrsk.physics import EchoTrain
from corrsk.physics.noise_levels import NoiseLevels, SNRRange, checked_noise_levels
from corrsk.tissue.prior import TissuePrior, resolve_prior

# In units of the standard deviation of the trained noise. Residual MLPs for the three named data
# sets, tested on 35 other protocols each, lost at most 0.2 percentage points of accuracy within
# these bounds (0.6 of the binary accuracy), and up to 42 beyond.
NO_DIFFERENCE = 0.01  # bound of the largest difference, such as from times rounded in a header
TYPICAL_LIMIT = 1.0
UNEXPLAINED_LIMIT = 0.3

_N_VOXELS = 2000
_MOST_NAMED = 4  # differences that a message lists


class ProtocolWarning(UserWarning):
    """Warning of signals whose protocol is close to the trained one, or assumed."""


class ProtocolMismatchError(ValueError):
    """Error that signals of another protocol than the trained one were refused."""


@dataclass(frozen=True)
class ProtocolComparison:
    """Result of :func:`compare_protocols`.

    Immutable. The differences are those between noise-free signals of the tissue of the prior,
    after the model's normalisation, in units of the standard deviation of the trained noise.

    Parameters
    ----------
    trained : AcquisitionProtocol
        Protocol of the model.
    measured : AcquisitionProtocol
        Protocol of the signals.
    verdict : {"same", "close", "different"}
        "same": the signals agree to within a hundredth of the noise, whatever the order of the
        measurements. "close": the signals differ by less than the noise. "different": a
        model of the trained protocol must not be applied to the signals.
    order : tuple of int or None
        ``X[:, order]`` sorts the measured columns into the order of the trained protocol; None
        if the contrasts or the numbers of measurements differ.
    largest_difference : float
        Maximum over the measurements and the voxels, including voxels at the corners of the
        prior's ranges. Infinite, as the other two, if no difference can be computed: without an
        order, or if measurements of one trained series belong to several measured series, whose
        relative scale is unknown.
    typical_difference : float
        Maximum over the measurements, averaged over the prior.
    unexplained_difference : float
        2-norm over the measurements of the part of the difference that no other tissue with
        the same number of compartments explains, averaged over the prior.
    """

    trained: AcquisitionProtocol
    measured: AcquisitionProtocol
    verdict: str
    order: tuple[int, ...] | None
    largest_difference: float
    typical_difference: float
    unexplained_difference: float

    def describe(self) -> str:
        """Describe the differences and their effect on signals.

        Returns
        -------
        str
            One or two sentences.
        """
        if self.verdict == "same":
            return "the signals have the trained protocol"
        what = what_differs(self.trained, self.measured, self.order)
        if not np.isfinite(self.largest_difference):
            return what
        return (
            f"{what}. For tissue of the prior this causes a largest difference of "
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
            Text to append to the warning.
        stacklevel : int, default=2
            See :func:`warnings.warn`.

        Returns
        -------
        ndarray of int, shape (n_measurements,)
            Attribute `order` as an array.

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
                f"the protocol of the signals differs from that of the model: {self.describe()}. "
                f"Use signals measured with {_in_full(self.trained)}, or train a model for "
                "your protocol"
            )
        if self.verdict == "close":
            text = (
                "the protocol of the signals differs slightly from that of the model: "
                f"{self.describe()}. {note}"
            )
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
    """Compare the protocol of measured signals with the protocol of a trained model.

    The comparison ignores the order of the measurements and uses the differences between the
    predicted signals: a repetition time of 20 s, for example, has an effect only where the noise
    is low and T1 long.

    Parameters
    ----------
    trained, measured : AcquisitionProtocol or str
        Protocols of the model and of the signals.
    prior : TissuePrior or str, default="midl2024"
        Prior of the tissue that the model was trained on.
    noise_level : float, sequence of float or SNRRange
        Noise level of the training. For several levels the comparison uses their root mean
        square, which is the standard deviation of their mixture.
    noise_reference : {"m0", "max", "rms", "first"}, default="m0"
        Reference of the noise level; see :func:`corrsk.physics.noise_sigma`.
    norm : {"l2", "rms", "max"} or None, default="l2"
        Norm by which the model divides each signal, which removes the scale.
    inversion_efficiency : float, default=1.0
        Inversion efficiency eta in (0, 1] of both protocols.
    n_voxels : int, default=2000
        Number of voxels drawn from the prior, with a fixed seed.

    Returns
    -------
    ProtocolComparison
        Verdict and differences.

    Raises
    ------
    ValueError
        If a name is unknown, or the prior lacks a tissue property that the
        trained protocol measures.

    Notes
    -----
    Protocols are "close" up to a typical difference of 1 standard deviation and an unexplained
    difference of 0.3. The second bound follows the sensitivity of models: one inversion time of
    690 instead of 697 ms costs more accuracy than if all inversion times are 1 % longer.

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
    goal, tissue = resolve_protocol(trained), resolve_prior(prior)
    lacking = [name for name in goal.tissue_properties if name not in tissue.ranges]
    if lacking:
        raise ValueError(
            f"the protocol measures {', '.join(lacking)}, but the prior has no range for "
            f"{', '.join(lacking)}"
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
        # equal protocols may differ in their order, which the cache must distinguish
        (_in_scan_order(goal), _in_scan_order(resolve_protocol(measured))),
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
    _orders: tuple[Any, ...],
) -> ProtocolComparison:
    order = pairing(trained, measured)
    if order is None:
        return ProtocolComparison(trained, measured, "different", None, *[np.inf] * 3)
    columns = tuple(order.tolist())
    if trained == measured:
        return ProtocolComparison(trained, measured, "same", columns, 0.0, 0.0, 0.0)
    if _splits_a_series(trained, measured._take(order)):
        return ProtocolComparison(trained, measured, "different", columns, *[np.inf] * 3)
    tissue, fractions, n_drawn = reference_tissue(prior, n_voxels)
    difference, unexplained = differences(
        trained, measured._take(order), tissue, fractions,
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


def _in_scan_order(protocol: AcquisitionProtocol) -> tuple[Any, ...]:
    """All values of a protocol in the order of its measurements."""
    axes: tuple[Iterable[Any], ...] = (
        *protocol.contrasts.values(), protocol._tr_of_each, protocol._readout_of_each,
        protocol._series_of_each,
    )  # fmt: skip
    return tuple(value for axis in axes for value in axis)


def _splits_a_series(trained: AcquisitionProtocol, measured: AcquisitionProtocol) -> bool:
    """Whether measurements of one trained series belong to several measured series.

    Both protocols have the same order. The converse is harmless: equal gains are a special case.
    """
    pairs = set(zip(trained._series_of_each, measured._series_of_each, strict=True))
    return len(pairs) > len(set(trained._series_of_each))


# -- messages ----------------------------------------------------------------


def what_differs(
    trained: AcquisitionProtocol,
    measured: AcquisitionProtocol,
    order: Iterable[int] | None,
) -> str:
    """Text of the differences between two protocols, such as "TI 690 in place of 697 ms"."""
    if trained.contrasts.keys() != measured.contrasts.keys():
        return (
            f"{', '.join(measured.contrasts)} were varied in place of "
            f"{', '.join(trained.contrasts)}"
        )
    if order is None:
        numbers = measured.n_measurements, trained.n_measurements
        more = numbers[0] > numbers[1]
        hint = "; average repeated measurements, or drop surplus ones" if more else ""
        return f"{numbers[0]} measurements in place of {numbers[1]}{hint}"
    found = measured._take(np.fromiter(order, dtype=np.intp))
    said = [
        _values_that_differ(name, physics.CONTRASTS[name].unit, wanted, found.contrasts[name])
        for name, wanted in trained.contrasts.items()
    ]
    if isinstance(trained.tr, np.ndarray) or isinstance(found.tr, np.ndarray):
        said.append(_values_that_differ("TR", "ms", trained._tr_of_each, found._tr_of_each))
    elif trained.tr != found.tr:
        said.append(f"{_tr(found)} in place of {_tr(trained)}")
    said.append(_readouts_that_differ(trained, found))
    if _splits_a_series(trained, found):
        said.append(
            f"{_n_series(found)} series of unknown relative scale in place of "
            f"{_n_series(trained)}; if their receiver gains are equal, pass them as one series"
        )
    return "; ".join(text for text in said if text)


def _readouts_that_differ(trained: AcquisitionProtocol, measured: AcquisitionProtocol) -> str:
    """Text of the echo trains that differ; empty if all are equal."""
    pairs = dict.fromkeys(zip(trained._readout_of_each, measured._readout_of_each, strict=True))
    named = [_train_that_differs(a, b) for a, b in pairs if a != b]
    dots = ["..."] if len(named) > _MOST_NAMED else []
    return "; ".join([*named[:_MOST_NAMED], *dots])


def _train_that_differs(wanted: EchoTrain | None, had: EchoTrain | None) -> str:
    if wanted is None or had is None:
        return f"{_readout(had)} in place of {_readout(wanted)}"
    texts = []
    for item in fields(EchoTrain):
        a, b = getattr(wanted, item.name), getattr(had, item.name)
        if a == b:
            continue
        name = item.name.replace("_", " ")
        if isinstance(a, float) and isinstance(b, float):
            unit = "degrees" if item.name.endswith("angle") else "ms"
            texts.append(f"{name} {b:g} in place of {a:g} {unit}")
        else:
            texts.append(f"{'no' if b is None else 'another' if a else 'a'} slice {name}")
    return f"echo trains with {', '.join(texts)}"


def _readout(train: EchoTrain | None) -> str:
    if train is None:
        return "single spin echoes"
    profile = "" if train.profile is None else " and a slice profile"
    return (
        f"echo trains (spacing {train.spacing:g} ms, refocusing angle {train.refocusing_angle:g} "
        f"degrees{profile})"
    )


def _n_series(protocol: AcquisitionProtocol) -> int:
    return int(protocol._series_of_each.max()) + 1


def _values_that_differ(
    name: str, unit: str, wanted: NDArray[np.float64], had: NDArray[np.float64]
) -> str:
    """Text of the values of one scan parameter that differ; empty if all are equal."""
    pairs = dict.fromkeys(
        (f"{b:.6g}", f"{a:.6g}") for a, b in zip(wanted, had, strict=True) if a != b
    )
    named = [f"{b} in place of {a}" for b, a in list(pairs)[:_MOST_NAMED]]
    dots = ", .." if len(pairs) > _MOST_NAMED else ""
    return f"{name} {', '.join(named)}{dots} {unit}" if named else ""


def _amount(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _tr(protocol: AcquisitionProtocol) -> str:
    return "no TR (full recovery)" if protocol.tr is None else f"TR {span(protocol.tr)} ms"


def _in_full(protocol: AcquisitionProtocol) -> str:
    if protocol.grid_shape is None:
        return repr(protocol)
    axes = [
        f"{name} {', '.join(f'{value:g}' for value in np.unique(values))}"
        f" {physics.CONTRASTS[name].unit}"
        for name, values in protocol.contrasts.items()
    ]
    trains = [_readout(train) for train in dict.fromkeys(protocol._readout_of_each) if train]
    return ", ".join([" x ".join(axes), _tr(protocol), *trains])
