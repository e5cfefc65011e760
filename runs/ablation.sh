#!/usr/bin/env bash
# Table 3 of the paper at a scale of your choosing: what each part of the autoencoder is worth.
# Usage: runs/ablation.sh CLIPS OUT RECIPE [words for runs/ablation.py, such as --steps 500 --seeds 0 1 2]
# Environment: FINE, words for the image decoder's fine-tuning; by default the release's perceptual and adversarial terms.
# CLIPS: class folders, for example of `mmldm synthesize`. RECIPE: landscape, or one with
# `vae.pretrained` set to an image VAE trained elsewhere and a `vae.train` section. Without these two the row of the
# fine-tuned image decoder is left out.
set -euo pipefail
clips=${1:?CLIPS is missing} out=${2:?OUT is missing} recipe=${3:?RECIPE is missing}
read -ra fine <<<"${FINE---set vae.loss.perceptual=1 --set vae.loss.adversarial=0.5 --set vae.critic.start_step=10001 \
  --set vae.critic.learning_rate=0.00001}"
mmldm train vae --config "$recipe" --set data.folder="$clips" "${fine[@]}" --out "$out"
python "$(dirname "$0")/ablation.py" "$out" "${@:4}"
