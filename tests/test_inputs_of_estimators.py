"""Every class that `corrsk.save` knows, with signals of any memory layout, scale and number."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pandas as pd
import pytest

from corrsk.persistence._files import _VERSION
from tests import kept

NAMES = sorted(path.stem for path in kept.folder(_VERSION).glob("*.safetensors"))
# estimators that divide each signal by its norm, or fit its amplitude
OF_ANY_SCALE = [
    "normalizer", "pipeline-cnn", "residual-mlp", "logistic", "lda", "multiexponential", "nnls",
    "trained", *kept.LEARNERS,
]  # fmt: skip
# the masker and the spatial classifier have maps of any number of voxels
OF_MAPS = ("masker", kept.SPATIAL)
WITH_THREADS = [
    "generator", "multiexponential", "nnls", "novelty", "observer", "spectrum", "trained",
]  # fmt: skip


@pytest.fixture(scope="module")
def signals():
    return np.array(kept.record(_VERSION)["signals"])


@functools.cache
def estimator(name):
    return kept.loaded(kept.folder(_VERSION) / f"{name}.safetensors")


def result(name, X):
    """What an estimator gives for signals (n, 12), or for its own input."""
    if name in kept.LEARNERS:
        pytest.importorskip("skops")
    model = estimator(name)
    method = next(each for each in kept.METHODS if hasattr(model, each))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few signals differ from what models expect
        return np.asarray(getattr(model, method)(X), dtype=np.float64)


def own_input(name, signals):
    if name == "generator":
        return np.array(pd.DataFrame(kept.record(_VERSION)["tissue"], dtype=float))
    return signals.reshape(2, 4, -1) if name == kept.SPATIAL else signals


LAYOUTS = {
    "big-endian": lambda X: X.astype(">f8"),
    "Fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(X, 3, axis=-1)[..., ::3],
    "reversed": lambda X: np.ascontiguousarray(X[..., ::-1])[..., ::-1],
    "list": lambda X: X.tolist(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_memory_layout_of_signals_does_not_matter(signals, name, layout):
    X = own_input(name, signals)
    expected = result(name, X)
    given = LAYOUTS[layout](X)
    np.testing.assert_allclose(result(name, given), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(given), X)  # and the signals are unchanged


@pytest.mark.parametrize("name", NAMES)
def test_read_only_signals(signals, name):
    X = own_input(name, signals).copy()
    X.setflags(write=False)
    np.testing.assert_array_equal(result(name, X), result(name, X.copy()))


@pytest.mark.parametrize("exponent", [-30, -18, 18, 30])
@pytest.mark.parametrize("name", OF_ANY_SCALE)
def test_the_scale_of_signals_does_not_matter(signals, name, exponent):
    scale = 10.0**exponent
    np.testing.assert_allclose(
        result(name, signals * scale), result(name, signals), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", [each for each in NAMES if each not in (*OF_MAPS, "generator")])
def test_one_signal_and_none(signals, name):
    expected = result(name, signals)
    np.testing.assert_allclose(result(name, signals[:1]), expected[:1], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        result(name, signals[:0])


@pytest.mark.parametrize("name", WITH_THREADS)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_the_number_of_threads_does_not_change_a_bit(signals, name, n_jobs):
    X = own_input(name, signals)
    model = estimator(name)
    expected = result(name, X)
    before = model.n_jobs
    model.set_params(n_jobs=n_jobs)
    try:
        np.testing.assert_array_equal(result(name, X), expected)
    finally:
        model.set_params(n_jobs=before)
