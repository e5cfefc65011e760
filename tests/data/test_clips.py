"""A window depends on (seed, epoch, index) alone, and what cannot be read says so."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from mmldm.data.clips import NO_CLASS, WindowDataset, held_out_windows, windows
from mmldm.data.loader import Failed, IndexedLoader
from mmldm.data.manifest import Entry, Manifest
from mmldm.data.scan import scan
from mmldm.errors import UserError
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.sets import clip_set
from mmldm.media.clip import Clip
from mmldm.media.reader import read_clip, read_windows
from mmldm.types import ClipSpec, SpectrogramSpec, WindowBatch

SPEC = ClipSpec(
    num_frames=4, fps=10, height=32, width=32, sample_rate=16000,
    spectrogram=SpectrogramSpec(n_fft=512, hop_length=200, num_mels=32),
)  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Five clips of 2 s whose brightness rises with time, in two classes and in none."""
    root = tmp_path_factory.mktemp("clips")
    for number, name in enumerate(("a/0.mp4", "a/1.mp4", "b/2.mp4", "b/3.mp4", "4.mp4")):
        (root / name).parent.mkdir(exist_ok=True)
        frames = torch.arange(20).mul(10).byte().view(20, 1, 1, 1).expand(20, 3, 32, 32)
        times = torch.arange(32000) / 16000
        waveform = 0.3 * torch.sin(2 * torch.pi * (200 + 50 * number) * times)
        Clip(frames.contiguous(), waveform, 10.0, 16000).save(root / name)
    return scan(root, SPEC, workers=1, held_out=0.0)


def test_item_holds_the_window_it_announces(manifest: Manifest) -> None:
    dataset = WindowDataset(manifest, SPEC, "train", seed=0)
    assert len(dataset) == 5
    for index in range(5):
        item = dataset[(3, index)]
        assert not isinstance(item, Failed)
        assert item.frames.shape == (4, 3, 32, 32)
        assert item.waveforms.shape == (6400,)
        frame = dataset.start(3, index) / 0.1
        brightness = item.frames.float().mean(dim=(1, 2, 3))
        for k in range(4):
            assert abs(brightness[k].item() - 10 * (frame + k)) < 14
        assert item.indices == index


def test_all_readers_give_the_same_window_for_the_same_start(manifest: Manifest) -> None:
    """Loader, held-out batch, evaluation and reader, at starts off the grid of 10 fps."""
    held_out = manifest.model_copy(
        update={
            "entries": tuple(r.model_copy(update={"split": "held_out"}) for r in manifest.entries)
        }
    )
    dataset = WindowDataset(held_out, SPEC, "held_out", seed=3)
    sound = WindowDataset(held_out, SPEC, "held_out", seed=3, sound_only=True)
    batch, _ = held_out_windows(held_out, SPEC, 3, 5)
    for index, row in enumerate(held_out.entries):
        start, path = dataset.start(0, index), held_out.file(row)
        clip = read_clip(path, start, SPEC)
        frame = round(start * 10) / 10
        assert read_windows(path, [start], SPEC).starts.item() == pytest.approx(frame, abs=1e-3)
        item, heard = dataset[(0, index)], sound[(0, index)]
        assert not isinstance(item, Failed) and not isinstance(heard, Failed)
        for frames in (item.frames, batch.frames[index]):
            assert torch.equal(frames, clip.frames)
        for waveform in (item.waveforms, batch.waveforms[index], heard.waveforms):
            assert torch.equal(waveform, clip.waveform)
    protocol = Protocol(name="test", spec=SPEC)
    for source in clip_set("real", held_out, held_out.entries, protocol).clips:
        row = next(row for row in held_out.entries if row.path == source.file)
        assert row.duration is not None
        middle = (row.duration - SPEC.duration) / 2
        evaluated, clip = source.read(SPEC), read_clip(held_out.file(row), middle, SPEC)
        assert torch.equal(evaluated.frames, clip.frames)
        assert torch.equal(evaluated.waveform, clip.waveform)


def test_classes_are_numbered_by_sorted_name(manifest: Manifest) -> None:
    dataset = WindowDataset(manifest, SPEC, "train", seed=0)
    paths = [row.path for row in manifest.split("train")]
    items = [item for i in range(5) if isinstance(item := dataset[(0, i)], WindowBatch)]
    labels = dict(zip(paths, (int(item.class_labels) for item in items), strict=True))
    assert labels == {"a/0.mp4": 0, "a/1.mp4": 0, "b/2.mp4": 1, "b/3.mp4": 1, "4.mp4": NO_CLASS}


def test_starts_change_with_epoch_index_and_seed_and_cover_the_clip(manifest: Manifest) -> None:
    dataset = WindowDataset(manifest, SPEC, "train", seed=0)
    starts = [dataset.start(epoch, index) for epoch in range(50) for index in range(5)]
    slack = manifest.usable[0].duration - SPEC.duration
    assert len(set(starts)) == 250
    assert 0 <= min(starts) < 0.1 * slack
    assert 0.9 * slack < max(starts) <= slack
    assert dataset.start(0, 0) != WindowDataset(manifest, SPEC, "train", seed=1).start(0, 0)


def test_loaded_batches_are_the_same_in_workers(manifest: Manifest) -> None:
    def first(workers: int) -> list[torch.Tensor]:
        dataset = WindowDataset(manifest, SPEC, "train", seed=0)
        loader = IndexedLoader(dataset, batch_size=3, seed=0, workers=workers)
        return [
            getattr(batch, name)
            for batch in islice(loader, 3)
            for name in ("frames", "waveforms", "indices")
        ]

    assert all(map(torch.equal, first(0), first(2)))


def test_clip_that_vanishes_fails_by_name_and_is_counted(
    manifest: Manifest, tmp_path: Path
) -> None:
    rows = [row.model_copy(update={"split": "train"}) for row in manifest.usable]
    rows += [rows[0].model_copy(update={"path": "gone.mp4"})]
    dataset = WindowDataset(
        Manifest(root=manifest.root, entries=tuple(rows)), SPEC, "train", seed=0
    )
    failed = dataset[(0, 5)]
    assert isinstance(failed, Failed)
    assert failed.file == "gone.mp4"
    loader = IndexedLoader(dataset, batch_size=6, seed=0)
    batch = next(iter(loader))
    assert len(batch.frames) == 6
    assert list(loader.failures) == ["gone.mp4"]


def test_split_without_clips_is_refused(manifest: Manifest) -> None:
    with pytest.raises(UserError, match="nothing to train on"):
        IndexedLoader(WindowDataset(manifest, SPEC, "held_out", 0), batch_size=2, seed=0)


def entry(duration: float) -> Entry:
    return Entry(path="x.mp4", status="used", duration=duration, size=1, mtime_ns=1)


def test_fixed_windows_are_spread_from_start_to_end() -> None:
    assert windows([entry(2.4)], SPEC, 3) == [
        (entry(2.4), 0.0), (entry(2.4), 1.0), (entry(2.4), 2.0),
    ]  # fmt: skip
    assert windows([entry(2.4)], SPEC, 1) == [(entry(2.4), 1.0)]


def test_clip_as_long_as_a_window_has_one() -> None:
    assert windows([entry(0.4), entry(0.4)], SPEC, 3) == [(entry(0.4), 0.0)] * 2
    # A usable file may be 20 ms shorter than a window.
    assert windows([entry(0.39)], SPEC, 3) == [(entry(0.39), 0.0)]
