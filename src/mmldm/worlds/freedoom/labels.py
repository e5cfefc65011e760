"""What frames of the Freedoom world show: a small network that is taught by the game's own labels.

frames u8 (T,3,H,W) -> probability (T,) that a monster stands in each
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmldm.errors import UserError
from mmldm.evaluation.classifiers import augment
from mmldm.types import Progress

SIDE = 96
"""Of the square of pixels that the network sees."""
THERE, GONE = 12, 4
"""Percent of the picture's height: a monster is there if one is as tall, and not if none is taller."""
BATCH = 32
STEPS = 900
LEAST_FRAMES = 16
"""Of each kind, to learn from."""


class MonsterNetwork(nn.Module):
    """A small convolutional network; each layer halves both sides, and the last map's maximum decides."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 16), (16, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(4, after), nn.SiLU()]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Conv2d(64, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N,) of images (N,3,H,W) in [-1,1]."""
        return self.head(self.trunk(images)).flatten(1).amax(1)


class Monsters:
    """Tells frames with a monster from those without.

    Args:
        network: Trained.
    """

    def __init__(self, network: MonsterNetwork) -> None:
        self.network = network.eval()

    @torch.no_grad()
    def probabilities(self, frames: Tensor) -> Tensor:
        """Of each frame (T,) that a monster stands in it; frames u8 (T,3,H,W)."""
        small = small_frames(frames).float() / 127.5 - 1
        return torch.cat([self.network(part) for part in small.split(BATCH)]).sigmoid()


def learn_monsters(
    clips: Iterable[tuple[Tensor, np.ndarray]],
    steps: int = STEPS,
    seed: int = 0,
    *,
    progress: Progress | None = None,
) -> Monsters:
    """Trains the network; a minute on one core.

    Args:
        clips: Frames u8 (T,3,H,W), and of each the tallest monster's height (T,) in percent of the picture.
        steps: Of `BATCH` images, half of which hold a monster.
        progress: Told of its steps.

    Raises:
        UserError: There are too few frames with a monster, or without.
    """
    images, kinds = [], []
    for frames, heights in clips:
        tall = torch.from_numpy(np.asarray(heights))
        known = (tall >= THERE) | (tall <= GONE)
        images.append(small_frames(frames[known]))
        kinds.append(tall[known] >= THERE)
    there = torch.cat(kinds) if kinds else torch.zeros(0, dtype=torch.bool)
    if min(int(there.sum()), int((~there).sum())) < LEAST_FRAMES:
        raise UserError(
            f"of the real clips' frames {int(there.sum())} show a monster and {int((~there).sum())} show "
            f"none; {LEAST_FRAMES} of each are the least that one can be told by"
        )

    every, generator = torch.cat(images), torch.Generator().manual_seed(seed)
    sides = [torch.nonzero(there)[:, 0], torch.nonzero(~there)[:, 0]]
    wanted = torch.cat([torch.ones(BATCH // 2), torch.zeros(BATCH // 2)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MonsterNetwork()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for step in range(1, steps + 1):
        drawn = torch.cat(
            [side[torch.randint(len(side), (BATCH // 2,), generator=generator)] for side in sides]
        )
        batch = augment(every[drawn].float() / 127.5 - 1, generator)
        # Mirrored, a monster is one, too.
        batch = batch.flip(3) if torch.rand((), generator=generator) < 0.5 else batch
        loss = F.binary_cross_entropy_with_logits(network(batch), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress("learning what a monster looks like", step, steps)
    return Monsters(network)


def small_frames(frames: Tensor) -> Tensor:
    """Frames u8 (T,3,H,W) -> u8 (T,3,96,96), resized by area."""
    if frames.shape[-2:] == (SIDE, SIDE):
        return frames
    return F.interpolate(frames.float(), (SIDE, SIDE), mode="area").round().to(torch.uint8)
