"""What is told of pictures of anything notices blur and colour, and each of them alone."""

import pytest
import torch

from mmldm.evaluation.looks import Looks, fine_power
from mmldm.media.clip import Clip


def test_fine_power_is_of_what_is_fine():
    stripes = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    stripes[..., ::2] = 100
    wide = torch.zeros_like(stripes)
    wide[..., :32] = 100
    assert fine_power(stripes) == pytest.approx(2500, rel=0.1)
    assert fine_power(wide) < 250 and fine_power(torch.full_like(wide, 77)) < 1e-3


def test_a_tint_moves_the_colour_and_blur_the_fine_power():
    noise = torch.randint(40, 200, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    tinted, blurred = noise.clone(), torch.nn.functional.avg_pool2d(noise.float(), 3, 1, 1)
    tinted[:, 0] += 30

    def looks(frames):
        clip = Clip(frames.to(torch.uint8), torch.zeros(160), 10, 100)
        return Looks()([clip])[0]

    real, red, soft = looks(noise), looks(tinted), looks(blurred)
    assert (red["colour"] - real["colour"]).tolist() == pytest.approx([30, 0, 0], abs=1e-6)
    assert red["fine"] == pytest.approx(real["fine"].item(), rel=0.01)
    assert soft["fine"] < 0.3 * real["fine"]
