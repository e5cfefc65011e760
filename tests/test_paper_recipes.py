"""The recipes at the paper's size: their totals are the published networks', and their scripts run.

Totals are those of the classic latent-diffusion and DiT code, counted on tensors without memory; a
multiplication and an addition are 2 FLOP.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from mmldm.config import load_config
from mmldm.data.manifest import Manifest
from mmldm.models.signal_decoder import SignalDecoder
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.summary import Summary, summarise

from .cli.commandline import environment, mmldm

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CLASSES = {"landscape": 9, "aist": 60}
IMAGES = 17
"""Of a clip: the audio image and 16 frames."""
PATTERN = "_m([A-Z]{2}[0-9])_"


@pytest.fixture(scope="module")
def summary() -> Summary:
    """Of the shipped recipe, without its published weights, which are not here."""
    return summarise(load_config("landscape"), CLASSES["landscape"])


@pytest.mark.parametrize(
    ("name", "millions", "gflop"),
    [
        ("image VAE, encode", 83.654, 272.7 * IMAGES),
        ("image VAE, decode", None, 622.2 * IMAGES),
        ("signal decoder, one step", 859.52, 180.4 * IMAGES),
        ("generator, one step", 678.0, 301.0),
    ],
)
def test_totals_are_within_half_a_per_cent_of_the_published_networks(
    name: str, millions: float | None, gflop: float, summary: Summary
) -> None:
    part = next(part for part in summary.parts if part.name == name)
    assert part.flops / 1e9 == pytest.approx(gflop, rel=0.005)
    if millions is not None:
        assert part.parameters is not None
        assert part.parameters / 1e6 == pytest.approx(millions, rel=0.005)


def test_spaces_are_the_papers(summary: Summary) -> None:
    assert summary.spaces["images"] == ((1, 3, 256, 256), (16, 3, 256, 256))
    assert summary.spaces["image latents"] == ((1, 4, 32, 32), (16, 4, 32, 32))
    assert summary.spaces["latents"] == ((16, 1, 8, 8), (16, 1, 16, 16))


def test_recipes_differ_in_what_the_paper_and_the_data_say_alone() -> None:
    landscape, aist = (load_config(name) for name in CLASSES)
    expected = landscape.model_dump()
    expected["data"].update(class_pattern=PATTERN, windows_per_clip=168)
    expected["autoencoder"]["loss"]["kl"] = 1e-8
    expected["autoencoder"]["critic"]["start_step"] = 24000
    expected["autoencoder"]["train"]["steps"] = 32000
    assert aist.model_dump() == expected
    assert landscape.autoencoder.loss.kl == 1e-9


@pytest.mark.parametrize("name", CLASSES)
def test_batches_divide_over_eight_gpus_as_documented(name: str) -> None:
    recipe = load_config(name)
    passes = {"vae": 1, "autoencoder": 2, "generator": recipe.generator.train.accumulate}
    for job, accumulate in passes.items():
        assert getattr(recipe, job).train.batch_size % (8 * accumulate) == 0


def narrow(weights: Path) -> list[str]:
    """The recipe's form at a width that a test can afford; everything not named stays as it is."""
    save_narrow_weights(weights)
    sizes = {
        "clip.height": 64,
        "clip.width": 64,
        "data.workers": 0,
        "data.windows_per_clip": 1,
        "vae.pretrained": weights,
        "vae.frames_per_clip": 1,
        "vae.train.workers": 0,
        "autoencoder.decoder_init": weights,
        "autoencoder.model.audio_encoder_config.latent_shape": "[16, 1, 2, 2]",
        "autoencoder.model.audio_encoder_config.block_out_channels": "[32, 32, 32]",
        "autoencoder.model.video_encoder_config.latent_shape": "[16, 1, 4, 4]",
        "autoencoder.model.video_encoder_config.block_out_channels": "[32, 64]",
        "autoencoder.model.semantic_config.width": 16,
        "autoencoder.model.semantic_config.block_out_channels": "[32, 32]",
        "autoencoder.model.semantic_config.audio.block_out_channels": "[32]",
        "autoencoder.model.decoder_config": NARROW_UNET,
        "autoencoder.critic.start_step": 1,
        "autoencoder.critic.model": "{channels: 8, multipliers: [1, 2], attention_levels: []}",
        "generator.model": "{width: 32, depth: 1, heads: 2}",
        "sample.num_inference_steps": 8,
        "sample.decoder_steps": 2,
    }
    for job in ("vae", "autoencoder", "generator"):
        train = {"steps": 2, "batch_size": 4, "accumulate": 2, "precision": "fp32"}
        sizes |= {f"{job}.train.{key}": value for key, value in train.items()}
    return [word for key, value in sizes.items() for word in ("--set", f"{key}={value}")]


