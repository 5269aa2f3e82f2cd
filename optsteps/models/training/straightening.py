"""Straightening (BOSS): a network learns to take a teacher's many steps between two times of a schedule as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optsteps.conditions import Cond
from optsteps.datasets import ImageSet
from optsteps.denoisers import Denoiser, EDMDenoiser, evaluate, expand
from optsteps.models.checkpoint import load_network
from optsteps.models.training.batches import Batch
from optsteps.models.training.task import Task
from optsteps.models.unet import UNet
from optsteps.noise import FIRST_TEST_SAMPLE, unit_noise
from optsteps.sampling import sample
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import Euler
from optsteps.solvers.base import first_order


class StraighteningTraining(Task):
    """BOSS's straightening (Nguyen et al., arXiv:2312.16414, Sec. 4.2, where it is stated for rectified flows).

    The network learns, at the times of one schedule, the velocity that leads from the teacher's state there to the
    teacher's state at the next time by one Euler step (`straightening_loss`). What comes of it is another model, made
    for this schedule.

    Args:
        weights: of the teacher, which the network starts as; a file of a `UNet` or `shipped:NAME`.
        schedule: a file; its process is the one that the model is sampled under.
        learning_rate, weight_decay, warmup_steps, ema_decays, seed: see `Task`.

    Raises:
        FileNotFoundError, ValueError: as `load_network` and `Schedule.load`.
    """

    network: UNet

    def __init__(
        self,
        weights: str,
        schedule: str,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        ema_decays: Sequence[float],
        seed: int,
    ) -> None:
        network, self._notes = load_network(weights, UNet)
        super().__init__(
            network.train().requires_grad_(True), learning_rate, weight_decay, warmup_steps, ema_decays, seed
        )
        self.schedule = Schedule.load(schedule)

    def notes(self) -> dict[str, Any]:
        return {**self._notes, "straightened_for": self.schedule.to_dict()}

    def _denoiser(self, network: nn.Module) -> Denoiser:
        return EDMDenoiser(network, self.schedule.process, self._notes["sigma_data"])

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        _, states, cond = batch
        steps = torch.randint(self.schedule.steps, (len(states),))
        loss = straightening_loss(self._denoiser(self.network), self.schedule, states, steps, cond)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _scores(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        _, states, cond = batch
        denoiser, schedule = self._denoiser(network), self.schedule
        steps = [torch.full((len(states),), step) for step in range(schedule.steps)]
        losses = [straightening_loss(denoiser, schedule, states, step, cond) for step in steps]
        end = sample(denoiser, schedule, Euler(), states[:, 0] / expand(schedule.scale, states[:, 0]), cond)
        return {"loss": torch.stack(losses).mean(), "end_error": (end - states[:, -1]).square().mean()}


def straightening_loss(
    denoiser: Denoiser, schedule: Schedule, states: Tensor, steps: Tensor, cond: Cond = None
) -> Tensor:
    """The mean squared error of the velocity at the states that steps begin with.

    The target is the velocity whose Euler step ends at the teacher's next state: (x_{i+1} - x_i) / (t_{i+1} - t_i)
    under a flow. Under another process it is that of the flow with the same noise levels, so that the loss is the same.

    Args:
        denoiser: D(x, t, cond).
        schedule: of n steps.
        states: the teacher's at the schedule's times [B, n+1, ...].
        steps: the number of each sample's step [B], from 0 to n-1.
        cond: condition of the batch, or None.
    """
    process, rows = schedule.process, torch.arange(len(states))
    x, arrived = states[rows, steps], states[rows, steps + 1]
    t, t_next = schedule.times[steps], schedule.times[steps + 1]
    a, b = (expand(part, x) for part in first_order(process, t, t_next))
    # u = (x / (alpha + sigma) - D) (alpha + sigma) / sigma, of x in the flow's scale
    weight = expand((process.alpha(t) + process.sigma(t)) / process.sigma(t), x)
    wanted = (arrived - a * x) / b
    return (weight * (evaluate(denoiser, x, t.to(x.device), cond).to(wanted) - wanted)).square().mean()


@torch.no_grad()
def teacher_states(
    denoiser: Denoiser, teacher: Schedule, schedule: Schedule, noise: Tensor, cond: Cond = None
) -> Tensor:
    """The states [B, n+1, ...] at a schedule's times on a walk by Euler's steps through them and the teacher's times.

    Args:
        denoiser: D(x, t, cond).
        teacher: of many steps; its times outside the schedule's are left out.
        schedule: of n steps.
        noise: unit Gaussian [B, ...].
        cond: condition of the batch, or None.
    """
    times = schedule.times
    inner = teacher.times[(teacher.times < times[0]) & (teacher.times > times[-1])]
    merged = torch.cat([times, inner]).unique().flip(0)
    walked = Schedule(merged, schedule.process, initial_scale=schedule.initial_scale)
    states = sample(denoiser, walked, Euler(), noise, cond, return_trajectory=True)
    return states[torch.isin(merged, times)].movedim(0, 1)


def teacher_walks(
    weights: str,
    schedule: str,
    shape: Sequence[int],
    samples: int,
    test_samples: int,
    teacher_steps: int = 100,
    seed: int = 0,
    train: bool = True,
) -> ImageSet:
    """Walks of a teacher as a set to train on: `images` are its float32 states at the schedule's times [N, n+1, ...].

    Args:
        weights: of a `UNet`, as in `StraighteningTraining`.
        schedule: a file.
        shape: of one sample.
        samples, test_samples: to train and to validate on.
        teacher_steps: of the teacher, by EDM's family between the schedule's ends.
        seed: of the noise.
        train: which of the two.

    Raises:
        FileNotFoundError, ValueError: as `load_network` and `Schedule.load`.
    """
    network, notes = load_network(weights, UNet)
    wanted = Schedule.load(schedule)
    denoiser = EDMDenoiser(network, wanted.process, notes["sigma_data"])
    t_max, t_min = wanted.times[0].item(), wanted.times[wanted.times > wanted.process.t_clean][-1].item()
    teacher = build_schedule("edm", wanted.process, teacher_steps, t_max, t_min)
    numbers = range(samples) if train else range(FIRST_TEST_SAMPLE, FIRST_TEST_SAMPLE + test_samples)
    labels = torch.tensor([k % max(network.num_classes, 1) for k in numbers])
    parts = []
    for rows in torch.arange(len(numbers)).split(512):
        noise = unit_noise(seed, [numbers[int(k)] for k in rows], tuple(shape))
        parts.append(teacher_states(denoiser, teacher, wanted, noise, labels[rows]))
    return ImageSet(torch.cat(parts), labels, f"walks of {Path(weights).stem.removeprefix('shipped:')}")
