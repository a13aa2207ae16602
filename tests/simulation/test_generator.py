"""The signal generator and the normaliser."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import clone

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    PropertyRange,
    SignalNormalizer,
    TissuePrior,
    make_correlation_signals,
    physics,
)
from corrsk._utils.rng import BLOCK_ROWS


@pytest.fixture(scope="module")
def tissue():
    return TissuePrior.named("midl2024").sample(9000, random_state=0)[0]


def clean_signals(tissue):
    return CorrelationSignalGenerator(noise_level=0, dtype="float64").fit_transform(tissue)


def noise(signals, tissue):
    return signals - clean_signals(tissue)


def test_signals_follow_eq_1(two_voxels):
    protocol = AcquisitionProtocol.named("ir-se-8x8")
    got = clean_signals(two_voxels)
    expected = np.exp(-protocol.te / 80) * (1 - 2 * np.exp(-protocol.ti / 800))
    np.testing.assert_allclose(got[0], expected, rtol=1e-12)
    expected = 0.3 * np.exp(-protocol.te / 40) * (1 - 2 * np.exp(-protocol.ti / 600))
    expected += 0.7 * np.exp(-protocol.te / 300) * (1 - 2 * np.exp(-protocol.ti / 2500))
    np.testing.assert_allclose(got[1], expected, rtol=1e-12)


def test_the_order_of_the_protocol_does_not_matter(tissue):
    grid = AcquisitionProtocol.named("ir-se-8x8")
    order = np.random.default_rng(0).permutation(64)
    shuffled = AcquisitionProtocol(ti=grid.ti[order], te=grid.te[order])
    for distribution in ("gaussian", "rician"):
        settings = {
            "random_state": 0, "noise_level": 0.02, "noise_distribution": distribution,
        }  # fmt: skip
        on_grid = CorrelationSignalGenerator(grid, **settings).fit_transform(tissue)
        scanned = CorrelationSignalGenerator(shuffled, **settings).fit(tissue)
        signals = scanned.fit_transform(tissue)
        # the same signals and noise, with columns in the order of each protocol
        np.testing.assert_array_equal(signals, on_grid[:, order])
        np.testing.assert_array_equal(shuffled.to_grid(signals), on_grid)
        assert scanned.get_feature_names_out().tolist() == shuffled.feature_names
        assert scanned.protocol_.feature_names == shuffled.feature_names


def test_the_columns_of_a_protocol_in_scan_order_have_its_times():
    scan = AcquisitionProtocol({"TI": [800, 50, 300], "TE": [10, 60, 30]})
    X, tissue = make_correlation_signals(
        5, protocol=scan, noise_level=0, norm=None, random_state=0, return_tissue=True
    )[::3]
    with_names = tissue.fillna(1.0)
    for column, (ti, te) in enumerate(zip(scan.ti, scan.te, strict=True)):
        expected = sum(
            with_names[f"f_{i}"]
            * np.exp(-te / with_names[f"T2_{i}"])
            * (1 - 2 * np.exp(-ti / with_names[f"T1_{i}"]))
            for i in range(1, 5)
        )
        np.testing.assert_allclose(X[:, column], expected, rtol=1e-4, atol=1e-5)


def test_tr_and_inversion_efficiency(two_voxels):
    protocol = AcquisitionProtocol.from_grid(ti=[50, 500], te=[10, 40], tr=3000)
    got = CorrelationSignalGenerator(
        protocol, noise_level=0, inversion_efficiency=0.9, dtype="float64"
    ).fit_transform(two_voxels)
    bracket = 1 - 1.9 * np.exp(-500 / 800) + 0.9 * np.exp(-3000 / 800)
    assert got[0, 3] == pytest.approx(bracket * np.exp(-40 / 80))


def test_diffusion_goes_through_the_same_calls():
    prior = TissuePrior(
        ranges={"T2": PropertyRange(20, 200), "D": PropertyRange(0.2, 3)}, n_compartments=(1, 2)
    )
    tissue, _ = prior.sample(20, 0)
    protocol = AcquisitionProtocol.from_grid(te=[10, 60], b=[0, 1, 2])
    got = CorrelationSignalGenerator(protocol, noise_level=0, dtype="float64").fit_transform(tissue)
    values = tissue.fillna(1)
    expected = sum(
        values[f"f_{i}"] * np.exp(-60 / values[f"T2_{i}"] - 2 * values[f"D_{i}"]) for i in (1, 2)
    )
    np.testing.assert_allclose(got[:, 5], expected)


@pytest.mark.slow
def test_fit_transform_and_transform_draw_different_noise(tissue):
    generator = CorrelationSignalGenerator(noise_level=0.03, random_state=0)
    fitted = noise(generator.fit_transform(tissue), tissue)
    predicted = noise(generator.transform(tissue), tissue)
    other_table = tissue.iloc[::-1].reset_index(drop=True)
    third = noise(generator.transform(other_table), other_table)
    for first, second in ((fitted, predicted), (predicted, third), (fitted, third)):
        rows = [np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)]
        assert np.abs(np.mean(rows)) < 0.01
        assert np.max(np.abs(rows)) < 0.9
    np.testing.assert_array_equal(generator.transform(tissue), generator.transform(tissue))


def test_the_noise_is_gaussian_white_and_of_the_stated_level(tissue):
    signals = CorrelationSignalGenerator(noise_level=0.03, random_state=0).fit_transform(tissue)
    draws = noise(signals, tissue) / 0.03
    assert stats.kstest(draws.ravel()[:200_000], "norm").pvalue > 1e-4
    assert draws.std() == pytest.approx(1, abs=0.005)
    covariance = np.cov(draws.T)
    assert np.abs(covariance - np.eye(64)).max() < 0.06
    between_rows = np.mean(draws[:-1] * draws[1:])
    assert abs(between_rows) < 0.005


def test_tables_that_differ_only_in_noise_level_have_the_same_draws(tissue):
    one = CorrelationSignalGenerator(noise_level=0.01, random_state=0).fit_transform(tissue)
    two = CorrelationSignalGenerator(noise_level=0.02, random_state=0).fit_transform(tissue)
    np.testing.assert_allclose(2 * noise(one, tissue), noise(two, tissue), atol=1e-6)
    mixed = CorrelationSignalGenerator(noise_level=(0.01, 0.02), random_state=0).fit_transform(
        tissue
    )
    column = CorrelationSignalGenerator(random_state=0).fit_transform(
        tissue.assign(noise_level=0.01)
    )
    np.testing.assert_array_equal(column, one)
    assert ((mixed == one).all(axis=1) | (mixed == two).all(axis=1)).all()


def test_a_noise_level_column_overrides_the_parameter(tissue):
    levels = np.where(np.arange(len(tissue)) % 2, 0.05, 0.0)
    table = tissue.assign(noise_level=levels)
    signals = CorrelationSignalGenerator(noise_level=0.01, random_state=0).fit_transform(table)
    spread = noise(signals, tissue).std(axis=1)
    assert spread[::2].max() < 1e-6
    assert spread[1::2].mean() == pytest.approx(0.05, rel=0.02)


def test_several_levels_are_equally_likely(tissue):
    signals = CorrelationSignalGenerator(noise_level=(0.0, 0.05), random_state=0).fit_transform(
        tissue
    )
    silent = noise(signals, tissue).std(axis=1) < 1e-6
    assert 0.47 < silent.mean() < 0.53


@pytest.mark.parametrize("reference", physics.NOISE_REFERENCES)
def test_noise_references(tissue, reference):
    signals = CorrelationSignalGenerator(
        noise_level=0.05, noise_reference=reference, random_state=0
    ).fit_transform(tissue)
    expected = physics.noise_sigma(clean_signals(tissue), 0.05, reference)
    ratio = (noise(signals, tissue) ** 2).mean(axis=1) / expected**2
    assert ratio.mean() == pytest.approx(1, rel=0.01)


def test_rician_signals_are_magnitudes(tissue):
    signals = CorrelationSignalGenerator(
        noise_level=0.02, noise_distribution="rician", random_state=0
    ).fit_transform(tissue)
    assert (signals >= 0).all()
    expected = clean_signals(tissue) ** 2 + 2 * 0.02**2
    assert (signals**2).mean() == pytest.approx(expected.mean(), rel=0.01)


@pytest.mark.parametrize("n_coils", [2, 8])
def test_magnitudes_of_several_coils(tissue, n_coils):
    generator = CorrelationSignalGenerator(
        noise_level=0.05, noise_distribution="rician", n_coils=n_coils, random_state=0
    )
    signals = generator.fit_transform(tissue)
    # u^2 of sigma = 1 is noncentral chi-squared: uniform probabilities, here of 300,000 values
    squared = (signals / 0.05).astype(float) ** 2
    p = stats.ncx2.cdf(squared, 2 * n_coils, (clean_signals(tissue) / 0.05) ** 2).ravel()
    assert stats.kstest(p[::5], "uniform").pvalue > 1e-4
    again = generator.set_params(n_jobs=2).fit_transform(tissue)
    assert again.tobytes() == signals.tobytes()


def test_one_coil_is_rician_noise(tissue):
    parameters = {"noise_distribution": "rician", "random_state": 0}
    one = CorrelationSignalGenerator(**parameters, n_coils=1).fit_transform(tissue)
    none = CorrelationSignalGenerator(**parameters).fit_transform(tissue)
    np.testing.assert_array_equal(one, none)
    several = CorrelationSignalGenerator(**parameters, n_coils=2).fit_transform(tissue)
    assert several.mean() > one.mean()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_coils": 2}, "n_coils=2 needs noise_distribution='rician'"),
        ({"n_coils": 0, "noise_distribution": "rician"}, "from 1 to 32, got 0"),
        ({"n_coils": 33, "noise_distribution": "rician"}, "from 1 to 32, got 33"),
        ({"n_coils": 1.5, "noise_distribution": "rician"}, "'n_coils' parameter"),
    ],
)
def test_numbers_of_coils_that_are_refused(tissue, parameters, message):
    with pytest.raises(ValueError, match=message):
        CorrelationSignalGenerator(**parameters).fit(tissue)


@pytest.mark.parametrize("n_jobs", [1, 2, 3])
def test_results_are_bit_identical_for_any_n_jobs_and_chunks(tissue, n_jobs, monkeypatch):
    expected = CorrelationSignalGenerator(random_state=0).fit_transform(tissue)
    monkeypatch.setattr("corrsk._utils.parallel._blocks_per_run", lambda n_rows, threads: n_jobs)
    monkeypatch.setattr("corrsk.simulation._blocks.PIECE", 64_000 // n_jobs)
    got = CorrelationSignalGenerator(random_state=0, n_jobs=n_jobs).fit_transform(tissue)
    assert got.tobytes() == expected.tobytes()


def test_without_an_integer_seed_every_fit_draws_new_noise(tissue):
    generator = CorrelationSignalGenerator(random_state=np.random.default_rng(0))
    assert not np.array_equal(generator.fit_transform(tissue), generator.fit_transform(tissue))
    fresh = CorrelationSignalGenerator()
    assert not np.array_equal(fresh.fit_transform(tissue), fresh.fit_transform(tissue))


def test_absent_compartments_may_be_nan_or_zero(two_voxels):
    zeros = two_voxels.fillna(0)
    generator = CorrelationSignalGenerator(random_state=0)
    np.testing.assert_array_equal(
        generator.fit_transform(two_voxels), clone(generator).fit_transform(zeros)
    )


def test_set_output_and_feature_names(two_voxels):
    generator = CorrelationSignalGenerator(random_state=0).set_output(transform="pandas")
    two_voxels.index = ["a", "b"]
    frame = generator.fit_transform(two_voxels)
    assert frame.index.tolist() == ["a", "b"]
    assert frame.columns[0] == "TI50_TE4.5"
    assert frame.columns[-1] == "TI2000_TE150"
    normalized = SignalNormalizer().set_output(transform="pandas").fit_transform(frame)
    assert normalized.columns.equals(frame.columns)
    without_names = CorrelationSignalGenerator(random_state=0).fit_transform(two_voxels.to_numpy())
    np.testing.assert_array_equal(without_names, frame.to_numpy())


BAD_TABLES = {
    "NaN where the fraction is not 0": ({"T1_1": [np.nan, 600]}, "NaN or infinite T1 where"),
    "infinite": ({"T2_1": [np.inf, 600]}, "NaN or infinite T2 where"),
    "zero T1": ({"T1_1": [0, 600]}, "row 0 .* T1 <= 0"),
    "negative T2": ({"T2_2": [np.nan, -5]}, "row 1 .* T2 <= 0"),
    "sum": ({"f_2": [0, 0.6]}, "row 1 .* do not sum to 1 .*0.9"),
    "negative fraction": ({"f_1": [1, -0.3], "f_2": [0, 1.3]}, "negative fractions"),
    "NaN fraction": ({"f_1": [np.nan, 0.3]}, "NaN or infinite fractions"),
    "noise level": ({"noise_level": [0.01, np.nan]}, "noise_level that is NaN"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables(two_voxels, case):
    changes, message = BAD_TABLES[case]
    table = two_voxels.assign(**changes)
    with pytest.raises(ValueError, match=message):
        CorrelationSignalGenerator().fit(table)
    generator = CorrelationSignalGenerator()
    if "noise_level" not in changes:
        generator.fit(two_voxels)
        with pytest.raises(ValueError, match=message):
            generator.transform(table)


def test_the_error_names_the_bad_row(tissue):
    table = pd.concat([tissue, tissue], ignore_index=True)
    table.loc[12_345, "f_1"] = -1
    with pytest.raises(ValueError, match="row 12345 of the tissue table has negative"):
        CorrelationSignalGenerator().fit(table)


def test_unknown_columns_are_refused(two_voxels):
    for name in ("noise_levels", "T1_3", "T2star_1"):
        with pytest.raises(ValueError, match=f"unknown columns in the tissue table: {name}"):
            CorrelationSignalGenerator().fit(two_voxels.assign(**{name: 5.0}))
    # properties for other protocols are allowed
    CorrelationSignalGenerator().fit(two_voxels.assign(D_1=1.0, D_2=2.0))


def test_a_table_in_seconds_is_refused(two_voxels):
    times = two_voxels.filter(regex="^T").columns
    with pytest.raises(ValueError, match="T1 must be in ms.*seconds"):
        CorrelationSignalGenerator().fit(two_voxels.assign(**two_voxels[times] / 1000))


def test_missing_columns_are_named(two_voxels):
    with pytest.raises(ValueError, match="lacks the columns T2_2"):
        CorrelationSignalGenerator().fit(two_voxels.drop(columns="T2_2"))
    with pytest.raises(ValueError, match="lacks the columns D_1, D_2"):
        CorrelationSignalGenerator(AcquisitionProtocol.from_grid(te=[10, 20], b=[0, 1])).fit(
            two_voxels
        )
    with pytest.raises(ValueError, match="got 5 columns"):
        CorrelationSignalGenerator().fit(np.ones((3, 5)))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"noise_level": -0.01}, "noise_level"),
        ({"noise_level": (0.01, np.nan)}, "noise_level must be a number >= 0"),
        ({"noise_level": ()}, "noise_level must be a number >= 0"),
        ({"noise_reference": "snr"}, "noise_reference"),
        ({"noise_distribution": "poisson"}, "noise_distribution"),
        ({"inversion_efficiency": 0}, "inversion_efficiency"),
        ({"protocol": "ir-se-9x9"}, "known protocols: ir-se-8x8"),
        ({"protocol": 8}, "protocol"),
        ({"random_state": -1}, "random_state"),
        ({"n_jobs": 0}, "n_jobs"),
    ],
)
def test_bad_parameters(two_voxels, parameters, message):
    with pytest.raises(ValueError, match=message):
        CorrelationSignalGenerator(**parameters).fit(two_voxels)


@pytest.mark.parametrize("norm", [*physics.NORMS, None])
def test_normalizer(norm):
    X = np.random.default_rng(0).normal(size=(20, 4, 3)).astype(np.float32)
    got = SignalNormalizer(norm).fit_transform(X)
    assert got.shape == (20, 12)
    assert got.dtype == np.float32
    if norm is None:
        np.testing.assert_array_equal(got, X.reshape(20, 12))
        assert not np.shares_memory(got, X)
    else:
        np.testing.assert_allclose(physics.signal_norm(got, norm), 1, rtol=1e-6)


def test_normalizer_leaves_background_unchanged():
    X = np.zeros((2, 4))
    X[1] = 3
    np.testing.assert_array_equal(SignalNormalizer().fit_transform(X), [[0] * 4, [0.5] * 4])


@pytest.mark.parametrize("units", ["s", {"T1": "s", "T2": "s"}, {"t1": "s", "T2": "s"}])
def test_a_table_with_stated_units_is_converted(tissue, units):
    times = [name for name in tissue if name[0] == "T"]
    seconds = tissue.assign(**{name: tissue[name] / 1000 for name in times})
    before = seconds.copy()
    generator = CorrelationSignalGenerator(noise_level=0, dtype="float64", units=units)
    expected = CorrelationSignalGenerator(noise_level=0, dtype="float64").fit_transform(tissue)
    np.testing.assert_allclose(generator.fit_transform(seconds), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(generator.transform(seconds), expected, rtol=1e-9, atol=1e-12)
    pd.testing.assert_frame_equal(seconds, before)
    with pytest.raises(ValueError, match="must be in ms.*units='s'"):
        generator.set_params(units=None).fit(seconds)


def test_tissue_of_rock_and_gel_needs_the_statement_that_it_is_in_ms():
    rock = AcquisitionProtocol.from_grid(ti=[0.1, 1, 15], te=[0.05, 0.5, 2], units="ms")
    ranges = {"T1": PropertyRange(0.5, 9, units="ms"), "T2": PropertyRange(0.1, 3, units="ms")}
    prior = TissuePrior(ranges, n_compartments=(1, 2))
    table, _ = prior.sample(20, 0)
    generator = CorrelationSignalGenerator(rock, noise_level=0.01, random_state=0)
    for method in (generator.fit, generator.fit_transform):
        with pytest.raises(ValueError, match="T1 must be in ms.*units='ms'"):
            method(table)
    X = generator.set_params(units="ms").fit_transform(table)
    assert X.shape == (20, 9)
    # tissue of a prior was judged with the prior
    X, _ = make_correlation_signals(20, prior=prior, protocol=rock, random_state=0)
    assert X.shape == (20, 9)


@pytest.mark.parametrize("filler", [0.0, np.nan, 1e9, np.inf])
def test_absent_compartments_are_not_judged(two_voxels, filler):
    filled = two_voxels.copy()
    filled.loc[filled["f_2"] == 0, ["T1_2", "T2_2"]] = filler
    assert (filled["f_2"] == 0).any()
    CorrelationSignalGenerator(noise_level=0).fit(filled)


def test_tissue_in_microseconds_and_noise_in_percent_are_refused(two_voxels):
    times = [name for name in two_voxels if name[0] == "T"]
    with pytest.raises(ValueError, match="T1 must be in ms.*microseconds"):
        CorrelationSignalGenerator().fit(two_voxels.assign(**dict.fromkeys(times, 8e5)))
    for level in (50, (1, 2, 3)):
        with pytest.raises(ValueError, match=r"noise_level must not exceed 1.*SNRRange"):
            CorrelationSignalGenerator(noise_level=level).fit(two_voxels)
    with pytest.raises(ValueError, match=r"row 0 .* noise_level above 1 .*for 2 % pass 0.02"):
        CorrelationSignalGenerator().fit(two_voxels.assign(noise_level=2.0))


def test_tr_of_each_measurement_and_no_inversion(two_voxels):
    protocol = AcquisitionProtocol(ti=[np.inf, 500, 50], te=[10, 10, 40], tr=[2000, 5000, 9000])
    X = CorrelationSignalGenerator(protocol, noise_level=0, dtype="float64").fit_transform(
        two_voxels
    )
    for voxel, signals in zip(two_voxels.itertuples(), X, strict=True):
        measurements = zip(signals, protocol.ti, protocol.te, protocol.tr, strict=True)
        for signal, ti, te, tr in measurements:
            expected = sum(
                f * np.exp(-te / t2) * physics.inversion_recovery(ti, t1, tr=tr)
                for f, t1, t2 in (
                    (voxel.f_1, voxel.T1_1, voxel.T2_1), (voxel.f_2, voxel.T1_2, voxel.T2_2),
                )
                if f > 0
            )  # fmt: skip
            assert signal == pytest.approx(float(expected), rel=1e-12)


def test_equal_blocks_of_voxels_have_different_noise(tissue):
    same = pd.concat([tissue[:1]] * (2 * BLOCK_ROWS), ignore_index=True)
    generator = CorrelationSignalGenerator(noise_level=0.01, random_state=0, verbose=False)
    first, second = np.split(generator.fit_transform(same), 2)
    assert np.abs(first - second).mean() > 0.005


def test_the_channels_of_rician_noise_are_independent(tissue):
    # after a second of decay, signals are noise alone
    protocol = AcquisitionProtocol(te=[90_000, 95_000], units="ms")
    generator = CorrelationSignalGenerator(
        protocol, 0.1, noise_distribution="rician", random_state=0, verbose=False
    )
    signals = generator.fit_transform(tissue) / 0.1
    # Rayleigh distribution; the standard error of the mean of 18,000 draws is 0.005
    assert abs(signals.mean() - np.sqrt(np.pi / 2)) < 0.03
    assert stats.kstest(signals.ravel(), "rayleigh").pvalue > 1e-6
