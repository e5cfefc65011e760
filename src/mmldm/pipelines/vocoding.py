"""Audio image -> waveform, by a vocoder where there is one and by Griffin-Lim where there is none.

audio images (B,1,3,H,W) -> mel magnitudes -> log-mel (B,M,L) of the vocoder -> waveforms (B,S). MM-LDM §4.1
(HiFi-GAN). A vocoder that was trained on other mel bands or another hop is given the nearest spectrogram of
its own kind.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmldm.errors import UserError
from mmldm.media.spectrogram import AudioImage, linear_magnitudes
from mmldm.models.pretrained_vocoder import Vocoder
from mmldm.types import ClipSpec, SpectrogramSpec


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
    decibels = vocoder_input(image, audio_image, vocoder.spectrogram)
    waveform = vocode(decibels.to(vocoder.dtype), vocoder, audio_image.spec.num_samples)
    return waveform.float().clamp(-1, 1)


def vocode(decibels: Tensor, vocoder: Vocoder, num_samples: int) -> Tensor:
    """Log-mel magnitudes in dB (B,M,L) -> waveforms (B,num_samples).

    A clip may end up to one hop after its last column, which is repeated once for that.
    """
    return vocoder(F.pad(decibels, (0, 1), mode="replicate"))[:, :num_samples]


def vocoder_input(image: Tensor, audio_image: AudioImage, wanted: SpectrogramSpec) -> Tensor:
    """Audio images (B,1,3,H,W) -> log-mel magnitudes in dB (B,M,L) as `wanted` describes them."""
    own = audio_image.spec.spectrogram
    mel = audio_image.mel_from_image(image)
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
    columns = target.spec.num_columns
    if linear.shape[2] != columns:
        linear = F.interpolate(linear, columns, mode="linear")
    return target.filterbank @ linear * target.gain
