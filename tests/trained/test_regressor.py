"""Regressor of compartments: posterior, decisions, intervals, draws, densities, spectra, files."""

from __future__ import annotations

import dataclasses
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from corrsk import (
    AcquisitionProtocol,
    CompartmentRegressor,
    InvalidFileError,
    NoSignalWarning,
    Nuisances,
    PropertyRange,
    ProtocolMismatchError,
    SignalStream,
    SNRRange,
    TissuePrior,
    load,
    save,
)
from corrsk.evaluation import compartments_right
from corrsk.relaxometry import IdealObserverClassifier
from corrsk.simulation import DatasetDefinition, dataset_definition
from corrsk.simulation.targets import StreamTargets
from corrsk.trained import MeasuredSignalWarning, modes, regressor

PROTOCOL = AcquisitionProtocol.from_grid(ti=[50, 200, 700, 2000], te=[8, 25, 60, 140], tr=8000)
PRIOR = TissuePrior(
    n_compartments=(1, 2),
    ranges={
        "T1": PropertyRange(100, 3000, scale="log"),
        "T2": PropertyRange(8, 400, scale="log"),
    },
    min_fraction=0.1,
    t2_below_t1=True,
)
DEFINITION = DatasetDefinition("mine", PRIOR, PROTOCOL, SNRRange(60, 120), "max", norm="l2")
LIMITS = {"T1": (100.0, 3000.0), "T2": (8.0, 400.0)}
SMALL = {
    "n_samples": 30_000, "n_validation": 500, "width": 32, "n_blocks": 1, "n_components": 3,
    "max_epochs": 6, "batch_size": 200, "novelty": False, "random_state": 0, "verbose": False,
    "n_jobs": 1,
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def simulated(n, definition=DEFINITION, seed=5):
    X, rows = SignalStream.from_definition(definition, seed).draw_rows(0, n)
    return X, rows.table, rows.n_c


@pytest.fixture(scope="module")
def model():
    return CompartmentRegressor.from_definition(DEFINITION, **SMALL).fit()


@pytest.fixture(scope="module")
def data():
    return simulated(200)


@pytest.fixture(scope="module")
def posterior(model, data):
    return model.posterior(data[0])


def test_counts_have_the_probabilities_of_the_ideal_observer(model, data, posterior):
    X, _, y = data
    observer = IdealObserverClassifier(
        PRIOR, PROTOCOL, noise_level=SNRRange(60, 120), noise_reference="max", counts=(1, 2),
        n_particles=1024, n_runs=2, random_state=0, verbose=False, n_jobs=1,
    ).fit(X[:12], y[:12])  # fmt: skip
    reference = observer.posterior(X[:12])
    difference = np.abs(posterior.probabilities[:12] - reference.probabilities)[:, 0]
    assert difference.mean() < 0.06
    # and the evidence itself, of the counts that matter
    gap = np.abs(posterior.log_evidence[:12] - reference.log_evidence)
    trusted = (reference.log_evidence_error < 0.3) & (reference.probabilities > 0.05)
    assert trusted.sum() > 12
    assert np.median(gap[trusted]) < 0.25
    assert (posterior.probabilities.argmax(axis=1) + 1 == y).mean() > 0.85


def test_decisions_find_compartments_as_often_as_they_expect(model, data):
    X, tissue, _ = data
    table = model.predict(X)
    right = compartments_right(table, tissue, LIMITS)
    assert right.mean() > 0.75
    assert abs(right.mean() - table["confidence"].mean()) < 0.1
    assert (table[["confidence_1"]].to_numpy() <= 1 + 1e-9).all()
    assert table["confidence_2"].isna().equals(table["n_c"] == 1)
    for loss in ("median", "w1"):
        other = model.predict(X, loss)
        assert compartments_right(other, tissue, LIMITS).mean() > 0.7
        np.testing.assert_allclose(other[["f_1", "f_2"]].sum(axis=1), 1)
        two = other["n_c"] == 2
        assert (other["T2_1"] <= other["T2_2"])[two].all()


def test_intervals_hold_the_truth(model):
    X, tissue, y = simulated(500, seed=6)
    lower, upper = model.predict_interval(X, 0.9)
    one = (y == 1) & (lower["n_c"] == 1)
    for name in ("T1_1", "T2_1"):
        inside = (lower[name] <= tissue[name]) & (tissue[name] <= upper[name])
        assert 0.85 < inside[one].mean() < 0.95
    for absent in ("T1_2", "f_2"):
        assert lower[absent].isna().equals(lower["n_c"] == 1)
    for loss in ("strict", "median"):
        counts = model.predict_interval(X[:50], 0.9, loss)[0]["n_c"]
        assert counts.equals(model.predict(X[:50], loss)["n_c"])
    narrow, _ = model.predict_interval(X[:20], 0.5)
    assert (narrow["T1_1"] >= lower["T1_1"][:20]).all()


def test_ranks_of_the_truth_among_draws_are_uniform(model):
    X, tissue, y = simulated(400, seed=7)
    draws = model.sample_posterior(X, 99, random_state=0)
    assert len(draws) == 99 * 400
    cells = draws.to_numpy().reshape(400, 99, -1)
    t2 = list(draws.columns).index("T2_1")
    ordered = tissue[["T2_1", "T2_2"]].min(axis=1).to_numpy()
    rank = (cells[:, :, t2] < ordered[:, None]).sum(axis=1) / 99
    counts = np.histogram(rank, bins=5, range=(0, 1))[0] / 400
    assert np.abs(counts - 0.2).max() < 0.07
    share = (draws["n_c"].to_numpy().reshape(400, 99) == 2).mean(axis=1)
    np.testing.assert_allclose(share, model.predict_proba(X)[:, 1], atol=0.02)
    assert abs(share.mean() - (y == 2).mean()) < 0.05


def test_a_density_integrates_to_the_probability_of_the_count(model, data):
    X, tissue, y = data
    voxel = np.flatnonzero((y == 1) & (model.predict_proba(X)[:, 0] > 0.5))[0]
    t1, t2 = tissue["T1_1"][voxel], tissue["T2_1"][voxel]
    a, b = np.linspace(0.88, 1.12, 25) * t1, np.linspace(0.88, 1.12, 25) * t2
    mesh = np.meshgrid(a, b, indexing="ij")
    points = pd.DataFrame({"T1_1": mesh[0].ravel(), "T2_1": mesh[1].ravel(), "f_1": 1.0})
    density = model.log_prob(np.repeat(X[voxel : voxel + 1], len(points), axis=0), points)
    mass = logsumexp(density) + np.log((a[1] - a[0]) * (b[1] - b[0]))
    assert np.exp(mass) == pytest.approx(model.predict_proba(X[voxel : voxel + 1])[0, 0], rel=0.05)


def test_the_score_is_the_mean_density_of_the_truth(model, data):
    X, tissue, _ = data
    own = model.log_prob(X, tissue)
    assert np.isfinite(own).mean() > 0.98
    assert model.score(X, tissue) == pytest.approx(np.nanmean(own))
    wrong = tissue.assign(T1_1=tissue["T1_1"] * 1.5)
    assert model.score(X, tissue) > model.score(X, wrong)
    other = {"1": "2", "2": "1"}
    swapped = tissue.rename(columns=lambda name: name[:-1] + other.get(name[-1], name[-1]))
    assert set(swapped.columns) >= {"T1_1", "T1_2", "f_2"}
    np.testing.assert_allclose(model.log_prob(X, swapped), own, rtol=1e-6)


def test_spectra_hold_the_signal_where_the_compartments_are(model, data):
    X, tissue, _ = data
    grid = {"T1": np.geomspace(100, 3000, 12), "T2": np.geomspace(8, 400, 10)}
    spectra = model.predict_spectrum(5 * X, grid)
    assert spectra.shape == (200, 12, 10)
    m0 = spectra.sum(axis=(1, 2))
    table = model.predict(5 * X)
    np.testing.assert_allclose(m0, table["scale"], rtol=0.05)
    shares = spectra / m0[:, None, None]
    mean = (shares.sum(axis=2) * np.log(grid["T1"])).sum(axis=1)
    logs = np.log(tissue[["T1_1", "T1_2"]].fillna(1))
    truth = (tissue[["f_1", "f_2"]].to_numpy() * logs).sum(axis=1)
    assert np.abs(mean - truth).mean() < 0.1
    few = {"T1": grid["T1"][:4], "T2": grid["T2"]}
    # what lies beyond belongs to the end
    np.testing.assert_allclose(model.predict_spectrum(5 * X[:3], few).sum(axis=(1, 2)), m0[:3])


def test_the_result_of_a_voxel_depends_on_its_signal_only(model, data):
    X = data[0][:70]
    whole = model.predict(X)
    pd.testing.assert_frame_equal(
        model.predict(X[33:34]).set_index([[33]]), whole[33:34], rtol=1e-6
    )
    pd.testing.assert_frame_equal(with_method(model, "sampling", n_jobs=3).predict(X), whole)
    scaled = model.predict(1000 * X)
    scaled["scale"] /= 1000
    pd.testing.assert_frame_equal(scaled, whole, rtol=1e-4)


def test_voxels_without_signal_and_volumes(model, data):
    X = data[0][:6].copy()
    X[2] = 0
    with pytest.warns(NoSignalWarning, match="1 of 6"):
        table = model.predict(X.reshape(2, 3, 16))
    assert table["n_c"][2] == 0
    assert table["f_1"][2] == 0
    assert np.isnan(table["T1_1"][2])
    assert (table["n_c"].drop(2) > 0).all()
    with pytest.warns(NoSignalWarning):
        assert model.predict_proba(X.reshape(2, 3, 16)).shape == (2, 3, 2)
    with pytest.warns(NoSignalWarning):
        empty = model.predict(np.zeros((2, 16)))
    assert list(empty.columns) == list(table.columns)
    assert (empty["n_c"] == 0).all()
    ends = {"T1": [100, 3000], "T2": [8, 400]}
    with pytest.warns(NoSignalWarning):
        assert np.isnan(model.predict_spectrum(X, ends)[2]).all()
    with (
        pytest.warns(NoSignalWarning),
        pytest.raises(ValueError, match="1 of 6 voxels have no signal"),
    ):
        model.posterior(X)


def test_columns_with_names_have_any_order(model, data):
    X = data[0][:5]
    names = [f"TI{ti:g}_TE{te:g}" for ti, te in zip(*PROTOCOL.contrasts.values(), strict=True)]
    frame = pd.DataFrame(X, columns=names)
    order = np.random.default_rng(0).permutation(16)
    pd.testing.assert_frame_equal(model.predict(frame.iloc[:, order]), model.predict(X), rtol=1e-4)
    with pytest.raises(ProtocolMismatchError):
        model.predict(frame.rename(columns=lambda name: name.replace("TE8", "TE80")))


def test_files_and_pickles_keep_the_answers(model, data, tmp_path):
    X = data[0][:20]
    save(model, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors").set_params(verbose=False, n_jobs=1)
    pd.testing.assert_frame_equal(loaded.predict(X), model.predict(X))
    again = pickle.loads(pickle.dumps(model))
    pd.testing.assert_frame_equal(again.predict(X), model.predict(X))
    assert len(pickle.dumps(model)) < 1e6


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ('"seed_":0', '"seed_":-1'),
        ('"width":32', '"width":30000'),
        ('"n_components":3', '"n_components":4'),
    ],
)
def test_a_changed_file_is_refused(model, tmp_path, part, change):
    from corrsk.persistence import _files

    path = tmp_path / "model.safetensors"
    save(model, path)
    content, _, tensors = _files.read_file(path)
    import json

    text = json.dumps(content["estimator"], separators=(",", ":"))
    assert part in text
    _files.write_file(path, json.loads(text.replace(part, change)), tensors)
    with pytest.raises(InvalidFileError):
        load(path)


