"""Callbacks of the user: skorch's and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from skorch.callbacks import (
    BatchScoring,
    Callback,
    EarlyStopping,
    EpochScoring,
    GradientNormClipping,
    LRScheduler,
)

from corrsk import CorrelationCNNClassifier, SignalStream, make_correlation_signals
from corrsk.neural.training.callbacks import StopTraining


@pytest.fixture(scope="module")
def signals():
    return make_correlation_signals(300, noise_level=0.001, random_state=0, verbose=False)


def cnn(**changes):
    return CorrelationCNNClassifier(
        **{"protocol": "ir-se-8x8", "max_epochs": 4, "random_state": 0, "verbose": False} | changes
    )


def weights(model):
    return torch.cat([p.detach().ravel() for p in model.net_.module_.state_dict().values()])


class Pruned(Exception):
    pass


class Pruning(Callback):
    """As optuna's callback: raises an error of its own."""

    def on_epoch_end(self, net, **kwargs):
        if net.history[-1, "train_loss"] and len(net.history) == 2:
            raise Pruned


class Stopping(Callback):
    def __init__(self, epoch=2):
        self.epoch = epoch

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == self.epoch:
            raise StopTraining


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_epoch_scoring_agrees_with_the_history(signals, backend):
    scores = [
        EpochScoring("accuracy", name="scored", lower_is_better=False),
        ("loss", EpochScoring("neg_log_loss", name="log_loss", lower_is_better=False)),
    ]
    model = cnn(validation_fraction=0.3, callbacks=scores, backend=backend).fit(*signals)
    assert len(model.history_) == 4
    for row in model.history_:
        assert row["scored"] == pytest.approx(row["valid_accuracy"])
        assert row["log_loss"] == pytest.approx(-row["valid_loss"], rel=1e-5)
    without = cnn(validation_fraction=0.3, backend=backend).fit(*signals)
    assert torch.equal(weights(model), weights(without))  # a score does not change the training


def test_early_stopping_of_skorch_ends_the_training(signals):
    stop = EarlyStopping(monitor="valid_loss", patience=1, threshold=10, sink=lambda text: None)
    model = cnn(max_epochs=9, validation_fraction=0.3, callbacks=[stop]).fit(*signals)
    assert model.n_iter_ == len(model.history_) == 2
    model.predict(signals[0])


def test_a_callback_stops_the_training_and_the_best_epoch_counts(signals):
    X, y = signals
    model = cnn(callbacks=[Stopping(3)], validation_fraction=0.3).fit(X, y)
    assert model.n_iter_ == 3
    losses = [row["valid_loss"] for row in model.history_]
    assert model.best_epoch_ == int(np.argmin(losses)) + 1


def test_an_error_of_a_callback_leaves_fit(signals):
    model = cnn(callbacks=[Pruning()])
    with pytest.raises(Pruned):
        model.fit(*signals)
    assert not hasattr(model, "net_")


def test_ctrl_c_within_a_callback_is_passed_on(signals):
    class Interrupted(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cnn(callbacks=[Interrupted()]).fit(*signals)


def test_clipped_gradients_change_the_training(signals):
    changes = {"optimizer": "sgd", "learning_rate": 0.1}
    clipped = cnn(**changes, callbacks=[GradientNormClipping(1e-12)]).fit(*signals)
    free = cnn(**changes).fit(*signals)
    # only the weight decay moves the weights
    assert clipped.history_[-1]["train_loss"] == pytest.approx(np.log(4), abs=0.02)
    assert not torch.equal(weights(clipped), weights(free))
    pytest.importorskip("numba")
    with pytest.raises(ValueError, match="backend='numba'.*backend='torch'"):
        cnn(backend="numba", callbacks=[GradientNormClipping(1.0)]).fit(*signals)


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([LRScheduler()], "learning_rate_schedule"),
        ([BatchScoring("accuracy")], "one row for each epoch"),
        ([EpochScoring("accuracy")], "validation data"),
        ([EpochScoring("accuracy", on_train=True)], "on_train"),
    ],
)
def test_callbacks_without_effect_are_refused(signals, callbacks, message):
    with pytest.raises(ValueError, match=message):
        cnn(callbacks=callbacks).fit(*signals)


def test_other_objects_are_refused(signals, tmp_path):
    with pytest.raises(TypeError, match=r"skorch callbacks.*got 3"):
        cnn(callbacks=[3]).fit(*signals)
    with pytest.raises(ValueError, match="checkpoint stores neither"):
        cnn(callbacks=[Pruning()], checkpoint=tmp_path / "c").fit(*signals)


def test_callbacks_are_parameters(signals):
    model = cnn(callbacks=[("stop", Stopping())])
    copied = clone(model)
    assert copied.callbacks[0][1] is not model.callbacks[0][1]
    assert copied.fit(*signals).n_iter_ == 2
    assert len(model.callbacks) == 1  # a fit does not change the parameter


def test_a_stream_has_callbacks():
    stream = SignalStream.named("midl2024-low-noise", random_state=0)
    assert cnn(callbacks=[Stopping()]).fit_stream(stream, 400).n_iter_ == 2


# -- scikit-learn's callbacks ------------------------------------------------------------


def test_scikit_learns_callbacks_follow_the_epochs(signals):
    callback = pytest.importorskip("sklearn.callback")
    monitor = callback.ScoringMonitor(scoring="accuracy")
    model = cnn().set_callbacks(monitor).fit(*signals)
    log = monitor.get_logs().data_as_pandas
    epochs = log[log["task_name"] == "epoch"] if "task_name" in log else log.iloc[1:]
    assert len(epochs) == 4
    assert epochs["accuracy"].iloc[-1] == pytest.approx(model.score(*signals))


def test_a_callback_of_scikit_learn_stops_the_training(signals):
    pytest.importorskip("sklearn.callback")

    class Stop:
        def setup(self, estimator, context):
            self.n_epochs = 0

        def teardown(self, estimator, context):
            self.is_over = True

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            self.n_epochs += 1
            fitted_estimator.predict(signals[0])
            return self.n_epochs == 2

    stop = Stop()
    assert cnn().set_callbacks(stop).fit(*signals).n_iter_ == 2
    assert stop.is_over
