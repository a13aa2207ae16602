"""Counts, T1 and T2 in measured signals whose truth is known: the spheres of a phantom.

python benchmarks/phantom.py --data FOLDER [--bids FOLDER]

The folder has, for each SITE, inversion recoveries and spin echoes of the same slice:
SITE_T1.nii.gz and SITE_T2.nii.gz (or one of them), whose last axis has one entry per measurement;
SITE_T1.json with InversionTime, EchoTime and RepetitionTime in seconds for each measurement,
Signed, and the relaxation times of the manufacturer, ReferenceT1_ms and ReferenceT2_ms; and
SITE_T1_labels.nii.gz with k in the voxels of sphere k. Every sphere has one compartment.

- Single spheres: how many voxels are called one compartment, and the medians of T1 and T2, with all
  echoes, without the first one or two, and with every other echo.
- Sums of voxels of two and three spheres, whose number of compartments is known, beside the same
  classifier on simulations of the same tissue and noise.
- Calibration of the probabilities on all of these.

--bids: T1 maps of a folder in BIDS with IRT1 images, beside three-parameter fits.

Settings are the same for every site and sphere. Writes results/phantom.json and results/phantom.md.
`--quick` makes few sums and records nothing.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _measure import RESULTS, record
from numpy.typing import NDArray

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    Nuisances,
    SignalMasker,
    load_images,
)
from corrsk._utils.extras import require
from corrsk._utils.files import read_json
from corrsk.acquisition.bounds import resolved_ranges
from corrsk.evaluation import expected_calibration_error
from corrsk.imaging import find_bids_sets
from corrsk.physics import CONTRASTS, EchoTrain
from corrsk.relaxometry import MultiExponentialClassifier

Array = NDArray[np.float64]

WATER = 15  # label of the water around the spheres
COUNTS = (1, 2, 3)
MIN_FRACTION = 0.05
MANY_LEFT = 10  # measurements beyond the parameters of two compartments
EFFICIENCY = (0.4, 1.0)
FREE_EFFICIENCY = (0.4, 2.0)  # as free as three-parameter fits
N_TRIPLES = 30
RATIOS = (1.0, 1.5, 2.0, 3.0, 5.0, np.inf)
CONFIDENCE = (0.0, 0.5, 0.7, 0.9, 0.97, 1.0)
SEED = 0


# -- reading --------------------------------------------------------------------


@dataclass
class Images:
    """Images of one kind of a site: values (V, N), labels (V), and times of the manufacturer."""

    values: Array
    labels: NDArray[np.int64]
    protocol: AcquisitionProtocol
    signed: bool
    reference: dict[str, list[float]]

    @property
    def tr(self) -> Array:
        """TR of each measurement in ms; infinite for full recovery."""
        return np.full(self.protocol.n_measurements, np.inf if self.protocol.tr is None
                       else self.protocol.tr)  # fmt: skip


def read_images(stem: Path) -> Images | None:
    header = stem.parent / f"{stem.name}.json"
    if not header.exists():
        return None
    images = load_images(stem.parent / f"{stem.name}.nii.gz")
    labels = images.read_map(stem.parent / f"{stem.name}_labels.nii.gz").astype(np.int64)
    content = read_json(header)
    return Images(
        images.to_array(np.float64).reshape(-1, images.protocol.n_measurements),
        labels.reshape(-1), images.protocol, bool(content.get("Signed", False)),
        {kind: content.get(f"Reference{kind}_ms", []) for kind in ("T1", "T2")},
    )  # fmt: skip


@dataclass
class Site:
    """Voxels of the spheres of a site."""

    name: str
    labels: NDArray[np.int64]  # (V,)
    reference: dict[str, dict[int, float]]  # manufacturer's T1 and T2 in ms of each sphere
    recovery: Array | None = None  # (V, n_ti)
    ti: Array | None = None
    te_of_recovery: float = 0.0
    tr_of_recovery: Array | None = None
    signed: bool = False
    echoes: Array | None = None  # (V, n_te)
    te: Array | None = None
    tr_of_echoes: Array | None = None
    remarks: list[str] = field(default_factory=list)

    def protocol(self, which: NDArray[np.intp] | None = None) -> AcquisitionProtocol:
        """Protocol of all recoveries and of some of the echoes."""
        parts = []
        if self.ti is not None:
            times = {"ti": self.ti, "tr": _single(self.tr_of_recovery)}
            if self.te is not None:
                times["te"] = self.te_of_recovery
            parts.append(AcquisitionProtocol(**times))
        if self.te is not None:
            te = self.te if which is None else self.te[which]
            tr = self.tr_of_echoes if which is None else self.tr_of_echoes[which]
            spacing = echo_spacing(self.te)
            train = None if spacing is None else EchoTrain(spacing)
            parts.append(AcquisitionProtocol(te=te, tr=_single(tr), readout=train))
        if len(parts) == 1:
            return parts[0]
        return AcquisitionProtocol.concatenate(parts, same_gain=False)

    def signals(self, which: NDArray[np.intp] | None = None) -> Array:
        parts = [] if self.recovery is None else [self.recovery]
        if self.echoes is not None:
            parts.append(self.echoes if which is None else self.echoes[:, which])
        return np.hstack(parts)

    @property
    def magnitude(self) -> bool:
        return self.echoes is not None or not self.signed


def _single(values: Array) -> Any:
    return float(values[0]) if np.ptp(values) < 1e-3 else values


def sites_of(folder: Path) -> list[Site]:
    """All sites of a folder; images on different grids become two sites."""
    names = sorted(
        {
            path.name[: -len(suffix)]
            for suffix in ("_T1.json", "_T2.json")
            for path in folder.glob(f"*{suffix}")
        }
    )
    if not names:
        raise FileNotFoundError(f"{folder} has no files *_T1.json or *_T2.json")
    found = []
    for name in names:
        t1, t2 = (read_images(folder / f"{name}_{kind}") for kind in ("T1", "T2"))
        together = t1 is not None and t2 is not None and t1.labels.shape == t2.labels.shape
        if together and not np.any((t1.labels == t2.labels) & (t1.labels > 0)):
            together = False
        pairs = [(t1, t2)] if together or t1 is None or t2 is None else [(t1, None), (None, t2)]
        found += [site_of(name, one, other) for one, other in pairs]
    return found


def site_of(name: str, t1: Images | None, t2: Images | None) -> Site:
    first = t1 if t1 is not None else t2
    assert first is not None
    inside = (first.labels > 0) & (first.labels != WATER)
    remarks = []
    if t1 is not None and t2 is not None:
        same = t1.labels == t2.labels
        remarks.append(f"{(inside & same).sum()} of {inside.sum()} labelled voxels coincide")
        inside &= same
    for images in (t1, t2):
        if images is not None:
            inside &= np.isfinite(images.values).all(axis=1) & images.values.any(axis=1)
    site = Site(name, first.labels[inside], {}, remarks=remarks)
    for kind in ("T1", "T2"):
        site.reference[kind] = {k: float(v) for k, v in enumerate(first.reference[kind], 1)}
    if t1 is not None:
        site.recovery, site.signed = t1.values[inside], t1.signed
        site.ti, site.tr_of_recovery = t1.protocol.ti, t1.tr
        site.te_of_recovery = 0.0 if t1.protocol.te is None else float(t1.protocol.te[0])
    if t2 is not None:
        site.echoes = np.abs(t2.values[inside])
        site.te, site.tr_of_echoes = t2.protocol.te, t2.tr
    return site


def echo_spacing(te: Array) -> float | None:
    """Spacing in ms of the train whose echoes are at these times; None if there is none."""
    te = np.sort(te)
    smallest = min(float(te[0]), *np.diff(te))
    for parts in (1, 2, 3):
        spacing = smallest / parts
        for _ in range(3):  # times in headers are rounded: the spacing that fits all of them
            numbers = np.maximum(np.rint(te / spacing), 1)
            spacing = float(te @ numbers / (numbers @ numbers))
        try:
            EchoTrain(spacing).echo_numbers(te)
        except ValueError:
            continue
        return spacing
    return None


def visible(site: Site, which: NDArray[np.intp] | None = None) -> list[int]:
    """Spheres whose manufacturer's T1 and T2 lie in the ranges that the protocol resolves."""
    limits = seen_range(site, which)
    return [
        int(k)
        for k in np.unique(site.labels)
        if all(low <= site.reference[kind][int(k)] <= high for kind, (low, high) in limits.items())
    ]


