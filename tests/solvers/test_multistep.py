"""What holds for every deterministic solver, with a memory or without: gradients of the times, the same map under every
process, orders asked for step by step, states that can be gathered. Accuracy is `test_convergence`'s."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from optsteps import Schedule
from optsteps.denoisers import CountedDenoiser
from optsteps.models.analytic import GaussianMixture
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.sampling import sample
from optsteps.solvers import SOLVERS, Denoise, Solver, State, build_solver
from optsteps.solvers.integrals import phi

PROCESSES: dict[str, Process] = {"edm": EDM(), "vp": VP.linear(), "flow": Flow()}
MIXTURE = GaussianMixture([[0.0, 1.0], [1.5, -0.5], [-1.0, -1.0]], [0.5, 0.2, 0.3], [1.0, 2.0, 1.5])
LEVELS = [12.0, 5.0, 1.4, 0.5, 0.06]  # no two steps alike, and no time of VP near an integer, where its clock has kinks
MANY = [15.0, 12.0, 5.0, 2.0, 1.4, 0.5, 0.2, 0.06, 0.03, 0.02]
WALKS: dict[str, tuple[Process, list[float]]] = {
    **{name: (process, LEVELS) for name, process in PROCESSES.items()},
    **{f"{name} to level 0": (process, [*LEVELS[:-1], 0.0]) for name, process in PROCESSES.items()},
    "flow from t = 1 to 0": (Flow(), [math.inf, *LEVELS[1:-1], 0.0]),
}

Options = dict[str, Any]
TWO_STAGE: list[tuple[str, Options]] = [("heun", {}), ("dpm2", {}), ("dpmpp_2s", {})]
MEMORY: list[tuple[str, Options]] = [
    ("dpmpp_2m", {}),
    ("dpmpp_3m", {}),
    ("dpmpp_3m", {"corrected": True}),
    ("ipndm", {}),
    ("ipndm", {"variable_step": True}),
    ("deis", {}),
    ("deis", {"kind": "logrho"}),
    ("unipc", {"corrector": False, "order": 3}),
    ("unipc", {"order": 1}),
    ("unipc", {"order": 2, "kind": "bh1"}),
    ("unipc", {"order": 3}),
]
ALL = [("euler", {}), *TWO_STAGE, *MEMORY]


def _params(cases: list[Any]) -> list[Any]:
    return [
        pytest.param(*case, id="-".join([case[0], *(f"{k}={v}" for k, v in case[1].items()), *map(str, case[2:])]))
        for case in cases
    ]


every_solver = pytest.mark.parametrize(("name", "options"), _params(ALL))
every_walk = pytest.mark.parametrize("walk", WALKS)
memory_solvers = pytest.mark.parametrize(("name", "options"), _params(MEMORY))


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _schedule(process: Process, levels: list[float], orders: tuple[int, ...] | None = None) -> Schedule:
    """In noise levels, from states that are alpha times EDM's: VP's own start is a little wider than sigma."""
    times = process.time_of_noise_level(levels)
    return Schedule(times, process, orders, initial_scale=process.sigma(times[0]).item())


def _sample(solver: Solver, schedule: Schedule, noise: Tensor) -> Tensor:
    return sample(MIXTURE.denoiser(schedule.process), schedule, solver, noise)


def test_no_deterministic_solver_is_left_out() -> None:
    assert {name for name, _ in ALL} == {name for name in SOLVERS if not build_solver(name).stochastic}


# gradients -----------------------------------------------------------------------------------------------------------


@every_walk
@every_solver
@pytest.mark.mostly_slow(4)
def test_gradients_of_the_times(name: str, options: Options, walk: str) -> None:
    process, levels = WALKS[walk]
    # ends that lie on the border of the process are fixed; one of VP's many times is as large as one of the others'
    first, last = int(math.isinf(levels[0])), len(levels) - (levels[-1] == 0)
    unit = 1000.0 if process.name == "vp" else 1.0
    times = process.time_of_noise_level(levels)

    def end(moved: Tensor) -> Tensor:
        all_times = torch.cat([times[:first], unit * moved, times[last:]])
        return _sample(build_solver(name, **options), Schedule(all_times, process), _normal(2, 2))

    moved = (times[first:last] / unit).requires_grad_()
    assert torch.autograd.gradcheck(end, (moved,), eps=1e-6, atol=1e-6, rtol=1e-5)


@every_solver
def test_samples_of_a_batch_may_be_at_different_times(name: str, options: Options) -> None:
    """Each row walks as if alone, its gradients too, though rows differ in the order their memories allow."""
    rows = torch.tensor(
        [[1.0, 0.8, 0.5, 0.2, 0.1], [0.9, 0.6, 0.3, 0.1, 0.0], [0.95, 0.9, 0.4, 0.3, 0.05], [1.0, 0.5, 0.2, 0.1, 0.0]],
        dtype=torch.float64,
    )
    solver, noise, process = build_solver(name, **options), _normal(4, 2), Flow()
    together, alone = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    denoise = Denoise(MIXTURE.denoiser(process), process)
    x = noise * together[:, :1]
    state = solver.init(x)
    for t, t_next in itertools.pairwise(together.unbind(1)):
        x, state = solver.step(state, x, t, t_next, denoise)
    full = (solver.order,) * 4  # whatever the solver's orders at the end of few steps
    one_by_one = torch.cat([_sample(solver, Schedule(alone[k], process, full), noise[k : k + 1]) for k in range(4)])
    torch.testing.assert_close(x, one_by_one, rtol=1e-12, atol=1e-12)
    direction = _normal(4, 2, seed=1)
    for end in (x, one_by_one):
        (end * direction).sum().backward()
    assert bool(together.grad.isfinite().all())
    torch.testing.assert_close(together.grad, alone.grad, rtol=1e-9, atol=1e-11)


@every_solver
def test_permuting_samples_midway_permutes_the_result(name: str, options: Options) -> None:
    solver, process, order = build_solver(name, **options), EDM(), torch.tensor([2, 0, 4, 3, 1])
    exact = MIXTURE.denoiser(process)
    x, shift = 5 * _normal(5, 2), _normal(5, 2, seed=1)

    def walk(x: Tensor, state: State, shift: Tensor, levels: list[float]) -> tuple[Tensor, State]:
        denoise = Denoise(lambda x, t, cond=None: exact(x, t) + cond["shift"], process, {"shift": shift})
        for t, t_next in itertools.pairwise(torch.tensor(levels, dtype=torch.float64)):
            x, state = solver.step(state, x, t, t_next, denoise)
            assert all(len(part) == 5 for part in state)
        return x, state

    x, state = walk(x, solver.init(x), shift, LEVELS[:3])
    straight, _ = walk(x, state, shift, LEVELS[2:])
    permuted, _ = walk(x[order], tuple(part[order] for part in state), shift[order], LEVELS[2:])
    torch.testing.assert_close(permuted, straight[order], rtol=1e-13, atol=1e-13)


# processes and ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [[], [0.0]], ids=["noisy end", "clean end"])
@pytest.mark.parametrize("process", ["vp", "flow"])
@pytest.mark.parametrize(("name", "options"), _params([case for case in ALL if case != ("deis", {})]))
def test_noise_levels_alone_decide(name: str, options: Options, process: str, last: list[float]) -> None:
    """States under any process are alpha times EDM's. Not for `deis` "tab", a polynomial in the process's own time."""
    ends = []
    for clock in (PROCESSES["edm"], PROCESSES[process]):
        schedule = _schedule(clock, LEVELS + last)
        ends.append(_sample(build_solver(name, **options), schedule, _normal(4, 2)) / clock.alpha(schedule.times[-1]))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("process", PROCESSES)
@every_solver
def test_a_walk_to_noise_level_zero_ends_with_the_denoisers_output(
    name: str, options: Options, process: str, dtype: torch.dtype
) -> None:
    outputs = []

    def watched(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        outputs.append(MIXTURE.denoiser(PROCESSES[process])(x, t))
        return outputs[-1]

    solver, schedule = build_solver(name, **options), _schedule(PROCESSES[process], [*LEVELS, 0.0])
    end = sample(watched, schedule, solver, _normal(3, 2).to(dtype))
    assert end.dtype == dtype
    assert torch.equal(end, outputs[-1])


@every_solver
def test_a_flow_may_start_at_pure_noise(name: str, options: Options) -> None:
    """The step from t = 1 is Euler's, and leaves nothing to remember: a walk from there on is the same."""
    solver, noise, levels = build_solver(name, **options), _normal(3, 2), [math.inf, *LEVELS]
    path = sample(MIXTURE.denoiser(Flow()), _schedule(Flow(), levels), solver, noise, return_trajectory=True)
    assert bool(path.isfinite().all())
    euler = _sample(build_solver("euler"), _schedule(Flow(), levels[:2]), noise)
    torch.testing.assert_close(path[1], euler, rtol=1e-14, atol=1e-14)
    later = _schedule(Flow(), LEVELS)
    torch.testing.assert_close(path[-1], _sample(solver, later, path[1] / later.scale), rtol=1e-12, atol=1e-12)


