"""The loop on a real, tiny stage: what is exact, skipped, refused, and written."""

import json
import math
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from mmldm.data.loader import order
from mmldm.errors import UserError
from mmldm.training.budget import Schedule
from mmldm.training.checkpoint import CheckpointFolder
from mmldm.training.loop import TrainResult, train
from mmldm.training.optim import learning_rate_factor
from mmldm.training.report import read_metrics
from mmldm.training.stopping import OUT_OF_TIME

from ..power import Disk
from .killing import assert_same_run
from .tiny_stage import TinyStage, tiny_config

pytestmark = pytest.mark.slow


def run(folder: Path, stage: dict[str, Any] | None = None, **settings: Any) -> TrainResult:
    config = tiny_config(**settings)
    return train(
        TinyStage(config, 0, **(stage or {})), config, folder, seed=0, console=Console(quiet=True)
    )


def stop_at(folder: Path, step: int, stage: dict[str, Any] | None = None, **settings: Any) -> None:
    """A run that ends after `step` as an interrupted one does: with the schedule of the whole."""

    class Interrupted(TinyStage):
        def active_turns(self, now: int) -> tuple[str, ...]:
            if now == step:
                raise KeyboardInterrupt
            return super().active_turns(now)

    config = tiny_config(**settings)
    with pytest.raises(KeyboardInterrupt):
        train(
            Interrupted(config, 0, **(stage or {})),
            config,
            folder,
            seed=0,
            console=Console(quiet=True),
        )


def losses(folder: Path) -> dict[int, float]:
    records = read_metrics(folder / "metrics.jsonl")
    return {r["step"]: r["model/loss"] for r in records if "model/loss" in r}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    run(folder)
    return folder


def test_loss_falls(tmp_path: Path) -> None:
    run(tmp_path, stage={"dropout": 0.0}, steps=150, save_every=0, validate_every=0, log_every=25)
    curve = losses(tmp_path)
    assert curve[150] < 0.95 * curve[25]


def test_run_leaves_checkpoints_metrics_previews_and_an_export(unbroken: Path) -> None:
    names = {path.name for path in unbroken.iterdir()}
    assert {"checkpoints", "metrics.jsonl", "previews", "export"} <= names
    assert CheckpointFolder(unbroken / "checkpoints", 2, print).steps() == [9, 12]
    assert sorted(path.name for path in (unbroken / "previews").iterdir()) == ["12.txt", "6.txt"]
    records = read_metrics(unbroken / "metrics.jsonl")
    assert [r["step"] for r in records if "validate/loss" in r] == [6, 12]
    assert [r["step"] for r in records if "model/loss" in r] == list(range(1, 13))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"workers": 2},
        {"precision": "bf16", "accumulate": 4},
        {"ema_decay": None, "log_every": 4, "save_every": 5},
        {"matrix_learning_rate": 0.02},
    ],
)
def test_interrupted_run_resumes_to_the_same_bits(tmp_path: Path, settings: dict[str, Any]) -> None:
    run(tmp_path / "whole", **settings)
    stop_at(tmp_path / "broken", 8, **settings)
    run(tmp_path / "broken", **settings)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_worker_count_may_change_without_changing_a_bit(unbroken: Path, tmp_path: Path) -> None:
    stop_at(tmp_path, 8, workers=1)
    run(tmp_path, workers=0)
    assert_same_run(unbroken, tmp_path)


def test_accumulating_gives_the_same_losses_to_rounding(tmp_path: Path) -> None:
    for accumulate in (1, 4):
        run(tmp_path / str(accumulate), stage={"dropout": 0.0}, accumulate=accumulate)
    whole, cut = losses(tmp_path / "1"), losses(tmp_path / "4")
    assert all(math.isclose(whole[step], cut[step], rel_tol=1e-5) for step in whole)


def test_log_interval_reports_the_mean_of_its_steps(unbroken: Path, tmp_path: Path) -> None:
    run(tmp_path, log_every=4)
    every, means = losses(unbroken), losses(tmp_path)
    for step, mean in means.items():
        expected = sum(every[s] for s in range(step - 3, step + 1)) / 4
        assert math.isclose(mean, expected, rel_tol=1e-6)


