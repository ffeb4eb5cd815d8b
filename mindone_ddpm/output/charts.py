"""Line charts: laid out once, rendered as SVG for a page or as an image for the model card."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import NamedTuple

from PIL import Image, ImageDraw

Points = list[tuple[float, float]]

MAX_POINTS = 600  # of a line; of more, means of neighbours are drawn
SHOWN_SHARE = 0.99  # of the values; the highest are cut off, since a first spike would flatten all others
MEAN_STEPS = 50  # a running mean goes over 1/50 of a curve
LEFT, RIGHT, TOP, BOTTOM = 62.0, 14.0, 10.0, 26.0  # margins in pixels
DOT_RADIUS = 3
MOST_INTERVALS = 5  # between the labels of an axis
LEAST, MOST = 1e-300, 1e300  # values that differences of them are finite of; a damaged log may hold larger ones
DIGITS = 6  # of values that a page shows

# Colours of several runs, told apart on white and on black, also by most who see colours otherwise.
RUN_COLOURS = ("#2f7ed8", "#d9730d", "#1a9a6a", "#b04fc0", "#d4483b", "#13929a", "#9a7a16", "#7c8594")
MOST_RUNS = len(RUN_COLOURS)

# For a page, which defines the colours --line, --soft, --rule, --ink and --back.
SVG_STYLE = """
svg.chart { width: 100%; height: auto; display: block; touch-action: pan-y; }
svg.chart text { fill: var(--soft); font-size: 12px; } .axis { stroke: var(--rule); }
@media (max-width: 30rem) { svg.chart text { font-size: 15px; } }
.line { fill: none; stroke: var(--line); stroke-width: 1.5; } .earlier { stroke: var(--soft); }
.faint { opacity: .3; stroke-width: 1; } .dot { fill: var(--line); stroke: none; }
.cursor { stroke: var(--soft); stroke-dasharray: 3 3; } .chart-box { position: relative; }
.chart-tip { position: absolute; top: 0; pointer-events: none; background: var(--back); color: var(--ink);
  border: 1px solid var(--rule); border-radius: 6px; padding: .2rem .5rem; font-size: .8rem; line-height: 1.35;
  white-space: pre; z-index: 2; max-width: 90%; overflow: hidden; }
.key { display: inline-block; width: 1.1em; height: .3em; border-radius: 2px; margin: 0 .4em .2em 0;
  background: currentColor; } .legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .9rem; }
