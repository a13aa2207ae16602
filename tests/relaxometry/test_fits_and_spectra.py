"""Multi-exponential fits and NNLS spectra."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import least_squares, nnls
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_info, threadpool_limits

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    NoSignalWarning,
    PropertyRange,
    ProtocolWarning,
    SignalNormalizer,
    TissuePrior,
    load_dataset,
    make_correlation_signals,
)
from corrsk._utils.parallel import one_blas_thread
from corrsk.acquisition.bounds import checked_bounds
from corrsk.physics import Contrast, register_contrast
from corrsk.relaxometry import MultiExponentialClassifier, NNLSPeakClassifier, NNLSSpectrum
from corrsk.relaxometry._criteria import criterion_weights, f_test_choice, information_criterion
from corrsk.relaxometry._kernels import KernelModel
from corrsk.relaxometry._linalg import nonnegative_amplitudes, solve_each
from corrsk.relaxometry._nnls import SMALLEST_ALPHA, DualSolver
from corrsk.relaxometry._peaks import count_peaks, peak_masses
from corrsk.relaxometry._starts import StartDictionary
from corrsk.relaxometry._varpro import levenberg_marquardt
from corrsk.relaxometry._weights import by_factor

GRID = AcquisitionProtocol.named("ir-se-8x8")
COUNTS = [1, 2, 3, 4]
SERIES = AcquisitionProtocol.concatenate(
    [
        AcquisitionProtocol(ti=[50, 150, 400, 900, 1800, 4000], te=10, tr=9000),
        AcquisitionProtocol(te=[10, 25, 50, 80, 120, 180], tr=3000),
    ]
)
# a grid whose TR changes with TI has separable kernels, one whose TR changes with TE has not
TR_BY_TI = AcquisitionProtocol(GRID.contrasts, tr=1500 + GRID.ti)
TR_BY_TE = AcquisitionProtocol(GRID.contrasts, tr=2500 + 10 * GRID.te)
PRIOR_BOUNDS = {"T1": (50.0, 5000.0), "T2": (5.0, 500.0)}
SEPARATED = {
    "T1": [700.0, 4500.0, 1800.0, 200.0],
    "T2": [10.0, 30.0, 90.0, 300.0],  # ascending, the order of fits in results
    "D": [2.5, 0.9, 0.25, 0.08],
    "f": [0.25, 0.15, 0.2, 0.4],
}


def table(chosen, properties=("T1", "T2")):
    """Signal of a voxel with the first (or the given) compartments of `SEPARATED`."""
    chosen = range(chosen) if isinstance(chosen, int) else chosen
    values = {name: [SEPARATED[name][i] for i in chosen] for name in (*properties, "f")}
    values["f"] = np.array(values["f"]) / np.sum(values["f"])
    row = {f"{name}_{i + 1}": v for name in values for i, v in enumerate(values[name])}
    return pd.DataFrame([row])


def clean(tissue, protocol=GRID, **options):
    generator = CorrelationSignalGenerator(protocol, noise_level=0, dtype="float64", **options)
    return generator.fit_transform(tissue)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with threadpool_limits(1, user_api="blas"):  # more threads are slower for small matrices
        yield


@pytest.fixture(scope="module")
def noisy():
    data = load_dataset("midl2024-low-noise", n_samples=400, random_state=3)
    return data.data[:80].astype(np.float64), data.target[:80]


@pytest.fixture(scope="module")
def multiexponential(noisy):
    return MultiExponentialClassifier(
        "ir-se-8x8", random_state=0, n_starts=2, criterion="bic", n_jobs=2
    ).fit(*noisy)


@pytest.fixture(scope="module")
def peaks(noisy):
    return NNLSPeakClassifier("ir-se-8x8", n_bins=18, bounds="midl2024", n_jobs=2).fit(*noisy)


def grid_model(**bounds):
    return KernelModel(GRID, checked_bounds({**PRIOR_BOUNDS, **bounds}, GRID))


# -- kernels ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "protocol",
    [
        GRID,
        AcquisitionProtocol.from_grid(ti=[50, 400, 2000], te=[10, 40], b=[0, 1, 3], tr=4000),
        AcquisitionProtocol(
            ti=[50, 60, 900, 900, 2000, 70], te=[5, 50, 5, 9, 70, 100], tr=3000
        ).in_grid_order(),
        AcquisitionProtocol(te=[5, 5, 20, 60], b=[0, 0, 1, 2]),  # repeated measurements: not a grid
        SERIES,
        TR_BY_TI,
        TR_BY_TE,
    ],
    ids=[
        "grid",
        "three-dimensional",
        "scattered",
        "averages",
        "two series",
        "TR by TI",
        "TR by TE",
    ],
)
def test_columns_gram_and_projections_agree_with_explicit_signals(protocol):
    properties = protocol.tissue_properties
    model = KernelModel(protocol, checked_bounds(None, protocol), inversion_efficiency=0.9)
    rng = np.random.default_rng(0)
    B, K, P = 5, 3, len(properties)
    theta = rng.uniform(model.low, model.high, (B, K, P))
    x = rng.normal(size=(B, protocol.n_measurements))

    def explicit(theta):  # one compartment per row
        rows = theta.reshape(-1, P)
        tissue = pd.DataFrame(np.exp(rows), columns=[f"{name}_1" for name in properties])
        signals = clean(tissue.assign(f_1=1.0), protocol, inversion_efficiency=0.9)
        return signals.reshape(*theta.shape[:-1], -1)

    phi = explicit(theta)
    slopes = []
    for p in range(P):
        step = 1e-5 * np.eye(P)[p]
        slopes.append((explicit(theta + step) - explicit(theta - step)) / 2e-5)
    full = np.concatenate([phi, *slopes], axis=1)  # (B, J, N)

    factors, columns = model.factors(theta, derivatives=True), model.columns(K)
    tolerance = {"rtol": 1e-6, "atol": 1e-7}
    np.testing.assert_allclose(model.signals(factors, np.ones((B, K))), phi.sum(1), rtol=1e-10)
    np.testing.assert_allclose(
        model.gram(factors, columns), full @ full.transpose(0, 2, 1), **tolerance
    )
    np.testing.assert_allclose(
        model.project(factors, columns, x), np.einsum("bjn,bn->bj", full, x), **tolerance
    )


def test_a_new_contrast_needs_no_bounds(contrasts):
    register_contrast(Contrast("TSL", "T1rho", lambda tsl, t1rho: np.exp(-tsl / t1rho)))
    tsl, te = (axis.ravel() for axis in np.meshgrid([1, 10, 40, 90], [5, 20, 60], indexing="ij"))
    protocol = AcquisitionProtocol({"TSL": tsl, "TE": te}).in_grid_order()
    X = np.exp(-protocol.contrasts["TSL"] / 45 - protocol.te / 70)[None]
    for bounds in (None, {"T1rho": (5, 300)}):
        model = MultiExponentialClassifier(protocol, bounds=bounds).fit(X, [1])
        fitted = model.estimate_compartments(X).iloc[0]
        assert (fitted["T1rho_1"], fitted["T2_1"]) == pytest.approx((45, 70), rel=1e-3)


# -- variable projection ----------------------------------------------------------


@pytest.mark.parametrize("n_compartments", COUNTS)
def test_separated_compartments_are_recovered_at_any_scale(n_compartments):
    tissue = table(n_compartments)
    X = clean(tissue) * np.array([[1e-200], [1.0], [3e7]])
    model = MultiExponentialClassifier("ir-se-8x8", random_state=0).fit(np.ones((4, 64)), COUNTS)
    fitted = model.estimate_compartments(X, n_compartments)
    for name in tissue:
        np.testing.assert_allclose(fitted[name], tissue[name][0], rtol=1e-3)
    np.testing.assert_allclose(fitted["scale"], [1e-200, 1.0, 3e7], rtol=1e-4)
    assert (model.predict(X) == n_compartments).all()
    absent = [c for c in fitted if c.endswith(f"_{n_compartments + 1}")]
    assert fitted[[c for c in absent if c[0] == "T"]].isna().all(axis=None)
    assert (fitted[[c for c in absent if c[0] == "f"]] == 0).all(axis=None)


@pytest.mark.parametrize(
    ("protocol", "properties", "efficiency"),
    [
        (AcquisitionProtocol.from_grid(te=np.geomspace(4, 400, 10), b=[0, 0.3, 1, 2, 5, 9]),
         ("T2", "D"), 1.0),
        (AcquisitionProtocol.from_grid(ti=[50, 300, 1500], te=[5, 20, 60, 150], b=[0, 0.5, 2, 6]),
         ("T1", "T2", "D"), 1.0),
        (AcquisitionProtocol(ti=np.geomspace(40, 3000, 60), te=5 + 10 * (np.arange(60) * 7 % 24),
                             tr=3500), ("T1", "T2"), 0.9),
        (TR_BY_TI, ("T1", "T2"), 0.9),
        (TR_BY_TE, ("T1", "T2"), 0.9),
    ],
    ids=["T2-D", "T1-T2-D", "scattered with TR", "TR by TI", "TR by TE"],
)  # fmt: skip
def test_compartments_are_recovered_for_other_protocols(protocol, properties, efficiency):
    tissue = table([0, 3], properties)
    X = clean(tissue, protocol, inversion_efficiency=efficiency)
    model = MultiExponentialClassifier(
        protocol, random_state=0, n_starts=4, inversion_efficiency=efficiency
    ).fit(np.repeat(X, 3, axis=0), [1, 2, 3])
    fitted = model.estimate_compartments(X, 2)
    for name in tissue:
        np.testing.assert_allclose(fitted[name], tissue[name][0], rtol=1e-3)
    assert model.predict(X) == [2]
    counter = NNLSPeakClassifier(
        protocol, n_bins=8, regularization=1e-4, min_fraction=0.1, inversion_efficiency=efficiency
    ).fit(np.repeat(X, 3, axis=0), [1, 2, 3])
    assert counter.spectra(X).shape == (1, *(8,) * len(properties))
    with warnings.catch_warnings():  # exact signals are not explained on a coarse grid
        warnings.filterwarnings("ignore", "1 of 1 voxels are not explained.*n_bins")
        assert counter.predict(X) == [2]


def test_t1_and_t2_of_an_inversion_and_an_echo_series():
    prior = TissuePrior(
        {"T1": PropertyRange(200, 3000), "T2": PropertyRange(20, 200)}, n_compartments=(1,)
    )
    X, y, _, tissue = make_correlation_signals(
        200, prior=prior, protocol=SERIES, noise_level=0.001, norm=None, random_state=0,
        return_tissue=True,
    )  # fmt: skip
    fitted = MultiExponentialClassifier(SERIES).fit(X, y).estimate_compartments(X, 1)
    for name in ("T1_1", "T2_1", "scale"):
        true = 1.0 if name == "scale" else tissue[name]
        deviation = np.abs(fitted[name] / true - 1)
        assert deviation.median() < 0.01
        assert deviation.max() < 0.1
    # the same signals measured separately, stacked
    inversion, echoes = SERIES.subset(np.isfinite(SERIES.ti)), SERIES.subset(np.isinf(SERIES.ti))
    simulate = [
        clean(tissue.drop(columns="noise_level"), one) for one in (inversion, echoes, SERIES)
    ]
    np.testing.assert_allclose(np.hstack(simulate[:2]), simulate[2], rtol=1e-12, atol=1e-15)


def test_bounds_in_another_unit_need_a_range():
    echoes = AcquisitionProtocol(te=[0.05, 0.2, 0.5, 1, 2, 4], units="ms")
    X = np.exp(-echoes.te / 0.7)[None]
    with pytest.raises(ValueError, match=r"T2 must be in ms.*PropertyRange\(low, high, units='ms'"):
        MultiExponentialClassifier(echoes, bounds={"T2": (0.05, 4)}).fit(X, [1])
    bounds = {"T2": PropertyRange(0.05, 4, units="ms")}
    model = MultiExponentialClassifier(echoes, bounds=bounds).fit(X, [1])
    assert model.estimate_compartments(X)["T2_1"][0] == pytest.approx(0.7, rel=1e-3)
    with pytest.raises(ValueError, match="T2 must be in ms.*microseconds"):
        MultiExponentialClassifier(echoes, bounds={"T2": (100, 1e5)}).fit(X, [1])


def test_amplitudes_are_the_non_negative_least_squares_solution():
    rng = np.random.default_rng(1)
    columns = rng.normal(size=(200, 4, 12)) + 1.0
    columns /= np.linalg.norm(columns, axis=2, keepdims=True)
    x = rng.normal(size=(200, 12))
    got = nonnegative_amplitudes(
        columns @ columns.transpose(0, 2, 1), np.einsum("bkn,bn->bk", columns, x)
    )
    expected = np.array([nnls(a.T, b)[0] for a, b in zip(columns, x, strict=True)])
    assert (expected == 0).any()
    assert (expected > 0).any()
    np.testing.assert_allclose(got, expected, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("K", [2, 3])
def test_residuals_rarely_exceed_those_of_scipy_from_the_same_starts(K, noisy):
    model, n_starts = grid_model(), 6
    x = noisy[0][:40] / np.linalg.norm(noisy[0][:40], axis=1, keepdims=True)
    starts = StartDictionary(model, [K], seed=0)._best_tuples(x, K, n_starts).reshape(-1, K, 2)
    repeated = np.repeat(x, n_starts, axis=0)
    ours = levenberg_marquardt(model, repeated, starts, max_steps=200, tol=1e-9)

    def residual(flat, signal):
        phi = model.dictionary(flat.reshape(K, 2))
        return phi.T @ nnls(phi.T, signal)[0] - signal

    def reference(theta, signal):
        # strictly within the bounds, as scipy requires
        theta = np.clip(theta, model.low + 1e-9, model.high - 1e-9).ravel()
        bounds = np.tile(model.low, K), np.tile(model.high, K)
        return 2 * least_squares(residual, theta, bounds=bounds, args=(signal,)).cost

    theirs = np.array([reference(t, s) for t, s in zip(starts, repeated, strict=True)])
    best = ours.rss.reshape(-1, n_starts).min(axis=1)
    # From one start the two may converge to different minima; the best of a voxel's starts are
    # compared. Which voxels still differ depends on the last bit, and so on the processor: with
    # three compartments 7 to 9 of 80, by at most 2.2 %, on four core types of OpenBLAS. If each
    # voxel differs with a probability of 9 / 80, more than 13 of 40 do with a probability of 7e-5.
    excess = best / theirs.reshape(-1, n_starts).min(axis=1) - 1
    assert (excess > 1e-4).sum() <= 13
    assert excess.max() <= 0.1
    # scipy cannot improve our results
    for index in ours.rss.reshape(-1, n_starts).argmin(axis=1)[:6] + n_starts * np.arange(6):
        assert reference(ours.theta[index], repeated[index]) >= ours.rss[index] * (1 - 1e-4)
    for theta, signal, rss in zip(ours.theta, repeated, ours.rss, strict=True):
        assert np.sum(residual(theta.ravel(), signal) ** 2) == pytest.approx(rss, rel=1e-6)


def test_fits_end_at_stationary_points(noisy):
    model = grid_model()
    x = noisy[0][:30] / np.linalg.norm(noisy[0][:30], axis=1, keepdims=True)
    theta = np.tile(np.log([[500.0, 30.0], [2500.0, 150.0]]), (30, 1, 1))
    fit = levenberg_marquardt(model, x, theta, max_steps=300, tol=1e-12)
    for axis in range(4):
        step = 1e-3 * np.eye(4)[axis].reshape(2, 2)
        for sign in (-1, 1):
            moved = np.clip(fit.theta + sign * step, model.low, model.high)
            there = levenberg_marquardt(model, x, moved, max_steps=0, tol=0.0)
            assert (there.rss >= fit.rss * (1 - 1e-7)).all()


def test_fits_are_nested_and_within_bounds(noisy):
    X, y = noisy
    bounds = {"T1": (300.0, 1500.0), "T2": (30.0, 100.0)}  # too narrow for most voxels
    model = MultiExponentialClassifier(
        "ir-se-8x8", bounds=bounds, n_starts=1, max_steps=10, random_state=0
    )
    model.fit(X, y)
    with pytest.warns(ConvergenceWarning) as caught:
        fits = [model.estimate_compartments(X, K) for K in COUNTS]
    assert sum("at a bound" in str(warning.message) for warning in caught) == len(COUNTS)
    rss = np.stack([fit["rss"] for fit in fits])
    assert (np.diff(rss, axis=0) <= 0).all()
    for name, (low, high) in bounds.items():
        values = fits[3].filter(regex=rf"^{name}_\d$")
        assert values.min(axis=None) >= low * (1 - 1e-12)
        assert values.max(axis=None) <= high * (1 + 1e-12)
        assert np.isclose(values, high).any()
    fractions = fits[3].filter(like="f_")
    np.testing.assert_allclose(fractions.sum(axis=1), 1.0)
    assert (fractions >= 0).all(axis=None)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # at a bound, too few
@pytest.mark.slow
def test_fitted_table_reproduces_the_signals(noisy, multiexponential):
    X = noisy[0]
    fits = multiexponential.estimate_compartments(pd.DataFrame(X, index=np.arange(len(X)) + 7))
    assert fits.index[0] == 7
    assert (fits["n_c"] == multiexponential.predict(X)).all()
    tissue = fits.filter(regex=r"^(T1|T2|f)_\d$")
    residual = X - fits["scale"].to_numpy()[:, None] * clean(tissue)
    np.testing.assert_allclose(fits["rss"], np.sum(residual**2, axis=1), rtol=1e-5, atol=1e-12)
    t2 = fits.filter(regex=r"^T2_\d$").to_numpy()
    assert not (np.diff(t2, axis=1) < 0).any()


@pytest.mark.slow
def test_counts_of_low_noise_signals_are_correct(noisy):
    X, y = noisy
    for criterion in ("bic", "aicc", "f-test"):
        model = MultiExponentialClassifier(
            "ir-se-8x8", criterion=criterion, n_starts=1, random_state=0
        )
        predicted = model.fit(X, y).predict(X)
        assert np.mean((predicted > 1) == (y > 1)) > 0.85
        assert np.mean(predicted == y) > 0.45


# -- criteria ------------------------------------------------------------------------


def test_information_criteria_equal_their_definitions():
    rng = np.random.default_rng(0)
    residuals = rng.normal(scale=0.1, size=(3, 64))
    rss = np.sum(residuals**2, axis=1)[None]
    k = np.array([4, 7, 10])
    # -2 ln L of Gaussian residuals with their own variance, up to terms common to all fits
    deviance = [-2 * stats.norm.logpdf(r, scale=np.sqrt(np.mean(r**2))).sum() for r in residuals]
    bic = np.array(deviance) + k * np.log(64)
    aicc = np.array(deviance) + 2 * k + 2 * k * (k + 1) / (64 - k - 1)
    for name, expected in {"bic": bic, "aicc": aicc}.items():
        got = information_criterion(rss, 64, k, name)[0]
        np.testing.assert_allclose(got - got[0], expected - expected[0], rtol=1e-10)
        likelihood = np.exp(-0.5 * (expected - expected.min()))
        np.testing.assert_allclose(
            criterion_weights(got[None])[0], likelihood / likelihood.sum(), rtol=1e-8
        )


def test_fits_with_too_many_parameters_are_never_chosen():
    rss = np.array([[1e-3, 1e-9, 1e-20]])
    assert information_criterion(rss, 9, np.array([4, 7, 10]), "bic").argmin() == 1
    assert information_criterion(rss, 8, np.array([4, 7, 10]), "aicc").argmin() == 0
    assert f_test_choice(rss, 6, np.array([3, 6, 9]), 0.05) == [0]


def test_f_tests_stop_at_the_first_that_does_not_reject():
    p = np.array([3, 6, 9])

    def rss_for(pvalues):  # residuals for which the tests have these p-values
        rss = [1.0]
        for index, value in enumerate(pvalues):
            spare = 64 - p[index + 1]
            rss.append(rss[-1] / (1 + stats.f.isf(value, 3, spare) * 3 / spare))
        return rss

    rss = np.array([rss_for(q) for q in [(0.04, 0.04), (0.04, 0.06), (0.06, 0.01), (0.06, 0.9)]])
    assert f_test_choice(rss, 64, p, 0.05).tolist() == [2, 1, 0, 0]
    assert f_test_choice(rss, 64, p, 0.07).tolist() == [2, 2, 2, 1]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # at a bound, too few
@pytest.mark.slow
def test_classifier_applies_the_criterion_to_its_fits(noisy, multiexponential):
    X = noisy[0]
    rss = np.stack([multiexponential.estimate_compartments(X, K)["rss"] for K in COUNTS], axis=1)
    bic = 64 * np.log(rss / 64) + np.log(64) * (3 * np.array(COUNTS) + 1)
    weights = np.exp(-0.5 * (bic - bic.min(axis=1, keepdims=True)))
    np.testing.assert_allclose(
        multiexponential.predict_proba(X), weights / weights.sum(axis=1, keepdims=True), rtol=1e-5,
        atol=1e-8,
    )  # fmt: skip
    f_test = clone(multiexponential).set_params(criterion="f-test").fit(*noisy)
    assert set(np.unique(f_test.predict_proba(X[:9]))) == {0.0, 1.0}
    steps = (rss[:, :-1] - rss[:, 1:]) / 3 / (rss[:, 1:] / (64 - 3 * np.arange(2, 5)))
    rejected = stats.f.sf(steps, 3, 64 - 3 * np.arange(2, 5)) < 0.05
    expected = 1 + np.cumprod(rejected, axis=1).sum(axis=1)
    np.testing.assert_array_equal(f_test.predict(X), expected)


# -- spectra ---------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1e-2, 1e-4, 1e-6])
def test_spectra_equal_those_of_scipy_for_the_augmented_system(alpha, noisy):
    X, y = noisy
    model = NNLSPeakClassifier(
        "ir-se-8x8", n_bins={"T1": 9, "T2": 11}, bounds=PRIOR_BOUNDS, regularization=alpha
    ).fit(X, y)
    spectra = model.spectra(X[:6])
    t1, t2 = (axis.ravel() for axis in np.meshgrid(*model.axes_.values(), indexing="ij"))
    kernel = clean(pd.DataFrame({"T1_1": t1, "T2_1": t2, "f_1": 1.0})).T
    weight = np.sqrt(alpha) * np.linalg.norm(kernel, 2)
    augmented = np.vstack([kernel, weight * np.eye(99)])
    for x, spectrum in zip(X, spectra, strict=False):
        expected = nnls(augmented, np.concatenate([x, np.zeros(99)]), maxiter=10_000)[0]
        np.testing.assert_allclose(spectrum.ravel(), expected, atol=1e-5 * np.abs(expected).max())


def test_chi2_factor_is_reached(noisy, peaks):
    X = noisy[0] / np.linalg.norm(noisy[0], axis=1, keepdims=True)
    solver = peaks._solver
    kernel = peaks._model.dictionary(peaks._model.grid((18, 18))[1]).T

    def residual(dual):
        return np.sum((X - solver.spectrum(dual) @ kernel.T) ** 2, axis=1)

    X = X[:60]
    unregularised = residual(solver.fixed(X, SMALLEST_ALPHA))
    dual, alpha = by_factor(solver, X, 1.02)
    ratio = residual(dual) / unregularised
    assert (alpha > SMALLEST_ALPHA).mean() > 0.9
    np.testing.assert_allclose(ratio[alpha > SMALLEST_ALPHA], 1.02, atol=3e-4)
    more = residual(by_factor(solver, X, 1.5)[0]) / unregularised
    assert np.median(more) == pytest.approx(1.5, abs=0.01)


def test_spectra_scale_with_the_signals(noisy, peaks):
    once, more = peaks.spectra(noisy[0][:5]), peaks.spectra(1e3 * noisy[0][:5])
    np.testing.assert_allclose(more, 1e3 * once, rtol=1e-6, atol=1e-6 * more.max())
    tissue = table(2)
    assert peaks.spectra(clean(tissue)).sum() == pytest.approx(1.0, abs=0.02)


def test_peaks_of_constructed_spectra():
    spectra = np.zeros((5, 8, 8))
    spectra[0, 2, 2] = 1.0
    spectra[1, [1, 6], [1, 6]] = [0.9, 0.1]
    spectra[1, 6, 5] = 0.05  # a shoulder of the second
    spectra[2, 2:5, 2:5] = 1.0  # a plateau is one peak
    spectra[3, 3, 3] = spectra[3, 4, 4] = 1.0  # diagonal neighbours are one peak
    spectra[4, 0, :] = [3, 2, 1, 0.5, 1, 2, 3, 0]  # a valley between two at the border
    assert count_peaks(spectra, 0.05).tolist() == [1, 2, 1, 1, 2]
    assert count_peaks(spectra, 0.3).tolist() == [1, 1, 1, 1, 2]
    masses = peak_masses(spectra)
    np.testing.assert_allclose(masses.sum(axis=1), spectra.sum(axis=(1, 2)))
    np.testing.assert_allclose(masses[1, 6 * 8 + 6], 0.15)
    volume = np.zeros((1, 4, 4, 4))
    volume[0, 0, 0, 0] = volume[0, 3, 3, 3] = volume[0, 0, 0, 2] = 1.0
    assert count_peaks(volume, 0.1).tolist() == [3]
    assert count_peaks(np.zeros((1, 3, 3)), 0.1).tolist() == [0]


def test_counts_are_clipped_to_the_nearest_class():
    X = np.concatenate([clean(table(k)) for k in (1, 2, 3)])
    X += 0.001 * np.random.default_rng(0).normal(size=X.shape)
    model = NNLSPeakClassifier("ir-se-8x8", n_bins=20, bounds=PRIOR_BOUNDS, regularization=1e-6)
    model.fit(X, [1, 2, 3])
    assert model.predict(X).tolist() == [1, 2, 3]
    assert model.fit(X, [2, 2, 4]).predict(X).tolist() == [2, 2, 2]  # 3 is as close to 2 as to 4
    assert set(np.unique(model.predict_proba(X))) == {0.0, 1.0}


# -- both --------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["multiexponential", "peaks"])
def test_a_failed_voxel_does_not_affect_other_voxels(which, noisy, request):
    model = request.getfixturevalue(which)
    X = noisy[0][:10]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = model.predict_proba(X)
    broken = np.insert(X, [3, 7], 0.0, axis=0)
    with pytest.warns(NoSignalWarning, match="2 of 12 voxels") as caught:
        got = model.predict_proba(broken)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    zero = [3, 8]
    assert np.isnan(got[zero]).all()
    np.testing.assert_allclose(np.delete(got, zero, axis=0), expected, rtol=1e-6, atol=1e-9)
    with pytest.warns(NoSignalWarning):
        assert (model.predict(broken)[zero] == 0).all()
    with pytest.warns(NoSignalWarning):
        assert np.isnan(model.predict_multicompartment_proba(broken)[zero]).all()


def test_failed_voxels_are_nan_in_tables_and_spectra(noisy, multiexponential, peaks):
    X = np.insert(noisy[0][:3], 1, 0.0, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a compartment may be at a bound
        with pytest.warns(NoSignalWarning, match="1 of 4"):
            fits = multiexponential.estimate_compartments(X)
    assert fits.drop(columns=["n_c", "misfit", "at_bound"]).iloc[1].isna().all()
    assert (fits["n_c"][1], fits["misfit"][1], fits["at_bound"][1]) == (0, False, False)
    with pytest.warns(NoSignalWarning, match="1 of 4"):
        spectra = peaks.spectra(X)
    assert np.isnan(spectra).all(axis=(1, 2)).tolist() == [False, True, False, False]


def test_a_singular_system_or_failed_solver_affects_one_voxel_only(
    noisy, multiexponential, monkeypatch
):
    matrices = np.stack([np.eye(2), np.zeros((2, 2)), 2 * np.eye(2)])
    solved = solve_each(matrices, np.ones((3, 2, 1)))[..., 0]
    np.testing.assert_array_equal(solved, [[1, 1], [np.nan, np.nan], [0.5, 0.5]])

    X = noisy[0][:5]
    expected = multiexponential.predict_proba(X)
    fits = type(multiexponential)._fits

    def gives_up(self, unit, largest):
        if np.isclose(unit, X[2] / np.linalg.norm(X[2])).all(axis=1).any():
            raise np.linalg.LinAlgError
        return fits(self, unit, largest)

    monkeypatch.setattr(type(multiexponential), "_fits", gives_up)
    with pytest.warns(ConvergenceWarning, match="1 of 5"):
        got = multiexponential.predict_proba(X)
    assert np.isnan(got[2]).all()
    with pytest.warns(ConvergenceWarning, match="1 of 5"):
        assert multiexponential.predict(X)[2] == 0
    rest = [0, 1, 3, 4]
    np.testing.assert_allclose(got[rest], expected[rest], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["multiexponential", "peaks"])
def test_the_result_of_a_voxel_depends_only_on_its_signal(which, noisy, request):
    model = request.getfixturevalue(which)
    X = noisy[0]
    expected = model.predict_proba(X)
    tolerance = {"rtol": 1e-5, "atol": 1e-8}
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(model.predict_proba(X[order]), expected[order], **tolerance)
    np.testing.assert_allclose(model.predict_proba(X[70:73]), expected[70:73], **tolerance)
    np.testing.assert_allclose(model.predict_proba(100 * X[:20]), expected[:20], **tolerance)
    cube = X.reshape(-1, 8, 8)[:4]
    np.testing.assert_allclose(model.predict_proba(cube), expected[:4], **tolerance)
    other = clone(model).set_params(n_jobs=1, verbose=False).fit(*noisy)
    np.testing.assert_allclose(other.predict_proba(X), expected, **tolerance)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(again.predict_proba(X[:4]), expected[:4], **tolerance)


@pytest.mark.parametrize("estimator", [MultiExponentialClassifier, NNLSPeakClassifier])
class TestErrorsAndConventions:
    def test_wrong_number_of_columns(self, estimator):
        X = np.random.default_rng(0).normal(size=(4, 30))
        with pytest.raises(ValueError, match="30 columns.*pass protocol="):
            estimator().fit(X, COUNTS)
        with pytest.raises(ValueError, match="30 columns, but the protocol has 64"):
            estimator("ir-se-8x8").fit(X, COUNTS)

    def test_labels_that_are_not_counts(self, estimator):
        X = np.random.default_rng(0).normal(size=(4, 64))
        with pytest.raises(ValueError, match="compartment counts"):
            estimator().fit(X, [0, 1, 2, 3])
        with pytest.raises(ValueError, match="compartment counts"):
            estimator().fit(X, ["one", "two", "two", "one"])

    @pytest.mark.parametrize(
        ("bounds", "match"),
        [
            ({"T1": (500, 50)}, "0 < low < high"),
            ({"T2": (0, 50)}, "0 < low < high"),
            ({"T2": 50}, "0 < low < high"),
            ({"D": (0.1, 3)}, "protocol measures T1, T2"),
            ({"T1": (0.05, 5)}, "seconds"),
        ],
    )
    def test_bad_bounds(self, estimator, bounds, match):
        with pytest.raises(ValueError, match=match):
            estimator("ir-se-8x8", bounds=bounds).fit(np.ones((2, 64)), [1, 2])

    def test_protocol_from_column_names(self, estimator):
        protocol = AcquisitionProtocol.from_grid(ti=[60, 500, 2500], te=[8, 30, 90])
        X, y = make_correlation_signals(20, protocol=protocol, random_state=0)
        y = np.minimum(y, 2)  # nine measurements are too few for three compartments
        frame = pd.DataFrame(X, columns=protocol.feature_names)
        model = estimator().fit(frame, y)
        assert model.protocol_ == protocol
        assert list(model.feature_names_in_) == protocol.feature_names
        expected = model.predict(frame)
        for given in ("auto", protocol):
            reversed_ = estimator(given).fit(frame.iloc[:, ::-1], y)
            assert reversed_.protocol_.feature_names == protocol.feature_names[::-1]
            np.testing.assert_array_equal(reversed_.predict(frame.iloc[:, ::-1]), expected)
            with pytest.raises(ValueError, match="same order"):
                reversed_.predict(frame)  # scikit-learn's own check of the names

    def test_64_columns_without_names_warn_of_the_assumed_protocol(self, estimator):
        protocol = AcquisitionProtocol.from_grid(ti=[50, 200, 700, 2000], te=np.arange(10, 170, 10))
        X, y = make_correlation_signals(20, protocol=protocol, random_state=0)
        with pytest.warns(ProtocolWarning, match="protocol of the 64 columns .* 'ir-se-8x8' is as"):
            model = estimator().fit(X, y)
        assert model.protocol_ == AcquisitionProtocol.named("ir-se-8x8")
        assert estimator(protocol).fit(X, y).protocol_ == protocol  # warnings are errors
        frame = pd.DataFrame(X, columns=protocol.feature_names)
        assert estimator().fit(frame, y).protocol_ == protocol
        with pytest.raises(ValueError, match="names of the columns are not"):
            model.predict(frame)

    def test_labels_as_strings_are_ordered_as_numbers(self, estimator):
        X = np.repeat(clean(table(2)), 4, axis=0)
        model = estimator(protocol="ir-se-8x8", bounds=None).fit(X, ["8", "2", "2", "8"])
        assert (model.predict(X) == "2").all()
        if estimator is NNLSPeakClassifier:  # fits stop at 8 compartments
            model.fit(X, ["10", "2", "2", "10"])  # sorted as strings, 10 comes first
            assert model.classes_.tolist() == ["10", "2"]
            assert (model.predict(X) == "2").all()
        with pytest.warns(NoSignalWarning):
            assert model.predict(np.zeros((1, 64))) == ["0"]

    def test_in_a_pipeline(self, estimator, noisy):
        X, y = noisy[0][:20], noisy[1][:20]
        pipeline = make_pipeline(SignalNormalizer(), estimator("ir-se-8x8", verbose=False))
        for name in pipeline.get_params():
            if name.endswith(("random_state", "n_bins")):
                pipeline.set_params(**{name: 24})
        probabilities = pipeline.fit(X, y).predict_proba(1e4 * X[:10])
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
        plain = clone(pipeline[-1]).fit(X, y).predict_proba(X[:10])
        np.testing.assert_allclose(probabilities, plain, rtol=1e-4, atol=1e-6)


def test_parameters_out_of_range():
    X, y = np.ones((2, 64)), [1, 2]
    with pytest.raises(ValueError, match="'criterion'"):
        MultiExponentialClassifier("ir-se-8x8", criterion="hqc").fit(X, y)
    with pytest.raises(ValueError, match="'alpha'"):
        MultiExponentialClassifier("ir-se-8x8", alpha=1.5).fit(X, y)
    with pytest.raises(ValueError, match="up to 8 compartments"):
        MultiExponentialClassifier("ir-se-8x8").fit(X, [1, 9])
    with pytest.raises(ValueError, match="at most 2"):
        MultiExponentialClassifier("ir-se-8x8").fit(X, y).estimate_compartments(X, 3)
    with pytest.raises(ValueError, match="'chi2_factor'"):
        NNLSPeakClassifier("ir-se-8x8", chi2_factor=1.0).fit(X, y)
    with pytest.raises(ValueError, match="'regularization'"):
        NNLSPeakClassifier("ir-se-8x8", regularization="l-curve").fit(X, y)
    with pytest.raises(ValueError, match="each of T1, T2"):
        NNLSPeakClassifier("ir-se-8x8", n_bins={"T1": 10}).fit(X, y)


def test_dual_solver_satisfies_the_optimality_conditions(noisy):
    model = grid_model()
    kernel = model.dictionary(model.grid((10, 10))[1]).T
    solver = DualSolver(model, (10, 10), 3e-6)
    X = noisy[0][:20]
    spectra = solver.spectrum(solver.fixed(X, 1e-5))
    slope = (spectra @ kernel.T - X) @ kernel / solver.scale**2 + 1e-5 * spectra
    assert np.abs(slope[spectra > 0]).max() < 1e-8
    assert slope[spectra == 0].min() > -1e-8


def test_the_number_of_blas_threads_is_restored():
    def threads():
        return [library["num_threads"] for library in threadpool_info()
                if library["user_api"] == "blas"]  # fmt: skip

    before = threads()
    with one_blas_thread:
        with one_blas_thread:  # as if from another thread that ends first
            pass
        assert set(threads()) == {1}
    assert threads() == before


@pytest.mark.filterwarnings("ignore:.*voxels are not explained")  # by so coarse a spectrum
def test_model_based_classifiers_accept_weights_and_give_log_probabilities():
    X, y = make_correlation_signals(40, noise_level=0.001, random_state=0, verbose=False)
    model = NNLSPeakClassifier("ir-se-8x8", n_bins=5, regularization=1e-3, verbose=False)
    plain = clone(model).fit(X, y)
    weighted = clone(model).fit(X, y, sample_weight=np.arange(40))
    np.testing.assert_array_equal(weighted.predict_proba(X), plain.predict_proba(X))
    with pytest.raises(ValueError, match="sample_weight"):
        clone(model).fit(X, y, sample_weight=-np.ones(40))
    with np.errstate(divide="ignore"):
        expected = np.log(plain.predict_proba(X))
    np.testing.assert_array_equal(plain.predict_log_proba(X), expected)


@pytest.mark.parametrize("n_bins", [600, 10**9, {"T1": 2, "T2": 10**6}])
@pytest.mark.parametrize("cls", [NNLSPeakClassifier, NNLSSpectrum])
def test_spectra_of_too_many_cells_are_refused_before_memory_is_allocated(cls, n_bins):
    X, y = make_correlation_signals(8, random_state=0, verbose=False)
    with pytest.raises(ValueError, match="a spectrum has at most 262,144 cells"):
        cls("ir-se-8x8", n_bins=n_bins, verbose=False).fit(X, y)
