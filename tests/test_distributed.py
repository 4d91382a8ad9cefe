"""Several processes and machines give exactly the results of a single process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from distributed_helpers import Demo, demo, finish, killed_at_the_end, ranks_of, two_machines, wait_until_counted
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.evaluation import IoUMetric

from itaclip.errors import ItaclipError
from itaclip.research.evaluation.command import main
from itaclip.research.evaluation.confusion import confusion_matrix
from itaclip.research.evaluation.counts import IoUCounts, to_sparse
from itaclip.research.evaluation.loading import plan_batches

__all__ = ["demo"]


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(demo: Demo, tmp_path: Path) -> None:
    """As the next test shows with three, one of them killed."""
    work = tmp_path / "two"
    with killed_at_the_end(running := demo.start(work, 2)):
        status, out, errors = finish(running)
    assert status == 0, errors[-3000:]
    assert demo.assert_same(work)["run"]["processes"] == 2
    assert out.count("Results in percent") == 1


def test_two_machines_restart_automatically_after_a_crash(demo: Demo, tmp_path: Path) -> None:
    """Three processes on two launchers give the numbers of one; one is killed half-way, and MAX_RESTARTS restarts them.

    32 images are not a multiple of the batch size 5 nor of the processes' share.
    """
    work = tmp_path / "machines"
    machines = two_machines(demo, work, 2, MAX_RESTARTS="1")
    with killed_at_the_end(*machines):
        counted = wait_until_counted(work, 6, machines[0])
        os.kill(ranks_of(machines[1])[0], signal.SIGKILL)
        ends = [finish(machine) for machine in machines]
    assert [status for status, _, _ in ends] == [0, 0], ends[0][2][-3000:] + ends[1][2][-3000:]
    found = demo.assert_same(work)
    assert sum(out.count("Results in percent") for _, out, _ in ends) == 1  # only the first process prints
    assert found["run"]["processes"] == 3
    assert found["run"]["resumed_images"] >= counted


@pytest.mark.parametrize(("launcher", "script"), [("pytorch", "dist_test.sh"), ("slurm", "slurm_test.sh")])
def test_a_process_without_a_launcher_is_rejected(launcher: str, script: str) -> None:
    with pytest.raises(ItaclipError, match=rf"\$RANK is not set; start with tools/{script}"):
        main(["--config", str(ROOT / "configs/cfg_demo.py"), "--launcher", launcher])


def test_slurm_variables_set_rank_and_world_size(demo: Demo, tmp_path: Path) -> None:
    """A substitute for srun starts two tasks like Slurm, which tests lack; the second task finds no work."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text("#!/bin/sh\necho 127.0.0.1\n")
    (tools / "srun").write_text(
        "#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\n"
        'for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NTASKS=2 "$@" & done\n'
        "wait -n && wait -n\n"
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    work = tmp_path / "slurm"
    script = ["bash", str(ROOT / "tools/slurm_test.sh"), str(demo.config), *demo.options(work), "--limit", "5"]
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": sys.executable,
                   "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "here"}  # fmt: skip
    done = subprocess.run(script, capture_output=True, text=True, check=False, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on 5 images" in done.stdout
    assert {path.name: path.read_bytes() for path in (work / "masks").iterdir()}.items() <= demo.masks.items()


# --- the sum of confusion matrices ----------------------------------------------


@given(
    seed=st.integers(0, 10_000), classes=st.integers(2, 12), shape=st.tuples(st.integers(1, 9), st.integers(1, 9))
)  # fmt: skip
@settings(max_examples=200)
def test_confusion_matrices_agree_with_iou_metric(seed: int, classes: int, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randint(0, classes, shape, generator=generator)
    truth = torch.randint(0, classes + 2, shape, generator=generator)  # including labels that are not a class
    truth[torch.rand(shape, generator=generator) < 0.2] = 255
    matrix = confusion_matrix(predicted, truth, classes)
    found = matrix.diagonal()[:-1], matrix[:, :-1].sum(0), matrix[:-1].sum(1)
    intersect, _, area, labelled = IoUMetric.intersect_and_union(predicted, truth, classes, 255)
    for ours, theirs in zip(found, (intersect, area, labelled), strict=True):
        assert ours.tolist() == theirs.tolist()
    whole, parts = IoUCounts(classes), IoUCounts(classes)
    whole.add(predicted, truth)
    parts.add_sparse(to_sparse(matrix))
    assert repr(whole.metrics()) == repr(parts.metrics())


def test_more_pixels_of_a_class_than_float32_can_count() -> None:
    side = 4100  # 16.81 million pixels; 2^24 are 16.78
    labels = torch.zeros(side, side, dtype=torch.uint8)
    counts = IoUCounts(2)
    counts.add(labels, labels)
    assert counts.metrics().pixels == side * side


def test_a_mask_of_another_size_is_rejected_with_both_sizes() -> None:
    with pytest.raises(ItaclipError, match="the mask is 3 x 4, but its image is 5 x 6"):
        confusion_matrix(torch.zeros(5, 6, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.int64), 2)


@given(images=st.integers(0, 50), size=st.integers(1, 9), limit=st.none() | st.integers(1, 60))
def test_every_image_is_in_one_batch(images: int, size: int, limit: int | None) -> None:
    plan = plan_batches(images, size, limit)
    assert [i for batch in plan for i in batch] == list(range(min(images, limit or images)))
    assert all(len(batch) == size for batch in plan[:-1])
