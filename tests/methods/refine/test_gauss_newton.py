"""Levenberg-Marquardt against problems whose best schedule is known, and the guard of the selection samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import PROCESSES, mixture_problem, noise
from torch import Tensor

from optsteps.denoisers import CountedDenoiser
from optsteps.methods import SearchProblem
from optsteps.methods.nearness import Linearised, Nearness, decibels
from optsteps.methods.refine.coordinates import FreeStartCoordinates, GapCoordinates, WeightCoordinates
from optsteps.methods.refine.gauss_newton import Refined, Secant, _descent, _geometric_mean, _step, refined
from optsteps.metrics.statistics import spread
from optsteps.models.analytic import Gaussian, GaussianMixture
from optsteps.sampling import sample
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import Multistep, build_solver
from optsteps.storage.workers import ALONE

# more entries than steps, so that no sample's error can be brought to 0 by itself
ENTRIES = 12
STEPS = 5


def mixture() -> GaussianMixture:
    return GaussianMixture(noise(4, ENTRIES, seed=3), torch.tensor([0.1, 0.2, 0.4, 0.3]))


def problem_of(process: str, teacher: Schedule, solver: str = "euler", samples: int = 12) -> SearchProblem:
    return replace(
        mixture_problem(process, 1, 2),
        denoiser=mixture().denoiser(PROCESSES[process]),
        noise=noise(samples, ENTRIES),
        solver=build_solver(solver),
        teacher=teacher,
    )


def between(process: str, family: str, steps: int = STEPS, **parameters: float) -> Schedule:
    clock = PROCESSES[process]
    return build_schedule(family, clock, steps, *clock.time_of_noise_level([20.0, 0.05]).tolist(), **parameters)


def on(problem: SearchProblem, first: int, end: int) -> Nearness:
    counted = CountedDenoiser(problem.denoiser)
    return Nearness(replace(problem, noise=problem.noise[first:end], denoiser=counted), ALONE)


def halves(problem: SearchProblem) -> tuple[Nearness, list[Nearness]]:
    """The fit samples, and the selection samples in one part."""
    half = len(problem.noise) // 2
    return on(problem, 0, half), [on(problem, half, 2 * half)]


def refine(problem: SearchProblem, start: Schedule, rounds: int) -> Refined:
    return refined(GapCoordinates(start), *halves(problem), rounds=rounds)


def levels(problem: SearchProblem, schedules: Sequence[Schedule]) -> Tensor:
    """-10 log10 of the mean squares [C, B], by `sample` alone."""
    goal = sample(problem.denoiser, problem.teacher, problem.walker, problem.noise)
    found = [sample(problem.denoiser, schedule, problem.solver, problem.noise) for schedule in schedules]
    return -10 * torch.stack([(end - goal).square().mean(1) for end in found]).log10()


# --- known optima


@pytest.mark.parametrize("family", ["time_uniform", "time_quadratic"])
@pytest.mark.parametrize("process", PROCESSES)
def test_a_teacher_of_as_many_steps_is_found(process: str, family: str) -> None:
    """Its own times are the best there are: nothing is missed there, so the last rounds converge quadratically.

    Some other starts, such as edm and logsnr, end at a local optimum."""
    best = between(process, "cosine", scale=0.7)
    found = refine(problem_of(process, best), between(process, family), rounds=40)
    torch.testing.assert_close(found.schedule.noise_levels.log(), best.noise_levels.log(), rtol=0, atol=1e-6)
    assert found.gain.low > 50


@pytest.mark.parametrize("start", ["edm", "time_uniform", 0])
@pytest.mark.parametrize("process", PROCESSES)
def test_gaussian_data_get_the_times_of_the_closed_form(process: str, start: str | int) -> None:
    """For Gaussian data of deviation s, Euler's best times are uniform in arctan(sigma / s) (AYS, Theorem 3.1).

    There every sample misses by a multiple of itself, so the products of first derivatives have rank 1 and vanish at
    the optimum, while much is still missed: the second derivatives are all learned from the change of the gradient.
    """
    data = Gaussian(torch.zeros(ENTRIES), 0.5)
    best = between(process, "cosine", scale=0.5)
    problem = problem_of(process, between(process, "cosine", steps=100, scale=0.5))
    problem = replace(problem, denoiser=data.denoiser(PROCESSES[process]))
    begun = between(process, start) if isinstance(start, str) else drawn(best, start)
    found = refined(GapCoordinates(begun, distance=1e-6), *halves(problem), rounds=60, least_gain=0.0)
    torch.testing.assert_close(found.schedule.noise_levels.log(), best.noise_levels.log(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["edm", "logsnr", "cosine"])
@pytest.mark.parametrize("process", PROCESSES)
def test_a_free_start_comes_as_near_as_a_fixed_one(process: str, family: str) -> None:
    """It begins at the bound of its first time, which is no hindrance to the other times."""
    problem = problem_of(process, between(process, "cosine", steps=60))
    start, (fit, held) = between(process, family), halves(problem)
    highest = float(problem.teacher.noise_levels[0])
    fixed, free = (
        refined(some, fit, held, rounds=8) for some in (GapCoordinates(start), FreeStartCoordinates(start, highest))
    )
    assert max(float(one.noise_levels[0]) for one in free.iterates) <= highest * (1 + 1e-9)
    fixed_level, free_level = decibels(fit.errors([fixed.iterates[-1], free.iterates[-1]])).mean(1)
    assert free_level > fixed_level - 0.3


def test_an_incumbent_stays_where_what_came_of_another_start_is_not_better() -> None:
    problem = problem_of("edm", between("edm", "cosine", steps=60))
    start, fit, held = between("edm", "time_uniform"), *halves(problem)
    best = refined(GapCoordinates(start), fit, held, rounds=30).schedule
    for incumbent, taken in ((best, False), (between("edm", "time_quadratic"), True)):
        found = refined(GapCoordinates(start), fit, held, rounds=3, incumbent=incumbent)
        assert found.iterates[:2] == [incumbent, start]
        assert found.taken == taken
        assert (found.schedule is incumbent) != taken
    assert refined(GapCoordinates(start), fit, held, rounds=0, incumbent=start).iterates == [start]


def test_no_sample_of_few_entries_is_brought_to_0_alone() -> None:
    """With two entries a sample, and more numbers, a walk can end where the teacher's does: for one sample."""
    data = GaussianMixture(noise(4, 2, seed=3), torch.tensor([0.1, 0.2, 0.4, 0.3]))
    problem = replace(problem_of("edm", between("edm", "cosine", steps=60), "dpmpp_2m"), noise=noise(12, 2))
    problem = replace(problem, denoiser=data.denoiser(PROCESSES["edm"]))
    assert isinstance(problem.solver, Multistep)
    fit, coordinates = on(problem, 0, 12), WeightCoordinates(GapCoordinates(between("edm", "logsnr")), problem.solver)
    zeros = torch.zeros(coordinates.size, dtype=torch.float64)
    *_, last = _descent(coordinates, zeros, fit, None, 20, 0.0, 0.0)
    levels = decibels(fit.errors([coordinates.schedule(last)]))[0]
    assert float(levels.max() - levels.median()) < 60


