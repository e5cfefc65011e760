"""Flashes with clicks align, clicks elsewhere do not, and nothing at all is no number."""

import numpy as np
import pytest
import torch

from mmldm.evaluation.av_align import (
    av_align,
    beat_alignment,
    intersection_over_union,
    mean_of_defined,
    motion_energy,
    motion_peaks,
    motion_rests,
)
from mmldm.media.clip import Clip


def clip(jumps: list[int], clicks: list[float], fps: float = 10, seconds: float = 2.0) -> Clip:
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
    frames = clip([5, 12], []).frames
    energy = motion_energy(frames)
    assert energy.shape == (19,) and set(energy.argsort()[-2:]) == {4, 11}
    assert motion_peaks(frames, 10) == pytest.approx([0.5, 1.2])


def test_rests_are_the_frames_between_two_jumps():
    assert motion_rests(clip([5, 7], []).frames, 10) == pytest.approx([0.6])


def test_brightness_of_a_large_frame_does_not_depend_on_its_size():
    small = clip([5], []).frames
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    np.testing.assert_allclose(motion_energy(large), motion_energy(small), atol=1e-6)


def test_intersection_counts_onsets_within_the_tolerance_as_published():
    onsets, peaks = np.array([0.1, 0.15, 0.9]), np.array([0.12, 0.5])
    assert intersection_over_union(onsets, peaks, 0.1) == 2 / 3
    assert intersection_over_union(onsets, onsets, 0.1) == 1
    assert intersection_over_union(onsets, np.array([]), 0.1) == 0
    assert intersection_over_union(np.array([]), np.array([]), 0.1) is None


def test_clicks_with_the_jumps_align_and_clicks_elsewhere_do_not():
    jumps = [4, 9, 14]
    assert av_align(clip(jumps, [0.4, 0.9, 1.4])) == 1
    assert av_align(clip(jumps, [0.65, 1.15, 1.65])) == 0
    assert av_align(clip(jumps, [0.9])) == pytest.approx(1 / 3)
    assert av_align(clip(jumps, [])) == 0


def test_still_picture_without_sound_has_no_alignment():
    still = clip([], [])
    still.frames[1:] = still.frames[0]
    assert av_align(still) is None


def test_rest_at_an_onset_is_aligned_and_one_far_from_it_is_not():
    at, near, far = (beat_alignment(clip([5, 7], [time])) for time in (0.6, 0.65, 1.5))
    assert at > 0.95 and far < 0.01
    assert near == pytest.approx(np.exp(-0.5), abs=0.1)
    assert beat_alignment(clip([5, 7], [])) is None
    assert beat_alignment(clip([], [0.6])) is None


def test_mean_is_over_what_is_defined():
    assert mean_of_defined([None, 1.0, 0.5]) == (0.75, 2)
    assert mean_of_defined([None]) == (None, 0)
