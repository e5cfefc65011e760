"""A recipe chosen for the data: what `mmldm train FOLDER` runs when no config is named.

manifest, minutes, device -> RunConfig. It starts from the bundled model's recipe, which trains on a CPU: one
video token a frame, one audio token a column. Every number stands in the run folder's config.yaml afterwards,
to be read and edited. How many steps there is time for, each job finds out while it trains (`budget`,
`rounds`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from mmldm.config import RECIPES, RunConfig, changed, load_config, parse
from mmldm.data.manifest import Entry, Manifest
from mmldm.training import JOBS
from mmldm.training.optim import product_type
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
    """The bundled model's recipe, two and a half hours on one CPU core."""
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
    numbers of steps are the most that its jobs take in their minutes.

    Args:
        minutes: Time budget for all jobs; None: DEFAULT_MINUTES.
        changes: `a.b=value` settings that override the choice.
        base: What it starts from; None: the tiny recipe. That of a model has the model's spectrogram.
        device: Trains; its faster precision is chosen.
    """
    asked = changed(base or tiny_recipe(), changes)
    recipe = asked.model_dump(mode="json")
    if asked.start is None:
        recipe["clip"]["spectrogram"] = fitting_spectrogram(asked.clip).model_dump(mode="json")
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