def test_a_walk_that_diverged_does_not_count_in_the_geometric_mean() -> None:
    assert _geometric_mean(torch.tensor([1.0, 4.0, math.inf], dtype=torch.float64)) == pytest.approx(2)
    assert _geometric_mean(torch.tensor([math.inf], dtype=torch.float64)) == 0


def drawn(schedule: Schedule, seed: int) -> Schedule:
    """Times between the same ends, at random."""
    levels = schedule.noise_levels.log()
    places = torch.rand(schedule.steps - 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    inner = levels[-1] + (levels[0] - levels[-1]) * places.sort(descending=True).values
    times = schedule.times.clone()
    times[1:-1] = schedule.process.time_of_noise_level(inner.exp())
    return replace(schedule, times=times)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_a_secant_says_how_the_gradient_has_changed(seed: int) -> None:
    """With the products it is symmetric and maps every step to the change over it, and of a quadratic function, whose
    products are known in part, it learns the rest (Dennis, Gay and Welsch 1981, equation 3.1)."""
    size, generator = 4, torch.Generator().manual_seed(seed)
    whole, part = torch.randn(2, size, size, dtype=torch.float64, generator=generator)
    hessian, products = whole @ whole.T + torch.eye(size, dtype=torch.float64), part @ part.T
    secant = Secant(size)
    for step in torch.randn(size, size, dtype=torch.float64, generator=generator):
        secant.learn(step, hessian @ step, products)
        torch.testing.assert_close(secant.estimate, secant.estimate.T)
        torch.testing.assert_close((products + secant.estimate) @ step, hessian @ step, rtol=1e-6, atol=1e-6)


def test_a_secant_is_trusted_as_long_as_it_foretells_better() -> None:
    secant, one = Secant(1), torch.ones(1, dtype=torch.float64)
    secant.learn(one, 3 * one, torch.ones(1, 1, dtype=torch.float64))
    products, gradient = one[:, None], -2 * one
    assert secant.estimate == 2  # a fall of 0.5 is foretold with it, one of 1.5 without
    secant.judge(one, gradient, products, lowered=1.4)
    assert not secant.trusted
    secant.judge(one, gradient, products, lowered=0.6)
    assert secant.trusted


def test_one_undamped_step_solves_what_is_linear() -> None:
    """The ends are linear in the weights of the last step."""
    problem = problem_of("edm", between("edm", "cosine", steps=60), "dpmpp_3m", samples=4)
    start, solver = between("edm", "logsnr"), problem.solver
    assert isinstance(solver, Multistep)
    coordinates = WeightCoordinates(GapCoordinates(start), solver)
    zeros = torch.zeros(coordinates.size, dtype=torch.float64)
    near, distances = coordinates.near(zeros)
    linear = on(problem, 0, 4).linearised(coordinates.schedule(zeros), near[-2:], distances[-2:], added=None)
    numbers = zeros.clone()
    numbers[-2:] = _step(linear.products, linear.gradient)

    # by least squares: with c the shares of the step's length, end(c) = end(0) + length sum_k c_k (D_k - D_0)
    seen: list[Tensor] = []

    def watched(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        seen.append(problem.denoiser(x, t, cond))
        return seen[-1]

    end = sample(watched, start, solver, problem.noise)
    goal = sample(problem.denoiser, problem.teacher, solver, problem.noise)
    columns = float(solver.step_lengths(start)[-1]) * torch.stack([seen[-2] - seen[-1], seen[-3] - seen[-1]], 2)
    solution = torch.linalg.lstsq(columns.reshape(-1, 2), (goal - end).reshape(-1, 1)).solution[:, 0]
    torch.testing.assert_close(numbers[-2:], solution, rtol=1e-5, atol=1e-7)
    reached = sample(problem.denoiser, coordinates.schedule(numbers), solver, problem.noise)
    torch.testing.assert_close(reached, end + columns @ solution, rtol=1e-6, atol=1e-7)


# --- descent


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("process", PROCESSES)
def test_every_iterate_is_better_on_the_fit_samples(process: str, solver: str) -> None:
    problem = problem_of(process, between(process, "cosine", steps=60), solver)
    start = between(process, "time_uniform" if process == "flow" else "logsnr")
    found = refine(problem, start, rounds=6)
    fit = levels(replace(problem, noise=problem.noise[:6]), found.iterates).mean(1)
    assert len(found.iterates) > 2
    assert bool((fit.diff() > 0).all())
    held = levels(replace(problem, noise=problem.noise[6:]), found.iterates)
    assert found.held == pytest.approx(held.mean(1).tolist())
    best = int(held.mean(1).argmax())
    gain = spread(held[best] - held[0], 0.8)
    assert (found.gain.value, found.gain.low) == pytest.approx((gain.value, gain.low))
    assert found.schedule is (found.iterates[best] if gain.low > 0 else start)


def test_corrections_of_weights_are_never_worse_on_the_fit_samples_and_smaller_under_a_larger_ridge() -> None:
    problem = problem_of("edm", between("edm", "cosine", steps=60), "dpmpp_2m")
    solver, fit = problem.solver, on(problem, 0, 6)
    assert isinstance(solver, Multistep)
    coordinates = WeightCoordinates(GapCoordinates(between("edm", "logsnr")), solver)
    zeros, sizes = torch.zeros(coordinates.size, dtype=torch.float64), []
    for ridge in (100.0, 0.1):
        path = list(_descent(coordinates, zeros, fit, None, 6, ridge, 0.05))
        corrected = [numbers * coordinates.corrections for numbers in path]
        sizes.append(float(corrected[-1].norm()))
        of_all = levels(replace(problem, noise=problem.noise[:6]), [coordinates.schedule(n) for n in (zeros, *path)])
        penalties = [0.0, *(20 / math.log(10) * ridge * float(numbers.square().sum()) for numbers in corrected)]
        assert bool(((of_all.mean(1) - torch.tensor(penalties)).diff() > 0).all())
    assert 0 < sizes[0] < 0.2 * sizes[1]


def test_a_strong_ridge_draws_corrections_back() -> None:
    problem = problem_of("edm", between("edm", "cosine", steps=60), "dpmpp_2m")
    assert isinstance(problem.solver, Multistep)
    coordinates = WeightCoordinates(GapCoordinates(between("edm", "logsnr")), problem.solver)
    numbers = 0.3 * coordinates.corrections
    [after] = _descent(coordinates, numbers, on(problem, 0, 6), None, 1, 1e4, 0.05)
    assert (after * coordinates.corrections).norm() < 0.05 * numbers.norm()


@pytest.mark.parametrize("process", PROCESSES)
def test_a_start_that_misses_nothing_stays(process: str) -> None:
    start = between(process, "logsnr")
    found = refine(problem_of(process, start), start, rounds=3)
    assert found.schedule is start
    assert found.iterates == [start]


def test_where_the_network_ignores_its_input_the_start_stays() -> None:
    """Then every schedule has the same samples, and the linearisation is 0."""
    problem = replace(
        problem_of("edm", between("edm", "edm", steps=9)), denoiser=lambda x, t, cond=None: torch.zeros_like(x)
    )
    schedules = [replace(s, times=[*s.times.tolist()[:-1], 0.0]) for s in (between("edm", "edm"), problem.teacher)]
    found = refine(replace(problem, teacher=schedules[1]), schedules[0], rounds=3)
    assert found.schedule is schedules[0]


@pytest.mark.parametrize(("steps", "final"), [(2, "t_min"), (1, "t_min"), (3, "zero")])
def test_few_steps(steps: int, final: Any) -> None:
    process = PROCESSES["vp"]
    teacher = build_schedule("time_uniform", process, 40, 999.0, 0.0, final="zero")
    problem = problem_of("vp", teacher)
    start = build_schedule("time_uniform", process, steps, 999.0, 0.0, final=final)
    found = refine(problem, start, rounds=4)
    assert found.schedule.steps == steps
    assert found.held[0] <= max(found.held)
    assert (len(found.iterates) > 1) == (steps > 1)


def test_a_round_in_which_nothing_was_better_is_not_linearised_again() -> None:
    problem = problem_of("edm", between("edm", "cosine", steps=60))
    coordinates = GapCoordinates(between("edm", "logsnr"))

    @dataclass(frozen=True)
    class Blind(Nearness):
        """Whatever is tried is as good as what there is."""

        linearisations: list[Schedule] = field(default_factory=list)

        def errors(self, schedules: Sequence[Schedule], index: Tensor | None = None) -> Tensor:
            return torch.ones(len(schedules), 3, dtype=torch.float64)

        def linearised(self, schedule: Schedule, *rest: Any, **options: Any) -> Linearised:
            self.linearisations.append(schedule)
            return super().linearised(schedule, *rest, **options)

    fit = Blind(on(problem, 0, 3).problem, ALONE)
    found = refined(coordinates, fit, [on(problem, 3, 6)], rounds=20)
    assert found.iterates == [coordinates.start]
    assert fit.linearisations == [coordinates.start]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_the_direction_lowers_the_mean_logarithm_of_the_errors(process: str, solver: str) -> None:
    problem = problem_of(process, between(process, "cosine", steps=60), solver)
    start = between(process, "logsnr")
    goal = sample(problem.denoiser, problem.teacher, problem.solver, problem.noise)
    times = start.times.clone().requires_grad_()
    end = sample(problem.denoiser, replace(start, times=times), problem.solver, problem.noise)
    (end - goal).square().mean(1).log().mean().backward()  # type: ignore[no-untyped-call]
    coordinates = GapCoordinates(start)
    zeros = torch.zeros(coordinates.size, dtype=torch.float64)
    found = on(problem, 0, 12).linearised(start, *coordinates.near(zeros), added=0.0)
    # the derivative of a time in the clock, by the process's own formulas
    places = start.noise_levels.atan()[1:-1].clone().requires_grad_()
    start.process.time_of_noise_level(places.tan()).sum().backward()  # type: ignore[no-untyped-call]
    assert times.grad is not None
    assert places.grad is not None
    expected = times.grad[1:-1] * places.grad
    cosine = torch.nn.functional.cosine_similarity(found.gradient, expected, dim=0)
    assert cosine > 0.99
    torch.testing.assert_close(2 * found.gradient / 12, expected, rtol=0.1, atol=0.05 * float(expected.abs().max()))


# --- the guard


@dataclass(frozen=True)
class Told:
    """Selection samples with the errors, in dB better than the start's, that are told for whatever is tried."""

    gains: Sequence[float]
    start: Schedule
    asked: list[int] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return len(self.gains)

    def errors(self, schedules: Sequence[Schedule], index: Tensor | None = None) -> Tensor:
        self.asked.append(len(schedules))
        gains = torch.tensor(self.gains, dtype=torch.float64)
        return torch.stack(
            [
                10 ** (-(0 if one is self.start else gains) / 10) * torch.ones(len(gains), dtype=torch.float64)
                for one in schedules
            ]
        )


def guarded(*parts: Sequence[float]) -> tuple[Refined, list[Told]]:
    problem = problem_of("edm", between("edm", "cosine", steps=60))
    start = between("edm", "logsnr")
    held = [Told(gains, start) for gains in parts]
    return refined(GapCoordinates(start), on(problem, 0, 6), held, rounds=3), held  # type: ignore[arg-type]


def test_the_start_stays_where_the_selection_samples_disagree() -> None:
    noisy = [3.0, -2.5, 2.0, -2.0, 0.5, -0.5]
    found, held = guarded(noisy, noisy, noisy)
    assert len(found.iterates) > 1
    assert found.schedule is found.iterates[0]
    assert 0 in found.gain
    assert found.samples == 18  # nothing was clear, so all were asked
    assert [len(part.asked) for part in held] == [2, 1, 1]


def test_the_start_stays_where_all_selection_samples_are_worse() -> None:
    found, held = guarded([-3.0, -2.5, -3.5], [1.0] * 9)
    assert found.schedule is found.iterates[0]
    assert (found.samples, found.gain.value) == (3, 0.0)
    assert not held[1].asked


def test_the_best_replaces_the_start_as_soon_as_it_is_clearly_better() -> None:
    found, held = guarded([0.9, 1.0, 1.1, 1.0], [1.0] * 9)
    assert found.schedule is not found.iterates[0]
    assert found.gain.value == pytest.approx(1.0)
    assert found.samples == 4
    assert not held[1].asked


def test_more_selection_samples_are_asked_where_the_first_are_unclear() -> None:
    first, second = [3.0, -1.0], [1.0, 1.1, 0.9, 1.0, 1.0, 0.9, 1.1, 1.0, 1.0, 1.0]
    found, held = guarded(first, second, [1.0] * 20)
    gain = spread(torch.tensor([*first, *second], dtype=torch.float64), 0.8)
    assert (found.gain.low, found.gain.high) == pytest.approx((gain.low, gain.high))
    assert gain.low > 0
    assert found.schedule is not found.iterates[0]
    assert found.samples == 12
    assert not held[2].asked


def test_a_walk_that_diverged_is_the_worst_and_ends_nothing() -> None:
    found, _ = guarded([-math.inf, 1.0, 1.0])
    assert found.schedule is found.iterates[0]
