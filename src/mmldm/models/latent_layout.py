"""Which axis of a latent is which: latents (B,C,T',H',W') <-> grid (B,C,slots,rows,columns).

A latent of the audio image may carry its time on T' although it was read off the image's width; the
grid is the same numbers in image order, so that one encoder and one adapter serve every latent
shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mmldm.errors import UserError

TimeAxis = Literal["frames", "width"]


@dataclass(frozen=True)
class LatentLayout:
    """Shape of one modality's latents and where their time comes from.

    Attributes:
        shape: (C, T', H', W').
        time_axis: "frames": T' slots along the frames. "width": T' columns along the image's width
            (an audio image, whose height is frequency); W' must be 1.
    """

    shape: tuple[int, int, int, int]
    time_axis: TimeAxis = "frames"

    def __post_init__(self) -> None:
        if self.time_axis not in ("frames", "width"):
            raise UserError(f"time_axis is {self.time_axis!r}; it must be 'frames' or 'width'.")
        if self.time_axis == "width" and self.shape[3] != 1:
            raise UserError(
                f"latent_shape {list(self.shape)} with time_axis 'width' must end in 1: "
                "the image's width is the latent's T'."
            )

    @property
    def channels(self) -> int:
        """C."""
        return self.shape[0]

    @property
    def grid(self) -> tuple[int, int, int]:
        """(slots, rows, columns)."""
        _, T, H, W = self.shape
        return (1, H, T) if self.time_axis == "width" else (T, H, W)

    def to_grid(self, latents: Tensor) -> Tensor:
        """(B,C,T',H',W') -> (B,C,slots,rows,columns), a view."""
        return latents.transpose(2, 4) if self.time_axis == "width" else latents

    def from_grid(self, grid: Tensor) -> Tensor:
        """Inverse of `to_grid`; the swap is its own inverse."""
        return self.to_grid(grid)


def ratio(size: int, parts: int, what: str) -> int:
    """size / parts when it is whole.

    Raises:
        UserError: `parts` does not divide `size`; `what` names them.
    """
    if parts < 1 or size % parts:
        raise UserError(f"{what}: {parts} does not divide {size}; choose sizes that divide.")
    return size // parts
