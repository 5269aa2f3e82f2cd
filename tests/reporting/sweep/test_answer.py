"""The sentence that a reader wants: which method is best where, by how much, how sure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optsteps.comparison import VerdictRow
from optsteps.metrics import Interval
from optsteps.reporting.sweep.answer import Answer, Leader, answers, leaders_of
from optsteps.reporting.sweep.run_rows import RunRow, read_run_rows
from optsteps.reporting.sweep.table_layout import TableLayout, choose_layout

LAYOUT = TableLayout(("method",), "budget", ("psnr",), ("seed",), "edm")


def row(method: str, seed: int, psnr: float, nfe: int = 5, held: dict[str, float] | None = None, **more: Any) -> RunRow:
    """A row whose run says how far its method is ahead of others, each give or take 1."""
    verdicts = tuple(
        VerdictRow(
            method,
            rival,
            nfe,
            nfe,
            "psnr",
            Interval(gap, gap - 1, gap + 1),
            "better" if gap > 1 else "worse" if gap < -1 else "no better",
        )
        for rival, gap in (held or {}).items()
    )
    fields = {"method": method, "seed": seed, "nfe": nfe, "budget": nfe, "steps": nfe, "oracle": False, **more}
    return RunRow(fields, {"psnr": Interval(psnr, psnr - 1, psnr + 1)}, verdicts=verdicts)


def answer(rows: list[RunRow], layout: TableLayout = LAYOUT) -> Answer:
    (found,) = answers(rows, layout)
    return found


def test_one_place_is_one_sentence() -> None:
    rows = [row("oss", 0, 24, held={"edm": 2, "logsnr": 3}), row("edm", 0, 22), row("logsnr", 0, 21)]
    assert answer(rows) == Answer(
        "5 NFE: oss is best in PSNR (24.00 dB): better than edm by 2.00 dB PSNR [1.00, 3.00] and better than logsnr.",
        "The 95 % interval of a single run is over its samples, and says nothing of another seed.",
        (),
    )


def test_what_cannot_be_told_apart_is_said() -> None:
    rows = [row("oss", 0, 24, held={"edm": 0.5, "logsnr": 3}), row("edm", 0, 23.5), row("logsnr", 0, 21)]
    rows += [row("oss", 0, 30, 10, {"edm": 4}), row("edm", 0, 26, 10), row("ays", 0, 25, 10)]
    found = answer(rows)
    assert found.headline == (
        "oss leads in PSNR at 5 and 10 NFE, better than logsnr by 3.00 dB PSNR [2.00, 4.00] and edm by 4.00 dB PSNR "
        "[3.00, 5.00], but cannot be told apart from edm and is not compared with ays."
    )
    assert "not to be told apart from edm ([-0.50, +1.50])" in found.places[0]
    assert "not compared with ays, as nothing pairs them" in found.places[1]


def test_what_follows_is_not_asked_of_the_runs() -> None:
    """oss is better than edm, and edm than logsnr, which is compared with edm alone."""
    rows = [row("oss", 0, 24, held={"edm": 2}), row("edm", 0, 22, held={"logsnr": 2}), row("logsnr", 0, 20)]
    assert "is best in PSNR (24.00 dB): better than edm by 2.00 dB PSNR [1.00, 3.00] and better than logsnr" in (
        answer(rows).headline
    )
    uncertain = [rows[0], replace(rows[1], verdicts=row("edm", 0, 22, held={"logsnr": 0.5}).verdicts), rows[2]]
    assert "not compared with logsnr" in answer(uncertain).headline


def test_many_places_are_counted() -> None:
    rows = []
    for nfe in range(5, 10):
        rows += [row("oss", 0, 20 + nfe, nfe, {"edm": 2 + nfe}), row("edm", 0, 18, nfe)]
    assert answer(rows).headline == (
        "oss is best in PSNR for all 5 values of NFE budget, better than the next by 7.00 to 11.00 dB PSNR, each "
        "interval clear of 0."
    )
    rows += [row("ays", 0, 40, 5, {"oss": 15, "edm": 22})]
    headline = answer(rows).headline
    assert headline.startswith(
        "oss is best in PSNR for 4 of 5 values of NFE budget, better than the next by 8.00 to 11.00"
    )
    assert "; ays is best in PSNR at 5 NFE, better than oss by 15.00 dB PSNR [14.00, 16.00]." in headline
    assert len(answer(rows).places) == 5


def test_groups_are_named_and_seeds_counted(sweep: Path) -> None:
    run_rows = read_run_rows(sweep)
    found = answer(run_rows, choose_layout(run_rows, figures=["psnr"]))
    assert found.headline.startswith("oss is best in PSNR for all 4 combinations of solver and NFE budget, better than")
    assert "5 NFE (euler)" in found.places[0]
    assert "paired differences over 3 runs that differ in seed" in found.surety
    assert "a single run" in found.surety
    assert "2 runs" not in found.surety


def test_where_there_is_no_answer() -> None:
    assert answers([row("oss", 0, 24), row("oss", 1, 25)], LAYOUT) == []
    rows = [row("oss", 0, 24), row("edm", 0, 23)]
    assert answers(rows, replace(LAYOUT, rows=("seed",), column="steps")) == []
    undirected = [replace(r, higher_is_better={"psnr": None}) for r in rows]
    assert answers(undirected, LAYOUT) == []
    assert answer(rows).surety == "How sure that is cannot be told: nothing pairs the methods."


def test_each_figure_that_runs_judge_by_has_an_answer() -> None:
    def both(r: RunRow) -> RunRow:
        fid = tuple(replace(v, figure="fid", difference=Interval(0, -1, 1), verdict="no better") for v in r.verdicts)
        intervals = {**r.intervals, "fid": Interval(5, 4, 6), "recall": Interval(0.5, 0.4, 0.6)}
        return replace(r, intervals=intervals, verdicts=(*r.verdicts, *fid))

    rows = [both(row("oss", 0, 24, held={"edm": 2})), both(row("edm", 0, 22))]
    found = answers(rows, replace(LAYOUT, figures=("recall", "psnr", "fid")))
    assert ["PSNR" in found[0].headline, "FID" in found[1].headline] == [True, True]
    assert "cannot be told apart" in found[1].headline or "not to be told apart" in found[1].headline
    assert len(found) == 2


METHODS = ("oss", "ays", "edm", "logsnr")
values = st.floats(-40, 40).map(lambda value: round(value, 3))


@given(
    st.dictionaries(st.sampled_from(METHODS), st.lists(values, min_size=4, max_size=4), min_size=2),
    st.integers(1, 4),
    st.dictionaries(st.tuples(st.sampled_from(METHODS), st.sampled_from(METHODS)), values, max_size=6),
    st.sampled_from([True, False]),
)
def test_every_rival_has_one_standing(
    psnr: dict[str, list[float]], seeds: int, held: dict[tuple[str, str], float], higher: bool
) -> None:
    """Nothing that has the better estimate is beaten, and "is best" is said only of what is better than all others."""
    rows = []
    for method, per_seed in psnr.items():
        gaps = {rival: gap if higher else -gap for (name, rival), gap in held.items() if name == method != rival}
        for seed, value in enumerate(per_seed[:seeds]):
            rows.append(replace(row(method, seed, value, held=gaps), higher_is_better={"psnr": higher}))
    (leader,) = leaders_of(rows, LAYOUT, "psnr")
    assert isinstance(leader, Leader)
    first = leader.cell.fields["method"]
    standing = [*leader.ahead, *leader.even, *leader.unknown]
    assert sorted([first, *standing]) == sorted(psnr)
    means = {method: sum(per_seed[:seeds]) / seeds for method, per_seed in psnr.items()}
    assert means[first] == pytest.approx((max if higher else min)(means.values()))
    if seeds >= 3:
        assert not leader.unknown
        for comparison in leader.ahead.values():
            assert comparison is not None
            assert 0 not in comparison.difference
    assert leader.best == (len(leader.ahead) == len(psnr) - 1)
    sentence = answer(rows).headline
    assert (f"{first} is best" in sentence) == leader.best
    assert all(name in sentence for name in standing)