def test_bad_input_is_refused_before_the_work(model, data):
    X, tissue, _ = data
    with pytest.raises(ValueError, match="loss must be one of 'strict'"):
        model.predict(X, "mean")
    for coverage in (0, 1.5, np.nan):
        with pytest.raises(ValueError, match="coverage"):
            model.predict_interval(X, coverage)
    with pytest.raises(ValueError, match="each of T1, T2"):
        model.predict_spectrum(X, {"T1": [100, 3000]})
    with pytest.raises(ValueError, match="outside of the prior"):
        model.predict_spectrum(X, {"T1": [100, 3000], "T2": [1000, 3000]})
    with pytest.raises(ValueError, match="ascending"):
        model.predict_spectrum(X, {"T1": [3000, 100], "T2": [8, 400]})
    large = {"T1": np.geomspace(100, 3000, 10**5), "T2": np.geomspace(8, 400, 10**5)}
    with pytest.raises(MemoryError):
        model.predict_spectrum(X, large)
    with pytest.raises(ValueError, match="no columns T2_1"):
        model.score(X, tissue.drop(columns="T2_1"))
    with pytest.raises(ValueError, match="200 rows"):
        model.score(X, tissue[:3])
    with pytest.raises(ValueError, match="fractions of row 0 sum to 2"):
        model.score(X, tissue.assign(f_1=2.0, f_2=0.0))
    with pytest.raises(ValueError, match="compartment 1 of row 0 has a fraction, but .* nan"):
        model.score(X, tissue.assign(T1_1=np.nan))
    three = tissue.assign(T1_3=500.0, T2_3=50.0, f_3=0.2)
    with pytest.raises(ValueError, match="3 compartments, but the model has up to 2"):
        model.score(X, three)
    with pytest.raises(NotFittedError):
        clone(model).predict(X)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_level": 0.0}, "noise"),
        ({"prior": TissuePrior(n_compartments=(1, 2), nuisances=Nuisances(b1=(0.8, 1.2)))}, "b1"),
        ({"n_samples": 3}, "n_samples"),
        ({"noise_reference": "first"}, "noise_reference"),
        ({"n_draws": 4}, "n_draws"),
        ({"method": "map"}, "method"),
    ],
)
def test_a_model_that_is_impossible_is_refused_before_the_training(changes, message):
    with pytest.raises(ValueError, match=message):
        CompartmentRegressor.from_definition(DEFINITION, **SMALL).set_params(**changes).fit()


