"""Maps of Pipelines: compartment counts of an aligner, further steps and a classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from corrsk._utils.counts import as_counts
from corrsk.acquisition.labels import signals_table
from corrsk.imaging import MeasuredImages, SignalMasker
from corrsk.imaging.images import Slab
from corrsk.preprocessing.aligner import ProtocolAligner
from corrsk.preprocessing.phaser import SignalPhaser
from corrsk.workflows.mapping.mapper import Mapper, Maps, refuse_complex


def without_masker(estimator: Any) -> Any:
    """Remove the masker of a Pipeline from images, whose rows of signals pass it unchanged.

    Parameters
    ----------
    estimator : estimator
        Any estimator.

    Returns
    -------
    estimator
        The Pipeline of the other steps, or the only other step; another estimator as it is.
    """
    if not isinstance(estimator, Pipeline) or not isinstance(estimator[0], SignalMasker):
        return estimator
    steps = estimator.steps[1:]
    return steps[0][1] if len(steps) == 1 else type(estimator)(steps)


def check_pipeline(pipeline: Pipeline, name: str) -> None:
    """Check that a Pipeline compares protocols and predicts probabilities of counts.

    Parameters
    ----------
    pipeline : Pipeline
        The fitted Pipeline, without a masker.
    name : str
        Its name in messages.

    Raises
    ------
    ValueError
        If it lacks a :class:`corrsk.ProtocolAligner`, or a classifier with probabilities of
        compartment counts.
    """
    kind = type(pipeline[-1]).__name__
    if not any(_aligns(step) for _, step in pipeline.steps):
        raise ValueError(
            f"{name} is a Pipeline without a ProtocolAligner, so that its protocol cannot be "
            "compared with that of the images; add a ProtocolAligner in front of the classifier"
        )
    if not hasattr(pipeline, "predict_proba"):
        raise ValueError(
            f"{name} is a Pipeline that ends in a {kind}, which predicts no probabilities; its "
            "last step must be a classifier with predict_proba"
        )
    try:
        as_counts(pipeline.classes_)
    except ValueError as error:
        raise ValueError(f"{name} is a Pipeline whose classes are no counts: {error}") from error


class PipelineMapper(Mapper):
    """Maps of a Pipeline of an aligner, further steps and a classifier of counts.

    Parameters
    ----------
    model : Pipeline
        The fitted Pipeline, without a masker; see :func:`check_pipeline`.
    images : MeasuredImages
        Images of the subject.

    Raises
    ------
    ProtocolMismatchError
        If the images have another protocol; a ValueError.
    ValueError
        If the images are complex, and no :class:`corrsk.SignalPhaser` is in front.
    """

    def __init__(self, model: Pipeline, images: MeasuredImages) -> None:
        if not any(isinstance(step, SignalPhaser) for _, step in model.steps):
            refuse_complex(images, "the model is")
        self._protocol = images.protocol
        self._model = type(model)(
            [
                (name, step.matched_to(images.protocol) if _aligns(step) else step)
                for name, step in model.steps
            ]
        )
        self.classes = as_counts(model.classes_)
        self.settings = {"steps": [type(step).__name__ for _, step in model.steps]}
        self.notes = ["maps of the counts only: the model is a Pipeline"]
        self.specs = self._count_specs()

    def prepare(self, sample: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Predict probabilities of the sample, for the warnings of the steps."""
        self._probabilities(sample)

    def compute(self, slab: Slab) -> Maps:
        """Compute the maps of a slab; see :class:`Mapper`."""
        return self._count_maps(self._probabilities(slab.signals.to_numpy()))

    def _probabilities(self, signals: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(self._model.predict_proba(signals_table(signals, self._protocol)))


def protocol_of_pipeline(pipeline: Pipeline) -> Any:
    """Protocol for which the aligner of a Pipeline was made."""
    return next(step for _, step in pipeline.steps if _aligns(step)).protocol_


def _aligns(step: Any) -> bool:
    return isinstance(step, ProtocolAligner)
