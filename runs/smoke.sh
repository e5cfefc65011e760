#!/usr/bin/env bash
# The CPU twin of impacts.sh: the same path with a few steps of each job, in about three minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/smoke}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

mmldm synthesize "$out/clips" --clips 24 --size 128
mmldm train "$out/clips" --minutes 1 --out "$out/run"
# A lighter image decoder of the same latents, and a generator of fewer steps.
mmldm train vae --config "$out/run/config.yaml" --out "$out/light" \
    --set vae.model=null --set "vae.pretrained=$out/run/vae/export" \
    --set "vae.decoder={decoder_channels: 32, decoder_blocks: 1, upsample_channels: [16, 8]}" \
    --set vae.train.matrix_learning_rate=0.02 --set vae.train.steps=20
mmldm distill generator "$out/run" \
    --set "distill_generator.steps=[8]" --set distill_generator.train.steps=10
python runs/bundle_model.py "$out/run/distilled" --vae "$out/light/vae/export" --out "$out/model"
mmldm generate --model "$out/model" --out "$out/samples"
