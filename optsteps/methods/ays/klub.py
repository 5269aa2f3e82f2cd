"""KLUB, the upper bound that Align Your Steps minimises (Sabour et al., arXiv:2404.14507, Sec. 3.2), by intervals.

In noise level rho = sigma / alpha, with y = x / alpha, the reverse SDE that keeps the noising process's marginals is
dy = 2 (y - D(y, rho)) / rho d rho + sqrt(2 rho) dW, rho falling. A solver of it is the same SDE with D held at some D~
over each interval. By Girsanov's theorem the divergence of the two laws of paths, which bounds that of their ends, is
the integral of |2 (D - D~) / rho|^2 / (2 * 2 rho):

    KLUB = sum over intervals, from rho_i down to rho_{i+1}, of  integral rho^-3 E|D_rho - D~_i|^2 d rho.

Order 1, Stochastic-DDIM: D~_i = D_i, the denoiser's output where the interval starts (Eq. 15 of the paper).

Order 2, SDE-DPM-Solver++(2M): its step is exact for the constant D~_i = D_i + r (D_i - D_{i-1}), r = h / (2 h_{i-1}),
with h the interval's and h_{i-1} the last interval's length in log rho (Lu et al., arXiv:2211.01095, App. A), so it is
a solver in the same sense. For an affine combination with weights 1 + r and -r,

    E|D - D~|^2 = (1 + r) E|D - D_i|^2 - r E|D - D_{i-1}|^2 + r (1 + r) E|D_i - D_{i-1}|^2,

so this bound, too, consists of mean squared differences of two outputs. The first interval is of order 1.

Everywhere E runs over data and one noising path: x_0, then y_rho = x_0 + noise with independent increments. Squared
norms are sums over all entries of a sample. Schedules are noise levels [n+1], falling.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from optsteps.methods.paths import shortest_path


class Klub(ABC):
    """The bound of any schedule.

    Attributes:
        order: 1 for Stochastic-DDIM, 2 for SDE-DPM-Solver++(2M).
    """

    order: int

    @abstractmethod
    def terms(self, before: Tensor, noisy: Tensor, clean: Tensor) -> Tensor:
        """The integrals [S], float64, over the intervals from `noisy` [S] down to `clean` [S] of walks whose last level
        was `before` [S]. NaN stands for no such level; order 1 does not read it."""

    @abstractmethod
    def snap(self, levels: Tensor) -> Tensor:
        """The nearest levels at which the bound is known, of the same shape."""

    @abstractmethod
    def snap_apart(self, levels: Tensor) -> Tensor:
        """A schedule [n+1] of such levels, each near its own, no two of them the same.

        Raises:
            ValueError: there are fewer such levels than n+1.
        """

    def of(self, levels: Tensor) -> Tensor:
        """The bound of schedules [..., n+1], snapped, -> [...]."""
        before = torch.cat([torch.full_like(levels[..., :1], torch.nan), levels[..., :-2]], -1)
        shape = before.shape
        terms = self.terms(*(part.reshape(-1) for part in (before, levels[..., :-1], levels[..., 1:])))
        return terms.reshape(*terms.shape[:-1], *shape).sum(-1)


class TabulatedKlub(Klub):
    """From a table of E|D_s - D_t|^2 between all levels of a grid, by the trapezoidal rule in 1 / (2 rho^2), whose
    differential rho^-3 d rho is.

    Args:
        levels: [K+1], falling, positive and finite.
        differences: [..., K+1, K+1]; dimensions before the last two are carried through.
        order: of the bound.
        stride: use every second level of an interval only (2), for the quadrature's error.
    """

    def __init__(self, levels: Tensor, differences: Tensor, order: int = 1, stride: int = 1) -> None:
        check_order(order)
        self.levels, self.differences, self.order = levels, differences, order
        self.clock = 0.5 * levels**-2
        self.integrals = _integrals(self.clock, differences, stride)

    def terms(self, before: Tensor, noisy: Tensor, clean: Tensor) -> Tensor:
        i, j = self.place(noisy), self.place(clean)
        first = self.integrals[..., i, j]
        if self.order == 1:
            return first
        has_before = torch.isfinite(before)
        h = self.place(torch.where(has_before, before, noisy))
        log_level = self.levels.log()
        last = torch.where(has_before, log_level[h] - log_level[i], torch.inf)
        r = (log_level[i] - log_level[j]) / (2 * last)
        further = self.integrals[..., h, j] - self.integrals[..., h, i]
        between = self.differences[..., h, i] * (self.clock[j] - self.clock[i])
        return (1 + r) * first - r * further + r * (1 + r) * between

    def place(self, levels: Tensor) -> Tensor:
        """Indices of the nearest levels of the grid, in log."""
        grid, log_levels = -self.levels.log(), -levels.log()
        above = torch.searchsorted(grid, log_levels.contiguous()).clamp(1, len(grid) - 1)
        return above - (log_levels - grid[above - 1] < grid[above] - log_levels).long()

    def snap(self, levels: Tensor) -> Tensor:
        return self.levels[self.place(levels)]

    def snap_apart(self, levels: Tensor) -> Tensor:
        last, number = len(self.levels) - 1, torch.arange(len(levels))
        if number[-1] > last:
            raise ValueError(f"a grid of {last} steps has no schedule of {int(number[-1])}")
        place = (self.place(levels) - number).cummax(0).values + number
        return self.levels[torch.minimum(place, last - number.flip(0))]

    def optimum(self, steps: int) -> Tensor:
        """The schedule [steps+1] of least bound of all on the grid from its first to its last level.

        A dynamic programme over levels finds it for order 1, and one over pairs of a schedule's neighbours for order 2.

        Raises:
            ValueError: more steps than the grid has.
        """
        last = len(self.levels) - 1
        if not 1 <= steps <= last:
            raise ValueError(f"a grid of {last} steps has no schedule of {steps}")
        if self.order == 1:
            return self.levels[shortest_path(self.integrals, [steps])[steps]]
        h, i, j = torch.meshgrid(*[torch.arange(last + 1)] * 3, indexing="ij")
        before = self.levels[h].masked_fill(h == i, torch.nan)
        return self.levels[shortest_path(self.terms(before, self.levels[i], self.levels[j]), [steps], memory=1)[steps]]


def check_order(order: int) -> None:
    """ValueError unless the bound is known for this order."""
    if order not in (1, 2):
        raise ValueError(f"KLUB is known for order 1 and 2, not {order}")


def _integrals(clock: Tensor, differences: Tensor, stride: int) -> Tensor:
    """integral from clock_p to clock_j of differences[p, .], for j >= p [..., K+1, K+1]; meaningless for j < p."""

    def panels(width: int) -> Tensor:
        areas = torch.zeros_like(differences)
        middle = (differences[..., width:] + differences[..., :-width]) / 2
        areas[..., width:] = middle * (clock[width:] - clock[:-width])
        return areas

    single = panels(1)
    if stride == 1:
        total = single.cumsum(-1)
        return total - total.diagonal(dim1=-2, dim2=-1)[..., None]
    total = panels(2)
    for parity in (0, 1):
        total[..., parity::2] = total[..., parity::2].cumsum(-1)
    total = total - total.diagonal(dim1=-2, dim2=-1)[..., None]
    # where the distance is odd, the last panel is a single one; the diagonal taken off is of p's own parity
    place = torch.arange(len(clock))
    odd = (place[None, :] - place[:, None]) % 2 == 1
    before = torch.cat([torch.zeros_like(total[..., :1]), total[..., :-1]], -1)
    return torch.where(odd, before + single, total)
