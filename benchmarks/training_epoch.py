"""A training epoch of the classifier against a bare torch loop and plain skorch.

All three train the same network (with standardised input) with AdamW on the
same signals and batch size. The bare loop permutes and takes whole batches; the
plain skorch net has its default loader, which indexes sample by sample. The
classifier's time is that of its whole `fit`, checks and set-up included, over
the number of epochs. Targets: at most 1.15 times the bare loop; plain skorch at
least 1.5 times slower.
"""

from __future__ import annotations

import math

import torch
from _measure import paired_rounds, ratio, record
from skorch import NeuralNetClassifier
from torch.nn import functional as F

from corrsk import CorrelationCNNClassifier, make_correlation_signals
from corrsk.networks import CorrelationCNN, StandardizedNetwork

N_SIGNALS = 140_000
EPOCHS = 3
ROUNDS = 5


def main() -> None:
    X, y = make_correlation_signals(N_SIGNALS, random_state=0)
    signals, targets = torch.from_numpy(X), torch.from_numpy(y - 1)

    def network() -> StandardizedNetwork:
        return StandardizedNetwork(CorrelationCNN(dropout=0.0), signals.mean(0), signals.std(0))

    def bare_torch(batch_size: int) -> None:
        net = network()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
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

    def classifier(batch_size: int) -> None:
        CorrelationCNNClassifier(
            max_epochs=EPOCHS, batch_size=batch_size, device="cpu", verbose=False
        ).fit(X, y)

    def plain_skorch(batch_size: int) -> None:
        NeuralNetClassifier(
            network(), criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.AdamW, lr=0.01,
            max_epochs=EPOCHS, batch_size=batch_size, iterator_train__shuffle=True,
            train_split=None, verbose=0,
        ).fit(X, y - 1)  # fmt: skip

    results = {}
    for batch_size in (500, 2000):
        times = paired_rounds(
            {
                "bare torch": lambda size=batch_size: bare_torch(size),
                "classifier": lambda size=batch_size: classifier(size),
                "plain skorch": lambda size=batch_size: plain_skorch(size),
            },
            ROUNDS,
        )
        results[f"batch size {batch_size}"] = {
            "seconds per epoch": {
                name: [round(t / EPOCHS, 3) for t in row] for name, row in times.items()
            },
            "ratio of the classifier to bare torch": ratio(times, "classifier", "bare torch"),
            "ratio of plain skorch to the classifier": ratio(times, "plain skorch", "classifier"),
        }
    record("training_epoch", {"n_signals": N_SIGNALS, "epochs": EPOCHS, **results})


if __name__ == "__main__":
    main()
