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

from mmldm.data.latents import CacheWriter, LatentCache, cached_batches

BATCH = 64
SLOTS = {"audio": 16, "video": 12}


def write(folder: Path, rows: int) -> None:
    """Writes a cache of random latents."""
    writer = CacheWriter(folder, "key")
    for source in torch.arange(rows).split(BATCH):
        entries = {"source": source, "label": torch.zeros_like(source)}
        entries["present"] = torch.ones(len(source), 2, dtype=torch.bool)
        for modality, slots in SLOTS.items():
            for name in ("mean", "logvar"):
                entries[f"{modality}_{name}"] = torch.randn(len(source), 16, slots, 1, 1)
        writer.add(entries)
    writer.close({})
    tell("written")


def read(folder: Path, rows: int) -> None:
    """Opens the cache and reads an epoch."""
    cache = LatentCache(folder)
    tell("opened")
    device = torch.device("cpu")
    batches = cached_batches(
        cache, batch_size=BATCH, seed=0, start_step=0, rank=0, world=1, device=device
    )
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
