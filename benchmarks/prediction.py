"""Prediction of 10^6 signals: its memory and its speed against one bare forward pass.

The memory is what the process's peak grows by during `predict_proba`, beside the
size of the probabilities that it returns. The rival pushes all signals through
the network in a single bare torch call, which is the simplest thing to write. Then the
models that come with corrsk: target 50,000 signals a second on two cores.
"""

from __future__ import annotations

import resource
import sys

import torch
from _measure import paired_rounds, ratio, record, seconds

from corrsk import (
    CorrelationCNNClassifier,
    load_pretrained,
    make_correlation_signals,
    pretrained_names,
)

N_SIGNALS = 1_000_000
ROUNDS = 3


def peak_bytes() -> int:
    """Peak memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    X, y = make_correlation_signals(N_SIGNALS, random_state=0)
    model = CorrelationCNNClassifier(max_epochs=1, random_state=0, device="cpu", verbose=False)
    model.fit(X[:20_000], y[:20_000])
    model.predict_proba(X[:20_000])
    before = peak_bytes()
    probabilities = model.predict_proba(X)
    grown = peak_bytes() - before

    shipped = {}
    for name in pretrained_names():
        pipeline, before = load_pretrained(name), peak_bytes()
        took = min(seconds(lambda model=pipeline: model.predict_proba(X)) for _ in range(ROUNDS))
        shipped[name] = {
            "signals per second": round(N_SIGNALS / took),
            "peak memory grows by (MB)": round((peak_bytes() - before) / 1e6, 1),
        }
    network = model.net_.module_

    def single_call() -> None:
        with torch.inference_mode():
            torch.softmax(network(torch.from_numpy(X)), dim=1)

    times = paired_rounds(
        {"corrsk": lambda: model.predict_proba(X), "one call": single_call}, ROUNDS
    )
    record(
        "prediction",
        {
            "n_signals": N_SIGNALS,
            "signals per second": round(N_SIGNALS / min(times["corrsk"])),
            "peak memory grows by (MB)": round(grown / 1e6, 1),
            "of which the probabilities (MB)": round(probabilities.nbytes / 1e6, 1),
            "one call grows it by (MB)": round((peak_bytes() - before) / 1e6, 1),
            "ratio of corrsk's time to one call's": ratio(times, "corrsk", "one call"),
            "models that come with corrsk": shipped,
        },
    )


if __name__ == "__main__":
    main()
