"""Model cards: training data, performance and limits of a trained model."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from corrsk._utils.files import InvalidFileError, read_json, refuse_misfits, write_json
from corrsk.acquisition.protocol import resolve_protocol
from corrsk.neural._base import NetworkClassifier, NetworkEstimator
from corrsk.physics import CONTRASTS
from corrsk.physics.noise_levels import NoiseLevels, SNRRange, checked_noise_levels
from corrsk.preprocessing.aligner import ProtocolAligner
from corrsk.preprocessing.normalizer import SignalNormalizer
from corrsk.tissue.prior import resolve_prior
from corrsk.trained.classifier import SimulationTrainedClassifier
from corrsk.trained.regressor import CompartmentRegressor

_FORMAT, _VERSION = "corrsk-model-card", 1
_STORED_NAMES = {"norm": "normalization"}  # fields that a file has under another name
_MAPPINGS = {
    "prior", "protocol", "noise", "network", "training", "compute", "metrics", "versions", "weights"
}  # fmt: skip
_VERSIONS_OF = ("corrsk", "torch", "skorch", "scikit-learn", "numpy")


@dataclass(frozen=True)
class ModelCard:
    """Model card: training data, performance and limits of a trained model.

    All values are plain, as in the JSON file beside the weights. Times
    are in ms, diffusivities in um^2/ms.

    Parameters
    ----------
    name : str
        Name of the model.
    title : str
        Purpose of the model in one sentence.
    prior : dict
        Tissue of the training: parameters of :class:`corrsk.TissuePrior`.
    protocol : dict
        Entries `contrasts` (scan parameters by name, one entry per measurement), `tr`,
        `inversion_efficiency` if it is not 1, and `readout` and `series` if there are any.
    noise : dict
        Entries `reference`, `distribution`, `levels` or `snr` (lowest, highest) with `snr_scale`
        if it is "log", and `coils` if there are several.
    norm : str or None
        Norm that signals are divided by.
    network : dict
        Entries `kind`, `n_parameters` and `classes`, among others.
    training : dict
        The `command` that reproduces the training, and further settings of the training.
    compute : dict
        Hardware and duration of the training.
    test_data : str
        Description of the test data of the metrics.
    metrics : dict of str to dict
        For each metric its `value` and the bounds `low` and `high` of its 95 % confidence
        interval.
    limits : tuple of str
        Limits of the model, and conditions without tests.
    versions : dict of str to str
        Versions of the packages used for the training.
    date : str
        Date of the training, such as 2026-01-31.
    weights : dict
        Entries `file`, `bytes`, `sha256` and `precision` of the weights; empty before the weights
        are written.

    Raises
    ------
    ValueError
        If an entry is missing or inconsistent.
    """

    name: str
    title: str
    prior: dict[str, Any]
    protocol: dict[str, Any]
    noise: dict[str, Any]
    norm: str | None
    network: dict[str, Any]
    training: dict[str, Any]
    compute: dict[str, Any]
    test_data: str
    metrics: dict[str, dict[str, float]]
    limits: tuple[str, ...]
    versions: dict[str, str]
    date: str
    weights: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limits: Any = self.limits  # a list in a file
        if isinstance(limits, list) and all(isinstance(each, str) for each in limits):
            object.__setattr__(self, "limits", tuple(limits))
        for item in dataclasses.fields(self):
            wanted = dict if item.name in _MAPPINGS else tuple if item.name == "limits" else str
            value = getattr(self, item.name)
            if not isinstance(value, wanted) and not (item.name == "norm" and value is None):
                raise ValueError(
                    f"{item.name} of the model card {self.name!r:.60} must be a {wanted.__name__}, "
                    f"got {value!r:.60}"
                )
            if not getattr(self, item.name) and item.name not in ("norm", "weights"):
                raise ValueError(f"the model card {self.name!r} needs {item.name}")
        if not self.protocol.get("contrasts"):
            raise ValueError(f"the protocol of the model card {self.name!r} needs contrasts")
        if not self.training.get("command"):
            raise ValueError("training needs the command that reproduces the training")
        for name, metric in self.metrics.items():
            if set(metric) != {"value", "low", "high"}:
                raise ValueError(f"the metric {name} needs value, low and high; got {metric}")
            if not metric["low"] <= metric["value"] <= metric["high"]:
                raise ValueError(f"the interval of {name} does not contain its value: {metric}")
        datetime.date.fromisoformat(self.date)

    @classmethod
    def from_pipeline(
        cls,
        pipeline: SimulationTrainedClassifier | CompartmentRegressor | Pipeline,
        *,
        name: str,
        title: str,
        training: Mapping[str, Any],
        compute: Mapping[str, Any],
        test_data: str,
        metrics: Mapping[str, Mapping[str, float]],
        limits: tuple[str, ...],
        date: str | None = None,
    ) -> ModelCard:
        """Create the card of a fitted model; prior, protocol, noise and network are read off.

        Parameters
        ----------
        pipeline : SimulationTrainedClassifier, CompartmentRegressor or Pipeline
            Fitted model; or a fitted Pipeline of ProtocolAligner, SignalNormalizer and a network
            classifier.
        name : str
            Name of the model.
        title : str
            Purpose of the model in one sentence.
        training : mapping
            The `command` that reproduces the training, and further settings of the training.
        compute : mapping
            Hardware and duration of the training.
        test_data : str
            Description of the test data of the metrics.
        metrics : mapping of str to mapping
            For each metric `value`, `low` and `high`.
        limits : tuple of str
            Limits of the model, and conditions without tests.
        date : str, optional
            Date of the training, such as 2026-01-31; None (default) for today.

        Returns
        -------
        ModelCard
            The card, without `weights`.

        Raises
        ------
        TypeError
            If the model is none of these.
        ValueError
            If an entry is missing or inconsistent.
        """
        return cls(
            name=name, title=title, **facts_of(pipeline), training=dict(training),
            compute=dict(compute), test_data=test_data,
            metrics={
                key: {part: float(number) for part, number in metric.items()}
                for key, metric in metrics.items()
            },
            limits=limits, versions={package: version(package) for package in _VERSIONS_OF},
            date=date or datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        )  # fmt: skip

    # -- in a file ---------------------------------------------------------

    def to_json(self, path: str | Path) -> None:
        """Write the card to an indented JSON file.

        Parameters
        ----------
        path : path-like
            The file to write.
        """
        content = {
            _STORED_NAMES.get(name, name): value for name, value in dataclasses.asdict(self).items()
        }
        write_json(path, {"format": _FORMAT, "version": _VERSION} | content)

    @classmethod
    def from_json(cls, path: str | Path) -> ModelCard:
        """Read a card from a file written by :meth:`to_json`.

        Parameters
        ----------
        path : path-like
            The file to read.

        Returns
        -------
        ModelCard
            The stored card.

        Raises
        ------
        FileNotFoundError
            If the file does not exist.
        InvalidFileError
            If the file is not a model card, is incomplete or damaged, or has a newer version.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise InvalidFileError(f"{path} is not a model card written by corrsk")
        number = content.pop("version", None)
        if type(number) is not int or number < 1:
            raise InvalidFileError(f"{path} is a model card of the version {number!r:.60}")
        if number > _VERSION:
            raise InvalidFileError(f"{path} is a model card of a newer version; update corrsk")
        names = {
            _STORED_NAMES.get(item.name, item.name): item.name for item in dataclasses.fields(cls)
        }
        wrong = sorted(names.keys() ^ content.keys())
        if wrong:
            raise InvalidFileError(f"{path} has missing or unknown entries: {', '.join(wrong)}")
        with refuse_misfits(path, "a model card written by corrsk"):
            card = cls(**{names[stored]: value for stored, value in content.items()})
            card.to_markdown()  # which reads all entries
            return card

    # -- as a page ---------------------------------------------------------

    def to_markdown(self) -> str:
        """Format the card as a Markdown page.

        Returns
        -------
        str
            Markdown text.
        """
        contrasts = [
            f"{parameter} {_listed(sorted(set(map(float, values))))} {CONTRASTS[parameter].unit}"
            for parameter, values in self.protocol["contrasts"].items()
        ]
        number = len(next(iter(self.protocol["contrasts"].values())))
        tr = self.protocol["tr"]
        recovery = (
            "no TR (full recovery)"
            if tr is None
            else f"TR {_listed(sorted({float(value) for value in np.ravel(tr)}))} ms"
        )
        if "inversion_efficiency" in self.protocol:
            recovery += f"; inversion efficiency {self.protocol['inversion_efficiency']:g}"
        recovery += _readout_in_words(self.protocol.get("readout"))
        if "series" in self.protocol:
            recovery += f"; {max(self.protocol['series']) + 1} series of unknown relative scale"
        metrics = [
            f"| {name.replace('_', ' ')} | {metric['value']:.4g} "
            f"| {metric['low']:.4g} to {metric['high']:.4g} |"
            for name, metric in self.metrics.items()
        ]
        return "\n".join([
            f"# {self.name}", "", self.title, "",
            "## Trained on", "",
            f"- Tissue: {_tissue_in_words(self.prior)}",
            f"- Protocol: {number} measurements, {'; '.join(contrasts)}; {recovery}",
            f"- Noise: {_noise_in_words(self.noise)}",
            f"- Normalisation: {self.norm or 'none'}", "",
            "## Network and training", "",
            *_items(self.network), *_items(self.training), *_items(self.compute), "",
            "Reproduce the training:", "", f"    {self.training['command']}", "",
            "## Performance", "",
            f"On {self.test_data}:", "",
            "| metric | value | 95 % interval |", "|---|---|---|", *metrics, "",
            "## Limits", "", *(f"- {limit}" for limit in self.limits), "",
            f"Trained on {self.date} with "
            + ", ".join(f"{package} {number}" for package, number in self.versions.items())
            + ".", "",
        ])  # fmt: skip

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def __str__(self) -> str:
        return self.to_markdown()


