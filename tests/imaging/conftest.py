"""Images of simulated signals in temporary files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from corrsk import AcquisitionProtocol

nibabel = pytest.importorskip("nibabel")

AFFINE = np.array([[2.0, 0, 0, -30], [0, 2, 0, 10], [0, 0, 4, 5], [0, 0, 0, 1]])


@pytest.fixture
def protocol():
    """Four TIs and three TEs, in the order of a scanner that is no grid order."""
    pairs = [(ti, te) for te in (10.0, 40.0, 120.0) for ti in (3000.0, 50.0, 400.0, 1200.0)]
    ti, te = zip(*pairs, strict=True)
    return AcquisitionProtocol({"TI": ti, "TE": te}, tr=8000.0)


@pytest.fixture
def volume(protocol):
    """Signals of shape (5, 4, 3, 12) with a row of background."""
    rng = np.random.default_rng(0)
    t1, t2 = rng.uniform(300, 2000, (5, 4, 3, 1)), rng.uniform(30, 200, (5, 4, 3, 1))
    ti, te = protocol.ti, protocol.te
    recovery = 1 - 2 * np.exp(-ti / t1) + np.exp(-8000 / t1)
    values = 1000 * recovery * np.exp(-te / t2) + rng.normal(0, 5, (5, 4, 3, 12))
    values[0] = 0
    return values.astype(np.float32)


@pytest.fixture
def save(tmp_path):
    """Function that writes values as an image, with a sidecar if there are entries for it."""

    def write(values, name="scan.nii.gz", sidecar=None, affine=AFFINE, **settings):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(values, affine, **settings)
        nibabel.save(image, path)
        if sidecar is not None:
            name = path.name.removesuffix(".gz").removesuffix(".nii")
            (path.parent / f"{name}.json").write_text(json.dumps(sidecar), encoding="utf-8")
        return path

    return write


@pytest.fixture
def times(protocol, tmp_path):
    """File of the times of the protocol."""
    protocol.to_json(tmp_path / "times.json")
    return tmp_path / "times.json"
