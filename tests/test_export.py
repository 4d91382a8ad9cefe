"""Results in the formats of other programs, read back by those programs if they are installed."""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from itaclip import ItaclipError, Result, Segmenter
from itaclip.formats.coco import CocoFile, CocoMask, encoded
from itaclip.formats.label_studio import encode_brush
from itaclip.formats.polygons import Polygon, polygons_of

Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def result(quick: Segmenter, demo_root: Path) -> Result:
    found = quick(demo_root / "JPEGImages/scene_002.jpg", quick.prepare(["cloud", "house", "balloon"]), scores="full")
    assert len(found.areas) > 2
    return found


def filled(polygons: list[Polygon], shape: tuple[int, int]) -> Mask:
    """Pixels whose centres lie inside, by counting crossings of a ray to the left."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, bool)
    for polygon in polygons:
        for ring in polygon:
            for (x0, y0), (x1, y1) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
                if y0 != y1:
                    crossing = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
                    inside ^= (np.minimum(y0, y1) <= y) & (y < np.maximum(y0, y1)) & (crossing < x)
    return inside


def area(ring: NDArray[np.int32]) -> float:
    x, y = ring.astype(float).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def edges_meet(polygon: Polygon) -> bool:
    """Whether edges cross or share more than the corner between neighbours; a slow check, edge by edge."""
    edges = [
        (tuple(a), tuple(b), number, i, len(ring))
        for number, ring in enumerate(polygon)
        for i, (a, b) in enumerate(zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True))
    ]

    def turn(a: Any, b: Any, c: Any) -> int:
        value = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        return (value > 0) - (value < 0)

    for n, (a, b, ring, i, count) in enumerate(edges):
        for c, d, other, j, _ in edges[n + 1 :]:
            if ring == other and (j - i) % count in (1, count - 1):
                continue
            crosses = turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0
            if crosses:
                return True
    return False


# --- polygons ----------------------------------------------------------------


masks = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@settings(max_examples=150)
@given(masks)
def test_exact_outlines_reproduce_the_mask(mask: Mask) -> None:
    polygons = polygons_of(mask, tolerance=0)
    np.testing.assert_array_equal(filled(polygons, mask.shape), mask)
    assert len(polygons) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
    for outer, *holes in polygons:
        assert area(outer) > 0
        assert all(area(hole) < 0 for hole in holes)
        for ring in (outer, *holes):
            assert len({tuple(point) for point in ring.tolist()}) == len(ring)  # no corner twice


@settings(max_examples=60)
@given(arrays(bool, st.tuples(st.integers(4, 14), st.integers(4, 14))), st.sampled_from([0.5, 1.0, 2.0]))
def test_simplified_outlines_stay_polygons(mask: Mask, tolerance: float) -> None:
    for polygon in polygons_of(mask, tolerance):
        assert area(polygon[0]) > 0
        assert all(area(hole) < 0 for hole in polygon[1:])
        assert not edges_meet(polygon)


def test_simplification_saves_corners_and_keeps_holes_and_shape() -> None:
    y, x = np.mgrid[:200, :240]
    distance = np.hypot(x - 120, y - 100)
    ring = (distance < 90) & (distance > 40)
    (exact,), (simple,) = polygons_of(ring, 0), polygons_of(ring, 1.0)
    assert len(exact) == len(simple) == 2
    assert sum(map(len, simple)) < sum(map(len, exact)) / 5
    missed = filled([simple], ring.shape) ^ ring
    assert missed.mean() < 0.02
    # nothing further than a pixel from the outline changes
    inner = cv2.erode(ring.astype(np.uint8), np.ones((5, 5))).astype(bool)
    outside = ~cv2.dilate(ring.astype(np.uint8), np.ones((5, 5))).astype(bool)
    assert not missed[inner | outside].any()


def test_geojson_has_every_class_with_closed_rings(result: Result) -> None:
    exported = json.loads(json.dumps(result.to_geojson(tolerance=0)))
    assert exported["type"] == "FeatureCollection"
    height, width = result.labels.shape
    assert exported["bbox"] == [0, 0, width, height]
    assert {feature["properties"]["name"] for feature in exported["features"]} == set(result.areas)
    for feature in exported["features"]:
        name = feature["properties"]["name"]
        mask = result.mask(name)
        assert feature["properties"]["area"] == mask.sum()
        assert tuple(feature["properties"]["color"]) == result.colors[feature["properties"]["label"]]
        rings = [ring for polygon in feature["geometry"]["coordinates"] for ring in polygon]
        assert all(ring[0] == ring[-1] and len(ring) >= 4 for ring in rings)
        polygons = [[np.array(ring[:-1]) for ring in p] for p in feature["geometry"]["coordinates"]]
        np.testing.assert_array_equal(filled(polygons, (height, width)), mask)
    corners = [sum(len(ring) for polygon in result.polygons("house", t) for ring in polygon) for t in (0, 1, 4)]
    assert corners[0] > corners[1] > corners[2]


@pytest.mark.parametrize("tolerance", [-1, math.nan])
def test_a_bad_tolerance_is_rejected(result: Result, tolerance: float) -> None:
    with pytest.raises(ItaclipError, match="tolerance = "):
        result.to_geojson(tolerance)


# --- Label Studio ------------------------------------------------------------


def decode_brush(data: list[int], height: int, width: int) -> Mask:
    """Decode run lengths like Label Studio's editor: read the stream value by value."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        value = int(bits[place : place + count], 2)
        place += count
        return value

    count, width_of_values = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        run = take(1)
        length = take(widths[take(2)]) + 1
        values += [take(width_of_values)] * length if run else [take(width_of_values) for _ in range(length)]
    canvas = np.array(values).reshape(height, width, 4)
    assert (canvas == canvas[..., :1]).all()
    return canvas[..., 3] == 255


