"""The `vae` job: an image KL-VAE for frames and audio images alike.

frames u8 (B,T,3,H,W), waveform (B,S) -> images -> reconstruction losses. Paper §3.1 and §4.4.
One network serves both modalities, because the audio image is a picture (§3.1). A pretrained VAE keeps its
encoder frozen and only its decoder is trained, or another in its place, so latents made with it stay valid;
such a decoder may learn from latents as an autoencoder gives them back. Two turns a step where the recipe has
a critic, as in the `autoencoder` job.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from mmldm.config import RunConfig
from mmldm.data.manifest import Manifest
from mmldm.diffusion.sampling import sample
from mmldm.diffusion.schedules import ScheduleConfig, make_scheduler
from mmldm.errors import UserError
from mmldm.evaluation.reconstruction import psnr
from mmldm.media.clip import frames_to_images, images_to_frames
from mmldm.media.spectrogram import AudioImage
from mmldm.models.autoencoder import MultiModalAutoencoder, load_autoencoder
from mmldm.models.discriminator import PatchDiscriminator
from mmldm.models.image_codec import ImageCodec
from mmldm.models.image_vae import (
    SD_IMAGE_VAES,
    ImageVAE,
    LightAutoencoderKL,
    PatchAutoencoderKL,
    load_image_vae,
    sd_image_vae,
)
from mmldm.pipelines.decoding import decoder_denoiser
from mmldm.sections import VaeConfig
from mmldm.strict import bind, parse
from mmldm.training.adversary import CriticTurn, PatchAdversary
from mmldm.training.losses import salience, texture_distance, weighted_mean
from mmldm.training.perceptual import PerceptualDistance, build_perceptual
from mmldm.training.randomness import StepRandom
from mmldm.training.stage import MediaStage, show_versions
from mmldm.types import AV, MODALITIES, ClipSpec, WindowBatch

VALIDATED_CLIPS = 8

SALIENCE_THRESHOLD = 0.1
"""Departure from the median, in image units of [-1, 1], above which a pixel counts as salient."""

FINE = 0.125
"""Cycles a pixel: a quarter of Nyquist."""


class VaeTurn(nn.Module):
    """One step's loss: some random frames of every clip and its audio image, through the VAE.

    What a clip lacks counts as zero in every term: means are over all images, so that a clip's share
    depends on no other. Frames and audio images may differ in size.

    Args:
        perceptual: Distance of frozen features, where the recipe weighs it.
        adversary: The patch critic's side, where it weighs that.
        passage: The autoencoder that image latents go through before they are decoded.
    """

    def __init__(
        self,
        vae: ImageVAE,
        spec: ClipSpec,
        config: VaeConfig,
        perceptual: PerceptualDistance | None = None,
        adversary: PatchAdversary | None = None,
        passage: Passage | None = None,
    ) -> None:
        super().__init__()
        self.vae = vae
        self.audio_image = AudioImage(spec)
        self.weights = config.loss
        self.frames_per_clip = config.frames_per_clip
        self.adversary, self.passage = adversary, passage
        self.frozen = (perceptual,)  # a tuple, so that it is no submodule of what this turn trains

    def forward(self, batch: WindowBatch, random: StepRandom) -> dict[str, Tensor]:
        """Windows of B clips -> "loss" and its terms, each ()."""
        # N images (N,3,H,W) a modality: the audio image of every clip, and F random frames of it.
        whole = AV(self.audio_image.image(batch.waveforms), frames_to_images(batch.frames))
        clips, total = whole.video.shape[:2]
        counts = AV(1, self.frames_per_clip)
        chosen = random.integers(0, total, (clips, counts.video))
        rows = torch.arange(clips, device=chosen.device)[:, None]
        images = AV(whole.audio, whole.video[rows, chosen]).map(one_by_one)

        # Weights (N,1,H,W) of what moves or sounds, and every image's share (N,) in a mean over all of them.
        moving = whole.map(lambda x: salience(x, self.weights.salience, SALIENCE_THRESHOLD))
        weights = AV(moving.audio, moving.video[rows, chosen]).map(one_by_one)
        here = batch.present.map(torch.Tensor.repeat_interleave, counts)
        share = here.map(lambda present: present / (clips * sum(counts)))

        # What is decoded: samples of the posterior, or image latents that an autoencoder gives back.
        terms: dict[str, Tensor] = {}
        loss = share.audio.new_zeros(())
        if self.passage is None:
            posterior = images.map(lambda x: self.vae.encode(x).latent_dist)

            def drawn(gaussian: Any, count: int) -> Tensor:
                noise = random.normal((clips, count, *gaussian.mean.shape[1:]))
                return gaussian.mean + gaussian.std * one_by_one(noise)

            latents: AV[Tensor] = posterior.map(drawn, counts)
            # Closeness of the posterior to a standard normal (Rombach et al. 2022).
            terms["kl"] = sum_of(posterior.map(kl_to_normal), share)
            loss = loss + self.weights.kl * terms["kl"]
        else:
            latents = self.passage(whole, chosen, random).map(one_by_one)
        decoded: AV[Tensor] = latents.map(lambda z: self.vae.decode(z).sample)

        # Closeness of the images, pixel by pixel.
        errors = decoded.map(torch.sub, images)
        l1 = errors.map(Tensor.abs).map(weighted_mean, weights)
        l2 = errors.map(Tensor.square).map(weighted_mean, weights)
        closeness = self.weights.l1 * sum_of(l1, share) + self.weights.l2 * sum_of(l2, share)
        loss = loss + closeness
        terms["l1/audio"] = (l1.audio * here.audio).mean()
        terms["l1/video"] = (l1.video * here.video).mean()

        # Details of a frame as strong as the original's, wherever they are.
        if self.weights.texture:
            distance = texture_distance(decoded.video.float(), images.video)
            terms["texture"] = (distance * share.video).sum()
            loss = loss + self.weights.texture * terms["texture"]

        # Closeness to the eye of frozen features, and to that of the critic.
        (perceptual,) = self.frozen
        emphasis = AV(self.weights.audio_weight, 1.0)
        if perceptual is not None:
            distances = decoded.map(perceptual, images, weights, MODALITIES)
            terms["perceptual"] = sum_of(distances.map(torch.mul, emphasis), share)
            loss = loss + self.weights.perceptual * terms["perceptual"]
        if self.adversary is not None and random.step >= self.adversary.start_step:
            balanced, terms["adversarial"] = self.adversary.model_loss(
                decoded, images, weights, share, emphasis, closeness, random.micro
            )
            loss = loss + self.weights.adversarial * balanced
        return {"loss": loss, **{name: value.detach() for name, value in terms.items()}}


def one_by_one(images: Tensor) -> Tensor:
    """Images, weights or latents (B,F,...) of clips -> (B*F,...)."""
    return images.flatten(0, 1)


def sum_of(terms: AV[Tensor], share: AV[Tensor]) -> Tensor:
    """Terms AV (N,) of images, each times its share AV (N,), over both modalities, ()."""
    parts = terms.map(torch.mul, share)
    return parts.audio.sum() + parts.video.sum()


def kl_to_normal(posterior: Any) -> Tensor:
    """Divergence of posteriors over (N,c,h,w) from a standard normal, in nats a number, (N,)."""
    nats = posterior.mean.square() + posterior.var - 1 - posterior.logvar
    mean: Tensor = 0.5 * nats.mean((1, 2, 3))
    return mean


class Passage:
    """Image latents of clips through an autoencoder and back: what the image VAE has to decode in use.

    Args:
        codec: The image VAE, whose encoder is frozen, and what makes its latents normal.
        autoencoder: Trained on them, frozen.
        scheduler: Of its signal decoder.
        steps: Of its signal decoder.
    """

    def __init__(
        self,
        codec: ImageCodec,
        autoencoder: MultiModalAutoencoder,
        scheduler: SchedulerMixin,
        steps: int,
    ) -> None:
        self.codec, self.autoencoder = codec, autoencoder
        self.scheduler, self.steps = scheduler, steps

    @torch.no_grad()
    def __call__(
        self,
        images: AV[Tensor],
        chosen: Tensor,
        random: StepRandom,
        rows: Tensor | None = None,
        alone: Tensor | None = None,
    ) -> AV[Tensor]:
        """Images AV (B,1,3,H,W), (B,T,3,H,W) and frames (B,F) -> raw latents AV (B,1,c,h,w), (B,F,c,h,w).

        Args:
            rows: Of the batch, (B,), which these images are; None: all.
            alone: (B,) bool: clips whose modalities tell each other nothing, because one is missing.
        """
        given = images.map(self.codec.encode, MODALITIES)
        latents = self.autoencoder.encode(given).map(lambda posterior: posterior.mode())
        hidden = None if alone is None else AV(alone, alone)
        conditions = self.autoencoder.condition(latents, chosen, alone=hidden)

        def drawn(count: int, like: Tensor) -> Tensor:
            noise = random.normal((len(random.rows), count, *like.shape[2:]))
            return noise if rows is None else noise[rows]

        noise = AV(1, chosen.shape[1]).map(drawn, given)
        denoise = decoder_denoiser(self.autoencoder, conditions)
        back = sample(denoise, noise, self.scheduler, self.steps)
        return back.map(self.codec.denormalise, MODALITIES)


class VaeStage(MediaStage):
    """Trains (or adapts) the image KL-VAE. See `training.stage.Stage` for the contract."""

    name = "vae"

    def __init__(self, config: RunConfig, manifest: Manifest, device: torch.device) -> None:
        self.vae, critic = build_vae(config), config.vae.critic
        turns = build_turns(config, self.vae, device)
        turn = turns["model"]
        super().__init__(config, config.vae, manifest, device, turn=turn, network=self.vae)
        self.turns = turns
        self.turn = turn
        if critic is not None:
            self.learning_rates = {"critic": critic.learning_rate}

    def active_turns(self, step: int) -> tuple[str, ...]:
        adversary = self.turn.adversary
        playing = adversary is not None and step >= adversary.start_step
        return ("model", "critic") if playing else ("model",)

    def fingerprint(self) -> dict[str, Any]:
        """As every job that reads files; a term that is off says nothing, as before there was such a term."""
        values = super().fingerprint()
        loss, job = values["job"]["loss"], values["job"]
        if not loss["perceptual"]:
            del loss["perceptual"], job["features"]
        for term in ("adversarial", "texture"):
            if not loss[term]:
                del loss[term]
        if not {"perceptual", "adversarial"} & loss.keys():
            del loss["audio_weight"]
        return values

    @torch.no_grad()
    def _reconstruct(self, windows: WindowBatch) -> tuple[AV[Tensor], AV[Tensor]]:
        """Images AV (B,1,3,H,W), (B,T,3,H,W) of windows, and what the VAE makes of them."""
        images = AV(
            self.audio_image.image(windows.waveforms.to(self.device)),
            frames_to_images(windows.frames.to(self.device)),
        )
        clips, frames = images.video.shape[:2]
        passage = self.turn.passage
        if passage is None:
            latents = images.map(lambda x: self.vae.encode(x.flatten(0, 1)).latent_dist.mode())
        else:
            every = torch.arange(frames, device=self.device).expand(clips, -1)
            random = StepRandom(self.seed, 0, "validate", clips, device=self.device)
            latents = passage(images, every, random).map(one_by_one)
        decoded = latents.map(lambda z: self.vae.decode(z).sample.clamp(-1, 1))
        return images, decoded.map(lambda x: x.unflatten(0, (clips, -1)))

    def validate(self) -> dict[str, float]:
        """PSNR of held-out audio images and frames, in 8-bit units; their fine power over the original's."""
        images, output = self._reconstruct(self.held_out(VALIDATED_CLIPS))
        quality = output.map(images_to_frames).map(psnr, images.map(images_to_frames))
        sharpness = output.map(fine_power, images).map(torch.div, images.map(fine_power, images))
        return {
            "psnr/audio": float(quality.audio.mean()),
            "psnr/video": float(quality.video.mean()),
            "sharpness/audio": float(sharpness.audio),
            "sharpness/video": float(sharpness.video),
        }

    def preview(self, folder: Path, step: int) -> None:
        windows = self.held_out(2)
        output = self._reconstruct(windows)[1].map(Tensor.cpu)
        sound = self.audio_image.waveform(output.audio)
        versions = {
            "real": AV(windows.waveforms, windows.frames),
            "vae": AV(sound, images_to_frames(output.video)),
        }
        show_versions(versions, self.spec, folder, f"reconstruction_{step:07d}")

    def export(self, folder: Path) -> None:
        self.vae.save_pretrained(folder)


