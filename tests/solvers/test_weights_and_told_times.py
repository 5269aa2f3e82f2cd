"""A walk with the weights and the told times of its schedule, against naive loops and the solvers' own weights."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optsteps import Schedule, build_schedule, sample
from optsteps.models.analytic import GaussianMixture
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.sampling import walk
from optsteps.solvers import SOLVERS, Denoise, Multistep, Solver, State, UniPC, build_solver
from optsteps.trajectories import Trajectories

MIXTURE = GaussianMixture([[0.0, 1.0], [1.5, -0.5], [-1.0, -1.0]], [0.5, 0.2, 0.3], [1.0, 2.0, 1.5])
NOISE = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PROCESSES: dict[str, Process] = {"edm": EDM(), "vp": VP.linear(), "flow": Flow()}
LEVELS = [12.0, 5.0, 2.0, 1.4, 0.5, 0.2, 0.06]
WALKS: dict[str, tuple[Process, list[float]]] = {
    **{name: (process, LEVELS) for name, process in PROCESSES.items()},
    **{f"{name} to level 0": (process, [*LEVELS, 0.0]) for name, process in PROCESSES.items()},
    "flow from t = 1 to 0": (Flow(), [math.inf, *LEVELS, 0.0]),
}
MULTISTEP = [
    name for name in SOLVERS if isinstance(build_solver(name), Multistep) and not build_solver(name).stochastic
]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "euler": [{}],
    "dpmpp_2m": [{}, {"kind": "heun", "lower_order_final": False}],
    "dpmpp_3m": [{}, {"corrected": True, "lower_order_final": False}],
    "ipndm": [{}, {"variable_step": True, "lower_order_final": True}],
    "deis": [{}, {"kind": "logrho"}],
    "unipc": [{}, {"kind": "bh1"}, {"corrector": False, "lower_order_final": False}],
}
CASES = [
    pytest.param(name, {"order": order, **options} if name != "euler" else {}, id=f"{name}-{order}-{options}")
    for name in MULTISTEP
    for options in OPTIONS[name]
    for order in build_solver(name).orders_known  # type: ignore[attr-defined]
]


def _schedule(where: str, **parts: Any) -> Schedule:
    process, levels = WALKS[where]
    return Schedule(process.time_of_noise_level(levels), process, **parts)


def _sample(solver: Solver, schedule: Schedule, noise: Tensor = NOISE) -> Tensor:
    return sample(MIXTURE.denoiser(schedule.process), schedule, solver, noise, return_trajectory=True)


def _solver(name: str, options: dict[str, Any]) -> Multistep:
    solver = build_solver(name, **options)
    assert isinstance(solver, Multistep)
    return solver


# weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", WALKS)
@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.mostly_slow(4)
def test_own_weights_give_the_same_samples_to_the_last_bit(name: str, options: dict[str, Any], where: str) -> None:
    solver, plain = _solver(name, options), _schedule(where)
    own = solver.own_weights(plain)
    assert own.shape == (plain.steps, max(solver.memory, 1))
    for dtype in (torch.float64, torch.float32):
        expected = _sample(solver, plain, NOISE.to(dtype))
        for weights in (own, solver.own_weights(plain, columns=5)):
            assert torch.equal(_sample(solver, replace(plain, weights=weights), NOISE.to(dtype)), expected)


@pytest.mark.parametrize("name", ["dpmpp_3m", "ipndm", "deis", "unipc"])
def test_own_weights_obey_the_orders_of_a_schedule(name: str) -> None:
    solver = build_solver(name, order=3) if name != "unipc" else UniPC(3, corrector=False)
    assert isinstance(solver, Multistep)
    ordered = _schedule("edm", orders=[1, 2, 1, 3, 2, 3])
    weights = solver.own_weights(ordered)
    assert (weights != 0).sum(1).tolist() == [0, 1, 0, 2, 1, 2]
    weighted = replace(ordered, orders=None, weights=weights)
    assert torch.equal(_sample(solver, weighted), _sample(solver, ordered))
    assert not torch.equal(_sample(solver, weighted), _sample(solver, replace(ordered, orders=None)))
    assert torch.equal(solver.own_weights(weighted), solver.own_weights(replace(ordered, orders=None)))


@pytest.mark.parametrize("where", WALKS)
def test_euler_with_the_weights_of_another_is_that_solver(where: str) -> None:
    for other in (build_solver("dpmpp_2m"), build_solver("dpmpp_3m"), UniPC(3, corrector=False)):
        assert isinstance(other, Multistep)
        plain = _schedule(where)
        found = _sample(build_solver("euler"), replace(plain, weights=other.own_weights(plain)))
        assert torch.equal(found, _sample(other, plain))
        assert not torch.equal(found, _sample(build_solver("euler"), plain))


def test_own_weights_in_closed_form() -> None:
    """-(1 - e^-h) h / (2 h_1) of D_1 - D for DPM-Solver++(2M) under EDM; 3/2 and -1/2 of Adams-Bashforth's eps."""
    schedule = _schedule("edm")
    log_snr = -schedule.times.log()
    h = log_snr.diff()
    expected = torch.cat([torch.zeros(1), -(1 - (-h[1:]).exp()) * h[1:] / (2 * h[:-1])])
    own = build_solver("dpmpp_2m", lower_order_final=False).own_weights(schedule)  # type: ignore[attr-defined]
    torch.testing.assert_close(own[:, 0], expected, rtol=1e-12, atol=0)
    own = build_solver("ipndm", order=2).own_weights(schedule, columns=3)  # type: ignore[attr-defined]
    torch.testing.assert_close(own[1:, 0], -schedule.times.diff()[1:] / 2, rtol=1e-12, atol=0)
    assert not own[:, 1:].any()
    assert not own[0].any()


