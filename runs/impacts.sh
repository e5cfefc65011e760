#!/usr/bin/env bash
# The bundled model from nothing: render the world, train the three jobs, measure, show. About three hours on two CPU cores.
# Usage: runs/impacts.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/impacts}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # small networks: a second thread costs more than it gives

mmldm synthesize "$out/clips" --clips 8000 --size 128
mmldm train "$out/clips" --config configs/impacts.yaml --out "$out/run"
python runs/measure_impacts.py "$out/run/manifest.jsonl" "$out/run/model" --classifiers "$out/classifiers" --out "$out/table.json"
python runs/show_impacts.py "$out/run/manifest.jsonl" "$out/run/model" --out "$out/images"
