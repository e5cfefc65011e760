"""The multi-modal autoencoder (MM-LDM §3.1, Fig. 3): two encoders, shared semantics, one diffusion decoder.

image latents AV (B,1,c,h,w) (B,T,c,h,w) -> latents AV (B,C,T',H',W') -> Conditions -> denoised
image latents. Model folders name the path of this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from mmldm.errors import UserError
from mmldm.models.component import load_component
from mmldm.models.feature_adapter import FeatureAdapter
from mmldm.models.image_codec import LatentStatistics
from mmldm.models.layers import ModulePair, patchify, quiet_mlp, sampling_fast, unpatchify
from mmldm.models.perceptual_encoder import LatentLayout, PerceptualEncoder, Posterior
from mmldm.models.semantics import ClassificationHead, ContrastiveHead, Projector
from mmldm.models.signal_decoder import SignalDecoder
from mmldm.strict import bind
from mmldm.types import AV, MODALITIES

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Conditions:
    """Everything the signal decoder is told, computed once per clip and used at every step.

    Rows are images: B audio images first, then B*F frames, clip by clip.

    Attributes:
        taps: Feature maps AV (B,C_i,H_i,W_i), (B*F,C_i,H_i,W_i), one per input block.
        pooled: (B+B*F,E), added to the time embedding; None for a model without it.
        context: (B+B*F,L,D) tokens: [modality prompt | class | the other modality's semantics].
        semantics: AV (B,N,D), for the heads; never dropped.
    """

    taps: AV[tuple[Tensor, ...]]
    pooled: Tensor | None
    context: Tensor
    semantics: AV[Tensor]

    @cached_property
    def joined_taps(self) -> tuple[Tensor, ...]:
        """Taps (B+B*F,C_i,H_i,W_i) of both modalities, where their sizes agree."""
        return tuple(torch.cat(pair) for pair in zip(*self.taps, strict=True))


class MultiModalAutoencoder(ModelMixin, ConfigMixin):
    """Encoders, projectors, heads, adapters and the signal decoder, built from plain JSON.

    Args:
        image_latent_shape: (c,h,w) of a frame.
        audio_image_latent_shape: (c,h,w) of the audio image; None: the frames'.
        num_frames: T, frames per clip.
        audio_encoder_config: Arguments of `PerceptualEncoder` for the audio image; holds
            `latent_shape`.
        video_encoder_config: The same for the frames.
        adapter_config: Arguments of `FeatureAdapter` beside those derived here.
        semantic_config: Arguments of `Projector` for both modalities; with {"audio": {...},
            "video": {...}} inside, those override it for one.
        decoder_config: Arguments of `SignalDecoder.from_sizes`; channels are derived.
        decoder_patch_size: Cells of the image latent folded into channels around the U-Net; 1 is
            the paper's.
        num_classes: K; 0: no class token and no classification head.
        prompt_tokens: Learned tokens that say which modality a row is; 0: none.
        contrastive_dim: E, width of the contrastive embeddings.
        with_pooled_latent: The pooled latent joins the time embedding (Table 3 has a row without).
        with_class_token: The class is a context token (Table 3); no effect without classes.
        with_semantics: The other modality's semantics are context tokens (Table 3).
        detach_latents: Heads and context do not shape the latents (the release's choice: without
            it, late training diverged there).
        latent_statistics: `LatentStatistics.to_dict()` of the image latents this model was trained
            on.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        audio_encoder_config: dict[str, Any],
        video_encoder_config: dict[str, Any],
        latent_statistics: dict[str, Any],
        image_latent_shape: Sequence[int] = (4, 32, 32),
        audio_image_latent_shape: Sequence[int] | None = None,
        num_frames: int = 16,
        adapter_config: dict[str, Any] | None = None,
        semantic_config: dict[str, Any] | None = None,
        decoder_config: dict[str, Any] | None = None,
        decoder_patch_size: int = 1,
        num_classes: int = 0,
        prompt_tokens: int = 77,
        contrastive_dim: int = 256,
        with_pooled_latent: bool = True,
        with_class_token: bool = True,
        with_semantics: bool = True,
        detach_latents: bool = True,
    ) -> None:
        super().__init__()
        frames: AV[int] = AV(1, num_frames)
        images: AV[Sequence[int]] = AV(
            audio_image_latent_shape or image_latent_shape, image_latent_shape
        )

        # Audio and video perceptual encoders: what the latents look like follows from their sections.
        def encoder(
            name: str, config: Mapping[str, Any], image: Sequence[int], num_frames: int
        ) -> PerceptualEncoder:
            shape = {"image_latent_shape": image, "num_frames": num_frames}
            return _build(PerceptualEncoder, config, f"{name}_encoder_config", **shape)

        sections = AV(audio_encoder_config, video_encoder_config)
        self.encoders = ModulePair(MODALITIES.map(encoder, sections, images, frames))
        layouts = self.encoders.av.map(lambda encoder: encoder.layout)

        # The signal decoder, over patches of cells where the recipe folds them.
        p = decoder_patch_size
        for _, h, w in images:
            if h % p or w % p:
                raise UserError(f"decoder_patch_size {p} does not divide image latents of {h}x{w}.")
        c = image_latent_shape[0]
        self.decoder: SignalDecoder = _build(
            SignalDecoder.from_sizes, decoder_config, "decoder_config", channels=c * p * p
        )
        sampling_fast(self.decoder)

        # A latent's own way into the decoder: feature maps after its input blocks, and its time embedding.
        def adapter(layout: LatentLayout, image: Sequence[int], num_frames: int) -> FeatureAdapter:
            taps = self.decoder.tap_shapes(image[1] // p, image[2] // p)
            derived = {"layout": layout, "num_frames": num_frames, "tap_shapes": taps}
            return _build(FeatureAdapter, adapter_config, "adapter_config", **derived)

        self.adapters = ModulePair(layouts.map(adapter, images, frames))
        time_dim = self.decoder.time_embedding_dim
        self.pooled: ModulePair[nn.Sequential] | None = None
        if with_pooled_latent:
            self.pooled = ModulePair(layouts.map(lambda x: quiet_mlp(x.channels, time_dim)))

        # The shared semantic space, and how one modality's semantics reach the other's images.
        shared = dict(semantic_config or {})
        own = AV(*(shared.pop(modality, {}) for modality in MODALITIES))

        def projector(layout: LatentLayout, extra: Mapping[str, Any]) -> Projector:
            return _build(Projector, {**shared, **extra}, "semantic_config", layout=layout)

        self.projectors = ModulePair(layouts.map(projector, own))
        width = self.projectors.audio.out.out_features
        context_dim = self.decoder.config.cross_attention_dim
        self.semantic_context: ModulePair[nn.Sequential] | None = None
        if with_semantics:
            self.semantic_context = ModulePair(
                AV(quiet_mlp(width, context_dim), quiet_mlp(width, context_dim))
            )

        # The other context tokens: learned prompts of the modality, and the class.
        self.prompts = nn.Parameter(0.1 * torch.randn(2, prompt_tokens, context_dim))
        has_token = with_class_token and num_classes > 0
        self.class_tokens = nn.Embedding(num_classes, context_dim) if has_token else None
        if not (with_semantics or prompt_tokens or has_token):
            raise UserError(
                "autoencoder: without prompt tokens, class token and semantic context the signal "
                "decoder's cross-attention has nothing to read; keep one of them"
            )

        # Heads of the classification and the contrastive loss (Eq. 1).
        self.classifier = ClassificationHead(width, num_classes) if num_classes else None
        self.contrast = ContrastiveHead(width, contrastive_dim)

    @property
    def latent_shapes(self) -> AV[tuple[int, int, int, int]]:
        """(C,T',H',W') of each modality."""
        return self.encoders.av.map(lambda encoder: encoder.layout.shape)

    @property
    def image_latent_shapes(self) -> AV[tuple[int, ...]]:
        """(c,h,w) of an image latent: of the audio image, and of a frame."""
        frame = tuple(self.config.image_latent_shape)
        return AV(tuple(self.config.audio_image_latent_shape or frame), frame)

    @property
    def image_statistics(self) -> LatentStatistics:
        """Statistics of the image latents, for `ImageCodec`."""
        return LatentStatistics.from_dict(self.config.latent_statistics)

    @overload
    def encode(self, image_latents: AV[Tensor]) -> AV[Posterior]: ...

    @overload
    def encode(self, image_latents: AV[Tensor | None]) -> AV[Posterior | None]: ...

    @apply_forward_hook
    def encode(self, image_latents: AV[Any]) -> AV[Any]:
        """Image latents AV (B,1,c,h,w), (B,T,c,h,w) -> posteriors over AV (B,C,T',H',W'); None stays None."""

        def encoded(encoder: PerceptualEncoder, x: Tensor | None) -> Posterior | None:
            """(B,T,c,h,w) -> Posterior over (B,C,T',H',W')."""
            return None if x is None else encoder(x)

        return self.encoders.av.map(encoded, image_latents)

    @apply_forward_hook
    def semantics(self, latents: AV[Tensor]) -> AV[Tensor]:
        """Latents AV (B,C,T',H',W') -> tokens AV (B,N,D)."""
        if self.config.detach_latents:
            latents = latents.map(Tensor.detach)
        return self.projectors(latents)

    @apply_forward_hook
    def class_logits(self, semantics: AV[Tensor]) -> Tensor:
        """Tokens AV (B,N,D) -> (B,K). Only for a model with classes."""
        if self.classifier is None:
            raise ValueError("this autoencoder was built without classes (num_classes=0)")
        return self.classifier(semantics)

    @apply_forward_hook
    def contrastive(self, semantics: AV[Tensor]) -> AV[Tensor]:
        """Tokens AV (B,N,D) -> unit vectors AV (B,E); divide their products by `temperatures`."""
        return self.contrast(semantics)

    @property
    def temperatures(self) -> AV[Tensor]:
        """Learned temperatures of the contrastive loss, AV of 0-d tensors."""
        return self.contrast.temperatures

    @apply_forward_hook
    def condition(
        self,
        latents: AV[Tensor],
        frame_indices: Tensor,
        class_labels: Tensor | None = None,
        drop: AV[Tensor] | None = None,
        alone: AV[Tensor] | None = None,
    ) -> Conditions:
        """Turns latents into everything the signal decoder is told.

        Args:
            latents: AV (B,C,T',H',W').
            frame_indices: (B,F) in [0,T): the frames that will be denoised.
            class_labels: (B,); None or a negative label: the class predicted from the latents,
                as in the paper's inference.
            drop: AV (B,) bool. A dropped modality has zero latents in its own features and pooled
                embedding, a zero prompt, and is zero tokens to the other modality. The class token
                stays.
            alone: AV (B,) bool. Images of such a modality see neither class token nor the other
                modality's semantics, only zeros: their own latents have to tell everything.
        """
        B, F = frame_indices.shape
        frames = AV(torch.zeros_like(frame_indices[:, :1]), frame_indices)

        # What one modality can tell the other, and the prompt that says which modality a row is.
        semantics = self.semantics(latents)
        told: AV[list[Tensor]] = AV([], [])
        if self.semantic_context is not None:
            told = self.semantic_context(semantics).map(lambda tokens: [tokens])
        prompts: AV[Tensor] = AV(*self.prompts[:, None].expand(2, B, -1, -1))
        if drop is not None:
            latents, prompts = latents.map(_zero_rows, drop), prompts.map(_zero_rows, drop)
            told = told.map(_zero_rows_of_each, drop)

        # The latent's own features, frame by frame.
        maps = self.adapters(latents, frames)
        pooled = None
        if self.pooled is not None:
            slots = self.adapters.av.map(FeatureAdapter.pooled_slots, latents, frames)
            pooled = torch.cat(self.pooled(slots))

        # Tokens for cross-attention: [modality prompt | class | the other modality's semantics].
        classes = self._class_token(semantics, class_labels)
        foreign = AV([*classes, *told.video], [*classes, *told.audio])
        if alone is not None:
            foreign = foreign.map(_zero_rows_of_each, alone)
        audio, video = prompts.map(lambda own, others: torch.cat([own, *others], dim=1), foreign)
        return Conditions(
            taps=maps.map(tuple),
            pooled=pooled,
            context=torch.cat([audio, video.repeat_interleave(F, dim=0)]),
            semantics=semantics,
        )

    def _class_token(self, semantics: AV[Tensor], labels: Tensor | None) -> list[Tensor]:
        """Tokens AV (B,N,D), labels (B,) -> [(B,1,D)], or nothing for a model without classes."""
        if self.class_tokens is None:
            return []
        with torch.no_grad():
            predicted = self.class_logits(semantics).argmax(1)
        labels = predicted if labels is None else torch.where(labels < 0, predicted, labels)
        return [self.class_tokens(labels)[:, None]]

    @apply_forward_hook
    def denoise(
        self,
        sample: AV[Tensor],
        timesteps: AV[Tensor],
        conditions: Conditions,
        images_per_call: int | None = None,
    ) -> AV[Tensor]:
        """One evaluation of the signal decoder, for both modalities in one batch where sizes agree.

        Args:
            sample: AV (B,1,c,h,w), (B,F,c,h,w) noisy normalised image latents.
            timesteps: AV (B,1), (B,F), one per image.
            conditions: Of the same B clips and F frames.
            images_per_call: Images the U-Net sees at once; bounds memory, changes no number. None:
                all.

        Returns:
            AV of the prediction, shaped like `sample`, in the schedule's parameterisation.
        """
        p = self.config.decoder_patch_size
        B, F = sample.video.shape[:2]
        rows = sample.map(lambda images: patchify(images.flatten(0, 1), (p, p)))
        times = torch.cat([t.flatten() for t in timesteps])
        run = partial(self._denoise, times, conditions, images_per_call)
        if rows.audio.shape[1:] == rows.video.shape[1:]:
            both = run(torch.cat(rows), conditions.joined_taps, slice(None))
            out = AV(*both.split([B, B * F]))
        else:
            out = rows.map(run, conditions.taps, AV(slice(0, B), slice(B, None)))
        images = out.map(lambda x: unpatchify(x, (p, p)))
        return AV(images.audio.unflatten(0, (B, 1)), images.video.unflatten(0, (B, F)))

    def _denoise(
        self,
        times: Tensor,
        conditions: Conditions,
        images_per_call: int | None,
        images: Tensor,
        taps: tuple[Tensor, ...],
        rows: slice,
    ) -> Tensor:
        """Patchified images (N,C,h,w) with their taps (N,...) -> prediction (N,C,h,w).

        Args:
            times: (B+B*F,), of which `rows` are these images', as of the conditions.
        """
        times, context = times[rows], conditions.context[rows]
        pooled = None if conditions.pooled is None else conditions.pooled[rows]
        size = images_per_call or len(images)
        parts = [slice(start, start + size) for start in range(0, len(images), size)]
        return torch.cat(
            [
                self.decoder(
                    images[part],
                    times[part],
                    context[part],
                    taps=[tap[part] for tap in taps],
                    pooled=None if pooled is None else pooled[part],
                )
                for part in parts
            ]
        )


AUTOENCODERS = {MultiModalAutoencoder.__name__: MultiModalAutoencoder}


def load_autoencoder(name_or_path: str | Path) -> MultiModalAutoencoder:
    """Loads an autoencoder in eval mode, float32, from a folder (itself or a model's) or hub name.

    Raises:
        UserError: Nothing usable is there; the sentence says what is wrong.
    """
    model: MultiModalAutoencoder = load_component(
        name_or_path, AUTOENCODERS, "autoencoder", "autoencoder"
    )
    return model


def _build(
    part: Callable[..., M], config: Mapping[str, Any] | None, where: str, **derived: Any
) -> M:
    """One part from its section; an unknown key there is a `UserError`."""
    return part(**bind(config or {}, part, where, **derived))


def _zero_rows(values: Tensor, drop: Tensor) -> Tensor:
    """Zeroes the rows of (B,...) where `drop` (B,) is True."""
    return values.masked_fill(drop.reshape(-1, *[1] * (values.dim() - 1)), 0)


def _zero_rows_of_each(tokens: list[Tensor], drop: Tensor) -> list[Tensor]:
    """The same in each of several tensors (B,N,D)."""
    return [_zero_rows(x, drop) for x in tokens]
