"""OV-Stitcher: stitching, the second encoder's last block, and the whole method against plain versions."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from gpu_helpers import needs_pretending
from hypothesis import given, settings
from hypothesis import strategies as st
from test_methods import bank_of, picture, regions_of
from torch import Tensor
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._python_dispatch import TorchDispatchMode

from itaclip.core.clip.open_clip_modules import as_open_clip
from itaclip.core.clip.openai import CLIP
from itaclip.core.decision import decide
from itaclip.core.encoder import DenseEncoder
from itaclip.core.methods import METHODS, CorrCLIP, OVStitcher, Window, get_method
from itaclip.core.methods.corrclip import attended_in_scope
from itaclip.core.pipeline import Pipeline
from itaclip.core.query_maps import ready_maps
from itaclip.core.regions.maps import dense_ranks, resize_map
from itaclip.core.second_encoders import load_second_encoder
from itaclip.core.settings import Settings
from itaclip.core.stitching import Canvas, image_grid, shown_places, spans
from itaclip.core.text import TextBank
from itaclip.core.views import make_views, mix_views, turned, view_features
from itaclip.core.whole_image import WholeImage, WindowReader, ranked, regions_shown
from itaclip.core.windows import WindowPlan, cut_windows, plan_axis, stitch
from itaclip.errors import ItaclipError
from itaclip.research.benchmark import plain_stitcher
from itaclip.research.benchmark.pretended import on_gpu, pretended_gpu

METHOD = METHODS["ovstitcher"]
assert isinstance(METHOD, OVStitcher)


def regions_on(grid: tuple[int, int]) -> Tensor:
    """Bands with a hole, some unsegmented places, ids that are not in order."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    ids = 1 + (rows // 5 * 3 + columns // 7) * 7 % 11
    return ids.masked_fill((rows + columns) % 9 == 0, 0)


def features_on(grid: tuple[int, int]) -> Tensor:
    """Unit features that vary slowly: 1 x C x H x W."""
    noise = torch.randn(1, 12, *grid, generator=torch.Generator().manual_seed(2))
    return F.normalize(F.avg_pool2d(noise, 3, stride=1, padding=1), dim=1)


def read(
    encoder: DenseEncoder, method: OVStitcher, image: Tensor, plan: WindowPlan, at_once: int = 100
) -> tuple[Tensor, WholeImage, list[WindowReader]]:
    """Tokens of an image whose features and regions are given, from passes of so many windows."""
    grid = image_grid(plan, 8)
    ids, count = dense_ranks(regions_on(grid).numpy()[None])
    window = Window(image[None], features=features_on(grid), regions=torch.from_numpy(ids), region_count=count)
    shown = regions_shown(ids[0], plan, encoder.patch_size)
    whole = WholeImage(encoder.tower, method, plan, window, 8, shown, views=False)
    readers = []
    for first in range(0, plan.count, at_once):
        reader = WindowReader(whole, first, min(first + at_once, plan.count))
        pixels = cut_windows(image, plan, first, min(first + at_once, plan.count))
        for step in encoder.steps(pixels, whole.needs):
            reader.see(step)
        reader.finish()
        readers.append(reader)
    return whole.tokens(), whole, readers


# --- stitching ---------------------------------------------------------------

sides = st.integers(1, 150)


