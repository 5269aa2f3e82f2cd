"""A pipeline of diffusers that runs a schedule whatever its scheduler would make of it."""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import Any, TypeVar

import torch

from optsteps.export.arguments import to_diffusers
from optsteps.export.schedulers import (
    Kind,
    check_amplitude,
    check_trained_on,
    class_name,
    effective_orders,
    kind_of,
    network_calls,
    rehearse,
    start_scale,
    straightened,
    unapplied,
    wanted_tables,
)
from optsteps.export.variants import warn_of_variant
from optsteps.schedules import Schedule

Pipe = TypeVar("Pipe")


def apply(pipe: Pipe, schedule: Schedule) -> Pipe:
    """Make a loaded pipeline run exactly this schedule: its own times, fractional ones too, and its own levels.

    The pipeline gets a scheduler of the same class, of which `set_timesteps` loads the schedule's tables instead of
    making its own, whatever number of steps, sigmas or mu the pipeline hands it: call the pipeline as ever. Shifts are
    off. The steps have the schedule's orders if it has any, else those that the scheduler's settings give them. Latents
    start at the schedule's scale where the pipeline asks its scheduler for one, as those of Stable Diffusion do.

    Args:
        pipe: a pipeline, which is changed until `restore(pipe)`; or a scheduler, which is not: a new one is returned.
        schedule: under the process of the pipeline's model.

    Returns:
        The pipeline, or the new scheduler. Schedulers of the kind of EulerDiscreteScheduler sample x / alpha, which is
        x where a schedule ends at noise level 0; UniPCMultistepScheduler keeps a flow's first level 1e-6 below 1.

    Raises:
        ValueError: the scheduler's steps cannot run such a table (DDIM's and PNDM's follow their own grid), or not this
            one: the message names the step. Betas of another model; a schedule with an amplitude, or with orders
            that the scheduler has not.

    Warns:
        UserWarning: a flow's schedule whose noise is not of unit scale, which pipelines do not ask for.
    """
    is_pipe = hasattr(pipe, "scheduler")
    original: Any = unapplied(pipe.scheduler if is_pipe else pipe)  # type: ignore[attr-defined]
    name = class_name(original)
    kind = kind_of(name, schedule.process)
    check_amplitude(schedule)
    warn_of_variant(schedule, name)
    check_trained_on(schedule, original)
    applied = _applied(original, schedule, kind)
    applied.set_timesteps(schedule.steps)
    if kind.table != "alphas_cumprod":
        rehearse(applied, name)
        applied.set_timesteps(schedule.steps)  # forget what was rehearsed
    scale = start_scale(schedule, kind)
    if schedule.process.name == "flow" and abs(scale - 1) > 1e-4:
        warnings.warn(
            f"the schedule starts from noise times {scale:g}, and pipelines of flows from unit noise: pass latents= "
            f"multiplied by {scale:g}, or search from t = 1",
            stacklevel=2,
        )
    if not is_pipe:
        return applied
    pipe.scheduler = applied  # type: ignore[attr-defined]
    return pipe


def restore(pipe: Pipe) -> Pipe:
    """Undo `apply`: the pipeline gets the scheduler back that it had. Of a scheduler, the one it was made from."""
    if not hasattr(pipe, "scheduler"):
        return unapplied(pipe)
    pipe.scheduler = unapplied(pipe.scheduler)
    return pipe


def _applied(original: Any, schedule: Schedule, kind: Kind) -> Any:
    base, name = type(original), class_name(original)
    known = set(inspect.signature(base.__init__).parameters)
    settings = straightened(schedule, kind, known)
    if schedule.orders is not None:
        if kind.orders is None and max(schedule.orders) > 1:
            raise ValueError(f"the orders of the schedule's steps mean nothing to {name}; take a multistep scheduler")
        settings |= {key: False for key in ("lower_order_final", "euler_at_final") if key in known}
    if kind.table == "alphas_cumprod":
        told = to_diffusers(schedule, original)
        scheduler = base.from_config(original.config, **told.settings)
        scheduler._optsteps_load = functools.partial(base.set_timesteps, **told.arguments)
    else:
        scheduler = base.from_config(original.config, **settings)
        scheduler._optsteps_load = functools.partial(_load, base=base, schedule=schedule, kind=kind)
    scheduler._optsteps_original = original
    scheduler._optsteps_scale = start_scale(schedule, kind)
    scheduler._optsteps_orders = effective_orders(schedule) if kind.orders and schedule.orders else None
    scheduler.__class__ = _subclass(base, hasattr(original, "init_noise_sigma"))
    return scheduler


def _subclass(base: Any, scales: bool) -> Any:
    """The class `base` with tables, and if it `scales` noise a scale, that are given. It goes by the name of `base`, as
    which a pipeline saves it."""

    def set_timesteps(
        self: Any,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        **others: Any,
    ) -> None:
        """Load the schedule's tables; only the device is heeded."""
        self._optsteps_load(self, device=device)

    @functools.wraps(base.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self._optsteps_orders is not None and self.step_index is not None:
            # a scheduler's step has one order more than outputs it believes to have seen
            self.lower_order_nums = self._optsteps_orders[self.step_index] - 1
        return base.step(self, *args, **kwargs)

    members: dict[str, Any] = {"set_timesteps": set_timesteps, "step": step, "__module__": base.__module__}
    if scales:
        members["init_noise_sigma"] = property(lambda self: self._optsteps_scale)
    return type(base.__name__, (base,), members)


def _load(scheduler: Any, base: Any, schedule: Schedule, kind: Kind, device: Any) -> None:
    """Put the schedule's tables in the place of the scheduler's own."""
    base.set_timesteps(scheduler, schedule.steps, device=device)  # resets all that it remembers
    wanted, clean = wanted_tables(schedule, scheduler), schedule.ends_clean
    timesteps, levels = wanted.timesteps, wanted.levels
    if schedule.process.name == "flow" and kind.below_one:
        levels = levels.clamp(max=1 - kind.below_one)
    if kind.stages == 2:  # a step evaluates again at its end, except at noise level 0, and both tables say so
        calls = timesteps if clean else network_calls(schedule, scheduler)
        timesteps, levels = (torch.cat([table[:1], table[1:].repeat_interleave(2)]) for table in (calls, levels))
        timesteps, levels = (timesteps, levels[:-1]) if clean else (timesteps[:-1], levels)
    whole = not scheduler.timesteps.is_floating_point() and torch.equal(timesteps, timesteps.round())
    kept = scheduler.timesteps.dtype if whole else torch.float32
    scheduler.timesteps = timesteps.to(device=device, dtype=kept)
    if kind.table == "alphas":
        scheduler.alphas, scheduler.betas = (
            part(schedule.times).float() for part in (schedule.process.alpha, schedule.process.sigma)
        )
    else:
        scheduler.sigmas = levels.to(device=scheduler.sigmas.device, dtype=torch.float32)
