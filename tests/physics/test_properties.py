"""Properties that signals must have whatever their tissue and protocol: limits, symmetry, signs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corrsk import physics

fast = settings(max_examples=60, deadline=None, database=None, derandomize=True)
# numbers of voxels, compartments and measurements, and the seed of their values
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 6), st.integers(0, 2**32))
EFFICIENCY = st.floats(0.5, 1.0)
EXPONENT = st.integers(-30, 30)


def drawn(sizes):
    """Protocol, tissue and fractions, from extreme to extreme."""
    n, n_compartments, n_measurements, seed = sizes
    rng = np.random.default_rng(seed)

    def between(low, high, shape):
        return np.exp(rng.uniform(np.log(low), np.log(high), shape))

    measurements = {
        "TI": np.sort(between(1e-3, 1e6, n_measurements)),
        "TE": np.sort(between(1e-3, 1e4, n_measurements)),
        "b": np.sort(between(1e-3, 1e2, n_measurements)),
    }
    shape = n, n_compartments
    tissue = {
        "T1": between(1e-2, 1e6, shape), "T2": between(1e-2, 1e5, shape),
        "D": between(1e-3, 10, shape),
    }  # fmt: skip
    return measurements, tissue, rng.dirichlet(np.ones(n_compartments), n)


def only(name, measurements):
    return {name: measurements[name]}


@fast
@given(SIZES, EFFICIENCY, st.randoms(use_true_random=False))
def test_the_order_of_compartments_does_not_matter(sizes, efficiency, random):
    measurements, tissue, fractions = drawn(sizes)
    order = list(range(fractions.shape[1]))
    random.shuffle(order)
    arguments = {"tr": 1e4, "inversion_efficiency": efficiency}
    signals = physics.correlation_signals(measurements, tissue, fractions, **arguments)
    other = {name: values[:, order] for name, values in tissue.items()}
    again = physics.correlation_signals(measurements, other, fractions[:, order], **arguments)
    np.testing.assert_allclose(again, signals, rtol=0, atol=1e-14)


@fast
@given(SIZES, st.floats(0, 1))
def test_a_compartment_can_be_divided_into_equal_ones(sizes, share):
    measurements, tissue, fractions = drawn(sizes)
    signals = physics.correlation_signals(measurements, tissue, fractions)
    twice = {name: np.concatenate([values, values], axis=1) for name, values in tissue.items()}
    parts = np.concatenate([share * fractions, (1 - share) * fractions], axis=1)
    again = physics.correlation_signals(measurements, twice, parts)
    np.testing.assert_allclose(again, signals, rtol=0, atol=1e-14)


@fast
@given(SIZES, EXPONENT)
def test_signals_are_proportional_to_the_fractions_at_any_scale(sizes, exponent):
    measurements, tissue, fractions = drawn(sizes)
    signals = physics.correlation_signals(measurements, tissue, fractions)
    scaled = physics.correlation_signals(measurements, tissue, fractions * 10.0**exponent)
    np.testing.assert_allclose(scaled * 10.0**-exponent, signals, rtol=1e-13, atol=1e-14)


@fast
@given(SIZES, EXPONENT, EFFICIENCY)
def test_signals_do_not_depend_on_the_unit_of_time(sizes, exponent, efficiency):
    measurements, tissue, fractions = drawn(sizes)
    scale = 10.0**exponent
    signals = physics.correlation_signals(
        measurements, tissue, fractions, tr=3e3, inversion_efficiency=efficiency
    )
    again = physics.correlation_signals(
        {"TI": measurements["TI"] * scale, "TE": measurements["TE"] * scale,
         "b": measurements["b"] / scale},
        {name: values * scale for name, values in tissue.items()},
        fractions, tr=3e3 * scale, inversion_efficiency=efficiency,
    )  # fmt: skip
    np.testing.assert_allclose(again, signals, rtol=1e-9, atol=1e-13)


@fast
@given(SIZES, EFFICIENCY, st.one_of(st.none(), st.floats(1, 1e6)))
def test_signals_are_between_the_inverted_and_the_whole_magnetisation(sizes, efficiency, tr):
    measurements, tissue, fractions = drawn(sizes)
    signals = physics.correlation_signals(
        measurements, tissue, fractions, tr=tr, inversion_efficiency=efficiency
    )
    assert np.isfinite(signals).all()
    # with a TR below TI the steady state is that of no experiment, but still bounded
    highest = 1.0 if tr is None else 1.0 + efficiency
    assert (signals <= highest + 1e-12).all()
    assert (signals >= -efficiency - 1e-12).all()


@fast
@given(SIZES)
def test_decays_are_positive_and_fall_with_te_and_b(sizes):
    measurements, tissue, fractions = drawn(sizes)
    for name in ("TE", "b"):
        signals = physics.correlation_signals(only(name, measurements), tissue, fractions)
        assert (signals >= 0).all()
        assert (np.diff(signals, axis=1) <= 1e-15).all()


@fast
@given(SIZES)
def test_a_sum_of_decays_is_convex_in_its_logarithm(sizes):
    """No mixture of compartments falls faster and faster: Hoelder's inequality."""
    _, tissue, fractions = drawn(sizes)
    times = np.linspace(0, 5 * np.median(tissue["T2"]), 9)
    signals = physics.correlation_signals({"TE": times}, tissue, fractions)
    assert (signals[:, 2:] * signals[:, :-2] >= signals[:, 1:-1] ** 2 * (1 - 1e-12)).all()


