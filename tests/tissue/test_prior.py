"""Tissue priors and property ranges."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from scipy import stats

from corrsk import PropertyRange, TissuePrior
from corrsk.tissue.fractions import FRACTION_LAWS


def columns(tissue, name):
    return tissue.filter(regex=f"^{name}_").to_numpy()


def test_the_papers_prior():
    tissue, n_c = TissuePrior.named("midl2024").sample(40_001, random_state=0)
    assert tissue.columns.tolist() == [f"{q}_{i}" for q in ("T1", "T2", "f") for i in range(1, 5)]
    counts = np.bincount(n_c)[1:]
    assert counts.max() - counts.min() <= 1
    f, t1, t2 = (columns(tissue, name) for name in ("f", "T1", "T2"))
    present = np.arange(4) < n_c[:, None]
    assert ((f > 0) == present).all()
    assert (f[present] >= 0.05 - 1e-12).all()
    np.testing.assert_allclose(f.sum(axis=1), 1, atol=1e-12)
    assert (np.isnan(t1) == ~present).all()
    assert (np.isnan(t2) == ~present).all()
    for values, step, top in ((t1, 50, 5000), (t2, 5, 500)):
        levels, occurrences = np.unique(values[present], return_counts=True)
        np.testing.assert_array_equal(levels, np.arange(step, top + step, step))
        assert stats.chisquare(occurrences).pvalue > 1e-4


def test_fractions_are_uniform_on_the_floored_simplex():
    tissue, _ = TissuePrior(n_compartments=(3,), min_fraction=0.1).sample(20_000, 0)
    f = columns(tissue, "f")
    # the marginal of a flat Dirichlet of three is Beta(1, 2)
    assert stats.kstest((f[:, 0] - 0.1) / 0.7, stats.beta(1, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("law", FRACTION_LAWS)
def test_fraction_laws(law):
    tissue, n_c = TissuePrior(fraction_law=law, min_fraction=0.02).sample(5000, 0)
    f = columns(tissue, "f")
    np.testing.assert_allclose(f.sum(axis=1), 1, atol=1e-12)
    assert f[f > 0].min() >= 0.02 - 1e-12
    if law == "equal":
        np.testing.assert_allclose(f[:, 0], 1 / n_c)


def test_other_ranges_counts_and_diffusivity():
    prior = TissuePrior(
        ranges={
            "T1": PropertyRange(100, 3000),
            "T2": PropertyRange(1, 1000, scale="log"),
            "D": PropertyRange(0.2, 3.0),
        },
        n_compartments=(1, 2, 6),
    )
    tissue, n_c = prior.sample(9000, 0)
    assert tissue.shape == (9000, 24)
    assert np.unique(n_c).tolist() == [1, 2, 6]
    t2 = columns(tissue, "T2")
    t2 = t2[np.isfinite(t2)]
    assert stats.kstest(np.log(t2), stats.uniform(0, np.log(1000)).cdf).pvalue > 1e-3
    d = columns(tissue, "D")
    assert np.nanmin(d) >= 0.2
    assert np.nanmax(d) <= 3


def test_t2_below_t1():
    prior = TissuePrior.named("midl2024", t2_below_t1=True)
    tissue, _ = prior.sample(20_000, 0)
    t1, t2 = columns(tissue, "T1"), columns(tissue, "T2")
    assert (t2[np.isfinite(t2)] < t1[np.isfinite(t1)]).all()


def test_a_prior_without_grid_covers_the_cells_of_the_grid():
    prior = TissuePrior.named("midl2024", min_fraction=0.1).continuous()
    assert prior.min_fraction == 0.1
    assert prior.ranges["T1"] == PropertyRange(25.0, 5025.0)
    assert prior.ranges["T2"] == PropertyRange(2.5, 502.5)
    tissue, _ = prior.sample(20_000, random_state=0)
    t1 = columns(tissue, "T1")
    t1 = t1[np.isfinite(t1)]
    cells = np.bincount(np.rint(t1 / 50).astype(int), minlength=101)[1:]
    assert stats.chisquare(cells).pvalue > 1e-4  # as frequent as the values of the grid
    assert (t1 % 50 > 1).mean() > 0.9  # but not on the grid
    assert TissuePrior.named("t1t2-detr").continuous() == TissuePrior.named("t1t2-detr")
    assert PropertyRange(6.0, 106.0, step=10.0).continuous() == PropertyRange(1.0, 111.0)
    # a grid that starts within half a step of 0 stays positive
    assert PropertyRange(1.0, 101.0, step=10.0).continuous() == PropertyRange(0.5, 106.0)


def test_without_replacement():
    # four values for four compartments: each voxel is a permutation of them
    few = {"T1": PropertyRange(100, 400, step=100), "T2": PropertyRange(10, 50, step=10)}
    with_, _ = TissuePrior(ranges=few).sample(2000, 0)
    without, _ = TissuePrior(ranges=few, with_replacement=False).sample(2000, 0)

    def ties(tissue):
        values = np.sort(columns(tissue, "T1"), axis=1)
        return (np.diff(values, axis=1) == 0).any()

    assert ties(with_)
    assert not ties(without)
    first = columns(without, "T1")[:, 0]
    assert stats.chisquare(np.unique(first, return_counts=True)[1]).pvalue > 1e-4
    continuous, _ = TissuePrior(
        ranges={"T1": PropertyRange(100, 400)}, with_replacement=False
    ).sample(50, 0)
    assert not ties(continuous)


def test_the_same_seed_is_bit_identical_for_any_number_of_threads():
    prior = TissuePrior.named("midl2024")
    one, n_one = prior.sample(50_000, 3, n_jobs=1)
    two, n_two = prior.sample(50_000, 3, n_jobs=3)
    assert one.equals(two)
    np.testing.assert_array_equal(n_one, n_two)
    other, _ = prior.sample(50_000, 4)
    assert not one.equals(other)


def test_random_states_of_every_type():
    prior = TissuePrior.named("midl2024")
    for make in (np.random.RandomState, np.random.default_rng):
        assert prior.sample(10, make(0))[0].equals(prior.sample(10, make(0))[0])
        state = make(0)
        assert not prior.sample(10, state)[0].equals(prior.sample(10, state)[0])
    assert not prior.sample(10)[0].equals(prior.sample(10)[0])
    for bad in (-1, "seed", True):
        with pytest.raises(ValueError, match="random_state"):
            prior.sample(10, bad)


def test_priors_compare_by_value():
    prior = TissuePrior.named("midl2024", min_fraction=0.1)
    for twin in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior))):
        assert twin == prior
        assert hash(twin) == hash(prior)
    state = prior.__getstate__()  # plain types, for skops
    assert type(state) is type(state["ranges"]) is dict
    twin = TissuePrior.__new__(TissuePrior)
    twin.__setstate__(state)
    assert twin == prior
    with pytest.raises(TypeError):
        twin.ranges["T1"] = twin.ranges["T2"]
    assert prior != TissuePrior()
    turned = TissuePrior(ranges=dict(reversed(prior.ranges.items())), min_fraction=0.1)
    assert turned == prior
    assert hash(turned) == hash(prior)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ranges": {"T3": PropertyRange(1, 2)}}, "among T1, T2, D; got 'T3'"),
        ({"ranges": {"T1": (1, 2)}}, "must be a PropertyRange"),
        ({"ranges": {"T1": PropertyRange(0.05, 5)}}, "T1 must be in ms.*seconds"),
        ({"ranges": {"T2": PropertyRange(0.005, 0.5)}}, "T2 must be in ms.*seconds"),
        ({"ranges": {"D": PropertyRange(1e-4, 3e-3)}}, r"D must be in um\^2/ms.*mm\^2/s"),
        ({"n_compartments": (0, 1)}, "at least 1, got 0"),
        ({"n_compartments": 3}, "must be a tuple of counts"),
        ({"n_compartments": (1, 1)}, "distinct positive counts"),
        ({"min_fraction": 0.3}, "4 fractions can sum to 1"),
        ({"fraction_law": "gamma"}, "known fraction laws: dirichlet"),
        ({"ranges": {"T2": PropertyRange(10, 20)}, "t2_below_t1": True}, "both T1 and T2"),
        (
            {
                "ranges": {"T1": PropertyRange(10, 50), "T2": PropertyRange(50, 90)},
                "t2_below_t1": True,
            },
            "no T2 of the range lies below",
        ),
        (
            {"ranges": {"T1": PropertyRange(100, 300, step=100)}, "with_replacement": False},
            "4 different values of T1",
        ),
    ],
)
def test_bad_priors(arguments, message):
    with pytest.raises(ValueError, match=message):
        TissuePrior(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 2), "0 < low <= high"),
        ((0, 2), "0 < low <= high"),
        ((1, 2, None, "cubic"), "'linear' or 'log'"),
        ((1, 2, 0.3), "multiple of step"),
        ((1, 2, 0.5, "log"), "is linear"),
        ((1, 2, -1), "step must be positive"),
    ],
)
def test_bad_ranges(arguments, message):
    with pytest.raises(ValueError, match=message):
        PropertyRange(*arguments)


def test_unknown_name_and_no_samples():
    with pytest.raises(ValueError, match="known tissue priors: midl2024"):
        TissuePrior.named("brain")
    with pytest.raises(ValueError, match="at least 1"):
        TissuePrior().sample(0)
    for bad in (1e3, "1000", True):
        with pytest.raises(TypeError, match="n_samples must be an integer"):
            TissuePrior().sample(bad)


def test_an_almost_impossible_constraint_is_an_error():
    prior = TissuePrior(
        ranges={"T1": PropertyRange(5, 5000), "T2": PropertyRange(4999.999, 5000)},
        n_compartments=(4,), t2_below_t1=True,
    )  # fmt: skip
    with pytest.raises(ValueError, match="leaves too little"):
        prior.sample(5, 0)


@pytest.mark.parametrize("name", ["midl2024", "t1t2-detr"])
def test_a_prior_survives_the_conversion_to_plain_values(name):
    prior = TissuePrior.named(name, min_fraction=0.03)
    plain = json.loads(json.dumps(prior.to_dict()))
    assert TissuePrior.from_dict(plain) == prior
    for change, message in [
        ({"t1_below_t2": True}, "unknown entries of a prior: t1_below_t2; the entries .* t2_below"),
        ({"ranges": {"T3": {"low": 1, "high": 2}}}, "of ranges: T3; the entries .* T1, T2, D"),
        ({"ranges": {"T1": {"low": 50}}}, "the range of T1 lacks high"),
        ({"ranges": {"T1": {"low": 50, "hihg": 900}}}, "unknown entries of the range of T1: hihg"),
        ({"ranges": {"T1": [50, 900]}}, r"the range of T1 must be a mapping, got \[50, 900\]"),
        ({"ranges": {"T1": {"low": "50", "high": 900}}}, "low of a range must be a number.*'50'"),
        ({"n_compartments": 3}, "n_compartments must be a tuple"),
        ({"min_fraction": "small"}, "min_fraction must be a number, got 'small'"),
        ({"with_replacement": "no"}, "with_replacement must be True or False, got 'no'"),
    ]:
        with pytest.raises(ValueError, match=message):
            TissuePrior.from_dict(plain | change)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("T2", (0.08, 2.0), "T2 must be in ms.*seconds.*units='s'"),
        ("T2", (5e3, 5e5), "T2 must be in ms.*microseconds"),
        ("T1", (5e4, 5e6), "T1 must be in ms.*microseconds"),
        ("D", (100, 3000), r"D must be in um\^2/ms.*um\^2/s; multiply by 0.001"),
    ],
)
def test_ranges_in_another_unit_are_refused(name, values, message):
    with pytest.raises(ValueError, match=message):
        TissuePrior({name: PropertyRange(*values)})


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ((0.0005, 0.008), {"units": "s"}, (0.5, 8, None)),
        ((0.05, 5.0), {"units": "s", "step": 0.05}, (50, 5000, 50)),
        ((0.5, 8), {"units": "ms", "step": 0.5}, (0.5, 8, 0.5)),
        ((500, 8000), {"units": "us"}, (0.5, 8, None)),
    ],
)
def test_ranges_with_stated_units(values, options, expected):
    range_ = PropertyRange(*values, **options)
    assert (range_.low, range_.high, range_.step) == expected
    prior = TissuePrior({"T2": range_}, n_compartments=(1,))
    assert prior == TissuePrior({"T2": PropertyRange(*expected[:2], expected[2], units="ms")}, (1,))
    for again in (
        TissuePrior.from_dict(json.loads(json.dumps(prior.to_dict()))), copy.deepcopy(prior),
        pickle.loads(pickle.dumps(prior)),
    ):  # fmt: skip
        assert again == prior
        assert again.continuous().ranges["T2"].high > 0  # still not judged
    tissue, _ = prior.sample(50, 0)
    assert tissue["T2_1"].between(*expected[:2]).all()


def test_the_unit_of_a_range_must_be_one_of_the_property():
    with pytest.raises(ValueError, match=r"range of T1 is in um\^2/ms; T1 is a quantity in ms"):
        TissuePrior({"T1": PropertyRange(1e-4, 3e-3, units="mm^2/s")})
    assert TissuePrior({"D": PropertyRange(1e-4, 3e-3, units="mm^2/s")}).ranges["D"].high == 3
    with pytest.raises(ValueError, match="unknown unit 'weeks'; valid units are ms, s, us"):
        PropertyRange(1, 2, units="weeks")


def test_plain_values_of_a_prior_have_units_only_where_stated():
    assert "units" not in TissuePrior().to_dict()["ranges"]["T1"]
    stated = TissuePrior({"T2": PropertyRange(0.1, 5, units="ms")})
    assert stated.to_dict()["ranges"]["T2"]["units"] == "ms"


def test_noise_levels_of_samples_are_fractions():
    with pytest.raises(ValueError, match="for 5 % pass 0.05"):
        TissuePrior().sample(5, 0, noise_level=5)
