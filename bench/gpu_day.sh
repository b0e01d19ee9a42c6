#!/usr/bin/env bash
# What to run where a GPU is lent for a quarter of an hour: a training of `brain`, then the tables on speed.
#
#     bash bench/gpu_day.sh [--out DIR] [--heads HEADS --bodies BODIES] [--dry]
#
# HEADS, BODIES: see sh/brain.sh; without them heads are made up, and the training only shows that it runs and how fast.
# --dry: all of it in miniature on the CPU, in three minutes of one core (a minute of them for a C++ compiler); sh/test.sh does that.
# Each part has a time limit of its own, and what it printed is in DIR/PART.log at any moment. A part that fails stops no other,
# and the script ends with 1 then. So does one that has a table with an error in it, other than too little memory.
set -u
cd "$(dirname "$0")/.."
out=gpu_day heads= bodies= dry=
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    --heads) heads=$2; shift 2 ;;
    --bodies) bodies=$2; shift 2 ;;
    --dry) dry=yes; shift ;;
    *) echo "bench/gpu_day.sh knows --out, --heads, --bodies and --dry, not $1" >&2; exit 2 ;;
  esac
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
python - "$dry" <<'P' || exit 2
import sys
import torch
if not sys.argv[1] and not torch.cuda.is_available(): sys.exit('there is no GPU here; --dry tries everything on the CPU')
P

failed=()
part() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  printf '\n== %s (at most %s s): %s\n' "$name" "$limit" "$*"
  if timeout "$limit" "$@" 2>&1 | tee "$out/$name.log"; then how=done; else how="ended with ${PIPESTATUS[0]}"; failed+=("$name"); fi
  printf '%s: %s after %s s\n' "$name" "$how" "$((SECONDS-start))" | tee -a "$out/summary.log"
}
set -o pipefail
: >"$out/summary.log"

if [ -z "$heads" ] || [ -z "$bodies" ]; then
  heads="$out/heads" bodies="$out/bodies"
  python bench/made_heads.py "$heads" "$bodies" || exit 1
fi
if [ -n "$dry" ]; then
  export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 # threads that wait for one another take several times as long where another program has a core
  part brain 600 env MORE='--steps 3 --device cpu' WORKERS=0 bash sh/brain.sh "$heads" "$bodies" "$out/brain"
  part forward 600 python bench/forward.py --preset nano --sizes 64x64x32 --sentences 2 --prompts yes --repeats 1
  part train 900 python bench/train.py --small --seconds .1 --rounds 1
  part stages 600 python bench/segment.py stages --size 40,40,32 --window 64,64,32 --sentences 2 --rounds 1
else
  part brain 420 env MINUTES=6 PRECISION=bf16 WORKERS=8 bash sh/brain.sh "$heads" "$bodies" "$out/brain"
  part forward 120 python bench/forward.py --device cuda --sizes 192x192x192,224x224x128 --sentences 15
  part train 120 python bench/train.py
  part stages 120 python bench/segment.py stages --device cuda
fi
log="$out/brain/run/log.csv"
if [ -f "$log" ]; then
  printf '\nthe training, the head of its log and the last lines\n'
  { head -1 "$log"; tail -n +2 "$log" | tail -3; } | tee -a "$out/brain.log"
fi
printf '\n'
cat "$out/summary.log"
[ ${#failed[@]} -eq 0 ] || { echo "not done: ${failed[*]}; see $out" >&2; exit 1; }
