"""A real stage in miniature, a denoiser and a critic; also a program, to be killed.

python tiny_stage.py FOLDER key=value ...    (keys of TrainConfig; `poison=3,4` makes rows of those
steps NaN; `unreadable=5,6` are rows that cannot be read; `seed=1`; `pause=0.01` seconds in each
batch; `full_at=6` fills the disk from that step on)
"""

import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from mmldm.config import parse
from mmldm.data.loader import Failed, IndexedLoader
from mmldm.errors import UserError
from mmldm.models.transformer import Block
from mmldm.sections import MediaTrainConfig
from mmldm.training.distributed import process_group
from mmldm.training.loop import train
from mmldm.training.randomness import StepRandom, derive_seed
from mmldm.types import AV

WIDTH = 8


class Numbers:
    """Rows that depend on (epoch, index) alone."""

    def __init__(self, length: int, unreadable: tuple[int, ...] = ()) -> None:
        self.length, self.unreadable = length, unreadable

    def __len__(self) -> int:
        return self.length

    def file(self, index: int) -> str:
        return f"number {index}"

    def __getitem__(self, position: tuple[int, int]) -> Any:
        if position[1] in self.unreadable:
            return Failed(self.file(position[1]), "gone")
        generator = torch.Generator().manual_seed(derive_seed(*position))
        pair = torch.randn(2, WIDTH, generator=generator)
        return {"latents": AV(pair[0], pair[1]), "row": position[1]}


class Denoiser(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2 * WIDTH, 32),
            nn.SiLU(),
            nn.Linear(32, 32),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(32, 2 * WIDTH),
        )
        self.block = Block(32, heads=2, mlp_ratio=1.0, shared_modulation=True)

    def forward(self, batch: dict[str, Any], random: StepRandom) -> dict[str, Tensor]:
        clean = torch.cat(batch["latents"], dim=-1)
        noise = random.normal(clean.shape)
        level = random.uniform((len(clean), 1))
        hidden = self.net[:4](clean + level * noise)
        hidden = self.block(hidden[:, None], hidden.new_zeros(len(hidden), 6 * 32))[:, 0]
        error = self.net[4:](hidden) - noise
        return {"loss": error.square().mean(), "l1": error.abs().mean()}


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2 * WIDTH, 1)

    def forward(self, batch: dict[str, Any], random: StepRandom) -> dict[str, Tensor]:
        real = torch.cat(batch["latents"], dim=-1)
        fake = random.normal(real.shape)
        return {"loss": (1 - self.net(real)).relu().mean() + (1 + self.net(fake)).relu().mean()}


class TinyStage:
    name = "tiny"

    def __init__(
        self,
        config: MediaTrainConfig,
        seed: int,
        poison: tuple[int, ...] = (),
        pause: float = 0.0,
        dropout: float = 0.1,
        length: int = 37,
        unreadable: tuple[int, ...] = (),
    ) -> None:
        torch.manual_seed(seed)
        self.turns: dict[str, nn.Module] = {"model": Denoiser(dropout), "critic": Critic()}
        self.learning_rates = {"critic": 3e-3}
        self.ema_modules = {"model": self.turns["model"]}
        self.failures: dict[str, str] = {}
        self.held_out_failures: dict[str, str] = {}
        self.length = self.files = length
        self._numbers = Numbers(length, unreadable)
        self._config, self._seed, self._poison, self._pause = config, seed, poison, pause

    def active_turns(self, step: int) -> tuple[str, ...]:
        return ("model", "critic") if step >= 4 else ("model",)

    def batches(self, start_step: int, rank: int, world: int) -> Iterator[Any]:
        loader = self._loader = IndexedLoader(
            self._numbers,
            batch_size=self._config.batch_size,
            seed=self._seed,
            start_step=start_step,
            rank=rank,
            world=world,
            workers=self._config.workers,
        )
        self.failures = loader.failures
        return self._poisoned(loader, start_step)

    def _poisoned(self, loader: IndexedLoader, start_step: int) -> Iterator[Any]:
        for step, batch in enumerate(loader, start_step):
            if step in self._poison:
                batch["latents"].audio[0, 0] = float("nan")
            time.sleep(self._pause)
            yield batch

    def clips_of(self, step: int) -> list[str]:
        positions = self._loader.positions(step)
        return [self._numbers.file(index) for _, index in positions]

    def validate(self) -> dict[str, float]:
        random = StepRandom(self._seed, 0, "validate", self._config.batch_size)
        rows = [Numbers(self.length)[(0, index)] for index in range(random.batch_size)]
        audio, video = (torch.stack([r["latents"][m] for r in rows]) for m in (0, 1))
        terms = self.turns["model"]({"latents": AV(audio, video)}, random)
        return {"loss": terms["loss"].item()}

    def preview(self, folder: Path, step: int) -> None:
        folder.mkdir(exist_ok=True)
        (folder / f"{step}.txt").write_text(
            f"norm {self.turns['model'].get_parameter('net.0.weight').norm()}\n"
        )

    def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        save_file(self.turns["model"].state_dict(), folder / "model.safetensors")

    def fingerprint(self) -> dict[str, Any]:
        return {"width": WIDTH, "length": self.length}


def tiny_config(**changes: Any) -> MediaTrainConfig:
    base = {
        "steps": 12, "batch_size": 8, "learning_rate": 0.01, "warmup_steps": 2, "ema_decay": 0.9,
        "log_every": 1, "validate_every": 6, "preview_every": 6, "save_every": 3, "workers": 0,
    }  # fmt: skip
    return parse(MediaTrainConfig, {**base, **changes}, "tiny")


class _FillingDisk(TinyStage):
    """Files can grow no further once `full_at` is reached, as on a full disk."""

    full_at = -1

    def active_turns(self, step: int) -> tuple[str, ...]:
        if step == self.full_at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        return super().active_turns(step)


def main() -> int:
    torch.set_num_threads(1)
    folder, *words = sys.argv[1:]
    settings = {k: yaml.safe_load(v) for k, v in (word.split("=", 1) for word in words)}
    seed = settings.pop("seed", 0)
    extra: dict[str, Any] = {
        k: settings.pop(k) for k in ("pause", "dropout", "length") if k in settings
    }
    for rows in ("poison", "unreadable"):
        extra[rows] = tuple(int(s) for s in str(settings.pop(rows, "")).split(",") if s)
    full_at = settings.pop("full_at", -1)
    try:
        with process_group("cpu") as process:
            config = tiny_config(**settings)
            stage = _FillingDisk(config, seed, **extra)
            stage.full_at = full_at
            result = train(stage, config, Path(folder), seed=seed, process=process)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"step {result.step} stopped_by {result.stopped_by}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
