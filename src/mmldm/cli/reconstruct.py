"""The command that shows what an autoencoder keeps of a clip: `reconstruct`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmldm.cli.checks import require_media
from mmldm.cli.generate import NOTED_REST, DecoderStepsOption, OutOption, load_model
from mmldm.cli.terminal import (
    DeviceOption,
    ModelOption,
    NameOption,
    PrecisionOption,
    note,
    require_writable,
)
from mmldm.errors import UserError
from mmldm.pipelines.precision import (
    cast_network,
    choose_precision,
    require_precision,
    sample_in,
    told,
)

if TYPE_CHECKING:
    from mmldm.media.reader import Windows
    from mmldm.types import ClipSpec


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
    name: NameOption = None,
    start: Annotated[
        float, typer.Option(min=0, max=1e6, help="Second of the file where the clip starts.")
    ] = 0,
    decoder_steps: DecoderStepsOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
) -> None:
    """Shows what an autoencoder keeps of a clip: both side by side, PSNR and spectrogram error."""
    if model is not None and vae is not None:
        raise UserError("give --model or --vae, not both.")
    if size % 32:
        raise UserError(f"--size {size} is not a multiple of 32, which image VAEs need.")
    require_precision(precision)
    require_writable(out)
    require_media(clip, None)

    from mmldm.cli.places import Place
    from mmldm.evaluation.reconstruction import fidelity, side_by_side, through_image_vae, vae_spec
    from mmldm.media.sheet import contact_sheet, save_png
    from mmldm.media.spectrogram import AudioImage
    from mmldm.models.image_vae import load_image_vae
    from mmldm.pipelines.outliers import sentences
    from mmldm.pipelines.provenance import Asked, sha256_of_model, sha256_of_parts, source_of
    from mmldm.pipelines.request import given_clips
    from mmldm.training.distributed import choose_device

    # What is kept: by an image VAE alone, or by a model's whole autoencoder.
    settings: dict[str, Any] = {"start": start or None, "decoder_steps": decoder_steps}
    chosen = choose_device(device)
    used = choose_precision(precision, chosen)
    if vae is not None:
        codec, spec = load_image_vae(vae).to(chosen), vae_spec(size)
        original = _window(clip, start, spec).clip(0, spec)
        sha256, settings["size"] = sha256_of_parts({"vae": codec}, {}), size
        cast_network(codec, used)
        kept = through_image_vae(codec, original, spec)
    else:
        pipeline = load_model(model, device)
        spec, sha256 = pipeline.clip_spec, sha256_of_model(pipeline)
        sample_in(pipeline, used)
        original = _window(clip, start, spec).clip(0, spec)
        kept = pipeline.reconstruct(original, decoder_steps=decoder_steps)
        distances = pipeline.outlier_distances(given_clips(original, spec))
        for sentence in sentences(distances, clip.name, spec.duration):
            note(sentence)
    if used != "fp32":
        note(told(used))
        settings["precision"] = used

    # In a place of their own: what is kept alone, beside the original in one film, and both on a sheet.
    asked = Asked(
        command="reconstruct",
        model=vae or model,
        model_sha256=sha256,
        given={"clip": source_of(clip)},
        settings={key: value for key, value in settings.items() if value is not None},
    )
    place = Place(out, ["reconstruction", clip.name], asked, 0, name)
    place.claim()
    numbers = fidelity(kept, original, AudioImage(spec))
    alone = kept.save(place.file("kept.mp4"))
    both = side_by_side(original, kept).save(place.file("side_by_side.mp4"))
    sheet = place.file("sheet.png")
    save_png(sheet, contact_sheet([original, kept], ["original", "reconstruction"]))
    typer.echo(f"frames: PSNR {numbers.psnr:.2f} dB")
    typer.echo(f"sound:  mean log-mel error {numbers.mel_error:.2f} dB")
    typer.echo(f"reconstruction: {alone}")
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
    from mmldm.media.used import NOTED_DIFFERENCE, picture_differences

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
