"""The order each deterministic solver converges with, measured on a mixture whose denoiser is exact.

A walk goes from noise level 5 to 0.2; its error is the root mean square distance, in y = x / alpha, from the exact
solution of dy / d log s = y - D(y, s), which every process shares. Truth is Runge-Kutta of order 8 from scipy, which
knows nothing of our solvers.

A solver that starts with an empty memory takes its first step with order 1 and its second with order 2 at most, and
one first-order step's local error, of order h^2, bounds what the whole walk can reach. The order of the solver itself
is measured with an exact history: the state before the first step holds the outputs on the true trajectory at the
grid's own points above noise level 5. The bound is measured too, at the end.

VP's clock has a kink at every timestep, but solvers see it only through alpha, sigma and log-SNR of the times, and our
grids are given in noise levels: nothing kinks. `deis` "tab" does read the clock; while a step spans several timesteps
the kinks, of a relative size of 1 / 1000, stay far below its error.

Last come the problems that each solver integrates exactly, on long and unequal steps: what its order is made of.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from optsteps.denoisers import Denoiser, expand
from optsteps.models.analytic import GaussianMixture
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.solvers import Denoise, Multistep, Solver, State, build_solver

HIGH, LOW = 5.0, 0.2
MIXTURE = GaussianMixture([[0.0, 1.0], [1.5, -0.5], [-1.0, -1.0]], [0.5, 0.7, 0.6], [1.0, 2.0, 1.5])
START = HIGH * torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PROCESSES: dict[str, Process] = {"edm": EDM(), "vp": VP.linear(), "flow": Flow()}

Grid = Callable[[int, int], float]  # (i, n) -> noise level i of an n-step grid; i < 0 lies above HIGH
STEPS = [48, 72, 108]


def jagged(i: int, n: int) -> float:
    """Steps in log noise level alternate between 1.2 and 0.8: no formula can count on equal steps."""
    return HIGH * (LOW / HIGH) ** ((i + 0.2 * (i % 2)) / n)


def smooth(i: int, n: int) -> float:
    """EDM's schedule with rho = 7: steps unequal in every clock, but neighbours more alike the finer the grid."""
    return (HIGH ** (1 / 7) + i / n * (LOW ** (1 / 7) - HIGH ** (1 / 7))) ** 7


def equal(i: int, n: int) -> float:
    return HIGH + i / n * (LOW - HIGH)


