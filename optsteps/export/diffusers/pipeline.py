"""A pipeline of diffusers that runs a schedule whatever its scheduler would make of it."""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from optsteps.export.diffusers.arguments import to_diffusers
from optsteps.export.diffusers.orders import effective_orders
from optsteps.export.diffusers.rehearsal import rehearse
from optsteps.export.diffusers.schedulers import (
    SchedulerKind,
    check_applicable,
    class_name,
    default_scheduler,
    kind_of,
    neutral_settings,
    parameters_of,
    unapplied,
)
from optsteps.export.diffusers.tables import (
    check_trained_on,
    network_calls,
    on_timesteps,
    schedule_tables,
    start_scale,
    starts_at_pure_noise,
)
from optsteps.export.variants import warn_of_variant
from optsteps.schedules import Schedule

Pipe = TypeVar("Pipe")

# of a scheduler's methods, those that compute with its settings
_COMPUTING = ("scale_model_input", "add_noise", "scale_noise", "get_velocity")


def apply(pipe: Pipe, schedule: Schedule) -> Pipe:
    """Make a loaded pipeline run exactly this schedule: its own times, fractional ones too, and its own levels.

    Call the pipeline as ever. It gets a scheduler of the same class whose `set_timesteps` loads the schedule's tables
    instead of making its own, whatever number of steps, sigmas or mu the pipeline passes. Shifts are off. The steps
    have the schedule's orders if it has any, else those that the scheduler's settings give them. Latents start at the
    schedule's scale where the pipeline reads it from its scheduler, as those of Stable Diffusion do. A pipeline that
    takes a strength (img2img, inpainting) runs a part of the schedule: of n steps as many as it would run of n steps of
    its own.

    The new scheduler's config is that of the pipeline's scheduler before, so whatever is saved or made from it is that
    scheduler again. It can be copied and pickled.

    Args:
        pipe: a pipeline, which is changed until `restore(pipe)`; or a scheduler, which is not: a new one is returned.
        schedule: under the process of the pipeline's model.

    Returns:
        The pipeline, or the new scheduler. Schedulers of the kind of EulerDiscreteScheduler sample x / alpha, which is
        x where a schedule ends at noise level 0; UniPC's, DEIS's and DPMSolverSinglestep's start a flow 1e-6 below 1.

    Raises:
        ValueError: the scheduler's steps cannot run such a table (DDIM's and PNDM's follow their own grid), or not this
            one: the message names the step. Betas of another model; a schedule with an amplitude, weights or
            told times, or with orders that the scheduler has not. At a call with a strength, of a pipeline that shares
            the scheduler of the one it was applied to.

    Warns:
        UserWarning: a flow's schedule whose noise is not of unit scale, which pipelines do not ask for.
    """
    is_pipe = hasattr(pipe, "scheduler")
    original: Any = unapplied(pipe.scheduler if is_pipe else pipe)  # type: ignore[attr-defined]
    name = class_name(original)
    kind = kind_of(name, schedule.process)
    check_applicable(schedule)
    warn_of_variant(schedule, name)
    check_trained_on(schedule, original)
    applied = _applied(original, schedule, kind)
    applied.set_timesteps(schedule.steps)
    if kind.table != "alphas_cumprod":
        rehearse(applied, schedule, kind)
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
    if hasattr(type(pipe), "get_timesteps"):
        pipe.get_timesteps = functools.partial(_timesteps_of_the_schedule, pipe)  # type: ignore[attr-defined]
    return pipe


def restore(pipe: Pipe) -> Pipe:
    """Undo `apply`: a pipeline gets the scheduler back that it had. For a scheduler, the one it was made from."""
    if not hasattr(pipe, "scheduler"):
        return unapplied(pipe)
    pipe.scheduler = unapplied(pipe.scheduler)
    vars(pipe).pop("get_timesteps", None)
    return pipe


def _timesteps_of_the_schedule(pipe: Any, *args: Any, **kwargs: Any) -> Any:
    """Replacement of a pipeline's `get_timesteps`, which cuts off the steps above a strength.

    The pipeline's own counts the steps that it was called with; a schedule has its own number of steps.
    """
    method, scheduler = type(pipe).get_timesteps, pipe.scheduler
    arguments = inspect.signature(method).bind(pipe, *args, **kwargs).arguments
    if isinstance(scheduler, _Applied):
        arguments["num_inference_steps"] = scheduler._optsteps_counted = scheduler._optsteps_schedule.steps
    return method(**arguments)


class _Applied:
    """First base class of the schedulers that run a schedule; the second is the scheduler's original class.

    Attributes:
        _optsteps_original: the scheduler that this one was made from.
        _optsteps_schedule, _optsteps_kind: the schedule, and the properties of the original class.
        _optsteps_settings: the config that the original class's methods compute with; `config` is the original's.
        _optsteps_arguments: of `set_timesteps`, where tables cannot be loaded; None where they can.
        _optsteps_orders: the highest order of each step; None where the settings determine them.
        _optsteps_counted: the number of steps that the pipeline in use counts with.
    """

    _optsteps_base: Any
    _optsteps_original: Any
    _optsteps_schedule: Schedule
    _optsteps_kind: SchedulerKind
    _optsteps_settings: Any
    _optsteps_arguments: Mapping[str, Any] | None
    _optsteps_orders: list[int] | None
    _optsteps_counted: int

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """An instance of the original class: what `from_config` makes has no schedule."""
        return cls._optsteps_base(*args, **kwargs)

    def __reduce__(self) -> Any:
        return _empty, (self._optsteps_base,), vars(self)

    @property
    def init_noise_sigma(self) -> float:
        """The scale of the first sample, of schedulers that their pipelines ask for one."""
        if not hasattr(self._optsteps_original, "init_noise_sigma"):
            raise AttributeError("init_noise_sigma")
        return start_scale(self._optsteps_schedule, self._optsteps_kind)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Let `config` be the settings that the original class's methods compute with, while the body runs."""
        fields = vars(self)
        original_config, fields["_internal_dict"] = fields["_internal_dict"], self._optsteps_settings
        try:
            yield
        finally:
            fields["_internal_dict"] = original_config

    def set_timesteps(
        self: Any,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        **others: Any,
    ) -> None:
        """Load the schedule's tables. All arguments but the device are ignored."""
        base, steps = self._optsteps_base, self._optsteps_schedule.steps
        with self._computing():
            if self._optsteps_arguments is None:
                base.set_timesteps(self, steps, device=device)  # forgets the outputs of earlier steps
                _load(self, self._optsteps_schedule, self._optsteps_kind, device)
            else:
                base.set_timesteps(self, device=device, **self._optsteps_arguments)
        # a pipeline that was called with a list counts the timesteps of the scheduler
        self._optsteps_counted = steps if num_inference_steps is None else num_inference_steps


