"""Caught warnings that belong into a record."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

_NOT_OF_DATA = DeprecationWarning, PendingDeprecationWarning, ResourceWarning


def texts_of(caught: Sequence[warnings.WarningMessage]) -> list[tuple[str, str]]:
    """Categories and texts of caught warnings that are about the data.

    Deprecations are for developers, and the garbage collector may warn of the resources of any
    other code of the process.

    Parameters
    ----------
    caught : sequence of WarningMessage
        Warnings.

    Returns
    -------
    list of (str, str)
        Name of the category, and text.
    """
    return [
        (one.category.__name__, str(one.message)) for one in caught
        if not issubclass(one.category, _NOT_OF_DATA)
    ]  # fmt: skip
