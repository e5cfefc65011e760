"""Table 3 of the paper: what each part of the autoencoder is worth, at the scale of any recipe.

    python runs/ablation.py RUN [--steps 500] [--seeds 0 1 2] [--added] [--set KEY=VALUE] [--out FOLDER]

RUN is a run folder whose vae job is finished (runs/ablation.sh makes one). The first row has an autoencoder,
and so a decoder, for each modality; the next add the six parts in the paper's order; the others leave out
each one (not with `--added`). All train on the same image latents for the same number of steps,
and are measured on the same held-out clips, sound and picture against the real ones: in the paper's units,
rFVD and rKVD by I3D and rFAD by VGGish where their weights are given, by the networks that ship where not;
and in decibels, detail and sync. The image decoder counts as fine-tuned where the recipe's `vae.pretrained`
was trained further. What exists in the output folder is kept, so an interrupted table goes on where it
stopped.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from mmldm.cli.terminal import ProgressLine
from mmldm.config import RunConfig, load_config
from mmldm.data.clips import WindowDataset, spread
from mmldm.data.latents import Splits
from mmldm.data.loader import Failed
from mmldm.data.manifest import Manifest
from mmldm.diffusion.schedules import ScheduleConfig, make_scheduler
from mmldm.evaluation.features import Findings, Measure, build_measures
from mmldm.evaluation.metrics import DISTANCES
from mmldm.evaluation.protocol import find_protocol
from mmldm.evaluation.reconstruction import mel_error, psnr, through_image_vae
from mmldm.evaluation.sets import ClipSet
from mmldm.files import write_json, write_text
from mmldm.media.clip import Clip, images_to_frames
from mmldm.media.spectrogram import AudioImage
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_codec import ImageCodec
from mmldm.models.image_vae import load_image_vae
from mmldm.models.pretrained import initialise_decoder
from mmldm.pipelines.decoding import decode_to_image_latents, encode_media
from mmldm.strict import override, parse
from mmldm.training.distributed import Process, choose_device
from mmldm.training.jobs.autoencoder import AutoencoderStage
from mmldm.training.loop import train
from mmldm.training.run import Run
from mmldm.training.run_folder import RunFolder
from mmldm.types import AV, MODALITIES, Latents, Modality
from mmldm.worlds.impacts.metrics import numbers_of
from mmldm.worlds.impacts.motion import background

PROMPT, IMAGE_DECODER, CRITIC = "modality prompt", "fine-tuned image decoder", "adversarial loss"
PARTS: dict[str, tuple[str, ...]] = {
    PROMPT: ("autoencoder.model.prompt_tokens=0",),
    "pooled latent": ("autoencoder.model.with_pooled_latent=false",),
    "class embedding": ("autoencoder.model.with_class_token=false",),
    "semantic features": ("autoencoder.model.with_semantics=false",),
    IMAGE_DECODER: (),
    CRITIC: ("autoencoder.critic=null", "autoencoder.loss.adversarial=0"),
}
"""The paper's parts in the order of its table, and what switches each of them off."""
SMALL_CRITIC = (
    "autoencoder.loss.adversarial=0.1",
    "autoencoder.critic={start_step: 0, learning_rate: 0.0002, max_noise: 1.0, "
    "model: {patch_size: 4, channels: 32, multipliers: [1, 2], attention_levels: [1]}}",
)
"""The critic of recipes that have none."""
DISTANCES_OF = ("fvd", "kvd", "fad", "frame-fd", "fad-yamnet", "kad")
"""The paper's, and of networks that ship; each of those whose weights are there."""
TITLES = {"fvd": "rFVD", "kvd": "rKVD", "fad": "rFAD, VGGish"}
COLUMNS = {
    **{
        metric.name: TITLES.get(metric.name, f"r, {metric.title}")
        for metric in DISTANCES
        if metric.name in DISTANCES_OF
    },
    "psnr": "frames, dB",
    "detail": "detail",
    "mel_error": "sound, dB",
    "recall": "recall 50 ms",
    "precision": "precision 50 ms",
    "class_accuracy": "class right",
}
BATCH = 16
RULES = find_protocol("default")


