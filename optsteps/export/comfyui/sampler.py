"""The sampler: every state is a sum of the start, the network's outputs and noise, with numbers from the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .schedule_file import NodeSchedule


@torch.no_grad()
def sample(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    schedule: NodeSchedule,
) -> Tensor:
    """A sampler function of ComfyUI, which is k-diffusion's.

    Args:
        model: (x [B, ...], sigma [B], **extra_args) -> the denoised x.
        x: the first state [B, ...], noise and image added as ComfyUI does.
        sigmas: [m+1], all sigmas of `schedule` or a part of them.
        extra_args: for the model; "seed" is that of the noise of stochastic solvers.
        callback: called before every step with "x", "i", "sigma", "sigma_hat" and "denoised".
        disable: of the progress bar, which the callback shows.
        schedule: from the node that loads it.
    """
    first, last = schedule.place(sigmas)
    walk, arguments = schedule.walks[first], extra_args or {}
    generator = torch.Generator().manual_seed(int(arguments.get("seed") or 0) + 1)  # the start has the seed itself
    outputs: list[Tensor] = []
    noises: list[Tensor] = []

    def state(numbers: dict[str, Any]) -> Tensor:
        while len(noises) < len(numbers["noises"]):
            noises.append(torch.randn(x.shape, generator=generator).to(x))
        total = numbers["start"] * x
        for factors, parts in ((numbers["outputs"], outputs), (numbers["noises"], noises)):
            for factor, part in zip(factors, parts, strict=True):
                if factor:
                    total = total + factor * part
        return total

    begun = -1
    for evaluation in walk["evaluations"]:
        step = evaluation["step"]
        if step >= last - first:
            break
        current = state(evaluation)
        outputs.append(model(current, evaluation["sigma"] * x.new_ones(len(x)), **arguments))
        if callback is not None and step != begun:
            sigma = sigmas[step]
            callback({"x": current, "i": step, "sigma": sigma, "sigma_hat": sigma, "denoised": outputs[-1]})
        begun = step
    return state(walk["arrivals"][last - first - 1])
