"""The recipe's sections: one strict, read-only class for each part of a system and for each job.

Model parts stay plain dictionaries: they are the keyword arguments of a component's constructor, which is the
only home of model defaults (`strict.bind`). `config.RunConfig` puts the sections together.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmldm.types import SpectrogramSpec

SAMPLED_TASKS = ("joint", "audio_to_video", "video_to_audio")
TASKS = (*SAMPLED_TASKS, "audio_only", "video_only")
"""What a training row of the generator shows: both noisy, one given, or one alone."""


PATTERNS = ("prefix", "suffix", "both_ends", "run")
"""Which slots a training row knows of a stream it predicts: the first, the last, both, or some between."""


class Section(BaseModel):
    """A part of the recipe: read-only, and strict about its keys and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """Which clips, how they are split and read."""

    folder: str | None = None
    """Clip folder or manifest; None: the one named on the command line."""
    class_pattern: str | None = None
    """Regular expression for a path below the folder: group 1 names the class. None: its first folder."""
    group_pattern: str | None = None
    """The same; its first group names the recording that a clip is cut from. All of one are on one side."""
    follow_links: bool = False
    """Links in the folder that lead out of it are followed, to files and to folders."""
    held_out: float = Field(0.1, ge=0, lt=1)
    seed: int = Field(0, ge=0)
    workers: int = Field(2, ge=0)
    windows_per_clip: int = Field(1, gt=0)
    """Cached per clip: for training one at a random source frame in each of so many equal parts of it, held
    out evenly spread."""
    skip_silent: bool = False
    allow_missing: bool = False
    """Files without sound or without picture train, too, as far as they go; they are never held out."""

    @field_validator("class_pattern", "group_pattern")
    @classmethod
    def _has_a_group(cls, pattern: str | None) -> str | None:
        try:
            has_group = pattern is None or re.compile(pattern).groups > 0
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        if not has_group:
            raise ValueError(f"{pattern!r} has no (group) that would name it")
        return pattern


class TrainConfig(Section):
    """One training job: length, optimiser and cadence. Cadences count steps; 0 means never.

    With `minutes` the three cadences but `log_every` are by the clock, however large they are, or never.
    """

    steps: int | None = Field(None, gt=0)
    """The last one; with `minutes` at most so many, and None: as many as there is time for."""
    minutes: float | None = Field(None, gt=0)
    """Wall clock that the job fills with steps, in all its starts. The learning rate stays after its warm-up,
    and falls in the last fifth. None: `steps`, with a rate that falls from the warm-up on."""
    batch_size: int = Field(gt=0)
    """Rows per optimiser step, over all processes and accumulated passes."""
    learning_rate: float = Field(gt=0)
    matrix_learning_rate: float | None = Field(None, gt=0)
    """With a number, Muon moves the model's hidden matrices and kernels at this rate, and AdamW at
    `learning_rate` the rest; None: AdamW moves all. 0.02 suits most networks."""
    accumulate: int = Field(1, gt=0)
    warmup_steps: int = Field(0, ge=0)
    final_learning_rate: float = Field(0.03, ge=0, le=1)
    """Share of the learning rate that its linear fall reaches at the last step."""
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    ema_decay: float | None = Field(0.999, gt=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    """Activations inside blocks are computed again on the way back: less memory, a third more time."""
    compile: bool = False
    """Blocks go through `torch.compile`: slow to start, faster after."""
    sharding: Literal["none", "full"] = "none"
    """Each process holds all weights, or an equal share of weights, gradients and moments (FSDP2)."""
    max_minutes: float | None = Field(None, gt=0)
    log_every: int = Field(50, gt=0)
    validate_every: int = Field(500, ge=0)
    preview_every: int = Field(1000, ge=0)
    save_every: int = Field(500, ge=0)
    keep: int = 2

    @field_validator("keep")
    @classmethod
    def _keep_two(cls, keep: int) -> int:
        if keep < 2:
            raise ValueError(
                "at least 2 checkpoints are kept, so that a damaged newest one costs one interval "
                "and not the run"
            )
        return keep

    @field_validator("betas")
    @classmethod
    def _betas_below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("both betas must lie in [0, 1)")
        return betas

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.steps is None and self.minutes is None:
            raise ValueError("steps or minutes must be given: how long does it train?")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}"
            )
        return self


