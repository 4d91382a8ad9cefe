"""Run text towers and the blocks of image towers with OpenVINO, on CPUs.

Embedding and read-out differ by tower and method and take 1 % of the time, so the embedding stays
in PyTorch. Everything after it is one graph, which returns a method's tokens or, for a method that
reads more than the tower's own blocks (a text bank, a second encoder, regions), the outputs and
projections of the blocks that it reads.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache, partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from itaclip.common.logs import quiet
from itaclip.core.choices import fastest
from itaclip.core.clip.blocks import Projections
from itaclip.core.clip.encoded import EncodedWindows, Needs
from itaclip.core.clip.fingerprint import fingerprint, structure
from itaclip.core.clip.towers import Grid, PatchProjection, Tower
from itaclip.core.engines.cache import MODEL, converted, described
from itaclip.core.engines.weights import KeptWeights
from itaclip.errors import ItaclipError, install_extra

_LOG = logging.getLogger(__name__)

ENGINES = ("torch", "openvino", "auto")
OPENVINO_DTYPES = ("fp32", "bf16", "int8")

MOST_GRIDS = 8
"""Maximum number of token grids to convert a tower for. Images that are not cut into windows come in
any size, and a conversion takes as long as dozens of images."""

_FORMAT = 2  # of conversions; incremented when they change within a version

_STREAMS = (1, 2, 4)
_VIEWS = 4  # on which streams are measured
_GAIN = 0.05  # more streams have to be faster by this share: batches that they cannot divide evenly lose
_TRIED = 1024  # side of the matrices that are multiplied for comparison: 0.2 s in all
_BESIDE_INT8 = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PARTS = ("query", "key", "value", "normed")


class ReadsBlocks(Protocol):
    """The part of `itaclip.core.methods.Method` that a graph is built from."""

    @property
    def patch_projection(self) -> PatchProjection | None: ...

    def needs(self, depth: int) -> Needs: ...

    def tokens(self, encoded: EncodedWindows, window: Any) -> Tensor: ...


def has_openvino(dtype: str = "fp32") -> bool:
    """Tell whether the packages for a precision are installed."""
    return all(find_spec(name) for name in (("openvino", "nncf") if dtype == "int8" else ("openvino",)))


def require_openvino(dtype: str) -> None:
    """Check that the packages for a precision are installed.

    Raises:
        ItaclipError: they are not.
    """
    if not has_openvino(dtype):
        raise ItaclipError(
            f"engine = 'openvino', dtype = {dtype!r}: OpenVINO is not installed; {install_extra('openvino')}."
        )


class OpenVINOBlocks:
    """The blocks of an image tower, converted and compiled on first use for each token grid.

    Converted models are kept on disk (`itaclip.core.engines.cache`). Threads may share an instance.

    Args:
        tower: the image tower, with weights in float32.
        dtype: "fp32", "bf16" or "int8"; with int8, all but the matrix products run in
            bf16 or float32, whichever the CPU multiplies faster.
        calibration: for int8, a name for the images on which ranges are measured, and a function that returns
            batches of their embedded windows for a grid, B x (P + N) x D each.

    Raises:
        ItaclipError: OpenVINO, or NNCF for int8, is not installed.
    """

    def __init__(
        self, tower: Tower, dtype: str, calibration: tuple[str, Callable[[Grid], list[Tensor]]] | None = None
    ) -> None:
        require_openvino(dtype)
        self.tower, self._calibration = tower, calibration
        self._beside = dtype if dtype != "int8" else "bf16" if _bf16_pays() else "fp32"
        self._graphs: dict[tuple[ReadsBlocks | Needs, Grid], _Graph] = {}
        self._lock = threading.Lock()
        self._full = False
        self._weights = fingerprint(tower.visual.named_parameters())
        self._kept = KeptWeights(tower.visual, self._weights)

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenVINOBlocks:
        return self  # compiled models cannot be copied, and never change

    def takes(self, grid: Grid) -> bool:
        """Tell whether a grid is converted or still can be; log the first that cannot."""
        grids = {known for _, known in self._graphs}
        if grid in grids or len(grids) < MOST_GRIDS:
            return True
        if not self._full:
            self._full = True
            _LOG.warning("More than %d window sizes: further sizes run in PyTorch; set slide_crop.", MOST_GRIDS)
        return False

    def tokens(self, x: Tensor, grid: Grid, method: ReadsBlocks) -> Tensor:
        """Run a method that reads only the blocks on embedded tokens.

        Args:
            x: B x (P + N) x D float32.
            grid: rows and columns of the N patches.
            method: a method that ignores the window.

        Returns:
            B x r x c x E float32.
        """
        graph = self._graph(method, grid, x, lambda: _Tokens(self.tower, grid, method), ("tokens",))
        return graph(x)["tokens"].unflatten(1, grid)

    def encode(self, x: Tensor, grid: Grid, needs: Needs) -> EncodedWindows:
        """Compute the result of `EncodedWindows.run` for the same arguments."""
        names = _names(needs)
        if not names:
            return EncodedWindows.run(self.tower, x, grid, needs)
        found = self._graph(needs, grid, x, lambda: _Blocks(self.tower, grid, needs), names)(x)
        outputs = {number: found[f"output{number}"] for number in needs.outputs if number}
        projections = {n: Projections(*(found[f"{part}{n}"] for part in _PARTS)) for n in needs.projections}
        return EncodedWindows(self.tower, grid, ({0: x} if 0 in needs.outputs else {}) | outputs, projections)

    def _graph(
        self, what: ReadsBlocks | Needs, grid: Grid, x: Tensor, module: Callable[[], nn.Module], names: Sequence[str]
    ) -> _Graph:
        with self._lock:
            if (what, grid) not in self._graphs:
                key = _key(self._weights, self.tower.visual) | {"what": described(what), "grid": grid}

                def exact() -> Path:
                    return converted(key, lambda folder: _write(module(), (x,), ([-1, *x.shape[1:]],), names, folder))

                if self._calibration is None:
                    path = exact()
                else:
                    name, windows = self._calibration
                    rounded = key | {"int8": name, "nncf": version("nncf")}
                    path = converted(rounded, lambda folder: _write_int8(exact(), windows(grid), folder))
                self._kept.release()
                self._graphs[what, grid] = _Graph(path, self._beside, self._streams(path, x))
                self._kept.release()
            return self._graphs[what, grid]

    def _streams(self, path: Path, x: Tensor) -> int:
        """Find into how many streams a pass is best divided: each has its share of views and threads."""
        counts = [count for count in _STREAMS if count <= torch.get_num_threads()]
        if len(counts) == 1:
            return 1
        pixels, held = x[:1].expand(_VIEWS, -1, -1), dict[int, _Graph]()

        def run(count: int) -> None:
            if count not in held:
                held.clear()  # before the next takes memory
                held[count] = _Graph(path, self._beside, count)
            held[count](pixels)

        about = {"model": self._weights[:8], "graph": path.name[:8], "beside": self._beside}
        try:
            return int(fastest("streams", about, {str(count): partial(run, count) for count in counts}, gain=_GAIN))
        finally:
            held.clear()


class OpenVINOText:
    """A text tower in float32, for texts of any number and length.

    Args:
        tower: ``tower(tokens, ends)`` returns T x E for T x M tokens and T positions.

    Attributes:
        fingerprint: of the tower's weights.

    Raises:
        ItaclipError: OpenVINO is not installed.
    """

    def __init__(self, tower: nn.Module) -> None:
        require_openvino("fp32")
        self.tower = tower
        self._graph: _Graph | None = None
        self.fingerprint = fingerprint(tower.named_parameters())
        self._kept = KeptWeights(tower, self.fingerprint)

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenVINOText:
        return self

    def release(self) -> None:
        """Free the memory of the compiled model; the next text compiles it again, in about a second."""
        if self._graph is not None:  # otherwise nothing was read since the last time
            self._graph = None
            self._kept.release()

    def __call__(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """Encode T x M int64 tokens, given the T positions of their ends: T x E float32."""
        if self._graph is None:
            key = _key(self.fingerprint, self.tower) | {"what": "text"}
            example, shapes = (tokens, ends), ([-1, -1], [-1])
            path = converted(key, lambda folder: _write(self.tower, example, shapes, ("features",), folder))
            self._kept.release()
            self._graph = _Graph(path, "fp32", streams=1)
        return self._graph(tokens, ends)["features"]


class _Graph:
    """A compiled model that maps tensors to tensors by name.

    Args:
        folder: the converted model.
        beside: "fp32" or "bf16", the precision of everything that the model does not round itself.
        streams: number of parts of a batch that run side by side.
    """

    def __init__(self, folder: Path, beside: str, streams: int) -> None:
        core = _core()
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if beside == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # several processes would be pinned to the same cores
        }
        self._compiled = core.compile_model(core.read_model(folder / MODEL), "CPU", options)
        self._places = {name: i for i, output in enumerate(self._compiled.outputs) for name in output.names}
        self._requests = [self._compiled.create_infer_request() for _ in range(streams)]
        self._lock = threading.Lock()

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Run on B x ... tensors; returns B x ... tensors by name."""
        size = -(-len(inputs[0]) // len(self._requests))
        parts = zip(*(tensor.contiguous().split(size) for tensor in inputs), strict=True)
        with self._lock:
            started = list(zip(self._requests, parts, strict=False))  # a small batch has fewer parts
            for request, part in started:
                request.start_async([tensor.numpy() for tensor in part], share_inputs=True)
            for request, _ in started:
                request.wait()
            return {
                name: torch.cat([torch.from_numpy(request.get_output_tensor(i).data) for request, _ in started])
                for name, i in self._places.items()
            }


class _Tokens(nn.Module):
    """Map embedded tokens to a method's tokens on one grid: B x (P + N) x D to B x N x E."""

    def __init__(self, tower: Tower, grid: Grid, method: ReadsBlocks) -> None:
        super().__init__()
        self.visual, self.tower, self.grid, self.method = tower.visual, tower, grid, method

    def forward(self, x: Tensor) -> Tensor:
        encoded = EncodedWindows.run(self.tower, x, self.grid, self.method.needs(self.tower.depth))
        return self.method.tokens(encoded.projected_as(self.method.patch_projection or "values"), None).flatten(1, 2)


class _Blocks(nn.Module):
    """Map embedded tokens to the outputs and projections of blocks, in the order of `_names`."""

    def __init__(self, tower: Tower, grid: Grid, needs: Needs) -> None:
        super().__init__()
        self.visual, self.tower, self.grid, self.needs = tower.visual, tower, grid, needs

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        encoded = EncodedWindows.run(self.tower, x, self.grid, self.needs)
        outputs = [encoded.output(number) for number in sorted(self.needs.outputs) if number]
        projected = [encoded.projections(number) for number in sorted(self.needs.projections)]
        return (*outputs, *(getattr(p, part) for p in projected for part in _PARTS))


def _names(needs: Needs) -> list[str]:
    outputs = [f"output{number}" for number in sorted(needs.outputs) if number]
    return outputs + [f"{part}{number}" for number in sorted(needs.projections) for part in _PARTS]


def _key(weights: str, module: nn.Module) -> dict[str, Any]:
    """Collect what every conversion depends on: weights, structure, versions."""
    versions = {name: version(name) for name in ("itaclip", "openvino", "torch")}
    return {"weights": weights, "structure": f"{module!r} {structure(module)}", "versions": versions, "format": _FORMAT}


def _write(
    module: nn.Module, example: tuple[Tensor, ...], shapes: Sequence[list[int]], names: Sequence[str], folder: Path
) -> None:
    """Convert a module by tracing it on an example; -1 stands for any size."""
    openvino = _without_telemetry("openvino")
    _LOG.info("Converting the model for OpenVINO; this happens once.")
    with torch.no_grad(), _without_messages():
        two = tuple(tensor[:1].expand(2, *tensor.shape[1:]) for tensor in example)  # size 1 would become a constant
        module.eval()(*two)  # fills all caches before the graph is recorded
        model = openvino.convert_model(module, example_input=two if len(two) > 1 else two[0])
    model.reshape({given: openvino.PartialShape(shape) for given, shape in zip(model.inputs, shapes, strict=True)})
    for output, name in zip(model.outputs, names, strict=True):
        output.get_tensor().set_names({name})
    openvino.save_model(model, folder / MODEL, compress_to_fp16=False)


def _write_int8(exact: Path, windows: Sequence[Tensor], folder: Path) -> None:
    """Quantise the matrix products of a converted model to 8 bits with NNCF's post-training quantisation."""
    openvino, nncf = _without_telemetry("openvino"), _without_telemetry("nncf")
    _LOG.info("Quantising the model to 8 bits on %d batches of windows; this happens once.", len(windows))
    with _without_messages():
        rounded = nncf.quantize(
            _core().read_model(exact / MODEL),
            nncf.Dataset([x.numpy() for x in windows]),
            subset_size=len(windows),
            model_type=nncf.ModelType.TRANSFORMER,
            # SmoothQuant at half strength: closest to float32 of all settings tried at this speed
            preset=nncf.QuantizationPreset.PERFORMANCE,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=0.5)
            ),
        )
    openvino.save_model(rounded, folder / MODEL, compress_to_fp16=False)


