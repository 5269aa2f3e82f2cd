"""KLUB against closed forms on Gaussian data, brute force on small grids, and one estimator against the other."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize
from torch import Tensor

from optsteps import build_schedule
from optsteps.denoisers import Denoiser, GuidedDenoiser
from optsteps.methods.ays.coordinate_search import descend, interpolated, sweep, with_midpoints
from optsteps.methods.ays.klub import TabulatedKlub
from optsteps.methods.ays.klub_monte_carlo import MonteCarloKlub, gaussian_term
from optsteps.methods.ays.klub_table import CoupledTable
from optsteps.models.analytic import Gaussian, GaussianMixture
from optsteps.models.base import pretrained
from optsteps.noise import sample_generator, unit_noise
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.solvers import build_solver
from optsteps.trajectories import Trajectories

GAUSSIANS = [(0.25, 1), (0.25, 64), (1.0, 1), (1.0, 64)]
MIXTURE = GaussianMixture([[-2.0, 0.0], [2.0, 0.5], [0.0, 2.0]], [0.3, 0.2, 0.5], [1.0, 2.0, 1.0])


def edm(steps: int, t_max: float = 80.0, t_min: float = 0.002) -> Tensor:
    return build_schedule("edm", EDM(), steps, t_max=t_max, t_min=t_min).times


def log_grid(steps: int, t_max: float = 80.0, t_min: float = 0.002) -> Tensor:
    return build_schedule("logsnr", EDM(), steps, t_max=t_max, t_min=t_min).times


def measured(mixture: GaussianMixture, levels: Tensor, samples: int, process: Process | None = None) -> CoupledTable:
    process = process or EDM()
    data = mixture.sample(samples, torch.Generator().manual_seed(0))
    return CoupledTable.joined(
        [
            block(mixture.denoiser(process), process, data[part], levels, part)
            for part in torch.arange(samples).split(16)
        ]
    )


def block(denoiser: Denoiser, process: Process, data: Tensor, levels: Tensor, numbers: Tensor) -> CoupledTable:
    return CoupledTable.measure(
        denoiser, process, data, None, levels, [sample_generator(3, k) for k in numbers.tolist()]
    )


def moments(levels: Tensor, c: float) -> Tensor:
    """E D_s D_t per dimension of Gaussian data along one noising path: D = c^2 y / (c^2 + rho^2), and the covariance of
    y_s and y_t is c^2 + min(rho_s, rho_t)^2."""
    gain = c**2 / (c**2 + levels**2)
    return gain[:, None] * gain[None, :] * (c**2 + torch.minimum(levels[:, None], levels[None, :]) ** 2)


def closed_form(levels: Tensor, c: float, order: int) -> float:
    """The bound per dimension of Gaussian data, as a quadratic form of the outputs, integrated by scipy."""
    total = 0.0
    for i in range(len(levels) - 1):
        noisy, clean = levels[i].item(), levels[i + 1].item()
        r = 0.0
        if order == 2 and i > 0:
            r = math.log(noisy / clean) / (2 * math.log(levels[i - 1].item() / noisy))
        before = levels[max(i - 1, 0)].item()

        def integrand(u: float, noisy: float = noisy, before: float = before, r: float = r) -> float:
            visited = torch.tensor([(2 * u) ** -0.5, noisy, before], dtype=torch.float64)
            held = torch.tensor([1.0, -(1 + r), r], dtype=torch.float64)
            return float(held @ moments(visited, c) @ held)

        total += quad(integrand, noisy**-2 / 2, clean**-2 / 2, epsabs=0, epsrel=1e-10, limit=200)[0]
    return total


# the terms -----------------------------------------------------------------------------------------------------------


@given(st.floats(0.05, 5), st.floats(1e-3, 50), st.floats(1.01, 1e4))
@settings(max_examples=100, deadline=None)
def test_the_gaussian_term_is_its_integral(c: float, clean: float, ratio: float) -> None:
    noisy = clean * ratio

    def integrand(t: float) -> float:
        return t**-3 * (1 / (t**2 + c**2) - 1 / (noisy**2 + c**2))

    expected, _ = quad(integrand, clean, noisy, epsabs=0, epsrel=1e-9, limit=200)
    found = gaussian_term(c, *torch.tensor([noisy, clean], dtype=torch.float64))
    # the primitive's terms, of the size of 1 / (c rho)^2, cancel over a short interval and far above c
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-14 / (c * clean) ** 2)


def test_order_1_in_closed_form() -> None:
    levels = edm(6)
    expected = sum(gaussian_term(0.7, levels[i], levels[i + 1]).item() for i in range(6)) * 0.7**4
    assert closed_form(levels, 0.7, 1) == pytest.approx(expected, rel=1e-7)


# the estimators ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("c", "d"), GAUSSIANS)
def test_both_estimators_on_gaussian_data(c: float, d: int, order: int) -> None:
    data = Gaussian(torch.zeros(d), c)
    table = measured(data, log_grid(128), 512)
    for n in (5, 10):
        schedule = table.klub().snap(edm(n))
        expected = d * closed_form(schedule, c, order)
        value, error, bound = table.estimate(schedule, order)
        assert abs(value - expected) < 3 * error + bound
        assert error < 0.15 * expected
        samples = data.sample(2000, torch.Generator().manual_seed(1))
        klub = MonteCarloKlub(data.denoiser(EDM()), EDM(), samples, order=order, seed=2)
        before = [math.nan, *schedule[:-2].tolist()]
        terms = [
            klub.samples(*walk) for walk in zip(before, schedule[:-1].tolist(), schedule[1:].tolist(), strict=True)
        ]
        deviation = math.sqrt(sum(term.var().item() / len(term) for term in terms))
        assert abs(sum(term.mean().item() for term in terms) - expected) < 3.5 * deviation
        assert deviation < 0.15 * expected


def test_importance_sampling_has_no_variance_from_the_level_on_gaussian_data() -> None:
    """With c the data's own, |D_rho - D_i|^2 / w has one distribution whatever rho: a chi-square of its dimension."""
    data = Gaussian(torch.zeros(64), 0.5)
    klub = MonteCarloKlub(data.denoiser(EDM()), EDM(), data.sample(2000, torch.Generator().manual_seed(0)), c=0.5)
    drawn = klub.samples(math.nan, 5.0, 0.01)
    assert (drawn.std() / drawn.mean()).item() == pytest.approx(math.sqrt(2 / 64), rel=0.1)


