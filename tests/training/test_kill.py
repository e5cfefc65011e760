"""Real processes, really killed: what is on disk afterwards resumes to the same bits."""

import os
import signal
import time
from pathlib import Path

import pytest

from mmldm.training.checkpoint import CheckpointFolder
from mmldm.training.report import read_metrics

from .killing import TINY, assert_same_run, finish, run_until_done_with_kills, start

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
    struck = run_until_done_with_kills(command(tmp_path, *LONG, "workers=1"), tmp_path, kills=4)
    assert len(struck) >= 3
    assert "write" in struck
    assert_same_run(unbroken, tmp_path)


@pytest.mark.smoke
@pytest.mark.timeout(900)
def test_many_kills_change_no_bit_in_bf16_with_accumulation(tmp_path: Path) -> None:
    settings = ("steps=200", *LONG[1:], "precision=bf16", "accumulate=2")
    code, output = finish(command(tmp_path / "whole", *settings))
    assert code == 0, output
    broken = tmp_path / "broken"
    struck = run_until_done_with_kills(command(broken, *settings), broken, kills=15, timeout=800)
    assert len(struck) == 15, struck
    assert_same_run(tmp_path / "whole", broken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_whole_group_saves_and_leaves_cleanly(
    unbroken: Path, tmp_path: Path, number: signal.Signals
) -> None:
    settings = (*LONG[:1], "save_every=0", *LONG[2:], "workers=1")
    process = start(command(tmp_path, *settings))
    while process.poll() is None and len(read_metrics(tmp_path / "metrics.jsonl")) < 3:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert f"stopped_by {number.name}" in output
    [step] = CheckpointFolder(tmp_path / "checkpoints", 2, print).steps()
    assert 3 <= step < 60
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
