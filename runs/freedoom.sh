#!/usr/bin/env bash
# A model of the Freedoom world from nothing: make the footage, train in stages, measure, show.
# Each stage ends in something published, OUT/model once a generator is there, and the same command goes on.
# Usage: runs/freedoom.sh [OUT] [STAGE]; STAGE is the last one to be done (see below).
# MMLDM_SIZE=short: about three hours on two cores. small (default): about 12 hours there. wide: for a GPU, and the
# footage is made there, too. MMLDM_PROCESSES=2 trains codecs in two processes; MMLDM_PRECISION=bf16 where the
# machine multiplies in it.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/freedoom} last=${2:-show}
precision=${MMLDM_PRECISION:-fp32}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # small networks: a second thread costs more than it gives

# Sizes differ in widths and steps alone.
size=() decoder_steps=6000 image_steps=4000
if [ "${MMLDM_SIZE:-small}" = short ]; then # the model of models/freedoom
    size=(--set vae.train.steps=1600 --set autoencoder.train.steps=4800 --set generator.train.steps=19000)
    image_steps=700
fi
if [ "${MMLDM_SIZE:-small}" = wide ]; then
    size=(--set vae.model.base_channels=192 --set "vae.model.upsample_channels=[96,48]"
        --set "autoencoder.model.decoder_config.block_out_channels=[256,384]" --set autoencoder.train.steps=20000
        --set generator.model.width=448 --set generator.model.depth=12 --set generator.train.steps=60000)
fi
stage() { # NAME: ends the script after the last stage that is wanted
    if [ "${done_with:-}" = "$last" ]; then exit 0; fi
    done_with=$1
    echo "== $1"
}
publish() { # GENERATOR [AUTOENCODER [VAE]]: the best there is so far
    python runs/bundle_model.py "$1" --out "$out/model" ${2:+--autoencoder "$2"} ${3:+--vae "$3"}
}
processes=${MMLDM_PROCESSES:-1}
train() { # words of mmldm train, in as many processes as asked for
    if [ "$processes" -gt 1 ]; then
        torchrun --standalone --nproc_per_node "$processes" -m mmldm train "$@"
    else
        mmldm train "$@"
    fi
}
run() { # JOB RUN key=value ...: a job of the recipe, into OUT/RUN, on the first run's clips
    train "$1" --config "$out/run/config.yaml" --out "$out/$2" "${@:3}"
}

stage footage # 7 to 30 minutes; others by another seed, and films for what drifts
mmldm synthesize "$out/clips" --world freedoom --seconds 8 --clips 900
mmldm synthesize "$out/films" --world freedoom --seconds 32 --clips 60 --seed 90001

stage vae # 2 hours of a core; short: 12 minutes of two
train vae --config freedoom --out "$out/run" --set "data.folder=$out/clips" "${size[@]}" \
    --set vae.train.precision=$precision --set autoencoder.train.precision=$precision \
    --set generator.train.precision=$precision

stage autoencoder # 2.5 hours of a core; short: 45 minutes of two
train autoencoder --out "$out/run"

stage generator # an hour; the first model
train generator --out "$out/run"
publish "$out/run/model"

# The generator goes on with more steps at little noise, then at a lower rate: a fall of the rate is worth more than
# steps. The last round of all is a long one.
go_on() { # FROM TO key=value ...
    run generator "$2" --set "generator.pretrained=$out/$1/generator/export" \
        --set "autoencoder.image_vae=$out/run/vae/export" \
        --set "generator.autoencoder=$out/run/autoencoder/export" --set "generator.logit_normal=[-0.7, 2.0]" "${@:3}"
    publish "$out/$2/model"
}
if [ "${MMLDM_SIZE:-small}" != short ]; then
    stage second # 2.5 hours
    go_on run second --set generator.train.steps=18000
    stage third # 2 hours
    go_on second third --set generator.train.steps=12000 --set generator.train.learning_rate=0.0008 \
        --set generator.train.matrix_learning_rate=0.014
fi
newest=$out/run/model
if [ -d "$out/third/model" ]; then newest=$out/third/model; fi

# What decodes its latents learns longer, its encoder frozen: 2,000 steps gave nothing. Then the image decoder on what
# that gives back, with details as strong as the real ones, without which floors and walls are smooth.
decoder=$out/run/autoencoder/export
if [ "${MMLDM_SIZE:-small}" != short ]; then
    stage decoder # 2.5 hours
    run autoencoder decoder --set "autoencoder.image_vae=$out/run/vae/export" \
        --set "autoencoder.pretrained=$out/run/autoencoder/export" --set autoencoder.train.steps=$decoder_steps
    decoder=$out/decoder/autoencoder/export
    publish "$newest" "$decoder"
fi
stage image_decoder # 2 hours; short: 20 minutes of a core
run vae image_decoder --set vae.model=null --set "vae.pretrained=$out/run/vae/export" \
    --set "vae.autoencoder=$decoder" --set vae.train.steps=$image_steps \
    --set vae.train.learning_rate=0.0005 --set vae.train.matrix_learning_rate=0.004 --set vae.loss.texture=0.5
publish "$newest" "$decoder" "$out/image_decoder/vae/export"

stage measure
python runs/calibrate_outliers.py "$out/run/manifest.jsonl" "$out/model"
python runs/measure_freedoom.py "$out/run/manifest.jsonl" "$out/model" --clips 200 --classifiers "$out/classifiers" \
    --out "$out/table"
mmldm evaluate "$out/model" "$out/run/manifest.jsonl" --held-out "$out/films" --long --rollouts 40 --out "$out/long"

stage show # nothing is chosen: all seeds are 0 or count up from it
python runs/show.py "$out/model" --clips "$out/run/manifest.jsonl" --images "$out/images" --media "$out/media"
mmldm generate --model "$out/model" -n 1 --seconds 32 --out "$out/media/endless"
mmldm synthesize "$out/silent" --world freedoom --seconds 12 --clips 3 --seed 90007
for film in "$out"/silent/*/*.mp4; do
    mmldm generate --model "$out/model" -n 1 --video "$film" --out "$out/media/foley"
done
