"""Read pretrained models, and write new ones.

A model consists of two files in one folder: `<name>.safetensors`, which
:func:`corrsk.load` can read, too, and its card `<name>.json`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.pipeline import Pipeline

from corrsk._utils.files import existing_file
from corrsk.acquisition.compatibility import ProtocolComparison
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.neural._base import NetworkClassifier
from corrsk.persistence import load, save
from corrsk.preprocessing.aligner import ProtocolAligner
from corrsk.preprocessing.normalizer import SignalNormalizer
from corrsk.preprocessing.pipeline import SignalPipeline
from corrsk.pretrained.cards import ModelCard, facts_of, steps_of
from corrsk.simulation.definition import DatasetDefinition
from corrsk.simulation.generator import CorrelationSignalGenerator
from corrsk.tissue.prior import resolve_prior

SHIPPED_FOLDER = Path(__file__).with_name("weights")
_N_JUDGED = 10_000  # voxels for the loss of accuracy on a close protocol


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
    name : {"midl2024", "midl2024-low-noise", "t1t2-detr", "t1t2-detr-m0"}
        Name of the model.
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


def load_pretrained(
    name: str,
    protocol: AcquisitionProtocol | str | None = None,
    *,
    folder: str | Path | None = None,
) -> SignalPipeline:
    """Load a pretrained model, ready for `predict` and `predict_proba`.

    Parameters
    ----------
    name : {"midl2024", "midl2024-low-noise", "t1t2-detr", "t1t2-detr-m0"}
        Name of the model: that of its training data, for signals of any scale. "t1t2-detr-m0" is
        for signals with M0 = 1, as those of the data set "t1t2-detr".
    protocol : AcquisitionProtocol or str, optional
        Protocol of the columns of the signals, in their order. None (default) for a DataFrame with
        column names (TI50_TE4.5, ..) in any order, or for an array of the trained protocol, in its
        order: of such an array only the number of columns is compared.
    folder : path-like, optional
        Folder of the model; None (default) for the models shipped with corrsk.

    Returns
    -------
    SignalPipeline
        Fitted pipeline of :class:`corrsk.ProtocolAligner`, :class:`corrsk.SignalNormalizer` and
        :class:`corrsk.ResidualMLPClassifier`, for signals, volumes, and voxels without signal. A
        model with a norm takes noisy signals of any scale; a model without a norm takes signals of
        M0 = 1, and refuses signals that cannot have M0 = 1.

    Raises
    ------
    ValueError
        If the name is unknown (the message lists the available names), or the
        weights do not match the card.
    ProtocolMismatchError
        If the protocol differs from the trained one; a ValueError.

    Warns
    -----
    ProtocolWarning
        If the protocol is close to the trained one. The warning gives the differences and the
        loss of accuracy, measured on simulated voxels.

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
    if _digest(path) != card.weights.get("sha256"):
        raise ValueError(f"the weights in {path} do not match the checksum of the model card")
    stored = load(path)
    aligner, *_ = steps_of(stored)
    pipeline = SignalPipeline(
        stored.steps, transform_input=stored.transform_input, verbose=stored.verbose
    )
    with config_context(enable_metadata_routing=True):
        # with metadata routing, a Pipeline passes only requested parameters on
        pipeline[-1].set_predict_request(class_prior=True)
        pipeline[-1].set_predict_proba_request(class_prior=True)
    if protocol is None:
        return pipeline
    comparison = aligner.compare(protocol)
    note = _measured_cost(pipeline, comparison) if comparison.verdict == "close" else ""
    pipeline.steps[0] = (
        pipeline.steps[0][0],
        aligner.matched_to(protocol, note=note, stacklevel=2),
    )
    return pipeline


def pretrained_pipeline(
    definition: DatasetDefinition, classifier: NetworkClassifier
) -> SignalPipeline:
    """Create the pipeline of a pretrained model from its fitted classifier.

    Parameters
    ----------
    definition : DatasetDefinition
        Definition of the training data.
    classifier : ResidualMLPClassifier or CorrelationCNNClassifier
        Classifier fitted to signals in the order of the definition's protocol, divided by the
        norm of the definition.

    Returns
    -------
    SignalPipeline
        Fitted pipeline, for :func:`write_pretrained`.
    """
    aligner = ProtocolAligner(
        definition.protocol, prior=definition.prior, noise_level=definition.noise_levels,
        noise_reference=definition.noise_reference, norm=definition.norm,
        inversion_efficiency=definition.inversion_efficiency,
        noise_distribution=definition.noise_distribution, n_coils=definition.n_coils,
    )  # fmt: skip
    # the fits of these steps depend on the number of columns only
    any_signals = np.ones((1, resolve_protocol(definition.protocol).n_measurements))
    steps = (
        aligner.fit(any_signals),
        SignalNormalizer(definition.norm).fit(any_signals),
        classifier,
    )
    pipeline = SignalPipeline([(type(step).__name__.lower(), step) for step in steps])
    # arrays between the steps, which were fitted to arrays, for any global transform_output
    return pipeline.set_output(transform="default")


def write_pretrained(
    pipeline: Pipeline, card: ModelCard, folder: str | Path, *, half_precision: bool = False
) -> Path:
    """Write a model for :func:`load_pretrained`: `<name>.safetensors` and `<name>.json`.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted pipeline of ProtocolAligner, SignalNormalizer and a network classifier.
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
        If the pipeline has other steps.
    ValueError
        If the card describes another prior, protocol, noise, norm or network.
    """
    facts = facts_of(pipeline)  # the card may have further entries on the network
    told = {**vars(card), "network": {key: card.network.get(key) for key in facts["network"]}}
    wrong = [key for key, value in facts.items() if told[key] != value]
    if wrong:
        raise ValueError(f"the model card does not match the pipeline: {', '.join(wrong)} differ")
    path = Path(folder) / f"{card.name}.safetensors"
    save(pipeline, path, half_precision=half_precision)
    weights = {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": _digest(path),
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


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _measured_cost(pipeline: Pipeline, comparison: ProtocolComparison) -> str:
    """Describe the model's loss of accuracy on another protocol, on voxels with the same noise."""
    aligner: ProtocolAligner = pipeline.steps[0][1]
    tissue, n_c = resolve_prior(aligner.prior).sample(_N_JUDGED, 0, verbose=False)

    def is_right(protocol: AcquisitionProtocol, order: Any) -> Any:
        signals = CorrelationSignalGenerator(
            protocol, noise_level=aligner.noise_level, noise_reference=aligner.noise_reference,
            noise_distribution=aligner.noise_distribution,
            inversion_efficiency=aligner.inversion_efficiency, random_state=0, verbose=False,
            n_coils=aligner.n_coils,
        ).fit_transform(tissue)  # fmt: skip
        return pipeline[1:].predict(signals[:, order]) == n_c

    trained = is_right(comparison.trained, slice(None))
    measured = is_right(comparison.measured, list(comparison.order or ()))
    lost = 100 * (trained.astype(float) - measured)
    error = 1.96 * lost.std() / np.sqrt(lost.size)
    return (
        f"On {_N_JUDGED:,} simulated voxels the accuracy of the model is "
        f"{100 * measured.mean():.1f} % with this protocol and {100 * trained.mean():.1f} % with "
        f"the trained protocol: a loss of "
        f"{lost.mean():.2f} +- {error:.2f} percentage points"
    )
