"""What a recipe amounts to, before anything is trained: shapes, parameters, FLOPs, bytes.

RunConfig, manifest -> text. Everything is built on the meta device, so a paper-sized recipe costs no memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmldm.config import RunConfig, TrainConfig
from mmldm.data.manifest import Manifest
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.generator import JointGenerator
from mmldm.training.autoencoder import autoencoder_arguments
from mmldm.training.generator import generator_arguments
from mmldm.training.vae import build_vae
from mmldm.types import AV

BYTES = 4
COPIES = 4
"""A checkpoint holds weights, their average and two Adam moments."""


def summarise(config: RunConfig, manifest: Manifest) -> str:
    """Spaces with shapes, parameters and forward FLOPs per part, steps and bytes per checkpoint."""
    with torch.device("meta"):
        vae = build_vae(config).requires_grad_(True)
        spec = config.clip
        image = torch.empty(1, 3, spec.height, spec.width)
        encode, mean = _flops(lambda: vae.encode(image).latent_dist.mean)
        decode, _ = _flops(lambda: vae.decode(mean).sample)
        shape = tuple(mean.shape[1:])
        unscaled = {m: {"mean": [0.0] * shape[0], "std": [1.0] * shape[0]} for m in AV._fields}
        autoencoder = MultiModalAutoencoder(
            **autoencoder_arguments(config, shape, unscaled, len(manifest.classes))
        )
        latents = autoencoder.latent_shapes
        generator = JointGenerator(
            **generator_arguments(config, latents, None, len(manifest.classes))
        )
        frames = spec.num_frames
        clip = AV(torch.empty(1, 1, *shape), torch.empty(1, frames, *shape))
        encoding, posterior = _flops(lambda: autoencoder.encode(clip))
        z = posterior.map(lambda p: p.mean)
        labels = torch.zeros(1, dtype=torch.long) if manifest.classes else None
        indices = torch.arange(frames)[None]
        conditioning, conditions = _flops(lambda: autoencoder.condition(z, indices, labels))
        steps = AV(torch.zeros(1, 1), torch.zeros(1, frames))
        denoising, _ = _flops(lambda: autoencoder.denoise(clip, steps, conditions))
        generating, _ = _flops(lambda: generator(z, torch.zeros(1)))

    lines = [
        "spaces (one clip)",
        f"  media         frames {(frames, 3, spec.height, spec.width)} at {spec.fps:g} fps, "
        f"waveform ({spec.num_samples},) at {spec.sample_rate} Hz",
        f"  images        audio {(1, 3, spec.height, spec.width)}, "
        f"video {(frames, 3, spec.height, spec.width)}",
        f"  image latents audio {(1, *shape)}, video {(frames, *shape)}",
        f"  latents       audio {latents.audio}, video {latents.video}",
        "",
        f"{'parts':<28}{'parameters':>12}{'GFLOP':>10}",
    ]
    for name, model, flops in (
        ("image VAE, encode a clip", vae, encode * (1 + frames)),
        ("image VAE, decode a clip", None, decode * (1 + frames)),
        ("autoencoder, encode", autoencoder, encoding),
        ("autoencoder, condition", None, conditioning),
        ("signal decoder, one step", autoencoder.decoder, denoising),
        ("generator, one step", generator, generating),
    ):
        count = f"{_count(model) / 1e6:.3f} M" if model is not None else ""
        lines.append(f"  {name:<26}{count:>12}{flops / 1e9:>10.3f}")
    lines += ["", f"{'jobs':<14}{'steps':>8}{'batch':>8}{'checkpoint':>14}"]
    for job, model in (("vae", vae), ("autoencoder", autoencoder), ("generator", generator)):
        train: TrainConfig | None = getattr(config, job).train
        if train is None:
            lines.append(f"  {job:<12}{'as it is':>8}")
            continue
        size = COPIES * BYTES * _count(model) / 2**20
        lines.append(f"  {job:<12}{train.steps:>8}{train.batch_size:>8}{size:>10.1f} MiB")
    return "\n".join(lines)


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _flops(call: Any) -> tuple[int, Any]:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        result = call()
    return counter.get_total_flops(), result
