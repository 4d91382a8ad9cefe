"""The tables and numbers that tools/make_record.py puts into the pages, from docs/results and the published scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from record import FILES, Record

from itaclip.research.comparison.published import ALL, TABLES

# --- writing tables ----------------------------------------------------------


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """Write a table in Markdown; the first `words` columns hold words, the others right-aligned numbers."""
    rule = "|" + "---|" * words + "---:|" * (len(header) - words)
    first, *others = ("| " + " | ".join(line) + " |" for line in (header, *rows))
    return "\n".join([first, rule, *others])


def _share(value: float, digits: int = 1) -> str:
    """Write a share in percent; only a share of 1 reads as 100 %."""
    text = f"{100 * value:.{digits}f} %"
    if float(text[:-2]) < 100:
        return text
    return "100 %" if value == 1 else _share(value, digits + 1)


def _by(rows: Iterable[Mapping[str, Any]], key: str) -> dict[Any, Mapping[str, Any]]:
    return {row[key]: row for row in rows}


def _with_machine(text: str, machine: str) -> str:
    return f"{text}\n\n*Machine: {machine}.*"


# --- agreement ---------------------------------------------------------------

_STAGES = {
    "query_features": "text bank", "crop_tokens": "patch features of a window", "crop_logits_s4": "logits of a window",
    "fused_logits_s4": "stitched logits", "pamr_logits_s4": "PAMR", "probs_s4": "class scores", "pred": "equal labels",
}  # fmt: skip
_ITACLIP = {
    "itaclip_plain": "plain",
    "itaclip_voc_like": "VOC's settings",
    "itaclip_stuff_like": "COCO-Stuff's settings",
}
_TRAINING_FREE = {
    "training_free_seed0": "CLIP, MaskCLIP, SCLIP, ClearCLIP, GEM, NACLIP",
    "stronger_seed0": "SC-CLIP, ResCLIP, ProxyCLIP, CorrCLIP",
}
_TRAINED = {
    "cascade_clip_seed0": "Cascade-CLIP, with losses and gradients",
    "clip_rc_seed0": "CLIP-RC, with losses and gradients",
}


def _agreement(record: Record) -> str:
    found = {name: _by(record["agreement"]["recordings"][name], "stage") for name in _ITACLIP}
    rows = []
    for stage, title in _STAGES.items():
        cells = []
        for stages in found.values():
            value = stages[stage]["value"] if stage in stages else None
            cells.append("off" if value is None else _share(value, 4) if stage == "pred" else f"{value:.1e}")
        rows.append([title, *cells])
    return _with_machine(_table(["largest difference", *_ITACLIP.values()], rows), record.machine("agreement"))


def _agreement_methods(record: Record) -> str:
    rows = []
    for name, title in (_TRAINING_FREE | _TRAINED).items():
        stages = record["agreement"]["recordings"][name]
        rows.append([title, str(len(stages)), f"{max(stage['value'] for stage in stages):.1e}"])
    text = _table(["recording", "compared arrays", "largest difference"], rows)
    return _with_machine(text, record.machine("agreement"))


def _differences(record: Record, name: str) -> list[float]:
    return [stage["value"] for stage in record["agreement"]["recordings"][name] if stage["stage"] != "pred"]


# --- the demo ----------------------------------------------------------------

_STEPS = {
    "clip": "CLIP, dense", "attention": "+ self-self attention, middle layers, no feed-forward network",
    "without_pamr": "+ five views, definitions", "itaclip": "+ PAMR = ITACLIP",
    "held_out_words": "ITACLIP, with words that no caption contains",
}  # fmt: skip


def _demo(record: Record) -> str:
    rows = []
    for name, title in _STEPS.items():
        run = record["demo"][name]
        rows.append([title, f"{run['mIoU']:.1f}", f"{run['aAcc']:.1f}", f"{run['seconds_per_image']:.2f}"])
    text = _table(["on the bundled demo", "mIoU", "pixel accuracy", "s per image"], rows)
    return _with_machine(text, record.machine("demo"))


def _demo_classes(record: Record) -> str:
    runs = [record["demo"][name] for name in ("clip", "itaclip", "held_out_words")]
    classes = list(runs[0]["IoU"])
    values = [list(run["IoU"].values()) for run in runs]  # classes have the same order in all runs
    rows = [[name, *(f"{column[i]:.1f}" for column in values)] for i, name in enumerate(classes)]
    rows.append(["mean", *(f"{run['mIoU']:.1f}" for run in runs)])
    return _table(["class", "IoU, CLIP", "IoU, ITACLIP", "IoU, ITACLIP, words held out"], rows)


def _demo_colours(record: Record) -> str:
    found = record["demo"]["coloured_things"]
    rows = [[name, str(values["things"]), _share(values["right"], 0)] for name, values in found.items()]
    return _table(["coloured objects, to be found among the colours of their class", "objects", "right"], rows)


def _demo_encoder(record: Record) -> str:
    rows = [[name, f"{value:.2f}"] for name, value in record["demo_encoder"]["area under the ROC curve"].items()]
    return _table(["patches described by", "area under the ROC curve"], rows)


_STAGE_COLUMNS = {
    "plain": "plain", "+ views": "+ views", "+ texts": "+ texts", "+ PAMR": "+ PAMR",
    "+ map correction": "+ map correction", "+ PAMR + map correction": "+ both",
    "all of ITACLIP's": "all of ITACLIP's", "all + map correction": "all + map correction",
}  # fmt: skip
_REST_COLUMNS = {"plain": "plain", "+ closing": "+ closing", "+ area rule": "+ area threshold"}


def _scores_of_stages(record: Record) -> dict[str, dict[str, float]]:
    """Return mIoU on the demo by method and variant."""
    found: dict[str, dict[str, float]] = {}
    for row in record["methods_and_parts_demo"]["rows"]:
        method, variant = row["variant"].split(", ", 1)
        found.setdefault(method, {})[variant] = row["mIoU"]
    return found


def _methods_and_stages(record: Record, columns: Mapping[str, str]) -> str:
    rows = [[f"`{method}`", *(f"{scores[name]:.1f}" for name in columns)]
            for method, scores in _scores_of_stages(record).items()]  # fmt: skip
    return _with_machine(
        _table(["mIoU on the demo", *columns.values()], rows), record.machine("methods_and_parts_demo")
    )


def _gains(record: Record, variant: str, base: str = "plain") -> list[float]:
    return [scores[variant] - scores[base] for scores in _scores_of_stages(record).values()]


# --- quality presets ---------------------------------------------------------


def _qualities(record: Record, name: str, precisions: Sequence[str]) -> str:
    rows = []
    for row in record[name]["rows"]:
        if row["dtype"] in precisions:
            rows.append([f"`{row['quality']}`", row["dtype"], str(row["slide_stride"]),
                         "5" if row["img_engineering"] else "1", f"{row['mIoU']:.2f}",
                         _share(row["labels_as_first"]), f"{row['seconds_per_image']:.2f}"])  # fmt: skip
    header = ["quality preset", "precision", "stride", "views", "mIoU", "labels equal to the first row", "s per image"]
    return _with_machine(_table(header, rows, 2), record.machine(name))


def _adaptive(record: Record) -> str:
    rows = [[row["variant"], f"{row['passes']:.3f}", _share(row["labels_as_exact"]), _share(row["worst_image"]),
             f"{row['mIoU']:.1f}"] for row in record["adaptive_demo"]["rows"]]  # fmt: skip
    header = ["windows and views", "encoder passes, `exact` = 1", "labels equal to `exact`", "worst image", "mIoU"]
    return _with_machine(_table(header, rows), record.machine("adaptive_demo"))


# --- speed -------------------------------------------------------------------

_ENGINES = (
    "benchmark_vit_b_16_openvino_fp32", "benchmark_vit_b_16_openvino_bf16", "benchmark_vit_b_16_openvino_int8",
    "benchmark_vit_b_16_openvino_fp32_intel", "benchmark_vit_b_16_openvino_bf16_intel",
    "benchmark_vit_b_16_openvino_int8_intel", "benchmark_vit_b_16_openvino_int8_adaptive_intel",
)  # fmt: skip
_PYTORCH = ("benchmark_vit_b_16_fp32", "benchmark_vit_b_16_bf16")


def _stages_of(run: Mapping[str, Any]) -> dict[Any, Mapping[str, Any]]:
    name = next(name for name in run["tables"] if "image of" in name)
    return _by(run["tables"][name], "stage")


def _engines(record: Record) -> str:
    rows = []
    for name in _ENGINES:
        run = record[name]
        whole = _stages_of(run)["whole image"]
        precision = run["dtype"] + (", stopped early" if run["passes"] < run["passes of all windows and views"] else "")
        rows.append([record.machine(name), precision, str(run["passes"]), f"{whole['seconds']:.1f}",
                     f"{whole['plainly']:.1f}", f"{run['ratio']:.2f}", _share(run["equal_labels"], 2)])  # fmt: skip
    header = ["machine", "precision", "encoder passes", "s", "baseline, s", "speed-up", "labels as the baseline"]
    return _table(header, rows, 2)


def _encoder(record: Record) -> str:
    rows = []
    for engine, names in (("PyTorch", _PYTORCH), ("OpenVINO", _ENGINES[:3])):
        for name in names:
            run = record[name]
            rows.append([engine, run["dtype"], f"{_stages_of(run)['encoder']['seconds']:.1f}",
                         f"{run['gflops_encoder']:.0f}", f"{run['gflops_matrix_peak']:.0f}"])  # fmt: skip
    header = ["engine", "precision", "encoder, s", "GFLOP/s", "PyTorch's matrix product in the same run, GFLOP/s"]
    return _with_machine(_table(header, rows, 2), record.machine(*_PYTORCH, *_ENGINES[:3]))


def _image_stages(record: Record) -> str:
    runs = [_stages_of(record[name]) for name in _ENGINES[:3]]
    rows = []
    for stage in runs[0]:
        if stage == "sum of stages":
            continue
        cells = []
        for run in runs:
            plain = run[stage]["plainly"]
            cells += [f"{run[stage]['seconds']:.3f}", f"{plain:.2f}" if plain != "" else ""]
        rows.append([stage, *cells, f"{runs[2][stage]['peak MiB']:.0f}"])
    header = ["stage, seconds", "fp32", "baseline", "bf16", "baseline", "int8", "baseline", "int8, peak MiB"]
    return _with_machine(_table(header, rows), record.machine(*_ENGINES[:3]))


def _throughput(record: Record) -> str:
    rows = []
    for row in record["throughput_vit_b_16_bf16"]["tables"]["images per second"]:
        rows.append([f"`{row['settings']}`", row["size"], str(row["passes"]), str(row["queries"]),
                     f"{row['seconds']:.1f}", f"{row['images_per_second']:.3f}", f"{row['peak_mib']:.0f}"])  # fmt: skip
    header = ["settings", "image", "encoder passes", "class words", "s", "images/s", "peak MiB"]
    return _with_machine(_table(header, rows, 2), record.machine("throughput_vit_b_16_bf16"))


def _method_costs(record: Record) -> str:
    rows = []
    for row in record["methods_speed_vit_b_16"]["rows"]:
        plain = (f"{row['plainly']:.3f}", f"{row['times_as_fast']:.2f}") if row["plainly"] != "" else ("", "")
        rows.append([f"`{row['method']}`", f"{row['seconds_per_window']:.3f}", f"{row['ratio_to_clip']:.2f}", *plain])
    header = ["method", "s per window", "relative to `clip`", "baseline, s per window", "speed-up"]
    return _with_machine(_table(header, rows), record.machine("methods_speed_vit_b_16"))


def _whole_image(record: Record) -> str:
    found = record["whole_image_vit_b_16"]["whole image"]
    rows = [
        [
            f"`{name}`" if name != "plainly" else "plain version",
            f"{found[f'{name}, s']:.1f}",
            f"{found[f'{name}, MiB']}",
        ]
        for name in ("ovstitcher", "corrclip", "plainly")
    ]
    return _with_machine(
        _table(["one image of eight windows, 100 regions", "s", "MiB"], rows), record.machine("whole_image_vit_b_16")
    )


def _whole_image_lower(record: Record) -> str:
    titles = {"": "fp32", "_bf16": "bf16", "_openvino_bf16": "bf16, OpenVINO", "_openvino_int8": "int8, OpenVINO"}
    names = {f"whole_image_vit_b_16{end}": title for end, title in titles.items()}
    rows = []
    for name, title in names.items():
        found = record[name]["whole image"]
        rows.append([title, *(f"{found[key]:.1f}" for key in ("ovstitcher, s", "plainly, s", "times as fast")),
                     f"{found['to corrclip']:.2f}"])  # fmt: skip
    header = ["`ovstitcher` in", "s", "plain version, fp32, same run, s", "times as fast", "to `corrclip`"]
    return _with_machine(_table(header, rows), record.machine(*names))


def _growth(record: Record) -> str:
    rows = []
    for row in record["growth_vit_b_16"]["tables"]["growth"]:
        rows.append([row["changed"].replace("queries", "class words"), str(row["value"]), str(row["passes"]),
                     str(row["queries"]), str(row["pixels"]), f"{row['seconds']:.2f}",
                     f"{row['seconds'] / row['passes']:.2f}"])  # fmt: skip
    header = ["changed", "value", "encoder passes", "class words", "pixels", "s", "s per pass"]
    return _with_machine(_table(header, rows), record.machine("growth_vit_b_16"))


def _text_bank(record: Record) -> str:
    found = record["benchmark_vit_b_16_openvino_fp32"]["tables"]["text bank"]
    titles = {"anew": "encoded in OpenVINO", "from the disk": "from the cache on disk",
              "plainly (scaled up)": "baseline, scaled up from three texts"}  # fmt: skip
    rows = [[titles[row["how"]], f"{row['seconds']:.3g}"] for row in found]
    return _with_machine(_table(["8,000 prompts", "s"], rows), record.machine("benchmark_vit_b_16_openvino_fp32"))


def _pamr(record: Record) -> str:
    found = record["pamr_cityscapes"]
    rows = [["PAMR", f"{found['seconds']:.1f}", f"{found['extra_mib']:.0f}"],
            ["baseline", f"{found['plain_seconds']:.1f}", f"{found['plain_extra_mib']:.0f}"]]  # fmt: skip
    text = _table(["{} x {} pixels, {} class words, {} rounds".format(*found["size"], found["queries"], found["steps"]),
                   "s", "extra MiB"], rows)  # fmt: skip
    return _with_machine(text, record.machine("pamr_cityscapes"))


def _start(record: Record) -> str:
    titles = {"torch alone": "`import torch`, alone", "import": "`from itaclip import Segmenter`",
              "first image": "the first image is labelled"}  # fmt: skip
    rows = [[titles[row["until"]], f"{row['seconds']:.2f}", str(row["peak MiB"])] for row in record["start"]["rows"]]
    return _with_machine(_table(["until", "s", "peak MiB"], rows), record.machine("start"))


# --- memory ------------------------------------------------------------------


def _memory_of_engines(record: Record) -> str:
    engines, rows = {"torch": "PyTorch", "openvino": "OpenVINO"}, []
    for row in record["memory"]["rows"]:
        engine, precision = row["case"].split()
        peaks = []
        for peak in ("peak MiB, first start", "peak MiB"):
            share = f"{row[peak] / row[f'{peak}, before']:.2f}" if engine == "openvino" else ""
            peaks += [str(row[peak]), share]
        rows.append([engines[engine], precision, *peaks, f"{row['start beyond import, s']:.1f}"])
    header = ["engine", "precision", "first start: peak MiB", "share of twice", "later start: peak MiB",
              "share of twice", "start beyond import, s"]  # fmt: skip
    return _with_machine(_table(header, rows, 2), record.machine("memory"))


def _folders(record: Record) -> str:
    rows = [[f"`{row['quality']}`", f"{row['images per second']:.2f}", f"{row['times as fast']:.2f}"]
            for row in record["folders"]["rows"]]  # fmt: skip
    header = ["quality preset", "images per second", "times as fast as the version before"]
    return _with_machine(_table(header, rows, 1), record.machine("folders"))


def _memory(record: Record) -> str:
    rows = [["the demo's CLIP, one scene after the other, as published", "fp32",
             f"{record['demo']['itaclip']['peak_memory_mib']['process']:.0f}", record.machine("demo")]]  # fmt: skip
    for name, what in (("memory_coco_stuff", "480 x 640 pixels, COCO-Stuff's classes"),
                       ("memory_cityscapes", "1024 x 2048 pixels, Cityscapes' classes")):  # fmt: skip
        run = record[name]
        rows.append([f"ViT-B/16, {what}, stride 112, one view", run["dtype"],
                     f"{run['peak_memory_mib']['process']:.0f}", record.machine(name)])  # fmt: skip
    lines = [[what, precision, machine, peak] for what, precision, peak, machine in rows]
    return _table(["whole program, with weights and PAMR", "precision", "machine", "peak MiB"], lines, 3)


def _many_classes(record: Record) -> str:
    rows = []
    for row in record["many_classes"]["tables"]["classes"]:
        other = [row.get("other", ""), "", ""]
        if "other MiB" in row:
            other = [f"{row['other MiB'] / 1024:.1f}", f"{row['times as fast']:.1f}", _share(row["equal labels"], 2)]
        model = {"demo": "demo's", "vit-b-16": "ViT-B/16"}[row["model"]]
        rows.append([f"{row['classes']:,}", model, row["size"], f"{row['seconds']:.1f}", f"{row['MiB'] / 1024:.1f}",
                     *other])  # fmt: skip
    header = ["classes", "CLIP", "image", "s", "peak GiB", "all at once: peak GiB", "times as fast", "equal labels"]
    return _with_machine(_table(header, rows, 3), record.machine("many_classes"))


def _shortlists(record: Record) -> str:
    tables = record["many_classes"]["tables"]
    rows = [[what, f"{row['classes']:,}", str(row["shortlist"]),
             f"{row['times as fast']:.1f}" if "times as fast" in row else "", _share(row['equal labels'])]
            for what, name in (("random texts", "shortlist, random texts"), ("the demo's scenes", "shortlist, demo"))
            for row in tables[name]]  # fmt: skip
    header = ["image", "classes", "`shortlist`", "times as fast", "equal labels"]
    return _with_machine(_table(header, rows, 1), record.machine("many_classes"))


def _gpu_memory(record: Record) -> str:
    half = record["gpu_memory_vit_b_16_fp16"]["tables"]["GPU memory"]
    single = _by(record["gpu_memory_vit_b_16_fp32"]["tables"]["GPU memory"], "settings")
    rows = [[f"`{row['settings']}`", row["size"], str(row["queries"]), f"{row['MiB']:.0f}",
             f"{single[row['settings']]['MiB']:.0f}"] for row in half]  # fmt: skip
    return _table(["settings", "image", "class words", "fp16, MiB", "fp32, MiB"], rows, 2)


def _towers(record: Record) -> str:
    rows = []
    for row in record["towers"]["rows"]:
        rows.append([f"`{row['model']}`", str(row["blocks"]), str(row["tokens"]),
                     f"{row['processor_seconds_per_window']:.2f}",
                     str(row["weights_mib"]), str(row["peak_mib"])])  # fmt: skip
    header = ["model", "blocks", "tokens per window", "CPU seconds per window", "weights, MiB", "peak MiB"]
    return _with_machine(_table(header, rows), record.machine("towers"))


def _encoders(record: Record) -> str:
    rows = [[row["encoder"], f"{row['plain']:.2f}", f"{row['dense']:.2f}", f"{row['ratio']:.2f}"]
            for row in record["encoders"]["rows"]]  # fmt: skip
    return _with_machine(
        _table(["encoder and method", "plain pass", "dense", "ratio"], rows), record.machine("encoders")
    )


def _regions(record: Record) -> str:
    rows = [[f"`{row['regions']}`", f"{row['seconds']:.2g}", f"{row['ratio']:.1f}"]
            for row in record["regions_speed"]["rows"]]  # fmt: skip
    return _with_machine(
        _table(["regions of an image of 375 x 500 pixels", "s", "ratio"], rows), record.machine("regions_speed")
    )


def _sam3(record: Record) -> str:
    runs = record["sam3_speed"]["rows"]
    found = runs[0]
    rows = [["one by one, by transformers", f"{found['prompt by prompt, s']:.0f}", ""],
            [f"all, in buckets of {found['bucket']}", f"{found['in buckets, s']:.0f}",
             f"{found['in buckets, times as fast']:.1f}"]]  # fmt: skip
    for run in runs:
        what = f"preview of {run['preview side']} pixels, then the best {run['kept']}"
        rows.append([what, f"{run['with preview, s']:.0f}", f"{run['with preview, times as fast']:.1f}"])
    return _with_machine(
        _table([f"{found['prompts']} prompts", "s per image", "times as fast"], rows), record.machine("sam3_speed")
    )


# --- collections and the HTTP API --------------------------------------------


def _labelling(record: Record) -> str:
    titles = {"stream": "`Segmenter.stream`", "ray1": "Ray, one worker", "ray2": "Ray, two workers"}
    rows = []
    for variant, title in titles.items():
        runs = [row for row in record["labelling_demo"]["runs"]["rows"] if row["variant"] == variant]
        rows.append([title, *(f"{min(run[key] for run in runs):.1f}" for key in ("seconds", "working", "CPU seconds"))])
    header = ["1,000 demo scenes", "whole command, s", "first image to last, s", "CPU seconds of all processes"]
    return _with_machine(_table(header, rows), record.machine("labelling_demo"))


def _labelling_stages(record: Record) -> str:
    found = record["labelling_demo"]["stages"]
    titles = {
        "list": "list, write the plan", "read": "read from the local disk", "decode": "decode",
        "segment": "segment (demo's CLIP, `fast`, no PAMR)", "run lengths": "run lengths, mean scores",
        "Parquet": "Parquet", "write": "write to the local disk, synced",
    }  # fmt: skip
    rows = [[title, f"{found[stage]:.2g}" if found[stage] < 10 else f"{found[stage]:.0f}"]
            for stage, title in titles.items()]  # fmt: skip
    return _with_machine(_table(["stage", "CPU ms per image"], rows), record.machine("labelling_demo"))


def _raster(record: Record) -> str:
    found = record["raster"]
    pixels = found["time"]["rows"][0]["side"]
    rows = [[f"peak memory, {row['side']:,} x {row['side']:,} pixels", f"{row['peak_mib']:,.0f} MiB"]
            for row in found["memory"]["rows"]]  # fmt: skip
    rows.append(["memory of the larger one, relative to the smaller one", f"{found['memory']['ratio']:.2f}"])
    rows += [
        [f"seconds relative to the raster in memory, {pixels:,} x {pixels:,} pixels",
         f"{found['time']['ratio_seconds']:.2f}"],
        [f"CPU seconds relative to the raster in memory, {pixels:,} x {pixels:,} pixels",
         f"{found['time']['ratio_cpu_seconds']:.2f}"],
        ["two workers relative to one", f"{found['workers']['speedup']:.2f}"],
        ["killed and continued, then the same file",
         f"{found['kills']['kills']} times" if found["kills"]["same_file"] else "no"],
    ]  # fmt: skip
    return _with_machine(_table(["`itaclip raster`, quality `fast`", "measured"], rows), record.machine("raster"))


def _http(record: Record) -> str:
    runs = [record[f"http_load_demo_queue_{size}"] for size in (20, 40)]
    lines: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("images answered", lambda run: str(run["images"])),
        ("lost, wrong or failed images", lambda run: str(run["failures"])),
        ("answers with status 429 (queue full)", lambda run: str(run["told_to_come_back"])),
        ("images per second", lambda run: f"{run['images_per_second']:.2f}"),
        ("seconds from the first try to the mask, p50 / p95",
         lambda run: "{p50:.1f} / {p95:.1f}".format(**run["seconds_per_image"])),
        ("seconds of computing, mean", lambda run: f"{run['computing_seconds_mean']:.2f}"),
        ("server's memory, MiB: after 10 s / at the end / highest",
         lambda run: "{after_10_s:.0f} / {at_the_end:.0f} / {highest:.0f}".format(**run["server_memory_mib"])),
    ]  # fmt: skip
    rows = [[title, *(cell(run) for run in runs)] for title, cell in lines]
    text = _table(["32 clients for 60 s", "queue of 20 (default)", "queue of 40"], rows)
    return _with_machine(text, record.machine("http_load_demo_queue_20", "http_load_demo_queue_40"))


# --- trained zero-shot methods -----------------------------------------------


def _zero_shot(record: Record) -> str:
    titles = {
        "cascade_clip_demo": "Cascade-CLIP, inductive", "cascade_clip_demo_transductive": "Cascade-CLIP, transductive",
        "clip_rc_demo": "CLIP-RC, inductive", "clip_rc_demo_transductive": "CLIP-RC, transductive",
    }  # fmt: skip
    rows = []
    for name, title in titles.items():
        run = record["zero_shot_demo"][name]
        scores = [f"{run[key]:.1f}" for key in ("mIoU(S)", "mIoU(U)", "hIoU", "pAcc")]
        rows.append([title, *scores, str(run["trained"]["iter"])])
    training_free = _seen_and_unseen(record["demo"]["itaclip"])
    rows.insert(0, ["ITACLIP, training-free (`configs/cfg_demo.py`)", *(f"{v:.1f}" for v in training_free), ""])
    text = _table(["in percent, demo", "S", "U", "hIoU", "pAcc", "iterations"], rows)
    return _with_machine(text, record.machine("demo", "zero_shot_demo"))


def _seen_and_unseen(run: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return mIoU of the demo's first 24 classes and of its last five, their harmonic mean, and pixel accuracy."""
    values = list(run["IoU"].values())
    seen, unseen = sum(values[:-5]) / len(values[:-5]), sum(values[-5:]) / 5
    return seen, unseen, 2 * seen * unseen / (seen + unseen), run["aAcc"]


