"""Posterior of the compartments of voxels, as weighted draws, and its summaries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from corrsk._utils.extras import compiled_module
from corrsk._utils.normal_mixtures import effective_number
from corrsk._utils.validation import check_number, checked_count
from corrsk.relaxometry._lines import checked_grid
from corrsk.relaxometry.windows import Windows, check_windows
from corrsk.tissue.table import table_columns
from corrsk.trained.candidates import find_candidates, scaled_logs

Array = NDArray[np.float64]

LOSSES = ("strict", "median", "w1")
TOLERANCE = 0.07  # of the strict loss: largest distance, as part of the logarithmic range
_N_CANDIDATES = 24  # draws of the largest weights, among which a decision chooses
_KEPT = 0.95  # of these draws, around their mean, which then replaces the chosen draw
_N_JUDGES = 64  # draws that the loss "w1" is averaged over
_N_RESAMPLED = 256  # draws of equal weight, of candidates, marginals and windows
_CHUNK_VOXELS = 256  # whose resampled draws are in memory at once
_N_POINTS = 64  # of the distribution functions of the loss "w1"
_DOUBTED = 8.0  # effective draws that are counted as outside of the tolerance
_WIDE = 0.5  # of a logarithmic range, for an interval of a compartment that is not determined
_FEWEST = 20.0  # effective draws of a reliable posterior


@dataclass(frozen=True)
class CountDraws:
    """Weighted draws of K compartments in V voxels.

    Parameters
    ----------
    values : dict of str to ndarray of shape (V, n, K)
        Values of each tissue property, with compartments in ascending order of T2 (or of the last
        property).
    fractions : ndarray of shape (V, n, K)
        Signal fractions.
    log_weights : ndarray of shape (V, n)
        Logarithms of the weights, up to a constant of each voxel; -inf for no draw.
    scales : ndarray of shape (V, n)
        M0 of each draw, in the unit of the signals.
    """

    values: dict[str, Array]
    fractions: Array
    log_weights: Array
    scales: Array

    @property
    def n_compartments(self) -> int:
        """Number of compartments."""
        return int(self.fractions.shape[2])

    def take(self, rows: slice | NDArray[np.intp]) -> CountDraws:
        """Select the draws of some voxels."""
        values = {name: each[rows] for name, each in self.values.items()}
        return CountDraws(values, self.fractions[rows], self.log_weights[rows], self.scales[rows])

    @property
    def weights(self) -> Array:
        """Weights (V, n) that sum to 1; all 0 without a possible draw."""
        largest = self.log_weights.max(axis=1, keepdims=True)
        weights = np.exp(self.log_weights - np.where(np.isfinite(largest), largest, 0.0))
        total = weights.sum(axis=1, keepdims=True)
        return np.asarray(weights / np.where(total > 0, total, 1.0))

    def logs(self, spans: Mapping[str, tuple[float, float]]) -> Array:
        """Logarithms of the properties in units of their ranges, shape (V, n, P, K)."""
        return scaled_logs(np.stack([self.values[name] for name in spans], axis=2), spans)


@dataclass(frozen=True)
class CompartmentPosterior:
    """Posterior of number, properties and fractions of the compartments of V voxels.

    Returned by :meth:`corrsk.CompartmentRegressor.posterior`.

    Parameters
    ----------
    counts : tuple of int
        The possible numbers of compartments.
    log_proba : ndarray of shape (V, n_counts)
        Logarithms of the probabilities of the counts.
    log_evidence : ndarray of shape (V, n_counts)
        Logarithms of the evidence of the counts.
    draws : list of CountDraws
        Draws of each count.
    ranges : dict of str to (float, float)
        Range of each tissue property in the prior.
    effective_sample_size : ndarray of shape (V,)
        Effective number of draws of the most probable count.
    """

    counts: tuple[int, ...]
    log_proba: Array
    log_evidence: Array
    draws: list[CountDraws]
    ranges: dict[str, tuple[float, float]]
    effective_sample_size: Array

    @classmethod
    def concatenate(cls, parts: Sequence[CompartmentPosterior]) -> CompartmentPosterior:
        """Join the posteriors of groups of voxels.

        Parameters
        ----------
        parts : sequence of CompartmentPosterior
            Posteriors with the same counts.

        Returns
        -------
        CompartmentPosterior
            The posterior of all voxels.
        """
        first = parts[0]
        draws = [
            _joined([part.draws[index] for part in parts]) for index in range(len(first.counts))
        ]
        return cls(
            first.counts, np.concatenate([part.log_proba for part in parts]),
            np.concatenate([part.log_evidence for part in parts]), draws, first.ranges,
            np.concatenate([part.effective_sample_size for part in parts]),
        )  # fmt: skip

    def take(self, rows: slice | NDArray[np.intp]) -> CompartmentPosterior:
        """Select the posterior of some voxels.

        Parameters
        ----------
        rows : slice or ndarray of int
            Numbers of the voxels.

        Returns
        -------
        CompartmentPosterior
            The posterior of these voxels.
        """
        return CompartmentPosterior(
            self.counts, self.log_proba[rows], self.log_evidence[rows],
            [draws.take(rows) for draws in self.draws], self.ranges,
            self.effective_sample_size[rows],
        )  # fmt: skip

    @property
    def probabilities(self) -> Array:
        """Probabilities of the counts, (V, n_counts)."""
        return np.asarray(np.exp(self.log_proba))

    @property
    def reliable(self) -> NDArray[np.bool_]:
        """Whether the draws of a voxel are as good as at least 20 independent ones, (V,).

        Not of a signal of the wrong sign, whose scale is negative.
        """
        return np.asarray((self.effective_sample_size >= _FEWEST) & ~self.inverted)

    @property
    def inverted(self) -> NDArray[np.bool_]:
        """Whether the most probable draw of the most probable count has a negative scale, (V,)."""
        best = self.log_proba.argmax(axis=1)
        found = np.zeros(len(best), dtype=bool)
        for index, draws in enumerate(self.draws):
            rows = np.flatnonzero(best == index)
            top = draws.log_weights[rows].argmax(axis=1)
            found[rows] = draws.scales[rows, top] < 0
        return found

    @property
    def degenerate(self) -> NDArray[np.bool_]:
        """Whether the signal hardly determines a compartment of the most probable count, (V,).

        The central 90 % interval of a property covers more than half of the logarithmic range of
        the prior.
        """
        chosen = self.log_proba.argmax(axis=1)
        wide = np.zeros(len(chosen), dtype=bool)
        spans = np.array([np.log(high / low) for low, high in self.ranges.values()])
        lower, upper = (self._quantiles(chosen, level) for level in (0.05, 0.95))
        for index, (low, high) in enumerate(zip(lower, upper, strict=True)):
            with np.errstate(divide="ignore", invalid="ignore"):
                part = (
                    np.log(high[:, :-1] / low[:, :-1]) / np.where(spans > 0, spans, np.inf)[:, None]
                )
            wide |= (chosen == index) & (part > _WIDE).any(axis=(1, 2))
        return wide

    # -- decisions ---------------------------------------------------------------

    def table(self, loss: str = "strict") -> pd.DataFrame:
        """Compartments of each voxel with the smallest expected loss.

        Parameters
        ----------
        loss : {"strict", "median", "w1"}, default="strict"
            "strict": as many voxels as possible have the right number of compartments, all within
            7 % of the logarithmic range of each property. "median": the most probable count, with
            the median of each property. "w1": the smallest expected sum of the Wasserstein
            distances between the distributions of the logarithm of each property.

        Returns
        -------
        DataFrame of V rows
            Tissue table: T1_1.., T2_1.., f_1.. in ms, um^2/ms and fractions, with compartments in
            ascending order of T2; absent compartments have f = 0 and NaN properties. Further
            columns are n_c, scale (M0 in the unit of the signals), confidence, the probability of
            the decision (of "strict" that all compartments are right, else of the count), and
            confidence_1.., the probability that the tissue has a compartment within the tolerance
            of each (NaN for absent ones).
        """
        return self._with_confidence(self._as_table(*self._decided(loss)))

    def _decided(self, loss: str) -> tuple[NDArray[np.intp], list[Array], Array]:
        """Indices of the chosen counts, parameters of each count, and probabilities."""
        if checked_loss(loss) == "strict":
            return self._strict
        return self._median() if loss == "median" else self._w1()

    def _as_table(self, chosen: NDArray[np.intp], best: list[Array], sure: Array) -> pd.DataFrame:
        """Table of chosen counts, from the parameters (V, P + 1, K) of each count."""
        V, names = len(chosen), tuple(self.ranges)
        most = max(self.counts)
        values = np.full((V, len(names) + 1, most), np.nan)
        values[:, -1] = 0.0
        for index, K in enumerate(self.counts):
            rows = np.flatnonzero(chosen == index)
            values[rows, :, :K] = best[index][rows]
        n_c, scale = np.asarray(self.counts)[chosen], self._scales()[np.arange(V), chosen]
        return decided_table(values, n_c, scale, sure, names)

    def _scales(self) -> Array:
        """Mean M0 (V, n_counts) of the draws of each count."""
        means = [(draws.weights * draws.scales).sum(axis=1) for draws in self.draws]
        return np.stack(means, axis=1)

    def _with_confidence(self, table: pd.DataFrame) -> pd.DataFrame:
        """Add the probability of a compartment of the tissue near each compartment."""
        numbers = range(1, max(self.counts) + 1)
        values = [table[[f"{name}_{k}" for k in numbers]].to_numpy() for name in self.ranges]
        centres = scaled_logs(np.stack(values, axis=1), self.ranges)
        near = np.zeros((len(table), len(numbers)))
        for index, draws in enumerate(self.draws):
            shares = _shares_near(draws.logs(self.ranges), draws.weights, centres)
            near += self.probabilities[:, index, None] * shares
        return with_confidences(table, near)

    @cached_property  # tables and intervals of one posterior need it
    def _strict(self) -> tuple[NDArray[np.intp], list[Array], Array]:
        probabilities = self.probabilities
        V, rows = len(probabilities), np.arange(len(probabilities))
        best = [np.full((V, len(self.ranges) + 1, K), np.nan) for K in self.counts]
        expected, chosen = np.full(V, -1.0), np.zeros(V, np.intp)
        # a count of a smaller probability than that of the decision so far cannot be better
        for ranked in np.argsort(-probabilities, axis=1, kind="stable").T:
            possible = probabilities[rows, ranked] > expected
            for index, draws in enumerate(self.draws):
                at = np.flatnonzero(possible & (ranked == index))
                if not at.size:
                    continue
                own = draws.take(at)
                best[index][at], mass = _densest(own, self.ranges)
                # the largest of many shares of a few draws is larger than the probability
                number = effective_number(own.log_weights)
                found = probabilities[at, index] * mass * number / (number + _DOUBTED)
                better = found > expected[at]
                expected[at[better]], chosen[at[better]] = found[better], index
        return chosen, best, expected

    def _median(self) -> tuple[NDArray[np.intp], list[Array], Array]:
        chosen = self.log_proba.argmax(axis=1)
        best = self._quantiles(chosen, 0.5)
        for each in best:  # medians need not sum to 1
            each[:, -1] /= each[:, -1].sum(axis=1, keepdims=True)
        return chosen, best, self.probabilities.max(axis=1)

    def _w1(self) -> tuple[NDArray[np.intp], list[Array], Array]:
        best, losses = [], []
        judges = self._resampled(_N_JUDGES)
        for draws in self.draws:
            order = np.argsort(-draws.log_weights, axis=1)[:, :_N_CANDIDATES]
            candidates = _parameters(draws, self.ranges, order)
            cost = sum(
                np.abs(
                    _distribution(candidates[:, :, p], candidates[:, :, -1], span)[:, :, None]
                    - _distribution(judges[:, :, p], judges[:, :, -1], span)[:, None]
                ).mean(axis=(2, 3)) * np.log10(span[1] / span[0])
                for p, span in enumerate(self.ranges.values())
            )  # fmt: skip
            nearest = np.asarray(cost).argmin(axis=1)
            rows = np.arange(len(nearest))
            best.append(candidates[rows, nearest])
            losses.append(np.asarray(cost)[rows, nearest])
        chosen = np.stack(losses, axis=1).argmin(axis=1)
        return chosen, best, self.probabilities[np.arange(len(chosen)), chosen]

    def _quantiles(self, chosen: NDArray[np.intp], level: float) -> list[Array]:
        """Weighted quantiles (V, P + 1, K) of properties and fractions; NaN for other counts.

        The true value is one more draw from the posterior. It lies between the ends of
        an interval of n independent draws less often than the share of the draws does; the
        level is the one with which it lies there as often.
        """
        found = []
        for index, (K, draws) in enumerate(zip(self.counts, self.draws, strict=True)):
            rows = np.flatnonzero(chosen == index)
            best = np.full((len(chosen), len(self.ranges) + 1, K), np.nan)
            own = draws.take(rows)
            every = [*(own.values[name] for name in self.ranges), own.fractions]
            weights = own.weights
            levels = _level_of_draws(level, effective_number(own.log_weights))
            for p, each in enumerate(every):
                best[rows, p] = _weighted_quantile(each, weights, levels)
            found.append(best)
        return found

    def candidates(self, n_candidates: int = 6, *, min_confidence: float = 0.01) -> pd.DataFrame:
        """Find compartments that the voxels may have, with their probabilities.

        The tables of :meth:`table` have the compartments of one answer. Here a voxel that is either
        one compartment or two others has all three, so that thresholds can be set afterwards, as
        the average precision (:func:`corrsk.evaluation.compartment_metrics`) does. The candidates
        of a voxel are no tissue: their fractions do not sum to 1.

        Parameters
        ----------
        n_candidates : int, default=6
            Largest number of candidates of a voxel.
        min_confidence : float, default=0.01
            Smallest probability of a candidate, in (0, 1].

        Returns
        -------
        DataFrame of V rows
            T1_1.., T2_1.. (ms, um^2/ms), f_1.. and confidence_1.. of each candidate, in the order
            in which they were found: each is about where the tissue has, with the largest
            probability, a compartment within 7 % of the logarithmic range of each property that no
            earlier candidate has claimed. The places are those of some draws, so that a later
            candidate may be a little more probable. This probability is its confidence, the
            fraction the mean of these compartments. Absent candidates have f = 0, confidence 0 and
            NaN properties.

        Raises
        ------
        TypeError
            If the number of candidates is not an integer.
        ValueError
            If the number of candidates is not positive, or the smallest probability not in (0, 1].
        """
        checked_count("n_candidates", n_candidates, at_least=1)
        check_number("min_confidence", min_confidence)
        if not 0 < min_confidence <= 1:
            raise ValueError(f"min_confidence must lie in (0, 1], got {min_confidence}")
        names, V = tuple(self.ranges), len(self.log_proba)
        found = []
        for draws in self._resampled_chunks():
            logs = scaled_logs(draws, self.ranges)
            found.append(
                find_candidates(
                    logs, draws[:, :, -1], n_candidates, min_confidence, TOLERANCE, _shares_near
                )
            )
        values = np.concatenate([each.values for each in found])
        low, high = np.array(list(self.ranges.values())).T[:, :, None]
        fractions = np.concatenate([each.fractions for each in found])
        parameters = np.concatenate([low * (high / low) ** values, fractions[:, None]], axis=1)
        table = pd.DataFrame(parameters.reshape(V, -1), columns=table_columns(names, n_candidates))
        confidences = np.concatenate([each.probabilities for each in found])
        for number, confidence in enumerate(confidences.T, start=1):
            table[f"confidence_{number}"] = confidence
        return table

    # -- intervals, draws, spectra -------------------------------------------------

    def interval(
        self, coverage: float = 0.9, loss: str = "strict"
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Central intervals of the properties and fractions, given the count of a decision.

        Parameters
        ----------
        coverage : float, default=0.9
            Posterior probability of each interval, in (0, 1).
        loss : {"strict", "median", "w1"}, default="strict"
            Loss of the decision; see :meth:`table`.

        Returns
        -------
        lower : DataFrame of V rows
            Tissue table of the lower ends, T1_1.., T2_1.., f_1.. and n_c; NaN for absent
            compartments.
        upper : DataFrame of V rows
            Tissue table of the upper ends.

        Raises
        ------
        ValueError
            If the coverage is not between 0 and 1, or the loss is unknown.
        """
        checked_coverage(coverage)
        chosen, _, _ = self._decided(loss)
        sure = self.probabilities.max(axis=1)
        ends = []
        for level in ((1 - coverage) / 2, (1 + coverage) / 2):
            best = self._quantiles(chosen, level)
            table = self._as_table(chosen, best, sure).drop(columns=["scale", "confidence"])
            for k in range(1, max(self.counts) + 1):
                table[f"f_{k}"] = table[f"f_{k}"].mask(table["n_c"] < k)
            ends.append(table)
        lower, upper = ends
        return lower, upper

    def samples(self, n_samples: int, random_state: int | Generator | None = None) -> pd.DataFrame:
        """Draw compartments of equal weight from the posterior, with their count.

        Parameters
        ----------
        n_samples : int
            Number of draws of each voxel.
        random_state : int, Generator or None, default=None
            Seed, or source of the random numbers.

        Returns
        -------
        DataFrame of V * n_samples rows
            Tissue table and n_c; the draws of a voxel are in consecutive rows, in random order.
        """
        V = len(self.log_proba)
        rng = np.random.default_rng(random_state)
        parameters = self._resampled(n_samples, rng)
        order = rng.random((V, n_samples)).argsort(axis=1)
        parameters = np.take_along_axis(parameters, order[:, :, None, None], axis=1)
        flat = parameters.reshape(V * n_samples, *parameters.shape[2:])
        n_c = (flat[:, -1] > 0).sum(axis=1)
        table = pd.DataFrame(
            flat.reshape(len(flat), math.prod(flat.shape[1:])),
            columns=table_columns(tuple(self.ranges), max(self.counts)),
        )
        table["n_c"] = n_c
        return table

    def _resampled(self, n: int, rng: Generator | None = None) -> Array:
        """Draws (V, n, P + 1, K) of equal weight, over all counts, by systematic resampling."""
        V, names, most = len(self.log_proba), tuple(self.ranges), max(self.counts)
        weights = np.concatenate(
            [
                draws.weights * self.probabilities[:, index, None]
                for index, draws in enumerate(self.draws)
            ],
            axis=1,
        )
        cumulative = np.cumsum(weights, axis=1)
        cumulative /= cumulative[:, -1:]
        offset = 0.5 if rng is None else rng.random((V, 1))
        points = (np.arange(n) + offset) / n
        found = np.full((V, n, len(names) + 1, most), np.nan)
        found[:, :, -1] = 0.0
        sizes = np.cumsum([0, *(draws.log_weights.shape[1] for draws in self.draws)])
        chosen = np.stack(
            [
                np.searchsorted(row, at)
                for row, at in zip(cumulative, np.broadcast_to(points, (V, n)), strict=True)
            ]
        )
        chosen = np.minimum(chosen, sizes[-1] - 1)
        for index, draws in enumerate(self.draws):
            voxel, number = np.nonzero((chosen >= sizes[index]) & (chosen < sizes[index + 1]))
            at = chosen[voxel, number] - sizes[index]
            for p, name in enumerate(names):
                found[voxel, number, p, : draws.n_compartments] = draws.values[name][voxel, at]
            found[voxel, number, -1, : draws.n_compartments] = draws.fractions[voxel, at]
        return found

    def spectrum(self, grid: Mapping[str, ArrayLike]) -> Array:
        """Expected spectrum on a grid of properties.

        Parameters
        ----------
        grid : mapping of str to array of shape (n_bins,)
            Values of each property along the axes of the spectra, ascending. A compartment between
            bins belongs to both, so that its mean logarithm is kept; beyond the grid it belongs to
            the end.

        Returns
        -------
        ndarray of shape (V, n_1, n_2, ..)
            Expected amplitudes, in the unit of the signals; their sum is the expected M0.
        """
        axes = [np.log(np.asarray(grid[name], np.float64)) for name in self.ranges]
        shape = [axis.size for axis in axes]
        V, n_bins = len(self.log_proba), math.prod(shape)
        total = np.zeros(V * n_bins)
        for index, draws in enumerate(self.draws):
            amplitude = draws.weights * draws.scales * self.probabilities[:, index, None]
            parts = [(np.arange(V)[:, None, None], amplitude[:, :, None] * draws.fractions)]
            for axis, name in zip(axes, self.ranges, strict=True):
                logs = np.clip(np.log(draws.values[name]), axis[0], axis[-1])
                below = np.clip(np.searchsorted(axis, logs, side="right") - 1, 0, axis.size - 2)
                above = (logs - axis[below]) / (axis[below + 1] - axis[below])
                parts = [
                    (place * axis.size + bin_of, mass * share)
                    for place, mass in parts
                    for bin_of, share in ((below, 1 - above), (below + 1, above))
                ]
            for place, mass in parts:
                total += np.bincount(place.ravel(), mass.ravel(), minlength=total.size)
        return total.reshape(V, *shape)

    def marginal(self, name: str, values: ArrayLike) -> Array:
        """Spectrum of one property with the smallest expected Wasserstein distance to the true one.

        The cumulative distribution is, at each value, the median over the posterior. The marginal
        of the mean spectrum (:meth:`spectrum`) is wider: it has the uncertainty of the compartments
        in it.

        Parameters
        ----------
        name : str
            Property, such as "T2".
        values : array of shape (n_bins,)
            Ascending values of the property, in its unit. Each has the signal of the
            compartments that are nearer to it than to others on a logarithmic axis.

        Returns
        -------
        ndarray of shape (V, n_bins)
            Fractions of the signal, whose sum is 1.

        Raises
        ------
        ValueError
            If there is no such property, or the values are not at least two positive ones in
            ascending order, or wholly outside of the range of the prior.
        """
        if name not in self.ranges:
            raise ValueError(f"there is no property {name!r}; the properties are {[*self.ranges]}")
        axis = checked_grid({name: values}, [name])[name]
        self._check_within(name, axis[0], axis[-1])
        ends = np.sqrt(axis[1:] * axis[:-1])
        place, cumulative = [*self.ranges].index(name), []
        for draws in self._resampled_chunks():
            own, fractions = draws[:, :, place], draws[:, :, -1]
            bins = np.searchsorted(ends, np.where(fractions > 0, own, ends[0]), side="left")
            V, n, _ = bins.shape
            cells = np.arange(V * n).reshape(V, n, 1) * axis.size + bins
            mass = np.bincount(cells.ravel(), fractions.ravel(), minlength=V * n * axis.size)
            sums = np.cumsum(mass.reshape(V, n, axis.size), axis=2)
            cumulative.append(np.median(sums, axis=1))
        below = np.concatenate(cumulative)
        below[:, -1] = 1.0
        return np.diff(below, axis=1, prepend=0.0)

    def window_fractions(self, windows: Windows, coverage: float = 0.9) -> pd.DataFrame:
        """Fraction of the signal in each window, with its interval.

        Parameters
        ----------
        windows : mapping of str to mapping of str to (low, high)
            Limits of the properties of each window, by its name, such as
            ``{"myelin water": {"T2": (0, 40)}}``. A window has the compartments with
            low <= value < high; properties without limits are unlimited.
        coverage : float, default=0.9
            Posterior probability of each interval, in (0, 1).

        Returns
        -------
        DataFrame of V rows
            Median of the fraction of each window, by its name, and the ends of its central
            interval, "<name>, lower" and "<name>, upper".

        Raises
        ------
        ValueError
            If there are no windows, a property is unknown, limits are not ascending or wholly
            outside of the range of the prior, or the coverage is not between 0 and 1.
        """
        check_windows(windows, self.ranges)
        for limits in windows.values():
            for name, (low, high) in limits.items():
                self._check_within(name, low, high)
        levels = (0.5, (1 - checked_coverage(coverage)) / 2, (1 + coverage) / 2)
        found: dict[str, list[Array]] = {window: [] for window in windows}
        for draws in self._resampled_chunks():
            for window, limits in windows.items():
                inside = np.ones(draws[:, :, -1].shape, dtype=bool)
                for name, (low, high) in limits.items():
                    own = draws[:, :, [*self.ranges].index(name)]
                    inside &= (own >= low) & (own < high)  # False for absent compartments, NaN
                share = np.where(inside, draws[:, :, -1], 0.0).sum(axis=2)
                found[window].append(np.quantile(share, levels, axis=1))
        table: dict[str, Array] = {}
        for window, parts in found.items():
            middle, lower, upper = np.concatenate(parts, axis=1)
            table |= {window: middle, f"{window}, lower": lower, f"{window}, upper": upper}
        return pd.DataFrame(table)

    def _check_within(self, name: str, low: float, high: float) -> None:
        """Refuse values that no draw can have, such as those in another unit."""
        first, last = self.ranges[name]
        if high <= first or low > last:
            raise ValueError(
                f"the values of {name}, {low:g} to {high:g}, lie outside of its range in the prior "
                f"of {first:g} to {last:g}; times are in ms, D in um^2/ms"
            )

    def _resampled_chunks(self) -> Iterator[Array]:
        """Draws of equal weight, of some voxels at a time; see `_resampled`."""
        for start in range(0, len(self.log_proba), _CHUNK_VOXELS):
            yield self.take(slice(start, start + _CHUNK_VOXELS))._resampled(_N_RESAMPLED)


