"""Validation of signals."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TENSORS = """
import numpy as np, sklearn, torch
from corrsk import (
    CorrelationCNNClassifier, MultiExponentialClassifier, ProtocolAligner, SignalNormalizer,
    SignalNoveltyDetector, make_correlation_signals,
)
X, y = make_correlation_signals(60, random_state=0, verbose=False)
models = [
    CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=1, random_state=0, verbose=False),
    MultiExponentialClassifier("ir-se-8x8", n_starts=1, max_steps=2, random_state=0, verbose=False),
    SignalNoveltyDetector(n_clusters=2, random_state=0, verbose=False),
    ProtocolAligner(),
    SignalNormalizer(),
]
for model in models:
    method = "predict" if hasattr(model, "predict") else "transform"
    expected = getattr(sklearn.clone(model).fit(X, y), method)(X)
    tensors = torch.from_numpy(X).requires_grad_(), torch.from_numpy(y)
    with sklearn.config_context(array_api_dispatch=True):
        found = getattr(model.fit(*tensors), method)(tensors[0])
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, expected)
with sklearn.config_context(array_api_dispatch=True):
    models[0].fit(*tensors, X_val=tensors[0], y_val=tensors[1]).score(*tensors)
"""


@pytest.mark.network
def test_torch_tensors_are_signals_with_array_api_dispatch():
    # scipy reads the variable when it is imported
    environment = os.environ | {"SCIPY_ARRAY_API": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TENSORS], env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
