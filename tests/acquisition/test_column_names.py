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