def steps_of(model: Any) -> tuple[ProtocolAligner, SignalNormalizer, NetworkClassifier]:
    """Return the three steps of a pretrained model.

    Parameters
    ----------
    model : SimulationTrainedClassifier or Pipeline
        The fitted model.

    Returns
    -------
    tuple of (ProtocolAligner, SignalNormalizer, NetworkClassifier)
        The steps.

    Raises
    ------
    TypeError
        If the model has other steps.
    ValueError
        If the norms of the steps differ, or the aligner expects signals of another protocol than
        the trained one.
    """
    pipeline = model.pipeline_ if isinstance(model, SimulationTrainedClassifier) else model
    wanted = (ProtocolAligner, SignalNormalizer, NetworkClassifier)
    steps = [step for _, step in pipeline.steps] if isinstance(pipeline, Pipeline) else []
    if len(steps) != 3 or not all(map(isinstance, steps, wanted)):
        raise TypeError(
            "a pretrained model is a SimulationTrainedClassifier, or a Pipeline of "
            "ProtocolAligner, SignalNormalizer and a network classifier; "
            f"got {[type(step).__name__ for step in steps] or type(pipeline).__name__}"
        )
    aligner, normalizer, classifier = steps
    if aligner.norm != normalizer.norm:
        raise ValueError(
            "the norms of the steps must be equal: the ProtocolAligner has "
            f"norm={aligner.norm!r}, the SignalNormalizer {normalizer.norm!r}"
        )
    if aligner.measured_protocol not in (None, "auto"):
        raise ValueError(
            "the ProtocolAligner of a pretrained model must have measured_protocol='auto', got "
            f"{aligner.measured_protocol!r}"
        )
    return aligner, normalizer, classifier


