"""Signal streams, training on streams and partial_fit."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pandas as pd
import pytest
import torch

from corrsk import (
    AcquisitionProtocol,
    CorrelationCNNClassifier,
    ResidualMLPClassifier,
    SignalStream,
    SNRRange,
    TissuePrior,
    load_dataset,
    make_correlation_signals,
)
from corrsk.acquisition import resolve_protocol
from corrsk.neural.gpu.stream import DeviceStream
from corrsk.neural.training.callbacks import EpochProgress
from corrsk.neural.training.streaming import StreamedSignals, StreamPlan
from corrsk.simulation.datasets import DATASETS

CPU = torch.device("cpu")
LOW = SignalStream.named("midl2024-low-noise")


def mlp(**changes):
    settings = {
        "width": 32, "n_blocks": 1, "max_epochs": 4, "batch_size": 250, "random_state": 0,
        "verbose": False, "precision": "float32",
    }  # fmt: skip
    return ResidualMLPClassifier.from_recipe("residual-mlp", **settings | changes)


def weights(model):
    return torch.cat([t.ravel() for t in model.net_.module_.state_dict().values()])


# -- the stream -----------------------------------------------------------------


@pytest.mark.parametrize("name", DATASETS)
def test_a_named_stream_has_the_parameters_of_the_data_set(name):
    X, y = SignalStream.named(name).draw(3, 4000)
    data = load_dataset(name, 4000)
    assert X.shape == (4000, resolve_protocol(DATASETS[name].protocol).n_measurements)
    assert X.dtype == np.float32
    assert set(y) == set(data.target)
    norms = np.linalg.norm(X, axis=1)
    assert np.allclose(norms, 1, atol=1e-5) == (DATASETS[name].norm is not None)
    np.testing.assert_allclose(X.mean(axis=0), data.data.mean(axis=0), atol=0.05)


def test_chunks_are_reproducible_and_different():
    X, y = LOW.draw(5, 9000, n_jobs=1)
    again, _ = SignalStream.named("midl2024-low-noise").draw(5, 9000, n_jobs=2)
    np.testing.assert_array_equal(X, again)
    other, _ = LOW.draw(6, 9000)
    rows = {row.tobytes() for row in np.concatenate([X, other])}
    assert len(rows) == 18_000  # no signal twice
    seeded, _ = SignalStream.named("midl2024-low-noise", random_state=1).draw(5, 9000)
    assert not np.array_equal(X, seeded)
    assert np.ptp(np.bincount(y)[1:]) <= 1


def test_a_stream_differs_from_data_sets_with_small_seeds():
    X, _ = LOW.draw(0, 500)
    for seed in range(20):
        data, _ = make_correlation_signals(
            500, noise_level=DATASETS["midl2024-low-noise"].noise_levels, random_state=seed
        )
        assert not np.array_equal(X, data)


def test_streams_compare_by_value():
    stream = SignalStream(noise_level=[0.01, 0.02])
    assert stream == SignalStream(noise_level=(0.01, 0.02))
    assert pickle.loads(pickle.dumps(stream)) == stream
    assert stream.identity != SignalStream(noise_level=0.01).identity
    assert stream.identity == SignalStream(noise_level=(0.01, 0.02)).identity


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"prior": "brain"}, "known tissue priors"),
        ({"protocol": "ir-se-9x9"}, "known protocols"),
        ({"noise_level": -0.1}, "noise_level"),
        ({"noise_reference": "snr"}, "noise_reference"),
        ({"random_state": -1}, "random_state"),
    ],
)
def test_bad_streams_are_errors_at_construction(parameters, message):
    with pytest.raises(ValueError, match=message):
        SignalStream(**parameters)
    with pytest.raises(ValueError, match="known data sets"):
        SignalStream.named("midl")


# -- division of a stream, and drawing in advance ----------------------------------


@pytest.mark.parametrize(
    ("n_signals", "n_epochs", "batch_size"),
    [(20_000_000, 40, 2000), (1000, 4, 250), (1001, 4, 250), (7, 7, 100), (10**6, 1, 100_000)],
)
def test_stream_plans_have_whole_batches(n_signals, n_epochs, batch_size):
    plan = StreamPlan.from_n_samples(n_signals, n_epochs, batch_size)
    assert plan.n_epochs == n_epochs
    assert plan.chunk_rows % batch_size == 0
    assert plan.chunk_rows <= max(65_536, batch_size)
    total = n_epochs * plan.epoch_rows
    assert n_signals <= total <= n_signals + n_epochs * plan.n_chunks * batch_size


def counting_draw(drawn, fail_at=None):
    def draw(chunk, n):
        if chunk == fail_at:
            raise RuntimeError("no more signals")
        drawn.append((chunk, threading.current_thread().name))
        return torch.full((n, 2), float(chunk)), torch.zeros(n, dtype=torch.int64)

    return draw


def test_chunks_are_in_order_and_drawn_in_advance_by_a_thread():
    drawn = []
    plan = StreamPlan(n_epochs=2, n_chunks=3, chunk_rows=4)
    with StreamedSignals(counting_draw(drawn), plan, CPU, in_thread=True) as stream:
        assert len(stream) == 12
        first = [int(X[0, 0]) for X, _ in stream.epoch()]
        second = [int(X[0, 0]) for X, _ in stream.epoch()]
    assert first == [0, 1, 2]
    assert second == [3, 4, 5]
    assert [chunk for chunk, _ in drawn] == list(range(6))  # no draw beyond the end
    assert all(name.startswith("corrsk-stream") for _, name in drawn)
    with StreamedSignals(counting_draw([]), plan, CPU, in_thread=True) as stream:
        stream.start_at(1)
        assert [int(X[0, 0]) for X, _ in stream.epoch()] == [3, 4, 5]


def test_an_error_in_the_thread_is_raised_and_ends_the_thread():
    plan = StreamPlan(n_epochs=1, n_chunks=4, chunk_rows=4)
    with (
        pytest.raises(RuntimeError, match="no more signals"),
        StreamedSignals(counting_draw([], fail_at=2), plan, CPU, in_thread=True) as stream,
    ):
        list(stream.epoch())
    assert not [t for t in threading.enumerate() if t.name.startswith("corrsk-stream")]


def test_chunks_can_be_drawn_without_a_thread():
    drawn = []
    plan = StreamPlan(n_epochs=2, n_chunks=2, chunk_rows=4)
    with StreamedSignals(counting_draw(drawn), plan, CPU, in_thread=False) as stream:
        assert float(stream.sample().mean()) == 0
        chunks = [int(X[0, 0]) for _ in range(2) for X, _ in stream.epoch()]
        stream.start_at(1)
        again = [int(X[0, 0]) for X, _ in stream.epoch()]
    assert chunks == [0, 1, 2, 3]
    assert again == [2, 3]
    assert {name for _, name in drawn} == {threading.current_thread().name}


class Halved(SignalStream):
    """Stream with its own `draw`."""

    def draw(self, chunk, n_samples, *, n_jobs=None):
        X, n_c = super().draw(chunk, n_samples, n_jobs=n_jobs)
        return X / 2, n_c


def test_a_gpu_draws_only_streams_it_supports(monkeypatch):
    plan = StreamPlan(n_epochs=1, n_chunks=1, chunk_rows=500)
    settings = {"noise_level": 0.01, "random_state": 3}
    X, n_c = SignalStream(**settings).draw(0, 500)
    monkeypatch.setattr("corrsk.neural.training.streaming.DRAWING_DEVICES", {"cpu"})
    with StreamedSignals.from_stream(SignalStream(**settings), plan, CPU) as signals:
        ((ours, y),) = signals.epoch()
    expected, expected_y = DeviceStream(SignalStream(**settings), CPU).draw(0, 500)
    assert torch.equal(ours, expected)
    assert torch.equal(y, expected_y)
    with StreamedSignals.from_stream(Halved(**settings), plan, CPU) as signals:
        ((ours, y),) = signals.epoch()
    np.testing.assert_array_equal(ours, X / 2)
    np.testing.assert_array_equal(y, n_c - 1)


def test_contrasts_for_numpy_only_are_drawn_by_the_processor(monkeypatch):
    def refuse(*_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    monkeypatch.setattr("corrsk.neural.training.streaming.DRAWING_DEVICES", {"cpu"})
    monkeypatch.setattr(DeviceStream, "draw", refuse)
    plan = StreamPlan(n_epochs=1, n_chunks=1, chunk_rows=500)
    with StreamedSignals.from_stream(LOW, plan, CPU) as signals:
        ((X, _),) = signals.epoch()
    np.testing.assert_array_equal(X, LOW.draw(0, 500)[0])


# -- training on a stream ------------------------------------------------------------


def test_the_residual_mlp_learns_from_a_stream():
    data = load_dataset("midl2024-low-noise", 4000, random_state=1)
    model = mlp(max_epochs=5).fit_stream(LOW, 40_000, X_val=data.data, y_val=data.target)
    assert model.score(data.data, data.target) > 0.47  # measured 0.50; guessing 0.25
    assert [row["epoch"] for row in model.history_] == [1, 2, 3, 4, 5]
    assert {"train_loss", "valid_loss", "learning_rate", "seconds"} <= set(model.history_[0])
    np.testing.assert_array_equal(model.classes_, [1, 2, 3, 4])
    np.testing.assert_allclose(model.class_prior_, 0.25)


def test_the_cnn_learns_from_a_stream_with_its_grid():
    protocol = AcquisitionProtocol.from_grid(ti=[50, 200, 800], te=np.arange(10, 80, 10))
    stream = SignalStream(protocol=protocol, noise_level=SNRRange(50, 100), noise_reference="max")
    model = CorrelationCNNClassifier(max_epochs=2, random_state=0, verbose=False)
    model.fit_stream(stream, 2000)
    assert model.grid_shape_ == (3, 7)
    assert model.n_features_in_ == 21


@pytest.mark.parametrize("noise_distribution", ["gaussian", "rician"])
def test_the_columns_of_a_stream_are_in_the_order_of_the_protocol(noise_distribution):
    grid, scan = a_grid_and_its_scan_order()
    on_grid, scanned = (
        SignalStream(protocol=protocol, noise_distribution=noise_distribution)
        for protocol in (grid, scan)
    )
    assert scanned.protocol.feature_names == scan.feature_names
    X, y = scanned.draw(2, 5000)
    expected, counts = on_grid.draw(2, 5000)
    np.testing.assert_array_equal(scan.to_grid(X), expected)
    np.testing.assert_array_equal(y, counts)
    X, y = DeviceStream(scanned, CPU).draw(2, 300)
    expected, counts = DeviceStream(on_grid, CPU).draw(2, 300)
    torch.testing.assert_close(scan.to_grid(X), expected, rtol=0, atol=0)
    torch.testing.assert_close(y, counts, rtol=0, atol=0)


def a_grid_and_its_scan_order():
    grid = AcquisitionProtocol.from_grid(ti=[50, 200, 800], te=np.arange(10, 80, 10))
    order = np.random.default_rng(0).permutation(21)
    return grid, AcquisitionProtocol({"TI": grid.ti[order], "TE": grid.te[order]})


def test_the_cnn_reorders_the_columns_of_a_stream():
    grid, scan = a_grid_and_its_scan_order()
    X, y = make_correlation_signals(100, protocol=scan, random_state=3)
    settings = {"max_epochs": 2, "random_state": 0, "verbose": False}
    on_grid = CorrelationCNNClassifier(**settings).fit_stream(
        SignalStream(protocol=grid), 2000, X_val=scan.to_grid(X), y_val=y
    )
    scanned = CorrelationCNNClassifier(**settings).fit_stream(
        SignalStream(protocol=scan), 2000, X_val=X, y_val=y
    )
    assert scanned.grid_shape_ == (3, 7)
    losses = [[row["valid_loss"] for row in model.history_] for model in (scanned, on_grid)]
    assert losses[0] == losses[1]
    expected = on_grid.predict_proba(scan.to_grid(X))
    np.testing.assert_array_equal(scanned.predict_proba(X), expected)
    # names determine the order, and axes are refused since the columns are not in grid order
    names = pd.DataFrame(scan.to_grid(X), columns=grid.feature_names)
    np.testing.assert_array_equal(scanned.predict_proba(names), expected)
    with pytest.raises(ValueError, match="need a protocol in grid order"):
        scanned.predict_proba(X.reshape(-1, 3, 7))
    with pytest.raises(ValueError, match="full grid"):
        CorrelationCNNClassifier(**settings).fit_stream(
            SignalStream(protocol=scan.subset(np.arange(10))), 2000
        )


def test_a_network_trained_on_a_stream_reorders_named_columns():
    grid, scan = a_grid_and_its_scan_order()
    X, _ = make_correlation_signals(100, protocol=scan, random_state=3)
    model = mlp(max_epochs=1).fit_stream(SignalStream(protocol=scan), 1000)
    expected = model.predict_proba(X)
    names = pd.DataFrame(scan.to_grid(X), columns=grid.feature_names)
    np.testing.assert_array_equal(model.predict_proba(names), expected)
    model.fit(X, np.arange(100) % 2)  # the protocol of the stream no longer applies
    assert not hasattr(model, "protocol_")


def test_fit_stream_supports_any_protocol_and_prior():
    protocol = AcquisitionProtocol(te=[10, 20, 35, 80, 15], b=[0.1, 0.5, 1.0, 2.0, 0.0])
    prior = TissuePrior.named("midl2024", n_compartments=(1, 3))
    prior = TissuePrior(
        ranges={"T2": prior.ranges["T2"], "D": type(prior.ranges["T2"])(0.1, 3.0)},
        n_compartments=(1, 3),
    )
    model = mlp(max_epochs=1).fit_stream(SignalStream(prior, protocol), 1000)
    np.testing.assert_array_equal(model.classes_, [1, 3])
    assert model.predict_proba(SignalStream(prior, protocol).draw(0, 3)[0]).shape == (3, 2)


def test_the_same_seeds_give_bit_identical_results():
    one, two = (mlp(dropout=0.1).fit_stream(LOW, 2000) for _ in range(2))
    assert torch.equal(weights(one), weights(two))
    other = mlp(dropout=0.1).fit_stream(SignalStream.named("midl2024-low-noise", 1), 2000)
    assert not torch.equal(weights(one), weights(other))


def test_training_on_signals_drawn_by_the_device_is_as_good(monkeypatch):
    monkeypatch.setattr("corrsk.neural.training.streaming.DRAWING_DEVICES", {"cpu"})
    data = load_dataset("midl2024-low-noise", 4000, random_state=1)
    model = mlp(max_epochs=5).fit_stream(LOW, 40_000, X_val=data.data, y_val=data.target)
    assert model.score(data.data, data.target) > 0.47  # measured 0.50; guessing 0.25


@pytest.mark.parametrize("drawn_by", [SignalStream, DeviceStream])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_stream_training_resumes_bit_identically(
    tmp_path, monkeypatch, error, drawn_by
):
    if drawn_by is DeviceStream:
        monkeypatch.setattr("corrsk.neural.training.streaming.DRAWING_DEVICES", {"cpu"})
    whole = mlp().fit_stream(LOW, 4000)
    path = tmp_path / "stream.checkpoint"
    monkeypatch.setattr("corrsk.neural.training.checkpoint.INTERVAL", 0)
    on_epoch_end = EpochProgress.on_epoch_end

    def pull_the_plug(self, net, **kwargs):
        if len(net.history) == 3:
            raise error
        on_epoch_end(self, net, **kwargs)

    monkeypatch.setattr(EpochProgress, "on_epoch_end", pull_the_plug)
    model = mlp(checkpoint=path)
    with pytest.raises(error):
        model.fit_stream(LOW, 4000)
    assert not hasattr(model, "net_")
    assert not [t for t in threading.enumerate() if t.name.startswith("corrsk-stream")]
    monkeypatch.setattr(EpochProgress, "on_epoch_end", on_epoch_end)
    with pytest.raises(ValueError, match="other parameters or other data"):
        mlp(checkpoint=path).fit_stream(SignalStream.named("midl2024"), 4000)
    with pytest.raises(ValueError, match="other parameters or other data"):
        mlp(checkpoint=path).fit_stream(LOW, 8000)
    drawn = []
    draw = drawn_by.draw
    monkeypatch.setattr(
        drawn_by, "draw", lambda self, i, n, **kw: (drawn.append(i), draw(self, i, n, **kw))[1]
    )
    resumed = mlp(checkpoint=path).fit_stream(LOW, 4000)
    assert torch.equal(weights(whole), weights(resumed))
    assert drawn.count(2) == 1
    assert drawn.count(1) == 0  # finished epochs were not drawn again


@pytest.mark.parametrize(
    ("arguments", "options", "parameters", "error", "message"),
    [
        (("midl2024", 1000), {}, {}, TypeError, "SignalStream.named"),
        ((LOW, 3), {}, {}, ValueError, "at least 4"),
        ((LOW, 1e6), {}, {}, TypeError, "integer"),
        ((LOW, 1000), {}, {"validation_fraction": 0.1}, ValueError, "is not for fit_stream"),
        ((LOW, 1000), {"X_val": np.ones((3, 64))}, {}, ValueError, "both X_val and y_val"),
        ((LOW, 1000), {}, {"optimizer": "lion"}, ValueError, "optimizer"),
    ],
)
def test_fit_stream_refuses_bad_arguments(arguments, options, parameters, error, message):
    with pytest.raises(error, match=message):
        mlp(**parameters).fit_stream(*arguments, **options)


# -- partial_fit ---------------------------------------------------------------------


def test_partial_fit_improves_the_accuracy():
    data = load_dataset("midl2024-low-noise", 4000, random_state=1)
    model = mlp(learning_rate=3e-3)
    losses = []
    for chunk in range(8):
        model.partial_fit(*LOW.draw(chunk, 5000))
        losses.append(model.history_[-1]["train_loss"])
    assert model.n_iter_ == 8
    assert [row["epoch"] for row in model.history_] == list(range(1, 9))
    assert losses[-1] < losses[0] - 0.1
    assert model.score(data.data, data.target) > 0.42
    np.testing.assert_allclose(model.class_count_, 10_000, atol=20)


def test_partial_fit_is_reproducible_and_survives_pickle():
    def train(interrupted):
        model = mlp(dropout=0.1)
        for chunk in range(3):
            model.partial_fit(*LOW.draw(chunk, 1000))
            if interrupted:
                model = pickle.loads(pickle.dumps(model))  # including the optimiser's state
        return weights(model)

    assert torch.equal(train(False), train(False))
    assert torch.equal(train(False), train(True))


def test_partial_fit_after_fit_continues_from_its_weights():
    X, y = LOW.draw(0, 4000)
    model = mlp().fit(X, y)
    before, loss = weights(model), model.history_[-1]["train_loss"]
    model.set_params(learning_rate=1e-4).partial_fit(X, y)
    assert model.n_iter_ == 5
    assert not torch.equal(before, weights(model))
    assert model.history_[-1]["train_loss"] == pytest.approx(loss, rel=0.05)
    fresh = mlp().fit(X, y)
    model.set_params(learning_rate=5e-3).fit(X, y)  # fit starts from new weights
    assert torch.equal(weights(fresh), weights(model))


def test_partial_fit_with_classes():
    X, y = LOW.draw(0, 400)
    few = y < 3
    model = mlp().partial_fit(X[few], y[few], classes=[1, 2, 3, 4])
    assert model.predict_proba(X).shape == (400, 4)
    np.testing.assert_allclose(model.class_prior_, [0.5, 0.5, 0, 0])
    model.partial_fit(X, y)
    with pytest.raises(ValueError, match="classes of the first call"):
        model.partial_fit(X, y + 3)
    with pytest.raises(ValueError, match="at least two classes"):
        mlp().partial_fit(X[y == 1], y[y == 1])
    with pytest.raises(ValueError, match="balanced"):
        mlp(class_weight="balanced").partial_fit(X, y)
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(X[:, :10], y)


def test_partial_fit_applies_parameters_changed_between_calls():
    X, y = LOW.draw(0, 1000)
    for optimizer in ("adamw", "muon"):
        model = mlp(optimizer=optimizer).partial_fit(X, y)
        before = model.predict_proba(X)
        model.set_params(learning_rate=1e-12).partial_fit(X, y)
        np.testing.assert_allclose(model.predict_proba(X), before, atol=1e-6)
    model.set_params(learning_rate=5e-3, class_weight={1: 100, 2: 1, 3: 1, 4: 1})
    for chunk in range(5):
        model.partial_fit(*LOW.draw(chunk, 1000))
    assert (model.predict(X) == 1).mean() > 0.6
