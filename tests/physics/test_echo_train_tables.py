"""Signals of echo trains, and of nuisance parameters of each voxel."""

import numpy as np
import pytest

from corrsk.physics import EchoTrain, SliceProfile, correlation_signals
from corrsk.physics.echo_train_tables import EchoTrainTable

PROFILE = SliceProfile(0.99, 1.65, 1.96, 46.0)
TRAINS = [
    EchoTrain(10.0),
    EchoTrain(10.0, refocusing_angle=130.0),
    EchoTrain(10.0, refocusing_angle=187.0, profile=PROFILE),
    # the excitation differs between positions too
    EchoTrain(10.0, refocusing_angle=170.0, profile=SliceProfile(0.8, 3.0, 0.6, 2.0)),
]


def tissue(n=400, seed=0):
    rng = np.random.default_rng(seed)
    t1 = np.exp(rng.uniform(np.log(20), np.log(5000), n))
    return t1, np.minimum(1.2 * t1, np.exp(rng.uniform(np.log(1), np.log(3000), n))), rng


@pytest.mark.parametrize("train", TRAINS)
@pytest.mark.parametrize("n_echoes", [1, 2, 8])
def test_tables_agree_with_extended_phase_graphs(train, n_echoes):
    t1, t2, rng = tissue()
    b1 = rng.uniform(0.6, 1.2, t1.size)
    table = EchoTrainTable(train, np.arange(1, n_echoes + 1))
    for each in (None, b1):
        exact = train.amplitudes(n_echoes, t1, t2, 1.0 if each is None else each)
        np.testing.assert_allclose(table(t1, t2, each), exact, atol=1e-4)


def test_a_long_train_agrees_for_any_b1():
    train = EchoTrain(5.0, refocusing_angle=150.0)
    t1, t2, rng = tissue(200)
    b1 = rng.uniform(0.9, 1.1, t1.size)
    chosen = np.array([1, 2, 3, 7, 15, 32])
    exact = train.amplitudes(32, t1, t2, b1)[:, chosen - 1]
    np.testing.assert_allclose(EchoTrainTable(train, chosen)(t1, t2, b1), exact, atol=1e-4)


def test_perfect_pulses_are_the_exponential_decay():
    t1, t2, _ = tissue()
    te = 10.0 * np.arange(1, 9)
    table = EchoTrainTable(EchoTrain(10.0), np.arange(1, 9))
    np.testing.assert_allclose(table(t1, t2), np.exp(-te / t2[:, None]), atol=1e-12)


def test_ranges_of_b1_that_grow_do_not_change_the_echoes():
    t1, t2, rng = tissue(50)
    table = EchoTrainTable(TRAINS[1], np.arange(1, 5))
    b1 = rng.uniform(0.9, 1.0, t1.size)
    before = table(t1, t2, b1)
    for low, high in ((0.5, 1.0), (0.5, 1.3)):  # at one end, and at the other
        grown = rng.uniform(low, high, t1.size)
        exact = TRAINS[1].amplitudes(4, t1, t2, grown)
        np.testing.assert_allclose(table(t1, t2, grown), exact, atol=1e-4)
        np.testing.assert_allclose(table(t1, t2, b1), before, atol=1e-4)


@pytest.fixture(params=["grid", "scattered"])
def series(request):
    ti = np.array([50.0, 400.0, 2000.0])
    te = 10.0 * np.arange(1, 5)
    if request.param == "grid":
        ti, te = (values.ravel() for values in np.meshgrid(ti, te, indexing="ij"))
        return {"TI": ti, "TE": te}, [TRAINS[1]] * ti.size
    # inversion recovery by single echoes, and an echo train
    return (
        {"TI": np.r_[ti, np.full(4, np.inf)], "TE": np.r_[np.full(3, 12.0), te]},
        [None] * 3 + [TRAINS[2]] * 4,
    )


