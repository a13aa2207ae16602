"""Maps of networks that were trained by simulation, of single voxels or with their neighbours."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.frozen import FrozenEstimator

from corrsk._utils.wording import worded
from corrsk.acquisition.protocol import resolve_protocol
from corrsk.imaging import MeasuredImages
from corrsk.imaging.images import Slab
from corrsk.neural.training.device import resolve_device
from corrsk.neural.training.prediction import move_net
from corrsk.relaxometry import estimate_noise
from corrsk.relaxometry.one_compartment import OneCompartmentFit
from corrsk.spatial import SpatialClassifier
from corrsk.spatial.averaging import Comparison
from corrsk.tissue.prior import resolve_prior
from corrsk.trained.classifier import SimulationTrainedClassifier
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

CONTEXT_BYTES = 1024**3  # signals of a slab and its margins
_COMPARED_BYTES = 256 * 1024**2  # signals of the slices in which the noise is found


def single_networks(context: SpatialClassifier) -> list[Any]:
    """Classifiers of single voxels, without the frame that freezes them."""
    return [
        each.estimator if isinstance(each, FrozenEstimator) else each
        for each in context.estimators_
    ]


class NetworkMapper(Mapper):
    """Maps of a model that was trained by simulation.

    Parameters
    ----------
    model : SimulationTrainedClassifier
        The fitted model.
    images : MeasuredImages
        Images of the subject.
    n_jobs : int
        Number of threads.
    device : str
        Device of the network.

    Raises
    ------
    ProtocolMismatchError
        If the images have another protocol; a ValueError.
    ValueError
        If the images are complex.
    """

    def __init__(
        self, model: SimulationTrainedClassifier, images: MeasuredImages, n_jobs: int, device: str
    ) -> None:
        refuse_complex(images, "the model is")
        self._model = model.matched_to(images.protocol)
        where = resolve_device(device)
        move_net(self._model[-1].net_, where)
        self.classes, self.notes = model.classes_, []
        self.settings = {"device": str(where), "noise_distribution": model.noise_distribution}
        self.specs = self._count_specs()
        detector = self._model.novelty_
        self._rate = 0.0
        if detector is None:
            self.notes.append(
                "no novelty map: the model has no detector of unusual signals (fit_novelty)"
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
        self._fit = self._property_fit(images, n_jobs)
        for name in () if self._fit is None else self._fit.properties:
            self.specs.append(property_spec(name))

    def _property_fit(self, images: MeasuredImages, n_jobs: int) -> OneCompartmentFit | None:
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

    def prepare(self, sample: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Compare sign, noise and shape of the sample with the training; see :class:`Mapper`."""
        self._model.predict_proba(sample)

    def _probabilities(self, slab: Slab) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self._model.predict_proba(slab.signals.to_numpy())
        return found

    def compute(self, slab: Slab) -> Maps:
        """Compute the maps of a slab; see :class:`Mapper`."""
        model, signals = self._model, slab.signals.to_numpy()
        maps = self._count_maps(self._probabilities(slab))
        if model.novelty_ is not None:
            maps["novelty"] = (model.predict_novelty(signals) < self._rate).astype(np.uint8)
        aligned = model[0].transform(signals)
        if self._outside is not None:
            rest = aligned.astype(np.float32, copy=False) @ self._outside
            maps["noise"] = np.sqrt(np.einsum("vd,vd->v", rest, rest) / rest.shape[1])
        if self._fit is not None:
            found = self._fit.fit(aligned)
            for k, name in enumerate(self._fit.properties):
                maps[name] = in_unit(name, found[:, k])
        return maps


