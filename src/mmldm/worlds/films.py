"""Which world's films are evaluated, and what it knows of them.

real clips -> World: numbers to follow, instruments, what is seen at joins; nothing for clips of anything
"""

from __future__ import annotations

from mmldm.evaluation.long import World
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.sets import ClipSet
from mmldm.worlds.freedoom import metrics as freedoom
from mmldm.worlds.freedoom.watched import watched as watched_shots
from mmldm.worlds.impacts import metrics as impacts
from mmldm.worlds.impacts.watched import kicks_of
from mmldm.worlds.impacts.watched import watched as watched_impacts


def world_of(real: ClipSet, protocol: Protocol) -> World:
    """What is known of films like these clips."""
    if impacts.is_synthesized(real):
        builders = {**impacts.BUILDERS, "kicks": kicks_of}
        return World(watched_impacts(protocol), builders, {"kicks": "video"}, "impacts")
    if freedoom.is_freedoom(real):
        return World(watched_shots(), freedoom.BUILDERS)
    return World()
