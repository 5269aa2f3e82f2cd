"""Reading of published schedules, in the forms in which lists of times circulate."""

from __future__ import annotations

import ast
import csv
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from optsteps.processes import VP, Process, as_times
from optsteps.schedules.published import snap_levels
from optsteps.schedules.schedule import Schedule
from optsteps.storage.documents import read_text

FORMS = ("comfyui", "comfyui-json", "kdiffusion", "csv")
CSV_COLUMNS = ("step", "time", "noise_level", "log_snr")
# the arguments of diffusers' pipelines: noise level 0 comes after what they list
ARGUMENT_FORMS = ("diffusers-sigmas", "diffusers-timesteps")
READABLE_FORMS = (*FORMS, *ARGUMENT_FORMS)
End = Literal["as-listed", "append-zero", "replace-by-zero"]
ENDS: tuple[End, ...] = get_args(End)

# a tensor or an array as it is printed, with its numbers
_PRINTED = re.compile(r"\s*(?:\w+\.)*(?:tensor|array)\(\s*(\[[^\[\]()]*\])[^()]*\)\s*$")
# a noise level that a sampler would leave visible in its samples
_NOISY_END = 0.1


def read_schedule(
    source: str | Path | Sequence[float], process: Process, form: str | None = None, end: End | None = None
) -> Schedule:
    """A schedule from sigmas, timesteps or a table.

    Sigmas are noise levels, or for a flow its times. Levels printed with few digits that lie up to 2 % outside the
    process's range snap to it; 0 is the clean time. A list whose numbers can be timesteps of the network only is read
    as the `timesteps=` argument of a pipeline of diffusers.

    Args:
        source: numbers; or text: "a, b, c", one number a line, a JSON or Python list, a tensor or an array as Python
            prints it, a saved workflow of ComfyUI with one list of sigmas, or CSV with a column `time` or `noise_level`
            and, where steps have orders, `order`; or the path of a file with such text. What follows a # on a line is a
            comment.
        process: the process of the model they are for.
        form: the expected form of the text, one of `READABLE_FORMS`; None takes the form that the text has. A list in
            brackets and one without them are the same.
        end: "as-listed": the last number is the last time; "append-zero": noise level 0 comes after it;
            "replace-by-zero": noise level 0 comes in its place, as some tools run a published list. None: append-zero
            for arguments of diffusers, as-listed for all else.

    Raises:
        ValueError: not such text, a value that is no number (with its line), a level outside the range, not
            decreasing, or an unknown `end`.
        OSError: the file cannot be read.

    Warns:
        UserWarning: the schedule ends at a noise level above 0.1, so that samples stay noisy; commas were read as
            decimal points.
    """
    if end is not None and end not in ENDS:
        raise ValueError(f"end must be one of {', '.join(ENDS)}, got {end!r}")
    text = read_text(source) if isinstance(source, Path) else source
    if isinstance(text, str):
        if not text.strip():
            raise ValueError("there is no schedule in an empty text")
        actual_form = text_form(text)
        if form is not None and (form == "csv") != (actual_form == "csv"):
            raise ValueError(f"the text is not of the form {form}; it looks like {actual_form}")
        if actual_form == "csv":
            return _ended(_from_table(text, process), end or "as-listed")
        values = _numbers(text) if actual_form == "comfyui" else _listed(text)
    else:
        values = [float(x) for x in text]
    if form == "diffusers-timesteps" or (form != "diffusers-sigmas" and _only_timesteps(values, process)):
        return _from_timesteps(values, process, end or "append-zero")
    end = end or ("append-zero" if form in ARGUMENT_FORMS else "as-listed")
    return _from_sigmas(_with_end(values, end), process)


def text_form(text: str) -> str:
    """The one of `FORMS` that a text looks like; every list in brackets counts as "kdiffusion"."""
    head = text.lstrip()
    if head.startswith(("[", "(", "{")) or _PRINTED.match(head):
        return "kdiffusion"
    if not head:
        return "comfyui"
    columns = {name.strip() for name in head.splitlines()[0].split(",")}
    return "csv" if columns & set(CSV_COLUMNS) else "comfyui"


