"""The solver on the data's Gaussian: its error against walks of whole samples, its optimum against a closed form."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from problems import Watched, mixture_problem, noise, unet_problem
from torch import Tensor

from optsteps.denoisers import expand
from optsteps.methods import Gaussian, HandMade, SearchProblem
from optsteps.methods.bounds.gaussian import GaussianError, covariance_spectrum
from optsteps.processes import EDM
from optsteps.sampling import sample
from optsteps.schedules import build_schedule
from optsteps.solvers import build_solver

SOLVERS = ["euler", "dpmpp_2m", "dpmpp_3m", "unipc", "ipndm", "deis", "heun", "dpmpp_2s"]


def covariance() -> Tensor:
    factor = noise(5, 4, seed=3) * torch.tensor([2.0, 1.0, 0.3, 0.1], dtype=torch.float64)
    return factor.T @ factor / 5


def gaussian_problem(process: str, solver: str = "euler", teacher_steps: int = 12) -> SearchProblem:
    """A model whose data are Gaussian with that covariance."""
    problem, matrix = mixture_problem(process, samples=4, teacher_steps=teacher_steps), covariance()
    clock = problem.process

    def denoiser(x: Tensor, t: Tensor, cond: object = None) -> Tensor:
        alpha, sigma = (expand(part, x[:, :, None]) for part in (clock.alpha(t), clock.sigma(t)))
        noisy = alpha**2 * matrix + sigma**2 * torch.eye(4, dtype=torch.float64)
        return (alpha * matrix @ torch.linalg.solve(noisy, x[:, :, None]))[:, :, 0]

    return replace(problem, denoiser=denoiser, noise=noise(4, 4), solver=build_solver(solver))


@pytest.mark.parametrize("process", ["edm", "vp", "flow"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_error_is_that_of_walks_of_whole_samples(process: str, solver: str) -> None:
    """A walk of a linear model maps the noise by a matrix, the exact ODE by the root of a quotient of covariances."""
    problem, matrix = gaussian_problem(process, solver), covariance()
    error = GaussianError(problem, torch.linalg.eigvalsh(matrix), torch.ones(4, dtype=torch.float64))
    places = torch.linspace(*error.inner_ends, 6, dtype=torch.float64)
    schedule = replace(problem.teacher, times=error.times(places))
    walked = sample(problem.denoiser, schedule, problem.solver, torch.eye(4, dtype=torch.float64))
    alpha, sigma = problem.process.alpha(schedule.times), problem.process.sigma(schedule.times)
    values, vectors = torch.linalg.eigh(matrix)
    ends = [(alpha[k] ** 2 * values + sigma[k] ** 2).sqrt() for k in (0, -1)]
    exact = schedule.scale * vectors @ torch.diag(ends[1] / ends[0]) @ vectors.T
    expected = (walked - exact).norm() / exact.norm()
    torch.testing.assert_close(error(places), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("process", ["edm", "vp", "flow"])
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "unipc", "heun"])
def test_its_gradient_is_that_of_finite_differences(process: str, solver: str) -> None:
    problem = gaussian_problem(process, solver)
    error = GaussianError(problem, torch.tensor([3.0, 0.2, 0.01]).double(), torch.tensor([1.0, 1.0, 5.0]).double())
    first, last = error.inner_ends
    places = (first + (last - first) * torch.tensor([0.0, 0.31, 0.42, 0.77, 1.0]).double()).requires_grad_()
    (gradient,) = torch.autograd.grad(error(places), places)
    for k in range(1, 4):
        step = torch.zeros(5, dtype=torch.float64)
        step[k] = 1e-5
        with torch.no_grad():
            slope = (error(places + step) - error(places - step)) / 2e-5
        torch.testing.assert_close(gradient[k], slope, rtol=1e-4, atol=1e-7)


def test_for_isotropic_data_and_euler_it_is_uniform_in_arctan() -> None:
    """With s = c tan(a) every step of Euler multiplies by the cosine of its angle, so equal angles are best."""
    problem = mixture_problem("edm", samples=2, teacher_steps=10)
    data = 0.7 * torch.eye(40, dtype=torch.float64)[torch.arange(400) % 40] * noise(400, 1).sign()
    data = torch.cat([data, -data])
    variances, _ = covariance_spectrum(data)
    torch.testing.assert_close(variances, variances.mean().expand(40), rtol=1e-9, atol=0)
    found = Gaussian(starts=["logsnr"]).search(replace(problem, data=data), [6]).schedules[6]
    expected = build_schedule("cosine", EDM(), 6, 80.0, 0.002, scale=float(variances.mean()) ** 0.5)
    torch.testing.assert_close(found.times, expected.times, rtol=2e-3, atol=0)


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("process", ["edm", "vp", "flow"])
def test_no_schedule_of_a_grid_errs_less(process: str, solver: str) -> None:
    problem = replace(gaussian_problem(process, solver), data=noise(50, 4) @ torch.linalg.cholesky(covariance()).T)
    found = Gaussian().search(problem, [3])
    error = GaussianError(problem, *covariance_spectrum(problem.data))
    grid = torch.linspace(*error.inner_ends, 20, dtype=torch.float64)
    tried = [float(error(grid[[0, *inner, 19]])) for inner in combinations(range(1, 19), 2)]
    assert found.evidence["errors"][3] <= min(tried)
    schedule = found.schedules[3]
    assert schedule.times[[0, -1]].tolist() == problem.teacher.times[[0, -1]].tolist()
    assert found.evidence["errors"][3] == pytest.approx(
        float(error(problem.process.log_snr(schedule.times).clamp(*error.inner_ends)))
    )
    assert found.nfe == 0


@pytest.mark.parametrize(("size", "entries"), [(40, 6), (5, 12), (2, 3)])
def test_the_spectrum_is_that_of_the_shrunk_covariance(size: int, entries: int) -> None:
    samples = noise(size, entries) * torch.linspace(0.2, 3, entries, dtype=torch.float64) + 5.0
    matrix = torch.cov(samples.T)
    trace, squares = matrix.trace(), (matrix @ matrix).trace()
    share = ((1 - 2 / entries) * squares + trace**2) / ((size + 1 - 2 / entries) * (squares - trace**2 / entries))
    share = min(1.0, float(share))
    expected = torch.linalg.eigvalsh((1 - share) * matrix + share * trace / entries * torch.eye(entries).double())
    values, counts = covariance_spectrum(samples)
    found = torch.cat([value.expand(int(count)) for value, count in zip(values, counts, strict=True)])
    torch.testing.assert_close(found.sort().values, expected, rtol=1e-9, atol=1e-12)


def test_few_samples_say_little_about_directions() -> None:
    wide = noise(6, 50)
    values, counts = covariance_spectrum(wide)
    assert int(counts.sum()) == 50
    largest = float(torch.linalg.eigvalsh(torch.cov(wide.T))[-1])
    assert 1 < float(values[0]) < largest / 2  # of the identity
    assert float(values[-1]) > 0.5
    with pytest.raises(ValueError, match="all the same"):
        covariance_spectrum(torch.ones(3, 4))


def test_only_the_teacher_is_walked_and_not_even_that_where_there_are_data() -> None:
    problem = unet_problem(torch.float32, samples=5, teacher_steps=7)
    watched = Watched(problem.denoiser)
    problem = replace(problem, denoiser=watched)
    whole = Gaussian().search(problem, [2, 4])
    assert whole.nfe == 7
    assert sum(watched.batches) == 5 * 7 == Gaussian().evaluations(problem, [2, 4]).count
    shards = Gaussian(shard_size=2).search(problem, [2, 4])
    for n in (2, 4):
        torch.testing.assert_close(shards.schedules[n].times, whole.schedules[n].times, rtol=1e-4, atol=0)
    assert whole.schedules[4].metadata["source"] == "teacher"
    watched.batches.clear()
    given = Gaussian().search(replace(problem, data=noise(20, 1, 8, 8)), [2])
    assert (given.nfe, watched.batches, given.schedules[2].metadata["source"]) == (0, [], "data")


def test_it_beats_the_hand_made_where_data_are_gaussian() -> None:
    for process in ("edm", "vp"):
        problem = gaussian_problem(process, teacher_steps=200)
        problem = replace(problem, noise=noise(200, 4), teacher_solver=build_solver("heun"))
        exact = sample(problem.denoiser, problem.teacher, problem.walker, problem.noise)
        schedules = [method.search(problem, [5]).schedules[5] for method in (Gaussian(), HandMade("logsnr"))]
        ours, theirs = (
            float((sample(problem.denoiser, s, problem.solver, problem.noise) - exact).square().mean())
            for s in schedules
        )
        assert ours < 0.5 * theirs


def test_one_step_and_what_it_cannot_take() -> None:
    problem = gaussian_problem("flow")
    assert Gaussian().search(problem, [1]).schedules[1].times.tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="deterministic"):
        Gaussian().search(replace(problem, solver=build_solver("ddim_stochastic")), [3])
    with pytest.raises(ValueError, match="needs clean samples"):
        Gaussian("data").search(problem, [3])
    with pytest.raises(ValueError, match="at least 2"):
        Gaussian().search(replace(problem, noise=problem.noise[:1]), [3])
    with pytest.raises(ValueError, match="source must be"):
        Gaussian("noise")
    with pytest.raises(ValueError, match=r"starts must be some of .*, got \('published',\)|got \['published'\]"):
        Gaussian(starts=("published",))
    with pytest.raises(ValueError, match="starts must be"):
        Gaussian(starts=["nonsense"])
    with pytest.raises(ValueError, match="least_gap must be"):
        Gaussian(least_gap=-0.1)