def test_finished_run_does_nothing_more(unbroken: Path) -> None:
    before = (unbroken / "metrics.jsonl").read_text()
    assert run(unbroken).stopped_by is None
    assert (unbroken / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("settings", "stage", "words"),
    [
        ({"learning_rate": 0.02}, {}, "train.learning_rate was 0.01 and is now 0.02"),
        ({"batch_size": 4}, {}, "train.batch_size was 8 and is now 4"),
        ({"steps": 10}, {}, "train.steps was 12 and is now 10"),
        ({}, {"length": 40}, "tiny.length was 37 and is now 40"),
    ],
)
def test_resuming_with_other_maths_is_refused_by_name(
    unbroken: Path, settings: dict[str, Any], stage: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        run(unbroken, stage, **settings)


def test_poisoned_step_leaves_weights_moments_and_step_count_alone(tmp_path: Path) -> None:
    run(tmp_path, stage={"poison": (5,)}, steps=6, save_every=1, ema_decay=None)
    checkpoints = CheckpointFolder(tmp_path / "checkpoints", 2, print)
    before, after = checkpoints.load(5), checkpoints.load(6)
    for file in ("model", "critic"):
        for name, tensor in before.tensors[file].items():
            assert torch.equal(tensor, after.tensors[file][name]), name
    for name, tensor in before.tensors["optimizer"].items():
        assert torch.equal(tensor, after.tensors["optimizer"][name]), name
    record = [r for r in read_metrics(tmp_path / "metrics.jsonl") if r["step"] == 6][0]
    assert record["model/loss"] is None
    assert record["skipped_updates"] == 1
    clips = ", ".join(f"number {index}" for index in order(0, 37, 8, 5))
    assert (
        "1 update(s) withheld before step 6: the loss or a gradient was not finite, "
        f"in step 6 with {clips}\n"
    ) in (tmp_path / "train.log").read_text()


def test_withheld_steps_between_two_reports_are_named_until_there_are_many(tmp_path: Path) -> None:
    run(tmp_path, stage={"poison": (1, 3, 4, 6, 8, 9)}, log_every=12)
    log = (tmp_path / "train.log").read_text()
    [sentence] = [line for line in log.splitlines() if "withheld" in line]
    assert "6 update(s) withheld before step 12" in sentence
    assert [int(n) for n in re.findall(r"in step (\d+) with", sentence)] == [2, 4, 5, 7]
    assert sentence.endswith("; and in 2 more")


def test_what_a_killed_run_withheld_and_did_not_tell_is_told_when_it_resumes(
    tmp_path: Path,
) -> None:
    settings, stage = {"log_every": 12}, {"poison": (1,)}
    stop_at(tmp_path, 5, stage, **settings)
    assert "withheld" not in (tmp_path / "train.log").read_text()
    run(tmp_path, stage, **settings)
    log = (tmp_path / "train.log").read_text()
    clips = ", ".join(f"number {index}" for index in order(0, 37, 8, 1))
    assert "resumed at step 3" in log
    assert "1 update(s) withheld before step 12" in log
    assert f"not finite, in step 2 with {clips}\n" in log
    run(tmp_path, stage, **settings)
    assert (tmp_path / "train.log").read_text().count("withheld") == 1


def test_stand_in_is_named_in_the_place_of_a_clip_that_cannot_be_read(tmp_path: Path) -> None:
    indices = order(0, 37, 8, 2)
    run(tmp_path, stage={"poison": (2,), "unreadable": (indices[3],)}, steps=3)
    log = (tmp_path / "train.log").read_text()
    named = log.partition("in step 3 with ")[2].partition("\n")[0].split(", ")
    assert len(set(indices) - {int(name.removeprefix("number ")) for name in named}) == 1
    assert f"number {indices[3]}" not in named
    assert log.count(f"cannot read number {indices[3]}: gone; another clip stands in") == 1


def test_failures_since_the_last_report_are_told_when_a_run_is_stopped(tmp_path: Path) -> None:
    first = order(0, 37, 8, 0)[0]
    config = tiny_config(log_every=12)

    class Stopped(TinyStage):
        def active_turns(self, step: int) -> tuple[str, ...]:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().active_turns(step)

    stage = Stopped(config, 0, unreadable=(first,))
    result = train(stage, config, tmp_path, seed=0, console=Console(quiet=True))
    assert (result.step, result.stopped_by) == (1, "SIGTERM")
    assert f"cannot read number {first}: gone" in (tmp_path / "train.log").read_text()


def test_training_recovers_after_a_poisoned_step(tmp_path: Path) -> None:
    run(tmp_path, stage={"poison": (3,)})
    assert all(math.isfinite(value) for step, value in losses(tmp_path).items() if step != 4)
    assert all(
        t.isfinite().all() for t in load_file(tmp_path / "export/model.safetensors").values()
    )


def test_ten_poisoned_steps_in_a_row_end_the_run_with_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"10 steps in a row.*Last checkpoint: step 15"):
        run(tmp_path, stage={"poison": tuple(range(6, 16))}, steps=30, log_every=16)
    state = CheckpointFolder(tmp_path / "checkpoints", 2, print).load(15)
    assert all(t.isfinite().all() for t in state.tensors["model"].values())
    assert run(tmp_path, steps=30, log_every=16).step == 30, "with mended data it goes on"


