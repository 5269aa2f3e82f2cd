"""Shortest paths of exactly n steps through a table of costs, by dynamic programming."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def shortest_path(
    costs: Tensor,
    steps: Sequence[int],
    growth: float = 1.0,
    memory: int = 0,
    endings: Sequence[Tensor] = (),
) -> dict[int, Tensor]:
    """For every step count n the path of exactly n steps from node 0 to node N whose total cost is least.

    The total of a path with the costs c_0, ..., c_{n-1} is sum_k growth^k c_k, so a growth above 1 spends steps on the
    clean end (GITS' coefficient, arXiv:2405.11326). Of equal totals the smallest origin is taken, from the last step
    back. One table answers all step counts.

    The cost of a step may depend on the nodes that the path visited before, as a multistep solver's step does. With
    `memory` 1 an entry [h, i, j] is the cost of the step from i to j of a path that came to i from h; with 2 an entry
    [g, h, i, j] that of one that came to h from g. Where fewer nodes came before, the oldest one that did is repeated:
    [i, i, j] is the cost of a first step.

    Args:
        costs: [..., N+1, N+1] and a further dimension N+1 for each node of the memory, the last two those of the step's
            origin i and end j; inf where there is no such step. Entries with j <= i, or with nodes that do not ascend,
            are not read.
        steps: step counts, each at least 1.
        growth: positive.
        memory: how many earlier nodes the cost of a step depends on.
        endings: tables like `costs` for the last steps where these differ, that of the very last step first.

    Returns:
        Indices of the nodes by step count, long [..., n+1].

    Raises:
        ValueError: costs of another shape, NaN among them, a step count below 1, a growth that is not positive and
            finite, or no path of n steps with a finite total.
    """
    nodes = costs.shape[-1] if costs.ndim else 0
    for table in (costs, *endings):
        if table.ndim < memory + 2 or set(table.shape[-memory - 2 :]) != {nodes} or nodes < 2:
            raise ValueError(
                f"costs must have shape [..., {', '.join(['N+1'] * (memory + 2))}] with N of at least 1, got "
                f"{list(table.shape)}"
            )
    if len(steps) == 0 or any(int(n) != n or n < 1 for n in steps):
        raise ValueError(f"step counts must be integers of at least 1, got {list(steps)}")
    if not (math.isfinite(growth) and growth > 0):
        raise ValueError(f"growth must be positive and finite, got {growth}")
    usual, *last = (_steps_forward(table, memory) for table in (costs, *endings))

    def longer(least: Tensor, table: Tensor, number: int) -> tuple[Tensor, Tensor]:
        return (least[..., None] + growth**number * table).min(-memory - 2)

    # the least totals of paths by their last memory + 1 nodes: all of them the first node at the start
    start = usual.new_full(usual.shape[:-1], torch.inf)
    start.flatten(-memory - 1)[..., 0] = 0.0
    common: list[Tensor] = [start]
    origins: list[Tensor] = []
    paths = {}
    for n in sorted({int(n) for n in steps}):
        shared = max(0, n - len(last))
        while len(common) <= shared:
            least, origin = longer(common[-1], usual, len(origins))
            common.append(least)
            origins.append(origin)
        least, own = common[shared], []
        for number in range(shared, n):
            least, origin = longer(least, last[n - 1 - number], number)
            own.append(origin)
        paths[n] = _read_back(least, [*origins[:shared], *own], memory)
    return paths


def forward(nodes: int, memory: int = 0) -> Tensor:
    """Which entries of a table [nodes, ..., nodes] are read: those whose nodes ascend."""
    axes = torch.meshgrid(*[torch.arange(nodes)] * (memory + 2), indexing="ij")
    ascend = axes[-2] < axes[-1]
    for before, after in pairwise(axes[:-1]):
        ascend = ascend & (before <= after)
    return ascend


def _steps_forward(costs: Tensor, memory: int) -> Tensor:
    """The table in float64 with inf for whatever is no step forward."""
    steps = costs.double().masked_fill(~forward(costs.shape[-1], memory).to(costs.device), torch.inf)
    if bool(steps.isnan().any()):
        raise ValueError("costs of steps to a later node must be numbers, and some are NaN")
    return steps


def _read_back(least: Tensor, origins: Sequence[Tensor], memory: int) -> Tensor:
    """Path [..., n+1] to the last node, from the least totals of all paths of n steps by their last nodes, and the node
    before these at 1, ..., n steps."""
    nodes = least.shape[-1]
    last = least[..., -1].flatten(least.ndim - memory - 1) if memory else least[..., -1:]
    if not bool(torch.isfinite(last.min(-1).values).all()):
        raise ValueError(f"no path of {len(origins)} steps from node 0 to node {nodes - 1} has a finite cost")
    earlier = last.argmin(-1, keepdim=True)
    # the last memory + 1 nodes as one number
    state = earlier * nodes + nodes - 1 if memory else torch.full_like(earlier, nodes - 1)
    path = [state % nodes]
    for origin in reversed(origins):
        before = origin.flatten(origin.ndim - memory - 1).gather(-1, state)
        state = before * nodes**memory + state // nodes
        path.append(state % nodes)
    return torch.cat(path[::-1], -1)
