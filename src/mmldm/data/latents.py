"""Cached tensors, read in any order in constant memory; and in which order training reads them.

a folder of blocks, written by `data.cache_writer` -> cache[indices] -> `types.Latents`. Both caches of the
system are read with it: image latents (for the autoencoder job) and latents (for the generator job).

On the disk the tensors have names, which only this module translates (`latents_of`, `tensors_of`):
    audio_mean, video_mean, audio_logvar, video_logvar, present (B,2), label (B,)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmldm.data.cache_writer import FORMAT, CacheBlock, cache_key, json_of, shard_name
from mmldm.data.loader import order
from mmldm.data.manifest import Entry, Manifest
from mmldm.errors import UserError
from mmldm.models.weights import KINDS, read_header
from mmldm.types import AV, MODALITIES, Latents

PICTURE = "video_index"
"""The windows' tensor that points into the block's pictures."""


def files_key(manifest: Manifest) -> str:
    """A short hash of the usable files: path, content, class and split.

    Where a manifest of version 1 knows no content, size and time of change stand for it.
    """
    rows = [
        [entry.path, *_content(entry), entry.class_name, entry.split, entry.duration]
        for entry in manifest.usable
    ]
    return cache_key(files=rows)


def _content(entry: Entry) -> tuple[str | int, ...]:
    return (entry.size, entry.mtime_ns) if entry.sha256 is None else (entry.sha256,)


class LatentCache:
    """Reads a finished cache; `cache[indices]` gives clips as one batch.

    Shards are memory-mapped and only the rows asked for are read: a cache of any size opens at once and
    is read in constant memory.

    Args:
        verified: Whether its checksums were compared already; they are, once, if not.

    Attributes:
        parts: Everything its numbers depend on.
        extra: Class names and statistics.
        failed: Files that could not be read and have no windows here -> why.
        blocks: What it consists of.

    Raises:
        UserError: The folder holds no finished cache, or a shard is damaged.
    """

    def __init__(self, folder: Path, verified: bool = False) -> None:
        # The index: there only when every block is.
        index = folder / "index.json"
        if not index.is_file():
            raise UserError(
                f"{folder} holds no finished cache (no index.json): run the job that writes it again."
            )
        facts = json_of(index)
        if facts.get("format") != FORMAT:
            raise UserError(
                f"{index} has format {facts.get('format')}, this version reads {FORMAT}: run the job "
                "that writes it again."
            )
        self.folder, self.key, self.parts = folder, facts["key"], facts["parts"]
        self.extra, self.failed = facts["extra"], facts["failed"]
        self.blocks = [CacheBlock(**block) for block in facts["blocks"]]
        # Row `ends[k]` is the first one after block k.
        self.ends = torch.tensor([b.rows for b in self.blocks], dtype=torch.long).cumsum(0)

        # The shards: whole, and mapped into memory.
        for block in self.blocks:
            damage = None if verified else block.damage(folder)
            if damage is not None:
                raise UserError(f"{damage}: run the job again, which encodes that part anew.")
        try:
            self.shards = [block_tensors(folder, n, block) for n, block in enumerate(self.blocks)]
        except (UserError, OSError) as error:
            raise UserError(
                f"a shard of the cache {folder} cannot be opened ({error}): run the job again, which "
                "encodes that part anew."
            ) from error

    @property
    def identity(self) -> Any:
        """What a job that is half-way on this cache must find again: a JSON value."""
        return {"format": FORMAT, **self.parts, "unreadable": sorted(self.failed)}

    @property
    def shapes(self) -> AV[tuple[int, ...]]:
        """Of one clip's means: AV (1,c,h,w), (T,c,h,w), or AV (C,T',H',W')."""
        return self[torch.zeros(1, dtype=torch.long)].mean.map(lambda mean: tuple(mean.shape[1:]))

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, indices: Tensor) -> Latents:
        """The clips `indices` (B,) in the given order, on the CPU."""
        return latents_of(self.tensors(indices))

    def tensors(self, indices: Tensor) -> dict[str, Tensor]:
        """The rows `indices` (n,) by the names on the disk; floating tensors come back as float32.

        Where the windows point to pictures, these stand in their place, frame by frame: (n,T,...).
        """
        # One read a block: which of the wanted rows it holds, and where they go.
        block_of = torch.searchsorted(self.ends, indices, right=True)
        starts = torch.cat([self.ends.new_zeros(1), self.ends[:-1]])
        out: dict[str, Tensor] = {}
        for block in block_of.unique().tolist():
            chosen = (block_of == block).nonzero().squeeze(1)
            for name, rows in self._rows(block, indices[chosen] - starts[block]):
                if name not in out:
                    out[name] = rows.new_empty(len(indices), *rows.shape[1:])
                out[name].index_copy_(0, chosen, rows)
        return out

    def _rows(self, block: int, rows: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the rows (n,) of one block, by name."""
        windows, pictures = self.shards[block]
        for name, stored in windows.items():
            if name != PICTURE:
                yield name, _whole_precision(stored.index_select(0, rows))
        # Windows share pictures: frame t of a window is the picture that its index points to.
        if pictures:
            shown = windows[PICTURE].index_select(0, rows)
            for name, stored in pictures.items():
                frames = stored.index_select(0, shown.flatten()).unflatten(0, shown.shape)
                yield name, _whole_precision(frames)


