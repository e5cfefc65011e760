"""What a recipe amounts to, before anything is trained: shapes, parameters, FLOPs, bytes.

RunConfig, number of classes -> Summary -> text. Networks are built and run as fake tensors, which
have shapes and no memory, so that a paper-sized recipe is cheap; only the image VAE is really made.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from mmldm.config import RunConfig
from mmldm.errors import UserError, first_line
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.discriminator import TupleDiscriminator
from mmldm.models.generator import JointGenerator
from mmldm.models.image_codec import LatentStatistics
from mmldm.models.image_vae import ImageVAE, load_image_vae, pixels_per_cell
from mmldm.models.perceptual_encoder import PerceptualEncoder
from mmldm.models.pretrained import refuse_folding
from mmldm.models.signal_decoder import SignalDecoder
from mmldm.sections import TrainConfig
from mmldm.strict import bind
from mmldm.training.assembly import schedulers
from mmldm.training.flops import count_flops
from mmldm.training.jobs.autoencoder import autoencoder_arguments
from mmldm.training.jobs.generator import generator_arguments
from mmldm.training.jobs.vae import build_turns, build_vae
from mmldm.training.jobs.vocoder import build_adversary, build_vocoder
from mmldm.training.optim import hidden_weights
from mmldm.types import AV, MODALITIES

BYTES = 4
MOMENTS = 2
"""Of AdamW, per trained weight."""


@dataclass(frozen=True)
class Part:
    """One pass of one network over one clip.

    Attributes:
        parameters: None: those of the line above.
        flops: Of the forward pass; a multiplication and an addition are two.
    """

    name: str
    parameters: int | None
    flops: int


@dataclass(frozen=True)
class JobSize:
    """One training job.

    Attributes:
        train: None: its network is used as it is.
        checkpoint_bytes: Tensors of one checkpoint: weights, their average, moments.
        memory_bytes: What a process holds whatever its batch: those, gradients, frozen networks.
            Activations come on top.
    """

    name: str
    train: TrainConfig | None
    checkpoint_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class Summary:
    """A recipe in numbers; `str` gives the table.

    Attributes:
        spaces: Name -> shapes of one clip, without the batch dimension.
    """

    spaces: dict[str, AV[tuple[int, ...]]]
    parts: tuple[Part, ...]
    jobs: tuple[JobSize, ...]

    def __str__(self) -> str:
        lines = ["spaces of one clip"]
        for name, shapes in self.spaces.items():
            lines.append(f"  {name:<14}audio {shapes.audio}, video {shapes.video}")

        lines += ["", f"{'forward passes of one clip':<30}{'parameters':>12}{'GFLOP':>10}"]
        for part in self.parts:
            count = "" if part.parameters is None else f"{part.parameters / 1e6:.3f} M"
            lines.append(f"  {part.name:<28}{count:>12}{part.flops / 1e9:>10.3f}")

        header = f"{'jobs':<14}{'steps':>8}{'batch':>8}{'checkpoint':>14}{'held in memory':>18}"
        lines += ["", header]
        for job in self.jobs:
            if job.train is None:
                lines.append(f"  {job.name:<12}{'none: taken as it is':>30}")
                continue
            stored, held = (
                f"{n / 2**20:.1f} MiB" for n in (job.checkpoint_bytes, job.memory_bytes)
            )
            train, batch = job.train, job.train.batch_size
            steps = (
                "by time" if train.steps is None else f"{'<= ' * bool(train.minutes)}{train.steps}"
            )
            lines.append(f"  {job.name:<12}{steps:>8}{batch:>8}{stored:>14}{held:>18}")
        lines.append(
            "  held: weights, average, moments, gradients, frozen parts; activations come on top, below"
        )
        return "\n".join(lines)


def summarise(config: RunConfig, num_classes: int) -> Summary:
    """Builds every part of a recipe, runs it once without numbers, and counts.

    A recipe that passes here does not fail in its third job for a setting of its generator.

    Args:
        num_classes: Of the data; fewer than two count as none.

    Raises:
        UserError: A section does not fit what it builds, or the parts do not fit each other.
    """
    spec = config.clip
    # Schedules are checked here, networks where they are built.
    schedulers(config)

    # The image VAE really exists: its file tells what it is. On fake tensors it runs in no time.
    with FakeTensorMode(allow_non_fake_inputs=True), blamed("vae.model"):
        with unset_fake_temporarily():
            trained_vae: Any = build_vae(config, weights=False)
            vae: Any = used_vae(config, trained_vae)
            with blamed("autoencoder.model"):
                check_sizes(config, vae)
        sizes = AV(spec.audio_size, (spec.height, spec.width))
        costs = sizes.map(lambda size: _vae_passes(vae, size))
        encoding = costs.audio.encode + spec.num_frames * costs.video.encode
        decoding = costs.audio.decode + spec.num_frames * costs.video.decode
        shapes = costs.map(lambda cost: cost.shape)

    # What its job plays against and looks with: missing weights are said now, not when it starts.
    rivals: list[nn.Module] = []
    if config.vae.train is not None:
        with FakeTensorMode(allow_non_fake_inputs=True), blamed("vae.critic.model"):
            with unset_fake_temporarily():
                turns = build_turns(config, trained_vae, torch.device("cpu"))
            if "critic" in turns:
                rivals = [turns["critic"].critic]
                sizes.map(lambda size: rivals[0](torch.empty(1, 3, *size)))

    # The others are never more than their shapes.
    with FakeTensorMode():
        with blamed("autoencoder.model"):
            autoencoder = untrained_autoencoder(config, shapes, num_classes)
            if config.autoencoder.decoder_init is not None:
                refuse_folding(autoencoder)
            latents: AV[Any] = autoencoder.latent_shapes
        critics = []
        if config.autoencoder.critic is not None:
            with blamed("autoencoder.critic.model"):
                section = config.autoencoder.critic.model
                arguments = bind(section, TupleDiscriminator, "autoencoder.critic.model")
                critics = [TupleDiscriminator(**arguments)]
        with blamed("generator.model"):
            generator = JointGenerator(**generator_arguments(config, latents, None, num_classes))
            passes = _passes(autoencoder, generator, shapes, spec.num_frames)
    vocoder_parts, vocoder_jobs = _vocoder(config)
    images = AV(1, spec.num_frames)
    return Summary(
        spaces={
            "media": AV((spec.num_samples,), (spec.num_frames, 3, spec.height, spec.width)),
            "images": images.map(lambda n, size: (n, 3, *size), sizes),
            "image latents": images.map(lambda n, shape: (n, *shape), shapes),
            "latents": latents.map(tuple),
        },
        parts=(
            Part("image VAE, encode", _count(vae), encoding),
            Part("image VAE, decode", None, decoding),
            Part("autoencoder, encode", _count(autoencoder), passes["encode"]),
            Part("autoencoder, condition", None, passes["condition"]),
            Part("signal decoder, one step", _count(autoencoder.decoder), passes["denoise"]),
            Part("generator, one step", _count(generator), passes["generate"]),
            *vocoder_parts,
        ),
        jobs=(
            _job("vae", config.training_of("vae"), [trained_vae, *rivals]),
            _job("autoencoder", config.training_of("autoencoder"), [autoencoder, *critics], [vae]),
            _job("generator", config.generator.train, [generator], [vae, autoencoder]),
            *vocoder_jobs,
        ),
    )


def _vocoder(config: RunConfig) -> tuple[list[Part], list[JobSize]]:
    """The vocoder's line and job; none where the recipe has no vocoder."""
    job = config.vocoder
    if job is None:
        return [], []
    with FakeTensorMode(allow_non_fake_inputs=True), blamed("vocoder.model"):
        with unset_fake_temporarily():
            vocoder = build_vocoder(job, config.clip, config.seed)
        spec = vocoder.spectrogram
        columns = config.clip.model_copy(update={"spectrogram": spec}).num_columns
        flops, _ = count_flops(vocoder, torch.empty(1, spec.num_mels, columns))
    networks: list[nn.Module] = [vocoder]
    if job.critic is not None:
        with blamed("vocoder.critic.model"):
            adversary = build_adversary(job.critic, job.loss, config.seed, torch.device("cpu"))
        networks.append(adversary.critic)
    return (
        [Part("vocoder", _count(vocoder), flops)],
        [_job("vocoder", config.training_of("vocoder"), networks)],
    )