class ContextMapper(NetworkMapper):
    """Maps of a network that uses the neighbours of each voxel.

    Compartment counts come from averages of like neighbours; the other maps are those of single
    voxels.

    Parameters
    ----------
    context : SpatialClassifier
        Fitted classifier of SimulationTrainedClassifier, with the method "average".
    images : MeasuredImages
        Images of the subject.
    n_jobs : int
        Number of threads.
    device : str
        Device of the networks.

    Raises
    ------
    ProtocolMismatchError
        If the images have another protocol; a ValueError.
    ValueError
        If the images are complex.
    """

    def __init__(
        self, context: SpatialClassifier, images: MeasuredImages, n_jobs: int, device: str
    ) -> None:
        first, *others = single_networks(context)
        super().__init__(first, images, n_jobs, device)
        matched = [self._model, *(one.matched_to(images.protocol) for one in others)]
        where = resolve_device(device)
        for one in matched[1:]:
            move_net(one[-1].net_, where)
        self._images = images
        frozen = [FrozenEstimator(one) for one in matched]
        size = np.linalg.norm(images.grid.affine[:3, :3], axis=0)
        self._context = SpatialClassifier(
            frozen, sigma=context.sigma, n_neighbors=context.n_neighbors, voxel_size=size,
            noise_range=context.noise_range, noise_distribution=context.noise_distribution,
        ).fit()  # fmt: skip
        self._comparison: Comparison | None = None

    def prepare(self, sample: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Find the noise of the image in its middle slices; see :class:`Mapper`."""
        context, grid = self._context, self._images.grid
        if context.noise_distribution == "rician" and context.sigma is None:
            noise = estimate_noise(
                sample, self._images.protocol, noise_distribution="rician"
            )  # of its real and imaginary parts
            context.set_params(sigma=float(noise.sigma))
        axis, n = grid.slab_axis, grid.shape[grid.slab_axis]
        inside = np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis)))
        middle = int(np.median(inside))
        half = max(1, _COMPARED_BYTES // (2 * self._slice_bytes))
        where = [slice(0, length) for length in grid.shape]
        where[axis] = slice(max(0, middle - half), min(n, middle + half + 1))
        block = self._images.slab((where[0], where[1], where[2]), mask)
        found = context.compare(block.signals.to_numpy(), block.mask, shape=grid.shape)
        self._comparison = found
        reach = int(found.reach[axis])
        self.settings["context"] = {
            "n_neighbors": context.n_neighbors, "noise": float(found.subspace.sigma),
            "n_voxels_sharing_noise": float(found.correlated), "reach": found.reach.tolist(),
        }  # fmt: skip
        self.margin = 0 if self._is_whole(n) else reach
        if self.margin and self.slab_bytes(0) < self._slice_bytes:
            raise ValueError(
                f"the context of a voxel reaches over {reach} slices on either side, of "
                f"{self._slice_bytes / 2**20:.0f} MB each: with one more slice these are larger "
                f"than {CONTEXT_BYTES / 2**20:.0f} MB. "
                + worded(
                    "Use a SpatialClassifier with fewer neighbours than "
                    f"{context.n_neighbors} (n_neighbors)",
                    "Leave --context out, or give as --model a SpatialClassifier that was saved "
                    f"with fewer neighbours than {context.n_neighbors}",
                )
            )

    @property
    def _slice_bytes(self) -> int:
        grid = self._images.grid
        n = self._images.protocol.n_measurements
        return grid.n_voxels // grid.shape[grid.slab_axis] * n * np.dtype(np.float32).itemsize

    def _is_whole(self, n_slices: int) -> bool:
        return n_slices * self._slice_bytes <= CONTEXT_BYTES

    def slab_bytes(self, wanted: int) -> int:
        """Size of a slab whose margins are not much larger; see :class:`Mapper`."""
        return CONTEXT_BYTES - 2 * self.margin * self._slice_bytes

    def _probabilities(self, slab: Slab) -> NDArray[np.float64]:
        assert self._comparison is not None
        whole = slab if slab.around is None else slab.around.slab
        found = self._context.predict_proba_of_part(
            whole.signals.to_numpy(), whole.mask, self._comparison
        )
        return found if slab.around is None else found[slab.around.own]
