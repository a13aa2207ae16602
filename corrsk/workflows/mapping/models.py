"""Models of maps: from a name or a file to the maps of the voxels of a subject."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from corrsk._utils.files import existing_file, sha256_of
from corrsk._utils.wording import worded
from corrsk.acquisition._differences import positions_within
from corrsk.acquisition.protocol import resolve_protocol
from corrsk.imaging import MeasuredImages
from corrsk.persistence import load, save
from corrsk.pretrained import load_pretrained, model_card, pretrained_names
from corrsk.relaxometry import MultiExponentialClassifier, NNLSSpectrum
from corrsk.relaxometry.windows import Windows
from corrsk.spatial import SpatialClassifier
from corrsk.trained.classifier import SimulationTrainedClassifier
from corrsk.trained.regressor import CompartmentRegressor
from corrsk.workflows.mapping.compartments import (
    CompartmentMapper,
    RegressorMapper,
    has_intervals,
)
from corrsk.workflows.mapping.fits import FitMapper
from corrsk.workflows.mapping.mapper import Mapper
from corrsk.workflows.mapping.networks import ContextMapper, NetworkMapper, single_networks
from corrsk.workflows.mapping.pipelines import (
    PipelineMapper,
    check_pipeline,
    protocol_of_pipeline,
    without_masker,
)
from corrsk.workflows.mapping.spectra import (
    SpectrumMapper,
    read_spectrum_file,
    spectrum_of_images,
)

AUTO, FITS, SPECTRUM = "auto", "multi-exponential", "spectrum"
_SETTINGS = (".json", ".yaml", ".yml", ".toml")  # of spectra
_SIGNED, _MAGNITUDE = "scanner-ir-se-8x8", "scanner-ir-se-8x8-magnitude"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """Model of a run, before the images of a subject.

    Parameters
    ----------
    estimator : estimator or None
        Fitted estimator; None for multi-exponential fits, which are set up for each subject.
    description : dict
        Name, class, and file or data set, for sidecars.
    source : str, Path or estimator
        Name, absolute path or estimator, with which :func:`load_model` loads the same model.
    windows : mapping or None
        Windows of spectra, if the file of the model has any.
    """

    estimator: Any
    description: dict[str, Any]
    source: Any
    windows: Windows | None = None


def load_model(
    model: Any, images: Sequence[MeasuredImages], *, context: bool = False
) -> LoadedModel:
    """Load the model of a run.

    Parameters
    ----------
    model : str, path-like or estimator
        Name of a shipped model, "multi-exponential", "spectrum", a file of :func:`corrsk.save`, a
        file with the settings of spectra (see :func:`read_spectrum_file`), an estimator, or "auto":
        the shipped model for magnitudes, or for signed signals if all images are signed.
    images : sequence of MeasuredImages
        Images of all subjects.
    context : bool, default=False
        Whether a network uses the neighbours of each voxel, by a
        :class:`corrsk.SpatialClassifier`.

    Returns
    -------
    LoadedModel
        The model.

    Raises
    ------
    ValueError
        If there is no such model, it is none of those with maps, or `context` is for fits.
    """
    loaded = _loaded(model, images)
    if not context or isinstance(loaded.estimator, SpatialClassifier):
        return loaded
    network = loaded.estimator
    if not isinstance(network, SimulationTrainedClassifier):
        raise ValueError(
            f"{worded('context', '--context')} is for networks, whose noise of the training is "
            f"known; {loaded.description['Name']} treats single voxels; "
            f"{worded('leave it out', 'leave the option out')}, or choose a trained model"
        )
    estimator = SpatialClassifier(
        FrozenEstimator(network), noise_distribution=network.noise_distribution
    ).fit()
    description = loaded.description | {"Context": type(estimator).__name__}
    return LoadedModel(estimator, description, loaded.source)


def _loaded(model: Any, images: Sequence[MeasuredImages]) -> LoadedModel:
    if not isinstance(model, (str, Path)):
        model = _checked(model, "the model")
        content = {"Name": type(model).__name__} | _digest_of(model)
        if isinstance(model, NNLSSpectrum) and not _is_fitted(model):
            content["Settings"] = " ".join(repr(model).split())
        return LoadedModel(model, content, model)
    name = str(model)
    if name == AUTO:
        signed = all(kind == "signed" for one in images for kind in one.kinds)
        name = _SIGNED if signed else _MAGNITUDE
    if name == FITS:
        return LoadedModel(None, {"Name": FITS, "Class": MultiExponentialClassifier.__name__}, FITS)
    if name == SPECTRUM:
        content = {"Name": SPECTRUM, "Class": NNLSSpectrum.__name__}
        return LoadedModel(spectrum_of_images(), content, SPECTRUM)
    if name in pretrained_names():
        estimator = load_pretrained(name)
        digest = model_card(name).weights["sha256"]
        content = {"Name": name, "Class": type(estimator).__name__, "SHA256": digest}
        return LoadedModel(estimator, content, name)
    path = Path(name)
    if not path.suffix and not path.exists():
        raise ValueError(
            f"unknown model {name!r}; known models: {', '.join(pretrained_names())}, {FITS}, "
            f"{SPECTRUM}, or a file written by corrsk train or corrsk.save"
        )
    path = existing_file(path)
    if path.suffix in _SETTINGS:
        spectrum, windows = read_spectrum_file(path)
        content = {"Name": path.name, "Class": NNLSSpectrum.__name__, "SHA256": sha256_of(path)}
        return LoadedModel(spectrum, content, path.absolute(), windows)
    estimator = _checked(load(path), str(path))
    content = {"Name": path.name, "Class": type(estimator).__name__, "SHA256": sha256_of(path)}
    return LoadedModel(estimator, content, path.absolute())


def _digest_of(estimator: Any) -> dict[str, str]:
    """Digest of the file that :func:`corrsk.save` writes; none for what it does not store."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of callbacks
        path = Path(folder) / "model.safetensors"
        try:
            save(estimator, path)
        except (TypeError, ValueError):
            return {}
        return {"SHA256": sha256_of(path)}


