"""The models that are shipped with corrsk: the data and the norm of each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from corrsk._utils.validation import lookup
from corrsk.simulation.datasets import dataset_definition, resolve_dataset
from corrsk.simulation.definition import DatasetDefinition
from corrsk.simulation.streams import SignalStream

COUNTS, COMPARTMENTS = "counts", "compartments"


@dataclass(frozen=True)
class ModelDefinition:
    """Definition of a model: its training data, and the norm of its signals.

    Parameters
    ----------
    name : str
        Name of the model.
    dataset : DatasetDefinition or str
        Data set that the model is trained on, or its name; see :func:`corrsk.load_dataset`.
    norm : {"l2", "rms", "max"} or None
        Norm by which the model divides each signal, in place of that of the data set; None for a
        model of signals with M0 = 1.
    n_samples : int
        Number of training signals.
    kind : {"counts", "compartments"}, default="counts"
        What the model predicts: counts by a :class:`corrsk.SimulationTrainedClassifier`, or the
        compartments by a :class:`corrsk.CompartmentRegressor`.
    """

    name: str
    dataset: DatasetDefinition | str
    norm: str | None
    n_samples: int
    kind: str = COUNTS

    @property
    def data(self) -> DatasetDefinition:
        """Definition of the data set, with the norm of the model."""
        return dataclasses.replace(resolve_dataset(self.dataset), norm=self.norm)

    def stream(self, random_state: int = 0) -> SignalStream:
        """Return the stream of the training signals.

        Parameters
        ----------
        random_state : int, default=0
            Seed.

        Returns
        -------
        SignalStream
            The stream.
        """
        return SignalStream.from_definition(self.data, random_state=random_state)


_N_SAMPLES = 40_000_000  # of models for other data

MODELS: dict[str, ModelDefinition] = {
    model.name: model
    for model in (
        ModelDefinition("midl2024", "midl2024", "l2", 100_000_000),
        ModelDefinition("midl2024-low-noise", "midl2024-low-noise", "l2", 40_000_000),
        ModelDefinition("t1t2-detr", "t1t2-detr", "l2", 40_000_000),
        ModelDefinition("t1t2-detr-m0", "t1t2-detr", None, 40_000_000),
        ModelDefinition("scanner-ir-se-8x8", "scanner-ir-se-8x8", "l2", 40_000_000),
        ModelDefinition(
            "scanner-ir-se-8x8-magnitude", "scanner-ir-se-8x8-magnitude", "l2", 40_000_000
        ),
        ModelDefinition(
            "scanner-ir-se-8x8-compartments", "scanner-ir-se-8x8", "l2", 10_000_000, COMPARTMENTS
        ),
    )
}


def model_definition(name: str) -> ModelDefinition:
    """Return the definition of a shipped model.

    Parameters
    ----------
    name : str
        Name of the model.

    Returns
    -------
    ModelDefinition
        The definition.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the valid names.
    """
    return lookup(MODELS, name, "model")


def resolve_model(model: DatasetDefinition | str) -> ModelDefinition:
    """Return the definition of a model, given the name of a shipped model or other training data.

    Parameters
    ----------
    model : DatasetDefinition or str
        Name of a shipped model; or the definition of training data, whose name and norm are those
        of the model.

    Returns
    -------
    ModelDefinition
        The definition.

    Raises
    ------
    ValueError
        If the name is unknown, or belongs to a shipped model or data set with other data.
    """
    if isinstance(model, str):
        return model_definition(model)
    definition = resolve_dataset(model)
    shipped = MODELS.get(definition.name)
    if shipped is not None and shipped.data != definition:
        raise ValueError(
            f"the name {definition.name!r} belongs to a shipped model; choose a name other than "
            f"{', '.join(MODELS)}"
        )
    return ModelDefinition(definition.name, definition, definition.norm, _N_SAMPLES)


def model_of_dataset(name: str) -> str:
    """Name of the shipped classifier of the very signals of a data set, with the data set's norm.

    Parameters
    ----------
    name : str
        Name of the data set.

    Returns
    -------
    str
        Name of the model: "t1t2-detr-m0" for "t1t2-detr", whose signals have M0 = 1.
    """
    norm = dataset_definition(name).norm
    wanted = (name, norm, COUNTS)
    (model,) = (m.name for m in MODELS.values() if (m.dataset, m.norm, m.kind) == wanted)
    return model
