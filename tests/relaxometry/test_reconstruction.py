"""Signals of estimated compartments."""

from __future__ import annotations

import numpy as np
import pytest

from corrsk import AcquisitionProtocol, MultiExponentialClassifier, Nuisances, TissuePrior
from corrsk import make_correlation_signals as make
from corrsk.acquisition.protocol import resolve_protocol

PROTOCOL = resolve_protocol("ir-se-8x8")


def fitted(protocol, X, **options):
    return MultiExponentialClassifier(
        protocol, counts=(1, 2), random_state=0, verbose=False, **options
    ).fit(X)


@pytest.mark.parametrize("n_compartments", [1, None])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_residual_of_reconstructed_signals_is_that_of_the_fit(n_compartments):
    # columns in another order than the grid, at another scale
    order = np.random.default_rng(0).permutation(64)
    X = 700 * make(12, noise_level=0.01, norm=None, random_state=0)[0][:, order]
    X[3] = 0
    model = fitted(
        AcquisitionProtocol({name: one[order] for name, one in PROTOCOL.contrasts.items()}), X
    )
    with pytest.warns(UserWarning, match="no signal"):
        table = model.estimate_compartments(X, n_compartments)
    signals = model.reconstruct_signals(table)
    bright = np.arange(12) != 3
    assert np.isnan(signals[3]).all()
    rss = ((signals - X)[bright] ** 2).sum(axis=1)
    np.testing.assert_allclose(rss, table["rss"][bright], rtol=1e-6)
    assert rss.max() < 0.1 * (X[bright] ** 2).sum(axis=1).max()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fitted_nuisances_are_part_of_the_signals():
    protocol = AcquisitionProtocol.from_grid(ti=[50, 300, 900, 2500], te=[10, 30, 70, 150])
    X, _ = make(
        10, protocol=protocol, prior=TissuePrior.named("t1t2-detr", n_compartments=(1,)),
        noise_level=0, norm=None, random_state=0, inversion_efficiency=0.85,
    )  # fmt: skip
    model = fitted(protocol, X, nuisances=Nuisances(inversion_efficiency=(0.7, 1.0)))
    signals = model.reconstruct_signals(model.estimate_compartments(X, 1))
    np.testing.assert_allclose(signals, X, atol=2e-3)


def test_another_table_is_refused():
    X, _ = make(4, noise_level=0.01, random_state=0)
    model = fitted(PROTOCOL, X)
    with pytest.raises(ValueError, match="lacks T2_1, T2_2, scale"):
        table = model.estimate_compartments(X, 1)
        model.reconstruct_signals(table.drop(columns=["T2_1", "T2_2", "scale"]))
