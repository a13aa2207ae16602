"""Bad input of `corrsk map`: one sentence, before the long work, and no file is touched."""

from __future__ import annotations

import errno
import json
import shutil
from collections import namedtuple

import numpy as np
import pytest
from typer.testing import CliRunner

from corrsk import AcquisitionProtocol, make_correlation_signals
from corrsk._utils.files import write_json
from corrsk.cli.app import app
from corrsk.imaging import maps
from corrsk.workflows.mapping import networks

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("skimage")

AFFINE = np.diag([2.0, 2, 3, 1])
SHAPE = (5, 4, 3)
PROTOCOL = AcquisitionProtocol.named("ir-se-8x8")
MODEL = ("--times", "ir-se-8x8", "--model", "midl2024")


@pytest.fixture(scope="module")
def values():
    signals, _ = make_correlation_signals(60, norm=None, noise_level=0.01, random_state=0)
    return (500 * signals.reshape(*SHAPE, 64)).astype(np.float32)


class Place:
    """Folder with a scan, in which a case makes its files."""

    def __init__(self, folder, values):
        self.folder, self.values, self.out = folder, values, folder / "out"
        self.scan = self.image("scan.nii.gz", values)

    def image(self, name, values, affine=AFFINE):
        nibabel.save(nibabel.Nifti1Image(values, affine), self.folder / name)
        return self.folder / name

    def mask(self, values, affine=AFFINE):
        path = self.image("mask.nii", values.astype(np.uint8), affine)
        return (self.scan, self.out, *MODEL, "--mask", path)

    def changed(self, change):
        """Arguments for an image with other values."""
        values = self.values.copy()
        return (self.image("other.nii", change(values)), self.out, *MODEL)

    def content(self, content):
        """Arguments for a file with other bytes."""
        path = self.folder / "other.nii.gz"
        path.write_bytes(content(bytearray(self.scan.read_bytes())))
        return (path, self.out, *MODEL)

    def table(self, factor):
        rows = [f"{factor * ti:g} {factor * te:g}" for ti, te in zip(*self.times, strict=True)]
        (self.folder / "times.txt").write_text("\n".join(["TI TE", *rows]))
        return (self.scan, self.out, "--times", self.folder / "times.txt", "--model", "midl2024")

    @property
    def times(self):
        return np.asarray(PROTOCOL.ti), np.asarray(PROTOCOL.te)

    def bids(self, change):
        """Arguments for a data set whose sidecars are changed, or left out if they are empty."""
        anat = self.folder / "raw" / "sub-01" / "anat"
        anat.mkdir(parents=True)
        write_json(self.folder / "raw" / "dataset_description.json", {"Name": "x"})
        for k, (ti, te) in enumerate(zip(*self.times, strict=True)):
            stem = anat / f"sub-01_acq-TI{k // 8 + 1}_echo-{k % 8 + 1}_MESE"
            nibabel.save(nibabel.Nifti1Image(self.values[..., k], AFFINE), f"{stem}.nii")
            content = change(k, {"InversionTime": ti / 1e3, "EchoTime": te / 1e3})
            if content:
                stem.with_suffix(".json").write_text(json.dumps(content))
        return (self.folder / "raw", self.out, "participant", "--model", "midl2024")

    def other_protocol(self):
        AcquisitionProtocol.from_grid(
            ti=[60, 90, 150, 250, 420, 700, 1200, 2000], te=[5, 10, 20, 40, 60, 80, 100, 150]
        ).to_json(self.folder / "times.json")
        times = self.folder / "times.json"
        return (self.scan, self.out, "--times", times, "--model", "midl2024")

    def beside(self, **files):
        """Arguments for a folder that has files already."""
        self.out.mkdir()
        for name, text in files.items():
            (self.out / name.replace("_", ".")).write_text(text)
        return (self.scan, self.out, *MODEL)


def replaced(values, where, value):
    values[where] = value
    return values


