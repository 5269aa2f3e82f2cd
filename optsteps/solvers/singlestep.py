"""Solvers that evaluate the denoiser twice within a step and remember nothing."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from optsteps.conditions import take
from optsteps.denoisers import expand
from optsteps.processes import Process
from optsteps.schedules import Schedule
from optsteps.solvers.base import Denoise, Solver, State, first_order, is_clean


class TwoStage(Solver):
    """What the solvers of two evaluations share: a first-order step to an inner time s, a second evaluation there, and
    one linear combination of x and both outputs:

        x_s = first-order step of x, D to s;   x_next = a x + b D + c (D(x_s, s) - D).

    Order 2. A step to noise level 0, and the first from a flow's t = 1 where the noise level is infinite, is a
    first-order step of one evaluation.
    """

    order = 2

    @abstractmethod
    def inner_time(self, process: Process, t: Tensor, t_next: Tensor) -> Tensor:
        """s, of the shape of t."""

    @abstractmethod
    def correction(self, process: Process, t: Tensor, s: Tensor, t_next: Tensor) -> Tensor:
        """c in float64, of the shape of t; a and b are those of `first_order` from t to t_next."""

    def step(
        self, state: State, x: Tensor, t: Tensor, t_next: Tensor, denoise: Denoise, order: int | None = None
    ) -> tuple[Tensor, State]:
        t, t_next = t.expand(len(x)), t_next.expand(len(x))
        return self.finish(x, denoise(x, t), t, t_next, denoise, order), state

    def finish(
        self, x: Tensor, first: Tensor, t: Tensor, t_next: Tensor, denoise: Denoise, order: int | None = None
    ) -> Tensor:
        """The step from x [B, ...] at t [B] to t_next [B] once its first evaluation is known."""
        process = denoise.process
        a, b = first_order(process, t, t_next)
        x_next = expand(a, x) * x + expand(b, x) * first
        if order == 1:
            return x_next
        single = self.single(process, t, t_next)
        if bool(single.all()):
            return x_next
        here = (~single).nonzero()[:, 0]
        whole = len(here) == len(x)
        if not whole:
            t, t_next, first, x = t[here], t_next[here], first[here.to(x.device)], x[here.to(x.device)]
            denoise = Denoise(denoise.denoiser, process, take(denoise.cond, here))
        s = self.inner_time(process, t, t_next)
        a, b = first_order(process, t, s)
        second = denoise(expand(a, x) * x + expand(b, x) * first, s)
        change = expand(self.correction(process, t, s, t_next), x) * (second - first)
        return x_next + change if whole else x_next.index_add(0, here.to(x.device), change)

    def single(self, process: Process, t: Tensor, t_next: Tensor) -> Tensor:
        """Boolean: does the step from t to t_next take one evaluation?"""
        return is_clean(process, t_next) | (process.alpha(t) == 0)

    def nfe(self, schedule: Schedule) -> int:
        t = schedule.times.detach()
        single = self.single(schedule.process, t[:-1], t[1:])
        for i, order in enumerate(schedule.orders or ()):
            single[i] |= order == 1
        return 2 * schedule.steps - int(single.sum())

    def steps(self, nfe: int, process: Process, t_first: Tensor, t_last: Tensor) -> int:
        clean, infinite = bool(is_clean(process, t_last)), bool(process.alpha(t_first) == 0)
        if nfe == 1 and (clean or infinite):
            return 1
        if nfe < 2:
            raise ValueError(f"{nfe} evaluations pay for no step of {self.name}; it takes 2")
        return (nfe + clean + infinite) // 2


class Heun(TwoStage):
    """Heun's method on dy/ds = (y - D) / s, with y = x / alpha and noise level s (Karras et al., arXiv:2206.00364,
    Algorithm 1), so that it is the same map under every process. Order 2, two evaluations a step."""

    name: ClassVar[str] = "heun"

    def inner_time(self, process: Process, t: Tensor, t_next: Tensor) -> Tensor:
        return t_next

    def correction(self, process: Process, t: Tensor, s: Tensor, t_next: Tensor) -> Tensor:
        # y' - y = (s' - s) / 2 (d + d'), d' = (y_euler - D') / s': D' enters with -(s' - s) / 2 s'
        level, level_next = process.noise_level(t), process.noise_level(t_next)
        return process.alpha(t_next) * (level - level_next) / (2 * level_next)


class DPM2(TwoStage):
    """DPM-Solver-2 in the form of k-diffusion: the midpoint rule on dy/ds = (y - D) / s, its midpoint the geometric
    mean of the noise levels (Lu et al., arXiv:2206.00927, Algorithm 1; Karras et al., arXiv:2206.00364). Order 2."""

    name: ClassVar[str] = "dpm2"

    def inner_time(self, process: Process, t: Tensor, t_next: Tensor) -> Tensor:
        return _midpoint(process, t, t_next)

    def correction(self, process: Process, t: Tensor, s: Tensor, t_next: Tensor) -> Tensor:
        # y' = y + (s' - s) (y_mid - D_mid) / s_mid, and (y_mid - D) / s_mid = (y - D) / s
        level, level_next = process.noise_level(t), process.noise_level(t_next)
        return process.alpha(t_next) * (level - level_next) / process.noise_level(s)


class DPMpp2S(TwoStage):
    """DPM-Solver++(2S) with r = 1/2 (Lu et al., arXiv:2211.01095, Algorithm 1): the exponential midpoint rule in
    log-SNR. Order 2, two evaluations a step."""

    name: ClassVar[str] = "dpmpp_2s"

    def inner_time(self, process: Process, t: Tensor, t_next: Tensor) -> Tensor:
        return _midpoint(process, t, t_next)

    def correction(self, process: Process, t: Tensor, s: Tensor, t_next: Tensor) -> Tensor:
        # D(x_s, s) takes the place of D altogether
        return first_order(process, t, t_next)[1]


def _midpoint(process: Process, t: Tensor, t_next: Tensor) -> Tensor:
    """The time halfway in log-SNR, which is the geometric mean of the noise levels."""
    return process.time_of_log_snr((process.log_snr(t) + process.log_snr(t_next)) / 2)
