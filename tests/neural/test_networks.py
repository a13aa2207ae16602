"""The torch modules, the grid of the CNN and the Muon optimiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corrsk.neural._grid import smallest_grid
from corrsk.neural.networks import (
    CorrelationCNN,
    HalfWhitenedNetwork,
    ResidualBlock,
    ResidualMLP,
    StandardizedNetwork,
)
from corrsk.neural.training.optimizers import muon


def n_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_papers_network_has_4208_parameters():
    assert n_parameters(CorrelationCNN()) == 4208
    sizes = [tuple(p.shape) for p in CorrelationCNN().parameters() if p.ndim > 1]
    assert sizes == [(6, 1, 3, 3), (16, 6, 3, 3), (32, 64), (32, 32), (4, 32)]


@pytest.mark.parametrize(
    "shape", [(8, 8), (6, 6), (16, 10), (1, 8), (3, 2), (8, 8, 4), (2, 3, 5), (7, 9)]
)
def test_the_cnn_accepts_other_grids(shape):
    network = CorrelationCNN(3, shape).eval()
    logits = network(torch.randn(5, int(np.prod(shape))))
    assert logits.shape == (5, 3)
    assert torch.isfinite(logits).all()


def test_columns_are_laid_out_ti_major():
    network = CorrelationCNN(2, (7, 9))
    x = torch.arange(63.0)[None]
    image = network._grid(x)
    assert image.shape == (1, 1, 7, 9)
    assert image[0, 0, 2, 3] == 2 * 9 + 3
    deep = CorrelationCNN(2, (6, 7, 3))._grid(torch.arange(126.0)[None])
    assert deep.shape == (1, 3, 6, 7)
    assert deep[0, 2, 4, 5] == (4 * 7 + 5) * 3 + 2  # b varies fastest


def test_missing_columns_and_short_sides_are_filled_with_zeros():
    network = CorrelationCNN(2, (6, 6))
    image = network._grid(torch.ones(1, 30))
    assert image.sum() == 30
    assert (image[0, 0, 5] == 0).all()
    image = CorrelationCNN(2, (2, 8))._grid(torch.ones(1, 16))
    assert image.shape == (1, 1, 6, 8)
    assert image[0, 0, :2].sum() == 16


def test_dropout_acts_only_in_training():
    network = CorrelationCNN(dropout=0.5)
    x = torch.randn(4, 64)
    network.train()
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    still = CorrelationCNN(dropout=0.0).train()
    assert torch.equal(still(x), still(x))


def test_bad_grid():
    for shape in ((8,), (0, 8), (2, 2, 2, 2)):
        with pytest.raises(ValueError, match="two or three positive"):
            CorrelationCNN(4, shape)


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, (6, 6)), (36, (6, 6)), (37, (6, 7)), (48, (6, 8)), (64, (8, 8)), (65, (6, 11))],
)
def test_smallest_grid(n, expected):
    assert smallest_grid(n) == expected


def test_smallest_grid_has_room_for_the_columns():
    for n in range(1, 300):
        rows, columns = smallest_grid(n)
        assert rows >= 6
        assert columns >= 6
        assert rows * columns >= n
        smaller = [r for r in range(6, n) if n <= r * max(6, -(-n // r)) < rows * columns]
        assert not smaller


def test_standardisation_is_part_of_the_saved_state():
    mean, scale = torch.full((64,), 2.0), torch.full((64,), 3.0)
    network = CorrelationCNN()
    wrapped = StandardizedNetwork(network, mean, scale).eval()
    x = torch.randn(3, 64)
    torch.testing.assert_close(wrapped(x), network((x - 2) / 3))
    assert {"mean", "scale"} <= set(wrapped.state_dict())
    assert n_parameters(wrapped) == 4208


def test_the_residual_mlp_accepts_any_number_of_measurements():
    network = ResidualMLP(64)
    assert sum(p.numel() for p in network.parameters()) == 414_468  # as in its docstring
    for n_features in (1, 23, 1024):
        logits = ResidualMLP(n_features, n_classes=3, width=16)(torch.randn(5, n_features))
        assert logits.shape == (5, 3)


def test_residual_blocks_start_as_the_identity():
    x = torch.randn(7, 16)
    block = ResidualBlock(16, dropout=0.0)
    assert torch.equal(block(x), x)
    shallow, deep = (ResidualMLP(8, width=16, n_blocks=n) for n in (0, 5))
    deep.load_state_dict(shallow.state_dict(), strict=False)
    signals = torch.randn(3, 8)
    assert torch.equal(shallow(signals), deep(signals))


def test_half_whitening():
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(5000, 4, generator=generator) * torch.tensor([10.0, 1.0, 0.1, 0.01])
    X = sources @ torch.linalg.qr(torch.randn(4, 4, generator=generator))[0] + 3
    components = HalfWhitenedNetwork.from_signals(torch.nn.Identity(), X)(X)
    assert components.mean(dim=0).abs().max() < 1e-4
    covariance = components.double().T.cov()
    # uncorrelated, in descending order, scaled by square roots of the standard deviations
    deviations = covariance.diag().sqrt()
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-4
    expected = torch.linalg.eigvalsh(X.double().T.cov()).flip(0).sqrt()
    np.testing.assert_allclose(
        (deviations / deviations[0]).numpy(), (expected / expected[0]).sqrt().numpy(), rtol=1e-3
    )
    assert components.square().mean() == pytest.approx(1, rel=1e-3)


def test_half_whitening_of_constant_or_equal_columns():
    column = torch.randn(100, 1)
    X = torch.cat([column, column, torch.ones(100, 1)], dim=1)
    components = HalfWhitenedNetwork.from_signals(torch.nn.Identity(), X)(X)
    assert components.isfinite().all()
    assert components[:, 1:].abs().max() < 1e-2


def test_half_whitening_stays_in_single_precision():
    X = 1 + 1e-3 * torch.randn(1000, 8)  # in bfloat16 these would all be equal
    network = HalfWhitenedNetwork.from_signals(torch.nn.Identity(), X)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        components = network(X)
    assert components.dtype == torch.float32
    assert torch.equal(components, network(X))


# -- optimisers -------------------------------------------------------------------


def parts_of(network):
    optimizer = muon(network.parameters(), 1e-2, 0.0, 0.9)
    return [
        {id(p) for group in part.param_groups for p in group["params"]} for part in optimizer.parts
    ]


def test_muon_updates_only_the_hidden_matrices():
    network = ResidualMLP(10, width=16, n_blocks=2)
    others, hidden = parts_of(network)
    matrices = [
        block_part.weight for block in network.blocks for block_part in (block.fc1, block.fc2)
    ]
    assert hidden == {id(p) for p in matrices}
    assert others | hidden == {id(p) for p in network.parameters()}
    assert len(parts_of(torch.nn.Linear(3, 2))) == 1  # no hidden matrix: only AdamW


def test_muon_steps_have_similar_singular_values():
    torch.manual_seed(0)
    network = ResidualMLP(10, width=32, n_blocks=1)
    weight = network.blocks[0].fc1.weight
    optimizer = muon(network.parameters(), 1e-2, 0.0, 0.9)
    before = weight.detach().clone()
    gradient = torch.linalg.qr(torch.randn(32, 32))[0] * torch.logspace(0, -1, 32)
    optimizer.step(lambda: setattr(weight, "grad", gradient.clone()))
    sizes = torch.linalg.svdvals(weight.detach() - before)
    assert sizes.max() / sizes.min() < 2.5  # those of the gradient span a factor of 10
    # size of a step of AdamW: 1e-2 in each of the 32 x 32 entries
    assert (weight.detach() - before).norm() == pytest.approx(0.2 * 1e-2 * 32, rel=0.3)


def test_a_new_learning_rate_reaches_both_optimisers():
    optimizer = muon(ResidualMLP(10, width=16).parameters(), 1e-2, 0.0, 0.9)
    again = muon(ResidualMLP(10, width=16).parameters(), 1e-2, 0.0, 0.9)
    again.load_state_dict(optimizer.state_dict())
    for each in (optimizer, again):
        for group in each.param_groups:
            group["lr"] = 7.0
        assert [g["lr"] for part in each.parts for g in part.param_groups] == [7.0, 7.0]


@pytest.mark.parametrize("n_columns", [1, 3])
def test_half_whitening_of_constant_columns_is_zero(n_columns):
    X = torch.full((10, n_columns), 0.3)
    scaled = HalfWhitenedNetwork.from_signals(torch.nn.Identity(), X)
    assert torch.equal(scaled(X), torch.zeros(10, n_columns))


def test_half_whitening_of_one_column_has_mean_square_one():
    X = torch.linspace(1.0, 2.0, 10)[:, None]
    scaled = HalfWhitenedNetwork.from_signals(torch.nn.Identity(), X)
    assert scaled(X).square().mean().item() == pytest.approx(1.0)
