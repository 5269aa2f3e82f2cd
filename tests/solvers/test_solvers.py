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
from optsteps.solvers import SOLVERS, Denoise, Heun, Solver, State, build_solver
from optsteps.solvers.brownian import BrownianPaths

NAMES = ["euler", "heun"]
RANGES: dict[str, tuple[Process, float, float]] = {
    "edm": (EDM(), 80.0, 0.002),
    "vp": (VP.scaled_linear(), 999.0, 0.0),
    "flow": (Flow(), 0.98, 0.01),
}
MIXTURE = GaussianMixture(
    torch.tensor([[0.0, 1.0, 0.5], [2.0, -1.0, 0.0]]), torch.tensor([0.3, 0.6]), torch.tensor([1.0, 2.0])
)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _conditional(process: Process) -> Denoiser:
    """The mixture's denoiser, moved by the condition."""
    exact = MIXTURE.denoiser(process)
    return lambda x, t, cond=None: exact(x, t) + cond["shift"]


# AYS, Theorem 3.1 ----------------------------------------------------------------------------------------------------


def _divergence(process: Process, times: Tensor, std: float) -> Tensor:
    """KL divergence at the last time between the true marginal of N(0, std^2) and Euler's, for rows of times [B, n+1].

    Euler is linear here, so one sample that starts as the marginal's standard deviation ends as the sampler's.
    """
    solver, denoise = build_solver("euler"), Denoise(Gaussian(torch.zeros(1), std).denoiser(process), process)
    marginal = ((process.alpha(times) * std) ** 2 + process.sigma(times) ** 2).sqrt()
    x = marginal[:, :1]
    state = solver.init(x)
    for t, t_next in zip(times.T[:-1], times.T[1:], strict=True):
        x, state = solver.step(state, x, t, t_next, denoise)
    ratio = (x[:, 0] / marginal[:, -1]) ** 2
    return 0.5 * (ratio - 1 - ratio.log())


def _perturbed(schedule: Schedule, count: int) -> Tensor:
    """Times [count, n+1] with the same ends and inner log noise levels moved by 1e-5 to 2 in a random direction."""
    levels, process = schedule.noise_levels, schedule.process
    generator = torch.Generator().manual_seed(0)
    size = 10 ** torch.empty(count, 1, dtype=torch.float64).uniform_(-5, math.log10(2), generator=generator)
    direction = torch.randn(count, schedule.steps - 1, generator=generator, dtype=torch.float64)
    inner = levels[1:-1].log() + size * direction / direction.norm(dim=1, keepdim=True)
    inner = inner.clamp(levels[-1].log(), levels[0].log()).sort(dim=1, descending=True)[0]
    ends = schedule.times[[0, -1]].expand(count, 2)
    return torch.cat([ends[:, :1], process.time_of_noise_level(inner.exp()), ends[:, 1:]], dim=1)