def test_the_quadrature_error_is_bounded() -> None:
    """An exact table has the trapezoidal rule's error alone."""
    for steps in (24, 48, 96):
        levels = log_grid(steps)
        sums = moments(levels, 0.5)
        squares = sums.diagonal()
        table = CoupledTable(levels, (squares[:, None] + squares - 2 * sums)[None], squares[None], torch.tensor([1]))
        for schedule in (levels[::6], levels[[0, 3, 4, 9, 15, steps]]):
            for order in (1, 2):
                klub = TabulatedKlub(levels, table.sums[0], order)
                coarse = TabulatedKlub(levels, table.sums[0], order, stride=2)
                error = abs(klub.of(schedule).item() - closed_form(schedule, 0.5, order))
                assert error <= abs(klub.of(schedule) - coarse.of(schedule)).item() + 1e-9 * error


def test_every_process_has_the_same_table() -> None:
    levels = log_grid(24, 10.0, 0.05)
    expected = measured(MIXTURE, levels, 32)
    for process in (VP.linear(), Flow()):
        found = measured(MIXTURE, levels, 32, process)
        torch.testing.assert_close(found.sums, expected.sums, rtol=1e-6, atol=1e-9)


def test_an_exact_denoiser_is_a_martingale_along_the_noising_path() -> None:
    table = measured(MIXTURE, log_grid(48, 20.0, 0.02), 2048)
    differences = table.sums / table.counts[:, None, None]
    mmse = table.errors / table.counts[:, None]
    gap = differences - (mmse[:, :, None] - mmse[:, None, :])
    error = gap.std(0) / math.sqrt(len(gap))
    z = (gap.mean(0).abs() / error.clamp(min=1e-9)).triu(1)
    assert (z < 4.5).all(), z.max()
    schedule = table.klub().snap(edm(8, 20.0, 0.02))
    value, error_of_value, _ = table.estimate(schedule)
    assert table.klub(exact=True).of(schedule).item() == pytest.approx(value, abs=4 * error_of_value)