@settings(max_examples=100)
@given(masks)
def test_brush_run_lengths_reproduce_the_mask(mask: Mask) -> None:
    np.testing.assert_array_equal(decode_brush(encode_brush(mask), *mask.shape), mask)


def test_brush_runs_longer_than_their_widest_length() -> None:
    for shape in ((200, 300), (128, 128), (1, 16384), (1, 16385)):
        mask = np.ones(shape, bool)
        assert decode_brush(encode_brush(mask), *shape).all()
        mask[-1, -1] = False
        np.testing.assert_array_equal(decode_brush(encode_brush(mask), *shape), mask)


def test_label_studio_gets_a_region_per_class(result: Result) -> None:
    prediction = json.loads(json.dumps(result.to_label_studio(from_name="brush", to_name="photo")))
    assert prediction["model_version"] == "itaclip"
    assert 0 < prediction["score"] <= 1
    height, width = result.labels.shape
    names = [region["value"]["brushlabels"][0] for region in prediction["result"]]
    assert set(names) == set(result.areas) - {"background"}
    for name, region in zip(names, prediction["result"], strict=True):
        assert (region["type"], region["from_name"], region["to_name"]) == ("brushlabels", "brush", "photo")
        assert (region["original_width"], region["original_height"]) == (width, height)
        np.testing.assert_array_equal(decode_brush(region["value"]["rle"], height, width), result.mask(name))
    assert len({region["id"] for region in prediction["result"]}) == len(names)
    assert result.to_label_studio(skip=result.names)["result"] == []


