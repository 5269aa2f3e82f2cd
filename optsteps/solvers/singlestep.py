"""Single-step solvers: two evaluations of the denoiser within a step, and no memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from optsteps.denoisers import expand
from optsteps.processes import Process
from optsteps.schedules import Schedule
from optsteps.solvers.base import Denoise, Move, Solver, State, is_clean


class TwoStage(Solver):
    """A first-order step to an inner time s, a second evaluation there, and a linear combination of x and both outputs:

        x_s = step of x, D to s that holds D constant;   x_next = a x + b D + c (D(x_s, s) - D).

    Order 2. A step to noise level 0, and the first from a flow's t = 1 where the noise level is infinite, is a
    first-order step of one evaluation.
    """

    order = 2

    @abstractmethod
    def inner_time(self, process: Process, t: Tensor, t_next: Tensor) -> Tensor:
        """s, of the shape of t."""

    @abstractmethod
    def correction(self, process: Process, t: Tensor, s: Tensor, t_next: Tensor) -> Tensor:
        """c in float64, of the shape of t; a and b are those of `base` from t to t_next."""

    def step(
        self, state: State, x: Tensor, t: Tensor, t_next: Tensor, denoise: Denoise, order: int | None = None
    ) -> tuple[Tensor, State]:
        t, t_next = t.expand(len(x)), t_next.expand(len(x))
        return self.finish(x, denoise(x, t), t, t_next, denoise, order), state

    def finish(
        self, x: Tensor, first: Tensor, t: Tensor, t_next: Tensor, denoise: Denoise, order: int | None = None
    ) -> Tensor:
        """The step from x [B, ...] at t [B] to t_next [B] once its first evaluation is known."""
        process = self.formulas(denoise.process)
        a, b = self.base(process, t, t_next)
        x_next = expand(a, x) * x + expand(b, x) * first
        if order == 1:
            return x_next
        two_stage = (~self.single(process, t, t_next)).nonzero()[:, 0]
        if len(two_stage) == 0:
            return x_next
        rows = two_stage.to(x.device)
        x, first, t, t_next, denoise = x[rows], first[rows], t[two_stage], t_next[two_stage], denoise.take(two_stage)
        s, *numbers = self._second(process, t, t_next)
        return x_next.index_add(0, rows, self._change(x, first, t, s, [expand(k, x) for k in numbers], denoise))

    def moves(self, schedule: Schedule, x: Tensor) -> list[Move]:
        process, t, t_next = self.formulas(schedule.process), schedule.times[:-1], schedule.times[1:]
        orders = torch.tensor(schedule.orders or self.orders(schedule.steps))
        twice = (~self.single(process, t, t_next) & (orders > 1)).nonzero()[:, 0]
        dtype = torch.promote_types(x.dtype, torch.float32)
        ends = torch.stack(self.base(process, t, t_next)).to(dtype).unbind(1)
        s, *numbers = self._second(process, t[twice], t_next[twice])
        second = dict(zip(twice.tolist(), zip(s, torch.stack(numbers).to(dtype).unbind(1), strict=True), strict=True))

        def move(i: int, state: State, x: Tensor, denoise: Denoise) -> tuple[Tensor, State]:
            a, b = ends[i].unbind()
            first = denoise(x, t[i])
            x_next = a * x + b * first
            if i in second:
                s, numbers = second[i]
                x_next = x_next + self._change(x, first, t[i], s, numbers.unbind(), denoise)
            return x_next, state

        return [partial(move, i) for i in range(len(t))]

    def _second(self, process: Process, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """s, the coefficients of the first-order step to it, and c, all of the shape of t."""
        s = self.inner_time(process, t, t_next)
        return s, *self.base(process, t, s), self.correction(process, t, s, t_next)

    def inner(self, x: Tensor, first: Tensor, t: Tensor, s: Tensor, a: Tensor, b: Tensor, denoise: Denoise) -> Tensor:
        """x_s [B, ...], with a and b shaped to multiply x."""
        return a * x + b * first

    def _change(
        self, x: Tensor, first: Tensor, t: Tensor, s: Tensor, numbers: Sequence[Tensor], denoise: Denoise
    ) -> Tensor:
        """The term of the second evaluation, by the coefficients (a, b) to s and c, shaped to multiply x."""
        a, b, c = numbers
        return c * (denoise(self.inner(x, first, t, s, a, b, denoise), s) - first)

    def single(self, process: Process, t: Tensor, t_next: Tensor) -> Tensor:
        """Whether the step from t to t_next takes one evaluation, as booleans."""
        return is_clean(process, t_next) | (process.alpha(t) == 0)

    def nfe(self, schedule: Schedule) -> int:
        t = schedule.times.detach()
        single = self.single(self.formulas(schedule.process), t[:-1], t[1:])
        for i, order in enumerate(schedule.orders or ()):
            single[i] |= order == 1
        return 2 * schedule.steps - int(single.sum())

    def steps(self, nfe: int, process: Process, t_first: Tensor, t_last: Tensor) -> int:
        process = self.formulas(process)
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
        return self.base(process, t, t_next)[1]


def _midpoint(process: Process, t: Tensor, t_next: Tensor) -> Tensor:
    """The time halfway in log-SNR, which is the geometric mean of the noise levels."""
    return process.time_of_log_snr((process.log_snr(t) + process.log_snr(t_next)) / 2)
