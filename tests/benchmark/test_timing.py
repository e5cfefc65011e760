"""Rounds, spread, ratios, energy and the batch search on calls of known cost; another program's step."""

import mmap
import time
from pathlib import Path

import pytest
import torch

from mmldm.benchmark.timing import (
    MOST_CLIPS,
    Timing,
    energy,
    interleaved,
    largest,
    largest_batch,
    load_step,
    matmul_peak,
    peak_memory,
    reset_peak_memory,
)
from mmldm.errors import UserError

CPU = torch.device("cpu")


def test_calls_take_turns_after_one_untimed_round() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = interleaved(calls, repeats=3, device=CPU)
    assert order == ["a", "b"] * 4
    assert [len(timing.rounds) for timing in timings.values()] == [3, 3]


def test_work_within_a_call_is_what_is_timed() -> None:
    timing = interleaved({"nap": lambda: time.sleep(0.02)}, repeats=2, device=CPU)["nap"]
    assert min(timing.rounds) >= 0.02


def test_median_and_spread() -> None:
    timing = Timing((3.0, 1.0, 10.0), None)
    assert timing.median == 3.0
    assert timing.spread == (1.0, 10.0)


def test_ratio_compares_rounds_with_their_neighbours() -> None:
    """A slow spell that lasts a whole round leaves the ratio alone."""
    ours, theirs = Timing((1.0, 50.0, 1.0), None), Timing((2.0, 100.0, 2.0), None)
    assert ours.ratio(theirs) == 2.0
    assert theirs.ratio(ours) == 0.5


def test_energy_is_power_times_median_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmldm.benchmark.timing.ENERGY_SECONDS", 0.01)
    timing = Timing((2.0, 3.0, 4.0), None)
    assert energy(lambda: None, timing, lambda: 50.0) == pytest.approx(150.0)


def test_no_energy_where_the_device_does_not_tell() -> None:
    assert energy(lambda: None, Timing((1.0,), None), lambda: None) is None


@pytest.mark.parametrize(("most", "found"), [(0, 0), (1, 1), (5, 4), (64, 64), (10**9, MOST_CLIPS)])
def test_largest_batch_is_the_largest_power_of_two_that_fits(most: int, found: int) -> None:
    tried: list[int] = []

    def fits(clips: int) -> bool:
        tried.append(clips)
        return clips <= most

    assert largest_batch(fits) == found
    assert max(tried) <= max(1, 2 * found)


def take_memory(mebibytes: int) -> None:
    """Fresh pages of the system: an allocator may have as many in store."""
    with mmap.mmap(-1, mebibytes * 2**20) as memory:
        memory[:: mmap.PAGESIZE] = bytes(len(memory) // mmap.PAGESIZE)


def test_peak_memory_is_of_the_call_alone() -> None:
    calls = {"large": lambda: take_memory(256), "small": lambda: take_memory(1)}
    timings = interleaved(calls, 1, device=CPU)
    large, small = timings["large"].peak_bytes, timings["small"].peak_bytes
    if large is None or small is None:
        pytest.skip("this system keeps no peak of resident memory")
    assert large - small == pytest.approx(255 * 2**20, rel=0.2)


def test_peak_memory_starts_anew() -> None:
    take_memory(256)
    before = peak_memory(CPU)
    if before is None:
        pytest.skip("this system keeps no peak of resident memory")
    reset_peak_memory(CPU)
    after = peak_memory(CPU)
    assert after is not None and before - after > 2**27


def test_matmul_peak_is_that_of_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmldm.benchmark.timing.PEAK_SECONDS", 0.0)
    monkeypatch.setattr("mmldm.benchmark.timing.MATRIX_SIZE", {"cpu": 64})
    for precision in ("fp32", "bf16"):
        assert 0 < matmul_peak(CPU, precision) < 1e16


def test_setup_runs_once_and_step_is_returned(tmp_path: Path) -> None:
    script = tmp_path / "peer.py"
    script.write_text(
        "log = []\ndef setup():\n    log.append(0)\ndef step():\n    return len(log)\n"
    )
    step = load_step(script)
    assert [step(), step()] == [1, 1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def setup(): pass", r"no function step\(\)"),
        ("def step(): pass", r"no function setup\(\)"),
        ("setup, step = 1, print", r"no function setup\(\)"),
    ],
)
def test_file_without_the_contract_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    script = tmp_path / "peer.py"
    script.write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_step(script)


@pytest.mark.parametrize("name", ["nowhere.py", "."])
def test_missing_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Python file"):
        load_step(tmp_path / name)


@pytest.mark.parametrize("most", [0, 1, 2, 9, 12, 33, 64])
def test_largest_batch_is_found_to_one_clip(most: int) -> None:
    asked: list[int] = []

    def fits(clips: int) -> bool:
        asked.append(clips)
        return clips <= most

    assert largest(fits) == most
    assert len(asked) <= 14
