"""The metrics by name, and the measures they read by name.

names -> metrics, the extractors they need
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from torch import Tensor

from mmldm.errors import UserError
from mmldm.evaluation.av_align import closeness, intersection_over_union
from mmldm.evaluation.distances import frechet_distance_of, kernel_audio_distance, kernel_distance
from mmldm.evaluation.measures import Row
from mmldm.evaluation.metrics import (
    ClipRatio,
    Counts,
    FeatureDistance,
    Metric,
    NearestReal,
    Number,
    SharedRegions,
)
from mmldm.worlds.impacts.sync import lags, sync

EXTRACTORS = ("i3d", "i3d-pooled", "vggish", "yamnet", "squeezenet", "audioclip", "clap")
OPTIONAL = (
    "fvd-pooled", "kvd-pooled", "fad-audioclip", "fad-clap", "kad-clap", "impacts", "agreement",
)  # fmt: skip
"""Measured only where they are asked for; `impacts` also on clips of `mmldm synthesize`, `fad-audioclip` also
by MM-Diffusion's protocols."""


def mm_diffusion_fad(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance of AudioCLIP's features, in the unit of MM-Diffusion's tables."""
    return 10_000 * frechet_distance_of(a, b)


FRECHET = (frechet_distance_of, mm_diffusion_fad)
SYNC = {
    "recall": ("impacts with an onset", lambda c: (c.impacts_heard, c.impacts)),
    "precision": ("onsets with an impact", lambda c: (c.onsets_seen, c.onsets)),
}


def metrics(fps: float) -> list[Metric]:
    """All metrics, in the order of the report.

    Args:
        fps: Of the clips; AV-Align's tolerance is a frame.
    """
    distances: list[Metric] = [
        FeatureDistance(name, title, measure, distance, distance in FRECHET)
        for name, title, measure, distance in (
            ("fvd", "FVD (Fréchet, I3D logits)", "i3d", frechet_distance_of),
            ("kvd", "KVD (kernel, I3D logits)", "i3d", kernel_distance),
            ("fvd-pooled", "Fréchet, I3D pooled", "i3d-pooled", frechet_distance_of),
            ("kvd-pooled", "kernel, I3D pooled", "i3d-pooled", kernel_distance),
            ("frame-fd", "Fréchet of single frames, SqueezeNet", "squeezenet", frechet_distance_of),
            ("fad", "FAD (Fréchet, VGGish)", "vggish", frechet_distance_of),
            ("fad-yamnet", "Fréchet, YAMNet", "yamnet", frechet_distance_of),
            ("kad", "KAD, YAMNet", "yamnet", kernel_audio_distance),
            ("fad-audioclip", "Fréchet x 10,000, AudioCLIP", "audioclip", mm_diffusion_fad),
            ("fad-clap", "Fréchet, CLAP", "clap", frechet_distance_of),
            ("kad-clap", "KAD, CLAP", "clap", kernel_audio_distance),
        )
    ]
    shares: list[Metric] = [SharedRegions(name) for name in ("i3d", "squeezenet", "yamnet")]
    return [*distances, *shares, *_joint(fps), NearestReal(), *_alarms()]


def _joint(fps: float) -> list[Metric]:
    def aligned(heard: Row, seen: Row) -> Counts:
        return _mean(
            intersection_over_union(heard["onsets"].numpy(), seen["peaks"].numpy(), 1 / fps)
        )

    def on_beat(heard: Row, seen: Row) -> Counts:
        return _mean(closeness(heard["onsets"].numpy(), seen["rests"].numpy()))

    def agree(heard: Row, seen: Row) -> Counts:
        return float(heard["heard"] == seen["seen"]), 1.0

    found: list[Metric] = [
        ClipRatio("av-align", Number("av-align", "AV-Align", "higher"), "events", aligned, joint=True),
        ClipRatio("beat-alignment", Number("beat-alignment", "beat alignment", "higher"), "events", on_beat,
                  joint=True),
        ClipRatio("agreement", Number("agreement", "seen class = heard class", "higher"), "classes", agree,
                  joint=True, share=True),
    ]  # fmt: skip
    for tolerance in (0.05, 0.1):
        milliseconds = f"{1000 * tolerance:.0f}"
        for name, (words, pick) in SYNC.items():
            number = Number(
                f"sync-{name}-{milliseconds}", f"{words} within {milliseconds} ms", "higher"
            )
            found.append(
                ClipRatio("impacts", number, "impacts", _synced(tolerance, pick), joint=True)
            )
    number = Number("sync-error", "distance of those within 50 ms", "lower", "ms")
    return [*found, ClipRatio("impacts", number, "impacts", _late, joint=True)]


def _alarms() -> list[Metric]:
    def alarm(name: str) -> Callable[[Row, Row], Counts]:
        return lambda _, clip: (clip[name].item(), 1.0)

    return [
        ClipRatio(name, Number(name, f"{name} clips", "lower"), "alarms", alarm(name), share=True)
        for name in ("silent", "frozen")
    ]


def _mean(value: float | None) -> Counts:
    """What a clip adds to a mean over the clips that have a value."""
    return (0.0, 0.0) if value is None else (value, 1.0)


def _synced(tolerance: float, pick: Callable[..., Counts]) -> Callable[[Row, Row], Counts]:
    def counts(heard: Row, seen: Row) -> Counts:
        times = heard["onsets"].numpy(), seen["impacts"].numpy()
        return pick(sync(*times, tolerance, seen["last"].item()))

    return counts


def _late(heard: Row, seen: Row) -> Counts:
    distances = np.abs(1000 * lags(heard["onsets"].numpy(), seen["impacts"].numpy(), 0.05))
    return float(distances.sum()), float(len(distances))


def choose(names: list[str] | None, fps: float, unnamed: Collection[str] = ()) -> list[Metric]:
    """The metrics of these names.

    Args:
        names: As `--metrics` has them; None: all but `OPTIONAL`.
        unnamed: Those of `OPTIONAL` that are measured without names, too.

    Raises:
        UserError: There is no metric of a name.
    """
    every = metrics(fps)
    known = list(dict.fromkeys(metric.name for metric in every))
    if names is None:
        left_out = set(OPTIONAL).difference(unnamed)
        return [metric for metric in every if metric.name not in left_out]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"--metrics: unknown {unknown[0]!r}; known are {', '.join(known)}.")
    return [metric for metric in every if metric.name in names]