def test_the_jackknife_is_the_error_of_repetitions() -> None:
    schedule = edm(6, 20.0, 0.02)
    levels = log_grid(24, 20.0, 0.02)
    values, errors = [], []
    for seed in range(40):
        data = MIXTURE.sample(128, torch.Generator().manual_seed(seed))
        blocks = [
            block(MIXTURE.denoiser(EDM()), EDM(), data[part], levels, 1000 * seed + part)
            for part in torch.arange(128).split(8)
        ]
        value, error, _ = CoupledTable.joined(blocks).estimate(schedule)
        values.append(value)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.35)


def test_guidance_is_in_the_table() -> None:
    """Guided outputs differ from each other by the scale times as much where only the guided part moves."""

    def denoiser(x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return x * cond[:, None]

    data, levels = torch.ones(4, 2, dtype=torch.float64), log_grid(6, 2.0, 0.1)
    generators = [[sample_generator(0, k) for k in range(4)] for _ in range(2)]
    cond, null = torch.ones(4, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    plain = CoupledTable.measure(denoiser, EDM(), data, cond, levels, generators[0])
    guided = CoupledTable.measure(GuidedDenoiser(denoiser, 3.0, null), EDM(), data, cond, levels, generators[1])
    torch.testing.assert_close(guided.sums, 9 * plain.sums)


# searches ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_the_programme_finds_the_least_bound_of_all(order: int, seed: int) -> None:
    levels = log_grid(9, 5.0, 0.05)
    points = torch.randn(10, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    klub = TabulatedKlub(levels, torch.cdist(points, points) ** 2, order)
    for steps in (1, 2, 4, 9):
        every = [klub.of(levels[[0, *inner, 9]]).item() for inner in itertools.combinations(range(1, 9), steps - 1)]
        found = klub.optimum(steps)
        assert len(found) == steps + 1
        assert klub.of(found).item() == pytest.approx(min(every), rel=1e-12)
    with pytest.raises(ValueError, match="a grid of 9 steps has no schedule of 10"):
        klub.optimum(10)


def test_the_programme_finds_scipy_s_minimum_within_the_grid_s_resolution() -> None:
    c, levels = 0.5, log_grid(400, 80.0, 0.002)
    sums = moments(levels, c)
    squares = sums.diagonal()
    found = TabulatedKlub(levels, squares[:, None] + squares - 2 * sums).optimum(6)

    def bound(inner: np.ndarray) -> float:
        schedule = torch.cat([levels[:1], torch.tensor(inner).exp(), levels[-1:]])
        return gaussian_term(c, schedule[:-1], schedule[1:]).sum().item() * c**4

    best = minimize(bound, found[1:-1].log().numpy(), method="Nelder-Mead", options={"xatol": 1e-6, "maxiter": 20_000})
    resolution = math.log(80.0 / 0.002) / 400
    assert np.abs(found[1:-1].log().numpy() - best.x).max() < 2 * resolution
    assert bound(found[1:-1].log().numpy()) < best.fun * 1.001


@pytest.mark.parametrize("order", [1, 2])
def test_descent_falls_until_no_candidate_is_better(order: int) -> None:
    table = measured(MIXTURE, log_grid(96), 64)
    klub = table.klub(order)
    path = descend(klub, edm(8))
    bounds = klub.of(path)
    assert (bounds.diff() < 0).all()
    assert len(path) > 3
    assert (path[:, 0] == 80).all()
    assert (path[:, -1] == 0.002).all()
    assert (path.diff(dim=1) < 0).all()
    last = path[-1]
    assert torch.equal(sweep(klub, last), last)
    for i in range(1, 8):  # by hand: eleven candidates, evenly spread in log to either neighbour
        for k in range(-5, 6):
            neighbour = last[i + 1] if k > 0 else last[i - 1]
            tried = last.clone()
            tried[i] = klub.snap((last[i] * (neighbour / last[i]) ** (abs(k) / 6))[None])[0]
            if (tried.diff() < 0).all():
                assert klub.of(tried) >= bounds[-1] - 1e-12
    assert klub.of(klub.optimum(8)) <= bounds[-1]
    assert torch.equal(descend(klub, edm(8), max_sweeps=2), path[:3])
    with pytest.raises(ValueError, match="candidates must be odd"):
        descend(klub, edm(8), candidates=4)


def test_more_steps_from_fewer() -> None:
    levels = edm(10)
    finer, new = with_midpoints(levels)
    assert torch.equal(finer[~new], levels)
    torch.testing.assert_close(finer[new].log(), (levels.log()[:-1] + levels.log()[1:]) / 2)
    moved = descend(measured(MIXTURE, log_grid(96), 64).klub(), finer, movable=new)
    assert torch.equal(moved[-1][~new], moved[0][~new])
    torch.testing.assert_close(interpolated(finer, 10), levels)
    torch.testing.assert_close(interpolated(levels, 20), finer)
    assert (interpolated(levels, 7).diff() < 0).all()
    assert torch.equal(interpolated(levels, 7)[[0, -1]], levels[[0, -1]])


def test_errors() -> None:
    levels = log_grid(4)
    with pytest.raises(ValueError, match="order 1 and 2, not 3"):
        TabulatedKlub(levels, torch.zeros(5, 5), order=3)
    with pytest.raises(ValueError, match="order 1 and 2, not 0"):
        MonteCarloKlub(MIXTURE.denoiser(EDM()), EDM(), torch.zeros(1, 2), order=0)
    with pytest.raises(ValueError, match="c is a standard deviation and must be positive, got -1"):
        MonteCarloKlub(MIXTURE.denoiser(EDM()), EDM(), torch.zeros(1, 2), c=-1)


@pytest.mark.slow
def test_a_learned_network() -> None:
    """Ten schedules of the shipped model: the coupled table against Monte Carlo with eight times the samples, other
    data and fresh noise for every interval. Data are the model's own samples."""
    model = pretrained("mnist", "shipped:mnist", EDM(), torch.device("cpu"), [1, 28, 28], 80.0, 0.002)
    count, more = 128, 1024
    index = range(count + more)
    labels = model.cond(index, torch.device("cpu"))
    assert labels is not None
    start = build_schedule("logsnr", EDM(), 8, t_max=80.0, t_min=0.002)
    noise = unit_noise(0, index, model.shape)
    data = Trajectories(model.denoiser).ends(start, build_solver("dpmpp_2m"), noise, labels)
    levels = log_grid(64)
    table = CoupledTable.joined(
        [
            CoupledTable.measure(
                model.denoiser, EDM(), data[part], labels[part], levels, [sample_generator(5, int(k)) for k in part]
            )
            for part in torch.arange(count).split(16)
        ]
    )
    fresh = MonteCarloKlub(model.denoiser, EDM(), data[count:], labels[count:], seed=9)
    descents = [descend(table.klub(), edm(6), sweeps)[-1] for sweeps in (3, 300)]
    schedules = [table.klub().snap(make(n)) for make in (edm, log_grid) for n in (3, 4, 5, 7)] + descents
    assert len(schedules) == 10
    for schedule in schedules:
        value, error, quadrature = table.estimate(schedule)
        terms = [fresh.samples(math.nan, *ends) for ends in itertools.pairwise(schedule.tolist())]
        truth = sum(term.mean().item() for term in terms)
        spread = math.sqrt(sum(term.var().item() / more for term in terms))
        print(f"{len(schedule) - 1} steps: {value:.0f} +- {error:.0f} +- {quadrature:.0f}, {truth:.0f} +- {spread:.0f}")
        assert abs(value - truth) < 3 * math.hypot(error, spread) + quadrature
