"""The base class of the network estimators serves regressors too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.base import RegressorMixin
from torch import nn

from corrsk import TissuePrior
from corrsk.neural._base import NetworkEstimator
from corrsk.neural.training.device import resolve_device
from corrsk.neural.training.settings import TrainingSettings
from corrsk.neural.training.sources import ArraySource
from corrsk.simulation import CorrelationSignalGenerator


class SquaredError(nn.Module):
    def forward(self, outputs, targets, weights=None):
        return ((outputs[:, 0] - targets) ** 2).mean()


@dataclass(frozen=True, kw_only=True)
class RegressorSettings(TrainingSettings):
    @property
    def n_outputs(self):
        return 1

    def loss(self):
        return SquaredError()


class MLPRegressor(RegressorMixin, NetworkEstimator):
    """Estimates one number per signal with the residual MLP."""

    _architecture_name = "residual-mlp"

    def __init__(self, max_epochs=20, random_state=0):
        self.max_epochs = max_epochs
        self.random_state = random_state
        self.input_scaling, self.optimizer, self.learning_rate = "standardize", "adamw", 3e-3
        self.learning_rate_schedule, self.momentum, self.weight_decay = "one-cycle", None, 0.01
        self.batch_size, self.precision, self.backend = 100, "float32", "torch"
        self.validation_fraction, self.n_iter_no_change, self.restore_best = None, None, True
        self.device, self.checkpoint, self.verbose = "cpu", None, False

    def _architecture(self):
        return {"network": "residual-mlp", "grid_shape": (), "width": 32, "n_blocks": 1}

    def fit(self, X, y):
        self._reset()
        device = resolve_device(self.device)
        signals, targets = self._first_signals(X, y)
        targets = targets.astype(np.float32)
        settings = RegressorSettings(**self._common_settings(self._checked_seed(), len(signals)))
        return self._train(settings, ArraySource(signals, targets), None, device)

    def predict(self, X):
        return self._outputs(X)[:, 0]


@pytest.mark.slow
def test_a_regressor_on_the_base_class_learns_t2():
    prior = TissuePrior.named("midl2024", n_compartments=(1,))
    tissue, _ = prior.sample(4000, random_state=0)
    X = CorrelationSignalGenerator(noise_level=0.001, random_state=0).fit_transform(tissue)
    y = np.log(tissue["T2_1"]) - np.log(tissue["T2_1"]).mean()
    model = MLPRegressor().fit(X[:3000], y[:3000])
    assert model.score(X[3000:], y[3000:]) > 0.9
    assert model.n_features_in_ == 64
    assert model.history_[-1]["train_loss"] < model.history_[0]["train_loss"]
    again = MLPRegressor().fit(X[:3000], y[:3000])
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
