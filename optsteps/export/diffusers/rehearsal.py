"""A trial of a scheduler's steps on a small sample, with the output that an ideal network would give."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from optsteps.export.diffusers.schedulers import SchedulerKind, class_name
from optsteps.export.diffusers.tables import start_scale
from optsteps.schedules import Schedule


def rehearse(scheduler: Any, schedule: Schedule, kind: SchedulerKind) -> None:
    """Run every step of a scheduler that holds the tables of `schedule`.

    The network is the exact one for data of unit variance, so that samples keep the size that they have in use: at
    noise levels of thousands any other would leave the numbers of float32, whatever the scheduler does.

    Raises:
        ValueError: the scheduler refuses a step or leaves the finite numbers; it names the step.
    """
    name = class_name(scheduler)
    times = schedule.times.detach().cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        x = start_scale(schedule, kind) * torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        for i, t in enumerate(scheduler.timesteps):
            step = (i + kind.stages - 1) // kind.stages  # the step whose time this call has
            output = _ideal_output(scheduler, schedule, kind, x, times[step])
            try:
                if hasattr(scheduler, "scale_model_input"):
                    scheduler.scale_model_input(x, t)
                x = scheduler.step(output, t, x, return_dict=False)[0]
            except (RuntimeError, IndexError, TypeError, ValueError, AssertionError) as error:
                raise ValueError(f"{name} fails at step {i} of this schedule ({error})") from error
            if not bool(torch.isfinite(x).all()):
                raise ValueError(
                    f"{name} computes NaN or infinity in step {i}, which leads from level "
                    f"{_level(scheduler, i)} to {_level(scheduler, i + 1)}: its formula has no value there. End at a "
                    "positive noise level or begin a flow below t = 1, or lower solver_order"
                )


def _ideal_output(scheduler: Any, schedule: Schedule, kind: SchedulerKind, x: Tensor, t: Tensor) -> Tensor:
    """The output of the exact network of data of unit variance for a scheduler's sample x at time t.

    x_0 is estimated by alpha x / (alpha^2 + sigma^2), eps by sigma x / (alpha^2 + sigma^2).
    """
    process = schedule.process
    # under EDM's preconditioning the exact network returns 0 for data of the variance that it was scaled for
    if process.name == "edm":
        return torch.zeros_like(x)
    alpha, sigma = process.alpha(t), process.sigma(t)
    scaled = (x.double() * alpha if kind.scaled else x.double()) / (alpha**2 + sigma**2)
    clean, noise = alpha * scaled, sigma * scaled
    predicted = "flow_prediction" if process.name == "flow" else scheduler.config.get("prediction_type", "epsilon")
    outputs = {
        "epsilon": noise,
        "v_prediction": alpha * noise - sigma * clean,
        "sample": clean,
        "flow_prediction": noise - clean,
    }
    return outputs[predicted].to(x.dtype)


def _level(scheduler: Any, i: int) -> str:
    levels = getattr(scheduler, "sigmas", None)
    return f"{float(levels[i]):g}" if levels is not None and i < len(levels) and math.isfinite(levels[i]) else "?"
