"""Priors: distributions of the tissue of voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from corrsk._utils.rng import BLOCK_ROWS, RandomDraws
from corrsk._utils.validation import check_entries, check_number, checked_count, lookup
from corrsk.physics import CONTRASTS
from corrsk.physics._arrays import Array
from corrsk.physics.contrasts import contrasts_beyond, restore_contrasts
from corrsk.tissue.fractions import FRACTION_LAWS, floored_fractions
from corrsk.tissue.nuisances import Nuisances
from corrsk.tissue.ranges import PropertyRange
from corrsk.tissue.sampling import SampledPrior
from corrsk.tissue.table import table_columns

MAX_REDRAWS = 1000


def tissue_properties() -> list[str]:
    """List the tissue properties of the registered contrasts."""
    return list(dict.fromkeys(contrast.tissue for contrast in CONTRASTS.values()))


_MIDL2024_RANGES = {
    "T1": PropertyRange(50.0, 5000.0, step=50.0),
    "T2": PropertyRange(5.0, 500.0, step=5.0),
}


def _named_range(name: str, values: Mapping[str, Any]) -> PropertyRange:
    """Range of a property from plain values; errors name the property."""
    try:
        return PropertyRange(**values)
    except ValueError as error:
        raise ValueError(f"the range of {name}: {error}") from error


@dataclass(frozen=True, repr=False)
class TissuePrior(SampledPrior):
    """Joint distribution of compartment counts and tissue properties.

    Immutable. The default is the prior of the paper, as far as the paper specifies the prior; the
    parameters set what the paper leaves open, or define other priors.

    Parameters
    ----------
    ranges : mapping of str to PropertyRange
        Range of each tissue property ("T1", "T2", "D").
    n_compartments : tuple of int, default=(1, 2, 3, 4)
        Compartment counts n_c, all equally frequent.
    min_fraction : float, default=0.05
        Smallest signal fraction of a compartment.
    fraction_law : {"dirichlet", "normalized-uniform", "equal"}
        Distribution of the n_c fractions. "dirichlet" is uniform on the part of
        the simplex where every fraction is at least `min_fraction` (a flat Dirichlet
        distribution with a floor); "normalized-uniform" divides independent uniform
        weights by their sum, with the same floor; "equal" sets all fractions to 1 / n_c.
    with_replacement : bool, default=True
        Whether two compartments of a voxel may have the same T1 (or T2, or D).
    t2_below_t1 : bool, default=False
        Whether to require T2 < T1 in each compartment.
    nuisances : Nuisances, optional
        Ranges of nuisance parameters, such as the inversion efficiency, that differ between
        voxels; None (default) for none.

    Raises
    ------
    ValueError
        If the parameters contradict each other or allow no tissue, or the upper end of a range
        is not plausible in ms or um^2/ms; see the parameter `units` of :class:`PropertyRange`.

    Examples
    --------
    >>> from corrsk import TissuePrior
    >>> tissue, n_c = TissuePrior.named("midl2024").sample(8, random_state=0)
    >>> tissue.shape, sorted(n_c.tolist())
    ((8, 12), [1, 1, 2, 2, 3, 3, 4, 4])
    """

    ranges: Mapping[str, PropertyRange] = field(default_factory=lambda: _MIDL2024_RANGES)
    n_compartments: tuple[int, ...] = (1, 2, 3, 4)
    min_fraction: float = 0.05
    fraction_law: str = "dirichlet"
    with_replacement: bool = True
    t2_below_t1: bool = False
    nuisances: Nuisances | None = None

    def __post_init__(self) -> None:
        known = tissue_properties()
        unknown = [name for name in self.ranges if name not in known]
        if unknown or not self.ranges:
            raise ValueError(
                f"ranges must have tissue properties among {', '.join(known)}; "
                f"got {', '.join(map(repr, unknown)) or 'none'}"
            )
        for name, values in self.ranges.items():
            if not isinstance(values, PropertyRange):
                raise ValueError(f"the range of {name} must be a PropertyRange, got {values!r}")
            values.check_units(name)
        if not isinstance(self.n_compartments, (tuple, list)):
            raise ValueError(
                f"n_compartments must be a tuple of counts, such as (1, 2, 3); "
                f"got {self.n_compartments!r}"
            )
        for count in self.n_compartments:
            checked_count("each of n_compartments", count, at_least=1)
        counts = tuple(int(count) for count in self.n_compartments)
        if not counts or len(set(counts)) != len(counts):
            raise ValueError(
                f"n_compartments must be distinct positive counts, got {self.n_compartments}"
            )
        for name in ("with_replacement", "t2_below_t1"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.nuisances is not None and not isinstance(self.nuisances, Nuisances):
            raise ValueError(f"nuisances must be Nuisances or None, got {self.nuisances!r}")
        for name in () if self.nuisances is None else self.nuisances.names:
            ends = np.atleast_1d(getattr(self.nuisances, name))
            if Nuisances.check_values(name, ends).any():
                raise ValueError(
                    f"a prior cannot draw {name} from {getattr(self.nuisances, name)}: the "
                    "efficiency of a pulse is at most 1 (more is for fits)"
                )
        check_number("min_fraction", self.min_fraction)
        if not 0 <= self.min_fraction <= 1 / max(counts):
            raise ValueError(
                f"min_fraction must lie in [0, {1 / max(counts):g}], so that {max(counts)} "
                f"fractions can sum to 1; got {self.min_fraction}"
            )
        lookup(FRACTION_LAWS, self.fraction_law, "fraction law")
        if self.t2_below_t1:
            if not {"T1", "T2"} <= set(self.ranges):
                raise ValueError("t2_below_t1 needs ranges for both T1 and T2")
            if self.ranges["T2"].low >= self.ranges["T1"].high:
                raise ValueError("t2_below_t1 is impossible: no T2 of the range lies below any T1")
        if not self.with_replacement:
            for name, values in self.ranges.items():
                if values.n_values < max(counts):
                    raise ValueError(
                        f"{max(counts)} different values of {name} cannot be drawn from a range "
                        f"that has {values.n_values:g}"
                    )
        object.__setattr__(self, "n_compartments", tuple(sorted(counts)))
        object.__setattr__(self, "ranges", MappingProxyType(dict(self.ranges)))

    @classmethod
    def named(cls, name: str, **changes: Any) -> TissuePrior:
        """Return a named prior, optionally with changed parameters.

        Parameters
        ----------
        name : {"midl2024", "t1t2-detr"}
            "midl2024" is the prior of the paper: n_c in 1..4, T1 in {50, 100, .., 5000} ms,
            T2 in {5, 10, .., 500} ms, fractions of at least 0.05. "t1t2-detr" is the
            prior of the thesis t1t2-detr: n_c in 1..3, T1 50..3500 ms and T2
            5..500 ms log-uniform with T2 < T1, fractions of at least 0.05.
        **changes
            Parameters of the class that replace those of the named prior.

        Returns
        -------
        TissuePrior
            The prior.

        Raises
        ------
        ValueError
            If the name is unknown; the message lists the valid names.
        """
        return replace(lookup(_NAMED_PRIORS, name, "tissue prior"), **changes)

    def continuous(self) -> TissuePrior:
        """Prior with a continuous range for each property.

        The values of the paper lie on a grid (T1 in steps of 50 ms, T2 in steps of 5 ms), unlike
        those of real tissue. See :meth:`corrsk.PropertyRange.continuous`.

        Returns
        -------
        TissuePrior
            The prior without grids.

        Examples
        --------
        >>> from corrsk import TissuePrior
        >>> TissuePrior.named("midl2024").continuous().ranges["T1"]
        PropertyRange(low=25.0, high=5025.0, step=None, scale='linear')
        """
        ranges = {name: values.continuous() for name, values in self.ranges.items()}
        return replace(self, ranges=ranges)

    def to_dict(self) -> dict[str, Any]:
        """Convert the prior to plain values, for files.

        Returns
        -------
        dict
            The parameters; each range as the dict of its parameters.
        """
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        nuisances = content.pop("nuisances")
        if nuisances is not None:
            content["nuisances"] = nuisances.to_dict()
        return content | {
            "ranges": {
                name: {key: value for key, value in asdict(values).items() if key != "units"}
                | ({} if values.units is None else {"units": values.units})
                for name, values in self.ranges.items()
            },
            "n_compartments": list(self.n_compartments),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TissuePrior:
        """Create the prior that :meth:`to_dict` converted.

        Parameters
        ----------
        content : mapping
            The parameters; those that are missing have their defaults.

        Returns
        -------
        TissuePrior
            The prior.

        Raises
        ------
        ValueError
            If there is an unknown parameter, or the parameters are invalid.
        """
        check_entries("a prior", content, allowed=[item.name for item in fields(cls)])
        parameters = dict(content)
        if "ranges" in parameters:
            ranges = parameters["ranges"]
            check_entries("ranges", ranges, allowed=tissue_properties())
            for name, values in ranges.items():
                check_entries(
                    f"the range of {name}", values,
                    allowed=[item.name for item in fields(PropertyRange)],
                    required=["low", "high"],
                )  # fmt: skip
            parameters["ranges"] = {
                name: _named_range(name, values) for name, values in ranges.items()
            }
        if isinstance(parameters.get("nuisances"), Mapping):
            parameters["nuisances"] = Nuisances.from_dict(parameters["nuisances"])
        if isinstance(parameters.get("n_compartments"), list):
            parameters["n_compartments"] = tuple(parameters["n_compartments"])
        return cls(**parameters)

    @property
    def max_compartments(self) -> int:
        """Largest compartment count; the tissue table has columns for this many compartments."""
        return max(self.n_compartments)

    @property
    def columns(self) -> list[str]:
        """Column names of the tissue table: T1_1.., T2_1.., (D_1..,) f_1.., and nuisances."""
        names = () if self.nuisances is None else self.nuisances.names
        return [*table_columns(tuple(self.ranges), self.max_compartments), *names]

    def _draw(
        self,
        rng: Generator | Sequence[Generator],
        n_c: NDArray[np.int64],
        out: NDArray[np.float64],
    ) -> None:
        """Fill `out` of shape (n_columns, n_rows), from one generator or one per block of rows."""
        rngs, step = ([rng], n_c.size) if isinstance(rng, Generator) else (rng, BLOCK_ROWS)
        n_compartments = self.max_compartments
        present = np.arange(n_compartments)[:, None] < np.arange(n_compartments + 1)
        # sums and products with a numeric mask take a third of the time of boolean masks
        blank = np.take(np.where(present, 0.0, np.nan), n_c, axis=1)
        one = np.take(present.astype(np.float64), n_c, axis=1)
        law = FRACTION_LAWS[self.fraction_law]
        groups = out.reshape(-1, n_compartments, n_c.size)
        fractions = groups[-1]
        for generator, start in zip(rngs, range(0, n_c.size, step), strict=True):
            rows = slice(start, start + step)
            properties = self.draw_properties(generator, one[:, rows].T)
            for group, drawn in zip(groups[:-1], properties.values(), strict=True):
                np.add(drawn.T, blank[:, rows], out=group[:, rows])
            weights = law.weights(generator, one[:, rows].T)
            np.multiply(weights.T, one[:, rows], out=fractions[:, rows])
        floored_fractions(fractions, n_c, self.min_fraction, axis=0)
        fractions *= one

    def draw_properties(self, rng: RandomDraws, present: Array) -> dict[str, Array]:
        """Draw tissue properties that satisfy the conditions of the prior.

        Parameters
        ----------
        rng : numpy Generator, or an adapter of another library with its methods
            Source of the random numbers.
        present : array of shape (n_samples, n_compartments)
            Positive for a compartment, 0 where a voxel has none.

        Returns
        -------
        dict of str to array of shape (n_samples, n_compartments)
            Values of each property; arbitrary where there is no compartment.

        Raises
        ------
        ValueError
            If almost all draws violate `t2_below_t1`.
        """
        properties = self._draw_each(rng, tuple(present.shape))
        if not self.t2_below_t1:
            return properties
        for _ in range(MAX_REDRAWS):
            rejected = ((present > 0) & (properties["T2"] >= properties["T1"])).any(1)
            n_rejected = int(rejected.sum())
            if not n_rejected:
                return properties
            # redrawing single compartments instead of voxels would not be uniform over the
            # allowed combinations
            redrawn = self._draw_each(rng, (n_rejected, present.shape[1]))
            for name, values in redrawn.items():
                properties[name][rejected] = values
        raise ValueError(
            "t2_below_t1 leaves too little of the ranges of T1 and T2: no valid voxels after "
            f"{MAX_REDRAWS} draws"
        )

    def _draw_each(self, rng: RandomDraws, size: tuple[int, int]) -> dict[str, Array]:
        return {
            name: values.sample(rng, size)
            if self.with_replacement
            else values.sample_distinct(rng, size)
            for name, values in self.ranges.items()
        }

    @property
    def _other_fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, f.name) for f in fields(self) if f.name != "ranges")

    def __getstate__(self) -> dict[str, Any]:
        # plain types: a mappingproxy can neither be pickled nor stored by skops
        state = {f.name: getattr(self, f.name) for f in fields(self)}
        state["ranges"] = dict(self.ranges)
        nuisances = state.pop("nuisances")
        if nuisances is not None:
            state["nuisances"] = nuisances.to_dict()
        further = contrasts_beyond(tissue=self.ranges)
        return state if further is None else state | {"registered": further}

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore_contrasts(state.get("registered", ()))
        parameters = {name: value for name, value in state.items() if name != "registered"}
        if "nuisances" in parameters:
            parameters["nuisances"] = Nuisances.from_dict(parameters["nuisances"])
        TissuePrior.__init__(self, **parameters)

    def __repr__(self) -> str:
        # checkpoints hold the text of a prior, which must not change where nothing has changed
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.nuisances is None:
            del given["nuisances"]
        text = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return f"TissuePrior({text})"

    def __hash__(self) -> int:
        # consistent with equality: the order of the ranges does not matter
        return hash((frozenset(self.ranges.items()), *self._other_fields))


_NAMED_PRIORS = {
    "midl2024": TissuePrior(),
    "t1t2-detr": TissuePrior(
        ranges={
            "T1": PropertyRange(50.0, 3500.0, scale="log"),
            "T2": PropertyRange(5.0, 500.0, scale="log"),
        },
        n_compartments=(1, 2, 3),
        t2_below_t1=True,
    ),
}


def resolve_prior(prior: SampledPrior | str) -> TissuePrior:
    """Return a prior, given the prior or its name.

    Parameters
    ----------
    prior : TissuePrior or str
        A prior, or the name of a prior; see :meth:`TissuePrior.named`.

    Returns
    -------
    TissuePrior
        The prior.

    Raises
    ------
    TypeError
        If `prior` is neither a prior of compartments nor a name.
    """
    if isinstance(prior, TissuePrior):
        return prior
    if isinstance(prior, str):
        return TissuePrior.named(prior)
    raise TypeError(
        f"prior must be a TissuePrior or the name of a prior ({', '.join(_NAMED_PRIORS)}), "
        f"got {type(prior).__name__}"
    )
