"""Acquisition protocols: order of measurements, files, validation."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from corrsk import AcquisitionProtocol, physics

TI = [50, 85, 143, 243, 412, 697, 1181, 2000]
TE = [4.5, 7.5, 12, 20, 33, 55, 91, 150]


def test_the_named_protocol_equals_the_published_file(ti_te_mat):
    from_file = AcquisitionProtocol.from_mat(ti_te_mat)
    assert from_file.tr == 20_000
    assert from_file.ti[0] == 412  # scanner order: shuffled
    assert from_file.te[0] == 150
    named = AcquisitionProtocol.named("ir-se-8x8")
    assert named.tr is None
    assert AcquisitionProtocol(from_file.contrasts) == named
    assert from_file != named  # TR is part of the protocol
    assert named.grid_shape == from_file.grid_shape == (8, 8)
    assert np.unique(named.ti).tolist() == TI
    assert np.unique(named.te).tolist() == TE


def shuffled_protocol(seed=0):
    order = np.random.default_rng(seed).permutation(64)
    grid = AcquisitionProtocol.named("ir-se-8x8")
    return AcquisitionProtocol(ti=grid.ti[order], te=grid.te[order])


def test_scanner_order_and_grid_order_have_the_same_signals():
    scan = shuffled_protocol()
    tissue = {"T1": np.array([[700.0, 2000.0]]), "T2": np.array([[50.0, 150.0]])}
    fractions = np.array([[0.4, 0.6]])
    in_scan_order = physics.correlation_signals(scan.contrasts, tissue, fractions)
    grid = AcquisitionProtocol.named("ir-se-8x8")
    on_grid = physics.correlation_signals(grid.contrasts, tissue, fractions)
    assert not np.allclose(in_scan_order, on_grid)
    np.testing.assert_allclose(scan.to_grid(in_scan_order), on_grid, rtol=1e-14)
    np.testing.assert_allclose(scan.to_scan_order(on_grid), in_scan_order, rtol=1e-14)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_scan_order_inverts_grid_order(seed, n):
    rng = np.random.default_rng(seed)
    # few levels, so that repeated values occur
    protocol = AcquisitionProtocol(
        ti=rng.choice([50, 400, 900], n), te=rng.choice([5, 20], n), b=rng.choice([0, 1], n)
    )
    X = rng.normal(size=(3, n))
    np.testing.assert_array_equal(protocol.to_scan_order(protocol.to_grid(X)), X)
    assert protocol.in_grid_order() == protocol
    assert hash(protocol.in_grid_order()) == hash(protocol)
    assert len(set(protocol.feature_names)) == n
    table = protocol.to_grid(np.stack([protocol.ti, protocol.te, protocol.b]))
    assert sorted(map(tuple, table.T)) == list(map(tuple, table.T))


def test_columns_of_a_frame_are_reordered_with_their_names():
    import pandas as pd

    scan = shuffled_protocol()
    frame = pd.DataFrame(np.eye(64), columns=scan.feature_names)
    assert scan.to_grid(frame).columns.tolist() == scan.in_grid_order().feature_names


def test_wrong_number_of_columns_names_the_protocols_size():
    with pytest.raises(ValueError, match="64 measurements; got \\(5, 63\\)"):
        AcquisitionProtocol.named("ir-se-8x8").to_grid(np.zeros((5, 63)))


def test_priors_compare_by_value(tmp_path):
    protocol = shuffled_protocol()
    with pytest.raises(AttributeError):
        protocol.tr = 5
    with pytest.raises(ValueError, match="read-only"):
        protocol.ti[0] = 1
    with pytest.raises(TypeError):
        protocol.contrasts["TI"] = protocol.te
    for twin in (copy.deepcopy(protocol), pickle.loads(pickle.dumps(protocol))):
        assert twin == protocol
        assert not twin.ti.flags.writeable
        assert twin.feature_names == protocol.feature_names  # the order is kept too
    assert protocol != "ir-se-8x8"
    assert "8 TI x 8 TE" in repr(protocol)


def test_json_round_trip_keeps_the_order(tmp_path):
    protocol = AcquisitionProtocol(ti=[900, 50], te=[7.5, 20], b=[0, 1.2], tr=5000)
    protocol.to_json(tmp_path / "protocol.json")
    again = AcquisitionProtocol.from_json(tmp_path / "protocol.json")
    assert again == protocol
    assert again.ti.tolist() == [900, 50]
    assert json.loads((tmp_path / "protocol.json").read_text())["units"]["b"] == "ms/um^2"


def test_feature_names_give_the_protocol():
    protocol = AcquisitionProtocol.from_grid(ti=[50, 1181.25], te=[4.5, 20], b=[0, 0.5])
    assert protocol.feature_names[1] == "TI50_TE4.5_b0.5"
    assert AcquisitionProtocol.from_feature_names(protocol.feature_names) == protocol
    with pytest.raises(ValueError, match="TI50_TE4.5"):
        AcquisitionProtocol.from_feature_names(["age", "weight"])


def test_repeats_are_allowed_but_are_not_a_grid():
    protocol = AcquisitionProtocol(ti=[50, 50, 400, 400], te=[10, 10, 10, 10])
    assert protocol.grid_shape is None
    assert protocol.feature_names == ["TI50_TE10", "TI50_TE10_2", "TI400_TE10", "TI400_TE10_2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ti": [0.05, 2.0], "te": [5, 10]}, "TI must be in ms.*seconds"),
        ({"ti": [50, 2000], "te": [0.005, 0.15]}, "TE must be in ms.*seconds"),
        ({"ti": [50, 2000], "te": [5, 10], "tr": 20}, "tr must be in ms.*seconds"),
        ({"te": [5, 10], "b": [500, 1000]}, r"b must be in ms/um\^2.*s/mm\^2"),
        ({"te": [5, 10, 20], "b": [0, 500, 1000]}, r"b must be in ms/um\^2.*s/mm\^2"),
        ({"ti": [50 + 1j, 80], "te": [5, 10]}, "TI must be a list of numbers"),
        ({"ti": [50, 80], "te": [5, 10], "tr": "20 s"}, "tr must be a positive time"),
        ({"ti": [50, 80, 90], "te": [5, 10]}, "lengths differ: TI has 3, TE has 2"),
        ({"ti": [50, np.nan], "te": [5, 10]}, "TI holds NaN"),
        ({"ti": [50, -80], "te": [5, 10]}, "TI must be positive"),
        ({"ti": [50, 80], "te": [0, 10]}, "TE must be positive"),
        ({"te": [5, 10], "b": [-1, 0]}, "b must not be negative"),
        ({"ti": [], "te": []}, "TI is empty"),
        ({"ti": ["a"], "te": [5]}, "TI must be a list of numbers"),
        ({"ti": [50, 900], "te": [5, 10], "tr": 800}, "must exceed the largest TI"),
        ({"ti": [50], "te": [5], "tr": float("nan")}, "tr must be a positive time"),
        ({}, "must have scan parameters among TI, TE, b"),
        ({"contrasts": {"FA": [5]}}, "'FA'"),
        ({"contrasts": {"TI": [50]}, "ti": [50]}, "passed twice"),
    ],
)
def test_bad_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        AcquisitionProtocol(**arguments)


def test_an_unknown_name_lists_the_valid_names():
    with pytest.raises(ValueError, match="'ir-se-9x9'; known protocols: ir-se-8x8"):
        AcquisitionProtocol.named("ir-se-9x9")


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        AcquisitionProtocol.from_mat(tmp_path / "absent.mat")
    path = tmp_path / "protocol.mat"
    savemat(path, {"alpha": [1, 2]})
    with pytest.raises(ValueError, match=r"'ti' and 'te'.*found \['alpha'\]"):
        AcquisitionProtocol.from_mat(path)
    savemat(path, {"ti": np.arange(50.0, 500), "te": np.arange(50.0, 500)})
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match="not a readable MATLAB file"):
        AcquisitionProtocol.from_mat(path)
    path.write_bytes(b"TI TE\n50 5\n")
    with pytest.raises(ValueError, match="not a readable MATLAB file"):
        AcquisitionProtocol.from_mat(path)
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(ValueError, match=r"v7\.3.*'-v7'"):
        AcquisitionProtocol.from_mat(path)
    text = tmp_path / "protocol.json"
    pair = '"contrasts": {"TI": [50], "TE": [5]}'
    text.write_text('{"format": "other", ' + pair + "}")
    with pytest.raises(ValueError, match="in the format 'other'"):
        AcquisitionProtocol.from_json(text)
    text.write_text('{"units": {"TI": "s"}, ' + pair + "}")
    with pytest.raises(ValueError, match="has TI in s; corrsk expects ms"):
        AcquisitionProtocol.from_json(text)
    savemat(tmp_path / "half.mat", {"ti": np.arange(50.0, 500)})
    with pytest.raises(ValueError, match="holds no protocol"):
        AcquisitionProtocol.from_mat(tmp_path / "half.mat")
    for content in ("{not json", "[1, 2]", '{"ti": [1]}'):
        text.write_text(content)
        with pytest.raises(ValueError, match="is not a"):
            AcquisitionProtocol.from_json(text)


@pytest.mark.parametrize("tr", [None, 5000.0])
def test_a_protocol_survives_the_conversion_to_plain_values(tr):
    protocol = AcquisitionProtocol(ti=[50, 100, 800], te=[5, 10, 10], tr=tr)
    plain = json.loads(json.dumps(protocol.to_dict()))
    again = AcquisitionProtocol.from_dict(plain)
    assert again == protocol
    assert again.feature_names == protocol.feature_names
    with pytest.raises(ValueError, match="unknown entries of a protocol: TR"):
        AcquisitionProtocol.from_dict({"contrasts": plain["contrasts"], "TR": 5000.0})


def test_the_plain_values_of_a_grid():
    levels = {"TI": [900, 50], "TE": [10, 40, 20]}
    protocol = AcquisitionProtocol.from_dict({"grid": levels, "tr": 5000})
    assert protocol == AcquisitionProtocol.from_grid(ti=[50, 900], te=[10, 20, 40], tr=5000)
    for content, message in [
        ({"grid": levels, "contrasts": levels}, "either contrasts or grid"),
        ({"grid": {"TX": [1]}}, "unknown entries of the scan parameters of a protocol: TX"),
        ({"contrasts": [50, 900]}, "must be a mapping"),
    ]:
        with pytest.raises(ValueError, match=message):
            AcquisitionProtocol.from_dict(content)
