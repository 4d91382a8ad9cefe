"""Region maps from files, without weights and from SAM 2; map correction against a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gpu_helpers import Copies, needs_pretending
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.ops import nms
from transformers import Sam2Config, Sam2HieraDetConfig, Sam2ImageProcessor, Sam2Model, Sam2VisionConfig

from itaclip.core.regions import MaskFolder, map_correction, read_region_map, region_source, write_region_map
from itaclip.core.regions.sam2 import SAMPLINGS, Sam2Masks, Sampling, paint
from itaclip.errors import ItaclipError
from itaclip.research.benchmark.pretended import pretended_gpu

IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


# --- map correction ----------------------------------------------------------


def corrected_plainly(labels: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    found = labels.clone()
    for region in regions.unique().tolist():
        if region:
            inside = regions == region
            values, counts = labels[inside].unique(return_counts=True)  # in order of values: argmax takes the smallest
            found[inside] = values[int(np.argmax(counts.numpy()))]
    return found


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 12))
def test_map_correction_is_the_plain_loop(seed: int, height: int, width: int, classes: int, count: int) -> None:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (height, width), generator=random)
    regions = torch.randint(0, count + 1, (height, width), generator=random, dtype=torch.int32)
    found = map_correction(labels, regions, classes, count)
    assert torch.equal(found, corrected_plainly(labels, regions))
    assert torch.equal(map_correction(found, regions, classes, count), found)


def test_map_correction_of_many_classes_counts_only_those_that_occur() -> None:
    labels = torch.randint(0, 3, (30, 40), generator=torch.Generator().manual_seed(0)) * 40_000
    regions = torch.arange(30 * 40).view(30, 40) // 90
    assert torch.equal(map_correction(labels, regions, 100_000, 60_000), corrected_plainly(labels, regions))


def test_map_correction_of_ties_one_region_and_none() -> None:
    labels = torch.tensor([[2, 1], [1, 2]])
    assert map_correction(labels, torch.ones(2, 2, dtype=torch.int32), 3, 1).eq(1).all()
    assert torch.equal(map_correction(labels, torch.zeros(2, 2, dtype=torch.int32), 3, 0), labels)
    assert torch.equal(map_correction(labels, torch.tensor([[1, 2], [3, 4]]), 3, 9), labels)


# --- without weights ---------------------------------------------------------


@pytest.mark.parametrize("spec", ["felzenszwalb", "slic"])
def test_regions_without_weights(spec: str) -> None:
    source = region_source(spec)
    halves = np.zeros((60, 80, 3), np.uint8)
    halves[:, 40:] = 255
    regions = source(halves, "halves.jpg")
    assert (regions.shape, regions.dtype) == ((60, 80), np.int32)
    assert np.array_equal(np.unique(regions), np.arange(1, regions.max() + 1))
    assert not set(np.unique(regions[:, :37])) & set(np.unique(regions[:, 43:]))
    assert np.array_equal(regions, source(halves))
    assert spec in source.fingerprint
    assert source(np.zeros((1, 1, 3), np.uint8)).shape == (1, 1)
    with pytest.raises(ItaclipError, match=r"a\.jpg: has shape \(5, 5\)"):
        source(np.zeros((5, 5), np.uint8), "a.jpg")


# --- files -------------------------------------------------------------------


def test_the_published_layout(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", instance_mask=np.array([[-1, 7, 7], [300, -1, 9]]))
    assert read_region_map(tmp_path / "a.npz").tolist() == [[0, 1, 1], [3, 0, 2]]


@pytest.mark.parametrize("lowest", [0, 1])
def test_written_maps_are_read_back(lowest: int, tmp_path: Path) -> None:
    regions = np.arange(lowest, lowest + 12, dtype=np.int32).reshape(3, 4)
    write_region_map(tmp_path / "deep/a.npz", regions)
    assert np.array_equal(read_region_map(tmp_path / "deep/a.npz"), regions)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.npz"]


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_png(mode: str, tmp_path: Path) -> None:
    stored = np.array([[5, 0, 5], [9, 9, 200]], np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(stored)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    image.save(tmp_path / "a.png")
    assert read_region_map(tmp_path / "a.png").tolist() == [[1, 0, 1], [2, 2, 3]]
    Image.fromarray(np.full((2, 2), 3, np.uint8)).save(tmp_path / "one.png")
    assert read_region_map(tmp_path / "one.png").tolist() == [[1, 1], [1, 1]]


def test_a_folder_finds_masks_by_name(tmp_path: Path) -> None:
    ones = np.ones(IMAGE.shape[:2], np.int32)
    write_region_map(tmp_path / "bonn/a.b.npz", ones)
    write_region_map(tmp_path / "flat.npz", ones)
    source = region_source(str(tmp_path))
    for name in ("bonn/a.b.jpg", "bonn/a.b", "flat.PNG", "somewhere/flat.jpg", "/abs/olute/flat.jpg"):
        assert np.array_equal(source(IMAGE, name), ones)
    before = source.fingerprint
    write_region_map(tmp_path / "new.npz", ones)
    assert source.fingerprint != before


def test_bad_masks_are_reported(tmp_path: Path) -> None:
    source = MaskFolder(tmp_path)
    with pytest.raises(ItaclipError, match=r"x\.jpg: no mask for this image; tried .*x\.npz.*x\.png"):
        source(IMAGE, "x.jpg")
    with pytest.raises(ItaclipError, match="this image has no name"):
        source(IMAGE)
    write_region_map(tmp_path / "x.npz", np.ones((40, 70), np.int32))
    with pytest.raises(ItaclipError, match=r"x\.npz: 70 x 40 pixels, but the image has 70 x 50"):
        source(IMAGE, "x.jpg")
    for arrays, reason in (
        ({"masks": np.ones((2, 2), int)}, "has no array instance_mask; arrays: masks"),
        ({"instance_mask": np.ones((2, 2))}, "dtype float64"),
        ({"instance_mask": np.ones((2, 2, 1), int)}, r"shape \(2, 2, 1\)"),
        ({"instance_mask": np.ones((0, 2), int)}, r"shape \(0, 2\)"),
        ({"instance_mask": np.array([[None]])}, "not an .npz of plain arrays"),  # a pickle
    ):
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(ItaclipError, match=r"x\.npz: .*" + reason):
            source(IMAGE, "x.jpg")
    write_region_map(tmp_path / "x.npz", np.arange(3500, dtype=np.int32).reshape(50, 70))
    content = (tmp_path / "x.npz").read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:200] + b"?" * 200 + content[400:]):
        (tmp_path / "x.npz").write_bytes(damaged)
        with pytest.raises(ItaclipError, match=r"x\.npz: damaged"):
            source(IMAGE, "x.jpg")
    (tmp_path / "x.npz").unlink()
    Image.fromarray(IMAGE).save(tmp_path / "x.png")
    with pytest.raises(ItaclipError, match="mode RGB"):
        source(IMAGE, "x.jpg")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:300])
    with pytest.raises(ItaclipError, match=r"x\.png"):
        source(IMAGE, "x.jpg")
    with pytest.raises(ItaclipError, match="no such file"):
        read_region_map(tmp_path / "y.npz")
    with pytest.raises(ItaclipError, match="no such folder"):
        MaskFolder(tmp_path / "nowhere")
    with pytest.raises(ItaclipError, match="Did you mean 'felzenszwalb'"):
        region_source("felsenzwalb")


# --- SAM 2 -------------------------------------------------------------------


@pytest.fixture(scope="session")
def sam2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature SAM 2 with random weights, whose predicted IoUs lie on both sides of the threshold."""
    backbone = Sam2HieraDetConfig(
        hidden_size=16, num_attention_heads=1, blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 1, 2, 2], window_size_per_stage=[8, 4, 4, 2], global_attention_blocks=[3],
        image_size=[64, 64], window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]], fpn_hidden_size=32,
    )  # fmt: skip
    decoder = {
        "hidden_size": 32,
        "mlp_dim": 64,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 32,
        "num_hidden_layers": 2,
    }
    config = Sam2Config(
        vision_config=vision, prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16},
        mask_decoder_config=decoder,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Sam2Model(config)
    for name, parameter in model.named_parameters():
        norm = parameter.ndim == 1 and name.endswith("weight")
        parameter.data.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if norm else 0.0))
    folder = tmp_path_factory.mktemp("sam2")
    model.save_pretrained(folder)
    Sam2ImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def masks_plainly(
    source: Sam2Masks, image: NDArray[np.uint8], overlap: float, side: int = 8, least: float = 0.4
) -> list[NDArray[np.bool_]]:
    """Run the whole model point by point, with scores, stability and suppression as defined by SAM 2's authors."""
    model, height, width = source._model, *image.shape[:2]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    pixels = source._processor(images=image, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 64, 64)
    resized = F.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), (64, 64), mode="bilinear", antialias=True
    )
    assert (pixels - (resized / 255 - mean) / std).abs().max() < 0.03  # resized as uint8
    kept: list[Any] = []
    for y in range(side):
        for x in range(side):
            point = torch.tensor([[[[(x + 0.5) * 64 / side, (y + 0.5) * 64 / side]]]])
            with torch.no_grad():
                output = model(pixel_values=pixels, input_points=point, multimask_output=False)
            logits = F.interpolate(output.pred_masks[0], (height, width), mode="bilinear")[0, 0]
            rating = output.iou_scores.item()
            smaller, larger = (logits > 1).sum().item(), (logits > -1).sum().item()
            if rating > least and larger and smaller / larger > least:
                mask = logits > 0
                rows, columns = (torch.nonzero(mask.any(dim=d)).flatten().tolist() or [0] for d in (1, 0))
                kept.append((mask.numpy(), rating, [columns[0], rows[0], columns[-1], rows[-1]]))
    if not kept:
        return []
    boxes = torch.tensor([box for _, _, box in kept]).float()
    order = nms(boxes, torch.tensor([rating for _, rating, _ in kept]), overlap)
    return [kept[int(n)][0] for n in order]


