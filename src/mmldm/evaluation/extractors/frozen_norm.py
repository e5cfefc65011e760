"""A trained batch norm, as networks for evaluation need it.

maps (B,C,...) -> maps (B,C,...) by statistics that no longer change

Source: Ioffe and Szegedy, "Batch normalization", ICML 2015.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenNorm(nn.Module):
    """A trained batch norm; torch's own would ask the file for a counter that old ones lack."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = epsilon
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))

    def forward(self, maps: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        return F.batch_norm(maps, *statistics, self.weight, self.bias, eps=self.epsilon)
