"""Measures sets of clips: decoded by several threads, measured batch by batch, nothing kept but rows.

ClipSet, measures -> Measured (rows by measure, in the clips' order)
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

from mmldm.data.clips import spread
from mmldm.errors import MediaError
from mmldm.evaluation.feature_cache import FeatureCache
from mmldm.evaluation.measures import Measure, Row
from mmldm.evaluation.sets import ClipSet, ClipSource, Progress, Skipped
from mmldm.media.clip import Clip
from mmldm.types import ClipSpec

BATCH = 8
"""Clips a measure is given at once; twice as many may be decoded ahead."""


@dataclass(frozen=True)
class Measured:
    """A set and what was taken down of each of its clips.

    Attributes:
        clips: The set, without the clips that could not be read.
        rows: By measure, one of each clip.
    """

    clips: ClipSet
    rows: dict[str, list[Row]]

    def __len__(self) -> int:
        return len(self.clips.clips)

    def take(self, indices: Sequence[int]) -> Measured:
        """Some of the clips."""
        chosen = tuple(self.clips.clips[i] for i in indices)
        rows = {name: [every[i] for i in indices] for name, every in self.rows.items()}
        return Measured(replace(self.clips, clips=chosen), rows)

    def spread(self, count: int) -> Measured:
        """At most `count` of the clips, evenly spread."""
        return self.take(spread(count, len(self)))

    def part(self, clips: ClipSet) -> Measured:
        """Those that are also in a part of the set."""
        names = {clip.name for clip in clips.clips}
        part = self.take([i for i, clip in enumerate(self.clips.clips) if clip.name in names])
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
    found: dict[str, dict[str, Row]] = {measure.name: {} for measure in measures}
    for measure in measures:
        for clip in clips.clips:
            known = cache.get(measure, clip.key)
            if known is not None:
                found[measure.name][clip.key] = known
    waiting = [c for c in clips.clips if any(c.key not in rows for rows in found.values())]
    waiting = list({clip.key: clip for clip in waiting}.values())
    failed: dict[str, Skipped] = {}
    begun = time.perf_counter()
    stream = _decoded(waiting, spec, workers)
    done = 0
    while True:
        asked = time.perf_counter()
        batch = list(islice(stream, BATCH))
        speed.parts["decoding"] += time.perf_counter() - asked
        if not batch:
            break
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
                for (source, _), row in zip(wanted, measured, strict=True):
                    cache.put(measure, source.key, row)
                    found[measure.name][source.key] = row
                speed.parts[measure.name] += time.perf_counter() - started
        done += len(batch)
        speed.clips += len(read)
        if progress is not None:
            progress(f"measure {clips.name}", done, len(waiting))
    if waiting:
        speed.seconds += time.perf_counter() - begun
    usable = tuple(clip for clip in clips.clips if clip.key not in failed)
    kept = replace(clips, clips=usable, skipped=(*clips.skipped, *failed.values())).require()
    rows = {name: [known[clip.key] for clip in usable] for name, known in found.items()}
    return Measured(kept, rows)


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
