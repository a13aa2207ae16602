"""Files of pretrained models, their cards and the shipped models."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning

from corrsk import (
    AcquisitionProtocol,
    EchoTrain,
    NoSignalWarning,
    ProtocolMismatchError,
    ProtocolWarning,
    ResidualMLPClassifier,
    SignalNormalizer,
    SimulationTrainedClassifier,
    load,
    load_dataset,
    load_pretrained,
    make_correlation_signals,
    model_card,
    pretrained_names,
    save,
)
from corrsk.physics import SliceProfile
from corrsk.pretrained import ModelCard, write_pretrained
from corrsk.pretrained.models import COUNTS, MODELS, model_definition, model_of_dataset
from corrsk.pretrained.store import SHIPPED_FOLDER
from corrsk.simulation.datasets import DATASETS, simulate_dataset

NAME = "midl2024-low-noise"
FACTS = {
    "title": "Counts compartments, badly: it was trained for a test.",
    "training": {"command": f"corrsk pretrain {NAME}", "signals": 1000},
    "compute": {"device": "cpu", "seconds": 1.5},
    "test_data": "nothing at all",
    "metrics": {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}},
    "limits": ("it knows nothing",),
}


def trained(definition, **parameters):
    X, y = make_correlation_signals(
        1000, prior=definition.prior, protocol=definition.protocol,
        noise_level=definition.noise_levels, noise_reference=definition.noise_reference,
        norm=definition.norm, random_state=0,
    )  # fmt: skip
    classifier = ResidualMLPClassifier(width=16, n_blocks=1, max_epochs=2, random_state=0)
    return SimulationTrainedClassifier.from_network(definition, classifier.fit(X, y))


@pytest.fixture(scope="module")
def pipeline():
    return trained(DATASETS[NAME])


@pytest.fixture(scope="module")
def card(pipeline):
    return ModelCard.from_pipeline(pipeline, name=NAME, date="2026-01-31", **FACTS)


@pytest.fixture(scope="module")
def folder(pipeline, card, tmp_path_factory):
    where = tmp_path_factory.mktemp("models")
    write_pretrained(pipeline, card, where)
    return where


@pytest.fixture(scope="module")
def signals():
    return load_dataset(NAME, 50, random_state=1).data


# -- a model in a folder, in place of the shipped ones ----------------------------


def test_a_saved_model_loads_unchanged(pipeline, folder, signals, recwarn):
    model = load_pretrained(NAME, folder=folder)
    np.testing.assert_array_equal(model.predict_proba(signals), pipeline.predict_proba(signals))
    # by corrsk.load, too
    again = load(folder / f"{NAME}.safetensors")
    np.testing.assert_array_equal(again.predict(signals), model.predict(signals))
    assert pretrained_names(folder) == [NAME]
    assert not recwarn.list


def test_the_global_output_of_transformers_does_not_matter(pipeline, folder, signals):
    expected = pipeline.predict_proba(signals)
    with config_context(transform_output="pandas"):  # warnings are errors
        for model in (pipeline, load_pretrained(NAME, folder=folder)):
            np.testing.assert_array_equal(model.predict_proba(signals), expected)
        model = load_pretrained(NAME, "ir-se-8x8", folder=folder)
        np.testing.assert_array_equal(model.predict_proba(signals), expected)


def test_columns_may_have_any_order(folder, signals):
    model = load_pretrained(NAME, folder=folder)
    expected = model.predict_proba(signals)
    protocol = AcquisitionProtocol.named("ir-se-8x8")
    frame = pd.DataFrame(signals, columns=protocol.feature_names)
    mixed = frame.sample(frac=1, axis=1, random_state=0)
    np.testing.assert_array_equal(model.predict_proba(mixed), expected)
    measured = AcquisitionProtocol.from_feature_names(mixed.columns)
    matched = load_pretrained(NAME, measured, folder=folder)
    np.testing.assert_array_equal(matched.predict_proba(mixed.to_numpy()), expected)
    # a model with normalisation does not depend on the scale of the signals
    np.testing.assert_allclose(matched.predict_proba(1000 * mixed.to_numpy()), expected, atol=1e-5)


def test_the_published_protocol_file_is_accepted_with_a_warning_of_the_loss(
    folder, signals, ti_te_mat
):
    measured = AcquisitionProtocol.from_mat(ti_te_mat)
    with pytest.warns(ProtocolWarning, match=r"TR 20000 ms.*a loss of -?\d\.\d\d \+- ") as caught:
        model = load_pretrained(NAME, measured, folder=folder)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model.predict(measured.to_scan_order(signals))
    np.testing.assert_array_equal(found, load_pretrained(NAME, folder=folder).predict(signals))


def test_other_protocols_are_refused(folder, signals):
    known = AcquisitionProtocol.named("ir-se-8x8")
    other = AcquisitionProtocol(ti=1.1 * known.ti, te=known.te)
    with pytest.raises(ProtocolMismatchError, match="TI 55 in place of 50"):
        load_pretrained(NAME, other, folder=folder)
    model = load_pretrained(NAME, folder=folder)
    with pytest.raises(ProtocolMismatchError, match="TI 55 in place of 50"):
        model.predict(pd.DataFrame(signals, columns=other.feature_names))
    with pytest.raises(ValueError, match="40 features"):
        model.predict(signals[:, :40])


def test_a_model_without_normalisation():
    pipeline = trained(model_definition("t1t2-detr-m0").data)
    card = ModelCard.from_pipeline(pipeline, name="t1t2-detr-m0", **FACTS)
    assert card.norm is None
    assert card.noise == {"reference": "max", "distribution": "gaussian", "snr": [30.0, 150.0]}
    assert "SNR uniform from 30 to 150" in card.to_markdown()
    assert "T2 < T1" in card.to_markdown()


def test_half_precision(pipeline, card, folder, signals, tmp_path):
    path = write_pretrained(pipeline, card, tmp_path, half_precision=True)
    assert path.stat().st_size < (folder / path.name).stat().st_size
    with safe_open(path, framework="np") as file:
        kinds = {(file.get_slice(key).get_dtype(), len(file.get_slice(key).get_shape()) > 1)
                 for key in file.keys()  # noqa: SIM118
                 if file.get_slice(key).get_dtype().startswith("F")}  # fmt: skip
    assert kinds == {("F16", True), ("F32", False)}  # scales and biases keep their precision
    model = load_pretrained(NAME, folder=tmp_path)
    assert {str(p.dtype) for p in model[-1].net_.module_.parameters()} == {"torch.float32"}
    np.testing.assert_allclose(
        model.predict_proba(signals), pipeline.predict_proba(signals), atol=5e-3
    )
    assert model_card(NAME, tmp_path).weights["precision"] == "half"


def test_a_weight_too_large_for_half_precision(pipeline, tmp_path):
    model = load_pretrained_copy(pipeline, tmp_path)
    next(p for p in model.net_.module_.parameters() if p.ndim == 2).data[0, 0] = 1e6
    with pytest.raises(ValueError, match="too large for half precision"):
        save(model, tmp_path / "half", half_precision=True)
    assert not (tmp_path / "half").exists()


def load_pretrained_copy(pipeline, folder):
    save(pipeline[-1], folder / "copy")
    return load(folder / "copy")


# -- errors -----------------------------------------------------------------------


def test_unknown_names(folder):
    with pytest.raises(ValueError, match=f"unknown pretrained model 'midl'; known models: {NAME}"):
        load_pretrained("midl", folder=folder)
    with pytest.raises(ValueError, match="unknown pretrained model 'midl'"):
        model_card("midl")


def test_weights_that_do_not_match_the_card_are_refused(pipeline, card, tmp_path):
    path = write_pretrained(pipeline, card, tmp_path)
    save(pipeline, path, half_precision=True)
    with pytest.raises(ValueError, match="do not match the checksum of the model card"):
        load_pretrained(NAME, folder=tmp_path)


def test_a_card_that_does_not_match_the_pipeline_is_refused(pipeline, card, tmp_path):
    other = dataclasses.replace(card, noise={**card.noise, "levels": [0.01]})
    with pytest.raises(ValueError, match="does not match the model: noise differ"):
        write_pretrained(pipeline, other, tmp_path)
    with pytest.raises(TypeError, match="or a Pipeline of ProtocolAligner"):
        write_pretrained(pipeline[1:], card, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_aligner_that_expects_another_normalisation(pipeline, card, tmp_path, signals):
    unlike = load_pretrained_pipeline(pipeline, tmp_path)
    unlike.pipeline_.steps[1] = ("signalnormalizer", SignalNormalizer("max").fit(signals))
    with pytest.raises(ValueError, match="norm='l2', the SignalNormalizer 'max'"):
        write_pretrained(unlike, card, tmp_path)


def load_pretrained_pipeline(pipeline, folder):
    save(pipeline, folder / "pipeline")
    return load(folder / "pipeline")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limits": ()}, "needs limits"),
        ({"training": {"signals": 5}}, "needs the command"),
        ({"metrics": {"accuracy": {"value": 0.5}}}, "needs value, low and high"),
        ({"metrics": {"accuracy": {"value": 0.5, "low": 0.6, "high": 0.7}}}, "does not contain"),
        ({"date": "yesterday"}, "isoformat"),
    ],
)
def test_incomplete_cards(card, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(card, **change)


def test_bad_card_files(folder, tmp_path):
    content = json.loads((folder / f"{NAME}.json").read_text())
    path = tmp_path / "card.json"
    for change, message in [
        ({"format": "shopping list"}, "not a model card"),
        ({"version": 99}, "newer version"),
        ({"colour": "red"}, "missing or unknown entries: colour"),
    ]:
        path.write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=message):
            ModelCard.from_json(path)
    del content["limits"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="missing or unknown entries: limits"):
        ModelCard.from_json(path)


def test_the_card_as_a_markdown_page(folder, card):
    read = model_card(NAME, folder)
    assert dataclasses.replace(read, weights={}) == card
    page = str(read)
    for part in (
        "# midl2024-low-noise",
        "T1 50 to 5000 ms in steps of 50",
        "TI 50, 85, 143, 243, 412, 697, 1181, 2000 ms",
        "0.1, 0.2, 0.3, 0.4, 0.5 % of M0",
        "corrsk pretrain midl2024-low-noise",
        "| accuracy | 0.5 | 0.4 to 0.6 |",
        "- it knows nothing",
        "width: 16",
    ):
        assert part in page


TRAIN = EchoTrain(10.0, 150.0, profile=SliceProfile(0.99, 1.65, 1.96, 46.0))


def test_the_card_of_imperfect_pulses(tmp_path):
    definition = DATASETS["scanner-ir-se-8x8-magnitude"]
    series = [
        AcquisitionProtocol(te=[10, 20, 40], tr=3000, readout=TRAIN),
        AcquisitionProtocol(ti=[50, 400, 2000], te=10, tr=9000),
    ]
    two_series = dataclasses.replace(
        definition, name="mine", protocol=AcquisitionProtocol.concatenate(series, same_gain=False)
    )
    general = (
        "T1 50 to 5000 ms (log)", "T2 < T1; inversion efficiency 0.8 to 1; echo loss 0 to 0.05",
        "rician, of standard deviation the largest absolute signal over an SNR log-uniform from "
        "20 to 1000",
    )  # fmt: skip
    of_two = (
        "; echo trains of spacing 10 ms, refocusing angle 150 degrees, slice profile; "
        "2 series of unknown relative scale"
    )
    for one, parts in ((definition, general), (two_series, (*general, of_two))):
        pipeline = trained(one)
        card = ModelCard.from_pipeline(pipeline, name=one.name, **FACTS)
        assert all(part in str(card) for part in parts)
        assert ("echo trains" in str(card)) == (one is two_series)
        write_pretrained(pipeline, card, tmp_path)
        assert model_card(one.name, tmp_path).prior == card.prior
        X = simulate_dataset(one, 30).data
        model = load_pretrained(one.name, folder=tmp_path)
        np.testing.assert_array_equal(model.predict_proba(X), pipeline.predict_proba(X))
    # the measured protocol must state the trains and the series
    measured = AcquisitionProtocol.concatenate(series[::-1], same_gain=False)
    turned = load_pretrained("mine", measured, folder=tmp_path)
    order = [3, 4, 5, 0, 1, 2]
    np.testing.assert_array_equal(turned.predict_proba(X[:, order]), model.predict_proba(X))
    single = AcquisitionProtocol(two_series.protocol.contrasts, tr=two_series.protocol.tr)
    with pytest.raises(ProtocolMismatchError, match="single spin echoes in place of echo trains"):
        load_pretrained("mine", single, folder=tmp_path)


# -- the models that are shipped --------------------------------------------------
# There are none until the first file is added; from then on all of them must exist.

SHIPPED = sorted(path.name for path in SHIPPED_FOLDER.iterdir() if path.suffix != ".py"
                 and path.is_file())  # fmt: skip
# data sets from which counts can be learnt
WITH_COUNTS = [name for name, definition in DATASETS.items()
               if len(definition.resolved().prior.n_compartments) > 1]  # fmt: skip
CLASSIFIERS = [name for name, model in MODELS.items() if model.kind == COUNTS]
needs_shipped = pytest.mark.skipif(not SHIPPED, reason="no pretrained models are shipped yet")


@needs_shipped
def test_every_definition_has_its_model():
    wanted = {f"{name}{end}" for name in MODELS for end in (".json", ".safetensors")}
    assert set(SHIPPED) == wanted
    assert sum((SHIPPED_FOLDER / name).stat().st_size for name in SHIPPED) < 9e6
    # a model of signals of any scale for each data set
    assert {MODELS[name].norm for name in WITH_COUNTS} == {"l2"}
    assert model_of_dataset("midl2024") == "midl2024"
    assert model_of_dataset("t1t2-detr") == "t1t2-detr-m0"


@needs_shipped
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_shipped_model_has_the_accuracy_of_its_card(name):
    definition, card = MODELS[name], model_card(name)
    assert card.name == name
    assert f"corrsk pretrain {name} " in card.training["command"]
    model = load_pretrained(name)
    assert model[0].protocol_ == AcquisitionProtocol(**card.protocol)
    # the values of this model
    facts = ModelCard.from_pipeline(
        SimulationTrainedClassifier.from_network(definition.data, model[-1]), name=name, **FACTS
    )
    assert (facts.prior, facts.noise, facts.norm) == (card.prior, card.noise, definition.norm)
    data = load_dataset(definition.dataset, n_samples=20_000, random_state=12345)
    accuracy = np.mean(model.predict(data.data) == data.target)
    error = np.sqrt(accuracy * (1 - accuracy) / 20_000)
    assert abs(accuracy - card.metrics["accuracy"]["value"]) < 4 * error + 0.002


@needs_shipped
def test_the_shipped_regressor_has_the_accuracy_of_its_card(ti_te_mat):
    name = "scanner-ir-se-8x8-compartments"
    card = model_card(name)
    measured = AcquisitionProtocol.from_mat(ti_te_mat)
    with pytest.warns(ProtocolWarning, match="TR 20000 ms"):
        model = load_pretrained(name, measured)
    model.set_params(verbose=False)
    facts = ModelCard.from_pipeline(model, name=name, **FACTS)
    assert (facts.prior, facts.noise, facts.network) == (card.prior, card.noise, card.network)
    data = load_dataset(MODELS[name].dataset, n_samples=300, random_state=12345)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        posterior = model.posterior(measured.to_scan_order(data.data))
    counts = model.classes_[posterior.probabilities.argmax(axis=1)]
    accuracy = np.mean(counts == data.target)
    error = np.sqrt(accuracy * (1 - accuracy) / 300)
    assert abs(accuracy - card.metrics["accuracy"]["value"]) < 4 * error
    assert posterior.reliable.mean() > card.metrics["share_of_reliable_voxels"]["value"] - 0.1


@needs_shipped
@pytest.mark.parametrize("name", WITH_COUNTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_shipped_models_accept_signals_of_any_scale(name, dtype):
    X = load_dataset(name, n_samples=200).data.astype(dtype)
    model = load_pretrained(name)
    expected = model.predict_proba(X)
    for scale in (1e-30, 1e-22, 1e-3, 5, 1e4, 1e19, 1e37):
        got = model.predict_proba(X * dtype(scale))
        # the scaled signals are rounded
        np.testing.assert_allclose(got, expected, atol=1e-3, err_msg=str(scale))


@needs_shipped
@pytest.mark.parametrize("scale", [1e-22, 0.2, 0.5, 2, 5, 1e4])
def test_the_model_of_known_m0_refuses_another_scale(scale):
    data = load_dataset("t1t2-detr", n_samples=300, random_state=5)
    model = load_pretrained("t1t2-detr-m0")
    assert model.score(data.data, data.target) > 0.8
    X = np.float32(scale) * data.data
    for method in (model.predict, model.predict_proba):
        with pytest.raises(ValueError, match=r"SignalNormalizer.*'t1t2-detr'") as refused:
            method(X)
        shown = re.search(r"indicate M0 = (\S+)", str(refused.value))[1]
        assert float(shown) == pytest.approx(scale, rel=0.05)
    frame = pd.DataFrame(X, columns=data.protocol.feature_names).iloc[:, ::-1]
    with pytest.raises(ValueError, match="with M0 = 1"):
        model.predict(frame)
    # the other model of this data set does not depend on the scale
    assert load_pretrained("t1t2-detr").score(X, data.target) > 0.78


@needs_shipped
@pytest.mark.parametrize("scale", [0.8, 0.9, 1.1, 1.25])
def test_the_model_of_known_m0_warns_of_an_improbable_scale(scale):
    data = load_dataset("t1t2-detr", n_samples=300, random_state=5)
    with pytest.warns(UserWarning, match=f"M0 = {scale:.1g}.*are wrong.*'t1t2-detr'") as caught:
        load_pretrained("t1t2-detr-m0").predict(np.float32(scale) * data.data)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@needs_shipped
def test_single_voxels_of_another_scale_do_not_refuse_the_others():
    data = load_dataset("t1t2-detr", n_samples=300, random_state=5)
    model = load_pretrained("t1t2-detr-m0")
    X = data.data.copy()
    expected = model.predict(X)
    X[7] = 0
    X[8] *= 0.01
    with pytest.warns(NoSignalWarning, match="1 of 300"):
        found = model.predict(X)
    assert found[7] == 0
    np.testing.assert_array_equal(np.delete(found, [7, 8]), np.delete(expected, [7, 8]))
    X[:100] *= 0.01
    with pytest.warns(UserWarning, match="31% outside"):
        model.predict(X[9:])


@needs_shipped
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_shipped_model_accepts_the_published_protocol_file(name, ti_te_mat):
    measured = AcquisitionProtocol.from_mat(ti_te_mat)
    if model_card(name).protocol["tr"] == measured.tr:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_pretrained(name, measured)
    else:
        with pytest.warns(ProtocolWarning, match="percentage points"):
            load_pretrained(name, measured)
    with pytest.raises(ProtocolMismatchError):
        load_pretrained(name, AcquisitionProtocol(ti=1.1 * measured.ti, te=measured.te, tr=20_000))


@pytest.mark.slow
def test_partial_fit_of_a_shipped_model_does_not_lower_its_accuracy():
    model = load_pretrained(NAME)
    X, y = make_correlation_signals(3000, noise_level=0.001, random_state=1, verbose=False)
    X_test, y_test = make_correlation_signals(
        6000, noise_level=0.001, random_state=2, verbose=False
    )
    before = model.predict(X_test) == y_test
    model[-1].set_params(random_state=0, verbose=False)
    for _ in range(3):
        model[-1].partial_fit(model[:-1].transform(X), y)
    after = model.predict(X_test) == y_test
    # the full rate loses 6 percentage points; three standard errors of the paired difference
    lost = before.astype(float) - after
    assert lost.mean() < max(3 * lost.std() / np.sqrt(lost.size), 0.005)
    assert (before != after).any()
