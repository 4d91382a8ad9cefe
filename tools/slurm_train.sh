#!/usr/bin/env bash
# Train under Slurm, one process per task; run inside an allocation (salloc) or a batch script:
#   tools/slurm_train.sh CONFIG [tools/train.py options]
# SRUN_ARGS passes options to srun, such as SRUN_ARGS="--ntasks-per-node 8 --gpus-per-task 1".
exec bash "$(dirname "$0")/srun.sh" "$0" tools/train.py "" "$@"