def seen_range(site: Site, which: NDArray[np.intp] | None = None) -> dict[str, tuple[float, float]]:
    """Range of T1 that the recovery resolves, and of T2 that the echoes resolve."""
    found = {}
    if site.ti is not None:
        alone = AcquisitionProtocol(ti=site.ti, tr=_single(site.tr_of_recovery))
        found["T1"] = resolved_ranges(alone, 1.0)["T1"]
    if site.te is not None:
        alone = AcquisitionProtocol(te=site.te if which is None else site.te[which])
        found["T2"] = resolved_ranges(alone, 1.0)["T2"]
    return found


# -- the classifiers ------------------------------------------------------------


def classifier(
    site: Site, protocol: AcquisitionProtocol, counts: Sequence[int] = COUNTS
) -> MultiExponentialClassifier:
    """Settings of all sites: one range for each nuisance parameter of the protocol.

    Parameters that leave too few measurements for a count of two, as those of a short recovery
    alone, are not fitted to each voxel; the calibration of the image finds the common value.
    BIC holds for many measurements. Where a count of two leaves few of them, F-tests select the
    count, whose level of 5 % holds for any number.
    """
    ranges = {}
    if protocol.series is not None:
        ranges["gain"] = (0.5, 2.0)
    if site.ti is not None:
        ranges["inversion_efficiency"] = EFFICIENCY
    if max(counts) > 1 and 2 not in selectable(protocol, len(ranges)):
        ranges = {}
    two = 2 * (len(protocol.tissue_properties) + 1) + len(ranges)
    criterion = "bic" if protocol.n_measurements - two >= MANY_LEFT else "f-test"
    return MultiExponentialClassifier(
        protocol, criterion=criterion, counts=counts, min_fraction=MIN_FRACTION,
        noise_distribution="rician" if site.magnitude else "gaussian",
        nuisances=Nuisances(**ranges) if ranges else None, random_state=SEED, verbose=False,
    )  # fmt: skip


