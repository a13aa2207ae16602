"""Training epoch of the paper's CNN, relative to plain torch and skorch.

All train the same network (with standardised input) on the same signals and batch size.

- published loop: as in the script published with the paper, with a TensorDataset, a
  DataLoader that collates signal by signal, SGD, and the loss read after each batch;
- plain skorch, with its default loader;
- bare torch: a loop that permutes the signals and takes whole batches;
- classifier, backend="torch" and backend="numba": the whole `fit`, including validation and
  set-up.

All except the published loop use AdamW. Each runs in one thread and on all cores. "direct sums"
is the time of the direct sums of the network's layers, forward and backward, at the
rate of torch's product of large matrices; Winograd's algorithm needs fewer operations. Targets:
backend="torch" at most 1.03 times bare torch; backend="numba" at least 4 times as fast as bare
torch on one core, and 1.7 times as fast on two cores as on one.

A second part compares single steps (gradients and AdamW) of bare torch and of the compiled kernels
for several grids, in one thread and in processor time, which other processes on the machine change
less than wall time. It also records the processor time of the compilation. --grids runs this part
only. Results: results/training_epoch.json and results/training_grids.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _measure import paired_rounds, ratio, record, seconds
from skorch import NeuralNetClassifier
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from corrsk import CorrelationCNNClassifier, make_correlation_signals
from corrsk.neural.cpu.step import CompiledGradients
from corrsk.neural.networks import CorrelationCNN, StandardizedNetwork
from corrsk.neural.training.settings import ClassifierSettings

GRIDS = ((8, 8), (6, 10), (8, 8, 3), (4, 4), (5, 7), (3, 20), (16, 16))
BATCH_SIZES = (500, 10_000)
STEPS_OF = 10_000  # signals of the steps of a round, at least
N_SIGNALS = 70_000
EPOCHS = 5
ROUNDS = 5
# multiply-adds per signal: two convolutions and three linear layers
FORWARD = 6 * 36 * 9 + 16 * 16 * 54 + 64 * 32 + 32 * 32 + 32 * 4
# each gradient costs as much as the forward pass; that of the signals is not needed
OPERATIONS = 2 * (3 * FORWARD - 6 * 36 * 9)


def peak_rate() -> float:
    """Measure the floating-point operations per second of a product of large matrices."""
    a, b = torch.randn(2, 2048, 2048)
    torch.mm(a, b)
    return 2 * 2048**3 / min(seconds(lambda: torch.mm(a, b)) for _ in range(5))


def rivals(batch_size: int) -> dict[str, Callable[[], object]]:
    X, y = make_correlation_signals(N_SIGNALS, random_state=0)
    signals, targets = torch.from_numpy(X), torch.from_numpy(y - 1)

    def network() -> StandardizedNetwork:
        return StandardizedNetwork(CorrelationCNN(dropout=0.0), signals.mean(0), signals.std(0))

    def published_loop() -> None:
        net = network()
        loader = DataLoader(TensorDataset(signals, targets), batch_size=batch_size, shuffle=True)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        for _ in range(EPOCHS):
            for batch, truth in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(net(batch), truth)
                loss.backward()
                optimizer.step()
                loss.item()

    def bare_torch() -> None:
        net = network()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, fused=True)
        for _ in range(EPOCHS):
            order = torch.randperm(N_SIGNALS)
            for i in range(math.ceil(N_SIGNALS / batch_size)):
                rows = order[i * batch_size : (i + 1) * batch_size]
                optimizer.zero_grad()
                loss = F.cross_entropy(
                    net(signals.index_select(0, rows)), targets.index_select(0, rows)
                )
                loss.backward()
                optimizer.step()

    def classifier(backend: str) -> None:
        CorrelationCNNClassifier(
            protocol="ir-se-8x8",
            max_epochs=EPOCHS,
            batch_size=batch_size,
            backend=backend,
            device="cpu",
            verbose=False,
        ).fit(X, y)

    def plain_skorch() -> None:
        NeuralNetClassifier(
            network(), criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.AdamW, lr=0.01,
            max_epochs=EPOCHS, batch_size=batch_size, iterator_train__shuffle=True,
            train_split=None, verbose=0,
        ).fit(X, y - 1)  # fmt: skip

    found: dict[str, Callable[[], object]] = {
        "published loop": published_loop,
        "plain skorch": plain_skorch,
        "bare torch": bare_torch,
        'backend="torch"': lambda: classifier("torch"),
    }
    if importlib.util.find_spec("numba"):
        found['backend="numba"'] = lambda: classifier("numba")
    return found


def grid_steps(grid_shape: tuple[int, ...], batch_size: int) -> dict[str, Callable[[], object]]:
    """Return some training steps on one batch, in torch and through the kernels."""
    generator = torch.Generator().manual_seed(0)
    n_features = math.prod(grid_shape)
    X = torch.randn(batch_size, n_features, generator=generator)
    y = torch.randint(4, (batch_size,), generator=generator)
    n_steps = -(-STEPS_OF // batch_size)

    def prepared() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        net = StandardizedNetwork.from_signals(CorrelationCNN(4, grid_shape, dropout=0.0), X)
        return net, torch.optim.AdamW(net.parameters(), lr=0.001, fused=True)

    net, optimizer = prepared()

    def in_torch() -> None:
        for _ in range(n_steps):
            optimizer.zero_grad()
            F.cross_entropy(net(X), y).backward()
            optimizer.step()

    settings = ClassifierSettings(
        network="cnn", grid_shape=grid_shape, n_features=n_features, n_classes=4,
        input_scaling="standardize", optimizer="adamw", learning_rate=0.001,
        learning_rate_schedule="constant", weight_decay=0.01, max_epochs=1,
        batch_size=batch_size, precision="float32", backend="numba", patience=None,
        restore_best=False, seed=0,
    )  # fmt: skip
    other, other_optimizer = prepared()

    def compiled() -> None:
        with CompiledGradients(other, settings) as gradients:
            for _ in range(n_steps):
                gradients(X, y)
                other_optimizer.step()

    return {"bare torch": in_torch, 'backend="numba"': compiled}


FIRST_CALL = """
import time
from training_epoch import grid_steps
for _ in range(2):
    start = time.process_time()
    grid_steps((6, 10), 500)['backend="numba"']()
    print(time.process_time() - start)
