"""Maps in files: geometry, types, sidecars, and what an interruption leaves."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from corrsk import SignalMasker, load_images
from corrsk.imaging import Grid, MapWriter, write_map
from tests.imaging.conftest import AFFINE


@pytest.fixture
def images(save, volume, times):
    return load_images(save(volume), times)


@pytest.mark.parametrize("name", ["map.nii", "map.nii.gz"])
@pytest.mark.parametrize("n_maps", [None, 3])
def test_a_map_is_written_slab_by_slab(name, n_maps, images, tmp_path):
    shape = (5, 4, 3) if n_maps is None else (5, 4, 3, n_maps)
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with MapWriter(tmp_path / name, images, n_maps=n_maps) as writer:
        for slab in images.slabs(max_bytes=1):
            writer.write(slab, values[slab.where][slab.mask])
    found = nibabel.load(tmp_path / name)
    assert found.get_data_dtype() == np.float32
    np.testing.assert_array_equal(found.affine, AFFINE)
    kept = images.voxels_with_signal()
    np.testing.assert_array_equal(np.asarray(found.dataobj)[kept], values[kept])
    assert np.isnan(np.asarray(found.dataobj)[~kept]).all()


def test_the_geometry_of_the_header_is_kept(volume, protocol, save):
    path = save(volume, "scan.nii")
    image = nibabel.load(path)
    oblique = AFFINE.copy()
    oblique[:3, :3] = nibabel.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag([2, 2, 4])
    image.set_qform(oblique, 1)
    image.set_sform(oblique, 2)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path.with_name("oblique.nii"))
    images = load_images(path.with_name("oblique.nii"), protocol)
    write_map(path.with_name("map.nii.gz"), np.zeros((5, 4, 3), int), images)
    found, given = nibabel.load(path.with_name("map.nii.gz")), images.grid.header
    for form in ("qform", "sform"):
        assert found.header[f"{form}_code"] == given[f"{form}_code"]
        np.testing.assert_allclose(getattr(found, f"get_{form}")(), oblique, atol=1e-5)
    assert found.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(found.header.get_zooms(), (2, 2, 4), rtol=1e-5)
    assert found.get_data_dtype() == np.uint8
    assert found.header.get_slope_inter() == (None, None) or found.header["scl_slope"] == 1


def test_equal_maps_are_equal_files(images, tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_map(tmp_path / name, np.ones((5, 4, 3), np.uint8), images)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_the_sidecar_has_sources_and_versions(images, tmp_path):
    folder = tmp_path / "maps"
    folder.mkdir()
    labels = SignalMasker().fit(images).inverse_transform(np.ones(48, int))
    write_map(folder / "sub-01_T1map.nii.gz", labels, images, sidecar={"Units": "s"})
    content = json.loads((folder / "sub-01_T1map.json").read_text(encoding="utf-8"))
    assert content["Sources"] == ["../scan.nii.gz"]
    assert content["Units"] == "s"
    assert content["GeneratedBy"][0]["Name"] == "corrsk"
    (tmp_path / "dataset_description.json").write_text("{}", encoding="utf-8")
    write_map(folder / "sub-01_T1map.nii.gz", labels, images, sidecar={})
    content = json.loads((folder / "sub-01_T1map.json").read_text(encoding="utf-8"))
    assert content["Sources"] == ["bids::scan.nii.gz"]


@pytest.mark.parametrize("name", ["map.nii", "map.nii.gz"])
def test_an_interrupted_map_leaves_the_earlier_one(name, images, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    path = tmp_path / name

    def interrupt():
        with MapWriter(path, images, sidecar={}) as writer:
            slab = next(images.slabs(max_bytes=1))
            writer.write(slab, np.zeros(len(slab.signals)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert sorted(each.name for each in tmp_path.iterdir()) == before
    write_map(path, np.ones((5, 4, 3)), images)
    content = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert path.read_bytes() == content
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([*before, name])


def test_slabs_without_voxels_have_no_results(images, tmp_path):
    mask = np.zeros((5, 4, 3))
    mask[1:, :, 1] = 1
    masked = images.with_mask(mask)
    for dtype, missing in (("float32", np.nan), ("uint8", 0)):
        path = tmp_path / f"{dtype}.nii"
        with MapWriter(path, masked, dtype=dtype) as writer:
            for slab in masked.slabs(max_bytes=1):
                writer.write(slab, np.ones(slab.n_voxels) if slab.n_voxels else None)
        np.testing.assert_array_equal(
            np.asarray(nibabel.load(path).dataobj), np.where(mask > 0, 1, missing)
        )
    with MapWriter(tmp_path / "full.nii", images) as writer:
        slab = next(images.slabs())
        with pytest.raises(ValueError, match="has 48 voxels, but no values"):
            writer.write(slab, None)
        writer.write(slab, np.ones(48))


@pytest.mark.parametrize("name", ["map.nii", "map.nii.gz"])
def test_a_full_disk_leaves_the_earlier_map(name, tmp_path):
    resource = pytest.importorskip("resource")  # a limit of the size of files, as if it were full
    grid, path = Grid((30, 30, 30)), tmp_path / name
    write_map(path, np.zeros(grid.shape), grid)
    before, content = sorted(tmp_path.iterdir()), path.read_bytes()
    values = np.random.default_rng(0).normal(size=grid.shape)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            write_map(path, values, grid)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(tmp_path.iterdir()) == before
    assert path.read_bytes() == content


def test_an_incomplete_map_is_not_saved(images, tmp_path):
    slab = next(images.slabs(max_bytes=1))
    writer = MapWriter(tmp_path / "map.nii", images)
    with pytest.raises(ValueError, match="1 of the 3 slices"), writer:
        writer.write(slab, np.zeros(len(slab.signals)))
    assert not (tmp_path / "map.nii").exists()


def test_values_that_do_not_fit(images, tmp_path):
    path = tmp_path / "map.nii"
    with pytest.raises(ValueError, match=r"integers from 0 to 255, got values from 300 to 300"):
        write_map(path, np.full((5, 4, 3), 300), images)
    with pytest.raises(ValueError, match="integers from 0 to 255"):
        write_map(path, np.full((5, 4, 3), np.nan), images, dtype="uint8")
    with pytest.raises(ValueError, match=r"shape \(5, 4, 3\), got \(5, 4, 2\)"):
        write_map(path, np.zeros((5, 4, 2)), images)
    with pytest.raises(ValueError, match="must end in"):
        MapWriter(tmp_path / "map.img", images)
    with pytest.raises(ValueError, match="dtype must be one of"):
        MapWriter(path, images, dtype="int16")
    with pytest.raises(ValueError, match="n_maps must be at least 1"):
        MapWriter(path, images, n_maps=0)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        MapWriter(tmp_path / "absent" / "map.nii", images)
    assert not path.exists()


def test_maps_of_arrays_have_the_affine_of_the_grid(tmp_path):
    grid = Grid((2, 3, 4), AFFINE)
    write_map(tmp_path / "map.nii.gz", np.zeros((2, 3, 4)), grid)
    found = nibabel.load(tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(found.affine, AFFINE)
    write_map(tmp_path / "map.nii.gz", np.zeros((2, 3, 4)), Grid((2, 3, 4)))
    np.testing.assert_array_equal(nibabel.load(tmp_path / "map.nii.gz").affine, np.eye(4))
