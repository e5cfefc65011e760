"""Calls timed in turns on one device, so that what disturbs the machine disturbs all of them alike.

calls -> rounds of seconds and peak bytes -> Timing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from mmldm.benchmark.machine import peak_memory, reset_peak_memory
from mmldm.training.distributed import wait_for

Call = Callable[[], object]
ENERGY_SECONDS = 3.0
"""How long a call is repeated while the device's power is read: drivers average it over a second."""
MOST_ROWS = 4096
"""Where the search for the largest batch ends, memory or not."""


@dataclass(frozen=True)
class Timing:
    """One call's rounds.

    Attributes:
        rounds: Seconds of each.
        peak_bytes: Most memory held in any of them; None where the device does not tell.
    """

    rounds: tuple[float, ...]
    peak_bytes: int | None

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> tuple[float, float]:
        """Fastest and slowest round, in seconds."""
        return min(self.rounds), max(self.rounds)

    def ratio(self, other: Timing) -> float:
        """Median over rounds of how many times longer the other call took in the same round."""
        return statistics.median(b / a for a, b in zip(self.rounds, other.rounds, strict=True))


def interleaved(calls: Mapping[str, Call], repeats: int, device: torch.device) -> dict[str, Timing]:
    """Times calls one after the other, `repeats` rounds of all of them, after one round untimed."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    peaks: dict[str, list[int | None]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            wait_for(device)
            reset_peak_memory(device)
            start = time.perf_counter()
            call()
            wait_for(device)
            seconds[name].append(time.perf_counter() - start)
            peaks[name].append(peak_memory(device))
    return {
        name: Timing(
            tuple(seconds[name]), max((p for p in peaks[name] if p is not None), default=None)
        )
        for name in calls
    }


def energy(call: Call, timing: Timing, watts: Callable[[], float | None]) -> float | None:
    """Joules of one call: the power while it is repeated, times its median time.

    Args:
        watts: The device's power now, averaged by its driver over up to a second; None: not told.
    """
    if watts() is None:
        return None
    readings: list[float] = []
    start = time.perf_counter()
    while not readings or time.perf_counter() - start < ENERGY_SECONDS:
        call()
        reading = watts()
        # The first second's average holds what the device did before.
        if reading is not None and time.perf_counter() - start > ENERGY_SECONDS / 2:
            readings.append(reading)
    return statistics.mean(readings) * timing.median


def largest_batch(fits: Callable[[int], bool]) -> int:
    """The largest power of two that fits, found by doubling; 0: not even 1 does.

    Args:
        fits: Whether a step with so many rows stays within memory.
    """
    rows = 1
    while rows <= MOST_ROWS and fits(rows):
        rows *= 2
    return rows // 2
