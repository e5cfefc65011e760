"""The `vocoder` job: from the mel spectrogram that an audio image holds back to its sound.

waveform (B,S) -> audio image -> log-mel (B,M,L) -> waveform (B,S) -> spectral losses. What it reads has
passed through the audio image, as when sampling: the same decibel range, size and silence; where the recipe
asks, through the image VAE and an autoencoder, too. Two turns a step where it has a critic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmldm.config import RunConfig
from mmldm.data.manifest import Manifest
from mmldm.diffusion.schedules import ScheduleConfig, make_scheduler
from mmldm.evaluation.reconstruction import mel_error, spectral_distance
from mmldm.media.clip import frames_to_images
from mmldm.media.spectrogram import AudioImage
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.discriminator import SpectrogramDiscriminator
from mmldm.models.image_codec import ImageCodec
from mmldm.models.image_vae import ImageVAE
from mmldm.models.pretrained_vocoder import Vocoder, load_vocoder
from mmldm.models.vocoder import FourierVocoder
from mmldm.pipelines.vocoding import check_vocoder, sound, vocode, vocoder_input
from mmldm.sections import PatchCriticConfig, VocoderConfig, VocoderLoss
from mmldm.strict import bind, parse
from mmldm.training.adversary import CriticTurn, SpectrogramAdversary
from mmldm.training.jobs.vae import Passage
from mmldm.training.randomness import StepRandom
from mmldm.training.stage import MediaStage, show_versions
from mmldm.types import AV, ClipSpec, WindowBatch

VALIDATED_CLIPS = 16


class DecodedImages:
    """Audio images as an image VAE gives them back, through an autoencoder where there is one; all frozen.

    Args:
        vae: The image VAE.
        passage: The autoencoder's; None: the VAE alone.
    """

    def __init__(self, vae: ImageVAE, passage: Passage | None) -> None:
        self.vae, self.passage = vae, passage

    @torch.no_grad()
    def __call__(
        self, images: Tensor, batch: WindowBatch, rows: Tensor, random: StepRandom
    ) -> Tensor:
        """Audio images (B,1,3,H,W) of a batch, and R of its rows (R,) -> these rows' (R,1,3,H,W)."""
        audio = images[rows]
        if self.passage is None:
            latents = self.vae.encode(audio[:, 0]).latent_dist.mode()
        else:
            given = AV(audio, frames_to_images(batch.frames[rows]))
            # One frame is decoded beside the sound, because the passage decodes both.
            first = rows.new_zeros(len(rows), 1)
            alone = ~batch.present.video[rows]
            made = self.passage(given, first, random, rows, alone)
            latents = made.audio[:, 0]
        decoded: Tensor = self.vae.decode(latents).sample
        return decoded.clamp(-1, 1)[:, None]


class VocoderTurn(nn.Module):
    """Spectral distance and mel error of what the vocoder makes of the clips' own audio images.

    Args:
        decoded: Gives images back as a model does, for the rows that `weights.decoded` asks for.
        adversary: The critic's side, where the recipe has one.
    """

    def __init__(
        self,
        vocoder: FourierVocoder,
        spec: ClipSpec,
        weights: VocoderLoss,
        decoded: DecodedImages | None = None,
        adversary: SpectrogramAdversary | None = None,
    ) -> None:
        super().__init__()
        self.vocoder, self.weights = vocoder, weights
        self.audio_image = AudioImage(spec)
        self.decoded, self.adversary = decoded, adversary

    def forward(self, batch: WindowBatch, random: StepRandom) -> dict[str, Tensor]:
        """Windows of B clips, whose frames only an autoencoder reads -> "loss" and its terms, each ()."""
        waveforms, weights = batch.waveforms, self.weights
        with torch.no_grad():
            # What the vocoder reads: log-mel levels (B,M,L) in dB, as an audio image has kept them.
            image = self.audio_image.image(waveforms)
            if self.decoded is not None:
                # Which rows a model gives back is decided on the host.
                chosen = random.host.bernoulli(weights.decoded, (len(image),)).nonzero()[:, 0]
                rows = chosen.to(image.device, non_blocking=True)
                if len(chosen):
                    image = image.index_copy(0, rows, self.decoded(image, batch, rows, random))
            decibels = vocoder_input(image, self.audio_image, self.vocoder.spectrogram)
            if weights.mel_noise:
                noise = weights.mel_noise * random.normal(decibels.shape)
                spec = self.vocoder.spectrogram
                decibels = (decibels + noise).clamp(spec.db_min, spec.db_max)

        # What it makes of them, and how far that is from the clips' sound; no sound counts as zero.
        made = vocode(decibels, self.vocoder, waveforms.shape[1])
        share = batch.present.audio / len(waveforms)
        distances = _distances(made, waveforms, self.audio_image)
        terms = {name: (x * share).sum() for name, x in distances.items()}
        loss = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()

        # How much of it the critic knows.
        if self.adversary is not None and random.step >= self.adversary.start_step:
            balanced, terms["adversarial"] = self.adversary.model_loss(
                made, waveforms, share, loss, random.micro
            )
            loss = loss + weights.adversarial * balanced
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}


def _distances(made: Tensor, real: Tensor, audio_image: AudioImage) -> dict[str, Tensor]:
    """How far waveforms (B,S) are from real ones: spectra, and `mel` in dB; each (B,)."""
    spectra = spectral_distance(made, real)
    return {
        "convergence": spectra.convergence,
        "log_magnitude": spectra.log_magnitude,
        "mel": mel_error(made, real, audio_image),
    }