def rows(fine_tuned: bool, added_alone: bool = False) -> list[tuple[str, ...]]:
    """The parts of each row: none, then added one by one, then one left out of all but the critic.

    Args:
        fine_tuned: Whether there is an image decoder that was trained further.
        added_alone: Without the rows that leave one out.
    """
    parts = [part for part in PARTS if part != IMAGE_DECODER or fine_tuned]
    most = parts[:-1]
    added = [tuple(parts[:count]) for count in range(len(parts) + 1)]
    left_out = [] if added_alone else [tuple(p for p in most if p != part) for part in most]
    return list(dict.fromkeys(added + left_out))


def switched(config: RunConfig, parts: tuple[str, ...], steps: int | None, seed: int) -> RunConfig:
    """The recipe with these parts on and the others off; everything else as it was."""
    data: dict[str, Any] = config.model_dump(mode="json")
    job = data["autoencoder"]
    steps = steps or job["train"]["steps"]
    job["train"].update(steps=steps, validate_every=0, preview_every=0, save_every=steps)
    data["seed"] = seed
    if CRITIC in parts:
        for change in () if job["critic"] else SMALL_CRITIC:
            override(data, change)
        job["critic"]["start_step"] = steps // 2
    # A decoder for each modality has a prompt to attend to, too; it always says the same there.
    for part in PARTS.keys() - set(parts or (PROMPT,)):
        for change in PARTS[part]:
            override(data, change)
    return parse(RunConfig, data, " + ".join(parts))


