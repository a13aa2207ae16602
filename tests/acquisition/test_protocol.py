"""Acquisition protocols: order of measurements, files, validation."""

from __future__ import annotations

import copy
import json
import pickle
import warnings

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
        {
            "TI": rng.choice([50, 400, 900], n),
            "TE": rng.choice([5, 20], n),
            "b": rng.choice([0, 1], n),
        }
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
    state = protocol.__getstate__()  # plain types, for skops
    assert type(state) is type(state["contrasts"]) is dict
    twin = AcquisitionProtocol.__new__(AcquisitionProtocol)
    twin.__setstate__(state)
    assert twin == protocol
    assert not twin.ti.flags.writeable
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
        ({"ti": [50, 2000], "te": [0.002, 2.0]}, "TE must be in ms.*seconds.*units='s'"),
        ({"te": [0.002, 0.02, 0.2, 2.0]}, "TE must be in ms.*seconds"),
        ({"ti": [5e4, 2e6], "te": [5, 10]}, "TI must be in ms.*microseconds"),
        ({"ti": [50, 2000], "te": [4500, 150_000]}, "TE must be in ms.*microseconds"),
        ({"ti": [50, 900], "te": [5, 10], "tr": 2e6}, "tr must be in ms.*microseconds"),
        ({"te": 60.0, "b": [0, 10, 20, 50, 100, 200, 400, 800]}, r"b must be in .*s/mm\^2"),
        ({"te": [5, 10], "units": "km"}, "units='km' is no unit of TE"),
        ({"te": [5, 10], "units": {"TE": "s/mm^2"}}, "TE has no unit 's/mm.2'; valid.*ms, s, us"),
        ({"te": [5, np.inf]}, "TE holds infinite"),
        ({"ti": [50, -np.inf], "te": [5, 10]}, "TI holds infinite"),
        ({"ti": [50, 900], "te": [5, 10], "tr": [3000, 800]}, "must exceed.*900 ms.*got 800"),
        ({"ti": [50, 900], "te": [5, 10], "tr": [1000, 2000, 3000]}, r"list of 2 .*\(3,\)"),
        ({"ti": [50, 900], "te": [5, 10], "tr": [1000, -1]}, "tr must be a positive time.*-1"),
        ({"ti": [50, np.nan], "te": [5, 10]}, "TI holds NaN"),
        ({"ti": [50, -80], "te": [5, 10]}, "TI must not be negative"),
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
    text.write_text('{"units": {"TI": "weeks"}, ' + pair + "}")
    with pytest.raises(ValueError, match="TI has no unit 'weeks'; valid units are ms, s, us"):
        AcquisitionProtocol.from_json(text)
    for content in ("{not json", "[1, 2]", '{"alpha": [1]}', "3", "[]"):
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
    # a misspelt entry must not become full recovery
    with pytest.raises(ValueError, match="unknown entries of a protocol: TRep"):
        AcquisitionProtocol.from_dict({"contrasts": plain["contrasts"], "TRep": 5000.0})


# -- units ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "arguments", "expected"),
    [
        ("ms", {"ti": [0.1, 15], "te": [2, 0.05]}, {"TI": [0.1, 15], "TE": [2, 0.05]}),
        ("s", {"ti": [0.05, 2], "te": [0.15, 0.0045]}, {"TI": [50, 2000], "TE": [150, 4.5]}),
        ("us", {"te": [4500, 150_000]}, {"TE": [4.5, 150]}),
        ({"b": "s/mm^2"}, {"te": [60, 60], "b": [0, 800]}, {"TE": [60, 60], "b": [0, 0.8]}),
        (
            {"te": "s", "b": "s/mm^2"},
            {"te": [0.06, 0.06], "b": [0, 800]},
            {"TE": [60, 60], "b": [0, 0.8]},
        ),
    ],
)
def test_stated_units_are_believed_and_converted(units, arguments, expected):
    protocol = AcquisitionProtocol(**arguments, units=units)
    assert {name: values.tolist() for name, values in protocol.contrasts.items()} == expected


