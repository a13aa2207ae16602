"""The compiled kernels of the CNN against torch's autograd."""

from __future__ import annotations

import copy
import math
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from corrsk import SignalStream, make_correlation_signals
from corrsk.neural.cpu import step as compiled
from corrsk.neural.networks import CorrelationCNN, StandardizedNetwork
from corrsk.neural.training.net import CountLoss, SignalRows
from tests._helpers import ROOT, make_classifier, make_settings

pytest.importorskip("numba")

SETTINGS = make_settings(
    learning_rate_schedule="constant",
    weight_decay=0.0,
    max_epochs=1,
    batch_size=500,
    backend="numba",
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def signals():
    X, y = make_correlation_signals(1003, noise_level=0.003, random_state=0, verbose=False)
    return torch.from_numpy(X), torch.from_numpy(y - 1)


def standardized(X, n_classes=4, dropout=0.0):
    torch.manual_seed(0)
    network = CorrelationCNN(n_classes=n_classes, dropout=dropout)
    return StandardizedNetwork.from_signals(network, X)


def loss_and_gradient(module, settings, X, y):
    with compiled.CompiledGradients(module, settings) as step:
        loss = float(step(X, y))
    return loss, torch.cat([p.grad.flatten().clone() for p in module.parameters()])


@pytest.mark.parametrize("n", [1, 64, 1003])
@pytest.mark.parametrize("softmax_first", [False, True])
@pytest.mark.parametrize("class_weights", [None, (0.5, 2.0, 1.0, 0.5)])
def test_gradients_equal_those_of_autograd(signals, n, softmax_first, class_weights):
    X, y = signals[0][:n], signals[1][:n]
    settings = replace(SETTINGS, softmax_before_loss=softmax_first, class_weights=class_weights)
    module = standardized(signals[0])
    loss, gradient = loss_and_gradient(module, settings, X, y)
    weights = None if class_weights is None else torch.tensor(class_weights)
    module.zero_grad()
    expected = CountLoss(weights, softmax_first)(module(X), y)
    expected.backward()
    autograd = torch.cat([p.grad.flatten() for p in module.parameters()])
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert float((gradient - autograd).abs().max()) < 1e-6 * max(1.0, float(autograd.abs().max()))
    assert float(autograd.abs().max()) > 1e-4


@pytest.mark.parametrize("n_classes", [2, 3, 7, 16])
def test_gradients_for_any_number_of_classes_and_unscaled_signals(signals, n_classes):
    X, y = signals[0], signals[1] % n_classes
    torch.manual_seed(1)
    module = CorrelationCNN(n_classes=n_classes, dropout=0.0)
    _, gradient = loss_and_gradient(
        module, replace(SETTINGS, n_classes=n_classes, input_scaling=None), X, y
    )
    module.zero_grad()
    F.cross_entropy(module(X), y).backward()
    autograd = torch.cat([p.grad.flatten() for p in module.parameters()])
    torch.testing.assert_close(gradient, autograd, rtol=0, atol=1e-6)


# even and odd sides, sides below 6, which are padded, channels, one and several groups of tiles
GRIDS = [(6, 10), (5, 7), (4, 4), (3, 20), (8, 8, 3), (1, 16), (11, 13, 2)]


def of_grid(grid_shape, n=333, dropout=0.0, without=0):
    """Return settings, module, signals, counts and weights; the last grid points have no signal."""
    generator = torch.Generator().manual_seed(1)
    n_features = math.prod(grid_shape) - without
    X = torch.randn(n, n_features, generator=generator) * 0.5 + 1
    y = torch.randint(4, (n,), generator=generator)
    weight = torch.rand(n, generator=generator) + 0.5
    settings = replace(
        SETTINGS, grid_shape=grid_shape, n_features=n_features, class_weights=(0.5, 2.0, 1.0, 0.5)
    )
    torch.manual_seed(2)
    module = StandardizedNetwork.from_signals(CorrelationCNN(4, grid_shape, dropout), X)
    return settings, module, X, y, weight


@pytest.mark.parametrize("without", [0, 3])
@pytest.mark.parametrize("grid_shape", GRIDS)
def test_gradients_of_every_grid_equal_those_in_double_precision(grid_shape, without):
    settings, module, X, y, weight = of_grid(grid_shape, without=without)
    with compiled.CompiledGradients(module, settings) as step:
        loss = float(step(X, y, weight))
        gradient = torch.cat([p.grad.flatten().clone() for p in module.parameters()])
        logits = step.logits(X)
    exact = copy.deepcopy(module).double()
    exact.zero_grad()
    expected = exact(X.double())
    weights = torch.tensor(settings.class_weights, dtype=torch.float64)
    exact_loss = (F.cross_entropy(expected, y, reduction="none") * weights[y] * weight).mean()
    exact_loss.backward()
    autograd = torch.cat([p.grad.flatten() for p in exact.parameters()])
    assert loss == pytest.approx(exact_loss.item(), rel=1e-5)
    assert float((gradient - autograd).abs().max()) < 1e-6 * float(autograd.abs().max())
    torch.testing.assert_close(logits.double(), expected.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid_shape", [(6, 10), (11, 13, 2)])
def test_any_number_of_threads_gives_the_same_bits_for_every_grid(grid_shape):
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            settings, module, X, y, weight = of_grid(grid_shape, n=700, dropout=0.2)
            torch.manual_seed(4)  # the generator of the dropout masks
            with compiled.CompiledGradients(module, settings) as step:
                loss = step(X, y, weight)
                gradients = [p.grad.flatten().clone() for p in module.parameters()]
                found.append(torch.cat([loss.view(1), *gradients, step.logits(X).flatten()]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_results_are_bit_identical_for_any_number_of_threads(signals, dropout):
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 2, 5):
            torch.set_num_threads(n_threads)
            module = standardized(signals[0], dropout=dropout)
            torch.manual_seed(4)  # the generator of the dropout masks
            found.append(loss_and_gradient(module, SETTINGS, *signals))
    finally:
        torch.set_num_threads(before)
    for loss, gradient in found[1:]:
        assert loss == found[0][0]
        assert torch.equal(gradient, found[0][1])


@pytest.mark.parametrize("grid_shape", [(8, 8), (9, 14)])
def test_gradients_with_dropout_equal_slopes_of_the_loss(signals, grid_shape):
    if grid_shape == (8, 8):
        settings, (X, y), module = SETTINGS, signals, standardized(signals[0], dropout=0.3)
    else:
        settings, module, X, y, _ = of_grid(grid_shape, n=1003, dropout=0.3)

    def at(weights):
        torch.nn.utils.vector_to_parameters(weights, module.parameters())
        torch.manual_seed(7)  # the same masks
        return loss_and_gradient(module, settings, X, y)

    start = torch.nn.utils.parameters_to_vector(module.parameters()).detach().clone()
    _, gradient = at(start)
    # along the gradient of each layer, the direction of the steepest slope
    sizes = [p.numel() for p in module.parameters()]
    for k, part in enumerate(gradient.split(sizes)):
        direction = torch.zeros_like(start)
        direction.split(sizes)[k][:] = part.flatten() / part.norm()
        slope = (at(start + 2e-3 * direction)[0] - at(start - 2e-3 * direction)[0]) / 4e-3
        assert slope == pytest.approx(float(gradient @ direction), rel=0.03)


def test_dropout_masks_have_the_right_rate_and_differ_between_steps(signals):
    from corrsk.neural.cpu import cnn_kernels

    states = np.empty(cnn_kernels.BLOCK, np.uint32)
    masks = []
    for seed in (0, 1):
        for block in (0, 1):
            out = np.ones(64 * cnn_kernels.BLOCK, np.float32)
            cnn_kernels._seed(states, np.uint64(seed), block)
            threshold = np.uint32(0.2 * 2**32)
            cnn_kernels._drop(out, states, threshold, np.float32(1.25))
            assert set(np.unique(out)) == {0.0, 1.25}
            assert (out == 0).mean() == pytest.approx(0.2, abs=0.025)  # 4 standard errors
            masks.append(out.reshape(64, -1) == 0)
    for one in range(4):
        for other in range(one):
            assert (masks[one] & masks[other]).mean() == pytest.approx(0.04, abs=0.013)
        # neither lanes nor units are correlated
        assert (
            np.abs(np.corrcoef(masks[one].T)[np.triu_indices(cnn_kernels.BLOCK, 1)]).mean() < 0.12
        )
        assert np.abs(np.corrcoef(masks[one])[np.triu_indices(64, 1)]).mean() < 0.12
    module = standardized(signals[0], dropout=0.2)
    torch.manual_seed(0)
    with compiled.CompiledGradients(module, SETTINGS) as step:
        losses = [float(step(*signals)) for _ in range(4)]
    assert len(set(losses)) == 4


@pytest.fixture(scope="module")
def training_data():
    X, y = make_correlation_signals(20_000, noise_level=0.003, random_state=1, verbose=False)
    return X, y


def model(**changes):
    return make_classifier(
        **{"max_epochs": 4, "random_state": 0, "verbose": False, "device": "cpu", **changes}
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"class_weight": {1: 3, 2: 1, 3: 1, 4: 1}, "dropout": 0.2}]
)
def test_torch_with_micro_batches_gives_the_same_training(training_data, monkeypatch, changes):
    arguments = {"backend": "torch", "batch_size": 700, "max_epochs": 2} | changes
    whole = model(**arguments).fit(*training_data)
    sizes, forward = [], CorrelationCNN.forward

    def counting(self, X):
        sizes.append((self.training, len(X)))
        return forward(self, X)

    monkeypatch.setattr(CorrelationCNN, "forward", counting)
    monkeypatch.setattr("corrsk.neural.training.fitting.MICRO_BATCH", 300)
    parts = model(**arguments).fit(*training_data)
    assert {n for training, n in sizes if training} == {234, 232, 200}  # of 700 and 400
    if "dropout" in changes:  # other masks
        assert whole.history_[1]["train_loss"] == pytest.approx(
            parts.history_[1]["train_loss"], abs=0.03
        )
        return
    for one, other in zip(
        whole.net_.module_.parameters(), parts.net_.module_.parameters(), strict=True
    ):
        # sums in another order differ in rounding, which AdamW magnifies for small gradients
        assert (one - other).norm() < 0.01 * one.norm()


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_training_gives_the_weights_of_torch(training_data, dropout):
    ours, torchs = (
        model(backend=backend, dropout=dropout).fit(*training_data)
        for backend in ("numba", "torch")
    )
    first = [abs(each.history_[0]["train_loss"]) for each in (ours, torchs)]
    assert first[0] == pytest.approx(first[1], rel=0.02 if dropout else 2e-3)
    scores = [each.score(*training_data) for each in (ours, torchs)]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)
    assert min(scores) > 0.45


