"""Singular values of NNLS kernels: separable against the decomposition of the whole kernel.

Each decomposition runs in a process of its own, which measures its peak memory. The error is the
largest difference of the spectra of noisy signals relative to their largest value.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
from _measure import record

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    NNLSPeakClassifier,
    PropertyRange,
    TissuePrior,
)
from corrsk.relaxometry import _nnls
from corrsk.relaxometry._compression import CompressedKernel

PRIOR = TissuePrior(
    {
        "T1": PropertyRange(50, 5000, scale="log"),
        "T2": PropertyRange(5, 500, scale="log"),
        "D": PropertyRange(0.05, 5, scale="log"),
    }
)
TI, TE = np.geomspace(20, 5000, 16), np.linspace(2, 1000, 256)
CASES = {
    "16 TI x 256 TE, 32 x 32 cells": ({"ti": TI, "te": TE}, 32),
    "8 TI x 8 TE x 8 b, 12 x 12 x 12 cells": (
        {"ti": TI[::2], "te": TE[::32], "b": np.linspace(0, 5, 8)}, 12,
    ),
}  # fmt: skip


def whole(model: Any, n_points: Any, cutoff: float) -> CompressedKernel:
    """Decompose the whole kernel, as earlier versions did."""
    kernel = model.dictionary(model.grid(n_points)[1]).T
    left, values, right = np.linalg.svd(kernel, full_matrices=False)
    keep = values > cutoff * values[0]
    return CompressedKernel(left[:, keep], values[keep], right[keep])


def measured(case: str, separable: bool) -> tuple[float, float, Any]:
    """Seconds and peak memory (GB) of the decomposition, and the spectra of eight signals."""
    levels, bins = CASES[case]
    protocol = AcquisitionProtocol.from_grid(**levels)
    tissue, n_c = PRIOR.sample(8, random_state=0, verbose=False)
    if "b" not in levels:
        tissue = tissue.drop(columns=[name for name in tissue if name.startswith("D_")])
    X = CorrelationSignalGenerator(protocol, noise_level=0.01, random_state=0).fit_transform(tissue)
    model = NNLSPeakClassifier(protocol, n_bins=bins, bounds=PRIOR, verbose=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with mock.patch.object(_nnls, "compress_kernel", _nnls.compress_kernel if separable else whole):
        model.fit(X, n_c)
    seconds = time.perf_counter() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
    return seconds, memory, model.spectra(X)


def main() -> None:
    results = {}
    for case in CASES:
        runs = {}
        for separable in (False, True):
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                runs[separable] = pool.submit(measured, case, separable).result()
        (old, old_memory, expected), (new, new_memory, found) = runs[False], runs[True]
        results[case] = {
            "seconds of fit": {"whole kernel": round(old, 2), "separable": round(new, 2)},
            "ratio of times": round(old / new, 1),
            "peak memory in GB": {
                "whole kernel": round(old_memory, 3), "separable": round(new_memory, 3)
            },
            "largest relative difference of the spectra": float(
                np.abs(found - expected).max() / expected.max()
            ),
        }  # fmt: skip
    record("kernel_compression", results)


if __name__ == "__main__":
    main()
