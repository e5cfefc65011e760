"""Does a model repeat its training clips? Distances to the nearest of them.

clips -> fingerprints AV((N,A), (N,V)) -> distance to and index of the nearest training clip (N,)

A fingerprint holds the frames in grey at 16 x 16 and the spectrogram at 16 x 64: position and time count,
and grain does not. Distances are read beside those of held-out real clips: a model that invents is as far
from its training clips as new real ones are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mmldm.errors import UserError
from mmldm.evaluation.classifiers import audio_spec
from mmldm.evaluation.intervals import Units, quantile_interval
from mmldm.media.clip import Clip
from mmldm.media.sheet import contact_sheet
from mmldm.media.spectrogram import AudioImage
from mmldm.types import AV

PICTURE_SIDE = 16
BANDS, COLUMNS = 16, 64
QUIET = 0.3
"""Of the audio image's range. What is below (-49 dB of full scale) counts as silence, or a little hiss would
set a copy apart."""
GREY = 0.299, 0.587, 0.114
BOOTSTRAPS = 1000
COPY = 1e-4
"""Distance below which two fingerprints are those of one clip: rounding."""


def fingerprints(clips: Sequence[Clip]) -> AV[Tensor]:
    """Small images of clips of one length: AV((N,16*64), (N,T*256)) in [0,1], float32."""
    # The sound: levels in [0,1], of which the quiet ones are all 0.
    waveforms = torch.stack([clip.waveform for clip in clips])
    audio_image = AudioImage(audio_spec(clips[0].sample_rate, waveforms.shape[1]))
    levels = (audio_image.image(waveforms)[:, 0, :1] + 1) / 2
    sounds = F.interpolate((levels - QUIET).clamp(min=0), (BANDS, COLUMNS), mode="area")

    # The picture, clip by clip: their sizes may differ.
    weights = torch.tensor(GREY)[:, None, None]
    small = []
    for clip in clips:
        grey = (clip.frames.float() / 255 * weights).sum(1, keepdim=True)
        small.append(F.interpolate(grey, (PICTURE_SIDE, PICTURE_SIDE), mode="area"))
    return AV(sounds.flatten(1), torch.stack(small).flatten(1))


class Neighbours:
    """The training clips, ready to be searched.

    Per modality, the squared distance is divided by its mean over pairs of training clips, and the
    two are averaged: picture and sound count alike, and two clips drawn at random are 1 apart.

    Args:
        training: Fingerprints AV((M,A), (M,V)) of at least two different training clips.

    Raises:
        UserError: Fewer clips.
    """

    def __init__(self, training: AV[Tensor]) -> None:
        if len(training.audio) < 2:
            raise UserError("nearest neighbours need at least 2 training clips")

        def scale(x: Tensor) -> Tensor:
            """Root () of twice the mean squared distance of two fingerprints (M,A)."""
            # That mean is twice their variance, summed over dimensions.
            return (4 * x.var(0).sum()).sqrt().clamp(min=torch.finfo(x.dtype).tiny)

        self._centre, self._scale = training.map(lambda x: x.mean(0)), training.map(scale)
        self._training = self.embed(training)

    def embed(self, prints: AV[Tensor]) -> Tensor:
        """Fingerprints AV((N,A), (N,V)) -> (N,A+V), in which distances are Euclidean."""

        def standardised(x: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
            return (x - centre) / scale

        return torch.cat(list(prints.map(standardised, self._centre, self._scale)), dim=1)

    def nearest(self, prints: AV[Tensor], chunk: int = 256) -> tuple[Tensor, Tensor]:
        """Distance to (N,) and index of (N,) the nearest training clip of each fingerprint."""
        squares = self._training.square().sum(1)
        distances, indices = [], []
        for some in self.embed(prints).split(chunk):
            index = (squares - 2 * some @ self._training.T).argmin(1)
            # Anew from the difference: the expanded square loses the small distances to rounding.
            distances.append((some - self._training[index]).norm(dim=1))
            indices.append(index)
        return torch.cat(distances), torch.cat(indices)


def memorisation_report(
    distances: Tensor, held_out: Tensor, seed: int = 0, units: Units | None = None
) -> dict[str, Any]:
    """Distances (N,) of generated clips beside those (M,) of held-out real ones.

    Args:
        units: (M,), which held-out clips are of one recording; None: none.

    Returns:
        A JSON-ready dict: `median` and `quantile_5`, each also `..._held_out` and that one's 95 %
        bootstrap interval `..._held_out_interval`, null for one recording. `near`, the k-th smallest held-out
        distance, k a hundredth of M + 1 and at least 1; `share_near`, the share of generated clips nearer
        than that; `expected_near`, k / (M + 1), what inventing gives on average whatever the law of
        distances; `expected_range`, what it gives in 95 of 100 draws.
    """
    # A hundredth of the held-out clips are as near or nearer; of few clips the nearest alone.
    rank = max(1, (len(held_out) + 1) // 100)
    near = held_out.kthvalue(rank).values
    report: dict[str, Any] = {
        "near": near.item(),
        "share_near": (distances < near).float().mean().item(),
        "expected_near": rank / (len(held_out) + 1),
        "expected_range": expected_range(len(distances), len(held_out), rank),
    }
    # Of real clips also how far such numbers wander: the same from as many recordings.
    real = held_out.double().numpy()
    for name, level in {"median": 0.5, "quantile_5": 0.05}.items():
        interval = quantile_interval(real, level, BOOTSTRAPS, seed, units)
        report[name] = distances.quantile(level).item()
        report[f"{name}_held_out"] = held_out.quantile(level).item()
        report[f"{name}_held_out_interval"] = None if interval is None else list(interval)
    return report


def copies(distances: Tensor) -> int:
    """How many clips are at no distance (N,) of a reference clip: the same media, in whichever file."""
    return int((distances < COPY).sum())


def expected_range(count: int, others: int, rank: int) -> list[float]:
    """Shares between which 95 of 100 draws of `count` clips lie that are below the rank-th of `others`.

    All of one law: the number of them is negative hypergeometric, whatever that law is.
    """

    def ways(total: int, chosen: int) -> float:
        """Logarithm of the number of choices."""
        return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)

    every = ways(count + others, count)
    below = np.exp(
        [
            ways(k + rank - 1, k) + ways(count - k + others - rank, count - k) - every
            for k in range(count + 1)
        ]
    ).cumsum()
    ends = (int((below < level).sum()) for level in (0.025, 0.975))
    return [min(end, count) / count for end in ends]


@dataclass(frozen=True)
class Pair:
    """A generated clip and the training clip nearest to it."""

    generated: int
    training: int
    distance: float


def nearest_pairs(distances: Tensor, indices: Tensor, count: int) -> list[Pair]:
    """The `count` pairs with the smallest distances (N,), nearest first; `indices` (N,) are the others'."""
    order = distances.argsort()[:count].tolist()
    return [Pair(i, int(indices[i]), float(distances[i])) for i in order]


def pairs_sheet(
    pairs: Sequence[Pair],
    generated: Callable[[int], Clip],
    training: Callable[[int], Clip],
) -> Image.Image:
    """One picture with each generated clip above its nearest training clip.

    Args:
        generated: Gives a generated clip by its index.
        training: Gives a training clip by its index.
    """
    clips, titles = [], []
    for pair in pairs:
        clips += [generated(pair.generated), training(pair.training)]
        titles += [
            f"generated {pair.generated}",
            f"nearest training clip {pair.training}, distance {pair.distance:.2f}",
        ]
    return contact_sheet(clips, titles)
