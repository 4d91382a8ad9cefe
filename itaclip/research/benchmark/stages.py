"""Seconds of every stage of one image, and of the same image done plainly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip import CLIP
from torch import Tensor

from itaclip.core.decision import decide
from itaclip.core.images import normalise
from itaclip.core.methods import LastBlock, Method
from itaclip.core.pamr import pamr
from itaclip.core.patch_logits import windows_per_batch
from itaclip.core.pipeline import Pipeline
from itaclip.core.query_maps import ready_maps
from itaclip.core.resizing import fit
from itaclip.core.scores import KEPT
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, parse_class_names
from itaclip.core.views import VIEWS, make_views, mix_views, view_features
from itaclip.core.windows import cut_windows, stitch
from itaclip.research.benchmark import plain
from itaclip.research.benchmark.machine import encoder_flops, matrix_peak, measured, timed
from itaclip.research.evaluation.confusion import confusion_matrix


@dataclass
class Stages:
    """What a run measured.

    Attributes:
        device: where the tensors are.
        seconds: by stage, in order.
        peak_mib: largest memory by stage, see `Cost`.
        labels: H x W int64.
        logits: Q x H x W before refinement.
        guide: 3 x H x W image for the refinement.
        image: 3 x h x w as it is encoded.
        passes: windows times views that went through the image tower.
    """

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    labels: Tensor = field(default_factory=lambda: torch.empty(0))
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    guide: Tensor = field(default_factory=lambda: torch.empty(0))
    image: Tensor = field(default_factory=lambda: torch.empty(0))
    passes: int = 0

    def clock(self, stage: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function and add its cost to a stage."""
        cost, result = measured(lambda: function(*arguments), self.device)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + cost.seconds
        self.peak_mib[stage] = max(self.peak_mib.get(stage, 0.0), cost.peak_mib)
        return result


