"""Subjects of a run: images to map, and the place of their maps."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corrsk._utils.wording import worded
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.imaging import BidsSet, MeasuredImages, find_bids_sets, load_images
from corrsk.workflows._caught import texts_of


@dataclass(frozen=True, eq=False)
class Subject:
    """Images of one subject, and the names of its maps.

    Parameters
    ----------
    name : str
        Name in messages, tables and names of masks, such as "sub-01".
    images : MeasuredImages
        The images.
    folder : Path
        Folder of the maps, relative to that of the run.
    prefix : str or None
        Start of the names of the maps in BIDS, such as ``"sub-01_"``; None for short names.
    data_set : Path or None
        Folder of the data set in BIDS.
    warnings : tuple of (str, str)
        Category and text of the warnings of opening the images.
    """

    name: str
    images: MeasuredImages
    folder: Path
    prefix: str | None = None
    data_set: Path | None = None
    warnings: tuple[tuple[str, str], ...] = ()

    @property
    def files(self) -> list[str]:
        """Absolute paths of the files of the images."""
        return [str(Path(source).absolute()) for source in self.images.sources]


def find_subjects(
    sources: str | Path | Sequence[str | Path],
    *,
    times: Any = None,
    participants: Sequence[str] | None = None,
    select: Mapping[str, str | Sequence[str]] | None = None,
    join: bool = False,
    te: float | None = None,
) -> list[Subject]:
    """Open the images of all subjects, without reading their values.

    Parameters
    ----------
    sources : path-like or sequence of path-like
        Image files (NIfTI or .npz), or one folder in BIDS.
    times : path-like, AcquisitionProtocol or str, optional
        Protocol of all sources; see :func:`corrsk.imaging.load_images`.
    participants : sequence of str, optional
        Labels of the participants of a folder in BIDS, with or without "sub-"; None (default) for
        all.
    select : mapping of str to str or sequence of str, optional
        Entities and suffix of the files of a folder; see :func:`corrsk.imaging.find_bids_sets`.
    join : bool, default=False
        Whether the sets of a subject and session are series of the same voxels, to be mapped
        together; see :meth:`corrsk.imaging.MeasuredImages.concatenate`.
    te : float, optional
        Echo time in ms of sets to join whose sidecars state none, such as inversion recoveries.

    Returns
    -------
    list of Subject
        One entry for each file, or for each subject and session.

    Raises
    ------
    ValueError
        If a participant is missing, a subject has several sets of images and `join` is False,
        there are no images, two files have the same name, or images are invalid.
    FileNotFoundError
        If a source does not exist.
    """
    paths = [Path(sources)] if isinstance(sources, (str, Path)) else [Path(one) for one in sources]
    if not paths:
        raise ValueError("there is no source of images")
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise ValueError(
            f"{folders[0]} is a folder; pass one folder in BIDS, or one or more image files"
        )
    if folders:
        return _of_data_set(folders[0], times, participants, select, join, te)
    if participants or select or join or te is not None:
        raise ValueError(
            worded(
                "participants, select, join and te are",
                "--participant-label, --select, --join and --te are",
            )
            + f" for a folder in BIDS, and {paths[0]} is none"
        )
    names = [_stem(path) for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"several files have the name {twice[0]}, which would be that of the folder of their "
            "maps; map them one by one"
        )
    subjects = []
    for name, path in zip(names, paths, strict=True):
        with _noted() as noted:
            images = load_images(path, times)
        folder = Path(name) if len(paths) > 1 else Path()
        subjects.append(Subject(name, images, folder, warnings=tuple(texts_of(noted))))
    return subjects


@contextmanager
def _noted() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii").removesuffix(".npz")


def _of_data_set(
    folder: Path,
    times: Any,
    participants: Sequence[str] | None,
    select: Mapping[str, str | Sequence[str]] | None,
    join: bool,
    te: float | None,
) -> list[Subject]:
    sets = find_bids_sets(folder, select)
    if not sets:
        chosen = f" with {dict(select)}" if select else ""
        raise ValueError(
            f"{folder} has no sets of relaxation images{chosen}, such as "
            "sub-01/anat/sub-01_inv-1_IRT1.nii.gz"
        )
    found = list(dict.fromkeys(one.entities.get("sub", "") for one in sets))
    if participants:
        labels = [label.removeprefix("sub-") for label in participants]
        missing = [label for label in labels if label not in found]
        if missing:
            raise ValueError(
                f"no images of {', '.join(missing)} in {folder}; participants with images: "
                f"{', '.join(found)}"
            )
        sets = [one for one in sets if one.entities.get("sub", "") in labels]
    grouped: dict[tuple[str, str], list[BidsSet]] = {}
    for one in sets:
        key = (one.entities.get("sub", ""), one.entities.get("ses", ""))
        grouped.setdefault(key, []).append(one)
    subjects = []
    for (sub, ses), own in grouped.items():
        if len(own) > 1 and not join:
            raise ValueError(
                f"sub-{sub} has {len(own)} sets of images: {', '.join(map(str, own))}; choose one, "
                "such as "
                + worded("select={'suffix': 'MESE'}", "--select suffix=MESE")
                + ", or join the series of the same voxels by "
                + worded("join=True", "--join")
            )
        with _noted() as noted:
            if len(own) == 1:
                images = load_images(own[0], times)
            else:
                images = _joined([load_images(one) for one in own], te)
                images = images if times is None else load_images(images, times)
        labels = [f"sub-{sub}"] + ([f"ses-{ses}"] if ses else [])
        name = "_".join(labels)
        kept = own[0].entities.items() if len(own) == 1 else ()
        further = [
            f"{key}-{value}" for key, value in kept if key in ("run", "rec", "ce", "acq")
            and "<" not in value
        ]  # fmt: skip
        prefix = "_".join([name, *further]) + "_"
        place = Path(*labels, "anat")
        subjects.append(Subject(name, images, place, prefix, folder, tuple(texts_of(noted))))
    return subjects


def _joined(parts: list[MeasuredImages], te: float | None) -> MeasuredImages:
    """Join series, and complete those without echo time."""
    if te is not None:
        parts = [part if "TE" in part.protocol.contrasts else _with_te(part, te) for part in parts]
    elif len({"TE" in part.protocol.contrasts for part in parts}) > 1:
        lacking = next(part for part in parts if "TE" not in part.protocol.contrasts)
        raise ValueError(
            f"the sidecars of {lacking.name} have no EchoTime, which the series to join have; pass "
            "the echo time in ms, such as " + worded("te=10", "--te 10")
        )
    return MeasuredImages.concatenate(parts)


def _with_te(images: MeasuredImages, te: float) -> MeasuredImages:
    protocol = images.protocol
    values = dict(protocol.contrasts) | {"TE": np.full(protocol.n_measurements, te)}
    return images.with_protocol(AcquisitionProtocol(values, tr=protocol.tr))
