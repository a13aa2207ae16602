"""Sets of image files in BIDS: names, sidecars, and their order."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.files import InvalidFileError, read_json
from corrsk._utils.wording import worded
from corrsk.imaging._nifti import ENDINGS, stem_of
from corrsk.physics.contrasts import REPETITION_TIME, scan_quantities

SUFFIXES = ("IRT1", "MESE")
_DESCRIPTION = "dataset_description.json"
_MOST_PARENTS = 4  # from the folder of a file to that of the data set: anat, ses, sub
_PARTS = ("mag", "phase", "real", "imag")
_INDICES = ("inv", "echo")  # entities that number the measurements of a set
_ACQUISITION = re.compile(r"(.*?)(TI|TE)(\d+)")  # acq-TI3: the third inversion time

# entries of sidecars, in seconds, and names of scan parameters; the first entry that is there
TIMES = {
    "InversionTime": "TI",
    "EchoTime": "TE",
    "RepetitionTime": REPETITION_TIME.name,
    "RepetitionTimeExcitation": REPETITION_TIME.name,
}
_ENTRY = {"TI": "InversionTime", "TE": "EchoTime", REPETITION_TIME.name: "RepetitionTime"}


@dataclass(frozen=True)
class BidsName:
    """Parsed name of a file in BIDS.

    Parameters
    ----------
    path : Path
        The file.
    entities : dict of str to str
        Entities in the order of the name, such as {"sub": "01", "inv": "2"}.
    suffix : str
        Last part of the name, such as "IRT1".
    """

    path: Path
    entities: Mapping[str, str]
    suffix: str

    @classmethod
    def from_path(cls, path: str | Path) -> BidsName:
        """Parse a path; names that are not in BIDS have no entities."""
        path = Path(path)
        *parts, suffix = stem_of(path).split("_")
        pairs = [part.partition("-") for part in parts]
        if not all(key and mark and value for key, mark, value in pairs):
            return cls(path, {}, "")
        return cls(path, {key: value for key, _, value in pairs}, suffix)

    @property
    def part(self) -> str:
        """Value of the entity `part`; empty without one."""
        return self.entities.get("part", "")

    @property
    def _acquisition(self) -> tuple[str, str, int] | None:
        match = _ACQUISITION.fullmatch(self.entities.get("acq", ""))
        return None if match is None else (match[1], match[2], int(match[3]))

    @property
    def set_key(self) -> tuple[tuple[str, str], ...]:
        """Entities that all files of a set share, and the suffix."""
        shared = {
            key: value for key, value in self.entities.items() if key not in (*_INDICES, "part")
        }
        acquisition = self._acquisition
        if acquisition is not None:
            shared["acq"] = f"{acquisition[0]}{acquisition[1]}<n>"
        return (*shared.items(), ("suffix", self.suffix))

    @property
    def indices(self) -> dict[str, int | str]:
        """Numbers of the measurement: acq, inv and echo, those that the name has."""
        found: dict[str, int | str] = {}
        acquisition = self._acquisition
        if acquisition is not None:
            found[f"acq-{acquisition[1]}"] = acquisition[2]
        for key in _INDICES:
            if key in self.entities:
                value = self.entities[key]
                found[key] = int(value) if value.isdecimal() else value
        return found

    @property
    def order(self) -> tuple[Any, ...]:
        """Key that sorts files by numbers: echo-10 after echo-2."""
        return tuple((isinstance(value, str), value) for value in self.indices.values())


@dataclass(frozen=True)
class BidsSet:
    """Files of one series of measurements of one subject, in BIDS.

    Parameters
    ----------
    entities : dict of str to str
        Entities that all files share, and their suffix, such as {"sub": "01", "suffix": "MESE"}.
        An entity acq-TI1, acq-TI2, .. is "TI<n>".
    files : tuple of Path
        The image files, in numeric order.
    """

    entities: Mapping[str, str]
    files: tuple[Path, ...]

    def __str__(self) -> str:
        *entities, (_, suffix) = self.entities.items()
        return "_".join([*(f"{key}-{value}" for key, value in entities), suffix])


def find_bids_sets(
    folder: str | Path, select: Mapping[str, str | Sequence[str]] | None = None
) -> list[BidsSet]:
    """Find the sets of relaxation images in a folder in BIDS, in any depth.

    Parameters
    ----------
    folder : path-like
        Folder of a data set, a subject, a session, or of images. Folders `derivatives`,
        `sourcedata` and `code` of a data set are left out.
    select : mapping of str to str or sequence of str, optional
        Values of entities or of the suffix that the files must have, such as
        ``{"sub": "01", "suffix": "MESE"}``. ``{"part": ""}`` selects files without that entity.

    Returns
    -------
    list of BidsSet
        Sets of files with the suffix IRT1 or MESE, or that of `select`. Files of a set differ in
        inv, echo, part and in n of acq-TI<n> or acq-TE<n> alone.

    Raises
    ------
    NotADirectoryError
        If there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {folder}")
    wanted = {key: (value,) if isinstance(value, str) else tuple(value)
              for key, value in (select or {}).items()}  # fmt: skip
    suffixes = wanted.pop("suffix", SUFFIXES)
    found: dict[tuple[tuple[str, str], ...], list[BidsName]] = {}
    for path in sorted(folder.rglob("*")):
        within = path.relative_to(folder).parts
        if not path.name.lower().endswith(ENDINGS) or path.name.startswith("."):
            continue
        if within[0] in ("derivatives", "sourcedata", "code"):
            continue
        name = BidsName.from_path(path)
        if name.suffix not in suffixes or not name.entities:
            continue
        if all(name.entities.get(key, "") in values for key, values in wanted.items()):
            found.setdefault(name.set_key, []).append(name)
    return [
        BidsSet(dict(key), tuple(one.path for one in sorted(names, key=_sorting_key)))
        for key, names in sorted(found.items())
    ]


