"""Texts from a real but tiny LLaMA with random weights, which transformers loads from a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from preparation_helpers import ROOT, lines, run_script, visible
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from itaclip.errors import ItaclipError
from itaclip.research.texts.answers import DEFINITION, SYNONYM
from itaclip.research.texts.chat import LocalChat, Sampling
from itaclip.research.texts.commands import generate

CONFIGS = ROOT / "configs"
WORDS = ["soft", "furry", "round", "wooden", "vessel", "animal", "seat", "lamp", "with", "four", "legs", "glass"]
SPECIAL = ["<unk>", "<|begin|>", "<|end|>", "<|eot_id|>"]
TEMPLATE = "<|begin|> {% for message in messages %}{{ message['content'] }} <|eot_id|> {% endfor %}"


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model whose words are all acceptable, so that its random answers can be accepted."""
    folder = tmp_path_factory.mktemp("llama")
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<|begin|>", eos_token="<|end|>",
        additional_special_tokens=["<|eot_id|>"],
    )  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("background\ncat\ntraffic light\ncup\nsofa\npotted plant\n")
    return path


def arguments(names: Path, model: Path, *more: object) -> list[str]:
    fixed = (
        "--names",
        names,
        "--background",
        "--out",
        names.with_name("texts.txt"),
        "--model",
        model,
        "--device",
        "cpu",
    )
    return [str(part) for part in (*fixed, "--attempts", 20, *more)]


def test_definitions(names: Path, llama: Path) -> None:
    done = run_script("tools/llama3_definition_generation.py", *arguments(names, llama, "--max-new-tokens", 12))
    assert done.returncode == 0, done.stdout + done.stderr
    first = lines(names.with_name("texts.txt"))
    assert [line.split(" >=")[0] for line in first] == ["cat", "traffic light", "cup", "sofa", "potted plant"]
    assert all(set(line.split(" >=")[1].split()) <= set(WORDS) for line in first)
    provenance = json.loads(names.with_name("texts.txt.provenance.json").read_text())
    assert provenance["model"] == str(llama)
    assert provenance["dtype"] == "bfloat16"

    # the same seed gives the same texts, another seed gives others
    assert generate.main(DEFINITION, CONFIGS, arguments(names, llama, "--max-new-tokens", 12, "--force")) == 0
    assert lines(names.with_name("texts.txt")) == first
    more = ("--max-new-tokens", 12, "--force", "--seed", 1)
    assert generate.main(DEFINITION, CONFIGS, arguments(names, llama, *more)) == 0
    assert lines(names.with_name("texts.txt")) != first


def test_synonyms(names: Path, llama: Path) -> None:
    assert generate.main(SYNONYM, CONFIGS, arguments(names, llama, "--max-new-tokens", 1, "--batch-size", 2)) == 0
    assert all(line.split(" >=")[1] in WORDS for line in lines(names.with_name("texts.txt")))


def test_long_answers_are_not_synonyms(names: Path, llama: Path) -> None:
    more = ("--max-new-tokens", 40, "--attempts", 1, "--temperature", 0)
    status = generate.main(SYNONYM, CONFIGS, arguments(names, llama, *more))
    assert status == 1
    assert visible(names.parent) == ["names.txt", "texts.txt.journal.jsonl"]


def test_padding_changes_nothing(llama: Path) -> None:
    chat = LocalChat(str(llama), Sampling(temperature=0, max_new_tokens=8), device="cpu")
    prompts = ["soft", "soft furry round wooden vessel with four legs"]
    together = [reply.text for reply in chat.replies(prompts, [0, 0])]
    alone = [next(iter(chat.replies([prompt], [0]))).text for prompt in prompts]
    assert together == alone


def test_models_that_cannot_be_used(names: Path, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ItaclipError, match=r"cannot be loaded.*HF_TOKEN"):
        generate.main(SYNONYM, CONFIGS, arguments(names, tmp_path / "none"))
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in llama.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "chat_template.jinja").unlink()
    with pytest.raises(ItaclipError, match="no chat template"):
        LocalChat(str(broken), Sampling(), device="cpu")
    (broken / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ItaclipError, match="cannot be loaded"):
        LocalChat(str(broken), Sampling(), device="cpu")
