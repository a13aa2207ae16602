"""Names of columns: which spellings are read, and which are refused."""

from __future__ import annotations

import numpy as np
import pytest

from corrsk import AcquisitionProtocol
from corrsk.acquisition import protocol_of_columns

TI, TE = [412, 50, 143], [4.5, 12, 91]
EXPECTED = AcquisitionProtocol({"TI": TI, "TE": TE})


SPELLINGS = {
    "corrsk": "TI{ti:g}_TE{te:g}",
    "lower case": "ti{ti:g}_te{te:g}",
    "underscores": "TI_{ti:g}_TE_{te:g}",
    "no separator": "ti{ti:g}te{te:g}",
    "hyphens": "Te-{te:g}-Ti-{ti:g}",
    "units": "TI={ti:g}ms TE={te:g}ms",
    "text": "TI = {ti:g} ms, TE = {te:g} ms",
    "brackets": "TI({ti:g})_TE({te:g})",
    "unit first": "TI_ms_{ti:g}_TE_ms_{te:g}",
    "one step": "signals__TI{ti:g}_TE{te:g}",
    "two steps": "union__raw__TI{ti:g}_TE{te:g}",
    "seconds": "TI{ti_s}s_TE{te_s}s",
    "seconds and ms": "TI_{ti_s}_s_TE_{te:g}_ms",
    "microseconds": "TI{ti_us:g}us_TE{te_us:g}us",
    "words": "TI {ti:g} milliseconds, TE {te_us:g} microseconds",
    "words in brackets": "TI (seconds) {ti_s}, TE (msec) {te:g}",
    "exponents": "TI{ti:e}_TE{te:e}",
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_spellings(spelling):
    names = [
        spelling.format(
            ti=ti, te=te, ti_s=str(ti / 1000), te_s=str(te / 1000), ti_us=1000 * ti, te_us=1000 * te
        )
        for ti, te in zip(TI, TE, strict=True)
    ]
    found = protocol_of_columns(names)
    assert found.feature_names == EXPECTED.feature_names
    # exact: 0.143 s are 143 ms, not 142.99999999999997
    np.testing.assert_array_equal(found.ti, EXPECTED.ti)


def test_units_of_b():
    names = ["b=1000 s/mm^2 TE=60", "b=0 s/mm^2 TE=60", "TE=60 b=500 s/mm2"]
    assert protocol_of_columns(names).b.tolist() == [1, 0, 0.5]
    assert protocol_of_columns(["b2", "b0"]).b.tolist() == [2, 0]


def test_repeated_measurements():
    protocol = AcquisitionProtocol({"TI": [50, 400, 50, 50], "TE": [10, 10, 10, 10]})
    assert protocol.feature_names[2:] == ["TI50_TE10_2", "TI50_TE10_3"]
    for names in (protocol.feature_names, protocol.feature_names[::-1], ["TI50_TE10"] * 4):
        found = AcquisitionProtocol.from_feature_names(names)
        assert found.ti.tolist() == [400 if name.startswith("TI400") else 50 for name in names]


@pytest.mark.parametrize(
    "names",
    [
        None, [], ["c0", "c1"], ["x1", "x2"], ["0", "1"], ["first", "second"], ["multi5", "site_1"],
        ["T1", "T2"], ["a_b_1", "a_b_2"], ["TE", "TI"], ["sepal length (cm)", "width"],
    ],
)  # fmt: skip
def test_names_without_scan_parameters_are_ignored(names):
    assert protocol_of_columns(names) is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["TI50_TE10", "TI60_TE10", "first"], "'first' is not understood.*'TI50_TE10' is"),
        (["age", "TI50_TE10"], "'age' is not understood"),
        (["sig_TI50_TE10", "sig_TI60_TE10"], "'sig_TI50_TE10' is not understood"),
        (["sigTI50_TE10", "sigTI60_TE10"], "'sigTI50_TE10' is not understood"),
        (["TI50_TE10", "TI60"], "'TI60' has the scan parameters TI, but 'TI50_TE10' has TI, TE"),
        (["TI50_TI60", "TI50_TE10"], "'TI50_TI60'"),
        (["TI50_TE10", "TI50_TE10.5.1"], "'TI50_TE10.5.1'"),
        (["TI50x__TE10", "TI60x__TE10"], "'TI50x__TE10' is not understood as a measurement; if"),
        (["TI50_TE10 apples", "TI50_TE10"], "apples"),
        (["TI50_TE4_5", "TI50_TE7_5"], "'TI50_TE4_5' is ambiguous"),
        (["TI50_TE10", "TI50_TE20-5"], "'TI50_TE20-5'"),
        (["TI0.05_TE0.0045", "TI2_TE0.15"], "'TI0.05_TE0.0045', .. are invalid.*seconds"),
        (["b1000", "b0", "b500"], "ms/um"),
        (["TE5", "TE-5"], "'TE-5' is ambiguous: the hyphen before the number of TE"),
        (["TI-50_TE10", "TI-60_TE-20"], "'TI-60_TE-20' is ambiguous.*number of TE"),
        (["TE=-5", "TE=-10"], "'TE=-5' is not understood"),
        (["TE5millisecondseconds", "TE6ms"], "'TE5millisecondseconds' is not understood"),
    ],
)
def test_names_that_are_nearly_right_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        protocol_of_columns(names)
    with pytest.raises(ValueError, match=message):
        AcquisitionProtocol.from_feature_names(names)


