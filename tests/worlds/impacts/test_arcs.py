"""Impacts, their speeds and what the ball leaves its path by, against paths that are known."""

import numpy as np
import pytest

from mmldm.evaluation.events import lags
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.arcs import fit, frame_speeds
from mmldm.worlds.impacts.bounces import detect_impacts, jitter
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip
from mmldm.worlds.impacts.motion import Track, background, track
from mmldm.worlds.impacts.physics import FLOOR_LEVEL, Ball, Flight, positions, simulate


def seen_of(path, times, fps, radius=0.12):
    return Track(positions(path, times), np.ones(len(times), dtype=bool), fps, radius)


def exact(ball, fps, duration=1.6, start=0.0):
    """The track without any error of seeing, and the true impacts; cut from the midst of a flight."""
    (path,), impacts = simulate([ball], 1.0, start + duration)
    times = np.arange(round(duration * fps)) / fps
    seen = seen_of(path, start + times, fps, ball.radius)
    return seen, [(i.time - start, i.speed, i.surface) for i in impacts if i.time > start]


def found_in(seen):
    return detect_impacts(seen, fit(seen))


@pytest.mark.parametrize("start", [0.0, 0.13, 0.37])
@pytest.mark.parametrize("drop", [0.25, 0.35, 0.45])
def test_a_bounce_is_found_between_frames_with_its_speed_wherever_the_clip_begins(drop, start):
    falling = Ball("wood", 0.12, 0.8, (0.5, FLOOR_LEVEL - 0.12 - drop), (0.2, 0.0), 1.0)
    seen, impacts = exact(falling, fps=10, start=start)
    found = found_in(seen)
    time, speed, _ = next(impact for impact in impacts if impact[0] > 0.2)
    nearest = np.abs(found.times - time).argmin()
    assert found.times[nearest] == pytest.approx(time, abs=1e-6)
    assert found.speeds[nearest] == pytest.approx(speed, rel=1e-6)
    assert found.restitutions[nearest] == pytest.approx(0.8, rel=1e-6)


def test_wall_and_floor_one_after_the_other_are_two_impacts():
    flung = Ball("wood", 0.12, 0.8, (0.5, 0.3), (1.4, -1.0), 1.0)
    seen, impacts = exact(flung, fps=10, duration=0.8)
    impacts = [impact for impact in impacts if impact[0] < 0.7]
    assert [surface for *_, surface in impacts] == ["right", "floor"]
    found = found_in(seen)
    np.testing.assert_allclose(found.times, [time for time, *_ in impacts], atol=1e-6)
    np.testing.assert_allclose(found.speeds, [speed for _, speed, _ in impacts], rtol=1e-6)
    assert np.isnan(found.restitutions[0])


def test_ceiling_is_a_surface_too():
    thrown = Ball("glass", 0.12, 0.8, (0.5, 0.4), (0.0, -2.5), 1.0)
    seen, impacts = exact(thrown, fps=20, duration=0.4)
    assert [surface for *_, surface in impacts][:1] == ["ceiling"]
    found = found_in(seen)
    assert found.times[0] == pytest.approx(impacts[0][0], abs=1e-6)
    assert np.isnan(found.restitutions[0])


def test_bounces_faster_than_the_frames_are_followed_on_the_floor():
    """One frame between two bounces is on no arc of its own."""
    low = Ball("drum", 0.12, 0.75, (0.5, FLOOR_LEVEL - 0.12 - 0.1), (0.0, 0.0), 1.0)
    seen, impacts = exact(low, fps=10, duration=1.1)
    audible = [time for time, speed, _ in impacts if speed > 18 / 64 and time < 1.0]
    assert np.diff(audible).min() < 0.16
    np.testing.assert_allclose(found_in(seen).times, audible, atol=0.02)


def test_a_ball_that_is_thrown_anew_from_the_floor_was_not_struck():
    rest = Flight(0.0, np.array([0.5, FLOOR_LEVEL - 0.12]), np.zeros(2), 0.0)
    thrown = Flight(0.52, np.array([0.5, FLOOR_LEVEL - 0.12]), np.array([0.3, -2.0]), 350 / 64)
    # Five frames of rest before the throw, or two of them.
    for start in (0.0, 0.35):
        seen = seen_of([rest, thrown], start + np.arange(9) / 10, 10)
        assert len(found_in(seen).times) == 0


