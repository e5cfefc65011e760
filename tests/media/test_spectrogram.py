"""The audio image: formula, filterbanks, and how exactly it goes back to sound."""

import math
from inspect import signature
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mmldm.media.spectrogram import (
    MOMENTUM,
    NNLS_ITERATIONS,
    AudioImage,
    find_spectrum,
    linear_magnitudes,
    mel_filterbank,
    overlapped,
    starting_phases,
)
from mmldm.training.recipe import fitting_spectrogram
from mmldm.types import ClipSpec, SpectrogramSpec

pytestmark = pytest.mark.slow

SPEC = ClipSpec()
PAPER = ClipSpec(
    height=256,
    width=256,
    sample_rate=44100,
    spectrogram=SpectrogramSpec(
        n_fft=1024,
        hop_length=256,
        num_mels=80,
        f_min=0.0,
        f_max=8000.0,
        mel_scale="slaney",
        area_normalised=True,
        window_normalised=False,
        filterbank_rate=22050,
        db_min=-80.0,
        db_max=20.0,
    ),
)


def chirps(batch: int = 2) -> torch.Tensor:
    """Tones that rise and are gated on and off, (B,S)."""
    time = torch.arange(SPEC.num_samples) / SPEC.sample_rate
    tones = [
        0.5 * torch.sin(2 * math.pi * (200 + 150 * k + 900 * time) * time) for k in range(batch)
    ]
    return torch.stack(tones) * ((time % 0.4) < 0.25)


def test_the_inverse_is_the_one_that_the_docs_describe() -> None:
    text = " ".join(
        (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8").split()
    )
    assert f"by {NNLS_ITERATIONS} multiplicative non-negative least-squares updates" in text
    iterations = signature(AudioImage.waveform).parameters["iterations"].default
    assert f"{iterations} steps of fast Griffin-Lim (momentum {MOMENTUM})" in text


def triangle(frequency: float, left: float, centre: float, right: float) -> float:
    if frequency <= left or frequency >= right:
        return 0.0
    if frequency <= centre:
        return (frequency - left) / (centre - left)
    return (right - frequency) / (right - centre)


def test_filterbank_follows_the_htk_formula() -> None:
    spec = SpectrogramSpec(num_mels=10, f_min=50.0, f_max=6000.0, area_normalised=True)
    low, high = (2595 * math.log10(1 + f / 700) for f in (50.0, 6000.0))
    edges = [700 * (10 ** ((low + (high - low) * i / 11) / 2595) - 1) for i in range(12)]
    filters = mel_filterbank(spec, 16000)
    for band in range(10):
        left, centre, right = edges[band : band + 3]
        for column in (3, 17, 60, 200, 380):
            expected = triangle(column * 16000 / 1024, left, centre, right) * 2 / (right - left)
            assert filters[band, column].item() == pytest.approx(expected, abs=1e-7)


def test_slaney_mels_are_linear_to_1_khz_and_logarithmic_above() -> None:
    # 0 to 8 kHz is 0 to 15 + 27 ln(8) / ln(6.4) mels; one mel below 1 kHz is 200/3 Hz.
    count = 44
    top = 15 + 27 * math.log(8) / math.log(6.4)
    spec = SpectrogramSpec(
        n_fft=16384, hop_length=400, num_mels=count, f_min=0, mel_scale="slaney",
        area_normalised=False,
    )  # fmt: skip
    peaks = mel_filterbank(spec, 16000).argmax(dim=1) * 16000 / 16384
    for band, peak in enumerate(peaks.tolist()):
        mel = (band + 1) * top / (count + 1)
        hz = mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)
        assert peak == pytest.approx(hz, abs=16000 / 16384)


@pytest.mark.parametrize("frequency", [150.0, 1000.0, 5000.0])
def test_a_sine_peaks_in_its_own_band(frequency: float) -> None:
    time = torch.arange(SPEC.num_samples) / SPEC.sample_rate
    mel = AudioImage(SPEC).mel(torch.sin(2 * math.pi * frequency * time)[None])
    low, high = (2595 * math.log10(1 + f / 700) for f in (40.0, 8000.0))
    band = (2595 * math.log10(1 + frequency / 700) - low) / ((high - low) / 65) - 1
    assert abs(mel[0, :, 30].argmax().item() - band) <= 1


