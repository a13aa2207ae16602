"""Reader of measured images: files, BIDS sets, arrays, and their times."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.files import existing_file
from corrsk._utils.validation import as_numpy
from corrsk._utils.voxels import user_level
from corrsk._utils.wording import worded
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.imaging._arrays import content_of_npz
from corrsk.imaging._nifti import is_image, open_image, stem_of
from corrsk.imaging._volumes import ArrayVolume, ComplexVolume, FileVolume, OpenFiles, Volume
from corrsk.imaging.bids import (
    BidsSet,
    check_numeric_order,
    check_times,
    sidecar_of,
    single_set,
    times_of,
    with_parts,
)
from corrsk.imaging.grid import Grid
from corrsk.imaging.images import MeasuredImages, Measurement
from corrsk.physics import CONTRASTS
from corrsk.physics.contrasts import REPETITION_TIME, own_units, scan_quantities
from corrsk.physics.units import Units

_TABLES = (".txt", ".csv", ".tsv")
_TR = REPETITION_TIME.name
_OF_TYPE = {"M": "magnitude", "MAGNITUDE": "magnitude", "R": "signed", "REAL": "signed"}


def load_images(
    source: Any,
    times: Any = None,
    *,
    mask: Any = None,
    select: Mapping[str, str | Sequence[str]] | None = None,
    units: Units = None,
    name: str | None = None,
) -> MeasuredImages:
    """Open measured images with their protocol, without reading their values.

    Parameters
    ----------
    source : path-like, list of path-like, BidsSet, nibabel image or array
        One of these: an image file with a volume for each measurement (NIfTI, 4D); a list of
        files, each with one or more volumes; a folder or a :class:`BidsSet` in BIDS; a file .npz;
        an image of nibabel; or an array of shape (.., n_measurements). :class:`MeasuredImages` are
        returned, with `mask` if that is given.
    times : path-like, AcquisitionProtocol or str, optional
        The protocol, in the order of the volumes: a file .json (see
        :meth:`corrsk.AcquisitionProtocol.from_json`), .mat
        (:meth:`corrsk.AcquisitionProtocol.from_mat`), .txt, .csv or .tsv
        (:meth:`corrsk.AcquisitionProtocol.from_table`), a protocol or the name of one. By default,
        the sidecars of the images: files .json of the same name, with InversionTime, EchoTime and
        RepetitionTime in seconds, and those that BIDS inherits from folders above; b-values are
        read from .bval (s/mm^2).
    mask : path-like, nibabel image or array, optional
        Voxels to use; see :meth:`MeasuredImages.with_mask`.
    select : mapping of str to str or sequence of str, optional
        Entities and suffix of the files of a folder; see :func:`find_bids_sets`.
    units : str or mapping of str to str, optional
        Units of a file of times without units; see :class:`corrsk.AcquisitionProtocol`.
    name : str, optional
        Name of the images in messages; by default that of the file, folder or set.

    Returns
    -------
    MeasuredImages
        The images. ``print(images.summary())`` shows what is read.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If a file or folder does not exist.
    ValueError
        If a file is no image, truncated or has five axes; the number of volumes is not that of the
        measurements; grids differ; sidecars are missing or contradict each other, the names or
        `times`; times are not plausible in their unit; a folder has no set of images or several;
        or the mask is invalid.
    ImportError
        If the source is an image file and nibabel is not installed.

    Warns
    -----
    UserWarning
        If the affine of the images is the identity: position and voxel sizes are unknown. The
        maps have the same affine.

    Notes
    -----
    Files of a BIDS set are sorted by number (echo-10 after echo-2), first by acq-TI<n> or
    acq-TE<n>, then by inv, then by echo. Files with part-mag and part-phase, or part-real and
    part-imag, become complex signals.

    A file .npz has the signals under `S`, `signals` or `data`, and either `protocol` (JSON) or
    vectors `ti`, `te`, `tr` and `b`, whose names may end in a unit (`ti_ms`, `te_s`,
    `b_ms_per_um2`). The vectors are the last axes of a grid, or have one entry for each entry of
    the last axis. Optional are `affine` and `mask`; other entries are ignored.
    """
    if isinstance(source, MeasuredImages):
        if times is not None:
            source = source.with_protocol(_protocol_of(times, units))
        return source if mask is None else source.with_mask(mask)
    given = None if times is None else _protocol_of(times, units)
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        source = single_set(source, select)
    elif select is not None:
        raise ValueError(f"select is for folders in BIDS, not for {source!r:.80}")
    if isinstance(source, BidsSet):
        images = _from_files(source.files, given, name or str(source))
    elif is_image(source):
        images = _from_nibabel(source, given, name or "the image")
    elif isinstance(source, (str, Path)) and Path(source).suffix.lower() == ".npz":
        images, stored = _from_npz(existing_file(source), given, name, units)
        mask = stored if mask is None else mask
    elif isinstance(source, (str, Path)):
        images = _from_files([Path(source)], given, name or Path(source).name)
    elif isinstance(source, (list, tuple)) and source and _are_paths(source):
        own = name or f"{Path(source[0]).name} and {len(source) - 1} more files"
        images = _from_files([Path(one) for one in source], given, own)
    else:
        images = _from_array(source, given, name or "the array")
    return images if mask is None else images.with_mask(mask)


def _are_paths(source: Sequence[Any]) -> bool:
    return all(isinstance(one, (str, Path)) for one in source)


def _protocol_of(times: Any, units: Units) -> AcquisitionProtocol:
    """Protocol from the argument `times`."""
    if isinstance(times, AcquisitionProtocol):
        return times
    if isinstance(times, str) and not Path(times).suffix:
        return resolve_protocol(times)
    if not isinstance(times, (str, Path)):
        raise TypeError(
            "times must be a file, an AcquisitionProtocol or the name of a protocol, got "
            f"{type(times).__name__}"
        )
    path = existing_file(times)
    suffix = path.suffix.lower()
    try:
        if suffix == ".json":
            if units is not None:
                raise ValueError("a .json has its units in an entry 'units'; drop `units`")
            return AcquisitionProtocol.from_json(path)
        if suffix == ".mat":
            return AcquisitionProtocol.from_mat(path, units=units)
        if suffix in _TABLES:
            return AcquisitionProtocol.from_table(path, units=units)
    except ValueError as error:
        named = str(path) in str(error)
        raise ValueError(f"{'' if named else f'{path}: '}{error}") from error
    raise ValueError(
        f"times are read from .json, .mat, {', '.join(_TABLES)} files, not from {path}"
    )


# -- files ------------------------------------------------------------------------


def _from_files(
    paths: Sequence[Path], given: AcquisitionProtocol | None, name: str
) -> MeasuredImages:
    if given is not None:
        check_numeric_order(paths)
    _refuse_twice(paths)
    measured = with_parts(paths)
    grid: Grid | None = None
    first: Path | None = None
    volumes: list[list[Volume]] = []
    kinds: list[str | None] = []
    contents: list[dict[str, Any] | None] = []
    mains: list[Path] = []
    for parts in measured:
        main = parts.get("mag") or parts.get("real") or parts[""]
        opened = {part: open_image(path) for part, path in parts.items()}
        numbers = {part: _n_volumes(image, parts[part]) for part, image in opened.items()}
        if len(set(numbers.values())) > 1:
            raise ValueError(f"the parts of {main.name} differ in their number of volumes")
        for part, image in opened.items():
            own = Grid.from_image(image)
            if grid is None or first is None:
                grid, first = own, parts[part]
            differs = grid.difference(own)
            if differs is not None:
                raise ValueError(
                    f"{parts[part].name} has other voxels than {first.name}: {differs}"
                )
        contents.append(sidecar_of(main))
        volumes.append([_volume(parts, k) for k in range(next(iter(numbers.values())))])
        complex_values = any(image.get_data_dtype().kind == "c" for image in opened.values())
        kinds.append("complex" if complex_values else _kind(parts, contents[-1] or {}))
        mains.append(main)
    assert grid is not None
    sizes = [len(each) for each in volumes]
    protocol = _sidecar_protocol(mains, contents, sizes, given, name)
    if given is not None:
        _compare(given, protocol, name)
        protocol = given
    assert protocol is not None
    # BIDS has seconds; files of times were converted to the units of corrsk
    unit = "s" if given is None else REPETITION_TIME.unit
    measurements = tuple(
        Measurement(volume, number, unit, kind)
        for each, kind in zip(volumes, kinds, strict=True)
        for number, volume in enumerate(each)
    )
    _check_first_phase(measurements, grid)
    images = MeasuredImages(measurements, protocol, grid, None, name)
    _warn_of_identity(images)
    return images


def _refuse_twice(paths: Sequence[Path]) -> None:
    """Refuse a file that is there both compressed and not, or twice in a list."""
    found: dict[Path, Path] = {}
    for path in paths:
        before = found.setdefault(path.parent / stem_of(path), path)
        if before is not path:
            raise ValueError(
                f"{before} and {path.name} are the same measurement; keep one of the files"
            )


def _n_volumes(image: Any, path: Path) -> int:
    shape = tuple(image.shape)
    if len(shape) > 4 and max(shape[4:]) > 1:
        raise ValueError(
            f"{path} has {len(shape)} axes, {shape}; images have three spatial axes and one of "
            "measurements"
        )
    dtype = image.get_data_dtype()
    if dtype.kind not in "biufc":
        raise ValueError(f"{path} has values of type {dtype}, not numbers (it may be a colour map)")
    if 0 in shape:
        raise ValueError(f"{path} has no voxels: its shape is {shape}")
    return int(shape[3]) if len(shape) > 3 else 1


def _volume(parts: Mapping[str, Path], k: int) -> Volume:
    # absolute, since a worker may run in another folder
    of = {part: FileVolume(path.absolute(), k) for part, path in parts.items()}
    if "phase" in of:
        return ComplexVolume(of["mag"], of["phase"], polar=True)
    if "imag" in of:
        return ComplexVolume(of["real"], of["imag"], polar=False)
    return next(iter(of.values()))


def _kind(parts: Mapping[str, Path], content: Mapping[str, Any]) -> str | None:
    """Kind of the signals that names and sidecar state, if they do."""
    if len(parts) > 1:
        return "complex"
    if "mag" in parts:
        return "magnitude"
    if "real" in parts:
        return "signed"
    if isinstance(content.get("Signed"), bool):
        return "signed" if content["Signed"] else "magnitude"
    types = content.get("ImageType")
    stated = {_OF_TYPE.get(str(one).upper()) for one in types} if isinstance(types, list) else set()
    stated.discard(None)
    return stated.pop() if len(stated) == 1 else None


def _check_first_phase(measurements: Sequence[Measurement], grid: Grid) -> None:
    """Read a slice of complex signals, whose phases may be in another unit."""
    first = measurements[0].volume
    if isinstance(first, ComplexVolume):
        slices = list(grid.slabs(1))
        with OpenFiles() as files:
            first.read(slices[len(slices) // 2], files)


def _sidecar_protocol(
    paths: Sequence[Path], contents: Sequence[dict[str, Any] | None], sizes: Sequence[int],
    given: AcquisitionProtocol | None, name: str,
) -> AcquisitionProtocol | None:  # fmt: skip
    """Protocol of the sidecars; None if there are times and a sidecar has none."""
    times: list[dict[str, NDArray[np.float64]]] = []
    without: list[Path] = []
    for path, content, size in zip(paths, contents, sizes, strict=True):
        stated = content is not None and bool(content.keys() & {"ti", "te", "TI", "TE", "contrasts",
                                                                "grid"})  # fmt: skip
        if stated and len(paths) == 1 and given is None:  # a protocol of corrsk
            return _protocol_of(path.parent / f"{stem_of(path)}.json", None)
        own = {} if content is None else times_of(content, path.name)
        own |= _b_values(path)
        _check_sizes(own, size, path)
        if not own.keys() & CONTRASTS.keys():
            without.append(path)
        times.append(own)
    if without:
        if given is not None:
            return None
        _refuse_missing(without, contents[paths.index(without[0])], len(paths), name)
    every = {key for own in times for key in own if key in CONTRASTS}
    for path, own in zip(paths, times, strict=True):
        if given is None and not every <= own.keys():
            lacking = " and ".join(sorted(every - own.keys()))
            other = paths[
                next(k for k, one in enumerate(times) if every - own.keys() <= one.keys())
            ]
            raise ValueError(
                f"the sidecar of {path.name} has no {lacking}, but that of {other.name} has; "
                "correct the sidecars, or "
                + worded(
                    "read different series apart and join them with MeasuredImages.concatenate",
                    "map different series apart, with --select",
                )
            )
    if not all(every <= own.keys() for own in times):
        return None
    with_tr = [path for path, own in zip(paths, times, strict=True) if _TR in own]
    if with_tr and len(with_tr) < len(paths) and given is None:
        path = next(path for path, own in zip(paths, times, strict=True) if _TR not in own)
        raise ValueError(
            f"the sidecar of {path.name} has no RepetitionTime, but that of {with_tr[0].name} has"
        )
    if all(size == 1 for size in sizes):
        check_times(paths, [{key: float(one[key][0]) for key in one} for one in times])
    joined = {
        key: np.concatenate(
            [np.broadcast_to(own[key], size) for own, size in zip(times, sizes, strict=True)]
        )
        for key in (*every, *([_TR] if len(with_tr) == len(paths) else []))
    }
    tr = joined.pop(_TR, None)
    try:
        return AcquisitionProtocol(joined, tr=tr)
    except ValueError as error:
        raise ValueError(f"the sidecars of {name}, in seconds, are invalid: {error}") from error


def _b_values(path: Path) -> dict[str, NDArray[np.float64]]:
    file = path.parent / f"{stem_of(path)}.bval"
    if not file.is_file():
        return {}
    try:
        values = np.array(file.read_text(encoding="utf-8").split(), dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{file} must have numbers: {error}") from error
    return {"b": scan_quantities()["b"].converted(values, "s/mm^2")}


def _check_sizes(own: Mapping[str, NDArray[Any]], size: int, path: Path) -> None:
    for key, values in own.items():
        if values.size not in (1, size):
            raise ValueError(
                f"{path.name} has {size} volumes, but its sidecar has {values.size} values of {key}"
            )


def _refuse_missing(
    without: Sequence[Path], content: dict[str, Any] | None, n_files: int, name: str
) -> None:
    listed = ", ".join(path.name for path in without[:3]) + (" .." if len(without) > 3 else "")
    what = "no sidecar" if content is None else "a sidecar without InversionTime and EchoTime"
    raise ValueError(
        f"{len(without)} of the {n_files} files of {name} have {what}: {listed}; write "
        f"{stem_of(without[0])}.json with these in seconds, or "
        + worded(
            "pass times (.json, .mat, .txt or an AcquisitionProtocol)",
            "give a .json, .mat or .txt file of the times by --times",
        )
    )


def _compare(given: AcquisitionProtocol, stated: AcquisitionProtocol | None, name: str) -> None:
    """Refuse times that contradict the sidecars; a different number is refused later."""
    if stated is None or stated.n_measurements != given.n_measurements:
        return
    ours, theirs = _columns(given), _columns(stated)
    for key in ours.keys() & theirs.keys():
        wrong = np.flatnonzero(~np.isclose(ours[key], theirs[key], rtol=1e-3, atol=1e-6))
        if wrong.size:
            j = int(wrong[0])
            unit = own_units().get(key, REPETITION_TIME.unit)
            raise ValueError(
                f"the times contradict the sidecars of {name}: {key} of measurement {j + 1} is "
                f"{ours[key][j]:g} in the times and {theirs[key][j]:g} {unit} in the sidecars "
                f"({wrong.size} of {ours[key].size} differ); correct one of them"
            )


def _columns(protocol: AcquisitionProtocol) -> dict[str, NDArray[np.float64]]:
    """Scan parameters of each measurement, and TR if there is one."""
    tr = {} if protocol.tr is None else {_TR.upper(): protocol._tr_of_each}
    return dict(protocol.contrasts) | tr


def _warn_of_identity(images: MeasuredImages) -> None:
    if images.grid.has_identity and images.grid.header is not None:
        warnings.warn(
            f"the affine of {images.name} is the identity: position, orientation and voxel sizes "
            "are unknown, and maps have the same affine",
            UserWarning,
            stacklevel=user_level(),
        )


# -- objects in memory, and .npz -----------------------------------------------------


def _from_nibabel(image: Any, given: AcquisitionProtocol | None, name: str) -> MeasuredImages:
    path = image.get_filename() if hasattr(image, "get_filename") else None
    if given is None:
        if path is None:
            raise ValueError(f"{name} has no times: pass times, such as an AcquisitionProtocol")
        return _from_files([Path(path)], None, name)
    n = _n_volumes(image, Path(path or name))
    kind = "complex" if image.get_data_dtype().kind == "c" else None
    measurements = tuple(
        Measurement(ArrayVolume(image.dataobj, k, str(path or "")), k, kind=kind) for k in range(n)
    )
    images = MeasuredImages(measurements, given, Grid.from_image(image), None, name)
    _warn_of_identity(images)
    return images


def _from_array(source: Any, given: AcquisitionProtocol | None, name: str) -> MeasuredImages:
    values = np.asarray(as_numpy(source))
    if values.dtype.kind not in "biufc" or values.ndim == 0:
        raise TypeError(
            "images must be files, a folder, an image of nibabel or an array of numbers; got "
            f"{source!r:.80}"
        )
    if given is None:
        raise ValueError(f"{name} has no times: pass times, such as an AcquisitionProtocol")
    return _in_memory(values, given, name, "", np.eye(4))


def _in_memory(
    values: NDArray[Any], protocol: AcquisitionProtocol, name: str, file: str,
    affine: NDArray[np.float64],
) -> MeasuredImages:  # fmt: skip
    if values.ndim > 4:
        raise ValueError(
            f"{name} has {values.ndim} axes, {values.shape}; images have three spatial axes and "
            "one of measurements"
        )
    spatial = (*values.shape[:-1], 1, 1, 1)[:3]
    values = values.reshape(*spatial, values.shape[-1])
    kind = "complex" if values.dtype.kind == "c" else None
    measurements = tuple(
        Measurement(ArrayVolume(values, k, file), k, kind=kind) for k in range(values.shape[-1])
    )
    grid = Grid((spatial[0], spatial[1], spatial[2]), affine)
    return MeasuredImages(measurements, protocol, grid, None, name)


def _from_npz(
    path: Path, given: AcquisitionProtocol | None, name: str | None, units: Units
) -> tuple[MeasuredImages, NDArray[Any] | None]:
    content = content_of_npz(path, given, units)
    images = _in_memory(
        content.signals, content.protocol, name or path.name, str(path), content.affine
    )
    return images, content.mask
