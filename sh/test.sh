#!/usr/bin/env bash
# The one test command: notebooks and modules agree, style, notebooks run, tests pass, and what a borrowed GPU is to run runs in miniature
# on the CPU (what is compiled, only where there is a C++ compiler). Needs: pip install -e '.[dev]'
set -euo pipefail
cd "$(dirname "$0")/.."
export MEDALS_HOME="${MEDALS_HOME:-$(mktemp -d)}" HF_HUB_OFFLINE=1
export MEDALS_BACKEND=torch # the same numbers on every machine; tests of the choice set it themselves

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }
state() { git ls-files -co --exclude-standard -- medals nbs | sort | xargs sha256sum; }

step 'modules equal their notebooks, notebooks are clean'
before=$(mktemp) after=$(mktemp)
state >"$before"
nbdev_export
nbdev_clean
state >"$after"
if ! diff "$before" "$after"; then
  echo 'The files above changed under nbdev_export and nbdev_clean: edit the notebook, run both, commit both.' >&2
  exit 1
fi

step 'ruff'
ruff check .

step 'notebooks run'
OMP_NUM_THREADS=1 nbdev_test --n_workers 2 --timing

step 'tests'
pytest -q tests

step 'a day with a GPU, in miniature on the CPU'
day=$(mktemp -d)
trap 'rm -rf "$day"' EXIT
if bash bench/gpu_day.sh --dry --out "$day" >"$day/all" 2>&1; then
  cat "$day/summary.log"
else
  cat "$day/all"
  exit 1
fi

printf '\nall passed in %s s\n' "$SECONDS"
