"""A recipe chosen for the data and the machine: what `mmldm train FOLDER` runs when no config is named.

manifest, device, minutes -> RunConfig. Every number stands in the run folder's config.yaml afterwards, to
be read and edited; nothing is decided later. The tiny models are the time-aligned form of the system (one
video token a frame, one audio token a column), which trains on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from mmldm.config import RunConfig, changed, parse
from mmldm.data.manifest import Entry, Manifest
from mmldm.training.distributed import wait_for
from mmldm.types import ClipSpec, SpectrogramSpec

SHARES = {"vae": 0.2, "autoencoder": 0.4, "generator": 0.4}
"""How a time budget is split over the jobs."""


TARGET_WINDOWS = 2000
"""Cached windows a small data set is spread to."""
WINDOW_OVERLAP = 4
"""At most this many windows per clip length of material, on average."""
DEFAULT_MINUTES = 60.0
SECONDS_PER_STEP = {"vae": 0.8, "autoencoder": 0.95, "generator": 0.25}
"""Of the tiny recipe's jobs on the machine whose trial speed is REFERENCE_SPEED."""
REFERENCE_SPEED = 105e9
"""FLOP/s of `relative_speed`'s trial on one core of the machine the steps were timed on."""


def tiny_models() -> dict[str, dict[str, Any]]:
    """Constructor arguments of the CPU-sized parts, for 128x128 clips of 16 frames."""
    return {
        "vae": {
            "latent_channels": 8,
            "patch_size": 8,
            "base_channels": 96,
            "upsample_channels": [48, 24],
        },
        "autoencoder": {
            "audio_encoder_config": {
                "latent_shape": [16, 16, 1, 1],
                "block_out_channels": [64],
                "layers_per_block": 1,
                "patch_size": [4, 1],
                "time_axis": "width",
                "spatial_attention": False,
            },
            "video_encoder_config": {
                "latent_shape": [12, 16, 1, 1],
                "block_out_channels": [64],
                "layers_per_block": 1,
                "patch_size": 2,
                "spatial_attention": False,
                "temporal_attention": True,
                "head_dim": 32,
            },
            "adapter_config": {"hidden_channels": 32, "embedding_dim": 64},
            "semantic_config": {
                "token_grid": [4, 1, 1],
                "width": 64,
                "block_out_channels": [64],
                "layers_per_block": 1,
            },
            "decoder_config": {
                "block_out_channels": [96, 128],
                "layers_per_block": 1,
                "cross_attention": [False, True],
                "cross_attention_dim": 64,
                "attention_heads": 4,
                "norm_num_groups": 16,
            },
            "decoder_patch_size": 2,
            "prompt_tokens": 4,
            "contrastive_dim": 64,
        },
        "generator": {
            "width": 160,
            "depth": 6,
            "heads": 5,
            "adaln": "single",
            "null_stream": "noise",
        },
    }


def tiny_clip() -> ClipSpec:
    """128x128 frames, and a native 128x128 audio image: 128 mel bands, a column every 12.5 ms."""
    return ClipSpec(
        height=128, width=128, spectrogram=SpectrogramSpec(hop_length=200, num_mels=128)
    )


def tiny_recipe(clip: ClipSpec | None = None, **changes: Any) -> RunConfig:
    """The bundled model's recipe, two and a half hours on one CPU core; `changes` replace sections."""
    models = tiny_models()
    cosine = {"kind": "cosine", "zero_terminal_snr": True}
    sections: dict[str, Any] = {
        "clip": clip or tiny_clip(),
        "vae": {
            "model": models["vae"],
            "frames_per_clip": 3,
            "loss": {"l1": 1.0, "l2": 2.0, "kl": 1e-3, "salience": 4.0},
            "train": {
                "steps": 1600,
                "batch_size": 8,
                "learning_rate": 2e-3,
                "weight_decay": 0.0,
                "ema_decay": 0.97,
            },
        },
        "autoencoder": {
            "model": models["autoencoder"],
            "schedule": {**cosine, "prediction": "sample"},
            "target_frames": 4,
            "loss": {
                "kl": 5e-5,
                "classification": 0.1,
                "contrastive": 0.1,
                "audio_weight": 2.0,
                "salience": 3.0,
                "terminal_fraction": 0.75,
                "conditioning_dropout": 0.0,
                "context_dropout": 0.5,
            },
            "train": {
                "steps": 2600,
                "batch_size": 16,
                "learning_rate": 1e-3,
                "matrix_learning_rate": 0.02,
                "warmup_steps": 50,
                "betas": (0.9, 0.98),
                "weight_decay": 1e-3,
                "ema_decay": 0.99,
            },
        },
        "generator": {
            "model": models["generator"],
            "schedule": {**cosine, "prediction": "v_prediction"},
            "tasks": {
                "joint": 0.4,
                "audio_to_video": 0.25,
                "video_to_audio": 0.25,
                "audio_only": 0.05,
                "video_only": 0.05,
            },
            "class_dropout": 0.5,
            "logit_normal": (0.0, 1.2),
            "train": {
                "steps": 18000,
                "batch_size": 32,
                "learning_rate": 1.2e-3,
                "matrix_learning_rate": 0.02,
                "warmup_steps": 100,
                "weight_decay": 0.01,
                "ema_decay": 0.998,
            },
        },
        "sample": {
            "quality": "fast",
            "num_inference_steps": 50,
            "decoder_steps": 1,
            "guidance_scale": 2.5,
        },
    }
    return RunConfig.model_validate({**sections, **changes})


