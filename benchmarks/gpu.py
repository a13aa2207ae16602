"""Training on a GPU: the paper's full recipe, and the residual MLP on a stream.

- recipe: the published training, 3000 epochs of 700,000 signals in batches of 10,000, by one
  `fit`. Lower bound: the floating-point operations of the network's layers at the rate of torch's
  float32 product of large matrices. Target: 25 seconds.
- epochs: some epochs of the recipe, with the fused kernels (backend="auto"), with CUDA graphs of
  torch's kernels, with single torch steps (backend="torch"), and with the fused kernels and a
  validation after each epoch.
- steps: microseconds of a step of the fused kernels and of CUDA graphs, in batches of 10,000 and
  of 500, from fits of different length. Targets: 120 and 40.
- stream: the residual MLP on fresh signals, and on one repeated chunk (without the
  simulation), relative to the matrix products of its layers alone, forward
  and backward, in the precision of the training and in a CUDA graph. Target: at least 0.6 of the
  throughput of these products on fresh signals. The matrix products of Muon, which
  are part of each step, are timed separately.

Without a GPU nothing is measured, and the exit status is 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

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
from corrsk.neural.gpu import fused
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


@contextmanager
def without_fused_kernels() -> Iterator[None]:
    with mock.patch.dict(fused.COMPILERS, clear=True):
        yield


def recipe(
    device: torch.device,
    n_signals: int = 700_000,
    n_epochs: int = 3000,
    some_epochs: int = 30,
    rounds: int = 2,
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

    def fit_by_graphs(epochs: int) -> None:
        with without_fused_kernels():
            fit(epochs)

    epochs = paired_rounds(
        {
            "fused kernels": lambda: fit(some_epochs),
            "graphs": lambda: fit_by_graphs(some_epochs),
            "steps one by one": lambda: fit(some_epochs, "torch"),
            "fused kernels, with validation": lambda: fit(some_epochs, X_val=X_val, y_val=y_val),
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
        "seconds per epoch, with the start of a fit": rounded(epochs, per=some_epochs),
        "graphs against fused kernels": ratio(epochs, "graphs", "fused kernels"),
        "steps one by one against fused kernels": ratio(
            epochs, "steps one by one", "fused kernels"
        ),
    }


def steps(device: torch.device, n_steps: int = 2000, rounds: int = 3) -> dict[str, Any]:
    """Measure the microseconds of a training step: a long fit less a short one."""
    found: dict[str, Any] = {}
    for batch_size in (10_000, 500):
        X, y = make_correlation_signals(20 * batch_size, random_state=0)

        def fit(n: int, X: Any = X, y: Any = y, batch_size: int = batch_size) -> None:
            CorrelationCNNClassifier(
                protocol="ir-se-8x8", max_epochs=n // 20, batch_size=batch_size, dropout=0.2,
                device=str(device), random_state=0, verbose=False,
            ).fit(X, y)  # fmt: skip

        for name in ("fused kernels", "graphs"):
            with mock.patch.dict(fused.COMPILERS, clear=name == "graphs"):
                times = paired_rounds(
                    {"long": lambda: fit(n_steps), "short": lambda: fit(n_steps // 5)}, rounds
                )
            spent = min(times["long"]) - min(times["short"])
            found.setdefault(f"batches of {batch_size}", {})[name] = round(
                spent / (n_steps - n_steps // 5) * 1e6, 1
            )
    return found


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


def stream(device: torch.device, n_signals: int = 10_000_000, rounds: int = 2) -> dict[str, Any]:
    """Measure the throughput of the residual MLP on a stream."""

    def fit(signals: SignalStream) -> None:
        ResidualMLPClassifier.from_recipe(
            device=str(device), random_state=0, verbose=False
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
            for name in ("fresh signals", "one chunk")
        },
    }


def main() -> int:
    if not torch.cuda.is_available():
        print("no GPU is available: nothing was measured or written", file=sys.stderr)
        return 1
    device = resolve_device("cuda")
    results = {"recipe": recipe(device), "steps": steps(device), "stream": stream(device)}
    gpu = {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    record("gpu", gpu | results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
