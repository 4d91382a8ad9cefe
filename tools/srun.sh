#!/usr/bin/env bash
# Shared by slurm_test.sh and slurm_train.sh: start a program in all tasks of an allocation.
#   tools/srun.sh SCRIPT PROGRAM FLAG CONFIG [the program's options]
# SCRIPT shows its first lines if arguments are missing; FLAG precedes the configuration, "" for none.
# SRUN_ARGS passes options to srun; MASTER_ADDR and PORT override the rendezvous address.
set -euo pipefail
script=$1 program=$2 flag=$3
shift 3
if [ $# -lt 1 ] || [ -z "${SLURM_JOB_ID:-}" ]; then
  sed -n '2,4s/^# //p' "$script" >&2
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
exec srun --kill-on-bad-exit=1 ${SRUN_ARGS:-} "${PYTHON:-$python}" "$root/$program" ${flag:+"$flag"} "$config" \
  --launcher slurm "$@"
