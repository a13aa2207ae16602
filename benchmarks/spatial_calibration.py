"""Calibration and lesions of averages of like neighbours, on more parcels than spatial.py has.

python benchmarks/spatial_calibration.py

Voxels of a parcel share their tissue, so that calibration errors and Dice coefficients of some
hundred parcels and twenty lesions are mostly chance. Here are three conditions at 3 % noise with
more phantoms: white noise and small parcels; spatially correlated noise; and shapes with partial
volume. Beside each calibration error is the one that is expected of right probabilities. The
temperature by which the logarithms of the probabilities are divided for the least log loss is 1 for
right ones, and more for too confident ones (Guo et al., ICML 2017). Dice coefficients of lesions
are compared lesion by lesion.

Writes results/spatial_calibration.json. `--quick` makes two phantoms of each condition and records
nothing.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from typing import Any

import numpy as np
from _measure import record
from numpy.typing import NDArray
from scipy.special import logsumexp
from spatial import (
    ORACLE,
    SHAPES,
    VOXELWISE,
    Array,
    Models,
    calibration,
    drawn,
    lesion_dice,
    methods,
    summary,
)

from corrsk import load_pretrained

FIRST_SEED, N_PHANTOMS = 3000, 20  # of phantoms that were not used in the development
AVERAGE = "SpatialClassifier, average"
CONDITIONS: dict[str, dict[str, Any]] = {
    "white": {"noise_level": 0.03, "n_parcels": 120},
    "correlated (FWHM 2 voxels)": {"noise_level": 0.03, "noise_fwhm": 2.0},
    "shapes": {"phantom": SHAPES, "noise_level": 0.03},
}
TEMPERATURES = np.round(np.arange(0.5, 3.01, 0.05), 2)
_SMALLEST = 1e-6  # probability, so that the logarithm is finite


def best_temperature(truth: NDArray[np.int64], probabilities: Array) -> float:
    """Temperature of the least log loss."""
    logs = np.log(np.maximum(probabilities, _SMALLEST))
    own = np.arange(len(truth)), truth - 1
    losses = [
        float((logsumexp(logs / each, axis=1) - logs[own] / each).mean()) for each in TEMPERATURES
    ]
    return float(TEMPERATURES[np.argmin(losses)])


def compared(condition: dict[str, Any], models: Models, n_phantoms: int) -> dict[str, Any]:
    """Voxel-wise classifier, averages and oracle on the phantoms of a condition."""
    maps: dict[str, list[Array]] = defaultdict(list)
    dice: dict[str, list[float]] = defaultdict(list)
    truths, parcels, shares = [], [], []
    for seed in range(FIRST_SEED, FIRST_SEED + n_phantoms):
        phantom = drawn(condition, seed)
        truths.append(phantom.counts.ravel())
        parcels.append(1000 * seed + phantom.parcels.ravel())
        shares.append(phantom.shares.ravel())
        every = methods(models, condition, None)
        for name in (VOXELWISE, AVERAGE, ORACLE):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # as in spatial.py
                probabilities = every[name](phantom)
            maps[name].append(probabilities.reshape(-1, probabilities.shape[-1]))
            counts = probabilities.argmax(axis=-1) + 1
            dice[name] += [
                lesion_dice(phantom, counts, parcel)
                for parcel in np.unique(phantom.parcels[phantom.lesions])
            ]
    truth, parcel = np.concatenate(truths), np.concatenate(parcels)
    pure = np.concatenate(shares) == 1
    found: dict[str, Any] = {}
    for name, several in maps.items():
        probabilities = np.concatenate(several)
        differences = np.subtract(dice[name], dice[VOXELWISE]).tolist()
        found[name] = {
            **calibration(truth, probabilities, parcel, pure),
            "Dice coefficient of lesions": summary(dice[name], 3),
            "Dice coefficient less that of voxel by voxel": summary(differences, 3),
        }
        for which, part in {"": np.ones_like(pure), " of pure voxels": pure}.items():
            own = probabilities[part]
            right = own.argmax(axis=1) + 1 == truth[part]
            found[name] |= {
                f"how many (%){which}": round(100 * float(right.mean()), 2),
                f"mean confidence (%){which}": round(100 * float(own.max(axis=1).mean()), 2),
                f"best temperature{which}": best_temperature(truth[part], own),
            }
    return {
        "phantoms": n_phantoms,
        "parcels": len(np.unique(parcel)),
        "lesions": int(np.isfinite(dice[VOXELWISE]).sum()),
        "methods": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two phantoms; record nothing")
    quick = parser.parse_args().quick
    models = (load_pretrained("midl2024"), load_pretrained("midl2024-low-noise"))
    results: dict[str, Any] = {}
    for title, condition in CONDITIONS.items():
        results[title] = compared(condition, models, 2 if quick else N_PHANTOMS)
        if quick:
            print(title, results[title])
        else:
            record("spatial_calibration", {"conditions": results})


if __name__ == "__main__":
    main()
