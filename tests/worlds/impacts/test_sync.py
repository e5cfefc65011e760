"""Sync says high where picture and sound belong together, and chance where they do not."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from mmldm.errors import UserError
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip
from mmldm.worlds.impacts.sync import alignment_report, detect, lags, match, sync


@pytest.fixture(scope="module")
def clips():
    return [render_clip(ImpactsConfig(seed=6), index).clip for index in range(48)]


def largest_matching(onsets, impacts, tolerance):
    """By trying every pairing."""
    for size in range(min(len(onsets), len(impacts)), 0, -1):
        for chosen in itertools.combinations(onsets, size):
            for others in itertools.permutations(impacts, size):
                if all(abs(a - b) <= tolerance for a, b in zip(chosen, others, strict=True)):
                    return size
    return 0


@pytest.mark.parametrize("seed", range(30))
def test_matching_is_one_to_one_and_as_large_as_possible(seed):
    rng = np.random.default_rng(seed)
    onsets, impacts = (np.sort(rng.uniform(0, 1, rng.integers(0, 5))) for _ in range(2))
    pairs = match(onsets, impacts, 0.1)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert all(abs(onsets[i] - impacts[j]) <= 0.1 for i, j in pairs)
    assert len(pairs) == largest_matching(onsets, impacts, 0.1)


def test_onsets_after_the_last_frame_do_not_count_against_the_clip():
    counts = sync(np.array([0.5, 1.58]), np.array([0.51]), 0.05, last=1.5)
    assert dataclasses.astuple(counts) == (1, 1, 1, 1)


def test_real_clips_are_in_sync_and_shuffled_ones_are_not(clips):
    report = alignment_report(clips)
    close, loose = report["sync"]
    for row in (close, loose):
        assert row["recall"] > 0.85
        assert row["precision"] > 0.85
        assert row["recall_interval"][0] <= row["recall"] <= row["recall_interval"][1]
    assert close["recall_shuffled"] < 0.4
    assert close["recall_shuffled"] < loose["recall_shuffled"] < 0.65
    assert report["clips"] == 48
    assert report["ball_kept"] > 0.99
    assert 2 < report["impacts_per_clip"] < 6


def test_late_sound_falls_to_chance(clips):
    late = [dataclasses.replace(clip, waveform=torch.roll(clip.waveform, 3200)) for clip in clips]
    (row,) = alignment_report(late, tolerances=(0.05,))["sync"]
    assert row["recall"] < row["recall_shuffled"] + 0.15


def test_silent_clips_have_no_precision_to_speak_of(clips):
    silent = [
        dataclasses.replace(clip, waveform=torch.zeros_like(clip.waveform)) for clip in clips[:6]
    ]
    report = alignment_report(silent)
    assert report["onsets_per_clip"] == 0
    assert report["sync"][0]["recall"] == 0
    assert report["sync"][0]["precision"] is None


def test_one_clip_has_no_shuffled_anchor(clips):
    row = alignment_report(clips[:1])["sync"][0]
    assert row["recall_shuffled"] is None


def test_report_is_reproducible_json(clips):
    report = alignment_report(clips[:12], seed=3)
    assert json.loads(json.dumps(report)) == report
    assert alignment_report(clips[:12], seed=3) == report


def test_both_detectors_see_every_clip(clips):
    found = detect(clips)
    assert len(found) == len(clips)
    assert all(moments.last == 1.5 for moments in found)


def test_clips_that_cannot_be_measured_are_refused(clips):
    with pytest.raises(UserError, match="no clips"):
        alignment_report([])
    short = dataclasses.replace(clips[0], frames=clips[0].frames[:3])
    with pytest.raises(UserError, match="4 frames"):
        alignment_report([short])
    small = dataclasses.replace(clips[0], frames=clips[0].frames[..., ::2, ::2])
    with pytest.raises(UserError, match="one picture size"):
        alignment_report([clips[0], small])


def test_late_sound_has_that_error_and_is_known_to_be_late(clips):
    """30 ms are 480 samples."""
    late = [dataclasses.replace(clip, waveform=torch.roll(clip.waveform, 480)) for clip in clips]
    (own,), (delayed,) = (
        alignment_report(some, tolerances=(0.1,))["sync"] for some in (clips, late)
    )
    assert delayed["offset_ms"] - own["offset_ms"] == pytest.approx(30, abs=5)
    assert own["error_ms"] < 15 < delayed["error_ms"] < own["error_ms_shuffled"]
    low, high = own["error_ms_interval"]
    assert low < own["error_ms"] < high


def test_lags_are_those_of_the_matched_pairs():
    late = lags(np.array([0.1, 0.52, 0.9]), np.array([0.12, 0.5]), 0.05)
    np.testing.assert_allclose(late, [-0.02, 0.02])
    assert len(lags(np.array([0.1]), np.array([0.9]), 0.05)) == 0