def _naive(solver: Multistep, schedule: Schedule) -> Tensor:
    """x_{i+1} = a x_i + b D_i + sum_k weights[i, k-1] (q_{i-k} - q_i), with all outputs ever in a list."""
    process, denoiser, weights = schedule.process, MIXTURE.denoiser(schedule.process), schedule.weights
    assert weights is not None
    times, x, outputs = schedule.times, NOISE * schedule.scale, []
    states = [x]
    orders = solver.orders(schedule.steps)
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        denoised = denoiser(x, t.expand(len(x)))
        alpha, sigma, alpha_next, sigma_next = (
            c for time in (t, t_next) for c in (process.alpha(time), process.sigma(time))
        )
        if i > 0:  # UniPC's corrector, at the orders of UniPC
            left = min(i, orders[i - 1])
            x = solver.arrive(process, _state(solver, times[:i], outputs, left), x, t.expand(len(x)), denoised)
        q = denoised if solver.extrapolates == "D" else (x - alpha * denoised) / sigma
        step = sigma_next / sigma * x + (alpha_next - alpha * sigma_next / sigma) * denoised
        for k in range(1, min(i, weights.shape[1]) + 1):
            step = step + weights[i, k - 1] * (outputs[i - k] - q)
        outputs.append(q)
        x = step
        states.append(x)
    return torch.stack(states)


def _state(solver: Multistep, times: Tensor, outputs: list[Tensor], left: int) -> State:
    """The solver's own state after steps from `times`, the last of the order `left`."""
    kept = slice(None, solver.memory)
    rows = times.flip(0)[kept].expand(len(NOISE), -1)
    newest = torch.stack(outputs[::-1][kept], 1) if solver.memory else NOISE.new_empty(len(NOISE), 0, 2)
    return rows, newest, torch.full((len(NOISE),), left)


@settings(deadline=None, max_examples=8)
@pytest.mark.parametrize("where", [name for name in WALKS if "t = 1" not in name])
@pytest.mark.parametrize("name", MULTISTEP)
@given(data=st.data())
@pytest.mark.mostly_slow(3)
def test_any_weights_against_a_naive_loop(name: str, where: str, data: st.DataObject) -> None:
    solver = _solver(name, data.draw(st.sampled_from(OPTIONS[name])))
    plain = _schedule(where)
    columns = data.draw(st.integers(1, 6))
    numbers = st.lists(st.floats(-0.5, 0.5), min_size=columns, max_size=columns)
    weights = torch.tensor([data.draw(numbers) for _ in range(plain.steps)], dtype=torch.float64).tril(-1)
    weighted = replace(plain, weights=weights)
    torch.testing.assert_close(_sample(solver, weighted), _naive(solver, weighted), rtol=1e-9, atol=1e-9)