@functools.cache
def _exact(level: float, tolerance: float = 1e-12) -> Tensor:
    """y [16, 2] at a noise level, on the trajectory through START at HIGH."""
    denoiser = MIXTURE.denoiser(EDM())

    def slope(log_level: float, y: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(y).reshape(START.shape)
        return (state - denoiser(state, torch.tensor(math.exp(log_level), dtype=torch.float64))).flatten().numpy()

    ends = (math.log(HIGH), math.log(level))
    found = solve_ivp(slope, ends, START.flatten().numpy(), method="DOP853", rtol=tolerance, atol=tolerance)
    assert found.success
    return torch.from_numpy(found.y[:, -1]).reshape(START.shape)


def _history(
    solver: Solver, process: Process, past: list[float], truth: Callable[[float], Tensor], denoiser: Denoiser, x: Tensor
) -> State:
    """The state before the first step from x, its memory filled on the true y(level) at the noise levels `past`, newest
    first. What a state holds besides (of `unipc`: that there is nothing to correct) is that of a first step."""
    state, times, outputs = solver.init(x), [], []
    for level in past[: getattr(solver, "memory", 0)]:
        t = process.time_of_noise_level(level).expand(len(x))
        x_past = process.alpha(t)[:, None] * truth(level)
        times.append(t)
        outputs.append(solver.quantity(process, x_past, t, denoiser(x_past, t)))
    return (torch.stack(times, 1), torch.stack(outputs, 1), *state[2:]) if times else state


def _error(solver: Solver, process: Process, grid: Grid, n: int, history: bool = True) -> float:
    times = process.time_of_noise_level([grid(i, n) for i in range(n + 1)])
    denoise = Denoise(MIXTURE.denoiser(process), process)
    x = process.alpha(times[0]) * START
    past = [grid(i, n) for i in (-1, -2, -3)] if history else []
    state = _history(solver, process, past, _exact, denoise.denoiser, x)
    for t, t_next in itertools.pairwise(times):
        x, state = solver.step(state, x, t, t_next, denoise)
    return (x / process.alpha(times[-1]) - _exact(LOW)).square().mean().sqrt().item()


def _order(solver: Solver, process: Process, grid: Grid, steps: list[int], history: bool = True) -> float:
    """Minus the slope of log error over log steps."""
    errors = [_error(solver, process, grid, n, history) for n in steps]
    assert errors[-1] > 100 * _truth_error(), "the truth is not true enough to measure this solver"
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@functools.cache
def _truth_error() -> float:
    return (_exact(LOW) - _exact(LOW, 1e-13)).abs().max().item()


def _named(cases: list[tuple[Any, ...]]) -> list[Any]:
    return [
        pytest.param(*case, id="-".join([case[0], *(f"{k}={v}" for k, v in case[1].items()), *map(str, case[2:])]))
        for case in cases
    ]


SINGLE_STEP = [("euler", {}, 1), ("heun", {}, 2), ("dpm2", {}, 2), ("dpmpp_2s", {}, 2)]
MEMORY = [
    ("dpmpp_2m", {"order": 1}, 1),
    ("dpmpp_2m", {}, 2),
    ("dpmpp_3m", {"order": 2}, 2),
    # as published: half the second derivative is missing
    ("dpmpp_3m", {}, 2),
    ("dpmpp_3m", {"corrected": True}, 3),
    *(("deis", {"order": p, "kind": kind}, p) for kind in ("tab", "logrho") for p in (1, 2, 3)),
    *(("ipndm", {"order": p, "variable_step": True}, p) for p in (1, 2, 3, 4)),
    *(("unipc", {"order": p, "kind": kind, "corrector": False}, p) for kind in ("bh1", "bh2") for p in (1, 2, 3)),
    *(("unipc", {"order": p, "kind": kind}, p + 1) for kind in ("bh1", "bh2") for p in (1, 2, 3)),
]
# under the other processes: one of each way to weigh the memory, at its highest order
SOME = [
    *SINGLE_STEP,
    ("dpmpp_2m", {}, 2),
    ("dpmpp_3m", {"corrected": True}, 3),
    ("deis", {"order": 3, "kind": "tab"}, 3),
    ("deis", {"order": 3, "kind": "logrho"}, 3),
    ("ipndm", {"order": 4, "variable_step": True}, 4),
    ("unipc", {"order": 3}, 4),
]


def test_the_truth_is_true() -> None:
    # tighter tolerances do not move it, and our two unlike methods of order 4 go there
    assert _truth_error() < 1e-11
    assert _error(build_solver("ipndm", order=4, variable_step=True), EDM(), smooth, 1000) < 1e-9
    assert _error(build_solver("unipc", order=3), EDM(), smooth, 500) < 1e-9


@pytest.mark.parametrize(("name", "options", "order"), _named(SINGLE_STEP + MEMORY))
@pytest.mark.mostly_slow(3)
def test_order_of_convergence(name: str, options: dict[str, Any], order: int) -> None:
    assert _order(build_solver(name, **options), EDM(), jagged, STEPS) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("process", ["vp", "flow"])
@pytest.mark.parametrize(("name", "options", "order"), _named(SOME))
@pytest.mark.mostly_slow(3)
def test_order_under_every_process(name: str, options: dict[str, Any], order: int, process: str) -> None:
    measured = _order(build_solver(name, **options), PROCESSES[process], jagged, STEPS)
    assert measured == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_fixed_coefficients_have_their_order_on_equal_steps(p: int) -> None:
    # equal steps in noise level are long ones at the clean end: it takes more of them
    measured = _order(build_solver("ipndm", order=p), EDM(), equal, [120, 200, 320])
    assert measured == pytest.approx(p, abs=0.2)
    # and the coefficients of the actual steps are the same there
    fixed, variable = (
        _error(build_solver("ipndm", order=p, variable_step=choice), EDM(), equal, 120) for choice in (False, True)
    )
    assert fixed == pytest.approx(variable, rel=1e-7)


@pytest.mark.parametrize("p", [2, 3, 4])
@pytest.mark.parametrize(("grid", "order"), [(jagged, 1), (smooth, 2)])
def test_fixed_coefficients_lose_their_order_on_other_steps(grid: Grid, order: int, p: int) -> None:
    """First order in general. Where the ratio of neighbouring steps tends to 1 as 1 + O(h), as on every smooth family
    of schedules, the wrong coefficients are wrong by O(h) and leave order 2; higher orders gain nothing."""
    assert _order(build_solver("ipndm", order=p), EDM(), grid, STEPS) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(
    ("name", "options", "order"),
    _named(
        [
            ("dpmpp_2m", {}, 2),
            ("dpmpp_3m", {"corrected": True}, 2),
            ("deis", {"order": 3, "kind": "logrho"}, 2),
            ("unipc", {"order": 3, "corrector": False}, 2),
            # the corrector lifts the first step to order 2, whose local error allows 3
            ("unipc", {"order": 2}, 3),
            ("unipc", {"order": 3, "kind": "bh1"}, 3),
        ]
    ),
)
def test_an_empty_memory_bounds_the_order(name: str, options: dict[str, Any], order: int) -> None:
    """One first-order step costs O(h^2) whatever follows."""
    measured = _order(build_solver(name, **options), EDM(), jagged, STEPS, history=False)
    assert measured == pytest.approx(order, abs=0.2)


# problems that are integrated exactly --------------------------------------------------------------------------------

COEFFICIENTS = [0.3, -0.2, 0.15, 0.1, -0.07]
OFFSET = START / HIGH  # the constant of integration
AHEAD, PAST = [7.0, 3.0, 1.2, 0.4], [11.0, 18.0, 30.0]


def _polynomial(c: list[float], u: Tensor) -> Tensor:
    return sum((a * u**j for j, a in enumerate(c)), torch.zeros_like(u))


def _with_exponential(c: list[float]) -> list[float]:
    """p - p' + p'' - ...: e^u times it is the integral of e^u p(u)."""
    slope = [j * a for j, a in enumerate(c)][1:]
    return [a - b for a, b in zip(c, [*_with_exponential(slope), 0.0], strict=True)] if slope else c


def _readings(process: Process, t: Tensor) -> dict[str, Tensor]:
    log_snr = process.log_snr(t)
    return {"lambda": log_snr, "log rho": -log_snr, "rho": process.noise_level(t), "1 - t": 1 - t}


def _solution(clock: str, c: list[float], process: Process, level: float) -> Tensor:
    """y where D, for the clock lambda, or eps, for the others, is the polynomial c of the clock."""
    u = _readings(process, process.time_of_noise_level(level))[clock]
    if clock == "lambda":  # d (e^lambda y) / d lambda = e^lambda D
        return _polynomial(_with_exponential(c), u) + level * OFFSET
    if clock == "log rho":  # dy / d rho = eps, here and below
        return level * _polynomial(_with_exponential(c), u) + OFFSET
    if clock == "rho":
        return _polynomial([0.0, *(a / (j + 1) for j, a in enumerate(c))], u) + OFFSET
    # a flow's rho is 1 / u - 1
    return sum(-a * (u.log() if j == 1 else u ** (j - 1) / (j - 1)) for j, a in enumerate(c)) + OFFSET


def _missed(solver: Multistep, process: Process, clock: str, degree: int) -> tuple[float, float]:
    """How far the end of the walk AHEAD, with PAST in its memory, is from the solution; and how far what a corrector
    would make of it."""
    truth = functools.partial(_solution, clock, COEFFICIENTS[: degree + 1], process)

    def denoiser(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        value = expand(_polynomial(COEFFICIENTS[: degree + 1], _readings(process, t)[clock]), x).expand_as(x)
        return value if clock == "lambda" else (x - expand(process.sigma(t), x) * value) / expand(process.alpha(t), x)

    times = process.time_of_noise_level(AHEAD)
    x = process.alpha(times[0]) * truth(AHEAD[0])
    state = _history(solver, process, PAST, truth, denoiser, x)
    for t, t_next in itertools.pairwise(times):
        x, state = solver.step(state, x, t, t_next, Denoise(denoiser, process))
    corrected = solver.arrive(process, state, x, times[-1].expand(len(x)), denoiser(x, times[-1]))
    end, better = ((y / process.alpha(times[-1]) - truth(AHEAD[-1])).abs().max().item() for y in (x, corrected))
    return end, better


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(
    ("name", "options", "degree"),
    _named(
        [
            # D' enters with (1 - e^-h) / 2 in place of h phi_2(-h): order 2, but no more than constants exactly
            ("dpmpp_2m", {}, 0),
            *(("unipc", {"order": 2, "corrector": False, "kind": kind}, 0) for kind in ("bh1", "bh2")),
            ("dpmpp_3m", {}, 1),  # D'' enters with half its weight
            ("dpmpp_3m", {"corrected": True}, 2),
            *(("unipc", {"order": 3, "corrector": False, "kind": kind}, 2) for kind in ("bh1", "bh2")),
            ("unipc", {"order": 3}, 2),
        ]
    ),
)
def test_polynomials_in_log_snr(name: str, options: dict[str, Any], degree: int, process: str) -> None:
    solver, clock = build_solver(name, **options), PROCESSES[process]
    assert _missed(solver, clock, "lambda", degree)[0] < 1e-10
    assert _missed(solver, clock, "lambda", degree + 1)[0] > 1e-4  # and no more than that


@pytest.mark.parametrize("kind", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [2, 3])
def test_a_corrector_integrates_one_degree_more_than_the_full_predictor(order: int, kind: str) -> None:
    solver = build_solver("unipc", order=order, kind=kind)
    assert _missed(solver, EDM(), "lambda", order)[1] < 1e-10
    assert _missed(solver, EDM(), "lambda", order + 1)[1] > 1e-4


# VP's time has a kink at every timestep and is no smooth function of log rho: "tab" is exact there only without them
EVEN_VP = VP(torch.linspace(math.log(0.01), math.log(100), 1000, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "options", "process", "clock"),
    _named(
        [("ipndm", {"order": m, "variable_step": True}, p, "rho") for m in (1, 2, 3, 4) for p in PROCESSES]
        + [("deis", {"order": m, "kind": "logrho"}, p, "log rho") for m in (1, 2, 3) for p in PROCESSES]
        + [("deis", {"order": m}, "edm", "rho") for m in (1, 2, 3)]
        + [("deis", {"order": m}, "flow", "1 - t") for m in (1, 2, 3)]
        + [("deis", {"order": m}, "even vp", "log rho") for m in (1, 2, 3)]
    ),
)
def test_polynomials_in_the_clock_of_eps(name: str, options: dict[str, Any], process: str, clock: str) -> None:
    solver, where = build_solver(name, **options), PROCESSES.get(process, EVEN_VP)
    assert _missed(solver, where, clock, solver.order - 1)[0] < 1e-10
    assert _missed(solver, where, clock, solver.order)[0] > 1e-4
