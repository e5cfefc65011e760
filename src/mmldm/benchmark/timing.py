"""Calls timed in turns on one device: what disturbs the machine disturbs all of them alike.

calls -> rounds of seconds and peak bytes -> Timing
device -> its name; peak bytes; watts; measured FLOP/s per precision
a Python file of another program -> its step, a call among ours
"""

from __future__ import annotations

import importlib.util
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from mmldm.errors import UserError
from mmldm.pipelines.precision import Precision, allow_tf32, dtype_of
from mmldm.training.distributed import wait_for

Call = Callable[[], object]
ENERGY_SECONDS = 3.0
"""How long a call is repeated while the device's power is read: drivers average it over a second."""
MOST_CLIPS = 4096
"""Where the search for the largest batch ends, memory or not."""
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}
"""Side of the matrices whose product shows the peak; large enough to fill the device."""
PEAK_SECONDS = 1.0
"""Length of the trial, per precision."""
_STATUS = Path("/proc/self/status")


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
    # First calls choose algorithms and compile.
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    peaks: dict[str, list[int]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            # A device works on by itself: wait for it before either reading of the clock.
            wait_for(device)
            reset_peak_memory(device)
            start = time.perf_counter()
            call()
            wait_for(device)
            seconds[name].append(time.perf_counter() - start)
            peak = peak_memory(device)
            peaks[name] += [] if peak is None else [peak]
    return {name: Timing(tuple(seconds[name]), max(peaks[name], default=None)) for name in calls}


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
        fits: Whether a step with so many clips stays within memory.
    """
    clips = 1
    while clips <= MOST_CLIPS and fits(clips):
        clips *= 2
    return clips // 2


def largest(fits: Callable[[int], bool]) -> int:
    """The largest number that fits, found by doubling and then halving the gap; 0: not even 1 does."""
    low = largest_batch(fits)
    high = min(2 * low, MOST_CLIPS + 1) if low else 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def load_step(path: Path) -> Call:
    """Runs another program's file and its `setup()`, and returns its `step`, one call of a round.

    The file is the caller's own code: it runs with all rights of this process, which is its purpose.
    On a GPU, `step` need not wait for the device.

    Raises:
        UserError: There is no such file, or it has no `setup` or no `step`.
    """
    spec = importlib.util.spec_from_file_location("mmldm_benchmark_against", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"{path}: no Python file to benchmark against")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("setup", "step"):
        if not callable(getattr(module, name, None)):
            raise UserError(f"{path} has no function {name}(): it needs setup() and step()")
    # What it has to load, it loads here: no round pays for it.
    module.setup()
    return module.step


# ---------------------------------------------------------------------------------------- the device


def device_name(device: torch.device) -> str:
    """Model name of the processor or GPU, as its driver gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _linux("model name", Path("/proc/cpuinfo")) or platform.processor() or platform.machine()


def matmul_peak(device: torch.device, precision: Precision) -> float:
    """FLOP/s of the fastest of many products of two large matrices; after tf32 all products are."""
    if precision == "tf32":
        allow_tf32()
    side = MATRIX_SIZE.get(device.type, 2048)
    a, b = (torch.randn(side, side, device=device, dtype=dtype_of(precision)) for _ in range(2))
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < PEAK_SECONDS or best == float("inf"):
        wait_for(device)
        start = time.perf_counter()
        a @ b
        wait_for(device)
        best = min(best, time.perf_counter() - start)
    # Each of the side^2 results is a sum of `side` products.
    return 2 * side**3 / best


def reset_peak_memory(device: torch.device) -> None:
    """Starts a new peak, where the device keeps one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu" and _STATUS.is_file():
        # Linux forgets the highest resident size when 5 is written here.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory(device: torch.device) -> int | None:
    """Bytes since `reset_peak_memory`: a GPU's tensors, or the whole process on a CPU (Linux only)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kibibytes = _linux("VmHWM", _STATUS) if device.type == "cpu" else None
    return None if kibibytes is None else 1024 * int(kibibytes.split()[0])


def watts(device: torch.device) -> float | None:
    """Power drawn now; None where the device, or a missing NVML package, does not tell."""
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.power_draw(device) / 1000
    except (ModuleNotFoundError, RuntimeError):
        return None


def _linux(key: str, file: Path) -> str | None:
    """The value of the first line "key: value" of a file of the kernel; None: there is none here."""
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return None
