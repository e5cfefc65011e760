"""The impacts world for the evaluator: what it takes down of such clips, and the metrics it makes of that.

clips -> Impacts: what is seen and heard of the hits of each -> metrics by name

`mmldm evaluate` hands `METRICS` and `BUILDERS` to the evaluator, which knows no world. Everything comes from
pixels and waveform; no ground truth is used, so real, reconstructed and generated clips pass through the same
instruments: `evaluation.events` and `hits` for the sound, `motion`, `arcs`, `bounces` and
`sharpness` for the picture.
For clips with one ball.
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
from mmldm.evaluation.clipwise import ClipCorrelation, ClipMedian, ClipRatio, Counts, mean_of
from mmldm.evaluation.evaluate import by_number
from mmldm.evaluation.events import detect_onsets, lags, match
from mmldm.evaluation.features import Builder, Findings, Measure
from mmldm.evaluation.protocol import Protocol, find_protocol
from mmldm.evaluation.sets import ClipSet
from mmldm.evaluation.values import Metric, Number, Value
from mmldm.media.clip import Clip
from mmldm.types import Progress
from mmldm.worlds.impacts import motion
from mmldm.worlds.impacts.arcs import fit
from mmldm.worlds.impacts.bounces import detect_impacts, jitter
from mmldm.worlds.impacts.clips import CONFIG_FILE
from mmldm.worlds.impacts.hits import hear
from mmldm.worlds.impacts.sharpness import sharpness

BACKGROUND_CLIPS = 64
LEAST_FRAMES = 4
TOLERANCES = (0.02, 0.05)
"""Seconds between an impact and its onset."""
WIDE = TOLERANCES[1]
"""Within which an onset is an impact's: its timing and its loudness are compared with that."""


class Impacts(Measure):
    """What a clip of the impacts world shows and sounds.

    Of the sound: "onsets" (N,) in seconds, and of each "attacks" (N,) in ms, "before" (N,) and "loudness"
    (N,) in dB, as `hits` has them. Of the picture: "impacts" (M,) in seconds, and of each "speeds" (M,) in
    frame heights a second and "restitutions" (M,), as `bounces` has them; "jitter" () of the path in pixels;
    "laplacian" () and "fine" () on the ball, as `sharpness` has them. NaN where something cannot be told.

    "last" () is the time of the last frame: later onsets have nothing to be seen with. "kept" () is the share
    of frames in which the ball is seen, "ballistic" () that of inner frames at which it moves as gravity
    alone would move it.

    Args:
        empty: Background (3,H,W) u8 of all sets that are compared.
    """

    name = "impacts"

    def __init__(self, empty: Tensor) -> None:
        self.empty = empty
        background = hashlib.sha256(empty.numpy().tobytes()).hexdigest()
        self.identity = f"{background} by arcs, with hits and sharpness"

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
            cut = fit(path)
            struck = detect_impacts(path, cut)
            sharp = sharpness(clip.frames, path, cut)
            onsets = detect_onsets(clip.waveform, clip.sample_rate)
            heard = hear(clip.waveform, clip.sample_rate, onsets)
            values: dict[str, float | np.ndarray] = {
                "onsets": onsets,
                **heard._asdict(),
                "impacts": struck.times,
                "speeds": struck.speeds,
                "restitutions": struck.restitutions,
                "jitter": jitter(path, cut, struck) * clip.frames.shape[-2],
                "laplacian": sharp.laplacian,
                "fine": sharp.fine,
                "last": (len(clip.frames) - 1) / clip.fps,
                "kept": path.kept.mean(),
                "ballistic": motion.ballistic(path).mean(),
            }
            found.append({k: torch.tensor(x, dtype=torch.float64) for k, x in values.items()})
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


def _in_time(tolerance: float) -> tuple[ClipRatio, ClipRatio]:
    """Recall and precision of the matches within a tolerance in seconds."""

    def matches(heard: Findings, seen: Findings) -> Matches:
        last = seen["last"].item()
        return sync(heard["onsets"].numpy(), seen["impacts"].numpy(), tolerance, last)

    def recall(heard: Findings, seen: Findings) -> Counts:
        found = matches(heard, seen)
        return found.impacts_heard, found.impacts

    def precision(heard: Findings, seen: Findings) -> Counts:
        found = matches(heard, seen)
        return found.onsets_seen, found.onsets

    ms = f"{1000 * tolerance:.0f}"
    heard = Number(f"sync-recall-{ms}", f"impacts with an onset within {ms} ms", "higher")
    seen = Number(f"sync-precision-{ms}", f"onsets with an impact within {ms} ms", "higher")
    return (
        ClipRatio("impacts", heard, "impacts", recall, joint=True),
        ClipRatio("impacts", seen, "impacts", precision, joint=True),
    )


