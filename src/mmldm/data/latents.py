"""Cached tensors in safetensors shards: written once, resumable, read in any order in constant memory.

posterior means and log-variances, one row per window -> a folder of shards with a JSON index.
Both caches of the system use it: image latents (for the autoencoder job) and latents (for the generator job).
A shard is written aside and renamed; the index is written last, so a cache without an index is unfinished and
only its whole shards are kept. The index carries a key made of everything the numbers depend on.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmldm.data.loader import order
from mmldm.data.manifest import Manifest, Row
from mmldm.errors import UserError

FORMAT = 1
DTYPES = {"F16": torch.float16, "F32": torch.float32, "I64": torch.int64, "BOOL": torch.bool}


def cache_key(**parts: Any) -> str:
    """A short hash of everything a cache depends on (files, clip physics, weights)."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def files_key(manifest: Manifest) -> str:
    """A short hash of the usable files: path, content, class and split.

    Where a manifest of version 1 knows no content, size and time of change stand for it.
    """
    rows = [
        [row.path, *_content(row), row.class_name, row.split, row.duration]
        for row in manifest.usable
    ]
    return cache_key(files=rows)


def _content(row: Row) -> tuple[str | int, ...]:
    return (row.size, row.mtime_ns) if row.sha256 is None else (row.sha256,)


