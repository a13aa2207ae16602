"""Maps that all models trained by simulation share: novelty, noise, and one compartment."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.wording import worded
from corrsk.acquisition.protocol import resolve_protocol
from corrsk.imaging import MeasuredImages
from corrsk.relaxometry.one_compartment import OneCompartmentFit
from corrsk.tissue.prior import resolve_prior
from corrsk.trained.classifier import SimulationTrainedClassifier
from corrsk.trained.regressor import CompartmentRegressor
from corrsk.workflows.mapping.mapper import (
    Mapper,
    Maps,
    in_unit,
    noise_spec,
    property_spec,
    refuse_complex,
)
from corrsk.workflows.mapping.noise import noise_directions
from corrsk.workflows.mapping.outputs import Appearance, MapSpec


class SimulationMapper(Mapper):
    """Maps of a model that was trained by simulation.

    A subclass adds the maps of the predictions to those of this class: `specs` here has novelty,
    noise and the properties of one compartment, as far as model and protocol have them.

    Parameters
    ----------
    model : SimulationTrainedClassifier or CompartmentRegressor
        The fitted model.
    images : MeasuredImages
        Images of the subject.
    n_jobs : int
        Number of threads.

    Raises
    ------
    ProtocolMismatchError
        If the images have another protocol; a ValueError.
    ValueError
        If the images are complex.
    """

    def __init__(
        self,
        model: SimulationTrainedClassifier | CompartmentRegressor,
        images: MeasuredImages,
        n_jobs: int,
    ) -> None:
        refuse_complex(images, "the model is")
        self._model: Any = model.matched_to(images.protocol)
        self.classes, self.notes = model.classes_, []
        self.settings = {"noise_distribution": model.noise_distribution}
        self.specs = []
        detector = self._model.novelty_
        self._rate = 0.0
        if detector is None:
            self.notes.append(
                "no novelty map: the model has no detector of unusual signals; "
                + worded("fit_novelty adds one", "corrsk train makes models with one")
            )
        else:
            detector = copy.copy(detector)
            detector.set_params(n_jobs=n_jobs, verbose=False)
            self._model.novelty_ = detector
            self._rate = float(detector.false_alarm_rate)
            self.specs.append(
                MapSpec(
                    "novelty",
                    "desc-novelty_mask",
                    "1 where the signal is unlike all simulated signals of the training, so that "
                    "the other maps have no basis.",
                    "uint8",
                    entries={"PValue": self._rate},
                    shown=Appearance("novel", kind="mask"),
                )
            )
        outside = noise_directions(model.definition)
        self._outside = None if outside is None else outside.astype(np.float32)
        if outside is None:
            self.notes.append("no noise map: the measurements are too few to separate the noise")
        else:
            self.specs.append(noise_spec())
        self._fit = self._property_fit(n_jobs)
        for name in () if self._fit is None else self._fit.properties:
            self.specs.append(property_spec(name))

    def _property_fit(self, n_jobs: int) -> OneCompartmentFit | None:
        model = self._model
        nuisances = resolve_prior(model.prior).nuisances
        efficiency: Any = getattr(nuisances, "inversion_efficiency", None)
        if efficiency is None:
            efficiency = float(model.inversion_efficiency)
        self.settings["inversion_efficiency"] = efficiency
        try:
            # in the order of the training, into which the model brings the signals
            return OneCompartmentFit(
                resolve_protocol(model.protocol), inversion_efficiency=efficiency,
                magnitude=model.noise_distribution == "rician", n_jobs=n_jobs,
            )  # fmt: skip
        except ValueError as error:
            self.notes.append(f"no maps of tissue properties: {error}")
            return None

    def _single_voxel_maps(self, signals: NDArray[Any]) -> Maps:
        """Novelty, noise and one compartment of signals, in the order of the images."""
        model, maps = self._model, {}
        if model.novelty_ is not None:
            maps["novelty"] = (model.predict_novelty(signals) < self._rate).astype(np.uint8)
        aligned = model.pipeline_[0].transform(signals)
        if self._outside is not None:
            rest = aligned.astype(np.float32, copy=False) @ self._outside
            maps["noise"] = np.sqrt(np.einsum("vd,vd->v", rest, rest) / rest.shape[1])
        if self._fit is not None:
            found = self._fit.fit(aligned)
            for k, name in enumerate(self._fit.properties):
                maps[name] = in_unit(name, found[:, k])
        return maps
