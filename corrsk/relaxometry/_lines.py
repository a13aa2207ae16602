"""Spectra of compartments on a grid: lines, or lines widened by their standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr

from corrsk.relaxometry._kernels import Array

_SQRT_2PI = math.sqrt(2 * math.pi)


def checked_grid(grid: Mapping[str, Any], properties: Sequence[str]) -> dict[str, Array]:
    """Values of each tissue property along the axes of spectra.

    Parameters
    ----------
    grid : mapping of str to array of shape (n_bins,)
        Values of each property, such as :attr:`corrsk.NNLSSpectrum.axes_`.
    properties : sequence of str
        Properties that a spectrum must have.

    Returns
    -------
    dict of str to ndarray
        The values, in the order of `properties`.

    Raises
    ------
    ValueError
        If the grid has other properties, or values that are not positive, ascending and at least
        two.
    """
    if not isinstance(grid, Mapping) or set(grid) != set(properties):
        got = ", ".join(map(str, grid)) if isinstance(grid, Mapping) else repr(grid)
        raise ValueError(
            f"the grid must have values of each of {', '.join(properties)}; got {got:.60}"
        )
    checked = {}
    for name in properties:
        values = np.asarray(grid[name], np.float64)
        ascending = values.ndim == 1 and values.size >= 2 and bool((np.diff(values) > 0).all())
        if not (ascending and values[0] > 0 and np.isfinite(values[-1])):
            raise ValueError(
                f"the grid of {name} must have at least two positive values in ascending order"
            )
        checked[name] = values
    return checked


def shares_of_bins(mean: Array, error: Array, logs: Array) -> Array:
    """Shares of normally distributed logarithms in the bins of an axis.

    A value between two bins belongs to both, in proportion to its nearness, so that the mean
    logarithm is kept; a value beyond the axis belongs to its end.

    Parameters
    ----------
    mean, error : ndarray of shape (..)
        Means and standard deviations; an error of 0 is a line.
    logs : ndarray of shape (n_bins,)
        Logarithms of the bins, ascending.

    Returns
    -------
    ndarray of shape (.., n_bins)
        Shares with the sum 1.
    """
    above = mean[..., None] - logs
    with np.errstate(divide="ignore", invalid="ignore"):
        z = above / error[..., None]
    # expectation of max(0, value - bin)
    density = np.exp(-0.5 * np.square(z)) / _SQRT_2PI
    smooth = above * ndtr(z) + error[..., None] * density
    excess = np.where(error[..., None] > 0, smooth, np.maximum(above, 0.0))
    # expected share of the bins after each gap
    beyond = -np.diff(excess, axis=-1) / np.diff(logs)
    ends = np.ones((*mean.shape, 1)), np.zeros((*mean.shape, 1))
    shares = -np.diff(np.concatenate([ends[0], beyond, ends[1]], axis=-1), axis=-1)
    return np.asarray(np.maximum(shares, 0.0))  # rounding errors


def spectra_of_lines(
    amplitudes: Array, theta: Array, errors: Array, logs: Sequence[Array]
) -> Array:
    """Spectra of compartments.

    Parameters
    ----------
    amplitudes : ndarray of shape (V, K)
        Amplitudes of the compartments.
    theta, errors : ndarray of shape (V, K, P)
        Logarithms of the properties, and their standard errors, whose correlation is neglected.
    logs : sequence of P ndarrays of shape (n_p,)
        Logarithms of the bins along each axis.

    Returns
    -------
    ndarray of shape (V, n_1, .., n_P)
        Spectra.
    """
    V, K = amplitudes.shape
    outer = amplitudes[..., None]
    for place, axis in enumerate(logs[:-1]):
        shares = shares_of_bins(theta[..., place], errors[..., place], axis)
        outer = (outer[..., None] * shares[:, :, None]).reshape(V, K, -1)
    last = shares_of_bins(theta[..., -1], errors[..., -1], logs[-1])
    spectra = np.matmul(outer.transpose(0, 2, 1), last)
    return np.asarray(spectra.reshape(V, *(axis.size for axis in logs)))