def decided_table(
    values: Array, n_c: NDArray[np.int64], scale: Array, sure: Array, names: tuple[str, ...]
) -> pd.DataFrame:
    """Tissue table of properties and fractions (V, P + 1, K), with n_c, scale and confidence."""
    V, _, most = values.shape
    table = pd.DataFrame(
        values.reshape(V, (len(names) + 1) * most), columns=table_columns(names, most)
    )
    return table.assign(n_c=n_c, scale=scale, confidence=sure)


def with_confidences(table: pd.DataFrame, near: Array) -> pd.DataFrame:
    """Add the probabilities (V, K) of a compartment of the tissue near each compartment."""
    for k, each in enumerate(near.T, start=1):
        table[f"confidence_{k}"] = np.where(table["n_c"] >= k, each, np.nan)
    return table


def checked_loss(loss: str) -> str:
    """Check the name of a loss."""
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(map(repr, LOSSES))}; got {loss!r}")
    return loss


def checked_coverage(coverage: float) -> float:
    """Check the posterior probability of an interval."""
    check_number("coverage", coverage)
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must lie between 0 and 1, got {coverage}")
    return coverage


def _joined(parts: Sequence[CountDraws]) -> CountDraws:
    """Draws of groups of voxels, with as many for each voxel as the largest group has."""
    n = max(part.log_weights.shape[1] for part in parts)

    def padded(array: Array, value: float) -> Array:
        width = [(0, 0), (0, n - array.shape[1])] + [(0, 0)] * (array.ndim - 2)
        return np.pad(array, width, constant_values=value)

    return CountDraws(
        {
            name: np.concatenate([padded(part.values[name], 1.0) for part in parts])
            for name in parts[0].values
        },
        np.concatenate([padded(part.fractions, 0.0) for part in parts]),
        np.concatenate([padded(part.log_weights, -np.inf) for part in parts]),
        np.concatenate([padded(part.scales, 0.0) for part in parts]),
    )


