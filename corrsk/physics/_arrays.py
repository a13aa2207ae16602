"""Arrays of any library that follows the array API."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj

Array = Any  # of any library that array-api-compat supports
NUMPY = array_namespace(np.empty(0))


def promote(*values: Any) -> tuple[Any, ...]:
    """Array namespace of `values`, and the values as floating-point arrays of this namespace."""
    if all(type(value) is np.ndarray and value.dtype.kind == "f" for value in values):
        return (NUMPY, *values)  # the general checks take longer than the work on small arrays
    arrays = [value for value in values if is_array_api_obj(value)]
    # other libraries take precedence over numpy: protocols are numpy arrays even if signals are not
    arrays = [array for array in arrays if not isinstance(array, np.ndarray)] or arrays
    xp = array_namespace(*arrays) if arrays else np
    like = {"device": device(arrays[0])} if arrays else {}
    floating = []
    for value in values:
        array = value if _is_of(xp, value) else xp.asarray(value, **like)
        if not xp.isdtype(array.dtype, "real floating"):
            array = xp.astype(array, xp.float64)
        floating.append(array)
    return (xp, *floating)


def _is_of(xp: Any, value: Any) -> bool:
    return is_array_api_obj(value) and array_namespace(value) is xp