def test_units_of_tr():
    arguments = {"ti": [0.05, 2], "te": [0.15, 0.005], "tr": [3, 5]}
    assert AcquisitionProtocol(**arguments, units="s").tr.tolist() == [3000, 5000]
    with pytest.raises(ValueError, match="tr must be in ms, but a largest value of 5 .*seconds"):
        AcquisitionProtocol(**arguments, units={"TI": "s", "TE": "s"})
    rock = {"ti": [0.1, 15], "te": [2, 0.05], "tr": 40}
    assert AcquisitionProtocol(**rock, units="ms").tr == 40


def test_each_constructor_has_units(tmp_path):
    seconds = {"ti": [0.05, 2.0], "te": [0.0045, 0.15]}
    grid = AcquisitionProtocol.from_grid(ti=[50, 2000], te=[4.5, 150])
    assert AcquisitionProtocol.from_grid(**seconds, units="s") == grid
    names = ["TI0.05_TE0.0045", "TI0.05_TE0.15", "TI2_TE0.0045", "TI2_TE0.15"]
    assert AcquisitionProtocol.from_feature_names(names, units="s") == grid
    with pytest.raises(ValueError, match="TI must be in ms"):
        AcquisitionProtocol.from_feature_names(names)
    mat = tmp_path / "protocol.mat"
    savemat(mat, {"ti": grid.ti / 1000, "te": grid.te / 1000})
    assert AcquisitionProtocol.from_mat(mat, units="s") == grid
    with pytest.raises(ValueError, match="TI must be in ms"):
        AcquisitionProtocol.from_mat(mat)
    path = tmp_path / "protocol.json"
    path.write_text('{"units": {"TE": "s"}, "contrasts": {"TE": [0.01, 0.5]}}')
    assert AcquisitionProtocol.from_json(path).te.tolist() == [10, 500]


def test_short_times_stay_accepted_in_what_is_made_of_the_protocol(tmp_path):
    rock = AcquisitionProtocol.from_grid(ti=[0.1, 1, 15], te=[0.05, 2], units="ms")
    again = AcquisitionProtocol.from_json(_written(rock, tmp_path))
    for made in (
        again, AcquisitionProtocol.from_dict(rock.to_dict()), rock.in_grid_order(),
        copy.deepcopy(rock), pickle.loads(pickle.dumps(rock)),
        AcquisitionProtocol.concatenate([rock]), rock.subset(np.arange(6)),
    ):  # fmt: skip
        assert made == rock
    published = AcquisitionProtocol.named("ir-se-8x8")
    assert published.subset(published.te < 5).te.tolist() == [4.5] * 8


def _written(protocol, folder):
    protocol.to_json(folder / "protocol.json")
    return folder / "protocol.json"


def test_zero_is_a_valid_inversion_and_echo_time():
    protocol = AcquisitionProtocol(ti=[0, 900, 900], te=[0, 0, 50])
    assert protocol.feature_names == ["TI0_TE0", "TI900_TE0", "TI900_TE50"]
    assert AcquisitionProtocol.from_feature_names(protocol.feature_names) == protocol
    tissue = {"T1": np.array([[700.0]]), "T2": np.array([[80.0]])}
    signal = physics.correlation_signals(protocol.contrasts, tissue, np.ones((1, 1)))
    assert signal[0, 0] == -1


def test_a_single_number_is_the_value_of_every_measurement():
    protocol = AcquisitionProtocol(ti=[50, 400], te=10, b=0.5)
    assert protocol == AcquisitionProtocol(ti=[50, 400], te=[10, 10], b=[0.5, 0.5])
    assert AcquisitionProtocol(ti=400, te=10).n_measurements == 1


# -- no inversion, TR of each measurement, several series -------------------------

