"""Schedules of so many steps as points of a bounded box, for searches that see nothing but a number for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from optsteps.methods.refine.coordinates import raised
from optsteps.schedules import Schedule

# the numbers of sticks beyond which a gap is as good as nothing, or as all that is left
_LIMIT = 6.0
# how far a box goes beyond the numbers of the schedules that it has to hold
_MARGIN = 1.0
# the share of the whole range that every gap has at least
_LEAST_GAP = 1e-6
# a bound is hit by numbers that come so near, in widths of the box; and a bound that was hit moves so far
_NEAR, _MOVED = 0.01, 0.5

S = TypeVar("S", bound="Space")


class Space(Protocol):
    """The schedules of so many steps that are searched.

    Attributes:
        lower, upper: the bounds of the numbers, float64 [P].
    """

    @property
    def lower(self) -> Tensor: ...

    @property
    def upper(self) -> Tensor: ...

    def schedule(self, numbers: Tensor) -> Schedule:
        """The schedule of numbers [P] within the bounds."""
        ...

    def numbers(self, schedule: Schedule) -> Tensor:
        """The numbers [P] within the bounds whose schedule is nearest to that of as many steps."""
        ...

    def hits(self, numbers: Tensor) -> list[str]:
        """The bounds that the numbers [P] come so near to that the best may lie beyond, in words."""
        ...

    def widened(self: S, numbers: Tensor) -> S:
        """The space with the bounds moved that the numbers [P] hit."""
        ...


@dataclass(frozen=True)
class StickBreaking:
    """Gaps that are broken off a stick, one after the other: the range of the teacher on the clock arctan(noise level).

    A number is the log odds that its gap takes of what is left; zeros are equal gaps. So every point of the box is a
    schedule. OYS (arXiv:2608.18040) multiplies uniform shares instead, which crowds its random schedules at low noise.

    Args:
        teacher: the range.
        steps: n.
        free: the first time may lie below the teacher's. Where the teacher does not end at noise level 0, the last one
            may lie above its last.
        lower, upper: bounds [P] of the n - 1 numbers, and one more for every free end.
    """

    teacher: Schedule
    steps: int
    free: bool
    lower: Tensor
    upper: Tensor

    @classmethod
    def around(cls, teacher: Schedule, steps: int, free: bool, schedules: Sequence[Schedule]) -> StickBreaking:
        """The space whose box holds the schedules, and goes beyond them and beyond equal gaps.

        Raises:
            ValueError: a single step between fixed ends.
        """
        size = steps - 1 + int(free) + int(free and not teacher.ends_clean)
        if size == 0:
            raise ValueError("one step between fixed ends leaves nothing to search: let the ends be free")
        widest = cls(teacher, steps, free, *(torch.full((size,), sign * _LIMIT).double() for sign in (-1, 1)))
        held = torch.stack([torch.zeros(size, dtype=torch.float64), *(widest.numbers(one) for one in schedules)])
        lower, upper = held.amin(0) - _MARGIN, held.amax(0) + _MARGIN
        return replace(widest, lower=lower.clamp(min=-_LIMIT), upper=upper.clamp(max=_LIMIT))

    def schedule(self, numbers: Tensor) -> Schedule:
        left, gaps = torch.ones((), dtype=torch.float64), list[Tensor]()
        for share in torch.sigmoid(numbers - self._equal):
            gaps.append(left * share)
            left = left * (1 - share)
        gaps = [_LEAST_GAP + (1 - (len(gaps) + 1) * _LEAST_GAP) * gap for gap in gaps]
        places = self._top - (self._top - self._bottom) * torch.stack(gaps).cumsum(0)
        process, teacher = self.teacher.process, self.teacher.times
        inner = process.time_of_noise_level(raised(places, process).tan())
        first, last = teacher[: 0 if self.free else 1], teacher[len(teacher) - int(not self._ends_freely) :]
        scale = None if self.free else self.teacher.initial_scale
        return Schedule(torch.cat([first, inner, last]), process, initial_scale=scale)

    def numbers(self, schedule: Schedule) -> Tensor:
        places = schedule.noise_levels.atan().clamp(self._bottom, self._top)
        first, last = ([end] if there else [] for end, there in ((self._top, self.free), (self._bottom, True)))
        inner = places if self._ends_freely else places[:-1]
        gaps = -torch.cat([torch.stack([*first, *inner, *last])]).diff() / (self._top - self._bottom)
        gaps = ((gaps - _LEAST_GAP) / (1 - len(gaps) * _LEAST_GAP)).clamp(min=1e-12)
        left = gaps.flip(0).cumsum(0).flip(0)
        numbers = (gaps[:-1] / left[1:]).log() + self._equal
        return torch.minimum(torch.maximum(numbers, self.lower), self.upper)

    def hits(self, numbers: Tensor) -> list[str]:
        below, above = self._hit(numbers)
        words = [f"gap {k + 1} at its {side}" for side, hit in (("least", below), ("most", above)) for k in _where(hit)]
        return words

    def widened(self, numbers: Tensor) -> StickBreaking:
        below, above = self._hit(numbers)
        moved = _MOVED * (self.upper - self.lower)
        lower, upper = self.lower - moved * below, self.upper + moved * above
        return replace(self, lower=lower.clamp(min=-_LIMIT), upper=upper.clamp(max=_LIMIT))

    def _hit(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the numbers [P] are at a bound that can move."""
        near = _NEAR * (self.upper - self.lower)
        below = (numbers <= self.lower + near) & (self.lower > -_LIMIT)
        return below, (numbers >= self.upper - near) & (self.upper < _LIMIT)

    @property
    def _ends_freely(self) -> bool:
        return self.free and not self.teacher.ends_clean

    @cached_property
    def _top(self) -> Tensor:
        return self.teacher.noise_levels[0].atan()

    @cached_property
    def _bottom(self) -> Tensor:
        return self.teacher.noise_levels[-1].atan()

    @cached_property
    def _equal(self) -> Tensor:
        """What makes zeros equal gaps: the logarithms of how many gaps are left behind each."""
        return torch.arange(len(self.lower), 0, -1, dtype=torch.float64).log()


