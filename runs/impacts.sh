#!/usr/bin/env bash
# The bundled model from nothing: render the world, train the three jobs and their fast students, measure, show.
# About eight hours on one CPU core that multiplies in bfloat16 (MMLDM_PRECISION=bf16), twice that on others.
# Usage: runs/impacts.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/impacts}
precision=${MMLDM_PRECISION:-fp32}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # small networks: a second thread costs more than it gives

# Half of the clips begin with a throw, the others anywhere in a world that goes on.
mmldm synthesize "$out/clips" --latest-start 20 --clips 8000 --size 128
mmldm train "$out/clips" --config impacts --out "$out/run" --set vae.train.precision=$precision \
    --set autoencoder.train.precision=$precision --set generator.train.precision=$precision --set generator.train.steps=15000
# The generator goes on with more steps at little noise, where bounces get their places, and ends at a lower rate.
go_on() { # FROM TO key=value ...
    mmldm train generator --config "$out/run/config.yaml" --out "$out/$2" --set "generator.pretrained=$out/$1/generator/export" \
        --set "autoencoder.image_vae=$out/run/vae/export" --set "generator.autoencoder=$out/run/autoencoder/export" \
        --set "generator.logit_normal=[-0.7, 2.0]" "${@:3}"
}
go_on run second --set generator.train.steps=18000
go_on second third --set generator.train.steps=11000 --set generator.train.learning_rate=0.0008 \
    --set generator.train.matrix_learning_rate=0.014
# What decodes the generator's latents learns longer, its encoder frozen; then an image decoder of a third of the
# operations, from what the signal decoder gives back; and the generator in 8 steps of one evaluation.
mmldm train autoencoder --config "$out/run/config.yaml" --out "$out/decoder" \
    --set "autoencoder.image_vae=$out/run/vae/export" --set "autoencoder.pretrained=$out/run/autoencoder/export" \
    --set autoencoder.train.steps=4000
mmldm train vae --config "$out/run/config.yaml" --out "$out/light" --set vae.model=null --set "vae.pretrained=$out/run/vae/export" \
    --set "vae.autoencoder=$out/decoder/autoencoder/export" \
    --set "vae.decoder={decoder_channels: 64, decoder_blocks: 2, upsample_channels: [32, 16]}" --set vae.train.steps=4500
mmldm distill generator "$out/third" --set "distill_generator.steps=[8]" --set distill_generator.train.steps=2600 \
    --set distill_generator.train.learning_rate=0.0006 --set distill_generator.train.matrix_learning_rate=0.01
python runs/bundle_model.py "$out/third/distilled" --autoencoder "$out/decoder/autoencoder/export" \
    --vae "$out/light/vae/export" --out "$out/model"
python runs/calibrate_outliers.py "$out/run/manifest.jsonl" "$out/model"
python runs/measure_impacts.py "$out/run/manifest.jsonl" "$out/model" --classifiers "$out/classifiers" --out "$out/table"
python runs/show.py "$out/model" --clips "$out/run/manifest.jsonl" --images "$out/images" --media "$out/media"