INVERSION = AcquisitionProtocol(ti=[50, 400, 2000], te=10, tr=8000)
ECHOES = AcquisitionProtocol(te=[10, 40, 90], tr=3000)
JOINED = AcquisitionProtocol.concatenate([INVERSION, ECHOES])


def test_an_inversion_and_an_echo_series_become_one_protocol():
    assert JOINED.ti.tolist() == [50, 400, 2000, np.inf, np.inf, np.inf]
    assert JOINED.te.tolist() == [10, 10, 10, 10, 40, 90]
    assert JOINED.tr.tolist() == [8000] * 3 + [3000] * 3
    assert JOINED.n_measurements == 6
    assert JOINED.grid_shape is None
    assert "TI 50..2000 and inf ms" in repr(JOINED)
    assert "TR 3000..8000 ms" in repr(JOINED)
    tissue = {"T1": np.array([[900.0, 300.0]]), "T2": np.array([[80.0, 30.0]])}
    fractions = np.array([[0.3, 0.7]])
    signals = physics.correlation_signals(JOINED.contrasts, tissue, fractions, tr=JOINED.tr)
    first = physics.correlation_signals(INVERSION.contrasts, tissue, fractions, tr=8000)
    weights = fractions * (1 - np.exp(-3000 / tissue["T1"]))
    second = physics.correlation_signals(ECHOES.contrasts, tissue, weights)
    np.testing.assert_allclose(signals, np.hstack([first, second]), rtol=1e-12)


def test_series_without_tr_and_with_b_are_joined():
    diffusion = AcquisitionProtocol(te=60, b=[0, 0.5, 1])
    joined = AcquisitionProtocol.concatenate([ECHOES, diffusion, INVERSION])
    assert joined.b.tolist() == [0, 0, 0, 0, 0.5, 1, 0, 0, 0]
    assert joined.ti.tolist() == [np.inf] * 6 + [50, 400, 2000]
    assert joined.tr.tolist() == [3000] * 3 + [np.inf] * 3 + [8000] * 3  # infinite: full recovery
    assert AcquisitionProtocol.concatenate([diffusion, diffusion]).tr is None
    assert AcquisitionProtocol.concatenate([INVERSION]) == INVERSION


def test_series_that_cannot_be_joined():
    with pytest.raises(ValueError, match="series 1, .* has no TE, .*te=10"):
        AcquisitionProtocol.concatenate([ECHOES, AcquisitionProtocol(ti=[50, 900])])
    with pytest.raises(ValueError, match="at least one protocol"):
        AcquisitionProtocol.concatenate([])
    with pytest.raises(TypeError, match="must be AcquisitionProtocol objects, got 'x'"):
        AcquisitionProtocol.concatenate([ECHOES, "x"])


@pytest.mark.parametrize(
    "protocol",
    [
        JOINED,
        AcquisitionProtocol(ti=np.inf, te=[10, 40, 90]),
        AcquisitionProtocol(ti=[np.inf, 50], te=10, tr=[np.inf, 900]),
    ],
)
def test_infinite_times_survive_files_names_and_copies(protocol, tmp_path):
    text = json.dumps(protocol.to_dict(), allow_nan=False)  # JSON has no Infinity
    for again in (
        AcquisitionProtocol.from_dict(json.loads(text)),
        AcquisitionProtocol.from_json(_written(protocol, tmp_path)),
        pickle.loads(pickle.dumps(protocol)),
    ):
        assert again == protocol
        assert hash(again) == hash(protocol)
        assert again.feature_names == protocol.feature_names
    assert "Infinity" not in (tmp_path / "protocol.json").read_text()
    savemat(tmp_path / "p.mat", {"ti": protocol.ti, "te": protocol.te, "tr": protocol._tr_of_each})
    assert AcquisitionProtocol.from_mat(tmp_path / "p.mat") == protocol
    assert any("TIinf_TE" in name for name in protocol.feature_names)
    named = AcquisitionProtocol.from_feature_names(protocol.feature_names)
    assert named == protocol


