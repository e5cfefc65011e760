"""Spectral distances: nothing for the same sound, known values for known changes."""

import math

import pytest
import torch

from mmldm.evaluation.spectra import QUIET, spectral_distance


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
