"""Arrays of any kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj

Array = Any  # an array of any kind that array-api-compat knows
NUMPY = array_namespace(np.empty(0))


def promote(*values: Any) -> tuple[Any, ...]:
    """Namespace of `values` and the values as floating arrays of one kind."""
    if all(type(value) is np.ndarray and value.dtype.kind == "f" for value in values):
        return (NUMPY, *values)  # looking for other kinds takes longer than small arrays do
    arrays = [value for value in values if is_array_api_obj(value)]
    # numpy arrays follow the others: protocols are numpy's, also where signals are torch's
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
