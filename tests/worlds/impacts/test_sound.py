"""What sounds is what hits: at its instant, as hard as it was, in the voice of its material."""

import numpy as np
import pytest

from mmldm.types import ClipSpec
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip
from mmldm.worlds.impacts.materials import MATERIALS, REFERENCE_RADIUS
from mmldm.worlds.impacts.physics import Ball, Impact
from mmldm.worlds.impacts.sound import FULL_SPEED, render_sound, strike


def hit(speed=FULL_SPEED, time=0.5, surface="floor"):
    return Impact(time, 0, surface, speed, True)


def ball(material="metal", radius=REFERENCE_RADIUS):
    return Ball(material, radius, 0.8, (0.5, 0.3), (0.0, 0.0), 1.0)


def rng():
    return np.random.default_rng(0)


def centroid(sound, rate):
    power = np.abs(np.fft.rfft(sound)) ** 2
    return (np.fft.rfftfreq(len(sound), 1 / rate) * power).sum() / power.sum()


@pytest.mark.parametrize("index", range(12))
def test_silent_before_the_first_audible_hit_and_sounding_after_it(index):
    rendered = render_clip(ImpactsConfig(seed=2), index)
    first = next(impact.time for impact in rendered.impacts if impact.audible)
    start = int(np.ceil(first * 16000))
    waveform = rendered.clip.waveform.numpy()
    assert (waveform[:start] == 0).all()
    assert np.abs(waveform[start : start + 160]).max() > 0.01


@pytest.mark.parametrize("material", MATERIALS)
def test_harder_hits_are_louder_and_brighter(material):
    soft = strike(ball(material), hit(0.6), 16000, rng())
    hard = strike(ball(material), hit(2.8), 16000, rng())
    assert np.abs(hard).max() > 2.5 * np.abs(soft).max()
    assert centroid(hard, 16000) > 1.02 * centroid(soft, 16000)


@pytest.mark.parametrize("material", MATERIALS)
def test_smaller_balls_sound_higher(material):
    small = strike(ball(material, 7 / 64), hit(), 16000, rng())
    large = strike(ball(material, 10 / 64), hit(), 16000, rng())
    assert centroid(small, 16000) > 1.1 * centroid(large, 16000)


def test_wall_hits_sound_higher_than_floor_hits():
    floor, wall = (strike(ball(), hit(surface=s), 16000, rng()) for s in ("floor", "left"))
    assert centroid(wall, 16000) > 1.05 * centroid(floor, 16000)


def test_pitch_does_not_depend_on_the_sample_rate():
    peaks = []
    for rate in (16000, 44100):
        sound = strike(ball("wood"), hit(), rate, rng())
        spectrum = np.abs(np.fft.rfft(sound, n=rate))
        peaks.append(int(spectrum.argmax()))
    assert peaks[0] == pytest.approx(peaks[1], abs=2)
    assert peaks[0] == pytest.approx(MATERIALS["wood"].fundamental, abs=8)


def test_metal_rings_on_and_plastic_does_not():
    def share_after(material, seconds):
        sound = strike(ball(material), hit(), 16000, rng())
        return (sound[int(seconds * 16000) :] ** 2).sum() / (sound**2).sum()

    assert share_after("metal", 0.1) > 0.25
    assert share_after("plastic", 0.1) < 0.01


@pytest.mark.parametrize("material", MATERIALS)
def test_many_hard_hits_at_once_do_not_clip(material):
    impacts = [hit(3.5, 0.5 + 0.002 * i) for i in range(8)]
    waveform = render_sound([ball(material)], impacts, ClipSpec(), rng())
    assert np.abs(waveform).max() < 1
    assert waveform.dtype == np.float32


@pytest.mark.parametrize("begin", [0.3, 0.75, 2.0, 5.0])
def test_sound_that_begins_later_is_a_part_of_the_whole(begin):
    impacts = [hit(time=time) for time in (0.10003, 0.60002, 0.80001, 5.50003)]
    whole = render_sound([ball()], impacts, ClipSpec(num_frames=80), rng())
    part = render_sound([ball()], impacts, ClipSpec(), rng(), begin)
    start = round(begin * 16000)
    np.testing.assert_array_equal(part, whole[start : start + len(part)])
    assert np.abs(part).max() > 1e-3


def test_inaudible_hits_make_no_sound():
    waveform = render_sound([ball()], [Impact(0.5, 0, "floor", 0.1, False)], ClipSpec(), rng())
    assert (waveform == 0).all()


def test_hit_in_the_last_samples_is_cut_at_the_end_of_the_clip():
    spec = ClipSpec()
    waveform = render_sound([ball()], [hit(time=spec.duration - 0.005)], spec, rng())
    assert len(waveform) == spec.num_samples
    assert np.abs(waveform[-80:]).max() > 0.01
