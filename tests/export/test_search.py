"""A search on times that a scheduler can run, and the scheduler that runs what it found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from overrides import with_oss

from optsteps import Schedule, SearchProblem, build_schedule
from optsteps.cli import run as command
from optsteps.export import to_diffusers
from optsteps.methods import OSS
from optsteps.models.analytic import GaussianMixture
from optsteps.processes import VP, Flow, Process
from optsteps.solvers import build_solver

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.mark.parametrize(
    ("process", "family", "t_max", "t_min", "solver", "scheduler"),
    [
        (VP.scaled_linear(), "logsnr", 999.0, 5.0, "dpmpp_2m", "DPMSolverMultistepScheduler"),
        (VP.scaled_linear(), "logsnr", 999.0, 5.0, "euler", "DDPMScheduler"),
        (Flow(), "flow_shift", 0.998, 0.0, "euler", "UniPCMultistepScheduler"),
    ],
)
def test_oss_chooses_what_a_scheduler_can_be_told(
    process: Process, family: str, t_max: float, t_min: float, solver: str, scheduler: str
) -> None:
    pytest.importorskip("diffusers")
    final = "zero" if process.name == "vp" else "t_min"
    teacher = build_schedule(family, process, 60, t_max, t_min, final, snap=True)
    mixture = GaussianMixture(
        torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), torch.tensor([0.3, 0.2]), torch.tensor([0.5, 0.5])
    )
    noise = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    problem = SearchProblem(mixture.denoiser(process), process, build_solver(solver), noise, teacher)
    found = OSS(average="pooled").search(problem, [3, 6]).schedules
    for schedule in found.values():
        plain = Schedule(schedule.times, process)  # the orders that it chose are another matter
        told = to_diffusers(plain, scheduler)
        assert len(next(iter(told.arguments.values()))) == schedule.steps


def test_the_command_snaps_its_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["model=mixture", "metric=toy", "metric.judges.1.samples=64", "steps=[3]", "search.samples=3"]
    small += ["test.samples=32", "test.oracle=3", "logger=none", "store.folder=null"]
    choice = ["process=ddpm", "teacher.family=time_uniform", "teacher.steps=12", "teacher.snap=true"]
    monkeypatch.setattr(sys, "argv", ["optsteps", f"hydra.run.dir={tmp_path}", *with_oss([*small, *choice])])
    command.main()
    times = json.loads((tmp_path / "schedule_3.json").read_text())["times"]
    assert times == [float(round(t)) for t in times]
