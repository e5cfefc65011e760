"""When something sounds: onsets of a waveform by rising energy in frequency bands.

waveform (S,) -> onset times (N,) in seconds

Spectral flux with a tolerance in frequency, which ignores the beating of ringing partials. Sound
that is already there at the start, or is cut off at the end, is no onset. Source: Böck and Widmer,
"Maximum filter vibrato suppression for onset detection", DAFx 2013.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from mmldm.media.resampling import resample

HIGHEST_RATE = 16_000
"""In Hz; sounds at higher ones are resampled: a rise is the mean over bands, and many have no treble."""
WINDOW = 0.016
HOP = 0.005
"""Seconds between two looks at the sound, the resolution of onset times."""
LOOK_BACK = 6
"""Hops over which a rise may take place; as long as one window of an inverted audio image."""
QUIET = 6e-4
"""Magnitude (of a full-scale sine: 1) below which rises fade out."""
LEAST_RISE = 0.2
"""Mean rise of log magnitude, in nepers, that counts as an onset."""
LEAST_GAP = 0.05


def detect_onsets(waveform: Tensor, sample_rate: int) -> np.ndarray:
    """Times (N,) in seconds, sorted, at which a new sound starts in a waveform (S,).

    Against the ground truth of 180 clips of the impacts world, within 30 ms: recall 0.94 (hits
    closer than `LEAST_GAP` count as one), precision 1.00, standard error 2 ms. The same sounds
    through 64 x 64 audio images, filters not area-normalised: 0.92, 1.00, 6 ms.
    """
    rate = min(sample_rate, HIGHEST_RATE)
    rises = novelty(resample(waveform, sample_rate, rate).numpy(), rate)
    reach = round(LEAST_GAP / HOP)
    onsets: list[int] = []
    for hop in np.flatnonzero(rises > LEAST_RISE).tolist():
        is_peak = rises[hop] >= rises[max(hop - reach, 0) : hop + reach + 1].max()
        if is_peak and (not onsets or hop - onsets[-1] > reach):
            onsets.append(hop)
    return np.array(onsets) * HOP


def novelty(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Rise (N,) of each hop over `LOOK_BACK` hops before, in nepers, mean over frequency."""
    window = np.hanning(round(WINDOW * sample_rate))
    padded = np.pad(waveform.astype(np.float64), (len(window) // 2, 0))
    starts = np.arange(0, (len(padded) - len(window)) / sample_rate, HOP) * sample_rate
    frames = np.stack([padded[start : start + len(window)] for start in starts.astype(int)])
    magnitudes = np.abs(np.fft.rfft(frames * window)) * 2 / window.sum()
    levels = np.log1p(magnitudes / QUIET)
    past = np.pad(levels, ((LOOK_BACK, 0), (1, 1)), mode="edge")[: len(levels)]
    loudest = np.maximum(np.maximum(past[:, :-2], past[:, 1:-1]), past[:, 2:])
    return np.maximum(levels - loudest, 0).mean(1)
