"""Model selection: protocols as hyperparameters, stacked networks, searches on dask clusters."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from corrsk.model_selection.cluster import cluster_search
from corrsk.model_selection.protocol_design import (
    ProtocolGrids,
    ProtocolSelection,
    selected_protocol,
)

if TYPE_CHECKING:
    from corrsk.model_selection.stacked_search import StackedGridSearchCV

__all__ = [
    "ProtocolGrids",
    "ProtocolSelection",
    "StackedGridSearchCV",
    "cluster_search",
    "selected_protocol",
]


def __getattr__(name: str) -> Any:
    if name == "StackedGridSearchCV":  # imports torch, which the others do not need
        return importlib.import_module("corrsk.model_selection.stacked_search").StackedGridSearchCV
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
