"""Calibrates a model that is there: python runs/calibrate_outliers.py MANIFEST MODEL.

MANIFEST is the manifest.jsonl of the run that trained it. The model then notices sounds and pictures that are
unlike the clips of it, as models do that `mmldm train` has finished since. Only model_index.json is written;
of too few held-out clips nothing is, and a sentence says so.
"""

import argparse
from pathlib import Path

from mmldm.cli.generate import load_model
from mmldm.data.cache_writer import json_of
from mmldm.data.manifest import Manifest
from mmldm.files import write_json
from mmldm.training.calibration import calibrated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the windows that are looked at")
    parser.add_argument("--device")
    options = parser.parse_args()
    pipeline = load_model(str(options.model), options.device)
    outliers = calibrated(
        pipeline.outlier_detector(), Manifest.load(options.manifest), options.seed, print
    )
    if outliers is None:
        return
    path = options.model / "model_index.json"
    write_json(path, json_of(path) | {"outliers": outliers}, indent=2)
    for modality in ("audio", "video"):
        limits = {name: round(outliers[modality][name], 4) for name in ("deviation", "error")}
        print(f"{modality}: {limits}, of {outliers['held_out']} clips")


if __name__ == "__main__":
    main()
