"""The protocol is a hyperparameter: choose measurements, search over grids.

Each measurement of a protocol is a feature, so scikit-learn's feature selection
designs acquisitions. :func:`selected_protocol` turns what was selected back into
a protocol, and :class:`ProtocolGrids` draws whole grids for a random search.

Three things make such a search meaningless:

- *A normalisation before the selection.* A measurement that is not acquired may
  not enter the norm either, so that `SignalNormalizer` stands after the
  selector, and inside the selector's own estimator::

      learner = make_pipeline(SignalNormalizer(), LogisticRegression())
      make_pipeline(
          CorrelationSignalGenerator(), SequentialFeatureSelector(learner), SignalNormalizer(), ..
      )

- *A search over the noise.* `noise_level` and `noise_reference` say what the data
  are. Searching over them finds the quietest data, not the better method, and a
  reference of "max" or "rms" even lets a protocol of small signals have less noise.
- *More scan time.* A longer protocol averages more noise away. Compare protocols
  of equally many measurements, with one TR and the same noise in each.

A chosen protocol was chosen on certain draws of noise, and looks better on them
than it is. Confirm it by simulating it afresh, with other seeds and other tissue.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from corrsk._utils.rng import RandomStateLike, entropy, keyed_generator
from corrsk._utils.validation import checked_count, lookup
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.physics import CONTRASTS
from corrsk.simulation.generator import CorrelationSignalGenerator


@dataclass(frozen=True, repr=False)
class ProtocolSelection:
    """What a selection leaves of a protocol.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        The measurements that were kept.
    dropped : AcquisitionProtocol or None
        Those that were not; None if all were kept.
    """

    protocol: AcquisitionProtocol
    dropped: AcquisitionProtocol | None

    @property
    def n_before(self) -> int:
        """Number of measurements that there were to choose from."""
        return self.n_after + (0 if self.dropped is None else self.dropped.n_measurements)

    @property
    def n_after(self) -> int:
        """Number of measurements that were kept."""
        return self.protocol.n_measurements

    @property
    def saving(self) -> float:
        """Fraction of the measurements that is saved, in [0, 1)."""
        return 1 - self.n_after / self.n_before

    @property
    def time_saved(self) -> float | None:
        """Time saved in ms per phase-encoding step, or None without a TR.

        Counts one TR for each measurement that was dropped. A sequence that
        reads several TE (or slices) within one TR saves less.
        """
        tr = self.protocol.tr
        return None if tr is None else (self.n_before - self.n_after) * tr

    def __repr__(self) -> str:
        text = f"{self.n_after} of {self.n_before} measurements, {100 * self.saving:.0f} % saved"
        if self.time_saved is not None:
            text += f" ({self.time_saved / 1000:g} s per phase-encoding step)"
        return f"ProtocolSelection({text})"


def selected_protocol(
    selector: Any, protocol: AcquisitionProtocol | str | None = None
) -> ProtocolSelection:
    """The protocol that a fitted feature selection chose.

    Parameters
    ----------
    selector : estimator
        A fitted selector (anything with `get_support`), a fitted Pipeline with
        one or several selectors in it, or a fitted search over one of these
        (its `best_estimator_` is looked at).
    protocol : AcquisitionProtocol or str, optional
        What the columns were measured with, in grid order. Not needed after a
        :class:`CorrelationSignalGenerator` in the Pipeline, nor where the
        columns were named like "TI50_TE4.5" (names know no TR).

    Returns
    -------
    ProtocolSelection
        Its protocol is in grid order.

    Raises
    ------
    ValueError
        If a step before a selector mixes measurements, as a normalisation
        does: those dropped afterwards would still be needed, a leak. If there
        is no selector, if nothing tells the protocol, or if what does
        contradicts `protocol` or the number of columns.
    sklearn.exceptions.NotFittedError
        If the selector is not fitted.

    Examples
    --------
    >>> from sklearn.feature_selection import SelectKBest
    >>> from corrsk import AcquisitionProtocol, make_correlation_signals
    >>> from corrsk.model_selection import selected_protocol
    >>> X, y = make_correlation_signals(1000, normalize=False, random_state=0)
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
    given = None if protocol is None else resolve_protocol(protocol).in_grid_order()
    if generators:
        generator = steps[generators[-1]]
        steps = steps[generators[-1] + 1 :]
        if given is not None and given != generator.protocol_:
            raise ValueError(
                f"the Pipeline simulates {generator.protocol_}, which is not the given {given}; "
                "leave `protocol` out"
            )
        grid = generator.protocol_
    else:
        grid = _protocol_of_columns(selector, given)
    kept = _kept_columns(steps, grid.n_measurements)
    dropped = np.setdiff1d(np.arange(grid.n_measurements), kept)
    selection = grid.subset(kept).in_grid_order()
    return ProtocolSelection(
        selection, grid.subset(dropped).in_grid_order() if dropped.size else None
    )


