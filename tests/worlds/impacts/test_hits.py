"""Attack, level before and loudness of hits that are made to have them."""

import numpy as np
import pytest
import torch

from mmldm.worlds.impacts.hits import hear

RATE = 16_000


def hit(times, rise=0.0, level=0.3, decay=20.0, rate=RATE, duration=1.6):
    """Noise that rises in a straight line for `rise` seconds up to each time, and falls from there."""
    clock = np.arange(round(duration * rate)) / rate
    envelope = np.zeros_like(clock)
    for time in times:
        since = clock - time
        up = np.clip(1 + since / rise, 0, 1) if rise else (since >= 0).astype(float)
        envelope += np.where(since < 0, up, np.exp(-decay * np.maximum(since, 0)))
    tone = np.sin(2 * np.pi * 3000 * clock)
    return torch.from_numpy(level * envelope * tone)


def test_attack_is_eight_tenths_of_a_straight_rise():
    for rise in (0.005, 0.01, 0.02):
        found = hear(hit([0.5], rise), RATE, np.array([0.5 - rise / 3]))
        assert found.attacks[0] == pytest.approx(800 * rise, abs=1)


@pytest.mark.parametrize("rate", [8000, 16_000, 48_000])
def test_a_hit_that_starts_at_once_rises_in_the_time_of_a_level(rate):
    found = hear(hit([0.5, 1.0], rate=rate), rate, np.array([0.5, 1.0]))
    assert (found.attacks < 1.2).all()


def test_level_before_a_hit_is_what_swells_before_it():
    sudden, swelling = (hear(hit([0.5], rise), RATE, np.array([0.5])) for rise in (0, 0.05))
    assert sudden.before[0] < -80
    # From 50 to 3 ms the squared level grows as t^2: its mean over 57 ms, beside that of the decay.
    own = (1 - np.exp(-40 * 0.04)) / (40 * 0.04)
    wanted = 10 * np.log10((0.047**3 / (3 * 0.05**2)) / 0.057 / own)
    assert swelling.before[0] == pytest.approx(wanted, abs=0.3)


def test_loudness_follows_the_level():
    soft, loud = (hear(hit([0.5], level=x), RATE, np.array([0.5])).loudness[0] for x in (0.05, 0.4))
    assert loud - soft == pytest.approx(20 * np.log10(8), abs=0.01)


def test_hits_too_near_to_others_or_to_the_ends_tell_nothing():
    found = hear(hit([0.02, 0.5, 0.53, 1.0, 1.59]), RATE, np.array([0.02, 0.5, 0.53, 1.0, 1.59]))
    assert np.isnan(found.attacks).tolist() == [True, True, True, False, True]
    assert np.isnan(found.before).tolist() == [True, True, True, False, True]
    assert np.isnan(found.loudness).tolist() == [False, True, True, False, True]


def test_a_hit_that_is_lost_in_the_ring_of_another_has_no_loudness_of_its_own():
    ringing = hit([0.5], decay=2.0)
    soft = hear(ringing + hit([0.8], level=0.05), RATE, np.array([0.5, 0.8]))
    loud = hear(ringing + hit([0.8], level=0.5), RATE, np.array([0.5, 0.8]))
    assert np.isnan(soft.loudness).tolist() == [False, True]
    assert not np.isnan(loud.loudness).any()


def test_no_onsets_are_no_fault():
    assert all(len(column) == 0 for column in hear(torch.zeros(16_000), RATE, np.array([])))
