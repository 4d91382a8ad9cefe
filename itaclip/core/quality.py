"""Settings for free-form class lists: what a quality costs, and how pixel counts follow the model."""

from __future__ import annotations

from typing import Any

from itaclip.errors import ItaclipError

QUALITIES = {"exact": (8, True, 0.0), "adaptive": (8, True, 0.01), "balanced": (2, True, 0.0), "fast": (2, False, 0.0)}
"""Steps per window and axis, whether windows are seen in five views, and the tolerance. "exact" is
as published; "adaptive" stops as soon as labels hardly change, after a third of its passes or so;
the others take a seventh and a fortieth of them on an image of VOC."""


def quality_settings(quality: str, crop: int) -> dict[str, Any]:
    """Stride, views and tolerance of a quality for windows of `crop` pixels.

    Raises:
        ItaclipError: an unknown quality.
    """
    if quality not in QUALITIES:
        raise ItaclipError(f"quality {quality!r}: expected one of {', '.join(QUALITIES)}.")
    windows, views, tolerance = QUALITIES[quality]
    return dict(slide_stride=max(1, crop // windows), img_engineering=views, tolerance=tolerance)


def free_form(quality: str, image_size: int, patch_size: int) -> tuple[int, dict[str, Any]]:
    """Short side and settings for classes that a person makes up, for any CLIP.

    Windows have the side that the model was trained on, images one and a half of it (336
    for 224, as published), and pixel counts follow the patch: the published ones were
    chosen for patches of 16. What was measured for the rest is told in docs/classes.md.

    Args:
        quality: a key of `QUALITIES`.
        image_size: side in pixels of the images that the model was trained on.
        patch_size: side of its patches in pixels.

    Raises:
        ItaclipError: an unknown quality.
    """
    chosen = quality_settings(quality, image_size)
    scale = patch_size / 16
    settings = dict(
        background=True,
        slide_crop=image_size,
        blur_kernel=2 * round(5 * scale) + 1,
        blur_sigma=5 * scale,
        pamr_steps=10,
        pamr_stride=tuple(max(1, round(d * scale)) for d in (8, 16)),
        prob_thd=0.1,
        **chosen,
    )
    return image_size * 3 // 2, settings