def _bf16_pays() -> bool:
    """Tell whether this CPU multiplies bfloat16 faster than float32; what int8 leaves unrounded follows it.

    Some have the instructions and run them at half the speed of float32, others at twice.
    """

    def multiply(dtype: torch.dtype) -> Tensor:
        factor = torch.ones(_TRIED, _TRIED, dtype=dtype)
        return factor @ factor

    ways = {name: partial(multiply, dtype) for name, dtype in _BESIDE_INT8.items()}
    return fastest("precision beside int8", {"side": _TRIED}, ways) == "bf16"


@lru_cache(maxsize=1)
def _core() -> Any:
    """Load OpenVINO's CPU plugin once; it is kept until the process ends.

    Loading gives the thread a signal stack large enough for AMX, and unloading restores the previous
    one. If several plugins are unloaded in the order in which they were loaded, the thread keeps a
    stack that no longer exists, and the next signal, such as the end of a child process, causes a
    segmentation fault.
    """
    core = _without_telemetry("openvino").Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin before NNCF loads and unloads its own
    core.set_property({"ENABLE_MMAP": False})  # a mapped file stays in memory beside the weights packed from it
    return core


def _without_telemetry(name: str) -> Any:
    """Import OpenVINO or NNCF without `openvino_telemetry`, which reports their use over the network."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module(name)


@contextmanager
def _without_messages() -> Iterator[None]:
    """Suppress the tracer's warnings and NNCF's messages; redirect NNCF's progress to standard error."""
    with quiet("nncf"), warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield
