"""Puts a trained model into the package, in half precision: python runs/bundle_model.py RUN_FOLDER.

A model folder holds no optimiser state and no paths; loading turns the weights back to float32.
"""

import argparse
from pathlib import Path

import torch

from mmldm.cli.generate import BUNDLED
from mmldm.pipelines.sounding_video import SoundingVideoPipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    pipeline = SoundingVideoPipeline.from_pretrained(run / "model")
    pipeline.to(torch.float16).save_pretrained(BUNDLED)
    size = sum(file.stat().st_size for file in BUNDLED.rglob("*") if file.is_file())
    print(f"{BUNDLED}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