@pytest.mark.slow
def test_auto_uses_the_kernels_if_possible(training_data, monkeypatch):
    few = training_data[0][:500], training_data[1][:500]

    def weights(**changes):
        return torch.cat(
            [p.flatten() for p in model(**changes).fit(*few).net_.module_.parameters()]
        )

    assert torch.equal(weights(backend="auto"), weights(backend="numba"))
    assert not torch.equal(weights(backend="auto"), weights(backend="torch"))
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    assert torch.equal(weights(backend="auto"), weights(backend="torch"))
    with pytest.raises(ValueError, match=r"backend='numba'.*need numba: pip install"):
        model(backend="numba").fit(*few)


def test_unsupported_trainings_are_refused_and_left_to_torch_by_auto(training_data):
    X, y = training_data[0][:200], training_data[1][:200]
    with pytest.raises(ValueError, match="backend='numba' is not for this training.*float32"):
        model(backend="numba", precision="bfloat16").fit(X, y)
    model(max_epochs=1, precision="bfloat16").fit(X, y)  # "auto" uses torch


@pytest.mark.parametrize("grid_shape", [(4, 16), (16, 2, 2)])
def test_auto_uses_the_kernels_for_every_grid(training_data, grid_shape):
    X, y = training_data[0][:500], training_data[1][:500]
    fitted = {
        backend: model(backend=backend, grid_shape=grid_shape, dropout=0.0).fit(X, y)
        for backend in ("auto", "numba", "torch")
    }
    auto, compiled_one, torchs = (
        torch.cat([p.detach().flatten() for p in each.net_.module_.parameters()])
        for each in fitted.values()
    )
    assert torch.equal(auto, compiled_one)
    assert not torch.equal(auto, torchs)
    losses = [each.history_[-1]["train_loss"] for each in fitted.values()]
    assert losses[0] == pytest.approx(losses[2], rel=2e-3)


