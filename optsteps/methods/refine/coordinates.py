"""Numbers that a schedule is made of, for searches that move all of them a little."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from optsteps.processes import VP, Process
from optsteps.schedules import Schedule
from optsteps.solvers.multistep import Multistep

# of a gap of the start, which is always left of it
_LEAST_GAP = 1e-3
# noise level that a network may be told where the process has no least one; its inverse is the largest
_LEAST_TOLD = 1e-30


@dataclass(frozen=True)
class GapCoordinates:
    """The logarithms of a schedule's gaps, each relative to that of the schedule that a search starts from.

    The gaps are those of the clock u = arctan(s) of the noise level s, which is finite at both ends; the ends stay
    where they are. Zeros are the start itself. Whatever the numbers, there is a schedule: a thousandth of every gap of
    the start is left, and no inner time falls below the least positive noise level of a VP process.

    Args:
        start: a schedule of n steps.
        distance: of a forward difference, as a share of the lesser gap beside a time; as it is, so far that networks in
            float32 tell two walks apart.
    """

    start: Schedule
    distance: float = 1e-2

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

    @property
    def largest(self) -> Tensor:
        """What the numbers [n] are at most: anything."""
        return torch.full((self.size,), math.inf, dtype=torch.float64)

    def schedule(self, numbers: Tensor) -> Schedule:
        """The schedule of the numbers [n]."""
        return self._at(self._inner(numbers))

    def near(self, numbers: Tensor) -> tuple[list[Schedule], Tensor]:
        """Schedules that differ from that of the numbers in one time each, n - 1, and by how much on the clock [n - 1].
        Walks down them share all steps before that time."""
        inner = self._inner(numbers)
        gaps = -torch.cat([self._clock[:1], inner, self._clock[-1:]]).diff()
        distances = self.distance * torch.minimum(gaps[:-1], gaps[1:])
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

    def _shares(self, numbers: Tensor) -> Tensor:
        return torch.softmax((-self._clock.diff()).log() + numbers, 0)

    def _gaps(self, numbers: Tensor) -> Tensor:
        return (1 - _LEAST_GAP) * self._span * self._shares(numbers) - _LEAST_GAP * self._clock.diff()

    def _inner(self, numbers: Tensor) -> Tensor:
        """The inner times on the clock [n - 1]."""
        return raised(self._clock[0] - self._gaps(numbers).cumsum(0)[:-1], self.start.process, self._clock[1:-1])

    def _at(self, inner: Tensor) -> Schedule:
        """The schedule with these inner times on the clock; where none has moved, the start's own."""
        times = self.start.times.clone()
        times[1:-1] = _times(inner, self._clock[1:-1], times[1:-1], self.start.process)
        return replace(self.start, times=times)


