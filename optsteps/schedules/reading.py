"""Reading of published schedules, in the forms in which lists of times circulate."""

from __future__ import annotations

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
from torch import Tensor

from optsteps.processes import VP, Process, as_times
from optsteps.schedules.published import snap_levels
from optsteps.schedules.schedule import Schedule
from optsteps.storage.documents import read_text

FORMS = ("comfyui", "comfyui-json", "kdiffusion", "csv")
CSV_COLUMNS = ("step", "time", "noise_level", "log_snr")
# the columns that times are read from, the most exact first; a sigma is a noise level, or for a flow its time
_TIME_COLUMNS = ("time", "noise_level", "sigma", "timestep")
# the arguments of diffusers' pipelines: noise level 0 comes after what they list
ARGUMENT_FORMS = ("diffusers-sigmas", "diffusers-timesteps")
READABLE_FORMS = (*FORMS, *ARGUMENT_FORMS)
End = Literal["as-listed", "append-zero", "replace-by-zero"]
ENDS: tuple[End, ...] = get_args(End)

# a list in brackets, with the name that it is given and the call that makes it: sigmas = torch.tensor([...], dtype=...)
_LIST = re.compile(
    r"\s*(?:[\"']?[\w.]+[\"']?\s*(?::\s*[\w.\[\]]+\s*)?[:=]\s*)?(?:[\w.]+\(\s*)?"
    r"[\[(]([^\[\](){}]*)[\])](?:[^\[\](){}]*\))?[\s,;]*$"
)
# the keys of a JSON object's list, by the column of a table that holds the same
_KEYS = {"sigmas": "sigma", "noise_levels": "noise_level", "timesteps": "timestep"}
# a noise level that a sampler would leave visible in its samples
NOISY_END = 0.1


