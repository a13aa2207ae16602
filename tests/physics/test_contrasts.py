"""Registered contrasts: several of a tissue property, and in other processes."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from corrsk import AcquisitionProtocol, PropertyRange, TissuePrior, make_correlation_signals
from corrsk.physics import (
    Contrast,
    correlation_signals,
    register_contrast,
    saturation_recovery,
    spin_echo,
)
from corrsk.physics.contrasts import check_tissue_unit, tissue_quantity
from corrsk.relaxometry import MultiExponentialClassifier


@pytest.fixture
def saturation(contrasts):
    """Saturation recovery beside inversion recovery, both of T1."""
    register_contrast(Contrast("TS", "T1", saturation_recovery, smallest_maximum=20.0))


def test_saturation_recovery_beside_inversion_recovery(saturation):
    ts, te = np.meshgrid([100.0, 300, 600, 1000, 1500, 4000], [10.0, 20, 40, 60, 90], indexing="ij")
    protocol = AcquisitionProtocol({"TS": ts.ravel(), "TE": te.ravel()})
    assert protocol.tissue_properties == ("T2", "T1")
    X, y = make_correlation_signals(
        200, protocol=protocol, noise_level=0, norm=None, random_state=0,
        prior=TissuePrior.named("midl2024", n_compartments=(1,)),
    )  # fmt: skip
    grid = protocol.in_grid_order()
    signals = correlation_signals(
        dict(grid.contrasts), {"T1": np.array([[800.0]]), "T2": np.array([[70.0]])}, np.ones((1, 1))
    )
    expected = (1 - np.exp(-grid.contrasts["TS"] / 800)) * np.exp(-grid.te / 70)
    np.testing.assert_allclose(signals[0], expected)
    fit = MultiExponentialClassifier(grid, verbose=False).fit(X, y)
    fitted = fit.estimate_compartments(signals, 1).iloc[0]
    assert (fitted["T1_1"], fitted["T2_1"]) == pytest.approx((800, 70), rel=1e-3)
    # inversion recovery is as before
    assert AcquisitionProtocol.named("ir-se-8x8").tissue_properties == ("T1", "T2")


def test_two_kernels_of_a_property_are_refused_in_one_protocol(saturation):
    with pytest.raises(ValueError, match="TI and TS both encode T1"):
        AcquisitionProtocol({"TI": [50, 800], "TS": [100, 900]})
    with pytest.raises(ValueError, match="TI and TS both encode T1"):
        correlation_signals(
            {"TI": np.array([50.0]), "TS": np.array([90.0])},
            {"T1": np.array([[800.0]])},
            np.ones((1, 1)),
        )


def test_a_property_has_one_unit(contrasts):
    with pytest.raises(ValueError, match="has T2 in ms, .* in s; the units must be equal"):
        register_contrast(Contrast("TE2", "T2", spin_echo, tissue_unit="s"))


def test_a_property_of_several_contrasts_has_the_widest_of_their_ranges(contrasts):
    before = tissue_quantity("T2")
    with pytest.raises(ValueError, match="T2 must be in ms"):
        check_tissue_unit("T2", 0.5)
    bounds = {"tissue_smallest_maximum": 1e-3, "tissue_largest_maximum": 100.0}
    register_contrast(Contrast("TE2", "T2", spin_echo, **bounds))
    check_tissue_unit("T2", 0.5)  # of a solid, which this contrast measures
    check_tissue_unit("T2", before.largest_maximum)
    with pytest.raises(ValueError, match="T2 must be in ms"):
        check_tissue_unit("T2", 2 * before.largest_maximum)
    # a contrast without bounds keeps those of the others
    register_contrast(Contrast("TS", "T1", saturation_recovery))
    with pytest.raises(ValueError, match="T1 must be in ms.*seconds"):
        check_tissue_unit("T1", 1.5)


SCRIPT = """
import sys
import numpy as np
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from corrsk import AcquisitionProtocol, CorrelationSignalGenerator, PropertyRange, TissuePrior
from corrsk.baselines import make_baseline
from corrsk.physics import Contrast, register_contrast

SCALE = 1.0


def spin_lock(tsl, t1rho):
    return np.exp(-SCALE * tsl / t1rho)


if __name__ == "__main__":
    register_contrast(Contrast("first", "A", lambda a, b: a * b))
    register_contrast(Contrast("TSL", "T1rho", spin_lock))
    protocol = AcquisitionProtocol({"TE": [10, 10, 40, 40] * 2, "TSL": [5, 60] * 4})
    ranges = {"T2": PropertyRange(20, 200), "T1rho": PropertyRange(30, 300)}
    tissue, n_c = TissuePrior(ranges=ranges, n_compartments=(1, 2)).sample(200, 0)
    model = make_pipeline(
        CorrelationSignalGenerator(protocol, noise_level=0.001, random_state=0),
        make_baseline("lda"),
    )
    alone, pooled = (cross_val_score(model, tissue, n_c, cv=2, n_jobs=n) for n in (None, 2))
    assert (alone == pooled).all()
    print("equal")
"""


@pytest.mark.slow
def test_a_contrast_of_a_script_in_worker_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert result.stdout == "equal\n", result.stderr


PICKLED = """
import sys, pickle
from corrsk.physics import CONTRASTS
content = pickle.load(open(sys.argv[1], "rb"))
print(list(CONTRASTS), repr(content))
"""


@pytest.mark.parametrize("kind", ["protocol", "prior"])
def test_a_pickle_brings_all_contrasts_in_their_order(contrasts, tmp_path, kind):
    register_contrast(Contrast("first", "A", lambda a, b: a * b))
    register_contrast(Contrast("TSL", "T1rho", lambda tsl, t1rho: np.exp(-tsl / t1rho)))
    content = (
        AcquisitionProtocol({"TSL": [5, 60]})
        if kind == "protocol"
        else TissuePrior({"T1rho": PropertyRange(30, 300)})
    )
    file = tmp_path / "content.pickle"
    file.write_bytes(pickle.dumps(content))
    result = subprocess.run(
        [sys.executable, "-c", PICKLED, str(file)], capture_output=True, text=True, check=False
    )
    assert result.stdout == f"['TI', 'TE', 'b', 'first', 'TSL'] {content!r}\n", result.stderr
    assert pickle.loads(file.read_bytes()) == content  # registered already
    contrasts["TSL"] = Contrast("TSL", "k", spin_echo)
    with pytest.raises(ValueError, match="registered already"):
        pickle.loads(file.read_bytes())


def test_pickles_without_further_contrasts_are_as_before(contrasts):
    protocol, prior = AcquisitionProtocol.named("ir-se-8x8"), TissuePrior.named("midl2024")
    before = pickle.dumps((protocol, prior))
    register_contrast(Contrast("TSL", "T1rho", spin_echo))
    assert pickle.dumps((protocol, prior)) == before
