import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from optsteps import Schedule, build_schedule, sample
from optsteps.models.analytic import Gaussian, GaussianMixture
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.solvers import build_solver

PROCESSES: dict[str, Process] = {"edm": EDM(), "vp": VP.linear(), "flow": Flow()}
# noise levels from 1/20 to 20 and the infinite one
LEVELS = [0.05, 0.5, 2.0, 20.0]


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _mixture(count: int, dimension: int, seed: int = 0) -> GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    stds, weights = torch.rand(2, count, generator=generator, dtype=torch.float64) + 0.2
    return GaussianMixture(2 * _normal(count, dimension, seed=seed + 1), stds, weights)


def _scipy_log_prob(mix: GaussianMixture, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> np.ndarray:
    parts = [
        math.log(weight) + stats.multivariate_normal(alpha * mean, (alpha * std) ** 2 + sigma**2).logpdf(x.numpy())
        for mean, std, weight in zip(mix.means.numpy(), mix.stds.tolist(), mix.weights.tolist(), strict=True)
    ]
    return np.logaddexp.reduce(np.stack(parts), axis=0)


@pytest.mark.parametrize("dimension", [1, 2, 5, 64])
def test_log_prob_is_scipys(dimension: int) -> None:
    mix, x = _mixture(3, dimension), 2 * _normal(6, dimension, seed=5)
    np.testing.assert_allclose(mix.log_prob(x), _scipy_log_prob(mix, x), rtol=1e-10)
    for process in PROCESSES.values():
        t = process.time_of_noise_level(LEVELS)
        for row, time in zip(x, t, strict=False):
            alpha, sigma = process.alpha(time).item(), process.sigma(time).item()
            expected = _scipy_log_prob(mix, row[None], alpha, sigma).item()
            assert mix.noisy_log_prob(process, row[None], time).item() == pytest.approx(expected, rel=1e-10)


def test_density_integrates_to_one() -> None:
    line = torch.linspace(-15, 15, 1501, dtype=torch.float64)
    assert torch.trapezoid(_mixture(3, 1).log_prob(line[:, None]).exp(), line).item() == pytest.approx(1, abs=1e-9)
    line = torch.linspace(-12, 12, 401, dtype=torch.float64)
    density = _mixture(3, 2).log_prob(torch.cartesian_prod(line, line)).exp().reshape(401, 401)
    assert torch.trapezoid(torch.trapezoid(density, line), line).item() == pytest.approx(1, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(list(PROCESSES.values())), st.sampled_from(LEVELS), st.integers(0, 2**16))
def test_denoiser_is_the_posterior_mean_by_quadrature(process: Process, level: float, seed: int) -> None:
    mix, t = _mixture(3, 1, seed), process.time_of_noise_level([level])
    alpha, sigma = process.alpha(t), process.sigma(t)
    x_0 = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
    x = alpha * mix.sample(4, torch.Generator().manual_seed(seed)) + sigma * _normal(4, 1, seed=seed)
    posterior = mix.log_prob(x_0[:, None]) - 0.5 * ((x - alpha * x_0) / sigma) ** 2  # [4, points], unnormalised log
    mean = (posterior.softmax(1) * x_0).sum(1)
    np.testing.assert_allclose(mix.denoiser(process)(x, t.expand(4))[:, 0], mean, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_denoiser_is_the_posterior_mean_by_monte_carlo(process: Process) -> None:
    mix, t = _mixture(4, 3), process.time_of_noise_level([1.5])
    alpha, sigma = process.alpha(t), process.sigma(t)
    x, x_0 = alpha * _normal(2, 3), mix.sample(200_000, torch.Generator().manual_seed(1))
    for row in x:
        weights = (-0.5 * ((row - alpha * x_0) ** 2).sum(1) / sigma**2).softmax(0)[:, None]
        mean = (weights * x_0).sum(0)
        error = ((weights * (x_0 - mean)) ** 2).sum(0).sqrt()  # of the self-normalised estimate
        assert bool(((mix.denoiser(process)(row[None], t)[0] - mean).abs() < 4 * error).all())


@pytest.mark.parametrize("dimension", [1, 2, 7])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_score_and_denoiser_follow_from_the_density(process: Process, dimension: int) -> None:
    mix, t = _mixture(3, dimension), process.time_of_noise_level(LEVELS)
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    x = (alpha * mix.sample(4, torch.Generator().manual_seed(2)) + sigma * _normal(4, dimension)).requires_grad_()
    (score,) = torch.autograd.grad(mix.noisy_log_prob(process, x, t).sum(), x)
    torch.testing.assert_close(mix.score(process, x, t), score, rtol=1e-10, atol=1e-12)
    # Tweedie: the posterior mean is (x + sigma^2 score) / alpha
    tweedie = (x + sigma**2 * score) / alpha
    torch.testing.assert_close(mix.denoiser(process)(x, t), tweedie, rtol=1e-9, atol=1e-9)


def test_ends_of_the_range() -> None:
    mix, x = _mixture(3, 2), _normal(5, 2)
    ones, zeros = torch.ones(5).double(), torch.zeros(5).double()
    mean = (mix.weights[:, None] * mix.means).sum(0).expand(5, 2)
    torch.testing.assert_close(mix.denoiser(Flow())(x, ones), mean)
    torch.testing.assert_close(mix.denoiser(EDM())(x, zeros), x)
    torch.testing.assert_close(mix.noisy_log_prob(VP.linear(), x, -ones), mix.log_prob(x))


def test_components_of_no_width() -> None:
    # two points at -1 and 1: the posterior mean is tanh(x / t^2)
    points = GaussianMixture(torch.tensor([[-1.0], [1.0]]), torch.zeros(2))
    x, t = _normal(6, 1), torch.linspace(0.3, 2, 6, dtype=torch.float64)
    torch.testing.assert_close(points.denoiser(EDM())(x, t), torch.tanh(x / t[:, None] ** 2))
    assert set(points.sample(50, torch.Generator().manual_seed(0)).flatten().tolist()) == {-1, 1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_of_the_samples_is_kept(dtype: torch.dtype) -> None:
    mix, x, t = _mixture(3, 2), _normal(4, 2).to(dtype), torch.full((4,), 2.0).double()
    for out in (mix.log_prob(x), mix.score(EDM(), x, t), mix.denoiser(EDM())(x, t)):
        assert out.dtype == dtype
    assert mix.sample(3).dtype == torch.float64


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_flow_map_of_a_gaussian_is_the_limit_of_heun(process: Process) -> None:
    gaussian = Gaussian(torch.tensor([1.0, -2.0]), 0.3)
    t_max, t_min = process.time_of_noise_level([10.0, 0.05]).tolist()
    schedule = build_schedule("logsnr", process, steps=400, t_max=t_max, t_min=t_min)
    path = sample(gaussian.denoiser(process), schedule, build_solver("heun"), _normal(5, 2), return_trajectory=True)
    t = schedule.times
    for k in (150, 400):
        exact = gaussian.flow_map(process, path[0], t[0], t[k])
        torch.testing.assert_close(path[k], exact, rtol=0, atol=1e-4)
    halfway = gaussian.flow_map(process, path[0], t[0], t[150])
    torch.testing.assert_close(gaussian.flow_map(process, halfway, t[150], t[400]), exact, rtol=1e-12, atol=1e-12)


def test_flow_map_carries_noise_to_data() -> None:
    x = _normal(4, 2)
    out = Gaussian(torch.tensor([1.0, -2.0]), 0.3).flow_map(Flow(), x, torch.tensor(1.0), torch.tensor(0.0))
    torch.testing.assert_close(out, torch.tensor([1.0, -2.0]) + 0.3 * x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("std", [0.1, 1 / 3])
def test_a_gaussian_has_exactly_its_parameters(std: float) -> None:
    gaussian = Gaussian([0.1, 0.7], std)
    assert (gaussian.stds.item(), gaussian.means.tolist(), gaussian.dimension) == (std, [[0.1, 0.7]], 2)


@pytest.mark.parametrize("dimension", [1, 3, 16])
def test_moments_of_samples(dimension: int) -> None:
    mix, n = _mixture(4, dimension), 100_000
    x = mix.sample(n, torch.Generator().manual_seed(3)).numpy()
    weights, means, stds = mix.weights.numpy(), mix.means.numpy(), mix.stds.numpy()
    mean = weights @ means
    variance = weights @ (stds[:, None] ** 2 + means**2) - mean**2
    assert np.all(np.abs(x.mean(0) - mean) < 4.5 * np.sqrt(variance / n))
    fourth = np.sqrt(((x - mean) ** 4).mean(0))
    assert np.all(np.abs(x.var(0) - variance) < 4.5 * fourth / np.sqrt(n))
    assert np.abs(mix.weights.sum().item() - 1) < 1e-15


def test_sample_is_the_generators() -> None:
    mix = _mixture(3, 2)
    first, second, third = (mix.sample(5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_a_mixture_can_be_sampled_from_noise() -> None:
    mix = GaussianMixture(torch.tensor([[-2.0], [2.0]]), torch.tensor([0.25, 0.5]), torch.tensor([1.0, 3.0]))
    schedule: Schedule = build_schedule("edm", EDM(), steps=64, t_max=80.0, t_min=0.002)
    x = sample(mix.denoiser(EDM()), schedule, build_solver("heun"), _normal(4000, 1))
    line = np.linspace(-4, 5, 200)
    truth = 0.25 * stats.norm(-2, 0.25).cdf(line) + 0.75 * stats.norm(2, 0.5).cdf(line)
    empirical = np.searchsorted(np.sort(x[:, 0].numpy()), line) / 4000
    assert np.abs(empirical - truth).max() < 1.63 / math.sqrt(4000)  # Kolmogorov-Smirnov at 1 %


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3), torch.ones(3)), r"got \(3,\), \(3,\) and \(3,\)"),
        ((torch.zeros(3, 2), torch.ones(2)), r"got \(3, 2\), \(2,\) and \(3,\)"),
        ((torch.zeros(3, 2), torch.ones(3), torch.ones(4)), r"and \(4,\)"),
        ((torch.zeros(2, 2), torch.tensor([1.0, -1.0])), "stds must be non-negative"),
        ((torch.zeros(2, 2), torch.ones(2), torch.tensor([1.0, 0.0])), "weights positive"),
        ((torch.zeros(2, 2), torch.tensor([1.0, math.nan])), "must be finite"),
        ((torch.zeros(0, 2), torch.ones(0)), r"got \(0, 2\)"),
    ],
)
def test_bad_mixtures(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture(*arguments)