def test_free_fall_and_rest_have_no_impacts_and_few_frames_are_no_fault():
    fall = Flight(0.0, np.array([0.5, 0.2]), np.array([0.3, -0.5]), 350 / 64)
    for count in (4, 6):
        assert len(found_in(seen_of([fall], np.arange(count) / 10, 10)).times) == 0
    lying = Track(np.full((16, 2), 0.8), np.ones(16, dtype=bool), 10, 0.1)
    assert len(found_in(lying).times) == 0
    unseen = Track(np.full((16, 2), 0.5), np.zeros(16, dtype=bool), 10, 0.0)
    assert len(found_in(unseen).times) == 0


def test_frames_without_the_ball_leave_the_other_impacts_where_they_are():
    falling = Ball("wood", 0.12, 0.8, (0.5, 0.3), (0.0, 0.0), 1.0)
    seen, _ = exact(falling, fps=20)
    kept = seen.kept.copy()
    kept[[2, 3, 12]] = False
    centres = np.where(kept[:, None], seen.centres, 0.0)
    found = found_in(Track(centres, kept, seen.fps, seen.radius))
    np.testing.assert_allclose(found.times, found_in(seen).times, atol=1e-6)


@pytest.mark.parametrize("pixels", [0.1, 0.3])
def test_jitter_is_the_noise_on_the_path_and_impacts_stay(pixels):
    rng = np.random.default_rng(0)
    clean: list[tuple[float, int]] = []
    noisy: list[tuple[float, int]] = []
    for index in range(40):
        (path,), _ = simulate(render_clip(ImpactsConfig(seed=2), index).balls, 1.0, 1.6)
        seen = seen_of(path, np.arange(16) / 10, 10)
        noise = rng.normal(0, pixels / 128, seen.centres.shape)
        shaken = Track(seen.centres + noise, seen.kept, 10, seen.radius)
        for side, one in ((clean, seen), (noisy, shaken)):
            cut = fit(one)
            struck = detect_impacts(one, cut)
            side.append((128 * jitter(one, cut, struck), len(struck.times)))
    (still, impacts), (moved, others) = (np.array(side).T for side in (clean, noisy))
    assert np.nanmedian(still) < 0.01
    assert np.nanmedian(moved) == pytest.approx(pixels, rel=0.2)
    assert others.sum() == pytest.approx(impacts.sum(), rel=0.05)


def test_speeds_of_frames_are_those_of_their_arcs():
    falling = Ball("wood", 0.12, 0.8, (0.5, 0.3), (0.4, 0.0), 1.0)
    seen, _ = exact(falling, fps=10, duration=0.4)
    wanted = np.hypot(0.4, 350 / 64 * np.arange(3) / 10)
    np.testing.assert_allclose(frame_speeds(seen, fit(seen))[:3], wanted, rtol=1e-6)


def test_impacts_of_drawn_clips_are_timed_to_a_millisecond():
    clips = [
        render_clip(ImpactsConfig(seed=9, spec=ClipSpec(height=96, width=96)), i) for i in range(36)
    ]
    empty = background([rendered.clip.frames for rendered in clips])
    errors, speeds, hits, impacts = [], [], 0, 0
    for rendered in clips:
        truth = sorted((i.time, i.speed) for i in rendered.impacts if i.audible and i.time <= 1.5)
        times = np.array([time for time, _ in truth])
        found = found_in(track(rendered.clip.frames, 10.0, empty))
        errors.append(1000 * lags(found.times, times, 0.02))
        hits, impacts = hits + len(times), impacts + len(found.times)
        for time, speed in zip(found.times, found.speeds, strict=True):
            if np.abs(times - time).min() < 0.005:
                speeds.append(speed / truth[int(np.abs(times - time).argmin())][1])
    late = np.concatenate(errors)
    assert np.median(np.abs(late)) < 1.5
    assert abs(np.median(late)) < 0.5
    assert len(late) / hits > 0.82
    assert len(late) / impacts > 0.93
    assert np.median(np.abs(np.array(speeds) - 1)) < 0.02
