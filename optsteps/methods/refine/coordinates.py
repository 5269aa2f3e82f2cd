"""Numbers that a schedule is made of, for searches that move all of them a little."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from optsteps.schedules import Schedule

# of the lesser gap beside a time: far enough that float32 networks tell the two walks apart
_DISTANCE = 1e-2


@dataclass(frozen=True)
class GapCoordinates:
    """The logarithms of a schedule's gaps, each relative to that of the schedule that a search starts from.

    The gaps are those of the clock u = arctan(s) of the noise level s, which is finite at both ends; the ends stay
    where they are. Zeros are the start itself.

    Args:
        start: a schedule of n steps.
    """

    start: Schedule

    @property
    def size(self) -> int:
        """Number of the numbers: n, of which one sum changes nothing."""
        return self.start.steps

    def schedule(self, numbers: Tensor) -> Schedule:
        """The schedule of the numbers [n]."""
        gaps = self._gaps(numbers)
        return self._at(self._clock[0] - gaps.cumsum(0)[:-1])

    def near(self, numbers: Tensor) -> tuple[list[Schedule], Tensor]:
        """Schedules that differ from that of the numbers in one time each, n - 1, and by how much on the clock [n - 1].
        Walks down them share all steps before that time."""
        gaps = self._gaps(numbers)
        inner = self._clock[0] - gaps.cumsum(0)[:-1]
        distances = _DISTANCE * torch.minimum(gaps[:-1], gaps[1:])
        return [self._at(places) for places in inner + torch.diag(distances)], distances

    def derivatives(self, numbers: Tensor) -> Tensor:
        """Derivatives [n - 1, n] of the inner times on the clock in the numbers."""
        share = self._gaps(numbers) / self._span
        before = torch.ones(self.size - 1, self.size, dtype=torch.float64).tril()
        return -self._span * (before - share.cumsum(0)[:-1, None]) * share

    @cached_property
    def _clock(self) -> Tensor:
        return self.start.noise_levels.atan()

    @property
    def _span(self) -> Tensor:
        return self._clock[0] - self._clock[-1]

    def _gaps(self, numbers: Tensor) -> Tensor:
        return self._span * torch.softmax((-self._clock.diff()).log() + numbers, 0)

    def _at(self, inner: Tensor) -> Schedule:
        """The schedule with these inner times on the clock; where none has moved, the start's own."""
        times = self.start.times.clone()
        moved = (inner - self._clock[1:-1]).abs() > 1e-12
        times[1:-1] = torch.where(moved, self.start.process.time_of_noise_level(inner.tan()), times[1:-1])
        return replace(self.start, times=times)
