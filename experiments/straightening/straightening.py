"""BOSS's straightening on a small 2-D flow: the error at few Euler steps before and after.

    python experiments/straightening/straightening.py

A small network learns the velocity of a mixture of Gaussians. For every number of steps a copy of it is straightened
for BOSS's schedule, and another for equal steps. Errors are root mean squared distances from where the network itself
goes in 100 Euler steps, on noise that no training saw. The table and the figure are written beside this file.
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from optsteps.denoisers import NetworkDenoiser
from optsteps.methods import BOSS, SearchProblem
from optsteps.metrics.statistics import bootstrap
from optsteps.models import GaussianMixture
from optsteps.models.training import straightening_loss, teacher_states
from optsteps.noise import FIRST_TEST_SAMPLE, unit_noise
from optsteps.processes import Flow
from optsteps.reporting.markdown import markdown_lines
from optsteps.sampling import sample
from optsteps.schedules import Schedule
from optsteps.solvers import Euler

HERE = Path(__file__).parent
FLOW, STEPS, TEST = Flow(), (2, 3, 4, 6), 1024
MIXTURE = GaussianMixture([[-2.0, -2.0], [2.0, -1.0], [-1.0, 2.0], [2.5, 2.5]], [0.2, 0.4, 0.3, 0.1])
KINDS = ("BOSS's", "equal")


class Velocity(nn.Module):
    """u(x [B, 2], t [B]) of a small network."""

    def __init__(self) -> None:
        super().__init__()
        width = 128
        self.layers = nn.Sequential(
            nn.Linear(2 + 9, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.last = nn.Linear(width, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.pi * torch.tensor([0.5, 1.0, 2.0, 4.0])
        features = torch.cat([x, t[:, None], angles.sin(), angles.cos()], 1)
        return self.last(self.layers(features))


def equal_steps(count: int) -> Schedule:
    return Schedule(torch.linspace(1, 0, count + 1, dtype=torch.float64), FLOW)


def trained(iterations: int) -> Velocity:
    """The network after flow matching."""
    network, generator = Velocity(), torch.Generator().manual_seed(1)
    adam = torch.optim.Adam(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, iterations)
    for _ in range(iterations):
        clean = MIXTURE.sample(512, generator).float()
        eps, t = torch.randn(512, 2, generator=generator), torch.rand(512, generator=generator)
        loss = (network(t[:, None] * eps + (1 - t)[:, None] * clean, t) - (eps - clean)).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return network


def straightened(network: Velocity, schedule: Schedule, noise: Tensor, iterations: int) -> Velocity:
    """A copy of the network that was straightened for the schedule on its own walks from this noise."""
    teacher = NetworkDenoiser(network, FLOW, "velocity")
    states = teacher_states(teacher, equal_steps(100), schedule, noise)
    student, generator = deepcopy(network), torch.Generator().manual_seed(2)
    denoiser = NetworkDenoiser(student, FLOW, "velocity")
    adam = torch.optim.Adam(student.parameters(), 1e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(adam, iterations)
    for _ in range(iterations):
        rows = torch.randint(len(states), (512,), generator=generator)
        steps = torch.randint(schedule.steps, (512,), generator=generator)
        loss = straightening_loss(denoiser, schedule, states[rows], steps)
        adam.zero_grad()
        loss.backward()
        adam.step()
        rate.step()
    return student


def errors(network: Velocity, schedule: Schedule, noise: Tensor, wanted: Tensor) -> Tensor:
    """Squared distances of the ends from those of the teacher [B]."""
    denoiser = NetworkDenoiser(network, FLOW, "velocity")
    with torch.no_grad():
        return (sample(denoiser, schedule, Euler(), noise) - wanted).square().sum(1)


def cell(squared: Tensor) -> str:
    mean = bootstrap(squared.double())
    return f"{mean.value**0.5:.3f} [{mean.low**0.5:.3f}, {mean.high**0.5:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=400, help="of both trainings")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    network = trained(arguments.iterations)
    fit, test = (
        unit_noise(0, range(4096), (2,)),
        unit_noise(0, range(FIRST_TEST_SAMPLE, FIRST_TEST_SAMPLE + TEST), (2,)),
    )
    teacher = NetworkDenoiser(network, FLOW, "velocity")
    with torch.no_grad():
        wanted = sample(teacher, equal_steps(100), Euler(), test)
    problem = SearchProblem(teacher, FLOW, Euler(), fit[:128], equal_steps(100))
    with torch.no_grad():
        bellman = BOSS().search(problem, list(STEPS)).schedules
    lines, curves = [], {}
    for count in STEPS:
        schedules = dict(zip(KINDS, (bellman[count], equal_steps(count)), strict=True))
        for made_for, own in schedules.items():
            student = straightened(network, own, fit, arguments.iterations)
            for run_on, schedule in schedules.items():
                after = errors(student, schedule, test, wanted)
                curves.setdefault((f"straightened for {made_for} steps", run_on), []).append(float(after.mean()) ** 0.5)
                if made_for == KINDS[0]:
                    before = errors(network, schedule, test, wanted)
                    curves.setdefault(("before", run_on), []).append(float(before.mean()) ** 0.5)
                lines.append([str(count), made_for, run_on, cell(errors(network, schedule, test, wanted)), cell(after)])
    heads = ["steps", "straightened for", "sampled with", "before", "after"]
    table = markdown_lines(heads, lines, left=3)
    (HERE / "straightening.md").write_text(table + "\n")
    print(table)
    figure = Figure((6, 4), layout="constrained")
    axes = figure.subplots()
    styles = {KINDS[0]: "o-", KINDS[1]: "s--"}
    colors = dict(zip(dict.fromkeys(kind for kind, _ in curves), ("C1", "C0", "C2"), strict=True))
    for (kind, run_on), values in curves.items():
        axes.plot(STEPS, values, styles[run_on], color=colors[kind], label=f"{kind}, sampled with {run_on} steps")
    axes.set(xlabel="Euler steps", ylabel="distance from the teacher (root mean square)", yscale="log", xticks=STEPS)
    axes.legend(fontsize=7)
    figure.savefig(HERE / "straightening.png", dpi=120)


if __name__ == "__main__":
    main()