@pytest.mark.parametrize("overlap", [0.7, 0.97, 1.0])
def test_sam2_is_the_plain_procedure(sam2_folder: Path, overlap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("itaclip.core.regions.sam2.NMS", overlap)
    source = region_source(f"sam2:{sam2_folder}")
    assert isinstance(source, Sam2Masks)
    found, expected = source.masks(IMAGE), masks_plainly(source, IMAGE, overlap)
    assert len(found) == len(expected) > (1 if overlap == 1 else 0)
    assert max((a != b).sum() for a, b in zip(found, expected, strict=True)) <= 2
    regions = source(IMAGE, "x.jpg")
    assert (regions.shape, regions.dtype) == (IMAGE.shape[:2], np.int32)
    assert regions.max() <= len(found)
    assert source.fingerprint == region_source(f"sam2:{sam2_folder}").fingerprint


def test_the_settings_of_both_publications(sam2_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"sam2": Sampling(8, 0.4, 0.4), "sam2-64": Sampling(64, 0.7, 0.7)} == SAMPLINGS
    coarse, fine = (region_source(f"{name}:{sam2_folder}") for name in SAMPLINGS)
    assert coarse.fingerprint != fine.fingerprint
    assert fine.name == f"sam2-64:{sam2_folder}"
    # 64 points a side of a random model take minutes: the same procedure, with fewer
    monkeypatch.setitem(SAMPLINGS, "sam2-64", Sampling(12, 0.7, 0.7))
    monkeypatch.setattr("itaclip.core.regions.sam2.NMS", 1.0)
    source = region_source(f"sam2-64:{sam2_folder}")
    assert isinstance(source, Sam2Masks)
    found, expected = source.masks(IMAGE), masks_plainly(source, IMAGE, 1.0, side=12, least=0.7)
    assert len(found) == len(expected)
    assert max(((a != b).sum() for a, b in zip(found, expected, strict=True)), default=0) <= 2


def test_no_mask_at_all_is_a_map_of_zeros(sam2_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMPLINGS, "sam2", Sampling(8, 1e9, 0.4))
    assert not Sam2Masks(str(sam2_folder))(IMAGE).any()


def test_larger_masks_are_painted_over_smaller_ones() -> None:
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :3, :3] = True  # 9 pixels
    masks[1, 0, 0] = True  # completely covered
    masks[2, 2:, 2:] = True  # 4 pixels
    assert paint(masks, (4, 4)).tolist() == [[3, 3, 3, 0], [3, 3, 3, 0], [3, 3, 3, 2], [0, 0, 2, 2]]
    assert paint(masks[:0], (2, 3)).tolist() == [[0] * 3] * 2


def test_sam2_without_files(tmp_path: Path, sam2_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ItaclipError, match=r"SAM 2 is not on this machine(.|\n)*huggingface\.co/facebook/sam2-none"):
        region_source("sam2:facebook/sam2-none")
    with pytest.raises(ItaclipError, match="nowhere: no such folder"):
        region_source(f"sam2:{tmp_path}/nowhere")
    with pytest.raises(ItaclipError, match=r"not a readable SAM 2 model"):
        region_source(f"sam2:{tmp_path}")
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((sam2_folder / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes((sam2_folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ItaclipError, match="not a readable"):
        region_source(f"sam2:{tmp_path}")


@needs_pretending
def test_map_correction_does_not_wait_for_the_host() -> None:
    with pretended_gpu(), Copies() as copies:
        labels = torch.empty(8, 9, dtype=torch.int64, device="cuda")
        regions = torch.empty(8, 9, dtype=torch.int32, device="cuda")
        assert map_correction(labels, regions, 21, 500).shape == (8, 9)
        assert copies.found == []
