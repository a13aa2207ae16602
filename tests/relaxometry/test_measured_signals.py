"""Fits of signals as scanners measure them: magnitudes, imperfect pulses, two series."""

import warnings

import numpy as np
import pytest

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    EchoTrain,
    MultiExponentialClassifier,
    NNLSPeakClassifier,
    NNLSSpectrum,
    Nuisances,
    SignalPhaser,
    TissuePrior,
    estimate_noise,
    load,
    save,
)
from corrsk.physics import SliceProfile
from corrsk.preprocessing._shapes import signal_shapes
from corrsk.relaxometry import CalibrationWarning
from corrsk.relaxometry._kernels import KernelModel
from corrsk.relaxometry._varpro import linearise
from corrsk.relaxometry.calibration import calibrate_pulses

COUNTS = {"counts": (1, 2, 3), "random_state": 0, "verbose": False}
EFFICIENCY = Nuisances(inversion_efficiency=(0.7, 1.0))
TRAIN = EchoTrain(10.0, refocusing_angle=150.0, profile=SliceProfile(0.95, 1.8, 1.5, 12.0))
INVERSION = AcquisitionProtocol(ti=[50, 150, 400, 900, 1800, 3000], te=10, tr=6000)
JOINED = AcquisitionProtocol.concatenate(
    [INVERSION, AcquisitionProtocol(te=10.0 * np.arange(1, 17), tr=3000, readout=TRAIN)],
    same_gain=False,
)
NOMINAL = AcquisitionProtocol.concatenate(
    [INVERSION, AcquisitionProtocol(te=10.0 * np.arange(1, 17), tr=3000, readout=EchoTrain(10.0))],
    same_gain=False,
)


def tissue_of(n, counts=(1, 2, 3), seed=0, **columns):
    tissue, n_c = TissuePrior.named("t1t2-detr", n_compartments=counts).sample(n, random_state=seed)
    return tissue.assign(**columns), n_c


def signals_of(tissue, protocol="ir-se-8x8", noise_level=0.003, **options):
    generator = CorrelationSignalGenerator(
        protocol, noise_level=noise_level, random_state=0, verbose=False, **options
    )
    return generator.fit_transform(tissue)


@pytest.mark.parametrize(
    ("protocol", "nuisances"),
    [
        (AcquisitionProtocol.named("ir-se-8x8"), {"inversion_efficiency": (0.7, 1.0)}),
        (
            JOINED.in_grid_order(),
            {"inversion_efficiency": (0.7, 1.0), "b1": (0.7, 1.3), "gain": (0.5, 2.0)},
        ),
        (JOINED.in_grid_order(), {"offset": (-0.2, 0.2), "gain": (0.5, 2.0)}),
        (AcquisitionProtocol.named("ir-se-8x8"), {"offset": (-0.2, 0.2)}),
        (AcquisitionProtocol(te=10.0 * np.arange(1, 9), readout=TRAIN), {"b1": (0.7, 1.3)}),
    ],
)
def test_the_gradient_is_that_of_the_residual(protocol, nuisances):
    bounds = dict.fromkeys(protocol.tissue_properties, (20.0, 3000.0))
    model = KernelModel(protocol, bounds, 0.95, nuisances)
    rng = np.random.default_rng(0)
    P, Q, K = len(bounds), len(nuisances), 2
    theta = np.log(rng.uniform([200, 50][-P:], [2000, 150][-P:], (1, K, P)))
    full = model.with_nuisances(theta, np.log(np.linspace(0.85, 0.95, Q)))
    x = model.signals(model.factors(full), np.array([[0.6, 0.4]]))
    x = x + rng.normal(0, 0.02, x.shape)

    def half_residual(flat):
        values = flat[: P * K].reshape(P, K).T[None]
        state = linearise(model, model.with_nuisances(values, flat[P * K :]), x)
        return state.rss[0] / 2

    flat = np.concatenate([theta[0].T.ravel(), full[0, 0, P:]])
    gradient = linearise(model, full, x).gradient[0]
    step = 1e-3  # longer than that of the kernel's own differences, and than the table is rough
    numeric = [
        (half_residual(flat + step * unit) - half_residual(flat - step * unit)) / (2 * step)
        for unit in np.eye(flat.size)
    ]
    scale = np.abs(numeric).max()
    # interpolated echoes have slopes that jump by about a hundredth
    np.testing.assert_allclose(gradient, numeric, atol=0.03 * scale)


