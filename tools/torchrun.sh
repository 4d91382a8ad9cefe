#!/usr/bin/env bash
# Shared by dist_test.sh and dist_train.sh: start a program in several processes with torchrun.
#   tools/torchrun.sh SCRIPT PROGRAM FLAG CONFIG PROCESSES [the program's options]
# SCRIPT shows its first lines if arguments are missing; FLAG precedes the configuration, "" for none.
# NNODES, NODE_RANK, MASTER_ADDR and PORT: for several machines. MAX_RESTARTS: restarts after a crash.
# LOCAL_ADDR: this machine's address, if its host name does not resolve.
set -euo pipefail
script=$1 program=$2 flag=$3
shift 3
if [ $# -lt 2 ]; then
  sed -n '2,5s/^# //p' "$script" >&2
  exit 2
fi
config=$1 processes=$2
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python
cores=$(getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > processes ? cores / processes : 1))}"
nodes=${NNODES:-1}
if [ "$nodes" -eq 1 ] && [ -z "${PORT:-}" ]; then # a free port, so that runs do not collide
  place=(--standalone --local-addr 127.0.0.1)
else # this rendezvous restarts all machines when one restarts
  place=(--nnodes "$nodes" --rdzv-backend c10d --rdzv-endpoint "${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}"
    --rdzv-conf "is_host=$((${NODE_RANK:-0} == 0))" --rdzv-id "${RUN_ID:-itaclip}")
  export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # a shared store would keep old addresses of processes
  if [ -n "${LOCAL_ADDR:-}" ]; then place+=(--local-addr "$LOCAL_ADDR"); fi
fi
exec "${PYTHON:-$python}" -m torch.distributed.run "${place[@]}" \
  --nproc-per-node "$processes" --max-restarts "${MAX_RESTARTS:-0}" "$root/$program" ${flag:+"$flag"} "$config" \
  --launcher pytorch "$@"
