"""Mixtures of distributions: compiled functions and those of numpy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_t

from corrsk._utils import normal_mixtures
from corrsk._utils.normal_mixtures import NormalMixture

FREEDOM = 6


def random_mixture(V: int, M: int, d: int) -> NormalMixture:
    rng = np.random.default_rng(d)
    factors = np.tril(0.3 * rng.standard_normal((V, M, d, d)))
    factors[..., range(d), range(d)] = np.exp(0.5 * rng.standard_normal((V, M, d)))
    weights = rng.dirichlet(np.ones(M), V)
    return NormalMixture(np.log(weights), rng.standard_normal((V, M, d)), factors)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 8, 11])
def test_compiled_functions_equal_those_of_numpy(d, monkeypatch):
    pytest.importorskip("numba")
    rng = np.random.default_rng(0)
    V, n = 3, 300  # more than a block of points
    mixture = random_mixture(V, 4, d)
    uniform, standard = rng.random((V, n)), rng.standard_normal((V, n, d))

    def results() -> list[np.ndarray]:
        z = mixture.points(uniform, standard)
        some = mixture.marginal(np.arange(0, d, 2))
        return [z, mixture.density(z, FREEDOM), some.means, some.factors]

    compiled = results()
    monkeypatch.setattr(normal_mixtures, "compiled", lambda: None)
    for one, other in zip(compiled, results(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10 * np.abs(other).max())


@pytest.fixture(params=["compiled", "numpy"])
def functions(request, monkeypatch):
    if request.param == "compiled":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(normal_mixtures, "compiled", lambda: None)


@pytest.mark.usefixtures("functions")
def test_the_density_is_that_of_student_t_distributions():
    mixture = random_mixture(2, 3, 3)
    z = np.random.default_rng(1).standard_normal((2, 5, 3))
    expected = np.zeros((2, 5))
    for v in range(2):
        for m in range(3):
            shape = np.linalg.inv(mixture.factors[v, m] @ mixture.factors[v, m].T)
            each = multivariate_t(mixture.means[v, m], shape, df=FREEDOM)
            expected[v] += np.exp(mixture.log_weights[v, m]) * each.pdf(z[v])
    np.testing.assert_allclose(mixture.density(z, FREEDOM), expected, rtol=1e-10)


@pytest.mark.usefixtures("functions")
def test_a_marginal_mixture_has_the_means_and_covariances_of_some_dimensions():
    mixture, kept = random_mixture(2, 3, 4), np.array([0, 2, 3])
    marginal = mixture.marginal(kept)
    covariances = np.linalg.inv(mixture.factors @ mixture.factors.swapaxes(-1, -2))
    found = np.linalg.inv(marginal.factors @ marginal.factors.swapaxes(-1, -2))
    np.testing.assert_allclose(found, covariances[..., kept[:, None], kept], rtol=1e-9)
    np.testing.assert_array_equal(marginal.means, mixture.means[..., kept])
    np.testing.assert_array_equal(marginal.log_weights, mixture.log_weights)
    assert mixture.marginal(np.arange(4)) is mixture


@pytest.mark.usefixtures("functions")
def test_a_component_of_weight_0_has_no_points_and_no_density():
    mixture = random_mixture(1, 2, 2)
    alone = NormalMixture(np.array([[0.0, -np.inf]]), mixture.means, mixture.factors)
    rng = np.random.default_rng(2)
    points = alone.points(rng.random((1, 50)), np.zeros((1, 50, 2)))
    np.testing.assert_allclose(points, np.broadcast_to(alone.means[:, :1], (1, 50, 2)))
    z = rng.standard_normal((1, 50, 2))
    np.testing.assert_array_equal(alone.density(z, FREEDOM), alone.largest(1).density(z, FREEDOM))
