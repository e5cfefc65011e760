"""What each part of the autoencoder is worth: one training run per row and seed, equal budget, one table.

    python runs/ablation.py RUN [--steps 500] [--seeds 0 1] [--rows full "no prompt"] [--out FOLDER]

RUN is a run folder whose image latents are cached (its autoencoder job was begun). Rows change one thing
each; all train on those latents for the same number of steps and are measured on the same held-out clips,
against the image VAE's own pictures, which are the ceiling. Source: MM-LDM Table 3. A row whose result
exists is kept, so an interrupted table goes on where it stopped.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mmldm.config import RunConfig, load_config, override, parse
from mmldm.data.clips import spread
from mmldm.data.latents import Splits
from mmldm.diffusion.schedules import ScheduleConfig, make_scheduler
from mmldm.evaluation.alignment import alignment_report
from mmldm.evaluation.motion import background
from mmldm.evaluation.reconstruction import psnr
from mmldm.media.clip import Clip
from mmldm.media.images import images_to_frames
from mmldm.media.spectrogram import AudioImage
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_codec import ImageCodec
from mmldm.models.image_vae import load_image_vae
from mmldm.pipelines.decoding import decode_latents
from mmldm.training.autoencoder import AutoencoderStage
from mmldm.training.journey import RunFolder
from mmldm.training.loop import train
from mmldm.types import MODALITIES

CRITIC = (
    "autoencoder.critic={start_step: 0, learning_rate: 0.0002, max_noise: 1.0, "
    "model: {patch_size: 4, channels: 32, multipliers: [1, 2], attention_levels: [1]}}"
)
ROWS: dict[str, list[str]] = {
    "full": [],
    "no modality prompt": ["autoencoder.model.prompt_tokens=0"],
    "no pooled latent": ["autoencoder.model.with_pooled_latent=false"],
    "no class embedding": ["autoencoder.model.with_class_token=false"],
    "no semantic features": ["autoencoder.model.with_semantics=false"],
    "no class head, no class embedding": [
        "autoencoder.model.with_class_token=false",
        "autoencoder.loss.classification=0",
    ],
    "no contrastive head": ["autoencoder.loss.contrastive=0"],
    "heads shape the latents": ["autoencoder.model.detach_latents=false"],
    "critic from half-way": ["autoencoder.loss.adversarial=0.1", CRITIC],
    "no time axis, 4 key frames (paper)": [
        "autoencoder.model.video_encoder_config.latent_shape=[12, 1, 4, 4]",
        "autoencoder.model.video_encoder_config.key_frames=4",
        "autoencoder.model.semantic_config.video={token_grid: [1, 2, 2]}",
    ],
}
COLUMNS = {
    "psnr_video": "frames, dB",
    "psnr_audio": "audio image, dB",
    "recall": "recall 50 ms",
    "precision": "precision 50 ms",
    "class_accuracy": "class right",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--clips", type=int, default=96, help="held-out clips measured")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    options = parser.parse_args()
    folder = RunFolder(options.run)
    caches = Splits.open(folder.cache("image_latents"))
    config = load_config(folder.config)
    results: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for row in options.rows:
            target = options.out / f"{row.replace(' ', '_').replace(',', '')}-{seed}"
            if not (target / "result.json").is_file():
                changed = _change(config, row, options.steps, seed)
                minutes = _train(changed, folder, caches, target)
                result = _measure(changed, folder, caches, target, options.clips)
                (target / "result.json").write_text(json.dumps({**result, "minutes": minutes}))
            result = json.loads((target / "result.json").read_text())
            results.setdefault(row, []).append(result)
            print(row, seed, {name: round(value, 3) for name, value in result.items()}, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(table(results, options.steps) + "\n")
    print(table(results, options.steps))


def _change(config: RunConfig, row: str, steps: int, seed: int) -> RunConfig:
    data: dict[str, Any] = config.model_dump(mode="json")
    cadence = {"validate_every": 0, "preview_every": 0, "save_every": steps}
    data["autoencoder"]["train"].update(steps=steps, **cadence)
    data["seed"] = seed
    for change in ROWS[row]:
        override(data, change)
    if data["autoencoder"]["critic"]:
        data["autoencoder"]["critic"]["start_step"] = steps // 2
    return parse(RunConfig, data, row)


def _train(config: RunConfig, folder: RunFolder, caches: Splits, target: Path) -> float:
    started = time.perf_counter()
    vae = load_image_vae(folder.export("vae"))
    stage = AutoencoderStage(config, vae, caches, torch.device("cpu"))
    train(stage, config.autoencoder.train, target, seed=config.seed, console=Console(stderr=True))
    return (time.perf_counter() - started) / 60


@torch.no_grad()
def _measure(
    config: RunConfig, folder: RunFolder, caches: Splits, target: Path, count: int
) -> dict[str, float]:
    """Held-out clips through the trained autoencoder, one decoder step, against the image VAE alone."""
    model = MultiModalAutoencoder.from_pretrained(target / "export").eval()
    codec = ImageCodec(load_image_vae(folder.export("vae")), model.image_statistics).eval()
    scheduler = make_scheduler(parse(ScheduleConfig, config.autoencoder.schedule, "schedule"))
    audio_image, spec = AudioImage(config.clip), config.clip
    batches = torch.tensor(spread(count, len(caches.held_out))).split(16)
    clips: list[Clip] = []
    ceiling: list[torch.Tensor] = []
    errors: dict[str, list[float]] = {"psnr_audio": [], "psnr_video": []}
    right: list[bool] = []
    for indices in batches:
        batch = caches.held_out[indices]
        clean = MODALITIES.map(lambda m, b=batch: codec.normalise(b[f"{m}_mean"], m))
        latents = model.encode(clean).map(lambda p: p.mode())
        made = decode_latents(
            model, codec, scheduler, latents, num_frames=spec.num_frames, steps=1,
            generators=[torch.Generator().manual_seed(int(i)) for i in indices],
        )  # fmt: skip
        kept = MODALITIES.map(lambda m, c=clean: codec.decode(getattr(c, m), m))
        pictures = [images.map(images_to_frames) for images in (kept, made)]
        for modality in MODALITIES:
            original, decoded = (getattr(frames, modality) for frames in pictures)
            errors[f"psnr_{modality}"] += psnr(decoded, original).tolist()
        ceiling += list(pictures[0].video)
        waveforms = audio_image.waveform(made.audio)
        pairs = zip(pictures[1].video, waveforms, strict=True)
        clips += [Clip(picture, sound, spec.fps, spec.sample_rate) for picture, sound in pairs]
        logits = model.class_logits(model.semantics(latents))
        right += (logits.argmax(1) == batch["label"]).tolist()
    sync = alignment_report(clips, empty=background(ceiling))["sync"][0]
    means = {name: statistics.fmean(values) for name, values in errors.items()}
    rates = {name: sync[name] or 0.0 for name in ("recall", "precision")}
    return {**means, **rates, "class_accuracy": statistics.fmean(right)}


def table(results: dict[str, list[dict[str, float]]], steps: int) -> str:
    """Markdown: mean over seeds, and the spread where there are several."""
    lines = [
        f"| {steps} steps | seeds | " + " | ".join(COLUMNS.values()) + " | minutes |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for row, runs in results.items():
        cells = [_cell([run[name] for run in runs]) for name in (*COLUMNS, "minutes")]
        lines.append(f"| {row} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    spread_ = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread_}"


if __name__ == "__main__":
    main()