class VocoderStage(MediaStage):
    """Trains our own vocoder on the clips' sound. See `training.stage.Stage` for the contract.

    Args:
        vae: That `loss.decoded` rows pass through; None where there are none.
        autoencoder: On its latents; then pictures are read, too, because the sound's decoder sees them.
    """

    name = "vocoder"

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        device: torch.device,
        vae: ImageVAE | None = None,
        autoencoder: MultiModalAutoencoder | None = None,
    ) -> None:
        job = config.vocoder
        assert job is not None, "the caller asks for jobs of the recipe only"
        self.sound_only = autoencoder is None
        self.passes = {"image VAE": vae is not None, "autoencoder": autoencoder is not None}
        self.vocoder = build_vocoder(job, config.clip, config.seed)
        decoded = None
        if vae is not None:
            decoded = build_decoded(config, vae, autoencoder, device)
        self.adversary = None
        if job.critic is not None:
            self.adversary = build_adversary(job.critic, job.loss, config.seed, device)
        turn = VocoderTurn(self.vocoder, config.clip, job.loss, decoded, self.adversary)
        super().__init__(config, job, manifest, device, turn=turn, network=self.vocoder)
        if job.critic is not None and self.adversary is not None:
            self.turns["critic"] = CriticTurn(self.adversary)
            self.learning_rates = {"critic": job.critic.learning_rate}

    def active_turns(self, step: int) -> tuple[str, ...]:
        playing = self.adversary is not None and step >= self.adversary.start_step
        return ("model", "critic") if playing else ("model",)

    def fingerprint(self) -> dict[str, Any]:
        """As every job that reads files; what is off says nothing, as before there was such a thing."""
        values = super().fingerprint()
        job, loss = values["job"], values["job"]["loss"]
        if loss["decoded"]:
            job["passes"] = self.passes
        else:
            del loss["decoded"], job["image_vae"], job["autoencoder"]
        if not loss["adversarial"]:
            del loss["adversarial"], loss["feature_matching"], job["critic"]
        return values

    @torch.no_grad()
    def _revoiced(self, waveforms: Tensor) -> Tensor:
        """Waveforms (B,S), through audio images and the vocoder, (B,S)."""
        return sound(self.audio_image.image(waveforms), self.audio_image, self.vocoder)

    def validate(self) -> dict[str, float]:
        """Distances of held-out clips; `mel` in dB."""
        waveforms = self.held_out(VALIDATED_CLIPS).waveforms.to(self.device)
        distances = _distances(self._revoiced(waveforms), waveforms, self.audio_image)
        return {name: float(distance.mean()) for name, distance in distances.items()}

    def preview(self, folder: Path, step: int) -> None:
        windows = self.held_out(2)
        waveforms = windows.waveforms.to(self.device)
        # Griffin-Lim is what a model without a vocoder would make of the same images.
        sounds = {
            "real": waveforms,
            "vocoder": self._revoiced(waveforms),
            "Griffin-Lim": self.audio_image.waveform(self.audio_image.image(waveforms)),
        }
        versions = {title: AV(waveforms, windows.frames) for title, waveforms in sounds.items()}
        show_versions(versions, self.spec, folder, f"sound_{step:07d}")

    def export(self, folder: Path) -> None:
        self.vocoder.save_pretrained(folder)


def build_vocoder(job: VocoderConfig, clip: ClipSpec, seed: int) -> Vocoder:
    """The vocoder a recipe asks for: a pretrained one, or our own, untrained.

    Raises:
        UserError: It cannot be loaded, does not suit such clips, or a key of `vocoder.model` is wrong.
    """
    # A pretrained one may want another spectrogram than the clips' images hold.
    if job.model is None:
        vocoder = load_vocoder(job.pretrained or "", clip, job.spectrogram)
        check_vocoder(vocoder, clip)
        return vocoder
    arguments = bind(
        job.model,
        FourierVocoder,
        "vocoder.model",
        spectrogram=clip.spectrogram.model_dump(mode="json"),
        sample_rate=clip.filterbank_rate,
    )
    torch.manual_seed(seed)
    return FourierVocoder(**arguments)


def build_decoded(
    config: RunConfig,
    vae: ImageVAE,
    autoencoder: MultiModalAutoencoder | None,
    device: torch.device,
) -> DecodedImages:
    """What gives audio images back as a model does, frozen, on the device."""
    vae = vae.to(device).eval().requires_grad_(False)
    passage = None
    if autoencoder is not None:
        autoencoder = autoencoder.to(device).eval().requires_grad_(False)
        codec = ImageCodec(vae, autoencoder.image_statistics).to(device)
        schedule = parse(ScheduleConfig, config.autoencoder.schedule, "autoencoder.schedule")
        steps = config.sample.decoder_steps
        passage = Passage(codec, autoencoder, make_scheduler(schedule), steps)
    return DecodedImages(vae, passage)


def build_adversary(
    critic: PatchCriticConfig, loss: VocoderLoss, seed: int, device: torch.device
) -> SpectrogramAdversary:
    """A fresh critic, on the device.

    Raises:
        UserError: A key of `vocoder.critic.model` is wrong.
    """
    arguments = bind(critic.model, SpectrogramDiscriminator, "vocoder.critic.model")
    torch.manual_seed(seed)
    network = SpectrogramDiscriminator(**arguments).to(device)
    return SpectrogramAdversary(network, critic.start_step, loss.feature_matching)
