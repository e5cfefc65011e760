"""How a hit sounds: how fast it rises, what comes before it, how loud it is.

waveform (S,), onsets (N,) -> Heard: attack, level before and loudness of each, NaN where others are too near

A hit that came through a spectrogram swells before it strikes, and rises in the time of a window; one that
was struck rises within a millisecond. Only the sound is used, so all hits are measured alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

LEVEL = 0.001
"""Seconds over which the level is a root mean square."""
RISE = 0.1, 0.9
"""Shares of the way from the least level before a hit to its peak between which its attack is."""
SINCE = 0.03
"""Seconds before an onset in which its rise may begin."""
PEAK = 0.02
"""Seconds after an onset in which its peak is."""
BEFORE = 0.060, 0.003
"""Seconds before an onset between which nothing should be heard."""
AFTER = 0.040
"""Seconds after it in which the hit itself is."""
LEAD = 0.010
"""Seconds before an onset that count to its loudness: a smeared hit is as loud as a struck one."""
RINGING = 6.0
"""dB by which a hit must exceed what rings from earlier ones, for its loudness to be its own."""
FAINTEST = 1e-12
"""Mean square below which nothing is told apart: -120 dB."""


class Heard(NamedTuple):
    """What is heard of each onset; NaN where another one is too near, or the clip ends.

    Attributes:
        attacks: (N,) ms from 10 to 90 % of the rise of the level.
        before: (N,) dB of the mean power from 60 to 3 ms before it, over that of the 40 ms after it.
        loudness: (N,) dB of full scale, mean power; NaN also where an earlier hit rings nearly as loud.
    """

    attacks: np.ndarray
    before: np.ndarray
    loudness: np.ndarray


def hear(waveform: Tensor, sample_rate: int, onsets: np.ndarray) -> Heard:
    """What is heard at onsets (N,) in seconds of a waveform (S,)."""
    sound = waveform.numpy().astype(np.float64)
    energy = np.pad(np.cumsum(sound**2), (1, 0))
    starts = np.round(onsets * sample_rate).astype(int)

    def power(first: float, last: float) -> np.ndarray:
        """Mean square (N,) between two distances in seconds from the onsets, within the clip."""
        ends = [np.clip(starts + round(s * sample_rate), 0, len(sound)) for s in (first, last)]
        return (energy[ends[1]] - energy[ends[0]]) / np.maximum(ends[1] - ends[0], 1)

    # Hits alone from where others could be heard before them until they are over, inside the clip.
    gaps = np.diff(onsets, prepend=-np.inf, append=np.inf)
    follows = np.append(onsets[1:], np.inf) - onsets > AFTER
    follows &= onsets + AFTER <= len(sound) / sample_rate
    alone = follows & (gaps[:-1] > BEFORE[0]) & (onsets >= BEFORE[0])
    struck = power(0, AFTER) + FAINTEST
    before = 10 * np.log10((power(-BEFORE[0], -BEFORE[1]) + FAINTEST) / struck)
    # Loudness needs less: nothing near, and nothing that rings on.
    own = power(-LEAD, AFTER) + FAINTEST
    ringing = power(-SINCE - LEAD, -LEAD) * 10 ** (RINGING / 10)
    apart = follows & (gaps[:-1] > SINCE + LEAD) & (ringing < own)
    return Heard(
        np.where(alone, _attacks(energy, sample_rate, starts), np.nan),
        np.where(alone, before, np.nan),
        np.where(apart, 10 * np.log10(own), np.nan),
    )


def _attacks(energy: np.ndarray, sample_rate: int, starts: np.ndarray) -> np.ndarray:
    """ms (N,) that hits at samples (N,) take to rise, by the summed energy (S+1,) of their sound."""
    # The level (N,R) around each, from where its rise may begin until where its peak may be.
    back, ahead, width = (round(seconds * sample_rate) for seconds in (SINCE, PEAK, LEVEL))
    moments = starts[:, None] + np.arange(-back, ahead + 1) - width // 2
    first, last = (np.clip(moments + shift, 0, len(energy) - 1) for shift in (0, width))
    level = np.sqrt((energy[last] - energy[first]) / max(width, 1))
    # From the least before to the peak after; the rise ends where it first is near it.
    index = np.arange(level.shape[1])
    least, peak = level[:, : back + 1].min(1), level[:, back - width :].max(1)
    low, high = (least + share * (peak - least) for share in RISE)
    last_low = index * (level < low[:, None])
    top = ((level >= high[:, None]) & (index >= level[:, : back + 1].argmin(1)[:, None])).argmax(1)
    bottom = np.where(index <= top[:, None], last_low, 0).max(1)
    return (top - bottom) / sample_rate * 1000
