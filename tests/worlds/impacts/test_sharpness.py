"""Sharpness is of the ball where it is slow, and knows blur and grain."""

import dataclasses

import numpy as np
import pytest
import torch

from mmldm.media.clip import Clip
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.arcs import fit
from mmldm.worlds.impacts.corruptions import blur, noise
from mmldm.worlds.impacts.motion import Track, track
from mmldm.worlds.impacts.physics import Ball, Flight
from mmldm.worlds.impacts.render import background, render
from mmldm.worlds.impacts.sharpness import sharpness

SPEC = ClipSpec(num_frames=8, height=96, width=96)


def shown(material, velocity=(0.0, 0.0), x=0.4):
    ball = Ball(material, 0.13, 0.8, (x, 0.4), velocity, 1.0)
    flight = Flight(0.0, np.array(ball.position), np.array(velocity), 0.0)
    frames = torch.from_numpy(render([ball], [[flight]], SPEC))
    return Clip(frames, torch.zeros(16), SPEC.fps, SPEC.sample_rate)


def measured(clip):
    empty = (torch.from_numpy(background(96, 96)).permute(2, 0, 1) * 255).round().to(torch.uint8)
    path = track(clip.frames, clip.fps, empty)
    return sharpness(clip.frames, path, fit(path))


def test_blur_lowers_both_numbers_and_grain_raises_them():
    clip, rng = shown("drum"), np.random.default_rng(0)
    sharp, soft, grainy = (measured(x) for x in (clip, blur(clip, 1, rng), noise(clip, 12, rng)))
    assert sharp.frames == 8
    assert soft.laplacian < 0.5 * sharp.laplacian < 0.7 * grainy.laplacian
    assert soft.fine < 0.8 * sharp.fine < grainy.fine


def test_variance_of_the_laplacian_of_white_noise_is_twenty_times_its_own():
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.normal(128, 10, (30, 1, 96, 96)), 3, 1)
    frames = torch.from_numpy(grey.round().clip(0, 255)).to(torch.uint8)
    path = Track(np.full((30, 2), 0.5), np.ones(30, dtype=bool), 10, 0.13)
    found = sharpness(frames, path, fit(path))
    assert found.laplacian == pytest.approx(20 * 100, rel=0.05)
    # Of a flat spectrum, all but a disc with a quarter of Nyquist's radius is fine.
    assert found.fine == pytest.approx(100 * (1 - np.pi * 0.125**2), rel=0.05)


def test_pattern_has_more_fine_detail_than_a_plain_ball():
    assert measured(shown("plastic")).laplacian > 2 * measured(shown("rubber")).laplacian


def test_fast_frames_say_nothing():
    fast = measured(shown("drum", velocity=(0.75, 0.0), x=0.2))
    assert fast.frames == 0
    assert np.isnan([fast.laplacian, fast.fine]).all()


def test_a_ball_at_the_edge_of_the_frame_is_measured_as_well():
    clip = shown("drum")
    rolled = dataclasses.replace(clip, frames=clip.frames.roll(-28, -1))
    path = Track(np.full((8, 2), [0.4 - 28 / 96, 0.4]), np.ones(8, dtype=bool), 10, 0.13)
    found = sharpness(rolled.frames, path, fit(path))
    assert np.isfinite([found.laplacian, found.fine]).all()
