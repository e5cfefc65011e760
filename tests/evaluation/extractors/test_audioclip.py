"""AudioCLIP takes files of the published layout, and is the published function of what is in them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from mmldm.errors import UserError
from mmldm.evaluation.extractors.audioclip import AudioCLIP, ESResNeXt
from mmldm.media.clip import Clip

from . import layouts

pytestmark = pytest.mark.slow

PICTURES = {"visual.conv1.weight": torch.ones(2, 3), "logit_scale_ai": torch.tensor(4.6)}
"""What the published file holds besides."""


@pytest.fixture(scope="module")
def tensors():
    rng = torch.Generator().manual_seed(1)
    drawn = layouts.drawn(layouts.AUDIOCLIP)
    # Orders that are no whole numbers, and wavelets narrow enough to have lobes below zero.
    drawn["fbsp.m"] = 0.5 + torch.rand(1025, generator=rng)
    drawn["fbsp.fb"] = 1 + torch.rand(1025, generator=rng)
    drawn["fbsp.fc"] = torch.arange(1025) + torch.rand(1025, generator=rng)
    drawn["window"] = torch.hann_window(1654)
    return drawn


@pytest.fixture(scope="module")
def network(tensors):
    with torch.device("meta"):
        network = ESResNeXt()
    network.load_state_dict(tensors, assign=True)
    return network.eval()


@pytest.fixture(scope="module")
def extractor(tensors, tmp_path_factory: pytest.TempPathFactory):
    return AudioCLIP(published(tensors, tmp_path_factory.mktemp("weights") / "mine.pt"))


def published(tensors, path: Path) -> Path:
    """A file as AudioCLIP's authors write it."""
    own = {f"audio.{name}": tensor for name, tensor in tensors.items()}
    none = {"audio.fbsp.bias": torch.empty(0), "audio.bn1.num_batches_tracked": torch.tensor(7)}
    torch.save({**PICTURES, **own, **none}, path)
    return path


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) / 8


def sounding(waveform: torch.Tensor, rate: int = 44_100) -> Clip:
    return Clip(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), waveform, 10, rate)


