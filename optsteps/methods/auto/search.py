"""Auto: a pool of methods names candidates, the solver runs them against each other, and the best are refined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optsteps.denoisers import CountedDenoiser
from optsteps.methods.auto.paid_once import PaidOnce
from optsteps.methods.auto.plan import BRIEF_ROUNDS, Plan, Refinement, obeys
from optsteps.methods.auto.race import Heat, Track, race
from optsteps.methods.base import Evaluations, Method, SearchProblem, SearchResult, checked_steps
from optsteps.methods.blackbox.search import BlackBox, Sought
from optsteps.methods.blackbox.target import NEARNESS
from optsteps.methods.candidates import Candidate, distinct, pool_of, proposed
from optsteps.methods.nearness import Nearness, decibels
from optsteps.methods.oss.programme import Start
from optsteps.methods.refine.coordinates import (
    Coordinates,
    FreeStartCoordinates,
    GapCoordinates,
    ToldTimeCoordinates,
    WeightCoordinates,
)
from optsteps.methods.refine.gauss_newton import Refined, descended, refined
from optsteps.metrics.base import Judge
from optsteps.schedules import Schedule
from optsteps.solvers.base import Solver
from optsteps.solvers.multistep import Multistep
from optsteps.storage.workers import Workers
from optsteps.trajectories import Trajectories

# of the corrections of told times and weights, one after the other
_RIDGES, _RIDGE_ROUNDS = (0.3, 0.03), 2


class Auto(Method):
    """The best schedule for a model, a solver and a step count: found by trying, and refined where that is proved.

    1. Every method of the pool names its candidates, from the first samples, the fit samples.
    2. The candidates race on the fit samples and as many others with the real solver (`race`), and those whom these
       cannot tell apart on the rest.
    3. The best three candidates of different methods are the finalists. Their times are refined for two rounds, on a
       quarter of the fit samples, because whoever is nearest before need not be so after. The one that is then nearest
       on all of them is refined on.
    4. Its times are refined (`refined`): steps are fitted on the fit samples, and the schedule that is best on the
       selection samples, all others, replaces the winner of the race if it is better there by its paired interval.
    5. With `told_times`, the times that the network is told are refined with the times in the same way, with `weights`
       the weights of the multistep steps with all of these, and last, with a free start, all with the start.

    All this is by the nearness to the teacher's samples. By another criterion there is nothing to be refined by least
    squares: the `last_stage` takes the pool's candidates, measures them by the criterion, and searches on from the best
    (`BlackBox.sought`).

    The teacher is walked once on every sample, whatever the methods of the pool ask of it.

    Args:
        pool: the methods by name; those that are preferred among equal ones first. One that cannot take part is left
            out.
        refine: whether times are refined.
        solvers: by name those that the schedules may be sampled with, at as many evaluations as the problem's; they all
            run in one race, and `SearchResult.solvers` says whose schedule won. The first is kept where a budget has
            room for one alone. None: the problem's.
        weights: whether weights are refined too, with a multistep solver. Only this package's sampler runs them.
        told_times: whether the times that the network is told are refined too, with a solver of one evaluation a step.
            Only this package's sampler tells them.
        start: "teacher": schedules begin with plain noise, where the teacher does or where their family does (under a
            flow some begin at noise level 80 or 20), as lists for other tools must, and no refinement moves that time.
            "free": they may begin later, with a scale of the first noise of their own, which is worth most with few
            steps. None: "free" with `weights`, otherwise "teacher".
        rounds: of a refinement of times, at most.
        budget: network evaluations of the whole search by nearness, about. Where the plan takes more, there are fewer
            samples, then no method that evaluates more than the teacher, one solver alone, no free start, no weights,
            no told times, no other finalist than the winner, a coarser teacher, two rounds of refinement, fewer samples
            again, no refinement.
        max_batch: most samples in one call of the denoiser.
        shard_size: samples that are walked together.
        criterion: "nearness", "data_distance", or a figure of the problem's judges, see `BlackBox`.
        last_stage: who searches by another criterion than "nearness"; its own pool and criterion do not count.

    `SearchResult.evidence`: "decisions"; "stages", the evaluations of every stage; "heats" and "refined", by step count
    the rounds of the race and the refinements; or "sought", of the last stage.

    Raises:
        ValueError: an empty pool or a member that is no method, a budget below 1, an unknown start, or a criterion for
            which there is no last stage, or beside which there are weights, told times or a budget; in `check`, a
            stochastic solver, a criterion with several solvers, fewer than 4 samples, a pool of which nobody can take
            part, or a budget that is too small.
    """

    def __init__(
        self,
        pool: Mapping[str, Method],
        solvers: Mapping[str, Solver] | None = None,
        refine: bool = True,
        weights: bool = False,
        told_times: bool = False,
        start: Start | None = None,
        rounds: int = 6,
        budget: int | None = None,
        max_batch: int = 512,
        shard_size: int = 8,
        criterion: str = NEARNESS,
        last_stage: BlackBox | None = None,
    ) -> None:
        if not pool:
            raise ValueError("the pool is empty: name at least one method, such as logsnr")
        if budget is not None and budget < 1:
            raise ValueError(f"a budget is a positive number of evaluations, got {budget}")
        if start not in ("teacher", "free", None):
            raise ValueError(f"start must be 'teacher', 'free' or None, got {start!r}")
        if criterion != NEARNESS and (last_stage is None or weights or told_times):
            raise ValueError(
                f"criterion={criterion} is searched by the last stage (last_stage=Bayesian(...)), which searches times "
                f"alone; got last_stage={last_stage}, weights={weights} and told_times={told_times}"
            )
        if criterion != NEARNESS and budget is not None:
            raise ValueError(f"a budget is for criterion=nearness; with {criterion}, give the last stage fewer rounds")
        self.criterion = criterion
        self.last_stage = None if last_stage is None else last_stage.by(criterion, pool)
        self.pool, self.refine, self.rounds = pool_of(pool), refine, rounds
        self.weights, self.told_times = weights, told_times
        self.solvers = dict(solvers) if solvers else None
        self.start: Start = start or ("free" if weights else "teacher")
        self.budget, self.max_batch, self.shard_size = budget, max_batch, shard_size

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        for solver in self._solvers(problem).values():
            replace(problem, solver=solver).check_repeats("auto")
        if len(problem.noise) < 4:
            raise ValueError(
                f"auto fits on some samples and selects on others: it needs at least 4, got {len(problem.noise)} "
                "(search.samples)"
            )
        plan = self.plan(problem, checked_steps(steps))
        if not plan.pool:
            raise ValueError("no method of the pool can take part: " + "; ".join(plan.left_out))
        if self._by_figure is not None:
            if len(plan.lanes) > 1:
                raise ValueError(f"criterion={self.criterion} is searched with one solver, got {', '.join(plan.lanes)}")
            self._by_figure.check(problem, steps)

    def _solvers(self, problem: SearchProblem) -> dict[str, Solver]:
        return self.solvers or {problem.solver.name: problem.solver}

    def chooses_orders(self, problem: SearchProblem) -> bool:
        return any(method.chooses_orders(problem) for method in self.pool.values())

    def judge(self, problem: SearchProblem) -> Judge | None:
        return None if self._by_figure is None else self._by_figure.judge(problem)

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        if self._by_figure is not None:
            return self._by_figure.evaluations(problem, steps)
        return Evaluations(self.plan(problem, checked_steps(steps)).evaluations, exact=False)

    def plan(self, problem: SearchProblem, steps: Sequence[int]) -> Plan:
        """What the search will do.

        Raises:
            ValueError: the budget is too small.
        """
        solvers = self._solvers(problem)
        free = self.start == "free"
        kinds: dict[Refinement, bool] = {
            "times": True,
            "told times": self.told_times,
            "weights": self.weights,
            # last: the other refinements end in better optima from a start that is fixed
            "start": free,
        }
        wanted = [kind for kind, chosen in kinds.items() if self.refine and chosen]
        plan = Plan.whole(problem, steps, self.pool, solvers, wanted, self.rounds, free)
        return plan if self.budget is None else plan.within(self.budget)

    def find(self, problem: SearchProblem, steps: Sequence[int], workers: Workers) -> SearchResult:
        ledger = _Ledger(problem)
        workers = workers.telling(lambda name: None)  # the evaluations say how far the whole is
        # what is kept of several searches that share walks says nothing on what one of them costs by itself
        cache = replace(problem.cache, workers=PaidOnce(problem.cache.workers.on("auto")))
        plan = self.plan(replace(problem, cache=cache), steps)
        if plan.left_out:
            ledger.decide("left out: " + "; ".join(plan.left_out))
        # nor is what they are kept with, which depends on who asked for a shared walk first
        proposals = self._proposals(plan, workers.on("auto", pool=list(plan.pool)), ledger)
        if self._by_figure is not None:
            return self._last_stage(self._by_figure, plan, proposals, workers.on("last stage"), ledger)
        runs, *held = (self._lanes(plan, samples, workers) for samples in (plan.racing, *plan.held))
        heats, found, schedules = dict[int, list[Heat]](), dict[int, list[Refined]](), dict[int, Schedule]()
        solvers = dict[int, Solver]()
        track = Track(runs, [Track(part) for part in held[1:]])
        for n in steps:
            heats[n] = race(distinct(proposals[n]), track)
            ledger.decide(_sentence(n, heats[n]), "the race")
        for n in steps:
            label = heats[n][-1].ran[0].solver
            selection = [part[label] for part in held]
            schedules[n], found[n] = self._refined(n, heats[n], plan, runs[label], selection, ledger)
            solvers[n] = plan.lanes[label].problem.solver
        evidence = {"decisions": ledger.sentences, "stages": ledger.stages, "heats": heats, "refined": found}
        return SearchResult(schedules, evidence=evidence, solvers=solvers if self.solvers else {})

    def _refined(
        self,
        steps: int,
        heats: Sequence[Heat],
        plan: Plan,
        samples: Nearness,
        held: Sequence[Nearness],
        ledger: _Ledger,
    ) -> tuple[Schedule, list[Refined]]:
        """The schedule that the winner of a race gives way to, or its own, and the refinements on the way there.

        Args:
            samples: those of the race, the fit samples first.
            held: the selection samples.
        """
        winner = origin = heats[-1].ran[0]
        schedule = start = winner.schedule
        if plan.compares_finalists:
            origin, start = _leader(finalists(heats, plan.finalists), samples, plan)
            names = " and ".join(origin.names)
            ledger.decide(f"{steps} steps: {names} is nearest after {BRIEF_ROUNDS} rounds", "the finalists")
        fit, found = torch.arange(plan.fit), list[Refined]()
        for k, kind in enumerate(plan.refinements):
            if not obeys(samples.problem, kind):
                continue
            coordinates = _coordinates(samples.problem, start, plan.refinements[: k + 1])
            ridges, rounds = (_RIDGES, _RIDGE_ROUNDS) if coordinates.corrections.any() else ((0.0,), plan.rounds)
            found.append(refined(coordinates, samples, held, fit, rounds, ridges, incumbent=schedule))
            schedule = start = found[-1].schedule
            ledger.decide(_refined_told(steps, found[-1]), f"refined {kind}")
            if schedule is winner.schedule:
                origin = winner
        return replace(schedule, metadata=self._described(samples.problem, origin)), found

    @property
    def _by_figure(self) -> BlackBox | None:
        """The last stage, where the criterion is no sum of squares."""
        return None if self.criterion == NEARNESS else self.last_stage

    def _last_stage(
        self,
        stage: BlackBox,
        plan: Plan,
        proposals: Mapping[int, Sequence[Candidate]],
        workers: Workers,
        ledger: _Ledger,
    ) -> SearchResult:
        sought = dict[int, Sought]()
        for n in plan.steps:
            sought[n] = stage.sought(plan.problem, n, proposals[n], workers)
            for sentence in sought[n].sentences:
                ledger.decide(sentence, f"the search by {self.criterion}")
        schedules = {
            n: replace(found.schedule, metadata={**found.schedule.metadata, "method": "auto"})
            for n, found in sought.items()
        }
        evidence = {"decisions": ledger.sentences, "stages": ledger.stages, "sought": sought}
        return SearchResult(schedules, evidence=evidence)

    def _proposals(self, plan: Plan, workers: Workers, ledger: _Ledger) -> dict[int, list[Candidate]]:
        """The candidates by step count, with the names of their methods."""
        problem = plan.problem.part(torch.arange(plan.fit))
        # the whole walk is kept first: whoever asks for its ends finds it
        Trajectories(problem.denoiser, self.max_batch, problem.cache).record(
            problem.teacher, problem.walker, problem.noise, problem.cond
        )
        ledger.decide(f"{plan.fit} samples to fit on", "the teacher")
        proposals: dict[int, list[Candidate]] = {n: [] for n in plan.steps}
        for label, lane in plan.lanes.items():
            few = lane.problem.part(torch.arange(plan.fit))
            called = "{}" if len(plan.lanes) == 1 else f"{{}} with {label}"
            found, left_out = proposed(lane.pool, few, sorted(set(lane.counts.values())), workers, called)
            if left_out:
                ledger.decide("left out: " + "; ".join(left_out), "the pool")
            for n, count in lane.counts.items():
                proposals[n] += [replace(one, solver=label) for one in found[count]]
        if not all(proposals.values()):
            raise ValueError("no method of the pool found a schedule: " + "; ".join(ledger.sentences))
        ledger.decide(f"{len(plan.pool)} of the pool name their candidates", "the pool")
        return proposals

    def _lanes(self, plan: Plan, samples: Tensor, workers: Workers) -> dict[str, Nearness]:
        """The nearness to the teacher on these samples, for every solver."""
        problem = plan.problem.part(samples)
        nearness = Nearness(problem, workers, self.max_batch, self.shard_size, walked=plan.fit)
        return {label: nearness.with_solver(lane.problem.solver) for label, lane in plan.lanes.items()}

    def _described(self, problem: SearchProblem, winner: Candidate) -> dict[str, Any]:
        """The metadata of what became of the candidate that won the race."""
        given = winner.schedule.metadata
        return {
            "method": "auto",
            "from": list(winner.names),
            **problem.solver.described,
            # a free start is no family's
            **({"start": "free"} if self.start == "free" else {"range": given["range"]} if "range" in given else {}),
            "samples": len(problem.noise),
            "teacher_steps": problem.teacher.steps,
        }


def finalists(heats: Sequence[Heat], most: int) -> list[Candidate]:
    """Of a race the best candidates of different methods, that are sampled as the winner is; the winner first."""
    ranked = [one for heat in reversed(heats) for one in heat.ran]
    of_method: dict[str, Candidate] = {}
    for one in ranked:
        if one.solver == ranked[0].solver:
            of_method.setdefault(one.names[0], one)
    return list(of_method.values())[:most]


def _leader(candidates: Sequence[Candidate], samples: Nearness, plan: Plan) -> tuple[Candidate, Schedule]:
    """The candidate that is nearest on the fit samples after a few rounds on some of them, and what it is then."""
    begun = [
        descended(_coordinates(samples.problem, one.schedule, ["times"]), samples, plan.brief, BRIEF_ROUNDS)
        for one in candidates
    ]
    levels = decibels(samples.errors(begun, torch.arange(plan.fit))).mean(1)
    best = int(levels.argmax())
    return candidates[best], begun[best]


def _coordinates(problem: SearchProblem, schedule: Schedule, moved: Sequence[Refinement]) -> Coordinates:
    """The numbers of all that is moved in a schedule and that the problem's solver obeys, between fixed ends or with a
    start that is free up to the teacher's."""
    free, highest = "start" in moved, float(problem.teacher.noise_levels[0])
    coordinates: Coordinates = FreeStartCoordinates(schedule, highest) if free else GapCoordinates(schedule)
    if "told times" in moved and obeys(problem, "told times"):
        coordinates = ToldTimeCoordinates(coordinates)
    if "weights" in moved and isinstance(problem.solver, Multistep):
        coordinates = WeightCoordinates(coordinates, problem.solver)
    return coordinates


