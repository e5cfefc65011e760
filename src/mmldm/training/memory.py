"""How much memory a training step takes, by picture size and batch, before anything is trained.

RunConfig, held bytes of each job -> table. What autograd keeps for the way back is counted on fake tensors,
for one clip; it grows with the rows of a pass. It is an estimate from below: the critics' passes, the
short-lived tensors of single layers and the memory of the libraries come on top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.autograd.graph import saved_tensors_hooks

from mmldm.config import RunConfig
from mmldm.errors import UserError
from mmldm.models.generator import JointGenerator
from mmldm.training.jobs.generator import generator_arguments
from mmldm.training.jobs.vae import build_vae
from mmldm.training.jobs.vocoder import build_vocoder
from mmldm.training.summary import JobSize, blamed, untrained_autoencoder, used_vae
from mmldm.types import AV

SIZES = (0.5, 1.0, 2.0)
"""Sides of the picture that are shown, over the recipe's; likewise the batches."""


def memory_table(config: RunConfig, num_classes: int, jobs: Sequence[JobSize]) -> str:
    """What the largest job takes, for pictures and batches around the recipe's own.

    Args:
        num_classes: Of the data.
        jobs: With the bytes that each holds whatever its batch.
    """
    trained = [job for job in jobs if job.train is not None]
    lines = [
        "memory of a training step, activations included (an estimate from below; f32)",
        f"  {'picture':<12}{'half the batch':>16}{'the batch':>16}{'twice the batch':>18}   largest job",
    ]
    for scale in SIZES:
        height, width = (round(side * scale) for side in (config.clip.height, config.clip.width))
        clip = config.clip.model_copy(update={"height": height, "width": width})
        name = f"{width}x{height}"
        try:
            per_clip = activations(config.model_copy(update={"clip": clip}), num_classes)
        except UserError:
            lines.append(f"  {name:<12}not with the networks of this recipe")
            continue
        needs = [
            {job.name: job.memory_bytes + b * _rows(job) * per_clip[job.name] for job in trained}
            for b in SIZES
        ]
        largest = max(needs[1], key=needs[1].__getitem__, default="")
        half, same, twice = (f"{max(need.values(), default=0) / 2**30:.2f} GiB" for need in needs)
        lines.append(f"  {name:<12}{half:>16}{same:>16}{twice:>18}   {largest}")
    batches = ", ".join(f"{job.name} {_rows(job):g} rows" for job in trained)
    lines.append(f"  the batch, in one pass: {batches}; train.accumulate cuts it into more passes")
    return "\n".join(lines)


def activations(config: RunConfig, num_classes: int) -> dict[str, int]:
    """Bytes that each job's networks keep of one clip for their way back.

    Raises:
        UserError: A network does not suit such clips.
    """
    spec = config.clip
    sizes = AV(spec.audio_size, (spec.height, spec.width))
    kept = {}

    # The image VAE: the audio image and some frames. It exists, because its file may tell what it is.
    with FakeTensorMode(allow_non_fake_inputs=True), blamed("vae.model"):
        with unset_fake_temporarily():
            trained: Any = build_vae(config, weights=False)
            vae: Any = used_vae(config, trained)
        images = AV(1, config.vae.frames_per_clip).map(
            lambda count, size: torch.empty(count, 3, *size), sizes
        )
        kept["vae"] = saved_bytes(lambda: images.map(_through(trained)), trained)
        shapes = sizes.map(
            lambda size: tuple(vae.encode(torch.empty(1, 3, *size)).latent_dist.mean.shape[1:])
        )

    # The others, on image latents and latents of one clip.
    with FakeTensorMode():
        with blamed("autoencoder.model"):
            autoencoder = untrained_autoencoder(config, shapes, num_classes)
            frames = config.autoencoder.target_frames
            counts = AV(1, spec.num_frames)
            clip = counts.map(lambda count, shape: torch.empty(1, count, *shape), shapes)
            target = AV(1, frames).map(lambda count, shape: torch.empty(1, count, *shape), shapes)
            steps = target.map(lambda x: torch.zeros(x.shape[:2], dtype=torch.long))
            indices = torch.arange(frames)[None]
            told = torch.zeros(1, dtype=torch.long) if autoencoder.config.num_classes else None

            def decoded() -> Any:
                z = autoencoder.encode(clip).map(lambda posterior: posterior.mean)
                return autoencoder.denoise(
                    target, steps, autoencoder.condition(z, indices, told)
                ), z

            kept["autoencoder"] = saved_bytes(decoded, autoencoder)
        with blamed("generator.model"):
            latents: AV[Any] = autoencoder.latent_shapes
            generator = JointGenerator(**generator_arguments(config, latents, None, num_classes))
            noisy = latents.map(lambda shape: torch.empty(1, *shape))
            timestep = torch.zeros(1, dtype=torch.long)
            kept["generator"] = saved_bytes(lambda: generator(noisy, timestep), generator)
    if config.vocoder is not None:
        with FakeTensorMode(allow_non_fake_inputs=True), blamed("vocoder.model"):
            with unset_fake_temporarily():
                vocoder: Any = build_vocoder(config.vocoder, spec, config.seed)
            sound = vocoder.spectrogram
            columns = spec.model_copy(update={"spectrogram": sound}).num_columns
            mel = torch.empty(1, sound.num_mels, columns)
            kept["vocoder"] = saved_bytes(lambda: vocoder(mel), vocoder)
    return kept


def saved_bytes(call: Callable[[], Any], network: nn.Module) -> int:
    """Bytes that a call keeps for its way back, beside the network's own tensors; each storage once."""
    own = {t.untyped_storage()._cdata for t in (*network.parameters(), *network.buffers())}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        """A tensor of any shape, as it is."""
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(pack, pack):
        # Held until all is counted: a storage that is freed may give its number to another one.
        result = call()
    del result
    return sum(sizes.values())


def _through(vae: Any) -> Callable[[Tensor], Tensor]:
    """What takes images (N,3,H,W) through an image VAE and back."""

    def passed(images: Tensor) -> Tensor:
        decoded: Tensor = vae.decode(vae.encode(images).latent_dist.mean).sample
        return decoded

    return passed


def _rows(job: JobSize) -> float:
    """Of a pass."""
    assert job.train is not None, "only trained jobs are asked for"
    return job.train.batch_size / job.train.accumulate