def test_tr_of_each_measurement_moves_with_the_measurements():
    protocol = AcquisitionProtocol(ti=[900, 50, 900], te=[10, 20, 10], tr=[4000, 1000, 3000])
    assert protocol.tr.tolist() == [4000, 1000, 3000]
    with pytest.raises(ValueError, match="read-only"):
        protocol.tr[0] = 1
    # the two measurements with equal TI and TE are ordered by TR
    assert protocol.in_grid_order().tr.tolist() == [1000, 3000, 4000]
    reordered = AcquisitionProtocol(ti=[900, 900, 50], te=[10, 10, 20], tr=[3000, 4000, 1000])
    assert reordered == protocol
    assert hash(reordered) == hash(protocol)
    assert protocol != AcquisitionProtocol(protocol.contrasts, tr=[1000, 4000, 3000])
    assert protocol != AcquisitionProtocol(protocol.contrasts, tr=4000)
    assert protocol.subset([0, 1]).tr.tolist() == [4000, 1000]
    assert protocol.subset([1]).tr == 1000


def test_equal_values_of_tr_are_a_single_one():
    protocol = AcquisitionProtocol(ti=[50, 900], te=[20, 10], tr=[4000, 4000])
    assert protocol.tr == 4000
    assert protocol == AcquisitionProtocol(ti=[50, 900], te=[20, 10], tr=4000)
    assert AcquisitionProtocol(te=[10, 20], tr=np.inf).tr is None  # full recovery


def test_a_grid_has_a_single_tr():
    with pytest.raises(ValueError, match="tr of a grid is a single number"):
        AcquisitionProtocol.from_grid(ti=[50, 400], te=[10, 40], tr=[1000, 2000, 3000, 4000])


def test_lists_of_levels_are_not_taken_for_a_grid_without_a_word(tmp_path):
    with pytest.warns(UserWarning, match=r"8 measurements, one for each pair.*from_grid") as caught:
        diagonal = AcquisitionProtocol(ti=TI, te=TE)
    assert diagonal.n_measurements == 8
    assert caught[0].filename == __file__
    savemat(tmp_path / "levels.mat", {"ti": TI, "te": TE})
    with pytest.warns(UserWarning, match="from_grid") as caught:
        assert AcquisitionProtocol.from_mat(tmp_path / "levels.mat") == diagonal
    assert caught[0].filename == __file__
    (tmp_path / "levels.json").write_text(json.dumps({"ti": TI, "te": TE}))
    with pytest.warns(UserWarning, match="from_grid"):
        assert AcquisitionProtocol.from_json(tmp_path / "levels.json") == diagonal
    with pytest.warns(UserWarning, match="TE and b"):
        AcquisitionProtocol(te=[10, 20], b=[0, 1])
    with warnings.catch_warnings():  # no warning:
        warnings.simplefilter("error")
        assert AcquisitionProtocol({"TI": TI, "TE": TE}) == diagonal  # pairs, as a mapping
        diagonal.to_json(tmp_path / "own.json")
        assert AcquisitionProtocol.from_json(tmp_path / "own.json") == diagonal
        assert AcquisitionProtocol.from_feature_names(diagonal.feature_names) == diagonal
        assert AcquisitionProtocol.named("ir-se-8x8").subset([0, 9, 18]).n_measurements == 3
        assert pickle.loads(pickle.dumps(diagonal)) == copy.deepcopy(diagonal) == diagonal
        AcquisitionProtocol(ti=[50, 50], te=[10, 20])
        AcquisitionProtocol(ti=[50], te=[10])
        AcquisitionProtocol(ti=TI)
        AcquisitionProtocol(ti=TI[::-1], te=TE)


