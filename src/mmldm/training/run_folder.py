"""Where the parts of one run lie.

RUN -> config.yaml, manifest.jsonl, a folder per job, caches/, and in the end model/.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
        """Checkpoints, metrics, log and previews of a job."""
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