@every_walk
@every_solver
def test_a_constant_denoiser_is_integrated_exactly(name: str, options: Options, walk: str) -> None:
    constant, noise, schedule = _normal(3, 2, seed=1), _normal(3, 2), _schedule(*WALKS[walk])
    end = sample(lambda x, t, cond=None: constant, schedule, build_solver(name, **options), noise)
    alpha, sigma = schedule.process.alpha(schedule.times), schedule.process.sigma(schedule.times)
    expected = alpha[-1] * constant + sigma[-1] * (noise - alpha[0] / sigma[0] * constant)
    torch.testing.assert_close(end, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_phi(k: int) -> None:
    """Against the Taylor series sum_j z^j / (j + k)! in rational arithmetic, which has no rounding at any z."""
    powers = [sign * 10.0**-e for e in range(17) for sign in (1, -1)]
    for z in [*powers, *torch.linspace(-20, 5, 51, dtype=torch.float64).tolist()]:
        term = value = Fraction(1, math.factorial(k))
        for j in range(1, 90):
            term *= Fraction(z) / (j + k)
            value += term
        assert phi(k, torch.tensor(z, dtype=torch.float64)).item() == pytest.approx(float(value), rel=3e-14)


# orders asked for ----------------------------------------------------------------------------------------------------

PATTERN = (1, 2, 3, 1, 3, 2, 4, 3, 4)


@pytest.mark.parametrize("process", PROCESSES)
@every_solver
def test_order_1_is_euler(name: str, options: Options, process: str) -> None:
    ones = _schedule(PROCESSES[process], [*LEVELS, 0.0], (1,) * 5)
    corrects = name == "unipc" and options.get("corrector", True)  # what arrives is corrected whatever the order
    expected = build_solver("unipc", order=1, kind=options.get("kind", "bh2")) if corrects else build_solver("euler")
    found, wanted = (_sample(solver, ones, _normal(3, 2)) for solver in (build_solver(name, **options), expected))
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)


