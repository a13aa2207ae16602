"""Deprecated module; use :func:`corrsk.model_selection.cluster_search`."""

from __future__ import annotations

import warnings

from corrsk.model_selection.cluster import cluster_search

__all__ = ["cluster_search"]

warnings.warn(
    "corrsk.cluster is deprecated and will be removed in the next release; import cluster_search "
    "from corrsk.model_selection",
    DeprecationWarning,
    stacklevel=2,
)
