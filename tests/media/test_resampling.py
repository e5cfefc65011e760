"""Resampled waveforms are those of the same filter elsewhere, and keep what both rates can hold."""

import numpy as np
import pytest
import torch

from mmldm.media.resampling import KAISER_BETA, ROLLOFF, ZERO_CROSSINGS, resample

RATES = [(44_100, 16_000), (16_000, 44_100), (48_000, 16_000), (8_000, 16_000), (22_050, 16_000)]


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
def test_resampled_noise_is_that_of_scipys_polyphase_filter(rate, new_rate):
    """The same windowed sinc, written as one long filter at the common multiple of both rates."""
    signal = pytest.importorskip("scipy.signal")
    divisor = np.gcd(rate, new_rate)
    down, up = rate // divisor, new_rate // divisor
    cutoff = ROLLOFF * min(1, up / down)
    reach = int(np.ceil(ZERO_CROSSINGS * up / cutoff))
    crossings = np.arange(-reach, reach + 1) / up * cutoff
    inside = np.sqrt(np.maximum(1 - (crossings / ZERO_CROSSINGS) ** 2, 0))
    window = np.i0(KAISER_BETA * inside) / np.i0(KAISER_BETA)
    window[np.abs(crossings) > ZERO_CROSSINGS] = 0
    noise = np.random.default_rng(0).normal(size=3001)
    # scipy multiplies taps that it is given by `up`.
    taps = cutoff * np.sinc(crossings) * window / up
    wanted = signal.resample_poly(noise, up, down, window=taps)
    found = resample(torch.from_numpy(noise), rate, new_rate)
    assert len(found) == len(wanted) == -(-3001 * up // down)
    # np.i0 is good to 1e-8.
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-7)


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
def test_tone_that_both_rates_hold_stays_where_it_is(rate, new_rate):
    def tone(at: int) -> torch.Tensor:
        return torch.sin(2 * torch.pi * 1234.5 * torch.arange(at // 2, dtype=torch.float64) / at)

    found, wanted = resample(tone(rate), rate, new_rate), tone(new_rate)
    inner = slice(len(wanted) // 4, 3 * len(wanted) // 4)
    torch.testing.assert_close(found[inner], wanted[inner], atol=1e-5, rtol=0)


def test_tone_above_the_new_rates_limit_is_removed():
    tone = torch.sin(2 * torch.pi * 9_000 * torch.arange(22_050, dtype=torch.float64) / 44_100)
    assert resample(tone, 44_100, 16_000)[2000:6000].abs().max() < 1e-4


def test_batches_are_resampled_one_by_one_in_their_own_precision():
    batch = torch.randn(2, 3, 500)
    found = resample(batch, 3, 2)
    assert found.shape == (2, 3, 334) and found.dtype == torch.float32
    # Some machines add in another order where there is one row alone.
    torch.testing.assert_close(found[1, 2], resample(batch[1, 2], 3, 2), atol=1e-6, rtol=0)


def test_waveform_at_the_wanted_rate_is_not_touched():
    waveform = torch.randn(50)
    assert resample(waveform, 16_000, 16_000) is waveform
