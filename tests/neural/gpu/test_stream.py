"""Simulation with torch has the same distributions as with numpy (here on the processor)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

from corrsk import (
    AcquisitionProtocol,
    EchoTrain,
    Nuisances,
    PropertyRange,
    SignalStream,
    SNRRange,
    TissuePrior,
    physics,
)
from corrsk.neural.gpu.stream import DeviceStream
from corrsk.tissue.fractions import FRACTION_LAWS

CPU = torch.device("cpu")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
N = 20_000


def drawn(prior, n=N, chunk=0):
    """Return counts, tissue and fractions of a chunk as numpy arrays."""
    stream = DeviceStream(SignalStream(prior), CPU)
    rng = stream.generator(chunk)
    count, _ = stream.allocate(n, rng)
    n_c = torch.as_tensor(stream.stream.classes)[count]
    tissue, fractions = stream.tissue(n_c, rng)
    return n_c.numpy(), {name: values.numpy() for name, values in tissue.items()}, fractions.numpy()


def same_distribution(ours, numpys):
    return stats.ks_2samp(ours, numpys).pvalue > 1e-4


@pytest.mark.parametrize(("n_counts", "n_levels"), [(4, 5), (3, 1), (2, 4)])
@pytest.mark.parametrize("n", [1, 7, 1000, 1003])
def test_counts_and_levels_are_balanced(n_counts, n_levels, n):
    prior = TissuePrior(n_compartments=tuple(range(1, n_counts + 1)))
    levels = tuple(0.01 * (k + 1) for k in range(n_levels))
    stream = DeviceStream(SignalStream(prior, noise_level=levels), CPU)
    count, level = stream.allocate(n, stream.generator(0))
    place = np.searchsorted(levels, level.numpy() - 1e-6)
    table = np.zeros((n_counts, n_levels), dtype=int)
    np.add.at(table, (count.numpy(), place), 1)
    for counted in (table.sum(axis=0), table.sum(axis=1), *table):
        assert np.ptp(counted) <= 1
    assert table.sum() == n


def test_the_order_is_random():
    stream = DeviceStream(SignalStream(), CPU)
    count, level = stream.allocate(N, stream.generator(0))
    for values in (count.double(), level.double()):
        assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.05


@pytest.mark.parametrize("with_replacement", [True, False])
def test_property_values_are_on_the_grid(with_replacement):
    prior = TissuePrior(with_replacement=with_replacement)
    n_c, tissue, fractions = drawn(prior)
    present = fractions > 0
    np.testing.assert_array_equal(present.sum(axis=1), n_c)
    for name, step in (("T1", 50), ("T2", 5)):
        values = tissue[name]
        counted = np.unique(values[present], return_counts=True)
        np.testing.assert_array_equal(counted[0], step * np.arange(1, 101))
        assert stats.chisquare(counted[1]).pvalue > 1e-4
        equal = (values[:, :1] == values[:, 1:]).any()
        assert equal == with_replacement


def test_fractional_grids_equal_those_of_the_processor():
    ranges = {"T2": PropertyRange(20, 200, step=20), "D": PropertyRange(0.1, 3, step=0.1)}
    prior = TissuePrior(ranges=ranges, n_compartments=(1, 2))
    protocol = AcquisitionProtocol.from_grid(te=[10, 60], b=[0, 1, 2])
    stream = DeviceStream(SignalStream(prior, protocol), CPU)
    tissue, _ = stream.tissue(torch.full((500,), 2), stream.generator(0))
    grid = (0.1 + 0.1 * np.arange(30)).astype(np.float32)
    assert np.isin(tissue["D"].numpy(), grid).all()
    assert stream.draw(0, 10)[0].shape == (10, 6)


@pytest.mark.parametrize("law", FRACTION_LAWS)
def test_fractions_have_the_distribution_of_numpy(law):
    prior = TissuePrior(n_compartments=(2, 4), fraction_law=law)
    n_c, _, fractions = drawn(prior)
    np.testing.assert_allclose(fractions.sum(axis=1), 1, atol=1e-6)
    assert fractions[fractions > 0].min() >= 0.05 - 1e-7
    table, numpy_n_c = prior.sample(N, 0)
    for count in (2, 4):
        ours, numpys = fractions[n_c == count, 0], table["f_1"][numpy_n_c == count]
        if law == "equal":
            np.testing.assert_allclose(ours, 1 / count)
        else:
            assert same_distribution(ours, numpys)


def test_t2_below_t1_on_continuous_ranges():
    prior = TissuePrior.named("t1t2-detr")
    n_c, tissue, fractions = drawn(prior)
    present = fractions > 0
    assert (tissue["T2"] < tissue["T1"])[present].all()
    table, numpy_n_c = prior.sample(N, 0)
    for name in ("T1", "T2"):
        for count in (1, 3):
            numpys = table[f"{name}_1"][numpy_n_c == count]
            assert same_distribution(tissue[name][n_c == count, 0], numpys)


def test_an_almost_impossible_constraint_is_an_error(monkeypatch):
    ranges = {"T1": PropertyRange(50, 60), "T2": PropertyRange(49.999, 500)}
    prior = TissuePrior(ranges=ranges, t2_below_t1=True)
    stream = DeviceStream(SignalStream(), CPU)
    stream.prior = prior  # a SignalStream with this prior would fail as late
    monkeypatch.setattr("corrsk.tissue.prior.MAX_REDRAWS", 3)
    with pytest.raises(ValueError, match="t2_below_t1 leaves too little"):
        stream.tissue(torch.full((100,), 4), stream.generator(0))


@pytest.mark.parametrize("reference", physics.NOISE_REFERENCES)
def test_the_noise_is_gaussian_with_the_given_level(reference):
    prior = TissuePrior(n_compartments=(2,))
    parameters = {"prior": prior, "noise_reference": reference, "norm": None}
    clean, _ = DeviceStream(SignalStream(noise_level=0.0, **parameters), CPU).draw(2, N)
    noisy, _ = DeviceStream(SignalStream(noise_level=0.03, **parameters), CPU).draw(2, N)
    sigma = physics.noise_sigma(clean, torch.tensor(0.03), reference)
    draws = ((noisy - clean) / sigma[:, None]).numpy()
    assert draws.std() == pytest.approx(1, abs=0.003)
    assert stats.kstest(draws[:3000].ravel(), "norm").pvalue > 1e-4
    assert np.abs(np.cov(draws.T) - np.eye(64)).max() < 0.06


def test_noise_levels_of_a_range():
    stream = DeviceStream(SignalStream(noise_level=SNRRange(30, 150)), CPU)
    _, level = stream.allocate(N, stream.generator(0))
    assert stats.kstest(1 / level.numpy(), stats.uniform(30, 120).cdf).pvalue > 1e-4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "stream",
    [
        SignalStream.named("midl2024"),
        SignalStream.named("midl2024-low-noise"),
        SignalStream.named("t1t2-detr"),
        SignalStream.named("scanner-ir-se-8x8-magnitude"),
        SignalStream(noise_distribution="rician", noise_level=0.1, inversion_efficiency=0.9),
        SignalStream(noise_distribution="rician", noise_level=0.1, n_coils=3),
    ],
    ids=["midl2024", "low noise", "t1t2-detr", "scanner, magnitudes", "rician", "three coils"],
)
def test_signals_have_the_distribution_of_numpy(stream, device):
    X, y = DeviceStream(stream, torch.device(device)).draw(0, N)
    X, y = X.cpu(), y.cpu()
    numpys, n_c = stream.draw(0, N)
    assert X.dtype == torch.float32
    assert y.dtype == torch.int64
    if stream.norm is not None:
        np.testing.assert_allclose(X.norm(dim=1), 1, atol=1e-5)
    for position, count in enumerate(stream.classes):
        ours = X[y == position].numpy()
        for column in (0, 7, 30, 63):
            assert same_distribution(ours[:, column], numpys[n_c == count][:, column])


ECHOES = AcquisitionProtocol(te=[10, 20, 40], tr=3000, readout=EchoTrain(10.0, 140.0))
INVERSION = AcquisitionProtocol(ti=[50, 400, 2000], te=10, tr=8000)
# the second series comes first in grid order
JOINED = AcquisitionProtocol.concatenate([ECHOES, INVERSION], same_gain=False)
NUISANCES = Nuisances(
    inversion_efficiency=(0.7, 1.0), b1=(0.7, 1.2), echo_loss=(0.0, 0.1), offset=(-0.02, 0.03),
    scale=(0.5, 20.0), gain=(1.0, 4.0),
)  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("noise_distribution", ["gaussian", "rician"])
@pytest.mark.parametrize("norm", ["l2", None])
def test_nuisances_have_the_distribution_of_numpy(device, noise_distribution, norm):
    prior = TissuePrior.named("t1t2-detr", nuisances=NUISANCES)
    noise = SNRRange(20, 1000, scale="log")
    stream = SignalStream(prior, JOINED, noise, "max", noise_distribution, norm=norm)
    X, y = (part.cpu().numpy() for part in DeviceStream(stream, torch.device(device)).draw(0, N))
    numpys, n_c = stream.draw(0, N)
    for position, count in enumerate(stream.classes):
        ours, theirs = X[y == position], numpys[n_c == count]
        for column in range(JOINED.n_measurements):
            assert same_distribution(ours[:, column], theirs[:, column])


@pytest.mark.parametrize("name", ["b1", "echo_loss", "offset", "gain", "inversion_efficiency"])
def test_each_nuisance_acts_on_the_same_measurements(name):
    """Signals with and without noise-free nuisances, of the same tissue, with numpy and torch."""
    extreme = {
        "b1": 0.6, "echo_loss": 0.3, "offset": 0.2, "gain": 3.0, "inversion_efficiency": 0.5
    }[name]  # fmt: skip
    single = TissuePrior({"T1": PropertyRange(600, 600), "T2": PropertyRange(50, 50)},
                         n_compartments=(1,))  # fmt: skip
    changed = []
    for nuisances in (None, Nuisances(**{name: extreme})):
        prior = dataclasses.replace(single, nuisances=nuisances)
        stream = SignalStream(prior, JOINED, noise_level=0.0, norm=None)
        numpys, _ = stream.draw(0, 2)
        ours, _ = DeviceStream(stream, CPU).draw(0, 2)
        np.testing.assert_allclose(ours.numpy(), numpys, atol=1e-5)
        changed.append(numpys[0])
    expected = {
        "b1": [True] * 3 + [False] * 3, "echo_loss": [False, True, True] + [False] * 3,
        "offset": [True] * 6, "gain": [False] * 3 + [True] * 3,
        "inversion_efficiency": [False] * 3 + [True] * 3,
    }[name]  # fmt: skip
    np.testing.assert_array_equal(np.abs(changed[1] - changed[0]) > 1e-3, expected)


def test_ratios_of_a_logarithmic_range():
    stream = DeviceStream(SignalStream(noise_level=SNRRange(20, 1000, scale="log")), CPU)
    _, level = stream.allocate(N, stream.generator(0))
    law = stats.uniform(np.log(20), np.log(50)).cdf
    assert stats.kstest(-np.log(level.numpy()), law).pvalue > 1e-4


def test_chunks_are_reproducible_and_different():
    stream = SignalStream.named("midl2024-low-noise")
    X, y = DeviceStream(stream, CPU).draw(5, 3000)
    again, y_again = DeviceStream(stream, CPU).draw(5, 3000)
    assert torch.equal(X, again)
    assert torch.equal(y, y_again)
    other, _ = DeviceStream(stream, CPU).draw(6, 3000)
    seeded, _ = DeviceStream(SignalStream.named("midl2024-low-noise", 1), CPU).draw(5, 3000)
    rows = {row.tobytes() for row in torch.cat([X, other, seeded]).numpy()}
    assert len(rows) == 9000  # no signal twice


def test_drawing_does_not_change_the_users_random_state():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    DeviceStream(SignalStream(), CPU).draw(0, 100)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("chunk", "n"), [(-1, 10), (0, 0)])
def test_bad_chunks(chunk, n):
    with pytest.raises(ValueError, match="must be at least"):
        DeviceStream(SignalStream(), CPU).draw(chunk, n)


@pytest.mark.parametrize("device", DEVICES)
def test_no_inversion_and_a_tr_of_each_measurement(device):
    protocol = AcquisitionProtocol.concatenate(  # not in grid order
        [AcquisitionProtocol(te=[10, 40, 90], tr=3000),
         AcquisitionProtocol(ti=[50, 400, 2000], te=10, tr=8000)]
    )  # fmt: skip
    source = SignalStream(protocol=protocol, noise_level=0.0, norm=None)
    stream = DeviceStream(source, torch.device(device))
    X, y = stream.draw(0, 500)
    rng = stream.generator(0)
    y, _ = stream.allocate(500, rng)
    tissue, fractions = stream.tissue(torch.as_tensor(stream.stream.classes, device=device)[y], rng)
    expected = physics.correlation_signals(
        protocol.contrasts, {name: values.cpu().numpy() for name, values in tissue.items()},
        fractions.cpu().numpy(), tr=protocol.tr,
    )  # fmt: skip
    assert X.isfinite().all()
    np.testing.assert_allclose(X.cpu().numpy(), expected, atol=1e-6)
