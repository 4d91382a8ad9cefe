"""Every setting of the pipeline, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from itaclip.core.clip.towers import PatchProjection, Positions
from itaclip.core.encoder import DTYPES
from itaclip.core.engines import ENGINES, OPENVINO_DTYPES
from itaclip.core.methods import METHODS, Method, WholeImageMethod, attention, get_method
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
    """Name of a method, a key of `itaclip.core.methods.METHODS`; default "itaclip". How patch tokens are
    computed from the image tower."""

    background: bool = False
    """Yes or no; default False. Class 0 is the background: it has no auxiliary text, and its queries
    stay unmixed."""

    # --- image encoder ---
    attn_self: bool = True
    """Yes or no; default True. Self-self attention (q-q + k-k); False uses CLIP's q-k instead."""
    attention: str | None = None
    """A sum of pairs, such as "qk", "qq+kk" or "vv"; default None, the method's own. Attention of the
    last block instead of the method's."""
    residual: bool | None = None
    """Yes or no; default None, the method's own. Keeps ``x +`` around the last attention: ITACLIP's
    published numbers kept it, although the design as first described had none."""
    middle_layers: tuple[int, ...] | None = None
    """Numbers of blocks, from 1 to one less than the depth; default None, the method's own (7, 8 and 10
    of 12 for ITACLIP; scaled in proportion to another depth, which is untested). Their attention
    maps are fused with the last block's."""
    feed_forward: bool | None = None
    """Yes or no; default None, the method's own (ITACLIP drops it). Keeps the last feed-forward network."""
    pos_interpolation: Positions | None = None
    """"scale" by the factor (n + 0.1) / table, "size" or "antialias"; default None, the method's own in
    OpenAI's layout and the library's in timm's ("antialias"). How positional embeddings are
    resampled to another token grid."""
    patch_projection: PatchProjection | None = None
    """"values", "values_linear" or "tokens"; default None, "values" if there is a pooling head. How patches
    enter the joint space if the tower pools by attention (SigLIP, PE-Core, CoCa): "values" is what
    the head returns for a single patch; "values_linear" is the same without its feed-forward
    network; "tokens" skips the head."""

    method_options: tuple[tuple[str, Any], ...] = ()
    """Pairs of name and value, or a mapping, such as ``{"threshold": 0.2}`` for resclip; default (). Further
    options of the method: the fields of its class in `itaclip.core.methods`."""
    second_encoder: str = "dino-vitb8"
    """A name, file or folder for `itaclip.core.second_encoders.load_second_encoder`, or "demo"; default
    "dino-vitb8". The vision model whose features shape the attention of proxyclip, corrclip and
    ovstitcher."""

    # --- regions ---
    regions: str = "felzenszwalb"
    """"felzenszwalb", "slic", "sam2", "sam2-64" or a folder of region maps; default "felzenszwalb". Source of
    regions for corrclip, ovstitcher and map correction. The first two need no weights; "sam2" and
    "sam2-64" are the published sources of corrclip and of ovstitcher."""
    map_correction: bool = False
    """Yes or no; default False. Finally gives all pixels of a region its most frequent label (CorrCLIP's
    last step)."""

    # --- image engineering ---
    img_engineering: bool = True
    """Yes or no; default True. Five views of every window: plain, grey, blurred, flipped down, flipped
    sideways."""
    img_eng_coefficient: float = 0.75
    """Share, in [0, 1]; default 0.75. Weight of the views that keep the geometry, relative to the flips."""
    blur_kernel: int = 11
    """Pixels, odd and positive; default 11. Side of the blur kernel, published for patches of 16 pixels."""
    blur_sigma: float = 5.0
    """Pixels, positive; default 5.0. Standard deviation of the blur."""

    # --- texts ---
    def_coefficient: float = 0.2
    """Share, in [0, 1]; default 0.2. Weight of the auxiliary text relative to the class name."""
    class_prompts: str | None = None
    """A JSON file, ``{word: [sentence, ...]}``; default None. Class-biased prompts: a word's sentences are
    encoded together with the 80 templates (OV-Stitcher). Words without an entry have the templates alone."""

    # --- sliding window ---
    slide_crop: int = 224
    """Pixels of the resized image, 0 or more; default 224. Side of a window; 0 uses the whole image as one."""
    slide_stride: int = 112
    """Pixels of the resized image, 1 to `slide_crop`; default 112. Stride of the windows. Published: 28,
    which is finer and many times slower."""
    tolerance: float = 0.0
    """Share of the labels, in [0, 1]; default 0.0. Encodes the views in rounds, spread over the windows, and
    stops when a round changes at most this share. 0 encodes every view of every window, as
    published; 1 stops after the first round, a fifth of them. See `itaclip.core.adaptive`."""
    padding: Padding = "end"
    """"end" or "centre"; default "end". Where zeros pad a window to whole patches: at its end, or half on
    each side, as ClearCLIP does."""

    # --- refinement ---
    pamr_steps: int = 0
    """Rounds, 0 or more; default 0, off. Pixel-adaptive mask refinement. Published: 10."""
    pamr_stride: tuple[int, ...] = (8, 16)
    """Pixels of the original image, one or more, positive; default (8, 16). Dilations of the refinement's
    neighbourhood."""

    # --- decision ---
    logit_scale: float = 40.0
    """A positive factor; default 40.0. Inverse temperature of the softmax over queries (CLIP itself learned
    100). For models trained with a sigmoid it is multiplied by their own inverse temperature / 100;
    the bias cancels out."""
    prob_thd: float = 0.0
    """Score, in [0, 1]; default 0.0. Pixels whose best class scores less become class 0; keep at 0 without a
    background."""
    area_thd: float | None = None
    """Share of the foreground, in [0, 1]; default None, off. Foreground classes that cover at most this share
    are dropped."""
    closing: bool = True
    """Yes or no; default True. Closes the label map with a 3 x 3 square at the end, as only ITACLIP does."""

    # --- running ---
    batch_crops: int | None = None
    """Views per batch, positive; default None: 10 on a CPU, which fit into its caches, and 60 on a GPU.
    Affects speed and memory, never the result."""
    dtype: str = "fp32"
    """"fp32", "bf16", "fp16" or, with OpenVINO, "int8"; default "fp32". Precision of the image tower."""
    engine: str = "torch"
    """"torch", "openvino" or "auto"; default "torch". What runs CLIP's towers. OpenVINO is for CPUs and
    converts the model once; "auto" takes it if it runs this model faster on this machine, measured
    once and remembered."""
    calibration: str = "demo"
    """A folder of images, or "demo" for drawn scenes; default "demo". Images on which the ranges of int8 are
    measured."""
    compile: bool = False
    """Yes or no; default False. Fuses the operations between the matrix products with torch.compile, which
    delays the first image by up to a minute. Needs a C++ compiler, or Triton on a GPU, where it is
    expected to pay off; on a CPU it hardly does."""
    device: str = "auto"
    """A PyTorch device, or "auto"; default "auto": a GPU if there is one and the engine is PyTorch."""

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
            (self.patch_projection in (None, "values", "values_linear", "tokens"), "patch_projection",
             "None, values, values_linear or tokens"),
            (self.padding in ("end", "centre"), "padding", "end or centre"),
            (self.slide_stride > 0, "slide_stride", "a positive number of pixels"),
            (not self.slide_crop or self.slide_stride <= self.slide_crop, "slide_stride",
             f"at most slide_crop ({self.slide_crop}), or pixels between windows are never seen"),
            (not self.tolerance or self.img_engineering, "tolerance", "0 without image engineering: one view is read"),
            (not self.tolerance or not isinstance(METHODS.get(self.method), WholeImageMethod), "tolerance",
             f"0 with method = {self.method!r}, which needs all windows"),
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
            "attention": None if pairs is None else attention.named(pairs),
            "middle_layers": self.middle_layers,
            "positions": self.pos_interpolation or resampling,
            "patch_projection": self.patch_projection,
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
    """Tell whether a value has the type of a field; integers count as floats."""
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
