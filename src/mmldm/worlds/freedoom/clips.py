"""The Freedoom world: a game's shooting range, seen and heard, with the true times of what happens.

(seed, index) -> clip, with its events and what its frames show

`render_clip` makes one clip in memory; `synthesize` writes many as real mp4 files in class folders, one class
for each scenario. Memory does not grow with the length of a clip that is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from mmldm.errors import UserError
from mmldm.media.writer import FilmWriter
from mmldm.types import ClipSpec, SpectrogramSpec
from mmldm.worlds.freedoom.game import SIZES, TICS, Game, Moment, Seen, require_sound
from mmldm.worlds.freedoom.player import Player
from mmldm.worlds.freedoom.scenarios import SCENARIOS
from mmldm.worlds.rendering import World, write_clips

CONFIG_FILE = "freedoom.json"
RATES = (35.0, 17.5)
"""Frames a second that a clip can have."""
FADE = 0.01
"""Seconds over which the sound fades out before a cut to the next episode, and in after it."""
LEAST_HEIGHT = 1 / 24
"""Height in picture heights from which something counts as visible: 4 pixels of 96."""
LARGEST_SIDE = 800
Kind = Literal["shot", "hit", "kill", "damage", "pick-up", "episode"]
RISES: dict[str, Kind] = {"hits": "hit", "kills": "kill"}
TRUTH = ("scenario", "fps", "events", "seen", "monster", "angle")
"""What instruments read of the ground truth."""
PICKED_UP = ("ammunition", "shells", "armour", "health", "items")


class FreedoomConfig(BaseModel):
    """Everything a clip depends on besides its index, the version of the game, and the sound library."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(0, ge=0)
    scenarios: tuple[str, ...] = tuple(SCENARIOS)
    """The classes, which take turns."""
    num_frames: int = Field(140, ge=1, le=35 * 600)
    fps: float = 17.5
    """35: a frame for every tic of the game; 17.5: for every second one."""
    width: int = Field(128, ge=16, le=LARGEST_SIDE)
    height: int = Field(128, ge=16, le=LARGEST_SIDE)
    """The picture of 4:3 that the game draws is cut in the middle to this shape, and scaled down."""
    sample_rate: Literal[11025, 22050, 44100] = 22050

    @field_validator("scenarios")
    @classmethod
    def _known(cls, scenarios: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in scenarios if name not in SCENARIOS]
        if unknown:
            raise ValueError(
                f"there is no scenario {unknown[0]!r}; those there are: {', '.join(SCENARIOS)}"
            )
        if not scenarios or len(set(scenarios)) < len(scenarios):
            raise ValueError("scenarios must be one or more different ones")
        return scenarios

    @field_validator("fps")
    @classmethod
    def _of_the_game(cls, fps: float) -> float:
        if fps not in RATES:
            raise ValueError(f"the game runs at {TICS} tics a second: 35 or 17.5, not {fps:g}")
        return fps

    @property
    def tics_per_frame(self) -> int:
        return round(TICS / self.fps)

    @property
    def spec(self) -> ClipSpec:
        """Rates and sizes of a clip."""
        return ClipSpec(
            num_frames=self.num_frames,
            fps=self.fps,
            height=self.height,
            width=self.width,
            sample_rate=self.sample_rate,
            spectrogram=SpectrogramSpec(f_max=min(8000.0, self.sample_rate / 2)),
        )


class Piece(NamedTuple):
    """Up to a second of a clip.

    Attributes:
        frames: (n,3,H,W) u8.
        sound: (2,m) f32 in [-1,1], stereo, of the same time.
    """

    frames: Tensor
    sound: Tensor


class FreedoomClip(NamedTuple):
    """A clip in memory: frames (T,3,H,W) and sound (2,S) as `Piece` has them, and what is true of it."""

    frames: Tensor
    sound: Tensor
    truth: dict[str, Any]


def scenario_of(config: FreedoomConfig, index: int) -> str:
    """The class of a clip: scenarios take turns, so that any run of clips is balanced."""
    return config.scenarios[index % len(config.scenarios)]


