"""Spectra with a prior: what a model of compartments adds to plain regularisation.

    python -m benchmarks spectrum_prior

Simulated: the data set "t1t2-detr" (scale unknown) on 64 x 64 bins. Truth and estimates are
compared by the Wasserstein distance of the marginals and of the whole spectrum (in decades; exact
transport of the cells above 0.1 % of the largest one), by the fraction with T2 <= 40 ms, and by the
distance between the spectra of two noise draws of the same tissue. Rows:

- "chi2": plain `NNLSSpectrum`;
- "prior": the spectrum of the prior alone, `MultiExponentialClassifier.predict_spectrum` with BIC,
  with and without the standard errors of its compartments;
- "posterior": `CompartmentRegressor.predict_spectrum` (with --model, such as "scale unknown" of
  `python benchmarks/compartments.py --train FOLDER`), "chi2 with the posterior", and "medians of
  the posterior": `marginal` and `window_fractions` of the posterior, which have no spectrum in two
  dimensions;
- "network": the same fits, weighted by the counts of the shipped network, and by the true counts;
- "chi2 with prior": `NNLSSpectrum(prior=..)` at factors of 1.02 and 1.1.

Measured, where the data are available: the same spectra from halves of the echoes (Berea sandstone)
and from neighbouring voxels (spheres of the NIST phantom, and sums of two), as a test-retest
distance. One compartment, or two, are known in the phantom.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _measure import record
from phantom import MIN_FRACTION, WATER, echo_spacing, read_images
from scipy.optimize import linprog
from scipy.sparse import coo_array
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance
from sklearn.frozen import FrozenEstimator

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    EchoTrain,
    MultiExponentialClassifier,
    NNLSSpectrum,
    load,
    load_pretrained,
)
from corrsk.simulation import dataset_definition

DATA = "t1t2-detr"
N_BINS, LIMIT = 64, 40.0
LEAST_MASS = 1e-3  # of the largest cell, for the transport in two dimensions
FACTORS = (1.02, 1.1)
Points = tuple[np.ndarray, np.ndarray]  # log10 of the properties (n, P), and masses (n,)


def points_of(spectrum: np.ndarray, axes: Mapping[str, np.ndarray]) -> Points:
    """Cells of a spectrum that are not empty."""
    inside = np.nonzero(spectrum)
    logs = [np.log10(values)[index] for values, index in zip(axes.values(), inside, strict=True)]
    return np.stack(logs, axis=1), spectrum[inside] / spectrum.sum()


def marginal_distance(a: Points, b: Points, place: int) -> float:
    (p, u), (q, v) = (_marginal(each, place) for each in (a, b))
    return float(wasserstein_distance(p, q, u, v))


def _marginal(points: Points, place: int) -> Points:
    values, bins = np.unique(points[0][:, place], return_inverse=True)
    return values, np.bincount(bins.ravel(), weights=points[1])


def transport(a: Points, b: Points) -> float:
    """Exact Wasserstein distance of two sets of points, by linear programming."""
    (p, u), (q, v) = (
        (points[mass > LEAST_MASS * mass.max()], mass[mass > LEAST_MASS * mass.max()])
        for points, mass in (a, b)
    )
    u, v = u / u.sum(), v / v.sum()
    n, m = len(u), len(v)
    flows = np.arange(n * m)
    rows = np.concatenate([flows // m, n + flows % m])
    sums = coo_array((np.ones(2 * n * m), (rows, np.tile(flows, 2))), shape=(n + m, n * m))
    # one of the sums follows from the others
    found = linprog(
        cdist(p, q).ravel(), A_eq=sums.tocsr()[:-1], b_eq=np.concatenate([u, v])[:-1],
        method="highs",
    )  # fmt: skip
    if not found.success:
        raise RuntimeError(found.message)
    return float(found.fun)


def truths(tissue: pd.DataFrame) -> list[Points]:
    """Compartments of each voxel."""
    groups = [tissue.filter(regex=rf"^{name}_\d+$").to_numpy() for name in ("T1", "T2", "f")]
    voxels = []
    for t1, t2, f in zip(*groups, strict=True):
        present = f > 0
        voxels.append((np.log10(np.stack([t1, t2], axis=1)[present]), f[present]))
    return voxels


def simulated(n_voxels: int, n_transport: int, regressor: Any = None) -> dict[str, Any]:
    definition = dataset_definition(DATA)
    prior: Any = definition.resolved().prior
    tissue, n_c = prior.sample(
        n_voxels, random_state=0, noise_level=definition.noise_levels, verbose=False
    )
    draws = [
        CorrelationSignalGenerator(
            definition.protocol, noise_reference=definition.noise_reference, random_state=seed,
            verbose=False,
        ).fit_transform(tissue)
        for seed in (1, 2)
    ]  # fmt: skip
    truth = truths(tissue)
    below = np.array([mass[10 ** values[:, 1] <= LIMIT].sum() for values, mass in truth])
    common = {"bounds": DATA, "n_bins": N_BINS, "n_jobs": 1, "verbose": False}
    fits = MultiExponentialClassifier(
        definition.protocol, bounds=DATA, criterion="bic", counts=(1, 2, 3), random_state=0,
        n_jobs=1, verbose=False,
    ).fit(draws[0])  # fmt: skip
    plain = NNLSSpectrum(definition.protocol, **common).fit(draws[0])
    axes = plain.axes_
    finer = {name: np.geomspace(v[0], v[-1], 4 * N_BINS) for name, v in axes.items()}
    network = load_pretrained(DATA)
    rows: dict[str, tuple[Any, Mapping[str, np.ndarray]]] = {
        "chi2": (lambda X: plain.invert(X).amplitudes, axes),
        "prior": (lambda X: fits.predict_spectrum(X, axes), axes),
        "prior, lines": (lambda X: fits.predict_spectrum(X, axes, widened=False), axes),
        "prior, lines, 256 x 256 bins": (
            lambda X: fits.predict_spectrum(X, finer, widened=False), finer),
        "network's counts, lines, 256 x 256 bins": (
            lambda X: fits.predict_spectrum(
                X, finer, widened=False, probabilities=network.predict_proba(X)), finer),
        "true counts, lines, 256 x 256 bins": (
            lambda X: fits.predict_spectrum(
                X, finer, widened=False, probabilities=np.eye(3)[n_c - 1]), finer),
    }  # fmt: skip
    if regressor is not None:
        rows["posterior, 256 x 256 bins"] = (
            lambda X: regressor.predict_spectrum(X, finer), finer)  # fmt: skip
        model = NNLSSpectrum(
            definition.protocol, prior=FrozenEstimator(regressor), chi2_factor=1.1, **common
        ).fit(draws[0])
        rows["chi2 with the posterior, factor 1.1"] = (
            lambda X, model=model: model.invert(X).amplitudes, axes)  # fmt: skip
    for factor in FACTORS:
        model = NNLSSpectrum(
            definition.protocol, prior=FrozenEstimator(fits), chi2_factor=factor, **common
        ).fit(draws[0])
        rows[f"chi2 with prior, factor {factor}"] = (
            lambda X, model=model: model.invert(X).amplitudes, axes)  # fmt: skip
    table = {}
    for name, (spectra_of, grid) in rows.items():
        spectra = [spectra_of(X) for X in draws]
        cells = [[points_of(each, grid) for each in part] for part in spectra]
        part = (grid["T2"] <= LIMIT) * 1.0
        fraction = np.array([each.sum(axis=0) @ part / each.sum() for each in spectra[0]])
        distance = [[marginal_distance(one, own, place) for one, own in zip(
            cells[0], truth, strict=True)] for place in (0, 1)]  # fmt: skip
        retest = [[marginal_distance(one, two, place) for one, two in zip(*cells, strict=True)]
                  for place in (0, 1)]  # fmt: skip
        whole = [transport(one, own) for one, own in zip(
            cells[0][:n_transport], truth[:n_transport], strict=True)]  # fmt: skip
        values = {
            "T1": distance[0], "T2": distance[1], "T1 x T2": whole,
            "fraction": np.abs(fraction - below), "retest T1": retest[0], "retest T2": retest[1],
        }  # fmt: skip
        table[name] = summary(values)
        print(name, table[name], flush=True)
    if regressor is not None:
        name = "medians of the posterior, 256 bins"
        table[name] = summary(medians(regressor, draws, finer, truth, below))
        print(name, table[name], flush=True)
    return {"n_voxels": n_voxels, "n_transport": n_transport, "rows": table}


def summary(values: dict[str, Any]) -> dict[str, float]:
    """Means and their standard errors."""
    return {key: round(float(np.mean(each)), 4) for key, each in values.items()} | {
        f"{key}, standard error": round(float(np.std(each) / len(each) ** 0.5), 4)
        for key, each in values.items()
    }


def medians(
    regressor: Any, draws: list[np.ndarray], axes: Mapping[str, np.ndarray],
    truth: list[Points], below: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    """Distances of marginals whose cumulative distribution is the median of the posterior."""
    posteriors = [regressor.posterior(X) for X in draws]
    found: dict[str, Any] = {}
    for place, (name, values) in enumerate(axes.items()):
        logs = np.log10(values)
        one, two = (each.marginal(name, values) for each in posteriors)
        found[name] = [wasserstein_distance(logs, own[0][:, place], mass, own[1])
                       for mass, own in zip(one, truth, strict=True)]  # fmt: skip
        found[f"retest {name}"] = [wasserstein_distance(logs, logs, *pair)
                                   for pair in zip(one, two, strict=True)]  # fmt: skip
    short = posteriors[0].window_fractions({"short": {"T2": (0, LIMIT)}})["short"].to_numpy()
    return found | {"fraction": np.abs(short - below)}


def measured_rows(
    protocol: AcquisitionProtocol, halves: tuple[Any, Any], calibrate_on: Any, **options: Any
) -> dict[str, list[Any]]:
    """Spectra of two measurements of the same voxels, without and with a prior."""
    fits = MultiExponentialClassifier(
        protocol, criterion="bic", random_state=0, n_jobs=1, verbose=False,
        min_fraction=MIN_FRACTION, **options,
    ).fit(halves[0])  # fmt: skip
    common = {"n_bins": N_BINS, "n_jobs": 1, "verbose": False}
    if calibrate_on is not None:
        fits.calibrate(calibrate_on)
    models = {"chi2": NNLSSpectrum(protocol, **common)} | {
        f"chi2 with prior, factor {factor}": NNLSSpectrum(
            protocol, prior=FrozenEstimator(fits), chi2_factor=factor, **common
        )
        for factor in FACTORS
    }
    rows: dict[str, list[Any]] = {}
    for name, model in models.items():
        model.fit(halves[0])
        if calibrate_on is not None:
            model.calibrate(calibrate_on)
        rows[name] = [(each, model.axes_) for each in (model.invert(X).amplitudes for X in halves)]
        grid = model.axes_
    rows["prior"] = [(fits.predict_spectrum(X, grid), grid) for X in halves]
    return rows


def retest_of(rows: dict[str, list[Any]]) -> dict[str, dict[str, float]]:
    """Distances of the marginals of both measurements."""
    table = {}
    for name, ((one, axes), (two, _)) in rows.items():
        pairs = [(points_of(a, axes), points_of(b, axes)) for a, b in zip(one, two, strict=True)]
        table[name] = {
            f"retest {key}": round(float(np.mean([marginal_distance(*pair, place)
                                                  for pair in pairs])), 4)
            for place, key in enumerate(axes)
        }  # fmt: skip
    return table


def echoes_of(n_echoes: int, n_kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of echoes without a common one: alternate echoes, ever fewer towards the end."""
    kept = np.unique(np.geomspace(1, n_echoes, 2 * n_kept).astype(int)) - 1
    return kept[: 2 * (kept.size // 2) : 2], kept[1::2]


def samples(data: Path) -> dict[str, Any]:
    """Berea sandstone and water: one voxel each, from two sets of echoes."""
    table = {}
    for name, file, counts, other in (
        ("Berea sandstone, T1-T2", "berea_ir_cpmg.npz", (1, 2, 3, 4), "ti"),
        ("water, T2-D", "water_dt2.npz", (1, 2), "b"),
    ):
        if not (data / file).exists():
            continue
        with np.load(data / file) as content:
            S = content["S"].astype(np.float64)
            te = content["te_ms"]
            S = S if other == "ti" else S.T
            others = content["ti_ms" if other == "ti" else "b_ms_per_um2"]
        halves, protocols = [], []
        for kept in echoes_of(te.size, 64):
            times = np.meshgrid(others, te[kept], indexing="ij")
            protocols.append(
                AcquisitionProtocol(**{other: times[0].ravel(), "te": times[1].ravel()})
            )
            halves.append(S[:, kept].reshape(1, -1))
        # each half with its own protocol
        rows: dict[str, list[Any]] = {}
        for protocol, half in zip(protocols, halves, strict=True):
            bounds = {"T2": (1.0, 3000.0), **({"T1": (1.0, 5000.0)} if other == "ti" else
                                              {"D": (0.1, 10.0)})}  # fmt: skip
            for row, found in one_voxel(protocol, half, counts, bounds).items():
                rows.setdefault(row, []).append(found)
        table[name] = retest_of(rows)
        print(name, table[name], flush=True)
    return table


def one_voxel(
    protocol: AcquisitionProtocol, X: np.ndarray, counts: tuple[int, ...], bounds: dict[str, Any]
) -> dict[str, Any]:
    fits = MultiExponentialClassifier(
        protocol, bounds=bounds, criterion="bic", counts=counts, random_state=0, verbose=False
    ).fit(X)
    models = {"chi2": NNLSSpectrum(protocol, bounds=bounds, n_bins=N_BINS, verbose=False)} | {
        f"chi2 with prior, factor {factor}": NNLSSpectrum(
            protocol, bounds=bounds, n_bins=N_BINS, verbose=False, prior=fits, chi2_factor=factor
        )
        for factor in FACTORS
    }
    rows = {
        name: (model.fit(X).invert(X).amplitudes, model.axes_) for name, model in models.items()
    }
    grid = models["chi2"].axes_
    rows["prior"] = (fits.predict_spectrum(X, grid), grid)
    return rows


def phantom(data: Path, n_pairs: int) -> dict[str, Any]:
    """Sums of voxels of two spheres of the NIST phantom, from two sets of voxels."""
    images = read_images(data / "phantom" / "site4_philips_plate5_T2")
    if images is None:
        return {}
    te = np.asarray(images.protocol.te)
    reference = dict(enumerate(images.reference["T2"], start=1))
    inside = (images.labels > 0) & (images.labels < WATER)
    shortest = 2 * te[0]  # of the spheres, so that a few echoes have their signal
    spheres = [k for k in reference if reference[k] > shortest]
    rng = np.random.default_rng(0)
    signals: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    truth: list[Points] = []
    pairs = [(a, b) for a, b in itertools.combinations(spheres, 2)
             if max(reference[a], reference[b]) > 2 * min(reference[a], reference[b])]  # fmt: skip
    for a, b in [pairs[i] for i in rng.permutation(len(pairs))[:n_pairs]]:
        own = [rng.permutation(np.flatnonzero(images.labels == k))[:2] for k in (a, b)]
        for half, part in zip(range(2), signals, strict=True):
            part.append(images.values[own[0][half]] + images.values[own[1][half]])
        # the first echo, extrapolated to time zero, is the amplitude
        first = [images.values[images.labels == k, 0].mean() * np.exp(te[0] / reference[k])
                 for k in (a, b)]  # fmt: skip
        truth.append((np.log10([[reference[a]], [reference[b]]]), np.array(first) / sum(first)))
    spacing = echo_spacing(te)
    protocol = AcquisitionProtocol(te=te, readout=None if spacing is None else EchoTrain(spacing))
    halves = (np.array(signals[0]), np.array(signals[1]))
    rows = measured_rows(
        protocol, halves, images.values[inside], counts=(1, 2, 3), noise_distribution="rician"
    )
    table = retest_of(rows)
    for name, ((one, axes), _) in rows.items():
        distance = [marginal_distance(points_of(each, axes), own, 0)
                    for each, own in zip(one, truth, strict=True)]  # fmt: skip
        table[name]["T2"] = round(float(np.mean(distance)), 4)
    print("phantom", table, flush=True)
    return {"NIST phantom, sums of two spheres, T2": table | {"n_voxels": len(truth)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voxels", type=int, default=1000)
    parser.add_argument("--transport", type=int, default=100)
    parser.add_argument("--model", type=Path, help="CompartmentRegressor of compartments.py")
    parser.add_argument("--data", type=Path, help="folder with measured signals")
    arguments = parser.parse_args()
    # of misfits and bounds, which are no subject here
    warnings.simplefilter("ignore")
    regressor = None
    if arguments.model is not None:
        regressor = load(arguments.model).set_params(verbose=False)
    results: dict[str, Any] = {
        "simulated": simulated(arguments.voxels, arguments.transport, regressor)
    }
    if arguments.data is not None:
        results["measured"] = samples(arguments.data) | phantom(arguments.data, 40)
    record("spectrum_prior", results)


if __name__ == "__main__":
    main()
