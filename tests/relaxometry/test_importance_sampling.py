"""Modes, likelihood and draws of importance sampling: compiled, of numpy, of the observer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from corrsk import IdealObserverClassifier, SNRRange, make_correlation_signals
from corrsk._utils.normal_mixtures import NormalMixture
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.relaxometry.ideal_observer import importance
from corrsk.relaxometry.ideal_observer.importance import ImportanceSampler, content_keys
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
    no_fractions = np.empty((*points.shape[:2], 0))
    bound = sampler._model.bind(x)
    target = sampler._completed(bound, 0, points, no_fractions, np.arange(6))[0]
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
    points = [rng.standard_normal((2, 50, free.size)) for free in sampler._free]
    uniforms = [rng.random((2, 50, own.n_fractions)) for own in sampler.coordinates]

    def results() -> list[np.ndarray]:
        bound = sampler._model.bind(x)
        return [
            sampler._completed(bound, k, *each, voxels)[0]
            for k, each in enumerate(zip(points, uniforms, strict=True))
        ]

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


def test_draws_agree_with_those_of_the_ideal_observer():
    """Importance sampling and sequential Monte Carlo have the same evidence and moments.

    A missing constant, such as log 2 or log 2 pi / 2, would be an error above the tolerance.
    """
    protocol = AcquisitionProtocol.from_grid(
        ti=[50, 300, 800, 2000], te=[10, 30, 60, 120], tr=10_000
    )
    prior = TissuePrior.named("t1t2-detr")
    signals, _ = make_correlation_signals(
        2, protocol=protocol, prior=prior, noise_level=0.05, noise_reference="max", random_state=3
    )
    sampler = ImportanceSampler(
        protocol, prior, 0.05, "max", True, n_draws=2048, max_rounds=4, wanted=np.inf, n_valley=64
    )
    observer = IdealObserverClassifier(
        prior, protocol, 0.05, "max", n_particles=2048, random_state=0, counts=(1, 2)
    ).fit(signals)
    x = signals / np.linalg.norm(signals, axis=1, keepdims=True)
    bound = observer._compartments.bind(x)
    for index, own in enumerate(sampler.coordinates[:2]):
        d = own.n_dimensions
        prior_of_z = NormalMixture(
            np.zeros((2, 1)), np.zeros((2, 1, d)), np.tile(np.eye(d), (2, 1, 1, 1))
        )
        found = sampler.draw(x, index, prior_of_z, content_keys(x))
        weights = np.exp(found.log_weights - logsumexp(found.log_weights, axis=1)[:, None])
        tissue = own.tissue(np.moveaxis(found.z, -1, 0))
        expected = observer._samplers[index]
        streams = [np.random.default_rng(v) for v in range(2)]
        evidence, every = expected.draws(bound, streams)
        mean = logsumexp(evidence, axis=1) - np.log(evidence.shape[1])
        np.testing.assert_allclose(found.log_evidence, mean, atol=0.4)
        for v, draws in enumerate(every):
            assert draws.weights.sum() == pytest.approx(1)
            pairs = (tissue.units[:, :, v], draws.units), (tissue.fractions[:, v], draws.fractions)
            for one, other in pairs:
                centre = other @ draws.weights
                spread = np.sqrt((other - centre[..., None]) ** 2 @ draws.weights)
                assert (np.abs(one @ weights[v] - centre) < 0.35 * spread + 1e-6).all()