class MediaTrainConfig(TrainConfig):
    """Training of a job that reads the clips' files."""

    workers: int = Field(2, ge=0)
    """Loading processes beside this one."""


class VaeLoss(Section):
    """Weights of the image VAE's terms; `salience` is the extra weight of what moves or sounds."""

    l1: float = Field(1.0, ge=0)
    l2: float = Field(2.0, ge=0)
    kl: float = Field(1e-3, ge=0)
    salience: float = Field(1.0, ge=0)
    perceptual: float = Field(0.0, ge=0)
    """Of the distance of frozen features: `VaeConfig.features`."""
    adversarial: float = Field(0.0, ge=0)
    """Of the patch critic's term. At 1 it pulls an image as hard as l1 and l2 do."""
    texture: float = Field(0.0, ge=0)
    """Of how far the strengths of frames' details are apart, wherever their pixels are."""
    audio_weight: float = Field(1.0, ge=0)
    """Of the audio image's perceptual and adversarial terms against a frame's."""


class PatchCriticConfig(Section):
    """An adversary, and when it joins."""

    start_step: int = Field(ge=0)
    model: dict[str, Any] = {}
    learning_rate: float = Field(gt=0)


class VaeConfig(Section):
    """The image VAE: `pretrained` (folder, file or hub name), or `model` to train our own."""

    pretrained: str | None = None
    model: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None
    """Widths of a new decoder for the `pretrained` VAE (ours or a KL-VAE), whose encoder and latents stay."""
    frames_per_clip: int = Field(3, gt=0)
    """Random frames taken of each clip, beside its audio image."""
    autoencoder: str | None = None
    """Folder of an autoencoder on the `pretrained` VAE's latents: the decoder learns from image latents as
    its signal decoder gives them back, by this recipe's `autoencoder.schedule`; None: from the VAE's."""
    loss: VaeLoss = VaeLoss()
    features: str = "laplacian"
    """The perceptual term's: "laplacian" (no weights), "squeezenet", its file, or a folder of classifiers."""
    critic: PatchCriticConfig | None = None
    train: MediaTrainConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> VaeConfig:
        if (self.pretrained is None) == (self.model is None):
            raise ValueError("exactly one of pretrained and model must be set")
        if self.decoder is not None and self.pretrained is None:
            raise ValueError("a decoder belongs to a pretrained VAE; a model names its own")
        for name in ("model", "decoder"):
            if getattr(self, name) is not None and self.train is None:
                raise ValueError(f"a {name} needs a train section")
        if self.autoencoder is not None and self.pretrained is None:
            raise ValueError("an autoencoder belongs to a pretrained VAE, whose latents it knows")
        if (self.loss.adversarial > 0) != (self.critic is not None):
            raise ValueError("loss.adversarial above 0 and a critic section belong together")
        return self


class AutoencoderLoss(Section):
    """Weights of the multi-modal autoencoder's terms (paper §3.1)."""

    kl: float = Field(1e-8, ge=0)
    classification: float = Field(0.1, ge=0)
    contrastive: float = Field(0.1, ge=0)
    adversarial: float = Field(0.0, ge=0)
    audio_weight: float = Field(1.0, ge=0)
    salience: float = Field(1.0, ge=0)
    pixels: float = Field(0.0, ge=0, le=1)
    """How far an error in a channel of image latents counts by what it costs in pixels: 0 not, 1 wholly."""
    terminal_fraction: float = Field(0.0, ge=0, le=1)
    """Share of rows denoised from the last timestep, which is what one-step decoding does."""
    conditioning_dropout: float = Field(0.1, ge=0, le=1)
    context_dropout: float = Field(0.0, ge=0, le=1)
    """Share of clips, per modality, whose class token and other modality's semantics are hidden. Without
    it a latent may leave out what they tell (the material), and video-to-audio then cannot know it."""


