"""Bounds from protocol and prior, identifiability, and signals that no fit explains."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.exceptions import ConvergenceWarning

from corrsk import (
    AcquisitionProtocol,
    IdealObserverClassifier,
    MultiExponentialClassifier,
    NNLSPeakClassifier,
    PropertyRange,
    TissuePrior,
    make_correlation_signals,
)
from corrsk.acquisition.bounds import checked_bounds

GRID = AcquisitionProtocol.named("ir-se-8x8")
ESTIMATORS = [MultiExponentialClassifier, NNLSPeakClassifier]
UNEXPLAINED = "not explained"


def exact(protocol, t1, t2, fractions):
    """Noise-free signal of compartments on a TI-TE protocol."""
    parts = zip(t1, t2, fractions, strict=True)
    return sum(
        f * np.exp(-protocol.te / b) * (1 - 2 * np.exp(-protocol.ti / a)) for a, b, f in parts
    )


def decay(protocol, t2, fractions):
    return np.exp(-protocol.te[:, None] / np.asarray(t2)) @ np.asarray(fractions)


def with_noise(signal, level, n=4, seed=0):
    return signal + level * np.random.default_rng(seed).normal(size=(n, signal.size))


def fits(protocol=GRID, counts=(1, 2, 3), **options):
    return MultiExponentialClassifier(
        protocol, counts=counts, random_state=0, verbose=False, **options
    )


@pytest.fixture(scope="module")
def explained():
    return make_correlation_signals(60, noise_level=0.002, random_state=5, verbose=False)


# -- bounds ----------------------------------------------------------------------------------


def test_default_bounds_are_what_the_protocol_resolves():
    bounds = fits().fit(np.ones((1, 64))).bounds_
    assert bounds["T2"] == pytest.approx((4.5 / 3, 26 * 150), rel=0.1)
    assert bounds["T1"] == (pytest.approx(50 / 3, rel=0.15), 10_000)  # twice that of water
    short = AcquisitionProtocol(te=np.linspace(0.2, 12.8, 64))
    assert checked_bounds(None, short)["T2"] == pytest.approx((0.2 / 3, 26 * 12.8), rel=0.1)
    # fast and slow ends change places for a rate; b = 0 measures no rate
    diffusion = AcquisitionProtocol(te=[60.0, 60.0, 61.0, 61.0], b=[0, 0.01, 0.2, 0.8])
    assert checked_bounds(None, diffusion)["D"] == pytest.approx((1 / (26 * 0.8), 300), rel=0.1)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bounds_from_a_prior_and_for_single_properties(estimator):
    X = np.ones((1, 64))
    prior = TissuePrior({"T1": PropertyRange(300, 3000), "T2": PropertyRange(15, 300)})
    assert estimator(GRID, bounds=prior, counts=[1]).fit(X).bounds_ == {
        "T1": (300, 3000), "T2": (15, 300)
    }  # fmt: skip
    named = estimator(GRID, bounds="midl2024", counts=[1]).fit(X).bounds_
    assert named == {"T1": (50, 5000), "T2": (5, 500)}
    partly = estimator(GRID, bounds={"T2": (7, 70)}, counts=[1]).fit(X).bounds_
    assert partly == {**checked_bounds(None, GRID), "T2": (7, 70)}
    with pytest.raises(ValueError, match="measures T1, but the prior"):
        estimator(GRID, bounds=TissuePrior({"T2": PropertyRange(5, 50)}), counts=[1]).fit(X)
    with pytest.raises(ValueError, match="unknown tissue prior"):
        estimator(GRID, bounds="brain", counts=[1]).fit(X)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_protocol_of_levels_beyond_water_needs_bounds(estimator):
    protocol = AcquisitionProtocol(ti=[40_000, 50_000, 60_000], te=[5, 20, 10])
    with pytest.raises(ValueError, match="resolves no T1 up to 10000.*pass bounds="):
        estimator(protocol, counts=[1]).fit(np.ones((1, 3)))
    estimator(protocol, counts=[1], bounds={"T1": (1e4, 5e4)}).fit(np.ones((1, 3)))


def test_short_and_long_times_are_found():
    X = with_noise(exact(GRID, [800, 900], [1.5, 40], [0.5, 0.5]), 1e-4)
    found = fits().fit(X).estimate_compartments(X)
    assert (found["n_c"] == 2).all()
    np.testing.assert_allclose(found["T2_1"], 1.5, rtol=0.1)
    np.testing.assert_allclose(found["T2_2"], 40, rtol=0.01)
    assert not found["at_bound"].any()
    X = with_noise(exact(GRID, [3000], [2000], [1]), 1e-3)
    found = fits().fit(X).estimate_compartments(X, 1)
    np.testing.assert_allclose(found["T2_1"], 2000, rtol=0.1)


def test_compartments_at_a_bound_are_reported():
    inside = with_noise(exact(GRID, [800], [60], [1]), 1e-3)
    beyond = with_noise(exact(GRID, [800], [2], [1]), 1e-3)
    X = np.concatenate([inside, beyond[:1]])
    model = fits(bounds="midl2024").fit(X)
    with pytest.warns(ConvergenceWarning) as caught:
        found = model.estimate_compartments(X, 1)
    messages = [str(warning.message) for warning in caught]
    assert any("1 of 5 voxels have a compartment at a bound, T2 in 1 (bounds 5, 500)" in message
               for message in messages)  # fmt: skip
    assert found["at_bound"].tolist() == [False] * 4 + [True]
    # an absent compartment has no property that could be at a bound
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not model.estimate_compartments(inside, 1)["at_bound"].any()


# -- identifiability ---------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_property_with_a_single_level_is_refused(estimator):
    te = np.geomspace(4.5, 150, 8)
    protocol = AcquisitionProtocol(ti=[500.0] * 8, te=te)
    with pytest.raises(ValueError, match=r"T1 cannot be estimated.*same TI, 500 ms.*2 levels"):
        estimator(protocol, counts=[1]).fit(np.ones((2, 8)))
    estimator(AcquisitionProtocol(te=te), counts=[1]).fit(np.ones((2, 8)))


@pytest.mark.parametrize(
    ("criterion", "n", "possible"),
    [("aicc", 6, 1), ("aicc", 7, 2), ("bic", 5, 1), ("bic", 6, 2), ("f-test", 4, 1),
     ("f-test", 5, 2)],
)  # fmt: skip
def test_counts_without_enough_measurements_are_reported(criterion, n, possible):
    protocol = AcquisitionProtocol(te=np.geomspace(5, 160, n))
    X = decay(protocol, [15, 120], [0.5, 0.5])[None]
    model = fits(protocol, (1, 2), criterion=criterion)
    if possible == 2:
        model.fit(X)
    else:
        match = f"{n} measurements.*too few to select 2.*needs at least {n + 1}"
        with pytest.warns(UserWarning, match=match) as caught:
            model.fit(X)
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert model.predict(X) == [possible]
    fits(protocol, (1,), criterion=criterion).fit(X)  # nothing to compare


def test_repeats_do_not_identify_more_parameters():
    protocol = AcquisitionProtocol(te=np.repeat([5, 40, 90], 4))
    with pytest.warns(UserWarning, match="12 measurements, 3 of them different.*select 2"):
        fits(protocol, (1, 2)).fit(np.ones((1, 12)))
    with pytest.raises(ValueError, match="3 parameters.*only 2 different measurements"):
        fits(AcquisitionProtocol(ti=[50, 900], te=[90, 5]), (1,)).fit(np.ones((1, 2)))


# -- misfit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["aicc", "bic", "f-test"])
def test_chi2_of_explained_signals_has_its_distribution(criterion):
    # one compartment, whose fit has 3 parameters: chi2 is a ratio of variances, with the mean
    # and the spread of an F distribution for 61 and about 31 degrees of freedom, which share the
    # noise outside the subspace
    X = with_noise(exact(GRID, [800], [60], [1]), 0.01, n=400)
    model = fits(criterion=criterion, counts=(1,)).fit(X)
    found = model.estimate_compartments(X)
    assert found["chi2"].mean() == pytest.approx(31 / 29 * 30 / 61 + 31 / 61, abs=0.06)
    assert found["chi2"].std() < 0.25
    # rank 30..33 of 64: the F test of the part inside the subspace against that outside is exact;
    # 400 voxels have a p-value below 1e-6 with a probability of 4e-4
    assert not found["misfit"].any()


def test_probabilities_of_explained_signals_are_those_of_the_criterion(explained):
    X, y = explained
    model = MultiExponentialClassifier(
        "ir-se-8x8", criterion="bic", random_state=0, verbose=False
    ).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fits of too few compartments
        rss = np.stack([model.estimate_compartments(X, K)["rss"] for K in (1, 2, 3, 4)], axis=1)
    bic = 64 * np.log(rss) + 3 * np.array([1, 2, 3, 4]) * np.log(64)
    weights = np.exp(-0.5 * (bic - bic.min(axis=1, keepdims=True)))
    np.testing.assert_allclose(
        model.predict_proba(X), weights / weights.sum(axis=1, keepdims=True), rtol=1e-6, atol=1e-12
    )


WRONG = {
    "flipped sign": lambda X: -X,
    "magnitude": np.abs,
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("criterion", ["aicc", "bic", "f-test"])
def test_wrong_signals_have_no_certain_count(criterion, wrong, explained):
    X = WRONG[wrong](explained[0][:8])
    model = fits(criterion=criterion, n_starts=2).fit(X)
    with pytest.warns(ConvergenceWarning, match=f"8 of 8 voxels are {UNEXPLAINED}") as caught:
        probabilities = model.predict_proba(X)
    assert len(caught) == 1
    assert caught[0].filename.endswith("test_bounds_and_misfit.py")
    np.testing.assert_allclose(probabilities, 1 / 3, atol=0.15)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    with pytest.warns(ConvergenceWarning) as caught:
        found = model.estimate_compartments(X)
    assert any(UNEXPLAINED in str(warning.message) for warning in caught)
    assert found["misfit"].all()
    assert (found["chi2"] > 10).all()


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("options", [{}, {"regularization": 1e-4}], ids=["chi2", "fixed"])
def test_spectra_of_wrong_signals_have_no_certain_count(wrong, options, explained):
    X = WRONG[wrong](explained[0][:8])
    model = NNLSPeakClassifier(GRID, counts=(1, 2, 3), bounds="midl2024", verbose=False, **options)
    with pytest.warns(ConvergenceWarning, match=f"8 of 8 voxels are {UNEXPLAINED}.*n_bins"):
        probabilities = model.fit(X).predict_proba(X)
    np.testing.assert_allclose(probabilities, 1 / 3, atol=0.1)


def test_strong_regularisation_is_no_misfit(explained):
    X, y = explained
    model = NNLSPeakClassifier(
        "ir-se-8x8", regularization=0.1, bounds="midl2024", verbose=False
    ).fit(X, y)
    assert set(np.unique(model.predict_proba(X[:20]))) == {0.0, 1.0}


def test_a_precise_signal_of_many_compartments_has_no_certain_count():
    # a broad distribution with one peak, as of water in cement
    protocol = AcquisitionProtocol(te=np.linspace(0.5, 128, 256))
    t2 = np.geomspace(0.5, 100, 400)
    weights = np.exp(-0.5 * (np.log(t2 / 8) / 0.6) ** 2)
    X = with_noise(decay(protocol, t2, weights / weights.sum()), 1e-4)
    model = fits(protocol).fit(X)
    with pytest.warns(ConvergenceWarning, match=UNEXPLAINED):
        probabilities = model.predict_proba(X)
    assert probabilities.max() < 0.95
    assert (probabilities.argmax(axis=1) == 2).all()  # the best of the wrong fits stays the best
    assert (probabilities[:, 0] < 0.05).all()  # but one compartment fits 70 times worse
    with pytest.warns(ConvergenceWarning, match=UNEXPLAINED):
        table = model.estimate_compartments(X)
    # a count that the criterion rejects has the part of the residual that the noise does not
    # explain, in inverse proportion to the residuals (1.02: those inside the subspace alone)
    rss = []
    for K in (1, 2, 3):
        with pytest.warns(ConvergenceWarning, match=UNEXPLAINED):
            rss.append(model.estimate_compartments(X, K)["rss"])
    inverse = 1 / np.sqrt(np.stack(rss, axis=1))
    share = inverse / inverse.sum(axis=1, keepdims=True)
    chi2 = table["chi2"].to_numpy()
    np.testing.assert_allclose(
        probabilities[:, :2], (1 - 1 / chi2)[:, None] * share[:, :2], rtol=0.2
    )


def test_an_error_of_the_model_is_no_evidence_for_more_compartments():
    # a slow drift of the gain, far below the noise of an echo but not of 1000 echoes together
    protocol = AcquisitionProtocol(te=np.linspace(2, 2000, 1000))
    drift = 1 + 0.3 * np.sin(2 * np.pi * np.linspace(0, 25, 1000))
    X = with_noise(decay(protocol, [120], [1]) * drift, 0.02)
    model = fits(protocol, criterion="bic").fit(X)
    with pytest.warns(ConvergenceWarning, match=UNEXPLAINED):
        table = model.estimate_compartments(X)
    assert table["misfit"].all()
    with pytest.warns(ConvergenceWarning, match=UNEXPLAINED):
        probabilities = model.predict_proba(X)
    assert (probabilities[:, 0] > 0.5).all()


def test_tissue_beyond_the_bounds_is_a_misfit_and_not_noise():
    X = with_noise(exact(GRID, [800, 900], [1.5, 40], [0.5, 0.5]), 2e-4)
    with pytest.warns(ConvergenceWarning, match=f"4 of 4 voxels are {UNEXPLAINED}"):
        probabilities = fits(bounds="midl2024").fit(X).predict_proba(X)
    assert probabilities.max() < 0.9
    assert fits().fit(X).predict_proba(X)[:, 1:].sum(axis=1).min() > 0.99


def test_few_measurements_have_no_chi2():
    protocol = AcquisitionProtocol(te=[5, 20, 50, 120])
    X = with_noise(decay(protocol, [50], [1]), 0.01)
    model = fits(protocol, (1,)).fit(np.concatenate([X, -X]))
    found = model.estimate_compartments(X)
    assert found["chi2"].isna().all()
    assert not found["misfit"].any()
    assert found["T2_1"].notna().all()
    with pytest.warns(ConvergenceWarning, match=f"4 of 8 voxels are {UNEXPLAINED}"):
        model.predict_proba(np.concatenate([X, -X]))  # a fit with amplitude 0 explains no signal


def test_false_alarms_are_rare():
    # the level is 1e-6 per voxel, so that a warning in 300 voxels has a probability of 3e-4
    X, y = make_correlation_signals(
        300, noise_level=(0.001, 0.01, 0.05), random_state=9, verbose=False
    )
    model = MultiExponentialClassifier(
        "ir-se-8x8", n_starts=1, max_steps=20, random_state=0, verbose=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probabilities = model.fit(X, y).predict_proba(X)
    assert np.isfinite(probabilities).all()


# -- ideal observer ------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", None])
def test_ideal_observer_of_signals_beyond_the_prior(norm):
    prior = TissuePrior(n_compartments=(1, 2))
    X, y = make_correlation_signals(
        8, prior=prior, noise_level=0.02, norm=norm, random_state=0, verbose=False
    )
    model = IdealObserverClassifier(
        prior, "ir-se-8x8", noise_level=0.02, norm=norm, n_particles=256, n_runs=2, random_state=0,
        verbose=False,
    ).fit(X, y)  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*unreliable", ConvergenceWarning)
        posterior = model.posterior(X)
        probabilities = model.predict_proba(X)
    assert not posterior.unexplained.any()
    np.testing.assert_array_equal(probabilities, posterior.probabilities)
    with pytest.warns(ConvergenceWarning, match="8 of 8 voxels are not explained by any tissue"):
        np.testing.assert_allclose(model.predict_proba(-X), 0.5, atol=0.01)
    # by Bayes' rule, with the density of directions on the unit sphere or of Gaussian noise
    with pytest.warns(ConvergenceWarning):
        wrong = model.posterior(-X)
    if norm is None:
        scale = np.sqrt(np.mean(X.astype(float) ** 2, axis=1))
        density = stats.norm.logpdf(-X.T, scale=scale).sum(axis=0)
    else:
        density = -np.log(2) - 32 * np.log(np.pi) + np.sum(np.log(np.arange(1, 32)))
    evidence = np.exp(wrong.log_evidence - np.max(density)).mean(axis=1)
    alternative = 1e-6 * np.exp(density - np.max(density))
    np.testing.assert_allclose(
        wrong.probability_unexplained, alternative / (alternative + evidence), rtol=1e-6
    )
