"""A loaded diffusers pipeline as a `Model`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch

from optsteps.conditions import Cond
from optsteps.datasets.prompts import Prompt
from optsteps.denoisers import Denoiser, GuidedDenoiser, NetworkDenoiser
from optsteps.export.diffusers.scheduler_config import (
    least_noise_level,
    noisiest_time,
    own_schedule,
    prediction_of,
    process_of,
)
from optsteps.models.base import Model
from optsteps.models.diffusers.families import Family, TextFamily, family_of
from optsteps.models.prompts import PromptConditions
from optsteps.processes import EDM, VP, Process
from optsteps.schedules import build_schedule


def from_pipeline(
    pipeline: Any,
    name: str | None = None,
    process: Process | None = None,
    prediction: str | None = None,
    time_scale: float | None = None,
    guidance: float | None = None,
    negative_prompt: str | None = None,
    prompts: Sequence[Prompt] = (),
    test_prompts: Sequence[Prompt] = (),
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    noise_max: float | None = None,
    noise_min: float | None = None,
) -> Model:
    """A pipeline (or `UNet2DModel`) as its user runs it: on its device, in its dtype, through its offloading hooks.

    The denoiser's states are the pipeline's latents in the process's own scale (those of diffusers' Euler scheduler
    over sqrt(sigma^2 + 1)); its times are the network's timesteps, or a flow's t in [0, 1]. Its cond is class labels
    [B] or what `Model.encode(prompts)` returns. Shifts and clipping of x_0 belong to a scheduler and are
    not part of the denoiser.

    Args:
        pipeline: loaded, of one of `families.FAMILIES`.
        name: that reports use; None for the name of the pipeline's class.
        process: None for that of the pipeline's scheduler; a U-Net alone has no scheduler and needs a process.
        prediction: "eps", "v", "x0" or "velocity"; None for what the scheduler says, or a U-Net's "eps", or
            "velocity" under a flow.
        time_scale: the factor between times of the process and those that the network is called with. None for the
            pipeline's, which calls it with its scheduler's timesteps: 1 for DDPMs, for flows mostly 1000. A flow
            without a scheduler needs a number.
        guidance: scale as the pipeline takes it; None for the pipeline's own default, 1 for no guidance. It is
            classifier-free, at two evaluations in one batch, or an input of the network, at one.
        negative_prompt: the prompt that classifier-free guidance leads away from; None for the condition that the
            pipeline itself uses without one.
        prompts, test_prompts: of the samples, see `PromptConditions`; none leaves conds to the caller.
        height, width: in pixels; None for the pipeline's own.
        num_frames: of a video; None for the pipeline's own.
        noise_max, noise_min: the largest and the smallest noise level; None for the scheduler's. The largest is
            infinite for a flow, which starts at t = 1, and under zero terminal SNR; with an eps-prediction it is that
            of the timestep after.

    Raises:
        ValueError: an unknown pipeline or scheduler, a size it cannot make, guidance that the model has not, a process
            of another kind than the network's, or prompts for a model that takes none.

    Warns:
        UserWarning: an eps-prediction under zero terminal SNR, where it says nothing: schedules start below.
    """
    family = family_of(pipeline, (height, width, num_frames))
    scheduler = getattr(pipeline, "scheduler", None)
    process = _process(pipeline, scheduler, process)
    if prediction is None:
        bare = "eps" if isinstance(process, VP) else "velocity"
        prediction = bare if scheduler is None else prediction_of(scheduler)
    scale = family.default_guidance if guidance is None else float(guidance)
    clock = family.time_scale(process) if time_scale is None else time_scale
    denoiser: Denoiser = NetworkDenoiser(family, process, prediction, clock)
    if not family.embeds_guidance and negative_prompt is not None and scale == 1.0:
        raise ValueError(f"negative_prompt={negative_prompt!r} does nothing without guidance; give a scale above 1")
    if family.embeds_guidance:
        if negative_prompt is not None:
            raise ValueError(
                f"negative_prompt={negative_prompt!r} does nothing: this network takes its guidance as an input"
            )
        family.guide(scale)
    elif scale != 1.0:
        denoiser = GuidedDenoiser(denoiser, scale, _null_cond(family, scale, negative_prompt))
    timesteps = 1000 if scheduler is None else scheduler.config.num_train_timesteps
    t_max = noisiest_time(scheduler, process, prediction)
    if t_max < process.t_limit:
        warnings.warn(
            f"at the last timestep, {process.t_limit:g}, the signal is 0 and an eps-prediction says nothing of it: "
            f"schedules start at {t_max:g}, noise level {process.noise_level(t_max):.4g}. A network trained for zero "
            "terminal SNR predicts v (prediction=v); for one that was not take its scheduler without "
            "rescale_betas_zero_snr",
            stacklevel=2,
        )
    high, low = float(process.noise_level(t_max)), least_noise_level(scheduler, process, timesteps)
    facts = {
        "pipeline": type(pipeline).__name__ + (f" with {type(scheduler).__name__}" if scheduler is not None else ""),
        "guidance": f"{scale:g}" + (", an input of the network" if family.embeds_guidance else ""),
        "network": f"called with {clock:g} t, predicts {prediction}",
        "latents": f"{list(family.shape)}, network in {str(family.dtype).removeprefix('torch.')}",
    }
    if prompts:
        facts["prompts"] = f"{len(prompts)} in turn, {len(test_prompts) or 'the same'} for the test samples"
    conditions = _conditions(family, prompts, test_prompts)
    return Model(
        name=name or type(pipeline).__name__,
        denoiser=denoiser,
        process=process,
        shape=family.shape,
        noise_levels=(high if noise_max is None else noise_max, low if noise_min is None else noise_min),
        num_classes=family.num_classes,
        conditions=conditions,
        prompts=None if conditions is None else conditions.words,
        metadata=None if conditions is None else conditions.metadata,
        encode=family.encode if isinstance(family, TextFamily) else None,
        decode=family.decode,
        own_schedule=None if scheduler is None else partial(_own_schedule, family, scheduler, process, t_max),
        published=_published(family, process),
        in_diffusers=scheduler is not None,
        snap=scheduler is not None and isinstance(process, VP),
        final="zero",
        facts=facts,
    )


def _process(pipeline: Any, scheduler: Any | None, requested: Process | None) -> Process:
    if scheduler is None:
        if requested is None or isinstance(requested, EDM):
            raise ValueError(
                f"a {type(pipeline).__name__} without a scheduler does not say what noising process it was trained on: "
                f"give process=ddpm, vp or flow (got {requested!r})"
            )
        return requested
    trained = process_of(scheduler)
    if isinstance(trained, EDM):
        raise ValueError(
            f"the network under {type(scheduler).__name__} is called with a function of the noise level, which no "
            "wrapped pipeline is: sample it by the pipeline's own call, optsteps.tune(pipe, calls, nfe=...) or "
            "model=pipeline"
        )
    if requested is not None and type(requested) is not type(trained):
        raise ValueError(
            f"the pipeline's network was trained on {trained!r}, not on {requested!r}; leave the process to it"
        )
    return requested or trained


def _published(family: Family, process: Process) -> str | None:
    """The name of the published schedule, of fine-tunes too, if the process's noise levels reach as far."""
    if family.published is not None:
        with suppress(ValueError):
            build_schedule("published", process, 10, model=family.published)
            return family.published
    return None


