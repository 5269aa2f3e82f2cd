"""Monitors against closed forms on Gaussian data, and what they ask of the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import PROCESSES, Watched, mixture_problem, noise, three_gaussians
from torch import Tensor

from optsteps import Schedule, SearchProblem, build_schedule
from optsteps.methods import AYS, CRS, TORS, Curvature, Entropic, Evaluations, Method, SolverMonitor
from optsteps.methods.ays.klub_table import CoupledTable
from optsteps.methods.monitors.curvature import smoothed
from optsteps.methods.monitors.tors import neighbourhoods, rotation
from optsteps.models.analytic import Gaussian
from optsteps.processes import EDM, VP
from optsteps.solvers import build_solver
from optsteps.storage.store import ShardStore
from optsteps.storage.workers import StoredWorkers
from optsteps.trajectories import Cache

DEVIATION = 0.5
ON_THE_WALK: list[Method] = [
    Curvature(),
    Curvature("art"),
    SolverMonitor(),
    SolverMonitor(1, "edm"),
    SolverMonitor(2, 0.7),
    SolverMonitor(3),
    TORS(),
]
ON_THE_TABLE: list[Method] = [Entropic(levels=20), Entropic("plain", levels=20), CRS(levels=20)]


def gaussian_problem(samples: int = 4, teacher_steps: int = 400) -> SearchProblem:
    """One Gaussian around 0 under an accurate teacher; noise of exactly unit size, so that the teacher's samples are of
    the data's."""
    unit = noise(samples, 3)
    unit = unit / unit.square().mean(1, keepdim=True).sqrt()
    data = Gaussian([0.0, 0.0, 0.0], DEVIATION)
    fine = build_schedule("edm", EDM(), teacher_steps, t_max=80.0, t_min=0.002)
    return SearchProblem(
        data.denoiser(EDM()), EDM(), build_solver("euler"), unit, fine, teacher_solver=build_solver("heun")
    )


def equal_shares(density: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """Noise levels of equal integrals of a density in noise level s, by brute force."""
    log_levels = torch.linspace(math.log(80.0), math.log(0.002), 200_001, dtype=torch.float64)
    levels = log_levels.exp()
    by_log_level = density(levels) * levels
    cumulated = ((by_log_level[1:] + by_log_level[:-1]) / 2).cumsum(0)
    shares = cumulated[-1] * torch.arange(1, steps, dtype=torch.float64) / steps
    return levels[torch.searchsorted(cumulated, shares)]


def bend(s: Tensor) -> Tensor:
    """x'' of the path x = e sqrt(s^2 + deviation^2)."""
    return DEVIATION**2 * (s**2 + DEVIATION**2) ** -1.5


def derivative(order: int) -> Callable[[Tensor], Tensor]:
    """|d^p D / d lambda^p| of D = deviation^2 e / sqrt(s^2 + deviation^2) at s = exp(-lambda)."""

    def of(s: Tensor) -> Tensor:
        log_snr = (-s.log()).requires_grad_()
        value = DEVIATION**2 / (torch.exp(-2 * log_snr) + DEVIATION**2).sqrt()
        for _ in range(order):
            (value,) = torch.autograd.grad(value.sum(), log_snr, create_graph=True)
        return value.detach().abs()

    return of


WEIGHTS: dict[Any, Callable[[Tensor], Tensor]] = {
    "edm": torch.ones_like,
    "flow": lambda s: 1 / (1 + s),
    1.0: lambda s: DEVIATION / (s**2 + DEVIATION**2).sqrt(),
}


@pytest.mark.parametrize("preset", ["sharp_euler", "art"])
@pytest.mark.parametrize("steps", [3, 10])
def test_curvature_of_a_gaussian_is_its_closed_form(preset: str, steps: int) -> None:
    """Density (w |x''|)^(1/2), w = 1 / (1 + s) in flow coordinates and 1 in EDM's."""
    found = Curvature(preset, smoothing=0.0).search(gaussian_problem(), [steps]).schedules[steps]
    weight = WEIGHTS["flow" if preset == "sharp_euler" else "edm"]
    expected = equal_shares(lambda s: (weight(s) * bend(s)).sqrt(), steps)
    torch.testing.assert_close(found.times[1:-1], expected, rtol=3e-3, atol=0)


@pytest.mark.parametrize("exponent", [0.33, 1.0])
def test_curvature_of_another_exponent(exponent: float) -> None:
    """In flow coordinates the second derivative is x'' (1 + s)^3 and the clock's step ds / (1 + s)^2."""
    found = Curvature(exponent=exponent, smoothing=0.0).search(gaussian_problem(), [6]).schedules[6]
    expected = equal_shares(lambda s: (bend(s) * (1 + s) ** 3) ** exponent / (1 + s) ** 2, 6)
    torch.testing.assert_close(found.times[1:-1], expected, rtol=3e-3, atol=0)


def test_curvature_does_not_inherit_the_density_of_the_teachers_times() -> None:
    problem = gaussian_problem()
    other = build_schedule("logsnr", EDM(), 400, t_max=80.0, t_min=0.002)
    of_edm, of_logsnr = (
        Curvature(smoothing=0.0).search(replace(problem, teacher=t), [8]).schedules[8].times
        for t in (problem.teacher, other)
    )
    torch.testing.assert_close(of_logsnr, of_edm, rtol=3e-3, atol=0)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_solver_monitor_of_a_gaussian_is_its_closed_form(order: int, weight: Any) -> None:
    found = SolverMonitor(order, weight).search(gaussian_problem(), [7]).schedules[7]

    def density(s: Tensor) -> Tensor:
        return (WEIGHTS[weight](s) * derivative(order)(s)) ** (1 / (order + 1)) / s

    torch.testing.assert_close(found.times[1:-1], equal_shares(density, 7), rtol=1e-2, atol=0)


def test_propagated_errors_of_a_gaussian_are_equal_on_the_arctan_schedule() -> None:
    """The cosine family with the data's deviation, which is optimal there (AYS, Theorem 3.1)."""
    found = SolverMonitor(1, 1.0).search(gaussian_problem(), [6]).schedules[6]
    arctan = build_schedule("cosine", EDM(), 6, t_max=80.0, t_min=0.002, scale=DEVIATION)
    torch.testing.assert_close(found.times, arctan.times, rtol=3e-3, atol=0)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("dpmpp_2m", 2), ("heun", 2), ("ipndm", 3)])
