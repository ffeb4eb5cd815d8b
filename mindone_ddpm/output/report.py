"""One page about a run that opens anywhere: curves, pictures over the epochs, settings. Nothing is fetched for it."""

from __future__ import annotations

import base64
import html
import io
import json
import tempfile
from collections.abc import Callable
from math import isfinite, nan
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

import mindone_ddpm
from mindone_ddpm.common.errors import ConfigError, first_line
from mindone_ddpm.common.files import write_text
from mindone_ddpm.models.foreign import PIPELINE_INDEX
from mindone_ddpm.output.checkpoint import BEST, RUN_CONFIG, STATE_RECORD, checkpoints_in, grids_in
from mindone_ddpm.output.metrics_log import Curves, latest_mean, read_curves
from mindone_ddpm.sampling.grids import TRAJECTORY_STRIP

# Draws the data that recorded settings name into a file.
Preview = Callable[[dict[str, Any], Path], None]
REPORT = "report.html"


LARGEST_PICTURE_PIXELS = 1024  # along a side; larger ones are made smaller for the page


MOST_POINTS = 600  # of a curve; of more, means of neighbours are drawn


TITLES = {
    "train/loss": "loss",
    "train/learning_rate": "learning rate",
    "train/grad_norm": "gradient norm",
    "train/images_per_second": "images a second",
    "train/skipped_updates": "skipped updates",
    "train/loss_scale": "loss scale",
}


def write_report(run: Path, output: Path | None = None, preview: Preview | None = None) -> Path:
    """Write the page of a run's folder; where it is.

    Raises:
        ConfigError: the folder holds no run.
    """
    if not run.is_dir():
        raise ConfigError(f"{run}: no such folder")
    settings = read_settings(run)
    curves = read_curves(run / str(settings.get("logging_dir", "logs")))
    if not settings and not curves and not (run / PIPELINE_INDEX).is_file():
        raise ConfigError(f"{run}: holds no run; give the --output_dir of a training")
    target = output or run / REPORT
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, page(run, settings, curves, preview))
    return target


def read_settings(run: Path) -> dict[str, Any]:
    path = run / RUN_CONFIG
    if not path.is_file():
        return {}
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, OSError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)})") from error


def page(run: Path, settings: dict[str, Any], curves: Curves, preview: Preview | None) -> str:
    title = html.escape(run.resolve().name)
    strip = run / TRAJECTORY_STRIP
    sections = [
        section("In short", table(in_short(run, settings, curves))),
        section("Samples over the epochs", scrubber(grids_in(run))),
        section("From noise to pictures, at the last of these", picture(strip)) if strip.is_file() else "",
        section("Curves", "".join(figure(name, points) for name, points in ordered(curves)) or "<p>None kept.</p>"),
        section("Loss by timestep", by_timestep(curves)),
        section("Data: above as stored, below as the model sees it", data_preview(settings, preview)),
        section("Settings", table({name: as_text(value) for name, value in settings.items() if value is not None})),
        section("Versions", table(versions(run))),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body><main><h1>{title}</h1>{''.join(sections)}</main>"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def section(title: str, content: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>" if content else ""


def table(rows: dict[str, str]) -> str:
    cells = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
    return f"<table>{''.join(cells)}</table>"


def as_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def in_short(run: Path, settings: dict[str, Any], curves: Curves) -> dict[str, str]:
    rows: dict[str, str] = {}
    losses = curves.get("train/loss", {})
    if losses:
        rows["steps"] = f"{max(losses):,}"
        rows["loss"] = latest_mean(losses)
    rates = list(curves.get("train/images_per_second", {}).values())
    if rates:
        rows["throughput"] = f"{sorted(rates)[len(rates) // 2]:.1f} images a second, median"
    skips = list(curves.get("train/skipped_updates", {}).values())
    if skips:
        rows["skipped updates"] = f"{skips[-1]:.0f}"
    data = settings.get("dataset_name") or settings.get("train_data_dir")
    if data:
        rows["data"] = str(data)
    for name, points in curves.items():
        if name.startswith("eval/") and "_t" not in name and not name.endswith("_std") and points:
            rows[name.removeprefix("eval/")] = f"{list(points.values())[-1]:.5g} at step {max(points):,}"
    best = run / BEST / "best.json"
    if best.is_file():
        about = json.loads(best.read_text(encoding="utf-8"))
        rows["best"] = f"{about['figure']} {about['value']:.5g} at step {about['step']:,}"
    kept = [f"{step:,}" for step, _ in checkpoints_in(run)]
    rows["checkpoints"] = ", ".join(kept) or "none"
    rows["pipeline"] = "saved" if (run / PIPELINE_INDEX).is_file() else "not yet saved"
    return rows


def versions(run: Path) -> dict[str, str]:
    """Of the newest checkpoint's run, or of this program."""
    for _, folder in reversed(checkpoints_in(run)):
        record = folder / STATE_RECORD
        if record.is_file():
            return {name: str(value) for name, value in json.loads(record.read_text())["versions"].items()}
    return {"mindone_ddpm": mindone_ddpm.__version__}


def picture(path: Path, **attributes: str) -> str:
    """An image element that carries its picture with it; one that cannot be read is a line that says so."""
    more = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items())
    buffer = io.BytesIO()
    try:
        with Image.open(path) as opened:
            opened.thumbnail((LARGEST_PICTURE_PIXELS, LARGEST_PICTURE_PIXELS))
            opened.save(buffer, format="png")
    except OSError as error:
        return f"<p{more}>{html.escape(path.name)} cannot be read ({html.escape(first_line(error))}).</p>"
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"{more}>'


