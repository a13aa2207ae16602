"""Windows: ranges of tissue properties that have a name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Windows[name] has the limits of each property; see Spectra.window_fractions
Windows = Mapping[str, Mapping[str, tuple[float, float]]]


def check_windows(windows: Windows, properties: Iterable[str]) -> None:
    """Check that windows have ascending limits of known properties.

    Parameters
    ----------
    windows : mapping of str to mapping of str to (low, high)
        Limits of the properties of each window, by its name.
    properties : iterable of str
        The properties that there are.

    Raises
    ------
    ValueError
        If the windows are no mapping, there are none, a window has limits of another property, or
        limits are no pair or not ascending.
    """
    known = list(properties)
    if not isinstance(windows, Mapping):
        raise ValueError(
            "windows must be a mapping such as {'myelin water': {'T2': (0, 40)}}; got "
            f"{windows!r:.60}"
        )
    if not windows:
        raise ValueError("there are no windows; {'myelin water': {'T2': (0, 40)}} has one")
    for window, limits in windows.items():
        given = limits.items() if isinstance(limits, Mapping) else [(None, None)]
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for _, pair in given):
            raise ValueError(
                f"the window {window!r} needs the lower and upper limit of each property, such "
                f"as {{'T2': (0, 40)}}; got {limits!r:.60}"
            )
        for name, (low, high) in limits.items():
            if name not in known:
                raise ValueError(f"there is no property {name!r}; the properties are {known}")
            if not low < high:
                raise ValueError(
                    f"the limits of {name} in the window {window!r} must be ascending, got "
                    f"{low:g} and {high:g}"
                )
