"""BOSS's straightening: its loss against the paper's formula and between processes, its walks, and what it is for."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from optsteps.cli.train import main
from optsteps.denoisers import NetworkDenoiser
from optsteps.models import GaussianMixture, load_network
from optsteps.models.analytic import Gaussian
from optsteps.models.training import straightening_loss, teacher_states, teacher_walks
from optsteps.models.unet import UNet
from optsteps.noise import unit_noise
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.sampling import sample
from optsteps.schedules import Schedule
from optsteps.solvers import Euler

MIXTURE = GaussianMixture([[-1.0, 0.5], [2.0, -1.0]], [0.3, 0.5], [0.4, 0.6])
LEVELS = st.lists(st.floats(0.05, 14.0), min_size=2, max_size=5, unique_by=lambda level: round(level, 2))


def at_levels(process: Process, levels: list[float]) -> Schedule:
    """The schedule of these noise levels, down to 0."""
    times = process.time_of_noise_level(torch.tensor(sorted(levels, reverse=True), dtype=torch.float64))
    return Schedule([*times.tolist(), process.t_clean], process)


@given(levels=LEVELS, seed=st.integers(0, 99))
def test_the_loss_is_that_of_the_flow_under_every_process(levels: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(6, len(levels) + 1, 2, dtype=torch.float64, generator=generator)
    eps = torch.randn(6, len(levels) + 1, 2, dtype=torch.float64, generator=generator)
    steps = torch.randint(len(levels), (6,), generator=generator)
    losses = []
    for process in (Flow(), EDM(), VP.scaled_linear()):
        schedule = at_levels(process, levels)
        alpha, sigma = (part(schedule.times)[:, None] for part in (process.alpha, process.sigma))
        states = alpha * clean + sigma * eps
        losses.append(straightening_loss(MIXTURE.denoiser(process), schedule, states, steps))
        if process.name == "flow":
            rows, t, t_next = torch.arange(6), schedule.times[steps], schedule.times[steps + 1]
            x = states[rows, steps]
            velocity = (x - MIXTURE.denoiser(process)(x, t)) / t[:, None]
            wanted = (states[rows, steps + 1] - x) / (t_next - t)[:, None]
            torch.testing.assert_close(losses[0], (velocity - wanted).square().mean(), rtol=1e-7, atol=1e-9)
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=1e-4, atol=1e-7)


def test_a_walk_of_its_own_leaves_no_loss() -> None:
    schedule, noise = at_levels(Flow(), [30.0, 2.0, 0.4]), torch.randn(5, 2, dtype=torch.float64)
    denoiser = MIXTURE.denoiser(Flow())
    states = sample(denoiser, schedule, Euler(), noise, return_trajectory=True).movedim(0, 1)
    for step in range(3):
        assert float(straightening_loss(denoiser, schedule, states, torch.full((5,), step))) < 1e-12


@pytest.mark.parametrize("process", [Flow(), EDM()])
def test_walks_of_the_teacher(process: Process) -> None:
    """Along the exact solution of Gaussian data a sample keeps its place in the distribution."""
    schedule, noise = at_levels(process, [40.0, 3.0, 0.5]), torch.randn(4, 2, dtype=torch.float64)
    levels = torch.logspace(2, -3, 600, dtype=torch.float64)
    teacher = Schedule(process.time_of_noise_level(levels), process)
    states = teacher_states(Gaussian(torch.zeros(2), 0.7).denoiser(process), teacher, schedule, noise)
    alpha, sigma = process.alpha(schedule.times), process.sigma(schedule.times)
    spread = (0.49 * alpha**2 + sigma**2).sqrt()
    expected = states[:, :1] * (spread / spread[0])[:, None]
    torch.testing.assert_close(states, expected, rtol=0, atol=5e-3 * float(states.abs().max()))


class Velocity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(torch.cat([x, t[:, None], t[:, None] ** 4], 1))


def test_two_steps_come_nearer_to_the_teacher() -> None:
    """A network that imitates the exact flow of a mixture at two times goes, straightened, where the flow ends."""
    torch.manual_seed(0)
    schedule, exact = Schedule([1.0, 0.5, 0.0], Flow()), MIXTURE.denoiser(Flow())
    teacher = Schedule(torch.linspace(1, 0, 101, dtype=torch.float64), Flow())
    states = teacher_states(exact, teacher, schedule, unit_noise(0, range(2048), (2,)).double()).float()
    unseen = teacher_states(exact, teacher, schedule, unit_noise(1, range(512), (2,)).double()).float()
    denoiser = NetworkDenoiser(Velocity(), Flow(), "velocity")
    adam = torch.optim.Adam(denoiser.network.parameters(), 3e-3)  # type: ignore[attr-defined]
    for _ in range(250):
        steps = torch.randint(2, (len(states),))
        loss = straightening_loss(denoiser, schedule, states, steps)
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        reached = sample(denoiser, schedule, Euler(), unseen[:, 0])
        before = sample(exact, schedule, Euler(), unseen[:, 0])
    error, untrained = ((end - unseen[:, -1]).square().mean() for end in (reached, before))
    assert float(error) < 0.3 * float(untrained)


def test_the_command(tmp_path: Path) -> None:
    torch.manual_seed(0)
    at_levels(Flow(), [80.0, 1.0]).save(tmp_path / "two.json")
    argv = ["optsteps-train", "training=straighten", f"dataset.schedule={tmp_path}/two.json", "logger=none"]
    argv += [f"paths.outputs={tmp_path}", "training.max_steps=3", "dataset.samples=8", "dataset.test_samples=4"]
    argv += ["dataset.teacher_steps=4", "training.batch_size=4", "trainer.accelerator=cpu", "trainer.devices=1"]
    with mock.patch.object(sys, "argv", argv):
        main()
    file = tmp_path / "train" / "digits_straight" / "digits_straight.safetensors"
    (network, notes), (before, _) = load_network(file, UNet), load_network("shipped:digits", UNet)
    assert Schedule.from_dict(notes["straightened_for"]) == Schedule.load(tmp_path / "two.json")
    states = before.state_dict()
    assert any(not torch.equal(part, states[name]) for name, part in network.state_dict().items())
    assert "walks of digits, 8 training samples" in file.with_suffix(".md").read_text()
    walked = [
        teacher_walks("shipped:digits", str(tmp_path / "two.json"), [1, 8, 8], 8, 4, 4, train=part)
        for part in (True, False)
    ]
    assert [tuple(part.images.shape) for part in walked] == [(8, 3, 1, 8, 8), (4, 3, 1, 8, 8)]