def test_imperfect_inversion_does_not_add_compartments():
    tissue, _ = tissue_of(60, counts=(1,), inversion_efficiency=0.95)
    X = signals_of(tissue, noise_level=0.001)
    plain = MultiExponentialClassifier("ir-se-8x8", **COUNTS).fit(X)
    fitted = MultiExponentialClassifier("ir-se-8x8", nuisances=EFFICIENCY, **COUNTS).fit(X)
    assert (plain.predict(X) > 1).mean() > 0.5
    assert (fitted.predict(X) == 1).mean() > 0.8
    table = fitted.estimate_compartments(X, 1)
    # 60 voxels at 0.1 % noise: the median is exact to far less than 0.01
    assert abs(table["inversion_efficiency"].median() - 0.95) < 0.01


@pytest.mark.filterwarnings("ignore:.* voxels are not explained")
def test_magnitudes_are_counted_as_well_as_signed_signals():
    tissue, n_c = tissue_of(150, inversion_efficiency=0.9)
    signed = signals_of(tissue)
    magnitudes = signals_of(tissue, noise_distribution="rician")
    right = []
    for X, distribution in ((signed, "gaussian"), (magnitudes, "rician")):
        model = MultiExponentialClassifier(
            "ir-se-8x8", nuisances=EFFICIENCY, noise_distribution=distribution, **COUNTS
        ).fit(X)
        right.append(model.predict(X) == n_c)
    # both have other noise: the difference has a standard deviation of 0.03 in 150 voxels
    assert abs(right[0].mean() - right[1].mean()) < 0.1
    assert right[1].mean() > 0.7


def test_an_offset_does_not_add_compartments():
    tissue, _ = tissue_of(60, counts=(1,), offset=0.03)
    X = signals_of(tissue, noise_level=0.001)
    offset = Nuisances(offset=(-0.1, 0.1))
    plain = MultiExponentialClassifier("ir-se-8x8", **COUNTS).fit(X)
    fitted = MultiExponentialClassifier("ir-se-8x8", nuisances=offset, **COUNTS).fit(X)
    assert (plain.predict(X) > 1).mean() > 0.8
    assert (fitted.predict(X) == 1).mean() > 0.8
    table = fitted.estimate_compartments(X, 1)
    # relative to M0, which is 1; 60 voxels at 0.1 % noise
    assert abs(table["offset"].median() - 0.03) < 0.003
    assert abs(table["scale"].median() - 1) < 0.01


@pytest.mark.filterwarnings("ignore:.* voxels are not explained")
def test_the_noise_floor_of_several_coils_does_not_add_compartments():
    te = 10.0 * np.arange(1, 33)
    n_coils, sigma = 4, 0.05
    channels = sigma * np.random.default_rng(0).normal(size=(2 * n_coils, 100, te.size))
    channels[0] += np.exp(-te / 60)
    X = np.sqrt((channels**2).sum(axis=0))
    one, t2 = {}, {}
    for number in (1, n_coils):
        model = MultiExponentialClassifier(
            AcquisitionProtocol(te=te), criterion="bic", counts=(1, 2), random_state=0,
            verbose=False, noise_distribution="rician", n_coils=number,
        ).fit(X)  # fmt: skip
        one[number] = (model.predict(X) == 1).mean()
        t2[number] = model.estimate_compartments(X, 1)["T2_1"].median()
    assert one[1] < 0.2
    assert one[n_coils] > 0.7
    # the standard error of the median of 100 voxels is 1
    assert t2[1] > 75
    assert abs(t2[n_coils] - 60) < 8


