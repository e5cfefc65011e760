#!/usr/bin/env bash
# Table 3 of the paper at a scale of your choosing: what each part of the autoencoder is worth.
# Usage: runs/ablation.sh CLIPS OUT RECIPE [words for runs/ablation.py, such as --steps 500 --seeds 0 1 2]
# CLIPS: class folders, for example of `mmldm synthesize`. RECIPE: landscape, or one with
# `vae.pretrained` set to an image VAE trained elsewhere and a `vae.train` section. Without these two the row of the
# fine-tuned image decoder is left out.
set -euo pipefail
clips=${1:?CLIPS is missing} out=${2:?OUT is missing} recipe=${3:?RECIPE is missing}
mmldm train vae --config "$recipe" --set data.folder="$clips" --out "$out"
python "$(dirname "$0")/ablation.py" "$out" "${@:4}"