def selectable(protocol: AcquisitionProtocol, n_nuisances: int) -> list[int]:
    """Counts for whose parameters there are enough measurements."""
    per_count = len(protocol.tissue_properties) + 1
    # a measurement for the noise variance and a degree of freedom
    return [K for K in COUNTS if K * per_count + n_nuisances + 2 <= protocol.n_measurements]


def pure_exponentials(site: Site, which: NDArray[np.intp] | None) -> tuple[Any, Array] | None:
    """Classifier of exponential decays: the same criterion, without pulses and noise floor."""
    if site.te is None:
        return None
    te = site.te if which is None else site.te[which]
    X = site.echoes if which is None else site.echoes[:, which]
    model = MultiExponentialClassifier(
        AcquisitionProtocol(te=te), criterion="bic", counts=COUNTS, random_state=SEED,
        verbose=False, min_fraction=MIN_FRACTION,
    )  # fmt: skip
    return model.fit(X), X


# -- single spheres -------------------------------------------------------------


def variants(site: Site) -> dict[str, NDArray[np.intp] | None]:
    if site.te is None:
        return {"all measurements": None}
    order = np.argsort(site.te)
    found = {"all echoes": None, "without the first": order[1:], "without two": order[2:],
             "every other": order[::2]}  # fmt: skip
    return {name: which for name, which in found.items() if which is None or which.size >= 4}


def singles(site: Site, which: NDArray[np.intp] | None) -> tuple[dict[str, Any], Any, Any]:
    """Answers to the voxels of the spheres; also the classifier, and its probabilities."""
    X = site.signals(which)
    model = classifier(site, site.protocol(which)).fit(X).calibrate(X)
    probabilities = model.predict_proba(X)
    counts = model.classes_[probabilities.argmax(axis=1)]
    single = model
    if site.ti is not None and model.nuisances is None:  # enough measurements for one compartment
        single = classifier(site, site.protocol(which), (1,)).fit(X).calibrate(X)
    fits = single.estimate_compartments(X, 1)
    pure = pure_exponentials(site, which)
    of_pure = {}
    if pure is not None:
        of_pure = {
            "one": pure[0].predict(pure[1]) == 1,
            "T2": pure[0].estimate_compartments(pure[1], 1)["T2_1"].to_numpy(),
        }
    seen = visible(site, which)
    rows = []
    for k in np.unique(site.labels):
        own = site.labels == k
        row = {
            "sphere": int(k), "seen": int(k) in seen, "voxels": int(own.sum()),
            "one": float((counts[own] == 1).mean()),
        }  # fmt: skip
        for kind in ("T1", "T2"):
            if f"{kind}_1" in fits:
                row[kind] = float(np.median(fits[f"{kind}_1"][own]))
                row[f"{kind} of the manufacturer"] = site.reference[kind][int(k)]
        if of_pure:
            row["one, pure exponentials"] = float(of_pure["one"][own].mean())
            row["T2, pure exponentials"] = float(np.median(of_pure["T2"][own]))
        rows.append(row)
    inside = np.isin(site.labels, seen)
    result: dict[str, Any] = {
        "calibration": str(model.calibration_),
        "seen": seen,
        "called one": _mean(counts[inside] == 1),
        "spheres": rows,
    }
    for kind in ("T1", "T2"):
        deviations = [
            row[kind] / row[f"{kind} of the manufacturer"] - 1
            for row in rows
            if row["seen"] and kind in row
        ]
        if deviations:
            result[f"largest deviation of {kind}"] = float(np.abs(deviations).max())
    if of_pure:
        result["called one, pure exponentials"] = _mean(of_pure["one"][inside])
        result["largest deviation of T2, pure exponentials"] = float(
            max(abs(row["T2, pure exponentials"] / row["T2 of the manufacturer"] - 1)
                for row in rows if row["seen"])
        )  # fmt: skip
    return result, (model, fits), probabilities


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


