"""Fidelity is perfect for copies, known for known errors, and blind to phase; so are spectral distances."""

import csv
import dataclasses
import math
from pathlib import Path

import pytest
import torch

from mmldm.errors import MediaError
from mmldm.evaluation.reconstruction import (
    MOST_PSNR,
    QUIET,
    fidelity,
    mel_error,
    psnr,
    quiet_difference,
    side_by_side,
    spectral_distance,
    through_image_vae,
    vae_spec,
)
from mmldm.media.clip import frames_to_images, images_to_frames
from mmldm.media.reader import read_audio
from mmldm.media.spectrogram import AudioImage
from mmldm.models.image_vae import PatchAutoencoderKL
from mmldm.training.recipe import tiny_recipe
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip


@pytest.fixture(scope="module")
def clip():
    return render_clip(ImpactsConfig(seed=1), 2).clip


@pytest.fixture(scope="module")
def audio_image():
    return AudioImage(ImpactsConfig().spec)


def test_copy_is_perfect(clip, audio_image):
    assert fidelity(clip, clip, audio_image) == (MOST_PSNR, 0.0)


def test_psnr_of_a_known_error():
    reference = torch.full((2, 4, 3, 8, 8), 100, dtype=torch.uint8)
    frames = reference.clone()
    frames[1] += 10
    assert psnr(frames, reference).tolist() == pytest.approx([MOST_PSNR, 28.1308], abs=1e-3)


def test_darker_frames_count_like_brighter_ones():
    reference = torch.full((1, 1, 3, 8, 8), 100, dtype=torch.uint8)
    assert psnr(reference - 10, reference).item() == psnr(reference + 10, reference).item()


def test_halving_the_amplitude_costs_six_decibels(audio_image):
    noise = 0.3 * torch.randn(1, audio_image.spec.num_samples, generator=torch.manual_seed(0))
    error = mel_error(noise / 2, noise, audio_image).item()
    assert error == pytest.approx(6.02, abs=0.05)


def test_mel_error_does_not_hear_polarity(clip, audio_image):
    flipped = dataclasses.replace(clip, waveform=-clip.waveform)
    assert fidelity(flipped, clip, audio_image).mel_error == pytest.approx(0, abs=1e-4)


def test_worse_copies_score_worse(clip, audio_image):
    scores = []
    for strength in (1, 4, 16):
        generator = torch.Generator().manual_seed(strength)
        blur = torch.randn(clip.frames.shape, generator=generator) * strength
        hiss = torch.randn(clip.waveform.shape, generator=generator) * strength * 1e-3
        copy = dataclasses.replace(
            clip,
            frames=(clip.frames + blur).clamp(0, 255).to(torch.uint8),
            waveform=clip.waveform + hiss,
        )
        scores.append(fidelity(copy, clip, audio_image))
    assert scores[0].psnr > scores[1].psnr > scores[2].psnr
    assert scores[0].mel_error < scores[1].mel_error < scores[2].mel_error


def test_side_by_side_shows_both_pictures_and_sounds_like_the_right_one(clip):
    right = dataclasses.replace(clip, frames=255 - clip.frames, waveform=-clip.waveform)
    both = side_by_side(clip, right)
    width = clip.frames.shape[3]
    assert torch.equal(both.frames[..., :width], clip.frames)
    assert torch.equal(both.frames[..., width:], right.frames)
    assert torch.equal(both.waveform, right.waveform)


@pytest.mark.parametrize("size", [32, 64, 96, 128])
def test_audio_image_of_a_vae_spec_fills_the_square_natively(size):
    spec = vae_spec(size)
    assert (spec.spectrogram.num_mels, spec.num_columns) == (size, size)
    assert (spec.height, spec.width) == (size, size)


def test_vae_spec_of_a_large_picture_keeps_128_mel_bands():
    spec = vae_spec(256)
    assert (spec.height, spec.spectrogram.num_mels, spec.num_columns) == (256, 128, 128)
    image = AudioImage(spec).image(torch.zeros(1, spec.num_samples))
    assert image.shape == (1, 1, 3, 256, 256)


def test_image_vae_alone_keeps_lengths_and_its_error_is_measured():
    spec = vae_spec(32)
    clip = render_clip(ImpactsConfig(seed=1, spec=spec), 2).clip
    torch.manual_seed(0)
    vae = PatchAutoencoderKL(latent_channels=4, base_channels=8, upsample_channels=[8]).eval()
    kept = through_image_vae(vae, clip, spec)
    assert kept.frames.shape == clip.frames.shape
    assert kept.frames.dtype == torch.uint8
    assert kept.waveform.shape == clip.waveform.shape
    image = frames_to_images(clip.frames[:1])
    with torch.no_grad():
        direct = vae.decode(vae.encode(image).latent_dist.mode()).sample
    assert torch.equal(kept.frames[:1], images_to_frames(direct))
    assert fidelity(kept, clip, AudioImage(spec)).psnr < MOST_PSNR


