"""Other methods of spatial context for benchmarks/spatial.py: graph cut, MP-PCA, and a network.

The graph cut needs PyMaxflow and MP-PCA needs dipy; corrsk depends on neither.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from corrsk.spatial import ParcelPhantom, make_parcel_phantom

Array = NDArray[np.float64]

# the best in both questions; see --choose-smoothness of spatial.py
SMOOTHNESS = 1.0
PATCH_RADIUS = 4  # voxels: 81 of them, just more than the 64 measurements
_SMALLEST = 1e-6  # probability, so that the logarithm is finite

N_TRAINING_PHANTOMS, TRAINING_SHAPE = 600, (48, 48)
TRAINING_LEVELS = (0.01, 0.05)  # ends of the noise levels of the network, as of its classifier
N_STEPS, BATCH, LEARNING_RATE = 600, 6, 4e-3
N_CHANNELS, DILATIONS = 32, (1, 2, 4, 8)  # of the convolutions: 31 x 31 voxels are seen
N_CLASSES, N_COMPONENTS = 4, 6  # of the probabilities, and of the signals


def has_graph_cut() -> bool:
    """Whether PyMaxflow is installed."""
    return find_spec("maxflow") is not None


def has_mppca() -> bool:
    """Whether dipy is installed."""
    return find_spec("dipy") is not None


def graph_cut(
    probabilities: Array, inside: NDArray[np.bool_], smoothness: float = SMOOTHNESS
) -> Array:
    """Labels of a Potts model on voxel-wise probabilities by alpha-expansion.

    The energy is the sum of -log p of the labels, and `smoothness` for each pair of voxels with a
    common face and different labels (Boykov, Veksler and Zabih, IEEE Trans. Pattern Anal. Mach.
    Intell. 23, 1222, 2001).

    Parameters
    ----------
    probabilities : ndarray of shape (n_x, n_y, n_classes)
        Probabilities of each voxel by itself.
    inside : ndarray of bool, shape (n_x, n_y)
        Voxels to use.
    smoothness : float
        Cost of a pair with different labels.

    Returns
    -------
    ndarray of shape (n_x, n_y, n_classes)
        1 for the label of the voxel, 0 for the others.
    """
    from maxflow.fastmin import aexpansion_grid

    n = probabilities.shape[-1]
    # Voxels outside have a label of their own. It costs half a pair beside any other label, which
    # is the least that alpha-expansion allows, and the same for all labels inside.
    forbidden = 1e6
    costs = np.full((*inside.shape, n + 1), forbidden)
    costs[inside, :n] = -np.log(np.maximum(probabilities[inside], _SMALLEST))
    costs[~inside, n] = 0
    pairs = smoothness * (1 - np.eye(n + 1))
    pairs[n, :n] = pairs[:n, n] = smoothness / 2
    labels = aexpansion_grid(costs, pairs, labels=costs.argmin(axis=-1))
    return np.asarray(np.eye(n + 1)[labels][..., :n])


@lru_cache(maxsize=1)
def mppca_denoised(phantom: ParcelPhantom) -> NDArray[np.float32]:
    """Denoise a slice by the MP-PCA of dipy.

    dipy sets negative results to 0. The patches are centred before their components are found, so
    that a constant beyond the largest signal, which is subtracted afterwards, changes no other
    result.
    """
    from dipy.denoise.localpca import mppca

    X = phantom.signals[:, :, None]
    constant = 2 * float(np.abs(X).max())
    inside = (phantom.parcels >= 0)[..., None]
    radius = np.array([PATCH_RADIUS, PATCH_RADIUS, 0])
    found = mppca(X + constant, mask=inside, patch_radius=radius) - constant
    return np.where(inside[..., 0][..., None], found[:, :, 0], 0).astype(np.float32)


class SpatialNetwork:
    """Small network of convolutions, trained on maps of simulated parcels.

    Its inputs are the logarithms of the probabilities of a voxel-wise classifier, the first
    principal components of the image in units of the noise, and the mask. The components are those
    of each image, with random signs in the training, so that one network serves all classifiers,
    protocols and kinds of noise. It is trained with a single classifier, for all its noise levels,
    white and correlated noise, with and without variation and partial volume.
    """

    def __init__(self, model: Any, *, n_phantoms: int = N_TRAINING_PHANTOMS, steps: int = N_STEPS,
                 seed: int = 0) -> None:  # fmt: skip
        rng = np.random.default_rng([seed, 14])
        made = [training_phantom(rng) for _ in range(n_phantoms)]
        inputs = torch.stack(
            [network_inputs(each, model.predict_proba(each.signals)) for each in made]
        )
        targets = torch.from_numpy(np.stack([each.counts - 1 for each in made]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = _layers(inputs.shape[1])
        optimizer = torch.optim.AdamW(self.layers.parameters(), weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        for _ in range(steps):
            chosen = rng.integers(len(made), size=BATCH)
            signs = np.ones((BATCH, inputs.shape[1], 1, 1), np.float32)
            signs[:, N_CLASSES:-1, 0, 0] = rng.choice([-1, 1], size=(BATCH, N_COMPONENTS))
            turns = int(rng.integers(4))
            x = torch.rot90(inputs[chosen] * torch.from_numpy(signs), turns, (-2, -1))
            y = torch.rot90(targets[chosen], turns, (-2, -1))
            loss = nn.functional.cross_entropy(self._logits(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    def _logits(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = inputs[:, :N_CLASSES] + self.layers(inputs)
        return found

    def predict_proba(self, phantom: ParcelPhantom, probabilities: Array) -> Array:
        """Probabilities of the voxels of a phantom from those of single voxels."""
        n_classes = probabilities.shape[-1]
        with torch.inference_mode():
            logits = self._logits(network_inputs(phantom, probabilities)[None])[0, :n_classes]
        return np.asarray(torch.softmax(logits.double(), dim=0).permute(1, 2, 0).numpy())


def _layers(n_inputs: int) -> nn.Sequential:
    """Convolutions that correct the logarithms of the voxel-wise probabilities."""
    layers: list[nn.Module] = []
    width = n_inputs
    for step in DILATIONS:
        layers += [nn.Conv2d(width, N_CHANNELS, 3, padding=step, dilation=step), nn.ReLU()]
        width = N_CHANNELS
    last = nn.Conv2d(width, N_CLASSES, 1)
    nn.init.zeros_(last.weight)  # the first maps are those of single voxels
    return nn.Sequential(*layers, last)


def network_inputs(phantom: ParcelPhantom, probabilities: Array) -> torch.Tensor:
    """Maps of the inputs of the network, (n_inputs, n_x, n_y); 0 outside."""
    inside = phantom.parcels >= 0
    rows = phantom.signals[inside].astype(np.float64)
    vectors = np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :N_COMPONENTS]
    # the range of strong components is compressed
    components = np.arcsinh(rows @ vectors / (2 * phantom.sigma))
    logs = np.full((len(rows), N_CLASSES), np.log(_SMALLEST))  # of classes that a model lacks
    logs[:, : probabilities.shape[-1]] = np.log(np.maximum(probabilities[inside], _SMALLEST))
    maps = np.zeros((*inside.shape, N_CLASSES + N_COMPONENTS + 1), np.float32)
    maps[inside] = np.concatenate([logs, components, np.ones((len(rows), 1))], axis=1)
    return torch.from_numpy(maps).permute(2, 0, 1).contiguous()


def training_phantom(rng: np.random.Generator) -> ParcelPhantom:
    """Parcels with noise, variation and partial volume of random strength."""
    return make_parcel_phantom(
        TRAINING_SHAPE,
        n_parcels=int(rng.integers(4, 20)),
        noise_level=float(np.exp(rng.uniform(*np.log(TRAINING_LEVELS)))),
        noise_fwhm=float(rng.choice([0.0, rng.uniform(1, 3)])),
        variation=float(rng.choice([0.0, 0.02])),
        partial_volume=int(rng.choice([1, 2])),
        n_lesions=int(rng.integers(0, 4)),
        random_state=int(rng.integers(2**31)),
    )
