"""The signal decoder (MM-LDM §3.1, Fig. 3b): a diffusion U-Net from latents to image latents, for both.

noisy image latents (N,c,h,w), timesteps (N,), conditions -> prediction (N,c,h,w). Layout and tensor names
are those of diffusers' `UNet2DConditionModel`, so SD-1.5 weights load as they are
(`SignalDecoder.from_pretrained(sd_folder, subfolder="unet")`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from mmldm.errors import UserError
from mmldm.models.feature_adapter import TapShape


class SignalDecoder(UNet2DConditionModel):
    """U-Net with a tap after every input block (`conv_in`, each residual layer, each downsampler).

    Stock diffusers offers one residual port per level, or adds after the down path has run; MM-LDM
    adds at every input block and lets the sum propagate, hence the down path of its own. Without
    taps and without a pooled embedding the output equals the stock forward bit for bit.
    """

    @classmethod
    def from_sizes(
        cls,
        channels: int,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        cross_attention: Sequence[bool] = (True, True, True, False),
        cross_attention_dim: int = 768,
        attention_heads: int = 8,
        norm_num_groups: int = 32,
    ) -> SignalDecoder:
        """Builds a U-Net with only the options this forward serves; the defaults are SD-1.5's.

        Args:
            channels: c, of the sample and of the prediction.
            block_out_channels: Width per level, each level at half the previous resolution.
            layers_per_block: Residual layers per level on the way down (one more on the way up).
            cross_attention: Per level: a transformer after each residual layer. The middle block
                always has one, so the context reaches every model.
            cross_attention_dim: D, width of the context tokens.
            attention_heads: Heads of every transformer.
            norm_num_groups: Groups of every GroupNorm; divides every width.

        Raises:
            UserError: Lengths differ, or the groups or heads do not divide a width.
        """
        if len(cross_attention) != len(block_out_channels):
            raise UserError(
                f"signal decoder: cross_attention has {len(cross_attention)} entries for "
                f"{len(block_out_channels)} levels; give one per level."
            )
        for width in block_out_channels:
            if width % norm_num_groups or width % attention_heads:
                raise UserError(
                    f"signal decoder: norm_num_groups {norm_num_groups} and attention_heads "
                    f"{attention_heads} must divide every width, not so for {width}."
                )
        prefixes = ["CrossAttn" if crossed else "" for crossed in cross_attention]
        return cls(
            in_channels=channels,
            out_channels=channels,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            down_block_types=tuple(f"{prefix}DownBlock2D" for prefix in prefixes),
            up_block_types=tuple(f"{prefix}UpBlock2D" for prefix in reversed(prefixes)),
            cross_attention_dim=cross_attention_dim,
            # What diffusers calls the head's dimension is, in this class, the number of heads.
            attention_head_dim=attention_heads,
            norm_num_groups=norm_num_groups,
        )

    @property
    def time_embedding_dim(self) -> int:
        """Width of the time embedding, to which pooled latents are added."""
        return self.time_embedding.linear_2.out_features

    def tap_shapes(self, height: int, width: int) -> list[TapShape]:
        """(channels, rows, columns) of every tap, for a sample of `height` x `width` cells.

        Raises:
            UserError: The sample cannot be halved as often as the U-Net does it.
        """
        halvings = 2 ** (len(self.down_blocks) - 1)
        if height % halvings or width % halvings:
            raise UserError(
                f"signal decoder: a sample of {height}x{width} cells cannot be halved "
                f"{len(self.down_blocks) - 1} times; use fewer levels or another patch_size."
            )
        shapes = [(self.conv_in.out_channels, height, width)]
        for block in self.down_blocks:
            shapes += [(resnet.out_channels, height, width) for resnet in block.resnets]
            for downsampler in block.downsamplers or ():
                height, width = height // 2, width // 2
                shapes.append((downsampler.out_channels, height, width))
        return shapes

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        taps: Sequence[Tensor] = (),
        pooled: Tensor | None = None,
    ) -> Tensor:
        """Predicts, in the schedule's parameterisation.

        Args:
            sample: (N,c,h,w).
            timestep: (N,) or 0-d.
            encoder_hidden_states: (N,L,D) context tokens.
            taps: One map per entry of `tap_shapes`, or none.
            pooled: (N,time_embedding_dim), added to the time embedding.

        Returns:
            (N,c,h,w).
        """
        emb = self.time_embedding(self.get_time_embed(sample=sample, timestep=timestep))
        if pooled is not None:
            emb = emb + pooled
        context = encoder_hidden_states

        # Down: a tap is added before the skip is taken, so that both ways carry it.
        skips: list[Tensor] = []
        h = sample
        for index, layer in enumerate(self._input_layers(emb, context)):
            h = layer(h)
            if taps:
                h = h + taps[index]
            skips.append(h)

        # Middle and up, as in stock diffusers.
        h = self.mid_block(h, emb, encoder_hidden_states=context)
        for block in self.up_blocks:
            count = len(block.resnets)
            skips, own = skips[:-count], tuple(skips[-count:])
            crossed = getattr(block, "has_cross_attention", False)
            read = {"encoder_hidden_states": context} if crossed else {}
            h = block(hidden_states=h, temb=emb, res_hidden_states_tuple=own, **read)
        return self.conv_out(self.conv_act(self.conv_norm_out(h)))

    def _input_layers(self, emb: Tensor, context: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
        """The down path, one function (N,C,h,w) -> (N,C',h',w') per input block."""
        yield self.conv_in
        for block in self.down_blocks:
            attentions = getattr(block, "attentions", [None] * len(block.resnets))
            for resnet, attention in zip(block.resnets, attentions, strict=True):
                yield partial(_residual_layer, block, resnet, attention, emb, context)
            yield from block.downsamplers or ()


def _residual_layer(
    block: Any,
    resnet: nn.Module,
    attention: nn.Module | None,
    emb: Tensor,
    context: Tensor,
    h: Tensor,
) -> Tensor:
    """(N,C,h,w) -> (N,C',h,w): a residual block and its transformer, if any, with checkpointing."""
    if torch.is_grad_enabled() and block.gradient_checkpointing:
        h = block._gradient_checkpointing_func(resnet, h, emb)
    else:
        h = resnet(h, emb)
    if attention is not None:
        h = attention(h, encoder_hidden_states=context, return_dict=False)[0]
    return h
