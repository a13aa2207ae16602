"""Models of maps: from a name or a file to the maps of the voxels of a subject."""

from __future__ import annotations

import copy
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator

from corrsk._utils.counts import most_probable, multicompartment_probability
from corrsk._utils.files import existing_file, sha256_of
from corrsk.acquisition._differences import positions_within
from corrsk.acquisition.compatibility import compare_protocols
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.imaging import MeasuredImages
from corrsk.imaging.images import Slab
from corrsk.neural.training.device import resolve_device
from corrsk.neural.training.prediction import move_net
from corrsk.persistence import load, save
from corrsk.pretrained import load_pretrained, model_card, pretrained_names
from corrsk.relaxometry import MultiExponentialClassifier, estimate_noise
from corrsk.relaxometry.one_compartment import OneCompartmentFit
from corrsk.spatial import SpatialClassifier
from corrsk.spatial.averaging import Comparison
from corrsk.tissue.nuisances import Nuisances
from corrsk.tissue.prior import resolve_prior
from corrsk.trained.classifier import SimulationTrainedClassifier
from corrsk.workflows.mapping.noise import noise_directions
from corrsk.workflows.mapping.outputs import MapSpec

AUTO, FITS = "auto", "multi-exponential"
_SIGNED, _MAGNITUDE = "scanner-ir-se-8x8", "scanner-ir-se-8x8-magnitude"
_MIN_FRACTION = 0.05  # of fits to images: leaking signal adds weaker compartments
_EFFICIENCY = (0.7, 1.0)  # of inversions, where it cannot be calibrated
_N_TRIED = 300  # voxels of a sample that are fitted before the maps, for the warnings
CONTEXT_BYTES = 1024**3  # signals of a slab and its margins
_COMPARED_BYTES = 256 * 1024**2  # signals of the slices in which the noise is found
_TIME = {"T1": "s", "T2": "s"}

Maps = dict[str, NDArray[Any]]


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
    """

    estimator: Any
    description: dict[str, Any]
    source: Any


def load_model(
    model: Any, images: Sequence[MeasuredImages], *, context: bool = False
) -> LoadedModel:
    """Load the model of a run.

    Parameters
    ----------
    model : str, path-like or estimator
        Name of a shipped model, "multi-exponential", a file of :func:`corrsk.save`, a fitted
        estimator, or "auto": the shipped model for magnitudes, or for signed signals if all images
        are signed.
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
            f"context is for networks, whose noise of the training is known; "
            f"{loaded.description['Name']} fits single voxels"
        )
    estimator = SpatialClassifier(
        FrozenEstimator(network), noise_distribution=network.noise_distribution
    ).fit()
    description = loaded.description | {"Context": type(estimator).__name__}
    return LoadedModel(estimator, description, loaded.source)


def _loaded(model: Any, images: Sequence[MeasuredImages]) -> LoadedModel:
    if not isinstance(model, (str, Path)):
        name = type(_checked(model, "the model")).__name__
        return LoadedModel(model, {"Name": name} | _digest_of(model), model)
    name = str(model)
    if name == AUTO:
        signed = all(kind == "signed" for one in images for kind in one.kinds)
        name = _SIGNED if signed else _MAGNITUDE
    if name == FITS:
        return LoadedModel(None, {"Name": FITS, "Class": MultiExponentialClassifier.__name__}, FITS)
    if name in pretrained_names():
        estimator = load_pretrained(name)
        digest = model_card(name).weights["sha256"]
        content = {"Name": name, "Class": type(estimator).__name__, "SHA256": digest}
        return LoadedModel(estimator, content, name)
    path = Path(name)
    if not path.suffix and not path.exists():
        raise ValueError(
            f"unknown model {name!r}; known models: {', '.join(pretrained_names())}, {FITS}, or a "
            "file written by corrsk train or corrsk.save"
        )
    path = existing_file(path)
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
    single = estimator
    if isinstance(estimator, SpatialClassifier):
        if estimator.method != "average":
            raise ValueError(
                f"{name} has method={estimator.method!r}; maps are made slab by slab and need "
                "method='average', because a field depends on all voxels"
            )
        single = next((one for one in _networks(estimator) if not _is_network(one)),
                      _networks(estimator)[0])  # fmt: skip
    if not _is_network(single) and not isinstance(estimator, MultiExponentialClassifier):
        raise ValueError(
            f"{name} is a {type(estimator).__name__}"
            + (f" of a {type(single).__name__}" if single is not estimator else "")
            + "; maps need a SimulationTrainedClassifier, a SpatialClassifier of such, or a "
            "MultiExponentialClassifier"
        )
    return estimator


