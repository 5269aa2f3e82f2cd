"""The stopping curve: what is told of a search, and that it is drawn."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import image_rows
from PIL import Image

from optsteps.methods.base import SearchResult
from optsteps.reporting.plot_style import COLOURS
from optsteps.reporting.run.early_stopping import stopping_curves, stopping_png
from optsteps.reporting.run.folder import write_report


def judged(criterion: list[float]) -> SearchResult:
    evidence = {
        "walk": {5: [("edm", 0), ("edm", 1), ("logsnr", 0)]},
        "klub": {5: torch.tensor([9.0, 8.0, 7.0])},
        "criterion": {5: torch.tensor(criterion)},
        "stop": {5: int(np.argmin(criterion))},
    }
    return SearchResult({}, evidence=evidence)


def test_only_searches_that_judged_have_a_curve() -> None:
    curves = stopping_curves({"ays": judged([3.0, 1.0, 2.0]), "oss": SearchResult({}, evidence={"cost": 1})})
    assert curves == {
        "ays": {
            5: {
                "walk": [["edm", 0], ["edm", 1], ["logsnr", 0]],
                "klub": [9.0, 8.0, 7.0],
                "criterion": [3.0, 1.0, 2.0],
                "stop": 1,
            }
        }
    }


@pytest.mark.parametrize("criterion", [[3.0, 1.0, 2.0], [-3.0, -1.0, 2.0]])
def test_a_line_for_every_start(criterion: list[float]) -> None:
    curve = stopping_curves({"ays": judged(criterion)})["ays"][5]
    image = np.asarray(Image.open(io.BytesIO(stopping_png({"5 steps": curve}))).convert("RGB"))
    for colour in COLOURS[:2]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert int((image == wanted).all(-1).sum()) > 20


def test_a_run_shows_where_it_stopped(tmp_path: Path) -> None:
    write_report(tmp_path, "title", image_rows(), [], {}, "oss", {"ays": judged([3.0, 1.0, 2.0])})
    assert json.loads((tmp_path / "metrics.json").read_text())["early_stopping"]["ays"]["5"]["stop"] == 1
    assert "early_stopping.png" in (tmp_path / "report.md").read_text()
    Image.open(tmp_path / "early_stopping.png").verify()