@pytest.mark.parametrize("trouble", ["import", "no compiling"])
def test_a_broken_numba_is_an_error_for_numba_and_avoided_by_auto(
    training_data, trouble, monkeypatch
):
    X, y = training_data[0][:200], training_data[1][:200]
    if trouble == "import":

        def kernels():
            raise ImportError("Numba needs NumPy 2.0 or less")

        monkeypatch.setattr(compiled, "_kernels", kernels)
    else:
        monkeypatch.setattr("numba.config.DISABLE_JIT", True)
    expected = "needs NumPy" if trouble == "import" else "NUMBA_DISABLE_JIT"
    with pytest.raises(ValueError, match=f"numba cannot be used here.*{expected}"):
        model(backend="numba", max_epochs=1).fit(X, y)
    model(max_epochs=1).fit(X, y)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "muon", "adamw"])
def test_every_optimiser_takes_the_same_steps_as_with_autograd(training_data, optimizer):
    X, y = training_data[0][:2000], training_data[1][:2000]
    rate = 0.05 if optimizer == "sgd" else 0.001

    def losses(backend):
        arguments = {"optimizer": optimizer, "learning_rate": rate, "max_epochs": 3}
        return [row["train_loss"] for row in model(backend=backend, **arguments).fit(X, y).history_]

    np.testing.assert_allclose(losses("numba"), losses("torch"), rtol=2e-3)


