"""Balls bouncing under gravity in a box, solved event by event: exact flights, exact impact times.

balls, duration -> paths (a list of flights per ball) and impacts

A world ends when its balls rest, or goes on: then a ball that rests is thrown again after a pause.
Lengths are in frame heights (so every picture size shows the same motion), y points down, times in
seconds. Between impacts a ball follows one parabola; nothing is integrated in steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import cos, inf, pi, sin, sqrt

import numpy as np

GRAVITY = 350 / 64
"""Frame heights per second squared."""
WALL_THICKNESS = 2.25 / 64
FLOOR_LEVEL = 1 - 5.5 / 64
"""Height of the line on which balls land, in the middle of the visible floor."""
WALL_RESTITUTION = 0.9
FLOOR_GRIP = 0.98
"""Share of the sideways speed kept at a floor hit."""
REST_SPEED = 7 / 64
"""A ball that would leave the floor more slowly than this stays down and rolls."""
AUDIBLE_SPEED = 18 / 64
"""Hits slower than this are silent."""
START_SPEEDS = (25 / 64, 90 / 64)
"""Of a throw, frame heights per second."""
LEAST_DROP = 0.3
"""A throw begins at least so high above the floor line, in frame heights."""
PAUSES = (0.3, 0.6)
"""Seconds that a ball lies or rolls on the floor before it is thrown again, shortest and longest."""
CONTACT_GRID = 1 / 1024
"""Seconds between the looks for two balls touching, then refined by bisection."""


@dataclass(frozen=True)
class Ball:
    """A ball at the start of a clip.

    Attributes:
        position: (x, y) of the centre.
        velocity: (x, y) per second.
        detune: Factor on the material's pitch.
    """

    material: str
    radius: float
    restitution: float
    position: tuple[float, float]
    velocity: tuple[float, float]
    detune: float


@dataclass(frozen=True)
class Impact:
    """One hit: the ground truth of what should sound when.

    Attributes:
        time: Seconds from the start of the clip.
        ball: Index of the ball (the first of the two for `surface` "ball").
        surface: "floor", "left", "right", "ceiling" or "ball".
        speed: Closing speed along the normal, frame heights per second.
        audible: Whether it is fast enough to sound.
    """

    time: float
    ball: int
    surface: str
    speed: float
    audible: bool


@dataclass(frozen=True)
class Flight:
    """A piece of a path: one parabola, or a roll along the floor when `gravity` is 0.

    Attributes:
        start: Seconds from the start of the clip.
        position: (2,) at `start`.
        velocity: (2,) at `start`.
        gravity: Frame heights per second squared.
        thrown: Whether a ball that rested is thrown with it; no impact starts it, and it makes no sound.
    """

    start: float
    position: np.ndarray
    velocity: np.ndarray
    gravity: float
    thrown: bool = False

    @property
    def rests(self) -> bool:
        """Whether the ball has ceased to bounce: it lies on the floor, or rolls."""
        return self.gravity == 0

    def at(self, time: float | np.ndarray) -> np.ndarray:
        """Position at `time` (N,) -> (N, 2), or a scalar -> (2,)."""
        elapsed = np.asarray(time)[..., None] - self.start
        fall = np.array([0.0, 0.5 * self.gravity])
        return self.position + self.velocity * elapsed + fall * elapsed**2

    def velocity_at(self, time: float) -> np.ndarray:
        """Velocity (2,) at `time`."""
        return self.velocity + np.array([0.0, self.gravity * (time - self.start)])


def positions(path: list[Flight], times: np.ndarray) -> np.ndarray:
    """Centres (N, 2) of a ball at `times` (N,); the first flight reaches back before 0."""
    starts = np.array([flight.start for flight in path])
    pieces = np.maximum(np.searchsorted(starts, times, side="right") - 1, 0)
    return np.stack([path[piece].at(time) for piece, time in zip(pieces, times, strict=True)])


def draw_throw(
    radius: float, width: float, rng: np.random.Generator
) -> tuple[tuple[float, float], tuple[float, float]]:
    """A place (x, y) in the upper part of a box `width` wide, and a velocity (x, y), of a throw."""
    # Inside the walls, and high enough to fall.
    inset = WALL_THICKNESS + radius
    position = (rng.uniform(inset, width - inset), rng.uniform(inset, FLOOR_LEVEL - LEAST_DROP))
    speed, heading = rng.uniform(*START_SPEEDS), rng.uniform(0, 2 * pi)
    return position, (speed * cos(heading), speed * sin(heading))


def simulate(
    balls: list[Ball], width: float, duration: float, again: np.random.Generator | None = None
) -> tuple[list[list[Flight]], list[Impact]]:
    """Paths, and impacts in time order, of `balls` in a box `width` wide for `duration` seconds.

    Args:
        again: Draws when and how a ball that rests is thrown again; None: it is not.
    """
    paths = [
        [Flight(0.0, np.array(ball.position), np.array(ball.velocity), GRAVITY)] for ball in balls
    ]
    impacts: list[Impact] = []
    # When each ball is thrown again: never, until it rests.
    due = [inf] * len(balls)
    now = 0.0
    while True:
        # The next hit of a wall or throw, and the first touch of two balls before it.
        flights = [path[-1] for path in paths]
        hits = [
            (*_next_surface(flight, ball.radius, width, now), index)
            for index, (flight, ball) in enumerate(zip(flights, balls, strict=True))
        ]
        time, surface, struck = min(hits)
        throw = min(due)
        contact, pair = _next_contact(flights, balls, now, min(time, throw, duration))
        if min(time, throw, contact) >= duration:
            return paths, impacts
        # Whatever comes first ends one flight, or two, and starts others.
        if throw < min(time, contact):
            now, thrown = throw, due.index(throw)
            assert again is not None
            paths[thrown].append(_throw_again(flights[thrown], balls[thrown], width, now, again))
        elif contact < time:
            now = contact
            speed, outcomes = _collide(flights, balls, pair, now)
            impacts.append(Impact(now, pair[0], "ball", speed, speed > AUDIBLE_SPEED))
            for index, flight in outcomes.items():
                paths[index].append(flight)
        else:
            now = time
            speed, flight = _bounce(flights[struck], balls[struck], surface, now)
            impacts.append(Impact(now, struck, surface, speed, speed > AUDIBLE_SPEED))
            paths[struck].append(flight)
        # The pause of a ball begins when it comes to rest, and ends with what takes it off the floor.
        for index, path in enumerate(paths):
            if not path[-1].rests:
                due[index] = inf
            elif again is not None and due[index] == inf:
                due[index] = now + again.uniform(*PAUSES)


def _throw_again(
    flight: Flight, ball: Ball, width: float, now: float, rng: np.random.Generator
) -> Flight:
    """The flight of a ball thrown upwards from where it rests, with the energy of a throw that is drawn."""
    (_, y), (vx, vy) = draw_throw(ball.radius, width, rng)
    # As fast as a ball that leaves this floor has to be to pass the place that was drawn as it was drawn.
    rise = sqrt(vy**2 + 2 * GRAVITY * (FLOOR_LEVEL - ball.radius - y))
    return Flight(now, flight.at(now), np.array([vx, -rise]), GRAVITY, thrown=True)


def _next_surface(flight: Flight, radius: float, width: float, now: float) -> tuple[float, str]:
    """Time and name of the next floor, wall or ceiling hit at or after `now`."""
    # Seconds until each surface is reached; never, where the ball moves away from it.
    (x, y), (vx, vy) = flight.at(now).tolist(), flight.velocity_at(now).tolist()
    g = flight.gravity
    waits = {"floor": inf, "ceiling": inf, "left": inf, "right": inf}
    if vx < 0:
        waits["left"] = (x - WALL_THICKNESS - radius) / -vx
    elif vx > 0:
        waits["right"] = (width - WALL_THICKNESS - radius - x) / vx
    # y grows downwards: the floor is the later root of the fall, the ceiling the earlier one of the rise.
    if g:
        drop = FLOOR_LEVEL - radius - y
        waits["floor"] = (-vy + sqrt(max(vy**2 + 2 * g * drop, 0.0))) / g
        reach = vy**2 - 2 * g * (y - WALL_THICKNESS - radius)
        if vy < 0 and reach > 0:
            waits["ceiling"] = (-vy - sqrt(reach)) / g
    surface = min(waits, key=waits.__getitem__)
    return now + max(waits[surface], 0.0), surface


def _bounce(flight: Flight, ball: Ball, surface: str, now: float) -> tuple[float, Flight]:
    """Speed of a hit on a fixed surface, and the flight after it."""
    position, (vx, vy) = flight.at(now), flight.velocity_at(now).tolist()
    if surface in ("left", "right"):
        velocity = np.array([-WALL_RESTITUTION * vx, vy])
        return abs(vx), Flight(now, position, velocity, flight.gravity)
    if surface == "ceiling":
        return -vy, Flight(now, position, np.array([vx, -WALL_RESTITUTION * vy]), GRAVITY)
    # On the floor: onto its line exactly, or rounding would let the ball sink through.
    position[1] = FLOOR_LEVEL - ball.radius
    rebound = ball.restitution * vy
    if rebound < REST_SPEED:
        return vy, Flight(now, position, np.array([FLOOR_GRIP * vx, 0.0]), 0.0)
    return vy, Flight(now, position, np.array([FLOOR_GRIP * vx, -rebound]), GRAVITY)


def _next_contact(
    flights: list[Flight], balls: list[Ball], now: float, horizon: float
) -> tuple[float, tuple[int, int]]:
    """Time of the first touch of two balls in [now, horizon), or infinity."""
    first, touching = inf, (0, 0)
    times = np.append(np.arange(now, horizon, CONTACT_GRID), horizon)
    for i, j in combinations(range(len(balls)), 2):
        a, b, reach = flights[i], flights[j], balls[i].radius + balls[j].radius
        # The first look at which two balls overlap and still come closer.
        gaps = _gap(a, b, reach, times)
        closing = (gaps < 0) & (np.diff(gaps, prepend=_gap(a, b, reach, now - 1e-6)) < 0)
        if not closing.any():
            continue
        index = int(closing.argmax())
        # Between that look and the one before, the moment of touch by bisection.
        if index == 0:
            touch = now
        else:
            before, touch = times[index - 1], times[index]
            for _ in range(30):
                middle = (before + touch) / 2
                overlap = _gap(a, b, reach, middle) < 0
                before, touch = (before, middle) if overlap else (middle, touch)
        if touch < first:
            first, touching = float(touch), (i, j)
    return first, touching


def _gap(a: Flight, b: Flight, reach: float, time: float | np.ndarray) -> np.ndarray:
    """Distance between two balls' surfaces at `time` (N,) or a scalar; `reach` is the sum of their radii."""
    return np.linalg.norm(a.at(time) - b.at(time), axis=-1) - reach


def _collide(
    flights: list[Flight], balls: list[Ball], pair: tuple[int, int], now: float
) -> tuple[float, dict[int, Flight]]:
    """Closing speed of two smooth balls of equal density, and their flights after the hit."""
    (i, j), (a, b) = pair, (flights[pair[0]], flights[pair[1]])
    # Along the line of centres; what is across it stays, as the balls are smooth.
    positions_now = a.at(now), b.at(now)
    velocities = a.velocity_at(now), b.velocity_at(now)
    normal = positions_now[1] - positions_now[0]
    normal /= np.linalg.norm(normal)
    speed = float((velocities[0] - velocities[1]) @ normal)
    # Equal density: masses as cubes of radii, and the heavier ball changes less.
    kept = sqrt(balls[i].restitution * balls[j].restitution)
    change = speed + max(kept * speed, REST_SPEED)
    masses = balls[i].radius ** 3, balls[j].radius ** 3
    share = masses[1] / sum(masses)
    return speed, {
        i: Flight(now, positions_now[0], velocities[0] - normal * change * share, GRAVITY),
        j: Flight(now, positions_now[1], velocities[1] + normal * change * (1 - share), GRAVITY),
    }
