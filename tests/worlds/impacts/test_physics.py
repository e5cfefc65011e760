"""The box obeys its laws: free fall in closed form, no ball outside, no energy from nothing."""

from math import sqrt

import numpy as np
import pytest

from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip
from mmldm.worlds.impacts.physics import (
    FLOOR_LEVEL,
    GRAVITY,
    LEAST_DROP,
    PAUSES,
    WALL_THICKNESS,
    Ball,
    positions,
    simulate,
)


def ball(x=0.5, y=0.3, vx=0.0, vy=0.0, radius=0.12, restitution=0.8, material="wood"):
    return Ball(material, radius, restitution, (x, y), (vx, vy), 1.0)


def drawn_balls(seed, count):
    config = ImpactsConfig(seed=seed, min_balls=count, max_balls=count)
    return render_clip(config, 0).balls


def test_dropped_ball_lands_when_free_fall_says():
    _, impacts = simulate([ball(y=0.3, radius=0.1)], 1.0, 1.6)
    drop = FLOOR_LEVEL - 0.1 - 0.3
    assert impacts[0].surface == "floor"
    assert impacts[0].time == pytest.approx(sqrt(2 * drop / GRAVITY))
    assert impacts[0].speed == pytest.approx(sqrt(2 * drop * GRAVITY))
    assert impacts[1].speed == pytest.approx(0.8 * impacts[0].speed)


def test_flung_ball_meets_each_surface():
    left = simulate([ball(vx=-2.0)], 1.0, 0.2)[1][0]
    right = simulate([ball(vx=2.0)], 1.0, 0.2)[1][0]
    ceiling = simulate([ball(vy=-2.0)], 1.0, 0.2)[1][0]
    assert [left.surface, right.surface, ceiling.surface] == ["left", "right", "ceiling"]
    assert left.time == pytest.approx((0.5 - 0.12 - WALL_THICKNESS) / 2)


@pytest.mark.parametrize("seconds", [4.0, 20.0])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_balls_stay_in_the_box_and_out_of_each_other(seed, count, seconds):
    balls = drawn_balls(seed, count)
    again = np.random.default_rng(seed) if seconds > 4 else None
    paths, _ = simulate(balls, 1.0, seconds, again)
    times = np.linspace(0, seconds, int(375 * seconds))
    centres = np.stack([positions(path, times) for path in paths])
    radii = np.array([b.radius for b in balls])[:, None]
    slack = 2e-3
    assert (centres[..., 0] > WALL_THICKNESS + radii - slack).all()
    assert (centres[..., 0] < 1 - WALL_THICKNESS - radii + slack).all()
    assert (centres[..., 1] > WALL_THICKNESS + radii - slack).all()
    assert (centres[..., 1] < FLOOR_LEVEL - radii + slack).all()
    for i in range(count):
        for j in range(i):
            apart = np.linalg.norm(centres[i] - centres[j], axis=-1)
            assert (apart > radii[i] + radii[j] - slack).all()


@pytest.mark.parametrize("seed", range(5))
def test_one_ball_never_gains_energy(seed):
    paths, _ = simulate(drawn_balls(seed, 1), 1.0, 4.0)
    energies = [
        0.5 * flight.velocity @ flight.velocity - GRAVITY * flight.position[1]
        for flight in paths[0]
    ]
    assert (np.diff(energies) < 1e-9).all()


def test_every_turn_of_a_path_is_an_impact():
    paths, impacts = simulate(drawn_balls(3, 1), 1.0, 2.0)
    assert [flight.start for flight in paths[0][1:]] == [impact.time for impact in impacts]
    assert all(a.time <= b.time for a, b in zip(impacts, impacts[1:], strict=False))


def test_path_is_continuous_through_impacts():
    (path,), impacts = simulate(drawn_balls(1, 1), 1.0, 2.0)
    for before, after in zip(path, path[1:], strict=False):
        np.testing.assert_allclose(before.at(after.start), after.position, atol=1e-6)
    assert impacts


