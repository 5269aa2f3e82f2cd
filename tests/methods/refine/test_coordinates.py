"""The numbers that schedules are made of: their zeros, their derivatives, and what they can never spoil."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import PROCESSES, noise, three_gaussians
from torch import Tensor

from optsteps.methods.refine.coordinates import (
    Coordinates,
    FreeStartCoordinates,
    GapCoordinates,
    ToldTimeCoordinates,
    WeightCoordinates,
)
from optsteps.processes import VP
from optsteps.sampling import sample
from optsteps.schedules import Schedule
from optsteps.solvers import Multistep, build_solver

LEVELS = [12.0, 5.0, 2.0, 0.5, 0.06]
STARTS: dict[str, Schedule] = {
    **{name: Schedule(p.time_of_noise_level(LEVELS), p) for name, p in PROCESSES.items()},
    **{f"{name} to 0": Schedule(p.time_of_noise_level([*LEVELS, 0.0]), p) for name, p in PROCESSES.items()},
    "flow from 1": Schedule([1.0, 0.9, 0.5, 0.1, 0.0], PROCESSES["flow"]),
    # the last step leaves from the least noise level that there is
    "vp from its end": Schedule([999.0, 500.0, 100.0, 0.0, -1.0], PROCESSES["vp"]),
    "one step": Schedule([3.0, 0.0], PROCESSES["edm"]),
    "with orders": Schedule([3.0, 2.0, 1.0, 0.0], PROCESSES["edm"], [1, 2, 1], initial_scale=2.5),
}
SOLVERS: dict[str, Multistep] = {
    name: build_solver(name)  # type: ignore[misc]
    for name in ("euler", "dpmpp_2m", "dpmpp_3m", "ipndm", "deis", "unipc")
}
kinds = st.sampled_from(["gaps", "told", "weights"])
each_start = pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def clock(schedule: Schedule) -> Tensor:
    return schedule.noise_levels.atan()


def some_numbers(coordinates: Coordinates, size: float = 0.3) -> Tensor:
    return size * noise(coordinates.size, seed=1)


# --- gaps


@each_start
def test_zeros_are_the_start(start: Schedule) -> None:
    coordinates = GapCoordinates(start)
    assert coordinates.schedule(torch.zeros(coordinates.size, dtype=torch.float64)) == start
    assert not coordinates.corrections.any()


@pytest.mark.parametrize("name", sorted(set(STARTS) - {"one step", "vp from its end"}))
def test_near_differs_in_one_time_by_a_known_distance(name: str) -> None:
    coordinates = GapCoordinates(STARTS[name])
    numbers = some_numbers(coordinates)
    here = coordinates.schedule(numbers)
    near, distances = coordinates.near(numbers)
    assert len(near) == len(distances) == here.steps - 1
    for k, (schedule, distance) in enumerate(zip(near, distances, strict=True)):
        assert (schedule.times != here.times).nonzero().flatten().tolist() == [k + 1]
        moved = clock(schedule) - clock(here)
        torch.testing.assert_close(moved[k + 1], distance, rtol=1e-6, atol=0)
        gaps = -clock(here).diff()
        assert 0 < distance <= 0.011 * min(gaps[k], gaps[k + 1])


@pytest.mark.parametrize("name", sorted(set(STARTS) - {"one step", "vp from its end"}))
def test_derivatives_are_those_of_the_schedule(name: str) -> None:
    coordinates = GapCoordinates(STARTS[name])
    numbers, step = some_numbers(coordinates), 1e-5
    for k, column in enumerate(coordinates.derivatives(numbers).T):
        shift = torch.zeros_like(numbers)
        shift[k] = step
        ends = [clock(coordinates.schedule(numbers + sign * shift))[1:-1] for sign in (1, -1)]
        torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), column, rtol=1e-5, atol=1e-8)


def test_a_number_is_the_logarithm_of_a_gap_of_arctan() -> None:
    start = STARTS["edm"]
    gaps = -clock(GapCoordinates(start).schedule(torch.tensor([0.0, 0.4, 0.0, 0.0], dtype=torch.float64))).diff()
    was = -clock(start).diff()
    assert float((gaps[1] / gaps[0]) / (was[1] / was[0])) == pytest.approx(math.exp(0.4), rel=5e-3)


# --- a free start

HIGHEST = 40.0


@each_start
def test_zeros_of_a_free_start_are_the_start_with_its_scale(start: Schedule) -> None:
    coordinates = FreeStartCoordinates(start, HIGHEST)
    schedule = coordinates.schedule(torch.zeros(coordinates.size, dtype=torch.float64))
    assert schedule == replace(start, initial_scale=float(start.scale))
    assert not coordinates.corrections.any()


@pytest.mark.parametrize("name", sorted(set(STARTS) - {"vp from its end"}))
def test_near_a_free_start_one_time_or_the_scale_differs(name: str) -> None:
    coordinates = FreeStartCoordinates(STARTS[name], HIGHEST)
    numbers = some_numbers(coordinates, 0.1)
    here = coordinates.schedule(numbers)
    near, distances = coordinates.near(numbers)
    assert len(near) == len(distances) == here.steps + 1
    for k, (schedule, distance) in enumerate(zip(near[:-1], distances, strict=False)):
        assert (schedule.times != here.times).nonzero().flatten().tolist() == [k]
        moved = clock(schedule) - clock(here)
        torch.testing.assert_close(moved[k], distance, rtol=1e-6, atol=0)
        assert schedule.initial_scale == here.initial_scale
    assert torch.equal(near[-1].times, here.times)
    grown = math.log(float(near[-1].scale) / float(here.scale))
    assert grown == pytest.approx(float(distances[-1]), rel=1e-9)


@pytest.mark.parametrize("name", sorted(set(STARTS) - {"flow from 1", "vp from its end"}))
def test_derivatives_of_a_free_start_are_those_of_the_schedule(name: str) -> None:
    coordinates = FreeStartCoordinates(STARTS[name], 1e9)
    numbers, step = some_numbers(coordinates, 0.1), 1e-5
    for k, column in enumerate(coordinates.derivatives(numbers).T):
        shift = torch.zeros_like(numbers)
        shift[k] = step
        up, down = (coordinates.schedule(numbers + sign * shift) for sign in (1, -1))
        moved = torch.cat([(clock(up) - clock(down))[:-1], (up.scale / down.scale).log()[None]])
        torch.testing.assert_close(moved / (2 * step), column, rtol=1e-5, atol=1e-8)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(list(STARTS)), st.integers(0, 2**31), st.sampled_from([0.1, 3.0, 30.0, 1e6]))
def test_random_numbers_of_a_free_start_have_a_schedule(name: str, seed: int, size: float) -> None:
    start = STARTS[name]
    coordinates = FreeStartCoordinates(start, HIGHEST)
    numbers = size * noise(coordinates.size, seed=seed)
    numbers[-1] = numbers[-1].clamp(-3, 3)
    near, distances = coordinates.near(numbers)
    assert not bool((distances == 0).any())
    for schedule in (coordinates.schedule(numbers), *near):  # made, so its times are valid and fall
        assert schedule.steps == start.steps
        assert schedule.times[-1] == start.times[-1]
        assert schedule.noise_levels[0] <= max(HIGHEST, float(start.noise_levels[0])) * 1.01


# --- weights


@each_solver
@pytest.mark.parametrize("name", sorted(set(STARTS) - {"with orders"}))
def test_zeros_have_the_samples_of_the_solvers_own_weights(name: str, solver: Multistep) -> None:
    start = STARTS[name]
    for columns in (None, max(solver.memory, 1) + 1):
        coordinates = WeightCoordinates(GapCoordinates(start), solver, columns)
        schedule = coordinates.schedule(torch.zeros(coordinates.size, dtype=torch.float64))
        assert torch.equal(schedule.times, start.times)
        denoiser = three_gaussians().denoiser(start.process)
        ends = [sample(denoiser, one, solver, noise(4, 2)) for one in (start, schedule)]
        assert torch.equal(*ends)


@pytest.mark.parametrize("name", ["dpmpp_2m", "ipndm"])
def test_zeros_have_the_start_s_orders(name: str) -> None:
    start, solver = STARTS["with orders"], SOLVERS[name]
    coordinates = WeightCoordinates(GapCoordinates(start), solver)
    schedule = coordinates.schedule(torch.zeros(coordinates.size, dtype=torch.float64))
    denoiser = three_gaussians().denoiser(start.process)
    assert torch.equal(*(sample(denoiser, one, solver, noise(4, 2)) for one in (start, schedule)))


@each_solver
def test_a_step_corrects_by_what_it_remembers(solver: Multistep) -> None:
    """Step i, counted from 0, remembers i outputs, but for that of a flow's t = 1."""
    for name, forgotten in (("edm", 0), ("flow", 0), ("vp to 0", 0), ("flow from 1", 1)):
        start, columns = STARTS[name], max(solver.memory, 1)
        usable = [min(max(i - forgotten, 0), columns) for i in range(start.steps)]
        coordinates = WeightCoordinates(GapCoordinates(start), solver)
        assert coordinates.size == start.steps + sum(usable)
        assert coordinates.corrections.tolist() == [0.0] * start.steps + [1.0] * sum(usable)
        ones = torch.cat([torch.zeros(start.steps), torch.ones(sum(usable))]).double()
        weights = coordinates.schedule(ones).weights
        assert weights is not None
        changed = weights - solver.own_weights(start, columns)
        assert (changed != 0).sum(1).tolist() == usable
        solver.check(coordinates.schedule(ones))