def voxels(n=30, seed=0):
    rng = np.random.default_rng(seed)
    t1 = np.exp(rng.uniform(np.log(100), np.log(3000), (n, 2)))
    t2 = np.minimum(t1, np.exp(rng.uniform(np.log(10), np.log(300), (n, 2))))
    f = rng.uniform(0.1, 0.9, n)
    fractions = np.stack([f, 1 - f], axis=1)
    fractions[::3] = [1.0, 0.0]
    t1[::3, 1] = t2[::3, 1] = np.nan
    nuisances = {
        "inversion_efficiency": rng.uniform(0.8, 1, n), "b1": rng.uniform(0.7, 1.1, n),
        "offset": rng.uniform(-0.02, 0.02, n), "echo_loss": rng.uniform(0, 0.05, n),
    }  # fmt: skip
    return {"T1": t1, "T2": t2}, fractions, nuisances


def expected(measurements, readout, tissue, fractions, nuisances, tr):
    n = len(fractions)
    signals = np.zeros((n, len(readout)))
    for j, train in enumerate(readout):
        ti, te = measurements["TI"][j], measurements["TE"][j]
        for k in range(2):
            t1, t2 = (np.nan_to_num(tissue[name][:, k], nan=100.0) for name in ("T1", "T2"))
            eta = nuisances["inversion_efficiency"]
            recovered = np.exp(-tr / t1)
            longitudinal = (
                1 - recovered
                if np.isinf(ti)
                else 1 - (1 + eta) * np.exp(-ti / t1) + eta * recovered
            )
            if train is None:
                echo = np.exp(-te / t2)
            else:
                number = round(te / train.spacing)
                echo = train.amplitudes(number, t1, t2, nuisances["b1"])[:, -1]
            signals[:, j] += fractions[:, k] * longitudinal * echo
    ranks = [sorted(set(measurements["TE"])).index(te) for te in measurements["TE"]]
    signals *= (1 - nuisances["echo_loss"][:, None]) ** ranks
    return signals + nuisances["offset"][:, None]


def test_nuisance_parameters_of_each_voxel(series):
    measurements, readout = series
    tissue, fractions, nuisances = voxels()
    signals = correlation_signals(
        measurements, tissue, fractions, tr=8000.0, readout=readout, **nuisances
    )
    exact = expected(measurements, readout, tissue, fractions, nuisances, 8000.0)
    np.testing.assert_allclose(signals, exact, atol=1e-4)


@pytest.mark.parametrize("library", ["torch"])
def test_other_libraries_agree_with_numpy(series, library):
    torch = pytest.importorskip(library)
    measurements, readout = series
    tissue, fractions, nuisances = voxels()
    signals = correlation_signals(
        measurements, tissue, fractions, tr=8000.0, readout=readout, **nuisances
    )
    given = correlation_signals(
        measurements, {name: torch.as_tensor(v) for name, v in tissue.items()},
        torch.as_tensor(fractions), tr=8000.0, readout=readout,
        **{name: torch.as_tensor(v) for name, v in nuisances.items()},
    )  # fmt: skip
    np.testing.assert_allclose(given.numpy(), signals, atol=1e-6)


def test_equal_efficiencies_are_one_efficiency(series):
    measurements, _ = series
    tissue, fractions, _ = voxels()
    one = correlation_signals(measurements, tissue, fractions, inversion_efficiency=0.9)
    each = correlation_signals(
        measurements, tissue, fractions, inversion_efficiency=np.full(len(fractions), 0.9)
    )
    np.testing.assert_allclose(each, one, atol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"spacing": 0.0}, "spacing of an echo train must be positive"),
        ({"spacing": 10.0, "refocusing_angle": 300.0}, "at most 270"),
        ({"spacing": 10.0, "t1": -1.0}, "t1 of an echo train"),
    ],
)
def test_invalid_echo_trains_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        EchoTrain(**wrong)


def test_echo_times_must_be_echoes_of_the_train():
    with pytest.raises(ValueError, match="TE of 15 ms is no echo of a train with a spacing of 10"):
        EchoTrain(10.0).echo_numbers([10.0, 15.0])
    with pytest.raises(ValueError, match="an echo train needs echo times"):
        correlation_signals(
            {"TI": np.ones(2)}, {"T1": np.ones((1, 1))}, np.ones((1, 1)), readout=EchoTrain(10.0)
        )
    with pytest.raises(ValueError, match="one entry for each of the 2 measurements"):
        correlation_signals(
            {"TE": np.array([10.0, 20.0])}, {"T2": np.ones((1, 1))}, np.ones((1, 1)),
            readout=[EchoTrain(10.0)],
        )  # fmt: skip
