"""Training the zero-shot methods: streams, runs, kills, processes, programs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from processes import start_python
from torch.utils.data import DataLoader
from zero_shot_helpers import METHODS, UNSEEN, batch, samples, small_config, small_model, total

from itaclip.common.demo.dataset import ensure_demo_dataset
from itaclip.errors import ItaclipError
from itaclip.research.openmmlab.configuration import load_config
from itaclip.research.zero_shot.checkpoints import read_checkpoint
from itaclip.research.zero_shot.commands import get_flops
from itaclip.research.zero_shot.commands import test as testing
from itaclip.research.zero_shot.commands import train as training
from itaclip.research.zero_shot.openmmlab import ReplayableDataset, StreamSampler, ZeroShotIoU, streams
from itaclip.research.zero_shot.openmmlab.scenes import ensure_training_scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with training scenes, drawn once for all tests in this file."""
    root = tmp_path_factory.mktemp("zero_shot")
    ensure_training_scenes(root / "training", UNSEEN, 12)
    return root


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bitwise equality holds only for a fixed number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- steps -------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_loss_falls_and_only_what_is_trained_changes(name: str) -> None:
    model = small_model(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    images, labels = batch(4)
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = total(model.loss(images, samples(labels)))
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert np.mean(values[-5:]) < 0.6 * np.mean(values[:5])
    for key, parameter in model.named_parameters():
        same = torch.equal(parameter, before[key])
        trained = key.startswith("decode_head.") or "prompt" in key
        assert parameter.requires_grad == trained, key
        assert same != trained, key


@pytest.mark.parametrize("name", METHODS)
def test_layers_of_a_decoder_start_equal_and_clip_starts_from_its_weights(name: str) -> None:
    model = small_model(name)
    state = model.decode_head.state_dict()
    prefix = "cascade_decoders.1" if name == "cascade_clip" else "decoder_v"
    for key in ("q.weight", "k.bias"):
        layers = [state[f"{prefix}.layers.{i}.multihead_attn.{key}"] for i in range(3)]
        assert torch.equal(layers[0], layers[1])
        assert torch.equal(layers[0], layers[2])
    if name == "cascade_clip":
        expected = torch.tensor([0.1353353, 0.6065307, 1.0])
        torch.testing.assert_close(model.decode_head.weights_s1.data, expected)
        assert model.backbone.proj_layers.std().item() == pytest.approx(128**-0.5, rel=0.02)
    else:
        bridge = model.backbone.region_level_bridge
        assert torch.equal(bridge[0], model.backbone.class_embedding + model.backbone.positional_embedding[0])
        assert torch.equal(bridge[0], bridge[3])
        assert model.decode_head.recovery_decoder.linear_q_out.weight.std().item() == pytest.approx(0.02, rel=0.05)


# --- streams -----------------------------------------------------------------


def tickets(length: int, count: int, seed: int = 0, start: int = 0) -> list[tuple[int, int, int]]:
    sampler = StreamSampler(range(length), seed)
    sampler.start = start
    return list(islice(sampler, count))


def test_stream_goes_through_every_epoch_and_starts_anywhere() -> None:
    whole = tickets(7, 21)
    for epoch in range(3):
        assert sorted(index for index, _, _ in whole[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert whole[:7] != [(index, seed, position - 7) for index, seed, position in whole[7:14]]
    assert tickets(7, 11, start=10) == whole[10:]
    assert tickets(7, 21, seed=1) != whole


def test_processes_share_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tickets(7, 12)
    monkeypatch.setattr(streams.dist, "get_world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(streams.dist, "get_rank", lambda rank=rank: rank)
        parts.append(tickets(7, 6))
        assert tickets(7, 4, start=2) == parts[-1][2:]
    for step in range(3):  # batches of 2 on each of 2 processes are batches of 4 on one
        both = sorted(parts[0][2 * step : 2 * step + 2] + parts[1][2 * step : 2 * step + 2], key=lambda t: t[2])
        assert both == whole[4 * step : 4 * step + 4]


def test_augmentation_depends_only_on_the_sample_key(folder: Path) -> None:
    config = load_config(small_config(folder))
    dataset = ReplayableDataset(config.train_dataloader.dataset.dataset)
    a, b = (3, 0, 17), (3, 0, 18)
    first = dataset[a]["inputs"]
    np.random.default_rng().random()
    np.random.random(5)
    outside = np.random.get_state()[1].copy()
    other = dataset[b]["inputs"]
    assert np.array_equal(np.random.get_state()[1], outside)  # the caller's generator is unchanged
    assert torch.equal(dataset[a]["inputs"], first)
    assert not torch.equal(other, first)
    loaders = [DataLoader(dataset, batch_size=2, sampler=[a, b, (1, 0, 19), (2, 0, 20)], num_workers=n, collate_fn=list)
               for n in (0, 2)]  # fmt: skip
    for ours, theirs in zip(*loaders, strict=True):
        for x, y in zip(ours, theirs, strict=True):
            assert torch.equal(x["inputs"], y["inputs"])
            assert torch.equal(x["data_samples"].gt_sem_seg.data, y["data_samples"].gt_sem_seg.data)


def test_training_masks_hide_the_unseen_classes(folder: Path) -> None:
    for path in sorted((folder / "training/SegmentationSeen").iterdir()):
        seen = np.asarray(Image.open(path))
        whole = np.asarray(Image.open(folder / "training/SegmentationClass" / path.name))
        assert not np.isin(seen, range(24, 29)).any()
        assert np.array_equal(seen, np.where(whole >= 24, 255, whole))
    with pytest.raises(ItaclipError, match="12 scenes"):
        ensure_training_scenes(folder / "training", UNSEEN, 13)


# --- runs --------------------------------------------------------------------


def train(config: Path, work_dir: Path, *arguments: str) -> dict[str, torch.Tensor]:
    """Train in this process; returns the parameters of the last checkpoint."""
    assert training.main("", [str(config), "--work-dir", str(work_dir), *arguments]) == 0
    newest = training.newest_checkpoint(work_dir)
    assert newest is not None
    return read_checkpoint(newest).state


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


@pytest.fixture(scope="module")
def whole_run(folder: Path) -> dict[str, torch.Tensor]:
    return train(small_config(folder), folder / "whole")


@pytest.mark.slow
def test_training_is_deterministic_for_a_seed(folder: Path, tmp_path: Path, whole_run: dict[str, torch.Tensor]) -> None:
    again = train(
        small_config(folder),
        tmp_path,
        "--cfg-options",
        "train_dataloader.num_workers=1",
        "train_dataloader.persistent_workers=True",
    )
    assert_equal(again, whole_run)
    assert not torch.equal(train(small_config(folder), tmp_path / "other", "--seed", "1")["backbone.prompt_proj.bias"],
                           whole_run["backbone.prompt_proj.bias"])  # fmt: skip


def test_checkpoints_are_kept_as_configured(folder: Path, whole_run: dict[str, torch.Tensor]) -> None:
    assert sorted(path.name for path in (folder / "whole").glob("*.pth")) == ["iter_4.pth", "iter_6.pth"]
    meta = read_checkpoint(folder / "whole/iter_6.pth").content["meta"]
    assert (meta["iter"], meta["mode"], meta["method"]) == (6, "inductive", "Cascade-CLIP")
    assert len(meta["classes"]) == 29


def test_a_killed_run_resumes_with_the_same_losses(
    folder: Path, tmp_path: Path, whole_run: dict[str, torch.Tensor]
) -> None:
    """SIGKILL after the checkpoint of iteration 4; the resumed run equals the uninterrupted one bit for bit."""
    slow = 'custom_hooks = [dict(type="SeedStep"), dict(type="SlowHook")]\n'
    plugin = tmp_path / "slow_hook.py"
    plugin.write_text(
        "import time\nfrom mmengine.hooks import Hook\nfrom mmseg.registry import HOOKS\n\n"
        "@HOOKS.register_module()\nclass SlowHook(Hook):\n"
        "    def before_train_iter(self, runner, batch_idx, data_batch=None):\n"
        "        time.sleep(60 if runner.iter == 5 else 0)\n"
    )
    imports = 'custom_imports = dict(imports=["itaclip.research.zero_shot.openmmlab", "slow_hook"])\n'
    config = small_config(tmp_path, extra=slow + imports)
    (tmp_path / "training").symlink_to(folder / "training")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    run = start_python(ROOT / "tools/train.py", config, "--work-dir", tmp_path / "run", cwd=ROOT, env=environment)
    deadline = time.monotonic() + 200
    while not (tmp_path / "run/iter_4.pth").is_file():
        assert run.poll() is None, run.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "run/iter_6.pth").exists()
    resumed = train(small_config(folder), tmp_path / "run", "--resume")
    assert_equal(resumed, whole_run)


@pytest.mark.slow
def test_two_processes_train_as_one(folder: Path, tmp_path: Path) -> None:
    """Half the batch in each of two processes, without dropout, gives the same parameters after three steps."""
    plain = "model.encoder.prompt_dropout=0.0", "model.head.dropout=0.0", "optim_wrapper.optimizer.type=SGD"
    plain += ("optim_wrapper.optimizer.lr=0.002", "train_cfg.max_iters=3")
    config = small_config(folder, "clip_rc")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", str(ROOT / "tools/dist_train.sh"), str(config), "2", "--work-dir", str(tmp_path / "two"),
         "--cfg-options", *plain],
        capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    two = read_checkpoint(tmp_path / "two/iter_3.pth").state
    one = train(config, tmp_path / "one", "--cfg-options", *plain, "train_dataloader.batch_size=4")
    start = small_model("clip_rc").state_dict()
    moved = 0.0
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=5e-6, msg=lambda text, key=key: f"{key}: {text}")
        moved = max(moved, float((value - start[key]).abs().max())) if "prompt_proj" in key else moved
    assert moved > 1e-4


@pytest.mark.slow
def test_transductive_training_starts_from_an_inductive_checkpoint(
    folder: Path, tmp_path: Path, whole_run: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ('model["mode"] = "transductive"\ntrain_dataloader["dataset"]["dataset"]["data_prefix"] = '
             'dict(img_path="JPEGImages", seg_map_path="SegmentationClass")\n')  # fmt: skip
    config = small_config(tmp_path, extra=extra, iterations=2)
    (tmp_path / "training").symlink_to(folder / "training")
    with pytest.raises(ItaclipError, match="--load-from"):
        training.main("", [str(config), "--work-dir", str(tmp_path / "run")])
    state = train(config, tmp_path / "run", "--load-from", str(folder / "whole/iter_6.pth"))
    assert torch.equal(state["backbone.proj_layers"], whole_run["backbone.proj_layers"])  # the random draw is kept
    assert not torch.equal(state["backbone.prompt_proj.bias"], whole_run["backbone.prompt_proj.bias"])


def test_a_checkpoint_is_tested_and_reported(
    folder: Path, tmp_path: Path, whole_run: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(folder, extra='test_dataloader["dataset"]["indices"] = 3\n')
    checkpoint = folder / "whole/iter_6.pth"
    assert testing.main("", [str(config), str(checkpoint), "--work-dir", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["images"] == 3
    assert report["trained"]["iter"] == 6
    assert 0 <= report["mIoU(S)"] <= 100
    assert "hIoU" in capsys.readouterr().out


@pytest.mark.slow
def test_unreadable_images_stop_neither_training_nor_test(
    folder: Path, tmp_path: Path, whole_run: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(folder / "training", tmp_path / "training")
    broken = sorted((tmp_path / "training/JPEGImages").iterdir())
    for path in broken[:4]:
        path.write_bytes(b"no picture")
    train(small_config(tmp_path), tmp_path / "run")
    assert f"{broken[0]}: skipped in training" in caplog.text or f"{broken[1]}: skipped" in caplog.text
    config = load_config(small_config(tmp_path))
    for path in broken[4:]:
        path.write_bytes(b"")
    with pytest.raises(ItaclipError, match=r"scene_.*10 consecutive images cannot be read"):
        ReplayableDataset(config.train_dataloader.dataset.dataset)[(0, 0, 0)]

    ensure_demo_dataset(tmp_path / "held_out", 3)
    (tmp_path / "held_out/JPEGImages/scene_001.jpg").write_bytes(b"no picture")
    status = testing.main(
        "", [str(small_config(tmp_path)), str(folder / "whole/iter_6.pth"), "--work-dir", str(tmp_path)]
    )
    assert status == 1
    assert "scene_001.jpg: skipped in the test" in caplog.text
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert (report["images"], report["unreadable"]) == (3, 1)


# --- metric ------------------------------------------------------------------


def scores(classes: int, unseen: tuple[int, ...], pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    metric = ZeroShotIoU(unseen=unseen)
    metric.dataset_meta = {"classes": [f"class {k}" for k in range(classes)]}
    metric.process(None, [{"pred_sem_seg": {"data": found}, "gt_sem_seg": {"data": truth}} for found, truth in pairs])
    return metric.compute_metrics(metric.results)


def test_metric_counts_seen_unseen_and_their_harmonic_mean() -> None:
    truth = torch.tensor([[0, 0, 1, 1], [2, 2, 2, 255]])
    found = torch.tensor([[0, 1, 1, 1], [2, 0, 2, 0]])
    # class 0: 1 of 3, class 1: 2 of 3, class 2: 2 of 3; class 3 is nowhere
    result = scores(4, (2, 3), [(found, truth)])
    assert result["mIoU(S)"] == pytest.approx(50)
    assert result["mIoU(U)"] == pytest.approx(200 / 3)
    assert result["hIoU"] == pytest.approx(2 * 50 * 200 / 3 / (50 + 200 / 3))
    assert result["pAcc"] == pytest.approx(500 / 7)


def test_metric_without_unseen_classes_has_no_harmonic_mean() -> None:
    labels = torch.tensor([[0, 1]])
    result = scores(2, (), [(labels, labels)])
    assert result["mIoU(S)"] == 100
    assert np.isnan([result["mIoU(U)"], result["hIoU"]]).all()
    assert scores(2, (1,), [(1 - labels, labels)])["hIoU"] == 0


# --- programs ----------------------------------------------------------------


def test_malformed_options_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for main in (training.main, testing.main, get_flops.main):
        with pytest.raises(SystemExit, match="2"):
            main("", ["x.py", "--cfg-options", "model.mode"])
        assert "--cfg-options: expected KEY=VALUE" in capsys.readouterr().err


def test_programs_explain_bad_input(folder: Path, tmp_path: Path, whole_run: dict[str, torch.Tensor]) -> None:
    config = small_config(folder)
    cases: list[tuple[Callable[..., int], list[str], str]] = [
        (training.main, [str(ROOT / "configs/cfg_demo.py")], "expected 'ZeroShotSegmentor'"),
        (training.main, [str(tmp_path / "none.py")], "no such configuration"),
        (training.main, [str(config), "--cfg-options", "model.classes=['cat','dog']", "model.unseen=['dog']"],
         "2 classes, but the data set has 29; they differ at label 0"),
        (training.main, [str(ROOT / "configs/zero_shot/clip_rc_voc_inductive.py"), "--data-root", str(tmp_path),
                         "--weights", "demo",
                         "--cfg-options", "model.encoder.image_size=128", "model.windows.stride=100"],
         "JPEGImages: does not exist"),
        (testing.main, [str(config), str(tmp_path / "none.pth")], "no such checkpoint"),
    ]  # fmt: skip
    for main, arguments, message in cases:
        with pytest.raises(ItaclipError, match=message):
            main("", [*arguments, "--work-dir", str(tmp_path / "run")])
    with pytest.raises(ItaclipError, match=r"iter_6\.pth: belongs to an earlier run.*--resume"):
        training.main("", [str(config), "--work-dir", str(folder / "whole")])
    with pytest.raises(ItaclipError, match="trained with seed 0, but this run has 1"):
        training.main("", [str(config), "--work-dir", str(folder / "whole"), "--resume", "--seed", "1"])


def test_masks_with_invalid_labels_are_rejected_before_training(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "training", tmp_path / "training")
    for path in (tmp_path / "training/SegmentationSeen").iterdir():
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), 77)).save(path)
    with pytest.raises(ItaclipError, match="contains label 77, but DemoTrainingDataset has labels"):
        train(small_config(tmp_path), tmp_path / "run")


def test_get_flops_measures_both_versions(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    arguments = ["--baseline", "--repeats", "1", "--size", "40", "50", "--out", str(out)]
    assert get_flops.main("", [str(small_config(folder)), *arguments]) == 0
    figures = json.loads(out.read_text())
    tokens, width = 1 + 2 + 16, 128
    encoder = 12 * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width) + 2 * 16 * 192 * width
    assert encoder < figures["gflops_window"] * 1e9 < 1.3 * encoder
    assert figures["trained_parameters"] < figures["parameters"]
    for name in ("measured", "baseline"):
        assert figures[name]["seconds"]["training_step"] > 0
        assert figures[name]["peak_memory_mib"]["process"] > 0
