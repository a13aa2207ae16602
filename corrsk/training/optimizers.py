"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the hidden weight matrices, AdamW for all other parameters.

    Muon (K. Jordan et al., 2024, kellerjordan.github.io/posts/muon) replaces the
    momentum of a weight matrix by the nearest orthogonal matrix, so that all its
    directions learn at one speed. The small directions are those that tell
    compartments apart: this network learns from 2 million signals what AdamW
    learns from over 20 million. One learning rate serves both: that of Muon is
    scaled to AdamW's size of step (Liu et al., arXiv:2502.16982).

    Parameters
    ----------
    params : iterable of Tensor, or of groups of them
        Of one network, in its order. Hidden matrices are the two-dimensional
        parameters but the first and the last of them.
    lr, weight_decay : float
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float) -> None:
        given = [group["params"] if isinstance(group, dict) else [group] for group in params]
        parameters: list[Tensor] = [p for group in given for p in group if p.requires_grad]
        hidden = [parameter for parameter in parameters if parameter.ndim == 2][1:-1]
        ids = {id(parameter) for parameter in hidden}
        others = [parameter for parameter in parameters if id(parameter) not in ids]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay, fused=True)
        ]
        if hidden:
            self.parts.append(
                torch.optim.Muon(
                    hidden, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
                )
            )
        super().__init__(parameters, {"lr": lr})
        # the very dictionaries of the parts: who sets a learning rate here sets it there
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "parts": self.parts}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both; `closure` computes the loss and its gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Bring both to a state."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


# fused: one kernel for all weights, where the default has one per weight and operation


def adamw(params: Any, lr: float, weight_decay: float, momentum: float) -> torch.optim.Optimizer:
    """AdamW; `momentum` is not for it."""
    return torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay, fused=True)


def sgd(params: Any, lr: float, weight_decay: float, momentum: float) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum."""
    return torch.optim.SGD(params, lr=lr, weight_decay=weight_decay, momentum=momentum, fused=True)


def muon(params: Any, lr: float, weight_decay: float, momentum: float) -> torch.optim.Optimizer:
    """Muon and AdamW, with momenta of their own."""
    return MuonWithAdamW(params, lr=lr, weight_decay=weight_decay)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": adamw,
    "sgd": sgd,
    "muon": muon,
}