class Take:
    """One clip while it is played.

    Args:
        index: Of the clip.

    Attributes:
        events: So far: dicts of `time` (seconds), `kind` and, of some, what else is known.
    """

    def __init__(self, config: FreedoomConfig, index: int) -> None:
        self.config, self.index = config, index
        self.name = scenario_of(config, index)
        self.events: list[dict[str, Any]] = []
        self._angles: list[float] = []
        self._monsters: list[int] = []
        self._seen: dict[str, list[list[int]]] = {}
        self._size, self._cut = _drawn(config)

    def pieces(self) -> Iterator[Piece]:
        """Plays the clip, a second at a time.

        Raises:
            UserError: The game does not start, or dies.
        """
        config = self.config
        random = np.random.default_rng([config.seed, self.index])
        seed = int(random.integers(2**31))
        with Game(self.name, seed, self._size, config.sample_rate) as game:
            player = Player(game.scenario, random)
            tics = config.num_frames * config.tics_per_frame
            frames: list[np.ndarray] = []
            sounds: list[np.ndarray] = []
            before: Moment | None = None
            for tic in range(tics):
                # A second is complete; its last tic is kept back, as its sound may have to fade.
                if len(sounds) > TICS:
                    yield self._piece(frames, sounds[:-1])
                    frames, sounds = [], sounds[-1:]
                now = game.look()
                sounds.append(_stereo(now.sound))
                if before is None and tic:
                    _fade(sounds, config.sample_rate)
                self._take_down(tic, before, now)
                if tic % config.tics_per_frame == 0:
                    self._label(len(self._angles), now)
                    frames.append(now.picture[:, self._cut])
                # What is shot empty is left.
                goes_on = game.act(player.act(now)) and now.counters["ammunition"] > 0
                before = now
                if not goes_on and tic + 1 < tics:
                    self._note(tic + 1, "episode", lost=game.lost)
                    game.begin()
                    before = None
            yield self._piece(frames, sounds)

    def truth(self) -> dict[str, Any]:
        """What is true of the clip, once it is played, ready for JSON."""
        return {
            "seed": self.config.seed,
            "index": self.index,
            "scenario": self.name,
            "fps": self.config.fps,
            "events": self.events,
            "seen": self._seen,
            "monster": self._monsters,
            "angle": self._angles,
        }

    def _piece(self, frames: list[np.ndarray], sounds: list[np.ndarray]) -> Piece:
        """Frames (h,w,3) u8 as drawn and the sound (2,n) of each tic -> a piece."""
        sound = torch.from_numpy(np.concatenate(sounds, axis=1))
        if not frames:
            empty = torch.empty(0, 3, self.config.height, self.config.width, dtype=torch.uint8)
            return Piece(empty, sound)
        drawn = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float()
        small = F.interpolate(drawn, (self.config.height, self.config.width), mode="area")
        return Piece(small.round().to(torch.uint8), sound)

    def _take_down(self, tic: int, before: Moment | None, now: Moment) -> None:
        """The events of a tic, by the counters."""
        if before is None:
            return
        rise = {name: now.counters[name] - before.counters[name] for name in now.counters}
        if rise["ammunition"] < 0:
            self._note(tic, "shot")
        for name, kind in RISES.items():
            if rise[name] > 0:
                self._note(tic, kind)
        if rise["health"] < 0:
            self._note(tic, "damage", points=round(-rise["health"]))
        what = [name for name in PICKED_UP if rise[name] > 0]
        if what:
            self._note(tic, "pick-up", what=what[0])

    def _note(self, tic: int, kind: Kind, **more: Any) -> None:
        self.events.append({"time": round(tic / TICS, 4), "kind": kind, **more})

    def _label(self, frame: int, now: Moment) -> None:
        """What a frame shows: runs [first, last] of frames by name; of each frame, where the player looks
        and how tall the tallest monster is, in percent of the picture.
        """
        self._angles.append(round(now.counters["angle"], 1))
        visible = [one for one in now.seen if self._is_visible(one)]
        heights = [one.height for one in visible if one.category == "Monster"]
        self._monsters.append(round(100 * max(heights, default=0)))
        for name in sorted({one.name for one in visible}):
            runs = self._seen.setdefault(name, [])
            if runs and runs[-1][1] == frame - 1:
                runs[-1][1] = frame
            else:
                runs.append([frame, frame])

    def _is_visible(self, one: Seen) -> bool:
        left, right = (edge / self._size[0] for edge in (self._cut.start, self._cut.stop))
        inside = min(one.right, right) - max(one.left, left)
        return one.height >= LEAST_HEIGHT and inside >= (one.right - one.left) / 2


