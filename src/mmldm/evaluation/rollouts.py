"""Films made by a model: rollouts of seeds, and several continuations of the same beginnings.

pipeline -> folder/<seed>.mp4 of any length;  pipeline, prefixes -> folder/<prefix>_<seed>.mp4 -> LongSides

A film is written piece by piece as it is made, and never in memory. What is already there is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from mmldm.data.clips import spread
from mmldm.errors import UserError
from mmldm.evaluation.film_sets import Films, folder_films, real_films
from mmldm.evaluation.sets import ClipSet, ClipSource
from mmldm.evaluation.sides import BATCH, Finder, TaskSet, claim, model_sha256, sample_file
from mmldm.media.clip import Clip
from mmldm.media.writer import FilmWriter
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.pipelines.windows import TimeGrid, window_starts, windows_with_cuts
from mmldm.types import ClipSpec, Progress

FILM_SETS = {
    "joint": TaskSet("generated", "rollouts"),
    "a2v": TaskSet("audio-to-video", "rollouts-a2v", "audio"),
    "v2a": TaskSet("video-to-audio", "rollouts-v2a", "frames"),
}
SEEDS = 8
"""Continuations of one prefix."""
CONTINUED = 2
"""Windows after a prefix."""
CONTINUATIONS = "continuations"


@dataclass(frozen=True)
class LongSides:
    """What is compared with what.

    Attributes:
        made: The films in question.
        real: Real films of that length; None where there are not two.
        anchor: Real windows of other files than those of `real`.
        continuations: `SEEDS` films after each of some prefixes, which are the first windows.
    """

    made: Films
    real: Films | None
    anchor: ClipSet
    continuations: Films | None = None


def seams(pipeline: SoundingVideoPipeline, seconds: float, endless: bool) -> list[float]:
    """Seconds at which another window of a film begins to be seen and heard.

    Args:
        endless: Whether the film goes on after these seconds.

    Raises:
        UserError: The model makes no films.
    """
    grid = TimeGrid.of(
        pipeline.clip_spec, pipeline.autoencoder.latent_shapes.map(lambda shape: shape[1])
    )
    ticks = grid.ticks_of(frames_of(seconds, pipeline.clip_spec))
    grid.check_length(ticks)
    wanted, length = (range(1), None) if endless else (range(ticks), ticks)
    starts = window_starts(wanted, length, grid.ticks, grid.overlap)
    windows = windows_with_cuts(starts, wanted, endless, grid.ticks)
    inside = takewhile(lambda window: window.begin < ticks, windows)
    return [float(window.begin) * grid.seconds for window in inside if window.begin > 0]


def frames_of(seconds: float, spec: ClipSpec) -> int:
    """Frames of a film."""
    return round(seconds * spec.fps)


def write_rollouts(
    finder: Finder,
    pipeline: SoundingVideoPipeline,
    model: Path,
    task: TaskSet,
    count: int,
    seconds: float,
    given: Sequence[ClipSource] = (),
) -> Path:
    """Writes films of seeds 0 to `count` - 1, unless they are there.

    Jointly they are the first `seconds` of films without an end.

    Args:
        model: The model's folder.
        given: Films whose one modality is given, in turn.

    Returns:
        Their folder.

    Raises:
        UserError: It holds other films, or more.
        MediaError: What is given cannot be read.
    """
    folder, spec = finder.out / task.folder, pipeline.clip_spec
    keys = "\n".join(source.key for source in given)
    owner = {"sha256": model_sha256(model), "seconds": seconds}
    if task.given:
        owner["given"] = hashlib.sha256(keys.encode()).hexdigest()
    claim(folder, owner)
    if (folder / sample_file(count)).is_file():
        raise UserError(
            f"{folder} holds more than {count} rollouts; name another --out, or ask for them"
        )
    missing = [seed for seed in range(count) if not (folder / sample_file(seed)).is_file()]
    whole = spec.model_copy(update={"num_frames": frames_of(seconds, spec)})
    for start in range(0, len(missing), BATCH):
        seeds = missing[start : start + BATCH]
        asked: dict[str, Any] = {"seed": seeds, "batch_size": len(seeds)}
        if task.given:
            clips = [given[seed % len(given)].read(whole) for seed in seeds]
            asked[task.given] = [
                clip.waveform if task.given == "audio" else clip.frames for clip in clips
            ]
        _write(
            (clips for _, clips in pipeline.pieces(len(seeds), **asked)),
            [folder / sample_file(seed) for seed in seeds],
            whole,
            finder.progress,
            (task.folder, count - len(missing) + start, count),
        )
    finder.progress(task.folder, count, count)
    return folder


def write_continuations(
    finder: Finder, pipeline: SoundingVideoPipeline, model: Path, prefixes: Sequence[ClipSource]
) -> Path:
    """Writes `SEEDS` films that begin with each of these clips, unless they are there.

    Returns:
        Their folder.

    Raises:
        UserError: It holds other films.
        MediaError: A clip cannot be read.
    """
    folder, spec = finder.out / CONTINUATIONS, pipeline.clip_spec
    keys = "\n".join(source.key for source in prefixes)
    prefix_sha256 = hashlib.sha256(keys.encode()).hexdigest()
    claim(folder, {"sha256": model_sha256(model), "prefixes": prefix_sha256})
    window = finder.protocol.spec.duration
    prefix = spec.model_copy(update={"num_frames": frames_of(window, spec)})
    whole = spec.model_copy(update={"num_frames": frames_of((1 + CONTINUED) * window, spec)})
    for number, source in enumerate(prefixes):
        paths = [folder / f"{number:03d}_{seed}.mp4" for seed in range(SEEDS)]
        if all(path.is_file() for path in paths):
            continue
        made = pipeline.pieces(
            SEEDS, after=source.read(prefix), seed=list(range(SEEDS)), batch_size=SEEDS
        )
        pieces = (clips for _, clips in made)
        _write(
            pieces,
            paths,
            whole,
            finder.progress,
            (CONTINUATIONS, SEEDS * number, SEEDS * len(prefixes)),
        )
    finder.progress(CONTINUATIONS, len(prefixes), len(prefixes))
    return folder


def _write(
    pieces: Generator[list[Clip], None, None],
    paths: Sequence[Path],
    whole: ClipSpec,
    progress: Progress,
    counted: tuple[str, int, int],
) -> None:
    """Writes a batch of films from its pieces, up to the length of `whole`; all appear, or none.

    Args:
        counted: What is made, how many films there are, and how many there will be, for `progress`: which
            counts seconds.
    """
    what, done, total = counted
    seconds = int(whole.duration)
    left_frames, left_samples = whole.num_frames, whole.num_samples
    with ExitStack() as stack:
        stack.enter_context(closing(pieces))
        writers = [
            stack.enter_context(FilmWriter(path, fps=whole.fps, sample_rate=whole.sample_rate))
            for path in paths
        ]
        for clips in pieces:
            for writer, clip in zip(writers, clips, strict=True):
                writer.add(clip.frames[:left_frames], clip.waveform[:left_samples])
            left_frames -= len(clips[0].frames)
            left_samples -= len(clips[0].waveform)
            made = int(len(paths) * (whole.num_frames - max(left_frames, 0)) / whole.fps)
            made = min(made, len(paths) * seconds - 1)
            progress(f"{what}, seconds", done * seconds + made, total * seconds)
            if left_frames <= 0 and left_samples <= 0:
                break


def long_sides(
    finder: Finder,
    generated: Path,
    model: Path | None,
    pipeline: SoundingVideoPipeline | None,
    reference: Path,
    held_out: Path | None,
    task: TaskSet,
    count: int,
    rollouts: int,
) -> LongSides:
    """The films in question, written first where they are a model's, and real ones.

    Args:
        generated: Folder of films, where there is no model.
        model: The model's folder.
        pipeline: Of the model.
        reference: As in `Finder.real_sets`, and `held_out`, too.
        task: Of `FILM_SETS`.
        count: Windows of a film.
        rollouts: Films of a set at most.

    Raises:
        UserError: A set has too few films, or the model makes none.
    """
    seconds = count * finder.protocol.spec.duration
    if pipeline is None or model is None:
        if task.given:
            raise UserError("what films of a folder were given is not known: name a model")
        real, anchor, _ = real_films(finder, reference, held_out, count, rollouts)
        made = folder_films(finder, task.name, generated, count, rollouts)
        return LongSides(made, real, anchor)

    # Real films are looked at where the model's have joins.
    instants = seams(pipeline, seconds, endless=task.given is None)
    real, anchor, starts = real_films(finder, reference, held_out, count, rollouts, instants)
    given: Sequence[ClipSource] = ()
    if task.given:
        if real is None:
            raise UserError(
                f"there are no two real films of {seconds:g} s whose one modality could be given: "
                "ask for fewer --seconds, or name --held-out"
            )
        given = real.windows.clips[::count]
    folder = write_rollouts(finder, pipeline, model, task, rollouts, seconds, given)
    made = folder_films(finder, task.name, folder, count, rollouts, instants)
    if task.given:
        return LongSides(made, real, anchor)

    # Several continuations of the same beginnings.
    prefixes = [starts.clips[i] for i in spread(max(2, rollouts // SEEDS), len(starts.clips))]
    folder = write_continuations(finder, pipeline, model, prefixes)
    most = SEEDS * len(prefixes)
    continuations = folder_films(finder, CONTINUATIONS, folder, 1 + CONTINUED, most)
    return LongSides(made, real, anchor, continuations)
