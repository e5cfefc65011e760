"""The audio image: a log-mel spectrogram as a picture, and back.

waveform (B,S) <-> mel magnitudes (B,M,L) <-> audio image (B,1,3,H,W) in [-1,1]. Paper §3.1; our
reading in docs/data.md. The way back needs no vocoder: mel magnitudes -> linear magnitudes (B,F,L) ->
spectrum (B,F,L) complex -> waveform. Lee & Seung 2001 (multiplicative updates); Perraudin, Balazs &
Sondergaard 2013 (fast Griffin-Lim); Prusa, Balazs & Sondergaard 2017 (phases from magnitudes).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmldm.arithmetic import linear, without_autocast
from mmldm.types import ClipSpec, SpectrogramSpec

NNLS_ITERATIONS = 20
MOMENTUM = 0.99
TRANSIENT = 2.0
"""Change of level in nepers a window, above which a bin of a column belongs to an onset or a cut."""
LOWEST_LOG = 1e-5
"""Of the largest magnitude: what is below counts as this where slopes of levels are taken."""
SILENCE_LEVEL = 0.02
"""Of the image's range [0, 1]; 1.4 dB above the floor of the default 70 dB."""


def hz_to_mel(hz: Tensor, scale: str) -> Tensor:
    """Frequencies (...) in Hz to mels: `htk` (O'Shaughnessy) or `slaney` (linear below 1 kHz)."""
    if scale == "htk":
        return 2595.0 * torch.log10(1.0 + hz / 700.0)
    linear = hz * 3.0 / 200.0
    return torch.where(hz < 1000.0, linear, 15.0 + 27.0 * torch.log(hz / 1000.0) / math.log(6.4))


def mel_to_hz(mel: Tensor, scale: str) -> Tensor:
    """Mels (...) to frequencies in Hz: the inverse of `hz_to_mel`."""
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return torch.where(
        mel < 15.0, mel * 200.0 / 3.0, 1000.0 * torch.exp((mel - 15.0) * math.log(6.4) / 27.0)
    )


