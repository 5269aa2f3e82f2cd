"""Inner products of all that a teacher's walk saw: every cost that is stated on the teacher's own states is in them.

A step of any multistep solver from the teacher's state x_i at t_i, with the teacher's outputs remembered, misses x_j by
a linear combination of predictions and states. So its mean square is a quadratic form in their Gram matrix, and no cost
of a path takes an evaluation beyond the walk.

Such a miss is a small difference of large vectors, and the Gram matrix of states and predictions would lose it to
cancellation. The basis is therefore one of differences: the initial noise e = x_0 / sigma_0, the first prediction D_0,
the changes of the prediction D_{k+1} - D_k, and what every step of the teacher added to Euler's,

    s_k = x_{k+1} - (a x_k + b D_k),   a = sigma_{k+1} / sigma_k,   b = alpha_{k+1} - a alpha_k.

With them Euler's step from i to j misses x_j by  -sum_{l=i}^{j-1} [b_{l+1,j} (D_{l+1} - D_l) + a_{l+1,j} s_l].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optsteps.denoisers import CountedDenoiser
from optsteps.fingerprint import solver_facts
from optsteps.methods.base import SearchProblem
from optsteps.methods.entries import ALL, EntrySubset
from optsteps.processes import Process
from optsteps.trajectories import Record, Trajectories

# numbers of the basis that are held at once, in float64
_AT_ONCE = 2**24


@dataclass(frozen=True)
class TeacherTable:
    """Mean products of the basis vectors of some samples.

    Args:
        process: of the teacher.
        times: of its schedule of N steps, float64 [N+1].
        products: float64 [B, 2N+1, 2N+1], means over a sample's entries, of the basis (e, D_0, D_1 - D_0, ...,
            D_{N-1} - D_{N-2}, s_0, ..., s_{N-1}).
    """

    process: Process
    times: Tensor
    products: Tensor

    @property
    def steps(self) -> int:
        """N."""
        return len(self.times) - 1

    @property
    def size(self) -> int:
        """Number of basis vectors."""
        return 2 * self.steps + 1

    def squares(self, rows: Tensor) -> Tensor:
        """Mean squares [B, ...] of the vectors with the coefficients rows [..., 2N+1]."""
        return torch.stack([(rows @ products * rows).sum(-1) for products in self.products]).clamp(min=0)

    def predictions(self) -> Tensor:
        """Rows [N, 2N+1] of D_0 ... D_{N-1}."""
        rows = torch.zeros(self.steps, self.size, dtype=torch.float64)
        rows[:, 1] = 1.0
        rows[:, 2 : self.steps + 1] = torch.ones(self.steps, self.steps - 1, dtype=torch.float64).tril(-1)
        return rows

    def states(self) -> Tensor:
        """Rows [N+1, 2N+1] of x_0 ... x_N."""
        alpha, sigma = self.process.alpha(self.times), self.process.sigma(self.times)
        predictions, rows = self.predictions(), torch.zeros(self.steps + 1, self.size, dtype=torch.float64)
        rows[0, 0] = sigma[0]
        for k in range(self.steps):
            a = sigma[k + 1] / sigma[k]
            rows[k + 1] = a * rows[k] + (alpha[k + 1] - a * alpha[k]) * predictions[k]
            rows[k + 1, self.steps + 1 + k] += 1.0
        return rows

    def missed(self, origin: int, ends: Tensor | None = None) -> Tensor:
        """Rows [J, 2N+1] of the ends of Euler's steps from a time, less the teacher's states there.

        Args:
            origin: index of the time that the steps leave from.
            ends: indices [J] of later times; None: all later ones.
        """
        ends = torch.arange(origin + 1, self.steps + 1) if ends is None else ends
        alpha, sigma = self.process.alpha(self.times), self.process.sigma(self.times)
        between = torch.arange(origin, self.steps)  # l; those of the sum are before the end
        a = sigma[ends, None] / sigma[between + 1]
        a = torch.where(between + 1 == ends[:, None], 1.0, a)
        # the walk's last prediction is not part of the basis, and b is 0 there
        b = alpha[ends, None] - a * alpha[between + 1]
        a, b = (part.masked_fill(between >= ends[:, None], 0.0) for part in (a, b))
        rows = torch.zeros(len(ends), self.size, dtype=torch.float64)
        rows[:, 2 + origin : self.steps + 1] = -b[:, :-1]
        rows[:, self.steps + 1 + origin :] = -a
        return rows


def teacher_table(problem: SearchProblem, index: Tensor, max_batch: int, entries: EntrySubset = ALL) -> TeacherTable:
    """The table of the samples `index` [b], from one walk of the teacher, whose solver must be deterministic.

    It is kept where the problem keeps its work.
    """
    noise, cond = problem.samples(index)
    teacher, walker = problem.teacher, problem.walker
    trajectories = Trajectories(problem.denoiser, max_batch, problem.cache)

    def products(denoiser: CountedDenoiser) -> Tensor:
        record = Trajectories(denoiser, max_batch, problem.cache).record(teacher, walker, noise, cond)
        return table_of(problem, record, entries).products

    facts: dict[str, Any] = {}
    if problem.cache.workers.keeps:
        facts = {"schedule": teacher.facts, "solver": solver_facts(walker, teacher, noise), **entries.facts}
    kept = trajectories.once("teacher table", (noise, cond), products, **facts)
    return TeacherTable(problem.process, teacher.times, kept)


def table_of(problem: SearchProblem, record: Record, entries: EntrySubset = ALL) -> TeacherTable:
    """The table of the samples of a record of the teacher's walk."""
    process, times = problem.process, problem.teacher.times
    pairs = zip(record.states, record.predictions, strict=True)
    products = [_products(process, times, entries.of(states), entries.of(predictions)) for states, predictions in pairs]
    return TeacherTable(process, times, torch.stack(products))


def _products(process: Process, times: Tensor, states: Tensor, predictions: Tensor) -> Tensor:
    """Mean products of the basis [2N+1, 2N+1] of one sample's states [N+1, D] and predictions [N, D], over a part of
    the entries at a time."""
    alpha, sigma = (part.to(states.device)[:, None] for part in (process.alpha(times), process.sigma(times)))
    a = sigma[1:] / sigma[:-1]
    b = alpha[1:] - a * alpha[:-1]
    size = 2 * len(predictions) + 1
    total = torch.zeros(size, size, dtype=torch.float64, device=states.device)
    for some in torch.arange(states.shape[1]).split(max(1, _AT_ONCE // size)):
        x, d = (part[:, some[0] : some[-1] + 1].double() for part in (states, predictions))
        added = x[1:] - (a * x[:-1] + b * d)
        basis = torch.cat([x[:1] / sigma[0], d[:1], d.diff(dim=0), added])
        total += basis @ basis.T
    return (total / states.shape[1]).cpu()
