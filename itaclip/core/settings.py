"""Every setting of the pipeline, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from itaclip.core.clip.towers import PatchReading, Positions
from itaclip.core.encoder import DTYPES
from itaclip.core.engines import ENGINES, OPENVINO_DTYPES
from itaclip.core.methods import METHODS, Method, attention, get_method
from itaclip.core.windows import Padding
from itaclip.errors import ItaclipError, did_you_mean

PRECISIONS = (*DTYPES, "int8")

_ANY_DEPTH = 12


@dataclass(frozen=True)
class Settings:
    """How an image becomes a label map. Names follow the published configurations.

    Raises:
        ItaclipError: a value is out of range; the message shows it.
    """

    method: str = "itaclip"
    """Method that reads the image tower: a key of `itaclip.core.methods.METHODS`."""

    background: bool = False
    """Class 0 is the background: it has no auxiliary text, and its queries stay unmixed."""

    # --- image encoder ---
    attn_self: bool = True
    """Self-self attention (q-q + k-k); False uses CLIP's q-k instead."""
    attention: str | None = None
    """Attention to use instead of the method's, as a sum of pairs: "qk", "qq+kk", "vv", ..."""
    residual: bool | None = None
    """Keep ``x +`` around the last attention. None follows the method: ITACLIP's published
    numbers kept it, although the design as first described had none."""
    middle_layers: tuple[int, ...] | None = None
    """Blocks, counted from 1, whose maps are fused with the last block's; None follows the method
    (7, 8 and 10 of 12 for ITACLIP; scaled in proportion to another depth, which is untested)."""
    feed_forward: bool | None = None
    """Keep the last feed-forward network; None follows the method (ITACLIP drops it)."""
    pos_interpolation: Positions | None = None
    """How positional embeddings are resampled to another token grid: "scale" by the factor
    (n + 0.1) / table, "size", "antialias"; None follows the method in OpenAI's layout and the
    library in timm's ("antialias")."""
    patch_reading: PatchReading | None = None
    """How patches enter the joint space if the tower pools by attention (SigLIP, PE-Core, CoCa):
    "values" is what the head returns for a single patch; "values_linear" is the same without its
    feed-forward network; "tokens" skips the head. None uses "values" if there is a head."""

    method_options: tuple[tuple[str, Any], ...] = ()
    """Further options of the method by name, such as ``{"threshold": 0.2}`` for resclip; the
    fields of its class in `itaclip.core.methods` are its options. A mapping is accepted too."""
    second_encoder: str = "dino-vitb8"
    """The vision model whose features shape the attention of proxyclip and corrclip: a name,
    a file or a folder that `itaclip.core.second_encoders.load_second_encoder` accepts, or "demo"."""

    # --- regions ---
    regions: str = "felzenszwalb"
    """Source of the region masks for corrclip and map correction: "felzenszwalb" and "slic" need
    no weights, "sam2" is the published source, a folder contains masks made in advance."""
    map_correction: bool = False
    """Finally assign all pixels of a region its most frequent label (CorrCLIP's last step)."""

    # --- image engineering ---
    img_engineering: bool = True
    """Five views of every crop: plain, grey, blurred, flipped down, flipped sideways."""
    img_eng_coefficient: float = 0.75
    """Weight of the views that keep the geometry, relative to the flips; in [0, 1]."""
    blur_kernel: int = 11
    """Side of the blur kernel in pixels, odd. Published for patches of 16 pixels."""
    blur_sigma: float = 5.0
    """Standard deviation of the blur in pixels."""

    # --- texts ---
    def_coefficient: float = 0.2
    """Weight of the auxiliary text relative to the class name; in [0, 1]."""

    # --- sliding window ---
    slide_crop: int = 224
    """Side of a window in pixels of the resized image; 0 uses the whole image as one window."""
    slide_stride: int = 112
    """Step between windows. Published: 28, which is finer and many times slower."""
    tolerance: float = 0.0
    """Read the views in rounds, spread over the windows, and stop when a round changes at most
    this share of the labels; in [0, 1]. 0 reads every view of every window, as published; 1 stops
    after the first round, a fifth of them. See `itaclip.core.adaptive`."""
    padding: Padding = "end"
    """Where zeros pad a window to whole patches: at its end, or half on each side ("centre",
    as ClearCLIP does)."""

    across_windows: bool = False
    """Let the method read the whole image at once, from the stitched block outputs of the windows;
    see `itaclip.core.across`. This project's own, not part of any published protocol."""

    # --- refinement ---
    pamr_steps: int = 0
    """Rounds of pixel-adaptive mask refinement; 0 is off. Published: 10."""
    pamr_stride: tuple[int, ...] = (8, 16)
    """Dilations of the neighbourhood in pixels of the original image."""

    # --- decision ---
    logit_scale: float = 40.0
    """Inverse temperature of the softmax over queries (CLIP itself learned 100). For models trained
    with a sigmoid it is multiplied by their own inverse temperature / 100; the bias cancels out."""
    prob_thd: float = 0.0
    """Pixels whose best class scores less become class 0; keep at 0 without a background."""
    area_thd: float | None = None
    """Foreground classes that cover at most this share of the foreground are dropped."""
    closing: bool = True
    """Close the label map with a 3 x 3 square at the end, as only ITACLIP does."""

    # --- running ---
    batch_crops: int | None = None
    """Crop views per encoder pass; None uses 10 on a CPU, which fit into its caches, and 60 on
    a GPU. Affects speed and memory, never the result."""
    dtype: str = "fp32"
    """Precision of the image tower: fp32, bf16, fp16 or, with OpenVINO, int8."""
    engine: str = "torch"
    """Engine that runs CLIP's towers: "torch", "openvino" (CPUs; converts the model once), or "auto":
    OpenVINO if it runs this model faster on this machine, measured once and remembered."""
    calibration: str = "demo"
    """Images on which the ranges of int8 are measured: a folder, or "demo" for drawn scenes."""
    compile: bool = False
    """Fuse the operations between the matrix products with torch.compile, which delays the first image
    by up to a minute. Needs a C++ compiler, or Triton on a GPU, where it is expected to pay off; on a
    CPU it hardly does."""
    device: str = "auto"
    """Torch device; auto uses a GPU if there is one and the engine is PyTorch."""

    def __post_init__(self) -> None:
        if isinstance(self.method_options, Mapping):
            pairs = ((name, tuple(v) if isinstance(v, list) else v) for name, v in self.method_options.items())
            object.__setattr__(self, "method_options", tuple(sorted(pairs, key=lambda pair: str(pair[0]))))
        named = self.method_options
        if not isinstance(named, tuple) or not all(
            isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in named
        ):
            raise ItaclipError(f"method_options = {named!r}: expected a mapping from names to values.")
        for name in ("middle_layers", "pamr_stride"):  # config files hold lists
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        for name, hint in get_type_hints(Settings).items():
            if name != "method_options" and not _fits(getattr(self, name), hint):
                kind = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
                raise ItaclipError(f"{name} = {getattr(self, name)!r}: expected {kind}.")
        unit = ("img_eng_coefficient", "def_coefficient", "prob_thd", "tolerance")
        checks = [
            (self.method in METHODS, "method", f"one of {', '.join(METHODS)}"),
            *((0 <= getattr(self, n) <= 1, n, "in [0, 1]") for n in unit),
            (self.area_thd is None or 0 <= self.area_thd <= 1, "area_thd", "None or in [0, 1]"),
            (self.slide_crop >= 0, "slide_crop", "a number of pixels, or 0 for the whole image"),
            (self.attn_self or self.attention is None, "attention", "None where attn_self is False"),
            (self.pos_interpolation in (None, "scale", "size", "antialias"), "pos_interpolation",
             "None, scale, size or antialias"),
            (self.patch_reading in (None, "values", "values_linear", "tokens"), "patch_reading",
             "None, values, values_linear or tokens"),
            (self.padding in ("end", "centre"), "padding", "end or centre"),
            (self.slide_stride > 0, "slide_stride", "a positive number of pixels"),
            (not self.slide_crop or self.slide_stride <= self.slide_crop, "slide_stride",
             f"at most slide_crop ({self.slide_crop}), or pixels between windows are never seen"),
            (not self.tolerance or self.img_engineering, "tolerance", "0 without image engineering: one view is read"),
            (not self.tolerance or not self.across_windows, "tolerance", "0 with across_windows, which reads all"),
            (self.blur_kernel % 2 == 1 and self.blur_kernel > 0, "blur_kernel", "odd and positive"),
            (self.blur_sigma > 0, "blur_sigma", "positive"),
            (self.pamr_steps >= 0, "pamr_steps", "0 or more"),
            (not self.pamr_steps or (len(self.pamr_stride) > 0 and min(self.pamr_stride) > 0), "pamr_stride",
             "one or more positive dilations"),
            (self.logit_scale > 0, "logit_scale", "positive"),
            (self.batch_crops is None or self.batch_crops > 0, "batch_crops", "None or positive"),
            (self.dtype in PRECISIONS, "dtype", f"one of {', '.join(PRECISIONS)}"),
            (self.engine in ENGINES, "engine", f"one of {', '.join(ENGINES)}"),
            (self.engine != "torch" or self.dtype != "int8", "dtype",
             "fp32, bf16 or fp16 with engine = 'torch'; int8 runs with engine = 'openvino'"),
            (self.engine != "openvino" or self.dtype in OPENVINO_DTYPES, "dtype",
             f"{', '.join(OPENVINO_DTYPES)} with engine = 'openvino'"),
            (not self.compile or self.engine == "torch", "compile", "False with another engine than torch"),
        ]  # fmt: skip
        for holds, name, expected in checks:
            if not holds:
                raise ItaclipError(f"{name} = {getattr(self, name)!r}: expected {expected}.")
        if self.attention is not None:
            attention.named(self.attention)
        self.resolved_method(_ANY_DEPTH)

    def resolved_method(self, blocks: int, resampling: Positions | None = None) -> Method:
        """Get the method with these switches applied.

        Args:
            blocks: number of blocks of the image tower.
            resampling: how the tower's library resamples positions, instead of the method's way
                (`itaclip.core.clip.towers.Tower`); `pos_interpolation` overrides both.

        Raises:
            ItaclipError: a switch that the method does not have.
        """
        pairs = self.attention if self.attn_self else "qk"
        switches: dict[str, Any] = {
            "residual": self.residual,
            "feed_forward": self.feed_forward,
            "recipe": None if pairs is None else attention.named(pairs),
            "middle_layers": self.middle_layers,
            "positions": self.pos_interpolation or resampling,
            "patch_reading": self.patch_reading,
        }
        chosen = {name: value for name, value in switches.items() if value is not None}
        return get_method(self.method, blocks=blocks, **chosen, **dict(self.method_options))

    @property
    def reads_regions(self) -> bool:
        """Whether region maps are needed."""
        return self.map_correction or METHODS[self.method].reads_regions

    def changed(self, **values: Any) -> Settings:
        """Copy the settings with some values replaced, and check them again."""
        return replace(self, **checked_names(values))


