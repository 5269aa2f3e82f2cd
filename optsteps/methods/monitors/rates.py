"""Equal shares of a rate along noising paths: entropic time and constant-rate scheduling, from AYS's table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from optsteps.denoisers import call_nfe
from optsteps.methods.ays.data import coupled_tables, teacher_samples
from optsteps.methods.ays.klub_table import CoupledTable
from optsteps.methods.ays.levels import ends, grid
from optsteps.methods.base import Evaluations, SearchProblem, SearchResult, ShardedMethod
from optsteps.methods.monitors.base import completed, equal_times
from optsteps.schedules import Schedule
from optsteps.trajectories import Trajectories


class CoupledTableMonitor(ShardedMethod):
    """Base of the monitors on the `CoupledTable`: every data sample is noised along one path and denoised at each level
    of a grid, and one table answers all step counts.

    The data are the problem's. Where it has none, they are the teacher's samples from its noise. With the same levels
    and seed the table is that of `AYS`, and the store keeps it for both.

    Args:
        levels: steps of the grid, uniform in log noise level between the teacher's ends.
        seed: of the noising paths.
        max_batch: most samples in one call of the denoiser.
        shard_size: samples measured together.
        block_size: samples in a block of the table.

    `SearchResult.evidence`: "levels" [K+1] and "increments" [K] of the grid, and "table", the `CoupledTable`.

    Raises:
        ValueError: levels, max_batch, shard_size or block_size below 1; in `check`, a model that gives whole walks
            alone.
    """

    name: str

    def __init__(
        self, levels: int = 64, seed: int = 0, max_batch: int = 512, shard_size: int = 64, block_size: int = 16
    ) -> None:
        if min(levels, max_batch, shard_size, block_size) < 1:
            raise ValueError("levels, max_batch, shard_size and block_size must be at least 1")
        self.levels, self.seed, self.max_batch = levels, seed, max_batch
        self.shard_size, self.block_size = shard_size, block_size

    @abstractmethod
    def increments(self, table: CoupledTable) -> Tensor:
        """Increments [K] between the table's levels."""

    def described(self) -> dict[str, Any]:
        """Entries of the schedules' metadata."""
        return {"method": self.name}

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        super().check(problem, steps)
        problem.check_answers(self.name)

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        """The table, and the teacher's walk where its samples are the data."""
        samples = len(problem.noise)
        count = (self.levels + 1) * (samples if problem.data is None else len(problem.data))
        count += samples * problem.walker.nfe(problem.teacher) if problem.data is None else 0
        return Evaluations(count * call_nfe(problem.denoiser))

    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> list[CoupledTable]:
        trajectories = Trajectories(problem.denoiser, self.max_batch, problem.cache)
        teacher = teacher_samples(problem, trajectories, index, self.seed) if problem.data is None else None
        levels = grid(problem, self.levels)
        return coupled_tables(problem, trajectories, index, teacher, levels, self.seed, self.block_size)

    def combine(
        self,
        problem: SearchProblem,
        steps: Sequence[int],
        partials: Sequence[list[CoupledTable]],
        decision: Any = None,
    ) -> SearchResult:
        table = CoupledTable.joined([table for part in partials for table in part])
        increments, clock = self.increments(table), table.levels / (1 + table.levels)
        evidence = {"levels": table.levels, "increments": increments, "table": table}
        # the intervals beyond the grid: from an infinite noise level, and to 0
        one, unknown = clock.new_ones(1), clock.new_full((1,), torch.nan)
        if problem.teacher.noise_levels[0] > ends(problem)[0]:
            clock, increments = torch.cat([one, clock]), torch.cat([unknown, increments])
        if problem.teacher.ends_clean:
            clock, increments = torch.cat([clock, 0 * one]), torch.cat([increments, unknown])
        described = {**self.described(), **problem.solver.described, "samples": int(table.counts.sum())}
        scale = problem.teacher.initial_scale
        found = equal_times(problem, clock, completed(clock, increments), steps)
        schedules = {
            n: Schedule(times, problem.process, initial_scale=scale, metadata=described) for n, times in found.items()
        }
        return SearchResult(schedules, evidence=evidence)


class Entropic(CoupledTableMonitor):
    """Entropic time schedules (arXiv:2504.13612): steps of equal loss of entropy, or rescaled.

    With the mean square error e(s) of estimating x_0 at noise level s, the entropy of x_0 given the noisy sample grows
    by e / s^3 ds. The authors find that these schedules blur, and recommend the rescaled density e / s^2, for a
    Gaussian the `cosine` family with its deviation as the scale. They take 1,024 samples at 128 levels, and claim no
    gain for solvers of second order.

    Args:
        density: "rescaled" or "plain".
        levels, seed, max_batch, shard_size, block_size: see `CoupledTableMonitor`.

    Raises:
        ValueError: an unknown density, or as `CoupledTableMonitor`.
    """

    name = "entropic"

    def __init__(
        self,
        density: Literal["rescaled", "plain"] = "rescaled",
        levels: int = 64,
        seed: int = 0,
        max_batch: int = 512,
        shard_size: int = 64,
        block_size: int = 16,
    ) -> None:
        super().__init__(levels, seed, max_batch, shard_size, block_size)
        if density not in ("rescaled", "plain"):
            raise ValueError(f"density must be 'rescaled' or 'plain', got {density!r}")
        self.density = density

    def described(self) -> dict[str, Any]:
        return {**super().described(), "density": self.density}

    def increments(self, table: CoupledTable) -> Tensor:
        errors, levels = table.errors.sum(0) / table.counts.sum(), table.levels
        by_log_level = errors / (levels if self.density == "rescaled" else levels**2)
        return (by_log_level[1:] + by_log_level[:-1]) / 2 * levels.log().diff().abs()


class CRS(CoupledTableMonitor):
    """Constant rate scheduling (arXiv:2411.12188): steps of equal change of the prediction D, their v_x.

    The change between two levels is E|D_s - D_t|^2 along one noising path (xi = 1). For an exact denoiser D is a
    martingale along it, so that the changes of neighbouring intervals add up, whatever the grid.

    Args:
        levels, seed, max_batch, shard_size, block_size: see `CoupledTableMonitor`.
    """

    name = "crs"

    def increments(self, table: CoupledTable) -> Tensor:
        return table.sums.sum(0).diagonal(1) / table.counts.sum()
