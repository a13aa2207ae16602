"""Nuisance parameters of priors, tissue tables and simulated signals."""

import json
import pickle

import numpy as np
import pytest

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    EchoTrain,
    Nuisances,
    SignalStream,
    SNRRange,
    TissuePrior,
)

RANGES = Nuisances(inversion_efficiency=(0.8, 1.0), b1=0.9, offset=(-0.01, 0.02), scale=(10, 1000))
PROTOCOL = AcquisitionProtocol.from_grid(
    ti=[50, 200, 800, 2500], te=[10, 20, 30], tr=8000, readout=EchoTrain(10.0, 150.0)
)
PRIOR = TissuePrior.named("t1t2-detr", nuisances=RANGES)


def test_parameters_are_drawn_within_their_ranges():
    tissue, _ = PRIOR.sample(4000, random_state=0)
    assert tissue["inversion_efficiency"].between(0.8, 1.0).all()
    assert tissue["offset"].between(-0.01, 0.02).all()
    assert (tissue["b1"] == 0.9).all()
    # uniform in the logarithm: the median is the geometric mean, 100; standard error 0.03
    assert abs(np.log10(tissue["scale"]).median() - 2) < 0.2


def test_the_tissue_of_a_seed_does_not_depend_on_nuisances():
    with_ranges, n_c = PRIOR.sample(5000, random_state=0, noise_level=[0.01, 0.02])
    without, n_c_without = TissuePrior.named("t1t2-detr").sample(
        5000, random_state=0, noise_level=[0.01, 0.02]
    )
    np.testing.assert_array_equal(n_c, n_c_without)
    np.testing.assert_array_equal(with_ranges[without.columns], without)


def test_draws_do_not_depend_on_the_number_of_threads():
    one, _ = PRIOR.sample(9000, random_state=0, n_jobs=1)
    two, _ = PRIOR.sample(9000, random_state=0, n_jobs=2)
    np.testing.assert_array_equal(one, two)


def test_copies_and_files():
    for copy in (
        pickle.loads(pickle.dumps(PRIOR)),
        TissuePrior.from_dict(json.loads(json.dumps(PRIOR.to_dict()))),
    ):
        assert copy == PRIOR
    assert "nuisances" not in TissuePrior().to_dict()
    assert "nuisances" not in repr(TissuePrior())


def test_columns_override_row_by_row():
    tissue, _ = TissuePrior.named("t1t2-detr").sample(50, random_state=0)
    generator = CorrelationSignalGenerator(
        PROTOCOL, noise_level=0.0, inversion_efficiency=0.9, dtype="float64"
    )
    plain = generator.fit_transform(tissue)
    np.testing.assert_allclose(
        generator.fit_transform(tissue.assign(inversion_efficiency=0.9)), plain, atol=1e-12
    )
    np.testing.assert_allclose(
        generator.fit_transform(tissue.assign(offset=0.01, scale=50.0)), 50 * (plain + 0.01)
    )
    efficiencies = np.linspace(0.8, 1.0, 50)
    changed = generator.fit_transform(tissue.assign(inversion_efficiency=efficiencies))
    row = tissue.iloc[[10]]
    alone = CorrelationSignalGenerator(
        PROTOCOL, noise_level=0.0, inversion_efficiency=efficiencies[10], dtype="float64"
    ).fit_transform(row)
    np.testing.assert_allclose(changed[[10]], alone, atol=1e-12)


def test_scale_and_gain_act_on_the_noise_too():
    first = AcquisitionProtocol(ti=[50, 400, 1200], te=10)
    second = AcquisitionProtocol(te=[10, 20, 30])
    protocol = AcquisitionProtocol.concatenate([first, second], same_gain=False)
    tissue, _ = TissuePrior.named("t1t2-detr").sample(200, random_state=0)
    generator = CorrelationSignalGenerator(
        protocol, noise_level=0.1, random_state=0, dtype="float64"
    )
    plain = generator.fit_transform(tissue)
    gains = np.linspace(0.5, 2, 200)
    scaled = generator.fit_transform(tissue.assign(gain=gains, scale=7.0))
    np.testing.assert_allclose(scaled[:, :3], 7 * plain[:, :3])
    np.testing.assert_allclose(scaled[:, 3:], 7 * gains[:, None] * plain[:, 3:])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"inversion_efficiency": (0.0, 1.0)}, "inversion_efficiency must be ascending and above"),
        ({"inversion_efficiency": 2.2}, "at most 2"),
        ({"b1": (1.2, 0.8)}, "b1 must be ascending"),
        ({"offset": "much"}, "offset must be a number or a pair"),
        ({"scale": (1.0, np.inf)}, "scale must be ascending"),
    ],
)
def test_invalid_ranges_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Nuisances(**wrong)


def test_invalid_values_of_a_table_are_refused():
    tissue, _ = TissuePrior.named("t1t2-detr").sample(5, random_state=0)
    with pytest.raises(ValueError, match=r"row 2 .* inversion_efficiency .* \(2.5\)"):
        CorrelationSignalGenerator(PROTOCOL).fit(
            tissue.assign(inversion_efficiency=[1, 1, 2.5, 1, 1])
        )


@pytest.mark.parametrize(
    ("nuisances", "protocol", "message"),
    [
        (Nuisances(inversion_efficiency=0.9), AcquisitionProtocol(te=[10, 20]), "no inversion"),
        (Nuisances(b1=(0.8, 1.0)), "ir-se-8x8", "single spin echoes"),
        (Nuisances(gain=(0.5, 2.0)), "ir-se-8x8", "1 series"),
    ],
)
def test_nuisances_without_effect_are_refused(nuisances, protocol, message):
    prior = TissuePrior.named("midl2024", nuisances=nuisances)
    with pytest.raises(ValueError, match=message):
        SignalStream(prior, protocol)


def test_streams_draw_nuisances():
    stream = SignalStream(PRIOR, PROTOCOL, SNRRange(20, 1000, scale="log"), "max", norm=None)
    X, _ = stream.draw(0, 2000)
    largest = np.abs(X).max(axis=1)
    assert largest.min() < 30
    assert largest.max() > 200
    other, _ = stream.draw(1, 2000)
    assert not np.array_equal(X, other)