@pytest.mark.parametrize(
    ("n_coils", "distribution", "message"),
    [(0, "rician", "from 1 to 32"), (4, "gaussian", "needs noise_distribution='rician'")],
)
def test_impossible_numbers_of_coils_are_refused(n_coils, distribution, message):
    model = MultiExponentialClassifier(
        "ir-se-8x8", n_coils=n_coils, noise_distribution=distribution, **COUNTS
    )
    with pytest.raises(ValueError, match=message):
        model.fit(np.ones((3, 64)))


def test_the_noise_floor_of_magnitudes_does_not_add_compartments():
    te = 10.0 * np.arange(1, 33)
    protocol = AcquisitionProtocol(te=te)
    tissue, _ = tissue_of(100, counts=(1,), T2_1=50.0, T1_1=1000.0)
    X = signals_of(tissue, protocol, noise_level=0.02, noise_distribution="rician")
    shares = [
        (
            MultiExponentialClassifier(
                protocol, criterion="bic", noise_distribution=distribution, **COUNTS
            ).fit(X).predict(X) == 1
        ).mean()
        for distribution in ("gaussian", "rician")
    ]  # fmt: skip
    assert shares[0] < 0.5
    assert shares[1] > 0.85


@pytest.fixture(scope="module")
def image():
    """Magnitudes of an image: mostly one compartment, imperfect pulses, another gain."""
    tissue, _ = tissue_of(240, counts=(1,), inversion_efficiency=0.93, gain=1.3, scale=500.0)
    # a phantom: twelve tissues
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 12, 240)
    t2 = np.geomspace(20, 300, 12)[kind]
    tissue = tissue.assign(T2_1=t2, T1_1=4 * t2)
    X = signals_of(tissue, JOINED, noise_level=0.002, noise_distribution="rician")
    return X, tissue


@pytest.fixture(scope="module")
def calibrated(image):
    X, _ = image
    model = MultiExponentialClassifier(
        NOMINAL, criterion="bic", noise_distribution="rician", **COUNTS
    )
    return model.fit(X).calibrate(X)


@pytest.mark.slow
def test_a_calibration_finds_the_pulses(image, calibrated):
    found = calibrated.calibration_
    assert found.magnitude
    assert abs(found.inversion_efficiency - 0.93) < 0.01
    assert abs(found.gain - 1.3) < 0.02
    assert found.residual < 0.002 < 0.01 < found.residual_before
    assert "refocusing angle" in str(found)
    # the pulses themselves are not unique, but the echoes that they give are
    train = next(one for one in found.protocol.readout if one is not None)
    echoes, exact = (one.amplitudes(16, 400.0, 80.0) for one in (train, TRAIN))
    np.testing.assert_allclose(echoes, exact * (echoes @ exact) / (exact @ exact), atol=0.005)


@pytest.mark.parametrize("counts", [(1,), (2,)])
def test_a_calibration_on_voxels_of_two_compartments_is_a_warning(counts):
    te = 10.0 * np.arange(1, 33)
    protocol = AcquisitionProtocol(te=te, tr=3000.0)
    tissue, _ = tissue_of(120, counts=counts)
    rng = np.random.default_rng(0)
    water, myelin = rng.uniform(60, 100, 120), rng.uniform(15, 25, 120)
    tissue = tissue.assign(T1_1=1000.0, T2_1=water, f_1=1.0)
    if counts == (2,):  # myelin water of 15 %
        tissue = tissue.assign(f_1=0.85, T1_2=500.0, T2_2=myelin, f_2=0.15)
    X = signals_of(tissue, protocol, noise_level=0.01)
    model = NNLSSpectrum(protocol, n_bins=40, verbose=False).fit(X)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.calibrate(X)
    ratio = model.calibration_.variance_ratio
    if counts == (1,):
        assert not caught
        assert 0.99 < ratio < 1.1
        return
    (one,) = caught
    assert one.category is CalibrationWarning
    assert "images most of whose voxels have one compartment" in str(one.message)
    assert one.filename == __file__
    assert ratio > 1.3
    assert model.calibration_.is_doubtful


