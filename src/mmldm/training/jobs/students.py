"""The jobs of `mmldm distill`: a model's generator, or its signal decoder, learns to need fewer steps.

a batch of a cache -> noisy state at the start of a step -> the student's prediction -> squared error against
the clean estimate that leads where the teacher's steps do (`diffusion.distillation`; Salimans & Ho 2022).
A teacher that predicts epsilon has a student that predicts v. Which students there are, and in which order
they are trained, is `training.distil`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise
from operator import itemgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmldm.config import RunConfig
from mmldm.data.cache_writer import weights_key
from mmldm.data.clips import NO_CLASS
from mmldm.data.latents import Splits
from mmldm.diffusion.distillation import StepMatching
from mmldm.diffusion.schedules import NoiseProcess, make_scheduler, schedule_of
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.generator import JointGenerator
from mmldm.models.image_codec import ImageCodec
from mmldm.pipelines.decoding import decoder_denoiser
from mmldm.pipelines.guidance import generator_denoiser
from mmldm.pipelines.settings import UNCHANGED_STEPS
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.sections import AutoencoderConfig, DistillationConfig, GeneratorConfig
from mmldm.training.known_slots import SlotPatterns, shown, unknown_slots
from mmldm.training.losses import loss_and_errors
from mmldm.training.randomness import StepRandom
from mmldm.training.stage import PipelineStage
from mmldm.types import AV, MODALITIES, NOTHING_KNOWN, Known, Latents

DistilledPart = Literal["generator", "decoder"]
KNOWN = {
    "joint": AV(False, False),
    "audio_to_video": AV(True, False),
    "video_to_audio": AV(False, True),
}
"""Task of sampling -> which modality is given."""


class GeneratorStudentTurn(nn.Module):
    """A generator's step against its guided teacher's, over a fixed mix of the tasks of sampling.

    The student learns the guided prediction, at the scale its teacher samples with, and is sampled
    without guidance: one evaluation a step. Meng et al., "On distillation of guided diffusion models",
    2023.

    Args:
        student: Trained.
        teacher: Frozen, and not among what this turn saves.
        scale: Guidance of the teacher.
        config: Gives the shares of the tasks, which need not sum to 1, and of rows without a class, and
            which slots rows know of what they predict.
    """

    def __init__(
        self,
        student: JointGenerator,
        teacher: JointGenerator,
        matching: StepMatching,
        scale: float,
        config: GeneratorConfig,
    ) -> None:
        super().__init__()
        self.student, self.matching = student, matching
        self.frozen = (teacher,)  # a tuple, so that it is no submodule
        self.scale, self.class_dropout = scale, config.class_dropout
        # Where in the batch each task's rows end, as a share of all; and how many predict a modality.
        shares = [config.tasks.get(task, 0.0) for task in KNOWN]
        self.ends = [sum(shares[: i + 1]) / sum(shares) for i in range(len(shares))]
        self.predicted_share = AV(1 - (self.ends[1] - self.ends[0]), self.ends[1])
        # None: no row knows slots of what it predicts, and none is drawn.
        self.patterns = None
        if config.known_slots is not None:
            self.patterns = SlotPatterns(config.known_slots, student.latent_shapes)

    def forward(self, batch: Latents, random: StepRandom) -> dict[str, Tensor]:
        """Raw latents of B clips -> "loss" and its two terms, each ()."""
        parts = self._parts(random)
        slots = None
        if self.patterns is not None:
            given = self._given(parts, batch.class_labels)
            slots = self.patterns.draw(random, given.map(torch.logical_not))
        errors = self.errors(batch, parts, random, self.class_dropout, slots)
        # Divided by the expected share, not by this batch's count: a mean over rows stays a mean of means.
        loss = errors.map(lambda e, share: e.mean() / (share or 1.0), self.predicted_share)
        return loss_and_errors(loss.audio + loss.video, loss)

    def _parts(self, random: StepRandom) -> dict[str, slice]:
        """The local rows of each task: the whole batch has one after the other, so no draw decides it.

        The teacher then knows the rows of each call without asking the device.
        """
        # Borders between the tasks in the whole batch, then as this process and pass sees them.
        borders = [0, *(round(end * random.batch_size) for end in self.ends)]
        local = [min(max(b, random.rows.start), random.rows.stop) for b in borders]
        starts = [border - random.rows.start for border in local]
        return {
            task: slice(start, end)
            for task, (start, end) in zip(KNOWN, pairwise(starts), strict=True)
            if start < end
        }

    def _given(self, parts: Mapping[str, slice], like: Tensor) -> AV[Tensor]:
        """Which modalities the rows' tasks give, AV (B,) bool; `like` is (B,)."""
        given = AV(*torch.zeros(2, len(like), dtype=torch.bool, device=like.device))
        for task, part in parts.items():
            for rows, is_given in zip(given, KNOWN[task], strict=True):
                rows[part] = is_given
        return given

    def errors(
        self,
        batch: Latents,
        parts: Mapping[str, slice],
        random: StepRandom,
        class_dropout: float,
        slots: AV[Tensor] | None = None,
    ) -> AV[Tensor]:
        """Squared errors (B,) of each modality; zero where it is given or the clip is not whole.

        Args:
            parts: Task -> its rows; together all of them.
            class_dropout: Share of rows whose class is not told.
            slots: Flags AV (B,T') of what the rows know of the modalities that they predict, as from
                `SlotPatterns`; None: nothing.
        """
        matching, rows = self.matching, len(batch.class_labels)

        # Each clip's step, the noisy latents in which it starts (Eq. 5), and the class, which some forget.
        clean = self.student.normalise(batch.mean)
        noise = clean.map(lambda z: random.normal(z.shape))
        step = random.integers(0, matching.steps, (rows,))
        forget = random.bernoulli(class_dropout, (rows,))
        class_labels = None
        if self.student.null_class:
            class_labels = batch.class_labels.masked_fill(forget, NO_CLASS)
        # What the rows know: a modality as a whole, and known slots with the noise that their flags tell.
        given = self._given(parts, step)
        known, told = clean, given
        unknown: AV[Tensor | None] = AV(None, None)
        if slots is not None:
            known, told = shown(clean, given, slots, clean.map(lambda z: random.normal(z.shape)))
            unknown = slots.map(unknown_slots)
        state = matching.start(known, noise, step)

        # Where the guided teacher leads (Eq. 8): task by task, since a call of it has one set of whole
        # modalities, bound to the rows' conditions as in sampling.
        targets = []
        for task, part in parts.items():
            own_known, own_noise, own_state = (
                pair.map(itemgetter(part)) for pair in (known, noise, state)
            )
            own = Known(own_known.map(_if, KNOWN[task]))
            if slots is not None:
                partly = KNOWN[task].map(lambda whole: not whole)
                own = Known(own_known, slots.map(itemgetter(part)).map(_if, partly))
            labels = None if class_labels is None else class_labels[part]
            scale = AV(self.scale, self.scale)
            teacher = generator_denoiser(self.frozen[0], own_noise, own, labels, scale)
            targets.append(matching.target(teacher, own_state, step[part], own, own_noise))
        target = AV.zip(targets).map(torch.cat)

        # The student is told the same and not guided. A modality that is given has no error.
        def student(state: AV[Tensor], t: Tensor) -> AV[Tensor]:
            return self.student(state, t, known, told, class_labels)

        errors = matching.errors(student, state, step, target, unknown)
        return errors.map(lambda error, is_given: error * (~is_given & batch.complete), given)


