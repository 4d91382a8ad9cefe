"""Compare the stages of the pipeline with recorded outputs of published implementations."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from itaclip.core.clip.loading import load_openai_clip
from itaclip.core.clip.openai import CLIP
from itaclip.core.encoder import DenseEncoder
from itaclip.core.images import normalise
from itaclip.core.methods import METHODS, SCCLIP, CorrCLIP, Method, ProxyCLIP, ResCLIP, Window, get_method
from itaclip.core.pamr import pamr
from itaclip.core.pipeline import Pipeline
from itaclip.core.regions.maps import dense_ranks
from itaclip.core.settings import Settings, checked_names
from itaclip.core.text import TextEncoder, build_text_bank, parse_class_names, read_auxiliary_texts
from itaclip.core.views import make_views, mix_views, view_features
from itaclip.core.windows import stitch
from itaclip.errors import ItaclipError
from itaclip.research.comparison import recorded_stitcher as stitcher
from itaclip.research.zero_shot import recorded as zero_shot

STAGE_TOLERANCE = 1e-4
LOGIT_TOLERANCE = 1e-5
LABELS_EQUAL = 0.999


@dataclass(frozen=True)
class Stage:
    """One compared quantity.

    Attributes:
        name: name in the recorded file.
        value: largest absolute difference, or share of equal labels.
        limit: maximum for differences, minimum for labels.
    """

    name: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the stage is within its tolerance."""
        return self.value >= self.limit if self.is_share else self.value <= self.limit

    @property
    def is_share(self) -> bool:
        """Whether the value is a share of equal labels."""
        return self.name.rpartition("/")[2] in ("pred", "labels")


def compare(recorded: str | Path, weights: str | Path | None = None) -> list[Stage]:
    """Run the stages of a recorded file with the weights it was recorded with.

    Args:
        recorded: an .npz file in one of four formats: ITACLIP (``meta_json`` and ``query_features``),
            training-free methods (``<method>/<input>/tokens``), OV-Stitcher (``dino/heads``), or a
            trained method (``params_json``).
        weights: any file that `itaclip.core.clip.load_clip` reads; not needed for a trained method,
            whose recording specifies how to generate its parameters.

    Raises:
        ItaclipError: a file in none of these formats, no weights, or weights of another geometry.
    """
    try:
        arrays = dict(np.load(recorded, allow_pickle=False))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ItaclipError(f"{recorded}: not a readable .npz file ({error}).") from error
    if "params_json" in arrays:
        return [Stage(*row) for row in zero_shot.compare(arrays)]
    if "meta_json" in arrays and "query_features" in arrays:
        run: Callable[[dict[str, Any], CLIP], Iterator[Stage]] = _itaclip
    elif "meta_json" in arrays and "dino/heads" in arrays:
        run = _stitcher
    elif "input/crop" in arrays and "scclip/crop/tokens" in arrays:
        run = _stronger
    elif "input/crop" in arrays and "text" in arrays:
        run = _training_free
    else:
        raise ItaclipError(f"{recorded}: contains no recorded outputs in a known format (keys: {list(arrays)[:4]}).")
    if weights is None:
        raise ItaclipError(f"{recorded}: pass the weights it was recorded with (--weights).")
    clip = load_openai_clip(str(weights), quick_gelu=True)  # as in every recording
    width = arrays["query_features" if run is _itaclip else "text"].shape[1]
    if clip.text_projection.shape[1] != width:
        raise ItaclipError(
            f"{weights}: embeddings have {clip.text_projection.shape[1]} dimensions, but {recorded} was recorded with "
            f"{width}."
        )
    with torch.no_grad():
        return list(run(arrays, clip))


