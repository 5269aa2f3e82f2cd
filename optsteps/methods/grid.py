"""The teacher's times as nodes: one state per sample and node, the steps between nodes, and what they miss."""

from __future__ import annotations

import torch
from torch import Tensor

from optsteps.conditions import take
from optsteps.denoisers import CountedDenoiser
from optsteps.methods.base import SearchProblem
from optsteps.processes import Process
from optsteps.solvers import Multistep
from optsteps.solvers.base import first_order
from optsteps.trajectories import trajectory


class Grid:
    """Some samples of a problem on the nodes 0 (noisy end) ... N of its teacher's times.

    Attributes:
        teacher: the teacher's states [B, N+1, ...].
        state: the student's states [B, N+1, ...]; a node's entry means nothing until it is put.
        denoiser: the problem's, counted.

    Raises:
        ValueError: a solver whose step is not linear in one evaluation.
    """

    def __init__(self, problem: SearchProblem, index: Tensor, max_batch: int) -> None:
        if not (isinstance(problem.solver, Multistep) and problem.solver.order == 1):
            raise ValueError(
                f"OSS forms a node's steps to all later times from one evaluation, which solver "
                f"{problem.solver.name!r} does not allow; search with 'euler'"
            )
        noise, self.cond = problem.samples(index)
        self.process, self.max_batch = problem.process, max_batch
        self.denoiser = CountedDenoiser(problem.denoiser)
        self.times = problem.teacher.times
        self.last = problem.teacher.steps
        self.a, self.b = first_order(self.process, self.times[:, None], self.times[None, :])
        self.teacher = trajectory(self.denoiser, problem.teacher, problem.solver, noise, self.cond, max_batch)
        self.state = torch.zeros_like(self.teacher)
        self._denoised = torch.zeros_like(self.teacher)
        self._pending = torch.zeros(self.teacher.shape[:2], dtype=torch.bool)
        self._sigma = self.process.sigma(self.times).to(noise.device)

    def __len__(self) -> int:
        return len(self.teacher)

    def put_start(self, node: int) -> None:
        """Place the initial noise at `node`, unscaled in flow coordinates, x / (alpha + sigma)."""
        self.state[:, node] = self.teacher[:, 0] * flow_scale(self.process, self.times, node).to(self.teacher)
        self._pending[:, node] = True

    def put(self, targets: Tensor, states: Tensor, where: Tensor) -> None:
        """Place states [B, J, ...] at the nodes targets [J] where the mask [B, J] says so."""
        mask = where.to(states.device).reshape(*where.shape, *(1,) * (states.ndim - 2))
        self.state[:, targets] = torch.where(mask, states, self.state[:, targets])
        self._pending[:, targets] |= where.cpu()

    def evaluate(self, sources: Tensor) -> None:
        """Denoise the states at sources [I] that were put since they were last evaluated, in common batches."""
        wanted = torch.zeros_like(self._pending)
        wanted[:, sources] = self._pending[:, sources]
        for pairs in wanted.nonzero().split(self.max_batch):
            sample, node = pairs.unbind(1)
            with torch.no_grad():
                denoised = self.denoiser(self.state[sample, node], self.times[node], take(self.cond, sample))
            self._denoised[sample, node] = denoised
        self._pending &= ~wanted

    def costs(self, sample: int, sources: Tensor, targets: Tensor) -> Tensor:
        """Mean squared differences [I, J], float64, of the step from every source to every later target and the
        teacher's state there; inf where the target is not later.

        A step that takes pure noise to pure noise (a sigma(t) = sigma(t_next), as every consistent solver's does) lets
        the common multiple of the initial noise be taken off all states first: inner products of what is left lose
        nothing to cancellation, where those of states at noise level 80 lose four digits more.
        """
        x, z, d = (
            part[sample].flatten(1).double()
            for part in (self.teacher[:, targets], self.state[:, sources], self._denoised[:, sources])
        )
        eps = self.teacher[sample, 0].flatten().double() / self._sigma[0]
        x = x - self._sigma[targets, None] * eps
        z = z - self._sigma[sources, None] * eps
        a, b = (c[sources[:, None], targets].to(x.device) for c in (self.a, self.b))
        squares = (
            a**2 * (z * z).sum(1, keepdim=True)
            + b**2 * (d * d).sum(1, keepdim=True)
            + (x * x).sum(1)
            + 2 * a * b * (z * d).sum(1, keepdim=True)
            - 2 * a * (z @ x.T)
            - 2 * b * (d @ x.T)
        )
        costs = (squares / x.shape[1]).clamp(min=0).cpu()
        return costs.masked_fill(sources[:, None] >= targets, torch.inf)

    def step(self, origin: Tensor, targets: Tensor) -> Tensor:
        """States [B, J, ...] that the steps from nodes origin [B, J] reach at targets [J]."""
        a, b = (c[origin, targets] for c in (self.a, self.b))
        sample = torch.arange(len(self))[:, None]
        z, d = self.state[sample, origin], self._denoised[sample, origin]
        shape = (*origin.shape, *(1,) * (z.ndim - 2))
        return a.to(z).reshape(shape) * z + b.to(z).reshape(shape) * d

    def final_mse(self) -> Tensor:
        """Mean squared difference at the clean end [B], float64, of the states themselves."""
        return (self.state[:, -1].double() - self.teacher[:, -1].double()).square().flatten(1).mean(1).cpu()


def flow_scale(process: Process, times: Tensor, node: int) -> Tensor:
    """Factor that takes the initial state from node 0 to `node` unscaled in flow coordinates, float64 scalar."""
    size = process.alpha(times) + process.sigma(times)
    return size[node] / size[0]
