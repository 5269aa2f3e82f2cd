"""The settings and arguments with which a scheduler of diffusers runs a schedule by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from optsteps.export.diffusers.orders import check_orders
from optsteps.export.diffusers.rehearsal import rehearse
from optsteps.export.diffusers.schedulers import (
    KINDS,
    SchedulerKind,
    check_applicable,
    class_name,
    kind_of,
    neutral_settings,
    parameters_of,
    unapplied,
)
from optsteps.export.diffusers.tables import (
    TIMESTEP_TOLERANCE,
    check_tables,
    check_trained_on,
    noise_ratio,
    on_timesteps,
    schedule_tables,
    scheduler_tables,
)
from optsteps.export.variants import warn_of_variant
from optsteps.processes import VP, Process
from optsteps.schedules import Schedule
from optsteps.storage.documents import read_json


@dataclass(frozen=True)
class DiffusersArguments:
    """Settings and arguments with which a scheduler of diffusers runs a schedule.

    Attributes:
        scheduler: the name of its class.
        settings: those of `from_config(pipe.scheduler.config, **settings)` that must change.
        arguments: of the call of the pipeline, or of `set_timesteps`.
        noise_ratio: the factor by which unit noise that is passed to the pipeline as `latents` must be multiplied to
            start where the schedule does; within 1e-4 of 1 the pipeline's own noise will do.
    """

    scheduler: str
    settings: Mapping[str, Any]
    arguments: Mapping[str, Any]
    noise_ratio: float

    def build(self, config: Mapping[str, Any]) -> Any:
        """The scheduler, from a pipeline's `scheduler.config`; needs diffusers."""
        return scheduler_class(self.scheduler).from_config(config, **self.settings)


def to_diffusers(schedule: Schedule, scheduler: Any) -> DiffusersArguments:
    """The settings and arguments with which a scheduler's own tables become the schedule.

    They are tried before they are returned. A scheduler is built with the settings, and `set_timesteps` is called with
    the arguments. The tables that it then holds are compared with the schedule: levels to 1e-5, calls of the network to
    1e-3 timesteps. Its steps are run on a small tensor. The settings switch off shifts, static and dynamic.

    Args:
        scheduler: the pipeline's scheduler; a folder saved by `save_pretrained`, of a scheduler or of a pipeline; or
            the name of a class, which is then tried with the schedule's own process.

    Raises:
        ValueError: the scheduler cannot obey. The message names it, the first step that differs with both values, and
            what to do instead.
        ImportError: `scheduler` is no object and diffusers is not installed.
    """
    base, is_object = load_scheduler(scheduler, schedule.process), not isinstance(scheduler, str)
    name = class_name(base)
    kind = kind_of(name, schedule.process)
    check_applicable(schedule)
    warn_of_variant(schedule, name)
    check_trained_on(schedule, base)
    settings = neutral_settings(schedule, kind, parameters_of(base))
    if is_object or Path(str(scheduler)).is_dir():  # its settings are known: name the changes only
        settings = {key: value for key, value in settings.items() if base.config.get(key) != value}
    refused: ValueError | None = None
    for variant in _orders_variants(schedule, kind, settings):
        for arguments in _candidates(schedule, kind, base):
            try:
                tried = _tried(schedule, kind, base, variant, arguments)
                return DiffusersArguments(name, variant, arguments, noise_ratio(schedule, tried, kind))
            except ValueError as error:
                refused = refused or error
    remedy = "let optsteps.apply(pipe, schedule) load the tables into it"
    if kind.table == "alphas_cumprod":
        remedy = (
            "take a scheduler that holds its levels, as EulerDiscreteScheduler and EulerAncestralDiscreteScheduler do"
        )
    if kind.takes[schedule.process.name] is None:
        where = " for a flow" if schedule.process.name == "flow" else ""
        raise ValueError(f"{name} takes neither timesteps nor sigmas{where}, so it cannot be told a schedule; {remedy}")
    if (kind.takes[schedule.process.name] == "timesteps" or kind.below_one) and not _on_timesteps(schedule):
        remedy = f"search on timesteps it can call (build_schedule(..., snap=True), teacher.snap=true), or {remedy}"
    raise ValueError(f"{refused}: it cannot be told this schedule; {remedy}") from refused


def _on_timesteps(schedule: Schedule) -> bool:
    """Whether all times are such as `Schedule.snapped` makes. An EDM process has no timesteps to miss."""
    return on_timesteps(schedule.times.detach() * {"vp": 1, "flow": 1000}.get(schedule.process.name, 0))


