"""The `autoencoder` job: the multi-modal autoencoder with its signal decoder, heads and critic. Paper §3.1.

cached image latents AV (B,1,c,h,w), (B,T,c,h,w) -> latents, semantics, prediction -> the terms of Eq. 3.
Two turns a step: `model` (everything but the critic) and, from `critic.start_step` on, `critic`, which judges
the reconstructions the model turn has just made, <audio image, frame i, frame j> (Eq. 2). Gradient of the
adversarial term reaches the autoencoder through the image decoder; the image VAE and, during the model turn,
the critic stay frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmldm.arithmetic import without_autocast
from mmldm.config import RunConfig
from mmldm.data.clips import NO_CLASS, spread
from mmldm.data.latents import LatentCache, Splits
from mmldm.diffusion.schedules import NoiseProcess, ScheduleConfig, make_scheduler
from mmldm.evaluation.reconstruction import psnr
from mmldm.media.clip import images_to_frames
from mmldm.media.spectrogram import AudioImage
from mmldm.models.autoencoder import MultiModalAutoencoder, load_autoencoder
from mmldm.models.component import refuse_other_build
from mmldm.models.discriminator import TupleDiscriminator
from mmldm.models.image_codec import ImageCodec, LatentStatistics
from mmldm.models.image_vae import ImageVAE
from mmldm.pipelines.decoding import decode_to_image_latents
from mmldm.sections import AutoencoderConfig, CriticConfig
from mmldm.strict import bind, parse
from mmldm.training.adversary import CriticTurn, TupleAdversary
from mmldm.training.losses import (
    classification_loss,
    contrastive_loss,
    salience,
    weighted_mean,
)
from mmldm.training.randomness import StepRandom
from mmldm.training.stage import CachedStage, show_versions
from mmldm.types import AV, MODALITIES, Latents

SALIENCE_THRESHOLD = 0.5
"""Departure from the median, in normalised image latents, above which a cell counts as salient."""
VALIDATED_CLIPS = 16
PROBED_CLIPS = 16
"""Training clips about which the image VAE is probed, for `loss.pixels`."""
MOST_VALIDATED_STEPS = 10
"""Of the signal decoder: with fifty, those clips cost 2,450 TFLOP at the paper's size."""


