"""Survey and maps of the slabs of a subject: computed here, or by the workers of a cluster."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from corrsk._utils.parallel import effective_n_jobs
from corrsk.imaging import Slab
from corrsk.imaging.grid import Slices
from corrsk.imaging.images import SlabReader
from corrsk.neural.training.device import limited_threads
from corrsk.workflows._caught import texts_of
from corrsk.workflows.mapping.cluster import in_order, on_every_worker, on_one_worker
from corrsk.workflows.mapping.mapper import Mapper, Maps
from corrsk.workflows.mapping.plan import MapSettings, Planned, plan_subjects
from corrsk.workflows.mapping.preview import STRENGTH
from corrsk.workflows.mapping.subjects import Subject
from corrsk.workflows.mapping.survey import AUTO_MASK, NO_MASK, Survey, survey_images

Texts = list[tuple[str, str]]  # category and text of warnings


class Slabs(Protocol):
    """Survey and maps of the slabs of a subject."""

    def survey(self) -> Survey:
        """Read all images once; see :func:`survey_images`."""

    def maps(self, survey: Survey) -> Generator[tuple[Slab, Maps | None]]:
        """Compute the maps of all slabs in ascending order, with the mapper of the subject.

        Parameters
        ----------
        survey : Survey
            Voxels to map, for which the mapper is prepared.

        Yields
        ------
        slab : Slab
            A slab; its signals may have no columns.
        maps : dict of str to ndarray or None
            Maps of its voxels; with a preview also the strength of their signals. None for a slab
            without voxels.
        """


class SlabsHere:
    """Survey and maps of the slabs of a subject, computed in this process.

    Parameters
    ----------
    one : Planned
        The subject.
    settings : MapSettings
        Settings of the run.
    """

    def __init__(self, one: Planned, settings: MapSettings) -> None:
        self._one, self._settings = one, settings

    def survey(self) -> Survey:
        """Read all images once; see :class:`Slabs`."""
        return _survey_of(self._one, self._settings)

    def maps(self, survey: Survey) -> Generator[tuple[Slab, Maps | None]]:
        """Compute the maps slab by slab; see :class:`Slabs`."""
        one, settings = self._one, self._settings
        with _reader(one, settings, survey) as reader:
            for number in range(reader.n_slabs):
                slab = reader.read(number)
                maps = None
                if slab.n_voxels:
                    with one.notes.collect():
                        maps = _maps_of(one.mapper, slab, settings)
                yield slab, maps
            reader.check_sums()


class SlabsOnWorkers:
    """Survey and maps of the slabs of a subject, computed by the workers of a dask cluster.

    The slabs are those of :class:`SlabsHere`, and so are their maps. Workers open the images and
    the model themselves. A slab of a lost worker is computed by another one; few slabs more than
    there are workers are under way, so that the memory does not depend on their number.

    Parameters
    ----------
    client : dask.distributed.Client
        Client of the cluster.
    one : Planned
        The subject.
    subject : Subject
        The subject, before its plan.
    settings : MapSettings
        Settings of the run, for workers.
    n_jobs : int or None
        Number of threads of each worker.
    device : str
        Device of a network.
    """

    def __init__(
        self, client: Any, one: Planned, subject: Subject, settings: MapSettings,
        n_jobs: int | None, device: str,
    ) -> None:  # fmt: skip
        self._client, self._one, self._settings = client, one, settings
        self._arguments = (subject, settings, n_jobs, device)
        self._survey: Any = None

    def survey(self) -> Survey:
        """Let a worker read all images once; see :class:`Slabs`."""
        # the result stays on the cluster, for its workers; dask repeats the survey if it is lost
        self._survey = on_one_worker(self._client, _survey_in_worker, *self._arguments)
        found: Survey = self._survey.result()
        return found

    def maps(self, survey: Survey) -> Generator[tuple[Slab, Maps | None]]:
        """Let the workers compute the maps; see :class:`Slabs`."""
        one = self._one
        with _reader(one, self._settings, survey) as reader:
            n_slabs = reader.n_slabs
        key = uuid.uuid4().hex
        tasks = ((key, number, self._survey, *self._arguments) for number in range(n_slabs))
        results = in_order(self._client, _maps_in_worker, tasks)
        try:
            for found in results:
                for category, text in found.warnings:
                    one.notes.add(category, text)
                if "device" in found.settings:
                    one.mapper.settings["device"] = found.settings["device"]
                n_voxels = int(found.mask.sum())
                slab = Slab(found.where, found.mask, pd.DataFrame(index=range(n_voxels)), 0)
                yield slab, found.maps
        finally:
            results.close()
            self._survey = None
            on_every_worker(self._client, _close)


def n_slabs_of(one: Planned, settings: MapSettings) -> int:
    """Number of slabs of a subject, before its mapper is prepared."""
    images = one.subject.images
    with SlabReader(images, max_bytes=one.mapper.slab_bytes(settings.slab_bytes)) as reader:
        return reader.n_slabs


def _survey_of(one: Planned, settings: MapSettings) -> Survey:
    mode = NO_MASK if str(settings.mask) == NO_MASK else AUTO_MASK
    return survey_images(one.subject.images, mode, slab_bytes=settings.slab_bytes)


def _reader(one: Planned, settings: MapSettings, survey: Survey) -> SlabReader:
    mapper = one.mapper
    return SlabReader(
        one.subject.images, survey.mask, max_bytes=mapper.slab_bytes(settings.slab_bytes),
        margin=mapper.margin,
    )  # fmt: skip


def _maps_of(mapper: Mapper, slab: Slab, settings: MapSettings) -> Maps:
    maps = mapper.compute(slab)
    if settings.preview:
        signals = slab.signals.to_numpy()
        total = np.einsum("vn,vn->v", signals, signals, dtype=np.float64)
        maps[STRENGTH] = np.sqrt(total / signals.shape[1])
    return maps


# -- in the processes of the workers ------------------------------------------------------


@dataclass(eq=False)
class _SlabMaps:
    """Maps of a slab on their way from a worker."""

    where: Slices
    mask: NDArray[np.bool_]
    maps: Maps | None
    warnings: Texts
    settings: dict[str, Any]


@dataclass(eq=False)
class _Opened:
    """Subject that a worker maps: its prepared mapper, and its open files."""

    key: str
    one: Planned
    reader: SlabReader
    files: ExitStack


_opened: list[_Opened] = []  # of this process, at most one: its files and model need memory


def _survey_in_worker(
    subject: Subject, settings: MapSettings, n_jobs: int | None, device: str
) -> Survey:
    threads = effective_n_jobs(n_jobs)
    _, (one,) = plan_subjects([subject], settings, threads, device)
    with limited_threads(threads):
        return _survey_of(one, settings)


def _maps_in_worker(
    key: str, number: int, survey: Survey, subject: Subject, settings: MapSettings,
    n_jobs: int | None, device: str,
) -> _SlabMaps:  # fmt: skip
    threads = effective_n_jobs(n_jobs)
    with limited_threads(threads), warnings.catch_warnings(record=True) as caught:
        # those of the preparation are shown by the process that distributes the slabs
        warnings.simplefilter("ignore")
        opened = _open(key, survey, subject, settings, threads, device)
        slab = opened.reader.read(number)
        warnings.simplefilter("always")
        maps = _maps_of(opened.one.mapper, slab, settings) if slab.n_voxels else None
    return _SlabMaps(slab.where, slab.mask, maps, texts_of(caught), opened.one.mapper.settings)


def _open(
    key: str, survey: Survey, subject: Subject, settings: MapSettings, threads: int, device: str
) -> _Opened:
    """The subject of earlier slabs, or another one, whose mapper is prepared."""
    if _opened and _opened[0].key == key:
        return _opened[0]
    _close()
    _, (one,) = plan_subjects([subject], settings, threads, device)
    one.mapper.prepare(survey.sample, survey.mask)
    files = ExitStack()
    reader = files.enter_context(_reader(one, settings, survey))
    _opened.append(_Opened(key, one, reader, files))
    return _opened[0]


def _close() -> None:
    """Close the files of the subject of earlier slabs, and free its memory."""
    while _opened:
        _opened.pop().files.close()
