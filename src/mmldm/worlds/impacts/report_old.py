"""How good a model of the impacts world is: every number of its table, beside its anchors.

sets of clips -> what was measured on each clip -> report, with targets met or missed

Clips are measured as they come and not kept. A set's shuffled values keep its pictures and its sounds
and break the pairs. `evaluation.impacts_table` writes the report in Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmldm.errors import UserError
from mmldm.evaluation.classifiers import Classifiers, Verdicts, accuracy
from mmldm.evaluation.distances import compare
from mmldm.evaluation.intervals import wilson
from mmldm.evaluation.memorisation import Neighbours, fingerprints, memorisation_report
from mmldm.media.clip import Clip
from mmldm.types import AV
from mmldm.worlds.impacts.sync import Moments, derangement, detect, lags, sync_report

BATCH = 32
BOOTSTRAPS = 1000
SHUFFLES = 8
TOLERANCES = (0.05, 0.1)
LEAST_SYNC = {0.05: 0.90, 0.1: 0.95}
"""Recall and precision of generated clips over real ones', by tolerance."""
LEAST_SYNC_KEPT = {0.05: 0.97}
"""The same of reconstructions."""
MOST_DEPARTURE = 0.10
"""Of impacts per clip and of the ballistic share, relative to real clips."""
LEAST_AGREEMENT = 0.95
MOST_BROKEN = 0.02
MOST_FRECHET = 2.0
"""Times the distance between real clips and other real clips."""


@dataclass(frozen=True)
class Measured:
    """What was measured on each of N clips.

    Attributes:
        moments: Impacts and onsets.
        verdicts: Classes and features.
        prints: Fingerprints AV((N,A), (N,V)).
        labels: True classes (N,) long, where the clips have them.
    """

    moments: list[Moments]
    verdicts: Verdicts
    prints: AV[Tensor]
    labels: Tensor | None = None


def measure(
    clips: Iterable[Clip],
    classifiers: Classifiers,
    empty: Tensor,
    labels: Sequence[int] | None = None,
) -> Measured:
    """Measures clips of the impacts world with one ball, a batch in memory at a time.

    Args:
        empty: Background (3,H,W) u8, the same for all sets that are compared.
        labels: True class of each clip.

    Raises:
        UserError: No clips, or ones that the detectors or classifiers cannot measure.
    """
    moments: list[Moments] = []
    verdicts: list[Verdicts] = []
    prints: list[AV[Tensor]] = []
    stream = iter(clips)
    while batch := list(islice(stream, BATCH)):
        moments += detect(batch, empty)
        verdicts.append(classifiers.judge(batch))
        prints.append(fingerprints(batch))
    if not moments:
        raise UserError("there are no clips to measure")
    return Measured(
        moments,
        Verdicts.join(verdicts),
        AV(*(torch.cat(parts) for parts in zip(*prints, strict=True))),
        None if labels is None else torch.tensor(labels),
    )


def impacts_report(
    sets: dict[str, Measured],
    reference: Measured,
    training: AV[Tensor],
    seed: int = 0,
) -> dict[str, Any]:
    """Reports on sets of clips.

    Args:
        sets: By name; "real" holds held-out clips, what all others are compared with.
        reference: Further real clips, which the classifiers were not trained on; twice as many as
            a set holds, so that Fréchet distances and their floor are of the set's size.
        training: Fingerprints AV((M,A), (M,V)) of the clips the model was trained on.
        seed: Of shuffles, splits and bootstraps.

    Returns:
        A JSON-ready dict: `sets` by name, and `targets` by name of every set but "real".
    """
    neighbours = Neighbours(training)
    num_classes = int(reference.verdicts.classes.video.max()) + 1
    distances = {name: neighbours.nearest(found.prints)[0] for name, found in sets.items()}
    reports: dict[str, dict[str, Any]] = {}
    for name, found in sets.items():
        reports[name] = {
            **sync_report(found.moments, TOLERANCES, seed),
            **_motion(found.moments, sets["real"].moments, seed),
            **_shares(found, seed),
            "class_shares": found.verdicts.classes.map(
                lambda classes: (classes.bincount(minlength=num_classes) / len(classes)).tolist()
            )._asdict(),
            "frechet": _frechet(found.verdicts, reference.verdicts, seed),
            "memorisation": memorisation_report(distances[name], distances["real"], seed),
        }
    return {
        "sets": reports,
        "targets": {
            name: _targets(report, reports["real"], name)
            for name, report in reports.items()
            if name != "real"
        },
    }


def _frechet(found: Verdicts, real: Verdicts, seed: int) -> dict[str, Any]:
    """Comparisons by the features of the sound (D = 64), of the picture (64), of both (128).

    Both together are compared at equal shares of the class that is seen: a wrong sound counts.
    """
    report = {
        modality: compare(features, others, classes, real_classes, seed=seed)._asdict()
        for modality, features, others, classes, real_classes in zip(
            AV._fields, found.features, real.features, found.classes, real.classes, strict=True
        )
    }
    ours, others = (torch.cat(list(verdicts.features), dim=1) for verdicts in (found, real))
    both = compare(ours, others, found.classes.video, real.classes.video, seed=seed)
    return report | {"both": both._asdict()}


def _motion(found: list[Moments], real: list[Moments], seed: int) -> dict[str, Any]:
    """Means over clips with 95 % bootstrap intervals, and their ratio to real clips' means."""

    def rows(moments: list[Moments]) -> np.ndarray:
        return np.array([[len(m.impacts), len(m.onsets), m.ballistic, m.kept] for m in moments])

    values, wanted = rows(found), rows(real).mean(0)
    draws = np.random.default_rng(seed).integers(len(values), size=(BOOTSTRAPS, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975], axis=0)
    report: dict[str, Any] = {}
    names = ("impacts_per_clip", "onsets_per_clip", "ballistic", "ball_kept")
    for column, name in enumerate(names):
        report[f"{name}_interval"] = [float(low[column]), float(high[column])]
        mean = float(values[:, column].mean())
        report[f"{name}_ratio"] = mean / float(wanted[column]) if wanted[column] else None
    return report


