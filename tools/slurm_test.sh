#!/usr/bin/env bash
# Evaluate under Slurm, one process per task; run inside an allocation (salloc) or a batch script:
#   tools/slurm_test.sh CONFIG [eval.py options]
# SRUN_ARGS passes options on, such as SRUN_ARGS="--ntasks-per-node 8 --gpus-per-task 1".
set -euo pipefail
if [ $# -lt 1 ] || [ -z "${SLURM_JOB_ID:-}" ]; then
  sed -n '2,4s/^# //p' "$0" >&2
  exit 2
fi
config=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python
MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}
MASTER_PORT=${PORT:-$((20000 + SLURM_JOB_ID % 20000))}
export MASTER_ADDR MASTER_PORT
# shellcheck disable=SC2086
exec srun --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
  "${PYTHON:-$python}" "$root/eval.py" --config "$config" --launcher slurm "$@"
