"""Schedules by the shares of their gaps, the free numbers of LD3."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from optsteps.schedules import Schedule

Mode = Literal["lambda", "time"]


@dataclass(frozen=True)
class GapSchedules:
    """Schedules by the free numbers of LD3.

    Args:
        teacher: whose ends they have.
        mode: the clock that their gaps are taken on: "lambda", the log-SNR, or "time".
        win_rate: the share of the least gap that told times may differ by.
    """

    teacher: Schedule
    mode: Mode
    win_rate: float = 0.5

    def start(self, steps: int) -> tuple[Tensor, Tensor]:
        """Numbers of the gaps [n] and of the told times [n-1] that training begins with: steps of equal length."""
        return torch.zeros(steps, dtype=torch.float64), torch.zeros(steps - 1, dtype=torch.float64)

    def schedule(self, logits: Tensor, told: Tensor | None = None) -> Schedule:
        """The schedule of numbers of the gaps [n] and of the told times [n-1]; None: the network is told the schedule's
        own times."""
        places = self.places(logits)
        inner = self._times(places[1:-1])
        ends = self.teacher.times[[0, -1]]
        told_times = None
        if told is not None:
            told_times = torch.cat([ends[:1], self._times(self.told_places(places, told))])
        return Schedule(
            torch.cat([ends[:1], inner, ends[1:]]),
            self.teacher.process,
            initial_scale=self.teacher.initial_scale,
            told_times=told_times,
        )

    def places(self, logits: Tensor) -> Tensor:
        """The times on the clock [n+1].

        The released code has n+1 numbers, of which it takes the softmax, the sums, and of these the shares between the
        first and the last. One number changes nothing then, and without it the shares are the sums.
        """
        first, last = self._ends
        inner = first + (last - first) * torch.softmax(logits, 0).cumsum(0)[:-1]
        return torch.cat([first[None], inner, last[None]])

    def told_places(self, places: Tensor, told: Tensor) -> Tensor:
        """The inner told times on the clock [n-1], for the times on the clock [n+1]."""
        gaps = places.detach().diff().abs()
        bound = float(self.win_rate * gaps.min())
        return places[1:-1] + (self._unit * told).clamp(-bound, bound)

    def _times(self, places: Tensor) -> Tensor:
        return self.teacher.process.time_of_log_snr(places) if self.mode == "lambda" else places

    @cached_property
    def _ends(self) -> Tensor:
        """The ends on the clock. Under VP, where nothing lies between the time -1 of noise level 0 and timestep 0, the
        inner times go down to the latter."""
        ends = self.teacher.times[[0, -1]]
        return self.teacher.process.log_snr(ends) if self.mode == "lambda" else ends.clamp(min=0)

    @property
    def _unit(self) -> float:
        """What numbers of told times are multiples of: in log-SNR 1, in time the range, which is the authors' 1."""
        first, last = self._ends.tolist()
        return 1.0 if self.mode == "lambda" else first - last