@pytest.mark.parametrize("name", ["edm", "vp", "flow"])
@each_solver
def test_a_correction_is_a_share_of_the_steps_length(solver: Multistep, name: str) -> None:
    """The length is what a unit of the extrapolated quantity does to the step's end."""
    start = STARTS[name]
    process, t = start.process, start.times
    x, state = noise(1, 2), ()
    for i, length in enumerate(solver.step_lengths(start)):

        def end(quantity: float, i: int = i) -> Tensor:
            answer = torch.full_like(x, quantity)
            if solver.extrapolates == "eps":
                answer = (x - process.sigma(t[i]) * quantity) / process.alpha(t[i])
            euler = build_solver("euler").moves(start, x)[i]
            return euler(state, x, lambda *_: answer)[0]  # type: ignore[arg-type]

        torch.testing.assert_close(end(1.5) - end(0.5), torch.full_like(x, float(length)), rtol=1e-9, atol=1e-12)


def test_the_equal_steps_of_adams_and_bashforth_are_a_half_of_the_length() -> None:
    solver, start = build_solver("ipndm", order=2), STARTS["vp"]
    assert isinstance(solver, Multistep)
    share = solver.own_weights(start)[1:, 0] / solver.step_lengths(start)[1:]
    torch.testing.assert_close(share, torch.full_like(share, -0.5))


