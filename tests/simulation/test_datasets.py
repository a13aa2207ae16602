"""Simulated data sets."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import kstest, uniform

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    SignalNormalizer,
    SignalStream,
    SNRRange,
    TissuePrior,
    load_dataset,
    make_correlation_signals,
)
from corrsk._utils.rng import STREAMS_VERSION
from corrsk.simulation.datasets import DATASETS


def test_make_correlation_signals():
    X, y = make_correlation_signals(500, random_state=0)
    assert X.shape == (500, 64)
    assert X.dtype == np.float32
    assert X.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, rtol=1e-5)
    again, y_again, levels, tissue = make_correlation_signals(
        500, random_state=0, return_tissue=True, n_jobs=1
    )
    np.testing.assert_array_equal(again, X)
    np.testing.assert_array_equal(y_again, y)
    np.testing.assert_array_equal(tissue["noise_level"], levels)
    raw, _ = make_correlation_signals(500, random_state=0, norm=None)
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), X, rtol=1e-5)


def test_parameters_are_validated_before_the_simulation():
    with pytest.raises(ValueError, match="known tissue priors"):
        make_correlation_signals(10**9, prior="brain")
    with pytest.raises(ValueError, match="noise_level"):
        make_correlation_signals(10**9, noise_level=-1)
    with pytest.raises(ValueError, match="noise_reference"):
        make_correlation_signals(10**9, noise_reference="snr")


def test_signals_equal_those_of_the_transformers():
    X, _, _, tissue = make_correlation_signals(9000, random_state=4, return_tissue=True)
    simulated = CorrelationSignalGenerator(random_state=4).fit_transform(tissue)
    np.testing.assert_array_equal(X, SignalNormalizer().fit_transform(simulated))


def test_the_draws_of_a_seed_match_streams_version():
    """A change of these numbers must come with an increase of `STREAMS_VERSION`."""
    data = load_dataset("midl2024", n_samples=5000)
    last = [4300, 1050, 2200, 100, 300, 45, 265, 450, 0.6443841, 0.1222595, 0.1169574, 0.1163991]
    assert STREAMS_VERSION == 2
    np.testing.assert_allclose(data.tissue.iloc[-1], [*last, 0.04], rtol=1e-6)
    np.testing.assert_allclose(data.data[-1, :3], [-0.2216815, -0.2192473, -0.1968943], rtol=1e-5)
    assert data.test_indices[-3:].tolist() == [4967, 4985, 4991]


@pytest.mark.parametrize("name", sorted(DATASETS.keys() - {"canales2021"}))
@pytest.mark.parametrize("n_samples", [10_000, 10_007, 13])
def test_named_data_sets(name, n_samples):
    data = load_dataset(name, n_samples=n_samples, random_state=2)
    assert data.data.shape == (n_samples, 64)
    assert data.data.dtype == np.float32
    levels = DATASETS[name].noise_levels
    if isinstance(levels, SNRRange):  # each signal has its own level, and the counts are balanced
        n_cells, cells = 3, data.target - 1
    else:
        n_cells, cells = 20, (data.target - 1) * 5 + np.searchsorted(levels, data.noise_level)
    assert spread(np.bincount(data.target)[1:]) <= 1
    assert spread(np.bincount(cells, minlength=n_cells)) <= 1
    parts = [data.train_indices, data.validation_indices, data.test_indices]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(n_samples))
    for part, share in zip(parts, (0.7, 0.2, 0.1), strict=True):
        assert len(part)
        assert abs(len(part) - share * n_samples) <= 1
        # jointly stratified: each combination has its share, to within one signal
        got = np.bincount(cells[part], minlength=n_cells)
        assert np.abs(got - share * np.bincount(cells, minlength=n_cells)).max() <= 1
    np.testing.assert_array_equal(data.tissue["noise_level"], data.noise_level)
    assert data.feature_names[1] == "TI50_TE7.5"


def spread(counts):
    return counts.max() - counts.min()


def test_the_two_data_sets_differ_in_their_noise():
    loud, quiet = (load_dataset(name, 1000) for name in ("midl2024", "midl2024-low-noise"))
    assert loud.noise_level.max() == 0.05
    assert quiet.noise_level.max() == 0.005
    assert not np.array_equal(loud.data, quiet.data)


def test_the_t1t2_detr_data_set_matches_the_thesis():
    data = load_dataset("t1t2-detr", 20_000, random_state=0)
    tissue = data.tissue
    assert set(data.target) == {1, 2, 3}
    snr = 1 / data.noise_level
    assert kstest(snr, uniform(30, 120).cdf).pvalue > 1e-3
    t1, t2 = (tissue.filter(regex=f"^{name}_").to_numpy() for name in ("T1", "T2"))
    present = ~np.isnan(t1)
    assert (t2 < t1)[present].all()
    assert t1[present].min() >= 50
    assert t1[present].max() <= 3500
    assert t2[present].min() >= 5
    assert t2[present].max() <= 500
    fractions = tissue.filter(regex="^f_").to_numpy()
    assert fractions[present].min() >= 0.05
    # not normalised, with TR: sigma is the level times the largest clean signal
    protocol = AcquisitionProtocol.named("ir-se-8x8-tr20s")
    assert data.protocol == protocol
    assert protocol.tr == 20_000
    clean = CorrelationSignalGenerator(protocol=protocol, noise_level=0.0).fit_transform(
        tissue.drop(columns="noise_level")
    )
    z = (data.data - clean) / (data.noise_level * np.abs(clean).max(axis=1))[:, None]
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01


def test_noise_levels_of_a_range():
    levels = SNRRange(30, 150)
    *_, drawn, _ = make_correlation_signals(
        5000, noise_level=levels, random_state=0, return_tissue=True
    )
    assert 1 / 150 <= drawn.min() < drawn.max() <= 1 / 30
    # without the column the generator draws the levels, the same for any number of jobs
    tissue, _ = TissuePrior.named("midl2024").sample(5000, random_state=0)
    one, two = (
        CorrelationSignalGenerator(noise_level=levels, random_state=0, n_jobs=jobs).fit_transform(
            tissue
        )
        for jobs in (1, 2)
    )
    np.testing.assert_array_equal(one, two)
    clean = CorrelationSignalGenerator(noise_level=0.0).fit_transform(tissue)
    spread_of_voxels = (one - clean).std(axis=1)
    assert spread_of_voxels.max() > 2 * spread_of_voxels.min()
    with pytest.raises(ValueError, match="0 < low <= high"):
        SNRRange(150, 30)


def test_results_are_bit_identical_for_any_n_jobs():
    one = load_dataset("midl2024", 40_000, n_jobs=1)
    two = load_dataset("midl2024", 40_000, n_jobs=2)
    assert one.data.tobytes() == two.data.tobytes()
    assert one.tissue.equals(two.tissue)
    np.testing.assert_array_equal(one.test_indices, two.test_indices)


def test_bad_requests():
    with pytest.raises(ValueError, match="'midl2025'; known data sets: midl2024, midl2024-low"):
        load_dataset("midl2025")
    with pytest.raises(ValueError, match="at least 10"):
        load_dataset("midl2024", 9)


MEASURE_PEAK = """
from corrsk import load_dataset

