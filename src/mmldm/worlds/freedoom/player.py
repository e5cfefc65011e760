"""The scripted player of the Freedoom world: turns to what it sees, walks, and shoots at random times.

Moment, seeded generator -> Move
"""

from __future__ import annotations

import numpy as np

from mmldm.worlds.freedoom.game import TICS, Moment, Move, Seen
from mmldm.worlds.freedoom.scenarios import Scenario

BETWEEN_SHOTS = 0.5, 1.6
"""Least and most seconds between two pulls of the trigger, drawn evenly."""
OF_A_WHIM = 0.6, 2.0
"""The same of a way to turn or to step, where nothing draws the player."""
LEAST_HEIGHT = 1 / 20
"""Height in picture heights from which a monster is turned to."""
EAGERNESS = 0.15
"""Share of the angle to a target that the player wants to turn in a tic."""
INERTIA = 0.7
"""Share of the last tic's turn that is kept."""
NEAR = 0.5
"""Height from which a target is not walked up to any more."""


class Player:
    """Plays one clip.

    Args:
        scenario: What it may do there.
        random: Where all its whims come from.
    """

    def __init__(self, scenario: Scenario, random: np.random.Generator) -> None:
        self._scenario, self._random = scenario, random
        self._until_shot = self._tics(BETWEEN_SHOTS)
        self._until_whim = 0
        self._turn = self._whim = self._step = 0.0

    def act(self, moment: Moment) -> Move:
        """The move that follows on what is seen."""
        # Whims, drawn in the same order whatever is seen.
        if self._until_whim <= 0:
            self._until_whim = self._tics(OF_A_WHIM)
            self._whim, self._step = self._random.uniform(-1, 1, 2).tolist()
        self._until_whim -= 1
        self._until_shot -= 1
        trigger = self._until_shot <= 0
        if trigger:
            self._until_shot = self._tics(BETWEEN_SHOTS)

        # Turning: to a target, or along the scenario's direction, and a little beside it; or as it likes.
        scenario = self._scenario
        target = self._target(moment.seen) if scenario.aims else None
        beside = self._whim * scenario.error
        if target is not None:
            wanted = EAGERNESS * (target.bearing + beside * _is_monster(target))
        elif scenario.has_direction:
            # Angles are to the left, and east is at 0.
            wanted = EAGERNESS * ((moment.counters["angle"] + 180) % 360 - 180 + beside)
        else:
            wanted = self._whim * scenario.turns
        wanted = min(max(wanted, -scenario.turns), scenario.turns)
        self._turn = INERTIA * self._turn + (1 - INERTIA) * wanted

        # Walking: ahead unless a target is near; aside as it likes.
        near = target is not None and _is_monster(target) and target.height > NEAR
        ahead = 0.0 if near else scenario.strides
        aside = scenario.sidesteps * self._step
        return Move(trigger, self._turn, ahead, aside)

    def _tics(self, seconds: tuple[float, float]) -> int:
        return round(TICS * self._random.uniform(*seconds))

    def _target(self, seen: list[Seen]) -> Seen | None:
        """What stands nearest to where the player looks: a monster, or else armour to walk up to.

        What monsters leave lies out of reach, in their niches.
        """
        monsters = [one for one in seen if _is_monster(one) and one.height >= LEAST_HEIGHT]
        armour = [one for one in seen if one.category == "Armor"]
        return min(monsters or armour, key=_aside, default=None)


def _is_monster(seen: Seen) -> bool:
    return seen.category == "Monster"


def _aside(seen: Seen) -> float:
    return abs(seen.bearing)
