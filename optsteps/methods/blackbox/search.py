"""The black-box search: a design, rounds of asking, the best re-scored, and the winner re-tested on fresh noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from optsteps.denoisers import CountedDenoiser, call_nfe
from optsteps.methods.base import (
    Evaluations,
    Method,
    SearchProblem,
    SearchResult,
    checked_steps,
    counted_shards,
    steps_between,
)
from optsteps.methods.blackbox.spaces import Space
from optsteps.methods.blackbox.target import Answer, Target, difference_error, judge_of, loss
from optsteps.methods.blackbox.trials import Trials
from optsteps.methods.candidates import Candidate, able, distinct, pool_of, proposed
from optsteps.metrics.base import Judge, Measurement
from optsteps.metrics.statistics import Interval, verdict
from optsteps.schedules import Schedule
from optsteps.storage.workers import ALONE, Workers

# the shares of the samples that are searched on, that the best are re-scored on, and that the winner is re-tested on;
# and the fewest samples
SHARES, FEWEST = (0.5, 0.25, 0.25), 8
# how many are re-scored
RESCORED = 5
# samples on which the methods of the pool search, at most
_POOL = 16


@dataclass(frozen=True)
class Asked:
    """A schedule with what was measured on the samples that are searched on."""

    schedule: Schedule
    measurement: Measurement


@dataclass(frozen=True)
class Sought:
    """What a search for one step count came to.

    Attributes:
        schedule: the winner's if it is better than the incumbent in the re-test, otherwise the incumbent's.
        incumbent: of the pool, and who proposed it.
        as_good: how many of the pool the criterion cannot tell from the best, the best among them.
        trials: everything that was asked; the pool first, in the order in which it proposed.
        promised: the winner's figure minus the incumbent's on the samples that were searched on.
        kept: the same in the re-test, on samples that nothing was chosen by. What is lost of the promise is the
            winner's curse.
        hits: the bounds that the best came to, in words, where the box was widened.
        taken: whether the winner replaced the incumbent.
        sentences: all this for people.
    """

    schedule: Schedule
    incumbent: Candidate
    as_good: int
    trials: Trials
    promised: float
    kept: Interval | None
    hits: list[str]
    taken: bool
    sentences: list[str]


class BlackBox(Method, ABC):
    """The best schedule by any figure that can be measured, found by asking.

    1. The pool names its candidates. With them, the *design*, the search begins. The incumbent is the nearest to the
       teacher, on all samples, of those that the figure cannot tell from the best.
    2. In every round the method asks for further schedules, given all that was measured before. All are measured on
       the same noise and prompts, the first half of the problem's samples. So most of the noise of the figure cancels
       in differences.
    3. If the best lies at a bound of the box, the box is widened there, once, and half as many rounds follow.
    4. The five best are re-scored on a quarter of the samples, whose noise is fresh, and the best there is the winner.
       The least of hundreds of noisy numbers is as much luck as merit.
    5. On the last quarter the winner is re-tested against the incumbent. It replaces it if it is better by the 95 %
       interval of the paired difference.

    A method implements `space` and `ask`, which are functions of their arguments alone. So a search that was cut off
    goes on, and several processes divide the schedules of a round.

    Args:
        criterion: the name of a figure of the problem's judges that can be better or worse; or "nearness", the mean
            PSNR to the teacher, or "data_distance", the sliced Wasserstein distance to the problem's data.
        pool: methods by name that propose the design; one that cannot take part is left out.
        free_ends: schedules may begin and end elsewhere than the teacher, inside its range.
        rounds: of asking.
        seed: of whatever is random.
        max_batch: most samples in one call of the denoiser.

    `SearchResult.evidence`: "decisions"; "sought", the `Sought` of every step count.

    Raises:
        ValueError: a member of the pool that is no method, or no rounds; in `check`, too few samples for the judge in
            one of the three parts, a criterion that nobody measures, or a pool of which nobody can take part.
    """

    def __init__(
        self, criterion: str, pool: Mapping[str, Method], free_ends: bool, rounds: int, seed: int, max_batch: int
    ) -> None:
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {rounds}")
        self.criterion, self.pool, self.free_ends = criterion, pool_of(pool), free_ends
        self.rounds, self.seed, self.max_batch = rounds, seed, max_batch

    def by(self, criterion: str, pool: Mapping[str, Method]) -> BlackBox:
        """The same search by another criterion and with another pool."""
        other = copy(self)
        other.criterion, other.pool = criterion, dict(pool)
        return other

    @property
    @abstractmethod
    def asked_per_round(self) -> int:
        """How many schedules a round asks for, at most."""

    @abstractmethod
    def space(self, problem: SearchProblem, steps: int, candidates: Sequence[Schedule]) -> Space:
        """The schedules that are searched, of which the candidates are some, or near some."""

    @abstractmethod
    def ask(self, space: Space, trials: Trials, number: int) -> Tensor:
        """The points [Q, P] of round `number`, from 0 on, within the bounds of the space."""

    def ranked(self, space: Space, trials: Trials) -> list[int]:
        """The numbers of the trials in the order in which they are re-scored."""
        return trials.order

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        if len(problem.noise) < FEWEST:
            raise ValueError(
                f"the best schedules are re-scored on a quarter of the samples and the winner is re-tested on another: "
                f"at least {FEWEST} samples are needed, got {len(problem.noise)} (search.samples)"
            )
        for target in self._targets(problem, ALONE):
            target.check()
        taking_part, left_out = able(self.pool, self._few(problem), steps)
        if not taking_part:
            raise ValueError("no method of the pool can take part: " + "; ".join(left_out))
        for n in checked_steps(steps):
            self.space(problem, n, [])

    def judge(self, problem: SearchProblem) -> Judge:
        return judge_of(problem, self.criterion)

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        """The teacher's walks, and so many students as the design and all rounds have, without a widened box."""
        few, samples = self._few(problem), [len(part) for part in parts(len(problem.noise))]
        teacher = problem.walker.nfe(problem.teacher) * len(problem.noise)
        students = sum(problem.solver.nfe(steps_between(problem.teacher, n)) for n in checked_steps(steps))
        asked = 2 * len(self.pool) + self.rounds * self.asked_per_round
        # half of the design may be as good as the best, and is held against the teacher on all samples
        as_good = len(self.pool)
        each = asked * samples[0] + (RESCORED + 1 + as_good) * samples[1] + (2 + as_good) * samples[2]
        proposed = [method.evaluations(few, steps) for method in able(self.pool, few, steps)[0].values()]
        pool = sum(0 if found is None else found.count for found in proposed)
        return Evaluations((teacher + students * each) * call_nfe(problem.denoiser) + pool, exact=False)

    def find(self, problem: SearchProblem, steps: Sequence[int], workers: Workers) -> SearchResult:
        counter = problem.denoiser
        assert isinstance(counter, CountedDenoiser)
        workers = workers.telling(lambda name: None)  # the evaluations say how far the whole is
        few = self._few(problem)
        taking_part, left_out = able(self.pool, few, steps)
        proposals, without = proposed(taking_part, few, steps, workers)
        left_out += without
        if not all(proposals.values()):
            raise ValueError("no method of the pool found a schedule: " + "; ".join(left_out))
        decisions = ["left out: " + "; ".join(left_out)] if left_out else []
        sought = {}
        for n in steps:
            sought[n] = self.sought(problem, n, proposals[n], workers)
            decisions += [
                f"{sentence} ({counter.evaluations:,} evaluations so far)" for sentence in sought[n].sentences
            ]
        schedules = {n: found.schedule for n, found in sought.items()}
        return SearchResult(schedules, evidence={"decisions": decisions, "sought": sought})

    def sought(self, problem: SearchProblem, steps: int, proposals: Sequence[Candidate], workers: Workers) -> Sought:
        """The search for one step count, from proposals of whoever."""
        searched, rescoring, retest = self._targets(problem, workers)
        pool = distinct(proposals)
        space = self.space(problem, steps, [one.schedule for one in pool])
        answers = searched.answers([one.schedule for one in pool])
        asked = [Asked(one.schedule, answer.criterion) for one, answer in zip(pool, answers, strict=True)]
        trials = _trials(torch.stack([space.numbers(one.schedule) for one in asked]), asked, asked)
        as_good = as_good_as_the_best(answers)
        first = self._nearest(as_good, answers, pool, [rescoring, retest])
        incumbent = pool[first]

        def measure(points: Tensor) -> Trials:
            schedules = [space.schedule(point) for point in points]
            more = [Asked(*pair) for pair in zip(schedules, searched.measured(schedules), strict=True)]
            asked.extend(more)
            return _trials(points, more, asked)

        def ask(space: Space, trials: Trials, number: int) -> Tensor:
            return self._asked_once(space, trials, number, steps, problem, workers)

        trials = asked_for(ask, measure, space, trials, range(self.rounds))
        best = trials.numbers[trials.order[0]]
        hits, wider = space.hits(best), space.widened(best)
        if hits:
            space = wider
            trials = asked_for(ask, measure, space, trials, range(self.rounds, self.rounds + -(-self.rounds // 2)))
        chosen = list(dict.fromkeys([*self.ranked(space, trials)[:RESCORED], trials.order[0]]))
        scores = rescoring.measured([asked[k].schedule for k in chosen])
        winner = chosen[min(range(len(chosen)), key=lambda k: loss(scores[k]))]
        promised = asked[winner].measurement.interval.value - asked[first].measurement.interval.value
        kept, taken = None, False
        if winner != first:
            ours, theirs = retest.measured([asked[winner].schedule, incumbent.schedule])
            kept = _difference(ours, theirs)
            taken = verdict(kept, bool(ours.higher_is_better)) == "better"
        schedule = asked[winner].schedule if taken else incumbent.schedule
        described = self._described(problem, incumbent, taken)
        found = Sought(
            replace(schedule, metadata=described),
            incumbent,
            len(as_good),
            trials,
            promised,
            kept,
            hits,
            taken,
            list[str](),
        )
        return replace(found, sentences=self._sentence(steps, found, len(pool)))

    def _nearest(
        self, numbers: Sequence[int], answers: Sequence[Answer], pool: Sequence[Candidate], further: Sequence[Target]
    ) -> int:
        """Of these candidates the one whose samples are the nearest to the teacher's, the further targets' included."""
        if len(numbers) == 1:
            return numbers[0]
        found = [target.answers([pool[k].schedule for k in numbers]) for target in further]
        columns = zip([answers[k] for k in numbers], *found, strict=True)
        means = [float(torch.cat([answer.nearness for answer in column]).mean()) for column in columns]
        return numbers[means.index(max(means))]

    def _asked_once(
        self, space: Space, trials: Trials, number: int, steps: int, problem: SearchProblem, workers: Workers
    ) -> Tensor:
        """What `ask` answers: whoever is first computes it, so that all processes ask for the same."""
        counter = problem.denoiser
        assert isinstance(counter, CountedDenoiser)
        names: list[dict[str, Any]] = [{}]
        if workers.keeps:
            workers = workers.on("asked", criterion=self.criterion, **problem.facts)
            bounds = [space.lower.tolist(), space.upper.tolist()]
            names = [{"steps": steps, "round": number, "box": bounds, "trials": trials.fingerprint}]
        return counted_shards(counter, workers, names, lambda _: self.ask(space, trials, number))[0]

    def _targets(self, problem: SearchProblem, workers: Workers) -> list[Target]:
        """The criterion on the samples that are searched, re-scored and re-tested on."""
        return [
            Target(problem.part(part), self.criterion, workers, self.seed, self.max_batch)
            for part in parts(len(problem.noise))
        ]

    def _few(self, problem: SearchProblem) -> SearchProblem:
        return problem.part(parts(len(problem.noise))[0][:_POOL])

    def _described(self, problem: SearchProblem, incumbent: Candidate, taken: bool) -> dict[str, Any]:
        return {
            "method": type(self).__name__.lower(),
            "criterion": self.criterion,
            "from": list(incumbent.names),
            "taken": taken,
            **problem.solver.described,
            "samples": len(problem.noise),
        }

    def _sentence(self, steps: int, found: Sought, pool: int) -> list[str]:
        names = " and ".join(found.incumbent.names)
        what = f"the best of {pool} candidates by {self.criterion}"
        if found.as_good > 1:
            what = f"the nearest to the teacher of {found.as_good} that cannot be told from {what}"
        sentences = [f"{steps} steps: {names} is {what}"]
        if found.hits:
            sentences.append(f"{steps} steps: the box was widened once, because the best had {', '.join(found.hits)}")
        if found.kept is None:
            sentences.append(f"{steps} steps: none of {len(found.trials) - pool} others is better on fresh noise")
            return sentences
        kept = f"{found.kept.value:+.4g} [{found.kept.low:+.4g}, {found.kept.high:+.4g}]"
        outcome = "" if found.taken else f", too little to be sure: it stays {names}'s"
        sentences.append(
            f"{steps} steps: the best of {len(found.trials) - pool} others promised {found.promised:+.4g} "
            f"{self.criterion} over it, and in the re-test on fresh noise kept {kept}{outcome}"
        )
        return sentences


def as_good_as_the_best(answers: Sequence[Answer]) -> list[int]:
    """The numbers of the candidates that may be as good as the best by the criterion, the best among them.

    The best of many noisy numbers is as much luck as merit. As good may be whose 95 % interval of the paired difference
    to the best holds 0.
    """
    losses = [loss(answer.criterion) for answer in answers]
    best = min(range(len(answers)), key=losses.__getitem__)
    first = answers[best].criterion
    return [
        k
        for k, answer in enumerate(answers)
        if k == best
        or (
            math.isfinite(losses[k])
            and verdict(_difference(first, answer.criterion), bool(first.higher_is_better)) != "better"
        )
    ]


def asked_for(
    ask: Callable[[Space, Trials, int], Tensor],
    measure: Callable[[Tensor], Trials],
    space: Space,
    trials: Trials,
    rounds: range,
) -> Trials:
    """The trials, and those of these rounds; a round that asks for nothing is the last.

    Args:
        ask: see `BlackBox.ask`.
        measure: what it asks for.
    """
    for number in rounds:
        points = ask(space, trials, number)
        if len(points) == 0:
            break
        trials = trials.and_then(measure(points))
    return trials


def parts(samples: int) -> list[Tensor]:
    """The numbers of the samples that are searched, re-scored and re-tested on."""
    ends = [0, *(round(samples * share) for share in accumulate(SHARES))]
    return [torch.arange(start, end) for start, end in pairwise(ends)]


def _trials(points: Tensor, asked: Sequence[Asked], all_of_them: Sequence[Asked]) -> Trials:
    """Points [Q, P] with what was measured there."""
    first = all_of_them[0].measurement
    values = [loss(one.measurement) for one in asked]
    errors = [difference_error(one.measurement, first) for one in asked]
    return Trials(points, *(torch.tensor(column, dtype=torch.float64) for column in (values, errors)))


def _difference(ours: Measurement, theirs: Measurement) -> Interval:
    """The difference of two numbers with its interval; of two that cannot be paired, by the errors of both."""
    paired = ours.difference(theirs)
    if paired is not None:
        return paired
    difference = ours.interval.value - theirs.interval.value
    half = 1.96 * difference_error(ours, theirs)
    return Interval(difference, difference - half, difference + half)