def test_grid_layout_is_the_grid_shape_of_columns_in_grid_order():
    grid = AcquisitionProtocol.from_grid(ti=[50, 400, 900], te=[5, 20])
    assert grid.grid_layout == grid.grid_shape == (3, 2)
    scan = grid.subset([0, 1, 2, 3, 4, 5]).from_dict(
        {"contrasts": {name: values[::-1] for name, values in grid.contrasts.items()}}
    )
    assert (scan.grid_shape, scan.grid_layout) == ((3, 2), None)
    assert grid.subset([0, 1, 2]).grid_layout is None
    X = np.arange(12.0).reshape(2, 6)
    assert grid.to_grid(X, copy=False) is X
    assert grid.to_grid(X) is not X
    np.testing.assert_array_equal(scan.to_grid(X, copy=False), X[:, ::-1])


@pytest.mark.parametrize("name", ["TI", "TE", "b"])
def test_a_matlab_file_may_have_a_single_vector(tmp_path, name):
    values = {"TI": [412, 50, 2000], "TE": [91, 4.5, 12], "b": [0, 2, 1]}[name]
    savemat(tmp_path / "one.mat", {name.lower(): values, "tr": 20_000})
    protocol = AcquisitionProtocol.from_mat(tmp_path / "one.mat")
    assert protocol.contrasts[name].tolist() == values  # in the order of the file
    assert list(protocol.contrasts) == [name]
    assert protocol.tr == 20_000


def written(path, content):
    path.write_text(json.dumps(content))
    return path


def test_a_json_file_written_by_hand(tmp_path):
    path = tmp_path / "hand.json"
    expected = AcquisitionProtocol({"TI": [412, 50, 143], "TE": [4.5, 91, 4.5]}, tr=5000)
    for content in (
        {"ti": [412, 50, 143], "te": [4.5, 91, 4.5], "tr": 5000},
        {"TI": [412, 50, 143], "TE": [4.5, 91, 4.5], "TR": 5000, "units": "ms"},
        {"ti": [0.412, 0.05, 0.143], "te": [0.0045, 0.091, 0.0045], "tr": 5, "units": "s"},
        {"ti": [0.412, 0.05, 0.143], "te": [4.5, 91, 4.5], "tr": 5000, "units": {"ti": "s"}},
    ):
        protocol = AcquisitionProtocol.from_json(written(path, content))
        assert protocol == expected  # to the last bit, although 0.143 s are converted
        assert protocol.feature_names == expected.feature_names
    b = AcquisitionProtocol.from_json(
        written(path, {"te": [60, 60, 60], "b": [1000, 0, 500], "units": {"b": "s/mm^2"}})
    )
    assert b.b.tolist() == [1, 0, 0.5]
    assert AcquisitionProtocol.from_json(written(path, {"ti": [412, 50]})).ti.tolist() == [412, 50]
    for content, message in (
        ({"ti": [50, 60], "alpha": [1]}, "is not a protocol.*unknown entries of a protocol: alpha"),
        ({"TI": [50, 60], "ti": [70, 80]}, "has both 'TI' and 'ti'"),
        ({"ti": [50, 60], "TR": 5000, "tr": 6000}, "has both 'TR' and 'tr'"),
        ({"contrasts": {"TE": [50, 60], "te": [70, 80]}}, "has both 'TE' and 'te'"),
        ({"ti": [50, 60], "grid": {"te": [50, 60]}}, "got grid, TI"),
        ({"contrasts": {"te": [50, 60]}, "EchoTime": 0.05}, "unknown entries .*EchoTime"),
        ({"tr": 5000}, "is not a protocol.*neither contrasts nor grid nor a scan parameter"),
        ({"ti": [0.05, 2]}, "can only be in seconds"),
        ({"ti": [50, 60], "units": {"alpha": "s"}}, "units has 'alpha'"),
        ({"ti": [50, 60], "units": "minutes"}, "'minutes' is no unit of TI.*; valid units are ms"),
        ({"ti": ["short", "long"]}, "TI must be a list of numbers in ms"),
        ({"ti": [50, 60], "te": [5, 6, 7]}, "from_grid"),
    ):
        with pytest.raises(ValueError, match=message):
            AcquisitionProtocol.from_json(written(path, content))


