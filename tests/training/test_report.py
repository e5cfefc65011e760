"""What a run tells survives crashes, resumes and full disks."""

import io
import json
import math
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from rich.console import Console

from mmldm.training.report import Report, read_metrics
from mmldm.training.report_page import write_report_page

from ..power import Disk


def report(
    folder: Path, start: int = 0, active: bool = True, to: io.StringIO | None = None
) -> AbstractContextManager[Report]:
    folder.mkdir(exist_ok=True)
    console = Console(file=to or io.StringIO(), width=200)
    return Report(folder, "vae", 100, active, console).begun(start)


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


DAMAGED = [
    b"",
    b"\0" * 512,
    b"\0\0\0" + b'{"step": 2, "model/loss": 9}',
    b"\xff\xfe",
    b"null",
    b"[1, 2]",
    b'{"model/loss": 3}',
    b'{"step": "2"}',
    b'{"step": true}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("line", DAMAGED)
def test_damaged_line_never_stops_a_run_and_is_kept_aside(tmp_path: Path, line: bytes) -> None:
    with report(tmp_path) as first:
        for step in (1, 2, 3):
            first.metrics(step, {"model/loss": step})
    path = tmp_path / "metrics.jsonl"
    one, two, three, _ = path.read_bytes().split(b"\n")
    damaged = b"\n".join([one, line, two, three, b""])
    path.write_bytes(damaged)
    assert [record["model/loss"] for record in read_metrics(path)] == [1, 2, 3]
    for number in range(2):
        shown = io.StringIO()
        with report(tmp_path, start=2, to=shown):
            pass
        sentence = "1 line(s) of metrics.jsonl cannot be read and are left out"
        assert shown.getvalue().count(sentence) == (number == 0)
        assert [record["model/loss"] for record in read_metrics(path)] == [1, 2]
    assert (tmp_path / "damaged_metrics.jsonl").read_bytes() == damaged


def test_earlier_damaged_metrics_are_not_written_over(tmp_path: Path) -> None:
    for text in ("first\n", "second\n", "third\n"):
        (tmp_path / "metrics.jsonl").write_text(text)
        with report(tmp_path, start=2):
            pass
    kept = sorted(tmp_path.glob("damaged_*"))
    assert {path.read_text() for path in kept} == {"first\n", "second\n", "third\n"}


@pytest.mark.parametrize("name", ["metrics.jsonl", "train.log", "tensorboard", "unknown"])
@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_nothing_in_the_folder_stops_a_run(tmp_path: Path, name: str, kind: str) -> None:
    if kind == "folder":
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("mine")
    elif kind == "file":
        (tmp_path / name).write_bytes(b"\0\xff")
    shown = io.StringIO()
    with report(tmp_path, start=1, to=shown) as first:
        first.metrics(2, {"model/loss": 2})
        first.note("heard")
        first.sync()
    assert "vae: heard" in shown.getvalue()
    if kind == "folder":
        assert (tmp_path / name / "thesis.txt").read_text() == "mine"
        assert name not in ("metrics.jsonl", "train.log") or f"{name} (" in shown.getvalue()
    if (name, kind) != ("metrics.jsonl", "folder"):
        assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [2]


def test_what_was_told_is_on_the_disk_after_a_sync(tmp_path: Path) -> None:
    with Disk() as disk, report(tmp_path) as first:
        first.metrics(1, {"model/loss": 1})
        first.note("heard")
        assert {"metrics.jsonl", "train.log"} <= set(disk.unsynced(tmp_path))
        first.sync()
        assert not {"metrics.jsonl", "train.log"} & set(disk.unsynced(tmp_path))


def test_page_is_written_whatever_lies_in_the_run_folder(tmp_path: Path) -> None:
    for job in ("vae", "generator", "a<b"):
        (tmp_path / job / "previews").mkdir(parents=True)
        (tmp_path / job / "metrics.jsonl").write_bytes(
            b'{"step": 1, "model/loss": 1.5}\n\0\0\n{"step": 2, "model/loss": "x"}\n'
            b'{"step": 3, "model/loss": NaN, "validate/loss": [1]}\n{"step": 4, "model/loss": 0.5}\n'
        )
    (tmp_path / "autoencoder" / "metrics.jsonl").mkdir(parents=True)
    for name in ("._1.png", "1.png", "Thumbs.db"):
        (tmp_path / "vae" / "previews" / name).write_bytes(b"")
    page = write_report_page(tmp_path).read_text()
    assert page.count("1.5 at step 1, 0.5 at 4") == 3
    assert page.count("<img") == 1
    assert "no metrics: " in page
    assert "<h2>a&lt;b</h2>" in page


def test_names_on_the_page_and_in_the_log_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    root = tmp_path / "my <run>"
    job = root / "a\x1b[2J<b>"
    (job / "previews").mkdir(parents=True)
    (job / "metrics.jsonl").write_text('{"step": 1, "model/loss": 1.5}\n')
    (job / "previews" / "50% #1?'x'.png").touch()
    page = write_report_page(root).read_text()
    assert "<h1>my &lt;run&gt;</h1>" in page and "<h2>a\\x1b[2J&lt;b&gt;</h2>" in page
    assert "src='a%1B%5B2J%3Cb%3E/previews/50%25%20%231%3F%27x%27.png'" in page
    console = io.StringIO()
    with report(tmp_path / "log", to=console) as voice:
        voice.note("cannot read a\x1b[2J\nb.mp4")
    log = (tmp_path / "log" / "train.log").read_text()
    assert "a\\x1b[2J\\nb.mp4" in log and "a\\x1b[2J\\nb.mp4" in console.getvalue()
