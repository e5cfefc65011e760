"""Files as latent-diffusion wrote them: diffusers' tensor names turned back into the original ones."""

import re

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

RESIDUAL = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def original_unet(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """`model.diffusion_model.*`."""
    layers = unet.config.layers_per_block
    crossed = [hasattr(block, "attentions") for block in unet.up_blocks]

    def name(key: str) -> str:
        for ours, theirs in OUTSIDE.items():
            if key.startswith(f"{ours}."):
                return key.replace(ours, theirs)
        part, kind, number, rest = parts(key)
        if part == "mid_block":
            return f"middle_block.{2 * number if kind == 'resnets' else 1}.{inside(kind, rest)}"
        way, level = part.split(".")
        if way == "down_blocks":
            first = 1 + int(level) * (layers + 1)
            if kind == "downsamplers":
                return f"input_blocks.{first + layers}.0.{rest.replace('conv', 'op')}"
            return f"input_blocks.{first + number}.{int(kind == 'attentions')}.{inside(kind, rest)}"
        first = int(level) * (layers + 1)
        if kind == "upsamplers":
            return f"output_blocks.{first + layers}.{1 + crossed[int(level)]}.{rest}"
        return f"output_blocks.{first + number}.{int(kind == 'attentions')}.{inside(kind, rest)}"

    def inside(kind: str, rest: str) -> str:
        if kind == "attentions":
            return rest
        layer, _, tensor = rest.rpartition(".")
        return f"{RESIDUAL[layer]}.{tensor}"

    return {f"model.diffusion_model.{name(k)}": v for k, v in unet.state_dict().items()}


def original_vae(vae: AutoencoderKL, prefix: str = "first_stage_model.") -> dict[str, Tensor]:
    """`first_stage_model.*`; attention's linear layers are 1x1 convolutions there."""
    last = len(vae.config.block_out_channels) - 1

    def name(key: str) -> str:
        side, _, rest = key.partition(".")
        if side not in ("encoder", "decoder") or "_block" not in rest:
            return key.replace("conv_norm_out", "norm_out")
        part, kind, number, rest = parts(rest)
        if part == "mid_block":
            if kind == "resnets":
                return f"{side}.mid.block_{number + 1}.{shortcut(rest)}"
            layer, _, tensor = rest.rpartition(".")
            return f"{side}.mid.attn_1.{ATTENTION[layer]}.{tensor}"
        way, level = part.split("_blocks.")
        level = level if way == "down" else str(last - int(level))
        if kind == "resnets":
            return f"{side}.{way}.{level}.block.{number}.{shortcut(rest)}"
        return f"{side}.{way}.{level}.{way}sample.{rest}"

    def shortcut(rest: str) -> str:
        return rest.replace("conv_shortcut", "nin_shortcut")

    def shaped(key: str, value: Tensor) -> Tensor:
        return value[..., None, None] if ".to_" in key and value.ndim == 2 else value

    return {f"{prefix}{name(k)}": shaped(k, v) for k, v in vae.state_dict().items()}


def parts(key: str) -> tuple[str, str, int, str]:
    """down_blocks.1.resnets.0.conv1.weight -> ("down_blocks.1", "resnets", 0, "conv1.weight")."""
    match = re.fullmatch(r"(mid_block|\w+_blocks\.\d+)\.(\w+)\.(\d+)\.(.+)", key)
    assert match is not None, key
    return match[1], match[2], int(match[3]), match[4]
