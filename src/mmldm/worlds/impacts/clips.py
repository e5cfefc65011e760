"""The impacts world: balls of different materials bouncing in a box, and every bounce sounds.

(seed, index) -> clip, with the ground truth of what should sound when

A clip begins with a throw, or anywhere in a world that goes on, whose resting balls are thrown again.
`render_clip` makes one clip in memory; `synthesize` writes many as real mp4 files in class folders.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmldm.errors import UserError
from mmldm.media.clip import Clip
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.materials import MATERIALS
from mmldm.worlds.impacts.physics import Ball, Flight, Impact, draw_throw, simulate
from mmldm.worlds.impacts.render import render
from mmldm.worlds.impacts.sound import render_sound
from mmldm.worlds.rendering import World, write_clips

RADII = (7 / 64, 10 / 64)
"""Smallest and largest ball, in frame heights."""
CONFIG_FILE = "impacts.json"


class ImpactsConfig(BaseModel):
    """Everything a clip depends on besides its index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0)
    materials: tuple[str, ...] = tuple(MATERIALS)
    min_balls: int = Field(1, ge=1, le=3)
    max_balls: int = Field(1, ge=1, le=3)
    """All balls of a clip are of one material, the clip's class."""
    spec: ClipSpec = ClipSpec()
    throws_again: bool = False
    """The world goes on: a ball that rests is thrown again after a pause."""
    latest_start: float = Field(0.0, ge=0, le=600)
    """Half of the clips begin at a random frame up to this second of a world that goes on, the others with
    the throw. 0: all begin with the throw."""

    @field_validator("materials")
    @classmethod
    def _known(cls, materials: tuple[str, ...]) -> tuple[str, ...]:
        unknown = set(materials) - set(MATERIALS)
        if unknown or not materials or len(set(materials)) < len(materials):
            raise ValueError(f"materials must be one or more different names of {list(MATERIALS)}")
        return materials

    @model_validator(mode="after")
    def _ordered(self) -> ImpactsConfig:
        if self.min_balls > self.max_balls:
            raise ValueError(f"min_balls {self.min_balls} exceeds max_balls {self.max_balls}")
        if self.spec.width < self.spec.height / 2:
            raise ValueError("the box must be at least half as wide as it is high")
        if self.latest_start and not self.throws_again:
            raise ValueError("latest_start needs throws_again: a world that ends has nothing later")
        return self


@dataclass(frozen=True)
class Throw:
    """A ball that rested is thrown again; nothing sounds.

    Attributes:
        time: Seconds from the start of the clip.
        ball: Index of the ball.
    """

    time: float
    ball: int


@dataclass(frozen=True)
class ImpactsClip:
    """A rendered clip and its ground truth; positions and speeds in frame heights.

    Attributes:
        balls: As they are at the start of the clip.
        impacts: In the clip, in the order of time.
        throws: In the clip, in the order of time, without the one that it may begin with.
        begin: Seconds of the world before the clip; at 0 it begins with the throw of all balls.
    """

    clip: Clip
    material: str
    balls: list[Ball]
    impacts: list[Impact]
    throws: list[Throw]
    begin: float


def material_of(config: ImpactsConfig, index: int) -> str:
    """The class of a clip: materials take turns, so that any run of clips is balanced."""
    return config.materials[index % len(config.materials)]


def render_clip(config: ImpactsConfig, index: int) -> ImpactsClip:
    """Renders clip `index`; the same (config, index) gives the same clip anywhere."""
    # What is thrown, and how the contact noise sounds, are draws of one generator in this order; what a
    # world that goes on needs besides has generators of its own, so that it begins as one that ends.
    rng = np.random.default_rng([config.seed, index])
    again = np.random.default_rng([config.seed, index, 1]) if config.throws_again else None
    first = _first_frame(config, np.random.default_rng([config.seed, index, 2]))

    # The world from its throw to the end of the clip.
    spec, material = config.spec, material_of(config, index)
    begin = first / spec.fps
    balls = _place_balls(config, material, rng)
    paths, impacts = simulate(balls, spec.width / spec.height, begin + spec.duration, again)
    clip = Clip(
        frames=torch.from_numpy(render(balls, paths, spec, first)),
        waveform=torch.from_numpy(render_sound(balls, impacts, spec, rng, begin)),
        fps=spec.fps,
        sample_rate=spec.sample_rate,
    )

    # What of it is seen and heard in the clip, on the clip's clock.
    seen = [replace(hit, time=hit.time - begin) for hit in impacts if hit.time >= begin]
    thrown = [
        Throw(flight.start - begin, number)
        for number, path in enumerate(paths)
        for flight in path
        if flight.thrown and flight.start >= begin
    ]
    thrown.sort(key=lambda throw: throw.time)
    at_start = [_at(ball, path, begin) for ball, path in zip(balls, paths, strict=True)]
    return ImpactsClip(clip, material, at_start, seen, thrown, begin)


