"""`optsteps-export`: a schedule for the tool one samples with, or from what somebody published."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from optsteps.cli.errors import readable_errors
from optsteps.cli.version import versions
from optsteps.export import diffusers_snippet, read_schedule, to_comfyui, to_csv, to_kdiffusion
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.schedules import Schedule, resampled
from optsteps.schedules.reading import ENDS, FORMS, READABLE_FORMS, End, text_form
from optsteps.schedules.schedule import FORMAT
from optsteps.storage.documents import read_text
from optsteps.storage.files import write_atomically

PROCESSES: dict[str, Callable[[], Process]] = {"sd": VP.scaled_linear, "ddpm": VP.linear, "flow": Flow, "edm": EDM}


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = argparse.ArgumentParser(
        prog="optsteps-export",
        description="A schedule in the form that another tool takes, or a published one as a schedule file.",
        epilog="The snippet for diffusers is tried on the scheduler first; where that cannot obey, the snippet loads "
        "the schedule with optsteps.apply and says why.",
    )
    options.add_argument(
        "file", type=Path, metavar="FILE", help="schedule_<n>.json of a run; with --from, what to read"
    )
    options.add_argument("--to", choices=[*FORMS, "diffusers", "schedule"], help="what to write")
    options.add_argument(
        "--scheduler",
        metavar="FOLDER_OR_CLASS",
        help="for diffusers: a saved pipeline or scheduler, or a class (default: what the search's solver is there)",
    )
    options.add_argument(
        "--from",
        dest="form",
        choices=READABLE_FORMS,
        help="read sigmas, timesteps or a table instead of a schedule file",
    )
    options.add_argument(
        "--end",
        choices=ENDS,
        help="with --from: is the last number the last level, or does noise level 0 come after it or in its place? "
        "(default: after it for the arguments of diffusers, otherwise as listed)",
    )
    options.add_argument(
        "--process",
        metavar="NAME_OR_FILE",
        help=f"of the model that --from's schedule is for: {', '.join(PROCESSES)}, or a schedule file with it",
    )
    options.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="resample to N steps: noise levels are interpolated linearly in their logarithm",
    )
    options.add_argument("--output", type=Path, metavar="FILE", help="write there instead of to the terminal")
    options.add_argument("--version", action="version", version=versions())
    return options


@readable_errors
def main() -> None:
    """Entry point."""
    chosen = parser().parse_args()
    if chosen.to is None and chosen.form is None:
        raise ValueError(f"say with --to what to write: {', '.join([*FORMS, 'diffusers'])}")
    to = chosen.to or "schedule"
    if chosen.scheduler is not None and to != "diffusers":
        raise ValueError("--scheduler is for --to diffusers")
    schedule = _read(chosen.file, chosen.form, chosen.process, chosen.end)
    if chosen.steps is not None:
        schedule = _resampled(schedule, chosen.steps, chosen.file)
    if to == "schedule":
        if chosen.output is None:
            raise ValueError("--to schedule writes a file: name it with --output")
        schedule.save(chosen.output)
        return
    text = _written(schedule, to, chosen.scheduler, chosen.file)
    if chosen.output is None:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
    else:
        write_atomically(chosen.output, text.encode())


def _read(path: Path, form: str | None, process: str | None, end: End | None) -> Schedule:
    if form is None:
        if process is not None or end is not None:
            raise ValueError("--process and --end are for --from; a schedule file holds its own")
        return _loaded(path)
    if process is None:
        raise ValueError(f"--from needs --process, the model's: {', '.join(PROCESSES)}, or a schedule file with it")
    try:
        return read_schedule(path, _process(process), form, end)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _loaded(path: Path) -> Schedule:
    """The schedule of a schedule file; of any other text, the error says how to read it."""
    try:
        return Schedule.load(path)
    except ValueError as error:
        text = read_text(path)
        if f'"{FORMAT}"' in text:
            raise
        raise ValueError(
            f"{path} is not a schedule file, and looks like the form {text_form(text)}: read it with "
            f"--from {text_form(text)} --process NAME, the process of its model ({', '.join(PROCESSES)})"
        ) from error


def _resampled(schedule: Schedule, steps: int, path: Path) -> Schedule:
    try:
        return resampled(schedule, steps)
    except ValueError as error:
        raise ValueError(f"{path}, --steps {steps}: {error}") from error


def _process(name: str) -> Process:
    if name in PROCESSES:
        return PROCESSES[name]()
    if not Path(name).is_file():
        raise ValueError(f"unknown process {name!r}, and no such file; known: {', '.join(PROCESSES)}")
    return Schedule.load(name).process


def _written(schedule: Schedule, to: str, scheduler: str | None, path: Path) -> str:
    if to == "diffusers":
        return diffusers_snippet(schedule, scheduler, path)
    if to == "csv":
        return to_csv(schedule)
    if to == "kdiffusion":
        return to_kdiffusion(schedule)
    return to_comfyui(schedule, "json" if to == "comfyui-json" else "text")


if __name__ == "__main__":
    main()
