"""Reference file of numbers in double precision: signals, tissue, noise, fits and metrics.

    python -m tests.reference

renews tests/reference.json, after a change of the numbers that CHANGELOG.md announces. A test
compares the present numbers with the file, on every processor, so that no change of a formula, a
default or the draws of a seed goes unnoticed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    MultiExponentialClassifier,
    NNLSPeakClassifier,
    SNRRange,
    TissuePrior,
    physics,
)
from corrsk.evaluation import evaluate

PATH = Path(__file__).with_name("reference.json")
GRID = AcquisitionProtocol.from_grid(ti=[50, 400, 2000], te=[10, 30, 60, 100, 150], tr=6000)
_PROTOCOLS = {
    "inversion recovery": (GRID, {}),
    "imperfect inversion": (GRID, {"inversion_efficiency": 0.93}),
    "saturation": (AcquisitionProtocol(ti=[np.inf] * 3, te=10, tr=[300, 900, 3000]), {}),
    "diffusion": (AcquisitionProtocol.from_grid(te=[10, 60], b=[0, 0.7, 2]), {}),
    "three contrasts": (
        AcquisitionProtocol.from_grid(ti=[50, 500], te=[10, 90], b=[0, 1.5], tr=4000), {}
    ),
    "echo train": (
        AcquisitionProtocol(te=[10, 20, 30, 40], readout=physics.EchoTrain(10)),
        {"b1": np.array([0.8, 0.95, 1.1])},
    ),
}  # fmt: skip
ITERATED = ("spectra", "probabilities of fits")
_TISSUE = {
    "T1": np.array([[300.0, 900, 2500], [120, 1500, 4000], [700, 701, 702]]),
    "T2": np.array([[20.0, 60, 300], [8, 90, 450], [40, 41, 42]]),
    "D": np.array([[0.3, 0.9, 2.8], [0.1, 1.4, 3], [0.7, 0.71, 0.72]]),
}
_FRACTIONS = np.array([[0.2, 0.5, 0.3], [0.05, 0.15, 0.8], [1, 0, 0]])
_NOISE: dict[str, dict[str, Any]] = {
    "gaussian": {"noise_level": (0.01, 0.03)},
    "rician": {"noise_level": 0.05, "noise_distribution": "rician", "noise_reference": "max"},
    "four coils": {"noise_level": 0.05, "noise_distribution": "rician", "n_coils": 4},
    "ratios": {"noise_level": SNRRange(20, 200), "noise_reference": "rms"},
}


def numbers() -> dict[str, Any]:
    """The numbers, as nested dictionaries of lists."""
    found: dict[str, Any] = {
        f"signals, {name}": physics.correlation_signals(
            protocol.contrasts, _TISSUE, _FRACTIONS, tr=protocol.tr, readout=protocol.readout,
            **arguments,
        )
        for name, (protocol, arguments) in _PROTOCOLS.items()
    }  # fmt: skip
    signals = found["signals, inversion recovery"]
    for norm in ("l2", "rms", "max"):
        found[f"norm, {norm}"] = physics.normalize_signals(signals, norm)
    for n_coils in (1, 4):
        found[f"magnitude of {n_coils}"] = physics.magnitude_mean(signals, 0.05, n_coils)
        found[f"log-likelihood of {n_coils}"] = physics.magnitude_log_likelihood(
            np.abs(signals) + 0.01, signals, 0.05, n_coils
        )
    tissue, counts = TissuePrior.named("midl2024").sample(6, random_state=3)
    found["tissue"] = tissue.to_numpy()
    found["counts"] = counts
    for name, arguments in _NOISE.items():
        generator = CorrelationSignalGenerator(GRID, random_state=3, dtype="float64", **arguments)
        found[f"noise, {name}"] = generator.fit_transform(tissue)
    counter: dict[str, Any] = {"protocol": GRID, "verbose": False}
    clean = CorrelationSignalGenerator(GRID, noise_level=0.003, random_state=3, dtype="float64")
    X = clean.fit_transform(tissue)
    spectra = NNLSPeakClassifier(n_bins=8, regularization=1e-3, **counter).fit(X, counts)
    found["spectra"] = spectra.spectra(X)
    fits = MultiExponentialClassifier(criterion="bic", random_state=0, **counter).fit(X, counts)
    found["probabilities of fits"] = fits.predict_proba(X)
    rng = np.random.default_rng(3)
    truth, probabilities = rng.integers(1, 5, 60), rng.dirichlet(np.ones(4), 60)
    found["metrics"] = list(_flat(vars(evaluate(truth, probabilities))))
    return {name: np.asarray(values, dtype=np.float64).tolist() for name, values in found.items()}


def _flat(value: Any) -> Any:
    """Numbers within plain values, in order."""
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _flat(value[key])
    elif isinstance(value, list | tuple | np.ndarray):
        for each in value:
            yield from _flat(each)
    elif isinstance(value, int | float | np.number) and not isinstance(value, bool):
        yield float(value)


if __name__ == "__main__":
    PATH.write_text(json.dumps(numbers(), indent=1) + "\n", encoding="utf-8")
