"""Films of any length on the command line: a given file read from start to end, and files written as made.

path, start, seconds -> parts (s,) or (t,3,H,W) of a given file; pieces -> mp4s with their JSON, and sheets.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from mmldm.cli.provenance import TAG
from mmldm.cli.terminal import note
from mmldm.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from mmldm.cli.places import Place
    from mmldm.cli.provenance import Provenance
    from mmldm.media.clip import Clip
    from mmldm.media.given import Given
    from mmldm.media.sheet import FilmSheet
    from mmldm.media.writer import FilmWriter
    from mmldm.pipelines.sounding_video import SoundingVideoPipeline
    from mmldm.types import ClipSpec, Modality

NOTED_DIFFERENCE = 0.001
"""Seconds between the start asked for and the one taken that are worth a note."""
PAGE = 16
"""Clips on a contact sheet: two batches, 3,700 rows of pixels."""


class GivenFile:
    """One modality of a file, or both, from `start` on: all of it, or so many seconds.

    Args:
        modality: Which is read; None: both.
        spec: Of a window; the file is read at its rates and size.
        start: Second of the file where the film begins.
        seconds: After which it ends; None: with the file.

    Raises:
        MediaError: The file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        modality: Modality | None,
        spec: ClipSpec,
        start: float = 0.0,
        seconds: float | None = None,
    ) -> None:
        from mmldm.media.consecutive import ConsecutiveWindows

        self.path, self.modality, self.spec = path, modality, spec
        self.start, self.seconds = start, seconds
        self._windows = ConsecutiveWindows(
            path,
            spec,
            start=start,
            seconds=seconds,
            want_video=modality != "audio",
            want_audio=modality != "video",
        )
        self._said: set[str] = set()

    @property
    def original(self) -> Given | None:
        """What of it stays as it is, for the writer of a film."""
        from mmldm.media.given import Given

        if self.modality is None:
            return None
        return Given(self.modality, self.path, self._windows.begins, self.seconds)

    @property
    def claimed(self) -> float | None:
        """Seconds that are used of it, as the file claims; None where it does not."""
        return self._windows.claimed

    def parts(self, progress: Callable[[float, float], None] | None = None) -> Iterator[Clip]:
        """Consecutive parts, of a window at most; a modality that is not read is empty.

        Args:
            progress: Called with the seconds that are read, and with those the file claims.
        """
        yield from self.silent_parts(progress)
        self.say(self._windows.notes)

    def silent_parts(
        self, progress: Callable[[float, float], None] | None = None
    ) -> Iterator[Clip]:
        """As `parts`, and what is odd about the file is not said."""
        from mmldm.media.clip import Clip

        spec, windows = self.spec, self._windows
        for window in windows:
            # What the file no longer has, or nobody asked for, is no part of it.
            begin = window.first_frame / spec.fps
            lasts = spec.duration - window.filled
            if self.seconds is not None:
                lasts = min(lasts, self.seconds - begin)
            frames = max(1, round(lasts * spec.fps)) if begin == 0 else round(lasts * spec.fps)
            samples = round(lasts * spec.sample_rate)
            if progress is not None and windows.claimed:
                progress(min(begin + lasts, windows.claimed), windows.claimed)
            yield Clip(
                window.frames[:frames], window.waveform[:samples], spec.fps, spec.sample_rate
            )

    def whole(self) -> Clip:
        """All of it in memory."""
        import torch

        from mmldm.media.clip import Clip

        parts = list(self.parts())
        frames = torch.cat([part.frames for part in parts])
        waveform = torch.cat([part.waveform for part in parts])
        return Clip(frames, waveform, self.spec.fps, self.spec.sample_rate)

    def say(self, sentences: Iterable[str]) -> None:
        """Notes on standard error, each once."""
        for sentence in sentences:
            if sentence not in self._said:
                self._said.add(sentence)
                note(sentence)

    def say_what_is_used(self) -> None:
        """Which part of the file is used, and how its picture is read."""
        self.say((*self._windows.notes, *self._differences()))

    def _differences(self) -> Iterator[str]:
        spec, windows = self.spec, self._windows
        # Time: where the film begins, and how much of a longer file is left.
        begins = windows.begins
        if abs(begins - self.start) > NOTED_DIFFERENCE:
            yield f"the clip starts at {begins:.3f} s, at the source frame nearest to {self.start:g} s"
        if self.seconds is not None:
            used = min(self.seconds, windows.claimed or self.seconds)
            yield f"{used:.4g} s of it are used, from {begins:.3f} s on"
        elif begins > NOTED_DIFFERENCE:
            yield f"it is used from {begins:.3f} s to its end"
        yield from picture_differences(windows.size, windows.fps, spec)


