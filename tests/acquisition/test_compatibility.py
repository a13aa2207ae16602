"""Comparison of protocols, and the aligner."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    PropertyRange,
    ProtocolAligner,
    ProtocolMismatchError,
    ProtocolWarning,
    SNRRange,
    TissuePrior,
    compare_protocols,
    load,
    make_correlation_signals,
    save,
)
from corrsk.acquisition._differences import noise_deviation
from corrsk.acquisition.compatibility import ProtocolComparison

TRAINED = AcquisitionProtocol.named("ir-se-8x8")
TI, TE = np.unique(TRAINED.ti), np.unique(TRAINED.te)
LITERAL = {"noise_level": (0.01, 0.02, 0.03, 0.04, 0.05)}
LOW = {"noise_level": (0.001, 0.002, 0.003, 0.004, 0.005)}
DETR = {
    "prior": "t1t2-detr", "noise_level": SNRRange(30, 150), "noise_reference": "max", "norm": None
}  # fmt: skip


def grid(ti=TI, te=TE, tr=None):
    return AcquisitionProtocol.from_grid(ti=ti, te=te, tr=tr)


def shuffled(protocol, seed=0):
    order = np.random.default_rng(seed).permutation(protocol.n_measurements)
    return AcquisitionProtocol(
        {name: values[order] for name, values in protocol.contrasts.items()}, tr=protocol.tr
    )


def one_time(old, new):
    return np.where(old == TI, new, TI)


# -- order ---------------------------------------------------------------------


def test_the_order_of_measurements_is_no_difference():
    measured = shuffled(TRAINED)
    comparison = compare_protocols(TRAINED, measured)
    assert comparison.verdict == "same"
    assert comparison.largest_difference == 0
    columns = np.arange(64.0)[None]
    np.testing.assert_array_equal(columns[:, comparison.order], measured.to_grid(columns))
    np.testing.assert_array_equal(comparison.check(), comparison.order)


def test_equal_protocols_in_different_orders_keep_their_orders():
    for seed in range(3):  # a cache must distinguish the two, although they are equal
        measured = shuffled(TRAINED, seed)
        order = compare_protocols(TRAINED, measured).order
        np.testing.assert_array_equal(np.array(measured.ti)[list(order)], TRAINED.ti)


def test_the_published_file_is_accepted_with_a_note(ti_te_mat):
    measured = AcquisitionProtocol.from_mat(ti_te_mat)
    for noise in (LITERAL, LOW):
        comparison = compare_protocols(TRAINED, measured, **noise)
        assert comparison.verdict == "close"
        columns = np.arange(64.0)[None]
        np.testing.assert_array_equal(columns[:, comparison.order], measured.to_grid(columns))
        with pytest.warns(ProtocolWarning, match="TR 20000 ms in place of no TR"):
            comparison.check()


def test_nearly_equal_times_are_matched_across_orders():
    # within one TI of the trained grid, the measured TIs are not in the order of the TEs
    jitter = np.random.default_rng(0).uniform(-0.05, 0.05, 64)
    measured = shuffled(AcquisitionProtocol(ti=TRAINED.ti + jitter, te=TRAINED.te))
    order = list(compare_protocols(TRAINED, measured).order)
    np.testing.assert_allclose(measured.ti[order], TRAINED.ti, atol=0.06)
    np.testing.assert_array_equal(measured.te[order], TRAINED.te)


def test_repeated_measurements_are_matched_once_each():
    twice = AcquisitionProtocol(ti=[50, 50, 700, 700], te=[10, 10, 10, 40])
    measured = AcquisitionProtocol(ti=[700, 50, 700, 50], te=[40, 10, 10, 10])
    comparison = compare_protocols(twice, measured)
    assert comparison.verdict == "same"
    assert comparison.order == (1, 3, 2, 0)


def test_a_b_value_of_zero_is_matched():
    prior = TissuePrior({"T2": PropertyRange(5, 500), "D": PropertyRange(0.1, 3)})
    trained = AcquisitionProtocol.from_grid(te=[10, 50], b=[0, 1])
    measured = AcquisitionProtocol(te=[50.0, 10, 10, 50], b=[1.0, 1.001, 0, 0])
    comparison = compare_protocols(trained, measured, prior=prior)
    assert comparison.order == (2, 1, 3, 0)
    assert comparison.verdict == "close"


# -- accepted and refused differences ------------------------------------------

# Below the bounds, the loss of accuracy of a trained model was at most 0.2 percentage
# points. The comments give the losses above the bounds, at literal and at low noise.
CLOSE = {
    "TR 20 s": grid(tr=20_000),
    "TI 0.2 % longer": grid(ti=1.002 * TI),
    "TE 1 ms later": grid(te=TE + 1),
}
DIFFERENT = {
    "TR 10 s": grid(tr=10_000),  # 1.0, 3.5
    "TR 5 s": grid(tr=5_000),  # 7.3, 21
    "TI 10 % longer": grid(ti=1.1 * TI),  # 0.1, 0.0, but with other T1 than in the training
    "one TI of 697 is 650": grid(ti=one_time(697, 650)),  # 1.8, 13
    "the first TI is 60": grid(ti=one_time(50, 60)),  # 0.9, 6.4
    "the last TI is 1800": grid(ti=one_time(2000, 1800)),  # 9.2, 26
    "other TI": grid(ti=np.geomspace(50, 2500, 8)),  # 3.4, 17
    "linear TI": grid(ti=np.linspace(50, 2000, 8)),  # 25, 36
}


@pytest.mark.parametrize("noise", [LITERAL, LOW], ids=["literal", "low"])
@pytest.mark.parametrize("name", CLOSE)
def test_small_differences_are_accepted(name, noise):
    assert compare_protocols(TRAINED, shuffled(CLOSE[name]), **noise).verdict == "close"


@pytest.mark.parametrize("noise", [LITERAL, LOW], ids=["literal", "low"])
@pytest.mark.parametrize("name", DIFFERENT)
def test_large_differences_are_refused(name, noise):
    comparison = compare_protocols(TRAINED, shuffled(DIFFERENT[name]), **noise)
    assert comparison.verdict == "different"
    with pytest.raises(ProtocolMismatchError, match="Use signals measured with TI 50, 85, 143"):
        comparison.check()


def test_acceptance_depends_on_the_noise_level():
    measured = grid(ti=one_time(697, 690))  # a loss of 1.2 percentage points at low noise only
    assert compare_protocols(TRAINED, measured, **LITERAL).verdict == "close"
    assert compare_protocols(TRAINED, measured, **LOW).verdict == "different"


def test_without_normalisation_the_scale_matters():
    trained = grid(tr=20_000)
    assert compare_protocols(trained, grid(), **DETR).verdict == "close"
    later = grid(te=TE + 1, tr=20_000)  # all signals are weaker: a loss of 27 percentage points
    assert compare_protocols(trained, later, **DETR).verdict == "different"
    assert compare_protocols(trained, later, **{**DETR, "norm": "l2"}).verdict == "close"


def test_rounding_is_no_difference():
    measured = grid(ti=TI * (1 + 1e-7))
    comparison = compare_protocols(TRAINED, measured)
    assert comparison.verdict == "same"
    assert 0 < comparison.largest_difference < 0.01
    comparison.check()  # without a warning


# -- size of differences -------------------------------------------------------


def test_the_difference_equals_the_formula():
    prior = TissuePrior(
        {"T1": PropertyRange(4000, 4000), "T2": PropertyRange(100, 100)}, n_compartments=(1,)
    )
    comparison = compare_protocols(
        TRAINED, grid(tr=20_000), prior=prior, noise_level=0.01, norm=None, n_voxels=5
    )
    expected = np.exp(-20_000 / 4000) * np.exp(-4.5 / 100) / 0.01
    assert comparison.largest_difference == pytest.approx(expected)
    assert comparison.typical_difference == pytest.approx(expected)


def test_differences_are_relative_to_the_noise():
    literal, low = (
        compare_protocols(TRAINED, grid(ti=1.05 * TI), **noise) for noise in (LITERAL, LOW)
    )
    assert low.largest_difference == pytest.approx(10 * literal.largest_difference)
    assert low.typical_difference == pytest.approx(10 * literal.typical_difference)


def test_the_largest_difference_includes_the_corners_of_the_prior():
    few, many = (
        compare_protocols(TRAINED, grid(tr=20_000), norm=None, n_voxels=n) for n in (1, 2000)
    )
    assert few.largest_difference == pytest.approx(many.largest_difference)  # at T1 = 5 s


def test_differences_explained_by_other_tissue_are_separated():
    scaled = compare_protocols(TRAINED, grid(ti=1.05 * TI))
    single = compare_protocols(TRAINED, grid(ti=one_time(697, 650)))
    assert scaled.typical_difference > single.typical_difference
    assert scaled.unexplained_difference < 0.05 < 1 < single.unexplained_difference


def test_the_standard_deviation_of_mixed_noise():
    rng = np.random.default_rng(0)
    levels = rng.choice(LITERAL["noise_level"], 100_000)
    assert noise_deviation(LITERAL["noise_level"]) == pytest.approx(
        np.sqrt(np.mean(levels**2)), rel=0.01
    )
    drawn = SNRRange(30, 150).sample(rng, 100_000)
    assert noise_deviation(SNRRange(30, 150)) == pytest.approx(np.sqrt(np.mean(drawn**2)), rel=0.01)


def test_without_noise_every_difference_matters():
    assert compare_protocols(TRAINED, grid(tr=30_000), noise_level=0.0).verdict == "different"


# -- protocols that cannot be compared -----------------------------------------


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        (TRAINED.subset(range(40)), "40 measurements in place of 64"),
        (grid(ti=[*TI, 3000]), "72 measurements in place of 64; average repeated"),
        (AcquisitionProtocol.from_grid(te=TE, b=TI / 1000), "TE, b were varied in place of TI, TE"),
    ],
)
def test_other_numbers_of_measurements_and_contrasts_are_refused(measured, message):
    comparison = compare_protocols(TRAINED, measured)
    assert (comparison.verdict, comparison.order) == ("different", None)
    with pytest.raises(ValueError, match=message):
        comparison.check()


def test_a_prior_must_have_a_range_for_every_measured_property():
    protocol = AcquisitionProtocol.from_grid(te=TE, b=[0, 1])
    with pytest.raises(ValueError, match="measures D, but the prior has no range for D"):
        compare_protocols(protocol, protocol)


# -- the aligner ---------------------------------------------------------------


@pytest.fixture(scope="module")
def signals():
    X, _ = make_correlation_signals(20, random_state=0)
    return X


def test_named_columns_are_reordered(signals):
    frame = pd.DataFrame(signals, columns=TRAINED.feature_names)
    aligner = ProtocolAligner().fit(signals)
    mixed = frame.sample(frac=1, axis=1, random_state=0)
    np.testing.assert_array_equal(aligner.transform(mixed), signals)
    # fitted to one order of the names, given another
    again = ProtocolAligner().fit(mixed)
    np.testing.assert_array_equal(again.transform(frame), signals)
    np.testing.assert_array_equal(again.transform(mixed), signals)
    assert aligner.transform(mixed).dtype == np.float32


def test_columns_of_a_measured_protocol(signals, recwarn):
    measured = shuffled(grid(tr=20_000))
    in_scan_order = measured.to_scan_order(signals)
    with pytest.warns(ProtocolWarning, match="largest difference of 0.37 standard deviations"):
        aligner = ProtocolAligner(measured_protocol=measured).fit(in_scan_order)
    recwarn.clear()
    np.testing.assert_array_equal(aligner.transform(in_scan_order), signals)
    # the order is given by the names, TR by the protocol; the warning came in fit
    frame = pd.DataFrame(signals, columns=TRAINED.feature_names)
    np.testing.assert_array_equal(aligner.transform(frame), signals)
    assert not recwarn.list


def test_columns_are_matched_to_another_order(signals):
    aligner = ProtocolAligner().fit(pd.DataFrame(signals, columns=TRAINED.feature_names))
    measured = shuffled(TRAINED)
    matched = aligner.matched_to(measured)
    np.testing.assert_array_equal(matched.transform(measured.to_scan_order(signals)), signals)
    assert aligner.measured_protocol == "auto"
    np.testing.assert_array_equal(aligner.order_, np.arange(64))
    with pytest.raises(ProtocolMismatchError):
        aligner.matched_to(grid(ti=2 * TI))


def test_names_of_other_protocols_warn_or_are_refused(signals):
    aligner = ProtocolAligner().fit(signals)
    other = pd.DataFrame(signals, columns=grid(ti=1.2 * TI).feature_names)
    with pytest.raises(ProtocolMismatchError, match="TI 60 in place of 50"):
        aligner.transform(other)
    near = pd.DataFrame(signals, columns=grid(ti=1.002 * TI).feature_names)
    with pytest.warns(ProtocolWarning, match="TI 50.1 in place of 50"):
        aligner.transform(near)
    seconds = pd.DataFrame(
        signals,
        columns=[
            f"TI{a / 1e3:g}_TE{b / 1e3:g}" for a, b in zip(TRAINED.ti, TRAINED.te, strict=True)
        ],
    )
    with pytest.raises(ValueError, match="multiply by 1000"):
        aligner.transform(seconds)
    with pytest.raises(ValueError, match="contradict measured_protocol"):
        ProtocolAligner(measured_protocol=TRAINED).fit(other)
    with pytest.raises(ValueError, match="X has 10 columns, but the trained protocol has 64"):
        ProtocolAligner().fit(signals[:, :10])


def test_the_output_has_the_trained_names(signals):
    measured = shuffled(TRAINED)
    aligner = ProtocolAligner(measured_protocol=measured).set_output(transform="pandas")
    frame = aligner.fit_transform(measured.to_scan_order(signals))
    assert list(frame.columns) == TRAINED.feature_names
    np.testing.assert_array_equal(frame.to_numpy(), signals)


def test_grids_of_signals_are_flattened(signals):
    aligner = ProtocolAligner().fit(signals.reshape(-1, 8, 8))
    np.testing.assert_array_equal(aligner.transform(signals.reshape(-1, 8, 8)), signals)


def test_a_saved_aligner_loads_unchanged(signals, tmp_path):
    prior = TissuePrior(
        {"T1": PropertyRange(50, 3500, scale="log"), "T2": PropertyRange(5, 500, step=5.0)},
        n_compartments=(1, 2), t2_below_t1=True,
    )  # fmt: skip
    measured = shuffled(TRAINED)
    aligner = ProtocolAligner(
        TRAINED, measured, prior=prior, noise_level=SNRRange(30, 150), noise_reference="max"
    ).fit(signals)
    save(aligner, tmp_path / "aligner.safetensors")
    again = load(tmp_path / "aligner.safetensors")
    assert again.get_params() == aligner.get_params()
    np.testing.assert_array_equal(again.transform(signals), aligner.transform(signals))
    assert isinstance(again.compare(TRAINED), ProtocolComparison)


def test_a_generator_with_a_range_of_ratios_can_be_saved(two_voxels, tmp_path):
    generator = CorrelationSignalGenerator(noise_level=SNRRange(30, 150), random_state=0)
    save(generator.fit(two_voxels), tmp_path / "generator")
    assert load(tmp_path / "generator").noise_level == SNRRange(30, 150)


# -- no inversion, TR of each measurement -----------------------------------------

SERIES = AcquisitionProtocol.concatenate(
    [
        AcquisitionProtocol(ti=[50, 400, 2000, 3500], te=10, tr=8000),
        AcquisitionProtocol(te=[10, 40, 90, 150], tr=3000),
    ]
)


def permuted(protocol, order):
    return AcquisitionProtocol(
        {name: values[order] for name, values in protocol.contrasts.items()}, tr=protocol.tr[order]
    )


def test_series_without_inversion_are_matched_in_any_order():
    order = np.random.default_rng(0).permutation(8)
    comparison = compare_protocols(SERIES, permuted(SERIES, order))
    assert comparison.verdict == "same"
    assert comparison.largest_difference == 0
    np.testing.assert_array_equal(order[list(comparison.order)], np.arange(8))


def test_a_long_inversion_time_in_place_of_none_is_a_difference():
    long = AcquisitionProtocol(
        ti=np.where(np.isinf(SERIES.ti), 6000, SERIES.ti), te=SERIES.te, tr=8000
    )
    comparison = compare_protocols(SERIES, long)
    assert comparison.verdict == "different"
    assert comparison.order == tuple(range(8))
    assert "TI 6000 in place of inf ms; TR 8000 in place of 3000 ms" in comparison.describe()


def test_another_tr_of_some_measurements_is_seen():
    trained = AcquisitionProtocol(SERIES.contrasts, tr=SERIES.tr)
    for changed, verdict in ((3001.0, "same"), (3100.0, "close"), (6000.0, "different")):
        measured = AcquisitionProtocol(
            SERIES.contrasts, tr=np.where(SERIES.tr == 3000, changed, SERIES.tr)
        )
        comparison = compare_protocols(trained, measured)
        assert comparison.verdict == verdict
        assert comparison.largest_difference > 0


def test_repeated_measurements_with_different_tr_are_matched_by_tr():
    trained = AcquisitionProtocol(ti=np.inf, te=[10, 10, 60, 60], tr=[1000, 4000, 1000, 4000])
    measured = permuted(trained, np.array([1, 0, 3, 2]))
    comparison = compare_protocols(trained, measured)
    assert comparison.verdict == "same"
    assert comparison.order == (1, 0, 3, 2)


def test_named_columns_get_the_tr_of_their_measurement():
    order = np.random.default_rng(1).permutation(8)
    X = np.random.default_rng(0).normal(size=(5, 8))
    aligner = ProtocolAligner(SERIES).fit(X)
    named = pd.DataFrame(X[:, order], columns=np.array(SERIES.feature_names)[order])
    np.testing.assert_array_equal(aligner.transform(named), X)
    near = [name.replace("TE40", "TE40.5") for name in SERIES.feature_names]
    with pytest.warns(ProtocolWarning, match="TE 40.5 in place of 40 ms. For tissue"):
        moved = aligner.transform(pd.DataFrame(X[:, order], columns=np.array(near)[order]))
    np.testing.assert_array_equal(moved, X)


def test_named_columns_of_short_times_are_those_of_the_protocol():
    rock = AcquisitionProtocol.from_grid(ti=[0.1, 1, 15], te=[0.05, 2], units="ms")
    prior = TissuePrior(
        {"T1": PropertyRange(0.5, 9, units="ms"), "T2": PropertyRange(0.1, 3, units="ms")}
    )
    X = np.random.default_rng(0).normal(size=(5, 6))
    aligner = ProtocolAligner(rock, prior=prior).fit(X)
    named = pd.DataFrame(X[:, ::-1], columns=rock.feature_names[::-1])
    np.testing.assert_array_equal(aligner.transform(named), X)
