import io
import json
from dataclasses import replace

import pytest
import torch
from made_up import QUALITY, all_verdicts, image_rows, some_schedule
from rich.console import Console

from optsteps.comparison import Row, VerdictRow
from optsteps.metrics.judges import Measurement
from optsteps.metrics.statistics import Interval
from optsteps.reporting.number_format import number_format
from optsteps.reporting.run.recommendation import recommendations
from optsteps.reporting.run.report import report_markdown
from optsteps.reporting.run.tables import markdown_table, terminal_table, verdict_sentences, verdict_table


def _row(method: str, psnr: float, steps: int = 5, nfe: float = 5, oracle: bool = False, **others: Measurement) -> Row:
    found = {"psnr": Measurement(Interval(psnr, psnr - 0.5, psnr + 0.5), True), **others}
    x, nothing, cost = torch.zeros(8 if oracle else 64, 2), (0.0, None, None), 316_800
    return Row(method, steps, nfe, some_schedule(), x, found, oracle, 4950.0, *nothing, cost)


def _lines(table: str) -> list[str]:
    return [line for line in table.splitlines() if line.startswith("|")]


def test_a_small_table_letter_by_letter() -> None:
    rows = [
        _row("oss_per_sample", 30, oracle=True),
        _row("oss", 24, kid=Measurement(Interval(-2e-6, -0.001, 0.00123), False)),
        _row("edm", 22.706, accuracy=Measurement(Interval(0.973, 0.95, 1.0), True)),
        Row(
            "teacher", 100, 200, some_schedule(), torch.zeros(64, 2), {"accuracy": Measurement(Interval(1, 1, 1), True)}
        ),
    ]
    assert _lines(markdown_table(rows)) == [
        "| method | steps | NFE | PSNR dB ↑ | accuracy % ↑ | KID x 1000 ↓ | search NFE | search total |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: |",
        "| teacher | 100 | 200 | - | 100.0 [100.0, 100.0] | - | - | - |",
        "| oss | 5 | 5 | **24.00** [23.50, 24.50] | - | 0.00 [-1.00, 1.23] | 4,950 | 316,800 |",
        "| edm | 5 | 5 | 22.71 [22.21, 23.21] | 97.3 [95.0, 100.0] | - | 4,950 | 316,800 |",
        "| oss_per_sample (oracle, n=8) | 5 | 5 | 30.00 [29.50, 30.50] | - | - | - | - |",
    ]
    assert "searched for the very sample it is judged on" in markdown_table(rows)
    assert "searched for the very sample" not in markdown_table(rows[1:])
    assert "guidance included" in markdown_table(rows)


def test_a_total_has_the_network_s_time_at_the_measured_rate() -> None:
    rows = [_row("oss", 24.0), replace(_row("edm", 23.0), search_nfe=0.0, search_evaluations=0)]
    oss, edm = _lines(markdown_table(rows, rate=442.0))[2:]
    assert oss.endswith(" | 4,950 | 316,800 (12 min) |")
    assert edm.endswith(" | 0 | 0 |")
    assert "at the 440 evaluations per second that the run measured" in markdown_table(rows, rate=442.0)
    assert "per second" not in markdown_table(rows)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal_table(rows, rate=442.0))
    stacked = [line.split()[-1] for line in console.export_text().splitlines()[4:7]]
    assert "4,950" in stacked[0]
    assert stacked[1:] == ["316,800", "min)"]


def test_the_report_shows_what_searches_decided() -> None:
    said = {"oss": ["16 samples gain <b>+0.2 dB</b>", "32 are\nno better"], "a|b": ["done"]}
    report = report_markdown("x", image_rows(), [], {}, {}, said)
    part = report[report.index("## What the searches decided") : report.index("## How to read this")]
    assert part.split("\n\n")[1:5] == [
        "oss:",
        "- 16 samples gain \\<b>+0.2 dB\\</b>\n- 32 are no better",
        "a\\|b:",
        "- done",
    ]
    assert "decided" not in report_markdown("x", image_rows(), [], {}, {})