def test_the_last_step_to_level_0_may_have_weights() -> None:
    """Where D is returned by itself, the result is D and the weighted differences, written out."""
    denoiser, times = MIXTURE.denoiser(EDM()), [3.0, 1.0, 0.0]
    schedule = Schedule(times, EDM(), weights=[[0.0], [0.25]])
    x = 3.0 * NOISE
    first = denoiser(x, torch.full((5,), 3.0).double())
    x = x / 3 + (1 - 1 / 3) * first
    second = denoiser(x, torch.full((5,), 1.0).double())
    expected = second + 0.25 * (first - second)
    found = sample(denoiser, schedule, build_solver("euler"), NOISE)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_weights_and_told_times() -> None:
    plain = _schedule("edm to level 0")
    solver = build_solver("dpmpp_3m")
    assert isinstance(solver, Multistep)
    told = (plain.times[:-1] * 1.03).requires_grad_()
    weights = solver.own_weights(plain, columns=3).requires_grad_()

    def end(weights: Tensor, told: Tensor) -> Tensor:
        schedule = Schedule(plain.times, EDM(), weights=weights.tril(-1), told_times=told)
        return sample(MIXTURE.denoiser(EDM()), schedule, solver, NOISE[:2])

    assert torch.autograd.gradcheck(end, (weights, told))
    for parts in ({"weights": weights.detach(), "told_times": told}, {"weights": weights.tril(-1), "told_times": None}):
        out = sample(MIXTURE.denoiser(EDM()), replace(plain, **parts), solver, NOISE)
        assert out.requires_grad
    parts = {"weights": weights.detach(), "told_times": told.detach()}
    assert not sample(MIXTURE.denoiser(EDM()), replace(plain, **parts), solver, NOISE).requires_grad


@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in MULTISTEP])
def test_solvers_that_take_no_weights(name: str) -> None:
    schedule = _schedule("edm", weights=torch.zeros(6, 1))
    solver = build_solver(name)
    assert not solver.obeys_weights
    with pytest.raises(ValueError, match=f"which {name} does not take: sample with the deterministic multistep solver"):
        _sample(solver, schedule)


def test_a_multistep_solver_that_walks_by_its_steps_takes_no_weights() -> None:
    class Stepwise(UniPC):
        moves = Solver.moves

    with pytest.raises(ValueError, match="weights for the remembered outputs"):
        _sample(Stepwise(), _schedule("edm", weights=torch.zeros(6, 1)))


@pytest.mark.parametrize("name", MULTISTEP)
def test_pure_noise_is_not_remembered(name: str) -> None:
    where, weights = "flow from t = 1 to 0", torch.zeros(8, 3)
    weights[2, 0] = 0.1  # of the output of the second step
    solver = build_solver(name)
    assert _sample(solver, _schedule(where, weights=weights)).isfinite().all()
    weights[2, 1] = 0.3
    with pytest.raises(ValueError, match=r"weight 2 of step 3 is 0\.3.*the output of step 1, which .* alpha is 0"):
        _sample(solver, _schedule(where, weights=weights.double().round(decimals=6)))
    # by EDM's formulas a flow's time of 1 is a noise level like another
    solver.flow_as = "edm"
    assert _sample(solver, _schedule(where, weights=weights)).isfinite().all()


def test_too_few_columns() -> None:
    solver = build_solver("dpmpp_3m")
    assert isinstance(solver, Multistep)
    with pytest.raises(ValueError, match=r"dpmpp_3m on this schedule need 2 columns.*got columns=1"):
        solver.own_weights(_schedule("edm"), columns=1)
    euler = build_solver("euler")
    assert isinstance(euler, Multistep)
    assert torch.equal(euler.own_weights(_schedule("edm")), torch.zeros(6, 1).double())
    with pytest.raises(ValueError, match="columns=0"):
        euler.own_weights(_schedule("edm"), columns=0)


def test_own_weights_have_gradients_of_the_times() -> None:
    times = torch.tensor(LEVELS, dtype=torch.float64, requires_grad=True)
    solver = build_solver("deis", order=3)
    assert isinstance(solver, Multistep)
    assert torch.autograd.gradcheck(lambda t: solver.own_weights(Schedule(t, EDM())), times)


# told times ----------------------------------------------------------------------------------------------------------

ONE_EVALUATION = [name for name in SOLVERS if build_solver(name).nfe(_schedule("edm")) == 6]