def _drawn(config: FreedoomConfig) -> tuple[tuple[int, int], slice]:
    """The game's picture size (width, height) for a config, and the columns of it that are kept.

    At least twice as large as the clip's, where the game can: the mean of several pixels has no jags.
    """
    shape = config.width / config.height
    fitting = [
        size
        for size in SIZES
        if min(size[0], size[1] * shape) >= 2 * config.width
        and min(size[1], size[0] / shape) >= 2 * config.height
    ]
    width, height = fitting[0] if fitting else SIZES[-1]
    kept = min(width, round(height * shape))
    first = (width - kept) // 2
    return (width, height), slice(first, first + kept)


def _stereo(sound: np.ndarray) -> np.ndarray:
    """(n,2) i16 -> (2,n) f32 in [-1,1]."""
    return np.ascontiguousarray(sound.T).astype(np.float32) / 32768


def _fade(sounds: list[np.ndarray], sample_rate: int) -> None:
    """Fades the sounds (2,n) of the last tic but one out and of the last one in, in place."""
    ramp = np.linspace(0, 1, round(FADE * sample_rate), dtype=np.float32)
    if len(sounds) > 1:
        sounds[-2][:, -len(ramp) :] *= ramp[::-1]
    sounds[-1][:, : len(ramp)] *= ramp


def render_clip(config: FreedoomConfig, index: int) -> FreedoomClip:
    """Plays clip `index`; the same (config, index) gives the same clip, bit for bit.

    Raises:
        UserError: The game does not start, or dies.
    """
    take = Take(config, index)
    frames, sounds = zip(*take.pieces(), strict=True)
    return FreedoomClip(torch.cat(frames), torch.cat(sounds, dim=1), take.truth())


def synthesize(
    folder: str | Path,
    config: FreedoomConfig,
    clips: int,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes clips 0 to `clips` - 1 as `folder/<scenario>/<index>.mp4` with what is true of each.

    As `worlds.impacts.clips.synthesize`: whole clips are kept, a folder can be extended and holds one
    configuration, which is in `folder/freedoom.json`.

    Raises:
        UserError: As there; the game is not installed, or makes no sound.
    """
    require_sound()
    return write_clips(WORLD, Path(folder), config, clips, workers, progress)


def _write(config: FreedoomConfig, index: int, path: Path) -> dict[str, Any]:
    """Writes the mp4 of a clip while it is played; its ground truth."""
    take = Take(config, index)
    with FilmWriter(path, fps=config.fps, sample_rate=config.sample_rate, channels=2) as film:
        for piece in take.pieces():
            film.add(piece.frames, piece.sound)
    return take.truth()


WORLD = World("freedoom", CONFIG_FILE, FreedoomConfig, scenario_of, _write, chunk=1, indent=None)


def read_truth(clip: Path) -> dict[str, Any]:
    """What is true of a clip, from its sidecar.

    Args:
        clip: The mp4.

    Raises:
        UserError: There is no ground truth beside the clip.
    """
    sidecar = clip.with_suffix(".json")
    try:
        found = json.loads(sidecar.read_text(encoding="utf-8"))
        return {name: found[name] for name in TRUTH}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{sidecar} is no ground truth of a freedoom clip ({error!r}); the instruments are "
            "calibrated on clips of `mmldm synthesize --world freedoom`"
        ) from error


def true_events(clip: Path, kind: Kind, start: float = 0.0, duration: float = inf) -> np.ndarray:
    """Times (N,), sorted, of the events of a kind in a window of a clip, from its sidecar.

    Args:
        clip: The mp4.
        start: Where the window begins, in seconds.
        duration: Of the window.

    Returns:
        Seconds from the start of the window.

    Raises:
        UserError: There is no ground truth beside the clip.
    """
    events = read_truth(clip)["events"]
    times = np.sort([float(event["time"]) for event in events if event["kind"] == kind]) - start
    return times[(times >= 0) & (times < duration)]
