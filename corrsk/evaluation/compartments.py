"""Metrics of estimated compartments: their number, relaxation times and fractions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

_GRID = np.linspace(0, 1, 101)  # recalls at which the average precision reads the precision


def compartments_right(
    predicted: pd.DataFrame,
    truth: pd.DataFrame,
    limits: Mapping[str, tuple[float, float]],
    *,
    tolerance: float = 0.07,
    with_fractions: bool = False,
) -> NDArray[np.bool_]:
    """Whether the compartments of each voxel are right.

    The compartments of a voxel are right if there are as many as in truth, and if the assignment
    to the nearest true compartment within the tolerance uses each true compartment exactly once.

    Parameters
    ----------
    predicted, truth : DataFrame of n_samples rows
        Tissue tables with T1_1, T2_1, f_1, .. (times in ms), such as those of
        ``estimate_compartments`` and ``make_correlation_signals(return_tissue=True)``. Absent
        compartments have a fraction of 0 or NaN. Other columns are ignored.
    limits : mapping of str to (float, float)
        Lower and upper limit of each property that is compared, such as
        ``{"T1": (50, 3500), "T2": (5, 500)}``. Distances are differences of logarithms, in units
        of the logarithm of the ratio of these limits.
    tolerance : float, default=0.07
        Largest distance in each property.
    with_fractions : bool, default=False
        Whether the fractions must agree within the tolerance, too.

    Returns
    -------
    ndarray of bool, shape (n_samples,)
        Whether each voxel is right.

    Raises
    ------
    ValueError
        If the tables have different numbers of rows or no common compartments, a column is
        missing, or limits or tolerance are not positive and ascending.

    Notes
    -----
    The strict accuracy of the thesis t1t2-detr (TH Ingolstadt, 2026) is the mean of the result,
    in three dimensions `with_fractions`.
    """
    tables = _Tables(predicted, truth, limits, tolerance)
    return tables.right(tables.nearest(with_fractions))


def compartment_metrics(
    predicted: pd.DataFrame,
    truth: pd.DataFrame,
    limits: Mapping[str, tuple[float, float]],
    *,
    tolerance: float = 0.07,
    confidence: ArrayLike | None = None,
    faint: tuple[float, float] = (0.05, 0.1),
) -> dict[str, float]:
    """Metrics of estimated compartments.

    Parameters
    ----------
    predicted, truth : DataFrame of n_samples rows
        Tissue tables; see :func:`compartments_right`.
    limits : mapping of str to (float, float)
        Lower and upper limit of each property that is compared.
    tolerance : float, default=0.07
        Largest distance in each property; see :func:`compartments_right`.
    confidence : array of shape (n_samples,) or (n_samples, n_compartments), optional
        Confidence in the compartments of a voxel, or in each of them, for the average
        precision. By default all are equal.
    faint : (float, float), default=(0.05, 0.1)
        True fractions of a faint compartment.

    Returns
    -------
    dict of str to float
        - count_accuracy: share of voxels with the right number of compartments;
        - strict_accuracy, strict_accuracy_K for each true number K, and
          strict_accuracy_with_fractions: means of :func:`compartments_right`;
        - average_precision: area under the precision over the recall of all compartments by
          descending confidence, interpolated at 101 recalls; a true compartment is found once,
          by the most confident one that is assigned to it;
        - precision, recall, f1: of all predicted compartments;
        - T1_error, .. and f_error: medians of the relative error of each property, and of the
          absolute error of the fraction, over pairs of predicted and true compartments, matched
          by the smallest sum of squared differences of logarithms; T1_error_p90, ..: their
          90th percentiles; T1_error_faint, ..: their medians for faint compartments;
        - matched: share of the true compartments in these pairs.

    Raises
    ------
    ValueError
        As :func:`compartments_right`; also if `confidence` has another shape or is not finite.
    """
    tables = _Tables(predicted, truth, limits, tolerance)
    nearest = tables.nearest(with_fractions=False)
    right = tables.right(nearest)
    counts = tables.truth_present.sum(axis=1)
    found: dict[str, float] = {
        "count_accuracy": float((tables.present.sum(axis=1) == counts).mean()),
        "strict_accuracy": float(right.mean()),
    }
    for count in np.unique(counts):
        found[f"strict_accuracy_{count}"] = float(right[counts == count].mean())
    in_three = tables.right(tables.nearest(with_fractions=True))
    found["strict_accuracy_with_fractions"] = float(in_three.mean())
    hits, n_true = tables.hits(nearest, confidence), int(tables.truth_present.sum())
    found["average_precision"] = _average_precision(hits, n_true)
    found["precision"] = float(hits.mean()) if hits.size else 0.0
    found["recall"] = float(hits.sum() / n_true) if n_true else 0.0
    both = found["precision"] + found["recall"]
    found["f1"] = 2 * found["precision"] * found["recall"] / both if both else 0.0
    errors, fractions = tables.errors()
    is_faint = (fractions >= faint[0]) & (fractions <= faint[1])
    for name, values in errors.items():
        found[f"{name}_error"] = _quantile(values, 0.5)
        found[f"{name}_error_p90"] = _quantile(values, 0.9)
        found[f"{name}_error_faint"] = _quantile(values[is_faint], 0.5)
    found["matched"] = float(fractions.size / n_true) if n_true else 0.0
    return found


def _quantile(values: NDArray[np.float64], level: float) -> float:
    return float(np.quantile(values, level)) if values.size else float("nan")


def _average_precision(hits: NDArray[np.bool_], n_true: int) -> float:
    """Average precision of predictions in descending order of confidence."""
    if not hits.size or not n_true:
        return 0.0
    recall = np.cumsum(hits) / n_true
    precision = np.cumsum(hits) / np.arange(1, hits.size + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # best at this recall or more
    at = np.searchsorted(recall, _GRID)
    return float(np.append(precision, 0.0)[at].mean())


class _Tables:
    """Predicted and true compartments as arrays.

    Parameters are those of :func:`compartments_right`.
    """

    def __init__(
        self,
        predicted: pd.DataFrame,
        truth: pd.DataFrame,
        limits: Mapping[str, tuple[float, float]],
        tolerance: float,
    ) -> None:
        if len(predicted) != len(truth):
            raise ValueError(
                f"predicted and truth must have the same number of rows; got {len(predicted)} "
                f"and {len(truth)}"
            )
        if not len(truth):
            raise ValueError("there are no voxels to compare")
        if not limits:
            raise ValueError("limits must name at least one property, such as T1 and T2")
        for name, (low, high) in limits.items():
            if not 0 < low < high < np.inf:
                raise ValueError(
                    f"the limits of {name} must be positive, finite and ascending; got "
                    f"{low} and {high}"
                )
        if not tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {tolerance}")
        self._tolerance = tolerance
        self._spans = {name: np.log(high / low) for name, (low, high) in limits.items()}
        names = tuple(limits)
        self._predicted, self.present = _arrays(predicted, names, "predicted")
        self._truth, self.truth_present = _arrays(truth, names, "truth")

    def _distances(self, name: str) -> NDArray[np.float64]:
        """Differences of logarithms, shape (n_samples, n_predicted, n_true)."""
        a, b = self._predicted[name], self._truth[name]
        difference: NDArray[np.float64] = np.abs(np.log(a)[:, :, None] - np.log(b)[:, None, :])
        return difference

    def nearest(self, with_fractions: bool) -> NDArray[np.intp]:
        """True compartment of each predicted one, (n_samples, n_predicted); -1 for none."""
        pairs = self.present[:, :, None] & self.truth_present[:, None, :]
        total = np.zeros(pairs.shape)
        for name, span in self._spans.items():
            distance = self._distances(name) / span
            total += distance
            pairs &= distance <= self._tolerance
        if with_fractions:
            a, b = self._predicted["f"], self._truth["f"]
            pairs &= np.abs(a[:, :, None] - b[:, None, :]) <= self._tolerance
        total = np.where(pairs, total, np.inf)
        return np.where(pairs.any(axis=2), total.argmin(axis=2), -1)

    def right(self, nearest: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether the compartments of each voxel are right."""
        claims = nearest[:, :, None] == np.arange(self.truth_present.shape[1])
        same_number = self.present.sum(axis=1) == self.truth_present.sum(axis=1)
        each_once = (claims.sum(axis=1) == self.truth_present).all(axis=1)
        right: NDArray[np.bool_] = same_number & each_once
        return right

    def hits(self, nearest: NDArray[np.intp], confidence: ArrayLike | None) -> NDArray[np.bool_]:
        """Whether each predicted compartment finds a new true one, by descending confidence."""
        shape = self.present.shape
        values = np.ones(shape) if confidence is None else np.asarray(confidence, dtype=np.float64)
        if values.shape == shape[:1]:
            values = np.broadcast_to(values[:, None], shape)
        if values.shape != shape or not np.isfinite(values[self.present]).all():
            raise ValueError(
                f"confidence must be finite, of shape {shape[:1]} or {shape}; got the shape "
                f"{values.shape}"
            )
        voxel, slot = np.nonzero(self.present)
        order = np.argsort(-values[voxel, slot], kind="stable")
        target = nearest[voxel, slot][order]
        assigned = np.flatnonzero(target >= 0)
        claim = voxel[order][assigned] * self.truth_present.shape[1] + target[assigned]
        found = np.zeros(len(order), dtype=bool)
        found[assigned[np.unique(claim, return_index=True)[1]]] = True
        return found

    def errors(self) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
        """Errors of matched compartments, and the true fractions of these compartments."""
        cost = sum(self._distances(name) ** 2 for name in self._spans)
        voxels, predicted, true = [], [], []
        for voxel, matrix in enumerate(np.asarray(cost)):
            a, b = np.flatnonzero(self.present[voxel]), np.flatnonzero(self.truth_present[voxel])
            rows, columns = linear_sum_assignment(matrix[np.ix_(a, b)])
            voxels += [voxel] * len(rows)
            predicted += a[rows].tolist()
            true += b[columns].tolist()
        one, other = (voxels, predicted), (voxels, true)
        errors = {
            name: np.abs(self._predicted[name][one] / self._truth[name][other] - 1)
            for name in self._spans
        }
        fractions = self._truth["f"][other]
        errors["f"] = np.abs(self._predicted["f"][one] - fractions)
        return errors, fractions


