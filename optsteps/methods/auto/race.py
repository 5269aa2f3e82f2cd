"""Successive halving of candidates on paired samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optsteps.methods.candidates import Candidate
from optsteps.methods.nearness import Nearness
from optsteps.metrics.statistics import spread

# a difference in dB that is not worth further samples, nor a schedule that is less preferred
_SMALL = 0.1


@dataclass(frozen=True)
class Track:
    """The samples of a race, on which every candidate runs with its own solver.

    Attributes:
        lanes: the same samples and the same teacher, with every solver by its name.
        beyond: further samples, part by part, for those whom these cannot tell apart.
    """

    lanes: Mapping[str, Nearness]
    beyond: Sequence[Track] = ()

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
        ran: the candidates of the round, best first; of the last round the winner first.
        levels: the means over the samples of -10 log10 of their squared errors, in dB.
        left: how many of them go on.
    """

    samples: int
    ran: list[Candidate]
    levels: list[float]
    left: int

    def with_winner(self, winner: Candidate) -> Heat:
        """The same round with a candidate of it before the others."""
        order = sorted(range(len(self.ran)), key=lambda k: self.ran[k] is not winner)
        return replace(self, ran=[self.ran[k] for k in order], levels=[self.levels[k] for k in order])


def race(candidates: Sequence[Candidate], track: Track, first: int = 2) -> list[Heat]:
    """Rounds on 2, 4, 8, ... of the samples until all of them have run, or one candidate is left; a round's candidates
    sample from the same noise. As long as somebody may then be more than 0.1 dB better than the best, by the interval,
    those that are left go on over the samples beyond.

    After a round the better half stays, at least two, less those that are worse than the best of the round by the 95 %
    interval of the paired differences in dB. So a few samples that cannot tell the last two apart do not part them. The
    winner is the preferred of those that are left within 0.1 dB of the best.

    Args:
        candidates: at least one, the preferred ones first.
        track: to run on.
        first: samples of the first round.
    """
    running, levels = list(candidates), torch.empty(len(candidates), 0, dtype=torch.float64)
    heats = list[Heat]()
    for part, index in _rounds(track, first):
        if part is not track and not _undecided(levels):
            break
        errors = part.errors(running, index)
        levels = torch.cat([levels, -10 * errors.clamp(min=torch.finfo(torch.float64).tiny).log10()], 1)
        order = levels.mean(1).argsort(descending=True, stable=True)
        running, levels = [running[k] for k in order], levels[order]
        kept = _kept(levels)
        heats.append(Heat(levels.shape[1], running, levels.mean(1).tolist(), len(kept)))
        running, levels = [running[k] for k in kept], levels[kept]
        if len(running) == 1:
            break
    near = [one for one, level in zip(running, levels, strict=True) if float((levels[0] - level).mean()) < _SMALL]
    winner = next((one for one in candidates if any(one is other for other in near)), running[0])
    return [*heats[:-1], heats[-1].with_winner(winner)]


def _rounds(track: Track, first: int) -> Iterator[tuple[Track, Tensor]]:
    """The samples of every round: numbers of those of a track."""
    seen = 0
    while seen < track.samples:
        end = min(track.samples, 2 * seen or first)
        yield track, torch.arange(seen, end)
        seen = end
    for part in track.beyond:
        yield part, torch.arange(part.samples)


def _undecided(levels: Tensor) -> bool:
    """Whether one of the rows of levels [C, B], best first, may be better than the first by what matters."""
    return any(spread(levels[0] - other).low < -_SMALL for other in levels[1:])


def _kept(levels: Tensor) -> list[int]:
    """The rows of levels [C, B], best first, that stay: of the better half those that may be as good as the first."""
    half = range(1, min(max(2, (len(levels) + 1) // 2), len(levels)))
    return [0, *(k for k in half if bool(levels[k].isfinite().all()) and spread(levels[0] - levels[k]).low <= 0)]
