"""Audio image -> waveform, by a vocoder where there is one and by Griffin-Lim where there is none.

audio images (B,1,3,H,W) -> mel magnitudes -> log-mel (B,M,L) of the vocoder -> waveforms (B,S). MM-LDM §4.1
(HiFi-GAN). A vocoder that was trained on other mel bands or another hop is given the nearest spectrogram of
its own kind. Sound that is longer than a window comes in pieces: `sound_stream`.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mmldm.errors import UserError
from mmldm.media.phases import PhaseStream
from mmldm.media.spectrogram import AudioImage, linear_magnitudes
from mmldm.models.pretrained_vocoder import Vocoder
from mmldm.types import ClipSpec, SpectrogramSpec

HALO = 32
"""Columns on each side that a vocoder sees beside those it sounds: more than ours looks at."""
EASING = 0.005
"""Seconds over which a vocoder's sound leaves the last known sample, or reaches the next."""


def check_vocoder(vocoder: Vocoder, spec: ClipSpec) -> None:
    """Checks that a vocoder can sound clips of this kind.

    Raises:
        UserError: Its sample rate is another one. Bands, hop and scale are converted.
    """
    if vocoder.sample_rate != spec.filterbank_rate:
        raise UserError(
            f"the vocoder was trained on sound of {vocoder.sample_rate} Hz, but these clips have "
            f"spectrograms of {spec.filterbank_rate} Hz: choose another vocoder, or train one"
        )


@torch.no_grad()
def sound(
    image: Tensor, audio_image: AudioImage, vocoder: Vocoder | None, phase_iterations: int = 32
) -> Tensor:
    """Waveforms (B,S) in [-1,1] of audio images (B,1,3,H,W).

    Args:
        phase_iterations: Of Griffin-Lim, where there is no vocoder.
    """
    # Griffin-Lim finds phases by iteration; a vocoder has learned them.
    if vocoder is None:
        return audio_image.waveform(image, phase_iterations)
    mel = audio_image.mel_from_image(image)
    return _vocoded(mel, audio_image, vocoder, audio_image.spec.num_samples)


def _vocoded(mel: Tensor, audio_image: AudioImage, vocoder: Vocoder, num_samples: int) -> Tensor:
    """Mel magnitudes (B,M,L) -> waveforms (B,num_samples) in [-1,1]."""
    decibels = _decibels(mel, audio_image, vocoder.spectrogram)
    return vocode(decibels.to(vocoder.dtype), vocoder, num_samples).float().clamp(-1, 1)


class SoundStream(Protocol):
    """Sound whose mel magnitudes come in pieces; `media.phases.PhaseStream` says how."""

    def add(
        self,
        mel: Tensor,
        last: bool = False,
        after: Tensor | None = None,
        trail: Tensor | None = None,
    ) -> Tensor:
        """Mel magnitudes (B,M,L) -> the samples (B,S) that are finished by them."""
        ...


def sound_stream(
    audio_image: AudioImage,
    vocoder: Vocoder | None,
    phase_iterations: int,
    before: Tensor | None = None,
    lead: Tensor | None = None,
) -> SoundStream:
    """As `sound`, for a sound that comes in pieces.

    Args:
        before: Known samples (B,S) that end where the first piece begins.
        lead: Mel magnitudes (B,M,L) of their last columns.
    """
    if vocoder is None:
        return PhaseStream(audio_image, phase_iterations, before, lead)
    return VocoderStream(audio_image, vocoder, before, lead)


