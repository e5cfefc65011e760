"""Random numbers as a function of (seed, step, turn) and the row of the global batch alone.

(seed, step, turn, rows) -> tensors (rows, ...). Nothing needs saving: a resumed run redraws what it
needs, and a row gets the same numbers for any number of processes and accumulated passes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class StepRandom:
    """Draws for one turn of one step.

    Every draw's first dimension is the local rows. The rows of the whole batch are drawn and the
    local ones returned, so ranks and accumulated passes see slices of one stream. Draw in the same
    order in each pass, and never by a condition on the data.

    Args:
        seed: The run's seed.
        step: Steps completed before this one.
        turn: Name of the turn, or of another purpose such as "validate".
        batch_size: Rows of the global batch.
        rows: The local rows within it; None: all.
        micro: Index of the accumulated pass on this process.
        device: Where the numbers are drawn; a device has its own stream of numbers.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        turn: str,
        batch_size: int,
        rows: range | None = None,
        micro: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.step = step
        self.micro = micro
        self.batch_size = batch_size
        self.rows = range(batch_size) if rows is None else rows
        self.device = torch.device(device)
        # A generator of its own: no other draw, of whatever library, moves this stream.
        self._generator = torch.Generator(self.device)
        self._generator.manual_seed(derive_seed(seed, step, turn))
        # On a CPU the device's stream is the host's.
        self.host = self
        """For what the host has to know: on a GPU, reading the device's draws would wait for it."""
        if self.device.type != "cpu":
            self.host = StepRandom(seed, step, turn, batch_size, rows, micro)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers of `shape` (rows, ...)."""
        drawn = torch.randn(
            self._global(shape), generator=self._generator, device=self.device, dtype=dtype
        )
        return self._local(drawn)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Numbers in [0, 1) of `shape` (rows, ...)."""
        drawn = torch.rand(self._global(shape), generator=self._generator, device=self.device)
        return self._local(drawn)

    def integers(self, low: int, high: int, shape: Sequence[int]) -> Tensor:
        """Whole numbers in [low, high) of `shape` (rows, ...), int64."""
        drawn = torch.randint(
            low, high, self._global(shape), generator=self._generator, device=self.device
        )
        return self._local(drawn)

    def bernoulli(self, probability: float, shape: Sequence[int]) -> Tensor:
        """True with `probability`, of `shape` (rows, ...), bool."""
        return self.uniform(shape) < probability

    def _global(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape (batch_size, ...) that is drawn where (rows, ...) is asked for."""
        if shape[0] != len(self.rows):
            raise ValueError(f"first dimension {shape[0]} is not the {len(self.rows)} local rows")
        return (self.batch_size, *shape[1:])

    def _local(self, drawn: Tensor) -> Tensor:
        """(batch_size, ...) -> (rows, ...)."""
        return drawn[self.rows.start : self.rows.stop]


def reseed(seed: int, step: int, turn: str, rank: int, micro: int, device: torch.device) -> None:
    """Sets the device's global stream, which only layers such as dropout use, for one pass."""
    derived = derive_seed(seed, step, turn, rank, micro, "global")
    # Not torch.manual_seed: on a machine without a GPU it formats a stack trace, 1 ms, each time.
    if device.type == "cpu":
        torch.default_generator.manual_seed(derived)
    else:
        torch.get_device_module(device).manual_seed(derived)
