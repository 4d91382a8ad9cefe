"""Captions for the scenes of the miniature world: the only supervision its CLIP sees."""

from __future__ import annotations

from collections.abc import Sequence

from open_clip import OPENAI_IMAGENET_TEMPLATES

from itaclip.demo.textures import TEXTURES, Generator

_SCENE_TEMPLATES = (
    "{}.",
    "a scene with {}.",
    "a picture that shows {}.",
    "{} side by side.",
    "here you see {}.",
    "a collage of {}.",
)


def _say(class_id: int, rng: Generator) -> str:
    texture = TEXTURES[class_id]
    words = texture.sayings if rng.random() < 0.3 else texture.names
    return str(words[rng.integers(len(words))])


def caption(classes: Sequence[int], rng: Generator) -> str:
    """A sentence that names every given class, in random order and wording."""
    parts = [_say(int(c), rng) for c in rng.permutation(classes)]
    listed = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    if rng.random() < 0.5:
        template = OPENAI_IMAGENET_TEMPLATES[rng.integers(len(OPENAI_IMAGENET_TEMPLATES))]
        return str(template(listed))
    return str(_SCENE_TEMPLATES[rng.integers(len(_SCENE_TEMPLATES))].format(listed))
