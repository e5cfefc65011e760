"""How the view of the Freedoom world turns: image flow beside the weapon, read by a small network.

frames u8 (T,3,H,W) -> flow: likeness (T-1,8,57) of bands of successive frames at shifts -> degrees (T-1,)

Walls repeat themselves, so that the best shift alone is often another one; what all shifts and bands say
together is learnt from the game's own angles.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmldm.errors import UserError

HEIGHT = 128
"""Of the picture in which shifts are looked for, in pixels."""
WEAPON = 58, 22
"""The row at which the weapon begins, and the columns to both sides of the middle that it takes."""
BANDS = 8
REACH = 28
"""Pixels of the largest shift to either side."""
BLUR = 9
"""Pixels over which a row is smoothed; what is left of it is compared."""
STRONGEST = 20.0
"""8-bit steps beyond which a detail counts for no more."""
BATCH = 128
STEPS = 3000
LEAST_FRAMES = 100


def flow(frames: Tensor) -> Tensor:
    """Likeness (T-1,8,57) in [-1,1] of each frame and the next, of frames u8 (T,3,H,W).

    Of bands from the top down, at shifts from `REACH` pixels to the right to as many to the left.
    """
    width = round(HEIGHT * frames.shape[-1] / frames.shape[-2])
    grey = F.interpolate(frames.float(), (HEIGHT, width), mode="area").mean(1)
    rows = F.avg_pool2d(grey[:, None], (2, 1))[:, 0]
    smooth = F.avg_pool1d(rows, BLUR, 1, BLUR // 2, count_include_pad=False)
    details = (rows - smooth).clamp(-STRONGEST, STRONGEST)
    # The weapon does not turn.
    top, aside = WEAPON
    details[:, top // 2 :, max(0, width // 2 - aside) : width // 2 + aside] = 0
    bands = details.unflatten(1, (BANDS, -1))
    found = []
    for shift in range(-REACH, REACH + 1):
        before = bands[:-1, ..., max(0, shift) : width + min(0, shift)]
        after = bands[1:, ..., max(0, -shift) : width - max(0, shift)]
        power = before.square().sum((2, 3)) * after.square().sum((2, 3))
        found.append((before * after).sum((2, 3)) / (power + 1e-3).sqrt())
    return torch.stack(found, 2)


class Turning:
    """Reads flow.

    Args:
        network: Trained, from likeness (N,456) to degrees (N,1).
    """

    def __init__(self, network: nn.Sequential) -> None:
        self.network = network.eval()

    @torch.no_grad()
    def degrees(self, frames: Tensor) -> Tensor:
        """Degrees (T-1,) to the left by which the view turns from each frame u8 (T,3,H,W) to the next."""
        return self.network(flow(frames).flatten(1))[:, 0]


def learn_turning(
    flows: Iterable[tuple[Tensor, np.ndarray]], steps: int = STEPS, seed: int = 0
) -> Turning:
    """Trains the network; seconds.

    Args:
        flows: Likeness (T-1,8,57) of clips, and the degrees (T-1,) to the left that the view turned; NaN at a
            cut.
        steps: Of `BATCH` pairs of frames.

    Raises:
        UserError: There are too few frames.
    """
    seen, turns = [], []
    for likeness, degrees in flows:
        known = torch.from_numpy(~np.isnan(degrees))
        seen.append(likeness[known])
        turns.append(torch.from_numpy(degrees).float()[known])
    wanted = torch.cat(turns) if turns else torch.zeros(0)
    if len(wanted) < LEAST_FRAMES:
        raise UserError(
            f"the real clips hold {len(wanted)} pairs of frames, and {LEAST_FRAMES} are the least that "
            "turning can be learnt from"
        )
    every, generator = torch.cat(seen), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(BANDS * (2 * REACH + 1), 48), nn.SiLU(), nn.Linear(48, 1))
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(steps):
        drawn = torch.randint(len(wanted), (BATCH,), generator=generator)
        # Half of them mirrored, and none quite as it is.
        mirrored = torch.rand(BATCH, generator=generator) < 0.5
        batch = torch.where(mirrored[:, None, None], every[drawn].flip(2), every[drawn])
        batch = batch + 0.05 * torch.randn(batch.shape, generator=generator)
        signed = torch.where(mirrored, -wanted[drawn], wanted[drawn])
        loss = F.smooth_l1_loss(network(batch.flatten(1))[:, 0], signed)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return Turning(network)
