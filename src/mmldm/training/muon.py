"""Muon: momentum, orthogonalised, for the matrices and kernels inside a network.

gradient (out, in, ...) -> update with all singular values near 1

Vectors, embeddings and the thin layers at a network's ends belong to AdamW (`training.turn`). Source:
Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. torch's own
`torch.optim.Muon` takes no kernels, loops over matrices one by one, and rounds to bfloat16 on a CPU too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mmldm.training.scaling import part_of, whole

QUINTIC = 3.4445, -4.7750, 2.0315
"""Coefficients of the iteration that sends singular values of (0, 1] to about [0.7, 1.2]."""
ITERATIONS = 5
LEAST_SIDE = 32
"""A layer thinner than this on either side is no hidden layer."""


def hidden_weights(module: nn.Module) -> dict[str, Tensor]:
    """Names and weights of the linear and convolution layers inside `module` that Muon moves."""
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {
        f"{name}.weight": layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, layers)
        and layer.weight.requires_grad
        and min(layer.weight.flatten(1).shape) >= LEAST_SIDE
    }


def orthogonalise(matrices: Tensor) -> Tensor:
    """Nearest matrices with equal singular values, roughly: (N,R,C) -> (N,R,C)."""
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    if x.is_cuda:
        x = x.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; matrices of one shape go through in one batch.

    Attributes:
        found_inf: 0-d tensor; 1 withholds an update, as in torch's fused optimisers.

    Args:
        lr: Step in units of the orthogonal update, times sqrt(max(1, out / in)).
        weight_decay: Decoupled, as AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Moves every weight that has a gradient; returns the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.flatten(1).shape].append(weight)
            for (rows, columns), weights in alike.items():
                self._step(weights, group, max(1.0, rows / columns) ** 0.5)
        return loss

    def _step(self, weights: list[Tensor], group: dict[str, Any], shape_factor: float) -> None:
        momentum, lr = group["momentum"], group["lr"]
        keep = torch.ones((), device=weights[0].device)
        if self.found_inf is not None:
            keep = 1 - self.found_inf.to(keep.device)
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
        # nan * 0 is nan: a bad gradient has to be replaced, not scaled away.
        gradients = [torch.where(keep > 0, w.grad, 0.0) for w in weights if w.grad is not None]
        torch._foreach_lerp_(buffers, gradients, (1 - momentum) * keep)
        ahead = torch._foreach_lerp(gradients, buffers, momentum)
        updates = orthogonalise(torch.stack([whole(x).flatten(1) for x in ahead]))
        updates = updates * (-lr * shape_factor * keep)
        torch._foreach_mul_(weights, 1 - lr * group["weight_decay"] * keep)
        parts = [part_of(u.view(w.shape), like=w) for u, w in zip(updates, weights, strict=True)]
        torch._foreach_add_(weights, parts)
