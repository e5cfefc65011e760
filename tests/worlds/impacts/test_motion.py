"""The eye of the evaluator, against paths and impacts that are known."""

import numpy as np
import pytest
import torch

from mmldm.evaluation.events import match
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip
from mmldm.worlds.impacts.motion import Track, background, ballistic, detect_impacts, track
from mmldm.worlds.impacts.physics import FLOOR_LEVEL, Ball, Flight, positions, simulate
from mmldm.worlds.impacts.render import background as drawn_background
from mmldm.worlds.impacts.render import render


def empty_box(height=64, width=64):
    box = torch.from_numpy(drawn_background(height, width)).permute(2, 0, 1)
    return (box * 255).round().to(torch.uint8)


def exact(ball, fps, duration=1.6):
    """The track without any error of seeing, and the true impacts."""
    (path,), impacts = simulate([ball], 1.0, duration)
    times = np.arange(round(duration * fps)) / fps
    kept = np.ones(len(times), dtype=bool)
    return Track(positions(path, times), kept, fps), impacts


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


@pytest.mark.parametrize("drop", [0.25, 0.3, 0.35, 0.4, 0.45])
def test_time_of_a_bounce_is_found_between_frames(drop):
    falling = Ball("wood", 0.12, 0.8, (0.5, FLOOR_LEVEL - 0.12 - drop), (0.0, 0.0), 1.0)
    seen, impacts = exact(falling, fps=10)
    found = detect_impacts(seen)
    assert found[0] == pytest.approx(impacts[0].time, abs=0.005)


def test_wall_hit_is_an_impact():
    flung = Ball("wood", 0.12, 0.8, (0.5, 0.3), (1.4, -1.0), 1.0)
    seen, impacts = exact(flung, fps=10)
    assert impacts[0].surface == "right"
    assert np.abs(detect_impacts(seen) - impacts[0].time).min() < 0.01


def test_free_fall_and_rest_have_no_impacts():
    fall = Flight(0.0, np.array([0.5, 0.2]), np.array([0.3, -0.5]), 350 / 64)
    times = np.arange(6) / 10
    falling = Track(fall.at(times), np.ones(6, dtype=bool), 10)
    assert len(detect_impacts(falling)) == 0
    assert ballistic(falling).all()
    lying = Track(np.full((16, 2), 0.8), np.ones(16, dtype=bool), 10)
    assert len(detect_impacts(lying)) == 0
    assert not ballistic(lying).any()


def test_jitter_is_not_ballistic():
    noise = np.random.default_rng(0).normal(0, 0.05, (16, 2))
    assert ballistic(Track(0.5 + noise, np.ones(16, dtype=bool), 10)).mean() < 0.3


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


def test_impacts_world_is_seen_as_the_ground_truth_says():
    clips = [render_clip(ImpactsConfig(seed=9), index) for index in range(48)]
    empty = background([rendered.clip.frames for rendered in clips])
    hits = seen = impacts = 0
    for rendered in clips:
        truth = np.array([i.time for i in rendered.impacts if i.audible and i.time <= 1.5])
        found = detect_impacts(track(rendered.clip.frames, 10.0, empty))
        hits += len(truth)
        impacts += len(found)
        seen += len(match(found, truth, 0.05))
    assert seen / hits > 0.8
    assert seen / impacts > 0.85


def test_ball_hanging_still_is_seen_where_it_hangs():
    spec = ClipSpec(num_frames=4)
    ball = Ball("drum", 0.14, 0.8, (0.3, 0.4), (0.0, 0.0), 1.0)
    still = [Flight(0.0, np.array(ball.position), np.zeros(2), 0.0)]
    frames = torch.from_numpy(render([ball], [still], spec))
    np.testing.assert_allclose(
        track(frames, spec.fps, empty_box()).centres, [[0.3, 0.4]] * 4, atol=0.01
    )
