"""Atomic writing, and round trips of data files."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from corrsk import AcquisitionProtocol, load_dataset
from corrsk._utils.files import write_atomically
from corrsk.simulation.datasets import dataset_definition, simulate_dataset
from corrsk.simulation.files import read_dataset_mat, write_dataset


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error), write_atomically(path) as partial:
            partial.write_text("half of the n")
            raise error
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]
    with write_atomically(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from corrsk import load_dataset
from corrsk.simulation.files import write_dataset

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
data = load_dataset("midl2024", 2000)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_dataset(data, Path(sys.argv[1]))
except OSError as error:
    print("refused")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no RLIMIT_FSIZE")
@pytest.mark.parametrize("suffix", ["npz", "parquet", "mat"])
def test_a_full_disk_leaves_no_partial_file(tmp_path, suffix):
    path = tmp_path / f"data.{suffix}"
    path.write_text("old")
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "refused", result.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def data():
    return load_dataset("midl2024", 400)


def test_npz_round_trip(data, tmp_path):
    write_dataset(data, tmp_path / "data.npz")
    with np.load(tmp_path / "data.npz") as content:
        np.testing.assert_array_equal(content["data"], data.data)
        np.testing.assert_array_equal(content["test_indices"], data.test_indices)
        assert content["tissue_columns"].tolist() == data.tissue.columns.tolist()
        np.testing.assert_array_equal(content["tissue"], data.tissue.to_numpy())


def test_parquet_round_trip(data, tmp_path):
    import pandas as pd

    write_dataset(data, tmp_path / "data.parquet")
    table = pd.read_parquet(tmp_path / "data.parquet")
    np.testing.assert_array_equal(table[data.feature_names], data.data)
    assert table["TI50_TE4.5"].dtype == np.float32
    assert table.index[table["part"] == "test"].tolist() == data.test_indices.tolist()
    np.testing.assert_array_equal(table["n_c"], data.target)
    np.testing.assert_array_equal(table["noise_level"], data.noise_level)


def test_mat_files_are_readable_by_the_published_code(data, tmp_path):
    path = tmp_path / "demo_data.mat"
    write_dataset(data, path)
    content = loadmat(path)
    # the operations of the published code
    assert content["input_train"].astype(np.float32).shape == (280, 1, 8, 8)
    assert content["label_val"].astype(np.int64).squeeze().shape == (80,)
    assert np.max(content["label_train"]) == 4
    levels = content["noiselevel_test"].astype(np.int64).squeeze()
    assert set(levels.tolist()) == {1, 2, 3, 4, 5}
    again = read_dataset_mat(path)
    for part in ("train", "validation", "test"):
        rows, expected = again[f"{part}_indices"], data[f"{part}_indices"]
        np.testing.assert_array_equal(again.data[rows], data.data[expected])
        np.testing.assert_array_equal(again.target[rows], data.target[expected])
        np.testing.assert_allclose(again.noise_level[rows], data.noise_level[expected])
    assert again.grid_shape == (8, 8)


def mat_content(n=6):
    x, y = np.zeros((n, 1, 8, 8)), np.arange(n) % 4 + 1
    return {"input_train": x, "label_train": y, "input_test": x, "label_test": y}


def test_mat_without_validation_and_noise_levels(tmp_path):
    savemat(tmp_path / "data.mat", mat_content())
    data = read_dataset_mat(tmp_path / "data.mat")
    assert "validation_indices" not in data
    assert np.isnan(data.noise_level).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_train": None}, "lacks label_train"),
        ({"input_train": np.zeros((6, 64))}, r"must have shape \(n_samples, 1, n_ti, n_te\)"),
        ({"label_test": np.ones(5)}, "label_test in .* has 5 entries for 6 signals"),
        ({"label_test": np.zeros(6)}, "label_test .* must be compartment counts"),
        ({"label_test": np.arange(6) + 1}, r"label_test .* label_train lacks: \[5, 6\]"),
        ({"label_train": np.ones(6), "label_test": np.ones(6)}, "has a single class, 1"),
        ({"label_train": np.array(list("121212"))}, "must hold real numbers"),
        ({"input_test": np.full((6, 1, 8, 8), np.nan)}, "input_test .* NaN.* in 6 of 6"),
        ({"input_test": np.full((6, 1, 8, 8), 1e300)}, "too large values, in 6 of 6"),
        ({"input_train": np.zeros((0, 1, 8, 8))}, "must have shape"),
        ({"input_train": np.zeros((6, 1, 0, 8))}, "must have shape"),
        ({"noiselevel_train": np.full(6, -5.0)}, "percentages from 0 to 100, got -5"),
        ({"noiselevel_test": np.full(6, np.inf)}, "percentages from 0 to 100"),
        ({"input_train": np.full((6, 1, 8, 8), 1j)}, "must hold real numbers"),
        ({"input_test": np.zeros((6, 1, 8, 7))}, "have different grids"),
    ],
)
def test_bad_mat_files(tmp_path, change, message):
    content = {k: v for k, v in (mat_content() | change).items() if v is not None}
    savemat(tmp_path / "data.mat", content)
    with pytest.raises(ValueError, match=message):
        read_dataset_mat(tmp_path / "data.mat")


def test_a_protocol_file_is_not_a_data_file(ti_te_mat):
    with pytest.raises(ValueError, match="lacks input_train"):
        read_dataset_mat(ti_te_mat)


def test_files_carry_the_protocol(tmp_path):
    import pandas as pd

    grid = AcquisitionProtocol.from_grid(ti=[50, 200, 800], te=[10, 20, 40, 80], tr=5000)
    order = np.random.default_rng(0).permutation(12)
    scan = AcquisitionProtocol({"TI": grid.ti[order], "TE": grid.te[order]}, tr=5000)
    definition = replace(dataset_definition("midl2024"), protocol=scan)
    data = simulate_dataset(definition, 30)
    assert data.feature_names == scan.feature_names
    on_grid = simulate_dataset(replace(definition, protocol=grid), 30)
    np.testing.assert_array_equal(scan.to_grid(data.data), on_grid.data)
    for suffix in ("parquet", "npz", "mat"):
        write_dataset(data, tmp_path / f"data.{suffix}")
    table = pd.read_parquet(tmp_path / "data.parquet")
    with np.load(tmp_path / "data.npz") as content:
        plain = json.loads(str(content["protocol"]))
        np.testing.assert_array_equal(content["data"], data.data)
    for found in (table.attrs["protocol"], plain):
        protocol = AcquisitionProtocol.from_dict(found)
        assert protocol == scan  # TR included
        assert protocol.feature_names == scan.feature_names
    # the images of the .mat file are in grid order
    assert AcquisitionProtocol.from_mat(tmp_path / "data.mat") == grid
    images = read_dataset_mat(tmp_path / "data.mat")
    assert images.grid_shape == (3, 4)
    parts = [data[f"{part}_indices"] for part in ("train", "validation", "test")]
    np.testing.assert_array_equal(images.data, on_grid.data[np.concatenate(parts)])


def test_unknown_suffix(data, tmp_path):
    with pytest.raises(ValueError, match=r"\.npz, \.parquet, \.mat"):
        write_dataset(data, tmp_path / "data.csv")
    scattered = load_dataset("midl2024", 20)
    scattered.protocol = type(scattered.protocol)({"TI": [50, 90], "TE": [5, 9]})
    with pytest.raises(ValueError, match="two-dimensional grid"):
        write_dataset(scattered, tmp_path / "data.mat")
