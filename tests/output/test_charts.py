"""Charts: one layout, two renderers."""

from __future__ import annotations

import re
from math import inf, nan

import numpy as np
import pytest

from mindone_ddpm.output import charts

LINE = [(0.0, 1.0), (10.0, 3.0), (20.0, 2.0)]
BLUE = (31, 95, 168)


def test_lines_are_where_the_values_are():
    chart = charts.lay_out([("line", LINE)], 640, 240)
    found = re.search(r'points="([^"]*)"', charts.to_svg(chart, "x")).group(1)
    assert found == "62.0,214.0 345.0,10.0 628.0,112.0"
    pixels = np.asarray(charts.to_image(chart))
    assert pixels.shape == (240, 640, 3)
    for x, y in chart.lines[0][1]:
        near = pixels[max(0, round(y) - 2) : round(y) + 3, round(x) - 2 : round(x) + 3].reshape(-1, 3)
        assert (near == BLUE).all(1).any(), (x, y)
    assert not (pixels[100:, 300:320] == BLUE).all(2).any()  # below the line


def test_axes_are_labelled():
    chart = charts.lay_out([("line", [(0.0, 0.0), (20_000.0, 1.0)])], 640, 240)
    assert [tick.text for tick in chart.x_ticks] == ["0", "10,000", "20,000"]
    assert [tick.text for tick in chart.y_ticks] == ["0", "0.5", "1"]
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
    assert len(line[1]) == 1


def test_a_running_mean_is_over_a_part_of_the_curve():
    step_up = [(float(step), float(step >= 500)) for step in range(1000)]
    means = [value for _, value in charts.running_mean(step_up)]
    assert means[0] == means[499] == 0 and means[510] == pytest.approx(1 - 0.95**11) and means[-1] > 0.99
    assert charts.running_mean(LINE) == LINE  # of a short curve, the curve
    lines = charts.curve_chart(dict(step_up), with_mean=True).lines
    assert [style for style, _ in lines] == ["line faint", "line"]


def test_a_first_spike_is_cut_off():
    chart = charts.curve_chart({0: 1000.0, **{step: step / 500 for step in range(1, 500)}})
    assert chart.y_ticks[-1].text != "1e+03" and chart.lines[0][1][0][1] == charts.TOP


@pytest.mark.parametrize(
    "curve", [{1: nan, 2: 1.0, 3: inf, 4: 0.5}, {1: nan, 2: inf}, {}, {7: 2.0}, {1: 0.0, 2: 0.0}, {1: 5.0, 2: 5.0}]
)
def test_a_curve_with_holes_is_drawn(curve):
    chart = charts.curve_chart(curve, 720, 320, with_mean=True)
    assert charts.to_image(chart).size == (720, 320)
    svg = charts.to_svg(chart, "loss")
    assert "nan" not in svg and "inf" not in svg
    assert ("<circle" in svg) == (curve == {7: 2.0})
