"""Training of models for the pretrained folder."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from corrsk import (
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


def test_the_defaults_equal_the_training_of_the_shipped_models():
    assert set(MODELS) == set(pretrained_names())
    for name, definition in MODELS.items():
        assert model_card(name).training["signals"] == definition.n_samples
    assert all(name in run("--help").output for name in MODELS)


def test_a_model_is_a_data_set_and_a_norm():
    plain, normalised = MODELS["t1t2-detr-m0"], MODELS["t1t2-detr"]
    X, y = plain.stream(3).draw(0, 500)
    np.testing.assert_array_equal(X, SignalStream.named("t1t2-detr", 3).draw(0, 500)[0])
    got, labels = normalised.stream(3).draw(0, 500)
    np.testing.assert_array_equal(got, SignalNormalizer("l2").fit_transform(X))
    np.testing.assert_array_equal(labels, y)
    assert (plain.data.norm, normalised.data.norm) == (None, "l2")
    assert plain.data.name == normalised.data.name == "t1t2-detr"
