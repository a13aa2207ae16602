"""Versions of packages and type of the machine, stored with results."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = ("corrsk", "numba", "numpy", "scikit-learn", "skorch", "torch")


def environment(threads: int, *, more_packages: Iterable[str] = ()) -> dict[str, Any]:
    """Versions of packages and type of the machine, for storage with results."""
    return {
        "python": platform.python_version(),
        **versions(more_packages),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": threads,
    }


def versions(more_packages: Iterable[str] = ()) -> dict[str, str]:
    """Versions of corrsk and of the packages on which its numbers depend."""
    return {name: _version(name) for name in (*_PACKAGES, *more_packages)}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
