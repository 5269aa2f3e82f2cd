"""Outlines of shapes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optsteps.datasets.shapes import SHAPES, coverage, half_extent

# of size 1, from the vertices and radii
AREAS = {
    "circle": math.pi,
    "square": 1.8**2,
    "triangle": 1.05 * 1.9,
    "diamond": 2 * 1.2**2,
    "cross": 2 * 2.16 * 0.72 - 0.72**2,
    "ring": math.pi * (1.12**2 - 0.58**2),
    "star": 5 * 1.25 * 0.56 * math.sin(math.pi / 5),
    "bar": 2.6 * 0.96,
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SHAPES), st.floats(4, 9), st.floats(-2, 2), st.floats(-2, 2))
def test_area_and_box(shape: str, size: float, right: float, down: float) -> None:
    middles = torch.arange(32) - 15.5
    drawn = coverage(shape, middles - right, middles[:, None] - down, torch.tensor(size))
    area = AREAS[shape] * size**2
    # exact where edges run along the grid alone; corners and slanted edges are a little off
    assert float(drawn.sum()) == pytest.approx(area, abs=1.2 + 0.03 * area)
    touched = drawn > 0.05
    half_width, half_height = half_extent(shape, size)
    for axis, middle, half in ((0, right, half_width), (1, down, half_height)):
        line = middles[touched.any(axis)]
        reach = 2.0 if shape in ("star", "triangle") else 1.3  # tips thinner than a pixel fade before they end
        assert float(line.min()) - 0.5 == pytest.approx(middle - half, abs=reach)
        assert float(line.max()) + 0.5 == pytest.approx(middle + half, abs=reach)


def test_straight_edges_cover_exactly() -> None:
    middles = torch.arange(12) - 5.5
    drawn = coverage("square", middles - 0.3, middles[:, None], torch.tensor(5.0))
    row = drawn[6]  # from -4.2 to 4.8
    assert row[1] == pytest.approx(0.2, abs=1e-5)
    assert row[10] == pytest.approx(0.8, abs=1e-5)
    assert (row[2:10] == 1).all()
    assert row[0] == row[11] == 0
