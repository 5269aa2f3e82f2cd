"""Walks that share what they have in common, against `sample` and a count of the prefixes that differ."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optsteps import Schedule, sample
from optsteps.denoisers import CountedDenoiser
from optsteps.models.analytic import GaussianMixture
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.solvers import SOLVERS, Multistep, Solver, TwoStage, build_solver
from optsteps.walks import ends_together

MIXTURE = GaussianMixture([[0.0, 1.0], [1.5, -0.5], [-1.0, -1.0]], [0.5, 0.2, 0.3], [1.0, 2.0, 1.5])
NOISE = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PROCESSES: dict[str, Process] = {"edm": EDM(), "vp": VP.linear(), "flow": Flow()}
LEVELS = [[9.0, 3.0, 1.0, 0.2], [9.0, 3.0, 1.0, 0.4, 0.1], [9.0, 3.0, 0.5, 0.0], [9.0, 2.0, 0.7, 0.4, 0.0], [5.0, 1.0]]
NAMES = [name for name in SOLVERS if not build_solver(name).stochastic]
CASES: dict[str, Solver] = {
    **{name: build_solver(name) for name in NAMES},
    "unipc-3": build_solver("unipc", order=3, lower_order_final=False),
    "unip": build_solver("unipc", corrector=False),
    "ipndm-variable": build_solver("ipndm", order=3, variable_step=True, lower_order_final=True),
    "heun-as-edm": build_solver("heun", flow_as="edm"),
    "dpmpp_2m-as-edm": build_solver("dpmpp_2m", flow_as="edm"),
}


def labelled(process: Process) -> Any:
    """D depends on the condition, so that walks whose samples are mixed up are told apart."""
    denoise = MIXTURE.denoiser(process)
    return lambda x, t, cond=None: denoise(x, t) + (0 if cond is None else 0.1 * cond["label"][:, None])


def varied(solver: Solver, process: Process) -> list[Schedule]:
    """Schedules of all kinds that the solver takes, of several lengths; many begin alike."""
    lists = [*LEVELS, [math.inf, 9.0, 3.0, 1.0, 0.2], [math.inf, 9.0, 3.0, 0.0]] if process.name == "flow" else LEVELS
    plain = [Schedule(process.time_of_noise_level(levels), process) for levels in lists]
    schedules = list(plain)
    for schedule in plain:
        n, change = schedule.steps, dataclasses.replace
        schedules += [
            change(schedule, initial_scale=0.7 * float(schedule.scale)),
            change(schedule, orders=[1 + i % solver.order for i in range(n)]),
            change(schedule, amplitude=1 + 0.1 * torch.arange(4.0 * n).reshape(n, 2, 2) / n),
        ]
        if isinstance(solver, Multistep):
            told = schedule.times[:-1] * torch.linspace(1.0, 0.9, n)
            for columns in (max(solver.memory, 1), solver.memory + 2):
                weights = solver.own_weights(schedule, columns)
                for step in range(1, n):
                    corrected = weights.clone()
                    corrected[step, 0] += 0.2 if solver.remembered_counts(schedule)[step] else 0.0
                    schedules.append(change(schedule, weights=corrected))
            schedules += [change(schedule, told_times=told), change(schedules[-1], told_times=told)]
            schedules.append(change(schedule, told_times=told, told_as="slope"))
    return schedules


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("solver", CASES.values(), ids=CASES)
@pytest.mark.mostly_slow(3)
def test_the_ends_are_those_of_sample(solver: Solver, process: Process) -> None:
    schedules, denoiser = varied(solver, process), CountedDenoiser(labelled(process))
    cond = {"label": torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)}
    ends = ends_together(denoiser, solver, schedules, NOISE, cond, max_batch=7)
    together, apart = denoiser.evaluations, 0
    for schedule, end in zip(schedules, ends, strict=True):
        torch.testing.assert_close(
            end, sample(denoiser, schedule, solver, NOISE, cond), rtol=1e-11, atol=1e-11, msg=str(schedule)
        )
        apart += solver.nfe(schedule) * len(NOISE)
    assert denoiser.evaluations == together + apart
    assert together < apart


def distinct_evaluations(solver: Solver, schedules: list[Schedule]) -> int:
    """Of one sample: every evaluation is known by all that comes before it."""
    known = set()
    for schedule in schedules:
        times = schedule.times.tolist()
        orders = schedule.orders or tuple(solver.orders(schedule.steps))
        for i in range(schedule.steps):
            before = float(schedule.scale), tuple(times[: i + 1]), tuple(orders[:i])
            known.add((before, "first"))
            if isinstance(solver, TwoStage) and orders[i] > 1 and times[i + 1] > 0:
                known.add((before, times[i + 1]))
    return len(known)


@st.composite
def like_schedules(draw: st.DrawFn) -> list[Schedule]:
    """Schedules with few times to choose from, so that they share prefixes."""
    grid = [8.0, 4.0, 2.0, 1.0, 0.0]
    schedules = []
    for _ in range(draw(st.integers(1, 6))):
        times = sorted(draw(st.sets(st.sampled_from(grid), min_size=2)), reverse=True)
        orders = draw(st.none() | st.lists(st.integers(1, 2), min_size=len(times) - 1, max_size=len(times) - 1))
        schedules.append(Schedule(times, EDM(), orders, initial_scale=draw(st.sampled_from([None, 6.0]))))
    return schedules


@settings(deadline=None, max_examples=30)
@given(like_schedules(), st.sampled_from(["euler", "dpmpp_2m", "heun", "dpm2", "unipc"]), st.integers(1, 9))
def test_what_walks_share_is_evaluated_once(schedules: list[Schedule], name: str, max_batch: int) -> None:
    solver, denoiser = build_solver(name), CountedDenoiser(labelled(EDM()))
    ends = ends_together(denoiser, solver, schedules, NOISE, max_batch=max_batch)
    assert denoiser.evaluations == len(NOISE) * distinct_evaluations(solver, schedules)
    for schedule, end in zip(schedules, ends, strict=True):
        torch.testing.assert_close(end, sample(denoiser, schedule, solver, NOISE), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("max_batch", [1, 4, 100])
def test_no_call_exceeds_the_largest_batch(max_batch: int) -> None:
    sizes = []

    def denoiser(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        sizes.append(len(x))
        return x / (1 + t[:, None])

    schedules = [Schedule([4.0, first, 0.5], EDM()) for first in (3.0, 2.0, 1.0)]
    ends_together(denoiser, build_solver("euler"), schedules, NOISE, max_batch=max_batch)
    assert sum(sizes) == 3 + 9
    assert max(sizes) == min(max_batch, 9)


def test_ends_carry_no_graph() -> None:
    scale = torch.ones(1, dtype=torch.float64, requires_grad=True)
    times = torch.tensor([4.0, 1.0, 0.1], dtype=torch.float64, requires_grad=True)
    [end] = ends_together(lambda x, t, cond=None: scale * x, build_solver("euler"), [Schedule(times, EDM())], NOISE)
    assert not end.requires_grad


def test_what_cannot_be_walked_is_refused() -> None:
    plain, euler = Schedule([4.0, 1.0, 0.0], EDM()), build_solver("euler")
    denoiser = CountedDenoiser(labelled(EDM()))
    for name in set(SOLVERS) - set(NAMES):
        with pytest.raises(ValueError, match="draws noise: sample them one by one"):
            ends_together(denoiser, build_solver(name), [plain], NOISE)
    with pytest.raises(ValueError, match="cond holds 2"):
        ends_together(denoiser, euler, [plain], NOISE, torch.zeros(2))
    with pytest.raises(ValueError, match="amplitude is for 1 channels, the noise has 2"):
        ends_together(denoiser, euler, [dataclasses.replace(plain, amplitude=torch.ones(2, 1, 2))], NOISE)
    weighted = dataclasses.replace(plain, weights=[[0.0], [0.1]])
    with pytest.raises(ValueError, match="does not take"):
        ends_together(denoiser, build_solver("heun"), [plain, weighted], NOISE)
    assert denoiser.evaluations == 0
