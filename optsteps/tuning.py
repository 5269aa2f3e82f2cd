"""A schedule for a pipeline of diffusers as it is called: `find`, with the pipeline's own call as the sampler."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from optsteps.export.diffusers.scheduler import OptstepsScheduler, solver_of_scheduler
from optsteps.finding import Found, find
from optsteps.methods import SearchProblem
from optsteps.models.diffusers.walks import PipelineWalks, walked_pipeline
from optsteps.noise import unit_noise
from optsteps.schedules import build_schedule
from optsteps.solvers import Solver, build_solver
from optsteps.text.duration import seconds_of
from optsteps.trajectories import Trajectories


@dataclass(frozen=True)
class Tuned(Found):
    """What `tune` found.

    Attributes:
        scheduler: runs the schedule in the pipeline: `pipe.scheduler = found.scheduler`.
    """

    scheduler: OptstepsScheduler


def tune(
    pipe: Any,
    calls: Sequence[Mapping[str, Any]],
    nfe: int,
    budget: int | str | None = None,
    solver: str | Solver | Sequence[str | Solver] | None = None,
    *,
    samples: int = 32,
    teacher: int = 50,
    weights: bool = False,
    told_times: bool = False,
    max_batch: int = 4,
    seed: int = 0,
) -> Tuned:
    """The schedule that spends `nfe` network evaluations per sample best when the pipeline is called so.

    Sample k has call k modulo their number, and noise of its own. The pipeline's own call takes every step, so that its
    guidance, ControlNets, experts and images count as they are. The pipeline is left as it was.

    Args:
        pipe: loaded, of any class whose call begins with latents that it is given, or with an image.
        calls: arguments of the pipeline's call for one sample each: `[dict(prompt=p) for p in prompts]`.
        nfe: calls of the network per sample, guidance counting 2.
        budget: network evaluations of the search, about, or a time such as "10min", for which a short walk says how
            many they are. None: no limit.
        solver: or its name, or several of which the best is found; None for that of the pipeline's scheduler where this
            package has it, else "dpmpp_2m".
        samples: to search and to judge with.
        teacher: steps of the teacher.
        weights, told_times: whether the weights of a multistep step, and the times that the network is told, are
            searched too. The scheduler obeys them.
        max_batch: most samples in one call, where they differ in the prompt alone.
        seed: of the noise, and of what else the pipeline draws.

    Raises:
        ValueError: as `PipelineWalks` and `find`; a budget that is no time.
    """
    model = walked_pipeline(pipe, calls, seed=seed)
    walks = model.denoiser
    assert isinstance(walks, PipelineWalks)
    if solver is None:
        solver = solver_of_scheduler(walks.own) or "dpmpp_2m"
    first = solver if isinstance(solver, (str, Solver)) else solver[0]
    first = build_solver(first) if isinstance(first, str) else first
    long = build_schedule("edm", model.process, teacher, *model.time_range, final="zero", snap=model.snap)
    noise = unit_noise(seed, range(samples), model.shape)
    cond = model.cond(range(samples), noise.device)
    problem = SearchProblem(walks, model.process, first, noise, long, cond)
    evaluations = _evaluations(problem, seconds_of(budget)) if isinstance(budget, str) else budget
    found = find(
        walks,
        model.process,
        noise,
        nfe,
        solver,
        cond,
        teacher=long,
        weights=weights,
        told_times=told_times,
        budget=evaluations,
        max_batch=max_batch,
        check_model=False,  # what the pipeline predicts is its own affair
    )
    whole = walks.way == "added noise"
    scheduler = OptstepsScheduler.from_pipeline(walks.own, found.schedule, found.solver, whole=whole)
    return Tuned(**vars(found), scheduler=scheduler)


def _evaluations(problem: SearchProblem, seconds: float) -> int:
    """How many network evaluations fit into a time, by the time that a walk of four steps takes."""
    few = problem.part(torch.arange(1))
    t_max, t_min = problem.teacher.times[[0, -2]].tolist()
    short = build_schedule("edm", problem.process, 4, t_max, t_min, final="zero")
    trajectories = Trajectories(problem.denoiser)
    begun = time.perf_counter()
    trajectories.ends(short, problem.solver, few.noise, few.cond)
    return max(1, int(seconds * trajectories.evaluations / (time.perf_counter() - begun)))
