"""LD3: the released formulas restated, its gradient, its bounds, and a closed form that it finds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Watched, mixture_problem, noise, unet_problem
from torch import Tensor

from optsteps.denoisers import ModelError
from optsteps.methods import LD3, SearchProblem
from optsteps.methods.ld3.gaps import GapSchedules
from optsteps.methods.ld3.training import into_ball
from optsteps.models.analytic import Gaussian
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.sampling import sample
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import build_solver
from optsteps.storage.store import ShardStore
from optsteps.storage.workers import StoredWorkers
from optsteps.trajectories import Cache

NUMBERS = st.lists(st.floats(-4, 4), min_size=3, max_size=8)
# mode "lambda" between finite ends, mode "time" from ends that are not
FINITE: dict[str, Schedule] = {
    process.name: Schedule(process.time_of_noise_level([20.0, 0.02]), process)
    for process in (EDM(), VP.linear(), Flow())
}
INFINITE: dict[str, Schedule] = {
    "vp": Schedule([999.0, -1.0], VP.linear()),
    "flow": Schedule([1.0, 0.0], Flow()),
}
GRIDS = [
    *(GapSchedules(ends, "lambda") for ends in FINITE.values()),
    *(GapSchedules(ends, "time") for ends in INFINITE.values()),
]
GRID_NAMES = [*(f"lambda-{name}" for name in FINITE), *(f"time-{name}" for name in INFINITE)]


def published(grid: GapSchedules, params1: Tensor, params2: Tensor) -> tuple[Tensor, Tensor]:
    """Times and told times [n+1] of the released code's n+1 and n+1 numbers, the bound being that of its time mode."""
    process, ends = grid.teacher.process, grid.teacher.times[[0, -1]]
    mask = torch.ones_like(params1)
    mask[0] = mask[-1] = 0
    total = torch.softmax(params1, 0).cumsum(0)
    if grid.mode == "lambda":
        low, high = process.log_snr(ends)
        places = (total - total.min()) / (total.max() - total.min()) * (high - low) + low
        unit, time = 1.0, process.time_of_log_snr
    else:
        high, low = ends[0], max(float(ends[1]), 0.0)
        total = total.flip(0)
        places = (total - total[-1]) / (total[0] - total[-1]) * (high - low) + low
        unit, time = float(high - low), lambda places: places
    bound = 0.5 * float((places[1:] - places[:-1]).detach().abs().min())
    return time(places), time(places + mask * torch.clamp(unit * params2, -bound, bound))


@pytest.mark.parametrize("grid", GRIDS, ids=GRID_NAMES)
@settings(deadline=None, max_examples=30)
@given(numbers=NUMBERS, seed=st.integers(0, 2**20))
def test_times_are_those_of_the_released_formulas(grid: GapSchedules, numbers: list[float], seed: int) -> None:
    """Of its n+1 numbers one cancels: the first, which is the last time's in mode "time"."""
    params1 = torch.tensor(numbers, dtype=torch.float64)
    params2 = noise(len(numbers), seed=seed) * 0.1
    times, told = published(grid, params1, params2)
    if grid.mode == "lambda":
        found = grid.schedule(params1[1:], params2[1:-1])
    else:
        found = grid.schedule(params1.flip(0)[:-1], params2[1:-1])
    assert found.told_times is not None
    torch.testing.assert_close(found.times[:-1], times[:-1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.told_times, told[:-1], rtol=1e-9, atol=1e-9)
    assert found.times[[0, -1]].tolist() == grid.teacher.times.tolist()


@pytest.mark.parametrize("grid", GRIDS, ids=GRID_NAMES)
@settings(deadline=None, max_examples=30)
@given(numbers=NUMBERS, seed=st.integers(0, 2**20), size=st.floats(0, 100))
def test_told_times_stay_between_the_middles_of_the_gaps(
    grid: GapSchedules, numbers: list[float], seed: int, size: float
) -> None:
    logits = torch.tensor(numbers, dtype=torch.float64)
    places = grid.places(logits)
    told = grid.told_places(places, size * noise(len(numbers) - 1, seed=seed))
    least = float(places.diff().abs().min())
    assert float((told - places[1:-1]).abs().max()) <= 0.5 * least * (1 + 1e-9) + 1e-12
    assert torch.equal(grid.told_places(places, torch.zeros(len(numbers) - 1)), places[1:-1])
    schedule = grid.schedule(logits, size * noise(len(numbers) - 1, seed=seed))
    assert schedule.told_times is not None
    assert schedule.told_times[0] == schedule.times[0]


def test_training_starts_from_equal_steps() -> None:
    for name, grid in zip(GRID_NAMES, GRIDS, strict=True):
        process, family = grid.teacher.process, {"lambda": "logsnr", "time": "time_uniform"}[grid.mode]
        first, last = grid.teacher.times[[0, -1]].tolist()
        expected = build_schedule(family, process, 5, t_max=first, t_min=max(last, 0.0)).times
        found = grid.schedule(grid.start(5)[0]).times
        torch.testing.assert_close(found[:-1], expected[:-1], rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "dpmpp_3m", "unipc", "deis", "ipndm", "heun"])
