"""Signed, magnitude and complex signals: their kind, phase correction, restored signs."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    NoSignalWarning,
    ProtocolAligner,
    SignalNormalizer,
    SignalPhaser,
    SignalPipeline,
    TissuePrior,
    load,
    make_correlation_signals,
    save,
)
from corrsk.preprocessing import phase_signals, restore_polarity, signal_kind
from tests._helpers import SHARED_DATA

GRID = AcquisitionProtocol.named("ir-se-8x8")
WITH_TR = AcquisitionProtocol.from_grid(ti=GRID.ti[::8], te=GRID.te[:8], tr=3000)
RECOVERY = AcquisitionProtocol({"TI": [50, 100, 200, 400, 700, 1200, 2000]}, tr=5000)
ECHOES = AcquisitionProtocol(te=np.arange(10, 330, 10))
LATE = AcquisitionProtocol({"TI": [4000, 5000, 6000, 7000, 8000]})


def simulated(protocol, n=600, snr=100.0, counts=(1, 2, 3), seed=0, efficiency=0.95):
    """Noise-free signals, and signals with noise in two channels."""
    prior = TissuePrior.named("t1t2-detr", n_compartments=counts)
    if "T2" not in protocol.tissue_properties:
        prior = TissuePrior({"T1": prior.ranges["T1"]}, counts)
    if "T1" not in protocol.tissue_properties:
        prior = TissuePrior({"T2": prior.ranges["T2"]}, counts)
    tissue, _ = prior.sample(n, seed, verbose=False)
    clean = CorrelationSignalGenerator(
        protocol, noise_level=0, inversion_efficiency=efficiency, random_state=0, verbose=False
    ).fit_transform(tissue)  # fmt: skip
    noise = np.random.default_rng(seed).normal(scale=1 / snr, size=(2, *clean.shape))
    return clean, clean + noise[0] + 1j * noise[1]


def all_signs_right(found, clean, within):
    """Whether each voxel has the signs of the clean signals, except for those near 0."""
    return ~(((found < 0) != (clean < 0)) & (np.abs(clean) > within)).any(axis=1)


# -- polarity ------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [GRID, WITH_TR, RECOVERY], ids=["grid", "TR", "one echo"])
@pytest.mark.parametrize("counts", [(1,), (2,), (3,)])
def test_signs_of_magnitudes(protocol, counts):
    """98 to 99.9 % are right; 600 voxels with 97 % have fewer than 94 % once in 10^5 times."""
    clean, measured = simulated(protocol, counts=counts)
    restored = restore_polarity(np.abs(measured), protocol, correct_floor=False)
    right = all_signs_right(restored.signals, clean, 2 / 100)
    assert right.mean() > 0.94
    np.testing.assert_array_equal(np.abs(restored.signals), np.abs(measured))
    sure = restored.confidence > 0.99
    assert sure.mean() > 0.3
    assert right[sure].mean() > 0.97


def test_each_echo_time_has_its_own_null():
    tissue = pd.DataFrame(
        {"T1_1": [250.0], "T1_2": [2500.0], "T2_1": [15.0], "T2_2": [200.0],
         "f_1": [0.6], "f_2": [0.4]}
    )  # fmt: skip
    clean = CorrelationSignalGenerator(GRID, noise_level=0, random_state=0).fit_transform(tissue)
    negative = (clean < 0).reshape(8, 8).sum(axis=0)
    assert len(set(negative.tolist())) >= 3
    restored = restore_polarity(np.abs(clean), GRID)
    np.testing.assert_allclose(restored.signals, clean, atol=2e-3)
    np.testing.assert_array_equal(restored.signals < 0, clean < 0)


def test_the_correction_of_the_floor_restores_the_mean_square():
    """sqrt(m**2 - sigma**2), with sigma from the residuals, at voxels with weak measurements."""
    clean, measured = simulated(GRID, n=1000, snr=50, efficiency=1.0)
    weak = np.abs(clean) < 0.02
    assert weak.sum() > 5000
    squares = {
        corrected: np.mean(
            restore_polarity(np.abs(measured), GRID, correct_floor=corrected).signals[weak] ** 2
        )
        for corrected in (False, True)
    }
    expected = np.mean(measured.real[weak] ** 2)
    assert squares[False] > 1.6 * expected
    assert expected < squares[True] < 1.4 * expected  # values below sigma become 0
    short = simulated(RECOVERY, n=5)[1]  # too few measurements for an estimate of the noise
    np.testing.assert_array_equal(np.abs(restore_polarity(np.abs(short), RECOVERY).signals),
                                  np.abs(short))  # fmt: skip


def test_the_order_the_scale_and_the_signs_of_the_input_do_not_matter():
    clean, measured = simulated(GRID, n=50)
    magnitudes = np.abs(measured)
    expected = restore_polarity(magnitudes, GRID)
    order = np.random.default_rng(1).permutation(64)
    shuffled = AcquisitionProtocol({name: v[order] for name, v in GRID.contrasts.items()})
    found = restore_polarity(1e-200 * magnitudes[:, order], shuffled)
    np.testing.assert_array_equal(found.signals < 0, expected.signals[:, order] < 0)
    np.testing.assert_array_equal(restore_polarity(clean, GRID).signals,
                                  restore_polarity(np.abs(clean), GRID).signals)  # fmt: skip
    volume = restore_polarity(magnitudes.astype(np.float32).reshape(5, 10, 64), GRID)
    assert volume.signals.shape == (5, 10, 64)
    assert volume.signals.dtype == np.float32
    assert volume.confidence.shape == (5, 10)


def test_measurements_without_inversion_stay_positive():
    protocol = AcquisitionProtocol.concatenate(
        [AcquisitionProtocol(ti=[50, 200, 600, 1200, 3000], te=10, tr=6000),
         AcquisitionProtocol(te=[10, 30, 60, 120], tr=6000)]
    )  # fmt: skip
    clean, measured = simulated(protocol, n=300, counts=(1,))
    restored = restore_polarity(np.abs(measured), protocol)
    assert (restored.signals[:, 5:] >= 0).all()
    assert all_signs_right(restored.signals, clean, 0.02).mean() > 0.9
    echoes = np.abs(simulated(ECHOES, n=5)[1])
    np.testing.assert_array_equal(restore_polarity(echoes, ECHOES).signals, echoes)


def test_voxels_without_signal_have_no_confidence():
    magnitudes = np.abs(simulated(GRID, n=3)[1])
    magnitudes[1] = 0
    restored = restore_polarity(magnitudes, GRID)
    np.testing.assert_array_equal(np.isnan(restored.confidence), [False, True, False])
    assert not restored.signals[1].any()


# -- phase ---------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [GRID, RECOVERY, ECHOES], ids=["grid", "one echo", "T2"])
def test_phase_of_complex_signals(protocol):
    clean, measured = simulated(protocol, snr=50)
    phase = np.random.default_rng(3).uniform(-np.pi, np.pi, len(clean))
    phased = phase_signals(measured * np.exp(1j * phase)[:, None], protocol)
    error = np.angle(np.exp(1j * (phased.phase - phase)))
    # voxels of short T2 or near the null have little signal; the sign of all others is right
    bright = np.linalg.norm(clean, axis=1) > 0.3
    assert bright.mean() > 0.5
    assert np.abs(error[bright]).max() < 0.5
    assert np.median(phased.sigma) == pytest.approx(1 / 50, rel=0.1)
    np.testing.assert_allclose(phased.signals[bright], measured.real[bright], atol=0.2)


def test_the_phase_of_all_measurements_is_more_exact_than_that_of_one():
    _, measured = simulated(GRID, n=400, snr=10)
    reference = int(np.flatnonzero((GRID.ti == 2000) & (GRID.te == 4.5))[0])
    errors = [
        np.abs(np.angle(np.exp(1j * phase_signals(measured, GRID, reference=choice).phase)))
        for choice in ("auto", reference)
    ]
    assert np.median(errors[0]) < 0.6 * np.median(errors[1])
    at_reference = phase_signals(measured, GRID, reference=reference).signals[:, reference]
    np.testing.assert_allclose(at_reference, np.abs(measured[:, reference]))


def test_a_phase_that_differs_between_measurements_is_reported():
    clean, measured = simulated(GRID, n=100)
    drift = np.exp(0.8j * (np.arange(64) % 2))
    with pytest.warns(UserWarning, match="phase differs between the measurements") as caught:
        phase_signals(measured * drift, GRID)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        phase_signals(measured, GRID)
        phase_signals(clean * np.exp(1j), GRID)


# -- kind ----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [GRID, RECOVERY], ids=["grid", "one echo"])
@pytest.mark.parametrize("n", [5, 400])
def test_kind_after_inversion(protocol, n):
    _, measured = simulated(protocol, n=n)
    background = np.random.default_rng(0).normal(scale=0.01, size=(2, n, protocol.n_measurements))
    for signals, empty, kind in [
        (measured.real, background[0], "signed"),
        (np.abs(measured), np.hypot(*background), "magnitude"),
        (measured, background[0] + 1j * background[1], "complex"),
    ]:
        assert signal_kind(signals, protocol) == kind
        assert signal_kind(400 * np.vstack([signals, 0 * signals, empty]), protocol) == kind


def test_positive_tissue_is_no_magnitude():
    """T1 so short that the signed signals are positive: there is no sign to restore."""
    tissue = pd.DataFrame({"T1_1": np.linspace(40, 60, 30), "T2_1": 40.0, "f_1": 1.0})
    signals = CorrelationSignalGenerator(
        GRID, noise_level=0.001, random_state=0
    ).fit_transform(tissue)  # fmt: skip
    assert signal_kind(np.abs(signals), GRID) != "magnitude" or (signals > 0).all()
    np.testing.assert_array_equal(
        restore_polarity(np.abs(signals), GRID).signals < 0,
        np.zeros(signals.shape, bool),
    )


def test_kind_of_long_inversion_times_is_undecided():
    _, measured = simulated(LATE, n=50, counts=(1,))
    assert (measured.real > 0).all()
    assert signal_kind(measured.real, LATE) == "undecided"


def test_kind_without_inversion_by_the_floor_of_the_noise():
    tissue = pd.DataFrame({"T2_1": np.linspace(20, 60, 200), "f_1": 1.0})
    clean = CorrelationSignalGenerator(ECHOES, noise_level=0, random_state=0).fit_transform(tissue)
    noise = np.random.default_rng(0).normal(scale=0.02, size=(2, *clean.shape))
    assert signal_kind(clean + noise[0], ECHOES) == "signed"
    assert signal_kind(np.hypot(clean + noise[0], noise[1]), ECHOES) == "magnitude"
    # far above the noise both look the same
    assert signal_kind(clean[:, :4] + 0.1 * noise[0][:, :4], ECHOES.subset(range(4))) == "undecided"
    assert signal_kind(np.zeros((3, 32)), ECHOES) == "undecided"


# -- the transformer ------------------------------------------------------------------


def test_phaser_of_each_kind():
    clean, measured = simulated(GRID, n=60)
    visible = np.abs(clean) > 0.03
    phase = np.exp(1j * np.linspace(-3, 3, 60))[:, None]
    cases = [
        ("signed", measured.real),
        ("magnitude", np.abs(measured)),
        ("complex", measured * phase),
    ]
    for kind, signals in cases:
        phaser = SignalPhaser(kind=kind).fit(signals)
        assert phaser.kind_ == kind
        signed = phaser.transform(signals)
        assert not np.iscomplexobj(signed)
        assert ((signed < 0) == (clean < 0))[visible].mean() > 0.99
        magnitudes = clone(phaser).set_params(output="magnitude").fit_transform(signals)
        np.testing.assert_array_equal(magnitudes, np.abs(signals))


def test_auto_reports_what_it_guesses():
    _, measured = simulated(GRID, n=60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        signed = SignalPhaser().fit(measured.real)
        np.testing.assert_array_equal(signed.transform(measured.real), measured.real)
        assert SignalPhaser().fit(measured).kind_ == "complex"
    with pytest.warns(UserWarning, match="look magnitude: their signs are restored") as caught:
        phaser = SignalPhaser().fit(np.abs(measured))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert phaser.kind_ == "magnitude"
    expected = restore_polarity(np.abs(measured), GRID).signals
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(phaser.transform(np.abs(measured)), expected)
    # a model of signed signals meets magnitudes
    with pytest.warns(UserWarning, match="look magnitude, unlike those of fit, which are signed"):
        np.testing.assert_array_equal(signed.transform(np.abs(measured)), expected)
    with pytest.warns(UserWarning, match="look signed, unlike those of fit"):
        np.testing.assert_array_equal(phaser.transform(measured.real), measured.real)


def test_phaser_in_a_pipeline(tmp_path):
    """Trained on simulated signals, applied to a complex volume and one of magnitudes."""
    X, y = make_correlation_signals(300, noise_level=0.01, random_state=0)
    steps = [
        ("phaser", SignalPhaser()), ("aligner", ProtocolAligner()),
        ("normalizer", SignalNormalizer()), ("classifier", LogisticRegression()),
    ]  # fmt: skip
    model = SignalPipeline(steps).fit(X, y)
    expected = model.predict_proba(X[:40])
    np.testing.assert_allclose(model.predict_proba((X[:40] * 1j).reshape(5, 8, 64)),
                               expected.reshape(5, 8, 4), atol=1e-6)  # fmt: skip
    with pytest.warns(UserWarning, match="look magnitude"):
        agreed = model.predict(np.abs(X[:40])) == model.predict(X[:40])
    assert agreed.mean() > 0.8
    dark = X[:3] * 1j
    dark[1] = 0
    with pytest.warns(NoSignalWarning, match="1 of 3"):
        found = model.predict_proba(dark)
    np.testing.assert_array_equal(np.isnan(found).any(axis=1), [False, True, False])
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again[0].kind_ == "signed"
    np.testing.assert_allclose(again.predict_proba(X[:40] * 1j), expected, atol=1e-6)


def test_names_of_columns_give_the_protocol():
    names = RECOVERY.feature_names
    _, measured = simulated(RECOVERY, n=40)
    frame = pd.DataFrame(np.abs(measured), columns=names)
    phaser = SignalPhaser(kind="magnitude", protocol=RECOVERY).set_output(transform="pandas")
    restored = phaser.fit_transform(frame)
    assert list(restored.columns) == names
    np.testing.assert_array_equal(phaser.get_feature_names_out(), names)
    reordered = phaser.transform(frame[names[::-1]])
    pd.testing.assert_frame_equal(reordered, restored)
    alone = SignalPhaser(kind="complex").fit(pd.DataFrame(measured, columns=names))
    np.testing.assert_array_equal(alone.protocol_.ti, RECOVERY.ti)
    assert alone.transform(pd.DataFrame(measured.astype(np.complex64), columns=names)).shape == (
        40, 7
    )  # fmt: skip


def test_single_precision_is_kept():
    _, measured = simulated(GRID, n=10)
    for kind, signals in {"magnitude": np.abs(measured), "complex": measured}.items():
        small = signals.astype(np.float32 if kind == "magnitude" else np.complex64)
        assert SignalPhaser(kind=kind).fit_transform(small).dtype == np.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X: SignalPhaser(kind="complex").fit(X), "needs complex signals, got real"),
        (lambda X: SignalPhaser(kind="signed").fit(X + 0j), "Complex data not supported by kind"),
        (lambda X: SignalPhaser().fit(X[:, :9]), "these 9 columns.*pass protocol="),
        (lambda X: SignalPhaser(reference=64).fit(X), "one of the 64 measurements, got 64"),
        (lambda X: SignalPhaser(inversion_efficiency=(0.9, 1.2)).fit(X), r"got \(0.9, 1.2\)"),
        (lambda X: SignalPhaser(inversion_efficiency=0).fit(X), r"number in \(0, 1\].*got 0"),
        (lambda X: SignalPhaser().fit((X + 0j) * np.nan), "X contains NaN"),
        (lambda X: phase_signals(X, GRID), "real and have no phase"),
        (lambda X: phase_signals(X + 0j, GRID, reference="first"), "'auto' or the position"),
        (lambda X: restore_polarity(X + 0j, GRID), "Complex data not supported: SignalPhaser"),
        (lambda X: restore_polarity(X[:, 1:], GRID), r"\(n_samples, 64\).*got \(20, 63\)"),
        (lambda X: signal_kind(X * np.inf, GRID), "NaN or infinite values in 20 of 20"),
        (lambda X: signal_kind(X, AcquisitionProtocol(b=np.linspace(0, 2, 64)), prior="midl2024"),
         "measures D, but the prior has ranges for T1, T2 only"),
    ],
)  # fmt: skip
def test_errors(call, message):
    X = make_correlation_signals(20, random_state=0)[0]
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=message):
        call(X)


# -- measured signals ------------------------------------------------------------------


def test_measured_signals_of_a_rock():
    """Phased signals of sandstone, 16 TI and the first echoes: signs of their magnitudes."""
    path = SHARED_DATA / "berea_ir_cpmg.npz"
    if not path.exists():
        pytest.skip("the measured signals are not there")
    with np.load(path) as data:
        echoes = np.unique(np.geomspace(1, 1024, 20).astype(int)) - 1
        measured = (data["S"] + 1j * data["imag"])[:, echoes]
        ti, te = np.meshgrid(data["ti_ms"], data["te_ms"][echoes], indexing="ij")
    protocol = AcquisitionProtocol({"TI": ti.ravel(), "TE": te.ravel()}, units="ms")
    signals = measured.reshape(1, -1)
    assert signal_kind(signals.real, protocol) == "signed"
    assert signal_kind(np.abs(signals), protocol) == "magnitude"
    phased = phase_signals(signals * np.exp(2j), protocol)
    assert phased.phase[0] == pytest.approx(2, abs=0.01)
    restored = restore_polarity(np.abs(signals.real), protocol).signals
    assert all_signs_right(restored, signals.real, 3 * phased.sigma[0]).all()
