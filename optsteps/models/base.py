"""A model ready to be sampled: its denoiser under a process, and what a sampler must know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.datasets.geneval_prompts import Metadata
from optsteps.denoisers import Denoiser, EDMDenoiser, GuidedDenoiser, model_errors
from optsteps.models.analytic import GaussianMixture
from optsteps.models.checkpoint import load_network
from optsteps.models.precision import in_precision
from optsteps.models.unet import UNet
from optsteps.processes import Process
from optsteps.schedules import Final, Schedule


@dataclass(frozen=True)
class Model:
    """A denoiser with its surroundings.

    Attributes:
        name: that reports use.
        denoiser: D(x [B, *shape], t [B], cond).
        process: the noising process it is sampled under.
        shape: of one sample.
        noise_levels: the largest and the smallest noise level it is used at.
        num_classes: of class labels that are its cond; 0 for a model without class labels.
        distribution: the truth, where it is known.
        conditions: the cond of the samples with these numbers; None for class labels in turn, or no cond.
        prompts: of the samples with these numbers; None where they have none.
        metadata: by which the images of the samples with these numbers are judged; None for a model without any. It
            returns None where some of the samples have none.
        encode: the cond of prompts; None for a model without prompts.
        decode: images in [-1, 1] of samples that are latents; None where samples are the images.
        own_schedule: the schedule that its users sample with, for so many steps; None where there is none.
        published: name of the schedule that AYS's authors published for models of its kind; None where there is none.
        in_diffusers: whether a pipeline of diffusers samples it; a run then says how to use its schedules there.
        final: how its schedules end, see `build_schedule`.
        snap: whether their times must be timesteps, see `build_schedule`.
        model_parallel: whether the network lies in pieces in all ranks of a run, as FSDP and tensor parallelism have
            it, so that the ranks make every evaluation together.
        facts: further entries for reports, by name.

    Raises:
        ValueError: a shape without dimensions, or noise levels that are no pair of numbers.
    """

    name: str
    denoiser: Denoiser
    process: Process
    shape: tuple[int, ...]
    noise_levels: tuple[float, float]
    num_classes: int = 0
    distribution: GaussianMixture | None = None
    conditions: Callable[[Sequence[int] | range], Cond] | None = None
    prompts: Callable[[Sequence[int] | range], list[str]] | None = None
    metadata: Callable[[Sequence[int] | range], list[Metadata] | None] | None = None
    encode: Callable[[Sequence[str]], Cond] | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    own_schedule: Callable[[int], Schedule] | None = None
    published: str | None = None
    in_diffusers: bool = False
    final: Final = "t_min"
    snap: bool = False
    model_parallel: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.shape) == 0:
            raise ValueError("shape must be that of one sample, such as (3, 64, 64) or (2,), got ()")
        levels: Any = self.noise_levels
        if isinstance(levels, str) or not isinstance(levels, Sequence) or len(levels) != 2:
            raise ValueError(
                "noise_levels must be the largest and the smallest noise level that the model is used at, such as "
                f"(80.0, 0.002), got {levels!r}"
            )

    @property
    def time_range(self) -> tuple[float, float]:
        """t_max and t_min: the times of `noise_levels`, as far as the process reaches."""
        return self.process.time_range(*self.noise_levels)

    def cond(self, index: Sequence[int] | range, device: torch.device) -> Cond:
        """The cond of the samples `index`. Class labels lie on `device`, sample k having class k modulo their number;
        encoded prompts may lie elsewhere, and the denoiser fetches what it needs."""
        if self.conditions is not None:
            with model_errors(f"asked for the conditions of samples {index[0]} to {index[-1]}"):
                return self.conditions(index)
        return torch.tensor([k % self.num_classes for k in index], device=device) if self.num_classes else None


def pretrained(
    name: str,
    weights: str,
    process: Process,
    device: torch.device,
    shape: Sequence[int],
    noise_max: float,
    noise_min: float,
    guidance: float = 1.0,
    precision: str = "float32",
) -> Model:
    """An EDM-preconditioned U-Net from a weights file (see `optsteps.models.checkpoint`).

    Args:
        weights: a path or `shipped:NAME`.
        guidance: scale of classifier-free guidance; 1 is the plain conditional model at 1 evaluation.
        precision: of the network's arithmetic, "float32" or "bfloat16" (by autocast); states stay float32.

    Raises:
        FileNotFoundError, ValueError: as `load_network`; a guidance scale for an unconditional network; an unknown
            precision.
    """
    network, notes = load_network(weights, UNet)
    network = network.to(device)
    denoiser: Denoiser = EDMDenoiser(in_precision(network, precision, device), process, notes["sigma_data"])
    if guidance != 1.0:
        if network.num_classes == 0:
            raise ValueError(f"guidance {guidance:g} needs a class-conditional network, and {weights} has no classes")
        denoiser = GuidedDenoiser(denoiser, guidance, torch.tensor([network.num_classes], device=device))
    return Model(name, denoiser, process, tuple(shape), (noise_max, noise_min), network.num_classes)


def mixture(
    name: str,
    process: Process,
    device: torch.device,
    means: Sequence[Sequence[float]],
    stds: Sequence[float],
    noise_max: float,
    noise_min: float,
    weights: Sequence[float] | None = None,
) -> Model:
    """An exact Gaussian mixture.

    All models take a `device`; this one ignores it, because its tensors follow the samples.
    """
    exact = GaussianMixture(means, stds, weights)
    levels = (noise_max, noise_min)
    return Model(name, exact.denoiser(process), process, (exact.dimension,), levels, distribution=exact)


def grid_mixture(
    name: str,
    process: Process,
    device: torch.device,
    rows: int,
    columns: int,
    spacing: float,
    std: float,
    noise_max: float,
    noise_min: float,
) -> Model:
    """A 2D mixture of rows x columns equal Gaussians on a centred grid."""
    means = torch.cartesian_prod(torch.arange(rows).double(), torch.arange(columns).double()) * spacing
    means = means - means.mean(0)
    stds = [std] * len(means)
    return mixture(name, process, device, means.tolist(), stds, noise_max, noise_min)
