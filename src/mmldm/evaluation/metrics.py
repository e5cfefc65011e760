"""The metrics by name: each turns findings in a set, and in real clips, into values with 95 % intervals.

findings in N clips, findings in M real clips -> Value (number, interval, n; or the reason why there is none)

Three kinds: distances between sets of features, shares of neighbours, and what is found in each clip
(`clipwise`). A world hands in metrics of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mmldm.errors import UserError
from mmldm.evaluation.clipwise import ClipRatio, Counts, mean_of
from mmldm.evaluation.distances import (
    frechet_caveat,
    frechet_distance_of,
    kernel_audio_distance,
    kernel_distance,
    regions,
)
from mmldm.evaluation.events import closeness, intersection_over_union
from mmldm.evaluation.extractors.extractor import of_clips, of_windows
from mmldm.evaluation.features import Findings, nearest
from mmldm.evaluation.intervals import jackknife, quantile_interval, ratio_interval, wilson
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.values import Metric, Number, Side, Value


@dataclass(frozen=True)
class FeatureDistance(Metric):
    """Fréchet or kernel distance of two sets of features.

    Attributes:
        name: As `--metrics` has it.
        title: For people.
        measure: Extractor.
        distance: Of features (N,D) and real ones (M,D).
        frechet: Whether it is biased where there are few features.
    """

    name: str
    title: str
    measure: str
    distance: Callable[[Tensor, Tensor], float]
    frechet: bool

    @property
    def numbers(self) -> tuple[Number, ...]:
        return (Number(self.name, self.title, "lower", biased=self.frechet),)

    def compute(self, own: Side, real: Side, protocol: Protocol) -> list[Value]:
        first, second = ([clip["features"].double() for clip in side] for side in (own, real))

        def statistic(chosen: Tensor, others: Tensor) -> float:
            """The distance of some clips (N',) of one side to some (M',) of the other."""
            sides = ([first[i] for i in chosen.tolist()], [second[i] for i in others.tolist()])
            return self.distance(*(of_windows(side) for side in sides))

        # Over windows; the interval is over clips, as windows of one clip are not independent.
        value = statistic(torch.arange(len(first)), torch.arange(len(second)))
        half = jackknife(statistic, len(first), len(second), protocol.groups, protocol.seed)
        interval = None if half is None else (value - half, value + half)
        windows = min(sum(map(len, side)) for side in (first, second))
        note = frechet_caveat(windows, first[0].shape[1]) if self.frechet else None
        return [Value(value, interval, len(own), len(real), None, note)]


class SharedRegions(Metric):
    """Precision, recall, density and coverage of clips' mean features.

    Intervals are over clips with the regions as they are: Wilson's for shares, a bootstrap for density.

    Args:
        measure: Extractor.
    """

    least = 6
    enough = 50
    """Clips below which shares of neighbours come with a warning."""

    def __init__(self, measure: str) -> None:
        self.name, self.measure = f"regions-{measure}", measure

    @property
    def numbers(self) -> tuple[Number, ...]:
        of = self.measure
        names = ("precision", "recall", "density", "coverage")
        return tuple(Number(f"{n}-{of}", f"{n}, {of}", "like real", biased=True) for n in names)

    def compute(self, own: Side, real: Side, protocol: Protocol) -> list[Value]:
        first, second = (of_clips([clip["features"] for clip in side]) for side in (own, real))
        found = regions(first, second, protocol.neighbours, protocol.density_neighbours)
        note, few = None, min(len(own), len(real))
        if few < self.enough:
            note = f"{few} clips lie far apart, and chance makes most of such wide regions"
        values = []
        for name, points in found._asdict().items():
            mean = points.mean().item()
            counts = torch.stack([points, torch.ones_like(points)], dim=1).numpy()
            # Density counts regions and may exceed 1; the others are shares.
            interval = (
                ratio_interval(counts, protocol.bootstraps, protocol.seed)
                if name == "density"
                else wilson(mean, len(points))
            )
            values.append(Value(mean, interval, len(own), len(real), None, note))
        return values


class NearestReal(Metric):
    """How far each clip is from the nearest real one, by fingerprint; see `memorisation`.

    Far nearer than held-out clips are: the clips were copied.
    """

    name, measure = "memorisation", "fingerprints"
    levels = (0.5, 0.05)
    numbers = (
        Number("nearest-median", "distance to the nearest reference clip, median", "like real", "", True),
        Number("nearest-5", "the same, 5 % quantile", "like real", "", True),
    )  # fmt: skip

    def compute(self, own: Side, real: Side, protocol: Protocol) -> list[Value]:
        distances = nearest(own, real)[0].double().numpy()
        return [
            Value(
                float(np.quantile(distances, level)),
                quantile_interval(distances, level, protocol.bootstraps, protocol.seed),
                len(own),
                len(real),
            )
            for level in self.levels
        ]


OPTIONAL = ("fvd-pooled", "kvd-pooled", "fad-audioclip", "fad-clap", "kad-clap", "agreement")
"""Measured only where they are asked for; `fad-audioclip` also by MM-Diffusion's protocols."""