def require_sizes(config: RunConfig) -> None:
    """Checks a recipe's pictures by its image VAE alone, in no time; `summarise` checks everything.

    Raises:
        UserError: Networks cannot cut them into their cells.
    """
    with blamed("vae.model"):
        vae = used_vae(config, build_vae(config, weights=False))
    with blamed("autoencoder.model"):
        check_sizes(config, vae)


def check_sizes(config: RunConfig, vae: ImageVAE) -> None:
    """Refuses pictures that the networks cannot cut into their cells, before torch does it in its own words.

    Raises:
        UserError: Naming the side, what has to divide it, and the nearest sizes.
    """
    spec, model = config.clip, config.autoencoder.model
    cell = pixels_per_cell(vae)

    # Cells that the signal decoder folds and halves, and those that an encoder does, along both sides.
    decoder = model.get("decoder_config") or {}
    levels = _length(decoder, SignalDecoder.from_sizes)
    decoded = model.get("decoder_patch_size", 1) * 2 ** (levels - 1)
    sides: list[tuple[str, int, int]] = []
    sizes = AV(spec.audio_size, (spec.height, spec.width))
    for name, size in zip(MODALITIES, sizes, strict=True):
        encoder = model.get(f"{name}_encoder_config") or {}
        patch = encoder.get("patch_size", 1)
        folds = patch if isinstance(patch, list) else [patch, patch]
        halved = 2 ** (_length(encoder, PerceptualEncoder) - 1)
        what = ("clip.height", "clip.width")
        if name == "audio" and spec.native_audio:
            what = ("clip.spectrogram.num_mels", "the audio image's width")
        for side, pixels, fold in zip(what, size, folds, strict=True):
            sides.append((side, pixels, cell * math.lcm(decoded, fold * halved)))
    for side, pixels, multiple in reversed(sides):
        if pixels % multiple:
            below, above = pixels // multiple * multiple, -(-pixels // multiple) * multiple
            nearest = f"{below} or {above}" if below else str(above)
            raise UserError(f"{side} {pixels} is not a multiple of {multiple}: choose {nearest}")


