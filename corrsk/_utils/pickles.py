"""Pickles of estimators of earlier versions."""

from __future__ import annotations

import inspect
from typing import Any


class EarlierPicklesMixin:
    """Mixin of estimators that are unpickled with the defaults of parameters a pickle lacks.

    An earlier version, without these parameters, behaved as their defaults do. The mixin comes
    before `BaseEstimator` among the base classes.
    """

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if parameter.default is not parameter.empty and name not in vars(self):
                setattr(self, name, parameter.default)