def memory(what):
    # not ru_maxrss, in which a process has the peak of the one that started it
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith(what))

load_dataset("midl2024", 10_000)  # what imports and threads take is not the simulation's
before = memory("VmRSS")
data = load_dataset("midl2024", 600_000, verbose=False)
used = memory("VmHWM") - before
output = data.data.nbytes + data.tissue.to_numpy().nbytes + data.target.nbytes
output += sum(data[f"{part}_indices"].nbytes for part in ("train", "validation", "test"))
print(used / output)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_memory_stays_below_one_and_a_fifth_of_the_output():
    result = subprocess.run(
        [sys.executable, "-c", MEASURE_PEAK], capture_output=True, text=True, check=True
    )
    assert 0.8 < float(result.stdout) < 1.2


@pytest.mark.slow
def test_importing_corrsk_does_not_import_torch():
    script = (
        "import sys, corrsk; corrsk.make_correlation_signals(10); dir(corrsk);"
        "print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", "False"]


def test_norms_of_simulated_signals():
    raw, _ = make_correlation_signals(50, random_state=0, norm=None)
    for norm, of in (("max", np.abs(raw).max(axis=1)), ("rms", np.sqrt((raw**2).mean(axis=1)))):
        X, _ = make_correlation_signals(50, random_state=0, norm=norm)
        np.testing.assert_allclose(X, raw / of[:, None], rtol=1e-5)
    with pytest.raises(
        ValueError, match="norm must be one of 'l2', 'rms', 'max' or None; got 'l1'"
    ):
        make_correlation_signals(50, norm="l1")


def test_the_old_name_of_the_norm_works_with_a_warning():
    new, _ = make_correlation_signals(50, random_state=0, norm=None)
    with pytest.warns(
        FutureWarning, match="normalize of make_correlation_signals is now norm=None"
    ):
        old, _ = make_correlation_signals(50, random_state=0, normalize=False)
    np.testing.assert_array_equal(old, new)
    with pytest.warns(FutureWarning, match="is now norm='l2'"):
        assert SignalStream(normalize=True) == SignalStream()


def test_a_prior_without_a_measured_property_is_refused():
    protocol = AcquisitionProtocol.from_grid(te=[10, 20], b=[0, 1])
    with pytest.raises(ValueError, match="measures D, but the prior has no range for D"):
        make_correlation_signals(10, protocol=protocol)