@pytest.mark.parametrize(
    ("classes", "background"),
    [
        (["cloud", "house"], True),
        (["house", "background, billboard"], True),
        (["background", "house"], False),
        (["house", "cloud"], False),
    ],
)
def test_label_studio_gets_every_class_but_the_background(
    classes: list[str], background: bool, quick: Segmenter, demo_root: Path
) -> None:
    found = quick(demo_root / "JPEGImages/scene_002.jpg", quick.prepare(classes, background))
    regions = found.to_label_studio()["result"]
    names = {region["value"]["brushlabels"][0] for region in regions}
    assert names == found.areas.keys() - ({"background"} if background else set())
    assert len(found.to_label_studio(skip=())["result"]) == len(found.areas)
    with pytest.raises(ItaclipError, match=r"no class 'hous'\. Did you mean 'house'"):
        found.to_label_studio(skip=["hous"])


def test_label_studio_s_own_reader_agrees(result: Result) -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="needs label-studio-sdk")
    height, width = result.labels.shape
    for region in result.to_label_studio()["result"]:
        canvas = brush.decode_rle(region["value"]["rle"]).reshape(height, width, 4)
        np.testing.assert_array_equal(canvas[..., 3] == 255, result.mask(region["value"]["brushlabels"][0]))


# --- supervision, FiftyOne, Transformers, COCO -------------------------------


def test_supervision_gets_masks_names_and_scores(result: Result) -> None:
    sv = pytest.importorskip("supervision")
    detections = result.to_supervision()
    assert isinstance(detections, sv.Detections)
    assert set(detections.data["class_name"]) == set(result.areas)
    for n, name in enumerate(detections.data["class_name"]):
        mask = result.mask(str(name))
        np.testing.assert_array_equal(detections.mask[n], mask)
        assert result.names[detections.class_id[n]] == name
        assert detections.confidence[n] == pytest.approx(result.score_map(str(name))[mask].mean(), abs=1e-6)
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), columns.max(), rows.max()]
        np.testing.assert_allclose(detections.xyxy[n], box, atol=1)  # conventions for the last pixel differ
    painted = sv.MaskAnnotator(opacity=1).annotate(result.image.copy(), detections)
    assert (painted != result.image).any()
    assert len(detections[detections.class_id == 2]) == 1


def test_fiftyone_gets_the_label_map(result: Result) -> None:
    fo = pytest.importorskip("fiftyone")
    segmentation = result.to_fiftyone()
    assert isinstance(segmentation, fo.Segmentation)
    np.testing.assert_array_equal(segmentation.mask, result.labels)
    assert segmentation.mask.dtype == np.uint8
    np.testing.assert_array_equal(result.to_fiftyone(start=300).mask, result.labels + 300)
    sample = fo.Sample(filepath=str(result.source), prediction=segmentation)
    np.testing.assert_array_equal(sample.prediction.mask, result.labels)
    with pytest.raises(ItaclipError, match="start = -1"):
        result.to_fiftyone(start=-1)


def test_hugging_face_format_matches_transformers(result: Result) -> None:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor
    from transformers.pipelines import ImageSegmentationPipeline

    torch.manual_seed(0)
    config = SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8,
        num_labels=4,
    )  # fmt: skip
    theirs = ImageSegmentationPipeline(
        model=SegformerForSemanticSegmentation(config).eval(), image_processor=SegformerImageProcessor()
    )
    (entry, *_), ours = theirs(Image.fromarray(result.image)), result.to_hf()
    for found in ours:
        assert found.keys() == entry.keys()
        assert type(found["label"]) is type(entry["label"])
        assert (found["mask"].mode, found["mask"].size) == (entry["mask"].mode, entry["mask"].size)
        assert set(np.unique(found["mask"])) <= {0, 255}
        np.testing.assert_array_equal(np.asarray(found["mask"]) == 255, result.mask(found["label"]))
        assert 0 < found["score"] <= 1
    assert [found["label"] for found in ours] == [name for name in result.names if name in result.areas]