def _arrays(
    table: pd.DataFrame, names: tuple[str, ...], which: str
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
    """Return the columns of each quantity, (n_samples, n_compartments), and what is present."""
    numbers = sorted(
        int(match[1]) for name in table.columns if (match := re.fullmatch(r"f_(\d+)", str(name)))
    )
    columns: dict[str, list[str]] = {q: [f"{q}_{k}" for k in numbers] for q in (*names, "f")}
    missing = [name for each in columns.values() for name in each if name not in table]
    if missing or not numbers:
        raise ValueError(
            f"the table {which!r} has no columns {', '.join(missing) or 'f_1, ..'}; it needs "
            f"{', '.join((*names, 'f'))} of each compartment"
        )
    found: dict[str, Any] = {
        q: table[each].to_numpy(dtype=np.float64) for q, each in columns.items()
    }
    present = np.nan_to_num(found["f"]) > 0
    for name in names:
        values = found[name]
        wrong = present & ~((values > 0) & np.isfinite(values))
        if wrong.any():
            row, slot = np.argwhere(wrong)[0]
            raise ValueError(
                f"{columns[name][slot]} of row {row} of the table {which!r} is "
                f"{values[row, slot]}, but must be positive and finite"
            )
        found[name] = np.where(present, values, 1.0)
    return found, present
