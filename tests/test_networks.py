from __future__ import annotations

import numpy as np
import pytest
import torch

from corrsk.networks import CorrelationCNN, StandardizedNetwork, smallest_grid


def n_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_papers_network_has_4208_parameters():
    assert n_parameters(CorrelationCNN()) == 4208
    sizes = [tuple(p.shape) for p in CorrelationCNN().parameters() if p.ndim > 1]
    assert sizes == [(6, 1, 3, 3), (16, 6, 3, 3), (32, 64), (32, 32), (4, 32)]


@pytest.mark.parametrize(
    "shape", [(8, 8), (6, 6), (16, 10), (1, 8), (3, 2), (8, 8, 4), (2, 3, 5), (7, 9)]
)
def test_other_grids(shape):
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


def test_dropout_acts_in_training_alone():
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


def test_smallest_grid_always_holds_the_columns():
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
