# Sourced by landscape.sh and aist.sh: what both do.

# reproduce RECIPE CLIPS_FOLDER OUT [words for `mmldm train`]
reproduce() {
  local recipe=$1 clips=$2 out=$3 here
  local start=(mmldm)
  here=$(dirname "${BASH_SOURCE[0]}")
  shift 3
  if ((${GPUS:-1} > 1)); then
    start=(torchrun --standalone --nproc_per_node "$GPUS" -m mmldm)
  fi

  # The paper's system: scan, KL-VAE decoder, image latents, autoencoder without and then with the critic, latents,
  # generator. OUT/run/model samples in 50 + 50 steps, which is its quality "paper".
  "${start[@]}" train "$clips" --config "$recipe" --out "$out/run" "$@"
  [[ " $* " == *" --dry-run "* ]] && return
  table2 "$recipe" "$out" "$out/run/model" table2

  # The same in seconds: the generator in 4 steps, the signal decoder in 1, a new decoder for the KL-VAE's latents.
  # OUT/model has the rows best, balanced and fast, its default; runs/count_rows.py counts them.
  "${start[@]}" distill generator "$out/run"
  "${start[@]}" distill decoder "$out/run"
  "${start[@]}" train vae --config "$out/run/config.yaml" --out "$out/light" --set "data.folder=$clips" \
    --set "vae.pretrained=$out/run/vae/export" \
    --set "vae.decoder={}" --set vae.train.learning_rate=0.0002 --set vae.train.final_learning_rate=0.03
  python "$here/bundle_model.py" "$out/run/distilled" --vae "$out/light/vae/export" --out "$out/model"
  python "$here/calibrate_outliers.py" "$out/run/manifest.jsonl" "$out/model"
  table2 "$recipe" "$out" "$out/model" table2-fast
}

# table2 RECIPE OUT MODEL FOLDER
table2() {
  # Samples of all three tasks, and the paper's Table 2 at both sizes beside them, against the training clips as
  # MM-Diffusion does; docs/evaluation.md says which weights to put where, and where this misleads. Rows for baselines:
  # ROWS="DIGAN=folder MM-Diffusion:a2v=folder", folders of their samples.
  local rows=() row
  for row in ${ROWS:-}; do rows+=(--row "$row"); done
  python "$(dirname "${BASH_SOURCE[0]}")/table2.py" "$1" "$3" "$2/run/manifest.jsonl" "$2/$4" \
    --samples "${CLIPS:-2048}" "${rows[@]}"
}
