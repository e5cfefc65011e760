"""Compares a vocoder with Griffin-Lim on held-out clips of the impacts world: the table of docs/vocoder.md.

    python runs/measure_vocoder.py CLIPS VOCODER [--model MODEL] [--clips 96]

CLIPS is a folder of `mmldm synthesize`, or the manifest.jsonl of a training run on one; VOCODER a folder,
such as RUN/vocoder/export. Two kinds of spectrograms are turned into sound: those of the clips themselves,
and those that MODEL (default: the bundled one) makes of the clips' latents. Onsets are compared with the
true times beside the clips.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmldm.cli.generate import BUNDLED
from mmldm.data.clips import spread
from mmldm.data.manifest import Manifest
from mmldm.data.scan import scan
from mmldm.evaluation.events import detect_onsets, lags
from mmldm.evaluation.reconstruction import mel_error, spectral_distance
from mmldm.media.reader import read_clip
from mmldm.media.spectrogram import AudioImage
from mmldm.models.image_codec import ImageCodec
from mmldm.models.pretrained_vocoder import load_vocoder
from mmldm.pipelines.decoding import decode_to_image_latents
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.pipelines.vocoding import check_vocoder, sound
from mmldm.types import AV
from mmldm.worlds.impacts.clips import true_impacts

TOLERANCE = 0.05
BATCH = 8
HEAD = (
    "| | convergence | log magnitude, Np | mel error, dB | recall | precision | timing sd, ms "
    "| offset, ms | real-time factor |"
)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source", type=Path, metavar="CLIPS", help="folder or manifest.jsonl")
    parser.add_argument("vocoder", metavar="VOCODER")
    parser.add_argument("--model", type=Path, default=BUNDLED)
    parser.add_argument("--clips", type=int, default=96)
    options = parser.parse_args()

    # The real-time factor is that of one thread.
    torch.set_num_threads(1)
    pipeline = SoundingVideoPipeline.from_pretrained(options.model)
    spec = pipeline.clip_spec
    vocoder = load_vocoder(options.vocoder, spec)
    check_vocoder(vocoder, spec)
    is_manifest = options.source.is_file()
    manifest = Manifest.load(options.source) if is_manifest else scan(options.source, spec)
    held_out = manifest.split("held_out")
    files = [manifest.file(held_out[i]) for i in spread(options.clips, len(held_out))]
    truths = [true_impacts(file) for file in files]

    # The clips' own spectrograms, and those that the model makes of their latents.
    clips = [read_clip(file, 0.0, spec) for file in files]
    reference = torch.stack([clip.waveform for clip in clips])
    frames = torch.stack([clip.frames for clip in clips])
    audio_image = AudioImage(spec)
    own = audio_image.image(reference)
    decoded = torch.cat(
        [
            reconstruct(pipeline, *media)
            for media in zip(batches(reference), batches(frames), strict=True)
        ]
    )

    print(
        f"{len(clips)} held-out clips, onsets within {1000 * TOLERANCE:.0f} ms of the true times\n"
    )
    print(HEAD, "|---" * 9 + "|", sep="\n")
    print(row("the clips themselves", reference, reference, audio_image, truths, None))
    for kind, images in {"own spectrogram": own, "decoded spectrogram": decoded}.items():
        ways: dict[str, Callable[[Tensor], Tensor]] = {
            "Griffin-Lim": audio_image.waveform,
            "vocoder": lambda image: sound(image, audio_image, vocoder),
        }
        for name, way in ways.items():
            way(images[:1])  # the first call chooses algorithms
            start = time.process_time()
            made = torch.cat([way(image) for image in batches(images)])
            seconds = time.process_time() - start
            factor = seconds / (len(clips) * spec.duration)
            print(row(f"{kind}, {name}", made, reference, audio_image, truths, factor))


def batches(clips: Tensor) -> tuple[Tensor, ...]:
    """Parts of waveforms, frames or images (N,...), of 8 clips each."""
    return clips.split(BATCH)


def reconstruct(pipeline: SoundingVideoPipeline, waveform: Tensor, frames: Tensor) -> Tensor:
    """Audio images (B,1,3,H,W) of what the model keeps of waveforms (B,S) and frames u8 (B,T,3,H,W)."""
    latents = pipeline.encode(AV(waveform, frames))
    image_latents = decode_to_image_latents(
        pipeline.autoencoder,
        pipeline.decoder_scheduler,
        latents,
        num_frames=1,
        steps=pipeline.config.decoder_steps,
        generators=[torch.Generator().manual_seed(i) for i in range(len(waveform))],
    )
    codec = ImageCodec(pipeline.vae, pipeline.autoencoder.image_statistics)
    return codec.decode(image_latents.audio, "audio")


def row(
    name: str,
    made: Tensor,
    reference: Tensor,
    audio_image: AudioImage,
    truths: list[np.ndarray],
    real_time_factor: float | None,
) -> str:
    """One line of the table: waveforms (N,S) as made, beside the clips' own.

    Args:
        truths: Seconds of the impacts of each clip.
        real_time_factor: CPU seconds for a second of sound; None: nothing was made.
    """
    distance = spectral_distance(made, reference)
    onsets = [detect_onsets(waveform, audio_image.spec.sample_rate) for waveform in made]
    late = [1000 * lags(o, t, TOLERANCE) for o, t in zip(onsets, truths, strict=True)]
    errors = np.concatenate(late)
    numbers = [
        f"{distance.convergence.mean():.3f}",
        f"{distance.log_magnitude.mean():.3f}",
        f"{mel_error(made, reference, audio_image).mean():.2f}",
        f"{len(errors) / sum(map(len, truths)):.3f}",
        f"{len(errors) / max(sum(map(len, onsets)), 1):.3f}",
        f"{errors.std():.1f}",
        f"{errors.mean():+.1f}",
        "-" if real_time_factor is None else f"{real_time_factor:.4f}",
    ]
    return f"| {name} | {' | '.join(numbers)} |"


if __name__ == "__main__":
    main()