def _sorting_key(name: BidsName) -> tuple[Any, ...]:
    return (name.order, name.part, name.path.name)


def single_set(folder: str | Path, select: Mapping[str, Any] | None) -> BidsSet:
    """Return the only set of a folder.

    Raises
    ------
    ValueError
        If there is none, or several.
    """
    sets = find_bids_sets(folder, select)
    which = "" if not select else f" with {dict(select)}"
    if not sets:
        raise ValueError(
            f"{folder} has no images{which} whose names end in _{' or _'.join(SUFFIXES)} "
            f"(.nii or .nii.gz), such as sub-01_acq-TI1_echo-1_MESE.nii.gz"
        )
    if len(sets) > 1:
        raise ValueError(
            f"{folder} has {len(sets)} sets of images{which}: {', '.join(map(str, sets))}; choose "
            "one, such as select={'suffix': 'MESE'} or select={'sub': '01'}, and join series of "
            "the same slice with MeasuredImages.concatenate"
        )
    return sets[0]


# -- order and parts --------------------------------------------------------------


def check_numeric_order(paths: Sequence[Path]) -> None:
    """Refuse files whose numbers descend, such as echo-10 before echo-2.

    Raises
    ------
    ValueError
        If two consecutive files of one set are not in numeric order.
    """
    names = [BidsName.from_path(path) for path in paths]
    for first, second in itertools.pairwise(names):
        same = first.set_key == second.set_key and first.indices.keys() == second.indices.keys()
        if same and second.order < first.order:
            raise ValueError(
                f"the files are not in numeric order, {first.path.name} is before "
                f"{second.path.name}, so that their order and that of the times may differ; sort "
                "the files by number, or leave out the times if there are sidecars"
            )