def test_series_of_unknown_gain_are_not_taken_for_equal():
    series = [AcquisitionProtocol(ti=[50, 500], te=10), AcquisitionProtocol(ti=[50, 500], te=90)]
    joined = AcquisitionProtocol.concatenate(series, same_gain=False)
    with pytest.raises(ValueError, match="2 series, whose relative scale is unknown"):
        CompartmentRegressor(joined, PRIOR, 0.01, **SMALL).fit()


def test_a_definition_may_be_a_name():
    own = CompartmentRegressor.from_definition("t1t2-detr", n_samples=1000)
    assert own.definition.noise_reference == dataset_definition("t1t2-detr").noise_reference
    assert own.n_samples == 1000
    # a definition may differ from the data set of its name
    other = dataclasses.replace(dataset_definition("t1t2-detr"), norm="l2")
    assert CompartmentRegressor.from_definition(other).norm == "l2"
    with pytest.raises(ValueError, match="no-data"):
        CompartmentRegressor.from_definition("no-data")


def test_magnitudes_are_refused():
    with pytest.raises(ValueError, match="SignalPhaser"):
        CompartmentRegressor.from_definition(dataset_definition("scanner-ir-se-8x8-magnitude"))


# -- without draws -----------------------------------------------------------------


def with_method(model, method, **params):
    """The same fitted model with another method."""
    other = clone(model).set_params(method=method, **params)
    for name in ("pipeline_", "novelty_", "network_", "seed_"):
        setattr(other, name, getattr(model, name))
    return other


