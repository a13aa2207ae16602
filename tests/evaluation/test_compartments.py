"""Metrics of estimated compartments, on tables whose metrics are known."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from corrsk import TissuePrior
from corrsk.evaluation import compartment_metrics, compartments_right

LIMITS = {"T1": (50.0, 3500.0), "T2": (5.0, 500.0)}


def table(*voxels):
    """Tissue table of voxels, each a list of (T1, T2, f)."""
    largest = max(len(voxel) for voxel in voxels)
    rows = []
    for voxel in voxels:
        row = {}
        for k in range(largest):
            values = voxel[k] if k < len(voxel) else (np.nan, np.nan, 0.0)
            row |= {f"{q}_{k + 1}": v for q, v in zip(("T1", "T2", "f"), values, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows)


TRUTH = table(
    [(1000, 100, 1.0)],
    [(1000, 100, 0.5), (300, 20, 0.5)],
    [(1000, 100, 0.6), (300, 20, 0.34), (2000, 300, 0.06)],
)


def test_the_truth_itself_is_right():
    assert compartments_right(TRUTH, TRUTH, LIMITS).all()
    found = compartment_metrics(TRUTH, TRUTH, LIMITS)
    for name in ("count_accuracy", "strict_accuracy", "strict_accuracy_with_fractions",
                 "average_precision", "precision", "recall", "f1", "matched"):  # fmt: skip
        assert found[name] == 1.0, name
    assert found["T1_error"] == found["T2_error_p90"] == found["f_error"] == 0.0


def test_the_order_of_compartments_does_not_matter():
    swapped = table(
        [(1000, 100, 1.0)],
        [(300, 20, 0.5), (1000, 100, 0.5)],
        [(2000, 300, 0.06), (300, 20, 0.34), (1000, 100, 0.6)],
    )
    assert compartments_right(swapped, TRUTH, LIMITS).all()
    assert compartment_metrics(swapped, TRUTH, LIMITS)["T1_error"] == 0.0


def test_tolerance_is_a_share_of_the_logarithmic_range():
    # 0.07 of the ranges: factors of 1.346 in T1 and 1.380 in T2
    for factor_1, factor_2, right in [(1.34, 1.37, True), (1.36, 1.0, False), (1.0, 1.39, False)]:
        for sign in (1, -1):
            one = table([(1000 * factor_1**sign, 100 * factor_2**sign, 1.0)])
            assert compartments_right(one, TRUTH[:1], LIMITS).tolist() == [right]
    assert compartments_right(one, TRUTH[:1], LIMITS, tolerance=0.2).all()


def test_every_true_compartment_must_be_found_once():
    twice = table(
        [(1000, 100, 0.5), (1010, 101, 0.5)],  # one too many
        [(1000, 100, 0.5), (1010, 101, 0.5)],  # the second is the first again
        [(1000, 100, 0.6), (300, 20, 0.4)],  # one is missing
    )
    assert not compartments_right(twice, TRUTH, LIMITS).any()
    found = compartment_metrics(twice, TRUTH, LIMITS)
    assert found["count_accuracy"] == pytest.approx(1 / 3)
    # four of six predictions find a new compartment, of six
    assert found["precision"] == found["recall"] == pytest.approx(4 / 6)
    assert found["matched"] == pytest.approx(5 / 6)


def test_fractions_count_where_asked_for():
    off = TRUTH.assign(f_1=[1.0, 0.6, 0.6], f_2=[0.0, 0.4, 0.34])
    assert compartments_right(off, TRUTH, LIMITS).all()
    three = compartments_right(off, TRUTH, LIMITS, with_fractions=True)
    assert three.tolist() == [True, False, True]
    assert compartment_metrics(off, TRUTH, LIMITS)[
        "strict_accuracy_with_fractions"
    ] == pytest.approx(2 / 3)


def test_average_precision_rewards_confidence_in_the_right_ones():
    one = table([(1000, 100, 1.0)], [(100, 50, 1.0)], [(1000, 100, 1.0)], [(60, 50, 1.0)])
    truth = table(*[[(1000, 100, 1.0)]] * 4)
    good = compartment_metrics(one, truth, LIMITS, confidence=[0.9, 0.2, 0.8, 0.1])
    bad = compartment_metrics(one, truth, LIMITS, confidence=[0.2, 0.9, 0.1, 0.8])
    # recall 0.5 at precision 1: 51 of 101 recalls
    assert good["average_precision"] == pytest.approx(51 / 101)
    # precisions 1/3 and 2/4 at recalls 0.25 and 0.5: interpolated 0.5
    assert bad["average_precision"] == pytest.approx(0.5 * 51 / 101)


def test_errors_are_medians_over_matched_pairs():
    off = table(
        [(1100, 100, 1.0)],
        [(1000, 90, 0.5), (330, 20, 0.5)],
        [(1000, 100, 0.6), (300, 20, 0.34), (1000, 300, 0.06)],
    )
    found = compartment_metrics(off, TRUTH, LIMITS)
    np.testing.assert_allclose(
        [found["T1_error"], found["T1_error_p90"], found["T1_error_faint"]],
        [np.median([0.1, 0, 0.1, 0, 0, 0.5]), np.quantile([0.1, 0, 0.1, 0, 0, 0.5], 0.9), 0.5],
        atol=1e-12,
    )  # fmt: skip
    assert found["f_error"] == 0.0


def by_hand(predicted, truth):
    """Assignment by loops, as the definition has it."""
    tau, spans = 0.07, (np.log(70), np.log(100))
    right = []
    for p, t in zip(predicted, truth, strict=True):
        claimed = []
        for T1, T2, _ in p:
            best, nearest = np.inf, None
            for k, (U1, U2, _) in enumerate(t):
                d1, d2 = abs(np.log(T1 / U1)) / spans[0], abs(np.log(T2 / U2)) / spans[1]
                if d1 <= tau and d2 <= tau and d1 + d2 < best:
                    best, nearest = d1 + d2, k
            claimed.append(nearest)
        right.append(
            len(p) == len(t) and sorted(map(str, claimed)) == sorted(map(str, range(len(t))))
        )
    return np.array(right)


def test_random_tables_against_loops():
    rng = np.random.default_rng(0)
    predicted, truth = [], []
    for _ in range(400):
        true = [(*np.exp(rng.uniform(np.log([50, 5]), np.log([3500, 500]))), 0.5)
                for _ in range(rng.integers(1, 4))]  # fmt: skip
        other = [(T1 * np.exp(rng.normal(0, 0.15)), T2 * np.exp(rng.normal(0, 0.15)), f)
                 for T1, T2, f in true]  # fmt: skip
        truth.append(true)
        predicted.append(other[: rng.integers(1, 4)])
    found = compartments_right(table(*predicted), table(*truth), LIMITS)
    np.testing.assert_array_equal(found, by_hand(predicted, truth))
    assert 0.1 < found.mean() < 0.9


def test_voxels_without_compartments_are_wrong():
    none = table([(np.nan, np.nan, 0.0)], [], [])
    assert not compartments_right(none, TRUTH, LIMITS).any()
    found = compartment_metrics(none, TRUTH, LIMITS)
    assert found["recall"] == found["f1"] == found["average_precision"] == found["matched"] == 0.0
    assert np.isnan(found["T1_error"])


def test_tables_of_a_prior_are_accepted():
    tissue, _ = TissuePrior.named("midl2024").sample(50, random_state=0)
    assert compartments_right(tissue, tissue, LIMITS).mean() > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predicted": TRUTH[:2]}, "same number of rows; got 2 and 3"),
        ({"predicted": TRUTH[:0], "truth": TRUTH[:0]}, "no voxels"),
        ({"predicted": TRUTH.drop(columns="T2_2")}, "'predicted' has no columns T2_2"),
        ({"truth": TRUTH[["T1_1"]]}, "'truth' has no columns f_1"),
        ({"limits": {"T1": (3500, 50)}}, "limits of T1 must be positive, finite and ascending"),
        ({"limits": {}}, "at least one property"),
        ({"tolerance": 0.0}, "tolerance must be positive, got 0.0"),
        ({"predicted": TRUTH.assign(T1_1=-1.0)}, "T1_1 of row 0 .* is -1.0, but must be positive"),
        ({"confidence": [1.0]}, "confidence must be finite"),
        ({"confidence": [1.0, np.nan, 1.0]}, "confidence must be finite"),
    ],
)
def test_bad_input(change, message):
    arguments = {"predicted": TRUTH, "truth": TRUTH, "limits": LIMITS} | change
    with pytest.raises(ValueError, match=message):
        compartment_metrics(**arguments)


def test_all_orders_of_three_compartments_are_right():
    voxel = [(1000, 100, 0.6), (300, 20, 0.34), (2000, 300, 0.06)]
    for order in itertools.permutations(voxel):
        assert compartments_right(
            table(list(order)), TRUTH[2:].reset_index(drop=True), LIMITS
        ).all()