@pytest.mark.parametrize("steps", [2, 3, 5, 10, 20])
@pytest.mark.parametrize("std", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("where", RANGES)
@pytest.mark.mostly_slow(3)
def test_arctan_uniform_is_the_best_schedule_of_euler_on_a_gaussian(where: str, std: float, steps: int) -> None:
    process, t_max, t_min = RANGES[where]
    best = build_schedule("cosine", process, steps=steps, t_max=t_max, t_min=t_min, scale=std)
    least = _divergence(process, best.times[None], std)
    assert bool((_divergence(process, _perturbed(best, 10_000), std) > least).all())
    # each step shrinks the spread by the cosine of its angle
    first, last = np.arctan(best.noise_levels[[0, -1]].numpy() / std)
    ratio = math.cos((first - last) / steps) ** (2 * steps)
    assert least.item() == pytest.approx(0.5 * (ratio - 1 - math.log(ratio)), rel=1e-9)
    # and the comparison can tell: a scale 2 % off is beaten
    off = build_schedule("cosine", process, steps=steps, t_max=t_max, t_min=t_min, scale=1.02 * std)
    assert bool((_divergence(process, _perturbed(off, 10_000), std) < _divergence(process, off.times[None], std)).any())


# one step against the papers' formulas -------------------------------------------------------------------------------


def _one_step(name: str, process: Process, x: Tensor, t: float, t_next: float) -> tuple[Tensor, Tensor]:
    """x at t_next, and D(x, t)."""
    denoise = Denoise(MIXTURE.denoiser(process), process)
    solver, times = build_solver(name), torch.tensor([t, t_next], dtype=torch.float64)
    return solver.step(solver.init(x), x, times[0], times[1], denoise)[0], denoise(x, times[0])


def test_euler_is_ddim_under_vp() -> None:
    alphas_cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    x = _normal(5, 3)
    out, x_0 = _one_step("euler", VP.linear(), x, 700, 400)
    bar, bar_next = alphas_cumprod[700], alphas_cumprod[400]
    eps = (x - bar**0.5 * x_0) / (1 - bar) ** 0.5
    torch.testing.assert_close(out, bar_next**0.5 * x_0 + (1 - bar_next) ** 0.5 * eps, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("process", [EDM(), Flow()], ids=["edm", "flow"])
def test_euler_follows_the_ode(process: Process) -> None:
    x, t, t_next = _normal(5, 3), 0.8, 0.3
    out, x_0 = _one_step("euler", process, x, t, t_next)
    # both have velocity (x - D) / t, under EDM as dx/dsigma and under a flow as eps - x_0
    torch.testing.assert_close(out, x + (t_next - t) * (x - x_0) / t, rtol=1e-12, atol=1e-12)


def test_heun_is_algorithm_1_of_edm() -> None:
    x, t, t_next = _normal(5, 3), 0.8, 0.3
    out, x_0 = _one_step("heun", EDM(), x, t, t_next)
    d = (x - x_0) / t
    predicted = x + (t_next - t) * d
    d_next = (predicted - _one_step("euler", EDM(), predicted, t_next, 0.1)[1]) / t_next
    torch.testing.assert_close(out, x + (t_next - t) * (d + d_next) / 2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("where", RANGES)
@pytest.mark.parametrize("name", NAMES)
def test_a_step_to_noise_level_zero_returns_the_denoiser(name: str, where: str, dtype: torch.dtype) -> None:
    process, t_max, t_min = RANGES[where]
    for t in (t_max, t_min):
        out, x_0 = _one_step(name, process, _normal(5, 3).to(dtype), t, process.t_clean)
        assert torch.equal(out, x_0)
        assert out.dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_the_first_step_of_a_flow_is_exact(name: str) -> None:
    x = _normal(5, 3)
    out, x_0 = _one_step(name, Flow(), x, 1.0, 0.7)
    mean = (MIXTURE.weights[:, None] * MIXTURE.means).sum(0)
    torch.testing.assert_close(x_0, mean.expand(5, 3), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out, 0.3 * mean + 0.7 * x, rtol=1e-12, atol=1e-12)


# the protocol --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", RANGES)
@pytest.mark.parametrize("name", NAMES)
def test_times_per_sample_are_a_loop_of_scalar_times(name: str, where: str) -> None:
    process, t_max, t_min = RANGES[where]
    # pairs of ordinary times, of the last step and, for a flow, of the first from infinite noise
    top = 1.0 if where == "flow" else t_max
    middle = t_min + 0.3 * (t_max - t_min)
    t = torch.tensor([top, t_max, middle, t_min, t_max, top], dtype=torch.float64)
    t_next = torch.tensor([middle, middle, t_min, process.t_clean, process.t_clean, process.t_clean]).double()
    x, cond, solver = _normal(6, 3), {"shift": _normal(6, 3, seed=1)}, build_solver(name)
    together, _ = solver.step(solver.init(x), x, t, t_next, Denoise(_conditional(process), process, cond))
    assert bool(torch.isfinite(together).all())
    for i in range(6):
        denoise = Denoise(_conditional(process), process, {"shift": cond["shift"][i : i + 1]})
        alone, _ = solver.step(solver.init(x[i : i + 1]), x[i : i + 1], t[i], t_next[i], denoise)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_state_can_be_gathered(name: str) -> None:
    solver, process = build_solver(name), EDM()
    x, times, order = _normal(4, 3), torch.tensor([3.0, 1.0, 0.2]).double(), torch.tensor([2, 0, 3, 1])
    denoise = Denoise(MIXTURE.denoiser(process), process)
    x, state = solver.step(solver.init(x), x, times[0], times[1], denoise)
    assert all(part.shape[0] == 4 for part in state)
    straight, _ = solver.step(state, x, times[1], times[2], denoise)
    gathered, _ = solver.step(tuple(part[order] for part in state), x[order], times[1], times[2], denoise)
    torch.testing.assert_close(gathered, straight[order], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("per_sample", [False, True], ids=["scalar", "per sample"])
@pytest.mark.parametrize("name", NAMES)
def test_images_may_lie_on_another_device_than_times(name: str, per_sample: bool) -> None:
    devices = set()

    def denoise(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        devices.update([x.device.type, t.device.type])
        return torch.zeros_like(x)

    x = torch.empty(3, 2, device="meta")
    t, t_next = torch.tensor(2.0).double(), torch.tensor(1.0).double()
    if per_sample:
        t, t_next = t.expand(3), t_next.expand(3)
    solver = build_solver(name)
    out, _ = solver.step(solver.init(x), x, t, t_next, Denoise(denoise, EDM()))
    assert (out.shape, out.device.type) == (x.shape, "meta")
    assert devices == {"meta"}  # a user's denoiser computes with x and t together


def test_names_and_orders() -> None:
    assert {name: build_solver(name).order for name in NAMES} == {"euler": 1, "heun": 2}
    assert isinstance(build_solver("heun"), Heun)
    assert all(build_solver(name).name == name for name in SOLVERS)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("rk45", {}, "unknown solver 'rk45'; known: euler, heun"),
        ("euler", {"order": 3}, r"solver 'euler' does not take the parameters \['order'\]"),
    ],
)
def test_unknown_solvers(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_solver(name, **parameters)


# sample() and step ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["edm", "vp", "flow from pure noise"])
@pytest.mark.parametrize("name", SOLVERS)
def test_the_moves_of_a_schedule_are_its_steps(name: str, where: str) -> None:
    """sample() computes a schedule's coefficients beforehand; one step after the other gives the same walk."""
    process, t_max, t_min = RANGES[where.split()[0]]
    inner = build_schedule("edm", process, 7, t_max=t_max, t_min=t_min, final="zero").times
    times = torch.cat([inner.new_ones(1), inner]) if where.startswith("flow") else inner
    solver = build_solver(name)
    asked = [min(solver.order, order) for order in [3, 1, 2, 3, 3, 2, 3, 3]]
    schedule = Schedule(times, process, asked[: len(times) - 1])
    noise = _normal(5, 3)
    denoise = Denoise(MIXTURE.denoiser(process), process, paths=BrownianPaths(0, range(5), (3,)))
    x = noise * schedule.scale
    state, path = solver.init(x), [x]
    for t, t_next, order in zip(times[:-1], times[1:], schedule.orders, strict=True):
        x, state = solver.step(state, x, t, t_next, denoise, order)
        path.append(x)
    walked = sample(MIXTURE.denoiser(process), schedule, solver, noise, return_trajectory=True)
    torch.testing.assert_close(walked, torch.stack(path), rtol=1e-12, atol=1e-12)


def test_a_solver_of_one_s_own_is_a_step() -> None:
    """`init` and `step` are all that sample() asks for: here Euler with a heavy ball, whose state is the last D."""

    class HeavyBall(Solver):
        name, order = "heavy_ball", 1

        def init(self, x: Tensor) -> State:
            return (torch.zeros_like(x),)

        def step(
            self, state: State, x: Tensor, t: Tensor, t_next: Tensor, denoise: Denoise, order: int | None = None
        ) -> tuple[Tensor, State]:
            denoised = denoise(x, t)
            pulled = 0.9 * denoised + 0.1 * state[0]
            return pulled + t_next / t * (x - pulled), (denoised,)

    schedule = Schedule([9.0, 3.0, 1.0], EDM())
    found = sample(lambda x, t, cond=None: x / 2, schedule, HeavyBall(), torch.ones(1, 1, dtype=torch.float64))
    pulled = 0.9 * 4.5
    second = pulled + (9 - pulled) / 3
    pulled = 0.9 * second / 2 + 0.1 * 4.5
    assert found.item() == pytest.approx(pulled + (second - pulled) / 3, rel=1e-12)
