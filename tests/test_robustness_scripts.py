"""The scripts of robustness (kills, load, mutation) notice what they look for."""

from __future__ import annotations

import os
import time

import pytest

from tests import fuzz_coverage, kills, load, lowest, mutation, packages

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


def goes_on(folder):
    """Work that is killed while it waits, and has all results in the second run."""
    if folder.name != "whole" and not (folder / "first").exists():
        (folder / "first").write_text("1")
        time.sleep(5)
    (folder / "out").write_text("12")


def counts_its_runs(folder):
    goes_on(folder)
    if (folder / "first").exists():
        (folder / "out").write_text("3")


def leaves_a_file(folder):
    if folder.name != "whole":
        (folder / ".out.partial").write_text("1")
    goes_on(folder)


def fails_the_second_time(folder):
    if (folder / "first").exists():
        raise ValueError("there is a file")
    goes_on(folder)


WORKS = {
    goes_on: None, counts_its_runs: "other results", leaves_a_file: "left",
    fails_the_second_time: "there is a file",
}  # fmt: skip


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("work", WORKS)
def test_faults_after_a_kill_are_found(work, tmp_path, monkeypatch):
    def content(folder):
        return {"out": (folder / "out").read_text()}

    timed = kills.timed
    monkeypatch.setattr(kills, "timed", lambda *arguments: (timed(*arguments), (0.5, 0.6))[1])
    monkeypatch.setitem(kills.TASKS, "own", kills.Task(work, content))
    n_running, n_files, faults = kills.check("own", 1, 0, tmp_path)
    assert n_running == n_files == 1
    if WORKS[work] is None:
        assert faults == []
    else:
        (fault,) = faults
        assert WORKS[work] in fault


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


def test_the_log_of_a_fuzzer_is_read():
    log = """INFO: Seed: 1
#2\tINITED cov: 36 ft: 36 corp: 1/105b exec/s: 0 rss: 450Mb
#99\tREDUCE cov: 40 ft: 40 corp: 3/205b lim: 105
#300\tDONE   cov: 41 ft: 40 corp: 4/162b lim: 105 exec/s: 150 rss: 450Mb
Done 300 runs in 2 second(s)"""
    assert fuzz_coverage.result_of(log) == (300, 36, 41)
    assert fuzz_coverage.result_of("ImportError") == (0, 0, 0)


@pytest.mark.slow
def test_wheel_and_sdist_have_every_file(tmp_path):
    wheel, of_sdist = packages.build_all(tmp_path / "build")
    assert wheel.name == of_sdist.name


@pytest.mark.parametrize("room", mutation.ROOMS)
def test_the_files_of_a_room_exist(room):
    patterns, tests = mutation.ROOMS[room]
    assert all(list(mutation.ROOT.glob(pattern)) for pattern in patterns)
    assert all((mutation.ROOT / path).exists() for path in tests)


def test_lower_bounds_are_those_of_the_metadata():
    text = """
[project]
dependencies = ["numpy>=2.1", "torch>=2.9"]
[project.optional-dependencies]
cli = ["dask[array]>=2025.1", "xgboost>=2.1; sys_platform == 'linux'", "corrsk[docs]"]
"""
    assert lowest.lower_bounds(text) == {
        "numpy": "2.1", "torch": "2.9", "dask": "2025.1", "xgboost": "2.1"
    }  # fmt: skip
    found = lowest.chosen(["numpy"])
    assert "numpy==2.1" in found
    assert any(one.startswith("torch==") for one in found)