@pytest.mark.slow
def test_after_a_calibration_one_compartment_is_one(image, calibrated):
    X, tissue = (part[:120] for part in image)
    assert (calibrated.predict(X) == 1).mean() > 0.9
    table = calibrated.estimate_compartments(X, 1)
    for name in ("T1_1", "T2_1"):
        assert abs(np.median(table[name] / tissue[name]) - 1) < 0.02


@pytest.mark.slow
def test_spectra_use_the_calibration_too(image):
    _, tissue = image
    X = signals_of(tissue[:120], JOINED, noise_level=0.002)
    model = NNLSPeakClassifier(NOMINAL, counts=(1, 2, 3), verbose=False).fit(X)
    with pytest.raises(ValueError, match="2 series, whose relative scale is unknown"):
        model.predict(X)
    # the peaks of a spectrum of 22 measurements miss one compartment in a fifth of the voxels
    assert (model.calibrate(X).predict(X[:40]) == 1).mean() > 0.6
    assert not model.calibration_.magnitude


@pytest.mark.parametrize("make", [MultiExponentialClassifier, NNLSPeakClassifier])
def test_magnitudes_are_not_calibrated_as_signed_signals(make):
    tissue, _ = tissue_of(12)
    X = signals_of(tissue, noise_distribution="rician")
    model = make("ir-se-8x8", counts=(1, 2), verbose=False).fit(X)
    with pytest.raises(ValueError, match=f"but {make.__name__} is for signed signals"):
        model.calibrate(X)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* voxels are not explained")
def test_a_new_fit_forgets_the_calibration(image):
    X = image[0][:120, 6:]
    series = AcquisitionProtocol(te=10.0 * np.arange(1, 17), tr=3000, readout=EchoTrain(10.0))
    model = MultiExponentialClassifier(series, **COUNTS).fit(X)
    before = model.predict_proba(X[:5])
    model.calibrate(X)
    assert not np.allclose(model.predict_proba(X[:5]), before)
    np.testing.assert_array_equal(model.fit(X).predict_proba(X[:5]), before)


