"""Readers of measured images: files and times, lazily, with errors in one sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.io import savemat

from corrsk import AcquisitionProtocol, load_images
from corrsk.imaging import MeasuredImages
from tests._helpers import SHARED_DATA
from tests.imaging.conftest import AFFINE


def test_a_file_with_its_times_is_read(save, volume, times, protocol):
    images = load_images(save(volume), times)
    assert images.shape == volume.shape
    assert images.protocol.feature_names == protocol.feature_names
    assert images.protocol.tr == 8000
    np.testing.assert_array_equal(images.to_array(), volume)
    np.testing.assert_array_equal(images.affine, AFFINE)


def write_times(path, protocol):
    table = protocol.to_frame().assign(TR=protocol.tr)
    if path.suffix == ".mat":
        savemat(path, {"ti": protocol.ti, "te": protocol.te, "tr": protocol.tr})
    elif path.suffix == ".json":
        entries = {"InversionTime": (protocol.ti / 1e3).tolist(),
                   "EchoTime": (protocol.te / 1e3).tolist(), "RepetitionTime": 8.0}  # fmt: skip
        path.write_text(json.dumps(entries), encoding="utf-8")
    elif path.suffix == ".tsv":
        table.rename(columns={"TI": "TI (ms)", "TE": "te_ms"}).to_csv(path, sep="\t", index=False)
    else:
        table.to_csv(path, sep={".csv": ",", ".txt": " "}[path.suffix], index=False)


@pytest.mark.parametrize("suffix", [".mat", ".json", ".tsv", ".csv", ".txt"])
def test_times_of_every_format_are_the_same(suffix, save, volume, protocol, tmp_path):
    write_times(tmp_path / f"times{suffix}", protocol)
    images = load_images(save(volume), tmp_path / f"times{suffix}")
    assert images.protocol.feature_names == protocol.feature_names
    assert images.protocol == protocol


def test_a_sidecar_of_the_same_name_has_the_times(save, volume, protocol):
    path = save(volume, sidecar={
        "InversionTime": (protocol.ti / 1e3).tolist(), "EchoTime": (protocol.te / 1e3).tolist(),
        "RepetitionTime": 8.0,
    })  # fmt: skip
    assert load_images(path).protocol == protocol
    save(volume, sidecar=protocol.to_dict())
    assert load_images(path).protocol == protocol


def test_b_values_are_read_beside_the_image(save, volume, tmp_path):
    path = save(volume[..., :3], sidecar={"EchoTime": 0.06})
    (tmp_path / "scan.bval").write_text("0 1000 2000", encoding="utf-8")
    protocol = load_images(path).protocol
    np.testing.assert_array_equal(protocol.b, [0, 1, 2])
    np.testing.assert_array_equal(protocol.te, [60, 60, 60])


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_scale_factors_and_byte_order_are_honoured(byte_order, save, volume, times, tmp_path):
    stored = np.round((volume + 2000) / 0.5).astype(np.int16)
    header = nibabel.Nifti1Header(endianness=byte_order)
    header.set_data_dtype(np.dtype(np.int16).newbyteorder(byte_order))
    header.set_data_shape(volume.shape)
    header.set_sform(AFFINE, 1)
    header.set_slope_inter(0.5, -2000)
    with (tmp_path / "scan.nii").open("wb") as file:
        header.write_to(file)
        file.write(bytes(352 - file.tell()))
        file.write(stored.astype(f"{byte_order}i2").tobytes(order="F"))
    images = load_images(tmp_path / "scan.nii", times)
    np.testing.assert_allclose(images.to_array(), stored * 0.5 - 2000, rtol=1e-6)
    rows, _ = images.signals()
    assert rows.to_numpy().dtype.isnative


def test_no_value_is_read_before_it_is_needed(save, volume, times, monkeypatch):
    path = save(volume, "scan.nii")
    with monkeypatch.context() as patch:
        from corrsk.imaging import _volumes

        def refuse(*arguments):
            raise AssertionError("values were read")

        patch.setattr(_volumes, "read_values", refuse)
        images = load_images(path, times)
        assert "12 measurements" in repr(images) or "TI x" in repr(images)
    slabs = images.slabs(max_bytes=1)
    first = next(slabs)
    assert first.mask.shape == (5, 4, 1)
    assert first.signals.shape == (16, 12)


def test_slabs_have_the_signals_of_the_whole(save, volume, times):
    for name in ("scan.nii", "scan.nii.gz"):
        images = load_images(save(volume, name), times)
        rows, kept = images.signals()
        maps = np.full(volume.shape, -1.0, np.float32)
        for slab in images.slabs(max_bytes=1):
            maps[slab.where] = slab.fill(slab.signals.to_numpy())
        np.testing.assert_array_equal(maps[kept], rows.to_numpy())
        assert np.isnan(maps[~kept]).all()
        assert kept.sum() == 4 * 4 * 3


def test_a_single_slice_is_cut_along_its_second_axis(volume, protocol):
    images = load_images(volume[:, :, 0], protocol)
    assert images.shape == (5, 4, 1, 12)
    assert [slab.mask.shape for slab in images.slabs(max_bytes=1)] == [(5, 1, 1)] * 4


def test_the_table_has_what_is_read(save, volume, times, protocol):
    images = load_images(save(volume), times, mask=np.ones((5, 4, 3)))
    table = images.to_frame()
    assert list(table.columns) == ["file", "volume", "TI", "TE", "TR", "units", "series", "signal"]
    assert set(table["file"]) == {"scan.nii.gz"}
    np.testing.assert_array_equal(table["volume"], np.arange(12))
    np.testing.assert_array_equal(table["TI"], protocol.ti)
    assert set(table["signal"]) == {"signed"}
    text = images.summary()
    assert "60 voxels (5 x 4 x 3, 2 x 2 x 4 mm)" in text
    assert "mask: 60 voxels" in text


def test_a_long_table_lacks_its_middle(volume):
    protocol = AcquisitionProtocol(te=np.arange(1.0, 201.0))
    images = load_images(np.ones((2, 2, 1, 200)), protocol)
    lines = images.summary().splitlines()
    assert len(lines) < 80
    assert any(line.strip().startswith("..") for line in lines)
    assert "200.0" in lines[-1]


def test_a_subset_has_the_volumes_of_its_measurements(save, volume, times, protocol):
    images = load_images(save(volume), times)
    part = images.subset([5, 2])
    assert part.protocol == protocol.subset([2, 5])
    np.testing.assert_array_equal(part.to_array(), volume[..., [2, 5]])
    mask = np.zeros(protocol.n_measurements, bool)
    mask[[2, 5]] = True
    np.testing.assert_array_equal(images.subset(mask).to_array(), part.to_array())
    with pytest.raises(ValueError, match="positions must lie in"):
        images.subset([0, protocol.n_measurements])


def test_magnitudes_are_found(volume, protocol):
    bright = np.tile(np.abs(volume[1:]), (3, 3, 1, 1))
    assert load_images(bright, protocol).kinds == ("magnitude",)


def test_images_in_memory_and_objects_of_nibabel(save, volume, times, protocol):
    image = nibabel.Nifti1Image(volume, AFFINE)
    np.testing.assert_array_equal(load_images(image, protocol).to_array(), volume)
    loaded = nibabel.load(save(volume, sidecar=protocol.to_dict()))
    assert load_images(loaded).protocol == protocol
    with pytest.raises(ValueError, match="has no times"):
        load_images(image)


# -- .npz -----------------------------------------------------------------------


def test_npz_with_a_protocol_or_vectors(volume, protocol, tmp_path):
    path = tmp_path / "scan.npz"
    np.savez(path, data=volume, protocol=json.dumps(protocol.to_dict()), affine=AFFINE,
             mask=volume.any(axis=-1))  # fmt: skip
    images = load_images(path)
    assert images.protocol == protocol
    np.testing.assert_array_equal(images.affine, AFFINE)
    assert images.mask.sum() == 48
    np.savez(path, signals=volume, ti=protocol.ti / 1e3, TE_ms=protocol.te)
    assert load_images(path, units={"TI": "s"}).protocol == AcquisitionProtocol(protocol.contrasts)


def test_npz_of_a_grid(volume, tmp_path):
    path = tmp_path / "scan.npz"
    np.savez(path, S=volume.reshape(5, 4, 3, 3, 4), te_ms=[10, 40, 90, 160], ti_ms=[50, 400, 1200])
    images = load_images(path)
    assert images.shape == volume.shape
    assert images.protocol.feature_names[:2] == ["TI50_TE10", "TI50_TE40"]
    np.savez(path, S=volume[0, :, :, :3], te_ms=[10, 40, 90], ti_ms=[50, 400, 1200])
    with pytest.raises(ValueError, match="fit both"):
        load_images(path)
    np.savez(path, S=volume, te_ms=[10, 40])
    with pytest.raises(ValueError, match=r"TE \(2\)"):
        load_images(path)
    np.savez(path, S=volume)
    with pytest.raises(ValueError, match="has no times"):
        load_images(path)


@pytest.mark.parametrize(
    ("name", "shape", "n"),
    [("berea_ir_cpmg", (16, 1024), 16384), ("water_dt2", (8000, 16), 128000)],
)
def test_measured_npz(name, shape, n):
    path = SHARED_DATA / f"{name}.npz"
    if not path.exists():
        pytest.skip("the measured data are not there")
    images = load_images(path)
    assert images.shape == (1, 1, 1, n)
    assert images.protocol.grid_shape == shape
    assert images.kinds == ("signed",)


# -- series ----------------------------------------------------------------------


def test_two_series_of_one_slice_have_a_free_gain(volume):
    inversion = AcquisitionProtocol(ti=[50, 400, 1200, 3000], te=10, tr=8000)
    echoes = AcquisitionProtocol(te=[10, 20, 40, 80, 160, 240, 300, 400], tr=3000)
    mask = np.zeros((5, 4, 3))
    mask[1:3] = 1
    first = load_images(volume[..., :4], inversion, mask=mask)
    second = load_images(np.abs(volume[..., 4:]), echoes)
    both = MeasuredImages.concatenate([first, second])
    assert both.protocol == AcquisitionProtocol.concatenate([inversion, echoes], same_gain=False)
    np.testing.assert_array_equal(both.to_frame()["series"], [0] * 4 + [1] * 8)
    np.testing.assert_array_equal(both.mask, mask)
    rows, _ = both.signals()
    np.testing.assert_array_equal(rows.to_numpy()[:, :4], volume[1:3].reshape(24, 12)[:, :4])
    other = load_images(volume[:4, ..., 4:], echoes)
    with pytest.raises(ValueError, match=r"shape \(4, 4, 3\) in place of \(5, 4, 3\)"):
        MeasuredImages.concatenate([first, other])
    without_te = first.with_protocol(AcquisitionProtocol(ti=[50, 400, 1200, 3000]))
    with pytest.raises(ValueError, match="has no TE"):
        MeasuredImages.concatenate([without_te, second])
    with pytest.raises(ValueError, match="share no voxel"):
        MeasuredImages.concatenate([first, second.with_mask(1 - mask)])


# -- masks -------------------------------------------------------------------------


def test_masks_may_lack_axes(volume, protocol):
    images = load_images(volume[:, :, :1], protocol)
    mask = np.zeros((5, 4))
    mask[2] = 255
    for given in (mask, mask[..., None], mask[..., None, None], mask.astype(np.uint8)):
        assert images.with_mask(given).mask.sum() == 4
    whole = load_images(volume, protocol)
    with pytest.raises(ValueError, match=r"shape \(5, 4\), but the array has \(5, 4, 3\)"):
        whole.with_mask(mask)


def test_masks_that_are_none_are_refused(volume, protocol, save):
    images = load_images(nibabel.Nifti1Image(volume, AFFINE), protocol)
    with pytest.raises(ValueError, match="is empty: all 60 values are 0"):
        images.with_mask(np.zeros((5, 4, 3)))
    with pytest.raises(ValueError, match="more than two values, from 0 to 59"):
        images.with_mask(np.arange(60).reshape(5, 4, 3))
    moved = AFFINE.copy()
    moved[0, 3] += 2
    ones = np.ones((5, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="corner lies 1 voxels away"):
        images.with_mask(save(ones, "mask.nii", affine=moved))
    with pytest.warns(UserWarning, match="cannot be compared"):
        assert images.with_mask(save(ones, "mask.nii", affine=np.eye(4))).mask.all()


def test_an_identity_affine_is_a_warning(volume, save, times):
    path = save(volume, affine=np.eye(4))
    with pytest.warns(UserWarning, match="affine of scan.nii.gz is the identity"):
        images = load_images(path, times)
    assert "position and sizes of the voxels are unknown" in images.summary()


# -- bad input -----------------------------------------------------------------------


def test_another_number_of_volumes_has_both_numbers(save, volume, times):
    with pytest.raises(ValueError, match="11 volumes, but the protocol has 12 measurements"):
        load_images(save(volume[..., :11]), times)
    with pytest.raises(ValueError, match="1 volumes, but the protocol has 12"):
        load_images(save(volume[..., 0]), times)


def test_five_axes_are_refused(save, volume, times):
    with pytest.raises(ValueError, match="has 5 axes"):
        load_images(save(volume[..., None, :]), times)
    assert load_images(save(volume[..., None]), times).shape == volume.shape  # an axis of length 1
    with pytest.raises(ValueError, match="has 5 axes"):
        load_images(volume[..., None, :], times)


def test_truncated_files_are_refused_before_values_are_read(save, volume, times):
    for name in ("scan.nii", "scan.nii.gz"):
        path = save(volume, name)
        content = path.read_bytes()
        for kept in (len(content) - 40, len(content) // 2, 100):
            path.write_bytes(content[:kept])
            with pytest.raises(ValueError, match="truncated"):
                load_images(path, times)


def test_files_compressed_in_several_parts_are_complete(save, volume, times, tmp_path):
    content = save(volume, "scan.nii").read_bytes()
    parts = [gzip.compress(content[:5000]), gzip.compress(content[5000:])]
    (tmp_path / "scan.nii.gz").write_bytes(b"".join(parts))
    images = load_images(tmp_path / "scan.nii.gz", times)
    np.testing.assert_array_equal(images.to_array(), volume)


def test_damage_within_a_file_names_it(save, volume, times):
    path = save(volume)
    content = path.read_bytes()
    path.write_bytes(content[:1000] + content[-8:])  # the trailer has the right size
    with pytest.raises(ValueError, match="scan.nii.gz is damaged or truncated"):
        load_images(path, times).to_array()


def test_units_that_are_off_by_1000_are_refused(save, volume, protocol, tmp_path):
    path = save(volume)
    table = protocol.to_frame() / 1000
    table.to_csv(tmp_path / "seconds.csv", index=False)
    with pytest.raises(ValueError, match=r"seconds.csv: TI must be in ms, .* in seconds"):
        load_images(path, tmp_path / "seconds.csv")
    assert load_images(path, tmp_path / "seconds.csv", units="s").protocol.ti[0] == 3000
    save(volume, sidecar={"InversionTime": protocol.ti.tolist(), "EchoTime": 0.01})
    with pytest.raises(ValueError, match="InversionTime in the sidecar of scan.nii.gz is 3000"):
        load_images(path)


def test_files_that_are_no_images(tmp_path, times, volume):
    (tmp_path / "scan.nii.gz").write_text("no image", encoding="utf-8")
    with pytest.raises(ValueError, match="is not a readable image"):
        load_images(tmp_path / "scan.nii.gz", times)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_images(tmp_path / "absent.nii.gz", times)
    with pytest.raises(ValueError, match="times are read from"):
        load_images(volume, tmp_path / "scan.nii.gz")
    with pytest.raises(TypeError, match="images must be"):
        load_images(object(), times)


def test_without_times_the_missing_sidecar_is_named(save, volume):
    with pytest.raises(ValueError, match=r"have no sidecar: scan.nii.gz; write scan.json"):
        load_images(save(volume))


def test_times_that_contradict_the_sidecar_are_refused(save, volume, protocol):
    path = save(volume, sidecar={"InversionTime": (protocol.ti / 1e3).tolist(), "EchoTime": 0.01})
    with pytest.raises(ValueError, match="TE of measurement 5 is 40 in the times and 10 ms"):
        load_images(path, protocol)
    save(volume, sidecar={"InversionTime": (protocol.ti / 1e3).tolist(), "RepetitionTime": 9})
    with pytest.raises(ValueError, match="TR of measurement 1 is 8000 in the times and 9000 ms"):
        load_images(path, protocol)


def test_voxels_without_values_are_a_warning_with_their_number(volume, protocol):
    from corrsk import NoSignalWarning

    volume[2, 1, 1, 3] = np.nan
    images = load_images(volume, protocol)
    with pytest.warns(NoSignalWarning, match="1 of 48 voxels"):
        rows, kept = images.signals()
    assert len(rows) == kept.sum() == 47
    mask = np.zeros((5, 4, 3))
    mask[:3] = 1
    with pytest.warns(NoSignalWarning, match="13 of 36 voxels"):
        assert images.with_mask(mask).signals()[1].sum() == 23


def test_images_without_contrast_are_refused(volume, protocol):
    with pytest.raises(ValueError, match="no voxel with a signal"):
        load_images(np.zeros_like(volume), protocol).signals()
    mask = np.zeros((5, 4, 3))
    mask[0] = 1
    with (
        pytest.raises(ValueError, match="no voxel with a signal in its mask"),
        pytest.warns(UserWarning, match="12 of 12 voxels"),
    ):
        load_images(volume, protocol, mask=mask).signals()
    volume[..., 7] = 3
    with pytest.raises(
        ValueError, match=r"1 of the 12 volumes .* same value .* volume 7 of in mem"
    ):
        load_images(volume, protocol).signals()
    with pytest.raises(ValueError, match="12 of the 12 volumes"):
        load_images(np.full_like(volume, 5), protocol).signals()


@pytest.mark.parametrize("in_one_slab", [True, False])
@pytest.mark.parametrize("in_one_file", [True, False])
def test_the_checksums_of_compressed_files_are_compared(
    save, volume, protocol, in_one_slab, in_one_file
):
    volume = np.tile(volume, (1, 1, 8, 1))  # the first kB is read when a file is opened
    if in_one_file:
        paths = [save(volume, name="scan.nii.gz")]
    else:
        paths = [save(volume[..., k], name=f"scan{k}.nii.gz") for k in range(12)]
    whole = paths[0].read_bytes()
    # the values can be decompressed, only their sum is another one
    paths[0].write_bytes(whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:])
    images = load_images(paths, protocol)
    with pytest.raises(ValueError, match=f"{paths[0].name} is damaged.*CRC"):
        for _ in images.slabs(max_bytes=10**9 if in_one_slab else 1):
            pass
    paths[0].write_bytes(whole)
    assert sum(slab.n_voxels for slab in images.slabs(max_bytes=1)) == 8 * 48


def test_the_checksum_of_a_mask_is_compared(save, volume, protocol):
    path = save(np.ones((5, 4, 3), np.uint8), name="mask.nii.gz")
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:])
    with pytest.raises(ValueError, match=r"mask.nii.gz is damaged"):
        load_images(save(volume), protocol, mask=path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_of_temporary_files_is_named(save, volume, protocol, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: Path("/dev/full").open("wb"))  # noqa: SIM115
    images = load_images(save(volume), protocol)
    with pytest.raises(OSError, match=r"no space for the decompressed values of .*scan.nii.gz in"):
        next(images.slabs(max_bytes=1))
