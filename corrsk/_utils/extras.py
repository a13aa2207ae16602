"""Optional dependencies, and the command that installs them."""

from __future__ import annotations

import importlib.util
from functools import cache
from importlib import import_module
from types import ModuleType


def require(*modules: str, extra: str, purpose: str) -> None:
    """Raise an ImportError if a module of an extra is not installed.

    Parameters
    ----------
    *modules : str
        Names of the modules.
    extra : str
        The extra of corrsk that installs the modules.
    purpose : str
        The function that needs the modules: the subject of the message.

    Raises
    ------
    ImportError
        If a module is not installed; the message has the command that installs it.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{purpose} needs {' and '.join(missing)}: {install_command(extra)}")


def install_command(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'corrsk[{extra}]'"


@cache
def compiled_module(name: str) -> ModuleType | None:
    """Module of compiled functions, imported on first use; None without numba.

    Parameters
    ----------
    name : str
        Full name of the module.

    Returns
    -------
    module or None
        The module.
    """
    return None if importlib.util.find_spec("numba") is None else import_module(name)
