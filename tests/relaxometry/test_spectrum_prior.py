"""Spectra of fitted compartments, and spectra that are drawn to them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import nnls
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    load,
    make_correlation_signals,
    save,
)
from corrsk._utils.files import InvalidFileError
from corrsk.relaxometry import MultiExponentialClassifier, NNLSSpectrum, _nnls
from corrsk.relaxometry._lines import shares_of_bins, spectra_of_lines
from corrsk.relaxometry._weights import RULES

PROTOCOL = "ir-se-8x8"
BOUNDS = {"T1": (100.0, 4000.0), "T2": (10.0, 400.0)}
COMMON = {"bounds": BOUNDS, "verbose": False}
TWO = pd.DataFrame({"T1_1": [500.0], "T1_2": [1500.0], "T2_1": [30.0], "T2_2": [150.0],
                    "f_1": [0.4], "f_2": [0.6]})  # fmt: skip


class Given(BaseEstimator):
    """Prior with a given spectrum of every voxel, in the units of the signals."""

    def __init__(self, spectrum=None):
        self.spectrum = spectrum

    def fit(self, X, y=None):
        self.n_features_in_ = np.shape(X)[1]
        return self

    def predict_spectrum(self, X, grid):
        assert [*grid] == ["T1", "T2"]
        return np.broadcast_to(self.spectrum, (len(X), *np.shape(self.spectrum)))


@pytest.fixture(scope="module")
def X():
    generator = CorrelationSignalGenerator(
        PROTOCOL, noise_level=0.002, dtype="float64", random_state=0, verbose=False
    )
    return 50 * generator.fit_transform(pd.concat([TWO] * 6, ignore_index=True))


@pytest.fixture(scope="module")
def fits(X):
    return MultiExponentialClassifier(
        PROTOCOL, criterion="bic", counts=(1, 2, 3), random_state=0, **COMMON
    ).fit(X)


# -- spectra of compartments ----------------------------------------------------------


def test_shares_are_those_of_a_normal_distribution():
    logs = np.linspace(0, 5, 26)
    mean, error = np.array([2.03, 2.11, 4.6]), np.array([0.4, 0.02, 0.3])
    shares = shares_of_bins(mean, error, logs)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-12)
    # each value is divided between its neighbours
    t = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    for own, m, s in zip(shares, mean, error, strict=True):
        values = np.clip(m + s * t, logs[0], logs[-1])
        expected = [np.maximum(0, 1 - np.abs(values - u) / 0.2).mean() for u in logs]
        np.testing.assert_allclose(own, expected, atol=1e-5)


def test_lines_keep_their_mean_and_values_beyond_belong_to_the_ends():
    logs = np.log(np.geomspace(10, 400, 12))
    mean = np.array([np.log(37.0), np.log(2.0), np.log(9000.0), logs[3]])
    shares = shares_of_bins(mean, np.zeros(4), logs)
    np.testing.assert_allclose(shares @ logs, np.clip(mean, logs[0], logs[-1]), atol=1e-12)
    assert ((shares > 1e-12).sum(axis=1) == [2, 1, 1, 1]).all()


def test_a_spectrum_has_the_marginals_of_its_lines():
    rng = np.random.default_rng(0)
    logs = [np.linspace(0, 3, 9), np.linspace(1, 2, 5), np.linspace(-1, 1, 4)]
    theta = rng.uniform([0, 1, -1], [3, 2, 1], (2, 3, 3))
    amplitudes, errors = rng.random((2, 3)), 0.1 * rng.random((2, 3, 3))
    spectra = spectra_of_lines(amplitudes, theta, errors, logs)
    assert spectra.shape == (2, 9, 5, 4)
    for place, axis in enumerate(logs):
        shares = shares_of_bins(theta[..., place], errors[..., place], axis)
        others = tuple(1 + each for each in range(3) if each != place)
        expected = np.einsum("vk,vkn->vn", amplitudes, shares)
        np.testing.assert_allclose(spectra.sum(axis=others), expected, atol=1e-12)


def test_the_spectrum_of_fits_has_their_compartments(X, fits):
    grid = {"T1": np.geomspace(100, 4000, 60), "T2": np.geomspace(10, 400, 50)}
    lines = fits.predict_spectrum(X, grid, widened=False, probabilities=[[0, 1, 0]] * len(X))
    table = fits.estimate_compartments(X, n_compartments=2)
    np.testing.assert_allclose(lines.sum(axis=(1, 2)), table["scale"], rtol=1e-9)
    for place, name in ((1, "T1"), (2, "T2")):
        mean = np.einsum("vab,a->v" if place == 1 else "vab,b->v", lines, np.log(grid[name]))
        expected = (table[["f_1", "f_2"]].to_numpy()
                    * np.log(table[[f"{name}_1", f"{name}_2"]].to_numpy())).sum(axis=1)  # fmt: skip
        np.testing.assert_allclose(mean / table["scale"], expected, rtol=1e-9)
    # the mixture of the counts
    each = [fits.predict_spectrum(X, grid, probabilities=[row] * len(X)) for row in np.eye(3)]
    mixed = np.einsum("vk,kvab->vab", fits.predict_proba(X), each)
    np.testing.assert_allclose(fits.predict_spectrum(X, grid), mixed, atol=1e-9)


def test_volumes_and_voxels_without_signal(X, fits):
    grid = {"T2": [10, 50, 400], "T1": [100, 4000]}  # in any order
    volume = np.concatenate([X[:3], np.zeros((1, 64))]).reshape(2, 2, 64)
    with pytest.warns(match="zero"):
        found = fits.predict_spectrum(volume, grid)
    assert found.shape == (2, 2, 2, 3)
    assert np.isnan(found[1, 1]).all()
    np.testing.assert_allclose(found[0, 1], fits.predict_spectrum(X[1:2], grid)[0])


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"T1": [1, 2]}, "values of each of T1, T2; got T1"),
        ([1, 2], "values of each of"),
        ({"T1": [2, 1], "T2": [1, 2]}, "grid of T1 must have"),
        ({"T1": [1, 2], "T2": [0, 2]}, "grid of T2 must have"),
    ],
)
def test_grids_that_make_no_sense(X, fits, grid, message):
    with pytest.raises(ValueError, match=message):
        fits.predict_spectrum(X, grid)


@pytest.mark.parametrize(
    "given", [[[0.5, 0.5, 0.0]], [[0.7, 0.7, -0.4]] * 6, [[0.2, 0.2, 0.2]] * 6]
)
def test_probabilities_that_make_no_sense(X, fits, given):
    with pytest.raises(ValueError, match="probabilities must have a row for each of 6 voxels"):
        fits.predict_spectrum(X, {"T1": [1, 2], "T2": [1, 2]}, probabilities=given)


# -- spectra with a prior --------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("alpha", [1e-7, 1e-4, 1e-2])
def test_a_spectrum_with_a_prior_equals_the_one_of_scipy(X, monkeypatch, alpha, compiled):
    if not compiled:
        monkeypatch.setattr(_nnls, "compiled", lambda: None)
    given = np.random.default_rng(1).random((9, 8))
    model = NNLSSpectrum(
        PROTOCOL, n_bins={"T1": 9, "T2": 8}, regularization=alpha, prior=Given(given), **COMMON
    ).fit(X)
    t1, t2 = model.axes_.values()
    protocol = AcquisitionProtocol.named(PROTOCOL)
    kernel = np.kron(1 - 2 * np.exp(-np.unique(protocol.ti)[:, None] / t1),
                     np.exp(-np.unique(protocol.te)[:, None] / t2))  # fmt: skip
    weight = np.sqrt(alpha) * np.linalg.norm(kernel, 2)
    matrix = np.vstack([kernel, weight * np.eye(72)])
    found = model.transform(X[:3])
    for own, x in zip(found, X[:3], strict=True):
        expected, _ = nnls(matrix, np.concatenate([x, weight * given.ravel()]), maxiter=10_000)
        np.testing.assert_allclose(own, expected, atol=1e-6 * np.abs(x).max())


def test_a_prior_of_nothing_changes_nothing(X):
    zero = Given(np.zeros((10, 10)))
    for rule in sorted(RULES):
        common = {"n_bins": 10, "regularization": rule, "noise_level": 0.1, **COMMON}
        plain = NNLSSpectrum(PROTOCOL, **common).fit(X).invert(X)
        found = NNLSSpectrum(PROTOCOL, prior=zero, **common).fit(X).invert(X)
        np.testing.assert_allclose(found.weight, plain.weight, rtol=1e-6)
        np.testing.assert_allclose(found.amplitudes, plain.amplitudes, atol=1e-6)


def test_a_prior_that_explains_the_signal_is_the_spectrum(X, fits):
    common = {"n_bins": 24, "chi2_factor": 1.5, **COMMON}
    model = NNLSSpectrum(PROTOCOL, prior=FrozenEstimator(fits), **common).fit(X)
    expected = fits.predict_spectrum(X, model.axes_, widened=False)
    found = model.invert(X)
    explained = found.weight == 1
    assert explained.any()
    prior = model.prior_.predict_spectrum(X, model.axes_)
    np.testing.assert_allclose(found.amplitudes[explained], prior[explained], atol=0.02 * 50)
    # nearer to the truth than the smallest spectrum
    plain = NNLSSpectrum(PROTOCOL, **common).fit(X).invert(X)
    far = np.abs(plain.amplitudes - expected).sum()
    assert np.abs(found.amplitudes - expected).sum() < 0.8 * far


def test_a_wrong_prior_yields_to_the_signal(X):
    wrong = np.zeros((16, 16))
    wrong[2, 12] = 50
    model = NNLSSpectrum(PROTOCOL, n_bins=16, prior=Given(wrong), **COMMON).fit(X)
    found = model.invert(X)
    assert (found.weight < 1e-2).all()
    plain = NNLSSpectrum(PROTOCOL, n_bins=16, **COMMON).fit(X).invert(X)
    np.testing.assert_allclose(found.residual, plain.residual, rtol=0.02)


def test_fit_fits_a_clone_in_the_order_of_named_columns(X, fits):
    frame = pd.DataFrame(X, columns=AcquisitionProtocol.named(PROTOCOL).feature_names)
    shuffled = frame.iloc[:, np.random.default_rng(0).permutation(64)]
    unfitted = MultiExponentialClassifier(
        criterion="bic", counts=(1, 2, 3), random_state=0, **COMMON
    )
    model = NNLSSpectrum(n_bins=8, prior=unfitted, **COMMON).fit(shuffled)
    assert not hasattr(unfitted, "counts_")
    expected = NNLSSpectrum(PROTOCOL, n_bins=8, prior=FrozenEstimator(fits), **COMMON).fit(X)
    np.testing.assert_allclose(model.transform(shuffled), expected.transform(X), atol=1e-6)
    (draw,) = model.bootstrap(shuffled.iloc[:2], 1, random_state=0)
    assert np.isfinite(draw.amplitudes).all()


def test_files_keep_the_prior(X, fits, tmp_path):
    path = tmp_path / "model.safetensors"
    model = NNLSSpectrum(PROTOCOL, n_bins=8, prior=FrozenEstimator(fits), **COMMON).fit(X)
    save(model, path)
    np.testing.assert_array_equal(load(path).transform(X), model.transform(X))
    del model.prior_
    save(model, path)
    with pytest.raises(InvalidFileError, match="prior_ of NNLSSpectrum must be a fitted model"):
        load(path)


def test_priors_that_make_no_sense(X):
    with pytest.raises(ValueError, match="a prior needs penalty='identity'"):
        NNLSSpectrum(PROTOCOL, penalty="first-difference", prior=Given(), **COMMON).fit(X)
    for spectrum, message in ((np.ones((3, 3)), r"shape \(6, 8, 8\), got \(6, 3, 3\)"),
                              (-np.ones((8, 8)), "negative amplitudes")):  # fmt: skip
        model = NNLSSpectrum(PROTOCOL, n_bins=8, prior=Given(spectrum), **COMMON).fit(X)
        with pytest.raises(ValueError, match=message):
            model.transform(X)
    two = AcquisitionProtocol.concatenate(
        [AcquisitionProtocol(ti=[50, 400, 2000], te=10), AcquisitionProtocol(te=[20, 40, 90])],
        same_gain=False,
    )
    signals, _ = make_correlation_signals(5, protocol=two, random_state=0, verbose=False)
    with pytest.raises(ValueError, match="several series"):
        NNLSSpectrum(two, prior=Given(np.ones((8, 8))), verbose=False).fit(signals)
