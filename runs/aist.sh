#!/usr/bin/env bash
# MM-LDM on AIST++_crop as MM-Diffusion publishes it: DATA/train/gBR_sBM_c01_d04_mBR0_ch01.mp4 and so on. The class is
# the piece of music in the file's name (here BR0), 60 in all.
# Usage: runs/aist.sh DATA OUT [words for `mmldm train`, such as --dry-run or --set generator.train.steps=1000]
# Environment: GPUS (1), CLIPS to sample (2048), ROWS of the table for baselines (NAME[:a2v|:v2a]=FOLDER ...). The same command resumes wherever it stopped.
set -euo pipefail
source "$(dirname "$0")/paper.sh"
reproduce aist "${1:?DATA is missing}/train" "${2:?OUT is missing}" "${@:3}"
