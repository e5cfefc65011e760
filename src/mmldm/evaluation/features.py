"""What is taken down of each clip, once, and all metrics are computed from: features, events, alarms.

clips -> measures -> findings, a dict of tensors of each clip

A measure is a function of the clip alone, so that what it finds can be kept; `measuring` does.
`build_measures` loads networks, and makes from real clips what must know them first.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmldm import __version__
from mmldm.data.clips import spread
from mmldm.errors import MediaError, UserError
from mmldm.evaluation import av_align
from mmldm.evaluation.classifiers import Classifiers, train_classifiers
from mmldm.evaluation.events import (
    detect_onsets,
    is_frozen,
    is_silent,
    motion_peaks,
    motion_rests,
)
from mmldm.evaluation.extractors.extractor import Extractor
from mmldm.evaluation.extractors.named import load_extractor
from mmldm.evaluation.memorisation import Neighbours, fingerprints
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.sets import ClipSet
from mmldm.media.clip import Clip
from mmldm.types import AV, Modality, Progress

Findings = Mapping[str, Tensor]
"""What a measure takes down of one clip."""
EXTRACTORS = ("i3d", "i3d-pooled", "vggish", "yamnet", "squeezenet", "audioclip", "clap")
CLASSIFIER_CLIPS = 1200
"""Clips that classifiers are trained on, at most."""


class Measure(ABC):
    """A function from clips to findings.

    Attributes:
        name: As reports write it.
        identity: Names all that its findings depend on besides the clips and this package; "" for nothing.
        modality: What of a clip it reads; None: both.
    """

    name: str
    identity: str = ""
    modality: Modality | None = None

    def reads(self, clips: ClipSet) -> bool:
        """Whether it has something to say of a set: not of what that lacks, or was given."""
        if self.modality is None:
            return clips.lacks is None
        return self.modality not in (clips.lacks, clips.given)

    @property
    def key(self) -> str:
        """Hash of name, `identity` and the package's version."""
        return hashlib.sha256(f"{self.name} {self.identity} {__version__}".encode()).hexdigest()

    @abstractmethod
    def __call__(self, clips: Sequence[Clip]) -> list[Findings]:
        """The findings of each clip."""


class Features(Measure):
    """Features (W,D) of an extractor, under "features".

    Args:
        name: One of `EXTRACTORS`.
    """

    def __init__(self, name: str, extractor: Extractor) -> None:
        self.name, self.extractor = name, extractor
        self.modality = extractor.modality
        self.identity = f"{extractor.name} {extractor.sha256}"

    def __call__(self, clips: Sequence[Clip]) -> list[Findings]:
        return [{"features": windows} for windows in self.extractor(clips)]


class Events(Measure):
    """Times in seconds of onsets (N,), of peaks (M,) and rests (K,) of motion; see `events`."""

    name = "events"
    identity = "onsets to a sample"

    def __call__(self, clips: Sequence[Clip]) -> list[Findings]:
        return [
            {
                "onsets": torch.from_numpy(detect_onsets(clip.waveform, clip.sample_rate)),
                "peaks": torch.from_numpy(motion_peaks(clip.frames, clip.fps)),
                "rests": torch.from_numpy(motion_rests(clip.frames, clip.fps)),
            }
            for clip in clips
        ]


class PublishedEvents(Measure):
    """Times in seconds of onsets (N,) and of peaks (M,) of optical flow as AV-Align has them; see `av_align`.

    Raises:
        UserError: OpenCV is not installed.
    """

    name = "flow"

    def __init__(self) -> None:
        self.identity = f"opencv {av_align.opencv().__version__}"

    def __call__(self, clips: Sequence[Clip]) -> list[Findings]:
        return [
            {
                "onsets": torch.from_numpy(av_align.onsets(clip.waveform, clip.sample_rate)),
                "peaks": torch.from_numpy(
                    av_align.peaks(av_align.optical_flow(clip.frames), clip.fps)
                ),
            }
            for clip in clips
        ]


class Alarms(Measure):
    """Whether a clip is silent, and whether it is frozen: 1 or 0, each ()."""

    name = "alarms"

    def __call__(self, clips: Sequence[Clip]) -> list[Findings]:
        return [
            {
                "silent": torch.tensor(float(is_silent(clip))),
                "frozen": torch.tensor(float(is_frozen(clip))),
            }
            for clip in clips
        ]