def _zero_shot_speed(record: Record) -> str:
    titles = {"clip_rc_coco_inductive": "CLIP-RC, COCO-Stuff", "cascade_clip_voc_inductive": "Cascade-CLIP, VOC"}
    rows = []
    for run in record["zero_shot_speed"]["runs"]:
        if "baseline" not in run:
            continue
        ours, plain = run["measured"], run["baseline"]
        faster = [f"{plain['seconds'][key] / ours['seconds'][key]:.1f}" for key in ("training_step", "image")]
        peaks = [f"{found['peak_memory_mib']['process'] / 1024:.1f}" for found in (ours, plain)]
        rows.append([titles[Path(run["config"]).stem],
                     f"{run['parameters'] / 1e6:.1f} ({run['trained_parameters'] / 1e6:.1f})",
                     f"{run['gflops_window']:.0f}", *faster, *peaks])  # fmt: skip
    header = ["", "parameters, 10^6 (trained)", "GFLOP per window", "speed-up of a training step, batch 1",
              "speed-up of a window", "peak GiB", "baseline, peak GiB"]  # fmt: skip
    return _with_machine(_table(header, rows), record.machine("zero_shot_speed"))


# --- published scores, and the list of files ---------------------------------

_TITLES = {
    "voc21": "VOC21", "context60": "Context60", "coco_object": "COCO-Object", "voc20": "VOC20",
    "cityscapes": "Cityscapes", "context59": "Context59", "ade20k": "ADE20K", "coco_stuff": "COCO-Stuff",
}  # fmt: skip


