"""Style that all plots share, of matplotlib and of plotly: colours, one look a method, the scale of noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from optsteps.comparison import TEACHER

INK, FAINT = "#222222", "#8a8a8a"
# Okabe and Ito's colours for all kinds of sight, without the yellow; the first is the main method's
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
MARKERS = "osD^vPX"
DASHES = ("-", "--", ":", "-.")


class Look(NamedTuple):
    """The look of a method in every plot."""

    colour: str
    marker: str
    dashes: str
    width: float
    zorder: float


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """A look for each method by order of first appearance; the first is the most salient."""
    names = [name for name in dict.fromkeys(methods) if name != TEACHER]
    return {
        name: Look(
            COLOURS[i % len(COLOURS)],
            MARKERS[i % len(MARKERS)],
            DASHES[i // len(COLOURS) % len(DASHES)],
            2.4 if i == 0 else 1.4,
            4 if i == 0 else 3 - i / 100,
        )
        for i, name in enumerate(names)
    }


class LevelScale:
    """Noise levels on a log axis, with places at its ends for 0 and infinity, which a log axis does not have.

    Args:
        levels: all noise levels that will be drawn.
    """

    def __init__(self, levels: Tensor) -> None:
        inside = levels[torch.isfinite(levels) & (levels > 0)]
        low, high = (inside.min().item(), inside.max().item()) if len(inside) else (1.0, 1.0)
        self.floor, self.ceiling = low / 3, high * 3
        self.zero, self.infinity = bool((levels == 0).any()), bool(levels.isinf().any())
        # of the axis, with a margin
        self.limits = (self.floor if self.zero else low) / 1.5, (1.6 * self.ceiling if self.infinity else high) * 1.5

    def place(self, levels: Tensor) -> Tensor:
        """Where each level is drawn."""
        return levels.clamp(self.floor, self.ceiling)

    def hollow(self, levels: Tensor) -> Tensor:
        """Which levels are drawn at an end that stands for something else."""
        return (levels == 0) | levels.isinf()
