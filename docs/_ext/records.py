"""Figures and tables of the pages, read from the records in benchmarks/results.

The Markdown pages are Jinja templates (``{{ .. }}``) whose context is `CONTEXT`. A page repeats no
number by hand where a record exists; a record that lacks a number stops the build.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from corrsk.pretrained.models import model_of_dataset
from corrsk.workflows.paper import PAPER

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
WEIGHTS = Path(__file__).parents[2] / "corrsk" / "pretrained" / "weights"
DATASETS = ("midl2024", "midl2024-low-noise", "t1t2-detr")
SLASH = "\u00a0/\u00a0"  # does not break
METRICS = {
    "accuracy": "4-class accuracy",
    "precision_macro": "precision (macro)",
    "recall_macro": "recall (macro)",
    "f1_macro": "F1 (macro)",
    "roc_auc_1": "AUC, n_c = 1",
    "roc_auc_2": "AUC, n_c = 2",
    "roc_auc_3": "AUC, n_c = 3",
    "roc_auc_4": "AUC, n_c = 4",
    "roc_auc_micro": "AUC (micro)",
    "roc_auc_macro": "AUC (macro)",
    "log_loss": "log loss",
    "calibration_error": "calibration error",
    "binary_accuracy": "binary accuracy (P > 0.5)",
    "binary_argmax_accuracy": "binary accuracy (argmax)",
    "binary_argmax_precision_single": "precision, n_c = 1 (argmax)",
    "binary_argmax_recall_single": "recall, n_c = 1 (argmax)",
}


@cache
def record(name: str) -> Any:
    """A JSON record by its path in benchmarks/results, without suffix."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