def test_one_step_serves_batches_of_any_size(signals):
    module = standardized(signals[0])
    other = copy.deepcopy(module)
    with compiled.CompiledGradients(module, SETTINGS) as step:
        for n in (1003, 1, 200):
            step(signals[0][:n], signals[1][:n])
            found = torch.cat([p.grad.flatten().clone() for p in module.parameters()])
            _, alone = loss_and_gradient(other, SETTINGS, signals[0][:n], signals[1][:n])
            assert torch.equal(found, alone)
            step(*signals)


@pytest.mark.slow
def test_simultaneous_fits_in_threads_equal_separate_fits(training_data):
    X, y = training_data[0][:3000], training_data[1][:3000]

    def weights(seed):
        module = model(backend="numba", random_state=seed, max_epochs=2).fit(X, y).net_.module_
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    alone = [weights(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(weights, range(4)))
    assert all(map(torch.equal, alone, together))


def test_fits_on_streams_and_memory_maps(training_data, tmp_path):
    stream = SignalStream(noise_level=0.003, random_state=0)
    losses = [
        model(backend=backend, batch_size=200).fit_stream(stream, 4000).history_[0]["train_loss"]
        for backend in ("numba", "torch")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    np.save(tmp_path / "X.npy", training_data[0][:500])
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    y = training_data[1][:500]
    one, other = (model(backend="numba").fit(X, y) for X in (mapped, np.array(mapped)))
    np.testing.assert_array_equal(one.predict_proba(mapped), other.predict_proba(mapped))


def test_partial_fit_keeps_the_dropout_rate_of_the_first_call(training_data):
    X, y = training_data[0][:300], training_data[1][:300]
    losses = {}
    for backend in ("torch", "numba"):  # both ignore the new dropout rate
        cnn = model(backend=backend).partial_fit(X, y)
        losses[backend] = cnn.set_params(dropout=0.9).partial_fit(X, y).history_[-1]["train_loss"]
    assert losses["numba"] == pytest.approx(losses["torch"], rel=2e-3)


def test_gpus_many_classes_and_measurements_outside_the_grid_are_not_supported():
    assert "processor" in compiled.obstacle(SETTINGS, torch.device("cuda"))
    assert "16 classes" in compiled.obstacle(replace(SETTINGS, n_classes=17), CPU)
    assert "6 x 10" in compiled.obstacle(replace(SETTINGS, grid_shape=(6, 10)), CPU)
    assert compiled.obstacle(replace(SETTINGS, n_features=60), CPU) is None
    assert compiled.obstacle(SETTINGS, CPU) is None


def test_an_interrupted_training_resumes_bit_identically(training_data, tmp_path, monkeypatch):
    arguments = {"backend": "numba", "dropout": 0.2, "max_epochs": 3}
    whole = model(**arguments).fit(*training_data)
    monkeypatch.setattr("corrsk.neural.training.checkpoint.INTERVAL", 0.0)
    cut = model(**arguments, checkpoint=tmp_path / "kept")
    calls = []
    original = compiled.CompiledGradients.__call__

    def interrupted(step, X, y, weight=None):
        calls.append(len(y))
        if len(calls) == 150:
            raise KeyboardInterrupt
        return original(step, X, y)

    monkeypatch.setattr(compiled.CompiledGradients, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cut.fit(*training_data)
    assert len(calls) == 150
    steps = []

    def counted(step, X, y, weight=None):
        steps.append(len(y))
        return original(step, X, y)

    monkeypatch.setattr(compiled.CompiledGradients, "__call__", counted)
    cut.fit(*training_data)
    assert len(steps) == 200  # of 3 epochs of 100 signals; one was in the file
    for one, other in zip(
        whole.net_.module_.parameters(), cut.net_.module_.parameters(), strict=True
    ):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="another backend"):  # another backend, other bits
        cut.set_params(backend="torch").fit(*training_data)


def test_an_interrupted_compilation_leaves_the_network_unchanged(training_data, monkeypatch):
    X, y = training_data[0][:600], training_data[1][:600]
    fitted = model(backend="numba").partial_fit(X, y)
    before = [parameter.data_ptr() for parameter in fitted.net_.module_.parameters()]

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(compiled.CompiledGradients, "_add_gradients", interrupted)
        fitted.partial_fit(X, y)
    parameters = list(fitted.net_.module_.parameters())
    assert [parameter.data_ptr() for parameter in parameters] == before
    assert fitted.partial_fit(X, y).n_iter_ == 2


def test_partial_fit_copies_and_pickles(training_data):
    X, y = training_data[0][:600], training_data[1][:600]
    once = model(backend="numba").partial_fit(X, y)
    copies = [copy.deepcopy(once), pickle.loads(pickle.dumps(once)), once]
    answers = [each.partial_fit(X, y).predict_proba(X[:5]) for each in copies]
    np.testing.assert_array_equal(answers[0], answers[2])
    np.testing.assert_array_equal(answers[1], answers[2])


def test_a_diverging_training_is_an_error(training_data):
    with pytest.raises(ValueError, match="diverged"):
        model(backend="numba", learning_rate=1e30, optimizer="sgd").fit(*training_data)


def test_logits_equal_those_of_the_module(signals):
    module = standardized(signals[0], n_classes=3, dropout=0.2).eval()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with compiled.CompiledGradients(module, replace(SETTINGS, n_classes=3)) as step:
            for n in (1, 129, 1003):
                found = step.logits(signals[0][:n])
                with torch.no_grad():
                    torch.testing.assert_close(found, module(signals[0][:n]), rtol=0, atol=2e-6)
    finally:
        torch.set_num_threads(before)


def test_validation_equals_that_of_torch(training_data):
    X, y = training_data
    ours, torchs = (
        model(backend=backend, max_epochs=1, learning_rate=0.001).fit(
            X[:3000], y[:3000], X_val=X[3000:], y_val=y[3000:]
        )
        for backend in ("numba", "torch")
    )
    for ours_row, torchs_row in zip(ours.history_, torchs.history_, strict=True):
        assert ours_row["valid_loss"] == pytest.approx(torchs_row["valid_loss"], rel=2e-3)
        assert ours_row["valid_accuracy"] == pytest.approx(torchs_row["valid_accuracy"], abs=0.01)


def test_the_weights_do_not_share_memory_after_the_training(signals):
    module = standardized(signals[0])
    with compiled.CompiledGradients(module, SETTINGS) as step:
        step(*signals)
    storages = {p.data_ptr() - p.storage_offset() * 4 for p in module.parameters()}
    assert len(storages) == len(list(module.parameters()))


def test_signal_rows_give_the_same_gradients_as_signals(signals):
    X, y = signals
    index = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))[:300]
    module = standardized(X)
    with compiled.CompiledGradients(module, SETTINGS) as step:
        losses = [float(step(rows, y[index])) for rows in (X[index], SignalRows(X, index))]
    assert losses[0] == losses[1]