def test_the_best_of_rivals_at_equal_steps_and_nfe_is_bold() -> None:
    bold = [line for line in _lines(markdown_table(image_rows())) if "**" in line]
    assert [line.split(" | ")[0] for line in bold if "**" in line.split(" | ")[3]] == ["| oss", "| oss"]
    alone = [_row("oss", 20, nfe=9), _row("edm", 21, nfe=10), _row("teacher", 90, nfe=9)]
    assert "**" not in markdown_table(alone)
    tied = [_row("oss", 24.001), _row("edm", 24.002), _row("logsnr", 23.0)]
    assert markdown_table(tied).count("**24.00**") == 2
    lower = [
        _row("oss", 1, mse=Measurement(Interval(2.0, 1, 3), False)),
        _row("edm", 1, mse=Measurement(Interval(3.0, 1, 3), False)),
    ]
    assert "**2.00**" in markdown_table(lower)
    undirected = [
        _row("oss", 1, nll=Measurement(Interval(2.0, 1, 3), None)),
        _row("edm", 0, nll=Measurement(Interval(3, 1, 3), None)),
    ]
    assert "| NLL nats |" in markdown_table(undirected)
    assert "**2.000**" not in markdown_table(undirected)


def test_groups_follow_the_step_count_with_oracles_last() -> None:
    rows = image_rows()
    methods = [line.split(" | ")[:2] for line in _lines(markdown_table(rows[::-1]))[2:]]
    rivals = [f"| {name}" for name in reversed(QUALITY)]
    group = [*rivals, "| oss_per_sample (oracle, n=16)"]
    assert methods == [["| teacher", "100"], *([m, "5"] for m in group), *([m, "10"] for m in group)]


def test_the_terminal_shows_the_same_numbers_in_80_columns() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal_table(image_rows()))
    shown = console.export_text()
    cells = [cell.replace("**", "") for line in _lines(markdown_table(image_rows()))[2:] for cell in line.split(" | ")]
    values = [cell.split(" [") for cell in cells[3::9] + cells[5::9] if "[" in cell]
    assert len(values) == 10 + 11
    for value, interval in values:
        assert value in shown
        assert f"[{interval}" in shown
    assert "(oracle, n=16)" in shown
    assert "MSE" not in shown


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("psnr", 21.305, "21.30"),
        ("psnr", -0.001, "0.00"),
        ("psnr", float("inf"), "inf"),
        ("mse", 0.01234, "0.0123"),
        ("mse", 123.4, "123"),
        ("mse", 3.2e-6, "3.20e-06"),
        ("accuracy", 0.9765, "97.7"),
        ("lpips", 0.5, "0.500"),
        ("kid", 12345678.9, "1.2e+10"),
        ("second_kid", 0.01234, "12.34"),
    ],
)
def test_digits(name: str, value: float, written: str) -> None:
    assert number_format(name).number(value) == written


def test_a_second_judge_has_the_format_of_the_first_and_a_label_of_its_own() -> None:
    first, second = number_format("accuracy"), number_format("second_accuracy")
    assert (second.label, second.amount) == ("second accuracy", "points of accuracy of the second judge")
    assert (second.unit, second.scale, second.digits) == (first.unit, first.scale, first.digits)
    assert second.higher_is_better is first.higher_is_better is True


def _verdict(rival: str, value: float, low: float, high: float, said: str, figure: str = "psnr") -> VerdictRow:
    return VerdictRow("oss", rival, 5, 5, figure, Interval(value, low, high), said)  # type: ignore[arg-type]


def test_verdicts_in_a_sentence() -> None:
    better, draw = _verdict("edm", 1.31, 1.2, 1.42, "better"), _verdict("logsnr", 0.1, -0.1, 0.3, "no better")
    said = "At 5 NFE oss is better than edm by 1.31 dB PSNR [1.20, 1.42] and no better than logsnr in PSNR."
    assert verdict_sentences([draw, better]) == [said]
    worse = _verdict("beta", -0.02, -0.03, -0.01, "worse", "accuracy")
    assert verdict_sentences([worse]) == ["At 5 NFE oss is worse than beta by 2.0 points of accuracy [1.0, 3.0]."]
    less = _verdict("edm", -0.004, -0.005, -0.003, "better", "mse")
    others = [_verdict(name, 0, -1, 1, "no better", "mse") for name in ("a", "b", "c")]
    expected = "At 5 NFE oss is better than edm by 0.00400 MSE [0.00300, 0.00500] and no better than a, b or c in MSE."
    assert verdict_sentences([less, *others]) == [expected]
    heun = VerdictRow("oss", "edm", 5, 9, "psnr", Interval(0, -1, 1), "no better")
    assert verdict_sentences([heun]) == ["At 9 NFE (5 steps) oss is no better than edm in PSNR."]


