"""Our own vocoder: exact lengths, one clip at a time or many, and a folder that comes back equal."""

import math
from pathlib import Path

import pytest
import torch

from mmldm.errors import UserError
from mmldm.models.vocoder import FourierVocoder
from mmldm.types import SpectrogramSpec

SPECTROGRAM = SpectrogramSpec(n_fft=256, hop_length=100, num_mels=32, f_max=4000.0)


def vocoder(**changes: int) -> FourierVocoder:
    torch.manual_seed(0)
    arguments = {"width": 16, "depth": 2, **changes}
    return FourierVocoder(SPECTROGRAM.model_dump(mode="json"), 8000, **arguments).eval()


def spectrograms(columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return -70 * torch.rand(3, 32, columns, generator=generator)


@pytest.mark.parametrize("columns", [1, 2, 13, 32])
@pytest.mark.parametrize("sizes", [{}, {"subcolumns": 1, "n_fft": 256}, {"subcolumns": 4}])
def test_waveform_has_a_hop_of_samples_for_every_column(
    columns: int, sizes: dict[str, int]
) -> None:
    waveform = vocoder(**sizes)(spectrograms(columns))
    assert waveform.shape == (3, columns * 100)
    assert waveform.isfinite().all()


@torch.no_grad()
def test_a_clip_sounds_alike_alone_and_in_a_batch() -> None:
    network, mel = vocoder(), spectrograms(20)
    alone = torch.cat([network(one[None]) for one in mel])
    assert torch.allclose(network(mel), alone, atol=1e-5)


@torch.no_grad()
def test_what_a_column_says_is_heard_at_its_own_time() -> None:
    """A change in column 20 moves samples around (20 + 1/2) hops and none far from there."""
    network, mel = vocoder(depth=1, kernel_size=3), spectrograms(40)[:1]
    changed = mel.clone()
    changed[:, :, 20] = 0.0
    moved = (network(changed) - network(mel)).abs()[0] > 1e-6
    samples = moved.nonzero()
    assert abs(samples.float().mean().item() - 2050) < 60
    reach = 2 * 100 + 50 + 100  # two convolutions of three columns, and half a spectrum
    assert samples.min() >= 2050 - reach and samples.max() <= 2050 + reach


@torch.no_grad()
def test_every_spectrum_of_a_steady_sound_is_as_loud_at_the_ends_as_inside() -> None:
    network = vocoder(kernel_size=1)
    loudness = network(torch.full((1, 32, 30), -20.0))[0].unflatten(0, (30, 100)).norm(dim=1)
    assert loudness.max() < 1.05 * loudness.min()


def test_every_weight_has_a_gradient_at_once() -> None:
    network = vocoder()
    network(spectrograms(12)).square().mean().backward()
    still = [name for name, p in network.named_parameters() if not p.grad.abs().max() > 0]
    assert still == []


def test_saved_folder_comes_back_with_the_same_sound(tmp_path: Path) -> None:
    network, mel = vocoder(), spectrograms(9)
    network.save_pretrained(tmp_path)
    again = FourierVocoder.from_pretrained(tmp_path)
    assert again.spectrogram == SPECTROGRAM
    assert again.sample_rate == 8000
    with torch.no_grad():
        assert torch.equal(again(mel), network(mel))


@pytest.mark.parametrize("wrong", [{"subcolumns": 3}, {"kernel_size": 4}, {"n_fft": 60}])
def test_sizes_that_cannot_be_built_are_a_sentence(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="must divide hop_length 100"):
        vocoder(**wrong)


@torch.no_grad()
def test_no_spectrogram_makes_an_untrained_one_overflow() -> None:
    network = vocoder()
    with torch.no_grad():
        network.head.weight *= 1e4
    assert math.isfinite(network(spectrograms(8)).abs().max())
