"""VGGish takes files of the published layout, behind the front end of its release."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmldm.errors import UserError
from mmldm.evaluation.extractors import vggish
from mmldm.evaluation.extractors.layers import covered, log_mel, mel_weights, patches
from mmldm.media.clip import Clip

from . import layouts


@pytest.fixture(scope="module")
def tensors():
    return layouts.drawn(layouts.VGGISH)


@pytest.fixture(scope="module")
def network(tensors):
    with torch.device("meta"):
        network = vggish.VGGishNetwork()
    network.load_state_dict(tensors, assign=True)
    return network


def sounding(seconds: float, rate: int = 16_000) -> Clip:
    noise = torch.randn(round(seconds * rate), generator=torch.Generator().manual_seed(0)) / 8
    return Clip(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), noise, 10, rate)


def test_layout_has_the_networks_tensors_and_shapes(network):
    assert {name: tuple(t.shape) for name, t in network.state_dict().items()} == layouts.VGGISH


def test_features_are_the_published_function_of_the_tensors(network, tensors):
    windows = torch.randn(2, 96, 64, generator=torch.Generator().manual_seed(1))
    x = windows[:, None]
    for number in (0, 3, 6, 8, 11, 13):
        x = F.conv2d(
            x, tensors[f"features.{number}.weight"], tensors[f"features.{number}.bias"], padding=1
        )
        x = x.clamp(min=0)
        if number in (0, 3, 8, 13):
            x = F.max_pool2d(x, 2)
    # TensorFlow flattens time, frequency, channel.
    x = torch.einsum("bctf->btfc", x).reshape(2, 6 * 4 * 512)
    for number in (0, 2, 4):
        x = x @ tensors[f"embeddings.{number}.weight"].T + tensors[f"embeddings.{number}.bias"]
        x = x.clamp(min=0) if number < 4 else x
    with torch.no_grad():
        torch.testing.assert_close(network(windows), x, rtol=1e-3, atol=1e-4)


def test_front_end_is_that_of_the_release():
    """Written again in float64, sample by sample, from the released description."""
    sound = np.random.default_rng(0).normal(size=1200) / 8
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    edges = np.linspace(1127 * np.log(1 + 125 / 700), 1127 * np.log(1 + 7500 / 700), 66)
    mels = 1127 * np.log(1 + np.arange(257) * 16_000 / 512 / 700)
    rows = []
    for start in (0, 160, 320, 480, 640, 800):
        magnitude = np.abs(np.fft.rfft(sound[start : start + 400] * window, 512))
        row = []
        for band in range(64):
            low, peak, high = edges[band : band + 3]
            weights = np.maximum(
                np.minimum((mels - low) / (peak - low), (high - mels) / (high - peak)), 0
            )
            row.append(np.log(weights @ magnitude + 0.01))
        rows.append(row)
    found = log_mel(torch.from_numpy(sound), vggish.LOG_OFFSET)
    np.testing.assert_allclose(found, rows, atol=2e-5)


def test_bands_of_mels_cover_125_to_7500_hz_and_none_is_empty():
    weights = mel_weights()
    assert weights.shape == (257, 64)
    assert (weights.sum(0) > 0).all()
    assert weights[:4].sum() == 0 and weights[241:].sum() == 0


@pytest.mark.parametrize(
    ("seconds", "rate", "count"),
    [(1.6, 16_000, 1), (0.3, 16_000, 1), (1.93, 16_000, 1), (1.94, 16_000, 2), (3.0, 44_100, 3)],
)
def test_windows_do_not_overlap_and_a_last_part_is_left_out(seconds, rate, count):
    clip = sounding(seconds, rate)
    assert len(patches(clip.waveform, rate, vggish.LOG_OFFSET, vggish.HOP)) == count


@pytest.mark.parametrize(
    ("seconds", "hop", "heard"),
    [(1.6, 96, 0.975), (1.6, 48, 1.455), (0.5, 96, 0.5), (10.0, 96, 9.615)],
)
def test_windows_cover_what_they_say(seconds, hop, heard):
    """Silence after that changes no patch, and before it some."""
    assert covered(seconds, hop) == pytest.approx(heard)
    sound = torch.randn(round(seconds * 16_000), generator=torch.Generator().manual_seed(0))
    kept, cut = sound.clone(), sound.clone()
    kept[round(heard * 16_000) :] = 0
    cut[round((heard - 0.01) * 16_000) :] = 0
    whole = patches(sound, 16_000, 0.01, hop)
    assert patches(kept, 16_000, 0.01, hop).equal(whole)
    assert not patches(cut, 16_000, 0.01, hop).equal(whole)


def test_sound_that_continues_after_the_last_window_changes_nothing():
    long, short = sounding(1.6).waveform, sounding(1.6).waveform[:15_600]
    found = [patches(sound, 16_000, vggish.LOG_OFFSET, vggish.HOP) for sound in (long, short)]
    assert torch.equal(*found)


def test_file_with_the_published_name_must_be_the_published_file(tmp_path):
    path = tmp_path / "vggish-10086976.pth"
    # One number a tensor, seen as many: the file stays small.
    torch.save({k: torch.full((), 1e-3).expand(s) for k, s in layouts.VGGISH.items()}, path)
    with pytest.raises(UserError, match="starts with .*, not 10086976"):
        vggish.VGGish(path)
    extractor = vggish.VGGish(path.rename(tmp_path / "mine.pth"))
    [features] = extractor([sounding(2.0)])
    assert features.shape == (2, 128) and extractor.modality == "audio"
