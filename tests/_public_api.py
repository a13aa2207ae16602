"""Names, signatures and commands that users may depend on, one a line.

    python -m tests._public_api

writes them to tests/public_api.txt, after a change that CHANGELOG.md announces.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import corrsk
from corrsk.cli.app import app

RECORD = Path(__file__).with_name("public_api.txt")
_WORKFLOWS = ("comparison", "mapping", "paper", "reproduction", "training")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def lines() -> list[str]:
    """The public interface, sorted."""
    found = {f"corrsk.{name}" for name in corrsk.__all__}
    packages = [name for name in corrsk._PACKAGES if name != "workflows"]
    for package in (*packages, *(f"workflows.{name}" for name in _WORKFLOWS)):
        module = importlib.import_module(f"corrsk.{package}")
        names = getattr(module, "__all__", None) or _own_names(module)
        for name in names:
            found |= set(_lines_of(f"corrsk.{package}.{name}", getattr(module, name)))
    return sorted(found | set(_commands()))


def _own_names(module: Any) -> list[str]:
    """Public names that a module without `__all__` defines."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]


def _lines_of(name: str, value: Any) -> Iterator[str]:
    if not inspect.isclass(value):
        yield name + (_signature(value) if callable(value) else f": {type(value).__name__}")
        return
    yield name + _signature(value)
    for member, content in inspect.getmembers(value):
        owner = next((cls for cls in value.__mro__ if member in vars(cls)), object)
        requests = member.startswith("set_") and member.endswith("_request")  # of scikit-learn
        if member.startswith("_") or requests or not owner.__module__.startswith("corrsk"):
            continue
        yield f"{name}.{member}" + (_signature(content) if callable(content) else "")


def _signature(value: Any) -> str:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return "(..)"
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    plain = signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    return _ADDRESS.sub("", str(plain))


def _commands() -> Iterator[str]:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            yield f"$ corrsk {name} {' '.join([*parameter.opts, *parameter.secondary_opts])}"


if __name__ == "__main__":
    RECORD.write_text("\n".join(lines()) + "\n", encoding="utf-8")