def _orders_variants(schedule: Schedule, kind: SchedulerKind, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The settings to try: for a schedule with orders, both with and without lower orders at the end."""
    if schedule.orders is None or kind.orders is None:
        yield settings
        return
    for lowered in (True, False):
        yield {**settings, "lower_order_final": lowered}


def _candidates(schedule: Schedule, kind: SchedulerKind, base: Any) -> Iterator[dict[str, Any]]:
    """Arguments of `set_timesteps` that may tell the schedule, the most readable first."""
    takes, process, t = kind.takes[schedule.process.name], schedule.process, schedule.times.detach()
    if takes == "timesteps" or (takes == "levels" and process.name == "vp"):
        whole = on_timesteps(t)
        if whole or takes == "timesteps":
            yield {"timesteps": [round(x) if whole else x for x in t[:-1].tolist()]}
    if takes in ("sigmas", "levels"):
        levels = process.noise_level(t) if process.name == "vp" else t
        if kind.below_one and process.name == "flow":  # it cuts times to integers, and a product may fall just short
            count = base.config.num_train_timesteps
            on_grid = (t * count - (t * count).round()).abs() <= TIMESTEP_TOLERANCE
            levels = torch.where(on_grid & (t < 1), ((t * count).round() + 1e-4) / count, t)
        # as many digits as float32 has
        sigmas = [float(f"{x:.9g}") for x in (levels if takes == "levels" else levels[:-1]).tolist()]
        yield {"sigmas": np.array(sigmas) if kind.below_one else sigmas}  # UniPC multiplies what it is given
    if takes == "ramp":
        low, high, rho = (base.config[key] for key in ("sigma_min", "sigma_max", "rho"))
        ends = [level ** (1 / rho) for level in (low, high)]
        yield {"sigmas": (ends[1] - t[:-1] ** (1 / rho)) / (ends[1] - ends[0])}


def _tried(
    schedule: Schedule, kind: SchedulerKind, base: Any, settings: Mapping[str, Any], arguments: Mapping[str, Any]
) -> Any:
    """A scheduler with these settings, on which `set_timesteps` was called with these arguments.

    Raises:
        ValueError: the scheduler refuses them, or does not run the schedule.
    """
    name = class_name(base)
    try:
        tried = type(base).from_config(base.config, **settings)
        tried.set_timesteps(**arguments)
    except Exception as error:
        raise ValueError(f"{name} refuses it ({error})") from error
    check_tables(name, schedule, schedule_tables(schedule, tried, kind), scheduler_tables(tried, kind))
    if schedule.orders is not None:
        check_orders(schedule, tried, kind)
    if kind.table == "sigmas":
        rehearse(tried, schedule, kind)
    return tried


def load_scheduler(source: Any, process: Process) -> Any:
    """A scheduler from an object, a folder or the name of a class.

    Args:
        source: a scheduler, which is returned; a folder of one or of a pipeline; or the name of a class, which is built
            for `process`.

    Raises:
        ValueError: no such class, one that `kind_of` refuses, or a folder without a scheduler.
        ImportError: diffusers is needed and not installed.
    """
    if not isinstance(source, (str, Path)):
        return unapplied(source)
    folder = Path(source)
    if not folder.is_dir():
        kind_of(str(source), process)
        return scheduler_class(str(source))(**_defaults(str(source), process))
    scheduler = scheduler_in(folder)
    if scheduler is None:
        raise ValueError(f"{folder} holds no scheduler: neither it nor its scheduler/ has a scheduler_config.json")
    return scheduler


def scheduler_in(folder: Path) -> Any | None:
    """The scheduler that was saved into a folder, or into a pipeline's; None where there is none.

    Raises:
        ValueError: it is of a class that diffusers does not have.
        ImportError: diffusers is not installed.
    """
    for file in (folder / "scheduler_config.json", folder / "scheduler" / "scheduler_config.json"):
        if file.is_file():
            config = read_json(file)
            if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
                raise ValueError(f"{file} does not name the scheduler's class; save_pretrained writes it")
            return scheduler_class(config["_class_name"]).from_config(config)
    return None


def scheduler_class(name: str) -> Any:
    """A class of schedulers by its name.

    Raises:
        ValueError: there is none.
        ImportError: diffusers is not installed.
    """
    scheduler = getattr(_diffusers(), name, None)
    if scheduler is None or not hasattr(scheduler, "set_timesteps"):
        raise ValueError(f"diffusers has no scheduler {name!r}, and there is no such folder; known: {', '.join(KINDS)}")
    return scheduler


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise ImportError("trying a schedule on a scheduler needs diffusers: pip install diffusers") from error
    return diffusers


def _defaults(name: str, process: Process) -> dict[str, Any]:
    """The settings that a class needs for the process beyond its defaults."""
    if isinstance(process, VP):
        # a pipeline's config would give them by beta_start and beta_end
        alpha_bar = torch.sigmoid(2 * process.log_snr(torch.arange(process.t_limit + 1)))
        betas = 1 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        settings = {"trained_betas": betas.tolist(), "num_train_timesteps": len(betas)}
        if process.t_finite < process.t_limit and "rescale_betas_zero_snr" in parameters_of(scheduler_class(name)):
            settings |= {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
        return settings
    if name == "EulerDiscreteScheduler":  # under EDM it is that of Stable Video Diffusion
        return {"timestep_type": "continuous", "prediction_type": "v_prediction"}
    if process.name == "flow" and "vp" in kind_of(name, process).takes:
        return {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    return {}
