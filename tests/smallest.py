"""The smallest recipe in which every part of the system is real: 32x32 clips of 4 frames."""

from typing import Any

from mmldm.config import RunConfig
from mmldm.training.recipe import tiny_recipe
from mmldm.types import ClipSpec, SpectrogramSpec

CLIP = ClipSpec(
    num_frames=4,
    fps=10.0,
    height=32,
    width=32,
    sample_rate=8000,
    spectrogram=SpectrogramSpec(n_fft=256, hop_length=100, num_mels=32, f_max=4000.0),
)


def smallest_recipe(steps: int = 6, critic: bool = True, paper_form: bool = False) -> RunConfig:
    """Time-aligned latents and an x0 decoder, or the paper's T'=1 latents, epsilon and three tasks.

    The autoencoder has the critic's turn from its second step on.
    """
    train: dict[str, Any] = {
        "steps": steps,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "log_every": 1,
        "save_every": 2,
        "validate_every": steps,
        "preview_every": steps,
    }
    base = tiny_recipe().model_dump(mode="json")
    base["clip"] = CLIP.model_dump(mode="json")
    base["data"]["workers"] = 0
    base["vae"].update(model={"latent_channels": 4, "base_channels": 8, "upsample_channels": [8]})
    encoder = {"block_out_channels": [16], "layers_per_block": 1, "head_dim": 8}
    base["autoencoder"]["model"] = {
        "audio_encoder_config": {**encoder, "latent_shape": [4, 4, 1, 1], "time_axis": "width"},
        "video_encoder_config": {
            **encoder, "latent_shape": [4, 4, 1, 1], "temporal_attention": True,
        },
        "adapter_config": {"hidden_channels": 8, "embedding_dim": 16},
        "semantic_config": {
            "token_grid": [2, 1, 1], "width": 16, "block_out_channels": [16], "layers_per_block": 1,
            "head_dim": 8,
        },
        "decoder_config": {
            "block_out_channels": [16, 16], "layers_per_block": 1, "cross_attention": [False, True],
            "cross_attention_dim": 16, "attention_heads": 2, "norm_num_groups": 8,
        },
        "decoder_patch_size": 2,
        "prompt_tokens": 2,
        "contrastive_dim": 8,
    }  # fmt: skip
    base["autoencoder"]["target_frames"] = 2
    base["autoencoder"]["loss"]["conditioning_dropout"] = 0.1
    base["generator"]["model"].update(width=32, depth=2, heads=2)
    base["generator"]["known_slots"] = None
    if paper_form:
        model = base["autoencoder"]["model"]
        model["audio_encoder_config"].update(latent_shape=[4, 1, 4, 4], time_axis="frames")
        model["video_encoder_config"].update(latent_shape=[4, 1, 4, 4], key_frames=2)
        for config in (model["audio_encoder_config"], model["video_encoder_config"]):
            config["block_out_channels"] = [16, 16]
        model["semantic_config"]["token_grid"] = [1, 2, 2]
        model["decoder_patch_size"] = 1
        paper = {"kind": "scaled_linear", "prediction": "epsilon"}
        base["autoencoder"]["schedule"] = paper
        base["generator"]["schedule"] = paper
        base["generator"]["model"]["null_stream"] = "renoised"
        base["generator"]["tasks"] = {
            "joint": 0.9, "audio_to_video": 0.05, "video_to_audio": 0.05,
        }  # fmt: skip
        base["autoencoder"]["loss"]["terminal_fraction"] = 0.0
        base["sample"].update(decoder_steps=5)
    base["vocoder"] = {"model": {"width": 16, "depth": 1}, "train": {}}
    for job in ("vae", "autoencoder", "generator", "vocoder"):
        base[job]["train"].update(train)
    for job in ("vae", "vocoder"):  # The others read caches.
        base[job]["train"]["workers"] = 0
    if critic:
        base["autoencoder"]["critic"] = {
            "start_step": 1,
            "learning_rate": 1e-4,
            "max_noise": 1.0,
            "model": {
                "patch_size": 4,
                "channels": 8,
                "multipliers": [1, 2],
                "attention_levels": [],
            },  # fmt: skip
        }
        base["autoencoder"]["loss"]["adversarial"] = 0.1
    base["sample"]["num_inference_steps"] = 4
    return RunConfig.model_validate(base)
