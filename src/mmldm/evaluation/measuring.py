"""Measures sets of clips: decoded by several threads, measured batch by batch, and kept on disk.

ClipSet, measures -> Measured (findings by measure, in the clips' order)
(measure, reading, clip's content) -> folder/measure-hash/content-hash.safetensors

Real clips are measured once, and an interrupted evaluation goes on. Nothing of a clip stays in memory but its
findings.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mmldm.data.clips import spread
from mmldm.errors import MediaError
from mmldm.evaluation.features import Findings, Measure
from mmldm.evaluation.recordings import units_by_content
from mmldm.evaluation.sets import ClipSet, ClipSource, Skipped
from mmldm.evaluation.values import Grouped
from mmldm.files import whole_file
from mmldm.media.clip import Clip
from mmldm.types import ClipSpec, Progress

BATCH = 8
"""Clips a measure is given at once; twice as many may be decoded ahead."""


class FeatureCache:
    """Findings in clips that were read in one way, on disk.

    The findings of a measure in a clip are a file of their own, which appears whole or not at all. It is not
    synced, which would cost more than many a measure: a checksum shows what a power cut has left of it. A key
    holds all that they depend on: the content of the file, the window, how it is read, the network's weights
    and the version of this package.

    Args:
        folder: Made where it is missing; several runs may share it.
        spec: How the clips were read.
    """

    def __init__(self, folder: Path, spec: ClipSpec) -> None:
        self.folder = folder
        self._spec = spec.model_dump_json()

    def path(self, measure: Measure, clip_key: str) -> Path:
        """Where the findings in a clip lie."""
        key = hashlib.sha256(f"{measure.key} {self._spec}".encode()).hexdigest()
        return self.folder / f"{measure.name}-{key[:16]}" / f"{clip_key}.safetensors"

    def get(self, measure: Measure, clip_key: str) -> Findings | None:
        """The findings in a clip; None where there are none that are whole."""
        try:
            with safe_open(self.path(measure, clip_key), "pt") as file:
                names = file.keys()
                found = {name: file.get_tensor(name) for name in names}
                checksum = (file.metadata() or {}).get("sha256")
        except (OSError, SafetensorError, RuntimeError):
            return None
        return found if checksum == _sha256(found) else None

    def put(self, measure: Measure, clip_key: str, findings: Findings) -> None:
        """Keeps the findings in a clip.

        Raises:
            UserError: The folder cannot be written.
        """
        found = {name: x.contiguous() for name, x in findings.items()}
        content = save(found, {"sha256": _sha256(found)})
        with whole_file(self.path(measure, clip_key), durable=False) as temporary:
            temporary.write_bytes(content)


def _sha256(findings: Findings) -> str:
    """Of names, types, shapes and bytes, in hex."""
    digest = hashlib.sha256()
    for name, x in sorted(findings.items()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)} ".encode())
        # Not by a view of bytes: what holds one number, or none, may have strides that no view takes.
        digest.update(x.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Measured:
    """A set and what was found in each of its clips.

    Attributes:
        clips: The set, without the clips that could not be read.
        findings: By measure, one of each clip.
    """

    clips: ClipSet
    findings: dict[str, list[Findings]]

    def __len__(self) -> int:
        return len(self.clips.clips)

    def take(self, indices: Sequence[int]) -> Measured:
        """Some of the clips."""
        chosen = tuple(self.clips.clips[i] for i in indices)
        found = {name: [every[i] for i in indices] for name, every in self.findings.items()}
        return Measured(replace(self.clips, clips=chosen), found)

    @property
    def sides(self) -> dict[str, Grouped]:
        """The findings by measure, with what hangs together: metrics read these."""
        units = units_by_content(self.clips.clips)
        return {name: Grouped(every, units) for name, every in self.findings.items()}

    def by_content(self) -> Measured:
        """The same clips in an order that no file's name moves: by class, then by content."""
        clips = self.clips.clips
        return self.take(
            sorted(range(len(self)), key=lambda i: (clips[i].class_name or "", clips[i].key))
        )

    def spread(self, count: int) -> Measured:
        """At most `count` of the clips, evenly spread."""
        return self.take(spread(count, len(self)))

    def part(self, clips: ClipSet) -> Measured:
        """Those that are also in a part of the set, in its order."""
        where = {clip.name: i for i, clip in enumerate(self.clips.clips)}
        part = self.take([where[clip.name] for clip in clips.clips if clip.name in where])
        return replace(part, clips=replace(part.clips, name=clips.name, skipped=(), notes=()))


