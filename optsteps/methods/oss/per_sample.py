"""OSS as published: a programme for every sample by itself, and the average of the samples' paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optsteps.methods.base import SearchProblem
from optsteps.methods.oss.programme import Paths, Programme, least_costs, read_back
from optsteps.storage.shards import storable


@storable
@dataclass(frozen=True)
class SamplePaths:
    """The choices of a shard of samples by step count: paths [b, n+1], choices of orders as orders [b, n], and final
    costs [b]."""

    paths: dict[int, Tensor]
    orders: dict[int, Tensor]
    finals: dict[int, Tensor]


class PerSample(Programme):
    """One round: the whole search of every sample, whose paths are then averaged."""

    def rounds(self, steps: Sequence[int]) -> int:
        return 1

    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> SamplePaths:
        grid = self.started(problem, steps, index)
        least = torch.full((len(grid), grid.last + 1), torch.inf, dtype=torch.float64)
        origin = torch.zeros_like(least, dtype=torch.long)
        choice = torch.zeros_like(origin)
        levels, finals = [], {}
        for k, (sources, targets) in enumerate(self.levels(grid.last, steps), start=1):
            if not self.published:
                least.fill_(torch.inf)  # exactly k steps: nothing is kept from the level before
            grid.evaluate(sources, targets)
            # sample by sample: the table of one sample is all that lies in memory
            best = [least_costs(self.costs(grid, b, sources, targets)) for b in range(len(grid))]
            costs, chosen, source = (torch.stack(part) for part in zip(*best, strict=True))
            source = sources[source]
            better = costs < least[:, targets]
            grid.advance(chosen, source, targets, better)
            for table, new in ((least, costs), (origin, source), (choice, chosen)):
                table[:, targets] = torch.where(better, new, table[:, targets])
            levels.append((origin.clone(), choice.clone()))
            if k in steps:
                finals[k] = grid.final_mse()
        read = {n: read_back(levels[:n]) for n in steps}
        orders = torch.tensor(grid.choices)
        return SamplePaths(
            {n: path for n, (path, _) in read.items()}, {n: orders[chosen] for n, (_, chosen) in read.items()}, finals
        )

    def combine(
        self, problem: SearchProblem, steps: Sequence[int], partials: Sequence[SamplePaths], decision: Any = None
    ) -> Paths:
        """Average the samples' paths; a step's order is the samples' most frequent one."""
        paths, orders, finals = (
            {n: torch.cat([getattr(part, name)[n] for part in partials]) for n in steps}
            for name in ("paths", "orders", "finals")
        )
        nodes = self.nodes(problem)
        return Paths(
            {n: nodes[self.averaged(paths[n], len(nodes) - 1)] for n in steps},
            {n: orders[n].mode(0).values for n in steps},
            {n: nodes[paths[n]] for n in steps},
            orders,
            {"final_mse": finals},
        )

    def averaged(self, paths: Tensor, last: int) -> Tensor:
        """One path [n+1] for paths [B, n+1] of nodes 0 ... last: their mean or median, index by index."""
        count = len(paths)
        if self.average == "mean":
            return (2 * paths.sum(0) + count) // (2 * count)
        if self.published:
            # the released code counts, sorts and truncates from the clean end
            from_clean = (last - paths).sort(0).values
            return last - (from_clean[count // 2] + from_clean[count // 2 - 1]) // 2
        ordered = paths.sort(0).values
        return (ordered[(count - 1) // 2] + ordered[count // 2] + 1) // 2