def test_solver_monitor_takes_the_students_order(solver: str, order: int) -> None:
    problem = replace(mixture_problem("edm", 3, 20), solver=build_solver(solver), teacher_solver=build_solver("euler"))
    assert SolverMonitor().search(problem, [4]).schedules[4] == SolverMonitor(order).search(problem, [4]).schedules[4]
    assert SolverMonitor().search(problem, [4]).schedules[4].metadata["order"] == order


def test_rotation_of_a_helix() -> None:
    angle = torch.linspace(0, 3, 80, dtype=torch.float64) ** 1.3
    radius, pitch = 2.0, 0.7
    helix = torch.stack([radius * angle.cos(), radius * angle.sin(), pitch * angle], 1)[None]
    length, curvature, torsion = rotation(helix, neighbourhoods(angle, 0.1))
    square = radius**2 + pitch**2
    torch.testing.assert_close(length.sum(1), (angle[-1:] * square**0.5), rtol=1e-3, atol=0)
    for found, expected in ((curvature, radius / square), (torsion, pitch / square)):
        torch.testing.assert_close(found[:, 4:-4], torch.full_like(found[:, 4:-4], expected), rtol=5e-3, atol=0)
        torch.testing.assert_close(found, torch.full_like(found, expected), rtol=5e-2, atol=0)


def test_tors_divides_the_curve_of_states_by_its_rotation() -> None:
    """A curve that turns on one stretch alone takes its steps there."""
    turning = (0.3, 0.6)

    def denoiser(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """A prediction that stands still but for a half circle while a flow's time is in the stretch."""
        u = (t / (1 + t)).to(x)
        angle = math.pi * ((u - turning[0]) / (turning[1] - turning[0])).clamp(0, 1)
        return torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)

    flat = build_schedule("time_uniform", PROCESSES["flow"], 100, t_max=0.98, t_min=0.01)
    walk = Schedule(flat.noise_levels, EDM())
    problem = SearchProblem(denoiser, EDM(), build_solver("euler"), noise(4, 3), walk)
    levels = TORS().search(problem, [8]).schedules[8].noise_levels[1:-1]
    u = levels / (1 + levels)
    assert float(u.min()) > turning[0] - 0.06
    assert float(u.max()) < turning[1] + 0.06


def test_tors_where_nothing_rotates_is_curvature() -> None:
    problem = gaussian_problem(teacher_steps=100)
    expected = Curvature(smoothing=0.0).search(problem, [5]).schedules[5]
    torch.testing.assert_close(TORS().search(problem, [5]).schedules[5].times, expected.times)


