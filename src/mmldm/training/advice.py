"""What a recipe does to these clips that nobody asked for, in sentences that say what to do.

RunConfig, manifest -> sentences: frames that are taken unevenly, windows that cannot be joined to films
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from mmldm.config import RunConfig
from mmldm.data.manifest import Manifest
from mmldm.pipelines.windows import TimeGrid
from mmldm.training.recipe import fitting_spectrogram, grown_latents
from mmldm.types import AV, MODALITIES, ClipSpec

UNEVEN = 0.02
"""Part of a source frame by which the frames of a clip may lie apart unevenly."""
SHARE = 0.1
"""Of the clips that are trained on, from which it is said."""
FRAMES = range(8, 65)
"""Lengths that are tried."""
RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""In Hz, sample rates that are tried where no length will do."""


def advice(config: RunConfig, manifest: Manifest) -> Iterator[str]:
    """Sentences, each with the settings that mend what it says."""
    yield from _uneven_frames(config, manifest)
    yield from _no_films(config)


def _uneven_frames(config: RunConfig, manifest: Manifest) -> Iterator[str]:
    """Clips of whose frames now more and now fewer are passed over, so that steady motion is not."""
    spec = config.clip
    known = [entry.fps for entry in manifest.split("train") if entry.fps and entry.has_video]
    steps = [fps / spec.fps for fps in known]
    odd = [fps for fps, step in zip(known, steps, strict=True) if abs(step - round(step)) > UNEVEN]
    if not odd or len(odd) < SHARE * len(known):
        return
    fps, _ = Counter(round(fps, 2) for fps in odd).most_common(1)[0]
    # The nearest rate that takes each frame, or every second, third and so on; better one that makes films.
    rates = sorted((fps / step for step in range(1, 7)), key=partial(_apart, spec.fps))
    clips = [_with(spec, fps=rate) for rate in rates]
    films = [clip for clip in clips if _makes_films(config, clip)]
    even = films[0] if films else _better(config, clips[0]) or clips[0]
    yield (
        f"{len(odd)} of {len(known)} clips to train on, such as those of {fps:g} frames a second, have no "
        f"whole number of frames for each of the recipe's {spec.fps:g} a second, so steady motion will "
        f"judder: {_settings(spec, even)} takes their frames evenly"
    )


def _no_films(config: RunConfig) -> Iterator[str]:
    """Latents with time axes that share no ticks: known slots are learnt for nothing."""
    spec = config.clip
    if config.generator.known_slots is None or _joins(spec, config.autoencoder.model):
        return
    sentence = (
        f"picture and sound of this recipe share no moments but the ends of {spec.duration:.4g} s, so its "
        "model will make clips of that length and no longer ones"
    )
    if (better := _better(config, spec)) is not None:
        sentence += (
            f": {_settings(spec, better)} would do, in a recipe that is chosen (without --config)"
        )
    yield sentence


def _better(config: RunConfig, spec: ClipSpec) -> ClipSpec | None:
    """Clips of the nearest length whose windows can overlap."""
    lengths = sorted(FRAMES, key=partial(_apart, spec.num_frames))
    for rate in (spec.sample_rate, *RATES):
        for frames in lengths:
            clip = _with(spec, num_frames=frames, sample_rate=rate)
            if _makes_films(config, clip):
                return clip
    return None


def _with(spec: ClipSpec, **changes: float) -> ClipSpec:
    """Other clips, with the spectrogram that a recipe would be chosen with for them."""
    clip = spec.model_copy(update=changes)
    return clip.model_copy(update={"spectrogram": fitting_spectrogram(clip)})


def _makes_films(config: RunConfig, clip: ClipSpec) -> bool:
    """Whether a recipe like this one, chosen for these clips, makes films."""
    return _joins(clip, grown_latents(config.autoencoder.model, config.clip, clip))


def _joins(spec: ClipSpec, model: dict[str, Any]) -> bool:
    """Whether windows of such clips can overlap; nobody asks that of latents without time axes."""
    slots = AV(*(model[f"{name}_encoder_config"]["latent_shape"][1] for name in MODALITIES))
    return 1 in slots or TimeGrid.of(spec, slots).ticks > 1


def _settings(there: ClipSpec, here: ClipSpec) -> str:
    """Options that make these clips of those."""
    names = ("fps", "num_frames", "sample_rate")
    changed = [name for name in names if getattr(there, name) != getattr(here, name)]
    return " ".join(f"--set clip.{name}={getattr(here, name):g}" for name in changed)


def _apart(wanted: float, value: float) -> float:
    return abs(value - wanted)
