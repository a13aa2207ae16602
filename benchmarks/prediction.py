"""Prediction of 10^6 signals: memory and speed, relative to one bare forward pass.

The memory is the growth of the peak of a fresh process during `predict_proba`, beside the
size of the returned probabilities. The reference passes all signals through
the network in a single torch call, which is the simplest implementation. Then the
shipped models (target: 50,000 signals per second on two cores), and their networks
as ONNX files in ONNX Runtime: speed, and the largest difference of a probability (target:
1e-5). The latency is the median time of a call for a single signal.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from _measure import in_fresh_process, memory_of, paired_rounds, ratio, record, seconds

from corrsk import (
    CorrelationCNNClassifier,
    load_pretrained,
    make_correlation_signals,
    pretrained_names,
)
from corrsk.pretrained.models import COUNTS, MODELS

N_SIGNALS = 1_000_000
N_TRAIN = 20_000
N_RUNTIME = 200_000
ROUNDS = 3
CALLS = 300
CHUNK = 2048


def briefly_trained() -> CorrelationCNNClassifier:
    X, y = make_correlation_signals(N_TRAIN, random_state=1)
    model = CorrelationCNNClassifier(
        protocol="ir-se-8x8", max_epochs=1, random_state=0, device="cpu", verbose=False
    )
    return model.fit(X, y)


def single_call(model: CorrelationCNNClassifier, X: Any) -> torch.Tensor:
    """Pass all signals through the network at once."""
    with torch.inference_mode():
        return torch.softmax(model.net_.module_(torch.from_numpy(X)), dim=1)


def signals_for(what: str) -> Any:
    """Simulate signals of a shipped model, or of the data set midl2024."""
    if what in MODELS:
        return MODELS[what].stream().draw(0, N_SIGNALS)[0]
    return make_correlation_signals(N_SIGNALS, random_state=0)[0]


def memory_in_megabytes(what: str) -> float:
    """Measure the growth of the peak memory during a prediction of a model or a single call."""
    X = signals_for(what)
    model = load_pretrained(what) if what in pretrained_names() else briefly_trained()
    model.predict_proba(X[:10_000])  # set up libraries
    rival = what == "one call"
    _, grown = memory_of(lambda: single_call(model, X) if rival else model.predict_proba(X))
    return round(grown / 1e6, 1)


def latency(answer: Any, X: Any) -> float:
    """Median milliseconds of a call for one signal."""
    answer(X[:1])
    return round(
        1e3 * statistics.median(seconds(lambda k=k: answer(X[k : k + 1])) for k in range(CALLS)), 3
    )


def in_onnx_runtime(pipeline: Any, X: Any) -> dict[str, Any]:
    normalised = pipeline[:-1].transform(X)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        pipeline[-1].to_onnx(path)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            path, sess_options=options, providers=["CPUExecutionProvider"]
        )

    def answer(signals: Any) -> Any:
        parts = range(0, len(signals), CHUNK)
        return np.concatenate(
            [session.run(None, {"signals": signals[k : k + CHUNK]})[0] for k in parts]
        )

    # one after the other, not in turns, because the threads of each library spin between calls
    times = {
        who: [seconds(lambda work=work: work(normalised)) for _ in range(ROUNDS)]
        for who, work in (("runtime", answer), ("corrsk", pipeline[-1].predict_proba))
    }
    difference = np.abs(answer(normalised) - pipeline[-1].predict_proba(normalised)).max()
    return {
        "signals per second": round(len(X) / min(times["runtime"])),
        "ratio of corrsk's time to its": ratio(times, "corrsk", "runtime"),
        "latency (ms)": latency(answer, normalised),
        "latency of corrsk (ms)": latency(pipeline[-1].predict_proba, normalised),
        "largest difference of a probability": float(f"{difference:.1e}"),
    }


def main() -> None:
    classifiers = [name for name in pretrained_names() if MODELS[name].kind == COUNTS]
    memory = {
        name: in_fresh_process(memory_in_megabytes, name)
        for name in ("corrsk", "one call", *classifiers)
    }
    X, _ = make_correlation_signals(N_SIGNALS, random_state=0)
    model = briefly_trained()
    times = paired_rounds(
        {"corrsk": lambda: model.predict_proba(X), "one call": lambda: single_call(model, X)},
        ROUNDS,
    )
    shipped = {}
    for name in classifiers:
        pipeline, signals = load_pretrained(name), signals_for(name)
        work = partial(pipeline.predict_proba, signals)
        took = min(seconds(work) for _ in range(ROUNDS))
        shipped[name] = {
            "signals per second": round(N_SIGNALS / took),
            "peak memory grows by (MB)": memory[name],
            "latency (ms)": latency(pipeline.predict_proba, signals),
        }
    record(
        "prediction",
        {
            "n_signals": N_SIGNALS,
            "signals per second": round(N_SIGNALS / min(times["corrsk"])),
            "peak memory grows by (MB)": memory["corrsk"],
            "of which the probabilities (MB)": round(model.predict_proba(X).nbytes / 1e6, 1),
            "one call grows it by (MB)": memory["one call"],
            "ratio of corrsk's time to one call's": ratio(times, "corrsk", "one call"),
            "latency (ms)": latency(model.predict_proba, X),
            "models that come with corrsk": shipped,
            "their networks in ONNX Runtime": {
                name: in_onnx_runtime(load_pretrained(name), signals_for(name)[:N_RUNTIME])
                for name in classifiers
            },
        },
    )


if __name__ == "__main__":
    main()
