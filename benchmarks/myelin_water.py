"""Myelin water fractions: the published comparison of T2 methods, a learned row, and the ceiling.

    python -m benchmarks myelin_water
    python benchmarks/myelin_water.py --voxels 4000

The data set "canales2021": Canales-Rodriguez et al., Med. Image Anal. 69, 101959 (2021), section
2.5, and the mean absolute error of the fraction below 40 ms by rule, beside their figures. The
truth is the fraction of the short lobe. What differs: the refocusing angle is the one of the
smallest residual on a grid of 33, where theirs is interpolated; their NNLS has no penalty, ours the
smallest weight; their L-curve and GCV are over their own weights.

Learned: a multilayer perceptron from scikit-learn, from signals divided by their 2-norm (so that
the scale is unknown) to the fraction, trained on simulated signals of the same distribution.

Ceiling: no estimate has a smaller mean absolute error than the median of the posterior, given the
signal, the distribution of the data and an unknown scale. Here the posterior has weighted draws of
lobes, angle and SNR from the distribution, each with evenly spaced fractions. Weights are exact
likelihoods of Rician noise at the most likely scale, times the width of the likelihood along the
scale. Few draws with large weights make the median uncertain, so that the error of the estimate is
at least that of the exact median, apart from chance.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from _measure import record
from scipy.special import ive
from sklearn.compose import TransformedTargetRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from corrsk import CorrelationSignalGenerator, NNLSSpectrum, SNRRange
from corrsk.acquisition import resolve_protocol
from corrsk.simulation import DatasetDefinition, dataset_definition, simulate_dataset

PUBLISHED_DATA = dataset_definition("canales2021")
SNRS = {"50..150": (50.0, 150.0), "150..300": (150.0, 300.0), "no noise": None}
# mean absolute errors of the published table, in the order of SNRS
PUBLISHED = {
    "NNLS": (0.0680, 0.0517, 0.0338),
    "chi2, identity": (0.0549, 0.0433, 0.0146),
    "chi2, second-difference": (0.0556, 0.0445, 0.0107),
    "l-curve, identity": (0.0544, 0.0498, 0.0094),
    "gcv, identity": (0.0581, 0.0433, 0.0146),
}
N_TRAINING, N_CEILING, N_DRAWS = 300_000, 1000, 100_000
_FRACTIONS = 8  # of each draw
_LEAST = 15.0  # draws with a smaller likelihood by this logarithm do not count
Arrays = tuple[np.ndarray, ...]


def definition_of(label: str) -> DatasetDefinition:
    """Definition of the data at the SNR of a label of SNRS."""
    snr = SNRS[label]
    if snr is None:
        return replace(
            PUBLISHED_DATA, name=label, noise_levels=(0.0,), noise_distribution="gaussian"
        )
    levels = SNRRange(*snr)
    known = levels == PUBLISHED_DATA.noise_levels
    return PUBLISHED_DATA if known else replace(PUBLISHED_DATA, name=label, noise_levels=levels)


def signals_of(definition: DatasetDefinition, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Signals (n, 32) and myelin water fractions (n,)."""
    data = simulate_dataset(definition, n, seed, verbose=False)
    return data.data.astype(np.float64), fractions_of(data.tissue)


def fractions_of(tissue: Any) -> np.ndarray:
    return PUBLISHED_DATA.prior.lobes_of(tissue)["f_myelin"].to_numpy()  # type: ignore[union-attr]


def learned(
    definition: DatasetDefinition, n_training: int, seed: int
) -> TransformedTargetRegressor:
    """Regression of the fraction on signals of any scale."""
    X, y = signals_of(definition, n_training, seed)
    network = MLPRegressor(
        hidden_layer_sizes=(128, 128), batch_size=1000, max_iter=20, learning_rate_init=2e-3,
        n_iter_no_change=20, random_state=0,
    )  # fmt: skip
    steps = make_pipeline(Normalizer(), StandardScaler(), network)
    return TransformedTargetRegressor(steps, transformer=StandardScaler()).fit(X, y)


def lobe_signals(n: int, seed: int) -> Arrays:
    """Signals (n, 32) of either lobe alone, with one refocusing angle for both."""
    prior: Any = PUBLISHED_DATA.prior
    tissue, _ = prior.sample(n, seed, verbose=False)
    generator = CorrelationSignalGenerator(
        resolve_protocol(PUBLISHED_DATA.protocol), noise_level=0.0, dtype="float64", verbose=False
    )
    nodes = [f"f_{i}" for i in range(1, prior.n_nodes * len(prior.lobes) + 1)]
    signals = []
    for number in range(len(prior.lobes)):
        own = nodes[number * prior.n_nodes : (number + 1) * prior.n_nodes]
        alone = tissue.copy()
        alone[nodes] = 0.0
        alone[own] = tissue[own].to_numpy() / tissue[own].sum(axis=1).to_numpy()[:, None]
        signals.append(generator.fit_transform(alone))
    return tuple(signals)


