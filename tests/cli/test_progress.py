"""Progress is a moving bar on a terminal and a plain line elsewhere."""

import io
import threading

import pytest
from rich.console import Console

from mmldm.cli import terminal
from mmldm.cli.terminal import ProgressLine
from mmldm.training.live import LiveConsole


def shown(terminal: bool, *calls: tuple[str, int, int]) -> str:
    file = io.StringIO()
    with ProgressLine(Console(file=file, force_terminal=terminal, width=100)) as line:
        for call in calls:
            line(*call)
    return file.getvalue()


def test_pipe_gets_one_plain_line_per_finished_work() -> None:
    calls = [("scan", i, 3) for i in range(1, 4)] + [("latents, train", 8, 8)]
    assert shown(False, *calls) == "scan 3/3\nlatents, train 8/8\n"


def test_terminal_gets_a_bar_that_ends_with_the_work() -> None:
    text = shown(True, ("scan", 1, 2), ("scan", 2, 2))
    assert "scan" in text
    assert "2/2" in text
    assert text.rstrip().endswith("\x1b[?25h"), "the cursor is back"


def test_terminal_is_given_back_when_the_work_fails_half_way() -> None:
    assert shown(True, ("scan", 1, 2)).rstrip().endswith("\x1b[?25h")


def test_what_was_there_before_took_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(terminal.live, "EVERY", 30.0)
    file = io.StringIO()
    line = ProgressLine(Console(file=file, force_terminal=False, width=100))
    line("clips", 600, 1200)
    now[0] += 100
    line("clips", 610, 1200)
    # Ten in 100 s: 590 more take 98 minutes, and not the 16 seconds of 610 in 100 s.
    assert file.getvalue() == "clips 610/1200, about 98 min left\n"


class Heard(io.StringIO):
    """A file that tells when a line of what takes its time has come."""

    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Event()

    def write(self, text: str) -> int:
        if "latents 1/9, " in text:
            self.came.set()
        return super().write(text)


def test_work_is_timed_from_its_own_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(terminal.live, "EVERY", 0.05)
    file = Heard()
    with ProgressLine(LiveConsole(file=file, width=100), aim="getting ready") as line:
        now[0] = 5000.0
        line("latents", 1, 9)
        now[0] = 5060.0
        assert file.came.wait(60)
    assert "latents 1/9, 60 s so far" in file.getvalue()
