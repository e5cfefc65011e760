"""A finished model that a run may start from: found, described without its weights, and held to a recipe.

name -> folder -> `Described` -> fits, or is refused by the name of a setting
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmldm.config import RunConfig, StartConfig
from mmldm.data.cache_writer import json_of
from mmldm.errors import UserError
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.component import settings_of
from mmldm.models.generator import JointGenerator
from mmldm.models.image_vae import PatchAutoencoderKL
from mmldm.models.vocoder import FourierVocoder
from mmldm.pipelines.loading import check_model_folder, model_folder, read_index
from mmldm.pipelines.published import PUBLISHED, published
from mmldm.strict import parse, read_json
from mmldm.types import ClipSpec

PARTS = ("vae", "autoencoder", "generator", "scheduler", "decoder_scheduler", "vocoder")
"""Components that a run can start from; a student stays behind, because its teacher changes."""
FOLDER = "start"
"""Of a run: what it needs to know of the model, and what became of each tensor."""
DERIVED = {
    "vae": frozenset[str](),
    "autoencoder": frozenset(
        {"image_latent_shape", "audio_image_latent_shape", "num_frames", "latent_statistics", "num_classes"}
    ),
    "generator": frozenset(
        {"audio_latent_shape", "video_latent_shape", "duration", "latent_statistics", "num_classes"}
    ),
    "vocoder": frozenset({"spectrogram", "sample_rate"}),
}  # fmt: skip
"""Settings of the networks that follow from clips, and that a recipe does not have."""
NETWORKS = {
    "vae": PatchAutoencoderKL,
    "autoencoder": MultiModalAutoencoder,
    "generator": JointGenerator,
    "vocoder": FourierVocoder,
}
"""What a job can train on."""


@dataclass(frozen=True)
class Described:
    """A finished model without its weights.

    Attributes:
        name: As the recipe has it.
        index: Its model_index.json.
        parts: Component -> settings, of those in `PARTS` that it has.
    """

    name: str
    index: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, folder: Path, name: str) -> Described:
        """Of a model folder, or of a run's `start/`.

        Raises:
            UserError: A file is missing or no settings.
        """
        index = read_index(folder)
        here = [part for part in PARTS if index.get(part) not in (None, [None, None])]
        files = {part: folder / part / settings_file(part) for part in here}
        return cls(name, index, {part: read_json(file, "") for part, file in files.items()})

    @property
    def clip(self) -> ClipSpec:
        """What its clips are."""
        return parse(ClipSpec, dict(self.index.get("clip_spec") or {}), f"{self.name}: clip_spec")

    @property
    def classes(self) -> list[str]:
        """Names of its classes, in the order of their rows."""
        return list(self.index.get("class_names") or [])

    def model(self, part: str) -> dict[str, Any]:
        """A recipe's `model` section for a network like this one's."""
        names = settings_of(NETWORKS[part]) - DERIVED[part]
        return {name: value for name, value in self.parts[part].items() if name in names}

    def own(self, part: str) -> bool:
        """Whether a component is there and of the class that our job trains."""
        stated = self.parts.get(part, {}).get("_class_name")
        return bool(stated == NETWORKS[part].__name__)


def settings_file(part: str) -> str:
    return "scheduler_config.json" if part.endswith("scheduler") else "config.json"


def find_model(name: str) -> Path:
    """The folder of a finished model, checked: of a published name, a folder's, a run's, or the hub's.

    Raises:
        UserError: It is not there, or no whole model of ours.
    """
    if folder := published(name):
        return folder
    path = Path(name)
    if (path / "model" / "model_index.json").is_file():
        path = path / "model"
    elif (path / "manifest.jsonl").is_file():
        raise UserError(f"{name} is a training run without a finished model: finish it first.")
    folder = path if path.exists() else model_folder(name, {}, PARTS)
    check_model_folder(folder, PARTS)
    return folder


def settled_name(name: str) -> str:
    """How a recipe names a model, wherever it is read: a folder by its whole path."""
    path = Path(name)
    return str(path.resolve()) if name not in PUBLISHED and path.exists() else name


def describe(section: StartConfig, run: Path) -> Described:
    """The model that a recipe starts from; what the run folder knows of it goes first.

    Raises:
        UserError: As `find_model`.
    """
    recorded = run / FOLDER
    if json_of(recorded / "start.json").get("model") == section.model:
        return Described.read(recorded, section.model)
    return Described.read(find_model(section.model), section.model)


def require_fit(config: RunConfig, described: Described) -> None:
    """Refuses a recipe whose networks are built otherwise than the model's, or that freezes what cannot be.

    Picture sizes, lengths and classes may differ: `models.transfer`.

    Raises:
        UserError: Naming the first setting that differs, and what to do.
    """
    assert config.start is not None, "the caller asks for recipes with a start only"
    name, frozen = described.name, config.start.freeze
    for setting, there, here in _differences(config, described):
        raise UserError(
            f"start: {setting} is {json.dumps(there)} in {name} and {json.dumps(here)} in the recipe: "
            "leave it as the model has it, or train without --from"
        )
    if "vocoder" in frozen and "vocoder" not in described.parts:
        raise UserError(f"--freeze vocoder: {name} has no vocoder")
    if "autoencoder" not in frozen:
        return
    there, here = (
        {
            "num_frames": spec.num_frames,
            "height and width": [spec.height, spec.width],
            "audio image": list(spec.audio_size),
        }
        for spec in (described.clip, config.clip)
    )
    for what, value in there.items():
        if here[what] != value:
            raise UserError(
                f"--freeze autoencoder: {name} is made for clips of {what} {value}, not {here[what]}; let it "
                "train, by --freeze vae alone, or leave the clips' size as the model has it"
            )


def _differences(config: RunConfig, described: Described) -> Iterator[tuple[str, Any, Any]]:
    """Settings that must agree and do not: their keys in the recipe, there, and here."""
    for job, network in NETWORKS.items():
        section = getattr(config, job)
        # A pretrained network of the recipe's own is not the model's.
        if section is None or job not in described.parts or section.model is None:
            continue
        if not described.own(job):
            yield f"the class of {job}", described.parts[job].get("_class_name"), network.__name__
            continue
        there, here = _flat(described.model(job)), _flat(dict(section.model))
        for key in sorted(there.keys() & here.keys()):
            if there[key] != here[key]:
                yield f"{job}.model.{key}", there[key], here[key]
        # What one side leaves to the constructor counts where it is a number of the network's build.
        for key in sorted(here.keys() - there.keys()):
            yield f"{job}.model.{key}", None, here[key]
    for job, scheduler in (("autoencoder", "decoder_scheduler"), ("generator", "scheduler")):
        here = getattr(config, job).schedule.get("prediction", "epsilon")
        predicted = described.parts[scheduler].get("prediction_type", "epsilon")
        if predicted != here:
            yield f"{job}.schedule.prediction", predicted, here
    if config.vocoder is not None and config.vocoder.model is not None and described.own("vocoder"):
        spectrogram = config.clip.spectrogram.model_dump(mode="json")
        stated = described.parts["vocoder"]["spectrogram"]
        for key in stated:
            if stated[key] != spectrogram.get(key):
                yield f"clip.spectrogram.{key}", stated[key], spectrogram.get(key)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their paths. Of a latent's shape, its channels and which axes it has: sizes may differ."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key == "latent_shape":
            channels, *axes = value
            flat[f"{prefix}{key}"] = [channels, *("n" if size > 1 else 1 for size in axes)]
        else:
            flat[f"{prefix}{key}"] = json.loads(json.dumps(value))
    return flat