def facts_of(model: Any) -> dict[str, Any]:
    """Return the entries of a card that are read off the fitted model, as plain values.

    Parameters
    ----------
    model : SimulationTrainedClassifier, CompartmentRegressor or Pipeline
        The fitted model; see :func:`steps_of` for pipelines.

    Returns
    -------
    dict of str to object
        Entries prior, protocol, noise, norm and network.
    """
    predictor: NetworkEstimator
    sizes: tuple[str, ...]
    if isinstance(model, CompartmentRegressor):
        aligner, normalizer = (step for _, step in model.pipeline_.steps)
        predictor, classes = model.network_, model.classes_
        kind, sizes = "mixture", ("width", "n_blocks", "n_components")
        architecture = model.get_params(deep=False)
    else:
        aligner, normalizer, predictor = steps_of(model)
        architecture, classes = predictor._architecture(), predictor.classes_
        kind = str(architecture["network"])
        sizes = ("width", "n_blocks") if kind == "residual-mlp" else ()
    network = {
        "kind": kind,
        "n_parameters": sum(
            int(parameter.numel()) for parameter in predictor.net_.module_.parameters()
        ),
        "classes": np.asarray(classes).tolist(),
        **{name: architecture[name] for name in sizes},
    }
    protocol = resolve_protocol(aligner.protocol).to_dict()
    # an entry that the cards of perfect inversion lack
    eta = aligner.inversion_efficiency
    efficiency = {} if eta == 1 else {"inversion_efficiency": eta}
    return {
        "prior": resolve_prior(aligner.prior).to_dict(),
        "protocol": {key: protocol[key] for key in protocol if key != "units"} | efficiency,
        "noise": {
            "reference": aligner.noise_reference,
            "distribution": aligner.noise_distribution,
            **_plain_levels(aligner.noise_level),
            # an entry that the cards of one coil lack
            **({} if aligner.n_coils == 1 else {"coils": aligner.n_coils}),
        },
        "norm": normalizer.norm,
        "network": network,
    }


