"""Simulation of 10^6 signals against the time that their noise alone takes.

The rival draws the 64 million float32 normals of the noise, on one core, with
numpy's fastest generator; corrsk draws them, simulates the signals and adds the
two, on every core. Target: at most 1.5 times the rival's time.
"""

from __future__ import annotations

import numpy as np
from _measure import paired_rounds, ratio, record
from numpy.random import SFC64, Generator

from corrsk import CorrelationSignalGenerator, TissuePrior, load_dataset

N_SIGNALS = 1_000_000
ROUNDS = 9


def main() -> None:
    tissue, _ = TissuePrior.named("midl2024").sample(N_SIGNALS, random_state=0)
    generator = CorrelationSignalGenerator(random_state=0)
    times = paired_rounds(
        {
            "normals alone, numpy SFC64, one core": lambda: Generator(SFC64(0)).standard_normal(
                64 * N_SIGNALS, dtype=np.float32
            ),
            "CorrelationSignalGenerator.fit_transform": lambda: generator.fit_transform(tissue),
            "load_dataset (tissue, signals, normalisation, split)": lambda: load_dataset(
                "midl2024", N_SIGNALS
            ),
        },
        ROUNDS,
    )
    rival, ours, whole = times
    record(
        "simulation",
        {
            "n_signals": N_SIGNALS,
            "seconds": {name: [round(t, 3) for t in row] for name, row in times.items()},
            "ratio of the simulation to the normals alone": ratio(times, ours, rival),
            "ratio of load_dataset to the normals alone": ratio(times, whole, rival),
        },
    )


if __name__ == "__main__":
    main()
