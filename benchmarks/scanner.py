"""Counting compartments in signals as scanners measure them, beside perfect signals.

Test sets have the tissue and noise of the data set "scanner-ir-se-8x8" (SNR 20 to 1000 of the
largest absolute signal, scale unknown), signed (Gaussian) and magnitude (Rician) signals, and the
same pulses in all voxels of a set: inversion efficiencies of 1 (Eq. 1) to 0.8, and losses of 0 and
3 % per echo. A further set has the ranges of the data set (0.8 to 1, 0 to 5 %). All sets have
the same voxels. Measured for every model, over all SNRs and in three strata:

- count accuracy with its 95 % bootstrap interval, and accuracy of "more than one";
- expected calibration error;
- share of signals that a `SignalNoveltyDetector` flags which was fitted to the model's own
  training data (1 % of such data are flagged).

Models: "scanner-ir-se-8x8" (trained with the ranges), "exact" (the same without: perfect pulses)
and "scanner-ir-se-8x8-magnitude". Models that are neither in --models nor shipped with corrsk
are left out; "exact" is trained with `--write-exact FILE` and
``corrsk pretrain exact --config FILE --out FOLDER``. A second part has multi-exponential fits,
of signed signals and of magnitudes, with and without the inversion efficiency of each voxel as a
fitted parameter; a third part models of ideal signals ("t1t2-detr", "midl2024-low-noise") on their
own data sets with a single change each.

Writes results/scanner.json; `--parts` runs some of the three parts, and keeps the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from _measure import RESULTS, record
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from corrsk import (
    Nuisances,
    load_pretrained,
    make_correlation_signals,
    model_card,
    pretrained_names,
)
from corrsk._utils.files import read_json
from corrsk.evaluation import (
    bootstrap_difference,
    bootstrap_interval,
    expected_calibration_error,
    multicompartment_probability,
)
from corrsk.novelty.detector import SignalNoveltyDetector
from corrsk.relaxometry import MultiExponentialClassifier
from corrsk.simulation.datasets import DatasetDefinition, dataset_definition
from corrsk.tissue.prior import resolve_prior

SIGNED, MAGNITUDE = "scanner-ir-se-8x8", "scanner-ir-se-8x8-magnitude"
EXACT = "exact"
EFFICIENCIES = (1.0, 0.95, 0.9, 0.85, 0.8)
LOSSES = (0.0, 0.03)
SNR_STRATA = (20, 50, 150, 1000)
SEED, DETECTOR_SEED, CHANGED_SEED = 40_000, 41_000, 42_000
PARTS = ("networks", "fits", "changes")
PULSES = {"efficiency 0.9": {"inversion_efficiency": 0.9}, "3 % loss per echo": {"echo_loss": 0.03}}


def at(definition: DatasetDefinition, nuisances: Nuisances | None) -> DatasetDefinition:
    """The data set with other nuisance parameters."""
    prior = dataclasses.replace(resolve_prior(definition.prior), nuisances=nuisances)
    return dataclasses.replace(definition, prior=prior)


def exact() -> DatasetDefinition:
    """Data set of the model "exact": that of "scanner-ir-se-8x8" with perfect pulses."""
    without = at(dataset_definition(SIGNED), None)
    return dataclasses.replace(without, name=EXACT, description="")


def simulate(definition: DatasetDefinition, n: int, seed: int) -> Any:
    """Signals, counts and noise levels of a data set."""
    return make_correlation_signals(
        n, prior=definition.prior, protocol=definition.protocol,
        noise_level=definition.noise_levels, noise_reference=definition.noise_reference,
        noise_distribution=definition.noise_distribution, norm=definition.norm,
        random_state=seed, return_tissue=True, verbose=False,
    )[:3]  # fmt: skip


def folders_of(folder: Path | None, names: Iterable[str]) -> dict[str, Path | None]:
    """Where each model is: in the folder, or in corrsk (None); missing ones are left out."""
    found = {}
    for name in names:
        if folder is not None and name in pretrained_names(folder):
            found[name] = folder
        elif name in pretrained_names():
            found[name] = None
        else:
            print(f"{name} is not available, and left out")
    return found


def models_of(folder: Path | None, names: Iterable[str]) -> dict[str, Any]:
    """Models of a folder, or those of corrsk; missing ones are left out."""
    return {
        name: load_pretrained(name, folder=where)
        for name, where in folders_of(folder, names).items()
    }


def stratum_names() -> list[str]:
    return [f"SNR {low}-{high}" for low, high in itertools.pairwise(SNR_STRATA)]


def strata(levels: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Masks of all signals, of those with an SNR of at least 50, and of each stratum."""
    which = np.digitize(1 / levels, SNR_STRATA[1:-1])
    masks = {name: which == i for i, name in enumerate(stratum_names())}
    return {"all": which >= 0, "SNR >= 50": which > 0} | masks


