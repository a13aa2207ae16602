"""Phantoms with truth for benchmarks/spatial.py: anatomy, and shapes without anatomy.

The anatomy is that of the templates of grey and white matter inside nilearn's wheel (MNI ICBM152, 1
mm), which are read from its folder; nilearn itself is not imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, gaussian_filter

from corrsk import AcquisitionProtocol, CorrelationSignalGenerator, TissuePrior
from corrsk._utils.extras import require
from corrsk.spatial import ParcelPhantom
from corrsk.spatial.phantom import _majority, _with_noise

Labels = NDArray[np.int64]

PROTOCOL = "ir-se-8x8"
VARIATION = 0.02  # of each relaxation time: half of it smooth, half white
EFFICIENCY, ECHO_LOSS = (0.85, 1.0), (0.0, 0.04)  # ends of smooth fields
SMOOTH = 0.25  # width of smooth fields, of the image
SLICES = (72, 80, 88, 96, 104)  # of the template, for the seeds in turn
CLASSES = ("grey matter", "white matter", "fluid")
_WHITE = [(120.0, 20.0, 0.2), (950.0, 100.0, 0.425), (700.0, 75.0, 0.375)]
_GREY = [(1.2 * t1, 1.05 * t2, f) for (t1, t2, _), f in
         zip(_WHITE, (0.05, 0.425, 0.525), strict=True)]  # fmt: skip
_TISSUE = [_GREY, _WHITE, [(2750.0, 290.0, 1.0)], [(400.0, 30.0, 0.4), (1800.0, 180.0, 0.6)]]
_PARTS = 2  # points of a voxel along each axis
_REACH = 10  # voxels, of the oracle of smoothly varying tissue


@dataclass(frozen=True, eq=False)
class MaskedPhantom(ParcelPhantom):
    """Phantom of tissue in a mask; `parcels` outside are -1."""

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Voxels of tissue."""
        return np.asarray(self.parcels >= 0)


def has_templates() -> bool:
    """Whether the wheel of nilearn, and nibabel, are installed."""
    return find_spec("nilearn") is not None and find_spec("nibabel") is not None


def anatomical_phantom(
    seed: int, *, noise_level: float, noise_distribution: str = "gaussian", noise_fwhm: float = 0.0,
    n_lesions: int = 4, lesion_voxels: int = 30,
) -> MaskedPhantom:  # fmt: skip
    """Axial slice of a head with voxels of 2 mm: three tissues and lesions in white matter.

    Relaxation times vary within each tissue, voxels mix what they contain, and the inversion
    efficiency and the loss of signal per echo are smooth.
    """
    rng = np.random.default_rng([seed, 11])
    labels = _with_lesions(_classes(SLICES[seed % len(SLICES)]), rng, n_lesions, lesion_voxels)
    points = [
        labels[x::_PARTS, y::_PARTS, z]
        for x in range(_PARTS) for y in range(_PARTS) for z in range(_PARTS)
    ]  # fmt: skip
    rows = [[v for column in zip(*_padded(own), strict=True) for v in column] for own in _TISSUE]
    names = [f"{name}_{k}" for name in ("T1", "T2", "f") for k in (1, 2, 3)]
    tissue = pd.DataFrame(rows[:3] + [rows[3]] * n_lesions, columns=names)
    shape = points[0].shape
    fields = {
        "inversion_efficiency": _smooth(rng, shape, *EFFICIENCY),
        "echo_loss": _smooth(rng, shape, *ECHO_LOSS),
    }
    return _simulated(points, tissue, fields, noise_level, noise_distribution, noise_fwhm, seed)


def shapes_phantom(
    seed: int, *, noise_level: float, noise_distribution: str = "gaussian", noise_fwhm: float = 0.0,
    shape: tuple[int, int] = (112, 112), n_shapes: int = 120, n_bars: int = 12,
) -> MaskedPhantom:  # fmt: skip
    """Discs of all sizes on top of each other, and bars two voxels wide: no anatomy.

    The dead leaves of Matheron, with tissue of midl2024. The bars, of 30 voxels, count as lesions.
    """
    rng = np.random.default_rng([seed, 12])
    tissue, _ = TissuePrior.named("midl2024").sample(1 + n_shapes + n_bars, random_state=seed)
    n = 3  # points along each axis of a voxel
    axes = [(np.arange(length * n) + 0.5) / n for length in shape]
    x, y = np.meshgrid(*axes, indexing="ij")
    labels = np.zeros(x.shape, np.int64)
    radii = 4 / np.sqrt(rng.uniform((4 / 40) ** 2, 1, n_shapes))  # density ~ radius^-3
    for k, radius in enumerate(np.sort(radii)[::-1], 1):  # small ones on top
        centre = rng.uniform(0, 1, 2) * shape
        labels[np.hypot(x - centre[0], y - centre[1]) < radius] = k
    for k in range(1 + n_shapes, 1 + n_shapes + n_bars):
        centre, angle = 10 + rng.uniform(0, 1, 2) * (np.array(shape) - 20), rng.uniform(0, np.pi)
        along = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
        across = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
        labels[(np.abs(along) < 7.5) & (np.abs(across) < 1)] = k
    points = [labels[a::n, b::n] for a in range(n) for b in range(n)]
    found = _simulated(points, tissue, {}, noise_level, noise_distribution, noise_fwhm, seed)
    object.__setattr__(found, "lesions", found.parcels > n_shapes)
    return found


