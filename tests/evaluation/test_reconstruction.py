"""Fidelity is perfect for copies, known for known errors, and blind to phase."""

import dataclasses

import pytest
import torch

from mmldm.data.impacts import ImpactsConfig, render_clip
from mmldm.evaluation.reconstruction import MOST_PSNR, fidelity, mel_error, psnr
from mmldm.media.spectrogram import AudioImage


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