def _number(word: str, line: int) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"line {line}: {word!r} is not a number") from None


def _numbers(text: str) -> list[float]:
    """The numbers of a text, separated by commas, semicolons, spaces or lines."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    body = "\n".join(lines).strip()
    separators = r"[,;\s]+"
    if "." not in body and re.search(r"\d,\d", body) and re.search(r"[;\s]", body):
        words = [word for word in re.split(r"[;\s]+", body) if word]
        whole = any("," not in word for word in words) or ";" in body
        if not whole or any(word.count(",") > 1 or word.endswith(",") for word in words):
            raise ValueError(
                "some values are separated by commas and some are not, so a comma may be a decimal point: write "
                "decimal points, and one separator between all values"
            )
        warnings.warn("commas between digits were read as decimal points", UserWarning, stacklevel=3)
        separators, lines = r"[;\s]+", [line.replace(",", ".") for line in lines]
    return [_number(word, n) for n, line in enumerate(lines, start=1) for word in re.split(separators, line) if word]


def _listed(text: str) -> list[float]:
    """The numbers of a list in the syntax of JSON or Python, or of the one list of sigmas in a workflow."""
    if text.lstrip().startswith("{"):
        return _of_workflow(text)
    if printed := _PRINTED.match(text):
        text = printed[1]
        if "," not in text:  # as numpy prints it
            return _numbers(text.strip("[]"))
    try:
        values = ast.literal_eval(text.strip())
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno}: this list cannot be read ({error.msg})") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError("this list cannot be read; a schedule is a list of numbers") from error
    is_list = isinstance(values, (list, tuple))
    if not is_list or any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in values):
        wrong = next((x for x in values if not isinstance(x, (int, float)) or isinstance(x, bool)), values)
        raise ValueError(f"{wrong!r} is not a number; a schedule is a list of numbers")
    try:
        return [float(x) for x in values]
    except OverflowError:
        raise ValueError("this list holds an integer that is too large for a number of any sampler") from None


def _of_workflow(text: str) -> list[float]:
    """The sigmas that one node of a saved workflow holds as text or as a list."""
    try:
        sigmas = list(_sigmas_in(json.loads(text)))
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: this workflow cannot be read ({error.msg})") from error
    except RecursionError:
        raise ValueError("this workflow is nested too deeply to be read") from None
    if len(sigmas) != 1:
        raise ValueError(f"the workflow holds {len(sigmas)} lists of sigmas where one is needed; give the list itself")
    return _numbers(sigmas[0]) if isinstance(sigmas[0], str) else _listed(repr(sigmas[0]))


def _sigmas_in(node: Any) -> Iterator[Any]:
    """Every entry called "sigmas" that holds numbers; a link to another node's output is no such thing."""
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key == "sigmas" and (isinstance(value, str) or (isinstance(value, list) and _plain(value))):
            yield value
        else:
            yield from _sigmas_in(value)


def _plain(values: list[Any]) -> bool:
    return all(isinstance(x, (int, float)) for x in values)


def _only_timesteps(values: Sequence[float], process: Process) -> bool:
    """Whether the numbers can be nothing but times on the clock that the network is called with.

    Such lists begin near the end of the clock.
    """
    if not values:
        return False
    if isinstance(process, VP):
        integers = all(math.isfinite(x) and x == round(x) for x in values)
        return integers and min(values) >= 0 and 0.9 * process.t_limit <= max(values) <= process.t_limit
    return process.name == "flow" and 900 <= max(values) <= 1000


def _from_timesteps(values: Sequence[float], process: Process, end: End) -> Schedule:
    """A schedule from the times that the network is called with: a VP process's own, or a flow's times 1000."""
    if process.name == "edm":
        raise ValueError("an EDM process has no timesteps: give its noise levels")
    times = [x / 1000 if process.name == "flow" else float(x) for x in values]
    if end == "replace-by-zero":
        times = times[:-1]
    if end != "as-listed" and (not times or times[-1] != process.t_clean):
        times = [*times, process.t_clean]
    return _settled(Schedule(times, process))