def late(heard: Findings, seen: Findings) -> np.ndarray:
    """How much later than its impact each onset within `WIDE` is, in ms: (pairs,)."""
    return 1000 * lags(heard["onsets"].numpy(), seen["impacts"].numpy(), WIDE)


def distance(heard: Findings, seen: Findings) -> np.ndarray:
    """How far from its impact each onset within `WIDE` is, in ms: (pairs,)."""
    return np.abs(late(heard, seen))


def loudness_and_speed(heard: Findings, seen: Findings) -> np.ndarray:
    """Loudness in dB and speed in dB of each hit that is heard alone and seen: (pairs,2)."""
    pairs = match(heard["onsets"].numpy(), seen["impacts"].numpy(), WIDE)
    loudness, speeds = heard["loudness"].numpy(), seen["speeds"].numpy()
    found = np.array([(loudness[i], 20 * np.log10(speeds[j])) for i, j in pairs]).reshape(-1, 2)
    return found[~np.isnan(found[:, 0])]


def spread_of_restitution(heard: Findings, seen: Findings) -> np.ndarray:
    """Standard deviation over a clip's impacts on the floor: (1,), NaN with fewer than two."""
    known = seen["restitutions"].numpy()
    known = known[~np.isnan(known)]
    return np.array([known.std(ddof=1) if len(known) > 1 else np.nan])


def each_of(name: str, heard: Findings, seen: Findings) -> np.ndarray:
    """What was found of each onset, or of the clip: (N,)."""
    return heard[name].numpy().reshape(-1)


def _of_the_timing() -> list[Metric]:
    """How far apart sound and picture of one hit are."""
    ms = f"{1000 * WIDE:.0f}"
    far = Number("sync-timing", f"onset from its impact, median within {ms} ms", "lower", "ms")
    offset = Number(f"sync-offset-{ms}", f"onset later than its impact, median within {ms} ms",
                    "like real", "ms")  # fmt: skip
    return [
        ClipMedian("impacts", far, "impacts", distance, joint=True),
        ClipMedian("impacts-timing", offset, "impacts", late),
    ]


def _of_the_hits() -> list[Metric]:
    """How a hit sounds."""
    attack = Number("attack", "rise of a hit, 10 to 90 %, median", "like real", "ms")
    before = Number("pre-echo", "level before a hit over its own, median", "like real", "dB")
    speed = Number("loudness-speed", "loudness against speed of impact, r in a clip", "higher")
    return [
        ClipMedian("hits", attack, "impacts", partial(each_of, "attacks")),
        ClipMedian("hits", before, "impacts", partial(each_of, "before")),
        ClipCorrelation("hits", speed, "impacts", loudness_and_speed),
    ]


def _of_the_ball() -> list[Metric]:
    """How sharp the ball is."""
    laplacian = Number("laplacian", "variance of the Laplacian on a slow ball", "like real")
    fine = Number("fine-power", "power above a quarter of Nyquist on a slow ball", "like real")
    return [
        ClipRatio("sharpness", laplacian, "impacts", partial(mean_of, "laplacian")),
        ClipRatio("sharpness", fine, "impacts", partial(mean_of, "fine")),
    ]


def _of_the_path() -> list[Metric]:
    """What is seen and heard of a clip, and shares of clips in which the ball is not whole."""

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
    jitter = Number("jitter", "the ball beside its path, median", "like real", "px")
    bounce = Number("restitution-spread", "restitution in a clip, sd, median", "like real")
    no_ball = Number("ball-lost", "clips that lose the ball", "lower")
    changes = Number("material-changes", "clips that change their material", "lower")
    return [
        *(ClipRatio("impacts-path", number, "impacts", counts) for number, counts in means),
        ClipMedian("impacts-path", jitter, "impacts", partial(each_of, "jitter")),
        ClipMedian("impacts-path", bounce, "impacts", spread_of_restitution),
        ClipRatio("impacts-path", no_ball, "impacts", lost, share=True),
        ClipRatio("material", changes, "classes", partial(mean_of, "changed"), share=True),
    ]


METRICS: list[Metric] = [
    *(metric for tolerance in TOLERANCES for metric in _in_time(tolerance)),
    *_of_the_timing(),
    *_of_the_path(),
    *_of_the_hits(),
    *_of_the_ball(),
]
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