@pytest.mark.parametrize("where", WALKS)
@pytest.mark.parametrize("name", ONE_EVALUATION)
def test_told_times_that_are_the_times_change_nothing(name: str, where: str) -> None:
    plain, solver = _schedule(where), build_solver(name)
    assert torch.equal(_sample(solver, replace(plain, told_times=plain.times[:-1])), _sample(solver, plain))


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("name", ONE_EVALUATION)
def test_the_network_is_told_these_times(name: str, process: Process) -> None:
    times = process.time_of_noise_level([5.0, 1.4, 0.5, 0.1])
    told = process.time_of_noise_level([4.5, 1.5, 0.45])
    exact, seen = MIXTURE.denoiser(process), []

    def denoise(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        seen.append(t)
        return exact(x, t)

    def shifted(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return exact(x, told[(times[:-1] == t[0]).nonzero()[0, 0]].expand(len(x)))

    schedule, solver = Schedule(times, process, told_times=told), build_solver(name)
    found = sample(denoise, schedule, solver, NOISE, seed=3)
    assert torch.equal(torch.stack(seen), told[:, None].expand(3, 5))
    assert torch.equal(found, sample(shifted, Schedule(times, process), solver, NOISE, seed=3))
    assert not torch.equal(found, sample(exact, Schedule(times, process), solver, NOISE, seed=3))


@pytest.mark.parametrize("where", WALKS)
@pytest.mark.parametrize("name", ONE_EVALUATION)
@pytest.mark.mostly_slow(4)
def test_a_slope_told_at_the_times_themselves_changes_nothing(name: str, where: str) -> None:
    plain, solver = _schedule(where), build_solver(name)
    told = replace(plain, told_times=plain.times[:-1], told_as="slope")
    torch.testing.assert_close(_sample(solver, told), _sample(solver, plain), rtol=1e-9, atol=1e-9)


def test_euler_steps_along_the_slope_of_the_told_times() -> None:
    """eps under EDM and, of x / alpha, under VP; the velocity under a flow."""
    told_levels = [11.0, 5.5, 1.9, 1.5, 0.45, 0.21]
    for process in PROCESSES.values():
        times, told = process.time_of_noise_level(LEVELS), process.time_of_noise_level(told_levels)
        x = NOISE * process.prior_std(times[0])
        for t, t_next, tau in zip(times[:-1], times[1:], told, strict=True):
            x_0 = MIXTURE.denoiser(process)(x, tau.expand(5))
            if process.name == "flow":
                x = x + (t_next - t) * (x - x_0) / tau
            else:
                eps = (x - process.alpha(tau) * x_0) / process.sigma(tau)
                level, level_next = process.noise_level(t), process.noise_level(t_next)
                x = process.alpha(t_next) * (x / process.alpha(t) + (level_next - level) * eps)
        found = _sample(build_solver("euler"), Schedule(times, process, told_times=told, told_as="slope"))[-1]
        torch.testing.assert_close(found, x, rtol=1e-10, atol=1e-10)


def test_predictions_of_a_walk_are_those_at_the_told_times() -> None:
    schedule = _schedule("edm", told_times=[11.0, 5.1, 2.0, 1.5, 0.4, 0.3])
    denoiser, solver = MIXTURE.denoiser(EDM()), build_solver("dpmpp_2m")
    for i, (x, prediction) in enumerate(walk(denoiser, schedule, solver, NOISE)):
        if i < schedule.steps:
            assert schedule.told_times is not None
            assert torch.equal(prediction, denoiser(x, schedule.told_times[i].expand(5)))
    record = Trajectories(denoiser).record(schedule, solver, NOISE)
    assert torch.equal(record.predictions[:, 2], denoiser(record.states[:, 2], torch.full((5,), 2.0).double()))


@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in ONE_EVALUATION])
def test_solvers_of_two_evaluations_refuse_told_times(name: str) -> None:
    schedule = _schedule("edm", told_times=LEVELS[:-1])
    with pytest.raises(ValueError, match=f"a step of {name} takes two evaluations.*one evaluation per step"):
        _sample(build_solver(name), schedule)


@pytest.mark.parametrize("name", ["heun", "dpm2", "dpmpp_2s"])
def test_two_stage_solvers_obey_where_every_step_has_one_evaluation(name: str) -> None:
    told = [11.0, 5.1, 2.0, 1.5, 0.4, 0.3]
    expected = _sample(build_solver("euler"), _schedule("edm", told_times=told))
    found = _sample(build_solver(name), _schedule("edm", orders=[1] * 6, told_times=told))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_part_of_a_batch_is_told_the_same_time() -> None:
    seen = []

    def denoise(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        seen.append(t.tolist())
        return x

    schedule = build_schedule("edm", EDM(), 3, t_max=80.0, t_min=0.1)
    assert Denoise(denoise, EDM()).at(schedule, 0) == Denoise(denoise, EDM())
    told = replace(schedule, told_times=[70.0, 5.0, 0.2])
    Denoise(denoise, EDM()).at(told, 1).take(torch.tensor([0, 2]))(NOISE[:2], torch.tensor(9.0))
    assert seen == [[5.0, 5.0]]
