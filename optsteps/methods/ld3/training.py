"""The training of LD3: gradients through the whole walk, on samples whose noise may move."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from optsteps.conditions import Cond, take
from optsteps.denoisers import ModelError, call_nfe
from optsteps.methods.base import SearchProblem
from optsteps.methods.ld3.gaps import GapSchedules
from optsteps.metrics.teacher import mse
from optsteps.sampling import sample
from optsteps.schedules import Schedule
from optsteps.storage.shards import storable

if TYPE_CHECKING:
    from optsteps.methods.ld3.search import LD3

# of the released code: the largest norm of a gradient; below which learning rates do not fall; how often they may be
# found there before training stops
_LARGEST_NORM = 1.0
_LEAST_RATE, _LEAST_TOLD_RATE, _FLOOR_HITS = 5e-5, 1e-6, 5


@storable
@dataclass(frozen=True)
class Learned:
    """What a training came to.

    Attributes:
        logits: the best numbers of the gaps [n].
        told: those of the told times [n-1]; None where they change nothing.
        validation: mean squared errors of the validation samples, at the start and at every validation.
        optimiser_steps: that were made.
        followed: evaluations that were followed backwards.
        moved: training samples whose noise has moved.
    """

    logits: Tensor
    told: Tensor | None
    validation: list[float]
    optimiser_steps: int
    followed: int
    moved: int


class Training:
    """The training of one step count.

    Args:
        method: its settings.
        problem: its denoiser is counted.
        grid: the schedules.
        goal: the teacher's samples [B, ...].
        steps: n.
    """

    def __init__(self, method: LD3, problem: SearchProblem, grid: GapSchedules, goal: Tensor, steps: int) -> None:
        self.method, self.problem, self.grid, self.goal, self.steps = method, problem, grid, goal, steps
        self.trained = len(goal) // 2
        self.noise = problem.noise[: self.trained].clone()
        self.radius = method.ball * goal[0].numel() / steps**2
        self.ball_rate = method.ball_rate / steps
        self.logits, self.told = (numbers.requires_grad_() for numbers in grid.start(steps))
        told_rate = {"lambda": 0.1, "time": 0.001}[grid.mode] if method.told_rate is None else method.told_rate
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.RMSprop([self.logits], lr=method.rate, momentum=method.momentum),
            torch.optim.SGD([self.told], lr=told_rate / steps),
        ]
        self.best = (self.logits.detach().clone(), self.told.detach().clone())
        self.validation: list[float] = []
        self.optimiser_steps = self.followed = 0
        self.worse = self.expired = self.floor_hits = 0

    def learned(self) -> Learned:
        """Train in all rounds."""
        if self.steps > 1:  # one step has no inner time
            self.validate()
            self.train()
        logits, told = self.best
        moved = (self.noise != self.problem.noise[: self.trained]).flatten(1).any(1)
        return Learned(
            logits, _unless_zero(told), self.validation, self.optimiser_steps, self.followed, moved=int(moved.sum())
        )

    def train(self) -> None:
        """All rounds, or those before training stops."""
        method = self.method
        generator = torch.Generator().manual_seed(method.seed)
        for number in range(method.first_rounds + method.second_rounds):
            second = number >= method.first_rounds
            self.restore()
            before = self.noise.clone()
            for index in torch.randperm(self.trained, generator=generator).split(method.batch):
                losses, gradient = self.step(index, second and method.told_times)
                if self.optimiser_steps % method.validate_every == 0:
                    self.validate(second)
                if self.floor_hits >= _FLOOR_HITS:
                    return
                if self.radius > 0:
                    self.move(index, losses, gradient)
            if torch.equal(before, self.noise):
                self.ball_rate /= 2

    def step(self, index: Tensor, learns_told: bool) -> tuple[Tensor, Tensor]:
        """One step of the optimisers on the training samples `index` [b]: their losses before it [b], and the gradient
        of the mean loss in their noise [b, ...]."""
        noise = self.noise[index.to(self.noise.device)].requires_grad_()
        free = [self.logits, *([self.told] if learns_told else [])]
        with torch.enable_grad():
            schedule = self.grid.schedule(self.logits, self.told if learns_told else None)
            losses = self.losses(schedule, noise, index)
            *gradients, of_noise = torch.autograd.grad(losses.mean(), [*free, noise], allow_unused=True)
        self.followed += len(index) * self.problem.solver.nfe(schedule) * call_nfe(self.problem.denoiser)
        for numbers, gradient, optimiser in zip(free, gradients, self.optimisers, strict=False):
            if gradient is None:
                raise ModelError(
                    "no gradient reaches the times that ld3 tells the network: the denoiser rounds its time or ignores "
                    "it; take told_times=false"
                )
            if not bool(gradient.isfinite().all()):
                raise ModelError(
                    f"the gradient of ld3's loss in the times is NaN or inf with {self.steps} steps; the denoiser, or "
                    "a precision that overflows backwards, does not suit a method that learns by gradients"
                )
            numbers.grad = gradient
            torch.nn.utils.clip_grad_norm_([numbers], _LARGEST_NORM)
            optimiser.step()
        self.optimiser_steps += 1
        return losses.detach(), of_noise

    def move(self, index: Tensor, losses: Tensor, gradient: Tensor) -> None:
        """Move the noise of the training samples `index` [b] down its gradient, where their losses [b] fall."""
        place = index.to(self.noise.device)
        moved = self.noise[place] - self.ball_rate * gradient
        moved = into_ball(moved, self.problem.noise[place], self.radius)
        better = self.losses(self.grid.schedule(*self.numbers()), moved, index) < losses
        self.noise[place[better]] = moved[better]

    def validate(self, second: bool = False) -> None:
        """The loss of the validation samples; what follows from it for the best numbers and the learning rates."""
        schedule, noise = self.grid.schedule(*self.numbers()), self.problem.noise
        parts = torch.arange(self.trained, len(noise)).split(self.method.max_batch)
        losses = [self.losses(schedule, noise[part.to(noise.device)], part) for part in parts]
        loss = float(torch.cat(losses).mean())
        if loss < min(self.validation, default=math.inf):
            self.best, self.worse = (self.logits.detach().clone(), self.told.detach().clone()), 0
        else:
            self.worse += 1
        self.validation.append(loss)
        if self.worse >= self.method.patience:
            self.restore()
            self.expired += 1
            if self.expired > 1:
                self.lower_rates(second)

    def restore(self) -> None:
        """Go on from the best numbers."""
        self.worse = 0
        with torch.no_grad():
            for numbers, best in zip((self.logits, self.told), self.best, strict=True):
                numbers.copy_(best)

    def lower_rates(self, second: bool) -> None:
        """Lower the rate of the times and, in the second phase, of the told times, down to their floors."""
        learns_told = second and self.method.told_times
        rates = list(zip(self.optimisers, (_LEAST_RATE, _LEAST_TOLD_RATE), strict=True))[: 2 if learns_told else 1]
        for optimiser, floor in rates:
            optimiser.param_groups[0]["lr"] = max(floor, self.method.decay * optimiser.param_groups[0]["lr"])
        last, floor = rates[-1]
        self.floor_hits += second and last.param_groups[0]["lr"] <= floor

    def numbers(self) -> tuple[Tensor, Tensor | None]:
        """The numbers as they are, without a graph; None for told times that change nothing."""
        return self.logits.detach(), _unless_zero(self.told.detach())

    def losses(self, schedule: Schedule, noise: Tensor, index: Tensor) -> Tensor:
        """Mean squared differences [b] between the samples of noise [b, ...] and the teacher's of the numbers `index`
        [b]; with a graph where the schedule has one."""
        cond = take(self.problem.cond, index)
        ends = sample(self.followable, schedule, self.problem.solver, noise, cond)
        return mse(ends, self.goal[index.to(self.goal.device)])

    def followable(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """The denoiser, which refuses where it lets no gradient pass: the walk's would be without it, and wrong."""
        out = self.problem.denoiser(x, t, cond)
        if torch.is_grad_enabled() and x.requires_grad and not out.requires_grad:
            raise ModelError(
                "ld3 learns by gradients through the denoiser, and none flows through this one: call its network "
                "without torch.no_grad, torch.inference_mode and detach, or take a method without gradients"
            )
        return out


def into_ball(x: Tensor, centres: Tensor, radius: float) -> Tensor:
    """x [B, ...], with every sample that lies farther from its centre [B, ...] than the radius brought to that
    distance, in the straight line."""
    away = (x - centres).flatten(1)
    distance = away.norm(dim=1, keepdim=True)
    share = torch.where(distance > radius, radius / distance, torch.ones_like(distance))
    return centres + (away * share).reshape(x.shape)


def _unless_zero(told: Tensor) -> Tensor | None:
    return told if bool(told.any()) else None
