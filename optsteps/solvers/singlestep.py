"""Solvers that evaluate the denoiser several times within a step and remember nothing."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from optsteps.conditions import take
from optsteps.denoisers import expand
from optsteps.schedules import Schedule
from optsteps.solvers.base import Denoise, Solver, State, first_order, is_clean


class Heun(Solver):
    """Heun's method on dy/ds = (y - D) / s, with y = x / alpha and noise level s (Karras et al., arXiv:2206.00364,
    Algorithm 1), so that it is the same map under every process. Order 2, two evaluations a step.

    A step to noise level 0, and the first from a flow's t = 1 where the noise level is infinite, is an Euler step.
    """

    name: ClassVar[str] = "heun"
    order = 2

    def step(self, state: State, x: Tensor, t: Tensor, t_next: Tensor, denoise: Denoise) -> tuple[Tensor, State]:
        process = denoise.process
        t, t_next = t.expand(len(x)), t_next.expand(len(x))
        a, b = first_order(process, t, t_next)
        first = denoise(x, t)
        euler = expand(a, x) * x + expand(b, x) * first
        second_order = ~is_clean(process, t_next) & (process.alpha(t) > 0)
        if not bool(second_order.any()):
            return euler, state
        here = second_order.nonzero()[:, 0]
        t, t_next, first, x, predicted = t[here], t_next[here], first[here], x[here], euler[here]
        second = Denoise(denoise.denoiser, process, take(denoise.cond, here))(predicted, t_next)
        level, level_next = process.noise_level(t), process.noise_level(t_next)
        half = (level_next - level) / 2
        slope = (x / expand(process.alpha(t), x) - first) / expand(level, x)
        slope_next = (predicted / expand(process.alpha(t_next), x) - second) / expand(level_next, x)
        y = x / expand(process.alpha(t), x) + expand(half, x) * (slope + slope_next)
        return torch.index_copy(euler, 0, here.to(x.device), expand(process.alpha(t_next), x) * y), state

    def nfe(self, schedule: Schedule) -> int:
        t = schedule.times.detach()
        first_order_steps = is_clean(schedule.process, t[1:]) | (schedule.process.alpha(t[:-1]) == 0)
        return 2 * schedule.steps - int(first_order_steps.sum())
