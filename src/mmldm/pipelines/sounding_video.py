"""The pipeline (MM-LDM §3.2-3.3): joint generation, audio-to-video, video-to-audio from one set of weights.

noise, and a given modality or class -> latents AV((B,C,T',H',W')) -> image latents -> clips. Model folders
name the path of this module. Its other calls are in `pipelines.calls`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from mmldm.errors import UserError
from mmldm.media.clip import Clip
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.generator import JointGenerator
from mmldm.models.image_vae import ImageVAE
from mmldm.models.pretrained_vocoder import Vocoder
from mmldm.pipelines.calls import Calls, SoundingVideoOutput, StepCallback
from mmldm.pipelines.decoding import CLIPS_PER_CALL
from mmldm.pipelines.loading import OPTIONAL, OWN_SETTINGS, check_parts
from mmldm.pipelines.outliers import OutlierDetector, Reference
from mmldm.pipelines.request import Media
from mmldm.pipelines.rollout import Manner
from mmldm.pipelines.seeds import Labels, Seeds, check_shares
from mmldm.pipelines.settings import Qualities, check_students
from mmldm.pipelines.tasks import whole_task
from mmldm.pipelines.vocoding import check_vocoder
from mmldm.strict import parse
from mmldm.types import AV, ClipSpec

__all__ = ["SoundingVideoOutput", "SoundingVideoPipeline"]

Generated = tuple[list[Clip], AV[Tensor]]
"""The same without names, for `return_dict=False`."""


class SoundingVideoPipeline(Calls):
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
        known_slots: Whether generator and student have learnt to go on from known slots, so that longer clips
            can be made window after window.
        class_shares: Of each class among the training clips. A clip that is made from nothing, and asked for
            without a class, has one by its seed, in these shares; None: the generator chooses.
        outliers: What clips of the model's world measure, as JSON (`pipelines.outliers.Reference`), so that
            others are noticed; None: not calibrated.
    """

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
        known_slots: bool = False,
        outliers: dict[str, Any] | None = None,
        class_shares: list[float] | None = None,
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
            known_slots=known_slots,
            outliers=outliers,
            class_shares=class_shares,
        )

        # Parts that do not belong together are refused here, not in the middle of a call.
        own = {name: self.config[name] for name in OWN_SETTINGS}
        self.qualities = Qualities(own, quality_rows or {}, default_quality)
        check_parts(self.components, self.class_names, self.clip_spec)
        if vocoder is not None:
            check_vocoder(vocoder, self.clip_spec)
        check_students(self.qualities, student, student_scheduler)
        check_shares(class_shares, self.class_names, "class_shares")
        self.outlier_reference = None
        if outliers is not None:
            self.outlier_reference = parse(Reference, dict(outliers), "outliers")
            self.outlier_reference.check(autoencoder.latent_shapes.map(lambda shape: shape[0]))

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
        seconds: float | None = None,
        windows: Manner | None = None,
    ) -> SoundingVideoOutput | Generated:
        """Generates clips of any length: jointly, video for given audio, or audio for given frames.

        A given modality is in the clips as it was given, not as the autoencoder would reconstruct
        it. A clip depends on its own seed only, whatever the batch size. A clip that is longer than
        the model's window is made in windows that overlap; a shorter one is cut out of a window.

        Args:
            num_samples: Clips to generate; default 4, or one per clip of a given batch, also of one.
            audio: Waveform (S,) in [-1,1], as long as the clips are to be, for all clips, or (B,S) or a
                list, one per clip: tensors or numpy arrays, mono. (2,S) may be stereo, so it is taken for
                two clips only with num_samples=2, or as a list.
            frames: uint8 (T,3,H,W) for all clips, or (B,T,3,H,W) or a list, one per clip.
            class_labels: Name or index for all clips, or one per clip. Default: where nothing is given, by
                the seed of each clip, in the shares of the training clips (`class_shares`); else none.
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
            callback_on_step_end: Called after each generator step of each window as
                callback(pipeline, step, timestep, {"latents": AV}); "latents" in its result replaces
                the noisy latents.
            seconds: Length of the clips; default: of what is given, which is cut to it otherwise, or of a
                window.
            windows: How windows of a longer clip are sampled: "sequential", one after another, or
                "parallel", all together. Default: sequential for a model that has learnt known slots,
                (`known_slots` in its index), which continues what it is shown; else parallel.

        Raises:
            UserError: What is asked for does not fit the model or itself.
        """
        if output_type not in ("clip", "latent"):
            raise UserError(f"output_type must be 'clip' or 'latent', not {output_type!r}")
        options = {
            "num_samples": num_samples, "audio": audio, "frames": frames, "seconds": seconds,
            "class_labels": class_labels, "quality": quality, "guidance_scale": guidance_scale,
            "num_inference_steps": num_inference_steps, "decoder_steps": decoder_steps,
            "scheduler": scheduler, "generator": generator, "seed": seed, "batch_size": batch_size,
            "images_per_call": images_per_call, "windows": windows,
            "callback_on_step_end": callback_on_step_end,
        }  # fmt: skip
        asked, maker, callback = self._asked(options, draws_class=True)
        task = whole_task(asked, maker.coder)
        output = self._made(task, maker, asked, callback, decode=output_type == "clip")
        output.outlier_distances = self.outlier_distances(task.given, task.known)
        return output if return_dict else (output.clips, output.latents)

    def outlier_detector(self) -> OutlierDetector:
        """What measures media with this model's networks."""
        return OutlierDetector(self._coder(), self.config.decoder_steps)

    def outlier_distances(
        self,
        media: AV[Tensor | None],
        latents: AV[Tensor | None] = AV(None, None),  # noqa: B008 (a NamedTuple is immutable)
    ) -> AV[Tensor | None]:
        """How far media AV((B,S), (B,T,3,H,W) u8) are from the model's world, window by window, AV((B,W)).

        Args:
            latents: Of the media, AV((B,C,T',H',W')), where they are known.

        Returns:
            Distances: above 1 is an outlier (`pipelines.outliers`). None where no media are, and for a model
            that was not calibrated.
        """
        if self.outlier_reference is None:
            return AV(None, None)
        distances = self.outlier_detector().distances(media, latents, self.outlier_reference)
        self.maybe_free_model_hooks()
        return distances