def _if(x: Tensor, wanted: bool) -> Tensor | None:
    """`x` of any shape where it is wanted."""
    return x if wanted else None


class DecoderStudentTurn(nn.Module):
    """A signal decoder's step against its teacher's, for the audio image and random frames of every clip.

    Both are told the same. Only the U-Net is trained: latents, and what the generator has learnt about
    them, stay as they are.

    Args:
        student: Its signal decoder is trained.
        teacher: Frozen, and not among what this turn saves.
        codec: Normalises image latents.
        config: Gives the number of frames in a step, and the weight of the audio image's error.
    """

    def __init__(
        self,
        student: MultiModalAutoencoder,
        teacher: MultiModalAutoencoder,
        matching: StepMatching,
        codec: ImageCodec,
        config: AutoencoderConfig,
    ) -> None:
        super().__init__()
        self.student, self.matching = student, matching
        self.frozen = (teacher, codec)  # a tuple, so that they are no submodules
        self.target_frames, self.audio_weight = config.target_frames, config.loss.audio_weight

    def forward(self, batch: Latents, random: StepRandom) -> dict[str, Tensor]:
        """Raw image latents of B clips -> "loss" and its two terms, each ()."""
        errors = self.errors(batch, random).map(Tensor.mean)
        return loss_and_errors(errors.video + self.audio_weight * errors.audio, errors)

    def errors(self, batch: Latents, random: StepRandom) -> AV[Tensor]:
        """Squared errors (B,) of both modalities; zero for a clip that lacks one."""
        (teacher, codec), matching = self.frozen, self.matching

        # The audio image and F random frames of every clip, and the noisy state of each clip's step (Eq. 5).
        mean = batch.mean.map(codec.normalise, MODALITIES)
        clips, total = mean.video.shape[:2]
        frames = random.integers(0, total, (clips, self.target_frames)).sort(dim=1).values
        rows = torch.arange(clips, device=frames.device)[:, None]
        clean = AV(mean.audio, mean.video[rows, frames])
        noise = clean.map(lambda x: random.normal(x.shape))
        step = random.integers(0, matching.steps, (clips,))
        state = matching.start(clean, noise, step)

        # Where the teacher leads, told the clips' own latents; and the student, told the same.
        with torch.no_grad():
            latents = teacher.encode(mean).map(lambda posterior: posterior.mode())
            conditions = teacher.condition(latents, frames)
        leading = decoder_denoiser(teacher, conditions)
        target = matching.target(leading, state, step, NOTHING_KNOWN, noise)
        student = decoder_denoiser(self.student, conditions)
        errors = matching.errors(student, state, step, target)
        return errors.map(lambda error: error * batch.complete)


