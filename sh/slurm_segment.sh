#!/usr/bin/env bash
# A cohort as an array of 16 jobs with one GPU each, under SLURM: sbatch sh/slurm_segment.sh IMAGES... SENTENCES... -o OUT [flags of `medals segment`]
# The scans and OUT lie on a disk that every node sees. Each job takes its share by itself, the largest scans first. A job that was ended can be queued again
# and goes on with what is left of its share; a last job without an array does what is left of all: medals segment (the same words).
#SBATCH --job-name=medals
#SBATCH --array=1-16
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --output=medals-%A_%a.out
set -euo pipefail
exec medals segment "$@"
