"""Onsets, peaks and rests stand where they are known to be, and sound and picture agree where they should."""

import itertools

import numpy as np
import pytest
import torch

from mmldm.evaluation.events import (
    closeness,
    derangement,
    detect_onsets,
    intersection_over_union,
    is_frozen,
    is_silent,
    lags,
    match,
    motion_energy,
    motion_peaks,
    motion_rests,
)
from mmldm.media.clip import Clip
from mmldm.media.resampling import resample
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip


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


def jumping(jumps: list[int], clicks: list[float], fps: float = 10, seconds: float = 2.0) -> Clip:
    """A square that jumps into each of the given frames and creeps otherwise; noise bursts as clicks."""
    count = round(fps * seconds)
    frames = torch.zeros(count, 3, 64, 64, dtype=torch.uint8)
    places = np.cumsum([6 if k in jumps else 1 for k in range(count)])
    for k, place in enumerate(places):
        frames[k, :, 20:40, place : place + 20] = 255
    rate = 16_000
    waveform = torch.zeros(round(rate * seconds))
    burst = torch.randn(400, generator=torch.Generator().manual_seed(0)) / 4
    for click in clicks:
        start = round(click * rate)
        waveform[start : start + 400] = burst * torch.linspace(1, 0, 400)
    return Clip(frames, waveform, fps, rate)


def test_peaks_are_the_frames_that_something_jumps_into():
    frames = jumping([5, 12], []).frames
    energy = motion_energy(frames)
    assert energy.shape == (19,) and set(energy.argsort()[-2:]) == {4, 11}
    assert motion_peaks(frames, 10) == pytest.approx([0.5, 1.2])


def test_rests_are_the_frames_between_two_jumps():
    assert motion_rests(jumping([5, 7], []).frames, 10) == pytest.approx([0.6])


def test_brightness_of_a_large_frame_does_not_depend_on_its_size():
    small = jumping([5], []).frames
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    np.testing.assert_allclose(motion_energy(large), motion_energy(small), atol=1e-6)


def test_intersection_counts_onsets_within_the_tolerance_as_published():
    onsets, peaks = np.array([0.1, 0.15, 0.9]), np.array([0.12, 0.5])
    assert intersection_over_union(onsets, peaks, 0.1) == 2 / 3
    assert intersection_over_union(onsets, onsets, 0.1) == 1
    assert intersection_over_union(onsets, np.array([]), 0.1) == 0
    assert intersection_over_union(np.array([]), np.array([]), 0.1) is None


def av_align(clip: Clip) -> float | None:
    onsets = detect_onsets(clip.waveform, clip.sample_rate)
    return intersection_over_union(onsets, motion_peaks(clip.frames, clip.fps), 1 / clip.fps)


def beat_alignment(clip: Clip) -> float | None:
    onsets = detect_onsets(clip.waveform, clip.sample_rate)
    return closeness(onsets, motion_rests(clip.frames, clip.fps))


def test_clicks_with_the_jumps_align_and_clicks_elsewhere_do_not():
    jumps = [4, 9, 14]
    assert av_align(jumping(jumps, [0.4, 0.9, 1.4])) == 1
    assert av_align(jumping(jumps, [0.65, 1.15, 1.65])) == 0
    assert av_align(jumping(jumps, [0.9])) == pytest.approx(1 / 3)
    assert av_align(jumping(jumps, [])) == 0


def test_still_picture_without_sound_has_no_alignment():
    still = jumping([], [])
    still.frames[1:] = still.frames[0]
    assert av_align(still) is None


def test_rest_at_an_onset_is_aligned_and_one_far_from_it_is_not():
    at, near, far = (beat_alignment(jumping([5, 7], [time])) for time in (0.6, 0.65, 1.5))
    assert at > 0.95 and far < 0.01
    assert near == pytest.approx(np.exp(-0.5), abs=0.1)
    assert beat_alignment(jumping([5, 7], [])) is None
    assert beat_alignment(jumping([], [0.6])) is None


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


@pytest.mark.parametrize("sizes", [[1] * 9, [3, 1, 4, 2], [2, 2], [5, 1]])
def test_no_sound_goes_to_a_picture_of_its_own_recording(sizes):
    """Unless one recording has more than half of all: then no sound stays where it was."""
    units = np.random.default_rng(3).permutation(np.repeat(np.arange(len(sizes)), sizes))
    rng = np.random.default_rng(0)
    for _ in range(50):
        order = derangement(len(units), rng, units)
        assert sorted(order) == list(range(len(units))) and (order != np.arange(len(units))).all()
        if 2 * max(sizes) <= len(units):
            assert (units[order] != units).all()
    orders = [derangement(9, np.random.default_rng(1), of).tolist() for of in (None, np.arange(9))]
    assert orders[0] == orders[1]


def test_lags_are_those_of_the_matched_pairs():
    late = lags(np.array([0.1, 0.52, 0.9]), np.array([0.12, 0.5]), 0.05)
    np.testing.assert_allclose(late, [-0.02, 0.02])
    assert len(lags(np.array([0.1]), np.array([0.9]), 0.05)) == 0


def noisy(loudness: float, moves: int) -> Clip:
    frames = torch.randint(255, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0)).repeat(
        8, 1, 1, 1
    )
    frames[4, :, :8] += moves
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    return Clip(frames.to(torch.uint8), noise * loudness, 10, 16_000)


def test_silence_and_stillness_are_found_where_they_are():
    clips = [noisy(0.1, 1), noisy(0.0, 1), noisy(3e-3, 0), noisy(3e-4, 2)]
    assert [is_silent(clip) for clip in clips] == [False, True, False, True]
    assert [is_frozen(clip) for clip in clips] == [False, False, True, False]


def test_impacts_clips_raise_no_alarm(real):
    assert not any(is_silent(clip) or is_frozen(clip) for clip in real)