def test_sidecars_of_bids(tmp_path):
    sidecars = [
        {"InversionTime": ti, "EchoTime": te, "RepetitionTime": 6, "Manufacturer": "X"}
        for ti, te in [(0.412, 0.012), (0.05, 0.012), (0.143, 0.0045)]
    ]
    expected = AcquisitionProtocol({"TI": [412, 50, 143], "TE": [12, 12, 4.5]}, tr=6000)
    files = [written(tmp_path / f"{k}.json", one) for k, one in enumerate(sidecars)]
    for source in (files, list(map(str, files)), written(tmp_path / "all.json", sidecars)):
        protocol = AcquisitionProtocol.from_json(source)
        assert protocol == expected
        assert protocol.feature_names == expected.feature_names
    # several echoes in one sidecar
    several = written(tmp_path / "s.json", {"InversionTime": 0.4, "EchoTime": [0.02, 0.01]})
    one = AcquisitionProtocol.from_json(several)
    assert one == AcquisitionProtocol({"TI": [400, 400], "TE": [20, 10]})
    only_te = written(tmp_path / "te.json", [{"EchoTime": 0.08}, {"EchoTime": 0.02}])
    assert AcquisitionProtocol.from_json(only_te).te.tolist() == [80, 20]
    changing = [{"EchoTime": 0.08, "RepetitionTime": 2}, {"EchoTime": 0.02, "RepetitionTime": 3}]
    protocol = AcquisitionProtocol.from_json(written(tmp_path / "tr.json", changing))
    assert protocol.tr.tolist() == [2000, 3000]
    quantitative = [{"InversionTime": 0.4, "RepetitionTimeExcitation": 2.5}]
    assert AcquisitionProtocol.from_json(written(tmp_path / "ir.json", quantitative)).tr == 2500
    with pytest.raises(ValueError, match="join them with AcquisitionProtocol.concatenate"):
        AcquisitionProtocol.from_json(
            written(tmp_path / "two.json", [*quantitative, {"EchoTime": 0.02}])
        )
    for content, message in (
        ([{"EchoTime": 0.08}, {"InversionTime": 0.05}], "entry 1 of .*EchoTime"),
        ([{"EchoTime": 0.08}, {"Manufacturer": "X"}], "entry 1 of .*none of them"),
        ({"EchoTime": "0.08"}, "numbers for TE"),
        ({"EchoTime": 80}, "TE must be in ms.*80000"),  # in ms, in place of seconds
        ({"EchoTime": [0.01, 0.02, 0.03], "RepetitionTime": [2, 3]}, "differ in length"),
        ({"EchoTime": [0.01, 0.02], "InversionTime": [0.1, 0.2, 0.3]}, "differ in length"),
    ):
        with pytest.raises(ValueError, match=message):
            AcquisitionProtocol.from_json(written(tmp_path / "bad.json", content))


def test_the_plain_values_of_a_grid():
    levels = {"TI": [900, 50], "TE": [10, 40, 20]}
    protocol = AcquisitionProtocol.from_dict({"grid": levels, "tr": 5000})
    assert protocol == AcquisitionProtocol.from_grid(ti=[50, 900], te=[10, 20, 40], tr=5000)
    assert protocol.grid_layout == (2, 3)
    # in grid order, whatever the order of the entries
    swapped = AcquisitionProtocol.from_dict({"grid": {"TE": [10, 40, 20], "TI": [900, 50]}})
    assert swapped.feature_names == protocol.feature_names
    seconds = {"TI": [0.9, 0.05], "TE": [0.01, 0.04, 0.02]}
    assert AcquisitionProtocol.from_dict({"grid": seconds, "tr": 5, "units": "s"}) == protocol
    for content, message in [
        ({"grid": seconds}, "can only be in seconds"),
        ({"grid": levels, "tr": [3000, 4000]}, "tr of a grid is a single number"),
        ({"grid": levels, "contrasts": levels}, "either contrasts or grid"),
        ({"grid": {"TX": [1]}}, "unknown entries of the scan parameters of a protocol: TX"),
        ({"contrasts": [50, 900]}, "must be a mapping"),
    ]:
        with pytest.raises(ValueError, match=message):
            AcquisitionProtocol.from_dict(content)


