"""Optimisers by name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from corrsk.neural.training.device import computes_in_bfloat16


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the hidden weight matrices, AdamW for all other parameters.

    Muon (K. Jordan et al., 2024, kellerjordan.github.io/posts/muon) replaces the
    momentum of a weight matrix by the nearest orthogonal matrix, so that all
    directions of the matrix learn at the same rate. Compartments differ in the small
    directions: with Muon, the residual MLP learns from 2 million signals as much as
    with AdamW from over 20 million. Both optimisers share one learning rate, because
    Muon's steps are scaled to the size of AdamW's (Liu et al., arXiv:2502.16982).

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        Parameters of one network, or groups of them, in the order of the network. Hidden
        matrices are all two-dimensional parameters except the first and the last one.
    lr : float
        Learning rate. In the parameter groups, the learning rate may be a tensor.
    weight_decay : float
        Decoupled weight decay.
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
        # the same dictionaries as in the parts, so that a new learning rate reaches both
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "parts": self.parts}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Parameters
        ----------
        closure : callable, optional
            Function that computes the loss and its gradients.

        Returns
        -------
        Tensor or None
            Value of `closure`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            if isinstance(part, torch.optim.Muon) and _needs_own_step(part):
                _step_together(part)
            else:
                part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both optimisers.

        Returns
        -------
        dict
            The states.
        """
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the states of both optimisers.

        Parameters
        ----------
        state_dict : dict
            Value of :meth:`state_dict`.
        """
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def _needs_own_step(muon: torch.optim.Muon) -> bool:
    """Whether torch's step is impossible, or very slow: its iteration is in bfloat16."""
    (group,) = muon.param_groups
    device = group["params"][0].device
    return isinstance(group["lr"], Tensor) or not computes_in_bfloat16(device)


@torch.no_grad()
def _step_together(muon: torch.optim.Muon) -> None:
    """Take a step of Muon for all matrices of one shape together.

    Torch's step processes one matrix after the other, each too small to fill a GPU, and copies
    the learning rate to the processor, which is impossible in a CUDA graph. Its iteration is in
    bfloat16, here in float32 where the device has no instructions for it.
    """
    (group,) = muon.param_groups
    matrices = sorted((p for p in group["params"] if p.grad is not None), key=_shape)
    for (rows, columns), alike in itertools.groupby(matrices, key=_shape):
        weights = list(alike)
        gradients = [weight.grad for weight in weights]
        for weight in weights:
            if not muon.state[weight]:
                muon.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        momenta = [muon.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's
        # 0.2 sqrt(max): root mean square of a step of AdamW, for any shape
        size = group["lr"] * (0.2 * math.sqrt(max(rows, columns)))
        steps = _orthogonalized(torch.stack(ahead), group).float() * size
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_sub_(weights, list(steps.unbind()))


def _shape(matrix: Tensor) -> tuple[int, ...]:
    return tuple(matrix.shape)


def _orthogonalized(matrices: Tensor, group: dict[str, Any]) -> Tensor:
    """Bring the singular values of matrices (k, n, m) near 1, by Newton-Schulz iteration."""
    x = matrices.bfloat16() if computes_in_bfloat16(matrices.device) else matrices.float()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT  # for smaller products
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    a, b, c = group["ns_coefficients"]
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x


# fused: one kernel for all weights; the default needs one per weight and operation


def adamw(params: Any, lr: float, weight_decay: float, momentum: float) -> torch.optim.Optimizer:
    """Return AdamW; `momentum` has no effect."""
    return torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay, fused=True)


def sgd(params: Any, lr: float, weight_decay: float, momentum: float) -> torch.optim.Optimizer:
    """Return stochastic gradient descent with momentum."""
    return torch.optim.SGD(params, lr=lr, weight_decay=weight_decay, momentum=momentum, fused=True)


def muon(params: Any, lr: float, weight_decay: float, momentum: float) -> torch.optim.Optimizer:
    """Return Muon with AdamW, with fixed momenta; `momentum` has no effect."""
    return MuonWithAdamW(params, lr=lr, weight_decay=weight_decay)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": adamw,
    "sgd": sgd,
    "muon": muon,
}
