"""Spectra of tissue properties: fractions between limits, peaks and marginals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from corrsk._utils.validation import checked_count
from corrsk.physics import CONTRASTS
from corrsk.relaxometry._kernels import Array
from corrsk.relaxometry._peaks import peak_positions
from corrsk.relaxometry.windows import Windows, check_windows
from corrsk.tissue.table import table_columns


def _unit(name: str) -> str:
    """Unit of a tissue property."""
    units = {contrast.tissue: contrast.tissue_unit for contrast in CONTRASTS.values()}
    return units.get(name, "")


@dataclass(frozen=True, eq=False)
class Spectra:
    """Spectra of voxels, and how they were found.

    Parameters
    ----------
    axes : dict of str to ndarray
        Values of each tissue property along an axis, in ms (D in um^2/ms).
    amplitudes : ndarray of shape (.., n_T1, n_T2[, n_D])
        Amplitudes, in the units of the signals; the sum of a spectrum is approximately M0. NaN for
        voxels without signal or solution.
    weight : ndarray of shape (..)
        Weight of the penalty, relative to the largest squared singular value of the kernel.
    residual : ndarray of shape (..)
        Square root of the mean squared residual, in the units of the signals.
    misfit : ndarray of bool, shape (..)
        Whether the residual exceeds the noise, whatever the penalty, so that the spectrum does not
        explain the signal; see Notes of :class:`corrsk.NNLSPeakClassifier`. A wrong refocusing
        angle is not found: what it adds to a signal counts as noise, and increases `residual`.
    b1 : ndarray of shape (..) or None
        Relative refocusing angle of each voxel, if it was searched.
    """

    axes: dict[str, Array]
    amplitudes: Array
    weight: Array
    residual: Array
    misfit: NDArray[np.bool_]
    b1: Array | None = None

    @property
    def _n_axes(self) -> int:
        return len(self.axes)

    def _rows(self) -> Array:
        return self.amplitudes.reshape(-1, *self.amplitudes.shape[-self._n_axes :])

    def _place(self, name: str) -> int:
        """Axis of `amplitudes` of a property, counted from the end."""
        if name not in self.axes:
            raise ValueError(f"the spectra have no {name!r}; their properties are {[*self.axes]}")
        return [*self.axes].index(name) - self._n_axes

    def marginal(self, name: str) -> Array:
        """Sum of the spectra over all other properties.

        Parameters
        ----------
        name : str
            Property, such as "T2".

        Returns
        -------
        ndarray of shape (.., n_bins)
            Amplitudes along ``axes[name]``.

        Raises
        ------
        ValueError
            If the spectra lack the property.
        """
        kept = self._place(name)
        others = tuple(axis for axis in range(-self._n_axes, 0) if axis != kept)
        return np.asarray(self.amplitudes.sum(axis=others))

    def geometric_mean(self, name: str) -> Array:
        """Geometric mean of a property, weighted by the spectrum.

        Parameters
        ----------
        name : str
            Property, such as "T2".

        Returns
        -------
        ndarray of shape (..)
            Means in the unit of the property; NaN for empty spectra.

        Raises
        ------
        ValueError
            If the spectra lack the property.
        """
        marginal = self.marginal(name)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (marginal @ np.log(self.axes[name])) / marginal.sum(axis=-1)
        return np.asarray(np.exp(mean))

    def window_fractions(self, windows: Windows) -> pd.DataFrame:
        """Fraction of each spectrum in each window.

        Parameters
        ----------
        windows : mapping of str to mapping of str to (low, high)
            Limits of the properties of each window, by its name, such as
            ``{"myelin water": {"T2": (0, 40)}}``. A window has the bins with low <= value < high;
            properties without limits are unlimited.

        Returns
        -------
        DataFrame of shape (n_voxels, n_windows)
            Fractions of the sum of a spectrum, voxels in C order. NaN for empty spectra and for
            voxels without signal or solution.

        Raises
        ------
        ValueError
            If there are no windows, the spectra lack a property, limits are not ascending, or a
            window has no bin.

        Notes
        -----
        The fraction with T2 below 40 ms is the myelin water fraction of white matter (MacKay et
        al., Magn. Reson. Med. 31, 673 (1994)).
        """
        check_windows(windows, self.axes)
        chosen = {name: self._bins(name, limits) for name, limits in windows.items()}
        rows = self._rows()
        flat = rows.reshape(len(rows), -1)
        with np.errstate(invalid="ignore", divide="ignore"):
            fractions = {
                name: flat[:, bins.ravel()].sum(axis=1) / flat.sum(axis=1)
                for name, bins in chosen.items()
            }
        return pd.DataFrame(fractions)

    def _bins(self, window: str, limits: Mapping[str, tuple[float, float]]) -> NDArray[np.bool_]:
        shape = self.amplitudes.shape[-self._n_axes :]
        inside = np.ones(shape, dtype=bool)
        for name, (low, high) in limits.items():
            place = self._place(name)
            own = (self.axes[name] >= low) & (self.axes[name] < high)
            inside &= own.reshape([-1 if axis == place else 1 for axis in range(-len(shape), 0)])
        if not inside.any():
            ranges = ", ".join(
                f"{name} in {axis.size} bins from {axis[0]:.4g} to {axis[-1]:.4g} {_unit(name)}"
                for name, axis in self.axes.items()
            )
            raise ValueError(
                f"the window {window!r} contains no bin of the spectra, which have {ranges}"
            )
        return inside

    def peaks(self, n_peaks: int | None = None, min_fraction: float = 0.02) -> pd.DataFrame:
        """Peaks of each spectrum as compartments.

        Parameters
        ----------
        n_peaks : int, optional
            Number of the largest peaks to return; None (default) for all.
        min_fraction : float, default=0.02
            Smallest fraction of the spectrum in a peak.

        Returns
        -------
        DataFrame of n_voxels rows
            Tissue table T1_1, .., T2_1, .., f_1, .. in the order of ascending T2 (of the last
            property, if the spectra lack T2), voxels in C order: geometric means of the properties,
            weighted by the cells of a peak, and fractions of the sum of the spectrum, without
            further normalisation. Absent peaks have f = 0 and NaN properties.

        Raises
        ------
        ValueError
            If `n_peaks` is not a positive integer, or `min_fraction` not in [0, 1].

        Notes
        -----
        A peak has the cells from which steepest ascent ends at the same local maximum.
        """
        if n_peaks is not None:
            checked_count("n_peaks", n_peaks, at_least=1)
        if not 0 <= min_fraction <= 1:
            raise ValueError(f"min_fraction must be between 0 and 1, got {min_fraction}")
        rows = np.nan_to_num(self._rows())
        names = tuple(self.axes)
        logs = [np.log(axis) for axis in self.axes.values()]
        order_by = names.index("T2") if "T2" in names else len(names) - 1
        values, fractions = peak_positions(rows, logs, min_fraction, n_peaks, order_by)
        table = [*np.exp(values).transpose(2, 1, 0).reshape(-1, len(rows)), *fractions.T]
        return pd.DataFrame(
            np.stack(table, axis=1), columns=table_columns(names, fractions.shape[1])
        )