def test_from_feature_names_needs_scan_parameters():
    for names in ([], ["c0", "c1"]):
        with pytest.raises(ValueError, match="must have the form 'TI50_TE4.5'"):
            AcquisitionProtocol.from_feature_names(names)


REPEATED = AcquisitionProtocol(ti=[50, 100, 200, 400, 800, 1600] * 2, tr=[9000] * 6 + [2000] * 6)


def test_names_have_a_tr_that_differs_between_the_measurements():
    assert REPEATED.feature_names[0] == "TI50_TR9000"
    assert len(set(REPEATED.feature_names)) == 12
    assert REPEATED.subset([0, 1]).feature_names == ["TI50", "TI100"]  # one TR
    for protocol in (REPEATED, REPEATED.in_grid_order()):
        assert AcquisitionProtocol.from_feature_names(protocol.feature_names) == REPEATED
        found = protocol_of_columns(protocol.feature_names, REPEATED)
        np.testing.assert_array_equal(found.ti, protocol.ti)
        np.testing.assert_array_equal(found.tr, protocol.tr)
    assert protocol_of_columns(["ti=50ms tr=9s", "ti=80ms tr=9s"]).tr == 9000
    assert protocol_of_columns(["TI50_TRinf", "TI50_TR2000"]).tr.tolist() == [np.inf, 2000]
    assert protocol_of_columns(["TR5", "TR6"]) is None  # no measurement


def test_names_without_tr_are_read_with_the_protocol_unless_ambiguous():
    with pytest.raises(
        ValueError, match="'TI50' is ambiguous.* TR 9000 and 2000 ms.*'TI50_TR2000'"
    ):
        protocol_of_columns([f"TI{ti:g}" for ti in REPEATED.ti], REPEATED)
    distinct = AcquisitionProtocol(ti=[50, 100, 400], tr=[9000, 2000, 9000])
    found = protocol_of_columns(["TI400", "TI50", "TI100"], distinct)
    assert found.tr.tolist() == [9000, 9000, 2000]


def test_names_are_compared_with_the_tr_of_the_protocol():
    scan = AcquisitionProtocol(ti=[400, 50], te=10, tr=5000)
    found = protocol_of_columns(["TI50_TE10", "TI400_TE10"], scan)
    assert found.ti.tolist() == [50, 400]
    assert found.tr == 5000
    assert protocol_of_columns(["TI50_TE10_TR5000", "TI400_TE10_TR5000"], scan) == scan
    with pytest.raises(ValueError, match="are not those of the protocol.*TI50_TE10_TR9000"):
        protocol_of_columns(["TI50_TE10_TR9000", "TI400_TE10_TR9000"], scan)
    with pytest.raises(ValueError, match="2 of the columns .*TI60_TE10.* and 2 of its"):
        protocol_of_columns(["TI60_TE10", "TI500_TE10"], scan)


def test_a_stated_unit_is_believed():
    short = AcquisitionProtocol(ti=[0.5, 4, 15], units="ms")
    with pytest.raises(ValueError, match="TI must be in ms"):
        protocol_of_columns(short.feature_names)
    for names in (short.feature_names, ["TI 500 us", "TI 4 ms", "TI 15"]):
        assert protocol_of_columns(names, short) == short
    assert protocol_of_columns(["TI0.5ms", "TI4ms", "TI15ms"]) == short
    assert protocol_of_columns(["TI_us_500", "TI4ms", "TI0.015s"]) == short
    with pytest.raises(ValueError, match="TI must be in ms"):
        protocol_of_columns(["TI0.5ms", "TI4ms", "TI15"])