def _length(section: Mapping[str, Any], constructor: Callable[..., Any]) -> int:
    """Levels of a network: the section's, or the constructor's own."""
    default = inspect.signature(constructor).parameters["block_out_channels"].default
    return len(section.get("block_out_channels", default))


@contextmanager
def blamed(name: str) -> Iterator[None]:
    """Constructors and layers complain about wrong sizes in many ways; the section is to blame."""
    try:
        yield
    except (ArithmeticError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{name}: no network can be built from this section: {first_line(error)}"
        ) from error


def used_vae(config: RunConfig, trained: ImageVAE) -> ImageVAE:
    """The image VAE that the autoencoder works with: this run's own, or the one its section names."""
    source = config.autoencoder.image_vae
    return trained if source is None else load_image_vae(source)


def untrained_autoencoder(
    config: RunConfig, shapes: AV[tuple[int, ...]], num_classes: int
) -> MultiModalAutoencoder:
    """The recipe's own, or the shape of the finished one that its generator job names.

    Args:
        shapes: (c,h,w) of the image latents.
    """
    if config.generator.autoencoder is not None:
        stored = MultiModalAutoencoder.load_config(config.generator.autoencoder)
        return MultiModalAutoencoder.from_config(stored)
    channels = shapes.video[0]
    statistics = LatentStatistics.scalar(1.0, channels).to_dict()
    return MultiModalAutoencoder(**autoencoder_arguments(config, shapes, statistics, num_classes))


class _VaePasses(NamedTuple):
    """FLOPs of an image through the image VAE, and the shape (c,h,w) of its latent."""

    encode: int
    decode: int
    shape: tuple[int, ...]


def _vae_passes(vae: Any, size: tuple[int, int]) -> _VaePasses:
    """Of an image of `size` rows and columns."""
    image = torch.empty(1, 3, *size)
    encode, mean = count_flops(lambda: vae.encode(image).latent_dist.mean)
    decode, _ = count_flops(lambda: vae.decode(mean).sample)
    return _VaePasses(encode, decode, tuple(mean.shape[1:]))


def _passes(
    autoencoder: MultiModalAutoencoder,
    generator: JointGenerator,
    shapes: AV[tuple[int, ...]],
    frames: int,
) -> dict[str, int]:
    """FLOPs of each pass over one clip.

    Args:
        shapes: (c,h,w) of the image latents.
        frames: T.
    """
    # Image latents (1,1,c,h,w) and (1,T,c,h,w), timesteps (1,1) and (1,T), latents z (1,C,T',H',W').
    clip = AV(torch.empty(1, 1, *shapes.audio), torch.empty(1, frames, *shapes.video))
    labels = torch.zeros(1, dtype=torch.long) if generator.null_class else None
    indices = torch.arange(frames)[None]
    steps = clip.map(lambda x: torch.zeros(x.shape[:2], dtype=torch.long))
    flops = {}
    flops["encode"], posterior = count_flops(autoencoder.encode, clip)
    z = posterior.map(lambda p: p.mean)
    flops["condition"], conditions = count_flops(autoencoder.condition, z, indices, labels)
    flops["denoise"], _ = count_flops(autoencoder.denoise, clip, steps, conditions)
    flops["generate"], _ = count_flops(generator, z, torch.zeros(1, dtype=torch.long))
    return flops


def _job(
    name: str,
    train: TrainConfig | None,
    networks: list[nn.Module],
    frozen: Sequence[nn.Module] = (),
) -> JobSize:
    """The first network is the one that is averaged and exported."""
    if train is None:
        return JobSize(name, None, 0, 0)

    # A checkpoint: weights and buffers, moments of what is trained, the average.
    values = sum(_stored(network) + MOMENTS * _trained(network) for network in networks)
    if train.ema_decay is not None:
        values += _trained(networks[0])
    if train.matrix_learning_rate is not None:
        # Muon keeps one moment where AdamW keeps two.
        values -= sum(weight.numel() for weight in hidden_weights(networks[0]).values())
    # In memory beside them: gradients, and the networks that are only used.
    held = values + sum(map(_trained, networks)) + sum(map(_stored, frozen))
    return JobSize(name, train, BYTES * values, BYTES * held)


def _count(network: nn.Module) -> int:
    """Numbers in the weights."""
    return sum(p.numel() for p in network.parameters())


def _trained(network: nn.Module) -> int:
    """Of those, the ones that are trained."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _stored(network: nn.Module) -> int:
    """Numbers in weights and buffers."""
    return sum(tensor.numel() for tensor in network.state_dict().values())
