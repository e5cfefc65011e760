"""Puts a trained model into the package, in half precision: python runs/bundle_model.py MODEL.

MODEL is the `model` or `distilled` folder of a run. --autoencoder and --vae put others of the same latents in
the place of its own: one whose decoder learnt longer (`autoencoder.pretrained`), a lighter image VAE
(`vae.decoder`). After that, calibrate the model anew: runs/calibrate_outliers.py. A model folder holds no
optimiser state and no paths; loading turns the weights back to float32.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from mmldm.cli.terminal import silence_diffusers
from mmldm.files import whole_folder
from mmldm.models.autoencoder import load_autoencoder
from mmldm.models.image_vae import load_image_vae
from mmldm.pipelines.published import BUNDLED
from mmldm.pipelines.sounding_video import SoundingVideoPipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--autoencoder", type=Path, help="folder; default: the model's own")
    parser.add_argument("--vae", type=Path, help="likewise")
    parser.add_argument("--out", type=Path, default=BUNDLED)
    options = parser.parse_args()
    silence_diffusers()
    parts: dict[str, nn.Module] = {}
    for name, load in (("autoencoder", load_autoencoder), ("vae", load_image_vae)):
        if (folder := getattr(options, name)) is not None:
            parts[name] = load(folder)
            own = load(options.model / name)
            if not same_encoder(own, parts[name]):
                raise SystemExit(f"error: {folder} encodes otherwise than {options.model / name}")
    pipeline = SoundingVideoPipeline.from_pretrained(options.model, **parts)
    with whole_folder(options.out) as unfinished:
        pipeline.to(torch.float16).save_pretrained(unfinished)
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    print(f"{options.out}: {size / 1e6:.1f} MB")


def same_encoder(first: nn.Module, second: nn.Module) -> bool:
    """Whether two image VAEs or autoencoders make the same latents, weight by weight."""
    weights = [
        {name: x for name, x in model.state_dict().items() if name.startswith(("encoder", "quant"))}
        for model in (first, second)
    ]
    return weights[0].keys() == weights[1].keys() and all(
        torch.equal(x, weights[1][name]) for name, x in weights[0].items()
    )


if __name__ == "__main__":
    main()
