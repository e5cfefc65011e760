"""Films are followed by what their world knows, and by nothing of another."""

import pytest

from mmldm.evaluation.long import World
from mmldm.evaluation.protocol import find_protocol
from mmldm.evaluation.sets import ClipSet
from mmldm.worlds.films import world_of
from mmldm.worlds.freedoom.clips import CONFIG_FILE as FREEDOOM
from mmldm.worlds.impacts.clips import CONFIG_FILE as IMPACTS


@pytest.mark.parametrize(
    ("file", "names", "joins", "onsets_of"),
    [
        (IMPACTS, {"sync-recall-50", "impacts-per-second"}, {"kicks"}, "impacts"),
        (
            FREEDOOM,
            {"shots-recall", "shots-precision", "monster-frames", "turning"},
            set(),
            "events",
        ),
        (None, set(), set(), "events"),
    ],
)
def test_a_world_brings_its_own_numbers(tmp_path, file, names, joins, onsets_of):
    if file is not None:
        (tmp_path / file).write_text("{}")
    world = world_of(ClipSet("real", str(tmp_path), ()), find_protocol("default"))
    found = {watched.number.name for watched in world.numbers}
    assert names <= found and bool(found) == bool(names)
    assert world.of_joins.keys() == joins and world.onsets_of == onsets_of
    # Whatever is read can be built.
    general = {"events", "classes"}
    needed = {watched.measure for watched in world.numbers} | joins | {world.onsets_of}
    assert needed - general <= world.builders.keys()
    assert file is not None or world == World()
