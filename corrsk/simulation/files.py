"""Files of data sets: .npz, .parquet, and the .mat layout of the published code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import Bunch

from corrsk._utils.counts import as_counts
from corrsk._utils.extras import require
from corrsk._utils.files import InvalidFileError, write_atomically
from corrsk._utils.mat_files import read_mat
from corrsk.simulation.datasets import PARTS

SUFFIXES = (".npz", ".parquet", ".mat")
_MAT_PARTS = {
    "train": "train",
    "validation": "val",
    "test": "test",
}  # names in corrsk: names in the files


def check_suffix(path: Path) -> None:
    """Refuse a path whose suffix is not that of a supported format.

    Raises
    ------
    ValueError
        If the suffix is unknown.
    ImportError
        If the library for the format is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path} must end in one of {', '.join(SUFFIXES)}, which selects the format"
        )
    if path.suffix == ".parquet":
        require("pyarrow", extra="cli", purpose="the .parquet format")


def write_dataset(data: Bunch, path: Path) -> None:
    """Write a data set of `load_dataset`, in the format that the suffix of the path selects.

    Parameters
    ----------
    data : Bunch
        Data set, as returned by :func:`load_dataset`.
    path : Path
        File to write. ".npz" has the arrays by their names in the Bunch, and the protocol as
        JSON; ".parquet" one row per signal with columns for the measurements, n_c, noise_level,
        part and tissue, and the protocol in the metadata (``pandas.read_parquet(path).attrs``);
        ".mat" the layout of the code published with the paper: `input_train` (n_samples, 1, n_ti,
        n_te), in grid order whatever the order of the protocol, `label_train`, ..,
        `noiselevel_test` in percent, and the vectors of the protocol in grid order, which
        :meth:`AcquisitionProtocol.from_mat` reads. Each format has the definition of the data set
        as well: as JSON under `definition` in ".npz" and ".mat", in the metadata of ".parquet".
        The published code converts the levels to the integers 1 to 5, so that all levels of
        "midl2024-low-noise", 0.1 to 0.5, become 0.

    Raises
    ------
    ValueError
        If the suffix is unknown, or the protocol is not a two-dimensional grid,
        which the .mat layout requires.
    ImportError
        If the library for the format is not installed.
    """
    check_suffix(path)
    if path.suffix == ".npz":
        with write_atomically(path) as partial:
            np.savez(partial, allow_pickle=False, **_npz_content(data))
    elif path.suffix == ".parquet":
        table = _parquet_table(data)
        with write_atomically(path) as partial:
            table.to_parquet(partial, index=False)
    else:
        from scipy.io import savemat

        content = _mat_content(data)
        with write_atomically(path) as partial:
            savemat(partial, content)


def _npz_content(data: Bunch) -> dict[str, NDArray[Any]]:
    return {
        "data": data.data,
        "target": data.target,
        "noise_level": data.noise_level,
        "feature_names": np.asarray(data.feature_names),
        "protocol": np.asarray(json.dumps(data.protocol.to_dict())),
        "tissue": data.tissue.to_numpy(),
        "tissue_columns": np.asarray(data.tissue.columns, dtype=str),
        **_definition_entry(data),
        **{f"{part}_indices": data[f"{part}_indices"] for part in PARTS},
    }


def _parquet_table(data: Bunch) -> pd.DataFrame:
    part = np.empty(len(data.target), dtype=object)
    for name in PARTS:
        part[data[f"{name}_indices"]] = name
    signals = pd.DataFrame(data.data, columns=data.feature_names, copy=False)
    answers = pd.DataFrame({"n_c": data.target, "part": pd.Categorical(part)})
    table = pd.concat([signals, answers, data.tissue], axis=1)
    # pandas stores these in the metadata of the file; the names of the columns lack TR
    table.attrs["protocol"] = data.protocol.to_dict()
    if "definition" in data:
        table.attrs["definition"] = data.definition.to_dict()
    return table


def _definition_entry(data: Bunch) -> dict[str, NDArray[Any]]:
    if "definition" not in data:  # data of another source
        return {}
    return {"definition": np.asarray(json.dumps(data.definition.to_dict()))}


def _mat_content(data: Bunch) -> dict[str, NDArray[Any]]:
    shape = data.protocol.grid_shape
    if shape is None or len(shape) != 2:
        raise ValueError(
            "the .mat layout requires a protocol on a two-dimensional grid; write .npz or "
            ".parquet instead"
        )
    protocol = data.protocol.in_grid_order()
    if protocol.readout is not None:
        raise ValueError(
            "the .mat layout has no entry for echo trains; write .npz or .parquet instead"
        )
    content = {name.lower(): values for name, values in protocol.contrasts.items()}
    content |= _definition_entry(data)
    if protocol.tr is not None:
        content["tr"] = np.asarray(protocol.tr)
    on_grid = data.protocol.to_grid(data.data, copy=False)
    for ours, theirs in _MAT_PARTS.items():
        rows = data[f"{ours}_indices"]
        content[f"input_{theirs}"] = on_grid[rows].reshape(-1, 1, *shape)
        content[f"label_{theirs}"] = data.target[rows].astype(np.int64)
        # rounded, so that 0.03 becomes 3 % instead of 3.0000000000000004 %
        content[f"noiselevel_{theirs}"] = np.round(100 * data.noise_level[rows], 9)
    return content