def _plain_levels(noise_level: NoiseLevels) -> dict[str, Any]:
    levels = checked_noise_levels(noise_level)
    if isinstance(levels, SNRRange):
        scale = {"snr_scale": levels.scale} if levels.scale != "linear" else {}
        return {"snr": [levels.low, levels.high]} | scale
    return {"levels": levels.tolist()}


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _items(facts: Mapping[str, Any]) -> list[str]:
    return [
        f"- {key.replace('_', ' ')}: {_shown(value)}"
        for key, value in facts.items()
        if key != "command"
    ]


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _tissue_in_words(prior: Mapping[str, Any]) -> str:
    units = {contrast.tissue: contrast.tissue_unit for contrast in CONTRASTS.values()}
    ranges = [
        f"{name} {values['low']:g} to {values['high']:g} {units[name]}"
        + (f" in steps of {values['step']:g}" if values["step"] else f" ({values['scale']})")
        for name, values in prior["ranges"].items()
    ]
    counts = _listed(prior["n_compartments"])
    return (
        f"{counts} compartments, equally frequent; {', '.join(ranges)}; fractions of at least "
        f"{prior['min_fraction']:g} ({prior['fraction_law']})"
        + ("; T2 < T1" if prior["t2_below_t1"] else "")
        + "".join(f"; {_nuisance_in_words(*item)}" for item in prior.get("nuisances", {}).items())
    )


def _readout_in_words(readout: Any) -> str:
    trains = {repr(one): one for one in (readout if isinstance(readout, list) else [readout])}
    texts = [
        f"; echo trains of spacing {train['spacing']:g} ms, refocusing angle "
        f"{train['refocusing_angle']:g} degrees" + (", slice profile" if train["profile"] else "")
        for train in trains.values()
        if train
    ]
    return "".join(texts)


def _nuisance_in_words(name: str, value: float | list[float]) -> str:
    span = f"{value[0]:g} to {value[1]:g}" if isinstance(value, (list, tuple)) else f"{value:g}"
    return f"{name.replace('_', ' ')} {span}"


def _noise_in_words(noise: Mapping[str, Any]) -> str:
    of = {"m0": "M0", "max": "the largest absolute signal", "rms": "the root mean square signal"}
    if "snr" in noise:
        low, high = noise["snr"]
        law = "log-uniform" if noise.get("snr_scale") == "log" else "uniform"
        amount = f"{of[noise['reference']]} over an SNR {law} from {low:g} to {high:g}"
    else:
        percent = _listed([100 * level for level in noise["levels"]])
        amount = f"{percent} % of {of[noise['reference']]}, equally frequent"
    coils = f" of {noise['coils']} coils" if "coils" in noise else ""
    return f"{noise['distribution']}{coils}, of standard deviation {amount}"
