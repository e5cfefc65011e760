"""Image VAEs (MM-LDM §2, KL-VAE), all with the interface of diffusers' `AutoencoderKL`, and their loader.

images (N,3,H,W) in [-1,1] -> image latents (N,c,H/f,W/f) -> images. Frames and audio images share one
network; what it gives is raw, and `image_codec` normalises it. `encode(x).latent_dist` has `mean`,
`logvar`, `sample`, `mode`; `decode(z).sample` is the image.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import (
    DecoderOutput,
    DiagonalGaussianDistribution,
    Encoder,
)
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from mmldm.errors import UserError
from mmldm.models.component import load_component
from mmldm.models.layers import ResBlock
from mmldm.models.shuffle_decoder import shuffle_decoder
from mmldm.models.weights import is_file_name, load_exactly, read_tensors, rename_original


class PatchAutoencoderKL(ModelMixin, ConfigMixin):
    """Small KL-VAE that never convolves at full resolution: patches in, pixel-shuffle out.

    Args:
        patch_size: f, the downsampling; a power of two, at least 2.
        base_channels: Width at latent resolution.
        upsample_channels: Widths of the decoder between latent and half resolution, one per
            doubling: log2(patch_size) - 1 of them.
        decoder_channels: The decoder's width at latent resolution; None: `base_channels`.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 4,
        patch_size: int = 4,
        base_channels: int = 64,
        encoder_blocks: int = 2,
        decoder_blocks: int = 4,
        upsample_channels: tuple[int, ...] = (48,),
        decoder_channels: int | None = None,
    ) -> None:
        super().__init__()
        if patch_size != 2 ** (len(upsample_channels) + 1):
            raise UserError(
                f"image VAE: patch_size {patch_size} needs log2(patch_size) - 1 entries in "
                f"upsample_channels, got {list(upsample_channels)}."
            )
        # Patches in: full resolution is only ever folded into channels.
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(patch_size),
            nn.Conv2d(in_channels * patch_size**2, base_channels, 3, padding=1),
            *(ResBlock(base_channels, base_channels) for _ in range(encoder_blocks)),
            nn.Conv2d(base_channels, 2 * latent_channels, 1),
        )
        self.decoder = shuffle_decoder(
            latent_channels,
            decoder_channels or base_channels,
            decoder_blocks,
            upsample_channels,
            in_channels,
        )

    @apply_forward_hook
    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """(N,3,H,W) in [-1,1] -> Gaussian posterior over (N,c,H/f,W/f)."""
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(self.encoder(x)))

    @apply_forward_hook
    def decode(self, z: Tensor) -> DecoderOutput:
        """(N,c,H/f,W/f) -> images (N,3,H,W), about [-1,1], not clamped."""
        return DecoderOutput(sample=self.decoder(z))

    def with_decoder(
        self, decoder_channels: int, decoder_blocks: int, upsample_channels: tuple[int, ...]
    ) -> PatchAutoencoderKL:
        """The same encoder, and so the same latents, with an untrained decoder of these widths."""
        vae = PatchAutoencoderKL.from_config(
            self.config,
            decoder_channels=decoder_channels,
            decoder_blocks=decoder_blocks,
            upsample_channels=upsample_channels,
        )
        vae.encoder.load_state_dict(self.encoder.state_dict())
        return vae


