"""What the autoencoder keeps of a clip: peak signal-to-noise of frames, mel error of the sound.

frames u8 (T,3,H,W) x 2 -> dB;  waveforms (S,) x 2 -> dB

The sound is compared as log-mel levels of the clip's own spectrogram, so that a phase found anew by
the inversion costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmldm.media.clip import Clip, frames_to_images, images_to_frames
from mmldm.media.spectrogram import AudioImage
from mmldm.models.image_vae import ImageVAE
from mmldm.types import ClipSpec, SpectrogramSpec

MOST_PSNR = 99.0
"""Decibels reported for identical frames, where the ratio is infinite."""


class Fidelity(NamedTuple):
    """How close a reconstruction is.

    Attributes:
        psnr: Of the frames, in dB; higher is closer.
        mel_error: Mean absolute difference of log-mel levels, in dB; lower is closer.
    """

    psnr: float
    mel_error: float


def psnr(frames: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB of frames u8 (B,T,3,H,W), one number per clip."""
    error = (frames.double() - reference.double()).square().flatten(1).mean(1)
    return (20 * torch.log10(255 / error.sqrt())).clamp(max=MOST_PSNR)


def mel_error(waveform: Tensor, reference: Tensor, audio_image: AudioImage) -> Tensor:
    """Mean absolute difference (B,) in dB of the log-mel levels of waveforms (B,S)."""
    levels, wanted = audio_image.decibels(waveform), audio_image.decibels(reference)
    return (levels - wanted).abs().flatten(1).mean(1)


def fidelity(clip: Clip, original: Clip, audio_image: AudioImage) -> Fidelity:
    """Compares a reconstructed clip with its original; both have the lengths of the spec."""
    return Fidelity(
        psnr(clip.frames[None], original.frames[None]).item(),
        mel_error(clip.waveform[None], original.waveform[None], audio_image).item(),
    )


def side_by_side(left: Clip, right: Clip) -> Clip:
    """Both pictures in one frame, with the right clip's sound: what one looks at and listens to."""
    return Clip(
        torch.cat([left.frames, right.frames], dim=3), right.waveform, right.fps, right.sample_rate
    )


def vae_spec(size: int) -> ClipSpec:
    """A clip whose audio image fills a square of `size` pixels natively: as many mel bands as rows.

    The sound has a row per band and a column per hop at 16 kHz, up to 128 of each; larger images are
    resized from that.
    """
    bands = min(size, 128)
    mel = SpectrogramSpec(n_fft=1024, hop_length=25_600 // bands, num_mels=bands)
    return ClipSpec(height=size, width=size, spectrogram=mel)


@torch.no_grad()
def through_image_vae(vae: ImageVAE, clip: Clip, spec: ClipSpec) -> Clip:
    """What an image VAE alone keeps: the ceiling of any autoencoder on top of it."""
    audio_image = AudioImage(spec)
    images = [audio_image.image(clip.waveform[None])[0], *frames_to_images(clip.frames)[:, None]]
    device = next(vae.parameters()).device
    kept = [
        vae.decode(vae.encode(image.to(device)).latent_dist.mode()).sample.cpu() for image in images
    ]
    frames = images_to_frames(torch.cat(kept[1:]))
    waveform = audio_image.waveform(kept[0][None].clamp(-1, 1))[0]
    return Clip(frames, waveform, clip.fps, clip.sample_rate)
