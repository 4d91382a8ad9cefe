"""Load C-RADIO (Heinrich et al., CVPR 2025, arXiv 2412.07679) with its SigLIP 2 adaptor and SigLIP 2's text tower.

The backbone is Transformers' `RadioModel`. The adaptor is a small network of NVIDIA's checkpoints that maps summary
tokens into SigLIP 2's joint space; RADSeg (arXiv 2511.19704) applies it to patches. Parameter names are those of
NVIDIA's layout; no published checkpoint could be read here.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import RadioConfig, RadioModel, SiglipTextConfig, SiglipTextModel

from itaclip.core.clip import facts
from itaclip.core.clip.facts import Fact
from itaclip.core.clip.image_text import ImageTextModel
from itaclip.core.clip.repositories import repository
from itaclip.core.clip.tokenizer_source import TokenizerSource
from itaclip.core.clip.transformers_config import CONFIG, read_object
from itaclip.core.clip.transformers_models import build, read_library_config, read_tensors
from itaclip.core.clip.weights import check_tensors, load_tensors
from itaclip.errors import ItaclipError

TEXT = "google/siglip2-giant-opt-patch16-384"
"""The text tower that the adaptor was trained for."""

ADAPTOR = "siglip2-g"
"""Name of the adaptor among the teachers of a checkpoint."""

_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1536: 24}  # of RADIO's backbones by width
_TEMPERATURE = 0.01  # RADSeg multiplies cosines by 100
_TRUNK, _CONDITIONER = "radio_model.model.", "radio_model.input_conditioner."


class Adaptor(nn.Module):
    """Map tokens into a teacher's space: a matrix, residual blocks of norm, GELU and matrix, and one such step more.

    Args:
        width: channels of the tokens.
        hidden: channels inside.
        channels: channels of the teacher's space.
        blocks: number of residual blocks.
        pre_norm: whether a norm and GELU come first.
    """

    def __init__(self, width: int, hidden: int, channels: int, blocks: int, pre_norm: bool = False) -> None:
        super().__init__()
        self.pre_norm = nn.Sequential(nn.LayerNorm(width), nn.GELU()) if pre_norm else nn.Identity()
        self.fc1 = nn.Linear(width, hidden)
        self.blocks = nn.ModuleList(_step(hidden, hidden) for _ in range(blocks))
        self.final = _step(hidden, channels)

    @property
    def channels(self) -> int:
        """Channels of the teacher's space."""
        last: Any = self.final[2]
        return int(last.out_features)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ... x width to ... x channels."""
        x = self.fc1(self.pre_norm(tokens))
        for block in self.blocks:
            x = x + block(x)
        return cast(Tensor, self.final(x))


def _step(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Linear(width, channels))


class RadioImage(nn.Module):
    """A RADIO backbone and the adaptor of one teacher.

    Args:
        model: the backbone.
        adaptor: the adaptor.
        summary: number of the class token that belongs to the teacher.
    """

    def __init__(self, model: RadioModel, adaptor: Adaptor, summary: int) -> None:
        super().__init__()
        self.model: Any = model
        self.adaptor = adaptor
        self.summary = summary

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute features of B x 3 x h x w pixels in [0, 1] by the library's own forward pass: B x E."""
        tokens = self.model(pixels).last_hidden_state
        return cast(Tensor, self.adaptor(tokens[:, self.summary]))


class PooledText(nn.Module):
    """A text tower of Transformers that sees padding, as SigLIP 2's was trained.

    Args:
        model: returns ``pooler_output`` for token ids.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode T x M tokens as T x E."""
        return cast(Tensor, self.model(tokens).pooler_output)


