#!/usr/bin/env bash
# Transformers' CLIPTokenizer and open_clip's SimpleTokenizer share vocabulary and merges (both made here from open_clip's own
# file), but open_clip repairs the text first (ftfy, HTML entities). Prompts from documents, with typographic apostrophes,
# ligatures or entities, get other ids, hence other text features. Plain words agree. Seen with transformers 5.23.0 and
# open_clip_torch 3.3.0: the four texts of ODD below differ, the four of PLAIN agree.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
python_with transformers==5.23.0 open_clip_torch==3.3.0
cd "$work"
"$python" - 2>/dev/null <<'PYTHON'
import gzip
import json
from pathlib import Path

import open_clip
import transformers
from open_clip.tokenizer import SimpleTokenizer, default_bpe

ODD = ["l\u2019eau", "\ufb01re hydrant", "\uff43\uff41\uff54", "snow &amp; ice"]
PLAIN = ["cat", "t-shirt", "caf\u00e9", "traffic  light"]

ours = SimpleTokenizer()
ends = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
merges = gzip.open(default_bpe()).read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
Path("clip").mkdir()
Path("clip/vocab.json").write_text(json.dumps({ends.get(k, k): v for k, v in ours.encoder.items()}))
Path("clip/merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
theirs = transformers.CLIPTokenizer.from_pretrained("clip")


def differs(text):
    return ours.encode(text) != theirs(text, add_special_tokens=False).input_ids


print(f"transformers {transformers.__version__}, open_clip {open_clip.__version__}")
for text in ODD + PLAIN:
    print(f"  {text!r}: {'differs' if differs(text) else 'same ids'}")
assert all(map(differs, ODD)) and not any(map(differs, PLAIN)), "changed"
PYTHON