def test_verdicts_as_a_table() -> None:
    worse = [_verdict("edm", -1.31, -1.42, -1.2, "worse")]
    assert _lines(verdict_table(worse))[2] == "| oss | edm | 5 | 5 | PSNR dB | -1.31 [-1.42, -1.20] | worse |"
    assert verdict_sentences(worse) == ["At 5 NFE oss is worse than edm by 1.31 dB PSNR [1.20, 1.42]."]
    assert "no verdict" in report_markdown("alone", [_row("oss", 24.0)], [], {}, {})


def test_the_report_says_first_what_was_found() -> None:
    rows = image_rows()
    facts = {"PSNR data range": "2", "command": "optsteps\nmethod=oss"}
    text = report_markdown("mnist: oss", rows, all_verdicts(rows), facts, {"Schedules": "schedules.png"})
    first, second, *_ = text.split("\n\n")
    assert first == "# mnist: oss"
    assert second == f"**{recommendations(rows, all_verdicts(rows))[0]}**"
    sentences = "\n\n".join(verdict_sentences(all_verdicts(rows)))
    for said in (
        f"## Verdicts\n\n{sentences}\n\n| method",
        "data range 2,",
        "![Schedules](schedules.png)",
        "- **command**: optsteps method=oss\n",
        "64 samples",
    ):
        assert said in text
    assert "FID falls" not in text
    assert "no verdict" in report_markdown("x", rows, [], {}, {})
    assert json.loads(json.dumps(text)) == text


@pytest.mark.parametrize("name", ["own", "published"])
def test_rows_that_no_search_made_are_explained_where_they_stand(name: str) -> None:
    rows = [replace(row, method=name) if row.method == "logsnr" else row for row in image_rows()]
    assert f"{name}: the " in markdown_table(rows)
    assert f"{name}: the " in str(terminal_table(rows).caption)
    assert f"{name}: the " not in markdown_table(image_rows())
    without = [row for row in rows if not row.oracle]
    assert "Oracle" in markdown_table(rows)
    assert "Oracle" not in markdown_table(without)


def test_weights_and_told_times_have_a_table() -> None:
    plain = _row("edm", 22.0, steps=2)
    weighted = replace(
        _row("learned", 25.0, steps=2), schedule=replace(some_schedule(), weights=[[0.0, 0.0], [-0.123456, 0.0]])
    )
    told = replace(_row("told", 24.0, steps=2), schedule=replace(some_schedule(), told_times=[79.25, 1.03125]))
    slope = replace(_row("slope", 23.0, steps=2), schedule=replace(told.schedule, told_as="slope"))
    text = report_markdown("x", [plain, weighted, told, slope], [], {}, {})
    table = text.split("## Weights and told times")[1].split("##")[0]
    assert _lines(table) == [
        "| method | steps | step | time | told time | weight 1 | weight 2 |",
        "| :-- | --: | --: | --: | --: | --: | --: |",
        "| learned | 2 | 1 | 80 | - | - | - |",
        "| learned | 2 | 2 | 1 | - | -0.1235 | - |",
        "| told | 2 | 1 | 80 | 79.25 | - | - |",
        "| told | 2 | 2 | 1 | 1.03125 | - | - |",
        "| slope | 2 | 1 | 80 | 79.25, slope | - | - |",
        "| slope | 2 | 2 | 1 | 1.03125, slope | - | - |",
    ]
    assert "take the place of the solver's own" in text
    assert "what the network is called with" in text
    for rows, absent in (([plain], "told"), ([plain, told], "take the place"), ([plain, weighted], "is called with")):
        assert absent not in report_markdown("x", rows, [], {}, {})
