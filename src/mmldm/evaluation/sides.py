"""Which sets an evaluation compares: found in folders and manifests, or made by a model first.

paths, pipeline -> Sides (generated, reference, anchor, real, reconstruction)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mmldm.data.manifest import Manifest
from mmldm.errors import UserError
from mmldm.evaluation.contents import apart
from mmldm.evaluation.model_sets import model_sha256, write_reconstructions, write_samples
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.sets import ClipSet, Progress, clip_set, find_manifest, halves
from mmldm.pipelines.sounding_video import SoundingVideoPipeline

MOST_SAMPLES = 2048
"""Drawn from a model where neither the command nor the protocol says how many."""


@dataclass(frozen=True)
class RealSets:
    """Real clips.

    Attributes:
        reference: All that generated clips are compared with.
        anchor: Those of them that other real clips are compared with: all, or a half.
        real: The other real clips: held out, or the other half.
    """

    reference: ClipSet
    anchor: ClipSet
    real: ClipSet


@dataclass(frozen=True)
class Sides:
    """What is compared with what.

    Attributes:
        generated: The clips in question.
        known: Real clips.
        reconstruction: `known.real` through the model's autoencoder, where there is a model.
    """

    generated: ClipSet
    known: RealSets
    reconstruction: ClipSet | None = None


@dataclass(frozen=True)
class Finder:
    """Finds and makes the sets of one evaluation.

    Attributes:
        out: Where manifests, samples and reconstructions are kept.
        protocol: How clips are read.
        workers: Decoding processes.
        progress: Shown while files are scanned and clips made.
    """

    out: Path
    protocol: Protocol
    workers: int
    progress: Progress

    def real_sets(self, reference: Path, held_out: Path | None) -> RealSets:
        """Sets of a reference and of held-out clips.

        Args:
            reference: Folder, manifest or list.
            held_out: The same; None: the held-out clips of a manifest, or of a folder's own split, else a
                half of the reference. What the reference holds, too, is taken out of it.

        Raises:
            UserError: A set has too few clips that can be used.
        """
        manifest = self._manifest("reference", reference)
        split = manifest.split("held_out") if held_out is None else []
        entries = [entry for entry in manifest.entries if not split or entry.split != "held_out"]
        whole = self._named(clip_set("reference", manifest, entries, self.protocol), reference)
        if held_out is not None:
            return RealSets(whole.require(), whole, apart(self._folder("real", held_out), whole))
        if split:
            real = self._named(clip_set("real", manifest, split, self.protocol), reference)
            return RealSets(whole.require(), whole, apart(real.require(), whole))
        parts = halves(whole.require(4), self.protocol.seed)
        if min(len(part.clips) for part in parts) < 2:
            raise UserError(
                f"the reference set ({whole.origin}) cannot be split in two: its clips are copies or parts "
                "of too few recordings; name held-out clips with --held-out"
            )
        return RealSets(whole, *parts)

    def folder_sides(self, generated: Path, known: RealSets) -> Sides:
        """Sides of a folder of clips.

        Raises:
            UserError: It has too few clips that can be used.
        """
        return Sides(self._folder("generated", generated), known)

    def model_sides(self, pipeline: SoundingVideoPipeline, model: Path, known: RealSets) -> Sides:
        """Sides of a model: its samples and reconstructions are written, unless they are there.

        Args:
            model: The model's folder.

        Raises:
            UserError: `out` holds another model's clips.
        """
        sha256 = model_sha256(model)
        count = self.protocol.samples or min(len(known.reference.clips), MOST_SAMPLES)
        samples, kept = self.out / "samples", self.out / "reconstructions"
        write_samples(pipeline, sha256, samples, count, self.progress)
        write_reconstructions(pipeline, sha256, known.real, kept, self.progress)
        reconstruction = self._folder("reconstruction", kept)
        return Sides(self._folder("generated", samples), known, reconstruction)

    def _folder(self, name: str, source: Path) -> ClipSet:
        manifest = self._manifest(name, source)
        return self._named(
            clip_set(name, manifest, manifest.entries, self.protocol), source
        ).require()

    def _named(self, clips: ClipSet, source: Path) -> ClipSet:
        """With a folder's path as it was typed: reports hold no other."""
        return replace(clips, origin=str(source)) if source.is_dir() else clips

    def _manifest(self, name: str, source: Path) -> Manifest:
        kept = self.out / "sets" / f"{name}.jsonl"
        return find_manifest(source, kept, self.protocol.spec, self.workers, self.progress)