""" + "".join(
    f".line.c{number} {{ stroke: {colour}; }} .dot.c{number} {{ fill: {colour}; }} .c{number} {{ color: {colour}; }}\n"
    for number, colour in enumerate(RUN_COLOURS)
)

# Shows the values under the pointer. A page calls showValues() on each chart that it adds later.
SVG_SCRIPT = """
function showValues(svg) {
  const about = JSON.parse(svg.dataset.chart), box = svg.parentElement, space = svg.namespaceURI;
  const cursor = document.createElementNS(space, "line"), tip = document.createElement("div");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y1", about.top);
  cursor.setAttribute("y2", about.bottom);
  tip.className = "chart-tip";
  const hide = () => { cursor.remove(); tip.remove(); };
  const nearest = (points, x) => points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
  const show = (event) => {
    const area = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / area.width;
    const across = Math.min(Math.max((event.clientX - area.left) * scale, about.left), about.right);
    const x = about.first + (across - about.left) / (about.right - about.left) * (about.last - about.first);
    const lines = about.lines.filter((line) => line.points.length);
    if (!lines.length) return;
    const found = lines.map((line) => [line.name, nearest(line.points, x)]);
    const at = found.reduce((a, b) => Math.abs(b[1][0] - x) < Math.abs(a[1][0] - x) ? b : a)[1][0];
    const share = about.last > about.first ? (at - about.first) / (about.last - about.first) : 0;
    const place = about.left + share * (about.right - about.left);
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
    svg.appendChild(cursor);
    const head = about.names[Math.round(at)] ?? (about.unit + " " + Math.round(at).toLocaleString("en"));
    tip.textContent = [head, ...found.map(([name, point]) => (name ? name + ": " : "") + point[1])].join("\\n");
    box.appendChild(tip);
    const left = place / scale, right = left > area.width / 2;
    tip.style.left = right ? "" : left + 8 + "px";
    tip.style.right = right ? area.width - left + 8 + "px" : "";
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", hide);
}
document.querySelectorAll("svg[data-chart]").forEach(showValues);
"""
AXIS_COLOUR, TEXT_COLOUR = "#dfe3e8", "#69707a"
LINE_COLOURS = {"line": "#1f5fa8", "line faint": "#b8cbe0", "line earlier": "#69707a"}
LINE_WIDTHS = {"line": 2, "line faint": 1, "line earlier": 1}


@dataclass(frozen=True)
class Tick:
    """A label on an axis. ``position``: along the axis, in pixels; ``anchor``: of the text, as in SVG."""

    position: float
    text: str
    anchor: str


class Line(NamedTuple):
    """A line to be drawn.

    Attributes:
        style: ``line``, ``line faint``, ``line earlier``, or ``line cN`` of run N.
        points: in units of the data; in a laid out chart, in pixels from the upper left.
        name: for the values shown under the pointer; None: they are not shown.
    """

    style: str
    points: Points
    name: str | None = ""


@dataclass(frozen=True)
class Chart:
    """Lines over one pair of axes.

    Attributes:
        lines: in the order of drawing, in pixels.
        values: the same lines in units of the data.
        span: the first and the last x, in units of the data.
        names: of whole numbers on the x axis, where they stand for something else than steps.
    """

    width: int
    height: int
    lines: list[Line]
    values: list[Line]
    span: tuple[float, float]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    names: Sequence[str] = ()


# --- layout --------------------------------------------------------------------------------------------------------


def curve_chart(curve: dict[int, float], width: int = 640, height: int = 240, with_mean: bool = False) -> Chart:
    """The chart of values by step. ``with_mean``: the values faint, and their running mean over them."""
    points = finite_points(curve)
    if not with_mean:
        return lay_out([Line("line", thinned(points))], width, height)
    return lay_out(
        [Line("line faint", thinned(points), None), Line("line", thinned(running_mean(points)), "mean")], width, height
    )


def compared_chart(curves: Mapping[str, dict[int, float]], with_mean: bool = False) -> Chart:
    """The chart of one metric of several runs, by the runs' names. Each run keeps the colour of its place."""
    lines = []
    for number, (name, curve) in enumerate(curves.items()):
        points = finite_points(curve)
        style = f"line c{number % MOST_RUNS}"
        lines.append(Line(style, thinned(running_mean(points) if with_mean else points), name))
    return lay_out(lines)


def finite_points(curve: dict[int, float]) -> Points:
    return [(float(step), value) for step, value in curve.items() if abs(value) < MOST]


def thinned(points: Points) -> Points:
    """At most MAX_POINTS points: means over blocks of neighbours."""
    size = max(1, -(-len(points) // MAX_POINTS))
    blocks = (points[first : first + size] for first in range(0, len(points), size))
    return [(sum(x for x, _ in block) / len(block), sum(y for _, y in block) / len(block)) for block in blocks]


def running_mean(points: Points) -> Points:
    """The exponential mean of the values, over a part of the curve that does not depend on its length."""
    weight = min(1.0, MEAN_STEPS / max(len(points), 1))
    means: Points = []
    for x, y in points:
        before = means[-1][1] if means else y
        means.append((x, before + weight * (y - before)))
    return means


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers that cover a range, at distances of 1, 2 or 5 times a power of ten."""
    if high - low <= LEAST:
        margin = abs(low) * 0.5 if abs(low) > LEAST else 1.0
        low, high = (0.0, high + margin) if low >= 0 else (low - margin, high + margin)
    if low > 0 and low < 0.3 * (high - low):  # an axis that starts at 0 says more
        low = 0.0
    rough = (high - low) / MOST_INTERVALS
    unit = 10.0 ** floor(log10(rough))
    distance = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * (1 - 1e-9))
    first, last = floor(low / distance + 1e-9), ceil(high / distance - 1e-9)
    # Through text: 3 * 0.1 is not 0.3.
    return [float(f"{number * distance:.12g}") for number in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A number on an axis: 0, 0.05, 12,000, 2e-05."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.6f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.3g}"


def lay_out(lines: list[Line], width: int = 640, height: int = 240, names: Sequence[str] = ()) -> Chart:
    """Place lines, in units of the data, on a chart. ``names``: of the places 0, 1, ... on the x axis."""
    xs = [x for line in lines for x, _ in line.points] or [0.0]
    ys = sorted(y for line in lines for _, y in line.points) or [0.0]
    first, last = min(xs), max(xs)
    marks = nice_ticks(ys[0], ys[min(len(ys) - 1, int(len(ys) * SHOWN_SHARE))])
    low, high = marks[0], marks[-1]
    left, right, top, bottom = LEFT, width - RIGHT, TOP, height - BOTTOM

    def place_x(x: float) -> float:
        return left + (x - first) / ((last - first) or 1.0) * (right - left)

    def place_y(y: float) -> float:
        return bottom - (min(max(y, low), high) - low) / (high - low) * (bottom - top)

    placed = [Line(style, [(place_x(x), place_y(y)) for x, y in points], name) for style, points, name in lines]
    y_ticks = [Tick(place_y(value), tick_text(value), "end") for value in marks]
    return Chart(width, height, placed, lines, (first, last), _x_ticks(first, last, place_x, names), y_ticks, names)


def _x_ticks(first: float, last: float, place_x: Callable[[float], float], names: Sequence[str]) -> list[Tick]:
    if names:
        chosen = dict.fromkeys([0, len(names) // 2, len(names) - 1])
        marks = [(float(number), names[number]) for number in chosen]
    else:
        inside = [value for value in nice_ticks(first, last) if first <= value <= last and value == int(value)]
        marks = [(value, f"{value:,.0f}") for value in inside or [first]]

    def anchor(x: float) -> str:
        share = (x - first) / ((last - first) or 1.0)
        return "start" if share < 0.05 else "end" if share > 0.95 else "middle"

    return [Tick(place_x(x), text, anchor(x)) for x, text in marks]


# --- renderers -----------------------------------------------------------------------------------------------------


def to_svg(chart: Chart, title: str, unit: str = "step") -> str:
    """An SVG element in a box, to be styled by SVG_STYLE; SVG_SCRIPT shows its values. ``unit``: of the x axis."""
    parts = []
    for tick in chart.y_ticks:
        y, right = tick.position, chart.width - RIGHT
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="axis"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="{tick.anchor}">{html.escape(tick.text)}</text>'
        )
    for tick in chart.x_ticks:
        x, y = tick.position, chart.height - 6
        parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="{tick.anchor}">{html.escape(tick.text)}</text>')
    for line in chart.lines:
        if len(line.points) == 1:
            (x, y), style = line.points[0], line.style.replace("line", "dot")
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{DOT_RADIUS}" class="{style}"/>')
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in line.points)
        parts.append(f'<polyline class="{line.style}" points="{places}"/>')
    data = html.escape(json.dumps(_data_of(chart, unit), separators=(",", ":")))
    head = f'viewBox="0 0 {chart.width} {chart.height}" role="img" aria-label="{html.escape(title)}"'
    return f'<div class="chart-box"><svg class="chart" {head} data-chart="{data}">{"".join(parts)}</svg></div>'


def _data_of(chart: Chart, unit: str) -> dict[str, object]:
    """What SVG_SCRIPT needs to show the values."""
    lines = [
        {"name": line.name, "points": [(round(x, 1), float(f"{y:.{DIGITS}g}")) for x, y in line.points]}
        for line in chart.values
        if line.name is not None
    ]
    first, last = chart.span
    area = {"left": LEFT, "right": chart.width - RIGHT, "top": TOP, "bottom": chart.height - BOTTOM}
    return {**area, "first": first, "last": last, "unit": unit, "names": list(chart.names), "lines": lines}


def to_image(chart: Chart) -> Image.Image:
    """An RGB image of the chart on white."""
    image = Image.new("RGB", (chart.width, chart.height), "white")
    draw = ImageDraw.Draw(image)

    def write(x: float, y: float, tick: Tick) -> None:
        """``y``: of the text's middle."""
        left, top, right, bottom = draw.textbbox((0, 0), tick.text)
        shift = {"start": 0.0, "middle": 0.5, "end": 1.0}[tick.anchor] * (right - left)
        draw.text((x - shift - left, y - (top + bottom) / 2), tick.text, fill=TEXT_COLOUR)

    for tick in chart.y_ticks:
        draw.line([(LEFT, tick.position), (chart.width - RIGHT, tick.position)], fill=AXIS_COLOUR)
        write(LEFT - 6, tick.position, tick)
    for tick in chart.x_ticks:
        write(tick.position, chart.height - BOTTOM / 2, tick)
    for style, points, _ in chart.lines:
        if len(points) == 1:
            (x, y), r = points[0], DOT_RADIUS
            draw.ellipse([(x - r, y - r), (x + r, y + r)], fill=LINE_COLOURS[style])
        else:
            draw.line(points, fill=LINE_COLOURS[style], width=LINE_WIDTHS[style], joint="curve")
    return image
