"""The `vae` job: an image KL-VAE for frames and audio images alike.

frames u8 (B,T,3,H,W), waveform (B,S) -> images -> reconstruction losses. Paper §3.1 and §4.4.
One network serves both modalities, because the audio image is a picture (§3.1). A pretrained VAE keeps its
encoder frozen and only its decoder is trained, or another in its place, so latents made with it stay valid.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mmldm.config import RunConfig
from mmldm.data.manifest import Manifest
from mmldm.errors import UserError
from mmldm.evaluation.reconstruction import psnr
from mmldm.media.clip import frames_to_images, images_to_frames
from mmldm.media.spectrogram import AudioImage
from mmldm.models.image_vae import (
    SD_IMAGE_VAES,
    ImageVAE,
    PatchAutoencoderKL,
    load_image_vae,
    sd_image_vae,
)
from mmldm.sections import VaeConfig
from mmldm.strict import bind
from mmldm.training.losses import salience, weighted_mean
from mmldm.training.randomness import StepRandom
from mmldm.training.stage import MediaStage, show_versions
from mmldm.types import AV, ClipSpec, WindowBatch

VALIDATED_CLIPS = 8

SALIENCE_THRESHOLD = 0.1
"""Departure from the median, in image units of [-1, 1], above which a pixel counts as salient."""


class VaeTurn(nn.Module):
    """One step's loss: some random frames of every clip and its audio image, through the VAE.

    What a clip lacks counts as zero in every term: means are over all rows, so that a clip's share
    depends on no other.
    """

    def __init__(self, vae: ImageVAE, spec: ClipSpec, config: VaeConfig) -> None:
        super().__init__()
        self.vae = vae
        self.audio_image = AudioImage(spec)
        self.weights = config.loss
        self.frames_per_clip = config.frames_per_clip

    def forward(self, batch: WindowBatch, random: StepRandom) -> dict[str, Tensor]:
        """Windows of B clips -> "loss" and its terms, each ()."""
        # Images (B,1+F,3,H,W): the audio image and F random frames of every clip.
        audio, frames = self.audio_image.image(batch.waveforms), frames_to_images(batch.frames)
        clips, total = frames.shape[:2]
        chosen = random.integers(0, total, (clips, self.frames_per_clip))
        rows = torch.arange(clips, device=frames.device)[:, None]
        images = torch.cat([audio, frames[rows, chosen]], dim=1).flatten(0, 1)

        # Weights (B,1+F,1,H,W) of what moves or sounds, and which of the images there are (B,1+F).
        strength = self.weights.salience
        heard, seen = (salience(x, strength, SALIENCE_THRESHOLD) for x in (audio, frames))
        weights = torch.cat([heard, seen[rows, chosen]], dim=1).flatten(0, 1)
        present = batch.present
        here = torch.stack([present.audio, *[present.video] * self.frames_per_clip], dim=1)

        # Posterior, a sample of it, and its reconstruction.
        posterior = self.vae.encode(images).latent_dist
        noise = random.normal((clips, 1 + self.frames_per_clip, *posterior.mean.shape[1:]))
        latents = posterior.mean + posterior.std * noise.flatten(0, 1)
        errors = self.vae.decode(latents).sample - images

        # Terms: closeness of the images, and of the posterior to a standard normal (Rombach et al. 2022).
        l1 = weighted_mean(errors.abs(), weights).view(clips, -1) * here
        l2 = weighted_mean(errors.square(), weights).view(clips, -1) * here
        nats = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar)
        kl = (nats * here.flatten()[:, None, None, None]).mean()
        loss = self.weights.l1 * l1.mean() + self.weights.l2 * l2.mean() + self.weights.kl * kl
        return {
            "loss": loss,
            "l1/audio": l1[:, 0].mean().detach(),
            "l1/video": l1[:, 1:].mean().detach(),
            "kl": kl.detach(),
        }


class VaeStage(MediaStage):
    """Trains (or adapts) the image KL-VAE. See `training.stage.Stage` for the contract."""

    name = "vae"

    def __init__(self, config: RunConfig, manifest: Manifest, device: torch.device) -> None:
        self.vae = build_vae(config)
        turn = VaeTurn(self.vae, config.clip, config.vae)
        super().__init__(config, config.vae, manifest, device, turn=turn, network=self.vae)

    @torch.no_grad()
    def _reconstruct(self, windows: WindowBatch) -> tuple[Tensor, Tensor]:
        """Images (B,1+T,3,H,W) of windows, the audio image first, and what the VAE makes of them."""
        audio = self.audio_image.image(windows.waveforms.to(self.device))
        frames = frames_to_images(windows.frames.to(self.device))
        images = torch.cat([audio, frames], dim=1)
        latents = self.vae.encode(images.flatten(0, 1)).latent_dist.mode()
        return images, self.vae.decode(latents).sample.clamp(-1, 1).view_as(images)

    def validate(self) -> dict[str, float]:
        """PSNR of held-out audio images and frames, in 8-bit units."""
        images, output = map(images_to_frames, self._reconstruct(self.held_out(VALIDATED_CLIPS)))
        return {
            "psnr/audio": float(psnr(output[:, :1], images[:, :1]).mean()),
            "psnr/video": float(psnr(output[:, 1:], images[:, 1:]).mean()),
        }

    def preview(self, folder: Path, step: int) -> None:
        windows = self.held_out(2)
        output = self._reconstruct(windows)[1].cpu()
        sound = self.audio_image.waveform(output[:, :1])
        versions = {
            "real": AV(windows.waveforms, windows.frames),
            "vae": AV(sound, images_to_frames(output[:, 1:])),
        }
        show_versions(versions, self.spec, folder, f"reconstruction_{step:07d}")

    def export(self, folder: Path) -> None:
        self.vae.save_pretrained(folder)


def build_vae(config: RunConfig, weights: bool = True) -> ImageVAE:
    """The VAE a recipe asks for: a pretrained one with its encoder frozen, with its own decoder or a
    new one, or a small one from scratch.

    Args:
        weights: False: Stable Diffusion's KL-VAE, where it is asked for by one of its hub names,
            comes without its published weights, so that nothing needs to be downloaded.

    Raises:
        UserError: It cannot be loaded, cannot take a new decoder, or a key of `vae.model` or
            `vae.decoder` is wrong.
    """
    job = config.vae
    torch.manual_seed(config.seed)  # of whatever part is new
    if job.model is not None:
        return PatchAutoencoderKL(**bind(job.model, PatchAutoencoderKL, "vae.model"))
    known = job.pretrained in SD_IMAGE_VAES and not weights
    vae = sd_image_vae() if known else load_image_vae(job.pretrained or "")
    if job.decoder is not None:
        if not isinstance(vae, PatchAutoencoderKL):
            raise UserError(
                f"vae.decoder: {job.pretrained} is a {type(vae).__name__}; only the decoder of a "
                "PatchAutoencoderKL can be replaced, remove the key."
            )
        vae = vae.with_decoder(**bind(job.decoder, vae.with_decoder, "vae.decoder"))
    # A pretrained encoder is frozen: latents that were made with it stay valid.
    for name, parameter in vae.named_parameters():
        parameter.requires_grad_("decoder" in name or "post_quant" in name)
    return vae