def test_full_scale_sine_has_magnitude_one_before_the_filters() -> None:
    spec = SPEC.model_copy(
        update={"spectrogram": SpectrogramSpec(area_normalised=False, num_mels=4)}
    )
    # 1500 Hz is bin 96 exactly; with Hann, its neighbours have half the magnitude.
    time = torch.arange(spec.num_samples) / spec.sample_rate
    audio_image = AudioImage(spec)
    spectrum = (audio_image.spectrum(torch.sin(2 * math.pi * 1500 * time)[None]).abs())[0, :, 20]
    assert spectrum[96].item() * audio_image.gain == pytest.approx(1.0, rel=1e-4)
    assert spectrum[97].item() * audio_image.gain == pytest.approx(0.5, rel=1e-3)


def test_columns_are_centred_half_a_hop_in() -> None:
    hop = SPEC.spectrogram.hop_length
    for column in (5, 31, 60):
        waveform = torch.zeros(1, SPEC.num_samples)
        waveform[0, round((column + 0.5) * hop)] = 1.0
        energy = AudioImage(SPEC).mel(waveform).sum(dim=1)[0]
        assert energy.argmax().item() == column
        assert energy[column - 1].item() == pytest.approx(energy[column + 1].item(), rel=0.05)


def test_default_image_is_native_and_the_papers_has_275_columns() -> None:
    assert AudioImage(SPEC).mel(torch.zeros(1, SPEC.num_samples)).shape == (1, 64, 64)
    assert AudioImage(PAPER).mel(torch.zeros(1, PAPER.num_samples)).shape == (1, 80, 275)
    assert PAPER.num_columns == 275


def test_papers_preset_is_its_formula() -> None:
    # ln-mel through a 22.05 kHz filterbank on 44.1 kHz sound, 20 log10, [-80, 20] dB to [0, 1].
    torch.manual_seed(0)
    waveform = 0.2 * torch.randn(1, PAPER.num_samples)
    padded = torch.nn.functional.pad(waveform[None], (384, 384), mode="reflect")[0]
    spectrum = torch.stft(
        padded, 1024, 256, window=torch.hann_window(1024), center=False, return_complex=True
    ).abs()
    mel = mel_filterbank(PAPER.spectrogram, 22050) @ spectrum
    levels = ((20 * torch.log10(mel) + 80) / 100).clamp(0, 1)
    audio_image = AudioImage(PAPER)
    ours = (audio_image.decibels(waveform) + 80) / 100
    assert torch.allclose(ours.clamp(0, 1), levels, atol=1e-5)
    image = audio_image.image(waveform)
    assert image.shape == (1, 1, 3, 256, 256)
    assert image.mean().item() == pytest.approx(levels.mean().item() * 2 - 1, abs=0.01)


def test_row_zero_is_the_lowest_band_and_channels_are_equal() -> None:
    time = torch.arange(SPEC.num_samples) / SPEC.sample_rate
    image = AudioImage(SPEC).image(torch.sin(2 * math.pi * 100 * time)[None])
    assert image[0, 0, 0, :, 30].argmax().item() < 5
    assert torch.equal(image[:, :, 0], image[:, :, 1])
    assert torch.equal(image[:, :, 0], image[:, :, 2])


def test_silence_is_the_finite_floor_and_comes_back_silent() -> None:
    audio_image = AudioImage(SPEC)
    silence = torch.zeros(1, SPEC.num_samples)
    assert torch.all(audio_image.decibels(silence) == SPEC.spectrogram.db_min)
    image = audio_image.image(silence)
    assert torch.all(image == -1)
    assert torch.all(audio_image.waveform(image) == 0)
    residue = image + 0.03 * torch.rand_like(image)  # a decoded image is never exactly black
    assert torch.all(audio_image.waveform(residue) == 0)


def test_mel_from_image_undoes_the_image_where_it_is_native() -> None:
    audio_image = AudioImage(SPEC)
    waveform = chirps()
    mel = audio_image.mel(waveform)
    floor = SPEC.spectrogram.db_min + 1.5  # dB; below lies what counts as silence
    audible = (mel > 10 ** (floor / 20)) & (mel < 1)
    back = audio_image.mel_from_image(audio_image.image(waveform))
    assert torch.allclose(back[audible], mel[audible], rtol=1e-4)


