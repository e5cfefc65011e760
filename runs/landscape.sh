#!/usr/bin/env bash
# MM-LDM on Landscape as MM-Diffusion publishes it: DATA/train/<class>/*.mp4, 1,000 clips of 10 s, 9 classes.
# Usage: runs/landscape.sh DATA OUT [words for `mmldm train`, such as --dry-run or --set generator.train.steps=1000]
# Environment: GPUS (1), CLIPS to sample (2048), ROWS of the table for baselines (NAME[:a2v|:v2a]=FOLDER ...). The same command resumes wherever it stopped.
set -euo pipefail
source "$(dirname "$0")/paper.sh"
reproduce landscape "${1:?DATA is missing}/train" "${2:?OUT is missing}" "${@:3}"