def _by_hand(name: str, options: Options, schedule: Schedule, noise: Tensor) -> Tensor:
    """Every step by a solver of that very order, whose memory holds what it uses and no more."""
    process, highest = schedule.process, build_solver(name, **options).order
    x, times, outputs = noise * schedule.scale, [], []
    for (t, t_next), asked in zip(itertools.pairwise(schedule.times), schedule.orders, strict=True):
        m = min(asked, highest, len(times) + 1)
        solver = build_solver(name, **{**options, "order": m})
        state = solver.init(x)
        if m > 1:
            state = (torch.stack(times[: m - 1], 1), torch.stack(outputs[: m - 1], 1), *state[2:])
        denoise, t = Denoise(MIXTURE.denoiser(process), process), t.expand(len(x))
        times.insert(0, t)
        outputs.insert(0, solver.quantity(process, x, t, denoise(x, t)))
        x, _ = solver.step(state, x, t, t_next, denoise)
    return x


def _unipc_by_hand(order: int, kind: str, schedule: Schedule, noise: Tensor) -> Tensor:
    """UniPC under EDM in one loop, from what defines its weights: powers of the distance in lambda are integrated
    exactly, up to the number of weights; a single weight is as published."""

    def moved(x: Tensor, t_next: Tensor, known: list[tuple[Tensor, Tensor]]) -> Tensor:
        """From x to t_next with known = [(t, D), (t_1, D_1), ...], x at the first."""
        (t, denoised), *others = known
        h, away = torch.log(t / t_next), torch.tensor([torch.log(t / s) for s, _ in others], dtype=torch.float64)
        powers = range(1, len(others) + 1)
        weights = (h if kind == "bh1" else 1 - t_next / t) * 0.5 * h / away
        if len(others) > 1:
            moments = [math.factorial(i) * h ** (i + 1) * phi(i + 1, -h) for i in powers]
            weights = torch.linalg.solve(torch.stack([away**i for i in powers]), torch.stack(moments))
        x_next = denoised + t_next / t * (x - denoised)
        return sum((w * (d - denoised) for w, (_, d) in zip(weights, others, strict=True)), x_next)

    denoiser, x, known, m = MIXTURE.denoiser(EDM()), noise * schedule.scale, [], 0
    left = x
    for (t, t_next), asked in zip(itertools.pairwise(schedule.times), schedule.orders, strict=True):
        new = (t, denoiser(x, t))
        if known:
            x = moved(left, t, [known[0], new, *known[1:m]])
        known = [new, *known]
        m, left = min(asked, order, len(known)), x
        x = moved(x, t_next, known[:m])
    return x


