"""Shared part of OSS's two programmes: the nodes and levels of the search, the costs of a level, and the read-back.

Indices into the teacher's times count from the noisy end, 0 ... N; the paper counts from the clean end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from optsteps.methods.base import Orders, SearchProblem
from optsteps.methods.entries import EntrySubset
from optsteps.methods.oss.grid import Grid, grid_of
from optsteps.solvers.singlestep import TwoStage

Start = Literal["teacher", "free"]
Average = Literal["mean", "median", "pooled"]


@dataclass(frozen=True)
class Paths:
    """Result of a programme, by step count, with indices into the teacher's times.

    Attributes:
        common: the path [n+1] for all samples.
        common_orders: the orders [n] of its steps.
        per_sample: the paths [B, n+1] that the samples would choose.
        per_sample_orders: the orders [B, n] of their steps.
        evidence: see `OSS`.
    """

    common: Mapping[int, Tensor]
    common_orders: Mapping[int, Tensor]
    per_sample: Mapping[int, Tensor]
    per_sample_orders: Mapping[int, Tensor]
    evidence: Mapping[str, Any]


@dataclass(frozen=True)
class Programme(ABC):
    """A dynamic programme over levels k = 1 ... max(steps); the settings are those of `OSS`.

    Args:
        start, average, published, grid_steps, orders, entries, max_batch: see `OSS`.
        windows: the nodes that may be visited after 0, 1, ... steps, beside the last; None: all.
        walked: whether the teacher's walk has been counted before.
    """

    start: Start
    average: Average
    published: bool
    grid_steps: int | None
    orders: Orders
    entries: EntrySubset
    max_batch: int
    windows: Sequence[Sequence[int]] | None = None
    walked: bool = False

    @abstractmethod
    def rounds(self, steps: Sequence[int]) -> int:
        """Number of rounds of the search, as of `ShardedMethod`."""

    @abstractmethod
    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> Any:
        """One round of the samples `index` [b], as of `ShardedMethod`."""

    @abstractmethod
    def combine(
        self, problem: SearchProblem, steps: Sequence[int], partials: Sequence[Any], decision: Any = None
    ) -> Any:
        """`Paths` when the programme is done, otherwise the decision that the next round needs."""

    def nodes(self, problem: SearchProblem) -> Tensor:
        """Indices [N+1] of the teacher's times that may be chosen."""
        whole = problem.teacher.steps
        every_pair = isinstance(problem.solver, TwoStage) and self.windows is None
        default = min(25, whole) if every_pair else whole
        steps = default if self.grid_steps is None else self.grid_steps
        if not 1 <= steps <= whole:
            raise ValueError(f"grid_steps must lie between 1 and the teacher's {whole} steps, got {steps}")
        return torch.linspace(0, whole, steps + 1, dtype=torch.float64).round().long()

    def levels(self, last: int, steps: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """For k = 1 ... max(steps): the nodes that k - 1 steps can reach and leave, and those that k steps can reach
        and from which some step count can still be completed exactly."""
        sources = self._starts(last, steps)
        for k in range(1, steps[-1] + 1):
            if self.published:
                targets = list(range(1, last + 1))
            else:
                # the nearest step count still ahead leaves the most nodes usable
                ahead = next((n - k for n in steps if n > k), None)
                targets = [] if ahead is None else list(range(k, last - ahead + 1))
                if self.windows is not None:
                    targets = [node for node in targets if k < len(self.windows) and node in self.windows[k]]
                targets += [last] if k in steps else []
            yield torch.tensor(sources, dtype=torch.long), torch.tensor(targets, dtype=torch.long)
            sources = [node for node in targets if node < last]

    def started(self, problem: SearchProblem, steps: Sequence[int], index: Tensor) -> Grid:
        """The nodes of the samples `index` [b], with the initial noise at those that may be first."""
        nodes, kind = self.nodes(problem), grid_of(problem.solver)
        grid = kind(problem, index, nodes, self.max_batch, self.entries, self.walked)
        for node in self._starts(grid.last, steps):
            grid.put_start(node)
        return grid

    def costs(self, grid: Grid, sample: int, sources: Tensor, targets: Tensor) -> Tensor:
        """`Grid.costs` [M, I, J] of the orders that a step may have; inf for the others."""
        costs = grid.costs(sample, sources, targets)
        if self.orders == "chosen":
            return costs
        highest = torch.isfinite(costs).sum(0) - 1
        return costs.masked_fill(torch.arange(len(costs))[:, None, None] != highest, torch.inf)

    def _starts(self, last: int, steps: Sequence[int]) -> list[int]:
        """The nodes that may be first: those from which the least step count still fits."""
        if self.start == "teacher":
            return [0]
        starts = list(range(last if self.published else last - steps[0] + 1))
        return starts if self.windows is None else [node for node in starts if node in self.windows[0]]


def least_costs(costs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For every target the least cost of a table [M, I, J], its choice of order and its source [J]; of equal costs the
    lowest order, then the noisiest source."""
    least = costs.flatten(0, 1).min(0)
    return least.values, least.indices // costs.shape[1], least.indices % costs.shape[1]


def read_back(levels: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Paths [B, n+1] and choices [B, n] from the clean end back through the n levels' origins and choices, each
    [B, N+1]."""
    node = torch.full((len(levels[0][0]), 1), levels[0][0].shape[1] - 1)
    path, choices = [node], []
    for origin, choice in reversed(levels):
        choices.append(choice.gather(1, node))
        node = origin.gather(1, node)
        path.append(node)
    return torch.cat(path[::-1], 1), torch.cat(choices[::-1], 1)