@dataclass(frozen=True)
class FreeStartCoordinates:
    """The logarithms of a schedule's gaps, each relative to that of the schedule that a search starts from, that of
    their sum, and that of the first scale.

    The gaps are those of the clock of `GapCoordinates`. The last time stays where it is; the first is free. The first
    state is the unit noise times a scale of its own, as OSS's free start has it. Zeros are the start itself. Whatever
    the numbers, there is a schedule: a thousandth of every gap of the start is left, and the sum ends where the first
    time would be too noisy. There, which is where a search begins as a rule, the gaps share what there is.

    Args:
        start: a schedule of n steps.
        highest: the largest noise level that the first time may have, at least the start's own.
        distance: of a forward difference, as a share of the lesser gap beside a time, and in the scale's logarithm.
    """

    start: Schedule
    highest: float
    distance: float = 1e-2

    @property
    def moved(self) -> str:
        """What the numbers move, in words."""
        return "times and the first scale"

    @property
    def size(self) -> int:
        """Number of the numbers: n gaps, of which one sum changes nothing, their sum, and the scale."""
        return self.start.steps + 2

    @property
    def corrections(self) -> Tensor:
        """Which of the numbers [n + 2] are corrections that should stay small: none."""
        return torch.zeros(self.size, dtype=torch.float64)

    @property
    def largest(self) -> Tensor:
        """What the numbers [n + 2] are at most: the sum of the gaps ends where the first time would be too noisy."""
        bounds = torch.full((self.size,), math.inf, dtype=torch.float64)
        bounds[-2] = self._most
        return bounds

    def schedule(self, numbers: Tensor) -> Schedule:
        """The schedule of the numbers [n + 2]."""
        return self._at(self._places(numbers), float(numbers[-1]))

    def near(self, numbers: Tensor) -> tuple[list[Schedule], Tensor]:
        """Schedules that differ from that of the numbers in one time but the last, or in the scale, and by how much on
        the clock, or in the logarithm of the scale [n + 1]."""
        places, scale = self._places(numbers), float(numbers[-1])
        gaps = -torch.cat([places, self._clock[-1:]]).diff()
        # the first time is moved down: it may be the last that the process has
        distances = self.distance * torch.cat([-gaps[:1], torch.minimum(gaps[:-1], gaps[1:])])
        moved = [self._at(some, scale) for some in places + torch.diag(distances)]
        moved.append(self._at(places, scale + self.distance))
        return moved, torch.cat([distances, distances.new_tensor([self.distance])])

    def derivatives(self, numbers: Tensor) -> Tensor:
        """Derivatives [n + 1, n + 2] of what `near` changes in the numbers."""
        share, left = self._shares(numbers), self._left(numbers)
        after = share.flip(0).cumsum(0).flip(0)
        gaps = left * (torch.ones(len(share), len(share), dtype=torch.float64).triu() - after[:, None]) * share
        return torch.block_diag(torch.cat([gaps, left * after[:, None]], 1), torch.ones(1, 1, dtype=torch.float64))

    @cached_property
    def _clock(self) -> Tensor:
        return self.start.noise_levels.atan()

    @cached_property
    def _least(self) -> Tensor:
        """What is left of every gap [n]."""
        return -_LEAST_GAP * self._clock.diff()

    @property
    def _shared(self) -> float:
        """What the gaps of the start share beside that."""
        return float(self._clock[0] - self._clock[-1] - self._least.sum())

    @cached_property
    def _most(self) -> float:
        """The largest number of the sum."""
        highest = max(math.atan(self.highest), float(self._clock[0]))
        return math.log((highest - float(self._clock[-1] + self._least.sum())) / self._shared)

    def _left(self, numbers: Tensor) -> float:
        return self._shared * math.exp(min(float(numbers[-2]), self._most))

    def _shares(self, numbers: Tensor) -> Tensor:
        return torch.softmax((-self._clock.diff()).log() + numbers[:-2], 0)

    def _places(self, numbers: Tensor) -> Tensor:
        """The times but the last on the clock [n]."""
        gaps = self._least + self._left(numbers) * self._shares(numbers)
        places = self._clock[-1] + gaps.flip(0).cumsum(0).flip(0)
        return raised(places, self.start.process, self._clock[:-1])

    def _at(self, places: Tensor, scale: float) -> Schedule:
        """The schedule with these times but the last on the clock; where none has moved, the start's own."""
        times = self.start.times.clone()
        times[:-1] = _times(places, self._clock[:-1], times[:-1], self.start.process)
        return replace(self.start, times=times, initial_scale=float(self.start.scale) * math.exp(scale))


@dataclass(frozen=True)
class _CorrectedCoordinates(ABC):
    """Other coordinates of a schedule, and after their numbers corrections of what a step does at its times.

    A correction moves nothing but its own entry, so that derivatives in it are ones. Zeros are no correction.
    """

    times: Coordinates

    @property
    def start(self) -> Schedule:
        """The schedule that zeros are."""
        return self.times.start

    @property
    def distance(self) -> float:
        """Of a forward difference: that of the times, here in the correction itself."""
        return self.times.distance

    @property
    @abstractmethod
    def moved(self) -> str:
        """What the numbers move, in words."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of the corrections."""

    @abstractmethod
    def _corrected(self, schedule: Schedule, corrections: Tensor) -> Schedule:
        """A schedule of the other numbers with these corrections."""

    @property
    def size(self) -> int:
        """That of the other numbers, and one for every correction."""
        return self.times.size + self.count

    @property
    def corrections(self) -> Tensor:
        """1 for corrections, 0 for all else [P]."""
        return torch.cat([self.times.corrections, torch.ones(self.count, dtype=torch.float64)])

    @property
    def largest(self) -> Tensor:
        """What the numbers [P] are at most; corrections may be anything."""
        return torch.cat([self.times.largest, torch.full((self.count,), math.inf, dtype=torch.float64)])

    def schedule(self, numbers: Tensor) -> Schedule:
        """The schedule of the numbers [P]."""
        return self._corrected(self.times.schedule(numbers[: self.times.size]), numbers[self.times.size :])

    def near(self, numbers: Tensor) -> tuple[list[Schedule], Tensor]:
        """Schedules that differ from that of the numbers in what `times.near` changes or in one correction each, and by
        how much [R]."""
        times, corrections = numbers.split([self.times.size, self.count])
        near, distances = self.times.near(times)
        here = self.times.schedule(times)
        moved = [self._corrected(schedule, corrections) for schedule in near]
        step = self.distance * torch.eye(self.count, dtype=torch.float64)
        corrected = [self._corrected(here, row) for row in corrections + step]
        return moved + corrected, torch.cat([distances, step.diagonal()])

    def derivatives(self, numbers: Tensor) -> Tensor:
        """Derivatives [R, P] of what `near` changes in the numbers."""
        times = self.times.derivatives(numbers[: self.times.size])
        return torch.block_diag(times, torch.eye(self.count, dtype=torch.float64))


