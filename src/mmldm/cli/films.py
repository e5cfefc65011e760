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

from mmldm.cli.terminal import note
from mmldm.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from mmldm.cli.places import Place
    from mmldm.media.clip import Clip
    from mmldm.media.given import Given
    from mmldm.media.sheet import FilmSheet
    from mmldm.media.writer import FilmWriter
    from mmldm.pipelines.provenance import Provenance
    from mmldm.pipelines.sounding_video import SoundingVideoPipeline
    from mmldm.types import ClipSpec, Modality

PAGE = 16
"""Clips on a contact sheet: two batches, 3,700 rows of pixels."""


class GivenFile:
    """A part of a given file (`media.used.UsedPart`), of which is said, once, what is odd.

    Args:
        options: As of `UsedPart`.

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
        from mmldm.media.used import UsedPart

        self.path, self.modality, self.spec = path, modality, spec
        self._part = UsedPart(path, modality, spec, start, seconds)
        self._said: set[str] = set()

    @property
    def original(self) -> Given | None:
        """What of it stays as it is, for the writer of a film."""
        return self._part.original

    @property
    def claimed(self) -> float | None:
        """Seconds that are used of it, as the file claims; None where it does not."""
        return self._part.claimed

    def parts(self, progress: Callable[[float, float], None] | None = None) -> Iterator[Clip]:
        """As `UsedPart.parts`; what is odd is said when all is read."""
        yield from self._part.parts(progress)
        self.say(self._part.notes)

    def silent_parts(self) -> Iterator[Clip]:
        """As `parts`, and what is odd about the file is not said."""
        return self._part.parts()

    def whole(self) -> Clip:
        """All of it in memory."""
        clip = self._part.whole()
        self.say(self._part.notes)
        return clip

    def say(self, sentences: Iterable[str]) -> None:
        """Notes on standard error, each once."""
        for sentence in sentences:
            if sentence not in self._said:
                self._said.add(sentence)
                note(sentence)

    def say_what_is_used(self) -> None:
        """Which part of the file is used, and how its picture is read."""
        self.say((*self._part.notes, *self._part.differences()))


def note_joins(pipeline: SoundingVideoPipeline) -> None:
    """Says of a model which makes more than a window that it has not learnt to."""
    from mmldm.pipelines.rollout import JOINS

    if not pipeline.config.known_slots:
        note(JOINS)


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
        from mmldm.pipelines.provenance import TAG

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
