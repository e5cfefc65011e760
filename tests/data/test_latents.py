"""The cache on disk: order, pictures that windows share, resumption, keys, damage."""

import json
from pathlib import Path

import pytest
import torch

from mmldm.data.cache_writer import FORMAT, CacheWriter
from mmldm.data.latents import LatentCache, Splits, cached_batches, latents_of, tensors_of
from mmldm.errors import UserError
from mmldm.types import AV

PARTS = {"windows_per_clip": 1, "image_vae": "abc"}
SIZES = (5, 5, 0, 5, 5, 3)
"""Windows of each block; nothing of one can be read."""


def rows(first: int, count: int) -> dict[str, torch.Tensor]:
    label = torch.arange(first, first + count)
    mean = (label[:, None].float() * torch.ones(1, 3)).half()
    present = torch.stack([label % 2 == 0, label % 3 == 0], dim=1)
    # Window i of a block shows pictures i and i + 1 of it.
    index = torch.arange(count)[:, None] + torch.arange(2)
    return {
        "label": label, "present": present, "audio_mean": mean, "audio_logvar": -mean,
        "video_index": index,
    }  # fmt: skip


def pictures(first: int, count: int) -> dict[str, torch.Tensor]:
    mean = torch.arange(first, first + count + 1)[:, None].half()
    return {"video_mean": mean, "video_logvar": -mean}


def write(writer: CacheWriter, number: int) -> None:
    first, count = sum(SIZES[:number]), SIZES[number]
    if count:
        writer.write(number, rows(first, count), pictures(first, count))
    else:
        writer.write(number, {}, {}, failed={"gone.mp4": "it is missing"})


def written(folder: Path, sizes: int = len(SIZES)) -> LatentCache:
    writer = CacheWriter(folder, PARTS)
    writer.prepare()
    for number in range(sizes):
        write(writer, number)
    writer.close(writer.blocks(sizes), {"fact": 1})
    return LatentCache(folder)


def test_rows_come_back_in_any_order_across_blocks(tmp_path: Path) -> None:
    cache = written(tmp_path / "c")
    wanted = torch.tensor([22, 0, 4, 5, 19, 5])
    assert len(cache) == 23
    got = cache[wanted]
    assert got.class_labels.tolist() == wanted.tolist()
    assert torch.equal(got.mean.audio[:, 0], wanted.float())
    assert torch.equal(got.logvar.audio, -got.mean.audio)
    assert got.mean.audio.dtype == torch.float32
    assert got.present.audio.tolist() == (wanted % 2 == 0).tolist()
    assert got.present.video.tolist() == (wanted % 3 == 0).tolist()
    assert got.complete.tolist() == (wanted % 6 == 0).tolist()
    assert cache.extra == {"fact": 1}
    assert cache.failed == {"gone.mp4": "it is missing"}


def test_windows_get_the_pictures_they_point_to(tmp_path: Path) -> None:
    cache = written(tmp_path / "c")
    wanted = torch.tensor([22, 0, 4, 5, 19, 5])
    got = cache[wanted]
    assert got.mean.video.squeeze(2).tolist() == [[float(i), i + 1.0] for i in wanted.tolist()]
    assert torch.equal(got.logvar.video, -got.mean.video)
    assert "video_index" not in cache.tensors(wanted)
    assert cache.shapes == AV((3,), (2, 1))


def test_names_on_the_disk_and_the_batch_say_the_same(tmp_path: Path) -> None:
    tensors = written(tmp_path / "c").tensors(torch.arange(6))
    again = tensors_of(latents_of(tensors))
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name].to(x), x) for name, x in tensors.items())
    assert again["audio_mean"].dtype == torch.float16


def test_samples_of_a_batch_have_its_mean_and_variance(tmp_path: Path) -> None:
    batch = written(tmp_path / "c")[torch.arange(2)]
    ones = batch.mean.map(torch.ones_like)
    for drawn, mean, logvar in zip(batch.sample(ones), batch.mean, batch.logvar, strict=True):
        assert torch.allclose((drawn - mean).square(), logvar.exp())


