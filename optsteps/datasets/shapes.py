"""Outlines of eight shapes that tell apart in a dozen pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# the star's outer and inner radius, and how far its box's middle lies above its own
_TIP, _NOTCH = 1.25, 0.56
_STAR_RISE = _TIP * (1 - math.cos(math.pi / 5)) / 2


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    # standing on its base; a side runs from (0, -0.95) to (1.05, 0.95)
    length = math.hypot(1.9, 1.05)
    return torch.maximum((1.9 * x.abs() - 1.05 * (y + 0.95)) / length, y - 0.95)


def _diamond(x: Tensor, y: Tensor) -> Tensor:
    return (x.abs() + y.abs() - 1.2) / math.sqrt(2)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 1.08, 0.36), _box(x, y, 0.36, 1.08))


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.85).abs() - 0.27


def _star(x: Tensor, y: Tensor) -> Tensor:
    # folded into the tenth of the circle between a tip, at angle 0, and a notch, at 36 degrees
    y = y - _STAR_RISE
    angle = torch.atan2(x, -y) / (2 * math.pi / 5)
    angle = (angle - angle.round()).abs() * (2 * math.pi / 5)
    radius = torch.hypot(x, y)
    along, across = radius * angle.cos(), radius * angle.sin()
    notch_x, notch_y = _NOTCH * math.cos(math.pi / 5), _NOTCH * math.sin(math.pi / 5)
    edge_x, edge_y = notch_x - _TIP, notch_y
    return ((along - _TIP) * edge_y - across * edge_x) / math.hypot(edge_x, edge_y)


# name: signed distance to the outline of size 1 in y-down coordinates around its box's middle, and its half width and
# half height
_OUTLINES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float, float]] = {
    "circle": (_circle, 1.0, 1.0),
    "square": (lambda x, y: _box(x, y, 0.9, 0.9), 0.9, 0.9),
    "triangle": (_triangle, 1.05, 0.95),
    "diamond": (_diamond, 1.2, 1.2),
    "cross": (_cross, 1.08, 1.08),
    "ring": (_ring, 1.12, 1.12),
    "star": (_star, _TIP * math.sin(2 * math.pi / 5), _TIP - _STAR_RISE),
    "bar": (lambda x, y: _box(x, y, 1.3, 0.48), 1.3, 0.48),
}
SHAPES = tuple(_OUTLINES)


def half_extent(shape: str, size: float) -> tuple[float, float]:
    """Half the width and height in pixels of a shape's box."""
    _, half_width, half_height = _OUTLINES[shape]
    return half_width * size, half_height * size


def coverage(shape: str, x: Tensor, y: Tensor, size: Tensor) -> Tensor:
    """How much of each pixel a shape covers, in [0, 1].

    Args:
        shape: one of SHAPES.
        x, y: offsets in pixels of the pixels' middles from the middle of the shape's box, y downwards.
        size: of the shape in pixels, all three of shapes that broadcast.
    """
    outline, _, _ = _OUTLINES[shape]
    # half a pixel on either side of the outline: exact where a straight edge runs along the grid
    return (0.5 - size * outline(x / size, y / size)).clamp(0, 1)