@each_solver
def test_derivatives_and_near_of_times_and_corrections(solver: Multistep) -> None:
    coordinates = WeightCoordinates(GapCoordinates(STARTS["flow from 1"]), solver)
    numbers, step = some_numbers(coordinates, 0.1), 1e-5
    here = coordinates.schedule(numbers)
    near, distances = coordinates.near(numbers)
    derivatives = coordinates.derivatives(numbers)
    times = here.steps - 1
    assert derivatives.shape == (len(near), coordinates.size)
    assert here.weights is not None
    lengths = solver.step_lengths(here)[:, None]

    def corrections(schedule: Schedule) -> Tensor:
        """As shares of the steps' lengths."""
        assert schedule.weights is not None
        return ((schedule.weights - solver.own_weights(replace(schedule, weights=None))) / lengths)[
            coordinates._usable  # the order of the numbers
        ]

    for k, (schedule, distance) in enumerate(zip(near, distances, strict=True)):
        if k < times:
            assert (schedule.times != here.times).nonzero().flatten().tolist() == [k + 1]
        else:
            assert torch.equal(schedule.times, here.times)
            moved = corrections(schedule) - corrections(here)
            expected = distance * torch.eye(len(moved), dtype=torch.float64)[k - times]
            torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-9)
    for k in range(coordinates.size):
        shift = torch.zeros_like(numbers)
        shift[k] = step
        ends = [coordinates.schedule(numbers + sign * shift) for sign in (1, -1)]
        moved = (clock(ends[0]) - clock(ends[1]))[1:-1] / (2 * step)
        torch.testing.assert_close(moved, derivatives[:times, k], rtol=1e-5, atol=1e-8)
    block = derivatives[times:, here.steps :]
    assert torch.equal(block, torch.eye(len(block), dtype=torch.float64))
    assert not derivatives[:times, here.steps :].any()
    assert not derivatives[times:, : here.steps].any()


