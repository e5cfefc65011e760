"""The generator (MM-LDM §3.2, Fig. 2, Eq. 7): a diffusion transformer over the latents of both modalities.

noisy latents AV((B,C,T',H',W')) and t (B,) -> prediction AV((B,C,T',H',W')). §3.3: what is given enters
through zero-initialised projections. Its guidance, Eq. 8, is `pipelines.guidance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from mmldm.errors import UserError
from mmldm.models.component import load_component
from mmldm.models.image_codec import ChannelStatistics, LatentStatistics
from mmldm.models.layers import zero_init
from mmldm.models.transformer import (
    Block,
    Modulation,
    TimestepEmbedding,
    grid_positions,
    modulate,
    time_positions,
)
from mmldm.types import AV

LatentShape = tuple[int, ...]
"""(C, T', H', W')."""


class LatentStream(nn.Module):
    """One modality's way into and out of the transformer.

    latents (B,C,T',H',W') <-> tokens (B,1+N,D).

    The first token is the modality's learned [EOS], which §3.2 puts before the latent; it carries
    no position. The others hold `patch_size` x `patch_size` cells of a slot each, as in DiT.
    """

    position: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        shape: LatentShape,
        width: int,
        position: Tensor,
        statistics: ChannelStatistics,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        self.shape, self.patch_size = shape, patch_size
        channels, num_tokens = shape[0] * patch_size**2, len(position)
        self.register_buffer("position", position, persistent=False)
        mean, std = statistics.mean, statistics.std
        self.register_buffer("mean", torch.tensor(mean)[:, None, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None, None], persistent=False)
        self.embed_latent = nn.Linear(channels, width)
        self.embed_given = nn.Linear(channels + 1, width, bias=False)
        self.token_embedding = nn.Parameter(0.01 * torch.randn(num_tokens, width))
        self.modality_embedding = nn.Parameter(0.01 * torch.randn(width))
        self.eos = nn.Parameter(torch.randn(1, width))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = Modulation(width, 2)
        self.predict = nn.Linear(width, channels)

    def embed(self, sample: Tensor, given: Tensor | None, mask: Tensor | None) -> Tensor:
        """Noisy and given latents (B,C,T',H',W'), mask (B,) or (B,T') -> tokens (B,1+N,D)."""
        tokens = self.embed_latent(self._patches(sample))
        if given is not None:
            # A flag beside the channels tells known zeros from what is not known, which adds nothing.
            known = self._patches(given)
            flag = self._flags(mask, known)
            condition = torch.where(flag > 0, torch.cat([known, flag], dim=-1), 0.0)
            tokens = tokens + self.embed_given(condition)
        # Where and when (fixed and learned), and which modality.
        tokens = tokens + (self.position + self.token_embedding + self.modality_embedding)
        return torch.cat([self.eos.expand(len(tokens), -1, -1), tokens], dim=1)

    def _flags(self, mask: Tensor | None, known: Tensor) -> Tensor:
        """Mask (B,) or (B,T'), None for all, and known values (B,N,C) -> (B,N,1)."""
        if mask is None:
            return torch.ones_like(known[..., :1])
        tokens = known.shape[1] if mask.ndim == 1 else known.shape[1] // self.shape[1]
        per_slot = mask.to(known.dtype).reshape(len(mask), -1, 1)
        return per_slot.expand(-1, -1, tokens).reshape(len(mask), -1, 1)

    def _patches(self, latents: Tensor) -> Tensor:
        """(B,C,T',H',W') -> (B,N,C*p*p), slot by slot and row by row."""
        if self.patch_size == 1:
            return latents.flatten(2).transpose(1, 2)
        sides = (-1, self.patch_size)
        cells = latents.unflatten(4, sides).unflatten(3, sides)  # B C T' H'/p p W'/p p
        return cells.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)

    def _from_patches(self, patches: Tensor) -> Tensor:
        """(B,N,C*p*p) -> (B,C,T',H',W'): the inverse."""
        channels, slots, rows, columns = self.shape
        p = self.patch_size
        if p == 1:
            return patches.transpose(1, 2).unflatten(2, self.shape[1:])
        cells = patches.unflatten(2, (channels, p, p)).unflatten(
            1, (slots, rows // p, columns // p)
        )
        return cells.permute(0, 4, 1, 2, 5, 3, 6).flatten(5).flatten(3, 4)

    def project(self, tokens: Tensor, conditioning: Tensor) -> Tensor:
        """Tokens (B,1+N,D), conditioning (B,D) -> prediction (B,C,T',H',W'); [EOS] predicts nothing."""
        shift, scale = self.modulation(conditioning).chunk(2, dim=-1)
        prediction = self.predict(modulate(self.norm(tokens[:, 1:]), shift, scale))
        return self._from_patches(prediction)


class JointGenerator(ModelMixin, ConfigMixin):
    """DiT over [EOS_a | audio tokens | EOS_v | video tokens].

    Defaults are the paper's size. Latents with a time axis (T' > 1) get positions in seconds that
    both modalities share: video slot i stands at i * duration / T' (its frame's instant), audio
    slot j at (j + 1/2) * duration / T' (its column's centre). Latents without one get the paper's
    grid form.

    Args:
        audio_latent_shape: (C, T', H', W').
        video_latent_shape: (C, T', H', W').
        patch_size: Cells a side of the video latents' grid that one token holds, which must divide H'
            and W'; 1: a token is a cell, as in the paper.
        adaln: "block": one modulation MLP per block (the paper's DiT); "single": one for all
            blocks plus a bias per block, for small models.
        num_classes: Size of the class vocabulary, 0 for none; index `num_classes` is the null
            class.
        duration: Length of a clip in seconds.
        null_stream: What the stream of a given modality holds in the null half of guidance:
            "renoised", its clean value noised to t (the paper's form, Eq. 8), or "noise", pure
            noise, for models that were trained on single-modality tasks as well.
        latent_statistics: Mean and standard deviation per channel and modality of the latents,
            `{"audio": {"mean": [...], "std": [...]}, "video": {...}}`; None: latents are used as
            they are.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        audio_latent_shape: Sequence[int] = (16, 1, 8, 8),
        video_latent_shape: Sequence[int] = (16, 1, 16, 16),
        width: int = 1152,
        depth: int = 28,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        patch_size: int = 1,
        adaln: Literal["block", "single"] = "block",
        num_classes: int = 0,
        duration: float = 1.6,
        null_stream: Literal["renoised", "noise"] = "renoised",
        latent_statistics: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if null_stream not in ("renoised", "noise") or adaln not in ("block", "single"):
            raise UserError(
                f"generator: null_stream {null_stream!r} must be 'renoised' or 'noise', "
                f"adaln {adaln!r} 'block' or 'single'"
            )
        if width % heads or width % 4:
            raise UserError(f"generator width {width} must be a multiple of {heads} heads and of 4")
        shapes: AV[LatentShape] = AV(tuple(audio_latent_shape), tuple(video_latent_shape))
        if patch_size < 1 or shapes.video[2] % patch_size or shapes.video[3] % patch_size:
            raise UserError(
                f"generator patch_size {patch_size} must divide the video latents' grid of "
                f"{shapes.video[2]}x{shapes.video[3]} cells"
            )
        statistics = shapes.map(lambda shape: ChannelStatistics.neutral(shape[0]))
        if latent_statistics is not None:
            fitted = LatentStatistics.from_dict(latent_statistics)
            statistics = AV(fitted.audio, fitted.video)

        # Where a modality's first slot stands, in slots: a frame at its instant, a column at its centre.
        first_slot: AV[float] = AV(0.5, 0.0)
        # What counts is the finest slot of either modality: both must share the same periods.
        shortest = 4 * duration / max(shape[1] for shape in shapes)

        def stream(
            shape: LatentShape, first: float, own: ChannelStatistics, patch: int
        ) -> LatentStream:
            """One modality's, with positions (N,D) of its tokens in time and in the grid."""
            slots, rows, columns = shape[1], shape[2] // patch, shape[3] // patch
            position = torch.zeros(slots, rows * columns, width)
            if slots > 1:
                seconds = (torch.arange(slots) + first) * duration / slots
                in_time = time_positions(seconds, width, shortest, 4 * duration)
                position = position + in_time[:, None]
            if rows * columns > 1:
                position = position + grid_positions((rows, columns), width)
            return LatentStream(shape, width, position.flatten(0, 1), own, patch)

        self.audio, self.video = shapes.map(stream, first_slot, statistics, AV(1, patch_size))
        self.time_embedding = TimestepEmbedding(width)
        self.class_embedding = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.shared_modulation = Modulation(width, 6) if adaln == "single" else None
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, shared_modulation=adaln == "single")
            for _ in range(depth)
        )
        self.gradient_checkpointing = False

        self._initialise()

    def _initialise(self) -> None:
        """As DiT: blocks start as the identity (adaLN-Zero), outputs and conditions at zero."""
        # Every linear first, then what is to start otherwise.
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for linear in self.time_embedding.modules():
            if isinstance(linear, nn.Linear):
                nn.init.normal_(linear.weight, std=0.02)
        if self.class_embedding is not None:
            nn.init.normal_(self.class_embedding.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, Modulation):
                zero_init(module[1])
        for stream in self.streams:
            zero_init(stream.embed_given)
            zero_init(stream.predict)

    @property
    def streams(self) -> AV[LatentStream]:
        """Both modalities' ways in and out."""
        return AV(self.audio, self.video)

    @property
    def latent_shapes(self) -> AV[LatentShape]:
        """(C, T', H', W') per modality."""
        return self.streams.map(lambda stream: stream.shape)

    @property
    def null_class(self) -> int:
        """The class index that stands for no class."""
        return int(self.config.num_classes)

    @apply_forward_hook
    def normalise(self, latents: AV[Tensor | None]) -> AV[Tensor | None]:
        """Autoencoder latents AV((B,C,T',H',W')) -> mean 0, variance 1 per channel; None stays None."""

        def normal(stream: LatentStream, z: Tensor | None) -> Tensor | None:
            """(B,C,T',H',W') -> (B,C,T',H',W')."""
            return None if z is None else (z - stream.mean) / stream.std

        return self.streams.map(normal, latents)

    @apply_forward_hook
    def denormalise(self, latents: AV[Tensor]) -> AV[Tensor]:
        """AV((B,C,T',H',W')), as the autoencoder encodes them: the inverse of `normalise`."""
        return self.streams.map(lambda stream, z: z * stream.std + stream.mean, latents)

    def forward(
        self,
        sample: AV[Tensor],
        timestep: Tensor,
        given: AV[Tensor | None] = AV(None, None),  # noqa: B008 (a NamedTuple is immutable)
        given_mask: AV[Tensor | None] = AV(None, None),  # noqa: B008
        class_labels: Tensor | None = None,
    ) -> AV[Tensor]:
        """Predicts both modalities jointly (Eq. 7), in the schedule's parameterisation.

        Args:
            sample: Noisy normalised latents AV((B,C,T',H',W')).
            timestep: (B,), shared by both modalities.
            given: Clean normalised latents of known modalities; None: not known for any clip. Not
                known equals the paper's null latent: it adds exactly nothing.
            given_mask: Where `given` holds; None: everywhere. (B,) bool: in which clips; (B,T'):
                in which slots of which clips, as `Known.mask`, which may tell the noise of the
                known values as well. What `given` holds elsewhere is ignored, so that one batch
                can mix tasks.
            class_labels: (B,) long; `null_class` or a negative number: no class. None: no clip has
                one.

        Returns:
            The prediction, AV((B,C,T',H',W')).
        """
        # What every block is modulated by: the timestep and, if there are classes, the class.
        conditioning = self.time_embedding(timestep)
        if self.class_embedding is not None:
            labels = torch.full_like(timestep, -1) if class_labels is None else class_labels
            labels = torch.where(labels < 0, self.null_class, labels)
            conditioning = conditioning + self.class_embedding(labels)
        elif class_labels is not None:
            raise ValueError("class_labels given to a generator with num_classes=0")
        shared = self.shared_modulation
        block_conditioning = conditioning if shared is None else shared(conditioning)

        # [EOS_a | audio tokens | EOS_v | video tokens], all of which see each other.
        embedded = self.streams.map(LatentStream.embed, sample, given, given_mask)
        hidden = torch.cat(embedded, dim=1)
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden = self._gradient_checkpointing_func(block, hidden, block_conditioning)
            else:
                hidden = block(hidden, block_conditioning)

        audio, video = hidden.split([x.shape[1] for x in embedded], dim=1)
        return AV(self.audio.project(audio, conditioning), self.video.project(video, conditioning))


GENERATORS = {JointGenerator.__name__: JointGenerator}
"""What a generator may be."""


def load_generator(name_or_path: str | Path) -> JointGenerator:
    """Loads a generator in eval mode, float32, from a folder (itself or a model's) or hub name.

    Raises:
        UserError: Nothing usable is there; the sentence says what is wrong.
    """
    model: JointGenerator = load_component(name_or_path, GENERATORS, "generator", "generator")
    return model