def _null_cond(family: Family, scale: float, negative_prompt: str | None) -> Cond:
    if scale < 1:
        raise ValueError(f"guidance {scale:g}: pipelines guide with scales above 1 only; use 1 for no guidance")
    if isinstance(family, TextFamily):
        return family.null(negative_prompt)
    if negative_prompt is not None:
        raise ValueError(f"negative_prompt={negative_prompt!r}, but this model takes no prompts")
    if family.null_label is None:
        kind = "no label of no class" if family.num_classes else "no condition"
        raise ValueError(f"guidance {scale:g} weighs a condition against none, and this network has {kind}; use 1")
    return torch.tensor([family.null_label], device=family.device)


def _conditions(family: Family, prompts: Sequence[Prompt], test_prompts: Sequence[Prompt]) -> PromptConditions | None:
    if test_prompts and not prompts:
        raise ValueError("test_prompts are for the comparison alone; give prompts for the search as well")
    if not prompts:
        return None
    if not isinstance(family, TextFamily):
        raise ValueError(f"a {type(family.pipeline).__name__} takes no prompts, and {len(prompts)} were given")
    return PromptConditions(family.encode, prompts, test_prompts)


def _own_schedule(family: Family, scheduler: Any, process: Process, t_max: float, steps: int) -> Any:
    return own_schedule(scheduler, process, steps, t_max, **family.scheduler_arguments(steps))