def with_parts(paths: Sequence[Path]) -> list[dict[str, Path]]:
    """Group files of the same measurement by the entity part.

    Parameters
    ----------
    paths : sequence of Path
        Files of a set.

    Returns
    -------
    list of dict of str to Path
        Files by part, "" for files without that entity, of each measurement in the order of the
        files.

    Raises
    ------
    ValueError
        If a part is unknown, or a measurement lacks a part that others have.
    """
    grouped: dict[tuple[Any, ...], dict[str, Path]] = {}
    for number, path in enumerate(paths):
        name = BidsName.from_path(path)
        if name.part not in ("", *_PARTS):
            raise ValueError(
                f"{path.name} has the part {name.part!r}; parts are {', '.join(_PARTS)}"
            )
        key = (path.parent, name.set_key, name.order) if name.part else (number,)
        grouped.setdefault(key, {})[name.part] = path
    every = Counter(frozenset(parts) for parts in grouped.values())
    usual = every.most_common(1)[0][0]
    for parts in grouped.values():
        if parts.keys() != usual:
            raise ValueError(
                f"{next(iter(parts.values())).name} has the parts {_listed(parts)}, but other "
                f"measurements of the set have {_listed(usual)}"
            )
    if usual not in ({""}, {"mag"}, {"real"}, {"mag", "phase"}, {"real", "imag"}):
        raise ValueError(
            f"{next(iter(paths)).name} and others have the parts {_listed(usual)}; signals need "
            "mag, real, mag and phase, or real and imag: choose with "
            + worded(
                "select={'part': 'mag'} or select={'part': ['mag', 'phase']}",
                "--select part=mag, or --select part=mag --select part=phase",
            )
        )
    return list(grouped.values())


def _listed(parts: Iterable[str]) -> str:
    return " and ".join(part or "none" for part in sorted(parts))


# -- sidecars ---------------------------------------------------------------------


def sidecar_of(path: Path) -> dict[str, Any] | None:
    """Content of the sidecars of an image, with those that it inherits.

    Parameters
    ----------
    path : Path
        Image file.

    Returns
    -------
    dict or None
        Entries of the sidecar beside the file, and of those in the folders above, up to that of
        the data set, whose name has the same suffix and no other entities. None without a sidecar.

    Raises
    ------
    ValueError
        If a sidecar is not a JSON object.
    """
    own = path.parent / f"{stem_of(path)}.json"
    name = BidsName.from_path(path)
    content: dict[str, Any] | None = None
    for folder in reversed(_folders_of(path)) if name.entities else [path.parent]:
        for candidate in sorted(folder.glob("*.json"), key=lambda file: len(file.name)):
            if candidate != own and not _applies(BidsName.from_path(candidate), name):
                continue
            entries = read_json(candidate)
            if not isinstance(entries, dict):
                # lists of sidecars, one for each volume, are read with `times`
                raise InvalidFileError(f"{candidate} is not a sidecar: expected a JSON object")
            content = (content or {}) | entries
    return content


def dataset_folder(path: Path) -> Path | None:
    """Folder of the data set of a file; None if there is no dataset_description.json above it."""
    for folder in list(path.absolute().parents)[: _MOST_PARENTS + 1]:
        if (folder / _DESCRIPTION).is_file():
            return folder
    return None


def is_brain_mask(path: str | Path) -> bool:
    """Return whether name or sidecar of a mask in BIDS state that it is one of the brain.

    Parameters
    ----------
    path : path-like
        File of the mask.

    Returns
    -------
    bool
        True for names with desc-brain, and for sidecars with ``"Type": "Brain"``.

    Raises
    ------
    ValueError
        If a sidecar is not a JSON object.
    """
    path = Path(path)
    if BidsName.from_path(path).entities.get("desc") == "brain":
        return True
    return (sidecar_of(path) or {}).get("Type") == "Brain"


def _folders_of(path: Path) -> list[Path]:
    """Folders from that of a file to that of its data set."""
    top = dataset_folder(path)
    parents = list(path.absolute().parents)
    if top is None:
        return [path.parent]
    return parents[: parents.index(top) + 1]


def _applies(sidecar: BidsName, image: BidsName) -> bool:
    if sidecar.path.name == _DESCRIPTION:
        return False
    text = sidecar.path.name.removesuffix(".json")
    if text == image.suffix:  # MESE.json
        return True
    return (
        sidecar.suffix == image.suffix
        and bool(sidecar.entities)
        and sidecar.entities.items() <= image.entities.items()
    )