def _parameters(
    draws: CountDraws, ranges: Mapping[str, tuple[float, float]], order: NDArray[np.intp]
) -> Array:
    """Properties and fractions (V, m, P + 1, K) of some draws (V, m)."""
    every = [*(draws.values[name] for name in ranges), draws.fractions]
    return np.stack([np.take_along_axis(each, order[:, :, None], axis=1) for each in every], axis=2)


def _densest(draws: CountDraws, ranges: Mapping[str, tuple[float, float]]) -> tuple[Array, Array]:
    """Compartments (V, P + 1, K) with the most draws within the tolerance, and their share."""
    weights, logs = draws.weights, draws.logs(ranges)
    V, n, P, K = logs.shape
    m = min(_N_CANDIDATES, n)
    order = np.argpartition(-draws.log_weights, m - 1, axis=1)[:, :m]
    flat = logs.reshape(V, n, P * K)
    kernels = compiled()
    if kernels is None:
        centres, inside = _densest_of(flat, weights, order)
    else:
        centres, inside = np.empty((V, P * K)), np.empty((V, n))
        order = np.ascontiguousarray(order)  # one layout, so that one function is compiled
        kernels.densest(flat, weights, order, TOLERANCE, _KEPT, centres, inside)
    centre = centres.reshape(V, P, K)
    share = inside.sum(axis=1)
    inside = np.where(share[:, None] > 0, inside, weights)
    total = inside.sum(axis=1)
    fractions = np.einsum("vn,vnk->vk", inside, draws.fractions)
    fractions = np.where(
        total[:, None] > 0, fractions / np.where(total > 0, total, 1)[:, None], 1 / K
    )
    values = [
        low * np.exp(np.log(high / low) * centre[:, p])
        for p, (low, high) in enumerate(ranges.values())
    ]
    return np.stack([*values, fractions], axis=1), share


