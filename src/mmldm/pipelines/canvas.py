"""The time axis of a batch of clips while their latents are made: what is known of it, and what is made.

known latents (B,C,T',H',W') and unknown ticks -> what a window knows (`types.Known`) -> what was made, in its
place. Every task is a choice of unknown ticks: joint, all of both; audio-to-video, all of the picture;
extend, those after the clip; retake, a gap; endless, all that come.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmldm.pipelines.windows import TimeGrid
from mmldm.types import AV, Known

NONE = range(0)
"""No tick."""


@dataclass(frozen=True)
class Outline:
    """What is to be made of clips, in ticks.

    Attributes:
        length: Of the clips; None: they have no end.
        wanted: Ticks that are asked for; of clips without an end, all from its start on.
        unknown: Ticks that are not known of each modality, likewise.
    """

    length: int | None
    wanted: range
    unknown: AV[range]

    def is_unknown(self, tick: int, gap: range) -> bool:
        """Whether a tick is not known of a modality with this gap.

        A clip that is shorter than a window is filled up to one: that is not known, but where the whole
        modality is.
        """
        if not gap:
            return False
        return tick in gap or tick >= (gap.start if self.length is None else self.length)


class Canvas:
    """Latents on the ticks of a batch of clips; of clips without an end, those since `forget`.

    Args:
        grid: Of the model.
        shapes: (C,T',H',W') of a window's latents.
        outline: What is to be made.
        known: Normalised latents AV((B,C,T',H',W')) of all ticks, of any value where they are unknown;
            (1,...) serves all clips. None: all ticks of the modality are unknown.
        count: B.
        device: Where the latents are.
    """

    def __init__(
        self,
        grid: TimeGrid,
        shapes: AV[tuple[int, ...]],
        outline: Outline,
        known: AV[Tensor | None],
        count: int,
        device: torch.device,
    ) -> None:
        self._grid, self._outline, self._shapes = grid, outline, shapes
        self._first = 0
        length = max(outline.length or 0, grid.ticks)

        def row(shape: tuple[int, ...], slots: int, value: Tensor | None) -> Tensor:
            """(B,C,T',H',W') of `length` ticks; of clips without an end, of all that are known."""
            held = length * slots if value is None else max(length * slots, value.shape[2])
            latents = torch.zeros(count, shape[0], held, *shape[2:], device=device)
            if value is not None:
                latents[:, :, : value.shape[2]] = value.to(device)
            return latents

        self._latents = shapes.map(row, grid.slots, known)
        self._made = range(0)

    def known(self, ticks: range, made: bool = True) -> Known:
        """What is known in these ticks.

        Args:
            made: Whether what was made counts as known.
        """
        self._reach(ticks.stop)

        def mask(slots: int, gap: range) -> Tensor | None:
            """(B,T') bool; None: all are known."""
            unknown = [
                self._outline.is_unknown(tick, gap) and not (made and tick in self._made)
                for tick in ticks
                for _ in range(slots)
            ]
            if not any(unknown):
                return None
            count = len(self._latents.audio)
            known = ~torch.tensor(unknown, device=self._latents.audio.device)
            return known.expand(count, -1)

        masks = self._grid.slots.map(mask, self._outline.unknown)
        values = self.latents(ticks)
        # Nothing known at all is said by no value.
        none = masks.map(lambda m: m is not None and not bool(m[0].any()))
        return Known(
            values.map(lambda z, nothing: None if nothing else z, none),
            masks.map(lambda m, nothing: None if nothing else m, none),
        )

    def latents(self, ticks: range) -> AV[Tensor]:
        """Latents AV((B,C,T',H',W')) of these ticks."""
        held = range(ticks.start - self._first, ticks.stop - self._first)
        return latents_in(self._latents, held, self._grid)

    def write(self, ticks: range, made: AV[Tensor]) -> None:
        """Puts latents AV((B,C,T',H',W')) in their place, known ones as they came: they are the same."""
        first = self._first

        def put(row: Tensor, z: Tensor, slots: int) -> None:
            row[:, :, (ticks.start - first) * slots : (ticks.stop - first) * slots] = z

        self._latents.map(put, made, self._grid.slots)
        self._made = range(self._made.start if self._made else ticks.start, ticks.stop)

    def forget(self, before: int) -> None:
        """Drops ticks of clips without an end, which nobody asks for any more."""
        if self._outline.length is None and before > self._first:
            dropped, self._first = before - self._first, before
            self._latents = self._latents.map(
                lambda z, slots: z[:, :, dropped * slots :], self._grid.slots
            )

    def _reach(self, stop: int) -> None:
        """Makes room up to tick `stop` of clips without an end."""
        if self._outline.length is not None:
            return

        def longer(z: Tensor, slots: int) -> Tensor:
            """(B,C,T',H',W') -> up to `stop`."""
            missing = (stop - self._first) * slots - z.shape[2]
            fill = z.new_zeros(*z.shape[:2], max(0, missing), *z.shape[3:])
            return torch.cat([z, fill], dim=2)

        self._latents = self._latents.map(longer, self._grid.slots)


def latents_in(latents: AV[Tensor], ticks: range, grid: TimeGrid) -> AV[Tensor]:
    """Latents AV((B,C,T',H',W')) of a row of ticks -> those of some of them, a view."""

    def cut(z: Tensor, slots: int) -> Tensor:
        """(B,C,T',H',W') -> (B,C,T',H',W')."""
        return z[:, :, ticks.start * slots : ticks.stop * slots]

    return latents.map(cut, grid.slots)