def read_dataset_mat(path: str | Path) -> Bunch:
    """Read a file in the layout of the code published with the paper.

    Parameters
    ----------
    path : path-like
        MATLAB file with `input_train` (n_samples, 1, n_ti, n_te), `label_train`,
        `input_test`, `label_test`; optionally `input_val`, `label_val` and
        `noiselevel_train`, .. in percent.

    Returns
    -------
    Bunch
        Data set as returned by `load_dataset`, without tissue and protocol but with
        `grid_shape`; `noise_level` is NaN if the file has no noise levels.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    InvalidFileError
        If the file is not a readable MATLAB file, lacks a variable, or has arrays that
        contradict each other; the message has the expected content.
    """
    content = read_mat(path)
    needed = [f"{kind}_{part}" for part in ("train", "test") for kind in ("input", "label")]
    missing = [key for key in needed if key not in content]
    if missing:
        raise InvalidFileError(
            f"{path} lacks {', '.join(missing)}: expected the layout of the published code, "
            f"input_train (n_samples, 1, n_ti, n_te), label_train, ..; "
            f"found {sorted(content) or 'nothing'}"
        )
    parts = [part for part, theirs in _MAT_PARTS.items() if f"input_{theirs}" in content]
    signals: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    levels: list[NDArray[np.float64]] = []
    for part in parts:
        x, y, level = _read_part(content, _MAT_PARTS[part], str(path))
        if signals and x.shape[1:] != signals[0].shape[1:]:
            raise InvalidFileError(
                f"the inputs in {path} have different grids: {signals[0].shape[2:]}, {x.shape[2:]}"
            )
        signals.append(x)
        labels.append(y)
        levels.append(level)
    for part, y in zip(parts, labels, strict=True):
        extra = np.setdiff1d(y, labels[0]).tolist()
        if extra:
            raise InvalidFileError(
                f"label_{_MAT_PARTS[part]} in {path} has labels that label_train lacks: {extra}"
            )
        if np.unique(y).size < 2:
            raise InvalidFileError(f"label_{_MAT_PARTS[part]} in {path} has a single class, {y[0]}")
    sizes = [len(y) for y in labels]
    grid_shape = signals[0].shape[2:]
    ends = np.cumsum(sizes)
    indices = {
        f"{part}_indices": np.arange(end - size, end)
        for part, end, size in zip(parts, ends, sizes, strict=True)
    }
    return Bunch(
        data=np.concatenate(signals).reshape(ends[-1], -1),
        target=np.concatenate(labels),
        noise_level=np.concatenate(levels),
        grid_shape=tuple(int(side) for side in grid_shape),
        name=Path(path).name,
        DESCR=f"read from {Path(path).name}",
        **indices,
    )


def _read_part(
    content: dict[str, Any], part: str, path: str
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    """Read and validate the signals, labels and noise levels of one part."""
    x = np.asarray(content[f"input_{part}"])
    y = np.ravel(content.get(f"label_{part}", ()))
    no_levels = np.full(x.shape[:1], np.nan)
    level = np.ravel(content.get(f"noiselevel_{part}", no_levels))
    for name, values in (
        (f"input_{part}", x), (f"label_{part}", y), (f"noiselevel_{part}", level)
    ):  # fmt: skip
        if values.dtype.kind not in "fiub":
            raise InvalidFileError(f"{name} in {path} must hold real numbers, not {values.dtype}")
    if x.ndim != 4 or x.shape[1] != 1 or x.size == 0:
        raise InvalidFileError(
            f"input_{part} in {path} must have shape (n_samples, 1, n_ti, n_te), got {x.shape}"
        )
    for name, values in ((f"label_{part}", y), (f"noiselevel_{part}", level)):
        if len(values) != len(x):
            raise InvalidFileError(
                f"{name} in {path} has {len(values)} entries for {len(x)} signals"
            )
    # 1e300 is finite in double precision only
    with np.errstate(over="ignore"):
        signals = x.astype(np.float32)
    bad = ~np.isfinite(signals).all(axis=(1, 2, 3))
    if bad.any():
        raise InvalidFileError(
            f"input_{part} in {path} has NaN, infinite or too large values, in "
            f"{bad.sum()} of {len(x)} signals; the first is signal {np.argmax(bad)}"
        )
    try:
        counts = as_counts(y)
    except ValueError as error:
        raise InvalidFileError(f"label_{part} in {path}: {error}") from error
    if f"noiselevel_{part}" in content and not ((level >= 0) & (level <= 100)).all():
        raise InvalidFileError(
            f"noiselevel_{part} in {path} must be percentages from 0 to 100, got "
            f"{level.min():g} to {level.max():g}"
        )
    return signals, counts, level / 100
