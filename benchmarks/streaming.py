"""Training on a stream of fresh signals, relative to training on one repeated chunk.

The repeated chunk is simulated once, so that the ratio is the cost of
the simulation relative to the training step. Target: at most 1.3 on two cores. The same
cores train and simulate, so that the lower bound is one plus the relative time of the simulation
alone, which is timed, too.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from _measure import paired_rounds, ratio, record
from numpy.typing import NDArray

from corrsk import CorrelationCNNClassifier, ResidualMLPClassifier, SignalStream

N_SIGNALS = 655_360
EPOCHS = 2
ROUNDS = 5


class OneChunk(SignalStream):
    """Stream that repeats its first chunk."""

    def draw(
        self, chunk: int, n_samples: int, *, n_jobs: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return first_chunk(n_samples)


@cache
def first_chunk(n_samples: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return SignalStream.named("midl2024").draw(0, n_samples)


def main() -> None:
    stream, one_chunk = SignalStream.named("midl2024"), OneChunk.named("midl2024")
    networks = {
        "residual MLP": ResidualMLPClassifier.from_recipe(),
        "CNN": CorrelationCNNClassifier(batch_size=2000, backend="torch"),
        "CNN, compiled kernels": CorrelationCNNClassifier(batch_size=2000, backend="numba"),
    }
    results = {}
    for name, classifier in networks.items():
        classifier.set_params(max_epochs=EPOCHS, random_state=0, device="cpu", verbose=False)
        times = paired_rounds(
            {
                "fresh signals": lambda model=classifier: model.fit_stream(stream, N_SIGNALS),
                "one chunk": lambda model=classifier: model.fit_stream(one_chunk, N_SIGNALS),
                "simulation alone": lambda: stream.draw(0, N_SIGNALS),
            },
            ROUNDS,
        )
        results[name] = {
            "signals per second": round(N_SIGNALS / min(times["fresh signals"])),
            "ratio of fresh signals to one chunk": ratio(times, "fresh signals", "one chunk"),
            "ratio of the simulation to the training": ratio(
                times, "simulation alone", "one chunk"
            ),
        }
    record("streaming", {"n_signals": N_SIGNALS, **results})


if __name__ == "__main__":
    main()
