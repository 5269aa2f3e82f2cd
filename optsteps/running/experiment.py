"""One experiment: a model and its samples, a solver, a teacher, methods and judges, ready to be run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from optsteps.comparison import Comparison
from optsteps.conditions import Cond
from optsteps.denoisers import Denoiser
from optsteps.deprecation import old_names
from optsteps.methods import Method, SearchProblem, SearchResult
from optsteps.metrics.base import Judge
from optsteps.models import Model
from optsteps.noise import FIRST_TEST_SAMPLE, unit_noise
from optsteps.schedules import Schedule
from optsteps.solvers import Multistep, Solver
from optsteps.storage.workers import ALONE, Workers
from optsteps.trajectories import Cache


@dataclass(frozen=True)
class Experiment:
    """One experiment of the command line; `optsteps.running.compose` makes it of a config.

    Attributes:
        config: all of it, composed.
        device: where samples and the states of searches live; the model too, where `runner.states` is "device".
        model, solver: what is sampled, and how.
        teacher, comparison_teacher: the many-step schedules of the searches and of the comparison.
        walker: the teacher's solver.
        methods: by name, the main one first.
        judges: what is measured.
        steps: the students' step counts.
        snap: whether the times of schedules are rounded to timesteps.
        noise, cond: unit noise [B, ...] of the samples that searches see, and their condition.
        data, data_cond: clean samples for methods that need them, or None.
        judges_of: the same judges for samples of these numbers, by whose figures methods may search.
        left_out: rivals by default that cannot take part, and why.
    """

    config: DictConfig
    device: torch.device
    model: Model
    solver: Solver
    teacher: Schedule
    comparison_teacher: Schedule
    walker: Solver
    methods: Mapping[str, Method]
    judges: list[Judge]
    steps: list[int]
    snap: bool
    noise: Tensor
    cond: Cond
    data: Tensor | None
    data_cond: Cond
    judges_of: Callable[[Sequence[int]], list[Judge]]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def resolved(self, part: str) -> Any:
        """A part of the config as JSON data, None where there is none."""
        content = OmegaConf.select(self.config, part)
        return OmegaConf.to_container(content, resolve=True) if OmegaConf.is_config(content) else content

    def method_config(self, name: str) -> Any:
        """The config of one of the methods as JSON data."""
        return self.resolved("method" if name == next(iter(self.methods)) else f"rivals.{name}")

    @property
    def unseen(self) -> range:
        """The numbers of the samples of the comparison."""
        return unseen_samples(self.config)

    def problem(self, denoiser: Denoiser, workers: Workers = ALONE) -> SearchProblem:
        """The problem that the methods search; `workers` keep its trajectories and predictions."""
        scratch = Path(self.config.runner.scratch) if self.config.runner.states == "disk" else None
        return SearchProblem(
            denoiser,
            self.model.process,
            self.solver,
            self.noise,
            self.teacher,
            self.cond,
            self.data,
            self.data_cond,
            self.walker,
            Cache(workers, _dtype(self.config.store.precision), scratch),
            self.judges_of,
        )

    @property
    def oracle_method(self) -> Method | None:
        """The method of the oracle, where the main method has one and `test.oracle` asks for it."""
        return next(iter(self.methods.values())).alone() if self.config.test.oracle > 1 else None

    def oracle_problem(self, denoiser: Denoiser, workers: Workers = ALONE) -> SearchProblem:
        """The same problem with the unseen samples that the oracle searches."""
        noise, cond = draw_samples(self.config, self.model, self.unseen[: self.config.test.oracle], self.device)
        return replace(self.problem(denoiser, workers), noise=noise, cond=cond, judges=None)

    def comparison(self, denoiser: Denoiser, workers: Workers = ALONE) -> Comparison:
        """The comparison on unseen samples, which `workers` keep."""
        noise, cond = draw_samples(self.config, self.model, self.unseen, self.device)
        return Comparison(
            denoiser,
            self.model.process,
            self.solver,
            self.comparison_teacher,
            noise,
            cond,
            self.judges,
            self.config.seed,
            torch.tensor(self.unseen),
            self.config.max_batch,
            teacher_solver=self.walker,
            cache=Cache(workers),
        )

    def compared(self, results: Mapping[str, SearchResult], steps: int) -> dict[str, tuple[Schedule, SearchResult]]:
        """The schedules of `steps` steps that are judged, by the names of their rows, each with its search.

        A schedule whose steps run with other orders than the solver's has a further row: its times under the orders
        that the solver gives to every rival. It says how much of the difference is the orders'.
        """
        rows = {}
        for name, result in results.items():
            schedule, solver = result.schedules[steps], result.solvers.get(steps, self.solver)
            rows[name] = schedule, result
            if schedule.orders is not None and isinstance(solver, Multistep):
                plain = replace(schedule, orders=None)
                if solver.usable_orders(schedule) != solver.usable_orders(plain):
                    rows[f"{name}_without_orders"] = plain, result
        return rows


def unseen_samples(config: DictConfig) -> range:
    """The numbers of the samples of the comparison."""
    return range(FIRST_TEST_SAMPLE, FIRST_TEST_SAMPLE + config.test.samples)


def draw_samples(config: DictConfig, model: Model, numbers: range, device: torch.device) -> tuple[Tensor, Cond]:
    """Unit noise [b, ...] and condition of the samples with these numbers."""
    return unit_noise(config.seed, numbers, model.shape).to(device), model.cond(numbers, device)


def _dtype(precision: str | None) -> torch.dtype | None:
    """Of kept trajectories and predictions."""
    if precision not in (None, "float32", "float16", "bfloat16"):
        raise ValueError(f"store.precision must be null, float32, float16 or bfloat16, got {precision!r}")
    return None if precision is None else getattr(torch, precision)


__getattr__ = old_names(
    __name__,
    launched="optsteps.running.device.only_device",
    code_version="optsteps.running.version.code_version",
)
