"""The eye of the evaluator, against paths that are known."""

import numpy as np
import pytest
import torch

from mmldm.types import ClipSpec
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip
from mmldm.worlds.impacts.motion import Track, background, ballistic, track
from mmldm.worlds.impacts.physics import Ball, Flight, positions, simulate
from mmldm.worlds.impacts.render import background as drawn_background
from mmldm.worlds.impacts.render import render


def empty_box(height=64, width=64):
    box = torch.from_numpy(drawn_background(height, width)).permute(2, 0, 1)
    return (box * 255).round().to(torch.uint8)


@pytest.mark.parametrize("size", [64, 96, 128])
def test_ball_is_followed_to_a_pixel(size):
    spec = ClipSpec(height=size, width=size)
    for index in range(6):
        rendered = render_clip(ImpactsConfig(seed=3, spec=spec), index)
        (path,), _ = simulate(rendered.balls, 1.0, spec.duration)
        truth = positions(path, np.arange(16) / spec.fps)
        seen = track(rendered.clip.frames, spec.fps, empty_box(size, size))
        assert seen.kept.all()
        assert np.abs(seen.centres - truth).mean() < 1 / 64


def test_free_fall_is_ballistic_and_rest_is_not():
    fall = Flight(0.0, np.array([0.5, 0.2]), np.array([0.3, -0.5]), 350 / 64)
    falling = Track(fall.at(np.arange(6) / 10), np.ones(6, dtype=bool), 10, 0.13)
    assert ballistic(falling).all()
    lying = Track(np.full((16, 2), 0.8), np.ones(16, dtype=bool), 10, 0.13)
    assert not ballistic(lying).any()


@pytest.mark.parametrize("index", range(6))
def test_radius_is_that_of_the_ball(index):
    rendered = render_clip(ImpactsConfig(seed=3, spec=ClipSpec(height=96, width=96)), index)
    seen = track(rendered.clip.frames, 10, empty_box(96, 96))
    assert seen.radius == pytest.approx(rendered.balls[0].radius, rel=0.08)
    assert seen.width == 1


def test_jitter_is_not_ballistic():
    noise = np.random.default_rng(0).normal(0, 0.05, (16, 2))
    assert ballistic(Track(0.5 + noise, np.ones(16, dtype=bool), 10, 0.13)).mean() < 0.3


def test_empty_frames_lose_the_ball():
    spec = ClipSpec()
    frames = render_clip(ImpactsConfig(seed=3), 0).clip.frames.clone()
    frames[5:8] = empty_box()
    assert track(frames, spec.fps, empty_box()).kept.tolist() == [
        index not in (5, 6, 7) for index in range(16)
    ]


def test_background_is_recovered_from_the_clips():
    clips = [render_clip(ImpactsConfig(seed=3), index).clip.frames for index in range(36)]
    error = (background(clips).float() - empty_box().float()).abs()
    assert error[:, :45].max() <= 2
    assert error.mean() < 1


def test_background_of_unequal_clips_draws_frames_evenly():
    dark = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    light = torch.full((900, 3, 4, 4), 200, dtype=torch.uint8)
    assert (background([dark, light], most=64) == 200).all()
    assert (background([dark]) == 0).all()


def test_ball_hanging_still_is_seen_where_it_hangs():
    spec = ClipSpec(num_frames=4)
    ball = Ball("drum", 0.14, 0.8, (0.3, 0.4), (0.0, 0.0), 1.0)
    still = [Flight(0.0, np.array(ball.position), np.zeros(2), 0.0)]
    frames = torch.from_numpy(render([ball], [still], spec))
    np.testing.assert_allclose(
        track(frames, spec.fps, empty_box()).centres, [[0.3, 0.4]] * 4, atol=0.01
    )