def published_levels(waveform, tensors):
    """The transform again, a wavelet and a frame at a time, in complex numbers of twice the precision."""
    m, fb, fc, window = (
        tensors[n].double().numpy() for n in ("fbsp.m", "fbsp.fb", "fbsp.fc", "window")
    )
    t = np.pi * np.linspace(-1, 1, 2048)
    wavelets = []
    for order, width, centre in zip(m, fb, fc, strict=True):
        lobes = np.sinc(width * t / order / np.pi).astype(complex)
        wavelets.append(np.sqrt(width) * lobes**order * np.exp(-1j * centre * t) / np.sqrt(2048))
    sound = (waveform.double().numpy() * 32768 + 32768) / 65535 * 2 - 1
    count = 1
    while 1654 + (count - 1) * 561 < len(sound):
        count += 1
    zeros = 1654 + (count - 1) * 561 - len(sound)
    sound = np.concatenate([np.zeros(zeros // 2), sound, np.zeros(zeros - zeros // 2)])
    columns = []
    for number in range(count):
        frame = np.zeros(2048)
        frame[197 : 197 + 1654] = sound[number * 561 : number * 561 + 1654] * window
        columns.append(10 * np.log10(np.abs(np.array(wavelets) @ frame) ** 2))
    bins = np.array(columns).T
    return np.stack([bins[:341], bins[341:682], bins[682:1023]])[None]


def published_features(levels, tensors):
    """ResNeXt-50 (32x4d) with gated stages, step by step, by the names in the file."""

    def norm(x, name):
        mean, var, weight, bias = (
            tensors[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def block(x, name, stride):
        inner = norm(F.conv2d(x, tensors[f"{name}.conv1.weight"]), f"{name}.bn1").clamp(min=0)
        kernel = tensors[f"{name}.conv2.weight"]
        inner = F.conv2d(inner, kernel, stride=stride, padding=1, groups=32)
        inner = norm(inner, f"{name}.bn2").clamp(min=0)
        inner = norm(F.conv2d(inner, tensors[f"{name}.conv3.weight"]), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in tensors:
            shorter = F.conv2d(x, tensors[f"{name}.downsample.0.weight"], stride=stride)
            x = norm(shorter, f"{name}.downsample.1")
        return (inner + x).clamp(min=0)

    def gate(x, name, size):
        x = F.adaptive_max_pool2d(x, size)
        kernel = tensors[f"{name}.conv_depth.weight"]
        x = F.conv2d(
            x, kernel, tensors[f"{name}.conv_depth.bias"], padding="same", groups=len(kernel)
        )
        x = F.conv2d(x, tensors[f"{name}.conv_point.weight"], tensors[f"{name}.conv_point.bias"])
        return 1 / (1 + torch.exp(-norm(x, f"{name}.bn")))  # fmt: skip

    x = F.conv2d(levels, tensors["conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(norm(x, "bn1").clamp(min=0), 3, 2, 1)
    for stage, depth in enumerate((3, 4, 6, 3), start=1):
        before = x
        for place in range(depth):
            x = block(x, f"layer{stage}.{place}", 2 if stage > 1 and place == 0 else 1)
        x = x * gate(before, f"att{stage}", x.shape[-2:])
    pooled = F.adaptive_avg_pool2d(x, 1) * gate(x, "att5", (1, 1))
    return pooled[..., 0, 0] @ tensors["fc.weight"].T + tensors["fc.bias"]


def test_layout_has_the_networks_311_tensors_and_shapes(network):
    own = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    assert own == layouts.AUDIOCLIP
    assert len(own) == 311


@pytest.mark.parametrize(
    ("samples", "columns"), [(1000, 1), (1654, 1), (1655, 2), (2215, 2), (3500, 5)]
)
def test_levels_are_the_published_function_of_the_tensors(network, tensors, samples, columns):
    found = network.levels(noise(samples)[None])
    assert found.shape == (1, 3, 341, columns)
    wanted = published_levels(noise(samples), tensors)
    assert wanted.std() > 1
    # Levels far below the others are differences of great numbers: let 1 in 1000 be off.
    errors = np.abs(found.numpy() - wanted)
    assert np.quantile(errors, 0.999) < 0.1 and np.median(errors) < 1e-3


def test_silence_is_what_the_middle_of_16_bit_numbers_is_to_its_network(network, tensors):
    found, wanted = (
        network.levels(torch.zeros(1, 1654)),
        published_levels(torch.zeros(1654), tensors),
    )
    assert -80 < wanted[0, 0, 0, 0] < -70
    np.testing.assert_allclose(found[0, 0, :3], wanted[0, 0, :3], atol=0.1)


def test_clip_of_theirs_makes_124_columns(network):
    assert network.levels(torch.zeros(1, 70_560)).shape == (1, 3, 341, 124)


def test_no_sound_at_all_has_the_least_level(tensors):
    silent = {**tensors, "window": torch.zeros(1654)}
    with torch.device("meta"):
        network = ESResNeXt()
    network.load_state_dict(silent, assign=True)
    assert network.levels(noise(1654)[None]).unique().tolist() == [-180]


@pytest.mark.parametrize("columns", [1, 40])
def test_features_are_the_published_function_of_levels(tensors, columns, monkeypatch):
    # Gates and rectifiers are steep on drawn numbers; in double precision both sides still agree.
    tensors = {name: tensor.double() for name, tensor in tensors.items()}
    with torch.device("meta"):
        network = ESResNeXt()
    network.load_state_dict(tensors, assign=True)
    monkeypatch.setattr(network, "levels", lambda waveforms: waveforms)
    rng = torch.Generator().manual_seed(2)
    levels = torch.randn(2, 3, 341, columns, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        found, wanted = network(levels), published_features(levels, tensors)
    assert found.shape == (2, 1024)
    assert (wanted[0] - wanted[1]).std() > 1e-3 * wanted.std() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9 * wanted.abs().max().item())


def test_a_clip_is_one_row_whatever_its_length_and_neighbours(extractor):
    clips = [sounding(noise(samples, samples)) for samples in (1, 5_000, 20_000)]
    together, alone = extractor(clips), [extractor([clip])[0] for clip in clips]
    assert [rows.shape for rows in together] == [(1, 1024)] * 3
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    assert not torch.equal(together[1], together[2])
    assert (extractor.name, extractor.modality, extractor.dim) == ("audioclip", "audio", 1024)


def test_features_hear_the_sound_and_do_not_see_the_picture(extractor):
    clip = sounding(noise(6_000))
    seen = replace(clip, frames=torch.full((3, 3, 4, 4), 200, dtype=torch.uint8))
    louder = replace(clip, waveform=2 * clip.waveform)
    one, other, loud = extractor([clip, seen, louder])
    assert torch.equal(one, other)
    assert (one - loud).norm() > 1e-3 * one.norm()


def test_sound_at_another_rate_is_heard_at_44_khz(extractor, network):
    tone = sounding(torch.sin(torch.arange(3_200) * 0.3) / 4, 16_000)
    [found] = extractor([tone])
    at_44 = sounding(torch.sin(torch.arange(8_820) * 0.3 * 16 / 44.1) / 4)
    [wanted], [other] = extractor([at_44]), extractor([sounding(tone.waveform)])
    assert (found - wanted).norm() < 0.5 * (other - wanted).norm()


def test_of_the_published_file_only_what_hears_is_read(tensors, extractor, tmp_path):
    safe = tmp_path / "audioclip.safetensors"
    save_file({f"audio.{name}": tensor for name, tensor in tensors.items()}, safe)
    clip = sounding(noise(3_000))
    assert torch.equal(*(made([clip])[0] for made in (extractor, AudioCLIP(safe))))


def test_file_that_lacks_a_tensor_or_has_another_is_refused_by_name(tensors, tmp_path):
    wrong = {k: v for k, v in tensors.items() if k != "att3.bn.running_var"}
    wrong |= {"fbsp.bias": torch.zeros(1025, 2), "fc.bias": torch.zeros(512)}
    path = published(wrong, tmp_path / "mine.pt")
    with pytest.raises(UserError, match=r"att3\.bn\.running_var.*fc\.bias \(512,\)") as error:
        AudioCLIP(path)
    # `published` writes the bias that is none; here it is one.
    save_file({f"audio.{name}": t for name, t in wrong.items()}, tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match=r"1 unexpected \(fbsp\.bias\)"):
        AudioCLIP(tmp_path / "mine.safetensors")
    assert "unexpected" not in str(error.value)


def test_file_with_the_published_name_must_be_the_published_file(tensors, tmp_path):
    path = published({"fc.bias": tensors["fc.bias"]}, tmp_path / "AudioCLIP-Full-Training.pt")
    with pytest.raises(UserError, match="starts with .*, not 2441d35b"):
        AudioCLIP(path)
