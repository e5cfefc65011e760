"""A whole system of tiny real parts, every path of which moves the output."""

import shutil
from pathlib import Path

import pytest
import torch

from mmldm.diffusion.schedules import ScheduleConfig, make_scheduler
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.generator import JointGenerator
from mmldm.models.image_codec import LatentStatistics
from mmldm.models.image_vae import PatchAutoencoderKL
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.types import ClipSpec, SpectrogramSpec

SPEC = ClipSpec(
    num_frames=8,
    height=32,
    width=32,
    sample_rate=8000,
    spectrogram=SpectrogramSpec(n_fft=256, hop_length=200, num_mels=32, f_max=4000),
)
ENCODER = {"block_out_channels": [8], "layers_per_block": 1, "head_dim": 4}
STATISTICS = {
    "audio": {"mean": [0.3, -0.2, 0.0, 0.1], "std": [0.5, 1.5, 1.0, 2.0]},
    "video": {"mean": [0.0] * 6, "std": [1.0] * 6},
}


def build_autoencoder() -> MultiModalAutoencoder:
    return MultiModalAutoencoder(
        audio_encoder_config={
            "latent_shape": [4, 8, 1, 1], **ENCODER, "patch_size": [4, 1], "time_axis": "width",
        },
        video_encoder_config={"latent_shape": [6, 8, 1, 1], **ENCODER, "patch_size": 2},
        latent_statistics=LatentStatistics.scalar(0.5, 4).to_dict(),
        image_latent_shape=[4, 8, 8],
        num_frames=8,
        adapter_config={"hidden_channels": 8, "embedding_dim": 16},
        semantic_config={
            "width": 8, "block_out_channels": [8], "layers_per_block": 1, "head_dim": 4,
            "token_grid": [2, 1, 1],
        },
        decoder_config={
            "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
            "cross_attention": [False, False], "cross_attention_dim": 8, "attention_heads": 2,
        },
        decoder_patch_size=2,
        num_classes=2,
        prompt_tokens=2,
        contrastive_dim=8,
    )  # fmt: skip


def build_pipeline(
    null_stream: str = "noise", guidance_scale: float = 1.0
) -> SoundingVideoPipeline:
    torch.manual_seed(0)
    vae = PatchAutoencoderKL(base_channels=8, encoder_blocks=1, decoder_blocks=1)
    autoencoder = build_autoencoder()
    generator = JointGenerator(
        audio_latent_shape=[4, 8, 1, 1],
        video_latent_shape=[6, 8, 1, 1],
        width=32,
        depth=2,
        heads=2,
        adaln="single",
        num_classes=2,
        duration=SPEC.duration,
        null_stream=null_stream,
        latent_statistics=STATISTICS,
    )
    # Zero-initialised paths are silent before training.
    with torch.no_grad():
        for module in (autoencoder, generator):
            for parameter in module.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    schedule = ScheduleConfig(prediction="v_prediction", zero_terminal_snr=True)
    decoder_schedule = ScheduleConfig(prediction="sample", zero_terminal_snr=True)
    pipeline = SoundingVideoPipeline(
        vae=vae.eval(),
        autoencoder=autoencoder.eval(),
        generator=generator.eval(),
        scheduler=make_scheduler(schedule),
        decoder_scheduler=make_scheduler(decoder_schedule),
        clip_spec=SPEC.model_dump(mode="json"),
        class_names=["wood", "metal"],
        num_inference_steps=4,
        decoder_steps=2,
        guidance_scale=guidance_scale,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def pipeline() -> SoundingVideoPipeline:
    return build_pipeline()


@pytest.fixture(scope="session")
def saved(pipeline, tmp_path_factory) -> Path:
    """Its folder; tests that change it take a `copied` one."""
    folder = tmp_path_factory.mktemp("model")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def copied(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture(scope="session")
def renoising_pipeline() -> SoundingVideoPipeline:
    return build_pipeline(null_stream="renoised")


@pytest.fixture(scope="session")
def waveforms() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return 0.3 * torch.randn(2, SPEC.num_samples, generator=generator).clamp(-3, 3)


@pytest.fixture(scope="session")
def frames() -> torch.Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randint(0, 256, (2, 8, 3, 32, 32), generator=generator, dtype=torch.uint8)
