"""A pipeline of diffusers that runs a schedule whatever its scheduler would make of it."""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
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

    Where the steps of that class cannot run the schedule, `OptstepsScheduler` runs it: DDIM's and PNDM's steps follow
    their own grid, some classes know no orders, and none obeys an amplitude, weights or told times.

    The new scheduler's config is that of the pipeline's scheduler before, so whatever is saved or made from it is that
    scheduler again. It can be copied and pickled.

    Args:
        pipe: a pipeline, which is changed until `restore(pipe)`; or a scheduler, which is not: a new one is returned.
        schedule: under the process of the pipeline's model.

    Returns:
        The pipeline, or the new scheduler. Schedulers of the kind of EulerDiscreteScheduler sample x / alpha, which is
        x where a schedule ends at noise level 0; UniPC's, DEIS's and DPMSolverSinglestep's start a flow 1e-6 below 1.

    Raises:
        ValueError: a schedule for another process, or betas of another model; orders that neither the scheduler nor the
            schedule's solver has. At a call with a strength, of a pipeline that shares the scheduler of the one it was
            applied to.

    Warns:
        UserWarning: `OptstepsScheduler` takes the place of the scheduler, and with which solver; a flow's schedule
            whose noise is not of unit scale, which pipelines do not ask for.
    """
    is_pipe = hasattr(pipe, "scheduler")
    original: Any = unapplied(pipe.scheduler if is_pipe else pipe)  # type: ignore[attr-defined]
    try:
        applied, scale = _scheduler_with(original, schedule)
    except ValueError as refused:
        applied, scale = _in_its_place(original, schedule, refused), float(schedule.scale)
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
    if isinstance(scheduler, _Posing):
        arguments["num_inference_steps"] = scheduler._counts_the_schedule()
    return method(**arguments)


def _scheduler_with(original: Any, schedule: Schedule) -> tuple[Any, float]:
    """A scheduler of the class of the original that runs the schedule, and the scale of its first sample.

    Raises:
        ValueError: that class cannot.
    """
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
    return applied, start_scale(schedule, kind)


def _in_its_place(original: Any, schedule: Schedule, refused: ValueError) -> Any:
    """An `OptstepsScheduler` that poses as the original, which refused the schedule.

    Raises:
        ValueError: what the original said, where this one cannot run it either.
    """
    from optsteps.export.diffusers.scheduler import OptstepsScheduler

    try:
        ours = OptstepsScheduler.from_pipeline(original, schedule)
    except ValueError as error:
        raise refused from error
    warnings.warn(
        f"{refused}. So optsteps.OptstepsScheduler runs it in its place, with the solver {ours.solver.name}",
        stacklevel=3,
    )
    scheduler = _empty(_posing_class, type(original))
    vars(scheduler).update(vars(ours), _internal_dict=copy.deepcopy(original.config), _optsteps_original=original)
    return scheduler


class _Posing:
    """First base class of the schedulers that run a schedule under the name and config of a pipeline's own scheduler.

    Attributes:
        _optsteps_base: the class of the pipeline's own.
        _optsteps_original: that scheduler.
        _optsteps_made_by: the function that makes the class from `_optsteps_base`.
    """

    _optsteps_base: Any
    _optsteps_original: Any
    _optsteps_made_by: Callable[[Any], Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """An instance of the original class: what `from_config` makes has no schedule."""
        return cls._optsteps_base(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self)

    def __reduce__(self) -> Any:
        return _empty, (self._optsteps_made_by, self._optsteps_base), self.__getstate__()

    def _counts_the_schedule(self) -> int:
        """The schedule's number of steps, which the pipeline counts with from now on."""
        raise NotImplementedError


@functools.cache
def _posing_class(base: Any) -> Any:
    """The class of `OptstepsScheduler`s that pose as schedulers of the class `base`."""
    from optsteps.export.diffusers.scheduler import OptstepsScheduler

    def _counts_the_schedule(self: Any) -> int:
        self.counted = self.schedule.steps
        return int(self.counted)

    members = {
        **_names_of(base),
        "_optsteps_made_by": staticmethod(_posing_class),
        "_counts_the_schedule": _counts_the_schedule,
        "__init__": base.__init__,  # whose parameters say what `from_config` takes
        "__getstate__": OptstepsScheduler.__getstate__,
    }
    return type(base.__name__, (_Posing, OptstepsScheduler, base), members)


def _names_of(base: Any) -> dict[str, Any]:
    """Members by which a class poses as `base`: a pipeline saves it under that name."""
    return {"_optsteps_base": base, "__module__": base.__module__, "__doc__": base.__doc__}


class _Applied(_Posing):
    """First base class of the schedulers that run a schedule by the steps of the original class, which is the second.

    Attributes:
        _optsteps_schedule, _optsteps_kind: the schedule, and the properties of the original class.
        _optsteps_settings: the config that the original class's methods compute with; `config` is the original's.
        _optsteps_arguments: of `set_timesteps`, where tables cannot be loaded; None where they can.
        _optsteps_orders: the highest order of each step; None where the settings determine them.
        _optsteps_counted: the number of steps that the pipeline in use counts with.
    """

    _optsteps_schedule: Schedule
    _optsteps_kind: SchedulerKind
    _optsteps_settings: Any
    _optsteps_arguments: Mapping[str, Any] | None
    _optsteps_orders: list[int] | None
    _optsteps_counted: int

    def _counts_the_schedule(self) -> int:
        self._optsteps_counted = self._optsteps_schedule.steps
        return self._optsteps_counted

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


def _empty(made_by: Callable[[Any], Any], base: Any) -> Any:
    """A scheduler that poses as one of the class `base`, without its fields."""
    return object.__new__(made_by(base))


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
    scheduler = _empty(_subclass, base)
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
    """The class of schedulers that run a schedule by the steps of `base`."""

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

    members: dict[str, Any] = {**_names_of(base), "_optsteps_made_by": staticmethod(_subclass)}
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
