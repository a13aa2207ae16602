"""The ideal observer compared with exhaustive sums, and ceilings from posteriors."""

from __future__ import annotations

import itertools
import pickle
import re
import warnings

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from corrsk import (
    AcquisitionProtocol,
    EchoTrain,
    NoSignalWarning,
    Nuisances,
    PropertyRange,
    TissuePrior,
    make_correlation_signals,
)
from corrsk.evaluation import accuracy_ceiling, regret
from corrsk.physics import correlation_signals, noise_sigma
from corrsk.physics.noise_levels import SNRRange
from corrsk.relaxometry import CountPosterior, IdealObserverClassifier
from corrsk.relaxometry.ideal_observer._forms import CompartmentModel
from corrsk.relaxometry.ideal_observer._fractions import fraction_proposal
from corrsk.relaxometry.ideal_observer._likelihood import NoiseModel, noise_nodes
from corrsk.relaxometry.ideal_observer._radial import RadialTables, log_radial_integral

GRID = AcquisitionProtocol.from_grid(ti=[50, 300, 900, 2000], te=[5, 30, 100], tr=6000)
SCATTERED = AcquisitionProtocol(
    ti=[50, 300, 900, 2000, 600, 120], te=[5, 30, 100, 7, 60, 20]
).in_grid_order()
SERIES = AcquisitionProtocol.concatenate(
    [AcquisitionProtocol(ti=[50, 300, 1500], te=5, tr=6000),
     AcquisitionProtocol(te=[5, 30, 100], tr=2000)]
)  # fmt: skip
TR_BY_TI = AcquisitionProtocol(GRID.contrasts, tr=1500 + GRID.ti)
TR_BY_TE = AcquisitionProtocol(GRID.contrasts, tr=2500 + 10 * GRID.te)
DIFFUSION = AcquisitionProtocol.from_grid(ti=[100, 1500], te=[10, 60], b=[0, 1, 3])
FEW = {"T1": PropertyRange(200, 2000, step=600), "T2": PropertyRange(20, 120, step=50)}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with threadpool_limits(1, user_api="blas"):  # more threads are slower for small matrices
        yield


def few(**changes):
    options = {"ranges": FEW, "n_compartments": (1, 2, 3), "fraction_law": "equal"} | changes
    return TissuePrior(**options)


def draw(n, prior, protocol, **options):
    X, y = make_correlation_signals(
        n, prior=prior, protocol=protocol, random_state=5, verbose=False, **options
    )
    return X.astype(np.float64), y


def observer(prior, protocol, n_particles=1024, n_runs=6, random_state=0, **options):
    return IdealObserverClassifier(
        prior=prior, protocol=protocol, n_particles=n_particles, n_runs=n_runs,
        random_state=random_state, **options,
    )  # fmt: skip


# -- independent implementation of likelihood and evidences ---------------------------


def log_radial_by_quad(t, N):
    """Compute the radial integral by adaptive quadrature, scaled by its largest value."""
    mode = max((t + np.sqrt(t * t + 4 * (N - 1))) / 2, 1e-3)

    def exponent(u):
        return (N - 1) * np.log(max(u, 1e-300)) - 0.5 * (u - t) ** 2

    top = exponent(mode)
    width = 1 / np.sqrt(1 + (N - 1) / mode**2)
    low, high = max(0.0, mode - 40 * width), mode + 40 * width
    value, _ = quad(
        lambda u: np.exp(exponent(u) - top), low, high, points=[mode], limit=500, epsabs=1e-13
    )
    return top + np.log(value)


def log_likelihood(x, S, level, reference, normalize):
    """Log likelihoods (m,) of a signal x (N,) given noise-free signals S (m, N) and a level."""
    sigma = noise_sigma(S, np.full(len(S), level), reference)
    N = S.shape[1]
    if not normalize:
        return stats.norm.logpdf(x, S, sigma[:, None]).sum(axis=1)
    x = x / np.linalg.norm(x)
    t = S @ x / sigma
    values = np.array([log_radial_by_quad(each, N) for each in t])
    misfit = ((S - (S @ x)[:, None] * x) ** 2).sum(axis=1)
    return values - 0.5 * misfit / sigma**2 - 0.5 * N * np.log(2 * np.pi)


def combinations(prior, K):
    """Return all combinations of grid points of K compartments: dict of arrays (m, K), counts (m,).

    Combinations that differ only in the order of compartments with equal fractions occur once.
    """
    grids = [
        values.low + values.step * np.arange(int(values.n_values))
        for values in prior.ranges.values()
    ]
    single = np.array(list(itertools.product(*grids)))
    chosen = np.array(list(itertools.product(range(len(single)), repeat=K)))
    counts = np.ones(len(chosen))
    if prior.fraction_law == "equal":
        chosen, counts = np.unique(np.sort(chosen, axis=1), axis=0, return_counts=True)
    joint = single[chosen]  # (m, K, P)
    keep = np.ones(len(joint), dtype=bool)
    names = list(prior.ranges)
    if prior.t2_below_t1:
        keep &= (joint[..., names.index("T2")] < joint[..., names.index("T1")]).all(axis=1)
    if not prior.with_replacement:
        for p in range(len(names)):
            distinct = [len(set(row)) == K for row in joint[..., p].tolist()]
            keep &= np.array(distinct)
    return {name: joint[keep][..., p] for p, name in enumerate(names)}, counts[keep]


