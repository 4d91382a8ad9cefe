"""Write CLIP's image tower with a method as ONNX: a start for TensorRT and other runtimes.

    python tools/export_onnx.py --model ViT-B/16 --method itaclip --out itaclip.onnx

The graph takes ``pixels`` (B x 3 x h x w float32, RGB, normalised as its metadata says; any B) and
returns ``features`` (B x rows x columns x E): a feature for each patch in the space of the text
bank, before normalisation. Windows, views, text bank, stitching and refinement stay outside. The
file is run with onnxruntime and compared with PyTorch before it takes its name.
Needs the extra "onnx": pip install '.[onnx]' in a checkout.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from itaclip.common.console import make_console, run
from itaclip.core.clip.loading import load_clip
from itaclip.core.clip.towers import MEAN, STD
from itaclip.core.encoder import DenseEncoder
from itaclip.core.methods import METHODS, get_method
from itaclip.errors import ItaclipError, install_extra
from itaclip.files import atomic_path, refuse_arguments

TOLERANCE = 1e-4  # of the largest absolute feature


class Features(nn.Module):
    """The encoder with one input."""

    def __init__(self, encoder: DenseEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        """Turn B x 3 x h x w into B x rows x columns x E."""
        return self.encoder(pixels)


@torch.no_grad()
def export(encoder: DenseEncoder, size: tuple[int, int], out: Path, facts: dict[str, str]) -> float:
    """Write the file; returns the largest difference of two windows between onnxruntime and PyTorch.

    Raises:
        ItaclipError: packages are missing, a method that is no single graph, or another result.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]
    if missing:
        raise ItaclipError(f"{', '.join(missing)}: not installed; {install_extra('onnx')}.")
    if not encoder.method.reads_blocks_alone:
        able = ", ".join(name for name, method in METHODS.items() if method.reads_blocks_alone)
        raise ItaclipError(f"this method cannot be exported as a single graph; expected one of {able}.")
    import onnx
    import onnxruntime

    model = Features(encoder).eval()
    pixels = torch.randn(3, 3, *size)
    expected = model(pixels)  # first, so that nothing that is kept for later is made while the graph is recorded
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        model, (pixels[:2],), input_names=["pixels"], output_names=["features"], dynamo=True, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        program.save(Path(folder) / "model.onnx", external_data=False)
        graph = onnx.load(Path(folder) / "model.onnx")
    onnx.helper.set_model_props(graph, facts)
    with atomic_path(out) as partial:
        onnx.save(graph, partial)
        session = onnxruntime.InferenceSession(partial, providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])
        difference = float((found - expected).abs().max())
        if not difference <= TOLERANCE * float(expected.abs().max()):
            raise ItaclipError(f"{out}: not written, for onnxruntime's features differ by {difference:.1e}.")
    return difference


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B/16", help="CLIP by name, or a weight file (%(default)s)")
    parser.add_argument("--method", default="itaclip", help="how patch features are computed (%(default)s)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of a window (default: the model's)")
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file")
    args = parser.parse_args()
    refuse_arguments("out", vars(args))
    clip = load_clip(args.model)
    depth = DenseEncoder(clip.visual, METHODS["clip"]).depth
    encoder = DenseEncoder(clip.visual, get_method(args.method, blocks=depth))
    size = (args.size[0], args.size[1]) if args.size else (encoder.image_size, encoder.image_size)
    facts = {"model": args.model, "method": args.method, "mean": str(MEAN), "std": str(STD), "values": "RGB, 0 to 255"}
    difference = export(encoder, size, args.out, facts)
    make_console().print(
        f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB; features differ by at most {difference:.1e}", markup=False
    )
    return 0


if __name__ == "__main__":
    run(main)