def load_radio(path: Path) -> ImageTextModel:
    """Load a folder, or a checkpoint of NVIDIA's in one file, and SigLIP 2's text tower beside it or by its name.

    Args:
        path: a folder with weights and ``config.json``, or a file; as NVIDIA's repositories of the hub and
            its releases for torch.hub have them.

    Raises:
        ItaclipError: a file is missing or damaged, the weights have no SigLIP 2 adaptor, their number of heads
            is unknown, or text tower and adaptor do not fit.
    """
    folder = path if path.is_dir() else path.parent
    config = read_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    state, teachers, file = _read(path)
    teachers = teachers or [str(one.get("name")) for one in config.get("args", {}).get("teachers", [])]
    adaptor, number = _adaptor(state, teachers, file)
    model, heads = _backbone(state, config, file)
    known = number is not None
    visual = RadioImage(model, adaptor, number or 0)
    text, tokenizer, text_heads = _text(folder, adaptor.channels)
    conditioner = model.input_conditioner
    mean, std = (tuple(float(v) for v in part.flatten()) for part in (conditioner.norm_mean, conditioner.norm_std))
    found = (
        heads, text_heads, facts.normalisation(mean, std, file.name),
        Fact("class token of SigLIP 2", str(number or 0), "its place among the teachers" if known else
             "the first, which only features of whole images use", assumed=not known),
        Fact(facts.TOKENIZER, str(tokenizer.name), "SigLIP 2's"),
    )  # fmt: skip
    to, by = (torch.tensor(part).view(3, 1, 1) for part in (mean, std))
    return ImageTextModel(
        visual, PooledText(text), lambda pixels: visual(pixels * by + to), temperature=_TEMPERATURE,
        tokenizer=tokenizer, facts=found, statistics=(mean, std),
    )  # fmt: skip


def _read(path: Path) -> tuple[dict[str, Tensor], list[str], Path]:
    """Read tensors, the names of teachers if the file has any, and the file."""
    if path.is_dir() or path.suffix == ".safetensors":
        state, file = read_tensors(path if path.is_dir() else path.parent)
        return state, [], file
    with torch.serialization.safe_globals([Namespace]):  # holds the arguments of the training; plain data
        content = load_tensors(path)
    tensors = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ItaclipError(f"{path}: holds no state_dict, as NVIDIA's checkpoints of RADIO do.")
    teachers = getattr(content.get("args"), "teachers", None) or []
    return tensors, [str(one.get("name")) for one in teachers if isinstance(one, dict)], path


def _backbone(state: Mapping[str, Tensor], config: Mapping[str, Any], file: Path) -> tuple[Any, Fact]:
    """Build the backbone of the geometry of its tensors."""
    own = {_name(key): value for key, value in state.items() if not _of_teacher(key)}
    needed = [f"{_TRUNK}patch_generator.{part}" for part in ("embedder.weight", "pos_embed", "cls_token.token")]
    problems = {"missing": [key for key in needed if key not in own]}
    check_tensors(file, problems, "Not the weights of a RADIO with a patch generator?")
    patches, table, first = (own[key] for key in needed)
    width, patch = patches.shape[0], round((patches.shape[1] / 3) ** 0.5)
    hidden = next((v.shape[0] for k, v in own.items() if k.endswith("blocks.0.mlp.fc1.weight")), 4 * width)
    count = config.get("num_attention_heads") or _HEADS.get(width)
    if not isinstance(count, int) or count < 1 or width % count:
        raise ItaclipError(
            f"{file}: {width} channels, which no known RADIO has, so its number of heads is unknown. State "
            f"num_attention_heads, a divisor of the width, in {CONFIG} beside it."
        )
    blocks = {match[1] for key in own if (match := re.search(r"\.blocks\.(\d+)\.", key))}
    described = RadioConfig(
        hidden_size=width, num_hidden_layers=len(blocks), num_attention_heads=count, mlp_ratio=hidden / width,
        patch_size=patch, max_img_size=patch * round(table.shape[-2] ** 0.5), num_cls_tokens=first.shape[0],
        num_registers=0, summary_idxs=[0], layer_norm_eps=config.get("layer_norm_eps", 1e-6),
    )  # fmt: skip
    # it has no LayerScale; its statistics are CLIP's in every version
    model = build(RadioModel, described, own, file, optional=("lambda1", "summary_idxs", "norm_mean", "norm_std"))
    source = CONFIG if config.get("num_attention_heads") else "the width of a known RADIO"
    return model, facts.heads(facts.IMAGE_HEADS, count, width, source)


