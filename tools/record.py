"""The files of docs/results: what each holds, the command that wrote it, its machine and versions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itaclip.errors import ItaclipError

VOC = "python tools/benchmark.py --config configs/cfg_voc.py --weights vit-b-16.pt"
VOC20 = "python tools/benchmark.py --config configs/cfg_voc20.py --weights vit-b-16.pt"
ONE_IMAGE = f"{VOC} --size 300 451 --queries 80 --baseline"
LOAD = "python tools/load_test.py --clients 32 --seconds 60"
FLOPS = "python tools/get_flops.py configs/zero_shot/clip_rc_coco_inductive.py --weights vit-b-16.pt"
DEMO = "--config configs/cfg_demo.py"
ALL_SETTINGS = "configs/cfg_{voc,voc20,context,context59,coco_object,ade20k,coco_stuff,cityscapes}.py"


@dataclass(frozen=True)
class Recorded:
    """What a file in docs/results holds, and the command that wrote it."""

    about: str
    command: str


FILES = {
    "agreement": Recorded(
        "differences from the published code, tiny randomly initialised weights",
        "python tools/check_reference.py tests/golden/*_{plain,like,seed0}.npz --weights tiny.pt --out F",
    ),
    "benchmark_vit_b_16_bf16": Recorded("one image in PyTorch, bf16", f"{ONE_IMAGE} --dtype bf16 --out F"),
    "benchmark_vit_b_16_fp32": Recorded("one image in PyTorch, fp32", f"{ONE_IMAGE} --out F"),
    "benchmark_vit_b_16_openvino_bf16": Recorded(
        "one image in OpenVINO, bf16", f"{ONE_IMAGE} --engine openvino --dtype bf16 --out F"
    ),
    "benchmark_vit_b_16_openvino_bf16_intel": Recorded(
        "one image in OpenVINO, bf16, on a second processor", f"{ONE_IMAGE} --engine openvino --dtype bf16 --out F"
    ),
    "benchmark_vit_b_16_openvino_fp32": Recorded(
        "one image in OpenVINO, fp32; the text bank", f"{VOC} --size 300 451 --baseline --engine openvino --out F"
    ),
    "benchmark_vit_b_16_openvino_fp32_intel": Recorded(
        "one image in OpenVINO, fp32, on a second processor", f"{ONE_IMAGE} --engine openvino --out F"
    ),
    "benchmark_vit_b_16_openvino_int8": Recorded(
        "one image in OpenVINO, int8", f"{ONE_IMAGE} --engine openvino --dtype int8 --out F"
    ),
    "benchmark_vit_b_16_openvino_int8_adaptive_intel": Recorded(
        "one image in OpenVINO, int8, stopped early, on a second processor",
        f"{ONE_IMAGE} --engine openvino --dtype int8 --set tolerance=0.03 --out F",
    ),
    "benchmark_vit_b_16_openvino_int8_intel": Recorded(
        "one image in OpenVINO, int8, on a second processor", f"{ONE_IMAGE} --engine openvino --dtype int8 --out F"
    ),
    "class_lists": Recorded("wording of class lists, demo", "python tools/measure_class_lists.py --out F"),
    "demo": Recorded("scores on the demo's held-out scenes", "python tools/record_demo.py"),
    "demo_encoder": Recorded(
        "the demo's second encoder", "python tools/train_demo_encoder.py --judge demo_dino.safetensors --out F"
    ),
    "gpu_memory_vit_b_16_fp16": Recorded(
        "memory computed for a GPU, fp16",
        "python tools/benchmark.py --config configs/cfg_{voc,coco_object,coco_stuff,cityscapes}.py --gpu-memory "
        "--dtype fp16 --out F",
    ),
    "gpu_memory_vit_b_16_fp32": Recorded(
        "memory computed for a GPU, fp32",
        "python tools/benchmark.py --config configs/cfg_{voc,coco_object,coco_stuff,cityscapes}.py --gpu-memory "
        "--out F",
    ),
    "growth_vit_b_16": Recorded(
        "how cost grows", f"{VOC20} --growth --out F"
    ),
    "http_load_demo_queue_20": Recorded(
        "HTTP API under load, queue of 20", f"{LOAD} --queue-size 20 --out F"
    ),
    "http_load_demo_queue_40": Recorded(
        "HTTP API under load, queue of 40", f"{LOAD} --queue-size 40 --out F"
    ),
    "labelling_demo": Recorded(
        "labelling a collection", "python tools/measure_labelling.py --images 1000 --rounds 2 --out F"
    ),
    "many_classes": Recorded(
        "any number of classes",
        "python tools/measure_many_classes.py --against CHECKOUT --weights vit-b-16.pt --out F",
    ),
    "memory_cityscapes": Recorded(
        "memory of an image of 1024 x 2048 pixels",
        "python tools/benchmark.py --config configs/cfg_cityscapes.py --weights vit-b-16.pt --size 1024 2048 "
        "--queries 26 --set slide_stride=112 img_engineering=False --out F",
    ),
    "memory_coco_stuff": Recorded(
        "memory of an image of 480 x 640 pixels",
        "python tools/benchmark.py --config configs/cfg_coco_stuff.py --weights vit-b-16.pt --size 480 640 "
        "--queries 183 --set slide_stride=112 img_engineering=False --out F",
    ),
    "methods_and_parts_demo": Recorded(
        "every method with ITACLIP's stages, demo",
        f'python tools/ablate.py {DEMO} --only "methods with ITACLIP\'s parts" --out work_dirs/methods',
    ),
    "methods_speed_vit_b_16": Recorded(
        "cost of each method",
        f"{VOC} --queries 20 --batch 10 --methods clip scclip resclip proxyclip corrclip itaclip --out F",
    ),
    "pamr_cityscapes": Recorded(
        "PAMR", "python tools/benchmark.py --config configs/cfg_cityscapes.py --pamr --size 1024 2048 --out F"
    ),
    "qualities_demo": Recorded(
        "quality presets in PyTorch, demo",
        f"python tools/measure_qualities.py {DEMO} --limit 12 --dtypes fp32 bf16 --out F",
    ),
    "qualities_demo_openvino": Recorded(
        "quality presets in OpenVINO, demo",
        f"python tools/measure_qualities.py {DEMO} --limit 12 --dtypes fp32 int8 --engine openvino --out F",
    ),
    "regions_speed": Recorded("region sources", "python tools/measure_segmenters.py --regions --out F"),
    "sam3_speed": Recorded(
        "SAM 3 with 150 prompts", "python tools/measure_segmenters.py --sam3 --prompts 150 --out F"
    ),
    "raster": Recorded("rasters", "python tools/measure_raster.py --sides 5000 9000 --out F"),
    "start": Recorded("start of a program", "python tools/measure_start.py --out F"),
    "memory": Recorded(
        "memory and later start, by engine and precision",
        "python tools/measure_memory.py --weights vit-b-16.pt --against CHECKOUT --out F",
    ),
    "folders": Recorded(
        "images per second of a folder, int8",
        "python tools/measure_folders.py --weights vit-b-16.pt --against CHECKOUT --out F",
    ),
    "adaptive_demo": Recorded("sliding-window inference that ends early, demo",
                            f"python tools/measure_adaptive.py {DEMO} --limit 12 --out F"),
    "throughput_vit_b_16_bf16": Recorded(
        "images per second with every data set's settings",
        f"python tools/benchmark.py --config {ALL_SETTINGS} --weights vit-b-16.pt --dtype bf16 --out F",
    ),
    "encoders": Recorded("dense features beside a plain pass", "python tools/measure_encoders.py --out F"),
    "towers": Recorded("image encoders of other families", "python tools/measure_towers.py --out F"),
    "vocabulary_demo": Recorded(
        "official, plain and chosen words, all methods, demo's things",
        "python tools/measure_vocabulary.py --configs configs/cfg_demo_things.py "
        "--vocabularies official plain plain+auto --limit 24 --out F",
    ),
    "whole_image_vit_b_16": Recorded("OV-Stitcher on a whole image", f"{VOC} --methods ovstitcher --out F"),
    "whole_image_vit_b_16_bf16": Recorded(
        "the same in bf16", f"{VOC} --methods ovstitcher --dtype bf16 --out F"
    ),
    "whole_image_vit_b_16_openvino_bf16": Recorded(
        "the same in bf16, by OpenVINO", f"{VOC} --methods ovstitcher --dtype bf16 --engine openvino --out F"
    ),
    "whole_image_vit_b_16_openvino_int8": Recorded(
        "the same in int8, by OpenVINO", f"{VOC} --methods ovstitcher --dtype int8 --engine openvino --out F"
    ),
    "zero_shot_demo": Recorded("Cascade-CLIP and CLIP-RC, demo", "tools/train.py and tools/test.py"),
    "zero_shot_speed": Recorded(
        "speed and memory of Cascade-CLIP and CLIP-RC",
        f"{FLOPS} --baseline --out F",
    ),
}  # fmt: skip
"""The files of docs/results by stem."""


class Record:
    """The files of docs/results, read and checked.

    Args:
        folder: docs/results.

    Raises:
        ItaclipError: a file is missing, is described nowhere, or is no JSON.
    """

    def __init__(self, folder: Path) -> None:
        found = {path.stem: path for path in sorted(folder.glob("*.json"))}
        if missing := sorted(FILES.keys() - found.keys()):
            raise ItaclipError(f"{folder}: {missing[0]}.json is missing. Record it with: {FILES[missing[0]].command}")
        if unknown := sorted(found.keys() - FILES.keys()):
            raise ItaclipError(f"{found[unknown[0]]}: FILES in tools/record.py does not describe this file.")
        self._contents = {}
        for name, path in found.items():
            try:
                self._contents[name] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ItaclipError(f"{path}: not a JSON file ({error}).") from error

    def __getitem__(self, name: str) -> Any:
        return self._contents[name]

    def machine(self, *names: str) -> str:
        """Name the machine or machines of some files, in words."""
        found = {_machine_in_words(found) for name in names for found in _nested(self[name], "machine")}
        return "; ".join(sorted(found)) or "processor not recorded"

    def versions(self, name: str) -> list[dict[str, str]]:
        """Find the versions of a file's runs: one entry a run."""
        return list(_nested(self[name], "versions"))


def _nested(content: Any, key: str) -> Iterable[Any]:
    """Find the values of a key at any depth."""
    if isinstance(content, dict):
        for name, value in content.items():
            if name == key:
                yield value
            else:
                yield from _nested(value, key)
    elif isinstance(content, list):
        for value in content:
            yield from _nested(value, key)


def _machine_in_words(machine: Mapping[str, Any]) -> str:
    name = str(machine.get("processor") or "processor not recorded")
    for noise in ("(R)", "(TM)", " Processor", " CPU"):
        name = name.replace(noise, "")
    return f"{name}, {machine['cores']} core{'s' if machine['cores'] > 1 else ''}"
