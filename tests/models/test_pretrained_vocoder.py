"""HiFi-GAN and BigVGAN of others: small checkpoints of the same layout, saved by their own libraries."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.mmaudio_vocoder import MMAudioVocoder

from mmldm.errors import UserError
from mmldm.models.pretrained_vocoder import PretrainedVocoder, bands_and_hop, load_vocoder
from mmldm.models.vocoder import FourierVocoder
from mmldm.types import ClipSpec, SpectrogramSpec

CLIP = ClipSpec(
    num_frames=4,
    sample_rate=8000,
    spectrogram=SpectrogramSpec(n_fft=256, hop_length=100, num_mels=32, f_max=4000.0),
)
TRAINED_ON = SpectrogramSpec(
    n_fft=256, hop_length=80, num_mels=20, f_min=0, f_max=4000.0, mel_scale="slaney",
    area_normalised=True, window_normalised=False, db_min=-100.0,
)  # fmt: skip
RESBLOCKS = {"resblock_kernel_sizes": (3,), "resblock_dilation_sizes": ((1, 3),)}


def hifigan() -> Any:
    speecht5 = pytest.importorskip("transformers.models.speecht5")
    torch.manual_seed(0)
    config = speecht5.SpeechT5HifiGanConfig(
        model_in_dim=20, sampling_rate=8000, upsample_initial_channel=16, upsample_rates=(5, 4, 4),
        upsample_kernel_sizes=(10, 8, 8), normalize_before=True, **RESBLOCKS,
    )  # fmt: skip
    network = speecht5.SpeechT5HifiGan(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    network.mean.fill_(-3.0)
    network.scale.fill_(2.0)
    return network


def bigvgan() -> Any:
    torch.manual_seed(0)
    return MMAudioVocoder(
        num_mels=20, upsample_initial_channel=16, upsample_rates=(5, 4, 4),
        upsample_kernel_sizes=(10, 8, 8), **RESBLOCKS,
    ).eval()  # fmt: skip


@pytest.fixture(params=[hifigan, bigvgan])
def network(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.fixture
def folder(network: Any, tmp_path: Path) -> Path:
    network.save_pretrained(tmp_path / "vocoder")
    return tmp_path


def decibels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return -100 * torch.rand(2, 20, 12, generator=generator)


@torch.no_grad()
def test_network_is_given_natural_logarithms_and_its_own_sound_comes_back(
    network: Any, folder: Path
) -> None:
    vocoder = load_vocoder(folder, CLIP, TRAINED_ON)
    nepers = torch.log(10 ** (decibels() / 20))
    is_bigvgan = isinstance(network, MMAudioVocoder)
    expected = network(nepers).sample[:, 0] if is_bigvgan else network(nepers.mT)
    waveform = vocoder(decibels())
    # Kernels that are not twice their stride plus an even number write a few samples more or less.
    assert abs(expected.shape[1] - 12 * 80) <= 40
    assert waveform.shape == (2, 12 * 80)
    common = min(12 * 80, expected.shape[1])
    assert torch.allclose(waveform[:, :common], expected[:, :common], atol=1e-5)
    assert waveform.std() > 0


@torch.no_grad()
def test_export_comes_back_without_the_original(folder: Path, tmp_path: Path) -> None:
    vocoder = load_vocoder(folder / "vocoder", CLIP, TRAINED_ON)
    vocoder.save_pretrained(tmp_path / "export")
    again = load_vocoder(tmp_path / "export", CLIP)
    assert isinstance(again, PretrainedVocoder)
    assert again.spectrogram == TRAINED_ON
    assert again.sample_rate == 8000
    assert torch.equal(again(decibels()), vocoder(decibels()))


def test_bands_and_hop_are_read_from_the_network(network: Any) -> None:
    assert bands_and_hop(network) == (20, 80)


def test_spectrogram_that_the_network_does_not_read_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="reads 20 mel bands every 80 samples, not 32 every 100"):
        load_vocoder(folder, CLIP)


def test_weights_of_another_size_and_missing_ones_are_refused(folder: Path) -> None:
    config = folder / "vocoder" / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"resblock_dilation_sizes": [[1, 3, 5]]}))
    with pytest.raises(UserError, match="does not fit the network it is for: tensors .* missing"):
        load_vocoder(folder, CLIP, TRAINED_ON)
    config.write_text(json.dumps(settings | {"upsample_initial_channel": 32}))
    with pytest.raises(UserError, match="of the wrong shape"):
        load_vocoder(folder, CLIP, TRAINED_ON)


def test_weights_in_a_pickle_are_not_read(folder: Path) -> None:
    [weights] = (folder / "vocoder").glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UserError, match="weights .*are missing"):
        load_vocoder(folder, CLIP, TRAINED_ON)


def test_our_own_vocoder_needs_no_description(tmp_path: Path) -> None:
    own = FourierVocoder(CLIP.spectrogram.model_dump(mode="json"), 8000, width=8, depth=1)
    own.save_pretrained(tmp_path)
    assert isinstance(load_vocoder(tmp_path, CLIP), FourierVocoder)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"_class_name": "AutoencoderKL"}, "AutoencoderKL is no vocoder that is known here"),
        ({"architectures": ["WaveGlow"]}, "WaveGlow is no vocoder that is known here"),
        (None, "holds no vocoder: neither config.json nor vocoder/config.json"),
    ],
)
def test_folder_of_something_else_is_named(
    config: dict[str, Any] | None, sentence: str, tmp_path: Path
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=sentence):
        load_vocoder(tmp_path, CLIP)


def test_hub_name_that_cannot_be_reached_is_a_sentence() -> None:
    with pytest.raises(UserError, match="'nobody/no-vocoder' is neither a folder here"):
        load_vocoder("nobody/no-vocoder", CLIP)


def test_missing_package_is_named(tmp_path: Path) -> None:
    try:
        import transformers  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("transformers is installed")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["SpeechT5HifiGan"]}))
    with pytest.raises(UserError, match=r"pip install 'mmldm\[vocoder\]'"):
        load_vocoder(tmp_path, CLIP)
