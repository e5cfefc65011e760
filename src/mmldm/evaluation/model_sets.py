"""A model's own sets as folders of mp4 files: samples, and real clips through its autoencoder.

pipeline -> folder/<seed>.mp4;  pipeline, ClipSet -> folder/<content>.mp4

Files are written as `mmldm generate` writes them, so that a model's samples are measured like anybody's. What
is already there is kept: an interrupted call can be repeated.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mmldm.errors import MediaError, UserError
from mmldm.evaluation.sets import ClipSet, Progress
from mmldm.files import sha256_of, write_json
from mmldm.pipelines.sounding_video import SoundingVideoPipeline

BATCH = 8
"""Clips made at once."""
OWNER = "model.json"


def model_sha256(folder: Path) -> str:
    """Of all files of a model folder, in hex: weights, configurations, sampling defaults."""
    total = hashlib.sha256()
    names = (path.relative_to(folder) for path in folder.rglob("*"))
    for name in sorted(name for name in names if name.suffix in (".json", ".safetensors")):
        # What systems and downloads leave beside a model's files is no part of it.
        if not any(part.startswith(".") for part in name.parts):
            total.update(f"{name.as_posix()} {sha256_of(folder / name)}\n".encode())
    return total.hexdigest()


def write_samples(
    pipeline: SoundingVideoPipeline,
    sha256: str,
    folder: Path,
    count: int,
    progress: Progress | None = None,
) -> None:
    """Writes joint samples of seeds 0 to `count` - 1, with the model's own settings.

    Args:
        sha256: Of the model; a folder holds samples of one.

    Raises:
        UserError: The folder holds samples of another model, or more than are asked for.
    """
    _claim(folder, sha256)
    missing = [seed for seed in range(count) if not _sample(folder, seed).is_file()]
    if _sample(folder, count).is_file():
        raise UserError(
            f"{folder} holds more than {count} samples; name another --out, or ask for them"
        )
    for start in range(0, len(missing), BATCH):
        seeds = missing[start : start + BATCH]
        if progress is not None:
            progress("samples", count - len(missing) + start, count)
        made: Any = pipeline(num_samples=len(seeds), seed=seeds, batch_size=BATCH)
        for seed, clip in zip(seeds, made.clips, strict=True):
            clip.save(_sample(folder, seed))
    if progress is not None:
        progress("samples", count, count)


def write_reconstructions(
    pipeline: SoundingVideoPipeline,
    sha256: str,
    clips: ClipSet,
    folder: Path,
    progress: Progress | None = None,
) -> None:
    """Writes clips as the model's autoencoder gives them back: the ceiling of anything built on it.

    Clips too short for the model's own length, or that cannot be read, are left out.

    Args:
        sha256: Of the model.

    Raises:
        UserError: The folder holds reconstructions by another model.
    """
    _claim(folder, sha256)
    for done, source in enumerate(clips.clips):
        path = folder / f"{source.key[:16]}.mp4"
        if path.is_file():
            continue
        if progress is not None:
            progress("reconstructions", done, len(clips.clips))
        try:
            original = source.read(pipeline.clip_spec)
        except MediaError:
            continue
        pipeline.reconstruct(original).save(path)
    if progress is not None:
        progress("reconstructions", len(clips.clips), len(clips.clips))


def _sample(folder: Path, seed: int) -> Path:
    return folder / f"{seed:06d}.mp4"


def _claim(folder: Path, sha256: str) -> None:
    """Makes a folder this model's, or checks that it is."""
    owner = folder / OWNER
    if not owner.is_file():
        write_json(owner, {"sha256": sha256}, indent=None)
        return
    try:
        found = json.loads(owner.read_bytes())
    except ValueError:
        raise UserError(
            f"{owner} is damaged, so whose clips {folder} holds is not known: delete that folder, or name "
            "another --out"
        ) from None
    if found != {"sha256": sha256}:
        raise UserError(f"{folder} holds clips of another model; name another --out")
