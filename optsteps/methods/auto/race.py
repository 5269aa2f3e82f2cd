"""Successive halving of candidates on paired samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optsteps.methods.candidates import Candidate
from optsteps.methods.nearness import Nearness
from optsteps.metrics.statistics import spread


@dataclass(frozen=True)
class Track:
    """The samples of a race, on which every candidate runs with its own solver.

    Attributes:
        lanes: the same samples and the same teacher, with every solver by its name.
    """

    lanes: Mapping[str, Nearness]

    @property
    def samples(self) -> int:
        """Their number."""
        return next(iter(self.lanes.values())).samples

    def errors(self, candidates: Sequence[Candidate], index: Tensor) -> Tensor:
        """Mean squared differences to the teacher of the candidates' ends, float64 [C, b], on the samples
        `index` [b]."""
        rows = torch.empty(len(candidates), len(index), dtype=torch.float64)
        for name, lane in self.lanes.items():
            running = [k for k, one in enumerate(candidates) if one.solver == name]
            if running:
                rows[running] = lane.errors([candidates[k].schedule for k in running], index)
        return rows


@dataclass(frozen=True)
class Heat:
    """What is known after one round.

    Attributes:
        samples: that all of `ran` have sampled from so far.
        ran: the candidates of the round, best first.
        levels: the means over the samples of -10 log10 of their squared errors, in dB.
        left: how many of them go on.
    """

    samples: int
    ran: list[Candidate]
    levels: list[float]
    left: int


def race(candidates: Sequence[Candidate], track: Track, first: int = 2) -> list[Heat]:
    """Rounds on 2, 4, 8, ... of the samples until all of them have run, or one candidate is left; a round's candidates
    sample from the same noise.

    After a round the better half stays, at least two, less those that are worse than the best of the round by the 95 %
    interval of the paired differences in dB. So a few samples that cannot tell the last two apart do not part them.

    Args:
        candidates: at least one, in the order in which equal ones are preferred.
        track: to run on.
        first: samples of the first round.
    """
    total, seen = track.samples, 0
    running, levels = list(candidates), torch.empty(len(candidates), 0, dtype=torch.float64)
    heats = list[Heat]()
    while seen < total:
        end = min(total, 2 * seen or first)
        errors = track.errors(running, torch.arange(seen, end))
        levels = torch.cat([levels, -10 * errors.clamp(min=torch.finfo(torch.float64).tiny).log10()], 1)
        seen = end
        order = levels.mean(1).argsort(descending=True, stable=True)
        running, levels = [running[k] for k in order], levels[order]
        kept = _kept(levels)
        heats.append(Heat(seen, running, levels.mean(1).tolist(), len(kept)))
        running, levels = [running[k] for k in kept], levels[kept]
        if len(running) == 1:
            break
    return heats


def _kept(levels: Tensor) -> list[int]:
    """The rows of levels [C, B], best first, that stay: of the better half those that may be as good as the first."""
    half = range(1, min(max(2, (len(levels) + 1) // 2), len(levels)))
    return [0, *(k for k in half if bool(levels[k].isfinite().all()) and spread(levels[0] - levels[k]).low <= 0)]
