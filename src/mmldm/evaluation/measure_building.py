"""The measures that metrics read: networks loaded, and what must know real clips first made from them.

metrics, real ClipSet -> measures, and the reasons for those that there are not
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from mmldm.data.clips import spread
from mmldm.errors import MediaError, UserError
from mmldm.evaluation.classifiers import train_classifiers
from mmldm.evaluation.extractors.named import load_extractor
from mmldm.evaluation.measures import (
    Alarms,
    Events,
    Features,
    Fingerprints,
    Impacts,
    Measure,
    Verdicts,
)
from mmldm.evaluation.metrics import Metric
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.registry import EXTRACTORS
from mmldm.evaluation.sets import ClipSet, Progress
from mmldm.media.clip import Clip
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.motion import background

BACKGROUND_CLIPS = 64
CLASSIFIER_CLIPS = 1200


def build_measures(
    metrics: Sequence[Metric],
    real: ClipSet,
    protocol: Protocol,
    progress: Progress,
    weights: Path | None = None,
    device: str | torch.device = "cpu",
) -> tuple[list[Measure], dict[str, str]]:
    """What the metrics read, and the names of metrics that cannot be computed, with the reason.

    Args:
        real: What is made from real clips is made from these.
        weights: Folder of the networks' weights; None: the usual one.
        device: Where networks run.
    """
    builders: dict[str, Callable[[], Measure]] = {
        "events": Events,
        "alarms": Alarms,
        "fingerprints": Fingerprints,
        "impacts": lambda: impacts(real, protocol.spec),
        "classes": lambda: verdicts(real, protocol, progress),
    }
    for name in EXTRACTORS:
        builders[name] = partial(_features, name, weights, device)
    measures: list[Measure] = []
    undefined: dict[str, str] = {}
    for name in dict.fromkeys(metric.measure for metric in metrics):
        try:
            measures.append(builders[name]())
        except UserError as error:
            undefined |= {metric.name: str(error) for metric in metrics if metric.measure == name}
    return measures, undefined


def _features(name: str, weights: Path | None, device: str | torch.device) -> Features:
    return Features(name, load_extractor(name, weights, device))


def impacts(real: ClipSet, spec: ClipSpec) -> Impacts:
    """Impacts before the background of these clips."""
    chosen = [real.clips[i] for i in spread(BACKGROUND_CLIPS, len(real.clips))]
    return Impacts(background([clip.read(spec).frames for clip in chosen]))


def verdicts(real: ClipSet, protocol: Protocol, progress: Progress) -> Verdicts:
    """Classifiers of sound and picture, trained on these clips by their classes; a minute or two.

    Raises:
        UserError: They are not of two or more classes.
    """
    named = [clip for clip in real.clips if clip.class_name is not None]
    classes = sorted({clip.class_name or "" for clip in named})
    if len(classes) < 2:
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

    trained = train_classifiers(
        clips(),
        classes,
        seed=protocol.seed,
        progress=lambda modality, done, total: progress(f"{modality} classifier", done, total),
    )
    digest = hashlib.sha256()
    for tensor in nn.ModuleDict(trained.networks._asdict()).state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return Verdicts(trained, digest.hexdigest())
