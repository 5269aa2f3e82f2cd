"""Small search problems: exact mixtures under every process, and a network with random weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optsteps.denoisers import EDMDenoiser
from optsteps.methods import OSS, SearchProblem
from optsteps.models.analytic import GaussianMixture
from optsteps.models.checkpoint import load_network
from optsteps.models.unet import UNet
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import build_solver

PROCESSES: dict[str, Process] = {"edm": EDM(), "vp": VP.linear(), "flow": Flow()}


def teacher(process: Process, steps: int) -> Schedule:
    """Between the ends that need care: a flow starts at t = 1, VP and Flow end at noise level 0."""
    if process.name == "edm":
        return build_schedule("edm", process, steps, t_max=80.0, t_min=0.002)
    if process.name == "vp":
        return build_schedule("time_uniform", process, steps, t_max=999.0, t_min=0.0, final="zero")
    return build_schedule("time_uniform", process, steps, t_max=1.0, t_min=0.0)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def three_gaussians(turn: float = 0.0) -> GaussianMixture:
    """Unequal, off-centre and of different widths, so that no two samples want the same steps."""
    angles = torch.tensor([0.0, 2.0, 4.5]) + turn
    means = torch.stack([1.5 * angles.cos() + 0.3, angles.sin()], 1)
    return GaussianMixture(means, torch.tensor([0.1, 0.3, 0.05]), torch.tensor([1.0, 2.0, 1.5]))


def mixture_problem(process: str, samples: int, teacher_steps: int, seed: int = 0) -> SearchProblem:
    clock = PROCESSES[process]
    return SearchProblem(
        denoiser=three_gaussians().denoiser(clock),
        process=clock,
        solver=build_solver("euler"),
        noise=noise(samples, 2, seed=seed),
        teacher=teacher(clock, teacher_steps),
    )


def rough_problem(process: str, samples: int, teacher_steps: int) -> SearchProblem:
    """A denoiser so rough that more steps often do not help: what at-most-k and exactly-k programmes differ on."""
    clock = PROCESSES[process]

    def rough(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return 3 * torch.sin(4 * x / (clock.alpha(t) + clock.sigma(t)).to(x)[:, None])

    return dataclasses.replace(mixture_problem(process, samples, teacher_steps), denoiser=rough)


def full_grid(**options: Any) -> OSS:
    """OSS on all of the teacher's times."""
    return OSS(**{"grid_steps": "all", **options})


def random_unet(dtype: torch.dtype, seed: int = 0) -> UNet:
    """An untrained network that is not the zero map: layers that start at zero are drawn too."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet(widths=(8, 16), patch=2, embedding=16)
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=1 / math.sqrt(parameter[0].numel()))
    return network.to(dtype).eval().requires_grad_(False)


def unet_problem(dtype: torch.dtype, samples: int, teacher_steps: int, side: int = 8) -> SearchProblem:
    return SearchProblem(
        denoiser=EDMDenoiser(random_unet(dtype), EDM()),
        process=EDM(),
        solver=build_solver("euler"),
        noise=noise(samples, 1, side, side, dtype=dtype),
        cond=torch.arange(samples) % 10,
        teacher=teacher(EDM(), teacher_steps),
    )


def shipped_problem(dtype: torch.dtype, samples: int, teacher_steps: int) -> SearchProblem:
    """The shipped MNIST network's; the test is skipped where the weights are missing."""
    try:
        network, notes = load_network("shipped:mnist", UNet)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return SearchProblem(
        denoiser=EDMDenoiser(network.to(dtype), EDM(), notes["sigma_data"]),
        process=EDM(),
        solver=build_solver("euler"),
        noise=noise(samples, 1, 28, 28, dtype=dtype),
        cond=torch.arange(samples) % 10,
        teacher=teacher(EDM(), teacher_steps),
    )


class Watched:
    """A denoiser that remembers what it was asked: the batch sizes of its calls and every time."""

    def __init__(self, denoiser: Callable[..., Tensor]) -> None:
        self.denoiser = denoiser
        self.batches: list[int] = []
        self.times: list[float] = []

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        self.batches.append(len(x))
        self.times += t.tolist()
        return self.denoiser(x, t, cond)
