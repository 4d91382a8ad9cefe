"""Converted models on disk: created once, and loaded on every later start."""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import shutil
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from filelock import FileLock

from itaclip.files import atomic_folder, cache_folder, write_json

_LOG = logging.getLogger(__name__)

MODEL, _KEY = "model.xml", "key.json"
_THREADS = 4
_PART = 1 << 20  # bytes; threads keep what they freed, so parts are small


def engine_folder() -> Path:
    """Return the folder ``engines`` in ``$ITACLIP_CACHE_DIR`` or ``~/.cache/itaclip``."""
    return cache_folder() / "engines"


def clear_engines() -> int:
    """Delete all converted models and saved choices; returns the number of bytes freed."""
    folder = engine_folder()
    freed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    shutil.rmtree(folder, ignore_errors=True)
    return freed


def converted(key: dict[str, Any], convert: Callable[[Path], None]) -> Path:
    """Get the folder of a converted model, which `convert` writes on first use.

    Any number of processes may call this at once: one converts, the others wait. A damaged model
    is converted again. If the cache cannot be written, the model goes to a temporary folder.

    Args:
        key: everything that the model depends on, as JSON values.
        convert: writes `MODEL` and its companion files into a folder.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:40]
    folder = engine_folder() / name
    if _is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not _is_whole(folder):
                shutil.rmtree(folder, ignore_errors=True)
                with atomic_folder(folder, _KEY) as partial:
                    _convert(partial, key, convert)
        return folder
    except OSError as error:
        _LOG.warning("The converted model is not kept for the next start: %s", error)
    folder = Path(tempfile.mkdtemp(prefix="itaclip-engine-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # until then, OpenVINO reads from it
    _convert(folder, key, convert)
    return folder


def described(value: Any) -> str:
    """Describe a value as text, equal in every process; functions by their code and closure."""
    if isinstance(value, FunctionType):
        code = value.__code__
        constants = [constant for constant in code.co_consts if isinstance(constant, (int, float, str))]
        digest = hashlib.sha256(f"{code.co_code.hex()} {code.co_names} {constants}".encode()).hexdigest()[:16]
        enclosed = [described(cell.cell_contents) for cell in value.__closure__ or ()]
        return f"{value.__module__}.{value.__qualname__} {digest} {enclosed}"
    if is_dataclass(value):
        return f"{type(value).__name__} { {f.name: described(getattr(value, f.name)) for f in fields(value)} }"
    if isinstance(value, (tuple, list)):
        return str([described(entry) for entry in value])
    if isinstance(value, frozenset):
        return str(sorted(value))
    return repr(value)


def _convert(folder: Path, key: dict[str, Any], convert: Callable[[Path], None]) -> None:
    convert(folder)
    write_json(folder / _KEY, {"key": key, "files": _checksums(folder)})


def _is_whole(folder: Path) -> bool:
    """Tell whether a folder contains an intact model; log a damaged one."""
    try:
        stated = json.loads((folder / _KEY).read_text(encoding="utf-8"))["files"]
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, KeyError, TypeError):
        stated = None
    if stated == _checksums(folder):
        return True
    _LOG.warning("%s: damaged; the model is converted again.", folder)
    return False


def _checksums(folder: Path) -> dict[str, list[int]]:
    """Compute the CRC-32 of the parts of every file except the key; threads share the parts."""
    files = sorted(path for path in folder.iterdir() if path.name != _KEY)
    parts = [(path, at) for path in files for at in range(0, path.stat().st_size, _PART)]
    found: dict[str, list[int]] = {path.name: [] for path in files}
    with ThreadPoolExecutor(_THREADS) as pool:
        for (path, _), value in zip(parts, pool.map(_checksum, parts), strict=True):
            found[path.name].append(value)
    return found


def _checksum(part: tuple[Path, int]) -> int:
    path, at = part
    with path.open("rb") as file:
        file.seek(at)
        return zlib.crc32(file.read(_PART))
