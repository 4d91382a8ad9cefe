"""Saved segmenters: a folder with weights and text features as safetensors, everything else as JSON.

FOLDER/itaclip.json                settings, sizes, classes and their definitions
FOLDER/model.safetensors           CLIP, both towers, float32
FOLDER/vocabulary.safetensors      the text bank, if there are classes
FOLDER/second_encoder.*            a copy of the second encoder's file, if the method uses one
FOLDER/class_prompts.json          a copy of the class-biased prompts, if there are any
FOLDER/calibration                 copies of the images that int8 is calibrated on, unless they are the demo's
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from itaclip.common.images import ReadOptions
from itaclip.core.clip.fingerprint import fingerprint
from itaclip.core.clip.names import DEMO
from itaclip.core.clip.openai import CLIP
from itaclip.core.clip.weights import metadata_of, read_safetensors
from itaclip.core.engines.calibration import CALIBRATION_IMAGES, images_of
from itaclip.core.methods import METHODS
from itaclip.core.settings import Settings, checked_names
from itaclip.core.text import TextBank, parse_class_names
from itaclip.errors import ItaclipError
from itaclip.files import atomic_path, local_path, write_json
from itaclip.vocabulary import Vocabulary

DESCRIPTION, MODEL, VOCABULARY = "itaclip.json", "model.safetensors", "vocabulary.safetensors"
CALIBRATION = "calibration"
CLASS_PROMPTS = "class_prompts.json"

FORMAT = 1
"""Version of the layout. A reader rejects versions that it does not know."""

_WITHOUT_FILES = ("felzenszwalb", "slic", f"gram:{DEMO}", f"gram-fast:{DEMO}")  # sources of regions


@dataclass(frozen=True)
class SavedSegmenter:
    """The contents of a folder except the weights themselves.

    Attributes:
        settings: settings of the pipeline.
        short_side: images are resized so that their short side has this many pixels.
        read_options: how images are read.
        vocabulary: the classes, or None.
        weights: path of the weight file.
        fingerprint: fingerprint of the weights.
        preprocessing: "mean" and "std" per RGB channel, in [0, 1], that the model expects; empty for CLIP's own.
    """

    settings: Settings
    short_side: int
    read_options: ReadOptions
    vocabulary: Vocabulary | None
    weights: Path
    fingerprint: str
    preprocessing: Mapping[str, Sequence[float]]


def is_saved(folder: str | os.PathLike[str]) -> bool:
    """Tell whether a path is a folder written by `write_segmenter`."""
    return (Path(folder).expanduser() / DESCRIPTION).is_file()


def write_segmenter(
    folder: str | os.PathLike[str],
    clip: CLIP,
    settings: Settings,
    short_side: int,
    read_options: ReadOptions,
    vocabulary: Vocabulary | None,
) -> None:
    """Write a segmenter: every file atomically, the description last.

    Args:
        folder: created if missing.
        clip: the model, float32.
        settings: settings of the pipeline; the device is not saved, it belongs to the machine.
        short_side: images are resized so that their short side has this many pixels.
        read_options: how images are read.
        vocabulary: the classes, or None.

    Raises:
        ItaclipError: the folder cannot be written or holds such files of other origin, or the
            second encoder or the region source is not a file that can be copied.
    """
    root = local_path(folder, "Save to a folder first, then upload it.").expanduser()
    _check_free(root)
    plain = asdict(settings)
    del plain["device"]
    second = _second_encoder_file(settings)
    if settings.reads_regions and settings.regions not in _WITHOUT_FILES:
        raise ItaclipError(
            f"regions = {settings.regions!r} cannot be saved with the segmenter; use {', '.join(_WITHOUT_FILES)}."
        )
    description: dict[str, Any] = {
        "format": FORMAT, "itaclip": version("itaclip"), "short_side": short_side,
        "largest": read_options.largest, "value_range": read_options.value_range,
        "settings": plain, "weights": fingerprint(clip.named_parameters()), "vocabulary": None, "preprocessing": {},
    }  # fmt: skip
    mean, std = getattr(clip.visual, "image_mean", None), getattr(clip.visual, "image_std", None)
    if mean is not None and std is not None:
        description["preprocessing"] = {"mean": list(mean), "std": list(std)}
    state = {name: value.contiguous() for name, value in clip.named_parameters()}
    with atomic_path(root / MODEL) as partial:
        save_file(state, partial, metadata=metadata_of(clip))
    if vocabulary:
        features = vocabulary.bank.features.cpu().contiguous()
        with atomic_path(root / VOCABULARY) as partial:
            save_file({"features": features}, partial)
        description["vocabulary"] = {
            "classes": vocabulary.bank.class_names.synonyms, "background": vocabulary.background,
            "definitions": vocabulary.definitions, "colors": vocabulary.colors,
            "background_choice": vocabulary.background_choice,
            "features": fingerprint([("features", features)]),
        }  # fmt: skip
    if second:
        copied = root / f"second_encoder{second.suffix}"
        _copy(second, copied)
        named, at, _ = settings.second_encoder.rpartition("@")
        plain["second_encoder"] = f"{named}{at}{copied.name}"
    if settings.class_prompts:
        source = Path(settings.class_prompts).expanduser()
        if not source.is_file():
            raise ItaclipError(f"class_prompts = {settings.class_prompts!r}: no such file, so it cannot be saved.")
        _copy(source, root / CLASS_PROMPTS)
        plain["class_prompts"] = CLASS_PROMPTS
    if _calibrated(settings):
        _copy_calibration(settings.calibration, root / CALIBRATION)
        plain["calibration"] = CALIBRATION
    write_json(root / DESCRIPTION, description)


def _check_free(root: Path) -> None:
    """Check that a folder holds no files of other origin under the names of a saved segmenter, such as weights.

    Raises:
        ItaclipError: it does.
    """
    for path in () if is_saved(root) else (root / MODEL, root / VOCABULARY, root / DESCRIPTION, root / CALIBRATION):
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise ItaclipError(f"{path}: exists, but not from an earlier save; choose another folder.")


def read_segmenter(folder: str | os.PathLike[str], changes: Mapping[str, Any]) -> SavedSegmenter:
    """Read a folder written by `write_segmenter`. Executes nothing from it.

    Args:
        folder: the folder.
        changes: settings that replace the saved ones.

    Raises:
        ItaclipError: no such folder, a damaged or foreign file, or a bad setting; the message names the file.
    """
    root = local_path(folder, "Download the folder first.").expanduser()
    path = root / DESCRIPTION
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ItaclipError(f"{root}: not a saved segmenter; {DESCRIPTION} is missing.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ItaclipError(f"{path}: not valid JSON ({error}); save the segmenter again.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise ItaclipError(f"{path}: format {str(found)[:20]!r}; this version reads format {FORMAT}.")
    try:
        saved = dict(_typed(content, "settings", dict))
        if saved.get("across_windows") is False:  # earlier versions had this switch
            del saved["across_windows"]
        used = Settings(**checked_names(_from_json(saved)))
        if _reads_second_encoder(used) and used.second_encoder != DEMO:
            saved["second_encoder"] = _inside(root, used.second_encoder)
        if used.class_prompts:
            if used.class_prompts != CLASS_PROMPTS:
                raise ItaclipError(f"class_prompts = {used.class_prompts!r}: expected {CLASS_PROMPTS!r}.")
            saved["class_prompts"] = str(root.resolve() / CLASS_PROMPTS)
        if _calibrated(used):
            if used.calibration != CALIBRATION:
                raise ItaclipError(f"calibration = {used.calibration!r}: expected {CALIBRATION!r}, in this folder.")
            saved["calibration"] = str(root.resolve() / CALIBRATION)
        return SavedSegmenter(
            Settings(**_from_json(saved) | checked_names(changes)),
            _typed(content, "short_side", int),
            ReadOptions(_typed(content, "largest", int), content.get("value_range")),
            _read_vocabulary(root, content.get("vocabulary")),
            root / MODEL,
            _typed(content, "weights", str),
            _read_preprocessing(content.get("preprocessing", {})),
        )
    except ItaclipError as error:
        raise ItaclipError(f"{path}: {error}") from None


def _second_encoder_file(settings: Settings) -> Path | None:
    """Return the weight file of the second encoder; None if the method uses none or the bundled one."""
    if not _reads_second_encoder(settings) or settings.second_encoder == DEMO:
        return None
    path = Path(settings.second_encoder.rpartition("@")[2]).expanduser()
    if not path.is_file():
        raise ItaclipError(
            f"second_encoder = {settings.second_encoder!r} is not a file, so it cannot be saved with the segmenter; "
            "name its weight file, such as 'dino-vitb8@FILE'."
        )
    return path


def _reads_second_encoder(settings: Settings) -> bool:
    return bool(METHODS[settings.method].reads_features)


def _calibrated(settings: Settings) -> bool:
    """Tell whether int8 is calibrated on images of the user's own."""
    return settings.dtype in ("int8", "auto") and settings.calibration != DEMO