class CacheWriter:
    """Appends rows and commits them in shards.

    Args:
        folder: Where the cache lives; created if missing. Shards of another key are discarded.
        key: See `cache_key`.
        shard_rows: Rows per shard; the last shard may be smaller.
    """

    def __init__(self, folder: Path, key: str, shard_rows: int = 512) -> None:
        self.folder, self.key, self.shard_rows = folder, key, shard_rows
        started = folder / "started.json"
        if folder.exists() and (not started.is_file() or _read_json(started).get("key") != key):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(started, {"format": FORMAT, "key": key})
        for leftover in folder.glob("*.partial"):
            leftover.unlink()
        (folder / "index.json").unlink(missing_ok=True)
        self.shards = sorted(folder.glob("shard_*.safetensors"))
        self.rows = [len(load_file(shard)["source"]) for shard in self.shards]
        self.pending: list[dict[str, Tensor]] = []

    @property
    def next_source(self) -> int:
        """The first source number not yet committed: where an interrupted writer goes on."""
        return int(load_file(self.shards[-1])["source"][-1]) + 1 if self.shards else 0

    def committed(self) -> Iterator[dict[str, Tensor]]:
        """The shards written so far, one at a time."""
        for shard in self.shards:
            yield load_file(shard)

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Appends rows; every tensor has the same first dimension. Floating values are kept as float16.

        `rows["source"]` (n,) numbers what each row was made from, ascending over the life of the writer.
        """
        halved = {
            name: (value.half() if value.is_floating_point() and value.ndim > 1 else value).cpu()
            for name, value in rows.items()
        }
        self.pending.append(halved)
        while sum(len(part["source"]) for part in self.pending) >= self.shard_rows:
            self._commit()

    def flush(self) -> None:
        """Commits pending rows as a last, smaller shard."""
        if self.pending:
            self._commit()

    def _commit(self) -> None:
        joined = {
            name: torch.cat([part[name] for part in self.pending]) for name in self.pending[0]
        }
        path = self.folder / f"shard_{len(self.rows):05d}.safetensors"
        partial = path.with_suffix(".partial")
        count = min(self.shard_rows, len(joined["source"]))
        save_file({name: value[:count].contiguous() for name, value in joined.items()}, partial)
        partial.replace(path)
        rest = {name: value[count:] for name, value in joined.items()}
        self.pending = [rest] if len(rest["source"]) else []
        self.shards.append(path)
        self.rows.append(count)

    def close(self, extra: Mapping[str, Any]) -> LatentCache:
        """Writes the last shard and the index with `extra` facts (statistics, class names, counts)."""
        self.flush()
        _write_json(
            self.folder / "index.json",
            {"format": FORMAT, "key": self.key, "rows": self.rows, "extra": dict(extra)},
        )
        return LatentCache(self.folder)


class LatentCache:
    """Reads a finished cache; `cache[indices]` gives the rows as one dictionary of stacked tensors.

    Shards are memory-mapped and only the rows asked for are read: a cache of any size opens at once and
    is read in constant memory.

    Raises:
        UserError: The folder holds no finished cache, or a shard is damaged.
    """

    def __init__(self, folder: Path) -> None:
        index = folder / "index.json"
        if not index.is_file():
            raise UserError(
                f"{folder} holds no finished cache (no index.json): run the job that writes it again."
            )
        facts = _read_json(index)
        if facts.get("format") != FORMAT:
            raise UserError(
                f"{index} has format {facts.get('format')}, this version reads {FORMAT}."
            )
        self.folder, self.key, self.extra = folder, facts["key"], facts["extra"]
        try:
            self.shards = [
                _mapped(folder / f"shard_{i:05d}.safetensors") for i in range(len(facts["rows"]))
            ]
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"a shard of the cache {folder} is damaged ({error}): delete the folder and run again."
            ) from error
        self.ends = torch.tensor(facts["rows"], dtype=torch.long).cumsum(0)

    @staticmethod
    def is_current(folder: Path, key: str) -> bool:
        """Whether `folder` holds a finished cache with this key."""
        index = folder / "index.json"
        return index.is_file() and _read_json(index).get("key") == key

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, indices: Tensor) -> dict[str, Tensor]:
        """Rows `indices` (n,) in the given order; floating tensors come back as float32."""
        shard_of = torch.searchsorted(self.ends, indices, right=True)
        starts = torch.cat([self.ends.new_zeros(1), self.ends[:-1]])
        out: dict[str, Tensor] = {}
        for shard in shard_of.unique().tolist():
            chosen = (shard_of == shard).nonzero().squeeze(1)
            for name, stored in self.shards[shard].items():
                rows = stored.index_select(0, indices[chosen] - starts[shard])
                rows = rows.float() if rows.is_floating_point() else rows
                if name not in out:
                    out[name] = rows.new_empty(len(indices), *rows.shape[1:])
                out[name].index_copy_(0, chosen, rows)
        return out


class Splits(NamedTuple):
    """The train and the held-out cache."""

    train: LatentCache
    held_out: LatentCache

    @classmethod
    def open(cls, folder: Path) -> Splits:
        """Both finished caches below `folder`."""
        return cls(*(LatentCache(folder / split) for split in cls._fields))


def cached_batches(
    cache: LatentCache,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    rank: int,
    world: int,
    device: torch.device,
) -> Iterator[dict[str, Tensor]]:
    """Endless batches of this process's rows, in the same stateless order as `loader.order`."""
    local = batch_size // world
    for step in itertools.count(start_step):
        indices = torch.as_tensor(order(seed, len(cache), batch_size, step))
        rows = cache[indices[rank * local : (rank + 1) * local]]
        yield {name: value.to(device, non_blocking=True) for name, value in rows.items()}


def _mapped(shard: Path) -> dict[str, Tensor]:
    """The tensors of a shard, of which nothing is read before it is indexed.

    `load_file` maps a file, too, but reads all of it at once.
    """
    with safe_open(shard, "pt"):  # refuses a damaged header, or a file that is too short for it
        pass
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    size = shard.stat().st_size
    data = torch.from_file(str(shard), shared=False, size=size, dtype=torch.uint8)[8 + length :]
    return {
        name: data[slice(*entry["data_offsets"])].view(DTYPES[entry["dtype"]]).view(entry["shape"])
        for name, entry in header.items()
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is not valid JSON ({error}): delete its folder and run again."
        ) from error
    if not isinstance(facts, dict):
        raise UserError(f"{path} is not a cache index: delete its folder and run again.")
    return facts


def _write_json(path: Path, facts: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".json.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(facts, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
