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

from mmldm.data.cache_writer import FORMAT, CacheWriter, cache_key, json_of
from mmldm.data.latents import LatentCache, Splits
from mmldm.data.manifest import Manifest
from mmldm.errors import UserError
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_vae import ImageVAE
from mmldm.sections import TrainConfig
from mmldm.text import printable
from mmldm.training.caching import LEFT_OUT, Encoding, latents_parts
from mmldm.training.checkpoint import CheckpointFolder, refuse_changes
from mmldm.training.going_on import has_ended
from mmldm.types import AV, MODALITIES, Latents

VERSIONS = ("format", "reading")
"""What a cache depends on besides recipe, clips and networks."""
NETWORKS = frozenset({"caches.image_vae", "caches.autoencoder"})
"""What an earlier job that was trained further has changed of a job's caches."""


@dataclass(frozen=True)
class Reader:
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
        reader: The job.
        step: Completed steps.
        cache: `LatentCache.identity` of what it trains on; of format 1, the cache's key.
        ended: Whether it has taken all its steps, or all its time, and is exported.
    """

    reader: Reader
    step: int
    cache: Any
    ended: bool

    @classmethod
    def of(cls, reader: Reader) -> Begun | None:
        """None if it has no checkpoint yet."""
        folder, train = reader.folder, reader.train
        # Only looked at: no checksum is compared, and what cannot be read is passed over. `train` will tell.
        checkpoints = CheckpointFolder(folder / "checkpoints", train.keep, _hush)
        for step in reversed(checkpoints.steps()):
            with suppress(KeyError, TypeError):
                state = json_of(checkpoints.folder(step) / "state.json")
                cache = state["identity"][reader.name]["cache"]
                ended = has_ended(state, step, folder, train)
                return cls(reader, step, cache, ended and (folder / "export").is_dir())
        return None

    def require_same(self, parts: Mapping[str, Any]) -> None:
        """Refuses to give the job other rows than those it began with.

        A finished job passes if only caches, or how files are read, have another version since.

        Raises:
            UserError: What differs, and what to do.
        """
        # What the job began with, and what caches of that version would be for today's clips and networks.
        now, folder = {"format": FORMAT, **parts}, self.reader.folder
        if isinstance(self.cache, dict):
            saved = {name: value for name, value in self.cache.items() if name != "unreadable"}
            of_its_time = {**now, **{name: saved.get(name) for name in VERSIONS}}
        else:
            saved, of_its_time = {"key": self.cache}, {"key": first_key(parts)}
        if saved == now or (saved == of_its_time and self.ended):
            return

        if saved == of_its_time:
            raise UserError(
                f"{folder}: the {self.reader.name} job is half-way (step {self.step} of "
                f"{self.reader.train.steps}) on caches of an earlier version, whose windows lie "
                f"elsewhere: finish it with the version that began it, or delete {folder} and the "
                "folders of the jobs after it to train it again. Nothing was changed; finished models "
                "stay as they are."
            )
        if "key" in saved:
            raise UserError(
                f"{folder}: cannot resume, because the clips, windows_per_clip, or the networks that "
                "its caches were made with have changed since. Put the old ones back, or start in "
                "another folder."
            )
        advice = (
            f"Put the old ones back, or train it anew on the new ones: --jobs {self.reader.name}, with those "
            "after it, and --minutes."
        )
        refuse_changes({"caches": saved}, {"caches": now}, str(folder), advice)

    def remembered(self, manifest: Manifest) -> Splits:
        """What an ended job knows of its caches: it needs no rows of them any more."""
        # A job builds its network from the caches' shapes and statistics. The export has them, too.
        shapes: AV[tuple[int, ...]] = AV((), ())
        extra: dict[str, Any] = {"classes": manifest.classes}
        export = self.reader.folder / "export"
        if self.reader.name == "autoencoder":
            model = json_of(export / "config.json")
            image = tuple(model["image_latent_shape"])
            sound = tuple(model.get("audio_image_latent_shape") or image)
            shapes = AV((1, *sound), (model["num_frames"], *image))
            extra["statistics"] = model["latent_statistics"]
        elif self.reader.name == "generator":
            model = json_of(export / "generator" / "config.json")
            shapes = MODALITIES.map(lambda modality: tuple(model[f"{modality}_latent_shape"]))
            extra["statistics"] = model["latent_statistics"]
        cache = RememberedCache(self.cache, shapes, extra)
        return Splits(cache, cache)


class JobCaches(Encoding):
    """The caches of a run, as a job needs them."""

    def image_latents(self, vae: ImageVAE, reader: Reader | None = None) -> Splits:
        """Image latents of every window, for a job, or only to have them.

        Raises:
            UserError: The job is half-way on others, or too many files cannot be read.
        """
        begun = self._begun(reader, self.image_latents_parts(vae))
        if begun is not None and begun.ended:
            return begun.remembered(self.manifest)
        return self.encode_images(vae, _left_out(begun))

    def latents(
        self, vae: ImageVAE, autoencoder: MultiModalAutoencoder, reader: Reader | None = None
    ) -> Splits:
        """Latents of every window, likewise; image latents are looked at only if they are needed.

        Raises:
            UserError: As `image_latents`.
        """
        parts = latents_parts(self.image_latents_parts(vae), autoencoder)
        begun = self._begun(reader, parts)
        if begun is not None and begun.ended:
            return begun.remembered(self.manifest)
        # Latents at hand need no image latents, which may long be deleted.
        folder = self.folder / "latents"
        at_hand = self.process.is_main and _is_current(folder, parts, _left_out(begun))
        if self.process.from_main(at_hand):
            return Splits.open(folder, verified=True)
        return self.encode(vae, autoencoder, self.encode_images(vae, _left_out(begun)))

    def _begun(self, reader: Reader | None, parts: Mapping[str, Any]) -> Begun | None:
        """What a job has begun with; refuses one that would have to go on with something else."""
        begun = None if reader is None else Begun.of(reader)
        if begun is not None:
            self.process.on_main(lambda: begun.require_same(parts))
        return begun


def _left_out(begun: Begun | None) -> frozenset[str]:
    """Files that a job does without, because they could not be read when it began."""
    if begun is None or not isinstance(begun.cache, dict):
        return frozenset()
    return frozenset(begun.cache["unreadable"])


def first_key(parts: Mapping[str, Any]) -> str:
    """The key that a cache of format 1 had."""
    images = cache_key(
        clip=parts["clip"],
        windows=parts["windows_per_clip"],
        files=parts["clips"],
        vae=parts["image_vae"],
    )
    # That of latents was made from the key of their image latents.
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
        """No rows (B,) can be read: a finished job asks for none."""
        raise UserError(
            "the job's last checkpoint is damaged, so it is not finished any more: the same command "
            "goes on from the checkpoint before."
        )


def _is_current(folder: Path, parts: Mapping[str, Any], left_out: frozenset[str]) -> bool:
    """Whether finished caches lie in `folder`, whole, and nothing is missing that could be there."""
    key = CacheWriter(folder, parts).key
    try:
        caches = Splits.open(folder)
    except UserError:
        return False
    return (
        all(cache.key == key for cache in caches)
        and caches.train.failed.keys() == left_out
        and not caches.held_out.failed
    )


def _hush(*sentence: object) -> None:
    """The training loop says what is wrong with checkpoints and marks; here they are only looked at."""
