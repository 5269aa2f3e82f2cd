"""Stochastic solvers on Gaussian data, where a walk is linear and its moments are sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from optsteps import Schedule, build_schedule, sample
from optsteps.denoisers import Denoiser
from optsteps.models.analytic import Gaussian, GaussianMixture
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.solvers import Denoise, Multistep, build_solver

STD = 0.7
SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim eta 1": ("ddim_stochastic", {}),
    "ddim eta 0.5": ("ddim_stochastic", {"eta": 0.5}),
    "2m": ("sde_dpmpp_2m", {}),
    "2m heun": ("sde_dpmpp_2m", {"kind": "heun"}),
    "2m eta 0.3": ("sde_dpmpp_2m", {"eta": 0.3}),
    "2s": ("sde_dpmpp_2s", {}),
    "2s eta 0.3": ("sde_dpmpp_2s", {"eta": 0.3}),
    "3m": ("sde_dpmpp_3m", {}),
    "3m corrected eta 0.3": ("sde_dpmpp_3m", {"corrected": True, "eta": 0.3}),
    "er 1": ("er_sde_1", {}),
    "er 2": ("er_sde_2", {}),
    "er 3": ("er_sde_3", {}),
    "er 3 corrected": ("er_sde_3", {"corrected": True}),
}
ENDS: dict[str, tuple[Process, float, float]] = {
    "edm": (EDM(), 80.0, 0.002),
    "vp": (VP.linear(), 999.0, 0.0),
    "flow": (Flow(), 1.0, 0.0),
}


def build(case: str) -> Any:
    """At its full order to the end, which is what the closed forms have."""
    name, options = SOLVERS[case]
    kept = {"lower_order_final": False} if name == "sde_dpmpp_2m" else {}
    return build_solver(name, **options, **kept)


def walk(process: Process, where: str, steps: int) -> Schedule:
    _, t_max, t_min = ENDS[where]
    return build_schedule("edm" if where == "edm" else "time_uniform", process, steps, t_max=t_max, t_min=t_min)


def apart(denoiser: Denoiser) -> Denoiser:
    """One wide sample whose coordinates are samples of their own: one Brownian path serves them all."""
    return lambda x, t, cond=None: denoiser(x.T, t.expand(x.shape[1])).T


def first_order_terms(case: str, process: Process, t: Tensor, t_next: Tensor) -> tuple[float, float, float]:
    """a, b and the size of the noise of one step, from the papers' formulas and not from the solver."""
    alpha, alpha_next = process.alpha(t).item(), process.alpha(t_next).item()
    sigma, sigma_next = process.sigma(t).item(), process.sigma(t_next).item()
    ratio = sigma_next * alpha / (sigma * alpha_next)  # of noise levels, e^-h
    name, options = SOLVERS[case]
    if name == "ddim_stochastic":
        size = options.get("eta", 1.0) * sigma_next * math.sqrt(1 - ratio**2)
        a = math.sqrt(sigma_next**2 - size**2) / sigma
    elif name.startswith("sde_dpmpp"):
        eta = options.get("eta", 1.0)
        a, size = sigma_next / sigma * ratio**eta, sigma_next * math.sqrt(1 - ratio ** (2 * eta))
    else:

        def phi(level: float) -> float:
            return level * (math.exp(level**0.3) + 10)

        if alpha == 0:
            a, size = 0.0, sigma_next
        else:
            level, level_next = sigma / alpha, sigma_next / alpha_next
            shrink = phi(level_next) / phi(level) if level_next > 0 else 0.0
            a = alpha_next / alpha * shrink
            size = alpha_next * math.sqrt(max(level_next**2 - (shrink * level) ** 2, 0))
    return a, alpha_next - a * alpha, size


def gain(process: Process, t: Tensor) -> float:
    """D = gain x for data N(0, STD^2)."""
    alpha, sigma = process.alpha(t).item(), process.sigma(t).item()
    return alpha * STD**2 / ((alpha * STD) ** 2 + sigma**2)


def closed_form_variance(case: str, process: Process, schedule: Schedule) -> float:
    """The walk's final variance: x is linear in the initial noise and in two independent normal numbers per step, the
    first half's and the second's; its coefficients are carried along. Remembered outputs enter with the solver's
    weights."""
    solver, times = build(case), schedule.times
    steps = schedule.steps
    x = np.zeros(2 * steps + 1)
    x[0] = schedule.scale.item()
    outputs: list[np.ndarray] = []
    known: list[Tensor] = []
    for i in range(steps):
        t, t_next = times[i], times[i + 1]
        a, b, size = first_order_terms(case, process, t, t_next)
        output = gain(process, t) * x
        single = t_next == process.t_clean or process.alpha(t) == 0
        new = a * x + b * output
        noise = np.zeros(2 * steps + 1)
        noise[2 * i + 1] = size
        if isinstance(solver, Multistep):
            order = 1 if single else min(solver.order, 1 + len(known))
            if order > 1:
                weights = solver.weights(process, torch.stack([t_next, t, *known[: order - 1]]))
                for weight, past in zip(weights.tolist(), outputs, strict=False):
                    new = new + weight * (past - output)
        elif not single:
            middle = process.time_of_log_snr((process.log_snr(t) + process.log_snr(t_next)) / 2)
            a_s, b_s, size_s = first_order_terms(case, process, t, middle)
            inner = a_s * x + b_s * output
            inner[2 * i + 1] += size_s
            new = a * x + b * gain(process, middle) * inner
            first, second = (process.noise_level(torch.stack([t, middle, t_next])) ** (-2 * solver.eta)).diff()
            noise[2 * i + 1] = size * (first / (first + second)).sqrt()
            noise[2 * i + 2] = size * (second / (first + second)).sqrt()
        if process.alpha(t) > 0:
            outputs.insert(0, output)
            known.insert(0, t)
        x = new + noise
    return float((x**2).sum())


