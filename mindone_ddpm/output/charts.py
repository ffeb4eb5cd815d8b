"""Line charts: laid out once, rendered as SVG for a page or as an image for the model card."""

from __future__ import annotations

import html
from dataclasses import dataclass
from math import isfinite

from PIL import Image, ImageDraw

Points = list[tuple[float, float]]

MAX_POINTS = 600  # of a line; of more, means of neighbours are drawn
SHOWN_SHARE = 0.99  # of the values; the highest are cut off, since a first spike would flatten all others
MEAN_STEPS = 50  # a running mean goes over 1/50 of a curve
LEFT, RIGHT, TOP, BOTTOM = 62.0, 12.0, 10.0, 26.0  # margins in pixels
DOT_RADIUS = 3

# For a page, which defines the colours --line, --soft and --rule.
SVG_STYLE = """
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 12px; } .axis { stroke: var(--rule); }
.line { fill: none; stroke: var(--line); stroke-width: 1.5; } .earlier { stroke: var(--soft); }
.faint { opacity: .35; stroke-width: 1; } .dot { fill: var(--line); }
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


@dataclass(frozen=True)
class Chart:
    """Lines over one pair of axes, in pixels from the upper left.

    Attributes:
        lines: (style, points) of each, in the order of drawing; styles are ``line``, ``line faint``, ``line earlier``.
    """

    width: int
    height: int
    lines: list[tuple[str, Points]]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


# --- layout --------------------------------------------------------------------------------------------------------


def curve_chart(curve: dict[int, float], width: int = 640, height: int = 240, with_mean: bool = False) -> Chart:
    """The chart of values by step. ``with_mean``: the values faint, and their running mean over them."""
    points = [(float(step), value) for step, value in curve.items() if isfinite(value)]
    lines = [("line", thinned(points))]
    if with_mean:
        lines = [("line faint", thinned(points)), ("line", thinned(running_mean(points)))]
    return lay_out(lines, width, height)


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


def lay_out(lines: list[tuple[str, Points]], width: int = 640, height: int = 240) -> Chart:
    """Place lines, given as (style, points in units of the data), on a chart."""
    xs = [x for _, points in lines for x, _ in points] or [0.0]
    ys = sorted(y for _, points in lines for _, y in points) or [0.0]
    first, last = min(xs), max(xs)
    low, high = ys[0], ys[min(len(ys) - 1, int(len(ys) * SHOWN_SHARE))]
    if high <= low:
        low, high = low - abs(low) * 0.5 - 1e-9, high + abs(high) * 0.5 + 1e-9
    left, right, top, bottom = LEFT, width - RIGHT, TOP, height - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / ((last - first) or 1.0)
        up = (min(max(y, low), high) - low) / (high - low)
        return left + across * (right - left), bottom - up * (bottom - top)

    shares = ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    return Chart(
        width,
        height,
        [(style, [place(x, y) for x, y in points]) for style, points in lines],
        [Tick(left + s * (right - left), f"{first + s * (last - first):,.0f}", anchor) for s, anchor in shares],
        [Tick(bottom - s * (bottom - top), f"{low + s * (high - low):.3g}", "end") for s, _ in shares],
    )


# --- renderers -----------------------------------------------------------------------------------------------------


def to_svg(chart: Chart, title: str) -> str:
    """An SVG element, to be styled by SVG_STYLE."""
    parts = []
    for tick in chart.y_ticks:
        y, right = tick.position, chart.width - RIGHT
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="axis"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="{tick.anchor}">{tick.text}</text>')
    for tick in chart.x_ticks:
        x, y = tick.position, chart.height - 6
        parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="{tick.anchor}">{tick.text}</text>')
    for style, points in chart.lines:
        if len(points) == 1:
            parts.append(f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="{DOT_RADIUS}" class="dot"/>')
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="{style}" points="{places}"/>')
    label = html.escape(title)
    return f'<svg viewBox="0 0 {chart.width} {chart.height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


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
    for style, points in chart.lines:
        if len(points) == 1:
            (x, y), r = points[0], DOT_RADIUS
            draw.ellipse([(x - r, y - r), (x + r, y + r)], fill=LINE_COLOURS[style])
        else:
            draw.line(points, fill=LINE_COLOURS[style], width=LINE_WIDTHS[style], joint="curve")
    return image
