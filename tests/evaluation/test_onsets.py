"""The ear of the evaluator, against sounds whose onsets are known."""

import numpy as np
import pytest
import torch

from mmldm.evaluation.onsets import detect_onsets
from mmldm.media.resampling import resample
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip
from mmldm.worlds.impacts.sync import match


def plucks(times, rate, frequency=700.0, duration=1.6):
    clock = torch.arange(round(duration * rate)) / rate
    sound = torch.zeros_like(clock)
    for time in times:
        since = (clock - time).clamp(min=0)
        ringing = torch.sin(2 * torch.pi * frequency * since) * torch.exp(-20 * since)
        sound += 0.4 * ringing * (clock >= time)
    return sound


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_plucks_are_found_where_they_are(rate):
    times = [0.2, 0.51, 0.83, 1.3]
    onsets = detect_onsets(plucks(times, rate), rate)
    np.testing.assert_allclose(onsets, times, atol=0.01)


def test_silence_and_a_held_tone_have_no_onsets():
    assert len(detect_onsets(torch.zeros(16000), 16000)) == 0
    tone = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(32000) / 16000)
    assert len(detect_onsets(tone, 16000)) == 0


def test_beating_tones_have_no_onsets():
    clock = torch.arange(32000) / 16000
    beating = sum(0.2 * torch.sin(2 * torch.pi * f * clock) for f in (800, 806, 1210))
    assert len(detect_onsets(beating, 16000)) == 0


def test_level_of_the_recording_hardly_matters():
    loud = plucks([0.3, 0.9], 16000)
    assert len(detect_onsets(loud, 16000)) == len(detect_onsets(loud * 0.1, 16000)) == 2


def test_impacts_world_is_heard_as_the_ground_truth_says():
    hits = heard = onsets = 0
    for index in range(36):
        rendered = render_clip(ImpactsConfig(seed=9), index)
        truth = np.array([impact.time for impact in rendered.impacts if impact.audible])
        found = detect_onsets(rendered.clip.waveform, rendered.clip.sample_rate)
        hits += len(truth)
        heard += len(match(found, truth, 0.03))
        onsets += len(found)
    assert heard / hits > 0.9
    assert heard / onsets > 0.95


def test_sounds_without_treble_have_the_same_onsets_at_44_khz():
    clips = [render_clip(ImpactsConfig(seed=3), index).clip for index in range(12)]
    wide = [resample(clip.waveform, clip.sample_rate, 44_100) for clip in clips]
    found = [detect_onsets(sound, 44_100) for sound in wide]
    wanted = [detect_onsets(clip.waveform, clip.sample_rate) for clip in clips]
    assert sum(map(len, found)) == pytest.approx(sum(map(len, wanted)), rel=0.02)
    for onsets, own in zip(found, wanted, strict=True):
        assert len(match(onsets, own, 0.011)) >= len(own) - 1