@pytest.mark.parametrize("steps", [4, 12])
@pytest.mark.parametrize("where", ENDS)
@pytest.mark.parametrize("case", SOLVERS)
@pytest.mark.mostly_slow(3)
def test_final_variance_on_a_gaussian(case: str, where: str, steps: int) -> None:
    process = ENDS[where][0]
    schedule = walk(process, where, steps)
    width = 20_000
    noise = torch.randn(1, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    denoiser = apart(Gaussian(torch.zeros(1), STD).denoiser(process))
    x = sample(denoiser, schedule, build(case), noise, seed=4)
    expected = closed_form_variance(case, process, schedule)
    assert x.var().item() == pytest.approx(expected, rel=5 * math.sqrt(2 / width))
    assert abs(x.mean().item()) < 5 * math.sqrt(expected / width)


@pytest.mark.parametrize("where", ENDS)
@pytest.mark.parametrize("case", SOLVERS)
@pytest.mark.mostly_slow(3)
def test_many_steps_end_with_the_data_s_variance(case: str, where: str) -> None:
    process = ENDS[where][0]
    schedule = walk(process, where, 400)
    end = schedule.times[-1]
    truth = ((process.alpha(end) * STD) ** 2 + process.sigma(end) ** 2).item()
    first_order = case.startswith("ddim") or case == "er 1"
    assert closed_form_variance(case, process, schedule) == pytest.approx(truth, rel=0.03 if first_order else 0.01)


@pytest.mark.parametrize("case", SOLVERS)
@pytest.mark.mostly_slow(3)
def test_strong_order(case: str) -> None:
    """Additive noise: the walk nears the path's own solution with order 1, measured against 16 times finer steps."""
    process = EDM()
    denoiser = Gaussian(torch.zeros(1), STD).denoiser(process)
    noise = torch.randn(1, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def end(steps: int) -> Tensor:
        schedule = build_schedule("logsnr", process, steps, t_max=5.0, t_min=0.1)
        return sample(apart(denoiser), schedule, build(case), noise, seed=2)

    truth = end(384)
    counts = [12, 24]
    errors = [(end(n) - truth).square().mean().sqrt().item() for n in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope > 0.8, (slope, errors)


ZERO_NOISE = [
    ("euler", "ddim_stochastic", {}),
    ("dpmpp_2s", "sde_dpmpp_2s", {}),
    ("dpmpp_2m", "sde_dpmpp_2m", {}),
    ("dpmpp_3m", "sde_dpmpp_3m", {"kind": "midpoint", "lower_order_final": True}),
]


@pytest.mark.parametrize("where", ENDS)
def test_eta_0_is_deterministic(where: str) -> None:
    process = ENDS[where][0]
    mixture = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.3, 0.2])
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    schedule = walk(process, where, 9)
    for plain, noisy, options in ZERO_NOISE:
        expected = sample(mixture.denoiser(process), schedule, build_solver(plain), noise)
        found = sample(mixture.denoiser(process), schedule, build_solver(noisy, eta=0.0, **options), noise)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("case", SOLVERS)
def test_a_sample_depends_on_seed_and_number_alone(case: str) -> None:
    mixture = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.3, 0.2])
    noise = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    schedule = walk(EDM(), "edm", 6)
    whole = sample(mixture.denoiser(EDM()), schedule, build(case), noise, seed=3, index=torch.tensor([4, 8, 15, 16]))
    part = sample(mixture.denoiser(EDM()), schedule, build(case), noise[2:3], seed=3, index=torch.tensor([15]))
    torch.testing.assert_close(part, whole[2:3], rtol=1e-12, atol=1e-13)
    assert not torch.allclose(sample(mixture.denoiser(EDM()), schedule, build(case), noise, seed=4), whole)
    with pytest.raises(ValueError, match="one index per sample"):
        sample(mixture.denoiser(EDM()), schedule, build(case), noise, index=torch.tensor([1]))


def test_a_step_without_paths_says_what_is_missing() -> None:
    denoise = Denoise(Gaussian(torch.zeros(1), STD).denoiser(EDM()), EDM())
    solver, x = build_solver("er_sde_2"), torch.ones(2, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="er_sde_2 is stochastic and needs Brownian paths"):
        solver.step(solver.init(x), x, torch.tensor(2.0).double(), torch.tensor(1.0).double(), denoise)
