"""Decisions of a posterior: compiled ones and those of numpy, and exhaustive ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from corrsk.trained import posterior
from corrsk.trained.posterior import TOLERANCE, CompartmentPosterior, CountDraws

RANGES = {"T1": (50.0, 3500.0), "T2": (5.0, 500.0)}


@pytest.fixture
def found() -> CompartmentPosterior:
    rng = np.random.default_rng(0)
    V, n = 40, 60
    draws = []
    for K in (1, 2, 3):
        centre = rng.random((V, 1, K))
        values = {
            name: low * (high / low) ** (centre + 0.1 * rng.standard_normal((V, n, K)))
            for name, (low, high) in RANGES.items()
        }
        log_weights = 2 * rng.standard_normal((V, n))
        log_weights[:, :10] = -np.inf
        fractions = rng.dirichlet(np.ones(K), (V, n))
        draws.append(CountDraws(values, fractions, log_weights, rng.random((V, n))))
    draws[2].log_weights[0] = -np.inf  # without a possible draw
    log_proba = np.log(rng.dirichlet(np.ones(3), V))
    return CompartmentPosterior((1, 2, 3), log_proba, log_proba, draws, RANGES, np.full(V, 50.0))


def test_compiled_decisions_equal_those_of_numpy(found, monkeypatch):
    pytest.importorskip("numba")
    compiled = found.table("strict")
    monkeypatch.setattr(posterior, "compiled", lambda: None)
    pd.testing.assert_frame_equal(compiled, found.table("strict"), rtol=1e-9, atol=1e-12)
    assert set(compiled["n_c"]) == {1, 2, 3}


def test_the_strict_decision_is_the_best_of_all_counts(found):
    """The confidence is the largest product over all counts, though not all are computed."""
    expected = []
    for index, draws in enumerate(found.draws):
        _, mass = posterior._densest(draws, RANGES)
        number = posterior.effective_number(draws.log_weights)
        expected.append(
            found.probabilities[:, index] * mass * number / (number + posterior._DOUBTED)
        )
    table = found.table("strict")
    np.testing.assert_allclose(table["confidence"], np.max(expected, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(table["n_c"], np.argmax(expected, axis=0) + 1)


def test_confidences_of_compartments_are_shares_of_draws(found):
    table = found.table("median")
    for k in (1, 2, 3):
        share = np.zeros(len(table))
        for index, draws in enumerate(found.draws):
            near = np.ones(draws.fractions.shape, dtype=bool)
            for name, (low, high) in RANGES.items():
                ratio = draws.values[name] / table[f"{name}_{k}"].to_numpy()[:, None, None]
                near &= np.abs(np.log(ratio)) <= TOLERANCE * np.log(high / low)
            of_count = (draws.weights * near.any(axis=2)).sum(axis=1)
            share += found.probabilities[:, index] * of_count
        share[table["n_c"] < k] = np.nan
        np.testing.assert_allclose(table[f"confidence_{k}"], share, rtol=1e-9, atol=1e-12)
