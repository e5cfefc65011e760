"""The recipe of a run that starts from a finished model: its networks, schedules and clips, our training.

model's settings, small recipe, `--set` -> RunConfig. Latents grow with longer clips and larger pictures, so
that a slot stays as long as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from mmldm.config import RunConfig, StartConfig
from mmldm.diffusion.schedules import SCHEDULER_CLASSES, schedule_of
from mmldm.errors import UserError
from mmldm.sections import SampleConfig
from mmldm.strict import override, parse
from mmldm.training.recipe import grown_latents
from mmldm.training.start_model import Described, find_model, settled_name
from mmldm.types import ClipSpec

WITHOUT_MODEL = "--freeze keeps parts of a model: name the model with --from."
VOCODER_TRAIN = {
    "steps": 1000, "batch_size": 8, "learning_rate": 0.002, "matrix_learning_rate": 0.02, "ema_decay": 0.995,
}  # fmt: skip
"""Of a model's own vocoder: docs/vocoder.md, shorter, because it has learnt already."""


def with_start(config: RunConfig, name: str | None, freeze: str | None) -> RunConfig:
    """A recipe at hand, with what `--from` and `--freeze` say; what they leave out stays.

    Args:
        freeze: Names of jobs, with commas.

    Raises:
        UserError: `freeze` names what cannot be frozen, or there is nothing to take it from.
    """
    start = {} if config.start is None else config.start.model_dump(mode="json")
    # One that has gone since the run began is still the same one.
    if name is not None and start.get("model") not in (name, str(Path(name).resolve())):
        start["model"] = settled_name(name)
    if "model" not in start:
        raise UserError(WITHOUT_MODEL)
    if freeze is not None:
        start["freeze"] = _jobs(freeze)
    return parse(RunConfig, config.model_dump(mode="json") | {"start": start}, "--from")


def started_recipe(
    base: RunConfig, name: str, freeze: str | None, changes: Sequence[str] = ()
) -> RunConfig:
    """The recipe that goes on with a model on other clips.

    Args:
        base: What the model does not say: losses and training.
        freeze: Names of jobs, with commas.
        changes: `a.b=value`; those of `clip` decide how large the latents are.

    Raises:
        UserError: The model cannot be read, or cannot be trained on.
    """
    section = parse(
        StartConfig, {"model": settled_name(name), "freeze": _jobs(freeze or "")}, "--freeze"
    )
    described = Described.read(find_model(section.model), section.model)
    recipe = base.model_dump(mode="json")

    # Clips: the model's, but for what is asked for.
    asked = described.clip
    values = {"clip": asked.model_dump(mode="json")}
    for change in changes:
        if change.strip().startswith("clip."):
            override(values, change)
    clip = parse(ClipSpec, values["clip"], "clip")
    # A picture of another size leaves the audio image alone where it has the size of its spectrogram.
    native = asked.model_copy(update={"native_audio": True})
    resized = (clip.height, clip.width) != (asked.height, asked.width)
    if resized and not clip.native_audio and native.audio_size == asked.audio_size:
        asked, clip = native, clip.model_copy(update={"native_audio": True})
    recipe["clip"] = asked.model_dump(mode="json")

    # Networks and schedules.
    frozen = list(section.freeze)
    if described.own("vae"):
        recipe["vae"] |= {"pretrained": None, "model": described.model("vae")}
    else:
        # A VAE of others has no job of ours that would train all of it.
        source = str(find_model(section.model))
        recipe["vae"] |= {"pretrained": source, "model": None, "train": None}
        frozen = ["vae", *(job for job in frozen if job != "vae")]
    recipe["autoencoder"]["model"] = grown_latents(described.model("autoencoder"), asked, clip)
    recipe["generator"]["model"] = described.model("generator")
    for job, part in (("autoencoder", "decoder_scheduler"), ("generator", "scheduler")):
        recipe[job]["schedule"] = _schedule(described, part)
    recipe["vocoder"] = _vocoder(described)

    # What the base says of training, as far as such latents and schedules allow.
    job = recipe["autoencoder"]
    job["target_frames"] = min(job["target_frames"], clip.num_frames)
    if job["schedule"]["prediction"] == "epsilon":
        job["loss"]["terminal_fraction"] = 0.0
    latents = [
        job["model"][f"{name}_encoder_config"]["latent_shape"] for name in ("audio", "video")
    ]
    if any(shape[1] == 1 for shape in latents):
        recipe["generator"]["known_slots"] = None
    recipe["sample"] |= _sampling(described)
    recipe["start"] = {"model": section.model, "freeze": frozen}
    return parse(RunConfig, recipe, f"the recipe of {name}")


def _jobs(freeze: str) -> list[str]:
    return [job.strip() for job in freeze.split(",") if job.strip()]


def _schedule(described: Described, part: str) -> dict[str, Any]:
    settings = described.parts[part]
    try:
        scheduler = SCHEDULER_CLASSES[settings["_class_name"]].from_config(dict(settings))
        return schedule_of(scheduler).model_dump(mode="json")
    except (KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{described.name}: its {part} is of a kind that cannot be trained with ({error})"
        ) from error


def _vocoder(described: Described) -> dict[str, Any] | None:
    """None where the model has no vocoder."""
    if "vocoder" not in described.parts:
        return None
    if described.own("vocoder"):
        return {"model": described.model("vocoder"), "train": VOCODER_TRAIN}
    return {"pretrained": str(find_model(described.name) / "vocoder")}


def _sampling(described: Described) -> dict[str, Any]:
    """How the model samples, as far as its index says."""
    known = ("num_inference_steps", "decoder_steps", "guidance_scale")
    sample = {name: described.index[name] for name in known if name in described.index}
    quality = described.index.get("default_quality")
    if quality in get_args(SampleConfig.model_fields["quality"].annotation):
        sample["quality"] = quality
    return sample
