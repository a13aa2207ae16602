"""Echo trains and series of protocols."""

import json
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest

from corrsk import (
    AcquisitionProtocol,
    EchoTrain,
    Nuisances,
    PropertyRange,
    ProtocolAligner,
    ProtocolMismatchError,
    ProtocolWarning,
    TissuePrior,
    compare_protocols,
)
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


# -- comparison of protocols ----------------------------------------------------

TI, TE = [50, 150, 400, 1000, 2000], 10.0 * np.arange(1, 9)
PROFILE = SliceProfile(0.99, 1.65, 1.96, 46.0)


def grid(readout=None, te=TE):
    return AcquisitionProtocol.from_grid(ti=TI, te=te, readout=readout)


@pytest.mark.parametrize(
    ("trained", "measured", "text"),
    [
        (None, EchoTrain(10.0, 140.0),
         "echo trains (spacing 10 ms, refocusing angle 140 degrees) in place of single spin "
         "echoes"),
        (EchoTrain(10.0, profile=PROFILE), None,
         "single spin echoes in place of echo trains (spacing 10 ms, refocusing angle 180 degrees "
         "and a slice profile)"),
        (EchoTrain(10.0, 180.0), EchoTrain(5.0, 140.0),
         "echo trains with spacing 5 in place of 10 ms, refocusing angle 140 in place of 180 "
         "degrees"),
        (EchoTrain(10.0), EchoTrain(10.0, profile=PROFILE), "echo trains with a slice profile"),
        (EchoTrain(10.0, profile=PROFILE), EchoTrain(10.0), "echo trains with no slice profile"),
        (EchoTrain(10.0, profile=PROFILE), EchoTrain(10.0, profile=SliceProfile(0.5, 2, 1, 4)),
         "echo trains with another slice profile"),
    ],
)  # fmt: skip
def test_the_comparison_names_another_readout(trained, measured, text):
    comparison = compare_protocols(grid(trained), grid(measured))
    assert comparison.verdict == "different"
    assert comparison.describe().startswith(f"{text}. For tissue of the prior")
    with pytest.raises(ProtocolMismatchError, match="echo trains"):
        comparison.check()


def test_the_refusal_names_the_readout_of_the_model():
    with pytest.raises(ProtocolMismatchError, match="Use signals measured with .*angle 150 deg"):
        compare_protocols(grid(EchoTrain(10.0, 150.0)), grid()).check()


def test_equal_times_are_paired_by_their_readout():
    te = np.repeat(TE, 2)
    readouts = [None, TRAIN] * 8
    trained = AcquisitionProtocol(te=te, readout=readouts)
    order = np.random.default_rng(0).permutation(16)
    moved = trained._take(order)
    near = AcquisitionProtocol(te=moved.te + 0.01, readout=moved.readout)
    prior = TissuePrior({"T2": PropertyRange(20, 300)}, n_compartments=(1, 2))
    for measured in (moved, near):
        comparison = compare_protocols(trained, measured, prior=prior)
        found = measured._take(np.array(comparison.order))
        assert found.readout == trained.readout
        np.testing.assert_allclose(found.te, trained.te, atol=0.02)
        assert comparison.verdict != "different"


def test_a_series_of_its_own_scale_is_refused_and_a_common_scale_accepted():
    one, two = (
        AcquisitionProtocol.concatenate([INVERSION, ECHOES], same_gain=same)
        for same in (True, False)
    )
    refused = compare_protocols(one, two)
    assert refused.verdict == "different"
    assert refused.order == tuple(range(12))
    with pytest.raises(ProtocolMismatchError, match="2 series of unknown relative scale in place"):
        refused.check()
    assert compare_protocols(two, one).verdict == "same"  # equal gains


# -- series with equal measurements -----------------------------------------------

FIRST = AcquisitionProtocol(te=[10, 20, 40])
SECOND = AcquisitionProtocol(te=[10, 40, 80])
TWICE = AcquisitionProtocol.concatenate([FIRST, SECOND], same_gain=False)
T2_PRIOR = TissuePrior(
    {"T2": PropertyRange(20, 300)}, n_compartments=(1, 2), nuisances=Nuisances(gain=(0.5, 2.0))
)


def test_equal_measurements_of_two_series_have_names_of_repeats():
    assert TWICE.feature_names == ["TE10", "TE20", "TE40", "TE10_2", "TE40_2", "TE80"]


def test_series_with_equal_measurements_may_have_any_order():
    other = AcquisitionProtocol.concatenate([SECOND, FIRST], same_gain=False)
    assert other == TWICE
    assert hash(other) == hash(TWICE)
    comparison = compare_protocols(TWICE, other, prior=T2_PRIOR)
    assert comparison.verdict == "same"
    assert comparison.order == (3, 4, 5, 0, 1, 2)
    # a measurement that changes its series is another protocol
    mixed = AcquisitionProtocol(te=[10, 20, 40, 10, 40, 80], series=[0, 0, 0, 1, 1, 0])
    assert mixed != TWICE


# -- the aligner --------------------------------------------------------------------


def test_named_columns_have_the_readout_and_the_series_of_the_trained_protocol():
    X = np.random.default_rng(0).normal(size=(5, JOINED.n_measurements))
    aligner = ProtocolAligner(JOINED).fit(X)
    order = np.random.default_rng(1).permutation(JOINED.n_measurements)
    names = np.array(JOINED.feature_names)
    moved = pd.DataFrame(X[:, order], columns=names[order])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(aligner.transform(moved), X)
        # another order than that of the trained series
        X2 = np.random.default_rng(2).normal(size=(5, 6))
        by_name = pd.DataFrame(X2, columns=TWICE.feature_names).iloc[:, [4, 3, 5, 2, 1, 0]]
        aligner = ProtocolAligner(TWICE, prior=T2_PRIOR).fit(X2)
        np.testing.assert_array_equal(aligner.transform(by_name), X2)


def test_names_of_close_times_have_the_readout_of_the_trained_protocol():
    X = np.random.default_rng(0).normal(size=(5, JOINED.n_measurements))
    aligner = ProtocolAligner(JOINED).fit(X)
    for tr in ("_TR8000", "_TR8100"):  # of the names, in place of that of the protocol
        near = [name.replace("_TR8000", tr).replace("TI400", "TI400.2") for name in
                JOINED.feature_names]  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProtocolWarning)
            np.testing.assert_array_equal(aligner.transform(pd.DataFrame(X, columns=near)), X)
    far = pd.DataFrame(X, columns=[name.replace("TE30", "TE34") for name in JOINED.feature_names])
    with pytest.raises(ProtocolMismatchError, match="TE of 34 ms is no echo of a train"):
        aligner.transform(far)


def test_the_aligner_reads_the_readout_from_the_measured_protocol():
    trained = grid(EchoTrain(10.0, 150.0))
    X = np.random.default_rng(0).normal(size=(3, trained.n_measurements))
    order = np.random.default_rng(1).permutation(trained.n_measurements)
    measured = trained._take(order)
    aligner = ProtocolAligner(trained, measured).fit(X[:, order])
    np.testing.assert_array_equal(aligner.transform(X[:, order]), X)
    with pytest.raises(ProtocolMismatchError, match="single spin echoes in place of echo trains"):
        ProtocolAligner(trained, grid()).fit(X)
