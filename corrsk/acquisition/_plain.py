"""Plain content of a protocol, from files and mappings, in one form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any, NamedTuple

from corrsk._utils.validation import check_entries
from corrsk.physics import CONTRASTS, EchoTrain, SliceProfile
from corrsk.physics.axes import Readout

_FORMS = ("contrasts", "grid")
_OTHERS = ("tr", "units", "readout", "series")


class PlainProtocol(NamedTuple):
    """Content of a protocol; the names of scan parameters are those of corrsk.

    Attributes
    ----------
    form : str
        "contrasts" (one entry per measurement), "grid" (levels), or "" if the scan parameters,
        one entry per measurement, are at the top level.
    values : dict of str to object
        Values by scan parameter.
    tr, units, readout, series : object
        As for :class:`AcquisitionProtocol`, but echo trains as plain values; None if there are
        none.
    """

    form: str
    values: dict[str, Any]
    tr: Any
    units: Any
    readout: Any = None
    series: Any = None


def normalized(content: Any) -> PlainProtocol:
    """Read the plain content of a protocol, whose keys may have any case.

    Parameters
    ----------
    content : mapping
        Entries `contrasts` or `grid` with scan parameters by name, or the scan parameters
        themselves; and, optionally, `tr`, `units`, `readout` and `series`.

    Returns
    -------
    PlainProtocol
        The content.

    Raises
    ------
    KeyError
        If there are no scan parameters.
    ValueError
        If an entry is unknown, or given twice in different cases, or the content is no mapping.
    """
    what = "a protocol"
    given = _in_own_case(what, content, [*_FORMS, *_OTHERS, *CONTRASTS])
    forms = [form for form in _FORMS if form in given]
    top = {name: given[name] for name in CONTRASTS if name in given}
    if len(forms) + bool(top) > 1:
        raise ValueError(
            "a protocol has either contrasts or grid, not both, or scan parameters without "
            f"these; got {', '.join([*forms, *top])}"
        )
    if not forms and not top:
        raise KeyError("there is neither contrasts nor grid nor a scan parameter such as TI")
    form = forms[0] if forms else ""
    if forms:
        top = _in_own_case("the scan parameters of a protocol", given[form], CONTRASTS)
    return PlainProtocol(form, top, *(given.get(name) for name in _OTHERS))


def plain_readout(readout: EchoTrain | tuple[EchoTrain | None, ...]) -> Any:
    """Echo trains as plain values, for files and pickles."""
    if isinstance(readout, tuple):
        return [None if train is None else asdict(train) for train in readout]
    return asdict(readout)


def readout_of_plain(content: Any) -> Readout:
    """Echo trains of plain values; the inverse of :func:`plain_readout`.

    Raises
    ------
    ValueError
        If an entry is unknown, missing or invalid.
    """
    if content is None:
        return None
    if isinstance(content, (list, tuple)):
        # equal trains of many measurements become one object
        known: dict[str, EchoTrain] = {}
        each = []
        for one in content:
            key = repr(one)
            if one is not None and key not in known:
                known[key] = _echo_train(one)
            each.append(None if one is None else known[key])
        return tuple(each)
    return _echo_train(content)


def _echo_train(content: Any) -> EchoTrain:
    if isinstance(content, EchoTrain):
        return content
    names = [field.name for field in fields(EchoTrain)]
    check_entries("a readout", content, allowed=names, required=["spacing"])
    given = dict(content)
    if given.get("profile") is not None and not isinstance(given["profile"], SliceProfile):
        names = [field.name for field in fields(SliceProfile)]
        check_entries("a slice profile", given["profile"], allowed=names, required=names[:4])
        given["profile"] = SliceProfile(**given["profile"])
    return EchoTrain(**given)


def _in_own_case(what: str, content: Any, allowed: Iterable[str]) -> dict[str, Any]:
    """Content with the allowed keys in the place of those that differ in case only."""
    allowed = list(allowed)
    own = {name.casefold(): name for name in allowed}
    found: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for key, value in content.items() if isinstance(content, Mapping) else ():
        name = key if key in allowed else own.get(str(key).casefold(), str(key))
        if name in found:
            raise ValueError(f"{what} has both {origin[name]!r} and {key!r}; keep one of them")
        found[name], origin[name] = value, key
    check_entries(what, found if isinstance(content, Mapping) else content, allowed=allowed)
    return found