def _densest_of(flat: Array, weights: Array, order: NDArray[np.intp]) -> tuple[Array, Array]:
    """Centres (V, D) of draws (V, n, D), and the weights (V, n) of the draws around them."""
    rows = np.arange(len(flat))

    def near(centres: Array) -> Array:
        return np.where((np.abs(flat - centres[:, None]) <= TOLERANCE).all(axis=2), weights, 0.0)

    mean = np.einsum("vn,vnd->vd", weights, flat)
    centres = np.concatenate(
        [np.take_along_axis(flat, order[:, :, None], axis=1), mean[:, None]], axis=1
    )
    masses = np.stack([near(centre).sum(axis=1) for centre in np.moveaxis(centres, 1, 0)], axis=1)
    best = centres[rows, masses.argmax(axis=1)]
    # the mean of the draws near the best centre has less noise than this one draw
    share = masses.max(axis=1, keepdims=True)
    moved = np.einsum("vn,vnd->vd", near(best), flat) / np.where(share > 0, share, 1.0)
    moved = np.where(share > 0, moved, mean)
    more = near(moved).sum(axis=1, keepdims=True) >= share * _KEPT
    best = np.where(more, moved, best)
    return best, near(best)


def _shares_near(logs: Array, weights: Array, centres: Array) -> Array:
    """Weights (V, C) of draws (V, n, P, K) with a compartment near the centres (V, P, C)."""
    kernels = compiled()
    shares = np.empty((len(centres), centres.shape[2]))
    if kernels is not None:
        logs, centres = np.ascontiguousarray(logs), np.ascontiguousarray(centres)
        kernels.shares_near(logs, weights, centres, TOLERANCE, shares)
        return shares
    for share, centre in zip(shares.T, np.moveaxis(centres, 2, 0), strict=True):
        near = (np.abs(logs - centre[:, None, :, None]) <= TOLERANCE).all(axis=2).any(axis=2)
        share[:] = (weights * near).sum(axis=1)
    return shares