def _itaclip(arrays: dict[str, Any], clip: CLIP) -> Iterator[Stage]:
    meta = json.loads(str(arrays["meta_json"]))
    options = {key: value for key, value in meta["options"].items() if key != "width_chunk_size"}
    settings = Settings(background=meta["background"], **checked_names(options))
    classes = parse_class_names(meta["names"].split("\n"), background=meta["background"])
    texts = None
    if meta["aux"]:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(meta["aux"])
            file.flush()
            texts = read_auxiliary_texts(file.name, classes, meta["background"])
    bank = build_text_bank(TextEncoder(clip), classes, texts, settings.def_coefficient, meta["background"])
    yield _difference("query_features", bank.features, arrays)

    pipeline = Pipeline(clip, settings)
    image = normalise(arrays["resized_bgr"][..., ::-1])
    size = (int(meta["ori_shape"][0]), int(meta["ori_shape"][1]))
    crop = image[None, :, :224, :224]
    recorded = {"crop_tokens": arrays["crop_tokens"][1:]}  # without the unused class token
    yield _difference("crop_tokens", pipeline.encoder(crop)[0].flatten(0, 1), recorded)
    features = view_features(pipeline.encoder(make_views(crop, settings)), 1)
    mixed = mix_views(features, bank.features, settings)[0].permute(2, 0, 1)
    upsampled = F.interpolate(mixed[None], size=(224, 224), mode="bilinear")[0]
    yield _difference("crop_logits_s4", upsampled[:, ::4, ::4], arrays)

    logits = stitch(pipeline.patch_logits([image], bank)[0], pipeline.plan(image), size)
    yield _difference("fused_logits_s4", logits[:, ::4, ::4], arrays)
    if "pamr_logits_s4" in arrays:
        guide = F.interpolate(image[None], size=size, mode="bilinear")[0]
        refined = pamr(logits, guide, settings.pamr_steps, settings.pamr_stride)
        yield _difference("pamr_logits_s4", refined[:, ::4, ::4], arrays)
    result = pipeline([image], [size], bank, scores="full")[0]
    assert result.scores.full is not None
    yield _difference("probs_s4", result.scores.full[:, ::4, ::4], arrays)
    equal = float((result.labels.numpy() == arrays["pred"]).mean())
    yield Stage("pred", equal, LABELS_EQUAL)


def recorded_methods() -> dict[str, Method]:
    """Make the methods of the recorded training-free file, by key prefix."""

    def full(name: str) -> Method:
        return get_method(name, residual=True, feed_forward=True)

    return {
        "vanilla": METHODS["clip"],
        "vanilla_noresidual": get_method("clip", residual=False, feed_forward=False),
        "maskclip": METHODS["maskclip"],
        "maskclip_noresidual": METHODS["maskclip_bare"],
        "sclip": METHODS["sclip"],
        "sclip_noresidual": METHODS["sclip_bare"],
        "clearclip": METHODS["clearclip"],
        "clearclip_fullblock": full("clearclip"),
        "gem": METHODS["gem"],
        "gem_noresidual": METHODS["gem_bare"],
        "naclip": METHODS["naclip"],
        "naclip_fullblock": full("naclip"),
        "kk": METHODS["kk"],
    }


def _training_free(arrays: dict[str, Any], clip: CLIP) -> Iterator[Stage]:
    text = torch.from_numpy(arrays["text"])
    for name, method in recorded_methods().items():
        encoder = DenseEncoder(clip.visual, method)
        for shape in ("crop", "wide"):
            tokens = encoder(torch.from_numpy(arrays[f"input/{shape}"]).float())[0].flatten(0, 1)
            yield _difference(f"{name}/{shape}/tokens", tokens, arrays)
            logits = F.normalize(tokens, dim=-1) @ text.T
            yield _difference(f"{name}/{shape}/logits", logits, arrays, LOGIT_TOLERANCE)


