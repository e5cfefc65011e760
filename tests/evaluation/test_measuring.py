"""Clips are measured once, whatever interrupts; what cannot be read is named and left out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmldm.errors import MediaError, UserError
from mmldm.evaluation.features import Alarms, Events, Measure
from mmldm.evaluation.measuring import BATCH, FeatureCache, Speed, measure_set
from mmldm.evaluation.sets import ClipSet, ClipSource
from mmldm.types import ClipSpec

SPEC = ClipSpec()


class Loudness(Measure):
    """Counts what it is given, and is interrupted at the clip it is told."""

    name = "loudness"

    def __init__(self, stop_at=10_000):
        self.given, self.stop_at = 0, stop_at

    def __call__(self, clips):
        self.given += len(clips)
        if self.given >= self.stop_at:
            raise KeyboardInterrupt
        return [{"level": clip.waveform.abs().mean()} for clip in clips]


@pytest.fixture(scope="module")
def clips(real):
    sources = [
        ClipSource(f"{i}.mp4", f"{i}.mp4", f"{i:064x}", None, lambda spec, clip=clip: clip)  # type: ignore[misc]
        for i, clip in enumerate(real[:20])
    ]
    return ClipSet("generated", "here", tuple(sources))


def test_rows_stand_in_the_order_of_the_clips(clips, real, tmp_path):
    cache = FeatureCache(tmp_path, SPEC)
    found = measure_set(clips, [Loudness(), Alarms()], SPEC, cache, workers=3)
    levels = [row["level"].item() for row in found.findings["loudness"]]
    assert levels == [clip.waveform.abs().mean().item() for clip in real[:20]]
    taken = found.take([4, 2])
    assert [clip.name for clip in taken.clips.clips] == ["4.mp4", "2.mp4"]
    assert [row["level"].item() for row in taken.findings["loudness"]] == [levels[4], levels[2]]
    part = found.part(replace(clips, name="half", clips=clips.clips[10:]))
    assert [row["level"].item() for row in part.findings["loudness"]] == levels[10:]


def test_interrupted_measuring_goes_on_where_it_stopped(clips, tmp_path):
    cache = FeatureCache(tmp_path, SPEC)
    with pytest.raises(KeyboardInterrupt):
        measure_set(clips, [Loudness(stop_at=2 * BATCH)], SPEC, cache)
    again, speed = Loudness(), Speed()
    measure_set(clips, [again], SPEC, cache, speed=speed)
    assert again.given == speed.clips == 20 - BATCH
    third = Loudness()
    measure_set(clips, [third], SPEC, cache, speed=speed)
    assert third.given == 0 and speed.clips == 20 - BATCH


def test_another_measure_reading_or_content_is_measured_anew(clips, tmp_path):
    cache = FeatureCache(tmp_path, SPEC)
    measure_set(clips, [Loudness()], SPEC, cache)
    larger = SPEC.model_copy(update={"height": 128})
    changed = tuple(replace(clip, key=f"x{clip.key}") for clip in clips.clips)
    for other, folder in (
        (clips, FeatureCache(tmp_path, larger)),
        (replace(clips, clips=changed), cache),
    ):
        measure = Loudness()
        measure_set(other, [measure], SPEC, folder)
        assert measure.given == 20


def test_damaged_row_of_the_cache_is_measured_again(clips, tmp_path):
    cache, measure = FeatureCache(tmp_path, SPEC), Loudness()
    measure_set(clips, [measure], SPEC, cache)
    cache.path(measure, clips.clips[3].key).write_bytes(b"half")
    again = Loudness()
    measure_set(clips, [again], SPEC, cache)
    assert again.given == 1


def test_clip_that_cannot_be_read_is_named_and_left_out(clips, tmp_path):
    def broken(spec):
        raise MediaError("corrupt", "most of it is damaged")

    sources = (replace(clips.clips[0], read=broken, key="b" * 64), *clips.clips[1:])
    found = measure_set(
        replace(clips, clips=sources), [Events()], SPEC, FeatureCache(tmp_path, SPEC)
    )
    assert len(found) == len(found.findings["events"]) == 19
    (skipped,) = found.clips.skipped
    assert (skipped.file, skipped.reason) == ("0.mp4", "corrupt")
    with pytest.raises(UserError, match="the generated set .* has 1 usable clip.*1 corrupt"):
        measure_set(
            replace(clips, clips=sources[:2]), [Events()], SPEC, FeatureCache(tmp_path, SPEC)
        )


def test_speed_says_what_the_time_went_into():
    speed = Speed(clips=10, seconds=4.0)
    speed.parts.update({"i3d": 3.0, "decoding": 1.0})
    assert speed.sentence() == (
        "10 clips were decoded and measured in 4 s, 2.5 a second, bounded by i3d (share of the time: "
        "i3d 75 %, decoding 25 %)."
    )
    assert Speed().sentence() == "All clips had been measured before."


def test_kept_rows_are_the_very_numbers(tmp_path):
    measure, row = Loudness(), {"level": torch.tensor([1 / 3]), "none": torch.zeros(0, 4)}
    cache = FeatureCache(tmp_path, SPEC)
    cache.put(measure, "k", row)
    kept = cache.get(measure, "k")
    assert kept["level"].equal(row["level"]) and kept["none"].shape == (0, 4)
    assert cache.get(measure, "other") is None


def test_row_of_a_clip_without_onsets_is_kept(tmp_path):
    """A column of an empty table has no elements and a stride of its own."""
    cache, measure = FeatureCache(tmp_path, SPEC), Loudness()
    row = {"onsets": torch.from_numpy(np.zeros((0, 2))[:, 0]), "peaks": torch.ones(2)}
    cache.put(measure, "k", row)
    kept = cache.get(measure, "k")
    assert kept is not None and kept["onsets"].shape == (0,)
    assert kept["peaks"].tolist() == [1, 1]
