"""Measures a model of the impacts world against held-out clips: the table of README and model card.

    python runs/measure_impacts.py CLIPS [MODEL] [--clips 500] [--classifiers FOLDER] [--out table.json]

CLIPS is a folder of `mmldm synthesize`, or the manifest.jsonl of a training run on one. Columns: real
held-out clips, their reconstructions, joint samples, audio-to-video and video-to-audio for held-out
clips. Clip i of a task is made from seed i and, where one is given, from held-out clip i modulo their
number; nothing is chosen. Clips are generated, measured and dropped in small batches.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from mmldm.cli.generate import BUNDLED
from mmldm.data.clips import spread
from mmldm.data.manifest import Entry, Manifest
from mmldm.data.scan import scan
from mmldm.errors import UserError
from mmldm.evaluation.classifiers import Classifiers, train_classifiers
from mmldm.evaluation.memorisation import Neighbours, fingerprints, nearest_pairs, pairs_sheet
from mmldm.evaluation.reconstruction import fidelity
from mmldm.files import write_text
from mmldm.media.clip import Clip
from mmldm.media.reader import read_clip
from mmldm.media.sheet import save_png
from mmldm.media.spectrogram import AudioImage
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.types import AV
from mmldm.worlds.impacts.motion import background
from mmldm.worlds.impacts.report_old import calibration, impacts_report, measure, true_impacts
from mmldm.worlds.impacts.table import markdown

CHUNK = 16
CLASSIFIER_CLIPS = 1200
BACKGROUND_CLIPS = 64
PAIRS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source", type=Path, metavar="CLIPS", help="folder or manifest.jsonl")
    parser.add_argument("model", nargs="?", type=Path, default=BUNDLED)
    parser.add_argument("--clips", type=int, default=500, help="per task")
    parser.add_argument("--quality", help="best, balanced, fast; default: the model's")
    parser.add_argument("--guidance", type=float, help="default: the quality's")
    parser.add_argument("--steps", type=int, help="default: the quality's")
    parser.add_argument("--classifiers", type=Path, help="kept here, and not trained again")
    parser.add_argument("--out", type=Path, help="JSON; .md and .png (nearest pairs) beside it")
    options = parser.parse_args()

    pipeline: Any = SoundingVideoPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    world = World(options.source, pipeline, options.clips)
    classifiers = world.classifiers(options.classifiers)
    training = world.training()
    sampling = {
        "quality": options.quality,
        "guidance_scale": options.guidance,
        "num_inference_steps": options.steps,
    }
    closeness: list[tuple[float, float]] = []
    tasks = {
        "real": world.read(world.real, "real"),
        "reconstruction": world.reconstructed(closeness),
        "joint": world.generated("joint", **sampling),
        "audio-to-video": world.generated("audio", **sampling),
        "video-to-audio": world.generated("frames", **sampling),
    }
    labels = {name: None if name == "joint" else world.labels for name in tasks}
    for name in ("audio-to-video", "video-to-audio"):
        labels[name] = world.repeated(world.labels)
    sets = {
        name: measure(clips, classifiers, world.empty, labels[name])
        for name, clips in tasks.items()
    }
    reference = measure(world.read(world.reference, "reference"), classifiers, world.empty)
    truths = [true_impacts(world.manifest.file(row)) for row in world.real]
    psnr, mel_error = torch.tensor(closeness).mean(0).tolist()
    report = {
        "model": options.model.name,
        "clips": options.clips,
        **impacts_report(sets, reference, training),
        "calibration": calibration(sets["real"].moments, truths),
        "reconstruction": {"psnr": psnr, "mel_error": mel_error},
    }
    print(markdown(report))
    print(f"\nreconstruction: {psnr:.1f} dB PSNR, {mel_error:.2f} dB mean log-mel error")
    if options.out:
        write(options.out.with_suffix(".json"), json.dumps(report, indent=1))
        write(options.out.with_suffix(".md"), markdown(report))
        pairs = nearest_pairs(*Neighbours(training).nearest(sets["joint"].prints), PAIRS)
        sheet = pairs_sheet(
            pairs,
            lambda i: pipeline(num_samples=1, seed=i, **sampling).clips[0],
            lambda i: world.clip(world.train[i]),
        )
        save_png(options.out.with_suffix(".png"), sheet)


class World:
    """The clips of the impacts world a model is measured on, read when they are needed."""

    def __init__(self, source: Path, pipeline: Any, clips: int) -> None:
        self.pipeline, self.spec, self.count = pipeline, pipeline.clip_spec, clips
        if source.is_file():
            self.manifest = Manifest.load(source)
        else:
            self.manifest = scan(source, self.spec)
        held_out, self.train = self.manifest.split("held_out"), self.manifest.split("train")
        if len(held_out) < 4 or len(self.train) < 12:
            raise UserError(
                f"{source} has {len(held_out)} held-out and {len(self.train)} training clips; "
                "4 and 12 are the least that can be measured on"
            )
        self.real = [held_out[i] for i in spread(clips, len(held_out))]
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0)).tolist()
        learnt = min(CLASSIFIER_CLIPS, len(order) // 2)
        self.judged = [self.train[i] for i in order[:learnt]]
        self.reference = [self.train[i] for i in order[learnt : learnt + 2 * clips]]
        self.labels = [self.manifest.classes.index(row.class_name or "") for row in self.real]
        drawn = [self.real[i] for i in spread(BACKGROUND_CLIPS, len(self.real))]
        self.empty = background([self.clip(row).frames for row in drawn])

    def clip(self, row: Entry) -> Clip:
        return read_clip(self.manifest.file(row), 0.0, self.spec)

    def read(self, rows: Sequence[Entry], name: str) -> Iterator[Clip]:
        return watched((self.clip(row) for row in rows), name, len(rows))

    def repeated(self, values: Sequence[Any]) -> list[Any]:
        """As many as are generated, from the start again where there are fewer."""
        return [values[i % len(values)] for i in range(self.count)]

    def classifiers(self, folder: Path | None) -> Classifiers:
        """Those in the folder, or newly trained ones, which are then kept there."""
        if folder is not None and folder.exists():
            kept = Classifiers.load(folder)
            if kept.class_names != tuple(self.manifest.classes):
                raise UserError(f"{folder} holds classifiers of {', '.join(kept.class_names)}")
            return kept
        named = zip(
            self.read(self.judged, "clips of the classifiers"),
            [row.class_name for row in self.judged],
            strict=True,
        )
        trained = train_classifiers(named, self.manifest.classes, progress=_said)
        if folder is not None:
            trained.save(folder)
        return trained

    def training(self) -> AV[torch.Tensor]:
        """Fingerprints of all training clips."""
        prints = [fingerprints([clip]) for clip in self.read(self.train, "training clips")]
        return AV(*(torch.cat(parts) for parts in zip(*prints, strict=True)))

    def reconstructed(self, closeness: list[tuple[float, float]]) -> Iterator[Clip]:
        """Real clips through the autoencoder; PSNR and mel error of each go to `closeness`."""
        audio_image = AudioImage(self.spec)
        for clip in self.read(self.real, "reconstruction"):
            kept = self.pipeline.reconstruct(clip)
            closeness.append(fidelity(kept, clip, audio_image))
            yield kept

    def generated(self, task: str, **sampling: Any) -> Iterator[Clip]:
        """Samples, with the held-out clips' "audio" or "frames" given unless the task is "joint"."""

        def chunks() -> Iterator[Clip]:
            rows = self.repeated(self.real)
            for start in range(0, self.count, CHUNK):
                part = rows[start : start + CHUNK]
                given = {}
                if task != "joint":
                    clips = [self.clip(row) for row in part]
                    field = "waveform" if task == "audio" else "frames"
                    given[task] = torch.stack([getattr(clip, field) for clip in clips])
                yield from self.pipeline(
                    num_samples=len(part), seed=start, **given, **sampling
                ).clips

        return watched(chunks(), f"given: {task}" if task != "joint" else task, self.count)


def watched(clips: Iterable[Clip], name: str, total: int) -> Iterator[Clip]:
    """The clips, with a line on the terminal about every ten seconds and at the end."""
    begun = said = time.monotonic()
    for done, clip in enumerate(clips, start=1):
        yield clip
        now = time.monotonic()
        if now - said > 10 or done == total:
            said = now
            left = (now - begun) / done * (total - done)
            print(f"{name}: {done} of {total}, {left:.0f} s left", file=sys.stderr)


def _said(modality: str, done: int, total: int) -> None:
    if done % 100 == 0:
        print(f"classifier of {modality}: step {done} of {total}", file=sys.stderr)


def write(path: Path, text: str) -> None:
    write_text(path, text + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
