"""What is taken down of each clip, once, and all metrics are computed from: features, events, alarms.

clips -> a dict of tensors of each

A measure is a function of the clip alone, so that what it gives can be kept; `feature_cache` does.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mmldm import __version__
from mmldm.evaluation.alarms import is_frozen, is_silent
from mmldm.evaluation.av_align import motion_peaks, motion_rests
from mmldm.evaluation.classifiers import Classifiers
from mmldm.evaluation.extractors.extractor import Extractor
from mmldm.evaluation.memorisation import fingerprints
from mmldm.evaluation.onsets import detect_onsets
from mmldm.media.clip import Clip
from mmldm.worlds.impacts.sync import detect

Row = Mapping[str, Tensor]
"""What a measure takes down of one clip."""


class Measure(ABC):
    """A function from clips to rows.

    Attributes:
        name: As reports write it.
        identity: Names all that its rows depend on besides the clips and this package; "" for nothing.
    """

    name: str
    identity: str = ""

    @property
    def key(self) -> str:
        """Hash of name, `identity` and the package's version."""
        return hashlib.sha256(f"{self.name} {self.identity} {__version__}".encode()).hexdigest()

    @abstractmethod
    def __call__(self, clips: Sequence[Clip]) -> list[Row]:
        """A row of each clip."""


class Features(Measure):
    """Features (W,D) of an extractor, under "features".

    Args:
        name: Of the extractor in `registry`.
    """

    def __init__(self, name: str, extractor: Extractor) -> None:
        self.name, self.extractor = name, extractor
        self.identity = f"{extractor.name} {extractor.sha256}"

    def __call__(self, clips: Sequence[Clip]) -> list[Row]:
        return [{"features": windows} for windows in self.extractor(clips)]


class Events(Measure):
    """Times in seconds of onsets, of peaks and rests of motion; see `av_align`."""

    name = "events"

    def __call__(self, clips: Sequence[Clip]) -> list[Row]:
        return [
            {
                "onsets": torch.from_numpy(detect_onsets(clip.waveform, clip.sample_rate)),
                "peaks": torch.from_numpy(motion_peaks(clip.frames, clip.fps)),
                "rests": torch.from_numpy(motion_rests(clip.frames, clip.fps)),
            }
            for clip in clips
        ]


class Alarms(Measure):
    """Whether a clip is silent, and whether it is frozen: 1 or 0."""

    name = "alarms"

    def __call__(self, clips: Sequence[Clip]) -> list[Row]:
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

    def __call__(self, clips: Sequence[Clip]) -> list[Row]:
        audio, video = fingerprints(clips)
        return [{"audio": a, "video": v} for a, v in zip(audio, video, strict=True)]


class Impacts(Measure):
    """Onsets and impacts of a ball in seconds, for clips of the impacts world; see `alignment`.

    Args:
        empty: Background (3,H,W) u8 of all sets that are compared.
    """

    name = "impacts"

    def __init__(self, empty: Tensor) -> None:
        self.empty = empty
        self.identity = hashlib.sha256(empty.numpy().tobytes()).hexdigest()

    def __call__(self, clips: Sequence[Clip]) -> list[Row]:
        return [
            {
                "onsets": torch.from_numpy(moments.onsets),
                "impacts": torch.from_numpy(np.asarray(moments.impacts, dtype=float)),
                "last": torch.tensor(moments.last, dtype=torch.float64),
            }
            for moments in detect(clips, self.empty)
        ]


class Verdicts(Measure):
    """Class heard and class seen, as numbers; see `classifiers`.

    Args:
        sha256: Of the classifiers' weights.
    """

    name = "classes"

    def __init__(self, classifiers: Classifiers, sha256: str) -> None:
        self.classifiers, self.identity = classifiers, sha256

    def __call__(self, clips: Sequence[Clip]) -> list[Row]:
        heard, seen = self.classifiers.judge(clips).classes
        return [{"heard": h, "seen": s} for h, s in zip(heard, seen, strict=True)]
