"""What a visitor can have made, by one model: from nothing, for a sound, for a picture, from a clip.

request -> work on one thread (`jobs`) -> clips -> entry (`results`). The calls and their settings are those
of the command line, so that `mmldm generate --again` makes a downloaded clip once more.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmldm.app.jobs import Job
from mmldm.app.reading import Facts, Read, Reader
from mmldm.app.results import Account, GivenMedia, Press, Wish
from mmldm.app.safety import Bounds
from mmldm.app.sittings import Entry, Sitting
from mmldm.errors import UserError
from mmldm.evaluation.reconstruction import fidelity
from mmldm.media.clip import Clip
from mmldm.media.spectrogram import AudioImage
from mmldm.pipelines.outliers import Watch, sentences
from mmldm.pipelines.precision import Precision, sample_in
from mmldm.pipelines.request import frames_in, given_clips
from mmldm.pipelines.rollout import JOINS
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.types import Modality

SEEDS = 1_000_000
"""Seeds that are drawn lie below: short enough to be copied by hand."""
MOST_BYTES = 1 << 29
"""Of pictures of one request in memory."""
SILENT = 1e-3
"""Peak below which a sound counts as silent (-60 dB)."""
Only = Literal["sound", "picture"]


class Studio:
    """One model, and what can be made with it.

    Args:
        pipeline: The model, on its device.
        name: As it was named on the command line; None: the bundled one.
        bounds: Of the page; `seconds` becomes less where the model's pictures are large.
        precision: In which it samples from now on.
    """

    def __init__(
        self,
        pipeline: SoundingVideoPipeline,
        name: str | None,
        bounds: Bounds,
        precision: Precision = "fp32",
    ) -> None:
        self.pipeline, self.name, self.spec = pipeline, name, pipeline.clip_spec
        spec = self.spec
        per_second = spec.fps * 3 * spec.height * spec.width * bounds.results
        longest = max(spec.duration, float(int(MOST_BYTES / per_second)))
        self.bounds = replace(bounds, seconds=min(bounds.seconds, longest))
        self.reader = Reader(spec, bounds.reading_seconds)
        self._press = Press(pipeline, name, self.reader, precision)
        sample_in(pipeline, precision)
        self._audio_image = AudioImage(spec)

    def close(self) -> None:
        """Ends the child that reads."""
        self.reader.stop()

    def make(self, job: Job, sitting: Sitting, wish: Wish) -> Entry:
        """Clips from nothing.

        Raises:
            UserError: What is asked for cannot be made; so do all others.
        """
        self._check(wish)
        seconds = self.spec.duration if wish.seconds is None else wish.seconds
        frames_in(seconds, self.spec)
        seeds = self._seeds(wish)
        clips = self._made(job, wish, seeds, {"seconds": seconds, "class_labels": wish.class_name})
        # The class that nobody asked for is the seed's.
        classes: list[str | None] = [wish.class_name] * len(seeds)
        drawn = self.pipeline.drawn_classes(seeds) if wish.class_name is None else None
        if drawn is not None:
            classes = [self.pipeline.class_names[index] for index in drawn.tolist()]
        account = Account(
            title=wish.class_name or "made from nothing",
            command="generate",
            given={},
            settings={"class": wish.class_name, "seconds": wish.seconds},
            said=self._joins(seconds),
            classes=classes,
            quality=wish.quality,
        )
        return self._press.entry(job, sitting, clips, seeds, account)

    def for_given(
        self, job: Job, sitting: Sitting, given: GivenMedia, modality: Modality, wish: Wish
    ) -> Entry:
        """Pictures for a given sound, or sounds for a given picture, which stays as it is."""
        self._check(wish)
        read = self._read(job, sitting, given, modality)
        spec, sound = self.spec, modality == "audio"
        media = read.waveform if sound else read.frames
        if sound and (not len(media) or media.abs().max().item() < SILENT):
            raise UserError(
                f"nothing is heard in {given.name}: is the microphone on, and is it the right one? Give "
                "a sound that is louder"
            )
        if not sound and len(media) < 2:
            raise UserError(
                f"the picture of {given.name} is one frame, in which nothing moves: give a film"
            )

        # As the command line gives it: in parts of a window, which are looked at as they go by.
        job.say("encoding what is given")
        watch = Watch(self.pipeline.outlier_distances, modality, spec.duration)
        parts = watch.passing(media.split(spec.num_samples if sound else spec.num_frames))
        lasts, (most, _) = read.facts.seconds or 0.0, self._part(given)
        cut = given.end is not None or lasts > most - 1 / spec.fps
        option = "audio" if sound else "video"
        seeds = self._seeds(wish)
        asked = {"audio" if sound else "frames": parts, "class_labels": wish.class_name}
        clips = self._made(job, wish, seeds, asked)
        account = Account(
            title=f"{'pictures' if sound else 'sounds'} for {given.name}",
            command="generate",
            given={option: given},
            settings={
                "class": wish.class_name,
                "start": given.start or None,
                "seconds": most if cut else None,
            },
            said=[*read.facts.said, *self._joins(lasts), *watch.sentences(given.name)],
            classes=[wish.class_name] * len(seeds),
            read=(read, modality),
            quality=wish.quality,
        )
        whole = [_beside(clip, read, modality) for clip in clips]
        return self._press.entry(job, sitting, whole, seeds, account)

    def extend(self, job: Job, sitting: Sitting, given: GivenMedia, wish: Wish) -> Entry:
        """A clip, and `wish.seconds` new ones after it."""
        self._check(wish)
        seconds = wish.seconds
        if seconds is None:
            raise UserError("say how many seconds are to be added")
        frames_in(seconds, self.spec)
        before, said = self._clip(job, sitting, given)
        if before.duration + seconds > self.bounds.seconds:
            raise UserError(
                f"{given.name} has {before.duration:.1f} s, and a clip has {self.bounds.seconds:g} s at most "
                f"here: add {max(0, int(self.bounds.seconds - before.duration))} s or fewer"
            )
        seeds = self._seeds(wish)
        clips = self._made(job, wish, seeds, {"seconds": seconds, "after": before})
        account = Account(
            title=f"{given.stem} goes on for {seconds:g} s",
            command="extend",
            given={"clip": given},
            settings={"seconds": seconds},
            said=said,
            classes=[None] * len(seeds),
            quality=wish.quality,
        )
        return self._press.entry(job, sitting, clips, seeds, account)

    def retake(
        self,
        job: Job,
        sitting: Sitting,
        given: GivenMedia,
        part: tuple[float, float],
        only: Only | None,
        wish: Wish,
    ) -> Entry:
        """A clip of which a part, from and to these seconds, is made anew."""
        self._check(wish)
        original, said = self._clip(job, sitting, given)
        seeds, (start, end) = self._seeds(wish), part
        made = self.pipeline.retake(
            original,
            start,
            end,
            only,
            num_samples=wish.count,
            quality=wish.quality,
            seed=seeds,
            batch_size=len(seeds),
            progress=job.progress,
        )
        what = f"the {only}" if only else "picture and sound"
        account = Account(
            title=f"{given.stem}: {what} from {start:g} to {end:g} s made anew",
            command="retake",
            given={"clip": given},
            settings={"from": start, "to": end, "only": only},
            said=said,
            classes=[None] * len(seeds),
            quality=wish.quality,
        )
        return self._press.entry(job, sitting, made.clips, seeds, account)

    def reconstruct(self, job: Job, sitting: Sitting, given: GivenMedia) -> Entry:
        """What the autoencoder keeps of a clip: the clip as the model reads it, what is kept, and numbers."""
        original, said = self._clip(job, sitting, given)
        job.say("encoding and decoding")
        kept = self.pipeline.reconstruct(original)
        numbers = fidelity(kept, original, self._audio_image)
        end = None if given.end is None else given.end - given.start
        account = Account(
            title=f"{given.stem}: what the autoencoder keeps",
            command="reconstruct",
            given={"clip": given},
            settings={"start": given.start or None, "seconds": end},
            said=[
                f"picture: PSNR {numbers.psnr:.2f} dB (higher is closer); sound: mean log-mel error"
                f" {numbers.mel_error:.2f} dB (lower is closer)",
                *said,
            ],
            classes=[None, None],
            titles=["as the model reads it", "what is kept of it"],
        )
        return self._press.entry(job, sitting, [original, kept], [0, 0], account)

    def look(self, given: GivenMedia, modality: Modality | None) -> Facts:
        """What would be used of a file, before anything is made."""
        seconds, said = self._part(given)
        facts = self.reader.look(given.path, given.name, modality, given.start, seconds)
        return facts._replace(said=[*facts.said, *said])

    def _made(
        self, job: Job, wish: Wish, seeds: Sequence[int], asked: dict[str, Any]
    ) -> list[Clip]:
        """Clips of `pipeline.pieces`, one per seed; a given modality is empty in them."""
        pieces: list[list[Clip]] = [[] for _ in seeds]
        for _, batch in self.pipeline.pieces(
            len(seeds),
            **asked,
            quality=wish.quality,
            seed=list(seeds),
            batch_size=len(seeds),
            progress=job.progress,
        ):
            job.check()
            for own, piece in zip(pieces, batch, strict=True):
                own.append(piece)
        return [_joined(own) for own in pieces]

    def _clip(self, job: Job, sitting: Sitting, given: GivenMedia) -> tuple[Clip, list[str]]:
        """Picture and sound of a file, of one length, and sentences on it."""
        read, spec = self._read(job, sitting, given, None), self.spec
        samples = round(len(read.frames) * spec.sample_rate / spec.fps)
        clip = Clip(read.frames, _filled(read.waveform, samples), spec.fps, spec.sample_rate)
        distances = self.pipeline.outlier_distances(given_clips(clip, spec))
        odd = sentences(distances, given.name, spec.duration)
        return clip, [*read.facts.said, *self._joins(math.inf), *odd]

    def _read(
        self, job: Job, sitting: Sitting, given: GivenMedia, modality: Modality | None
    ) -> Read:
        """What is used of a file, and sentences on it."""
        job.say(f"reading {given.name}")
        seconds, said = self._part(given)
        scratch = sitting.folder / f".{secrets.token_hex(8)}.safetensors"
        read = self.reader.read(given.path, given.name, modality, given.start, seconds, scratch)
        job.check()
        return read._replace(facts=read.facts._replace(said=[*read.facts.said, *said]))

    def _part(self, given: GivenMedia) -> tuple[float, list[str]]:
        """Seconds that are used of a file at most, and a sentence where they are fewer than asked for.

        Raises:
            UserError: Start and end are no part.
        """
        start, end, most = given.start, given.end, self.bounds.seconds
        if not math.isfinite(start) or start < 0:
            raise UserError("the start is a second of the file, from 0 on")
        if end is None:
            return most, []
        if not math.isfinite(end) or end <= start:
            raise UserError(f"the end ({end:g} s) must come after the start ({start:g} s)")
        if end - start > most:
            return most, [f"{end - start:g} s are asked for, and {most:g} s of them are used"]
        return end - start, []

    def _check(self, wish: Wish) -> None:
        """Refuses a wish that is beyond the bounds.

        Raises:
            UserError: It is.
        """
        if not 1 <= wish.count <= self.bounds.results:
            raise UserError(f"from 1 to {self.bounds.results} results can be had at a time")
        if not -1 <= wish.seed <= 2**62:
            raise UserError("a seed is a whole number from 0 on, or -1 to draw one")
        if wish.class_name is not None and wish.class_name not in self.pipeline.class_names:
            raise UserError(
                f"this model knows no class {wish.class_name!r:.80}: it has"
                f" {', '.join(self.pipeline.class_names) or 'none'}"
            )
        if wish.seconds is not None and not 0 < wish.seconds <= self.bounds.seconds:
            raise UserError(f"seconds are a number up to {self.bounds.seconds:g} here")
        self.pipeline.settings(wish.quality)

    def _seeds(self, wish: Wish) -> list[int]:
        first = secrets.randbelow(SEEDS) if wish.seed == -1 else wish.seed
        return [first + i for i in range(wish.count)]

    def _joins(self, seconds: float) -> list[str]:
        """What is said of a model that makes more than a window, and has not learnt to."""
        learnt = self.pipeline.config.known_slots or seconds <= self.spec.duration + 0.1
        return [] if learnt else [JOINS]


def _joined(pieces: Sequence[Clip]) -> Clip:
    """Consecutive pieces as one clip."""
    first = pieces[0]
    frames = torch.cat([piece.frames for piece in pieces])
    waveform = torch.cat([piece.waveform for piece in pieces])
    return Clip(frames, waveform, first.fps, first.sample_rate)


def _beside(clip: Clip, read: Read, kept: Modality) -> Clip:
    """A made modality, and beside it the given one as the model reads it, of the same length."""
    if kept == "audio":
        samples = round(len(clip.frames) * clip.sample_rate / clip.fps)
        return replace(clip, waveform=_filled(read.waveform, samples))
    frames = max(1, round(len(clip.waveform) * clip.fps / clip.sample_rate))
    return replace(clip, frames=read.frames[:frames])


def _filled(waveform: Tensor, samples: int) -> Tensor:
    """A waveform (S,) of this length: cut, or with silence after it."""
    return F.pad(waveform[:samples], (0, max(0, samples - len(waveform))))
