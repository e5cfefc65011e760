#!/usr/bin/env bash
# The CPU twin of impacts.sh: the same path with a few steps of each job, in about two minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/smoke}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

mmldm synthesize "$out/clips" --clips 24 --size 128
mmldm train "$out/clips" --minutes 1 --out "$out/run"
mmldm generate --model "$out/run" --out "$out/samples"