@cache
def rows_of(name: str) -> list[dict[str, str]]:
    """Rows of a CSV record."""
    with (RESULTS / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def card(name: str) -> Any:
    """The card of a shipped model."""
    return json.loads((WEIGHTS / f"{name}.json").read_text(encoding="utf-8"))


def pct(value: float | str, digits: int = 1) -> str:
    """A fraction in percent."""
    return f"{100 * float(value):.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with numbers aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def reproduced(name: str) -> Any:
    """Metrics and settings of a reproduction."""
    return record(f"reproduce/{name}/metrics")


def reproduction_table() -> str:
    """Figures of merit of both data sets beside those of the paper."""
    low, literal = (reproduced(name)["metrics"] for name in ("midl2024-low-noise", "midl2024"))
    rows = []
    for key, title in METRICS.items():
        paper = _printed(PAPER.metrics[key]) if key in PAPER.metrics else ""
        rows.append([title, f"{low[key]:.3f}", paper, f"{literal[key]:.3f}"])
    return table(["", "`midl2024-low-noise`", "paper", "`midl2024`"], rows)


def _printed(value: float) -> str:
    """A figure with the digits that the paper prints."""
    return f"{value:.2f}" if round(value, 2) == value else f"{value:.3f}"


def over_noise(name: str, key: str) -> str:
    """An accuracy at each of the noise levels, in percent."""
    return " / ".join(pct(row[key]) for row in reproduced(name)["by_noise_level"])


def published_training_table() -> str:
    """4-class and binary accuracy of the published and of the default training."""

    def pair(metrics: Any) -> str:
        return f"{pct(metrics['accuracy'])}{SLASH}{pct(metrics['binary_argmax_accuracy'])}"

    names = ("midl2024-low-noise", "midl2024")
    published = [pair(reproduced(f"{name}-paper")["metrics"]) for name in names]
    default = [pair(reproduced(name)["metrics"]) for name in names]
    head = ["4-class / binary accuracy (argmax), %", "`midl2024-low-noise`", "paper", "`midl2024`"]
    return table(
        head,
        [
            ["published training, 3000 epochs", published[0], pair(PAPER.metrics), published[1]],
            ["corrsk's default training, 40 epochs", default[0], "", default[1]],
        ],
    )


def commands(name: str) -> str:
    """Commands of a comparison, as a block of code."""
    lines = [
        line.replace("corrsk benchmark", "corrsk compare")
        .replace(" --models", " \\\n    --models")
        .replace(" --train-sizes", " \\\n    --train-sizes")
        .replace(" --samples", " \\\n    --samples")
        for line in record(name)
    ]
    return "```shell\n" + "\n".join(lines) + "\n```"


def comparison_table(dataset: str) -> str:
    """Accuracies of all models over the number of training signals."""
    sizes = (1_000, 10_000, 100_000, 700_000)
    models: dict[str, dict[int, str]] = {}
    for row in rows_of(f"comparison/{dataset}/summary"):
        pair = f"{pct(row['accuracy'])}{SLASH}{pct(row['binary_accuracy'])}"
        size = int(float(row["n_train"])) if row["kind"] in ("network", "learner") else 0
        models.setdefault(row["model"], {})[size] = pair
    rows = [
        [name, *(found.get(size, "") for size in sizes), found.get(0, "")]
        for name, found in models.items()
    ]
    return table(["model", *(f"{size:,}" for size in sizes), "untrained"], rows)


def compared(dataset: str, model: str, n_train: int, key: str) -> str:
    """An entry of a comparison's summary."""
    for row in rows_of(f"comparison/{dataset}/summary"):
        if row["model"] == model and (not n_train or float(row["n_train"]) == n_train):
            return row[key]
    raise KeyError((dataset, model, n_train, key))


def times_table(dataset: str) -> str:
    """Times of training, speed of prediction and size of each model."""
    rows = []
    for row in rows_of(f"comparison/times-{dataset}/summary"):
        fit = (
            f"{float(row['seconds_fit']):.1f}\u00a0s"
            if row["kind"] in ("network", "learner")
            else "-"
        )
        speed = float(f"{float(row['signals_per_second']):.2g}")
        rows.append([row["model"], fit, f"{speed:,.0f}", _size(float(row["size_bytes"]))])
    return table(["model", "fit", "predict, signals/s", "size"], rows)


def _size(n_bytes: float) -> str:
    if n_bytes < 1e6:
        return f"{n_bytes / 1e3:.0f}\u00a0kB"
    return f"{n_bytes / 1e6:.0f}\u00a0MB"


def networks_table() -> str:
    """Accuracy of networks over the number of fresh training signals."""
    found: dict[str, dict[tuple[str, int], Any]] = {}
    for row in record("networks")["rows"]:
        found.setdefault(row["network"], {})[row["dataset"], row["signals"]] = row
    columns = [(d, n) for d in ("midl2024-low-noise", "midl2024") for n in (250_000, 1_000_000)]
    head = ["network, training", "MFLOP per signal"]
    head += [f"{dataset}, {n / 1e6:g} million" for dataset, n in columns]
    rows = []
    for name, runs in found.items():
        flop = next(iter(runs.values()))["flop_per_signal"]
        cells = [f"{pct(runs[c]['accuracy'])} ({runs[c]['seconds']:.0f}\u00a0s)" for c in columns]
        rows.append([name, f"{flop / 1e6:.2f}", *cells])
    return table(head, rows)


def ceiling(dataset: str, question: str = "count", group: str = "all") -> Any:
    """Estimates of the best possible accuracy, in percent."""
    return record(f"ceiling/{dataset}")["ceilings (%)"][group][question]


def regret(dataset: str, question: str = "count") -> Any:
    """Regret of a shipped model in points."""
    return record(f"ceiling/{dataset}")["regret of the model that comes with corrsk (%)"][question][
        "all"
    ]


def between(low: str, high: str) -> str:
    """An interval in parentheses, which does not break."""
    return f"({low}\u00a0to\u00a0{high})"


def interval(found: Any, digits: int = 2) -> str:
    """The corrected estimate with its interval."""
    value, low, high = (f"{found[f'corrected{end}']:.{digits}f}" for end in ("", "_low", "_high"))
    return f"{value} {between(low, high)}"


def upper(found: Any, digits: int = 2) -> str:
    """The estimate that is too high, with its interval."""
    value, low, high = (f"{found[f'upper{end}']:.{digits}f}" for end in ("", "_low", "_high"))
    return f"{value} {between(low, high)}"


def metric(dataset: str, name: str) -> str:
    """A metric of the card of a data set's own model with its interval, in percent."""
    found = card(model_of_dataset(dataset))
    value, low, high = (pct(found["metrics"][name][k], 2) for k in ("value", "low", "high"))
    return f"{value} {between(low, high)}"


def ceiling_table() -> str:
    """The best possible accuracy, and how near the shipped networks are."""

    def row(title: str, cell: Any) -> list[str]:
        return [title, *(cell(dataset) for dataset in DATASETS)]

    rows = []
    questions = {"how many": ("count", "accuracy")}
    questions["more than one"] = ("multicompartment", "binary_accuracy")
    for words, (question, name) in questions.items():

        def best(dataset: str, question: str = question) -> str:
            value = interval(ceiling(dataset, question), 1).split(" ", 1)
            return f"**{value[0]}** {value[1]}"

        def ends(dataset: str, question: str = question) -> str:
            found = ceiling(dataset, question)
            return f"{found['cross_fitted']:.1f} / {found['upper']:.1f}"

        def shipped(dataset: str, name: str = name) -> str:
            return metric(dataset, name)

        def lost(dataset: str, question: str = question) -> str:
            return interval(regret(dataset, question))

        def lost_ends(dataset: str, question: str = question) -> str:
            found = regret(dataset, question)
            return f"{found['cross_fitted']:.2f} / {found['upper']:.2f}"

        rows += [
            row(f"best possible, {words}", best),
            row("its estimates, too low / too high", ends),
            row(f"shipped network, {words}", shipped),
            row("its regret (points)", lost),
            row("the same, too low / too high", lost_ends),
        ]

    def counted(dataset: str) -> str:
        found = record(f"ceiling/{dataset}")
        return f"{found['n_signals']:,}; {found['Monte Carlo']['signals not to be trusted']}"

    rows.append(row("signals of the ideal observer; not trustworthy", counted))
    return table(["", *(f"`{dataset}`" for dataset in DATASETS)], rows)


def ceiling_over_noise_table() -> str:
    """The best possible accuracies by noise level."""
    rows = [
        [f"`{dataset}`", group]
        + [f"{found[question]['corrected']:.1f}" for question in ("count", "multicompartment")]
        for dataset in DATASETS
        for group, found in record(f"ceiling/{dataset}")["ceilings (%)"].items()
        if group != "all"
    ]
    return table(["data set", "noise", "how many (%)", "more than one (%)"], rows)


# key of grid.json -> row of the table
GRID_ROWS = {
    "observer that knows the grid": "observer with the grid",
    "observer that does not": "observer without the grid",
    "the same, half of its runs": "the same, half of its runs",
    "network": "network",
}


def grid_table(dataset: str) -> str:
    """Observers with and without the grid of the tissue values, and the network."""
    found = record("grid")[dataset]
    rows = []
    for key, title in GRID_ROWS.items():
        cells = [f"{found['log loss'][key]:.3f}"]
        for question in ("count", "multicompartment"):
            regrets = found[f"regret, {question} (points)"]
            cells.append(upper(regrets[key]["all"]) if key in regrets else "0")
        rows.append([title, *cells])
    head = ["log loss", "regret, how many (points)", "regret, more than one (points)"]
    return table([f"`{dataset}`", *head], rows)


def grid_difference(dataset: str) -> str:
    """Accuracy of the network less that of the observer without the grid."""
    found = record("grid")[dataset]["network less observer that does not know the grid (points)"]
    return f"{found['value']:+.2f} {between(*(f'{found[end]:+.2f}' for end in ('low', 'high')))}"


def t1t2_table() -> str:
    """Count accuracy of the thesis t1t2-detr and of the shipped networks."""
    models = ("t1t2-detr", "t1t2-detr-m0")
    rows = []
    for snr, found in record("t1t2_detr")["count accuracy by SNR"].items():
        cells = [snr, pct(found["published"])]
        for name in models:
            low, high = (pct(each) for each in found[name]["interval"])
            cells.append(f"**{pct(found[name]['accuracy'])}** {between(low, high)}")
        rows.append(cells)
    return table(["SNR", "published", *(f"`{name}`" for name in models)], rows)


def compartments_table(name: str = "compartments") -> str:
    """Metrics of estimated compartments on a data set, t1t2-detr by default."""
    found = record(name)
    columns = {
        "count_accuracy": "count", "strict_accuracy": "strict", "strict_accuracy_1": "1",
        "strict_accuracy_2": "2", "strict_accuracy_3": "3",
        "strict_accuracy_with_fractions": "with fractions", "average_precision": "mAP@7",
        "f1": "F1", "T1_error": "T1", "T2_error": "T2", "T1_error_p90": "T1, p90",
    }  # fmt: skip
    published = {f"published: {each}": row for each, row in found.get("published", {}).items()}
    rows = []
    for name, row in (found["rows"] | published).items():
        cells = [pct(row[key]) if key in row else "" for key in columns]
        if "strict accuracy, interval" in row:
            low, high = (pct(each) for each in row["strict accuracy, interval"])
            cells[1] = f"**{cells[1]}** {between(low, high)}"
        rows.append([name, *cells])
    return table(["in %", *columns.values()], rows)


def compartments_ladder() -> str:
    """Strict accuracy at fixed SNRs on the data set t1t2-detr."""
    found = record("compartments")
    final = found["published"]["t1t2-detr, final"]["strict accuracy by SNR"]
    ladders = found["strict accuracy by SNR"] | {"published: t1t2-detr, final": final}
    return table(
        ["SNR", *final],
        [[name, *(pct(row[snr]) for snr in final)] for name, row in ladders.items()],
    )


def compartments_coverage() -> str:
    """Coverage of the intervals of compartments by count and SNR."""
    found = record("compartment_calibration")["coverage of 90 % intervals"]
    rows = [
        [name, str(row["n"]), *(pct(row[q]) if q in row else "" for q in ("T1", "T2", "f"))]
        for name, row in found.items()
    ]
    return table(["compartments, SNR", "voxels", "T1", "T2", "fraction"], rows)


def compartments_ceiling() -> str:
    """Strict accuracy and count accuracy of the ceiling and of the regressor, by model."""
    found = record("compartment_ceiling")
    rows = []
    for model in ("scale unknown", "M0 known"):
        own = found[model]
        for name in ("ceiling", "regressor", "regressor, best box of its draws"):
            row = own[name]
            low, high = (pct(each) for each in row["strict, interval"])
            by_count = [pct(row[f"strict {K}"]) for K in (1, 2, 3)]
            strict = f"**{pct(row['strict'])}** {between(low, high)}"
            count = pct(row["count"]) if "count" in row else ""
            rows.append([f"{name}, {model}", count, strict, *by_count])
    return table(["in %", "count", "strict", "1", "2", "3"], rows)


def spectra_speed() -> str:
    """Voxels per second of the inversion to spectra, and of its rivals in the same run."""
    found = record("spectra")["speed"]
    names = {
        "chi2": "`NNLSSpectrum`, chi2 rule", "given weight": "`NNLSSpectrum`, a given weight",
        "scipy.optimize.nnls": "`scipy.optimize.nnls`, a given weight", "ILTpy": "ILTpy 1.1",
    }  # fmt: skip
    ratios = {"chi2": 1.0} | {
        name: each["median"] for name, each in found["time over that of chi2"].items()
    }
    rates = found["voxels per second"]
    rows = [[names[name], f"{rates[name]:,.4g}", f"{ratios[name]:.3g}"] for name in names
            if name in rates]  # fmt: skip
    return table(["", "voxels per second", "time of a voxel over that of the chi2 rule"], rows)


def myelin_water_table() -> str:
    """Mean absolute errors of the myelin water fraction, and the published ones."""
    found = record("myelin_water")["mean absolute error of the myelin water fraction"]
    labels = ("50..150", "150..300", "no noise")
    rows = []
    for name, row in found.items():
        cells = []
        for label in labels:
            error = row.get(f"{label}, standard error")
            value = f"{row[label]:.4f}" if label in row else ""
            cells.append(value + (f" ± {error:.4f}" if error else ""))
            cells.append(
                f"{row[f'{label}, published']:.4f}" if f"{label}, published" in row else ""
            )
        rows.append([name, *cells])
    heads = [head for label in labels for head in (f"SNR {label}".replace("SNR no", "no"),
                                                   "published")]  # fmt: skip
    return table(["", *heads], rows)


def spectrum_prior_table() -> str:
    """Distances of spectra without and with a prior from the truth, and between noise draws."""
    found = record("spectrum_prior")["simulated"]["rows"]
    columns = {"T1": "W1, T1", "T2": "W1, T2", "T1 x T2": "W1, T1 x T2",
               "fraction": "fraction, T2 ≤ 40 ms", "retest T1": "retest, T1",
               "retest T2": "retest, T2"}  # fmt: skip
    rows = [
        [
            name,
            *(
                f"{row[key]:.4f} ± {row[f'{key}, standard error']:.4f}" if key in row else ""
                for key in columns
            ),
        ]
        for name, row in found.items()
    ]
    return table(["", *columns.values()], rows)


def measured_prior_table() -> str:
    """Distances between spectra of two measurements of the same samples."""
    rows = []
    for sample, found in record("spectrum_prior").get("measured", {}).items():
        for name, row in found.items():
            if not isinstance(row, dict):
                continue
            repeated = {key: value for key, value in row.items() if key.startswith("retest")}
            retest = ", ".join(f"{key.split()[1]} {value:.3f}" for key, value in repeated.items())
            rows.append([sample, name, retest, f"{row['T2']:.3f}" if "T2" in row else ""])
    return table(["", "", "W1 between measurements", "W1 from the truth, T2"], rows)


SCANNER = "scanner-ir-se-8x8"
# models of the record "scanner", in the order of the tables
SCANNER_MODELS = {"exact": "`exact`", SCANNER: f"`{SCANNER}`"}
SCANNER_GROUPS = ("all", "SNR 20-50", "SNR 50-150", "SNR 150-1000")


def scanner_record(part: str) -> Any:
    """A part of the record "scanner": networks, fits or changes."""
    return record("scanner")["results"][part]


def pulses(efficiency: float, loss: float = 0) -> str:
    """Name of a test set of the record "scanner"; the loss per echo in percent."""
    return f"efficiency {efficiency:g}, loss {loss:g} %"


def scanner(model: str, condition: str, key: str = "accuracy", group: str = "all") -> Any:
    """A figure of a model on a test set of the record "scanner"."""
    return scanner_record("networks")["models"][model][condition][group][key]


def scanner_training(model: str) -> str:
    """Number of training signals of a network of the record "scanner", in millions."""
    return f"{scanner_record('networks')['training signals'][model] / 1e6:g}"


def scanner_ceiling_signals() -> str:
    """Number of signals of each set of the record "scanner_ceiling"."""
    found = record("scanner_ceiling")
    (number,) = {found[key]["n_signals"] for key in found if key.startswith("inversion")}
    return str(number)


def scanner_table() -> str:
    """Models with and without nuisance parameters on signals of different pulses."""
    known = [name for name in SCANNER_MODELS if name in scanner_record("networks")["models"]]
    head = ["efficiency; loss per echo"]
    for name in known:
        head += [f"{SCANNER_MODELS[name]}: how many", "more than one", "calibration error", "novel"]
    rows = []
    for loss in (0, 3):
        for efficiency in (1, 0.95, 0.9, 0.85, 0.8):
            row = [f"{efficiency:g}; {loss}\u00a0%"]
            for name in known:
                row += scanner_figures(name, pulses(efficiency, loss))
            rows.append(row)
    row = ["0.8 to 1; 0 to 5\u00a0%"]
    for name in known:
        row += scanner_figures(name, "ranges")
    return table(head, [*rows, row])


def scanner_figures(model: str, condition: str) -> list[str]:
    """Accuracies, calibration error and share of novel signals of a model on a test set."""
    found = scanner_record("networks")["models"][model][condition]["all"]
    interval_ = between(*(pct(end) for end in found["interval"]))
    return [
        f"**{pct(found['accuracy'])}** {interval_}", pct(found["more than one"]),
        f"{found['calibration error']:.3f}", f"{pct(found['flagged'])}\u00a0%",
    ]  # fmt: skip


def scanner_snr_table() -> str:
    """Count accuracy of every model by SNR, with perfect and with imperfect pulses."""
    models = scanner_record("networks")["models"]
    rows = [
        [f"`{name}`", condition.replace(" %", "\u00a0%")]
        + [pct(table_[condition][group]["accuracy"]) for group in SCANNER_GROUPS]
        for condition in (pulses(1), pulses(0.9, 3), "ranges")
        for name, table_ in models.items()
    ]
    return table(["model", "pulses", *SCANNER_GROUPS], rows)


def scanner_regret(who: str, efficiency: float, loss: float = 0) -> str:
    """Regret of an observer or a network on a set of "scanner_ceiling", with its interval."""
    found = record("scanner_ceiling")
    title = f"inversion efficiency {efficiency:g}, loss {loss:g} % per echo"
    return interval(found[title]["count"][f"regret of {who} (points)"]["all"], 1)


def scanner_price(efficiency: float, loss: float = 0) -> str:
    """Regret of the observer with the ranges, extrapolated to many runs, in points."""
    title = f"inversion efficiency {efficiency:g}, loss {loss:g} % per echo"
    found = record("scanner_ceiling")[title]
    key = "regret of the observer with the ranges, for many runs (points)"
    return f"{found[key]['extrapolated']:.1f}"


def scanner_ceiling_table() -> str:
    """Best possible accuracy, and what the observer with ranges and the networks lose."""
    rows = []
    for condition, found in record("scanner_ceiling").items():
        if not condition.startswith("inversion efficiency"):
            continue
        for question, words in (("count", "how many"), ("multicompartment", "more than one")):
            for title, by_group in found[question].items():
                title = title.replace(" (points)", "").replace(" (%)", "")
                cells = [
                    interval(by_group[group], 1) if "best" in title
                    else interval(by_group[group])
                    for group in SCANNER_GROUPS
                ]  # fmt: skip
                rows.append([condition.replace(" %", "\u00a0%"), f"{words}: {title}", *cells])
    return table(["pulses", "", *SCANNER_GROUPS], rows)


def scanner_magnitude_table() -> str:
    """Accuracy with magnitudes less that with signed signals, in points."""
    groups = ("all", "SNR >= 50", *SCANNER_GROUPS[1:])
    key = "differences (points: value, low, high)"

    def cells(by_group: Any) -> list[str]:
        return [points(by_group[group]) for group in groups]

    differences = scanner_record("networks")[key].get("magnitude less signed", {})
    rows = [
        ["network", condition.replace(" %", "\u00a0%"), *cells(differences[condition])]
        for condition in (pulses(1), pulses(0.9), pulses(0.9, 3), "ranges")
        if condition in differences
    ]
    for title, found in scanner_record("fits").items():
        if title == "n_signals":
            continue
        kind, _, condition = title.partition(", signals of ")
        values = {g: found[g]["difference (points: value, low, high)"] for g in groups}
        rows.append([kind, condition, *cells(values)])
    return table(["method", "pulses", *(group.replace(">=", "≥") for group in groups)], rows)


def scanner_fits_table() -> str:
    """Count accuracy of fits to signed signals, with and without the efficiency of each voxel."""
    rows = [
        [title.replace(", signals of", " on signals of")]
        + [pct(found[group]["signed"]) for group in SCANNER_GROUPS]
        for title, found in scanner_record("fits").items()
        if title != "n_signals"
    ]
    return table(["signed signals", *SCANNER_GROUPS], rows)


def points(found: Sequence[float]) -> str:
    """A difference in points with its interval."""
    value, low, high = (f"{each:+.1f}" for each in found)
    return f"{value} {between(low, high)}"


def scanner_difference(key: str, condition: str, group: str = "all") -> str:
    """A difference of two networks in points, with its interval."""
    name = "differences (points: value, low, high)"
    return points(scanner_record("networks")[name][key][condition][group])


def scanner_changes_table() -> str:
    """Models of ideal signals on their own data sets with one change each."""
    found = scanner_record("changes")
    rows = [
        [f"`{name}`", change, pct(row["accuracy"]), pct(row["more than one"]),
         f"{row['calibration error']:.3f}"]
        for name, changes in found.items()
        for change, row in changes.items()
    ]  # fmt: skip
    return table(["model", "change of its data", "how many", "more than one",
                  "calibration error"], rows)  # fmt: skip


def trust_table() -> str:
    """Calibration, abstention and novelty of the shipped models."""
    trust = record("trust")

    def row(title: str, cell: Any) -> list[str]:
        return [title, *(cell(trust[dataset]) for dataset in DATASETS)]

    def answered(level: str) -> Any:
        def cell(found: Any) -> str:
            entry = found["model"]["thresholds"][level]
            return f"{pct(entry['coverage'], 0)}\u00a0% ({entry['threshold']:g})"

        return cell

    def flagged(case: str) -> Any:
        return lambda found: f"{pct(found['detector']['cases'][case]['flagged'])}\u00a0%"

    rows = [
        row(
            "calibration error, all signals",
            lambda found: f"{found['model']['calibration error']:.4f}",
        ),
        row(
            "calibration error, worst noise level",
            lambda f: f"{max(r['calibration_error'] for r in f['model']['by noise level']):.4f}",
        ),
        *(
            row(f"answered at {level.replace('%', ' %')} accuracy (threshold)", answered(level))
            for level in ("70%", "80%", "90%")
        ),
        row(
            "false alarms of the detector",
            lambda found: f"{pct(found['detector']['false alarms']['all'], 2)}\u00a0%",
        ),
    ]
    cases = [case for case in trust["midl2024"]["detector"]["cases"] if "false alarms" not in case]
    rows += [row(f"flagged: {case}", flagged(case)) for case in cases]
    return table(["", *(f"`{dataset}`" for dataset in DATASETS)], rows)


SPATIAL_ENDS = ("voxel by voxel", "oracle: true parcel averaged")
SPATIAL_CALIBRATION_HEAD = (
    "", "how many (%)", "mean confidence (%)", "best temperature", "calibration error"
)  # fmt: skip
# whose probabilities are nearly the same in a parcel
SPATIAL_CONSTANT = (
    "SpatialClassifier, average", "SpatialClassifier, average+field", SPATIAL_ENDS[1]
)  # fmt: skip


def measured(case: str, key: str) -> Any:
    """An entry of a case in the record "measured"."""
    return record("measured")["cases"][case][key]


def spatial(method: str, key: str, condition: str = "3 %") -> Any:
    """A figure of a method in the record "spatial"; the mean over its phantoms."""
    found = record("spatial")["conditions"][condition]["methods"][method][key]
    return found["mean"] if isinstance(found, dict) else found


def spatial_conditions() -> list[str]:
    """Conditions of the record "spatial"."""
    return list(record("spatial")["conditions"])


def spatial_calibration(found: Any, which: str = "", right: bool = True) -> str:
    """Calibration errors in both questions, and in brackets those expected of right ones."""
    cells = []
    for key in ("how many", "more than one"):
        cell = f"{found[f'calibration error{which}, {key}']:.3f}"
        expected = f"calibration error{which} of right probabilities, {key}"
        if right and expected in found:  # older records have none
            cell += f"\u00a0({found[expected]:.3f})"
        cells.append(cell)
    return SLASH.join(cells)


def spatial_pure_table() -> str:
    """Calibration of all voxels of shapes, and of those that are wholly in one of them."""
    rows = []
    for method, found in record("spatial_calibration")["conditions"]["shapes"]["methods"].items():
        if method in SPATIAL_CONSTANT:
            for which, title in (("", "all voxels"), (" of pure voxels", "pure voxels")):
                rows.append(
                    [
                        f"{method}, {title}",
                        f"{found[f'how many (%){which}']:.1f}",
                        f"{found[f'mean confidence (%){which}']:.1f}",
                        f"{found[f'best temperature{which}']:g}",
                        spatial_calibration(found, which),
                    ]
                )
    return table(SPATIAL_CALIBRATION_HEAD, rows)


def spatial_many(condition: str, key: str, method: str = "") -> Any:
    """A figure of a condition, or of a method in it, in the record "spatial_calibration"."""
    found = record("spatial_calibration")["conditions"][condition]
    return found["methods"][method][key] if method else found[key]


def spatial_many_table(condition: str) -> str:
    """Accuracy, confidence, and calibration errors in the record "spatial_calibration"."""
    methods = record("spatial_calibration")["conditions"][condition]["methods"]
    rows = [
        [
            method,
            f"{found['how many (%)']:.1f}",
            f"{found['mean confidence (%)']:.1f}",
            f"{found['best temperature']:g}",
            spatial_calibration(found, right=method in SPATIAL_CONSTANT),
        ]
        for method, found in methods.items()
    ]
    return table(SPATIAL_CALIBRATION_HEAD, rows)


def spatial_table(condition: str) -> str:
    """Accuracy, share of the gap, borders, lesions and calibration of all methods."""
    rows = []
    methods = record("spatial")["conditions"][condition]["methods"]
    first, last = (methods[end] for end in SPATIAL_ENDS)
    for method, found in methods.items():
        row = [method]
        for key in ("how many", "more than one"):
            value = found[f"{key} (%)"]
            row.append(f"**{value['mean']:.1f}** ± {value['error']:.1f}")
        for key in ("how many", "more than one"):
            share = found[f"share of the gap closed, {key} (%)"]
            gap = last[f"{key} (%)"]["mean"] > first[f"{key} (%)"]["mean"]
            shown = f"{share:.0f}\u00a0%" if gap else "no gap"
            row.append("" if method in SPATIAL_ENDS else shown)
        row += [
            SLASH.join(
                f"{found[f'{key}, within a voxel of a border (%)']['mean']:.1f}"
                for key in ("how many", "more than one")
            ),
            f"{found['Dice coefficient of lesions'].get('mean', float('nan')):.2f}",
            spatial_calibration(found, right=method in SPATIAL_CONSTANT and "head" not in condition)
            if "calibration error, how many" in found
            else "labels only",
        ]
        rows.append(row)
    head = ["how many (%)", "more than one (%)", "gap, how many", "gap, more than one",
            "at borders (%)", "Dice of lesions", "calibration error"]  # fmt: skip
    return table([condition.replace(" %", "\u00a0%"), *head], rows)


def speed(panel: str, threads: int = 1) -> float:
    """Signals per second in the panel of threads of scaling.json."""
    runs = record("scaling")["threads"][panel]
    return float(next(run["signals per second"] for run in runs if run["threads"] == threads))


def thousands(value: float, step: int = 1_000) -> str:
    """A number of signals, rounded."""
    return f"{round(value / step) * step:,}"


def sizing_table() -> str:
    """Memory and time for 10^6 to 10^10 signals."""

    def memory(n: float, each: float) -> str:
        size = n * each
        units = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"))
        unit, word = next((u, w) for u, w in units if size >= u)
        return f"{size / unit:.3g} {word}"

    def duration(seconds: float) -> str:
        for unit, word in ((3600, "h"), (60, "min")):
            if seconds >= unit:
                return f"{seconds / unit:.1f} {word}"
        return f"{seconds:.1f} s"

    sizes = (1e6, 1e8, 1e10)
    simulate, predict = speed("simulation"), speed("CNN, prediction")
    train = speed("CNN, epoch, numba")
    rows = [
        ["their memory", *(memory(n, 256) for n in sizes)],
        ["tissue table (12 columns, float64)", *(memory(n, 96) for n in sizes)],
        ["simulate, one core", *(duration(n / simulate) for n in sizes)],
        ["simulate, 100 workers", "", *(duration(n / simulate / 100) for n in sizes[1:])],
        ["predict, one core", *(duration(n / predict) for n in sizes)],
        ["train for one epoch, one core, kernels", *(duration(n / train) for n in sizes)],
        ["`chunk_rows`", "none needed", "250,000 (64\u00a0MB)", "1,000,000 (256\u00a0MB)"],
        ["chunks; time to build the lazy arrays", "", "400; 1 s", "10,000; 30 s"],
    ]
    return table(["signals", "10⁶", "10⁸", "10¹⁰"], rows)


def search_ratio(name: str) -> str:
    """Time of a search over that of one process with one thread."""
    found = record("search_scaling")["ratio of its time to that of one thread"][name]
    return f"{found['median']:.2f}"


def map_speed_table() -> str:
    """Times and memory of maps, by size of the image."""
    rows = [
        [
            f"{run['voxels']:,}", f"{run['voxels with a signal']:,}", run.get("type", "float32"),
            str(run["threads"]), f"{run['processor seconds']:.0f}\u00a0s",
            f"{run['wall seconds']:.0f}\u00a0s (load {run['load average']:.0f})",
            f"{run['peak memory in bytes'] / 1e9:.2f}\u00a0GB",
        ]
        for run in record("map_speed")["runs"].values()
    ]  # fmt: skip
    head = ["voxels", "with a signal", "type", "threads", "processor time", "wall time",
            "peak memory"]  # fmt: skip
    return table(head, rows)


def map_speed_largest() -> str:
    """Sentence on the processor time of 10^8 voxels with signals, measured or expected."""
    runs = record("map_speed")["runs"]
    run = runs.get("100000000, 100000000 with a signal")
    if run is not None:
        return (
            f"10\u2078 voxels with a signal took {run['processor seconds'] / 60:.0f}\u00a0min of "
            f"one core, with {run['peak memory in bytes'] / 1e9:.2f}\u00a0GB at most."
        )
    run = runs["10000000, 10000000 with a signal"]
    minutes = run["processor seconds"] / run["voxels"] * 1e8 / 60
    return (
        f"At the processor time of 10\u2077 voxels, 10\u2078 voxels with a signal would take "
        f"{minutes:.0f}\u00a0min of one core; they were not run."
    )


def map_speed_rivals() -> str:
    """Processor time of a voxel in loops of fits, beside that of all maps."""
    run = record("map_speed")["runs"]["1000000, 1000000 with a signal"]
    rows = [["`corrsk map`, all maps", f"{run['processor microseconds per voxel']:.0f}", ""]]
    for name, each in run["curve_fit, processor microseconds per voxel"].items():
        ratio = run["ratio of curve_fit to all maps"][name]
        rows.append([f"`curve_fit`, {name}", f"{each:,.0f}", f"{ratio:.0f}"])
    return table(["", "processor time of a voxel, \u00b5s", "times as long"], rows)


CONTEXT = {
    name: value
    for name, value in globals().items()
    if callable(value) and getattr(value, "__module__", "") == __name__ and name[0] != "_"
}


def render(app: Any, docname: str, source: list[str]) -> None:
    """Fill a page with the figures of the records."""
    if docname.startswith(("gallery", "reference")) or "{{" not in source[0]:
        return
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    source[0] = environment.from_string(source[0]).render(CONTEXT)


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("source-read", render)
    return {"parallel_read_safe": True}