def _copy_calibration(source: str, folder: Path) -> None:
    """Copy the images that int8 is calibrated on; delete others left by an earlier save."""
    images = {path.name: path for path in images_of(source)[:CALIBRATION_IMAGES]}
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in images:
            path.unlink()
    for name, image in images.items():
        _copy(image, folder / name)


def _copy(source: Path, target: Path) -> None:
    """Copy a file atomically, unless the target is the file itself: a segmenter saved over its own folder."""
    if not target.exists() or not target.samefile(source):
        with atomic_path(target) as partial:
            shutil.copyfile(source, partial)


def _inside(folder: Path, second_encoder: str) -> str:
    """Return the setting with the path of the copy; reject a name that points outside the folder."""
    named, at, name = second_encoder.rpartition("@")
    if Path(name).name != name or not name.startswith("second_encoder"):
        raise ItaclipError(f"second_encoder = {second_encoder!r}: expected a file of this folder.")
    return f"{named}{at}{folder.resolve() / name}"


def _from_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Convert arguments for `Settings`: JSON has lists where `Settings` expects tuples."""
    found = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    options = settings.get("method_options", ())
    try:
        found["method_options"] = dict(options)
    except (TypeError, ValueError):
        raise ItaclipError("method_options: expected pairs of a name and a value.") from None
    return found


def _read_preprocessing(content: Any) -> Mapping[str, Sequence[float]]:
    usable = isinstance(content, dict) and all(
        isinstance(values, list) and len(values) == 3 and all(isinstance(v, float) and 0 <= v <= 1 for v in values)
        for values in content.values()
    )
    if not usable or set(content) not in (set(), {"mean", "std"}):
        raise ItaclipError(f"preprocessing = {str(content)[:60]!r}: expected mean and std of three channels each.")
    return dict(content)


def _typed(content: Mapping[str, Any], name: str, kind: type) -> Any:
    value = content.get(name)
    if not isinstance(value, kind) or (isinstance(value, int) and kind is int and (value is True or value < 1)):
        raise ItaclipError(f"{name} = {str(value)[:60]!r}: expected a {kind.__name__}.")
    return value


def _read_vocabulary(folder: Path, content: Any) -> Vocabulary | None:
    if content is None:
        return None
    if not isinstance(content, dict):
        raise ItaclipError("vocabulary: expected an object with classes, background, definitions and features.")
    classes, background = _typed(content, "classes", list), _typed(content, "background", bool)
    definitions = content.get("definitions")
    if not classes or not all(isinstance(words, list) and words and all(map(_is_word, words)) for words in classes):
        raise ItaclipError("classes: expected lists of words.")
    if definitions is not None and not (
        isinstance(definitions, list)
        and len(definitions) == len(classes) - background
        and all(text is None or isinstance(text, str) for text in definitions)
    ):
        raise ItaclipError("definitions: expected one text or null per class.")
    names = parse_class_names([", ".join(words) for words in classes], "classes", background)
    path = folder / VOCABULARY
    features = read_safetensors(path)[0].get("features")
    if (
        features is None
        or features.ndim != 2
        or len(features) != len(names.queries)
        or fingerprint([("features", features)]) != content.get("features")
    ):
        raise ItaclipError(f"{path}: the text features do not match the classes; save the segmenter again.")
    choice = content.get("background_choice", "")  # earlier folders have none
    if not isinstance(choice, str):
        raise ItaclipError(f"background_choice = {str(choice)[:60]!r}: expected a text.")
    vocabulary = Vocabulary.of(TextBank(features, names), background, definitions, choice)
    colors = content.get("colors", vocabulary.colors)  # earlier folders have none
    if not isinstance(colors, (list, tuple)) or len(colors) != len(vocabulary.names):
        raise ItaclipError("colors: expected one RGB colour per class.")
    return vocabulary.colored(dict(zip(vocabulary.names, colors, strict=True)))


def _is_word(word: Any) -> bool:
    return isinstance(word, str) and bool(word.strip())
