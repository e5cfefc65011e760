"""Workers may hang, die or fail; each costs one call, and none is left behind."""

from __future__ import annotations

import os
import posixpath
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmldm.media.isolated import run_isolated
from mmldm.media.probe import probe_apart

HOUR = 3600.0
"""A limit that no call here comes near, on however slow a machine."""


def children() -> set[str]:
    mine = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            mine.add(status.parent.name)
    return mine


def test_every_call_has_one_outcome_with_its_own_value() -> None:
    calls = [(f"folder/{n}",) for n in range(20)]
    outcomes = list(run_isolated(posixpath.basename, calls, workers=3, seconds=HOUR))
    assert {outcome.index: outcome.value for outcome in outcomes} == {n: str(n) for n in range(20)}


def test_a_hanging_call_times_out_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limit alone passes quickly: a slow machine must not make the others late, too."""
    limits: list[float] = []

    class Alarm(threading.Timer):
        def __init__(self, seconds: float, ring: Callable[[], None]) -> None:
            limits.append(seconds)
            super().__init__(0.1 if len(limits) == 2 else HOUR, ring)

    monkeypatch.setattr("mmldm.media.isolated.threading.Timer", Alarm)
    outcomes = list(run_isolated(time.sleep, [(0,), (HOUR,), (0,), (0,)], workers=1, seconds=7))
    assert {o.index: o.reason for o in outcomes} == {0: None, 1: "timeout", 2: None, 3: None}
    assert outcomes[1].message == "no answer within 7 s"
    assert limits == [7, 7, 7, 7]


def test_a_call_that_exits_is_a_crash_of_that_call_only() -> None:
    outcomes = list(run_isolated(os._exit, [(3,), (0,)], workers=1, seconds=HOUR))
    assert [o.reason for o in outcomes] == ["crashed", "crashed"]
    assert "exit code 3" in outcomes[0].message


def test_a_killed_worker_is_replaced() -> None:
    calls = [(int(signal.SIGKILL),), (int(signal.SIGSEGV),), (int(signal.SIGCHLD),)]
    outcomes = list(run_isolated(signal.raise_signal, calls, workers=1, seconds=HOUR))
    assert [o.reason for o in outcomes] == ["crashed", "crashed", None]


def test_a_media_error_keeps_its_reason() -> None:
    (outcome,) = run_isolated(probe_apart, [("nowhere.mp4", {})], workers=1, seconds=HOUR)
    assert outcome.reason == "unreadable"
    assert "nowhere.mp4" in outcome.message


def test_any_other_exception_is_a_crash_with_its_text() -> None:
    (outcome,) = run_isolated(posixpath.basename, [(5,)], workers=1, seconds=HOUR)
    assert outcome.reason == "crashed"
    assert "TypeError" in outcome.message


def test_what_a_function_prints_is_not_taken_for_its_answer() -> None:
    (outcome,) = run_isolated(print, [("noise",)], workers=1, seconds=HOUR)
    assert (outcome.reason, outcome.value) == (None, None)


def test_no_worker_outlives_the_iterator_even_if_left_early() -> None:
    before = children()
    outcomes = run_isolated(time.sleep, [(0,), (HOUR,), (HOUR,)], workers=2, seconds=HOUR)
    next(outcomes)
    outcomes.close()
    assert children() <= before
