"""AutoDiffusion's evolution (Li et al., arXiv:2309.10438) of the times themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Generator, Tensor

from optsteps.methods.base import Method, SearchProblem
from optsteps.methods.blackbox.search import BlackBox
from optsteps.methods.blackbox.spaces import GridTimes, Space
from optsteps.methods.blackbox.trials import Trials
from optsteps.noise import sample_generator
from optsteps.schedules import Schedule

# of the parents' times, those that a mutant replaces
_MUTATED = 0.25
# draws of one new schedule before it counts as one that does not exist
_DRAWS = 100


class Evolution(BlackBox):
    """Generations of subsets of the teacher's times.

    In every generation the best of all so far are the parents. *Mutants* are parents of which every time is replaced,
    with a probability of 0.25, by one that is not used. *Crossovers* take every time from one of two parents, in order,
    and are sorted. The rest are random. What was asked before, or has a time twice, is drawn anew.

    Args:
        criterion, pool, free_ends, rounds, seed, max_batch: see `BlackBox`.
        population: schedules in a generation; AutoDiffusion takes 50 in 10 generations.
        parents, mutants, crossovers: how many of a generation are which.

    Raises:
        ValueError: more mutants and crossovers than schedules, or no parents; otherwise as `BlackBox`.
    """

    def __init__(
        self,
        criterion: str,
        pool: Mapping[str, Method],
        free_ends: bool = True,
        rounds: int = 10,
        population: int = 50,
        parents: int = 10,
        mutants: int = 25,
        crossovers: int = 15,
        seed: int = 0,
        max_batch: int = 512,
    ) -> None:
        super().__init__(criterion, pool, free_ends, rounds, seed, max_batch)
        if parents < 1 or mutants + crossovers > population:
            raise ValueError(
                f"a generation of {population} needs at least 1 parent, and no more mutants and crossovers than that; "
                f"got {parents} parents, {mutants} mutants and {crossovers} crossovers"
            )
        self.population, self.parents, self.mutants, self.crossovers = population, parents, mutants, crossovers

    @property
    def asked_per_round(self) -> int:
        return self.population

    def space(self, problem: SearchProblem, steps: int, candidates: Sequence[Schedule]) -> GridTimes:
        if problem.teacher.steps < steps:
            raise ValueError(f"{steps} steps are no subset of the teacher's {problem.teacher.steps}")
        return GridTimes(problem.teacher, steps, self.free_ends)

    def ask(self, space: Space, trials: Trials, number: int) -> Tensor:
        random = sample_generator(self.seed, number, stream=5)
        parents = [trials.numbers[k].long().tolist() for k in trials.order[: self.parents]]
        grid = range(int(space.lower[0]), int(space.upper[0]) + 1) if len(space.lower) else range(0)
        asked = {tuple(row) for row in trials.numbers.long().tolist()}
        children = list[tuple[int, ...]]()

        def add(count: int, drawn: Iterator[list[int]]) -> None:
            wanted = len(children) + count
            for _, child in zip(range(_DRAWS * count), drawn, strict=False):
                if len(children) == wanted:
                    break
                key = tuple(sorted(child))
                if len(set(key)) == len(key) and key not in asked:
                    asked.add(key)
                    children.append(key)

        add(self.mutants, _mutants(parents, grid, random))
        add(self.crossovers, _crossovers(parents, random))
        add(self.population - len(children), _random(len(space.lower), grid, random))
        return torch.tensor(children, dtype=torch.float64).reshape(len(children), len(space.lower))


def _mutants(parents: Sequence[Sequence[int]], grid: range, random: Generator) -> Iterator[list[int]]:
    while True:
        child = list(parents[_draw(len(parents), random)])
        for k in range(len(child)):
            unused = [place for place in grid if place not in child]
            if unused and torch.rand((), generator=random) < _MUTATED:
                child[k] = unused[_draw(len(unused), random)]
        yield child


def _crossovers(parents: Sequence[Sequence[int]], random: Generator) -> Iterator[list[int]]:
    while True:
        pair = [parents[_draw(len(parents), random)] for _ in range(2)]
        yield [genes[_draw(2, random)] for genes in zip(*pair, strict=True)]


def _random(size: int, grid: range, random: Generator) -> Iterator[list[int]]:
    while True:
        yield [grid[k] for k in torch.randperm(len(grid), generator=random)[:size].tolist()]


def _draw(count: int, random: Generator) -> int:
    return int(torch.randint(count, (), generator=random))
