"""Measured voxels in classifiers and pipelines: volumes, voxels without signal, unusable data."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline

from corrsk import (
    AcquisitionProtocol,
    CorrelationCNNClassifier,
    CorrelationSignalGenerator,
    IdealObserverClassifier,
    ModuleClassifier,
    MultiExponentialClassifier,
    NNLSPeakClassifier,
    NoSignalWarning,
    ProtocolAligner,
    ResidualMLPClassifier,
    SignalNormalizer,
    SignalNoveltyDetector,
    SignalPipeline,
    TissuePrior,
    load,
    make_correlation_signals,
    predict_multicompartment_proba,
    save,
)
from corrsk.baselines import EncodedLabelsClassifier, ScaledBatchClassifier

GRID = AcquisitionProtocol.named("ir-se-8x8")
SMALL = {"width": 8, "n_blocks": 1, "max_epochs": 1, "random_state": 0}
CLASSIFIERS = {
    "residual MLP": ResidualMLPClassifier(**SMALL),
    "CNN": CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=1, random_state=0),
    "module": ModuleClassifier(max_epochs=1, random_state=0),
    "fits": MultiExponentialClassifier("ir-se-8x8", n_starts=2, max_steps=3, random_state=0),
    "peaks": NNLSPeakClassifier("ir-se-8x8", n_bins=8),
    "ideal observer": IdealObserverClassifier(
        protocol="ir-se-8x8", noise_level=0.1, n_particles=64, n_runs=2, random_state=0
    ),
}
PIPELINES = {
    "pipeline": make_pipeline(SignalNormalizer(), ResidualMLPClassifier(**SMALL)),
    "signal pipeline": SignalPipeline([
        ("aligner", ProtocolAligner()), ("normalizer", SignalNormalizer()),
        ("classifier", ResidualMLPClassifier(**SMALL)),
    ]),
}  # fmt: skip
ALL = CLASSIFIERS | PIPELINES


@pytest.fixture(scope="module")
def signals():
    return make_correlation_signals(300, noise_level=0.1, random_state=0)


@pytest.fixture(scope="module", params=ALL)
def fitted(request, signals):
    return clone(ALL[request.param]).fit(*signals)


@pytest.fixture(scope="module")
def measured(signals):
    return clone(PIPELINES["signal pipeline"]).fit(*signals)


def unreliable_is_expected(model):
    """Few particles make the probabilities of the ideal observer unreliable."""
    if isinstance(model, IdealObserverClassifier):
        warnings.filterwarnings("ignore", "the probabilities of")


# -- volumes ----------------------------------------------------------------------


def test_volumes_give_maps(fitted, signals):
    X = signals[0][:24]
    with warnings.catch_warnings():
        unreliable_is_expected(fitted)
        expected = fitted.predict_proba(X)
        for shape in ((2, 3, 4), (6, 4)):
            volume = X.reshape(*shape, 64)
            np.testing.assert_array_equal(fitted.predict_proba(volume), expected.reshape(*shape, 4))
            np.testing.assert_array_equal(fitted.predict(volume), fitted.predict(X).reshape(shape))
            np.testing.assert_allclose(
                predict_multicompartment_proba(fitted, volume),
                expected[:, 1:].sum(axis=1).reshape(shape),
            )
        # the table of each signal, (n_samples, n_ti, n_te), keeps its meaning
        np.testing.assert_array_equal(fitted.predict_proba(X.reshape(-1, 8, 8)), expected)
        np.testing.assert_array_equal(
            fitted.predict_proba(X.reshape(2, 3, 4, 64).tolist()),
            fitted.predict_proba(X.astype(float).reshape(2, 3, 4, 64)),
        )


def test_the_last_axis_decides(signals):
    """With 8 measurements, an array (n, 8, 8) has one voxel in each of its rows."""
    X, y = signals
    model = ResidualMLPClassifier(**SMALL).fit(X[:, :8], y)
    np.testing.assert_array_equal(
        model.predict(X[:50].reshape(50, 8, 8)), model.predict(X[:50].reshape(-1, 8)).reshape(50, 8)
    )


@pytest.mark.parametrize("name", ALL)
def test_fit_refuses_volumes(name, signals):
    X, y = signals[0].reshape(10, 15, 2, 64), signals[1]
    for labels in (y, y.reshape(10, 15, 2)):
        with pytest.raises(ValueError, match=r"\(10, 15, 2, 64\).*a volume.*X.reshape\(-1, 64\)"):
            clone(ALL[name]).fit(X, labels)


@pytest.mark.parametrize(
    "model",
    [
        ProtocolAligner(), SignalNoveltyDetector(protocol=GRID),
        MultiExponentialClassifier(GRID, counts=(1, 2)), NNLSPeakClassifier(counts=(1, 2)),
        make_pipeline(ProtocolAligner(), SignalNormalizer()),
    ],
    ids=lambda model: type(model).__name__,
)  # fmt: skip
def test_fit_refuses_volumes_of_a_known_protocol_without_labels(model, signals):
    with pytest.raises(ValueError, match=r"30, 64\) is a volume.*X.reshape\(-1, 64\)"):
        model.fit(signals[0].reshape(10, 30, 64))


@pytest.mark.parametrize(
    "model", [SignalNormalizer(), SignalNoveltyDetector(n_clusters=2, random_state=0)]
)
def test_fit_warns_of_volumes_without_labels(model, signals):
    X = signals[0][:100]
    expected = pytest.warns(UserWarning, match=r"10 signals of 640 .*X.reshape\(-1, 64\)")
    with np.errstate(over="ignore"), expected as caught:  # so few signals have no distribution
        model.fit(X.reshape(10, 10, 64))
    assert caught[0].filename == __file__
    model.fit(X.reshape(100, 8, 8))  # without a warning
    with pytest.raises(ValueError, match="a volume"):
        model.fit(X.reshape(10, 10, 64), signals[1][:100].reshape(10, 10))


def test_few_tables_of_a_known_protocol_are_no_volume(signals):
    X = signals[0][:60].reshape(60, 8, 8)
    SignalNoveltyDetector(n_clusters=2, random_state=0, protocol=GRID).fit(X)
    ProtocolAligner().fit(X)
    SignalNormalizer().fit(X, signals[1][:60])


def test_a_volume_of_another_protocol(fitted, signals):
    with pytest.raises(ValueError, match=r"\(n_samples, 3, 4, 60\).*last axis has 64 entries"):
        fitted.predict(signals[0][:24, :60].reshape(2, 3, 4, 60))


def test_transformers_keep_the_shape_of_volumes(signals):
    X = signals[0]
    volume = X.reshape(10, 15, 2, 64)
    backwards = AcquisitionProtocol(ti=GRID.ti[::-1], te=GRID.te[::-1])
    for transformer in (
        SignalNormalizer().fit(X), SignalNormalizer(None).fit(X),
        ProtocolAligner(measured_protocol=backwards).fit(X),
    ):  # fmt: skip
        np.testing.assert_array_equal(
            transformer.transform(volume), transformer.transform(X).reshape(volume.shape)
        )


@pytest.mark.parametrize("container", ["pandas", "polars"])
@pytest.mark.parametrize("transformer", [SignalNormalizer(), ProtocolAligner()])
def test_volumes_are_no_tables(transformer, container, signals):
    if container == "polars":
        pytest.importorskip("polars")
    X = signals[0]
    volume = X.reshape(10, 30, 64)
    message = rf"\(10, 30, 64\).*set to '{container}'.*SignalPipeline"
    with pytest.raises(ValueError, match=message):
        clone(transformer).set_output(transform=container).fit(X).transform(volume)
    fitted = clone(transformer).fit(X)
    with config_context(transform_output=container), pytest.raises(ValueError, match=message):
        fitted.transform(volume)
    model = SignalPipeline([("first", transformer), ("count", LogisticRegression(max_iter=50))])
    model.set_output(transform=container).fit(*signals)
    assert model.predict(volume).shape == (10, 30)


@pytest.mark.parametrize("name", ["residual MLP", "pipeline"])
@pytest.mark.parametrize("layout", [(1, 64), (64, 1), (1, 1, 64)])
def test_axes_of_length_one_are_no_volume(name, layout, signals):
    X, y = signals[0][:60], signals[1][:60]
    tables = X.reshape(60, *layout)
    model = clone(ALL[name]).fit(tables, y)
    assert model.predict(tables).shape == (60,)
    assert model.predict_proba(tables).shape == (60, 4)
    assert predict_multicompartment_proba(model, tables).shape == (60,)
    normalised = SignalNormalizer().fit(tables, y).transform(tables)
    assert normalised.shape == (60, 64)
    assert model.predict(X.reshape(4, 15, 64)).shape == (4, 15)
    # of a model that was fitted to rows, the same array is a volume
    assert clone(ALL[name]).fit(X, y).predict(X[:, None]).shape == (60, 1)


def test_tables_of_voxels_without_signal(measured, signals):
    X = signals[0][:20].copy()
    X[2, 7], X[5] = np.nan, 0
    with pytest.warns(NoSignalWarning, match="2 of 20"):
        expected = measured.predict_proba(X)
    with pytest.warns(NoSignalWarning, match="2 of 20"):
        np.testing.assert_array_equal(measured.predict_proba(X.reshape(20, 8, 8)), expected)


# -- voxels without signal ----------------------------------------------------------


def test_zero_signals_give_nan_and_the_label_0(fitted, signals):
    X = signals[0][:12].astype(np.float64)
    dark = [3, 8]
    broken = np.insert(X, [3, 7], 0.0, axis=0)
    with warnings.catch_warnings():
        unreliable_is_expected(fitted)
        expected, labels = fitted.predict_proba(X), fitted.predict(X)
        with pytest.warns(NoSignalWarning, match="2 of 14 voxels have no signal") as caught:
            got = fitted.predict_proba(broken)
        assert [w.category for w in caught].count(NoSignalWarning) == 1
        assert caught[0].filename == __file__
        assert np.isnan(got[dark]).all()
        np.testing.assert_array_equal(np.delete(got, dark, axis=0), expected)
        with pytest.warns(NoSignalWarning):
            found = fitted.predict(broken)
        assert (found[dark] == 0).all()
        np.testing.assert_array_equal(np.delete(found, dark), labels)
        with pytest.warns(NoSignalWarning):
            maps = fitted.predict_proba(broken.reshape(7, 2, 64))
        np.testing.assert_array_equal(maps, got.reshape(7, 2, 4))
        with pytest.warns(NoSignalWarning, match="5 of 5"):
            assert np.isnan(fitted.predict_proba(np.zeros((5, 64)))).all()
        with pytest.warns(NoSignalWarning, match="5 of 5"):
            assert fitted.predict(np.zeros((5, 64))).tolist() == [0] * 5


@pytest.mark.parametrize("name", [*CLASSIFIERS, "pipeline"])
def test_plain_estimators_refuse_nan_and_name_the_row(name, signals):
    X, y = signals[0].copy(), signals[1]
    X[[70, 90], 5] = np.nan
    model = clone(ALL[name])
    with pytest.raises(ValueError, match="contains NaN in row 70, the first of 2 such rows of 300"):
        model.fit(X, y)
    model.fit(*signals)
    with pytest.raises(ValueError, match="NaN in row 70.*SignalPipeline") as refused:
        model.predict(X)
    assert len(str(refused.value)) < 300
    X[20, 3] = np.inf
    with pytest.raises(ValueError, match="infinity.* in row 20, the first of 3 such rows"):
        model.predict_proba(X)


def test_nan_in_a_signal_pipeline(measured, signals):
    X = signals[0][:20].astype(np.float64)
    expected, labels = measured.predict_proba(X), measured.predict(X)
    X[2] = np.nan
    X[5, 60] = np.nan
    X[11] = 0
    dark = [2, 5, 11]
    for given in (X, X.tolist(), pd.DataFrame(X, columns=GRID.feature_names)):
        with pytest.warns(NoSignalWarning, match="3 of 20 voxels") as caught:
            got = measured.predict_proba(given)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert np.isnan(got[dark]).all()
        np.testing.assert_array_equal(
            np.delete(got, dark, axis=0), np.delete(expected, dark, axis=0)
        )
    # named columns in another order
    mixed = pd.DataFrame(X, columns=GRID.feature_names).sample(frac=1, axis=1, random_state=0)
    with pytest.warns(NoSignalWarning):
        np.testing.assert_array_equal(measured.predict_proba(mixed), got)
    with pytest.warns(NoSignalWarning):
        found = measured.predict(X)
    assert (found[dark] == 0).all()
    np.testing.assert_array_equal(np.delete(found, dark), np.delete(labels, dark))
    with pytest.warns(NoSignalWarning):
        several = measured.predict_multicompartment_proba(X.reshape(4, 5, 64))
    np.testing.assert_allclose(several.ravel(), got[:, 1:].sum(axis=1), atol=1e-12)
    with pytest.warns(NoSignalWarning):
        assert measured.score(X, labels) == 17 / 20
    with pytest.warns(NoSignalWarning):
        prior = measured.predict_proba(X, class_prior={1: 1, 2: 0, 3: 0, 4: 0})
    assert (np.delete(prior, dark, axis=0)[:, 0] == 1).all()
    with pytest.warns(NoSignalWarning):
        assert np.isnan(measured.predict_proba(np.full((2, 64), np.nan))).all()
    with pytest.raises(ValueError, match="infinity"):
        measured.predict(np.full((1, 64), np.inf))
    with pytest.raises(ValueError, match="NaN in row 2"):
        clone(measured).fit(X, labels)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, 2, 3, 4], 0), ([0, 1, 2, 3], -1), ([-1, 0, 1, 2], -2), ([1.0, 2.0, 3.0, 4.0], 0.0),
        (["1", "2", "3", "4"], "0"), (["0", "1", "2", "3"], ""), (["a", "b", "c", "d"], "0"),
        ([False, True, True, True], -1),
    ],
)  # fmt: skip
def test_the_label_of_voxels_without_signal_is_no_class(labels, expected, signals):
    X, y = signals
    labels = np.array(labels, dtype=object if labels[0] == "a" else None)[y - 1]
    for model in (
        ResidualMLPClassifier(**SMALL), SignalPipeline([("model", ResidualMLPClassifier(**SMALL))])
    ):  # fmt: skip
        model.fit(X, labels)
        broken = X[:10].copy()
        broken[4] = 0
        with pytest.warns(NoSignalWarning):
            found = model.predict(broken)
        assert found[4] == expected
        assert found[4] not in model.classes_
        np.testing.assert_array_equal(np.delete(found, 4), model.predict(np.delete(broken, 4, 0)))


# -- unusable data ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [*ALL, "detector", "normalizer", "aligner", "generator", "encoded labels", "scaled batches"],
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X[0], r"shape \(64,\). Reshape your data: X.reshape\(1, -1\) is one voxel"),
        (lambda X: X[0].tolist(), r"Reshape your data: X.reshape\(1, -1\)"),
        (lambda X: X + 1j, r"Complex data not supported: SignalPhaser .*phase correction.*abs"),
        (lambda X: pd.DataFrame(X + 1j), "Complex data not supported"),
        (lambda X: (X + 1j).reshape(-1, 8, 8), "Complex data not supported"),
    ],
    ids=["one signal", "a list", "complex", "complex frame", "complex tables"],
)
def test_messages_say_what_to_do_without_the_values(name, change, message, signals):
    more = {
        "detector": SignalNoveltyDetector(n_clusters=2, random_state=0),
        "normalizer": SignalNormalizer(), "aligner": ProtocolAligner(),
        "generator": CorrelationSignalGenerator(random_state=0),
        "encoded labels": EncodedLabelsClassifier(),
        "scaled batches": ScaledBatchClassifier(MLPClassifier((4,), max_iter=2)),
    }  # fmt: skip
    model = (ALL | more)[name]
    X, y = signals[0][:100], signals[1][:100]
    if name == "generator":
        X, y = TissuePrior.named("midl2024").sample(50, random_state=0)
        # filled up to 64 columns
        X = np.pad(X.fillna(0).to_numpy(), ((0, 0), (0, 52)))
        with pytest.raises(ValueError, match=message):
            model.fit(change(X))
        return
    fitted = clone(model).fit(X, y)
    methods = [lambda bad: clone(model).fit(bad, y)]
    methods += [getattr(fitted, name) for name in ("predict", "transform") if hasattr(fitted, name)]
    for method in methods:
        with pytest.raises(ValueError, match=message) as refused:
            method(change(X))
        assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "change",
    [
        lambda X: X, lambda X: X.reshape(-1, 8, 8), lambda X: X.reshape(5, 6, 64),
        lambda X: pd.DataFrame(X, columns=GRID.feature_names), lambda X: X[0],
    ],
    ids=["rows", "tables", "volume", "named", "one signal"],
)  # fmt: skip
def test_signals_in_a_whole_pipeline_point_to_its_later_steps(change, signals):
    tissue, n_c = TissuePrior.named("midl2024").sample(100, random_state=0)
    pipeline = make_pipeline(
        CorrelationSignalGenerator(random_state=0), SignalNormalizer(), LogisticRegression()
    ).fit(tissue.to_numpy(), n_c)
    X, y = signals[0][:30], signals[1][:30]
    for call in (pipeline.predict, lambda X: clone(pipeline).fit(X, y[: len(X)])):
        with (
            warnings.catch_warnings(),
            pytest.raises(ValueError, match=r"simulates signals .*pipeline\[1:\]"),
        ):
            warnings.filterwarnings("ignore", "X has feature names")
            call(change(X))
    with pytest.raises(ValueError, match="features") as refused:  # another mistake
        pipeline.predict(tissue.to_numpy()[:, :6])
    assert "pipeline[1:]" not in str(refused.value)


# -- the pipeline ---------------------------------------------------------------------


def test_a_signal_pipeline_of_the_steps_behind_a_generator(signals, tmp_path):
    tissue, n_c = TissuePrior.named("midl2024").sample(200, random_state=0)
    whole = make_pipeline(
        CorrelationSignalGenerator(random_state=0), SignalNormalizer(),
        ResidualMLPClassifier(**SMALL),
    ).fit(tissue, n_c)  # fmt: skip
    model = SignalPipeline(whole[1:].steps)
    X = signals[0][:30]
    np.testing.assert_array_equal(model.predict_proba(X), whole[1:].predict_proba(X))
    np.testing.assert_array_equal(
        model.predict_multicompartment_proba(X), predict_multicompartment_proba(whole[1:], X)
    )
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert type(again) is SignalPipeline
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    save(whole, tmp_path / "whole.safetensors")
    assert type(load(tmp_path / "whole.safetensors")) is Pipeline
    assert type(model[1:]) is SignalPipeline
    assert not hasattr(model[:1], "predict_proba")


def test_a_signal_pipeline_refuses_to_simulate():
    tissue, n_c = TissuePrior.named("midl2024").sample(200, random_state=0)
    steps = [("simulate", CorrelationSignalGenerator(random_state=0)),
             ("norm", SignalNormalizer()), ("count", LogisticRegression())]  # fmt: skip
    fitted = SignalPipeline(Pipeline(steps).fit(tissue, n_c).steps)
    nested = SignalPipeline([("all", Pipeline(steps))])
    message = r"a step simulates signals .* use Pipeline"
    for model in (SignalPipeline(steps), nested):
        with pytest.raises(ValueError, match=message):
            model.fit(tissue, n_c)
    for method in (
        fitted.predict, fitted.predict_proba, fitted.predict_log_proba,
        fitted.predict_multicompartment_proba, lambda X: fitted.score(X, n_c),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            method(tissue)


def test_logarithms_of_probabilities(measured, signals):
    X = signals[0][:20].copy()
    X[3, 5] = np.nan
    with pytest.warns(NoSignalWarning, match="1 of 20 voxels"):
        got = measured.predict_log_proba(X.reshape(4, 5, 64))
    assert np.isnan(got[0, 3]).all()
    with pytest.warns(NoSignalWarning):
        np.testing.assert_array_equal(got, np.log(measured.predict_proba(X.reshape(4, 5, 64))))
    with pytest.warns(NoSignalWarning):
        sure = measured.predict_log_proba(X, class_prior={1: 1, 2: 0, 3: 0, 4: 0})
    assert (sure[:3, 1:] == -np.inf).all()


def test_with_tables_as_output_of_all_transformers(measured, signals):
    X = signals[0][:20]
    expected = measured.predict_proba(X)
    with config_context(transform_output="pandas"):
        model = clone(PIPELINES["signal pipeline"]).fit(*signals)
        np.testing.assert_array_equal(model.predict_proba(X.reshape(4, 5, 64)).shape, (4, 5, 4))
    np.testing.assert_array_equal(measured.predict_proba(X), expected)
