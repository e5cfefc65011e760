"""What is followed from window to window of films of the Freedoom world.

The instruments are those of clips (`metrics`); at joins such films show nothing that other films do not.
"""

from __future__ import annotations

from mmldm.evaluation.clipwise import ClipRatio
from mmldm.evaluation.drift import Watched, WatchedRatio
from mmldm.types import Modality
from mmldm.worlds.freedoom.metrics import METRICS

FOLLOWED: dict[str, Modality | None] = {
    "shots-recall": None,
    "shots-precision": None,
    "flashes-per-clip": "video",
    "bangs-per-clip": "audio",
    "monster-frames": "video",
    "turning": "video",
    "kills-per-clip": "video",
}
"""Of the world's numbers of clips, and the modality that each tells of alone."""


def watched() -> list[Watched]:
    """Numbers of the world, window by window."""
    return [
        WatchedRatio(metric, FOLLOWED[metric.number.name])
        for metric in METRICS
        if isinstance(metric, ClipRatio) and metric.number.name in FOLLOWED
    ]