@dataclass
class Speed:
    """Where the time of measuring went; what came from the cache counts nowhere.

    Attributes:
        clips: Decoded and measured.
        seconds: In all, by the clock.
        parts: Seconds by measure, and those spent waiting under "decoding".
    """

    clips: int = 0
    seconds: float = 0.0
    parts: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def sentence(self) -> str:
        """Clips a second, and what they were bounded by."""
        if not self.clips:
            return "All clips had been measured before."
        # The three parts that took longest.
        longest = sorted(self.parts.items(), key=lambda part: -part[1])
        shares = ", ".join(
            f"{name} {100 * part / self.seconds:.0f} %" for name, part in longest[:3]
        )
        return (
            f"{self.clips} clips were decoded and measured in {self.seconds:.0f} s, "
            f"{self.clips / self.seconds:.3g} a second, bounded by {longest[0][0]} "
            f"(share of the time: {shares})."
        )


def measure_set(
    clips: ClipSet,
    measures: Sequence[Measure],
    spec: ClipSpec,
    cache: FeatureCache,
    workers: int = 1,
    progress: Progress | None = None,
    speed: Speed | None = None,
) -> Measured:
    """Measures every clip that the cache does not know; the others are not even decoded.

    Args:
        spec: How the clips are read; the cache's own.
        workers: Decoding threads.
        speed: Adds up over sets.

    Raises:
        UserError: Fewer than two clips can be read.
    """
    speed = speed or Speed()
    measures = [measure for measure in measures if measure.reads(clips)]
    # What the cache knows, and the clips that some measure has not seen; equal contents are measured once.
    found: dict[str, dict[str, Findings]] = {measure.name: {} for measure in measures}
    for measure in measures:
        for clip in clips.clips:
            known = cache.get(measure, clip.key)
            if known is not None:
                found[measure.name][clip.key] = known
    unseen = [c for c in clips.clips if any(c.key not in known for known in found.values())]
    waiting = list({clip.key: clip for clip in unseen}.values())

    # Batch by batch: decode, note what cannot be read, measure the rest and keep it.
    failed: dict[str, Skipped] = {}
    begun = asked = time.perf_counter()
    stream = _decoded(waiting, spec, workers)
    done = 0
    while batch := list(islice(stream, BATCH)):
        speed.parts["decoding"] += time.perf_counter() - asked
        read = []
        for source, outcome in batch:
            if isinstance(outcome, Clip):
                read.append((source, outcome))
            else:
                failed[source.key] = Skipped(source.name, outcome.reason, str(outcome))
        for measure in measures:
            wanted = [pair for pair in read if pair[0].key not in found[measure.name]]
            if wanted:
                started = time.perf_counter()
                measured = measure([clip for _, clip in wanted])
                for (source, _), findings in zip(wanted, measured, strict=True):
                    cache.put(measure, source.key, findings)
                    found[measure.name][source.key] = findings
                speed.parts[measure.name] += time.perf_counter() - started
        done += len(batch)
        speed.clips += len(read)
        if progress is not None:
            progress(f"measure {clips.name}", done, len(waiting))
        asked = time.perf_counter()
    if waiting:
        speed.seconds += time.perf_counter() - begun

    # Back into the order of the set, without the clips that could not be read.
    usable = tuple(clip for clip in clips.clips if clip.key not in failed)
    kept = replace(clips, clips=usable, skipped=(*clips.skipped, *failed.values())).require()
    return Measured(
        kept, {name: [known[clip.key] for clip in usable] for name, known in found.items()}
    )


def _decoded(
    sources: Sequence[ClipSource], spec: ClipSpec, workers: int
) -> Iterator[tuple[ClipSource, Clip | MediaError]]:
    """Each clip, or why it cannot be read, in order; at most two batches are ahead."""

    def read(source: ClipSource) -> Clip | MediaError:
        try:
            return source.read(spec)
        except MediaError as error:
            return error

    ahead: deque[tuple[ClipSource, Future[Clip | MediaError]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for source in sources:
                ahead.append((source, pool.submit(read, source)))
                if len(ahead) > 2 * BATCH:
                    first, future = ahead.popleft()
                    yield first, future.result()
            for source, future in ahead:
                yield source, future.result()
        finally:
            pool.shutdown(cancel_futures=True)
