#!/bin/sh
# What the challenge runs inside the container: every case in inputs/, one file of the same name in outputs/.
# Without a container: sh sh/predict.sh, in a folder that has inputs/. Weights: $MEDALS_WEIGHTS, else the bundled ones.
set -eu
exec medals challenge inputs -o outputs --weights "${MEDALS_WEIGHTS:-nano}" "$@"