def test_another_writer_finds_the_blocks_that_are_done(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path / "c", PARTS)
    writer.prepare()
    write(writer, 0)
    write(writer, 3)
    again = CacheWriter(tmp_path / "c", PARTS)
    again.prepare()
    done = [number for number in range(len(SIZES)) if again.block(number) is not None]
    assert done == [0, 3]


def test_block_without_its_last_file_is_not_there(tmp_path: Path) -> None:
    written(tmp_path / "c")
    (tmp_path / "c" / "block_00001.json").write_text("")  # torn by a power cut
    assert CacheWriter(tmp_path / "c", PARTS).block(1) is None


def test_unfinished_cache_is_never_used(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path / "c", PARTS)
    writer.prepare()
    write(writer, 0)
    assert not writer.finished
    with pytest.raises(UserError, match="no finished cache"):
        LatentCache(tmp_path / "c")


def test_cache_of_other_numbers_makes_room_and_says_which(tmp_path: Path) -> None:
    written(tmp_path / "c")
    assert CacheWriter(tmp_path / "c", PARTS).earlier() is None
    other = CacheWriter(tmp_path / "c", {**PARTS, "windows_per_clip": 2})
    assert other.earlier() == "it was made with other settings (windows_per_clip)"
    assert not other.finished
    other.prepare()
    assert other.block(0) is None
    assert not (tmp_path / "c" / "index.json").exists()


def test_cache_of_an_earlier_format_makes_room(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    for name in ("started.json", "index.json"):
        (folder / name).write_text(json.dumps({"format": 1, "key": "abc"}))
    writer = CacheWriter(folder, PARTS)
    assert writer.earlier() == f"it has format 1, this version writes format {FORMAT}"
    with pytest.raises(UserError, match="has format 1"):
        LatentCache(folder)
    writer.prepare()
    assert writer.earlier() is None


@pytest.mark.parametrize("name", ["windows_00003.safetensors", "pictures_00003.safetensors"])
def test_damage_is_noticed_when_a_cache_is_opened(name: str, tmp_path: Path) -> None:
    written(tmp_path / "c")
    shard = tmp_path / "c" / name
    whole = shard.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    for torn in (whole[:-7], whole[:head] + bytes(len(whole) - head), bytes(len(whole))):
        shard.write_bytes(torn)
        with pytest.raises(UserError, match=f"{name} is damaged, its checksum does not match"):
            LatentCache(tmp_path / "c")
    shard.unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        LatentCache(tmp_path / "c")


def test_shard_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    written(tmp_path / "c")
    shard = tmp_path / "c" / "windows_00000.safetensors"
    shard.unlink()
    shard.symlink_to(shard)  # ELOOP, also for root
    block = CacheWriter(tmp_path / "c", PARTS).block(0)
    assert block is not None
    with pytest.raises(OSError, match="symbolic links"):
        block.damage(tmp_path / "c")


def test_batches_do_not_depend_on_where_one_starts_or_how_many_read(tmp_path: Path) -> None:
    splits = Splits(written(tmp_path / "train"), written(tmp_path / "held_out", 1))
    settings = {"batch_size": 6, "seed": 1}
    whole = cached_batches(splits.train, **settings, start_step=0, rank=0, world=1)
    labels = [next(whole).class_labels.tolist() for _ in range(8)]
    late = cached_batches(splits.train, **settings, start_step=5, rank=0, world=1)
    assert [next(late).class_labels.tolist() for _ in range(3)] == labels[5:]
    halves = [
        cached_batches(splits.train, **settings, start_step=0, rank=rank, world=2)
        for rank in (0, 1)
    ]
    for step in range(8):
        assert [s for half in halves for s in next(half).class_labels.tolist()] == labels[step]
