"""The method chooses the best of its candidates, on a model whose denoiser is exact."""

from __future__ import annotations

import torch
from my_method import MyMethod

from optsteps import SearchProblem, build_schedule, sample
from optsteps.models import GaussianMixture
from optsteps.processes import EDM
from optsteps.solvers import build_solver

FAMILIES = ("edm", "logsnr", "time_uniform")


def test_no_other_candidate_is_nearer_to_the_teacher() -> None:
    process, euler = EDM(), build_solver("euler")
    model = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.2, 0.4]).denoiser(process)
    noise = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    teacher = build_schedule("edm", process, steps=40, t_max=80.0, t_min=0.002)
    found = MyMethod(FAMILIES).search(SearchProblem(model, process, euler, noise, teacher), [5]).schedules[5]

    truth = sample(model, teacher, euler, noise)
    candidates = [build_schedule(family, process, steps=5, t_max=80.0, t_min=0.002) for family in FAMILIES]
    errors = [(sample(model, s, euler, noise) - truth).square().mean().item() for s in (found, *candidates)]
    assert errors[0] == min(errors[1:])
