"""Calibration and lesions of averages of like neighbours, on more parcels than spatial.py has.

python benchmarks/spatial_calibration.py

Voxels of a parcel share their tissue, so that calibration errors and Dice coefficients of some
hundred parcels and twenty lesions are mostly chance. Here are two conditions of parcels at 3 %
noise with many phantoms: white noise and small parcels, for the calibration; and spatially
correlated noise with lesions of 30 voxels. Beside each calibration error is the one that is
expected of right probabilities, and the Dice coefficients are compared lesion by lesion.

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
from spatial import (
    LESION_VOXELS,
    ORACLE,
    VOXELWISE,
    Array,
    Models,
    calibration,
    lesion_dice,
    methods,
    summary,
)

from corrsk import load_pretrained
from corrsk.spatial import make_parcel_phantom

FIRST_SEED, N_PHANTOMS = 3000, 30  # of phantoms that were not used in the development
AVERAGE = "SpatialClassifier, average"
CONDITIONS: dict[str, dict[str, Any]] = {
    "white": {"noise_level": 0.03, "n_parcels": 120},
    "correlated (FWHM 2 voxels)": {"noise_level": 0.03, "noise_fwhm": 2.0, "n_lesions": 4},
}


def compared(condition: dict[str, Any], models: Models, n_phantoms: int) -> dict[str, Any]:
    """Voxel-wise classifier, averages and oracle on the phantoms of a condition."""
    maps: dict[str, list[Array]] = defaultdict(list)
    dice: dict[str, list[float]] = defaultdict(list)
    truths, parcels = [], []
    for seed in range(FIRST_SEED, FIRST_SEED + n_phantoms):
        phantom = make_parcel_phantom(random_state=seed, lesion_voxels=LESION_VOXELS, **condition)
        truths.append(phantom.counts.ravel())
        parcels.append(1000 * seed + phantom.parcels.ravel())
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
    found: dict[str, Any] = {}
    for name, several in maps.items():
        probabilities = np.concatenate(several)
        entry: dict[str, Any] = {
            "how many (%)": round(
                100 * float((probabilities.argmax(axis=1) + 1 == truth).mean()), 2
            ),
            "mean of the largest probability (%)": round(
                100 * float(probabilities.max(axis=1).mean()), 2
            ),
            **calibration(truth, probabilities, parcel, np.ones(len(truth), dtype=bool)),
        }
        if condition.get("n_lesions"):
            differences = np.subtract(dice[name], dice[VOXELWISE]).tolist()
            entry["Dice coefficient of lesions"] = summary(dice[name], 3)
            entry["Dice coefficient less that of voxel by voxel"] = summary(differences, 3)
        found[name] = entry
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