@settings(max_examples=60)
@given(sides, sides, st.integers(8, 96), st.integers(1, 96), st.sampled_from([8, 14, 16]), st.booleans())
def test_stitching_is_a_loop_over_windows(
    height: int, width: int, crop: int, stride: int, patch: int, centre: bool
) -> None:
    """Every place of the grid is shown, and has the mean of the patches that lie there."""
    plan = WindowPlan.of((height, width), crop, min(stride, crop), patch, "centre" if centre else "end", 2 * patch)
    maps = torch.randn(1, plan.count, *plan.grid_of(patch), 2, generator=torch.Generator().manual_seed(0))
    canvas = Canvas(plan, patch)
    for window in range(plan.count):
        canvas.add(maps[:, window : window + 1], window)
        canvas.add(maps[:, window : window + 1], window)  # repeated, as after a pass that ran out of memory
    rows, columns = image_grid(plan, patch)
    total, count = torch.zeros(rows, columns, 2), torch.zeros(rows, columns, 1)
    for number in range(plan.count):
        y, x = (
            axis.starts[n]
            for axis, n in zip((plan.rows, plan.columns), divmod(number, plan.columns.count), strict=True)
        )
        for r in range(maps.shape[2]):
            for c in range(maps.shape[3]):
                row, column = r - plan.rows.before // patch, c - plan.columns.before // patch
                shown = [p * patch < axis.before + axis.window and n >= 0
                         for p, n, axis in ((r, row, plan.rows), (c, column, plan.columns))]  # fmt: skip
                place = min(y // patch, rows - 1) + row, min(x // patch, columns - 1) + column
                if all(shown) and place[0] < rows and place[1] < columns:
                    total[place] += maps[0, number, r, c]
                    count[place] += 1
    assert count.min() > 0
    torch.testing.assert_close(canvas.mean()[0], total / count)


def test_a_missing_window_is_noticed() -> None:
    plan = WindowPlan.of((64, 96), 64, 32, 16)
    canvas = Canvas(plan, 16)
    canvas.add(torch.ones(1, 1, 4, 4, 1), 0)
    with pytest.raises(RuntimeError, match="1 of 2 windows"):
        canvas.mean()


@pytest.mark.parametrize(("size", "crop", "stride"), [((64, 96), 64, 32), ((40, 200), 64, 50), ((75, 101), 64, 13)])
def test_shown_places_follow_the_pixels(size: tuple[int, int], crop: int, stride: int) -> None:
    plan, grid = WindowPlan.of(size, crop, stride, 16, "centre"), (size[0] // 8, size[1] // 8)
    ids = np.arange(math.prod(grid)).reshape(grid)
    large = resize_map(ids, size)  # step 4, written out: to the image, cut, to the window's grid
    found = shown_places(plan, 16, grid)
    windows = cut_windows(torch.from_numpy(large + 1)[None], plan, 0, plan.count)[:, 0, ::16, ::16].numpy()
    assert np.array_equal(np.where(found == ids.size, 0, found + 1), windows)


def test_spans_of_a_window_off_the_grid_move_by_less_than_a_patch() -> None:
    (first, second) = spans(plan_axis(100, 64, 50, 16), 16)
    assert (first.place, first.patch, first.count) == (0, 0, 4)
    assert (second.place, second.patch, second.count) == (36 // 16, 0, 4)


@given(st.lists(st.lists(st.integers(0, 9), min_size=6, max_size=6), min_size=1, max_size=4))
def test_ranks_are_dense_ranks(rows: list[list[int]]) -> None:
    expected, _ = dense_ranks(np.array(rows)[:, None])
    assert torch.equal(ranked(torch.tensor(rows)), torch.from_numpy(expected[:, 0]))


# --- the method --------------------------------------------------------------

IMAGES = {  # size, crop, stride
    "one window": ((96, 96), 96, 48),
    "off the grid": ((112, 152), 96, 40),
    "wide, smaller than a window": ((64, 176), 96, 48),
    "tall": ((160, 96), 96, 64),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_read_as_the_plain_version_reads_it(name: str, tiny_clip: CLIP) -> None:
    size, crop, stride = IMAGES[name]
    image, encoder = picture(*size), DenseEncoder(tiny_clip.visual, METHOD)
    plan = WindowPlan.of(size, crop, stride, 16)
    grid = image_grid(plan, 8)
    features = features_on(grid)[0].flatten(1).T
    plain = plain_stitcher.Image(image, torch.from_numpy(resize_map(regions_on(grid).numpy(), size)), features, crop,
                                 stride)  # fmt: skip
    with torch.no_grad():
        expected = plain_stitcher.tokens(as_open_clip(tiny_clip).visual, METHOD, plain)
        for at_once in (1, 3, 100):
            found, _, _ = read(encoder, METHOD, image, plan, at_once)
            torch.testing.assert_close(found[0].flatten(0, 1), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("blocks", [24, 32])
def test_deeper_towers_are_read_as_the_plain_version_reads_them(blocks: int) -> None:
    torch.manual_seed(0)
    vision = {"image_size": 56, "layers": blocks, "width": 64, "patch_size": 14}
    text = {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 1, "layers": 1}
    visual = open_clip.CLIP(32, vision, text, quick_gelu=True).visual.eval()
    method = METHOD.for_depth(blocks)
    assert method.spatial_layers == {24: (11, 22), 32: (3, 30)}[blocks]
    image, encoder = picture(56, 112), DenseEncoder(visual, method)
    plan = WindowPlan.of((56, 112), 56, 28, 14, multiple=56)
    grid = image_grid(plan, 8)
    features = features_on(grid)[0].flatten(1).T
    plain = plain_stitcher.Image(image, torch.from_numpy(resize_map(regions_on(grid).numpy(), (56, 112))), features,
                                 56, 28)  # fmt: skip
    with torch.no_grad():
        found, _, _ = read(encoder, method, image, plan)
        torch.testing.assert_close(found[0].flatten(0, 1), plain_stitcher.tokens(visual, method, plain),
                                   atol=1e-4, rtol=0)  # fmt: skip


def test_only_regions_that_a_window_shows_get_a_token(tiny_clip: CLIP) -> None:
    """The plain version carries all of them through every block; the results are the same."""
    image, encoder = picture(96, 400), DenseEncoder(tiny_clip.visual, replace(METHOD, merging=-1.0))
    plan = WindowPlan.of((96, 400), 96, 96, 16)
    with torch.no_grad():
        _, whole, readers = read(encoder, replace(METHOD, merging=-1.0), image, plan, at_once=1)
    regions = len(whole.regions.unique())
    for number, reader in enumerate(readers):
        assert reader._tokens is not None
        places = shown_places(plan, 16, (12, 50))[number]
        shown = np.unique(whole.regions.flatten().numpy()[places])
        assert reader._tokens.x.shape[1] == len(shown) < regions


def test_each_part_can_be_switched_off(tiny_clip: CLIP, second_weights: str) -> None:
    """Without both, one window is CorrCLIP's."""
    image = picture(96, 96)
    options = dict(stitched_features=False, stitched_spatial=False)
    plain = Settings(method="ovstitcher", slide_crop=96, slide_stride=48, img_engineering=False, closing=False,
                     second_encoder=second_weights)  # fmt: skip
    found = {}
    regions = regions_of([image])
    for name, chosen in (("all", {}), *((key, {key: False}) for key in options), ("none", options)):
        pipeline = Pipeline(tiny_clip, plain.changed(method_options=chosen))
        found[name] = pipeline([image], [(96, 96)], bank_of(64), regions, "full")[0].scores.full
    corrclip = Pipeline(tiny_clip, plain.changed(method="corrclip"))([image], [(96, 96)], bank_of(64), regions, "full")[
        0
    ]
    torch.testing.assert_close(found["none"], corrclip.scores.full, atol=1e-4, rtol=0)
    names = list(found)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert (found[one] - found[other]).abs().max() > 1e-3, (one, other)


def test_views_are_mixed_as_those_of_windows(tiny_clip: CLIP, second_weights: str) -> None:
    """One window in five views, each read on its own: flips turn what is read, not what comes out."""
    image, size = picture(96, 96), (96, 96)
    chosen = Settings(method="ovstitcher", slide_crop=96, slide_stride=48, second_encoder=second_weights,
                      closing=False)  # fmt: skip
    regions = np.kron(np.arange(36).reshape(6, 6) % 5, np.ones((16, 16), int))  # whole patches, so that flips fit
    bank = bank_of(64)
    pipeline = Pipeline(tiny_clip, chosen)
    (result,) = pipeline([image], [size], bank, {"felzenszwalb": [regions]}, "full")

    second = load_second_encoder(second_weights)
    ids, count = dense_ranks(regions[None, ::8, ::8])
    tokens = []
    with torch.no_grad():
        for view, pixels in enumerate(make_views(image[None], chosen)):
            features = second.run_last_block(second(pixels[None], ["last_block"]).last_block)
            turned_ids = turned(torch.from_numpy(ids), view, 1)
            window = Window(pixels[None], features=F.normalize(features, dim=1), regions=turned_ids, region_count=count)
            tokens.append(pipeline.encoder(pixels[None], window)[0])
        logits = mix_views(view_features(torch.stack(tokens), 1), bank.features, chosen)
    maps = ready_maps(stitch(logits, WindowPlan.of(size, 0, 1, 1), size), bank.class_names.queries_per_class)
    torch.testing.assert_close(result.scores.full, decide(maps, chosen, "full")[1].full, atol=1e-4, rtol=0)


@pytest.mark.parametrize("views", [False, True])
def test_passes_and_company_do_not_matter(views: bool, tiny_clip: CLIP, second_weights: str) -> None:
    chosen = Settings(method="ovstitcher", slide_crop=64, slide_stride=24, second_encoder=second_weights,
                      img_engineering=views)  # fmt: skip
    images = [picture(75, 101), picture(64, 64, 1), picture(40, 120, 2)]
    sizes, regions = [(70, 90), (64, 64), (50, 130)], regions_of(images)
    together = Pipeline(tiny_clip, chosen.changed(batch_crops=100))(images, sizes, bank_of(64), regions)
    few = Pipeline(tiny_clip, chosen.changed(batch_crops=1))
    for n, (image, size) in enumerate(zip(images, sizes, strict=True)):
        (alone,) = few([image], [size], bank_of(64), {"felzenszwalb": [regions["felzenszwalb"][n]]})
        assert alone.labels.shape == size
        torch.testing.assert_close(alone.scores.values, together[n].scores.values, atol=1e-5, rtol=0)
        assert torch.equal(alone.labels, together[n].labels)


def test_variants_share_a_pass_and_equal_their_own(tiny_clip: CLIP, second_weights: str) -> None:
    base = Settings(method="ovstitcher", slide_crop=64, slide_stride=32, second_encoder=second_weights,
                    img_engineering=False)  # fmt: skip
    variants = [base, base.changed(method_options={"stitched_spatial": False}), base.changed(method="corrclip")]
    image, calls = picture(64, 112), []
    regions = regions_of([image])
    pipeline = Pipeline(tiny_clip, base)
    pipeline.second_encoder(second_weights).register_forward_hook(lambda *_: calls.append(1))
    pairs = [(settings, bank_of(64)) for settings in variants]
    found = {v: r.scores.full for _, v, r in pipeline.variants([image], [(64, 112)], pairs, regions, "full")}
    assert len(calls) == 2  # once for whole images, once for windows
    for v, settings_ in enumerate(variants):
        own = Pipeline(tiny_clip, settings_)([image], [(64, 112)], bank_of(64), regions, "full")[0]
        torch.testing.assert_close(found[v], own.scores.full, atol=1e-5, rtol=0)


def test_a_pass_that_does_not_fit_is_repeated_in_parts(tiny_clip: CLIP, second_weights: str) -> None:
    class SmallDevice(DenseEncoder):
        def steps(self, pixels: Tensor, *rest: Any) -> Any:
            for step in super().steps(pixels, *rest):
                if len(pixels) > 2 and step.number == 8:  # after some blocks were stitched
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                yield step

    chosen = Settings(method="ovstitcher", slide_crop=64, slide_stride=16, second_encoder=second_weights,
                      img_engineering=False)  # fmt: skip
    image, size = picture(80, 112), (80, 112)
    small, regions = Pipeline(tiny_clip, chosen), regions_of([image])
    (expected,) = small([image], [size], bank_of(64), regions)
    small.encoder = SmallDevice(tiny_clip.visual, small.encoder.method)
    (found,) = small([image], [size], bank_of(64), regions)
    torch.testing.assert_close(found.scores.values, expected.scores.values, atol=1e-5, rtol=0)


def test_attention_over_the_image_is_never_stored_whole() -> None:
    """Cityscapes on a grid of 8 pixels: the map of 9,800 x 9,800 places alone would take 366 MiB."""

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
            found = function(*arguments, **(options or {}))
            if isinstance(found, Tensor):
                self.elements = max(self.elements, found.numel())
            return found

    places = 70 * 140
    features = F.normalize(torch.randn(1, places, 4), dim=2)
    regions = torch.arange(places)[None] % 50
    with Largest() as largest:
        attended_in_scope(features, regions, 4.0, torch.ones(1, places, 2))
    assert largest.elements < 2**22


@needs_pretending
@pytest.mark.slow
def test_memory_of_cityscapes_is_bounded_by_the_image(tiny_clip: CLIP, second_weights: str) -> None:
    """Live tensors of a 1024 x 2048 image on 70 x 140 positions: two maps of all pairs alone would take 733 MiB."""
    chosen = Settings(method="ovstitcher", second_encoder=second_weights, img_engineering=False, batch_crops=10)
    pipeline = Pipeline(copy.deepcopy(tiny_clip), chosen)
    second = pipeline._second[second_weights, "fp32"] = load_second_encoder(second_weights)
    regions = {"felzenszwalb": [np.arange(1024 * 2048, dtype=np.int32).reshape(1024, 2048) // 20000]}
    with pretended_gpu(), torch.no_grad():
        on_gpu(second)
        on_gpu(pipeline)
        features = torch.empty(len(bank_of(64).class_names.queries), 64, device="cuda")
        bank, pixels = TextBank(features, bank_of(64).class_names), torch.empty(3, 560, 1120, device="cuda")
        tracker = MemTracker()
        tracker.track_external(pipeline, pixels)
        with tracker:
            pipeline([pixels], [(1024, 2048)], bank, regions)
        found = {str(device): counts["Total"] for device, counts in tracker.get_tracker_snapshot("peak").items()}
    assert 50 < found["cuda:0"] / 2**20 < 400


# --- bad input ---------------------------------------------------------------


def test_tolerance_needs_windows_that_can_be_left_out() -> None:
    with pytest.raises(ItaclipError, match=r"tolerance = 0\.1: expected 0 with method = 'ovstitcher'"):
        Settings(method="ovstitcher", tolerance=0.1)


def test_missing_masks_are_reported(tiny_clip: CLIP, second_weights: str) -> None:
    pipeline = Pipeline(tiny_clip, Settings(method="ovstitcher", second_encoder=second_weights, slide_crop=64,
                                            slide_stride=32))  # fmt: skip
    with pytest.raises(ItaclipError, match="regions of felzenszwalb are read"):
        pipeline([picture(64, 64)], [(64, 64)], bank_of(64))
    encoder = DenseEncoder(tiny_clip.visual, METHOD)
    with pytest.raises(ItaclipError, match="requires features of a second encoder"):
        encoder(picture(64, 64)[None])
    with pytest.raises(ItaclipError, match="requires region masks"):
        encoder(picture(64, 64)[None], Window(picture(64, 64)[None], features=features_on((8, 8))))


@pytest.mark.parametrize("regions", ["one", "none", "more than patches", "another size"])
def test_any_regions_give_a_result(regions: str, tiny_clip: CLIP, second_weights: str) -> None:
    size = (64, 150)
    ids = {"one": np.ones(size, int), "none": np.zeros(size, int), "more than patches": np.arange(9600).reshape(size),
           "another size": np.arange(32 * 70).reshape(32, 70) // 300}[regions]  # fmt: skip
    chosen = Settings(method="ovstitcher", slide_crop=64, slide_stride=40, second_encoder=second_weights,
                      img_engineering=False)  # fmt: skip
    (result,) = Pipeline(tiny_clip, chosen)([picture(*size)], [size], bank_of(64), {"felzenszwalb": [ids]})
    assert result.scores.values.isfinite().all()
    assert result.labels.shape == size


def test_options_are_those_of_its_parts() -> None:
    changed = get_method("ovstitcher", stitched_spatial=False, semantic_weight=0.0)
    assert isinstance(changed, CorrCLIP)
    with pytest.raises(ItaclipError, match="Did you mean 'stitched_spatial'"):
        get_method("ovstitcher", stiched_spatial=False)


def test_one_colour_gives_a_result(tiny_clip: CLIP, second_weights: str) -> None:
    chosen = Settings(method="ovstitcher", slide_crop=64, slide_stride=64, second_encoder=second_weights)
    regions = {"felzenszwalb": [np.zeros((64, 64), int)]}
    result = Pipeline(tiny_clip, chosen)([torch.zeros(3, 64, 64)], [(64, 64)], bank_of(64), regions)[0]
    assert result.scores.values.isfinite().all()
