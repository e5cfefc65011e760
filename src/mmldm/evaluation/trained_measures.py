"""Measures that have to know the real clips first: the impacts' background, and classifiers trained on them.

ClipSet of real clips -> Impacts, Verdicts
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from torch import nn

from mmldm.data.clips import spread
from mmldm.errors import MediaError, UserError
from mmldm.evaluation.classifier_training import train_classifiers
from mmldm.evaluation.measures import Impacts, Verdicts
from mmldm.evaluation.motion import background
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.sets import ClipSet, Progress
from mmldm.media.clip import Clip
from mmldm.types import ClipSpec

BACKGROUND_CLIPS = 64
CLASSIFIER_CLIPS = 1200


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
