"""Grid of the teacher's times as nodes: a state per sample and node, the steps between nodes, and their costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext

import torch
from torch import Tensor

from optsteps.conditions import take
from optsteps.denoisers import CountedDenoiser
from optsteps.methods.base import SearchProblem
from optsteps.methods.entries import ALL, EntrySubset
from optsteps.processes import Process
from optsteps.solvers.base import Denoise, Solver, State, first_order
from optsteps.solvers.multistep import Multistep
from optsteps.solvers.singlestep import TwoStage
from optsteps.trajectories import Trajectories

# entries of a sample whose products are formed at once, in float64
_AT_ONCE = 2**20


class Grid(ABC):
    """Some samples of a problem on nodes 0 (noisy end) ... N, which are some of the teacher's times.

    Args:
        walked: whether the teacher's walk has been counted before.

    Attributes:
        teacher: the teacher's states [B, N+1, ...].
        state: the student's states [B, N+1, ...]; a node's entry means nothing until it is put.
        trajectories: the problem's denoiser on these states.
        formulas: the process whose coefficients the solver's steps have.
        choices: the orders that a step may have, ascending.
    """

    choices: list[int]
    solver: Solver

    def __init__(
        self,
        problem: SearchProblem,
        index: Tensor,
        nodes: Tensor,
        max_batch: int,
        entries: EntrySubset = ALL,
        walked: bool = False,
    ) -> None:
        noise, self.cond = problem.samples(index)
        self.process, self.formulas = problem.process, problem.solver.formulas(problem.process)
        self.max_batch, self.entries = max_batch, entries
        self.trajectories = Trajectories(problem.denoiser, max_batch, problem.cache)
        self.times = problem.teacher.times[nodes]
        self.last = len(self.times) - 1
        self.a, self.b = first_order(self.process, self.times[:, None], self.times[None, :])
        with problem.uncounted() if walked else nullcontext():
            record = self.trajectories.record(problem.teacher, problem.walker, noise, self.cond)
        whole = record.states if len(nodes) == record.states.shape[1] else record.states[:, nodes]
        self._zeros = problem.cache.zeros
        self.teacher = problem.cache.moved(whole)
        self.state, self._denoised = (self._zeros(whole.shape, whole) for _ in range(2))
        # the teacher's walk left from the same state at node 0
        self._denoised[:, 0] = record.predictions[:, 0]
        self._pending = torch.zeros(self.teacher.shape[:2], dtype=torch.bool)
        self._sigma = self.process.sigma(self.times).to(noise.device)
        self.solver = problem.solver
        self._prepare()

    def __len__(self) -> int:
        return len(self.teacher)

    @abstractmethod
    def _prepare(self) -> None:
        """Set the choices, and what the kind of solver keeps at the nodes."""

    @abstractmethod
    def evaluate(self, sources: Tensor, targets: Tensor) -> None:
        """Evaluate, in common batches, what the steps from sources [I] to targets [J] need of the states that were put
        since the last evaluation."""

    @abstractmethod
    def costs(self, sample: int, sources: Tensor, targets: Tensor) -> Tensor:
        """Mean squared differences [M, I, J], float64 and over the `entries`, of the step of every choice of order from
        every source to every later target and the teacher's state there; inf where there is no such step."""

    @abstractmethod
    def advance(self, choice: Tensor, origin: Tensor, targets: Tensor, where: Tensor) -> None:
        """Put at the nodes targets [J], where the mask [B, J] is true, the ends of the steps from the nodes origin
        [B, J] with the orders choices[choice] [B, J]."""

    def put_start(self, node: int) -> None:
        """Place the initial noise at `node`, unscaled in flow coordinates, x / (alpha + sigma)."""
        self.state[:, node] = self.teacher[:, 0] * flow_scale(self.process, self.times, node).to(self.teacher)
        self._pending[:, node] = node > 0

    def final_mse(self) -> Tensor:
        """Mean squared difference at the clean end [B], float64, of the states themselves."""
        return (self.state[:, -1].double() - self.teacher[:, -1].double()).square().flatten(1).mean(1).cpu()

    def put(self, targets: Tensor, states: Tensor, where: Tensor) -> None:
        """Place states [B, J, ...] at the nodes targets [J] where the mask [B, J] is true."""
        self.state[:, targets] = torch.where(expand_mask(where, states), states, self.state[:, targets])
        self._pending[:, targets] |= where.cpu()

    def _evaluate_pending(self, sources: Tensor) -> Tensor:
        """Denoise the pending states at sources [I]; the mask [B, N+1] of them."""
        fresh = torch.zeros_like(self._pending)
        fresh[:, sources] = self._pending[:, sources]
        sample, node = fresh.nonzero().unbind(1)
        if len(sample):
            x, cond = self.state[sample, node], take(self.cond, sample)
            self._denoised[sample, node] = self.trajectories.predictions(x, self.times[node], cond)
        self._pending &= ~fresh
        return fresh


