"""OSS pooled: one programme for all samples, on costs averaged over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optsteps.methods.base import SearchProblem
from optsteps.methods.oss.grid import Grid
from optsteps.methods.oss.programme import Paths, Programme, least_costs, read_back
from optsteps.storage.shards import storable


@storable
@dataclass(frozen=True)
class PooledLevel:
    """A shard of samples at one level.

    Attributes:
        finals: final costs [b] of the step counts that are done.
        costs: the level's costs [M, I, J], summed over samples.
        sample_choices: for every target each sample's own choice of order and source [2, b, J].
        choices: the orders that the choices are numbers of.
        grid: the samples' nodes. They are too large for a store; where a shard was read from one, they are made again
            from the decisions.
    """

    finals: dict[int, Tensor]
    costs: Tensor
    sample_choices: Tensor
    choices: list[int]
    grid: Grid | None = field(default=None, metadata={"stored": False})


@dataclass(frozen=True)
class PooledDecision:
    """One level decided for all samples.

    Attributes:
        costs: mean costs [M, I, J].
        choice, origin: for every target the choice of order and the node of least cost [J].
        sample_choice, sample_origin: each sample's own [B, J].
    """

    costs: Tensor
    choice: Tensor
    origin: Tensor
    sample_choice: Tensor
    sample_origin: Tensor


class Pooled(Programme):
    """A round for every level: the shards sum its costs, and the origin of every target is decided for all samples. A
    last round takes the last level's steps."""

    def rounds(self, steps: Sequence[int]) -> int:
        return steps[-1] + 1

    def partial(
        self,
        problem: SearchProblem,
        steps: Sequence[int],
        index: Tensor,
        previous: PooledLevel | None = None,
        decision: list[PooledDecision] | None = None,
    ) -> PooledLevel:
        """The level after those that are decided."""
        levels, decided = list(self.levels(len(self.nodes(problem)) - 1, steps)), decision or []
        grid, finals = (None, {}) if previous is None else (previous.grid, previous.finals)
        if grid is None and previous is None:
            grid = self.started(problem, steps, index)
        elif grid is None:  # the shard's last level was read from a store, where its evaluations are counted
            with problem.uncounted():
                grid = self._repeated(problem, steps, index, decided)
        if decided:
            _advance(grid, decided[-1], levels[len(decided) - 1][1])
            if len(decided) in steps:
                finals = {**finals, len(decided): grid.final_mse()}
        total, sample_choices = torch.empty(0), torch.empty(2, len(grid), 0, dtype=torch.long)
        if len(decided) < len(levels):
            sources, targets = levels[len(decided)]
            grid.evaluate(sources, targets)
            total = torch.zeros(len(grid.choices), len(sources), len(targets), dtype=torch.float64)
            sample_choices = torch.empty(2, len(grid), len(targets), dtype=torch.long)
            for sample in range(len(grid)):
                costs = self.costs(grid, sample, sources, targets)
                total += costs
                sample_choices[:, sample] = torch.stack(least_costs(costs)[1:])
        return PooledLevel(finals, total, sample_choices, grid.choices, grid)

    def combine(
        self,
        problem: SearchProblem,
        steps: Sequence[int],
        partials: Sequence[PooledLevel],
        decision: list[PooledDecision] | None = None,
    ) -> Paths | list[PooledDecision]:
        """Decide the level that the shards' costs are of; after the last, read the paths back."""
        nodes, decided = self.nodes(problem), decision or []
        last = len(nodes) - 1
        levels = list(self.levels(last, steps))
        if len(decided) < len(levels):
            sources, _ = levels[len(decided)]
            costs = torch.stack([part.costs for part in partials]).sum(0) / len(problem.noise)
            _, choice, source = least_costs(costs)
            sample_choice, sample_source = torch.cat([part.sample_choices for part in partials], 1)
            return [*decided, PooledDecision(costs, choice, sources[source], sample_choice, sources[sample_source])]
        tables = []
        for (_, targets), level in zip(levels, decided, strict=True):
            # the decision for all samples in the first row and, below it, what each would choose
            table = torch.zeros(2, len(problem.noise) + 1, last + 1, dtype=torch.long)
            table[0, :, targets] = torch.cat([level.origin[None], level.sample_origin])
            table[1, :, targets] = torch.cat([level.choice[None], level.sample_choice])
            tables.append((table[0], table[1]))
        orders = torch.tensor(partials[0].choices)
        read = {n: read_back(tables[:n]) for n in steps}
        finals = {n: torch.cat([part.finals[n] for part in partials]) for n in steps}
        return Paths(
            {n: nodes[path[0]] for n, (path, _) in read.items()},
            {n: orders[choice[0]] for n, (_, choice) in read.items()},
            {n: nodes[path[1:]] for n, (path, _) in read.items()},
            {n: orders[choice[1:]] for n, (_, choice) in read.items()},
            {"final_mse": finals, "costs": [level.costs for level in decided]},
        )

    def _repeated(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, decided: Sequence[PooledDecision]
    ) -> Grid:
        """The nodes as they were after the last level's evaluations."""
        grid = self.started(problem, steps, index)
        levels = list(self.levels(grid.last, steps))
        for k in range(len(decided)):
            if k > 0:
                _advance(grid, decided[k - 1], levels[k - 1][1])
            grid.evaluate(*levels[k])
        return grid


def _advance(grid: Grid, decided: PooledDecision, targets: Tensor) -> None:
    """Every sample's step to the targets [J] that were decided for all."""
    everywhere = torch.ones(len(grid), len(targets), dtype=torch.bool)
    choice, origin = (part.expand(len(grid), -1) for part in (decided.choice, decided.origin))
    grid.advance(choice, origin, targets, everywhere)
