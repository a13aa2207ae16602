"""Accuracy over training compute: every network, trained on streams of several lengths.

Each row is a training from scratch on fresh signals, tested on the same 10^5
test signals. Compute is given as signals, as floating-point operations (of the matrix
products and convolutions, forward and backward) and as seconds on this machine.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from _measure import RESULTS, record
from matplotlib.figure import Figure
from sklearn.metrics import log_loss
from torch.utils.flop_counter import FlopCounterMode

from corrsk import SignalStream, load_dataset
from corrsk.evaluation import bootstrap_interval
from corrsk.neural.classifier import classifier_from_recipe

LENGTHS = (250_000, 1_000_000, 4_000_000)
EPOCHS = 10
NETWORKS: dict[str, dict[str, Any]] = {
    "CNN": {"batch_size": 500},
    "MLP, AdamW, standardised": {
        "recipe": "residual-mlp", "input_scaling": "standardize", "optimizer": "adamw",
        "learning_rate": 1e-3,
    },
    "MLP, Muon, standardised": {"recipe": "residual-mlp", "input_scaling": "standardize"},
    "MLP, Muon, half-whitened": {"recipe": "residual-mlp"},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", default="midl2024-low-noise,midl2024")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)))
    options = parser.parse_args()
    kept = RESULTS / "networks.rows.json"  # finished rows, with which a run is resumed
    rows: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []
    for dataset in options.datasets.split(","):
        test = load_dataset(dataset, 100_000, random_state=2)
        for length in map(int, options.lengths.split(",")):
            for name, parameters in NETWORKS.items():
                key = {"dataset": dataset, "network": name, "signals": length}
                if not any(key.items() <= row.items() for row in rows):
                    rows.append(key | trained(dataset, length, parameters, test))
                    kept.write_text(json.dumps(rows))
                    print(rows[-1], flush=True)
    record("networks", {"threads": torch.get_num_threads(), "rows": rows})
    table = pd.DataFrame(rows)
    plot(table).savefig(RESULTS / "networks.png", dpi=120)
    kept.unlink()


def trained(dataset: str, length: int, parameters: dict[str, Any], test: Any) -> dict[str, Any]:
    parameters = dict(parameters)
    recipe = parameters.pop("recipe", "default")
    model = classifier_from_recipe(
        recipe, **parameters, max_epochs=EPOCHS, random_state=0, device="cpu", verbose=False
    )
    start = time.perf_counter()
    model.fit_stream(SignalStream.named(dataset), length)
    took = time.perf_counter() - start
    probabilities = model.predict_proba(test.data)
    right = model.classes_[probabilities.argmax(axis=1)] == test.target
    binary = (probabilities[:, 0] < 0.5) == (test.target > 1)
    low, high = bootstrap_interval([right])
    return {
        "accuracy": float(right.mean()), "low": low, "high": high,
        "binary_accuracy": float(binary.mean()),
        "log_loss": float(log_loss(test.target, probabilities)),
        "seconds": round(took, 1),
        "parameters": sum(p.numel() for p in model.net_.module_.parameters()),
        "flop_per_signal": flop_per_signal(model),
    }  # fmt: skip


def flop_per_signal(model: Any) -> int:
    network = model.net_.module_.train()
    X = torch.zeros(100, model.n_features_in_)
    with FlopCounterMode(display=False) as counter:
        network(X).sum().backward()
    return round(counter.get_total_flops() / len(X))


def plot(table: pd.DataFrame) -> Figure:
    datasets = list(dict.fromkeys(table["dataset"]))
    figure = Figure(figsize=(6.2 * len(datasets), 4.6), layout="constrained")
    for ax, dataset in zip(np.ravel(figure.subplots(1, len(datasets))), datasets, strict=True):
        for name, group in table[table["dataset"] == dataset].groupby("network", sort=False):
            flop = group["signals"] * group["flop_per_signal"]
            ax.plot(flop, 100 * group["accuracy"], "o-", label=name)
        ax.set(
            xscale="log", xlabel="training compute (floating-point operations)",
            ylabel="accuracy, 4 classes (%)", title=dataset,
        )  # fmt: skip
        ax.grid(alpha=0.3)
        ax.legend()
    return figure


if __name__ == "__main__":
    main()
