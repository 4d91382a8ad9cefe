#!/usr/bin/env bash
# Evaluate under Slurm, one process per task; run inside an allocation (salloc) or a batch script:
#   tools/slurm_test.sh CONFIG [eval.py options]
# SRUN_ARGS passes options to srun, such as SRUN_ARGS="--ntasks-per-node 8 --gpus-per-task 1".
set -euo pipefail
if [ $# -lt 1 ] || [ -z "${SLURM_JOB_ID:-}" ]; then
  sed -n '2,4s/^# //p' "$0" >&2
  exit 2
fi
config=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
exec bash "$root/tools/srun.sh" "$root/eval.py" --config "$config" --launcher slurm "$@"
