"""The recipe: one strict YAML file describes one system, from clips to samples.

recipe.yaml + `--set key=value` -> RunConfig (frozen). Its sections are in `sections`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, Field, field_validator, model_validator

from mmldm.errors import UserError, first_line
from mmldm.files import is_blank, write_text
from mmldm.sections import (
    SAMPLED_TASKS,
    AutoencoderConfig,
    DataConfig,
    DistillationConfig,
    GeneratorConfig,
    SampleConfig,
    Section,
    TrainConfig,
    VaeConfig,
    VocoderConfig,
)
from mmldm.strict import parse, read_yaml
from mmldm.types import ClipSpec, Say

RECIPES = Path(__file__).parent / "recipes"
"""Recipes that come with the package; `load_config` takes their names."""


class BudgetConfig(Section):
    """The last `--minutes` that a run was given; `mmldm train` writes it, to know the same command again."""

    minutes: float = Field(gt=0)
    jobs: tuple[str, ...]
    """That the minutes are shared over."""
    before: dict[str, float] = {}
    """Minutes that these jobs had before."""


FREEZABLE = ("vae", "autoencoder", "vocoder")
"""Jobs whose network can be a finished model's, as it is."""


class StartConfig(Section):
    """The finished model that every job starts from (`training.starting`)."""

    model: str
    """`impacts` (the bundled one), a model folder, or a hub name."""
    freeze: tuple[str, ...] = ()
    """Jobs that train nothing: their network is the model's."""

    @field_validator("freeze")
    @classmethod
    def _freezable(cls, jobs: tuple[str, ...]) -> tuple[str, ...]:
        for job in jobs:
            if job not in FREEZABLE:
                raise ValueError(f"{job!r} cannot be frozen, only {', '.join(FREEZABLE)} can")
        if "autoencoder" in jobs and "vae" not in jobs:
            raise ValueError(
                "a frozen autoencoder reads the latents of the model's own image VAE: freeze "
                "vae,autoencoder"
            )
        return tuple(job for job in FREEZABLE if job in jobs)


class RunConfig(Section):
    """One recipe, one system."""

    clip: ClipSpec = ClipSpec()
    data: DataConfig = DataConfig()
    start: StartConfig | None = None
    """None: every job starts from nothing, but for what its own section names."""
    vae: VaeConfig
    autoencoder: AutoencoderConfig
    generator: GeneratorConfig
    vocoder: VocoderConfig | None = None
    """None: Griffin-Lim."""
    distill_generator: DistillationConfig | None = None
    distill_decoder: DistillationConfig | None = None
    """`mmldm distill` writes both; `mmldm train` reads neither."""
    sample: SampleConfig = SampleConfig()
    budget: BudgetConfig | None = None
    """The last `--minutes`, to know the same command again."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        shown, frames = self.autoencoder.target_frames, self.clip.num_frames
        if shown > frames:
            raise ValueError(f"autoencoder.target_frames {shown} exceeds clip.num_frames {frames}")
        sampled = any(self.generator.tasks.get(task) for task in SAMPLED_TASKS)
        if self.distill_generator is not None and not sampled:
            raise ValueError(
                "distill_generator: nothing that is sampled is among generator.tasks, give one of "
                f"{', '.join(SAMPLED_TASKS)} a share"
            )
        if self.start is not None:
            named = [
                f"{job}.{key}"
                for job, key in (("autoencoder", "pretrained"), ("autoencoder", "decoder_init"),
                                 ("generator", "pretrained"))
                if getattr(getattr(self, job), key) is not None
            ]  # fmt: skip
            if named:
                raise ValueError(f"start and {named[0]} exclude each other: both name weights")
            if "vocoder" in self.start.freeze and self.vocoder is None:
                raise ValueError("start.freeze: the recipe has no vocoder section to freeze")
        return self

    def training_of(self, job: str) -> TrainConfig | None:
        """The `train` section of a job; None: its network is taken as it is, or there is no such job."""
        section = getattr(self, job)
        frozen = self.start is not None and job in self.start.freeze
        train: TrainConfig | None = None if section is None or frozen else section.train
        return train


def recipe_file(name: str | Path) -> Path:
    """The file of a recipe: the package's one of this name, unless a file is called so."""
    path, shipped = Path(name), RECIPES / f"{name}.yaml"
    return shipped if path.name == str(name) and shipped.is_file() and not path.is_file() else path


def load_config(
    path: str | Path, overrides: Sequence[str] = (), say: Say | None = None
) -> RunConfig:
    """Reads a recipe.

    Args:
        path: YAML file, or the name of a recipe that comes with the package (`RECIPES`).
        overrides: `a.b=value` changes, the value read as YAML.
        say: Is told of settings that earlier versions took and that do nothing.

    Raises:
        UserError: The file cannot be read, or a key is unknown, missing or of the wrong type.
    """
    path = recipe_file(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise UserError(
            f"{path}: cannot read the recipe ({first_line(error)}); the package has the recipes {known}"
        ) from error
    if is_blank(text.encode()):
        raise UserError(
            f"{path} is empty, as a power cut may leave a file: give the recipe again with --config, "
            "or delete the file to have one chosen for your clips."
        )
    data = read_yaml(text, str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: the recipe must be a mapping of sections, see {RECIPES}")
    # `workers` never had a meaning for jobs on caches, but every run folder of earlier versions holds it.
    for job in sorted(data.keys() - {"vae", "vocoder"}, key=str):
        match data[job]:
            case {"train": {"workers": _}}:
                del data[job]["train"]["workers"]
                if say is not None:
                    say(f"{path}: {job}.train.workers does nothing, see data.workers")
    return parse(RunConfig, data, str(path), overrides)


def changed(config: RunConfig, changes: Sequence[str]) -> RunConfig:
    """The recipe with `a.b=value` changes.

    Raises:
        UserError: As `load_config`.
    """
    return parse(RunConfig, config.model_dump(mode="json"), "--set", changes)


def save_config(config: BaseModel, path: Path) -> None:
    """Writes the resolved recipe, whole or not at all; `load_config` reads it back equal."""
    write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