def noise(seconds: float = 0.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.3 * torch.randn(2, round(16000 * seconds), generator=generator)


def test_same_sound_has_no_distance() -> None:
    for distance in spectral_distance(noise(), noise()):
        assert torch.equal(distance, torch.zeros(2))


def test_half_as_loud_is_half_of_the_norm_and_a_neper_times_ln_2() -> None:
    distance = spectral_distance(0.5 * noise(), noise())
    assert distance.convergence == pytest.approx([0.5, 0.5], abs=1e-3)
    # Magnitudes are far above QUIET, where logarithms level off.
    assert distance.log_magnitude == pytest.approx([math.log(2)] * 2, abs=0.02)


def test_phase_is_not_heard() -> None:
    distance = spectral_distance(-noise(), noise())
    assert distance.convergence.max() < 1e-6


def test_silence_against_silence_and_sound_is_finite_and_has_a_gradient() -> None:
    silence = torch.zeros(2, 4000, requires_grad=True)
    assert torch.equal(spectral_distance(silence, silence.detach()).log_magnitude, torch.zeros(2))
    distance = spectral_distance(silence, noise(0.25))
    assert distance.convergence.tolist() == pytest.approx([1, 1], abs=1e-3)
    (distance.convergence.sum() + distance.log_magnitude.sum()).backward()
    assert silence.grad is not None and silence.grad.isfinite().all()


def test_an_onset_ten_milliseconds_late_is_further_away_than_two() -> None:
    def click(at: float) -> torch.Tensor:
        time = torch.arange(8000) / 16000 - at
        return torch.where(time < 0, 0.0, torch.exp(-60 * time) * torch.sin(6000 * time))[None]

    near, far = (spectral_distance(click(0.1 + late), click(0.1)) for late in (0.002, 0.01))
    assert far.convergence > 2 * near.convergence
    assert far.log_magnitude > 2 * near.log_magnitude


def test_quiet_differences_do_not_count() -> None:
    generator = torch.Generator().manual_seed(1)
    hiss = 0.01 * QUIET * torch.randn(2, 8000, generator=generator)
    assert spectral_distance(hiss, torch.zeros(2, 8000)).log_magnitude.max() < 0.02


def room_noise(batch: int = 2) -> torch.Tensor:
    """A hit in noise whose mel bands lie 10 to 20 dB above the floor, (B,S)."""
    spec, generator = vae_spec(128), torch.Generator().manual_seed(0)
    noise = 2e-3 * torch.randn(batch, spec.num_samples, generator=generator)
    time = (torch.arange(spec.num_samples) / spec.sample_rate - 0.5).clamp(min=0)
    return noise + 0.5 * torch.sin(1200 * math.pi * time) * torch.exp(-time / 0.05)


def test_a_gate_and_hiss_are_told_by_their_sign() -> None:
    sounds, audio_image = room_noise(), AudioImage(vae_spec(128))
    assert quiet_difference(sounds, sounds, audio_image).abs().max() == 0
    gated = sounds * (sounds.abs() > 0.01)
    hissing = sounds + 2e-3 * torch.randn(sounds.shape, generator=torch.Generator().manual_seed(1))
    assert (quiet_difference(gated, sounds, audio_image) < -3).all()
    assert (quiet_difference(hissing, sounds, audio_image) > 1).all()
    # A louder hit alone is neither.
    louder = torch.where(sounds.abs() > 0.05, 1.2 * sounds, sounds)
    assert quiet_difference(louder, sounds, audio_image).abs().max() < 1


@pytest.mark.slow
def test_room_and_tails_of_real_recordings_pass_griffin_lim(shared: Path) -> None:
    """Measured: .8 dB softer on average, 2.7 in the tenth that is softest itself: at the image's floor."""
    spec = tiny_recipe().clip
    audio_image = AudioImage(spec)
    with (shared / "clips" / "MANIFEST.csv").open() as manifest:
        names = [row["name"] for row in csv.DictReader(manifest) if row["cls"] == "A"]
    recordings = []
    for name in names:
        try:
            recordings.append(read_audio(shared / "clips" / name, spec))
        except MediaError:  # some have no sound
            continue
    sounds = torch.stack(recordings[:40])
    assert len(sounds) == 40
    back = audio_image.waveform(audio_image.image(sounds), iterations=8)
    louder = quiet_difference(back, sounds, audio_image)
    assert abs(float(louder.nanmean())) < 1.0
    assert float(louder.abs().nanquantile(0.9)) < 3.0
