"""Sets of files in BIDS: names, order, sidecars that are inherited, missing or contradictory."""

from __future__ import annotations

import json

import numpy as np
import pytest

from corrsk import AcquisitionProtocol, load_images
from corrsk.imaging import find_bids_sets
from tests._helpers import SHARED_DATA
from tests.imaging.conftest import AFFINE

TI = [0.05, 0.4, 1.2]
TE = [0.01 * k for k in range(1, 13)]


@pytest.fixture
def write_set(save):
    """Function that writes images whose values are their numbers, and returns their folder."""

    def write(names_and_sidecars, folder="sub-01/anat"):
        for k, (name, sidecar) in enumerate(names_and_sidecars):
            values = np.full((4, 3, 2), 100 + k, np.int16) + np.arange(24).reshape(4, 3, 2)
            path = save(values.astype(np.int16), f"{folder}/{name}.nii.gz", sidecar)
        return path.parent

    return write


def echoes(prefix="sub-01", numbers=range(1, 13), **more):
    return [
        (f"{prefix}_echo-{k}_MESE", {"EchoTime": TE[k - 1], "RepetitionTime": 3.0} | more)
        for k in numbers
    ]


def grid(form):
    """Names and sidecars of 3 TI x 12 TE in one of the three forms, in random order."""
    rows = []
    for i, ti in enumerate(TI, 1):
        for j, te in enumerate(TE, 1):
            name = {"acq-TI": f"sub-01_acq-TI{i}_echo-{j}_MESE",
                    "acq-TE": f"sub-01_acq-TE{j}_inv-{i}_IRT1",
                    "both": f"sub-01_inv-{i}_echo-{j}_MESE"}[form]  # fmt: skip
            rows.append((name, {"InversionTime": ti, "EchoTime": te, "RepetitionTime": 6.0}))
    return [rows[k] for k in np.random.default_rng(0).permutation(len(rows))]


@pytest.mark.parametrize("form", ["acq-TI", "acq-TE", "both"])
def test_grids_of_every_form_are_one_set_in_numeric_order(form, write_set):
    folder = write_set(grid(form))
    images = load_images(folder)
    protocol = AcquisitionProtocol.from_grid(ti=np.array(TI) * 1e3, te=np.array(TE) * 1e3, tr=6000)
    assert images.protocol == protocol
    files = [f"sub-01_acq-TI{i}_echo-{j}_MESE.nii.gz" for i in (1, 2, 3) for j in range(1, 13)]
    if form == "acq-TI":
        assert list(images.to_frame()["file"]) == files
        assert images.protocol.feature_names == protocol.feature_names
    # every file has the times of its own sidecar, whatever the order of the files
    names = [name for name, _ in grid(form)]
    values = images.to_array()[0, 0, 0]
    for name, value in zip(images.to_frame()["file"], values, strict=True):
        assert value == 100 + names.index(name.removesuffix(".nii.gz"))


def test_echo_10_comes_after_echo_2(write_set):
    images = load_images(write_set(echoes()))
    np.testing.assert_allclose(images.protocol.te, 10.0 * np.arange(1, 13))
    np.testing.assert_array_equal(images.to_array()[0, 0, 0], 100 + np.arange(12))


def test_files_in_the_order_of_a_glob(write_set):
    folder = write_set(echoes())
    files = sorted(folder.glob("*.nii.gz"))
    images = load_images(files)  # the sidecars give each file its time
    te = images.protocol.te
    np.testing.assert_array_equal(images.to_array()[0, 0, 0], 99 + te / 10)
    with pytest.raises(ValueError, match=r"numeric order, sub-01_echo-12_MESE.nii.gz is before"):
        load_images(files, AcquisitionProtocol(te=10.0 * np.arange(1, 13)))


def test_a_measurement_in_two_files_is_refused(write_set, save):
    folder = write_set(echoes())
    save(np.ones((4, 3, 2)), "sub-01/anat/sub-01_echo-3_MESE.nii")
    with pytest.raises(ValueError, match="are the same measurement"):
        load_images(folder)
    with pytest.raises(ValueError, match="are the same measurement"):
        load_images([folder / "sub-01_echo-1_MESE.nii.gz", folder / "sub-01_echo-1_MESE.nii.gz"])


