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
from mmldm.evaluation.av_align import av_align
from mmldm.evaluation.clipwise import ClipRatio, Counts, mean_of
from mmldm.evaluation.distances import (
    expected_coverage,
    frechet_caveat,
    frechet_distance_of,
    regions,
)
from mmldm.evaluation.events import closeness, intersection_over_union
from mmldm.evaluation.extractors.extractor import of_clips, of_windows
from mmldm.evaluation.features import Findings, nearest
from mmldm.evaluation.intervals import (
    deal,
    group_count,
    half_width,
    jackknife,
    quantile_interval,
    ratio_interval,
    share_interval,
)
from mmldm.evaluation.kernels import KernelSums, Prepared, gaussian, polynomial
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.values import Metric, Number, Side, Value, units_of

WITHOUT_PAIRS = (
    "pairs of windows of one recording, which no two sets of one law have in common, are left out; the "
    "published estimate counts them"
)


@dataclass(frozen=True)
class FrechetDistance(Metric):
    """Fréchet distance of two sets of features, over their windows.

    Attributes:
        name: As `--metrics` has it.
        title: For people.
        measure: Extractor.
        distance: Of features (N,D) and real ones (M,D).
    """

    name: str
    title: str
    measure: str
    distance: Callable[[Tensor, Tensor], float] = frechet_distance_of

    @property
    def numbers(self) -> tuple[Number, ...]:
        return (Number(self.name, self.title, "lower", biased=True),)

    def compute(self, own: Side, real: Side, protocol: Protocol) -> list[Value]:
        first, second = ([clip["features"].double() for clip in side] for side in (own, real))

        def statistic(chosen: Tensor, others: Tensor) -> float:
            """The distance of some clips (N',) of one side to some (M',) of the other."""
            sides = ([first[i] for i in chosen.tolist()], [second[i] for i in others.tolist()])
            return self.distance(*(of_windows(side) for side in sides))

        # Over windows; the interval is over recordings, as clips of one are not independent.
        value = statistic(torch.arange(len(first)), torch.arange(len(second)))
        units = units_of(own), units_of(real)
        half = jackknife(statistic, *units, protocol.groups, protocol.seed)
        interval = None if half is None else (value - half, value + half)
        windows = min(sum(map(len, side)) for side in (first, second))
        note = frechet_caveat(windows, first[0].shape[1])
        return [Value(value, interval, len(own), len(real), None, note)]


@dataclass(frozen=True)
class KernelDistance(Metric):
    """Kernel distance of two sets of features, over pairs of windows of different recordings.

    Attributes:
        name: As `--metrics` has it.
        title: For people.
        measure: Extractor.
        kernel: Of features (N,D) and real ones (M,D).
    """

    name: str
    title: str
    measure: str
    kernel: Callable[[Tensor, Tensor], Prepared]

    @property
    def numbers(self) -> tuple[Number, ...]:
        return (Number(self.name, self.title, "lower"),)

    def compute(self, own: Side, real: Side, protocol: Protocol) -> list[Value]:
        # What hangs together, and what the jackknife leaves out together, window by window.
        first, second = ([clip["features"] for clip in side] for side in (own, real))
        units = units_of(own), units_of(real)
        groups = group_count(units[0], units[1], protocol.groups)
        dealt = [deal(of, groups or 1, protocol.seed) for of in units]
        windows = [list(map(len, side)) for side in (first, second)]
        sums = KernelSums.of(
            self.kernel(of_windows(first), of_windows(second)),
            (np.repeat(units[0], windows[0]), np.repeat(units[1], windows[1])),
            (np.repeat(dealt[0], windows[0]), np.repeat(dealt[1], windows[1])),
        )

        value = sums.distance()
        interval = None
        if groups is not None:
            half = half_width([sums.distance(without=group) for group in range(groups)])
            interval = value - half, value + half
        note = published = None
        if any(len(np.unique(of)) < sum(counts) for of, counts in zip(units, windows, strict=True)):
            note, published = WITHOUT_PAIRS, sums.distance(together=True)
        return [Value(value, interval, len(own), len(real), None, note, published, expected=0.0)]


