"""Parameters and fitted attributes as plain values and tensors, and back."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.imaging._nifti import image_from_plain, image_to_plain, is_image
from corrsk.physics.contrasts import own_units
from corrsk.physics.noise_levels import SNRRange
from corrsk.relaxometry.calibration import PulseCalibration
from corrsk.tissue.nuisances import Nuisances
from corrsk.tissue.prior import TissuePrior
from corrsk.tissue.ranges import PropertyRange

_MOST_LETTERS = 10_000_000  # of an array of texts, which all have the memory of the longest
SMALL = 16  # largest number of entries of an array that is stored in the header
_TENSOR_KINDS = "fbiu"
# classes of parameter values that are defined by corrsk
_VALUES: dict[str, type[Any]] = {
    cls.__name__: cls for cls in (TissuePrior, PropertyRange, SNRRange, Nuisances, PulseCalibration)
}


def encode_value(value: Any, name: str, place: str, tensors: dict[str, NDArray[Any]]) -> Any:
    """Encode a value as JSON; types that JSON does not distinguish are tagged.

    Large arrays become tensors, with their place as name.
    """

    def encode(inner: Any, part: Any) -> Any:
        return encode_value(inner, name, f"{place}.{part}", tensors)

    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list):
        return [encode(item, k) for k, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [encode(item, k) for k, item in enumerate(value)]}
    if isinstance(value, Mapping):
        pairs = [[encode(key, f"{key}.key"), encode(item, key)] for key, item in value.items()]
        return {"dict": pairs}
    if isinstance(value, np.ndarray):
        # the order of the memory decides over the last bits of a product of matrices
        order = {} if value.flags.c_contiguous or not value.flags.f_contiguous else {"order": "F"}
        if value.dtype.kind in _TENSOR_KINDS and value.size > SMALL:
            tensors[place] = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
            return {"tensor": place} | order
        kind = "object" if value.dtype == object else value.dtype.str
        items = [encode(item, k) for k, item in enumerate(value.tolist())]
        content = {"array": items, "dtype": kind} | order
        # lists of no entries have no shape
        return content | ({} if value.size else {"shape": list(value.shape)})
    if isinstance(value, AcquisitionProtocol):
        content = value.to_dict()
        further = {key: content[key] for key in ("readout", "series") if key in content}
        return {"protocol": content["contrasts"], "tr": content["tr"]} | further
    if is_image(value):
        plain = image_to_plain(value)
        return {"image": {key: encode(item, key) for key, item in plain.items()}}
    if _VALUES.get(type(value).__name__) is type(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {
            "value": type(value).__name__,
            "fields": {key: encode(item, key) for key, item in fields.items()},
        }
    raise TypeError(
        f"cannot save {name}={value!r}: a {type(value).__name__} cannot be stored"
        + ("; use an integer or None" if name == "random_state" else "")
    )


def decode_value(value: Any, tensors: Mapping[str, NDArray[Any]]) -> Any:
    """Restore a value from JSON and tensors."""
    if isinstance(value, list):
        return [decode_value(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return _ordered(tensors[value["tensor"]], value)
    if "image" in value:
        return image_from_plain(
            {key: decode_value(item, tensors) for key, item in value["image"].items()}
        )
    if "tuple" in value:
        return tuple(decode_value(item, tensors) for item in value["tuple"])
    if "dict" in value:
        return {
            decode_value(key, tensors): decode_value(item, tensors) for key, item in value["dict"]
        }
    if "array" in value:
        array = _decode_array(
            [decode_value(item, tensors) for item in value["array"]], value["dtype"]
        )
        return _ordered(array.reshape(value["shape"]) if "shape" in value else array, value)
    if "value" in value:
        fields = {key: decode_value(item, tensors) for key, item in value["fields"].items()}
        return _VALUES[value["value"]](**fields)
    further = {key: value[key] for key in ("readout", "series") if key in value}
    return AcquisitionProtocol.from_dict(
        {"contrasts": value["protocol"], "tr": value["tr"], "units": own_units()} | further
    )


def _decode_array(items: list[Any], dtype: str) -> NDArray[Any]:
    if not re.fullmatch(r"object|[<>|=]?([biuf][1248]|U[0-9]{1,4})", dtype):
        raise ValueError(f"the type {dtype!r} of an array is not one of numbers or texts")
    if "U" in dtype and len(items) * int(dtype.partition("U")[2]) > _MOST_LETTERS:
        raise ValueError(f"{len(items)} texts of the type {dtype!r} are too long")
    return np.array(items, dtype=dtype)


def _ordered(array: NDArray[Any], value: Mapping[str, Any]) -> NDArray[Any]:
    return np.asfortranarray(array) if value.get("order") == "F" else array
