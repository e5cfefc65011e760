"""Where requests come in, from the page and from the API: what is given is the visitor's own, or refused.

visitor, values of fields -> GivenMedia, Wish -> work in the line; a rhythm, an example -> a file of his own
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmldm.app.jobs import Job, Line
from mmldm.app.making import Only, Studio
from mmldm.app.reading import Facts
from mmldm.app.results import GivenMedia, Wish
from mmldm.app.rhythm import RATE, rhythm
from mmldm.app.sittings import Entry, Result, Sitting, Sittings
from mmldm.errors import UserError
from mmldm.media.writer import FilmWriter, write_wav
from mmldm.types import Modality
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip

Work = Callable[[Job, Sitting], Entry]
"""What a request asks for."""
EXAMPLE_SECONDS = 3.2
EXAMPLE = 1
"""Number of the clip of the impacts world that is the example: a ball of glass."""


class Desk:
    """Takes requests.

    Args:
        studio: Makes clips.
        line: In which requests wait.
        sittings: Of the visitors.
    """

    def __init__(self, studio: Studio, line: Line, sittings: Sittings) -> None:
        self.studio, self.line, self.sittings = studio, line, sittings

    def submit(self, visitor: str, work: Work) -> Job:
        """Puts work into the line.

        Raises:
            UserError: The line is full, or the visitor's last request is not over.
        """

        def done(job: Job) -> Entry:
            return work(job, self.sittings.of(visitor))

        return self.line.submit(visitor, done)

    def given(self, visitor: str, path: str | None, start: Any, end: Any) -> GivenMedia:
        """A file of the visitor's own, and which part of it is used.

        Raises:
            UserError: There is none, it is not his, or start and end are no seconds.
        """
        if not path:
            raise UserError("give a file first: choose one, drop it here, or record it")
        if not self.sittings.is_own(visitor, path):
            raise UserError("this file is not here any more: give it once more")
        begin, stop = number(start, "the start"), number(end, "the end")
        # A field that holds 0, or nothing, means the end of the file.
        return GivenMedia(Path(path), Path(path).name, begin or 0.0, stop or None)

    def result(self, visitor: str, result_id: str) -> Result:
        """A result of the visitor's own.

        Raises:
            UserError: There is none of this name.
        """
        return self.sittings.of(visitor).find(result_id)

    def given_or_result(self, visitor: str, path: str | None, result_id: str) -> GivenMedia:
        """A file of the visitor's own, or else a result that he has chosen.

        Raises:
            UserError: There is neither.
        """
        if path:
            return self.given(visitor, path, None, None)
        if not result_id:
            raise UserError("choose a result first (Go on), or give a film of your own")
        result = self.result(visitor, result_id)
        name = f"{result.title} {result.seed}" if result.title else f"seed {result.seed}"
        return GivenMedia(result.mp4, f"{name}.mp4")

    def look(
        self, visitor: str, path: str, start: Any, end: Any, modality: Modality | None
    ) -> Facts:
        """What is used of a file."""
        return self.studio.look(self.given(visitor, path, start, end), modality)

    def entries(self, visitor: str) -> list[Entry]:
        """What the visitor has made, newest first."""
        return self.sittings.entries(visitor)

    # Work.

    def make(self, wish: Wish) -> Work:
        """Clips from nothing."""
        return lambda job, sitting: self.studio.make(job, sitting, wish)

    def for_given(self, given: GivenMedia, modality: Modality, wish: Wish) -> Work:
        """Pictures for a sound, or sounds for a picture."""
        return lambda job, sitting: self.studio.for_given(job, sitting, given, modality, wish)

    def extend(self, clip: GivenMedia, wish: Wish) -> Work:
        """More of a clip."""
        return lambda job, sitting: self.studio.extend(job, sitting, clip, wish)

    def retake(
        self, clip: GivenMedia, part: tuple[float, float], only: Only | None, wish: Wish
    ) -> Work:
        """A part of a clip anew."""
        return lambda job, sitting: self.studio.retake(job, sitting, clip, part, only, wish)

    def reconstruct(self, clip: GivenMedia) -> Work:
        """What the autoencoder keeps."""
        return lambda job, sitting: self.studio.reconstruct(job, sitting, clip)

    def rhythm(
        self,
        visitor: str,
        instrument: str,
        taps: Sequence[float],
        wish: Wish,
        name: str = "tapped rhythm",
    ) -> Work:
        """Pictures for a tapped rhythm.

        Raises:
            UserError: It is none.
        """
        waveform = rhythm(taps, instrument, self.studio.bounds.seconds)
        path = self.own_file(visitor, f"{name.replace(' ', '_')}.wav")
        write_wav(path, waveform, RATE)
        return self.for_given(GivenMedia(path, path.name), "audio", wish)

    def example(self, visitor: str, silent: bool) -> Path:
        """A film of a ball of the impacts world, as a file of the visitor's own.

        Args:
            silent: Without its sound.
        """
        spec = self.studio.spec
        frames = round(max(EXAMPLE_SECONDS, spec.duration) * spec.fps)
        longer = spec.model_copy(update={"num_frames": frames})
        try:
            world = ImpactsConfig(spec=longer, throws_again=True)
        except ValueError:
            raise UserError("this model's pictures are too narrow for the example") from None
        clip = render_clip(world, EXAMPLE).clip
        path = self.own_file(visitor, "example.mp4")
        rate = None if silent else clip.sample_rate
        with FilmWriter(path, fps=clip.fps, sample_rate=rate) as film:
            film.add(clip.frames, None if silent else clip.waveform)
        return path

    def own_file(self, visitor: str, name: str) -> Path:
        """A place for a file that is made for a visitor, where gradio serves it to him."""
        folder = self.sittings.uploads / secrets.token_hex(32)
        folder.mkdir()
        self.sittings.own(visitor, str(folder / name), given=False)
        return folder / name


def number(value: Any, name: str) -> float | None:
    """Of a field; None: it is empty.

    Raises:
        UserError: It holds something else.
    """
    if value is None or value == "":
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"{name}: {value!r:.40} is no number")
    return found


def whole(value: Any, name: str, default: int) -> int:
    """A whole number of a field, or the default where it is empty.

    Raises:
        UserError: It holds something else.
    """
    found = number(value, name)
    if found is None:
        return default
    if found != int(found):
        raise UserError(f"{name}: {found:g} is no whole number")
    return int(found)