def fraction_nodes(prior, K, n=400):
    """Return quadrature nodes (m, K) and weights (m,) for the prior of K fractions."""
    if K == 1 or prior.fraction_law == "equal":
        return np.full((1, K), 1 / K), np.ones(1)
    assert K == 2
    if prior.fraction_law == "dirichlet":
        w = (np.arange(n) + 0.5) / n
        weight = np.full(n, 1 / n)
    else:  # v_1 / (v_1 + v_2) of uniform v, from the distribution of the ratio v_1 / v_2
        ratio_cdf = lambda r: np.where(r <= 1, r / 2, 1 - 0.5 / np.maximum(r, 1e-300))  # noqa: E731
        edges = np.linspace(0, 1, n + 1)
        with np.errstate(divide="ignore"):
            weight = np.diff(ratio_cdf(edges / (1 - edges)))
        w = (edges[1:] + edges[:-1]) / 2
    f = prior.min_fraction + (1 - 2 * prior.min_fraction) * w
    return np.column_stack([f, 1 - f]), weight


def exhaustive(x, prior, protocol, levels, reference, normalize, efficiency=1.0):
    """Compute the log evidence of each count by an exhaustive sum."""
    evidence = []
    for K in prior.n_compartments:
        tissue, counts = combinations(prior, K)
        shares = counts / counts.sum()
        terms = []
        for f, weight in zip(*fraction_nodes(prior, K), strict=True):
            m = len(counts)
            S = correlation_signals(
                protocol.contrasts, tissue, np.tile(f, (m, 1)), tr=protocol.tr,
                inversion_efficiency=efficiency,
            )  # fmt: skip
            for level, share in levels:
                terms.append(
                    log_likelihood(x, S, level, reference, normalize)
                    + np.log(weight * share * shares)
                )
        evidence.append(logsumexp(np.concatenate(terms)))
    return np.array(evidence)


