"""A join that can be heard or seen is told from one that cannot."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmldm.evaluation.joins import Changes, Joins, at_boundaries, onset_rates
from mmldm.evaluation.protocol import Protocol
from mmldm.media.clip import Clip
from mmldm.types import ClipSpec
from mmldm.worlds.impacts import motion
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip
from mmldm.worlds.impacts.watched import Kicks

RULES = Protocol(name="test", spec=ClipSpec())
RATE = RULES.spec.sample_rate
INSTANTS = (1.4, 2.6)
MIDDLE = 0.8


@pytest.fixture(scope="module")
def films():
    """Twelve films of a world that goes on, and the windows around two instants of each."""
    spec = ClipSpec(num_frames=40)
    config = ImpactsConfig(seed=5, materials=("wood", "glass"), spec=spec, throws_again=True)
    return [around(render_clip(config, index).clip) for index in range(12)]


def around(film):
    windows = []
    for instant in INSTANTS:
        first = round((instant - MIDDLE) * film.fps)
        begin = first * RATE // 10
        sound = film.waveform[begin : begin + RULES.spec.num_samples]
        windows.append(Clip(film.frames[first : first + 16], sound, film.fps, film.sample_rate))
    return windows


def measured(measure, films):
    return [measure(windows) for windows in films]


def with_sound(films, change):
    return [
        [replace(clip, waveform=change(clip.waveform.clone())) for clip in windows]
        for windows in films
    ]


def test_a_hard_cut_of_the_sound_is_a_step_and_real_sound_has_none(films):
    def cut(sound):
        loud = sound.abs().max()
        sound[int(MIDDLE * RATE) :] += 0.3 * loud
        return sound

    real = at_boundaries(measured(Joins(), films), "steps", INSTANTS, RULES)
    assert real.at < 0.1
    joined = measured(Joins(), with_sound(films, cut))
    made = at_boundaries(joined, "steps", INSTANTS, RULES)
    assert made.at > 5 * real.at and made.ratio > 3
    assert made.interval[0] < made.ratio < made.interval[1]


def test_silence_has_no_steps(films):
    silent = measured(Joins(), with_sound(films, torch.zeros_like))
    told = at_boundaries(silent, "steps", INSTANTS, RULES)
    assert told.at is None and told.ratio is None and told.interval is None


def test_clicks_at_joins_are_onsets_there(films):
    def click(sound):
        begin = int(MIDDLE * RATE)
        noise = torch.randn(400, generator=torch.Generator().manual_seed(0))
        sound[begin : begin + 400] += 0.5 * noise * torch.linspace(1, 0, 400)
        return sound

    real = onset_rates(measured(Joins(), films), RULES)
    made = onset_rates(measured(Joins(), with_sound(films, click)), RULES)
    assert made.at == pytest.approx(10, abs=2) and made.ratio > 2 * real.ratio
    assert made.elsewhere == pytest.approx(real.elsewhere, abs=0.5)


def test_a_ball_that_jumps_at_joins_is_kicked_there(films):
    empty = motion.background([clip.frames for windows in films for clip in windows])
    jumped = [
        [replace(clip, frames=torch.cat([clip.frames[:8], clip.frames[9:], clip.frames[-1:]]))
         for clip in windows]
        for windows in films
    ]  # fmt: skip
    real, made = (
        at_boundaries(measured(Kicks(empty), own), "kicks", INSTANTS, RULES)
        for own in (films, jumped)
    )
    assert made.at > 3 * real.at and made.ratio > 2 * real.ratio
    assert made.elsewhere == pytest.approx(real.elsewhere, rel=0.3)
    # Frames at the ends have no neighbours.
    found = Kicks(empty)(films[0])[0]["kicks"].numpy()
    assert len(found) == 15 and np.isnan(found[[0, -1]]).all() and not np.isnan(found[1:-1]).all()


def test_boundaries_beside_another_join_are_not_elsewhere():
    """Of joins .4 s apart each lies in the other's window."""
    values = torch.zeros(15)
    values[[7, 11]] = 5.0
    early = {"kicks": values}
    values = torch.zeros(15)
    values[[3, 7]] = 5.0
    late = {"kicks": values}
    told = at_boundaries([[early, late]] * 3, "kicks", (1.4, 1.8), RULES)
    assert (told.at, told.elsewhere, told.ratio) == (5, 0, None)


def test_pictures_that_jump_at_joins_change_there_whatever_they_show():
    noise = torch.Generator().manual_seed(0)

    def drifting(jump):
        """A wide noise picture that a window slides over, a pixel a frame, and `jump` more at the middle."""
        wide = torch.randint(0, 255, (3, 12, 64), generator=noise, dtype=torch.uint8)
        wide = torch.nn.functional.avg_pool1d(wide.float(), 9, 1, 4).to(torch.uint8)
        starts = [i + jump * (i >= 8) for i in range(16)]
        frames = torch.stack([wide[..., start : start + 16] for start in starts])
        return Clip(frames, torch.zeros(RULES.spec.num_samples), 10, RATE)

    def told(jump):
        films = [[drifting(jump) for _ in INSTANTS] for _ in range(6)]
        return at_boundaries(measured(Changes(), films), "changes", INSTANTS, RULES)

    smooth, cut = told(0), told(20)
    assert smooth.ratio == pytest.approx(1, abs=0.1)
    assert cut.ratio > 2 and cut.elsewhere == pytest.approx(smooth.elsewhere, abs=0.1)
    still = drifting(0)
    still = replace(still, frames=still.frames[:1].expand(16, -1, -1, -1))
    assert Changes()([still])[0]["changes"].isnan().all()
