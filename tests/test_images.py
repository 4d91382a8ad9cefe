"""How images are read: every kind by every way in, against values that the test itself computed."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from image_helpers import BYTES, DARK, DEEP, netpbm, opencv, packed_tiff, pages, pillow, png, rgb, tiff, turned
from numpy.typing import NDArray
from PIL import Image

from itaclip.common.images import (
    STRETCH,
    ImageTooLargeError,
    ReadOptions,
    ValueRange,
    check_for_opencv,
    decode_image,
    parse_range,
    read_image,
)
from itaclip.errors import ItaclipError

GREY = BYTES[..., 0]
RANGE = (100.0, 2000.0)


def mapped(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Linearly to 0..255, rounded and clipped, value by value."""
    found = [min(255, max(0, round((float(value) - low) * 255 / (high - low)))) for value in values.ravel()]
    return np.array(found, np.uint8).reshape(values.shape)


def frames(kind: str) -> bytes:
    first = Image.fromarray(rgb(GREY))
    others = [Image.new("RGB", first.size, color) for color in ("red", "blue")]
    return pillow(kind, first, save_all=True, append_images=others, **({"lossless": True} if kind == "WEBP" else {}))


@dataclass(frozen=True)
class Kind:
    """A row of the table in docs/images.md, with files that prove it.

    Attributes:
        what: the kind.
        rule: how it is read.
        files: by name, a file and the image that it holds, as grey or colour, or None if it is refused.
        value_range: to read the files with.
        message: of the refusal.
    """

    what: str
    rule: str
    files: dict[str, tuple[bytes, NDArray[Any] | None]] = field(repr=False)
    value_range: ValueRange = None
    message: str = ""


PALETTE = Image.fromarray(GREY).convert("P")
PALETTE.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
COLOURED = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)
RGB, RGBA, LA = BYTES[..., :3], BYTES[..., :4], BYTES[..., :2]

