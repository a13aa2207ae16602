"""Maps of compartments with intervals, of regressors and other estimators that predict them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from corrsk._utils.counts import as_counts
from corrsk._utils.wording import worded
from corrsk.acquisition.compatibility import compare_protocols
from corrsk.imaging import MeasuredImages
from corrsk.imaging.images import Slab
from corrsk.trained.expectation import MeasuredSignalWarning
from corrsk.trained.modes import CompartmentModes
from corrsk.trained.posterior import TOLERANCE, CompartmentPosterior
from corrsk.trained.regressor import CompartmentRegressor
from corrsk.workflows.mapping.mapper import (
    Mapper,
    Maps,
    compartment_specs,
    in_unit,
    refuse_complex,
)
from corrsk.workflows.mapping.outputs import Appearance, MapSpec
from corrsk.workflows.mapping.simulated import SimulationMapper

COVERAGE = 0.9
_N_TRIED = 300  # voxels of a sample whose posterior is found before the maps, for the warnings
_VOXELS_OF_A_THREAD = 512  # at a time: their draws need about 100 kB each
_METHODS = ("predict", "predict_proba", "predict_interval")


def has_intervals(estimator: Any) -> bool:
    """Return whether an estimator has the methods that :class:`CompartmentMapper` calls."""
    return all(callable(getattr(estimator, name, None)) for name in _METHODS)


class CompartmentMapper(Mapper):
    """Maps of compartments with intervals.

    Parameters
    ----------
    model : estimator
        Fitted estimator with `protocol_`, `classes_` (the counts in the order of the
        probabilities), and of signals X the methods ``predict(X)``, a tissue table (T1_1, .., f_1,
        .. in ms and um^2/ms; absent compartments have f = 0 and NaN properties),
        ``predict_proba(X)``, and ``predict_interval(X, coverage=)``, two such tables with the lower
        and the upper limits. Optionally `prior`, for the comparison of the protocols.
    images : MeasuredImages
        Images of the subject.
    n_jobs : int
        Number of threads, for a model with such a parameter.

    Raises
    ------
    ValueError
        If the images have another protocol than the model, or are complex.
    """

    def __init__(self, model: Any, images: MeasuredImages, n_jobs: int) -> None:
        refuse_complex(images, "the model is")
        prior = getattr(model, "prior", "t1t2-detr")
        self.order = compare_protocols(model.protocol_, images.protocol, prior=prior).check()
        self._model = copy.copy(model)
        if "n_jobs" in model.get_params():
            self._model.set_params(n_jobs=n_jobs)
        self.classes, self.notes = np.asarray(model.classes_), []
        self._largest = int(as_counts(self.classes).max())
        self._properties = model.protocol_.tissue_properties
        self.settings = {"counts": self.classes.tolist(), "coverage": COVERAGE}
        self.specs = [*self._count_specs(), *_interval_specs(self._properties, self._largest)]

    def prepare(self, sample: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Predict probabilities of the sample, for the warnings of the model."""
        self._model.predict_proba(sample[:, self.order])

    def compute(self, slab: Slab) -> Maps:
        """Compute the maps of a slab; see :class:`Mapper`."""
        values = slab.signals.to_numpy()[:, self.order]
        maps = self._count_maps(np.asarray(self._model.predict_proba(values)))
        table = self._model.predict(values)
        ends = self._model.predict_interval(values, coverage=COVERAGE)
        return {
            **maps,
            **_table_maps(self._properties, self._largest, table),
            **_limit_maps(self._properties, self._largest, *ends),
        }


def _interval_specs(properties: Sequence[str], largest: int) -> list[MapSpec]:
    """Maps of compartments and of the limits of their intervals."""
    percent = f"{100 * COVERAGE:g} % interval"
    spreads = {
        "lower": f"Lower limit of the {percent} of {{}}",
        "upper": f"Upper limit of the {percent} of {{}}",
    }
    return compartment_specs(properties, largest, spreads)