def _name(key: str) -> str:
    """Rename a tensor of a checkpoint for torch.hub as NVIDIA's repositories of the Hugging Face hub name it."""
    return re.sub(r"^input_conditioner\.", _CONDITIONER, re.sub(r"^base_model\.", _TRUNK, key))


def _of_teacher(key: str) -> bool:
    """Whether a tensor belongs to a teacher's adaptor, or describes the model, and not to the backbone."""
    return key.startswith(("_heads.", "_feature_projections.")) or "adaptors." in key or key.endswith("summary_idxs")


def _adaptor(state: Mapping[str, Tensor], teachers: list[str], file: Path) -> tuple[Adaptor, int | None]:
    """Build SigLIP 2's summary adaptor, and find its teacher's number."""
    number = teachers.index(ADAPTOR) if ADAPTOR in teachers else None
    starts = [f"radio_model.adaptors.{ADAPTOR}.head_mlp.", f"adaptors.{ADAPTOR}.head_mlp.", f"_heads.{ADAPTOR}."]
    starts += [] if number is None else [f"_heads.{number}."]
    found: dict[str, Tensor] = {}
    for start in starts:
        found = found or {k.removeprefix(start): v.float() for k, v in state.items() if k.startswith(start)}
    if "fc1.weight" not in found or "final.2.weight" not in found:
        held = sorted({key.split(".head_mlp.")[0] for key in state if _of_teacher(key) and ".head_mlp." in key})
        raise ItaclipError(
            f"{file}: has no adaptor {ADAPTOR!r} ({', '.join(held) or 'no adaptors'}), so its features do not meet any "
            "text. NVIDIA's checkpoints for torch.hub hold all adaptors: give such a file (NAME:FILE)."
        )
    first, last = found["fc1.weight"], found["final.2.weight"]
    blocks = {match[1] for key in found if (match := re.match(r"blocks\.(\d+)\.", key))}
    adaptor = Adaptor(first.shape[1], first.shape[0], last.shape[0], len(blocks), "pre_norm.0.weight" in found)
    expected = adaptor.state_dict()
    wrong = [f"{key} {tuple(found[key].shape)} instead of {tuple(value.shape)}"
             for key, value in expected.items() if key in found and found[key].shape != value.shape]  # fmt: skip
    problems = {"missing": sorted(expected.keys() - found.keys()), "of a wrong shape": wrong,
                "unexpected": sorted(found.keys() - expected.keys())}  # fmt: skip
    check_tensors(file, problems, f"An adaptor {ADAPTOR!r} of another version, or a damaged file?")
    adaptor.load_state_dict(found)
    return adaptor, number


def _text(folder: Path, channels: int) -> tuple[Any, TokenizerSource, Fact]:
    """Load SigLIP 2's text tower from a folder in or beside the model's, or by its name."""
    name = TEXT.rsplit("/", 1)[-1]
    beside = (place / name for place in (folder, folder.parent))
    where = next((place for place in beside if (place / CONFIG).is_file()), None) or repository(TEXT)
    described = read_object(where / CONFIG).get("text_config")
    if not isinstance(described, dict):
        raise ItaclipError(f"{where / CONFIG}: not the configuration of SigLIP 2: text_config is missing.")
    config = read_library_config(SiglipTextConfig, where / CONFIG, described)
    state, file = read_tensors(where, "text_model.")
    text = build(SiglipTextModel, config, state, file, optional=("position_ids",))
    found = int(text.config.projection_size)
    if found != channels:
        raise ItaclipError(
            f"{file}: texts of {found} channels, where the adaptor gives {channels}. It was trained for {TEXT}."
        )
    # without lower case and with punctuation, SigLIP 2 loses about 12 points (a change request of NVIDIA's RADIO)
    options = (("clean", "canonicalize"),)
    heads = facts.heads(facts.TEXT_HEADS, config.num_attention_heads, config.hidden_size, str(where / CONFIG))
    return text, TokenizerSource(str(where), config.max_position_embeddings, options=options), heads
