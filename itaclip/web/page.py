"""The page: a form on the left, the picture on the right."""

from __future__ import annotations

import hashlib
import html
import logging
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import gradio as gr

from itaclip.demo.dataset import class_lines, ensure_demo_dataset
from itaclip.errors import ItaclipError
from itaclip.segmenter import Segmenter
from itaclip.text.auxiliary import SEPARATOR
from itaclip.web.answer import (
    GENERAL,
    NONE,
    OWN,
    Form,
    described,
    has_coco,
    legend_table,
    offered_methods,
    score_maps,
    segment_and_warn,
    words_of,
    write_downloads,
)
from itaclip.web.limits import Limits
from itaclip.web.line import Line, LineClosedError

_LOG = logging.getLogger(__name__)

CSS = """
.gradio-container { max-width: 1500px !important; margin: auto; }
.picture img { width: 100% !important; height: 100% !important; object-fit: contain !important; }
table.legend { border-collapse: collapse; margin: 0.3em 0; }
table.legend, .legend tr, table.legend th, table.legend td { border: 0 !important; }
table.legend th, table.legend td { text-align: left; padding: 0.15em 1.2em 0.15em 0; }
table.legend td:last-child, table.legend th:last-child { text-align: right; font-variant-numeric: tabular-nums; }
.example { flex-direction: column !important; padding: 0.3em !important; }
.example img { width: 100% !important; height: 7em !important; object-fit: cover !important; }
.swatch { display: inline-block; width: 1.1em; height: 1.1em; border: 1px solid #0008; vertical-align: -0.15em; }
"""

_BACKGROUNDS = [("General words", GENERAL), ("Own words", OWN), ("None", NONE)]
_EXAMPLES = (0, 8, 16, 24)  # every eighth scene of the bundled demo
_SHOWN_SIDE = 1600  # pixels of the picture on the page; downloads have the image's size
_DOWNLOADS = {"mask": "Mask (PNG)", "overlay": "Overlay (PNG)", "json": "Summary (JSON)", "coco": "COCO (JSON)"}