@memory_solvers
def test_every_step_has_the_order_asked_for(name: str, options: Options) -> None:
    schedule, noise = _schedule(EDM(), MANY, PATTERN), _normal(3, 2)
    solver = build_solver(name, **options)
    if name == "unipc" and options.get("corrector", True):
        expected = _unipc_by_hand(solver.order, options.get("kind", "bh2"), schedule, noise)
    else:
        expected = _by_hand(name, options, schedule, noise)
    torch.testing.assert_close(_sample(solver, schedule, noise), expected, rtol=1e-11, atol=1e-11)


@every_solver
def test_orders_beyond_the_solvers_are_its_own(name: str, options: Options) -> None:
    full = {"lower_order_final": False} if (name, options) in MEMORY else {}
    own, beyond = (
        _sample(build_solver(name, **options, **full), _schedule(EDM(), LEVELS, orders), _normal(3, 2))
        for orders in (None, (9,) * 4)
    )
    assert torch.equal(own, beyond)


@memory_solvers
def test_lower_order_final(name: str, options: Options) -> None:
    solver, falling = (build_solver(name, **options, lower_order_final=lowered) for lowered in (False, True))
    orders = tuple(min(solver.order, left) for left in range(9, 0, -1))
    assert (tuple(falling.orders(9)), solver.orders(9)) == (orders, [solver.order] * 9)
    expected = _sample(solver, _schedule(EDM(), MANY, orders), _normal(3, 2))
    assert torch.equal(_sample(falling, _schedule(EDM(), MANY), _normal(3, 2)), expected)
    # over few steps alone, but in UniPC
    many = falling.orders(15)
    assert many[-1] == (1 if name == "unipc" else solver.order)
    # a schedule's own orders come first
    asked = _schedule(EDM(), MANY, PATTERN)
    assert torch.equal(_sample(falling, asked, _normal(3, 2)), _sample(solver, asked, _normal(3, 2)))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("dpmpp_2m", {"order": 3}, r"dpmpp_2m has the orders \[1, 2\], not 3"),
        ("dpmpp_3m", {"order": 4}, r"dpmpp_3m has the orders \[1, 2, 3\], not 4"),
        ("deis", {"order": 4}, r"deis has the orders \[1, 2, 3\], not 4"),
        ("ipndm", {"order": 0}, r"ipndm has the orders \[1, 2, 3, 4\], not 0"),
        ("unipc", {"order": 4}, r"unipc has the orders \[1, 2, 3\], not 4"),
        ("deis", {"kind": "rhoab"}, "kind must be 'tab' or 'logrho', got 'rhoab'"),
        ("unipc", {"kind": "bh3"}, "kind must be 'bh1' or 'bh2', got 'bh3'"),
        ("heun", {"order": 1}, r"solver 'heun' does not take the parameters \['order'\]"),
    ],
)
def test_unknown_options(name: str, parameters: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_solver(name, **parameters)


@every_walk
@every_solver
def test_evaluations_are_as_announced(name: str, options: Options, walk: str) -> None:
    solver = build_solver(name, **options)
    for orders in (None, (2, 1, 3, 1), (1, 1, 1, 1)):
        schedule = _schedule(*WALKS[walk], orders)
        counted = CountedDenoiser(MIXTURE.denoiser(schedule.process))
        sample(counted, schedule, solver, _normal(3, 2))
        assert counted.evaluations == 3 * solver.nfe(schedule)
        if name not in dict(TWO_STAGE):
            assert solver.nfe(schedule) == schedule.steps
