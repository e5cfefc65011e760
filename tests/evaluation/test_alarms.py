"""Silent and frozen clips are found; quiet sound and small motion are not."""

import torch

from mmldm.evaluation.alarms import alarms
from mmldm.media.clip import Clip


def clip(loudness: float, moves: int) -> Clip:
    frames = torch.randint(255, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0)).repeat(
        8, 1, 1, 1
    )
    frames[4, :, :8] += moves
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    return Clip(frames.to(torch.uint8), noise * loudness, 10, 16_000)


def test_silence_and_stillness_are_found_where_they_are():
    clips = [clip(0.1, 1), clip(0.0, 1), clip(3e-3, 0), clip(3e-4, 2)]
    found = alarms(clips)
    assert found.audio == [1, 3]
    assert found.video == [2]


def test_impacts_clips_raise_no_alarm(real):
    assert alarms(real) == ([], [])
