"""Fused kernels of the CNN. Without a GPU, they are compiled for the processor and simulated."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from corrsk import SignalStream, StackedGridSearchCV, load_dataset
from corrsk.neural.gpu import fused, graphs
from corrsk.neural.gpu.cnn_layout import CNNLayout
from corrsk.neural.networks import CorrelationCNN
from corrsk.neural.training.net import TensorSignals
from tests._helpers import make_classifier, make_settings
from tests.neural.gpu import _simulator

GPU = torch.cuda.is_available()
pytestmark = pytest.mark.skipif(
    not GPU and _simulator.COMPILER is None, reason="there is neither a GPU nor g++"
)


class AtOnce:
    """Replacement of `CudaGraphs` without a GPU; the kernels keep all state in tensors."""

    def __init__(self, device):
        assert device.type == "cpu"

    def capture(self, step):
        return step


@pytest.fixture(params=["cuda" if GPU else "cpu"])
def device(request, monkeypatch):
    monkeypatch.setitem(fused.COMPILERS, "cpu", _simulator.compile_for_processor)
    monkeypatch.setitem(graphs.GRAPHS, "cpu", AtOnce)
    # the convolutions of torch, with which the kernels are compared, in single precision
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return torch.device(request.param)


@pytest.fixture(scope="module")
def signals():
    data = load_dataset("midl2024-low-noise", 500, random_state=1)  # simulated kernels are slow
    return data.data, data.target


def networks(
    device, grid_shape, n_classes, n_features, *, rate=1024.0, weights=None, change=None, **changes
):
    """Return a network and the same network in training by kernels, with 50 signals."""
    torch.manual_seed(0)
    network = CorrelationCNN(n_classes, grid_shape, 0.0)
    if change is not None:
        change(network)
    settings = make_settings(**{
        "grid_shape": grid_shape, "n_classes": n_classes, "n_features": n_features,
        "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "batch_size": 40,
    } | changes)  # fmt: skip
    X = torch.randn(50, n_features).to(device)
    y = torch.randint(n_classes, (50,)).to(device)
    visits = torch.randperm(50).to(device)
    vector = parameters_to_vector(network.parameters()).detach().to(device)[None].clone()
    training = fused.FusedNetworks(
        [settings], vector, TensorSignals(X, y, weights), [[rate]] * 40, visits=visits[None]
    )
    return network.double().to(device), training, X[visits].double(), y[visits]


@pytest.mark.parametrize(
    ("grid_shape", "n_classes", "n_features", "block"),
    [
        ((8, 8), 4, 64, (16, 128, True)),
        ((8, 8), 4, 60, (4, 96, True)),  # four measurements are missing
        ((6, 10), 3, 60, (8, 192, True)),
        ((9, 7, 3), 5, 189, (8, 256, True)),
        ((4, 5), 2, 20, (32, 64, True)),
        ((12, 11), 6, 132, (4, 128, False)),
    ],
)
def test_gradients_are_those_of_double_precision(
    device, monkeypatch, grid_shape, n_classes, n_features, block
):
    monkeypatch.setattr(fused, "_block_shape", lambda *_: block)
    network, training, X, y = networks(device, grid_shape, n_classes, n_features)
    before = training.weights[0].double()
    training.take_step(40)
    loss = F.cross_entropy(network(X[:40]), y[:40])
    loss.backward()
    wanted = torch.cat([parameter.grad.ravel() for parameter in network.parameters()])
    found = (before - training.weights[0].double()) / 1024
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5
    assert float(training.totals[0]) / 40 == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("softmax_before_loss", [False, True])
def test_losses_with_class_and_sample_weights(device, softmax_before_loss):
    of_class, weights = (0.5, 1.0, 1.5, 1.0), torch.rand(50).to(device) + 0.5
    network, training, X, y = networks(
        device, (8, 8), 4, 64, class_weights=of_class, weights=weights,
        softmax_before_loss=softmax_before_loss,
    )  # fmt: skip
    before = training.weights[0].double()
    order = training._arguments[3][0]  # the visits
    training.take_step(40)
    logits = network(X[:40])
    logits = torch.softmax(logits, dim=1) if softmax_before_loss else logits
    losses = F.cross_entropy(
        logits, y[:40], weight=torch.tensor(of_class).double().to(device), reduction="none"
    )
    loss = (losses * weights[order[:40]].double()).sum() / 40
    loss.backward()
    wanted = torch.cat([parameter.grad.ravel() for parameter in network.parameters()])
    found = (before - training.weights[0].double()) / 1024
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5
    assert float(training.totals[0]) / 40 == pytest.approx(loss.item(), rel=1e-5)


def weights_of(model):
    state = model.net_.module_.state_dict()
    return torch.cat([tensor.ravel().cpu() for tensor in state.values()])


def fitted(device, signals, backend="auto", **changes):
    settings = {
        "max_epochs": 2, "batch_size": 100, "dropout": 0.0, "random_state": 0, "verbose": False,
        "device": str(device), "backend": backend,
    }  # fmt: skip
    X, y, *more = signals
    return make_classifier(**settings | changes).fit(X, y, *more, X_val=X[:200], y_val=y[:200])


PAPER = {
    "optimizer": "sgd", "learning_rate": 0.3, "learning_rate_schedule": "steps", "momentum": 0.9,
    "input_scaling": None, "softmax_before_loss": True,
}  # fmt: skip


def assert_same_training(one, other):
    for row, wanted in zip(one.history_, other.history_, strict=True):
        assert row.keys() == wanted.keys()
        assert row["train_loss"] == pytest.approx(wanted["train_loss"], rel=2e-3)
        assert row["learning_rate"] == wanted["learning_rate"]
    # AdamW divides small gradients, and so their rounding errors, by their size: a single weight
    # may end as far off as a step is long. With other orders of the signals, it is above 1
    distance = (weights_of(one) - weights_of(other)).norm()
    assert float(distance / weights_of(other).norm()) < 0.1


@pytest.mark.parametrize(
    ("changes", "n"),
    # 430: a smaller last batch
    [({}, 500), ({"class_weight": {1: 1, 2: 2, 3: 1, 4: 1}}, 430), (PAPER, 430)],
    ids=["adamw", "class weights", "paper"],
)
def test_trainings_are_those_of_torch(device, signals, changes, n):
    X, y = signals[0][:n], signals[1][:n]
    one, other = (fitted(device, (X, y), backend, **changes) for backend in ("auto", "torch"))
    assert_same_training(one, other)


def test_sample_weights_reach_the_kernels(device, signals):
    rng = np.random.default_rng(0)
    data = (*signals, rng.uniform(0.5, 1.5, len(signals[0])))
    one, other = (fitted(device, data, backend, **PAPER) for backend in ("auto", "torch"))
    assert_same_training(one, other)
    without = fitted(device, signals, **PAPER).history_[0]["train_loss"]
    assert one.history_[0]["train_loss"] != pytest.approx(without, rel=1e-5)


def test_the_kernels_train_on_a_stream(device, monkeypatch):
    monkeypatch.setattr("corrsk.neural.training.streaming.CHUNK_ROWS", 200)
    one, other = (
        make_classifier(
            max_epochs=2, batch_size=100, dropout=0.0, random_state=0, verbose=False,
            device=str(device), backend=backend,
        ).fit_stream(SignalStream.named("midl2024-low-noise"), 1000)
        for backend in ("auto", "torch")
    )  # fmt: skip
    assert_same_training(one, other)


# -- dropout ---------------------------------------------------------------------------


@pytest.mark.skipif(_simulator.COMPILER is None, reason="there is no g++")
def test_random_numbers_are_those_of_philox():
    # known answers of the authors' library (Random123, kat_vectors)
    layout = CNNLayout((8, 8), 64, 4)
    constants = layout.constants() | {
        "SIGNALS": 4, "THREADS": 96, "OPTIMIZER": 1, "WEIGHTED": 0, "WHOLE_FC1": 1,
        "SHARED_BYTES": layout.shared_bytes(4, whole_fc1=True),
    }  # fmt: skip
    drawing = """extern "C" void draw(unsigned long long key, unsigned a, unsigned b,
                                      unsigned long long step, unsigned* out) {
        const Random drawn = philox(key, a, b, step);
        for (int k = 0; k < 4; ++k) out[k] = drawn.value[k];
    }"""
    draw = _simulator.library(fused._source(constants), drawing).draw
    out = (ctypes.c_uint * 4)()
    word = ctypes.c_ulonglong
    draw(word(0), 0, 0, word(0), out)
    assert list(out) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    draw(
        word(0x299F31D0A4093822), ctypes.c_uint(0x243F6A88), ctypes.c_uint(0x85A308D3),
        word(0x0370734413198A2E), out,
    )  # fmt: skip
    assert list(out) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


@torch.no_grad()
def _one_path(network):
    """Set weights such that the first logit is 1000, if dropout keeps one activation per layer."""
    for parameter in network.parameters():
        parameter.zero_()
    network.conv2.bias.fill_(1.0)
    network.fc1.weight[3, 5] = network.fc2.weight[7, 3] = 1.0
    network.fc3.weight[0, 7] = 1000.0


def test_dropout_drops_its_share_of_the_activations(device):
    rate, n_steps = 0.25, 40
    _, training, *_ = networks(
        device, (8, 8), 4, 64, change=_one_path, rate=0.0, dropout=rate, batch_size=50
    )
    training._arguments[1].zero_()  # all signals are of the first class
    losses = []
    for _ in range(n_steps):
        training._counters[0] = 0
        training.take_step(50)
        losses.append(float(training.totals[0]) - sum(losses))
    # each signal has a loss of log 4 if one of the three activations is dropped, otherwise of 0
    dropped = np.array(losses) / math.log(4)
    np.testing.assert_allclose(dropped, np.round(dropped), atol=1e-3)
    wanted = 1 - (1 - rate) ** 3
    error = math.sqrt(wanted * (1 - wanted) / (50 * n_steps))
    assert abs(dropped.mean() / 50 - wanted) < 5 * error  # 5 standard errors
    assert len(set(np.round(dropped))) > 5  # masks differ from step to step


def test_trainings_with_dropout_learn_like_those_of_torch(device, signals):
    one, other = (fitted(device, signals, backend, dropout=0.2) for backend in ("auto", "torch"))
    assert one.history_[-1]["valid_loss"] == pytest.approx(
        other.history_[-1]["valid_loss"], abs=0.05
    )
    again = fitted(device, signals, dropout=0.2)
    assert torch.equal(weights_of(one), weights_of(again))
    assert not torch.equal(weights_of(one), weights_of(fitted(device, signals)))


# -- checkpoints, stacks, obstacles ------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, PAPER], ids=["adamw", "paper"])
def test_an_interrupted_training_is_resumed(device, signals, tmp_path, monkeypatch, changes):
    monkeypatch.setattr("corrsk.neural.training.checkpoint.INTERVAL", 0)
    changes = {"max_epochs": 4, "dropout": 0.2} | changes
    whole = fitted(device, signals, **changes)

    class Cut(Exception):
        pass

    from corrsk.neural.training.callbacks import EpochProgress

    on_epoch_end = EpochProgress.on_epoch_end

    def cut(self, net, **kwargs):
        if len(net.history) == 3:
            raise Cut
        on_epoch_end(self, net, **kwargs)

    path = str(tmp_path / "checkpoint")
    with monkeypatch.context() as patched, pytest.raises(Cut):
        patched.setattr(EpochProgress, "on_epoch_end", cut)
        fitted(device, signals, **changes, checkpoint=path)
    resumed = fitted(device, signals, **changes, checkpoint=path)
    assert torch.equal(weights_of(whole), weights_of(resumed))
    with pytest.raises(ValueError, match="another backend, or on another kind of device"):
        fitted(device, signals, "torch", **changes, checkpoint=path)


def test_stacks_train_as_single_networks_do(device, signals):
    grid = {"learning_rate": [0.01, 0.003], "dropout": [0.2]}
    classifier = make_classifier(
        max_epochs=1, batch_size=200, random_state=0, device=str(device), verbose=False
    )
    stacked, single = (
        search.fit(*signals).cv_results_["mean_test_score"]
        for search in (
            StackedGridSearchCV(classifier, grid, cv=2, refit=False, stack=True),
            GridSearchCV(classifier, grid, cv=2, refit=False),
        )
    )
    # sums over signals are divided into other blocks
    np.testing.assert_allclose(stacked, single, atol=0.01)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"network": "residual-mlp"}, "only the paper's CNN"),
        ({"optimizer": "muon"}, "no optimiser 'muon'"),
        ({"precision": "bfloat16"}, "compute in float32"),
        ({"n_classes": 40}, "up to 32 classes"),
        ({"grid_shape": (200, 200), "n_features": 40_000}, "does not fit"),
    ],
)
def test_reasons_for_another_backend(device, changes, reason):
    assert reason in fused.obstacle(make_settings(**changes), device)
    assert fused.obstacle(make_settings(), device) is None
    assert "on a GPU" in fused.obstacle(make_settings(), torch.device("meta"))


def test_a_signal_that_is_not_finite_reaches_the_loss(device):
    _, training, *_ = networks(device, (8, 8), 4, 64)
    training._arguments[0][:, 3] = math.nan
    training.take_step(40)
    assert math.isnan(float(training.totals[0]))