def photo(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Make a random picture with large and small structures: H x W x 3 uint8 RGB."""
    rng = np.random.default_rng(seed)
    coarse = [rng.random((max(2, size[0] // d), max(2, size[1] // d), 3)) for d in (100, 25, 6)]
    layers = [cv2.resize(layer, size[::-1], interpolation=cv2.INTER_CUBIC) for layer in coarse]
    mixed = 0.6 * layers[0] + 0.3 * layers[1] + 0.1 * layers[2]
    return (255 * mixed.clip(0, 1)).astype(np.uint8)


def random_bank(queries: int, width: int, device: torch.device) -> TextBank:
    """Make so many classes of one query each, with random features of a width."""
    generator = torch.Generator().manual_seed(0)  # shares of equal labels depend on it
    features = F.normalize(torch.randn(queries, width, generator=generator), dim=-1).to(device)
    return TextBank(features, parse_class_names([f"class {i}" for i in range(queries)]))


@torch.no_grad()
def fast(pipeline: Pipeline, bank: TextBank, jpeg: bytes, short_side: int) -> Stages:
    """Run the library's stages, one after the other, for an encoded image."""
    settings, device, names = pipeline.settings, bank.features.device, bank.class_names
    found = Stages(device)
    bgr = found.clock("decode", decode, jpeg)
    image = found.image = found.clock("resize, normalise", _prepare, bgr, short_side).to(device)
    plan, size = pipeline.plan(image), bgr.shape[:2]
    patches: list[Tensor] = []
    step = windows_per_batch(settings, device)
    for first in range(0, plan.count, step):
        crops = found.clock("windows", cut_windows, image, plan, first, min(first + step, plan.count))
        pixels = found.clock("views", make_views, crops, settings)
        tokens = found.clock("encoder", pipeline.encoder, pixels)
        features = found.clock("text product", view_features, tokens, len(crops))
        patches.append(found.clock("text product", mix_views, features, bank.features, settings))
    found.logits = found.clock("stitching", stitch, torch.cat(patches), plan, size)
    found.guide = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
    refined = found.logits
    if settings.pamr_steps:
        refined = found.clock(
            "PAMR",
            pamr,
            refined,
            found.guide,
            settings.pamr_steps,
            settings.pamr_stride,
        )
    maps = ready_maps(refined, names.queries_per_class)
    found.labels, _ = found.clock("decision", decide, maps, settings, KEPT)
    truth = torch.zeros_like(found.labels)
    found.clock("metric", confusion_matrix, found.labels, truth, bank.num_classes)
    found.seconds["sum of stages"] = sum(found.seconds.values())
    (whole,) = found.clock("whole image", pipeline, [image], [size], bank)
    found.labels, found.passes = whole.labels, whole.passes  # adaptive, where the settings say so
    return found


@torch.no_grad()
def plainly(
    clip: CLIP, settings: Settings, middle: Sequence[int], bank: TextBank, jpeg: bytes, short_side: int
) -> Stages:
    """Run the same image plainly, in float32."""
    found = Stages(bank.features.device)
    bgr = decode(jpeg)
    image, size = _prepare(bgr, short_side).to(bank.features.device), bgr.shape[:2]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # float32 is meant to be float32
        logits = found.clock("windows", plain.slide, clip.visual, image, bank.features, settings, middle)
    found.logits = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    found.guide = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
    refined = found.logits
    if settings.pamr_steps:
        refined = found.clock("PAMR", plain.refine, refined, found.guide, settings)
    found.labels = found.clock("decision", plain.decide, refined, bank.class_names.query_to_class, settings)
    found.seconds["whole image"] = sum(found.seconds.values())
    return found


def middle_layers(method: Method) -> tuple[int, ...]:
    """Return the blocks whose maps a method fuses with the last one's, if it does."""
    return method.middle_layers if isinstance(method, LastBlock) else ()


TYPICAL_SIZES = {
    "PascalVOCDataset": (375, 500), "PascalVOC20Dataset": (375, 500),
    "PascalContext60Dataset": (375, 500), "PascalContext59Dataset": (375, 500),
    "COCOObjectDataset": (480, 640), "COCOStuffDataset": (480, 640),
    "CityscapesDataset": (1024, 2048), "ADE20KDataset": (512, 683),
}  # fmt: skip
"""Height and width in pixels of an ordinary image of a data set."""


def encoder_work(pipeline: Pipeline, image: Tensor) -> tuple[int, float]:
    """Count the encoder passes of an image, 3 x h x w, and their operations in all."""
    encoder, plan = pipeline.encoder, pipeline.plan(image)
    passes = plan.count * (VIEWS if pipeline.settings.img_engineering else 1)
    each = encoder_flops(encoder.visual, plan.grid[0] * plan.grid[1], len(middle_layers(encoder.method)))
    return passes, passes * each


@torch.no_grad()
def throughput(
    pipeline: Pipeline, size: tuple[int, int], short_side: int, bank: TextBank, batch: int
) -> dict[str, Any]:
    """Measure images per second of whole images of a size, `batch` at a time; the first batch on a GPU does not
    count."""
    device = bank.features.device
    image = _prepare(photo(size), short_side).to(device)
    if device.type == "cuda" or pipeline.settings.compile:
        pipeline([image] * batch, [size] * batch, bank)
    cost, _ = measured(lambda: pipeline([image] * batch, [size] * batch, bank), device)
    passes, flops = encoder_work(pipeline, image)
    achieved, peak = batch * flops / cost.seconds / 1e9, matrix_peak(device, pipeline.dtype)
    return {
        "size": f"{size[0]} x {size[1]}", "passes": passes, "queries": len(bank.features),
        "seconds": cost.seconds / batch, "images_per_second": batch / cost.seconds, "gflops": achieved,
        "share_of_peak": achieved / peak, "peak_mib": cost.peak_mib,
    }  # fmt: skip


@torch.no_grad()
def growth(pipeline: Pipeline, width: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield the seconds over image size, number of queries and stride, one thing changed at a time.

    Yields:
        What was changed, its value, encoder passes, and seconds.
    """
    settings, side = pipeline.settings, pipeline.encoder.image_size
    base = settings.changed(slide_crop=side, slide_stride=side // 2, img_engineering=False)

    def row(what: str, value: int, size: tuple[int, int], queries: int, chosen: Settings) -> dict[str, Any]:
        many = random_bank(queries, width, device)
        image = normalise(photo(size)).to(device)

        def segment() -> None:
            for _ in pipeline.variants([image], [size], [(chosen, many)]):
                pass

        segment()
        return {
            "changed": what, "value": value, "passes": pipeline.plan(image, chosen).count, "queries": queries,
            "pixels": size[0] * size[1], "seconds": timed(segment, 2)[0],
        }  # fmt: skip

    for windows in (1, 2, 3, 4):
        edge = side * (windows + 1) // 2
        yield row("image side", edge, (edge, edge), 20, base)
    for queries in (20, 80, 320):
        yield row("queries", queries, (side * 3 // 2,) * 2, queries, base)
    for parts in (1, 2, 4, 8):
        yield row("stride", side // parts, (side * 3 // 2,) * 2, 20, base.changed(slide_stride=side // parts))


def decode(jpeg: bytes) -> Any:
    """Decode to H x W x 3 uint8 BGR."""
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def _prepare(bgr: NDArray[np.uint8], short_side: int) -> Tensor:
    return normalise(fit(bgr[..., ::-1], 2048, short_side))