CASES = {
    "normalised": (few(), GRID, 0.03, "m0", True),
    "normalised, max, levels": (few(), GRID, (0.02, 0.1), "max", True),
    "normalised, rms, scattered": (few(), SCATTERED, (0.05, 0.1), "rms", True),
    "as measured": (few(), GRID, 0.03, "m0", False),
    "as measured, levels": (few(), GRID, (0.02, 0.05, 0.1), "max", False),
    "as measured, rms": (few(), SCATTERED, (0.05, 0.1), "rms", False),
    "without replacement": (few(with_replacement=False), GRID, 0.05, "m0", True),
    "T2 below T1": (
        few(
            ranges={"T1": PropertyRange(60, 360, step=100), "T2": PropertyRange(20, 320, step=100)},
            t2_below_t1=True,
        ),
        GRID, 0.05, "m0", True,
    ),
    "three properties": (
        few(
            ranges=FEW | {"D": PropertyRange(0.3, 2.3, step=1.0)}, n_compartments=(1, 2)
        ),
        DIFFUSION, 0.05, "m0", True,
    ),
    "dirichlet": (
        few(fraction_law="dirichlet", n_compartments=(1, 2)), GRID, 0.03, "m0", False,
    ),
    "normalized-uniform": (
        few(fraction_law="normalized-uniform", n_compartments=(1, 2), min_fraction=0.1),
        GRID, 0.1, "max", False,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_evidences_equal_an_exhaustive_sum(case):
    prior, protocol, level, reference, normalize = CASES[case]
    X, _ = draw(
        3, prior, protocol, noise_level=level, noise_reference=reference,
        norm="l2" if normalize else None,
        inversion_efficiency=0.9,
    )  # fmt: skip
    levels = [(each, 1 / np.size(level)) for each in np.atleast_1d(level)]
    truth = np.array([exhaustive(x, prior, protocol, levels, reference, normalize, 0.9) for x in X])
    model = observer(
        prior, protocol, n_particles=8192, noise_level=level, noise_reference=reference,
        norm="l2" if normalize else None, inversion_efficiency=0.9,
    ).fit(X, np.resize(prior.n_compartments, len(X)))  # fmt: skip
    posterior = model.posterior(X)
    error = posterior.log_evidence_error
    assert np.median(error) < 0.2
    assert error.max() < 0.8
    # the tables and grids of the reference are accurate to 1e-3
    z = (posterior.log_evidence - truth) / np.hypot(error, 2e-3)
    assert np.abs(z).max() < 4.5
    p = np.exp(truth - logsumexp(truth, axis=1, keepdims=True))
    np.testing.assert_allclose(posterior.probabilities, p, atol=0.12)
    assert np.abs(posterior.probabilities - p).mean() < 0.03
    z = (posterior.probabilities - p) / np.hypot(posterior.standard_error, 2e-3)
    assert np.abs(z).max() < 4.5
    assert posterior.trustworthy.all()


@pytest.mark.slow
def test_an_snr_range_is_integrated_over():
    prior = few(n_compartments=(1, 2))
    level = SNRRange(5.0, 20.0)
    edges = np.linspace(5, 20, 31)
    levels = [(2 / (a + b), 1 / 30) for a, b in itertools.pairwise(edges)]
    for normalize, n in ((False, 3), (True, 1)):
        X, _ = draw(
            2,
            prior,
            SCATTERED,
            noise_level=level,
            noise_reference="max",
            norm="l2" if normalize else None,
        )
        truth = np.array([exhaustive(x, prior, SCATTERED, levels, "max", normalize) for x in X[:n]])
        model = observer(
            prior, SCATTERED, n_particles=2048, noise_level=level, noise_reference="max",
            norm="l2" if normalize else None,
        ).fit(X, [1, 2])  # fmt: skip
        posterior = model.posterior(X[:n])
        z = (posterior.log_evidence - truth) / np.hypot(posterior.log_evidence_error, 3e-3)
        assert np.abs(z).max() < 4.5
        np.testing.assert_allclose(posterior.log_evidence, truth, atol=0.2)


# Moves that are not reversible, or depend on the order of the compartments, cause errors
# without a spread between the runs, because all runs have the same types of moves. The errors
# are visible where many short runs should agree with the truth.


@pytest.mark.slow
def test_many_short_runs_have_no_bias_on_a_grid():
    prior, protocol, level, _, normalize = CASES["T2 below T1"]
    X, _ = draw(3, prior, protocol, noise_level=level, inversion_efficiency=0.9)
    truth = np.array(
        [exhaustive(x, prior, protocol, [(level, 1.0)], "m0", normalize, 0.9) for x in X]
    )
    model = observer(
        prior, protocol, n_particles=1024, n_runs=400, random_state=1, noise_level=level,
        norm="l2" if normalize else None, inversion_efficiency=0.9,
    ).fit(X, [1, 2, 3])  # fmt: skip
    posterior = model.posterior(X)
    z = (posterior.log_evidence - truth) / np.hypot(posterior.log_evidence_error, 1e-3)
    assert np.abs(z).max() < 4
    assert np.sqrt(np.mean(np.square(z))) < 1.6


# -- nuisance parameters ---------------------------------------------------------------

PULSES = Nuisances(inversion_efficiency=(0.6, 1.0), echo_loss=(0.0, 0.2))


def exhaustive_over_pulses(x, prior, protocol, level, n=24):
    """Log evidence of each count, a sum over the tissue and a grid of both nuisance parameters."""
    centres = (np.arange(n) + 0.5) / n
    efficiencies, losses = 0.6 + 0.4 * centres, 0.2 * centres
    evidence = []
    for K in prior.n_compartments:
        tissue, counts = combinations(prior, K)
        m = len(counts)
        signals = [
            correlation_signals(
                protocol.contrasts, tissue, np.full((m, K), 1 / K), tr=protocol.tr,
                inversion_efficiency=np.full(m, efficiency), echo_loss=np.full(m, loss),
            )
            for efficiency, loss in itertools.product(efficiencies, losses)
        ]  # fmt: skip
        terms = log_likelihood(x, np.concatenate(signals), level, "m0", False)
        weights = np.tile(counts, n * n)
        evidence.append(logsumexp(terms, b=weights) - np.log(weights.sum()))
    return np.array(evidence)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [GRID, SCATTERED], ids=["grid", "scattered"])
def test_evidences_are_averaged_over_the_nuisance_parameters(protocol):
    # many short runs: moves that are not reversible would cause a difference
    prior = few(n_compartments=(1, 2), nuisances=PULSES)
    X, y = draw(3, prior, protocol, noise_level=0.05, norm=None)
    truth = np.array([exhaustive_over_pulses(x, prior, protocol, 0.05) for x in X])
    model = observer(
        prior, protocol, n_particles=512, n_runs=200, noise_level=0.05, norm=None
    ).fit(X, np.resize([1, 2], len(y)))  # fmt: skip
    posterior = model.posterior(X)
    error = posterior.log_evidence_error
    assert error.max() < 0.1
    # the midpoints of the grid are accurate to 1e-2
    assert np.abs((posterior.log_evidence - truth) / np.hypot(error, 1e-2)).max() < 4.5


@pytest.mark.slow
def test_nuisance_parameters_agree_with_draws_from_the_prior():
    # all properties are continuous, signals normalised, levels a range: a posterior by brute force
    ranges = {
        "T1": PropertyRange(100, 3000, scale="log"), "T2": PropertyRange(10, 300, scale="log")
    }  # fmt: skip
    prior = few(
        ranges=ranges, n_compartments=(1, 2), fraction_law="dirichlet", nuisances=PULSES,
        t2_below_t1=True,
    )  # fmt: skip
    level = SNRRange(4.0, 12.0, scale="log")
    X, y = draw(4, prior, GRID, noise_level=level, noise_reference="max")
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    posterior = observer(
        prior, GRID, n_particles=4096, noise_level=level, noise_reference="max"
    ).fit(X, y).posterior(X)  # fmt: skip
    n = 30_000
    tissue, n_c = prior.sample(2 * n, random_state=1, verbose=False)
    t1, t2, f = (tissue[[f"{name}_1", f"{name}_2"]].to_numpy() for name in ("T1", "T2", "f"))
    S = correlation_signals(
        GRID.contrasts, {"T1": t1, "T2": t2}, f, tr=GRID.tr,
        inversion_efficiency=tissue["inversion_efficiency"].to_numpy(),
        echo_loss=tissue["echo_loss"].to_numpy(),
    )  # fmt: skip
    levels = level.sample(np.random.default_rng(2), len(S))
    sigma = levels * np.abs(S).max(axis=1)
    b, squared = X @ S.T, (S**2).sum(axis=1)
    terms = np.array(
        [log_radial_integral(row / sigma, 12) - 0.5 * (squared - row**2) / sigma**2 for row in b]
    )
    terms -= 6 * np.log(2 * np.pi)
    for column, K in enumerate((1, 2)):
        mine = terms[:, n_c == K]
        largest = mine.max(axis=1, keepdims=True)
        weights = np.exp(mine - largest)
        evidence = np.log(weights.mean(axis=1)) + largest[:, 0]
        error = weights.std(axis=1) / weights.mean(axis=1) / np.sqrt(n)
        known = error < 0.2
        assert known.sum() >= 3
        z = (posterior.log_evidence[:, column] - evidence) / np.hypot(
            error, posterior.log_evidence_error[:, column]
        )
        assert np.abs(z[known]).max() < 4.5


def test_fixed_nuisance_parameters_equal_those_of_the_observer():
    ranges = {"T1": PropertyRange(100, 3000, scale="log"), "T2": PropertyRange(10, 300)}
    prior = few(ranges=ranges, n_compartments=(1, 2))
    X, y = draw(4, prior, GRID, noise_level=0.1, inversion_efficiency=0.8)
    options = {"protocol": GRID, "noise_level": 0.1, "n_particles": 256, "n_runs": 2}
    expected = observer(prior, inversion_efficiency=0.8, **options).fit(X, y).predict_proba(X)
    for nuisances in (
        Nuisances(inversion_efficiency=0.8),
        # a scale has no effect on signals with a norm
        Nuisances(inversion_efficiency=0.8, echo_loss=0.0, scale=(10, 1000)),
    ):
        own = few(ranges=ranges, n_compartments=(1, 2), nuisances=nuisances)
        p = observer(own, **options).fit(X, y).predict_proba(X)
        np.testing.assert_allclose(p, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("nuisances", "norm", "message"),
    [
        (Nuisances(offset=(-0.1, 0.1)), "l2", "has ranges of offset"),
        (Nuisances(inversion_efficiency=0.9, scale=(1, 2)), None, "has ranges of scale"),
        (Nuisances(b1=(0.8, 1.2)), "l2", "range of b1"),
    ],
)
def test_nuisance_parameters_without_integral_are_refused(nuisances, norm, message):
    X, _ = draw(3, few(), GRID, noise_level=0.1)
    with pytest.raises(ValueError, match=message):
        observer(few(nuisances=nuisances), GRID, norm=norm).fit(X, [1, 2, 3])


def test_flip_angles_of_echo_trains_are_refused():
    protocol = AcquisitionProtocol.from_grid(
        ti=[50, 300, 900, 2000], te=[10, 30, 100], readout=EchoTrain(10, 150)
    )
    prior = few(nuisances=Nuisances(b1=(0.8, 1.2)))
    X, _ = draw(3, prior, protocol, noise_level=0.1)
    with pytest.raises(ValueError, match="has ranges of b1"):
        observer(prior, protocol).fit(X, [1, 2, 3])


def evidence_of_one(x, level):
    """Log evidence of one compartment, T1 and T2 log-uniform, by a grid that closes in."""
    ends = np.log([[100, 3000], [10, 300]])
    low, high = ends[:, :1], ends[:, 1:]
    for last in (False, False, True):
        centres = low + (high - low) * (np.arange(400) + 0.5) / 400
        t1, t2 = (grid.ravel() for grid in np.meshgrid(*np.exp(centres), indexing="ij"))
        S = correlation_signals(
            GRID.contrasts, {"T1": t1[:, None], "T2": t2[:, None]}, np.ones((t1.size, 1)),
            tr=GRID.tr,
        )  # fmt: skip
        likelihood = log_likelihood(x, S, level, "m0", False).reshape(400, 400)
        if last:
            share = np.prod((high - low) / (400 * np.diff(ends, axis=1)))
            return logsumexp(likelihood) + np.log(share)
        near = np.argwhere(likelihood > likelihood.max() - 45)
        width = (high - low) / 400
        low, high = (
            low + width * (near.min(axis=0)[:, None] - 2).clip(0),
            low + width * (near.max(axis=0)[:, None] + 3).clip(max=400),
        )
    raise AssertionError


@pytest.mark.slow
def test_many_short_runs_have_no_bias_for_continuous_properties():
    ranges = {
        "T1": PropertyRange(100, 3000, scale="log"), "T2": PropertyRange(10, 300, scale="log")
    }  # fmt: skip
    prior = few(ranges=ranges, n_compartments=(1,))
    X, _ = draw(10, prior, GRID, noise_level=0.005, norm=None)
    truth = np.array([evidence_of_one(x, 0.005) for x in X])
    for seed in (2, 3):
        model = observer(
            prior, GRID, n_particles=1024, n_runs=60, random_state=seed, noise_level=0.005,
            norm=None,
        ).fit(X, np.ones(10))  # fmt: skip
        posterior = model.posterior(X)
        error = posterior.log_evidence_error[:, 0]
        difference = posterior.log_evidence[:, 0] - truth
        assert np.abs(difference / error).max() < 4.5
        # values shared by the voxels
        assert abs(difference.mean()) < 4 * np.sqrt((error**2).sum()) / 10


# -- the parts ---------------------------------------------------------------------


@pytest.mark.parametrize("N", [1, 2, 6, 64, 300])
def test_radial_integral_against_adaptive_quadrature(N):
    t = np.array([-40.0, -3.0, 0.0, 0.7, 5.0, 30.0, 400.0, 9000.0])
    expected = [log_radial_by_quad(each, N) for each in t[2:]]
    np.testing.assert_allclose(log_radial_integral(t, N)[2:], expected, atol=1e-7, rtol=1e-11)
    # for large negative t, J = (N - 1)! / |t|^N exp(-t^2 / 2) (1 + O(N^2 / t^2))
    far = np.array([-2000.0])
    series = sum(np.log(np.arange(1, N))) - N * np.log(-far) - far**2 / 2
    np.testing.assert_allclose(log_radial_integral(far, N), series, atol=N * (N + 1) / far[0] ** 2)
    assert (np.diff(log_radial_integral(t, N)) > 0).all()


@pytest.mark.parametrize("N", [6, 64])
def test_radial_tables_interpolate(N):
    levels = np.array([0.001, 0.05])
    tables = RadialTables(levels, N)
    b = np.concatenate([np.geomspace(1e-4, 8, 3000), -np.geomspace(1e-4, 0.01, 50)])
    index, remainder = tables.positions(b)
    for level, table in zip(levels, tables.tables, strict=True):
        exact = log_radial_integral(b / level, N)
        np.testing.assert_allclose(tables.look_up(table, index, remainder), exact, atol=2e-4)


def test_noise_nodes_of_an_snr_range_integrate_the_likelihood():
    for N, (low, high) in itertools.product((6, 64, 400), ((30, 150), (2, 500))):
        levels, log_weights = noise_nodes(SNRRange(low, high), N)
        # dense at the ends, where the likelihood may be a narrow boundary layer
        s = low + (high - low) * (1 - np.cos(np.linspace(0, np.pi, 100_001))) / 2
        for best in (low / 3, low, 1.7 * low, high, 3 * high):  # s^N exp(-N s^2 / 2 best^2)
            q = N / best**2
            by_nodes = logsumexp(log_weights - N * np.log(levels) - 0.5 * q / levels**2)
            exponent = N * np.log(s) - 0.5 * q * s**2
            top = exponent.max()
            dense = top + np.log(np.trapezoid(np.exp(exponent - top), s) / (high - low))
            assert by_nodes == pytest.approx(dense, abs=5e-3)


@pytest.mark.parametrize(
    ("levels", "N"),
    [(SNRRange(20.0, 1000.0, scale="log"), 64), (SNRRange(30.0, 150.0), 64), (SNRRange(5, 40), 6)],
)
def test_many_levels_of_normalised_signals_are_averaged(levels, N):
    # S that explain x at the ratio s: the projection x . S, relative to the peak of S, is at least
    # 1, and the misfit about N / s^2
    rng = np.random.default_rng(0)
    projection = rng.uniform(1.0, np.sqrt(N), 500)
    s = np.exp(rng.uniform(np.log(levels.low / 2), np.log(2 * levels.high), 500))
    misfit = N / s**2
    nodes, log_weights = noise_nodes(levels, N)
    assert len(nodes) > 16
    terms = log_radial_integral(projection[:, None] / nodes, N)
    terms += log_weights - 0.5 * misfit[:, None] / nodes**2
    exact = logsumexp(terms, axis=1) - N / 2 * np.log(2 * np.pi)
    noise = NoiseModel(levels, "max", True, N)
    for peak in (1.0, 0.3):
        found = noise.log_likelihood(
            projection * peak, (misfit + projection**2) * peak**2, 1.0, np.full(500, peak)
        )
        np.testing.assert_allclose(found, exact, atol=6e-3)


def states(model_ranges, K, V=3, C=50, seed=0):
    rng = np.random.default_rng(seed)
    units = rng.random((len(model_ranges), K, V, C), dtype=np.float32)
    fractions = list(np.moveaxis(rng.dirichlet(np.ones(K), (V, C)), -1, 0))
    return units, fractions


@pytest.mark.parametrize("stepped", [True, False], ids=["tables", "kernels"])
@pytest.mark.parametrize(
    "protocol",
    [GRID, SCATTERED, DIFFUSION, SERIES, TR_BY_TI, TR_BY_TE],
    ids=["grid", "scattered", "b", "two series", "TR by TI", "TR by TE"],
)
def test_inner_products_equal_those_of_the_signals(protocol, stepped):
    ranges = {
        "D": PropertyRange(0.2, 2.0, step=0.2 if stepped else None),
        "T1": PropertyRange(100, 3000, step=100 if stepped else None),
        "T2": PropertyRange(10, 200, step=10) if stepped else PropertyRange(10, 200, scale="log"),
    }
    model = CompartmentModel(protocol, ranges, 0.9, peak=True)
    assert model.tabulated == (stepped and protocol in (GRID, DIFFUSION, TR_BY_TI))
    x = np.random.default_rng(1).normal(size=(3, protocol.n_measurements))
    units, fractions = states(ranges, K=3)
    forms = model.bind(x).forms(units, np.arange(3))

    tissue = {}
    for (name, values), unit in zip(ranges.items(), units.astype(np.float64), strict=True):
        if values.step is not None:
            drawn = values.low + values.step * np.floor(unit * values.n_values)
        elif values.scale == "log":
            drawn = values.low * (values.high / values.low) ** unit
        else:
            drawn = values.low + unit * (values.high - values.low)
        tissue[name] = drawn.reshape(3, -1).T
    S = correlation_signals(
        protocol.contrasts, tissue, np.array(fractions).reshape(3, -1).T, tr=protocol.tr,
        inversion_efficiency=0.9,
    ).reshape(3, 50, -1)  # fmt: skip
    np.testing.assert_allclose(forms.projection(fractions), np.einsum("vcn,vn->vc", S, x))
    np.testing.assert_allclose(forms.squared(fractions), (S**2).sum(axis=-1))
    np.testing.assert_allclose(forms.peak(fractions), np.abs(S).max(axis=-1), rtol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("K", [2, 3, 4])
def test_proposed_fractions_have_the_stated_density(K, normalize):
    # importance sampling of the area of the simplex: the mean of 1 / density is its volume
    ranges = {"T1": PropertyRange(100, 3000), "T2": PropertyRange(10, 200)}
    noise = NoiseModel(0.2, "m0", normalize, GRID.n_measurements)
    x = np.random.default_rng(3).normal(size=(2, GRID.n_measurements))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    bound = CompartmentModel(GRID, ranges, 1.0, peak=False).bind(x)
    rng = np.random.default_rng(0)
    C = 40_000
    units = np.tile(rng.random((2, K, 2, 1), dtype=np.float32), (1, 1, 1, C))
    forms = bound.forms(units, np.arange(2))
    proposal = fraction_proposal(forms, noise, bound.signal_squared, np.full((2, 1), 0.05), 0.05)
    fractions, density = proposal.draw(rng.random((K - 1, 2, C)))
    np.testing.assert_allclose(sum(fractions), 1.0)
    assert min(f.min() for f in fractions) >= 0.05 - 1e-12
    np.testing.assert_allclose(proposal.log_density(fractions), density, atol=1e-6)
    inverse = np.exp(-density)
    volume = (1 - 0.05 * K) ** (K - 1) / np.prod(np.arange(1, K))
    error = inverse.std(axis=1) / np.sqrt(C)
    assert (np.abs(inverse.mean(axis=1) - volume) < 5 * error + 1e-9).all()
    assert (error < 0.1 * volume).all()


# -- the full prior -----------------------------------------------------------------


@pytest.mark.slow
def test_agrees_with_importance_sampling_from_the_prior_at_high_noise():
    levels = (0.3, 0.4)
    prior = TissuePrior.named("midl2024")
    protocol = AcquisitionProtocol.named("ir-se-8x8")
    X, y = draw(4, prior, protocol, noise_level=levels)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    posterior = (
        observer(prior, protocol, n_particles=4096, noise_level=levels).fit(X, y).posterior(X)
    )
    n = 12_000
    tissue, n_c = prior.sample(4 * n, random_state=1, verbose=False)
    groups = tissue.to_numpy().T.reshape(3, 4, -1)
    S = correlation_signals(protocol.contrasts, {"T1": groups[0].T, "T2": groups[1].T}, groups[2].T)
    b, misfit = X @ S.T, (S**2).sum(axis=1) - (X @ S.T) ** 2
    by_level = [
        np.array([log_radial_integral(row / s, 64) for row in b]) - 0.5 * misfit / s**2
        for s in levels
    ]
    terms = np.logaddexp(*by_level) - np.log(2) - 32 * np.log(2 * np.pi)  # fmt: skip
    for K in (1, 2, 3, 4):
        mine = terms[:, n_c == K]
        largest = mine.max(axis=1, keepdims=True)
        weights = np.exp(mine - largest)
        evidence = np.log(weights.mean(axis=1)) + largest[:, 0]
        error = weights.std(axis=1) / weights.mean(axis=1) / np.sqrt(n)
        column = posterior.log_evidence[:, K - 1]
        z = (column - evidence) / np.hypot(error, posterior.log_evidence_error[:, K - 1])
        known = error < 0.1  # sufficient effective number of draws from the prior
        assert known.sum() >= 3
        assert np.abs(z[known]).max() < 4.5


@pytest.fixture(scope="module")
def calibrated():
    prior = TissuePrior.named("midl2024", n_compartments=(1, 2, 3))
    protocol = AcquisitionProtocol.from_grid(ti=[50, 243, 697, 2000], te=[5, 20, 55, 150])
    X, y = draw(240, prior, protocol, noise_level=(0.02, 0.08))
    model = observer(
        prior, protocol, n_particles=512, n_runs=4, noise_level=(0.02, 0.08), n_jobs=2
    ).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model, X, y, model.posterior(X)


@pytest.mark.slow
def test_probabilities_of_signals_from_the_prior_are_calibrated(calibrated):
    _, _, y, posterior = calibrated
    p = posterior.probabilities
    for k, label in enumerate(posterior.classes):
        right = y == label
        # the number of each count is fixed, so that the test is slightly too easy
        error = np.sqrt((p[:, k] * (1 - p[:, k])).sum())
        assert abs((p[:, k] - right).sum()) < 4 * error
        for inside in (p[:, k] < 0.2, (p[:, k] >= 0.2) & (p[:, k] < 0.5), p[:, k] >= 0.5):
            spread = np.sqrt((p[inside, k] * (1 - p[inside, k])).sum() + 1)
            assert abs((p[inside, k] - right[inside]).sum()) < 4 * spread
    hits = posterior.classes[p.argmax(axis=1)] == y
    best = p.max(axis=1)
    assert abs((hits - best).sum()) < 4 * np.sqrt((best * (1 - best)).sum())
    assert hits.mean() > 0.45
    # the log probability of the truth has the mean expected from the posterior
    score = np.log(p[np.arange(len(y)), y - 1])
    entropy = (p * np.log(p)).sum(axis=1)
    assert abs((score - entropy).mean()) < 4 * score.std() / np.sqrt(len(y))


@pytest.mark.slow
def test_standard_errors_equal_the_spread_over_seeds(calibrated):
    model, X, _, _ = calibrated
    repeats = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for seed in range(12):
            repeats.append(clone(model).set_params(random_state=seed).fit(X, [1, 2, 3] * 80)
                           .posterior(X[:16]))  # fmt: skip
    for name, error in (
        ("probabilities", "standard_error"), ("log_evidence", "log_evidence_error")
    ):  # fmt: skip
        spread = np.std([getattr(each, name) for each in repeats], axis=0, ddof=1)
        stated = np.sqrt(np.mean([getattr(each, error) ** 2 for each in repeats], axis=0))
        # a single run with a much larger evidence makes the error of a log evidence many
        # times larger than usual; few such errors would dominate a mean
        assert 0.6 < np.median(spread / stated) < 1.4, name
        if name == "probabilities":
            ratio = np.sqrt((spread**2).mean() / (stated**2).mean())
            assert 0.7 < ratio < 1.4


# -- the estimator ------------------------------------------------------------------


def test_results_do_not_depend_on_n_jobs_and_other_signals(calibrated):
    model, X, _, posterior = calibrated
    again = clone(model).set_params(n_jobs=1).fit(X, [1, 2, 3] * 80)
    some = np.array([200, 3, 77])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = pickle.loads(pickle.dumps(again)).posterior(X[some])
        other = clone(model).set_params(random_state=1).fit(X, [1, 2, 3] * 80).posterior(X[some])
    np.testing.assert_array_equal(found.run_log_evidence, posterior.run_log_evidence[:, some])
    assert (other.run_log_evidence != found.run_log_evidence).all()


def test_the_scale_of_normalised_signals_does_not_matter(calibrated):
    model, X, _, posterior = calibrated
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scaled = model.predict_proba(1024 * X[:5])
    np.testing.assert_array_equal(scaled, posterior.probabilities[:5])


def test_zero_signals_are_counted_and_give_nan():
    X, _ = draw(4, few(), GRID, noise_level=0.1)
    X[[1, 3]] = 0
    model = observer(few(), GRID, n_particles=256, noise_level=0.1).fit(X, [1, 2, 3, 3])
    with pytest.warns(NoSignalWarning, match="2 of 4 voxels have no signal"):
        posterior = model.posterior(X)
    assert np.isnan(posterior.probabilities).all(axis=1).tolist() == [False, True, False, True]
    assert np.isnan(posterior.standard_error[1]).all()
    assert np.isnan(posterior.effective_sample_size[1])
    assert posterior.trustworthy.tolist() == [True, False, True, False]
    with pytest.warns(NoSignalWarning):
        assert model.predict(X)[1] == 0
    with pytest.warns(NoSignalWarning):
        several = model.predict_multicompartment_proba(X)
    np.testing.assert_allclose(several[0], posterior.probabilities[0, 1:].sum())


def test_unreliable_results_are_counted():
    prior = TissuePrior.named("midl2024")
    X, y = draw(8, prior, "ir-se-8x8", noise_level=0.001)
    model = observer(prior, "ir-se-8x8", n_particles=64, n_runs=2, noise_level=0.001)
    with pytest.warns(ConvergenceWarning) as caught:
        posterior = model.fit(X, y).posterior(X)
    # so few particles may also find no tissue that explains a voxel
    (text,) = [text for text in map(str, (one.message for one in caught)) if "unreliable" in text]
    assert re.search(r"probabilities of \d of 8 voxels are unreliable", text)
    assert not posterior.trustworthy.all()
    assert (posterior.standard_error.max(axis=1) > 0.1).tolist() == (
        ~posterior.trustworthy
    ).tolist()


def test_posterior_of_agreeing_and_disagreeing_runs():
    agreed = np.log(np.tile([0.2, 0.6, 0.2], (4, 1, 1)))
    posterior = CountPosterior(np.array([1, 2, 3]), agreed)
    np.testing.assert_allclose(posterior.probabilities, [[0.2, 0.6, 0.2]])
    np.testing.assert_allclose(posterior.standard_error, 0, atol=1e-7)
    assert posterior.effective_sample_size[0] > 1e9
    assert posterior.trustworthy.all()
    # ten draws with a frequency of 0.3, with an error of sqrt(0.3 0.7 / 10)
    rng = np.random.default_rng(0)
    runs = np.log([[0.3, 0.7]]) + 0.1 * rng.normal(size=(400, 1, 2))
    posterior = CountPosterior(np.array([1, 2]), runs)
    error = 0.3 * 0.7 * 0.1 * np.sqrt(2 / 400)
    np.testing.assert_allclose(posterior.standard_error, error, rtol=0.1)
    np.testing.assert_allclose(posterior.effective_sample_size, 0.21 / error**2, rtol=0.2)
    # all evidence for a count is from one run
    alone = agreed.copy()
    alone[0, :, 0] = 0
    alone[1:, :, 0] = -100
    assert not CountPosterior(np.array([1, 2, 3]), alone).trustworthy.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_level": (0.0, 0.1)}, "every noise_level must be above 0"),
        ({"noise_level": 0.0}, "noise_level"),
        ({"noise_reference": "mean"}, "noise_reference"),
        ({"n_runs": 1}, "n_runs"),
        ({"prior": "none"}, "unknown tissue prior"),
        ({"prior": few(n_compartments=(1, 2))}, "counts that the prior never draws: 3"),
        ({"prior": few(ranges={"T2": FEW["T2"]})}, "the protocol measures T1"),
        ({"protocol": SCATTERED}, "measurements"),
        ({"n_jobs": 0}, "n_jobs"),
    ],
)
def test_errors_are_raised_before_the_sampling(changes, message):
    X, _ = draw(3, few(), GRID, noise_level=0.1)
    with pytest.raises(ValueError, match=message):
        observer(few(), GRID).set_params(**changes).fit(X, [1, 2, 3])