class AutoencoderTurn(nn.Module):
    """Eq. 3 without the critic's own loss.

    What a clip lacks counts as zero in every term: means are over all rows, so that a clip's share
    depends on no other.

    Args:
        measured: Measures `channels`, AV((c,)), when first they are needed: a finished job has no caches for
            that.
    """

    def __init__(
        self,
        autoencoder: MultiModalAutoencoder,
        process: NoiseProcess,
        config: AutoencoderConfig,
        codec: ImageCodec,
        adversary: TupleAdversary | None,
        measured: Callable[[], AV[Tensor] | None] | None = None,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self._measured = measured
        self.process, self.config, self.adversary = process, config, adversary
        self.frozen = (codec,)  # a tuple, so that it is no submodule of what this turn trains

    @cached_property
    def channels(self) -> AV[Tensor] | None:
        """What squared errors in the channels of the image latents count, AV((c,)); None: all 1."""
        return None if self._measured is None else self._measured()

    def forward(self, batch: Latents, random: StepRandom) -> dict[str, Tensor]:
        """Raw image latents of B clips -> "loss" (Eq. 3) and its terms, each ()."""
        model, weights, (codec,) = self.autoencoder, self.config.loss, self.frozen
        present, complete, class_labels = batch.present, batch.complete, batch.class_labels
        clips, total = batch.mean.video.shape[:2]

        # Posterior: the encoders read a sample of the image VAE's; z_a and z_v are samples of theirs.
        sample = batch.sample(batch.mean.map(lambda x: random.normal(x.shape)))
        posterior = model.encode(sample.map(codec.normalise, MODALITIES))
        latents = posterior.map(lambda p: p.sample(random.normal(p.mean.shape)))

        # What is decoded: the mean of the audio image and of F random frames of every clip, in order.
        mean = batch.mean.map(codec.normalise, MODALITIES)
        frames = random.integers(0, total, (clips, self.config.target_frames)).sort(dim=1).values
        rows = torch.arange(clips, device=frames.device)[:, None]
        target = AV(mean.audio, mean.video[rows, frames])

        # What is hidden from the decoder: a modality's latents; or, from a modality, class and semantics
        # of the other. What a clip lacks tells nothing, neither by latents nor by a class guessed from them.
        def hidden(share: float, anyway: AV[Tensor]) -> AV[Tensor]:
            return anyway.map(lambda rows: rows | random.bernoulli(share, (clips,)))

        unknown = ~complete & (class_labels < 0)
        dropped = hidden(weights.conditioning_dropout, present.map(torch.logical_not))
        alone = hidden(weights.context_dropout, AV(unknown, unknown))
        told = class_labels if model.config.num_classes else None
        conditions = model.condition(latents, frames, told, dropped, alone)

        # Noise (Eq. 5): each image has its own level, drawn where the adversary asks for it, on the host.
        levels = target.map(lambda x: self._timesteps(random.host, x.shape[:2]))
        timesteps = levels.map(lambda t: t.to(frames.device, non_blocking=True))
        noise = target.map(lambda x: random.normal(x.shape))
        noisy = target.map(self.process.add_noise, noise, timesteps)

        # Prediction: L_MSE, in the paper of the noise (Eq. 3, first term).
        prediction = model.denoise(noisy, timesteps, conditions)
        wanted = target.map(self.process.target, noise, timesteps)
        moving = mean.map(lambda x: salience(x, weights.salience, SALIENCE_THRESHOLD))
        salient = AV(moving.audio, moving.video[rows, frames])

        channels = self.channels or target.map(lambda x: x.new_ones(x.shape[-3]))

        def squared(
            predicted: Tensor, wanted: Tensor, salient: Tensor, here: Tensor, channels: Tensor
        ) -> Tensor:
            errors = (predicted - wanted).square() * channels[:, None, None]
            return (weighted_mean(errors, salient) * here).mean()

        error = prediction.map(squared, wanted, salient, present, channels)

        # The other terms of Eq. 3: L_KL; L_cl and L_co (Eq. 1) of the semantics; L_GAN (Eq. 2).
        kl = posterior.map(lambda p, here: (p.kl() * here).mean(), present)
        loss = error.video + weights.audio_weight * error.audio + weights.kl * (kl.audio + kl.video)
        terms = {
            "mse/audio": error.audio, "mse/video": error.video,
            "kl/audio": kl.audio, "kl/video": kl.video,
        }  # fmt: skip
        if told is not None:
            terms["classification"] = classification_loss(
                model.class_logits(conditions.semantics),
                class_labels.masked_fill(~complete, NO_CLASS),
            )
            loss = loss + weights.classification * terms["classification"]
        if weights.contrastive:
            terms["contrastive"] = contrastive_loss(
                model.contrastive(conditions.semantics), model.temperatures, complete
            )
            loss = loss + weights.contrastive * terms["contrastive"]
        if self.adversary is not None and random.step >= self.adversary.start_step:
            terms["adversarial"] = self.adversary.model_loss(
                prediction, noisy, levels, target, self.process, random.micro, complete
            )
            loss = loss + weights.adversarial * terms["adversarial"]
        return {"loss": loss, **{name: value.detach() for name, value in terms.items()}}

    def _timesteps(self, random: StepRandom, shape: tuple[int, ...]) -> Tensor:
        """Noise levels (B,F) long: uniform, a share of them the last, where one-step decoding starts."""
        last = self.process.num_timesteps
        uniform = random.integers(0, last, shape)
        terminal = random.bernoulli(self.config.loss.terminal_fraction, shape)
        return torch.where(terminal, torch.full_like(uniform, last - 1), uniform)


class AutoencoderStage(CachedStage):
    """Trains the multi-modal autoencoder on cached image latents. See `training.stage.Stage`.

    Args:
        statistics: Of the image latents; None: the cache's.
    """

    name = "autoencoder"

    def __init__(
        self,
        config: RunConfig,
        vae: ImageVAE,
        caches: Splits,
        device: torch.device,
        statistics: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(config.autoencoder.train, caches, config.seed, device)
        self.config, self.job = config, config.autoencoder
        # Networks: a frozen image VAE, the autoencoder, and what makes its image latents normal.
        self.vae = vae.to(device).eval().requires_grad_(False)
        self.autoencoder = build_autoencoder(config, caches.train, statistics).to(device).train()
        self.codec = ImageCodec(self.vae, self.autoencoder.image_statistics).to(device)
        schedule = parse(ScheduleConfig, self.job.schedule, "autoencoder.schedule")
        self.process = NoiseProcess(schedule).to(device)
        # Several processes require that whatever is trainable takes part in every step's loss.
        self.autoencoder.contrast.requires_grad_(self.job.loss.contrastive > 0)

        # Turns: the model's, and the critic's where the recipe has one.
        critic = self.job.critic
        self.adversary = None if critic is None else build_adversary(critic, self.codec)
        self.turns["model"] = AutoencoderTurn(
            self.autoencoder,
            self.process,
            self.job,
            self.codec,
            self.adversary,
            self._channels,
        )
        if critic is not None and self.adversary is not None:
            self.turns["critic"] = CriticTurn(self.adversary)
            self.learning_rates = {"critic": critic.learning_rate}
        self.ema_modules["autoencoder"] = self.autoencoder

    def _channels(self) -> AV[Tensor] | None:
        """What errors in the channels of the image latents count, AV((c,)); None: all the same."""
        strength, cache = self.job.loss.pixels, self.caches.train
        if not strength:
            return None
        with torch.no_grad(), without_autocast(self.device):
            mean = cache[torch.tensor(spread(PROBED_CLIPS, len(cache)))].to(self.device).mean
            some = mean.map(lambda x: x[:, :: max(1, x.shape[1] // 4)])
            normalised = some.map(self.codec.normalise, MODALITIES)
            power = normalised.map(self.codec.pixel_power, MODALITIES)
        return power.map(lambda x: x**strength / (x**strength).mean())

    def active_turns(self, step: int) -> tuple[str, ...]:
        playing = self.adversary is not None and step >= self.adversary.start_step
        return ("model", "critic") if playing else ("model",)

    def fingerprint(self) -> dict[str, Any]:
        job = self.job.model_dump(exclude={"train"})
        if not job["loss"]["pixels"]:
            del job["loss"]["pixels"]  # jobs that began before there was such a term go on
        return {"job": job, "cache": self.caches.train.identity}

    def _encoded(self, batch: Latents) -> tuple[AV[Tensor], AV[Tensor]]:
        """Normalised image latents AV (B,1,c,h,w), (B,T,c,h,w) and latents AV (B,C,T',H',W'), all means."""
        mean = batch.mean.map(self.codec.normalise, MODALITIES)
        return mean, self.autoencoder.encode(mean).map(lambda posterior: posterior.mode())

    def _reconstruct(self, count: int, steps: int) -> tuple[AV[Tensor], AV[Tensor]]:
        """Images of held-out clips in [-1, 1], AV (B,1,3,H,W), (B,T,3,H,W).

        First as the image VAE keeps them, then as this autoencoder decodes them.

        Args:
            steps: Of the signal decoder.
        """
        mean, latents = self._encoded(self.held_out(count))
        clips, frames = mean.video.shape[:2]
        decoded = decode_to_image_latents(
            self.autoencoder,
            make_scheduler(self.process.config),
            latents,
            num_frames=frames,
            steps=steps,
            generators=[torch.Generator().manual_seed(i) for i in range(clips)],
        )
        kept, made = (x.map(self.codec.decode, MODALITIES) for x in (mean, decoded))
        return kept.map(lambda x: x.clamp(-1, 1)), made.map(lambda x: x.clamp(-1, 1))

    def validate(self) -> dict[str, float]:
        """PSNR of decoded images against the image VAE's own, and how often the class head is right.

        A decoder of many steps is validated with `MOST_VALIDATED_STEPS`; previews have all of them.
        """
        steps = min(self.config.sample.decoder_steps, MOST_VALIDATED_STEPS)
        kept, made = self._reconstruct(VALIDATED_CLIPS, steps)
        quality = made.map(images_to_frames).map(psnr, kept.map(images_to_frames))
        results = {
            "psnr/audio": float(quality.audio.mean()),
            "psnr/video": float(quality.video.mean()),
        }
        # The class head is judged on more clips: it decodes nothing.
        if self.autoencoder.config.num_classes:
            batch = self.held_out(4 * VALIDATED_CLIPS)
            _, latents = self._encoded(batch)
            logits = self.autoencoder.class_logits(self.autoencoder.semantics(latents))
            known = batch.class_labels >= 0
            if bool(known.any()):
                right = (logits.argmax(1) == batch.class_labels)[known]
                results["class_accuracy"] = float(right.float().mean())
        return results

    def preview(self, folder: Path, step: int) -> None:
        audio_image, steps = AudioImage(self.config.clip), self.config.sample.decoder_steps
        versions = {
            title: AV(audio_image.waveform(images.audio.cpu()), images_to_frames(images.video))
            for title, images in zip(
                ("image VAE", "autoencoder"), self._reconstruct(3, steps), strict=True
            )
        }
        show_versions(versions, self.config.clip, folder, f"reconstruction_{step:07d}")

    def export(self, folder: Path) -> None:
        self.autoencoder.save_pretrained(folder)


def autoencoder_arguments(
    config: RunConfig, shapes: AV[tuple[int, ...]], statistics: dict[str, Any], classes: int
) -> dict[str, Any]:
    """The recipe's section with what follows from the data and the image latents, AV (c,h,w)."""
    return bind(
        config.autoencoder.model,
        MultiModalAutoencoder,
        "autoencoder.model",
        image_latent_shape=list(shapes.video),
        audio_image_latent_shape=None if shapes.audio == shapes.video else list(shapes.audio),
        num_frames=config.clip.num_frames,
        latent_statistics=statistics,
        num_classes=classes if classes > 1 else 0,
    )


def image_statistics(config: RunConfig, cache: LatentCache) -> LatentStatistics:
    """What makes image latents normal: one number of the recipe's, or the cache's statistics."""
    scale = config.autoencoder.latent_scale
    if scale is None:
        return LatentStatistics.from_dict(cache.extra["statistics"])
    channels = len(cache.extra["statistics"]["video"]["mean"])
    return LatentStatistics.scalar(scale, channels)


def build_autoencoder(
    config: RunConfig, cache: LatentCache, statistics: dict[str, Any] | None = None
) -> MultiModalAutoencoder:
    """A fresh autoencoder whose shapes and normalisation come from the cached image latents, or the recipe's
    pretrained one, its encoders frozen.

    Args:
        statistics: Of the image latents; None: the cache's.

    Raises:
        UserError: That does not load, or is built otherwise.
    """
    statistics = statistics or image_statistics(config, cache).to_dict()
    shapes = cache.shapes.map(lambda shape: shape[1:])
    arguments = autoencoder_arguments(config, shapes, statistics, len(cache.extra["classes"]))
    torch.manual_seed(config.seed)
    fresh = MultiModalAutoencoder(**arguments)
    source = config.autoencoder.pretrained
    if source is None:
        return fresh

    # Its statistics are its own: its encoders know no others.
    pretrained = load_autoencoder(source)
    settings = arguments.keys() - {"latent_statistics"}
    refuse_other_build(pretrained, fresh, sorted(settings), "autoencoder.pretrained", source)
    pretrained.encoders.requires_grad_(False)
    return pretrained


def build_adversary(config: CriticConfig, codec: ImageCodec) -> TupleAdversary:
    """A fresh critic, on the codec's device, and what it needs."""
    arguments = bind(config.model, TupleDiscriminator, "autoencoder.critic.model")
    critic = TupleDiscriminator(**arguments).to(codec.mean.device)
    return TupleAdversary(critic, codec, config.start_step, config.max_noise)
