"""Kernels, and contrasts: a scan parameter, a tissue property and their kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from corrsk._utils.deprecation import Renamed, removed_parameters, renamed_parameters
from corrsk.physics._arrays import Array, promote
from corrsk.physics.units import Quantity


def inversion_recovery(
    ti: Array,
    t1: Array,
    *,
    tr: Array | None = None,
    inversion_efficiency: Array | float = 1.0,
) -> Array:
    """Longitudinal magnetisation after an inversion pulse, for M0 = 1.

    Parameters
    ----------
    ti : array
        Inversion times in ms, broadcast against `t1`; infinite for a measurement without
        inversion.
    t1 : array
        Longitudinal relaxation times in ms.
    tr : float or array, optional
        Repetition time in ms, from inversion to inversion, broadcast against `ti`; None (or
        infinity) for full recovery before each inversion.
    inversion_efficiency : float or array, default=1.0
        eta in (0, 1], broadcast against `t1`; 1 is a perfect 180 degree inversion.

    Returns
    -------
    array
        ``1 - (1 + eta) exp(-TI/T1) + eta exp(-TR/T1)``, of the broadcast shape; without
        inversion ``1 - exp(-TR/T1)``, the steady state of saturation recovery.

    Notes
    -----
    With TR infinite and eta = 1 this is the bracket of Eq. 1 in Endt,
    Lachermeier and Menzel, MIDL 2024. The steady state with TR holds for a
    90 degree excitation that is spoiled after each readout, and TE << TR:
    recovery from zero over TR - TI, inversion with efficiency eta, recovery over TI.
    """
    xp, ti, t1 = promote(ti, t1)
    signal = 1 - (1 + inversion_efficiency) * xp.exp(-ti / t1)
    if tr is None:
        return signal
    if not isinstance(tr, (int, float)):
        _, tr, _ = promote(tr, t1)
    # where nothing inverts, the magnetisation is 1 - exp(-TR/T1): an efficiency of -1
    efficiency = xp.where(xp.isinf(ti), -xp.ones_like(ti), inversion_efficiency * xp.ones_like(ti))
    return signal + efficiency * xp.exp(-tr / t1)


def saturation_recovery(ts: Array, t1: Array) -> Array:
    """Longitudinal magnetisation after a saturation pulse, for M0 = 1.

    Parameters
    ----------
    ts : array
        Saturation times in ms, from the pulse to the excitation, broadcast against `t1`.
    t1 : array
        Longitudinal relaxation times in ms.

    Returns
    -------
    array
        ``1 - exp(-TS / T1)``, of the broadcast shape. The saturation removes the influence of TR.
    """
    xp, ts, t1 = promote(ts, t1)
    return 1 - xp.exp(-ts / t1)


def spin_echo(te: Array, t2: Array) -> Array:
    """Transverse decay of a spin echo, for M0 = 1.

    Parameters
    ----------
    te : array
        Echo times in ms, broadcast against `t2`.
    t2 : array
        Transverse relaxation times in ms.

    Returns
    -------
    array
        ``exp(-TE / T2)``, of the broadcast shape.
    """
    xp, te, t2 = promote(te, t2)
    return xp.exp(-te / t2)


def diffusion(b: Array, diffusivity: Array) -> Array:
    """Attenuation by free diffusion, for M0 = 1.

    Parameters
    ----------
    b : array
        Diffusion weightings in ms/um^2, broadcast against `diffusivity`.
    diffusivity : array
        Diffusivities D in um^2/ms.

    Returns
    -------
    array
        ``exp(-b D)``, of the broadcast shape.

    Notes
    -----
    Stejskal and Tanner, J. Chem. Phys. 42, 288 (1965).
    """
    xp, b, diffusivity = promote(b, diffusivity)
    return xp.exp(-b * diffusivity)


@dataclass(frozen=True)
class Contrast:
    """A scan parameter, the tissue property that the parameter encodes, and their kernel.

    Parameters
    ----------
    parameter, tissue : str
        Names of the scan parameter ("TI") and of the tissue property ("T1").
    kernel : callable
        ``kernel(parameter, tissue)`` on broadcast arrays. Where
        `longitudinal` is true it also takes `tr` and `inversion_efficiency`.
    unit, tissue_unit : str
        Units of the scan parameter and of the tissue property.
    smallest_maximum, largest_maximum : float
        Plausible range of the largest value of the scan parameter in a protocol; values out of
        it are refused unless the user states their unit.
    tissue_smallest_maximum, tissue_largest_maximum : float
        The same for the tissue property in a prior, a tissue table or the bounds of a fit. If
        several contrasts encode the property, the widest of their ranges applies.
    absent : float or None
        Value of the scan parameter in a measurement without this contrast, whose kernel is 1: 0
        for b, infinity for TI. None if every measurement has the contrast.
    longitudinal : bool
        Whether the kernel depends on TR and the inversion efficiency.
    """

    parameter: str
    tissue: str
    kernel: Callable[..., Array]
    unit: str = "ms"
    tissue_unit: str = "ms"
    smallest_maximum: float = 0.0
    largest_maximum: float = math.inf
    tissue_smallest_maximum: float = 0.0
    tissue_largest_maximum: float = math.inf
    absent: float | None = None
    longitudinal: bool = False

    @property
    def scan_quantity(self) -> Quantity:
        """The scan parameter, with its unit and plausible range."""
        return Quantity(self.parameter, self.unit, self.smallest_maximum, self.largest_maximum)

    @property
    def tissue_quantity(self) -> Quantity:
        """The tissue property, with its unit and plausible range."""
        return Quantity(
            self.tissue, self.tissue_unit,
            self.tissue_smallest_maximum, self.tissue_largest_maximum,
        )  # fmt: skip


# for one release; applied here, because a dataclass generates its __init__
Contrast.__init__ = removed_parameters(  # type: ignore[method-assign]
    wrong_unit="messages derive it from `unit`",
    tissue_wrong_unit="messages derive it from `tissue_unit`",
)(
    renamed_parameters(
        largest_minimum="largest_maximum",
        zero_allowed=Renamed("absent", lambda allowed: 0.0 if allowed else None),
    )(Contrast.__init__)
)


CONTRASTS: dict[str, Contrast] = {}


def register_contrast(contrast: Contrast) -> None:
    """Make `contrast` available to protocols, priors, tissue tables and generators.

    The axes of a grid have the order of registration: TI, TE, b, then further contrasts. Several
    contrasts may encode the same tissue property, such as inversion and saturation recovery T1;
    a protocol measures each property by one of them. Protocols and priors bring the registered
    contrasts along to worker processes; where the column names alone define the protocol, call
    this function at the top level of a module that worker processes import too.

    Parameters
    ----------
    contrast : Contrast
        Contrast to register.

    Raises
    ------
    ValueError
        If another contrast has the same scan parameter, or the same tissue property in another
        unit.
    """
    for known in CONTRASTS.values():
        if known != contrast and known.parameter == contrast.parameter:
            raise ValueError(
                f"the contrast ({known.parameter}, {known.tissue}) is registered already; "
                f"({contrast.parameter}, {contrast.tissue}) needs another scan parameter"
            )
        if known.tissue == contrast.tissue and known.tissue_unit != contrast.tissue_unit:
            raise ValueError(
                f"the contrast ({known.parameter}, {known.tissue}) has {known.tissue} in "
                f"{known.tissue_unit}, ({contrast.parameter}, {contrast.tissue}) in "
                f"{contrast.tissue_unit}; the units must be equal"
            )
    CONTRASTS[contrast.parameter] = contrast


def check_distinct_properties(parameters: Iterable[str]) -> None:
    """Refuse scan parameters that encode the same tissue property.

    Parameters
    ----------
    parameters : iterable of str
        Names of registered scan parameters.

    Raises
    ------
    ValueError
        If two of the parameters encode the same property: the product of their kernels is no
        signal.
    """
    encoding: dict[str, str] = {}
    for name in parameters:
        tissue = CONTRASTS[name].tissue
        if tissue in encoding:
            raise ValueError(
                f"{encoding[tissue]} and {name} both encode {tissue}; a protocol measures each "
                "tissue property by one scan parameter"
            )
        encoding[tissue] = name


# The table of plausible largest values. The limits lie far beyond all usual protocols and tissue,
# and within a factor of 1000 of each other where that is possible, since a wrong unit changes
# values by this factor.
register_contrast(
    Contrast(
        "TI",
        "T1",
        inversion_recovery,
        smallest_maximum=20.0,
        largest_maximum=60_000.0,
        tissue_smallest_maximum=10.0,
        tissue_largest_maximum=60_000.0,
        absent=math.inf,
        longitudinal=True,
    )
)
register_contrast(
    Contrast(
        "TE",
        "T2",
        spin_echo,
        smallest_maximum=2.5,
        largest_maximum=10_000.0,
        tissue_smallest_maximum=5.0,
        tissue_largest_maximum=20_000.0,
    )
)
register_contrast(
    Contrast(
        "b",
        "D",
        diffusion,
        unit="ms/um^2",
        tissue_unit="um^2/ms",
        smallest_maximum=0.01,
        largest_maximum=50.0,
        tissue_smallest_maximum=0.01,
        tissue_largest_maximum=100.0,
        absent=0.0,
    )
)
REPETITION_TIME = Quantity("tr", "ms", smallest_maximum=60.0, largest_maximum=100_000.0)


_BUILT_IN = dict(CONTRASTS)


def contrasts_beyond(parameters: Iterable[str] = (), tissue: Iterable[str] = ()) -> Any:
    """Return the registered contrasts, for pickles, if any name needs more than the built-in ones.

    A pickled protocol or prior includes the result, so that a process without the registrations,
    such as a worker of joblib, can restore them. All contrasts are included, in the order of
    registration, which is the order of the axes of a grid.

    Parameters
    ----------
    parameters : iterable of str
        Names of scan parameters.
    tissue : iterable of str
        Names of tissue properties.

    Returns
    -------
    object or None
        Object that is unpickled as the argument of :func:`restore_contrasts`; None if the built-in
        contrasts have all names.
    """
    built_in_tissue = {contrast.tissue for contrast in _BUILT_IN.values()}
    if set(parameters) <= _BUILT_IN.keys() and set(tissue) <= built_in_tissue:
        return None
    from joblib import wrap_non_picklable_objects

    further = [contrast for name, contrast in CONTRASTS.items() if name not in _BUILT_IN]
    # pickle alone cannot store a kernel that is defined in a script or is a lambda expression
    return wrap_non_picklable_objects(further, keep_wrapper=False)


def restore_contrasts(contrasts: Iterable[Contrast]) -> None:
    """Register the contrasts that this process lacks.

    Parameters
    ----------
    contrasts : iterable of Contrast
        Contrasts of :func:`contrasts_beyond`, from a pickle.

    Raises
    ------
    ValueError
        If a contrast contradicts a registered one.
    """
    for contrast in contrasts:
        known = CONTRASTS.get(contrast.parameter)
        # a kernel that was restored is another function than the original
        if known is None or replace(known, kernel=contrast.kernel) != contrast:
            register_contrast(contrast)


def check_tissue_unit(name: str, largest: float) -> None:
    """Refuse a tissue property whose largest value can only be in the wrong unit.

    Parameters
    ----------
    name : str
        Tissue property, such as "T1".
    largest : float
        Largest value of the property.

    Raises
    ------
    ValueError
        If the value is too small or too large for the unit of the property, or the property is
        unknown.
    """
    tissue_quantity(name).check(largest)


def tissue_quantity(name: str) -> Quantity:
    """Tissue property with its unit and plausible range, by its name.

    If several contrasts encode the property, the range holds those of all contrasts that define
    one: a contrast without bounds does not remove those of another.

    Raises
    ------
    ValueError
        If no contrast has the tissue property.
    """
    found = [contrast.tissue_quantity for contrast in CONTRASTS.values() if contrast.tissue == name]
    if not found:
        known = ", ".join(dict.fromkeys(contrast.tissue for contrast in CONTRASTS.values()))
        raise ValueError(f"unknown tissue property {name!r}; known ones are {known}")
    lowest = [each.smallest_maximum for each in found if each.smallest_maximum > 0]
    highest = [each.largest_maximum for each in found if each.largest_maximum < math.inf]
    return replace(
        found[0],  # all have the same unit
        smallest_maximum=min(lowest, default=0.0),
        largest_maximum=max(highest, default=math.inf),
    )


def scan_quantities() -> dict[str, Quantity]:
    """Scan parameters and TR, by name."""
    contrasts = {name: contrast.scan_quantity for name, contrast in CONTRASTS.items()}
    return contrasts | {REPETITION_TIME.name: REPETITION_TIME}


def own_units() -> dict[str, str]:
    """Unit of each scan parameter and of TR in corrsk: the statement that values have these."""
    return {name: quantity.unit for name, quantity in scan_quantities().items()}
