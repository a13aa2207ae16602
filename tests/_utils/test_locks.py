"""Locks of results, and remains of killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from corrsk._utils.files import write_atomically
from corrsk._utils.locks import exclusive
from corrsk.workflows._runs import claimed_folder

HOLDER = """
import sys, time
from pathlib import Path
from corrsk._utils.files import write_atomically
from corrsk._utils.locks import exclusive
target = Path(sys.argv[1])
with exclusive(target), write_atomically(target / "figure.png" if target.is_dir() else target):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_second_process_is_refused_until_the_first_one_is_killed(tmp_path, kind):
    target = tmp_path / "out" if kind == "folder" else tmp_path / "model.safetensors"
    if kind == "folder":
        target.mkdir()
    first = subprocess.Popen([sys.executable, "-c", HOLDER, target], stdout=subprocess.PIPE)
    with first:
        assert first.stdout.readline() == b"held\n"
        with (
            pytest.raises(FileExistsError, match="another process is writing to"),
            exclusive(target),
        ):
            pass
        os.kill(first.pid, signal.SIGKILL)
    folder = target if kind == "folder" else tmp_path
    assert len(list(folder.glob(".*.partial*"))) == 1
    with exclusive(target):  # of a dead owner
        assert not list(folder.glob(".*.partial*"))
    assert [path for path in folder.iterdir() if path != target] == []


def test_partial_files_of_other_targets_stay(tmp_path):
    names = (".a-1.partial.npz", ".a.checkpoint-1.partial.json", ".b-1.partial.npz", "a.npz")
    for name in names:
        (tmp_path / name).touch()
    with exclusive(tmp_path / "a.npz"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b-1.partial.npz", "a.npz"]


def test_one_run_at_a_time_claims_a_folder(tmp_path):
    out = tmp_path / "out"
    with claimed_folder(out, {"seed": 0}, resume=False):
        for resume in (False, True):
            with (
                pytest.raises(FileExistsError, match="another process"),
                claimed_folder(out, {"seed": 0}, resume=resume),
            ):
                pass
    assert [path.name for path in out.iterdir()] == ["run.json"]
    (out / ".lock").touch()  # of a killed process, before its first result
    (out / ".run-1.partial.json").touch()
    with claimed_folder(out, {"seed": 1}, resume=False):
        (out / "result").touch()
    assert sorted(path.name for path in out.iterdir()) == ["result", "run.json"]
    with (
        pytest.raises(FileExistsError, match="seed was 1 and is 0"),
        claimed_folder(out, {"seed": 0}, resume=True),
    ):
        pass


def test_foreign_files_are_left_alone(tmp_path):
    for name in ("thesis.md", ".thesis-1.partial.md"):
        (tmp_path / name).touch()
    with (
        pytest.raises(FileExistsError, match=r"other files \(thesis.md\)"),
        claimed_folder(tmp_path, {}, resume=True),
    ):
        pass
    assert len(list(tmp_path.iterdir())) == 2


def test_a_link_is_kept_and_its_target_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "data.npz", tmp_path / "link.npz"
    target.write_text("old")
    link.symlink_to(target)
    with write_atomically(link) as partial:
        partial.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert list(tmp_path.glob(".*")) + list(target.parent.glob(".*")) == []
