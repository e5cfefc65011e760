"""One run's folder: where its parts lie, who holds it, which recipe and clips it is about.

recipe, manifest -> config.yaml and manifest.jsonl, recorded while this process holds the folder
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmldm.config import RunConfig, is_blank, load_config, save_config
from mmldm.data.latents import files_key
from mmldm.data.manifest import Manifest
from mmldm.errors import UserError
from mmldm.files import whole_file
from mmldm.training.checkpoint import refuse_changes
from mmldm.training.distributed import Process
from mmldm.training.locking import run_lock


@dataclass(frozen=True)
class RunFolder:
    """Where the parts of one run lie.

    Attributes:
        root: config.yaml, manifest.jsonl, a folder per job, caches/, and in the end model/.
    """

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.jsonl"

    @property
    def unfinished_scan(self) -> Path:
        """What an interrupted scan has found."""
        return self.root / "manifest.jsonl.unfinished"

    @property
    def model(self) -> Path:
        """The finished pipeline: what `mmldm generate --model` loads."""
        return self.root / "model"

    @property
    def distilled(self) -> Path:
        """The same with the students of `mmldm distill`: the generator's added, the decoder's in place."""
        return self.root / "distilled"

    def job(self, name: str) -> Path:
        return self.root / name

    def export(self, name: str) -> Path:
        """A finished job's model."""
        return self.root / name / "export"

    def cache(self, name: str) -> Path:
        return self.root / "caches" / name

    def begun(self) -> list[str]:
        """Names of the jobs that have a checkpoint."""
        checkpoints = self.root.glob("*/checkpoints/step_*")
        return sorted({path.parent.parent.name for path in checkpoints})


@contextmanager
def claim(
    folder: RunFolder, config: RunConfig, manifest: Manifest | None, process: Process
) -> Iterator[Manifest]:
    """Holds the run folder for this process, and records recipe and manifest in it.

    Rank 0 does; a recipe that is refused leaves the earlier one in its place.

    Args:
        manifest: Of rank 0; the others read what it has recorded.

    Yields:
        The manifest, on every process.

    Raises:
        UserError: Another process holds the folder, the clips would be split differently than
            the run's manifest says, or a job has begun on other clips.
    """
    with ExitStack() as held:
        process.on_main(lambda: held.enter_context(_recorded(folder, config, manifest)))
        yield manifest or Manifest.load(folder.manifest)


@contextmanager
def _recorded(folder: RunFolder, config: RunConfig, manifest: Manifest | None) -> Iterator[None]:
    with run_lock(folder.root, lambda sentence: None):
        earlier = folder.config.read_bytes() if folder.config.is_file() else b""
        recorded = Manifest.load(folder.manifest) if folder.manifest.is_file() else None
        if recorded is not None and not is_blank(earlier):
            old = load_config(folder.config)
            refuse_changes(_selection(old), _selection(config), str(folder.root))
        if recorded is None:
            assert manifest is not None, "rank 0 has scanned"
        elif manifest is not None and files_key(manifest) != files_key(recorded):
            refuse_begun(folder, "other clips or sides")
        if manifest is not None and manifest != recorded:
            manifest.save(folder.manifest)
        save_config(config, folder.config)
        try:
            yield
        except UserError:
            if not is_blank(earlier):
                with whole_file(folder.config) as partial:
                    partial.write_bytes(earlier)
            raise


_SCANNED = {
    "held_out", "seed", "skip_silent", "allow_missing", "class_pattern", "group_pattern",
    "follow_links",
}  # fmt: skip


def _selection(config: RunConfig) -> dict[str, Any]:
    """The settings that the manifest was made with."""
    return {"data": config.data.model_dump(include=_SCANNED)}


def refuse_begun(folder: RunFolder, what: str) -> None:
    """Refuses a manifest of other clips than those that a job has been trained on.

    Raises:
        UserError: A job has a checkpoint.
    """
    begun = folder.begun()
    if begun:
        raise UserError(
            f"{folder.root}: the {begun[0]} job has been trained on the clips as they were scanned, and the "
            f"manifest would change ({what}): finish the run without --rescan, or start another one with "
            f"--config {folder.config}."
        )
