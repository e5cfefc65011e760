"""Windows of clips: a random one per epoch for training, fixed ones for caches and validation.

Manifest -> dataset[(epoch, index)] -> one `types.WindowBatch` without its first dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import default_collate

from mmldm.data.loader import Failed, Position
from mmldm.data.manifest import Entry, Manifest, Split
from mmldm.errors import MediaError, UserError
from mmldm.media.clip import Clip
from mmldm.media.reader import read_audio, read_clip, read_frames
from mmldm.types import AV, ClipSpec, WindowBatch

NO_CLASS = -1
"""The class number of a clip that lies in no class folder."""


class WindowDataset:
    """One window of every clip of a split, at a start drawn anew in each epoch.

    The start is uniform in [0, duration - clip] and depends on (seed, epoch, index) alone, so any
    worker and any resumed run reads the same window. It begins at the nearest source frame.

    Args:
        manifest: Scanned clips.
        spec: What a window holds.
        split: "train" or "held_out".
        seed: Chooses the starts.
        sound_only: Leaves out the frames, which makes reading ten times faster, and clips without sound.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: ClipSpec,
        split: Split,
        seed: int,
        sound_only: bool = False,
    ) -> None:
        self._manifest, self._spec, self._seed = manifest, spec, seed
        self._sound_only = sound_only
        self._entries = [
            entry for entry in manifest.split(split) if entry.has_audio or not sound_only
        ]
        self._class_numbers = class_numbers(manifest)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, position: Position) -> WindowBatch | Failed:
        """One window, without the first dimension; `Failed` where it cannot be read."""
        epoch, index = position
        entry, start = self._entries[index], self.start(epoch, index)
        try:
            if self._sound_only:
                # No frames instead of none: a batch has the same fields in every job.
                waveform = read_audio(self._manifest.file(entry), self._spec, start)
                frames = torch.empty(0, 3, self._spec.height, self._spec.width, dtype=torch.uint8)
            else:
                clip = read_entry(self._manifest, entry, start, self._spec)
                frames, waveform = clip.frames, clip.waveform
        except MediaError as error:
            return Failed(entry.path, str(error))
        return WindowBatch(
            frames,
            waveform,
            present=AV(torch.tensor(entry.has_audio), torch.tensor(entry.has_video)),
            class_labels=torch.tensor(self._class_numbers[entry.class_name]),
            indices=torch.tensor(index),
        )

    def file(self, index: int) -> str:
        """Of an entry: its path in the manifest, which `Failed` names."""
        return self._entries[index].path

    def name(self, position: Position) -> str:
        """Of a window, for people: the file and where in it the window begins."""
        return f"{self.file(position[1])} at {self.start(*position):.2f} s"

    def start(self, epoch: int, index: int) -> float:
        """Where the window is asked for, in seconds; it begins at the source frame nearest to that."""
        draw = np.random.default_rng([self._seed, epoch, index]).random()
        return float(draw * _slack(self._entries[index], self._spec))


def held_out_windows(
    manifest: Manifest, spec: ClipSpec, seed: int, count: int
) -> tuple[WindowBatch, dict[str, str]]:
    """At most `count` held-out clips of those of a manifest, one window of each.

    They are spread over the manifest, so that every class is looked at. A run that holds nothing
    out looks at training clips.

    Returns:
        The windows, and the files that could not be read -> reason.

    Raises:
        UserError: None of them can be read any more.
    """
    # At the starts of epoch 0: the same windows each time.
    split: Split = "held_out" if manifest.split("held_out") else "train"
    dataset = WindowDataset(manifest, spec, split, seed)
    read = [dataset[(0, i)] for i in spread(count, len(dataset))]
    failures = {item.file: item.reason for item in read if isinstance(item, Failed)}
    items = [item for item in read if not isinstance(item, Failed)]
    if not items:
        raise UserError(
            f"none of the {split} clips looked at can be read any more, for example "
            + ": ".join(next(iter(failures.items())))
        )
    return default_collate(items), failures


def read_entry(manifest: Manifest, entry: Entry, start: float, spec: ClipSpec) -> Clip:
    """The window of an entry's file from `start` seconds on; black or silent where it lacks a stream.

    Raises:
        MediaError: As `read_clip`.
    """
    path = manifest.file(entry)
    if entry.complete:
        return read_clip(path, start, spec)
    # One stream is read, the other one stands still: black, or silent.
    frames = torch.zeros(spec.num_frames, 3, spec.height, spec.width, dtype=torch.uint8)
    waveform = torch.zeros(spec.num_samples)
    if entry.has_audio:
        waveform = read_audio(path, spec, start)
    else:
        frames = read_frames(path, spec, start)
    return Clip(frames, waveform, spec.fps, spec.sample_rate)


def class_numbers(manifest: Manifest) -> dict[str | None, int]:
    """Class name -> index in `manifest.classes`; None -> NO_CLASS."""
    return {None: NO_CLASS, **{name: i for i, name in enumerate(manifest.classes)}}


def spread(count: int, length: int) -> list[int]:
    """At most `count` different indices below `length`, evenly spread: entries lie class by class."""
    return [i * length // min(count, length) for i in range(min(count, length))]


def windows(entries: Sequence[Entry], spec: ClipSpec, per_clip: int) -> list[tuple[Entry, float]]:
    """Fixed windows, evenly spread over each clip, the same in every call; each begins at the nearest frame.

    Args:
        entries: Usable entries of a manifest.
        spec: Gives the window's length.
        per_clip: Windows per clip; a clip that is no longer than a window has one.

    Returns:
        (entry, start asked for in seconds), clip by clip.
    """
    chosen: list[tuple[Entry, float]] = []
    for entry in entries:
        # From the first window that fits to the last; a single one lies in the middle.
        slack = _slack(entry, spec)
        starts = np.linspace(0.0, slack, per_clip) if per_clip > 1 else np.array([slack / 2])
        chosen += [(entry, float(start)) for start in np.unique(starts)]
    return chosen


def _slack(entry: Entry, spec: ClipSpec) -> float:
    """How far the start of a window can move in a file, in seconds."""
    # A usable entry's duration is measured, and at least one window long but for the tolerance.
    assert entry.duration is not None
    return max(0.0, entry.duration - spec.duration)
