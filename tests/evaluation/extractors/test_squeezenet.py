"""SqueezeNet takes files of its layout, and is the published function of their tensors."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from mmldm.evaluation.extractors.squeezenet import SqueezeNet, SqueezeNetNetwork, prepared
from mmldm.media.clip import Clip

from . import layouts


@pytest.fixture(scope="module")
def tensors():
    return layouts.drawn(layouts.SQUEEZENET)


def test_layout_has_the_networks_tensors_and_shapes():
    own = {name: tuple(t.shape) for name, t in SqueezeNetNetwork().state_dict().items()}
    assert own == layouts.SQUEEZENET


def test_logits_are_the_published_function_of_the_tensors(tensors):
    network = SqueezeNetNetwork()
    network.load_state_dict(tensors)
    images = torch.randn(1, 3, 227, 227, generator=torch.Generator().manual_seed(0))

    def conv(x, name, **how):
        return F.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], **how).clamp(min=0)

    x = conv(images, "conv1", stride=2)
    sizes = []
    for number in range(2, 10):
        if number in (2, 5, 9):
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            sizes.append(x.shape[-1])
        x = conv(x, f"fire{number}.squeeze")
        sides = conv(x, f"fire{number}.expand1x1"), conv(x, f"fire{number}.expand3x3", padding=1)
        x = torch.cat(sides, 1)
    assert sizes == [55, 27, 13]
    wanted = conv(x, "conv_final", padding=1).mean((2, 3))
    with torch.no_grad():
        torch.testing.assert_close(network(images), wanted, rtol=1e-4, atol=1e-5)


def test_frames_become_blue_green_red_less_their_mean():
    frames = torch.tensor([10, 20, 30], dtype=torch.uint8)[None, :, None, None].expand(2, 3, 8, 12)
    images = prepared(frames)
    assert images.shape == (2, 3, 227, 227)
    assert images[1, :, 100, 100].tolist() == [30 - 104, 20 - 117, 10 - 123]


def test_every_frame_of_a_clip_has_its_features(tensors, tmp_path):
    save_file(tensors, tmp_path / "mine.safetensors")
    extractor = SqueezeNet(tmp_path / "mine.safetensors")
    frames = torch.randint(256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    [features] = extractor([Clip(frames.to(torch.uint8), torch.zeros(8), 10, 16)])
    assert features.shape == (3, extractor.dim)
    [first] = extractor([Clip(frames[:1].to(torch.uint8), torch.zeros(8), 10, 16)])
    torch.testing.assert_close(first[0], features[0])


def test_public_file_is_read_whole(shared):
    extractor = SqueezeNet(shared / "weights" / "squeezenet1_0_imagenet_caffe_bgr.safetensors")
    assert extractor.sha256.startswith("ff23af35") and extractor.licence == "BSD-2-Clause"
