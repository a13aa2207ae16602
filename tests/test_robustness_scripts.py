"""The scripts of robustness (kills, load, mutation) notice what they look for."""

from __future__ import annotations

import os
import time

import pytest

from tests import kills, load, mutation

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


def in_two_steps(folder, resumes=True, whole=True):
    """Work that writes a file of two steps; a bad one forgets the first, or writes in place."""
    first = folder / "first"
    if not (resumes and first.exists()):
        first.write_text("1")
    time.sleep(0.15)
    name = "out" if whole else ".out.partial"
    (folder / name).write_text(first.read_text() + "2")
    (folder / name).rename(folder / "out")


def run(task, tmp_path, monkeypatch):
    monkeypatch.setitem(kills.TASKS, "own", task)
    return kills.check("own", 3, 0, tmp_path)


def content(folder):
    return {"out": (folder / "out").read_text()}


@needs_fork
def test_equal_results_are_no_fault(tmp_path, monkeypatch):
    n_running, n_files, faults = run(kills.Task(in_two_steps, content), tmp_path, monkeypatch)
    assert n_running >= n_files
    assert n_running >= 1
    assert faults == []


@needs_fork
def test_other_results_litter_and_failures_are_faults(tmp_path, monkeypatch):
    def counts_its_runs(folder):
        runs = folder / "runs"
        runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
        time.sleep(0.15)
        (folder / "out").write_text(runs.read_text())

    def leaves_a_file(folder):
        (folder / ".out.partial").write_text("1")
        in_two_steps(folder)

    def fails_the_second_time(folder):
        if (folder / "first").exists():
            raise ValueError("there is a file")
        in_two_steps(folder)

    for number, (work, words) in enumerate(
        ((counts_its_runs, "other results"), (leaves_a_file, "left"),
         (fails_the_second_time, "there is a file"))
    ):  # fmt: skip
        folder = tmp_path / str(number)
        folder.mkdir()
        _, _, faults = run(kills.Task(work, content), folder, monkeypatch)
        assert faults  # some kills may come before the first line
        assert all(words in fault for fault in faults)


def test_growth_is_found():
    before = load.Held(500, 3, 6, 14, 1)
    assert load.grown(before, before) == []
    assert load.grown(before, load.Held(540, 3, 6, 13, 1)) == []
    assert load.grown(before, load.Held(600, 4, 6, 14, 2)) == ["memory_mb", "threads", "temporary"]


def test_what_a_process_holds(tmp_path):
    before = load.held(tmp_path)
    with (tmp_path / "file").open("w"):
        after = load.held(tmp_path)
    assert after.descriptors == before.descriptors + 1
    assert after.temporary == before.temporary + 1
    assert before.memory_mb > 10


@pytest.mark.parametrize("room", mutation.ROOMS)
def test_the_files_of_a_room_exist(room):
    patterns, tests = mutation.ROOMS[room]
    assert all(list(mutation.ROOT.glob(pattern)) for pattern in patterns)
    assert all((mutation.ROOT / path).exists() for path in tests)
