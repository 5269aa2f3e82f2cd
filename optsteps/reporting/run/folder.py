"""Files that a run leaves in its folder: numbers, page, pictures and schedules."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from optsteps.comparison import TEACHER, Row, VerdictRow, as_data
from optsteps.methods.base import SearchResult
from optsteps.reporting.run.decided import CAPTION, how_decided
from optsteps.reporting.run.decided_picture import decided_png
from optsteps.reporting.run.early_stopping import stopping_curves, stopping_png
from optsteps.reporting.run.pictures import path_error_png, samples_figure, schedules_png, steps_of
from optsteps.reporting.run.reading import CONFIG, METRICS
from optsteps.reporting.run.report import report_markdown
from optsteps.storage.files import file_name, write_atomically

# a program that samples with the schedules, where the model is of diffusers
USAGE = "use_in_diffusers.py"
_RESULT = re.compile(
    r"metrics\.json|report\.md|schedule_\d+\.json|(schedules|path_error|early_stopping|how_decided|samples_\d+)\.png|"
    + re.escape(USAGE)
)


def results(folder: Path) -> list[Path]:
    """The results that a run has left in its folder, metrics.json first."""
    paths = [path for path in folder.glob("*") if _RESULT.fullmatch(path.name)]
    paths += folder.glob("schedules/*_*.json")
    return sorted(paths, key=lambda path: (path.name != METRICS, path))


def write_report(
    folder: Path,
    title: str,
    rows: Sequence[Row],
    verdicts: Sequence[VerdictRow],
    facts: Mapping[str, str],
    method: str,
    searches: Mapping[str, SearchResult],
    decode: Callable[[Tensor], Tensor] | None = None,
    rate: float | None = None,
) -> list[Path]:
    """Write every schedule, metrics.json, report.md and the pictures, in that order.

    So what took longest to find is safe first. Each file appears whole or not at all.

    Args:
        folder: made where it is missing.
        title: heading of the report.
        rows: all rows of the comparison.
        verdicts: of the main method against its rivals.
        facts: about the run, by name.
        method: the main method. Its schedules become schedule_{steps}.json; all others, the teacher's included, go to
            schedules/{method}_{steps}.json.
        searches: the results of the methods' searches, which hold the evidence for their choices.
        decode: makes images of samples that are latents; None where samples are no latents.
        rate: network evaluations per second; None where it was not measured.

    Returns:
        The files written.

    Raises:
        OSError: the folder cannot be written.
    """
    files: dict[str, Path] = {}

    def write(name: str, content: bytes) -> None:
        write_atomically(folder / name, content)
        files[name] = folder / name

    for row in rows:
        if row.schedule is not None:
            main = row.method == method
            name = f"schedule_{row.steps}.json" if main else f"schedules/{file_name(row.method)}_{row.steps}.json"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            row.schedule.save(folder / name)
            files[name] = folder / name
    curves, decided = stopping_curves(searches), how_decided(searches)
    numbers = {
        "title": title,
        "method": method,
        "facts": dict(facts),
        "evaluations_per_second": rate,
        "rows": [as_data(row) for row in rows],
        "verdicts": [asdict(v) for v in verdicts],
        **({"early_stopping": curves} if curves else {}),
        **({"how_decided": decided} if decided else {}),
    }
    write(METRICS, as_json(numbers))
    decisions = decisions_of(searches)
    write("report.md", report_markdown(title, rows, verdicts, facts, {}, decisions, rate, decided).encode())
    # the main method is drawn as the first
    pictures = _pictures(sorted(rows, key=lambda row: row.method != method), decode)
    if curves:
        drawn = {f"{name}, {n} steps": curve for name, by_steps in curves.items() for n, curve in by_steps.items()}
        pictures["early_stopping.png"] = ("Where AYS stopped: its criterion along the descent", stopping_png(drawn))
    if (png := decided_png(decided)) is not None:
        pictures["how_decided.png"] = (CAPTION, png)
    for name, (_, png) in pictures.items():
        write(name, png)
    images = {caption: name for name, (caption, _) in pictures.items()}
    write("report.md", report_markdown(title, rows, verdicts, facts, images, decisions, rate, decided).encode())
    return list(files.values())


def decisions_of(searches: Mapping[str, SearchResult]) -> dict[str, list[str]]:
    """The sentences that searches left on what they decided, by method; methods without any are left out."""
    found = {name: result.evidence.get("decisions") for name, result in searches.items()}
    return {name: list(map(str, said)) for name, said in found.items() if isinstance(said, (list, tuple)) and said}


def write_config(folder: Path, config: DictConfig) -> Path:
    """Write config.yaml, the run's resolved config, which a report reads without asking anything else.

    The logger's part is left out: it changes no result, and may have been given a key to somebody's account.
    """
    text = OmegaConf.to_yaml(
        OmegaConf.masked_copy(config, [str(key) for key in config if key != "logger"]), resolve=True
    )
    write_atomically(folder / CONFIG, text.encode())
    return folder / CONFIG


def as_json(data: Any) -> bytes:
    """JSON that every parser reads: a number that is not finite becomes null.

    So the infinite noise level at a flow's t = 1 is null, while the times beside it are always numbers.
    """
    return json.dumps(finite(data), indent=1, allow_nan=False).encode()


def finite(data: Any) -> Any:
    """JSON data with None for every number that is not finite."""
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


# pictures of decoded samples: so many of each row, no side longer than so many pixels
_DECODED, _LONGEST = 12, 256


def _as_images(row: Row, decode: Callable[[Tensor], Tensor] | None) -> Row:
    """The row with its first samples decoded; of a video, the middle frame."""
    if decode is None:
        return row
    images = decode(row.samples[:_DECODED])
    images = images[:, :, images.shape[2] // 2] if images.ndim == 5 else images
    every = -(-max(images.shape[2:]) // _LONGEST)
    return replace(row, samples=torch.nn.functional.avg_pool2d(images.cpu(), every, ceil_mode=True))


def _pictures(rows: Sequence[Row], decode: Callable[[Tensor], Tensor] | None = None) -> dict[str, tuple[str, bytes]]:
    """Caption and PNG by file name, of all pictures that these rows allow."""
    pictures = {}
    scheduled = [row for row in rows if row.schedule is not None and row.method != TEACHER]
    if scheduled:
        pictures["schedules.png"] = ("The schedules: noise level at each step", schedules_png(rows))
    if any(row.path_error is not None for row in scheduled):
        pictures["path_error.png"] = ("Error to the teacher along the trajectory", path_error_png(rows))
    rows = [_as_images(row, decode) for row in rows]
    teacher = next((row for row in rows if row.method == TEACHER), None)
    for n in steps_of(rows) if teacher is not None else []:
        assert teacher is not None
        png = samples_figure([row for row in rows if row.steps == n and row.method != TEACHER], teacher)
        if png is not None:
            pictures[f"samples_{n}.png"] = (f"Samples with {n} steps, from the same noise", png)
    return pictures
