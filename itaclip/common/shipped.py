"""The configurations that come with the package, found by name in a checkout and in an installation."""

from __future__ import annotations

import ast
from pathlib import Path

from itaclip.errors import ItaclipError, did_you_mean
from itaclip.files import local_path

_PACKAGE = Path(__file__).parents[1]


def configuration_folder() -> Path:
    """Find the folder with configurations and class files; auxiliary texts are in ``../llm_texts``.

    A checkout has them at its top. In a wheel they are inside the package.
    """
    packed = _PACKAGE / "_data/configs"
    return packed if packed.is_dir() else _PACKAGE.parent / "configs"


def configurations() -> dict[str, Path]:
    """List the shipped configurations by name: ``voc``, ... for evaluation, ``zero_shot/clip_rc_demo``, ... for
    training."""
    folder = configuration_folder()
    found = {path.stem.removeprefix("cfg_"): path for path in sorted(folder.glob("cfg_*.py"))}
    trained = [path for path in sorted(folder.glob("zero_shot/*.py")) if not path.stem.startswith(("base", "data_"))]
    return found | {f"zero_shot/{path.stem}": path for path in trained}


def find_configuration(name: str | Path) -> Path:
    """Find the file of a configuration.

    Args:
        name: a file, such as ``my/cfg_own.py``, or the name of a shipped configuration, such
            as ``voc``. A file goes first.

    Raises:
        ItaclipError: neither.
    """
    path = local_path(name)
    if path.is_file():
        return path
    known = configurations()
    if path.as_posix() in known:
        return known[path.as_posix()]
    hint = did_you_mean(path.stem.removeprefix("cfg_"), known)
    raise ItaclipError(f"{name}: no such configuration file.{hint} `itaclip eval --list` shows the shipped ones.")


def complete_configuration(prefix: str, **_: object) -> list[str]:
    """List what a shell may complete a configuration's name to, as argcomplete asks."""
    from argcomplete.completers import FilesCompleter

    return [*configurations(), *FilesCompleter(("py",))(prefix)]


def summary(path: Path) -> str:
    """Read the first line of a configuration's docstring; the file is not run."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]