@pytest.mark.parametrize(("sound", "worst_db"), [("chirps", 0.9), ("bursts", 0.25)])
def test_round_trip_error_of_the_default_image(sound: str, worst_db: float) -> None:
    """In the 40 dB below the peak; measured 0.58 dB for chirps, 0.14 dB for bursts of noise."""
    audio_image = AudioImage(SPEC)
    torch.manual_seed(0)
    waveform = chirps() if sound == "chirps" else 0.1 * (chirps() != 0) * torch.randn(2, 25600)
    back = audio_image.waveform(audio_image.image(waveform))
    assert back.shape == waveform.shape
    assert back.abs().max() <= 1
    decibels = audio_image.decibels(waveform)
    error = (audio_image.decibels(back) - decibels).abs()
    assert error[decibels > decibels.max() - 40].mean() < worst_db
    loudness = back.pow(2).mean().sqrt() / waveform.pow(2).mean().sqrt()
    assert 0.8 < loudness < 1.1


def test_round_trip_error_of_a_resized_image() -> None:
    spec = PAPER.model_copy(update={"sample_rate": 22050})
    audio_image = AudioImage(spec)
    torch.manual_seed(0)
    noise = torch.randn(1, spec.num_samples) * torch.linspace(0.0, 0.3, spec.num_samples)
    image = audio_image.image(noise)
    back = audio_image.image(audio_image.waveform(image))
    assert (back - image).abs().mean() / 2 < 0.02


