"""Tables of the comparison."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from corrsk.evaluation import bootstrap_difference, bootstrap_interval, mcnemar_test
from corrsk.workflows.comparison.models import MODELS, REFERENCE
from corrsk.workflows.comparison.runs import RunResult

_Answers = NDArray[np.bool_]
_QUESTIONS = {"accuracy": "right", "binary_accuracy": "right_binary"}


def results_frame(results: Iterable[RunResult]) -> pd.DataFrame:
    """Table with one row per run: every metric, times and size, or the reason of a failure.

    Parameters
    ----------
    results : iterable of RunResult
        The results.

    Returns
    -------
    DataFrame
        One row per run.
    """
    rows = []
    for result in results:
        content = dict(result.content)
        metrics = content.pop("metrics", {})
        row = {
            "model": result.run.model,
            "n_train": result.run.n_train,
            "seed": result.run.seed,
            "status": result.status,
            "reason": result.reason,
            **{
                key: content.get(key)
                for key in (
                    "n_test",
                    "n_failed",
                    "seconds_fit",
                    "cpu_seconds_fit",
                    "seconds_predict",
                    "size_bytes",
                    "device",
                )
            },
            "threads": content.get("environment", {}).get("threads"),
            "warnings": " | ".join(content.get("warnings", ())),
            **metrics,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def summary_frame(results: Sequence[RunResult]) -> pd.DataFrame:
    """Table with one row per model and training size, summarised over the seeds.

    Parameters
    ----------
    results : sequence of RunResult
        The results.

    Returns
    -------
    DataFrame
        Columns: both accuracies as means over the seeds, with 95 % bootstrap
        intervals (`.._low`, `.._high`) and the extremes over the seeds (`.._min`,
        `.._max`); AUC, log loss and calibration error; seconds of `fit` and signals
        per second of `predict` (medians over the seeds); size, device and threads;
        the difference of the accuracies (`.._vs_cnn`) to the CNN of the same training size
        (for a model-based method: of the largest), on the same test signals of the
        `vs_cnn_seeds` seeds that both models have, with its bootstrap interval and McNemar's p;
        the number of failed voxels; and the reason of failed and skipped runs.
    """
    groups: dict[tuple[str, int], list[RunResult]] = defaultdict(list)
    for result in results:
        groups[result.run.model, result.run.n_train].append(result)
    order = list(MODELS)
    keys = sorted(groups, key=lambda key: (order.index(key[0]), key[1]))
    largest = max(
        (r.run.n_train for r in results if r.run.model == REFERENCE and r.status == "done"),
        default=0,
    )
    return pd.DataFrame(
        [
            _summary_row(
                model, n_train, groups[model, n_train], groups.get((REFERENCE, n_train or largest))
            )
            for model, n_train in keys
        ]
    )


def _summary_row(
    model: str, n_train: int, results: list[RunResult], reference: list[RunResult] | None
) -> dict[str, Any]:
    done = [result for result in results if result.status == "done"]
    row: dict[str, Any] = {
        "model": model, "description": MODELS[model].description, "kind": MODELS[model].kind,
        "n_train": n_train, "n_seeds": len(done),
        "note": "; ".join(
            dict.fromkeys(f"{r.status}: {r.reason}" for r in results if r.status != "done")
        ),
    }  # fmt: skip
    if not done:
        return row
    for metric, answers in _QUESTIONS.items():
        each = [result.content["metrics"][metric] for result in done]
        low, high = bootstrap_interval([getattr(result, answers) for result in done])
        row |= {
            metric: float(np.mean(each)), f"{metric}_low": low, f"{metric}_high": high,
            f"{metric}_min": min(each), f"{metric}_max": max(each),
        }  # fmt: skip
    for metric in ("roc_auc_macro", "binary_roc_auc", "log_loss", "calibration_error"):
        values = [result.content["metrics"][metric] for result in done]
        row[metric] = float(np.mean([np.nan if v is None else v for v in values]))
    speeds = [
        # a coarse clock may measure zero
        result.content["n_test"] / max(result.content["seconds_predict"], 1e-6)
        for result in done
    ]
    row |= {
        "seconds_fit": float(np.median([result.content["seconds_fit"] for result in done])),
        "signals_per_second": float(np.median(speeds)),
        "size_bytes": int(np.median([result.content["size_bytes"] for result in done])),
        "n_test": sum(result.content["n_test"] for result in done),
        "n_failed": sum(result.content["n_failed"] for result in done),
        "device": _distinct(result.content.get("device") for result in done),
        "threads": _distinct(result.content["environment"].get("threads") for result in done),
    }
    theirs = {result.run.seed: result for result in reference or () if result.status == "done"}
    both = [result for result in done if result.run.seed in theirs and model != REFERENCE]
    row["vs_cnn_seeds"] = len(both)
    for metric, answers in _QUESTIONS.items():
        pairs = [
            (getattr(result, answers), getattr(theirs[result.run.seed], answers)) for result in both
        ]
        row |= _against_reference(metric, pairs)
    return row


def _against_reference(metric: str, pairs: list[tuple[_Answers, _Answers]]) -> dict[str, float]:
    """Difference to the reference, its interval and McNemar's p."""
    if not pairs:
        keys = ("vs_cnn", "vs_cnn_low", "vs_cnn_high", "mcnemar_p")
        return {f"{metric}_{key}": float("nan") for key in keys}
    # slow methods are tested on the first test signals only
    pairs = [(ours, theirs[: ours.size]) for ours, theirs in pairs]
    difference, low, high = bootstrap_difference(pairs)
    ours, theirs = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return {
        f"{metric}_vs_cnn": difference, f"{metric}_vs_cnn_low": low,
        f"{metric}_vs_cnn_high": high, f"{metric}_mcnemar_p": mcnemar_test(ours, theirs).p_value,
    }  # fmt: skip


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def noise_frame(results: Iterable[RunResult]) -> pd.DataFrame:
    """Table of accuracies per model, training size and noise level, as means over the seeds.

    Parameters
    ----------
    results : iterable of RunResult
        The results.

    Returns
    -------
    DataFrame
        One row per model, training size and noise level.
    """
    parts = []
    for result in results:
        table = result.content.get("by_noise_level")
        if result.status == "done" and table and table["noise_level"]:
            part = pd.DataFrame(table)
            part.insert(0, "n_train", result.run.n_train)
            part.insert(0, "model", result.run.model)
            parts.append(part)
    if not parts:
        return pd.DataFrame(columns=["model", "n_train", "noise_level"])
    keys = ["model", "n_train", "noise_level"]
    groups = pd.concat(parts).groupby(keys, sort=False)
    table = groups.mean()
    table["n_samples"] = groups["n_samples"].sum()
    return table.reset_index()


