"""Means over seeds, the best of a group and what is claimed, against numbers from elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from optsteps.comparison import VerdictRow
from optsteps.metrics import Interval
from optsteps.metrics.features import HIGHER_IS_BETTER
from optsteps.reporting.number_format import number_format
from optsteps.reporting.sweep.aggregate import SweepCell, aggregate, compared
from optsteps.reporting.sweep.run_rows import RunRow, in_order, read_run_rows
from optsteps.reporting.sweep.table_layout import TableLayout, choose_layout, telling_fields

BY_NFE = TableLayout(("method",), "nfe", ("psnr",), ("seed",), "edm")


def run_row(method: str, seed: int, psnr: float, nfe: int = 5, said: str | None = None, oracle: bool = False) -> RunRow:
    fields = {"method": method, "seed": seed, "nfe": nfe, "oracle": oracle}
    held = () if said is None else (VerdictRow(method, "edm", nfe, nfe, "psnr", Interval(0, 0, 0), said),)  # type: ignore[arg-type]
    return RunRow(fields, {"psnr": Interval(psnr, psnr - 1, psnr + 1)}, verdicts=held)


def cells(run_rows: list[RunRow], layout: TableLayout = BY_NFE) -> dict[str, SweepCell]:
    return {cell.fields["method"]: cell for cell in aggregate(run_rows, layout, "psnr")}


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=9), st.floats(-20, 20))
def test_mean_and_interval_over_seeds(values: list[float], shift: float) -> None:
    """scipy has the interval, and its paired test the verdict."""
    rival = [value + shift + 0.3 * (-1) ** seed * seed for seed, value in enumerate(values)]
    found = cells(
        [run_row("oss", seed, v) for seed, v in enumerate(values)]
        + [run_row("edm", seed, v) for seed, v in enumerate(rival)]
    )
    oss = found["oss"]
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values) or 1e-300)
    assert oss.runs == len(values)
    assert oss.interval.value == pytest.approx(np.mean(values), abs=1e-9)
    assert (oss.interval.low, oss.interval.high) == pytest.approx((low, high), rel=2e-3, abs=1e-6)
    p = stats.ttest_rel(values, rival).pvalue
    if abs(p - 0.05) > 1e-3:
        direction = "better" if np.mean(values) > np.mean(rival) else "worse"
        assert oss.verdict == (direction if p < 0.05 else "no better")
    assert found["edm"].verdict is None


def test_by_hand() -> None:
    """Of differences 1, 2 and 3 the mean is 2, the standard deviation 1, t = 4.303: 2 +- 2.484 covers 0."""
    edm = [run_row("edm", seed, 20.0) for seed in range(3)]
    for differences, said in (((1, 2, 3), "no better"), ((1, 1.1, 1.2), "better"), ((-1, -1.1, -1.2), "worse")):
        found = cells([*edm, *(run_row("oss", seed, 20.0 + d) for seed, d in enumerate(differences))])
        assert found["oss"].verdict == said
    interval = cells([*edm, *(run_row("oss", seed, 20.0 + seed) for seed in range(3))])["oss"].interval
    assert (interval.value, interval.high) == (pytest.approx(21.0), pytest.approx(21 + 4.30265 / 3**0.5, rel=1e-3))


def test_a_single_run_keeps_its_interval_and_the_verdict_it_holds() -> None:
    found = cells([run_row("oss", 0, 21, said="better"), run_row("edm", 0, 20), run_row("logsnr", 0, 19)])
    assert found["oss"].interval == Interval(21, 20, 22)
    assert (found["oss"].verdict, found["logsnr"].verdict) == ("better", None)
    # the main method as the baseline: the verdict is turned round
    turned = TableLayout(("method",), "nfe", ("psnr",), ("seed",), "oss")
    found = cells([run_row("oss", 0, 21, said="better"), run_row("edm", 0, 20)], turned)
    assert (found["oss"].verdict, found["edm"].verdict) == (None, "worse")


@given(st.lists(st.sampled_from(["better", "worse", "no better", None]), min_size=1, max_size=2), st.booleans())
def test_few_runs_have_no_interval_and_the_verdict_that_all_of_them_hold(said: list[str | None], held: bool) -> None:
    """Whichever of the two was the main method."""
    turned = {"better": "worse", "worse": "better"}
    run_rows = []
    for seed, word in enumerate(said):
        middle = {"better": 1.0, "worse": -1.0, "no better": 0.0, None: 0.0}[word]
        difference = Interval(middle + seed, middle - 0.5, middle + 1.5 + seed)
        names, known = ("oss", "edm"), word
        if held:
            names, known = ("edm", "oss"), turned.get(str(word), word)
            difference = -difference
        verdicts = () if word is None else (VerdictRow(*names, 5, 5, "psnr", difference, known),)  # type: ignore[arg-type]
        for method, psnr in (("oss", 21.0), ("edm", 20.0)):
            row = run_row(method, seed, psnr + seed)
            run_rows.append(replace(row, verdicts=verdicts if method == names[0] else ()))
    found = cells(run_rows)["oss"]
    if len(said) == 2:
        assert found.interval.value == 21.5
        assert math.isnan(found.interval.low)
        assert math.isnan(found.interval.high)
    expected = None if None in said else said[0] if len(set(said)) == 1 else "no better"
    assert found.verdict == expected
    oss, edm = ({(r.fields["seed"],): r for r in run_rows if r.fields["method"] == name} for name in ("oss", "edm"))
    comparison = compared(oss, edm, "psnr", True)
    assert (comparison and comparison.verdict) == expected
    if comparison:
        middles = [{"better": 1.0, "worse": -1.0, "no better": 0.0}[str(word)] for word in said]
        ends = [(m - 0.5, m + 1.5 + k) for k, m in enumerate(middles)]
        assert comparison.difference.value == np.mean([m + k for k, m in enumerate(middles)])
        assert comparison.difference.low == min(low for low, _ in ends)
        assert comparison.difference.high == max(high for _, high in ends)


def test_only_runs_of_the_same_seed_are_paired() -> None:
    found = cells(
        [run_row("oss", 0, 21), run_row("oss", 1, 22, said="better"), run_row("edm", 1, 20), run_row("edm", 2, 19)]
    )
    assert found["oss"].verdict is None
    assert found["oss"].runs == 2


def test_oracles_and_the_teacher_are_no_rivals() -> None:
    run_rows = [
        run_row("teacher", 0, 99),
        run_row("oracle", 0, 50, oracle=True),
        run_row("oss", 0, 21),
        run_row("edm", 0, 20),
    ]
    run_rows += [
        run_row(r.fields["method"], seed, r.intervals["psnr"].value + seed, oracle=r.fields["oracle"])
        for r in run_rows
        for seed in (1, 2)
    ]
    found = cells(run_rows)
    assert {name: cell.role for name, cell in found.items()} == {
        "teacher": "reference", "oss": "rival", "edm": "rival", "oracle": "oracle",
    }  # fmt: skip
    assert list(found)[-1] == "oracle"
    assert [name for name, cell in found.items() if cell.best] == ["oss"]
    assert [name for name, cell in found.items() if cell.verdict] == ["oss"]


def test_ties_as_shown_are_both_best_and_directions_count() -> None:
    assert sum(cell.best for cell in cells([run_row("oss", 0, 24.001), run_row("edm", 0, 24.002)]).values()) == 2
    for higher, best in ((True, "oss"), (False, "edm"), (None, None)):
        run_rows = [
            RunRow(r.fields, r.intervals, {"psnr": higher}) for r in (run_row("oss", 0, 2), run_row("edm", 0, 1))
        ]
        assert [name for name, cell in cells(run_rows).items() if cell.best] == ([best] if best else [])


def test_directions_are_those_of_the_judges() -> None:
    assert {name: number_format(name).higher_is_better for name in HIGHER_IS_BETTER} == HIGHER_IS_BETTER


def test_a_rival_measured_by_two_runs_is_one_result() -> None:
    same = [run_row("edm", 0, 20), run_row("edm", 0, 20 + 1e-9), run_row("oss", 0, 21)]
    assert cells(same)["edm"].runs == 1
    with pytest.raises(ValueError, match=r"two results for .*'edm'.*at seed = 0; add the field"):
        cells([run_row("edm", 0, 20), run_row("edm", 0, 21)])


def test_a_sweep(sweep: Path) -> None:
    run_rows = read_run_rows(sweep, sweep / "0")
    layout = choose_layout(run_rows)
    assert layout == TableLayout(("solver.name", "method"), "budget", ("psnr", "fid"), ("seed",), "edm")
    found = {tuple(cell.fields.values()): cell for cell in aggregate(run_rows, layout, "psnr")}
    oss, other = found["euler", "oss", 5], found["dpmpp_2m", "oss", 5]
    assert (oss.runs, other.runs) == (3, 1)
    rows = [json.loads((sweep / run / "metrics.json").read_text())["rows"][1] for run in "012"]
    assert {(row["method"], row["nfe"]) for row in rows} == {("oss", 5)}
    values = [row["figures"]["psnr"]["value"] for row in rows]
    assert oss.interval.value == pytest.approx(np.mean(values))
    assert (oss.verdict, oss.best, other.verdict, other.best) == ("better", True, "better", True)
    # 0.15 and -0.25 and 0.15 apart: a draw
    assert found["euler", "logsnr", 5].verdict == "no better"
    assert found["dpmpp_2m", "logsnr", 5].verdict is None
    edm = found["euler", "edm", 10]
    assert (oss.nfe, oss.search_nfe, edm.search_nfe) == (5, 4950, 0)
    assert (oss.search_evaluations, oss.network_seconds) == (32 * 4950, 360)
    assert (edm.search_evaluations, edm.network_seconds) == (0, 0)


def test_the_cost_of_older_runs(write_run: Callable[..., Path], tmp_path: Path) -> None:
    """They do not write it: it follows from the samples that their config says, and is not known without."""
    for name, edit in (("new", False), ("old", True), ("older", True)):
        run = write_run(tmp_path / name)
        metrics = json.loads((run / "metrics.json").read_text())
        if edit:
            del metrics["evaluations_per_second"]
            for row in metrics["rows"]:
                row.pop("search_evaluations", None)
            (run / "metrics.json").write_text(json.dumps(metrics))
        if name == "old":
            config = json.loads((run / ".hydra" / "config.yaml").read_text())
            (run / ".hydra" / "config.yaml").write_text(json.dumps({**config, "search": {"samples": 16}}))
    costs = {
        (row.run.name, row.fields["method"]): (row.search_evaluations, row.network_seconds)
        for row in read_run_rows(tmp_path)
    }
    assert costs["new", "oss"] == (32 * 4950, 360)
    assert costs["old", "oss"] == (16 * 4950, None)
    assert costs["older", "oss"] == (None, None)
    assert {costs[run, "edm"] for run in ("old", "older")} == {(0, None)}
    run_rows = read_run_rows(tmp_path / "new", tmp_path / "older")
    (oss, *_) = aggregate(run_rows, choose_layout(run_rows), "psnr")
    assert (oss.search_evaluations, oss.network_seconds) == (32 * 4950, 360)  # the two results are one


def test_errors_name_what_is_wrong(sweep: Path, tmp_path: Path, write_run) -> None:
    run_rows = read_run_rows(sweep)
    for options, message in (
        ({"rows": ["nonsense"]}, r"no field 'nonsense'; it has .*solver\.name"),
        ({"column": "nonsense"}, "no field 'nonsense'"),
        ({"over": ["nonsense"]}, "no field 'nonsense'"),
        ({"figures": ["lpips"]}, "no row has the figure 'lpips'; there are fid, psnr"),
        (
            {"baseline": "cosine"},
            "no run has the method 'cosine' to be the baseline; its rivals are oss, edm, logsnr, ays",
        ),
        ({"baseline": "teacher"}, "'teacher'"),
        ({"baseline": "oss_per_sample"}, "'oss_per_sample'"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_layout(run_rows, **options)
    apart = choose_layout(run_rows, rows=["method"], over=[])
    with pytest.raises(ValueError, match=r"two results for .*; add the field .*among .*seed"):
        aggregate(run_rows, apart, "psnr")
    with pytest.raises(FileNotFoundError, match=r"no run .* below"):
        read_run_rows(tmp_path)
    broken = write_run(tmp_path / "broken") / "metrics.json"
    broken.write_text("{")
    with pytest.raises(ValueError, match=r"broken.metrics\.json is not JSON"):
        read_run_rows(tmp_path)
    broken.write_text("[]")
    with pytest.raises(ValueError, match=r"metrics\.json has no rows and facts"):
        read_run_rows(tmp_path)


def test_the_fewest_fields_that_tell_runs_apart() -> None:
    def run(**fields: object) -> RunRow:
        return RunRow({"method": "oss", "nfe": 5, "seed": 0, **fields}, {})

    names = {"solver.order": 3, "solver.name": "deis", "test.samples": 8, "method.average": "mean"}
    assert telling_fields([run(**names), run(**{**names, "solver.name": "euler", "solver.order": None})]) == [
        "solver.name",
        "method",
    ]
    assert telling_fields([run(**names), run(**{**names, "solver.order": 2})]) == ["solver.order", "method"]
    assert telling_fields([run(**names), run(**{**names, "seed": 1})], ["seed"]) == ["method"]
    assert telling_fields([run(**names), run(**{**names, "method.average": "median"})]) == ["method"]


def test_numbers_stand_in_their_order_and_words_as_they_come() -> None:
    assert in_order([10, "b", 5.0, None, "a", 5, "b"]) == [5.0, 10, "b", None, "a"]