def load(data: dict[str, Any], path: Path) -> COCO:
    path.write_text(json.dumps(data))
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.mark.parametrize(
    ("classes", "background", "skip"),
    [
        (["cloud", "house", "balloon"], True, []),
        (["cloud", "house", "balloon"], True, ["background"]),
        (["cloud", "house", "balloon"], False, []),
        (["house"], True, ["house", "background"]),
        (["balloon", "cloud, sky"], False, ["background", "cloud"]),
    ],
)
def test_merged_coco_results_keep_their_masks(
    classes: list[str], background: bool, skip: list[str], quick: Segmenter, demo_root: Path, tmp_path: Path
) -> None:
    vocabulary = quick.prepare(classes, background)
    results = [quick(demo_root / f"JPEGImages/scene_00{n}.jpg", vocabulary) for n in range(3)]
    parts = [found.to_coco(image_id=n, skip=skip) for n, found in zip((0, 7, 4), results, strict=True)]
    merged = {name: parts[0][name] for name in ("info", "categories")}
    merged |= {name: [entry for part in parts for entry in part[name]] for name in ("images", "annotations")}
    found = load(merged, tmp_path / "merged.json")
    assert len(found.anns) == len(merged["annotations"])  # no id twice, none lost
    assert min(found.anns, default=1) >= 1
    names = results[0].names
    assert found.cats.keys() == {label + 1 for label, name in enumerate(names) if name not in skip}
    assert all(names[number - 1] == category["name"] for number, category in found.cats.items())
    for number, result in zip((0, 7, 4), results, strict=True):
        annotations = found.loadAnns(found.getAnnIds([number]))
        assert {names[a["category_id"] - 1] for a in annotations} == result.areas.keys() - set(skip)
        for annotation in annotations:
            mask = found.annToMask(annotation).astype(bool)
            np.testing.assert_array_equal(mask, result.labels == annotation["category_id"] - 1)
    assert "value in the label map plus 1" in found.dataset["info"]["description"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": ["clod"]}, r"skip: no class 'clod'\. Did you mean 'cloud'"),
        ({"skip": "background"}, r"expected a list of class names, such as skip=\['background'\]"),
        ({"image_id": -1}, "image_id = -1: expected 0 or more"),
    ],
)
def test_bad_arguments_for_coco(result: Result, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        result.to_coco(**options)


def test_a_coco_file_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Neither a part of a file, nor the loss of the earlier one."""
    path = tmp_path / "coco.json"
    with CocoFile(path, ["a", "b"]) as coco:
        coco.add("x.jpg", (1, 2), [CocoMask(1, encoded(np.array([[False, True]])), 1)])
    whole = path.read_bytes()
    assert load(json.loads(whole), tmp_path / "read.json").anns[4]["bbox"] == [1, 0, 1, 1]

    def interrupted() -> None:
        with CocoFile(path, ["a"]) as coco:
            coco.add("y.jpg", (1, 2), [])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == whole
    with CocoFile(tmp_path / "empty.json", ["a"]):
        pass
    assert json.loads((tmp_path / "empty.json").read_text())["images"] == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["coco.json", "empty.json", "read.json"]


def test_scores_smaller_than_the_image_are_enlarged(result: Result) -> None:
    height, width = result.labels.shape
    small = cv2.resize(result.scores.own, (width // 2, height // 2), interpolation=cv2.INTER_NEAREST)
    halved = replace(result, scores=replace(result.scores, own=small))
    for found, wanted in zip(halved.to_hf(), result.to_hf(), strict=True):
        if result.areas[wanted["label"]] > 0.01:
            assert found["score"] == pytest.approx(wanted["score"], abs=0.02)


@pytest.mark.parametrize(
    ("package", "extra", "export"),
    [
        ("supervision", "supervision", Result.to_supervision),
        ("fiftyone", "fiftyone", Result.to_fiftyone),
        ("pycocotools", "coco", Result.to_coco),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    result: Result, package: str, extra: str, export: Callable[[Result], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        ItaclipError, match=rf"requires {package}: install the extra '{extra}' .*pip install '\.\[{extra}\]'"
    ):
        export(result)
