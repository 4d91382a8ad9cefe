#!/usr/bin/env bash
# Evaluate on several GPUs (or CPU processes) of one or more machines:
#   tools/dist_test.sh CONFIG PROCESSES [eval.py options]
# Several machines: run the same command on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
# MAX_RESTARTS=3 restarts automatically, up to three times, after a process dies.
exec bash "$(dirname "$0")/torchrun.sh" "$0" eval.py "--config" "$@"
