"""scikit-learn's callbacks of fits; without effect before scikit-learn 1.9."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["CallbackSupportMixin", "with_callbacks"]

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:
    Function = TypeVar("Function", bound=Callable[..., Any])

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Empty class, in place of scikit-learn's."""

    def with_callbacks(method: Function) -> Function:
        """Return the method itself."""
        return method
