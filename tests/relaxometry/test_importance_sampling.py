"""Modes of the posterior, and the likelihood: compiled ones, and those of numpy."""

from __future__ import annotations

import numpy as np
import pytest

from corrsk import SNRRange
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.relaxometry.ideal_observer import importance
from corrsk.relaxometry.ideal_observer.importance import ImportanceSampler
from corrsk.tissue.prior import TissuePrior


def samplers(reference: str, normalize: bool) -> ImportanceSampler:
    protocol, prior = resolve_protocol("ir-se-8x8-tr20s"), TissuePrior.named("t1t2-detr")
    return ImportanceSampler(protocol, prior, SNRRange(3, 150), reference, normalize)


def problems(sampler: ImportanceSampler, n: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Signals of tissue with noise, and random points of each count."""
    rng = np.random.default_rng(0)
    finder = sampler.finders[-1]
    x = finder._signals(rng.standard_normal((finder.coordinates.n_dimensions, n)))[0]
    x = x + 0.02 * rng.standard_normal(x.shape)
    if sampler._noise.normalize:
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x, [rng.standard_normal((n, own.n_dimensions)) for own in sampler.coordinates]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("reference", ["max", "m0", "rms"])
def test_compiled_steps_equal_those_of_numpy(reference, normalize):
    pytest.importorskip("numba")
    sampler = samplers(reference, normalize)
    x, points = problems(sampler, 40)
    for finder, z in zip(sampler.finders, points, strict=True):
        assert finder._is_product
        centre = 0.5 * z
        one = finder.find(x, z, 0, centre, 3.0)
        other = finder._find(x, z, 0, centre, 3.0)
        np.testing.assert_array_equal(one.z, z)
        for a, b in zip(one[:3], other[:3], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6 * np.abs(b).max())
        own = slice(3 if reference == "max" else 2)  # the peak only where it is needed
        np.testing.assert_allclose(
            one.forms[:, own], other.forms[:, own], rtol=1e-6, atol=2e-6 * np.abs(x).max()
        )
        one, other = finder.find(x, z, 3), finder._find(x, z, 3, np.zeros_like(z), 1.0)
        # a step whose gain is nearly 0 may be taken by one of them alone
        assert (np.abs(one.z - other.z).max(axis=1) < 1e-2).mean() > 0.85
        assert (one.settled == other.settled).mean() > 0.85
        # steps lead downwards
        assert (one.cost <= finder.find(x, z, 0).cost).all()
        # also if each problem is solved alone
        alone = finder.find(x[7:8], z[7:8], 3)
        np.testing.assert_array_equal(alone.z[0], one.z[7])


def test_laplace_evidence_of_one_compartment_is_the_integral():
    """Against a sum over a fine grid of the two coordinates."""
    sampler = samplers("max", True)
    finder = sampler.finders[0]
    rng = np.random.default_rng(1)
    z = 0.5 * rng.standard_normal((2, 6))
    x = finder._signals(z)[0]
    x = x + 0.01 * x.max() * rng.standard_normal(x.shape)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    modes = finder.find(x, z.T, 30)
    found = finder.log_evidence(x, modes)
    side = np.linspace(-6, 6, 41)
    mesh = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    width = np.sqrt(np.linalg.inv(modes.curvature).diagonal(axis1=1, axis2=2))
    points = modes.z[:, None] + mesh * width[:, None]
    target, _ = sampler._log_target(sampler._model.bind(x), 0, points, np.arange(6))
    cell = np.log((side[1] - side[0]) ** 2 * width.prod(axis=1))
    np.testing.assert_allclose(found, np.log(np.exp(target).sum(axis=1)) + cell, atol=0.02)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("reference", ["max", "m0"])
def test_compiled_likelihoods_equal_those_of_numpy(normalize, reference, monkeypatch):
    pytest.importorskip("numba")
    protocol = resolve_protocol("ir-se-8x8-tr20s")
    prior = TissuePrior.named("t1t2-detr")
    sampler = ImportanceSampler(protocol, prior, SNRRange(30, 150), reference, normalize)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, protocol.n_measurements))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    voxels = np.array([2, 0])
    points = [rng.standard_normal((2, 50, own.n_dimensions)) for own in sampler.coordinates]

    def results() -> list[np.ndarray]:
        bound = sampler._model.bind(x)
        return [sampler._log_target(bound, k, z, voxels)[0] for k, z in enumerate(points)]

    compiled = results()
    monkeypatch.setattr(importance, "compiled", lambda: None)
    for one, other in zip(compiled, results(), strict=True):
        # the peaks of numpy are in single precision
        np.testing.assert_allclose(one, other, rtol=1e-4 if reference == "max" else 1e-9)
        assert np.isfinite(one).any()
    assert np.isinf(compiled[2]).any()


def test_the_inner_products_of_other_protocols_are_those_of_the_signals():
    prior = TissuePrior.named("t1t2-detr")
    scattered = AcquisitionProtocol(ti=[50, 500, 2000, 900], te=[10, 20, 50, 90])
    sampler = ImportanceSampler(scattered, prior, 0.01, "m0", True)
    assert not any(finder._is_product for finder in sampler._finders)