def mel_filterbank(spec: SpectrogramSpec, sample_rate: int) -> Tensor:
    """Triangular mel filters (M,F), F = n_fft // 2 + 1; filter m peaks at the m-th mel centre."""
    # Evenly spaced edges in mels: filter m rises from edge m to m + 1, and falls to m + 2.
    limits = torch.tensor([spec.f_min, spec.f_max], dtype=torch.float64)
    low, high = hz_to_mel(limits, spec.mel_scale)
    points = torch.linspace(low.item(), high.item(), spec.num_mels + 2, dtype=torch.float64)
    edges = mel_to_hz(points, spec.mel_scale)
    bins = torch.linspace(0, sample_rate / 2, spec.n_fft // 2 + 1, dtype=torch.float64)
    left, centre, right = (edges[i : i + spec.num_mels, None] for i in range(3))
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    if spec.whole_bins:
        # Bands narrower than a bin lie between two bins and see none, so no side is shorter than a bin.
        bin_width = bins[1]
        rising = 1 - (centre - bins) / (centre - left).clamp(min=bin_width)
        falling = 1 - (bins - centre) / (right - centre).clamp(min=bin_width)
    filters = torch.minimum(rising, falling).clamp(min=0)
    if spec.area_normalised:
        filters = filters * 2.0 / (right - left)
    return filters.float()


class AudioImage(nn.Module):
    """Turns waveforms into audio images and back, for one `ClipSpec`.

    Row 0 is the lowest mel band (paper's order), columns are time, the three channels are equal.
    H x W is `ClipSpec.audio_size`. The inverse is exact up to phase, the mel projection, and the
    resize where the image has the frames' size and the spectrogram another one.
    """

    filterbank: Tensor
    window: Tensor
    overlap: Tensor

    def __init__(self, spec: ClipSpec) -> None:
        super().__init__()
        self.spec = spec
        mel = spec.spectrogram
        window = torch.hann_window(mel.n_fft)
        self.gain = 2.0 / window.sum().item() if mel.window_normalised else 1.0
        # What all windows, squared, add up to at each sample: (1, (L - 1) * hop + N), above 0.
        squared = (window**2)[None, :, None].expand(1, mel.n_fft, spec.num_columns)
        overlap = overlapped(squared, mel.hop_length).clamp(min=1e-8)
        filterbank = mel_filterbank(mel, spec.filterbank_rate)
        self.register_buffer("filterbank", filterbank, persistent=False)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("overlap", overlap, persistent=False)

    @property
    def padding(self) -> int:
        """Samples reflected at each end, so that column j is centred at (j + 1/2) * hop_length."""
        return (self.spec.spectrogram.n_fft - self.spec.spectrogram.hop_length) // 2

    def spectrum(self, waveform: Tensor) -> Tensor:
        """Complex spectra (B,F,L) of waveforms (B,S), before `window_normalised` scaling."""
        mel = self.spec.spectrogram
        padded = F.pad(waveform[:, None].float(), (self.padding, self.padding), mode="reflect")
        frames = padded[:, 0].unfold(-1, mel.n_fft, mel.hop_length)
        return torch.fft.rfft(frames * self.window).mT

    def mel(self, waveform: Tensor) -> Tensor:
        """Mel magnitudes (B,M,L) of waveforms (B,S), in float32 also under autocast."""
        with without_autocast(waveform.device):
            return self.filterbank @ (self.spectrum(waveform).abs() * self.gain)

    def decibels(self, waveform: Tensor) -> Tensor:
        """Mel magnitudes (B,M,L) of waveforms (B,S) in dB, not below `db_min`."""
        floor = 10.0 ** (self.spec.spectrogram.db_min / 20.0)
        return 20.0 * torch.log10(self.mel(waveform).clamp(min=floor))

    def image(self, waveform: Tensor) -> Tensor:
        """Audio images (B,1,3,H,W) in [-1,1] of waveforms (B,S)."""
        mel = self.spec.spectrogram
        levels = (self.decibels(waveform) - mel.db_min) / (mel.db_max - mel.db_min)
        levels = levels.clamp(0, 1)
        rows, columns = self.spec.audio_size
        if self.spec.native_audio:
            # The last column fills what the networks' grid needs beyond the clip.
            levels = F.pad(levels, (0, columns - levels.shape[2]), mode="replicate")
        else:
            levels = _resize(levels, rows, columns)
        return (levels * 2.0 - 1.0)[:, None, None].expand(-1, 1, 3, -1, -1).contiguous()

    def mel_from_image(self, image: Tensor) -> Tensor:
        """Mel magnitudes (B,M,L) of audio images (B,1,3,H,W).

        Levels up to SILENCE_LEVEL count as silence: a decoded image is never exactly black, and its
        residue, turned into sound, would be an audible hiss.
        """
        mel = self.spec.spectrogram
        levels = (image.float().mean(dim=(1, 2)) + 1.0) / 2.0
        if self.spec.native_audio:
            levels = levels[..., : self.spec.num_columns].clamp(0, 1)
        else:
            levels = _resize(levels.clamp(0, 1), mel.num_mels, self.spec.num_columns)
        magnitudes = 10.0 ** ((levels * (mel.db_max - mel.db_min) + mel.db_min) / 20.0)
        return torch.where(levels > SILENCE_LEVEL, magnitudes, 0.0)

    def waveform(self, image: Tensor, iterations: int = 32) -> Tensor:
        """Waveforms (B,S) in [-1,1] of audio images (B,1,3,H,W).

        Mel magnitudes are spread to linear ones by non-negative least squares; the phase, which
        an image does not hold, is found by fast Griffin-Lim from a start that the magnitudes give.

        Args:
            iterations: Griffin-Lim steps.
        """
        magnitudes = linear_magnitudes(self.mel_from_image(image) / self.gain, self.filterbank)
        mel = self.spec.spectrogram
        phases = starting_phases(magnitudes, mel.n_fft, mel.hop_length)
        spectrum = find_spectrum(magnitudes, phases, self._consistent, iterations)
        return self._inverse(spectrum).clamp(-1, 1)

    def _consistent(self, spectrum: Tensor) -> Tensor:
        """The spectrum (B,F,L) of the waveform that is nearest to `spectrum` (B,F,L)."""
        return self.spectrum(self._inverse(spectrum))

    def _inverse(self, spectrum: Tensor) -> Tensor:
        """Waveforms (B,S) whose spectra are nearest, in least squares, to `spectrum` (B,F,L)."""
        mel = self.spec.spectrogram
        frames = torch.fft.irfft(spectrum.mT, n=mel.n_fft)
        padded = overlapped((frames * self.window).mT, mel.hop_length) / self.overlap
        signal = padded[:, self.padding :][:, : self.spec.num_samples]
        return F.pad(signal, (0, self.spec.num_samples - signal.shape[1]))


def linear_magnitudes(mel: Tensor, filterbank: Tensor) -> Tensor:
    """Non-negative linear magnitudes (B,F,L) whose mel projection is nearest to `mel` (B,M,L).

    Bins that no filter of `filterbank` (M,F) sees stay zero. In float32 also under autocast.
    """
    with without_autocast(mel.device):
        # In memory column after column (B,L,F): one product for all columns of all rows.
        target = linear(mel.mT, filterbank.T)
        magnitudes = target
        # Two products with the (M,F) filterbank, or one with its (F,F) square: what is less work.
        mels, bins = filterbank.shape
        factors = [filterbank.T @ filterbank] if bins < 2 * mels else [filterbank, filterbank.T]
        for _ in range(NNLS_ITERATIONS):
            projected = magnitudes
            for factor in factors:
                projected = linear(projected, factor)
            magnitudes = magnitudes * target / projected.clamp(min=1e-12)
        return magnitudes.mT


@torch.no_grad()
def find_spectrum(
    magnitudes: Tensor, phases: Tensor, consistent: Callable[[Tensor], Tensor], iterations: int
) -> Tensor:
    """Fast Griffin-Lim: a complex spectrum (B,F,L) of these magnitudes, near one that a signal can have.

    Args:
        magnitudes: (B,F,L).
        phases: (B,F,L) in radians, to start from.
        consistent: Spectrum (B,F,L) -> that of the nearest signal.
    """
    # In memory column after column, as Fourier transforms want them.
    magnitudes, phases = magnitudes.mT.contiguous().mT, phases.mT.contiguous().mT
    spectrum = torch.polar(magnitudes, phases)
    previous = torch.zeros_like(spectrum)
    for _ in range(iterations):
        # To what a signal can have, ahead by momentum, and back to the magnitudes.
        nearest = consistent(spectrum)
        ahead = torch.sub(nearest, previous, alpha=MOMENTUM / (1 + MOMENTUM))
        power = ahead.real.square().addcmul_(ahead.imag, ahead.imag)
        spectrum = ahead * power.clamp_(min=1e-32).rsqrt_().mul_(magnitudes)
        previous = nearest
    return spectrum


def starting_phases(
    magnitudes: Tensor, size: int, hop: int, before: Tensor | None = None
) -> Tensor:
    """Phases (B,F,L) in radians that the magnitudes (B,F,L) of Hann windows themselves suggest.

    With a Gaussian window, phase and log magnitude determine each other: the slope over time of the
    log magnitude gives the slope of the phase over frequency (where in its window the energy lies),
    and its slope over frequency gives the phase's slope over time (the frequency of a partial). A
    Hann window is nearly one. At onsets and cuts the first relation holds the energy together in
    time; between them the second lets partials go on from there. Source: Prusa et al. 2017, without
    their heap: one direction at a time.

    Args:
        size: Samples of a window.
        hop: Samples between columns.
        before: Phases (B,F,L') of the first columns, which are known: the others go on from them.
    """
    variance = 0.0408 * size**2  # of the Gaussian nearest to a Hann window, in samples squared
    radians = 2 * torch.pi / size  # between two bins
    bins = torch.arange(magnitudes.shape[1], device=magnitudes.device)[:, None]
    floor = LOWEST_LOG * magnitudes.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    logs = magnitudes.maximum(floor).log()

    # Over frequency: the centre of energy, in samples from the middle of the window.
    over_time = F.pad(logs[..., 2:] - logs[..., :-2], (1, 1)) / (2 * hop)
    delays = (variance * over_time).clamp(-size / 2, size / 2)
    of_onsets = -radians * delays.cumsum(1) - torch.pi * bins

    # Over time: a partial's frequency, in radians a column.
    over_bins = F.pad(logs[:, 2:] - logs[:, :-2], (0, 0, 1, 1)) / 2
    # Whole turns are left out before they add up, or a long sound would lose its digits.
    advance = hop * (radians * bins + over_bins / (radians * variance))
    turned = advance.remainder(2 * torch.pi).cumsum(-1)

    # Each cell takes the phase of the last onset or cut in its bin, and what has turned since.
    transient = (over_time.abs() * size > TRANSIENT).to(logs.dtype)
    transient = F.max_pool1d(transient, 3, stride=1, padding=1) > 0
    columns = torch.arange(magnitudes.shape[2], device=magnitudes.device).expand_as(logs)
    if before is not None:
        known = before.shape[2]
        of_onsets = torch.cat([before, of_onsets[..., known:]], dim=-1)
        transient = transient | (columns < known)
    last = columns.where(transient, 0).cummax(-1).values
    return of_onsets.gather(-1, last) + turned - turned.gather(-1, last)


def overlapped(columns: Tensor, hop: int) -> Tensor:
    """Columns (B,N,L), each `hop` samples after the last, added up to (B, (L - 1) * hop + N)."""
    size, count = columns.shape[1:]
    # The first `hop` samples of all columns at once, then the next: a ninth of the time of F.fold.
    reach = -(-size // hop)
    added = columns.new_zeros(len(columns), count + reach - 1, hop)
    for turn in range(reach):
        part = columns.mT[..., turn * hop : (turn + 1) * hop]
        added[:, turn : turn + count, : part.shape[2]] += part
    return added.flatten(1)[:, : (count - 1) * hop + size]


def _resize(levels: Tensor, height: int, width: int) -> Tensor:
    """Levels (B,M,L) in [0, 1] -> (B,height,width) in [0, 1]."""
    if levels.shape[-2:] == (height, width):
        return levels
    resized = F.interpolate(levels[:, None], (height, width), mode="bicubic", antialias=True)
    return resized[:, 0].clamp(0, 1)