def _empty(base: Any) -> Any:
    """A scheduler of the class `base` that runs a schedule, without its fields."""
    return object.__new__(_subclass(base))


def _applied(original: Any, schedule: Schedule, kind: SchedulerKind) -> Any:
    base, name = type(original), class_name(original)
    names = parameters_of(original)
    settings = neutral_settings(schedule, kind, names)
    if schedule.orders is not None:
        if kind.orders is None and max(schedule.orders) > 1:
            other = default_scheduler(schedule)
            raise ValueError(
                f"the orders of the schedule's steps mean nothing to {name}; take a multistep scheduler"
                + (f": pipe.scheduler = {other}.from_config(pipe.scheduler.config)" if other != name else "")
            )
        settings |= {key: False for key in ("lower_order_final", "euler_at_final") if key in names}
    arguments = None
    if kind.table == "alphas_cumprod":
        to_set = to_diffusers(schedule, original)
        settings, arguments = dict(to_set.settings), to_set.arguments
    straight = base.from_config(original.config, **settings)
    orders = schedule.orders
    if kind.orders and orders is None and starts_at_pure_noise(schedule):
        orders = (straight.config.solver_order,) * schedule.steps
    scheduler = _empty(base)
    vars(scheduler).update(
        vars(straight),
        _internal_dict=copy.deepcopy(original.config),
        _optsteps_original=original,
        _optsteps_schedule=schedule,
        _optsteps_kind=kind,
        _optsteps_settings=straight.config,
        _optsteps_arguments=arguments,
        _optsteps_orders=effective_orders(schedule, orders) if kind.orders and orders else None,
    )
    return scheduler


@functools.cache
def _subclass(base: Any) -> Any:
    """The class of schedulers that run a schedule by the steps of `base`.

    It has the name of `base`, under which a pipeline saves it.
    """

    def computing(method: Any) -> Any:
        @functools.wraps(method)
        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            with self._computing():
                return method(self, *args, **kwargs)

        return wrapped

    @functools.wraps(base.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self._optsteps_orders is not None and self.step_index is not None:
            # a scheduler's step has one order more than outputs it believes to have seen; it may begin within
            seen = sum(output is not None for output in self.model_outputs)
            self.lower_order_nums = min(self._optsteps_orders[self.step_index] - 1, seen)
        with self._computing():
            return base.step(self, *args, **kwargs)

    def set_begin_index(self: Any, begin_index: int = 0) -> None:
        steps = self._optsteps_schedule.steps
        if begin_index > 0 and self._optsteps_counted != steps:
            raise ValueError(
                f"this pipeline takes its scheduler for one of {self._optsteps_counted} steps, and the schedule that "
                f"optsteps.apply loaded into it has {steps}: pass num_inference_steps={steps}, or apply the schedule "
                "to this pipeline itself"
            )
        base.set_begin_index(self, begin_index)

    members: dict[str, Any] = {"_optsteps_base": base, "__module__": base.__module__, "__doc__": base.__doc__}
    members |= {name: computing(getattr(base, name)) for name in _COMPUTING if hasattr(base, name)} | {"step": step}
    if hasattr(base, "set_begin_index"):
        members["set_begin_index"] = set_begin_index
    return type(base.__name__, (_Applied, base), members)


def _load(scheduler: Any, schedule: Schedule, kind: SchedulerKind, device: Any) -> None:
    """Put the schedule's tables in the place of the scheduler's own."""
    tables, clean = schedule_tables(schedule, scheduler, kind), schedule.ends_clean
    timesteps, levels = tables.timesteps, tables.levels
    if schedule.process.name == "flow" and kind.below_one:
        levels = levels.clamp(max=1 - kind.below_one)
    if kind.stages == 2:  # a step evaluates again at its end, except at noise level 0, and both tables say so
        calls = timesteps if clean else network_calls(schedule, scheduler)
        timesteps, levels = (torch.cat([table[:1], table[1:].repeat_interleave(2)]) for table in (calls, levels))
        timesteps, levels = (timesteps, levels[:-1]) if clean else (timesteps[:-1], levels)
    if not scheduler.timesteps.is_floating_point() and on_timesteps(timesteps):
        scheduler.timesteps = timesteps.round().to(device=device, dtype=scheduler.timesteps.dtype)
    else:
        scheduler.timesteps = timesteps.to(device=device, dtype=torch.float32)
    if kind.table == "alphas":
        scheduler.alphas, scheduler.betas = (
            part(schedule.times).float() for part in (schedule.process.alpha, schedule.process.sigma)
        )
    else:
        scheduler.sigmas = levels.to(device=scheduler.sigmas.device, dtype=torch.float32)