@pytest.mark.parametrize("process", ["edm", "vp", "flow"])
def test_the_gradient_is_that_of_finite_differences(process: str, solver: str) -> None:
    """Of the loss of a walk in all numbers, at ends that need care: a flow's t = 1, noise level 0 of VP and flow."""
    problem = replace(mixture_problem(process, samples=3, teacher_steps=8), solver=build_solver(solver))
    grid = GapSchedules(problem.teacher, "lambda" if process == "edm" else "time")
    has_told = problem.solver.nfe(problem.teacher) == problem.teacher.steps
    numbers = torch.cat([0.3 * noise(4, seed=5), torch.tensor([0.004, -0.003, 0.002], dtype=torch.float64)])

    def loss(numbers: Tensor) -> Tensor:
        schedule = grid.schedule(numbers[:4], numbers[4:] if has_told else None)
        return sample(problem.denoiser, schedule, problem.solver, problem.noise).square().mean()

    free = numbers.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(free), free)
    for k in range(7 if has_told else 4):
        step = torch.zeros(7, dtype=torch.float64)
        step[k] = 1e-6
        slope = (loss(numbers + step) - loss(numbers - step)) / 2e-6
        torch.testing.assert_close(gradient[k], slope, rtol=2e-4, atol=1e-7)


def gaussian_problem(samples: int = 40, entries: int = 4, std: float = 0.5) -> SearchProblem:
    """Isotropic Gaussian data and Euler, of which `cosine` with the data's deviation is the best schedule: with
    s = std tan(a) a step multiplies by the cosine of its angle."""
    process: Process = EDM()
    return SearchProblem(
        Gaussian([0.0] * entries, std).denoiser(process),
        process,
        build_solver("euler"),
        noise(samples, entries, seed=1),
        build_schedule("cosine", process, 200, t_max=80.0, t_min=0.002, scale=std),
        teacher_solver=build_solver("heun"),
    )