def choose_recipe(
    manifest: Manifest, device: torch.device, minutes: float | None, changes: Sequence[str] = ()
) -> RunConfig:
    """Settings for these clips on this machine.

    Windows per clip make about TARGET_WINDOWS of the whole set (`choose_windows`); step counts fill the time
    budget at the speed this machine shows in a short trial.

    Args:
        minutes: Time budget for all three jobs; None: DEFAULT_MINUTES.
        changes: `a.b=value` settings that override the choice.
    """
    asked = changed(tiny_recipe(), changes)
    recipe = asked.model_dump(mode="json")
    windows, cached = choose_windows(manifest.split("train"), asked.clip)
    recipe["data"]["windows_per_clip"] = windows
    recipe["data"]["folder"] = str(manifest.root)
    speed = relative_speed(device)
    for job, share in SHARES.items():
        section = recipe[job]["train"]
        seconds = 60 * (minutes or DEFAULT_MINUTES) * share
        section["steps"] = max(20, round(seconds * speed / SECONDS_PER_STEP[job]))
        section["batch_size"] = min(section["batch_size"], max(2, cached))
        for cadence in ("validate_every", "preview_every", "save_every"):
            section[cadence] = max(10, section["steps"] // 8)
        section["warmup_steps"] = min(section["warmup_steps"], section["steps"] // 10)
    # Once more: what was asked for by name stands, whatever was chosen around it.
    return changed(parse(RunConfig, recipe, "the chosen recipe"), changes)


def choose_windows(clips: Sequence[Entry], spec: ClipSpec) -> tuple[int, int]:
    """Windows per clip, and how many that makes: about TARGET_WINDOWS, if there is material for them.

    A clip without room for a second window has one, however many are asked for.

    Args:
        clips: Of the training split.
        spec: Of a window.
    """
    durations = [entry.duration or 0.0 for entry in clips]
    rooms = [
        duration - spec.duration >= 1 / (entry.fps or spec.fps)
        for entry, duration in zip(clips, durations, strict=True)
    ]
    roomy = [duration for duration, room in zip(durations, rooms, strict=True) if room]
    if not roomy:
        return 1, len(clips)
    single = len(clips) - len(roomy)
    wanted = round((TARGET_WINDOWS - single) / len(roomy))
    most = math.ceil(WINDOW_OVERLAP * sum(roomy) / (len(roomy) * spec.duration))
    windows = max(1, min(wanted, most))
    return windows, single + windows * len(roomy)


def relative_speed(device: torch.device) -> float:
    """Convolution speed of this machine in a trial of about half a second, over REFERENCE_SPEED."""
    layer = torch.nn.Conv2d(64, 64, 3, padding=1).to(device)
    x = torch.randn(64, 64, 16, 16, device=device)
    flops_per_pass = 2 * 2 * 64 * 64 * 9 * x[:, 0].numel()  # forward and weight gradient
    passes, start = 0, 0.0
    while passes < 3 or time.perf_counter() - start < 0.5:
        layer(x).square().mean().backward()
        passes += 1
        if passes == 3:  # the first ones choose algorithms
            wait_for(device)
            start = time.perf_counter()
    wait_for(device)
    return (passes - 3) * flops_per_pass / (time.perf_counter() - start) / REFERENCE_SPEED