KINDS = [
    Kind("8 bits: 1-bit, palette, grey, RGB (BMP, GIF, JPEG, PNG, PPM, TIFF, WebP)", "as OpenCV decodes them", {
        "1": (pillow("PNG", Image.fromarray(GREY > 99)), np.where(GREY > 99, 255, 0)),
        "P": (pillow("PNG", PALETTE), COLOURED),
        "P.tif": (pillow("TIFF", PALETTE), COLOURED),
        "L": (pillow("PNG", GREY), GREY),
        "RGB.bmp": (pillow("BMP", RGB), RGB),
        "RGB.tif": (pillow("TIFF", RGB, compression="tiff_lzw"), RGB),
        "RGB.ppm": (netpbm(RGB, 255), RGB),
        "RGB.webp": (pillow("WEBP", RGB, lossless=True), RGB),
        "planar.tif": (tiff(RGB, planar=True), RGB),
        "white.tif": (tiff(GREY, photometric="miniswhite"), 255 - GREY.astype(int)),
    }),
    Kind("transparency", "dropped; colours stay as stored", {
        "RGBA.png": (pillow("PNG", RGBA), RGB),
        "LA.png": (pillow("PNG", Image.merge("LA", [
            Image.fromarray(LA[..., 0]), Image.fromarray(LA[..., 1])])), GREY),
        "RGBA.webp": (pillow("WEBP", RGBA, lossless=True, exact=True), RGB),
        "RGBA.tif": (pillow("TIFF", RGBA), RGB),
        "RGBA16.png": (png(DEEP[..., :4], 6), RGB),
        "LA16.png": (png(DEEP[..., :2], 4), GREY),
    }),
    Kind("TIFF: one band more than the colours, whatever its tag says (alpha, associated alpha, not stated)",
         "dropped; colours stay as stored", {
        f"{len(values.shape) and values.shape[2]}{values.dtype}{planar}{extra}": (
            tiff(values, planar, extrasamples=[extra], photometric="rgb" if values.shape[2] == 4 else "minisblack"),
            (values if values.dtype == np.uint8 else values >> 8)[..., : 3 if values.shape[2] == 4 else 1].squeeze(),
        )
        for values in (RGBA, LA, DEEP[..., :4], DEEP[..., :2]) for planar in (False, True) for extra in (0, 1, 2)
    }),
    Kind("TIFF: more bands", "refused: choose three", {
        "5": (tiff(BYTES), None),
        "5 planes": (tiff(BYTES, planar=True), None),
        "5 grey": (tiff(BYTES, photometric="minisblack"), None),
        "5 deep": (tiff(DEEP), None),
    }, message=r"5 bands.*Choose three.*\[0, 1, 2\]"),
    Kind("orientation in the EXIF data or in TIFF's tag", "applied", {
        f"{orientation}{kind}": (content, turned(values, orientation))
        for orientation in range(1, 9)
        for kind, content, values in (
            ("png", pillow("PNG", RGB, orientation), RGB),
            ("webp", pillow("WEBP", RGB, orientation, lossless=True), RGB),
            ("tif", tiff(RGB, orientation=orientation), RGB),
            ("rgba.tif", tiff(RGBA, orientation=orientation, extrasamples=[2]), RGB),
            ("16.tif", tiff(DEEP[..., 0], orientation=orientation), GREY),
            ("16 planes.tif", tiff(DEEP[..., :3], True, orientation), RGB),
        )
    }),
    Kind("animated GIF, PNG, WebP; MPO", "the first frame", {
        "gif": (frames("GIF"), GREY), "png": (frames("PNG"), GREY), "webp": (frames("WEBP"), GREY),
    }),
    Kind("TIFF: further pages that are reduced copies or masks", "the first page", {
        "copy": (pages(0, 1), RGB), "copies": (pages(0, 1, 1), RGB), "mask": (pages(0, 4), RGB),
        "both": (pages(0, 5, 1), RGB),
    }),
    Kind("TIFF: other further pages", "refused: save or pass one page", {
        "two": (pages(0, 0), None), "three": (pages(0, 2, 2), None), "late": (pages(0, 1, 0), None),
        "small first": (pages(1, 0), None),
    }, message=r"TIFF with \d pages.*key=0"),
    Kind("16-bit integers that use their range", "the 8 higher bits", {
        "L.png": (png(DEEP[..., 0], 0), GREY), "RGB.png": (opencv(".png", DEEP[..., :3]), RGB),
        "L.tif": (tiff(DEEP[..., 0]), GREY), "RGB.tif": (tiff(DEEP[..., :3]), RGB),
        "big-endian.tif": (tiff(DEEP[..., :3], byteorder=">"), RGB),
        "planes.tif": (tiff(DEEP[..., :3], planar=True), RGB),
        "deflate planes.tif": (tiff(DEEP[..., :3], planar=True, compression="zlib", predictor=True), RGB),
        "LZW.tif": (opencv(".tif", DEEP[..., :3]), RGB),
        "white.tif": (tiff(DEEP[..., 0], photometric="miniswhite"), (65535 - DEEP[..., 0]) >> 8),
        "pgm": (netpbm(DEEP[..., 0], 65535), GREY), "ppm": (netpbm(DEEP[..., :3], 65535), RGB),
    }),
    Kind("10, 12 and 14 bits packed in TIFF; PGM and PPM that state their highest value", "that range to 0..255", {
        **{f"{bits}.tif": (packed_tiff(DEEP[..., 0] >> (16 - bits), bits), GREY) for bits in (10, 12, 14)},
        "4095.pgm": (netpbm(DEEP[..., 0] >> 4, 4095), [[round(int(v) * 65535 / 4095) >> 8 for v in row]
                                                      for row in (DEEP[..., 0] >> 4).tolist()]),  # type: ignore[dict-item]
        "4095.ppm": (netpbm(DEEP[..., :3] >> 4, 4095), [[[round(v * 65535 / 4095) >> 8 for v in pixel] for pixel in row]
                                                       for row in (DEEP[..., :3] >> 4).tolist()]),  # type: ignore[dict-item]
        "15.pgm": (netpbm(GREY >> 4, 15), (GREY >> 4) * 17),
    }),
    Kind("16-bit integers, 99 % of them in the lowest quarter of the range", "refused without a value range", {
        "L.png": (png(DARK[..., 0], 0), None), "RGB.tif": (tiff(DARK[..., :3]), None),
        "planes.tif": (tiff(DARK[..., :3], planar=True), None), "black.png": (png(DARK[..., 0] * 0, 0), None),
        "pgm": (netpbm(DARK[..., 0], 65535), None), "12.tif": (packed_tiff(DEEP[..., 0] >> 8, 12), None),
    }, message=r"values from \d+ to \d+, of 0 to \d+: nearly black.*value_range=\(0, \d+\).*--value-range="),
    Kind("signed, 32-bit and floating-point values (TIFF, PFM)", "refused without a value range", {
        "int16.tif": (tiff(DEEP[..., 0].astype(np.int16)), None), "uint32.tif": (tiff(DEEP[..., 0].astype("u4")), None),
        "float16.tif": (tiff((DEEP[..., 0] / 65535).astype("f2")), None),
        "float32.tif": (tiff((DEEP[..., 0] / 65535).astype("f4")), None),
        "float64 RGB.tif": (tiff(DEEP[..., :3] / 65535), None),
        "pfm": (b"Pf\n9 6\n-1.0\n" + (DEEP[::-1, :, 0] / 65535).astype("<f4").tobytes(), None),
    }, message=r"values from \S+ to \S+ need a range.*value_range=\(\S+, \S+\).*--value-range="),
    Kind("any of these with a value range", "LOW to 0, HIGH to 255, linearly, clipped", {
        "L.png": (png(DARK[..., 0], 0), mapped(DARK[..., 0], *RANGE)),
        "RGBA.png": (png(DARK[..., :4], 6), mapped(DARK[..., :3], *RANGE)),
        "RGB.tif": (tiff(DARK[..., :3]), mapped(DARK[..., :3], *RANGE)),
        "int16.tif": (tiff(DARK[..., 0].astype("i2")), mapped(DARK[..., 0], *RANGE)),
        "int32.tif": (tiff(DARK[..., 0].astype("i4")), mapped(DARK[..., 0], *RANGE)),
        "float32 RGB.tif": (tiff(DARK[..., :3].astype("f4")), mapped(DARK[..., :3], *RANGE)),
        "float32 planes.tif": (tiff(DARK[..., :3].astype("f4"), planar=True), mapped(DARK[..., :3], *RANGE)),
        "float32 RGBA.tif": (tiff(DARK[..., :4].astype("f4"), extrasamples=[2]), mapped(DARK[..., :3], *RANGE)),
        "float64.tif": (tiff(DARK[..., 0].astype("f8")), mapped(DARK[..., 0], *RANGE)),
        "full.png": (png(DEEP[..., 0], 0), mapped(DEEP[..., 0], *RANGE)),
        "8 bits.png": (pillow("PNG", RGB), RGB),
    }, value_range=RANGE),
    Kind("NaN and infinite values", "refused", {
        "nan": (tiff(np.where(DEEP[..., 0] > 60000, np.nan, 0.5)), None),
        "inf": (tiff(np.where(DEEP[..., :3] > 60000, np.inf, 0.5).astype("f4")), None),
        "-inf": (tiff(np.where(DEEP[..., 0] < 3000, -np.inf, 0.5).astype("f2")), None),
    }, value_range=(0, 1), message="are NaN or infinite.*nan_to_num"),
    Kind("TIFF: 16-bit CMYK and CIELAB, raw sensor data, other numbers of bits", "refused: convert it", {
        "cmyk": (tiff(DEEP[..., :4], photometric="separated"), None),
        "lab": (tiff(DEEP[..., :3], photometric="cielab"), None),
        "raw": (tiff(DEEP[..., 0], photometric="cfa"), None),
        "9 bits": (packed_tiff(DEEP[..., 0] >> 7, 9), None),
    }, message="convert it to a TIFF or PNG of 8 or 16 bits"),
]  # fmt: skip

