"""Models that are not relatives of CLIP: names, where they are found, and what loads each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from itaclip.core.clip.download import local_folder, weight_folders
from itaclip.core.clip.repositories import repository
from itaclip.core.clip.transformers_config import CONFIG, read_object
from itaclip.errors import ItaclipError

TIPSV2, RADIO, DINOTXT = "tipsv2", "radio", "dinotxt-l16"

NAMES: Mapping[str, str] = {
    "tipsv2-b14": "google/tipsv2-b14",
    "tipsv2-l14": "google/tipsv2-l14",
    "tipsv2-so400m14": "google/tipsv2-so400m14",
    "tipsv2-g14": "google/tipsv2-g14",
    "c-radiov3-b": "nvidia/C-RADIOv3-B",
    "c-radiov3-l": "nvidia/C-RADIOv3-L",
    "c-radiov3-h": "nvidia/C-RADIOv3-H",
    "c-radiov3-g": "nvidia/C-RADIOv3-g",
    "c-radiov4-so400m": "nvidia/C-RADIOv4-SO400M",
    "c-radiov4-h": "nvidia/C-RADIOv4-H",
}
"""Repositories of the Hugging Face hub by name."""

_KINDS = (TIPSV2, RADIO)
_NVIDIAS = "RADIOModel"  # in the configurations of NVIDIA's repositories


def named(model_name: str) -> bool:
    """Whether a name, or the part before a path (``NAME:PATH``), is one of `NAMES`."""
    return model_name.partition(":")[0].lower() in (*NAMES, DINOTXT)


def kind_of(path: Path) -> str:
    """Tell the family of a folder, or of a file by the configuration beside it; empty if it is none of these."""
    config = (path if path.is_dir() else path.parent) / CONFIG
    try:
        content = read_object(config) if config.is_file() else {}
    except ItaclipError:  # whoever needs the file reports it
        return ""
    kind = RADIO if _NVIDIAS in (content.get("architectures") or ()) else content.get("model_type")
    return kind if kind in _KINDS else ""


def load_named(model_name: str, pretrained: str | None, quick_gelu: bool | None) -> Any:
    """Load a model of `NAMES`; ``NAME:PATH``, or `pretrained`, names a folder in the place of the hub's.

    Raises:
        ItaclipError: no such folder, the weights are nowhere, another family, or as for `load`.
    """
    name, _, given = model_name.partition(":")
    name = name.lower()
    if given and pretrained:
        raise ItaclipError(f"{model_name}: names a folder, and pretrained = {pretrained!r} another; drop one.")
    if name == DINOTXT:
        held = local_folder(DINOTXT) or weight_folders()[-1] / DINOTXT
        return _dinotxt(Path(given or pretrained or held).expanduser(), quick_gelu)
    path = Path(given or pretrained or "").expanduser() if given or pretrained else repository(NAMES[name])
    expected = TIPSV2 if name.startswith(TIPSV2) else RADIO
    if not path.exists():
        raise ItaclipError(f"{path}: no such folder; {name} is read from a folder with {CONFIG} and weights.")
    if expected == RADIO and path.is_file() and not kind_of(path):  # a checkpoint for torch.hub
        return load(path, quick_gelu, RADIO)
    if kind_of(path) != expected:
        raise ItaclipError(f"{path}: not a folder of {name}: expected {CONFIG} with the model type {expected!r}.")
    return load(path, quick_gelu)


def load(path: Path, quick_gelu: bool | None = None, kind: str = "") -> Any:
    """Load a folder, or the folder of a file, of one of the families; `kind` names it where no configuration does.

    Raises:
        ItaclipError: missing or damaged files, weights that do not fit, or an activation, which none has to choose.
    """
    folder = path if path.is_dir() else path.parent
    if quick_gelu is not None:
        raise ItaclipError(f"quick_gelu = {quick_gelu}: {folder / CONFIG} states the activation; leave it out.")
    if (kind or kind_of(path)) == RADIO:
        from itaclip.core.clip.radio import load_radio

        return load_radio(path)
    from itaclip.core.clip.tipsv2 import load_tipsv2  # here, because it imports transformers

    return load_tipsv2(folder)


def _dinotxt(folder: Path, quick_gelu: bool | None) -> Any:
    if quick_gelu is not None:
        raise ItaclipError(f"quick_gelu = {quick_gelu}: {DINOTXT} has GELU; leave it out.")
    from itaclip.core.clip.dinotxt import load_dinotxt  # here, because it imports timm

    return load_dinotxt(folder)