def read_schedule(
    source: str | Path | Sequence[float], process: Process, form: str | None = None, end: End | None = None
) -> Schedule:
    """A schedule from sigmas, timesteps or a table.

    Sigmas are noise levels, or for a flow its times. Levels printed with few digits that lie up to 2 % outside the
    process's range snap to it; 0 is the clean time. A list whose numbers can be timesteps of the network only is read
    as the `timesteps=` argument of a pipeline of diffusers.

    Args:
        source: numbers; or text: "a, b, c", one number a line, a list or a tuple of JSON or Python with or without a
            name ("sigmas = [...]"), a tensor or an array as Python prints it, a JSON object with `sigmas`,
            `noise_levels` or `timesteps`, a saved workflow of ComfyUI with one list of sigmas, or CSV with a column
            `time`, `noise_level`, `sigma` or `timestep` and, where steps have orders, `order`; or the path of a file
            with such text. What follows a # on a line is a comment.
        process: the process of the model they are for.
        form: the expected form of the text, one of `READABLE_FORMS`; None takes the form that the text has. A list in
            brackets and one without them are the same.
        end: "as-listed": the last number is the last time; "append-zero": noise level 0 comes after it;
            "replace-by-zero": noise level 0 comes in its place, as some tools run a published list. None: append-zero
            for arguments of diffusers and timesteps by name, as-listed for all else.

    Raises:
        ValueError: not such text, a value that is no number (with its line), a level outside the range, not
            decreasing, or an unknown `end`. Values are counted from 1 and quoted as they are typed.
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
            return _from_table(text, process, end)
        key, values = (None, _numbers(text)) if actual_form == "comfyui" else _listed(text)
    else:
        key, values = None, [float(x) for x in text]
    if key in ("noise_levels", "timesteps") and form not in ARGUMENT_FORMS:
        return _of_column(_KEYS[key], values, process, end)
    if form == "diffusers-timesteps" or (form != "diffusers-sigmas" and _only_timesteps(values, process)):
        return _from_timesteps(values, process, end or "append-zero")
    end = end or ("append-zero" if form in ARGUMENT_FORMS else "as-listed")
    return _from_sigmas(_with_end(values, end), process)


def text_form(text: str) -> str:
    """The one of `FORMS` that a text looks like; every list in brackets counts as "kdiffusion"."""
    head = _without_comments(text).lstrip("\ufeff \n")
    columns = {name.strip() for name in head.split("\n")[0].split(",")}
    if columns & {*CSV_COLUMNS, *_TIME_COLUMNS}:
        return "csv"
    return "kdiffusion" if re.search(r"[\[({]", head) else "comfyui"


class _Typed(float):
    """A number that is shown as it was typed."""

    typed: str

    def __new__(cls, word: str) -> _Typed:
        number = super().__new__(cls, word)
        number.typed = word
        return number

    def __repr__(self) -> str:
        return self.typed


def _number(word: str, line: int) -> float:
    try:
        return _Typed(word)
    except ValueError:
        raise ValueError(
            f"line {line}: {word!r} is not a number; a schedule is a list of numbers, and a file is given as a Path"
        ) from None


def _without_comments(text: str) -> str:
    return "\n".join(line.split("#")[0].rstrip() for line in text.splitlines())


def _separated(text: str, separators: str) -> list[float]:
    lines = enumerate(text.splitlines(), start=1)
    return [_number(word, n) for n, line in lines for word in re.split(separators, line) if word]


def _numbers(text: str) -> list[float]:
    """The numbers of a text, separated by commas, semicolons, spaces or lines."""
    body = _without_comments(text).lstrip("\ufeff")
    if "." not in body and re.search(r"\d,\d", body) and re.search(r"[;\s]", body.strip()):
        words = [word for word in re.split(r"[;\s]+", body) if word]
        whole = any("," not in word for word in words) or ";" in body
        if not whole or any(word.count(",") > 1 or word.endswith(",") for word in words):
            raise ValueError(
                "some values are separated by commas and some are not, so a comma may be a decimal point: write "
                "decimal points, and one separator between all values"
            )
        warnings.warn("commas between digits were read as decimal points", UserWarning, stacklevel=3)
        return _separated(body.replace(",", "."), r"[;\s]+")
    return _separated(body, r"[,;\s]+")


def _listed(text: str) -> tuple[str | None, list[float]]:
    """The numbers of a list in the syntax of JSON or Python; or of the one list in a JSON object or workflow, with its
    key."""
    body = _without_comments(text).lstrip("\ufeff")
    if body.lstrip().startswith("{"):
        return _of_object(text.lstrip("\ufeff"))
    found = _LIST.match(body)
    if found is None:
        opened = 1 + body[: len(body) - len(body.lstrip())].count("\n")
        raise ValueError(f"line {opened}: this list cannot be read; a schedule is one list of numbers in brackets")
    return None, _separated("\n" * body[: found.start(1)].count("\n") + found[1], r"[,\s]+")


def _of_object(text: str) -> tuple[str, list[float]]:
    """The key and the list that a JSON object, or one node of a saved workflow, holds as text or as a list."""
    try:
        lists = list(_lists_in(json.loads(text, parse_float=_Typed, parse_int=_Typed)))
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: this JSON object cannot be read ({error.msg})") from error
    except RecursionError:
        raise ValueError("this JSON object is nested too deeply to be read") from None
    if len(lists) != 1:
        raise ValueError(
            f"the text holds {len(lists)} lists called {', '.join(_KEYS)} where one is needed; give the list itself"
        )
    key, found = lists[0]
    return key, _numbers(found) if isinstance(found, str) else found


def _lists_in(node: Any) -> Iterator[tuple[str, Any]]:
    """Every list under one of the keys, with it, and the text of every node for sigmas in a workflow as its editor
    saves it.

    A link to another node's output is no such list.
    """
    if isinstance(node, list):
        for part in node:
            yield from _lists_in(part)
    if not isinstance(node, dict):
        return
    widgets = node.get("widgets_values")
    if "sigmas" in str(node.get("type", "")).lower() and isinstance(widgets, list):
        yield from (("sigmas", widget) for widget in widgets[:1] if isinstance(widget, str))
    for key, value in node.items():
        if key in _KEYS and (isinstance(value, str) or (isinstance(value, list) and _plain(value))):
            yield key, value
        else:
            yield from _lists_in(value)


def _plain(values: list[Any]) -> bool:
    return all(isinstance(x, float) for x in values)


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
    times = _times_of_timesteps(values, process).tolist()
    if end == "replace-by-zero":
        times = times[:-1]
    if end != "as-listed" and (not times or times[-1] != process.t_clean):
        times = [*times, process.t_clean]
    return _settled(Schedule(times, process))


def _times_of_timesteps(values: Sequence[float], process: Process) -> Tensor:
    """The times [n] of what the network is called with: a VP process's own, or a flow's times 1000."""
    if process.name == "edm":
        raise ValueError("an EDM process has no timesteps: give its noise levels")
    times = as_times([float(x) for x in values]) / (1000 if process.name == "flow" else 1)
    _check_values(values, process.contains(times), f"no timestep of {process!r}")
    _check_falling(values)
    return times


def _check_values(values: Sequence[float], known: Tensor, what: str) -> None:
    if not bool(known.all()):
        k = int((~known).nonzero()[0])
        raise ValueError(f"value {k + 1}, {values[k]!r}, is {what}")


def _check_falling(values: Sequence[float]) -> None:
    falling = as_times(values).diff() < 0
    if not bool(falling.all()):
        k = int((~falling).nonzero()[0]) + 1
        raise ValueError(
            f"the values must fall from noise to data, but value {k + 1} is {values[k]!r} after {values[k - 1]!r}"
        )


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
    return _settled(Schedule(_times_of_sigmas(sigmas, process), process))


def _times_of_sigmas(sigmas: Sequence[float], process: Process) -> Tensor:
    levels = as_times(sigmas)
    if process.name == "flow":
        _check_values(sigmas, process.contains(levels), "no time of a flow: its sigmas run from 1 to 0")
        _check_falling(sigmas)
        return levels
    within, outside = snap_levels(process, levels)
    inside = torch.isfinite(levels) & (levels >= 0) & ~outside
    _check_values(sigmas, inside, f"outside the noise levels of {process!r}: the schedule is for another model")
    _check_falling(sigmas)
    return process.time_of_noise_level(within)


def _from_table(text: str, process: Process, end: End | None) -> Schedule:
    lines = text.lstrip("\ufeff \n").splitlines()
    skipped = len(text.splitlines()) - len(lines)
    table = csv.DictReader(lines, skipinitialspace=True)
    columns = [name.strip() for name in table.fieldnames or []]
    repeated = [name for name, count in Counter(columns).items() if count > 1]
    if repeated:
        raise ValueError(f"the table has {columns.count(repeated[0])} columns called {repeated[0]}; leave one")
    table.fieldnames = columns
    column = next((name for name in _TIME_COLUMNS if name in columns), None)
    if column is None:
        raise ValueError(f"a table needs a column {', '.join(_TIME_COLUMNS)}; got {', '.join(columns)}")
    rows = [(skipped + table.line_num, row) for row in table]
    numbers = [_number((row[column] or "").strip(), line) for line, row in rows]
    orders = None
    if "order" in columns:  # of the step that leaves each time; none leaves the last
        orders = [_number((row["order"] or "").strip(), line) for line, row in rows[:-1]]
    return _of_column(column, numbers, process, end, orders)


def _of_column(
    column: str, numbers: Sequence[float], process: Process, end: End | None, orders: list[float] | None = None
) -> Schedule:
    """The schedule of numbers that a column of a table, or a key of a JSON object, says the kind of."""
    times = _column_times(column, numbers, process)
    schedule = Schedule(times, process, orders)  # type: ignore[arg-type]  # whole numbers, or it raises
    return _ended(schedule, end or ("append-zero" if column == "timestep" else "as-listed"))


def _column_times(column: str, numbers: Sequence[float], process: Process) -> Tensor:
    if column == "timestep":
        return _times_of_timesteps(numbers, process)
    if column == "sigma" or (column == "noise_level" and process.name != "flow"):
        return _times_of_sigmas(numbers, process)
    return as_times(numbers) if column == "time" else process.time_of_noise_level(numbers)


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
    if level > NOISY_END:
        warnings.warn(
            f"the schedule ends at noise level {level:.3g}, so its samples stay noisy: if the tool it was made for "
            "adds a last step to noise level 0, read it with end=append-zero (or end=replace-by-zero)",
            UserWarning,
            stacklevel=4,
        )
    return schedule
