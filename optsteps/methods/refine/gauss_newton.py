"""Levenberg-Marquardt on the numbers of a schedule, without a gradient through the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optsteps.methods.nearness import Nearness
from optsteps.methods.refine.coordinates import GapCoordinates
from optsteps.metrics.statistics import Interval, spread
from optsteps.schedules import Schedule

# damping at first, what it is multiplied by for the trials of one round, and after a round in which none was better
_DAMPING, _TRIALS, _RAISED = 1e-2, (0.1, 1.0, 10.0), 100.0
# a round that gains less, in dB on the fit samples, is the last
_SMALLEST_GAIN = 0.05


@dataclass(frozen=True)
class Refined:
    """What a refinement came to.

    Attributes:
        schedule: the best on the selection samples if it is better there than the start by its paired interval,
            otherwise the start.
        gain: in dB on the selection samples, of the best over the start.
        samples: the number of selection samples that were needed.
        iterates: the schedules on the way, the start first.
        fitted: by iterate the mean over the fit samples of -10 log10 of the squared error, in dB.
        held: the same over the first selection samples.
    """

    schedule: Schedule
    gain: Interval
    samples: int
    iterates: list[Schedule] = field(repr=False)
    fitted: list[float]
    held: list[float]


def refined(
    start: Schedule, fit: Nearness, held: Sequence[Nearness], rounds: int = 6, index: Tensor | None = None
) -> Refined:
    """A schedule near `start` whose ends are nearer to the teacher's, by Levenberg-Marquardt (Marquardt 1963).

    What is lowered is the mean over the fit samples of the logarithm of the squared difference, so that every sample
    counts alike and the mean PSNR rises. In every round the ends are linearised in the schedule's numbers by forward
    differences; a column is a walk that shares its first part with the walk of the schedule itself. The best of three
    damped steps is taken if it is better.

    Every schedule on the way is tried on the first selection samples, which no step sees. The best there replaces the
    start if it is better by the 95 % interval of the paired differences. As long as the interval says neither that it
    is better nor that it is worse, further selection samples are asked.

    Args:
        start: to begin with.
        fit: the fit samples.
        index: the numbers of those of them that steps are fitted on, None for all.
        held: the selection samples, in the parts in which they are asked.
        rounds: at most.
    """
    iterates, fitted = _iterates(start, fit, index, rounds)
    tried = _levels(held[0].errors(iterates))
    best = int(tried.mean(1).argmax())
    gain, asked = Interval(0.0, 0.0, 0.0), 1
    if best > 0:
        differences = tried[best] - tried[0]
        gain = spread(differences)
        while 0 in gain and asked < len(held):
            level, before = _levels(held[asked].errors([iterates[best], start]))
            differences = torch.cat([differences, level - before])
            gain, asked = spread(differences), asked + 1
    chosen = iterates[best] if gain.low > 0 else start
    samples = sum(part.samples for part in held[:asked])
    return Refined(chosen, gain, samples, iterates, fitted, tried.mean(1).tolist())


def _iterates(start: Schedule, fit: Nearness, index: Tensor | None, rounds: int) -> tuple[list[Schedule], list[float]]:
    """The schedules of all rounds, each better than the one before, and their levels on the fit samples."""
    coordinates = GapCoordinates(start)
    numbers, damping = torch.zeros(coordinates.size, dtype=torch.float64), _DAMPING
    iterates, fitted = [start], [float(_levels(fit.errors([start], index)).mean())]
    for _ in range(rounds if coordinates.size > 1 else 0):
        linear = fit.linearised(iterates[-1], *coordinates.near(numbers), relative=True, index=index)
        derivatives = coordinates.derivatives(numbers)
        products = derivatives.T @ linear.products @ derivatives
        gradient = derivatives.T @ linear.gradient
        trials = [numbers - _step(products, gradient, damping * factor) for factor in _TRIALS]
        schedules = [coordinates.schedule(trial) for trial in trials]
        levels = _levels(fit.errors(schedules, index)).mean(1)
        best = int(levels.argmax())
        gain = float(levels[best]) - fitted[-1]
        if gain > 0:
            numbers, damping = trials[best], damping * _TRIALS[best]
            iterates.append(schedules[best])
            fitted.append(float(levels[best]))
        elif damping > _DAMPING * _RAISED:
            break
        else:
            damping *= _RAISED
            continue
        if gain < _SMALLEST_GAIN:
            break
    return iterates, fitted


def _levels(errors: Tensor) -> Tensor:
    """-10 log10 of errors, in dB."""
    return -10 * errors.clamp(min=torch.finfo(torch.float64).tiny).log10()


def _step(products: Tensor, gradient: Tensor, damping: float) -> Tensor:
    """Marquardt's step: the diagonal of the products is raised by the damping, in its own scale."""
    diagonal = products.diagonal()
    floor = diagonal.max() * 1e-9
    return torch.linalg.solve(products + torch.diag(damping * diagonal + floor), gradient)
