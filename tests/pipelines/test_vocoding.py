"""Images to sound through a vocoder: its own spectrogram, exact lengths, and what cannot go together."""

import math
from typing import Any

import pytest
import torch

from mmldm.errors import UserError
from mmldm.media.spectrogram import AudioImage
from mmldm.models.vocoder import FourierVocoder
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.pipelines.vocoding import sound, vocoder_input
from mmldm.types import ClipSpec, SpectrogramSpec

from .conftest import SPEC, build_pipeline


def vocoder(spec: ClipSpec = SPEC, **changes: Any) -> FourierVocoder:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "spectrogram": spec.spectrogram.model_dump(mode="json"),
        "sample_rate": spec.sample_rate,
        "width": 16,
        "depth": 1,
    }
    return FourierVocoder(**{**arguments, **changes}).eval()


def spec_of(frames: int, fps: float = 10.0, **spectrogram: Any) -> ClipSpec:
    mel = SPEC.spectrogram.model_copy(update=spectrogram)
    return SPEC.model_copy(update={"num_frames": frames, "fps": fps, "spectrogram": mel})


@torch.no_grad()
@pytest.mark.parametrize("frames", [3, 4, 5, 7])
@pytest.mark.parametrize("hop", [100, 101, 200, 256])
def test_length_is_the_clips_whatever_the_hop(frames: int, hop: int) -> None:
    spec = spec_of(frames, fps=7.3, hop_length=hop)
    network = vocoder(spec, subcolumns=1)
    waveform = sound(torch.rand(1, 1, 3, 32, 32) * 2 - 1, AudioImage(spec), network)
    assert waveform.shape == (1, spec.num_samples)
    assert waveform[0, -hop // 2 :].abs().max() > 0  # sounds to the end


def test_without_a_vocoder_it_is_griffin_lim() -> None:
    image = torch.rand(1, 1, 3, 32, 32) * 2 - 1
    audio_image = AudioImage(SPEC)
    assert torch.equal(sound(image, audio_image, None), audio_image.waveform(image))


def test_vocoder_reads_the_levels_of_the_image_itself() -> None:
    spec = spec_of(8)
    waveforms = 0.2 * torch.randn(2, spec.num_samples)
    audio_image = AudioImage(spec)
    read = vocoder_input(audio_image.image(waveforms), audio_image, spec.spectrogram)
    levels = audio_image.decibels(waveforms)
    audible = (levels > spec.spectrogram.db_min + 2) & (levels < spec.spectrogram.db_max)
    assert (read - levels)[audible].abs().max() < 0.01
    deeper = spec.spectrogram.model_copy(update={"db_min": -100.0})
    assert torch.equal(vocoder_input(audio_image.image(waveforms), audio_image, deeper), read)


FOREIGN = SpectrogramSpec(
    n_fft=256, hop_length=160, num_mels=24, f_min=0, f_max=4000, mel_scale="slaney",
    area_normalised=True, window_normalised=False, db_min=-100,
)  # fmt: skip


@pytest.mark.parametrize("n_fft", [256, 400])
def test_spectrogram_of_another_kind_is_near_the_one_measured_directly(n_fft: int) -> None:
    spec = SPEC.model_copy(update={"height": 64, "width": 64})
    mel = SPEC.spectrogram.model_copy(update={"num_mels": 64, "hop_length": 100})
    spec = spec.model_copy(update={"spectrogram": mel})
    time = torch.arange(spec.num_samples) / spec.sample_rate
    tones = sum(torch.sin(2 * math.pi * f * time) / 8 for f in (300, 700, 1500, 2600))
    assert isinstance(tones, torch.Tensor)
    waveform = (tones * torch.exp(-2 * time))[None]
    wanted = FOREIGN.model_copy(update={"n_fft": n_fft})
    audio_image = AudioImage(spec)
    read = vocoder_input(audio_image.image(waveform), audio_image, wanted)
    direct = AudioImage(spec.model_copy(update={"spectrogram": wanted})).decibels(waveform)
    assert read.shape == direct.shape
    loud = direct > direct.max() - 20
    assert (read - direct)[loud].abs().mean() < 1.5


def test_half_speed_spectrograms_of_the_paper_suit_a_vocoder_of_half_the_rate() -> None:
    mel = SpectrogramSpec(
        n_fft=256, hop_length=64, num_mels=32, f_max=4000, filterbank_rate=8000
    )  # fmt: skip
    spec = SPEC.model_copy(update={"sample_rate": 16000, "spectrogram": mel})
    plain = mel.model_copy(update={"filterbank_rate": None})
    audio_image = AudioImage(spec)
    image = torch.rand(1, 1, 3, 32, 32) * 2 - 1
    same = vocoder_input(image, audio_image, mel)
    assert torch.equal(vocoder_input(image, audio_image, plain), same)


def test_vocoder_of_another_rate_is_refused() -> None:
    parts = build_pipeline().components
    with pytest.raises(UserError, match="sound of 16000 Hz, but these clips have .* of 8000 Hz"):
        SoundingVideoPipeline(
            **{**parts, "vocoder": vocoder(sample_rate=16000)},
            clip_spec=SPEC.model_dump(mode="json"),
            class_names=["wood", "metal"],
        )


@pytest.fixture(scope="module")
def voiced() -> SoundingVideoPipeline:
    pipeline = build_pipeline()
    pipeline.register_modules(vocoder=vocoder())
    return pipeline


def test_vocoder_makes_the_sound_of_the_pipeline(voiced: SoundingVideoPipeline) -> None:
    silent_twin = build_pipeline()
    ours, theirs = voiced(num_samples=1, seed=0).clips[0], silent_twin(num_samples=1, seed=0).clips
    assert torch.equal(ours.frames, theirs[0].frames)
    assert not torch.allclose(ours.waveform, theirs[0].waveform, atol=1e-3)


def test_clips_are_the_same_on_any_batch_split(voiced: SoundingVideoPipeline) -> None:
    together = voiced(num_samples=3, seed=5, batch_size=3).clips
    apart = voiced(num_samples=3, seed=5, batch_size=1).clips
    for a, b in zip(together, apart, strict=True):
        assert torch.allclose(a.waveform, b.waveform, atol=1e-5)


def test_saved_pipeline_comes_back_with_its_vocoder(
    voiced: SoundingVideoPipeline, tmp_path: Any
) -> None:
    voiced.save_pretrained(tmp_path)
    again = SoundingVideoPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    wanted = voiced(num_samples=1, seed=2).clips[0].waveform
    assert torch.allclose(again(num_samples=1, seed=2).clips[0].waveform, wanted, atol=1e-6)
    plain = SoundingVideoPipeline.from_pretrained(tmp_path, vocoder=None)
    assert plain.vocoder is None


def test_saved_pipeline_without_a_vocoder_comes_back_without(tmp_path: Any) -> None:
    build_pipeline().save_pretrained(tmp_path)
    assert not (tmp_path / "vocoder").exists()
    assert SoundingVideoPipeline.from_pretrained(tmp_path).vocoder is None


def test_missing_vocoder_folder_is_named(voiced: SoundingVideoPipeline, tmp_path: Any) -> None:
    voiced.save_pretrained(tmp_path)
    (tmp_path / "vocoder" / "config.json").unlink()
    with pytest.raises(UserError, match="'vocoder' is missing"):
        SoundingVideoPipeline.from_pretrained(tmp_path)
