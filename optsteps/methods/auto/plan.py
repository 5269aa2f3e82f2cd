"""What an automatic search will do, and how it is made to fit a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from optsteps.denoisers import call_nfe
from optsteps.methods.base import Method, SearchProblem, steps_between
from optsteps.methods.candidates import able
from optsteps.solvers.base import Solver
from optsteps.solvers.multistep import Multistep

Refinement = Literal["times", "told times", "weights", "start"]

# fit samples: so many, or as many as hold so many numbers, but at most half of the problem's
FIT, NUMBERS = 16, 48
# the fewest that a budget brings them down to
_FEWEST = 4
# the fewest steps of a teacher, for one of the longest schedule
_FINER = 4
# candidates that a method of the pool names, about, of which none coincide
_CANDIDATES = 1.7
# of the finalists of a race: how many are refined a little, for so many rounds on a share of the fit samples, of which
# the nearest is refined on
FINALISTS, BRIEF_ROUNDS, BRIEF_SHARE = 3, 2, 1 / 4
# rounds that a refinement takes of those that it may take, about; and how many are left of it where it is cut short
_TAKEN, _CUT = 2 / 3, 2


@dataclass(frozen=True)
class Lane:
    """What a search tries with one solver.

    Attributes:
        problem: with this solver.
        counts: for step counts of the search the step count of this solver that takes exactly as many evaluations.
        pool: the methods that take part, by name.
    """

    problem: SearchProblem
    counts: Mapping[int, int]
    pool: Mapping[str, Method]


@dataclass(frozen=True)
class Plan:
    """An automatic search.

    Attributes:
        problem: its samples; the first `fit` of them are what the pool searches and refinements are fitted on.
        steps: ascending step counts.
        lanes: for every solver, by its name, what is tried.
        fit: number of the fit samples.
        refinements: what is refined, one after the other, each together with what came before.
        rounds: of a refinement, at most.
        finalists: of every race, how many are refined a little before one of them is refined on.
        left_out: what is left out, and why.
    """

    problem: SearchProblem
    steps: Sequence[int]
    lanes: Mapping[str, Lane]
    fit: int
    refinements: Sequence[Refinement]
    rounds: int
    finalists: int = FINALISTS
    left_out: Sequence[str] = field(default=())

    @classmethod
    def whole(
        cls,
        problem: SearchProblem,
        steps: Sequence[int],
        pool: Mapping[str, Method],
        solvers: Mapping[str, Solver],
        refinements: Sequence[Refinement],
        rounds: int,
        free_start: bool,
    ) -> Plan:
        """The plan of a search without a budget: everybody takes part who can, and all is refined that a solver
        obeys.

        Args:
            free_start: whether methods take part that begin elsewhere than the teacher, with a scale of their own.
        """
        fit = min(max(FIT, -(-NUMBERS // problem.noise[0].numel())), len(problem.noise) // 2)
        lanes, left_out = dict[str, Lane](), list[str]()
        allowed = {name: method for name, method in pool.items() if free_start or not method.starts_freely}
        for label, solver in solvers.items():
            lane = replace(problem, solver=solver, teacher_solver=problem.walker)
            counts = {n: count for n in steps if (count := _same_nfe(problem, solver, n)) is not None}
            if not counts:
                left_out.append(f"{label}, which has no number of steps that takes as many evaluations")
                continue
            lanes[label] = Lane(lane, counts, allowed)
        obeyed = [kind for kind in refinements if any(obeys(lane.problem, kind) for lane in lanes.values())]
        plan = cls(problem, steps, lanes, fit, obeyed, rounds, left_out=left_out)._with_fit(fit, len(solvers) > 1)
        disobeyed = [f"refined {kind}, which no solver here obeys" for kind in refinements if kind not in obeyed]
        return replace(plan, left_out=[*plan.left_out, *disobeyed])

    def within(self, budget: int) -> Plan:
        """The first of ever smaller plans that fits, which takes no more samples than it counts.

        Raises:
            ValueError: none does.
        """
        plan = self
        for plan in self._smaller():
            if plan.evaluations <= budget:
                return replace(plan, problem=plan.problem.part(torch.arange(plan.asked)))
        raise ValueError(
            f"a search of {budget:,} evaluations cannot be made here: the smallest takes about {plan.evaluations:,}; "
            "give a larger budget, fewer step counts, or a teacher of fewer steps"
        )

    @property
    def pool(self) -> Mapping[str, Method]:
        """The methods that take part with any solver, by name."""
        return {name: method for lane in self.lanes.values() for name, method in lane.pool.items()}

    @property
    def brief(self) -> Tensor:
        """The numbers of the fit samples on which the finalists are refined a little."""
        return torch.arange(min(self.fit, max(_FEWEST, int(self.fit * BRIEF_SHARE))))

    @property
    def racing(self) -> Tensor:
        """The numbers of the samples on which everybody races: the fit samples and as many others."""
        return torch.arange(2 * self.fit)

    @property
    def held(self) -> list[Tensor]:
        """The numbers of the selection samples in the parts in which they are asked: first those on which everybody
        races and nothing is fitted, then as many as were asked before. Whoever won on them was chosen on them, so that
        they speak for the winner and against its refinement."""
        samples, ends = len(self.problem.noise), [self.fit, 2 * self.fit]
        while ends[-1] < samples:
            ends.append(min(2 * ends[-1] - self.fit, samples))
        return [torch.arange(start, end) for start, end in pairwise(ends)]

    @property
    def asked(self) -> int:
        """Samples that are needed, about: those that race, and as many as are fitted on where selection samples are
        asked once more."""
        return min((3 if self.refinements else 2) * self.fit, len(self.problem.noise))

    @property
    def stages(self) -> dict[str, int]:
        """Evaluations of every stage, about, guidance counted as 2."""
        problem, fit, held = self.problem, self.fit, len(self.held[0])
        nfe, walk = call_nfe(problem.denoiser), problem.walker.nfe(problem.teacher)
        students = [problem.solver.nfe(steps_between(problem.teacher, n)) for n in self.steps]
        stages = {"the teacher": self.asked * walk * nfe}
        members = [(lane, method) for lane in self.lanes.values() for method in lane.pool.values()]
        stages["the pool"] = sum(self.beyond_the_teacher(lane, method) for lane, method in members)
        running, new, samples, race = _CANDIDATES * len(members), 2, 2, 0.0
        while samples <= 2 * fit:
            race, running, new, samples = race + running * new, max(1.0, running / 2), samples, 2 * samples
        race += 2 * max(0, self.asked - 2 * fit)  # two who cannot be told apart
        stages["the race"] = round(race * sum(students)) * nfe
        if self.compares_finalists:
            brief = self.finalists * BRIEF_ROUNDS * len(self.brief)
            stages["the finalists"] = sum(brief * _round(n, 1) + self.finalists * fit * n for n in students) * nfe
        rounds = max(1, round(_TAKEN * self.rounds))
        for kinds, refinement in enumerate(self.refinements, 1):
            taken = sum(rounds * (fit * _round(n, kinds) + held * n) for n in students) * nfe
            stages[f"refined {refinement}"] = taken
        return stages

    @property
    def compares_finalists(self) -> bool:
        """Whether there are several, whose times are refined."""
        return self.finalists > 1 and "times" in self.refinements

    @property
    def evaluations(self) -> int:
        """Of all stages."""
        return sum(self.stages.values())

    def beyond_the_teacher(self, lane: Lane, method: Method) -> int:
        """What a method's search takes beside the walk of the teacher; 0 where nobody knows."""
        found = method.evaluations(lane.problem.part(torch.arange(self.fit)), sorted(lane.counts.values()))
        walk = self.problem.walker.nfe(self.problem.teacher) * self.fit * call_nfe(self.problem.denoiser)
        return 0 if found is None else max(0, found.count - walk)

    def coarser(self) -> Plan | None:
        """With every second time of the teacher, which still takes several steps for one of a schedule, or None."""
        teacher = self.problem.teacher
        if teacher.steps < 2 * _FINER * max(self.steps):
            return None
        kept = torch.arange(0, teacher.steps + 1, 2)
        if kept[-1] < teacher.steps:
            kept = torch.cat([kept, torch.tensor([teacher.steps])])
        coarse = replace(teacher, times=teacher.times[kept])
        lanes = {
            label: replace(lane, problem=replace(lane.problem, teacher=coarse)) for label, lane in self.lanes.items()
        }
        gone = f"every second of the teacher's {teacher.steps} steps, for the budget"
        problem = replace(self.problem, teacher=coarse)
        return replace(self, problem=problem, lanes=lanes, left_out=[*self.left_out, gone])

    def _fewer(self, *shares: float) -> list[int]:
        """Shares of the fit samples that are enough."""
        return [fit for share in shares if (fit := int(self.fit * share)) >= _FEWEST]

    def _with_fit(self, fit: int, several: bool) -> Plan:
        """With so many fit samples, and without the methods that cannot take part on these; with the name of the solver
        where there were several to choose from."""
        lanes, left_out = dict[str, Lane](), list(self.left_out)
        for label, lane in self.lanes.items():
            called = f"{{}} with {label}" if several else "{}"
            few = lane.problem.part(torch.arange(fit))
            taking_part, unable = able(lane.pool, few, list(lane.counts.values()), called)
            lanes[label], left_out = replace(lane, pool=taking_part), [*left_out, *unable]
        return replace(self, fit=fit, lanes=lanes, left_out=left_out)

    def _smaller(self) -> Iterator[Plan]:
        """Plans in the order in which they are given up, this one first."""
        yield self
        plan = self
        for fit in self._fewer(3 / 4, 1 / 2):
            plan = plan._with_fit(fit, len(plan.lanes) > 1)
            yield plan
        lanes = plan.lanes.values()
        dear = {name: None for lane in lanes for name, one in lane.pool.items() if plan.beyond_the_teacher(lane, one)}
        cheap = {
            label: replace(lane, pool={name: method for name, method in lane.pool.items() if name not in dear})
            for label, lane in plan.lanes.items()
        }
        if dear and any(lane.pool for lane in cheap.values()):
            gone = f"{', '.join(dear)}, which evaluate more than the teacher, for the budget"
            plan = replace(plan, lanes=cheap, left_out=[*plan.left_out, gone])
            yield plan
        if len(plan.lanes) > 1:
            first, *others = plan.lanes
            gone = f"{', '.join(others)}, for the budget"
            plan = replace(plan, lanes={first: plan.lanes[first]}, left_out=[*plan.left_out, gone])
            yield plan
        while len(plan.refinements) > 1:
            *kept, last = plan.refinements
            gone = f"refined {last}, for the budget"
            plan = replace(plan, refinements=kept, left_out=[*plan.left_out, gone])
            yield plan
        if plan.refinements:
            gone = "refined finalists other than the race's winner, for the budget"
            plan = replace(plan, finalists=1, left_out=[*plan.left_out, gone])
            yield plan
        coarser = plan.coarser()
        if coarser is not None:
            plan = coarser
            yield plan
        if plan.refinements and plan.rounds > _CUT:
            gone = f"all but {_CUT} rounds of every refinement, for the budget"
            plan = replace(plan, rounds=_CUT, left_out=[*plan.left_out, gone])
            yield plan
        for fit in self._fewer(3 / 8, 1 / 4):
            plan = plan._with_fit(fit, len(plan.lanes) > 1)
            yield plan
        if plan.refinements:
            yield replace(plan, refinements=[], left_out=[*plan.left_out, "all refinement, for the budget"])


def obeys(problem: SearchProblem, refinement: Refinement) -> bool:
    """Whether the problem's solver does what the refinement finds."""
    if refinement == "told times":  # it takes one evaluation a step
        return problem.solver.nfe(steps_between(problem.teacher, 2)) == 2
    return refinement != "weights" or isinstance(problem.solver, Multistep)


def _same_nfe(problem: SearchProblem, solver: Solver, steps: int) -> int | None:
    """The step count of a solver that takes exactly as many evaluations as so many steps of the problem's."""
    nfe = problem.solver.nfe(steps_between(problem.teacher, steps))
    try:
        count = solver.steps(nfe, problem.process, *problem.teacher.times[[0, -1]])
    except ValueError:  # not even one
        return None
    return count if solver.nfe(steps_between(problem.teacher, count)) == nfe else None


def _round(steps: int, kinds: int) -> int:
    """Evaluations of a sample in one round of a refinement: the walk, a column for every time (and for every weight),
    and three trials."""
    return 4 * steps + kinds * steps * (steps - 1) // 2
