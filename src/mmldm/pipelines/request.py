"""What a person asks the pipeline for, checked and brought to one form.

media (S,) or (B,S), (T,3,H,W) or (B,T,3,H,W); names, seeds -> one row, label and seed per clip.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from mmldm.errors import UserError
from mmldm.types import AV, ClipSpec

Labels = int | str | Sequence[int | str]


def given_media(
    audio: Tensor | None, frames: Tensor | None, spec: ClipSpec
) -> tuple[AV[Tensor | None], int]:
    """Given media with a leading clip dimension, and how many clips are given (0: none).

    Raises:
        UserError: Both are given, or one does not fit the clip the model was trained on.
    """
    if audio is not None and frames is not None:
        raise UserError(
            "both audio and frames are given, so nothing is left to generate: give one of them, "
            "or use reconstruct() to see what the autoencoder keeps"
        )
    if audio is not None:
        audio = _batched(audio, (spec.num_samples,), "audio", "waveform samples (S,)")
        if not audio.is_floating_point() or not audio.isfinite().all():
            raise UserError("audio must hold finite floating-point samples in [-1, 1]")
        return AV(audio, None), len(audio)
    if frames is not None:
        shape = (spec.num_frames, 3, spec.height, spec.width)
        frames = _batched(frames, shape, "frames", "(T,3,H,W)")
        if frames.dtype != torch.uint8:
            raise UserError(f"frames must be uint8 in [0, 255], not {frames.dtype}")
        return AV(None, frames), len(frames)
    return AV(None, None), 0


def _batched(media: Tensor, shape: tuple[int, ...], name: str, meaning: str) -> Tensor:
    rows = media if media.ndim == len(shape) + 1 else media[None]
    if tuple(rows.shape[1:]) != shape or len(rows) == 0:
        raise UserError(
            f"{name} has shape {tuple(media.shape)}, but this model's clips have {meaning} = "
            f"{shape}: read the file with mmldm.media.reader, which cuts and resizes to them"
        )
    return rows


def clip_count(num_samples: int | None, num_given: int) -> int:
    """How many clips to make: as asked for, else one per given clip of a batch, else 4.

    Raises:
        UserError: The number is not positive, or does not fit the batch of given clips.
    """
    if num_samples is None:
        return num_given if num_given > 1 else 4
    if num_samples < 1:
        raise UserError(f"num_samples must be at least 1, not {num_samples}")
    if num_given > 1 and num_samples != num_given:
        raise UserError(
            f"num_samples {num_samples} does not fit {num_given} given clips: "
            "give one clip for all samples, or one for each"
        )
    return num_samples


def class_indices(labels: Labels | None, names: Sequence[str], count: int) -> Tensor | None:
    """Class names or indices, one or `count` of them -> (count,) long.

    Raises:
        UserError: A class is unknown, or the number of labels does not fit.
    """
    if labels is None:
        return None
    if not names:
        raise UserError("this model was trained without classes: leave class_labels out")
    listed = [labels] * count if isinstance(labels, int | str) else list(labels)
    if len(listed) != count:
        raise UserError(f"{len(listed)} class labels for {count} clips: give one, or one per clip")
    return torch.tensor([_class_index(label, names) for label in listed])


def _class_index(label: int | str, names: Sequence[str]) -> int:
    if isinstance(label, str) and label in names:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    near = difflib.get_close_matches(str(label), names, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ":"
    raise UserError(f"unknown class {label!r}{hint} this model knows {', '.join(names)}")


def clip_seeds(
    count: int,
    seed: int | Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
) -> list[int]:
    """One seed per clip.

    A seed s stands for s, s + 1, ... From generators, of any device, one seed per clip is drawn.

    Raises:
        UserError: Both are given, or their number does not fit.
    """
    if seed is not None and generator is not None:
        raise UserError("give seed or generator, not both")
    if isinstance(seed, int):
        return list(range(seed, seed + count))
    if seed is not None:
        listed = list(seed)
    elif generator is None or isinstance(generator, torch.Generator):
        listed = _draw(count, generator)
    else:
        listed = [_draw(1, one)[0] for one in generator]
    if len(listed) != count:
        raise UserError(f"{len(listed)} seeds or generators for {count} clips: give one per clip")
    return listed


def _draw(count: int, generator: torch.Generator | None) -> list[int]:
    device = None if generator is None else generator.device
    return torch.randint(2**62, (count,), generator=generator, device=device).tolist()