def _is_network(estimator: Any) -> bool:
    return isinstance(estimator, SimulationTrainedClassifier)


def _networks(context: SpatialClassifier) -> list[Any]:
    """Classifiers of single voxels, without the frame that freezes them."""
    return [
        each.estimator if isinstance(each, FrozenEstimator) else each
        for each in context.estimators_
    ]


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
    if model is None:
        return images
    if isinstance(model, SpatialClassifier):
        model = _networks(model)[0]
    fits = isinstance(model, MultiExponentialClassifier)
    trained = model.protocol_ if fits else resolve_protocol(model.protocol)
    positions = positions_within(trained, images.protocol)
    return images if positions is None else images.subset(positions)


class Mapper(ABC):
    """Maps of the voxels of one subject.

    Attributes
    ----------
    classes : ndarray of int
        Compartment counts.
    specs : list of MapSpec
        The maps.
    notes : list of str
        Reasons of maps that are left out.
    settings : dict
        Settings of the model for this subject, for the record.
    fits : MultiExponentialClassifier or None
        Fits that the maps are made of, if they are.
    order : ndarray of int, shape (n_measurements,)
        Positions of the columns of `fits` among the images.
    """

    classes: NDArray[Any]
    specs: list[MapSpec]
    notes: list[str]
    settings: dict[str, Any]
    fits: MultiExponentialClassifier | None = None
    order: NDArray[np.intp]
    margin = 0  # slices around a slab that its maps need

    def slab_bytes(self, wanted: int) -> int:
        """Size of the signals of a slab, if `wanted` is that of a run."""
        return wanted

    @abstractmethod
    def prepare(self, sample: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Compare signals of the subject with the model, with its warnings, before the maps.

        Parameters
        ----------
        sample : ndarray of shape (n_sampled, n_measurements)
            Signals of some voxels.
        mask : ndarray of bool, shape (n_x, n_y, n_z)
            Voxels that are mapped.
        """

    @abstractmethod
    def compute(self, slab: Slab) -> Maps:
        """Compute the maps of the voxels of a slab.

        Parameters
        ----------
        slab : Slab
            Signals in the order of the images, with at least one voxel.

        Returns
        -------
        dict of str to ndarray of shape (n_voxels,) or (n_voxels, n_maps)
            Values by the key of the map.
        """

    def _count_specs(self) -> list[MapSpec]:
        names = [str(count) for count in self.classes]
        return [
            MapSpec(
                "labels", "seg-compartments_dseg",
                "Most probable number of tissue compartments; 0 where it is not mapped.", "uint8",
            ),
            MapSpec(
                "probabilities", "seg-compartments_probseg",
                "Probability of each number of compartments, along the fourth axis.",
                n_maps=len(names), entries={"LabelMap": names, "Units": "1"},
            ),
            MapSpec(
                "multicompartment", "label-multicompartment_probseg",
                "Probability of more than one compartment.", entries={"Units": "1"},
            ),
            MapSpec(
                "entropy", "desc-compartments_entropy",
                "Entropy of the probabilities: 0 for a certain answer.", entries={"Units": "bit"},
            ),
        ]  # fmt: skip

    def _count_maps(self, probabilities: NDArray[np.float64]) -> Maps:
        return {
            "labels": most_probable(probabilities, self.classes),
            "probabilities": probabilities,
            "multicompartment": multicompartment_probability(probabilities, self.classes),
            "entropy": entr(probabilities).sum(axis=1) / np.log(2),
        }


def _noise_spec() -> MapSpec:
    return MapSpec(
        "noise", "desc-residual_noisemap",
        "Standard deviation of the noise of each voxel, from the part of its signal that no "
        "mixture of compartments explains.", entries={"Units": "arbitrary"},
    )  # fmt: skip


def _property_spec(name: str) -> MapSpec:
    return MapSpec(
        name, f"desc-onecompartment_{name}map",
        f"{name} of one compartment fitted to each voxel; an average where there are several.",
        entries={"Units": _TIME.get(name, "um^2/ms")},
    )  # fmt: skip


def _in_unit(name: str, values: NDArray[Any]) -> NDArray[Any]:
    return values / 1000 if name in _TIME else values


class NetworkMapper(Mapper):
    """Maps of a model that was trained by simulation.

    Parameters
    ----------
    model : SimulationTrainedClassifier
        The fitted model.
    images : MeasuredImages
        Images of the subject.
    n_jobs : int
        Number of threads.
    device : str
        Device of the network.

    Raises
    ------
    ProtocolMismatchError
        If the images have another protocol; a ValueError.
    ValueError
        If the images are complex.
    """

    def __init__(
        self, model: SimulationTrainedClassifier, images: MeasuredImages, n_jobs: int, device: str
    ) -> None:
        if "complex" in images.kinds:
            raise ValueError(
                f"{images.name} is complex, but the model is for real signals; choose the "
                "magnitudes, such as --select part=mag"
            )
        self._model = model.matched_to(images.protocol)
        where = resolve_device(device)
        move_net(self._model[-1].net_, where)
        self.classes, self.notes = model.classes_, []
        self.settings = {"device": str(where), "noise_distribution": model.noise_distribution}
        self.specs = self._count_specs()
        detector = self._model.novelty_
        self._rate = 0.0
        if detector is None:
            self.notes.append(
                "no novelty map: the model has no detector of unusual signals (fit_novelty)"
            )
        else:
            detector = copy.copy(detector)
            detector.set_params(n_jobs=n_jobs, verbose=False)
            self._model.novelty_ = detector
            self._rate = float(detector.false_alarm_rate)
            self.specs.append(
                MapSpec(
                    "novelty",
                    "desc-novelty_mask",
                    "1 where the signal is unlike all simulated signals of the training, so that "
                    "the other maps have no basis.",
                    "uint8",
                    entries={"PValue": self._rate},
                )
            )
        outside = noise_directions(model.definition)
        self._outside = None if outside is None else outside.astype(np.float32)
        if outside is None:
            self.notes.append("no noise map: the measurements are too few to separate the noise")
        else:
            self.specs.append(_noise_spec())
        self._fit = self._property_fit(images, n_jobs)
        for name in () if self._fit is None else self._fit.properties:
            self.specs.append(_property_spec(name))

    def _property_fit(self, images: MeasuredImages, n_jobs: int) -> OneCompartmentFit | None:
        model = self._model
        nuisances = resolve_prior(model.prior).nuisances
        efficiency: Any = getattr(nuisances, "inversion_efficiency", None)
        if efficiency is None:
            efficiency = float(model.inversion_efficiency)
        self.settings["inversion_efficiency"] = efficiency
        try:
            # in the order of the training, into which the model brings the signals
            return OneCompartmentFit(
                resolve_protocol(model.protocol), inversion_efficiency=efficiency,
                magnitude=model.noise_distribution == "rician", n_jobs=n_jobs,
            )  # fmt: skip
        except ValueError as error:
            self.notes.append(f"no maps of tissue properties: {error}")
            return None

    def prepare(self, sample: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Compare sign, noise and shape of the sample with the training; see :class:`Mapper`."""
        self._model.predict_proba(sample)

    def _probabilities(self, slab: Slab) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self._model.predict_proba(slab.signals.to_numpy())
        return found

    def compute(self, slab: Slab) -> Maps:
        """Compute the maps of a slab; see :class:`Mapper`."""
        model, signals = self._model, slab.signals.to_numpy()
        maps = self._count_maps(self._probabilities(slab))
        if model.novelty_ is not None:
            maps["novelty"] = (model.predict_novelty(signals) < self._rate).astype(np.uint8)
        aligned = model[0].transform(signals)
        if self._outside is not None:
            rest = aligned.astype(np.float32, copy=False) @ self._outside
            maps["noise"] = np.sqrt(np.einsum("vd,vd->v", rest, rest) / rest.shape[1])
        if self._fit is not None:
            found = self._fit.fit(aligned)
            for k, name in enumerate(self._fit.properties):
                maps[name] = _in_unit(name, found[:, k])
        return maps


class ContextMapper(NetworkMapper):
    """Maps of a network that uses the neighbours of each voxel.

    Compartment counts come from averages of like neighbours; the other maps are those of single
    voxels.

    Parameters
    ----------
    context : SpatialClassifier
        Fitted classifier of SimulationTrainedClassifier, with the method "average".
    images : MeasuredImages
        Images of the subject.
    n_jobs : int
        Number of threads.
    device : str
        Device of the networks.

    Raises
    ------
    ProtocolMismatchError
        If the images have another protocol; a ValueError.
    ValueError
        If the images are complex.
    """

    def __init__(
        self, context: SpatialClassifier, images: MeasuredImages, n_jobs: int, device: str
    ) -> None:
        first, *others = _networks(context)
        super().__init__(first, images, n_jobs, device)
        matched = [self._model, *(one.matched_to(images.protocol) for one in others)]
        where = resolve_device(device)
        for one in matched[1:]:
            move_net(one[-1].net_, where)
        self._images = images
        frozen = [FrozenEstimator(one) for one in matched]
        size = np.linalg.norm(images.grid.affine[:3, :3], axis=0)
        self._context = SpatialClassifier(
            frozen, sigma=context.sigma, n_neighbors=context.n_neighbors, voxel_size=size,
            noise_range=context.noise_range, noise_distribution=context.noise_distribution,
        ).fit()  # fmt: skip
        self._comparison: Comparison | None = None

    def prepare(self, sample: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Find the noise of the image in its middle slices; see :class:`Mapper`."""
        context, grid = self._context, self._images.grid
        if context.noise_distribution == "rician" and context.sigma is None:
            noise = estimate_noise(
                sample, self._images.protocol, noise_distribution="rician"
            )  # of its real and imaginary parts
            context.set_params(sigma=float(noise.sigma))
        axis, n = grid.slab_axis, grid.shape[grid.slab_axis]
        inside = np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis)))
        middle = int(np.median(inside))
        half = max(1, _COMPARED_BYTES // (2 * self._slice_bytes))
        where = [slice(0, length) for length in grid.shape]
        where[axis] = slice(max(0, middle - half), min(n, middle + half + 1))
        block = self._images.slab((where[0], where[1], where[2]), mask)
        found = context.compare(block.signals.to_numpy(), block.mask, shape=grid.shape)
        self._comparison = found
        reach = int(found.reach[axis])
        self.settings["context"] = {
            "n_neighbors": context.n_neighbors, "noise": float(found.subspace.sigma),
            "n_voxels_sharing_noise": float(found.correlated), "reach": found.reach.tolist(),
        }  # fmt: skip
        self.margin = 0 if self._is_whole(n) else reach
        if self.margin and self.slab_bytes(0) < self._slice_bytes:
            raise ValueError(
                f"the context of a voxel reaches over {reach} slices on either side, of "
                f"{self._slice_bytes / 2**20:.0f} MB each: with one more slice these are larger "
                f"than {CONTEXT_BYTES / 2**20:.0f} MB. Use a SpatialClassifier with fewer "
                f"neighbours than {context.n_neighbors} (n_neighbors)"
            )

    @property
    def _slice_bytes(self) -> int:
        grid = self._images.grid
        n = self._images.protocol.n_measurements
        return grid.n_voxels // grid.shape[grid.slab_axis] * n * np.dtype(np.float32).itemsize

    def _is_whole(self, n_slices: int) -> bool:
        return n_slices * self._slice_bytes <= CONTEXT_BYTES

    def slab_bytes(self, wanted: int) -> int:
        """Size of a slab whose margins are not much larger; see :class:`Mapper`."""
        return CONTEXT_BYTES - 2 * self.margin * self._slice_bytes

    def _probabilities(self, slab: Slab) -> NDArray[np.float64]:
        assert self._comparison is not None
        whole = slab if slab.around is None else slab.around.slab
        found = self._context.predict_proba_of_part(
            whole.signals.to_numpy(), whole.mask, self._comparison
        )
        return found if slab.around is None else found[slab.around.own]


class FitMapper(Mapper):
    """Maps of multi-exponential fits.

    Parameters
    ----------
    model : MultiExponentialClassifier or None
        Fitted classifier; None for one for the protocol and the kind of the images, which is
        calibrated to the image.
    images : MeasuredImages
        Images of the subject.
    n_jobs : int
        Number of threads.
    n_compartments : int or None, default=None
        Largest number of compartments; None for 3, or 2 where the measurements are too few.

    Raises
    ------
    ValueError
        If the images have another protocol than the classifier, are complex, or have too few
        measurements; or if `n_compartments` is for a fitted classifier.
    """

    fits: MultiExponentialClassifier

    def __init__(
        self,
        model: MultiExponentialClassifier | None,
        images: MeasuredImages,
        n_jobs: int,
        n_compartments: int | None = None,
    ) -> None:
        if "complex" in images.kinds:
            raise ValueError(
                f"{images.name} is complex, but fits are for real signals; choose the magnitudes, "
                "such as --select part=mag"
            )
        self.notes = []
        self._calibrates = model is None
        protocol = images.protocol
        if model is None:
            magnitude = any(kind != "signed" for kind in images.kinds)
            self.order = np.arange(protocol.n_measurements)
            self.fits, notes = set_up_fits(
                protocol, magnitude=magnitude, n_jobs=n_jobs, n_compartments=n_compartments
            )
            self.notes += notes
        else:
            # models of fits have no training noise; that of the default finds differences
            comparison = compare_protocols(model.protocol_, protocol, prior="t1t2-detr")
            self.order = comparison.check()
            self.fits = copy.copy(model).set_params(n_jobs=n_jobs, verbose=False)
        self.classes = self.fits.counts_
        self.settings = {
            "criterion": self.fits.criterion, "counts": self.fits.counts_.tolist(),
            "noise_distribution": self.fits.noise_distribution,
            "min_fraction": self.fits.min_fraction,
        }  # fmt: skip
        largest = int(self.classes.max())
        self._properties = self.fits.protocol_.tissue_properties
        self.specs = [*self._count_specs(), _noise_spec()]
        self.specs.append(
            MapSpec("misfit", "desc-misfit_mask", "1 where no fit explains the signal.", "uint8")
        )
        for name in self._properties:
            units = {"Units": _TIME.get(name, "um^2/ms")}
            self.specs += [
                _property_spec(name),
                MapSpec(
                    f"{name}_compartments", f"desc-compartments_{name}map",
                    f"{name} of each compartment, along the fourth axis.", n_maps=largest,
                    entries=units,
                ),
                MapSpec(
                    f"{name}_error", f"desc-standarderror_{name}map",
                    f"Standard error of {name} of each compartment, along the fourth axis.",
                    n_maps=largest, entries=units,
                ),
            ]  # fmt: skip
        self.specs.append(
            MapSpec(
                "fractions",
                "desc-compartments_fractionmap",
                "Signal fraction of each compartment, along the fourth axis.",
                n_maps=largest,
                entries={"Units": "1"},
            )
        )

    def prepare(self, sample: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Calibrate pulses and noise to the image; see :class:`Mapper`."""
        values = sample[:, self.order]
        if self._calibrates:
            self._calibrate(values)
        self.fits.estimate_compartments(values[:: -(-len(values) // _N_TRIED)])  # its warnings

    def _calibrate(self, values: NDArray[Any]) -> None:
        try:
            self.fits.calibrate(values)
        except ValueError as error:
            if self.fits.protocol_.series is not None:
                raise
            pulses = "pulses as the protocol states them"
            if "TI" in self.fits.protocol_.contrasts:
                pulses = f"an inversion efficiency of {_EFFICIENCY[0]} to 1 is fitted in each voxel"
                nuisances = Nuisances(inversion_efficiency=_EFFICIENCY)
                self.fits.set_params(nuisances=nuisances).fit(values[:1])
            self.notes.append(f"not calibrated, {pulses}: {error}")
            return
        self.settings["calibration"] = str(self.fits.calibration_)

    def compute(self, slab: Slab) -> Maps:
        """Compute the maps of a slab; see :class:`Mapper`."""
        values = slab.signals.to_numpy()[:, self.order]
        with warnings.catch_warnings():
            if self._calibrates:  # to this image: its slabs are no other image
                warnings.filterwarnings("ignore", message=".*A calibration holds for")
            maps = self._count_maps(self.fits.predict_proba(values))
        table = self.fits.estimate_compartments(values)
        with warnings.catch_warnings():  # one compartment need not explain a voxel of several
            warnings.simplefilter("ignore", ConvergenceWarning)
            single = self.fits.estimate_compartments(values, 1)
        n, unknowns = values.shape[1], table["n_c"].to_numpy() * (len(self._properties) + 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            maps["noise"] = np.sqrt(
                np.where(n > unknowns, table["rss"] / np.maximum(n - unknowns, 1), np.nan)
            )
        maps["misfit"] = table["misfit"].to_numpy().astype(np.uint8)
        largest = range(1, int(self.classes.max()) + 1)
        for name in self._properties:
            maps[name] = _in_unit(name, single[f"{name}_1"].to_numpy())
            for key, ending in (("compartments", ""), ("error", "_se")):
                columns = [f"{name}_{k}{ending}" for k in largest]
                maps[f"{name}_{key}"] = _in_unit(name, table[columns].to_numpy())
        maps["fractions"] = table[[f"f_{k}" for k in largest]].to_numpy()
        return maps


def set_up_fits(
    protocol: AcquisitionProtocol, *, magnitude: bool, n_jobs: int | None,
    n_compartments: int | None = None, inversion_efficiency: float | tuple[float, float] = 1.0,
) -> tuple[MultiExponentialClassifier, list[str]]:  # fmt: skip
    """Set up fits of several compartments to images.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        Protocol of the images.
    magnitude : bool
        Whether the signals are magnitudes.
    n_jobs : int or None
        Number of threads.
    n_compartments : int, optional
        Largest number of compartments; None (default) for three, or two where the measurements are
        too few.
    inversion_efficiency : float or (float, float), default=1.0
        Inversion efficiency, or its range if it is fitted in each voxel.

    Returns
    -------
    fits : MultiExponentialClassifier
        Fitted classifier, of as many compartments as the measurements allow.
    notes : list of str
        Reason of fewer than three.

    Raises
    ------
    ValueError
        If the measurements are too few for two compartments.
    """
    rows = np.ones((2, protocol.n_measurements))
    notes: list[str] = []
    options: dict[str, Any] = {"inversion_efficiency": inversion_efficiency}
    if isinstance(inversion_efficiency, tuple):
        options = {"nuisances": Nuisances(inversion_efficiency=inversion_efficiency)}

    def model_of(counts: Sequence[int]) -> MultiExponentialClassifier:
        return MultiExponentialClassifier(
            protocol, criterion="bic", counts=counts, min_fraction=_MIN_FRACTION,
            noise_distribution="rician" if magnitude else "gaussian", random_state=0,
            n_jobs=n_jobs, verbose=False, **options,
        )  # fmt: skip

    if n_compartments is not None:
        return model_of(range(1, n_compartments + 1)).fit(rows), notes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of too few measurements
            return model_of((1, 2, 3)).fit(rows), notes
    except (UserWarning, ValueError):
        notes.append(
            f"counts 1 and 2: {protocol.n_measurements} measurements are too few for three"
        )
    return model_of((1, 2)).fit(rows), notes


def make_mapper(
    loaded: LoadedModel,
    images: MeasuredImages,
    *,
    n_jobs: int,
    device: str,
    n_compartments: int | None = None,
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

    Returns
    -------
    Mapper
        The maps.

    Raises
    ------
    ValueError
        If `n_compartments` is given for a model that has its own counts, or the images do not fit
        the model.
    """
    if n_compartments is not None and loaded.estimator is not None:
        raise ValueError(
            f"the number of compartments is an option of {FITS}; {loaded.description['Name']} has "
            f"the counts {', '.join(map(str, loaded.estimator.classes_))}"
        )
    if isinstance(loaded.estimator, SpatialClassifier):
        return ContextMapper(loaded.estimator, images, n_jobs, device)
    if isinstance(loaded.estimator, SimulationTrainedClassifier):
        return NetworkMapper(loaded.estimator, images, n_jobs, device)
    return FitMapper(loaded.estimator, images, n_jobs, n_compartments)
