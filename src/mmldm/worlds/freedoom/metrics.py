"""The Freedoom world for the evaluator: what it takes down of such clips, and the metrics it makes of that.

clips -> Shots: what is seen and heard of the shots of each, and of the monsters -> metrics by name

`mmldm evaluate` hands `METRICS` and `BUILDERS` to the evaluator, which knows no world. Of a clip, pixels and
waveform alone are used. The template of a bang and the monsters' network are learnt from some of the real
clips, whose ground truth lies beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmldm.data.cache_writer import weights_key
from mmldm.data.clips import spread
from mmldm.errors import MediaError
from mmldm.evaluation.clipwise import ClipMedian, ClipRatio, Counts, mean_of
from mmldm.evaluation.events import lags, match
from mmldm.evaluation.features import Builder, Findings, Measure
from mmldm.evaluation.looks import fine_power
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.sets import ClipSet, ClipSource
from mmldm.evaluation.values import Better, Metric, Number
from mmldm.media.clip import Clip
from mmldm.media.spectrogram import AudioImage
from mmldm.types import Progress
from mmldm.worlds.freedoom.clips import CONFIG_FILE, read_truth
from mmldm.worlds.freedoom.labels import Monsters, learn_monsters, small_frames
from mmldm.worlds.freedoom.shots import Bangs, detect_flashes, learn_bangs
from mmldm.worlds.freedoom.turning import Turning, flow, learn_turning

LEARNT = 300
"""Real clips that the instruments are learnt from, at most."""
INVERTED = 4
"""The sound of every so manieth of them goes through an audio image, as all generated sound has."""
SEEN = 0.5
"""Probability from which a monster is there."""
TURNS = 30.0
"""Degrees a second from which the view turns."""
LEVEL = 0.1
QUIET = 1e-6
"""Energy below which no level falls: -60 dB."""
GONE_AFTER = 0.4
"""Seconds after a flash in which a monster that it hits is gone."""


class Shots(Measure):
    """What a clip of the Freedoom world shows and sounds.

    "seen" (N,) and "heard" (M,) are times in seconds of flashes and bangs, "kills" (K,) those of flashes at
    which a monster vanishes; "monster" (T,) is 1 for each frame that shows one, else 0; "turns" (T-1,) are
    degrees a second to the left by which the view turns. "fine" () is the
    picture's fine power, "levels" (L,) are those of the sound in dB, of each `LEVEL` seconds. "frame" () is
    the seconds that a frame lasts, "last" () the time of the last one: later bangs have nothing to be seen
    with.

    Args:
        bangs: What a bang sounds like.
        monsters: What a monster looks like.
        turning: What it looks like to turn.
    """

    name = "shots"

    def __init__(self, bangs: Bangs, monsters: Monsters, turning: Turning) -> None:
        self.bangs, self.monsters, self.turning = bangs, monsters, turning
        networks = [weights_key(part.network) for part in (monsters, turning)]
        self.identity = " ".join([bangs.sha256, *networks])

    def __call__(self, clips: Sequence[Clip]) -> list[Findings]:
        found: list[Findings] = []
        for clip in clips:
            seen = detect_flashes(clip.frames, clip.fps)
            there = (self.monsters.probabilities(clip.frames) > SEEN).numpy()
            values: dict[str, float | np.ndarray | Tensor] = {
                "seen": seen,
                "heard": self.bangs.detect(clip.waveform, clip.sample_rate),
                "kills": vanished(seen, there, clip.fps),
                "monster": there.astype(np.float64),
                "turns": self.turning.degrees(clip.frames) * clip.fps,
                "fine": fine_power(clip.frames),
                "levels": loudness(clip.waveform, clip.sample_rate),
                "frame": 1 / clip.fps,
                "last": (len(clip.frames) - 1) / clip.fps,
            }
            found.append({k: torch.as_tensor(x, dtype=torch.float64) for k, x in values.items()})
        return found


def loudness(waveform: Tensor, sample_rate: int) -> Tensor:
    """Levels (L,) in dB of a waveform (S,), of each `LEVEL` seconds."""
    length = round(LEVEL * sample_rate)
    energy = waveform.double().unfold(0, length, length).square().mean(1)
    return 10 * torch.log10(energy + QUIET)


def vanished(flashes: np.ndarray, there: np.ndarray, fps: float) -> np.ndarray:
    """Times (K,) of those flashes (N,) before which a monster is there (T,) bool, and soon after none."""
    found = []
    for time in flashes:
        first = int(np.ceil(time * fps - 1e-6))
        after = there[first : first + max(2, round(GONE_AFTER * fps)) + 1]
        if there[max(first - 2, 0) : first].all() and len(after) > 1 and not after[-2:].any():
            found.append(time)
    return np.array(found)


class Window(NamedTuple):
    """What is true of the window of a file that a clip is.

    Attributes:
        shots: Times (N,) in seconds.
        kills: The same (K,).
        monsters: Height (T,) of the tallest monster of each frame, in percent of the picture.
        turns: Degrees a second (T-1,) to the left by which the view turns; NaN at a cut.
    """

    shots: np.ndarray
    kills: np.ndarray
    monsters: np.ndarray
    turns: np.ndarray


def true_window(clip: ClipSource, clips: ClipSet, protocol: Protocol) -> Window:
    """What is true of a clip of a set, from the sidecar of its file.

    Raises:
        UserError: There is no ground truth beside the file.
    """
    truth, spec = read_truth(Path(clips.origin) / clip.file), protocol.spec
    # A window begins at the frame of the file that is nearest.
    first = round(clip.start * truth["fps"])
    start = first / truth["fps"]

    def times(kind: str) -> np.ndarray:
        own = np.array([e["time"] for e in truth["events"] if e["kind"] == kind]) - start
        return np.sort(own[(own >= 0) & (own < spec.duration)])

    # The frame of the file that each of the clip's is.
    shown = first + np.arange(spec.num_frames) * truth["fps"] / spec.fps
    frames = np.round(shown).astype(int).clip(0, len(truth["monster"]) - 1)
    angles = np.array(truth["angle"])[frames]
    turns = ((np.diff(angles) + 180) % 360 - 180) * spec.fps
    # A frame shows what comes after a cut from that moment on.
    cuts = np.array([e["time"] * truth["fps"] for e in truth["events"] if e["kind"] == "episode"])
    after = np.ceil(cuts - 1e-3)[:, None]
    turns[((frames[:-1] < after) & (after <= frames[1:])).any(0)] = np.nan
    monsters = np.array(truth["monster"])[frames]
    return Window(times("shot"), times("kill"), monsters, turns)


def shots_of(real: ClipSet, protocol: Protocol, progress: Progress) -> Shots:
    """Instruments that are learnt from these clips.

    Raises:
        UserError: They have no ground truth, or too little of what is to be learnt.
    """
    chosen = [real.clips[i] for i in spread(LEARNT, len(real.clips))]
    audio_image = AudioImage(protocol.spec)

    def clips() -> Iterator[tuple[Clip, Window]]:
        for done, source in enumerate(chosen, start=1):
            truth = true_window(source, real, protocol)
            try:
                clip = source.read(protocol.spec)
            except MediaError:
                continue
            progress("clips of the instruments", done, len(chosen))
            yield clip, truth

    # Small things are kept of each clip: its sound, and its picture as the networks will see it.
    sounds, pictures, flows = [], [], []
    for number, (clip, truth) in enumerate(clips()):
        waveform = clip.waveform
        if number % INVERTED == 0:
            image = audio_image.image(waveform[None])
            waveform = audio_image.waveform(image, iterations=8)[0]
        sounds.append((waveform, clip.sample_rate, truth.shots))
        pictures.append((small_frames(clip.frames), truth.monsters))
        flows.append((flow(clip.frames), truth.turns / clip.fps))
    bangs, seed = learn_bangs(sounds), protocol.seed
    monsters = learn_monsters(pictures, seed=seed, progress=progress)
    return Shots(bangs, monsters, learn_turning(flows, seed=seed))


class Matches(NamedTuple):
    """Matches of one picture with one sound; recall and precision are ratios of sums of these."""

    flashes: int
    flashes_heard: int
    bangs: int
    bangs_seen: int


def matches(heard: Findings, seen: Findings) -> Matches:
    """Matches within one frame; bangs after the last frame are free but may match."""
    bangs, flashes = heard["heard"].numpy(), seen["seen"].numpy()
    pairs = match(bangs, flashes, seen["frame"].item())
    visible = bangs <= seen["last"].item()
    both = sum(bool(visible[i]) for i, _ in pairs)
    return Matches(len(flashes), len(pairs), int(visible.sum()), both)


def recall(heard: Findings, seen: Findings) -> Counts:
    """Flashes that are heard, and all."""
    found = matches(heard, seen)
    return found.flashes_heard, found.flashes


def precision(heard: Findings, seen: Findings) -> Counts:
    """Bangs that are seen, and all."""
    found = matches(heard, seen)
    return found.bangs_seen, found.bangs


def late(heard: Findings, seen: Findings) -> np.ndarray:
    """How much later than its flash each bang within one frame is, in ms: (pairs,)."""
    return 1000 * lags(heard["heard"].numpy(), seen["seen"].numpy(), seen["frame"].item())


def count_of(name: str, heard: Findings, seen: Findings) -> Counts:
    """How many there are in a clip."""
    return float(len(seen[name])), 1.0


def frames_with_monster(heard: Findings, seen: Findings) -> Counts:
    """Frames that show one, and all."""
    return float(seen["monster"].sum()), float(len(seen["monster"]))


def frames_that_turn(heard: Findings, seen: Findings) -> Counts:
    """Frames at which the view turns, and all but the first."""
    return float((seen["turns"].abs() > TURNS).sum()), float(len(seen["turns"]))


def _shots(
    name: str,
    title: str,
    counts: Callable[[Findings, Findings], Counts],
    better: Better = "like real",
    joint: bool = False,
) -> ClipRatio:
    return ClipRatio("shots", Number(name, title, better), Shots.name, counts, joint)


METRICS: list[Metric] = [
    _shots("shots-recall", "flashes with a bang within a frame", recall, "higher", joint=True),
    _shots("shots-precision", "bangs with a flash within a frame", precision, "higher", joint=True),
    ClipMedian(
        "shots",
        Number("shots-offset", "bang later than its flash, median", "like real", "ms"),
        Shots.name,
        late,
    ),
    _shots("flashes-per-clip", "flashes a clip", partial(count_of, "seen")),
    _shots("bangs-per-clip", "bangs a clip", partial(count_of, "heard")),
    _shots("monster-frames", "frames with a monster", frames_with_monster),
    _shots("turning", "frames at which the view turns", frames_that_turn),
    _shots("fine-power", "power above a quarter of Nyquist", partial(mean_of, "fine")),
    _shots("kills-per-clip", "monsters hit a clip", partial(count_of, "kills")),
]
BUILDERS: dict[str, Builder] = {Shots.name: shots_of}


def is_freedoom(clips: ClipSet) -> bool:
    """Whether a set is a folder of this world's clips: `shots` is then measured unasked."""
    return (Path(clips.origin) / CONFIG_FILE).is_file()
