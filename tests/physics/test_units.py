"""Values in a wrong unit are refused at both ends; stated units are believed and converted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from corrsk import SNRRange
from corrsk.physics import CONTRASTS, Contrast, check_tissue_unit, spin_echo
from corrsk.physics.contrasts import scan_quantities, tissue_quantity
from corrsk.physics.noise_levels import checked_noise_levels
from corrsk.physics.units import Quantity, shifted, units_by_name

QUANTITIES = scan_quantities() | {c.tissue: c.tissue_quantity for c in CONTRASTS.values()}
# largest values of usual protocols and tissue, and the same numbers in the units of other tools
USUAL = {
    "TI": ([1500, 15_000], {"s": 1e-3, "us": 1e3}),
    "TE": ([8, 2000], {"s": 1e-3}),
    "tr": ([200, 20_000], {"s": 1e-3, "us": 1e3}),
    "b": ([0.8, 10], {"s/mm^2": 1e3, "s/m^2": 1e9}),
    "T1": ([200, 5000], {"s": 1e-3, "us": 1e3}),
    "T2": ([80, 2000], {"s": 1e-3, "us": 1e3}),
    "D": ([0.5, 5], {"mm^2/s": 1e-3, "um^2/s": 1e3}),
}


@pytest.mark.parametrize("name", USUAL)
def test_the_usual_values_are_accepted_and_other_units_named(name):
    quantity = QUANTITIES[name]
    largest, others = USUAL[name]
    for value in largest:
        quantity.check(value)
        for unit, factor in others.items():
            with pytest.raises(ValueError, match="must be in") as refused:
                quantity.check(value * factor)
            assert f"units={unit!r}" in str(refused.value)
            assert f"units={quantity.unit!r}" in str(refused.value)


def test_zero_has_no_unit():
    for quantity in QUANTITIES.values():
        quantity.check(0.0)
        assert quantity.converted(np.array([0.0, math.inf]), None).tolist() == [0, math.inf]


def test_a_value_in_no_likely_unit_is_refused_without_a_conversion():
    with pytest.raises(ValueError, match=r"b must be in ms/um\^2; a largest value of 1e-05.*units"):
        QUANTITIES["b"].check(1e-5)


def test_conversions_are_exact_in_decimals():
    te = QUANTITIES["TE"]
    seconds = np.array([0.0, 0.0045, 0.0075, 0.029, 0.057, math.inf])
    np.testing.assert_array_equal(te.converted(seconds, "s"), [0, 4.5, 7.5, 29, 57, math.inf])
    assert te.converted(seconds, "ms") is seconds
    b = QUANTITIES["b"].converted(np.array([0.0, 50, 300, 700, 800]), "s/mm²")
    np.testing.assert_array_equal(b, [0, 0.05, 0.3, 0.7, 0.8])
    np.testing.assert_array_equal(QUANTITIES["TI"].converted(np.array([1.1e6]), "µs"), [1100])
    assert shifted(1e-05, 3) == 0.01


def test_units_by_name():
    quantities = scan_quantities()
    assert units_by_name(None, quantities) == {}
    assert units_by_name("s", quantities) == {"TI": "s", "TE": "s", "tr": "s"}
    assert units_by_name({"te": "s", "B": "s/mm2"}, quantities) == {"TE": "s", "b": "s/mm2"}
    with pytest.raises(ValueError, match="units='km' is no unit of TI, TE, b, tr; valid units are"):
        units_by_name("km", quantities)
    with pytest.raises(ValueError, match="units has 'T2'; valid names are TI, TE, b, tr"):
        units_by_name({"T2": "s"}, quantities)
    with pytest.raises(TypeError, match="must be a unit such as 'ms'"):
        units_by_name(1000, quantities)
    with pytest.raises(TypeError, match="a unit must be a string"):
        units_by_name({"TE": 1000}, quantities)


def test_a_contrast_of_your_own_has_its_own_bounds():
    contrast = Contrast("TSL", "T1rho", spin_echo, smallest_maximum=1.0, largest_maximum=500.0)
    assert contrast.scan_quantity == Quantity("TSL", "ms", 1.0, 500.0)
    with pytest.raises(ValueError, match="TSL must be in ms.*seconds"):
        contrast.scan_quantity.check(0.04)
    contrast.tissue_quantity.check(1e-9)  # no bounds


def test_the_earlier_parameters_of_a_contrast_warn():
    with pytest.warns(FutureWarning, match="zero_allowed of Contrast is now absent=0.0"):
        assert Contrast("x", "y", spin_echo, zero_allowed=True).absent == 0
    with pytest.warns(FutureWarning, match="largest_minimum of Contrast is now largest_maximum"):
        assert Contrast("x", "y", spin_echo, largest_minimum=7.0).largest_maximum == 7
    with pytest.warns(FutureWarning, match="wrong_unit of Contrast is ignored"):
        Contrast("x", "y", spin_echo, wrong_unit="weeks")


def test_tissue_properties():
    check_tissue_unit("T1", 900.0)
    with pytest.raises(ValueError, match="T2 must be in ms.*2 can only be in seconds"):
        check_tissue_unit("T2", 2.0)
    with pytest.raises(ValueError, match="T2 must be in ms.*microseconds"):
        check_tissue_unit("T2", 80_000.0)
    with pytest.raises(ValueError, match="unknown tissue property 'T3'"):
        tissue_quantity("T3")


@pytest.mark.parametrize("level", [50, 5, (1, 2, 3), (0.01, 1.5)])
def test_a_noise_level_above_1_is_refused(level):
    with pytest.raises(ValueError, match=r"is a fraction.*%.*1/.*SNRRange\("):
        checked_noise_levels(level)


def test_noise_levels_up_to_1_and_ratios_from_1_are_accepted():
    assert checked_noise_levels((0, 1.0)).tolist() == [0, 1]
    assert SNRRange(1, 50).low == 1
    with pytest.raises(ValueError, match="0.02 is below 1; for noise levels"):
        SNRRange(0.02, 0.05)
