"""The limits of a model's world: how its own clips measure, so that what is given can be told from them.

clips of a manifest, detector -> `pipelines.outliers.Reference`, which is stored in the model's index
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch.utils.data import default_collate

from mmldm.config import RunConfig
from mmldm.data.cache_writer import cache_key, json_of, weights_key
from mmldm.data.clips import WindowDataset, spread
from mmldm.data.loader import Failed
from mmldm.data.manifest import Manifest, Split
from mmldm.errors import UserError
from mmldm.models.autoencoder import load_autoencoder
from mmldm.models.image_vae import load_image_vae
from mmldm.pipelines.decoding import ClipCoder
from mmldm.pipelines.outliers import Measures, OutlierDetector, Reference, fit
from mmldm.types import AV, MODALITIES, WindowBatch

CLIPS = 512
"""Of each split that are looked at: five held-out ones lie beyond a limit of 1 %."""
LEAST_CLIPS = 50
"""Held-out ones below which there are no limits: one in so many of its own clips would pass them."""
BATCH = 32
"""In memory at once."""


def calibration(
    model: Path,
    config: RunConfig,
    scheduler: SchedulerMixin,
    manifest: Manifest,
    device: torch.device,
    say: Callable[[str], object],
    known: Any,
    *,
    measure: bool,
) -> dict[str, Any]:
    """What belongs into a model's index: how clips of its world measure, and how many are of each class.

    Args:
        model: Its folder.
        scheduler: Of its signal decoder.
        known: What the index said of outliers before.
        measure: False: that stays.
    """
    if measure:
        vae = load_image_vae(model / "vae").to(device)
        autoencoder = load_autoencoder(model / "autoencoder").to(device)
        coder = ClipCoder(vae, autoencoder, scheduler, None, config.clip, device)
        detector = OutlierDetector(coder, config.sample.decoder_steps)
        known = calibrated(detector, manifest, config.seed, say, known)
    facts: dict[str, Any] = {"outliers": known}
    names = [entry.class_name for entry in manifest.split("train")]
    if classes := json_of(model / "model_index.json")["class_names"]:
        facts["class_shares"] = [float(max(names.count(name), 1)) for name in classes]
    return facts


def calibrated(
    detector: OutlierDetector,
    manifest: Manifest,
    seed: int,
    say: Callable[[str], object],
    known: Any = None,
) -> dict[str, Any] | None:
    """What a model's index says of outliers.

    Args:
        detector: With the model's networks, on the device that computes.
        manifest: Clips of its training. Those that it holds out set the limits; where there are none,
            training clips do.
        say: Told why there is nothing to say of them.
        known: What the index said before: it is kept if it is of the same networks.

    Returns:
        A `Reference` as JSON; None: there are too few clips, or none can be read any more.
    """
    coder = detector.coder
    networks = cache_key(
        image_vae=weights_key(coder.vae), autoencoder=weights_key(coder.autoencoder)
    )
    if isinstance(known, dict) and known.get("networks") == networks:
        return known
    # A run that holds nothing out has its limits from the clips it is trained on.
    complete, spec = manifest.complete, coder.spec
    splits: tuple[Split, ...] = ("train", "held_out" if complete.split("held_out") else "train")
    try:
        train, limits = (
            _measured(detector, WindowDataset(complete, spec, split, seed)) for split in splits
        )
    except UserError as error:
        say(f"the model will not notice clips that are unlike its own: {error}")
        return None
    if (count := len(limits.audio.errors)) < LEAST_CLIPS:
        say(
            f"the model will not notice clips that are unlike its own: {count} held-out ones are too few to "
            f"say where its world ends ({LEAST_CLIPS} are needed)"
        )
        return None
    own = train.map(fit, limits)
    reference = Reference(audio=own.audio, video=own.video, networks=networks, held_out=count)
    return reference.model_dump(mode="json")


def _measured(detector: OutlierDetector, clips: WindowDataset) -> AV[Measures]:
    """Both modalities of a window of at most `CLIPS` clips, evenly spread; unreadable ones are passed over.

    Raises:
        UserError: There is no such clip, or none can be read any more.
    """
    chosen = spread(CLIPS, len(clips)) if len(clips) else []
    parts: list[AV[Measures]] = []
    for first in range(0, len(chosen), BATCH):
        read = [clips[(0, i)] for i in chosen[first : first + BATCH]]
        items = [item for item in read if not isinstance(item, Failed)]
        if items:
            windows: WindowBatch = default_collate(items)
            media = AV(windows.waveforms, windows.frames)
            parts.append(media.map(detector.measure, MODALITIES))
    if not parts:
        raise UserError("none of them with both sound and picture can be read")

    def joined(measures: list[Measures]) -> Measures:
        """Of parts of the windows -> of all."""
        return Measures(*(torch.cat(values) for values in zip(*measures, strict=True)))

    return AV.zip(parts).map(joined)
