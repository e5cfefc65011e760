"""What the device is, what it holds and draws, and how fast it multiplies matrices.

device -> name; peak bytes; watts; measured FLOP/s per precision.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import torch

from mmldm.training.distributed import wait_for

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}
"""Side of the matrices whose product shows the peak; large enough to fill the device."""
PEAK_SECONDS = 1.0
"""Length of the trial, per precision."""
_STATUS = Path("/proc/self/status")


def device_name(device: torch.device) -> str:
    """Model name of the processor or GPU, as its driver gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def matmul_peak(device: torch.device, precision: str) -> float:
    """FLOP/s of the fastest of many products of two large matrices."""
    side = MATRIX_SIZE.get(device.type, 2048)
    a, b = (torch.randn(side, side, device=device, dtype=DTYPES[precision]) for _ in range(2))
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < PEAK_SECONDS or best == float("inf"):
        wait_for(device)
        start = time.perf_counter()
        a @ b
        wait_for(device)
        best = min(best, time.perf_counter() - start)
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
    if device.type == "cpu" and _STATUS.is_file():
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    return None


def watts(device: torch.device) -> float | None:
    """Power drawn now; None where the device, or a missing NVML package, does not tell."""
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.power_draw(device) / 1000
    except (ModuleNotFoundError, RuntimeError):
        return None
