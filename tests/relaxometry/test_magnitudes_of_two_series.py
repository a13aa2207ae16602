"""What calibrations find in two series, and signs of sums of compartments in magnitudes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from corrsk import AcquisitionProtocol, CorrelationSignalGenerator, Nuisances
from corrsk.relaxometry import MultiExponentialClassifier
from corrsk.relaxometry.calibration import calibrate_pulses

TI = np.array([50.0, 100, 200, 400, 600, 800])
TE = 5.0 * np.arange(1, 33)


def two_series(*, offset=0.0, saturation=0.0):
    return AcquisitionProtocol.concatenate(
        [
            AcquisitionProtocol(ti=TI + offset, te=10.0, tr=1000.0),
            AcquisitionProtocol(te=TE, tr=2000.0 - saturation),
        ],
        same_gain=False,
    )


def signals_of(protocol, tissue, *, noise_level=0.001):
    return CorrelationSignalGenerator(
        protocol, noise_level=noise_level, noise_distribution="rician",
        inversion_efficiency=0.97, random_state=0, verbose=False,
    ).fit_transform(pd.DataFrame(tissue))  # fmt: skip


@pytest.mark.parametrize(("offset", "saturation"), [(0.0, 0.0), (-4.0, 0.0), (3.0, 400.0)])
def test_offsets_of_ti_and_saturation_are_found(offset, saturation):
    t1 = np.repeat(np.geomspace(30, 1400, 12), 10)
    X = signals_of(
        two_series(offset=offset, saturation=saturation),
        {"T1_1": t1, "T2_1": 0.8 * t1, "f_1": np.ones(t1.size)},
    )
    X[:, TI.size :] *= 1.3
    found = calibrate_pulses(X.astype(np.float64), two_series(), magnitude=True)
    assert found.ti_offset == pytest.approx(offset, abs=0.5)
    assert found.saturation_time == pytest.approx(saturation, abs=40)
    assert found.inversion_efficiency == pytest.approx(0.97, abs=0.01)
    assert found.gain == pytest.approx(1.3, rel=0.01)


def test_sums_whose_null_lies_elsewhere_are_fitted_by_two_compartments():
    n = 6
    X = signals_of(
        AcquisitionProtocol.concatenate(
            [AcquisitionProtocol(ti=TI, te=10.0, tr=1000.0), AcquisitionProtocol(te=TE, tr=2000.0)]
        ),
        {"T1_1": [368.0] * n, "T2_1": [321.0] * n, "f_1": [0.5] * n,
         "T1_2": [23.0] * n, "T2_2": [20.0] * n, "f_2": [0.5] * n},
    )  # fmt: skip
    model = MultiExponentialClassifier(
        AcquisitionProtocol.concatenate(
            [AcquisitionProtocol(ti=TI, te=10.0, tr=1000.0), AcquisitionProtocol(te=TE, tr=2000.0)]
        ),
        counts=(1, 2), criterion="bic", noise_distribution="rician", random_state=0,
        nuisances=Nuisances(inversion_efficiency=(0.4, 1.0)), verbose=False,
    ).fit(X)  # fmt: skip
    fits = model.estimate_compartments(X, 2)
    assert (fits["chi2"] < 3).all()
    np.testing.assert_allclose(fits["T1_2"], 368, rtol=0.05)
    np.testing.assert_allclose(fits["T2_2"], 321, rtol=0.05)
