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
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable

import torch
from _measure import paired_rounds, ratio, record, seconds
from skorch import NeuralNetClassifier
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from corrsk import CorrelationCNNClassifier, make_correlation_signals
from corrsk.neural.networks import CorrelationCNN, StandardizedNetwork

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


def main() -> None:
    results = {}
    all_threads = torch.get_num_threads()
    for n_threads in sorted({1, all_threads}):
        torch.set_num_threads(n_threads)
        rate = peak_rate()
        for batch_size in (500, 10_000):
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
