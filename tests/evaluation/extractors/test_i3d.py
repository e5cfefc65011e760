"""I3D takes files of the published layout, and is the published function of their tensors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from mmldm.errors import UserError
from mmldm.evaluation.extractors.i3d import I3D, InceptionI3D, resized
from mmldm.evaluation.extractors.layers import FrozenNorm
from mmldm.media.clip import Clip
from mmldm.models.weights import load_exactly

from . import layouts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tensors():
    return layouts.drawn(layouts.I3D)


def clip(count: int, height: int = 24, width: int = 40) -> Clip:
    frames = torch.randint(
        256, (count, 3, height, width), generator=torch.Generator().manual_seed(0)
    )
    return Clip(frames.to(torch.uint8), torch.zeros(16), 10, 16)


def same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's padding, as its documentation gives it."""
    total = max(kernel - stride, 0) if size % stride == 0 else max(kernel - size % stride, 0)
    return total // 2, total - total // 2


def padded(x, kernel, stride):
    (t, h, w) = (same(*values) for values in zip(x.shape[2:], kernel, stride, strict=True))
    return F.pad(x, (*w, *h, *t))


def published_maps(x, tensors, epsilon):
    """Carreira and Zisserman's figure 3, step by step, by the names in the file."""

    def unit(x, name, stride=1):
        kernel = tensors[f"{name}.conv3d.weight"]
        x = F.conv3d(padded(x, kernel.shape[2:], [stride] * 3), kernel, stride=stride)
        bn = [tensors[f"{name}.bn.{part}"][:, None, None, None]
              for part in ("running_mean", "running_var", "weight", "bias")]  # fmt: skip
        return ((x - bn[0]) / (bn[1] + epsilon).sqrt() * bn[2] + bn[3]).clamp(min=0)

    def pool(x, kernel, stride):
        return F.max_pool3d(padded(x, kernel, stride), kernel, stride)

    def mixed(x, name):
        name = f"Mixed_{name}"
        return torch.cat(
            [
                unit(x, f"{name}.b0"),
                unit(unit(x, f"{name}.b1a"), f"{name}.b1b"),
                unit(unit(x, f"{name}.b2a"), f"{name}.b2b"),
                unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b"),
            ],
            dim=1,
        )

    x = pool(unit(x, "Conv3d_1a_7x7", stride=2), (1, 3, 3), (1, 2, 2))
    x = unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3")
    x = mixed(mixed(pool(x, (1, 3, 3), (1, 2, 2)), "3b"), "3c")
    x = pool(x, (3, 3, 3), (2, 2, 2))
    for name in ("4b", "4c", "4d", "4e", "4f"):
        x = mixed(x, name)
    return mixed(mixed(pool(x, (2, 2, 2), (2, 2, 2)), "5b"), "5c")


def test_layout_has_the_networks_287_tensors_and_shapes():
    own = {name: tuple(t.shape) for name, t in InceptionI3D(1e-5).state_dict().items()}
    assert own == layouts.I3D
    assert len(own) == 287


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
@pytest.mark.parametrize("size", [(9, 33, 47), (16, 32, 32)])
def test_maps_are_the_published_function_of_the_tensors(tensors, size, epsilon):
    network = InceptionI3D(epsilon).eval()
    load_exactly(network, tensors, "here")
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, wanted = network.maps(images), published_maps(images, tensors, epsilon)
    assert found.shape == wanted.shape
    assert wanted.std() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())


def test_clip_becomes_400_logits_which_are_linear_in_the_1024_pooled_features(tensors, tmp_path):
    save_file(tensors, tmp_path / "i3d.safetensors")
    torch.save(
        {**tensors, "Conv3d_1a_7x7.bn.num_batches_tracked": torch.tensor(7)},
        tmp_path / "i3d_pretrained_400.pt",
    )
    pooled = I3D(tmp_path / "i3d.safetensors", pooled=True)
    logits = I3D(tmp_path / "i3d_pretrained_400.pt")
    assert (pooled.name, pooled.dim, logits.name, logits.dim) == ("i3d-pooled", 1024, "i3d", 400)
    [features], [found] = pooled([clip(9)]), logits([clip(9)])
    assert features.shape == (1, 1024) and found.shape == (1, 400)
    weight, bias = tensors["logits.conv3d.weight"], tensors["logits.conv3d.bias"]
    torch.testing.assert_close(found, features @ weight.flatten(1).T + bias, rtol=1e-4, atol=1e-4)


def test_each_file_gets_the_epsilon_of_the_code_it_came_with(tensors, tmp_path: Path):
    for name, epsilon in {"rgb_imagenet.pt": 1e-3, "i3d_pretrained_400.pt": 1e-5}.items():
        torch.save(tensors, tmp_path / name)
        network = I3D(tmp_path / name).network
        norms = [module.epsilon for module in network.modules() if isinstance(module, FrozenNorm)]
        assert norms == [epsilon] * 57


def test_frames_are_scaled_by_their_shorter_side_and_cut_at_the_centre():
    frames = torch.zeros(2, 3, 56, 112, dtype=torch.uint8)
    frames[..., 28:84] = 255
    images = resized(frames)
    assert images.shape == (1, 3, 2, 224, 224)
    assert images[..., 2:-2].min() == 1
    tall = resized(frames.mT)
    assert torch.equal(tall, images.mT)
    assert resized(frames[..., :56])[0, 0, 0, 0, [0, -1]].tolist() == [-1, 1]


def test_file_that_lacks_a_tensor_or_has_another_shape_is_refused_by_name(tensors, tmp_path):
    path = tmp_path / "i3d.safetensors"
    wrong = {k: v for k, v in tensors.items() if k != "Mixed_4c.b2a.bn.bias"}
    save_file({**wrong, "logits.conv3d.bias": torch.zeros(600)}, path)
    with pytest.raises(UserError, match=r"Mixed_4c\.b2a\.bn\.bias.*logits\.conv3d\.bias \(600,\)"):
        I3D(path)


def test_clip_of_eight_frames_is_refused_by_its_number(tensors, tmp_path):
    save_file(tensors, tmp_path / "i3d.safetensors")
    extractor = I3D(tmp_path / "i3d.safetensors")
    with pytest.raises(UserError, match="clip 0 has 8 frames"):
        extractor([clip(8)])
