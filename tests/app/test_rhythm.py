"""Tapped rhythms: the sound begins where one has tapped."""

import pytest
import torch

from mmldm.app.rhythm import INSTRUMENTS, LEAST, MOST_TAPS, RATE, REST, RHYTHMS, one_tap, rhythm
from mmldm.errors import UserError


def onsets(waveform: torch.Tensor) -> list[float]:
    """Seconds (N,) at which 5 ms (S,) are loud after 50 that are far less so."""
    level = waveform.unfold(0, RATE // 200, RATE // 200).abs().amax(1)
    found = []
    for i in range(len(level)):
        before = level[max(0, i - 10) : i]
        if level[i] > 0.2 and (not len(before) or before.max() < 0.5 * level[i]):
            found.append(i / 200)
    return found


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_each_tap_is_heard_when_it_was_tapped(instrument: str) -> None:
    taps = [0.25, 0.75, 1.5]
    waveform = rhythm(taps, instrument, 60)
    heard = onsets(waveform)
    for tap in taps:
        assert min(abs(tap - onset) for onset in heard) <= 0.006
    assert waveform[: int(0.24 * RATE)].abs().max() == 0


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_sounds_are_loud_and_not_clipped(instrument: str) -> None:
    peak = one_tap(instrument).abs().max().item()
    assert 0.2 < peak < 1


def test_order_of_taps_does_not_matter() -> None:
    assert torch.equal(rhythm([1.0, 0.2], "drum", 60), rhythm([0.2, 1.0], "drum", 60))


def test_instruments_sound_different() -> None:
    sounds = [rhythm([0.1], name, 60) for name in INSTRUMENTS]
    assert not torch.equal(sounds[0], sounds[1]) and not torch.equal(sounds[1], sounds[2])


def test_it_rings_after_the_last_tap_and_has_a_least_length() -> None:
    assert len(rhythm([0.0], "click", 60)) == round(LEAST * RATE)
    assert len(rhythm([3.0], "click", 60)) == round((3.0 + REST) * RATE)


def test_examples_can_be_tapped() -> None:
    for instrument, taps in RHYTHMS.values():
        assert rhythm(taps, instrument, 60).abs().max() > 0.2


@pytest.mark.parametrize(
    ("taps", "instrument", "words"),
    [
        ([], "drum", "nothing was tapped"),
        ([0.1], "gong", "click, drum, glass"),
        ([-1.0], "drum", "from 0 on"),
        ([float("nan")], "drum", "from 0 on"),
        ([float("inf")], "drum", "from 0 on"),
        (["0.1"], "drum", "list of numbers"),
        ([True], "drum", "list of numbers"),
        ([99.0], "drum", "tap a shorter one"),
        ([0.001 * i for i in range(MOST_TAPS + 1)], "drum", "shorter rhythm"),
    ],
)
def test_what_is_no_rhythm_is_refused_with_a_sentence(taps, instrument, words) -> None:
    with pytest.raises(UserError, match=words):
        rhythm(taps, instrument, 60)
