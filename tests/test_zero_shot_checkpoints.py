"""Checkpoints, class embeddings and configurations of the trained methods."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from mmengine.config import Config
from mmseg.registry import DATASETS
from processes import run_python
from zero_shot_helpers import GOLDEN, METHODS, small_model

from itaclip.core.clip.openai import CLIP
from itaclip.core.text import TextCache, TextEncoder
from itaclip.errors import ItaclipError
from itaclip.research.zero_shot import recorded
from itaclip.research.zero_shot.checkpoints import load_parameters, read_checkpoint, write_checkpoint
from itaclip.research.zero_shot.classes import ClassSplit
from itaclip.research.zero_shot.commands.train import newest_checkpoint
from itaclip.research.zero_shot.network import METHODS as NETWORKS
from itaclip.research.zero_shot.texts import TEMPLATES, class_embeddings

CONFIGS = sorted((ROOT / "configs/zero_shot").glob("c*_*.py"))


def published_like(name: str) -> tuple[dict[str, torch.Tensor], Any]:
    """The state of a checkpoint with all published names, including unused ones, and a network for it."""
    arrays = dict(np.load(GOLDEN / f"{name}_seed0.npz"))
    state = recorded.make_state(arrays)
    state["decode_head.loss_decode.criterion.empty_weight"] = torch.ones(5)
    state["text_encoder.token_embedding.weight"] = torch.zeros(10, 4)
    return state, recorded.rebuild(arrays)


# --- checkpoints -------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_published_names_load_and_unused_ones_are_reported(name: str, tmp_path: Path) -> None:
    state, recording = published_like(name)
    path = tmp_path / "published.pth"
    meta = {"CLASSES": recording.split.classes, "PALETTE": [[0, 0, 0]] * 6, "iter": 20000, "config": "x = 1"}
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "meta": meta}, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.classes == recording.split.classes
    for parameter in recording.network.parameters():
        parameter.data.zero_()
    unused = load_parameters(recording.network, checkpoint.state, recording.method, path)
    assert {"text_encoder.token_embedding.weight", "decode_head.loss_decode.criterion.empty_weight"} <= set(unused)
    assert all(torch.equal(value, state[key]) for key, value in recording.network.state_dict().items())
    assert len(unused) + len(recording.network.state_dict()) == len(state)


@pytest.mark.parametrize("name", METHODS)
def test_mismatches_are_counted_and_named(name: str) -> None:
    state, recording = published_like(name)
    method, network = recording.method, recording.network
    other = published_like(METHODS[1 - METHODS.index(name)])[0]
    with pytest.raises(
        ItaclipError, match=f"a checkpoint of {recorded.METHODS[METHODS[1 - METHODS.index(name)]].title}"
    ):
        load_parameters(network, other, method, "x.pth")
    short = {key: value for key, value in state.items() if "prompt_proj" not in key}
    with pytest.raises(ItaclipError, match=r"x\.pth.*2 missing: backbone\.prompt_proj\.bias"):
        load_parameters(network, short, method, "x.pth")
    with pytest.raises(ItaclipError, match=r"1 unexpected: backbone\.conv2\.weight"):
        load_parameters(network, {**state, "backbone.conv2.weight": torch.zeros(1)}, method, "x.pth")
    longer = {**state, "backbone.prompt_embeddings": torch.zeros(1, 50, 128)}
    with pytest.raises(ItaclipError, match=r"\(1, 50, 128\) instead of \(1, 4, 128\).*prompts"):
        load_parameters(network, longer, method, "x.pth")


def test_a_checkpoint_without_recovery_decoder_serves_inference(caplog: pytest.LogCaptureFixture) -> None:
    state, recording = published_like("clip_rc")
    slim = {key: value for key, value in state.items() if "recovery_decoder" not in key}
    load_parameters(recording.network, slim, recording.method, "x.pth")
    assert "no recovery decoder" in caplog.text
    broken = {key: value for key, value in state.items() if "recovery_decoder.linear_q_in" not in key}
    with pytest.raises(ItaclipError, match="2 missing"):
        load_parameters(recording.network, broken, recording.method, "x.pth")


def test_classes_out_of_order_are_rejected(tmp_path: Path) -> None:
    model = small_model("cascade_clip")
    names = list(model.split.classes)
    swapped = [*names[:3], names[4], names[3], *names[5:]]

    def saved(classes: list[str]) -> Any:
        write_checkpoint({"state_dict": model.state_dict(), "meta": {"classes": classes}}, tmp_path / "x.pth")
        return read_checkpoint(tmp_path / "x.pth")

    model.load(saved(names))
    with pytest.raises(ItaclipError, match=r"x\.pth: class 3 is 'sea', but 'cloud'"):
        model.load(saved(swapped))
    elsewhere = saved(["cat", "dog"])
    model.load(elsewhere)  # another data set's: cross-data-set inference
    with pytest.raises(ItaclipError, match="trained on 2 classes, but the configuration has 29"):
        model.load(elsewhere, same_classes=True)


def test_bad_checkpoint_files_are_rejected_and_not_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path}/executed",)

    torch.save({"state_dict": {"a": torch.zeros(1)}, "meta": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ItaclipError, match=r"evil\.pth: refused"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, tmp_path / "short.pth")
    whole = (tmp_path / "short.pth").read_bytes()
    (tmp_path / "short.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ItaclipError, match=r"short\.pth"):
        read_checkpoint(tmp_path / "short.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ItaclipError, match=r"text\.pth"):
        read_checkpoint(tmp_path / "text.pth")
    (tmp_path / "list.pth").write_bytes(pickle.dumps([1, 2], protocol=2))
    with pytest.raises(ItaclipError, match=r"list\.pth"):
        read_checkpoint(tmp_path / "list.pth")


def test_a_kill_while_writing_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    write_checkpoint({"state_dict": {"a": torch.ones(3)}, "meta": {}}, tmp_path / "iter_2.pth")
    program = f"""
