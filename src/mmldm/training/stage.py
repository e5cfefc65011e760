"""What a training job must say about itself, and what jobs of one kind share. The loop knows nothing else.

stage.batches -> batch (rows, ...) -> turn module -> {"loss": (), term: ()} -> loop.

`Stage` is the contract. `MediaStage` reads windows of the clips' files (jobs `vae` and `vocoder`);
`CachedStage` reads caches of encoded clips (all others), where no file can fail to be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mmldm.config import RunConfig
from mmldm.data.clips import WindowDataset, held_out_windows, spread
from mmldm.data.latents import Splits, cached_batches, files_key
from mmldm.data.loader import IndexedLoader, order
from mmldm.data.manifest import Manifest
from mmldm.media.clip import Clip
from mmldm.media.sheet import contact_sheet, save_png
from mmldm.media.spectrogram import AudioImage
from mmldm.pipelines.decoding import save_clips
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.sections import TrainConfig, VaeConfig, VocoderConfig
from mmldm.types import AV, ClipSpec, Latents, WindowBatch


class Stage(Protocol):
    """One job: `vae`, `autoencoder`, `generator`, `vocoder`, or a student of `mmldm distill`.

    A turn is one optimiser's share of a step. Its module's `forward(batch, random: StepRandom)`
    returns a dict of 0-d tensors, means over its rows, among them "loss", which is minimised; the
    others are logged. The module's trainable parameters are the turn's: what it only uses (a frozen
    codec, the other turn's network) must not be registered as a submodule, or must not require
    gradients. While one turn runs, the parameters of the others do not require gradients. With
    several processes every trainable parameter must take part in its turn's loss in every step.

    A batch is `types.Latents` or `types.WindowBatch`, or another nest of dicts and (named) tuples of
    tensors whose first dimension is the rows. Turns run one after the other, each over all accumulated
    passes; what a turn keeps for the next belongs to `random.micro`.

    Networks are compiled, where the recipe asks, by the loop's `Turn`, block by block: a turn's forward
    is not compilable as a whole, because it takes a new `StepRandom` each time.

    Attributes:
        name: Name of the job.
        turns: Turn name -> module, in the order they run; at least "model".
        learning_rates: Turn name -> peak learning rate where it is not the recipe's; may be empty.
        ema_modules: Name -> module whose trainable weights are averaged.
        files: Clips that training reads from disk; 0: none, it reads caches.
        failures: Those that could not be read so far -> reason. Each process has its own, and is told
            the others' when the loop reports.
        held_out_failures: The same of clips that are validated and shown, on rank 0.
    """

    name: str
    turns: dict[str, nn.Module]
    learning_rates: Mapping[str, float]
    ema_modules: dict[str, nn.Module]

    @property
    def files(self) -> int: ...

    @property
    def failures(self) -> dict[str, str]: ...

    @property
    def held_out_failures(self) -> Mapping[str, str]: ...

    def active_turns(self, step: int) -> tuple[str, ...]:
        """Turns that run in the step after `step` completed ones."""

    def batches(self, start_step: int, rank: int, world: int) -> Iterator[Any]:
        """Endless batches from `start_step` on, on the CPU: this process's rows."""

    def clips_of(self, step: int) -> list[str]:
        """Where the rows of the global batch after `step` completed steps came from: names of clips."""

    def validate(self) -> dict[str, float]:
        """Held-out numbers, with averaged weights; the same draws each time. Rank 0 only."""

    def preview(self, folder: Path, step: int) -> None:
        """Writes something to look at and listen to. Rank 0 only."""

    def export(self, folder: Path) -> None:
        """Writes the model, averaged weights in place, as the folder that a user loads."""

    def fingerprint(self) -> dict[str, Any]:
        """JSON values of everything that a resumed run must share: data, schedule, architecture."""


class MediaStage:
    """The part of a `Stage` that trains one network, in one turn, on windows of the clips.

    Args:
        job: Section of the recipe, with a `train` section.
        turn: The only one.
        network: What is averaged and exported.

    Attributes:
        sound_only: Whether clips without a picture will do, and pictures need not be read.
    """

    name: str
    sound_only = False

    def __init__(
        self,
        config: RunConfig,
        job: VaeConfig | VocoderConfig,
        manifest: Manifest,
        device: torch.device,
        *,
        turn: nn.Module,
        network: nn.Module,
    ) -> None:
        assert job.train is not None, "a job without training has no stage"
        self.spec, self.seed, self.device = config.clip, config.seed, device
        self.manifest, self.job, self.train_config = manifest, job, job.train
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
        self._held_out: dict[int, WindowBatch] = {}

    @property
    def files(self) -> int:
        return len(self._clips)

    @property
    def failures(self) -> dict[str, str]:
        return self._loader.failures if self._loader is not None else {}

    def active_turns(self, step: int) -> tuple[str, ...]:
        return ("model",)

    def batches(self, start_step: int, rank: int, world: int) -> Iterator[WindowBatch]:
        # Kept, because it counts the files that cannot be read.
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

    def clips_of(self, step: int) -> list[str]:
        assert self._loader is not None, "a step was taken"
        return [self._clips.name(position) for position in self._loader.positions(step)]

    def held_out(self, count: int) -> WindowBatch:
        """Windows of at most `count` held-out clips, on the CPU; they are read once."""
        if count not in self._held_out:
            # A job on sound is content with clips that have no picture.
            clips = self.manifest.sounding if self.sound_only else self.manifest.complete
            windows, failures = held_out_windows(clips, self.spec, self.seed, count)
            self.held_out_failures |= failures
            self._held_out[count] = windows
        return self._held_out[count]

    def fingerprint(self) -> dict[str, Any]:
        return {
            "clip": self.spec.model_dump(),
            "job": self.job.model_dump(exclude={"train"}),
            "clips": files_key(self.manifest),
        }


class CachedStage:
    """The part of a `Stage` that trains on caches. Which turns and networks there are, the job says.

    Args:
        train_config: Training of the job.
        seed: Of the run.
    """

    files = 0

    def __init__(
        self, train_config: TrainConfig, caches: Splits, seed: int, device: torch.device
    ) -> None:
        self.train_config, self.caches, self.seed, self.device = train_config, caches, seed, device
        self.turns: dict[str, nn.Module] = {}
        self.ema_modules: dict[str, nn.Module] = {}
        self.learning_rates: Mapping[str, float] = {}
        self.failures: dict[str, str] = {}
        self.held_out_failures: dict[str, str] = {}

    def active_turns(self, step: int) -> tuple[str, ...]:
        return ("model",)

    def batches(self, start_step: int, rank: int, world: int) -> Iterator[Latents]:
        return cached_batches(
            self.caches.train,
            batch_size=self.train_config.batch_size,
            seed=self.seed,
            start_step=start_step,
            rank=rank,
            world=world,
        )

    def clips_of(self, step: int) -> list[str]:
        """Names of clips, as far as the cache knows them: one of an earlier version has numbers alone."""
        cache = self.caches.train
        # The cache lists (file, windows) in the order of its rows.
        files = [name for name, rows in cache.extra.get("files", []) for _ in range(rows)]
        return [
            files[row] if files else f"row {row} of {cache.folder}"
            for row in order(self.seed, len(cache), self.train_config.batch_size, step)
        ]

    def held_out(self, count: int) -> Latents:
        """At most `count` held-out clips, evenly spread, on the device."""
        cache = self.caches.held_out
        return cache[torch.tensor(spread(count, len(cache)))].to(self.device)


class PipelineStage(CachedStage):
    """The part of a `Stage` that trains one network of a pipeline, and shows and exports all of it.

    Args:
        pipeline: The other parts, and the network in its place.
    """

    def __init__(
        self,
        train_config: TrainConfig,
        caches: Splits,
        seed: int,
        device: torch.device,
        pipeline: SoundingVideoPipeline,
    ) -> None:
        super().__init__(train_config, caches, seed, device)
        self.pipeline = pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)

    def preview(self, folder: Path, step: int) -> None:
        output = self.pipeline(num_samples=4, seed=0)
        save_clips(output.clips, folder, f"joint_{step:07d}")

    def export(self, folder: Path) -> None:
        self.pipeline.save_pretrained(folder)


def show_versions(
    versions: Mapping[str, AV[Tensor]], spec: ClipSpec, folder: Path, name: str
) -> None:
    """Writes the same clips in several versions, and a sheet that shows each clip's beside each other.

    Args:
        versions: Title -> waveforms (B,S) and frames u8 (B,T,3,H,W).
        name: Start of the files' names.
    """
    # Clip by clip, so that the versions of one lie next to each other on the sheet.
    first = next(iter(versions.values()))
    clips, titles = [], []
    for i in range(len(first.video)):
        for title, media in versions.items():
            waveform, frames = media.audio[i].cpu(), media.video[i].cpu()
            clips.append(Clip(frames, waveform, spec.fps, spec.sample_rate))
            titles.append(f"{title} {i}")
    # A film alone says what it is, too.
    for number, (clip, title) in enumerate(zip(clips, titles, strict=True)):
        clip.save(folder / f"{name}_{number:03d}_{title.replace(' ', '-')}.mp4")
    save_png(folder / f"{name}.png", contact_sheet(clips, titles))