FILES = [
    pytest.param(kind, content, expected, id=f"{number}-{name}")
    for number, kind in enumerate(KINDS)
    for name, (content, expected) in kind.files.items()
]


def table() -> str:
    """The table of docs/images.md."""
    rows = [f"| {kind.what} | {kind.rule} |" for kind in KINDS]
    return "\n".join(["| image | how it is read |", "|---|---|", *rows])


def test_the_table_in_the_docs_is_the_one_tested_here() -> None:
    assert table() in (ROOT / "docs/images.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("kind", "content", "expected"), FILES)
def test_every_kind_of_file(kind: Kind, content: bytes, expected: NDArray[Any] | None, tmp_path: Path) -> None:
    options = ReadOptions(value_range=kind.value_range)
    (tmp_path / "x.dat").write_bytes(content)
    if expected is None:
        with pytest.raises(ItaclipError, match=kind.message) as caught:
            read_image(tmp_path / "x.dat", options)
        assert str(caught.value).startswith(str(tmp_path / "x.dat: "))
        return
    found = read_image(tmp_path / "x.dat", options)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, rgb(np.asarray(expected)))
    np.testing.assert_array_equal(decode_image(content, "x", options), found)
    np.testing.assert_array_equal(read_image(content, options), found)


def photo_files(demo_root: Path) -> dict[str, bytes]:
    """Lossy and odd files of 8 bits."""
    photo = Image.open(demo_root / "JPEGImages/scene_001.jpg").convert("RGB").resize((90, 61))
    return {
        "jpeg": pillow("JPEG", photo), "progressive": pillow("JPEG", photo, progressive=True, quality=60),
        "grey": pillow("JPEG", photo.convert("L")), "CMYK": pillow("JPEG", photo.convert("CMYK")),
        "turned": pillow("JPEG", photo, 6), "mirrored": pillow("JPEG", photo, 5), "webp": pillow("WEBP", photo),
        "turned webp": pillow("WEBP", photo, 8), "palette": pillow("PNG", photo.quantize(17)),
        "interlaced": pillow("PNG", photo.convert("1")), "tiff jpeg": pillow("TIFF", photo, compression="jpeg"),
 "tiff cmyk": pillow("TIFF", photo.convert("CMYK")),
        "tiff turned": pillow("TIFF", photo, 6), "group 4": pillow("TIFF", photo.convert("1"), compression="group4"),
    }  # fmt: skip


