"""The pipeline: joint generation, audio-to-video and video-to-audio from one set of weights.

noise, and a given modality or class -> latents AV((B,C,T',H',W')) -> image latents -> clips.
MM-LDM §3.2-3.3. The module path of this file and of its components is stored in model folders.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from torch import Tensor, nn

from mmldm.diffusion.sampling import initial_noise, sample
from mmldm.diffusion.schedules import make_scheduler, schedule_of
from mmldm.errors import UserError
from mmldm.media.clip import Clip
from mmldm.media.images import images_to_frames
from mmldm.media.spectrogram import AudioImage
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.generator import JointGenerator
from mmldm.models.image_codec import IMAGES_PER_CALL, ImageCodec
from mmldm.models.pretrained_vocoder import Vocoder
from mmldm.pipelines.decoding import clips_of, decode_latents
from mmldm.pipelines.denoising import generator_denoiser
from mmldm.pipelines.encoding import encode_media
from mmldm.pipelines.loading import check_model_folder, check_parts, check_tensors
from mmldm.pipelines.quality import Qualities, Settings, check_students
from mmldm.pipelines.request import Labels, class_indices, clip_count, clip_seeds, given_media
from mmldm.pipelines.vocoding import check_vocoder, sound
from mmldm.types import AV, ClipSpec

COMPONENTS = (
    "vae", "autoencoder", "generator", "scheduler", "decoder_scheduler", "vocoder",
    "student", "student_scheduler",
)  # fmt: skip
OWN_SETTINGS = ("num_inference_steps", "decoder_steps", "guidance_scale")
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
StepCallback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]


@dataclass
class SoundingVideoOutput(BaseOutput):
    """What the pipeline returns.

    Attributes:
        clips: One per sample; empty for `output_type="latent"`.
        latents: AV((B,C,T',H',W')) on the CPU, as the autoencoder encodes them (not normalised).
    """

    clips: list[Clip]
    latents: AV[Tensor]


class SoundingVideoPipeline(DiffusionPipeline):
    """Generates sounding video clips.

    Load one with `SoundingVideoPipeline.from_pretrained(folder)` (not `DiffusionPipeline`, which
    does not know this class), move it with `.to(device)`, silence it with
    `.set_progress_bar_config(disable=True)`.

    Args:
        vae: Image VAE.
        autoencoder: Encodes image latents to latents, and decodes them by diffusion.
        generator: Models the latents of both modalities.
        scheduler: Sampler of the generator.
        decoder_scheduler: Sampler of the autoencoder's signal decoder.
        vocoder: Turns mel spectrograms into sound; None: Griffin-Lim.
        student: The generator distilled to a few steps without guidance, for the rows that ask for it.
        student_scheduler: Its sampler.
        clip_spec: `ClipSpec` of the training clips, as JSON.
        class_names: Names of the generator's classes, in order.
        num_inference_steps: The model's own number of generator steps.
        decoder_steps: Its own number of decoder steps.
        guidance_scale: Its own scale of guidance by a given modality or class.
        default_quality: The row of `pipelines.quality` that is used unless another is asked for;
            "best" is the model's own settings.
        quality_rows: Rows measured on this model, as JSON, over those of `pipelines.quality`.
    """

    vae: nn.Module
    autoencoder: MultiModalAutoencoder
    generator: JointGenerator
    scheduler: SchedulerMixin
    decoder_scheduler: SchedulerMixin
    vocoder: Vocoder | None
    student: JointGenerator | None
    student_scheduler: SchedulerMixin | None
    _optional_components = ["vocoder", "student", "student_scheduler"]

    def __init__(
        self,
        vae: nn.Module,
        autoencoder: MultiModalAutoencoder,
        generator: JointGenerator,
        scheduler: SchedulerMixin,
        decoder_scheduler: SchedulerMixin,
        vocoder: Vocoder | None = None,
        student: JointGenerator | None = None,
        student_scheduler: SchedulerMixin | None = None,
        clip_spec: dict[str, Any] | None = None,
        class_names: list[str] | None = None,
        num_inference_steps: int = 50,
        decoder_steps: int = 1,
        guidance_scale: float = 1.0,
        default_quality: str = "best",
        quality_rows: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            autoencoder=autoencoder,
            generator=generator,
            scheduler=scheduler,
            decoder_scheduler=decoder_scheduler,
            vocoder=vocoder,
            student=student,
            student_scheduler=student_scheduler,
        )
        self.clip_spec = ClipSpec.model_validate(dict(clip_spec or {}))
        self.class_names = tuple(class_names or ())
        self.register_to_config(
            clip_spec=self.clip_spec.model_dump(mode="json"),
            class_names=list(self.class_names),
            num_inference_steps=num_inference_steps,
            decoder_steps=decoder_steps,
            guidance_scale=guidance_scale,
            default_quality=default_quality,
            quality_rows=quality_rows,
        )
        own = {name: self.config[name] for name in OWN_SETTINGS}
        self.qualities = Qualities(own, quality_rows or {}, default_quality)
        check_parts(self.components, self.class_names)
        if vocoder is not None:
            check_vocoder(vocoder, self.clip_spec)
        check_students(self.qualities, student, student_scheduler)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> SoundingVideoPipeline:
        """Loads a model folder, or `owner/name` of the hub, in diffusers' conventions.

        Args:
            kwargs: Of `DiffusionPipeline.from_pretrained`, for example `torch_dtype`.

        Raises:
            UserError: The folder is not a whole model; the message names what is missing.
        """
        name = str(pretrained_model_name_or_path)
        if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
            raise UserError(f"{name}: no such model folder")
        hub_options = {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs}
        try:
            folder = name
            if not Path(name).exists():
                folder = str(cls.download(name, use_safetensors=True, **hub_options))
            components = [name for name in COMPONENTS if name not in kwargs]
            stored = check_model_folder(Path(folder), components, cls._optional_components)
            pipeline = super().from_pretrained(folder, use_safetensors=True, **kwargs)
        except (OSError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise UserError(f"{name}: the model cannot be loaded: {error}") from error
        for component, tensors in stored.items():
            check_tensors(folder, component, tensors, pipeline.components[component])
        return pipeline

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Writes the model folder, in diffusers' layout.

        diffusers records where each part was loaded from; a folder that is given away should not
        tell its maker's paths.
        """
        for part in (self, *self.components.values()):
            if part is not None and "_name_or_path" in part.config:
                part.register_to_config(_name_or_path="")
        super().save_pretrained(save_directory, **kwargs)

    @torch.no_grad()
    def __call__(
        self,
        num_samples: int | None = None,
        audio: Tensor | None = None,
        frames: Tensor | None = None,
        class_labels: Labels | None = None,
        quality: str | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        decoder_steps: int | None = None,
        scheduler: str | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | Sequence[int] | None = None,
        batch_size: int = 8,
        images_per_call: int | None = None,
        output_type: str = "clip",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
    ) -> SoundingVideoOutput | tuple[list[Clip], AV[Tensor]]:
        """Generates clips: jointly, video for given audio, or audio for given frames.

        A given modality is in the clips as it was given, not as the autoencoder would reconstruct
        it. A clip depends on its own seed only, whatever the batch size.

        Args:
            num_samples: Clips to generate; default 4, or one per clip of a given batch.
            audio: Waveform (S,) for all clips, or (B,S), one per clip.
            frames: uint8 (T,3,H,W) for all clips, or (B,T,3,H,W), one per clip.
            class_labels: Name or index for all clips, or one per clip.
            quality: "best", "balanced", "fast" or another row of the model's; default: the model's
                choice. The four arguments below change single settings of it; where the choice is a
                row of a student, which has its own steps and guidance, they change "best".
            guidance_scale: phi of Eq. 8 for what is given, for the class, and in joint generation
                for each modality by the other; 1 is no guidance and costs a half or a third. A
                generator with `null_stream="renoised"` has nothing to guide joint generation by.
            num_inference_steps: Generator steps.
            decoder_steps: Signal decoder steps.
            scheduler: Name of another sampler of the generator (see `diffusion.schedules`).
            generator: One for all clips, or one per clip, in diffusers' convention.
            seed: Alternative to `generator`: clip i is made from seed + i, or from seed[i].
            batch_size: Clips in memory at once.
            images_per_call: Images that signal decoder and image VAE see at once; bounds memory,
                changes no number. Default: all, and the image VAE's own number.
            output_type: "clip", or "latent" to skip decoding.
            return_dict: False: returns the tuple (clips, latents).
            callback_on_step_end: Called after each generator step as callback(pipeline, step,
                timestep, {"latents": AV}); "latents" in its result replaces the noisy latents.

        Raises:
            UserError: What is asked for does not fit the model or itself.
        """
        if output_type not in ("clip", "latent"):
            raise UserError(f"output_type must be 'clip' or 'latent', not {output_type!r}")
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {batch_size}")
        media, num_given = given_media(audio, frames, self.clip_spec)
        count = clip_count(num_samples, num_given)
        labels = class_indices(class_labels, self.class_names, count)
        seeds = clip_seeds(count, seed, generator)
        chosen = self.settings(
            quality,
            scheduler=scheduler,
            num_inference_steps=num_inference_steps,
            decoder_steps=decoder_steps,
            guidance_scale=guidance_scale,
        )
        model, sampler = self._sampled_with(chosen)
        steps, scale = chosen.num_inference_steps, chosen.guidance_scale

        device = self._execution_device
        clips: list[Clip] = []
        latents: list[AV[Tensor]] = []
        batches = -(-count // batch_size)
        with self.progress_bar(total=batches * steps) as bar:

            def after_step(step: int, t: Tensor, x: AV[Tensor]) -> AV[Tensor] | None:
                bar.update()
                if callback_on_step_end is None:
                    return None
                return (callback_on_step_end(self, step, t, {"latents": x}) or {}).get("latents")

            for start in range(0, count, batch_size):
                rows = slice(start, min(start + batch_size, count))
                generators = [torch.Generator().manual_seed(s) for s in seeds[rows]]
                own_media = media.map(lambda m, r=rows: m[r] if m is not None and len(m) > 1 else m)
                own_labels = None if labels is None else labels[rows].to(device)
                given = model.normalise(self._encode(own_media, device)).map(
                    lambda z, g=generators: None if z is None else z.expand(len(g), *z.shape[1:])
                )
                noise = initial_noise(model.latent_shapes, generators, device)
                denoise = generator_denoiser(model, noise, given, own_labels, AV(scale, scale))
                normal = sample(denoise, noise, sampler, steps, given, generators, after_step)
                batch = model.denormalise(normal)
                latents.append(batch.map(Tensor.cpu))
                if output_type == "clip":
                    clips += self._decode(
                        batch, own_media, own_labels, generators, chosen, images_per_call, device
                    )
        together = AV(*(torch.cat(parts) for parts in zip(*latents, strict=True)))
        if not return_dict:
            return clips, together
        return SoundingVideoOutput(clips=clips, latents=together)

    def settings(self, quality: str | None = None, **asked: Any) -> Settings:
        """What a call with these arguments samples with.

        Args:
            quality: Name of a row; None: the model's default.
            asked: Fields of `Settings`; None: not asked for.

        Raises:
            UserError: There is no such row, or its student cannot do what is asked for.
        """
        return self.qualities.settings(quality, **asked)

    def encode(self, media: AV[Tensor | None]) -> AV[Tensor | None]:
        """Waveforms (B,S) and frames uint8 (B,T,3,H,W) -> latents AV((B,C,T',H',W')).

        The latents are the mode of the posterior, not normalised. None stays None.
        """
        return self._encode(media, self._execution_device)

    def decode(
        self,
        latents: AV[Tensor],
        media: AV[Tensor | None] = AV(None, None),  # noqa: B008 (a NamedTuple is immutable)
        class_labels: Tensor | None = None,
        generators: Sequence[torch.Generator] | None = None,
        decoder_steps: int | None = None,
        quality: str | None = None,
        images_per_call: int | None = None,
    ) -> list[Clip]:
        """Latents -> clips, by the signal decoder, the image VAE and the vocoder or Griffin-Lim.

        Args:
            latents: AV((B,C,T',H',W')), not normalised.
            media: Known media, of one clip or of all B: taken as they are, not decoded.
            class_labels: (B,); None: the autoencoder predicts the class from the latents.
            generators: One CPU generator per clip for the decoder's noise; None: clip i has seed i.
            decoder_steps: Signal decoder steps.
            quality: As in the call.
            images_per_call: As in the call.
        """
        if generators is None:
            generators = [torch.Generator().manual_seed(i) for i in range(len(latents.audio))]
        chosen = self.settings(quality, decoder_steps=decoder_steps)
        device = self._execution_device
        return self._decode(
            latents, media, class_labels, generators, chosen, images_per_call, device
        )

    def _encode(self, media: AV[Tensor | None], device: torch.device) -> AV[Tensor | None]:
        if media.audio is None and media.video is None:
            return media
        media = media.map(lambda m: None if m is None else m.to(device))
        parts = self.autoencoder, self._codec(device), AudioImage(self.clip_spec).to(device)
        return encode_media(*parts, media)

    def _decode(
        self,
        latents: AV[Tensor],
        media: AV[Tensor | None],
        class_labels: Tensor | None,
        generators: Sequence[torch.Generator],
        chosen: Settings,
        images_per_call: int | None,
        device: torch.device,
    ) -> list[Clip]:
        spec = self.clip_spec
        waveforms, frames = media
        images = decode_latents(
            self.autoencoder,
            self._codec(device, images_per_call),
            self.decoder_scheduler,
            latents.map(lambda z: z.to(device)),
            # Known frames need no decoding; the signal decoder asks for one at least.
            num_frames=spec.num_frames if frames is None else 1,
            steps=chosen.decoder_steps,
            generators=generators,
            class_labels=class_labels,
            images_per_call=images_per_call,
        )
        if waveforms is None:
            audio_image = AudioImage(spec).to(device)
            waveforms = sound(
                images.audio, audio_image, self.vocoder, chosen.phase_iterations
            ).cpu()
        if frames is None:
            frames = images_to_frames(images.video).cpu()
        return clips_of(waveforms, frames, len(latents.audio), spec)

    def reconstruct(self, clip: Clip, decoder_steps: int | None = None, seed: int = 0) -> Clip:
        """What the autoencoder keeps of a clip: encoded to the posterior's mode and decoded.

        Raises:
            UserError: The clip is not of the model's `clip_spec`.
        """
        audio, _ = given_media(clip.waveform, None, self.clip_spec)
        video, _ = given_media(None, clip.frames, self.clip_spec)
        latents: AV[Any] = self.encode(AV(audio.audio, video.video))
        generators = [torch.Generator().manual_seed(seed)]
        return self.decode(latents, generators=generators, decoder_steps=decoder_steps)[0]

    def _sampled_with(self, chosen: Settings) -> tuple[JointGenerator, SchedulerMixin]:
        if chosen.student:
            assert self.student is not None and self.student_scheduler is not None
            return self.student, self.student_scheduler
        if chosen.scheduler is None:
            return self.generator, self.scheduler
        return self.generator, make_scheduler(schedule_of(self.scheduler), chosen.scheduler)

    def _codec(self, device: torch.device, images_per_call: int | None = None) -> ImageCodec:
        size = images_per_call or IMAGES_PER_CALL
        return ImageCodec(self.vae, self.autoencoder.image_statistics, size).to(device)
