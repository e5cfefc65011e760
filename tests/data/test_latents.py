"""The cache on disk: order, resumption, keys, damage."""

from pathlib import Path

import pytest
import torch

from mmldm.data.latents import CacheWriter, LatentCache, Splits, cached_batches
from mmldm.errors import UserError


def rows(first: int, count: int) -> dict[str, torch.Tensor]:
    source = torch.arange(first, first + count)
    return {"source": source, "mean": source[:, None].float() * torch.ones(1, 3)}


def written(folder: Path, count: int = 23) -> LatentCache:
    writer = CacheWriter(folder, "key", shard_rows=5)
    for first in range(0, count, 3):
        writer.add(rows(first, min(3, count - first)))
    return writer.close({"fact": 1})


def test_rows_come_back_in_any_order_across_shards(tmp_path: Path) -> None:
    cache = written(tmp_path / "c")
    wanted = torch.tensor([22, 0, 4, 5, 19, 5])
    assert len(cache) == 23
    assert cache[wanted]["source"].tolist() == wanted.tolist()
    assert torch.equal(cache[wanted]["mean"][:, 0], wanted.float())
    assert cache[wanted]["mean"].dtype == torch.float32
    assert cache.extra == {"fact": 1}


def test_interrupted_writer_goes_on_after_its_whole_shards(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    writer = CacheWriter(folder, "key", shard_rows=5)
    writer.add(rows(0, 7))  # 5 rows are on disk, 2 only in memory
    (folder / "shard_00001.partial").write_bytes(b"half")
    again = CacheWriter(folder, "key", shard_rows=5)
    assert again.next_source == 5
    assert not list(folder.glob("*.partial"))
    again.add(rows(5, 4))
    cache = again.close({})
    assert cache[torch.arange(9)]["source"].tolist() == list(range(9))


def test_unfinished_cache_is_never_used(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path / "c", "key", shard_rows=2)
    writer.add(rows(0, 4))
    assert not LatentCache.is_current(tmp_path / "c", "key")
    with pytest.raises(UserError, match="no finished cache"):
        LatentCache(tmp_path / "c")


def test_cache_of_another_key_is_written_anew(tmp_path: Path) -> None:
    written(tmp_path / "c")
    assert LatentCache.is_current(tmp_path / "c", "key")
    assert not LatentCache.is_current(tmp_path / "c", "other")
    assert CacheWriter(tmp_path / "c", "other").next_source == 0


def test_damaged_shard_is_named(tmp_path: Path) -> None:
    written(tmp_path / "c")
    shard = tmp_path / "c" / "shard_00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(UserError, match="damaged"):
        LatentCache(tmp_path / "c")


def test_batches_do_not_depend_on_where_one_starts_or_how_many_read(tmp_path: Path) -> None:
    splits = Splits(written(tmp_path / "train"), written(tmp_path / "held_out", 4))
    settings = {"batch_size": 6, "seed": 1, "device": torch.device("cpu")}
    whole = cached_batches(splits.train, **settings, start_step=0, rank=0, world=1)
    sources = [next(whole)["source"].tolist() for _ in range(8)]
    late = cached_batches(splits.train, **settings, start_step=5, rank=0, world=1)
    assert [next(late)["source"].tolist() for _ in range(3)] == sources[5:]
    halves = [
        cached_batches(splits.train, **settings, start_step=0, rank=rank, world=2)
        for rank in (0, 1)
    ]
    for step in range(8):
        assert [s for half in halves for s in next(half)["source"].tolist()] == sources[step]
