"""Maps of compartments with intervals, of any estimator that predicts them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from corrsk._utils.counts import as_counts
from corrsk.acquisition.compatibility import compare_protocols
from corrsk.imaging import MeasuredImages
from corrsk.imaging.images import Slab
from corrsk.workflows.mapping.mapper import (
    Mapper,
    Maps,
    compartment_specs,
    in_unit,
    refuse_complex,
)

COVERAGE = 0.9
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
        percent = f"{100 * COVERAGE:g} % interval"
        self.specs = [
            *self._count_specs(),
            *compartment_specs(
                self._properties, self._largest,
                {"lower": f"Lower limit of the {percent} of {{}}",
                 "upper": f"Upper limit of the {percent} of {{}}"},
            ),
        ]  # fmt: skip

    def prepare(self, sample: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Predict probabilities of the sample, for the warnings of the model."""
        self._model.predict_proba(sample[:, self.order])

    def compute(self, slab: Slab) -> Maps:
        """Compute the maps of a slab; see :class:`Mapper`."""
        values = slab.signals.to_numpy()[:, self.order]
        maps = self._count_maps(np.asarray(self._model.predict_proba(values)))
        table = self._model.predict(values)
        lower, upper = self._model.predict_interval(values, coverage=COVERAGE)
        for name in self._properties:
            for key, found in (("compartments", table), ("lower", lower), ("upper", upper)):
                maps[f"{name}_{key}"] = in_unit(name, self._columns(found, name))
        maps["fractions"] = np.nan_to_num(self._columns(table, "f"))
        return maps

    def _columns(self, table: pd.DataFrame, name: str) -> NDArray[np.float64]:
        """Values of all compartments, NaN for those that the table lacks."""
        columns = [f"{name}_{k}" for k in range(1, self._largest + 1)]
        return table.reindex(columns=columns).to_numpy(np.float64)