def _published(part: str) -> str:
    rows = []
    for row in TABLES:
        own = "not CLIP" if not row.clip else "ViT-B/16" if row.backbone == "OpenAI ViT-B/16" else "other backbones"
        if own == part:
            scores = [f"{row.scores[name]:g}" if name in row.scores else "" for name in ALL]
            rows.append([row.label, *([] if part == "ViT-B/16" else [row.backbone]), row.extra, row.source, *scores])
    header = ["method", *([] if part == "ViT-B/16" else ["backbone"]), "further models", "source"]
    return _table([*header, *(_TITLES[name] for name in ALL)], rows, len(header))


def _files(record: Record) -> str:
    rows = []
    for name, file in FILES.items():
        found = {(found["itaclip"], found["torch"]) for found in record.versions(name)}
        versions = "; ".join(f"{itaclip}, {torch}" for itaclip, torch in sorted(found)) or "not recorded"
        link = f"[{file.about}](results/{name}.json)"
        rows.append([link, record.machine(name), versions, f"`{file.command}`"])
    return _table(["file", "machine", "itaclip, torch", "command"], rows, 4)


def _vocabulary(record: Record) -> str:
    rows = record["vocabulary_demo"]["datasets"]["demo_things"]["rows"]
    lines = []
    for row in rows:
        lost, regained = row["official"] - row["plain"], row["plain+auto"] - row["plain"]
        scores = [f"{row[words]:.1f}" for words in ("official", "plain", "plain+auto")]
        lines.append([row["method"], *scores, f"{lost:.1f}", f"{100 * regained / lost:.0f} %"])
    return _table(("method", "official", "plain", "plain, chosen words", "lost", "regained"), lines)