import os, torch
from itaclip.research.zero_shot import checkpoints
def half(content, path):
    with open(path, "wb") as file:
        file.write(b"PK half a checkpoint")
        file.flush()
        os.kill(os.getpid(), 9)
torch.save = half
for name in ("iter_2.pth", "iter_4.pth"):
    checkpoints.write_checkpoint({{}}, {str(tmp_path)!r} + "/" + name)
"""
    done = run_python("-c", program)
    assert done.returncode == -9
    newest = newest_checkpoint(tmp_path)
    assert newest == tmp_path / "iter_2.pth"
    assert torch.equal(read_checkpoint(newest).state["a"], torch.ones(3))


# --- class embeddings --------------------------------------------------------


def test_prompts_are_the_published_ones(tiny_text: TextEncoder) -> None:
    assert TEMPLATES["single"] == ("a photo of a {}",)
    assert len(TEMPLATES["multi"]) == 15 == len(set(TEMPLATES["multi"]))
    assert {"a photo of a {}.", "This is a photo of a large {}.", "There is the {} in the scene.",
            "This is one {} in the scene."} <= set(TEMPLATES["multi"])  # fmt: skip
    found = class_embeddings(tiny_text, ("cat", "tvmonitor"), "multi", {"cat": "kitten"})
    each = torch.stack([tiny_text([t.format(name) for t in TEMPLATES["multi"]]) for name in ("kitten", "tvmonitor")])
    torch.testing.assert_close(found, F.normalize(each.mean(1), dim=-1))


def test_embeddings_are_cached_on_disk(tiny_clip: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = class_embeddings(TextEncoder(tiny_clip, TextCache(tmp_path)), ("cat", "cup"), "single")
    encode = TextEncoder.forward
    monkeypatch.setattr(TextEncoder, "forward", lambda *_: pytest.fail("encoded again"))
    again = TextEncoder(tiny_clip, TextCache(tmp_path))
    assert torch.equal(class_embeddings(again, ("cup", "cat"), "single"), first.flip(0))
    monkeypatch.setattr(TextEncoder, "forward", encode)
    assert not torch.equal(class_embeddings(again, ("cat", "cup"), "multi"), first)


# --- configurations ----------------------------------------------------------

# method, data, mode: prompts, iterations, images per GPU, weights of mask, dice, recovery loss
PUBLISHED = {
    "cascade_clip_voc_inductive": (10, 20_000, 4, 100, 1, None),
    "cascade_clip_voc_transductive": (10, 10_000, 8, 100, 1, None),
    "cascade_clip_context_inductive": (35, 40_000, 4, 100, 1, None),
    "cascade_clip_context_transductive": (35, 20_000, 4, 100, 1, None),
    "cascade_clip_coco_inductive": (50, 80_000, 4, 100, 1, None),
    "cascade_clip_coco_transductive": (50, 40_000, 4, 100, 1, None),
    "clip_rc_voc_inductive": (10, 40_000, 8, 100, 1, 2),
    "clip_rc_voc_transductive": (10, 20_000, 8, 100, 1, 2),
    "clip_rc_voc_fully": (10, 40_000, 8, 100, 1, 0),
    "clip_rc_coco_inductive": (100, 80_000, 2, 200, 3, 50),
    "clip_rc_coco_transductive": (100, 40_000, 2, 200, 3, 50),
    "clip_rc_coco_fully": (100, 80_000, 2, 100, 1.5, 1),
}
UNSEEN_NUMBERS = {
    "voc": [15, 16, 17, 18, 19],
    "context": [0, 2, 3, 7, 9, 13, 17, 19, 31, 37],
    "coco": [19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_hold_the_published_settings(name: str) -> None:
    prompts, iterations, images, mask, dice, recovery = PUBLISHED[name]
    config = Config.fromfile(ROOT / f"configs/zero_shot/{name}.py")
    model, (method, data, mode) = (
        config.model,
        name.replace("clip_rc", "clip-rc").replace("e_clip", "e-clip").split("_"),
    )
    assert NETWORKS[model.method].title.lower() == method
    assert model.get("mode", "inductive") == mode
    assert model.encoder.prompts == prompts
    assert (config.train_cfg.max_iters, config.train_dataloader.batch_size) == (iterations, images)
    weights = {"mask": 100, "dice": 1, "recovery": 2, **model.get("loss", {})}
    assert (weights["mask"], weights["dice"]) == (mask, dice)
    assert recovery is None or weights["recovery"] == recovery
    classes = DATASETS.get(model.classes).METAINFO["classes"]
    assert list(ClassSplit.of(classes, model.unseen).unseen) == UNSEEN_NUMBERS[data]
    assert config.test_evaluator.unseen == model.unseen
    assert model.templates == ("single" if data == "voc" else "multi")
    if mode == "inductive":
        assert config.default_hooks.checkpoint.keep_also == (iterations // 2,)


@pytest.mark.parametrize(("name", "classes"), [("voc", 20), ("context", 59)])
def test_cross_data_set_configurations_see_every_class(name: str, classes: int) -> None:
    config = Config.fromfile(ROOT / f"configs/zero_shot/cascade_clip_coco_to_{name}.py")
    names = DATASETS.get(config.model.classes).METAINFO["classes"]
    split = ClassSplit.of(names, config.model.unseen).for_training(config.model.mode)
    assert split.seen == tuple(range(classes))
    assert config.test_evaluator.unseen == ()
    assert (
        config.model.encoder.prompts
        == Config.fromfile(ROOT / "configs/zero_shot/cascade_clip_coco_inductive.py").model.encoder.prompts
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_open_with_command_and_result(path: Path) -> None:
    text = path.read_text().split('"""')[1]
    assert f"configs/zero_shot/{path.name}" in text
    for word in ("seen mIoU", "unseen mIoU", "hIoU", "pAcc", "Measured"):
        assert word in text, word


@pytest.mark.parametrize(
    ("name", "tolerance"), [("cascade_clip_voc_transductive", 0.005), ("clip_rc_coco_fully", 0.002)]
)
def test_learning_rate_follows_the_published_curve(name: str, tolerance: float) -> None:
    from mmengine.optim import LinearLR, PolyLR

    config = Config.fromfile(ROOT / f"configs/zero_shot/{name}.py")
    last, peak = config.train_cfg.max_iters, config.optim_wrapper.optimizer.lr
    assert peak == 2e-4
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    kinds = {"LinearLR": LinearLR, "PolyLR": PolyLR}
    schedules = [kinds[entry.type](optimizer, **{k: v for k, v in entry.items() if k != "type"})
                 for entry in config.param_scheduler]  # fmt: skip
    for i in range(last):
        published = (peak - 1e-6) * (1 - i / last) ** 0.9 + 1e-6
        if i < 1500:
            published *= 1 - (1 - i / 1500) * (1 - 1e-6)
        assert abs(optimizer.param_groups[0]["lr"] - published) < tolerance * peak, i
        optimizer.step()
        for schedule in schedules:
            schedule.step()