class _Ledger:
    """Sentences on what was decided, and the evaluations of every stage."""

    def __init__(self, problem: SearchProblem) -> None:
        counter = problem.denoiser
        assert isinstance(counter, CountedDenoiser)
        self.counter, self.sentences, self.stages = counter, list[str](), dict[str, int]()

    def decide(self, sentence: str, stage: str | None = None) -> None:
        """Note a sentence, and the evaluations since the last one as those of a stage."""
        spent = self.counter.evaluations
        self.sentences.append(f"{sentence} ({spent:,} evaluations so far)")
        if stage is not None:
            self.stages[stage] = self.stages.get(stage, 0) + spent - sum(self.stages.values())


def _sentence(steps: int, heats: Sequence[Heat]) -> str:
    last = heats[-1]
    names = " and ".join(last.ran[0].names)
    return f"{steps} steps: {names} wins the race of {len(heats[0].ran)} candidates"


def _refined_told(steps: int, found: Refined) -> str:
    gain = found.gain
    if found.best == 0:
        return f"{steps} steps: no refinement of {found.moved} is better on the selection samples"
    interval = f"{gain.value:+.2f} dB [{gain.low:+.2f}, {gain.high:+.2f}] on {found.samples} selection samples"
    kept = "" if found.taken else ", too little to be sure: it stays as it was"
    return f"{steps} steps: refined {found.moved} gain {interval}{kept}"
