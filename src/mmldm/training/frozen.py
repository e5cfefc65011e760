"""How well a finished model's codec keeps these clips: what one looks at before it is frozen.

windows, image VAE, autoencoder -> `Kept` -> a sentence. Sound is compared by the levels of the audio image,
so that nothing but the networks counts: no phase is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from mmldm.config import RunConfig
from mmldm.data.clips import held_out_windows
from mmldm.data.manifest import Manifest
from mmldm.evaluation.reconstruction import psnr
from mmldm.media.clip import frames_to_images, images_to_frames
from mmldm.media.spectrogram import AudioImage
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_codec import ImageCodec, LatentStatistics
from mmldm.models.image_vae import ImageVAE
from mmldm.pipelines.decoding import decode_to_image_latents
from mmldm.types import AV, MODALITIES, ClipSpec, WindowBatch

CLIPS = 16
"""That are looked at, a window of each."""
LEAST_GAIN = 5.0
"""In dB of PSNR over a mean picture, below which a codec hardly knows such clips."""
LARGEST_SHARE = 0.7
"""Of a mean spectrogram's error, above which it hardly knows such sounds."""


@dataclass(frozen=True)
class Kept:
    """What a codec keeps of clips, beside what one mean picture and one mean spectrogram would.

    Attributes:
        clips: That were looked at.
        split: What kind of clips these are.
        psnr, mean_psnr: Of frames, in dB; higher is closer.
        mel_error, mean_mel_error: Mean absolute difference of log-mel levels, in dB; lower is closer.
    """

    clips: int
    split: str
    psnr: float
    mean_psnr: float
    mel_error: float
    mean_mel_error: float

    @property
    def poor(self) -> bool:
        """Whether it hardly knows such clips."""
        return (
            self.psnr < self.mean_psnr + LEAST_GAIN
            or self.mel_error > LARGEST_SHARE * self.mean_mel_error
        )

    def sentence(self, job: str, model: str) -> str:
        """For the person who has to decide whether to freeze it."""
        sound = f"sound within {self.mel_error:.1f} dB of mel levels"
        advice = "; it hardly knows such clips: let it train" if self.poor else ""
        return (
            f"{job} of {model}, frozen: of {self.clips} {self.split} clips it keeps frames at "
            f"{self.psnr:.1f} dB PSNR (one mean picture: {self.mean_psnr:.1f} dB) and {sound} "
            f"(one mean spectrogram: {self.mean_mel_error:.1f} dB){advice}"
        )


def kept_of(
    manifest: Manifest,
    config: RunConfig,
    vae: ImageVAE,
    autoencoder: MultiModalAutoencoder | None,
    scheduler: SchedulerMixin,
    device: torch.device,
) -> Kept:
    """What a codec keeps of a run's held-out clips, or of its training clips where none are held out.

    Args:
        manifest: Of clips with both sound and picture.
        autoencoder: On the VAE's latents; None: the VAE alone.
        scheduler: Of the signal decoder.

    Raises:
        UserError: No clip can be read.
    """
    windows, _ = held_out_windows(manifest, config.clip, config.seed, CLIPS)
    split = "held-out" if manifest.split("held_out") else "training"
    steps = config.sample.decoder_steps
    return kept(vae, autoencoder, scheduler, steps, windows, config.clip, device, split)


@torch.no_grad()
def kept(
    vae: ImageVAE,
    autoencoder: MultiModalAutoencoder | None,
    scheduler: SchedulerMixin,
    steps: int,
    windows: WindowBatch,
    spec: ClipSpec,
    device: torch.device,
    split: str,
) -> Kept:
    """Sends windows of clips through a codec and back.

    Args:
        autoencoder: On the VAE's latents; None: the VAE alone.
        scheduler: Of the signal decoder.
        steps: Of the signal decoder.
    """
    statistics = LatentStatistics.scalar(1.0, 1)
    if autoencoder is not None:
        autoencoder, statistics = autoencoder.to(device).eval(), autoencoder.image_statistics
    codec = ImageCodec(vae.to(device).eval(), statistics).to(device)
    audio_image = AudioImage(spec).to(device)
    half = (spec.spectrogram.db_max - spec.spectrogram.db_min) / 2  # dB per unit of [-1, 1]

    def through(images: AV[Tensor]) -> AV[Tensor]:
        """Images AV (1,1,3,H,W), (1,T,3,H,W) -> what the codec makes of them."""
        latents = images.map(codec.encode, MODALITIES)
        if autoencoder is not None:
            latents = decode_to_image_latents(
                autoencoder,
                scheduler,
                autoencoder.encode(latents).map(lambda posterior: posterior.mode()),
                num_frames=spec.num_frames,
                steps=steps,
                generators=[torch.Generator().manual_seed(0)],
            )
        return latents.map(codec.decode, MODALITIES).map(lambda x: x.clamp(-1, 1).cpu())

    # Clip by clip: what the decoder keeps in between is large. The last two are numbers of all clips.
    waveforms, frames = windows.waveforms.to(device), windows.frames
    sounds = audio_image.image(waveforms)
    pictures = frames_to_images(frames)
    made = AV.zip(
        [through(AV(sounds[i : i + 1], pictures[i : i + 1].to(device))) for i in range(len(frames))]
    ).map(torch.cat)
    sounds = sounds.cpu()

    def compared(audio: Tensor, video: Tensor) -> tuple[float, float]:
        """Audio images (B,1,3,H,W) and images (B,T,3,H,W) -> PSNR, and difference of levels."""
        quality = psnr(images_to_frames(video), frames).mean()
        return float(quality), float((audio - sounds).abs().mean() * half)

    own = compared(made.audio, made.video)
    mean = compared(
        sounds.mean(0, keepdim=True).expand_as(sounds),
        pictures.mean((0, 1), keepdim=True).expand_as(pictures),
    )
    return Kept(len(frames), split, own[0], mean[0], own[1], mean[1])
