"""Schedules that somebody published, from the forms that `optsteps.export` writes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from optsteps.documents import read_text
from optsteps.export.text import CSV_COLUMNS
from optsteps.processes import Process, as_times
from optsteps.schedules import Schedule, snap_levels

Form = Literal["comfyui", "comfyui-json", "kdiffusion", "csv"]
FORMS: tuple[Form, ...] = ("comfyui", "comfyui-json", "kdiffusion", "csv")


def read_schedule(source: str | Path | Sequence[float], process: Process, form: str | None = None) -> Schedule:
    """A schedule from sigmas or from a table.

    Sigmas are noise levels, or for a flow its times. Levels printed with few digits that lie up to 2 % outside the
    process's range snap to it; 0 is the clean time.

    Args:
        source: numbers; or text: "a, b, c", one number a line, a JSON or Python list, or CSV with a column `time` or
            `noise_level`; or the path of a file with such text.
        process: the process of the model they are for.
        form: what the text must be, one of `FORMS`; None finds it out.

    Raises:
        ValueError: not such text, a value that is no number (with its line), a level outside the range, or not
            decreasing.
        OSError: the file cannot be read.
    """
    text = read_text(source) if isinstance(source, Path) else source
    if not isinstance(text, str):
        return _from_sigmas([float(x) for x in text], process)
    if not text.strip():
        raise ValueError("there is no schedule in an empty text")
    found = _form(text)
    if form is not None and found != form and {found, form} != {"comfyui-json", "kdiffusion"}:
        raise ValueError(f"the text is not of the form {form}; it looks like {found}")
    if found == "csv":
        return _from_table(text, process)
    if found == "comfyui":
        return _from_sigmas(_numbers(text), process)
    try:
        listed = json.loads(re.sub(r",\s*]", "]", text), parse_int=float)  # of any length
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: this list cannot be read ({error.msg})") from error
    except RecursionError:
        raise ValueError("this list cannot be read: it is nested too deeply") from None
    if not isinstance(listed, list) or not all(isinstance(x, (int, float)) for x in listed):
        wrong = next((x for x in listed if not isinstance(x, (int, float))), listed)
        raise ValueError(f"{wrong!r} is not a number; a schedule is a list of numbers")
    return _from_sigmas(listed, process)


def _form(text: str) -> Form:
    head = text.lstrip()
    if head[0] in "[{":
        return "kdiffusion"
    columns = {name.strip() for name in head.splitlines()[0].split(",")}
    return "csv" if columns & set(CSV_COLUMNS) else "comfyui"


def _number(word: str, line: int) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"line {line}: {word!r} is not a number") from None


def _numbers(text: str) -> list[float]:
    lines = enumerate(text.splitlines(), start=1)
    return [_number(word, n) for n, line in lines for word in re.split(r"[,;\s]+", line.strip()) if word]


def _from_sigmas(sigmas: Sequence[float], process: Process) -> Schedule:
    if len(sigmas) < 2:
        raise ValueError(f"a schedule needs at least two sigmas, got {len(sigmas)}")
    if process.name == "flow":
        times = as_times(sigmas)
        if not bool(process.contains(times).all()):
            k = int((~process.contains(times)).nonzero()[0])
            raise ValueError(f"value {k + 1}, {sigmas[k]:g}, is no time of a flow: its sigmas run from 1 to 0")
        return Schedule(times, process)
    levels = as_times(sigmas)
    within, outside = snap_levels(process, levels)
    outside |= ~(torch.isfinite(levels) & (levels >= 0))
    if bool(outside.any()):
        k = int(outside.nonzero()[0])
        raise ValueError(
            f"value {k + 1}, {sigmas[k]:g}, is outside the noise levels of {process!r}: the schedule is for another "
            "model"
        )
    falling = levels.diff() < 0
    if not bool(falling.all()):
        k = int((~falling).nonzero()[0])
        raise ValueError(f"sigmas must fall, but value {k + 2} is {sigmas[k + 1]:g} after {sigmas[k]:g}")
    return Schedule(process.time_of_noise_level(within), process)


def _from_table(text: str, process: Process) -> Schedule:
    lines = text.lstrip().splitlines()
    skipped = len(text.splitlines()) - len(lines)
    table = csv.DictReader(lines, skipinitialspace=True)
    columns = [name.strip() for name in table.fieldnames or []]
    table.fieldnames = columns
    column = next((name for name in ("time", "noise_level") if name in columns), None)
    if column is None:
        raise ValueError(f"a table needs a column time or noise_level, got {', '.join(columns)}")
    numbers = [_number((row[column] or "").strip(), skipped + table.line_num) for row in table]
    if column == "time":
        return Schedule(numbers, process)
    if process.name == "flow":
        return Schedule(process.time_of_noise_level(numbers), process)
    return _from_sigmas(numbers, process)