@pytest.fixture(scope="module")
def quick(model):
    return with_method(model, "laplace")


def test_modes_decide_nearly_as_draws(model, quick, data, posterior):
    X, tissue, _ = data
    table = quick.predict(X)
    assert list(table.columns) == list(posterior.table().columns)
    right = compartments_right(table, tissue, LIMITS).mean()
    assert right > compartments_right(posterior.table(), tissue, LIMITS).mean() - 0.04
    assert abs(right - table["confidence"].mean()) < 0.1
    # the network, which is a small one, has a larger share in them
    gap = np.abs(quick.predict_proba(X) - posterior.probabilities)
    assert np.median(gap) < 0.06
    assert gap.mean() < 0.12
    np.testing.assert_allclose(quick.predict_proba(X).sum(axis=1), 1)
    two = table["n_c"] == 2
    assert (table["T2_1"] < table["T2_2"])[two].all()
    np.testing.assert_allclose(table[["f_1", "f_2"]].sum(axis=1), 1)
    assert (table["f_2"][~two] == 0).all()
    np.testing.assert_allclose(quick.predict(5 * X)["scale"], 5 * table["scale"], rtol=1e-6)
    # the confidence of a compartment is that of draws, and at least that of all together
    drawn = posterior.table("median")
    same = (quick.predict(X, "median")["n_c"] == drawn["n_c"]).to_numpy()
    near = np.abs(quick.predict(X, "median")["confidence_1"] - drawn["confidence_1"])
    assert near[same].mean() < 0.08


