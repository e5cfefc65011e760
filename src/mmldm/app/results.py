"""From clips to what a visitor gets: an mp4, a wav, a JSON and a spectrogram each, and an entry of all.

request, clips -> files in the visitor's folder -> Entry; those that are nearly alike are one result
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from mmldm.app.alike import groups_of_alike
from mmldm.app.jobs import Job
from mmldm.app.reading import Read, Reader
from mmldm.app.sittings import Entry, Result, Sitting
from mmldm.files import write_text
from mmldm.media.clip import Clip
from mmldm.media.sheet import save_png, spectrogram_picture
from mmldm.media.spectrogram import AudioImage
from mmldm.media.writer import FilmWriter, write_wav
from mmldm.pipelines.precision import Precision
from mmldm.pipelines.provenance import (
    TAG,
    Asked,
    Command,
    Machine,
    Provenance,
    sha256_of_model,
    source_of,
)
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.types import Modality

PICTURE = (640, 112)
"""Width and height of a spectrogram."""


@dataclass(frozen=True)
class Wish:
    """What a visitor asks for.

    Attributes:
        class_name: None: by the seed, where nothing is given.
        seconds: Of what is made; None: of what is given, else of a window.
        seed: Of the first clip; -1: drawn.
        quality: None: the model's choice.
        count: Clips.
    """

    class_name: str | None = None
    seconds: float | None = None
    seed: int = -1
    quality: str | None = None
    count: int = 4


@dataclass(frozen=True)
class GivenMedia:
    """A file that a visitor gives.

    Attributes:
        path: Where it is.
        name: What the visitor calls it.
        start: Second from which it is used.
        end: Second up to which; None: its end.
    """

    path: Path
    name: str
    start: float = 0.0
    end: float | None = None

    @property
    def stem(self) -> str:
        return Path(self.name).stem


@dataclass(frozen=True)
class Account:
    """How clips were made.

    Attributes:
        title: Of their entry.
        command: Of the command line, that makes the same.
        given: Files, by the option that gives them there.
        settings: Options that were set; None: not set.
        said: Sentences for the visitor.
        classes: Of each clip; None: not known.
        titles: Of each clip; empty: number and class.
        read: What was read of the file of which one modality stays, and which.
        quality: That was asked for.
    """

    title: str
    command: Command
    given: dict[str, GivenMedia]
    settings: dict[str, Any]
    said: Sequence[str]
    classes: Sequence[str | None]
    titles: Sequence[str] = ()
    read: tuple[Read, Modality] | None = None
    quality: str | None = field(default=None)

    @property
    def stated(self) -> dict[str, Any]:
        """The settings that are set, as a clip states them."""
        every = {**self.settings, "quality": self.quality}
        return {key: value for key, value in every.items() if value is not None}


class Press:
    """Writes results of one model.

    Args:
        pipeline: The model.
        name: As it was named on the command line.
        reader: Writes what stands beside a given sound or picture.
        precision: In which the model will sample; here its weights are still as they were loaded.
    """

    def __init__(
        self,
        pipeline: SoundingVideoPipeline,
        name: str | None,
        reader: Reader,
        precision: Precision,
    ) -> None:
        self._pipeline, self._name, self._reader = pipeline, name, reader
        self._precision = precision
        self._sha256 = sha256_of_model(pipeline)
        self._audio_image = AudioImage(pipeline.clip_spec)

    def entry(
        self,
        job: Job,
        sitting: Sitting,
        clips: Sequence[Clip],
        seeds: Sequence[int],
        account: Account,
    ) -> Entry:
        """Writes the files of each clip, groups those that are nearly alike, and adds them to the sitting."""
        asked = Asked(
            command=account.command,
            model=self._name,
            model_sha256=self._sha256,
            given={
                option: source_of(media.path).model_copy(update={"path": media.name})
                for option, media in account.given.items()
            },
            settings=account.stated,
        )
        sampling = self._pipeline.settings(account.quality)
        machine = Machine.here(self._pipeline.device.type, self._precision)
        made = account.command != "reconstruct"
        said, results = list(account.said), list[Result]()
        for number, (clip, seed) in enumerate(zip(clips, seeds, strict=True)):
            job.say(f"writing clip {number + 1} of {len(clips)}")
            kind = account.classes[number]
            title = account.titles[number] if account.titles else (kind or "")
            seconds = clip.duration
            result = Result(
                sitting.new_id(), sitting.folder, title, seed if made else None, kind, seconds
            )
            origin = Provenance(
                asked=asked,
                seed=seed,
                batch=tuple(seeds),
                sampling=sampling.model_dump(mode="json"),
                class_name=kind,
                machine=machine,
            )
            said += self._write(result, clip, origin, account)
            results.append(result)

        # One stands for those that are nearly the same.
        groups = [[i] for i in range(len(clips))]
        if made:
            groups = groups_of_alike(clips, self._audio_image)
        shown = tuple(
            replace(results[first], alike=tuple(results[i] for i in rest))
            for first, *rest in groups
        )
        words = [f"{key} {value}" for key, value in account.settings.items() if value is not None]
        if made:
            quality = account.quality or "the model's own"
            words.append(f"quality {quality} ({sampling.num_inference_steps} steps)")
        entry = Entry(account.title, ", ".join(words), shown, tuple(dict.fromkeys(said)))
        sitting.add(entry)
        return entry

    def _write(
        self, result: Result, clip: Clip, origin: Provenance, account: Account
    ) -> Sequence[str]:
        """The files of a result; what is said of how the given modality was kept."""
        metadata, said, spec = {TAG: origin.text()}, list[str](), self._pipeline.clip_spec
        if account.read is not None:
            (read, kept), given = account.read, next(iter(account.given.values()))
            made = clip.frames if kept == "audio" else clip.waveform
            seconds = account.settings.get("seconds")
            said = self._reader.keep(
                given.path, given.name, kept, read.facts, seconds, made, result.mp4, metadata
            )
        else:
            with FilmWriter(
                result.mp4, fps=spec.fps, sample_rate=spec.sample_rate, metadata=metadata
            ) as film:
                film.add(clip.frames, clip.waveform)
        write_text(result.json, origin.text() + "\n")
        write_wav(result.wav, clip.waveform, clip.sample_rate)
        save_png(result.picture, spectrogram_picture(clip, *PICTURE))
        frame = clip.frames[len(clip.frames) // 2].permute(1, 2, 0).numpy()
        Image.fromarray(frame).save(result.poster, quality=90)
        return said