def picture_differences(
    size: tuple[int, int] | None, fps: float | None, spec: ClipSpec
) -> Iterator[str]:
    """How a picture of this width and height is read, where that is not as it is; None: there is none."""
    if size is None or fps is None:
        return
    width, height = size
    if size != (spec.width, spec.height) or abs(fps - spec.fps) > 0.01 * spec.fps:
        cut = width * spec.height != height * spec.width
        yield (
            f"its picture of {width}x{height} at {fps:.4g} frames a second is read at"
            f" {spec.width}x{spec.height} and {spec.fps:g}" + ", cut from the middle" * cut
        )


def note_joins(pipeline: SoundingVideoPipeline) -> None:
    """Says of a model which makes more than a window that it has not learnt to."""
    if not pipeline.config.known_slots:
        note(
            "this model has not learnt to go on from what it knows, so where windows meet may be seen and "
            "heard; train its generator with known_slots to mend that"
        )


class Films:
    """Writes clips that come piece by piece to their place, what they were made from, and sheets of them.

    A clip's file appears when the clip is whole, and its JSON after it; neither, if the work fails or is
    interrupted. A sheet shows `PAGE` clips. It appears when all of them are there; those of an earlier call
    are read from their files. So memory does not grow with the number of clips.

    Args:
        place: Of the files.
        spec: Of the model: rates of what is made.
        titles: Of all clips, by number, for the sheets.
        given: The modality that is given; it is not in the pieces.
        keep_original: Whether the films carry it as its file has it; else at the model's rate.
    """

    def __init__(
        self,
        place: Place,
        spec: ClipSpec,
        titles: Sequence[str],
        given: GivenFile | None = None,
        keep_original: bool = False,
    ) -> None:
        self._place, self._spec, self._titles, self._given = place, spec, titles, given
        self._original = given.original if given is not None and keep_original else None
        self._drawn: dict[int, FilmSheet] = {}
        self.made = 0

    def write(
        self,
        pieces: Iterable[tuple[int, Sequence[Clip]]],
        numbers: Sequence[int | None],
        made_from: Callable[[int], Provenance],
    ) -> None:
        """Writes clips: of each batch come the place of its first clip, and a piece of each of its clips.

        Args:
            numbers: Of the clips that come, in their order; None is computed and not written.
            made_from: What the clip at a place in that order is made from.

        Raises:
            KeyboardInterrupt: With a sentence on what is there.
        """
        try:
            for first, batch in itertools.groupby(pieces, key=itemgetter(0)):
                self._write_batch(first, (clips for _, clips in batch), numbers, made_from)
        except KeyboardInterrupt:
            whole = len(self._titles) - len(self._place.missing(len(self._titles)))
            raise KeyboardInterrupt(
                f"{whole} of {len(self._titles)} clips are whole in {self._place.folder}; the same command "
                "goes on with the others"
            ) from None
        self._save_sheets(len(self._titles))

    @property
    def sheets(self) -> list[Path]:
        """Contact sheets of all clips."""
        return [self._place.sheet(first) for first in range(0, len(self._titles), PAGE)]

    def _write_batch(
        self,
        first: int,
        batch: Iterable[Sequence[Clip]],
        numbers: Sequence[int | None],
        made_from: Callable[[int], Provenance],
    ) -> None:
        """Writes the clips of a batch, side by side."""
        films: list[_Film] = []
        beside = None if self._given is None else _Beside(self._given)
        with ExitStack() as stack:
            for clips in batch:
                if not films:
                    self._place.claim()
                    films = [
                        self._opened(stack, row, number, made_from(first + row))
                        for row, number in enumerate(numbers[first : first + len(clips)])
                        if number is not None
                    ]
                whole = clips if beside is None else beside.completed(clips)
                for film in films:
                    self._add(film, whole[film.row])
        # They are whole now. What was kept of the original is the same in all.
        for film in films:
            path = film.writer.path.with_suffix(".json")
            write_text(path, made_from(first + film.row).text() + "\n")
            self._drawn[film.number] = film.drawn
            self.made += 1
        if self._given is not None and films:
            self._given.say(films[0].writer.said)
        if self._drawn:
            self._save_sheets(max(self._drawn) + 1)

    def _save_sheets(self, until: int) -> None:
        """Writes the sheets of clips before this number that are full, or the last, and lack one of them."""
        from mmldm.media.sheet import film_sheet, save_png

        count = len(self._titles)
        for first in range(0, until, PAGE):
            numbers = range(first, min(first + PAGE, count))
            # The clips of a page come together, or were there before.
            news = [number for number in numbers if number in self._drawn]
            path = self._place.sheet(first)
            if numbers.stop > until or (path.is_file() and not news):
                continue
            drawn = [self._drawn.pop(i) if i in self._drawn else self._read(i) for i in numbers]
            save_png(path, film_sheet(drawn, self._titles[numbers.start : numbers.stop]))

    def _read(self, number: int) -> FilmSheet:
        """What a sheet shows of a clip that was made before."""
        from mmldm.media.sheet import FilmSheet

        drawn = FilmSheet(self._spec.fps, self._spec.sample_rate)
        for part in GivenFile(self._place.clip(number), None, self._spec).silent_parts():
            drawn.add(part.frames, part.waveform)
        return drawn

    def _opened(self, stack: ExitStack, row: int, number: int, made_from: Provenance) -> _Film:
        """The file of a clip, which ends with `stack`."""
        from mmldm.media.sheet import FilmSheet
        from mmldm.media.writer import FilmWriter

        spec, original = self._spec, self._original
        kept = None if original is None else original.modality
        film = FilmWriter(
            self._place.clip(number),
            fps=None if kept == "video" else spec.fps,
            sample_rate=None if kept == "audio" else spec.sample_rate,
            given=original,
            metadata={TAG: made_from.text()},
        )
        drawn = FilmSheet(spec.fps, spec.sample_rate)
        return _Film(row, number, stack.enter_context(film), drawn)

    def _add(self, film: _Film, clip: Clip) -> None:
        """Writes what is made of a piece; the original comes from its file."""
        kept = None if self._original is None else self._original.modality
        frames = None if kept == "video" else clip.frames
        film.writer.add(frames, None if kept == "audio" else clip.waveform)
        film.drawn.add(clip.frames, clip.waveform)