def _checked(estimator: Any, name: str) -> Any:
    """Return the estimator that is mapped: of a Pipeline the steps after its masker."""
    estimator = without_masker(estimator)
    if isinstance(estimator, Pipeline):
        check_pipeline(estimator, name)
        return estimator
    single = estimator
    if isinstance(estimator, SpatialClassifier):
        if estimator.method != "average":
            raise ValueError(
                f"{name} has method={estimator.method!r}; maps are made slab by slab and need "
                "method='average', because a field depends on all voxels"
            )
        single = next((one for one in single_networks(estimator) if not _is_network(one)),
                      single_networks(estimator)[0])  # fmt: skip
    if (
        not _is_network(single)
        and not isinstance(estimator, (MultiExponentialClassifier, NNLSSpectrum))
        and not has_intervals(estimator)
    ):
        raise ValueError(
            f"{name} is a {type(estimator).__name__}"
            + (f" of a {type(single).__name__}" if single is not estimator else "")
            + "; maps need a SimulationTrainedClassifier, a SpatialClassifier of such, a "
            "CompartmentRegressor, a MultiExponentialClassifier, an NNLSSpectrum, or a Pipeline of "
            "a ProtocolAligner and a classifier"
            + worded(", or another model with predict, predict_proba and predict_interval", "")
        )
    return estimator


def _is_fitted(model: Any) -> bool:
    return hasattr(model, "n_features_in_")


def _is_network(estimator: Any) -> bool:
    return isinstance(estimator, SimulationTrainedClassifier)


def images_of_model(loaded: LoadedModel, images: MeasuredImages) -> MeasuredImages:
    """Keep the measurements for which a model was made, if the images have more.

    Parameters
    ----------
    loaded : LoadedModel
        The model.
    images : MeasuredImages
        Images of a subject.

    Returns
    -------
    MeasuredImages
        The measurements of the model's protocol, or all images if the model has no protocol, they
        have no others, or one is missing.
    """
    model = loaded.estimator
    if model is None or (isinstance(model, NNLSSpectrum) and not _is_fitted(model)):
        return images
    if isinstance(model, SpatialClassifier):
        model = single_networks(model)[0]
    if isinstance(model, Pipeline):
        trained = protocol_of_pipeline(model)
    else:
        trained = resolve_protocol(model.protocol) if _is_network(model) else model.protocol_
    positions = positions_within(trained, images.protocol)
    return images if positions is None else images.subset(positions)


def make_mapper(
    loaded: LoadedModel,
    images: MeasuredImages,
    *,
    n_jobs: int,
    device: str,
    n_compartments: int | None = None,
    windows: Windows | None = None,
    spectra: bool = False,
    n_draws: int | None = None,
    max_rounds: int | None = None,
) -> Mapper:
    """Set up the maps of a subject, without reading its images.

    Parameters
    ----------
    loaded : LoadedModel
        The model.
    images : MeasuredImages
        Images of the subject.
    n_jobs : int
        Number of threads.
    device : str
        Device of a network.
    n_compartments : int or None, default=None
        Largest number of compartments of fits to any protocol; see :class:`FitMapper`.
    windows : mapping or None, default=None
        Windows of spectra, in place of those of the model's file.
    spectra : bool, default=False
        Whether spectra are a map, too.
    n_draws, max_rounds : int or None, default=None
        Parameters of a :class:`corrsk.CompartmentRegressor`, in place of those of the model.

    Returns
    -------
    Mapper
        The maps.

    Raises
    ------
    ValueError
        If `n_compartments` is given for a model that has its own counts, windows or spectra for one
        without spectra, or draws for one without; or the images do not fit the model.
    """
    model, name = loaded.estimator, loaded.description["Name"]
    if n_compartments is not None and model is not None:
        counts = getattr(model, "classes_", None)
        its = "no counts" if counts is None else f"the counts {', '.join(map(str, counts))}"
        option = worded("n_compartments", "--compartments")
        raise ValueError(f"{option} is for the model {FITS}; {name} has {its}")
    if isinstance(model, CompartmentRegressor):
        _refuse_spectra(windows, spectra, name)
        return RegressorMapper(model, images, n_jobs, n_draws, max_rounds)
    if n_draws is not None or max_rounds is not None:
        options = worded("n_draws and max_rounds are", "--draws and --rounds are")
        raise ValueError(f"{options} for a CompartmentRegressor; {name} draws no compartments")
    if isinstance(model, NNLSSpectrum):
        chosen = loaded.windows if windows is None else windows
        return SpectrumMapper(model, images, n_jobs, chosen, spectra)
    _refuse_spectra(windows, spectra, name)
    if isinstance(model, Pipeline):
        return PipelineMapper(model, images)
    if isinstance(model, SpatialClassifier):
        return ContextMapper(model, images, n_jobs, device)
    if isinstance(model, SimulationTrainedClassifier):
        return NetworkMapper(model, images, n_jobs, device)
    if model is not None and not isinstance(model, MultiExponentialClassifier):
        return CompartmentMapper(model, images, n_jobs)
    return FitMapper(model, images, n_jobs, n_compartments)


def _refuse_spectra(windows: Windows | None, spectra: bool, name: str) -> None:
    if windows or spectra:
        options = worded("windows and spectra are", "--window and --spectra are")
        raise ValueError(f"{options} for the model {SPECTRUM}; {name} has no spectra")