class DistillationStage(PipelineStage, ABC):
    """Distils a part of a model to `steps` steps: what generator and decoder share of a `Stage`.

    Args:
        config: The recipe, with a `distill_<part>` section.
        pipeline: The model, which becomes the student's.
        teacher_steps: A multiple of `steps`.

    Attributes:
        network: The pipeline's component that is trained; a copy of it is the teacher.
        scheduler: The pipeline's component that samples it.
    """

    part: DistilledPart
    network: str
    scheduler: str

    def __init__(
        self,
        config: RunConfig,
        pipeline: SoundingVideoPipeline,
        caches: Splits,
        device: torch.device,
        *,
        steps: int,
        teacher_steps: int,
    ) -> None:
        super().__init__(section_of(config, self.part).train, caches, config.seed, device, pipeline)
        self.name, self.steps, self.config = f"{self.part}_{steps}", steps, config
        # The teacher is the network as it comes, on the schedule that it comes with.
        self.student: Any = getattr(pipeline, self.network).train()
        self.teacher: Any = deepcopy(self.student).eval().requires_grad_(False)
        process = NoiseProcess(schedule_of(getattr(pipeline, self.scheduler))).to(device)
        self.matching = StepMatching(process, steps, teacher_steps)

        # The turn reads the teacher's settings in the pipeline, which then become the student's.
        self.turn = self.turns["model"] = self.build_turn()
        self.ema_modules[self.network] = self.student
        scheduler = make_scheduler(self.matching.student.config)
        pipeline.register_modules(**{self.scheduler: scheduler})
        pipeline.register_to_config(**self.settings())

    @abstractmethod
    def build_turn(self) -> Any:
        """The turn of this part, on the teacher's settings."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the student's model folder says of itself."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Held-out errors against the teacher."""

    def fingerprint(self) -> dict[str, Any]:
        return {
            "stops": self.matching.stops.tolist(),
            "teacher": weights_key(self.teacher),
            "cache": self.caches.train.identity,
        }


class GeneratorDistillation(DistillationStage):
    """Distils a model's generator to `steps` unguided steps; its guidance is the teacher's."""

    part, network, scheduler = "generator", "generator", "scheduler"

    def build_turn(self) -> GeneratorStudentTurn:
        scale = self.pipeline.config.guidance_scale
        return GeneratorStudentTurn(
            self.student, self.teacher, self.matching, scale, self.config.generator
        )

    def settings(self) -> dict[str, Any]:
        unchanged = dict(UNCHANGED_STEPS)
        return {
            "num_inference_steps": self.steps, "guidance_scale": 1.0, "quality_rows": unchanged,
        }  # fmt: skip

    def fingerprint(self) -> dict[str, Any]:
        slots = self.config.generator.known_slots
        mix = {
            "ends": self.turn.ends,
            "class_dropout": self.turn.class_dropout,
            "known_slots": slots and slots.model_dump(),
        }
        return super().fingerprint() | mix | {"guidance_scale": self.turn.scale}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Held-out errors against the teacher, per task, without a class.

        A student that learns from known slots has two tasks more, as its teacher: `prefix`, `retake`.
        """
        batch = self.held_out(64)
        rows = len(batch.class_labels)
        results: dict[str, float] = {}
        measured: list[tuple[str, str, AV[Tensor] | None]] = [(task, task, None) for task in KNOWN]
        if self.turn.patterns is not None:
            flags = self.turn.patterns.validated(rows, self.device)
            measured += [(name, "joint", slots) for name, slots in flags.items()]
        for name, task, slots in measured:
            draws = StepRandom(self.seed, 0, "validate", rows, device=self.device)
            errors = self.turn.errors(batch, {task: slice(rows)}, draws, 1.0, slots)
            for modality, error, is_given in zip(MODALITIES, errors, KNOWN[task], strict=True):
                if not is_given:
                    results[f"{name}/{modality}"] = float(error.mean())
        return results


class DecoderDistillation(DistillationStage):
    """Distils a model's signal decoder to `steps` steps."""

    part, network, scheduler = "decoder", "autoencoder", "decoder_scheduler"

    def build_turn(self) -> DecoderStudentTurn:
        self.student.requires_grad_(False)
        self.student.decoder.requires_grad_(True)
        codec = ImageCodec(self.pipeline.vae, self.student.image_statistics).to(self.device)
        return DecoderStudentTurn(
            self.student, self.teacher, self.matching, codec, self.config.autoencoder
        )

    def settings(self) -> dict[str, Any]:
        return {"decoder_steps": self.steps}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        batch = self.held_out(16)
        rows = len(batch.class_labels)
        draws = StepRandom(self.seed, 0, "validate", rows, device=self.device)
        errors = self.turn.errors(batch, draws)
        return {f"mse/{m}": float(e.mean()) for m, e in zip(MODALITIES, errors, strict=True)}


def section_of(config: RunConfig, part: DistilledPart) -> DistillationConfig:
    """The recipe's `distill_<part>` section."""
    section: DistillationConfig | None = getattr(config, f"distill_{part}")
    assert section is not None, "the caller adds what the recipe lacks"
    return section