def test_many_files_are_not_all_open(write_set, monkeypatch):
    from corrsk.imaging import _volumes

    monkeypatch.setattr(_volumes, "_MOST_OPEN", 3)
    images = load_images(write_set(echoes()))
    np.testing.assert_array_equal(images.to_array()[0, 0, 0], 100 + np.arange(12))


def test_sidecars_are_inherited(write_set, tmp_path):
    (tmp_path / "dataset_description.json").write_text("{}", encoding="utf-8")
    (tmp_path / "MESE.json").write_text(json.dumps({"RepetitionTime": 3, "EchoTime": 9}), "utf-8")
    folder = write_set([(name, {"EchoTime": one["EchoTime"]}) for name, one in echoes()])
    (folder / "sub-01_MESE.json").write_text(json.dumps({"RepetitionTime": 4.0}), "utf-8")
    (folder / "sub-02_MESE.json").write_text(json.dumps({"RepetitionTime": 5.0}), "utf-8")
    protocol = load_images(folder).protocol
    assert protocol.tr == 4000
    np.testing.assert_allclose(protocol.te, 10.0 * np.arange(1, 13))


def test_magnitude_and_phase_become_complex_signals(save, tmp_path):
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(4, 3, 2, 3)) + 1j * rng.normal(size=(4, 3, 2, 3))
    for part, function in (("mag", np.abs), ("phase", np.angle)):
        for k in range(3):
            save(function(signals[..., k]), f"sub-01_echo-{k + 1}_part-{part}_MESE.nii",
                 {"EchoTime": TE[k]})  # fmt: skip
    images = load_images(tmp_path)
    assert images.kinds == ("complex",)
    np.testing.assert_allclose(images.to_array(np.float64), signals, rtol=1e-6)
    rows, _ = images.signals()
    assert rows.dtypes.iloc[0] == np.complex64
    magnitude = load_images(tmp_path, select={"part": "mag"})
    assert magnitude.kinds == ("magnitude",)
    np.testing.assert_allclose(magnitude.to_array(), np.abs(signals), rtol=1e-6)
    assert len(magnitude.sources) == 3
    (tmp_path / "sub-01_echo-2_part-phase_MESE.nii").unlink()
    with pytest.raises(ValueError, match=r"echo-2_part-mag_MESE.nii has the parts mag, but other"):
        load_images(tmp_path)
    for k in range(3):
        save(1000 * np.angle(signals[..., k]), f"sub-01_echo-{k + 1}_part-phase_MESE.nii")
    with pytest.raises(ValueError, match="must be in radians"):
        load_images(tmp_path)


def test_several_sets_need_a_choice(write_set, tmp_path):
    write_set(echoes())
    write_set(echoes("sub-02"), "sub-02/anat")
    write_set([(f"sub-02_inv-{k}_IRT1", {"InversionTime": TI[k - 1]}) for k in (1, 2, 3)],
              "sub-02/anat")  # fmt: skip
    write_set(echoes("sub-09"), "derivatives/sub-09/anat")
    assert [str(one) for one in find_bids_sets(tmp_path)] == [
        "sub-01_MESE", "sub-02_IRT1", "sub-02_MESE"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="has 3 sets of images: sub-01_MESE, sub-02_IRT1"):
        load_images(tmp_path)
    images = load_images(tmp_path, select={"sub": "02", "suffix": "IRT1"})
    np.testing.assert_allclose(images.protocol.ti, [50, 400, 1200])
    assert load_images(find_bids_sets(tmp_path)[0]).name == "sub-01_MESE"
    with pytest.raises(ValueError, match="has no images with"):
        load_images(tmp_path, select={"sub": "03"})
    with pytest.raises(NotADirectoryError, match="there is no folder"):
        find_bids_sets(tmp_path / "absent")


