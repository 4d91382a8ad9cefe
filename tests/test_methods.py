"""Every method on every kind of input, attention functions against stored maps, and other backbones."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import open_clip
import oracle
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from itaclip.core.clip import load_clip
from itaclip.core.clip import open_clip_models as registry
from itaclip.core.clip.blocks import Projections
from itaclip.core.clip.encoded import Needs
from itaclip.core.clip.names import OPENAI_NAMES
from itaclip.core.clip.open_clip_modules import as_open_clip
from itaclip.core.clip.openai import CLIP
from itaclip.core.clip.towers import MEAN, STD
from itaclip.core.clip.towers.tower import resample
from itaclip.core.encoder import DenseEncoder
from itaclip.core.methods import METHODS, ON_ANY_TOWER, LastBlock, Window, attention, get_method, scaled_layers
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, parse_class_names
from itaclip.errors import ItaclipError
from itaclip.research.benchmark import plain_methods
from itaclip.research.benchmark.methods import joined, random_windows

CLASSES = parse_class_names(["background, wall", "cat, kitten", "cup"])
SHAPES = {
    "square": [(64, 64)],
    "wide": [(64, 112)],
    "odd": [(75, 101)],
    "batch of mixed sizes": [(64, 64), (50, 90), (64, 64), (33, 20)],
}


def bank_of(width: int) -> TextBank:
    features = torch.randn(len(CLASSES.queries), width, generator=torch.Generator().manual_seed(1))
    return TextBank(F.normalize(features, dim=-1), CLASSES)


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    coarse = torch.randn(1, 3, height // 6 + 2, width // 6 + 2, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(height, width), mode="bicubic")[0]


def regions_of(images: list[Tensor]) -> dict[str, list[np.ndarray]]:
    """Blocks as region maps: some pixels unsegmented, regions that meet in windows in many ways."""
    maps = []
    for image in images:
        rows, columns = np.mgrid[: image.shape[1], : image.shape[2]]
        maps.append(((rows // 23) * 7 + columns // 17) % 9)
    return {"felzenszwalb": maps}


@pytest.fixture(scope="module")
def clips(tiny_clip: CLIP) -> dict[str, CLIP]:
    """The stand-in in each precision; a pipeline converts the tower that it is given."""
    return {"fp32": tiny_clip, "bf16": copy.deepcopy(tiny_clip)}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ON_ANY_TOWER)
def test_every_method_on_every_input(
    method: str, shape: str, dtype: str, clips: dict[str, CLIP], second_weights: str
) -> None:
    bank = bank_of(64)
    settings = Settings(method=method, slide_crop=64, slide_stride=48, img_engineering=False, dtype=dtype,
                        second_encoder=second_weights)  # fmt: skip
    images = [picture(*size, seed=i) for i, size in enumerate(SHAPES[shape])]
    sizes = [(image.shape[1] + 5, image.shape[2] - 3) for image in images]
    regions = regions_of(images)
    together = Pipeline(clips[dtype], settings)(images, sizes, bank, regions, "full")
    tolerance = 1e-4 if dtype == "fp32" else 0.06
    exact = Pipeline(clips["fp32"], settings.changed(dtype="fp32"))
    for place, (image, size, result) in enumerate(zip(images, sizes, together, strict=True)):
        assert result.labels.shape == size
        assert result.scores.full is not None
        assert result.scores.full.shape == (3, *size)
        assert result.scores.full.isfinite().all()
        alone = exact([image], [size], bank, {"felzenszwalb": [regions["felzenszwalb"][place]]}, "full")[0]
        difference = (result.scores.full - alone.scores.full).abs()
        # in half precision a patch near a threshold may fall to the other side, of outliers or of first labels
        sharp = dtype == "bf16" and method.startswith(("scclip", "resclip"))
        assert (difference.flatten().quantile(0.9) if sharp else difference.max()) < tolerance


def read_beside(pixels: Tensor) -> Window:
    """What the methods read beside CLIP, random but for the text bank."""
    generator = torch.Generator().manual_seed(3)
    grid = (len(pixels), pixels.shape[2] // 8, pixels.shape[3] // 8)
    features = F.normalize(torch.randn(grid[0], 24, *grid[1:], generator=generator).cumsum(3), dim=1)
    regions = torch.arange(grid[2]).expand(grid) // 5
    return Window(pixels, bank_of(64).features, 40.0, features, regions, int(regions.max()) + 1)


def test_methods_differ_from_each_other(tiny_clip: CLIP) -> None:
    pixels = picture(224, 304)[None]
    encoder = DenseEncoder(tiny_clip.visual, METHODS["clip"])
    window = read_beside(pixels)
    found = {
        name: encoder.tokens(pixels, [(method, window)])[0] for name, method in METHODS.items() if name in ON_ANY_TOWER
    }
    for a in found:
        for b in found:
            if a != b and found[a].shape == found[b].shape:
                assert (found[a] - found[b]).abs().max() > 0.01, (a, b)


def test_methods_from_one_pass_are_those_of_separate_passes(tiny_clip: CLIP) -> None:
    pixels = torch.stack([picture(96, 128), picture(96, 128, seed=1)])
    methods = [METHODS[name] for name in ON_ANY_TOWER if METHODS[name].positions == "scale"]
    encoder = DenseEncoder(tiny_clip.visual, METHODS["itaclip"])
    window = read_beside(pixels)
    together = encoder.tokens(pixels, [(method, window) for method in methods])
    for method, tokens in zip(methods, together, strict=True):
        assert torch.equal(tokens, DenseEncoder(tiny_clip.visual, method)(pixels, window))
    with pytest.raises(ItaclipError, match="positional embeddings differently"):
        encoder.tokens(pixels, [(METHODS["gem"], window), (METHODS["clip"], window)])


def test_a_new_method_is_one_entry(tiny_clip: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    def mean_value(p: Projections, value: Tensor, grid: tuple[int, int]) -> Tensor:
        return value.mean(dim=2, keepdim=True).expand_as(value)

    monkeypatch.setitem(METHODS, "mine", LastBlock(attention=mean_value, feed_forward=False))
    pipeline = Pipeline(tiny_clip, Settings(method="mine", slide_crop=64, slide_stride=64))
    assert pipeline([picture(64, 80)], [(64, 80)], bank_of(64))[0].labels.shape == (64, 80)


# --- attention functions -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["qk", "qq", "kk", "vv", "qq+kk", "qq+vv", "qq+kk+vv", "qk+qk"])
def test_named_recipes_equal_sums_of_stored_maps(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 10, 16, generator=generator) for _ in range(3))
    value = torch.randn(2, 3, 10, 16, generator=generator)  # a middle layer's map meets another block's values
    sides = {"q": q, "k": k, "v": v}
    maps = sum(torch.softmax(sides[a] @ sides[b].transpose(-1, -2) / math.sqrt(16), dim=-1) for a, b in name.split("+"))
    found = attention.named(name)(Projections(q, k, v, torch.empty(0)), value, (3, 3))
    assert torch.allclose(found, maps @ value, atol=1e-5)
    assert attention.named(name) is attention.named(name)


@pytest.mark.parametrize("name", ["", "qq+", "kq", "qq kk"])
def test_unknown_pairs_are_refused(name: str) -> None:
    with pytest.raises(ItaclipError, match="is not one of qk, qq, kk, vv"):
        Settings(attention=name)


def test_switches_change_the_method() -> None:
    own = Settings().resolved_method(12)
    assert own == METHODS["itaclip"]
    kept = Settings(attention="vv", feed_forward=True, pos_interpolation="size").resolved_method(12)
    assert kept == replace(own, attention=attention.value_value, feed_forward=True, positions="size")
    assert Settings(attn_self=False).resolved_method(12).attention is attention.query_key
    assert (
        Settings(method="maskclip", residual=False, feed_forward=False).resolved_method(12) == METHODS["maskclip_bare"]
    )
    for wrong in ({"attn_self": False, "attention": "qq"}, {"pos_interpolation": "cubic"}, {"padding": "middle"}):
        with pytest.raises(ItaclipError, match=f"{list(wrong)[-1]} = .*: expected"):
            Settings(**wrong)


def test_positional_interpolation_is_a_setting(tiny_clip: CLIP) -> None:
    tables = {
        rule: resample(tiny_clip.visual.positional_embedding, 14, (10, 19), rule)
        for rule in ("scale", "size", "antialias")
    }  # type: ignore[arg-type]
    square = tiny_clip.visual.positional_embedding[1:].T.reshape(1, -1, 14, 14)
    plain = F.interpolate(square, size=(10, 19), mode="bicubic", align_corners=False)[0].flatten(1).T
    assert torch.allclose(tables["size"][1:], plain, atol=1e-5)
    assert (tables["size"] - tables["scale"]).abs().max() > 0.01
    assert (tables["size"] - tables["antialias"]).abs().max() > 0.01


# --- windows -----------------------------------------------------------------


def centre_padded(image: Tensor, state: dict[str, Tensor], text: Tensor, crop: int, stride: int) -> Tensor:
    """ClearCLIP's padding with loops: halves around each window, cut off its upsampled logits."""
    options = oracle.Options(self_self=True, views=False)
    height, width = image.shape[1:]
    crop_h, crop_w = min(height, crop or height), min(width, crop or width)
    total, count = torch.zeros(len(text), height, width), torch.zeros(height, width)
    for row in range(max(height - crop_h + stride - 1, 0) // stride + 1):
        for column in range(max(width - crop_w + stride - 1, 0) // stride + 1):
            bottom, end = min(row * stride + crop_h, height), min(column * stride + crop_w, width)
            window = image[:, bottom - crop_h : bottom, end - crop_w : end]
            extra_h, extra_w = -crop_h % 16, -crop_w % 16
            top, left = extra_h // 2, extra_w // 2
            padded = torch.zeros(3, crop_h + extra_h, crop_w + extra_w)
            padded[:, top : top + crop_h, left : left + crop_w] = window
            features = oracle.unit(oracle.encode(padded, state, options)[1:]) @ text.T
            maps = features.T.reshape(1, len(text), padded.shape[1] // 16, padded.shape[2] // 16)
            up = F.interpolate(maps, size=padded.shape[1:], mode="bilinear", align_corners=False)[0]
            total[:, bottom - crop_h : bottom, end - crop_w : end] += up[:, top : top + crop_h, left : left + crop_w]
            count[bottom - crop_h : bottom, end - crop_w : end] += 1
    return total / count


@pytest.mark.parametrize(("size", "crop", "stride"), [((75, 101), 0, 50), ((75, 101), 61, 33), ((30, 130), 90, 45),
                                                      ((64, 96), 64, 32)])  # fmt: skip
def test_centre_padding_equals_its_oracle(
    size: tuple[int, int], crop: int, stride: int, tiny_clip: CLIP, tiny_state: dict[str, Tensor]
) -> None:
    bank, image, target = bank_of(64), picture(*size), (size[0] + 11, size[1] - 7)
    logits = centre_padded(image, tiny_state, bank.features, crop, stride)
    logits = F.interpolate(logits[None], size=target, mode="bilinear", align_corners=False)[0]
    scores, _ = oracle.decide(logits, list(CLASSES.query_to_class), oracle.Options())
    settings = Settings(slide_crop=crop, slide_stride=stride, img_engineering=False, padding="centre")
    result = Pipeline(tiny_clip, settings)([image], [target], bank, scores="full")[0]
    assert torch.allclose(result.scores.full, scores, atol=1e-4)
    behind = Pipeline(tiny_clip, settings.changed(padding="end"))([image], [target], bank, scores="full")[0]
    multiple = not any(min(side, crop or side) % 16 for side in size)
    assert torch.allclose(behind.scores.full, result.scores.full, atol=1e-4) == multiple


def test_without_closing_single_pixels_stay(tiny_clip: CLIP) -> None:
    settings = Settings(slide_crop=64, slide_stride=48, img_engineering=False, closing=False)
    result = Pipeline(tiny_clip, settings)([picture(64, 64)], [(64, 64)], bank_of(64), scores="full")[0]
    assert result.scores.full is not None
    assert torch.equal(result.labels, result.scores.full.argmax(0))


# --- backbones ---------------------------------------------------------------

BACKBONES = {  # name, tag, patch, blocks, table side, QuickGELU
    "ViT-B/32": ("openai", 32, 12, 7, True),
    "ViT-L/14": ("openai", 14, 24, 16, True),
    "ViT-L/14@336px": ("openai", 14, 24, 24, True),
    "ViT-B-16": ("laion2b_s34b_b88k", 16, 12, 14, False),
    "ViT-L-14": ("laion2b_s32b_b82k", 14, 24, 16, False),
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, pytest.MonkeyPatch], CLIP]:
    """A named model at its own depth, patch and image size, but narrow, with random weights."""
    genuine: Callable[[str], dict[str, Any]] = open_clip.get_model_config

    def make(name: str, monkeypatch: pytest.MonkeyPatch) -> CLIP:
        def narrow(architecture: str) -> dict[str, Any]:
            config = genuine(architecture)
            config["embed_dim"] = 32
            config["vision_cfg"] |= {"width": 64}
            config["text_cfg"] |= {"width": 64, "heads": 1, "layers": 1}
            return config

        config = narrow(OPENAI_NAMES.get(name, name))
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("narrow") / "w.safetensors"
        parts = {key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}
        save_file(
            {k: v.contiguous() for k, v in open_clip.CLIP(**parts).state_dict().items() if k != "attn_mask"}, path
        )
        monkeypatch.setattr(open_clip, "get_model_config", narrow)
        monkeypatch.setattr(registry, "fetch", lambda *_: path)
        return load_clip(OPENAI_NAMES.get(name, name), BACKBONES[name][0])

    return make


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_of_open_clip(
    name: str, backbone: Callable[..., CLIP], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    second_weights: str,
) -> None:  # fmt: skip
    _, patch, blocks, side, quick = BACKBONES[name]
    clip = backbone(name, monkeypatch)
    assert ("Quick" in type(clip.visual.transformer.resblocks[0].mlp.gelu).__name__) == quick
    encoder = DenseEncoder(clip.visual, METHODS["clip"])
    assert (encoder.patch_size, encoder.depth, encoder.image_size) == (patch, blocks, side * patch)
    pixels = picture(side * patch, side * patch)[None]
    with torch.no_grad():
        encoded = encoder.encode(pixels, Needs.of(outputs=[blocks]))
        pooled = encoded.joint(encoded.norm(encoded.output(blocks)[:, 0]))
        published = torch.tensor([clip.visual.image_mean, clip.visual.image_std]).view(2, 3, 1, 1)
        clips = torch.tensor([MEAN, STD]).view(2, 3, 1, 1) / 255
        theirs = (pixels * clips[1] + clips[0] - published[0]) / published[1]
        assert torch.allclose(pooled, as_open_clip(clip).encode_image(theirs), atol=1e-4)
        # LAION's ViT-L/14 was trained on pixels in [-1, 1]
        assert torch.allclose(theirs, pixels, atol=1e-3) == (name != "ViT-L-14")
    with caplog.at_level(logging.INFO):
        settings = Settings(slide_crop=6 * patch, slide_stride=4 * patch, img_engineering=False)
        for method in ON_ANY_TOWER:
            pipeline = Pipeline(clip, settings.changed(method=method, second_encoder=second_weights))
            image = picture(7 * patch, 9 * patch)
            result = pipeline([image], [(50, 70)], bank_of(32), regions_of([image]))[0]
            assert result.scores.values.isfinite().all()
    middle = Settings().resolved_method(blocks).middle_layers  # type: ignore[attr-defined]
    assert middle == ((7, 8, 10) if blocks == 12 else (14, 16, 20))
    assert ("in proportion; no publication" in caplog.text) == (blocks != 12)


def test_middle_layers_are_scaled_only_when_none_are_given() -> None:
    assert scaled_layers((7, 8, 10), 6) == (4, 5)
    assert scaled_layers((7, 8, 10), 1) == ()
    assert scaled_layers((7, 8, 10), 32) == (19, 21, 27)
    for layers in ((3, 5), ()):
        assert get_method("itaclip", middle_layers=layers, blocks=24) == get_method("itaclip", middle_layers=layers)
    assert get_method("sclip", blocks=24) == METHODS["sclip"]


@pytest.mark.parametrize(
    "name", ["scclip", "resclip", "resclip_clearclip", "resclip_sclip", "proxyclip", "corrclip", "rfclip"]
)
def test_batches_of_windows_equal_plain_versions_one_by_one(name: str, tiny_clip: CLIP) -> None:
    method, encoder = get_method(name), DenseEncoder(tiny_clip.visual, get_method(name))
    side, queries = encoder.image_size, 6
    given = [replace(w, pixels=picture(side, side, seed)[None]) for seed, w in enumerate(
        random_windows(3, side, encoder.channels, queries))]  # fmt: skip
    shifted = [given[0], replace(given[1], regions=given[1].regions.roll(5, 2)), given[2]]  # type: ignore[union-attr]
    plain = as_open_clip(tiny_clip).visual
    with torch.no_grad():
        fast = encoder.tokens(joined(shifted).pixels, [(method, joined(shifted))])[0]
        slow = torch.stack([plain_methods.tokens(plain, method, window) for window in shifted])
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=0)
