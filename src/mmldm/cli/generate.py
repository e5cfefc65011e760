"""Commands that use a model: `generate`, `reconstruct`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmldm.cli.films import NOTED_DIFFERENCE, Films, GivenFile, note_joins, picture_differences
from mmldm.cli.terminal import (
    DeviceOption,
    ModelOption,
    ProgressLine,
    QualityOption,
    note,
    require_writable,
    silence_diffusers,
)
from mmldm.errors import UserError

if TYPE_CHECKING:
    from mmldm.media.reader import Windows
    from mmldm.pipelines.sounding_video import SoundingVideoPipeline
    from mmldm.types import ClipSpec

BUNDLED = Path(__file__).parents[1] / "assets" / "impacts"
"""The model that comes with the package."""
BATCH = 8
"""Clips in memory at once."""
NOTED_REST = 0.1
"""Seconds of a given file beyond the clip that are worth a note."""
SecondsOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1e6,
        help="Length of the clips. Default: of what is given, else of the model's window.",
    ),
]
OutOption = Annotated[Path, typer.Option(help="Folder for the mp4 files and the sheet.")]
DecoderStepsOption = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Signal decoder steps. Default: the quality's.")
]


def generate(
    model: ModelOption = None,
    out: OutOption = Path("out"),
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", min=1, help="Clips.")] = 4,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Clip i is made from seed + i.")] = 0,
    audio: Annotated[
        Path | None, typer.Option(help="Audio-to-video: a sound file, or a video with sound.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="Video-to-audio: a video, with or without sound.")
    ] = None,
    start: Annotated[
        float, typer.Option(min=0, max=1e6, help="Second of the given file where the clip starts.")
    ] = 0,
    class_name: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Generate one class.")
    ] = None,
    quality: QualityOption = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Generator steps. Default: the quality's.")
    ] = None,
    decoder_steps: DecoderStepsOption = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            min=-100,
            max=100,
            help="How strongly sound, picture and class follow each other; 1 is no guidance.",
        ),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Sampler, for example ddim, dpm++, unipc.")
    ] = None,
    seconds: SecondsOption = None,
    at_model_rate: Annotated[
        bool,
        typer.Option(
            "--at-model-rate",
            help="Write what is given as the model reads it, not as it is in its file.",
        ),
    ] = False,
    device: DeviceOption = None,
) -> None:
    """Generates sounding video of any length: jointly, from a given sound, or sound for a given picture."""
    given = audio or video
    if audio is not None and video is not None:
        raise UserError("give --audio or --video, not both: the other one is generated.")
    if start and given is None:
        raise UserError("--start is a second of the file given by --audio or --video; give one.")
    if at_model_rate and given is None:
        raise UserError("--at-model-rate is for what --audio or --video gives; give one.")
    require_writable(out)
    started = time.monotonic()

    from mmldm.pipelines.outliers import Watch
    from mmldm.pipelines.request import frames_in

    pipeline = load_model(model, device)
    if class_name is not None and not pipeline.class_names:
        raise UserError("this model was trained without classes: leave --class out.")
    spec = pipeline.clip_spec
    frames = spec.num_frames if seconds is None else frames_in(seconds, spec)
    if given is None and frames > spec.num_frames:
        note_joins(pipeline)

    # What is given, from its file: a sound in parts (s,), or frames in parts (t,3,H,W).
    asked: dict[str, Any] = {"seconds": spec.duration if seconds is None else seconds}
    source: GivenFile | None = None
    with ProgressLine() as line:
        if given is not None:
            source = GivenFile(given, "audio" if audio else "video", spec, start, seconds)
            source.say_what_is_used()
            if source.claimed is None or source.claimed > spec.duration + NOTED_REST:
                note_joins(pipeline)
            parts = source.parts(
                lambda read, claimed: line.brief("seconds read", int(read), int(claimed))
            )
            watch = Watch(pipeline.outlier_distances, "audio" if audio else "video", spec.duration)
            asked = (
                {"audio": watch.passing(part.waveform for part in parts)}
                if audio
                else {"frames": watch.passing(part.frames for part in parts)}
            )

        # Files are named after the task, what was given and the class.
        task = "a2v" if audio is not None else "v2a" if video is not None else "joint"
        words = [task, *([given.stem] if given else []), *([class_name] if class_name else [])]
        name = "_".join([*words, str(seed)]).replace("/", "_")
        pieces = pipeline.pieces(
            num_samples,
            **asked,
            class_labels=class_name,
            quality=quality,
            seed=seed,
            batch_size=BATCH,
            guidance_scale=guidance,
            num_inference_steps=steps,
            decoder_steps=decoder_steps,
            scheduler=scheduler,
            progress=line.brief,
        )
        films = Films(out, name, spec, source, keep_original=not at_model_rate)
        films.write(pieces)

    # What is given may be unlike all that the model knows: it is used all the same, and that is said.
    if source is not None:
        source.say(watch.sentences(source.path.name))
    seeds = range(seed, seed + num_samples)
    drawn = pipeline.drawn_classes(seeds) if task == "joint" and class_name is None else None
    # A class that was not asked for is the seed's.
    kinds = [
        "" if drawn is None else f", {pipeline.class_names[drawn[i]]}" for i in range(len(seeds))
    ]
    titles = [f"{', '.join(words)}{kinds[i]}, seed {seed + i}" for i in range(num_samples)]
    sheet = films.save_sheet(titles)
    for file in films.files:
        typer.echo(file)
    typer.echo(f"contact sheet: {sheet}")
    count = len(films.files)
    typer.echo(f"{count} clip{'s' * (count > 1)} in {time.monotonic() - started:.1f} s")


def reconstruct(
    clip: Annotated[Path, typer.Argument(help="A video with sound.")],
    model: ModelOption = None,
    vae: Annotated[
        str | None,
        typer.Option(help="Only this image VAE (folder, file or hub name), without a model."),
    ] = None,
    size: Annotated[
        int, typer.Option(min=32, max=2048, help="With --vae: height and width, a multiple of 32.")
    ] = 256,
    out: OutOption = Path("out"),
    start: Annotated[
        float, typer.Option(min=0, max=1e6, help="Second of the file where the clip starts.")
    ] = 0,
    decoder_steps: DecoderStepsOption = None,
    device: DeviceOption = None,
) -> None:
    """Shows what an autoencoder keeps of a clip: both side by side, PSNR and spectrogram error."""
    if model is not None and vae is not None:
        raise UserError("give --model or --vae, not both.")
    if size % 32:
        raise UserError(f"--size {size} is not a multiple of 32, which image VAEs need.")
    require_writable(out)

    from mmldm.evaluation.reconstruction import fidelity, side_by_side, through_image_vae, vae_spec
    from mmldm.media.spectrogram import AudioImage
    from mmldm.pipelines.decoding import save_clips
    from mmldm.pipelines.outliers import sentences
    from mmldm.pipelines.request import given_clips

    # What is kept: by an image VAE alone, or by a model's whole autoencoder.
    if vae is not None:
        from mmldm.models.image_vae import load_image_vae
        from mmldm.training.distributed import choose_device

        codec, spec = load_image_vae(vae).to(choose_device(device)), vae_spec(size)
        original = _window(clip, start, spec).clip(0, spec)
        kept = through_image_vae(codec, original, spec)
    else:
        pipeline = load_model(model, device)
        spec = pipeline.clip_spec
        original = _window(clip, start, spec).clip(0, spec)
        kept = pipeline.reconstruct(original, decoder_steps=decoder_steps)
        distances = pipeline.outlier_distances(given_clips(original, spec))
        for sentence in sentences(distances, clip.name, spec.duration):
            note(sentence)

    numbers = fidelity(kept, original, AudioImage(spec))
    name = f"reconstruction_{clip.stem}"
    # Each clip, both on a sheet, and both side by side in one film.
    *files, sheet = save_clips([original, kept], out, name, ["original", "reconstruction"])
    both = side_by_side(original, kept).save(out / f"{name}_side_by_side.mp4")
    typer.echo(f"frames: PSNR {numbers.psnr:.2f} dB")
    typer.echo(f"sound:  mean log-mel error {numbers.mel_error:.2f} dB")
    typer.echo(f"original: {files[0]}")
    typer.echo(f"reconstruction: {files[1]}")
    typer.echo(f"original left, reconstruction right: {both}")
    typer.echo(f"contact sheet: {sheet}")


def _window(path: Path, start: float, spec: ClipSpec) -> Windows:
    """The window of a given file, after a note on standard error for whatever is not as asked."""
    from mmldm.media.reader import read_windows

    windows = read_windows(path, [start], spec)
    for sentence in (*windows.notes, *_differences(windows, start, spec)):
        note(sentence)
    return windows


def _differences(windows: Windows, start: float, spec: ClipSpec) -> Iterator[str]:
    """Which part of a given file is used, and how its picture is read."""
    # Time: where the clip starts, and how much of a longer file is left.
    begins, length = windows.starts.item(), windows.length
    if abs(begins - start) > NOTED_DIFFERENCE:
        yield f"the clip starts at {begins:.3f} s, at the source frame nearest to {start:g} s"
    if length is not None and length > spec.duration + NOTED_REST:
        part = f"{spec.duration:g} s of {length:.1f} s are used"
        if start:
            yield f"{part}, from {begins:.3f} s on"
        else:
            yield f"the first {part}; --start takes another part"
    yield from picture_differences(windows.size, windows.fps, spec)


def load_model(model: str | None, device: str | None) -> SoundingVideoPipeline:
    """The model of a model folder, a run folder or a hub name, silent and on its device."""
    from mmldm.pipelines.sounding_video import SoundingVideoPipeline
    from mmldm.training.distributed import choose_device

    # A device that is not here is told before a model is read.
    silence_diffusers()
    chosen = choose_device(device)
    if model is None and not BUNDLED.is_dir():
        raise UserError("the bundled model is not in this installation: name one with --model.")

    # A run folder has its model in distilled/ or model/, and before that in its newest checkpoint.
    name = str(BUNDLED) if model is None else model
    if (Path(name) / "manifest.jsonl").is_file():
        return _of_run(Path(name)).to(chosen)
    if (Path(name) / "model" / "model_index.json").is_file():
        name = str(Path(name) / "model")
    # What is not here may be on the hub; its error says in brackets what only a programmer reads.
    try:
        pipeline = SoundingVideoPipeline.from_pretrained(name)
    except UserError as error:
        if Path(name).exists() or error.__cause__ is None:
            raise
        reason = str(error.__cause__).partition(" (")[0]
        raise UserError(
            f"{name} is neither a folder here nor a model that the hub gave us ({reason})."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(chosen)


def _of_run(run: Path) -> SoundingVideoPipeline:
    """The model of a run folder, finished or not; what is taken is said where it could be something else."""
    from mmldm.pipelines.sounding_video import SoundingVideoPipeline
    from mmldm.training.unfinished import finished_model, newer_step, newest_pipeline

    finished, step = finished_model(run), newer_step(run)
    if finished is not None and (step is None or finished.name == "distilled"):
        if finished.name == "distilled":
            newer = "" if step is None else f", made before step {step} of the generator"
            note(f"{finished} is taken: the model with its students{newer}")
        pipeline = SoundingVideoPipeline.from_pretrained(finished)
    else:
        pipeline, step = newest_pipeline(run)
        note(f"{run} is not finished: its generator's average weights at step {step} are taken")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