def data_preview(settings: dict[str, Any], preview: Preview | None) -> str:
    """The first images of the data, where it is still there."""
    if not settings or preview is None:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "preview.png"
        try:
            preview(settings, path)
        except Exception:  # moved, offline, changed: the page does without
            return ""
        return picture(path)


def scrubber(grids: list[Path]) -> str:
    """All grids, of which a slider shows one; without scripts, the last."""
    if not grids:
        return ""
    last = len(grids) - 1
    pictures = (
        picture(path, **{"data-grid": str(number), **({} if number == last else {"hidden": "hidden"})})
        for number, path in enumerate(grids)
    )
    names = html.escape(json.dumps([f"epoch {int(path.stem)}" if path.stem.isdigit() else path.stem for path in grids]))
    slider = (
        f'<p class="scrub"><input type="range" id="scrub" min="0" max="{last}" value="{last}" data-names="{names}" '
        'aria-label="epoch"> <output id="shown"></output></p>'
    )
    return (slider if last else "") + "".join(pictures)


def ordered(curves: Curves) -> list[tuple[str, dict[int, float]]]:
    """Those that say something, the loss first; of the ranges of timesteps there is a figure of their own."""
    names = [*(name for name in TITLES if name in curves), *sorted(name for name in curves if name not in TITLES)]
    shown = [name for name in names if "validation_loss_t" not in name and not name.endswith("_std")]
    dull = ("train/skipped_updates", "train/loss_scale")
    return [(name, curves[name]) for name in shown if name not in dull or len(set(curves[name].values())) > 1]


def thinned(points: dict[int, float]) -> list[tuple[float, float]]:
    items = [(step, value) for step, value in points.items() if isfinite(value)]
    size = -(-len(items) // MOST_POINTS) if items else 1
    blocks = (items[first : first + size] for first in range(0, len(items), size))
    return [(sum(s for s, _ in block) / len(block), sum(v for _, v in block) / len(block)) for block in blocks]


def figure(name: str, points: dict[int, float]) -> str:
    title = TITLES.get(name, name.removeprefix("eval/"))
    drawn = thinned(points)
    if not drawn:
        return ""
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{line_chart([drawn], title)}</figure>"


def by_timestep(curves: Curves) -> str:
    """The validation loss over the ranges of timesteps, at the first and at the last time it was measured."""
    ranges = sorted(name for name in curves if "validation_loss_t" in name)
    if not ranges:
        return ""
    steps = sorted(curves[ranges[0]])
    lines = [
        [
            (float(place), curves[name][step])
            for place, name in enumerate(ranges)
            if isfinite(curves[name].get(step, nan))
        ]
        for step in dict.fromkeys((steps[0], steps[-1]))
    ]
    if not all(lines):
        return ""
    text = f"from clean (left) to noise (right); step {steps[0]:,} grey, step {steps[-1]:,} blue"
    return f"<figure><figcaption>{text}</figcaption>{line_chart(lines, 'loss by timestep')}</figure>"


def line_chart(lines: list[list[tuple[float, float]]], title: str, width: int = 640, height: int = 240) -> str:
    """An SVG of lines over one pair of axes; the last line is the one that matters."""
    xs = [x for line in lines for x, _ in line]
    ys = sorted(y for line in lines for _, y in line)
    low, high = ys[0], ys[min(len(ys) - 1, int(len(ys) * 0.99))]  # a first spike would flatten all the rest
    if high <= low:
        low, high = low - abs(low) * 0.5 - 1e-9, high + abs(high) * 0.5 + 1e-9
    left, right, top, bottom = 62.0, width - 12.0, 10.0, height - 26.0

    def place(x: float, y: float) -> str:
        across = (x - min(xs)) / ((max(xs) - min(xs)) or 1.0)
        up = (min(max(y, low), high) - low) / (high - low)
        return f"{left + across * (right - left):.1f},{bottom - up * (bottom - top):.1f}"

    parts = []
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="axis"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{low + share * (high - low):.3g}</text>')
        x, anchor = left + share * (right - left), ("start", "middle", "end")[round(share * 2)]
        label = f"{min(xs) + share * (max(xs) - min(xs)):,.0f}"
        parts.append(f'<text x="{x:.1f}" y="{height - 6}" text-anchor="{anchor}">{label}</text>')
    for number, line in enumerate(lines):
        kind = "line" if number == len(lines) - 1 else "line before"
        if len(line) == 1:
            across, _, down = place(*line[0]).partition(",")
            parts.append(f'<circle cx="{across}" cy="{down}" r="3" class="dot"/>')
        parts.append(f'<polyline class="{kind}" points="{" ".join(place(x, y) for x, y in line)}"/>')
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'


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
img { max-width: 100%; height: auto; image-rendering: pixelated; } img[hidden] { display: none; }
figure { display: inline-block; vertical-align: top; width: 100%; max-width: 34rem; margin: 0 1rem 1rem 0; }
figcaption { color: var(--soft); font-size: .9rem; } svg { width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; } .axis { stroke: var(--rule); }
.line { fill: none; stroke: var(--line); stroke-width: 1.5; } .before { stroke: var(--soft); }
.dot { fill: var(--line); }
.scrub { display: flex; gap: 1rem; align-items: center; } .scrub input { flex: 1; max-width: 34rem; }
"""


SCRIPT = """
const slider = document.getElementById("scrub");
if (slider) {
  const names = JSON.parse(slider.dataset.names), grids = document.querySelectorAll("[data-grid]");
  const show = () => {
    grids.forEach((grid, number) => { grid.hidden = number !== Number(slider.value); });
    document.getElementById("shown").textContent = names[slider.value];
  };
  slider.addEventListener("input", show);
  show();
}
"""