@pytest.mark.parametrize("case", [str.upper, str.lower, str.title])
def test_files_and_mappings_have_one_form(tmp_path, case):
    """from_dict (and so a definition in YAML) and from_json read the same content."""
    levels = {case("TI"): [900, 50], case("TE"): [40, 10]}
    grid = AcquisitionProtocol.from_grid(ti=[50, 900], te=[10, 40], tr=5000)
    pairs = AcquisitionProtocol(ti=[900, 50], te=[40, 10], tr=5000)
    for content, expected in (
        ({case("grid"): levels}, grid),
        ({case("contrasts"): levels}, pairs),
        (levels, pairs),
    ):
        content = {**content, case("tr"): 5, case("units"): {case("tr"): "s"}}
        assert AcquisitionProtocol.from_dict(content) == expected
        assert AcquisitionProtocol.from_json(written(tmp_path / "p.json", content)) == expected
    savemat(tmp_path / "p.mat", {"ti": [50, 900], "TI": [60, 900]})
    with pytest.raises(ValueError, match="has the vectors ti and TI; keep one"):
        AcquisitionProtocol.from_mat(tmp_path / "p.mat")
    with pytest.raises(ValueError, match="units has a name twice: 'TI', 'ti'"):
        AcquisitionProtocol(ti=[50, 900], units={"TI": "ms", "ti": "s"})
    with pytest.raises(KeyError, match="neither contrasts nor grid"):
        AcquisitionProtocol.from_dict({"tr": 5000})
    with pytest.warns(UserWarning, match="from_grid") as caught:
        AcquisitionProtocol.from_dict({"ti": [50, 900], "te": [10, 40]})
    assert caught[0].filename == __file__


# -- text tables ---------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "TI,TE,TR\n50,10,6000\n400,20,6000\n",
        "# ti (s) te_ms TR [s]\n0.05 10 6\n\n# a comment\n0.4 20 6\n",
        "InversionTime\tEchoTime\tRepetitionTime\r\n0.05\t0.01\t6\r\n0.4\t0.02\t6\r\n",
        "file;volume;te (us);TI;tr\na.nii;0;10000;50;6000\nb.nii;1;20000;400;6000\n",
        '\ufeff"TI","TE","TR"\n"50","10","6000"\n"400","20","6000"\n',
    ],
)
def test_tables_of_every_kind(text, tmp_path):
    (tmp_path / "times.txt").write_text(text, encoding="utf-8")
    protocol = AcquisitionProtocol.from_table(tmp_path / "times.txt")
    assert protocol.feature_names == ["TI50_TE10", "TI400_TE20"]
    assert protocol.tr == 6000


