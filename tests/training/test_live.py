"""A console is never silent for long, and what it says is in a log."""

import io
import threading
from pathlib import Path

import pytest
from rich.console import Console

from mmldm.training import live
from mmldm.training.live import LiveConsole, doing, say, span
from mmldm.training.report import Report


class Heard(io.StringIO):
    """A file that tells when a wanted text has been written into it."""

    def __init__(self, wanted: str) -> None:
        super().__init__()
        self.wanted, self.came = wanted, threading.Event()

    def write(self, text: str) -> int:
        count = super().write(text)
        if self.wanted in self.getvalue():
            self.came.set()
        return count


def test_long_work_is_told_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EVERY", 0.05)
    file = Heard("validation, ")
    console = LiveConsole(file=file, width=200)
    with doing(console, "getting ready"), doing(console, "validation"):
        assert file.came.wait(60)
    assert "getting ready" not in file.getvalue(), "the innermost work is told"


def test_work_that_goes_on_after_a_part_of_it_is_timed_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    file = Heard("getting ready, ")
    console = LiveConsole(file=file, width=200)
    with doing(console, "getting ready"):
        with doing(console, "vae"):
            now[0] = 4000.0
        monkeypatch.setattr(live, "EVERY", 0.05)
        now[0] = 4060.0
        assert file.came.wait(60)
    assert "getting ready, 60 s so far" in file.getvalue()


def test_nothing_is_told_after_the_work_or_while_something_else_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "EVERY", 3600.0)
    file = io.StringIO()
    console = LiveConsole(file=file, width=200)
    before = set(threading.enumerate())
    with doing(console, "work"):
        [watcher] = set(threading.enumerate()) - before
    watcher.join(60)
    assert not watcher.is_alive()
    assert file.getvalue() == ""


def test_what_was_said_before_there_was_a_log_is_in_it(tmp_path: Path) -> None:
    console = LiveConsole(file=io.StringIO(), width=200)
    say(console, "scan 3/3 of a\x1b[2J.mp4")
    log = tmp_path / "train.log"
    console.record_in(log)
    say(console, "vae 1/10")
    first, second = log.read_text().splitlines()
    assert first.endswith(" scan 3/3 of a\\x1b[2J.mp4") and second.endswith(" vae 1/10")


def test_lines_wait_while_the_log_cannot_be_written(tmp_path: Path) -> None:
    console = LiveConsole(file=io.StringIO(), width=200)
    log = tmp_path / "train.log"
    log.mkdir()
    console.record_in(log)
    say(console, "one")
    log.rmdir()
    say(console, "two")
    assert [line[-3:] for line in log.read_text().splitlines()] == ["one", "two"]


def test_any_console_will_do() -> None:
    file = io.StringIO()
    console = Console(file=file, width=200)
    with doing(console, "work"):
        say(console, "[red]a line[/red]")
    assert file.getvalue() == "[red]a line[/red]\n"


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (99.6, "2 min"), (420, "7 min"), (7500, "2 h 05 min")]
)
def test_spans_of_time_are_read_easily(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_steps_are_told_by_the_clock_where_reports_are_rare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    monkeypatch.setattr(live, "EVERY", 0.0)
    report = Report(tmp_path, "vae", 100, True, Console(file=file, width=200))
    with report.begun(0):
        report.advance(1)
        report.advance(2)
        monkeypatch.setattr(live, "EVERY", float("inf"))
        report.advance(3)
    lines = [line for line in file.getvalue().splitlines() if line.startswith("vae ")]
    assert len(lines) == 1 and lines[0].startswith("vae 2/100") and "ends about" in lines[0]
    assert "training, step 0/100" in (tmp_path / "train.log").read_text()


def test_end_that_is_not_known_is_not_invented(tmp_path: Path) -> None:
    file = io.StringIO()
    report = Report(tmp_path, "vae", 0, True, Console(file=file, width=200))
    with report.begun(0):
        report.progress(3, {"model/loss": 1.0})
        report.expect(10)
        report.progress(5, {"model/loss": 1.0})
    lines = [line for line in file.getvalue().splitlines() if line.startswith("vae ")]
    assert lines[0].startswith("vae 3/?") and "end not known yet" in lines[0]
    assert lines[1].startswith("vae 5/10") and "ends about" in lines[1]
