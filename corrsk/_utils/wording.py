"""Advice of messages in the words of the interface in use: Python, or the command `corrsk`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_depth = 0  # of blocks of commands; not a context variable, which threads would not share


@contextmanager
def for_commands() -> Iterator[None]:
    """Use the words of commands in the messages of a block, in all threads."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def in_command() -> bool:
    """Whether the words of commands are in use, for other processes that work for this one."""
    return _depth > 0


def worded(python: str, command: str) -> str:
    """Choose the words of the interface in use.

    Parameters
    ----------
    python : str
        Advice for callers of functions.
    command : str
        Advice for users of the command, with its options.

    Returns
    -------
    str
        One of both.
    """
    return command if _depth else python
