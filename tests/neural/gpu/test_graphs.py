"""Training with captured steps. Without a GPU, a tape of torch's operations replays them."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from corrsk import SignalStream, load_dataset
from corrsk.neural.gpu import graphs as graphed
from corrsk.neural.networks import CorrelationCNN, ResidualMLP
from corrsk.neural.training import fitting
from corrsk.neural.training.callbacks import EpochProgress, LearningRateSchedule
from corrsk.neural.training.device import limited_threads
from corrsk.neural.training.net import TensorSignals
from corrsk.neural.training.optimizers import muon
from corrsk.neural.training.schedules import SCHEDULES
from corrsk.neural.training.settings import untrained_net
from corrsk.neural.training.sources import StreamSource
from corrsk.neural.training.streaming import StreamedSignals, StreamPlan
from tests._helpers import make_classifier, make_settings

CPU = torch.device("cpu")
LOW = SignalStream.named("midl2024-low-noise")
SETTINGS = make_settings(dropout=0.2, max_epochs=3, backend="graphs")
NETWORKS = {
    "cnn": {},
    "paper": {
        "optimizer": "sgd", "learning_rate": 0.3, "learning_rate_schedule": "steps",
        "input_scaling": None, "softmax_before_loss": True,
    },
    "weighted": {
        "optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.3, "class_weight": "balanced",
    },
    "residual-mlp": {
        "network": "residual-mlp", "input_scaling": "half-whiten", "optimizer": "muon",
        "learning_rate": 5e-3, "width": 32, "n_blocks": 2,
    },
}  # fmt: skip
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class Tape(TorchDispatchMode):
    """Tape of the operations of a step, with their tensors and numbers.

    Like a CUDA graph, the tape repeats the operations without Python, in the same memory; decisions
    and numbers computed by Python stay the same, and reading a number back is impossible.
    """

    def __init__(self):
        super().__init__()
        self.operations, self.before = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("the step waits for the device to read a number")
        for k, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written = args[k] if k < len(args) else kwargs[argument.name]
                self.before += [(t, t.clone()) for t in tree_leaves(written)]
        out = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, out))
        return out

    def undo(self):
        for tensor, value in reversed(self.before):
            tensor.copy_(value)
        self.before.clear()

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, out in self.operations:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Tapes:
    """Replacement of `CudaGraphs` without a GPU."""

    captures = 0

    def __init__(self, device):
        assert device == CPU

    def on_side_stream(self):
        return nullcontext()

    def capture(self, step):
        Tapes.captures += 1
        with torch.random.fork_rng(devices=[]):
            with Tape() as tape:
                step()
            with torch.no_grad():
                tape.undo()  # a capture does not execute the step
        return tape.replay


@pytest.fixture
def tapes(monkeypatch):
    monkeypatch.setitem(graphed.GRAPHS, "cpu", Tapes)
    monkeypatch.setattr(Tapes, "captures", 0)
    return Tapes


def classifier(**changes):
    settings = {
        "max_epochs": 3, "batch_size": 100, "random_state": 0, "device": "cpu", "verbose": False
    }  # fmt: skip
    return make_classifier(**settings | changes)


@pytest.fixture(scope="module")
def signals():
    data = load_dataset("midl2024-low-noise", 1000, random_state=1)
    return data.data, data.target


def weights(model):
    return torch.cat([t.ravel() for t in model.net_.module_.state_dict().values()])


def assert_same_history(one, other):
    for row, expected in zip(one.history_, other.history_, strict=True):
        assert row.keys() == expected.keys()
        assert row["learning_rate"] == expected["learning_rate"]
        for key in row.keys() - {"seconds", "valid_accuracy"}:
            assert row[key] == pytest.approx(expected[key], rel=1e-3), key


def assert_close_training(one, other, at_start):
    """Check that two trainings agree up to rounding, relative to the change of the weights.

    Muon's iteration in bfloat16 amplifies rounding errors of gradients: up to 0.8 % of the change.
    """
    assert_same_history(one, other)
    way = (weights(other) - weights(at_start)).norm()
    assert float((weights(one) - weights(other)).norm() / way) < 0.05


# -- replays against plain steps -----------------------------------------------------


@pytest.fixture(autouse=True)
def no_fused_kernels(monkeypatch):
    """Train the CNN by graphs of torch's kernels, also on a GPU."""
    monkeypatch.setattr("corrsk.neural.gpu.fused.COMPILERS", {})


