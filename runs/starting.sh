#!/usr/bin/env bash
# From nothing against from a model, at equal minutes on the same clips: two runs and their table.
#
#     runs/starting.sh CLIPS OUT [MINUTES] [MODEL] [FREEZE]
#
# MINUTES is 20, MODEL is impacts; FREEZE is nothing, vae, or vae,autoencoder. The same command resumes.
set -euo pipefail

clips=$1 out=$2 minutes=${3:-20} model=${4:-impacts}
frozen=(${5:+--freeze "$5"})

# A run that has a recipe goes on with it: the minutes are in its steps.
scratch=(--out "$out/scratch") started=(--out "$out/started" --from "$model" "${frozen[@]}")
[ -f "$out/scratch/config.yaml" ] || scratch+=(--minutes "$minutes")
[ -f "$out/started/config.yaml" ] || started+=(--minutes "$minutes")
mmldm train "$clips" "${scratch[@]}"
mmldm train "$clips" "${started[@]}"
python "$(dirname "$0")/starting.py" "$out/scratch" "$out/started"
