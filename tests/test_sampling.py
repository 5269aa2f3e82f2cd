import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.autograd import gradcheck

from optsteps import Schedule, build_schedule, sample
from optsteps.denoisers import CountedDenoiser, GuidedDenoiser
from optsteps.models.analytic import Gaussian, GaussianMixture
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.solvers import build_solver

NAMES = ["euler", "heun"]
PROCESSES: dict[str, Process] = {"edm": EDM(), "vp": VP.scaled_linear(), "flow": Flow()}
STD = 0.5
GAUSSIAN = Gaussian(torch.tensor([1.0, -0.5]), STD)
MIXTURE = GaussianMixture(
    torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]]),
    torch.tensor([0.5, 0.25, 0.75]),
    torch.tensor([2.0, 1.0, 1.0]),
)
NOISE = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _build(process: Process, steps: int, high: float = 10.0, low: float = 0.05, **parameters: Any) -> Schedule:
    """Uniform in arctan(noise level), between the same noise levels under every process."""
    t_max, t_min = process.time_of_noise_level([high, low]).tolist()
    return build_schedule("cosine", process, steps=steps, t_max=t_max, t_min=t_min, **parameters)


def _start(schedule: Schedule) -> Tensor:
    """The start in EDM's coordinates y = x / alpha."""
    return NOISE * schedule.scale / schedule.process.alpha(schedule.times[0])


def _gaussian_solution(schedule: Schedule) -> np.ndarray:
    """Deviations from the mean grow as sqrt(level^2 + std^2)."""
    spread = (schedule.noise_levels[[0, -1]] ** 2 + STD**2).sqrt()
    return (GAUSSIAN.means + spread[1] / spread[0] * (_start(schedule) - GAUSSIAN.means)).numpy()


def _mixture_solution(schedule: Schedule) -> np.ndarray:
    """dy/ds = (y - D) / s by an eighth-order Runge-Kutta method."""
    denoise = MIXTURE.denoiser(EDM())

    def slope(level: float, y: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(y.reshape(-1, 2))
        return ((x - denoise(x, torch.full((len(x),), level, dtype=torch.float64))) / level).numpy().ravel()

    levels, start = schedule.noise_levels[[0, -1]].tolist(), _start(schedule).numpy().ravel()
    return solve_ivp(slope, levels, start, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1].reshape(-1, 2)


@pytest.mark.parametrize(("data", "solution"), [(GAUSSIAN, _gaussian_solution), (MIXTURE, _mixture_solution)])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.mostly_slow(3)
def test_order_of_convergence(name: str, process: Process, data: GaussianMixture, solution: Any) -> None:
    counts = np.array([40, 57, 80, 113, 160])
    exact = solution(_build(process, 1))
    errors = []
    for steps in counts:
        schedule = _build(process, int(steps))
        out = sample(data.denoiser(process), schedule, build_solver(name), NOISE)
        errors.append(np.abs(out / process.alpha(schedule.times[-1]) - exact).mean())
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert order == pytest.approx(build_solver(name).order, abs=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_convergence_from_a_flows_infinite_noise(name: str) -> None:
    # from pure noise at t = 1 to data at t = 0 with first-order steps at both ends: h^2 log(1 / h) for heun
    exact = GAUSSIAN.means + STD * NOISE
    counts, errors = np.array([40, 57, 80, 113, 160]), []
    for steps in counts:
        schedule = build_schedule("time_uniform", Flow(), steps=int(steps), t_max=1.0, t_min=0.0)
        out = sample(GAUSSIAN.denoiser(Flow()), schedule, build_solver(name), NOISE)
        errors.append((out - exact).abs().mean().item())
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(build_solver(name).order, abs=0.2)


@pytest.mark.parametrize("final", ["t_min", "zero"])
@pytest.mark.parametrize("name", NAMES)
def test_the_three_processes_are_one(name: str, final: str) -> None:
    ends = []
    for process in PROCESSES.values():
        plain = _build(process, 7, final=final)
        # the same start in EDM's coordinates, of 10 times the noise
        scale = (10 * process.alpha(plain.times[0])).item()
        schedule = Schedule(plain.times, process, initial_scale=scale)
        out = sample(MIXTURE.denoiser(process), schedule, build_solver(name), NOISE)
        ends.append(out / process.alpha(schedule.times[-1]))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(ends[2], ends[0], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_trajectory_starts_at_scaled_noise_and_ends_at_the_sample(process: Process) -> None:
    schedule, denoiser, euler = _build(process, 5), MIXTURE.denoiser(process), build_solver("euler")
    path = sample(denoiser, schedule, euler, NOISE, return_trajectory=True)
    assert path.shape == (6, 16, 2)
    assert torch.equal(path[0], NOISE * process.prior_std(schedule.times[0]))
    assert torch.equal(path[-1], sample(denoiser, schedule, euler, NOISE))
    for k in range(1, 6):
        head = Schedule(schedule.times[: k + 1], process)
        assert torch.equal(path[k], sample(denoiser, head, euler, NOISE))


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_initial_scale_is_obeyed(process: Process) -> None:
    plain = _build(process, 3)
    scaled = Schedule(plain.times, process, initial_scale=2.5)
    denoiser, euler = MIXTURE.denoiser(process), build_solver("euler")
    assert torch.equal(sample(denoiser, scaled, euler, NOISE, return_trajectory=True)[0], 2.5 * NOISE)
    rescaled = NOISE * 2.5 / process.prior_std(plain.times[0])
    out, expected = sample(denoiser, scaled, euler, NOISE), sample(denoiser, plain, euler, rescaled)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 2, 2)])
