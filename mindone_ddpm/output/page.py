"""Pieces of a page in HTML that needs nothing from elsewhere: images, styles and the script are in it."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mindone_ddpm.common.errors import first_line
from mindone_ddpm.data.images import DataError, decode_image
from mindone_ddpm.output.charts import SVG_SCRIPT, SVG_STYLE

MOST_PIXELS = 1024  # along a side; larger images are made smaller for the page


def document(title: str, sections: Sequence[str]) -> str:
    """The whole page."""
    title = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{STYLE}{SVG_STYLE}</style></head><body><main><h1>{title}</h1>{''.join(sections)}</main>"
        f"<script>{SCRIPT}{SVG_SCRIPT}</script></body></html>\n"
    )


def section(title: str, content: str) -> str:
    """A heading and what is below it; nothing where there is no content."""
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>" if content else ""


def table(rows: dict[str, str]) -> str:
    cells = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
    return f"<table>{''.join(cells)}</table>"


def columns(names: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A table with a column for each of several runs. Nothing where there are no rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *names))
    body = (
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{html.escape(value)}</td>' for value in values)}</tr>"
        for name, values in rows.items()
    )
    return f'<div class="scroll"><table class="compared"><tr>{head}</tr>{"".join(body)}</table></div>'


def legend(names: Sequence[str]) -> str:
    """The colours of several runs in charts."""
    entries = (
        f'<span><span class="key c{number}"></span>{html.escape(name)}</span>' for number, name in enumerate(names)
    )
    return f'<p class="legend">{"".join(entries)}</p>'


def details(summary: str, content: str) -> str:
    """What is shown when it is opened."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def figure(caption: str, content: str) -> str:
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{content}</figure>"


def image(path: Path, **attributes: str) -> str:
    """An image element that holds the image itself; for one that cannot be read, a line that says so."""
    more = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items())
    buffer = io.BytesIO()
    try:
        opened = decode_image(None, str(path), path.name)
        opened.thumbnail((MOST_PIXELS, MOST_PIXELS))
        opened.save(buffer, format="png")
    except (DataError, OSError) as error:
        return f"<p{more}>{html.escape(path.name)} cannot be read ({html.escape(first_line(error))}).</p>"
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"{more}>'


def image_slider(paths: Sequence[Path], names: Sequence[str]) -> str:
    """All images, of which a slider shows one with its name; without scripts, the last is shown."""
    if not paths:
        return ""
    last = len(paths) - 1
    images = (
        image(path, **{"data-slide": str(number), **({} if number == last else {"hidden": "hidden"})})
        for number, path in enumerate(paths)
    )
    listed = html.escape(json.dumps(list(names)))
    slider = (
        f'<p class="slider"><input type="range" id="slider" min="0" max="{last}" value="{last}" data-names="{listed}" '
        'aria-label="epoch"> <output id="shown"></output></p>'
    )
    return (slider if last else "") + "".join(images)


STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #69707a; --rule: #dfe3e8; --back: #fff; --line: #1f5fa8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #98a1ac; --rule: #353b43; --back: #15181c; --line: #6fb1ff; }
}
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; border-bottom: 1px solid var(--rule); }
table { border-collapse: collapse; table-layout: fixed; width: 100%; font-size: .9rem; overflow-wrap: anywhere; }
th { text-align: left; font-weight: 500; color: var(--soft); vertical-align: top; padding: .15rem 1rem .15rem 0; }
th { width: 50%; } td { padding: .15rem 0; } @media (min-width: 40rem) { th { width: 20rem; } }
img { width: 100%; max-width: 34rem; height: auto; image-rendering: pixelated; display: block; }
img[hidden] { display: none; }
figure { display: inline-block; vertical-align: top; width: 100%; max-width: 34rem; margin: 0 1rem 1rem 0; }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--soft); } .scroll { overflow-x: auto; }
.compared { table-layout: auto; min-width: 30rem; }
.compared th, .compared td { width: auto; min-width: 6rem; padding-right: 1rem; }
figcaption { color: var(--soft); font-size: .9rem; }
.slider { display: flex; gap: 1rem; align-items: center; } .slider input { flex: 1; max-width: 34rem; }
"""

SCRIPT = """
const slider = document.getElementById("slider");
if (slider) {
  const names = JSON.parse(slider.dataset.names), slides = document.querySelectorAll("[data-slide]");
  const show = () => {
    slides.forEach((slide, number) => { slide.hidden = number !== Number(slider.value); });
    document.getElementById("shown").textContent = names[slider.value];
  };
  slider.addEventListener("input", show);
  show();
}
"""
