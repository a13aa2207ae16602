"""Fits and spectra of the voxels of a report."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from corrsk.imaging import MeasuredImages
from corrsk.relaxometry import MultiExponentialClassifier, NNLSPeakClassifier, NNLSSpectrum
from corrsk.workflows.mapping.fits import set_up_fits
from corrsk.workflows.mapping.spectra import usual_bins

_FEWEST_CALIBRATED = 50  # voxels


@dataclass(eq=False)
class VoxelFits:
    """Fits and spectra of some voxels.

    Parameters
    ----------
    properties : tuple of str
        Names of the tissue properties.
    one, selected : DataFrame or None
        Tissue tables of one compartment, and of the number that the criterion selects.
    signals_one, signals : ndarray of shape (n_voxels, n_measurements) or None
        Signals of both.
    spectra : ndarray of shape (n_voxels, n_bins, ..) or None
        Spectra.
    axes : dict of str to ndarray
        Values of the properties along the axes of the spectra.
    methods : list of str
        Sentences on what was computed, and why something was not.
    """

    properties: tuple[str, ...]
    one: pd.DataFrame | None = None
    selected: pd.DataFrame | None = None
    signals_one: NDArray[Any] | None = None
    signals: NDArray[Any] | None = None
    spectra: NDArray[Any] | None = None
    axes: dict[str, NDArray[Any]] = field(default_factory=dict)
    methods: list[str] = field(default_factory=list)


def fit_voxels(
    images: MeasuredImages,
    signals: NDArray[Any],
    *,
    inversion_efficiency: float | tuple[float, float] | None,
    fits: MultiExponentialClassifier | None = None,
    spectra: NNLSSpectrum | None = None,
    order: Any = None,
    n_jobs: int | None = None,
) -> VoxelFits:
    """Fit compartments to voxels, and compute their spectra.

    Parameters
    ----------
    images : MeasuredImages
        Images of the voxels.
    signals : ndarray of shape (n_voxels, n_measurements)
        Signals, in the order of the images.
    inversion_efficiency : float or (float, float) or None
        Inversion efficiency, or its range; None to calibrate the pulses to the voxels.
    fits : MultiExponentialClassifier, optional
        Fitted classifier of the maps; None (default) for one that is set up here.
    spectra : NNLSSpectrum, optional
        Fitted transformer of the maps; None (default) for one that is set up here.
    order : ndarray of int, optional
        Positions of the columns of `fits` or `spectra` among the measurements of the images.
    n_jobs : int, optional
        Number of threads.

    Returns
    -------
    VoxelFits
        The results; what the measurements do not allow is None, with the reason in `methods`.
    """
    found = VoxelFits(images.protocol.tissue_properties)
    # series may differ in it
    kinds = np.array(images.kinds)[images.protocol._series_of_each]
    unsigned = kinds != "signed"
    magnitude = bool(unsigned.any())
    if fits is None:
        fit_order, values = None, signals
    else:
        fit_order, values = order, signals if order is None else signals[:, order]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each voxel has its own in the panel
        if spectra is not None:
            own = signals if order is None else signals[:, order]
            found.spectra, found.axes = spectra.invert(own).amplitudes, dict(spectra.axes_)
            found.methods.append("Spectra by the model of the maps, with its settings.")
        try:
            if fits is None:
                efficiency = 1.0 if inversion_efficiency is None else inversion_efficiency
                fits, _ = set_up_fits(
                    images.protocol, magnitude=magnitude, n_jobs=n_jobs,
                    inversion_efficiency=efficiency,
                )  # fmt: skip
                if inversion_efficiency is None or fits.protocol_.series is not None:
                    _calibrate(fits, values, found)
            found.one = fits.estimate_compartments(values, 1)
            found.selected = fits.estimate_compartments(values)
        except ValueError as error:
            what = "fits and spectra" if spectra is None else "fits"
            found.methods.append(f"Without {what}: {error}.")
            return found
        signals_one = fits.reconstruct_signals(found.one)
        fitted = fits.reconstruct_signals(found.selected)
        found.methods.append(_describe(fits))
        n_misfits = int(found.selected["misfit"].sum())
        if n_misfits:
            found.methods.append(
                f"These fits do not explain {n_misfits:,} of {len(values):,} voxels."
            )
        if spectra is None:
            flipped = unsigned if fit_order is None else unsigned[fit_order]
            _add_spectra(found, fits, values, fitted, flipped)
    back = slice(None) if fit_order is None else np.argsort(fit_order)
    for name, curves in (("signals_one", signals_one), ("signals", fitted)):
        of_images = curves[:, back]
        setattr(found, name, np.where(unsigned, np.abs(of_images), of_images))
    return found


def _calibrate(fits: MultiExponentialClassifier, values: NDArray[Any], found: VoxelFits) -> None:
    if len(values) < _FEWEST_CALIBRATED and fits.protocol_.series is None:
        return
    try:
        fits.calibrate(values)
    except ValueError as error:
        if fits.protocol_.series is not None:
            raise
        found.methods.append(f"The pulses are those of the protocol, not calibrated: {error}.")


def _describe(fits: MultiExponentialClassifier) -> str:
    counts = ", ".join(map(str, sorted(fits.counts_)))
    text = (
        f"Fits of {counts} compartments to each voxel, number selected by {fits.criterion.upper()}"
    )
    if fits.noise_distribution == "rician":
        text += ", to magnitudes"
    if fits.nuisances is not None:
        low, high = np.broadcast_to(fits.nuisances.inversion_efficiency or 1.0, 2)
        text += f", inversion efficiency fitted from {low:g} to {high:g}"
    if hasattr(fits, "calibration_"):
        text += f"; pulses calibrated: {fits.calibration_}"
        if fits.calibration_.is_doubtful:
            text += (
                ". Most voxels have more than one compartment, so that this calibration may have "
                "taken up a part of them"
            )
    return f"{text}."


def _add_spectra(
    found: VoxelFits, fits: MultiExponentialClassifier, values: NDArray[Any],
    fitted: NDArray[Any], unsigned: NDArray[np.bool_],
) -> None:  # fmt: skip
    """Add the spectra; of magnitudes with the signs of the fits."""
    assert found.selected is not None
    efficiency = fits.inversion_efficiency
    if "inversion_efficiency" in found.selected:
        efficiency = float(np.nanmedian(found.selected["inversion_efficiency"]))
    try:
        spectrum = NNLSPeakClassifier(
            fits.protocol_, n_bins=usual_bins(len(found.properties)), counts=(1, 2),
            inversion_efficiency=efficiency, n_jobs=fits.n_jobs, verbose=False,
        ).fit(np.ones((2, values.shape[1])))  # fmt: skip
        if hasattr(fits, "calibration_"):
            spectrum._use_calibration(fits.calibration_)
        signed = np.where(unsigned, np.where(fitted < 0, -np.abs(values), np.abs(values)), values)
        found.spectra, found.axes = spectrum.spectra(signed), dict(spectrum.axes_)
    except ValueError as error:
        found.methods.append(f"Without spectra: {error}.")
        return
    text = "Spectra by regularised non-negative least squares (chi2 factor 1.02)"
    if "TI" in fits.protocol_.contrasts and not hasattr(fits, "calibration_"):
        text += f", inversion efficiency {efficiency:.3g} in all voxels"
    if unsigned.any():
        text += ", of magnitudes with the signs of the fits"
    found.methods.append(f"{text}.")
