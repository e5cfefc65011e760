"""The `autoencoder` job: the multi-modal autoencoder with its signal decoder, heads and critic. Paper §3.1.

cached image latents AV (B,1,c,h,w), (B,T,c,h,w) -> latents, semantics, prediction -> the terms of Eq. 3.
Two turns a step: `model` (everything but the critic) and, from `critic.start_step` on, `critic`, which judges
the reconstructions the model turn has just made. Gradient of the adversarial term reaches the autoencoder
through the image decoder; the image VAE and, during the model turn, the critic stay frozen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmldm.config import AutoencoderConfig, RunConfig, bind, parse
from mmldm.data.clips import NO_CLASS, present
from mmldm.data.latents import LatentCache, Splits
from mmldm.diffusion.schedules import NoiseProcess, ScheduleConfig, make_scheduler
from mmldm.evaluation.reconstruction import psnr
from mmldm.media.clip import Clip, images_to_frames
from mmldm.media.spectrogram import AudioImage
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.discriminator import TupleDiscriminator
from mmldm.models.image_codec import ImageCodec, LatentStatistics
from mmldm.models.image_vae import ImageVAE
from mmldm.pipelines.decoding import decode_to_image_latents, save_clips
from mmldm.training.adversary import Adversary, CriticTurn
from mmldm.training.cached_stage import CachedStage
from mmldm.training.losses import classification_loss, contrastive_loss, salience, weighted_mean
from mmldm.training.randomness import StepRandom
from mmldm.types import AV, MODALITIES

SALIENCE_THRESHOLD = 0.5
"""Departure from the median, in normalised image latents, above which a cell counts as salient."""


VALIDATED_CLIPS = 16


class AutoencoderTurn(nn.Module):
    """Eq. 3 without the critic's own loss.

    What a clip lacks counts as zero in every term: means are over all rows, so that a clip's share
    depends on no other.
    """

    def __init__(
        self,
        autoencoder: MultiModalAutoencoder,
        process: NoiseProcess,
        config: AutoencoderConfig,
        codec: ImageCodec,
        adversary: Adversary | None,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.process, self.config, self.adversary = process, config, adversary
        self.frozen = (codec,)  # a tuple, so that it is no submodule of what this turn trains

    def forward(self, batch: dict[str, Tensor], random: StepRandom) -> dict[str, Tensor]:
        model, loss_config = self.autoencoder, self.config.loss
        codec = self.frozen[0]
        here = present(batch)
        complete = here.audio & here.video
        mean = MODALITIES.map(lambda m: codec.normalise(batch[f"{m}_mean"], m))
        posterior = model.encode(
            MODALITIES.map(lambda m: codec.normalise(_draw(batch, m, random), m))
        )
        latents = posterior.map(lambda p: p.sample(random.normal(p.mean.shape)))
        clips, total = mean.video.shape[:2]
        device = mean.video.device

        frames = random.integers(0, total, (clips, self.config.target_frames)).sort(dim=1).values
        rows = torch.arange(clips, device=device)[:, None]
        target = AV(mean.audio, mean.video[rows, frames])
        labels = batch["label"]
        classes = labels if bool(model.config.num_classes) else None
        dropped = AV(
            *(random.bernoulli(loss_config.conditioning_dropout, (clips,)) for _ in range(2))
        )
        alone = AV(*(random.bernoulli(loss_config.context_dropout, (clips,)) for _ in range(2)))
        # What a clip lacks tells nothing: neither by its latents nor by a class guessed from them.
        dropped = dropped.map(lambda drop, is_here: drop | ~is_here, here)
        alone = alone.map(lambda own: own | (~complete & (labels < 0)))
        conditions = model.condition(latents, frames, classes, dropped, alone)

        levels = target.map(lambda x: self._timesteps(random.host, x.shape[:2]))
        timesteps = levels.map(lambda t: t.to(device, non_blocking=True))
        noise = target.map(lambda x: random.normal(x.shape))
        noisy = target.map(self.process.add_noise, noise, timesteps)
        prediction = model.denoise(noisy, timesteps, conditions)
        wanted = target.map(self.process.target, noise, timesteps)
        weights = AV(
            salience(mean.audio, loss_config.salience, SALIENCE_THRESHOLD),
            salience(mean.video, loss_config.salience, SALIENCE_THRESHOLD)[rows, frames],
        )
        error = AV(
            *(
                (weighted_mean((p - w).square(), s) * h).mean()
                for p, w, s, h in zip(prediction, wanted, weights, here, strict=True)
            )
        )
        kl = posterior.map(lambda p, is_here: (p.kl() * is_here).mean(), here)
        loss = error.video + loss_config.audio_weight * error.audio + loss_config.kl * sum(kl)
        terms = {
            "mse/audio": error.audio,
            "mse/video": error.video,
            "kl/audio": kl.audio,
            "kl/video": kl.video,
        }
        if classes is not None:
            terms["classification"] = classification_loss(
                model.class_logits(conditions.semantics), labels.masked_fill(~complete, NO_CLASS)
            )
            loss = loss + loss_config.classification * terms["classification"]
        if loss_config.contrastive:
            terms["contrastive"] = contrastive_loss(
                model.contrastive(conditions.semantics), model.temperatures, complete
            )
            loss = loss + loss_config.contrastive * terms["contrastive"]
        if self.adversary is not None and random.step >= self.adversary.start_step:
            terms["adversarial"] = self.adversary.model_loss(
                prediction, noisy, levels, target, self.process, random.micro, complete
            )
            loss = loss + loss_config.adversarial * terms["adversarial"]
        return {"loss": loss, **{name: value.detach() for name, value in terms.items()}}

    def _timesteps(self, random: StepRandom, shape: tuple[int, ...]) -> Tensor:
        """Uniform noise levels, a fraction of them the terminal one, where one-step decoding starts."""
        last = self.process.num_timesteps
        uniform = random.integers(0, last, shape)
        terminal = random.bernoulli(self.config.loss.terminal_fraction, shape)
        return torch.where(terminal, torch.full_like(uniform, last - 1), uniform)


def _draw(batch: dict[str, Tensor], modality: str, random: StepRandom) -> Tensor:
    """A sample of the image VAE's cached posterior, raw (B,F,c,h,w)."""
    mean, logvar = batch[f"{modality}_mean"], batch[f"{modality}_logvar"]
    return mean + torch.exp(0.5 * logvar) * random.normal(mean.shape)