def fine_power(images: Tensor, reference: Tensor) -> Tensor:
    """Power above a quarter of Nyquist, (), of images (B,F,3,H,W) where the reference moves or sounds."""
    rows = torch.fft.fftfreq(images.shape[-2], device=images.device)[:, None]
    columns = torch.fft.rfftfreq(images.shape[-1], device=images.device)
    fine = (rows.square() + columns.square()).sqrt() > FINE
    details = torch.fft.irfft2(torch.fft.rfft2(images) * fine, s=images.shape[-2:])
    salient = salience(reference, 1.0, SALIENCE_THRESHOLD) - 1
    return (details.square() * salient).sum()


def build_turns(config: RunConfig, vae: ImageVAE, device: torch.device) -> dict[str, Any]:
    """The turns of a recipe's `vae` job: "model", and "critic" if it has one. What they use is on the device.

    Raises:
        UserError: A key of `vae.critic.model` is wrong, or `vae.features` or `vae.autoencoder` does not load.
    """
    job = config.vae
    perceptual = adversary = passage = None
    if job.loss.perceptual:
        perceptual = build_perceptual(job.features).to(device)
    if job.critic is not None:
        arguments = bind(job.critic.model, PatchDiscriminator, "vae.critic.model")
        torch.manual_seed(config.seed)
        critic = PatchDiscriminator(**arguments).to(device)
        adversary = PatchAdversary(critic, job.critic.start_step)
    if job.autoencoder is not None:
        autoencoder = load_autoencoder(job.autoencoder).to(device).requires_grad_(False)
        schedule = parse(ScheduleConfig, config.autoencoder.schedule, "autoencoder.schedule")
        codec = ImageCodec(vae, autoencoder.image_statistics)
        passage = Passage(codec, autoencoder, make_scheduler(schedule), config.sample.decoder_steps)
    turn = VaeTurn(vae, config.clip, job, perceptual, adversary, passage)
    turns: dict[str, Any] = {"model": turn.to(device)}
    if adversary is not None:
        turns["critic"] = CriticTurn(adversary)
    return turns


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
        if isinstance(vae, AutoencoderKL):
            build = LightAutoencoderKL.of
            vae = build(**bind(job.decoder, build, "vae.decoder", vae=vae))
        elif isinstance(vae, PatchAutoencoderKL):
            vae = vae.with_decoder(**bind(job.decoder, vae.with_decoder, "vae.decoder"))
        else:
            raise UserError(
                f"vae.decoder: {job.pretrained} is a {type(vae).__name__}; only the decoder of a "
                "PatchAutoencoderKL or an AutoencoderKL can be replaced, remove the key."
            )
    # A pretrained encoder is frozen: latents that were made with it stay valid.
    for name, parameter in vae.named_parameters():
        parameter.requires_grad_("decoder" in name or "post_quant" in name)
    return vae
