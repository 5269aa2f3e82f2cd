"""The answer of a run: whose schedule to use, from the figures of its rows and the verdicts on them."""

from dataclasses import replace

import torch

from optsteps.comparison import Row, verdicts
from optsteps.metrics.base import Measurement
from optsteps.metrics.judges import sample_wise
from optsteps.metrics.statistics import Interval
from optsteps.processes import EDM
from optsteps.reporting.run.recommendation import recommendations
from optsteps.reporting.run.report import report_markdown
from optsteps.reporting.run.summary import run_summary
from optsteps.schedules import Schedule

SCATTER = torch.linspace(-1, 1, 64, dtype=torch.float64)


def row(method: str, psnr: float, steps: int = 5, nfe: float = 5, doubt: float = 0.0, oracle: bool = False) -> Row:
    """A row whose samples scatter about a PSNR, and about each other by as much as the doubt."""
    decibels = psnr + SCATTER + doubt * SCATTER.roll(7)
    figures = {"mse": sample_wise(10 ** (-decibels / 10), False), "psnr": sample_wise(decibels, True)}
    return Row(method, steps, nfe, None, torch.zeros(64, 2), figures, oracle)


def said(rows: list[Row], figure: str = "psnr") -> list[str]:
    return recommendations(rows, verdicts(rows, "mine", figure))


def test_better_than_the_best_rival() -> None:
    rows = [row("mine", 24.0), row("edm", 20.0), row("curvature", 23.5), row("bound", 30.0, oracle=True)]
    rows += [row("other", 29.0, 6, 6)]
    expected = (
        "With 5 evaluations per sample use mine's schedule: it is better than the best other (curvature) by 0.50 dB"
    )
    assert said(rows) == [f"{expected} PSNR [0.50, 0.50]."]
    assert said(rows[:2]) == [
        "With 5 evaluations per sample use mine's schedule: it is better than edm's by 4.00 dB PSNR [4.00, 4.00]."
    ]


def test_no_better_than_the_best_rival() -> None:
    """Whoever else it is better than."""
    (sentence,) = said([row("mine", 24.01), row("edm", 20.0), row("curvature", 24.0, doubt=1.0)])
    start = "With 5 evaluations per sample use curvature's schedule: mine's is no better (+0.01 dB PSNR [-0."
    assert sentence.startswith(start)
    assert sentence.endswith("])."), sentence


def test_a_draw_with_a_dearer_search_is_no_reason_against_it() -> None:
    mine = replace(row("mine", 24.0), search_evaluations=100)
    dearer = replace(row("dearer", 24.01, doubt=1.0), search_evaluations=101)
    as_dear = replace(dearer, method="as_dear", search_evaluations=100)
    edm = row("edm", 20.0)
    start = "With 5 evaluations per sample use mine's schedule: "
    assert said([mine, dearer, edm]) == [
        f"{start}it is better than edm's by 4.00 dB PSNR [4.00, 4.00]; dearer with a dearer search cannot be told from "
        "it."
    ]
    assert said([mine, dearer]) == [f"{start}dearer's takes a dearer search and cannot be told from it."]
    assert said([mine, as_dear, edm])[0].startswith("With 5 evaluations per sample use as_dear's schedule")
    # neither is it one for it: a formula that is as good stays the better choice
    formula = replace(
        row("edm", 24.0, doubt=1.0), schedule=Schedule([3.0, 1.0, 0.0], EDM(), metadata={"family": "edm"})
    )
    assert said([mine, dearer, formula])[0].startswith("With 5 evaluations per sample use edm's schedule: mine's is no")
    # what is better is better at any price
    better = replace(row("dearer", 25.0), search_evaluations=101)
    assert said([mine, better, edm])[0].startswith(
        "With 5 evaluations per sample use dearer's schedule: mine's is worse"
    )


def test_a_rival_with_the_same_schedule_is_named_beside_it() -> None:
    own, other = Schedule([3.0, 1.0, 0.0], EDM()), Schedule([3.0, 2.0, 0.0], EDM())
    rows = [replace(row("mine", 24.0), schedule=own), replace(row("path", 24.0), schedule=own)]
    rows += [replace(row("edm", 20.0), schedule=other)]
    assert said(rows) == [
        "With 5 evaluations per sample use mine's schedule, which is path's: it is better than edm's by 4.00 dB PSNR "
        "[4.00, 4.00]."
    ]
    assert said(rows[:2])[0].startswith("With 5 evaluations per sample use path's schedule: mine's is no better")
    of_euler = replace(row("path", 24.01, doubt=1.0), schedule=own, solver="euler")
    of_heun = [replace(rows[0], solver="heun"), of_euler, rows[2]]
    assert "use path's schedule with euler: mine's is no better" in said(of_heun)[0]


def test_a_difference_that_does_not_show_is_none() -> None:
    rows = [row("mine", 24.0), row("edm", 20.0), row("parallel", 24.001)]
    assert said(rows) == [
        "With 5 evaluations per sample use mine's schedule, as good as parallel's schedule: it is better than edm's by "
        "4.00 dB PSNR [4.00, 4.00]."
    ]
    assert said([rows[0], row("parallel", 24.006), rows[1]])[0].startswith(
        "With 5 evaluations per sample use parallel's schedule: mine's is worse by 0.01 dB PSNR"
    )
    no_better = "use parallel's schedule: mine's is no better ("
    assert no_better in said([rows[0], rows[2]])[0]
    assert no_better in said([row("mine", 24.002), rows[2]])[0]
    formula = Schedule([3.0, 1.0, 0.0], EDM(), metadata={"family": "edm"})
    with_formula = [rows[0], replace(row("edm", 24.001), schedule=formula), row("other", 20.0)]
    assert "use edm's schedule: mine's is no better (" in said(with_formula)[0]


