"""Does a ball bounce where real percussion hits? python runs/real_percussion.py FOLDER [--model MODEL].

FOLDER holds recordings (wav, flac, mp4 with sound, ...). Each becomes a sound of one window, after a silence
of random length, so that nothing can be guessed. Audio-to-video makes pictures of it from several seeds, and
hits that are heard are compared with bounces that are seen: how many hits have a bounce near them, and how
many would have one in the picture of another recording (shuffled: the chance).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from mmldm.cli.generate import load_model
from mmldm.errors import MediaError
from mmldm.evaluation.events import derangement, detect_onsets, match
from mmldm.evaluation.intervals import ratio_interval
from mmldm.media.reader import read_audio
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.motion import background, detect_impacts, track

TOLERANCES = (0.03, 0.05)
"""Seconds."""
SILENCE = (0.1, 0.6)
"""Seconds before a recording begins, from and to."""
LOUDEST = 0.5
"""Peak of each recording: levels of the world that the model knows lie about there."""
SHUFFLES = 200
BOOTSTRAPS = 2000
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--match", default="*", help="names of files, such as drum_*")
    parser.add_argument(
        "--most-hits", type=int, default=8, help="of a recording; more are no clear ones"
    )
    parser.add_argument("--limit", type=int, help="recordings, evenly spread; default: all")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    pipeline = load_model(options.model, None)
    spec = pipeline.clip_spec

    # Recordings with clear hits, in the order of their names.
    names, sounds, hits = [], [], []
    files = sorted(file for file in options.folder.rglob(options.match) if file.is_file())
    if options.limit is not None:
        files = files[:: max(1, len(files) // options.limit)][: options.limit]
    for number, file in enumerate(files):
        try:
            sound = placed(read_audio(file, spec), spec, number)
        except MediaError as error:
            print(f"left out: {error}")
            continue
        heard = detect_onsets(sound, spec.sample_rate)
        if 1 <= len(heard) <= options.most_hits:
            names.append(file.stem)
            sounds.append(sound)
            hits.append(heard)
    if len(sounds) < 2:
        raise SystemExit("fewer than two recordings with hits: nothing can be shuffled")

    # Bounces in the pictures that are made of them.
    bounces: list[list[np.ndarray]] = []
    for seed in range(options.seeds):
        frames = []
        for first in range(0, len(sounds), BATCH):
            part = sounds[first : first + BATCH]
            seeds = [1000 * seed + first + i for i in range(len(part))]
            made = pipeline(audio=part, seed=seeds, batch_size=BATCH)
            frames += [clip.frames for clip in made.clips]
        empty = background(frames)
        bounces.append([detect_impacts(track(f, spec.fps, empty)) for f in frames])

    count = sum(map(len, hits))
    print(f"{len(sounds)} recordings with {count} hits, {options.seeds} pictures of each")
    print(
        "| within | hits with a bounce | by chance | bounces at a hit | by chance |\n|---|---|---|---|---|"
    )
    for tolerance in TOLERANCES:
        print(f"| {1000 * tolerance:.0f} ms | {cells(hits, bounces, tolerance)} |")


def placed(sound: torch.Tensor, spec: ClipSpec, number: int) -> torch.Tensor:
    """A recording (S,) after a silence, at one level, cut to the window: (S,)."""
    seconds = np.random.default_rng(number).uniform(*SILENCE)
    sound = sound * (LOUDEST / sound.abs().max().clamp_min(1e-4))
    return F.pad(sound, (round(seconds * spec.sample_rate), 0))[: spec.num_samples]


def cells(hits: list[np.ndarray], bounces: list[list[np.ndarray]], tolerance: float) -> str:
    """A line of the table: recall and precision with their 95 % intervals, and what chance gives."""

    def counts(order: np.ndarray) -> np.ndarray:
        """(N,3): of each recording matches, hits and bounces, over all seeds."""
        return np.array(
            [
                [
                    sum(len(match(hits[i], seen[j], tolerance)) for seen in bounces),
                    len(hits[i]) * len(bounces),
                    sum(len(seen[j]) for seen in bounces),
                ]
                for i, j in enumerate(order)
            ]
        )

    own = counts(np.arange(len(hits)))
    rng = np.random.default_rng(0)
    others = sum(counts(derangement(len(hits), rng)).sum(0) for _ in range(SHUFFLES))
    words = []
    for column in (1, 2):
        share = own[:, 0].sum() / own[:, column].sum()
        interval = ratio_interval(own[:, [0, column]], BOOTSTRAPS)
        low, high = (share, share) if interval is None else interval
        words.append(f"{share:.2f} ({low:.2f}, {high:.2f})")
        words.append(f"{others[0] / others[column]:.2f}")
    return " | ".join(words)


if __name__ == "__main__":
    main()
