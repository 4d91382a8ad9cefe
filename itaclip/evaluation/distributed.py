"""Joining the processes of a distributed run."""

from __future__ import annotations

import atexit
import os

import torch
import torch.distributed
from mmengine import dist

from itaclip.errors import ItaclipError


def join(launcher: str) -> None:
    """Join the other processes: over NCCL with GPUs, over gloo without; "none" is alone.

    Raises:
        ItaclipError: the launcher did not start this process, or Slurm without GPUs.
    """
    if launcher == "none":
        return
    variable = {"pytorch": "RANK", "slurm": "SLURM_PROCID"}[launcher]
    if variable not in os.environ:
        raise ItaclipError(f"--launcher {launcher}: ${variable} is not set; start with tools/dist_test.sh or srun.")
    if torch.cuda.is_available():
        dist.init_dist(launcher, backend="nccl")
    elif launcher == "slurm":
        raise ItaclipError("--launcher slurm: no GPU was found; use --launcher pytorch for CPU processes.")
    else:  # mmengine's init_dist would ask for a GPU
        torch.distributed.init_process_group("gloo")
    atexit.register(torch.distributed.destroy_process_group)