def compiled() -> ModuleType | None:
    """Compiled search, imported on first use; None without numba, for the one of numpy.

    The one of numpy takes about ten times as long.
    """
    return compiled_module("corrsk.trained._decisions_compiled")


def _level_of_draws(level: float, n: Array) -> Array:
    """Level (V,) below which n (V,) draws have a value that is below their quantile `level`.

    Of n draws and one more, each rank is as probable: the k-th smallest draw exceeds the other one
    with the probability k / (n + 1), and has the level (k - 1/2) / n among the draws (Hyndman and
    Fan, Am. Stat. 50, 361 (1996), definitions 6 and 5). At most nine tenths of a tail are left out,
    since few draws have no quantile of this level.
    """
    shift = (0.5 - level) / np.maximum(n, 1.0)
    most = 0.9 * min(level, 1 - level)
    return np.asarray(level - np.clip(shift, -most, most))


def _weighted_quantile(values: Array, weights: Array, levels: Array) -> Array:
    """Quantiles (V, K) at levels (V,) of values (V, n, K) with weights (V, n) that sum to 1.

    Draws without weight do not matter, unless all are without.
    """
    possible = (weights > 0) | ~(weights > 0).any(axis=1, keepdims=True)
    values = np.where(possible[:, :, None], values, np.inf)
    last = possible.sum(axis=1)[:, None] - 1
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    share = np.take_along_axis(np.broadcast_to(weights[:, :, None], values.shape), order, axis=1)
    middle = np.cumsum(share, axis=1) - 0.5 * share
    level = levels[:, None]
    at = (middle < level[:, None]).sum(axis=1)
    above = np.clip(at, 0, last)[:, None]
    below = np.clip(at - 1, 0, last)[:, None]
    high, low = (np.take_along_axis(ordered, i, axis=1)[:, 0] for i in (above, below))
    top, bottom = (np.take_along_axis(middle, i, axis=1)[:, 0] for i in (above, below))
    part = np.clip((level - bottom) / np.where(top > bottom, top - bottom, 1.0), 0, 1)
    return np.asarray(low + part * (high - low))


def _distribution(values: Array, fractions: Array, span: tuple[float, float]) -> Array:
    """Distribution functions (V, m, n_points) of compartments (V, m, K) over log values."""
    points = np.exp(np.linspace(np.log(span[0]), np.log(span[1]), _N_POINTS))
    below = np.nan_to_num(values, nan=np.inf)[..., None] <= points
    return np.asarray((np.nan_to_num(fractions)[..., None] * below).sum(axis=2))
