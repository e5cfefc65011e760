"""The command that makes clips: `generate`; and where all commands find their model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmldm.cli.checks import check_class, require_known, require_media
from mmldm.cli.films import GivenFile, note_joins
from mmldm.cli.produce import Maker, Making, Order, produce, produce_again, sampling_of
from mmldm.cli.terminal import (
    DeviceOption,
    ModelOption,
    NameOption,
    PrecisionOption,
    ProgressLine,
    QualityOption,
    note,
    require_writable,
    silence_diffusers,
)
from mmldm.errors import UserError
from mmldm.pipelines.published import BUNDLED_NAME, published

if TYPE_CHECKING:
    from mmldm.pipelines.outliers import Watch
    from mmldm.pipelines.provenance import Command
    from mmldm.pipelines.sounding_video import SoundingVideoPipeline
    from mmldm.types import Modality

NOTED_REST = 0.1
"""Seconds of a given file beyond the clip that are worth a note."""
OF_A_CLIP = ("model", "audio", "video", "clip", "out", "name", "device", "again")
"""Options that go with --again; all others stand in the clip."""
SecondsOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1e6,
        help="Length of the clips. Default: of what is given, else of the model's window.",
    ),
]
OutOption = Annotated[Path, typer.Option(help="Folder in which a folder for the clips is made.")]
DecoderStepsOption = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Signal decoder steps. Default: the quality's.")
]


def generate(
    context: typer.Context,
    model: ModelOption = None,
    out: OutOption = Path("out"),
    name: NameOption = None,
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
    again: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Make one clip once more: an mp4 of generate, extend or retake, or the JSON beside it.",
        ),
    ] = None,
    clip: Annotated[
        Path | None,
        typer.Option(help="With --again: where the clip is that was extended or retaken."),
    ] = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
) -> None:
    """Generates sounding video of any length: jointly, from a given sound, or sound for a given picture."""
    options: dict[str, Path | None] = {"audio": audio, "video": video, "clip": clip}
    given = {option: path for option, path in options.items() if path is not None}
    if again is not None:
        from mmldm.cli.extend import extended, retaken

        _refuse_beside_again(context)
        makers: dict[Command, Maker] = {
            "generate": generated,
            "extend": extended,
            "retake": retaken,
        }
        produce_again(again, makers, given, model=model, out=out, name=name, device=device)
        return

    # Mistakes are told before a model is loaded.
    if clip is not None:
        raise UserError("--clip goes with --again; mmldm extend and retake change a clip.")
    if audio is not None and video is not None:
        raise UserError("give --audio or --video, not both: the other one is generated.")
    if start and not given:
        raise UserError("--start is a second of the file given by --audio or --video; give one.")
    if at_model_rate and not given:
        raise UserError("--at-model-rate is for what --audio or --video gives; give one.")
    require_writable(out)
    if audio is not None:
        require_media(audio, "audio")
    if video is not None:
        require_media(video, "video")
    require_known(Path(_path_of(model)), class_name, scheduler)

    task = "a2v" if audio is not None else "v2a" if video is not None else "joint"
    files = list(given.values())
    kind = [class_name] if class_name else []
    order = Order(
        command="generate",
        given=given,
        settings={
            "class": class_name,
            "quality": quality,
            "steps": steps,
            "decoder_steps": decoder_steps,
            "guidance": guidance,
            "scheduler": scheduler,
            "precision": precision,
            "seconds": seconds,
            "start": start or None,
            "at_model_rate": at_model_rate or None,
        },
        seed=seed,
        count=num_samples,
        words=[task, *(file.name for file in files), *kind, str(seed)],
        title=", ".join([task, *(file.stem for file in files), *kind]),
    )
    produce(order, generated, model=model, out=out, name=name, device=device)


def _refuse_beside_again(context: typer.Context) -> None:
    """Raises a UserError for an option that the clip to be made again states itself."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in OF_A_CLIP and source is not None and source.name == "COMMANDLINE":
            option = {"num_samples": "-n", "class_name": "--class"}.get(
                name, f"--{name.replace('_', '-')}"
            )
            raise UserError(f"--again makes a clip as it was made: leave {option} out.")


def generated(
    pipeline: SoundingVideoPipeline,
    order: Order,
    seeds: Sequence[int],
    together: int,
    line: ProgressLine,
) -> Making:
    """Clips from noise, or for a given sound or picture; a `produce.Maker`."""
    from mmldm.pipelines.outliers import Watch
    from mmldm.pipelines.request import frames_in

    spec, settings = pipeline.clip_spec, order.settings
    check_class(settings.get("class"), pipeline.class_names)
    seconds, start = settings.get("seconds"), settings.get("start") or 0.0
    frames = spec.num_frames if seconds is None else frames_in(seconds, spec)
    if not order.given and frames > spec.num_frames:
        note_joins(pipeline)

    # What is given, from its file: a sound in parts (s,), or frames in parts (t,3,H,W).
    asked: dict[str, Any] = {"seconds": spec.duration if seconds is None else seconds}
    source: GivenFile | None = None
    odd = None
    for option, path in order.given.items():
        modality: Modality = "audio" if option == "audio" else "video"
        source = GivenFile(path, modality, spec, start, seconds)
        source.say_what_is_used()
        if source.claimed is None or source.claimed > spec.duration + NOTED_REST:
            note_joins(pipeline)
        parts = source.parts(
            lambda read, claimed: line.brief("seconds read", int(read), int(claimed))
        )
        watch = Watch(pipeline.outlier_distances, modality, spec.duration)
        asked = (
            {"audio": watch.passing(part.waveform for part in parts)}
            if modality == "audio"
            else {"frames": watch.passing(part.frames for part in parts)}
        )
        odd = partial(_say_what_is_odd, source, watch)

    pieces = pipeline.pieces(
        len(seeds),
        **asked,
        **sampling_of(order),
        class_labels=settings.get("class"),
        quality=settings.get("quality"),
        seed=list(seeds),
        batch_size=together,
        progress=line.brief,
    )
    return Making(pieces, source, not settings.get("at_model_rate", False), odd)


def _say_what_is_odd(source: GivenFile, watch: Watch) -> None:
    """What is given may be unlike all that the model knows: it is used all the same, and that is said."""
    source.say(watch.sentences(source.path.name))


def _path_of(model: str | None) -> str:
    """The folder that --model names, or what only a hub may know.

    Raises:
        UserError: A model of ours that is not in this installation.
    """
    name = model or BUNDLED_NAME
    return str(published(name) or name)


def load_model(model: str | None, device: str | None) -> SoundingVideoPipeline:
    """The model of a model folder, a run folder or a hub name, silent and on its device."""
    from mmldm.pipelines.sounding_video import SoundingVideoPipeline
    from mmldm.training.distributed import choose_device

    # A device that is not here is told before a model is read.
    silence_diffusers()
    chosen = choose_device(device)
    name = _path_of(model)

    # A run folder has its model in distilled/ or model/, and before that in its newest checkpoint.
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
