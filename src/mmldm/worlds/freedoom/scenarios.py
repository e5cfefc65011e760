"""Where the Freedoom world is played: one class of clips for each scenario of the `vizdoom` package.

Nothing here shoots at the player, so every bang in the footage is a shot of the player's.
"""

from __future__ import annotations

from typing import NamedTuple


class Scenario(NamedTuple):
    """How one scenario is played; angles in degrees.

    Attributes:
        skill: Of the game, 1 to 5: how much a bite hurts.
        unnoticed: Whether what is there takes no notice of the player, and so never shoots back.
        aims: Whether the player turns to what it sees.
        error: How far beside its target, or beside the scenario's direction, the player looks at most.
        has_direction: Whether the player looks east where it has no target; else it turns as it likes.
        turns: How far it turns in a tic at most.
        strides: Share of its full speed at which it walks ahead.
        sidesteps: The same of its steps aside.
    """

    skill: int
    unnoticed: bool
    aims: bool
    error: float
    has_direction: bool
    turns: float
    strides: float
    sidesteps: float


SCENARIOS: dict[str, Scenario] = {
    # A round hall; what comes nearer bites, and comes again from elsewhere when it was hit.
    "defend_the_center": Scenario(
        1,
        unnoticed=False,
        aims=True,
        error=9.0,
        has_direction=False,
        turns=5.0,
        strides=0.0,
        sidesteps=0.0,
    ),
    # A hall with one target at its far end; a hit ends the episode.
    "basic": Scenario(
        3,
        unnoticed=True,
        aims=False,
        error=20.0,
        has_direction=True,
        turns=2.0,
        strides=0.0,
        sidesteps=0.7,
    ),
    # A corridor with targets in niches, things to pick up, and armour at its end, which ends the episode.
    "deadly_corridor": Scenario(
        1,
        unnoticed=True,
        aims=True,
        error=6.0,
        has_direction=True,
        turns=4.0,
        strides=0.8,
        sidesteps=0.0,
    ),
}