def test_a_formula_with_the_same_schedule_is_named_before_others_that_are_no_worse() -> None:
    formula = Schedule([3.0, 1.0, 0.0], EDM(), metadata={"family": "flow_shift"})
    searched, other = replace(formula, metadata={}), Schedule([3.0, 2.0, 0.0], EDM())
    mine, shift = replace(row("mine", 24.01), schedule=searched), replace(row("shift", 24.01), schedule=formula)
    oss = replace(row("oss", 24.0, doubt=1.0), schedule=other)
    (sentence,) = said([mine, shift, oss])
    start = "With 5 evaluations per sample use shift's schedule, which is mine's: it is no better than the best other"
    assert sentence.startswith(f"{start} (oss), +0.01 dB PSNR [-0."), sentence
    assert sentence.endswith("], and needs no search."), sentence
    # one that is worse than another is not named, nor is a search for one that is no better
    assert (
        "use oss's schedule: mine's is worse"
        in said([mine, shift, replace(oss, measurements=row("oss", 25.0).measurements)])[0]
    )
    assert "use oss's schedule: mine's is no better" in said([mine, replace(shift, schedule=searched), oss])[0]


def test_worse_than_the_best_rival() -> None:
    rows = [row("mine", 23.75), row("path", 23.875), row("curvature", 24.0)]
    assert said(rows) == [
        "With 5 evaluations per sample use curvature's schedule: mine's is worse by 0.25 dB PSNR [0.25, 0.25]."
    ]


def test_less_is_better_where_the_figure_says_so() -> None:
    """And the first figure of the verdicts decides."""
    rows = [row("mine", 23.0), row("edm", 20.0), row("curvature", 22.0)]
    both = [v for figure in ("mse", "psnr") for v in verdicts(rows, "mine", figure)]
    (sentence,) = recommendations(rows, both)
    assert "use mine's schedule: it is better than the best other (curvature) by 0.00" in sentence
    assert "MSE" in sentence


def with_accuracy(one: Row, share: float, family: str | None = None) -> Row:
    """The row with an accuracy, and a schedule of that family."""
    schedule = Schedule(torch.tensor([2.0, 1.0]), EDM(), metadata={} if family is None else {"family": family})
    right = (torch.arange(64) < 64 * share).double()
    return replace(one, schedule=schedule, measurements={**one.measurements, "accuracy": sample_wise(right, True)})


def test_what_was_bought_with_another_figure_is_said() -> None:
    """Against the best hand-made schedule, whoever else is better."""
    mine, edm = with_accuracy(row("mine", 24.0), 0.5), with_accuracy(row("edm", 22.0), 0.75, "edm")
    worse_edm, oss = with_accuracy(row("cosine", 20.0), 0.9, "cosine"), with_accuracy(row("oss", 23.0), 0.5)
    (sentence,) = said([mine, worse_edm, edm, oss])
    assert "it is better than the best other (oss) by 1.00 dB PSNR" in sentence
    assert ", but worse than edm's by 25.0 points of accuracy [" in sentence
    # no more than chance, and the same figure
    (sentence,) = said([mine, with_accuracy(row("edm", 22.0), 0.5, "edm"), oss])
    assert "but worse" not in sentence
    # who is not named needs no excuse
    (sentence,) = said([with_accuracy(row("mine", 21.0), 0.5), edm])
    assert "but worse" not in sentence
    # the mean squared error says the same as PSNR
    teacher = {name: replace(m, compares_with_teacher=True) for name, m in row("edm", 22.0).measurements.items()}
    ours = replace(mine, measurements={**mine.measurements, "psnr": row("mine", 24.0).measurements["psnr"]})
    near = replace(ours, measurements={**ours.measurements, "mse": replace(teacher["mse"], higher_is_better=True)})
    assert "MSE" not in said([near, edm])[0]


def test_every_step_count_has_its_sentence() -> None:
    rows = [row("mine", 24.0), row("edm", 20.0), row("mine", 24.0, 5, 9), row("edm", 25.0, 9, 9)]
    first, second = said(rows)
    assert first.startswith("With 5 evaluations per sample use mine's")
    assert second.startswith("With 9 evaluations per sample (5 steps) use edm's")
    assert said(rows[:1]) == []


def test_a_rival_that_is_no_number_is_not_the_best() -> None:
    failed = row("failed", 20.0)
    failed.measurements["psnr"] = Measurement(Interval(*[float("nan")] * 3), True, failed.measurements["psnr"].values)
    (sentence,) = said([row("mine", 24.0), failed, row("edm", 20.0)])
    assert "(edm)" in sentence


def test_it_is_said_first() -> None:
    rows = [row("mine", 24.0), row("edm", 20.0)]
    judged = verdicts(rows, "mine", "psnr")
    (sentence,) = recommendations(rows, judged)
    assert report_markdown("x", rows, judged, {}, {}).split("\n\n")[1] == f"**{sentence}**"
    assert " ".join(run_summary(rows, judged, []).split()).startswith(sentence)
