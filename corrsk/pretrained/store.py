"""Read pretrained models, and write new ones.

A model consists of two files in one folder: `<name>.safetensors`, which
:func:`corrsk.load` can read, too, and its card `<name>.json`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, overload

from corrsk._utils.files import InvalidFileError, existing_file, refuse_misfits, sha256_of
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.persistence import load, save
from corrsk.pretrained.cards import ModelCard, facts_of, steps_of
from corrsk.simulation.definition import DatasetDefinition
from corrsk.trained.classifier import SimulationTrainedClassifier
from corrsk.trained.regressor import CompartmentRegressor

SHIPPED_FOLDER = Path(__file__).with_name("weights")


def pretrained_names(folder: str | Path | None = None) -> list[str]:
    """List the pretrained models in a folder.

    Parameters
    ----------
    folder : path-like, optional
        Folder of the models; None (default) for the models shipped with corrsk.

    Returns
    -------
    list of str
        Names for :func:`load_pretrained`.
    """
    where = SHIPPED_FOLDER if folder is None else Path(folder)
    return sorted(path.stem for path in where.glob("*.safetensors"))


def model_card(name: str, folder: str | Path | None = None) -> ModelCard:
    """Return the card of a pretrained model: training data, performance and limits.

    Parameters
    ----------
    name : str
        Name of the model; see :func:`load_pretrained`.
    folder : path-like, optional
        Folder of the model; None (default) for the models shipped with corrsk.

    Returns
    -------
    ModelCard
        The card; `print` shows the card as Markdown.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the available names.
    """
    return ModelCard.from_json(_weights_file(name, folder).with_suffix(".json"))


_Counts = Literal[
    "scanner-ir-se-8x8-magnitude", "scanner-ir-se-8x8", "midl2024", "midl2024-low-noise",
    "t1t2-detr", "t1t2-detr-m0",
]  # fmt: skip


@overload
def load_pretrained(
    name: _Counts, protocol: AcquisitionProtocol | str | None = ..., *, folder: None = ...
) -> SimulationTrainedClassifier: ...
@overload
def load_pretrained(
    name: Literal["scanner-ir-se-8x8-compartments"],
    protocol: AcquisitionProtocol | str | None = ..., *, folder: None = ...,
) -> CompartmentRegressor: ...  # fmt: skip
@overload
def load_pretrained(
    name: str, protocol: AcquisitionProtocol | str | None = ..., *, folder: str | Path | None = ...
) -> Any: ...


def load_pretrained(
    name: str,
    protocol: AcquisitionProtocol | str | None = None,
    *,
    folder: str | Path | None = None,
) -> Any:
    """Load a pretrained model, ready for `predict` and `predict_proba`.

    Parameters
    ----------
    name : {"scanner-ir-se-8x8-magnitude", "scanner-ir-se-8x8", "scanner-ir-se-8x8-compartments", \
            "midl2024", "midl2024-low-noise", "t1t2-detr", "t1t2-detr-m0"}
        Name of the model: that of its training data, for signals of any scale. Those of "scanner"
        are for measured signals, magnitudes or signed ones; the others are for simulated signals
        of perfect pulses. "scanner-ir-se-8x8-compartments" predicts the compartments of signed
        signals, the others their number. "t1t2-detr-m0" is for signals with M0 = 1, as those of
        the data set "t1t2-detr".
    protocol : AcquisitionProtocol or str, optional
        Protocol of the columns of the signals, in their order. None (default) for a DataFrame with
        column names (TI50_TE4.5, ..) in any order, or for an array of the trained protocol, in its
        order: of such an array only the number of columns is compared.
    folder : path-like, optional
        Folder of the model; None (default) for the models shipped with corrsk.

    Returns
    -------
    SimulationTrainedClassifier or CompartmentRegressor
        Fitted classifier, or regressor of the compartments, for signals, volumes, and voxels
        without signal. A model with a norm takes noisy signals of any scale; a model without a norm
        takes signals of M0 = 1, and refuses signals that cannot have M0 = 1. Of the shipped models,
        those of "scanner" have a novelty detector; see
        :meth:`corrsk.SimulationTrainedClassifier.fit_novelty` for the others.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the available names.
    InvalidFileError
        If the card or the weights are damaged, or do not match; a ValueError.
    ProtocolMismatchError
        If the protocol differs from the trained one; a ValueError.

    Warns
    -----
    ProtocolWarning
        If the protocol is close to the trained one. The warning gives the differences, and of a
        classifier the loss of accuracy, measured on simulated voxels.

    Examples
    --------
    >>> from corrsk import load_pretrained, make_correlation_signals
    >>> X, y = make_correlation_signals(4, random_state=0)
    >>> model = load_pretrained("midl2024", "ir-se-8x8")  # doctest: +SKIP
    >>> model.predict_proba(X).shape  # doctest: +SKIP
    (4, 4)
    """
    path = _weights_file(name, folder)
    card = model_card(name, folder)
    if sha256_of(path) != card.weights.get("sha256"):
        raise InvalidFileError(f"the weights in {path} do not match the checksum of the model card")
    model = load(path)
    if not isinstance(model, (SimulationTrainedClassifier, CompartmentRegressor)):
        # files of earlier versions
        with refuse_misfits(path, "a pretrained model"):
            model = _with_definition(name, model, card.training["signals"])
    return model if protocol is None else model.matched_to(protocol)


def write_pretrained(
    model: SimulationTrainedClassifier | CompartmentRegressor,
    card: ModelCard,
    folder: str | Path,
    *,
    half_precision: bool = False,
) -> Path:
    """Write a model for :func:`load_pretrained`: `<name>.safetensors` and `<name>.json`.

    Parameters
    ----------
    model : SimulationTrainedClassifier or CompartmentRegressor
        Fitted model; or a fitted Pipeline of ProtocolAligner, SignalNormalizer and a network
        classifier.
    card : ModelCard
        Card of the model; the entry `weights` is added to the file.
    folder : path-like
        An existing folder.
    half_precision : bool, default=False
        Whether to store weight matrices in half precision; see :func:`corrsk.save`.

    Returns
    -------
    Path
        The file with the weights.

    Raises
    ------
    TypeError
        If the model is none of these.
    ValueError
        If the card describes another prior, protocol, noise, norm or network.
    """
    facts = facts_of(model)  # the card may have further entries on the network
    told = {**vars(card), "network": {key: card.network.get(key) for key in facts["network"]}}
    wrong = [key for key, value in facts.items() if told[key] != value]
    if wrong:
        raise ValueError(f"the model card does not match the model: {', '.join(wrong)} differ")
    path = Path(folder) / f"{card.name}.safetensors"
    save(model, path, half_precision=half_precision)
    weights = {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "precision": "half" if half_precision else "single",
    }
    dataclasses.replace(card, weights=weights).to_json(path.with_suffix(".json"))
    return path


def _weights_file(name: str, folder: str | Path | None) -> Path:
    where = SHIPPED_FOLDER if folder is None else Path(folder)
    known = pretrained_names(where)
    if name not in known:
        raise ValueError(
            f"unknown pretrained model {name!r}; known models: {', '.join(known) or 'none'}"
            + ("; pass folder= for a model of your own" if folder is None else f", in {where}")
        )
    return existing_file(where / f"{name}.safetensors")


def _with_definition(name: str, pipeline: Any, n_samples: int) -> SimulationTrainedClassifier:
    """Convert the pipeline of an earlier version, whose aligner holds the training data."""
    aligner, _, network = steps_of(pipeline)
    levels: Any = aligner.noise_level
    definition = DatasetDefinition(
        name, aligner.prior, aligner.protocol, levels, aligner.noise_reference, norm=aligner.norm,
        noise_distribution=aligner.noise_distribution,
        inversion_efficiency=aligner.inversion_efficiency, n_coils=aligner.n_coils,
    )  # fmt: skip
    return SimulationTrainedClassifier.from_network(definition, network, n_samples=n_samples)