def local_means(phantom: MaskedPhantom) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Average of the pure voxels of the same parcel around each voxel, and their number."""
    reach = np.arange(-_REACH, _REACH + 1)
    disc = np.hypot(*np.meshgrid(reach, reach)) <= _REACH
    means = phantom.signals.copy()
    numbers = np.ones(phantom.parcels.shape)
    from scipy.signal import fftconvolve

    for parcel in np.unique(phantom.parcels[phantom.inside]):
        own = phantom.parcels == parcel
        pure = own & (phantom.shares == 1)
        pure = pure if pure.any() else own
        number = np.maximum(np.round(fftconvolve(pure.astype(float), disc, mode="same")), 0)
        sums = fftconvolve(phantom.signals * pure[..., None], disc[..., None], "same", axes=(0, 1))
        near = own & (number > 0)
        means[near], numbers[near] = sums[near] / number[near, None], number[near]
    return means, numbers


def _classes(z: int) -> Labels:
    """Tissue of two slices of the template: 0 to 2 as CLASSES, -1 outside."""
    require("nibabel", extra="imaging", purpose="reading templates")
    import nibabel

    spec = find_spec("nilearn")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data"

    def slices(name: str) -> NDArray[np.float64]:
        image: Any = nibabel.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
        return np.asarray(image.dataobj[4:192, 6:228, z : z + 2], np.float64) / 255

    grey, white = slices("gm"), slices("wm")
    tissue = gaussian_filter(grey + white, (2, 2, 0)) > 0.3
    inside = np.stack([binary_fill_holes(tissue[..., k]) for k in range(2)], axis=-1)
    found = np.argmax(np.stack([grey, white, 1 - grey - white]), axis=0)
    return np.where(inside, found, -1)


def _with_lesions(labels: Labels, rng: np.random.Generator, number: int, n_voxels: int) -> Labels:
    """Discs inside white matter, of a number of voxels of the phantom."""
    radius = _PARTS * np.sqrt(n_voxels / np.pi)
    depth = gaussian_filter((labels[..., 0] == 1).astype(float), radius)
    x, y = np.indices(depth.shape)
    labels = labels.copy()
    for k in range(number):
        candidates = np.argwhere(depth > min(0.95, 0.98 * depth.max()))
        centre = candidates[rng.integers(len(candidates))]
        distance = np.hypot(x - centre[0], y - centre[1])
        labels[distance <= radius] = 3 + k
        depth[distance < 3 * radius] = 0
    return labels


def _padded(compartments: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    return compartments + [(np.nan, np.nan, 0.0)] * (3 - len(compartments))


def _smooth(
    rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float
) -> NDArray[np.float64]:
    found = gaussian_filter(rng.standard_normal(shape), SMOOTH * max(shape), mode="reflect")
    found -= found.min()
    return np.asarray(low + (high - low) * found / found.max())


def _simulated(
    points: list[Labels], tissue: pd.DataFrame, fields: dict[str, NDArray[np.float64]],
    noise_level: float, noise_distribution: str, noise_fwhm: float, seed: int,
) -> MaskedPhantom:  # fmt: skip
    """Signals of labels at the points of each voxel."""
    rng = np.random.default_rng([seed, 13])
    shape = points[0].shape
    times = [name for name in tissue.columns if name.startswith(("T1", "T2"))]
    smooth = [_smooth(rng, shape, -1, 1) for _ in times]
    white = rng.standard_normal((len(times), *shape))
    simulate = CorrelationSignalGenerator(PROTOCOL, noise_level=0.0, verbose=False)
    protocol = AcquisitionProtocol.named(PROTOCOL)
    clean = np.zeros((*shape, protocol.n_measurements), np.float32)
    for label in points:
        inside = label >= 0
        table = tissue.iloc[label[inside]].reset_index(drop=True)
        for k, name in enumerate(times):
            table[name] *= np.exp(VARIATION * np.sqrt(0.5) * (smooth[k] + white[k])[inside])
        for name, field in fields.items():
            table[name] = field[inside]
        clean[inside] += simulate.fit_transform(table) / len(points)
    parcels, shares = _majority(np.stack(points))
    signals = _with_noise(clean, noise_level, noise_distribution, noise_fwhm, seed)
    signals[parcels < 0] = 0
    fractions = tissue[[name for name in tissue.columns if name.startswith("f_")]].to_numpy()
    counts = np.where(parcels < 0, 0, (fractions > 0).sum(axis=1)[parcels])
    return MaskedPhantom(
        signals, clean, parcels, counts, parcels > 2, shares, tissue, noise_level, protocol,
        np.ones(2),
    )  # fmt: skip