class SharedRegions(Metric):
    """Precision, recall, density and coverage of clips' mean features.

    Intervals are over recordings with the regions as they are: Wilson's for shares, a bootstrap for density.

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
        notes, few = [], min(len(own), len(real))
        if few < self.enough:
            notes.append(f"{few} clips lie far apart, and chance makes most of such wide regions")
        expected: dict[str, float] = {}
        if any(len(np.unique(units_of(side))) < len(side) for side in (own, real)):
            notes.append("neighbours may be of the same recording, which makes regions narrower")
        else:
            k = protocol.density_neighbours
            expected = {"density": 1.0, "coverage": expected_coverage(len(own), len(real), k)}
        note = "; ".join(notes) or None
        values = []
        for name, points in found._asdict().items():
            mean = points.mean().item()
            units = units_of(own if name in ("precision", "density") else real)
            counts = torch.stack([points, torch.ones_like(points)], dim=1).numpy()
            # Density counts regions and may exceed 1; the others are shares.
            interval = (
                ratio_interval(counts, protocol.bootstraps, protocol.seed, units)
                if name == "density"
                else share_interval(points.numpy(), units)
            )
            values.append(
                Value(mean, interval, len(own), len(real), None, note, expected=expected.get(name))
            )
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
                quantile_interval(
                    distances, level, protocol.bootstraps, protocol.seed, units_of(own)
                ),
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
    FrechetDistance("fvd", "FVD (Fréchet, I3D logits)", "i3d"),
    KernelDistance("kvd", "KVD (kernel, I3D logits)", "i3d", polynomial),
    FrechetDistance("fvd-pooled", "Fréchet, I3D pooled", "i3d-pooled"),
    KernelDistance("kvd-pooled", "kernel, I3D pooled", "i3d-pooled", polynomial),
    FrechetDistance("frame-fd", "Fréchet of single frames, SqueezeNet", "squeezenet"),
    FrechetDistance("fad", "FAD (Fréchet, VGGish)", "vggish"),
    FrechetDistance("fad-yamnet", "Fréchet, YAMNet", "yamnet"),
    KernelDistance("kad", "KAD, YAMNet", "yamnet", gaussian),
    FrechetDistance("fad-audioclip", "Fréchet x 10,000, AudioCLIP", "audioclip", mm_diffusion_fad),
    FrechetDistance("fad-clap", "Fréchet, CLAP", "clap"),
    KernelDistance("kad-clap", "KAD, CLAP", "clap", gaussian),
)


def metrics(fps: float, further: Iterable[Metric] = ()) -> list[Metric]:
    """All metrics, in the order of the report.

    Args:
        fps: Of the clips; the tolerance of events is a frame.
        further: Those of a world.
    """

    def aligned(heard: Findings, seen: Findings) -> Counts:
        times = heard["onsets"].numpy(), seen["peaks"].numpy()
        return _if_defined(intersection_over_union(*times, 1 / fps))

    def as_published(heard: Findings, seen: Findings) -> Counts:
        return av_align(heard["onsets"].numpy(), seen["peaks"].numpy(), fps), 1.0

    def on_beat(heard: Findings, seen: Findings) -> Counts:
        return _if_defined(closeness(heard["onsets"].numpy(), seen["rests"].numpy()))

    def agree(heard: Findings, seen: Findings) -> Counts:
        return float(heard["heard"] == seen["seen"]), 1.0

    overlap = Number("event-overlap", "sound and motion events in common", "higher")
    align = Number("av-align", "AV-Align", "higher")
    beat = Number("beat-alignment", "beat alignment", "higher")
    agreement = Number("agreement", "seen class = heard class", "higher")
    alarms = [Number(name, f"{name} clips", "lower") for name in ("silent", "frozen")]
    return [
        *DISTANCES,
        *(SharedRegions(name) for name in ("i3d", "squeezenet", "yamnet")),
        ClipRatio(overlap.name, overlap, "events", aligned, joint=True),
        ClipRatio(align.name, align, "flow", as_published, joint=True),
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
