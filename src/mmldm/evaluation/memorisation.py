"""Does a model repeat its training clips? Distances to the nearest of them.

clips -> fingerprints AV((N,A), (N,V)) -> distance to and index of the nearest training clip (N,)

A fingerprint holds the frames in grey at 16 x 16 and the spectrogram at 16 x 64: position and time count,
and grain does not. Distances are read beside those of held-out real clips: a model that invents is as far
from its training clips as new real ones are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mmldm.errors import UserError
from mmldm.evaluation.classifiers import audio_spec
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


def memorisation_report(distances: Tensor, held_out: Tensor, seed: int = 0) -> dict[str, Any]:
    """Distances (N,) of generated clips beside those (M,) of held-out real ones.

    Returns:
        A JSON-ready dict: `median` and `quantile_5`, each also `..._held_out` and that one's 95 %
        bootstrap interval `..._held_out_interval`; `share_near`, the share of generated clips that
        are nearer than the held-out's 1 % quantile (`near`). Inventing gives about .01.
    """
    near = held_out.quantile(0.01)
    report: dict[str, Any] = {
        "near": near.item(),
        "share_near": (distances < near).float().mean().item(),
    }
    # Of real clips also how far such numbers wander: the same from as many clips, drawn with replacement.
    generator = torch.Generator().manual_seed(seed)
    drawn = held_out[torch.randint(len(held_out), (BOOTSTRAPS, len(held_out)), generator=generator)]
    for name, level in {"median": 0.5, "quantile_5": 0.05}.items():
        spread = drawn.quantile(level, dim=1)
        report[name] = distances.quantile(level).item()
        report[f"{name}_held_out"] = held_out.quantile(level).item()
        report[f"{name}_held_out_interval"] = spread.quantile(torch.tensor([0.025, 0.975])).tolist()
    return report


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