# -- sums -----------------------------------------------------------------------


@dataclass
class Sums:
    """Sums of voxels of several spheres, one row for each."""

    spheres: list[tuple[int, ...]]
    members: NDArray[np.intp]  # (n, number of spheres) of voxels

    @classmethod
    def draw(cls, site: Site, groups: Iterable[tuple[int, ...]], n: int, seed: int) -> Sums:
        rng = np.random.default_rng(seed)
        spheres, members = [], []
        for group in groups:
            drawn = [rng.choice(np.flatnonzero(site.labels == k), n) for k in group]
            members.append(np.stack(drawn, axis=1))
            spheres += [group] * n
        return cls(spheres, np.concatenate(members))


def signs(site: Site, fits: pd.DataFrame, efficiency: float) -> Array:
    """Signs (V, N) of signed signals, from the fit of one compartment to each sphere."""
    result = np.ones((len(site.labels), site.signals().shape[1]))
    if site.ti is None:
        return result
    for k in np.unique(site.labels):
        own = site.labels == k
        t1 = float(np.median(fits["T1_1"][own]))
        eta = efficiency
        if "inversion_efficiency" in fits:
            eta = float(np.median(fits["inversion_efficiency"][own]))
        recovered = CONTRASTS["TI"].kernel(
            site.ti, np.array([[t1]]), tr=site.tr_of_recovery, inversion_efficiency=eta
        )
        result[own, : site.ti.size] = np.where(np.asarray(recovered) < 0, -1.0, 1.0)
    return result


def measured_sums(site: Site, sums: Sums, sign: Array) -> Array:
    X = site.signals()
    if not site.signed:
        X = X * sign
    total = X[sums.members].sum(axis=1)
    return np.abs(total) if site.magnitude else total


def noise_of_series(site: Site, series: NDArray[np.int64]) -> Array:
    """Noise (n_series,) of a voxel: what three components of each sphere leave."""
    X = site.signals()
    found = []
    for number in range(series.max() + 1):
        squares = freedom = 0.0
        for k in np.unique(site.labels):
            own = X[site.labels == k][:, series == number]
            n, N = own.shape
            if n < 6 or N < 5:
                continue
            size = np.linalg.svd(own - own.mean(axis=0), compute_uv=False)
            squares += float((size[3:] ** 2).sum())
            freedom += (n - 4) * (N - 3)
        found.append(np.sqrt(squares / freedom) if freedom else 0.0)
    return np.array(found)


def simulated_sums(site: Site, sums: Sums, model: Any, fits: pd.DataFrame, seed: int) -> Array:
    """Sums of simulated voxels of the same spheres: manufacturer's times, fitted amplitudes."""
    protocol = model.calibration_.protocol
    properties = protocol.tissue_properties
    groups = [
        (site.labels[sums.members[:, j]], fits["scale"].to_numpy()[sums.members[:, j]])
        for j in range(sums.members.shape[1])
    ]
    tissue = {}
    total = sum(scale for _, scale in groups)
    for j, (labels, scale) in enumerate(groups, 1):
        for kind in properties:
            tissue[f"{kind}_{j}"] = [site.reference[kind][int(k)] for k in labels]
        tissue[f"f_{j}"] = scale / total
    generator = CorrelationSignalGenerator(
        protocol, noise_level=0.0, dtype="float64", random_state=0, verbose=False,
        inversion_efficiency=model.calibration_.inversion_efficiency,
    )  # fmt: skip
    S = generator.fit_transform(pd.DataFrame(tissue)) * np.asarray(total)[:, None]
    # the protocol of a calibration is in grid order
    S = model.protocol_.to_scan_order(S)
    own = model.protocol_._series_of_each
    S = S * np.where(own > 0, model.calibration_.gain, 1.0)
    sigma = noise_of_series(site, own)[own] * np.sqrt(len(groups))
    rng = np.random.default_rng(seed)
    real, imaginary = rng.normal(size=(2, *S.shape)) * sigma
    return np.hypot(S + real, imaginary) if site.magnitude else S + real