TABLES_BY_NAME: dict[str, Callable[[Record], str]] = {
    "agreement": _agreement,
    "agreement of other methods": _agreement_methods,
    "demo": _demo,
    "demo by class": _demo_classes,
    "demo colours": _demo_colours,
    "demo encoder": _demo_encoder,
    "encoder": _encoder,
    "engines": _engines,
    "files": _files,
    "GPU memory": _gpu_memory,
    "growth": _growth,
    "HTTP": _http,
    "labelling": _labelling,
    "raster": _raster,
    "labelling by stage": _labelling_stages,
    "many classes": _many_classes,
    "memory": _memory,
    "method costs": _method_costs,
    "whole image": _whole_image,
    "whole image in lower precision": _whole_image_lower,
    "methods and stages": lambda record: _methods_and_stages(record, _STAGE_COLUMNS),
    "methods, closing and area rule": lambda record: _methods_and_stages(record, _REST_COLUMNS),
    "one image by stage": _image_stages,
    "PAMR": _pamr,
    "vocabulary": _vocabulary,
    "published, ViT-B/16": lambda record: _published("ViT-B/16"),
    "published, other backbones": lambda record: _published("other backbones"),
    "published, not CLIP": lambda record: _published("not CLIP"),
    "qualities": lambda record: _qualities(record, "qualities_demo", ["fp32"]),
    "qualities, all precisions": lambda record: _qualities(record, "qualities_demo", ["fp32", "bf16"]),
    "qualities, OpenVINO": lambda record: _qualities(record, "qualities_demo_openvino", ["fp32", "int8"]),
    "shortlists": _shortlists,
    "start": _start,
    "memory of engines": _memory_of_engines,
    "folders": _folders,
    "adaptive": _adaptive,
    "text bank": _text_bank,
    "throughput": _throughput,
    "encoders": _encoders,
    "regions": _regions,
    "SAM 3": _sam3,
    "towers": _towers,
    "zero-shot": _zero_shot,
    "zero-shot speed": _zero_shot_speed,
}
"""Tables by the name in their marker."""

