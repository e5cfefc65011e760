"""Fidelity is perfect for copies, known for known errors, and blind to phase."""

import dataclasses

import pytest
import torch

from mmldm.evaluation.reconstruction import (
    MOST_PSNR,
    fidelity,
    mel_error,
    psnr,
    side_by_side,
    through_image_vae,
    vae_spec,
)
from mmldm.media.clip import frames_to_images, images_to_frames
from mmldm.media.spectrogram import AudioImage
from mmldm.models.image_vae import PatchAutoencoderKL
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