def exact_table() -> CoupledTable:
    """The table of a Gaussian of three entries by an exact denoiser, whose outputs are a martingale."""
    levels = torch.logspace(math.log10(80.0), math.log10(0.002), 257, dtype=torch.float64)
    errors = 3 * levels**2 * DEVIATION**2 / (levels**2 + DEVIATION**2)
    return CoupledTable(levels, 10 * (errors[:, None] - errors).abs()[None], 10 * errors[None], torch.tensor([10]))


@pytest.mark.parametrize(
    ("method", "density"),
    [
        (Entropic(), lambda s: 1 / (s**2 + DEVIATION**2)),
        (Entropic("plain"), lambda s: 1 / (s * (s**2 + DEVIATION**2))),
        # the derivative of s^2 d^2 / (s^2 + d^2)
        (CRS(), lambda s: s / (s**2 + DEVIATION**2) ** 2),
    ],
    ids=["rescaled", "plain", "crs"],
)
def test_rates_of_a_gaussian_are_their_closed_forms(method: Any, density: Callable[[Tensor], Tensor]) -> None:
    found = method.combine(gaussian_problem(), [9], [[exact_table()]]).schedules[9]
    torch.testing.assert_close(found.times[1:-1], equal_shares(density, 9), rtol=5e-3, atol=0)


@pytest.mark.parametrize("method", [Entropic(), CRS()], ids=["entropic", "crs"])
def test_measured_rates_are_near_the_exact_ones(method: Any) -> None:
    data = Gaussian(torch.zeros(48), DEVIATION)
    generator = torch.Generator().manual_seed(3)
    problem = replace(
        gaussian_problem(), denoiser=data.denoiser(EDM()), noise=noise(64, 48), data=data.sample(64, generator)
    )
    found = method.search(problem, [6])
    exact = method.combine(gaussian_problem(), [6], [[exact_table()]])
    torch.testing.assert_close(found.schedules[6].times, exact.schedules[6].times, rtol=0.1, atol=0)


@pytest.mark.parametrize("process", ["edm", "vp", "flow"])
@pytest.mark.parametrize("method", [*ON_THE_WALK, *ON_THE_TABLE], ids=lambda m: f"{m.name}")
def test_schedules_begin_and_end_where_the_teacher_does(process: str, method: Method) -> None:
    """Also where the noise level is infinite at the start, or 0 at the end; for every step count."""
    problem = mixture_problem(process, samples=3, teacher_steps=12)
    counts = list(range(1, 13))
    result = method.search(problem, counts)
    for n in counts:
        found = result.schedules[n]
        assert found.steps == n
        assert torch.equal(found.times[[0, -1]], problem.teacher.times[[0, -1]])
        assert found.initial_scale == problem.teacher.initial_scale
        if n > 1 and problem.teacher.ends_clean:
            assert found.times[-2] >= problem.teacher.times[-2]


def test_a_teacher_under_zero_terminal_snr() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    betas[-1] = 1.0
    process = VP.from_betas(betas)
    walk = build_schedule("time_uniform", process, 20, t_max=999.0, t_min=0.0, final="zero")
    problem = SearchProblem(three_gaussians().denoiser(process), process, build_solver("euler"), noise(3, 2), walk)
    for method in (*ON_THE_WALK, *ON_THE_TABLE):
        found = method.search(problem, [6]).schedules[6]
        assert found.times[[0, -1]].tolist() == [999.0, -1.0]


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("method", ON_THE_WALK, ids=lambda m: f"{m.name}")
def test_nothing_but_the_teachers_walk_is_evaluated(method: Method, solver: str) -> None:
    problem = replace(mixture_problem("edm", samples=5, teacher_steps=15), solver=build_solver(solver))
    watched = Watched(problem.denoiser)
    result = method.search(replace(problem, denoiser=watched), [3, 5, 8])
    assert sum(watched.batches) == 5 * problem.walker.nfe(problem.teacher) == 5 * result.nfe
    assert method.evaluations(problem, [3, 5, 8]) == Evaluations(sum(watched.batches), exact=True)


@pytest.mark.parametrize("with_data", [True, False])
@pytest.mark.parametrize("method", ON_THE_TABLE, ids=lambda m: f"{m.name}")
def test_rates_evaluate_a_table_and_no_more(method: Method, with_data: bool) -> None:
    problem = mixture_problem("edm", samples=5, teacher_steps=15)
    if with_data:
        problem = replace(problem, data=noise(7, 2, seed=4))
    watched = Watched(problem.denoiser)
    result = method.search(replace(problem, denoiser=watched), [3, 8])
    assert sum(watched.batches) == (7 * 21 if with_data else 5 * (21 + 15)) == round(5 * result.nfe)
    assert method.evaluations(problem, [3, 8]) == Evaluations(sum(watched.batches), exact=True)


