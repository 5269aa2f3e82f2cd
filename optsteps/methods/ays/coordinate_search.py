"""Algorithm 1 of Align Your Steps (arXiv:2404.14507): coordinate descent of KLUB, and schedules of more steps from it.

Schedules are noise levels [n+1], falling; their ends stay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optsteps.methods.ays.klub import Klub


def descend(
    klub: Klub, start: Tensor, max_sweeps: int = 300, candidates: int = 11, movable: Tensor | None = None
) -> Tensor:
    """Schedules from `start` [n+1] on, one after every sweep over the inner points [S+1, n+1], until a sweep changes
    nothing or there were `max_sweeps`.

    Args:
        candidates: for every point, itself included, evenly spread in log noise level between its neighbours; odd.
        movable: boolean [n+1], which points may move; None for all inner ones.

    Raises:
        ValueError: an even number of candidates, fewer than 3, or more steps than the bound has levels for.
    """
    check_candidates(candidates)
    path = [klub.snap_apart(start)]
    for _ in range(max_sweeps):
        path.append(sweep(klub, path[-1], candidates, movable))
        if torch.equal(path[-1], path[-2]):
            return torch.stack(path[:-1])
    return torch.stack(path)


def check_candidates(candidates: int) -> None:
    """Raises ValueError unless candidates are an odd number of at least 3: a point, and as many on either side."""
    if candidates < 3 or candidates % 2 == 0:
        raise ValueError(f"candidates must be odd and at least 3, the point itself being one; got {candidates}")


def sweep(klub: Klub, levels: Tensor, candidates: int = 11, movable: Tensor | None = None) -> Tensor:
    """Every inner point moved to its best candidate, points that share no term of the bound at once."""
    last = len(levels) - 1
    inner = torch.arange(1, last)
    if movable is not None:
        inner = inner[movable[inner]]
    apart = klub.order + 1
    for phase in range(apart):
        points = inner[inner % apart == phase]
        if len(points):
            tried = _candidates(klub, levels, points, candidates)  # [P, C], the present one first
            best = _bounds(klub, levels, points, tried).argmin(1)
            levels = levels.index_put((points,), tried.gather(1, best[:, None])[:, 0])
    return levels


def _candidates(klub: Klub, levels: Tensor, points: Tensor, count: int) -> Tensor:
    log_level = levels.log()
    above, present, below = (log_level[points + k][:, None] for k in (-1, 0, 1))
    share = torch.arange(1, count // 2 + 1) / (count // 2 + 1)
    return klub.snap(
        torch.cat([present, present + share * (above - present), present + share * (below - present)], 1).exp()
    )


def _bounds(klub: Klub, levels: Tensor, points: Tensor, tried: Tensor) -> Tensor:
    """The terms of the bound that the points take part in, for every candidate [P, C]; inf where it is no schedule."""
    last = len(levels) - 1
    changed = levels.repeat(*tried.shape, 1).scatter(2, points[:, None, None].expand(*tried.shape, 1), tried[..., None])
    total = torch.zeros_like(tried)
    for k in range(-1, klub.order):  # the intervals that end at the point, start at it, and extrapolate from it
        start = points + k
        inside = start < last
        rows, at = changed[inside], start[inside, None, None].expand(-1, tried.shape[1], 1)
        before = rows.gather(2, (at - 1).clamp(min=0)).masked_fill(at == 0, torch.nan)
        terms = klub.terms(*(part.reshape(-1) for part in (before, rows.gather(2, at), rows.gather(2, at + 1))))
        total[inside] += terms.reshape(-1, tried.shape[1])
    between = (tried < levels[points - 1, None]) & (tried > levels[points + 1, None])
    return total.masked_fill(~between, torch.inf)


def with_midpoints(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Twice as many steps, a point in the middle (in log) of every interval [2n+1], and which points are new."""
    finer = torch.zeros(2 * len(levels) - 1, dtype=torch.float64)
    finer[::2], finer[1::2] = levels, (levels[:-1] * levels[1:]).sqrt()
    return finer, torch.arange(len(finer)) % 2 == 1


def interpolated(levels: Tensor, steps: int) -> Tensor:
    """A schedule of any step count [steps+1] from one [n+1]: log noise level linear in the step's place."""
    place = torch.linspace(0, len(levels) - 1, steps + 1, dtype=torch.float64)
    below = place.floor().long().clamp(max=len(levels) - 2)
    finer = torch.lerp(levels.log()[below], levels.log()[below + 1], place - below).exp()
    finer[[0, -1]] = levels[[0, -1]]
    return finer