class LightAutoencoderKL(ModelMixin, ConfigMixin):
    """A KL-VAE's encoder, and so its latents, with the light decoder of `PatchAutoencoderKL`.

    What Stable Diffusion's decoder makes with 622 GFLOP at 256x256, this one makes with 16.5.

    Args:
        block_out_channels: Of `AutoencoderKL`, with `layers_per_block` and `norm_num_groups`.
        decoder_channels: The decoder's width at latent resolution.
        upsample_channels: Widths of the decoder between latent and half resolution, one per doubling.
    """

    @register_to_config
    def __init__(
        self,
        block_out_channels: tuple[int, ...],
        layers_per_block: int,
        latent_channels: int,
        norm_num_groups: int,
        decoder_channels: int,
        decoder_blocks: int,
        upsample_channels: tuple[int, ...],
    ) -> None:
        super().__init__()
        if len(upsample_channels) != len(block_out_channels) - 2:
            raise UserError(
                f"image VAE: upsample_channels needs {len(block_out_channels) - 2} entries for a KL-VAE of "
                f"{len(block_out_channels)} levels, got {list(upsample_channels)}."
            )
        self.encoder = Encoder(
            out_channels=latent_channels,
            down_block_types=("DownEncoderBlock2D",) * len(block_out_channels),
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
        )
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.decoder = shuffle_decoder(
            latent_channels, decoder_channels, decoder_blocks, upsample_channels
        )

    @classmethod
    def of(
        cls,
        vae: AutoencoderKL,
        decoder_channels: int = 256,
        decoder_blocks: int = 4,
        upsample_channels: tuple[int, ...] = (192, 96),
    ) -> LightAutoencoderKL:
        """The encoder of a KL-VAE, with an untrained decoder of these widths."""
        own = ("block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups")
        light = cls(
            **{name: vae.config[name] for name in own},
            decoder_channels=decoder_channels,
            decoder_blocks=decoder_blocks,
            upsample_channels=upsample_channels,
        )
        light.encoder.load_state_dict(vae.encoder.state_dict())
        light.quant_conv.load_state_dict(vae.quant_conv.state_dict())
        return light

    @apply_forward_hook
    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """(N,3,H,W) in [-1,1] -> Gaussian posterior over (N,c,H/f,W/f)."""
        moments = self.quant_conv(self.encoder(x))
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))

    @apply_forward_hook
    def decode(self, z: Tensor) -> DecoderOutput:
        """(N,c,H/f,W/f) -> images (N,3,H,W), about [-1,1], not clamped."""
        return DecoderOutput(sample=self.decoder(z))


class TinyImageAutoencoder(ModelMixin, ConfigMixin):
    """Distilled f=8 autoencoder in the file layout of TAESD, TAESD3, TAEF1 and TAEF2.

    Its posterior has no variance. The published weights read and write RGB in [0,1]; this class
    speaks [-1,1] like the others.

    Args:
        latent_channels: 4 (SD), 16 (SD3, FLUX.1) or 32 (FLUX.2).
        midblock_norm: The lowest level's blocks have the GroupNorm branch of the 32-channel
            variants.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 4, midblock_norm: bool = False) -> None:
        super().__init__()
        width = 64

        def conv(a: int, b: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
            return nn.Conv2d(a, b, 3, stride=stride, padding=1, bias=bias)

        def blocks(norm: bool = False) -> list[nn.Module]:
            return [TinyBlock(width, norm) for _ in range(3)]

        # The positions in these two lists are the keys of the weight files.
        self.encoder = nn.Sequential(
            conv(3, width), TinyBlock(width),
            conv(width, width, 2, False), *blocks(),
            conv(width, width, 2, False), *blocks(),
            conv(width, width, 2, False), *blocks(midblock_norm),
            conv(width, latent_channels),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            SoftClamp(), conv(latent_channels, width), nn.ReLU(),
            *blocks(midblock_norm), nn.Upsample(scale_factor=2), conv(width, width, 1, False),
            *blocks(), nn.Upsample(scale_factor=2), conv(width, width, 1, False),
            *blocks(), nn.Upsample(scale_factor=2), conv(width, width, 1, False),
            TinyBlock(width), conv(width, 3),
        )  # fmt: skip

    @apply_forward_hook
    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """(N,3,H,W) in [-1,1] -> point posterior at (N,c,H/8,W/8)."""
        # A log-variance of -30 is none: a posterior's sample is its mean.
        mean = self.encoder((x + 1) / 2)
        parameters = torch.cat([mean, torch.full_like(mean, -30.0)], dim=1)
        return AutoencoderKLOutput(DiagonalGaussianDistribution(parameters, deterministic=True))

    @apply_forward_hook
    def decode(self, z: Tensor) -> DecoderOutput:
        """(N,c,H/8,W/8) -> images (N,3,H,W), about [-1,1], not clamped."""
        return DecoderOutput(sample=2 * self.decoder(z) - 1)

    @classmethod
    def from_tensors(cls, state: dict[str, Tensor], where: str) -> TinyImageAutoencoder:
        """Built from a file's `encoder.*` and `decoder.*` tensors by name, as float32.

        Raises:
            UserError: They are not of this layout; the missing and unexpected ones are named, and
                the file, `where`.
        """
        # These files have no config: the last layer's width and the names of the norms tell the variant.
        last = state.get("encoder.14.bias")
        model = cls(
            latent_channels=4 if last is None else len(last),
            midblock_norm=any(".pool." in key for key in state),
        )
        load_exactly(model, state, where)
        return model.eval()


class TinyBlock(nn.Module):
    """Three 3x3 convolutions around a skip, optionally after a GroupNorm branch."""

    def __init__(self, channels: int, norm: bool = False) -> None:
        super().__init__()
        convs = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
        self.pool = None
        if norm:
            wide = 4 * channels
            self.pool = nn.Sequential(
                nn.Conv2d(channels, wide, 1, bias=False),
                nn.GroupNorm(4, wide),
                nn.ReLU(),
                nn.Conv2d(wide, channels, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H,W)."""
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


