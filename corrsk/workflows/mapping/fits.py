"""Maps of multi-exponential fits."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from corrsk.acquisition.compatibility import compare_protocols
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.imaging import MeasuredImages
from corrsk.imaging.images import Slab
from corrsk.relaxometry import CalibrationWarning, MultiExponentialClassifier
from corrsk.tissue.nuisances import Nuisances
from corrsk.workflows.mapping.mapper import (
    Mapper,
    Maps,
    compartment_specs,
    in_unit,
    misfit_spec,
    noise_spec,
    property_spec,
    refuse_complex,
)

_MIN_FRACTION = 0.05  # of fits to images: leaking signal adds weaker compartments
_EFFICIENCY = (0.7, 1.0)  # of inversions, where it cannot be calibrated
_N_TRIED = 300  # voxels of a sample that are fitted before the maps, for the warnings


class FitMapper(Mapper):
    """Maps of multi-exponential fits.

    Parameters
    ----------
    model : MultiExponentialClassifier or None
        Fitted classifier; None for one for the protocol and the kind of the images, which is
        calibrated to the image.
    images : MeasuredImages
        Images of the subject.
    n_jobs : int
        Number of threads.
    n_compartments : int or None, default=None
        Largest number of compartments; None for 3, or 2 where the measurements are too few.

    Raises
    ------
    ValueError
        If the images have another protocol than the classifier, are complex, or have too few
        measurements; or if `n_compartments` is for a fitted classifier.
    """

    fits: MultiExponentialClassifier

    def __init__(
        self,
        model: MultiExponentialClassifier | None,
        images: MeasuredImages,
        n_jobs: int,
        n_compartments: int | None = None,
    ) -> None:
        refuse_complex(images, "fits are")
        self.notes = []
        self._calibrates = model is None
        protocol = images.protocol
        if model is None:
            magnitude = any(kind != "signed" for kind in images.kinds)
            self.order = np.arange(protocol.n_measurements)
            self.fits, notes = set_up_fits(
                protocol, magnitude=magnitude, n_jobs=n_jobs, n_compartments=n_compartments
            )
            self.notes += notes
        else:
            # models of fits have no training noise; that of the default finds differences
            comparison = compare_protocols(model.protocol_, protocol, prior="t1t2-detr")
            self.order = comparison.check()
            self.fits = copy.copy(model).set_params(n_jobs=n_jobs, verbose=False)
        self.classes = self.fits.counts_
        self.settings = {
            "criterion": self.fits.criterion, "counts": self.fits.counts_.tolist(),
            "noise_distribution": self.fits.noise_distribution,
            "min_fraction": self.fits.min_fraction,
        }  # fmt: skip
        largest = int(self.classes.max())
        self._properties = self.fits.protocol_.tissue_properties
        self.specs = [*self._count_specs(), noise_spec()]
        self.specs.append(misfit_spec("fit"))
        self.specs += [property_spec(name) for name in self._properties]
        self.specs += compartment_specs(
            self._properties, largest, {"error": "Standard error of {}"}
        )

    def prepare(self, sample: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Calibrate pulses and noise to the image; see :class:`Mapper`."""
        values = sample[:, self.order]
        if self._calibrates:
            self._calibrate(values)
        self.fits.estimate_compartments(values[:: -(-len(values) // _N_TRIED)])  # its warnings

    def _calibrate(self, values: NDArray[Any]) -> None:
        try:
            self.fits.calibrate(values)
        except ValueError as error:
            if self.fits.protocol_.series is not None:
                raise
            pulses = "pulses as the protocol states them"
            if "TI" in self.fits.protocol_.contrasts:
                pulses = f"an inversion efficiency of {_EFFICIENCY[0]} to 1 is fitted in each voxel"
                nuisances = Nuisances(inversion_efficiency=_EFFICIENCY)
                self.fits.set_params(nuisances=nuisances).fit(values[:1])
            self.notes.append(f"not calibrated, {pulses}: {error}")
            return
        self.settings["calibration"] = str(self.fits.calibration_)

    def compute(self, slab: Slab) -> Maps:
        """Compute the maps of a slab; see :class:`Mapper`."""
        values = slab.signals.to_numpy()[:, self.order]
        with warnings.catch_warnings():
            if self._calibrates:  # to this image: its slabs are no other image
                warnings.simplefilter("ignore", CalibrationWarning)
            maps = self._count_maps(self.fits.predict_proba(values))
        table = self.fits.estimate_compartments(values)
        with warnings.catch_warnings():  # one compartment need not explain a voxel of several
            warnings.simplefilter("ignore", ConvergenceWarning)
            single = self.fits.estimate_compartments(values, 1)
        n, unknowns = values.shape[1], table["n_c"].to_numpy() * (len(self._properties) + 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            maps["noise"] = np.sqrt(
                np.where(n > unknowns, table["rss"] / np.maximum(n - unknowns, 1), np.nan)
            )
        maps["misfit"] = table["misfit"].to_numpy().astype(np.uint8)
        largest = range(1, int(self.classes.max()) + 1)
        for name in self._properties:
            maps[name] = in_unit(name, single[f"{name}_1"].to_numpy())
            for key, ending in (("compartments", ""), ("error", "_se")):
                columns = [f"{name}_{k}{ending}" for k in largest]
                maps[f"{name}_{key}"] = in_unit(name, table[columns].to_numpy())
        maps["fractions"] = table[[f"f_{k}" for k in largest]].to_numpy()
        return maps


def set_up_fits(
    protocol: AcquisitionProtocol, *, magnitude: bool, n_jobs: int | None,
    n_compartments: int | None = None, inversion_efficiency: float | tuple[float, float] = 1.0,
) -> tuple[MultiExponentialClassifier, list[str]]:  # fmt: skip
    """Set up fits of several compartments to images.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        Protocol of the images.
    magnitude : bool
        Whether the signals are magnitudes.
    n_jobs : int or None
        Number of threads.
    n_compartments : int, optional
        Largest number of compartments; None (default) for three, or two where the measurements are
        too few.
    inversion_efficiency : float or (float, float), default=1.0
        Inversion efficiency, or its range if it is fitted in each voxel.

    Returns
    -------
    fits : MultiExponentialClassifier
        Fitted classifier, of as many compartments as the measurements allow.
    notes : list of str
        Reason of fewer than three.

    Raises
    ------
    ValueError
        If the measurements are too few for two compartments.
    """
    rows = np.ones((2, protocol.n_measurements))
    notes: list[str] = []
    options: dict[str, Any] = {"inversion_efficiency": inversion_efficiency}
    if isinstance(inversion_efficiency, tuple):
        options = {"nuisances": Nuisances(inversion_efficiency=inversion_efficiency)}

    def model_of(counts: Sequence[int]) -> MultiExponentialClassifier:
        return MultiExponentialClassifier(
            protocol, criterion="bic", counts=counts, min_fraction=_MIN_FRACTION,
            noise_distribution="rician" if magnitude else "gaussian", random_state=0,
            n_jobs=n_jobs, verbose=False, **options,
        )  # fmt: skip

    if n_compartments is not None:
        return model_of(range(1, n_compartments + 1)).fit(rows), notes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of too few measurements
            return model_of((1, 2, 3)).fit(rows), notes
    except (UserWarning, ValueError):
        notes.append(
            f"counts 1 and 2: {protocol.n_measurements} measurements are too few for three"
        )
    return model_of((1, 2)).fit(rows), notes
