"""Files of every version of the format load for ever: those in tests/files_of_versions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open

from corrsk.persistence._estimators import _PIPELINES, SAVED_CLASSES
from corrsk.persistence._files import _VERSION
from corrsk.persistence._learners import LEARNERS, SKOPS
from tests import kept

FILES = sorted(kept.FOLDER.glob("*/*.safetensors"))


def header(path):
    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["corrsk-estimator"])


def classes(content):
    if isinstance(content, list):
        return set().union(*map(classes, content))
    if not isinstance(content, dict):
        return set()
    found = {content["class"]} if isinstance(content.get("class"), str) else set()
    return found.union(*(classes(item) for key, item in content.items() if key != SKOPS))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_kept_file_predicts_as_when_it_was_written(path):
    if classes(header(path)) & LEARNERS.keys():
        pytest.importorskip("skops")
    version = int(path.parent.name)
    assert header(path)["version"] == version
    inputs = kept.record(version)
    expected = inputs["expected"][path.stem]
    method, values = kept.predictions(path.stem, kept.loaded(path), inputs)
    assert method == expected["method"]
    # single precision, and sums in another order on other processors; the tail of novelty scores is
    # interpolated otherwise since version 6
    rtol = 1e-3 if path.stem == "novelty" and version < 6 else 1e-4
    np.testing.assert_allclose(
        np.array(values, float), np.array(expected["values"], float), rtol=rtol, atol=1e-5
    )


def test_every_version_has_files():
    """If this fails, the version was raised without `python -m tests.kept` before."""
    versions = {int(path.parent.name) for path in FILES}
    assert versions == set(range(1, _VERSION + 1))
    for version in versions:
        stems = {path.stem for path in FILES if int(path.parent.name) == version}
        assert stems == set(kept.record(version)["expected"])


def test_every_class_that_save_knows_has_a_file():
    """If this fails, run `python -m tests.kept`, which adds files of new classes."""
    present = [path for path in FILES if int(path.parent.name) == _VERSION]
    found = set().union(*(classes(header(path)) for path in present))
    assert found >= {*SAVED_CLASSES, *LEARNERS, *_PIPELINES}
