"""Settings for free-form class lists: by quality, with lengths in pixels scaled to the model."""

from __future__ import annotations

from typing import Any

from itaclip.errors import ItaclipError

QUALITIES = {"exact": (8, True, 0.0), "adaptive": (8, True, 0.03), "balanced": (2, True, 0.0), "fast": (2, False, 0.0)}
"""Steps per window and axis, whether windows are seen in five views, and the tolerance. "exact" is
as published; "adaptive" stops as soon as the labels hardly change, after about a third of the
passes. On a VOC image, the others need 30 and 6 passes instead of 225."""


def quality_settings(quality: str, crop: int) -> dict[str, Any]:
    """Choose stride, views and tolerance for a quality and windows of `crop` pixels.

    Raises:
        ItaclipError: an unknown quality.
    """
    if quality not in QUALITIES:
        raise ItaclipError(f"quality {quality!r}: expected one of {', '.join(QUALITIES)}.")
    windows, views, tolerance = QUALITIES[quality]
    return dict(slide_stride=max(1, crop // windows), img_engineering=views, tolerance=tolerance)


def free_form(quality: str, image_size: int, patch_size: int) -> tuple[int, dict[str, Any]]:
    """Choose short side and settings for free-form classes, for any CLIP.

    Windows have the size of the model's training images. The short side of an image is one
    and a half times that (336 for 224, as published). Lengths in pixels scale with the
    patch, since the published ones were chosen for patches of 16. docs/classes.md has the
    measurements behind the other values.

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