NARROW_UNET = {
    "block_out_channels": [16, 16], "cross_attention": [True, False], "cross_attention_dim": 16,
    "attention_heads": 2, "norm_num_groups": 8,
}  # fmt: skip


def save_narrow_weights(folder: Path) -> None:
    """A pipeline folder in Stable Diffusion's layout: f=8, 4 channels."""
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    AutoencoderKL(
        block_out_channels=(8,) * 4,
        norm_num_groups=4,
        layers_per_block=1,
        latent_channels=4,
        **blocks,
    ).save_pretrained(folder / "vae")
    SignalDecoder.from_sizes(4, **NARROW_UNET).save_pretrained(folder / "unet")


@pytest.fixture(scope="module")
def impacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "impacts"
    mmldm("synthesize", folder, "--clips", 24, "--size", 64, "--sample-rate", 44100).succeeded()
    return folder


def script(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(ROOT / "runs" / name), *map(str, words)],
        env={**environment(), "PATH": path, "CLIPS": "2"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.smoke
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CLASSES)
def test_script_rehearses_the_whole_recipe_on_the_impacts_world(
    name: str, impacts: Path, tmp_path: Path
) -> None:
    """The datasets' own folder layouts: class folders, or the class in a flat file's name."""
    clips, out = tmp_path / "data" / "train", tmp_path / "out"
    clips.mkdir(parents=True)
    for i, file in enumerate(sorted(impacts.glob("*/*.mp4"))):
        folder = clips / file.parent.name if name == "landscape" else clips
        music = f"{file.parent.name[:2].upper()}{i % 2}"
        folder.mkdir(exist_ok=True)
        shutil.copy(file, folder / f"gXX_sBM_c01_d01_m{music}_ch{i:02d}.mp4")
    words = narrow(tmp_path / "sd")
    dry = script(f"{name}.sh", tmp_path / "data", out, *words, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert f"decoder_init: {tmp_path / 'sd'}" in dry.stdout and "held in memory" in dry.stdout
    assert not out.exists()
    done = script(f"{name}.sh", tmp_path / "data", out, *words)
    assert done.returncode == 0, done.stderr
    made = out / "table2" / "made"
    for task in ("samples", "samples-a2v", "samples-v2a"):
        assert len(list((made / task).glob("*.mp4"))) == 2
    manifest = Manifest.load(out / "run" / "manifest.jsonl")
    materials = {file.parent.name for file in impacts.glob("*/*.mp4")}
    assert len(manifest.classes) == len(materials) * (1 if name == "landscape" else 2)
    pipeline = SoundingVideoPipeline.from_pretrained(out / "run" / "model")
    assert pipeline.autoencoder.config.num_classes == len(manifest.classes)
    assert pipeline.class_names == ()
    for size, protocol in ((64, "mm-diffusion"), (256, "mm-diffusion-256")):
        report = json.loads((out / "table2" / "MM-LDM" / str(size) / "report.json").read_text())
        assert report["protocol"]["name"] == protocol
        assert {"generated", "audio-to-video", "video-to-audio"} <= report["sets"].keys()
    assert f"## Table 2, {name}" in (out / "table2" / "table2.md").read_text()
    # The fast model: students, a light image decoder, and rows of its own.
    fast = SoundingVideoPipeline.from_pretrained(out / "model")
    assert type(fast.vae).__name__ == "LightAutoencoderKL" and fast.config.default_quality == "fast"
    rows = [fast.settings(name) for name in ("best", "fast")]
    assert [(row.num_inference_steps, row.decoder_steps) for row in rows] == [(8, 1), (4, 1)]
    assert (out / "table2-fast" / "table2.md").is_file()
    assert "paper" in pipeline.config.quality_rows and "paper" not in fast.config.quality_rows
    log = (out / "run" / "autoencoder" / "train.log").read_text()
    assert "signal decoder from" in log

    written = {path: path.stat().st_mtime_ns for path in made.rglob("*.mp4")}
    again = script(f"{name}.sh", tmp_path / "data", out, *words)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.mp4")} == written
