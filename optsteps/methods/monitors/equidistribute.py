"""Equal shares of a profile: the points that divide its total into as many equal parts as there are steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def equidistribute(clock: Tensor, increments: Tensor, steps: Sequence[int]) -> dict[int, Tensor]:
    """For every step count n the points on the clock between which the increments sum to 1/n of their total.

    An increment is spread evenly over its interval, so that the cumulated increments are linear on it. Where they are
    constant no point comes to lie but at an end. One profile answers all step counts.

    Args:
        clock: [K+1], strictly monotone and finite.
        increments: [K], those of the intervals between its points; not negative, with a positive total.
        steps: step counts, each at least 1.

    Returns:
        Points by step count, float64 [n+1], in the clock's direction; its first and last point exactly.

    Raises:
        ValueError: a clock or increments as they must not be, or a step count below 1.
    """
    clock, increments = clock.double(), increments.double()
    lengths = clock.diff()
    monotone = bool((lengths > 0).all()) or bool((lengths < 0).all())
    if clock.ndim != 1 or len(clock) < 2 or not (monotone and bool(clock.isfinite().all())):
        raise ValueError(f"a clock is a list of at least two finite numbers, strictly monotone; got {clock.tolist()}")
    if increments.shape != lengths.shape:
        raise ValueError(
            f"{len(clock)} points have {len(lengths)} increments between them, got {list(increments.shape)}"
        )
    total = increments.sum()
    if not bool((increments >= 0).all()) or not bool(total.isfinite()) or total <= 0:
        raise ValueError(f"increments must be finite, not negative and not all 0, got {increments.tolist()}")
    if len(steps) == 0 or any(int(n) != n or n < 1 for n in steps):
        raise ValueError(f"step counts must be integers of at least 1, got {list(steps)}")
    cumulated = torch.cat([increments.new_zeros(1), increments.cumsum(0)])
    points = {}
    for n in sorted({int(n) for n in steps}):
        inner = cumulated[-1] * torch.arange(1, n, dtype=torch.float64) / n
        points[n] = torch.cat([clock[:1], interpolated(inner, cumulated, clock), clock[-1:]])
    return points


def interpolated(at: Tensor, nodes: Tensor, values: Tensor) -> Tensor:
    """Values [K] at the ascending nodes [K], interpolated linearly; beyond the nodes the nearest one's."""
    above = torch.searchsorted(nodes, at).clamp(1, len(nodes) - 1)
    width = nodes[above] - nodes[above - 1]
    share = (at - nodes[above - 1]) / torch.where(width > 0, width, 1.0)
    return torch.lerp(values[above - 1], values[above], share.clamp(0, 1))