@fast
@given(SIZES, EFFICIENCY)
def test_recovery_rises_with_ti_through_its_zero(sizes, efficiency):
    measurements, tissue, _ = drawn(sizes)
    n = len(tissue["T1"])
    one = {"T1": tissue["T1"][:, :1]}
    signals = physics.correlation_signals(
        only("TI", measurements), one, np.ones((n, 1)), inversion_efficiency=efficiency
    )
    assert (np.diff(signals, axis=1) >= -1e-15).all()
    for row, t1 in enumerate(one["T1"][:, 0]):
        null = t1 * np.log(1 + efficiency)
        sides = physics.correlation_signals(
            {"TI": np.array([0.999 * null, null, 1.001 * null])}, {"T1": np.array([[t1]])},
            np.ones((1, 1)), inversion_efficiency=efficiency,
        )[0]  # fmt: skip
        assert sides[0] < 0 < sides[2], row
        assert abs(sides[1]) < 1e-12


@fast
@given(SIZES, EFFICIENCY)
def test_limits_of_short_and_long_times(sizes, efficiency):
    _, tissue, fractions = drawn(sizes)

    def at(tr=None, **measurements):
        given = {name: np.array([value]) for name, value in measurements.items()}
        return physics.correlation_signals(
            given, tissue, fractions, tr=tr, inversion_efficiency=efficiency
        )[:, 0]

    np.testing.assert_allclose(at(TI=0.0), -efficiency, rtol=1e-12)
    np.testing.assert_allclose(at(TI=1e12), 1.0, rtol=1e-12)
    np.testing.assert_allclose(at(TE=0.0, b=0.0), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(at(TE=1e12), 0.0)
    np.testing.assert_array_equal(at(b=1e12), 0.0)
    # nothing has recovered after a repetition time of zero, and all after an infinite one
    np.testing.assert_allclose(at(tr=1e15, TI=500.0), at(TI=500.0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(at(tr=np.inf, TI=500.0), at(TI=500.0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(at(tr=1e-12, TI=np.inf), 0.0, atol=1e-9)
    # extreme tissue: infinitely slow and infinitely fast
    still = {name: np.full_like(values, 1e300) for name, values in tissue.items()}
    fast_decay = {name: np.full_like(values, 1e-300) for name, values in tissue.items()}
    for extreme, expected in ((still, 1.0), (fast_decay, 0.0)):
        found = physics.correlation_signals({"TE": np.array([50.0])}, extreme, fractions)[:, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["big-endian", "single", "Fortran", "strided", "reversed", "read"])
def test_any_array_gives_the_same_signals(kind):
    measurements, tissue, fractions = drawn((3, 4, 6, 7))
    expected = physics.correlation_signals(measurements, tissue, fractions, tr=3e3)

    def changed(values):
        match kind:
            case "big-endian":
                return values.astype(values.dtype.newbyteorder(">"))
            case "single":
                return values.astype(np.float32)
            case "Fortran":
                return np.asfortranarray(values)
            case "strided":
                return np.repeat(values, 2, axis=-1)[..., ::2]
            case "reversed":
                return np.ascontiguousarray(values[..., ::-1])[..., ::-1]
        copy = values.copy()
        copy.setflags(write=False)
        return copy

    found = physics.correlation_signals(
        {name: changed(values) for name, values in measurements.items()},
        {name: changed(values) for name, values in tissue.items()},
        changed(fractions), tr=3e3,
    )  # fmt: skip
    if kind == "single":
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2e-6)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["scattered", "grid", "integers", "echo train"])
@pytest.mark.parametrize("n_voxels", [0, 1])
def test_no_voxels_and_one(kind, n_voxels):
    measurements, tissue, fractions = drawn((3, 4, 6, 7))
    readout = None
    if kind == "echo train":
        measurements = {"TE": np.arange(10.0, 70, 10)}
        readout = physics.EchoTrain(10)
    elif kind != "scattered":
        grid = np.meshgrid([50.0, 400], [10.0, 20, 30], [0.0, 1], indexing="ij")
        measurements = dict(zip(("TI", "TE", "b"), map(np.ravel, grid), strict=True))
    if kind == "integers":
        tissue = {name: np.ceil(values) for name, values in tissue.items()}
    expected = physics.correlation_signals(measurements, tissue, fractions, readout=readout)
    found = physics.correlation_signals(
        measurements, {name: values[:n_voxels] for name, values in tissue.items()},
        fractions[:n_voxels], readout=readout,
    )  # fmt: skip
    assert found.shape == (n_voxels, len(measurements["TE"]))
    np.testing.assert_array_equal(found, expected[:n_voxels])


@fast
@given(SIZES, EXPONENT, st.sampled_from(["m0", "max", "rms"]))
def test_noise_follows_the_scale_of_the_signals(sizes, exponent, reference):
    measurements, tissue, fractions = drawn(sizes)
    signals = physics.correlation_signals(measurements, tissue, fractions)
    levels = np.full(len(signals), 0.03)
    sigma = physics.noise_sigma(signals, levels, reference)
    assert (sigma >= 0).all()
    scaled = physics.noise_sigma(signals * 10.0**exponent, levels, reference)
    if reference == "m0":  # the fractions have the scale, not the signals
        np.testing.assert_array_equal(scaled, sigma)
    else:
        np.testing.assert_allclose(scaled * 10.0**-exponent, sigma, rtol=1e-12, atol=1e-30)


@fast
@given(SIZES, st.floats(0.01, 0.2), st.integers(1, 8))
def test_magnitudes_are_positive_and_symmetric_in_the_sign(sizes, sigma, n_coils):
    measurements, tissue, fractions = drawn(sizes)
    signals = physics.correlation_signals(measurements, tissue, fractions)
    means = physics.magnitude_mean(signals, sigma, n_coils)
    assert (means > 0).all()
    np.testing.assert_array_equal(physics.magnitude_mean(-signals, sigma, n_coils), means)
    # noise raises a magnitude, and more channels raise it further
    assert (means >= np.abs(signals)).all()
    assert (physics.magnitude_mean(signals, sigma, n_coils + 1) > means).all()
