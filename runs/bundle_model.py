"""Puts a trained model into the package, in half precision: python runs/bundle_model.py MODEL [--vae VAE].

MODEL is the `model` or `distilled` folder of a run, VAE a lighter image VAE of the same latents. A model
folder holds no optimiser state and no paths; loading turns the weights back to float32.
"""

import argparse
from pathlib import Path

import torch

from mmldm.cli.generate import BUNDLED
from mmldm.cli.terminal import silence_diffusers
from mmldm.files import whole_folder
from mmldm.models.image_vae import load_image_vae
from mmldm.pipelines.sounding_video import SoundingVideoPipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--vae", help="folder; default: the model's own")
    parser.add_argument("--out", type=Path, default=BUNDLED)
    options = parser.parse_args()
    silence_diffusers()
    parts = {} if options.vae is None else {"vae": load_image_vae(options.vae)}
    pipeline = SoundingVideoPipeline.from_pretrained(options.model, **parts)
    with whole_folder(options.out) as unfinished:
        pipeline.to(torch.float16).save_pretrained(unfinished)
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
