"""LD3: times learned by gradients through the whole walk (Tong et al., arXiv:2405.15506)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from optsteps.denoisers import CountedDenoiser, call_nfe
from optsteps.fingerprint import plain_settings, solver_facts
from optsteps.methods.base import Evaluations, Method, SearchProblem, SearchResult, checked_steps
from optsteps.methods.ld3.gaps import GapSchedules, Mode
from optsteps.methods.ld3.training import Learned, Training
from optsteps.processes import EDM
from optsteps.schedules import Schedule
from optsteps.storage.workers import Workers
from optsteps.trajectories import Trajectories


class LD3(Method):
    """The times whose samples are nearest to the teacher's, learned by gradients through the solver's whole walk.

    The gaps of a schedule of n steps are a softmax of n numbers, in log-SNR (mode "lambda") or in time (mode "time"),
    which at first are equal; the ends are the teacher's. Half of the problem's samples train them with RMSprop, the
    others validate after every step, and the numbers that are best there are the result. After `patience` validations
    in a row that are no better, the best numbers are restored and the learning rates fall; so they are, at their rates,
    at the beginning of every round. Every step count is learned by itself.

    Soft teacher forcing: the student need not copy the teacher's sample of exactly the same noise. Every training
    sample's noise moves by a gradient step of its own whenever it is visited. It stays within a ball of the radius
    `ball` * D / n^2 around the noise that the teacher had, D being the numbers of a sample, and a move counts only
    where the sample's loss has fallen.

    With `told_times`, the times that the network is told at the inner steps are learned too, in the second phase. They
    differ from the schedule's own by at most `win_rate` of its least gap. A plain list of times cannot hold them.

    As in the released code (github.com/vinhsuhi/LD3, 2024-10), but for these:

    - The loss is the mean squared difference of the samples as they are, the released option "L2". Its default is
      LPIPS on decoded images, which needs the weights of a network.
    - The bound of the told times is taken from the grid in both modes. In mode "lambda" the released code takes it from
      the free numbers, so that it is 0 where two neighbours are equal.
    - The noise of validation samples does not move. In the released code it does, and what is validated is helped.
      `ball_rate` halves after a round in which no training noise moved, there after one without a validation noise.
    - All validation samples are asked every time, as they are with the authors' settings for pixels: one batch holds
      all. As there, the first time that patience ends restores the best and leaves the learning rates.
    - A round begins with the best numbers, as there, which are not validated once more.
    - Without `told_times`, the times alone are trained in the second phase: the first phase goes on.

    The authors take 100 samples, which make 175 optimiser steps with the settings below; 8 samples make 14. Their
    solver is UniPC of order 3, through whose step ratios they let no gradient pass, and here it passes.

    The cost is counted as everywhere, in evaluations forwards. A training step follows its walk backwards too, which
    costs about twice as much again and the memory of a whole walk. "decisions" says how many evaluations were followed.

    Args:
        mode: "lambda", the authors' for pixels, or "time", theirs for latents. None: "lambda" where the log-SNR at both
            ends is finite, otherwise "time".
        told_times: whether the second phase learns told times.
        first_rounds: passes over the training samples in the first phase.
        second_rounds: in the second phase; the authors take 3 for latents.
        batch: training samples of one step; the authors take 1 for latents.
        rate: learning rate of the times.
        momentum: of the times.
        told_rate: learning rate of the told times, times n. None: 0.1 in mode "lambda", where it is of log-SNR, and
            0.001 in mode "time", where it is of the range.
        ball: 0 lets no noise move.
        ball_rate: learning rate of the noise, times n.
        win_rate: see above; at most 0.5, so that told times stay in order.
        patience: see above.
        decay: what the learning rates are multiplied by, down to 5e-5 and, for told times, 1e-6. In the second phase
            training stops when the rate (with `told_times`, theirs) has been found there 5 times.
        validate_every: so many optimiser steps lie between validations; the authors take 1.
        seed: of the order in which training samples are visited.
        max_batch: most samples in one call of the denoiser where nothing is followed backwards.

    `SearchResult.evidence`: "decisions"; by step count "validation", the mean squared errors of the validation samples
    at the start and after every validation.

    Raises:
        ValueError: a setting out of its range; in `check`, a stochastic solver, fewer than 4 samples, mode "lambda"
            where the log-SNR is infinite, mode None where EDM's is, or told times for a solver that does not obey them.
        ModelError: in `search`, a denoiser through which no gradient flows.
    """

    name = "ld3"

    def __init__(
        self,
        mode: Mode | None = None,
        told_times: bool = False,
        first_rounds: int = 2,
        second_rounds: int = 5,
        batch: int = 2,
        rate: float = 5e-3,
        momentum: float = 0.9,
        told_rate: float | None = None,
        ball: float = 1e-3,
        ball_rate: float = 12.0,
        win_rate: float = 0.5,
        patience: int = 5,
        decay: float = 0.8,
        validate_every: int = 1,
        seed: int = 0,
        max_batch: int = 512,
    ) -> None:
        if mode not in ("lambda", "time", None):
            raise ValueError(f"mode must be 'lambda', 'time' or None, got {mode!r}")
        for name, count in {"batch": batch, "patience": patience, "validate_every": validate_every}.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        for name, size in {"first_rounds": first_rounds, "second_rounds": second_rounds, "ball": ball}.items():
            if not (size >= 0 and math.isfinite(size)):
                raise ValueError(f"{name} must be at least 0 and finite, got {size}")
        for name, speed in {"rate": rate, "told_rate": told_rate, "ball_rate": ball_rate}.items():
            if speed is not None and not (speed > 0 and math.isfinite(speed)):
                raise ValueError(f"{name} must be positive and finite, got {speed}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {momentum}")
        if not 0 < decay <= 1:
            raise ValueError(f"decay must be above 0 and at most 1, got {decay}")
        if not 0 <= win_rate <= 0.5:
            raise ValueError(f"win_rate must be from 0 to 0.5, got {win_rate}")
        self.mode, self.told_times = mode, told_times
        self.first_rounds, self.second_rounds, self.batch = first_rounds, second_rounds, batch
        self.rate, self.momentum, self.told_rate = rate, momentum, told_rate
        self.ball, self.ball_rate, self.win_rate = ball, ball_rate, win_rate
        self.patience, self.decay, self.validate_every = patience, decay, validate_every
        self.seed, self.max_batch = seed, max_batch

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        problem.check_answers("ld3")
        problem.check_repeats("ld3")
        if len(problem.noise) < 4:
            raise ValueError(
                f"ld3 trains on half of the samples and validates on the others: it needs at least 4, got "
                f"{len(problem.noise)} (search.samples)"
            )
        grid = self._grid(problem)
        for n in checked_steps(steps):
            problem.solver.check(grid.schedule(*grid.start(n)) if self.told_times else grid.schedule(grid.start(n)[0]))

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        """A maximum, forwards: the teacher's walk, all rounds, and all their validations."""
        grid, samples = self._grid(problem), len(problem.noise)
        trained = samples // 2
        rounds = self.first_rounds + self.second_rounds
        validations = 1 + rounds * -(-trained // self.batch) // self.validate_every
        visits = rounds * trained * (2 if self.ball else 1)
        walks = sum(problem.solver.nfe(grid.schedule(grid.start(n)[0])) for n in checked_steps(steps) if n > 1)
        count = samples * problem.walker.nfe(problem.teacher)
        count += walks * (visits + validations * (samples - trained))
        return Evaluations(count * call_nfe(problem.denoiser), exact=False)

    def find(self, problem: SearchProblem, steps: Sequence[int], workers: Workers) -> SearchResult:
        trajectories = Trajectories(problem.denoiser, self.max_batch, problem.cache)
        goal = trajectories.ends(problem.teacher, problem.walker, problem.noise, problem.cond)
        grid = self._grid(problem)
        found = {n: self._learned(problem, grid, goal, n, trajectories) for n in steps}
        described = {
            "method": self.name,
            **problem.solver.described,
            "mode": grid.mode,
            "samples": len(problem.noise),
        }
        schedules = {n: replace(grid.schedule(one.logits, one.told), metadata=described) for n, one in found.items()}
        decisions = [_sentence(n, grid.mode, one, len(goal) - len(goal) // 2) for n, one in found.items()]
        validation = {n: one.validation for n, one in found.items()}
        return SearchResult(schedules, evidence={"decisions": decisions, "validation": validation})

    def _grid(self, problem: SearchProblem) -> GapSchedules:
        return GapSchedules(problem.teacher, _mode(self.mode, problem.teacher), self.win_rate)

    def _learned(
        self, problem: SearchProblem, grid: GapSchedules, goal: Tensor, steps: int, trajectories: Trajectories
    ) -> Learned:
        """What is learned for one step count, or what was learned before."""

        def learn(denoiser: CountedDenoiser) -> Learned:
            training = Training(self, replace(problem, denoiser=denoiser), grid, goal, steps)
            return training.learned()

        facts: dict[str, Any] = {}
        if problem.cache.workers.keeps:
            schedule = grid.schedule(grid.start(steps)[0])
            solver = solver_facts(problem.solver, schedule, problem.noise)
            facts = {"settings": plain_settings(self), "start": schedule.facts, "mode": grid.mode, "solver": solver}
        return trajectories.once("ld3", (problem.noise, problem.cond, goal), learn, **facts)


def _mode(mode: Mode | None, teacher: Schedule) -> Mode:
    """The mode that is meant.

    Raises:
        ValueError: mode "lambda" with an infinite end, or none under EDM with one.
    """
    finite = bool(teacher.process.log_snr(teacher.times[[0, -1]]).isfinite().all())
    if finite:
        return mode or "lambda"
    if mode == "lambda":
        raise ValueError(
            f"ld3's mode 'lambda' divides the log-SNR between the teacher's ends, and it is infinite at one of them, "
            f"{teacher.times[0].item():g} or {teacher.times[-1].item():g}; take mode 'time', or a teacher between "
            "finite ends (teacher.final=t_min)"
        )
    if mode is None and isinstance(teacher.process, EDM):
        raise ValueError(
            "ld3 divides the log-SNR under EDM, and it is infinite at the teacher's last time, noise level 0; take a "
            "teacher that ends at a positive level (teacher.final=t_min), or mode 'time' to divide the noise level"
        )
    return "time"


def _sentence(steps: int, mode: Mode, learned: Learned, validated: int) -> str:
    """A sentence on one training."""
    if steps == 1:
        return "1 step: nothing to learn"
    first, best = learned.validation[0], min(learned.validation)
    return (
        f"{steps} steps: {learned.optimiser_steps} optimiser steps in mode {mode} took the mean squared error of "
        f"{validated} validation samples from {first:.3g} to {best:.3g}; the noise of {learned.moved} training samples "
        f"moved; {learned.followed:,} evaluations were followed backwards too, which costs about twice as much again "
        "and is not counted"
    )