class MultistepGrid(Grid):
    """Nodes for a solver of one evaluation per step, Algorithm 1 at order 1 and Algorithm 2 above.

    A step is a linear combination of a node's own tensors, z = its state, D, and the differences q_k - q_0 of its
    remembered outputs, with coefficients of the times alone: the costs of a whole table of steps are inner products.
    """

    solver: Multistep

    def _prepare(self) -> None:
        self.choices = list(range(1, self.solver.order + 1))
        # the solver's state at every node, with room for all it remembers
        states = self.state.flatten(0, 1)
        self._memory: State = ()
        if self.solver.memory > 0:
            times = torch.full((len(states), self.solver.memory), torch.nan, dtype=torch.float64)
            past = self._zeros((len(states), self.solver.memory, *states.shape[1:]), states)
            self._memory = (times, past, self.solver.init(states)[2])

    def evaluate(self, sources: Tensor, targets: Tensor) -> None:
        fresh = self._evaluate_pending(sources)
        if self._memory:
            pairs = fresh.nonzero()
            for some in torch.arange(len(pairs)).split(self.max_batch) if len(pairs) else ():
                sample, node = pairs[some].unbind(1)
                x, denoised, t = self.state[sample, node], self._denoised[sample, node], self.times[node]
                self.state[sample, node] = self.solver.arrive(self.formulas, self._at(sample, node), x, t, denoised)

    def costs(self, sample: int, sources: Tensor, targets: Tensor) -> Tensor:
        """As `Grid.costs`, by inner products, over a part of the entries at a time: a video has too many for one.

        Every consistent solver's step takes pure noise to pure noise (a sigma(t) = sigma(t_next)). The common multiple
        of the initial noise may therefore be taken off all states first. Inner products of the rest lose nothing to
        cancellation, while those of states at noise level 80 lose four digits more.
        """
        numbers = torch.full_like(sources, sample)
        eps = self.entries.of(self.teacher[sample, :1])[0]
        ends = self.entries.of(self.teacher[sample, targets])
        basis = [self.entries.of(part) for part in self._basis(numbers, sources)]
        usable = self._usable(numbers[:, None], sources[:, None], targets)
        coefficients = torch.stack(
            [self._coefficients(usable.clamp(max=m), numbers[:, None], sources[:, None], targets) for m in self.choices]
        ).to(ends.device)  # [M, I, J, P]
        squares = torch.zeros(coefficients.shape[:-1], dtype=torch.float64, device=ends.device)
        for some in (slice(k, k + _AT_ONCE) for k in range(0, ends.shape[1], _AT_ONCE)):
            noise = eps[some].double() / self._sigma[0]
            x = ends[:, some].double() - self._sigma[targets, None] * noise
            parts = [part[:, some].double() for part in basis]
            parts[0] = parts[0] - self._sigma[sources, None] * noise
            stacked = torch.stack(parts, 1)  # [I, P, D]
            squares += torch.einsum("mijp,ipq,mijq->mij", coefficients, stacked @ stacked.transpose(1, 2), coefficients)
            squares += (x * x).sum(1) - 2 * torch.einsum("mijp,ipj->mij", coefficients, stacked @ x.T)
        costs = (squares / ends.shape[1]).clamp(min=0).cpu()
        possible = torch.tensor(self.choices)[:, None, None] <= usable
        return costs.masked_fill(~possible, torch.inf)

    def advance(self, choice: Tensor, origin: Tensor, targets: Tensor, where: Tensor) -> None:
        numbers = torch.arange(len(self))[:, None]
        orders = torch.tensor(self.choices)[choice]
        coefficients = self._coefficients(orders, numbers, origin, targets)
        z, denoised, *differences = self._basis(numbers, origin)
        scale = coefficients.to(z).reshape(*coefficients.shape, *(1,) * (z.ndim - 2)).unbind(2)
        states = scale[0] * z + scale[1] * denoised
        for weight, difference in zip(scale[2:], differences, strict=True):
            states = states + weight * difference
        if self._memory:  # before the targets' states are put: a target may be another's origin
            self._pass_on(orders, origin, targets, where)
        self.put(targets, states, where)

    def _pass_on(self, orders: Tensor, origin: Tensor, targets: Tensor, where: Tensor) -> None:
        """The solver's state travels with the node: the targets get the states of their origins after the step."""
        kept = where.nonzero()
        sample, source = kept[:, 0], origin.expand(len(self), -1)[kept[:, 0], kept[:, 1]]
        z, denoised, t = self.state[sample, source], self._denoised[sample, source], self.times[source]
        newest = self.solver.quantity(self.formulas, z, t, denoised)
        left = self.solver.remember(self.formulas, self._at(sample, source), t, newest, orders[kept[:, 0], kept[:, 1]])
        arrivals = sample * (self.last + 1) + targets[kept[:, 1]]
        for part, new in zip(self._memory, left, strict=True):
            part[arrivals] = new

    def _at(self, numbers: Tensor, nodes: Tensor) -> State:
        """The solver's state at the nodes, both indices of one shape."""
        flat = numbers * (self.last + 1) + nodes
        return tuple(part[flat] for part in self._memory)

    def _basis(self, numbers: Tensor, nodes: Tensor) -> list[Tensor]:
        """z, D and the order - 1 differences of the nodes [..., ...] that every step combines."""
        z, denoised = self.state[numbers, nodes], self._denoised[numbers, nodes]
        if self.solver.order == 1:
            return [z, denoised]
        shape = z.shape[: z.ndim - (self.state.ndim - 2)]
        flat, t = z.reshape(-1, *self.state.shape[2:]), self.times[nodes].expand(shape).reshape(-1)
        newest = self.solver.quantity(self.formulas, flat, t, denoised.reshape(flat.shape)).reshape(z.shape)
        times, past = self._at(numbers, nodes)[:2]
        differences = []
        for k in range(self.solver.order - 1):
            present = torch.isfinite(times[..., k])
            difference = past.select(len(shape), k) - newest
            differences.append(torch.where(expand_mask(present, difference), difference, 0))
        return [z, denoised, *differences]

    def _usable(self, numbers: Tensor, origin: Tensor, targets: Tensor) -> Tensor:
        """The highest order of the step from origin to targets, broadcast; 0 where the target is not later."""
        numbers, origin, targets = torch.broadcast_tensors(numbers, origin, targets)
        if self.solver.order == 1:
            return (origin < targets).long()
        times = self._at(numbers, origin)[0]
        flat = self.solver.usable(
            self.formulas,
            times.flatten(0, -2),
            self.times[origin].flatten(),
            self.times[targets].flatten(),
            self.solver.order,
        )
        return flat.reshape(origin.shape).masked_fill(origin >= targets, 0)

    def _coefficients(self, orders: Tensor, numbers: Tensor, origin: Tensor, targets: Tensor) -> Tensor:
        """Coefficients of the basis [..., P] for steps of the given orders, indices broadcast; weights of absent
        outputs are 0."""
        orders, numbers, origin, targets = torch.broadcast_tensors(orders, numbers, origin, targets)
        coefficients = torch.zeros(*orders.shape, self.solver.order + 1, dtype=torch.float64)
        coefficients[..., 0], coefficients[..., 1] = self.a[origin, targets], self.b[origin, targets]
        for m in range(2, self.solver.order + 1):
            of_order = orders == m
            if bool(of_order.any()):
                memory = self._at(numbers[of_order], origin[of_order])[0]
                ends = torch.stack([self.times[targets[of_order]], self.times[origin[of_order]]], 1)
                weights = self.solver.weights(self.formulas, torch.cat([ends, memory[:, : m - 1]], 1))
                coefficients[of_order, 2 : m + 1] = weights
        return coefficients


