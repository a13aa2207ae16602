"""Figures of speed in docs/results/speed.md, written from the records in results/."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from corrsk._utils.files import read_json, write_atomically

PAGE = Path(__file__).parents[1] / "docs" / "results" / "speed.md"
RESULTS = Path(__file__).parent / "results"
FIRST = "<!-- written by python -m benchmarks --table -->"
LAST = "<!-- end of what it writes -->"

Record = dict[str, Any]


def read(name: str) -> Record:
    """Read a record by its name."""
    content: Record = read_json(RESULTS / f"{name}.json")
    return content


def spread(found: dict[str, float], digits: int = 2) -> str:
    """Format the median and the range over the rounds."""
    median, low, high = (f"{found[key]:.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({low}..{high})"


def both(found: dict[str, float]) -> list[str]:
    return [spread(found), f"{found['best times']:.2f}"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def paragraph(text: str) -> str:
    return textwrap.fill(
        " ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False
    )


def between(values: Iterable[float], form: str) -> str:
    """Format the smallest and the largest value, or a single one."""
    shown = list(dict.fromkeys(format(value, form) for value in sorted(values)))
    return shown[0] if len(shown) == 1 else f"{shown[0]} to {shown[-1]}"


def training() -> str:
    record = read("training_epoch")
    runs = [each for key, each in record.items() if "batch size" in key]
    faster = "how many times as fast as bare torch"
    compiled = 'backend="numba"'
    rivals = {
        "published script's loop": ("published loop", ""),
        "plain skorch": ("plain skorch", ""),
        '`backend="torch"`': ('backend="torch"', "0.97"),
        f"**`{compiled}`**": (compiled, "4 (one core)"),
    }
    rows = [
        [name, target, *(spread(run[faster][key]) for run in runs)]
        for name, (key, target) in rivals.items()
    ]
    sums = [1 / run["ratio of each to bare torch"]["direct sums"]["median"] for run in runs]
    rows.append(
        ["direct sums of its layers at the rate of large matrix products", ""]
        + [f"{each:.2f}" for each in sums]
    )
    best = {
        (run["threads"], run["batch size"]): min(run["seconds per epoch"][compiled]) for run in runs
    }
    gained = ", ".join(
        f"{best[1, size] / took:.2f} times as fast as one at batch {size:,}"
        for (threads, size), took in best.items()
        if threads > 1
    )
    head = ["", "target", *map(in_words, runs)]
    return "\n\n".join(
        [
            paragraph(f"""
            **Training** the paper's CNN, epochs of {record["n_signals"]:,} signals: how many times
            as fast as bare torch (whole batches, AdamW) does them;
            {source(record, "training_epoch")}:"""),
            table(head, rows),
            paragraph(f"""
            All cores through the kernels, best times: {gained} (target 1.7)."""),
        ]
    )


def grids() -> str:
    record = read("training_grids")
    sizes: dict[str, list[str]] = {}
    for run in (each for key, each in record.items() if "batch size" in key):
        grid = " x ".join(map(str, run["grid"]))
        sizes.setdefault(grid, []).append(spread(run["how many times as fast as bare torch"]))
    batches = dict.fromkeys(
        each["batch size"] for key, each in record.items() if "batch size" in key
    )
    return "\n\n".join(
        [
            paragraph(f"""
            **Other grids**: how many times as fast as bare torch the kernels take a step (gradients
            and AdamW), in processor time of one thread, which includes nothing else of a `fit`.
            The first call compiles them, {record["compilation, s of processor time"]:.0f} s of
            processor time; `python benchmarks/training_epoch.py --grids` ({record["date"]}, at
            {record["commit"]}):"""),
            table(
                ["grid", *(f"batch {size:,}" for size in batches)],
                [[grid, *ratios] for grid, ratios in sizes.items()],
            ),
        ]
    )


def in_words(run: Record) -> str:
    cores = {1: "one core", 2: "two cores"}.get(run["threads"], f"{run['threads']} cores")
    return f"{cores}, batch {run['batch size']:,}"


def simulation() -> str:
    record = read("simulation")
    names = {
        "`CorrelationSignalGenerator`": "CorrelationSignalGenerator.fit_transform",
        "`load_dataset`: tissue, normalisation and split as well": (
            "load_dataset (tissue, signals, normalisation, split)"
        ),
        "chunks of a `SignalStream`": "SignalStream.draw (tissue, signals, normalisation)",
    }
    numpys, own = "ratio to the normals on all cores", "ratio to corrsk's own normals on all cores"
    rows = [
        [name, *both(record[numpys][key]), *both(record[own][key])] for name, key in names.items()
    ]
    head = ["", "numpy's `SFC64` (target 1.5)", "best times", "corrsk's normals", "best times"]
    memory = [kind["ratio"] for kind in record["memory"].values()]
    return "\n\n".join(
        [
            paragraph(f"""
            **Simulating** 10^6 signals: its time over that of drawing their 64 million float32
            normals and no more, on all cores both; {source(record, "simulation")}:"""),
            table(head, rows),
            paragraph(f"""
            The peak of memory grows by {between(memory, ".2f")} times the size of what comes out
            (target 1.2)."""),
        ]
    )


def echo_trains() -> str:
    record = read("echo_trains")
    found = record["ratio to Eq. 1"]
    most = "echo trains, slice profile, B1 and inversion efficiency of each voxel"
    table = record["processor seconds of the table of another train"]
    return paragraph(f"""
        **Echo trains**: simulating {record["n_signals"]:,} signals of 8 inversion times x 8 echoes
        of a train takes {spread(found["echo trains"])} times as long as those of Eq. 1 on one core,
        and with a slice profile, and B1 and inversion efficiency of each voxel,
        {spread(found[most])} times (target {record["target"]:g}); an inversion efficiency of each
        voxel alone {spread(found["inversion efficiency of each voxel"])} times. The table of a
        train, from which the echoes are interpolated, takes {table:.1f} s once;
        {source(record, "echo_trains")}.""")


def streams() -> str:
    record = read("streaming")
    names = {
        "residual MLP": "the residual MLP",
        "CNN": 'the CNN at batch 2000, `backend="torch"`',
        "CNN, compiled kernels": 'the same, `backend="numba"`',
    }
    rows = [
        [
            words,
            spread(record[key]["ratio of fresh signals to one chunk"]),
            spread(record[key]["ratio of the simulation to the training"]),
            f"{record[key]['signals per second']:,}",
        ]
        for key, words in names.items()
    ]
    head = ["", "time", "of the simulation alone", "signals per second"]
    return "\n\n".join(
        [
            paragraph(f"""
            **Fresh signals**, simulated while the network trains: time over that of training on
            one chunk again and again (target 1.3), on all cores;
            {source(record, "streaming")}:"""),
            table(head, rows),
        ]
    )


def searches() -> str:
    record = read("grid_search")
    torch, compiled = "backend='torch'", "backend='numba'"
    faster = record["how many times as fast as plain skorch"]
    differs = record["mean difference of a candidate's score from plain skorch's"]
    return paragraph(f"""
    **A grid search** of {record["fits"] // 3} candidates x 3 folds on {record["n_signals"]:,}
    signals ({record["epochs"]} epochs, batch {record["batch size"]:,}) in `GridSearchCV(n_jobs=2)`,
    against the same around plain skorch: {spread(faster[torch])} times as fast through torch
    (target 1.6), **{spread(faster[compiled])}** times through the kernels (target 4). A
    candidate's score differs from plain skorch's by {differs[torch]:.3f} and
    {differs[compiled]:.3f} in the mean, that of another seed by {differs["another seed"]:.3f};
    {source(record, "grid_search")}.""")


def prediction() -> str:
    record = read("prediction")
    models = list(record["models that come with corrsk"].values())
    runtime = list(record["their networks in ONNX Runtime"].values())
    took = record["ratio of corrsk's time to one call's"]
    differs = max(each["largest difference of a probability"] for each in runtime)

    def of(records: list[Record], key: str, form: str) -> str:
        return between((each[key] for each in records), form)

    return paragraph(f"""
    **Predicting** 10^6 signals with the CNN takes {spread(took)} of the time of one forward pass
    of them all, and adds {record["peak memory grows by (MB)"]:.0f} MB to the peak of memory,
    {record["of which the probabilities (MB)"]:.0f} of them its result, where that pass adds
    {record["one call grows it by (MB)"]:,.0f}. The shipped models answer
    {of(models, "signals per second", ",")} signals a second (target 50,000) and add
    {of(models, "peak memory grows by (MB)", ".0f")} MB, 256 of them the normalised copy; a single
    signal takes them {of(models, "latency (ms)", ".1f")} ms, and their networks alone
    {of(runtime, "latency of corrsk (ms)", ".2f")} ms. In ONNX Runtime (`to_onnx`, extra `onnx`)
    these answer {of(runtime, "signals per second", ",")} signals a second and a single one in
    {of(runtime, "latency (ms)", ".2f")} ms, with the same probabilities to {differs:.0e} (target
    1e-5); {source(record, "prediction")}.""")


def source(record: Record, name: str) -> str:
    return f"`python -m benchmarks {name}` ({record['date']}, at {record['commit']})"


def written() -> str:
    """Return the whole generated part, between its marks."""
    parts = (training(), grids(), simulation(), echo_trains(), streams(), searches(), prediction())
    return "\n\n".join([FIRST, *parts, LAST])


def replaced(text: str) -> str:
    """Replace the figures in the text of the page by those of the records."""
    before, _, rest = text.partition(FIRST)
    _, last, after = rest.partition(LAST)
    if not last:
        raise ValueError(f"the page has no part between {FIRST!r} and {LAST!r}")
    return f"{before}{written()}{after}"


def rewrite() -> None:
    text = replaced(PAGE.read_text(encoding="utf-8"))
    with write_atomically(PAGE) as partial:
        partial.write_text(text, encoding="utf-8")
