"""What the site takes from elsewhere in the repository: README and other documents, and the notebook's gallery."""

from __future__ import annotations

import base64
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
NOTEBOOK = "demo.ipynb"
DOCUMENTS = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "llm_texts/README.md": "texts.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE",
}
"""Place on the site by path in the repository; those that do not exist are left out."""

_PAGE_OF = DOCUMENTS | {NOTEBOOK: "gallery.md"}
_LINK = re.compile(r"(\]\()(?![\w+.-]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents and the gallery."""
    for source, place in DOCUMENTS.items():
        if (ROOT / source).is_file():
            text = _relinked((ROOT / source).read_text(encoding="utf-8"), source, place)
            head = "---\nhide: [navigation]\n---\n" if place == "index.md" else ""
            files.append(File.generated(config, place, content=head + text))
    markdown, images = _gallery(json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8")))
    files.append(File.generated(config, "gallery.md", content=_relinked(markdown, NOTEBOOK, "gallery.md")))
    for place, content in images.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links that leave docs/ lead to where the site has their target."""
    place = page.file.src_uri
    return markdown if page.file.generated_by else _relinked(markdown, f"docs/{place}", place)


def _relinked(markdown: str, source: str, place: str) -> str:
    """Turn links between files of the repository into links between pages of the site."""

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        target = _PAGE_OF.get(target, target.removeprefix("docs/"))
        return match[1] + posixpath.relpath(target, posixpath.dirname(place) or ".")

    return _LINK.sub(link, markdown)


def _gallery(notebook: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """Make a page of the notebook: its pictures in the open, its code folded."""
    parts: list[str] = []
    images: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append('??? example "Code"\n' + _indented(f"```python\n{source}\n```"))
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                place = f"images/gallery/{len(images):02}.png"
                images[place] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![Output of the code above]({posixpath.join('docs', place)}){{ loading=lazy }}")
            else:
                parts.append("```text\n" + "".join(output.get("text", data.get("text/plain", ""))) + "\n```")
    return "\n\n".join(parts) + "\n", images


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())
