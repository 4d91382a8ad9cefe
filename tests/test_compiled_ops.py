"""MMSegmentation can be imported with mmcv-lite; a full mmcv is left alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from itaclip.research.openmmlab.compiled_ops import ensure_mmcv_ops_import

LITE = "import importlib.util as u; import sys; sys.exit(0 if u.find_spec('mmcv._ext') is None else 3)"


def test_missing_operators_say_what_to_install() -> None:
    ensure_mmcv_ops_import()
    import mmcv.ops

    if subprocess.run([sys.executable, "-c", LITE], check=False).returncode == 3:
        pytest.skip("a full mmcv is installed: its operators are its own")
    with pytest.raises(RuntimeError, match="'sigmoid_focal_loss_forward' was called, but mmcv-lite"):
        mmcv.ops.focal_loss.ext_module.sigmoid_focal_loss_forward(1)


def test_an_existing_extension_is_left_alone() -> None:
    code = (
        "import sys, types\n"
        "full = types.ModuleType('mmcv._ext'); sys.modules['mmcv._ext'] = full\n"
        "from itaclip.research.openmmlab.compiled_ops import ensure_mmcv_ops_import as ensure\n"
        "ensure(); assert sys.modules['mmcv._ext'] is full\n"
    )
    # load only this module: the package's __init__ would also import mmseg
    code = code.replace(
        "from itaclip.research.openmmlab.compiled_ops import ensure_mmcv_ops_import as ensure\n",
        "import importlib.util, pathlib, itaclip\n"
        "path = pathlib.Path(itaclip.__file__).parent / 'research/openmmlab/compiled_ops.py'\n"
        "spec = importlib.util.spec_from_file_location('ops', path)\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "ensure = module.ensure_mmcv_ops_import\n",
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