def test_8_bit_files_are_decoded_exactly_as_in_mmsegmentation(demo_root: Path) -> None:
    for name, content in photo_files(demo_root).items():
        expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(decode_image(content, name), expected, err_msg=name)
        check_for_opencv(content, name)


# --- the other ways in -------------------------------------------------------


def doors() -> dict[str, Callable[[NDArray[Any]], Any]]:
    """Ways to pass 16-bit values; each takes H x W or H x W x 3."""
    return {
        "png": lambda values: png(values, 0 if values.ndim == 2 else 2),
        "tiff": tiff,
        "planar tiff": lambda values: tiff(values, planar=True),
        "PIL, from PNG": lambda values: Image.open(io.BytesIO(png(values, 0 if values.ndim == 2 else 2))),
        "PIL, from TIFF": lambda values: Image.open(io.BytesIO(tiff(values))),
        "PIL, from PGM": lambda values: Image.open(io.BytesIO(netpbm(values, 65535))),
        "array": lambda values: values,
        "big-endian array": lambda values: values.astype(">u2"),
        "tensor": lambda values: torch.from_numpy(values.copy()),
    }


@pytest.mark.parametrize("door", doors())
@pytest.mark.parametrize("bands", ["grey", "RGB"])
def test_16_bits_are_read_alike_by_every_way_in(door: str, bands: str) -> None:
    def passed(values: NDArray[Any]) -> Any:
        return doors()[door](values[..., 0] if bands == "grey" else values[..., :3])

    chosen = slice(0, 1) if bands == "grey" else slice(0, 3)
    expected = np.broadcast_to(BYTES[..., chosen], (*BYTES.shape[:2], 3))
    np.testing.assert_array_equal(read_image(passed(DEEP)), expected)
    with pytest.raises(ItaclipError, match="nearly black"):
        read_image(passed(DARK))
    expected = np.broadcast_to(mapped(DARK[..., chosen], *RANGE), expected.shape)
    np.testing.assert_array_equal(read_image(passed(DARK), ReadOptions(value_range=RANGE)), expected)


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "F"])
def test_pil_modes_of_more_than_8_bits(mode: str) -> None:
    values = DARK[..., 0].astype({"I": "i4", "F": "f4", "I;16": "<u2", "I;16B": ">u2"}[mode])
    image = Image.frombytes(mode, (values.shape[1], values.shape[0]), values.tobytes())
    with pytest.raises(ItaclipError, match=r"value_range=.*--value-range"):
        read_image(image)
    expected = rgb(mapped(DARK[..., 0], *RANGE))
    np.testing.assert_array_equal(read_image(image, ReadOptions(value_range=RANGE)), expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_pil_modes_of_8_bits_are_read(mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    np.testing.assert_array_equal(read_image(image), np.asarray(image.convert("RGB")))


def test_a_pil_mode_that_pillow_cannot_convert_is_refused() -> None:
    with pytest.raises(ItaclipError, match="PIL image: mode La cannot be read"):
        read_image(Image.new("La", (5, 4)))


def test_pil_objects_that_have_lost_values_are_refused() -> None:
    for content in (tiff(DEEP[..., :3]), tiff(BYTES)):
        opened = Image.open(io.BytesIO(content))
        opened.load()
        with pytest.raises(ItaclipError, match="pass the path"):
            read_image(opened)
    opened = Image.open(io.BytesIO(pages(0, 0)))  # a page that the user chose
    opened.seek(1)
    assert np.unique(read_image(opened)).tolist() == [7]


def test_a_stretch_takes_percentiles_over_all_bands_together() -> None:
    ramp = np.arange(303).reshape(101, 1, 3) * 10  # the 2nd percentile is 60.4, the 98th 2959.6
    options = ReadOptions(value_range=STRETCH)
    expected = mapped(ramp, 60.4, 2959.6)
    for form in (ramp.astype("u2"), ramp.astype("f4"), ramp, torch.from_numpy(ramp), tiff(ramp.astype("u2"))):
        np.testing.assert_array_equal(read_image(form, options), expected)
    gain = mapped(np.stack([ramp[..., 0]] * 3, -1), 60.4, 2959.6)
    assert (np.diff(gain, axis=-1) == 0).all()  # grey stays grey
    mostly_black = np.zeros((20, 20), np.uint16)
    mostly_black[0, 0] = 500
    assert read_image(mostly_black, options).max() == 255
    assert read_image(np.full((4, 5), 9, np.uint16), options).max() == 0
    np.testing.assert_array_equal(read_image(RGB, options), RGB)


BATCH = np.zeros((2, 3, 40, 50), np.uint8)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (BATCH[0], "pass image.transpose(1, 2, 0)"),
        (BATCH[0, :1], "pass image.transpose(1, 2, 0)"),
        (np.zeros((4, 9, 7), np.float32), "pass image.transpose(1, 2, 0)"),
        (torch.zeros(3, 40, 50), "pass image.permute(1, 2, 0)"),
        (torch.zeros(1, 40, 50, dtype=torch.uint8), "pass image.permute(1, 2, 0)"),
        (BATCH, "list(batch.transpose(0, 2, 3, 1))"),
        (torch.from_numpy(BATCH), "list(batch.permute(0, 2, 3, 1))"),
        (BATCH.transpose(0, 2, 3, 1), "list(batch)"),
        (np.ones((4, 5, 3), np.float32), '(image * 255).astype("uint8"), or value_range=(0, 1)'),
        (torch.rand(4, 5, 3), "(image * 255).to(torch.uint8), or value_range=(0, 1)"),
        (torch.rand(4, 5, 3, dtype=torch.bfloat16), "value_range=(0, 1)"),
        (np.full((4, 5), 200.0), "value_range=(0, 200)"),
        (np.full((4, 5, 3), -1.0), "value_range=(-1, -1)"),
        (np.full((4, 5, 3), 200, np.int64), 'pass image.astype("uint8")'),
        (torch.full((4, 5, 3), 200), "pass image.to(torch.uint8)"),
        (np.full((4, 5, 3), 1000, np.int32), "value_range=(0, 1000)"),
        (np.ones((4, 5), bool), 'image.astype("uint8")'),
        (np.ones((4, 5), complex), "expected height x width x 3"),
        (np.zeros((6, 5, 7), np.uint8), "image[..., [0, 1, 2]]"),
        (np.zeros((4, 5, 2), np.uint8), "expected height x width x 3"),
        (np.zeros(4, np.uint8), "expected height x width x 3"),
        (np.zeros((0, 5, 3), np.uint8), "not empty"),
        (object(), "type object: expected a path"),
    ],
)
def test_arrays_and_tensors_of_other_forms_say_what_to_call(image: Any, message: str) -> None:
    with pytest.raises(ItaclipError, match=re.escape(message)):
        read_image(image)


