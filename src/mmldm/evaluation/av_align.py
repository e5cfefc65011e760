"""Whether sound and picture change together, for clips of any content: AV-Align and beat alignment.

clip -> onset times (N,), times (M,) at which motion peaks or rests -> a number in [0,1]

Source: Yariv et al., "Diverse and aligned audio-to-video generation via text-to-video model adaptation",
AAAI 2024 (AV-Align); Li et al., "AI choreographer", ICCV 2021 (beat alignment). Both differ here: the papers
take motion from optical flow and from joints of a skeleton, this file from the difference of successive
frames; onsets are those of `onsets`, where the papers take librosa's onsets and beats. Compare with nothing
but numbers of this file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmldm.evaluation.onsets import detect_onsets
from mmldm.media.clip import Clip

GRID = 64
"""Longest side in pixels at which frames are compared, so that sensor noise counts little."""
BEAT_SIGMA = 0.05
"""Seconds; three frames of the paper's 60 a second."""


def motion_energy(frames: Tensor) -> np.ndarray:
    """Mean absolute difference in [0,1] of each frame from the one before it (T-1,), frames u8 (T,3,H,W)."""
    grey = frames.float().mean(1, keepdim=True) / 255
    scale = GRID / max(grey.shape[-2:])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in grey.shape[-2:]]
        grey = F.interpolate(grey, size, mode="area")
    return torch.diff(grey, dim=0).abs().mean((1, 2, 3)).numpy()


def motion_peaks(frames: Tensor, fps: float) -> np.ndarray:
    """Times (M,) in seconds at which a frame (T,3,H,W) moves more than those before and after it."""
    return _extrema(motion_energy(frames), fps)


def motion_rests(frames: Tensor, fps: float) -> np.ndarray:
    """Times (M,) in seconds at which a frame moves less than those before and after it: a dance's beats."""
    return _extrema(-motion_energy(frames), fps)


def intersection_over_union(
    onsets: np.ndarray, peaks: np.ndarray, tolerance: float
) -> float | None:
    """Onsets with a peak nearer than the tolerance in seconds, over all events of both; None without any.

    As published: one peak may serve several onsets.
    """
    if not len(onsets) + len(peaks):
        return None
    near = np.abs(np.subtract.outer(onsets, peaks)) < tolerance
    shared = int(near.any(1).sum())
    return shared / (len(onsets) + len(peaks) - shared)


def av_align(clip: Clip) -> float | None:
    """Intersection over union of onsets and peaks of motion, within one frame; None without either."""
    onsets = detect_onsets(clip.waveform, clip.sample_rate)
    return intersection_over_union(onsets, motion_peaks(clip.frames, clip.fps), 1 / clip.fps)


def beat_alignment(clip: Clip) -> float | None:
    """Mean closeness in [0,1] of each rest of the motion to its nearest onset; None without both."""
    onsets = detect_onsets(clip.waveform, clip.sample_rate)
    return closeness(onsets, motion_rests(clip.frames, clip.fps))


def closeness(onsets: np.ndarray, rests: np.ndarray) -> float | None:
    """Mean over the rests (M,) of a Gaussian of the distance to the nearest onset (N,); None without both."""
    if not (len(onsets) and len(rests)):
        return None
    nearest = np.abs(np.subtract.outer(rests, onsets)).min(1)
    return float(np.exp(-(nearest**2) / (2 * BEAT_SIGMA**2)).mean())


def mean_of_defined(values: Sequence[float | None]) -> tuple[float | None, int]:
    """Mean over the values that are not None, and how many those are; None for none."""
    defined = [value for value in values if value is not None]
    return (float(np.mean(defined)) if defined else None), len(defined)


def _extrema(energy: np.ndarray, fps: float) -> np.ndarray:
    """Times of frames whose energy (T-1,), that of the step into frame 1 first, exceeds both neighbours'."""
    higher = (energy[1:-1] > energy[:-2]) & (energy[1:-1] > energy[2:])
    return (np.flatnonzero(higher) + 2) / fps
