"""What jobs on cached latents share: their rows, for training and held out. No file can fail to be read here.

caches -> batches of rows (B,...) -> the part of a `training.stage.Stage` that does not depend on what is
learnt from them. Jobs on the files are `training.media_stage`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from mmldm.config import TrainConfig
from mmldm.data.clips import spread
from mmldm.data.latents import Splits, cached_batches
from mmldm.data.loader import order


class CachedStage:
    """Reads caches; which turns and networks there are, the job says.

    Args:
        train_config: Training of the job.
        seed: Of the run.
    """

    def __init__(
        self, train_config: TrainConfig, caches: Splits, seed: int, device: torch.device
    ) -> None:
        self.train_config, self.caches, self.seed, self.device = train_config, caches, seed, device
        self.turns: dict[str, nn.Module] = {}
        self.ema_modules: dict[str, nn.Module] = {}
        self.learning_rates: Mapping[str, float] = {}

    def active_turns(self, step: int) -> tuple[str, ...]:
        return ("model",)

    def batches(self, start_step: int, rank: int, world: int) -> Iterator[dict[str, Tensor]]:
        return cached_batches(
            self.caches.train,
            batch_size=self.train_config.batch_size,
            seed=self.seed,
            start_step=start_step,
            rank=rank,
            world=world,
            device=self.device,
        )

    files = 0

    @property
    def failures(self) -> dict[str, str]:
        return {}

    @property
    def held_out_failures(self) -> dict[str, str]:
        return {}

    def clips_of(self, step: int) -> list[str]:
        """Names of clips, as far as the cache knows them: one of an earlier version has numbers alone."""
        cache = self.caches.train
        files = [name for name, rows in cache.extra.get("files", []) for _ in range(rows)]
        return [
            files[row] if files else f"row {row} of {cache.folder}"
            for row in order(self.seed, len(cache), self.train_config.batch_size, step)
        ]

    def held_out(self, count: int) -> dict[str, Tensor]:
        """Cached rows of at most `count` held-out clips, evenly spread."""
        cache = self.caches.held_out
        rows = torch.tensor(spread(count, len(cache)))
        return {name: value.to(self.device) for name, value in cache[rows].items()}
