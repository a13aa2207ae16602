"""Optional dependencies, and the command that installs them."""

from __future__ import annotations

import importlib.util


def require(*modules: str, extra: str, purpose: str) -> None:
    """Refuse to go on without the modules of an extra.

    Parameters
    ----------
    *modules : str
        Names under which they are imported.
    extra : str
        The extra of corrsk that installs them.
    purpose : str
        What they are needed for: the subject of the message.

    Raises
    ------
    ImportError
        If a module is not installed; one sentence with the command that installs it.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{purpose} needs {' and '.join(missing)}: {install_command(extra)}")


def install_command(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'corrsk[{extra}]'"
