"""Reading of a run's folder, whoever wrote it: files are checked, and nothing in them is run or followed elsewhere."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from optsteps.storage.documents import read_bytes, read_text, read_yaml

METRICS, CONFIG = "metrics.json", "config.yaml"

# no figure is larger, not even of a student that diverged, and the squares of larger ones overflow
_LARGEST = 1e100
# the bytes before a PNG's width and height
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_MOST_PIXELS = 2**26
# of a reference to another key of a config, how far it is followed
_REFERENCE, _DEEPEST, _LONGEST = re.compile(r"\$\{([\w.@-]+)\}"), 10, 1000


def _level(value: float) -> float:
    if 0 < value < 1 / _LARGEST:
        raise ValueError(f"must be 0 or at least {1 / _LARGEST:g}")
    return value


_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Number = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]
_Amount = Annotated[float, Field(ge=0, le=_LARGEST)]
_Level = Annotated[float, Field(ge=0, le=_LARGEST), AfterValidator(_level)]
_Steps = Annotated[int, Field(ge=1, le=10**9)]
_Nfe = Annotated[int | float, Field(gt=0, le=_LARGEST)]


class _Data(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class IntervalData(_Data):
    """A number and its interval; None for what was not finite."""

    value: _Number | None
    low: _Number | None
    high: _Number | None


class FigureData(IntervalData):
    """A figure; `higher_is_better` is not set where the run is of a version that did not write it."""

    higher_is_better: bool | None = None


class RowData(_Data):
    """A row of the comparison; a noise level of None is infinite, and `search_evaluations` of None is not known, as in
    a run of a version that did not write it."""

    method: _Name
    steps: _Steps
    nfe: _Nfe
    oracle: bool
    figures: dict[_Name, FigureData]
    noise_levels: Annotated[list[_Level | None], Field(min_length=2)] | None = None
    search_nfe: _Amount = 0.0
    search_evaluations: _Amount | None = None


class VerdictData(_Data):
    """A verdict of the run's main method against a rival."""

    method: _Name
    rival: _Name
    steps: _Steps
    nfe: _Nfe
    figure: _Name
    difference: IntervalData
    verdict: Literal["better", "worse", "no better"]


class Metrics(_Data):
    """What a metrics.json holds for reports on many runs."""

    rows: list[RowData]
    facts: dict[str, str | int | float | bool | None]
    verdicts: list[VerdictData] = []
    method: _Name | None = None
    evaluations_per_second: Annotated[float, Field(ge=1 / _LARGEST, le=_LARGEST)] | None = None


def read_metrics(run: Path) -> Metrics:
    """The figures of a run.

    Raises:
        ValueError: metrics.json is not what a run writes; the message names it and the field.
        OSError: it cannot be read.
    """
    path = run / METRICS
    text = read_text(path, run)
    try:
        return Metrics.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{path} {_first(error)}; repeat its run or leave its folder out") from None


def read_config(run: Path) -> dict[str, Any]:
    """A run's config by dotted keys, with lists as they are.

    The config is the resolved one that the run stored. Runs of older versions have only Hydra's, whose references to
    other keys are followed here. A reference to anything else, such as the environment, stays as it is written.

    Raises:
        ValueError: it is no config; the message names the file and the field.
        OSError: it cannot be read, or there is none.
    """
    path = next((path for path in (run / CONFIG, run / ".hydra" / CONFIG) if path.exists()), None)
    if path is None:
        raise FileNotFoundError(f"{run} holds no {CONFIG}: copy the whole folder of the run, or leave it out")
    config = read_yaml(path, run)
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no config: it holds a {type(config).__name__}")
    config.pop("logger", None)  # refers to Hydra's own run, which is over
    flat = dict(_flat(config, ""))
    return {name: _followed(value, flat) for name, value in flat.items()}


def read_pictures(run: Path) -> tuple[dict[int, bytes], list[str]]:
    """The pictures of samples by their number of steps, PNG, and a sentence for each that cannot be shown."""
    pictures, unreadable = {}, []
    for path in sorted(run.glob("samples_*.png")):
        steps = re.fullmatch(r"samples_([1-9]\d{0,8})\.png", path.name, re.ASCII)
        if steps is None:  # no run writes it
            continue
        try:
            content = read_bytes(path, run)
            drawn = content.startswith(_PNG) and len(content) >= 24
            width, height = struct.unpack(">II", content[16:24]) if drawn else (0, 0)
            if not 0 < width * height <= _MOST_PIXELS:
                raise ValueError(f"{path} is no PNG, or one of more than {_MOST_PIXELS} pixels")
            pictures[int(steps[1])] = content
        except (ValueError, OSError) as error:
            unreadable.append(str(error))
    return dict(sorted(pictures.items())), unreadable


def _first(errors: ValidationError) -> str:
    """The first error in words, with the place of the field and its value."""
    error = errors.errors(include_url=False)[0]
    if error["type"] == "json_invalid":
        return f"is not JSON that can be read ({error['ctx']['error']})"
    if not error["loc"] or (error["type"] == "missing" and error["loc"] in (("rows",), ("facts",))):
        return "has no rows and facts, so no run of optsteps wrote it"
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).removeprefix(".")
    value = repr(error["input"])
    given = f" (got {value if len(value) <= 60 else f'{value[:60]}…'})"
    return f"holds a wrong {place}: {error['msg'].lower()}{'' if error['type'] == 'missing' else given}"


def _flat(tree: dict[Any, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _followed(value: Any, flat: dict[str, Any]) -> Any:
    """A value with what its references, such as ${teacher.steps}, refer to; within limits, for they may multiply."""
    for _ in range(_DEEPEST):
        if not isinstance(value, str) or len(value) > _LONGEST:
            break
        whole = _REFERENCE.fullmatch(value)
        before = value
        if whole:
            value = flat.get(whole[1], value)
        else:
            value = _REFERENCE.sub(lambda match: str(flat.get(match[1], match[0]))[:_LONGEST], value)
        if value == before:
            break
    return value