def test_missing_sidecars_are_named(write_set):
    folder = write_set(echoes())
    (folder / "sub-01_echo-7_MESE.json").unlink()
    with pytest.raises(ValueError, match=r"1 of the 12 files .*: sub-01_echo-7_MESE.nii.gz"):
        load_images(folder)
    (folder / "sub-01_echo-7_MESE.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="a sidecar without InversionTime and EchoTime"):
        load_images(folder)
    (folder / "sub-01_echo-7_MESE.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"echo-7_MESE.json is not a JSON file"):
        load_images(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"EchoTime": 0.06, "RepetitionTime": 3}, r"echo-6_MESE.* and .*echo-7_MESE.*contradict"),
        ({"EchoTime": 0.055, "RepetitionTime": 3}, "numbered in the order of their times"),
        ({"EchoTime": 70}, r"EchoTime .*echo-7_MESE.nii.gz is 70, .* seconds"),
        ({"EchoTime": 0.07}, r"echo-7_MESE.nii.gz has no RepetitionTime"),
        ({"EchoTime": 0.07, "InversionTime": 1}, r"echo-1_MESE.nii.gz has no TI, but that of"),
        ({"EchoTime": "0.07"}, "must have numbers"),
    ],
)  # fmt: skip
def test_contradictory_sidecars_are_named(change, message, write_set):
    folder = write_set(echoes())
    (folder / "sub-01_echo-7_MESE.json").write_text(json.dumps(change), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_images(folder)


def test_one_number_has_one_time(write_set):
    rows = [(name, {**one, "InversionTime": 0.41} if name.endswith("TI2_echo-5_MESE") else one)
            for name, one in grid("acq-TI")]  # fmt: skip
    with pytest.raises(ValueError, match=r"InversionTime is 0.4 and 0.41 s, with the same acq-TI"):
        load_images(write_set(rows))


def test_grids_that_differ_are_refused(write_set, save):
    folder = write_set(echoes())
    save(np.ones((4, 3, 3)), "sub-01/anat/sub-01_echo-12_MESE.nii.gz")
    with pytest.raises(ValueError, match=r"echo-12_MESE.nii.gz has other voxels .*\(4, 3, 3\)"):
        load_images(folder)
    moved = AFFINE + np.eye(4)
    moved[3, 3] = 1
    save(np.ones((4, 3, 2)), "sub-01/anat/sub-01_echo-12_MESE.nii.gz", affine=moved)
    with pytest.raises(ValueError, match="another affine"):
        load_images(folder)


def test_the_kind_of_the_sidecars(write_set, tmp_path):
    folder = write_set(echoes(Signed=True))
    assert load_images(folder).kinds == ("signed",)
    write_set(echoes(ImageType=["ORIGINAL", "PRIMARY", "M", "ND"]))
    assert load_images(folder).kinds == ("magnitude",)


BIDS_MINI = SHARED_DATA / "bids_mini"


@pytest.mark.skipif(not BIDS_MINI.exists(), reason="the measured data are not there")
@pytest.mark.filterwarnings("ignore:the affine of .* is the identity:UserWarning")
@pytest.mark.parametrize(
    ("subject", "suffix", "times", "kind"),
    [
        ("head", "IRT1", (50, 4000), "signed"), ("head", "MESE", (10, 250), "magnitude"),
        ("ir", "IRT1", (350, 1700), "magnitude"), ("mese", "MESE", (12.8, 384), "magnitude"),
    ],
)  # fmt: skip
def test_measured_sets(subject, suffix, times, kind):
    mask = BIDS_MINI / f"derivatives/masks/sub-{subject}/anat/sub-{subject}_desc-brain_mask.nii.gz"
    images = load_images(BIDS_MINI, mask=mask, select={"sub": subject, "suffix": suffix})
    values = images.protocol.ti if suffix == "IRT1" else images.protocol.te
    assert (values.min(), values.max()) == pytest.approx(times)
    assert (np.diff(values) > 0).all()
    assert images.kinds == (kind,)


@pytest.mark.skipif(not BIDS_MINI.exists(), reason="the measured data are not there")
@pytest.mark.filterwarnings("ignore:the affine of .* is the identity:UserWarning")
def test_zeros_inside_of_measured_masks():
    from corrsk import NoSignalWarning

    mask = BIDS_MINI / "derivatives/masks/sub-mese/anat/sub-mese_desc-brain_mask.nii.gz"
    images = load_images(BIDS_MINI / "sub-mese", mask=mask)
    dark = ~images.to_array().any(axis=-1) & images.mask
    if dark.any():
        with pytest.warns(NoSignalWarning, match=f"{dark.sum()} of {images.mask.sum()} voxels"):
            kept = images.voxels_with_signal()
    else:
        kept = images.voxels_with_signal()
    np.testing.assert_array_equal(kept, images.mask & ~dark)
