"""Damage in grades, to see which metric notices what: one that misses it, or sees more, is not to be trusted.

ClipSet, corruption, grade -> ClipSet whose clips are damaged as they are read

A corruption of the picture leaves the sound as it is, bit for bit, and the other way round; one of the pairs
leaves both. So a number of the picture alone that moves when the sound is damaged is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

from mmldm.evaluation.events import derangement
from mmldm.evaluation.sets import ClipSet, ClipSource
from mmldm.media.clip import Clip
from mmldm.types import ClipSpec

Damaged = Literal["picture", "sound", "pair"]
Damage = Callable[[Clip, float, np.random.Generator], Clip]


@dataclass(frozen=True)
class Corruption:
    """A kind of damage.

    Attributes:
        name: As tables write it.
        unit: Of the grades.
        grades: From slight to gross.
        damaged: What of a clip it touches.
        apply: Damages a clip by a grade; None: the sounds of other clips, the grade being their share.
    """

    name: str
    unit: str
    grades: tuple[float, ...]
    damaged: Damaged
    apply: Damage | None


def noise(clip: Clip, deviation: float, rng: np.random.Generator) -> Clip:
    """White noise of a standard deviation in 8-bit steps on every pixel of every frame."""
    draw = torch.from_numpy(rng.standard_normal(clip.frames.shape, dtype=np.float32))
    frames = (clip.frames + deviation * draw).round().clamp(0, 255)
    return replace(clip, frames=frames.to(torch.uint8))


def blur(clip: Clip, sigma: float, rng: np.random.Generator) -> Clip:
    """A Gaussian blur of `sigma` per cent of the longer side."""
    width = sigma / 100 * max(clip.frames.shape[-2:])
    reach = max(1, int(3 * width))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width).square())
    kernel = kernel / kernel.sum()
    # One channel of one frame at a time, rows and then columns.
    pixels = clip.frames.float().flatten(0, 1)[:, None]
    for shape, padding in (
        ((1, 1, -1, 1), (0, 0, reach, reach)),
        ((1, 1, 1, -1), (reach, reach, 0, 0)),
    ):
        pixels = F.conv2d(F.pad(pixels, padding, mode="replicate"), kernel.view(shape))
    return replace(clip, frames=pixels[:, 0].view_as(clip.frames).round().to(torch.uint8))


def shuffle_frames(clip: Clip, share: float, rng: np.random.Generator) -> Clip:
    """Changes the order of a share of the frames, at least two."""
    count = len(clip.frames)
    chosen = np.sort(rng.choice(count, max(2, round(share * count)), replace=False))
    order = np.arange(count)
    order[chosen] = chosen[derangement(len(chosen), rng)]
    return replace(clip, frames=clip.frames[torch.from_numpy(order)])


def hiss(clip: Clip, decibels: float, rng: np.random.Generator) -> Clip:
    """White noise so many decibels below the sound's own level."""
    level = clip.waveform.square().mean().sqrt() * 10 ** (-decibels / 20)
    draw = torch.from_numpy(rng.standard_normal(clip.waveform.shape, dtype=np.float32))
    return replace(clip, waveform=(clip.waveform + level * draw).clamp(-1, 1))


def gain(clip: Clip, decibels: float, rng: np.random.Generator) -> Clip:
    """Makes the sound softer or louder."""
    return replace(clip, waveform=(clip.waveform * 10 ** (decibels / 20)).clamp(-1, 1))


def delay(clip: Clip, milliseconds: float, rng: np.random.Generator) -> Clip:
    """Sound later than picture; what falls off the end comes first, so that nothing is lost."""
    shift = round(milliseconds / 1000 * clip.sample_rate)
    return replace(clip, waveform=clip.waveform.roll(shift))


def smear(clip: Clip, milliseconds: float, rng: np.random.Generator) -> Clip:
    """Every band of the sound some milliseconds early or late, by a normal deviation: an all-pass filter.

    Spectrum and energy stay; what was struck at once swells before its moment and rises late, as after an
    inverted spectrogram.
    """
    samples = len(clip.waveform)
    # Padded, so that nothing comes in again at the other end.
    padding = round(6 * milliseconds / 1000 * clip.sample_rate)
    count = samples + 2 * padding
    spectrum = torch.fft.rfft(F.pad(clip.waveform.double(), (padding, padding)))
    # Delays drawn for bands as far apart as the smear can tell, and joined by straight lines.
    width = 1000 / milliseconds
    frequencies = np.arange(len(spectrum)) * clip.sample_rate / count
    bands = np.arange(0, clip.sample_rate / 2 + 2 * width, width)
    delays = np.interp(frequencies, bands, rng.standard_normal(len(bands)) * milliseconds / 1000)
    # A phase falls by 2 pi times the delay for each hertz.
    phase = -2 * np.pi * np.cumsum(delays) * clip.sample_rate / count
    turned = spectrum * torch.polar(
        torch.ones(len(phase), dtype=torch.float64), torch.from_numpy(phase)
    )
    sound = torch.fft.irfft(turned, count)[padding : padding + samples]
    return replace(clip, waveform=sound.clamp(-1, 1).to(clip.waveform.dtype))


CORRUPTIONS = (
    Corruption("picture noise", "8-bit steps", (4, 16, 64), "picture", noise),
    Corruption("blur", "% of the side", (0.5, 1, 2), "picture", blur),
    Corruption("frame order", "share of frames", (0.25, 0.5, 1), "picture", shuffle_frames),
    Corruption("hiss", "dB below the sound", (30, 15, 0), "sound", hiss),
    Corruption("gain", "dB", (-6, -12, -24), "sound", gain),
    Corruption("smear", "ms", (2.5, 5, 10), "sound", smear),
    Corruption("delay", "ms", (100, 200, 400, 800), "pair", delay),
    Corruption("other clips' sounds", "share of clips", (0.25, 0.5, 1), "pair", None),
)


def corrupted(clips: ClipSet, corruption: Corruption, grade: float, seed: int = 0) -> ClipSet:
    """The set with every clip damaged alike, each by random numbers of its own.

    Args:
        grade: One of the corruption's, or any other in its unit.
    """
    label = f"{corruption.name} {grade:g} {corruption.unit}"
    if corruption.apply is None:
        sources = _mispaired(clips, grade, seed)
    else:
        sources = [
            replace(
                clip,
                key=_key(clip.key, label, str(seed)),
                read=partial(_damaged, clip, corruption.apply, grade, seed),
            )
            for clip in clips.clips
        ]
    return replace(clips, name=label, clips=tuple(sources))


def _damaged(source: ClipSource, apply: Damage, grade: float, seed: int, spec: ClipSpec) -> Clip:
    # By its content, a clip is damaged alike in whatever set it stands.
    return apply(source.read(spec), grade, np.random.default_rng([seed, int(source.key[:15], 16)]))


def _mispaired(clips: ClipSet, share: float, seed: int) -> list[ClipSource]:
    """Gives a share of the clips, at least two, the sounds of one another."""
    rng = np.random.default_rng(seed)
    sources = list(clips.clips)
    chosen = rng.choice(len(sources), max(2, round(share * len(sources))), replace=False)
    for own, other in zip(chosen, chosen[derangement(len(chosen), rng)], strict=True):
        seen, heard = clips.clips[own], clips.clips[other]
        sources[own] = replace(
            seen, key=_key(seen.key, heard.key), read=partial(_pair, seen, heard)
        )
    return sources


def _pair(seen: ClipSource, heard: ClipSource, spec: ClipSpec) -> Clip:
    return replace(seen.read(spec), waveform=heard.read(spec).waveform)


def _key(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()