def answers(model: Any, X: Array) -> tuple[NDArray[np.int64], Array]:
    probabilities = model.predict_proba(X)
    return model.classes_[probabilities.argmax(axis=1)], probabilities


def sums_of(
    site: Site, model: Any, fits: pd.DataFrame, seen: Sequence[int], n: int
) -> tuple[dict[str, Any], list[tuple[int, Array]], list[tuple[int, Array]]]:
    """Answers to sums of two and three spheres, measured and simulated.

    Also the probabilities of all sums, and of those that the simulations resolve.
    """
    sign = signs(site, fits, model.calibration_.inversion_efficiency)
    pairs = list(itertools.combinations(seen, 2))
    triples = list(itertools.combinations(seen, 3))
    rng = np.random.default_rng(SEED)
    if len(triples) > N_TRIPLES:
        chosen = sorted(rng.choice(len(triples), N_TRIPLES, replace=False))
        triples = [triples[i] for i in chosen]
    result: dict[str, Any] = {"sums per group": n}
    probabilities, resolved = [], []
    for name, groups, seed in (("pairs", pairs, SEED + 1), ("triples", triples, SEED + 2)):
        if not groups:
            continue
        sums = Sums.draw(site, groups, n, seed)
        count = len(groups[0])
        X = measured_sums(site, sums, sign)
        found, p = answers(model, X)
        probabilities.append((count, p))
        simulated, _ = answers(model, simulated_sums(site, sums, model, fits, seed + 10))
        rows = []
        for i, group in enumerate(groups):
            own = slice(i * n, (i + 1) * n)
            rows.append(
                {
                    "spheres": list(group), "right": float((found[own] == count).mean()),
                    "one": float((found[own] == 1).mean()),
                    "mean count": float(found[own].mean()),
                    "right, simulated": float((simulated[own] == count).mean()),
                    **{
                        f"ratio of {kind}": smallest_ratio(site, kind, group)
                        for kind in model.protocol_.tissue_properties
                    },
                }
            )  # fmt: skip
        result[name] = rows
        asked = [row for row in rows if row["right, simulated"] >= 0.95]
        clear = np.repeat([row["right, simulated"] >= 0.95 for row in rows], n)
        if clear.any():
            resolved.append((count, p[clear]))
        result[f"{name}: right"] = _mean([row["right"] for row in rows])
        result[f"{name}: right, simulated"] = _mean([row["right, simulated"] for row in rows])
        result[f"{name}: where the reference is right in 95 %"] = {
            "groups": len(asked), "right": _mean([row["right"] for row in asked]),
            "groups right in 90 %": int(sum(row["right"] >= 0.9 for row in asked)),
        }  # fmt: skip
    return result, probabilities, resolved


def smallest_ratio(site: Site, kind: str, group: Sequence[int]) -> float:
    values = sorted(site.reference[kind][k] for k in group)
    return float(min(b / a for a, b in itertools.pairwise(values)))


# -- calibration ----------------------------------------------------------------


def reliability(answered: Sequence[tuple[int, Array]]) -> dict[str, Any]:
    """Calibration error, and accuracies in bins of the confidence."""
    y = np.concatenate([np.full(len(p), count) for count, p in answered])
    P = np.concatenate([p for _, p in answered])
    confidence, right = P.max(axis=1), np.asarray(COUNTS)[P.argmax(axis=1)] == y
    rows = []
    for low, high in itertools.pairwise(CONFIDENCE):
        own = (confidence > low) & (confidence <= high + 1e-9)
        if own.any():
            rows.append({"confidence": f"{low:g}..{high:g}", "signals": int(own.sum()),
                         "mean confidence": float(confidence[own].mean()),
                         "right": float(right[own].mean())})  # fmt: skip
    return {
        "signals": len(y), "right": float(right.mean()),
        "expected calibration error": float(expected_calibration_error(y, P, list(COUNTS))),
        "bins": rows,
    }  # fmt: skip


# -- one site -------------------------------------------------------------------


