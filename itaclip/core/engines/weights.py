"""Weights on disk beside the converted models, so that they do not stand in memory twice."""

from __future__ import annotations

import ctypes
import logging
import sys
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from itaclip.core.engines.cache import converted

_LOG = logging.getLogger(__name__)
_FILE = "weights.safetensors"


class KeptWeights:
    """The parameters of a module in a file that is mapped into memory: what nobody reads takes none.

    An engine has weights of its own. PyTorch reads the module's only to convert it, for embeddings,
    and for windows of a size that is not converted.

    Args:
        module: frozen, on the CPU. Its parameters are replaced by equal ones that lie in the file.
        identity: fingerprint of the parameters.
    """

    def __init__(self, module: nn.Module, identity: str) -> None:
        self._module = module
        self._path: Path | None = None
        try:
            self._path = converted({"parameters": identity}, self._write) / _FILE
        except (OSError, SafetensorError) as error:
            _LOG.warning("The weights stay in memory, because they cannot be kept on disk: %s", error)
        self.release()

    def release(self) -> None:
        """Forget what was read of the file; it is read again where it is needed."""
        if self._path is None:
            return
        try:
            with safe_open(self._path, framework="pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):  # cleared meanwhile; what is mapped stays readable
            return
        self._module.load_state_dict(state, strict=False, assign=True)
        _return_freed_memory()

    def _write(self, folder: Path) -> None:
        named = self._module.named_parameters(remove_duplicate=False)
        save_file({name: weight.detach().clone() for name, weight in named}, folder / _FILE)


def _return_freed_memory() -> None:
    """Give freed memory back to the system; glibc keeps hundreds of MiB of what a conversion freed."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # not with other libraries of C
            ctypes.CDLL(None).malloc_trim(0)
