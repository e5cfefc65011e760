"""What a run tells survives crashes, resumes and full disks."""

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from mmldm.training.report import Report, read_metrics


def report(
    folder: Path, start: int = 0, active: bool = True, to: io.StringIO | None = None
) -> Report:
    folder.mkdir(exist_ok=True)
    console = Console(file=to or io.StringIO(), width=200)
    return Report(folder, "vae", 100, start, active, console)


def test_metrics_are_read_back_exactly(tmp_path: Path) -> None:
    with report(tmp_path) as first:
        first.metrics(1, {"model/loss": 0.1 + 0.2, "data/failed": 3})
    [record] = read_metrics(tmp_path / "metrics.jsonl")
    assert record["model/loss"] == 0.1 + 0.2
    assert float.fromhex(record["loss_hex"]["model/loss"]) == 0.1 + 0.2
    assert record["data/failed"] == 3


def test_value_that_is_not_finite_is_null_in_valid_json(tmp_path: Path) -> None:
    with report(tmp_path) as first:
        first.metrics(1, {"model/loss": math.nan, "model/kl": math.inf})
    [record] = read_metrics(tmp_path / "metrics.jsonl")
    assert record["model/loss"] is None
    assert record["model/kl"] is None
    assert record["loss_hex"] == {"model/loss": "nan"}


def test_resuming_drops_what_came_after_the_checkpoint_and_a_torn_line(tmp_path: Path) -> None:
    with report(tmp_path) as first:
        for step in range(1, 8):
            first.metrics(step, {"model/loss": step})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 8, "mod')
    with report(tmp_path, start=5) as second:
        second.metrics(6, {"model/loss": 60})
    assert [r["model/loss"] for r in read_metrics(path)] == [1, 2, 3, 4, 5, 60]


def test_lines_wait_while_the_file_cannot_be_written(tmp_path: Path) -> None:
    shown = io.StringIO()
    path = tmp_path / "metrics.jsonl"
    with report(tmp_path, to=shown) as first:
        first.metrics(1, {"model/loss": 1})
        kept = path.rename(tmp_path / "kept")
        path.mkdir()
        first.metrics(2, {"model/loss": 2})
        first.metrics(3, {"model/loss": 3})
        path.rmdir()
        kept.rename(path)
        first.metrics(4, {"model/loss": 4})
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 3, 4]
    assert shown.getvalue().count("cannot write metrics.jsonl") == 1


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with report(tmp_path, active=False) as other:
        other.metrics(1, {"model/loss": 1})
        other.progress(1, {"model/loss": 1})
        other.note("unheard")
    assert list(tmp_path.iterdir()) == []


def test_progress_shows_step_losses_and_time_left(tmp_path: Path) -> None:
    shown = io.StringIO()
    with report(tmp_path, to=shown) as first:
        first.progress(25, {"model/loss": 0.123456, "critic/loss": 2})
    assert "vae 25/100" in shown.getvalue()
    assert "model 0.1235 critic 2" in shown.getvalue()
    assert "left" in shown.getvalue()


def test_note_with_brackets_is_shown_as_written(tmp_path: Path) -> None:
    shown = io.StringIO()
    with report(tmp_path, to=shown) as first:
        first.note("cannot read [red]clip[/red].mp4", once=True)
        first.note("cannot read [red]clip[/red].mp4", once=True)
    assert shown.getvalue().count("cannot read [red]clip[/red].mp4") == 1
    assert (tmp_path / "train.log").read_text().endswith("cannot read [red]clip[/red].mp4\n")


def test_scalars_reach_tensorboard(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    with report(tmp_path) as first:
        first.metrics(7, {"model/loss": 0.5})
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    [event] = events.Scalars("vae/model/loss")
    assert (event.step, event.value) == (7, 0.5)


def test_every_line_is_one_json_object(tmp_path: Path) -> None:
    with report(tmp_path) as first:
        for step in (1, 2):
            first.metrics(step, {"model/loss": step})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