def judged(site: Site, n_sums: int) -> dict[str, Any]:
    start = time.perf_counter()
    protocol = site.protocol()
    result: dict[str, Any] = {
        "protocol": str(protocol), "remarks": site.remarks,
        "signals": "magnitude" if site.magnitude else "signed",
        "seen from and to (ms)": {k: list(v) for k, v in seen_range(site).items()},
        "singles": {},
    }  # fmt: skip
    if site.te is not None:
        spacing = echo_spacing(site.te)
        result["echo spacing (ms)"] = spacing
    model = fits = None
    resolved: list[tuple[int, Array]] = []
    answered: list[tuple[int, Array]] = []
    for name, which in variants(site).items():
        found, fitted, probabilities = singles(site, which)
        result["singles"][name] = found
        print(_singles_line(site.name, name, found), flush=True)
        if which is None:
            model, fits = fitted
            inside = np.isin(site.labels, found["seen"])
            answered.append((1, probabilities[inside]))
            result["counts that can be selected"] = selectable(
                model.protocol_, 0 if model.nuisances is None else len(model.nuisances.names)
            )
    if len(result["counts that can be selected"]) > 1:
        seen = next(iter(result["singles"].values()))["seen"]
        result["sums"], more, resolved = sums_of(site, model, fits, seen, n_sums)
        answered += more
    result["reliability"] = {
        "single spheres": reliability(answered[:1]),
        "single spheres, and sums that simulations resolve in 95 %": reliability(
            [answered[0], *resolved]
        ),
        "all": reliability(answered),
    }
    result["seconds"] = round(time.perf_counter() - start)
    return result


def _singles_line(site: str, variant: str, found: dict[str, Any]) -> str:
    text = f"{site}, {variant}: {percent(found['called one'])} % called one"
    for kind in ("T1", "T2"):
        if f"largest deviation of {kind}" in found:
            text += f", {kind} within {percent(found[f'largest deviation of {kind}'])} %"
    if "called one, pure exponentials" in found:
        text += f"; pure exponentials {percent(found['called one, pure exponentials'])} %"
    return f"{text}; {found['calibration']}"


# -- BIDS -----------------------------------------------------------------------


