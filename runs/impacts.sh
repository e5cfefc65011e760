#!/usr/bin/env bash
# The bundled model from nothing: render the world, train the three jobs and their fast students, measure, show.
# About five hours on two CPU cores.
# Usage: runs/impacts.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/impacts}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # small networks: a second thread costs more than it gives

mmldm synthesize "$out/clips" --clips 8000 --size 128
mmldm train "$out/clips" --config impacts --out "$out/run"
# The same latents through an image decoder of a quarter of the operations, and the generator in 8 steps of one evaluation.
mmldm train vae --config "$out/run/config.yaml" --out "$out/light" --set vae.model=null --set "vae.pretrained=$out/run/vae/export" \
    --set "vae.decoder={decoder_channels: 64, decoder_blocks: 2, upsample_channels: [32, 8]}" --set vae.train.matrix_learning_rate=0.02 --set vae.train.steps=1700
mmldm distill generator "$out/run" --set "distill_generator.steps=[8]" --set distill_generator.train.steps=6000
python runs/bundle_model.py "$out/run/distilled" --vae "$out/light/vae/export" --out "$out/model"
python runs/measure_impacts.py "$out/run/manifest.jsonl" "$out/model" --classifiers "$out/classifiers" --out "$out/table"
python runs/show.py "$out/model" --clips "$out/run/manifest.jsonl" --images "$out/images" --media "$out/media"
