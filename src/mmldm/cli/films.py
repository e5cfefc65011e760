"""Films of any length on the command line: a given file read from start to end, and files written as made.

path, start, seconds -> parts (s,) or (t,3,H,W) of a given file; pieces -> folder/name_i.mp4, folder/name.png.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from mmldm.cli.terminal import note

if TYPE_CHECKING:
    from torch import Tensor

    from mmldm.media.clip import Clip
    from mmldm.media.given import Given
    from mmldm.media.sheet import FilmSheet
    from mmldm.media.writer import FilmWriter
    from mmldm.pipelines.sounding_video import SoundingVideoPipeline
    from mmldm.types import ClipSpec, Modality

NOTED_DIFFERENCE = 0.001
"""Seconds between the start asked for and the one taken that are worth a note."""


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
        self.say(windows.notes)

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
    """Writes clips that come piece by piece to files, and in the end the sheet of all.

    A file appears when its clip is whole, and not at all if the work fails or is interrupted.

    Args:
        out: Folder.
        name: Files are name_000.mp4, name_001.mp4, ...
        spec: Of the model: rates of what is made.
        given: The modality that is given; it is not in the pieces.
        keep_original: Whether the films carry it as its file has it; else at the model's rate.
    """

    def __init__(
        self,
        out: Path,
        name: str,
        spec: ClipSpec,
        given: GivenFile | None = None,
        keep_original: bool = False,
    ) -> None:
        self._out, self._name, self._spec, self._given = out, name, spec, given
        self._original = given.original if given is not None and keep_original else None
        self._sheets: list[FilmSheet] = []
        self._replaces = False
        self.files: list[Path] = []

    def write(self, pieces: Iterable[tuple[int, Sequence[Clip]]]) -> None:
        """Writes all clips: of each batch the number of its first clip, and a piece of each of its clips."""
        for number, batch in itertools.groupby(pieces, key=itemgetter(0)):
            with ExitStack() as stack:
                films: list[FilmWriter] = []
                beside = None if self._given is None else _Beside(self._given)
                for _, clips in batch:
                    if not films:
                        films = [self._opened(stack, number + i) for i in range(len(clips))]
                    whole = clips if beside is None else beside.completed(clips)
                    for film, sheet, clip in zip(films, self._sheets[number:], whole, strict=True):
                        self._add(film, clip)
                        sheet.add(clip.frames, clip.waveform)
            # They are whole now. What was kept of the original is the same in all.
            self.files += [film.path for film in films]
            if self._given is not None and films:
                self._given.say(films[0].said)

    def save_sheet(self, titles: Sequence[str]) -> Path:
        """Writes the contact sheet of all clips: folder/name.png."""
        from mmldm.media.sheet import film_sheet, save_png

        path = self._out / f"{self._name}.png"
        save_png(path, film_sheet(self._sheets, titles))
        return path

    def _opened(self, stack: ExitStack, number: int) -> FilmWriter:
        """The file of a clip, which ends with `stack`."""
        from mmldm.media.sheet import FilmSheet
        from mmldm.media.writer import FilmWriter

        spec, original = self._spec, self._original
        kept = None if original is None else original.modality
        path = self._out / f"{self._name}_{number:03d}.mp4"
        if path.exists() and not self._replaces:
            self._replaces = True
            note(f"{path} was there before: files of these names are replaced")
        film = FilmWriter(
            path,
            fps=None if kept == "video" else spec.fps,
            sample_rate=None if kept == "audio" else spec.sample_rate,
            given=original,
        )
        self._sheets.append(FilmSheet(spec.fps, spec.sample_rate))
        return stack.enter_context(film)

    def _add(self, film: FilmWriter, clip: Clip) -> None:
        """Writes what is made of a piece; the original comes from its file."""
        kept = None if self._original is None else self._original.modality
        film.add(
            None if kept == "video" else clip.frames, None if kept == "audio" else clip.waveform
        )


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