@pytest.mark.parametrize("bands", [None, 1, 3, 4])
@pytest.mark.parametrize("size", [(4, 5), (3, 3), (1, 1), (1, 7)])
def test_arrays_and_tensors_are_the_same_image(bands: int | None, size: tuple[int, int]) -> None:
    values = np.random.default_rng(1).integers(0, 256, size if bands is None else (*size, bands)).astype(np.uint8)
    expected = np.broadcast_to(values.reshape(*size, -1)[..., :3], (*size, 3))
    np.testing.assert_array_equal(read_image(values), expected)
    np.testing.assert_array_equal(read_image(values[::-1, ::-1]), expected[::-1, ::-1])
    np.testing.assert_array_equal(read_image(torch.from_numpy(values)), expected)
    scaled = torch.from_numpy(values / 255).requires_grad_()
    np.testing.assert_array_equal(read_image(scaled, ReadOptions(value_range=(0, 1))), expected)


# --- limits ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"])
def test_the_limit_is_ours_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pillow(kind, np.full((60, 70, 3), 128, np.uint8))
    with pytest.raises(
        ImageTooLargeError, match=r"70 x 60.*at most 4,000.*largest= in Python, --largest on .*, ITACLIP_LARGEST in"
    ):
        decode_image(content, "x", ReadOptions(largest=4000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's, here below the image
    assert decode_image(content, "x", ReadOptions(largest=4200)).shape == (60, 70, 3)
    with pytest.raises(ImageTooLargeError, match=r"70 x 60.*at most 4,000"):
        decode_image(content, "x", ReadOptions(largest=4000))
    if kind == "TIFF":
        deep, alpha = tiff(np.repeat(DEEP, 100, axis=0)[..., :3]), tiff(np.repeat(RGBA, 100, axis=0), extrasamples=[2])
        assert np.array_equal(decode_image(deep, "x"), np.repeat(RGB, 100, axis=0))
        assert np.array_equal(decode_image(alpha, "x"), np.repeat(RGB, 100, axis=0))


def test_the_limit_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((60, 70, 3), np.uint8)
    monkeypatch.setenv("ITACLIP_LARGEST", "4000")
    with pytest.raises(ImageTooLargeError, match="at most 4,000"):
        read_image(image)
    with pytest.raises(ImageTooLargeError, match="at most 4,000"):
        decode_image(pillow("PNG", image), "x")
    assert read_image(image, ReadOptions(largest=4200)).shape == (60, 70, 3)
    monkeypatch.setenv("ITACLIP_LARGEST", "many")
    with pytest.raises(ItaclipError, match="ITACLIP_LARGEST = 'many': expected a positive number"):
        read_image(image)


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False}, {"exif": b"Exif", "lossless": False}])
def test_webp_above_the_limit_of_pillow(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((61, 70, 3), 128, np.uint8)).save(buffer, "WEBP", **options)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    found = decode_image(buffer.getvalue(), "x")
    assert found.shape == (61, 70, 3)
    assert abs(found.astype(int) - 128).max() < 4
    with pytest.raises(ImageTooLargeError, match="70 x 61"):
        decode_image(buffer.getvalue(), "x", ReadOptions(largest=4000))


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_sides_beyond_the_limit_of_opencv(mode: str) -> None:
    image = Image.new(mode, (2**20 + 9, 1), 40000 if mode == "I;16" else 77 if mode == "L" else (7, 8, 9))
    found = decode_image(pillow("PNG", image), "x")
    assert found.shape == (1, 2**20 + 9, 3)
    assert found[0, -1].tolist() == {"L": [77] * 3, "RGB": [7, 8, 9], "I;16": [40000 >> 8] * 3}[mode]


