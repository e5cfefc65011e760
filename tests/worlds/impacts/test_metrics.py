"""Sync says high where picture and sound belong together, and chance where they do not."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from mmldm.errors import UserError
from mmldm.evaluation.metrics import choose
from mmldm.evaluation.metrics import metrics as general
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip
from mmldm.worlds.impacts.metrics import METRICS, Impacts, numbers_of, sync
from mmldm.worlds.impacts.motion import background


@pytest.fixture(scope="module")
def clips():
    return [render_clip(ImpactsConfig(seed=6), index).clip for index in range(48)]


@pytest.fixture(scope="module")
def numbers(clips):
    return numbers_of(clips)


def test_onsets_after_the_last_frame_do_not_count_against_the_clip():
    assert sync(np.array([0.5, 1.58]), np.array([0.51]), 0.05, last=1.5) == (1, 1, 1, 1)


def test_real_clips_are_in_sync_and_shuffled_ones_are_not(numbers):
    for ms, chance in ((20, 0.2), (50, 0.4)):
        recall, precision = (numbers[f"sync-{name}-{ms}"] for name in ("recall", "precision"))
        assert recall.value > 0.85
        assert precision.value > 0.85
        assert recall.interval[0] <= recall.value <= recall.interval[1]
        assert recall.shuffled < chance
    assert numbers["sync-timing"].value < 2 < 15 < numbers["sync-timing"].shuffled
    assert numbers["impacts-per-clip"].n == 48
    assert numbers["ball-kept"].value > 0.99
    assert 2 < numbers["impacts-per-clip"].value < 6


def test_real_hits_rise_at_once_after_silence_and_are_as_loud_as_they_are_fast(numbers):
    assert 0.5 < numbers["attack"].value < 3
    assert numbers["pre-echo"].value < -40
    assert numbers["loudness-speed"].value > 0.9
    assert numbers["jitter"].value < 0.2
    assert numbers["restitution-spread"].value < 0.02
    for name in ("attack", "pre-echo", "loudness-speed", "jitter", "laplacian", "fine-power"):
        low, high = numbers[name].interval
        assert low <= numbers[name].value <= high


def test_late_sound_falls_to_chance(clips):
    late = [dataclasses.replace(clip, waveform=torch.roll(clip.waveform, 3200)) for clip in clips]
    recall = numbers_of(late)["sync-recall-50"]
    assert recall.value < recall.shuffled + 0.15


def test_silent_clips_have_no_precision_to_speak_of(clips):
    silent = [
        dataclasses.replace(clip, waveform=torch.zeros_like(clip.waveform)) for clip in clips[:6]
    ]
    found = numbers_of(silent)
    assert found["onsets-per-clip"].value == 0
    assert found["sync-recall-50"].value == 0
    assert found["sync-precision-50"].value is None


def test_one_clip_has_no_shuffled_anchor(clips):
    assert numbers_of(clips[:1])["sync-recall-50"].shuffled is None


def test_numbers_are_reproducible_json(clips):
    first, second = (numbers_of(clips[:12], seed=3) for _ in range(2))
    assert first == second
    plain = {name: dataclasses.asdict(value) for name, value in first.items()}
    assert json.loads(json.dumps(plain)).keys() == plain.keys()


def test_both_detectors_see_every_clip(clips):
    found = Impacts(background([clip.frames for clip in clips]))(clips)
    assert len(found) == len(clips)
    assert all(clip["last"] == 1.5 for clip in found)


def test_clips_that_cannot_be_measured_are_refused(clips):
    with pytest.raises(UserError, match="no clips"):
        numbers_of([])
    short = dataclasses.replace(clips[0], frames=clips[0].frames[:3])
    with pytest.raises(UserError, match="4 frames"):
        numbers_of([short])
    small = dataclasses.replace(clips[0], frames=clips[0].frames[..., ::2, ::2])
    with pytest.raises(UserError, match="one picture size"):
        numbers_of([clips[0], small])
    with pytest.raises(UserError, match="one picture size"):
        Impacts(background([clips[0].frames]))([small])


def test_late_sound_has_that_error_and_is_known_to_be_late(clips, numbers):
    """30 ms are 480 samples."""
    late = [dataclasses.replace(clip, waveform=torch.roll(clip.waveform, 480)) for clip in clips]
    delayed = numbers_of(late)
    lateness = (found["sync-offset-50"].value for found in (delayed, numbers))
    assert next(lateness) - next(lateness) == pytest.approx(30, abs=1)
    own, error = numbers["sync-timing"], delayed["sync-timing"]
    assert own.value < 2 < 25 < error.value < 35
    assert own.interval[0] < own.value < own.interval[1]
    assert delayed["sync-recall-20"].value < 0.2 < 0.8 < delayed["sync-recall-50"].value
    for name in ("attack", "pre-echo", "jitter"):
        assert delayed[name].value == pytest.approx(numbers[name].value, rel=0.1)


def test_metrics_of_the_world_stand_among_the_others_only_where_they_are_asked_for():
    own = {metric.name for metric in METRICS}
    every = general(10, METRICS)
    numbers = [number.name for metric in every for number in metric.numbers]
    assert len(numbers) == len(set(numbers))
    assert not own & {metric.name for metric in choose(None, 10, further=METRICS)}
    asked = choose(None, 10, ["impacts"], METRICS)
    assert own & {metric.name for metric in asked} == {"impacts"}
    assert [m.name for m in choose(["silent", "material"], 10, (), METRICS)] == [
        "material",
        "silent",
    ]
