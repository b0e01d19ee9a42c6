#!/usr/bin/env bash
# The published coarse network: windows of 224x224x128 at 1.5x1.5x3 mm, two GPUs with two samples each, 102,000 steps in five stages.
#
#   medals index CVPR-BiomedSegFM/3D_train_npz_all -o all.jsonl --prompts CVPR25_TextSegFMData_with_class.json
#   medals prepare all.jsonl -o coarse --preset coarse
#   sh/train_coarse.sh coarse -o run-coarse            # --resume goes on; any flag of `medals train` can be added
#
# --compat trains as published (loss, weight decay, sampling, augmentation); without it the defects are mended.
set -euo pipefail
exec torchrun --standalone --nproc_per_node "${GPUS:-2}" "$(dirname "$0")/train.sh" \
  --model medals-s --text medals-s-text --batch 4 --queries 32 \
  --stages 40000,30000,20000,10000,2000 --warmups 2000,2000,2000,1000,200 --peaks 1e-4,4e-5,2e-5,2e-5,1e-5 \
  --betas 0.9,0.999 --weight-decay 0.01 --ema 0.999 --precision auto --recompute 1 --channels-last \
  --workers 4 --holdout 0.02 --val-every 5000 --save-every 1000 --log-every 100 --patience 3 "$@"