class SoftClamp(nn.Module):
    """Keeps latents within [-3,3] smoothly."""

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H,W), within [-3,3]."""
        return torch.tanh(x / 3) * 3


ImageVAE: TypeAlias = PatchAutoencoderKL | TinyImageAutoencoder | AutoencoderKL | LightAutoencoderKL

IMAGE_VAES: dict[str, type[ModelMixin]] = {
    cls.__name__: cls
    for cls in (PatchAutoencoderKL, TinyImageAutoencoder, AutoencoderKL, LightAutoencoderKL)
}
"""Classes of image VAEs by the names that model folders state."""


def load_image_vae(name_or_path: str | Path) -> ImageVAE:
    """Loads an image autoencoder, in eval mode, float32.

    Args:
        name_or_path: A folder written by `save_pretrained` (ours or `AutoencoderKL`), a pipeline
            folder with a `vae` sub-folder, a name of either on the Hugging Face hub, or one
            `.safetensors` file: TAESD's layout, or the original one of a KL-VAE, alone or inside
            a whole Stable Diffusion model (`first_stage_model.*`).

    Raises:
        UserError: Nothing usable is there; the sentence names what is missing.
    """
    if is_file_name(name_or_path):
        return _from_file(name_or_path)
    vae: ImageVAE = load_component(name_or_path, IMAGE_VAES, "vae", "image VAE")
    return vae


def pixels_per_cell(vae: ImageVAE) -> int:
    """Pixels that become a cell of the image latent, along a side; they divide the images' sizes."""
    if isinstance(vae, PatchAutoencoderKL):
        return int(vae.config.patch_size)
    if isinstance(vae, TinyImageAutoencoder):
        return 8
    return int(2 ** (len(vae.config.block_out_channels) - 1))


SD_IMAGE_VAES = frozenset(
    {
        "stabilityai/sd-vae-ft-mse",
        "stabilityai/sd-vae-ft-ema",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "CompVis/stable-diffusion-v1-4",
    }
)
"""Hub names whose image VAE is `sd_image_vae`."""


def sd_image_vae() -> AutoencoderKL:
    """Stable Diffusion's KL-VAE (f=8, 4 channels) as a network, without its published weights."""
    return _kl_vae((128, 256, 512, 512), layers_per_block=2, latent_channels=4)


def _kl_vae(widths: tuple[int, ...], layers_per_block: int, latent_channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=widths,
        layers_per_block=layers_per_block,
        latent_channels=latent_channels,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
    )


def _from_file(path: str | Path) -> TinyImageAutoencoder | AutoencoderKL:
    """One file: a KL-VAE of the original layout, alone or inside a whole model, or TAESD's."""
    # Here and not above: its import costs as much time as loading a small model.
    from diffusers.loaders.single_file_utils import LDM_VAE_KEYS, convert_ldm_vae_checkpoint

    # Names tell the layout apart: diffusers', latent-diffusion's, TAESD's.
    tensors = read_tensors(path)
    if "encoder.conv_norm_out.weight" in tensors:
        raise UserError(
            f"{path} is a file of a diffusers folder: give the folder, whose config.json belongs to it."
        )
    prefix = next(
        (p for p in ("", *LDM_VAE_KEYS) if f"{p}encoder.down.0.block.0.conv1.weight" in tensors),
        None,
    )
    if prefix is None:
        return TinyImageAutoencoder.from_tensors(tensors, str(path))
    # The file has no config; names and shapes say all but the 32 groups, which are fixed.
    conv = re.compile(re.escape(prefix) + r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight")
    blocks = {tuple(map(int, m.groups())): m[0] for m in map(conv.fullmatch, tensors) if m}
    vae = _kl_vae(
        tuple(len(tensors[blocks[level, 0]]) for level, block in sorted(blocks) if block == 0),
        layers_per_block=sum(level == 0 for level, _ in blocks),
        latent_channels=tensors[f"{prefix}decoder.conv_in.weight"].shape[1],
    )
    # A whole Stable Diffusion file holds other networks, too.
    parts = [
        f"{prefix}{part}" for part in ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    ]
    renamed, left = rename_original(tensors, parts, convert_ldm_vae_checkpoint, vae.config)
    load_exactly(vae, renamed, str(path), unexpected=left)
    return vae.eval()
