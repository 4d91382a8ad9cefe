#!/usr/bin/env bash
# Train on several GPUs (or CPU processes) of one or more machines:
#   tools/dist_train.sh CONFIG PROCESSES [tools/train.py options]
# Several machines: run the same command on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
# MAX_RESTARTS=3 with --resume restarts automatically, up to three times, after a process dies.
exec bash "$(dirname "$0")/torchrun.sh" "$0" tools/train.py "" "$@"
