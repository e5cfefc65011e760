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
  # Clips are written as they are made; the same command goes on after an interruption.
  local total=${CLIPS:-2048}
  mmldm generate --model "$out/run" --out "$out" --name samples -n "$total"
  # As MM-Diffusion does, against the training clips; docs/evaluation.md says which weights to put where, and where this misleads.
  mmldm evaluate "$out/samples" "$out/run/manifest.jsonl" --protocol mm-diffusion-256 --samples "$total" --out "$out/evaluation"
}
