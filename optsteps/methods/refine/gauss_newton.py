"""Levenberg-Marquardt on the numbers of a schedule, without a gradient through the network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optsteps.methods.nearness import Nearness, decibels
from optsteps.methods.refine.coordinates import Coordinates
from optsteps.metrics.statistics import Interval, spread
from optsteps.schedules import Schedule

# damping at first, what it is multiplied by for the trials of one round, and after a round in which none was better
_DAMPING, _TRIALS, _RAISED = 1e-2, (0.1, 1.0, 10.0), 100.0
# of the geometric mean of the errors: what is added to every one, so that none is lowered to 0 alone
_ADDED = 0.1
# of the largest curvature: what every number is damped by at least, so that none that hardly counts here runs away
_LEAST_SCALE = 1e-3
# of a secant: the least cosine between a step and the change of the gradient that is taken for a curvature
_LEAST_COSINE = 1e-3
# dB on the fit samples: a round that gains less is the last, by default
_LEAST_GAIN = 0.05
# of the interval by which a refined schedule must be better than its start
LEVEL = 0.8
# of a squared error, by the logarithm of its root
_DECIBELS = 20 / math.log(10)


@dataclass(frozen=True)
class Refined:
    """What a refinement came to.

    Attributes:
        schedule: the best on the selection samples if it is better there than the incumbent by its paired interval,
            otherwise the incumbent.
        moved: what the numbers are, as "times", "times and weights", "times and the first scale".
        gain: in dB on the selection samples, of the best over the incumbent.
        samples: the number of selection samples that were needed.
        best: the number of the iterate that is best on the first selection samples, 0 for the incumbent.
        iterates: the schedules on the way: the incumbent, the start if it is another one, and what came of it.
        held: by iterate the mean over the first selection samples of -10 log10 of the squared error, in dB.
    """

    schedule: Schedule
    moved: str
    gain: Interval
    samples: int
    best: int
    iterates: list[Schedule] = field(repr=False)
    held: list[float]

    @property
    def taken(self) -> bool:
        """Whether the best has replaced the incumbent."""
        return self.gain.low > 0


def refined(
    coordinates: Coordinates,
    fit: Nearness,
    held: Sequence[Nearness],
    index: Tensor | None = None,
    rounds: int = 6,
    ridges: Sequence[float] = (0.0,),
    least_gain: float = _LEAST_GAIN,
    incumbent: Schedule | None = None,
) -> Refined:
    """A schedule near a start whose ends are nearer to the teacher's, by Levenberg-Marquardt (Marquardt 1963).

    What is lowered is the mean over the fit samples of the logarithm of the squared difference, so that every sample
    counts alike and the mean PSNR rises. A tenth of the geometric mean is added to every one: a sample of few entries
    could be brought to 0 at the price of all others. In every round the ends are linearised in the schedule's numbers
    by forward differences; a column is a walk that shares its first part with the walk of the schedule itself. With few
    steps much is missed, and what the linearisation leaves out of the second derivatives is learned from the change of
    the gradient (`Secant`). The best of three damped steps is taken if it is better. The damping of a number grows with
    the largest curvature that it has had (Moré 1978), and a number that would leave its bound stays there. Corrections
    of weights are held back by a ridge, which is lowered as long as the selection samples agree.

    Every schedule on the way is tried on the first selection samples, which no step sees. The best there replaces the
    incumbent if it is better by the 80 % interval of the paired differences. As long as the interval says neither that
    it is better nor that it is worse, further selection samples are asked.

    Args:
        coordinates: the numbers that are moved; zeros are the start.
        fit: the fit samples.
        held: the selection samples, in the parts in which they are asked.
        index: the numbers of the samples of `fit` that steps are fitted on, None for all.
        rounds: of every ridge, at most.
        ridges: what a sum of squared corrections of 1 adds to the mean logarithm of the root mean square error, one
            after the other.
        least_gain: a round that gains less, in dB on the fit samples, is the last.
        incumbent: what the best replaces if it is better; None: the start.
    """
    numbers = torch.zeros(coordinates.size, dtype=torch.float64)
    iterates = [coordinates.start]
    if incumbent is not None and incumbent is not coordinates.start:
        iterates.insert(0, incumbent)
    tried = [*decibels(held[0].errors(iterates))]
    for ridge in ridges:
        path = list(_descent(coordinates, numbers, fit, index, rounds, ridge, least_gain))
        if not path:
            break
        numbers, before = path[-1], max(float(levels.mean()) for levels in tried)
        schedules = [coordinates.schedule(some) for some in path]
        iterates += schedules
        tried += decibels(held[0].errors(schedules))
        if max(float(levels.mean()) for levels in tried) <= before:
            break
    best = max(range(len(tried)), key=lambda k: float(tried[k].mean()))
    gain, asked = Interval(0.0, 0.0, 0.0), 1
    if best > 0:
        differences = tried[best] - tried[0]
        gain = spread(differences, LEVEL)
        while 0 in gain and asked < len(held):
            level, before_it = decibels(held[asked].errors([iterates[best], iterates[0]]))
            differences = torch.cat([differences, level - before_it])
            gain, asked = spread(differences, LEVEL), asked + 1
    chosen = iterates[best] if gain.low > 0 else iterates[0]
    samples = sum(part.samples for part in held[:asked])
    levels = [float(some.mean()) for some in tried]
    return Refined(chosen, coordinates.moved, gain, samples, best, iterates, levels)


def descended(coordinates: Coordinates, fit: Nearness, index: Tensor, rounds: int) -> Schedule:
    """The schedule of lowest error on the samples `index` of `fit` after so many rounds of `refined`, at most."""
    numbers = torch.zeros(coordinates.size, dtype=torch.float64)
    return coordinates.schedule([numbers, *_descent(coordinates, numbers, fit, index, rounds, 0.0, _LEAST_GAIN)][-1])


class Secant:
    """What the products of first derivatives leave out of the second derivatives of a sum of logarithms of errors.

    The update is that of NL2SOL (Dennis, Gay and Welsch 1981, section 3): symmetric, of rank two, sized so that an old
    estimate does not outlive the error that it belongs to. As there, it takes part in a step only if it foretold the
    last one better than the products alone did.

    Args:
        size: P, that of the numbers.
    """

    def __init__(self, size: int) -> None:
        self.estimate, self.trusted = torch.zeros(size, size, dtype=torch.float64), True

    def learn(self, step: Tensor, change: Tensor, products: Tensor) -> None:
        """Take in that the gradient changed by `change` [P] over `step` [P], where the products are now [P, P]."""
        left = change - products @ step
        known = float(step @ self.estimate @ step)
        if known:
            self.estimate = self.estimate * min(1.0, abs(float(step @ left) / known))
        along = float(step @ change) > _LEAST_COSINE * float(step.norm() * change.norm())
        axis = change if along else step
        left, share = left - self.estimate @ step, axis / (step @ axis)
        both = torch.outer(left, share)
        self.estimate = self.estimate + both + both.T - (left @ step) * torch.outer(share, share)

    def judge(self, step: Tensor, gradient: Tensor, products: Tensor, lowered: float) -> None:
        """Trust the estimate from now on if with it the fall over a step [P] was foretold no worse than without."""
        without = float(gradient @ step + step @ products @ step / 2) + lowered
        self.trusted = abs(without + float(step @ self.estimate @ step) / 2) <= abs(without)


def _descent(
    coordinates: Coordinates,
    numbers: Tensor,
    fit: Nearness,
    index: Tensor | None,
    rounds: int,
    ridge: float,
    least_gain: float,
) -> Iterator[Tensor]:
    """The numbers after every round, each of a lower error than those before."""
    held_back, samples = ridge * coordinates.corrections, fit.samples if index is None else len(index)

    def errors(trials: Sequence[Tensor]) -> Tensor:
        return fit.errors([coordinates.schedule(trial) for trial in trials], index)

    def level(found: Tensor, trial: Tensor, added: float) -> float:
        return float(decibels(found + added).mean() - _DECIBELS * (held_back * trial**2).sum())

    secant, scale, largest = Secant(coordinates.size), torch.zeros_like(numbers), coordinates.largest
    before: tuple[Tensor, Tensor] | None = None
    damping, moved, (missed,) = _DAMPING, True, errors([numbers])
    for _ in range(rounds if coordinates.size > 1 else 0):
        if moved:
            added = _ADDED * _geometric_mean(missed)
            here = coordinates.schedule(numbers)
            linear = fit.linearised(here, *coordinates.near(numbers), added=added, index=index)
            derivatives = coordinates.derivatives(numbers)
            products = derivatives.T @ linear.products @ derivatives + samples * torch.diag(2 * held_back)
            gradient = derivatives.T @ linear.gradient + samples * 2 * held_back * numbers
            if before is not None:
                secant.learn(numbers - before[0], gradient - before[1], products)
            scale = torch.maximum(scale, products.diagonal())
            staying = (numbers >= largest) & (gradient < 0)
        damped = [damping * factor * scale.clamp(min=_LEAST_SCALE * scale.max()) for factor in _TRIALS]
        steps = [_step(products + some.diag(), gradient, staying, secant) for some in damped]
        trials = [torch.minimum(numbers + step, largest) for step in steps]
        found = errors(trials)
        reached = [level(one, trial, added) for one, trial in zip(found, trials, strict=True)]
        best = max(range(len(reached)), key=reached.__getitem__)
        gain = reached[best] - level(missed, numbers, added)
        secant.judge(trials[best] - numbers, gradient, products, samples * gain / _DECIBELS)
        moved = gain > 0
        if moved:
            before = numbers, gradient
            numbers, damping, missed = trials[best], damping * _TRIALS[best], found[best]
            yield numbers
            if gain < least_gain:
                return
        elif damping > _DAMPING * _RAISED:
            return
        else:
            damping *= _RAISED


def _step(damped: Tensor, gradient: Tensor, staying: Tensor | None = None, secant: Secant | None = None) -> Tensor:
    """Marquardt's step with products whose diagonal is raised; with the estimate of a secant that is trusted, where the
    whole is positive definite. Some numbers stay where they are."""
    free = torch.arange(len(gradient)) if staying is None else (~staying).nonzero().flatten()
    inner, step = (free[:, None], free), torch.zeros_like(gradient)
    floor = (damped.diagonal().max() * 1e-9).clamp(min=torch.finfo(torch.float64).tiny)
    raised = damped[inner] + floor * torch.eye(len(free), dtype=torch.float64)
    if secant is not None and secant.trusted:
        factor, indefinite = torch.linalg.cholesky_ex(raised + secant.estimate[inner])
        if not indefinite:
            step[free] = -torch.cholesky_solve(gradient[free, None], factor)[:, 0]
            return step
    step[free] = torch.linalg.solve(raised, -gradient[free])
    return step


def _geometric_mean(errors: Tensor) -> float:
    """Of those errors [b] whose walks did not diverge; 0 if all did."""
    finite = errors[errors.isfinite()]
    return float(finite.clamp(min=torch.finfo(errors.dtype).tiny).log().mean().exp()) if len(finite) else 0.0
