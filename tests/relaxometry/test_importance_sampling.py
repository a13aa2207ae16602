"""Modes of the posterior: compiled inner products, and those of the signals."""

from __future__ import annotations

import numpy as np
import pytest

from corrsk import SNRRange
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.relaxometry.ideal_observer import _modes, importance
from corrsk.relaxometry.ideal_observer.importance import ImportanceSampler
from corrsk.tissue.prior import TissuePrior


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("reference", ["max", "m0", "rms"])
def test_compiled_inner_products_equal_those_of_signals(normalize, reference, monkeypatch):
    pytest.importorskip("numba")
    protocol = resolve_protocol("ir-se-8x8-tr20s")
    prior = TissuePrior.named("t1t2-detr")
    sampler = ImportanceSampler(protocol, prior, SNRRange(30, 150), reference, normalize)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((70, protocol.n_measurements))  # more than two blocks
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    points = [rng.standard_normal((own.n_dimensions, len(x))) for own in sampler.coordinates]

    def results() -> list[np.ndarray]:
        return [
            each
            for finder, z in zip(sampler._finders, points, strict=True)
            for each in finder._at(x, z, np.zeros_like(z), 1.0)
        ]

    assert all(finder._is_product for finder in sampler._finders)
    compiled = results()
    monkeypatch.setattr(_modes, "compiled", lambda: None)
    for one, other in zip(compiled, results(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10 * np.abs(other).max())


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
