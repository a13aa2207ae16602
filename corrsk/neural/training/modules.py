"""Inspection and validation of torch modules, including modules of the user."""

from __future__ import annotations

from typing import Any

from torch import nn

# layers of torch that draw random numbers in training and have no rate
_DRAWING = (nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


def is_of_known_parts(module: nn.Module) -> bool:
    """Whether a module consists only of layers of torch and corrsk, without hooks."""
    return all(
        type(part).__module__.startswith(("torch.nn.", "corrsk."))
        and not (part._forward_hooks or part._forward_pre_hooks or part._backward_hooks)
        for part in module.modules()
    )


def draws_in_training(module: nn.Module) -> bool:
    """Whether a forward pass in training may draw from torch's global generator."""
    parts = list(module.modules())
    if not is_of_known_parts(module):
        return True  # a module of the user may draw random numbers anywhere
    # p of a dropout layer, or dropout of an attention or recurrent layer
    rates = [getattr(part, name, 0) for part in parts for name in ("p", "dropout")]
    return any(isinstance(rate, (int, float)) and rate > 0 for rate in rates) or any(
        isinstance(part, _DRAWING) for part in parts
    )


def module_in_words(module: nn.Module) -> list[Any]:
    """Names, classes and public attributes of a module and its parts, for fingerprints.

    Tensors and the source code of the classes are not included.
    """
    return [
        [
            name,
            f"{type(part).__module__}.{type(part).__qualname__}",
            sorted(
                (key, getattr(value, "__qualname__", None) or repr(value))
                for key, value in vars(part).items()
                if not key.startswith("_") and key != "training"
            ),
        ]
        for name, part in module.named_modules()
    ]


def check_module(network: Any) -> None:
    """Raise an error if a network cannot be trained.

    Raises
    ------
    TypeError
        If the network is not a torch module.
    ValueError
        If the network has no parameters to train.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"network must be a name or a torch module, such as ResidualMLP(64); got {network!r}"
        )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"the network {network!r} has no parameters to train")