def measured(
    y: Any, probabilities: Any, classes: Any, flagged: Any | None, levels: Any
) -> dict[str, Any]:
    """Figures of merit over all signals and in each stratum, as fractions."""
    right = classes[probabilities.argmax(axis=1)] == y
    several = (multicompartment_probability(probabilities, classes) > 0.5) == (y > 1)
    rows = {}
    for name, mask in strata(levels).items():
        low, high = bootstrap_interval([right[mask]])
        error = expected_calibration_error(y[mask], probabilities[mask], classes)
        rows[name] = {
            "n": int(mask.sum()),
            "accuracy": round(float(right[mask].mean()), 4),
            "interval": [round(low, 4), round(high, 4)],
            "more than one": round(float(several[mask].mean()), 4),
            "calibration error": round(error, 4),
        }
        if flagged is not None:
            rows[name]["flagged"] = round(float(flagged[mask].mean()), 4)
    return rows


def conditions() -> dict[str, Nuisances]:
    """Nuisance parameters of each test set, by name."""
    found = {
        f"efficiency {efficiency:g}, loss {100 * loss:g} %": Nuisances(
            inversion_efficiency=efficiency, echo_loss=loss
        )
        for loss in LOSSES
        for efficiency in EFFICIENCIES
    }
    return {"ranges": resolve_prior(dataset_definition(SIGNED).prior).nuisances, **found}


def detector_of(definition: DatasetDefinition, n: int) -> SignalNoveltyDetector:
    X, *_ = simulate(definition, n, DETECTOR_SEED)
    return SignalNoveltyDetector(random_state=0, verbose=False).fit(X)


def on_test_sets(models: dict[str, Any], n: int, n_fit: int) -> dict[str, Any]:
    """Figures of every model on every test set, and magnitude against signed signals."""
    trained_on = {
        SIGNED: dataset_definition(SIGNED), EXACT: exact(), MAGNITUDE: dataset_definition(MAGNITUDE)
    }  # fmt: skip
    detectors = {name: detector_of(trained_on[name], n_fit) for name in models}
    tables: dict[str, Any] = {name: {} for name in models}
    differences: dict[str, Any] = {}
    for condition, nuisances in conditions().items():
        answered = {}
        for name, model in models.items():
            source = MAGNITUDE if name == MAGNITUDE else SIGNED
            X, y, levels = simulate(at(dataset_definition(source), nuisances), n, SEED)
            p = model.predict_proba(X)
            flagged = detectors[name].predict(X) == -1
            tables[name][condition] = measured(y, p, model.classes_, flagged, levels)
            answered[name] = model.classes_[p.argmax(axis=1)] == y
            masks = strata(levels)  # the same for all models: the same voxels
        for key, first, second in (
            ("trained with the ranges less exact", SIGNED, EXACT),
            ("magnitude less signed", MAGNITUDE, SIGNED),
        ):
            if first not in models or second not in models:
                continue
            differences.setdefault(key, {})[condition] = {
                group: [
                    round(100 * each, 2)
                    for each in bootstrap_difference(
                        [(answered[first][mask], answered[second][mask])]
                    )
                ]
                for group, mask in masks.items()
            }
    return {
        "models": tables,
        "differences (points: value, low, high)": differences,
    }


