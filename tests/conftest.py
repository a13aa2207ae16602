"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from pathlib import Path

# Several workers share the cores: more than one thread each makes all of them wait. This must be
# set before numpy and torch are imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

import numpy as np
import pandas as pd
import pytest

from corrsk import load_dataset
from corrsk.physics import CONTRASTS
from tests._helpers import SHARED_DATA

# Packages may warn during their import, about Python or other packages, in any category. All are
# imported here first, so that such a warning does not stop the collection of the tests.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for package in ("torch", "skorch", "numba", "distributed", "onnx", "lightgbm", "xgboost"):
        if importlib.util.find_spec(package) is not None:
            importlib.import_module(package)


@pytest.fixture(scope="session")
def ti_te_mat() -> Path:
    """The published protocol file, which has no licence for redistribution."""
    path = SHARED_DATA / "ti_te_dict.mat"
    if not path.exists():
        pytest.skip("the group's ti_te_dict.mat is not there")
    return path


@pytest.fixture(scope="session")
def small_data():
    """Low-noise signals, enough for a network to learn something in seconds."""
    return load_dataset("midl2024-low-noise", n_samples=6000, random_state=1)


@pytest.fixture
def two_voxels() -> pd.DataFrame:
    """Table of a voxel with one compartment and a voxel with two."""
    return pd.DataFrame(
        {
            "T1_1": [800.0, 600.0],
            "T1_2": [np.nan, 2500.0],
            "T2_1": [80.0, 40.0],
            "T2_2": [np.nan, 300.0],
            "f_1": [1.0, 0.3],
            "f_2": [0.0, 0.7],
        }
    )


@pytest.fixture
def contrasts():
    """Registry of contrasts, restored after the test."""
    before = dict(CONTRASTS)
    yield CONTRASTS
    CONTRASTS.clear()
    CONTRASTS.update(before)
