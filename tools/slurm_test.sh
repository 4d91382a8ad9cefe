#!/usr/bin/env bash
# Evaluate under Slurm, one process per task; run inside an allocation (salloc) or a batch script:
#   tools/slurm_test.sh CONFIG [eval.py options]
# SRUN_ARGS passes options to srun, such as SRUN_ARGS="--ntasks-per-node 8 --gpus-per-task 1".
exec bash "$(dirname "$0")/srun.sh" "$0" eval.py "--config" "$@"
