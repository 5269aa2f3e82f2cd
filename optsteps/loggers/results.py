"""Results of a finished run, handed to its logger: numbers to any, pictures to TensorBoard and W&B, tables to W&B."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from PIL import Image

from optsteps.comparison import Row, VerdictRow
from optsteps.loggers.wandb import FallbackWandbLogger
from optsteps.metrics.statistics import Interval
from optsteps.reporting.run.folder import finite
from optsteps.reporting.run.tables import figure_names


def log_results(
    logger: Logger, rows: Sequence[Row], verdicts: Sequence[VerdictRow], written: Sequence[Path], seconds: float
) -> None:
    """Hand all results of a run to `logger`, and end it.

    Every logger gets the numbers by step count, as `METHOD/FIGURE` with the ends of the interval as
    `METHOD/FIGURE/low` and `/high`; TensorBoard also the report and its pictures; W&B the pictures, the tables
    "comparison", "verdicts" and "schedules", and metrics.json as the summary that it compares runs by.

    Args:
        rows, verdicts: of the comparison.
        written: the files of the report, written before anything leaves this machine.
        seconds: wall time of the run.
    """
    if isinstance(logger, FallbackWandbLogger):
        logger.log_together(partial(_log_all, logger, rows, verdicts, written, seconds))
    else:
        _log_all(logger, rows, verdicts, written, seconds)
    logger.finalize("success")


def _log_all(
    logger: Logger, rows: Sequence[Row], verdicts: Sequence[VerdictRow], written: Sequence[Path], seconds: float
) -> None:
    for steps in sorted({row.steps for row in rows}):
        logger.log_metrics(_scalars(steps, rows, verdicts), step=steps)
    logger.log_metrics({"wall_seconds": seconds}, step=0)
    if isinstance(logger, TensorBoardLogger):
        _pages(logger, written)
    if isinstance(logger, FallbackWandbLogger):
        _tables(logger, rows, verdicts)
        for picture in _pictures(written):
            logger.log_image(f"pictures/{picture.stem}", images=[str(picture)])
        logger.log_summary(_summary(written))


def _scalars(steps: int, rows: Sequence[Row], verdicts: Sequence[VerdictRow]) -> dict[str, float]:
    """Every number of one step count, under names that no two methods share."""
    scalars: dict[str, float] = {}
    for row in rows:
        if row.steps == steps:
            cost = {name: getattr(row, name) for name in ("search_nfe", "search_evaluations", "search_seconds")}
            numbers = {"steps": row.steps, "nfe": row.nfe, "samples": len(row.samples), **cost}
            for name, measurement in row.measurements.items():
                numbers |= _ends(name, measurement.interval)
            scalars |= {f"{row.method}/{name}": value for name, value in numbers.items()}
    for v in verdicts:
        if v.steps == steps:
            scalars |= _ends(f"{v.method}_minus_{v.rival}/{v.figure}", v.difference)
    return scalars


def _ends(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}/low": interval.low, f"{name}/high": interval.high}


def _pictures(written: Sequence[Path]) -> list[Path]:
    return [path for path in written if path.suffix == ".png"]


def _pages(logger: TensorBoardLogger, written: Sequence[Path]) -> None:
    for picture in _pictures(written):
        with Image.open(picture) as image:
            logger.experiment.add_image(f"pictures/{picture.stem}", np.asarray(image.convert("RGB")), dataformats="HWC")
    for page in written:
        if page.suffix == ".md":
            logger.experiment.add_text(page.stem, page.read_text())


def _tables(logger: FallbackWandbLogger, rows: Sequence[Row], verdicts: Sequence[VerdictRow]) -> None:
    names = figure_names(rows)
    ends = [end for name in names for end in (name, f"{name} low", f"{name} high")]
    compared = []
    for row in rows:
        facts = [row.method, row.steps, row.nfe, row.oracle, len(row.samples)]
        cost = [row.search_nfe, row.search_evaluations, row.search_seconds]
        intervals = [row.measurements[name].interval if name in row.measurements else None for name in names]
        compared.append([*facts, *cost, *(end for interval in intervals for end in _cells(interval))])
    costs = ("search nfe", "search evaluations", "search seconds")
    header = ["method", "steps", "nfe", "oracle", "samples", *costs, *ends]
    _table(logger, "comparison", header, compared)

    judged = [[v.method, v.rival, v.steps, v.nfe, v.figure, *_cells(v.difference), v.verdict] for v in verdicts]
    header = ["method", "rival", "steps", "nfe", "figure", "difference", "low", "high", "verdict"]
    _table(logger, "verdicts", header, judged)

    header = ["method", "steps", "i", "time", "noise level", "log-SNR"]
    _table(logger, "schedules", header, [line for row in rows for line in _schedule_lines(row)])


def _table(logger: FallbackWandbLogger, name: str, header: list[str], lines: Sequence[Sequence[Any]]) -> None:
    logger.log_table(name, columns=header, data=finite(lines))


def _cells(interval: Interval | None) -> list[float | None]:
    return [None] * 3 if interval is None else [interval.value, interval.low, interval.high]


def _schedule_lines(row: Row) -> Iterable[list[Any]]:
    if row.schedule is None:  # an oracle has one for every sample
        return []
    schedule = row.schedule
    columns = (schedule.times, schedule.noise_levels, schedule.process.log_snr(schedule.times))
    return [
        [row.method, row.steps, i, *line] for i, line in enumerate(zip(*(c.tolist() for c in columns), strict=True))
    ]


def _summary(written: Sequence[Path]) -> Mapping[str, Any]:
    """metrics.json, with each row under its method and step count."""
    numbers = json.loads(next(path for path in written if path.name == "metrics.json").read_text())
    rows = {f"{row['method']}/{row['steps']}": row for row in numbers.pop("rows")}
    return {**numbers, "rows": rows}