@pytest.mark.slow
def test_saved_files_keep_the_calibration(image, calibrated, tmp_path):
    X, _ = image
    save(calibrated, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    assert loaded.calibration_ == calibrated.calibration_
    np.testing.assert_array_equal(loaded.predict_proba(X[:8]), calibrated.predict_proba(X[:8]))


def test_faint_compartments_need_not_count():
    tissue, _ = tissue_of(40, counts=(2,))
    tissue = tissue.assign(
        T1_1=800.0, T2_1=60.0, f_1=0.98, T1_2=3000.0, T2_2=400.0, f_2=0.02
    )  # leaked water
    X = signals_of(tissue, noise_level=0.0005)
    every = MultiExponentialClassifier("ir-se-8x8", criterion="bic", **COUNTS).fit(X)
    some = MultiExponentialClassifier(
        "ir-se-8x8", criterion="bic", min_fraction=0.05, **COUNTS
    ).fit(X)
    assert (every.predict(X) == 2).mean() > 0.8
    assert (some.predict(X) == 1).mean() > 0.8
    np.testing.assert_allclose(some.predict_proba(X).sum(axis=1), 1)


@pytest.mark.parametrize(
    ("nuisances", "protocol", "message"),
    [
        (Nuisances(echo_loss=(0, 0.05)), "ir-se-8x8", "echo_loss, but fits have"),
        (Nuisances(offset=(-1.0, 0.1)), "ir-se-8x8", "offset must be above -1"),
        (Nuisances(offset=0.1), "ir-se-8x8", "must be a pair"),
        (Nuisances(b1=(0.8, 1.2)), "ir-se-8x8", "single spin echoes"),
        (Nuisances(gain=(0.5, 2)), "ir-se-8x8", "1 series"),
        (Nuisances(inversion_efficiency=0.9), "ir-se-8x8", "must be a pair"),
    ],
)
def test_nuisances_that_cannot_be_fitted_are_refused(nuisances, protocol, message):
    X = np.ones((3, 64))
    with pytest.raises(ValueError, match=message):
        MultiExponentialClassifier(protocol, nuisances=nuisances, **COUNTS).fit(X)


def test_calibrations_that_cannot_work_are_refused():
    protocol = AcquisitionProtocol(te=10.0 * np.arange(1, 9), readout=EchoTrain(10.0))
    with pytest.raises(ValueError, match="at least 6 voxels with a signal, got 3"):
        calibrate_pulses(np.ones((3, 8)), protocol)
    trains = [EchoTrain(10.0), EchoTrain(10.0), EchoTrain(10.0, 120.0), EchoTrain(10.0, 120.0)]
    two = AcquisitionProtocol(te=[10, 20, 30, 40], readout=trains)
    with pytest.raises(ValueError, match="2 different echo trains"):
        calibrate_pulses(np.ones((9, 4)), two)
    three = AcquisitionProtocol.concatenate([protocol] * 3, same_gain=False)
    with pytest.raises(ValueError, match="at most two series"):
        calibrate_pulses(np.ones((9, 24)), three)


@pytest.mark.parametrize("n_compartments", [1, 2])
def test_standard_errors_are_the_scatter_of_estimates(n_compartments):
    tissue, _ = tissue_of(200, counts=(2,))
    tissue = tissue.assign(T1_1=300.0, T2_1=30.0, f_1=0.4, T1_2=1500.0, T2_2=150.0, f_2=0.6)
    if n_compartments == 1:
        tissue = tissue.assign(f_1=1.0, f_2=0.0)
    X = signals_of(tissue, noise_level=0.005)
    model = MultiExponentialClassifier("ir-se-8x8", **COUNTS).fit(X)
    table = model.estimate_compartments(X, n_compartments)
    for k in range(1, n_compartments + 1):
        for name in (f"T1_{k}", f"T2_{k}"):
            # the standard deviation of 200 values has a relative standard error of 0.05
            ratio = table[f"{name}_se"].median() / table[name].std()
            assert 0.75 < ratio < 1.3
    assert table[f"T1_{n_compartments + 1}_se"].isna().all()


def test_series_of_unknown_scale_are_no_signals_of_one_scale(image):
    X = image[0]
    with pytest.raises(ValueError, match="2 series, whose relative scale is unknown"):
        estimate_noise(X, NOMINAL)
    with pytest.raises(ValueError, match="2 series, whose relative scale is unknown"):
        SignalPhaser(protocol=NOMINAL).fit(X).transform(X)


def test_shapes_have_the_readout_of_the_protocol():
    grid = {"ti": [50, 150, 400, 900, 1800, 3000], "te": 10.0 * np.arange(1, 9)}
    second_is_stronger = []
    for readout in (EchoTrain(10.0, refocusing_angle=120.0), None):
        protocol = AcquisitionProtocol.from_grid(**grid, readout=readout)
        echoes = np.abs(signal_shapes(protocol, None, 1.0).examples.reshape(-1, 6, 8)[:, -1])
        second_is_stronger.append((echoes[:, 1] > echoes[:, 0]).mean())
    # at 120 degrees the stimulated echo adds to the second echo, unless T2 is short
    assert second_is_stronger[0] > 0.3
    assert second_is_stronger[1] < 0.05


@pytest.mark.parametrize("make", ["prior", "table"])
def test_no_signal_is_simulated_with_an_efficiency_above_one(make):
    fitted = Nuisances(inversion_efficiency=(0.5, 1.5))  # an apparent efficiency, for fits
    with pytest.raises(ValueError, match="inversion_efficiency"):
        if make == "prior":
            TissuePrior.named("midl2024", nuisances=fitted)
        else:
            signals_of(tissue_of(5, inversion_efficiency=1.5)[0])
