"""Training on a GPU: the paper's full recipe, and the residual MLP on a stream.

- recipe: the published training, 3000 epochs of 700,000 signals in batches of 10,000, by one
  `fit`. Lower bound: the floating-point operations of the network's layers at the rate of torch's
  float32 product of large matrices. Target: 60 seconds, better 25.
- epochs: some epochs of the recipe, with CUDA graphs (backend="auto"), with single torch steps
  (backend="torch"), and with CUDA graphs and a validation after each epoch.
- stream: the residual MLP on fresh signals, on one repeated chunk (without the
  simulation), and with single steps, relative to the matrix products of its layers alone, forward
  and backward, in the precision of the training and in a CUDA graph. Target: at least 0.6 of the
  throughput of these products on fresh signals. The matrix products of Muon, which
  are part of each step, are timed separately.

Without a GPU nothing is measured, and the exit status is 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from _measure import paired_rounds, ratio, record, seconds
from streaming import OneChunk
from torch import Tensor, nn
from training_epoch import OPERATIONS

from corrsk import (
    CorrelationCNNClassifier,
    ResidualMLPClassifier,
    SignalStream,
    make_correlation_signals,
)
from corrsk.neural.gpu.graphs import GRAPHS
from corrsk.neural.networks import ResidualMLP
from corrsk.neural.training.device import resolve_device
from corrsk.neural.training.settings import wants_bfloat16
from corrsk.neural.training.streaming import StreamPlan

Work = Callable[[], object]


def rounded(times: dict[str, list[float]], per: int = 1) -> dict[str, list[float]]:
    return {name: [round(t / per, 5) for t in row] for name, row in times.items()}


def repeated(work: Work, times: int, device: torch.device) -> Work:
    """Return a function that repeats the work, as a graph if possible, and synchronises."""
    if device.type in GRAPHS:
        graphs = GRAPHS[device.type](device)
        with graphs.on_side_stream():
            work()
        work = graphs.capture(work)

    def repeat() -> None:
        for _ in range(times):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return repeat


def float32_rate(device: torch.device, size: int) -> float:
    """Measure the floating-point operations per second of a product of large matrices."""
    a, b = torch.randn(2, size, size, device=device)
    product = repeated(lambda: a @ b, 1, device)
    return 2 * size**3 / min(seconds(product) for _ in range(6))


def recipe(
    device: torch.device,
    n_signals: int = 700_000,
    n_epochs: int = 3000,
    some_epochs: int = 30,
    rounds: int = 3,
    matrix_size: int = 8192,
) -> dict[str, Any]:
    """Measure the seconds of the paper's training, and of some of its epochs."""
    X, y = make_correlation_signals(n_signals, random_state=0)
    X_val, y_val = make_correlation_signals(n_signals * 2 // 7, random_state=1)

    def fit(epochs: int, backend: str = "auto", **validation: Any) -> None:
        CorrelationCNNClassifier.from_recipe(
            "paper", protocol="ir-se-8x8", max_epochs=epochs, backend=backend, device=str(device),
            random_state=0, verbose=False,
        ).fit(X, y, **validation)  # fmt: skip

    epochs = paired_rounds(
        {
            "graphs": lambda: fit(some_epochs),
            "steps one by one": lambda: fit(some_epochs, "torch"),
            "graphs, with validation": lambda: fit(some_epochs, X_val=X_val, y_val=y_val),
        },
        rounds,
    )
    whole = paired_rounds({"whole recipe": lambda: fit(n_epochs)}, rounds, warm_up=())
    rate = float32_rate(device, matrix_size)
    return {
        "n_signals": n_signals,
        "n_epochs": n_epochs,
        "seconds": rounded(whole)["whole recipe"],
        "seconds, floor": round(n_signals * n_epochs * OPERATIONS / rate, 2),
        "float32 products, TFLOP/s": round(rate / 1e12, 2),
        "seconds per epoch": rounded(epochs, per=some_epochs),
        "steps one by one against graphs": ratio(epochs, "steps one by one", "graphs"),
    }


def products_of_layers(network: nn.Module, batch_size: int, dtype: torch.dtype) -> Work:
    """Return a function with the matrix products of a training step of the linear layers."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    operands = []
    for layer in layers:
        weight = layer.weight.detach().to(dtype)
        n_out, n_in = weight.shape
        x = torch.randn(batch_size, n_in, dtype=dtype, device=weight.device)
        operands.append((x, weight, torch.randn(batch_size, n_out, dtype=dtype, device=x.device)))

    def multiply() -> None:
        for k, (x, weight, gradient) in enumerate(operands):
            x @ weight.T
            gradient.T @ x
            if k:  # the gradient of the signals is not needed
                gradient @ weight

    return multiply


def products_of_muon(network: ResidualMLP, dtype: torch.dtype = torch.bfloat16) -> Work:
    """Return a function with the matrix products of a step of Muon: five iterations of three."""
    hidden: list[Tensor] = [p.detach() for p in network.blocks.parameters() if p.ndim == 2]
    matrices = torch.stack(hidden).to(dtype)

    def multiply() -> None:
        for _ in range(5):
            for _ in range(3):
                matrices @ matrices

    return multiply


def stream(device: torch.device, n_signals: int = 20_000_000, rounds: int = 3) -> dict[str, Any]:
    """Measure the throughput of the residual MLP on a stream."""

    def fit(signals: SignalStream, backend: str = "auto") -> None:
        ResidualMLPClassifier.from_recipe(
            backend=backend, device=str(device), random_state=0, verbose=False
        ).fit_stream(signals, n_signals)

    model = ResidualMLPClassifier.from_recipe()
    network = ResidualMLP(64, 4, model.width, model.n_blocks).to(device)
    dtype = torch.bfloat16 if wants_bfloat16(model.precision, device) else torch.float32
    plan = StreamPlan.from_n_samples(n_signals, model.max_epochs, model.batch_size)
    n_signals = plan.n_epochs * plan.epoch_rows  # rounded up to whole batches, as in the fit
    n_steps = n_signals // model.batch_size
    fresh, one_chunk = SignalStream.named("midl2024"), OneChunk.named("midl2024")
    layers = products_of_layers(network, model.batch_size, dtype)
    times = paired_rounds(
        {
            "fresh signals": lambda: fit(fresh),
            "one chunk": lambda: fit(one_chunk),
            "one chunk, steps one by one": lambda: fit(one_chunk, "torch"),
            "products of the layers": repeated(layers, n_steps, device),
            "products of Muon": repeated(products_of_muon(network), n_steps, device),
        },
        rounds,
    )
    return {
        "n_signals": n_signals,
        "batch_size": model.batch_size,
        "precision": str(dtype).removeprefix("torch."),
        "seconds": rounded(times),
        "signals per second, million": {
            name: round(n_signals / min(row) / 1e6, 3) for name, row in times.items()
        },
        "throughput as a part of that of the products of the layers": {
            name: ratio(times, "products of the layers", name)
            for name in ("fresh signals", "one chunk", "one chunk, steps one by one")
        },
    }


def main() -> int:
    if not torch.cuda.is_available():
        print("no GPU is available: nothing was measured or written", file=sys.stderr)
        return 1
    device = resolve_device("cuda")
    results = {"recipe": recipe(device), "stream": stream(device)}
    gpu = {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    record("gpu", gpu | results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
