"""Protocol design: selection of measurements, and distributions of grids for random searches.

Each measurement of a protocol is a feature, so scikit-learn's feature selection
designs acquisitions. :func:`selected_protocol` converts the selected features to
a protocol, and :class:`ProtocolGrids` draws whole grids for a random search.

Three mistakes make such a search meaningless:

- *A normalisation before the selection.* A measurement that is not acquired must
  not enter the norm, so that `SignalNormalizer` belongs after the
  selector, and inside the selector's own estimator::

      learner = make_pipeline(SignalNormalizer(), LogisticRegression())
      make_pipeline(
          CorrelationSignalGenerator(), SequentialFeatureSelector(learner), SignalNormalizer(), ..
      )

- *A search over the noise.* `noise_level` and `noise_reference` describe the data.
  A search over these parameters finds the data with the least noise, not the better method, and
  with the reference "max" or "rms" a protocol of small signals even has less noise.
- *More scan time.* A longer protocol averages more noise away. Compare protocols
  with equally many measurements, the same TR and the same noise.

The accuracy of a selected protocol is biased upwards on the noise that selected the protocol.
Confirm the accuracy on new simulations, with other seeds and other tissue.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from corrsk._utils.rng import RandomStateLike, entropy, keyed_generator
from corrsk._utils.validation import checked_count, lookup
from corrsk.acquisition.protocol import (
    AcquisitionProtocol,
    protocol_of_columns,
    resolve_protocol,
)
from corrsk.physics import CONTRASTS
from corrsk.physics.contrasts import own_units
from corrsk.physics.units import Units
from corrsk.simulation.generator import CorrelationSignalGenerator


@dataclass(frozen=True, repr=False)
class ProtocolSelection:
    """Result of a selection of measurements.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        The selected measurements.
    dropped : AcquisitionProtocol or None
        The other measurements; None if all were selected.
    """

    protocol: AcquisitionProtocol
    dropped: AcquisitionProtocol | None

    @property
    def n_before(self) -> int:
        """Number of measurements before the selection."""
        return self.n_after + (0 if self.dropped is None else self.dropped.n_measurements)

    @property
    def n_after(self) -> int:
        """Number of selected measurements."""
        return self.protocol.n_measurements

    @property
    def saving(self) -> float:
        """Fraction of the measurements that was dropped, in [0, 1)."""
        return 1 - self.n_after / self.n_before

    @property
    def time_saved(self) -> float | None:
        """Time saved in ms per phase-encoding step, or None without a TR.

        Counts the TR of each dropped measurement. A sequence that
        acquires several TE (or slices) within one TR saves less.
        """
        if self.dropped is None:
            return None if self.protocol.tr is None else 0.0
        saved = float(self.dropped._tr_of_each.sum())
        return saved if math.isfinite(saved) else None

    def __repr__(self) -> str:
        text = f"{self.n_after} of {self.n_before} measurements, {100 * self.saving:.0f} % saved"
        if self.time_saved is not None:
            text += f" ({self.time_saved / 1000:g} s per phase-encoding step)"
        return f"ProtocolSelection({text})"


def selected_protocol(
    selector: Any, protocol: AcquisitionProtocol | str | None = None
) -> ProtocolSelection:
    """Return the protocol chosen by a fitted feature selection.

    Parameters
    ----------
    selector : estimator
        A fitted selector (anything with `get_support`), a fitted Pipeline with
        one or several selectors, or a fitted search over one of these
        (its `best_estimator_` is used).
    protocol : AcquisitionProtocol or str, optional
        The protocol of the columns, in their order; columns with names like "TI50_TE4.5" may
        have another order. Not needed if the Pipeline has a :class:`CorrelationSignalGenerator`,
        or if the columns have such names (which do not include TR).

    Returns
    -------
    ProtocolSelection
        The selected and the dropped measurements, in the order of the columns.

    Raises
    ------
    ValueError
        If a step before a selector mixes measurements, as a normalisation does, so that dropped
        measurements would still be needed; if there is no selector; or if the protocol cannot be
        determined or contradicts the columns.
    sklearn.exceptions.NotFittedError
        If the selector is not fitted.

    Examples
    --------
    >>> from sklearn.feature_selection import SelectKBest
    >>> from corrsk import AcquisitionProtocol, make_correlation_signals
    >>> from corrsk.model_selection import selected_protocol
    >>> X, y = make_correlation_signals(1000, norm=None, random_state=0)
    >>> selected_protocol(SelectKBest(k=24).fit(X, y), "ir-se-8x8")
    ProtocolSelection(24 of 64 measurements, 62 % saved)
    """
    while hasattr(selector, "best_estimator_"):
        selector = selector.best_estimator_
    check_is_fitted(selector)
    if hasattr(selector, "cv_results_") and not hasattr(selector, "get_support"):
        raise ValueError("the search has no best_estimator_; fit it with refit=True (or a metric)")
    steps = list(_steps(selector))
    generators = [i for i, step in enumerate(steps) if isinstance(step, CorrelationSignalGenerator)]
    given = None if protocol is None else resolve_protocol(protocol)
    if generators:
        generator = steps[generators[-1]]
        steps = steps[generators[-1] + 1 :]
        if given is not None and given != generator.protocol_:
            raise ValueError(
                f"the Pipeline simulates {generator.protocol_}, but protocol={given}; "
                "omit `protocol`"
            )
        grid = generator.protocol_
    else:
        grid = _protocol_of_columns(selector, given)
    kept = _kept_columns(steps, grid.n_measurements)
    dropped = np.setdiff1d(np.arange(grid.n_measurements), kept)
    return ProtocolSelection(grid.subset(kept), grid.subset(dropped) if dropped.size else None)


def _steps(estimator: Any) -> Iterator[Any]:
    """Yield the steps of a Pipeline and of nested Pipelines, without passthrough steps."""
    if not isinstance(estimator, Pipeline):
        yield estimator
        return
    for _, step in estimator.steps:
        if step is not None and step != "passthrough":
            yield from _steps(step)


def _protocol_of_columns(selector: Any, given: AcquisitionProtocol | None) -> AcquisitionProtocol:
    names = list(getattr(selector, "feature_names_in_", ()))
    if given is None:
        if not names:
            raise ValueError(
                "the protocol of the columns is missing: pass `protocol`, or fit the selector to "
                "columns named like 'TI50_TE4.5'"
            )
        return AcquisitionProtocol.from_feature_names(names)
    return protocol_of_columns(names, given) or given


def _kept_columns(steps: list[Any], n_columns: int) -> NDArray[np.intp]:
    """Return the positions of the measurements that remain after the last selector."""
    last = max((i for i, step in enumerate(steps) if hasattr(step, "get_support")), default=None)
    if last is None:
        raise ValueError("no step after the signals is a feature selector (with get_support)")
    kept = np.arange(n_columns)
    for step in steps[: last + 1]:
        if hasattr(step, "get_support"):
            support = np.asarray(step.get_support())
            if support.size != kept.size:
                raise ValueError(
                    f"{type(step).__name__} selected among {support.size} columns, but there are "
                    f"{kept.size} measurements"
                )
            kept = kept[support]
        else:
            _check_each_measurement_by_itself(step, kept.size)
    return kept


def _check_each_measurement_by_itself(step: Any, n_columns: int) -> None:
    # Tested by a perturbation, not by class: any step that lets one column change others (a norm,
    # a PCA, another order) would make later steps depend on dropped measurements.
    signals = np.linspace(0.3, 0.7, n_columns) + np.zeros((n_columns + 1, 1))
    signals[1:][np.diag_indices(n_columns)] += 1.0
    names = getattr(step, "feature_names_in_", None)
    if names is not None:
        import pandas as pd

        signals = pd.DataFrame(signals, columns=names)
    after = np.asarray(step.transform(signals))
    if after.shape == (n_columns + 1, n_columns):
        others = ~np.eye(n_columns, dtype=bool)
        if np.allclose(after[1:][others], np.broadcast_to(after[0], others.shape)[others]):
            return
    raise ValueError(
        f"{type(step).__name__} mixes the measurements before a selector: its output for one "
        "measurement depends on the others, so that dropped measurements would still have to be "
        "acquired (a leak). Move it behind the selector, make_pipeline(generator, selector, "
        "SignalNormalizer(), learner), and into the selector's own estimator, "
        "RFE(make_pipeline(SignalNormalizer(), learner))"
    )


@dataclass(frozen=True)
class ProtocolGrids:
    """Distribution over protocols that are grids of one size, for scikit-learn's random searches.

    Each protocol measures every combination of its levels. The levels of a scan parameter are
    log-spaced between two end points, which are log-uniform within the bounds and at least a
    factor of `min_ratio` apart. For a scan parameter whose absence is zero (b), the first level is
    0 and the others are log-spaced.

    Parameters
    ----------
    bounds : mapping of str to (float, float)
        Smallest and largest value of each scan parameter, such as
        {"TI": (20, 4000), "TE": (4, 300)}; TI and TE in ms, b in ms/um^2.
    n_levels : int or mapping of str to int, default=8
        Number of levels of each scan parameter, b = 0 included: at least 2, or
        3 if zero is one of them.
    min_ratio : float, default=4.0
        Least ratio of the largest to the smallest level that is not zero.
    tr : float, optional
        Repetition time in ms of every protocol.
    units : str or mapping of str to str, optional
        Units of the bounds and of TR, which are converted; see
        :class:`corrsk.AcquisitionProtocol`.

    Raises
    ------
    ValueError
        If a scan parameter is unknown, a bound is not positive, an upper bound is not plausible
        in its unit, two bounds are closer than `min_ratio`, or a
        TI could exceed `tr`.
    TypeError
        If a number of levels is not an integer.

    Examples
    --------
    >>> from corrsk.model_selection import ProtocolGrids
    >>> grids = ProtocolGrids({"TI": (20, 4000), "TE": (4, 300)}, n_levels=8)
    >>> grids.rvs(random_state=0).grid_shape
    (8, 8)

    In a search over a whole Pipeline::

        RandomizedSearchCV(pipeline, {"correlationsignalgenerator__protocol": grids})
    """

    bounds: Mapping[str, tuple[float, float]]
    n_levels: int | Mapping[str, int] = 8
    min_ratio: float = 4.0
    tr: float | None = None
    # afterwards the units of corrsk, if any was stated; no part of the distribution
    units: Units = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.bounds:
            raise ValueError("bounds must not be empty; pass bounds such as {'TI': (20, 4000)}")
        if not (1 < self.min_ratio < math.inf):
            raise ValueError(f"min_ratio must be finite and exceed 1, got {self.min_ratio}")
        if isinstance(self.n_levels, Mapping) and set(self.n_levels) != set(self.bounds):
            raise ValueError(
                f"n_levels and bounds name different scan parameters: "
                f"{', '.join(self.n_levels)} and {', '.join(self.bounds)}"
            )
        for name, bounds in self.bounds.items():
            contrast = lookup(CONTRASTS, name, "scan parameter")
            at_least = 3 if contrast.absent == 0 else 2
            checked_count(f"n_levels of {name}", self._n_levels(name), at_least=at_least)
            try:
                low, high = map(float, bounds)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"the bounds of {name} must be (low, high), got {bounds}"
                ) from error
            if not (0 < low < math.inf and low * self.min_ratio <= high < math.inf):
                raise ValueError(
                    f"the bounds of {name} must be positive, with high at least min_ratio = "
                    f"{self.min_ratio:g} times low; got {low:g} .. {high:g}"
                )
        # a protocol of the bounds validates and converts units and TR
        ends = AcquisitionProtocol(self.bounds, tr=self.tr, units=self.units)
        if self.units is not None:
            converted = {name: tuple(ends.contrasts[name].tolist()) for name in self.bounds}
            object.__setattr__(self, "bounds", converted)
            object.__setattr__(self, "tr", ends.tr)
            object.__setattr__(self, "units", own_units())
        object.__setattr__(self, "bounds", dict(self.bounds))

    def __hash__(self) -> int:
        levels = self.n_levels
        frozen = tuple(levels.items()) if isinstance(levels, Mapping) else levels
        return hash((tuple(self.bounds.items()), frozen, self.min_ratio, self.tr))

    def rvs(self, size: int | None = None, random_state: RandomStateLike = None) -> Any:
        """Draw protocols; the method that scikit-learn's searches call.

        Parameters
        ----------
        size : int, optional
            Number of protocols; None (default) for a single one.
        random_state : int, RandomState, Generator or None
            Seed; the same integer gives the same protocols.

        Returns
        -------
        AcquisitionProtocol or list of AcquisitionProtocol
            One protocol, or a list of `size` protocols.
        """
        rng = keyed_generator(entropy(random_state))
        if size is None:
            return self._draw(rng)
        checked_count("size", size, at_least=0)
        return [self._draw(rng) for _ in range(size)]

    def _draw(self, rng: np.random.Generator) -> AcquisitionProtocol:
        levels = [self._draw_levels(name, rng) for name in self.bounds]
        mesh = np.meshgrid(*levels, indexing="ij")
        contrasts = {name: axis.ravel() for name, axis in zip(self.bounds, mesh, strict=True)}
        # units are stated, since a grid of short times within the bounds is right
        protocol = AcquisitionProtocol(contrasts, tr=self.tr, units=own_units())
        return protocol.in_grid_order()

    def _draw_levels(self, name: str, rng: np.random.Generator) -> NDArray[np.float64]:
        low, high = self.bounds[name]
        # Two sorted uniform points in a range shortened by the gap, with the second shifted by
        # the gap, are uniform over all pairs at least the gap apart, without rejection.
        gap = math.log(self.min_ratio)
        room = max(math.log(high / low) - gap, 0)
        first, last = np.sort(rng.uniform(0, room, 2))
        n = self._n_levels(name)
        zero = [0.0] if CONTRASTS[name].absent == 0 else []
        spaced = np.exp(np.linspace(first, last + gap, n - len(zero)))
        return np.concatenate([zero, np.clip(low * spaced, low, high)])

    def _n_levels(self, name: str) -> int:
        return self.n_levels[name] if isinstance(self.n_levels, Mapping) else self.n_levels
