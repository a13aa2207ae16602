"""Batches, loss, schedules and checkpoints of the training."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from corrsk import CorrelationCNNClassifier
from corrsk._utils.locks import exclusive
from corrsk.neural.training.callbacks import EpochProgress
from corrsk.neural.training.checkpoint import TrainingCheckpoint, _header
from corrsk.neural.training.net import CountLoss, TensorSignals, WholeBatches
from corrsk.neural.training.schedules import SCHEDULES, one_cycle, steps
from tests._helpers import make_classifier


def test_whole_batches_visit_every_sample_once():
    data = TensorSignals(torch.arange(10.0)[:, None], torch.arange(10))
    generator = torch.Generator().manual_seed(0)
    batches = WholeBatches(data, batch_size=4, shuffle=True, generator=generator)
    assert len(batches) == 3
    first, second = list(batches), list(batches)
    assert [len(batch.y) for batch in first] == [4, 4, 2]
    for epoch in (first, second):
        X = torch.cat([batch.X for batch in epoch]).ravel()
        y = torch.cat([batch.y for batch in epoch])
        assert torch.equal(X, y.float())  # a signal keeps its label
        assert sorted(y.tolist()) == list(range(10))
    assert not torch.equal(first[0].y, second[0].y)
    in_order = torch.cat([batch.y for batch in WholeBatches(data, 4)])
    assert in_order.tolist() == list(range(10))


def test_schedules():
    rates = [steps(k / 3000) for k in (0, 599, 600, 1800, 2999)]
    np.testing.assert_allclose(rates, [1, 1, 0.01**0.2, 0.01**0.6, 0.01**0.8])
    cycle = np.array([one_cycle(k / 100) for k in range(101)])
    assert cycle.argmax() == 30
    assert cycle[0] == pytest.approx(0.04)
    assert cycle[-1] == pytest.approx(4e-6)
    assert (np.diff(cycle[:31]) > 0).all()
    assert (np.diff(cycle[30:]) < 0).all()
    assert all(0 < SCHEDULES[name](p) <= 1 for name in SCHEDULES for p in (0.0, 0.5, 1.0))


def test_loss_with_softmax_before_the_cross_entropy():
    logits, target = torch.tensor([[50.0, 0, 0, 0]]), torch.tensor([0])
    assert CountLoss()(logits, target).item() == pytest.approx(0, abs=1e-6)
    published = CountLoss(softmax_first=True)(logits, target).item()
    assert published == pytest.approx(np.log(1 + 3 / np.e), rel=1e-6)


def test_class_weights_are_not_normalised_per_batch():
    loss = CountLoss(weight=torch.tensor([2.0, 0.0]))
    logits = torch.zeros(4, 2)
    assert loss(logits, torch.ones(4, dtype=torch.long)).item() == 0
    mixed = loss(logits, torch.tensor([0, 0, 1, 1])).item()
    assert mixed == pytest.approx(np.log(2))


# -- checkpoints --------------------------------------------------------------


def classifier(**changes):
    settings = {
        "protocol": "ir-se-8x8", "max_epochs": 6, "dropout": 0.2, "validation_fraction": 0.2,
        "random_state": 0, "verbose": False,
    }  # fmt: skip
    return CorrelationCNNClassifier(**settings | changes)


@pytest.fixture
def signals(small_data):
    return small_data.data[:1500], small_data.target[:1500]


class PulledPlug(Exception):
    pass


@pytest.mark.parametrize("error", [PulledPlug, KeyboardInterrupt])
def test_an_interrupted_training_resumes_bit_identically(signals, tmp_path, monkeypatch, error):
    whole = classifier().fit(*signals)

    path = tmp_path / "training.checkpoint"
    monkeypatch.setattr("corrsk.neural.training.checkpoint.INTERVAL", 0)
    on_epoch_end = EpochProgress.on_epoch_end

    def pull_the_plug(self, net, **kwargs):
        if len(net.history) == 4:
            raise error
        on_epoch_end(self, net, **kwargs)

    monkeypatch.setattr(EpochProgress, "on_epoch_end", pull_the_plug)
    model = classifier(checkpoint=path)
    with pytest.raises(error):
        model.fit(*signals)
    assert not hasattr(model, "net_")  # not fitted
    monkeypatch.setattr(EpochProgress, "on_epoch_end", on_epoch_end)

    epochs_run = []
    on_train_begin = EpochProgress.on_train_begin
    monkeypatch.setattr(
        EpochProgress, "on_train_begin",
        lambda self, net, **kw: (epochs_run.append(len(net.history)), on_train_begin(self, net)),
    )  # fmt: skip
    resumed = classifier(checkpoint=path).fit(*signals)
    assert epochs_run == [3]  # resumed, not restarted
    for name, tensor in whole.net_.module_.state_dict().items():
        assert torch.equal(tensor, resumed.net_.module_.state_dict()[name]), name
    assert [row["valid_loss"] for row in whole.history_] == [
        row["valid_loss"] for row in resumed.history_
    ]
    assert resumed.best_epoch_ == whole.best_epoch_
    finished = classifier(checkpoint=path).fit(*signals)
    assert epochs_run == [3, 6]
    assert finished.n_iter_ == 6


def test_a_checkpoint_of_another_training_is_refused(signals, tmp_path):
    path = tmp_path / "training.checkpoint"
    classifier(checkpoint=path, max_epochs=1).fit(*signals)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="other parameters or other data"):
        classifier(checkpoint=path, max_epochs=2).fit(*signals)
    with pytest.raises(ValueError, match="other parameters or other data"):
        classifier(checkpoint=path, max_epochs=1).fit(signals[0] * 2, signals[1])
    assert path.read_bytes() == before
    path.write_bytes(b"a shopping list")
    with pytest.raises(ValueError, match="not a training checkpoint"):
        classifier(checkpoint=path, max_epochs=1).fit(*signals)
    assert path.read_bytes() == b"a shopping list"


def test_checkpoint_without_seed_or_with_bad_path_is_refused(signals, tmp_path):
    with pytest.raises(ValueError, match="needs an integer random_state"):
        classifier(checkpoint=tmp_path / "c", random_state=None).fit(*signals)
    with pytest.raises(ValueError, match="no folder .*absent"):
        classifier(checkpoint=tmp_path / "absent" / "c").fit(*signals)
    with pytest.raises(ValueError, match="is a folder"):
        classifier(checkpoint=tmp_path).fit(*signals)


def test_two_trainings_do_not_share_a_checkpoint(signals, tmp_path):
    path = tmp_path / "a.1"
    with (
        exclusive(path, related=False),  # as another process holds it
        pytest.raises(FileExistsError, match=r"another process is writing to .*a\.1"),
    ):
        classifier(checkpoint=path, max_epochs=1).fit(*signals)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_training_left_of_its_checkpoint_is_removed(signals, tmp_path):
    own, of_others = ".a-abcd_123.partial.1", (".a-abcd_123.partial.2", ".a-b-abcd_123.partial.1")
    for name in (own, *of_others, ".a.1.lock"):
        (tmp_path / name).touch()
    classifier(checkpoint=tmp_path / "a.1", max_epochs=1).fit(*signals)
    assert {path.name for path in tmp_path.iterdir()} == {"a.1", *of_others}


def test_progress_is_shown_after_its_delay(signals, capsys, monkeypatch):
    # on any machine
    monkeypatch.setattr("corrsk.neural._base.PROGRESS_DELAY", 3600)
    classifier(max_epochs=2, verbose=True).fit(*signals)
    assert "training" not in capsys.readouterr().err
    monkeypatch.setattr("corrsk.neural._base.PROGRESS_DELAY", 0)
    classifier(max_epochs=2, verbose=True).fit(*signals)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "valid_loss" in shown
    classifier(max_epochs=2, verbose=False).fit(*signals)
    assert "training" not in capsys.readouterr().err


# -- damaged and altered checkpoints -------------------------------------------------


OPTIMIZERS = {
    "adamw": ("cnn", {"backend": "torch"}),
    "muon": ("residual-mlp", {"width": 8, "n_blocks": 2, "optimizer": "muon"}),
    "sgd": ("cnn", {"backend": "torch", "optimizer": "sgd", "momentum": 0.9}),
}


@pytest.fixture(scope="module", params=OPTIMIZERS)
def written(request, small_data, tmp_path_factory):
    """Checkpoint after one epoch, its content, and a function that fits with it."""
    path = tmp_path_factory.mktemp(request.param) / "training.checkpoint"
    X, y = small_data.data[:40], small_data.target[:40]
    network, changes = OPTIMIZERS[request.param]
    settings = {"max_epochs": 1, "random_state": 0, "verbose": False, "batch_size": 40}

    def fit():
        return make_classifier(network, **settings | changes, checkpoint=path).fit(X, y)

    fit()
    return path, path.read_bytes(), fit


@pytest.fixture
def checkpoint(written):
    path, content, fit = written
    path.write_bytes(content)
    return path, fit


def without_header(path):
    return path.read_bytes().split(b"\n", 1)[1]


def test_a_changed_bit_is_noticed(checkpoint):
    path, fit = checkpoint
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    reader = TrainingCheckpoint(path, "another training", [], torch.Generator())
    with pytest.raises(ValueError, match="of a training with other parameters"):
        reader.read()  # undamaged
    for position in rng.integers(len(content), size=200):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged|is not a training checkpoint"):
            reader.read()
    with pytest.raises(ValueError, match="is damaged|is not a training checkpoint"):
        fit()
    assert path.read_bytes() == damaged  # the file is kept
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        fit()


def test_a_checkpoint_of_the_first_format_is_resumed(checkpoint):
    path, fit = checkpoint
    whole = fit()
    state = torch.load(io.BytesIO(without_header(path)), weights_only=True)
    torch.save({"format": 1, **state}, path)
    resumed = fit()
    assert resumed.history_ == whole.history_
    torch.save({"format": 3, **state}, path)
    with pytest.raises(ValueError, match="not a training checkpoint"):
        fit()


def first_state(state):
    """First state of an optimiser that has tensors."""
    parts = state["optimizer"].get("parts", [state["optimizer"]])
    return next(each for part in parts for each in part["state"].values())


def alter_moment(change):
    def alter(state):
        moments = first_state(state)
        name = next(name for name in moments if name != "step")
        moments[name] = change(moments[name])

    return alter


def alter_weights(change):
    def alter(state):
        name = next(iter(state["module"]))
        state["module"][name] = change(state["module"][name])

    return alter


def set_entry(key, value):
    def alter(state):
        state[key] = value

    return alter


ALTERATIONS = {
    "empty moment": alter_moment(lambda t: torch.zeros(0)),
    "short moment": alter_moment(lambda t: t.ravel()[:1]),
    "double moment": alter_moment(lambda t: t.double()),
    "moment that is not finite": alter_moment(lambda t: torch.full_like(t, torch.nan)),
    "moment that is a number": alter_moment(lambda t: 1.0),
    "sparse moment": alter_moment(lambda t: t.to_sparse()),
    "unknown moment": lambda state: first_state(state).update(more=torch.zeros(2)),
    "weights of another shape": alter_weights(lambda t: torch.zeros(3)),
    "weights that are not finite": alter_weights(lambda t: torch.full_like(t, torch.inf)),
    "no weights": set_entry("module", {}),
    "no optimiser": set_entry("optimizer", {}),
    "history of numbers": set_entry("history", [3]),
    "short random state": set_entry("rng", torch.zeros(3, dtype=torch.uint8)),
    "no order": set_entry("order", None),
    "no callbacks": set_entry("callbacks", []),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_an_altered_checkpoint_is_refused(checkpoint, name):
    """Also with a right digest: torch's optimisers would write beyond tensors of wrong shapes."""
    path, fit = checkpoint
    state = torch.load(io.BytesIO(without_header(path)), weights_only=True)
    ALTERATIONS[name](state)
    file = io.BytesIO()
    torch.save(state, file)
    path.write_bytes(_header(file.getvalue()) + file.getvalue())
    with pytest.raises(ValueError, match="is not a checkpoint of this training, or is damaged"):
        fit()
