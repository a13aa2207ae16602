"""Priors of continuous distributions: lobes of a tissue property."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

from corrsk._utils.rng import BLOCK_ROWS
from corrsk._utils.validation import check_entries, check_number, checked_count
from corrsk.tissue.nuisances import Nuisances
from corrsk.tissue.prior import TissuePrior, resolve_prior
from corrsk.tissue.ranges import PropertyRange
from corrsk.tissue.sampling import SampledPrior
from corrsk.tissue.table import table_columns


@dataclass(frozen=True)
class Lobe:
    """Compartment in which a tissue property has a Gaussian distribution.

    Parameters
    ----------
    name : str
        Name, such as "myelin": letters, digits and underscores.
    mean, sd : PropertyRange
        Ranges of the mean and the standard deviation of the property over the voxels.
    fraction : (float, float) or None, default=None
        Smallest and largest signal fraction, uniformly distributed; None for what the other lobes
        of a :class:`LobePrior` leave.

    Raises
    ------
    ValueError
        If the name is no identifier, a range is not one, or the fractions are not ascending within
        0 and 1.
    """

    name: str
    mean: PropertyRange
    sd: PropertyRange
    fraction: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"\w+", self.name):
            raise ValueError(f"the name of a lobe must be letters and digits, got {self.name!r}")
        for key in ("mean", "sd"):
            if not isinstance(getattr(self, key), PropertyRange):
                raise ValueError(
                    f"{key} of the lobe {self.name!r} must be a PropertyRange, got "
                    f"{getattr(self, key)!r}"
                )
        if self.fraction is None:
            return
        pair = self.fraction
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(
                f"fraction of the lobe {self.name!r} must be a pair (smallest, largest) or None, "
                f"got {pair!r}"
            )
        for value in pair:
            check_number(f"fraction of the lobe {self.name!r}", value)
        if not 0 < pair[0] <= pair[1] < 1:
            raise ValueError(
                f"fraction of the lobe {self.name!r} must be ascending between 0 and 1, got {pair}"
            )
        object.__setattr__(self, "fraction", (float(pair[0]), float(pair[1])))


@dataclass(frozen=True)
class LobePrior(SampledPrior):
    """Distribution of voxels with a continuous spectrum of one property: named Gaussian lobes.

    The tissue tables that :meth:`sample` draws have many compartments: the nodes of a
    Gauss-Hermite rule of each lobe, which represent its signal. Generators take them like any
    tissue table; :meth:`lobes_of` gives the lobes of a table.

    Parameters
    ----------
    lobes : sequence of Lobe
        The lobes; one has no fraction, and gets what the others leave.
    tissue_property : str, default="T2"
        Tissue property that is distributed.
    n_nodes : int, default=5
        Number of nodes of each lobe. Five represent its exponential decay to within 3e-6 of M0
        where the standard deviation is at most a fifth of the mean.
    nuisances : Nuisances, optional
        Ranges of nuisance parameters; see :class:`TissuePrior`.

    Attributes
    ----------
    ranges : mapping of str to PropertyRange
        Range of the nodes of all lobes.
    n_compartments : tuple of int
        Number of lobes; the count n_c of each voxel.

    Raises
    ------
    ValueError
        If not exactly one lobe has no fraction, the fractions could exceed 1, two lobes have the
        same name, a lobe could reach values that are not positive, or the values are not plausible
        in ms or um^2/ms.

    Notes
    -----
    Gauss-Hermite: Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, 25.4.46.

    Examples
    --------
    >>> from corrsk.tissue import Lobe, LobePrior, PropertyRange
    >>> short = Lobe("short", PropertyRange(15, 35), PropertyRange(1, 3), (0.05, 0.25))
    >>> long = Lobe("long", PropertyRange(60, 90), PropertyRange(6, 12))
    >>> prior = LobePrior((short, long))
    >>> tissue, _ = prior.sample(2, random_state=0)
    >>> tissue.shape
    (2, 20)
    >>> prior.lobes_of(tissue).round(2).columns.tolist()
    ['f_short', 'T2_short', 'T2_sd_short', 'f_long', 'T2_long', 'T2_sd_long']
    """

    lobes: tuple[Lobe, ...]
    tissue_property: str = "T2"
    n_nodes: int = 5
    nuisances: Nuisances | None = None
    ranges: Mapping[str, PropertyRange] = field(init=False, repr=False, compare=False)
    n_compartments: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.lobes, Sequence) or not self.lobes:
            raise ValueError(f"lobes must be a sequence of Lobe, got {self.lobes!r}")
        lobes = tuple(self.lobes)
        for lobe in lobes:
            if not isinstance(lobe, Lobe):
                raise ValueError(f"each of lobes must be a Lobe, got {lobe!r}")
        names = [lobe.name for lobe in lobes]
        if len(set(names)) < len(names):
            raise ValueError(f"the names of lobes must differ, got {', '.join(names)}")
        given = [lobe.fraction for lobe in lobes if lobe.fraction is not None]
        if len(given) != len(lobes) - 1:
            raise ValueError(
                f"one lobe must have no fraction, so that the fractions sum to 1; "
                f"{len(lobes) - len(given)} of {len(lobes)} lobes have none"
            )
        if not sum(high for _, high in given) < 1:
            raise ValueError(
                "the largest fractions must sum to less than 1, got "
                f"{sum(high for _, high in given):g}"
            )
        checked_count("n_nodes", self.n_nodes, at_least=1)
        if self.nuisances is not None and not isinstance(self.nuisances, Nuisances):
            raise ValueError(f"nuisances must be Nuisances or None, got {self.nuisances!r}")
        reach = float(self._rule[0].max())
        for lobe in lobes:
            lowest = lobe.mean.low - reach * lobe.sd.high
            if not lowest > 0:
                raise ValueError(
                    f"the lobe {lobe.name!r} reaches a {self.tissue_property} of {lowest:.3g}: its "
                    f"mean must exceed {reach:.3g} standard deviations, or n_nodes be smaller"
                )
        span = PropertyRange(
            min(lobe.mean.low - reach * lobe.sd.high for lobe in lobes),
            max(lobe.mean.high + reach * lobe.sd.high for lobe in lobes),
        )
        # as a range of a prior, which knows the properties and their units
        TissuePrior(ranges={self.tissue_property: span}, nuisances=self.nuisances)
        object.__setattr__(self, "lobes", lobes)
        object.__setattr__(self, "ranges", {self.tissue_property: span})
        object.__setattr__(self, "n_compartments", (len(lobes),))

    @property
    def _rule(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Nodes and weights for the standard normal distribution."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(self.n_nodes)
        return nodes, weights / weights.sum()

    @property
    def columns(self) -> list[str]:
        """Column names of the tissue table: T2_1.., f_1.. of the nodes, and nuisances."""
        names = () if self.nuisances is None else self.nuisances.names
        return [*table_columns((self.tissue_property,), self.n_nodes * len(self.lobes)), *names]

    def lobes_of(self, tissue: pd.DataFrame) -> pd.DataFrame:
        """Fraction, mean and standard deviation of each lobe of a tissue table.

        Parameters
        ----------
        tissue : DataFrame of n_samples rows
            Tissue table that :meth:`sample` has drawn, or a part of its rows.

        Returns
        -------
        DataFrame of n_samples rows
            Columns f_short, T2_short, T2_sd_short, .. of lobes with the name short, .., in ms.

        Raises
        ------
        ValueError
            If the table lacks columns.
        """
        missing = [name for name in self.columns if name not in tissue]
        if missing:
            raise ValueError(
                f"the tissue table is none of this prior; it lacks {', '.join(missing[:3])}"
            )
        n_values = 2 * self.n_nodes * len(self.lobes)
        shape = (len(tissue), 2, len(self.lobes), self.n_nodes)
        values, fractions = np.moveaxis(
            tissue[self.columns[:n_values]].to_numpy(np.float64).reshape(shape), 1, 0
        )
        total = fractions.sum(axis=-1)
        mean = (fractions * values).sum(axis=-1) / total
        square = (fractions * (values - mean[..., None]) ** 2).sum(axis=-1) / total
        table = {}
        for number, lobe in enumerate(self.lobes):
            table[f"f_{lobe.name}"] = total[:, number]
            table[f"{self.tissue_property}_{lobe.name}"] = mean[:, number]
            table[f"{self.tissue_property}_sd_{lobe.name}"] = np.sqrt(square[:, number])
        return pd.DataFrame(table, index=tissue.index)

    def _draw(
        self,
        rng: Generator | Sequence[Generator],
        n_c: NDArray[np.int64],
        out: NDArray[np.float64],
    ) -> None:
        rngs, step = ([rng], n_c.size) if isinstance(rng, Generator) else (rng, BLOCK_ROWS)
        nodes, weights = self._rule
        values, fractions = out.reshape(2, len(self.lobes), self.n_nodes, -1)
        for generator, start in zip(rngs, range(0, n_c.size, step), strict=True):
            rows = slice(start, min(start + step, n_c.size))
            size = (rows.stop - rows.start,)
            remainder, rest = np.ones(size), None
            for number, lobe in enumerate(self.lobes):
                mean, sd = lobe.mean.sample(generator, size), lobe.sd.sample(generator, size)
                values[number, :, rows] = mean + nodes[:, None] * sd
                if lobe.fraction is None:
                    rest = number
                    continue
                fraction = generator.uniform(*lobe.fraction, size)
                fractions[number, :, rows] = weights[:, None] * fraction
                remainder -= fraction
            fractions[rest, :, rows] = weights[:, None] * remainder

    def to_dict(self) -> dict[str, Any]:
        """Convert the prior to plain values, for files.

        Returns
        -------
        dict
            The parameters; each lobe and range as the dict of its parameters.
        """
        return {
            "lobes": [
                {"name": lobe.name, "mean": _plain(lobe.mean), "sd": _plain(lobe.sd)}
                | ({} if lobe.fraction is None else {"fraction": list(lobe.fraction)})
                for lobe in self.lobes
            ],
            "tissue_property": self.tissue_property,
            "n_nodes": self.n_nodes,
        } | ({} if self.nuisances is None else {"nuisances": self.nuisances.to_dict()})

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LobePrior:
        """Create the prior that :meth:`to_dict` converted.

        Parameters
        ----------
        content : mapping
            The parameters; those that are missing have their defaults.

        Returns
        -------
        LobePrior
            The prior.

        Raises
        ------
        ValueError
            If there is an unknown or missing parameter, or the parameters are invalid.
        """
        allowed = [item.name for item in fields(cls) if item.init]
        check_entries("a prior of lobes", content, allowed=allowed, required=["lobes"])
        parameters = dict(content)
        if not isinstance(parameters["lobes"], (list, tuple)):
            raise ValueError(f"lobes must be a list, got {parameters['lobes']!r}")
        lobes = []
        for entry in parameters["lobes"]:
            check_entries(
                "a lobe", entry, allowed=[item.name for item in fields(Lobe)],
                required=["name", "mean", "sd"],
            )  # fmt: skip
            ranges = {key: _range(f"{key} of a lobe", entry[key]) for key in ("mean", "sd")}
            lobes.append(Lobe(**dict(entry) | ranges))
        parameters["lobes"] = tuple(lobes)
        if isinstance(parameters.get("nuisances"), Mapping):
            parameters["nuisances"] = Nuisances.from_dict(parameters["nuisances"])
        return cls(**parameters)


def _plain(values: PropertyRange) -> dict[str, Any]:
    return {key: value for key, value in asdict(values).items() if key != "units"}


def _range(name: str, content: Any) -> PropertyRange:
    allowed = [item.name for item in fields(PropertyRange)]
    check_entries(name, content, allowed=allowed, required=["low", "high"])
    return PropertyRange(**content)


def sampled_prior(prior: SampledPrior | str) -> SampledPrior:
    """Return a prior for simulation, given the prior or the name of a tissue prior.

    Parameters
    ----------
    prior : TissuePrior, LobePrior or str
        A prior, or the name of a prior; see :meth:`TissuePrior.named`.

    Returns
    -------
    TissuePrior or LobePrior
        The prior.

    Raises
    ------
    TypeError
        If `prior` is neither a prior nor a name.
    """
    return prior if isinstance(prior, SampledPrior) else resolve_prior(prior)


def sampled_prior_from_dict(content: Mapping[str, Any]) -> SampledPrior:
    """Create a prior from its plain values: a LobePrior if there are lobes, else a TissuePrior.

    Parameters
    ----------
    content : mapping
        Parameters; see the methods `to_dict` of the priors.

    Returns
    -------
    TissuePrior or LobePrior
        The prior.

    Raises
    ------
    ValueError
        If there is an unknown parameter, or the parameters are invalid.
    """
    of_lobes = isinstance(content, Mapping) and "lobes" in content
    return (LobePrior if of_lobes else TissuePrior).from_dict(content)