@dataclass(frozen=True)
class GridTimes:
    """Ascending positions in the teacher's times: AutoDiffusion's subsets of a model's steps.

    Args:
        teacher: of M steps; its last time is every schedule's last.
        steps: n, at most M.
        free: the first time is searched too.
    """

    teacher: Schedule
    steps: int
    free: bool

    @property
    def lower(self) -> Tensor:
        return torch.full((self.steps - int(not self.free),), float(not self.free), dtype=torch.float64)

    @property
    def upper(self) -> Tensor:
        return torch.full_like(self.lower, self.teacher.steps - 1)

    def schedule(self, numbers: Tensor) -> Schedule:
        first = [] if self.free else [0]
        path = torch.tensor([*first, *numbers.long().tolist(), self.teacher.steps])
        scale = self.teacher.initial_scale if path[0] == 0 else None
        return Schedule(self.teacher.times[path], self.teacher.process, initial_scale=scale)

    def numbers(self, schedule: Schedule) -> Tensor:
        grid, first = self.teacher.noise_levels.atan(), int(not self.free)
        places = schedule.noise_levels.atan()[first:-1]
        positions, least = list[int](), first
        for number, place in enumerate(places):
            most = self.teacher.steps - len(places) + number
            nearest = int((grid[least : most + 1] - place).abs().argmin()) + least
            positions.append(nearest)
            least = nearest + 1
        return torch.tensor(positions, dtype=torch.float64)

    def hits(self, numbers: Tensor) -> list[str]:
        return []  # the grid is all there is

    def widened(self, numbers: Tensor) -> GridTimes:
        return self


def _where(hit: Tensor) -> list[int]:
    return hit.nonzero()[:, 0].tolist()


def share_of(numbers: Tensor, space: Space) -> Tensor:
    """Numbers [..., P] as shares of the box, from 0 at its lower bounds to 1 at its upper ones."""
    return (numbers - space.lower) / (space.upper - space.lower)


def at_share(shares: Tensor, space: Space) -> Tensor:
    """The numbers [..., P] at shares of the box."""
    return space.lower + shares * (space.upper - space.lower)
