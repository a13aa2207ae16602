"""Changed files of every reader, a few of each; `python -m tests.fuzz` tries as many as wished."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import fuzz

# readers that take a hundredth of a second for a file
LEARNERS = {f"{name}, entries" for name in fuzz.LEARNERS}
SLOW = {"checkpoint", "model, entries", "model of version 5", "model-based, entries", *LEARNERS}


@pytest.fixture(scope="module")
def fuzzers(tmp_path_factory):
    """Good files, which are written on first use."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = fuzz.Fuzzer(name, tmp_path_factory.mktemp("fuzz"))
        return made[name]

    return of


@pytest.mark.parametrize("name", fuzz.READERS)
def test_changed_files_are_read_or_refused(fuzzers, name):
    if name.startswith("images, .nii"):
        pytest.importorskip("nibabel")
    if name in LEARNERS:
        pytest.importorskip("skops")
    if name.endswith(".yaml"):
        pytest.importorskip("yaml")
    fuzzer = fuzzers(name)

    @settings(
        max_examples=5 if name in SLOW else 15, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(number=st.integers(0, 2**32))
    def check(number):
        assert fuzzer.outcome(number) in ("read", "refused")

    check()


def test_a_fault_is_not_taken_for_a_refusal(tmp_path, monkeypatch):
    def read(path):
        raise KeyError("x")

    good = fuzz.READERS["protocol, .json"]
    fuzzer = fuzz.Fuzzer("protocol, .json", tmp_path)
    monkeypatch.setattr(fuzzer, "reader", fuzz.Reader(good.write, read, good.suffix))
    assert fuzzer.outcome(0) == "ERROR KeyError: 'x'"
    monkeypatch.setattr(fuzzer, "reader", fuzz.Reader(good.write, int, good.suffix))
    assert fuzzer.outcome(0).startswith("ERROR TypeError")


@pytest.mark.slow
def test_mutants_are_read_in_a_process_of_their_own():
    found = dict(fuzz.outcomes("protocol, .csv", range(3), 60))
    assert set(found) == {0, 1, 2}
    assert set(found.values()) <= {"read", "refused"}
