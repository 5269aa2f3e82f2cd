"""What an automatic search will do, and how it is made to fit a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from optsteps.denoisers import call_nfe
from optsteps.methods.base import Method, SearchProblem, steps_between
from optsteps.solvers.multistep import Multistep

# fit samples: so many, or as many as hold so many numbers, but at most half of the problem's
FIT, NUMBERS = 16, 64
# the fewest that a budget brings them down to
_FEWEST = 4
# candidates that a method of the pool names, about, of which none coincide
_CANDIDATES = 1.7
# rounds that a refinement takes, about
_ROUNDS = 4


@dataclass(frozen=True)
class Plan:
    """An automatic search.

    Attributes:
        problem: its samples; the first `fit` of them are what the pool searches and refinements are fitted on.
        steps: ascending step counts.
        pool: the methods that take part, by name.
        fit: number of the fit samples.
        refine, weights: whether times are refined, and weights after them.
        free_start: whether schedules may begin elsewhere than the teacher, with a scale of their own.
        left_out: what is left out, and why.
    """

    problem: SearchProblem
    steps: Sequence[int]
    pool: Mapping[str, Method]
    fit: int
    refine: bool
    weights: bool
    free_start: bool
    left_out: Sequence[str] = field(default=())

    @classmethod
    def whole(
        cls,
        problem: SearchProblem,
        steps: Sequence[int],
        pool: Mapping[str, Method],
        refine: bool,
        weights: bool,
        free_start: bool,
    ) -> Plan:
        """The plan of a search without a budget: everybody takes part who can."""
        fit = min(max(FIT, -(-NUMBERS // problem.noise[0].numel())), len(problem.noise) // 2)
        able, left_out = dict[str, Method](), list[str]()
        for name, method in pool.items():
            if method.starts_freely and not free_start:
                continue
            try:
                method.check(problem.part(torch.arange(fit)), steps)
                able[name] = method
            except ValueError as error:
                left_out.append(f"{name}, which cannot take part ({error})")
        weights = weights and isinstance(problem.solver, Multistep)
        return cls(problem, steps, able, fit, refine, weights, free_start, left_out)

    def within(self, budget: int) -> Plan:
        """The first of ever smaller plans that fits.

        Raises:
            ValueError: none does.
        """
        plan = self
        for plan in self._smaller():
            if plan.evaluations <= budget:
                return plan
        raise ValueError(
            f"a search of {budget:,} evaluations cannot be made here: the smallest takes about {plan.evaluations:,}; "
            "give a larger budget, fewer step counts, or a teacher of fewer steps"
        )

    @property
    def racing(self) -> Tensor:
        """The numbers of the samples that race: the fit samples and as many others."""
        return torch.arange(2 * self.fit)

    @property
    def held(self) -> list[Tensor]:
        """The numbers of the selection samples in the parts in which they are asked: first those that race and are not
        fitted on, then as many as were asked before. What raced on them was chosen on them, so that they speak for the
        winner and against its refinement."""
        samples, ends = len(self.problem.noise), [self.fit, 2 * self.fit]
        while ends[-1] < samples:
            ends.append(min(2 * ends[-1] - self.fit, samples))
        return [torch.arange(start, end) for start, end in pairwise(ends)]

    @property
    def stages(self) -> dict[str, int]:
        """Evaluations of every stage, about, guidance counted as 2."""
        problem, fit, held = self.problem, self.fit, len(self.held[0])
        nfe, walk = call_nfe(problem.denoiser), problem.walker.nfe(problem.teacher)
        students = [problem.solver.nfe(steps_between(problem.teacher, n)) for n in self.steps]
        asked = 4 if self.refine else 2  # selection samples are asked once more, about
        stages = {"the teacher": min(asked * fit, len(problem.noise)) * walk * nfe}
        stages["the pool"] = sum(self.beyond_the_teacher(method) for method in self.pool.values())
        running, samples, race = _CANDIDATES * len(self.pool), 2, 0.0
        while samples <= 2 * fit:
            race, running, samples = race + running * max(1, samples // 2), max(1.0, running / 2), 2 * samples
        stages["the race"] = round(race * sum(students)) * nfe
        if self.refine:
            stages["refined times"] = sum(_ROUNDS * (fit * _round(n, 1) + held * n) for n in students) * nfe
        if self.refine and self.weights:
            stages["refined weights"] = sum(_ROUNDS * (fit * _round(n, 2) + held * n) for n in students) * nfe
        return stages

    @property
    def evaluations(self) -> int:
        """Of all stages."""
        return sum(self.stages.values())

    def beyond_the_teacher(self, method: Method) -> int:
        """What a method's search takes beside the walk of the teacher; 0 where nobody knows."""
        found = method.evaluations(self.problem.part(torch.arange(self.fit)), self.steps)
        walk = self.problem.walker.nfe(self.problem.teacher) * self.fit * call_nfe(self.problem.denoiser)
        return 0 if found is None else max(0, found.count - walk)

    def _smaller(self) -> Iterator[Plan]:
        """Plans in the order in which they are given up, this one first."""
        yield self
        plan = self
        fits = [fit for fit in (self.fit // 2, self.fit // 4) if fit >= _FEWEST]
        if fits:
            plan = replace(plan, fit=fits[0])
            yield plan
        dear = [name for name, method in plan.pool.items() if plan.beyond_the_teacher(method) > 0]
        cheap = {name: method for name, method in plan.pool.items() if name not in dear}
        if dear and cheap:
            gone = f"{', '.join(dear)}, which evaluate more than the teacher, for the budget"
            plan = replace(plan, pool=cheap, left_out=[*plan.left_out, gone])
            yield plan
        if plan.weights:
            plan = replace(plan, weights=False, left_out=[*plan.left_out, "refined weights, for the budget"])
            yield plan
        for fit in fits[1:]:
            plan = replace(plan, fit=fit)
            yield plan
        if plan.refine:
            yield replace(plan, refine=False, left_out=[*plan.left_out, "all refinement, for the budget"])


def _round(steps: int, kinds: int) -> int:
    """Evaluations of a sample in one round of a refinement: the walk, a column for every time (and for every weight),
    and three trials."""
    return 4 * steps + kinds * steps * (steps - 1) // 2
