"""The light decoder: its doublings are torch's pixel-shuffle, whatever the order in memory."""

import pytest
import torch
from torch import nn

from mmldm.models.shuffle_decoder import Doubling, shuffle_decoder


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("channels", "kernel_size"), [(5, 1), (3, 3)])
def test_doubling_is_a_convolution_and_pixel_shuffle(
    channels: int, kernel_size: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    doubling = Doubling(6, channels, kernel_size)
    plain = nn.Conv2d(6, 4 * channels, kernel_size, padding=kernel_size // 2)
    plain.load_state_dict(doubling.state_dict())
    x = torch.randn(2, 6, 4, 7).contiguous(memory_format=layout)
    made, expected = doubling(x), nn.PixelShuffle(2)(plain(x))
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=1e-5)
    # What is laid out channels last stays so, for the convolution that follows.
    assert made.is_contiguous(memory_format=layout)
    made.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(doubling.weight.grad, plain.weight.grad, atol=1e-4, rtol=1e-4)


def test_keys_are_those_of_a_list_with_its_pixel_shuffles() -> None:
    decoder = shuffle_decoder(4, 16, 1, (8, 6))
    named = {key.split(".")[0] for key in decoder.state_dict()}
    assert named == {"0", "1", "2", "4", "5", "7", "8"}
    assert decoder(torch.randn(1, 4, 2, 3)).shape == (1, 3, 16, 24)
