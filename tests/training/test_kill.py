"""Real processes, really killed: what is on disk afterwards resumes to the same bits."""

import random
import signal
from pathlib import Path

import pytest

from mmldm.training.checkpoint import CheckpointFolder

from .killing import TINY, assert_same_run, finish, kill, run_until_done_with_kills, struck

pytestmark = pytest.mark.slow

LONG = ("steps=60", "save_every=2", "pause=0.01", "validate_every=20")


def command(folder: Path, *settings: str) -> tuple[str, ...]:
    return (*TINY, str(folder), *settings)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    code, output = finish(command(folder, *LONG))
    assert code == 0, output
    return folder


def test_run_killed_at_any_moment_resumes_to_the_same_bits(unbroken: Path, tmp_path: Path) -> None:
    strikes = [("write", 7), ("turn", 23), ("write", 4), ("turn", 10)]
    run_until_done_with_kills(command(tmp_path, *LONG, "workers=1"), tmp_path, strikes)
    assert_same_run(unbroken, tmp_path)


@pytest.mark.smoke
def test_many_kills_change_no_bit_in_bf16_with_accumulation(tmp_path: Path) -> None:
    settings = ("steps=200", *LONG[1:], "precision=bf16", "accumulate=2")
    code, output = finish(command(tmp_path / "whole", *settings))
    assert code == 0, output
    broken = tmp_path / "broken"
    draw = random.Random(0)
    strikes = [(("write", "turn")[i % 2], draw.randint(3, 20)) for i in range(15)]
    run_until_done_with_kills(command(broken, *settings), broken, strikes)
    assert_same_run(tmp_path / "whole", broken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_whole_group_saves_and_leaves_cleanly(
    unbroken: Path, tmp_path: Path, number: signal.Signals
) -> None:
    settings = (*LONG[:1], "save_every=0", *LONG[2:], "workers=1")
    # Steps 1 to 4 have one turn, the others two: the twelfth is between those of step 8.
    code, output = finish(struck(command(tmp_path, *settings), tmp_path, ("turn", 12), number))
    assert code == 0, output
    assert f"step 8 stopped_by {number.name}" in output
    assert CheckpointFolder(tmp_path / "checkpoints", 2, print).steps() == [8]
    assert not (tmp_path / "export").exists()
    assert finish(command(tmp_path, *settings))[0] == 0
    assert_same_run(unbroken, tmp_path)


def test_full_disk_keeps_the_last_checkpoint_and_fails_at_the_end(tmp_path: Path) -> None:
    settings = ("steps=9", "save_every=2", "validate_every=0", "preview_every=0")
    code, output = finish(command(tmp_path, *settings, "full_at=5"))
    assert code == 2, output
    assert "error:" in output
    assert "the last good one is step 4" in output
    assert "training goes on" in output
    checkpoints = CheckpointFolder(tmp_path / "checkpoints", 2, print)
    assert checkpoints.steps() == [2, 4]
    assert checkpoints.newest_whole() == 4
    assert finish(command(tmp_path, *settings))[0] == 0
    assert finish(command(tmp_path / "whole", *settings))[0] == 0
    assert_same_run(tmp_path / "whole", tmp_path)


BY_CLOCK = ("minutes=600", "pause=0.01")
"""Its steps end it, at a step that no clock moves; checkpoints by the clock do not come in this time."""


def test_job_with_minutes_killed_before_and_in_its_fall_resumes_to_the_same_bits(
    tmp_path: Path,
) -> None:
    """The fall begins at step 48 of 60; the checkpoint of its decision is struck, too."""
    settings = ("steps=60", *BY_CLOCK)
    code, output = finish(command(tmp_path / "whole", *settings))
    assert code == 0, output
    broken = tmp_path / "broken"
    strikes = [("turn", 23), ("write", 2), ("turn", 101), ("turn", 9)]
    run_until_done_with_kills(command(broken, *settings), broken, strikes)
    assert CheckpointFolder(broken / "checkpoints", 2, print).steps() == [48, 60]
    assert_same_run(tmp_path / "whole", broken)


def test_job_killed_while_it_goes_on_has_lost_nothing(tmp_path: Path) -> None:
    """From 60 to 80 steps: while the fall is taken back, right after, and in the new fall."""
    for name in ("whole", "broken"):
        assert finish(command(tmp_path / name, "steps=60", *BY_CLOCK))[0] == 0
    longer = ("steps=80", *BY_CLOCK)
    assert finish(command(tmp_path / "whole", *longer))[0] == 0
    broken = tmp_path / "broken"
    exported = (broken / "export" / "model.safetensors").read_bytes()
    kill(command(broken, *longer), broken, ("write", 2))
    assert CheckpointFolder(broken / "checkpoints", 2, print).steps() == [48, 60]
    kill(command(broken, *longer), broken, ("turn", 5))
    assert CheckpointFolder(broken / "checkpoints", 2, print).steps() == [48]
    kill(command(broken, *longer), broken, ("turn", 40))
    assert CheckpointFolder(broken / "checkpoints", 2, print).steps() == [48, 64]
    assert (broken / "export" / "model.safetensors").read_bytes() == exported
    assert finish(command(broken, *longer))[0] == 0
    assert_same_run(tmp_path / "whole", broken)
