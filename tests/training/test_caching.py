"""Caches of files: each source frame once, nothing lost in silence, the same bytes however they were made."""

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mmldm.config import RunConfig
from mmldm.data import blocks
from mmldm.data.cache_writer import json_of
from mmldm.data.latents import LatentCache, Splits
from mmldm.data.manifest import Manifest
from mmldm.data.scan import scan
from mmldm.errors import UserError
from mmldm.media.clip import frames_to_images
from mmldm.media.reader import read_clip
from mmldm.media.spectrogram import AudioImage
from mmldm.models.image_codec import ImageCodec, LatentStatistics
from mmldm.training import caching
from mmldm.training.caching import Encoding
from mmldm.training.distributed import Process
from mmldm.training.job_caches import unread
from mmldm.training.jobs.vae import build_vae
from mmldm.training.run import Run
from mmldm.worlds.impacts.clips import ImpactsConfig, synthesize

from ..smallest import CLIP, smallest_recipe
from .conftest import new_run
from .killing import finish

pytestmark = pytest.mark.slow

SCRIPT = str(Path(__file__).with_name("caching_job.py"))
ALONE = (sys.executable, SCRIPT)
TWO = (
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", SCRIPT,
)  # fmt: skip
WINDOWS = 3
FILES = 18


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 1.6 s at 25 fps, four times as long as a window."""
    folder = tmp_path_factory.mktemp("footage") / "clips"
    spec = CLIP.model_copy(update={"num_frames": 40, "fps": 25.0})
    synthesize(
        folder, ImpactsConfig(spec=spec, materials=("wood", "glass")), clips=FILES, workers=1
    )
    return folder


@pytest.fixture
def clips(footage: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(footage, tmp_path / "clips"))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files a block."""
    monkeypatch.setattr(blocks, "BLOCK_WINDOWS", 2 * WINDOWS)


def recipe(windows: int = WINDOWS) -> RunConfig:
    config = smallest_recipe()
    return config.model_copy(
        update={"data": config.data.model_copy(update={"windows_per_clip": windows})}
    )