def times_of(content: Mapping[str, Any], where: str) -> dict[str, NDArray[np.float64]]:
    """Times of a sidecar, by scan parameter, in ms.

    Parameters
    ----------
    content : mapping
        Entries of the sidecar, in seconds.
    where : str
        Name of the image, for messages.

    Returns
    -------
    dict of str to ndarray
        Values by scan parameter and TR; one value, or one for each volume.

    Raises
    ------
    ValueError
        If an entry is no number, or its value is not plausible in seconds.
    """
    found: dict[str, NDArray[np.float64]] = {}
    for key, name in TIMES.items():
        if content.get(key) is None or name in found:
            continue
        values = np.ravel(np.asarray(content[key]))
        if values.dtype.kind not in "iuf" or not values.size:
            raise ValueError(
                f"{key} in the sidecar of {where} must have numbers, got {content[key]!r}"
            )
        quantity = scan_quantities()[name]
        found[name] = quantity.converted(values.astype(np.float64), "s")
        largest = float(found[name][np.isfinite(found[name])].max(initial=0))
        if largest > quantity.largest_maximum:
            raise ValueError(
                f"{key} in the sidecar of {where} is {largest / 1e3:g}, which is no time in "
                f"seconds, the unit of BIDS ({largest / 1e6:g} s would be "
                f"{largest / 1e3:g} ms); correct the sidecar, or pass the times"
            )
    return found


def check_times(paths: Sequence[Path], times: Sequence[Mapping[str, float]]) -> None:
    """Compare the times of sidecars with the numbers in the names of their files.

    Parameters
    ----------
    paths : sequence of Path
        Files of a set.
    times : sequence of mapping of str to float
        Times of each file, in ms.

    Raises
    ------
    ValueError
        If sidecars contradict each other: the same TI, TE for different numbers, different ones
        for the same number, or a TE that does not ascend with echo.
    """
    names = [BidsName.from_path(path) for path in paths]
    measured = sorted(zip(names, times, strict=True), key=lambda item: _sorting_key(item[0]))
    for key, parameter in (("inv", "TI"), ("acq-TI", "TI"), ("echo", "TE"), ("acq-TE", "TE")):
        numbered = [
            (name, one[parameter]) for name, one in measured
            if key in name.indices and parameter in one
        ]  # fmt: skip
        groups: dict[Any, dict[Any, tuple[BidsName, float]]] = {}
        for name, value in numbered:
            # acq-TI1 has one TI in all of its files, echo-1 one TE within a train
            others = tuple(item for item in name.indices.items() if item[0] != key)
            group = groups.setdefault((name.set_key, others if key in _INDICES else ()), {})
            before, earlier = group.setdefault(name.indices[key], (name, value))
            if earlier != value:
                raise ValueError(
                    f"the sidecars of {before.path.name} and {name.path.name} contradict each "
                    f"other: {_ENTRY[parameter]} is {earlier / 1e3:g} and {value / 1e3:g} s, "
                    f"with the same {key}"
                )
        for group in groups.values():
            _check_distinct(list(group.values()), parameter, in_order=key == "echo")


def _check_distinct(
    found: Sequence[tuple[BidsName, float]], parameter: str, *, in_order: bool
) -> None:
    """Refuse equal times of files with different numbers, and echoes in another order."""
    by_value = sorted(found, key=lambda item: item[1])
    pairs = [pair for pair in itertools.pairwise(by_value) if pair[0][1] == pair[1][1]]
    note = "though their numbers differ"
    if not pairs and in_order:
        pairs = [pair for pair in itertools.pairwise(found) if pair[0][1] > pair[1][1]]
        note = "but echoes are numbered in the order of their times"
    if pairs:
        (name, value), (other, later) = pairs[0]
        raise ValueError(
            f"the sidecars of {name.path.name} and {other.path.name} contradict their names: "
            f"{_ENTRY[parameter]} is {value / 1e3:g} and {later / 1e3:g} s, {note}"
        )