# --- told times


@each_start
def test_zeros_tell_the_times_of_the_start(start: Schedule) -> None:
    coordinates = ToldTimeCoordinates(GapCoordinates(start))
    zeros = torch.zeros(coordinates.size, dtype=torch.float64)
    assert coordinates.schedule(zeros) == replace(start, told_times=start.times[:-1])
    told = replace(start, told_times=0.3 * (start.times[:-1] + start.times[1:]) + 0.3)
    assert ToldTimeCoordinates(GapCoordinates(told)).schedule(zeros) == told


@each_start
def test_a_correction_is_the_logarithm_of_the_share_of_the_noise_level(start: Schedule) -> None:
    coordinates = ToldTimeCoordinates(GapCoordinates(start))
    finite = start.noise_levels[:-1].isfinite()
    assert coordinates.size == start.steps + int(finite.sum())
    assert coordinates.corrections.tolist() == [0.0] * start.steps + [1.0] * int(finite.sum())
    numbers = torch.cat([0.1 * noise(start.steps, seed=2), torch.full((int(finite.sum()),), -0.2, dtype=torch.float64)])
    schedule = coordinates.schedule(numbers)
    assert torch.equal(schedule.times, GapCoordinates(start).schedule(numbers[: start.steps]).times)
    assert schedule.told_times is not None
    shares = (start.process.noise_level(schedule.told_times) / schedule.noise_levels[:-1])[finite]
    held = start.process.noise_level(schedule.told_times)[finite] == start.process.noise_level(start.process.t_positive)
    expected = torch.full_like(shares, math.exp(-0.2))
    torch.testing.assert_close(shares[~held], expected[~held], rtol=1e-9, atol=0)
    assert torch.equal(schedule.told_times[:-1][~finite[:-1]], start.times[:-2][~finite[:-1]])