class AutoencoderStage(CachedStage):
    """Trains the multi-modal autoencoder on cached image latents. See `training.stage.Stage`."""

    name = "autoencoder"

    def __init__(
        self, config: RunConfig, vae: ImageVAE, caches: Splits, device: torch.device
    ) -> None:
        super().__init__(config.autoencoder.train, caches, config.seed, device)
        self.config, self.job = config, config.autoencoder
        self.vae = vae.to(device).eval().requires_grad_(False)
        statistics = image_statistics(config, caches.train)
        self.codec = ImageCodec(self.vae, statistics).to(device)
        self.autoencoder = build_autoencoder(config, caches.train).to(device).train()
        schedule = parse(ScheduleConfig, self.job.schedule, "autoencoder.schedule")
        self.process = NoiseProcess(schedule).to(device)
        # Several processes require that whatever is trainable takes part in every step's loss.
        self.autoencoder.contrast.requires_grad_(self.job.loss.contrastive > 0)
        self.adversary = None
        if self.job.critic is not None:
            arguments = bind(self.job.critic.model, TupleDiscriminator, "autoencoder.critic.model")
            self.adversary = Adversary(
                TupleDiscriminator(**arguments).to(device),
                self.codec,
                self.job.critic.start_step,
                self.job.critic.max_noise,
            )
            self.learning_rates = {"critic": self.job.critic.learning_rate}
        self.turns["model"] = AutoencoderTurn(
            self.autoencoder, self.process, self.job, self.codec, self.adversary
        )
        if self.adversary is not None:
            self.turns["critic"] = CriticTurn(self.adversary)
        self.ema_modules["autoencoder"] = self.autoencoder

    def active_turns(self, step: int) -> tuple[str, ...]:
        playing = self.adversary is not None and step >= self.adversary.start_step
        return ("model", "critic") if playing else ("model",)

    def fingerprint(self) -> dict[str, Any]:
        return {"job": self.job.model_dump(exclude={"train"}), "cache": self.caches.train.identity}

    def _held_out(self, count: int) -> tuple[dict[str, Tensor], AV[Tensor]]:
        """Cached rows of held-out clips and their latents' means."""
        batch = self.held_out(count)
        mean = MODALITIES.map(lambda m: self.codec.normalise(batch[f"{m}_mean"], m))
        return batch, self.autoencoder.encode(mean).map(lambda p: p.mode())

    def _reconstruct(self, count: int) -> tuple[AV[Tensor], AV[Tensor]]:
        """Images of held-out clips: as the image VAE keeps them, and as this autoencoder decodes them."""
        batch, latents = self._held_out(count)
        clips, frames = batch["video_mean"].shape[:2]
        decoded = decode_to_image_latents(
            self.autoencoder,
            make_scheduler(self.process.config),
            latents,
            num_frames=frames,
            steps=self.config.sample.decoder_steps,
            generators=[torch.Generator().manual_seed(i) for i in range(clips)],
        ).map(self.codec.decode, MODALITIES)
        kept = MODALITIES.map(
            lambda m: self.codec.decode(self.codec.normalise(batch[f"{m}_mean"], m), m)
        )
        return kept.map(lambda x: x.clamp(-1, 1)), decoded.map(lambda x: x.clamp(-1, 1))

    def validate(self, random: StepRandom) -> dict[str, float]:
        """PSNR of decoded images against the image VAE's own, and how often the class head is right."""
        kept, decoded = self._reconstruct(VALIDATED_CLIPS)
        quality = kept.map(
            lambda a, b: float(psnr(images_to_frames(b), images_to_frames(a)).mean()), decoded
        )
        results = {"psnr/audio": quality.audio, "psnr/video": quality.video}
        if self.autoencoder.config.num_classes:
            batch, latents = self._held_out(4 * VALIDATED_CLIPS)
            logits = self.autoencoder.class_logits(self.autoencoder.semantics(latents))
            known = batch["label"] >= 0
            if bool(known.any()):
                right = (logits.argmax(1) == batch["label"])[known]
                results["class_accuracy"] = float(right.float().mean())
        return results

    def preview(self, folder: Path, step: int) -> None:
        audio_image = AudioImage(self.config.clip)
        clips, titles = [], []
        for name, images in zip(("image VAE", "autoencoder"), self._reconstruct(3), strict=True):
            waveforms = audio_image.waveform(images.audio.cpu())
            frames = images_to_frames(images.video).cpu()
            for i, (picture, sound) in enumerate(zip(frames, waveforms, strict=True)):
                clips.append(
                    Clip(picture, sound, self.config.clip.fps, self.config.clip.sample_rate)
                )
                titles.append(f"{name} {i}")
        half = len(clips) // 2
        pairs = [i for pair in zip(range(half), range(half, 2 * half), strict=True) for i in pair]
        save_clips(
            [clips[i] for i in pairs],
            folder,
            f"reconstruction_{step:07d}",
            [titles[i] for i in pairs],
        )

    def export(self, folder: Path) -> None:
        self.autoencoder.save_pretrained(folder)


def autoencoder_arguments(
    config: RunConfig, image_latent_shape: tuple[int, ...], statistics: dict[str, Any], classes: int
) -> dict[str, Any]:
    """The recipe's section with what follows from the image latents and the data."""
    return bind(
        config.autoencoder.model,
        MultiModalAutoencoder,
        "autoencoder.model",
        image_latent_shape=list(image_latent_shape),
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


def build_autoencoder(config: RunConfig, cache: LatentCache) -> MultiModalAutoencoder:
    """A fresh autoencoder whose shapes and normalisation come from the cached image latents."""
    shape = cache.row_shapes()["video_mean"][1:]
    torch.manual_seed(config.seed)
    return MultiModalAutoencoder(
        **autoencoder_arguments(
            config, shape, image_statistics(config, cache).to_dict(), len(cache.extra["classes"])
        )
    )