@pytest.fixture(autouse=True)
def one_thread():
    """Fix the order of sums, so that trainings are bit-identical on every machine."""
    with limited_threads(1):
        yield


# A graph holds the learning rate in single precision, a plain step of AdamW in double precision.
# A power of two is the same number in both, and the trainings are then equal to the bit. Other
# rates differ in the last bit. A ReLU that this flips changes a small gradient, which AdamW
# divides by its size: a single weight may then end as far off as a step is long.
EXACT_RATE = {"learning_rate": 2**-7, "learning_rate_schedule": "constant"}


@pytest.mark.slow
@pytest.mark.parametrize("n", [1000, 930])  # the second case has a smaller last batch
@pytest.mark.parametrize("network", NETWORKS)
def test_replays_train_like_plain_steps(tapes, signals, network, n):
    X, y = signals[0][:n], signals[1][:n]
    settings = NETWORKS[network] | {"dropout": 0.2}  # the masks equal those of the plain steps
    if network == "cnn":
        settings |= EXACT_RATE
    plain, replayed = (
        classifier(**settings, backend=backend).fit(X, y, X_val=X[:200], y_val=y[:200])
        for backend in ("torch", "auto")
    )
    assert tapes.captures == 1 + (n % 100 > 0)
    at_start = classifier(**settings | {"learning_rate": 1e-12}, backend="torch").fit(X, y)
    if network == "residual-mlp":
        assert_close_training(replayed, plain, at_start)
    else:
        assert torch.equal(weights(replayed), weights(plain))
        assert_same_history(replayed, plain)
    assert float((weights(plain) - weights(at_start)).abs().max()) > 0.02


def test_rates_of_a_schedule_are_replayed(tapes, signals):
    plain, replayed = (classifier(backend=backend).fit(*signals) for backend in ("torch", "auto"))
    assert_same_history(replayed, plain)
    assert_close_training(replayed, plain, classifier(learning_rate=1e-12).fit(*signals))


@pytest.mark.slow
def test_steps_in_bfloat16_can_be_captured(tapes, signals):
    settings = NETWORKS["residual-mlp"] | {"precision": "bfloat16"}
    plain, replayed = (classifier(**settings, backend=k).fit(*signals) for k in ("torch", "auto"))
    assert tapes.captures == 1
    at_start = classifier(**settings | {"learning_rate": 1e-12}, backend="torch").fit(*signals)
    assert_close_training(replayed, plain, at_start)


@pytest.mark.slow
def test_replays_train_on_the_chunks_of_a_stream(tapes, monkeypatch):
    monkeypatch.setattr("corrsk.neural.training.streaming.CHUNK_ROWS", 400)
    settings = NETWORKS["residual-mlp"] | {"dropout": 0.1, "max_epochs": 2}
    plain, replayed = (
        classifier(**settings, backend=backend).fit_stream(LOW, 2000)
        for backend in ("torch", "auto")
    )
    assert StreamPlan.from_n_samples(2000, 2, 100).n_chunks == 3
    assert tapes.captures == 1
    still = settings | {"learning_rate": 1e-12}
    at_start = classifier(**still, backend="torch").fit_stream(LOW, 2000)
    assert_close_training(replayed, plain, at_start)
    assert len(replayed.history_) == 2


