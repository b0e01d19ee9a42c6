#!/usr/bin/env bash
# Train the weights `hippocampus` or `headneck` from real scans in challenge files (npz).
#
#     bash sh/organs.sh hippocampus DATA OUT      Task04 of the Medical Segmentation Decathlon (CC BY-SA 4.0)
#     bash sh/organs.sh headneck DATA OUT         OpenKBP (github.com/ababier/open-kbp, MIT)
#
# DATA: a folder with 3D_train_npz_all/MR/MR_hippocampus or 3D_train_npz_all/CT/CT_headneck
# OUT:  a folder; what is there already is not made again, and a training that was stopped goes on
# BODIES: if set, CTs of other parts of the body, NAME_img.nii.gz, with organs NAME_lab.nii.gz and their names in labels.json, in which `headneck` learns to say no
#
# MINUTES (default 90) is the time to train, from the weights `brain` or those in $BEGIN, with the peak learning rate LR (default .002); a fifth of the
# patients is kept for validation. More flags for `medals train` stand in MORE. `python sh/bundle.py NAME OUT/run` then puts the weights into the package.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
name=$1 data=$2 out=$3
case "$name" in
  hippocampus) spacing=1,1,1 patch=32,64,32 batch=2 queries=4 windows=auto ;;
  headneck) spacing=2.5,2.5,2.5 patch=64,64,64 batch=1 queries=8 windows=one ;; # one grey window, as these files were made
  *) echo "no recipe for $name; there is hippocampus and headneck" >&2; exit 2 ;;
esac
mkdir -p "$out"

[ -f "$out/cases.jsonl" ] || medals index "$data" --prompts "$here/organs/$name.json" -o "$out/cases.jsonl"
[ -f "$out/store/manifest.jsonl" ] || medals prepare "$out/cases.jsonl" -o "$out/store" --preset nano --spacing "$spacing" --patch "$patch" --frame LPS
stores=("$out/store")

more=()
if [ -n "${BODIES:-}" ]; then
  elsewhere=$out/elsewhere
  [ -d "$elsewhere" ] || python "$here/organs/elsewhere.py" "$BODIES" "$here/organs/$name.json" "$elsewhere"
  [ -f "$elsewhere.jsonl" ] || medals index "$elsewhere" --prompts "$elsewhere/prompts.json" -o "$elsewhere.jsonl"
  [ -f "$out/bodies/manifest.jsonl" ] || medals prepare "$elsewhere.jsonl" -o "$out/bodies" --preset nano --spacing "$spacing" --patch "$patch" --frame LPS
  stores+=("$out/bodies")
  more=(--datasets "$here/organs/$name.toml" --least 2 --blank 8 --empty .01 --far .15)
fi

resume=()
[ -f "$out/run/run.json" ] && resume=(--resume --change)
medals train "${stores[@]}" -o "$out/run" "${resume[@]}" \
  --weights "${BEGIN:-brain}" --text small --patch "$patch" --queries "$queries" --windows "$windows" --batch "$batch" --lr "${LR:-.002}" \
  --minutes "${MINUTES:-90}" --precision "${PRECISION:-auto}" --workers "${WORKERS:-0}" --holdout .2 \
  --val-every 500 --val-cases 12 --val-last 0 --save-every 200 --seed 0 "${more[@]}" ${MORE:-}
echo "the weights are in $out/run/best; try: medals segment scan.nii.gz ... --weights $out/run/best"
