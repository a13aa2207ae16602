"""Regularised spectra: penalties, rules for their weight, windows, peaks and refocusing angles."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import nnls
from sklearn.exceptions import ConvergenceWarning

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    EchoTrain,
    NoSignalWarning,
    load,
    make_correlation_signals,
    save,
)
from corrsk._utils import memory
from corrsk.relaxometry import NNLSPeakClassifier, NNLSSpectrum, Spectra, _nnls, _penalties
from corrsk.relaxometry._penalties import PENALTIES, sum_of_differences
from corrsk.relaxometry._weights import RULES

TE = 10.0 * np.arange(1, 33)
ECHOES = AcquisitionProtocol(te=TE, tr=3000)
SIGMA = 0.004


def two_pools(protocol, noise=SIGMA, n=12):
    table = pd.DataFrame({"T2_1": [20.0], "T2_2": [90.0], "f_1": [0.2], "f_2": [0.8]})
    generator = CorrelationSignalGenerator(
        protocol, noise_level=noise, noise_reference="m0", random_state=0, verbose=False
    )
    return generator.fit_transform(pd.concat([table] * n, ignore_index=True))


@pytest.fixture(scope="module")
def X():
    return two_pools(ECHOES)


def spectrum_of(X, protocol=ECHOES, **parameters):
    parameters = {"n_bins": 40, "bounds": {"T2": (10, 2000)}, "verbose": False} | parameters
    return NNLSSpectrum(protocol, **parameters).fit(X)


def kernel_of(model):
    return np.exp(-TE[:, None] / model.axes_["T2"])


def augmented(model, penalty, alpha):
    """Matrix whose least squares are those with a penalty."""
    kernel = kernel_of(model)
    n = kernel.shape[1]
    order = PENALTIES.index(penalty)
    operator = np.eye(n)
    if order:
        operator = np.diff(np.eye(n + 2 * order), n=order, axis=0)[:, order:-order]
    weight = np.sqrt(alpha) * np.linalg.norm(kernel, 2)
    return np.vstack([kernel, weight * operator])


@pytest.fixture(params=["compiled", "numpy"])
def solver(request, monkeypatch):
    if request.param == "compiled":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(_nnls, "compiled", lambda: None)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("alpha", [1e-8, 1e-5, 1e-2])
def test_spectra_equal_those_of_scipy(X, penalty, alpha, solver):
    model = spectrum_of(X, penalty=penalty, regularization=alpha)
    found = model.transform(X[:4])
    matrix = augmented(model, penalty, alpha)
    for x, spectrum in zip(X, found, strict=False):
        right = np.concatenate([x, np.zeros(len(matrix) - len(x))])
        expected, _ = nnls(matrix, right, maxiter=10_000)
        np.testing.assert_allclose(spectrum, expected, atol=1e-6)
        # the minimum itself, which is flat along some directions
        best = np.sum((matrix @ expected - right) ** 2)
        assert np.sum((matrix @ spectrum - right) ** 2) <= best * (1 + 1e-9)


def test_the_second_method_of_penalties_gives_the_same_minimum(X, monkeypatch):
    expected = spectrum_of(X, penalty="second-difference", regularization=1e-6).transform(X[:3])
    monkeypatch.setattr(_penalties, "_pivot", lambda *_: None)
    found = spectrum_of(X, penalty="second-difference", regularization=1e-6).transform(X[:3])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_differences_along_each_axis():
    s = np.random.default_rng(0).uniform(size=(3, 4))
    padded = np.pad(s, 2)
    for order in (1, 2):
        expected = sum((np.diff(padded, n=order, axis=axis) ** 2).sum() for axis in (0, 1))
        assert s.ravel() @ sum_of_differences((3, 4), order) @ s.ravel() == pytest.approx(expected)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_rules_that_choose_a_residual(X, penalty):
    least = spectrum_of(X, penalty=penalty, regularization=1e-8).invert(X).residual
    chi2 = spectrum_of(X, penalty=penalty, chi2_factor=1.1).invert(X)
    np.testing.assert_allclose(chi2.residual**2 / least**2, 1.1, atol=2e-3)
    noise = 1.5 * least.max()
    found = spectrum_of(X, penalty=penalty, regularization="discrepancy", noise_level=noise).invert(
        X
    )
    np.testing.assert_allclose(found.residual, noise, rtol=0.01)


def costs_of(model, X, penalty, rule, alpha):
    """Criteria by their definitions, in the space of the measurements."""
    fixed = spectrum_of(X, penalty=penalty, regularization=alpha)
    kernel = kernel_of(model)
    scale = np.linalg.norm(kernel, 2)
    N = len(TE)
    costs = []
    for x, s in zip(X, fixed.transform(X), strict=True):
        cells = s > 0
        part = kernel[:, cells]
        operator = augmented(model, penalty, 1.0)[N:][:, cells] / scale
        prior = alpha * scale**2 * operator.T @ operator
        rss = np.sum((x - kernel @ s) ** 2)
        if rule == "gcv":
            hat = part @ np.linalg.solve(part.T @ part + prior, part.T)
            costs.append(np.log(rss / (1 - np.trace(hat) / N) ** 2))
        else:
            total = rss + s[cells] @ prior @ s[cells]
            covariance = np.eye(N) + part @ np.linalg.solve(prior, part.T)
            costs.append(N * np.log(total) + np.linalg.slogdet(covariance)[1])
    return np.array(costs)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("rule", ["gcv", "evidence"])
def test_criteria_are_at_their_minimum(X, penalty, rule):
    X = X[:4]
    model = spectrum_of(X, penalty=penalty, regularization=rule)
    chosen = np.log10(model.invert(X).weight)
    path = np.arange(-8, 0.1, 0.5)
    costs = np.stack([costs_of(model, X, penalty, rule, 10.0**z) for z in path])
    np.testing.assert_array_less(np.abs(chosen - path[costs.argmin(axis=0)]), 0.51)


def test_the_l_curve_is_between_noise_and_smoothness(X):
    weights = {rule: np.median(np.log10(spectrum_of(X, regularization=rule, noise_level=SIGMA)
               .invert(X).weight)) for rule in RULES}  # fmt: skip
    assert -8 < weights["gcv"] < weights["l-curve"] < -1


def test_residuals_are_those_of_the_spectra(X):
    model = spectrum_of(X)
    found = model.invert(X)
    expected = np.sqrt(np.mean((X - found.amplitudes @ kernel_of(model).T) ** 2, axis=1))
    np.testing.assert_allclose(found.residual, expected, rtol=1e-6)
    assert found.residual.mean() == pytest.approx(SIGMA, rel=0.25)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_signals_that_no_spectrum_explains_are_marked(penalty):
    echoes = two_pools(AcquisitionProtocol(te=TE, tr=3000, readout=EchoTrain(10.0, 120.0)), 0.001)
    X = np.concatenate([two_pools(ECHOES, 0.001), echoes, -echoes[:1]])
    model = spectrum_of(X, penalty=penalty, regularization=1e-3)
    with pytest.warns(ConvergenceWarning, match="13 of 25 voxels are not explained by the spectra"):
        found = model.invert(X)
    np.testing.assert_array_equal(found.misfit, np.arange(25) >= 12)
    (drawn,) = model.bootstrap(X[:2], 1)
    assert not drawn.misfit.any()


def test_the_bootstrap_has_the_scatter_of_the_noise():
    X = two_pools(ECHOES, n=100)
    model = spectrum_of(X)
    window = {"short": {"T2": (0, 40)}}
    scatter = model.invert(X).window_fractions(window)["short"].std()
    volume = X[:6].reshape(2, 3, 32)
    drawn = [
        each.window_fractions(window)["short"]
        for each in model.bootstrap(volume, 30, random_state=1)
    ]
    assert np.mean(np.std(drawn, axis=0)) == pytest.approx(scatter, rel=0.4)
    again = [each.window_fractions(window)["short"] for each in
             model.bootstrap(volume, 2, random_state=1)]  # fmt: skip
    np.testing.assert_array_equal(again, drawn[:2])
    volume = volume.copy()
    volume[0, 0] = 0
    with pytest.warns(NoSignalWarning):
        (dark,) = model.bootstrap(volume, 1, random_state=1)
    assert np.isnan(dark.weight).tolist() == [[True, False, False], [False] * 3]


# -- windows, peaks, marginals -------------------------------------------------------------


@pytest.fixture
def drawn():
    """Spectra of T1 x T2 with two separate peaks."""
    axes = {"T1": np.geomspace(100, 3000, 12), "T2": np.geomspace(10, 400, 10)}
    amplitudes = np.zeros((2, 12, 10))
    amplitudes[0, 2, 1:3] = 1.0, 0.5
    amplitudes[0, 8, 7] = 4.5
    amplitudes[1] = np.nan
    return Spectra(axes, amplitudes, np.ones(2), np.zeros(2), np.zeros(2, bool))


def test_windows_have_the_bins_between_their_limits(drawn):
    t2 = drawn.axes["T2"]
    found = drawn.window_fractions({
        "short": {"T2": (0, 50)},
        "to the first bin": {"T2": (0, t2[2])},
        "from the first bin": {"T2": (t2[2], 50)},
        "none": {"T2": (0, 50), "T1": (1000, 5000)},
    })  # fmt: skip
    expected = [0.25, 1 / 6, 0.5 / 6, 0.0]
    np.testing.assert_allclose(found.iloc[0], expected, atol=1e-12)
    assert found.iloc[1].isna().all()


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ({}, "there are no windows"),
        ("a", "windows must be a mapping"),
        ({"a": {"D": (0, 1)}}, r"no property 'D'; the properties are \['T1', 'T2'\]"),
        ({"a": (0, 40)}, r"'a' needs the lower and upper limit .* got \(0, 40\)"),
        ({"a": {"T2": (0, 40, 80)}}, "'a' needs the lower and upper limit"),
        ({"a": {"T2": (40, 40)}}, "'a' must be ascending, got 40 and 40"),
        (
            {"a": {"T2": (0, 5)}},
            "'a' contains no bin .* T1 in 12 bins from 100 to 3000 ms",
        ),
    ],
)
def test_bad_windows(drawn, windows, message):
    with pytest.raises(ValueError, match=message):
        drawn.window_fractions(windows)


def test_peaks_are_a_tissue_table(drawn):
    table = drawn.peaks()
    assert list(table.columns) == ["T1_1", "T1_2", "T2_1", "T2_2", "f_1", "f_2"]
    t1, t2 = drawn.axes["T1"], drawn.axes["T2"]
    first = np.exp((np.log(t2[1]) + 0.5 * np.log(t2[2])) / 1.5)
    np.testing.assert_allclose(table.iloc[0], [t1[2], t1[8], first, t2[7], 0.25, 0.75])
    assert table.loc[1, ["f_1", "f_2"]].eq(0).all()
    assert table.loc[1, ["T1_1", "T2_1"]].isna().all()
    largest = drawn.peaks(1)
    assert largest.loc[0, ["T2_1", "f_1"]].tolist() == pytest.approx([t2[7], 0.75])
    assert drawn.peaks(min_fraction=0.5).loc[0, "f_1"] == pytest.approx(0.75)
    with pytest.raises(ValueError, match="n_peaks"):
        drawn.peaks(0)


def test_marginals_and_means(drawn):
    np.testing.assert_allclose(drawn.marginal("T2")[0, [1, 2, 7]], [1, 0.5, 4.5])
    t1 = drawn.axes["T1"]
    mean = np.exp(0.25 * np.log(t1[2]) + 0.75 * np.log(t1[8]))
    assert drawn.geometric_mean("T1")[0] == pytest.approx(mean)
    assert np.isnan(drawn.geometric_mean("T1")[1])


# -- refocusing angles, volumes, input --------------------------------------------------------


@pytest.mark.parametrize("scope", ["voxel", "image"])
def test_the_refocusing_angle_is_found(scope):
    te = TE[:10]  # longer trains have larger tables
    X = two_pools(AcquisitionProtocol(te=te, tr=3000, readout=EchoTrain(10.0, 140.0)), 0.002, 4)
    nominal = AcquisitionProtocol(te=te, tr=3000, readout=EchoTrain(10.0, 180.0))
    model = spectrum_of(X, nominal, b1=(0.5, 1.0), b1_scope=scope, regularization=1e-4)
    found = model.invert(X)
    np.testing.assert_allclose(180 * found.b1, 140, atol=7)
    assert np.unique(found.b1).size == 1 or scope == "voxel"
    wrong = spectrum_of(X, nominal, regularization=1e-4).invert(X)
    assert (found.residual < 0.4 * wrong.residual).all()


def test_volumes_and_voxels_without_signal(X):
    volume = X.reshape(3, 4, 32).copy()
    volume[0, 1] = 0
    model = spectrum_of(X)
    with pytest.warns(NoSignalWarning, match="1 of 12"):
        found = model.invert(volume)
    assert found.amplitudes.shape == (3, 4, 40)
    assert np.isnan(found.amplitudes[0, 1]).all()
    assert np.isnan(found.weight[0, 1])
    expected = model.transform(X).reshape(3, 4, 40)
    np.testing.assert_allclose(found.amplitudes[1:], expected[1:], atol=1e-12)
    assert len(found.window_fractions({"a": {"T2": (0, 40)}})) == 12


def test_spectra_of_two_properties_scale_with_the_signals():
    X, _ = make_correlation_signals(6, noise_level=0.002, random_state=0, verbose=False)
    model = NNLSSpectrum(
        "ir-se-8x8", n_bins={"T1": 7, "T2": 9}, bounds="midl2024", verbose=False
    ).fit(X)
    once, more = model.transform(X), model.transform(1e3 * X)
    assert once.shape == (6, 63)
    np.testing.assert_allclose(more, 1e3 * once, rtol=1e-6, atol=1e-6 * more.max())
    names = model.get_feature_names_out()
    assert names.size == 63
    assert names[0] == "T1=50_T2=5"


def test_spectra_that_do_not_fit_into_memory_are_refused(X, tmp_path, monkeypatch):
    model = spectrum_of(X)
    counted = NNLSPeakClassifier(ECHOES, bounds={"T2": (10, 2000)}, counts=(1, 2)).fit(X)
    report = tmp_path / "meminfo"
    report.write_text("MemTotal: 99 kB\nMemAvailable:  2 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", report)
    message = r"spectra of 12 voxels on 40 bins need 3.84e-06 GB, but 2.05e-06 GB .* fewer voxels"
    with pytest.raises(MemoryError, match=message):
        model.invert(X)
    with pytest.raises(MemoryError, match="on 32 bins"):
        counted.spectra(X)
    report.write_text("nonsense")  # nothing is refused where it is unknown
    assert model.transform(X[:1]).shape == (1, 40)


def test_a_saved_model_gives_the_same_spectra(X, tmp_path):
    model = spectrum_of(X, penalty="first-difference", regularization="gcv")
    save(model, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    assert loaded.get_params() == model.get_params()
    np.testing.assert_array_equal(loaded.transform(X[:3]), model.transform(X[:3]))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"regularization": "discrepancy"}, "needs noise_level"),
        ({"b1": (0.5, 1.0)}, "the protocol has no echo train"),
        ({"protocol": AcquisitionProtocol(te=TE, readout=EchoTrain(10.0)), "b1": (1.0, 0.5)},
         r"two ascending values .* got \(1.0, 0.5\)"),
        ({"n_bins": {"T1": 5}}, "each of T2"),
        ({"n_jobs": 0}, "n_jobs"),
        ({"penalty": "third"}, "penalty"),
    ],
)  # fmt: skip
def test_parameters_out_of_range(X, parameters, message):
    with pytest.raises(ValueError, match=message):
        spectrum_of(X, **{"protocol": ECHOES} | parameters)
