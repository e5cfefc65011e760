"""The pipeline (MM-LDM §3.2-3.3): joint generation, audio-to-video, video-to-audio from one set of weights.

noise, and a given modality or class -> latents AV((B,C,T',H',W')) -> image latents -> clips. Model folders
name the path of this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from mmldm.diffusion.sampling import initial_noise, sample
from mmldm.diffusion.schedules import make_scheduler, schedule_of
from mmldm.errors import UserError
from mmldm.media.clip import Clip
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.generator import JointGenerator
from mmldm.models.image_vae import ImageVAE
from mmldm.models.pretrained_vocoder import Vocoder
from mmldm.pipelines.decoding import CLIPS_PER_CALL, ClipCoder, parts_of, rows_of
from mmldm.pipelines.guidance import generator_denoiser
from mmldm.pipelines.loading import OPTIONAL, OWN_SETTINGS, FolderPipeline, check_parts
from mmldm.pipelines.request import (
    Labels,
    Media,
    Seeds,
    asked_for,
    checked_images,
    clip_seeds,
    given_clip,
)
from mmldm.pipelines.settings import Qualities, Settings, check_students
from mmldm.pipelines.vocoding import check_vocoder
from mmldm.strict import parse
from mmldm.types import AV, ClipSpec, Known

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


Generated = tuple[list[Clip], AV[Tensor]]
"""The same without names, for `return_dict=False`."""


class SoundingVideoPipeline(FolderPipeline):
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
        default_quality: The row of `pipelines.settings` that is used unless another is asked for;
            "best" is the model's own settings.
        quality_rows: Rows measured on this model, as JSON, over those of `pipelines.settings`.
    """

    vae: ImageVAE
    autoencoder: MultiModalAutoencoder
    generator: JointGenerator
    scheduler: SchedulerMixin
    decoder_scheduler: SchedulerMixin
    vocoder: Vocoder | None
    student: JointGenerator | None
    student_scheduler: SchedulerMixin | None
    _optional_components = list(OPTIONAL)
    # Of the two generators a call uses one. Methods beside `forward` fetch their network, too.
    model_cpu_offload_seq = "student->generator->autoencoder->vae->vocoder"

    def __init__(
        self,
        vae: ImageVAE,
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
        self.clip_spec = parse(ClipSpec, dict(clip_spec or {}), "clip_spec")
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

        # Parts that do not belong together are refused here, not in the middle of a call.
        own = {name: self.config[name] for name in OWN_SETTINGS}
        self.qualities = Qualities(own, quality_rows or {}, default_quality)
        check_parts(self.components, self.class_names, self.clip_spec)
        if vocoder is not None:
            check_vocoder(vocoder, self.clip_spec)
        check_students(self.qualities, student, student_scheduler)

    # They tell a type checker what comes back, and nothing of the arguments.
    @overload
    def __call__(self, *values: Any, return_dict: Literal[False], **options: Any) -> Generated: ...
    @overload
    def __call__(self, *values: Any, **options: Any) -> SoundingVideoOutput: ...
    @torch.no_grad()  # type: ignore[misc]
    def __call__(
        self,
        num_samples: int | None = None,
        audio: Media | None = None,
        frames: Media | None = None,
        class_labels: Labels | None = None,
        quality: str | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        decoder_steps: int | None = None,
        scheduler: str | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: Seeds | None = None,
        batch_size: int = CLIPS_PER_CALL,
        images_per_call: int | None = None,
        output_type: str = "clip",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
    ) -> SoundingVideoOutput | Generated:
        """Generates clips: jointly, video for given audio, or audio for given frames.

        A given modality is in the clips as it was given, not as the autoencoder would reconstruct
        it. A clip depends on its own seed only, whatever the batch size.

        Args:
            num_samples: Clips to generate; default 4, or one per clip of a given batch, also of one.
            audio: Waveform (S,) in [-1,1] for all clips, or (B,S) or a list, one per clip: tensors or
                numpy arrays, mono. (2,S) may be stereo, so it is taken for two clips only with
                num_samples=2, or as a list.
            frames: uint8 (T,3,H,W) for all clips, or (B,T,3,H,W) or a list, one per clip.
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
            seed: Alternative to `generator`: clip i is made from seed + i, or from seed[i]. From 0 to
                2**64 - 1, Python's integers or numpy's.
            batch_size: Clips that the generator samples at once.
            images_per_call: Images that signal decoder and image VAE see at once; bounds memory,
                changes no number. Default: 34 and 17.
            output_type: "clip", or "latent" to skip decoding.
            return_dict: False: returns the tuple (clips, latents).
            callback_on_step_end: Called after each generator step as callback(pipeline, step,
                timestep, {"latents": AV}); "latents" in its result replaces the noisy latents.

        Raises:
            UserError: What is asked for does not fit the model or itself.
        """
        if output_type not in ("clip", "latent"):
            raise UserError(f"output_type must be 'clip' or 'latent', not {output_type!r}")
        asked = asked_for(
            self.clip_spec,
            self.class_names,
            num_samples=num_samples,
            audio=audio,
            frames=frames,
            class_labels=class_labels,
            seed=seed,
            generator=generator,
            batch_size=batch_size,
            images_per_call=images_per_call,
        )
        chosen = self.settings(
            quality,
            scheduler=scheduler,
            num_inference_steps=num_inference_steps,
            decoder_steps=decoder_steps,
            guidance_scale=guidance_scale,
        )

        model, sampler = self._sampled_with(chosen)
        coder, scale = self._coder(), AV(chosen.guidance_scale, chosen.guidance_scale)
        # A given clip that serves all samples is encoded once.
        shared = coder.encode(asked.media) if asked.one_for_all else None
        clips: list[Clip] = []
        latents: list[AV[Tensor]] = []
        batches = -(-asked.count // asked.batch_size)
        with self.progress_bar(total=batches * chosen.num_inference_steps) as bar:

            def after_step(step: int, t: Tensor, x: AV[Tensor]) -> AV[Tensor] | None:
                """t 0-d, x AV((B,C,T',H',W')) -> what the caller puts in its place, if anything."""
                bar.update()
                if callback_on_step_end is None:
                    return None
                return (callback_on_step_end(self, step, t, {"latents": x}) or {}).get("latents")

            for rows in parts_of(asked.count, asked.batch_size):
                generators = [torch.Generator().manual_seed(s) for s in asked.seeds[rows]]
                labels = asked.class_labels
                labels = None if labels is None else labels[rows].to(coder.device)

                # What is given, as clean normalised latents, one row per clip.
                media = rows_of(asked.media, rows)
                encoded = coder.encode(media) if shared is None else shared
                known = Known(model.normalise(encoded).map(partial(_expanded, len(generators))))

                # Eq. 6 over both modalities, each step's prediction guided by Eq. 8.
                noise = initial_noise(model.latent_shapes, generators, coder.device)
                denoise = generator_denoiser(model, noise, known, labels, scale)
                steps = chosen.num_inference_steps
                normal = sample(denoise, noise, sampler, steps, known, generators, after_step)

                # Latents to media; a given modality is not decoded.
                made = model.denormalise(normal)
                latents.append(made.map(Tensor.cpu))
                if output_type == "clip":
                    images = asked.images_per_call
                    clips += coder.decode(made, media, labels, generators, chosen, images)
        self.maybe_free_model_hooks()
        output = SoundingVideoOutput(clips=clips, latents=AV.zip(latents).map(torch.cat))
        return output if return_dict else output.to_tuple()

    def settings(self, quality: str | None = None, **asked: Any) -> Settings:
        """What a call with these arguments samples with.

        Args:
            quality: Name of a row; None: the model's default.
            asked: Fields of `Settings`; None: not asked for.

        Raises:
            UserError: There is no such row, or its student cannot do what is asked for.
        """
        return self.qualities.settings(quality, **asked)

    @overload
    def encode(self, media: AV[Tensor]) -> AV[Tensor]: ...
    @overload
    def encode(self, media: AV[Tensor | None]) -> AV[Tensor | None]: ...
    def encode(self, media: AV[Tensor | None]) -> AV[Tensor | None]:
        """Waveforms (B,S) and frames uint8 (B,T,3,H,W) -> latents AV((B,C,T',H',W')).

        The latents are the mode of the posterior, not normalised. None stays None.
        """
        latents = self._coder().encode(media)
        self.maybe_free_model_hooks()
        return latents

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
        images = checked_images(images_per_call)
        clips = self._coder().decode(latents, media, class_labels, generators, chosen, images)
        self.maybe_free_model_hooks()
        return clips

    def reconstruct(self, clip: Clip, decoder_steps: int | None = None, seed: int = 0) -> Clip:
        """What the autoencoder keeps of a clip: encoded to the posterior's mode and decoded.

        Raises:
            UserError: The clip is not of the model's `clip_spec`.
        """
        latents: AV[Any] = self.encode(given_clip(clip, self.clip_spec))
        generators = [torch.Generator().manual_seed(clip_seeds(1, seed, None)[0])]
        return self.decode(latents, generators=generators, decoder_steps=decoder_steps)[0]

    def _sampled_with(self, chosen: Settings) -> tuple[JointGenerator, SchedulerMixin]:
        if chosen.student:
            assert self.student is not None and self.student_scheduler is not None
            return self.student, self.student_scheduler
        if chosen.scheduler is None:
            return self.generator, self.scheduler
        return self.generator, make_scheduler(schedule_of(self.scheduler), chosen.scheduler)

    def _coder(self) -> ClipCoder:
        return ClipCoder(
            self.vae,
            self.autoencoder,
            self.decoder_scheduler,
            self.vocoder,
            self.clip_spec,
            self._execution_device,
        )


def _expanded(count: int, latents: Tensor | None) -> Tensor | None:
    """(1,C,T',H',W') or (count,C,T',H',W') -> (count,C,T',H',W'); None stays None."""
    return None if latents is None else latents.expand(count, *latents.shape[1:])
