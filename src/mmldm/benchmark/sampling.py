"""Sampling and its parts as calls: noise to mp4 files, or one part on what the part before made.

pipeline, clips a call -> {"end to end": call, "generator": call, ...}.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmldm.benchmark.timing import Call
from mmldm.config import RunConfig
from mmldm.media.clip import Clip, images_to_frames
from mmldm.media.sheet import contact_sheet, save_png
from mmldm.media.spectrogram import AudioImage
from mmldm.models.generator import JointGenerator
from mmldm.models.image_codec import ImageCodec
from mmldm.pipelines.decoding import decode_to_image_latents, decoder_denoiser
from mmldm.pipelines.guidance import generator_denoiser
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.pipelines.vocoding import sound
from mmldm.training.assembly import assemble
from mmldm.training.flops import count_without_running
from mmldm.training.jobs.generator import generator_arguments
from mmldm.training.jobs.vae import build_vae
from mmldm.training.jobs.vocoder import build_vocoder
from mmldm.training.summary import Summary, untrained_autoencoder, used_vae
from mmldm.types import AV, MODALITIES, NOTHING_KNOWN

CLASSES = tuple("123456789")
"""Of an untrained system: as many as Landscape has; no time depends on their number."""
TOTAL = "end to end"
"""Noise to mp4 files; the contact sheet stands alone."""
SHEET = "contact sheet"


def untrained_pipeline(config: RunConfig, summary: Summary) -> SoundingVideoPipeline:
    """A recipe's system with random weights, vocoder included; needs no published weights.

    Args:
        summary: Of the recipe.
    """
    # Each part as its job would make it, from the shapes of the recipe's summary.
    vae: Any = used_vae(config, build_vae(config, weights=False))
    shapes = summary.spaces["image latents"].map(lambda shape: shape[1:])
    autoencoder = untrained_autoencoder(config, shapes, len(CLASSES))
    generator = JointGenerator(
        **generator_arguments(config, summary.spaces["latents"], None, len(CLASSES))
    )
    pipeline = assemble(config, vae, autoencoder, generator, CLASSES)
    if config.vocoder is not None:
        pipeline.register_modules(vocoder=build_vocoder(config.vocoder, config.clip, config.seed))
    for part in (vae, autoencoder, generator):
        part.eval()
    return pipeline


class Sampling:
    """Joint sampling of `clips` clips at once, whole and in parts.

    Args:
        pipeline: On its device.
        clips: Per call.
        options: Of the pipeline's call: steps, sampler, guidance.
        folder: Where mp4 files go.
    """

    def __init__(
        self,
        pipeline: SoundingVideoPipeline,
        clips: int,
        options: Mapping[str, Any],
        folder: Path,
    ) -> None:
        self.pipeline, self.count, self.options, self.folder = pipeline, clips, options, folder
        self.settings = pipeline.settings(**options)
        self.device = pipeline.device
        statistics = pipeline.autoencoder.image_statistics
        self.codec = ImageCodec(pipeline.vae, statistics).to(self.device)
        self.audio_image = AudioImage(pipeline.clip_spec).to(self.device)
        # What each part reads is what the part before it made.
        self.latents: AV[Tensor] = self._latents().map(lambda z: z.to(self.device))
        self.image_latents = self._image_latents()
        self.images = self._images()
        self.clips = self._finished()

    def calls(self) -> dict[str, Call]:
        """The whole, then the parts in order."""
        return {
            TOTAL: lambda: self._write(self._sample("clip").clips),
            "generator": self._latents,
            "signal decoder": self._image_latents,
            "image decoder": self._images,
            self._sounds_by: self._waveforms,
            "mp4 files": lambda: self._write(self.clips),
            SHEET: self._sheet,
        }

    @torch.no_grad()
    def flops(self) -> dict[str, int]:
        """Of the whole and of its parts, by the names of `calls`; of files and sheet nothing.

        Counted on one clip without numbers: one call of each network, times the calls that there are.
        """
        pipeline, chosen, spec = self.pipeline, self.settings, self.pipeline.clip_spec
        network: Any = pipeline.student if chosen.student else pipeline.generator
        scale = AV(chosen.guidance_scale, chosen.guidance_scale)
        labels = pipeline.drawn_classes([0])
        labels = None if labels is None else labels.to(self.device)

        def empty(shapes: AV[tuple[int, ...]]) -> AV[Tensor]:
            """Of one clip, AV((1,...))."""
            return shapes.map(lambda shape: torch.zeros(1, *shape, device=self.device))

        def one_step() -> None:
            noise = empty(network.latent_shapes)
            denoise = generator_denoiser(network, noise, NOTHING_KNOWN, labels, scale)
            denoise(noise, torch.zeros((), dtype=torch.long))

        autoencoder = pipeline.autoencoder
        audio, video = autoencoder.image_latent_shapes
        image_latents = AV((1, *audio), (spec.num_frames, *video))

        def conditions() -> Any:
            z = empty(autoencoder.latent_shapes).map(lambda z: z.to(autoencoder.dtype))
            return autoencoder.condition(z, torch.arange(spec.num_frames, device=self.device)[None])

        def conditions_and_step() -> None:
            denoise = decoder_denoiser(autoencoder, conditions())
            denoise(empty(image_latents), torch.zeros((), dtype=torch.long))

        def images() -> None:
            empty(image_latents).map(self.codec.decode, MODALITIES)

        def waveforms() -> None:
            image = torch.zeros_like(self.images.audio[:1])
            sound(image, self.audio_image, pipeline.vocoder, chosen.phase_iterations)

        once = count_without_running(conditions)
        decoding = count_without_running(conditions_and_step) - once
        parts = {
            "generator": chosen.num_inference_steps * count_without_running(one_step),
            "signal decoder": once + chosen.decoder_steps * decoding,
            "image decoder": count_without_running(images),
            self._sounds_by: count_without_running(waveforms),
        }
        return {TOTAL: sum(parts.values()), **parts}

    @property
    def _sounds_by(self) -> str:
        return "Griffin-Lim" if self.pipeline.vocoder is None else "vocoder"

    def _sample(self, output_type: str) -> Any:
        return self.pipeline(
            num_samples=self.count,
            seed=0,
            batch_size=self.count,
            output_type=output_type,
            **self.options,
        )

    def _latents(self) -> AV[Tensor]:
        """Latents AV((B,C,T',H',W')) from noise."""
        return self._sample("latent").latents

    def _image_latents(self) -> AV[Tensor]:
        """Image latents AV((B,1,c,h,w), (B,T,c,h,w)) of the latents."""
        return decode_to_image_latents(
            self.pipeline.autoencoder,
            self.pipeline.decoder_scheduler,
            self.latents,
            num_frames=self.pipeline.clip_spec.num_frames,
            steps=self.settings.decoder_steps,
            generators=[torch.Generator().manual_seed(i) for i in range(self.count)],
        )

    @torch.no_grad()
    def _images(self) -> AV[Tensor]:
        """Images AV((B,1,3,H,W), (B,T,3,H,W)) in [-1,1] of the image latents."""
        return self.image_latents.map(self.codec.decode, MODALITIES)

    @torch.no_grad()
    def _waveforms(self) -> Tensor:
        """Waveforms (B,S) of the audio images."""
        iterations = self.settings.phase_iterations
        return sound(self.images.audio, self.audio_image, self.pipeline.vocoder, iterations)

    def _finished(self) -> list[Clip]:
        spec = self.pipeline.clip_spec
        pairs = zip(images_to_frames(self.images.video).cpu(), self._waveforms().cpu(), strict=True)
        return [Clip(frames, waveform, spec.fps, spec.sample_rate) for frames, waveform in pairs]

    def _write(self, clips: list[Clip]) -> None:
        for i, clip in enumerate(clips):
            clip.save(self.folder / f"{i}.mp4")

    def _sheet(self) -> None:
        titles = [str(i) for i in range(len(self.clips))]
        save_png(self.folder / "sheet.png", contact_sheet(self.clips, titles))
