"""Ready-to-paste Python for a pipeline of diffusers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from optsteps.export.diffusers.arguments import DiffusersArguments, load_scheduler, to_diffusers
from optsteps.export.diffusers.pipeline import apply
from optsteps.export.diffusers.schedulers import class_name, default_scheduler, missing_solver
from optsteps.schedules import Schedule
from optsteps.text.escaping import printable


def diffusers_snippet(schedule: Schedule, scheduler: Any = None, path: str | Path = "schedule.json") -> str:
    """Python that makes `pipe`, a loaded pipeline, sample with the schedule.

    The pipeline gets the scheduler that is named here, with the settings of its own.

    Args:
        scheduler: as in `to_diffusers`; None for the one nearest to the solver of the search (`default_scheduler`).
        path: the schedule's file, which the snippet reads where the scheduler cannot be told the schedule, so that
            `optsteps.apply` must load it.

    Raises:
        ImportError: diffusers, on which the arguments are tried, is not installed.
        ValueError: the scheduler can run the schedule in neither way, or diffusers has no such scheduler.
    """
    chosen = default_scheduler(schedule) if scheduler is None else scheduler
    base = load_scheduler(chosen, schedule.process)
    try:
        to_set = to_diffusers(schedule, chosen)
    except ValueError as error:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where the snippet is run
            apply(base, schedule)
        return _applying(class_name(base), schedule, str(path), str(error))
    kinds = {type(value) for value in to_set.arguments.values()}
    lines = [f"import {name}" for name, kind in (("numpy", np.ndarray), ("torch", Tensor)) if kind in kinds]
    lines += [f"from diffusers import {to_set.scheduler}", "", "# pipe: your pipeline, as loaded"]
    settings = [f"    {key}={value!r}," for key, value in to_set.settings.items()]
    call = f"pipe.scheduler = {to_set.scheduler}.from_config("
    if isinstance(scheduler, str) and not Path(scheduler).is_dir():
        lines += [
            "# tried with the schedule's own process, which your pipeline's scheduler must have; a folder tells more"
        ]
    lines += [call, "    pipe.scheduler.config,", *settings, ")"]
    lines += _noise_note(to_set)
    if to_set.settings.get("use_flow_sigmas") and "sigmas" in to_set.arguments:
        lines += ["# FluxPipeline drops sigmas= with such a scheduler: use optsteps.apply there"]
    arguments = [f"    {key}={_literal(value)}," for key, value in to_set.arguments.items()]
    lines += ["images = pipe(", '    "your prompt",', *arguments, ")[0]"]
    return "\n".join(lines) + "\n"


def run_snippets(schedules: Mapping[int, Schedule], scheduler: Any = None, folder: str | Path = ".") -> str:
    """One Python file with the snippets of a run.

    Args:
        schedules: of the run, by step count.
        scheduler: as in `diffusers_snippet`. Where it cannot run a schedule, a comment says why, and the one nearest to
            the solver takes its place.
        folder: where the schedules lie as schedule_<steps>.json.
    """
    parts = []
    for steps, schedule in sorted(schedules.items()):
        lines = [f"# {steps} steps\n"]
        missing = missing_solver(schedule.metadata.get("solver", "euler"), schedule.process)
        lines += [_comment(sentence) for sentence in missing]
        for chosen in (scheduler, None):
            try:
                lines.append(diffusers_snippet(schedule, chosen, Path(folder) / f"schedule_{steps}.json"))
                break
            except ValueError as error:
                lines.append(_comment(error))
        parts.append("".join(lines))
    return "\n\n".join(parts)


def _applying(name: str, schedule: Schedule, path: str, reason: str) -> str:
    flow = ', use_flow_sigmas=True, prediction_type="flow_prediction"' if _reads_flow(name, schedule) else ""
    lines = [
        _comment(reason) + "import optsteps",
        f"from diffusers import {name}",
        "",
        "# pipe: your pipeline, as loaded",
        f"pipe.scheduler = {name}.from_config(pipe.scheduler.config{flow})",
        f"optsteps.apply(pipe, optsteps.Schedule.load({path!r}))",
        'images = pipe("your prompt")[0]',
    ]
    return "\n".join(lines) + "\n"


def _comment(reason: object) -> str:
    return f"# {' '.join(printable(str(reason)).split())}\n"


def _reads_flow(name: str, schedule: Schedule) -> bool:
    return schedule.process.name == "flow" and not name.startswith("FlowMatch")


def _noise_note(to_set: DiffusersArguments) -> list[str]:
    if abs(to_set.noise_ratio - 1) < 1e-4:
        return []
    return [f"# the schedule starts from less or more noise: pass latents= unit noise times {to_set.noise_ratio:.9g}"]


def _literal(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"torch.tensor({value.tolist()}, dtype=torch.float64)"
    return f"numpy.array({value.tolist()})" if isinstance(value, np.ndarray) else repr(value)
