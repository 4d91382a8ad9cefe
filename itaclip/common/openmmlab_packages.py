"""MMSegmentation, MMEngine and mmcv: whether they are installed, by which packages, and what is wrong with them.

Two families of packages provide them: OpenMMLab's own, which are no longer maintained, and the onedl- packages, a
maintained fork. Both install into the same folders (mmseg, mmengine, mmcv). pip does not notice: the later package
overwrites files of the earlier one, and removing either removes files of both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path

from itaclip.errors import ItaclipError

MODULES = ("mmseg", "mmengine", "mmcv")

WAYS = (
    "Install OpenMMLab's packages (pip install '.[openmmlab]' in a checkout) or the maintained fork "
    "(pip install onedl-mmsegmentation onedl-mmcv); docs/install.md lists what was tested together."
)

_FAMILY = re.compile(r"(^|-)(mmseg(mentation)?|mmengine|mmcv)(-|$)")


class OpenMMLabError(ItaclipError, ImportError):
    """MMSegmentation, MMEngine or mmcv is missing or damaged; the message says what to install or remove."""


@dataclass(frozen=True)
class Provider:
    """An installed package that owns the folder of a module.

    Attributes:
        name: name of the package, such as ``onedl-mmsegmentation``.
        version: its version.
        missing: number of its files that are no longer there.
    """

    name: str
    version: str
    missing: int

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def providers() -> dict[str, list[Provider]]:
    """Find for each of `MODULES` the installed packages that own its folder, by name; several mean a conflict."""
    found: dict[str, dict[str, Provider]] = {module: {} for module in MODULES}
    imported = {module: _imported(module) for module in MODULES}
    for package in distributions():
        name = re.sub(r"[-_.]+", "-", package.metadata["Name"] or "").lower()
        for module in MODULES if _FAMILY.search(name) else ():
            files = _files(package, module)
            if files and name not in found[module] and imported[module] in (None, _folder(package, module)):
                missing = sum(not file.is_file() for file in files)
                found[module][name] = Provider(name, package.version, missing)
    return {module: [owners[name] for name in sorted(owners)] for module, owners in found.items()}


def conflicts(found: Mapping[str, Sequence[Provider]] | None = None) -> list[str]:
    """Describe what is wrong with the installed packages and the way out, one message per module; empty if nothing is.

    Args:
        found: what `providers` returned; None calls it.
    """
    messages = []
    for module, owners in (providers() if found is None else found).items():
        names = " and ".join(map(str, owners))
        if len(owners) > 1:
            messages.append(
                f"{names} share the folder {module}: files of one lie over files of the other. Remove all "
                f"(pip uninstall {' '.join(owner.name for owner in owners)}), then install one of them again."
            )
        elif owners and owners[0].missing:
            messages.append(
                f"{names} lacks {owners[0].missing} of its files in the folder {module}, as happens when a package "
                "that shares the folder is removed. Install it again: "
                f"pip install --force-reinstall --no-deps {owners[0].name}=={owners[0].version}."
            )
    return messages


def report() -> dict[str, str]:
    """Report for `itaclip env` which package provides each module, and what is wrong."""
    found = providers()
    lines = {module: " and ".join(map(str, owners)) or "not installed" for module, owners in found.items()}
    wrong = conflicts(found)
    return lines | {"conflict": " ".join(wrong)} if wrong else lines


@contextmanager
def readable_import_errors(what: str, *modules: str) -> Iterator[None]:
    """Turn errors of imports in the block into one that says what to install or remove.

    Args:
        what: names what needs the modules, for the message.
        modules: the modules that the block imports, of `MODULES`; all by default.

    Raises:
        OpenMMLabError: one of the modules is missing, or its import fails.
    """
    absent = [module for module in modules or MODULES if find_spec(module) is None]
    if absent:
        raise OpenMMLabError(f"{what} needs {', '.join(absent)}: not installed. {_way_out(providers())}")
    try:
        yield
    except OpenMMLabError:
        raise
    except (ImportError, AttributeError, AssertionError, TypeError) as error:  # what mixed versions raise
        found = providers()
        have = ", ".join(str(owner) for owners in found.values() for owner in owners)
        raise OpenMMLabError(
            f"{what} cannot be imported ({type(error).__name__}: {error}). Installed: {have}. {_way_out(found)}"
        ) from error


def _way_out(found: Mapping[str, Sequence[Provider]]) -> str:
    return " ".join(conflicts(found)) or WAYS


def _imported(module: str) -> Path | None:
    """Find the folder that an import takes, None if there is none; folders later on the path do not matter."""
    spec = find_spec(module)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]).resolve() if places else None


def _folder(package: Distribution, module: str) -> Path:
    return Path(str(package.locate_file(module))).resolve()


def _files(package: Distribution, module: str) -> list[Path]:
    """List the Python files of a package in the folder of a module."""
    files = (file for file in package.files or () if file.parts[0] == module and file.suffix == ".py")
    return [Path(str(package.locate_file(file))) for file in files]
