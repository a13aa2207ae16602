"""Readers of JSON, YAML, TOML, .mat and .npz files: damaged and hostile files."""

from __future__ import annotations

import contextlib
import io
import json
import re
import zipfile

import numpy as np
import pytest
from scipy.io import savemat

from corrsk import AcquisitionProtocol, model_card
from corrsk._utils.archives import read_npz
from corrsk._utils.configuration import read_configuration
from corrsk._utils.files import InvalidFileError, read_json
from corrsk._utils.mat_files import read_mat
from corrsk.evaluation import Evaluation
from corrsk.pretrained import ModelCard
from corrsk.simulation.definition import DatasetDefinition

DEEP = "[" * 100_000 + "]" * 100_000
LONG = '{"a": 1' + "0" * 400 + "}"


@pytest.mark.parametrize("text", [DEEP, LONG, '{"a": 1' + "0" * 5000 + "}", "{", "\xff", ""])
@pytest.mark.parametrize(
    "read",
    [
        read_json, read_configuration, AcquisitionProtocol.from_json, ModelCard.from_json,
        Evaluation.from_json, DatasetDefinition.from_file,
    ],
)  # fmt: skip
def test_one_error_for_text_that_is_not_json(tmp_path, read, text):
    path = tmp_path / "file.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InvalidFileError, match=re.escape(f"{path} is not")):
        read(path)


@pytest.mark.parametrize("suffix", [".yaml", ".toml"])
@pytest.mark.parametrize("text", ["a = " + DEEP[:3000], "a: " + DEEP[:3000], "\x00", "a: !!x {"])
def test_one_error_for_other_configurations(tmp_path, suffix, text):
    path = tmp_path / f"file{suffix}"
    path.write_text(text)
    with pytest.raises(InvalidFileError, match=re.escape(str(path))):
        read_configuration(path)


def test_aliases_that_grow_exponentially_are_refused(tmp_path):
    path = tmp_path / "file.yaml"
    lines = ["a0: &a0 [1, 1]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 9)]
    path.write_text("\n".join(lines))
    with pytest.raises(InvalidFileError, match="aliases"):
        read_configuration(path)
    path.write_text("te: &te [1, 2]\nti: *te\n")
    assert read_configuration(path) == {"te": [1, 2], "ti": [1, 2]}


PROTOCOL = {"contrasts": {"TI": [50, 400], "TE": [10, 20]}, "tr": 5000}


@pytest.mark.parametrize(
    "change",
    [
        {"units": "x"}, {"units": 5}, {"tr": "x"}, {"tr": [1]}, {"readout": 1}, {"series": "a"},
        {"contrasts": {"TI": "x"}}, {"contrasts": {"TI": [10**39], "TE": [1]}},
        {"contrasts": None}, {"contrasts": {"TI": [[1]], "TE": [1]}}, {"version": "9"},
        {"contrasts": {"TI": [True, {}], "TE": [1, 2]}}, {"tr": {"a": 1}}, {"readout": [1, 2]},
    ],
)  # fmt: skip
def test_one_error_for_files_that_are_no_protocol(tmp_path, change):
    path = tmp_path / "protocol.json"
    path.write_text(json.dumps(PROTOCOL | change))
    with pytest.raises(InvalidFileError, match=re.escape(str(path))):
        AcquisitionProtocol.from_json(path)


@pytest.mark.parametrize(
    "change",
    [
        {"version": None}, {"version": "9"}, {"version": 2}, {"version": True}, {"metrics": 5},
        {"metrics": {"a": {"value": "x", "low": 0, "high": 1}}}, {"limits": "all"}, {"date": "x"},
        {"limits": [1]}, {"training": []}, {"prior": {"ranges": 5}}, {"protocol": {"tr": 1}},
        {"noise": {"levels": "x"}}, {"name": 10**39}, {"size": 1},
    ],
)  # fmt: skip
def test_one_error_for_files_that_are_no_model_card(tmp_path, change):
    path = tmp_path / "card.json"
    model_card("midl2024").to_json(path)
    ModelCard.from_json(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidFileError, match=re.escape(str(path))):
        ModelCard.from_json(path)


def test_a_wrong_flag_of_complex_numbers_does_not_end_the_process(tmp_path):
    path = tmp_path / "protocol.mat"
    savemat(path, {"ti": np.arange(5.0)})
    content = bytearray(path.read_bytes())
    assert content[128 + 16] == 6  # the class of the array; the flags follow
    content[128 + 17] |= 0x08
    path.write_bytes(content)
    with pytest.raises(InvalidFileError, match="not a readable MATLAB file"):
        AcquisitionProtocol.from_mat(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_mat_files_of_all_types_are_read(tmp_path, compressed):
    content = {
        "ti": np.arange(5.0), "x": np.ones((3, 4, 5), np.float32), "y": np.arange(4), "s": "hello",
        "z": np.array([1 + 2j, 3.0]), "a_long_name": np.zeros(0), "b": np.arange(3, dtype=np.uint8),
    }  # fmt: skip
    others = {"st": {"a": 1}, "cell": np.array([1, "a"], dtype=object)}
    savemat(tmp_path / "m.mat", content | others, do_compression=compressed)
    found = read_mat(tmp_path / "m.mat")
    assert found.keys() == content.keys()
    for name, values in content.items():
        np.testing.assert_array_equal(np.ravel(found[name]), np.ravel(values))


@pytest.mark.parametrize("compressed", [False, True])
def test_every_flipped_bit_of_the_headers_of_a_mat_file_is_survived(tmp_path, compressed):
    path = tmp_path / "m.mat"
    savemat(path, {"ti": np.arange(3.0), "label": np.arange(3)}, do_compression=compressed)
    original = path.read_bytes()
    rng = np.random.default_rng(0)
    for bit in rng.choice(8 * (len(original) - 124), 400) + 8 * 124:
        content = bytearray(original)
        content[bit // 8] ^= 1 << int(bit % 8)
        path.write_bytes(content)
        with contextlib.suppress(InvalidFileError):
            assert set(map(np.size, read_mat(path).values())) <= {3}


def test_sizes_in_an_npz_file_are_checked_before_memory_is_allocated(tmp_path):
    path = tmp_path / "m.npz"
    np.savez(path, x=np.arange(4))
    np.testing.assert_array_equal(read_npz(path)["x"], np.arange(4))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**14,)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(32))
    with pytest.raises(InvalidFileError, match="has another size than its shape"):
        read_npz(path)