@dataclass(frozen=True)
class ToldTimeCoordinates(_CorrectedCoordinates):
    """The times of a schedule, in coordinates of theirs, and corrections of the times that the network is told.

    A correction is added to the logarithm of the noise level that a step's network is told, as a share of the step's
    own, held within the process. At an infinite noise level there is none. Zeros are the start.

    Args:
        times: of a schedule of n steps.
    """

    @property
    def moved(self) -> str:
        return f"{self.times.moved} and told times"

    @property
    def count(self) -> int:
        return len(self._steps)

    @cached_property
    def _steps(self) -> Tensor:
        """The steps that leave from a finite noise level."""
        return self.start.noise_levels[:-1].isfinite().nonzero().flatten()

    @cached_property
    def _told(self) -> Tensor:
        """The times that the start tells its network [n]."""
        return self.start.times[:-1] if self.start.told_times is None else self.start.told_times

    def _corrected(self, schedule: Schedule, corrections: Tensor) -> Schedule:
        process, steps = schedule.process, self._steps
        told, share = self._told[steps], corrections.clamp(-50.0, 50.0).exp()
        share = share * process.noise_level(told) / self.start.noise_levels[steps]
        # a flow's and EDM's times are dense down to noise level 0, and beyond every finite one
        least = float(process.noise_level(process.t_positive)) if isinstance(process, VP) else _LEAST_TOLD
        most = min(float(process.noise_level(process.t_limit)), 1 / _LEAST_TOLD)
        levels = (schedule.noise_levels[steps] * share).clamp(least, most)
        kept = (schedule.times[steps] == self.start.times[steps]) & (corrections == 0)
        told_times = self._told.clone()
        told_times[steps] = torch.where(kept, told, process.time_of_noise_level(levels))
        return replace(schedule, told_times=told_times)


@dataclass(frozen=True)
class WeightCoordinates(_CorrectedCoordinates):
    """Coordinates of a schedule, and corrections of the solver's weights.

    A correction is added to the solver's own weight at these times, as a share of the step's length: the coefficient
    of the quantity that the step extrapolates. Zeros are the start, with the solver's own weights or those that it has,
    whose differences to the solver's own are such shares.

    Args:
        times: of a schedule of n steps.
        solver: whose weights they are.
        columns: K, the remembered outputs that a step may use. None: the solver's memory, at least 1.
    """

    solver: Multistep
    columns: int | None = None

    @property
    def moved(self) -> str:
        return f"{self.times.moved} and weights"

    @property
    def count(self) -> int:
        return int(self._usable.sum())

    @cached_property
    def _usable(self) -> Tensor:
        """Which weights [n, K] a step can have: those of outputs that it remembers."""
        columns = max(self.solver.memory, 1) if self.columns is None else self.columns
        return torch.arange(columns) < self.solver.remembered_counts(self.start)[:, None]

    @cached_property
    def _found(self) -> Tensor:
        """By how much the start's weights [n, K] differ from the solver's own, as a share of the step's length."""
        own = self.solver.own_weights(self.start, self._usable.shape[1])
        if self.start.weights is None:
            return torch.zeros_like(own)
        return (self.start.weights - own) / self.solver.step_lengths(self.start)[:, None]

    def _corrected(self, schedule: Schedule, corrections: Tensor) -> Schedule:
        weights = self.solver.own_weights(schedule, self._usable.shape[1])
        share = self._found.clone()
        share[self._usable] += corrections
        length = self.solver.step_lengths(schedule)[:, None]
        return replace(schedule, orders=None, weights=weights + length * share)


def raised(places: Tensor, process: Process, start: Tensor | None = None) -> Tensor:
    """Places on the clock [m], raised to the least that the process has, a little apart; those of a start [m] are
    there."""
    if not isinstance(process, VP):  # a flow's and EDM's times are dense down to noise level 0
        return places
    apart = 1 + _LEAST_GAP * torch.arange(len(places) - 1, -1, -1, dtype=torch.float64)
    least = process.noise_level(process.t_positive).atan() * apart
    return torch.maximum(places, least if start is None else torch.minimum(least, start))


def _times(places: Tensor, start: Tensor, times: Tensor, process: Process) -> Tensor:
    """The times at places on the clock [m]; where one is still that of the start, the start's own of `times` [m]."""
    moved = (places - start).abs() > 1e-12
    # a place that has not moved may be at an infinite noise level, which is no level to ask the process for
    levels = torch.where(moved, places.tan(), process.noise_level(times).nan_to_num(posinf=1.0))
    return torch.where(moved, process.time_of_noise_level(levels), times)


Coordinates = GapCoordinates | FreeStartCoordinates | ToldTimeCoordinates | WeightCoordinates
