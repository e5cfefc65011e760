"""A recipe chosen for the data: what `mmldm train FOLDER` runs when no config is named.

manifest, minutes, device -> RunConfig. It starts from the bundled model's recipe, which trains on a CPU: one
video token a frame, one audio token a column. Every number stands in the run folder's config.yaml afterwards,
to be read and edited. How many steps there is time for, each job finds out while it trains (`budget`,
`rounds`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmldm.config import RECIPES, RunConfig, changed, load_config, parse
from mmldm.data.manifest import Entry, Manifest
from mmldm.pipelines.precision import product_type
from mmldm.training import JOBS
from mmldm.training.outlook import DEFAULT_MINUTES
from mmldm.training.rounds import in_first_round
from mmldm.types import GRID, ClipSpec, SpectrogramSpec

CPU = torch.device("cpu")
TARGET_WINDOWS = 2000
"""Cached windows a small data set is spread to."""
WINDOW_OVERLAP = 4
"""At most this many windows per clip length of material, on average."""
WINDOW_SECONDS, HOP_SECONDS = 0.024, 0.00625
"""Of the spectrogram: the window and hop that lost least of an attack (docs/lab-notes.md)."""
HIGHEST_FREQUENCY = 20_000.0
"""In Hz, of the spectrogram: what one hears."""


def tiny_recipe() -> RunConfig:
    """The bundled model's recipe, about eight hours on one CPU core (runs/impacts.sh)."""
    # By its path: whatever is called "impacts" in the working directory is something else.
    return load_config(RECIPES / "impacts.yaml")


def choose_recipe(
    manifest: Manifest,
    minutes: float | None,
    changes: Sequence[str] = (),
    base: RunConfig | None = None,
    device: torch.device = CPU,
) -> RunConfig:
    """Settings for these clips, this time and this device.

    Windows per clip make about TARGET_WINDOWS of the whole set (`choose_windows`). The bundled model's
    numbers of steps are the most that its jobs take in their minutes. Latents grow with longer clips.

    Args:
        minutes: Time budget for all jobs; None: DEFAULT_MINUTES.
        changes: `a.b=value` settings that override the choice.
        base: What it starts from; None: the tiny recipe. That of a model has the model's spectrogram.
        device: Trains; its faster precision is chosen.
    """
    asked = changed(base or tiny_recipe(), changes)
    recipe = asked.model_dump(mode="json")
    if asked.start is None:
        own = tiny_recipe().clip if base is None else base.clip
        fitted = asked.clip.model_copy(update={"spectrogram": fitting_spectrogram(asked.clip)})
        recipe["clip"] = fitted.model_dump(mode="json")
        recipe["autoencoder"]["model"] = grown_latents(asked.autoencoder.model, own, fitted)
    windows, cached = choose_windows(manifest.split("train"), asked.clip)
    precision = "bf16" if product_type(device) == torch.bfloat16 else "fp32"
    # What follows from the clips and the device.
    recipe["data"]["windows_per_clip"] = windows
    recipe["data"]["folder"] = str(manifest.root)
    for job in JOBS:
        if asked.training_of(job) is not None:
            section = recipe[job]["train"]
            section["batch_size"] = min(section["batch_size"], max(2, cached))
            section["precision"] = precision

    # Once more: what was asked for by name stands, whatever was chosen around it.
    chosen = parse(RunConfig, recipe, "the chosen recipe")
    return changed(in_first_round(chosen, minutes or DEFAULT_MINUTES), changes)


def fitting_spectrogram(spec: ClipSpec) -> SpectrogramSpec:
    """The clips' spectrogram, with window, hop and highest frequency as their sample rate and frames ask.

    The window is WINDOW_SECONDS long and the hop about HOP_SECONDS: as many whole hops a frame as that
    allows, so that frames and columns stay in step, and no column beyond the clip where one can do without.
    """
    rate, frame = spec.sample_rate, spec.sample_rate / spec.fps
    # Hops near the wanted one; those that divide a frame, then those that fill the grid, are better.
    wanted = HOP_SECONDS * rate
    hops = range(math.ceil(0.75 * wanted), math.floor(1.25 * wanted) + 1)

    def worse(hop: int) -> tuple[bool, bool, float]:
        return frame % hop > 0, spec.num_samples % (hop * GRID) > 0, abs(hop - wanted)

    return spec.spectrogram.model_copy(
        update={
            "n_fft": 2 * round(WINDOW_SECONDS * rate / 2),
            "hop_length": min(hops, key=worse),
            "f_max": min(rate / 2, HIGHEST_FREQUENCY),
        }
    )


def grown_latents(model: Mapping[str, Any], there: ClipSpec, here: ClipSpec) -> dict[str, Any]:
    """An autoencoder's section for clips of another length or size: a slot stays as long as it was.

    Args:
        model: Its section for clips like `there`.
    """
    pictures = [(spec.num_frames, spec.height, spec.width) for spec in (there, here)]
    # Where the time of the audio image is its width, T' follows the columns.
    audio = [(size[1], size[0], size[1]) for size in (there.audio_size, here.audio_size)]
    grown = dict(model)
    for name, (old, new) in (("audio", audio), ("video", pictures)):
        section = dict(model[f"{name}_encoder_config"])
        channels, *axes = section["latent_shape"]
        # As many slots as there is room for; the network says if that does not divide.
        sizes = [
            size if size == 1 else max(1, round(size * b / a))
            for size, a, b in zip(axes, old, new, strict=True)
        ]
        grown[f"{name}_encoder_config"] = section | {"latent_shape": [channels, *sizes]}
    return grown


def choose_windows(clips: Sequence[Entry], spec: ClipSpec) -> tuple[int, int]:
    """Windows per clip, and how many that makes: about TARGET_WINDOWS, if there is material for them.

    A clip without room for a second window has one, however many are asked for.

    Args:
        clips: Of the training split.
        spec: Of a window.
    """
    # A second window needs at least a frame more than the first.
    durations = [entry.duration or 0.0 for entry in clips]
    rooms = [
        duration - spec.duration >= 1 / (entry.fps or spec.fps)
        for entry, duration in zip(clips, durations, strict=True)
    ]
    roomy = [duration for duration, room in zip(durations, rooms, strict=True) if room]
    if not roomy:
        return 1, len(clips)
    # The roomy clips make up for the others, but no moment is shown in more than WINDOW_OVERLAP windows.
    single = len(clips) - len(roomy)
    wanted = round((TARGET_WINDOWS - single) / len(roomy))
    most = math.ceil(WINDOW_OVERLAP * sum(roomy) / (len(roomy) * spec.duration))
    windows = max(1, min(wanted, most))
    return windows, single + windows * len(roomy)