class Splits(NamedTuple):
    """The train and the held-out cache."""

    train: LatentCache
    held_out: LatentCache

    @classmethod
    def open(cls, folder: Path, verified: bool = False) -> Splits:
        """Both finished caches below `folder`; see `LatentCache`."""
        return cls(*(LatentCache(folder / split, verified) for split in cls._fields))


def cached_batches(
    cache: LatentCache, *, batch_size: int, seed: int, start_step: int, rank: int, world: int
) -> Iterator[Latents]:
    """Endless batches of this process's rows, in the same stateless order as `loader.order`."""
    local = batch_size // world
    for step in itertools.count(start_step):
        indices = torch.as_tensor(order(seed, len(cache), batch_size, step))
        yield cache[indices[rank * local : (rank + 1) * local]]


def latents_of(tensors: Mapping[str, Tensor]) -> Latents:
    """A batch from tensors with the names on the disk."""
    return Latents(
        mean=MODALITIES.map(lambda modality: tensors[f"{modality}_mean"]),
        logvar=MODALITIES.map(lambda modality: tensors[f"{modality}_logvar"]),
        present=presence_of(tensors),
        class_labels=tensors["label"],
    )


def presence_of(tensors: Mapping[str, Tensor]) -> AV[Tensor]:
    """Which modalities the clips have, AV (B,) bool, from tensors with the names on the disk."""
    return AV(*tensors["present"].unbind(1))


def tensors_of(latents: Latents) -> dict[str, Tensor]:
    """A batch as tensors with the names on the disk, posteriors as float16: the inverse of `latents_of`."""
    tensors = {"label": latents.class_labels, "present": torch.stack(latents.present, dim=1)}
    for modality, mean, logvar in zip(MODALITIES, latents.mean, latents.logvar, strict=True):
        tensors[f"{modality}_mean"] = mean.half()
        tensors[f"{modality}_logvar"] = logvar.half()
    return tensors


def block_tensors(
    folder: Path, number: int, block: CacheBlock
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Windows and pictures of a block, memory-mapped as they are stored; empty where there are none.

    Raises:
        UserError, OSError: A shard is damaged or cannot be read.
    """
    names = (shard_name(kind, number) for kind in ("windows", "pictures"))
    windows, pictures = (_mapped(folder / n) if n in block.sha256 else {} for n in names)
    return windows, pictures


def _mapped(shard: Path) -> dict[str, Tensor]:
    """The tensors of a shard, of which nothing is read before it is indexed.

    `load_file` maps a file, too, but reads all of it at once.

    Raises:
        UserError: Its header is damaged, or the file is too short for it.
    """
    header = read_header(shard)
    size = shard.stat().st_size
    data = torch.from_file(str(shard), shared=False, size=size, dtype=torch.uint8)
    return {
        name: data[stored.begin : stored.end].view(KINDS[stored.kind]).view(stored.shape)
        for name, stored in header.items()
    }


def _whole_precision(rows: Tensor) -> Tensor:
    """Rows (n,...) stored as float16 -> float32; numbers of another kind as they are."""
    return rows.float() if rows.is_floating_point() else rows
