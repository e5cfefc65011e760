"""Commands that use a model: `generate`, `reconstruct`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mmldm.errors import UserError

if TYPE_CHECKING:
    from mmldm.pipelines.sounding_video import SoundingVideoPipeline

BUNDLED = Path(__file__).parents[1] / "assets" / "impacts"
"""The model that comes with the package."""


def generate(
    model: Annotated[
        str | None, typer.Option(help="Model or run folder, or hub name. Default: the bundled one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the mp4 files and the sheet.")] = Path("out"),
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", min=1)] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Clip i is made from seed + i.")] = 0,
    audio: Annotated[
        Path | None, typer.Option(help="Audio-to-video: a sound file, or a video with sound.")
    ] = None,
    video: Annotated[Path | None, typer.Option(help="Video-to-audio: a video, with or without sound.")] = None,
    start: Annotated[float, typer.Option(min=0, help="Second of the given file where the clip starts.")] = 0,
    class_name: Annotated[str | None, typer.Option("--class", help="Generate one class.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Generator steps.")] = None,
    decoder_steps: Annotated[int | None, typer.Option(min=1, help="Signal decoder steps.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Strength of what is given (sound, picture, class); 1 is none.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="Sampler, for example ddim, dpm++, unipc.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda. Default: the best.")] = None,
) -> None:
    """Generates sounding video: jointly, from a given sound, or sound for a given picture."""
    if audio is not None and video is not None:
        raise UserError("give --audio or --video, not both: the other one is generated.")
    _require_writable(out)
    started = time.monotonic()
    console = Console(soft_wrap=True)

    from mmldm.media.reader import read_audio, read_frames
    from mmldm.pipelines.previews import save_clips

    pipeline = _load(model, device)
    spec = pipeline.clip_spec
    given_audio = None if audio is None else read_audio(audio, spec, start)
    given_frames = None if video is None else read_frames(video, spec, start)
    task = "a2v" if audio is not None else "v2a" if video is not None else "joint"
    clips = pipeline(
        num_samples=num_samples,
        audio=given_audio,
        frames=given_frames,
        class_labels=class_name,
        guidance_scale=guidance,
        num_inference_steps=steps,
        decoder_steps=decoder_steps,
        scheduler=scheduler,
        seed=seed,
    ).clips
    titles = [f"{task}, seed {seed + i}" for i in range(num_samples)]
    *files, sheet = save_clips(clips, out, f"{task}_{seed}", titles)
    for file in files:
        console.print(str(file), markup=False, highlight=False)
    console.print(f"contact sheet: {sheet}", markup=False, highlight=False)
    console.print(f"{len(clips)} clips in {time.monotonic() - started:.1f} s")


def reconstruct(
    clip: Annotated[Path, typer.Argument(help="A video with sound.")],
    model: Annotated[
        str | None, typer.Option(help="Model or run folder, or hub name. Default: the bundled one.")
    ] = None,
    vae: Annotated[
        str | None, typer.Option(help="Only this image VAE (folder, file or hub name), without a model.")
    ] = None,
    size: Annotated[int, typer.Option(min=32, help="With --vae: height and width in pixels.")] = 256,
    out: Annotated[Path, typer.Option(help="Folder for the mp4 files and the sheet.")] = Path("out"),
    start: Annotated[float, typer.Option(min=0, help="Second of the file where the clip starts.")] = 0,
    decoder_steps: Annotated[int | None, typer.Option(min=1)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda. Default: the best.")] = None,
) -> None:
    """Shows what an autoencoder keeps of a clip: both side by side, PSNR and spectrogram error."""
    if model is not None and vae is not None:
        raise UserError("give --model or --vae, not both.")
    _require_writable(out)
    console = Console(soft_wrap=True)

    from mmldm.evaluation.reconstruction import fidelity, side_by_side, through_image_vae, vae_spec
    from mmldm.media.reader import read_clip
    from mmldm.media.spectrogram import AudioImage
    from mmldm.pipelines.previews import save_clips

    if vae is not None:
        from mmldm.models.image_vae import load_image_vae

        codec, spec = load_image_vae(vae), vae_spec(size)
        original = read_clip(clip, start, spec)
        kept = through_image_vae(codec, original, spec)
    else:
        pipeline = _load(model, device)
        spec = pipeline.clip_spec
        original = read_clip(clip, start, spec)
        kept = pipeline.reconstruct(original, decoder_steps=decoder_steps)
    numbers = fidelity(kept, original, AudioImage(spec))
    name = f"reconstruction_{clip.stem}"
    *_, sheet = save_clips([original, kept], out, name, ["original", "reconstruction"])
    both = side_by_side(original, kept).save(out / f"{name}_side_by_side.mp4")
    console.print(f"frames: PSNR {numbers.psnr:.2f} dB")
    console.print(f"sound:  mean log-mel error {numbers.mel_error:.2f} dB")
    console.print(f"original left, reconstruction right: {both}", markup=False, highlight=False)
    console.print(f"contact sheet: {sheet}", markup=False, highlight=False)


def _load(model: str | None, device: str | None) -> SoundingVideoPipeline:
    from diffusers.utils import logging as diffusers_logging

    from mmldm.pipelines.sounding_video import SoundingVideoPipeline
    from mmldm.training.distributed import choose_device

    diffusers_logging.set_verbosity_error()
    name = model if model is not None else str(BUNDLED)
    if (Path(name) / "model" / "model_index.json").is_file():
        name = str(Path(name) / "model")
    pipeline = SoundingVideoPipeline.from_pretrained(name)
    return pipeline.to(choose_device(device))


def _require_writable(folder: Path) -> None:
    """Fails before minutes of work rather than after."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".mmldm-write-test"
    probe.touch()
    probe.unlink()