class CriticConfig(PatchCriticConfig):
    """The adversary of the signal decoder."""

    max_noise: float = Field(0.25, ge=0, le=1)
    """Highest noise level, as a share of the schedule, whose one-step estimate is judged."""


class AutoencoderConfig(Section):
    """The multi-modal autoencoder; `image_vae` None: this run's own VAE job."""

    image_vae: str | None = None
    decoder_init: str | None = None
    """Pretrained U-Net that the signal decoder starts from (folder, file or hub name)."""
    pretrained: str | None = None
    """Autoencoder of the shape of `model` (folder) to go on with. Its encoders stay frozen, so latents made
    with it stay valid."""
    latent_scale: float | None = Field(None, gt=0)
    """Image latents are multiplied by it (0.18215: what Stable Diffusion's U-Net was trained on); None:
    standardised per channel and modality by the training split's statistics."""
    schedule: dict[str, Any]
    model: dict[str, Any]
    target_frames: int = Field(2, gt=0)
    """Random frames of each clip that the signal decoder learns to denoise in a step (paper: 2)."""
    loss: AutoencoderLoss = AutoencoderLoss()
    critic: CriticConfig | None = None
    train: TrainConfig

    @model_validator(mode="after")
    def _check(self) -> AutoencoderConfig:
        if (self.loss.adversarial > 0) != (self.critic is not None):
            raise ValueError("loss.adversarial above 0 and a critic section belong together")
        if self.pretrained is not None and self.decoder_init is not None:
            raise ValueError(
                "pretrained and decoder_init exclude each other: its decoder is trained already"
            )
        return self


class KnownSlotsConfig(Section):
    """Rows of the generator that know slots of what they predict: to continue clips, and to mend them."""

    share: float = Field(0.4, gt=0, le=1)
    """Of the rows of every task."""
    patterns: dict[str, float] = {"prefix": 0.5, "suffix": 0.1, "both_ends": 0.3, "run": 0.1}
    """Shares of what these rows know."""
    longest: float = Field(0.75, gt=0, lt=1)
    """Longest prefix, suffix or run, as a share of the clip. A gap between both ends may be of any length."""
    noise: float = Field(0.2, ge=0, lt=1)
    """Half of these rows know values with noise: its standard deviation is uniform from 0 to this one, in
    that of the latents, and is told. So a model learns to continue what it has made itself."""

    @field_validator("patterns")
    @classmethod
    def _shares(cls, patterns: dict[str, float]) -> dict[str, float]:
        return _checked_shares(patterns, PATTERNS, "pattern")


class GeneratorConfig(Section):
    """The joint generator; `autoencoder` None: this run's own autoencoder job."""

    autoencoder: str | None = None
    pretrained: str | None = None
    """Generator of the shape of `model`, and of the same latents and classes (folder), to go on with."""
    schedule: dict[str, Any]
    model: dict[str, Any]
    tasks: dict[str, float]
    class_dropout: float = Field(0.1, ge=0, le=1)
    """Share of rows that forget their class. Samples without a class are only as good as these."""
    logit_normal: tuple[float, float] | None = None
    """Mean and standard deviation of the logit of a row's noise level (its timestep as a share of the
    schedule); None: uniform, as in the paper."""
    known_slots: KnownSlotsConfig | None = None
    """None: a row knows all of a modality or nothing, as in the paper."""
    train: TrainConfig

    @field_validator("logit_normal")
    @classmethod
    def _spread(cls, density: tuple[float, float] | None) -> tuple[float, float] | None:
        if density is not None and density[1] <= 0:
            raise ValueError(f"the standard deviation must be above 0, not {density[1]}")
        return density

    @field_validator("tasks")
    @classmethod
    def _shares(cls, tasks: dict[str, float]) -> dict[str, float]:
        return _checked_shares(tasks, TASKS, "task")


