"""The line of requests: bounded, one at a time, stopped at the next step, and never ended by a mistake."""

import threading

import pytest

from mmldm.app.jobs import Job, Line
from mmldm.app.sittings import Entry
from mmldm.errors import MediaError, UserError

ENTRY = Entry("made", "", (), ())
PATIENCE = 60


@pytest.fixture
def line():
    line = Line(2)
    yield line
    line.close()


class Blocker:
    """Work that takes steps until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, job: Job) -> Entry:
        self.begun.set()
        while not self.go_on.wait(0.001):
            job.progress("generator steps", 1, 8)
        return ENTRY


def at_once(job: Job) -> Entry:
    return ENTRY


def test_work_is_done_and_its_entry_kept(line: Line) -> None:
    job = line.submit("ann", at_once)
    assert job.wait(PATIENCE)
    assert job.entry is ENTRY and job.error is None


def test_a_visitor_has_one_request_at_a_time(line: Line) -> None:
    work = Blocker()
    job = line.submit("ann", work)
    with pytest.raises(UserError, match="last request is still at work"):
        line.submit("ann", at_once)
    work.go_on.set()
    assert job.wait(PATIENCE)


def test_the_line_is_bounded_and_says_so(line: Line) -> None:
    work = Blocker()
    line.submit("ann", work)
    assert work.begun.wait(PATIENCE)
    waiting = [line.submit(name, at_once) for name in ("bob", "cid")]
    with pytest.raises(UserError, match="2 requests are waiting"):
        line.submit("dan", at_once)
    assert [line.ahead(job) for job in waiting] == [1, 2]
    work.go_on.set()
    assert all(job.wait(PATIENCE) for job in waiting)


def test_stopping_ends_the_work_at_its_next_step(line: Line) -> None:
    work = Blocker()
    job = line.submit("ann", work)
    assert work.begun.wait(PATIENCE)
    assert line.stop("ann")
    assert job.wait(PATIENCE)
    assert job.stopped and job.entry is None and job.error is None
    assert not work.go_on.is_set()


def test_what_waits_is_stopped_without_being_begun(line: Line) -> None:
    first, second = Blocker(), Blocker()
    line.submit("ann", first)
    assert first.begun.wait(PATIENCE)
    job = line.submit("bob", second)
    line.stop("bob")
    assert job.wait(PATIENCE) and job.stopped and not second.begun.is_set()
    first.go_on.set()


def test_one_visitor_stops_only_his_own(line: Line) -> None:
    work = Blocker()
    job = line.submit("ann", work)
    assert not line.stop("bob")
    work.go_on.set()
    assert job.wait(PATIENCE) and job.entry is ENTRY


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("a seed is a number"), "a seed is a number"),
        (MediaError("corrupt", "x.mp4 is damaged"), "x.mp4 is damaged"),
        (MemoryError(), "fewer clips"),
        (RuntimeError("CUDA out of memory. Tried"), "fewer clips"),
        (RuntimeError("shapes differ"), "the program has made a mistake"),
        (KeyError("x"), "the program has made a mistake"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_what_fails_becomes_a_sentence_and_the_next_is_served(
    line: Line, error: Exception, words: str
) -> None:
    def fails(job: Job) -> Entry:
        raise error

    job = line.submit("ann", fails)
    assert job.wait(PATIENCE)
    assert words in (job.error or "") and "Traceback" not in (job.error or "")
    later = line.submit("ann", at_once)
    assert later.wait(PATIENCE) and later.entry is ENTRY


def test_progress_is_told_with_its_share() -> None:
    job = Job("ann", at_once)
    job.progress("generator steps", 2, 8)
    assert job.share == 0.25 and job.sentence() == "generator steps 2 of 8"
    job.say("reading a.mp4")
    assert job.share is None and job.sentence() == "reading a.mp4 ..."


def test_a_closed_line_takes_nothing_more() -> None:
    line = Line(2)
    line.close()
    with pytest.raises(UserError, match="being closed"):
        line.submit("ann", at_once)