def _shares(found: Measured, seed: int) -> dict[str, Any]:
    """Shares of clips: classes agree, ball lost, material changes, broken by either."""
    heard, seen = found.verdicts.classes
    lost = torch.tensor([moments.kept < 1 for moments in found.moments])
    changed = found.verdicts.changed
    report: dict[str, Any] = {
        "agreement": share(heard == seen),
        "ball_lost": share(lost),
        "material_changes": share(changed),
        "broken": share(lost | changed),
        "agreement_shuffled": None,
        "accuracy": None,
    }
    if len(seen) > 1:
        rng = np.random.default_rng(seed)
        orders = [torch.from_numpy(derangement(len(seen), rng)) for _ in range(SHUFFLES)]
        agreements = torch.stack([heard[order] == seen for order in orders])
        report["agreement_shuffled"] = agreements.float().mean().item()
    if found.labels is not None:
        report["accuracy"] = accuracy(found.verdicts, found.labels)._asdict()
    return report


def share(hits: Tensor) -> dict[str, Any]:
    """Share of true values (N,) bool, with its 95 % interval by Wilson's score."""
    value = hits.double().mean().item()
    return {"value": value, "interval": list(wilson(value, len(hits)))}


def _targets(report: dict[str, Any], real: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """What was wanted of a set, what it reached, and whether that is enough."""
    targets: dict[str, tuple[float, float, bool]] = {}
    wanted = LEAST_SYNC_KEPT if name == "reconstruction" else LEAST_SYNC
    for own, other in zip(report["sync"], real["sync"], strict=True):
        least = wanted.get(own["tolerance"])
        for number in ("recall", "precision"):
            if least is not None and other[number]:
                ratio = (own[number] or 0.0) / other[number]
                words = f"{number} at {1000 * own['tolerance']:.0f} ms over real"
                targets[words] = (ratio, least, ratio >= least)
    for number, words in {"impacts_per_clip": "impacts a clip", "ballistic": "ballistic"}.items():
        ratio = report[f"{number}_ratio"]
        if ratio is not None:
            departure = abs(ratio - 1)
            targets[f"departure of {words}"] = (
                departure,
                MOST_DEPARTURE,
                departure <= MOST_DEPARTURE,
            )
    agreement, broken = report["agreement"]["value"], report["broken"]["value"]
    ratios = [pair["distance"] / pair["floor"] for pair in report["frechet"].values()]
    near = report["memorisation"]
    targets |= {
        "seen class = heard class": (agreement, LEAST_AGREEMENT, agreement >= LEAST_AGREEMENT),
        "broken clips": (broken, MOST_BROKEN, broken <= MOST_BROKEN),
        "Fréchet distance over floor": (max(ratios), MOST_FRECHET, max(ratios) <= MOST_FRECHET),
    }
    # Held-out clips themselves vary: what is not below their interval is not nearer than they are.
    for name, words in {"median": "median", "quantile_5": "5 % quantile"}.items():
        least = near[f"{name}_held_out_interval"][0]
        targets[f"nearest training clip, {words}"] = (near[name], least, near[name] >= least)
    return {
        name: {"value": value, "target": target, "met": bool(met)}
        for name, (value, target, met) in targets.items()
    }


def true_impacts(clip: Path) -> np.ndarray:
    """Times (N,) in seconds, sorted, of the audible impacts of a rendered clip, from its sidecar.

    Raises:
        UserError: There is no ground truth beside the clip.
    """
    sidecar = clip.with_suffix(".json")
    try:
        impacts = json.loads(sidecar.read_text(encoding="utf-8"))["impacts"]
        return np.sort([impact["time"] for impact in impacts if impact["audible"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{sidecar} is no ground truth of an impacts clip ({error!r}); the detectors are "
            "calibrated on clips of `mmldm synthesize`"
        ) from error


def calibration(moments: Sequence[Moments], truths: Sequence[np.ndarray]) -> dict[str, Any]:
    """What the two detectors find of the true impacts of real clips.

    Args:
        truths: True times (N,) of each clip; those after its last frame can be heard, not seen.

    Returns:
        A JSON-ready dict by detector: for each tolerance recall, precision, standard deviation and
        mean (`offset_ms`, positive: found late) of the error in ms. None where nothing was found.
    """
    visible = [truth[truth <= m.last] for m, truth in zip(moments, truths, strict=True)]
    found = {
        "impacts": [(m.impacts, truth) for m, truth in zip(moments, visible, strict=True)],
        "onsets": [(m.onsets, truth) for m, truth in zip(moments, truths, strict=True)],
    }
    report: dict[str, Any] = {}
    for detector, pairs in found.items():
        report[detector] = []
        wanted, claimed = (sum(len(pair[i]) for pair in pairs) for i in (1, 0))
        for tolerance in TOLERANCES:
            errors = np.concatenate([1000 * lags(*pair, tolerance) for pair in pairs])
            row = {
                "tolerance": tolerance,
                "recall": len(errors) / wanted if wanted else None,
                "precision": len(errors) / claimed if claimed else None,
                "sd_ms": float(errors.std()) if len(errors) else None,
                "offset_ms": float(errors.mean()) if len(errors) else None,
            }
            report[detector].append(row)
    return report