def test_modes_depend_on_their_signal_only(quick, data, monkeypatch):
    X = data[0][:70]
    whole = quick.predict(X)
    pd.testing.assert_frame_equal(
        quick.predict(X[33:34]).set_index([[33]]), whole[33:34], rtol=1e-6
    )
    monkeypatch.setitem(regressor._CHUNK_VOXELS, "laplace", 16)
    parts = with_method(quick, "laplace", n_jobs=3).predict(X)
    pd.testing.assert_frame_equal(parts, whole, rtol=1e-6)
    with pytest.warns(MeasuredSignalWarning, match="opposite sign"):
        inverted = quick.modes(-X)
    assert inverted.reliable.mean() < 0.1  # whatever the sign of the scale is
    with pytest.raises(ValueError, match="loss must be 'strict' or 'median' without draws"):
        quick.modes(X[:4]).table("w1")
    joined = quick.modes(X)
    pd.testing.assert_frame_equal(joined.table(), whole, rtol=1e-6)
    np.testing.assert_allclose(joined.probabilities, quick.predict_proba(X), rtol=1e-6)
    assert joined.reliable.mean() > 0.8


def test_compiled_masses_equal_those_of_numpy(quick, data, monkeypatch):
    pytest.importorskip("numba")
    compiled = quick.predict(data[0])
    monkeypatch.setattr(modes, "compiled", lambda: None)
    pd.testing.assert_frame_equal(compiled, quick.predict(data[0]), rtol=1e-9)


