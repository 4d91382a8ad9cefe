#!/usr/bin/env bash
# Train on several GPUs (or CPU processes) of one or more machines:
#   tools/dist_train.sh CONFIG PROCESSES [tools/train.py options]
# Several machines: run the same command on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
# MAX_RESTARTS=3 with --resume restarts automatically, up to three times, after a process dies.
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,5s/^# //p' "$0" >&2
  exit 2
fi
config=$1 processes=$2
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)
exec bash "$root/tools/torchrun.sh" "$processes" "$root/tools/train.py" "$config" --launcher pytorch "$@"
