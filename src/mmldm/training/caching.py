"""Encodes every window once, so that no training step repeats it.

files -> image latents cache (raw posterior of the image VAE; for the autoencoder job)
image latents cache -> latents cache (raw posterior of the multi-modal encoders; for the generator job)
Means and log-variances are kept; statistics for normalisation are fitted on the train split.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from mmldm.config import RunConfig
from mmldm.data.clips import class_labels, present, read_row, windows
from mmldm.data.latents import CacheWriter, LatentCache, Splits, cache_key, files_key
from mmldm.data.manifest import Manifest, Row, Split
from mmldm.errors import MediaError, UserError
from mmldm.media.images import frames_to_images
from mmldm.media.spectrogram import AudioImage
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_codec import ImageCodec, LatentStatistics
from mmldm.models.image_vae import ImageVAE
from mmldm.types import AV, MODALITIES

Progress = Callable[[str, int, int], None]
"""Called as progress(what, done, total)."""

BATCH = 16
"""Clips encoded at once."""


class _Windows(Dataset[dict[str, Any]]):
    """The fixed windows of some rows; an unreadable one comes back without media, to be counted."""

    def __init__(self, manifest: Manifest, config: RunConfig, rows: list[Row]) -> None:
        self.manifest, self.spec = manifest, config.clip
        self.labels = class_labels(manifest)
        self.windows = windows(rows, config.clip, config.data.windows_per_clip)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, start = self.windows[index]
        item: dict[str, Any] = {"source": index, "label": self.labels[row.class_name]}
        try:
            clip = read_row(self.manifest, row, start, self.spec)
        except MediaError as error:
            return item | {"error": str(error)}
        here = [row.has_audio, row.has_video]
        return item | {"frames": clip.frames, "waveform": clip.waveform, "present": here}


def weights_key(model: nn.Module) -> str:
    """A short hash of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def cache_image_latents(
    config: RunConfig,
    manifest: Manifest,
    vae: ImageVAE,
    folder: Path,
    device: torch.device,
    progress: Progress,
) -> Splits:
    """files -> raw image latents of every window, both splits; an up-to-date cache is reused.

    Raises:
        UserError: A split has no readable window.
    """
    codec = ImageCodec(vae, LatentStatistics.scalar(1.0, 1)).to(device).eval()
    key = cache_key(
        clip=config.clip.model_dump(),
        windows=config.data.windows_per_clip,
        files=files_key(manifest),
        vae=weights_key(vae),
    )
    audio_image = AudioImage(config.clip)
    held_out: Split = "held_out" if manifest.split("held_out") else "train"
    # Measurements are made on clips that have both sound and picture.
    sources = {"train": manifest.split("train"), "held_out": manifest.complete.split(held_out)}
    for split, source in sources.items():
        target = folder / split
        if LatentCache.is_current(target, key):
            continue
        dataset = _Windows(manifest, config, source)
        writer = CacheWriter(target, key)
        todo = Subset(dataset, range(writer.next_source, len(dataset)))
        loader = DataLoader(
            todo, batch_size=BATCH, num_workers=config.data.workers, collate_fn=list
        )
        failures: list[str] = []
        for items in loader:
            failures += [item["error"] for item in items if "error" in item]
            items = [item for item in items if "error" not in item]
            if items:
                writer.add(_encode_media(codec, audio_image, items, device))
                progress(f"image latents, {split}", items[-1]["source"] + 1, len(dataset))
        writer.flush()
        if not writer.rows:
            raise UserError(
                f"no window of the {split} split could be read"
                + (f", for example: {failures[0]}" if failures else " (it is empty).")
            )
        writer.close(
            {
                "classes": manifest.classes,
                "statistics": _fit(writer, lambda x: x).to_dict(),
                "failures": failures,
                "files": _files(writer, dataset),
            }
        )
    return Splits.open(folder)


def _encode_media(
    codec: ImageCodec, audio_image: AudioImage, items: list[dict[str, Any]], device: torch.device
) -> dict[str, Tensor]:
    frames = torch.stack([item["frames"] for item in items]).to(device)
    waveform = torch.stack([item["waveform"] for item in items]).to(device)
    rows: dict[str, Tensor] = {}
    images = AV(audio_image.image(waveform), frames_to_images(frames))
    for modality, x in zip(MODALITIES, images, strict=True):
        rows[f"{modality}_mean"], rows[f"{modality}_logvar"] = codec.posterior(x)
    for name in ("source", "label", "present"):
        rows[name] = torch.tensor([item[name] for item in items])
    return rows


@torch.no_grad()
def cache_latents(
    autoencoder: MultiModalAutoencoder,
    codec: ImageCodec,
    images: Splits,
    folder: Path,
    device: torch.device,
    progress: Progress,
) -> Splits:
    """image latents cache -> raw posterior of the perceptual latents, both splits."""
    autoencoder, codec = autoencoder.to(device).eval(), codec.to(device).eval()
    for split, cache in zip(Splits._fields, images, strict=True):
        key = cache_key(images=cache.key, autoencoder=weights_key(autoencoder))
        target = folder / split
        if LatentCache.is_current(target, key):
            continue
        writer = CacheWriter(target, key)
        for rows in torch.arange(writer.next_source, len(cache)).split(4 * BATCH):
            batch = {name: value.to(device) for name, value in cache[rows].items()}
            posterior = autoencoder.encode(
                AV(
                    codec.normalise(batch["audio_mean"], "audio"),
                    codec.normalise(batch["video_mean"], "video"),
                )
            )
            entries = {"label": batch["label"], "source": rows}
            entries["present"] = torch.stack(present(batch), dim=1)
            for modality, dist in zip(MODALITIES, posterior, strict=True):
                entries |= {f"{modality}_mean": dist.mean, f"{modality}_logvar": dist.logvar}
            writer.add(entries)
            progress(f"latents, {split}", int(rows[-1]) + 1, len(cache))
        writer.flush()
        statistics = _fit(writer, lambda x: x.flatten(2)[..., None])
        extra = {name: cache.extra[name] for name in ("classes", "files") if name in cache.extra}
        writer.close({**extra, "statistics": statistics.to_dict()})
    return Splits.open(folder)


def _files(writer: CacheWriter, dataset: _Windows) -> list[tuple[str, int]]:
    """The file of every row: a file has its rows together, so (path, rows) one after the other."""
    sources = itertools.chain.from_iterable(s["source"].tolist() for s in writer.committed())
    paths = (dataset.windows[source][0].path for source in sources)
    return [(path, len(list(rows))) for path, rows in itertools.groupby(paths)]


def _fit(writer: CacheWriter, as_images: Callable[[Tensor], Tensor]) -> LatentStatistics:
    """Statistics of the posteriors written so far, once they are viewed as (..., C, H, W).

    Mean plus and minus the standard deviation have the mean and the variance of the posterior's
    samples. The samples' variance counts, not the means': a channel that the posterior leaves near
    its prior has means near zero, and dividing by their spread would blow noise up to full size.
    """

    def batches() -> Iterator[AV[Tensor]]:
        for shard in writer.committed():
            yield MODALITIES.map(lambda m, shard=shard: as_images(_two_points(shard, m)))

    return LatentStatistics.fit(batches())


def _two_points(shard: dict[str, Tensor], modality: str) -> Tensor:
    """Two points per number of every clip that has the modality."""
    here = getattr(present(shard), modality)
    mean, logvar = (shard[f"{modality}_{name}"][here].float() for name in ("mean", "logvar"))
    std = torch.exp(0.5 * logvar)
    return torch.cat([mean + std, mean - std])