def test_more_iterations_come_nearer_to_the_image() -> None:
    audio_image = AudioImage(SPEC)
    image = audio_image.image(chirps(1))
    errors = [
        (audio_image.image(audio_image.waveform(image, iterations=n)) - image).abs().mean().item()
        for n in (0, 4, 32)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_waveform_does_not_depend_on_the_batch() -> None:
    audio_image = AudioImage(SPEC)
    image = audio_image.image(chirps(3))
    together = audio_image.waveform(image, iterations=4)
    alone = torch.cat([audio_image.waveform(one[None], iterations=4) for one in image])
    assert torch.allclose(together, alone, atol=1e-5)


SHARP = ClipSpec(
    native_audio=True,
    spectrogram=SpectrogramSpec(n_fft=384, hop_length=100, num_mels=128, whole_bins=True),
)


def test_no_band_is_empty_where_filters_are_as_wide_as_a_bin() -> None:
    mel = SHARP.spectrogram
    narrow = mel_filterbank(mel.model_copy(update={"whole_bins": False}), 16000)
    whole = mel_filterbank(mel, 16000)
    assert (narrow.sum(1) == 0).any()
    assert (whole.sum(1) > 0).all()
    # Where a band is wider than a bin, nothing changes.
    assert torch.allclose(whole[-40:], narrow[-40:], atol=1e-6)


@pytest.mark.parametrize("rate", [16000, 22050, 24000, 32000, 44100, 48000])
@pytest.mark.parametrize("frames", [16, 17, 32, 48, 64])
def test_a_native_image_squeezes_nothing(rate: int, frames: int) -> None:
    clip = ClipSpec(num_frames=frames, sample_rate=rate, native_audio=True)
    spec = clip.model_copy(update={"spectrogram": fitting_spectrogram(clip)})
    assert spec.spectrogram.f_max == min(rate / 2, 20000)
    audio_image = AudioImage(spec)
    torch.manual_seed(0)
    waveform = 0.1 * torch.randn(1, spec.num_samples)
    image = audio_image.image(waveform)
    assert image.shape[-1] % 32 == 0 and 0 <= image.shape[-1] - spec.num_columns < 32
    mel, back = audio_image.mel(waveform), audio_image.mel_from_image(image)
    heard = mel > 10 ** ((spec.spectrogram.db_min + 2) / 20)
    decibels = 20 * torch.log10(back[heard] / mel[heard]).abs()
    assert decibels.mean() < 0.1
    if 1600 % (frames * 100) == 0 and rate % 16000 == 0:
        assert spec.num_columns * spec.spectrogram.hop_length == spec.num_samples


def rise(waveform: torch.Tensor, at: int) -> float:
    """10 to 90 % of the level, in ms, of the hit that begins at sample `at` of a waveform (S,)."""
    level = waveform.square().unfold(0, 16, 1).mean(1).sqrt()[at - 800 : at + 400]
    up = level[: int(level.argmax()) + 1]
    low, high = ((up < share * up[-1]).nonzero()[-1].item() for share in (0.1, 0.9))
    return (high - low) / 16


def test_a_hit_stays_a_hit() -> None:
    """Struck bars rise in a millisecond or two; random starting phases gave 2.9 ms and -27 dB."""
    time = (torch.arange(25600) / 16000 - 0.8).clamp(min=0)
    partials = torch.tensor([310.0, 840.0, 1710.0, 2900.0])[:, None, None]
    pitches = torch.linspace(0.8, 1.25, 9)[:, None]
    hits = 0.2 * (torch.sin(2 * math.pi * partials * pitches * time) * torch.exp(-time / 0.04)).sum(
        0
    )
    audio_image = AudioImage(SHARP)
    back = audio_image.waveform(audio_image.image(hits), iterations=8)
    excess = [rise(again, 12800) - rise(hit, 12800) for again, hit in zip(back, hits, strict=True)]
    before = back[:, : 12800 - 48].square().sum() / back[:, 12800:].square().sum()
    assert sorted(excess)[4] < 1.8
    assert 10 * math.log10(before) < -29


def test_a_tone_keeps_its_frequency_in_the_starting_phases() -> None:
    time = torch.arange(25600) / 16000
    audio_image = AudioImage(SHARP)
    for frequency in (440.0, 1333.0, 3210.0):
        tone = 0.3 * torch.sin(2 * math.pi * frequency * time)
        spectrum = audio_image.spectrum(tone[None])
        phases = starting_phases(spectrum.abs(), 384, 100)
        row = round(frequency / (16000 / 384))
        turned = torch.diff(phases[0, row, 20:200]).remainder(2 * math.pi)
        wanted = 2 * math.pi * frequency * 100 / 16000 % (2 * math.pi)
        assert (turned - wanted).abs().max() < 0.15


@pytest.mark.parametrize(("size", "hop"), [(384, 100), (400, 100), (1024, 256), (64, 64), (40, 64)])
def test_columns_add_up_as_by_folding(size: int, hop: int) -> None:
    columns = torch.randn(2, size, 9)
    length = 8 * hop + size
    folded = F.fold(columns, (1, length), kernel_size=(1, size), stride=(1, hop))
    assert torch.allclose(overlapped(columns, hop), folded[:, 0, 0], atol=1e-5)


def test_phases_are_found_by_the_steps_of_fast_griffin_lim() -> None:
    audio_image = AudioImage(SHARP)
    magnitudes = audio_image.spectrum(torch.randn(2, SHARP.num_samples)).abs()
    phases = torch.zeros_like(magnitudes)
    # The formula of Perraudin et al., in plain complex numbers.
    spectrum, previous = torch.polar(magnitudes, phases), 0 * magnitudes
    for _ in range(3):
        nearest = audio_image.spectrum(audio_image._inverse(spectrum))
        ahead = nearest - MOMENTUM / (1 + MOMENTUM) * previous
        spectrum, previous = magnitudes * ahead / ahead.abs().clamp(min=1e-16), nearest
    found = find_spectrum(magnitudes, phases, audio_image._consistent, 3)
    assert (found - spectrum).abs().max() < 1e-3 * magnitudes.max()
    # Where there is silence, it stays silent, and a number.
    assert find_spectrum(0 * magnitudes, phases, audio_image._consistent, 3).abs().max() == 0


@pytest.mark.parametrize("bins", [30, 90])
def test_least_squares_are_the_same_by_either_product(bins: int) -> None:
    torch.manual_seed(0)
    filterbank, mel = torch.rand(32, bins), torch.rand(2, 32, 5)
    target = filterbank.T @ mel
    expected = target
    for _ in range(NNLS_ITERATIONS):
        expected = expected * target / (filterbank.T @ (filterbank @ expected))
    assert torch.allclose(linear_magnitudes(mel, filterbank), expected, rtol=1e-4)