NUMBERS_BY_NAME: dict[str, Callable[[Record], str]] = {
    "itaclip": lambda record: f"{record['demo']['itaclip']['mIoU']:.1f}",
    "clip": lambda record: f"{record['demo']['clip']['mIoU']:.1f}",
    "difference": lambda record: _ceiling(max(max(_differences(record, name)) for name in _ITACLIP)),
    "difference of trained methods": lambda record: _ceiling(max(max(_differences(record, name)) for name in _TRAINED)),
    "least map correction": lambda record: f"{min(_gains(record, '+ map correction')):.1f}",
    "most map correction": lambda record: f"{max(_gains(record, '+ map correction')):.1f}",
    "least PAMR": lambda record: f"{min(_gains(record, '+ PAMR')):.1f}",
    "most PAMR": lambda record: f"{max(_gains(record, '+ PAMR')):.1f}",
    "map correction after PAMR": lambda record: f"{-min(_gains(record, '+ PAMR + map correction', '+ PAMR')):.1f}",
    "most views": lambda record: f"{-min(_gains(record, '+ views')):.1f}",
    "most area rule": lambda record: f"{-min(_gains(record, '+ area rule')):.1f}",
    "VOC, passes": lambda record: f"{_voc(record)['passes']}",
    "VOC, seconds": lambda record: f"{_voc(record)['seconds']:.0f}",
    "VOC, GiB": lambda record: f"{_voc(record)['peak_mib'] / 1024:.1f}",
    "VOC, machine": lambda record: record.machine("throughput_vit_b_16_bf16"),
    "plain words, scenes": lambda record: f"{record['vocabulary_demo']['datasets']['demo_things']['images']}",
    "plain words, chosen": lambda record: _chosen(record),
    "scene, seconds": lambda record: f"{record['demo']['itaclip']['seconds_per_image']:.1f}",
    "scene, machine": lambda record: record.machine("demo"),
}
"""Numbers inside sentences, by the name in their marker."""


def _chosen(record: Record) -> str:
    """Tell which way "auto" decided."""
    return str(record["vocabulary_demo"]["datasets"]["demo_things"]["background"]["plain+auto"]["choice"])


def _voc(record: Record) -> Any:
    """Find a typical image with VOC's published settings, at ViT-B/16's size."""
    rows = record["throughput_vit_b_16_bf16"]["tables"]["images per second"]
    return next(row for row in rows if row["settings"] == "cfg_voc")


def _ceiling(value: float) -> str:
    """Write a bound of one digit: 3e-6 for 2.3e-6."""
    digit, exponent = f"{value:.6e}".split("e")
    return f"{-(-float(digit) // 1):.0f}e{int(exponent)}"
