"""The novelty detector."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from corrsk import (
    AcquisitionProtocol,
    NoSignalWarning,
    SignalNormalizer,
    SignalNoveltyDetector,
    make_correlation_signals,
)
from corrsk.novelty._mixture import NoisyMixture
from corrsk.novelty._subspace import noise_weighted_subspace
from corrsk.novelty._tail import LEAST_LOG, log_tail, upper_quantiles
from corrsk.simulation.datasets import dataset_definition

NAMES = ("midl2024", "midl2024-low-noise")
GRID = AcquisitionProtocol.named("ir-se-8x8")
TI, TE = np.unique(GRID.ti), np.unique(GRID.te)
N = 2000


def simulated(name, n=N, seed=50, **changes):
    levels = dataset_definition(name).noise_levels
    arguments = {"noise_level": levels, "random_state": seed, "n_jobs": 1} | changes
    return make_correlation_signals(n, **arguments)[0]


@pytest.fixture(scope="module", params=NAMES)
def fitted(request):
    detector = SignalNoveltyDetector(n_clusters=24, random_state=0, n_jobs=1)
    return request.param, detector.fit(simulated(request.param, 60_000, seed=0))


def flagged(detector, X):
    return float((detector.predict(X) == -1).mean())


# -- false alarms and detections -----------------------------------------------


@pytest.mark.slow
def test_the_false_alarm_rate_is_as_specified(fitted):
    """Within the binomial error of the calibration (half of 60,000) and of 10^5 fresh signals."""
    name, detector = fitted
    X = simulated(name, 100_000, seed=99)
    error = np.sqrt(0.01 * 0.99 * (1 / 100_000 + 1 / detector.n_calibration_))
    assert abs(flagged(detector, X) - 0.01) < 3.5 * error
    p = detector.p_values(X[:20_000])
    assert np.quantile(p, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.02)


CASES = {  # least number of 2000 flagged signals on midl2024, and with low noise; and the reason
    "shuffled": (0.99, 0.99, None),
    "noise alone": (0.99, 0.99, None),
    "three times the noise": (0.99, 0.99, "noise above the trained range"),
    "a third of the noise": (0.97, 0.93, "noise below the trained range"),
    "spike": (0.8, 0.99, "single measurement off"),
    "dead measurement": (0.7, 0.9, "single measurement off"),
    "magnitude": (0.95, 0.95, "signal shape outside the prior"),
    "sign flipped": (0.98, 0.95, "signal shape outside the prior"),
    "part scaled": (0.04, 0.98, None),
    "long TI scaled": (0.03, 0.7, "signal shape outside the prior"),
    "other TI": (0.5, 0.7, "signal shape outside the prior"),
    "other TE": (0.05, 0.05, None),
    "another grid of 64": (0.8, 0.8, None),
    "transposed": (0.8, 0.8, None),
}


def corrupted(name, case):
    rng = np.random.default_rng(0)
    levels = np.array(dataset_definition(name).noise_levels)
    X = simulated(name)
    rows, one = np.arange(N), rng.integers(0, 64, N)
    if case == "shuffled":
        return X[:, rng.permutation(64)]
    if case == "noise alone":
        return rng.normal(size=X.shape)
    if case == "three times the noise":
        return simulated(name, noise_level=3 * levels.max())
    if case == "a third of the noise":
        return simulated(name, noise_level=levels.min() / 3)
    if case == "spike":
        X[rows, one] += 0.3 * rng.choice([-1, 1], N) * np.abs(X).max(axis=1)
    if case == "dead measurement":
        X[rows, one] = 0
    if case == "magnitude":
        return simulated(name, noise_distribution="rician")
    if case == "sign flipped":
        return -X
    if case == "part scaled":
        X[rng.random(X.shape) < 0.25] *= 0.8
    if case == "long TI scaled":
        X[:, 32:] *= rng.choice([0.8, 1.2], N)[:, None]
    if case == "other TI":
        protocol = AcquisitionProtocol.from_grid(np.linspace(50, 2000, 8), TE)
        return simulated(name, protocol=protocol)
    if case == "another grid of 64":
        echoes = np.geomspace(TE[0], TE[-1], 16)
        return simulated(name, protocol=AcquisitionProtocol.from_grid(TI[::2], echoes))
    if case == "transposed":
        return X.reshape(-1, 8, 8).transpose(0, 2, 1).reshape(-1, 64)
    if case == "other TE":
        return simulated(name, protocol=AcquisitionProtocol.from_grid(TI, np.linspace(4.5, 150, 8)))
    return X


@pytest.mark.parametrize("case", CASES)
def test_signals_outside_the_model_are_flagged(fitted, case):
    name, detector = fitted
    *least, reason = CASES[case]
    found = detector.explain(corrupted(name, case))["reason"]
    odd = found[found != "explained"]
    assert len(odd) / len(found) >= least[NAMES.index(name)]
    if reason is not None:
        assert odd.mode()[0] == reason


def test_equivalent_signals_are_not_flagged(fitted):
    """A TR of 20 s has no effect; TIs longer by a common factor are equivalent to shorter T1."""
    name, detector = fitted
    for protocol in (
        AcquisitionProtocol.from_grid(TI, TE, tr=20_000.0),
        AcquisitionProtocol.from_grid(1.2 * TI, TE),
    ):
        assert flagged(detector, simulated(name, protocol=protocol)) < 0.025


def test_the_deviating_measurement_is_named(fitted):
    name, detector = fitted
    X = simulated(name, 200)
    X[:, 17] += 0.5 * np.abs(X).max(axis=1)
    found = detector.explain(X)
    assert (found["measurement"] == 17).mean() > 0.95
    assert found.loc[found["reason"] == "single measurement off", "measurement"].mode()[0] == 17


# -- input -----------------------------------------------------------------------


def test_the_scale_of_a_signal_does_not_matter(fitted):
    name, detector = fitted
    X = simulated(name, 500).astype(np.float64)
    expected = detector.score_samples(X)
    assert detector.score_samples(1e5 * X) == pytest.approx(expected)
    assert detector.score_samples(X.reshape(-1, 8, 8)) == pytest.approx(expected)
    # in single precision: equal up to rounding
    assert detector.score_samples(X.astype(np.float32)) == pytest.approx(
        expected, rel=0.02, abs=0.01
    )


def test_background_is_an_outlier_with_its_own_reason(fitted):
    _, detector = fitted
    judged = simulated(fitted[0], 100).astype(np.float64)
    X = np.vstack([np.zeros((2, 64)), judged, judged[:1]])
    X[-1, 5] = np.nan
    dark = [0, 1, 102]
    with pytest.warns(NoSignalWarning, match="3 of 103 voxels have no signal") as caught:
        found = detector.explain(X)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert (found["reason"][dark] == "no signal").all()
    assert (found["measurement"][dark] == -1).all()
    with pytest.warns(NoSignalWarning):
        assert (detector.predict(X)[dark] == -1).all()
    for method in ("score_samples", "decision_function", "p_values"):
        with pytest.warns(NoSignalWarning):
            answers = getattr(detector, method)(X)
        assert np.flatnonzero(np.isnan(answers)).tolist() == dark
        np.testing.assert_array_equal(np.delete(answers, dark), getattr(detector, method)(judged))
    pd.testing.assert_frame_equal(found.drop(dark).reset_index(drop=True), detector.explain(judged))
    with pytest.warns(NoSignalWarning):
        assert (detector.predict(np.full((3, 64), np.nan)) == -1).all()
    with pytest.raises(ValueError, match="NaN in row 102"):
        clone(detector).fit(X)


def test_volumes_give_maps(fitted):
    _, detector = fitted
    X = simulated(fitted[0], 24)
    volume = X.reshape(2, 3, 4, 64)
    for method in ("predict", "score_samples", "decision_function", "p_values"):
        expected = getattr(detector, method)(X)
        np.testing.assert_array_equal(getattr(detector, method)(volume), expected.reshape(2, 3, 4))
    pd.testing.assert_frame_equal(detector.explain(volume), detector.explain(X))


def test_scores_decisions_p_values_and_reasons_agree(fitted):
    name, detector = fitted
    X = np.vstack([simulated(name, 1000), corrupted(name, "spike")[:1000]])
    scores, p, found = detector.score_samples(X), detector.p_values(X), detector.explain(X)
    assert detector.offset_ == pytest.approx(np.log(0.01))
    assert np.array_equal(detector.predict(X), np.where(scores < detector.offset_, -1, 1))
    assert np.allclose(p, np.maximum(np.exp(scores), 1 / (detector.n_calibration_ + 1)))
    assert np.array_equal(found["p_value"], p)
    assert np.array_equal(found["reason"] != "explained", detector.predict(X) == -1)
    each = found[["noise_below", "spike", "shape", "relation", "noise_above"]]
    assert np.allclose(each.min(axis=1), p)


def test_scores_decrease_with_the_deviation_beyond_the_calibration(fitted):
    name, detector = fitted
    top = max(dataset_definition(name).noise_levels)
    medians = [
        np.median(detector.score_samples(simulated(name, 300, noise_level=factor * top)))
        for factor in (1, 2, 4, 8)
    ]
    assert (np.diff(medians) < 0).all()


# -- fitting ---------------------------------------------------------------------


def test_the_same_seed_gives_the_same_detector():
    X = simulated("midl2024", 4000, seed=3)
    first = SignalNoveltyDetector(n_clusters=8, random_state=5).fit(X)
    again = clone(first).fit(X)
    for name, value in vars(first).items():
        if name.endswith("_"):
            assert np.array_equal(value, getattr(again, name)), name
    copied = pickle.loads(pickle.dumps(first))
    assert np.array_equal(copied.score_samples(X[:50]), first.score_samples(X[:50]))


def test_the_fitted_state_is_small_and_has_only_arrays_and_numbers(fitted):
    _, detector = fitted
    state = {k: v for k, v in vars(detector).items() if k.endswith("_")}
    assert state.pop("protocol_") is state.pop("layout_") is None
    assert all(isinstance(v, (np.ndarray, float, int)) for v in state.values())
    assert sum(v.nbytes for v in state.values() if isinstance(v, np.ndarray)) < 500_000


@pytest.mark.parametrize("rate", [0.1, 0.001])
def test_the_false_alarm_rate_is_a_parameter(rate):
    X = simulated("midl2024", 30_000, seed=4)
    detector = SignalNoveltyDetector(rate, n_clusters=8, random_state=0).fit(X[:20_000])
    error = np.sqrt(rate * 2 / 10_000)
    assert abs(flagged(detector, X[20_000:]) - rate) < 4 * error


def test_in_a_pipeline_and_with_background_in_the_training():
    X = simulated("midl2024", 3000, seed=4, norm=None)
    X[::10] = 0
    detector = SignalNoveltyDetector(n_clusters=4, random_state=0)
    pipeline = make_pipeline(SignalNormalizer(), detector).fit(X)
    with pytest.warns(NoSignalWarning, match="300 of 300"):
        assert (pipeline.predict(X[::10]) == -1).all()
    assert (pipeline.predict(X[1::10]) == -1).mean() < 0.05
    with pytest.raises(ValueError, match="at least two signals"):
        detector.fit(np.zeros((5, 64)))


@pytest.mark.parametrize("shape", [(3, 3), (4, 3), (16, 2)])
def test_small_protocols_are_supported(shape):
    protocol = AcquisitionProtocol.from_grid(
        np.geomspace(50, 2000, shape[0]), np.geomspace(5, 150, shape[1])
    )
    X = simulated("midl2024", 30_000, seed=6, protocol=protocol)
    detector = SignalNoveltyDetector(n_clusters=8, random_state=0).fit(X[:20_000])
    assert abs(flagged(detector, X[20_000:]) - 0.01) < 0.006
    assert flagged(detector, -X[20_000:]) > 0.5


def test_noise_free_signals_are_fitted():
    X = simulated("midl2024", 3000, seed=7, noise_level=0.0)
    detector = SignalNoveltyDetector(n_clusters=4, random_state=0).fit(X)
    assert np.isfinite(detector.score_samples(X)).all()
    assert flagged(detector, simulated("midl2024", 500)) > 0.9


# -- the parts -------------------------------------------------------------------


def test_the_subspace_is_found_under_unequal_noise():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(40, 6)))[0]
    noise = rng.choice([0.001, 0.02], (20_000, 1))
    signals = rng.normal(size=(20_000, 6)) * [1, 0.5, 0.2, 0.1, 0.02, 0.005] @ basis.T
    found, strength = noise_weighted_subspace(signals + noise * rng.normal(size=signals.shape))
    assert found.shape == (40, 6)
    assert np.linalg.norm(found.T @ basis, ord=2) == pytest.approx(1, abs=1e-3)
    assert (np.linalg.svd(found.T @ basis)[1] > 0.95).all()
    assert (np.diff(strength) < 0).all()


def test_the_mixture_accounts_for_the_noise():
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0, 0], [3, 0, 0], [0, 3, 0]])
    widths = np.array([0.5, 0.1, 0.02])
    which = rng.integers(0, 3, 30_000)
    variance = rng.choice([0.01, 0.09], which.size)
    samples = centres[which] + widths * rng.normal(size=(which.size, 3))
    noisy = samples + np.sqrt(variance)[:, None] * rng.normal(size=samples.shape)
    mixture = NoisyMixture.fit(noisy, variance, n_clusters=3, scale=np.ones(3), n_steps=50, seed=0)
    assert np.sort(mixture.weights) == pytest.approx([1 / 3] * 3, abs=0.02)
    assert np.sort(mixture.means.sum(axis=1)) == pytest.approx([0, 3, 3], abs=0.05)
    for variances in mixture.variances:
        assert np.sqrt(np.sort(variances)[::-1]) == pytest.approx(widths, abs=0.05)
    # chi squared with 3 degrees of freedom for any noise level
    _, nearest = mixture.responsibilities(mixture.log_joint(noisy, variance))
    squared = mixture.deviations(noisy, variance, nearest).sum(axis=1)
    for level in (0.01, 0.09):
        assert squared[variance == level].mean() == pytest.approx(3, abs=0.15)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40),
    asked=st.lists(st.floats(-2e3, 2e3), min_size=2, max_size=20),
)
def test_tail_probabilities_decrease_and_stay_between_0_and_1(values, asked):
    tail = np.geomspace(1, 1 / (len(values) + 1), 50)
    quantiles = upper_quantiles(np.array(values), tail)
    logs = log_tail(quantiles, tail, np.sort(asked))
    assert (np.diff(logs) <= 1e-12).all()
    assert ((logs <= 1e-12) & (logs >= LEAST_LOG)).all()


def test_tail_probabilities_equal_those_of_the_ranks():
    values = np.arange(1, 100.0)
    tail = np.array([1, 0.5, 0.1, 0.01])
    assert upper_quantiles(values, tail).tolist() == pytest.approx([1, 50, 90, 99])
    logs = log_tail(upper_quantiles(values, tail), tail, np.array([-5.0, 50.0, 99.0]))
    assert np.exp(logs) == pytest.approx([1, 0.5, 0.01])


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_the_global_output_of_transformers_does_not_matter(kind):
    pytest.importorskip(kind)
    X, _ = make_correlation_signals(1000, random_state=0)
    make = SignalNoveltyDetector(n_clusters=4, random_state=0, verbose=False)
    expected = clone(make).fit(X).score_samples(X)
    with config_context(transform_output=kind):
        detector = clone(make).fit(X)
        np.testing.assert_array_equal(detector.score_samples(X), expected)
        assert len(detector.explain(X[:5])) == 5
