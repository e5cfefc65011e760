"""The signal decoder's part of `mmldm distill`: fewer U-Net passes, in the end one. Salimans & Ho 2022.

cached image latents AV (B,1,c,h,w), (B,T,c,h,w) -> latents -> conditions, the same for teacher and student;
noisy at the start of a step -> prediction -> squared error against the clean estimate that leads where the
teacher's steps do (`diffusion.distillation`). Only the U-Net is trained: latents, and what the generator has
learnt about them, stay as they are. A teacher that predicts epsilon has a student that predicts v.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from mmldm.config import RunConfig
from mmldm.data.clips import present
from mmldm.data.latents import Splits
from mmldm.diffusion.distillation import StepMatching
from mmldm.diffusion.schedules import NoiseProcess, make_scheduler
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_codec import ImageCodec
from mmldm.pipelines.decoding import decoder_denoiser
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.distillation import DistillationStage
from mmldm.training.randomness import StepRandom
from mmldm.types import AV, MODALITIES


class DecoderDistillationTurn(nn.Module):
    """A student's step against its teacher's, for the audio image and random frames of every clip.

    Args:
        student: Its signal decoder is trained.
        process: Says what it predicts.
        teacher: Frozen, and not among what this turn saves.
        codec: Normalises image latents.
        target_frames: Frames of each clip in a step.
        audio_weight: Of the audio image's error against the frames'.
    """

    def __init__(
        self,
        student: MultiModalAutoencoder,
        process: NoiseProcess,
        teacher: MultiModalAutoencoder,
        matching: StepMatching,
        codec: ImageCodec,
        target_frames: int,
        audio_weight: float,
    ) -> None:
        super().__init__()
        self.student, self.process, self.matching = student, process, matching
        self.frozen = (teacher, codec)  # a tuple, so that they are no submodules
        self.target_frames, self.audio_weight = target_frames, audio_weight

    def forward(self, batch: dict[str, Tensor], random: StepRandom) -> dict[str, Tensor]:
        errors = self.errors(batch, random).map(Tensor.mean)
        return {
            "loss": errors.video + self.audio_weight * errors.audio,
            "mse/audio": errors.audio.detach(),
            "mse/video": errors.video.detach(),
        }

    def errors(self, batch: dict[str, Tensor], random: StepRandom) -> AV[Tensor]:
        """Squared errors (B,) of both modalities; zero for a clip that lacks one."""
        teacher, codec = self.frozen
        mean = MODALITIES.map(lambda m: codec.normalise(batch[f"{m}_mean"], m))
        clips, total = mean.video.shape[:2]
        frames = random.integers(0, total, (clips, self.target_frames)).sort(dim=1).values
        rows = torch.arange(clips, device=frames.device)[:, None]
        clean = AV(mean.audio, mean.video[rows, frames])
        noise = clean.map(lambda x: random.normal(x.shape))
        step = random.integers(0, self.matching.steps, (clips,))
        with torch.no_grad():
            latents = teacher.encode(mean).map(lambda posterior: posterior.mode())
            conditions = teacher.condition(latents, frames)
        state = self.matching.start(clean, noise, step)
        target = self.matching.target(
            decoder_denoiser(teacher, conditions), state, step, AV(None, None), noise
        )
        t = self.matching.timesteps(step)
        prediction = decoder_denoiser(self.student, conditions)(state, t)
        estimate = prediction.map(lambda p, x: self.process.to_x0(p, x, t), state)
        here = present(batch)
        whole = here.audio & here.video
        return estimate.map(lambda x0, x: self.matching.error(x0, x, step) * whole, target)


class DecoderDistillation(DistillationStage):
    """Distils a model's signal decoder to `steps` steps. See `training.stage.Stage`.

    Args:
        config: The recipe, with a `distill_decoder` section.
        pipeline: The model, which becomes the student's.
    """

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
        teacher = deepcopy(pipeline.autoencoder)
        assert config.distill_decoder is not None, "the caller adds what the recipe lacks"
        super().__init__(
            f"decoder_{steps}",
            config.distill_decoder,
            pipeline,
            pipeline.decoder_scheduler,
            teacher,
            caches,
            device,
            seed=config.seed,
            steps=steps,
            teacher_steps=teacher_steps,
        )
        student = pipeline.autoencoder.requires_grad_(False)
        student.decoder.requires_grad_(True)
        self.turn = DecoderDistillationTurn(
            student.train(),
            self.process,
            teacher,
            self.matching,
            ImageCodec(pipeline.vae, student.image_statistics).to(device),
            config.autoencoder.target_frames,
            config.autoencoder.loss.audio_weight,
        )
        self.turns["model"] = self.turn
        self.ema_modules["autoencoder"] = student
        pipeline.register_modules(decoder_scheduler=make_scheduler(self.process.config))
        pipeline.register_to_config(decoder_steps=steps)

    @torch.no_grad()
    def validate(self, random: StepRandom) -> dict[str, float]:
        """Held-out errors against the teacher."""
        batch = self.held_out(16)
        draws = StepRandom(self.seed, 0, "validate", len(batch["label"]), device=self.device)
        errors = self.turn.errors(batch, draws)
        return {f"mse/{m}": float(e.mean()) for m, e in zip(MODALITIES, errors, strict=True)}
