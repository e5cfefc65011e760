"""Flashes are found by their colour where the weapon is, bangs by their template: growls are as loud."""

import numpy as np
import pytest
import torch

from mmldm.data.cache_writer import weights_key
from mmldm.errors import UserError
from mmldm.evaluation.events import match
from mmldm.worlds.freedoom.labels import learn_monsters
from mmldm.worlds.freedoom.shots import detect_flashes, flash_shares, learn_bangs
from mmldm.worlds.freedoom.turning import flow, learn_turning

RATE = 16000


def film(lit, size=(96, 128), at=(0.55, 0.5)):
    """A dark film with a flash, a twentieth of its height, in the frames that are lit."""
    height, width = size
    frames = torch.full((len(lit), 3, height, width), 60, dtype=torch.uint8)
    row, column, half = round(at[0] * height), round(at[1] * width), height // 16
    for number in np.flatnonzero(lit):
        frames[number, 0, row - half : row + half, column - half : column + half] = 255
        frames[number, 1, row - half : row + half, column - half : column + half] = 200
    return frames


def sound(shots, growls, seconds=2.0, seed=0):
    """Bangs are bursts of noise that decay; growls are as loud, of a saw, and begin as suddenly."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    waveform = 0.003 * rng.standard_normal(len(time))
    for shot in shots:
        after = np.clip(time - shot, 0, None)
        waveform += np.where(time >= shot, 0.4 * np.exp(-after / 0.1), 0) * rng.standard_normal(
            len(time)
        )
    for growl in growls:
        inside = (time >= growl) & (time < growl + 0.5)
        waveform += np.where(inside, 0.6 * (2 * ((time * 90) % 1) - 1), 0)
    return torch.from_numpy(waveform).float().clamp(-1, 1)


def sounds(count, seed):
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        shots = np.sort(rng.uniform(0.1, 1.8, 2))
        if shots[1] - shots[0] < 0.4:
            shots = shots[:1]
        found.append((sound(shots, rng.uniform(0, 1.5, 2), seed=seed + number), RATE, shots))
    return found


@pytest.mark.parametrize("fps", [35.0, 17.5, 10.0])
def test_flash_begins_with_the_frame_that_shows_it_first(fps):
    lit = np.zeros(20, dtype=bool)
    lit[[0, 1, 6, 7, 8, 14]] = True
    found = detect_flashes(film(lit), fps)
    # The first one began before the film. Of the game's tics, those after the frame before and up to the
    # frame itself may be the shot's; with 17.5 frames a second these are two.
    earlier = {35.0: 0.0, 17.5: 0.5 / 35, 10.0: 0.5 / 10 - 0.5 / 35}[fps]
    np.testing.assert_allclose(found, np.array([6, 14]) / fps - earlier)


@pytest.mark.parametrize("size", [(96, 128), (128, 128), (64, 64), (224, 224)])
def test_flash_is_looked_for_at_the_weapon_in_pictures_of_any_size(size):
    lit = np.array([False, True])
    assert (flash_shares(film(lit, size)) > 0.025).tolist() == [False, True]
    for elsewhere in ((0.2, 0.5), (0.55, 0.1), (0.9, 0.5)):
        assert flash_shares(film(lit, size, elsewhere)).max() < 0.005


def test_bangs_are_found_among_growls_that_are_as_loud():
    bangs = learn_bangs(sounds(40, 0))
    hits = claimed = wanted = 0
    for waveform, rate, shots in sounds(20, 1000):
        found = bangs.detect(waveform, rate)
        pairs = match(found, shots, 0.02)
        hits, claimed, wanted = hits + len(pairs), claimed + len(found), wanted + len(shots)
    assert hits / wanted > 0.95 and hits / claimed > 0.95
    assert len(bangs.detect(torch.zeros(RATE), RATE)) == 0


def test_template_is_the_same_from_the_same_sounds():
    assert learn_bangs(sounds(12, 0)).sha256 == learn_bangs(sounds(12, 0)).sha256
    assert learn_bangs(sounds(12, 0)).sha256 != learn_bangs(sounds(12, 5)).sha256


def test_too_few_shots_are_named():
    with pytest.raises(UserError, match="hold 0 shots, and 20 are the least"):
        learn_bangs([(torch.zeros(RATE), RATE, np.empty(0))])
    with pytest.raises(UserError, match="0 show a monster"):
        learn_monsters([(film(np.zeros(30, dtype=bool)), np.zeros(30))])


def test_monsters_are_learnt_from_labels():
    rng = np.random.default_rng(0)

    def clip(count):
        frames = torch.from_numpy(rng.integers(40, 90, (count, 3, 96, 96)).astype(np.uint8))
        heights = np.where(rng.random(count) < 0.5, 25, 0)
        for number in np.flatnonzero(heights):
            row, column = rng.integers(10, 60, 2)
            frames[number, 0, row : row + 24, column : column + 12] = 200
        return frames, heights

    monsters = learn_monsters([clip(100)], steps=60)
    frames, heights = clip(60)
    told = (monsters.probabilities(frames) > 0.5).numpy()
    assert (told == (heights > 0)).mean() > 0.95
    other = learn_monsters([clip(40)], steps=2)
    assert weights_key(other.network) != weights_key(monsters.network)


def test_turning_is_read_from_what_passes_by():
    rng = np.random.default_rng(0)

    def clip(count):
        wall = rng.integers(0, 120, (128, 600)).astype(np.uint8)
        steps = rng.integers(-8, 9, count)
        places = 300 + np.concatenate([[0], np.cumsum(steps).clip(-160, 160)])
        frames = np.stack([wall[:, place : place + 128] for place in places])
        # What stood at 8 stands at 0 after the view has turned right by 8 pixels, as 4 degrees.
        return torch.from_numpy(frames)[:, None].expand(-1, 3, -1, -1), -np.diff(places) / 2.0

    turning = learn_turning(
        [(flow(frames), turns) for frames, turns in (clip(60) for _ in range(4))]
    )
    frames, turns = clip(60)
    assert np.corrcoef(turning.degrees(frames), turns)[0, 1] > 0.95
    with pytest.raises(UserError, match="hold 3 pairs of frames"):
        learn_turning([(flow(frames[:5]), np.array([1.0, np.nan, 2.0, 0.0]))])
