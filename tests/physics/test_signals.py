"""Kernels, signals and noise against closed forms and a slow implementation of Eq. 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corrsk import AcquisitionProtocol, physics


def slow_signal(protocol, tissue, fractions, tr=None, efficiency=1.0):
    """Compute Eq. 1, one measurement and compartment at a time, with Python floats."""
    signals, n = [], protocol.n_measurements
    for voxel, weights in enumerate(fractions):
        row = []
        for j in range(protocol.n_measurements):
            total = 0.0
            for i, f in enumerate(weights):
                if f == 0:
                    continue
                product = f
                if protocol.ti is not None:
                    t1 = tissue["T1"][voxel][i]
                    recovery = 0.0 if tr is None else math.exp(-np.broadcast_to(tr, n)[j] / t1)
                    if math.isinf(protocol.ti[j]):  # no inversion
                        bracket = 1 - recovery
                    else:
                        bracket = 1 - (1 + efficiency) * math.exp(-protocol.ti[j] / t1)
                        bracket += efficiency * recovery
                    product *= bracket
                if protocol.te is not None:
                    product *= math.exp(-protocol.te[j] / tissue["T2"][voxel][i])
                if protocol.b is not None:
                    product *= math.exp(-protocol.b[j] * tissue["D"][voxel][i])
                total += product
            row.append(total)
        signals.append(row)
    return np.array(signals)


def random_tissue(rng, n, n_compartments):
    fractions = rng.dirichlet(np.ones(n_compartments), n)
    fractions[::3, -1] = 0
    fractions /= fractions.sum(axis=1, keepdims=True)
    tissue = {
        "T1": rng.uniform(50, 5000, fractions.shape),
        "T2": rng.uniform(5, 500, fractions.shape),
        "D": rng.uniform(0.1, 3, fractions.shape),
    }
    for values in tissue.values():
        values[fractions == 0] = np.nan
    return tissue, fractions


def scattered(rng, n):
    return AcquisitionProtocol(ti=rng.uniform(30, 3000, n), te=rng.uniform(3, 200, n))


PROTOCOLS = {
    "T1-T2 grid": AcquisitionProtocol.named("ir-se-8x8"),
    "T2-D grid": AcquisitionProtocol.from_grid(te=[10, 30, 90], b=[0, 0.5, 1, 2]),
    "T1-T2-D grid": AcquisitionProtocol.from_grid(ti=[50, 500], te=[10, 60, 90], b=[0, 1.5]),
    "T1 alone": AcquisitionProtocol(ti=[2000, 50, 400]),
    "scattered": scattered(np.random.default_rng(5), 20),
    "shuffled grid with repeats": AcquisitionProtocol(
        ti=[400, 50, 400, 50, 400], te=[90, 10, 10, 90, 90]
    ),
    "grid with TI of 0 and infinity": AcquisitionProtocol.from_grid(
        ti=[0, 300, np.inf], te=[0, 30, 90]
    ),
    "two series": AcquisitionProtocol.concatenate(
        [AcquisitionProtocol(ti=[40, 300, 2000], te=10), AcquisitionProtocol(te=[10, 40, 90])]
    ),
}


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize(("tr", "efficiency"), [(None, 1.0), (4000.0, 0.9)])
def test_signals_equal_a_slow_implementation_of_eq_1(name, tr, efficiency):
    protocol = PROTOCOLS[name]
    tissue, fractions = random_tissue(np.random.default_rng(0), 7, 3)
    got = physics.correlation_signals(
        protocol.contrasts, tissue, fractions, tr=tr, inversion_efficiency=efficiency
    )
    expected = slow_signal(protocol, tissue, fractions, tr, efficiency)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("by", ["inversion time", "measurement"])
def test_one_tr_for_each_measurement(name, by):
    protocol = PROTOCOLS[name]
    rng = np.random.default_rng(3)
    if by == "measurement" or protocol.ti is None:
        tr = rng.uniform(3000, 9000, protocol.n_measurements)
    else:
        tr = 3000 + np.where(np.isinf(protocol.ti), 500, protocol.ti)
    tissue, fractions = random_tissue(rng, 7, 3)
    expected = slow_signal(protocol, tissue, fractions, tr, 0.9)
    got = physics.correlation_signals(
        protocol.contrasts, tissue, fractions, tr=tr, inversion_efficiency=0.9
    )
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)
    on_torch = physics.correlation_signals(
        protocol.contrasts,
        {name: torch.from_numpy(values) for name, values in tissue.items()},
        torch.from_numpy(fractions),
        tr=tr, inversion_efficiency=0.9,
    )  # fmt: skip
    np.testing.assert_allclose(on_torch.numpy(), expected, rtol=1e-12, atol=1e-14)


def test_tr_needs_one_entry_per_measurement():
    with pytest.raises(ValueError, match=r"one entry for each of the 3 measurements.*\(2,\)"):
        physics.SignalModel({"TI": np.array([50.0, 300, 900])}, tr=[4000, 5000])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_without_inversion_the_magnetisation_is_that_of_saturation_recovery(dtype):
    ti, t1 = np.array([np.inf, 400], dtype=dtype), np.array([[300.0], [2000]], dtype=dtype)
    full = physics.inversion_recovery(ti, t1, inversion_efficiency=0.9)
    assert full.dtype == dtype
    np.testing.assert_array_equal(full[:, 0], 1)
    steady = physics.inversion_recovery(ti, t1, tr=1500.0, inversion_efficiency=0.9)
    assert steady.dtype == dtype
    np.testing.assert_allclose(steady[:, 0], 1 - np.exp(-1500 / t1[:, 0]), rtol=1e-6)
    each = physics.inversion_recovery(ti, t1, tr=[1500, np.inf], inversion_efficiency=0.9)
    np.testing.assert_allclose(each[:, 0], steady[:, 0])
    np.testing.assert_allclose(each[:, 1], full[:, 1])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_torch_gives_the_same_signals_as_numpy(name):
    protocol = PROTOCOLS[name]
    tissue, fractions = random_tissue(np.random.default_rng(1), 5, 2)
    expected = physics.correlation_signals(protocol.contrasts, tissue, fractions, tr=9000.0)
    got = physics.correlation_signals(
        protocol.contrasts,
        {name: torch.from_numpy(values) for name, values in tissue.items()},
        torch.from_numpy(fractions),
        tr=9000.0,
    )
    assert isinstance(got, torch.Tensor)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_voxel_is_bit_identical_alone_and_among_others(name):
    model = physics.SignalModel(PROTOCOLS[name].contrasts, tr=9000.0)
    tissue, fractions = random_tissue(np.random.default_rng(2), 40, 4)
    tissue = {name: values.astype(np.float32) for name, values in tissue.items()}
    fractions = fractions.astype(np.float32)
    together = model(tissue, fractions)
    for rows in (slice(0, 1), slice(3, 20), slice(39, 40)):
        part = model({name: values[rows] for name, values in tissue.items()}, fractions[rows])
        np.testing.assert_array_equal(part, together[rows])


@pytest.mark.parametrize("name", ["T1-T2 grid", "T1-T2-D grid", "shuffled grid with repeats"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_table_look_ups_of_integers_are_bit_identical_to_kernels(name, dtype):
    model = physics.SignalModel(PROTOCOLS[name].contrasts, tr=9000.0)
    rng = np.random.default_rng(3)
    fractions = rng.dirichlet(np.ones(2), 400).astype(dtype)
    tissue = {
        "T1": rng.integers(2, 700, (400, 2)).astype(dtype),
        "T2": rng.integers(2, 300, (400, 2)).astype(dtype),
        "D": rng.integers(2, 5, (400, 2)).astype(dtype),
    }
    looked_up = model(tissue, fractions)
    assert model._tables
    for row in range(0, 400, 57):  # too few values for a table
        alone = {name: values[row : row + 1] for name, values in tissue.items()}
        computed = physics.SignalModel(PROTOCOLS[name].contrasts, tr=9000.0)
        expected = computed(alone, fractions[row : row + 1])
        assert not computed._tables
        np.testing.assert_array_equal(looked_up[row : row + 1], expected)


@pytest.mark.parametrize("value", [-3.0, 0.5, math.inf])
def test_values_outside_the_table_are_computed(value):
    model = physics.SignalModel(PROTOCOLS["T1-T2 grid"].contrasts)
    tissue = {"T1": np.full((50, 1), 20.0), "T2": np.full((50, 1), 30.0)}
    tissue["T2"][7] = value
    signals = model(tissue, np.ones((50, 1)))
    expected = np.exp(-PROTOCOLS["T1-T2 grid"].te / value)
    expected *= 1 - 2 * np.exp(-PROTOCOLS["T1-T2 grid"].ti / 20)
    np.testing.assert_allclose(signals[7], expected, rtol=1e-12)


def test_inversion_recovery_at_special_times():
    t1 = np.array([100.0, 1000.0])
    assert np.allclose(physics.inversion_recovery(0.0, t1), -1)
    np.testing.assert_allclose(physics.inversion_recovery(t1 * math.log(2), t1), 0, atol=1e-15)
    np.testing.assert_allclose(physics.inversion_recovery(t1 * 50, t1), 1)
    # inversion directly after the recovery from saturation over TR
    np.testing.assert_allclose(
        physics.inversion_recovery(0.0, t1, tr=700.0, inversion_efficiency=0.8),
        -0.8 * (1 - np.exp(-700.0 / t1)),
    )


def test_steady_state_equals_the_limit_of_the_bloch_equation():
    t1, ti, tr, eta = 900.0, 300.0, 2000.0, 0.93
    magnetisation = 0.3
    for _ in range(50):  # invert, recover over TI, excite by 90 degrees, recover over TR - TI
        magnetisation = 1 + (-eta * magnetisation - 1) * math.exp(-ti / t1)
        read_out = magnetisation
        magnetisation = 1 + (0 - 1) * math.exp(-(tr - ti) / t1)
    got = physics.inversion_recovery(ti, t1, tr=tr, inversion_efficiency=eta)
    assert float(got) == pytest.approx(read_out, rel=1e-12)


def test_decay_kernels_equal_exponentials():
    assert float(physics.spin_echo(80.0, 80.0)) == pytest.approx(math.exp(-1))
    assert float(physics.diffusion(2.0, 0.7)) == pytest.approx(math.exp(-1.4))
    assert float(physics.diffusion(0.0, 0.7)) == 1


@settings(max_examples=50, deadline=None)
@given(
    t1=st.floats(20, 5000), t2=st.floats(2, 3000), scale=st.floats(0.1, 0.9),
)  # fmt: skip
def test_signals_are_linear_in_the_fractions(t1, t2, scale):
    protocol = AcquisitionProtocol.named("ir-se-8x8")
    both = {"T1": np.array([[t1, 700.0]]), "T2": np.array([[t2, 60.0]])}
    mixed = physics.correlation_signals(protocol.contrasts, both, np.array([[scale, 1 - scale]]))
    first = physics.correlation_signals(protocol.contrasts, both, np.array([[1.0, 0.0]]))
    second = physics.correlation_signals(protocol.contrasts, both, np.array([[0.0, 1.0]]))
    np.testing.assert_allclose(mixed, scale * first + (1 - scale) * second, atol=1e-12)
    assert np.abs(mixed).max() <= 1


def test_the_dtype_is_kept():
    protocol = AcquisitionProtocol.named("ir-se-8x8")
    tissue = {"T1": np.array([[800.0]]), "T2": np.array([[80.0]])}
    for dtype in (np.float32, np.float64):
        signals = physics.correlation_signals(
            protocol.contrasts, tissue, np.ones((1, 1), dtype=dtype)
        )
        assert signals.dtype == dtype


@pytest.mark.parametrize(
    ("reference", "expected"), [("m0", [0.02, 0.02]), ("max", [0.08, 0.02]), ("rms", [0.05, 0.01])]
)
def test_noise_references(reference, expected):
    # rms of (4, 3, 0, 0) is 2.5, of the other 0.5
    signals = np.array([[-4.0, 3.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(physics.noise_sigma(signals, 0.02, reference), expected)


def test_unknown_noise_reference():
    with pytest.raises(ValueError, match=r"m0.*max.*rms.*'snr'"):
        physics.noise_sigma(np.ones((1, 2)), 0.01, "snr")


def test_gaussian_noise_has_the_stated_moments():
    rng = np.random.default_rng(0)
    clean = np.full((20_000, 8), 0.25)
    sigma = np.full(20_000, 0.1)
    noisy = physics.add_gaussian_noise(clean, sigma, rng.standard_normal(clean.shape))
    assert noisy.mean() == pytest.approx(0.25, abs=0.001)
    assert noisy.std() == pytest.approx(0.1, rel=0.01)
    again = rng.standard_normal(clean.shape)
    expected = physics.add_gaussian_noise(clean, sigma, again)
    np.testing.assert_allclose(
        physics.add_gaussian_noise(clean, sigma, again, overwrite_normals=True), expected
    )


def test_rician_noise_without_signal_is_rayleigh():
    rng = np.random.default_rng(0)
    real, imaginary = rng.standard_normal((2, 20_000, 8))
    sigma = np.full(20_000, 0.1)
    noisy = physics.add_rician_noise(np.zeros_like(real), sigma, real, imaginary)
    assert (noisy >= 0).all()
    assert noisy.mean() == pytest.approx(0.1 * math.sqrt(math.pi / 2), rel=0.01)
    assert (noisy**2).mean() == pytest.approx(2 * 0.1**2, rel=0.01)


def test_rician_noise_squared_has_the_second_moment_of_rice():
    rng = np.random.default_rng(1)
    real, imaginary = rng.standard_normal((2, 20_000, 4))
    noisy = physics.add_rician_noise(
        np.full_like(real, -0.5), np.full(20_000, 0.2), real, imaginary
    )
    assert (noisy**2).mean() == pytest.approx(0.5**2 + 2 * 0.2**2, rel=0.01)


@pytest.mark.parametrize(
    ("norm", "expected"), [("l2", [0.6, -0.8]), ("max", [0.75, -1]), ("rms", [0.6, -0.8])]
)
def test_normalisation(norm, expected):
    scale = math.sqrt(2) if norm == "rms" else 1
    got = physics.normalize_signals(np.array([[3.0, -4.0], [0.0, 0.0]]), norm)
    np.testing.assert_allclose(got, [np.multiply(expected, scale), [0, 0]])
    signals = np.array([[3.0, -4.0], [0.0, 0.0]])
    assert physics.normalize_signals(signals, norm, overwrite_signals=True) is signals
    np.testing.assert_array_equal(signals, got)


@pytest.mark.parametrize("norm", physics.NORMS)
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("dtype", "exponents"), [("float32", (-37, -22, 19, 37)), ("float64", (-300, -200, 160, 300))]
)
def test_norms_at_any_scale(norm, library, dtype, exponents):
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(5, 64)).astype(dtype)
    signals[0] = 0
    scales = np.array([1, *(10.0**exponent for exponent in exponents)], dtype)
    # each row at another scale; row 0 is background
    scaled = signals * scales[:, None]
    convert = np.asarray if library == "numpy" else torch.as_tensor
    precision = 1e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(
        np.asarray(physics.normalize_signals(convert(scaled), norm)),
        physics.normalize_signals(signals, norm),
        rtol=precision,
    )
    np.testing.assert_allclose(
        np.asarray(physics.signal_norm(convert(scaled), norm)),
        physics.signal_norm(signals, norm) * scales,
        rtol=precision,
    )
    own = convert(scaled.copy())
    assert physics.normalize_signals(own, norm, overwrite_signals=True) is own
    np.testing.assert_array_equal(own, physics.normalize_signals(convert(scaled), norm))


@pytest.mark.parametrize("norm", physics.NORMS)
def test_an_extreme_signal_leaves_the_bits_of_the_others(norm):
    rng = np.random.default_rng(1)
    ordinary = rng.normal(size=(50, 64)).astype(np.float32)
    extreme = np.float32(1e-25) * ordinary[:1]
    together = np.vstack([ordinary, extreme, np.zeros_like(extreme)])
    np.testing.assert_array_equal(
        physics.normalize_signals(together, norm)[:50], physics.normalize_signals(ordinary, norm)
    )
    np.testing.assert_array_equal(
        physics.signal_norm(together, norm)[:50], physics.signal_norm(ordinary, norm)
    )


def test_a_new_contrast_needs_one_kernel(contrasts):
    """T1rho (spin-lock) contrast from one kernel function, through every public call."""
    from corrsk import CorrelationSignalGenerator, PropertyRange, TissuePrior

    physics.register_contrast(physics.Contrast("TSL", "T1rho", physics.spin_echo))
    protocol = AcquisitionProtocol({"TE": [10, 10, 40, 40], "TSL": [5, 60, 5, 60]})
    prior = TissuePrior(
        ranges={"T2": PropertyRange(20, 200), "T1rho": PropertyRange(30, 300)},
        n_compartments=(1, 2),
    )
    tissue, _ = prior.sample(50, 0)
    generator = CorrelationSignalGenerator(protocol, noise_level=0, dtype="float64")
    got = generator.fit_transform(tissue)
    f, t2, t1rho = (
        tissue[[f"{name}_1", f"{name}_2"]].fillna(1).to_numpy() for name in ("f", "T2", "T1rho")
    )
    expected = (f * np.exp(-40 / t2) * np.exp(-5 / t1rho)).sum(axis=1)
    np.testing.assert_allclose(got[:, 2], expected)
    assert generator.get_feature_names_out()[2] == "TE40_TSL5"


def test_a_registered_contrast_cannot_be_replaced(contrasts):
    with pytest.raises(ValueError, match="registered already"):
        physics.register_contrast(physics.Contrast("TE", "T2star", physics.spin_echo))
    with pytest.raises(KeyError, match="unknown scan parameters"):
        physics.correlation_signals({"TX": [1.0]}, {}, np.ones((1, 1)))