def _table_maps(properties: Sequence[str], largest: int, table: pd.DataFrame) -> Maps:
    """Values of the maps of compartments from a tissue table."""
    maps = {
        f"{name}_compartments": in_unit(name, _columns(table, name, largest)) for name in properties
    }
    return maps | {"fractions": np.nan_to_num(_columns(table, "f", largest))}


def _limit_maps(
    properties: Sequence[str], largest: int, lower: pd.DataFrame, upper: pd.DataFrame
) -> Maps:
    """Values of the maps of limits from tissue tables."""
    return {
        f"{name}_{key}": in_unit(name, _columns(found, name, largest))
        for name in properties
        for key, found in (("lower", lower), ("upper", upper))
    }


def _columns(table: pd.DataFrame, name: str, largest: int) -> NDArray[np.float64]:
    """Values of all compartments, NaN for those that the table lacks."""
    columns = [f"{name}_{k}" for k in range(1, largest + 1)]
    return table.reindex(columns=columns).to_numpy(np.float64)


class RegressorMapper(SimulationMapper):
    """Maps of a regressor of compartments: the posterior of each voxel, computed once.

    Parameters
    ----------
    model : CompartmentRegressor
        The fitted model.
    images : MeasuredImages
        Images of the subject.
    n_jobs : int
        Number of threads.
    n_draws, max_rounds : int or None, default=None
        Parameters of the model for these maps; None for those of the model. With 0 draws, or a
        model with ``method="laplace"``, the maps are those of the modes of the posterior: without
        intervals.

    Raises
    ------
    ProtocolMismatchError
        If the images have another protocol; a ValueError.
    ValueError
        If the images are complex, or a parameter is invalid.
    """

    _model: CompartmentRegressor

    def __init__(
        self,
        model: CompartmentRegressor,
        images: MeasuredImages,
        n_jobs: int,
        n_draws: int | None = None,
        max_rounds: int | None = None,
    ) -> None:
        super().__init__(model, images, n_jobs)
        method = None if n_draws is None else "sampling" if n_draws else "laplace"
        given = {"n_draws": n_draws or None, "max_rounds": max_rounds, "method": method}
        self._model.set_params(
            n_jobs=n_jobs, verbose=False,
            **{name: value for name, value in given.items() if value is not None},
        )  # fmt: skip
        self._model._validate_params()
        self._n_at_a_time = _VOXELS_OF_A_THREAD * n_jobs
        self._properties = self._model.protocol_.tissue_properties
        self._largest = int(as_counts(self.classes).max())
        self.settings |= {
            "counts": self.classes.tolist(), "method": self._model.method
        }  # fmt: skip
        self._has_draws = self._model.method == "sampling"
        specs = _posterior_specs(self._largest)
        if self._has_draws:
            self.settings |= {
                "coverage": COVERAGE, "n_draws": self._model.n_draws,
                "max_rounds": self._model.max_rounds,
            }  # fmt: skip
            specs += _interval_specs(self._properties, self._largest)
        else:
            specs = [each for each in specs if each.key != "degenerate"]
            specs += compartment_specs(self._properties, self._largest, {})
            self.notes.append(
                "no intervals: the compartments are those of the modes of the posterior, without "
                "draws"
            )
        self.specs = [*self._count_specs(), *specs, *self.specs]

    def prepare(self, sample: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Find the posterior of some voxels, for warnings; see :class:`Mapper`."""
        few = sample[:: -(-len(sample) // _N_TRIED)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a note has their share
            unreliable = ~_reliable(self._found(few))
        if unreliable.any():
            why, remedy = (
                (
                    "few draws have most of the weight",
                    "more draws need more time: " + worded("n_draws=1024", "--draws 1024"),
                )
                if self._has_draws
                else (
                    "no mode was found that explains the signal",
                    "draws may find one: " + worded("n_draws=256", "--draws 256"),
                )
            )
            self.notes.append(
                f"the posterior of about {unreliable.mean():.1%} of the voxels is unreliable, "
                f"because {why}, or the signal has the opposite sign: see the map unreliable; "
                + remedy
            )

    def _found(self, signals: NDArray[Any]) -> CompartmentPosterior | CompartmentModes:
        model = self._model
        return model.posterior(signals) if self._has_draws else model.modes(signals)

    def compute(self, slab: Slab) -> Maps:
        """Compute the maps of a slab; see :class:`Mapper`."""
        signals, step = slab.signals.to_numpy(), self._n_at_a_time
        parts = []
        for start in range(0, len(signals), step):
            with warnings.catch_warnings():
                # a part of a slab need not be like the training; the sample of all voxels was
                # compared with it
                warnings.simplefilter("ignore", MeasuredSignalWarning)
                warnings.simplefilter("ignore", ConvergenceWarning)
                posterior = self._found(signals[start : start + step])
            parts.append(self._maps_of(posterior))
        maps = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        return maps | self._single_voxel_maps(signals)

    def _maps_of(self, posterior: CompartmentPosterior | CompartmentModes) -> Maps:
        table = posterior.table()
        numbers = range(1, self._largest + 1)
        maps = {
            **self._count_maps(posterior.probabilities),
            "confidence": table["confidence"].to_numpy(),
            "confidences": table[[f"confidence_{k}" for k in numbers]].to_numpy(),
            "M0": table["scale"].to_numpy(),
            "unreliable": (~_reliable(posterior, table)).astype(np.uint8),
            **_table_maps(self._properties, self._largest, table),
        }
        if isinstance(posterior, CompartmentPosterior):
            ends = posterior.interval(COVERAGE)
            maps["degenerate"] = posterior.degenerate.astype(np.uint8)
            maps |= _limit_maps(self._properties, self._largest, *ends)
        return maps


def _reliable(
    posterior: CompartmentPosterior | CompartmentModes, table: pd.DataFrame | None = None
) -> NDArray[np.bool_]:
    """Whether the posterior of a voxel was found, and has a possible scale.

    A signal of the opposite sign is explained best by a scale of 0 or less, which no tissue has.
    """
    table = posterior.table() if table is None else table
    return np.asarray(posterior.reliable & (table["scale"].to_numpy() > 0))


def _posterior_specs(largest: int) -> list[MapSpec]:
    """Maps of the posterior of each voxel besides its compartments."""
    percent = f"{100 * TOLERANCE:g} %"
    return [
        MapSpec(
            "confidence", "desc-confidence_probseg",
            "Probability that the number of compartments is right, and all are within "
            f"{percent} of the logarithmic range of each property.",
            entries={"Units": "1"}, shown=Appearance("confidence", kind="probability"),
        ),
        MapSpec(
            "confidences", "desc-compartmentconfidence_probseg",
            f"Probability that the tissue has a compartment within {percent} of the logarithmic "
            "range of each property around each compartment, along the fourth axis.",
            n_maps=largest, entries={"Units": "1"},
        ),
        MapSpec(
            "M0", "desc-compartments_M0map", "Signal of all compartments without relaxation.",
            entries={"Units": "arbitrary"}, shown=Appearance("M0"),
        ),
        MapSpec(
            "unreliable", "desc-unreliable_mask",
            "1 where the posterior was not found, because few draws have most of the weight or the "
            "search for a mode failed, or where no compartments explain the sign of the signal.",
            "uint8",
            shown=Appearance("unreliable", kind="mask"),
        ),
        MapSpec(
            "degenerate", "desc-degenerate_mask",
            f"1 where the {100 * COVERAGE:g} % interval of a property covers more than half of "
            "its logarithmic range.", "uint8", shown=Appearance("degenerate", kind="mask"),
        ),
    ]  # fmt: skip