@pytest.mark.parametrize("steps", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_it_finds_the_best_schedule_of_a_gaussian(steps: int) -> None:
    problem = gaussian_problem(samples=100)
    found = LD3().search(problem, [steps])
    best = build_schedule("cosine", EDM(), steps, t_max=80.0, t_min=0.002, scale=0.5)
    start = build_schedule("logsnr", EDM(), steps, t_max=80.0, t_min=0.002)

    def missed(schedule: Schedule) -> float:
        return float(((schedule.times / 0.5).atan() - (best.times / 0.5).atan()).abs().max())

    assert missed(found.schedules[steps]) < 0.01 < 0.2 < missed(start)
    validation = found.evidence["validation"][steps]
    assert len(validation) == 1 + 7 * 25
    assert min(validation) < 0.4 * validation[0]
    assert found.schedules[steps].told_times is None


def naive(problem: SearchProblem, goal: Tensor, n: int, seed: int) -> tuple[Tensor, list[float], Tensor]:
    """One round of the first phase in mode "lambda", as released but for validation noise that stays: the best times,
    the validation losses, and the noise of the training samples."""
    half = len(goal) // 2
    params1 = torch.ones(n + 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.RMSprop([params1], lr=5e-3, momentum=0.9)
    latents, original = problem.noise[:half].clone(), problem.noise[:half]
    radius = 0.001 * goal[0].numel() / n**2
    grid = GapSchedules(problem.teacher, "lambda")

    def losses(latent: Tensor, index: Tensor) -> Tensor:
        times, _ = published(grid, params1, torch.zeros(n + 1, dtype=torch.float64))
        x = latent * times[0]
        for t, t_next in pairwise(times):
            denoised = problem.denoiser(x, t.expand(len(x)))
            x = denoised + t_next / t * (x - denoised)
        return (x - goal[index]).square().mean(1)

    def validate() -> float:
        index = torch.arange(half, len(goal))
        return float(losses(problem.noise[index], index).mean().detach())

    validation, best = [validate()], params1.detach().clone()
    for index in torch.randperm(half, generator=torch.Generator().manual_seed(seed)).split(2):
        latent = latents[index].clone().requires_grad_()
        before = losses(latent, index)
        before.mean().backward()
        torch.nn.utils.clip_grad_norm_(params1, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        validation.append(validate())
        if validation[-1] < min(validation[:-1]):
            best = params1.detach().clone()
        moved = latent.detach() - 12 / n * latent.grad  # type: ignore[operator]
        for k in range(len(index)):
            away = moved[k] - original[index[k]]
            if away.norm() > radius:
                moved[k] = original[index[k]] + radius * away / away.norm()
        after = losses(moved, index)
        for k in range(len(index)):
            if after[k] < before[k]:
                latents[index[k]] = moved[k]
    times, _ = published(grid, best, torch.zeros(n + 1, dtype=torch.float64))
    return times, validation, latents


def test_a_round_is_that_of_a_naive_programme() -> None:
    problem = replace(mixture_problem("edm", samples=21, teacher_steps=30), teacher_solver=build_solver("heun"))
    goal = sample(problem.denoiser, problem.teacher, problem.walker, problem.noise)
    times, validation, latents = naive(problem, goal, 4, seed=3)
    chosen: dict[str, Any] = {"first_rounds": 1, "second_rounds": 0, "patience": 100, "seed": 3}
    found = LD3(**chosen).search(problem, [4])
    torch.testing.assert_close(found.schedules[4].times, times, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.evidence["validation"][4], validation, rtol=1e-9, atol=0)
    moved = int((latents != problem.noise[:10]).any(1).sum())
    assert moved > 0
    assert f"the noise of {moved} training samples moved" in found.evidence["decisions"][0]
    second = LD3(**{**chosen, "first_rounds": 0, "second_rounds": 1}).search(problem, [4])
    assert torch.equal(second.schedules[4].times, found.schedules[4].times)  # without told times the phases are one


@settings(deadline=None)
@given(away=st.floats(0, 1e3), radius=st.floats(1e-6, 10), seed=st.integers(0, 2**20))
def test_the_ball(away: float, radius: float, seed: int) -> None:
    centres, direction = noise(3, 2, 4, seed=seed), noise(3, 2, 4, seed=seed + 1)
    x = centres + away * direction
    kept = into_ball(x, centres, radius)
    for k in range(3):
        distance = float((x[k] - centres[k]).norm())
        assert float((kept[k] - centres[k]).norm()) == pytest.approx(min(distance, radius), rel=1e-6, abs=1e-12)
        torch.testing.assert_close((kept[k] - centres[k]) * distance, (x[k] - centres[k]) * min(distance, radius))


class Starts(Watched):
    """Remembers the states that walks begin with."""

    def __init__(self, denoiser: Callable[..., Tensor], t_first: float) -> None:
        super().__init__(denoiser)
        self.t_first, self.starts = t_first, list[Tensor]()

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        if t[0].item() == self.t_first:
            self.starts.append(x.detach() / self.t_first)
        return super().__call__(x, t, cond)


@pytest.mark.parametrize("ball", [0.0, 1e-3, 0.5])
def test_noise_moves_within_its_ball_and_validation_noise_not_at_all(ball: float) -> None:
    problem = gaussian_problem(samples=12)
    starts = Starts(problem.denoiser, 80.0)
    LD3(ball=ball, ball_rate=1e4).search(replace(problem, denoiser=starts), [3])
    begun = torch.cat(starts.starts)
    distances = torch.cdist(begun, problem.noise)
    least, nearest = distances.min(1)
    assert float(least.max()) <= ball * 4 / 3**2 + 1e-9
    assert float(least[nearest >= 6].max()) <= 1e-12
    if ball:  # the rate is so large that moves go to the edge
        assert float(least[nearest < 6].max()) == pytest.approx(ball * 4 / 3**2)


@pytest.mark.slow
def test_told_times_are_learned_in_the_second_phase() -> None:
    """On Gaussian data every step of Euler shrinks too much. A network that is told less noise removes less."""
    problem = gaussian_problem()
    chosen: dict[str, Any] = {"told_rate": 5.0, "told_times": True}
    plain, first, told = (
        LD3(**some).search(problem, [4]) for some in ({}, {**chosen, "first_rounds": 7, "second_rounds": 0}, chosen)
    )
    assert first.schedules[4].told_times is None
    assert torch.equal(first.schedules[4].times, plain.schedules[4].times)
    schedule = told.schedules[4]
    assert schedule.told_times is not None
    apart = schedule.told_times.log() - schedule.times[:-1].log()
    assert apart[0] == 0
    assert float(apart[1:].max()) < 0
    assert float(apart.abs().max()) <= 0.5 * float((-schedule.times.log().diff()).min()) + 1e-9
    assert min(told.evidence["validation"][4]) < 0.5 * min(plain.evidence["validation"][4])


def test_the_result_is_the_best_of_all_validations() -> None:
    problem = mixture_problem("flow", samples=30, teacher_steps=40)
    found = LD3(told_times=True, rate=0.05).search(problem, [5])
    goal = sample(problem.denoiser, problem.teacher, problem.walker, problem.noise)[15:]
    ends = sample(problem.denoiser, found.schedules[5], problem.solver, problem.noise[15:])
    validation = found.evidence["validation"][5]
    assert float((ends - goal).square().mean()) == pytest.approx(min(validation), rel=1e-9)
    assert min(validation) < validation[0]
    assert validation[-1] > min(validation)  # so that the best is not merely the last


def test_training_stops_where_nothing_gets_better() -> None:
    """For two steps, uniform log-SNR is the best schedule of data with the deviation sqrt(t_max t_min)."""
    problem = gaussian_problem(samples=8, std=(80.0 * 0.002) ** 0.5)
    chosen: dict[str, Any] = {"patience": 1, "decay": 0.1}
    for first_rounds, second_rounds in ((0, 50), (50, 0)):
        found = LD3(first_rounds=first_rounds, second_rounds=second_rounds, **chosen).search(problem, [2])
        made = len(found.evidence["validation"][2]) - 1
        if second_rounds:
            assert made < 50
        else:  # the first phase does not stop, as released
            assert made == 50 * 2
        assert f"{made} optimiser steps" in found.evidence["decisions"][0]
        assert float(found.schedules[2].times[1]) == pytest.approx(0.4, rel=1e-3)


def test_it_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    problem = mixture_problem("vp", samples=12, teacher_steps=12)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    few: dict[str, Any] = {"first_rounds": 2, "second_rounds": 1}
    first = LD3(**few).search(problem, [3, 5])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert LD3(**few).search(problem, [3, 5]).schedules == first.schedules
    assert LD3(**few).search(problem, [5]).schedules[5] == first.schedules[5]  # each from a start of its own
    assert LD3(**few, seed=1).search(problem, [5]).schedules != {5: first.schedules[5]}


@pytest.mark.parametrize("chosen", [{}, {"ball": 0.0}, {"batch": 1, "validate_every": 3}, {"told_times": True}])
def test_evaluations_are_those_of_the_plan(chosen: dict[str, Any]) -> None:
    problem = mixture_problem("edm", samples=7, teacher_steps=9)
    watched = Watched(problem.denoiser)
    problem = replace(problem, denoiser=watched, teacher_solver=build_solver("heun"))
    found = LD3(**chosen).search(problem, [1, 2, 4])
    planned = LD3(**chosen).evaluations(problem, [1, 2, 4])
    assert found.evaluations == sum(watched.batches) == planned.count
    assert not planned.exact
    assert torch.equal(found.schedules[1].times, problem.teacher.times[[0, -1]])
    assert found.evidence["decisions"][0] == "1 step: nothing to learn"
    assert f"{7 * 3 * 4} evaluations were followed backwards" in found.evidence["decisions"][2]


@pytest.mark.parametrize("told_times", [False, True])
def test_a_network_without_trainable_weights_is_learned_through(told_times: bool) -> None:
    problem = replace(unet_problem(torch.float32, samples=6, teacher_steps=12), solver=build_solver("dpmpp_2m"))
    with torch.no_grad():  # whatever the caller does
        found = LD3(told_times=told_times).search(problem, [4])
    validation = found.evidence["validation"][4]
    assert min(validation) < validation[0]
    assert (found.schedules[4].told_times is not None) == told_times


def test_what_was_learned_is_kept(tmp_path: Path) -> None:
    problem = mixture_problem("edm", samples=6, teacher_steps=9)
    watched = Watched(problem.denoiser)
    cache = Cache(StoredWorkers(ShardStore(tmp_path), {"model": "mixture"}))
    kept = replace(problem, denoiser=watched, cache=cache)
    first, again = (LD3(told_times=True, told_rate=5.0).search(kept, [3]) for _ in range(2))
    assert sum(watched.batches) == first.evaluations == again.evaluations
    assert first.schedules == again.schedules == LD3(told_times=True, told_rate=5.0).search(problem, [3]).schedules
    other = LD3(rate=1e-3).search(kept, [3])
    assert other.schedules != first.schedules


def test_modes() -> None:
    for process, mode in (("edm", "lambda"), ("vp", "time"), ("flow", "time")):
        problem = mixture_problem(process, samples=4, teacher_steps=6)
        assert LD3(first_rounds=1, second_rounds=0).search(problem, [2]).schedules[2].metadata["mode"] == mode
    finite = mixture_problem("flow", samples=4, teacher_steps=6)
    finite = replace(finite, teacher=build_schedule("time_uniform", Flow(), 6, t_max=0.99, t_min=0.01))
    assert LD3(first_rounds=1, second_rounds=0).search(finite, [2]).schedules[2].metadata["mode"] == "lambda"


def test_what_cannot_be_asked_is_refused() -> None:
    problem = mixture_problem("flow", samples=4, teacher_steps=6)
    with pytest.raises(ValueError, match=r"infinite at one of them, 1 or 0; take mode 'time'"):
        LD3("lambda").check(problem, [3])
    edm = mixture_problem("edm", samples=4, teacher_steps=6)
    clean = replace(edm, teacher=build_schedule("edm", EDM(), 6, t_max=80.0, t_min=0.002, final="zero"))
    with pytest.raises(ValueError, match=r"ends at a positive level \(teacher.final=t_min\)"):
        LD3().check(clean, [3])
    LD3("time").check(clean, [3])
    with pytest.raises(ValueError, match="deterministic"):
        LD3().check(replace(edm, solver=build_solver("ddim_stochastic")), [3])
    with pytest.raises(ValueError, match=r"at least 4, got 3 \(search.samples\)"):
        LD3().check(mixture_problem("edm", samples=3, teacher_steps=6), [3])
    LD3().check(replace(edm, solver=build_solver("heun")), [3])
    with pytest.raises(ValueError, match="two evaluations"):
        LD3(told_times=True).check(replace(edm, solver=build_solver("heun")), [3])
    refused: list[tuple[dict[str, Any], str]] = [
        ({"mode": "sigma"}, "mode must be"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"ball": -1.0}, "ball must be at least 0"),
        ({"rate": math.inf}, "rate must be positive and finite, got inf"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"win_rate": 0.6}, "win_rate must be from 0 to 0.5, got 0.6"),
    ]
    for chosen, message in refused:
        with pytest.raises(ValueError, match=message):
            LD3(**chosen)


@pytest.mark.parametrize("wrapper", [torch.no_grad(), torch.inference_mode(), "detach"])
def test_a_denoiser_without_a_gradient_is_refused(wrapper: Any) -> None:
    problem = mixture_problem("edm", samples=4, teacher_steps=6)

    def without(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        if wrapper == "detach":
            return problem.denoiser(x, t, cond).detach()
        with wrapper:
            return problem.denoiser(x, t, cond)

    with pytest.raises(ModelError, match="none flows through this one"):
        LD3().search(replace(problem, denoiser=without), [3])


def test_a_denoiser_that_rounds_its_time_has_no_told_times() -> None:
    problem = mixture_problem("edm", samples=4, teacher_steps=6)

    def rounding(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return problem.denoiser(x, t.detach(), cond)

    blind = replace(problem, denoiser=rounding)
    LD3().search(blind, [3])
    with pytest.raises(ModelError, match="take told_times=false"):
        LD3(told_times=True).search(blind, [3])
