"""Layout of the columns for the convolutional network."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from corrsk import (
    AcquisitionProtocol,
    CorrelationCNNClassifier,
    CorrelationSignalGenerator,
    PropertyRange,
    ProtocolWarning,
    SignalNormalizer,
    SignalStream,
    StackedGridSearchCV,
    TissuePrior,
    load,
    make_correlation_signals,
    save,
)


def levels(first, last, n):
    return np.linspace(first, last, n)


TI, TE, B = levels(50, 2000, 10), levels(10, 100, 20), levels(0, 3, 7)
PROTOCOLS = {
    (10, 6): AcquisitionProtocol.from_grid(ti=TI, te=TE[:6]),
    (3, 20): AcquisitionProtocol.from_grid(ti=TI[:3], te=TE),
    (4, 16): AcquisitionProtocol.from_grid(ti=TI[:4], te=TE[:16]),
    (8, 7): AcquisitionProtocol.from_grid(te=TE[:8], b=B),
    (6, 5, 4): AcquisitionProtocol.from_grid(ti=TI[:6], te=TE[:5], b=B[:4]),
    (1, 12): AcquisitionProtocol.from_grid(te=TE[:12]),
}
SCATTERED = AcquisitionProtocol(ti=levels(50, 2000, 40), te=levels(10, 150, 40)[::-1])
PRIOR = TissuePrior(
    ranges={
        "T1": PropertyRange(50, 5000), "T2": PropertyRange(5, 500), "D": PropertyRange(0.1, 3)
    },
)  # fmt: skip
GRIDS = pytest.mark.parametrize(("grid", "protocol"), PROTOCOLS.items(), ids=str)


def quick(**changes):
    return CorrelationCNNClassifier(
        **{"max_epochs": 1, "random_state": 0, "verbose": False} | changes
    )


def pipeline_of(of_generator, **changes):
    """Return a Pipeline behind the generator, and tissue for its protocol."""
    generator = CorrelationSignalGenerator(of_generator, random_state=0, verbose=False)
    pipeline = make_pipeline(generator, SignalNormalizer(), quick(**changes))
    return pipeline, PRIOR.sample(60, random_state=0, verbose=False)


def noise(protocol):
    n = protocol.n_measurements
    return np.random.default_rng(0).normal(size=(40, n)), np.arange(40) % 2


@GRIDS
def test_the_protocol_gives_the_grid_behind_the_generator(grid, protocol, tmp_path):
    pipeline, tissue = pipeline_of(protocol, protocol=protocol)
    pipeline.fit(*tissue)
    assert pipeline[-1].grid_shape_ == grid
    save(pipeline, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    assert loaded[-1].protocol == protocol
    signals = pipeline[0].transform(tissue[0])
    expected = pipeline[1:].predict_proba(signals)
    np.testing.assert_array_equal(loaded[1:].predict_proba(signals), expected)


@GRIDS
def test_names_give_the_grid_and_later_arrays_do_not_warn(grid, protocol):
    pipeline, tissue = pipeline_of(protocol)
    pipeline.set_output(transform="pandas").fit(*tissue)  # warnings are errors
    assert pipeline[-1].grid_shape_ == grid
    named = pipeline[0].transform(tissue[0])
    expected = pipeline[1:].predict_proba(named)
    np.testing.assert_array_equal(pipeline[1:].predict_proba(named.to_numpy()), expected)


@GRIDS
def test_an_assumed_layout_warns_once(grid, protocol):
    pipeline, tissue = pipeline_of(protocol)
    with pytest.warns(ProtocolWarning) as caught:
        pipeline.fit(*tissue)
    (warning,) = caught
    text = str(warning.message)
    assert f"{protocol.n_measurements} columns is unknown" in text
    assert "{} x {}".format(*pipeline[-1].grid_shape_) in text
    assert "grid order (sorted by TI, then by TE" in text
    assert warning.filename == __file__
    pipeline.predict(tissue[0])  # warnings are errors


def test_64_columns_without_names_are_taken_for_the_published_grid_with_a_warning():
    # a DataFrame loses its names in a step whose output is an array
    protocol = PROTOCOLS[4, 16]
    X, y = make_correlation_signals(60, protocol=protocol, random_state=0, verbose=False)
    named = pd.DataFrame(X, columns=protocol.feature_names)
    for model, signals in (
        (quick(), X),
        (quick(), pd.DataFrame(X, columns=[f"pc{k}" for k in range(64)])),
        (make_pipeline(SignalNormalizer(), quick()), named),
    ):
        with pytest.warns(ProtocolWarning, match="a grid of 8 x 8 as of 'ir-se-8x8' is assumed"):
            model.fit(signals, y)
        assert getattr(model, "steps", [(None, model)])[-1][1].grid_shape_ == (8, 8)
    # the advice of the warning
    assert quick(protocol=protocol).fit(X, y).grid_shape_ == (4, 16)
    assert quick(grid_shape=(4, 16)).fit(X, y).grid_shape_ == (4, 16)
    assert quick().fit(X.reshape(-1, 4, 16), y).grid_shape_ == (4, 16)
    pipeline = make_pipeline(SignalNormalizer(), quick()).set_output(transform="pandas")
    assert pipeline.fit(named, y)[-1].grid_shape_ == (4, 16)
    assert quick(protocol="ir-se-8x8").fit(X, y).grid_shape_ == (8, 8)
    with pytest.raises(ValueError, match="names of the columns are not those of the protocol"):
        quick(protocol="ir-se-8x8").fit(named, y)


def test_scattered_64_measurements_are_refused():
    rng = np.random.default_rng(0)
    scattered = AcquisitionProtocol({"TI": rng.uniform(50, 2000, 64), "TE": rng.uniform(5, 90, 64)})
    X, y = noise(scattered)
    with pytest.raises(ValueError, match=r"no full grid.*ResidualMLPClassifier"):
        quick(protocol=scattered).fit(X, y)
    with pytest.warns(ProtocolWarning, match="ResidualMLPClassifier takes measurements that are"):
        quick().fit(X, y)


@pytest.mark.parametrize("search", [GridSearchCV, StackedGridSearchCV])
def test_a_search_warns_once_for_each_fit(search):
    X, y = make_correlation_signals(80, random_state=0, verbose=False)
    options = {"stack": True} if search is StackedGridSearchCV else {}
    with pytest.warns(ProtocolWarning) as caught:
        search(quick(), {"learning_rate": [0.001, 0.01]}, cv=2, **options).fit(X, y)
    assert len(caught) == 5  # two candidates, two folds, the refit
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search(
            quick(protocol="ir-se-8x8"), {"learning_rate": [0.001, 0.01]}, cv=2,
            error_score="raise", **options,
        ).fit(X, y)  # fmt: skip


def test_partial_fit_warns_in_the_first_call_only():
    X, y = make_correlation_signals(60, random_state=0, verbose=False)
    with pytest.warns(ProtocolWarning) as caught:
        model = quick().partial_fit(X, y)
    assert len(caught) == 1
    model.partial_fit(X, y)  # warnings are errors


@GRIDS
def test_a_stream_gives_the_grid(grid, protocol):
    model = quick().fit_stream(SignalStream(PRIOR, protocol), n_samples=100)
    assert model.grid_shape_ == grid


def test_scattered_measurements_are_refused():
    X, y = noise(SCATTERED)
    with pytest.raises(ValueError, match="no full grid.*ResidualMLPClassifier"):
        quick(protocol=SCATTERED).fit(X, y)
    with pytest.raises(ValueError, match="no full grid"):
        quick().fit(pd.DataFrame(X, columns=SCATTERED.feature_names), y)
    with pytest.raises(ValueError, match="no full grid"):
        quick().fit_stream(SignalStream(protocol=SCATTERED), n_samples=100)


def test_columns_in_another_order_than_the_grid_are_reordered():
    protocol = PROTOCOLS[10, 6]
    scan = AcquisitionProtocol(ti=protocol.ti[::-1], te=protocol.te[::-1])
    X, y = noise(scan)
    on_grid = quick(protocol=protocol).fit(scan.to_grid(X), y)
    expected = on_grid.predict_proba(scan.to_grid(X))
    model = quick(protocol=scan).fit(X, y)
    assert model.grid_shape_ == on_grid.grid_shape_ == (10, 6)
    np.testing.assert_array_equal(model.predict_proba(X), expected)
    named = pd.DataFrame(X, columns=scan.feature_names)
    np.testing.assert_array_equal(quick().fit(named, y).predict_proba(named), expected)
    # names at prediction, after a fit without names
    np.testing.assert_array_equal(model.predict_proba(named.iloc[:, ::-1]), expected)
    with pytest.raises(ValueError, match="in grid order"):
        quick(protocol=scan).fit(X.reshape(-1, 10, 6), y)


def test_contradictions_are_refused():
    protocol, other = PROTOCOLS[10, 6], PROTOCOLS[3, 20]
    X, y = noise(protocol)
    with pytest.raises(ValueError, match=r"grid_shape is \(6, 10\), but .* is \(10, 6\)"):
        quick(grid_shape=(6, 10), protocol=protocol).fit(X, y)
    with pytest.raises(ValueError, match=r"\(n_samples, 6, 10\).*exchange the axes"):
        quick(protocol=protocol).fit(X.reshape(-1, 6, 10), y)
    with pytest.raises(ValueError, match="names of the columns are not those of the protocol"):
        quick(protocol=other).fit(pd.DataFrame(X, columns=protocol.feature_names), y)
    with pytest.raises(ValueError, match="protocol is .*3 TI x 20 TE.* stream has .*10 TI x 6 TE"):
        quick(protocol=other).fit_stream(SignalStream(protocol=protocol), n_samples=100)
    with pytest.raises(ValueError, match="59 columns, but the protocol has 60"):
        quick(protocol=protocol).fit(X[:, :59], y)
    with pytest.raises(ValueError, match="unknown protocol 'grid'"):
        quick(protocol="grid").fit(X, y)


def test_names_keep_the_tr_of_the_protocol():
    X, y = make_correlation_signals(100, noise_level=0.001, random_state=0)
    with_tr = AcquisitionProtocol.named("ir-se-8x8-tr20s")
    named = pd.DataFrame(X, columns=with_tr.feature_names).iloc[:, ::-1]
    model = quick(protocol="ir-se-8x8-tr20s").fit(named, y)
    assert model.protocol_.tr == 20_000
    assert model.protocol_.feature_names == list(named.columns)
    with pytest.raises(ValueError, match="protocol is .*TR 20000 ms.* stream has"):
        quick(protocol=with_tr).fit_stream(SignalStream(protocol="ir-se-8x8"), n_samples=100)


def test_names_of_stated_short_times():
    short = AcquisitionProtocol.from_grid(ti=levels(0.5, 15, 6), te=levels(0.1, 2, 4), units="ms")
    X = np.random.default_rng(0).normal(size=(60, 24))
    named = pd.DataFrame(X, columns=short.feature_names)
    model = quick(protocol=short).fit(named.iloc[:, ::-1], np.arange(60) % 2)
    assert model.grid_shape_ == (6, 4)
    assert model.protocol_ == short


def test_grids_of_arrays():
    X = np.random.default_rng(0).normal(size=(40, 48))
    y = np.arange(40) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert quick().fit(X[:, :47], y).grid_shape_ == (6, 8)  # 47 columns in 48 places
        assert quick().fit(X[:, :36], y).grid_shape_ == (6, 6)
        assert quick().fit(X[:, :5], y).grid_shape_ == (6, 6)
    assert quick(grid_shape=(4, 12)).fit(X, y).grid_shape_ == (4, 12)
    assert quick(grid_shape=(4, 4, 3)).fit(X, y).grid_shape_ == (4, 4, 3)
    assert quick(grid_shape=(48,)).fit(X, y).grid_shape_ == (1, 48)
    # an array of images has a layout, also as a list
    images = X.reshape(-1, 12, 4)
    assert quick().fit(images, y).grid_shape_ == (12, 4)
    assert quick().fit(images.tolist(), y).grid_shape_ == (12, 4)
    assert quick().fit(X.reshape(-1, 3, 4, 2, 2), y).grid_shape_ == (3, 4, 4)


@pytest.mark.slow
def test_a_search_over_protocols_finds_each_grid():
    pipeline, tissue = pipeline_of(PROTOCOLS[10, 6])
    pipeline.set_output(transform="pandas")
    protocols = [PROTOCOLS[3, 20], PROTOCOLS[10, 6]]
    search = GridSearchCV(
        pipeline, {"correlationsignalgenerator__protocol": protocols}, cv=2, error_score="raise"
    ).fit(*tissue)
    best = search.best_params_["correlationsignalgenerator__protocol"]
    assert search.best_estimator_[-1].grid_shape_ == best.grid_shape
