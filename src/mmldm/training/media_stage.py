"""What jobs on the files themselves share: windows of clips by a loader, one turn, one network.

manifest -> windows frames u8 (B,T,3,H,W), waveform (B,S) -> the part of a `training.stage.Stage` that does
not depend on what is learnt from them. Jobs on cached latents read no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmldm.config import RunConfig, TrainConfig, VaeConfig, VocoderConfig
from mmldm.data.clips import WindowDataset, held_out_windows
from mmldm.data.latents import files_key
from mmldm.data.loader import IndexedLoader
from mmldm.data.manifest import Manifest
from mmldm.media.spectrogram import AudioImage


class MediaStage:
    """Trains one network on windows of the clips.

    Args:
        job: Section of the recipe.
        train_config: Its training.
        turn: The only one.
        network: What is averaged and exported.

    Attributes:
        sound_only: Whether the pictures need not be read.
    """

    name: str
    sound_only = False

    def __init__(
        self,
        config: RunConfig,
        job: VaeConfig | VocoderConfig,
        train_config: TrainConfig,
        manifest: Manifest,
        device: torch.device,
        *,
        turn: nn.Module,
        network: nn.Module,
    ) -> None:
        self.spec, self.seed, self.device = config.clip, config.seed, device
        self.manifest, self.train_config = manifest, train_config
        self._job = job
        network.to(device).train()
        self.turns: dict[str, nn.Module] = {"model": turn.to(device)}
        self.ema_modules: dict[str, nn.Module] = {self.name: network}
        self.learning_rates: Mapping[str, float] = {}
        self.audio_image = AudioImage(self.spec).to(device)
        self._clips = WindowDataset(
            manifest, self.spec, "train", self.seed, sound_only=self.sound_only
        )
        self._loader: IndexedLoader | None = None
        self.held_out_failures: dict[str, str] = {}

    def active_turns(self, step: int) -> tuple[str, ...]:
        return ("model",)

    def batches(self, start_step: int, rank: int, world: int) -> Iterator[dict[str, Tensor]]:
        self._loader = IndexedLoader(
            self._clips,
            batch_size=self.train_config.batch_size,
            seed=self.seed,
            start_step=start_step,
            rank=rank,
            world=world,
            workers=self.train_config.workers,
        )
        return iter(self._loader)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "clip": self.spec.model_dump(),
            "job": self._job.model_dump(exclude={"train"}),
            "clips": files_key(self.manifest),
        }

    @property
    def files(self) -> int:
        return len(self._clips)

    @property
    def failures(self) -> dict[str, str]:
        return self._loader.failures if self._loader is not None else {}

    def clips_of(self, step: int) -> list[str]:
        assert self._loader is not None, "a step was taken"
        return [
            self._clips.name(position) for position in self._loader.positions(step, self._clips)
        ]

    def held_out(self, count: int) -> dict[str, Tensor]:
        """Windows of at most `count` held-out clips, on the CPU."""
        windows, failures = held_out_windows(self.manifest, self.spec, self.seed, count)
        self.held_out_failures |= failures
        return windows
