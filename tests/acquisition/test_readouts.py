"""Echo trains and series of protocols."""

import json
import pickle

import numpy as np
import pytest

from corrsk import AcquisitionProtocol, EchoTrain, compare_protocols
from corrsk.physics import SliceProfile

TRAIN = EchoTrain(10.0, refocusing_angle=150.0, profile=SliceProfile(0.99, 1.65, 1.96, 46.0))
INVERSION = AcquisitionProtocol(ti=[50, 400, 1200, 3000], te=10, tr=8000)
ECHOES = AcquisitionProtocol(te=10.0 * np.arange(1, 9), tr=3000, readout=TRAIN)
JOINED = AcquisitionProtocol.concatenate([INVERSION, ECHOES], same_gain=False)
GRID = AcquisitionProtocol.from_grid(ti=[50, 400], te=[10, 20, 30], readout=TRAIN)
PROTOCOLS = [ECHOES, JOINED, GRID]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_copies_and_files_keep_readout_and_series(protocol, tmp_path):
    path = tmp_path / "protocol.json"
    protocol.to_json(path)
    copies = [
        pickle.loads(pickle.dumps(protocol)),
        AcquisitionProtocol.from_dict(json.loads(json.dumps(protocol.to_dict()))),
        AcquisitionProtocol.from_json(path),
        protocol.subset(np.arange(protocol.n_measurements)),
    ]
    for copy in copies:
        assert copy == protocol
        assert hash(copy) == hash(protocol)
        assert copy.readout == protocol.readout


def test_single_echoes_and_echo_trains_are_different_protocols():
    single = AcquisitionProtocol(te=ECHOES.te, tr=3000)
    assert single != ECHOES
    assert single.readout is None
    assert "echo train of spacing 10 ms" in str(ECHOES)


def test_joined_series_keep_their_readouts():
    assert JOINED.readout == (None,) * 4 + (TRAIN,) * 8
    np.testing.assert_array_equal(JOINED.series, [0] * 4 + [1] * 8)
    same = AcquisitionProtocol.concatenate([INVERSION, ECHOES])
    assert same.series is None
    assert same != JOINED
    again = AcquisitionProtocol.concatenate([JOINED, ECHOES], same_gain=False)
    np.testing.assert_array_equal(again.series, [0] * 4 + [1] * 8 + [2] * 8)


def test_selections_keep_the_readout_and_number_series_anew():
    chosen = JOINED.subset([5, 7])
    assert chosen.readout == TRAIN
    assert chosen.series is None
    assert JOINED.subset([0, 5]).readout == (None, TRAIN)


def test_the_order_of_measurements_does_not_matter():
    rng = np.random.default_rng(0)
    order = rng.permutation(JOINED.n_measurements)
    shuffled = JOINED._take(order)
    assert shuffled == JOINED
    X = np.arange(JOINED.n_measurements, dtype=float)[None]
    np.testing.assert_array_equal(shuffled.to_grid(X[:, order]), JOINED.to_grid(X))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"te": [10, 25], "readout": TRAIN}, "TE of 25 ms is no echo"),
        ({"te": [10, 20], "readout": [TRAIN]}, "one entry for each of the 2 measurements"),
        ({"ti": [50, 500], "readout": TRAIN}, "pass TE"),
        ({"te": [10, 20], "series": [0.5, 1]}, "series must have an integer"),
        ({"te": [10, 20], "series": [0]}, "series must have an integer"),
    ],
)
def test_invalid_readouts_and_series_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AcquisitionProtocol(**arguments)
    with pytest.raises(TypeError, match="EchoTrain or None"):
        AcquisitionProtocol(te=[10, 20], readout=["train", None])


def test_files_with_an_unknown_entry_of_a_readout_are_refused():
    content = ECHOES.to_dict()
    content["readout"]["angle"] = 150
    with pytest.raises(ValueError, match="angle"):
        AcquisitionProtocol.from_dict(content)


def test_the_comparison_of_protocols_sees_imperfect_refocusing():
    te = 10.0 * np.arange(1, 9)
    ti = [50, 150, 400, 1000, 2000]
    single, weak, good = (
        AcquisitionProtocol.from_grid(ti=ti, te=te, readout=readout)
        for readout in (None, EchoTrain(10.0, 140.0), EchoTrain(10.0, 179.9))
    )
    assert compare_protocols(single, weak).verdict == "different"
    assert compare_protocols(single, good).verdict == "same"
