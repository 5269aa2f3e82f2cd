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
# a round that gains less, in dB on the fit samples, is the last
_SMALLEST_GAIN = 0.05
# of the interval by which a refined schedule must be better than its start
LEVEL = 0.8
# of a squared error, by the logarithm of its root
_DECIBELS = 20 / math.log(10)


@dataclass(frozen=True)
class Refined:
    """What a refinement came to.

    Attributes:
        schedule: the best on the selection samples if it is better there than the start by its paired interval,
            otherwise the start.
        moved: "times" or "times and weights".
        gain: in dB on the selection samples, of the best over the start.
        samples: the number of selection samples that were needed.
        best: the number of the iterate that is best on the first selection samples, 0 for the start.
        iterates: the schedules on the way, the start first.
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
        """Whether the best has replaced the start."""
        return self.gain.low > 0


def refined(
    coordinates: Coordinates,
    fit: Nearness,
    held: Sequence[Nearness],
    index: Tensor | None = None,
    rounds: int = 6,
    ridges: Sequence[float] = (0.0,),
) -> Refined:
    """A schedule near a start whose ends are nearer to the teacher's, by Levenberg-Marquardt (Marquardt 1963).

    What is lowered is the mean over the fit samples of the logarithm of the squared difference, so that every sample
    counts alike and the mean PSNR rises. In every round the ends are linearised in the schedule's numbers by forward
    differences; a column is a walk that shares its first part with the walk of the schedule itself. The best of three
    damped steps is taken if it is better. Corrections of weights are held back by a ridge, which is lowered as long as
    the selection samples agree.

    Every schedule on the way is tried on the first selection samples, which no step sees. The best there replaces the
    start if it is better by the 80 % interval of the paired differences. As long as the interval says neither that it
    is better nor that it is worse, further selection samples are asked.

    Args:
        coordinates: the numbers that are moved; zeros are the start.
        fit: the fit samples.
        held: the selection samples, in the parts in which they are asked.
        index: the numbers of the samples of `fit` that steps are fitted on, None for all.
        rounds: of every ridge, at most.
        ridges: what a sum of squared corrections of 1 adds to the mean logarithm of the root mean square error, one
            after the other.
    """
    start, numbers = coordinates.start, torch.zeros(coordinates.size, dtype=torch.float64)
    iterates, tried = [start], [decibels(held[0].errors([start])[0])]
    for ridge in ridges:
        path = list(_descent(coordinates, numbers, fit, index, rounds, ridge))
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
            level, before_it = decibels(held[asked].errors([iterates[best], start]))
            differences = torch.cat([differences, level - before_it])
            gain, asked = spread(differences, LEVEL), asked + 1
    chosen = iterates[best] if gain.low > 0 else start
    samples = sum(part.samples for part in held[:asked])
    levels = [float(some.mean()) for some in tried]
    return Refined(chosen, coordinates.moved, gain, samples, best, iterates, levels)


def _descent(
    coordinates: Coordinates,
    numbers: Tensor,
    fit: Nearness,
    index: Tensor | None,
    rounds: int,
    ridge: float,
) -> Iterator[Tensor]:
    """The numbers after every round, each of a lower error than those before."""
    held_back, samples = ridge * coordinates.corrections, fit.samples if index is None else len(index)

    def levels(trials: Sequence[Tensor]) -> Tensor:
        penalties = torch.stack([_DECIBELS * (held_back * trial**2).sum() for trial in trials])
        return decibels(fit.errors([coordinates.schedule(trial) for trial in trials], index)).mean(1) - penalties

    damping, level, moved = _DAMPING, float(levels([numbers])), True
    for _ in range(rounds if coordinates.size > 1 else 0):
        if moved:
            here = coordinates.schedule(numbers)
            linear = fit.linearised(here, *coordinates.near(numbers), relative=True, index=index)
            derivatives = coordinates.derivatives(numbers)
            products = derivatives.T @ linear.products @ derivatives + samples * torch.diag(2 * held_back)
            gradient = derivatives.T @ linear.gradient + samples * 2 * held_back * numbers
        trials = [numbers - _step(products, gradient, damping * factor) for factor in _TRIALS]
        reached = levels(trials)
        best = int(reached.argmax())
        gain = float(reached[best]) - level
        moved = gain > 0
        if moved:
            numbers, damping, level = trials[best], damping * _TRIALS[best], float(reached[best])
            yield numbers
            if gain < _SMALLEST_GAIN:
                return
        elif damping > _DAMPING * _RAISED:
            return
        else:
            damping *= _RAISED


def _step(products: Tensor, gradient: Tensor, damping: float) -> Tensor:
    """Marquardt's step: the diagonal of the products is raised by the damping, in its own scale."""
    diagonal = products.diagonal()
    floor = (diagonal.max() * 1e-9).clamp(min=torch.finfo(torch.float64).tiny)
    return torch.linalg.solve(products + torch.diag(damping * diagonal + floor), gradient)
