"""The benchmark on signals as scanners measure them: its data, groups and figures."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from corrsk import Nuisances
from corrsk.simulation.datasets import dataset_definition
from corrsk.simulation.definition import DatasetDefinition
from tests._helpers import ROOT

SIGNED = "scanner-ir-se-8x8"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return lambda name: importlib.import_module(name)


def test_test_sets_differ_in_the_pulses_alone(benchmark):
    scanner = benchmark("scanner")
    definition = dataset_definition(SIGNED)
    names = list(scanner.conditions())
    assert names[:2] == ["ranges", "efficiency 1, loss 0 %"]
    assert len(names) == 1 + 5 * 2
    perfect = scanner.at(definition, Nuisances(inversion_efficiency=1.0, echo_loss=0.0))
    worse = scanner.at(definition, Nuisances(inversion_efficiency=0.9, echo_loss=0.03))
    X, y, levels = scanner.simulate(perfect, 300, 0)
    other, same_y, same_levels = scanner.simulate(worse, 300, 0)
    np.testing.assert_array_equal(y, same_y)
    np.testing.assert_array_equal(levels, same_levels)
    assert 0.9 < np.einsum("vn,vn->v", X, other).mean() < 1 - 1e-4
    assert ((1 / levels >= 20) & (1 / levels <= 1000)).all()


def test_the_data_set_of_the_exact_model_has_perfect_pulses(benchmark, tmp_path):
    scanner = benchmark("scanner")
    assert scanner.exact().prior.nuisances is None
    scanner.exact().to_file(tmp_path / "exact.json")
    assert DatasetDefinition.from_file(tmp_path / "exact.json") == scanner.exact()


def test_figures_of_each_stratum(benchmark):
    scanner = benchmark("scanner")
    levels = 1 / np.array([20.0, 49, 50, 149, 150, 1000])
    masks = scanner.strata(levels)
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "all": [True] * 6,
        "SNR >= 50": [False, False, True, True, True, True],
        "SNR 20-50": [True, True, False, False, False, False],
        "SNR 50-150": [False, False, True, True, False, False],
        "SNR 150-1000": [False, False, False, False, True, True],
    }
    y = np.array([1, 2, 3, 1, 2, 3])
    probabilities = np.eye(3)[[0, 0, 1, 0, 1, 2]]  # answers 1 1 2 1 2 3
    flagged = np.array([True, False, False, False, False, True])
    found = scanner.measured(y, probabilities, np.array([1, 2, 3]), flagged, levels)
    assert {name: row["accuracy"] for name, row in found.items()} == {
        "all": 0.6667, "SNR >= 50": 0.75, "SNR 20-50": 0.5, "SNR 50-150": 0.5, "SNR 150-1000": 1.0,
    }  # fmt: skip
    assert found["SNR 20-50"]["more than one"] == 0.5
    assert found["SNR 50-150"]["more than one"] == 1.0
    assert [found[name]["flagged"] for name in ("all", "SNR 20-50")] == [0.3333, 0.5]


def test_the_observers_have_the_same_signals_and_their_own_priors(benchmark):
    ceiling = benchmark("scanner_ceiling")
    known, unknown = (ceiling.task("imperfect", observer) for observer in ceiling.OBSERVERS)
    for mine, other in zip(known.simulate(0), unknown.simulate(0), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert known.believed_prior.nuisances == Nuisances(inversion_efficiency=0.9, echo_loss=0.03)
    assert unknown.believed_prior == dataset_definition(SIGNED).prior
    assert known.name != unknown.name
    assert known.groups(1 / np.array([30.0, 50, 400])).tolist() == [
        "SNR 20-50", "SNR 50-150", "SNR 150-1000",
    ]  # fmt: skip
