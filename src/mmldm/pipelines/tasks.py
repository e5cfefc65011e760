"""What a call of the pipeline makes, as known and unknown ticks: joint, from given media, extend, retake.

given media, clips, seconds -> `Task`: outline, known latents, the media that stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mmldm.errors import UserError
from mmldm.pipelines.canvas import NONE, Outline
from mmldm.pipelines.decoding import ClipCoder
from mmldm.pipelines.pieces import Around, Read
from mmldm.pipelines.request import Request, frames_in, given_media
from mmldm.pipelines.windows import TimeGrid
from mmldm.types import AV, ClipSpec, Modality

EDGE = 2
"""Ticks at the end of a sound that an encoder, which pads what it does not see, gets wrong by a fifth and a
half of a standard deviation: where a clip goes on, they are made anew and not heard."""


@dataclass(frozen=True)
class Task:
    """What a call makes.

    Attributes:
        outline: Which ticks.
        num_frames: That are made, from the first wanted tick on; None: without an end.
        known: Latents AV((B,C,T',H',W')) of all ticks, not normalised, or (1,...) for all clips; None: all
            unknown.
        given: Media of a modality that is known as a whole, AV((B,S), (B,T,3,H,W) u8), or (1,...). Of length
            0: nobody needs them with what is made.
        around: Known sound beside what is made.
    """

    outline: Outline
    num_frames: int | None
    known: AV[Tensor | None] = AV(None, None)
    given: AV[Tensor | None] = AV(None, None)
    around: Around = Around()

    def rows(self, rows: slice) -> Task:
        """Of these clips of the call."""
        return replace(
            self,
            known=rows_of(self.known, rows),
            given=rows_of(self.given, rows),
            around=Around(*rows_of(AV(self.around.before, self.around.after), rows)),
        )

    def reads(self, grid: TimeGrid) -> AV[Read | None]:
        """What reads the given media of some ticks; the last ones read to the end."""

        def read(media: Tensor | None, units: int) -> Read | None:
            if media is None:
                return None
            length = self.outline.length

            def of(ticks: range) -> Tensor:
                """(B,n,...) -> those of the ticks."""
                stop = None if ticks.stop == length else ticks.stop * units
                return media[:, ticks.start * units : stop]

            return of

        return self.given.map(read, AV(grid.samples, grid.frames))


def from_nothing(num_frames: int | None, grid: TimeGrid) -> Task:
    """Both modalities of so many frames; None: without an end.

    Raises:
        UserError: The model makes no clips of this length.
    """
    if num_frames is None:
        grid.check_length(2)
        return Task(Outline(None, range(1), AV(range(1), range(1))), None)
    ticks = grid.ticks_of(num_frames)
    grid.check_length(ticks)
    return Task(Outline(ticks, range(ticks), AV(range(ticks), range(ticks))), num_frames)


def from_given(media: AV[Tensor | None], coder: ClipCoder) -> Task:
    """One modality for the other, AV((B,S), (B,T,3,H,W) u8), one of them None: as long as that is.

    Raises:
        UserError: The model makes no clips of this length.
    """
    waveforms, frames = media
    spec, grid = coder.spec, coder.grid
    if frames is not None:
        num_frames = frames.shape[1]
        task = from_nothing(num_frames, grid)
        known = coder.encode(AV(None, frames))
    else:
        assert waveforms is not None
        num_frames = frames_of_sound(waveforms.shape[1], spec)
        task = from_nothing(num_frames, grid)
        known = coder.encode(AV(waveforms[:, : len(task.outline.wanted) * grid.samples], None))
    unknown = task.outline.unknown.map(lambda gap, z: gap if z is None else NONE, media)
    return replace(task, outline=replace(task.outline, unknown=unknown), known=known, given=media)


def from_parts(parts: Iterable[Tensor], modality: Modality, coder: ClipCoder) -> Task:
    """As `from_given`, of one clip that comes in parts, which are encoded and not kept.

    Args:
        parts: (s,) of a waveform, or (t,3,H,W) u8 of frames, one after another.

    Raises:
        UserError: A part is not of the model, or there is none.
    """
    spec, grid, audio = coder.spec, coder.grid, modality == "audio"
    seen = 0

    def checked() -> Iterator[Tensor]:
        """The parts as (1,s) or (1,t,3,H,W)."""
        nonlocal seen
        for part in parts:
            media, _ = given_media([part] if audio else None, None if audio else [part], spec, 1)
            seen += len(part)
            yield from (x for x in media if x is not None)

    latents = coder.encode_pieces(checked(), modality)
    task = from_nothing(frames_of_sound(seen, spec) if audio else seen, grid)
    # Half a frame more of sound is no frame.
    slots = grid.slots.audio if audio else grid.slots.video
    latents = latents[:, :, : max(len(task.outline.wanted), grid.ticks) * slots]
    unread = torch.zeros(1, 0) if audio else torch.zeros(1, 0, 3, 1, 1, dtype=torch.uint8)
    gap = task.outline.wanted
    return replace(
        task,
        outline=replace(task.outline, unknown=AV(NONE, gap) if audio else AV(gap, NONE)),
        known=AV(latents, None) if audio else AV(None, latents),
        given=AV(unread, None) if audio else AV(None, unread),
    )


def extension(
    clips: AV[Tensor],
    seconds: float | None,
    audio: Tensor | None,
    coder: ClipCoder,
    endless: bool = False,
) -> Task:
    """What comes after clips AV((B,S), (B,T,3,H,W) u8).

    Args:
        seconds: Of what comes; None: as long as `audio`.
        endless: What comes has no end where nothing says how long it is.
        audio: Sound (B,S) of what comes, if it is given.

    Raises:
        UserError: The model has no time axis, or there is no second to add.
    """
    spec, grid = coder.spec, coder.grid
    grid.check_length(2)
    begin = min(clips.video.shape[1] // grid.frames, clips.audio.shape[1] // grid.samples)
    if begin == 0:
        raise UserError(f"a clip that is extended lasts {grid.seconds:g} s at least")
    before = clips.audio[:, : begin * grid.samples]
    if seconds is None and audio is None and not endless:
        raise UserError("say how many seconds to add, or give the sound of them")
    if audio is not None:
        held = audio.shape[1] / spec.sample_rate
        seconds = held if seconds is None else seconds
        if seconds > held + 1 / spec.fps:
            raise UserError(
                f"the sound of what comes lasts {held:.2f} s, and {seconds:g} s are to be added: give a "
                "longer one, or fewer seconds"
            )
    num_frames = None if seconds is None else frames_in(seconds, spec)
    length = None if num_frames is None else begin + grid.ticks_of(num_frames)
    gap = range(begin, begin + 1 if length is None else length)
    frames = clips.video[:, : begin * grid.frames]
    if audio is None:
        # What was heard last is known, and how it sounded is not quite: the picture tells what happened.
        heard = max(1, begin - EDGE)
        encoded = coder.encode(AV(before, frames))
        outline = Outline(length, gap, AV(range(heard, gap.stop), gap))
        return Task(outline, num_frames, encoded, around=Around(before))
    # All of the sound is known: what was, and what comes.
    assert num_frames is not None
    more = audio[:, : round(num_frames * spec.sample_rate / spec.fps)]
    rows = max(len(before), len(more))
    sound = torch.cat([before.expand(rows, -1), more.expand(rows, -1)], dim=1)
    encoded = coder.encode(AV(sound, frames))
    return Task(Outline(length, gap, AV(NONE, gap)), num_frames, encoded, AV(sound, None))


def retaking(
    clips: AV[Tensor], start: float, end: float, only: str | None, coder: ClipCoder
) -> Task:
    """What stands between two seconds of clips AV((B,S), (B,T,3,H,W) u8), made anew.

    Args:
        only: "sound" or "picture": of this modality alone; None: of both.

    Raises:
        UserError: The model has no time axis, or there is no such gap in the clips.
    """
    spec, grid = coder.spec, coder.grid
    grid.check_length(2)
    if only not in (None, "sound", "picture"):
        raise UserError(f"only must be 'sound' or 'picture', not {only!r:.80}")
    num_frames = clips.video.shape[1]
    duration = num_frames / spec.fps
    if not 0 <= start < end <= duration + 1e-6:
        raise UserError(
            f"the part to be made anew, {start:g} to {end:g} s, does not lie in the clip's {duration:g} s"
        )
    # Whole ticks, outwards; to rounding, what is said exactly stays exact.
    gap = range(math.floor(start / grid.seconds + 1e-6), math.ceil(end / grid.seconds - 1e-6))
    length = grid.ticks_of(num_frames)
    if only is None and len(gap) >= length:
        raise UserError("nothing of the clip is left to go by: generate another one instead")

    sound = clips.audio[:, : length * grid.samples]
    sound = F.pad(sound, (0, length * grid.samples - sound.shape[1]))
    encoded = coder.encode(AV(sound, clips.video))
    unknown = AV(NONE if only == "picture" else gap, NONE if only == "sound" else gap)
    before, after = sound[:, : gap.start * grid.samples], sound[:, gap.stop * grid.samples :]
    return Task(
        Outline(length, gap, unknown),
        min(gap.stop * grid.frames, num_frames) - gap.start * grid.frames,
        encoded,
        AV(sound if only == "picture" else None, clips.video if only == "sound" else None),
        Around(before if before.shape[1] else None, after if after.shape[1] else None),
    )


def frames_of_sound(samples: int, spec: ClipSpec) -> int:
    """Frames of a clip whose sound has so many samples.

    Raises:
        UserError: It is not even half a frame long.
    """
    frames = round(samples * spec.fps / spec.sample_rate)
    if frames < 1:
        raise UserError(
            f"the audio of {samples} samples lasts {1000 * samples / spec.sample_rate:.3g} ms, and a frame "
            f"of this model {1000 / spec.fps:g} ms: give a longer one"
        )
    return frames


def rows_of(media: AV[Tensor | None], rows: slice) -> AV[Tensor | None]:
    """Those clips of media (B,...); one that serves all clips, (1,...), stays, and None stays None."""
    return media.map(lambda x: x if x is None or len(x) == 1 else x[rows])


def whole_task(asked: Request, coder: ClipCoder, endless: bool = False) -> Task:
    """What a call for whole clips makes.

    Args:
        endless: Whether clips have no end where nothing says how long they are.
    """
    if any(media is not None for media in asked.media):
        return from_given(asked.media, coder)
    return from_nothing(None if endless else asked.num_frames, coder.grid)
