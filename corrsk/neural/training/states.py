"""Checks of stored weights and states of optimisers, before torch gets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_STATE_NAMES = {"exp_avg", "exp_avg_sq", "momentum_buffer"}  # of AdamW, SGD and Muon


def check_weights(saved: Mapping[str, Tensor], module: nn.Module) -> None:
    """Check that stored weights fit a module and are finite.

    Parameters
    ----------
    saved : mapping of str to Tensor
        Stored weights and buffers.
    module : torch.nn.Module
        The module, which may be on the device "meta".

    Raises
    ------
    ValueError
        If names, shapes or types differ, or a weight is not finite that is finite in the module.
    """
    own = module.state_dict()
    if saved.keys() != own.keys():
        differing = sorted(saved.keys() ^ own.keys())
        raise ValueError(f"missing or superfluous weights: {', '.join(differing[:5])}")
    for name, tensor in saved.items():
        check_tensor(name, tensor, own[name], masked=_is_masked(own[name]))


def _is_masked(own: Tensor) -> bool:
    # modules of users may have masks of -inf among their buffers
    return own.device.type != "meta" and not torch.isfinite(own).all()


def check_tensor(name: str, tensor: Any, like: Tensor, *, masked: bool = False) -> None:
    """Check the shape and type of a stored tensor, and unless masked that it is finite.

    Raises
    ------
    ValueError
        If shape or type differ from those of `like`, or a value is not finite.
    """
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        raise ValueError(f"{name} is no tensor")
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise ValueError(
            f"{name} has the shape {tuple(tensor.shape)} and the type {tensor.dtype}, not "
            f"{tuple(like.shape)} and {like.dtype}"
        )
    if not masked and not torch.isfinite(tensor).all():
        raise ValueError(f"{name} is not finite")


def checked_optimizer_state(saved: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the stored state of an optimiser, with the optimiser's own settings.

    torch's fused optimisers do not check the tensors of their state, and would write beyond
    tensors that are too small.

    Parameters
    ----------
    saved : dict
        Stored state: all tensors must have the shape and type of their parameter, or be numbers.
    optimizer : torch.optim.Optimizer
        Optimiser of the same parameters.

    Returns
    -------
    dict
        State for `load_state_dict`.

    Raises
    ------
    ValueError
        If the state is that of other parameters, or is not finite.
    """
    parts = getattr(optimizer, "parts", None)
    if parts is not None:
        pairs = zip(saved["parts"], parts, strict=True)
        return {"parts": [checked_optimizer_state(state, part) for state, part in pairs]}
    own = optimizer.state_dict()
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    numbers = [number for group in own["param_groups"] for number in group["params"]]
    if [group["params"] for group in saved["param_groups"]] != [
        group["params"] for group in own["param_groups"]
    ]:
        raise ValueError("its optimiser has other parameters")
    if not set(saved["state"]) <= set(numbers):
        raise ValueError("its optimiser has a state of unknown parameters")
    for number, parameter in zip(numbers, parameters, strict=True):
        for name, tensor in saved["state"].get(number, {}).items():
            if name == "step":
                check_tensor(name, tensor, torch.zeros(()))
            elif name not in _STATE_NAMES:
                raise ValueError(f"its optimiser has a state {name!r}")
            elif tensor is not None:
                check_tensor(name, tensor, parameter)
    # the settings of a training are part of its fingerprint; only the tensors can differ
    return {"state": saved["state"], "param_groups": own["param_groups"]}
