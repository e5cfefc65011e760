"""AV-Align as its authors' program computes it: librosa's onsets, peaks of optical flow, each matched once.

waveform (S,) -> onset times (N,);  frames u8 (T,3,H,W) -> flow (T,) in pixels a frame -> peak times (M,)
both -> share of events in common, 0 where there are none

Sources: Yariv et al., "Diverse and aligned audio-to-video generation via text-to-video model adaptation",
AAAI 2024, and the program beside it as it is since 2025: a peak needs a tenth of a pixel of flow, and serves
one onset. Its onsets are librosa's with all defaults (Böck, Krebs and Schedl, "Evaluating the online
capabilities of onset detection methods", ISMIR 2012), written here anew; its flow is Farnebäck's by OpenCV,
an extra. It reads files at their own rates and sizes; here clips come as the protocol reads them. What is
ours, sees sharper events and needs no extra stands in `events`.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from mmldm.errors import UserError
from mmldm.media.resampling import resample

RATE = 22_050
WINDOW, HOP, BANDS = 2048, 512, 128
QUIETEST, RANGE = 1e-10, 80.0
"""Power below which levels are cut, and dB below the loudest."""
BEFORE, AROUND, WAIT = 1, 4, 1
"""Hops: a peak is the highest of itself and the one before, and stands out from four on each side."""
RISE = 0.07
"""Above the mean around, of the largest rise of the sound."""
LEAST_FLOW = 0.1
"""Pixels a frame, on average, that a peak of motion has at least."""
FLOW = {
    "pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2,
    "flags": 0,
}  # fmt: skip


def opencv() -> ModuleType:
    """OpenCV.

    Raises:
        UserError: It is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise UserError(
            "AV-Align as published needs OpenCV's optical flow: pip install 'mmldm[flow]'"
        ) from None
    module: ModuleType = cv2
    return module


def onsets(waveform: Tensor, sample_rate: int) -> np.ndarray:
    """Times (N,) in seconds of the onsets of a waveform (S,), as librosa's `onset_detect` finds them."""
    return picked(envelope(resample(waveform, sample_rate, RATE).numpy())) * HOP / RATE


def envelope(sound: np.ndarray) -> np.ndarray:
    """Mean rise (T,) of the mel levels in dB from hop to hop of a sound (S,) at `RATE`."""
    # Power of windows centred on the hops, in Slaney's mel bands.
    padded = np.pad(sound.astype(np.float64), WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    levels = 10 * np.log10(np.maximum(power @ _mel_bands().T, QUIETEST))
    levels = np.maximum(levels, levels.max() - RANGE)
    # Moved on by a hop, and by half a window, as they are told to be of centred windows.
    rises = np.maximum(np.diff(levels, axis=0), 0).mean(1)
    return np.pad(rises, (1 + WINDOW // (2 * HOP), 0))[: len(levels)]


def picked(rises: np.ndarray) -> np.ndarray:
    """Hops (N,) at which rises (T,) have a peak."""
    rises = rises - rises.min()
    if not rises.any():
        return np.empty(0, dtype=int)
    rises = rises / (rises.max() + np.finfo(np.float32).tiny)
    found, hop = [], 0
    while hop < len(rises):
        # The first hop is held against what follows, the others against what came before.
        near = rises[max(hop - BEFORE, 0) : hop + 1]
        around = rises[max(hop - AROUND, 0) : hop + AROUND + 1]
        if rises[hop] == near.max() and rises[hop] >= around.mean() + RISE:
            found.append(hop)
            hop += WAIT
        hop += 1
    return np.array(found, dtype=int)


def _mel_bands() -> np.ndarray:
    """Triangles (128,1025) on Slaney's mel scale up to half of `RATE`, of equal area."""
    # Linear to 1 kHz, logarithmic above.
    step, knee = 200 / 3, 1000.0
    log_step = np.log(6.4) / 27
    highest = knee / step + np.log(RATE / 2 / knee) / log_step
    mels = np.linspace(0, highest, BANDS + 2)
    edges = np.where(
        mels < knee / step, mels * step, knee * np.exp(log_step * (mels - knee / step))
    )
    bins = np.fft.rfftfreq(WINDOW, 1 / RATE)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    bands: np.ndarray = np.maximum(0, np.minimum(rising, falling))
    return bands * (2 / (edges[2:] - edges[:-2]))[:, None]


def optical_flow(frames: Tensor) -> np.ndarray:
    """Mean length (T,) in pixels of Farnebäck's flow into each frame (T,3,H,W) u8; the first counts twice.

    Raises:
        UserError: OpenCV is not installed.
    """
    cv2 = opencv()
    pictures = frames.permute(0, 2, 3, 1).contiguous().numpy()
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    flows = [
        cv2.calcOpticalFlowFarneback(before, now, None, **FLOW)
        for before, now in zip(grey, grey[1:], strict=False)
    ]
    lengths = [float(torch.from_numpy(flow).norm(dim=-1).double().mean()) for flow in flows]
    return np.array(lengths[:1] + lengths)


def peaks(flow: np.ndarray, fps: float) -> np.ndarray:
    """Times (M,) in seconds of frames whose flow (T,) exceeds both neighbours' and is no rounding."""
    inner = flow[1:-1]
    higher = (inner > flow[:-2]) & (inner > flow[2:]) & (inner >= LEAST_FLOW)
    return (np.flatnonzero(higher) + 1) / fps


def av_align(onset_times: np.ndarray, peak_times: np.ndarray, fps: float) -> float:
    """Onsets (N,) with a peak (M,) of their own nearer than a frame, over all events; 0 without any."""
    free = list(peak_times.tolist())
    shared = 0
    for onset in onset_times.tolist():
        # The first peak that is near and not taken, which need not be the nearest.
        near = [peak for peak in free if peak - 1 / fps < onset < peak + 1 / fps]
        if near:
            free.remove(near[0])
            shared += 1
    every = len(onset_times) + len(peak_times) - shared
    return shared / every if every else 0.0
