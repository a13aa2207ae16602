"""Measurements that the properties and counts of a fit need."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.voxels import user_level
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics import CONTRASTS
from corrsk.relaxometry._criteria import needed_measurements


def check_levels(protocol: AcquisitionProtocol) -> None:
    """Refuse a protocol with a single level of a scan parameter.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        Protocol.

    Raises
    ------
    ValueError
        If a scan parameter has a single level (and, for TI, TR has a single one): the signal then
        depends on the tissue property only through the amplitude, for any number of other
        measurements.
    """
    for name, levels in protocol.contrasts.items():
        if np.unique(levels).size < 2 and not (
            CONTRASTS[name].longitudinal and isinstance(protocol.tr, np.ndarray)
        ):
            tissue = CONTRASTS[name].tissue
            raise ValueError(
                f"{tissue} cannot be estimated, since all measurements (n_features={levels.size}) "
                f"have the same {name}, {levels[0]:g} {CONTRASTS[name].unit}: at least 2 levels "
                f"are required; use a protocol without {name}, so that its weighting is part of "
                "the amplitudes"
            )


def check_number_of_measurements(
    protocol: AcquisitionProtocol, counts: NDArray[np.int64], criterion: str
) -> None:
    """Refuse or warn of counts for which a protocol has too few measurements.

    A fit of K compartments with P properties has K (P + 1) parameters and needs as many different
    measurements; a criterion needs more than that to compare the fit with others.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        Protocol.
    counts : ndarray of int, shape (n_classes,)
        Possible counts.
    criterion : {"aicc", "bic", "f-test"}
        Criterion that selects a count.

    Raises
    ------
    ValueError
        If there are fewer different measurements than parameters of the smallest count.

    Warns
    -----
    UserWarning
        If a larger count has too few measurements.
    """
    n_properties = len(protocol.contrasts)
    table = [*protocol.contrasts.values()]
    if isinstance(protocol.tr, np.ndarray):
        table.append(protocol.tr)
    n_different = np.unique(np.stack(table), axis=1).shape[1]
    ordered = np.sort(counts)
    n_parameters = ordered * (n_properties + 1)
    if n_parameters[0] > n_different:
        raise ValueError(
            f"a fit of n_c = {ordered[0]} has {n_parameters[0]} parameters, but the protocol has "
            f"only {n_different} different measurements"
        )
    N = protocol.n_measurements
    needed = needed_measurements(n_parameters, criterion)
    never = (n_parameters > n_different) | (needed > N)
    never[0] = False  # a single fit needs no comparison
    if never.any():
        first = int(never.argmax())
        warnings.warn(
            f"{N} measurements, {n_different} of them different, are too few to select "
            f"{', '.join(map(str, ordered[never]))} compartments: a fit of {ordered[first]} has "
            f"{n_parameters[first]} parameters, and criterion={criterion!r} needs at least "
            f"{needed[first]} measurements for it",
            UserWarning,
            stacklevel=user_level(),
        )
