"""`optsteps-export`: a schedule for the tool one samples with, or from what somebody published."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from optsteps.cli.errors import readable_errors
from optsteps.cli.version import versions
from optsteps.export import diffusers_snippet, read_schedule, to_comfyui, to_csv, to_kdiffusion, write_comfyui_nodes
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.schedules import PUBLISHED, Schedule, published_schedule, resampled
from optsteps.schedules.published import published_answer
from optsteps.schedules.reading import ENDS, FORMS, READABLE_FORMS, text_form
from optsteps.schedules.schedule import FORMAT
from optsteps.storage.documents import read_text
from optsteps.storage.files import file_name, write_atomically

# what a published schedule is named by, in place of a file
PREFIX = "published:"
NODES = "comfyui-nodes"
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
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="schedule_<n>.json of a run; with --from, what to read; or published:NAME, a schedule that people share: "
        f"{', '.join(PUBLISHED)}; with --list, a part of a model's name",
    )
    options.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help=f"for {NODES}: ComfyUI/custom_nodes/optsteps"
    )
    options.add_argument("--to", choices=[*FORMS, "diffusers", NODES, "schedule"], help="what to write")
    options.add_argument(
        "--list",
        action="store_true",
        help="show the published schedules, or those for FILE's model: optsteps-export --list SDXL --steps 8",
    )
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
    options.add_argument(
        "--part",
        metavar="PART",
        help="a part of the steps: 2:8 from time 2 to time 8, levels=5:0.1 between noise levels, strength=0.6",
    )
    options.add_argument("--snap", action="store_true", help="round the times to timesteps that every sampler can run")
    options.add_argument("--output", type=Path, metavar="FILE", help="write there instead of to the terminal")
    options.add_argument("--version", action="version", version=versions())
    return options


@readable_errors
def main() -> None:
    """Entry point."""
    chosen = parser().parse_intermixed_args()
    if chosen.list:
        print(published_answer(str(chosen.file), chosen.steps) if chosen.file else _listed())
        return
    if chosen.file is None:
        raise ValueError("name a FILE: a schedule file, or published:NAME (--list shows them)")
    if chosen.to is None and chosen.form is None:
        raise ValueError(f"say with --to what to write: {', '.join([*FORMS, 'diffusers', NODES])}")
    to = chosen.to or "schedule"
    if chosen.scheduler is not None and to != "diffusers":
        raise ValueError("--scheduler is for --to diffusers")
    if (chosen.folder is None) == (to == NODES):
        raise ValueError(f"--to {NODES} writes a node pack: name its FOLDER after it, and no other form has one")
    schedule = _changed(_read(chosen), chosen)
    if to == NODES:
        name = file_name(chosen.file.name.removeprefix(PREFIX).removesuffix(".json"))
        write_comfyui_nodes(schedule, chosen.folder, name)
        return
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


def _listed() -> str:
    """A line for every published schedule."""
    lines = []
    for name, listed in PUBLISHED.items():
        zero = "0 in place of the last value" if listed.zero == "replaces" else "0 after the last value"
        shift = "" if listed.shift is None else f", shift {listed.shift:g}"
        made = f"{listed.made_for}, {listed.steps} steps, {listed.solver}{shift}, {zero}"
        lines.append(f"{PREFIX}{name}  {made}; {listed.origin}")
    return "\n".join(lines)


def _changed(schedule: Schedule, chosen: argparse.Namespace) -> Schedule:
    """The schedule with another number of steps, snapped, or a part of it, as far as the options say so."""
    try:
        if chosen.steps is not None:
            schedule = resampled(schedule, chosen.steps)
        if chosen.snap:
            schedule = schedule.snapped()
        return schedule if chosen.part is None else _part(schedule, chosen.part)
    except ValueError as error:
        options = {"--steps": chosen.steps, "--part": chosen.part}
        said = ", ".join(f"{name} {value}" for name, value in options.items() if value is not None)
        raise ValueError(f"{chosen.file}, {said}{' --snap' * chosen.snap}: {error}") from error


def _part(schedule: Schedule, text: str) -> Schedule:
    """The part that a text such as 2:8, levels=5:0.1 or strength=0.6 names."""
    by, _, ends = text.rpartition("=")
    try:
        numbers = [float(end) if end else None for end in ends.split(":")]
    except ValueError as error:
        raise ValueError(f"a part is written 2:8, levels=5:0.1 or strength=0.6, got {text!r} ({error})") from error
    if by == "strength" and len(numbers) == 1 and numbers[0] is not None:
        return schedule.part(strength=numbers[0])
    if by not in ("", "levels") or len(numbers) != 2:
        raise ValueError(f"a part is written 2:8, levels=5:0.1 or strength=0.6, got {text!r}")
    first, last = numbers
    return schedule.part(first, last, "noise_level" if by else "step")


def _read(chosen: argparse.Namespace) -> Schedule:
    path, form, process, end = chosen.file, chosen.form, chosen.process, chosen.end
    if form is None:
        if process is not None or end is not None:
            raise ValueError("--process and --end are for --from; a schedule file holds its own")
        if str(path).startswith(PREFIX):
            return published_schedule(str(path).removeprefix(PREFIX), chosen.steps)
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
