"""Errors of single steps of a student's solver from the teacher's states, from the teacher's table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optsteps.methods.paths.teacher_table import TeacherTable
from optsteps.processes import Process
from optsteps.solvers.multistep import Multistep, by_order


def step_errors(table: TeacherTable, solver: Multistep, order: int, memory: int, nodes: Tensor) -> Tensor:
    """Sums over samples of the mean square of every step's error and of its root.

    A step leaves from the teacher's state at a node i, with what the teacher saw at the path's earlier nodes in the
    solver's memory. Its error is its end at node j less the teacher's state there, in the model's coordinates. The end
    is taken as the next step leaves from it: with UniPC's corrector applied, in which the teacher's own prediction
    stands for the student's at j.

    Args:
        order: of the steps, where the nodes before allow it.
        memory: how many earlier nodes the entries tell apart, at least order - 1.
        nodes: ascending indices [n] of the teacher's times, the first and the last among them.

    Returns:
        float64 [2, n, ..., n]: squares and roots by the `memory` earlier nodes, i and j, laid out as `shortest_path`
        reads them; inf where there is no such step.
    """
    formulas = solver.formulas(table.process)
    times, last = table.times[nodes], len(nodes) - 1
    predictions, outputs = table.predictions(), _outputs(table, solver, formulas)
    sums = torch.full((2, *(len(nodes),) * (memory + 2)), torch.inf, dtype=torch.float64)
    for i in range(last):
        later, earlier = torch.arange(i + 1, last + 1), _earlier(i, order - 1)
        # the errors of Euler's steps to the nodes after i, what is remembered less the newest output, and the changes
        # of the prediction to the nodes after i
        missed = table.missed(int(nodes[i]), nodes[later])
        weights, of_change = _coefficients(solver, formulas, order, times, i, earlier)
        if order == 1 and not of_change.any():
            squares = table.squares(missed)
            sums[..., i, later] = _sums(squares).reshape(2, *[1] * memory, len(later))
            continue
        changes = predictions[nodes[later].clamp(max=table.steps - 1)] - predictions[nodes[i]]
        rows = torch.cat([missed, outputs[nodes[: i + 1]] - outputs[nodes[i]], changes])
        products = torch.stack([rows @ product @ rows.T for product in table.products])
        ones = torch.ones_like(of_change)
        coefficients = torch.cat([ones[..., None], weights, of_change[..., None]], -1)  # [H, J, V]
        place = torch.empty_like(coefficients, dtype=torch.long)
        place[..., 0] = later - i - 1
        place[..., 1:-1] = len(later) + earlier.flip(1)[:, None]
        place[..., -1] = len(later) + i + 1 + place[..., 0]
        forms = products[:, place[..., :, None], place[..., None, :]]
        squares = torch.einsum("hju,bhjuv,hjv->bhj", coefficients, forms, coefficients).clamp(min=0)
        found = _sums(squares)
        visits = torch.cat([earlier, torch.full((len(earlier), 1), i)], 1)
        places: tuple[Any, ...] = (..., *visits.T[:, :, None], later)
        sums[places] = found.reshape(2, *[1] * (memory - earlier.shape[1]), *found.shape[1:])
    return sums


def _sums(squares: Tensor) -> Tensor:
    """Sums over samples of squares [B, ...] and of their roots, [2, ...]."""
    return torch.stack([squares.sum(0), squares.sqrt().sum(0)])


def _outputs(table: TeacherTable, solver: Multistep, formulas: Process) -> Tensor:
    """Rows [N, 2N+1] of the quantities that the solver remembers at the times but the last, less that at the first."""
    changes = torch.zeros(table.steps - 1, table.size, dtype=torch.float64)
    number = torch.arange(table.steps - 1)
    if solver.extrapolates == "D":
        changes[number, 2 + number] = 1.0
    else:
        # eps = (x - alpha D) / sigma
        inner = table.times[1:-1]
        sigma = formulas.sigma(inner)
        changes[number, 2 + number] = -formulas.alpha(inner) / sigma
        changes[number, table.steps + 1 + number] = 1 / sigma
    return torch.cat([changes.new_zeros(1, table.size), changes.cumsum(0)])


def _earlier(i: int, count: int) -> Tensor:
    """The nodes [H, count] that a path may have visited before node i, oldest first; where fewer were, the oldest is
    repeated, and i itself where none was."""
    if count == 0:
        return torch.empty(1, 0, dtype=torch.long)
    if count == 1:
        return torch.arange(i + 1)[:, None]
    g, h = torch.meshgrid(torch.arange(i + 1), torch.arange(i + 1), indexing="ij")
    possible = (g <= h) & ~((g < h) & (h == i))
    return torch.stack([g[possible], h[possible]], 1)


def _coefficients(
    solver: Multistep, formulas: Process, order: int, times: Tensor, i: int, earlier: Tensor
) -> tuple[Tensor, Tensor]:
    """Coefficients [H, J, order-1] of the remembered outputs, newest first and less that at node i, and [H, J] of the
    change of the prediction, in the ends of the steps to the nodes after i."""
    count, t_next = earlier.shape[1], times[i + 1 :]
    cells = len(earlier) * len(t_next)
    after = torch.cat([earlier[:, 1:], torch.full((len(earlier), 1), i)], 1)[:, :count]
    finite = times.masked_fill(formulas.alpha(times) == 0, torch.nan)
    remembered = finite[earlier].masked_fill(earlier == after, torch.nan).flip(1)

    def of_cells(x: Tensor) -> Tensor:
        return x.reshape(len(earlier), 1, -1).expand(-1, len(t_next), -1).reshape(cells, -1)

    end = t_next.expand(len(earlier), -1).reshape(cells)
    orders = solver.usable(formulas, of_cells(remembered), times[i].expand(cells), end, order)
    past = [end[:, None], of_cells(remembered)]
    weights = by_order(solver.weights, formulas, torch.cat([past[0], times[i].expand(cells, 1), past[1]], 1), orders, 1)
    goes_on = torch.arange(cells) % len(t_next) < len(t_next) - 1
    left = orders.masked_fill(~goes_on, 0)
    arrival = solver.arrival(formulas, torch.cat([past[0], finite[i].expand(cells, 1), past[1]], 1), left)
    total, of_change = torch.zeros(cells, count, dtype=torch.float64), torch.zeros(cells, dtype=torch.float64)
    total[:, : weights.shape[1]] = weights
    if arrival.shape[1]:
        of_change = arrival[:, 0]
        total[:, : arrival.shape[1] - 1] += arrival[:, 1:]
    return total.reshape(len(earlier), len(t_next), count), of_change.reshape(len(earlier), len(t_next))