class VocoderStream:
    """A vocoder over pieces: it sees HALO columns on both sides, so that its pieces are one sound.

    Args:
        before: Known samples (B,S), as in `sound_stream`.
        lead: Mel magnitudes (B,M,L) of their last columns.
    """

    def __init__(
        self,
        audio_image: AudioImage,
        vocoder: Vocoder,
        before: Tensor | None = None,
        lead: Tensor | None = None,
    ) -> None:
        self._image, self._vocoder = audio_image, vocoder
        self._hop = audio_image.spec.spectrogram.hop_length
        self._easing = max(1, round(EASING * audio_image.spec.sample_rate))
        self._before = before
        self._mel = None if lead is None else lead[..., -HALO:]
        self._context = 0 if self._mel is None else self._mel.shape[-1]

    @torch.no_grad()
    def add(
        self,
        mel: Tensor,
        last: bool = False,
        after: Tensor | None = None,
        trail: Tensor | None = None,
    ) -> Tensor:
        """As `SoundStream.add`: mel magnitudes (B,M,L) -> samples (B,S) in [-1,1]."""
        held = mel if self._mel is None else torch.cat([self._mel, mel], dim=-1)
        fresh = held.shape[-1] - self._context
        finished = fresh if last else max(0, fresh - HALO)
        if trail is not None:
            held = torch.cat([held, trail[..., :HALO]], dim=-1)
        if finished == 0:
            self._mel = held
            return mel.new_zeros(len(mel), 0)

        whole = _vocoded(held, self._image, self._vocoder, held.shape[-1] * self._hop)
        begin, end = self._context * self._hop, (self._context + finished) * self._hop
        made = whole[:, begin:end]
        # Between known and made sound there is no step: what is missing fades.
        if self._before is not None and begin > 0:
            missing = self._before[:, -1:].to(made) - whole[:, begin - 1 : begin]
            made = made + self._fading(made, missing)
            self._before = None
        if after is not None and end < whole.shape[1]:
            missing = after[:, :1].to(made) - whole[:, end : end + 1]
            made = made + self._fading(made, missing).flip(1)

        first = self._context + finished
        self._context = min(HALO, first)
        self._mel = held[..., first - self._context :]
        return made.clamp(-1, 1)

    def _fading(self, made: Tensor, missing: Tensor) -> Tensor:
        """Missing (B,1) at the first of the samples (B,S), and less and less after it: (B,S)."""
        length = min(self._easing, made.shape[1])
        ramp = torch.linspace(1, 0, length, device=made.device)
        return F.pad(missing * ramp, (0, made.shape[1] - length))


def vocode(decibels: Tensor, vocoder: Vocoder, num_samples: int) -> Tensor:
    """Log-mel magnitudes in dB (B,M,L) -> waveforms (B,num_samples).

    A clip may end up to one hop after its last column, which is repeated once for that.
    """
    return vocoder(F.pad(decibels, (0, 1), mode="replicate"))[:, :num_samples]


def vocoder_input(image: Tensor, audio_image: AudioImage, wanted: SpectrogramSpec) -> Tensor:
    """Audio images (B,1,3,H,W) -> log-mel magnitudes in dB (B,M,L) as `wanted` describes them."""
    return _decibels(audio_image.mel_from_image(image), audio_image, wanted)


def _decibels(mel: Tensor, audio_image: AudioImage, wanted: SpectrogramSpec) -> Tensor:
    """Mel magnitudes (B,M,L) -> log-mel magnitudes in dB (B,M',L') as `wanted` describes them."""
    own = audio_image.spec.spectrogram
    # The rates agree (`check_vocoder`), and the range in decibels is no part of the magnitudes.
    shared = own.model_dump(include={"filterbank_rate", "db_min", "db_max"})
    analysis = wanted.model_copy(update=shared)
    if analysis != own:
        spec = audio_image.spec.model_copy(update={"spectrogram": analysis})
        other = AudioImage(spec).to(mel.device)
        mel = _converted(mel, audio_image, other)
    return 20 * torch.log10(mel.clamp(min=10 ** (wanted.db_min / 20)))


def _converted(mel: Tensor, source: AudioImage, target: AudioImage) -> Tensor:
    """Mel magnitudes (B,M,L) of one kind as (B,M',L') of another, through linear magnitudes.

    A window of another length gives a tone the same sum of magnitudes over its bins, so nothing is
    scaled; what it would make of noise and of onsets is not known.
    """
    # Out of the source's mel bands, to the target's bins and columns, into the target's mel bands.
    linear = linear_magnitudes(mel / source.gain, source.filterbank)
    bins = target.filterbank.shape[1]
    if linear.shape[1] != bins:
        linear = F.interpolate(linear.mT, bins, mode="linear", align_corners=True).mT
    # Of a clip's whole length as the spec says it; of another length in proportion.
    share = mel.shape[-1] / source.spec.num_columns
    columns = max(1, round(share * target.spec.num_columns))
    if linear.shape[2] != columns:
        linear = F.interpolate(linear, columns, mode="linear")
    return target.filterbank @ linear * target.gain
