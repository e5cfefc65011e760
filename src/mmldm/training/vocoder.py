"""The `vocoder` job: from the mel spectrogram that an audio image holds back to its sound.

waveform (B,S) -> audio image -> log-mel (B,M,L) -> waveform (B,S) -> spectral losses. What it reads has
passed through the audio image, as when sampling: the same decibel range, size and silence.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mmldm.config import RunConfig, TrainConfig, VocoderConfig, VocoderLoss, bind
from mmldm.data.manifest import Manifest
from mmldm.evaluation.reconstruction import mel_error, spectral_distance
from mmldm.media.clip import Clip
from mmldm.media.spectrogram import AudioImage
from mmldm.models.pretrained_vocoder import Vocoder, load_vocoder
from mmldm.models.vocoder import FourierVocoder
from mmldm.pipelines.decoding import save_clips
from mmldm.pipelines.vocoding import check_vocoder, sound, vocode, vocoder_input
from mmldm.training.media_stage import MediaStage
from mmldm.training.randomness import StepRandom
from mmldm.types import ClipSpec

VALIDATED_CLIPS = 16


class VocoderTurn(nn.Module):
    """Spectral distance and mel error of what the vocoder makes of the clips' own audio images."""

    def __init__(self, vocoder: FourierVocoder, spec: ClipSpec, weights: VocoderLoss) -> None:
        super().__init__()
        self.vocoder, self.weights = vocoder, weights
        self.audio_image = AudioImage(spec)

    def forward(self, batch: dict[str, Tensor], random: StepRandom) -> dict[str, Tensor]:
        waveform, weights = batch["waveform"], self.weights
        with torch.no_grad():
            image = self.audio_image.image(waveform)
            decibels = vocoder_input(image, self.audio_image, self.vocoder.spectrogram)
            if weights.mel_noise:
                noise = weights.mel_noise * random.normal(decibels.shape)
                spec = self.vocoder.spectrogram
                decibels = (decibels + noise).clamp(spec.db_min, spec.db_max)
        made = vocode(decibels, self.vocoder, waveform.shape[1])
        distance = spectral_distance(made, waveform)
        terms = {
            "convergence": distance.convergence.mean(),
            "log_magnitude": distance.log_magnitude.mean(),
            "mel": mel_error(made, waveform, self.audio_image).mean(),
        }
        loss = sum(getattr(weights, name) * term for name, term in terms.items())
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}


class VocoderStage(MediaStage):
    """Trains our own vocoder on the clips' sound. See `training.stage.Stage` for the contract."""

    name = "vocoder"
    sound_only = True

    def __init__(
        self,
        config: RunConfig,
        job: VocoderConfig,
        train_config: TrainConfig,
        manifest: Manifest,
        device: torch.device,
    ) -> None:
        self.vocoder = build_vocoder(job, config.clip, config.seed)
        turn = VocoderTurn(self.vocoder, config.clip, job.loss)
        super().__init__(
            config, job, train_config, manifest, device, turn=turn, network=self.vocoder
        )

    @torch.no_grad()
    def _revoice(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Frames of held-out clips, their sound, and the vocoder's of the same audio images."""
        windows = self.held_out(count)
        waveform = windows["waveform"].to(self.device)
        made = sound(self.audio_image.image(waveform), self.audio_image, self.vocoder)
        return windows["frames"], waveform, made

    def validate(self, random: StepRandom) -> dict[str, float]:
        """Distances of held-out clips; `mel` in dB."""
        _, waveform, made = self._revoice(VALIDATED_CLIPS)
        distance = spectral_distance(made, waveform)
        return {
            "convergence": float(distance.convergence.mean()),
            "log_magnitude": float(distance.log_magnitude.mean()),
            "mel": float(mel_error(made, waveform, self.audio_image).mean()),
        }

    def preview(self, folder: Path, step: int) -> None:
        frames, waveform, made = self._revoice(2)
        griffin_lim = self.audio_image.waveform(self.audio_image.image(waveform))
        clips, titles = [], []
        for i in range(len(frames)):
            sounds = {"real": waveform, "vocoder": made, "Griffin-Lim": griffin_lim}
            for title, waveforms in sounds.items():
                sounding = waveforms[i].cpu()
                clips.append(Clip(frames[i], sounding, self.spec.fps, self.spec.sample_rate))
                titles.append(f"{title} {i}")
        save_clips(clips, folder, f"sound_{step:07d}", titles)

    def export(self, folder: Path) -> None:
        self.vocoder.save_pretrained(folder)


def build_vocoder(job: VocoderConfig, clip: ClipSpec, seed: int) -> Vocoder:
    """The vocoder a recipe asks for: a pretrained one, or our own, untrained.

    Raises:
        UserError: It cannot be loaded, does not suit such clips, or a key of `vocoder.model` is wrong.
    """
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