def test_walk_and_table_are_shared_through_the_store(tmp_path: Path) -> None:
    """All monitors on the walk have the same table, and the rates have that of AYS on the same levels."""
    cache = Cache(StoredWorkers(ShardStore(tmp_path), {"model": 1}))
    problem = replace(mixture_problem("edm", samples=5, teacher_steps=15), cache=cache)
    watched = Watched(problem.denoiser)
    problem = replace(problem, denoiser=watched)
    AYS(levels=20, choose="optimum").search(problem, [3])
    for method in ON_THE_TABLE:
        assert method.search(problem, [3]).nfe == 21 + 15
    assert sum(watched.batches) == 5 * (21 + 15)
    Curvature().search(problem, [3])
    made = sum(watched.batches)
    for method in ON_THE_WALK:
        assert method.search(problem, [3]).nfe == 15
    assert sum(watched.batches) == made


@pytest.mark.parametrize("method", [Curvature, SolverMonitor, TORS, Entropic, CRS])
def test_shards_change_nothing(method: Callable[..., Method]) -> None:
    problem = mixture_problem("edm", samples=6, teacher_steps=15)
    whole, parts = (method(shard_size=size).search(problem, [4]).schedules[4] for size in (64, 4))
    torch.testing.assert_close(parts.times, whole.times, rtol=1e-9, atol=0)


def test_predictions_that_never_change_still_give_a_schedule() -> None:
    """Then every schedule is exact, and there is nothing to divide."""
    problem = mixture_problem("flow", samples=3, teacher_steps=10)
    still = replace(problem, denoiser=lambda x, t, cond=None: torch.ones_like(x))
    for method in (*ON_THE_WALK, CRS(levels=8)):
        assert method.search(still, [4]).schedules[4].steps == 4


def test_smoothing_keeps_what_is_constant_and_spreads_a_peak() -> None:
    torch.testing.assert_close(smoothed(torch.full((9,), 2.0).double(), 1.0), torch.full((9,), 2.0).double())
    peak = torch.zeros(41, dtype=torch.float64)
    peak[20] = 1.0
    spread = smoothed(peak, 2.0)
    place = torch.arange(41, dtype=torch.float64) - 20
    torch.testing.assert_close(spread.sum(), torch.ones(()).double())
    assert float((spread * place**2).sum()) == pytest.approx(4.0, rel=1e-2)
    assert torch.equal(smoothed(peak, 0.0), peak)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Curvature("sharp"), "preset must be one of sharp_euler, art, got 'sharp'"),
        (lambda: Curvature(coordinates="vp"), "coordinates must be 'flow' or 'edm', got 'vp'"),  # type: ignore[arg-type]
        (lambda: Curvature(exponent=-1.0), "exponent must be finite and not negative, got -1.0"),
        (lambda: Curvature(smoothing=math.inf), "smoothing must be finite and not negative, got inf"),
        (lambda: SolverMonitor(order=4), "order must be 1, 2, 3 or None for the student's, got 4"),
        (lambda: SolverMonitor(weight=0.0), "a weight is 'edm', 'flow' or a positive number, got 0.0"),
        (lambda: TORS(window=0.0), "window must be a share of the clock, above 0 and at most 1, got 0.0"),
        (lambda: Entropic("blurred"), "density must be 'rescaled' or 'plain', got 'blurred'"),  # type: ignore[arg-type]
        (lambda: CRS(levels=0), "must be at least 1"),
    ],
)
def test_settings_that_are_refused(make: Callable[[], Method], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_problems_that_are_refused() -> None:
    problem = mixture_problem("edm", samples=2, teacher_steps=10)
    with pytest.raises(ValueError, match=r"curvature compares .* stochastic solver 'ddim_stochastic'"):
        Curvature().check(replace(problem, solver=build_solver("ddim_stochastic")), [3])
    with pytest.raises(ValueError, match="11 student steps were asked for, but the teacher has only 10"):
        TORS().check(problem, [11])
    for process, least in (("edm", 4), ("flow", 5)):  # where a flow starts, no difference can be taken
        few, enough = (mixture_problem(process, 2, steps) for steps in (least - 1, least))
        with pytest.raises(
            ValueError, match=f"solver_monitor needs a teacher of at least {least} steps, got {least - 1}"
        ):
            SolverMonitor(3).check(few, [2])
        assert SolverMonitor(3).search(enough, [2]).schedules[2].steps == 2
    Entropic().check(replace(problem, solver=build_solver("ddim_stochastic")), [3])