def _steps(estimator: Any) -> Iterator[Any]:
    """The steps of a Pipeline and of those within it, without those that do nothing."""
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
                "nothing tells which measurements the columns are: give `protocol`, or fit with "
                "columns named like 'TI50_TE4.5'"
            )
        return AcquisitionProtocol.from_feature_names(names)
    if set(names) & set(given.feature_names) and names != given.feature_names:
        raise ValueError(
            "the columns that the selector was fitted with do not stand in the grid order of "
            "`protocol`; bring them there with protocol.to_grid(X), or leave `protocol` out"
        )
    return given


def _kept_columns(steps: list[Any], n_columns: int) -> NDArray[np.intp]:
    """Positions of the measurements that are left after the last selector."""
    last = max((i for i, step in enumerate(steps) if hasattr(step, "get_support")), default=None)
    if last is None:
        raise ValueError("there is no feature selector (a step with get_support) after the signals")
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
    # Not by the names of known culprits: whatever changes other columns along with
    # one (a norm, a PCA, another order) would let dropped measurements through.
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
        f"{type(step).__name__} stands before a selector and mixes the measurements: what it makes "
        "of one depends on the others, so that those dropped afterwards would still have to be "
        "acquired (a leak). Put it after the selection, make_pipeline(generator, selector, "
        "SignalNormalizer(), learner), and into the selector's own estimator, "
        "RFE(make_pipeline(SignalNormalizer(), learner))"
    )


@dataclass(frozen=True)
class ProtocolGrids:
    """A distribution over grids of one size, for scikit-learn's random searches.

    Each draw measures every combination of its levels. The levels of a scan
    parameter are log-spaced between two end points, which are log-uniform
    within bounds, given that they are far enough apart. Where zero is a level
    (b), the first level is 0 and the rest is log-spaced.

    Parameters
    ----------
    bounds : mapping of str to (float, float)
        Smallest and largest value of each scan parameter, such as
        {"TI": (20, 4000), "TE": (4, 300)}; TI and TE in ms, b in ms/um^2.
    n_levels : int or mapping of str to int, default=8
        Number of levels of each scan parameter (b = 0 counts): at least 2, or
        3 where zero is one of them.
    min_ratio : float, default=4.0
        Least ratio of the largest to the smallest level that is not zero.
    tr : float, optional
        Repetition time in ms of every protocol drawn.

    Raises
    ------
    ValueError
        If a scan parameter is unknown, a bound is not positive or can only be
        in the wrong unit, the bounds of one lie closer than `min_ratio`, or a
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

    def __post_init__(self) -> None:
        if not self.bounds:
            raise ValueError("bounds are empty; give some, such as {'TI': (20, 4000)}")
        if not (1 < self.min_ratio < math.inf):
            raise ValueError(f"min_ratio must exceed 1, got {self.min_ratio}")
        if isinstance(self.n_levels, Mapping) and set(self.n_levels) != set(self.bounds):
            raise ValueError(
                f"n_levels and bounds name different scan parameters: "
                f"{', '.join(self.n_levels)} and {', '.join(self.bounds)}"
            )
        for name, bounds in self.bounds.items():
            contrast = lookup(CONTRASTS, name, "scan parameter")
            at_least = 3 if contrast.zero_allowed else 2
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
        # the extremes as protocols, which checks units and TR as every protocol does
        for end in ("smallest", "largest"):
            AcquisitionProtocol(
                {
                    name: [low, low * self.min_ratio] if end == "smallest" else [high]
                    for name, (low, high) in self.bounds.items()
                },
                tr=self.tr if end == "largest" else None,
            )

        object.__setattr__(self, "bounds", dict(self.bounds))

    def __hash__(self) -> int:
        levels = self.n_levels
        frozen = tuple(levels.items()) if isinstance(levels, Mapping) else levels
        return hash((tuple(self.bounds.items()), frozen, self.min_ratio, self.tr))

    def rvs(self, size: int | None = None, random_state: RandomStateLike = None) -> Any:
        """Draw protocols, under the name that scikit-learn's searches call.

        Parameters
        ----------
        size : int, optional
            Number of protocols; None (default) for one by itself.
        random_state : int, RandomState, Generator or None
            The same integer gives the same protocols.

        Returns
        -------
        AcquisitionProtocol, or list of `size` of them
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
        return AcquisitionProtocol(contrasts, tr=self.tr).in_grid_order()

    def _draw_levels(self, name: str, rng: np.random.Generator) -> NDArray[np.float64]:
        low, high = self.bounds[name]
        # Two points in a range that is shorter by the gap, then moved apart by it, are
        # uniform over all pairs with at least this gap: nothing needs to be redrawn.
        gap = math.log(self.min_ratio)
        room = max(math.log(high / low) - gap, 0)
        first, last = np.sort(rng.uniform(0, room, 2))
        n = self._n_levels(name)
        zero = [0.0] if CONTRASTS[name].zero_allowed else []
        spaced = np.exp(np.linspace(first, last + gap, n - len(zero)))
        return np.concatenate([zero, np.clip(low * spaced, low, high)])

    def _n_levels(self, name: str) -> int:
        return self.n_levels[name] if isinstance(self.n_levels, Mapping) else self.n_levels
