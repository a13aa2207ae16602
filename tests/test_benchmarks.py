"""Runner and records of the benchmarks, and the scaling benchmark with small data."""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from corrsk._utils.files import read_json
from tests._helpers import ROOT

FOLDER = ROOT / "benchmarks"
FILES = {path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")}


@pytest.fixture
def runner(monkeypatch):
    """The module that ``python -m benchmarks`` runs."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.__main__")


@pytest.fixture
def measure(monkeypatch, tmp_path):
    """The module shared by the benchmarks, with a temporary folder for results."""
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("_measure")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


def write(folder: Path, **scripts: str) -> None:
    for name, body in scripts.items():
        text = f'"""What {name} measures.\n\nMore of it.\n"""\n{body}\n'
        (folder / f"{name}.py").write_text(text, encoding="utf-8")


def test_the_list_has_every_benchmark_with_a_description():
    listed = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--list"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    rows = dict(line.split(maxsplit=1) for line in listed)
    assert set(rows) == FILES
    assert rows["simulation"].startswith("Simulation of 10^6 signals")


def test_the_scripts_for_comparison_exist(runner):
    assert set(runner.YARDSTICKS) <= FILES
    assert set(runner.YARDSTICKS).isdisjoint(runner.NEED_GPU)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["simulation", "simulaton"], f"simulaton; known: {', '.join(sorted(FILES))}"),
        (["--all", "simulation"], "accepts no names"),
    ],
)
def test_a_wrong_command_is_refused_before_any_run(runner, monkeypatch, capsys, argv, told):
    monkeypatch.setattr(runner, "run", lambda names: pytest.fail(f"ran {names}"))
    with pytest.raises(SystemExit) as stopped:
        runner.main(argv)
    assert stopped.value.code == 2
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("gpu", [True, False])
def test_gpu_benchmarks_run_by_default_if_a_gpu_is_available(runner, monkeypatch, tmp_path, gpu):
    ran = []
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    monkeypatch.setattr(runner, "has_gpu", lambda: gpu)
    monkeypatch.setattr(runner, "run", lambda names: ran.append(names) or [])
    write(tmp_path, **dict.fromkeys([*runner.YARDSTICKS, *runner.NEED_GPU, "ceiling"], ""))
    on_gpu = set(runner.NEED_GPU) if gpu else set()
    for argv, others in [
        ([], set(runner.YARDSTICKS)),
        (["--all"], {*runner.YARDSTICKS, "ceiling"}),
    ]:
        assert runner.main(argv) == 0
        assert set(ran[-1]) == others | on_gpu
    runner.main(["gpu", "ceiling", "gpu"])
    assert ran[-1] == ["gpu", "ceiling"]  # named benchmarks run once


def test_the_page_of_speed_has_the_figures_of_the_records(runner, monkeypatch, tmp_path):
    table = importlib.import_module("benchmarks._table")
    text = table.PAGE.read_text(encoding="utf-8")
    assert table.replaced(text) == text, "run python -m benchmarks --table"
    before, figures = text.split(table.FIRST)
    after = figures.split(table.LAST)[1]
    monkeypatch.setattr(table, "PAGE", tmp_path / "speed.md")
    table.PAGE.write_text(f"{before}{table.FIRST}\nold\n{table.LAST}{after}", encoding="utf-8")
    assert runner.main(["--table"]) == 0
    assert table.PAGE.read_text(encoding="utf-8") == text
    with pytest.raises(ValueError, match="no part between"):
        table.replaced("no marks")


def test_a_benchmark_that_fails_does_not_stop_the_others(runner, monkeypatch, tmp_path, capfd):
    write(
        tmp_path,
        broken="raise SystemExit(3)",
        sound="import pathlib; pathlib.Path(__file__).with_name('ran').touch()",
    )
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    assert runner.main(["broken", "sound"]) == 1
    assert (tmp_path / "ran").exists()
    told = capfd.readouterr().out
    assert "== sound: What sound measures.\n" in told
    assert "failed, exit status 3" in told
    assert runner.main(["sound"]) == 0


def test_each_benchmark_runs_in_its_own_process(runner, monkeypatch, tmp_path):
    body = (
        "import os, pathlib\n"
        "pathlib.Path(__file__).with_suffix('.pid').write_text(str(os.getpid()))"
    )
    write(tmp_path, one=body, two=body)
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    runner.main(["one", "two"])
    pids = {(tmp_path / f"{name}.pid").read_text() for name in ("one", "two")}
    assert len(pids | {str(os.getpid())}) == 3


def test_a_record_has_date_machine_and_versions(measure, capsys):
    before = datetime.now(UTC).date().isoformat()
    measure.record("quick", {"ratio": 1.5})
    after = datetime.now(UTC).date().isoformat()
    written = read_json(measure.RESULTS / "quick.json")
    assert json.loads(capsys.readouterr().out) == written
    assert written["command"] == "python benchmarks/quick.py"
    assert before <= written["date"] <= after
    assert written["ratio"] == 1.5
    machine = written["machine"]
    assert machine["cores"] == os.cpu_count()
    assert machine["processor"] == measure.processor() != ""
    assert {"architecture", "system", "python", *measure.PACKAGES} < set(machine)
    assert platform.node() not in json.dumps(written)
    assert written["load average before"] >= 0
    assert written["commit"] is None or re.fullmatch(r"[0-9a-f]{7,}\+?", written["commit"])


def test_memory_is_measured_per_call(measure):
    # in a process of its own: memory that earlier tests have freed may be used again
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from _measure import memory_of
kept = np.ones(30_000_000)  # an earlier peak
del kept
made, grown = memory_of(lambda: np.ones(10_000_000))
print(grown / made.nbytes)
"""
    folder = str(Path(measure.__file__).parent)
    found = subprocess.run(
        [sys.executable, "-c", script, folder], capture_output=True, text=True, check=True
    )
    assert 0.9 < float(found.stdout) < 1.2


def test_the_record_has_the_system_name_of_the_processor(measure, monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda *a, **k: "vendor_id\t: A\nmodel name\t: A 9: x\n")
    assert measure.processor() == "A 9: x"
    monkeypatch.setattr(Path, "read_text", lambda *a, **k: "no names\n")
    assert measure.processor() in {measure.platform.processor(), measure.platform.machine()}


def test_a_missing_package_does_not_prevent_a_record(measure, monkeypatch):
    monkeypatch.setattr(measure, "PACKAGES", ("numpy", "no-such-package"))
    measure.record("quick", {})
    machine = read_json(measure.RESULTS / "quick.json")["machine"]
    assert machine["no-such-package"] is None
    assert machine["numpy"]


def test_a_failed_write_keeps_the_earlier_record(measure):
    measure.record("quick", {"ratio": 1})
    with pytest.raises(TypeError):
        measure.record("quick", {"ratio": {1, 2}})
    assert read_json(measure.RESULTS / "quick.json")["ratio"] == 1
    assert [path.name for path in measure.RESULTS.iterdir()] == ["quick.json"]


def test_competitors_alternate_after_a_warm_up_round(measure):
    calls = []
    rivals = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = measure.paired_rounds(rivals, 2)
    assert "".join(calls) == "ababab"
    assert {name: len(row) for name, row in times.items()} == {"a": 2, "b": 2}
    calls.clear()
    measure.paired_rounds(rivals, 1, warm_up="b")
    assert "".join(calls) == "bab"


def test_ratios_are_computed_within_each_round(measure):
    times = {"ours": [1.0, 6.0, 2.0], "theirs": [2.0, 4.0, 2.0]}
    assert measure.ratio(times, "ours", to="theirs") == {
        "min": 0.5, "median": 1.0, "max": 1.5, "best times": 0.5,
    }  # fmt: skip


@pytest.mark.slow
def test_scaling_is_measured_recorded_and_plotted(measure, monkeypatch, tmp_path):
    scaling = importlib.import_module("scaling")
    monkeypatch.setattr(scaling, "FEWEST", 400)
    content = {
        "samples": scaling.over_samples((200, 400), 200, 400, rounds=1),
        "measurements": scaling.over_measurements(((4, 4), (8, 8)), 200, 100, rounds=1),
        "threads": scaling.over_threads((1,), 400, 200, 60, rounds=1),
    }
    measure.record("scaling", content)
    written = read_json(measure.RESULTS / "scaling.json")
    figure = scaling.draw(written)
    figure.savefig(tmp_path / "scaling.png")
    left, middle, _ = figure.axes
    for ax, panel in ((left, "samples"), (middle, "measurements")):
        drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()}
        for name, rows in written[panel].items():
            assert drawn[name] == [[row[panel], row["microseconds per signal"]] for row in rows]
    samples = written["samples"]
    assert [row["samples"] for row in samples["CNN, prediction"]] == [200, 400]
    assert [row["samples"] for row in samples["CNN, epoch, torch"]] == [200]
    assert [row["measurements"] for row in written["measurements"]["MLP, epoch"]] == [16, 64]
    # operations per signal of two convolutions and three linear layers for 64 measurements
    row = written["measurements"]["CNN, epoch, torch"][1]
    assert row["floating-point operations per signal"] == 109_920
    assert row["signals"] == 100
    [took] = row["seconds of each round"]
    assert row["microseconds per signal"] == pytest.approx(1e6 * took / 100, rel=1e-3)
    assert (
        row["of which the epoch itself (microseconds per signal)"] < row["microseconds per signal"]
    )
    row = samples["simulation"][0]  # executed twice, for the duration of 400 signals
    [took] = row["seconds of each round"]
    assert row["microseconds per signal"] == pytest.approx(1e6 * took / 400, rel=1e-3)
    assert written["threads"]["CNN, grid search"][0]["signals"] == 4 * 60 * 2