"""


def first_calls() -> list[float]:
    """Processor seconds of the first and second call, without compiled kernels on the disk."""
    with tempfile.TemporaryDirectory() as cache:
        found = subprocess.run(
            [sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, check=True,
            env={**os.environ, "NUMBA_CACHE_DIR": cache}, cwd=Path(__file__).parent,
        )  # fmt: skip
    return [float(line) for line in found.stdout.split()]


def compare_grids() -> None:
    """Measure the steps of several grids, and write their record."""
    torch.set_num_threads(1)
    results = {}
    for grid_shape in GRIDS:
        for batch_size in BATCH_SIZES:
            times = paired_rounds(
                grid_steps(grid_shape, batch_size), ROUNDS, clock=time.process_time
            )
            each = batch_size * -(-STEPS_OF // batch_size)
            results[f"{' x '.join(map(str, grid_shape))}, batch size {batch_size}"] = {
                "grid": grid_shape,
                "batch size": batch_size,
                "processor time per signal, us": {
                    name: [round(t / each * 1e6, 3) for t in row] for name, row in times.items()
                },
                "how many times as fast as bare torch": ratio(
                    times, "bare torch", 'backend="numba"'
                ),
            }
    first, second = first_calls()
    record(
        "training_grids",
        {
            "command": "python benchmarks/training_epoch.py --grids",
            "compilation, s of processor time": round(first - second, 1),
            **results,
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grids", action="store_true", help="compare the steps of grids only")
    if not parser.parse_args().grids:
        compare_epochs()
    if importlib.util.find_spec("numba"):
        compare_grids()


def compare_epochs() -> None:
    """Measure epochs on the 8 x 8 grid, and write their record."""
    results = {}
    all_threads = torch.get_num_threads()
    for n_threads in sorted({1, all_threads}):
        torch.set_num_threads(n_threads)
        rate = peak_rate()
        for batch_size in BATCH_SIZES:
            times = paired_rounds(rivals(batch_size), ROUNDS)
            per_epoch = {name: [t / EPOCHS for t in row] for name, row in times.items()}
            per_epoch["direct sums"] = [N_SIGNALS * OPERATIONS / rate] * ROUNDS
            results[f"{n_threads} threads, batch size {batch_size}"] = {
                "threads": n_threads,
                "batch size": batch_size,
                "seconds per epoch": {
                    name: [round(t, 3) for t in row] for name, row in per_epoch.items()
                },
                "peak, GFLOP/s": round(rate / 1e9, 1),
                "ratio of each to bare torch": {
                    name: ratio(per_epoch, name, "bare torch") for name in per_epoch
                },
                "how many times as fast as bare torch": {
                    name: ratio(per_epoch, "bare torch", name) for name in times
                },
            }
    record("training_epoch", {"n_signals": N_SIGNALS, "epochs": EPOCHS, **results})


if __name__ == "__main__":
    main()
