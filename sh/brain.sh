#!/usr/bin/env bash
# Train the weights `brain`: heads in any contrast from label maps alone, and bodies in which no brain is.
#
#     bash sh/brain.sh HEADS BODIES OUT
#
# HEADS:  the label maps that SynthSeg is trained on (github.com/BBillot/SynthSeg, data/training_label_maps, Apache-2.0)
# BODIES: CTs without a head, NAME_img.nii.gz, with organs NAME_lab.nii.gz and their names in labels.json
# NECKS:  if set, CTs of head and neck in the challenge's layout (as `sh/organs.sh headneck` takes them), of which what lies below the brainstem is shown
# OUT:    a folder; what is there already is not made again, and a training that was stopped goes on
#
# MINUTES (default 180) is the time to train, from the weights `brain` that medals has (see brain/README.md) or those in $BEGIN, on voxels of MM (default 1.5,1.5,1.5) with the
# peak learning rate LR (default .002). QUERIES (default 20) sentences are asked of a window, among them each time those of ALWAYS, with commas between them; more flags for `medals train` stand in MORE.
# PRECISION=bf16 takes a third of the time on a CPU that multiplies it (auto is float32 there).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)/brain
heads=$1 bodies=$2 out=$3
mkdir -p "$out/raw"

[ -d "$out/raw/Dataset010_heads" ] || python "$here/data.py" heads "$heads" "$out/raw"
[ -d "$out/raw/Dataset014_ctbodies" ] || python "$here/data.py" bodies "$bodies" "$out/raw"
[ -z "${NECKS:-}" ] || [ -d "$out/raw/Dataset018_ctnecks" ] || python "$here/data.py" necks "$NECKS" "$out/raw"
stores=()
for name in Dataset010_heads Dataset012_bodies Dataset014_ctbodies Dataset016_necks Dataset018_ctnecks; do
  [ -d "$out/raw/$name" ] || continue
  store="$out/$name"
  stores+=("$store")
  [ -f "$store/manifest.jsonl" ] && continue
  medals index "$out/raw/$name" -o "$out/$name.jsonl"
  medals prepare "$out/$name.jsonl" -o "$store" --preset nano --spacing "${MM:-1.5,1.5,1.5}" --patch 64,64,64
done

resume=()
[ -f "$out/run/run.json" ] && resume=(--resume --change)
medals train "${stores[@]}" -o "$out/run" "${resume[@]}" \
  --weights "${BEGIN:-brain}" --text small --datasets "$here/tissues.toml" \
  --patch 64,64,64 --queries "${QUERIES:-20}" --always "${ALWAYS:-}" --least 5 --blank 20 --empty .01 --forced .5 --far .15 --paint clear --lr "${LR:-.002}" \
  --minutes "${MINUTES:-180}" --precision "${PRECISION:-auto}" --workers "${WORKERS:-1}" \
  --save-every 100 --seed 0 ${MORE:-}
echo "the weights are in $out/run/last; try: medals segment head.nii.gz brain --weights $out/run/last"
