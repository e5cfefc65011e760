"""What a person gives the pipeline's call and asks it for, checked and brought to one form.

media (S,) or (B,S), (T,3,H,W) or (B,T,3,H,W), tensors or numpy arrays; names, seeds -> `Request`: one row,
class and seed per clip. How it is sampled is `settings`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import Tensor

from mmldm.errors import UserError
from mmldm.media.clip import Clip
from mmldm.pipelines.decoding import CLIPS_PER_CALL
from mmldm.pipelines.rollout import Manner
from mmldm.pipelines.seeds import Labels, Seeds, at_least_one, class_indices, clip_seeds
from mmldm.pipelines.settings import unknown
from mmldm.types import AV, ClipSpec

Array = Tensor | np.ndarray[Any, Any]
Media = Array | Sequence[Array]


@dataclass(frozen=True)
class Request:
    """One call of the pipeline.

    Attributes:
        count: B, clips to make.
        media: What is given, with a leading dimension of clips: B, or one that serves all; as long as the
            clips are to be.
        num_frames: Of the clips, where nothing is given.
        class_labels: (B,) long, or None.
        seeds: One per clip.
        batch_size: Clips that the generator samples at once.
        images_per_call: As in the call.
    """

    count: int
    media: AV[Tensor | None]
    num_frames: int
    class_labels: Tensor | None
    seeds: list[int]
    batch_size: int
    images_per_call: int | None


def asked_for(
    spec: ClipSpec,
    class_names: Sequence[str],
    *,
    num_samples: int | None = None,
    audio: Media | None = None,
    frames: Media | None = None,
    seconds: float | None = None,
    class_labels: Labels | None = None,
    seed: Seeds | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    batch_size: int = CLIPS_PER_CALL,
    images_per_call: int | None = None,
) -> Request:
    """The arguments of a call, checked.

    Raises:
        UserError: One does not fit the model, or they do not fit each other.
    """
    # How many clips: what is said first, then what is given.
    asked = None if num_samples is None else at_least_one(num_samples, "num_samples")
    media, num_given = given_media(audio, frames, spec, asked)
    count = clip_count(asked, num_given)
    num_frames = spec.num_frames if seconds is None else frames_in(seconds, spec)
    if seconds is not None:
        media = _cut(media, num_frames, spec)
    return Request(
        count=count,
        media=media,
        num_frames=num_frames,
        class_labels=class_indices(class_labels, class_names, count),
        seeds=clip_seeds(count, seed, generator),
        batch_size=at_least_one(batch_size, "batch_size"),
        images_per_call=checked_images(images_per_call),
    )


def checked_images(images_per_call: int | None) -> int | None:
    """None, or a number of images.

    Raises:
        UserError: It is not positive.
    """
    return None if images_per_call is None else at_least_one(images_per_call, "images_per_call")


def given_media(
    audio: Media | None, frames: Media | None, spec: ClipSpec, num_samples: int | None = None
) -> tuple[AV[Tensor | None], int]:
    """Given media with a leading clip dimension, AV((B,S) float32, (B,T,3,H,W) uint8).

    Args:
        num_samples: As asked for. Sound of two rows is two clips where two are asked for, and may be one
            clip in stereo where nothing is said.

    Returns:
        The media, and how many clips a given batch holds; 0: no batch, or one clip for all samples.

    Raises:
        UserError: Both are given, or one does not fit the clip the model was trained on.
    """
    if audio is not None and frames is not None:
        raise UserError(
            "both audio and frames are given, so nothing is left to generate: give one of them, "
            "or use reconstruct() to see what the autoencoder keeps"
        )
    if audio is not None:
        # (2,S) is two clips or one in stereo; a list says that it is clips.
        listed = isinstance(audio, list | tuple)
        rows = _tensor(audio, "audio")
        if rows.ndim == 2 and len(rows) == 2 and not listed and num_samples != 2:
            raise UserError(
                f"audio of the shape {tuple(rows.shape)} is stereo, or two clips: mix stereo to one "
                "channel, audio.mean(0), or say num_samples=2 for two clips"
            )
        batch, num_given = _batched(rows, (None,), "audio", "waveform samples (S,)")
        return AV(checked_waveform(batch, "audio"), None), num_given
    if frames is not None:
        rows = _tensor(frames, "frames")
        if rows.dtype != torch.uint8:
            raise UserError(f"frames must be uint8 in [0, 255], not {rows.dtype}")
        shape = (None, 3, spec.height, spec.width)
        batch, num_given = _batched(rows, shape, "frames", "(T,3,H,W)")
        return AV(None, batch), num_given
    return AV(None, None), 0


def given_clips(clips: Clip | Sequence[Clip], spec: ClipSpec) -> AV[Tensor]:
    """Both modalities of clips of any length, AV((B,S), (B,T,3,H,W) u8); B is 1 for one clip.

    Raises:
        UserError: There is none, they are not of this spec's rates and size, or differ in length.
    """
    listed = [clips] if isinstance(clips, Clip) else list(clips)
    if not listed or not all(isinstance(clip, Clip) for clip in listed):
        raise UserError("give a clip, or a list of clips: mmldm.media.reader reads them from files")
    for clip in listed:
        if clip.fps != spec.fps or clip.sample_rate != spec.sample_rate:
            raise UserError(
                f"the clip has {clip.fps:g} frames and {clip.sample_rate} samples a second, and the model's "
                f"have {spec.fps:g} and {spec.sample_rate}: read the file with mmldm.media.reader, which "
                "brings it to them"
            )
    audio, _ = given_media([clip.waveform for clip in listed], None, spec)
    video, _ = given_media(None, [clip.frames for clip in listed], spec)
    assert audio.audio is not None and video.video is not None
    return AV(audio.audio, video.video)


def frames_in(seconds: float, spec: ClipSpec) -> int:
    """Frames of so many seconds.

    Raises:
        UserError: They are no length, or hold no frame.
    """
    real = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not real or not math.isfinite(seconds):
        raise UserError(f"seconds must be a number, not {seconds!r:.80}")
    frames = round(seconds * spec.fps)
    if frames < 1:
        raise UserError(
            f"seconds must be at least {1 / spec.fps:g}, the length of a frame, not {seconds:g}"
        )
    return frames


def checked_windows(windows: str | None) -> Manner | None:
    """How windows are sampled, or None.

    Raises:
        UserError: There is no such way.
    """
    if windows is None or windows in get_args(Manner):
        return cast("Manner | None", windows)
    raise unknown("way of sampling windows", windows, get_args(Manner))


def _cut(media: AV[Tensor | None], num_frames: int, spec: ClipSpec) -> AV[Tensor | None]:
    """Given media AV((B,S), (B,T,3,H,W)), cut to so many frames.

    Raises:
        UserError: They are shorter.
    """
    wanted = AV(round(num_frames * spec.sample_rate / spec.fps), num_frames)
    for held, length in zip(media, wanted, strict=True):
        # Half a frame is rounding.
        if held is not None and held.shape[1] < length * (1 - 0.5 / num_frames):
            lasts = held.shape[1] / length * num_frames / spec.fps
            raise UserError(
                f"what is given lasts {lasts:.2f} s, and the clips are to last {num_frames / spec.fps:g} s: "
                "ask for fewer seconds, or go on from a clip with extend()"
            )
    return media.map(lambda held, length: None if held is None else held[:, :length], wanted)


def checked_waveform(waveforms: Tensor, name: str) -> Tensor:
    """Waveforms (B,S) as float32.

    Raises:
        UserError: They are not floating-point samples in [-1, 1].
    """
    if not waveforms.is_floating_point():
        raise UserError(
            f"{name} must hold floating-point samples in [-1, 1], not {waveforms.dtype}: divide 16-bit "
            "samples by 32768"
        )
    if not waveforms.isfinite().all():
        raise UserError(f"{name} holds NaN or infinite samples: it must be finite, in [-1, 1]")
    # The last bits of a resampler's or a codec's arithmetic are no mistake of anybody's.
    if (peak := waveforms.abs().max().item()) > 1 + 1e-4:
        raise UserError(
            f"{name} reaches {peak:.4g}, and samples lie in [-1, 1]: divide it by its peak, or clip it, "
            "audio.clip(-1, 1)"
        )
    return waveforms.float()


def _tensor(media: Media, name: str) -> Tensor:
    """A tensor (S,) or (B,S), (T,3,H,W) or (B,T,3,H,W) of what was given; a list is stacked."""
    if isinstance(media, Tensor):
        return media.detach()
    if isinstance(media, np.ndarray):
        try:
            # A copy: numpy's may be read-only, or have negative strides.
            return torch.from_numpy(media.copy())
        except TypeError:
            raise UserError(f"{name} is an array of {media.dtype}, which holds no media") from None
    if (
        isinstance(media, list | tuple)
        and media
        and all(isinstance(x, Tensor | np.ndarray) for x in media)
    ):
        clips = [_tensor(clip, name) for clip in media]
        if len({(clip.shape, clip.dtype) for clip in clips}) == 1:
            return torch.stack(clips)
        raise UserError(f"the clips of {name} differ in shape or kind of number: make them alike")
    raise UserError(f"{name} must be a tensor, a numpy array or a list of these, one per clip")


def _batched(
    media: Tensor, shape: tuple[int | None, ...], name: str, meaning: str
) -> tuple[Tensor, int]:
    """`shape` or (B, *shape), of any length where that is None -> (B, *shape), and B of a batch, 0 of one."""
    batch = media.ndim == len(shape) + 1
    rows = media if batch else media[None]
    # (S,2) is how sound files are often read: the mend is another one.
    stereo = name == "audio" and media.ndim == 2 and media.shape[1] == 2 < len(media)
    fits = rows.ndim == len(shape) + 1 and all(
        size == wanted if wanted is not None else size > 0
        for size, wanted in zip(rows.shape[1:], shape, strict=True)
    )
    if not fits or stereo or len(rows) == 0:
        form = ", ".join("any" if size is None else str(size) for size in shape)
        raise UserError(
            f"{name} has shape {tuple(media.shape)}, but this model's clips have {meaning} = ({form}): "
            + (
                "mix its two channels to one, audio.mean(1)"
                if stereo
                else "read the file with mmldm.media.reader, which cuts and resizes to them"
            )
        )
    return rows, len(rows) if batch else 0


def clip_count(num_samples: int | None, num_given: int) -> int:
    """How many clips to make: as asked for, else one per clip of a given batch, else 4.

    Raises:
        UserError: The number does not fit the batch of given clips.
    """
    if num_samples is None:
        return num_given or 4
    if num_given > 1 and num_samples != num_given:
        raise UserError(
            f"num_samples {num_samples} does not fit {num_given} given clips: "
            "give one clip for all samples, or one for each"
        )
    return num_samples
