"""Simulation of signals of echo trains, relative to that of single spin echoes.

10^6 signals of 8 inversion times x 8 echoes, on one core: Eq. 1 of the paper, and echo trains of a
slice profile, with a transmit field (B1) and an inversion efficiency of each voxel. Both have the
tissue of the same prior; the protocols have the same times. Target: at most 5 times the processor
time of Eq. 1 in the same round.

The time of the first call includes the table of the echo train, from which all calls interpolate.
Times are those of the process, so that other processes of the machine matter little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _measure import ratio, record

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    EchoTrain,
    Nuisances,
    TissuePrior,
)
from corrsk.physics import SliceProfile, correlation_signals

N_SIGNALS = 1_000_000
ROUNDS = 7
SPACING = 10.0
TRAIN = EchoTrain(SPACING, refocusing_angle=160.0, profile=SliceProfile(0.99, 1.65, 1.96, 46.0))
TI = (50, 85, 143, 243, 412, 697, 1181, 2000)
TE = SPACING * np.arange(1, 9)
NUISANCES = Nuisances(inversion_efficiency=(0.8, 1.0), b1=(0.8, 1.1))
TARGET = 5.0


def work(
    readout: EchoTrain | None, nuisances: Nuisances | None, n_signals: int
) -> Callable[[], Any]:
    """Return a function that simulates signals."""
    prior = TissuePrior.named("t1t2-detr", nuisances=nuisances)
    tissue, _ = prior.sample(n_signals, random_state=0, n_jobs=1, verbose=False)
    protocol = AcquisitionProtocol.from_grid(ti=TI, te=TE, readout=readout)
    generator = CorrelationSignalGenerator(protocol, random_state=0, n_jobs=1, verbose=False)
    return lambda: generator.fit_transform(tissue)


def processor_seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def seconds_of_table() -> float:
    """Time of the first two signals of an echo train, which is that of its table."""
    train = EchoTrain(SPACING, refocusing_angle=161.0, profile=TRAIN.profile)
    protocol = AcquisitionProtocol.from_grid(ti=TI, te=TE, readout=train)
    tissue = {"T1": np.array([[800.0]] * 2), "T2": np.array([[80.0]] * 2)}
    return processor_seconds(
        lambda: correlation_signals(
            protocol.contrasts, tissue, np.ones((2, 1)), readout=train, b1=np.array([0.8, 1.1])
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--signals", type=int, default=N_SIGNALS, help="number of signals")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    equation_1 = "Eq. 1"
    rivals = {
        equation_1: work(None, None, arguments.signals),
        "inversion efficiency of each voxel": work(
            None, Nuisances(inversion_efficiency=(0.8, 1.0)), arguments.signals
        ),
        "echo trains": work(EchoTrain(SPACING, 160.0), None, arguments.signals),
        "echo trains, slice profile, B1 and inversion efficiency of each voxel": work(
            TRAIN, NUISANCES, arguments.signals
        ),
    }
    first = {name: processor_seconds(call) for name, call in rivals.items()}
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(arguments.rounds):
        for name, call in rivals.items():
            times[name].append(processor_seconds(call))
    record(
        "echo_trains",
        {
            "n_signals": arguments.signals,
            "n_measurements": 64,
            "cores": 1,
            "target": TARGET,
            "processor seconds": {name: [round(t, 3) for t in row] for name, row in times.items()},
            "processor seconds of the first call": {name: round(t, 3) for name, t in first.items()},
            "processor seconds of the table of another train": round(seconds_of_table(), 3),
            "ratio to Eq. 1": {
                name: ratio(times, name, equation_1) for name in rivals if name != equation_1
            },
        },
    )


if __name__ == "__main__":
    main()