@pytest.mark.parametrize(
    "content",
    [
        tiff(np.repeat(DEEP, 50, axis=1)[..., :3]),
        tiff(np.repeat(RGBA, 50, axis=1), extrasamples=[2]),
        tiff(np.repeat(LA, 50, axis=1), extrasamples=[0], photometric="minisblack"),
        pillow("TIFF", np.repeat(RGB, 50, axis=1), compression="tiff_lzw"),
    ],
)
def test_truncated_tiffs_are_damaged(content: bytes) -> None:
    for cut in (len(content) - 40, len(content) // 2):
        with pytest.raises(ItaclipError, match=r"x: (damaged|not an image)"):
            decode_image(content[:cut], "x")


@pytest.mark.parametrize("content", [b"II*\0\x08\0\0\0\0\0", b"MM\0*\0\0\0\x08\0\0", b"II*\0", b"II+\0" + bytes(30)])
def test_tiffs_without_pixels_are_damaged(content: bytes) -> None:
    with pytest.raises(ItaclipError, match="x: damaged"):
        decode_image(content, "x")


@pytest.mark.parametrize("text", ["0,3000", "-1,1", "0.5,1e3", "stretch"])
def test_value_ranges_from_the_command_line(text: str) -> None:
    expected = text if text == STRETCH else tuple(map(float, text.split(",")))
    assert parse_range(text) == expected


@pytest.mark.parametrize("text", ["", "3", "5,5", "3,1", "a,b", "0,inf", "nan,1", "1,2,3", "stretched"])
def test_bad_value_ranges(text: str) -> None:
    with pytest.raises(ItaclipError, match=r"--value-range.*expected LOW,HIGH"):
        parse_range(text)


@pytest.mark.parametrize("value", ["12", 3, (1, 0), (0, float("nan")), ("a", "b"), (1, 2, 3)])
def test_bad_values_of_options(value: Any) -> None:
    with pytest.raises(ItaclipError, match="value_range = "):
        ReadOptions(value_range=value)
    with pytest.raises(ItaclipError, match="largest = "):
        ReadOptions(largest=0)
