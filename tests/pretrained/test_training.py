"""Training of models for the pretrained folder."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning
from typer.testing import CliRunner

from corrsk import (
    CompartmentRegressor,
    SignalNormalizer,
    SignalStream,
    load_dataset,
    load_pretrained,
    model_card,
    pretrained_names,
)
from corrsk.cli.app import app
from corrsk.neural.training.callbacks import EpochProgress
from corrsk.pretrained import training as pretraining
from corrsk.pretrained.models import MODELS


@pytest.fixture(autouse=True, scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "_N_VALIDATION", 500)
        patch.setattr(pretraining, "_N_TEST", 2000)
        patch.setattr(pretraining, "_N_POSTERIORS", 20)
        patch.setattr(pretraining, "_N_RESAMPLES", 10)
        yield


def run(*arguments):
    return CliRunner().invoke(app, ["pretrain", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "out"
    result = run("t1t2-detr", "--samples", 20_000, "--out", out, "--jobs", 1)
    assert result.exit_code == 0, result.output
    return out, result.output


@pytest.mark.slow
def test_a_model_is_trained_evaluated_and_written(folder):
    out, shown = folder
    assert sorted(path.name for path in out.iterdir()) == [
        "t1t2-detr.json", "t1t2-detr.md", "t1t2-detr.safetensors",
    ]  # fmt: skip
    assert "binary accuracy: 0." in shown
    model, card = load_pretrained("t1t2-detr", folder=out), model_card("t1t2-detr", folder=out)
    assert (card.norm, model[1].norm) == ("l2", "l2")
    data = load_dataset("t1t2-detr", pretraining._N_TEST, random_state=2)
    # the card has the accuracy of the rounded weights in the file
    assert card.metrics == pretraining.measure(model, "t1t2-detr")
    assert model.score(data.data, data.target) > 0.4  # guessing: 0.33
    assert card.training["command"] == "corrsk pretrain t1t2-detr --samples 20000 --out models"
    assert card.weights["precision"] == "half"
    assert card.to_markdown() == (out / "t1t2-detr.md").read_text(encoding="utf-8")


def test_existing_models_and_bad_arguments_are_refused(folder, tmp_path):
    out, _ = folder
    before = {path: path.read_bytes() for path in out.iterdir()}
    again = run("t1t2-detr", "--samples", 20_000, "--out", out)
    assert again.exit_code == 1
    assert "--force" in again.output
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert "known models" in run("brain", "--out", tmp_path).output
    assert "does not exist" in run("midl2024", "--out", tmp_path / "a" / "b").output
    assert "is not available" in run("midl2024", "--out", tmp_path, "--device", "cuda:99").output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_interrupted_training_is_resumed(folder, tmp_path, monkeypatch):
    out, _ = folder
    monkeypatch.setattr("corrsk.neural.training.checkpoint.INTERVAL", 0)
    on_epoch_end = EpochProgress.on_epoch_end

    def pull_the_plug(self, net, **kwargs):
        if len(net.history) == 10:
            raise KeyboardInterrupt
        on_epoch_end(self, net, **kwargs)

    monkeypatch.setattr(EpochProgress, "on_epoch_end", pull_the_plug)
    arguments = ("t1t2-detr", "--samples", 20_000, "--out", tmp_path, "--jobs", 1)
    stopped = run(*arguments)
    assert stopped.exit_code == 130
    assert "the same command resumes" in stopped.output
    assert [path.name for path in tmp_path.iterdir()] == ["t1t2-detr.checkpoint"]
    monkeypatch.setattr(EpochProgress, "on_epoch_end", on_epoch_end)
    assert run(*arguments).exit_code == 0
    assert (
        model_card("t1t2-detr", folder=tmp_path).metrics
        == model_card("t1t2-detr", folder=out).metrics
    )
    X = load_dataset("t1t2-detr", 100).data
    np.testing.assert_array_equal(
        *(load_pretrained("t1t2-detr", folder=where).predict_proba(X) for where in (out, tmp_path))
    )


@pytest.mark.slow
def test_a_model_of_compartments_is_trained_evaluated_and_written(tmp_path):
    name = "scanner-ir-se-8x8-compartments"
    arguments = (name, "--samples", 2000, "--out", tmp_path)
    refused = run(*arguments, "--device", "cpu")
    assert refused.exit_code == 1
    assert "chooses its device itself" in refused.output
    result = run(*arguments, "--jobs", 1)
    assert result.exit_code == 0, result.output
    assert "strict accuracy: 0." in result.output
    model, card = load_pretrained(name, folder=tmp_path), model_card(name, folder=tmp_path)
    assert type(model) is CompartmentRegressor
    # predictions have the threads of the user, not of the training
    assert (model.n_jobs, model.network_.n_jobs) == (None, None)
    data = load_dataset("scanner-ir-se-8x8", pretraining._N_POSTERIORS, random_state=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        posterior = model.posterior(data.data)
        matched = load_pretrained(name, "ir-se-8x8", folder=tmp_path).predict(data.data)
    right = posterior.probabilities.argmax(axis=1) + 1 == data.target
    assert card.metrics["accuracy"]["value"] == pytest.approx(right.mean())
    assert card.metrics["share_of_reliable_voxels"]["value"] == posterior.reliable.mean()
    truth = data.tissue[right & (posterior.table()["n_c"] == 1)]
    lower, upper = posterior.interval(0.9)
    inside = lower["T1_1"].le(truth["T1_1"]) & upper["T1_1"].ge(truth["T1_1"])
    assert 0 < inside[truth.index].mean() <= 1
    assert 0 < card.metrics["coverage_of_T1_at_90_percent"]["value"] < 1
    pd.testing.assert_frame_equal(matched, posterior.table())
    assert card.network["n_components"] == model.n_components
    assert "signed signals" in card.to_markdown()
    assert "class_prior" not in card.to_markdown()


def test_the_defaults_equal_the_training_of_the_shipped_models():
    assert set(MODELS) == set(pretrained_names())
    for name, definition in MODELS.items():
        assert model_card(name).training["signals"] == definition.n_samples
    shown = "".join(run("--help").output.replace("│", "").split())
    assert all(name in shown for name in MODELS)


def test_a_model_is_a_data_set_and_a_norm():
    plain, normalised = MODELS["t1t2-detr-m0"], MODELS["t1t2-detr"]
    X, y = plain.stream(3).draw(0, 500)
    np.testing.assert_array_equal(X, SignalStream.named("t1t2-detr", 3).draw(0, 500)[0])
    got, labels = normalised.stream(3).draw(0, 500)
    np.testing.assert_array_equal(got, SignalNormalizer("l2").fit_transform(X))
    np.testing.assert_array_equal(labels, y)
    assert (plain.data.norm, normalised.data.norm) == (None, "l2")
    assert plain.data.name == normalised.data.name == "t1t2-detr"
