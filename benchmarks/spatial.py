"""Counts with and without the neighbourhood, in phantoms of parcels whose truth is known.

python benchmarks/spatial.py

Each phantom has 128 x 128 voxels and 40 Voronoi parcels with tissue of the prior `midl2024`, and
four lesions of 30 voxels. All methods classify the same images:

- each voxel by itself, with the model of 1 to 5 % noise;
- the probabilities, or the signals, smoothed by a Gaussian filter;
- plain averages of like neighbours: a window of 13 x 13 voxels, weights by the distance of the
  measured signals, with the model of 1 to 5 % and with that of 0.1 to 0.5 % noise;
- rivals: a graph cut on the voxel-wise probabilities (needs PyMaxflow), MP-PCA before the models of
  1 to 5 % and of 0.1 to 0.5 % noise (needs dipy), and a small network of convolutions, trained here
  on parcels; without its package a rival is skipped (pip install 'corrsk[rivals]');
- corrsk.spatial.SpatialClassifier: averages, random field, and both, with both models;
- an oracle, which averages over the true parcel, without the voxels that contain another one, and
  knows the noise that is left, with its correlation.

The conditions are white noise of 1, 3 and 5 %, and at 3 % spatially correlated noise, variation
within parcels with partial volume at borders, and magnitudes. Models of magnitudes are trained
here. Accuracies are means over phantoms with standard errors; all methods have the same phantoms.

Two further phantoms have variation within tissues and partial volume: slices of a head, from the
templates inside nilearn's wheel (skipped without it), whose efficiency of the pulses is smooth and
whose lesions lie in white matter; and discs on top of each other with bars two voxels wide. The
head is classified by `scanner-ir-se-8x8`, which was trained for pulses and noise of any such kind.

Calibration: voxels of a parcel share their tissue, so that the calibration error of some hundred
parcels is far from zero even for right probabilities. Beside each error is the one that is
expected of right probabilities: the mean over draws of the count of each parcel from its mean
probabilities.

Writes results/spatial.json. `--quick` makes one phantom of each condition and records nothing;
`--only TITLE ..` repeats conditions and keeps the others of the record, `--methods NAME ..` repeats
methods of the conditions and keeps their others.
`--phantoms N` makes N of each condition. `--choose-smoothness` prints the accuracies of graph cuts
on phantoms of the development.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from _measure import RESULTS, installed, record
from _phantoms import (
    MaskedPhantom,
    anatomical_phantom,
    has_templates,
    local_means,
    shapes_phantom,
)
from _spatial_rivals import (
    SpatialNetwork,
    graph_cut,
    has_graph_cut,
    has_mppca,
    mppca_denoised,
)
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter
from sklearn.frozen import FrozenEstimator

from corrsk import SimulationTrainedClassifier, load_pretrained
from corrsk._utils.files import read_json
from corrsk.evaluation import expected_calibration_error
from corrsk.spatial import ParcelPhantom, SpatialClassifier, make_parcel_phantom
from corrsk.spatial._magnitudes import with_floor_of
from corrsk.spatial.phantom import _FWHM

Array = NDArray[np.float64]
Models = tuple[Any, Any]  # of 1 to 5 % noise, and of 0.1 to 0.5 %

FIRST_SEED = 1000  # of phantoms that were not used in the development
N_PHANTOMS, N_FURTHER = 10, 5
N_LESIONS, LESION_VOXELS = 4, 30
RING = 3  # voxels around a lesion, in which its Dice coefficient is computed
SMOOTHING = 1.5  # voxels, standard deviation of the Gaussian filters
WINDOW = 6  # voxels on either side, of the plain averages
BETWEEN_MODELS = 0.01 / np.sqrt(2)  # noise at which the oracle changes its model
N_TRAINING = 1_000_000  # signals of the models of magnitudes
N_DRAWS = 20  # of counts, for the calibration error of right probabilities
SMOOTHNESSES = (0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)  # of graph cuts, for --choose-smoothness
N_DEVELOPMENT = 4  # phantoms of each noise level, of the first seeds

PARCELS, HEAD, SHAPES = "parcels", "head", "shapes"
CONDITIONS: dict[str, dict[str, Any]] = {
    "3 %": {"noise_level": 0.03},
    "1 %": {"noise_level": 0.01},
    "5 %": {"noise_level": 0.05},
    "3 %, correlated (FWHM 2 voxels)": {"noise_fwhm": 2.0},
    "3 %, variation 2 %, partial volume": {"variation": 0.02, "partial_volume": 3},
    "3 %, magnitudes": {"noise_distribution": "rician"},
    "head, 3 %": {"phantom": HEAD, "noise_level": 0.03},
    "head, 1 %": {"phantom": HEAD, "noise_level": 0.01},
    "head, 5 %": {"phantom": HEAD, "noise_level": 0.05},
    "head, 3 %, correlated (FWHM 2 voxels)": {
        "phantom": HEAD, "noise_level": 0.03, "noise_fwhm": 2.0
    },
    "head, 3 %, magnitudes": {
        "phantom": HEAD, "noise_level": 0.03, "noise_distribution": "rician"
    },
    "shapes, 3 %": {"phantom": SHAPES, "noise_level": 0.03},
    "shapes, 1 %": {"phantom": SHAPES, "noise_level": 0.01},
    "shapes, 5 %": {"phantom": SHAPES, "noise_level": 0.05},
    "shapes, 3 %, correlated (FWHM 2 voxels)": {
        "phantom": SHAPES, "noise_level": 0.03, "noise_fwhm": 2.0
    },
}  # fmt: skip
TASKS = {"count": "how many", "multicompartment": "more than one"}
_MOST = [CONDITIONS[title] for title in ("3 %", "1 %", "5 %")]  # conditions of N_PHANTOMS
VOXELWISE, ORACLE = "voxel by voxel", "oracle: true parcel averaged"
GRAPH_CUT, MPPCA, NETWORK = "graph cut", "MP-PCA", "network of convolutions"
MPPCA_LEFT = 0.15  # of the noise is left by MP-PCA, on phantoms of the development


@lru_cache(maxsize=1)
def plain_averages(phantom: ParcelPhantom) -> NDArray[np.float32]:
    """Average a window with weights that fall with the distance of the measured signals."""
    X = phantom.signals
    shape, n = X.shape[:-1], X.shape[-1]
    total, weights = X.copy(), np.ones(shape, dtype=np.float32)
    for x in range(-WINDOW, WINDOW + 1):
        for y in range(-WINDOW, WINDOW + 1):
            if (x, y) == (0, 0):
                continue
            one, other = (
                tuple(
                    slice(max(0, -sign * step), length - max(0, sign * step))
                    for step, length in zip((x, y), shape, strict=True)
                )
                for sign in (1, -1)
            )
            distance = ((X[one] - X[other]) ** 2).mean(axis=-1) / (2 * phantom.sigma**2)
            # 1 for equal signals, with a standard deviation of sqrt(2 / n)
            weight = np.exp(-np.maximum(distance - 1, 0) / (2 * np.sqrt(2 / n)))
            total[one] += weight[..., None] * X[other]
            weights[one] += weight
    return np.asarray(total / weights[..., None])


def drawn(condition: dict[str, Any], seed: int) -> ParcelPhantom:
    """Phantom of a condition."""
    given = dict(condition)
    kind = given.pop("phantom", PARCELS)
    if kind == HEAD:
        return anatomical_phantom(seed, n_lesions=N_LESIONS, lesion_voxels=LESION_VOXELS, **given)
    if kind == SHAPES:
        return shapes_phantom(seed, **given)
    return make_parcel_phantom(
        random_state=seed, n_lesions=N_LESIONS, lesion_voxels=LESION_VOXELS, **given
    )


def inside_of(phantom: ParcelPhantom) -> NDArray[np.bool_]:
    return np.asarray(phantom.parcels >= 0)


def smoothed(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(gaussian_filter(values, (SMOOTHING, SMOOTHING, 0)))


def remaining_noise(phantom: ParcelPhantom, fwhm: float) -> Array:
    """Standard deviation of the noise of the average over each parcel.

    The filter that correlates the noise of neighbours averages it less than white noise.
    """
    numbers = np.maximum(phantom.parcel_means()[1], 1)
    remaining = phantom.sigma / np.sqrt(numbers)
    if not fwhm:
        return np.asarray(remaining)
    impulse = np.zeros(phantom.parcels.shape)
    impulse[0, 0] = 1
    norm = (gaussian_filter(impulse, fwhm / _FWHM, mode="wrap") ** 2).sum()
    pure = phantom.shares == 1
    for parcel in np.unique(phantom.parcels[pure]):
        own = (pure & (phantom.parcels == parcel)).astype(float)
        shared = (gaussian_filter(own, fwhm / _FWHM, mode="wrap") ** 2).sum() / norm
        remaining[parcel] *= np.sqrt(shared / own.sum())
    return np.asarray(remaining)


def oracle(phantom: ParcelPhantom, models: Models, kind: str, fwhm: float = 0.0) -> Array:
    """Probabilities of the average of each parcel, by the model for its remaining noise.

    In the head, whose pulses vary smoothly, of the part of the parcel around each voxel.
    """
    if models[0] is models[1]:
        assert isinstance(phantom, MaskedPhantom)
        values, near = local_means(phantom)
        if kind == "rician":
            inside = phantom.inside
            remaining = phantom.sigma / np.sqrt(near[inside])
            values[inside] = with_floor_of(values[inside], phantom.sigma, remaining)
        return np.asarray(models[0].predict_proba(values))
    means, numbers = phantom.parcel_means()
    means[numbers == 0] = means[numbers > 0][0]  # of no voxel
    sigma = remaining_noise(phantom, fwhm)
    if kind == "rician":
        means = with_floor_of(means, phantom.sigma, sigma)
    few = sigma > BETWEEN_MODELS
    noisy, quiet = (model.predict_proba(means) for model in models)
    return np.asarray(np.where(few[:, None], noisy, quiet)[phantom.parcels])


def methods(
    models: Models, condition: dict[str, Any], network: SpatialNetwork | None
) -> dict[str, Callable[..., Array]]:
    """Functions from a phantom to probabilities."""
    noisy, quiet = models
    kind = condition.get("noise_distribution", "gaussian")
    fwhm = condition.get("noise_fwhm", 0.0)

    def ours(method: str) -> Callable[..., Array]:
        given: Any = [FrozenEstimator(noisy)]
        if "average" in method and quiet is not noisy:
            given.append(FrozenEstimator(quiet))

        def classify(phantom: ParcelPhantom) -> Array:
            model = SpatialClassifier(
                given, method=method, noise_distribution=kind,
                sigma=phantom.sigma if kind == "rician" else None,
            )  # fmt: skip
            return model.fit().predict_proba(phantom.signals, mask=inside_of(phantom))

        return classify

    def denoised(phantom: ParcelPhantom) -> NDArray[np.float32]:
        found = mppca_denoised(phantom)
        if kind == "rician":  # the floor of what is left, as that of our averages
            rows = found.reshape(-1, found.shape[-1])
            left = np.full(len(rows), MPPCA_LEFT * phantom.sigma)
            found = with_floor_of(rows, phantom.sigma, left).reshape(found.shape)
        return found

    found = {
        VOXELWISE: lambda phantom: noisy.predict_proba(phantom.signals),
        "probabilities smoothed": lambda p: smoothed(noisy.predict_proba(p.signals)),
        "signals smoothed": lambda phantom: noisy.predict_proba(smoothed(phantom.signals)),
        "plain averages, model of 1 to 5 %": lambda p: noisy.predict_proba(plain_averages(p)),
        "plain averages, model of 0.1 to 0.5 %": lambda p: quiet.predict_proba(plain_averages(p)),
        GRAPH_CUT: lambda p: graph_cut(noisy.predict_proba(p.signals), inside_of(p)),
        f"{MPPCA}, model of 1 to 5 %": lambda p: noisy.predict_proba(denoised(p)),
        f"{MPPCA}, model of 0.1 to 0.5 %": lambda p: quiet.predict_proba(denoised(p)),
        NETWORK: lambda p: network.predict_proba(p, noisy.predict_proba(p.signals)),
        "SpatialClassifier, field": ours("field"),
        "SpatialClassifier, average": ours("average"),
        "SpatialClassifier, average+field": ours("average+field"),
        ORACLE: lambda phantom: oracle(phantom, models, kind, fwhm),
    }
    if quiet is noisy:  # one model for all noise
        found = {
            name.removesuffix(", model of 1 to 5 %"): method
            for name, method in found.items() if not name.endswith("model of 0.1 to 0.5 %")
        }  # fmt: skip
    return {name: method for name, method in found.items() if not skipped(name)}


def skipped(name: str) -> str | None:
    """Package that a method needs, if it is missing."""
    if name == GRAPH_CUT and not has_graph_cut():
        return "PyMaxflow"
    if name.startswith(MPPCA) and not has_mppca():
        return "dipy"
    return None


def figures(phantom: ParcelPhantom, probabilities: Array) -> dict[str, float]:
    """Accuracies of a map of probabilities in percent, Dice coefficient of the lesions."""
    counts, truth = probabilities.argmax(axis=-1) + 1, phantom.counts
    several = (1 - probabilities[..., 0] > 0.5) == (truth > 1)
    inside = inside_of(phantom)
    right, near = counts == truth, phantom.borders & inside
    found = {
        "how many (%)": 100 * right[inside].mean(),
        "more than one (%)": 100 * several[inside].mean(),
        "how many, within a voxel of a border (%)": 100 * right[near].mean(),
        "more than one, within a voxel of a border (%)": 100 * several[near].mean(),
        "how many, in lesions (%)": 100 * right[phantom.lesions].mean(),
        "more than one, in lesions (%)": 100 * several[phantom.lesions].mean(),
    }
    dice = [
        lesion_dice(phantom, counts, parcel)
        for parcel in np.unique(phantom.parcels[phantom.lesions])
    ]
    # NaN for lesions that are no structure of their own, and phantoms without such lesions
    found["Dice coefficient of lesions"] = np.nanmean(dice) if np.isfinite(dice).any() else np.nan
    return {key: float(value) for key, value in found.items()}


def lesion_dice(phantom: ParcelPhantom, counts: NDArray[Any], parcel: int) -> float:
    """Overlap of a lesion with the voxels of its count in its surroundings.

    NaN if the tissue around has the same count.
    """
    lesion = phantom.parcels == parcel
    own = phantom.counts[lesion][0]
    around = binary_dilation(lesion, iterations=RING)
    if (phantom.counts[around & ~lesion] == own).any():
        return float("nan")
    called = (counts == own) & around
    return float(2 * (called & lesion).sum() / (called.sum() + lesion.sum()))


def summary(values: list[float], digits: int = 2) -> dict[str, float]:
    found = np.array(values)
    found = found[np.isfinite(found)]
    if not found.size:
        return {}
    error = found.std(ddof=1) / np.sqrt(found.size) if found.size > 1 else 0.0
    return {"mean": round(float(found.mean()), digits), "error": round(float(error), digits)}


def expected_of_right(
    probabilities: Array, parcels: NDArray[np.int64], task: str, seed: int = 0
) -> float:
    """Calibration error of these probabilities if they were right.

    The count of each parcel is drawn from the mean of its probabilities.
    """
    _, own = np.unique(parcels, return_inverse=True)
    sizes = np.bincount(own)
    means = np.stack([np.bincount(own, column) / sizes for column in probabilities.T], axis=1)
    classes = np.arange(1, 1 + probabilities.shape[1])
    bounds = np.cumsum(means, axis=1)[:, :-1]
    rng = np.random.default_rng(seed)
    errors = []
    for _ in range(N_DRAWS):
        counts = 1 + (rng.random(len(sizes))[:, None] > bounds).sum(axis=1)
        errors.append(expected_calibration_error(counts[own], probabilities, classes, task=task))
    return float(np.mean(errors))


def calibration(
    truth: Array, every: Array, parcels: NDArray[np.int64], pure: NDArray[np.bool_]
) -> dict[str, float]:
    """Calibration errors of probabilities, and those expected of right ones; {} for labels.

    Of all voxels, and of those that are wholly in one parcel, if there are others: the count of a
    voxel with several parcels is that of the largest part, and its signals have more compartments.
    """
    found: dict[str, float] = {}
    if np.isin(every, (0, 1)).all():
        return found
    classes = np.arange(1, 1 + every.shape[1])
    parts = {"": np.ones_like(pure)} | ({} if pure.all() else {" of pure voxels": pure})
    for which, part in parts.items():
        for task, key in TASKS.items():
            error = expected_calibration_error(truth[part], every[part], classes, task=task)
            right = expected_of_right(every[part], parcels[part], task)
            found[f"calibration error{which}, {key}"] = round(float(error), 4)
            found[f"calibration error{which} of right probabilities, {key}"] = round(right, 4)
    return found


def compared(
    condition: dict[str, Any], models: Models, n_phantoms: int, network: SpatialNetwork | None,
    chosen: list[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """All or chosen methods on the phantoms of a condition."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    maps: dict[str, list[Array]] = defaultdict(list)
    truths, parcels, shares = [], [], []
    for seed in range(FIRST_SEED, FIRST_SEED + n_phantoms):
        phantom = drawn(condition, seed)
        inside = inside_of(phantom)
        truths.append(phantom.counts[inside])
        parcels.append(1000 * seed + phantom.parcels[inside])
        shares.append(phantom.shares[inside])
        for name, method in methods(models, condition, network).items():
            if chosen and name not in chosen:
                continue
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # methods with the wrong noise are meant here
                probabilities = method(phantom)
            values[name]["seconds"].append(time.perf_counter() - start)
            for key, value in figures(phantom, probabilities).items():
                values[name][key].append(value)
            maps[name].append(probabilities[inside])
    truth, parcel, pure = (
        np.concatenate(truths), np.concatenate(parcels), np.concatenate(shares) == 1
    )  # fmt: skip
    found: dict[str, Any] = {}
    for name, columns in values.items():
        entry: dict[str, Any] = {
            key: summary(column, 3 if "Dice" in key else 2) for key, column in columns.items()
        }
        entry |= calibration(truth, np.concatenate(maps[name]), parcel, pure)
        found[name] = entry
    return found


