"""The impacts world for the evaluator: what it takes down of such clips, and the metrics it makes of that.

clips -> Impacts: onsets, impacts and path of each -> metrics by name

`mmldm evaluate` hands `METRICS` and `BUILDERS` to the evaluator, which knows no world. Everything comes from
pixels and waveform; no ground truth is used, so real, reconstructed and generated clips pass through the same
detectors (`evaluation.events`, `motion`). For clips with one ball.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmldm.data.clips import spread
from mmldm.errors import UserError
from mmldm.evaluation.evaluate import by_number
from mmldm.evaluation.events import detect_onsets, lags, match
from mmldm.evaluation.features import Builder, Findings, Measure
from mmldm.evaluation.metrics import ClipRatio, Counts, Metric, Number, Value, mean_of
from mmldm.evaluation.protocol import Protocol, find_protocol
from mmldm.evaluation.sets import ClipSet
from mmldm.media.clip import Clip
from mmldm.types import Progress
from mmldm.worlds.impacts import motion
from mmldm.worlds.impacts.clips import CONFIG_FILE

BACKGROUND_CLIPS = 64
LEAST_FRAMES = 4
TOLERANCES = (0.05, 0.1)
"""Seconds between an impact and its onset."""


class Impacts(Measure):
    """What a clip of the impacts world shows and sounds.

    "onsets" (N,) and "impacts" (M,) are times in seconds, "last" () is that of the last frame: later onsets
    have nothing to be seen with. "kept" () is the share of frames in which the ball is seen, "ballistic" ()
    that of inner frames at which it moves as gravity alone would move it.

    Args:
        empty: Background (3,H,W) u8 of all sets that are compared.
    """

    name = "impacts"

    def __init__(self, empty: Tensor) -> None:
        self.empty = empty
        background = hashlib.sha256(empty.numpy().tobytes()).hexdigest()
        self.identity = f"{background} with the path"

    def __call__(self, clips: Sequence[Clip]) -> list[Findings]:
        """The findings of each clip.

        Raises:
            UserError: A clip has fewer than four frames, or another size than the background.
        """
        found: list[Findings] = []
        for clip in clips:
            if len(clip.frames) < LEAST_FRAMES or clip.frames.shape[1:] != self.empty.shape:
                raise UserError(
                    "impacts need clips of one picture size and at least "
                    f"{LEAST_FRAMES} frames each"
                )
            # The picture by the ball's path, the sound by its onsets.
            path = motion.track(clip.frames, clip.fps, self.empty)
            impacts = np.asarray(motion.detect_impacts(path), dtype=float)
            times = {
                "last": (len(clip.frames) - 1) / clip.fps,
                "kept": path.kept.mean(),
                "ballistic": motion.ballistic(path).mean(),
            }
            found.append(
                {
                    "onsets": torch.from_numpy(detect_onsets(clip.waveform, clip.sample_rate)),
                    "impacts": torch.from_numpy(impacts),
                    **{name: torch.tensor(x, dtype=torch.float64) for name, x in times.items()},
                }
            )
        return found


def impacts_of(real: ClipSet, protocol: Protocol, progress: Progress) -> Impacts:
    """Impacts before the background of these clips."""
    chosen = [real.clips[i] for i in spread(BACKGROUND_CLIPS, len(real.clips))]
    return Impacts(motion.background([clip.read(protocol.spec).frames for clip in chosen]))


class Matches(NamedTuple):
    """Matches of one picture with one sound; recall and precision are ratios of sums of these."""

    impacts: int
    impacts_heard: int
    onsets: int
    onsets_seen: int


def sync(onsets: np.ndarray, impacts: np.ndarray, tolerance: float, last: float) -> Matches:
    """Matches of onsets (N,) and impacts (M,); onsets after `last` are free but may match. All in seconds."""
    # An onset after the last frame has no picture: it may match, and is no fault where it does not.
    pairs = match(onsets, impacts, tolerance)
    visible = onsets <= last
    seen = sum(bool(visible[i]) for i, _ in pairs)
    return Matches(len(impacts), len(pairs), int(visible.sum()), seen)


def _in_time(tolerance: float) -> tuple[ClipRatio, ClipRatio, ClipRatio, ClipRatio]:
    """Recall, precision, distance and lateness of the matches within a tolerance in seconds."""

    def matches(heard: Findings, seen: Findings) -> Matches:
        last = seen["last"].item()
        return sync(heard["onsets"].numpy(), seen["impacts"].numpy(), tolerance, last)

    def late(heard: Findings, seen: Findings) -> np.ndarray:
        """Of each match, in ms: (pairs,)."""
        return 1000 * lags(heard["onsets"].numpy(), seen["impacts"].numpy(), tolerance)

    def recall(heard: Findings, seen: Findings) -> Counts:
        found = matches(heard, seen)
        return found.impacts_heard, found.impacts

    def precision(heard: Findings, seen: Findings) -> Counts:
        found = matches(heard, seen)
        return found.onsets_seen, found.onsets

    def distance(heard: Findings, seen: Findings) -> Counts:
        found = np.abs(late(heard, seen))
        return float(found.sum()), float(len(found))

    def lateness(heard: Findings, seen: Findings) -> Counts:
        found = late(heard, seen)
        return float(found.sum()), float(len(found))

    ms = f"{1000 * tolerance:.0f}"
    # The distance within the least tolerance is what `--metrics impacts` calls the error.
    least = tolerance == TOLERANCES[0]
    heard = Number(f"sync-recall-{ms}", f"impacts with an onset within {ms} ms", "higher")
    seen = Number(f"sync-precision-{ms}", f"onsets with an impact within {ms} ms", "higher")
    error = "sync-error" if least else f"sync-error-{ms}"
    far = Number(error, f"distance of those within {ms} ms", "lower", "ms")
    offset = Number(f"sync-offset-{ms}", f"lateness of those within {ms} ms", "like real", "ms")
    return (
        ClipRatio("impacts", heard, "impacts", recall, joint=True),
        ClipRatio("impacts", seen, "impacts", precision, joint=True),
        ClipRatio("impacts" if least else "impacts-timing", far, "impacts", distance, joint=True),
        ClipRatio("impacts-timing", offset, "impacts", lateness),
    )


def _of_the_path() -> list[ClipRatio]:
    """Means over clips of what is seen and heard, and shares of clips in which the ball is not whole."""

    def count(name: str, heard: Findings, seen: Findings) -> Counts:
        return float(len(seen[name])), 1.0

    def lost(heard: Findings, seen: Findings) -> Counts:
        return float(seen["kept"].item() < 1), 1.0

    # Numbers whose mean real clips set, then shares of clips that are broken in one way.
    means = (
        (Number("impacts-per-clip", "impacts a clip", "like real"), partial(count, "impacts")),
        (Number("onsets-per-clip", "onsets a clip", "like real"), partial(count, "onsets")),
        (Number("ballistic", "frames in free flight", "like real"), partial(mean_of, "ballistic")),
        (Number("ball-kept", "frames with the ball", "higher"), partial(mean_of, "kept")),
    )
    no_ball = Number("ball-lost", "clips that lose the ball", "lower")
    changes = Number("material-changes", "clips that change their material", "lower")
    return [
        *(ClipRatio("impacts-path", number, "impacts", counts) for number, counts in means),
        ClipRatio("impacts-path", no_ball, "impacts", lost, share=True),
        ClipRatio("material", changes, "classes", partial(mean_of, "changed"), share=True),
    ]


NEAR, FAR = map(_in_time, TOLERANCES)
METRICS: list[Metric] = [*NEAR[:2], *FAR[:2], NEAR[2], FAR[2], NEAR[3], FAR[3], *_of_the_path()]
BUILDERS: dict[str, Builder] = {Impacts.name: impacts_of}


def is_synthesized(clips: ClipSet) -> bool:
    """Whether a set is a folder of `mmldm synthesize`: `impacts` is then measured unasked."""
    return (Path(clips.origin) / CONFIG_FILE).is_file()


def numbers_of(
    clips: Sequence[Clip], empty: Tensor | None = None, seed: int = 0
) -> dict[str, Value]:
    """All numbers of onsets, impacts and path, of clips in memory.

    Args:
        empty: Background (3,H,W) u8; the clips' own per-pixel median if None.
        seed: Of shuffles and bootstraps.

    Raises:
        UserError: No clips, fewer than four frames, or clips of different sizes.
    """
    if not clips:
        raise UserError("there are no clips to measure impacts on")
    if empty is None:
        if len({clip.frames.shape[-2:] for clip in clips}) > 1:
            raise UserError("impacts need clips of one picture size")
        empty = motion.background([clip.frames for clip in clips])
    found = {Impacts.name: Impacts(empty)(clips)}
    own = [metric for metric in METRICS if metric.measure == Impacts.name]
    return by_number(own, found, found, find_protocol("default", seed=seed))
