"""Regularised spectra: speed beside rivals.

    python -m benchmarks spectra

Speed, one thread each, in the same run: `NNLSSpectrum` of 8 x 8 signals on 32 x 32 bins with a
given weight and with the chi2 rule, `scipy.optimize.nnls` with the penalty as further rows at the
same weight, and ILTpy (PyPI ilt-py-lib, if it is installed) with its own stopping.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import contextlib
import io
import warnings
from typing import Any

import numpy as np
from _measure import paired_rounds, ratio, record
from scipy.optimize import nnls

from corrsk import AcquisitionProtocol, NNLSSpectrum, make_correlation_signals

N_VOXELS, N_SCIPY, N_ILTPY = 2000, 4, 2
ALPHA = 3e-7


def speed() -> dict[str, Any]:
    X, _ = make_correlation_signals(N_VOXELS, noise_level=0.005, random_state=0, verbose=False)
    common = {"bounds": "midl2024", "n_jobs": 1, "verbose": False}
    models = {
        "given weight": NNLSSpectrum("ir-se-8x8", regularization=ALPHA, **common).fit(X),
        "chi2": NNLSSpectrum("ir-se-8x8", **common).fit(X),
    }
    t1, t2 = models["chi2"].axes_.values()
    protocol = AcquisitionProtocol.named("ir-se-8x8")
    kernels = [1 - 2 * np.exp(-np.unique(protocol.ti)[:, None] / t1),
               np.exp(-np.unique(protocol.te)[:, None] / t2)]  # fmt: skip
    whole = np.kron(*kernels)
    weight = np.sqrt(ALPHA) * np.linalg.norm(whole, 2)
    matrix = np.vstack([whole, weight * np.eye(whole.shape[1])])

    def by_scipy() -> np.ndarray:
        zeros = np.zeros(whole.shape[1])
        return np.stack([
            nnls(matrix, np.concatenate([x, zeros]), maxiter=20_000)[0] for x in X[:N_SCIPY]
        ])  # fmt: skip

    rivals = {name: (lambda model=model: model.transform(X)) for name, model in models.items()}
    rivals["scipy.optimize.nnls"] = by_scipy
    n = dict.fromkeys(models, N_VOXELS) | {"scipy.optimize.nnls": N_SCIPY}
    difference = float(np.abs(by_scipy() - models["given weight"].transform(X[:N_SCIPY])).max())
    with contextlib.suppress(ImportError):
        import iltpy

        def by_iltpy() -> None:
            for x in X[:N_ILTPY]:
                given = iltpy.iltload(
                    data=x.reshape(8, 8).astype(float),
                    t=[np.unique(protocol.ti), np.unique(protocol.te)],
                )
                recovery = iltpy.iltkernel(
                    "inversion recovery", lambda t, tau: 1 - 2 * np.exp(-t / tau),
                    "lambda t, tau: 1 - 2 * np.exp(-t / tau)",
                )  # fmt: skip
                given.init(tau=[t1, t2], kernel=[recovery(), iltpy.Exponential()])
                with contextlib.redirect_stdout(io.StringIO()):
                    given.invert(verbose=0)

        rivals["ILTpy"] = by_iltpy
        n["ILTpy"] = N_ILTPY
    times = paired_rounds(rivals, 3)
    of_voxel = {name: [s / n[name] for s in values] for name, values in times.items()}
    return {
        "n_voxels": n,
        "voxels per second": {name: round(1 / min(v), 1) for name, v in of_voxel.items()},
        "time over that of chi2": {
            name: ratio(of_voxel, name, "chi2") for name in of_voxel if name != "chi2"
        },
        "largest difference from scipy": difference,
    }


def main() -> None:
    # ILTpy warns of parameters that it chooses
    warnings.simplefilter("ignore", UserWarning)
    record("spectra", {"speed": speed()})


if __name__ == "__main__":
    main()