def make_page(segmenter: Segmenter, title: str, limits: Limits, folder: Path, line: Line) -> gr.Blocks:
    """The page of a segmenter, which all visitors share; nothing else is shared.

    Args:
        segmenter: its classes, if any, stand in the form at first.
        title: the model, told to visitors.
        limits: of every request.
        folder: gradio's folder of temporary files.
        line: where images are segmented one after the other.
    """
    kinds = [kind for kind in _DOWNLOADS if kind != "coco" or has_coco()]
    page = gr.Blocks(
        title="ITACLIP", analytics_enabled=False, fill_width=True,
        delete_cache=(60, round(60 * limits.minutes_kept)),
    )  # fmt: skip
    with page:
        gr.Markdown(
            "# ITACLIP\nName any classes; every pixel of the image gets one. Nothing is trained.\n\n"
            f"{html.escape(title)}. Images up to {limits.megapixels:g} megapixels and {limits.upload_mb:g} MB, "
            f"{limits.words} words, {limits.seconds:g} s."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                form = _form(segmenter)
                button = gr.Button("Segment", variant="primary")
                _examples(form, folder / "scenes")
            with gr.Column(scale=3, min_width=320):
                shown = _results(kinds)
        gr.on(
            [button.click, form["classes"].submit], answer_of(segmenter, limits, folder, kinds, line),
            inputs_kwargs=form, outputs=shown,
            api_name="segment", api_description="Segment an image with classes of one's own.",
            concurrency_limit=1, preprocess=False, show_progress_on=shown[0], scroll_to_output=True,
        )  # fmt: skip
        form["background"].change(
            lambda kind: gr.Textbox(visible=kind == OWN), form["background"], form["own_words"],
            queue=False, api_visibility="private", show_progress="hidden",
        )  # fmt: skip

        def forget(request: gr.Request) -> None:
            shutil.rmtree(_session_folder(folder, request), ignore_errors=True)

        page.unload(forget)
    page.queue(max_size=limits.queue)
    return page


# --- layout ------------------------------------------------------------------


def _form(segmenter: Segmenter) -> dict[str, Any]:
    """Components by attribute of `Form`."""
    settings = segmenter.settings
    classes, background, own_words, definitions = words_of(segmenter.vocabulary)
    form: dict[str, Any] = {
        "image": gr.Image(label="Image", sources=["upload", "clipboard"], height=300, type="filepath", image_mode=None),
        "classes": gr.Textbox(
            classes, label="Classes", lines=4, max_lines=8, placeholder="cat, kitten\nsofa, couch\nplant",
            info="One per line, or separated by semicolons; commas between synonyms. The first word names the class.",
        ),
        "background": gr.Radio(
            _BACKGROUNDS, value=background, label="Background",
            info="What is none of the classes becomes class 0, by general words (sky, wall, grass, ...) or by your "
            "own. None: every pixel gets a class.",
        ),
        "own_words": gr.Textbox(
            own_words, label="Words of the background", placeholder="wall, floor, table", visible=background == OWN
        ),
    }  # fmt: skip
    with gr.Accordion("Settings", open=False):
        form["method"] = gr.Dropdown(
            offered_methods(settings), value=settings.method, label="Method",
            info="How CLIP's image tower is read; docs/methods.md describes each.",
        )  # fmt: skip
        form["refine"] = gr.Checkbox(settings.pamr_steps > 0, label="Refine along the image's edges (PAMR)")
        form["correct"] = gr.Checkbox(
            settings.map_correction, label="One label per region (map correction)",
            info="Regions of alike colour, found without weights unless the server was given masks.",
        )  # fmt: skip
        form["views"] = gr.Checkbox(
            settings.img_engineering, label="Five views of every window", info="Slower, and closer to the paper."
        )
        form["threshold"] = gr.Slider(
            0, 1, settings.prob_thd, step=0.01, label="Background threshold",
            info="Pixels whose best score is less become background.",
        )  # fmt: skip
        form["definitions"] = gr.Textbox(
            definitions, label="Definitions", lines=2, max_lines=8,
            placeholder=f"cat {SEPARATOR}a small furry animal with whiskers",
            info=f"For some or all classes, one per line: name {SEPARATOR}text",
        )  # fmt: skip
    return form


def _results(kinds: list[str]) -> list[Any]:
    with gr.Tabs():
        with gr.Tab("Classes"):
            picture = gr.Image(
                label="Result", interactive=False, format="webp", height=620, buttons=["fullscreen"],
                alt_text="No result yet", elem_classes="picture",
            )  # fmt: skip
            legend = gr.HTML(label="Legend")
        with gr.Tab("Scores"):
            gallery = gr.Gallery(
                label="Score of every class, dark to bright", columns=3, interactive=False, height=700,
                object_fit="contain", buttons=["fullscreen"],
            )  # fmt: skip
    with gr.Row():
        downloads = [gr.DownloadButton(_DOWNLOADS[kind], interactive=False, size="md") for kind in kinds]
    return [picture, legend, gallery, *downloads]


def _examples(form: dict[str, Any], folder: Path) -> None:
    """A row of drawn scenes; a click puts one into the form, with the demo's classes."""
    root = ensure_demo_dataset(folder, max(_EXAMPLES) + 1)
    background, *classes = class_lines()
    filled = [form[name] for name in ("image", "classes", "background", "own_words", "definitions")]
    with gr.Row(equal_height=True):
        for place, number in enumerate(_EXAMPLES, 1):
            path = str(root / f"JPEGImages/scene_{number:03d}.jpg")
            values = [path, "\n".join(classes), OWN, background, ""]
            button = gr.Button(f"Scene {place}", icon=path, size="sm", min_width=120, elem_classes="example")
            button.click(
                lambda values=values: values, None, filled,
                queue=False, api_visibility="private", show_progress="hidden",
            )  # fmt: skip


# --- events ------------------------------------------------------------------


def answer_of(
    segmenter: Segmenter, limits: Limits, folder: Path, kinds: list[str], line: Line
) -> Callable[..., list[Any]]:
    """The function behind the button: from the form's values to what is shown."""

    def answer(request: gr.Request, **values: Any) -> list[Any]:
        try:
            form = Form.of(limits=limits, **values)
            result, warnings = line.submit(lambda: segment_and_warn(segmenter, form, limits), admitted=True).result()
            paths = write_downloads(result, _session_folder(folder, request) / secrets.token_hex(16))
        except ItaclipError as error:
            raise _error(str(error)) from None
        except CancelledError:
            raise _error(str(LineClosedError())) from None
        except Exception:
            _LOG.exception("A request failed.")
            raise _error("Something went wrong; the server's log says what.") from None
        for message in warnings:
            gr.Warning(html.escape(message, quote=False))
        picture = result.overlay(legend=False)
        picture.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
        return [
            gr.Image(picture, alt_text=described(result)),
            legend_table(result),
            score_maps(result),
            *(gr.DownloadButton(value=str(paths[kind]), interactive=True) for kind in kinds),
        ]

    return answer


def _error(message: str) -> gr.Error:
    """What visitors typed is text in a message, never HTML."""
    return gr.Error(html.escape(message, quote=False), duration=20, print_exception=False)


def _session_folder(folder: Path, request: gr.Request) -> Path:
    """Where a visitor's downloads lie; the visitor chooses the session's name, so it is hashed."""
    return folder / "sessions" / hashlib.sha256(str(request.session_hash).encode()).hexdigest()[:32]
