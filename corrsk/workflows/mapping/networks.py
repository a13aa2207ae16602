"""Maps of networks that were trained by simulation, of single voxels or with their neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.frozen import FrozenEstimator

from corrsk._utils.wording import worded
from corrsk.imaging import MeasuredImages
from corrsk.imaging.images import Slab
from corrsk.neural.training.device import resolve_device
from corrsk.neural.training.prediction import move_net
from corrsk.relaxometry import estimate_noise
from corrsk.spatial import SpatialClassifier
from corrsk.spatial.averaging import Comparison
from corrsk.trained.classifier import SimulationTrainedClassifier
from corrsk.workflows.mapping.mapper import Maps
from corrsk.workflows.mapping.simulated import SimulationMapper

CONTEXT_BYTES = 1024**3  # signals of a slab and its margins
_COMPARED_BYTES = 256 * 1024**2  # signals of the slices in which the noise is found


def single_networks(context: SpatialClassifier) -> list[Any]:
    """Classifiers of single voxels, without the frame that freezes them."""
    return [
        each.estimator if isinstance(each, FrozenEstimator) else each
        for each in context.estimators_
    ]


class NetworkMapper(SimulationMapper):
    """Maps of a classifier that was trained by simulation.

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

    _model: SimulationTrainedClassifier

    def __init__(
        self, model: SimulationTrainedClassifier, images: MeasuredImages, n_jobs: int, device: str
    ) -> None:
        super().__init__(model, images, n_jobs)
        where = resolve_device(device)
        move_net(self._model[-1].net_, where)
        self.settings["device"] = str(where)
        self.specs = [*self._count_specs(), *self.specs]

    def prepare(self, sample: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Compare sign, noise and shape of the sample with the training; see :class:`Mapper`."""
        self._model.predict_proba(sample)

    def _probabilities(self, slab: Slab) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self._model.predict_proba(slab.signals.to_numpy())
        return found

    def compute(self, slab: Slab) -> Maps:
        """Compute the maps of a slab; see :class:`Mapper`."""
        maps = self._count_maps(self._probabilities(slab))
        return maps | self._single_voxel_maps(slab.signals.to_numpy())


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
