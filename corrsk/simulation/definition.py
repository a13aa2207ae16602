"""Definition of simulated signals: prior, protocol, noise and norm, in Python or in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from corrsk._utils.configuration import read_configuration, write_configuration
from corrsk._utils.files import MISFITS, InvalidFileError
from corrsk._utils.validation import check_entries, is_number
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.physics import NOISE_DISTRIBUTIONS, NOISE_REFERENCES, NORMS
from corrsk.physics.magnitudes import checked_coils
from corrsk.physics.noise_levels import SNRRange, checked_noise_levels
from corrsk.simulation._source import check_measurable
from corrsk.tissue.lobes import sampled_prior, sampled_prior_from_dict
from corrsk.tissue.prior import TissuePrior, resolve_prior
from corrsk.tissue.sampling import SampledPrior

_ENTRIES = (
    "name", "description", "prior", "protocol", "noise", "inversion_efficiency", "norm"
)  # fmt: skip
_NOISE_ENTRIES = ("levels", "snr", "snr_scale", "reference", "distribution", "coils")


@dataclass(frozen=True)
class DatasetDefinition:
    """Definition of a simulated data set.

    Every command of the command line takes a definition in a file (``--config FILE``); see
    :meth:`from_file`.

    Parameters
    ----------
    name : str
        Name of the data set.
    prior : TissuePrior, LobePrior or str
        Distribution of the tissue.
    protocol : AcquisitionProtocol or str
        Acquisition protocol.
    noise_levels : float, sequence of float or SNRRange
        Noise levels as fractions of the noise reference, all equally frequent, or a range of
        signal-to-noise ratios.
    noise_reference : {"m0", "max", "rms", "first"}
        Reference of the noise levels; see :func:`corrsk.physics.noise_sigma`.
    description : str, default=""
        Text for the `DESCR` of the data set.
    norm : {"l2", "rms", "max"} or None, default="l2"
        Norm by which each signal is divided.
    noise_distribution : {"gaussian", "rician"}, default="gaussian"
        Distribution of the noise; see :class:`corrsk.CorrelationSignalGenerator`.
    inversion_efficiency : float, default=1.0
        Inversion efficiency eta in (0, 1].
    n_coils : int, default=1
        Number of coils of Rician noise; see :class:`corrsk.CorrelationSignalGenerator`.

    Raises
    ------
    ValueError
        If a parameter is invalid or a name unknown, or the protocol measures a property without
        range in the prior.
    """

    name: str
    prior: SampledPrior | str
    protocol: AcquisitionProtocol | str
    noise_levels: float | tuple[float, ...] | SNRRange
    noise_reference: str
    description: str = ""
    norm: str | None = "l2"
    noise_distribution: str = "gaussian"
    inversion_efficiency: float = 1.0
    n_coils: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or set(self.name) & set("/\\"):
            raise ValueError(f"name must be a text without slashes, got {self.name!r}")
        if not isinstance(self.description, str):
            raise ValueError(f"description must be a text, got {self.description!r}")
        with _named("prior"):
            prior = sampled_prior(self.prior)
        with _named("protocol"):
            protocol = resolve_protocol(self.protocol)
        check_measurable(prior, protocol)
        with _named("noise levels"):
            levels = checked_noise_levels(self.noise_levels)
        if not isinstance(levels, SNRRange):
            object.__setattr__(self, "noise_levels", tuple(levels.tolist()))
        _check_choice("noise reference", self.noise_reference, NOISE_REFERENCES)
        _check_choice("noise distribution", self.noise_distribution, NOISE_DISTRIBUTIONS)
        checked_coils(self.n_coils, self.noise_distribution)
        _check_choice("norm", self.norm, (*NORMS, None))
        efficiency = self.inversion_efficiency
        if not is_number(efficiency) or not 0 < efficiency <= 1:
            raise ValueError(f"inversion_efficiency must be in (0, 1], got {efficiency!r}")

    @property
    def noise_unit(self) -> str:
        """Unit of noise levels in figures and tables of these data: "percent" or "snr"."""
        return "snr" if isinstance(self.noise_levels, SNRRange) else "percent"

    @property
    def tissue_prior(self) -> TissuePrior | str:
        """The prior or its name, of data with discrete compartments; TypeError for lobes."""
        return self.prior if isinstance(self.prior, str) else resolve_prior(self.prior)

    def resolved(self) -> DatasetDefinition:
        """Replace the names of a prior and a protocol by their content.

        Returns
        -------
        DatasetDefinition
            The definition, independent of the names that corrsk ships.
        """
        return replace(
            self, prior=sampled_prior(self.prior), protocol=resolve_protocol(self.protocol)
        )

    def check_for_training(self) -> None:
        """Check that a classifier can be trained on the data.

        Raises
        ------
        ValueError
            If the prior has a single compartment count.
        """
        counts = sampled_prior(self.prior).n_compartments
        if len(counts) < 2:
            raise ValueError(
                f"the prior of {self.name} has voxels of {counts[0]} compartments only; a "
                "classifier needs at least two of n_compartments"
            )

    # -- plain values and files ----------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Convert the definition to plain values, for files.

        Returns
        -------
        dict
            Entries as in a file; see :meth:`from_file`. Names of priors and protocols stay names.
        """
        prior, protocol = self.prior, self.protocol
        levels: dict[str, Any] = (
            {"snr": [self.noise_levels.low, self.noise_levels.high]}
            | ({"snr_scale": "log"} if self.noise_levels.scale == "log" else {})
            if isinstance(self.noise_levels, SNRRange)
            else {"levels": checked_noise_levels(self.noise_levels).tolist()}  # type: ignore[union-attr]
        )
        return {
            "name": self.name,
            "description": self.description,
            "prior": prior if isinstance(prior, str) else prior.to_dict(),
            "protocol": protocol if isinstance(protocol, str) else protocol.to_dict(),
            "noise": levels
            | {"reference": self.noise_reference, "distribution": self.noise_distribution}
            # an entry that the files of one coil lack
            | ({} if self.n_coils == 1 else {"coils": self.n_coils}),
            "inversion_efficiency": self.inversion_efficiency,
            "norm": self.norm,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> DatasetDefinition:
        """Create the definition that :meth:`to_dict` converted.

        Parameters
        ----------
        content : mapping
            Entries as in a file; see :meth:`from_file`. `name` is required.

        Returns
        -------
        DatasetDefinition
            The definition.

        Raises
        ------
        ValueError
            If an entry is unknown, missing or invalid; the message has the entry, its value, and
            what is allowed.
        FileNotFoundError
            If the protocol is a file that does not exist.
        """
        return cls._from_content(content, Path())

    @classmethod
    def _from_content(cls, content: Mapping[str, Any], folder: Path) -> DatasetDefinition:
        check_entries(
            "a definition", content, allowed=_ENTRIES,
            required=("name", "prior", "protocol", "noise"),
        )  # fmt: skip
        noise = content["noise"]
        check_entries("noise", noise, allowed=_NOISE_ENTRIES, required=("reference",))
        if ("levels" in noise) == ("snr" in noise):
            raise ValueError(
                "noise needs either levels, fractions such as [0.01, 0.02], or snr, the bounds of "
                f"a range such as [30, 150]; got {', '.join(noise)}"
            )
        prior, protocol = content["prior"], content["protocol"]
        with _named("prior"):
            prior = prior if isinstance(prior, str) else sampled_prior_from_dict(prior)
        with _named("protocol"):
            protocol = _protocol(protocol, folder)
        with _named("noise levels"):
            if "levels" in noise:
                if "snr_scale" in noise:
                    raise ValueError("snr_scale needs snr, the bounds of a range")
                levels: Any = _levels(noise["levels"])
            else:
                levels = _snr_range(noise["snr"], noise.get("snr_scale", "linear"))
        optional = {
            key: content[key]
            for key in ("description", "inversion_efficiency", "norm")
            if key in content
        }
        if "distribution" in noise:
            optional["noise_distribution"] = noise["distribution"]
        if "coils" in noise:
            optional["n_coils"] = noise["coils"]
        return cls(content["name"], prior, protocol, levels, noise["reference"], **optional)

    def to_file(self, path: str | Path) -> None:
        """Write the definition to a file that :meth:`from_file` reads.

        Parameters
        ----------
        path : path-like
            File to write: ".json", or ".yaml" with the extra `corrsk[cli]`.

        Raises
        ------
        ValueError
            If the suffix is unknown.
        ImportError
            If the file is YAML and PyYAML is not installed.
        """
        write_configuration(path, self.to_dict())

    @classmethod
    def from_file(cls, path: str | Path) -> DatasetDefinition:
        """Read a definition from a JSON, YAML or TOML file.

        Parameters
        ----------
        path : path-like
            File with the entries

            - `prior`: a name, or the entries of :meth:`corrsk.TissuePrior.from_dict` or
              :meth:`corrsk.tissue.LobePrior.from_dict`;
            - `protocol`: a name, a .json or .mat file relative to the folder of this file, or the
              entries of :meth:`corrsk.AcquisitionProtocol.from_dict`;
            - `noise`: `levels` (fractions of the reference) or `snr` (smallest and largest
              signal-to-noise ratio, with `snr_scale` "linear" or "log"), `reference`, and
              optionally `distribution` and `coils` (number of coils of Rician noise);
            - optionally `name` (by default that of the file, without suffix), `description`,
              `inversion_efficiency` and `norm` (null for none).

        Returns
        -------
        DatasetDefinition
            The definition.

        Raises
        ------
        FileNotFoundError
            If the file, or that of the protocol, does not exist.
        InvalidFileError
            If the file is not readable, or an entry is unknown, missing or invalid; the message
            has the entry, its value, and what is allowed.
        ImportError
            If the file is YAML and PyYAML is not installed.
        """
        path = Path(path)
        content = read_configuration(path)
        try:
            return cls._from_content({"name": path.stem} | content, path.parent)
        except MISFITS as error:
            raise InvalidFileError(f"{path}: {error}") from error


def protocol_or_name(name: str, folder: Path | None = None) -> AcquisitionProtocol | str:
    """Read a protocol from a file; return the name of a protocol unchanged.

    Parameters
    ----------
    name : str
        Path of a .json or .mat file, or name of a protocol.
    folder : Path, optional
        Folder that the path is relative to; None (default) for the working folder.

    Returns
    -------
    AcquisitionProtocol or str
        The protocol, or its name.
    """
    path = (folder or Path()) / name
    match path.suffix:
        case ".json":
            return AcquisitionProtocol.from_json(path)
        case ".mat":
            return AcquisitionProtocol.from_mat(path)
    return name


def _protocol(content: Any, folder: Path) -> AcquisitionProtocol | str:
    if isinstance(content, str):
        return protocol_or_name(content, folder)
    try:
        return AcquisitionProtocol.from_dict(content)
    except KeyError:
        raise ValueError(
            "lacks contrasts (one entry per measurement) or grid (the levels of a grid), such as "
            '{"grid": {"TI": [50, 400, 2000], "TE": [10, 40]}}'
        ) from None


def _levels(content: Any) -> tuple[float, ...]:
    levels = content if isinstance(content, (list, tuple)) else [content]
    if not all(map(is_number, levels)):
        raise ValueError(
            f"levels must be a fraction or a list such as [0.01, 0.02], got {content!r}"
        )
    return tuple(map(float, levels))


def _snr_range(content: Any, scale: str) -> SNRRange:
    bounds = content if isinstance(content, (list, tuple)) else [content, content]
    if len(bounds) != 2 or not all(map(is_number, bounds)):
        raise ValueError(f"snr must be a number or two bounds such as [30, 150], got {content!r}")
    low, high = map(float, bounds)
    return SNRRange(low, high, scale)


def _check_choice(name: str, value: Any, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        valid = ", ".join("null" if item is None else item for item in allowed)
        raise ValueError(f"{name} must be one of {valid}; got {value!r}")


@contextmanager
def _named(entry: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{entry}: {error}") from error
