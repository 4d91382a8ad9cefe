#!/usr/bin/env bash
# One matrix product for queries, keys and values, as most ViTs have it to save time, costs time in int8.
# NNCF puts the rounding of queries and keys where attention reads them. Through reshapes and transposes OpenVINO folds it into
# the product before, but not through the split of a joint product: that writes floats, which two more passes round. Three
# products for the same weights write int8.
# Seen with openvino 2026.4.1, nncf 3.4.0 on Linux, CPU; nodes of the compiled attention block:
#   joint: 2 FakeQuantize left, 0 products write i8
#   three: 0 FakeQuantize left, 2 products write i8
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
python_with openvino==2026.4.1 nncf==3.4.0 numpy==2.4.6
"$python" - 2>/dev/null <<'PYTHON'
import sys

sys.modules["openvino_telemetry"] = None  # nothing is reported

import nncf
import numpy as np
import openvino
from openvino import opset13 as ops

WIDTH, HEADS, TOKENS = 256, 4, 64
generator = np.random.default_rng(0)
weights = generator.normal(size=(3 * WIDTH, WIDTH)).astype(np.float32) / 16


def shaped(x, *shape):
    return ops.reshape(x, np.array([0, TOKENS, *shape]), special_zero=True)


def joint(x):
    product = shaped(ops.matmul(x, ops.constant(weights), False, True), 3, HEADS, WIDTH // HEADS)
    parts = ops.split(ops.transpose(product, np.array([2, 0, 3, 1, 4])), 0, 3)
    return [ops.squeeze(part, np.array([0])) for part in parts.outputs()]


def three(x):
    products = [ops.matmul(x, ops.constant(part), False, True) for part in np.split(weights, 3)]
    return [ops.transpose(shaped(product, HEADS, WIDTH // HEADS), np.array([0, 2, 1, 3])) for product in products]


def attention_block(project):
    x = ops.parameter([-1, TOKENS, WIDTH], np.float32)
    normed = ops.mvn(x, np.array([2]), True, 1e-5, "INSIDE_SQRT")
    attended = ops.scaled_dot_product_attention(*project(normed), causal=False)
    merged = shaped(ops.transpose(attended, np.array([0, 2, 1, 3])), WIDTH)
    return openvino.Model([ops.add(x, ops.matmul(merged, ops.constant(weights[:WIDTH]), False, True))], [x])


def seen(project):
    batches = [generator.normal(size=(2, TOKENS, WIDTH)).astype(np.float32) for _ in range(4)]
    rounded = nncf.quantize(
        attention_block(project), nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER, subset_size=4
    )
    compiled = openvino.Core().compile_model(rounded, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [(node["layerType"].astype(str), node["outputPrecisions"].astype(str)) for node in nodes]
    left = sum(kind == "FakeQuantize" for kind, _ in kinds)
    return left, sum(kind == "FullyConnected" and precision == "i8" for kind, precision in kinds)


found = {project.__name__: seen(project) for project in (joint, three)}
for name, (left, whole) in found.items():
    print(f"{name}: {left} FakeQuantize left, {whole} products write i8")
assert found == {"joint": (2, 0), "three": (0, 2)}, "changed"
PYTHON