def mm_diffusion_fad(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance of AudioCLIP's features (N,D), (M,D), in the unit of MM-Diffusion's tables."""
    return 10_000 * frechet_distance_of(a, b)


DISTANCES = (
    ("fvd", "FVD (Fréchet, I3D logits)", "i3d", frechet_distance_of, True),
    ("kvd", "KVD (kernel, I3D logits)", "i3d", kernel_distance, False),
    ("fvd-pooled", "Fréchet, I3D pooled", "i3d-pooled", frechet_distance_of, True),
    ("kvd-pooled", "kernel, I3D pooled", "i3d-pooled", kernel_distance, False),
    ("frame-fd", "Fréchet of single frames, SqueezeNet", "squeezenet", frechet_distance_of, True),
    ("fad", "FAD (Fréchet, VGGish)", "vggish", frechet_distance_of, True),
    ("fad-yamnet", "Fréchet, YAMNet", "yamnet", frechet_distance_of, True),
    ("kad", "KAD, YAMNet", "yamnet", kernel_audio_distance, False),
    ("fad-audioclip", "Fréchet x 10,000, AudioCLIP", "audioclip", mm_diffusion_fad, True),
    ("fad-clap", "Fréchet, CLAP", "clap", frechet_distance_of, True),
    ("kad-clap", "KAD, CLAP", "clap", kernel_audio_distance, False),
)


def metrics(fps: float, further: Iterable[Metric] = ()) -> list[Metric]:
    """All metrics, in the order of the report.

    Args:
        fps: Of the clips; AV-Align's tolerance is a frame.
        further: Those of a world.
    """

    def aligned(heard: Findings, seen: Findings) -> Counts:
        times = heard["onsets"].numpy(), seen["peaks"].numpy()
        return _if_defined(intersection_over_union(*times, 1 / fps))

    def on_beat(heard: Findings, seen: Findings) -> Counts:
        return _if_defined(closeness(heard["onsets"].numpy(), seen["rests"].numpy()))

    def agree(heard: Findings, seen: Findings) -> Counts:
        return float(heard["heard"] == seen["seen"]), 1.0

    align = Number("av-align", "AV-Align", "higher")
    beat = Number("beat-alignment", "beat alignment", "higher")
    agreement = Number("agreement", "seen class = heard class", "higher")
    alarms = [Number(name, f"{name} clips", "lower") for name in ("silent", "frozen")]
    return [
        *(FeatureDistance(*about) for about in DISTANCES),
        *(SharedRegions(name) for name in ("i3d", "squeezenet", "yamnet")),
        ClipRatio(align.name, align, "events", aligned, joint=True),
        ClipRatio(beat.name, beat, "events", on_beat, joint=True),
        ClipRatio(agreement.name, agreement, "classes", agree, joint=True, share=True),
        *further,
        NearestReal(),
        *(ClipRatio(x.name, x, "alarms", partial(mean_of, x.name), share=True) for x in alarms),
    ]


def _if_defined(value: float | None) -> Counts:
    """What a clip adds to a mean over those that have a value."""
    return (0.0, 0.0) if value is None else (value, 1.0)


def choose(
    names: Collection[str] | None,
    fps: float,
    unnamed: Collection[str] = (),
    further: Collection[Metric] = (),
) -> list[Metric]:
    """The metrics of these names.

    Args:
        names: As `--metrics` has them; None: all but `OPTIONAL` and those of a world.
        unnamed: Those of the latter that are measured without names, too.
        further: Those of a world.

    Raises:
        UserError: There is no metric of a name.
    """
    every = metrics(fps, further)
    known = list(dict.fromkeys(metric.name for metric in every))
    if names is None:
        left_out = {*OPTIONAL, *(metric.name for metric in further)}.difference(unnamed)
        return [metric for metric in every if metric.name not in left_out]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"--metrics: unknown {unknown[0]!r}; known are {', '.join(known)}.")
    return [metric for metric in every if metric.name in names]
