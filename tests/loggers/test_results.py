"""What is handed to a logger where a number is missing or not finite."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import made_up, noise

from optsteps.loggers.results import log_results
from optsteps.loggers.wandb import FallbackWandbLogger
from optsteps.metrics.judges import Measurement
from optsteps.metrics.statistics import Interval
from optsteps.processes import Flow


def test_numbers_that_are_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure keeps its NaN as a number of a chart; a table, as metrics.json, has nothing there."""
    rows = made_up(noise(8, 3), Flow(), 1.0)
    no_interval = Measurement(Interval(30.0, math.nan, math.nan), True)
    rows[1] = replace(rows[1], measurements={**rows[1].measurements, "psnr": no_interval})
    (tmp_path / "metrics.json").write_text(json.dumps({"rows": []}))
    logged: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    monkeypatch.setattr(FallbackWandbLogger, "log_metrics", lambda _self, numbers, step: logged.update({step: numbers}))
    monkeypatch.setattr(
        FallbackWandbLogger, "log_table", lambda _self, name, columns, data: tables.update({name: data})
    )
    logger = FallbackWandbLogger(str(tmp_path), "optsteps", "disabled")
    log_results(logger, rows, [], [tmp_path / "metrics.json"], 1.5)
    assert logged[5]["oss/psnr"] == 30
    cost = [logged[5][f"oss/search_{name}"] for name in ("nfe", "evaluations", "seconds")]
    assert cost == [4950, 64 * 4950, 49.5]
    assert cost in [line[5:8] for line in tables["comparison"]]
    assert math.isnan(logged[5]["oss/psnr/low"])
    assert logged[0] == {"wall_seconds": 1.5}
    assert [line[4:] for line in tables["schedules"] if line[2] == 0] == [[None, None]] * 9
    assert not any(
        isinstance(cell, float) and not math.isfinite(cell) for line in tables["comparison"] for cell in line
    )
    assert [30, None, None] in [line[8:11] for line in tables["comparison"]]
