"""Warm starts: the columns of a further fit have the order of the earlier one."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from corrsk import (
    AcquisitionProtocol,
    CorrelationCNNClassifier,
    ResidualMLPClassifier,
    SignalStream,
    load,
    make_correlation_signals,
    save,
)

GRID = AcquisitionProtocol.named("ir-se-8x8")
ORDER = np.random.default_rng(0).permutation(64)
SHUFFLED = AcquisitionProtocol(ti=GRID.ti[ORDER], te=GRID.te[ORDER])
# hardly any step: the predictions of a further fit are those of the first one
SETTINGS = {
    "warm_start": True, "max_epochs": 2, "learning_rate_schedule": "constant", "verbose": False,
    "random_state": 0, "device": "cpu",
}  # fmt: skip
STILL = 1e-9


@pytest.fixture(scope="module")
def signals():
    X, y = make_correlation_signals(400, random_state=0, verbose=False)
    return pd.DataFrame(X, columns=GRID.feature_names), y


def mlp(**changes):
    return ResidualMLPClassifier(width=16, n_blocks=1, **SETTINGS, **changes)


def cnn(**changes):
    return CorrelationCNNClassifier(**SETTINGS, **changes)


MODELS = pytest.mark.parametrize("make", [mlp, cnn])


def further(model, *args, **kwargs):
    """A copy of the model after another fit that changes hardly any weight."""
    return copy.deepcopy(model).set_params(learning_rate=STILL).fit(*args, **kwargs)


def further_stream(model, stream, **kwargs):
    copied = copy.deepcopy(model).set_params(learning_rate=STILL)
    return copied.fit_stream(stream, n_samples=1000, **kwargs)


@MODELS
def test_names_in_another_order(make, signals):
    table, y = signals
    model = make().fit(table, y)
    expected = model.predict_proba(table)
    again = further(model, table.iloc[:, ORDER], y, X_val=table.iloc[:, ORDER], y_val=y)
    assert list(again.feature_names_in_) == GRID.feature_names
    np.testing.assert_allclose(again.predict_proba(table), expected, atol=1e-4)
    # other spellings of the same measurements
    spelled = table.iloc[:, ORDER].rename(columns=lambda name: name.replace("_", "__"))
    again = further(model, spelled, y)
    assert list(again.feature_names_in_) == GRID.feature_names
    np.testing.assert_allclose(again.predict_proba(table), expected, atol=1e-4)


def test_any_names_in_another_order(signals, tmp_path):
    table, y = signals
    table = table.set_axis([f"c{k}" for k in range(64)], axis=1)
    model = mlp().fit(table, y)
    save(model, tmp_path / "model")
    again = further(load(tmp_path / "model"), table.iloc[:, ::-1], y)
    np.testing.assert_allclose(again.predict_proba(table), model.predict_proba(table), atol=1e-4)


@MODELS
def test_other_names_are_refused_with_the_first_difference(make, signals):
    table, y = signals
    model = make().fit(table, y)
    first, last = GRID.feature_names[0], GRID.feature_names[-1]
    with pytest.raises(ValueError, match=f"X lacks '{last}' and has 'TI7_TE90'"):
        further(model, table.rename(columns={last: "TI7_TE90"}), y)
    with pytest.raises(ValueError, match=rf"X lacks '{first}' \(63 columns in place of 64\)"):
        further(model, table.iloc[:, 1:], y)
    with pytest.raises(ValueError, match=r"has 'TI7_TE90', which .* \(65 columns"):
        further(model, table.assign(TI7_TE90=1.0), y)


@MODELS
@pytest.mark.parametrize("named", [True, False])
def test_a_stream_in_another_order(make, named, signals):
    table, y = signals
    stream = SignalStream(random_state=1)
    model = make()
    model = model.fit(table, y) if named else model.fit_stream(stream, n_samples=1000)
    X = table if named else table.to_numpy()
    expected = model.predict_proba(X)
    shuffled = replace(stream, protocol=SHUFFLED)
    again = further_stream(model, shuffled, X_val=table.iloc[:, ORDER], y_val=y)
    assert again.protocol_ == GRID
    assert again.protocol_.feature_names == GRID.feature_names
    assert hasattr(again, "feature_names_in_") == named
    np.testing.assert_allclose(again.predict_proba(X), expected, atol=1e-4)
    # a further fit, in which the stream's order is that of the network
    again = further(again, table.iloc[:, ORDER], y)
    if make is cnn or not named:
        assert again.protocol_.feature_names == GRID.feature_names
    np.testing.assert_allclose(again.predict_proba(X), expected, atol=1e-4)


@MODELS
def test_a_stream_of_another_protocol_is_refused(make, signals):
    table, y = signals
    ti = np.where(GRID.ti == GRID.ti.max(), GRID.ti.max() + 7, GRID.ti)
    other = SignalStream(protocol=AcquisitionProtocol(ti=ti, te=GRID.te))
    for model in (make().fit(table, y), make().fit_stream(SignalStream(), n_samples=1000)):
        with pytest.raises(ValueError, match=f"the stream has TI {ti.max():g} in place of"):
            further_stream(model, other)
    with_tr = SignalStream(protocol=AcquisitionProtocol(GRID.contrasts, tr=9000))
    with pytest.raises(ValueError, match="the stream has TR 9000 ms in place of no TR"):
        further_stream(model, with_tr)  # after a stream; names have no TR


def test_measurements_of_another_protocol_after_a_stream_are_refused(signals):
    table, y = signals
    model = mlp().fit_stream(SignalStream(), n_samples=1000)
    with pytest.raises(ValueError, match=r"warm_start=True.*TI7_TE90"):
        further(model, table.rename(columns={GRID.feature_names[0]: "TI7_TE90"}), y)
    again = further(model, table.to_numpy().reshape(-1, 8, 8), y)
    assert again.protocol_ == GRID
    np.testing.assert_allclose(again.predict_proba(table), model.predict_proba(table), atol=1e-4)


@MODELS
def test_names_in_one_of_the_fits_only(make, signals):
    table, y = signals
    model = make().fit(table, y)
    expected = model.predict_proba(table)
    for unnamed in (table.to_numpy(), table.to_numpy().reshape(-1, 8, 8)):
        with pytest.warns(UserWarning, match="X has no names .* in its order"):
            again = further(model, unnamed, y)
        assert list(again.feature_names_in_) == GRID.feature_names
        np.testing.assert_allclose(again.predict_proba(table), expected, atol=1e-4)


def test_names_after_a_fit_without_names(signals):
    table, y = signals
    model = mlp().fit(table.to_numpy(), y)
    with pytest.warns(UserWarning, match="X has names of columns, but"):
        again = further(model, table, y)
    assert not hasattr(again, "feature_names_in_")
    model = cnn(protocol=GRID).fit(table.to_numpy(), y)
    again = further(model, table.iloc[:, ORDER], y)
    assert again.protocol_.feature_names == GRID.feature_names
    expected = model.predict_proba(table.to_numpy())
    np.testing.assert_allclose(again.predict_proba(table.to_numpy()), expected, atol=1e-4)
