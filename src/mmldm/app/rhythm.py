"""A tapped rhythm as sound: each tap strikes an instrument of the impacts world.

times of taps in seconds, instrument -> waveform (S,) f32 in (-1, 1)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmldm.errors import UserError
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.materials import REFERENCE_RADIUS
from mmldm.worlds.impacts.physics import Ball, Impact
from mmldm.worlds.impacts.sound import FULL_SPEED, render_sound

RATE = 48_000
"""Samples per second of the sound."""
INSTRUMENTS = {"click": "plastic", "drum": "drum", "glass": "glass"}
"""What can be tapped, and the material that sounds so."""
REST = 0.6
"""Seconds after the last tap, in which it rings."""
LEAST = 1.6
"""Seconds that a rhythm lasts at least: one tap alone is a clip, too."""
MOST_TAPS = 1000
RHYTHMS = {
    "knock knock": ("drum", (0.2, 0.45, 1.1, 1.35)),
    "ticking": ("click", (0.2, 0.5, 0.8, 1.1, 1.4, 1.7, 2.0, 2.3)),
    "waltz of glasses": ("glass", (0.2, 0.6, 1.0, 1.4, 1.8, 2.2)),
    "a coin comes to rest": ("click", (0.2, 0.7, 1.1, 1.42, 1.67, 1.86, 2.0, 2.1)),
}
"""Examples: instrument and taps."""


def rhythm(taps: Sequence[float], instrument: str, most_seconds: float) -> Tensor:
    """The sound (S,) of taps at these seconds, at `RATE`; it ends when the last one has rung.

    Args:
        taps: In any order. The clip begins at second 0.
        instrument: Of `INSTRUMENTS`.
        most_seconds: That it may last.

    Raises:
        UserError: There is no tap, they are too many or too late, or nobody knows the instrument.
    """
    if instrument not in INSTRUMENTS:
        raise UserError(f"there is no {instrument!r:.80} to tap: take {', '.join(INSTRUMENTS)}")
    numbers = all(isinstance(t, int | float) and not isinstance(t, bool) for t in taps)
    if not numbers or not all(math.isfinite(t) and t >= 0 for t in taps):
        raise UserError("taps are seconds from 0 on: a list of numbers")
    if not taps:
        raise UserError("nothing was tapped yet: tap the pad, or press the space bar on it")
    if len(taps) > MOST_TAPS:
        raise UserError(f"{len(taps)} taps are more than {MOST_TAPS}: tap a shorter rhythm")
    lasts = max(max(taps) + REST, LEAST)
    if lasts > most_seconds:
        raise UserError(
            f"the last tap is at {max(taps):.1f} s, and a rhythm ends before {most_seconds - REST:g} s here: "
            "tap a shorter one"
        )
    return torch.from_numpy(_struck(sorted(taps), instrument, lasts))


def one_tap(instrument: str) -> Tensor:
    """The sound (S,) of one tap at second 0, at `RATE`: what a pad plays."""
    return torch.from_numpy(_struck([0.0], instrument, LEAST))


def _struck(taps: Sequence[float], instrument: str, seconds: float) -> np.ndarray:
    """Waveform f32 (S,) of hard hits of one ball at these seconds."""
    ball = Ball(INSTRUMENTS[instrument], REFERENCE_RADIUS, 0.8, (0.5, 0.5), (0.0, 0.0), 1.0)
    hits = [Impact(time, 0, "floor", 0.8 * FULL_SPEED, True) for time in taps]
    # One frame, as long as the rhythm: the picture is not drawn here.
    spec = ClipSpec(num_frames=1, fps=1 / seconds, sample_rate=RATE)
    return render_sound([ball], hits, spec, np.random.default_rng(0))
