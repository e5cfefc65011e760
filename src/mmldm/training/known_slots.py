"""Which slots a training row of the generator, or of its student, knows of what it predicts.

(seed, step, row) -> flags AV (B,T'), each 1 - sigma where a slot is known and 0 where it is not, as
`types.Known.mask`. A row that knows slots learns to continue a clip, to mend a gap in it, or to find its
beginning. Known values with noise of a told level teach it to live with what it has made itself (Valevski et
al., "Diffusion models are real-time game engines", 2024, §3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmldm.errors import UserError
from mmldm.sections import PATTERNS, KnownSlotsConfig
from mmldm.training.randomness import StepRandom
from mmldm.types import AV

DRAWS = 7
"""Uniform numbers a row needs: see `SlotPatterns.draw`."""


class SlotPatterns:
    """Draws flags for a share of the rows; the others know nothing of what they predict.

    Sound and picture know the same seconds, also where their latents have different numbers of slots: the
    borders lie between slots of the one that has fewer, and a slot is known where its middle is.

    Args:
        config: Shares, lengths and noise.
        latent_shapes: (C, T', H', W') per modality.

    Raises:
        UserError: The latents have no time axis.
    """

    def __init__(self, config: KnownSlotsConfig, latent_shapes: AV[tuple[int, ...]]) -> None:
        slots = latent_shapes.map(lambda shape: shape[1])
        if 1 in slots:
            raise UserError(
                "generator.known_slots: latents without a time axis (the paper's form) have no slots "
                "that a row could know; leave the key out, or give both encoders a time axis"
            )
        self.config, self.slots, self.fewest = config, slots, min(slots)
        self.longest = max(1, int(config.longest * self.fewest))

    def draw(self, random: StepRandom, predicted: AV[Tensor]) -> AV[Tensor]:
        """Flags AV (B,T') of the streams that the rows predict, AV (B,) bool; 0 in the others."""
        drawn = random.uniform((len(predicted.audio), DRAWS))
        chosen, pattern, length, place, whose, is_noisy, level = drawn.unbind(1)

        # Which pattern: a row's number falls into the share of one of them.
        shares = [self.config.patterns.get(name, 0.0) for name in PATTERNS]
        ends = [sum(shares[: i + 1]) for i in range(len(shares) - 1)]
        number = torch.zeros_like(pattern, dtype=torch.long)
        for end in ends:
            number = number + (pattern >= end)
        prefix, suffix, both_ends = (number == PATTERNS.index(n) for n in PATTERNS[:3])

        # From where to where, in slots of the modality that has fewer. Both ends are known around a gap, of
        # which they leave at least one slot each; else the stretch itself is known.
        total, inner = self.fewest, max(1, self.fewest - 2)
        at_an_end = prefix | suffix
        longest = torch.where(at_an_end, self.longest, min(self.longest, inner))
        count = 1 + _whole_number(length, longest.masked_fill(both_ends, inner))
        start = 1 + _whole_number(place, (total - 1 - count).clamp_min(1))
        start = torch.where(suffix, total - count, start.masked_fill(prefix, 0))
        masks = self.in_time(start, start + count, inside=~both_ends)

        # For whom: half of the rows that predict both streams know slots of both, a quarter of one.
        share = self.config.share
        alone = AV(~predicted.video, ~predicted.audio)
        meant = AV(whose < 0.75, (whose < 0.5) | (whose >= 0.75))

        # Half of the rows carry noise, of a level of their own.
        sigma = self.config.noise * level * (is_noisy < 0.5)

        def flags(mask: Tensor, own: Tensor, only: Tensor, is_meant: Tensor) -> Tensor:
            """(B,T') bool, (B,) bool -> (B,T')."""
            rows = own & (only | is_meant) & (chosen < share)
            return (1 - sigma)[:, None] * (mask & rows[:, None])

        return masks.map(flags, predicted, alone, meant)

    def in_time(self, start: Tensor, stop: Tensor, inside: Tensor) -> AV[Tensor]:
        """Slots from `start` to `stop`, or all others where not `inside`, each (B,) -> AV (B,T') bool.

        The borders count slots of the modality that has fewer.
        """

        def mask(slots: int) -> Tensor:
            """-> (B,T')."""
            middle = (torch.arange(slots, device=start.device) + 0.5) * self.fewest / slots
            within = (middle >= start[:, None]) & (middle < stop[:, None])
            return within == inside[:, None]

        return self.slots.map(mask)

    def validated(self, rows: int, device: torch.device) -> dict[str, AV[Tensor]]:
        """Flags AV (B,T') of the tasks that are measured on held-out clips, the same for all rows.

        `prefix` knows the first quarter of both streams; `retake` all but their middle half.
        """
        total = torch.full((rows,), self.fewest, device=device)
        quarter = (total // 4).clamp_min(1)
        yes = torch.ones_like(total, dtype=torch.bool)
        masks = {
            "prefix": self.in_time(torch.zeros_like(total), quarter, inside=yes),
            "retake": self.in_time(quarter, (total - quarter).maximum(quarter + 1), inside=~yes),
        }
        return {name: mask.map(Tensor.float) for name, mask in masks.items()}


def shown(
    clean: AV[Tensor], given: AV[Tensor], slots: AV[Tensor], noise: AV[Tensor]
) -> tuple[AV[Tensor], AV[Tensor]]:
    """What rows know: values, AV as `clean`, and their flags AV (B,T').

    Known slots have the noise that their flags tell; a given modality is clean, and so is what is not known.

    Args:
        clean: AV (B,C,T',H',W').
        given: Which rows are given the whole modality, AV (B,) bool.
        slots: Flags AV (B,T') as `SlotPatterns.draw` gives them.
        noise: Standard normal, as `clean`.
    """
    flags = slots.map(lambda own, rows: own.masked_fill(rows[:, None], 1.0), given)

    def disturbed(z: Tensor, told: Tensor, n: Tensor) -> Tensor:
        """(B,C,T',H',W'), flags (B,T') -> (B,C,T',H',W')."""
        told = told[:, None, :, None, None]
        return torch.where(told > 0, z + (1 - told) * n, z)

    return clean.map(disturbed, flags, noise), flags


def unknown_slots(flags: Tensor) -> Tensor:
    """Flags (B,T') -> weights (B,1,T',1,1) of an error over what is not known."""
    return (flags == 0).float()[:, None, :, None, None]


def _whole_number(uniform: Tensor, count: Tensor) -> Tensor:
    """Numbers (B,) in [0, 1) -> whole ones (B,) in [0, count), long."""
    return (uniform * count).long()
