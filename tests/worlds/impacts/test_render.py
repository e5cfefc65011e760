"""What is drawn is where the ball is: each frame shows its instant, to a fraction of a pixel."""

import numpy as np
import pytest
import torch

from mmldm.types import ClipSpec
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip
from mmldm.worlds.impacts.materials import MATERIALS
from mmldm.worlds.impacts.physics import GRAVITY, Ball, Flight, positions, simulate
from mmldm.worlds.impacts.render import background, render


def hung(x, material="plastic", y=0.4):
    """A ball held still at (x, y), and its path."""
    ball = Ball(material, 0.14, 0.8, (x, y), (0.0, 0.0), 1.0)
    return ball, [Flight(0.0, np.array([x, y]), np.zeros(2), 0.0)]


def difference(frames, spec):
    empty = background(spec.height, spec.width).transpose(2, 0, 1) * 255
    return np.abs(frames.astype(float) - empty).sum(1)


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (65, 81), (128, 128)])
def test_ball_is_drawn_where_it_is(size):
    spec = ClipSpec(height=size[0], width=size[1], num_frames=16)
    config = ImpactsConfig(spec=spec)
    rendered = render_clip(config, 3)
    (path,), _ = simulate(rendered.balls, spec.width / spec.height, spec.duration)
    truth = positions(path, np.arange(16) / spec.fps)
    seen = difference(rendered.clip.frames.numpy(), spec) > 60
    for frame, (x, y) in zip(seen, truth, strict=True):
        rows, columns = np.nonzero(frame[: int(spec.height * 0.8)])
        if y > 0.6:
            continue
        assert (columns.min() + columns.max() + 1) / 2 / spec.height == pytest.approx(x, abs=0.03)
        assert (rows.min() + rows.max() + 1) / 2 / spec.height == pytest.approx(y, abs=0.05)


def test_motion_below_a_pixel_is_visible():
    spec = ClipSpec(num_frames=4)
    centroids = []
    for shift in (0.0, 0.25 / 64, 0.5 / 64):
        ball, path = hung(0.4 + shift)
        weight = difference(render([ball], [path], spec), spec)[0, :50]
        centroids.append((weight.sum(0) * (np.arange(64) + 0.5)).sum() / weight.sum())
    np.testing.assert_allclose(np.diff(centroids), 0.25, atol=0.08)


def test_fast_ball_is_blurred_along_its_motion():
    spec = ClipSpec(num_frames=4)
    ball, still = hung(0.5)
    fast = [Flight(0.0, np.array([0.5, 0.4]), np.array([0.0, 3.0]), 0.0)]
    tall, short = (
        (difference(render([ball], [path], spec), spec)[0, :54] > 20).any(1).sum()
        for path in (fast, still)
    )
    assert tall >= short + 2


def test_shadow_darkens_the_floor_more_under_a_low_ball():
    spec = ClipSpec(num_frames=4)
    floor = [
        render([state], [body], spec)[0, :, 60].astype(int).sum()
        for state, body in (hung(0.5, y=y) for y in (0.3, 0.7))
    ]
    empty = (background(64, 64)[60] * 255).sum()
    assert floor[1] < floor[0] < empty


def test_materials_look_different():
    spec = ClipSpec(num_frames=4)
    pictures = []
    for material in MATERIALS:
        ball, path = hung(0.5, material)
        pictures.append(render([ball], [path], spec)[0, :, 18:34, 24:40].astype(float))
    for i, picture in enumerate(pictures):
        for other in pictures[:i]:
            assert np.abs(picture - other).mean() > 15


def test_frame_rate_changes_the_instants_and_not_the_motion():
    slow = render_clip(ImpactsConfig(spec=ClipSpec(num_frames=16, fps=10)), 0)
    fast = render_clip(ImpactsConfig(spec=ClipSpec(num_frames=48, fps=30)), 0)
    assert slow.impacts == fast.impacts
    gap = (slow.clip.frames.float() - fast.clip.frames[::3].float()).abs().mean()
    other = (slow.clip.frames.float() - fast.clip.frames[1::3].float()).abs().mean()
    assert gap < other / 3
    assert fast.clip.frames.dtype == torch.uint8


def test_frames_before_the_first_hit_fall_with_gravity():
    (path,), _ = simulate([Ball("wood", 0.12, 0.8, (0.5, 0.2), (0.0, 0.0), 1.0)], 1.0, 1.0)
    y = positions(path, np.array([0.0, 0.1, 0.2]))[:, 1]
    np.testing.assert_allclose(np.diff(y, n=2), GRAVITY / 100)
