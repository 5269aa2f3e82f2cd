"""The one-step protocol that every solver follows.

A solver owns no loop. `init(x)` gives a state, `step(state, x, t, t_next, denoise)` gives the next `(x, state)`. `t`
and `t_next` are scalars or one per sample, so that a search can advance nodes of different times in one batch; a state
is batch-leading tensors only, so that a search can gather and scatter it. Times stay in float64 on the CPU, wherever
the samples are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from optsteps.conditions import Cond, take
from optsteps.denoisers import Denoiser, expand
from optsteps.processes import EDM, Process
from optsteps.schedules import Schedule
from optsteps.schedules.schedule import ToldAs
from optsteps.solvers.brownian import BrownianPaths

State = tuple[Tensor, ...]
FlowAs = Literal["flow", "edm"]


@dataclass(frozen=True)
class Denoise:
    """A denoiser with its process and condition: what a solver calls within a step.

    Args:
        denoiser: D(x, t, cond).
        process: its noising process.
        cond: condition of the batch, or None.
        paths: the samples' Brownian paths, for stochastic solvers.
        told: the time, a scalar, that the denoiser is called with in place of any other; None where it is called with
            the solver's own.
        told_as: what the answer there gives, as of `Schedule`.
    """

    denoiser: Denoiser
    process: Process
    cond: Cond = None
    paths: BrownianPaths | None = None
    told: Tensor | None = None
    told_as: ToldAs = "x0"

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x [B, ...], t scalar or [B] -> [B, ...]."""
        asked = t if self.told is None else self.told
        answer = self.denoiser(x, asked.expand(len(x)).to(x.device), self.cond)
        if self.told is None or self.told_as == "x0":
            return answer
        return self._on_slope(answer, x, self.told, t)

    def _on_slope(self, answer: Tensor, x: Tensor, told: Tensor, t: Tensor) -> Tensor:
        """The x_0 of which x [B, ...] at t has the slope that `answer`, an x_0 [B, ...], gives it at the time `told`.

        With a = alpha for eps, and a = alpha + sigma for the velocity eps - x_0, the slope is (x - a x_0) / sigma.
        """
        of_told, of_t = (self._signal(time) for time in (told, t))
        if bool((of_t == 0).any()):  # where only its own time is told
            return answer
        share = self.process.sigma(t) / self.process.sigma(told)
        return expand((1 - share) / of_t, x) * x + expand(share * of_told / of_t, x) * answer

    def _signal(self, t: Tensor) -> Tensor:
        alpha = self.process.alpha(t)
        return alpha + self.process.sigma(t) if self.process.name == "flow" else alpha

    def at(self, schedule: Schedule, step: int) -> Denoise:
        """The same for a step of `schedule`, counted from 0, at which the network may be told a time of its own."""
        if schedule.told_times is None:
            return self
        return replace(self, told=schedule.told_times[step], told_as=schedule.told_as)

    def take(self, index: Tensor) -> Denoise:
        """The same for some of the batch's samples, by their positions in it [b]."""
        paths = None if self.paths is None else self.paths.take(index)
        return replace(self, cond=take(self.cond, index), paths=paths)


# one step of a known schedule: (state, x [B, ...], denoise) -> (x at the next time, state there)
Move = Callable[[State, Tensor, Denoise], tuple[Tensor, State]]


