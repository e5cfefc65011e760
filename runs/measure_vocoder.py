"""Compares a vocoder with Griffin-Lim on held-out sounds: the tables of docs/vocoder.md.

    python runs/measure_vocoder.py SOURCE ... [--vocoder FOLDER] [--model MODEL] [--rate 44100] [--clips 96]

A SOURCE is a folder of `mmldm synthesize`, the manifest.jsonl of a run, or a folder of any recordings, video
or sound. Their spectrograms are turned back into sound; with MODEL also those that its image VAE gives
back. Hits are the true ones where a source knows them, else those that are heard.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmldm.data.clips import spread
from mmldm.data.folder import find_files
from mmldm.data.manifest import Manifest
from mmldm.errors import MediaError
from mmldm.evaluation.events import detect_onsets
from mmldm.evaluation.reconstruction import mel_error, quiet_difference, spectral_distance
from mmldm.media.reader import read_audio
from mmldm.media.spectrogram import AudioImage
from mmldm.models.image_codec import ImageCodec
from mmldm.models.pretrained_vocoder import load_vocoder
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.pipelines.vocoding import check_vocoder, sound
from mmldm.training.recipe import fitting_spectrogram, tiny_recipe
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.clips import true_impacts
from mmldm.worlds.impacts.hits import hear

ITERATIONS = 8, 16, 32
LEAD = 0.2
"""Seconds of silence before a recording, or its first sound would be no onset."""
BATCH = 8
HEAD = (
    "| | attack, excess, ms | before, dB | mel error, dB | convergence | log magnitude, Np "
    "| quiet cells, dB | CPU ms a clip |"
)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE")
    parser.add_argument("--vocoder", metavar="FOLDER")
    parser.add_argument("--model", type=Path, help="whose image VAE gives spectrograms back, too")
    parser.add_argument(
        "--rate", type=int, help="Hz, with the spectrogram that a recipe has for it"
    )
    parser.add_argument("--clips", type=int, default=96)
    options = parser.parse_args()

    # The clips' sizes: the model's, or the bundled recipe's; at another rate as a recipe is chosen for it.
    torch.set_num_threads(1)  # a clip's cost is that of one thread
    pipeline = SoundingVideoPipeline.from_pretrained(options.model) if options.model else None
    spec = pipeline.clip_spec if pipeline else tiny_recipe().clip
    if options.rate:
        spec = spec.model_copy(update={"sample_rate": options.rate})
        spec = spec.model_copy(update={"spectrogram": fitting_spectrogram(spec)})
    audio_image = AudioImage(spec)

    # Who makes sound of a spectrogram.
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        f"Griffin-Lim, {n} iterations": partial(audio_image.waveform, iterations=n)
        for n in ITERATIONS
    }
    if options.vocoder:
        vocoder = load_vocoder(options.vocoder, spec)
        check_vocoder(vocoder, spec)
        ways["vocoder"] = partial(sound, audio_image=audio_image, vocoder=vocoder)

    for source in options.sources:
        sounds, hits = read(source, spec, options.clips)
        count = sum(map(len, hits))
        print(f"\n{source}: {len(sounds)} clips of {spec.duration:g} s, {count} hits\n")
        print(HEAD, "|---" * 8 + "|", sep="\n")
        print(row("the sounds themselves", sounds, sounds, audio_image, hits, None))
        kinds = {"own": audio_image.image(sounds)}
        if pipeline:
            codec = ImageCodec(pipeline.vae, pipeline.autoencoder.image_statistics)
            back = [codec.decode(codec.encode(x, "audio"), "audio") for x in parts(kinds["own"])]
            kinds["decoded"] = torch.cat(back).clamp(-1, 1)
        for kind, images in kinds.items():
            for name, way in ways.items():
                way(images[:1])  # the first call chooses algorithms
                start = time.process_time()
                made = torch.cat([way(image) for image in parts(images)])
                cost = 1000 * (time.process_time() - start) / len(sounds)
                print(row(f"{kind} spectrogram, {name}", made, sounds, audio_image, hits, cost))


def parts(clips: Tensor) -> tuple[Tensor, ...]:
    """Waveforms or images (N,...) in parts of BATCH clips."""
    return clips.split(BATCH)


def read(source: Path, spec: ClipSpec, count: int) -> tuple[Tensor, list[np.ndarray]]:
    """At most `count` sounds (N,S) of a source, and seconds of the hits of each.

    Of a manifest those that are held out; of a folder all, recordings after LEAD seconds of silence.
    """
    if source.is_file():
        manifest = Manifest.load(source)
        files = [manifest.file(entry) for entry in manifest.split("held_out")]
    else:
        found = find_files(source, allow_missing=True)
        files = [source / listed.path for listed in found.listing]
    sounds, hits, left_out = [], [], 0
    for index in spread(count, len(files)):
        known = files[index].with_suffix(".json").is_file()
        try:
            waveform = read_audio(files[index], spec)
        except MediaError:
            left_out += 1
            continue
        if not known:
            lead = round(LEAD * spec.sample_rate)
            waveform = F.pad(waveform, (lead, 0))[: spec.num_samples]
        sounds.append(waveform)
        hits.append(
            np.asarray(true_impacts(files[index]))
            if known
            else detect_onsets(waveform, spec.sample_rate)
        )
    if left_out:
        print(f"{source}: {left_out} files left out, for their sound cannot be read")
    return torch.stack(sounds), hits


def row(
    name: str,
    made: Tensor,
    reference: Tensor,
    audio_image: AudioImage,
    hits: list[np.ndarray],
    cost: float | None,
) -> str:
    """One line of the table: waveforms (N,S) as made, beside the sounds they should be.

    Args:
        hits: Seconds of each sound's hits, sorted.
        cost: CPU ms for a clip; None: nothing was made.
    """
    rate = audio_image.spec.sample_rate
    heard, wanted = (
        [hear(waveform, rate, onsets) for waveform, onsets in zip(sounds, hits, strict=True)]
        for sounds in (made, reference)
    )
    excess = [ours.attacks - theirs.attacks for ours, theirs in zip(heard, wanted, strict=True)]
    distance = spectral_distance(made, reference)
    numbers = [
        f"{np.nanmedian(np.concatenate(excess)):.2f}",
        f"{np.nanmedian(np.concatenate([h.before for h in heard])):.1f}",
        f"{mel_error(made, reference, audio_image).mean():.3f}",
        f"{distance.convergence.mean():.3f}",
        f"{distance.log_magnitude.mean():.4f}",
        f"{quiet_difference(made, reference, audio_image).nanmean():+.2f}",
        "-" if cost is None else f"{cost:.1f}",
    ]
    return f"| {name} | {' | '.join(numbers)} |"


if __name__ == "__main__":
    main()