class TwoStageGrid(Grid):
    """Nodes for a solver that evaluates twice within a step.

    The second evaluation depends on the target. A level therefore costs one evaluation for every pair of nodes, and the
    results of all pairs are kept.
    """

    solver: TwoStage

    def _prepare(self) -> None:
        self.choices = [self.solver.order]
        self._reached = torch.empty(0)

    def evaluate(self, sources: Tensor, targets: Tensor) -> None:
        self._evaluate_pending(sources)
        self._sources = sources
        shape = (len(self), len(sources), len(targets), *self.state.shape[2:])
        self._reached = self._zeros(shape, self.state)
        ahead = (sources[:, None] < targets).expand(len(self), -1, -1)
        sample, i, j = ahead.nonzero().unbind(1)

        def finish(denoiser: CountedDenoiser) -> Tensor:
            reached = torch.empty_like(self._reached[sample, i, j])
            for some in torch.arange(len(sample)).split(self.max_batch):
                node, target = sources[i[some]], targets[j[some]]
                x, first = self.state[sample[some], node], self._denoised[sample[some], node]
                denoise = Denoise(denoiser, self.process, take(self.cond, sample[some]))
                reached[some] = self.solver.finish(x, first, self.times[node], self.times[target], denoise)
            return reached

        inputs = (self.state[:, sources], self.cond, self.times[sources], self.times[targets])
        facts = {"solver": self.solver.facts, "max_batch": self.max_batch}
        self._reached[sample, i, j] = self.trajectories.once("finish", inputs, finish, **facts).to(self._reached)

    def costs(self, sample: int, sources: Tensor, targets: Tensor) -> Tensor:
        teacher = self.entries.of(self.teacher[sample, targets]).double()
        missed = self.entries.of(self._reached[sample], leading=2).double() - teacher
        costs = missed.square().mean(2).cpu()
        return costs.masked_fill(sources[:, None] >= targets, torch.inf)[None]

    def advance(self, choice: Tensor, origin: Tensor, targets: Tensor, where: Tensor) -> None:
        place = torch.searchsorted(self._sources, origin.contiguous())
        numbers = torch.arange(len(self))[:, None]
        self.put(targets, self._reached[numbers, place, torch.arange(len(targets))], where)


def grid_of(solver: Solver) -> type[MultistepGrid] | type[TwoStageGrid]:
    """The grid that suits a solver.

    Raises:
        ValueError: a solver that is neither of one evaluation per step nor of two.
    """
    if isinstance(solver, Multistep):
        return MultistepGrid
    if isinstance(solver, TwoStage):
        return TwoStageGrid
    raise ValueError(f"OSS knows solvers of one and of two evaluations per step; {solver.name!r} is neither")


def expand_mask(mask: Tensor, x: Tensor) -> Tensor:
    """A boolean mask over the leading dimensions of x, on its device and shaped to select from it."""
    return mask.to(x.device).reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))


def flow_scale(process: Process, times: Tensor, node: int) -> Tensor:
    """Factor that takes the initial state from node 0 to `node` unscaled in flow coordinates, float64 scalar."""
    size = process.alpha(times) + process.sigma(times)
    return size[node] / size[0]
