"""The skorch net of a fitted estimator."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from corrsk import CorrelationCNNClassifier, make_correlation_signals


@pytest.fixture(scope="module")
def signals():
    return make_correlation_signals(300, random_state=0, verbose=False)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_the_net_predicts_as_the_classifier(signals, method):
    X, y = signals
    model = CorrelationCNNClassifier(
        protocol="ir-se-8x8", max_epochs=2, dropout=0.5, random_state=0, verbose=False
    )
    net = getattr(model, method)(X, y).net_
    for given in (X, torch.from_numpy(X), X.astype(np.float32)):
        np.testing.assert_allclose(net.predict_proba(given), model.predict_proba(X), atol=1e-6)
        np.testing.assert_array_equal(model.classes_[net.predict(given)], model.predict(X))
    logits = net.forward(X)
    assert logits.shape == (300, 4)
    assert not logits.requires_grad
    assert not torch.equal(logits, net.forward(X, training=True))  # dropout
    assert torch.equal(logits, net.forward(X))
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again.predict(X), net.predict(X))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_the_net_is_trained_by_the_estimator_only(signals, method):
    net = (
        CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=1, verbose=False)
        .fit(*signals)
        .net_
    )
    with pytest.raises(TypeError, match=f"call {method} of the estimator"):
        getattr(net, method)(*signals)
