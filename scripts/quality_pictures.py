"""Pictures for scripts/time_to_quality.py: distance over minutes, and images of each row."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from results import mean_and_error

from mindone_ddpm.data.grids import make_grid
from mindone_ddpm.output.charts import RUN_COLOURS, nice_ticks, tick_text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 60, 20, 16, 48
TITLE_HEIGHT = 26
FONT = ImageFont.load_default(size=15)
MARKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)  # of the distance, which has a logarithmic axis

Points = list[tuple[float, float, float]]  # minutes, distance, standard error of the distance


def points_of(summaries: Sequence[Sequence[Path]], figure: str) -> Points:
    """A point for each row of a curve, from the summaries of its seeds; in the order of minutes."""
    found: Points = []
    for paths in summaries:
        runs = [json.loads(path.read_text()) for path in paths]
        if runs:
            distance, error = mean_and_error([run[figure] for run in runs])
            found.append((statistics.mean(run["minutes"] for run in runs), distance, error if len(runs) > 1 else 0.0))
    return sorted(found)


def draw_curves(curves: Mapping[str, Points], path: Path) -> None:
    """Distance over minutes with standard errors, a colour for each curve, its name below."""
    curves = {name: points for name, points in curves.items() if points}
    everything = [point for points in curves.values() for point in points]
    longest = 1.05 * max(minutes for minutes, _, _ in everything)
    low, high = (log10(limit(distance for _, distance, _ in everything)) for limit in (min, max))
    low, high = low - 0.1, high + 0.1

    def place(minutes: float, distance: float) -> tuple[float, float]:
        share = (log10(max(distance, 1e-9)) - low) / (high - low)
        return LEFT + minutes / longest * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    image = Image.new("RGB", (WIDTH, HEIGHT + 22 * len(curves)), "white")
    draw = ImageDraw.Draw(image)
    for mark in MARKS:
        if low <= log10(mark) <= high:
            _, y = place(0, mark)
            draw.line([(LEFT, y), (WIDTH - RIGHT, y)], fill="#dddddd")
            draw.text((LEFT - 8, y), f"{mark:g}", fill="#444444", font=FONT, anchor="rm")
    for minutes in nice_ticks(0, longest)[:-1]:  # the last one lies beyond
        x, y = place(minutes, 10**low)
        draw.text((x, y + 6), tick_text(minutes), fill="#444444", font=FONT, anchor="ma")
    draw.text((WIDTH - RIGHT, HEIGHT - 6), "minutes of one core; distance", fill="#444444", font=FONT, anchor="rs")
    for number, (name, points) in enumerate(curves.items()):
        colour = RUN_COLOURS[number % len(RUN_COLOURS)]
        draw.line([place(minutes, distance) for minutes, distance, _ in points], fill=colour, width=2)
        for minutes, distance, error in points:
            x, y = place(minutes, distance)
            draw.ellipse([(x - 4, y - 4), (x + 4, y + 4)], fill=colour)
            draw.line([place(minutes, distance - error), place(minutes, distance + error)], fill=colour, width=2)
        y = HEIGHT + 22 * number
        draw.line([(LEFT, y + 8), (LEFT + 24, y + 8)], fill=colour, width=3)
        draw.text((LEFT + 34, y), name, fill="#222222", font=FONT)
    image.save(path)


def draw_rows(images: Mapping[str, Sequence[Path]], path: Path) -> None:
    """A row of images under each title."""
    rows = {}
    for title, files in images.items():
        pixels = [np.atleast_3d(np.asarray(Image.open(file))) for file in files]
        rows[title] = make_grid(np.stack(pixels), columns=len(pixels))
    height = max(row.height for row in rows.values()) + TITLE_HEIGHT
    image = Image.new("RGB", (max(480, *(row.width for row in rows.values())), height * len(rows)), "white")
    draw = ImageDraw.Draw(image)
    for number, (title, row) in enumerate(rows.items()):
        draw.text((4, number * height + 4), title, fill="#222222", font=FONT)
        image.paste(row.convert("RGB"), (0, number * height + TITLE_HEIGHT))
    image.save(path)