def in_order(entries: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Entries of all methods of a condition, with the shares of the gap that they close."""
    found = {name: entries[name] for name in names if name in entries}
    for key in TASKS.values():
        accuracy = {name: entry[f"{key} (%)"]["mean"] for name, entry in found.items()}
        gap = accuracy[ORACLE] - accuracy[VOXELWISE]
        for name, entry in found.items():
            share = 100 * (accuracy[name] - accuracy[VOXELWISE]) / gap if gap else np.nan
            entry[f"share of the gap closed, {key} (%)"] = round(float(share), 1)
    return found


def models_of(condition: dict[str, Any], cache: dict[str, Models], n_training: int) -> Models:
    kind = condition.get("noise_distribution", "gaussian")
    if condition.get("phantom") == HEAD:
        end = "-magnitude" if kind == "rician" else ""
        model = load_pretrained(f"scanner-ir-se-8x8{end}")
        return model, model
    if kind not in cache:
        if kind == "gaussian":
            cache[kind] = (load_pretrained("midl2024"), load_pretrained("midl2024-low-noise"))
        else:
            cache[kind] = tuple(
                SimulationTrainedClassifier(
                    noise_level=tuple(scale * level for level in (0.01, 0.02, 0.03, 0.04, 0.05)),
                    noise_distribution=kind, n_samples=n_training, novelty=False,
                    random_state=0, verbose=False,
                ).fit()
                for scale in (1, 0.1)
            )  # type: ignore[assignment]  # fmt: skip
    return cache[kind]


def choose_smoothness() -> None:
    """Print the accuracy of graph cuts on parcels of the development, in percent."""
    model = load_pretrained("midl2024")
    phantoms = [
        drawn({"noise_level": level}, seed)
        for seed in range(N_DEVELOPMENT) for level in (0.01, 0.03, 0.05)
    ]  # fmt: skip
    maps = [model.predict_proba(phantom.signals) for phantom in phantoms]
    for smoothness in SMOOTHNESSES:
        found = [
            figures(phantom, graph_cut(each, inside_of(phantom), smoothness))
            for phantom, each in zip(phantoms, maps, strict=True)
        ]
        how_many, several = (
            np.mean([each[f"{key} (%)"] for each in found]) for key in TASKS.values()
        )
        print(f"smoothness {smoothness}: {how_many:.1f} / {several:.1f} %", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one phantom; record nothing")
    parser.add_argument(
        "--only", choices=CONDITIONS, nargs="+", metavar="TITLE", help="repeat conditions"
    )
    parser.add_argument("--phantoms", type=int, help="number of phantoms of each condition")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="repeat methods")
    parser.add_argument("--choose-smoothness", action="store_true", help="of graph cuts")
    arguments = parser.parse_args()
    if arguments.choose_smoothness:
        choose_smoothness()
        return
    quick = arguments.quick
    cache: dict[str, Models] = {}
    results: dict[str, Any] = {}
    chosen = arguments.methods
    if (arguments.only or chosen) and not quick and (RESULTS / "spatial.json").exists():
        results = read_json(RESULTS / "spatial.json")["conditions"]
    for name in (GRAPH_CUT, MPPCA):
        if (package := skipped(name)) is not None:
            print(f"{name}: skipped, needs {package}")
    network = None
    if not chosen or NETWORK in chosen:
        network = SpatialNetwork(load_pretrained("midl2024"), **({"steps": 5} if quick else {}))
    for title in arguments.only or CONDITIONS:
        condition = CONDITIONS[title]
        if condition.get("phantom") == HEAD and not has_templates():
            print(f"{title}: skipped, needs the templates of nilearn and nibabel")
            continue
        models = models_of(condition, cache, 20_000 if quick else N_TRAINING)
        before = results.get(title) if chosen else None
        number = N_PHANTOMS if condition in _MOST else N_FURTHER
        number = arguments.phantoms or (before["phantoms"] if before else number)
        number = 1 if quick else number
        if before and before["phantoms"] != number and not quick:
            parser.error(f"--phantoms must be {before['phantoms']} as in the record of {title}")
        made = compared(condition, models, number, network, chosen)
        if before and not quick:
            made = before["methods"] | made
        entries = in_order(made, list(methods(models, condition, network)))
        results[title] = {"phantoms": number, "methods": entries}
        for name, entry in entries.items():
            print(
                f"{title}: {name}: {entry['how many (%)']['mean']:.1f} / "
                f"{entry['more than one (%)']['mean']:.1f} %", flush=True,
            )  # fmt: skip
        if not quick:  # after each condition, so that an interruption loses one at most
            versions = {package: installed(package) for package in ("dipy", "PyMaxflow")}
            record("spatial", {
                "training signals of magnitudes": N_TRAINING, "rivals": versions,
                "conditions": results,
            })  # fmt: skip


if __name__ == "__main__":
    main()
