"""Readable files of nested values: JSON, YAML and TOML."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from corrsk._utils.extras import require
from corrsk._utils.files import (
    MISFITS,
    InvalidFileError,
    existing_file,
    parse_json,
    write_atomically,
    write_json,
)

_YAML = (".yaml", ".yml")
_TOML = (".toml",)
_MOST_ALIASES = 20


def read_configuration(path: str | Path) -> dict[str, Any]:
    """Read a mapping from a JSON, YAML or TOML file.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ImportError
        If the file is YAML and PyYAML is not installed.
    ValueError
        If the suffix is unknown.
    InvalidFileError
        If the content is not JSON, YAML or TOML or no mapping, or has an entry twice.
    """
    path = existing_file(path)
    _check_suffix(path, _TOML)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidFileError(f"{path} is not a text file: {error}") from error
    if path.suffix in _YAML:
        content = _parse_yaml(text, path)
    elif path.suffix in _TOML:
        try:
            content = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidFileError(f"{path} is not a TOML file: {error}") from error
    else:
        content = parse_json(text, path, _without_repeats)
    if not isinstance(content, dict):
        raise InvalidFileError(
            f"{path} must hold entries such as 'prior: midl2024', got {content!r:.60}"
        )
    return content


def write_configuration(path: str | Path, content: dict[str, Any]) -> None:
    """Write a mapping to a JSON or YAML file, by its suffix.

    Raises
    ------
    ImportError
        If the file is YAML and PyYAML is not installed.
    ValueError
        If the suffix is unknown.
    """
    path = Path(path)
    _check_suffix(path)
    if path.suffix not in _YAML:
        write_json(path, content)
        return
    import yaml

    with write_atomically(path) as partial:
        # lists of numbers in one line
        text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True)
        partial.write_text(text, encoding="utf-8")


def _check_suffix(path: Path, further: tuple[str, ...] = ()) -> None:
    suffixes = (".json", *_YAML, *further)
    if path.suffix not in suffixes:
        raise ValueError(f"{path} must end in one of {', '.join(suffixes)}")
    if path.suffix in _YAML:
        require("yaml", extra="cli", purpose=f"the file {path}")


def _without_repeats(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    content: dict[Any, Any] = {}
    for key, value in pairs:
        if key in content:  # the parsers would keep the last one
            raise ValueError(f"the entry {key!r} occurs twice")
        content[key] = value
    return content


def _parse_yaml(text: str, path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            _without_repeats([(key.value, value) for key, value in node.value])
            return super().construct_mapping(node, deep)

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                self.n_aliases = getattr(self, "n_aliases", 0) + 1
                if self.n_aliases > _MOST_ALIASES:  # lists of lists of aliases grow exponentially
                    raise ValueError(f"there are more than {_MOST_ALIASES} aliases")
            return super().compose_node(parent, index)

    # YAML 1.1, which PyYAML reads, takes 1e-3 for text; YAML 1.2 and JSON take it for a number
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, *MISFITS) as error:
        reason = " ".join(str(error).split())
        raise InvalidFileError(f"{path} is not a YAML file: {reason}") from error
