"""The impacts world for the evaluator: what it takes down of such clips, and the metrics it makes of that.

clips -> Impacts: onsets, impacts and path of each -> metrics by name

`mmldm evaluate` hands `METRICS` and `BUILDERS` to the evaluator, which knows no world. Everything comes from
pixels and waveform; no ground truth is used, so real, reconstructed and generated clips pass through the same
detectors (`evaluation.events`, `motion`). For clips with one ball.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
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
from mmldm.evaluation.metrics import Better, ClipRatio, Counts, Metric, Number, Value
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
    pairs = match(onsets, impacts, tolerance)
    visible = onsets <= last
    seen = sum(bool(visible[i]) for i, _ in pairs)
    return Matches(len(impacts), len(pairs), int(visible.sum()), seen)


def _sync(tolerance: float, heard: Findings, seen: Findings) -> Matches:
    return sync(heard["onsets"].numpy(), seen["impacts"].numpy(), tolerance, seen["last"].item())


def _recall(tolerance: float, heard: Findings, seen: Findings) -> Counts:
    found = _sync(tolerance, heard, seen)
    return found.impacts_heard, found.impacts


def _precision(tolerance: float, heard: Findings, seen: Findings) -> Counts:
    found = _sync(tolerance, heard, seen)
    return found.onsets_seen, found.onsets


def _offset(tolerance: float, heard: Findings, seen: Findings) -> Counts:
    late = 1000 * lags(heard["onsets"].numpy(), seen["impacts"].numpy(), tolerance)
    return float(late.sum()), float(len(late))


def _error(tolerance: float, heard: Findings, seen: Findings) -> Counts:
    late = 1000 * lags(heard["onsets"].numpy(), seen["impacts"].numpy(), tolerance)
    return float(np.abs(late).sum()), float(len(late))


def _count(name: str, heard: Findings, seen: Findings) -> Counts:
    return float(len(seen[name])), 1.0


def _mean(name: str, heard: Findings, seen: Findings) -> Counts:
    return seen[name].item(), 1.0


def _lost(heard: Findings, seen: Findings) -> Counts:
    return float(seen["kept"].item() < 1), 1.0


def _metrics() -> list[Metric]:
    """All metrics of this world, those that `--metrics impacts` means first."""
    found: list[Metric] = []

    def add(
        name: str,
        number: str,
        title: str,
        better: Better,
        counts: Callable[[Findings, Findings], Counts],
        unit: str = "",
        measure: str = "impacts",
        joint: bool = False,
        share: bool = False,
    ) -> None:
        named = Number(number, title, better, unit)
        found.append(ClipRatio(name, named, measure, counts, joint, share))

    for tolerance in TOLERANCES:
        ms = f"{1000 * tolerance:.0f}"
        for number, words, counts in (
            ("recall", "impacts with an onset", _recall),
            ("precision", "onsets with an impact", _precision),
        ):
            title = f"{words} within {ms} ms"
            add(
                "impacts",
                f"sync-{number}-{ms}",
                title,
                "higher",
                partial(counts, tolerance),
                joint=True,
            )
    near, far = TOLERANCES
    timing = "impacts-timing"
    add(
        "impacts",
        "sync-error",
        "distance of those within 50 ms",
        "lower",
        partial(_error, near),
        "ms",
        joint=True,
    )
    add(
        timing,
        "sync-error-100",
        "distance of those within 100 ms",
        "lower",
        partial(_error, far),
        "ms",
        joint=True,
    )
    add(
        timing,
        "sync-offset-50",
        "lateness of those within 50 ms",
        "like real",
        partial(_offset, near),
        "ms",
    )
    add(
        timing,
        "sync-offset-100",
        "lateness of those within 100 ms",
        "like real",
        partial(_offset, far),
        "ms",
    )

    path = "impacts-path"
    add(path, "impacts-per-clip", "impacts a clip", "like real", partial(_count, "impacts"))
    add(path, "onsets-per-clip", "onsets a clip", "like real", partial(_count, "onsets"))
    add(path, "ballistic", "frames in free flight", "like real", partial(_mean, "ballistic"))
    add(path, "ball-kept", "frames with the ball", "higher", partial(_mean, "kept"))
    add(path, "ball-lost", "clips that lose the ball", "lower", _lost, share=True)
    add("material", "material-changes", "clips that change their material", "lower",
        partial(_mean, "changed"), measure="classes", share=True)  # fmt: skip
    return found


METRICS: list[Metric] = _metrics()
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
