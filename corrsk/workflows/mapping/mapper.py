"""Maps of the voxels of one subject: what every model of them shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from corrsk._utils.counts import most_probable, multicompartment_probability
from corrsk._utils.wording import worded
from corrsk.imaging import MeasuredImages
from corrsk.imaging.images import Slab
from corrsk.relaxometry import MultiExponentialClassifier, NNLSSpectrum
from corrsk.workflows.mapping.outputs import Appearance, MapSpec

TIME_UNITS = {"T1": "s", "T2": "s"}  # in BIDS
_BIDS_SPREADS = {"error": "standarderror"}

Maps = dict[str, NDArray[Any]]


class Mapper(ABC):
    """Maps of the voxels of one subject.

    Attributes
    ----------
    classes : ndarray of int
        Compartment counts; empty if the maps have none.
    specs : list of MapSpec
        The maps.
    notes : list of str
        Reasons of maps that are left out.
    settings : dict
        Settings of the model for this subject, for the record.
    fits : MultiExponentialClassifier or None
        Fits that the maps are made of, if they are.
    spectra : NNLSSpectrum or None
        Transformer to the spectra that the maps are made of, if they are.
    order : ndarray of int, shape (n_measurements,)
        Positions of the columns of `fits` or `spectra` among the images.
    """

    classes: NDArray[Any]
    specs: list[MapSpec]
    notes: list[str]
    settings: dict[str, Any]
    fits: MultiExponentialClassifier | None = None
    spectra: NNLSSpectrum | None = None
    order: NDArray[np.intp]
    margin = 0  # slices around a slab that its maps need

    def slab_bytes(self, wanted: int) -> int:
        """Size of the signals of a slab, if `wanted` is that of a run."""
        return wanted

    @abstractmethod
    def prepare(self, sample: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Compare signals of the subject with the model, with its warnings, before the maps.

        Parameters
        ----------
        sample : ndarray of shape (n_sampled, n_measurements)
            Signals of some voxels.
        mask : ndarray of bool, shape (n_x, n_y, n_z)
            Voxels that are mapped.
        """

    @abstractmethod
    def compute(self, slab: Slab) -> Maps:
        """Compute the maps of the voxels of a slab.

        Parameters
        ----------
        slab : Slab
            Signals in the order of the images, with at least one voxel.

        Returns
        -------
        dict of str to ndarray of shape (n_voxels,) or (n_voxels, n_maps)
            Values by the key of the map.
        """

    def _count_specs(self) -> list[MapSpec]:
        names = [str(count) for count in self.classes]
        return [
            MapSpec(
                "labels", "seg-compartments_dseg",
                "Most probable number of tissue compartments; 0 where it is not mapped.", "uint8",
                shown=Appearance("compartments", kind="labels"),
            ),
            MapSpec(
                "probabilities", "seg-compartments_probseg",
                "Probability of each number of compartments, along the fourth axis.",
                n_maps=len(names), entries={"LabelMap": names, "Units": "1"},
            ),
            MapSpec(
                "multicompartment", "label-multicompartment_probseg",
                "Probability of more than one compartment.", entries={"Units": "1"},
                shown=Appearance("P(more than one)", kind="probability"),
            ),
            MapSpec(
                "entropy", "desc-compartments_entropy",
                "Entropy of the probabilities: 0 for a certain answer.", entries={"Units": "bit"},
                shown=Appearance("entropy", "bit"),
            ),
        ]  # fmt: skip

    def _count_maps(self, probabilities: NDArray[np.float64]) -> Maps:
        return {
            "labels": most_probable(probabilities, self.classes),
            "probabilities": probabilities,
            "multicompartment": multicompartment_probability(probabilities, self.classes),
            "entropy": entr(probabilities).sum(axis=1) / np.log(2),
        }


def refuse_complex(images: MeasuredImages, model: str) -> None:
    """Refuse complex signals for a model of real ones.

    Raises
    ------
    ValueError
        If a series of the images is complex.
    """
    if "complex" in images.kinds:
        raise ValueError(
            f"{images.name} is complex, but {model} for real signals; choose the magnitudes, such "
            "as " + worded("select={'part': 'mag'}", "--select part=mag")
        )


def noise_spec() -> MapSpec:
    """Map of the noise."""
    return MapSpec(
        "noise", "desc-residual_noisemap",
        "Standard deviation of the noise of each voxel, from the part of its signal that no "
        "mixture of compartments explains.", entries={"Units": "arbitrary"},
        shown=Appearance("noise"),
    )  # fmt: skip


def misfit_spec(model: str) -> MapSpec:
    """Map of the voxels that a model does not explain."""
    return MapSpec(
        "misfit", "desc-misfit_mask", f"1 where no {model} explains the signal.", "uint8",
        shown=Appearance("not explained", kind="mask"),
    )  # fmt: skip


def property_spec(name: str) -> MapSpec:
    """Map of a tissue property of one compartment."""
    return MapSpec(
        name, f"desc-onecompartment_{name}map",
        f"{name} of one compartment fitted to each voxel; an average where there are several.",
        entries={"Units": property_unit(name)}, shown=Appearance(name, shown_unit(name)),
    )  # fmt: skip


def compartment_specs(
    names: Sequence[str], largest: int, spreads: Mapping[str, str]
) -> list[MapSpec]:
    """Maps of the properties and fractions of each compartment, along the fourth axis.

    Parameters
    ----------
    names : sequence of str
        Tissue properties.
    largest : int
        Largest number of compartments.
    spreads : mapping of str to str
        Descriptions of further maps of each property, such as its standard error, by their name.

    Returns
    -------
    list of MapSpec
        Maps "T1_compartments", .., "T1_error" for the name "error", and "fractions".
    """
    specs = []
    for name in names:
        parts = {"compartments": "{}", **spreads}
        for key, text in parts.items():
            bids_name = f"desc-{_BIDS_SPREADS.get(key, key)}_{name}map"
            description = f"{text.format(name)} of each compartment, along the fourth axis."
            units = {"Units": property_unit(name)}
            specs.append(
                MapSpec(f"{name}_{key}", bids_name, description, n_maps=largest, entries=units)
            )
    specs.append(
        MapSpec(
            "fractions", "desc-compartments_fractionmap",
            "Signal fraction of each compartment, along the fourth axis.", n_maps=largest,
            entries={"Units": "1"},
        )
    )  # fmt: skip
    return specs


def property_unit(name: str) -> str:
    """Unit of a tissue property in the maps."""
    return TIME_UNITS.get(name, "um^2/ms")


def shown_unit(name: str) -> str:
    """Unit of a tissue property in the maps, as it is printed."""
    return TIME_UNITS.get(name, "um²/ms")


def in_unit(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Convert values of a tissue property in ms or um^2/ms to the unit of the maps."""
    return values / 1000 if name in TIME_UNITS else values
