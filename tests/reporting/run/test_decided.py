"""How a search decided: what is told of its evidence in metrics.json, in the report and in the picture."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import image_rows
from PIL import Image

from optsteps import Schedule, build_schedule
from optsteps.methods.auto.race import Candidate, Heat
from optsteps.methods.base import SearchResult
from optsteps.methods.refine.gauss_newton import Refined
from optsteps.metrics.statistics import Interval
from optsteps.processes import EDM
from optsteps.reporting.plot_style import COLOURS
from optsteps.reporting.run.decided import decided_markdown, how_decided
from optsteps.reporting.run.decided_picture import decided_png
from optsteps.reporting.run.folder import results, write_report
from optsteps.reporting.run.reading import read_metrics

# by round the samples, and the candidates with their levels: of the four the second round drops a better one
ROUNDS = [
    (2, {"a|b": 20.0, "edm": 19.0, "c": 18.0, "d": -math.inf}),
    (4, {"edm": 21.5, "a|b": 21.0, "c": 17.0}),
    (8, {"a|b": 22.25, "c": 21.0}),
]


def candidate(name: str) -> Candidate:
    if name == "edm":
        return Candidate(("edm", "edm_rho_7"), build_schedule("edm", EDM(), 5, t_max=80.0, t_min=0.002))
    return Candidate((name,), Schedule(torch.linspace(80, 1, 6) / len(name), EDM()))


def refinement(moved: str, low: float, levels: list[float]) -> Refined:
    gain, best = Interval(low + 0.5, low, low + 1.0), int(np.argmax(levels))
    iterates = [candidate("c").schedule] * len(levels)
    return Refined(iterates[0], moved, gain, 16, best, iterates, levels)


def decided_search() -> SearchResult:
    runners = {name: candidate(name) for name in ROUNDS[0][1]}
    heats = [Heat(n, [runners[k] for k in levels], list(levels.values()), 99) for n, levels in ROUNDS]
    some = [refinement("times", -0.25, [21.0, 21.25, 21.125]), refinement("times and weights", 1.5, [21.0, 23.0])]
    stages = {"the teacher": 1000, "the race": 3000}
    return SearchResult({}, evidence={"stages": stages, "heats": {5: heats}, "refined": {5: some}})


def lines_of(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|") and "--:" not in line]


def test_the_data_say_who_ran_how_long_and_what_was_taken() -> None:
    searches = {"mine": decided_search(), "oss": SearchResult({}, evidence={"decisions": ["8 samples"]})}
    found = how_decided(searches)
    assert list(found) == ["mine"]
    race = found["mine"]["races"][5]
    counts = [(one["samples"], one["ran"], one["went_on"]) for one in race["rounds"]]
    assert counts == [(2, 4, 3), (4, 3, 2), (8, 2, 1)]
    assert [(one["names"], one["hand_made"], one["levels"]) for one in race["candidates"]] == [
        (["a|b"], False, [20.0, 21.0, 22.25]),
        (["c"], False, [18.0, 17.0, 21.0]),
        (["edm", "edm_rho_7"], True, [19.0, 21.5]),
        (["d"], False, [-math.inf]),
    ]
    times, weights = found["mine"]["refinements"][5]
    assert times == {
        "moved": "times",
        "gain": {"value": 0.25, "low": -0.25, "high": 0.75},
        "samples": 16,
        "taken": False,
        "best": 1,
        "held": [21.0, 21.25, 21.125],
    }
    assert (weights["moved"], weights["taken"]) == ("times and weights", True)
    assert found["mine"]["stages"] == {"the teacher": 1000, "the race": 3000}


def test_the_tables_letter_by_letter() -> None:
    text = decided_markdown(how_decided({"mine": decided_search()}), rate=10.0, picture="x.png")
    assert "](x.png)" in text
    assert "### mine" in text
    lines = lines_of(text.replace("\\|", "/"))
    assert lines[:2] == [["steps", "2 samples", "4 samples", "8 samples"], ["5", "3 of 4", "2 of 3", "1 of 2"]]
    assert lines[3:7] == [
        ["5", "a/b", "22.25", "-", "won the race"],
        ["5", "c", "21.00", "-1.25", "after 8 samples"],
        ["5", "edm, edm_rho_7", "21.50", "+0.50", "after 4 samples"],
        ["5", "d", "-inf", "-inf", "after 2 samples"],
    ]
    assert lines[8:10] == [
        ["5", "times", "+0.25 [-0.25, +0.75]", "16", "not taken"],
        ["5", "times and weights", "+2.00 [+1.50, +2.50]", "16", "taken"],
    ]
    assert lines[11:] == [
        ["the teacher", "1,000 (1.7 min)", "25 %"],
        ["the race", "3,000 (5 min)", "75 %"],
        ["all", "4,000 (6.7 min)", "100 %"],
    ]


def test_a_race_that_ended_before_another_and_a_part_that_is_missing() -> None:
    evidence = dict(decided_search().evidence)
    heats = evidence["heats"][5]
    short = SearchResult({}, evidence={"heats": {5: heats, 6: heats[:1]}})
    text = decided_markdown(how_decided({"mine": short}))
    assert lines_of(text)[1:3] == [["5", "3 of 4", "2 of 3", "1 of 2"], ["6", "1 of 4", "-", "-"]]
    for absent in ("refine", "stage", "!["):
        assert absent not in text.lower()
    only = how_decided({"mine": SearchResult({}, evidence={"stages": {"all of it": 0}})})
    assert lines_of(decided_markdown(only, rate=5.0))[1] == ["all of it", "0", "-"]
    assert decided_png(only) is None


def test_a_refinement_that_found_nothing_has_no_gain() -> None:
    nothing = Refined(candidate("c").schedule, "times", Interval(0, 0, 0), 16, 0, [candidate("c").schedule], [21.0])
    text = decided_markdown(how_decided({"mine": SearchResult({}, evidence={"refined": {5: [nothing]}})}))
    assert lines_of(text)[1] == ["5", "times", "no step is better", "16", "not taken"]


def coloured(png: bytes, colour: str) -> int:
    """Number of the pixels of a colour."""
    image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    return int((image == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).sum())


def test_the_picture_has_the_winner_the_next_and_the_hand_made() -> None:
    decided = how_decided({"mine": decided_search()})
    png = decided_png(decided)
    assert png is not None
    for colour in COLOURS[:3]:
        assert coloured(png, colour) > 50
    assert coloured(png, COLOURS[3]) == 0


def test_the_ring_is_filled_where_a_refinement_was_taken() -> None:
    decided = how_decided({"mine": decided_search()})
    taken = decided_png(decided)
    decided["mine"]["refinements"][5][1]["taken"] = False
    left = decided_png(decided)
    assert taken is not None
    assert left is not None
    assert coloured(taken, COLOURS[0]) > coloured(left, COLOURS[0]) + 50


@pytest.mark.usefixtures("blank_pictures")
def test_a_run_shows_how_it_was_decided(tmp_path: Path) -> None:
    search = decided_search()
    paths = write_report(tmp_path, "title", image_rows(), [], {}, "oss", {"oss": search}, rate=10.0)
    data = json.loads((tmp_path / "metrics.json").read_text())["how_decided"]
    told = how_decided({"oss": search})["oss"]
    race = json.loads(json.dumps(told["races"][5]).replace("-Infinity", "null"))
    assert data["oss"]["races"] == {"5": race}
    assert data["oss"]["refinements"] == {"5": told["refinements"][5]}
    assert data["oss"]["stages"] == told["stages"]
    assert len(read_metrics(tmp_path).rows) == len(image_rows()), "reports on many runs read it too"
    report = (tmp_path / "report.md").read_text()
    assert report.index("](how_decided.png)") < report.index("## Pictures")
    assert report.count("how_decided.png") == 1
    Image.open(tmp_path / "how_decided.png").verify()
    assert tmp_path / "how_decided.png" in paths
    assert sorted(results(tmp_path)) == sorted(paths)


@pytest.mark.usefixtures("blank_pictures")
def test_a_run_without_such_evidence_says_nothing_of_it(tmp_path: Path) -> None:
    write_report(tmp_path, "title", image_rows(8), [], {}, "oss", {"oss": SearchResult({})})
    assert "how_decided" not in json.loads((tmp_path / "metrics.json").read_text())
    assert "decided" not in (tmp_path / "report.md").read_text()