def test_collision_of_two_balls_keeps_momentum():
    heavy, light = ball(x=0.25, vx=1.0, radius=0.14), ball(x=0.75, vx=-1.0, radius=0.1)
    paths, impacts = simulate([heavy, light], 1.0, 0.15)
    assert [impact.surface for impact in impacts] == ["ball"]
    masses = np.array([0.14**3, 0.1**3])
    before = masses[0] * 1.0 - masses[1] * 1.0
    after = masses[0] * paths[0][-1].velocity[0] + masses[1] * paths[1][-1].velocity[0]
    assert after == pytest.approx(before)


def test_tired_ball_lies_still_and_silent():
    (path,), impacts = simulate([ball(restitution=0.5, y=0.6)], 1.0, 8.0)
    resting = positions(path, np.array([7.0, 8.0]))
    np.testing.assert_allclose(resting[:, 1], FLOOR_LEVEL - 0.12)
    assert not impacts[-1].audible
    assert impacts[-1].time < 3


def rolls(path, end):
    """(start, end) of each stay on the floor; a roll that a wall turns back goes on."""
    stays: list[tuple[float, float]] = []
    for flight, later in zip(path, [*path[1:], None], strict=True):
        if flight.rests:
            until = end if later is None else later.start
            start = stays.pop()[0] if stays and stays[-1][1] == flight.start else flight.start
            stays.append((start, until))
    return stays


@pytest.mark.parametrize("seed", range(6))
def test_ball_that_rests_is_thrown_again_after_a_pause(seed):
    (path,), impacts = simulate(drawn_balls(seed, 1), 1.0, 30.0, np.random.default_rng(seed))
    thrown = [flight.start for flight in path if flight.thrown]
    stays = rolls(path, 30.0)
    assert len(thrown) >= 3
    # Every stay but one that the end cuts off ends with a throw, and every throw ends a stay.
    assert [end for _, end in stays if end < 30] == thrown
    lengths = [end - start for start, end in stays if end < 30]
    assert PAUSES[0] <= min(lengths) and max(lengths) <= PAUSES[1] + 1e-9
    assert not {hit.time for hit in impacts} & set(thrown)


@pytest.mark.parametrize("seed", range(6))
def test_thrown_ball_starts_where_it_rested_and_rises_as_high_as_a_throw(seed):
    (path,), _ = simulate(drawn_balls(seed, 1), 1.0, 30.0, np.random.default_rng(seed))
    for before, flight in zip(path, path[1:], strict=False):
        if flight.thrown:
            np.testing.assert_allclose(before.at(flight.start), flight.position, atol=1e-9)
            rise = flight.velocity[1] ** 2 / (2 * GRAVITY)
            radius = FLOOR_LEVEL - flight.position[1]
            assert flight.velocity[1] < 0 and rise > LEAST_DROP - radius


def test_world_that_goes_on_begins_as_one_that_ends():
    balls = drawn_balls(2, 1)
    (ends,), _ = simulate(balls, 1.0, 30.0)
    (goes_on,), _ = simulate(balls, 1.0, 30.0, np.random.default_rng(0))
    first = next(number for number, flight in enumerate(goes_on) if flight.thrown)
    assert first > 3
    for one, other in zip(ends[:first], goes_on[:first], strict=True):
        assert one.start == other.start and (one.velocity == other.velocity).all()


@pytest.mark.parametrize("seed", range(4))
def test_three_balls_go_on_for_a_minute_with_as_many_hits_in_its_last_third(seed):
    _, impacts = simulate(drawn_balls(seed, 3), 1.0, 60.0, np.random.default_rng(seed))
    audible = np.array([hit.time for hit in impacts if hit.audible])
    thirds = np.histogram(audible, bins=3, range=(0, 60))[0]
    assert thirds.min() > 0.6 * thirds.max()
    assert len(impacts) < 5 * len(audible)