def test_amplitude_is_applied_after_each_step(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    amplitude = 1 + 0.1 * torch.randn(3, 3, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    times = [4.0, 2.0, 1.0, 0.25]
    schedule = Schedule(times, EDM(), amplitude=amplitude)
    path = sample(
        lambda x, t, cond=None: torch.zeros_like(x), schedule, build_solver("euler"), noise, return_trajectory=True
    )
    expected = 4.0 * noise.numpy()
    for step in range(3):
        expected = expected * times[step + 1] / times[step]  # D = 0: the noise is only scaled down
        for channel in range(3):
            gain, offset = amplitude[step, channel].tolist()
            expected[:, channel] = gain * expected[:, channel] + offset
        np.testing.assert_allclose(path[step + 1], expected, rtol=1e-12)


def test_graph_only_if_times_require_it() -> None:
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    times = torch.tensor([3.0, 1.0, 0.2], dtype=torch.float64)

    def denoise(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return x * weight / (1 + t[:, None] ** 2)

    euler = build_solver("euler")
    assert not sample(denoise, Schedule(times, EDM()), euler, NOISE.clone().requires_grad_()).requires_grad
    out = sample(denoise, Schedule(times.requires_grad_(), EDM()), euler, NOISE)
    out.sum().backward()
    assert weight.grad is not None
    assert times.grad is not None
    assert bool((times.grad != 0).all())


@pytest.mark.parametrize("clean", [False, True], ids=["t_min", "zero"])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_a_sample_with_respect_to_its_times(name: str, process: Process, clean: bool) -> None:
    def walk(times: Tensor) -> Tensor:
        if clean:
            times = torch.cat([times, torch.tensor([process.t_clean], dtype=torch.float64)])
        return sample(MIXTURE.denoiser(process), Schedule(times, process), build_solver(name), NOISE[:2])

    times = process.time_of_noise_level([9.0, 2.1, 0.7, 0.12])
    if isinstance(process, VP):
        times = times.floor() + 0.37  # well between timesteps, where the noise level has a kink
    assert gradcheck(walk, times.requires_grad_())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_from_a_flows_noisy_end(name: str) -> None:
    def walk(inner: Tensor) -> Tensor:
        times = torch.cat([torch.ones(1, dtype=torch.float64), inner, torch.zeros(1, dtype=torch.float64)])
        return sample(MIXTURE.denoiser(Flow()), Schedule(times, Flow()), build_solver(name), NOISE[:2])

    assert gradcheck(walk, torch.tensor([0.8, 0.3], dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize(
    ("process", "times"),
    [
        (EDM(), [9.0, 3.0, 1.0]),
        (EDM(), [9.0, 3.0, 0.0]),
        (EDM(), [9.0, 0.0]),
        (VP.scaled_linear(), [900.0, 400.0, 0.0]),
        (VP.scaled_linear(), [900.0, 400.0, 0.0, -1.0]),
        (Flow(), [0.9, 0.5, 0.1]),
        (Flow(), [1.0, 0.5, 0.1]),
        (Flow(), [1.0, 0.5, 0.0]),
        (Flow(), [1.0, 0.0]),
    ],
    ids=str,
)
@pytest.mark.parametrize("guided", [False, True], ids=["plain", "guided"])
@pytest.mark.parametrize("name", NAMES)
def test_nfe_is_what_is_counted(name: str, guided: bool, process: Process, times: list[float]) -> None:
    exact = MIXTURE.denoiser(process)
    evaluated = []

    def denoise(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        evaluated.extend(t.tolist())
        return exact(x, t)

    counted = CountedDenoiser(GuidedDenoiser(denoise, 1.5, torch.zeros(1)) if guided else denoise)
    solver, schedule = build_solver(name), Schedule(times, process)
    sample(counted, schedule, solver, NOISE, torch.ones(16) if guided else None)
    assert counted.evaluations == len(evaluated) == solver.nfe(schedule) * 16 * (2 if guided else 1)
    assert process.t_clean not in evaluated


def test_heun_counts_the_papers_way() -> None:
    # 2N - 1 evaluations for N steps that end at noise level 0 (EDM, Section 3)
    schedule = build_schedule("edm", EDM(), steps=18, t_max=80.0, t_min=0.002, final="zero")
    assert build_solver("heun").nfe(schedule) == 35
    assert build_solver("euler").nfe(schedule) == 18


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_images_keep_their_type_and_times_their_precision(dtype: torch.dtype) -> None:
    seen = []

    def denoise(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        seen.append((x.dtype, t.dtype, t.shape, t[0].item()))
        return torch.zeros_like(x)

    schedule = Schedule([999.0, 997.3, 1.1], VP.linear())
    out = sample(denoise, schedule, build_solver("euler"), NOISE.to(dtype))
    assert out.dtype == dtype
    assert seen == [(dtype, torch.float64, (16,), t) for t in (999.0, 997.3)]


@pytest.mark.parametrize("name", NAMES)
def test_a_denoiser_that_fails_names_the_time(name: str) -> None:
    schedule = Schedule([3.0, 1.25, 0.5], EDM())
    broken = {
        r"NaN or inf at time 1\.25": lambda x, t, cond=None: torch.where(t[:, None] == 1.25, math.nan, x),
        r"shape \(8, 2\) .* at time 3": lambda x, t, cond=None: x[:8],
    }
    for message, denoise in broken.items():
        with pytest.raises(ValueError, match=message):
            sample(denoise, schedule, build_solver(name), NOISE)


@pytest.mark.parametrize("cond", [torch.zeros(3), {"a": torch.zeros(3, 2), "b": None}, [torch.zeros(3)]])
def test_noise_and_cond_of_different_batch_sizes(cond: Any) -> None:
    with pytest.raises(ValueError, match="noise holds 16 samples but cond holds 3"):
        sample(MIXTURE.denoiser(EDM()), _build(EDM(), 2), build_solver("euler"), NOISE, cond)


def test_amplitude_for_other_channels() -> None:
    schedule = Schedule([3.0, 1.0], EDM(), amplitude=torch.ones(1, 3, 2))
    with pytest.raises(ValueError, match="amplitude is for 3 channels, the noise has 2"):
        sample(MIXTURE.denoiser(EDM()), schedule, build_solver("euler"), NOISE)
