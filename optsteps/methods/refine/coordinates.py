"""Numbers that a schedule is made of, for searches that move all of them a little."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from optsteps.processes import VP
from optsteps.schedules import Schedule
from optsteps.solvers.multistep import Multistep

# of the lesser gap beside a time, and of a step's length in weights: so far that float32 networks tell two walks apart
_DISTANCE = 1e-2
# of a gap of the start, which is always left of it
_LEAST_GAP = 1e-3


@dataclass(frozen=True)
class GapCoordinates:
    """The logarithms of a schedule's gaps, each relative to that of the schedule that a search starts from.

    The gaps are those of the clock u = arctan(s) of the noise level s, which is finite at both ends; the ends stay
    where they are. Zeros are the start itself. Whatever the numbers, there is a schedule: a thousandth of every gap of
    the start is left, and no inner time falls below the least positive noise level of a VP process.

    Args:
        start: a schedule of n steps.
    """

    start: Schedule

    @property
    def moved(self) -> str:
        """What the numbers move, in words."""
        return "times"

    @property
    def size(self) -> int:
        """Number of the numbers: n, of which one sum changes nothing."""
        return self.start.steps

    @property
    def corrections(self) -> Tensor:
        """Which of the numbers [n] are corrections that should stay small: none."""
        return torch.zeros(self.size, dtype=torch.float64)

    def schedule(self, numbers: Tensor) -> Schedule:
        """The schedule of the numbers [n]."""
        return self._at(self._inner(numbers))

    def near(self, numbers: Tensor) -> tuple[list[Schedule], Tensor]:
        """Schedules that differ from that of the numbers in one time each, n - 1, and by how much on the clock [n - 1].
        Walks down them share all steps before that time."""
        inner = self._inner(numbers)
        gaps = -torch.cat([self._clock[:1], inner, self._clock[-1:]]).diff()
        distances = _DISTANCE * torch.minimum(gaps[:-1], gaps[1:])
        return [self._at(places) for places in inner + torch.diag(distances)], distances

    def derivatives(self, numbers: Tensor) -> Tensor:
        """Derivatives [n - 1, n] of what `near` changes in the numbers."""
        share = self._shares(numbers)
        before = torch.ones(self.size - 1, self.size, dtype=torch.float64).tril()
        return -(1 - _LEAST_GAP) * self._span * (before - share.cumsum(0)[:-1, None]) * share

    @cached_property
    def _clock(self) -> Tensor:
        return self.start.noise_levels.atan()

    @property
    def _span(self) -> Tensor:
        return self._clock[0] - self._clock[-1]

    @cached_property
    def _lowest(self) -> Tensor:
        """The least places of the inner times on the clock [n - 1], a little apart."""
        process, apart = self.start.process, 1 + _LEAST_GAP * torch.arange(self.size - 2, -1, -1, dtype=torch.float64)
        # a flow's and EDM's times are dense down to noise level 0
        least = process.noise_level(process.t_positive).atan() if isinstance(process, VP) else torch.zeros(1)
        return torch.minimum(least * apart, self._clock[1:-1])

    def _shares(self, numbers: Tensor) -> Tensor:
        return torch.softmax((-self._clock.diff()).log() + numbers, 0)

    def _gaps(self, numbers: Tensor) -> Tensor:
        return (1 - _LEAST_GAP) * self._span * self._shares(numbers) - _LEAST_GAP * self._clock.diff()

    def _inner(self, numbers: Tensor) -> Tensor:
        """The inner times on the clock [n - 1]."""
        return torch.maximum(self._clock[0] - self._gaps(numbers).cumsum(0)[:-1], self._lowest)

    def _at(self, inner: Tensor) -> Schedule:
        """The schedule with these inner times on the clock; where none has moved, the start's own."""
        times = self.start.times.clone()
        moved = (inner - self._clock[1:-1]).abs() > 1e-12
        times[1:-1] = torch.where(moved, self.start.process.time_of_noise_level(inner.tan()), times[1:-1])
        return replace(self.start, times=times)


@dataclass(frozen=True)
class WeightCoordinates:
    """The gaps of a schedule, as of `GapCoordinates`, and corrections of the solver's weights.

    A correction is added to the solver's own weight at these times, as a share of the step's length: the coefficient
    of the quantity that the step extrapolates. Zeros are the start with the solver's own weights.

    Args:
        start: a schedule of n steps, without weights.
        solver: whose weights they are.
        columns: K, the remembered outputs that a step may use. None: the solver's memory, at least 1.
    """

    start: Schedule
    solver: Multistep
    columns: int | None = None

    @property
    def moved(self) -> str:
        """What the numbers move, in words."""
        return "times and weights"

    @property
    def size(self) -> int:
        """n, and one for every weight that a step can have."""
        return self.gaps.size + int(self._usable.sum())

    @property
    def corrections(self) -> Tensor:
        """1 for the corrections of weights, 0 for the gaps [P]."""
        return torch.cat([self.gaps.corrections, torch.ones(int(self._usable.sum()), dtype=torch.float64)])

    def schedule(self, numbers: Tensor) -> Schedule:
        """The schedule of the numbers [P]."""
        return self._weighted(self.gaps.schedule(numbers[: self.gaps.size]), numbers[self.gaps.size :])

    def near(self, numbers: Tensor) -> tuple[list[Schedule], Tensor]:
        """Schedules that differ from that of the numbers in one time or one correction each, and by how much [R]."""
        gaps, corrections = numbers.split([self.gaps.size, self.size - self.gaps.size])
        near, distances = self.gaps.near(gaps)
        here = self.gaps.schedule(gaps)
        moved = [self._weighted(schedule, corrections) for schedule in near]
        step = _DISTANCE * torch.eye(len(corrections), dtype=torch.float64)
        corrected = [self._weighted(here, row) for row in corrections + step]
        return moved + corrected, torch.cat([distances, step.diagonal()])

    def derivatives(self, numbers: Tensor) -> Tensor:
        """Derivatives [R, P] of what `near` changes in the numbers."""
        gaps = self.gaps.derivatives(numbers[: self.gaps.size])
        return torch.block_diag(gaps, torch.eye(self.size - self.gaps.size, dtype=torch.float64))

    @cached_property
    def gaps(self) -> GapCoordinates:
        """The coordinates of the times."""
        return GapCoordinates(self.start)

    @cached_property
    def _usable(self) -> Tensor:
        """Which weights [n, K] a step can have: those of outputs that it remembers."""
        columns = max(self.solver.memory, 1) if self.columns is None else self.columns
        return torch.arange(columns) < self.solver.remembered_counts(self.start)[:, None]

    def _weighted(self, schedule: Schedule, corrections: Tensor) -> Schedule:
        weights = self.solver.own_weights(schedule, self._usable.shape[1])
        share = torch.zeros_like(weights)
        share[self._usable] = corrections
        length = self.solver.step_lengths(schedule)[:, None]
        return replace(schedule, orders=None, weights=weights + length * share)
