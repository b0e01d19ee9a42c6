#!/usr/bin/env bash
# Two nodes with four GPUs each, under SLURM: sbatch sh/slurm_train.sh STORE -o RUN [flags of `medals train`]
# RUN and STORE lie on a disk that every node sees. Two minutes before the time is over the job gets a signal, saves, and is queued again; it then goes on.
#SBATCH --job-name=medals
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --output=medals-%j.out
set -euo pipefail
gpus=4
here=${SLURM_SUBMIT_DIR:-.}

run=run
words=("$@")
for ((i = 0; i < ${#words[@]}; i++)); do
  case ${words[i]} in
    -o | --out) run=${words[i + 1]} ;;
    --out=*) run=${words[i]#--out=} ;;
  esac
done
if compgen -G "$run/state_*.pt" >/dev/null; then words+=(--resume); fi

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "$gpus" \
  --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$head:29500" \
  "$here/sh/train.sh" "${words[@]}" &
step=$!

again() {
  kill -TERM "$step"
  wait "$step" || true
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}
trap again TERM
wait "$step"