def best_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """Select the row of each model's largest finished training size, or else its last row."""
    rows = []
    for _, group in summary.groupby("model", sort=False):
        done = group[group["n_seeds"] > 0]
        rows.append((done if len(done) else group).iloc[-1])
    return pd.DataFrame(rows).reset_index(drop=True)


def readable(summary: pd.DataFrame) -> pd.DataFrame:
    """Format the summary as text, for Markdown and HTML."""
    return pd.DataFrame([_readable_row(row) for row in summary.to_dict(orient="records")])


def _readable_row(row: dict[str, Any]) -> dict[str, str]:
    if not row["n_seeds"]:
        shown = {"count accuracy": one_line(row["note"])}
    else:
        certain = not MODELS[row["model"]].probabilistic
        shown = {
            "count accuracy": _with_interval(row, "accuracy", "%"),
            "binary accuracy": _with_interval(row, "binary_accuracy", "%"),
            "AUC": "-" if certain else f"{row['roc_auc_macro']:.3f}",
            "log loss": "-" if certain else f"{row['log_loss']:.3f}",
            "fit": _seconds(row["seconds_fit"]) if row["n_train"] else "-",
            "predict, signals/s": f"{row['signals_per_second']:,.0f}",
            "size": _bytes(row["size_bytes"]),
            "count, points to CNN": _against(row, "accuracy"),
            "binary, points to CNN": _against(row, "binary_accuracy"),
            "test signals": f"{row['n_test']:,}",
            "seeds": str(row["n_seeds"]),
            "failed": str(int(row["n_failed"])) if row["n_failed"] else "",
        }
    learned = f"{row['n_train']:,}" if row["n_train"] else "-"
    empty = dict.fromkeys(READABLE_COLUMNS, "")
    return empty | {"model": row["model"], "trained on": learned} | shown


# columns that fit a terminal
SHORT_COLUMNS = ["model", "trained on", "count accuracy", "binary accuracy", "fit", "size"]
READABLE_COLUMNS = (
    "model", "trained on", "count accuracy", "binary accuracy", "AUC", "log loss", "fit",
    "predict, signals/s", "size", "count, points to CNN", "binary, points to CNN",
    "test signals", "seeds", "failed",
)  # fmt: skip


def one_line(text: str, longest: int = 120) -> str:
    """Return the first line of a message, shortened for a table."""
    line = next(iter(text.splitlines()), "").replace("|", "/")
    return line if len(line) <= longest else f"{line[:longest]}.."


def _with_interval(row: dict[str, Any], metric: str, unit: str, sign: str = "") -> str:
    value, low, high = (100 * row[key] for key in (metric, f"{metric}_low", f"{metric}_high"))
    unit = f" {unit}" if unit else ""
    return f"{value:{sign}.1f}{unit} ({low:{sign}.1f}..{high:{sign}.1f})"


def _against(row: dict[str, Any], metric: str) -> str:
    p = row[f"{metric}_mcnemar_p"]
    if np.isnan(p):
        return ""
    shown = "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}"
    return f"{_with_interval(row, f'{metric}_vs_cnn', '', '+')}, {shown}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
