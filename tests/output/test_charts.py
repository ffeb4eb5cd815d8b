"""Charts: one layout, two renderers."""

from __future__ import annotations

import html
import json
import re
from math import inf, nan

import numpy as np
import pytest

from mindone_ddpm.output import charts
from mindone_ddpm.output.charts import Line

LINE = [(0.0, 1.0), (10.0, 3.0), (20.0, 2.0)]
BLUE = (31, 95, 168)


def test_lines_are_where_the_values_are():
    chart = charts.lay_out([Line("line", LINE)], 640, 240)
    found = re.search(r'points="([^"]*)"', charts.to_svg(chart, "x")).group(1)
    assert found == "62.0,214.0 344.0,10.0 626.0,112.0"
    pixels = np.asarray(charts.to_image(chart))
    assert pixels.shape == (240, 640, 3)
    for x, y in chart.lines[0][1]:
        near = pixels[max(0, round(y) - 2) : round(y) + 3, round(x) - 2 : round(x) + 3].reshape(-1, 3)
        assert (near == BLUE).all(1).any(), (x, y)
    assert not (pixels[100:, 300:320] == BLUE).all(2).any()  # below the line


def test_axes_are_labelled():
    chart = charts.lay_out([Line("line", [(0.0, 0.0), (20_000.0, 1.0)])], 640, 240)
    assert [tick.text for tick in chart.x_ticks] == ["0", "5,000", "10,000", "15,000", "20,000"]
    assert [tick.text for tick in chart.y_ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    svg = charts.to_svg(chart, "a < b")
    assert 'aria-label="a &lt; b"' in svg and ">10,000</text>" in svg and 'text-anchor="middle"' in svg
    pixels = np.asarray(charts.to_image(chart)).astype(int)
    dark = (pixels.sum(2) < 600) & (abs(pixels - BLUE).sum(2) > 60)
    assert dark[:, :60].any() and dark[215:, 330:360].any() and not dark[:, 636:].any()


def test_long_curves_are_thinned_by_means():
    points = [(float(step), float(step % 2)) for step in range(1, 6001)]
    drawn = charts.thinned(points)
    assert len(drawn) == 600 and all(value == 0.5 for _, value in drawn)
    (line,) = charts.curve_chart({1: nan, 2: 5.0}).lines
    assert len(line.points) == 1


def test_a_running_mean_is_over_a_part_of_the_curve():
    step_up = [(float(step), float(step >= 500)) for step in range(1000)]
    means = [value for _, value in charts.running_mean(step_up)]
    assert means[0] == means[499] == 0 and means[510] == pytest.approx(1 - 0.95**11) and means[-1] > 0.99
    assert charts.running_mean(LINE) == LINE  # of a short curve, the curve
    lines = charts.curve_chart(dict(step_up), with_mean=True).lines
    assert [line.style for line in lines] == ["line faint", "line"]


def test_a_first_spike_is_cut_off():
    chart = charts.curve_chart({0: 1000.0, **{step: step / 500 for step in range(1, 500)}})
    assert chart.y_ticks[-1].text != "1e+03" and chart.lines[0].points[0][1] == charts.TOP


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.0, 1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (3.23e-9, 1e-3, ["0", "0.0002", "0.0004", "0.0006", "0.0008", "0.001"]),
        (0.31, 0.34, ["0.31", "0.32", "0.33", "0.34"]),
        (-3.0, 7.0, ["-4", "-2", "0", "2", "4", "6", "8"]),
        (1e-8, 5e-8, ["0", "1e-08", "2e-08", "3e-08", "4e-08", "5e-08"]),
        (65536.0, 65536.0, ["0", "20,000", "40,000", "60,000", "80,000", "100,000"]),
        (0.0, 0.0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (2e6, 9e6, ["0", "2e+06", "4e+06", "6e+06", "8e+06", "1e+07"]),
    ],
)
def test_axes_end_at_round_numbers(low, high, texts):
    marks = charts.nice_ticks(low, high)
    assert marks[0] <= low and marks[-1] >= high
    shown = [charts.tick_text(mark) for mark in marks]
    assert len(set(shown)) == len(shown) <= 8
    assert shown == texts


def test_a_page_shows_the_values_of_every_line():
    chart = charts.compared_chart({"a <b>": {1: 0.5, 2: nan, 3: 0.123456789}, "c": {2: 1e300, 3: 1.0}})
    svg = charts.to_svg(chart, "loss")
    assert "<b>" not in svg and "e+300" not in svg
    data = json.loads(html.unescape(re.search(r'data-chart="([^"]*)"', svg)[1]))
    assert data["lines"] == [
        {"name": "a <b>", "points": [[1, 0.5], [3, 0.123457]]},
        {"name": "c", "points": [[3, 1.0]]},
    ]
    assert (data["first"], data["last"], data["unit"]) == (1, 3, "step")
    with_mean = charts.to_svg(charts.curve_chart({1: 0.5, 2: 0.25}, with_mean=True), "loss")
    assert with_mean.count("&quot;name&quot;") == 1  # of the mean alone


@pytest.mark.parametrize(
    "curve",
    [
        {1: 1e308, 2: -1e308},
        {1: 5e-324, 2: 1e-320},
        {1: nan, 2: 1.0, 3: inf, 4: 0.5},
        {1: nan, 2: inf},
        {},
        {7: 2.0},
        {1: 0.0, 2: 0.0},
        {1: 5.0, 2: 5.0},
    ],
)
def test_a_curve_with_holes_is_drawn(curve):
    chart = charts.curve_chart(curve, 720, 320, with_mean=True)
    assert charts.to_image(chart).size == (720, 320)
    svg = charts.to_svg(chart, "loss")
    assert "nan" not in svg and "inf" not in svg
    assert ("<circle" in svg) == (curve == {7: 2.0})