def test_a_table_of_b_values_and_series(tmp_path):
    path = tmp_path / "times.csv"
    path.write_text("TE,b (s/mm^2),series\n50,0,1\n50,1000,1\n70,0,2\n", encoding="utf-8")
    protocol = AcquisitionProtocol.from_table(path)
    np.testing.assert_array_equal(protocol.b, [0, 1, 0])
    np.testing.assert_array_equal(protocol.series, [0, 0, 1])
    path.write_text("TI,TE\n0.05,0.01\n0.4,0.02\ninf,0.01\n", encoding="utf-8")
    assert AcquisitionProtocol.from_table(path, units="s").ti.tolist() == [50, 400, np.inf]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TI,TE\n0.05,0.01\n0.4,0.02", "can only be in seconds"),
        ("TI,foo\n50,2", "the column 'foo' of .* is not understood"),
        ("TI (kg)\n50", r"the column 'TI \(kg\)' of .* is not understood"),
        ("TI,ti\n50,50", "has the column TI twice"),
        ("TI,TE\n50,10\n60", "measurement 2 of .* has 1 cells, but the first line has 2 names"),
        ("TI,TE\n50,ten", "TE of measurement 1 of .* is no number: 'ten'"),
        ("file,volume\na.nii,0", "has no scan parameter"),
        ("TI,TE", "has no measurements"),
        ("50 10\n60 20", "the column '50' of .* is not understood"),
        ("", "has no measurements"),
    ],
)
def test_tables_that_are_refused(text, message, tmp_path):
    (tmp_path / "times.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        AcquisitionProtocol.from_table(tmp_path / "times.csv")


# -- each of these fails if one line of the class is changed ---------------------------


def test_protocols_with_another_tr_differ_in_equality_and_hash():
    long, short, none = (AcquisitionProtocol(ti=[50, 400], te=9, tr=tr) for tr in (5e3, 2e3, None))
    assert len({long, short, none}) == 3
    assert long == AcquisitionProtocol(ti=[50, 400], te=9, tr=5e3) != short != none


def test_the_named_protocols_have_the_published_tr():
    assert AcquisitionProtocol.named("ir-se-8x8-tr20s").tr == 20_000
    assert AcquisitionProtocol.named("ir-se-8x8").tr is None


def test_tr_must_exceed_the_largest_ti():
    with pytest.raises(ValueError, match=r"must exceed the largest TI \(400 ms\), got 400 ms"):
        AcquisitionProtocol(ti=[50, 400], te=9, tr=400)
    assert AcquisitionProtocol(ti=[50, 400], te=9, tr=400.5).tr == 400.5


def test_the_levels_of_a_grid_may_have_any_order():
    protocol = AcquisitionProtocol.from_grid(ti=[400, 50, 900], te=[20, 5])
    assert protocol.ti.tolist() == [50, 50, 400, 400, 900, 900]
    assert protocol.te.tolist() == [5, 20] * 3
    assert protocol == AcquisitionProtocol.from_grid(ti=[50, 400, 900], te=[5, 20])
    assert protocol.grid_layout == (3, 2)


def test_names_keep_the_exponent_of_a_value():
    protocol = AcquisitionProtocol(ti=[2e12, 1e-7], te=[5, 20], units="ms")
    assert protocol.feature_names == ["TI2e+12_TE5", "TI1e-07_TE20"]
    again = AcquisitionProtocol.from_feature_names(protocol.feature_names, units="ms")
    assert again == protocol


def test_a_protocol_does_not_share_memory_with_its_arguments():
    ti, tr = np.array([50.0, 400.0]), np.array([5e3, 6e3])
    protocol = AcquisitionProtocol(ti=ti, te=[20, 9], tr=tr)
    ti[0] = tr[0] = 1.0
    assert protocol.ti.tolist() == [50, 400]
    assert protocol.tr.tolist() == [5000, 6000]


@pytest.mark.parametrize("change", [{"version": 2}, {"version": "1"}, {"format": "other"}])
def test_files_of_another_format_or_version_are_refused(tmp_path, change):
    path = tmp_path / "protocol.json"
    AcquisitionProtocol(ti=[50, 400], te=9).to_json(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="this corrsk reads 'corrsk-protocol', version 1"):
        AcquisitionProtocol.from_json(path)


def test_a_mat_file_may_have_several_tr(tmp_path):
    path = tmp_path / "protocol.mat"
    savemat(path, {"ti": [50.0, 400.0], "te": [9.0, 9.0], "tr": [5e3, 6e3]})
    assert AcquisitionProtocol.from_mat(path).tr.tolist() == [5000, 6000]
    savemat(path, {"ti": [50.0, 400.0], "te": [9.0, 9.0], "tr": [5e3, 5e3, 5e3]})
    assert AcquisitionProtocol.from_mat(path).tr == 5000
