"""Makes every picture and film of the README from a model: moving pictures, contact sheets, films with sound.

    python runs/show.py [MODEL] [--clips CLIPS] [--images docs/images] [--media docs/media] [--seed 0]

Nothing is chosen by hand: seeds count up from --seed, and given sounds and pictures are held-out clips,
evenly spread over CLIPS (a folder or a manifest). Without CLIPS only the joint samples are shown.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from animation import animate, instants, save_animation
from torch.nn import functional as F

from mmldm.data.clips import spread
from mmldm.data.manifest import Manifest
from mmldm.data.scan import scan
from mmldm.media.clip import Clip
from mmldm.media.reader import read_clip
from mmldm.media.sheet import contact_sheet, save_png
from mmldm.pipelines.published import BUNDLED
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.types import ClipSpec

GIVEN, SAMPLES = 2, 4
"""Held-out clips for each task, and samples for each of them."""
SHEET = 4
"""Clips on a contact sheet: the first ones of the moving picture."""
REST = 0.4
"""Seconds that a film stands still, and is silent, after each clip."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=BUNDLED)
    parser.add_argument("--clips", type=Path, help="folder or manifest of clips to be given")
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    parser.add_argument("--media", type=Path, default=Path("docs/media"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    pipeline = SoundingVideoPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    seeds = [options.seed + i for i in range(GIVEN * SAMPLES)]

    def make(
        file: str,
        words: Sequence[str],
        seeds: Sequence[int],
        audio: torch.Tensor | None = None,
        frames: torch.Tensor | None = None,
    ) -> None:
        """Samples, of given waveforms (B,S) or frames (B,T,3,H,W), and shows them in files of this name."""
        titles = [f"{word}, seed {seed}" for word, seed in zip(words, seeds, strict=True)]
        clips = pipeline(len(seeds), audio=audio, frames=frames, seed=seeds).clips
        show(file, clips, titles, options.images, options.media)

    make("joint", ["joint"] * len(seeds), seeds)
    if options.clips is None:
        return
    names, clips = held_out(options.clips, pipeline.clip_spec)
    names = [name for name in names for _ in range(SAMPLES)]
    sounds, pictures = names[: len(seeds)], names[len(seeds) :]
    audio = torch.stack([clip.waveform for clip in clips[:GIVEN]]).repeat_interleave(SAMPLES, 0)
    frames = torch.stack([clip.frames for clip in clips[GIVEN:]]).repeat_interleave(SAMPLES, 0)
    seeds = seeds[:SAMPLES] * GIVEN
    make("audio-to-video", [f"a2v {name}" for name in sounds], seeds, audio=audio)
    make("video-to-audio", [f"v2a {name}" for name in pictures], seeds, frames=frames)


def held_out(source: Path, spec: ClipSpec) -> tuple[list[str], list[Clip]]:
    """Names and clips of 2 x `GIVEN` held-out files, evenly spread."""
    manifest = Manifest.load(source) if source.suffix == ".jsonl" else scan(source, spec)
    entries = manifest.split("held_out")
    entries = [entries[i] for i in spread(2 * GIVEN, len(entries))]
    names = [Path(entry.path).with_suffix("").as_posix() for entry in entries]
    return names, [read_clip(manifest.file(entry), 0.0, spec) for entry in entries]


def show(
    name: str, clips: Sequence[Clip], titles: Sequence[str], images: Path, media: Path
) -> None:
    """Writes the moving picture, the contact sheet and the film of one task."""
    print(save_animation(images / f"{name}.webp", clips, titles, columns=SAMPLES))
    sheet = images / f"{name}.png"
    save_png(sheet, contact_sheet(clips[:SHEET], titles[:SHEET]))
    print(sheet)
    print(film(clips, titles).save(media / f"{name}.mp4"))


def film(clips: Sequence[Clip], titles: Sequence[str]) -> Clip:
    """The clips one after the other, each above its spectrogram with a playhead, with their sounds."""
    frames, sounds = [], []
    for clip, title in zip(clips, titles, strict=True):
        times = instants([clip])
        rate = 1 / (times[1] - times[0])
        pictures = [np.array(picture) for picture in animate([clip], [title])]
        still = [pictures[-1]] * (round(REST * rate) - 1)
        frames += [torch.from_numpy(picture).permute(2, 0, 1) for picture in (*pictures, *still)]
        length = round(len(pictures + still) * clip.sample_rate / rate)
        sounds.append(F.pad(clip.waveform, (0, length - len(clip.waveform))))
    return Clip(torch.stack(frames), torch.cat(sounds), rate, clips[0].sample_rate)


if __name__ == "__main__":
    main()
