"""Rasters: the same labels as in memory, wherever they are cut; coordinates, values, resuming, and bad input."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

pytest.importorskip("rasterio")
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.features import rasterize

from itaclip import ItaclipError, RasterOptions, RasterReport, Segmenter, Vocabulary
from itaclip.apps.command.raster import main
from itaclip.apps.raster import plan as division
from itaclip.apps.raster import segment
from itaclip.apps.raster.polygons import write_polygons
from itaclip.apps.raster.segment import segment_raster_with
from itaclip.apps.raster.source import Source, describe
from itaclip.apps.raster.store import Store
from itaclip.core.images import normalise
from itaclip.core.pipeline import Pipeline

CLASSES, BACKGROUND = ["red", "green", "blue"], ["yellow"]
HERE = Affine(0.5, 0, 500_000, 0, -0.5, 1_000)
SIZE = (83, 118)


def picture(height: int, width: int, bands: int = 3) -> np.ndarray:
    """Smooth random colours with edges: bands x height x width uint8."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (bands, height // 9 + 1, width // 9 + 1)).astype(np.uint8)
    fine = np.kron(coarse, np.ones((1, 9, 9), np.uint8))[:, :height, :width]
    return (fine * 0.8 + rng.integers(0, 50, fine.shape)).astype(np.uint8)


def write(
    path: Path, values: np.ndarray, crs: str | None = "EPSG:32631", transform: Affine = HERE, **more: Any
) -> Path:
    colours = more.pop("colours", None)
    mask = more.pop("mask", None)
    palette = more.pop("palette", None)
    profile = dict(driver="GTiff", count=len(values), height=values.shape[1], width=values.shape[2], dtype=values.dtype)
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile, **more) as dataset:
        dataset.write(values)
        if colours:
            dataset.colorinterp = colours
        if mask is not None:
            dataset.write_mask(mask)
        if palette:
            dataset.write_colormap(1, palette)
    return path


SMALL: dict[str, Any] = dict(
    slide_crop=32, slide_stride=16, pamr_stride=(2, 4), pamr_steps=3, img_engineering=False, batch_crops=6, prob_thd=0.0
)


