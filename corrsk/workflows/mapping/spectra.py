"""Maps of regularised spectra: fractions in windows, peaks, means, weights and misfits."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from corrsk._utils.configuration import read_configuration
from corrsk._utils.files import MISFITS, InvalidFileError
from corrsk._utils.validation import check_entries, check_number
from corrsk._utils.wording import worded
from corrsk.acquisition.compatibility import compare_protocols
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.imaging import MeasuredImages
from corrsk.imaging.images import Slab
from corrsk.relaxometry import NNLSSpectrum
from corrsk.relaxometry.spectra import Spectra
from corrsk.relaxometry.windows import Windows
from corrsk.workflows.mapping.mapper import (
    Mapper,
    Maps,
    in_unit,
    misfit_spec,
    property_unit,
    refuse_complex,
    shown_unit,
)
from corrsk.workflows.mapping.outputs import Appearance, MapSpec

_BINS = {1: 60, 2: 24, 3: 12}  # along each property, by the number of properties
_FEWER_BINS = 8  # of more properties
_SETTINGS = ("n_bins", "bounds", "penalty", "regularization", "chi2_factor", "noise_level", "b1",
             "b1_scope", "inversion_efficiency")  # fmt: skip
_WINDOWS = "windows"
_NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_LIMITS = re.compile(rf"(\w+):({_NUMBER})-({_NUMBER}|inf)")
_MYELIN = ("myelinwater", "myelinwaterfraction", "mwf")
_CHUNK_BYTES = 64 * 1024**2  # spectra in memory; their solution needs a few times as much
_N_TRIED = 300  # voxels of a sample that are inverted before the maps, for the warnings
_N_ANGLE = 1000  # voxels that find the refocusing angle of an image


def read_spectrum_file(path: Path) -> tuple[NNLSSpectrum, dict[str, Any]]:
    """Read the settings of spectra from a JSON, YAML or TOML file.

    Parameters
    ----------
    path : Path
        File with parameters of :class:`corrsk.NNLSSpectrum` but the protocol, which is that of the
        images, and optionally `windows`; see :meth:`corrsk.relaxometry.Spectra.window_fractions`.

    Returns
    -------
    model : NNLSSpectrum
        Transformer that is not fitted.
    windows : dict
        Windows; empty without any.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    InvalidFileError
        If the file is not readable, or an entry is unknown.
    """
    content = read_configuration(path)
    try:
        check_entries("a spectrum", content, allowed=(*_SETTINGS, _WINDOWS), required=())
        windows = content.pop(_WINDOWS, {})
        if not isinstance(windows, dict):
            raise ValueError(f"windows must be a mapping, got {windows!r:.60}")
        for name, limits in windows.items():
            pairs = limits.values() if isinstance(limits, dict) else [None]
            if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
                raise ValueError(
                    f"the window {name!r} needs the lower and upper limit of each property, such "
                    f'as {{"T2": [0, 40]}}; got {limits!r:.60}'
                )
            for each, pair in limits.items():
                for value in pair:
                    check_number(f"a limit of {each} of the window {name!r}", value)
        return spectrum_of_images(**content), windows
    except MISFITS as error:
        raise InvalidFileError(f"{path}: {error}") from error


def spectrum_of_images(**settings: Any) -> NNLSSpectrum:
    """Make a transformer for :class:`SpectrumMapper`, which sets its protocol.

    Parameters
    ----------
    **settings : object
        Parameters of :class:`corrsk.NNLSSpectrum`.

    Returns
    -------
    NNLSSpectrum
        Transformer that is not fitted; without `n_bins`, these follow from the number of
        properties, and without `inversion_efficiency` and `b1`, the pulses are calibrated.
    """
    return NNLSSpectrum(**{"n_bins": None, "inversion_efficiency": None, **settings})


def usual_bins(n_properties: int) -> int:
    """Number of bins along each property of spectra whose settings have none."""
    return _BINS.get(n_properties, _FEWER_BINS)


class SpectrumMapper(Mapper):
    """Maps of regularised non-negative spectra.

    Parameters
    ----------
    model : NNLSSpectrum
        Fitted transformer, or one that is not fitted, for the protocol of the images; see
        :func:`spectrum_of_images`.
    images : MeasuredImages
        Images of the subject.
    n_jobs : int
        Number of threads.
    windows : mapping or None, default=None
        Limits of the properties of each window in ms (D in um^2/ms), by its name.
    keeps_spectra : bool, default=False
        Whether the spectra are a map, too.

    Raises
    ------
    ValueError
        If the images have another protocol than the transformer, or are complex or magnitudes of an
        inversion recovery; or if a window or a parameter is invalid.
    """

    spectra: NNLSSpectrum

    def __init__(
        self,
        model: NNLSSpectrum,
        images: MeasuredImages,
        n_jobs: int,
        windows: Windows | None = None,
        keeps_spectra: bool = False,
    ) -> None:
        refuse_complex(images, "spectra are")
        protocol = images.protocol
        if "TI" in protocol.contrasts and "magnitude" in images.kinds:
            raise ValueError(
                f"{images.name} has magnitudes of an inversion recovery, but spectra need signed "
                "signals; map signed images, or use the model multi-exponential"
            )
        self.notes = []
        self.classes = np.empty(0, np.int64)
        self._windows = dict(windows or {})
        self._keeps = keeps_spectra
        is_fitted = hasattr(model, "n_features_in_")
        if is_fitted:
            order = compare_protocols(model.protocol_, protocol, prior="t1t2-detr").check()
            self.spectra = copy.copy(model).set_params(n_jobs=n_jobs, verbose=False)
        else:
            order = np.arange(protocol.n_measurements)
            self.spectra = clone(model).set_params(protocol=protocol, n_jobs=n_jobs, verbose=False)
            given = model.get_params()
            if given["n_bins"] is None:
                self.spectra.set_params(n_bins=usual_bins(len(protocol.tissue_properties)))
            if given["inversion_efficiency"] is None:
                self.spectra.set_params(inversion_efficiency=1.0)
            try:
                self.spectra.fit(np.ones((2, protocol.n_measurements)))
            except TypeError as error:  # of values in a file
                raise ValueError(f"invalid settings of spectra: {error}") from error
        self.order = order
        self._of_image = self.spectra.b1 is not None and self.spectra.b1_scope == "image"
        has_series = self.spectra.protocol_.series is not None
        if has_series and self._of_image:
            raise ValueError("b1_scope 'image' is for one series of measurements; use 'voxel'")
        has_pulses = model.b1 is not None or model.get_params()["inversion_efficiency"] is not None
        self._calibrates = has_series or not has_pulses
        if any(kind != "signed" for kind in images.kinds):
            self.notes.append(
                "the noise floor of magnitudes appears in spectra as a part with long relaxation "
                "times"
            )
        self._keys = _window_keys(self._windows)
        self._check_windows()
        self.settings = _settings(self.spectra) | {_WINDOWS: plain_windows(self._windows)}
        if not self._calibrates:
            self.settings["inversion_efficiency"] = self.spectra.inversion_efficiency
        self.specs = self._specs()

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.spectra.axes_.values())

    def _check_windows(self) -> None:
        """Refuse windows without a bin before any signal is read."""
        if not self._windows:
            self.notes.append(
                "no maps of fractions: no window is given, such as "
                + worded(
                    "windows={'myelin water': {'T2': (0, 40)}}",
                    "--window 'myelin water=T2:0-40'",
                )
            )
            return
        one = np.ones(1)
        Spectra(self.spectra.axes_, np.ones((1, *self._shape)), one, one, one > 1).window_fractions(
            self._windows
        )

    def _specs(self) -> list[MapSpec]:
        specs = [_window_spec(name, key) for name, key in self._keys.items()]
        specs += [
            MapSpec(
                "n_peaks", "desc-spectrum_countmap", "Number of peaks of the spectrum.", "uint8",
                shown=Appearance("peaks"),
            ),
            MapSpec(
                "M0", "desc-spectrum_M0map", "Sum of the spectrum.",
                entries={"Units": "arbitrary"}, shown=Appearance("M0"),
            ),
            *(
                MapSpec(
                    name, f"desc-geometricmean_{name}map",
                    f"Geometric mean of {name}, weighted by the spectrum.",
                    entries={"Units": property_unit(name)},
                    shown=Appearance(f"mean {name}", shown_unit(name)),
                )
                for name in self.spectra.axes_
            ),
            misfit_spec("spectrum"),
            MapSpec(
                "residual", "desc-spectrum_residualmap",
                "Square root of the mean squared residual of the spectrum.",
                entries={"Units": "arbitrary"}, shown=Appearance("residual"),
            ),
            MapSpec(
                "weight", "desc-regularization_weightmap",
                "Weight of the penalty, relative to the largest squared singular value of the "
                "kernel.", entries={"Units": "1"}, shown=Appearance("weight"),
            ),
        ]  # fmt: skip
        if self.spectra.b1 is not None and not self._of_image:
            specs.append(
                MapSpec(
                    "b1",
                    "desc-refocusing_anglemap",
                    "Refocusing angle, relative to the nominal one.",
                    entries={"Units": "1"},
                    shown=Appearance("relative angle"),
                )
            )
        if self._keeps:
            axes = {
                name: [float(f"{value:.6g}") for value in in_unit(name, axis)]
                for name, axis in self.spectra.axes_.items()
            }
            units = {name: property_unit(name) for name in axes}
            specs.append(
                MapSpec(
                    "spectra",
                    "desc-regularized_spectrum",
                    "Amplitudes of the spectrum along the fourth axis: all cells of the grid of "
                    f"{' x '.join(axes)}, the last of which changes fastest.",
                    n_maps=math.prod(self._shape),
                    entries={"Units": "arbitrary", "Axes": axes, "AxesUnits": units},
                )
            )
        return specs

    def prepare(self, sample: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Calibrate the pulses to the image, or find its angle; see :class:`Mapper`."""
        values = sample[:, self.order]
        if self._calibrates:
            self._calibrate(values)
        few = values[:: -(-len(values) // _N_TRIED)]
        if self._of_image:
            some = values[:: -(-len(values) // _N_ANGLE)]
            angles = self.spectra.invert(some).b1
            assert angles is not None
            self._fix_angle(float(np.nanmedian(angles)))
        self.spectra.invert(few)  # its warnings

    def _calibrate(self, values: NDArray[Any]) -> None:
        try:
            self.spectra.calibrate(values)
        except ValueError as error:
            if self.spectra.protocol_.series is not None:
                raise
            self.notes.append(f"not calibrated, pulses as the protocol states them: {error}")
            return
        self.settings["calibration"] = str(self.spectra.calibration_)

    def _fix_angle(self, b1: float) -> None:
        """Use the refocusing angle of the image in all voxels."""
        protocol = _with_angle(self.spectra.protocol_, b1)
        rows = np.ones((2, protocol.n_measurements))
        self.spectra = clone(self.spectra).set_params(protocol=protocol, b1=None).fit(rows)
        self.settings["relative refocusing angle"] = round(b1, 4)

    def compute(self, slab: Slab) -> Maps:
        """Compute the maps of a slab; see :class:`Mapper`."""
        values = slab.signals.to_numpy()
        step = max(1, _CHUNK_BYTES // (8 * math.prod(self._shape)))
        parts = [
            self._maps_of(self.spectra.invert(values[start : start + step, self.order]))
            for start in range(0, len(values), step)
        ]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _maps_of(self, found: Spectra) -> Maps:
        maps: Maps = {}
        if self._windows:
            fractions = found.window_fractions(self._windows)
            for name, key in self._keys.items():
                share = fractions[name].to_numpy()
                maps[key] = 100 * share if key == "MWF" else share
        peaks = found.peaks()
        count = sum(
            (peaks[name].to_numpy() > 0).astype(np.int64)
            for name in peaks.columns if name.startswith("f_")
        )  # fmt: skip
        maps["n_peaks"] = np.broadcast_to(np.minimum(count, 255), len(found.weight)).copy()
        rows = found.amplitudes.reshape(len(found.weight), -1)
        maps["M0"] = rows.sum(axis=1)
        for name in found.axes:
            maps[name] = in_unit(name, found.geometric_mean(name))
        maps["misfit"] = found.misfit.astype(np.uint8)
        maps["residual"], maps["weight"] = found.residual, found.weight
        if found.b1 is not None:
            maps["b1"] = found.b1
        if self._keeps:
            maps["spectra"] = rows
        return maps


def _settings(model: NNLSSpectrum) -> dict[str, Any]:
    """Settings of spectra for the record, in plain values."""
    found: dict[str, Any] = {
        "regularization": model.regularization, "penalty": model.penalty,
        "bins": [axis.size for axis in model.axes_.values()],
        "bounds": {name: list(map(float, pair)) for name, pair in model.bounds_.items()},
    }  # fmt: skip
    if model.regularization == "chi2":
        found["chi2_factor"] = model.chi2_factor
    if model.noise_level is not None:
        found["noise_level"] = model.noise_level
    if model.b1 is not None:
        found["relative refocusing angles"] = [float(value) for value in model.b1]
    return found


def _with_angle(protocol: AcquisitionProtocol, b1: float) -> AcquisitionProtocol:
    """The protocol with other angles of its pulses of echo trains."""
    trains = [
        None if train is None else dataclasses.replace(
            train, refocusing_angle=b1 * train.refocusing_angle,
            excitation_angle=b1 * train.excitation_angle,
        )
        for train in protocol._readout_of_each
    ]  # fmt: skip
    return AcquisitionProtocol(protocol.contrasts, tr=protocol.tr, readout=trains)


def plain_windows(windows: Windows) -> dict[str, str]:
    """Limits of each window in words, for records."""
    return {
        name: ", ".join(f"{each} {low:g} to {high:g}" for each, (low, high) in limits.items())
        for name, limits in windows.items()
    }


def _window_keys(windows: Windows) -> dict[str, str]:
    """Key of the map of each window, by its name.

    Raises
    ------
    ValueError
        If a name has no letter or digit, or two names differ in other characters only.
    """
    keys: dict[str, str] = {}
    for name in windows:
        plain = re.sub("[^A-Za-z0-9]", "", str(name))
        if not plain:
            raise ValueError(f"the name of a window needs letters or digits, got {name!r}")
        key = "MWF" if plain.lower() in _MYELIN else f"fraction_{plain}"
        same = next((other for other, known in keys.items() if known == key), None)
        if same is not None:
            raise ValueError(f"the windows {same!r} and {name!r} would have one file; rename one")
        keys[name] = key
    return keys


def _window_spec(name: str, key: str) -> MapSpec:
    if key == "MWF":
        return MapSpec(
            key, "desc-spectrum_MWFmap", "Myelin water fraction: share of the spectrum in its "
            "window.", entries={"Units": "percent"}, shown=Appearance("myelin water", "%"),
        )  # fmt: skip
    return MapSpec(
        key, f"desc-{key.removeprefix('fraction_')}_fractionmap",
        f"Share of the spectrum in the window {name}.", entries={"Units": "1"},
        shown=Appearance(f"fraction {name}", kind="probability"),
    )  # fmt: skip


def parse_windows(texts: Sequence[str] | None) -> dict[str, dict[str, tuple[float, float]]] | None:
    """Read windows from the arguments of a command.

    Parameters
    ----------
    texts : sequence of str or None
        Texts such as "myelin water=T2:0-40" or "short=T1:0-600,T2:0-40".

    Returns
    -------
    dict or None
        Windows, as :meth:`corrsk.relaxometry.Spectra.window_fractions` takes them; None without
        texts.

    Raises
    ------
    ValueError
        If a text is no window, or two have the same name.
    """
    windows: dict[str, dict[str, tuple[float, float]]] = {}
    for text in texts or ():
        name, _, limits = (part.strip() for part in text.rpartition("="))
        found = [_LIMITS.fullmatch(part.strip()) for part in limits.split(",")]
        pairs = {one[1]: (float(one[2]), float(one[3])) for one in found if one is not None}
        if not name or len(pairs) < len(found):
            raise ValueError(
                "a window needs a name and limits in ms (D in um^2/ms), such as 'myelin "
                f"water=T2:0-40' or 'short=T1:0-600,T2:0-40'; got {text!r}"
            )
        if name in windows:
            raise ValueError(f"two windows have the name {name!r}; rename one")
        windows[name] = pairs
    return windows or None
