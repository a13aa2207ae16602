"""Priors of continuous distributions."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy import stats

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    Nuisances,
    make_correlation_signals,
)
from corrsk.simulation import DATASETS, SignalStream
from corrsk.tissue import Lobe, LobePrior, PropertyRange

SHORT = Lobe("short", PropertyRange(15, 35), PropertyRange(1, 3), (0.05, 0.25))
LONG = Lobe("long", PropertyRange(60, 90), PropertyRange(6, 12))
PRIOR = LobePrior((SHORT, LONG), nuisances=Nuisances(b1=(0.5, 1.0)))
# 12 tests of distributions with these levels raise a false alarm with a probability of 0.001
LEVEL = 1e-4


def test_the_parameters_of_lobes_have_their_distributions():
    tissue, n_c = PRIOR.sample(20_000, random_state=0)
    assert (n_c == 2).all()
    lobes = PRIOR.lobes_of(tissue)
    for lobe in (SHORT, LONG):
        for column, values in ((f"T2_{lobe.name}", lobe.mean), (f"T2_sd_{lobe.name}", lobe.sd)):
            law = stats.uniform(values.low, values.high - values.low)
            assert stats.kstest(lobes[column], law.cdf).pvalue > LEVEL
    assert stats.kstest(lobes["f_short"], stats.uniform(0.05, 0.2).cdf).pvalue > LEVEL
    np.testing.assert_allclose(lobes["f_short"] + lobes["f_long"], 1, atol=1e-12)
    assert stats.kstest(tissue["b1"], stats.uniform(0.5, 0.5).cdf).pvalue > LEVEL
    parameters = lobes.drop(columns="f_long").assign(b1=tissue["b1"]).corr().to_numpy()
    assert np.abs(parameters[~np.eye(len(parameters), dtype=bool)]).max() < 5 / np.sqrt(20_000)


def test_the_signal_of_a_lobe_is_the_mean_over_its_distribution():
    te = 10.0 * np.arange(1, 33)
    fixed = PropertyRange(60, 60), PropertyRange(12, 12)
    prior = LobePrior((Lobe("wide", *fixed),))
    tissue, _ = prior.sample(1, random_state=0)
    generator = CorrelationSignalGenerator(
        AcquisitionProtocol(te=te), noise_level=0.0, dtype="float64"
    )
    found = generator.fit_transform(tissue)[0]
    t2 = np.linspace(0.1, 132, 40_001)
    density = stats.norm(60, 12).pdf(t2)
    expected = np.exp(-te[:, None] / t2) @ density / density.sum()
    np.testing.assert_allclose(found, expected, atol=4e-6)
    # a single T2 at the mean has another signal
    assert np.abs(np.exp(-te / 60) - expected).max() > 1e-3


def test_draws_do_not_depend_on_threads_or_the_number_of_nodes():
    tissue, _ = PRIOR.sample(20_000, random_state=3, n_jobs=1)
    again, _ = PRIOR.sample(20_000, random_state=3, n_jobs=2)
    np.testing.assert_array_equal(tissue, again)
    more = LobePrior(PRIOR.lobes, n_nodes=7, nuisances=PRIOR.nuisances)
    other, _ = more.sample(20_000, random_state=3)
    np.testing.assert_allclose(PRIOR.lobes_of(tissue), more.lobes_of(other), rtol=1e-9)


def test_plain_values_and_pickles_keep_the_prior():
    three = LobePrior((SHORT, LONG, Lobe("fluid", PropertyRange(500, 900), PropertyRange(1, 20),
                                         (0.01, 0.1))), n_nodes=3)  # fmt: skip
    for prior in (PRIOR, three):
        assert LobePrior.from_dict(prior.to_dict()) == prior
        assert pickle.loads(pickle.dumps(prior)) == prior
    tissue, n_c = three.sample(100, random_state=0)
    assert (n_c == 3).all()
    assert tissue.shape == (100, 18)
    names = [name for name in three.lobes_of(tissue) if name.startswith("f_")]
    np.testing.assert_allclose(three.lobes_of(tissue)[names].sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lobes": ()}, "sequence of Lobe"),
        ({"lobes": (SHORT,)}, "one lobe must have no fraction"),
        ({"lobes": (LONG, LONG)}, "must differ"),
        ({"lobes": (SHORT, LONG), "n_nodes": 0}, "n_nodes"),
        ({"lobes": (SHORT, LONG), "n_nodes": 40}, "reaches a T2 of -"),
        ({"lobes": (SHORT, LONG), "tissue_property": "T3"}, "ranges must have"),
        ({"lobes": (SHORT, LONG), "nuisances": 1}, "nuisances"),
        ({"lobes": (SHORT, "long")}, "must be a Lobe"),
    ],
)
def test_priors_that_make_no_sense(parameters, message):
    with pytest.raises(ValueError, match=message):
        LobePrior(**parameters)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a b"}, "letters"),
        ({"mean": 20}, "mean of the lobe 'short' must be a PropertyRange"),
        ({"fraction": (0.3, 0.2)}, "ascending"),
        ({"fraction": 0.2}, "pair"),
        ({"fraction": (0.0, 0.5)}, "between 0 and 1"),
    ],
)
def test_lobes_that_make_no_sense(changes, message):
    values = {"name": "short", "mean": SHORT.mean, "sd": SHORT.sd, "fraction": (0.1, 0.2)}
    with pytest.raises(ValueError, match=message):
        Lobe(**values | changes)


def test_entries_that_are_no_prior_of_lobes():
    content = PRIOR.to_dict()
    with pytest.raises(ValueError, match="a prior of lobes"):
        LobePrior.from_dict(content | {"lobe": []})
    with pytest.raises(ValueError, match="a lobe"):
        LobePrior.from_dict(content | {"lobes": [{"name": "short"}]})
    with pytest.raises(ValueError, match="none of this prior"):
        PRIOR.lobes_of(PRIOR.sample(2, 0)[0].drop(columns="T2_3"))


def test_the_published_data_of_myelin_water():
    definition = DATASETS["canales2021"]
    stream = SignalStream.named("canales2021")
    X, n_c = stream.draw(0, 2000)
    assert X.shape == (2000, 32)
    assert (X > 0).all()
    assert set(n_c) == {2}
    with pytest.raises(ValueError, match="at least two of n_compartments"):
        definition.check_for_training()
    # the noise is relative to the first echo, which is not the largest one
    common = {"prior": definition.prior, "protocol": definition.protocol, "norm": None}
    clean, *_ = make_correlation_signals(
        2000, **common, noise_level=0.0, random_state=0, return_tissue=True
    )
    assert (clean.argmax(axis=1) > 0).mean() > 0.4
    noisy, _ = make_correlation_signals(
        2000, **common, noise_level=0.01, noise_reference="first", random_state=0
    )
    # 64,000 draws: five standard errors of a standard deviation are 0.014
    assert np.std((noisy - clean) / clean[:, :1]) == pytest.approx(0.01, rel=0.014)