@pytest.fixture(scope="module")
def load(tiny_weights: Path) -> Callable[..., Segmenter]:
    """Loads a segmenter of small windows, once for the same settings."""

    @cache
    def loaded(**settings: Any) -> Segmenter:
        return Segmenter(str(tiny_weights), **SMALL | settings)

    return loaded


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("raster") / "town.tif", picture(*SIZE))


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut rasters of any size into blocks of 48 pixels and units of two batches."""
    monkeypatch.setattr(division, "_side", lambda size, most: 48)
    monkeypatch.setattr(division, "_WINDOWS", 12)


def choose(segmenter: Segmenter) -> Vocabulary:
    return segmenter.prepare(CLASSES, BACKGROUND)


def run(
    load: Callable[..., Segmenter], source: Path | str, out: Path, watch: Any = lambda _: None, **options: Any
) -> RasterReport:
    return segment_raster_with(source, out, load, choose, options=RasterOptions(**options), watch=watch)


def labels_of(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def in_memory(load: Callable[..., Segmenter], pixels: np.ndarray) -> np.ndarray:
    """The labels of pixels, H x W x 3 uint8, as `Pipeline` gives them for an image at its own size."""
    segmenter = load()
    vocabulary = choose(segmenter)
    settings = segmenter.for_vocabulary(vocabulary)
    regions = segmenter.pipeline.region_maps([settings], [pixels], [None])
    image = normalise(np.ascontiguousarray(pixels))
    found = segmenter.pipeline.variants([image], [pixels.shape[:2]], [(settings, vocabulary.bank)], regions)
    return next(found)[2].labels.numpy()


SETTINGS: dict[str, dict[str, Any]] = {
    "refined": {},
    "open": {"pamr_steps": 0, "closing": False},
    "closed": {"pamr_steps": 0, "prob_thd": 0.36},
    "views": {"img_engineering": True, "batch_crops": 10},
    "padded": {"slide_crop": 30, "slide_stride": 13, "padding": "centre"},
    "area rule": {"area_thd": 0.3},
    "map correction": {"map_correction": True},
    "second encoder": {"method": "proxyclip", "slide_crop": 48},
}


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("name", SETTINGS)
def test_labels_equal_those_of_the_whole_raster_in_memory(
    name: str, load: Callable[..., Segmenter], town: Path, second_weights: str, tmp_path: Path
) -> None:
    loads = partial(load, **SETTINGS[name] | ({"second_encoder": second_weights} if name == "second encoder" else {}))
    report = run(loads, town, tmp_path / "labels.tif")
    found, expected = labels_of(tmp_path / "labels.tif"), in_memory(loads, picture(*SIZE).transpose(1, 2, 0))
    assert len(np.unique(expected)) > 1
    assert np.array_equal(found, expected)
    assert sum(report.areas.values()) == pytest.approx(1)
    assert not list(tmp_path.glob("*.work"))
    if name == "area rule":
        assert not np.array_equal(found, in_memory(load, picture(*SIZE).transpose(1, 2, 0)))


def test_the_cut_changes_nothing_and_no_window_is_encoded_twice(
    load: Callable[..., Segmenter], town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    original = Pipeline.patch_logits
    monkeypatch.setattr(Pipeline, "patch_logits", lambda self, images, bank: [
        encoded.append(len(logits)) or logits for logits in original(self, images, bank)
    ])  # fmt: skip
    windows = load().pipeline.plan(torch.empty(3, *SIZE)).count
    results = []
    for number, side in enumerate((1024, 64, 48, 31)):
        monkeypatch.setattr(division, "_side", lambda size, most, side=side: side)
        run(load, town, tmp_path / f"{number}.tif", scores=tmp_path / f"{number}_scores.tif")
        assert sum(encoded) == windows
        encoded.clear()
        results.append((labels_of(tmp_path / f"{number}.tif"), labels_of(tmp_path / f"{number}_scores.tif")))
    for labels, scores in results[1:]:
        assert np.array_equal(labels, results[0][0])
        assert np.array_equal(scores, results[0][1])


@pytest.mark.usefixtures("cut")
def test_a_run_that_is_interrupted_again_and_again_ends_with_the_same_bytes(
    load: Callable[..., Segmenter], town: Path, tmp_path: Path
) -> None:
    loads = partial(load, area_thd=0.3)
    tasks = 0

    def count(report: RasterReport) -> None:
        nonlocal tasks
        tasks += 1

    run(loads, town, tmp_path / "once.tif", count, scores=tmp_path / "once_scores.tif")
    rng = np.random.default_rng(0)
    out = tmp_path / "often.tif"
    interruptions = 0
    for _ in range(10):
        left = int(rng.integers(2, 6))

        def interrupt(report: RasterReport) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt

        try:
            run(loads, town, out, interrupt, scores=tmp_path / "often_scores.tif")
        except KeyboardInterrupt:
            interruptions += 1
            assert not out.exists()
            partial_unit = out.with_name("often.tif.work") / "logits/000001"
            if interruptions == 2:
                partial_unit.write_bytes(partial_unit.read_bytes()[:-5])  # as a machine without power leaves it
    report = run(loads, town, out, scores=tmp_path / "often_scores.tif")
    assert interruptions >= 5
    for name in ("{}.tif", "{}.tif.aux.xml", "{}_scores.tif"):
        once, often = (hashlib.sha256((tmp_path / name.format(run)).read_bytes()) for run in ("once", "often"))
        assert once.hexdigest() == often.hexdigest(), name
    assert run(loads, town, out, scores=tmp_path / "often_scores.tif").seconds == 0  # nothing left to do
    assert report.kept or interruptions == 10


def test_the_result_has_coordinates_names_colours_and_scores(
    load: Callable[..., Segmenter], town: Path, tmp_path: Path
) -> None:
    out, scores = tmp_path / "labels.tif", tmp_path / "scores.tif"
    run(load, town, out, cog=True, scores=scores)
    with rasterio.open(out) as dataset:
        assert (dataset.crs.to_epsg(), dataset.transform, dataset.nodata) == (32631, HERE, 255)
        assert dataset.tags(1)["CLASS_1"] == "red"
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.colorinterp == (ColorInterp.palette,)
        colours = dataset.colormap(1)
    segmenter = load()
    assert [colours[number][:3] for number in range(4)] == list(choose(segmenter).colors)
    assert "<Category>red</Category>" in (tmp_path / "labels.tif.aux.xml").read_text()
    with rasterio.open(scores) as dataset:
        found, scale = dataset.read(1), dataset.scales[0]
    image = normalise(picture(*SIZE).transpose(1, 2, 0).copy())
    vocabulary = choose(segmenter)
    expected = next(segmenter.pipeline.variants([image], [SIZE], [(segmenter.settings, vocabulary.bank)]))[
        2
    ].scores.values[0]
    assert np.abs(found * scale - expected.numpy()).max() <= 0.0051


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".parquet"])
def test_polygons_drawn_again_give_the_labels(suffix: str, tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    labels = (picture(*SIZE, 1)[0] // 64).astype(np.uint8)
    labels[10:40, 20:70], labels[20:30, 30:50], labels[24:27, 35:40] = 1, 2, 1  # a hole, and an island in it
    labels[60:70, 5:25] = 255
    source, out = write(tmp_path / "labels.tif", labels[None], nodata=255), tmp_path / f"areas{suffix}"
    count = write_polygons(out, source, ("sea", "sand", "road", "house"), skip=["house"])
    frame = geopandas.read_parquet(out) if suffix == ".parquet" else geopandas.read_file(out)
    assert len(frame) == count
    assert set(zip(frame["class"], frame["name"], strict=True)) == {(0, "sea"), (1, "sand"), (2, "road")}
    assert any(len(area.interiors) for area in frame.geometry)
    if suffix == ".geojson":
        assert "crs" not in json.loads(out.read_text())  # RFC 7946: always WGS 84
        assert frame.crs.to_epsg() == 4326
        frame = frame.to_crs(32631)
    assert frame.crs.to_epsg() == 32631
    shapes = zip(frame.geometry, frame["class"], strict=True)
    drawn = rasterize(shapes, SIZE, fill=9, transform=HERE, dtype="uint8")
    assert np.array_equal(drawn, np.where(np.isin(labels, (3, 255)), 9, labels))


def test_simplified_neighbours_keep_a_common_border(load: Callable[..., Segmenter], town: Path, tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    for name, tolerance in (("exact", 0.0), ("simple", 3.0)):
        run(load, town, tmp_path / "labels.tif", polygons=tmp_path / f"{name}.parquet", simplify=tolerance)
    exact, simple = (geopandas.read_parquet(tmp_path / f"{name}.parquet") for name in ("exact", "simple"))
    assert simple.geometry.count_coordinates().sum() < 0.7 * exact.geometry.count_coordinates().sum()
    assert simple.area.sum() == pytest.approx(simple.union_all().area)
    assert simple.union_all().area == pytest.approx(SIZE[0] * SIZE[1] * 0.25, rel=0.02)


# --- reading ---------------------------------------------------------------------


def read(path: Path | str, **options: Any) -> tuple[np.ndarray, np.ndarray, list[str]]:
    description, notes = describe(path, **options)
    with Source(description) as source:
        return *source.read((0, description.height), (0, description.width)), notes


def test_bands_are_those_that_the_raster_names(tmp_path: Path) -> None:
    values = picture(6, 8, 4)
    kinds = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
    path = write(tmp_path / "bgr.tif", values, colours=kinds)
    pixels, _, notes = read(path)
    assert np.array_equal(pixels, values[[2, 1, 0]].transpose(1, 2, 0))
    assert "bands 3, 2, 1 of 4" in notes[0]
    pixels, _, _ = read(path, bands=(4, 1, 1))
    assert np.array_equal(pixels, values[[3, 0, 0]].transpose(1, 2, 0))
    pixels, _, notes = read(write(tmp_path / "five.tif", picture(6, 8, 5), photometric="minisblack"))
    assert np.array_equal(pixels, picture(6, 8, 5)[:3].transpose(1, 2, 0))
    assert "does not say" in notes[0]
    pixels, _, notes = read(write(tmp_path / "grey.tif", values[:1]))
    assert np.array_equal(pixels, values[[0, 0, 0]].transpose(1, 2, 0))
    assert notes == []


def test_values_are_stretched_as_asked_or_refused(tmp_path: Path) -> None:
    dark = picture(40, 50).astype(np.uint16) * 11  # 0 to 2,805 of 65,535
    path = write(tmp_path / "dark.tif", dark, nodata=0)
    with pytest.raises(
        ItaclipError, match=r"uint16 values from .* --range .* or --stretch 2,98; in Python, value_range="
    ):
        read(path)
    pixels, _, _ = read(path, value_range=(0, 2805))
    assert np.array_equal(pixels[dark.all(0)], picture(40, 50).transpose(1, 2, 0)[dark.all(0)])
    pixels, _, _ = read(path, stretch=(2, 98))
    low, high = np.percentile(dark[dark > 0], (2, 98))
    assert np.array_equal(pixels, np.rint((dark - low) * (255 / (high - low))).clip(0, 255).transpose(1, 2, 0))
    full = (picture(40, 50).astype(np.uint16) << 8) + 7
    assert np.array_equal(read(write(tmp_path / "full.tif", full))[0], picture(40, 50).transpose(1, 2, 0))
    signed = picture(40, 50).astype(np.int16) - 100
    with pytest.raises(ItaclipError, match="int16 values from -"):
        read(write(tmp_path / "signed.tif", signed))
    pixels, _, _ = read(tmp_path / "signed.tif", value_range=(-100, 155))
    assert np.array_equal(pixels, picture(40, 50).transpose(1, 2, 0))
    pixels, _, _ = read(write(tmp_path / "bytes.tif", picture(40, 50)), value_range=(0, 127.5))
    assert np.array_equal(pixels, np.minimum(picture(40, 50).astype(int) * 2, 255).transpose(1, 2, 0))


def test_nothing_there_is_known_from_nodata_alpha_masks_and_nan(tmp_path: Path) -> None:
    values, hole = picture(20, 30), np.zeros((20, 30), bool)
    hole[5:9, 3:12] = True
    values = np.maximum(values, 1)
    values[:, hole] = 0
    alpha = np.where(hole, 0, 255).astype(np.uint8)
    floats = values.astype(np.float32)
    floats[1, hole] = np.nan
    colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    paths = {
        "nodata": write(tmp_path / "nodata.tif", values, nodata=0),
        "alpha": write(tmp_path / "alpha.tif", np.concatenate([values, alpha[None]]), colours=colours),
        "mask": write(tmp_path / "mask.tif", values, mask=~hole),
        "nan": write(tmp_path / "nan.tif", floats),
    }
    for kind, path in paths.items():
        pixels, valid, notes = read(path, value_range=(0, 255) if kind == "nan" else None)
        assert np.array_equal(valid, ~hole), kind
        assert np.array_equal(pixels[valid], values.transpose(1, 2, 0)[valid]), kind
        assert (pixels[hole] == (123, 117, 104)).all()
        assert (notes == []) == (kind != "nan")  # three bands of 8 bits are colours, others need not be
        coarse, valid, _ = read(path, value_range=(0, 255) if kind == "nan" else None, resolution=1.0)
        assert coarse.shape == (10, 15, 3)
        assert not valid[3, 3], kind
        assert valid[8, 8], kind


def test_a_colour_table_is_applied(tmp_path: Path) -> None:
    numbers = (picture(12, 14, 1) % 3).astype(np.uint8)
    table = {0: (9, 8, 7), 1: (200, 0, 1), 2: (0, 77, 255)}
    path = write(tmp_path / "palette.tif", numbers, palette=table, photometric="palette")
    assert np.array_equal(read(path)[0], np.array([table[n] for n in range(3)], np.uint8)[numbers[0]])
    with pytest.raises(ItaclipError, match="colour table"):
        read(path, stretch=(2, 98))


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32631", HERE),
        ("EPSG:32631", HERE * Affine.rotation(30)),
        (None, HERE),
        (None, Affine.identity()),
        ("EPSG:4326", Affine(0.5, 0, 3, 0, 0.5, 1)),  # south up
    ],
)
def test_a_resolution_keeps_the_corner_and_means_pixels_of_the_raster(
    crs: str | None, transform: Affine, tmp_path: Path
) -> None:
    values = picture(40, 60)
    path = write(tmp_path / "here.tif", values, crs=crs, transform=transform)
    side = 2.0 if transform.is_identity else 1.0
    description, notes = describe(path, resolution=side)
    assert (description.height, description.width) == (20, 30)
    moved = Affine(*description.transform)
    assert moved * (30, 20) == pytest.approx(transform * (60, 40))
    with Source(description) as source:
        pixels, _ = source.read((0, 20), (0, 30))
        part, _ = source.read((7, 11), (4, 29))
    means = values.reshape(3, 20, 2, 30, 2).mean((2, 4)).transpose(1, 2, 0)
    assert np.abs(pixels - means).max() <= 1
    assert np.array_equal(part, pixels[7:11, 4:29])
    assert any("no coordinate reference system" in note for note in notes) == (crs is None)
    _, notes = describe(path, resolution=side / 8)
    assert any("finer than the raster's own" in note for note in notes)


@pytest.mark.usefixtures("cut")
def test_pixels_without_data_get_no_label_and_empty_windows_are_not_encoded(
    load: Callable[..., Segmenter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.maximum(picture(*SIZE), 1)
    values[:, 40:] = 0
    path = write(tmp_path / "half.tif", values, nodata=0)
    encoded = []
    original = Pipeline.patch_logits
    monkeypatch.setattr(Pipeline, "patch_logits", lambda self, images, bank: [
        encoded.append(len(logits)) or logits for logits in original(self, images, bank)
    ])  # fmt: skip
    run(load, path, tmp_path / "labels.tif")
    found = labels_of(tmp_path / "labels.tif")
    assert (found[40:] == 255).all()
    shown = read(path)[0]
    assert np.array_equal(found[:40], in_memory(load, shown)[:40])
    assert sum(encoded) < load().pipeline.plan(torch.empty(3, *SIZE)).count
    report = run(load, write(tmp_path / "none.tif", np.zeros_like(values), nodata=0), tmp_path / "none_labels.tif")
    assert (labels_of(tmp_path / "none_labels.tif") == 255).all()
    assert report.areas == {}
    assert "no pixel has data" in report.notes[-1]


@pytest.mark.parametrize("size", [(1, 70), (70, 1), (1, 1)])
def test_rasters_of_one_pixel_width(size: tuple[int, int], load: Callable[..., Segmenter], tmp_path: Path) -> None:
    path = write(tmp_path / "thin.tif", picture(*size))
    run(load, path, tmp_path / "labels.tif")
    assert np.array_equal(labels_of(tmp_path / "labels.tif"), in_memory(load, picture(*size).transpose(1, 2, 0)))


# --- bad input -------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no such band": ({"bands": (1, 2, 9)}, "has no band 9; its bands are 1 to 3"),
    "two bands": ({"bands": (1, 2)}, "expected one band, or red, green and blue"),
    "no resolution": ({"resolution": 0.0}, "expected a positive number"),
    "much too coarse": ({"resolution": 1e4}, "leaves 1 x 1 pixels"),
    "both": ({"stretch": (2, 98), "value_range": (0, 1)}, "give only one of them"),
    "percentiles": ({"stretch": (98, 2)}, "expected two percentiles of 0 to 100"),
    "polygons": ({"polygons": "areas.shp"}, "ends in .gpkg, .geojson, .parquet"),
    "simplify alone": ({"simplify": 1.0}, "belong to polygons"),
    "skip": ({"polygons": "a.gpkg", "polygons_skip": ["dog"]}, "no class 'dog'"),
    "workers": ({"workers": 0}, "expected 1 or more"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options(name: str, load: Callable[..., Segmenter], town: Path, tmp_path: Path) -> None:
    options, message = BAD[name]
    with pytest.raises(ItaclipError, match=message):
        run(load, town, tmp_path / "labels.tif", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "ovstitcher"}, "reads windows one by one"),
        ({"method": "corrclip"}, "reads windows one by one"),
        ({"img_engineering": True, "tolerance": 0.1}, "depends on the whole raster"),
        ({"slide_crop": 0}, "more than 0"),
        ({"map_correction": True, "regions": "."}, "maps of whole images"),
    ],
)
def test_settings_that_need_the_whole_raster(
    settings: dict[str, Any],
    message: str,
    load: Callable[..., Segmenter],
    town: Path,
    second_weights: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(ItaclipError, match=message):
        run(partial(load, second_encoder=second_weights, **settings), town, tmp_path / "labels.tif")


def test_bad_files(load: Callable[..., Segmenter], town: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.tif"
    (tmp_path / "text.tif").write_text("no raster")
    cut_off = tmp_path / "cut.tif"
    cut_off.write_bytes(town.read_bytes()[:-9000])
    pages = tmp_path / "pages.tif"
    tifffile.imwrite(pages, np.zeros((2, 8, 8, 3), np.uint8), photometric="rgb")
    cases: list[tuple[Any, Path, str]] = [
        (tmp_path / "missing.tif", out, "no such file"),
        (tmp_path, out, "a folder; name one raster"),
        (tmp_path / "text.tif", out, "cannot be read"),
        (cut_off, out, r"cut.tif: cannot be read \(rows"),
        (pages, out, "holds 2 rasters; name one of them"),
        (town, tmp_path / "no/folder.tif", "there is no folder"),
        (town, tmp_path / "labels.png", "expected a name that ends in .tif"),
        (town, town, "would replace the input"),
        (write(tmp_path / "complex.tif", picture(8, 8).astype(np.complex64)), out, "complex numbers"),
    ]
    for source, target, message in cases:
        with pytest.raises(ItaclipError, match=message):
            run(load, source, target)
        assert not out.exists()
    plain = write(tmp_path / "plain.tif", picture(8, 8), crs=None)
    with pytest.raises(ItaclipError, match=r"GeoJSON is in WGS 84"):
        run(load, plain, out, polygons=tmp_path / "a.geojson")
    out.write_bytes(b"mine")
    with pytest.raises(ItaclipError, match=r"labels.tif: exists.*--overwrite"):
        run(load, town, out)
    assert out.read_bytes() == b"mine"
    run(load, town, out, overwrite=True)
    with pytest.raises(ItaclipError, match="different files"):
        run(load, town, out, scores=out)


@pytest.mark.usefixtures("cut")
def test_a_run_with_other_settings_does_not_mix(load: Callable[..., Segmenter], town: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.tif"

    def stop(report: RasterReport) -> None:
        if report.stage == "deciding":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(load, town, out, stop)
    with pytest.raises(
        ItaclipError, match=r"labels.tif.work: holds results of another run \(different settings, plan\)"
    ):
        run(partial(load, pamr_steps=0), town, out)
    run(partial(load, pamr_steps=0), town, out, overwrite=True)
    assert np.array_equal(labels_of(out), in_memory(partial(load, pamr_steps=0), picture(*SIZE).transpose(1, 2, 0)))


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Limit the size of files, which a process meets as it meets a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("what", ["logits/000000", "labels/000000.npz", "scores.tif", "labels.tif"])
def test_a_full_disk_leaves_nothing_half_written(
    what: str, load: Callable[..., Segmenter], town: Path, tmp_path: Path, small_files: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    writers: dict[str, tuple[Any, str]] = {
        "logits/000000": (Store, "write_logits"), "labels/000000.npz": (Store, "write_block"),
        "scores.tif": (segment, "write_scores"), "labels.tif": (segment, "write_labels"),
    }  # fmt: skip
    place, name = writers[what]
    original = getattr(place, name)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, lambda *args: small_files(300) or original(*args))
        with pytest.raises(ItaclipError, match=f"{what}: cannot be written"):
            run(load, town, tmp_path / "labels.tif", scores=tmp_path / "scores.tif")
    left = ["labels.tif.work", *(["scores.tif"] if what == "labels.tif" else [])]
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_no_room_for_the_work(
    load: Callable[..., Segmenter], town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(ItaclipError, match=r"GiB are free. Choose --out on a larger disk"):
        run(load, town, tmp_path / "labels.tif")


# --- the command -----------------------------------------------------------------


def test_the_command(
    town: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], load: Callable[..., Segmenter]
) -> None:
    out = tmp_path / "labels.tif"
    settings = [f"{name}={value}" for name, value in SMALL.items()]
    chosen = ["--classes", "; ".join(CLASSES), "--background", "yellow", "--model", str(tiny_weights)]
    common = [str(town), "--out", str(out), *chosen, "--set", *settings]
    assert main([*common, "--bands", "3,2,1", "--range", "0,200", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["areas"]
    expected = np.rint(picture(*SIZE)[::-1] * (255 / 200)).clip(0, 255).astype(np.uint8)
    assert np.array_equal(labels_of(out), in_memory(load, expected.transpose(1, 2, 0)))
    for options, message in (
        (["--bands", "red"], "--bands red: expected numbers"),
        (["--range", "9,1"], "--range 9,1: expected LOW,HIGH"),
        (["--stretch", "2"], "--stretch 2: expected LOW,HIGH"),
    ):
        with pytest.raises(ItaclipError, match=message):
            main([*common, *options])
    with pytest.raises(ItaclipError, match="--demo"):
        main([])


def test_the_demo_s_town_is_a_raster_in_a_place_at_sea(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from itaclip.apps.raster import demo
    from itaclip.common.demo import aerial

    monkeypatch.setattr(demo, "draw_town", lambda: aerial.draw_town(200, 320))
    path = demo.draw_demo_raster(tmp_path / "town.tif")
    content = path.read_bytes()
    assert demo.draw_demo_raster(path).read_bytes() == content
    with rasterio.open(path) as dataset:
        assert dataset.crs.to_epsg() == 32631
        assert dataset.lnglat() == pytest.approx((3.0, 0.009), abs=0.001)
        assert dataset.shape == (200, 320)
    assert np.array_equal(aerial.draw_town(200, 320).image, read(path)[0])


# --- elsewhere ---------------------------------------------------------------


@pytest.fixture
def shelf(town: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An S3 server with the town in its bucket "maps", which GDAL knows by environment variables."""
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1", "AWS_HTTPS": "NO",
        "AWS_S3_ENDPOINT": s3_server.removeprefix("http://"), "AWS_VIRTUAL_HOSTING": "FALSE", "VSI_CACHE": "FALSE",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    client.create_bucket(Bucket="maps")
    client.upload_file(str(town), "maps", "town.tif")


@pytest.mark.parametrize("address", ["s3://maps/{}", "/vsis3/maps/{}"])
@pytest.mark.usefixtures("shelf", "cut")
def test_rasters_on_a_server(address: str, load: Callable[..., Segmenter], town: Path, tmp_path: Path) -> None:
    """GDAL reads them over the network, as it would from any store."""
    run(load, town, tmp_path / "here.tif")
    run(load, address.format("town.tif"), tmp_path / "there.tif")
    assert np.array_equal(labels_of(tmp_path / "there.tif"), labels_of(tmp_path / "here.tif"))
    with rasterio.open(tmp_path / "there.tif") as dataset:
        assert dataset.transform == HERE
    missing = address.format("none.tif")
    with pytest.raises(ItaclipError, match=r"none\.tif"):
        run(load, missing, tmp_path / "missing.tif")
    assert not (tmp_path / "missing.tif").exists()
