"""A recipe chosen for the data and the machine: what `mmldm train FOLDER` runs when no config is named.

manifest, device, minutes -> RunConfig. It starts from the bundled model's recipe, which trains
on a CPU: one video token a frame, one audio token a column. Every number stands in the run folder's
config.yaml afterwards, to be read and edited; nothing is decided later.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from mmldm.config import RECIPES, RunConfig, changed, load_config, parse
from mmldm.data.manifest import Entry, Manifest
from mmldm.training.distributed import wait_for
from mmldm.types import GRID, ClipSpec, SpectrogramSpec

SHARES = {"vae": 0.2, "autoencoder": 0.4, "generator": 0.4}
"""How a time budget is split over the jobs."""
TARGET_WINDOWS = 2000
"""Cached windows a small data set is spread to."""
WINDOW_OVERLAP = 4
"""At most this many windows per clip length of material, on average."""
DEFAULT_MINUTES = 60.0
WINDOW_SECONDS, HOP_SECONDS = 0.024, 0.00625
"""Of the spectrogram: the window and hop that lost least of an attack (docs/lab-notes.md)."""
HIGHEST_FREQUENCY = 20_000.0
"""In Hz, of the spectrogram: what one hears."""
SECONDS_PER_STEP = {"vae": 1.0, "autoencoder": 1.1, "generator": 0.5}
"""Of the tiny recipe's jobs on the machine whose trial speed is REFERENCE_SPEED."""
REFERENCE_SPEED = 105e9
"""FLOP/s of `relative_speed`'s trial on one core of the machine the steps were timed on."""


def tiny_recipe() -> RunConfig:
    """The bundled model's recipe, two and a half hours on one CPU core."""
    # By its path: whatever is called "impacts" in the working directory is something else.
    return load_config(RECIPES / "impacts.yaml")


def choose_recipe(
    manifest: Manifest,
    device: torch.device,
    minutes: float | None,
    changes: Sequence[str] = (),
    base: RunConfig | None = None,
) -> RunConfig:
    """Settings for these clips on this machine.

    Windows per clip make about TARGET_WINDOWS of the whole set (`choose_windows`); step counts fill the time
    budget at the speed this machine shows in a short trial.

    Args:
        minutes: Time budget for all three jobs; None: DEFAULT_MINUTES.
        changes: `a.b=value` settings that override the choice.
        base: What it starts from; None: the tiny recipe. That of a model has the model's spectrogram.
    """
    asked = changed(base or tiny_recipe(), changes)
    recipe = asked.model_dump(mode="json")
    if asked.start is None:
        recipe["clip"]["spectrogram"] = fitting_spectrogram(asked.clip).model_dump(mode="json")
    windows, cached = choose_windows(manifest.split("train"), asked.clip)
    # What follows from the clips.
    recipe["data"]["windows_per_clip"] = windows
    recipe["data"]["folder"] = str(manifest.root)

    # What follows from machine and minutes: the steps that there is time for, and eight looks at them.
    speed = relative_speed(device)
    shares = {job: share for job, share in SHARES.items() if asked.training_of(job) is not None}
    for job, share in shares.items():
        section = recipe[job]["train"]
        seconds = 60 * (minutes or DEFAULT_MINUTES) * share / sum(shares.values())
        section["steps"] = max(20, round(seconds * speed / SECONDS_PER_STEP[job]))
        section["batch_size"] = min(section["batch_size"], max(2, cached))
        for cadence in ("validate_every", "preview_every", "save_every"):
            section[cadence] = max(10, section["steps"] // 8)
        section["warmup_steps"] = min(section["warmup_steps"], section["steps"] // 10)

    # Once more: what was asked for by name stands, whatever was chosen around it.
    return changed(parse(RunConfig, recipe, "the chosen recipe"), changes)


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


def relative_speed(device: torch.device) -> float:
    """Convolution speed of this machine in a trial of about half a second, over REFERENCE_SPEED."""
    layer = torch.nn.Conv2d(64, 64, 3, padding=1).to(device)
    x = torch.randn(64, 64, 16, 16, device=device)
    flops_per_pass = 2 * 2 * 64 * 64 * 9 * x[:, 0].numel()  # forward and weight gradient
    passes, start = 0, 0.0
    while passes < 3 or time.perf_counter() - start < 0.5:
        layer(x).square().mean().backward()
        passes += 1
        if passes == 3:  # the first ones choose algorithms
            wait_for(device)
            start = time.perf_counter()
    wait_for(device)
    return (passes - 3) * flops_per_pass / (time.perf_counter() - start) / REFERENCE_SPEED
