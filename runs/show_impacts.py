"""Makes the README's pictures from a model of the impacts world: animated, and as contact sheets.

    python runs/show_impacts.py CLIPS [MODEL] [--out docs/images] [--seed 0] [--speed 1]

CLIPS is a folder of clips, or its manifest. Nothing is chosen by hand: seeds count up from --seed, the
given sounds and pictures are held-out clips evenly spread over the manifest.
"""

import argparse
from pathlib import Path

import torch

from mmldm.cli.generate import BUNDLED
from mmldm.data.clips import spread
from mmldm.data.manifest import Manifest, scan
from mmldm.media.animation import save_animation
from mmldm.media.reader import read_clip
from mmldm.media.sheet import contact_sheet, save_png
from mmldm.pipelines.sounding_video import SoundingVideoPipeline

GIVEN, SAMPLES = 2, 4
"""Held-out clips for each task, and samples for each of them."""
SHEET = 4
"""Clips on a contact sheet: the first ones of the animation."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path)
    parser.add_argument("model", nargs="?", type=Path, default=BUNDLED)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=float, default=1.0)
    options = parser.parse_args()

    pipeline = SoundingVideoPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    spec = pipeline.clip_spec
    stored = options.clips.suffix == ".jsonl"
    manifest = Manifest.load(options.clips) if stored else scan(options.clips, spec)
    held_out = manifest.split("held_out")
    rows = [held_out[i] for i in spread(2 * GIVEN, len(held_out))]
    clips = [read_clip(manifest.file(row), 0.0, spec) for row in rows]
    names = [Path(row.path).with_suffix("").as_posix() for row in rows]

    waveforms = torch.stack([clip.waveform for clip in clips[:GIVEN]])
    frames = torch.stack([clip.frames for clip in clips[GIVEN:]])
    tasks = {
        "joint": ("joint", {}),
        "audio-to-video": ("a2v", {"audio": waveforms.repeat_interleave(SAMPLES, 0)}),
        "video-to-audio": ("v2a", {"frames": frames.repeat_interleave(SAMPLES, 0)}),
    }
    for file, (task, given) in tasks.items():
        seeds = [options.seed + i for i in range(GIVEN * SAMPLES)]
        words = [task] * len(seeds)
        if given:
            seeds = seeds[:SAMPLES] * GIVEN
            own = names[:GIVEN] if "audio" in given else names[GIVEN:]
            words = [f"{task} {name}" for name in own for _ in range(SAMPLES)]
        titles = [f"{word}, seed {seed}" for word, seed in zip(words, seeds, strict=True)]
        made = pipeline(num_samples=len(seeds), seed=seeds, **given).clips
        path = options.out / f"{file}.webp"
        print(save_animation(path, made, titles, columns=SAMPLES, speed=options.speed))
        sheet = options.out / f"{file}.png"
        save_png(sheet, contact_sheet(made[:SHEET], titles[:SHEET]))
        print(sheet)


if __name__ == "__main__":
    main()
