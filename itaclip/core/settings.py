"""Every setting of the pipeline, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from itaclip.core.clip.towers import PatchProjection, Positions
from itaclip.core.concepts.options import CONCEPTS, concept_options
from itaclip.core.methods import METHODS, Method, attention, get_method
from itaclip.core.settings_checks import as_pairs, check_types, check_values
from itaclip.core.windows import Padding
from itaclip.errors import ItaclipError, did_you_mean

_ANY_DEPTH = 12


@dataclass(frozen=True)
class Settings:
    """How an image becomes a label map. Names follow the published configurations.

    Raises:
        ItaclipError: a value is out of range; the message shows it.
    """

    method: str = "itaclip"
    """Name of a method, a key of `itaclip.core.methods.METHODS`, or "sam3"; default "itaclip". How patch tokens
    are computed from the image tower. SAM 3 is a model of its own, which is loaded in CLIP's place."""

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
    """"scale" by the factor (n + 0.1) / table, "size", "antialias", "bilinear" or "cut"; default None, the
    method's own in OpenAI's layout and the library's in others: "antialias" in timm's, "bilinear" in
    TIPSv2, "cut" in RADIO. How positional embeddings are resampled to another token grid."""
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
    """"felzenszwalb", "slic", "sam2", "sam2-64", "gram", "gram-fast" or a folder of region maps; default
    "felzenszwalb". Source of regions for corrclip, ovstitcher and map correction. The first two need
    no weights; "sam2" and "sam2-64" are the published sources of corrclip and of ovstitcher; "gram" takes
    regions from a second encoder's tokens instead (GramSeg), "gram:NAME" names the encoder."""
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
    templates: str = "imagenet"
    """"imagenet" or "tcl"; default "imagenet". Sentences that a class name is put into: OpenAI's 80 for ImageNet,
    or the 9 of TCL, with which TIPSv2 was published."""
    class_prompts: str | None = None
    """A JSON file, ``{word: [sentence, ...]}``; default None. Class-biased prompts: a word's sentences are
    encoded together with the templates (OV-Stitcher). Words without an entry have the templates alone."""

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
    peak_thd: float = 0.0
    """Score, in [0, 1]; default 0.0, off. Classes whose best pixel in the image scores less are dropped (RADSeg:
    0.5); their pixels go to the next best class, and to class 0 where none is left."""
    closing: bool = True
    """Yes or no; default True. Closes the label map with a 3 x 3 square at the end, as only ITACLIP does."""
    alias_temperature: float | None = None
    """Positive; default None, off: a class takes its best word at every pixel. Otherwise the words of a class are
    weighted in every window by a softmax of their cosines with the window at this temperature, as VIP does."""
    alias_sharpness: float = 1.0
    """A positive factor; default 1.0. With `alias_temperature`: how much the best weighted word of a class counts."""
    shortlist: int | None = None
    """Number of classes, positive; default None, all. Only the classes whose score is highest at any patch are refined
    and decided, class 0 always; the softmax runs over their queries. With hundreds of classes this
    is faster, and a few labels may change."""

    # --- running ---
    batch_crops: int | None = None
    """Views per batch, positive; default None: what is measured to be fast on a CPU, and 60 on a GPU. Affects speed
    and memory, never the result."""
    dtype: str = "fp32"
    """"fp32", "bf16", "fp16", "auto" or, with OpenVINO, "int8"; default "fp32". Precision of the image tower.
    "auto", on a CPU, measures when the first class list is used, and takes the fastest whose labels agree
    with those of fp32, see `agreement`."""
    agreement: float = 0.995
    """Share, in [0, 1]; default 0.995. With ``dtype="auto"``: the labels that have to be equal to those of fp32, on a
    few images of `calibration`, with the classes at hand."""
    engine: str = "torch"
    """"torch", "openvino" or "auto"; default "torch". What runs CLIP's towers. OpenVINO is for CPUs and
    converts the model once; "auto" takes it if it runs this model faster on this machine, measured
    once and remembered."""
    calibration: str = "demo"
    """A folder of images, or "demo" for drawn scenes; default "demo". Images on which the ranges of int8 are
    measured, and precisions compared."""
    compile: bool = False
    """Yes or no; default False. Fuses the operations between the matrix products with torch.compile, which
    delays the first image by up to a minute. Needs a C++ compiler, or Triton on a GPU, where it is
    expected to pay off; on a CPU it hardly does."""
    device: str = "auto"
    """A PyTorch device, or "auto"; default "auto": a GPU if there is one and the engine is PyTorch."""

    def __post_init__(self) -> None:
        for name in ("middle_layers", "pamr_stride"):  # config files hold lists
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "method_options", as_pairs(self.method_options))
        check_types(self)
        check_values(self)
        if self.method in CONCEPTS:
            concept_options(self.method, dict(self.method_options))
        else:
            self.resolved_method(_ANY_DEPTH)  # a method knows its own switches

    def resolved_method(self, blocks: int, resampling: Positions | None = None) -> Method:
        """Get the method with these switches applied.

        Args:
            blocks: number of blocks of the image tower.
            resampling: how the tower's library resamples positions, instead of the method's way
                (`itaclip.core.clip.towers.Tower`); `pos_interpolation` overrides both.

        Raises:
            ItaclipError: a switch that the method does not have, or a method that is a model of its own.
        """
        if self.method in CONCEPTS:
            raise ItaclipError(
                f"method = {self.method!r}: a model of its own, not a way to read CLIP; load it in CLIP's place, as "
                f"Segmenter({self.method!r}), or --weights {self.method}:FOLDER."
            )
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
        return self.map_correction or (self.method in METHODS and METHODS[self.method].reads_regions)

    @property
    def measures(self) -> bool:
        """Whether anything that labels depend on is chosen by measuring."""
        return self.engine == "auto" or self.dtype in ("auto", "bf16", "int8")

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
