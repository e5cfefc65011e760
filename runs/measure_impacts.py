"""Measures a model of the impacts world against held-out clips: the table of README and model card.

    python runs/measure_impacts.py CLIPS_FOLDER [MODEL] [--clips 120] [--out table.json]

Rows: real clips, their reconstructions, joint samples, audio-to-video, video-to-audio; each with sync at
50 and 100 ms beside the same set with its sounds shuffled, and how the ball moves. Given sounds and
pictures are held-out ones.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from mmldm.cli.generate import BUNDLED
from mmldm.data.manifest import scan
from mmldm.evaluation.alignment import alignment_report
from mmldm.evaluation.motion import background
from mmldm.evaluation.reconstruction import fidelity
from mmldm.media.reader import read_clip
from mmldm.media.spectrogram import AudioImage
from mmldm.pipelines.sounding_video import SoundingVideoPipeline

CHUNK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", nargs="?", type=Path, default=BUNDLED)
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--guidance", type=float, default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    pipeline = SoundingVideoPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    spec = pipeline.clip_spec
    manifest = scan(options.folder, spec)
    rows = manifest.split("held_out")[:: max(1, len(manifest.split("held_out")) // options.clips)]
    real = [read_clip(manifest.file(row), 0.0, spec) for row in rows[: options.clips]]
    given = {
        "joint": {},
        "audio-to-video": {"audio": torch.stack([clip.waveform for clip in real])},
        "video-to-audio": {"frames": torch.stack([clip.frames for clip in real])},
    }
    sets = {"real": real, "reconstruction": [pipeline.reconstruct(clip) for clip in real]}
    for task, media in given.items():
        made = []
        for start in range(0, len(real), CHUNK):
            part = {name: x[start : start + CHUNK] for name, x in media.items()}
            count = min(CHUNK, len(real) - start)
            made += pipeline(
                num_samples=count,
                seed=start,
                guidance_scale=options.guidance,
                num_inference_steps=options.steps,
                **part,
            ).clips
        sets[task] = made
    empty = background([clip.frames for clip in real])
    reports = {name: alignment_report(clips, empty=empty) for name, clips in sets.items()}
    close = [
        fidelity(kept, clip, AudioImage(spec))
        for kept, clip in zip(sets["reconstruction"], real, strict=True)
    ]
    summary: dict[str, Any] = {
        "reports": reports,
        "reconstruction": {
            "psnr": sum(f.psnr for f in close) / len(close),
            "mel_error": sum(f.mel_error for f in close) / len(close),
        },
    }
    print(table(reports))
    print("reconstruction:", json.dumps(summary["reconstruction"]))
    if options.out:
        options.out.write_text(json.dumps(summary, indent=1))


def table(reports: dict[str, dict[str, Any]]) -> str:
    """Markdown: recall and precision, with the shuffled anchor in brackets."""
    lines = [
        "| clips | n | recall 50 ms | precision 50 ms | recall 100 ms | precision 100 ms "
        "| impacts | onsets | ball kept | ballistic |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, report in reports.items():
        cells = []
        for row in report["sync"]:
            for kind in ("recall", "precision"):
                value, shuffled = row[kind], row[f"{kind}_shuffled"]
                cells.append("-" if value is None else f"{value:.2f} ({shuffled:.2f})")
        moving = (report["impacts_per_clip"], report["onsets_per_clip"])
        shares = (report["ball_kept"], report["ballistic"])
        cells += [f"{x:.1f}" for x in moving] + [f"{x:.2f}" for x in shares]
        lines.append(f"| {name} | {report['clips']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
