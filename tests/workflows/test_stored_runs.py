"""Stored runs of a comparison, and damage to their files."""

from __future__ import annotations

import json
import re
import zipfile

import numpy as np
import pytest

from corrsk.workflows.comparison.runs import Run, RunResult, read_run, write_run

RUN = Run("lda", 200, 0)
RIGHT = np.random.default_rng(0).random(150) < 0.7
RESULT = RunResult(
    RUN, "done", "",
    {
        "estimator": "{}", "n_test": 150, "n_failed": 0, "seconds_fit": 0.1,
        "cpu_seconds_fit": float("nan"), "seconds_predict": 0.01, "device": "cpu",
        "size_bytes": 1000, "metrics": {"accuracy": 0.7, "binary_accuracy": 0.9, "log_loss": 0.5},
        "by_noise_level": {"noise_level": [0.01], "accuracy": [0.7]}, "warnings": {},
        "environment": {"threads": 1},
    },
    right=RIGHT, right_binary=~RIGHT,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path, RESULT)
    return tmp_path


def test_a_stored_run_is_read_unchanged(folder):
    again = read_run(folder, RUN)
    assert again.content == RESULT.content | {"cpu_seconds_fit": None}
    np.testing.assert_array_equal(again.right, RIGHT)
    np.testing.assert_array_equal(again.right_binary, ~RIGHT)
    assert read_run(folder, Run("lda", 200, 1)) is None


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_every_flipped_bit_is_found(folder, suffix):
    path = folder / f"{RUN.stem}{suffix}"
    original = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.choice(len(original), 200):
        content = bytearray(original)
        content[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        if suffix == ".json" and _is_unharmed(content, original):
            continue
        with pytest.warns(UserWarning, match="damaged, and is computed again") as caught:
            assert read_run(folder, RUN) is None
        assert str(folder) in str(caught[0].message)


def _is_unharmed(content, original):
    """Whether a bit of a space or of the name of the digest was flipped."""
    try:
        now, before = json.loads(content), json.loads(original)
    except ValueError:
        return False
    return now == before or "digest" not in now


def test_runs_of_the_first_version_have_no_digest(folder):
    table = folder / f"{RUN.stem}.json"
    content = json.loads(table.read_text())
    del content["digest"]
    table.write_text(json.dumps(content))
    assert read_run(folder, RUN).content["metrics"] == RESULT.content["metrics"]
    for change in (
        {"n_test": 1000}, {"n_test": "150"}, {"metrics": {}}, {"metrics": {"accuracy": "x"}},
        {"rival": "nnls"}, {"environment": None}, {"seconds_fit": [1]}, {"by_noise_level": 1},
    ):  # fmt: skip
        table.write_text(json.dumps(content | change))
        with pytest.warns(UserWarning, match="damaged, and is computed again"):
            assert read_run(folder, RUN) is None


@pytest.mark.parametrize("damage", ["encrypted", "method", "object", "missing", "nested"])
def test_damaged_archives_are_computed_again(folder, damage):
    path, table = (folder / f"{RUN.stem}{suffix}" for suffix in (".npz", ".json"))
    content = json.loads(table.read_text())
    del content["digest"]
    table.write_text(json.dumps(content))
    if damage in ("encrypted", "method"):
        raw = bytearray(path.read_bytes())
        for entry in (m.start() for m in re.finditer(b"PK\x01\x02", bytes(raw))):
            raw[entry + (8 if damage == "encrypted" else 10)] |= 1 if damage == "encrypted" else 99
        path.write_bytes(raw)
    elif damage == "object":
        np.savez(path, right=np.array([None]), right_binary=np.array([None]))
    elif damage == "missing":
        path.unlink()
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("right.npy", b"[" * 1000)
    with pytest.warns(UserWarning, match="damaged, and is computed again"):
        assert read_run(folder, RUN) is None
