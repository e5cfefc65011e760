"""Clips that no distance should be computed on unseen: without sound, or with a picture that stands still.

clips -> indices of those that are silent, and of those that are frozen
"""

from __future__ import annotations

from collections.abc import Sequence

from mmldm.media.clip import Clip
from mmldm.types import AV

SILENT = 1e-3
"""Root mean square (of full scale: 1) below which a clip is silent: -60 dB."""
FROZEN = 0.1
"""Mean absolute difference of two successive frames, in 8-bit steps, that a moving clip somewhere exceeds."""


def is_silent(clip: Clip) -> bool:
    """Whether nothing is to be heard."""
    return clip.waveform.square().mean().sqrt().item() < SILENT


def is_frozen(clip: Clip) -> bool:
    """Whether no frame differs from the one before it."""
    changes = clip.frames.float().diff(dim=0).abs().mean((1, 2, 3))
    return not bool((changes >= FROZEN).any())


def alarms(clips: Sequence[Clip]) -> AV[list[int]]:
    """Numbers of the clips whose sound is silent, and of those whose picture is frozen."""
    return AV(
        [number for number, clip in enumerate(clips) if is_silent(clip)],
        [number for number, clip in enumerate(clips) if is_frozen(clip)],
    )