def _first_frame(config: ImpactsConfig, rng: np.random.Generator) -> int:
    """The frame of the world that a clip begins with: 0 in half of them."""
    last = int(config.latest_start * config.spec.fps + 1e-6)
    return int(rng.integers(last + 1)) if rng.random() < 0.5 else 0


def _at(ball: Ball, path: list[Flight], time: float) -> Ball:
    """A ball where it is at `time`."""
    flight = next(flight for flight in reversed(path) if flight.start <= time)
    (x, y), (vx, vy) = flight.at(time).tolist(), flight.velocity_at(time).tolist()
    return replace(ball, position=(x, y), velocity=(vx, vy))


def _place_balls(config: ImpactsConfig, material: str, rng: np.random.Generator) -> list[Ball]:
    """Draws balls that start apart from each other, in the upper part of the box."""
    width = config.spec.width / config.spec.height
    balls: list[Ball] = []
    count = rng.integers(config.min_balls, config.max_balls + 1)
    while len(balls) < count:
        radius = rng.uniform(*RADII)
        position, velocity = draw_throw(radius, width, rng)
        ball = Ball(
            material=material,
            radius=radius,
            restitution=MATERIALS[material].restitution * rng.uniform(0.92, 1.05),
            position=position,
            velocity=velocity,
            detune=rng.uniform(0.97, 1.03),
        )
        # A ball that overlaps another one: all are drawn again, so that no place is likelier than another.
        apart = (np.hypot(*np.subtract(position, b.position)) > radius + b.radius for b in balls)
        balls = [*balls, ball] if all(apart) else []
    return balls


def synthesize(
    folder: str | Path,
    config: ImpactsConfig,
    clips: int,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes clips 0 to `clips` - 1 as `folder/<material>/<index>.mp4` with their ground truth.

    Beside every mp4 stands `<index>.json` with balls, impacts and throws; `folder/impacts.json` holds the
    configuration. Clips that are already whole are kept, so an interrupted call can be repeated and
    a folder can be extended.

    Args:
        workers: Processes; None for one per core. With 1 all is done in this process.
        progress: Called with (clips finished, clips asked for).

    Returns:
        Number of clips written now.

    Raises:
        UserError: The folder cannot be written, or holds something else.
    """
    return write_clips(WORLD, Path(folder), config, clips, workers, progress)


def _write(config: ImpactsConfig, index: int, path: Path) -> dict[str, Any]:
    """Writes the mp4 of a clip; its ground truth."""
    rendered = render_clip(config, index)
    rendered.clip.save(path)
    return {
        "seed": config.seed,
        "index": index,
        "begin": rendered.begin,
        "material": rendered.material,
        "balls": [asdict(ball) for ball in rendered.balls],
        "impacts": [asdict(impact) for impact in rendered.impacts],
        "throws": [asdict(throw) for throw in rendered.throws],
    }


WORLD = World("impacts", CONFIG_FILE, ImpactsConfig, material_of, _write)


def true_impacts(clip: Path, start: float = 0.0, duration: float = inf) -> np.ndarray:
    """Times (N,), sorted, of the audible impacts in a window of a rendered clip, from its sidecar.

    Args:
        clip: The mp4.
        start: Where the window begins, in seconds.
        duration: Of the window.

    Returns:
        Seconds from the start of the window.

    Raises:
        UserError: There is no ground truth beside the clip.
    """
    sidecar = clip.with_suffix(".json")
    try:
        impacts = json.loads(sidecar.read_text(encoding="utf-8"))["impacts"]
        times = np.sort([float(hit["time"]) for hit in impacts if hit["audible"]]) - start
        return times[(times >= 0) & (times < duration)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{sidecar} is no ground truth of an impacts clip ({error!r}); the detectors are "
            "calibrated on clips of `mmldm synthesize`"
        ) from error
