"""Renamed parameters and attributes: old names work for one release, with a warning."""

from __future__ import annotations

import functools
import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Renamed:
    """New name of a parameter, with a conversion of old values.

    Parameters
    ----------
    name : str
        The new name.
    value : callable
        Function from an old value to the new value.
    """

    name: str
    value: Callable[[Any], Any] = lambda value: value


# `normalize=True` was the 2-norm
RENAMED_NORMALIZE = Renamed("norm", lambda normalize: "l2" if normalize else None)


def renamed_parameters(**renamed: Renamed | str) -> Callable[[Function], Function]:
    """Decorator that accepts the old names of parameters of a function or an `__init__`.

    Parameters
    ----------
    **renamed : Renamed or str
        The new name of each old name. A keyword argument with an old name gives a
        FutureWarning and is passed under the new name.

    Returns
    -------
    callable
        The decorator. The signature stays, so that scikit-learn finds the parameters.
    """
    table = {old: new if isinstance(new, Renamed) else Renamed(new) for old, new in renamed.items()}

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def accepting_old_names(*args: Any, **kwargs: Any) -> Any:
            if not table.keys().isdisjoint(kwargs):
                kwargs = with_new_names(kwargs, table, _owner(function), stacklevel=3)
            return function(*args, **kwargs)

        return accepting_old_names  # type: ignore[return-value]

    return decorate


def with_new_names(
    arguments: Mapping[str, Any], renamed: Mapping[str, Renamed], where: str, *, stacklevel: int
) -> dict[str, Any]:
    """Replace old names of keyword arguments by new ones, with a FutureWarning each.

    Parameters
    ----------
    arguments : mapping
        Keyword arguments.
    renamed : mapping of str to Renamed
        The new name of each old name.
    where : str
        Name of the function or class, for the messages.
    stacklevel : int
        Stack level of the warnings.

    Returns
    -------
    dict
        Keyword arguments under the new names.

    Raises
    ------
    TypeError
        If an argument is given under both names.
    """
    found = {}
    for name, value in arguments.items():
        new = renamed.get(name)
        if new is None:
            found[name] = value
            continue
        if new.name in arguments:
            raise TypeError(f"{where} got {name} and {new.name}, which are the same parameter")
        value = new.value(value)
        warnings.warn(
            f"the parameter {name} of {where} is now {new.name}={value!r}; the old name will be "
            "removed in the next release",
            FutureWarning,
            stacklevel=stacklevel,
        )
        found[new.name] = value
    return found


def removed_parameters(**reasons: str) -> Callable[[Function], Function]:
    """Decorator that ignores removed parameters of a function, with a FutureWarning each.

    Parameters
    ----------
    **reasons : str
        For each removed name the end of the message: the reason, or the replacement.

    Returns
    -------
    callable
        The decorator.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def ignoring_old_names(*args: Any, **kwargs: Any) -> Any:
            for name in reasons.keys() & kwargs:
                del kwargs[name]
                warnings.warn(
                    f"the parameter {name} of {_owner(function)} is ignored: {reasons[name]}",
                    FutureWarning,
                    stacklevel=2,
                )
            return function(*args, **kwargs)

        return ignoring_old_names  # type: ignore[return-value]

    return decorate


def renamed_method(new: str) -> Callable[[Function], Function]:
    """Decorator of a method's old name, which calls the new one with a FutureWarning.

    Parameters
    ----------
    new : str
        The new name.

    Returns
    -------
    callable
        The decorator. The body of the decorated method is not used.
    """

    def decorate(method: Function) -> Function:
        @functools.wraps(method)
        def calling_the_new_one(self: Any, *args: Any, **kwargs: Any) -> Any:
            warnings.warn(
                f"{_owner(method)} is now {new}; the old name will be removed in the next release",
                FutureWarning,
                stacklevel=2,
            )
            return getattr(self, new)(*args, **kwargs)

        return calling_the_new_one  # type: ignore[return-value]

    return decorate


def renamed_attributes(module: str, **moved: str) -> Callable[[str], Any]:
    """Module-level `__getattr__` for names that have moved or changed.

    Parameters
    ----------
    module : str
        Name of the module.
    **moved : str
        The new name of each old name, as "package.module.name"; further parts are attributes.

    Returns
    -------
    callable
        The `__getattr__`, which gives a DeprecationWarning for each use of an old name.
    """

    def get(name: str) -> Any:
        if name not in moved:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"{module}.{name} is now {moved[name]}; the old name will be removed in the next "
            "release",
            DeprecationWarning,
            stacklevel=2,
        )
        return _resolved(moved[name])

    return get


def _resolved(path: str) -> Any:
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        return functools.reduce(getattr, parts[length:], found)
    raise ModuleNotFoundError(path)


def _owner(function: Callable[..., Any]) -> str:
    """Name of a function for messages; for an `__init__` the name of its class."""
    name = inspect.unwrap(function).__qualname__
    return name.removesuffix(".__init__")