class OneModalityStage(AutoencoderStage):
    """Trains the autoencoder of one modality: every clip lacks the other, so that the decoder is its own.

    Args:
        modality: That it has.
        arguments: Of `AutoencoderStage`.
    """

    def __init__(self, modality: Modality, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.modality = modality

    def batches(self, start_step: int, rank: int, world: int) -> Iterator[Latents]:
        own = MODALITIES.map(lambda name: name == self.modality)
        for batch in super().batches(start_step, rank, world):
            present = batch.present.map(torch.logical_and, own.map(torch.tensor))
            yield batch._replace(present=present)

    def fingerprint(self) -> dict[str, Any]:
        return {**super().fingerprint(), "modality": self.modality}


@dataclass
class Bench:
    """What all rows share: the image latents they train on and the held-out clips that judge them."""

    folder: RunFolder
    out: Path
    caches: Splits
    clips: list[Clip]
    labels: list[int]
    device: torch.device
    measures: list[Measure]
    real: dict[str, list[Findings]]

    @classmethod
    def open(
        cls, config: RunConfig, folder: RunFolder, out: Path, count: int, weights: Path | None
    ) -> "Bench":
        """Encodes the run's clips where that is not done, and reads and measures `count` held-out ones."""
        manifest, device = Manifest.load(folder.manifest), choose_device(None)
        with ProgressLine() as line:
            run = Run(config, folder, manifest, Process(device=device), line.console, line)
            caches = run.image_latents()
        for sentence in run.notes:
            print(sentence)
        # Held-out clips, evenly spread; what cannot be read is left out.
        windows = WindowDataset(manifest, config.clip, "held_out", config.seed)
        items = [windows[(0, i)] for i in spread(count, len(windows))]
        found = [item for item in items if not isinstance(item, Failed)]
        rates = config.clip.fps, config.clip.sample_rate
        clips = [Clip(item.frames, item.waveforms, *rates) for item in found]
        labels = [int(item.class_labels) for item in found]
        # Networks that say how far reconstructions are: those that are there.
        wanted = [metric.measure for metric in DISTANCES if metric.name in DISTANCES_OF]
        nobody = ClipSet("real", "held-out clips", ())
        measures = build_measures(wanted, nobody, RULES, _quiet, weights, device)
        for sentence in measures.missing.values():
            print(f"not measured: {sentence}")
        real = {measure.name: found_by(measure, clips) for measure in measures.built}
        return cls(folder, out, caches, clips, labels, device, measures.built, real)

    def vae(self, config: RunConfig, fine_tuned: bool) -> Any:
        """The run's image VAE, or the one it was fine-tuned from."""
        if fine_tuned or config.vae.pretrained is None:
            return load_image_vae(self.folder.export("vae"))
        return load_image_vae(config.vae.pretrained)

    def ceiling(self, config: RunConfig, fine_tuned: bool) -> dict[str, float]:
        """What the image VAE alone keeps."""
        vae = self.vae(config, fine_tuned).eval()
        return self.judge(
            [through_image_vae(vae, clip, config.clip) for clip in self.clips], config
        )

    def row(self, config: RunConfig, parts: tuple[str, ...], seed: int) -> dict[str, float]:
        """One row of the table with one seed: trained and measured, or read where that is done."""
        fine_tuned = IMAGE_DECODER in parts or config.vae.pretrained is None
        # Without a critic no pixel is decoded in training: both image decoders judge one autoencoder.
        seen = parts if CRITIC in parts else [part for part in parts if part != IMAGE_DECODER]
        name = "+".join(seen or ("a decoder for each modality",))
        target = self.out / f"{name.replace(' ', '-')}_seed-{seed}"
        result = target / ("tuned.json" if fine_tuned else "pretrained.json")
        if not result.is_file():
            started = time.perf_counter()
            # One autoencoder, or one for each modality.
            owners: dict[Path, Modality | None] = {target: None}
            if not parts:
                owners = {target / modality: modality for modality in MODALITIES}
            new = [
                self.train(config, fine_tuned, folder, owner) for folder, owner in owners.items()
            ]
            minutes = {"minutes": (time.perf_counter() - started) / 60} if any(new) else {}
            write_json(result, {**self.measure(config, fine_tuned, list(owners)), **minutes})
        values: dict[str, float] = json.loads(result.read_text())
        return values

    def train(
        self, config: RunConfig, fine_tuned: bool, target: Path, modality: Modality | None
    ) -> bool:
        """Trains the autoencoder, or that of one modality, into `target`; whether it was not done yet."""
        if (target / "export").is_dir():
            return False
        arguments = config, self.vae(config, fine_tuned), self.caches, self.device
        stage = (
            AutoencoderStage(*arguments)
            if modality is None
            else OneModalityStage(modality, *arguments)
        )
        if config.autoencoder.decoder_init is not None:
            initialise_decoder(stage.autoencoder, config.autoencoder.decoder_init)
        job = config.autoencoder.train
        train(stage, job, target, seed=config.seed, console=Console(stderr=True))
        return True

    @torch.no_grad()
    def measure(self, config: RunConfig, fine_tuned: bool, folders: list[Path]) -> dict[str, float]:
        """Held-out clips through the trained autoencoder; of two folders, sound through the first's."""
        models = [
            MultiModalAutoencoder.from_pretrained(folder / "export").to(self.device).eval()
            for folder in folders
        ]
        vae = self.vae(config, fine_tuned).to(self.device).eval()
        audio_image = AudioImage(config.clip).to(self.device)
        scheduler = make_scheduler(parse(ScheduleConfig, config.autoencoder.schedule, "schedule"))
        made: list[Clip] = []
        right: list[bool] = []
        for start in range(0, len(self.clips), BATCH):
            # Clips to latents, and the class that the shared semantics tell.
            clips = self.clips[start : start + BATCH]
            media: AV[Any] = _stack(clips).map(lambda x: x.to(self.device))
            decoded: list[AV[Tensor]] = []
            for model in models:
                codec = ImageCodec(vae, model.image_statistics).to(self.device)
                latents: AV[Any] = encode_media(model, codec, audio_image, media)
                if len(models) == 1 and model.config.num_classes:
                    heard = model.class_logits(model.semantics(latents)).argmax(1).tolist()
                    right += [a == b for a, b in zip(heard, self.labels[start:], strict=False)]
                # Latents to images.
                generators = [torch.Generator().manual_seed(start + i) for i in range(len(clips))]
                image_latents = decode_to_image_latents(
                    model, scheduler, latents, num_frames=config.clip.num_frames,
                    steps=config.sample.decoder_steps, generators=generators,
                )  # fmt: skip
                decoded.append(image_latents.map(codec.decode, MODALITIES))
            # Images of each modality's own decoder to clips; the sound by Griffin-Lim.
            images = AV(decoded[0].audio, decoded[-1].video)
            waveforms = audio_image.waveform(images.audio.clamp(-1, 1)).cpu()
            pictures = images_to_frames(images.video).cpu()
            made += [
                Clip(picture, sound, clip.fps, clip.sample_rate)
                for picture, sound, clip in zip(pictures, waveforms, clips, strict=True)
            ]
        return {
            **self.judge(made, config),
            **({"class_accuracy": statistics.fmean(right)} if right else {}),
        }

    def judge(self, made: list[Clip], config: RunConfig) -> dict[str, float]:
        """Closeness to the real clips, and sync by pixels and waveform alone."""
        kept, real = _stack(made), _stack(self.clips)
        sync = numbers_of(made, empty=background(list(real.video)))
        found = {measure.name: found_by(measure, made) for measure in self.measures}
        values = {
            metric.name: metric.values(found[metric.measure], self.real[metric.measure], RULES)[
                0
            ].value
            for metric in DISTANCES
            if metric.name in DISTANCES_OF and metric.measure in found
        }
        return {
            **{name: value for name, value in values.items() if value is not None},
            "psnr": float(psnr(kept.video, real.video).mean()),
            "detail": _gradients(kept.video) / _gradients(real.video),
            "mel_error": float(mel_error(kept.audio, real.audio, AudioImage(config.clip)).mean()),
            **{name: sync[f"sync-{name}-50"].value or 0.0 for name in ("recall", "precision")},
        }


def found_by(measure: Measure, clips: list[Clip]) -> list[Findings]:
    """What a measure finds in each clip, a batch at a time."""
    return [found for i in range(0, len(clips), BATCH) for found in measure(clips[i : i + BATCH])]


def _quiet(what: str, done: int, total: int) -> None:
    """No progress: nothing is built that takes long."""


def _stack(clips: list[Clip]) -> AV[Tensor]:
    """Waveforms (B,S) and frames u8 (B,T,3,H,W) of clips of one length."""
    return AV(
        torch.stack([clip.waveform for clip in clips]), torch.stack([clip.frames for clip in clips])
    )


def _gradients(frames: Tensor) -> float:
    """Mean absolute difference of neighbouring pixels of frames (B,T,3,H,W): less where they are blurred."""
    pixels = frames.float()
    across, down = pixels.diff(dim=-1).abs().mean(), pixels.diff(dim=-2).abs().mean()
    return float(across + down)


def table(results: dict[tuple[str, ...], list[dict[str, float]]], steps: int | None) -> str:
    """Markdown: a tick for each part; mean over seeds, and the standard deviation where there are several."""
    parts = list(dict.fromkeys(part for row in results for part in row))
    seeds = max(len(runs) for runs in results.values())
    columns = {
        k: v
        for k, v in COLUMNS.items()
        if any(k in run for runs in results.values() for run in runs)
    }
    # Without any part each modality has a decoder of its own.
    lines = [
        f"| {' | '.join([*parts, *columns.values()])} |",
        "|---" * (len(parts) + len(columns)) + "|",
    ]
    for row, runs in results.items():
        ticks = ["✓" if part in row else "" for part in parts]
        cells = [_cell([run[name] for run in runs if name in run]) for name in columns]
        lines.append(f"| {' | '.join(ticks + cells)} |")
    return "\n".join([*lines, "", f"{steps} steps, {seeds} seeds (mean ± standard deviation)."])


def _cell(values: list[float]) -> str:
    spread_ = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread_}" if values else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, help="of each row; default: the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    parser.add_argument("--clips", type=int, default=96, help="held-out clips measured")
    parser.add_argument("--added", action="store_true", help="the paper's seven rows alone")
    parser.add_argument("--out", type=Path, help="default: RUN/ablation")
    parser.add_argument("--weights", type=Path, help="folder of the networks' weights")
    options = parser.parse_args()
    folder, out = RunFolder(options.run), options.out or options.run / "ablation"

    # What the table has as its ceiling: the image VAE without an autoencoder.
    config = load_config(folder.config, options.changes)
    bench = Bench.open(config, folder, out, options.clips, options.weights)
    pretrained = config.vae.pretrained is not None and config.vae.train is not None
    for fine_tuned in (False, True) if pretrained else (True,):
        print("image VAE alone, fine-tuned:", fine_tuned, bench.ceiling(config, fine_tuned))

    # One row after the other, and all of them with each seed; the table so far is written after each.
    results: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for seed in options.seeds:
        for parts in rows(pretrained, options.added):
            changed = switched(config, parts, options.steps, seed)
            result = bench.row(changed, parts, seed)
            results.setdefault(parts, []).append(result)
            print(
                seed, *parts, {name: round(value, 3) for name, value in result.items()}, flush=True
            )
            write_text(out / "table.md", table(results, changed.autoencoder.train.steps) + "\n")
    print((out / "table.md").read_text())


if __name__ == "__main__":
    main()