def test_validation_and_export_use_the_average_and_training_does_not(unbroken: Path) -> None:
    state = CheckpointFolder(unbroken / "checkpoints", 2, print).load(12)
    exported = load_file(unbroken / "export" / "model.safetensors")
    for name, tensor in exported.items():
        assert torch.equal(tensor, state.tensors["ema"][f"model.{name}"])
        assert not torch.equal(tensor, state.tensors["model"][name])


def test_validating_never_changes_training(unbroken: Path, tmp_path: Path) -> None:
    run(tmp_path, validate_every=1, preview_every=1)
    assert losses(tmp_path) == losses(unbroken)


def test_one_turn_never_moves_the_others_weights(tmp_path: Path) -> None:
    run(tmp_path, steps=4, save_every=1)
    checkpoints = CheckpointFolder(tmp_path / "checkpoints", 2, print)
    before, after = checkpoints.load(3), checkpoints.load(4)
    assert torch.equal(
        before.tensors["critic"]["net.weight"], after.tensors["critic"]["net.weight"]
    )
    assert not torch.equal(
        before.tensors["model"]["net.0.weight"], after.tensors["model"]["net.0.weight"]
    )


def test_time_limit_saves_exports_and_resumes_to_the_same_bits(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that a step moves on by a second."""
    seconds = [0.0]

    class Clocked(TinyStage):
        def active_turns(self, step: int) -> tuple[str, ...]:
            seconds[0] += 1
            return super().active_turns(step)

    def timed() -> TrainResult:
        config = tiny_config(max_minutes=4.5 / 60)
        return train(Clocked(config, 0), config, tmp_path, seed=0, console=Console(quiet=True))

    clock = SimpleNamespace(monotonic=lambda: seconds[0])
    monkeypatch.setattr("mmldm.training.stopping.time", clock)
    result = timed()
    assert (result.step, result.stopped_by) == (5, "max_minutes")
    assert result.export is not None
    again = timed()
    assert (again.step, again.stopped_by) == (5, "max_minutes")  # its time is used up
    run(tmp_path)
    assert_same_run(unbroken, tmp_path)


def test_batch_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size 8 is not a multiple of accumulate 3"):
        tiny_config(accumulate=3)


def test_learning_rate_warms_up_and_decays_linearly() -> None:
    config = tiny_config(steps=103, warmup_steps=3, final_learning_rate=0.1)
    schedule = Schedule.opening(config)
    factors = [learning_rate_factor(step, config, schedule) for step in range(103)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert math.isclose(factors[-1], 0.1)
    slopes = {round(b - a, 12) for a, b in zip(factors[3:], factors[4:], strict=False)}
    assert len(slopes) == 1


def test_metrics_are_valid_json_with_exact_losses(unbroken: Path) -> None:
    for line in (unbroken / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in the file"))
        for key, text in record.get("loss_hex", {}).items():
            assert float.fromhex(text) == record[key]


@pytest.mark.parametrize("torn", [b"", b"\0" * 64, b"[6, 0", b"\xff", b"{}"])
def test_torn_marker_of_time_blocks_no_resume(tmp_path: Path, torn: bytes) -> None:
    stop_at(tmp_path, 6)
    (tmp_path / OUT_OF_TIME).write_bytes(torn)
    assert run(tmp_path).step == 12
    said = (tmp_path / "train.log").read_text()
    assert said.count("out_of_time.json cannot be read") == (torn != b"{}")


def test_checkpoint_is_on_the_disk_with_the_metrics_that_lead_to_it(tmp_path: Path) -> None:
    told: list[list[str]] = []

    class Watched(TinyStage):
        def active_turns(self, now: int) -> tuple[str, ...]:
            if now in (3, 6, 9):  # right after a checkpoint
                told.append(disk.unsynced(tmp_path))
            return super().active_turns(now)

    config = tiny_config(preview_every=0)
    with Disk() as disk:
        train(Watched(config, 0), config, tmp_path, seed=0, console=Console(quiet=True))
        after = disk.unsynced(tmp_path)
    for names in (*told, after):
        kept = [n for n in names if not n.startswith("tensorboard") and n != "run.lock"]
        assert kept == []
    assert disk.renamed_before_sync == []
    assert len(told) == 3
