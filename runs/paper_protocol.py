"""The paper's way of sampling the bundled model, to be timed beside ours in the same rounds.

    mmldm benchmark --jobs sample --quality fast --against runs/paper_protocol.py

50 DDIM steps of the generator and 50 of the signal decoder, both guided, for two clips. Our signal decoder
has no guidance; a guided one evaluates every image twice a step, so every clip is decoded twice here and
one result is dropped. Image decoder, Griffin-Lim and mp4 files are those of quality "best".
"""

import tempfile
from pathlib import Path

import torch

from mmldm.cli.generate import load_model
from mmldm.media.clip import Clip, images_to_frames
from mmldm.media.spectrogram import AudioImage
from mmldm.models.image_codec import ImageCodec
from mmldm.pipelines.decoding import decode_to_image_latents
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.types import MODALITIES

CLIPS = 2
STEPS = 50

pipeline: SoundingVideoPipeline
"""Set by `setup`, which `mmldm benchmark --against` calls once."""


def setup() -> None:
    """Loads the bundled model, once."""
    global pipeline
    pipeline = load_model(None, None)


@torch.no_grad()
def step() -> None:
    """Noise to mp4 files."""
    device, spec = pipeline.device, pipeline.clip_spec
    sampled = pipeline(
        num_samples=CLIPS, seed=0, quality="best", num_inference_steps=STEPS, output_type="latent"
    )
    image_latents = decode_to_image_latents(
        pipeline.autoencoder,
        pipeline.decoder_scheduler,
        # Each clip twice, for the guidance that our signal decoder lacks.
        sampled.latents.map(lambda z: torch.cat([z, z]).to(device)),
        num_frames=spec.num_frames,
        steps=STEPS,
        generators=[torch.Generator().manual_seed(i) for i in range(2 * CLIPS)],
    )
    codec = ImageCodec(pipeline.vae, pipeline.autoencoder.image_statistics).to(device)
    images = image_latents.map(lambda x: x[:CLIPS]).map(codec.decode, MODALITIES)
    waveforms = AudioImage(spec).to(device).waveform(images.audio).cpu()
    with tempfile.TemporaryDirectory() as folder:
        for i, frames in enumerate(images_to_frames(images.video).cpu()):
            clip = Clip(frames, waveforms[i], spec.fps, spec.sample_rate)
            clip.save(Path(folder) / f"{i}.mp4")
