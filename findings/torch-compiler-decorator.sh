#!/usr/bin/env bash
# A decorator of torch.compiler starts the compiler: torch.compiler.assume_constant_result imports torch._dynamo, and with it
# sympy, when the function is defined. Nothing need ever be compiled; a library that marks one function this way makes every
# program that imports it wait. torch.compiler.disable and allow_in_graph, its neighbours in the
# documentation, do the same. `import torch` alone loads none of it.
# Seen with torch 2.14.1 on Linux, CPU:
#   import torch: torch._dynamo loaded: False
#   + assume_constant_result: torch._dynamo loaded: True, sympy loaded: True
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
python_with torch==2.14.1 numpy==2.4.6
for decorator in assume_constant_result disable allow_in_graph; do
  "$python" - "$decorator" <<'PYTHON'
import sys
import time

import torch

before = "torch._dynamo" in sys.modules
began = time.perf_counter()


@getattr(torch.compiler, sys.argv[1])
def choice():
    return "fused"


seconds = time.perf_counter() - began
after = "torch._dynamo" in sys.modules, "sympy" in sys.modules
print(f"torch {torch.__version__}: import torch: torch._dynamo loaded: {before}")
print(f"  + {sys.argv[1]}: torch._dynamo loaded: {after[0]}, sympy loaded: {after[1]}, {seconds:.1f} s")
assert not before, "changed"
assert after == (True, True), "changed"
PYTHON
done
