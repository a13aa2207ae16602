"""The noise of an image: residual variances that its voxels have in common."""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    MultiExponentialClassifier,
    load,
    save,
)
from corrsk.relaxometry._residuals import ResidualVariance

TI = AcquisitionProtocol(
    ti=[50, 100, 200, 400, 600, 800], tr=np.array([1000.0, 1000, 1000, 1260, 1860, 2460])
)


def recoveries(n, count, *, noise_level=0.0025, seed=0, **columns):
    rng = np.random.default_rng(seed)
    t1 = np.exp(rng.uniform(np.log(30), np.log(400 if count == 2 else 1400), n))
    fraction = rng.uniform(0.3, 0.7, n) if count == 2 else np.ones(n)
    tissue = pd.DataFrame({"T1_1": t1, "f_1": fraction})
    if count == 2:
        tissue = tissue.assign(T1_2=2 * t1, f_2=1 - fraction)[["T1_1", "T1_2", "f_1", "f_2"]]
    generator = CorrelationSignalGenerator(
        TI, noise_level=noise_level, noise_reference="max", random_state=seed, verbose=False
    )
    return generator.fit_transform(tissue.assign(**columns)).astype(np.float64)


def classifier(**options):
    return MultiExponentialClassifier(
        TI, counts=(1, 2), min_fraction=0.05, random_state=0, verbose=False, **options
    )


@pytest.mark.parametrize("freedom", [3.0, 10.0])
def test_scale_and_freedom_are_those_of_the_variances(freedom):
    rng = np.random.default_rng(0)
    n, own = 20_000, 4
    relative = 0.01**2 * rng.chisquare(own, n) * freedom / rng.chisquare(freedom, n)
    found = ResidualVariance.from_residuals(relative, own)
    assert found.sigma == pytest.approx(0.01, rel=0.05)
    assert found.freedom == pytest.approx(freedom, rel=0.3)
    # a tenth of the voxels with more than one compartment gives the image less weight
    relative[: n // 10] *= 100
    mixed = ResidualVariance.from_residuals(relative, own)
    assert mixed.sigma == pytest.approx(0.01, rel=0.2)
    assert mixed.freedom < found.freedom


def test_a_common_variance_has_many_degrees_of_freedom():
    relative = np.random.default_rng(0).chisquare(30, 5000)
    assert ResidualVariance.from_residuals(relative, 30).freedom > 200


@pytest.mark.parametrize(
    ("relative", "freedom"), [(np.ones(10), 4), (np.ones(100), 0), (np.zeros(100), 4)]
)
def test_too_few_residuals_have_no_distribution(relative, freedom):
    assert ResidualVariance.from_residuals(relative, freedom) is None


def test_the_noise_of_the_image_selects_the_count_of_few_measurements():
    singles, pairs = recoveries(400, 1), recoveries(200, 2, seed=1)
    for criterion, alone in (("f-test", pairs), ("bic", singles)):
        model = classifier(criterion=criterion).fit(singles).calibrate(singles)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a batch of mixtures by choice
            right = [(model.predict(singles) == 1).mean(), (model.predict(pairs) == 2).mean()]
            with_image = right[alone is pairs]
            found = model.calibration_
            model.calibration_ = dataclasses.replace(found, voxel_residual=None)
            each_voxel = (model.predict(alone) == (2 if alone is pairs else 1)).mean()
        # standard deviations of 0.007, and of 0.02 where the noise is that of each voxel
        assert right[0] > 0.95
        assert right[1] > 0.9
        assert with_image > each_voxel + 0.02
        assert 0.002 < found.voxel_residual < 0.003


def test_another_image_than_that_of_the_calibration_warns(tmp_path):
    X = recoveries(200, 1)
    model = classifier(criterion="bic").fit(X).calibrate(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(recoveries(100, 1, seed=2))
        model.predict(5 * X)  # another scale is no other image
    with pytest.warns(UserWarning, match=r"typically .* times those of the calibrated image"):
        model.predict(recoveries(100, 1, seed=2, noise_level=0.02))
    save(model, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    other = recoveries(100, 1, seed=2, inversion_efficiency=0.7)
    with pytest.warns(UserWarning, match=r"the pulses differ .* call calibrate\(X\)"):
        loaded.predict(other)
    assert loaded.calibration_ == model.calibration_


def test_few_voxels_are_calibrated_without_a_noise_of_the_image():
    X = recoveries(12, 1)
    model = classifier(criterion="bic").fit(X).calibrate(X)
    assert model.calibration_.voxel_residual is None
    assert model.calibration_.residual_variance is None
    assert "degrees of freedom" not in str(model.calibration_)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)