BACKGROUND_OF = {"voc21": True, "context60": True, "coco_object": True, "coco_stuff": False, "cityscapes": False}
"""Whether class 0 is the background, for each `dataset_name` of ITACLIP's published configurations."""


def implied_background(dataset_name: str | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the background that a published configuration's `dataset_name` implies to the values.

    Raises:
        ItaclipError: a name that no published configuration has, or values that contradict it.
    """
    if dataset_name is None:
        return dict(values)
    if dataset_name not in BACKGROUND_OF:
        raise ItaclipError(
            f"dataset_name = {dataset_name!r}: expected one of {', '.join(BACKGROUND_OF)}; for another data set "
            f"leave it out and set background.{did_you_mean(dataset_name, BACKGROUND_OF)}"
        )
    implied = BACKGROUND_OF[dataset_name]
    if values.get("background", implied) != implied:
        raise ItaclipError(
            f"background = {values['background']!r}: dataset_name = {dataset_name!r} implies {implied}; drop one."
        )
    return {**values, "background": implied}


def _fits(value: object, hint: Any) -> bool:
    """Whether a value has the type of a field; integers count as floats."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(entry, get_args(hint)[0]) for entry in value)
    if get_args(hint):
        return any(_fits(value, option) for option in get_args(hint))
    return isinstance(value, (int, float)) if hint is float else isinstance(value, hint)


def checked_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check that every name is a setting, and return the values.

    Raises:
        ItaclipError: an unknown name; the message suggests the nearest known one.
    """
    known = [field.name for field in fields(Settings)]
    for name in values:
        if name not in known:
            raise ItaclipError(f"unknown setting {name!r}.{did_you_mean(name, known)} Settings: {', '.join(known)}.")
    return dict(values)
