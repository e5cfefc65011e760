"""Time and memory of a latents cache of any size: python runs/measure_cache.py ROWS

Writes synthetic latents into a temporary folder, then reads one epoch in training order, each in a
process of its own. Source of the table in docs/performance.md.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from mmldm.data.blocks import BLOCK_WINDOWS
from mmldm.data.cache_writer import CacheWriter
from mmldm.data.latents import LatentCache, cached_batches

BATCH = 64
SLOTS = {"audio": 16, "video": 12}


def write(folder: Path, rows: int) -> None:
    """Writes a cache of random latents."""
    writer = CacheWriter(folder, {})
    writer.prepare()
    blocks = torch.arange(rows).split(BLOCK_WINDOWS)
    for number, block in enumerate(blocks):
        entries = {"label": torch.zeros_like(block)}
        entries["present"] = torch.ones(len(block), 2, dtype=torch.bool)
        for modality, slots in SLOTS.items():
            for name in ("mean", "logvar"):
                entries[f"{modality}_{name}"] = torch.randn(len(block), 16, slots, 1, 1).half()
        writer.write(number, entries)
    writer.close(writer.blocks(len(blocks)), {})
    tell("written")


def read(folder: Path, rows: int) -> None:
    """Opens the cache, comparing its checksums, and reads an epoch."""
    began = time.perf_counter(), time.process_time()
    cache = LatentCache(folder)
    tell("opened")
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    print(f"{size:.0f} MB compared in {wall:.2f} s, {cpu:.2f} s CPU: {size / cpu:.0f} MB/s")
    batches = cached_batches(cache, batch_size=BATCH, seed=0, start_step=0, rank=0, world=1)
    for _ in range(rows // BATCH):
        next(batches)
    tell("one epoch")


def tell(what: str) -> None:
    """CPU seconds and memory so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    megabytes = {n: int(fields[n].split()[0]) // 1024 for n in ("VmHWM", "RssAnon", "RssFile")}
    print(f"{what}: {time.process_time():.2f} s CPU, {megabytes} MB", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 4:
        {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            for part in ("write", "read"):
                command = [sys.executable, __file__, part, f"{scratch}/cache", sys.argv[1]]
                subprocess.run(command, check=True)