class Solver(ABC):
    """The rule for one step from t to t_next < t.

    Attributes:
        name: the field's name of it.
        order: of convergence, as published.
        stochastic: whether it draws noise.
        flow_as: the process whose formulas a flow is sampled with, see `formulas`.
        obeys_weights: whether its walks take a schedule's weights of remembered outputs in place of its own.
    """

    name: ClassVar[str]
    order: int
    stochastic: ClassVar[bool] = False
    flow_as: FlowAs = "flow"
    obeys_weights: ClassVar[bool] = False

    @property
    def facts(self) -> dict[str, Any]:
        """Its name and settings: JSON data that determine its steps."""
        return {"name": self.name, **vars(self)}

    @property
    def described(self) -> dict[str, str]:
        """Entries of a schedule's metadata about the solver that it was searched with.

        They are "solver", its name, and "flow_as" where a flow is not sampled with its own formulas.
        """
        return {"solver": self.name, **({} if self.flow_as == "flow" else {"flow_as": self.flow_as})}

    def formulas(self, process: Process) -> Process:
        """The process whose alpha, sigma and log-SNR the steps are computed with: `process`, but EDM's for a flow with
        `flow_as` "edm".

        k-diffusion's samplers, ComfyUI's that descend from them and diffusers' FlowMatchHeun are written for EDM, and
        take a flow's time t for Karras' sigma. A first-order step is the same map either way. A higher order is not: it
        extrapolates in log t where the flow's own formula extrapolates in log-SNR, or the velocity instead of eps.
        """
        return EDM() if self.flow_as == "edm" and process.name == "flow" else process

    def init(self, x: Tensor) -> State:
        """The state before the first step from x [B, ...]."""
        return ()

    @abstractmethod
    def step(
        self, state: State, x: Tensor, t: Tensor, t_next: Tensor, denoise: Denoise, order: int | None = None
    ) -> tuple[Tensor, State]:
        """x [B, ...] at t (scalar or [B]) -> x at t_next, and the state there.

        Args:
            order: at most this order for this step; None for the solver's own. Remembered outputs that are missing
                lower it further.
        """

    def check(self, schedule: Schedule) -> None:
        """Refuse a schedule that carries what a walk with this solver would not obey; nothing is evaluated.

        Raises:
            ValueError: weights, for a solver without a memory or a stochastic one, or where a weight that is not 0
                belongs to an output that is not remembered; told times, where a step takes a second evaluation.
        """
        if schedule.weights is not None and not self.obeys_weights:
            raise _weights_refused(self)
        if schedule.told_times is not None and self.nfe(schedule) > schedule.steps:
            raise ValueError(
                f"the schedule says what time the network is told at each step, and a step of {self.name} takes two "
                "evaluations, the second at a time of its own: sample with a solver of one evaluation per step"
            )

    def moves(self, schedule: Schedule, x: Tensor) -> list[Move]:
        """The steps of `schedule` for samples like x [B, ...], in order; the first is given the state (), and each its
        own `Denoise.at`. `check` comes first.

        They do what `step` does with the schedule's times and orders; only `Multistep` knows weights. A solver whose
        coefficients are functions of the times alone computes those of all steps at once, beforehand.
        """
        if schedule.weights is not None:
            raise _weights_refused(self)

        def move(
            t: Tensor, t_next: Tensor, order: int, state: State, x: Tensor, denoise: Denoise
        ) -> tuple[Tensor, State]:
            return self.step(state or self.init(x), x, t, t_next, denoise, order)

        orders = schedule.orders or self.orders(schedule.steps)
        return [partial(move, *at) for at in zip(schedule.times[:-1], schedule.times[1:], orders, strict=True)]

    def base(self, process: Process, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (a, b) of the step x_next = a x + b D that holds D constant, of the shape of t."""
        return first_order(process, t, t_next)

    def orders(self, steps: int) -> list[int]:
        """The order of each of `steps` steps, where a schedule gives none."""
        return [self.order] * steps

    def nfe(self, schedule: Schedule) -> int:
        """Denoiser calls per sample of a walk down `schedule`; under guidance each costs two evaluations."""
        return schedule.steps

    def steps(self, nfe: int, process: Process, t_first: Tensor, t_last: Tensor) -> int:
        """The most steps from t_first to t_last that take at most `nfe` denoiser calls per sample.

        Raises:
            ValueError: they do not suffice for a single step.
        """
        if nfe < 1:
            raise ValueError(f"{nfe} evaluations pay for no step of {self.name}")
        return nfe


def _weights_refused(solver: Solver) -> ValueError:
    return ValueError(
        f"the schedule has weights for the remembered outputs of a multistep solver, which {solver.name} does not "
        "take: sample with the deterministic multistep solver that they were found for"
    )


def first_order(process: Process, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (a, b) of the step that holds D and eps constant: x_next = alpha' D + sigma' (x - alpha D) / sigma.

    The last step to noise level 0 returns D; the first step from a flow's t = 1 (alpha = 0) is finite and exact.
    """
    a = process.sigma(t_next) / process.sigma(t)
    return a, process.alpha(t_next) - a * process.alpha(t)


def is_clean(process: Process, t: Tensor) -> Tensor:
    """Whether t is the time of noise level 0, where a denoiser is never evaluated."""
    return torch.as_tensor(t) == process.t_clean
