"""The released searches of Optimal Stepsize Distillation (arXiv:2503.21774) as plain loops: yardsticks for `OSS`.

Written from a description of how the released code behaves, and deliberately naive: one image at a time, one node at a
time, a Python loop over every pair of nodes; the batched search has all nodes of an image in one batch. It shares
nothing with `optsteps.methods`, works in flow coordinates whatever the process, and numbers nodes as the paper does:
0 is the clean end, N the noisy one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optsteps.processes import Process


@dataclass
class FlowView:
    """A denoiser seen in flow coordinates, x / (alpha + sigma) at flow time u = sigma / (alpha + sigma), where it is
    the velocity v = eps - x_0 = (x - D) / u.

    Attributes:
        denoiser: D(x, t, cond) in the process's own coordinates.
        process: its noising process.
        times: the nodes' times on the process's clock, clean end first.
        evaluations: network evaluations so far, one per sample.
    """

    denoiser: Callable[..., Tensor]
    process: Process
    times: list[float]
    evaluations: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        alpha, sigma = self.process.alpha(self.times).tolist(), self.process.sigma(self.times).tolist()
        self.size = [a + s for a, s in zip(alpha, sigma, strict=True)]
        self.u = [s / size for s, size in zip(sigma, self.size, strict=True)]

    @property
    def last(self) -> int:
        """N, the noisy end."""
        return len(self.times) - 1

    def velocity(self, x: Tensor, nodes: list[int], cond: Any) -> Tensor:
        """v of x [B, ...], whose samples lie at `nodes`, in flow coordinates."""
        self.evaluations += len(x)
        shape = (-1,) + (1,) * (x.ndim - 1)
        size = torch.tensor([self.size[i] for i in nodes], dtype=x.dtype).reshape(shape)
        u = torch.tensor([self.u[i] for i in nodes], dtype=x.dtype).reshape(shape)
        times = torch.tensor([self.times[i] for i in nodes], dtype=torch.float64)
        with torch.no_grad():
            return (x - self.denoiser(x * size, times, cond)) / u

    def teacher(self, z: Tensor, cond: Any) -> list[Tensor]:
        """States [B, ...] at every node of the walk from z over all of them."""
        states = [z] * (self.last + 1)
        for i in range(self.last, 0, -1):
            v = self.velocity(states[i], [i] * len(z), cond)
            states[i - 1] = states[i] + (self.u[i - 1] - self.u[i]) * v
        return states


@dataclass
class Traced:
    """What a search of one image (or, pooled, of one batch) decided.

    Attributes:
        path: node indices [M+1], clean end first, as the paper's read-back produces them.
        origin: for every level 1 ... M and node, the node its state came from; N where there is none.
        least: for every level and node, the cost that chose it, in flow coordinates.
        edges: for every level, the cost of every step (i, j) that could have chosen j there.
    """

    path: list[int]
    origin: list[list[int]]
    least: list[list[float]]
    edges: list[dict[tuple[int, int], float]]


def read_back(origin: list[list[int]]) -> list[int]:
    """The path from the clean end: at every level, last to first, the node that the level says one came from."""
    path = [0]
    for level in reversed(origin):
        path.append(level[path[-1]])
    return path


def published_search(view: FlowView, z: Tensor, cond: Any, steps: int, start: str = "free") -> Traced:
    """The released programme for one image.

    The noise may start at any node, unscaled in flow coordinates; a level begins from all that the one before decided,
    so that it means "at most k steps"; the read-back looks each level's origin up in that level's table, although the
    state it leads to may have been made at an earlier one.

    Args:
        z: the teacher's initial state in flow coordinates, [1, ...].
        cond: condition of this image, batch size 1, or None.
        steps: M.
        start: "free" as released; "teacher" lets the first step leave from N alone.
    """
    last = view.last
    teacher = view.teacher(z, cond)
    current = [z] * (last + 1)
    least, origin = [float("inf")] * (last + 1), [last] * (last + 1)
    seen: dict[tuple[int, int], float] = {}
    traced = Traced([], [], [], [])
    for level in range(1, steps + 1):
        following = list(current)
        lowest = last if start == "teacher" and level == 1 else 1
        for i in range(last, lowest - 1, -1):
            v = view.velocity(current[i], [i], cond)
            for j in range(i - 1, -1, -1):
                candidate = current[i] + (view.u[j] - view.u[i]) * v
                cost = float(((candidate - teacher[j]) ** 2).mean())
                seen[i, j] = min(cost, seen.get((i, j), cost))
                if cost < least[j]:
                    least[j], origin[j], following[j] = cost, i, candidate
        current = following
        traced.least.append(list(least))
        traced.origin.append(list(origin))
        traced.edges.append(dict(seen))
    traced.path = read_back(traced.origin)
    return traced


def batched_search(view: FlowView, z: Tensor, cond: Any, steps: int) -> list[int]:
    """The released batched search of one image (`search_OSS_batch`): at every level one call of the network with the
    states at all N nodes; then node by node the steps to all later nodes, here as one product.

    It decides as `published_search` and returns the same path, node indices [M+1] from the clean end. `cond` is a
    tensor of batch size 1 or None.
    """
    last = view.last
    u = torch.tensor(view.u, dtype=z.dtype)
    places = (-1,) + (1,) * (z.ndim - 1)
    teacher = torch.cat(view.teacher(z, cond))
    current = z.expand(last + 1, *z.shape[1:]).clone()
    least = torch.full((last + 1,), float("inf"), dtype=z.dtype)
    origin = torch.full((last + 1,), last)
    conds = None if cond is None else cond.expand(last, *cond.shape[1:])
    levels = []
    for _ in range(steps):
        velocities = view.velocity(current[1:], list(range(1, last + 1)), conds)
        following = current.clone()
        for i in range(last, 0, -1):
            candidates = current[i] + (u[:i] - u[i]).reshape(places) * velocities[i - 1]
            costs = (candidates - teacher[:i]).square().flatten(1).mean(1)
            better = (costs < least[:i]).nonzero()[:, 0]
            least[better], origin[better], following[better] = costs[better], i, candidates[better]
        current = following
        levels.append(origin.tolist())
    return read_back(levels)


def cal_medium(paths: list[list[int]]) -> list[int]:
    """The released average of paths: index by index, the entries len//2 and len//2 - 1 of the sorted column, halved and
    truncated. For an odd count that is not the median."""
    half = len(paths) // 2
    columns = [sorted(column) for column in zip(*paths, strict=True)]
    return [(column[half] + column[half - 1]) // 2 for column in columns]