def initialised(settings, X):
    """Return net, schedule and generator of the order, as in `train_network`."""
    torch.manual_seed(0)
    schedule = LearningRateSchedule(
        SCHEDULES[settings.learning_rate_schedule], settings.learning_rate,
        settings.max_epochs * -(-len(X) // settings.batch_size),
    )  # fmt: skip
    return untrained_net(settings, X, callbacks=[]), schedule, torch.Generator().manual_seed(1)


def state_of(net):
    parts = getattr(net.optimizer_, "parts", [net.optimizer_])
    states = [
        tensor for part in parts for state in part.state.values() for tensor in state.values()
    ]
    return [t.detach().clone() for t in net.module_.state_dict().values()], states


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd"}, NETWORKS["residual-mlp"]])
def test_warm_up_steps_before_a_capture_are_undone(signals, changes):
    settings = replace(SETTINGS, **changes)
    X, y = torch.from_numpy(signals[0][:150]), torch.from_numpy(signals[1][:150] - 1)
    net, schedule, order = initialised(settings, X)
    before, nothing = state_of(net)
    random = torch.get_rng_state()
    epochs = graphed.GraphedStep(
        settings, net, TensorSignals(X, y), order, schedule, Tapes(CPU)
    ).__enter__()  # fmt: skip
    after, states = state_of(net)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)
    assert not nothing
    assert states
    assert not any(state.any() for state in states)  # initial state
    assert torch.equal(torch.get_rng_state(), random)
    assert schedule.step == 0
    # a second capture, as after a checkpoint, keeps the state
    epochs.train_epoch(None)

    class Watched(Tapes):
        """Require `capturable` as torch does on a GPU."""

        def on_side_stream(self):
            assert not any(group.get("capturable") for group in net.optimizer_.param_groups)
            return super().on_side_stream()

        def capture(self, step):
            assert all(group.get("capturable", True) for group in net.optimizer_.param_groups)
            return super().capture(step)

    before, states = state_of(net)
    states = [state.clone() for state in states]
    graphed.GraphedStep(
        settings, net, TensorSignals(X, y), order, schedule, Watched(CPU)
    ).__enter__()
    after, kept = state_of(net)
    for one, other in zip(before + states, after + kept, strict=True):
        assert torch.equal(one, other)
    assert any(state.any() for state in states)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_replay_uses_the_learning_rate_of_its_step(signals, name):
    settings = replace(SETTINGS, learning_rate_schedule=name)
    X, y = torch.from_numpy(signals[0][:250]), torch.from_numpy(signals[1][:250] - 1)
    net, schedule, order = initialised(settings, X)
    used = []

    class Watched(Tapes):
        def capture(self, step):
            replay = super().capture(step)
            return lambda: (replay(), used.append(float(net.optimizer_.param_groups[0]["lr"])))

    epochs = graphed.GraphedStep(
        settings, net, TensorSignals(X, y), order, schedule, Watched(CPU)
    ).__enter__()  # fmt: skip
    for _ in range(settings.max_epochs):
        epochs.train_epoch(None)
    assert schedule.step == len(used) == schedule.n_steps == 9
    by_hand = [0.01 * SCHEDULES[name](step / 9) for step in range(9)]
    np.testing.assert_allclose(used, by_hand, rtol=1e-6)


def test_an_epoch_visits_every_signal_once_in_a_new_order(signals):
    settings = replace(SETTINGS, batch_size=40)
    X, y = torch.from_numpy(signals[0][:100]), torch.from_numpy(signals[1][:100] - 1)
    net, schedule, order = initialised(settings, X)
    seen = []

    class Watched(Tapes):
        def capture(self, step):
            replay, (size,) = super().capture(step), step.args
            return lambda: (seen.append(epochs._visits[epochs._batch[:size]]), replay())

    epochs = graphed.GraphedStep(
        settings, net, TensorSignals(X, y), order, schedule, Watched(CPU)
    ).__enter__()  # fmt: skip
    assert epochs.train_epoch(None)[1] == epochs.train_epoch(None)[1] == 100
    assert [len(rows) for rows in seen] == [40, 40, 20] * 2
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(100))
    assert not torch.equal(first, second)


# -- dropout -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "graphs",
    [
        pytest.param(lambda: Tapes(CPU), id="tape"),
        pytest.param(lambda: graphed.CudaGraphs(torch.device("cuda")), id="gpu", marks=needs_gpu),
    ],
)
def test_dropout_masks_differ_between_replays(graphs):
    graphs = graphs()
    torch.manual_seed(0)
    device = CPU if isinstance(graphs, Tapes) else torch.device("cuda")
    ones, mask = torch.ones(1000, device=device), torch.zeros(1000, device=device)

    def step():
        mask.copy_(F.dropout(ones, 0.3))

    with graphs.on_side_stream():
        step()
    replay = graphs.capture(step)
    masks = []
    for _ in range(3):
        replay()
        masks.append(mask.clone() == 0)
        assert float(masks[-1].float().mean()) == pytest.approx(0.3, abs=0.06)  # 4 standard errors
    assert not torch.equal(masks[0], masks[1])
    assert float((masks[1] & masks[2]).float().mean()) == pytest.approx(0.09, abs=0.04)


