"""Which caches a job reads: those on the disk, new ones, or none, because the job is finished.

job folder, clips, networks -> Splits. What a job began with is compared before anything is encoded or thrown
away: a job that is half-way goes on with the same rows or is refused, and a finished one needs no rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmldm.config import RunConfig, TrainConfig
from mmldm.data.cache_writer import FORMAT, CacheWriter, cache_key, json_of
from mmldm.data.latents import LatentCache, Splits
from mmldm.data.manifest import Manifest
from mmldm.errors import UserError
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_codec import ImageCodec
from mmldm.models.image_vae import ImageVAE
from mmldm.text import printable
from mmldm.training.block_work import Say
from mmldm.training.caching import (
    LEFT_OUT,
    cache_image_latents,
    cache_latents,
    image_latents_parts,
    latents_parts,
)
from mmldm.training.checkpoint import CheckpointFolder, refuse_changes
from mmldm.training.distributed import Process
from mmldm.training.stopping import was_out_of_time
from mmldm.types import AV, MODALITIES, Latents, Progress

VERSIONS = ("format", "reading")
"""What a cache depends on besides recipe, clips and networks."""


@dataclass(frozen=True)
class Job:
    """A job that reads caches.

    Attributes:
        name: Such as `autoencoder` or `generator_8`.
        folder: Its checkpoints and export.
    """

    name: str
    folder: Path
    train: TrainConfig


@dataclass(frozen=True)
class Begun:
    """What the newest readable checkpoint of a job says.

    Attributes:
        cache: `LatentCache.identity` of what it trains on; of format 1, the cache's key.
        ended: Whether it has taken all its steps, or all its time, and is exported.
    """

    step: int
    cache: Any
    ended: bool

    @classmethod
    def of(cls, job: Job) -> Begun | None:
        """None if it has no checkpoint yet."""
        checkpoints = CheckpointFolder(job.folder / "checkpoints", job.train.keep, _hush)
        for step in reversed(checkpoints.steps()):
            with suppress(KeyError, TypeError):
                cache = json_of(checkpoints.folder(step) / "state.json")["identity"][job.name][
                    "cache"
                ]
                minutes = job.train.max_minutes
                ended = step == job.train.steps or was_out_of_time(job.folder, step, minutes, _hush)
                return cls(step, cache, ended and (job.folder / "export").is_dir())
        return None

    @property
    def without(self) -> frozenset[str]:
        """Files that the job does without, because they could not be read when it began."""
        return frozenset(self.cache["unreadable"] if isinstance(self.cache, dict) else ())


@dataclass
class JobCaches:
    """The caches of a run.

    Args:
        folder: Where they lie.
        progress: Called as progress(what, done, total) while encoding.
        say: Called with sentences, by rank 0.
    """

    config: RunConfig
    manifest: Manifest
    folder: Path
    process: Process
    progress: Progress
    say: Say

    def image_latents(self, vae: ImageVAE, job: Job | None = None) -> Splits:
        """Image latents of every window, for a job.

        Raises:
            UserError: The job is half-way on others, or too many files cannot be read.
        """
        parts = image_latents_parts(self.config, self.manifest, vae)
        begun = self._begun(job, parts)
        if job is not None and begun is not None and begun.ended:
            return _remembered(job, begun, self.manifest)
        return self._image_latents(vae, begun)

    def latents(
        self, vae: ImageVAE, autoencoder: MultiModalAutoencoder, job: Job | None = None
    ) -> Splits:
        """Latents of every window, for a job; image latents are looked at only if they are needed.

        Raises:
            UserError: As `image_latents`.
        """
        parts = latents_parts(image_latents_parts(self.config, self.manifest, vae), autoencoder)
        begun = self._begun(job, parts)
        if job is not None and begun is not None and begun.ended:
            return _remembered(job, begun, self.manifest)
        folder = self.folder / "latents"
        at_hand = self.process.is_main and _is_current(folder, parts, begun)
        if self.process.from_main(at_hand):
            return Splits.open(folder, verified=True)
        return cache_latents(
            autoencoder,
            ImageCodec(vae, autoencoder.image_statistics),
            self._image_latents(vae, begun),
            folder,
            self.process,
            self.progress,
            self.say,
        )

    def _image_latents(self, vae: ImageVAE, begun: Begun | None) -> Splits:
        return cache_image_latents(
            self.config,
            self.manifest,
            vae,
            self.folder / "image_latents",
            self.process,
            self.progress,
            self.say,
            without=begun.without if begun is not None else (),
        )

    def _begun(self, job: Job | None, parts: Mapping[str, Any]) -> Begun | None:
        if job is None:
            return None
        begun = Begun.of(job)
        if begun is not None:
            self.process.on_main(lambda: require_same(begun, job, parts))
        return begun


def require_same(begun: Begun, job: Job, parts: Mapping[str, Any]) -> None:
    """Refuses to give a job other rows than those it began with.

    A finished job passes if only caches, or how files are read, have another version since.

    Raises:
        UserError: What differs, and what to do.
    """
    now = {"format": FORMAT, **parts}
    if isinstance(begun.cache, dict):
        saved = {name: value for name, value in begun.cache.items() if name != "unreadable"}
        of_its_time = {**now, **{name: saved.get(name) for name in VERSIONS}}
    else:
        saved, of_its_time = {"key": begun.cache}, {"key": first_key(parts)}
    if saved == now or (saved == of_its_time and begun.ended):
        return
    if saved == of_its_time:
        raise UserError(
            f"{job.folder}: the {job.name} job is half-way (step {begun.step} of {job.train.steps}) on "
            "caches of an earlier version, whose windows lie elsewhere: finish it with the version that "
            f"began it, or delete {job.folder} and the folders of the jobs after it to train it again. "
            "Nothing was changed; finished models stay as they are."
        )
    if "key" in saved:
        raise UserError(
            f"{job.folder}: cannot resume, because the clips, windows_per_clip, or the networks that "
            "its caches were made with have changed since. Put the old ones back, or start in another "
            "folder."
        )
    refuse_changes({"caches": saved}, {"caches": now}, str(job.folder))


def first_key(parts: Mapping[str, Any]) -> str:
    """The key that a cache of format 1 had."""
    images = cache_key(
        clip=parts["clip"],
        windows=parts["windows_per_clip"],
        files=parts["clips"],
        vae=parts["image_vae"],
    )
    if "autoencoder" not in parts:
        return images
    return cache_key(images=images, autoencoder=parts["autoencoder"])


def unread(caches: Splits, what: str) -> list[str]:
    """A sentence for every file whose windows are missing."""
    failed = {**caches.held_out.failed, **caches.train.failed}
    again = "its windows are left out, and the file is tried again by the next job that begins"
    return [
        f"{what}: {printable(name)} is {reason}"
        if reason == LEFT_OUT
        else f"{what}: cannot read {printable(name)}: {printable(reason)}; {again}"
        for name, reason in failed.items()
    ]


class RememberedCache(LatentCache):
    """What a finished job knows of its cache: enough to build its model and export it again.

    Args:
        identity: Of the cache, as the job's checkpoint has it.
        shapes: Of a clip's means.
    """

    def __init__(
        self, identity: Any, shapes: AV[tuple[int, ...]], extra: Mapping[str, Any]
    ) -> None:
        self._identity, self._shapes, self.extra, self.failed = identity, shapes, dict(extra), {}

    @property
    def identity(self) -> Any:
        return self._identity

    def __len__(self) -> int:
        return 1

    @property
    def shapes(self) -> AV[tuple[int, ...]]:
        return self._shapes

    def __getitem__(self, indices: Tensor) -> Latents:
        raise UserError(
            "the job's last checkpoint is damaged, so it is not finished any more: the same command "
            "goes on from the checkpoint before."
        )


def _remembered(job: Job, begun: Begun, manifest: Manifest) -> Splits:
    shapes: AV[tuple[int, ...]] = AV((), ())
    extra: dict[str, Any] = {"classes": manifest.classes}
    if job.name == "autoencoder":
        model = json_of(job.folder / "export" / "config.json")
        image = tuple(model["image_latent_shape"])
        shapes = AV((1, *image), (model["num_frames"], *image))
        extra["statistics"] = model["latent_statistics"]
    elif job.name == "generator":
        model = json_of(job.folder / "export" / "generator" / "config.json")
        shapes = MODALITIES.map(lambda modality: tuple(model[f"{modality}_latent_shape"]))
        extra["statistics"] = model["latent_statistics"]
    cache = RememberedCache(begun.cache, shapes, extra)
    return Splits(cache, cache)


def _is_current(folder: Path, parts: Mapping[str, Any], begun: Begun | None) -> bool:
    """Whether finished caches lie in `folder`, whole, and nothing is missing that could be there."""
    key = CacheWriter(folder, parts).key
    try:
        caches = Splits.open(folder)
    except UserError:
        return False
    without = begun.without if begun is not None else frozenset()
    return (
        all(cache.key == key for cache in caches)
        and caches.train.failed.keys() == without
        and not caches.held_out.failed
    )


def _hush(*sentence: object) -> None:
    """The training loop says what is wrong with checkpoints and marks; here they are only looked at."""