def damaged(content):
    for k in range(20):
        content[len(content) // 2 + k] ^= 0xFF
    return content


CASES = {
    "fewer volumes": (
        lambda p: p.changed(lambda v: v[..., :60]),
        "other.nii has 60 volumes, but the protocol has 64 measurements",
    ),
    "no sidecar": (lambda p: (p.scan, p.out), "scan.nii.gz have no sidecar"),
    "one sidecar is missing": (
        lambda p: p.bids(lambda k, times: None if k == 5 else times),
        "1 of the 64 files of sub-01_acq-TI<n>_MESE have no sidecar: "
        "sub-01_acq-TI1_echo-6_MESE.nii",
    ),
    "a sidecar lacks a time": (
        lambda p: p.bids(lambda k, times: {"InversionTime": 0.05} if k == 3 else times),
        "the sidecar of sub-01_acq-TI1_echo-4_MESE.nii has no TE",
    ),
    "contradictory sidecars": (
        lambda p: p.bids(lambda k, times: times | ({"EchoTime": 0.5} if k == 9 else {})),
        "the sidecars of sub-01_acq-TI2_echo-2_MESE.nii and sub-01_acq-TI2_echo-3_MESE.nii",
    ),
    "sidecars in ms": (
        lambda p: p.bids(lambda k, times: {key: 1e3 * value for key, value in times.items()}),
        "which is no time in seconds",
    ),
    "a table in s": (lambda p: p.table(1e-3), "can only be in seconds"),
    "a table in us": (lambda p: p.table(1e3), "can only be in microseconds"),
    "all NaN": (lambda p: p.changed(lambda v: v * np.nan), "has no voxel with a signal"),
    "a volume of NaN": (
        lambda p: p.changed(lambda v: replaced(v, (..., 3), np.nan)), "has no voxel with a signal",
    ),
    "all zero": (lambda p: p.changed(lambda v: 0 * v), "has no voxel with a signal"),
    "constant": (lambda p: p.changed(lambda v: 0 * v + 7), "have the same value in all voxels"),
    "a constant volume": (
        lambda p: p.changed(lambda v: replaced(v, (..., 5), 3)),
        "1 of the 64 volumes of other.nii has the same value in all voxels; the first is volume 5",
    ),
    "empty mask": (lambda p: p.mask(np.zeros(SHAPE)), "is empty: all 60 values are 0"),
    "mask of another shape": (
        lambda p: p.mask(np.ones((4, 4, 3))), "has the shape (4, 4, 3), but scan.nii.gz has (5, 4",
    ),
    "mask of another affine": (
        lambda p: p.mask(np.ones(SHAPE), np.diag([3.0, 2, 3, 1])), "has another position than scan",
    ),
    "mask of labels": (
        lambda p: p.mask(np.arange(60).reshape(SHAPE)), "has more than two values, from 0 to 59",
    ),
    "five axes": (
        lambda p: p.changed(lambda v: np.stack([v, v], axis=-1)),
        "has 5 axes, (5, 4, 3, 64, 2)",
    ),
    "truncated": (lambda p: p.content(lambda b: b[: len(b) // 2]), "is truncated: its header"),
    "truncated header": (lambda p: p.content(lambda b: b[:100]), "is not a readable image"),
    "damaged": (lambda p: p.content(damaged), "other.nii.gz is damaged"),
    "model of another protocol": (
        lambda p: p.other_protocol(), "TI 60 in place of 50, 90 in place of 85",
    ),
    "a file in place of a folder": (
        lambda p: (p.scan, p.scan, *MODEL), "is a file; choose a folder",
    ),
    "no folder can be made": (
        lambda p: (p.scan, p.scan / "maps", *MODEL), "cannot be made: Not a directory",
    ),
    "no folder for the manifest": (
        lambda p: (p.scan, p.out, *MODEL, "--manifest", p.folder / "absent" / "x.json"),
        "there is no folder",
    ),
    "other files": (lambda p: p.beside(thesis_tex="x"), "contains other files (thesis.tex)"),
    "results of another command": (
        lambda p: p.beside(run_json='{"command": "compare"}', rows_csv="1"),
        "contains a run of another configuration (command was 'compare' and is 'map'",
    ),
}  # fmt: skip


def tree(folder):
    return {
        path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))
    }


def refused(arguments):
    """The sentence of an error."""
    result = CliRunner().invoke(app, ["map", *map(str, arguments)])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert result.output.count("Error: ") == len(errors) == 1
    return errors[0]


@pytest.mark.network
@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_and_changes_no_file(tmp_path, values, monkeypatch, case):
    monkeypatch.setattr(networks.NetworkMapper, "compute", lambda *_: pytest.fail("long work"))
    arguments, message = CASES[case]
    arguments = arguments(Place(tmp_path, values))
    before = tree(tmp_path)
    assert message in refused(arguments)
    assert tree(tmp_path) == before


@pytest.mark.network
def test_voxels_with_nan_are_left_out_with_a_line(tmp_path, values):
    values = values.copy()
    values[1, 1, 1, 3], values[2, 2, 2, 7], values[3] = np.nan, np.inf, np.nan
    place = Place(tmp_path, values)
    result = CliRunner().invoke(app, ["map", str(place.scan), str(place.out), *MODEL])
    assert result.exit_code == 0, result.output
    # voxels of NaN alone are background
    assert "in some volumes, which are not mapped: 2" in " ".join(result.output.split())
    missing = ~np.isfinite(values).all(axis=-1)
    mask = np.asarray(nibabel.load(place.out / "mask.nii.gz").dataobj) > 0
    np.testing.assert_array_equal(mask, ~missing)
    entropy = np.asarray(nibabel.load(place.out / "entropy.nii.gz").dataobj)
    np.testing.assert_array_equal(np.isnan(entropy), missing)


@pytest.mark.network
def test_a_folder_without_permission_is_refused_before_the_images_are_read(
    tmp_path, values, monkeypatch
):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    place = Place(tmp_path, values)
    place.out.mkdir()
    before = tree(tmp_path)
    # permission bits do not bind the superuser, who may run the tests
    monkeypatch.setattr("corrsk._utils.files.tempfile.TemporaryFile", refuse)
    message = refused((place.scan, place.out, *MODEL))
    assert message == f"Error: the folder {place.out} cannot be written to: Permission denied"
    assert tree(tmp_path) == before


@pytest.mark.network
def test_a_full_disk_is_named_and_the_folder_is_as_before(tmp_path, values, monkeypatch):
    place = Place(tmp_path, values)
    arguments = (place.scan, place.out, *MODEL)
    before = tree(tmp_path)
    usage = namedtuple("usage", "free")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage(1000))
        assert "the maps need 0.00222 MB of space" in refused(arguments)
    assert tree(tmp_path) == before

    compressed, calls = maps._compress, []

    def fourth_is_full(*paths):
        calls.append(paths)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        compressed(*paths)

    monkeypatch.setattr(maps, "_compress", fourth_is_full)
    message = refused(arguments)
    assert "there is no space for" in message
    assert f"in {place.out} (No space left on device)" in message
    assert len(calls) == 4
    assert tree(tmp_path) == before


@pytest.mark.network
def test_a_failed_subject_leaves_no_file_and_the_others_stay(tmp_path, values):
    place = Place(tmp_path, values)
    bad = place.image("bad.nii", np.zeros_like(values))
    arguments = ["map", "-i", place.scan, "-i", bad, "-o", place.out, *MODEL]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert "1 of 2 subjects failed, the others are complete: bad (bad.nii has no voxel" in (
        " ".join(result.output.split())
    )
    assert sorted(path.name for path in place.out.iterdir()) == ["run.json", "scan"]
    assert (place.out / "scan" / "report.json").exists()
