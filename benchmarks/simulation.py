"""Simulation of 10^6 signals, relative to the time of drawing the noise alone.

The reference draws only the 64 million float32 normals of the noise, with numpy's
fastest generator: on one core, and on every core, where each thread fills its part of the array
in pieces. corrsk draws the normals, simulates the signals and adds both, on every core.
Target: at most 1.5 times the time of the reference on every core. corrsk's normals alone, which
are faster than numpy's, are timed for comparison.

The peak memory is the growth in a fresh process, as a ratio to the size of the returned arrays.
Target: at most 1.2.

If the second core does not speed up numpy in a round, another process, or another guest of the
host, was using that core.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from _measure import in_fresh_process, memory_of, paired_rounds, ratio, record
from numpy.random import SFC64, Generator
from numpy.typing import NDArray

from corrsk import CorrelationSignalGenerator, SignalStream, TissuePrior, load_dataset
from corrsk._utils.rng import fill_with_normals, keyed_generator

N_SIGNALS = 1_000_000
N_NORMALS = 64 * N_SIGNALS
ROUNDS = 9
CORES = os.cpu_count() or 1
PIECE = 2**18
WARM_UP = 10_000  # signals to set up imports and threads, which are not measured
CHUNK = 65_536  # signals that a training draws from a stream at a time


def on_cores(fill: Callable[[NDArray[np.float32], int], None]) -> None:
    """Call ``fill(part, number)`` for each core's part of a new array, in threads."""
    parts = np.array_split(np.empty(N_NORMALS, dtype=np.float32), CORES)
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(fill, parts, range(CORES)))


def numpys_normals(part: NDArray[np.float32], core: int) -> None:
    rng = Generator(SFC64(core))
    for start in range(0, part.size, PIECE):
        rng.standard_normal(dtype=np.float32, out=part[start : start + PIECE])


def corrsks_normals(part: NDArray[np.float32], core: int) -> None:
    for start in range(0, part.size, PIECE):
        fill_with_normals(keyed_generator(core, start), part[start : start + PIECE])


def chunks_of_a_stream(stream: SignalStream) -> None:
    for chunk in range(-(-N_SIGNALS // CHUNK)):
        stream.draw(chunk, min(CHUNK, N_SIGNALS - chunk * CHUNK))


def memory_of_fit_transform() -> tuple[int, int]:
    """Return the size of the output, and the growth of the peak memory."""
    tissue, _ = TissuePrior.named("midl2024").sample(N_SIGNALS, random_state=0)
    generator = CorrelationSignalGenerator(random_state=0)
    generator.fit_transform(tissue[:WARM_UP])
    signals, grown = memory_of(lambda: generator.fit_transform(tissue))
    return signals.nbytes, grown


def memory_of_load_dataset() -> tuple[int, int]:
    load_dataset("midl2024", WARM_UP)
    data, grown = memory_of(lambda: load_dataset("midl2024", N_SIGNALS))
    arrays = [data.data, data.target, data.tissue.to_numpy(), data.train_indices]
    arrays += [data.validation_indices, data.test_indices]
    return sum(array.nbytes for array in arrays), grown


def memory(measure: Callable[[], tuple[int, int]]) -> dict[str, Any]:
    output, grown = in_fresh_process(measure)
    return {
        "output (MB)": round(output / 1e6, 1),
        "peak grows by (MB)": round(grown / 1e6, 1),
        "ratio": round(grown / output, 3),
    }


def main() -> None:
    memories = {
        "fit_transform": memory(memory_of_fit_transform),
        "load_dataset": memory(memory_of_load_dataset),
    }
    tissue, _ = TissuePrior.named("midl2024").sample(N_SIGNALS, random_state=0)
    generator = CorrelationSignalGenerator(random_state=0)
    stream = SignalStream.named("midl2024")
    one_core, all_cores = "normals, numpy SFC64, one core", "normals, numpy SFC64, all cores"
    ours = {
        "CorrelationSignalGenerator.fit_transform": lambda: generator.fit_transform(tissue),
        "load_dataset (tissue, signals, normalisation, split)": lambda: load_dataset(
            "midl2024", N_SIGNALS
        ),
        "SignalStream.draw (tissue, signals, normalisation)": lambda: chunks_of_a_stream(stream),
    }
    times = paired_rounds(
        {
            one_core: lambda: numpys_normals(np.empty(N_NORMALS, dtype=np.float32), 0),
            all_cores: lambda: on_cores(numpys_normals),
            "normals, corrsk, all cores": lambda: on_cores(corrsks_normals),
            "normals, corrsk, one core": lambda: corrsks_normals(
                np.empty(N_NORMALS, dtype=np.float32), 0
            ),
            **ours,
        },
        ROUNDS,
    )
    record(
        "simulation",
        {
            "n_signals": N_SIGNALS,
            "seconds": {name: [round(t, 3) for t in row] for name, row in times.items()},
            "what a second core is worth to each": {
                "numpy": ratio(times, one_core, all_cores),
                "corrsk": ratio(times, "normals, corrsk, one core", "normals, corrsk, all cores"),
            },
            "ratio to the normals on one core": {
                name: ratio(times, name, one_core) for name in ours
            },
            "ratio to the normals on all cores": {
                name: ratio(times, name, all_cores) for name in ours
            },
            "ratio to corrsk's own normals on all cores": {
                name: ratio(times, name, "normals, corrsk, all cores") for name in ours
            },
            "memory": memories,
        },
    )


if __name__ == "__main__":
    main()