def test_labels_may_be_strings_in_any_order():
    X, _ = draw(3, few(), GRID, noise_level=0.1)
    numbers = observer(few(), GRID, n_particles=256, noise_level=0.1).fit(X, [1, 2, 3])
    words = clone(numbers).fit(X, ["3", "1", "2"])
    np.testing.assert_array_equal(words.predict_proba(X), numbers.predict_proba(X))
    assert words.predict(X).tolist() == numbers.predict(X).astype(str).tolist()


def test_posterior_of_a_prior_without_freedom():
    # fractions >= 1 / 2 and a single grid point leave no freedom
    one = {"T1": PropertyRange(500, 500), "T2": PropertyRange(50, 50, step=5)}
    prior = few(ranges=one, n_compartments=(1, 2), fraction_law="dirichlet", min_fraction=0.5)
    X, _ = draw(2, prior, GRID, noise_level=0.1)
    p = observer(prior, GRID, n_particles=64, noise_level=0.1).fit(X, [1, 2]).predict_proba(X)
    np.testing.assert_allclose(p, 0.5, atol=1e-5)


# -- ceilings from posteriors ---------------------------------------------------------


def known_posterior(n=4000, noise=0.3, n_runs=6, seed=0):
    """Return exact posteriors, counts drawn from them, and noisy runs."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.7, 0.7, 0.7], n)
    y = 1 + (rng.random((n, 1)) > np.cumsum(p, axis=1)).sum(axis=1)
    # log-normal evidences with the correct mean
    factors = noise * rng.normal(size=(n_runs, n, 3)) - noise**2 / 2
    return p, y, np.log(p) + factors


def test_the_true_ceiling_lies_between_the_two_biased_estimates():
    p, y, evidence = known_posterior()
    table = accuracy_ceiling(evidence, [1, 2, 3], y, groups=np.repeat([0.01, 0.05], 2000))
    truth = {"count": p.max(axis=1), "multicompartment": np.maximum(p[:, 0], 1 - p[:, 0])}
    for task, best in truth.items():
        for group, part in (("all", slice(None)), (0.01, slice(2000)), (0.05, slice(2000, None))):
            row = table.loc[(group, task)]
            assert row["n"] == best[part].size
            # the same signals: only the Monte-Carlo errors differ
            assert row["cross_fitted"] < best[part].mean() < row["upper"]
            assert row["upper"] - row["cross_fitted"] < 0.03
            for name in ("upper", "cross_fitted", "hits"):
                assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
            error = (row["hits_high"] - row["hits_low"]) / 4
            assert abs(row["hits"] - best[part].mean()) < 4 * error
    # the interval of a mean over the signals
    row = table.loc[("all", "count")]
    half = 1.96 * p.max(axis=1).std() / np.sqrt(len(p))
    assert row["upper_high"] - row["upper"] == pytest.approx(half, rel=0.1)


def test_without_monte_carlo_errors_both_estimates_are_exact():
    p, y, evidence = known_posterior(n=50, noise=0.0)
    table = accuracy_ceiling(evidence, [1, 2, 3], y)
    row = table.loc[("all", "count")]
    assert row["upper"] == pytest.approx(p.max(axis=1).mean())
    assert row["cross_fitted"] == pytest.approx(p.max(axis=1).mean())
    found = regret(evidence, [1, 2, 3], np.full(50, 2)).loc["all"]
    assert found["upper"] == pytest.approx((p.max(axis=1) - p[:, 1]).mean())
    assert found["cross_fitted"] == pytest.approx(found["upper"])
    nothing = regret(evidence, [1, 2, 3], 1 + p.argmax(axis=1)).loc["all"]
    assert nothing["upper"] == nothing["cross_fitted"] == 0


def test_regret_equals_the_ceiling_minus_the_expected_accuracy():
    p, _, evidence = known_posterior()
    answers = 1 + np.random.default_rng(1).integers(0, 3, len(p))
    found = regret(evidence, [1, 2, 3], answers).loc["all"]
    truth = (p.max(axis=1) - p[np.arange(len(p)), answers - 1]).mean()
    assert found["cross_fitted"] < truth < found["upper"]
    assert found["upper"] - found["cross_fitted"] < 0.03
    several = answers > 1
    found = regret(evidence, [1, 2, 3], several, task="multicompartment").loc["all"]
    binary = np.column_stack([p[:, 0], 1 - p[:, 0]])
    truth = (binary.max(axis=1) - binary[np.arange(len(p)), several.astype(int)]).mean()
    assert found["cross_fitted"] < truth < found["upper"]


def test_ceilings_refuse_bad_input():
    _, y, evidence = known_posterior(n=5)
    lost = evidence.copy()
    lost[0, 3, 1] = np.nan
    for call, message in [
        (lambda: accuracy_ceiling(lost, [1, 2, 3], y), "NaN for 1 signals"),
        (lambda: accuracy_ceiling(evidence[:1], [1, 2, 3], y), "at least two runs, got 1"),
        (lambda: accuracy_ceiling(evidence, [1, 2], y), "for 2 classes"),
        (lambda: accuracy_ceiling(evidence, [1, 2, 3], y[:4]), "one count per signal"),
        (lambda: accuracy_ceiling(evidence, [1, 2, 3], y, [1]), "one per signal"),
        (lambda: regret(evidence, [1, 2, 3], [1, 2, 3, 4, 1]), "must be among the classes"),
        (lambda: regret(evidence, [1, 2, 3], y, task="both"), "task must be"),
        (lambda: regret(evidence, [1, 2, 3], y, task="multicompartment"), "booleans"),
        (lambda: regret(evidence, [1, 2, 3], y[:2]), "one per signal"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