def three_parameter_t1(ti: Array, X: Array, magnitude: bool) -> Array:
    """T1 (V,) of fits ``a - b exp(-TI / T1)``; magnitudes with each position of the null.

    T1 on a fine grid, refined by a parabola; a and b by linear least squares.
    """
    order = np.argsort(ti)
    ti, X = ti[order], X[:, order]
    grid = np.geomspace(ti.max() / 200, 10 * ti.max(), 2000)
    best = np.full(len(X), np.inf)
    t1 = np.full(len(X), np.nan)
    patterns = [np.ones(ti.size)]
    if magnitude:
        patterns = [np.where(np.arange(ti.size) < k, -1.0, 1.0) for k in range(ti.size + 1)]
    bases = []
    for value in grid:
        q, _ = np.linalg.qr(np.column_stack([np.ones(ti.size), np.exp(-ti / value)]))
        bases.append(q)
    Q = np.stack(bases)  # (G, N, 2)
    for pattern in patterns:
        signed = X * pattern
        for rows in np.array_split(np.arange(len(X)), max(1, len(X) // 500)):
            along = np.einsum("vn,gnk->vgk", signed[rows], Q, optimize=True)
            rss = (signed[rows] ** 2).sum(axis=1)[:, None] - (along**2).sum(axis=2)
            at = rss.argmin(axis=1)
            inner = np.clip(at, 1, grid.size - 2)
            left, centre, right = (rss[np.arange(len(rows)), inner + step] for step in (-1, 0, 1))
            bend = left - 2 * centre + right
            shift = np.where(bend > 0, (left - right) / (2 * np.where(bend > 0, bend, 1)), 0.0)
            shift = np.where(at == inner, np.clip(shift, -1, 1), 0.0)
            value = grid[at] * (grid[1] / grid[0]) ** shift
            smallest = rss[np.arange(len(rows)), at]
            better = smallest < best[rows]
            best[rows] = np.where(better, smallest, best[rows])
            t1[rows] = np.where(better, value, t1[rows])
    return t1


def bids_maps(folder: Path) -> dict[str, Any]:
    """T1 of one compartment beside three-parameter fits, for each subject with IRT1 images."""
    result = {}
    for found in find_bids_sets(folder, {"suffix": "IRT1"}):
        subject = f"sub-{found.entities['sub']}"
        masks = sorted((folder / "derivatives" / "masks" / subject / "anat").glob("*_mask.nii.gz"))
        images = load_images(found, mask=masks[0] if masks else None)
        X = SignalMasker(dtype="float64").fit_transform(images).to_numpy()
        ti, magnitude = images.protocol.ti, images.kinds != ("signed",)
        X = np.abs(X) if magnitude else X
        X = X[(X != 0).all(axis=1)]
        plain = three_parameter_t1(ti, X, magnitude)
        model = MultiExponentialClassifier(
            images.protocol, counts=(1,), criterion="bic",
            noise_distribution="rician" if magnitude else "gaussian",
            nuisances=Nuisances(inversion_efficiency=FREE_EFFICIENCY), random_state=SEED,
            verbose=False,
        ).fit(X)  # fmt: skip
        t1 = model.estimate_compartments(X, 1)["T1_1"].to_numpy()
        deviation = t1 / plain - 1
        quartiles = np.nanquantile(deviation, (0.25, 0.5, 0.75))
        result[subject] = {
            "signals": "magnitude" if magnitude else "signed", "voxels": len(X),
            "inversion times": int(ti.size), "median T1 (ms)": float(np.nanmedian(t1)),
            "median T1 of three-parameter fits (ms)": float(np.nanmedian(plain)),
            "median deviation": float(quartiles[1]),
            "quartiles of the deviation": [float(quartiles[0]), float(quartiles[2])],
            "median absolute deviation": float(np.nanmedian(np.abs(deviation))),
        }  # fmt: skip
        print(f"{subject}: {result[subject]}", flush=True)
    return result


# -- tables ---------------------------------------------------------------------


def percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def matrix(rows: Sequence[dict[str, Any]], seen: Sequence[int]) -> str:
    """Share of right answers of each pair: above the diagonal measured, below simulated."""
    cells = {}
    for row in rows:
        a, b = row["spheres"]
        cells[a, b], cells[b, a] = row["right"], row["right, simulated"]
    return table(
        ["sphere", *map(str, seen)],
        [[str(a), *("" if a == b else f"{100 * cells[a, b]:.0f}" for b in seen)] for a in seen],
    )


def by_ratio(rows: Sequence[dict[str, Any]], kind: str) -> str:
    lines = []
    for low, high in itertools.pairwise(RATIOS):
        own = [row for row in rows if low <= row[f"ratio of {kind}"] < high]
        if own:
            name = f"{low:g} to {high:g}" if np.isfinite(high) else f"above {low:g}"
            lines.append(
                [name, str(len(own)), percent(_mean([row["right"] for row in own])),
                 percent(_mean([row["right, simulated"] for row in own]))]
            )  # fmt: skip
    return table([f"ratio of {kind}", "groups", "right", "right, simulated"], lines)


def pages(content: dict[str, Any]) -> str:
    """All tables as Markdown."""
    parts = []
    for name, site in content["sites"].items():
        parts.append(f"## {name}")
        ranges = "; ".join(
            f"{kind} from {low:.3g} to {high:.4g} ms"
            for kind, (low, high) in site["seen from and to (ms)"].items()
        )
        first = next(iter(site["singles"].values()))
        listed = ", ".join(map(str, first["seen"]))
        possible = site["counts that can be selected"]
        parts.append(
            f"{site['protocol']}; {site['signals']}"
            + (f"; {'; '.join(site['remarks'])}" if site["remarks"] else "")
            + ".\nSpheres whose T1 and T2 lie in the ranges that the protocol resolves (see "
            "MultiExponentialClassifier; T1 of the recovery alone, T2 of the echoes alone: "
            f"{ranges}): {listed}.\nCounts that the number of measurements allows: "
            f"{', '.join(map(str, possible))}."
        )
        parts.append("### Single spheres")
        head = ["measurements", "called one (%)", "T1 within (%)", "T2 within (%)",
                "pure exponentials: called one (%)", "T2 within (%)"]  # fmt: skip
        kept = [
            "called one", "largest deviation of T1", "largest deviation of T2",
            "called one, pure exponentials", "largest deviation of T2, pure exponentials",
        ]  # fmt: skip
        parts.append(
            table(head, [[variant, *(percent(found.get(key)) for key in kept)]
                         for variant, found in site["singles"].items()])
        )  # fmt: skip
        parts.append(
            "\n".join(
                f"- {variant}: {found['calibration']}" for variant, found in site["singles"].items()
            )
        )
        rows = []
        for row in first["spheres"]:
            line = [
                f"{row['sphere']}{'' if row['seen'] else ' (not seen)'}",
                f"{100 * row['one']:.0f}",
            ]
            for kind in ("T1", "T2"):
                if kind in row:
                    truth = row[f"{kind} of the manufacturer"]
                    line += [
                        f"{truth:.4g}",
                        f"{row[kind]:.4g}",
                        f"{100 * (row[kind] / truth - 1):+.1f}",
                    ]
            if "one, pure exponentials" in row:
                line += [f"{100 * row['one, pure exponentials']:.0f}",
                         f"{row['T2, pure exponentials']:.4g}"]  # fmt: skip
            rows.append(line)
        head = ["sphere", "called one (%)"]
        for kind in ("T1", "T2"):
            if kind in first["spheres"][0]:
                head += [f"{kind} of the manufacturer (ms)", f"{kind} (ms)", "deviation (%)"]
        if "one, pure exponentials" in first["spheres"][0]:
            head += ["pure exponentials: called one (%)", "T2 (ms)"]
        parts.append(table(head, rows))
        if "sums" in site:
            parts += _of_sums(site["sums"], first["seen"])
        for which, found in site["reliability"].items():
            parts.append(
                f"### Calibration, {which}\n\n{found['signals']} signals, "
                f"{percent(found['right'])} % right, expected calibration error "
                f"{percent(found['expected calibration error'])} %."
            )
            parts.append(
                table(["confidence", "signals", "mean confidence (%)", "right (%)"],
                      [[row["confidence"], str(row["signals"]), percent(row["mean confidence"]),
                        percent(row["right"])] for row in found["bins"]])
            )  # fmt: skip
    if content.get("bids"):
        parts.append("## T1 maps beside three-parameter fits")
        parts.append(
            table(
                ["subject", "signals", "TI", "voxels", "median T1 (ms)", "three parameters (ms)",
                 "median deviation (%)", "quartiles (%)"],
                [[name, row["signals"], str(row["inversion times"]), str(row["voxels"]),
                  f"{row['median T1 (ms)']:.0f}",
                  f"{row['median T1 of three-parameter fits (ms)']:.0f}",
                  f"{100 * row['median deviation']:+.2f}",
                  " to ".join(f"{100 * v:+.2f}" for v in row["quartiles of the deviation"])]
                 for name, row in content["bids"].items()],
            )
        )  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _of_sums(sums: dict[str, Any], seen: Sequence[int]) -> list[str]:
    parts = []
    for name in ("pairs", "triples"):
        if name not in sums:
            continue
        rows = sums[name]
        asked = sums[f"{name}: where the reference is right in 95 %"]
        parts.append(f"### Sums of {'two' if name == 'pairs' else 'three'} spheres")
        parts.append(
            f"{len(rows)} {name}, {sums['sums per group']} sums of each: right in "
            f"{percent(sums[f'{name}: right'])} %, on simulations of the same tissue in "
            f"{percent(sums[f'{name}: right, simulated'])} %. In the {asked['groups']} {name} "
            f"whose simulations are right in at least 95 %, measured sums are right in "
            f"{percent(asked['right'])} %, and in {asked['groups right in 90 %']} of these "
            f"{name} in at least 90 %."
        )
        for kind in ("T1", "T2"):
            if f"ratio of {kind}" in rows[0]:
                parts.append(by_ratio(rows, kind))
        if name == "pairs":
            parts.append(
                "Right answers in %, above the diagonal to measured sums, below it to simulated "
                "ones:"
            )
            parts.append(matrix(rows, seen))
    return parts


# -- main -----------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with the images of the phantom")
    parser.add_argument("--bids", type=Path, help="folder in BIDS with IRT1 images")
    parser.add_argument("--sums", type=int, default=12, help="sums of each pair and triple")
    parser.add_argument("--quick", action="store_true", help="few sums; record nothing")
    arguments = parser.parse_args(argv)
    if arguments.data is None and arguments.bids is None:
        print("skipped: there are no measured signals; pass --data FOLDER (see --help)")
        return
    require("nibabel", extra="imaging", purpose="reading NIfTI images")
    warnings.simplefilter("ignore")
    content: dict[str, Any] = {"sites": {}}
    if arguments.data is not None:
        for site in sites_of(arguments.data):
            name = site.name
            if name in content["sites"]:
                name += ", T2"
            content["sites"][name] = judged(site, 2 if arguments.quick else arguments.sums)
    if arguments.bids is not None:
        content["bids"] = bids_maps(arguments.bids)
    text = pages(content)
    print(text)
    if not arguments.quick:
        record("phantom", content)
        (RESULTS / "phantom.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