def _checked_shares(
    shares: dict[str, float], names: tuple[str, ...], what: str
) -> dict[str, float]:
    unknown = sorted(set(shares) - set(names))
    if unknown:
        raise ValueError(f"unknown {what} {unknown[0]!r}; known: {', '.join(names)}")
    if min(shares.values(), default=0) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"the shares must be positive and sum to 1, not {shares}")
    return shares


class VocoderLoss(Section):
    """Weights of the vocoder's terms."""

    convergence: float = Field(1.0, ge=0)
    """Of the spectral convergence, which hears the loud."""
    log_magnitude: float = Field(1.0, ge=0)
    """Of the log magnitudes, which hear the quiet."""
    mel: float = Field(0.1, ge=0)
    """Of the log-mel error in dB."""
    mel_noise: float = Field(0.0, ge=0)
    """Standard deviation in dB of noise on the spectrogram it reads: a decoded one is never exact."""
    decoded: float = Field(0.0, ge=0, le=1)
    """Share of rows that read the spectrogram as the image VAE gives it back, and an autoencoder where
    there is one; what they are to sound like is the true sound."""
    adversarial: float = Field(0.0, ge=0)
    """Of the critic's term. At 1 it pulls a sound as hard as the other terms do."""
    feature_matching: float = Field(1.0, ge=0)
    """Of the distance of what the critic's layers see, inside the critic's term."""


class VocoderConfig(Section):
    """The vocoder: `pretrained` (folder or hub name), or `model` to train our own."""

    pretrained: str | None = None
    spectrogram: SpectrogramSpec | None = None
    """What a pretrained one was trained on; None: what the clips' audio images hold."""
    model: dict[str, Any] | None = None
    image_vae: str | None = None
    """That `loss.decoded` rows pass through; None: this run's own."""
    autoencoder: str | None = None
    """Of that VAE's latents, the same; None: this run's own where its job is finished and `image_vae` is
    None, else none."""
    loss: VocoderLoss = VocoderLoss()
    critic: PatchCriticConfig | None = None
    train: MediaTrainConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> VocoderConfig:
        if (self.pretrained is None) == (self.model is None):
            raise ValueError("exactly one of pretrained and model must be set")
        if (self.model is None) != (self.train is None):
            raise ValueError("a model needs a train section; a pretrained vocoder is used as it is")
        if self.model is not None and self.spectrogram is not None:
            raise ValueError("spectrogram describes a pretrained vocoder; a model reads the clips'")
        if (self.loss.adversarial > 0) != (self.critic is not None):
            raise ValueError("loss.adversarial above 0 and a critic section belong together")
        if not self.loss.decoded and (self.image_vae or self.autoencoder):
            raise ValueError("image_vae and autoencoder are for rows of loss.decoded, which is 0")
        return self


class DistillationConfig(Section):
    """Distillation of the generator, or of the signal decoder, to fewer steps."""

    teacher_steps: int = Field(gt=0)
    """DDIM steps of the model that is distilled."""
    steps: tuple[int, ...] = Field(min_length=1)
    """Of the students, each the next one's teacher, and each trained as `train` says."""
    train: TrainConfig

    @model_validator(mode="after")
    def _check(self) -> DistillationConfig:
        for teacher, student in pairwise((self.teacher_steps, *self.steps)):
            if not 0 < student < teacher or teacher % student:
                raise ValueError(
                    f"a student of {student} steps cannot follow a teacher of {teacher}: the number "
                    "must be smaller and divide it"
                )
        return self


class SampleConfig(Section):
    """How the trained system samples unless told otherwise."""

    quality: Literal["best", "balanced", "fast"] = "best"
    """The default row of `pipelines.settings`; "best" is the settings below."""
    scheduler: str = "ddim"
    num_inference_steps: int = Field(50, gt=0)
    decoder_steps: int = Field(1, gt=0)
    guidance_scale: float = 1.0
    rows: dict[str, dict[str, Any]] | None = None
    """Further rows that `--quality` knows, or others of these names, in the keys of `pipelines.settings`."""