def test_a_step_that_waits_for_the_device_is_an_error():
    value = torch.ones(1)
    with pytest.raises(RuntimeError, match="waits for the device"):
        Tapes(CPU).capture(lambda: value * value.item())


# -- checkpoints, errors, trainings without capture -----------------------------------


class PulledPlug(Exception):
    pass


@contextmanager
def cut_off_in_third_epoch(monkeypatch):
    monkeypatch.setattr("corrsk.neural.training.checkpoint.INTERVAL", 0)
    on_epoch_end = EpochProgress.on_epoch_end

    def pull_the_plug(self, net, **kwargs):
        if len(net.history) == 3:
            raise PulledPlug
        on_epoch_end(self, net, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(PulledPlug):
        patched.setattr(EpochProgress, "on_epoch_end", pull_the_plug)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_an_interrupted_captured_training_is_resumed(
    tapes, signals, tmp_path, monkeypatch, network
):
    settings = NETWORKS[network] | {"dropout": 0.2, "max_epochs": 4, "batch_size": 300}
    whole = classifier(**settings).fit(*signals)
    with cut_off_in_third_epoch(monkeypatch):
        classifier(**settings, checkpoint=tmp_path / "c").fit(*signals)
    with pytest.raises(ValueError, match="another backend, or on another kind of device"):
        classifier(**settings, checkpoint=tmp_path / "c", backend="torch").fit(*signals)
    resumed = classifier(**settings, checkpoint=tmp_path / "c").fit(*signals)
    assert torch.equal(weights(whole), weights(resumed))
    assert [row["learning_rate"] for row in whole.history_] == [
        row["learning_rate"] for row in resumed.history_
    ]
    captures = tapes.captures
    assert classifier(**settings, checkpoint=tmp_path / "c").fit(*signals).n_iter_ == 4
    assert tapes.captures == captures  # no capture, because no step is left


def test_a_checkpoint_of_another_type_of_device_is_refused():
    source = StreamSource(LOW, StreamPlan(1, 1, 100))
    on_processor, on_gpu = (
        fitting._fingerprint(SETTINGS, source, None, torch.device(name)) for name in ("cpu", "cuda")
    )
    assert on_processor != on_gpu


def test_a_diverging_training_is_an_error(tapes, signals):
    model = classifier(optimizer="sgd", learning_rate=1e6, learning_rate_schedule="constant")
    with pytest.raises(ValueError, match="the training diverged: the train loss of epoch"):
        model.fit(*signals)
    assert tapes.captures == 1
    assert not hasattr(model, "net_")


def test_ctrl_c_between_replays_leaves_no_fitted_model(monkeypatch, signals):
    nets = []

    class Interrupted(Tapes):
        def capture(self, step):
            nets.append(step.func.__self__._net)

            def replay():
                raise KeyboardInterrupt

            return replay

    monkeypatch.setitem(graphed.GRAPHS, "cpu", Interrupted)
    model = classifier()
    with pytest.raises(KeyboardInterrupt):
        model.fit(*signals)
    assert not hasattr(model, "net_")
    assert nets[0].step is None
    assert all(parameter.grad is None for parameter in nets[0].module_.parameters())


def test_an_error_in_a_capture_suggests_the_torch_backend(monkeypatch, signals):
    class Broken(Tapes):
        def capture(self, step):
            raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setitem(graphed.GRAPHS, "cpu", Broken)
    with pytest.raises(RuntimeError, match="not permitted") as caught:
        classifier().fit(*signals)
    assert "backend='torch'" in caught.value.__notes__[0]
    assert classifier(backend="torch", max_epochs=1).fit(*signals).n_iter_ == 1


class Impatient(torch.nn.Module):
    """Module that reads a number back during its forward pass."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(64, 4)

    def forward(self, x):
        return self.linear(x) / max(1.0, float(x.abs().max()))


@pytest.mark.slow
def test_only_networks_of_corrsk_are_captured(tapes, signals):
    for network, captured in [
        ("cnn", True), ("residual-mlp", True), (ResidualMLP(64), True), (CorrelationCNN(), True),
        (Impatient(), False),
    ]:  # fmt: skip
        settings = replace(SETTINGS, network=network, backend="auto")
        assert fitting._backend(settings, CPU, []) == ("graphs" if captured else "torch")
        settings = replace(settings, backend="torch")
        assert fitting._backend(settings, CPU, []) == "torch"
    hooked = ResidualMLP(64)
    hooked.register_forward_hook(lambda module, given, made: 2 * made)
    hooked = replace(SETTINGS, network=hooked, backend="auto")
    assert fitting._backend(hooked, CPU, []) == "torch"
    assert classifier(network=Impatient(), input_scaling=None).fit(*signals).n_iter_ == 3
    model = classifier(**NETWORKS["residual-mlp"]).partial_fit(*signals)
    assert tapes.captures == 0  # no capture for a single pass
    model.fit(*signals).partial_fit(*signals)
    assert tapes.captures == 1
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(signals[0]), model.predict(signals[0]))


# -- Muon with its learning rate in a tensor ------------------------------------------


def test_muon_on_stacked_matrices_equals_muon_on_each_matrix():
    torch.manual_seed(0)
    # the first and the last are not for Muon; one has no gradient
    shapes = [(8, 8), (16, 16), (16, 16), (24, 8), (8, 24), (16, 16), (4, 4)]
    one = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    other = copy.deepcopy(one)
    by_number, by_tensor = (muon(p, 0.05, 0.1, 0.9) for p in (one, other))
    for group in by_tensor.param_groups:
        group["lr"] = torch.tensor(0.05)
    start = [parameter.detach().clone() for parameter in one]
    for _ in range(4):
        for k, (p, q) in enumerate(zip(one, other, strict=True)):
            p.grad = None if k == 5 else torch.randn(shapes[k])
            q.grad = None if k == 5 else p.grad.clone()
        by_number.step()
        by_tensor.step()
    for k, (p, q) in enumerate(zip(one, other, strict=True)):
        assert torch.equal(p, start[k]) == (k == 5)
        torch.testing.assert_close(p, q, rtol=0, atol=2e-3)  # rounding of bfloat16 in the iteration
    saved, restored = by_number.state_dict()["parts"], by_tensor.state_dict()["parts"]
    for key, state in saved[1]["state"].items():
        torch.testing.assert_close(state, restored[1]["state"][key], rtol=1e-6, atol=1e-6)


# -- on a GPU --------------------------------------------------------------------------


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("network", NETWORKS)
def test_graphs_train_like_plain_steps(signals, network):
    settings = NETWORKS[network] | {"device": "cuda"}
    plain, replayed = (classifier(**settings, backend=k).fit(*signals) for k in ("torch", "auto"))
    torch.testing.assert_close(weights(plain), weights(replayed), rtol=0, atol=5e-3)


@pytest.mark.gpu
@needs_gpu
def test_an_epoch_of_graphs_does_not_wait_for_the_gpu(signals):
    X = torch.from_numpy(signals[0]).cuda()
    y = torch.from_numpy(signals[1] - 1).cuda()
    net, schedule, _ = initialised(SETTINGS, X)
    device = torch.device("cuda")
    epochs = graphed.GraphedStep(
        SETTINGS, net, TensorSignals(X, y), torch.Generator(device), schedule,
        graphed.CudaGraphs(device),
    ).__enter__()  # fmt: skip
    torch.cuda.set_sync_debug_mode("error")
    try:
        total, n = epochs.train_epoch(None)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert 0 < float(total) / n < 3


@pytest.mark.gpu
@needs_gpu
def test_chunks_reach_the_gpu_unchanged():
    plan = StreamPlan(n_epochs=1, n_chunks=6, chunk_rows=50_000)

    def draw(chunk, n):
        return torch.full((n, 64), float(chunk)), torch.full((n,), chunk)

    with StreamedSignals(draw, plan, torch.device("cuda"), in_thread=True) as stream:
        means = [(X.mean(), y.float().mean()) for X, y in stream.epoch()]
    assert [(float(a), float(b)) for a, b in means] == [(k, k) for k in range(6)]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("source", ["arrays", "stream"])
def test_an_interrupted_training_on_a_gpu_is_resumed(signals, tmp_path, monkeypatch, source):
    settings = {"device": "cuda", "dropout": 0.3, "max_epochs": 4}

    def train(**changes):
        model = classifier(**settings | changes)
        return model.fit(*signals) if source == "arrays" else model.fit_stream(LOW, 4000)

    whole = train()
    with cut_off_in_third_epoch(monkeypatch):
        train(checkpoint=tmp_path / "c")
    resumed = train(checkpoint=tmp_path / "c")
    torch.testing.assert_close(weights(whole), weights(resumed), rtol=0, atol=1e-3)


@pytest.mark.gpu
@needs_gpu
def test_two_trainings_in_threads_on_one_gpu(signals):
    alone = classifier(device="cuda").fit(*signals)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: classifier(device="cuda").fit(*signals), range(2)))
    for model in both:
        torch.testing.assert_close(weights(alone), weights(model), rtol=0, atol=1e-3)


# -- memory of captured steps ------------------------------------------------------------


@needs_gpu
def test_a_replay_keeps_the_tensors_of_its_step():
    """Without its tensors, a graph reads memory that others use, or that is unmapped."""
    device = torch.device("cuda")
    graphs = graphed.CudaGraphs(device)
    out = torch.zeros(256, 256, device=device)

    def captured(seed):
        torch.manual_seed(seed)
        a, b = torch.randn(2, 256, 256, device=device)
        work = lambda: torch.mm(a, b, out=out)  # noqa: E731
        with graphs.on_side_stream():
            work()
        return graphs.capture(work), out.clone()

    replays = [captured(seed) for seed in range(3)]
    torch.cuda.empty_cache()
    others = torch.full((64, 1 << 20), torch.nan, device=device)
    for replay, wanted in replays:
        out.zero_()
        replay()
        assert torch.equal(out, wanted)
    del others


@needs_gpu
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_products_can_be_captured_after_a_training_on_a_stream(backend):
    settings = {"max_epochs": 1, "device": "cuda", "random_state": 0, "verbose": False}
    device = torch.device("cuda")
    for _ in range(2):
        make_classifier("residual-mlp", **settings, backend=backend).fit_stream(LOW, 20_000)
        graphs = graphed.CudaGraphs(device)
        a = torch.randn(512, 512, device=device, dtype=torch.bfloat16)
        with graphs.on_side_stream():
            a @ a
        graphs.capture(partial(torch.mm, a, a))()
    torch.cuda.synchronize()


@needs_gpu
def test_a_failed_capture_leaves_the_process_able_to_capture():
    graphs = graphed.CudaGraphs(torch.device("cuda"))
    value = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError):
        graphs.capture(lambda: value.sum().item())
    assert torch.rand(2, device="cuda").min() >= 0
    replay = graphs.capture(lambda: value.add_(1))
    replay()
    assert value.tolist() == [2.0, 2.0, 2.0]


@needs_gpu
def test_garbage_is_not_collected_during_a_capture():
    device = torch.device("cuda")
    value = torch.ones(3, device=device)

    class Owner:
        """Owner of a graph, in a cycle of references."""

        def __init__(self):
            self.me = self
            self.replay = graphed.CudaGraphs(device).capture(lambda: value.add_(1))

    def step():
        [[] for _ in range(10_000)]  # enough objects for a collection
        value.add_(1)

    for _ in range(3):
        Owner()
        graphed.CudaGraphs(device).capture(step)()


def test_the_garbage_collection_goes_on_after_a_capture():
    with graphed._no_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with graphed._no_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_replays_are_released_with_their_step(tapes, signals):
    X, y = torch.from_numpy(signals[0][:150]), torch.from_numpy(signals[1][:150] - 1)
    net, schedule, order = initialised(SETTINGS, X)
    step = graphed.GraphedStep(SETTINGS, net, TensorSignals(X, y), order, schedule, Tapes(CPU))
    with step:
        released = weakref.ref(next(iter(step._replays.values())).__self__)
        assert released() is not None
    assert released() is None
