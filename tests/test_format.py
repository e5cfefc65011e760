"""File formats that others hold files of: a change here is a change for them, and edits DESIGN."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from mmldm.data.scan import scan
from mmldm.training import JOBS
from mmldm.training.distributed import Process
from mmldm.training.run import Run
from mmldm.training.run_clips import claim
from mmldm.training.run_folder import RunFolder
from mmldm.worlds.impacts.clips import ImpactsConfig, synthesize

from .smallest import CLIP, smallest_recipe

pytestmark = pytest.mark.slow

CONFIG_KEYS = {
    "vae": {
        "base_channels", "decoder_blocks", "decoder_channels", "encoder_blocks", "in_channels",
        "latent_channels", "patch_size", "upsample_channels",
    },
    "autoencoder": {
        "adapter_config", "audio_encoder_config", "audio_image_latent_shape", "contrastive_dim",
        "decoder_config", "decoder_patch_size", "detach_latents", "image_latent_shape", "latent_statistics",
        "num_classes", "num_frames", "prompt_tokens", "semantic_config", "video_encoder_config",
        "with_class_token", "with_pooled_latent", "with_semantics",
    },
    "generator": {
        "adaln", "audio_latent_shape", "depth", "duration", "heads", "latent_statistics",
        "mlp_ratio", "null_stream", "num_classes", "patch_size", "video_latent_shape", "width",
    },
    "vocoder": {
        "depth", "kernel_size", "n_fft", "sample_rate", "spectrogram", "subcolumns", "width",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of one training step a job."""
    root = tmp_path_factory.mktemp("format")
    materials = ("wood", "glass")
    synthesize(root / "clips", ImpactsConfig(spec=CLIP, materials=materials), clips=6, workers=1)
    manifest = scan(root / "clips", CLIP, workers=1)
    folder, config, process = RunFolder(root / "run"), smallest_recipe(1, critic=False), Process()
    with claim(folder, config, manifest, process):
        run = Run(
            config, folder, manifest, process, Console(quiet=True), lambda what, done, total: None
        )
        for job in JOBS:
            run.run(job)
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_model_index_names_the_pinned_module_paths(folder: RunFolder) -> None:
    index = read(folder.model / "model_index.json")
    assert {key: value for key, value in index.items() if isinstance(value, list)} == {
        "vae": ["mmldm.models.image_vae", "PatchAutoencoderKL"],
        "autoencoder": ["mmldm.models.autoencoder", "MultiModalAutoencoder"],
        "generator": ["mmldm.models.generator", "JointGenerator"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "decoder_scheduler": ["diffusers", "DDIMScheduler"],
        "vocoder": ["mmldm.models.vocoder", "FourierVocoder"],
        "student": [None, None],
        "student_scheduler": [None, None],
        "class_names": ["glass", "wood"],
        "class_shares": index["class_shares"],
    }
    assert {key for key in index if not isinstance(index[key], list)} == {
        "_class_name", "_diffusers_version", "clip_spec", "decoder_steps", "guidance_scale",
        "num_inference_steps", "default_quality", "quality_rows", "known_slots", "outliers",
    }  # fmt: skip
    assert all(isinstance(share, float) for share in index["class_shares"])
    assert sum(index["class_shares"]) == 4 and len(index["class_shares"]) == 2  # of training clips
    assert index["outliers"] is None  # of six clips
    assert set(index["clip_spec"]) == {
        "num_frames", "fps", "height", "width", "sample_rate", "spectrogram",
        "native_audio",
    }  # fmt: skip


@pytest.mark.parametrize("component", CONFIG_KEYS)
def test_component_config_has_the_pinned_keys(component: str, folder: RunFolder) -> None:
    config = read(folder.model / component / "config.json")
    assert {key for key in config if not key.startswith("_")} == CONFIG_KEYS[component]
    assert names(folder.model / component) == {
        "config.json", "diffusion_pytorch_model.safetensors",
    }  # fmt: skip


def test_published_model_names_no_folder_of_the_machine_that_made_it(folder: RunFolder) -> None:
    for path in folder.model.rglob("*.json"):
        assert str(folder.root) not in path.read_text(encoding="utf-8"), path


def test_run_folder_listing(folder: RunFolder) -> None:
    assert names(folder.root) == {
        "config.yaml", "manifest.jsonl", "run.lock", "caches", "model", "report.html", *JOBS,
    }  # fmt: skip
    assert names(folder.root / "caches") == {"image_latents", "latents"}
    for job in JOBS:
        made = names(folder.job(job)) - {"tensorboard", "train.log"}
        assert made == {"checkpoints", "export", "metrics.jsonl", "previews", "run.lock"}


def test_checkpoint_folder_listing(folder: RunFolder) -> None:
    for job in JOBS:
        checkpoint = folder.job(job) / "checkpoints" / "step_00000001"
        assert names(checkpoint) == {
            "ema.safetensors", "model.safetensors", "optimizer.safetensors", "state.json",
        }  # fmt: skip
        assert set(read(checkpoint / "state.json")) == {
            "identity", "sha256", "sha256_of_state", "skipped_updates", "step", "versions",
            "window", "withheld",
        }  # fmt: skip


def test_manifest_header_and_rows(folder: RunFolder) -> None:
    lines = folder.manifest.read_text(encoding="utf-8").strip("\n").split("\n")
    header, row, *_ = map(json.loads, lines)
    assert set(header) == {"format", "version", "root", "rows", "ignored", "notes", "listed"}
    assert (header["format"], header["version"]) == ("mmldm-manifest", 2)
    assert header["rows"] == len(lines) - 1
    assert set(row) - {"note"} == {
        "path", "status", "class_name", "split", "duration", "fps", "width", "height",
        "sample_rate", "channels", "video_codec", "audio_codec", "silent_share", "decode_errors",
        "size", "mtime_ns", "sha256",
    }  # fmt: skip


def test_cache_index(folder: RunFolder) -> None:
    parts = {"reading", "clip", "windows_per_clip", "seed", "clips", "image_vae"}
    for cache, more in (("image_latents", set()), ("latents", {"autoencoder"})):
        part = folder.cache(cache) / "train"
        pictures = set() if more else {"pictures_00000.safetensors"}
        shards = pictures | {"windows_00000.safetensors"}
        assert names(part) == {"index.json", "started.json", "block_00000.json", *shards}
        index = read(part / "index.json")
        assert set(index) == {"format", "key", "parts", "blocks", "failed", "extra"}
        assert index["format"] == 2
        assert set(index["parts"]) == parts | more
        assert {"classes", "statistics"} <= set(index["extra"])
        (block,) = index["blocks"]
        assert block == read(part / "block_00000.json")
        assert set(block) == {"key", "rows", "sha256", "made_from", "failed"}
        assert set(block["sha256"]) == shards