# gradients, whose rounding may differ: an optimiser would import torch's compiler, for seconds
HASHES = """
import hashlib, torch
from corrsk import make_correlation_signals
from corrsk.neural.cpu.step import CompiledGradients
from corrsk.neural.networks import CorrelationCNN
from tests._helpers import make_settings

X, y = make_correlation_signals(1000, random_state=0, verbose=False)
X, y = torch.from_numpy(X), torch.from_numpy(y - 1)
for dropout, softmax_first in ((0.2, False), (0.0, True)):
    torch.manual_seed(0)
    module = CorrelationCNN(dropout=dropout)
    settings = make_settings(backend="numba", softmax_before_loss=softmax_first)
    with CompiledGradients(module, settings) as step:
        loss = step(X, y)
        found = [loss, *(parameter.grad for parameter in module.parameters())]
        digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in found))
    print(digest.hexdigest())
"""


@pytest.mark.slow
def test_the_compiling_process_gives_the_same_bits_as_later_processes(tmp_path):
    first, later = (
        subprocess.run(
            [sys.executable, "-c", HASHES], capture_output=True, text=True, check=True,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}, cwd=ROOT,
        ).stdout
        for _ in range(2)
    )  # fmt: skip
    assert len(set(first.split())) == 2
    assert first == later
