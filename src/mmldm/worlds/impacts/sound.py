"""Sounds the impacts world: every audible hit strikes the ball's partials and makes contact noise.

balls and impacts -> waveform f32 (S,) in (-1, 1)

Level and brightness follow the impact speed; pitch follows size. Nothing is normalised per clip, so
loudness means the same in every clip; a soft limiter keeps sums of hits below full scale.
Source: modal synthesis, see `materials`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmldm.types import ClipSpec
from mmldm.worlds.impacts.materials import MATERIALS, REFERENCE_RADIUS, Material
from mmldm.worlds.impacts.physics import Ball, Impact

FULL_SPEED = 3.0
"""Impact speed in frame heights per second that plays a material at its nominal level."""
PITCH_EXPONENT = 1.3
SURFACE_PITCH = {"floor": 1.0, "left": 1.12, "right": 1.12, "ceiling": 1.12, "ball": 1.26}
ATTACK = 0.0008
"""Seconds in which a hit rises to its full level."""
_QUIET = 12.0
"""A partial ends after this many time constants (-104 dB)."""


def render_sound(
    balls: list[Ball],
    impacts: list[Impact],
    spec: ClipSpec,
    rng: np.random.Generator,
    begin: float = 0.0,
) -> np.ndarray:
    """Waveform f32 (S,) of a simulated world.

    Args:
        impacts: From the start of the world on, whatever `begin` is.
        rng: Draws the contact noise.
        begin: The instant of sample 0 in seconds; earlier hits ring into it.
    """
    waveform = np.zeros(spec.num_samples)
    for impact in impacts:
        if not impact.audible:
            continue
        # Never before the hit. One that has died away only draws its noise: later hits sound the same then.
        start = int(np.ceil((impact.time - begin) * spec.sample_rate))
        material = MATERIALS[balls[impact.ball].material]
        if start + _lengths(material, spec.sample_rate).ringing <= 0:
            rng.standard_normal(_lengths(material, spec.sample_rate).noise)
            continue
        struck = strike(balls[impact.ball], impact, spec.sample_rate, rng)
        # What rings before the first sample, and beyond the last one, is cut off.
        struck = struck[max(-start, 0) : max(spec.num_samples - start, 0)]
        start = max(start, 0)
        waveform[start : start + len(struck)] += struck
    return _limit(waveform).astype(np.float32)


class _Lengths(NamedTuple):
    """How many samples a hit sounds in all, and its contact noise."""

    ringing: int
    noise: int


def _lengths(material: Material, sample_rate: int) -> _Lengths:
    slowest = min(min(material.decays), material.noise_decay)
    return _Lengths(
        int(_QUIET / slowest * sample_rate), int(_QUIET / material.noise_decay * sample_rate)
    )


def strike(ball: Ball, impact: Impact, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """The sound (S,) of one hit, from its first sample on."""
    # Faster is louder and brighter; smaller is higher.
    material = MATERIALS[ball.material]
    force = min(impact.speed / FULL_SPEED, 1.2)
    pitch = material.fundamental * (REFERENCE_RADIUS / ball.radius) ** PITCH_EXPONENT
    pitch *= ball.detune * SURFACE_PITCH[impact.surface]
    softness = material.dulling * (1 - min(force, 1.0))

    # Damped sinusoids; a partial near the Nyquist frequency would alias, and is left out.
    lengths = _lengths(material, sample_rate)
    time = np.arange(lengths.ringing, dtype=np.float32) / sample_rate
    sound = np.zeros_like(time)
    for ratio, level, decay in zip(material.ratios, material.levels, material.decays, strict=True):
        frequency = pitch * ratio
        if frequency > 0.45 * sample_rate:
            continue
        ringing = time[: int(_QUIET / decay * sample_rate)]
        gain = level * ratio**-softness
        sound[: len(ringing)] += (
            gain * np.exp(-decay * ringing) * np.sin(np.float32(2 * np.pi * frequency) * ringing)
        )

    # Contact noise: white noise through a low pass whose cutoff rises with the force.
    scrape = time[: lengths.noise]
    cutoff = material.noise_cutoff * (0.35 + 0.65 * min(force, 1.0))
    bins = np.fft.rfftfreq(len(scrape), 1 / sample_rate)
    spectrum = np.fft.rfft(rng.standard_normal(len(scrape))) / (1 + (bins / cutoff) ** 4)
    noise = np.fft.irfft(spectrum, len(scrape)) * np.exp(-material.noise_decay * scrape)
    sound[: len(scrape)] += material.noise_level * noise
    return force * np.minimum(time / ATTACK, 1) * sound


def _limit(waveform: np.ndarray) -> np.ndarray:
    """Leaves quiet samples (S,) as they are and keeps every sample inside (-1, 1)."""
    return waveform / (1 + np.abs(waveform) ** 6) ** (1 / 6)