class Fingerprints(Measure):
    """Small images of sound (A,) and picture (V,); see `memorisation`."""

    name = "fingerprints"

    def __call__(self, clips: Sequence[Clip]) -> list[Findings]:
        return [{"audio": a, "video": v} for a, v in zip(*fingerprints(clips), strict=True)]


def nearest(own: Sequence[Findings], real: Sequence[Findings]) -> tuple[Tensor, Tensor]:
    """Distance to (N,) and index of (N,) the real clip with the nearest fingerprint."""
    prints, others = (AV.zip(AV(clip["audio"], clip["video"]) for clip in s) for s in (own, real))
    return Neighbours(others.map(torch.stack)).nearest(prints.map(torch.stack))


class Classes(Measure):
    """What classifiers say of sound and picture; see `classifiers`.

    "heard" and "seen" () are numbers of classes, "changed" () is 1 where what is seen changes its class,
    "sound" and "picture" (64,) are the classifiers' features.
    """

    name = "classes"

    def __init__(self, classifiers: Classifiers) -> None:
        self.classifiers = classifiers
        # The weights themselves: what is trained on one folder twice need not be the same.
        digest = hashlib.sha256()
        for tensor in nn.ModuleDict(classifiers.networks._asdict()).state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        self.identity = f"{digest.hexdigest()} with features"

    def __call__(self, clips: Sequence[Clip]) -> list[Findings]:
        found = self.classifiers.judge(clips)
        columns = {
            "heard": found.classes.audio,
            "seen": found.classes.video,
            "changed": found.changed.float(),
            "sound": found.features.audio,
            "picture": found.features.video,
        }
        return [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]


Builder = Callable[[ClipSet, Protocol, Progress], Measure]
"""Makes a measure from real clips and the protocol that they are read by."""


class Measures(NamedTuple):
    """What could be built of the measures that were asked for.

    Attributes:
        built: Ready to measure.
        missing: Names of the others, and why they are not there.
    """

    built: list[Measure]
    missing: dict[str, str]


def build_measures(
    names: Iterable[str],
    real: ClipSet,
    protocol: Protocol,
    progress: Progress,
    weights: Path | None = None,
    device: str | torch.device = "cpu",
    further: Mapping[str, Builder] | None = None,
) -> Measures:
    """Builds measures by name.

    Args:
        real: What is made from real clips is made from these.
        weights: Folder of the networks' weights; None: the usual one.
        device: Where networks run.
        further: Measures that this package does not know, or knows otherwise, by name.
    """
    # What there is to build, by name; what cannot be built says why.
    builders: dict[str, Builder] = {"classes": classes_of}
    for measure in (Events, PublishedEvents, Alarms, Fingerprints):
        builders[measure.name] = partial(_simple, measure)
    for name in EXTRACTORS:
        builders[name] = partial(_features, name, weights, device)
    builders |= further or {}
    found = Measures([], {})
    for name in dict.fromkeys(names):
        try:
            found.built.append(builders[name](real, protocol, progress))
        except UserError as error:
            found.missing[name] = str(error)
    return found


def _simple(measure: Callable[[], Measure], *_: object) -> Measure:
    return measure()


def _features(name: str, weights: Path | None, device: str | torch.device, *_: object) -> Features:
    return Features(name, load_extractor(name, weights, device))


def classes_of(real: ClipSet, protocol: Protocol, progress: Progress) -> Classes:
    """Classes by classifiers of sound and picture, trained on these clips; a minute or two.

    Raises:
        UserError: They are not of two or more classes.
    """
    # Real clips of all classes, spread over the set.
    named = [clip for clip in real.clips if clip.class_name is not None]
    names = sorted({clip.class_name or "" for clip in named})
    if len(names) < 2:
        raise UserError(
            "class agreement needs real clips in folders of at least two classes, to train classifiers on"
        )
    chosen = [named[i] for i in spread(CLASSIFIER_CLIPS, len(named))]

    def clips() -> Iterator[tuple[Clip, str]]:
        for done, source in enumerate(chosen, start=1):
            try:
                yield source.read(protocol.spec), source.class_name or ""
            except MediaError:
                continue
            progress("clips of the classifiers", done, len(chosen))

    def trained(modality: str, done: int, total: int) -> None:
        progress(f"{modality} classifier", done, total)

    return Classes(train_classifiers(clips(), names, seed=protocol.seed, progress=trained))