def of_fits(n: int) -> dict[str, Any]:
    """Accuracy of fits to signed signals and magnitudes, at efficiencies of 1 and 0.9."""
    prior = resolve_prior(dataset_definition(SIGNED).prior)
    fitted = Nuisances(inversion_efficiency=prior.nuisances.inversion_efficiency)
    found: dict[str, Any] = {}
    for efficiency in (1.0, 0.9):
        pulses = Nuisances(inversion_efficiency=efficiency, echo_loss=0.0)
        for title, nuisances in (("perfect inversion", None), ("efficiency of each voxel", fitted)):
            right = {}
            for source in (SIGNED, MAGNITUDE):
                definition = at(dataset_definition(source), pulses)
                X, y, levels = simulate(definition, n, SEED)
                model = MultiExponentialClassifier(
                    definition.protocol, bounds=prior, counts=prior.n_compartments,
                    nuisances=nuisances, noise_distribution=definition.noise_distribution,
                    random_state=0, verbose=False,
                )  # fmt: skip
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    right[source] = model.fit(X).predict(X) == y
            rows: dict[str, Any] = {}
            for group, mask in strata(levels).items():
                pair = (right[MAGNITUDE][mask], right[SIGNED][mask])
                rows[group] = {
                    "n": int(mask.sum()),
                    "signed": round(float(pair[1].mean()), 4),
                    "magnitude": round(float(pair[0].mean()), 4),
                    "difference (points: value, low, high)": [
                        round(100 * each, 2) for each in bootstrap_difference([pair])
                    ],
                }
            found[f"fits with {title}, signals of efficiency {efficiency:g}"] = rows
    return {"n_signals": n, **found}


def with_changes(names: Iterable[str], n: int) -> dict[str, Any]:
    """Accuracy of models of ideal signals on their own data sets with one change each."""
    found: dict[str, Any] = {}
    for name in names:
        model = load_pretrained(name)
        own = dataclasses.replace(dataset_definition(name), norm="l2")
        changes = {"none": own}
        changes |= {key: at(own, Nuisances(**pulses)) for key, pulses in PULSES.items()}
        changes["magnitude"] = dataclasses.replace(own, noise_distribution="rician")
        found[name] = {}
        for key, definition in changes.items():
            X, y, _ = simulate(definition, n, CHANGED_SEED)
            p = model.predict_proba(X)
            right = model.classes_[p.argmax(axis=1)] == y
            several = (multicompartment_probability(p, model.classes_) > 0.5) == (y > 1)
            low, high = bootstrap_interval([right])
            found[name][key] = {
                "accuracy": round(float(right.mean()), 4),
                "interval": [round(low, 4), round(high, 4)],
                "more than one": round(float(several.mean()), 4),
                "calibration error": round(expected_calibration_error(y, p, model.classes_), 4),
            }
    return found


def show(results: dict[str, Any]) -> None:
    """Print the count accuracies as tables."""
    for name, table in results["models"].items():
        print(f"\n{name}: count accuracy (more than one; calibration error; flagged), %")
        print(f"{'':28}" + "".join(f"{group:>26}" for group in table["ranges"]))
        for condition, row in table.items():
            cells = [
                f"{100 * r['accuracy']:.1f} ({100 * r['more than one']:.1f}; "
                f"{100 * r['calibration error']:.1f}; {100 * r['flagged']:.1f})"
                for r in row.values()
            ]
            print(f"{condition:28}" + "".join(f"{cell:>26}" for cell in cells))
    print()


def of_networks(arguments: argparse.Namespace) -> dict[str, Any]:
    names = (SIGNED, EXACT, MAGNITUDE)
    models = models_of(arguments.models, names)
    results = {
        "n_signals": arguments.n_signals,
        "training signals": {
            name: model_card(name, where).training["signals"]
            for name, where in folders_of(arguments.models, names).items()
        },
        **on_test_sets(models, arguments.n_signals, arguments.n_fit),
    }
    show(results)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, help="folder of models; default: those of corrsk")
    parser.add_argument("--n-signals", type=int, default=60_000, help="signals of each test set")
    parser.add_argument("--n-fit", type=int, default=200_000, help="signals for each detector")
    parser.add_argument("--n-fits", type=int, default=3000, help="signals for the fits")
    parser.add_argument("--write-exact", type=Path, help="write the data set of 'exact', and stop")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="the others keep their records"
    )
    arguments = parser.parse_args()
    if arguments.write_exact is not None:
        exact().to_file(arguments.write_exact)
        return
    path = RESULTS / "scanner.json"
    results = read_json(path)["results"] if path.is_file() else {}
    if "networks" in arguments.parts:
        results["networks"] = of_networks(arguments)
    if "fits" in arguments.parts:
        results["fits"] = of_fits(arguments.n_fits)
    if "changes" in arguments.parts:
        results["changes"] = with_changes(("t1t2-detr", "midl2024-low-noise"), arguments.n_signals)
    record("scanner", {"results": results})


if __name__ == "__main__":
    main()