def posteriors(X: np.ndarray, snr: tuple[float, float], seed: int) -> Iterator[Arrays]:
    """Fractions and their weights, sum 1, in the posterior of each signal of unknown scale."""
    myelin, cells = lobe_signals(N_DRAWS, seed)
    rng = np.random.default_rng(seed)
    low, high = PUBLISHED_DATA.prior.lobes[0].fraction  # type: ignore[union-attr]
    places = (rng.random(N_DRAWS)[:, None] + np.arange(_FRACTIONS)) / _FRACTIONS
    fraction = low + (high - low) * places
    level = 1 / rng.uniform(*snr, N_DRAWS)
    difference = myelin - cells

    def product_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("dn,dn->d", a, b)[:, None]

    norm = product_of(cells, cells) + fraction * (
        2 * product_of(cells, difference) + fraction * product_of(difference, difference)
    )
    sigma = level[:, None] * (cells[:, :1] + fraction * difference[:, :1])
    n = X.shape[1]
    for x in X:
        product = (cells @ x)[:, None] + fraction * (difference @ x)[:, None]
        scale = product / norm  # most likely, without the bias of Rician noise
        rss = x @ x - scale * product
        rough = -rss / (2 * (scale * sigma) ** 2) - (n - 1) * np.log(scale * sigma)
        draw, place = np.nonzero(rough > rough.max() - _LEAST)
        f = fraction[draw, place]
        a, s = scale[draw, place], (scale * sigma)[draw, place]
        signal = a[:, None] * (cells[draw] + f[:, None] * difference[draw])
        z = x * signal / s[:, None] ** 2
        log_density = np.log(x / s[:, None] ** 2) - (x - signal) ** 2 / (2 * s[:, None] ** 2)
        log_weight = (log_density + np.log(ive(0, z))).sum(axis=1)
        # the width along the scale, whose distribution is flat in its logarithm
        log_weight += np.log(s / (a * np.sqrt(norm[draw, place])))
        weight = np.exp(log_weight - log_weight.max())
        yield f, weight / weight.sum()


def ceiling(X: np.ndarray, truth: np.ndarray, snr: tuple[float, float]) -> dict[str, Any]:
    """Mean absolute error of the median of the posterior, and how certain it is."""
    errors, sizes = [], []
    for (values, weights), own in zip(posteriors(X, snr, seed=1000), truth, strict=True):
        order = np.argsort(values)
        median = values[order][np.searchsorted(np.cumsum(weights[order]), 0.5)]
        errors.append(abs(median - own))
        sizes.append(1 / (weights**2).sum())
    return {
        "errors": np.array(errors),
        "effective draws, median and 5 %": [round(float(np.percentile(sizes, p)), 1)
                                            for p in (50, 5)],
    }  # fmt: skip


def table(n_voxels: int, n_training: int, n_ceiling: int) -> dict[str, Any]:
    common = {"n_bins": 60, "bounds": {"T2": (10, 2000)}, "b1": (0.5, 1.0), "verbose": False}
    rules: dict[str, dict[str, Any]] = {"NNLS": {"regularization": 1e-8}}
    for rule in ("chi2", "l-curve", "gcv", "evidence"):
        for penalty in ("identity", "second-difference"):
            rules[f"{rule}, {penalty}"] = {"regularization": rule, "penalty": penalty}
    rows: dict[str, dict[str, Any]] = {
        name: {} for name in ("constant 0.15", "learned", "ceiling", *rules)
    }
    further: dict[str, Any] = {}

    def enter(name: str, label: str, error: np.ndarray, start: float) -> None:
        rows[name][label] = round(float(error.mean()), 4)
        rows[name][f"{label}, standard error"] = round(float(error.std() / error.size**0.5), 4)
        print(f"{label}: {name} {error.mean():.4f} ({time.perf_counter() - start:.0f} s)")

    for number, (label, snr) in enumerate(SNRS.items()):
        definition = definition_of(label)
        X, truth = signals_of(definition, n_voxels, number)
        start = time.perf_counter()
        enter("constant 0.15", label, np.abs(0.15 - truth), start)
        error = np.abs(learned(definition, n_training, 100 + number).predict(X) - truth)
        enter("learned", label, error, start)
        if number == 0 and snr is not None:
            start = time.perf_counter()
            best = ceiling(X[:n_ceiling], truth[:n_ceiling], snr)
            enter("ceiling", label, best["errors"], start)
            paired = error[:n_ceiling] - best["errors"]
            further = {
                "n_voxels": n_ceiling,
                "learned less ceiling": round(float(paired.mean()), 4),
                "its standard error": round(float(paired.std() / n_ceiling**0.5), 4),
            } | {key: value for key, value in best.items() if key != "errors"}
        for name, options in rules.items():
            start = time.perf_counter()
            # differences take longer: fewer voxels
            some = slice(n_voxels if "difference" not in name else n_voxels // 10)
            spectra = NNLSSpectrum(definition.protocol, **common, **options).fit(X).invert(X[some])
            fraction = spectra.window_fractions({"myelin": {"T2": (0, 40)}})["myelin"].to_numpy()
            enter(name, label, np.abs(fraction - truth[some]), start)
    for name, published in PUBLISHED.items():
        for label, value in zip(SNRS, published, strict=True):
            rows[name][f"{label}, published"] = value
    return {
        "n_voxels": n_voxels, "n_training": n_training,
        "mean absolute error of the myelin water fraction": rows, "ceiling": further,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voxels", type=int, default=10_000)
    parser.add_argument("--training", type=int, default=N_TRAINING)
    parser.add_argument("--ceiling", type=int, default=N_CEILING)
    arguments = parser.parse_args()
    record("myelin_water", table(arguments.voxels, arguments.training, arguments.ceiling))


if __name__ == "__main__":
    main()
