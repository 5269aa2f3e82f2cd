"""Shortest paths of exactly n steps through a table of costs, by dynamic programming."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def shortest_path(costs: Tensor, steps: Sequence[int], growth: float = 1.0) -> dict[int, Tensor]:
    """For every step count n the path of exactly n steps from node 0 to node N whose total cost is least.

    The total of a path with the costs c_0, ..., c_{n-1} is sum_k growth^(n-1-k) c_k: `growth` multiplies the sum so far
    at every step, as an error grows that later steps carry on. Of equal totals the smallest origin is taken, from the
    last step back. One table answers all step counts.

    Args:
        costs: [..., N+1, N+1]; entry [i, j] with j > i is the cost of a step from node i to node j, inf where there is
            no such step. Other entries are not read.
        steps: step counts, each at least 1.
        growth: positive.

    Returns:
        Indices of the nodes by step count, long [..., n+1].

    Raises:
        ValueError: costs of another shape, NaN among them, a step count below 1, a growth that is not positive and
            finite, or no path of n steps with a finite total.
    """
    if costs.ndim < 2 or costs.shape[-1] != costs.shape[-2] or costs.shape[-1] < 2:
        raise ValueError(f"costs must have shape [..., N+1, N+1] with N of at least 1, got {list(costs.shape)}")
    if len(steps) == 0 or any(int(n) != n or n < 1 for n in steps):
        raise ValueError(f"step counts must be integers of at least 1, got {list(steps)}")
    if not (math.isfinite(growth) and growth > 0):
        raise ValueError(f"growth must be positive and finite, got {growth}")
    later = torch.ones(costs.shape[-2:], dtype=torch.bool, device=costs.device).triu(1)
    forward = costs.double().masked_fill(~later, torch.inf)
    if bool(forward.isnan().any()):
        raise ValueError("costs of steps to a later node must be numbers, and some are NaN")
    least, origins, paths = forward[..., 0, :], [torch.zeros_like(forward[..., 0, :], dtype=torch.long)], {}
    counts = sorted({int(n) for n in steps})
    for n in range(1, counts[-1] + 1):
        if n > 1:
            least, origin = (growth * least[..., :, None] + forward).min(-2)
            origins.append(origin)
        if n in counts:
            if not bool(torch.isfinite(least[..., -1]).all()):
                raise ValueError(f"no path of {n} steps from node 0 to node {costs.shape[-1] - 1} has a finite cost")
            paths[n] = _read_back(origins)
    return paths


def _read_back(origins: Sequence[Tensor]) -> Tensor:
    """Path [..., n+1] to the last node, from the origin [..., N+1] of every node's last step at 1, ..., n steps."""
    node = torch.full_like(origins[0][..., :1], origins[0].shape[-1] - 1)
    path = [node]
    for origin in reversed(origins):
        node = origin.gather(-1, node)
        path.append(node)
    return torch.cat(path[::-1], -1)