@dataclass(frozen=True)
class _Film:
    """A clip that is being written: its place in the batch, its number, its file and its part of a sheet."""

    row: int
    number: int
    writer: FilmWriter
    drawn: FilmSheet


class _Beside:
    """Reads a given file once more, in step with what is made for it."""

    def __init__(self, given: GivenFile) -> None:
        self._parts, self._spec = given.parts(), given.spec
        self._audio = given.modality == "audio"
        self._held: Tensor | None = None
        self._made = self._taken = 0

    def completed(self, clips: Sequence[Clip]) -> list[Clip]:
        """Pieces without the given modality -> with it."""
        spec = self._spec
        rate = spec.sample_rate / spec.fps
        if self._audio:
            self._made += len(clips[0].frames)
            waveform = self._take(round(self._made * rate))
            return [replace(clip, waveform=waveform) for clip in clips]
        self._made += len(clips[0].waveform)
        frames = self._take(round(self._made / rate))
        return [replace(clip, frames=frames) for clip in clips]

    def _take(self, until: int) -> Tensor:
        """Up to this sample (n,) or frame (n,3,H,W), as far as the file has them."""
        import torch

        count = until - self._taken
        while self._held is None or len(self._held) < count:
            if (part := next(self._parts, None)) is None:
                break
            new = part.waveform if self._audio else part.frames
            self._held = new if self._held is None else torch.cat([self._held, new])
        assert self._held is not None, "a given file has a first part"
        taken, self._held = self._held[:count], self._held[count:]
        self._taken += len(taken)
        return taken
