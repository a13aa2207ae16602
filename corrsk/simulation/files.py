"""Data sets as files: .npz, .parquet, and the published code's .mat layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import Bunch

from corrsk._utils.counts import as_counts
from corrsk._utils.extras import require
from corrsk._utils.files import read_mat, write_atomically
from corrsk.simulation.datasets import PARTS

SUFFIXES = (".npz", ".parquet", ".mat")
_MAT_PARTS = {"train": "train", "validation": "val", "test": "test"}  # ours: theirs


def check_suffix(path: Path) -> None:
    """Refuse a path whose suffix names no format that can be written.

    Raises
    ------
    ValueError
        If the suffix is unknown.
    ImportError
        If the library for the format is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in one of {', '.join(SUFFIXES)} to name its format")
    if path.suffix == ".parquet":
        require("pyarrow", extra="cli", purpose="the .parquet format")


def write_dataset(data: Bunch, path: Path) -> None:
    """Write what `load_dataset` returns; the suffix of the path names the format.

    Parameters
    ----------
    data : Bunch
    path : Path
        ".npz" has the arrays by their names in the Bunch; ".parquet" one row per
        signal with columns for the measurements, n_c, noise_level, part and
        tissue; ".mat" the layout that the code published with the paper reads:
        `input_train` (n, 1, n_ti, n_te), `label_train`, .., `noiselevel_test`
        in percent. That code takes the levels as the integers 1 to 5: those of
        "midl2024-low-noise", 0.1 to 0.5, it would all round to 0.

    Raises
    ------
    ValueError
        If the suffix is unknown, or the protocol is no two-dimensional grid,
        which the .mat layout needs.
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
        "tissue": data.tissue.to_numpy(),
        "tissue_columns": np.asarray(data.tissue.columns, dtype=str),
        **{f"{part}_indices": data[f"{part}_indices"] for part in PARTS},
    }


def _parquet_table(data: Bunch) -> pd.DataFrame:
    part = np.empty(len(data.target), dtype=object)
    for name in PARTS:
        part[data[f"{name}_indices"]] = name
    signals = pd.DataFrame(data.data, columns=data.feature_names, copy=False)
    answers = pd.DataFrame({"n_c": data.target, "part": pd.Categorical(part)})
    return pd.concat([signals, answers, data.tissue], axis=1)


def _mat_content(data: Bunch) -> dict[str, NDArray[Any]]:
    shape = data.protocol.grid_shape
    if shape is None or len(shape) != 2:
        raise ValueError(
            "the .mat layout needs a protocol that is a two-dimensional grid; write .npz or "
            ".parquet instead"
        )
    content = {}
    for ours, theirs in _MAT_PARTS.items():
        rows = data[f"{ours}_indices"]
        content[f"input_{theirs}"] = data.data[rows].reshape(-1, 1, *shape)
        content[f"label_{theirs}"] = data.target[rows].astype(np.int64)
        # rounded, so that 0.03 is 3 % and not 3.0000000000000004 %
        content[f"noiselevel_{theirs}"] = np.round(100 * data.noise_level[rows], 9)
    return content


def read_dataset_mat(path: str | Path) -> Bunch:
    """Read a file in the layout of the code published with the paper.

    Parameters
    ----------
    path : path-like
        MATLAB file with `input_train` (n, 1, n_ti, n_te), `label_train`,
        `input_test`, `label_test`; optionally `input_val`, `label_val` and
        `noiselevel_train`, .. in percent.

    Returns
    -------
    Bunch
        As `load_dataset` returns, without tissue and protocol but with
        `grid_shape`; `noise_level` is NaN where the file has none.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a readable MATLAB file, lacks a key, or its arrays do not
        belong together; the message says what was expected.
    """
    content = read_mat(path)
    needed = [f"{kind}_{part}" for part in ("train", "test") for kind in ("input", "label")]
    missing = [key for key in needed if key not in content]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}: expected the layout of the published code, "
            f"input_train (n, 1, n_ti, n_te), label_train, .., found {sorted(content) or 'nothing'}"
        )
    parts = [part for part, theirs in _MAT_PARTS.items() if f"input_{theirs}" in content]
    signals: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    levels: list[NDArray[np.float64]] = []
    for part in parts:
        x, y, level = _read_part(content, _MAT_PARTS[part], str(path))
        if signals and x.shape[1:] != signals[0].shape[1:]:
            raise ValueError(
                f"the inputs in {path} differ in their grid: {signals[0].shape[2:]}, {x.shape[2:]}"
            )
        signals.append(x)
        labels.append(y)
        levels.append(level)
    for part, y in zip(parts, labels, strict=True):
        extra = np.setdiff1d(y, labels[0]).tolist()
        if extra:
            raise ValueError(f"label_{_MAT_PARTS[part]} in {path} holds {extra}, label_train not")
        if np.unique(y).size < 2:
            raise ValueError(f"label_{_MAT_PARTS[part]} in {path} holds a single class, {y[0]}")
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
    """Signals, labels and noise levels of one part, checked."""
    x = np.asarray(content[f"input_{part}"])
    y = np.ravel(content.get(f"label_{part}", ()))
    level = np.ravel(content.get(f"noiselevel_{part}", np.full(len(x), np.nan)))
    for name, values in (
        (f"input_{part}", x), (f"label_{part}", y), (f"noiselevel_{part}", level)
    ):  # fmt: skip
        if values.dtype.kind not in "fiub":
            raise ValueError(f"{name} in {path} must hold real numbers, not {values.dtype}")
    if x.ndim != 4 or x.shape[1] != 1:
        raise ValueError(
            f"input_{part} in {path} must have shape (n, 1, n_ti, n_te), got {x.shape}"
        )
    for name, values in ((f"label_{part}", y), (f"noiselevel_{part}", level)):
        if len(values) != len(x):
            raise ValueError(f"{name} in {path} has {len(values)} entries for {len(x)} signals")
    bad = ~np.isfinite(x).all(axis=(1, 2, 3))
    if bad.any():
        raise ValueError(
            f"input_{part} in {path} holds NaN or infinite values, in {bad.sum()} of {len(x)} "
            f"signals, the first of which is number {np.argmax(bad)}"
        )
    try:
        counts = as_counts(y)
    except ValueError as error:
        raise ValueError(f"label_{part} in {path}: {error}") from error
    return x.astype(np.float32), counts, level / 100
