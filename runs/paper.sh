# Sourced by landscape.sh and aist.sh: what both do.

# reproduce RECIPE CLIPS_FOLDER OUT [words for `mmldm train`]
reproduce() {
  local recipe=$1 clips=$2 out=$3 train=(mmldm train)
  shift 3
  if ((${GPUS:-1} > 1)); then
    train=(torchrun --standalone --nproc_per_node "$GPUS" -m mmldm train)
  fi
  # Scan, KL-VAE decoder, image latents, autoencoder without and then with the critic, latents, generator.
  "${train[@]}" "$clips" --config "$recipe" --out "$out/run" "$@"
  [[ " $* " == *" --dry-run "* ]] && return
  # Samples of all three tasks, and the paper's Table 2 at both sizes beside them, against the training clips as
  # MM-Diffusion does; docs/evaluation.md says which weights to put where, and where this misleads. Rows for baselines:
  # ROWS="DIGAN=folder MM-Diffusion:a2v=folder", folders of their samples.
  local rows=() row
  for row in ${ROWS:-}; do rows+=(--row "$row"); done
  python "$(dirname "${BASH_SOURCE[0]}")/table2.py" "$recipe" "$out/run" "$out/run/manifest.jsonl" "$out/table2" \
    --samples "${CLIPS:-2048}" "${rows[@]}"
}
