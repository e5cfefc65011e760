"""The `vocoder` job: from the mel spectrogram that an audio image holds back to its sound.

waveform (B,S) -> audio image -> log-mel (B,M,L) -> waveform (B,S) -> spectral losses. What it reads has
passed through the audio image, as when sampling: the same decibel range, size and silence.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mmldm.config import RunConfig
from mmldm.data.manifest import Manifest
from mmldm.evaluation.reconstruction import mel_error, spectral_distance
from mmldm.media.spectrogram import AudioImage
from mmldm.models.pretrained_vocoder import Vocoder, load_vocoder
from mmldm.models.vocoder import FourierVocoder
from mmldm.pipelines.vocoding import check_vocoder, sound, vocode, vocoder_input
from mmldm.sections import VocoderConfig, VocoderLoss
from mmldm.strict import bind
from mmldm.training.randomness import StepRandom
from mmldm.training.stage import MediaStage, show_versions
from mmldm.types import AV, ClipSpec, WindowBatch

VALIDATED_CLIPS = 16


class VocoderTurn(nn.Module):
    """Spectral distance and mel error of what the vocoder makes of the clips' own audio images."""

    def __init__(self, vocoder: FourierVocoder, spec: ClipSpec, weights: VocoderLoss) -> None:
        super().__init__()
        self.vocoder, self.weights = vocoder, weights
        self.audio_image = AudioImage(spec)

    def forward(self, batch: WindowBatch, random: StepRandom) -> dict[str, Tensor]:
        """Windows of B clips, of which only the waveforms (B,S) are used -> "loss" and its terms, each ()."""
        waveforms, weights = batch.waveforms, self.weights
        with torch.no_grad():
            # What the vocoder reads: log-mel levels (B,M,L) in dB, as an audio image has kept them.
            image = self.audio_image.image(waveforms)
            decibels = vocoder_input(image, self.audio_image, self.vocoder.spectrogram)
            if weights.mel_noise:
                noise = weights.mel_noise * random.normal(decibels.shape)
                spec = self.vocoder.spectrogram
                decibels = (decibels + noise).clamp(spec.db_min, spec.db_max)
        # What it makes of them, and how far that is from the clips' sound.
        made = vocode(decibels, self.vocoder, waveforms.shape[1])
        terms = {
            name: x.mean() for name, x in _distances(made, waveforms, self.audio_image).items()
        }
        loss = sum(getattr(weights, name) * term for name, term in terms.items())
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
    """Trains our own vocoder on the clips' sound. See `training.stage.Stage` for the contract."""

    name = "vocoder"
    sound_only = True

    def __init__(self, config: RunConfig, manifest: Manifest, device: torch.device) -> None:
        job = config.vocoder
        assert job is not None, "the caller asks for jobs of the recipe only"
        self.vocoder = build_vocoder(job, config.clip, config.seed)
        turn = VocoderTurn(self.vocoder, config.clip, job.loss)
        super().__init__(config, job, manifest, device, turn=turn, network=self.vocoder)

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