def _stronger(arrays: dict[str, Any], clip: CLIP) -> Iterator[Stage]:
    """Yield the stages of SC-CLIP, ResCLIP, ProxyCLIP and CorrCLIP, with recorded second-encoder features and region
    masks."""
    text, options = torch.from_numpy(arrays["text"]), json.loads(str(arrays["meta"]))["options"]
    for key in (key for key in arrays if key.endswith("/tokens")):
        name, shape, _ = key.split("/")
        method, family = _stronger_method(name, options.get(name, {})), name.split("_")[0]
        pixels = torch.from_numpy(arrays[f"input/{shape}"]).float()
        window = Window(pixels, text)
        if family == "proxyclip":
            features = torch.from_numpy(arrays[f"{family}/{shape}/external"]).float()
            window = replace(window, features=F.normalize(features, dim=1))
        if family == "corrclip":
            grid = (pixels.shape[2] // 8, pixels.shape[3] // 8)
            features = torch.from_numpy(arrays[f"{name}/{shape}/dino"]).float().transpose(1, 2).unflatten(2, grid)
            regions, count = dense_ranks(arrays[f"{name}/{shape}/masks"][None, ::8, ::8])
            window = replace(window, features=features, regions=torch.from_numpy(regions), region_count=count)
        encoder = DenseEncoder(clip.visual, method)
        tokens = encoder(pixels, window)
        yield _difference(key, tokens[0].flatten(0, 1), arrays)
        logits = F.normalize(tokens[0].flatten(0, 1), dim=-1) @ text.T
        yield _difference(f"{name}/{shape}/logits", logits, arrays, LOGIT_TOLERANCE)
        encoded = encoder.encode(pixels, method.needs(encoder.depth))
        if isinstance(method, SCCLIP) and f"{name}/{shape}/outliers" in arrays:
            found = method.outliers(encoded.output(encoded.depth - 1)[:, 1:]).flatten().nonzero().flatten()
            yield _difference(f"{name}/{shape}/outliers", found, arrays, 0)
        if isinstance(method, ResCLIP) and f"{name}/{shape}/patch_labels" in arrays:
            first = replace(method, feedback_scale=None).tokens(encoded, window)
            labels = method.patch_labels(first, window)[0].view(first.shape[1:3])
            yield _difference(f"{name}/{shape}/patch_labels", labels, arrays, 0)


def _stitcher(arrays: dict[str, Any], clip: CLIP) -> Iterator[Stage]:
    """Yield the stages of OV-Stitcher: the second encoder's last block, merging, branches and results of every case."""
    cases: dict[str, dict[str, Any]] = json.loads(str(arrays["meta_json"]))["cases"]
    for case, options in cases.items():
        for key, ours in stitcher.stages(arrays, clip, case, options).items():
            name = f"{case}/{key}"
            if key == "labels":
                yield Stage(name, float((ours.numpy() == arrays[name]).mean()), LABELS_EQUAL)
            elif key == "merged":
                yield Stage(name, stitcher.partition_faults(ours, arrays[name]), 0)
            else:
                yield _difference(name, ours, arrays, LOGIT_TOLERANCE if key == "logits" else STAGE_TOLERANCE)


def _stronger_method(name: str, options: dict[str, Any]) -> Method:
    """Make the method that a recording's options describe."""
    family = name.split("_")[0]
    if family == "scclip":
        fused = tuple(options["fused_layers"])
        return SCCLIP(similarity_layer=options["similarity_layer"], refine_layer=options["refine_layer"],
                      fused_layers=fused, class_weight=options["class_weight"])  # fmt: skip
    if family == "resclip":
        base: Any = "naclip" if options["attention"] == "resclip" else options["attention"]
        residual, feedback = options["rcs"], options["sfr"] or [None, 0.0]
        return ResCLIP(
            base=base, residual_scale=residual[0], residual_weight=residual[1], feedback_scale=feedback[0],
            feedback_weight=feedback[1], threshold=options.get("threshold", 0.0), decay=options.get("decay", False),
        )  # fmt: skip
    if family == "proxyclip":
        return ProxyCLIP(shift=options["beta"], scale=options["gamma"])
    return CorrCLIP()


def _difference(name: str, ours: Tensor, arrays: dict[str, Any], limit: float = STAGE_TOLERANCE) -> Stage:
    theirs = torch.from_numpy(arrays[name]).float()
    if ours.shape != theirs.shape:
        raise ItaclipError(
            f"{name}: shape {tuple(ours.shape)}, but {tuple(theirs.shape)} was recorded. Are these the same weights?"
        )
    return Stage(name, float((ours - theirs).abs().max()), limit)
