"""Mixtures of distributions: compiled functions and those of numpy, and their fits."""

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
    weights = rng.dirichlet(np.full(n, 0.3), V)

    def results() -> list[np.ndarray]:
        z = mixture.points(uniform, standard)
        fit = mixture.fitted(z, weights, FREEDOM, 50.0, 0.0)
        return [z, mixture.density(z, FREEDOM), fit.log_weights, fit.means, fit.factors]

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
def test_a_fit_moves_a_component_to_the_draws_and_drops_one_without_draws():
    rng = np.random.default_rng(2)
    factors = np.broadcast_to(np.eye(2), (1, 2, 2, 2)).copy()
    means = np.array([[[0.0, 0.0], [1e3, 1e3]]])
    mixture = NormalMixture(np.log([[0.5, 0.5]]), means, factors)
    z = np.array([1.0, -1.0]) + 0.5 * rng.standard_normal((1, 4000, 2))
    fit = mixture.fitted(z, np.full((1, 4000), 1 / 4000), FREEDOM, 1e-9, 1e-4)
    np.testing.assert_array_equal(fit.log_weights, [[0.0, -np.inf]])
    np.testing.assert_allclose(fit.means[0, 0], z[0].mean(axis=0), atol=1e-6)
    covariance = np.linalg.inv(fit.factors[0, 0] @ fit.factors[0, 0].T)
    np.testing.assert_allclose(covariance, np.cov(z[0].T, bias=True), rtol=1e-6, atol=1e-6)
    # a component of weight 0 has no points, and no density
    points = fit.points(rng.random((1, 50)), np.zeros((1, 50, 2)))
    np.testing.assert_allclose(points, np.broadcast_to(fit.means[:, :1], (1, 50, 2)))
    np.testing.assert_array_equal(fit.density(z, FREEDOM), fit.largest(1).density(z, FREEDOM))