class Caching:
    """Makes the image latents of a folder again and again, and keeps what was said."""

    def __init__(self, clips: Path, target: Path, windows: int = WINDOWS) -> None:
        self.config, self.target = recipe(windows), target
        self.manifest: Manifest = scan(clips, CLIP, workers=1, held_out=0.25)
        self.vae = build_vae(self.config)
        self.said: list[str] = []
        self.images = 0
        self.vae.encoder.register_forward_hook(self._count)

    def _count(self, encoder: object, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        self.images += len(inputs[0])

    def run(self, without: tuple[str, ...] = ()) -> Splits:
        self.said, self.images = [], 0
        encoding = Encoding(
            self.config,
            self.manifest,
            self.target,
            Process(),
            lambda what, done, total: None,
            self.said.append,
        )
        caches = encoding.encode_images(self.vae, without)
        self.said += unread(caches, "image latents")
        return caches


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def times(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("block_*.json")}


def rows_of(cache: LatentCache) -> dict[str, torch.Tensor]:
    """By the names on the disk."""
    return cache.tensors(torch.arange(len(cache)))


def test_rows_are_what_the_reader_and_the_vae_give_for_their_window(
    footage: Path, tmp_path: Path
) -> None:
    caching = Caching(footage, tmp_path / "c")
    codec = ImageCodec(caching.vae.eval(), LatentStatistics.scalar(1.0, 1))
    caches = caching.run()
    for cache, split in zip(caches, ("train", "held_out"), strict=True):
        rows = rows_of(cache)
        files = caching.manifest.split(split)
        assert len(cache) == WINDOWS * len(files)
        for i in range(0, len(cache), 5):
            file = caching.manifest.file(files[i // WINDOWS])
            clip = read_clip(file, float(rows["start"][i]), CLIP)
            with torch.no_grad():
                video, _ = codec.posterior(frames_to_images(clip.frames)[None])
                audio, spread = codec.posterior(AudioImage(CLIP).image(clip.waveform[None]))
            assert rows["video_mean"][i].allclose(video[0], atol=2e-2)
            assert rows["audio_mean"][i].allclose(audio[0], atol=2e-2)
            assert rows["audio_logvar"][i].allclose(spread[0], atol=2e-2)
            assert rows["present"][i].tolist() == [True, True]


def test_training_windows_are_random_and_held_out_ones_are_not(
    footage: Path, tmp_path: Path
) -> None:
    caching = Caching(footage, tmp_path / "c")
    train, held_out = (rows_of(cache)["start"].view(-1, WINDOWS) for cache in caching.run())
    assert len({tuple(starts) for starts in train.tolist()}) > len(train) / 2
    assert len({tuple(starts) for starts in held_out.tolist()}) == 1
    assert held_out[0].tolist() == pytest.approx([0.0, 0.6, 1.2], abs=0.021)


def test_each_source_frame_is_encoded_once_however_many_windows_show_it(
    footage: Path, tmp_path: Path
) -> None:
    """31 windows at every frame of 1.6 s at 25 fps show each of its 40 frames but the last few."""
    caching = Caching(footage, tmp_path / "c", windows=99)
    caches = caching.run()
    files = len(caching.manifest.usable)
    windows = sum(len(cache) for cache in caches)
    assert windows == 31 * files
    pictures = sum(
        len(shard["video_mean"]) for cache in caches for _, shard in cache.shards if shard
    )
    assert caching.images == pictures + windows
    assert 38 * files <= pictures <= 40 * files
    assert caching.images < windows * (CLIP.num_frames + 1) / 2


@pytest.mark.usefixtures("small_blocks")
def test_file_read_in_pieces_gives_the_same_rows_and_encodes_no_frame_twice(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_WINDOWS", 62)
    whole = Caching(footage, tmp_path / "whole", windows=99)
    expected = [rows_of(cache) for cache in whole.run()]
    monkeypatch.setattr(blocks, "PIECE_BYTES", 20 * 3 * 32 * 32)
    cut = Caching(footage, tmp_path / "cut", windows=99)
    found = [rows_of(cache) for cache in cut.run()]
    assert cut.images == whole.images
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value.allclose(other[name], atol=1e-2), name


def test_statistics_are_of_every_window_and_of_every_frame_that_is_shown(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "CHUNK", 7)
    cache = Caching(footage, tmp_path / "c").run().train
    ((windows, pictures),) = cache.shards
    for modality, stored in (("audio", windows), ("video", pictures)):
        mean, logvar = (stored[f"{modality}_{name}"].double() for name in ("mean", "logvar"))
        found = cache.extra["statistics"][modality]
        mean, spread = (x.flatten(0, -4).movedim(1, 0).flatten(1) for x in (mean, logvar.exp()))
        assert found["mean"] == pytest.approx(mean.mean(1).tolist(), abs=1e-5)
        variance = mean.var(1, correction=0) + spread.mean(1)
        assert found["std"] == pytest.approx(variance.sqrt().tolist(), rel=1e-4)


def test_nothing_is_encoded_again_when_everything_is_there(footage: Path, tmp_path: Path) -> None:
    caching = Caching(footage, tmp_path / "c")
    caching.run()
    before = contents(tmp_path / "c")
    caching.run()
    assert (caching.images, caching.said) == (0, [])
    assert contents(tmp_path / "c") == before


@pytest.mark.usefixtures("small_blocks")
def test_torn_shards_of_an_unfinished_cache_are_made_again_and_named(
    footage: Path, tmp_path: Path
) -> None:
    caching = Caching(footage, tmp_path / "c")
    caching.run()
    whole = contents(tmp_path / "c")
    train = tmp_path / "c" / "image_latents" / "train"
    (train / "index.json").unlink()
    cut, zeros = train / "pictures_00001.safetensors", train / "windows_00003.safetensors"
    cut.write_bytes(cut.read_bytes()[:1000])
    zeros.write_bytes(bytes(zeros.stat().st_size))
    (train / "block_00004.json").write_text("")
    caching.run()
    assert len(caching.said) == 2
    assert "pictures_00001.safetensors is damaged" in caching.said[0]
    assert "windows_00003.safetensors is damaged" in caching.said[1]
    assert "encoded again" in caching.said[0]
    assert contents(tmp_path / "c") == whole


@pytest.mark.usefixtures("small_blocks")
def test_finished_cache_whose_rows_became_zeros_is_mended_and_not_used(
    footage: Path, tmp_path: Path
) -> None:
    caching = Caching(footage, tmp_path / "c")
    caching.run()
    whole = contents(tmp_path / "c")
    before = times(tmp_path / "c" / "image_latents" / "train")
    shard = tmp_path / "c" / "image_latents" / "train" / "windows_00002.safetensors"
    data = shard.read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")
    shard.write_bytes(data[:head] + bytes(len(data) - head))
    caching.run()
    assert len(caching.said) == 1
    assert contents(tmp_path / "c") == whole
    after = times(tmp_path / "c" / "image_latents" / "train")
    assert {name for name in before if before[name] != after[name]} == {"block_00002.json"}


def test_run_stops_where_most_files_have_gone(clips: Path, tmp_path: Path) -> None:
    caching = Caching(clips, tmp_path / "c")
    train = caching.manifest.split("train")
    for row in train[1:]:
        caching.manifest.file(row).unlink()
    with pytest.raises(UserError, match=f"of {len(train)} clips of the train split cannot be read"):
        caching.run()
    assert not (tmp_path / "c" / "image_latents" / "train" / "index.json").exists()


@pytest.mark.usefixtures("small_blocks")
def test_file_that_cannot_be_read_is_named_recorded_and_tried_again(
    clips: Path, footage: Path, tmp_path: Path
) -> None:
    caching = Caching(clips, tmp_path / "c")
    row = caching.manifest.split("train")[3]
    file = caching.manifest.file(row)
    file.rename(tmp_path / "away.mp4")
    train = tmp_path / "c" / "image_latents" / "train"
    cache = caching.run().train
    windows = WINDOWS * len(caching.manifest.split("train"))
    assert len(cache) == windows - WINDOWS
    assert len(caching.said) == 1
    assert f"cannot read {row.path}" in caching.said[0]
    assert list(json_of(train / "index.json")["failed"]) == [row.path]
    before = times(train)

    again = caching.run().train  # still away: nothing is encoded, and it is told again
    assert (len(again), caching.images, len(caching.said)) == (windows - WINDOWS, 0, 1)
    assert times(train) == before

    (tmp_path / "away.mp4").rename(file)
    whole = caching.run().train
    assert (len(whole), caching.said) == (windows, [])
    after = times(train)
    assert {name for name in before if before[name] != after[name]} == {"block_00001.json"}
    never = Caching(clips, tmp_path / "never")
    never.run()
    assert contents(tmp_path / "c") == contents(tmp_path / "never")


@pytest.mark.usefixtures("small_blocks")
def test_file_that_a_job_began_without_stays_out_though_it_is_back(
    clips: Path, tmp_path: Path
) -> None:
    caching = Caching(clips, tmp_path / "c")
    row = caching.manifest.split("train")[3]
    file = caching.manifest.file(row)
    file.rename(tmp_path / "away.mp4")
    began = rows_of(caching.run().train)
    (tmp_path / "away.mp4").rename(file)
    kept = rows_of(caching.run((row.path,)).train)
    assert caching.images == 0
    shutil.rmtree(tmp_path / "c")  # even if the cache is lost
    anew = rows_of(caching.run((row.path,)).train)
    assert "because the job began without it" in caching.said[0]
    for name, value in began.items():
        assert torch.equal(value, kept[name]) and torch.equal(value, anew[name]), name


def test_cache_of_other_windows_is_encoded_again_with_one_line(
    footage: Path, tmp_path: Path
) -> None:
    Caching(footage, tmp_path / "c", windows=2).run()
    caching = Caching(footage, tmp_path / "c", windows=3)
    assert len(caching.run().train) == 3 * len(caching.manifest.split("train"))
    assert len(caching.said) == 1
    assert "made with other settings (windows_per_clip)" in caching.said[0]


@pytest.fixture
def cached(clips: Path, finished: Run, tmp_path: Path) -> Callable[[str], Path]:
    """Run folders with networks and a manifest of 18 clips, whose caches are still to be made."""

    def folder(name: str) -> Path:
        run = new_run(recipe(), scan(clips, CLIP, workers=1, held_out=0.25), tmp_path / name)
        run.manifest.save(run.folder.manifest)
        for job in ("vae", "autoencoder"):
            shutil.copytree(finished.folder.export(job), run.folder.export(job))
        return run.folder.root

    return folder


def test_two_processes_make_the_same_bytes_as_one_also_after_a_kill(
    cached: Callable[[str], Path],
) -> None:
    one, two, killed = map(cached, ("one", "two", "killed"))
    size = str(2 * WINDOWS)
    for command, run in ((ALONE, one), (TWO, two)):
        code, output = finish((*command, str(run), size))
        assert code == 0, output
    assert contents(one / "caches") == contents(two / "caches")
    train = killed / "caches" / "image_latents" / "train"
    code, _ = finish((*ALONE, str(killed), size, "6"))  # in the third block
    assert code == -signal.SIGKILL
    assert {p.name for p in train.glob("block_*")} == {"block_00000.json", "block_00001.json"}
    assert not (train / "index.json").exists()
    code, output = finish((*TWO, str(killed), size))
    assert code == 0, output
    assert contents(one / "caches") == contents(killed / "caches")


def test_files_that_other_processes_cannot_read_are_told_and_too_many_end_all(
    clips: Path, cached: Callable[[str], Path]
) -> None:
    run = cached("run")
    train = Manifest.load(run / "manifest.jsonl").split("train")
    gone = train[3].path  # in the second block, which is the second process's
    (clips / gone).unlink()
    code, output = finish((*TWO, str(run), str(2 * WINDOWS)))
    assert code == 0, output
    assert output.count(f"cannot read {gone}") == 1
    shutil.rmtree(run / "caches")
    for row in train[:4]:  # two of each process
        (clips / row.path).unlink(missing_ok=True)
    code, output = finish((*TWO, str(run), str(2 * WINDOWS)))
    assert code == 0, output
    assert f"rank 0: UserError: image latents: 4 of {len(train)} clips of the train" in output
    assert "rank 1: RefusedElsewhereError" in output
    assert not (run / "caches" / "image_latents" / "train" / "index.json").exists()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
