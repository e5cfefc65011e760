"""What a codec keeps of a clip: how close frames and sounds are to those they were made from.

frames u8 (B,T,3,H,W) x 2 -> dB (B,);  waveforms (B,S) x 2 -> dB (B,), and distances of spectra (B,)
image VAE, clip -> the clip that it keeps

Log-mel levels are those of the clip's own spectrogram, so that a phase found anew by the inversion costs
nothing. Spectra have several resolutions: long windows tell pitches apart, short ones onsets. Source of the
latter: Yamamoto, Song & Kim 2020 ("Parallel WaveGAN").
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmldm.media.clip import Clip, frames_to_images, images_to_frames
from mmldm.media.spectrogram import AudioImage
from mmldm.models.image_vae import ImageVAE
from mmldm.types import ClipSpec, SpectrogramSpec

MOST_PSNR = 99.0
"""Decibels reported for identical frames, where the ratio is infinite."""
WINDOWS = (1024, 512, 256, 128)
"""In samples; each moves on by a quarter."""
QUIET = 1e-4
"""Magnitude (of a full-scale sine: 1) below which logarithms level off."""
QUIET_RANGE = 20.0
"""dB above the floor of the log-mel levels up to which a cell counts as quiet: tails and room."""
BELOW = 30.0
"""dB below that floor that are told apart."""


class Fidelity(NamedTuple):
    """How close a reconstruction is.

    Attributes:
        psnr: Of the frames, in dB; higher is closer.
        mel_error: Mean absolute difference of log-mel levels, in dB; lower is closer.
    """

    psnr: float
    mel_error: float


class SpectralDistance(NamedTuple):
    """Both (B,), means over `WINDOWS`.

    Attributes:
        convergence: Norm of the difference of the magnitudes, over that of the reference's.
        log_magnitude: Mean absolute difference of their logarithms, in nepers.
    """

    convergence: Tensor
    log_magnitude: Tensor


def psnr(frames: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB of frames u8 (B,T,3,H,W), one number per clip."""
    error = (frames.double() - reference.double()).square().flatten(1).mean(1)
    return (20 * torch.log10(255 / error.sqrt())).clamp(max=MOST_PSNR)


def mel_error(waveform: Tensor, reference: Tensor, audio_image: AudioImage) -> Tensor:
    """Mean absolute difference (B,) in dB of the log-mel levels of waveforms (B,S)."""
    levels, wanted = audio_image.decibels(waveform), audio_image.decibels(reference)
    return (levels - wanted).abs().flatten(1).mean(1)


def quiet_difference(waveform: Tensor, reference: Tensor, audio_image: AudioImage) -> Tensor:
    """How much louder than a reference (B,S) a waveform (B,S) is where that is quiet, in dB, (B,).

    Mean over cells whose log-mel level in the reference is up to QUIET_RANGE above the floor; NaN where there
    is none. A gate makes it negative, hiss positive.
    """
    floor = audio_image.spec.spectrogram.db_min
    # Below the floor, too, or what a gate takes away would be cut off.
    levels, wanted = (
        20 * torch.log10(audio_image.mel(sound).clamp(min=10 ** ((floor - BELOW) / 20)))
        for sound in (waveform, reference)
    )
    quiet = (wanted > floor) & (wanted < floor + QUIET_RANGE)
    return ((levels - wanted) * quiet).flatten(1).sum(1) / quiet.flatten(1).sum(1)


def spectral_distance(waveform: Tensor, reference: Tensor) -> SpectralDistance:
    """Distances of waveforms (B,S) from references (B,S); with gradient."""
    convergence, log_magnitude = [], []
    for size in WINDOWS:
        ours, wanted = _magnitudes(waveform, size), _magnitudes(reference, size)
        # Spectral convergence: loud parts count most.
        difference = (ours - wanted).flatten(1).norm(dim=1)
        convergence.append(difference / wanted.flatten(1).norm(dim=1).clamp(min=QUIET))
        # Ratios: quiet parts count as much as loud ones.
        ratio = torch.log((ours + QUIET) / (wanted + QUIET))
        log_magnitude.append(ratio.abs().flatten(1).mean(1))
    return SpectralDistance(torch.stack(convergence).mean(0), torch.stack(log_magnitude).mean(0))


def _magnitudes(waveform: Tensor, size: int) -> Tensor:
    """Magnitudes (B,F,N) of waveforms (B,S) in windows of `size` samples; a full-scale sine has 1."""
    window = torch.hann_window(size, device=waveform.device)
    spectrum = torch.stft(
        waveform, size, size // 4, window=window, center=True, return_complex=True
    )
    # The root of zero has no gradient.
    power = spectrum.real.square() + spectrum.imag.square() + QUIET**2 / 100
    return power.sqrt() * (2 / window.sum())


def fidelity(clip: Clip, original: Clip, audio_image: AudioImage) -> Fidelity:
    """Compares a reconstructed clip with its original, of one length; what is longer than the spec's window
    is heard window by window."""
    return Fidelity(
        psnr(clip.frames[None], original.frames[None]).item(),
        clip_mel_error(clip.waveform, original.waveform, audio_image),
    )


def clip_mel_error(waveform: Tensor, reference: Tensor, audio_image: AudioImage) -> float:
    """Mean absolute difference in dB of the log-mel levels of two waveforms (S,) of any length."""
    size = audio_image.spec.num_samples
    missing = -len(reference) % size
    ours, wanted = (F.pad(sound, (0, missing)).view(-1, size) for sound in (waveform, reference))
    # The window that is filled up counts as far as it is the clip's.
    error = mel_error(ours, wanted, audio_image).sum().item()
    return error * size / len(reference)


def side_by_side(left: Clip, right: Clip) -> Clip:
    """Both pictures in one frame, with the right clip's sound: what one looks at and listens to."""
    frames = torch.cat([left.frames, right.frames], dim=3)
    return Clip(frames, right.waveform, right.fps, right.sample_rate)


def vae_spec(size: int) -> ClipSpec:
    """A clip whose audio image fills a square of `size` pixels natively: as many mel bands as rows.

    The image has a row per band and a column per hop at 16 kHz, up to 128 of each. Larger images are
    resized from that.
    """
    bands = min(size, 128)
    mel = SpectrogramSpec(n_fft=1024, hop_length=25_600 // bands, num_mels=bands)
    return ClipSpec(height=size, width=size, spectrogram=mel)


@torch.no_grad()
def through_image_vae(vae: ImageVAE, clip: Clip, spec: ClipSpec) -> Clip:
    """What an image VAE alone keeps of a clip: the ceiling of any autoencoder on top of it."""
    audio_image, like = AudioImage(spec), next(vae.parameters())
    images = [audio_image.image(clip.waveform[None])[0], *frames_to_images(clip.frames)[:, None]]
    # One image (1,3,H,W) at a time: at 256 x 256 the decoder's maps are large.
    kept = [
        vae.decode(vae.encode(image.to(like)).latent_dist.mode()).sample.float().cpu()
        for image in images
    ]
    frames = images_to_frames(torch.cat(kept[1:]))
    waveform = audio_image.waveform(kept[0][None].clamp(-1, 1))[0]
    return Clip(frames, waveform, clip.fps, clip.sample_rate)
