"""The one loop that walks a schedule with a solver."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from optsteps.conditions import Cond, batch_size
from optsteps.denoisers import CountedDenoiser, Denoiser, expand
from optsteps.schedules import Schedule
from optsteps.solvers.base import Denoise, Solver, State
from optsteps.solvers.brownian import BrownianPaths


@runtime_checkable
class Walks(Protocol):
    """A denoiser that walks by itself: whatever asks for walks gets these, and the solver's loop here runs none.

    A pipeline of diffusers is one (`optsteps.models.diffusers.walks`): its own call takes the steps, and what it does
    at a step may be more than a function of the state and the time.

    Attributes:
        answers: whether it can be called for the prediction at a state, and not for walks alone.
    """

    answers: bool

    def walk(
        self, schedule: Schedule, solver: Solver, noise: Tensor, cond: Cond, seed: int, index: Tensor
    ) -> tuple[Sequence[tuple[Tensor, Tensor | None]], int]:
        """What `optsteps.sampling.walk` gives, and the network evaluations that it took, of all samples together.

        Arguments and errors as of `sample`; index [B] numbers the samples.
        """
        ...


def check_batch(noise: Tensor, cond: Cond) -> None:
    """Raises ValueError unless noise and cond have the same batch size."""
    size = batch_size(cond)
    if size is not None and size != len(noise):
        raise ValueError(f"noise holds {len(noise)} samples but cond holds {size}; they go together one by one")


def sample(
    denoiser: Denoiser,
    schedule: Schedule,
    solver: Solver,
    noise: Tensor,
    cond: Cond = None,
    seed: int = 0,
    index: Tensor | None = None,
    return_trajectory: bool = False,
) -> Tensor:
    """Walk `schedule` from noise to data.

    Args:
        denoiser: D(x [B, ...], t [B], cond) -> [B, ...].
        schedule: the times, and the process they belong to.
        solver: the rule for one step.
        noise: unit Gaussian [B, ...]; scaled here by the schedule's initial scale.
        cond: condition of the batch, or None.
        seed, index: randomness of stochastic solvers. That of sample k depends on (seed, index[k]) alone; index [B] is
            0 ... B-1 by default.
        return_trajectory: whether to return the state at every time instead of the last.

    Returns:
        [B, ...], or [n+1, B, ...] with `return_trajectory`. Carries a graph only if the schedule's times, weights or
        told times require grad.

    Raises:
        ValueError: noise and cond of different batch sizes; the denoiser returned another shape, NaN or inf (the
            message names the time); an amplitude that does not fit the noise's channels; weights or told times that the
            solver cannot obey (`Solver.check`).
    """
    states = (x for x, _ in walk(denoiser, schedule, solver, noise, cond, seed, index))
    return torch.stack(list(states)) if return_trajectory else deque(states, maxlen=1).pop()


def walk(
    denoiser: Denoiser,
    schedule: Schedule,
    solver: Solver,
    noise: Tensor,
    cond: Cond = None,
    seed: int = 0,
    index: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The state x_i [B, ...] at every time t_i of `schedule` with its prediction D(x_i, t_i), None at the last.

    Where the schedule has told times, the prediction is D(x_i, told_times[i]), whatever it is `told_as`.

    The predictions are those that the solver's steps begin with, so they cost nothing beyond the walk. Arguments and
    errors as of `sample`.
    """
    check_batch(noise, cond)
    check_channels(schedule, noise)
    solver.check(schedule)
    counted = denoiser if isinstance(denoiser, CountedDenoiser) else CountedDenoiser(denoiser)
    if isinstance(counted.denoiser, Walks):
        numbers = torch.arange(len(noise)) if index is None else index
        steps, evaluations = counted.denoiser.walk(schedule, solver, noise, cond, seed, numbers)
        counted.evaluations += evaluations
        yield from steps
        return
    predictions: list[Tensor] = []

    def noted(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        predictions.append(counted(x, t, cond))
        return predictions[-1]

    denoise = Denoise(noted, schedule.process, cond, _paths(solver, noise, seed, index))
    learnable = (schedule.times, schedule.weights, schedule.told_times)
    graph = any(part is not None and part.requires_grad for part in learnable)
    with torch.set_grad_enabled(graph):
        x = noise * expand(schedule.scale, noise)
    state: State = ()
    for i, move in enumerate(solver.moves(schedule, x)):
        with torch.set_grad_enabled(graph):
            arrived, state = move(state, x, denoise.at(schedule, i))
            arrived = calibrated(schedule, i, arrived)
        yield x, predictions[0]
        x = arrived
        predictions.clear()
    yield x, None


def calibrated(schedule: Schedule, step: int, x: Tensor) -> Tensor:
    """x [B, C, ...] after `step` steps counted from 0, with the schedule's amplitude (OSS, eq. 13) applied, if any."""
    if schedule.amplitude is None:
        return x
    gain, offset = schedule.amplitude[step].to(x).reshape(1, -1, 2, *(1,) * (x.ndim - 2)).unbind(2)
    return gain * x + offset


def _paths(solver: Solver, noise: Tensor, seed: int, index: Tensor | None) -> BrownianPaths | None:
    if not solver.stochastic:
        return None
    numbers = torch.arange(len(noise)) if index is None else index
    if numbers.shape != noise.shape[:1]:
        raise ValueError(f"expected one index per sample, got shape {tuple(numbers.shape)} for {len(noise)} samples")
    return BrownianPaths(seed, numbers, noise.shape[1:], noise.device)


def check_channels(schedule: Schedule, noise: Tensor) -> None:
    """Raises ValueError where the schedule's amplitude is for another number of channels than the noise has."""
    if schedule.amplitude is not None and schedule.amplitude.shape[1] != noise.shape[1]:
        raise ValueError(
            f"the schedule's amplitude is for {schedule.amplitude.shape[1]} channels, the noise has {noise.shape[1]}"
        )