def _with_end(sigmas: Sequence[float], end: End) -> list[float]:
    if end == "replace-by-zero":
        return [*sigmas[:-1], 0.0]
    return [*sigmas, 0.0] if end == "append-zero" and list(sigmas[-1:]) != [0.0] else list(sigmas)


def _from_sigmas(sigmas: Sequence[float], process: Process) -> Schedule:
    if len(sigmas) < 2:
        raise ValueError(
            f"a schedule needs at least two sigmas, got {len(sigmas)}; with end=append-zero noise level 0 follows the "
            "last"
        )
    if process.name == "flow":
        times = as_times(sigmas)
        if not bool(process.contains(times).all()):
            k = int((~process.contains(times)).nonzero()[0])
            raise ValueError(f"value {k + 1}, {sigmas[k]!r}, is no time of a flow: its sigmas run from 1 to 0")
        return _settled(Schedule(times, process))
    levels = as_times(sigmas)
    within, outside = snap_levels(process, levels)
    outside |= ~(torch.isfinite(levels) & (levels >= 0))
    if bool(outside.any()):
        k = int(outside.nonzero()[0])
        raise ValueError(
            f"value {k + 1}, {sigmas[k]!r}, is outside the noise levels of {process!r}: the schedule is for another "
            "model"
        )
    falling = levels.diff() < 0
    if not bool(falling.all()):
        k = int((~falling).nonzero()[0])
        raise ValueError(f"sigmas must fall, but value {k + 2} is {sigmas[k + 1]!r} after {sigmas[k]!r}")
    return _settled(Schedule(process.time_of_noise_level(within), process))


def _from_table(text: str, process: Process) -> Schedule:
    lines = text.lstrip().splitlines()
    skipped = len(text.splitlines()) - len(lines)
    table = csv.DictReader(lines, skipinitialspace=True)
    columns = [name.strip() for name in table.fieldnames or []]
    repeated = [name for name, count in Counter(columns).items() if count > 1]
    if repeated:
        raise ValueError(f"the table has {columns.count(repeated[0])} columns called {repeated[0]}; leave one")
    table.fieldnames = columns
    column = next((name for name in ("time", "noise_level") if name in columns), None)
    if column is None:
        raise ValueError(f"a table needs a column time or noise_level, got {', '.join(columns)}")
    rows = [(skipped + table.line_num, row) for row in table]
    numbers = [_number((row[column] or "").strip(), line) for line, row in rows]
    orders = None
    if "order" in columns:  # of the step that leaves each time; none leaves the last
        orders = [_number((row["order"] or "").strip(), line) for line, row in rows[:-1]]
    if column == "noise_level" and process.name != "flow":
        times = _from_sigmas(numbers, process).times
    else:
        times = as_times(numbers) if column == "time" else process.time_of_noise_level(numbers)
    return Schedule(times, process, orders)  # type: ignore[arg-type]  # whole numbers, or it raises


def _ended(schedule: Schedule, end: End) -> Schedule:
    """A table's schedule with its end changed."""
    if end == "as-listed" or schedule.ends_clean:
        return _settled(schedule)
    if schedule.orders is not None and end == "append-zero":
        raise ValueError("the table gives its steps orders and none to the step appended; write noise level 0 into it")
    times = schedule.times[:-1] if end == "replace-by-zero" else schedule.times
    return Schedule([*times.tolist(), schedule.process.t_clean], schedule.process, schedule.orders)


def _settled(schedule: Schedule) -> Schedule:
    level = float(schedule.noise_levels[-1])
    if level > _NOISY_END:
        warnings.warn(
            f"the schedule ends at noise level {level:.3g}, so its samples stay noisy: if the tool it was made for "
            "adds a last step to noise level 0, read it with end=append-zero (or end=replace-by-zero)",
            UserWarning,
            stacklevel=4,
        )
    return schedule