def test_a_share_goes_on_from_that_of_the_start() -> None:
    start = replace(STARTS["edm"], told_times=1.1 * STARTS["edm"].times[:-1])
    coordinates = ToldTimeCoordinates(GapCoordinates(start))
    numbers = torch.cat([0.2 * noise(start.steps, seed=3), torch.full((start.steps,), 0.5, dtype=torch.float64)])
    schedule = coordinates.schedule(numbers)
    assert schedule.told_times is not None
    torch.testing.assert_close(schedule.told_times, 1.1 * math.exp(0.5) * schedule.times[:-1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", sorted(set(STARTS) - {"vp from its end"}))
def test_derivatives_and_near_of_times_and_told_times(name: str) -> None:
    coordinates = ToldTimeCoordinates(GapCoordinates(STARTS[name]))
    numbers, step = some_numbers(coordinates, 0.1), 1e-5
    here = coordinates.schedule(numbers)
    near, distances = coordinates.near(numbers)
    derivatives = coordinates.derivatives(numbers)
    times, finite = here.steps - 1, here.noise_levels[:-1].isfinite()
    assert derivatives.shape == (len(near), coordinates.size)

    def shares(schedule: Schedule) -> Tensor:
        """Logarithms of the told noise levels as shares of the steps' own."""
        assert schedule.told_times is not None
        return (schedule.process.noise_level(schedule.told_times) / schedule.noise_levels[:-1]).log()[finite]

    for k, (schedule, distance) in enumerate(zip(near, distances, strict=True)):
        moved = shares(schedule) - shares(here)
        if k < times:
            assert (schedule.times != here.times).nonzero().flatten().tolist() == [k + 1]
            torch.testing.assert_close(moved, torch.zeros_like(moved), rtol=0, atol=1e-9)
        else:
            assert torch.equal(schedule.times, here.times)
            expected = distance * torch.eye(len(moved), dtype=torch.float64)[k - times]
            torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-9)
    for k in range(coordinates.size):
        shift = torch.zeros_like(numbers)
        shift[k] = step
        ends = [coordinates.schedule(numbers + sign * shift) for sign in (1, -1)]
        moved = torch.cat([(clock(ends[0]) - clock(ends[1]))[1:-1], shares(ends[0]) - shares(ends[1])]) / (2 * step)
        torch.testing.assert_close(moved, derivatives[:, k], rtol=1e-5, atol=1e-8)


def test_weights_are_corrected_beside_told_times() -> None:
    start, solver = STARTS["edm"], SOLVERS["dpmpp_2m"]
    told = ToldTimeCoordinates(GapCoordinates(start))
    coordinates = WeightCoordinates(told, solver)
    assert coordinates.moved == "times and told times and weights"
    assert coordinates.corrections.tolist() == [0.0] * 4 + [1.0] * 4 + [1.0] * 3
    schedule = coordinates.schedule(some_numbers(coordinates, 0.1))
    assert schedule.weights is not None
    assert schedule.told_times is not None
    assert torch.equal(schedule.told_times, told.schedule(some_numbers(coordinates, 0.1)[:8]).told_times)


# --- whatever the numbers


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(list(STARTS)), st.integers(0, 2**31), st.sampled_from([0.1, 3.0, 30.0, 1e6]), kinds)
def test_random_numbers_have_a_schedule_between_the_same_ends(name: str, seed: int, size: float, kind: str) -> None:
    start, solver = STARTS[name], SOLVERS["dpmpp_3m"]
    coordinates: Coordinates = GapCoordinates(start)
    if kind != "gaps":
        coordinates = ToldTimeCoordinates(coordinates) if kind == "told" else WeightCoordinates(coordinates, solver)
    numbers = size * noise(coordinates.size, seed=seed)
    near, distances = coordinates.near(numbers)
    assert bool((distances > 0).all())
    for schedule in (coordinates.schedule(numbers), *near):  # made, so its times are valid and fall
        assert schedule.steps == start.steps
        assert torch.equal(schedule.times[[0, -1]], start.times[[0, -1]])
        assert schedule.initial_scale == start.initial_scale
        solver.check(schedule)
        if isinstance(start.process, VP) and start.ends_clean:
            assert schedule.times[-2] >= 0


@each_solver
def test_weights_go_on_from_those_of_the_start(solver: Multistep) -> None:
    """Zeros are the start with its weights, and a correction is a share beside theirs."""
    plain = WeightCoordinates(GapCoordinates(STARTS["edm"]), solver)
    start = plain.schedule(some_numbers(plain, 0.1))
    coordinates = WeightCoordinates(GapCoordinates(start), solver)
    zeros, corrections = torch.zeros(coordinates.size, dtype=torch.float64), some_numbers(coordinates, 0.1)
    corrections[: start.steps] = 0
    assert start.weights is not None
    same, moved = coordinates.schedule(zeros).weights, coordinates.schedule(corrections).weights
    assert same is not None
    assert moved is not None
    torch.testing.assert_close(same, start.weights, rtol=1e-13, atol=1e-13)
    shares = ((moved - same) / solver.step_lengths(start)[:, None]).flatten()
    torch.testing.assert_close(shares[shares != 0], corrections[start.steps :], rtol=1e-9, atol=1e-9)