def test_what_needs_draws_is_refused_without_them(quick, data):
    X, tissue, _ = data
    grid = {"T1": [100, 3000], "T2": [8, 400]}
    for call in (
        lambda: quick.posterior(X),
        lambda: quick.predict_interval(X),
        lambda: quick.sample_posterior(X),
        lambda: quick.predict_spectrum(X, grid),
        lambda: quick.score(X, tissue),
        lambda: quick.predict(X, "w1"),
    ):
        with pytest.raises(ValueError, match=r"needs draws .* method='laplace' does not have"):
            call()
    with pytest.raises(ValueError, match=r"'method' .* must be a str among"):
        with_method(quick, "map").predict(X)
    with pytest.raises(ValueError, match=r"'n_draws' .* must be an int in the range \[16"):
        with_method(quick, "sampling", n_draws=5).predict(X)


@pytest.mark.parametrize("method", ["sampling", "laplace"])
def test_signals_of_the_wrong_sign_are_warned_of(model, data, method):
    one = with_method(model, method)
    mixed = np.concatenate([-data[0][:4], data[0][:12]])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scale = one.predict(mixed)["scale"].to_numpy()
    assert (scale[:4] < 0).all()
    assert (scale[4:] > 0).all()
    assert any("4 of 16 voxels have signals of the wrong sign" in str(w.message) for w in caught)
    if method == "sampling":
        found = one.posterior(mixed)
        assert not found.reliable[:4].any()
        np.testing.assert_array_equal(found.inverted, np.arange(16) < 4)


def test_unreliable_posteriors_are_warned_of(model, data):
    few = with_method(model, "sampling", n_draws=16, max_rounds=1)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.warns(ConvergenceWarning, match="voxels is unreliable"):
            few.predict_proba(data[0])


def test_nuisances_and_grids_of_values_are_averaged_over():
    prior = TissuePrior(
        n_compartments=(1, 2),
        ranges={"T1": PropertyRange(200, 3000, step=100), "T2": PropertyRange(10, 200, step=10)},
        nuisances=Nuisances(inversion_efficiency=(0.8, 1.0), echo_loss=(0.0, 0.05)),
    )
    definition = DatasetDefinition("scanner", prior, PROTOCOL, 0.01, "max", norm="l2")
    own = CompartmentRegressor.from_definition(definition, **SMALL | {"n_samples": 12_000}).fit()
    X, tissue, y = simulated(60, definition)
    assert (own.predict_proba(X).argmax(axis=1) + 1 == y).mean() > 0.7
    density = own.log_prob(X, tissue)
    assert np.isfinite(density).mean() > 0.9
    quick = with_method(own, "laplace")  # with the steps of numpy
    whole = quick.predict(X)
    assert (whole["n_c"] == y).mean() > 0.7
    for row in (int(np.argmax(y == 1)), int(np.argmax(y == 2))):  # counts without any voxel
        one = quick.predict(X[row : row + 1]).set_index([[row]])
        pd.testing.assert_frame_equal(one, whole[row : row + 1], rtol=1e-5)
    # a value between those of the prior is impossible
    assert (own.log_prob(X, tissue.assign(T1_1=tissue["T1_1"] + 50)) == -np.inf).all()


def test_targets_are_the_tissue_of_the_stream():
    stream = SignalStream.from_definition(DEFINITION, 3)
    targets = StreamTargets.from_stream(stream)
    X, coded = targets.draw(4, 500)
    same, rows = stream.draw_rows(4, 500)
    np.testing.assert_array_equal(X, same)
    np.testing.assert_array_equal(coded[:, 0] + 1, rows.n_c)
    for index, own in enumerate(targets.coordinates):
        z = coded[coded[:, 0] == index, 1 : 1 + own.n_dimensions].T.astype(np.float64)
        tissue = own.tissue(z)
        t2 = np.sort(rows.table.loc[rows.n_c == own.K, ["T2_1", "T2_2"][: own.K]], axis=1).T
        np.testing.assert_allclose(own.values(tissue)["T2"], t2, rtol=1e-4)
        assert np.isfinite(own.log_prior(tissue, own.values(tissue))).mean() > 0.99
        # a priori standard normal
        assert abs(z.mean()) < 0.2
        assert abs(z.std() - 1) < 0.2
