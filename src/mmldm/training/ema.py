"""The running average of the weights, which is what is validated and exported.

trainable weights -> average (same shapes), fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmldm.training.scaling import part_of


class Average:
    """Exponential moving average of trainable parameters and floating-point buffers.

    average <- decay * average + (1 - decay) * weights, with decay = min(ema_decay, (1 + n) / (10 +
    n)) at the n-th update, so that the first weights are soon forgotten.

    Args:
        modules: Name -> module; its weights are named `name.parameter`.
        decay: The final decay; None: no averaging, `swapped` then changes nothing.
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float | None) -> None:
        self._decay = decay
        self._live: dict[str, Tensor] = {}
        if decay is not None:
            for name, module in modules.items():
                named = [(n, p.data) for n, p in module.named_parameters() if p.requires_grad]
                named += [(n, b) for n, b in module.named_buffers() if b.is_floating_point()]
                self._live.update({f"{name}.{n}": tensor for n, tensor in named})
        self._average = {name: tensor.clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after `step` + 1 steps."""
        if self._decay is None or not self._live:
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._average.values()), list(self._live.values()), 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the modules hold the average; afterwards the weights they had."""
        kept = {name: tensor.clone() for name, tensor in self._live.items()}
        self._write(self._average)
        try:
            yield
        finally:
            self._write(kept)

    def state(self) -> dict[str, Tensor]:
        """The averages by name."""
        return self._average

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes over saved averages."""
        for name, tensor in self._average.items():
            tensor.copy_(part_of(state[name], like=tensor))

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in self._live.items():
            tensor.copy_(values[name])
